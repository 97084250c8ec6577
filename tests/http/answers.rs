//! What becomes of a service's answer.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use ringway::http::BoxError;
use ringway::proto::RecordType;
use ringway::{Body, Driver};
use tokio::sync::mpsc;
use tower::service_fn;

use crate::peer::Ask;
use crate::server::{Serve, Served, each_driver};

each_driver! {
    a_small_body_goes_out_with_its_head,
    a_large_body_has_its_length_and_is_not_copied_together,
    answers_without_a_body,
    an_answer_to_head_has_no_body,
    a_stream_is_flushed_while_it_waits,
    trailers_are_dropped,
    a_length_that_is_wrong_is_a_500,
    a_length_that_turns_out_wrong_ends_the_answer_visibly_incomplete,
    a_body_that_fails_ends_the_answer_visibly_incomplete,
    a_body_that_fails_before_its_head_is_out_is_a_500,
    status_is_no_header,
}

type Any = UnsyncBoxBody<Bytes, BoxError>;

/// Serves an answer that is made for each request, whose path tells which.
fn serve<F>(driver: Driver, answer: F) -> Served
where
    F: Fn(&str) -> Response<Any> + Clone + Send + 'static,
{
    let service = service_fn(move |request: http::Request<Body>| {
        let answer = answer(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    Serve::new(driver).start(|server| server.service("/", service))
}

fn full(bytes: impl Into<Bytes>) -> Any {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Any {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn frames(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Any {
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn a_small_body_goes_out_with_its_head(driver: Driver) {
    let served = serve(driver, |_| {
        let response =
            Response::builder().status(201).header("Set-Cookie", "a=1").header("Set-Cookie", "b=2");
        response.body(full("made")).unwrap()
    });
    let answer = served.connect().get("/");
    assert_eq!(
        answer.stdout.escape_ascii().to_string(),
        "Status: 201 Created\\r\\nset-cookie: a=1\\r\\nset-cookie: b=2\\r\\nContent-Length: 4\\r\\n\\r\\nmade"
    );
    assert_eq!(answer.records.len(), 1);
}

fn a_large_body_has_its_length_and_is_not_copied_together(driver: Driver) {
    let served = serve(driver, |_| Response::new(full(vec![b'x'; 1_000_000])));
    let answer = served.connect().get("/");
    assert_eq!(answer.header("Content-Length").as_deref(), Some("1000000"));
    assert!(answer.body().iter().all(|byte| *byte == b'x') && answer.body().len() == 1_000_000);
    assert!(answer.records.len() <= 17, "{} records", answer.records.len());
}

fn answers_without_a_body(driver: Driver) {
    let served = serve(driver, |path| {
        let status: u16 = path[1..].parse().unwrap();
        let body = if status == 205 { empty() } else { full("not allowed") };
        Response::builder().status(status).body(body).unwrap()
    });
    let mut peer = served.connect();
    for status in [204, 304, 103] {
        let answer = peer.get(&format!("/{status}"));
        assert_eq!(
            (answer.status(), answer.body(), answer.header("Content-Length")),
            (status, &b""[..], None)
        );
    }
    assert_eq!(peer.get("/205").header("Content-Length").as_deref(), Some("0"));
}

fn an_answer_to_head_has_no_body(driver: Driver) {
    let served = serve(driver, |path| match path {
        "/full" => Response::new(full("four")),
        "/said" => Response::builder().header("Content-Length", "99").body(empty()).unwrap(),
        "/empty" => Response::new(empty()),
        _ => Response::new(frames(vec![data("never sent")])),
    });
    let mut peer = served.connect();
    for (path, length) in [("/full", Some("4")), ("/said", Some("99")), ("/empty", None), ("/stream", None)] {
        let answer = peer.fetch(&Ask::get(path).param("REQUEST_METHOD", "HEAD"));
        assert_eq!((answer.status(), answer.body()), (200, &b""[..]), "{path}");
        assert_eq!(answer.header("Content-Length").as_deref(), length, "{path}");
    }
}

fn a_stream_is_flushed_while_it_waits(driver: Driver) {
    let (sender, receiver) = mpsc::unbounded_channel::<&'static str>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let served = serve(driver, move |_| {
        let receiver = receiver.lock().unwrap().take().expect("one request");
        let events = stream::unfold(receiver, |mut receiver| async {
            let text = receiver.recv().await?;
            Some((data(text), receiver))
        });
        let response = Response::builder().header("Content-Type", "text/event-stream");
        response.body(StreamBody::new(events).boxed_unsync()).unwrap()
    });
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    // The head comes before there is any body.
    let head = "X-Accel-Buffering: no\r\ncontent-type: text/event-stream\r\n\r\n";
    peer.read_stdout(1, head.len());
    assert_eq!(peer.so_far(1).stdout, head.as_bytes());
    for (index, event) in ["data: 1\n\n", "data: 2\n\n"].into_iter().enumerate() {
        sender.send(event).unwrap();
        peer.read_stdout(1, head.len() + 9 * (index + 1));
        assert_eq!(peer.so_far(1).records.len(), index + 2, "a record for each event");
    }
    assert!(peer.is_silent_for(Duration::from_millis(50)));
    drop(sender);
    let answer = peer.answer(1);
    assert_eq!((answer.text(), answer.header("Content-Length")), ("data: 1\n\ndata: 2\n\n", None));
    assert!(answer.is_complete() && answer.app_status == 0);
}

fn trailers_are_dropped(driver: Driver) {
    let served = serve(driver, |_| {
        let trailers =
            http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        Response::new(frames(vec![data("body"), Ok(Frame::trailers(trailers))]))
    });
    let answer = served.connect().get("/");
    assert_eq!((answer.text(), answer.app_status), ("body", 0));
    assert!(answer.is_complete());
}

fn a_length_that_is_wrong_is_a_500(driver: Driver) {
    let served = serve(driver, |path| {
        Response::builder().header("Content-Length", &path[1..]).body(full("four")).unwrap()
    });
    let mut peer = served.connect();
    assert_eq!(peer.get("/4").text(), "four");
    for length in ["3", "5", "x", "-4", "18446744073709551616"] {
        let answer = peer.get(&format!("/{length}"));
        assert_eq!((answer.status(), answer.text()), (500, "Internal Server Error\n"), "{length}");
        assert!(answer.stderr_text().contains("Content-Length"), "{}", answer.stderr_text());
    }
}

fn a_length_that_turns_out_wrong_ends_the_answer_visibly_incomplete(driver: Driver) {
    let served = serve(driver, |path| {
        let body = frames(vec![data("one"), data("two"), data("three")]);
        Response::builder().header("Content-Length", &path[1..]).body(body).unwrap()
    });
    assert_eq!(served.connect().get("/11").text(), "onetwothree");
    for (length, sent) in [("12", "onetwothree"), ("10", "onetwo"), ("3", "one")] {
        let mut peer = served.connect();
        peer.ask(&Ask::get(&format!("/{length}")));
        let answer = peer.rest(1);
        assert_eq!((answer.text(), answer.is_complete()), (sent, false), "{length}");
        assert!(answer.stderr_text().contains("its Content-Length is"), "{}", answer.stderr_text());
    }
}

fn a_body_that_fails_ends_the_answer_visibly_incomplete(driver: Driver) {
    let served = serve(driver, |path| match path {
        "/waits" => Response::new(StreamBody::new(stream::pending()).boxed_unsync()),
        _ => Response::new(frames(vec![data("some"), Err("the disk is gone".into())])),
    });
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    let answer = peer.rest(1);
    assert_eq!((answer.text(), answer.is_complete()), ("some", false));
    assert_eq!(answer.stderr_text(), "the disk is gone\n");
    // Beside other requests the connection stays, and the app status says it.
    let mut peer = served.connect();
    peer.ask(&Ask::get("/waits").id(2));
    peer.ask(&Ask::get("/").id(1));
    let answer = peer.answer(1);
    assert_eq!((answer.app_status, answer.text()), (1, "some"));
}

fn a_body_that_fails_before_its_head_is_out_is_a_500(driver: Driver) {
    let served = serve(driver, |_| {
        let fails = stream::iter([Err::<Frame<Bytes>, BoxError>("no".into())]);
        let body = http_body_util::Limited::new(StreamBody::new(fails), 99);
        Response::new(Known(Box::pin(body)).boxed_unsync())
    });
    let answer = served.connect().get("/");
    assert_eq!((answer.status(), answer.stderr_text()), (500, "no\n"));
}

/// A body that claims to have four bytes.
struct Known<B>(std::pin::Pin<Box<B>>);

impl<B: http_body::Body> http_body::Body for Known<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(4)
    }
}

fn status_is_no_header(driver: Driver) {
    let served = serve(driver, |_| Response::builder().header("Status", "200").body(full("x")).unwrap());
    let answer = served.connect().get("/");
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR.as_u16());
    assert!(answer.stderr_text().contains("Status is no header"), "{}", answer.stderr_text());
    assert_eq!(answer.records.iter().filter(|(kind, _)| *kind == RecordType::Stderr).count(), 1);
}
