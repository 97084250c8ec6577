//! Request bodies: streamed, held back, read elsewhere, cut off.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use ringway::proto::RecordType;
use ringway::{Body, Driver, ReadError};
use tower::service_fn;

use crate::peer::{Ask, PATIENCE};
use crate::server::{Serve, each_driver, eventually};

each_driver! {
    a_body_is_echoed_while_it_comes,
    a_large_body_goes_through_in_both_directions,
    what_is_not_read_is_not_received,
    a_body_is_read_on_another_thread,
    a_body_that_outlives_its_request_is_gone,
    a_body_that_is_cut_off_fails,
    a_body_that_is_not_read_is_thrown_away,
    chunks_are_views_of_the_receive_buffer,
}

type Answer<B = Full<Bytes>> = Result<http::Response<B>, Infallible>;

fn answer(text: impl Into<Bytes>) -> http::Response<Full<Bytes>> {
    http::Response::new(Full::new(text.into()))
}

async fn echo(request: http::Request<Body>) -> Answer<Body> {
    Ok(http::Response::new(request.into_body()))
}

async fn collect(request: http::Request<Body>) -> Result<http::Response<Full<Bytes>>, ReadError> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(http::Response::new(Full::from(body.len().to_string())))
}

fn a_body_is_echoed_while_it_comes(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.service("/", service_fn(echo)));
    let mut peer = served.connect();
    // Of unknown length, so nothing is collected.
    peer.ask_head(&Ask::get("/").param("CONTENT_LENGTH", "-1"));
    let head = "Status: 200 OK\r\n\r\n".len();
    peer.read_stdout(1, head);
    for part in 1..=3 {
        peer.stdin(1, b"part");
        peer.read_stdout(1, head + 4 * part);
    }
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).text(), "partpartpart");
}

fn a_large_body_goes_through_in_both_directions(driver: Driver) {
    const BYTES: usize = 20_000_000;
    let served = Serve::new(driver).start(|server| server.service("/", service_fn(echo)));
    let mut peer = served.connect();
    let body: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let ask = Ask::post("/", body.clone());
    peer.expect(1);
    let mut sender = peer.sender();
    let sending = std::thread::spawn(move || sender.write_all(&ask.bytes()).unwrap());
    let answer = peer.answer(1);
    assert!(answer.body() == body);
    assert_eq!(answer.header("Content-Length").as_deref(), Some("20000000"));
    sending.join().unwrap();
}

/// Backpressure: the engine holds its window, the socket the rest.
fn what_is_not_read_is_not_received(driver: Driver) {
    let (go, wait) = (std::sync::Arc::new(tokio::sync::Notify::new()), PATIENCE);
    let slow = {
        let go = go.clone();
        service_fn(move |request: http::Request<Body>| {
            let go = go.clone();
            async move {
                tokio::time::timeout(wait, go.notified()).await.expect("the test lets it go");
                collect(request).await
            }
        })
    };
    let served = Serve::new(driver).start(|server| server.service("/", slow));
    let mut peer = served.connect();
    let ask = Ask::post("/", vec![b'x'; 10_000_000]);
    peer.expect(1);
    let mut sender = peer.sender();
    let (tell, told) = mpsc::channel();
    let sending = std::thread::spawn(move || {
        sender.write_all(&ask.bytes()).unwrap();
        tell.send(()).unwrap();
    });
    served.until("the window is full", |metrics| metrics.stdin_pauses > 0);
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "ten megabytes were taken");
    go.notify_one();
    assert_eq!(peer.answer(1).text(), "10000000");
    sending.join().unwrap();
}

fn a_body_is_read_on_another_thread(driver: Driver) {
    let elsewhere = service_fn(|request: http::Request<Body>| async {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let read = runtime.block_on(request.into_body().collect());
            sender.send(read.expect("a whole body").to_bytes()).expect("somebody waits");
        });
        let body = receiver.await.expect("the thread answers");
        Ok::<_, Infallible>(answer(body))
    });
    let served = Serve::new(driver).start(|server| server.service("/", elsewhere));
    let mut peer = served.connect();
    for length in [0, 1, 10_000, 3_000_000] {
        let body = vec![b'y'; length];
        let ask = Ask::post("/", body.clone());
        peer.expect(1);
        let mut sender = peer.sender();
        let sending = std::thread::spawn(move || sender.write_all(&ask.bytes()).unwrap());
        assert!(peer.answer(1).body() == body, "{length}");
        sending.join().unwrap();
    }
}

fn a_body_that_outlives_its_request_is_gone(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let keeps = service_fn(move |request: http::Request<Body>| {
        let tell = tell.clone();
        // A task of the worker, which goes on when the request is over.
        tokio::task::spawn_local(async move {
            tell.send(request.into_body().collect().await.map(|body| body.to_bytes())).unwrap();
        });
        async { Ok::<_, Infallible>(answer("answered")) }
    });
    let served = Serve::new(driver).start(|server| server.service("/", keeps));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/").param("CONTENT_LENGTH", "3"));
    assert_eq!(peer.answer(1).text(), "answered");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(ReadError::Gone));
}

/// Decision 7.
fn a_body_that_is_cut_off_fails(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.service("/", service_fn(collect)));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/").param("CONTENT_LENGTH", "10"));
    peer.stdin(1, b"short");
    peer.stdin_end(1);
    let answer = peer.answer(1);
    assert_eq!((answer.status(), answer.app_status), (400, 1));
    assert_eq!(answer.stderr_text(), "the body ended after 5 bytes, 10 were announced\n");
}

fn a_body_that_is_not_read_is_thrown_away(driver: Driver) {
    let ignores = service_fn(|_: http::Request<Body>| async { Ok::<_, Infallible>(answer("enough")) });
    let served = Serve::new(driver).start(|server| server.service("/", ignores));
    let mut peer = served.connect();
    for _ in 0..3 {
        assert_eq!(peer.fetch(&Ask::post("/", vec![0; 1_000_000])).text(), "enough");
    }
}

/// No copies: what comes in one record is one chunk, and its buffer is not another's while it is kept.
fn chunks_are_views_of_the_receive_buffer(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let keeps = service_fn(move |mut request: http::Request<Body>| {
        let tell = tell.clone();
        async move {
            while let Some(frame) = request.body_mut().frame().await {
                tell.send(frame?.into_data().expect("data")).expect("the test listens");
            }
            Ok::<_, ReadError>(answer("done"))
        }
    });
    let served = Serve::new(driver).start(|server| server.service("/", keeps));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/").param("CONTENT_LENGTH", "-1"));
    let mut kept: Vec<Bytes> = Vec::new();
    for number in 0..200u8 {
        peer.stdin(1, &[number; 1_000]);
        let mut length = 0;
        while length < 1_000 {
            kept.push(told.recv_timeout(PATIENCE).expect("a chunk"));
            length += kept[kept.len() - 1].len();
        }
    }
    peer.stream_end(RecordType::Stdin, 1);
    assert_eq!(peer.answer(1).text(), "done");
    let all: Vec<u8> = kept.concat();
    assert!(
        all.chunks(1_000)
            .enumerate()
            .all(|(number, chunk)| chunk.iter().all(|byte| *byte as usize == number))
    );
    eventually("the request is over", || served.metrics().requests_finished == 1);
}
