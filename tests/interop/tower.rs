//! An axum router behind nginx: events as they come, large uploads, answers that break off, paths below a mount.

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Multipart, OriginalUri};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use http::Uri;
use ringway::http::FastCgi;
use ringway::{Driver, Handle, Server};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::nginx::Nginx;
use crate::support::conf;
use crate::support::process::allows;
use crate::support::web::{Request, find};

const FILE_BYTES: usize = 100 << 20;

/// nginx before a router: with connections closed or kept, and as it is by default or with `--no-buffering`.
struct Stand {
    // Dropped from the top: the web server ends first.
    nginx: Nginx,
    _server: Handle,
    _folder: TempDir,
}

/// Runs `test` on each stand, with each driver.
fn on_each_stand(mount: &'static str, router: impl Fn() -> Router, test: impl Fn(&Stand)) {
    on_each_stand_with(&[], mount, router, test);
}

/// The same, with these options of `conf` besides.
fn on_each_stand_with(
    more: &[&str],
    mount: &'static str,
    router: impl Fn() -> Router,
    test: impl Fn(&Stand),
) {
    let drivers = [(Driver::Uring, "uring"), (Driver::Epoll, "epoll")];
    for (driver, _) in drivers.into_iter().filter(|(_, name)| find("nginx").is_some() && allows(name)) {
        for options in [&[][..], &["--keep-connections"], &["--no-buffering"]] {
            let folder = conf::folder();
            let socket = format!("unix:{}", folder.path().join("socket").display());
            let mut config = ringway::Config::default();
            config.socket_mode = 0o666;
            let server = Server::builder().config(config).listen(&socket).workers(2).driver(driver);
            let server = server.service(mount, router()).start().expect("the server starts");
            let arguments = [&["--listen", &socket, "--mount", mount], more, options].concat();
            let nginx = Nginx::start(&folder.path().join("nginx"), &arguments);
            test(&Stand { nginx, _server: server, _folder: folder });
        }
    }
}

impl Stand {
    fn send(&self, request: Request) -> crate::support::web::Answer {
        request.send(self.nginx.front("").address)
    }
}

#[test]
fn events_come_one_by_one() {
    // The router of the moment is given each event by the test.
    let sender: Arc<Mutex<Option<mpsc::UnboundedSender<u32>>>> = Arc::default();
    let events = {
        let sender = sender.clone();
        move || {
            let sender = sender.clone();
            async move {
                let (tell, told) = mpsc::unbounded_channel();
                // nginx sends the head with the first event.
                tell.send(0).expect("it is read below");
                *sender.lock().unwrap() = Some(tell);
                Sse::new(stream::unfold(told, |mut told| async {
                    let number = told.recv().await?;
                    Some((Ok::<_, Infallible>(Event::default().data(number.to_string())), told))
                }))
            }
        }
    };
    let router = || Router::new().route("/events", get(events.clone()));
    on_each_stand("/", router, |stand| {
        let mut answer = stand.send(Request::get("/events"));
        assert_eq!(answer.headers("Content-Type"), ["text/event-stream"]);
        for number in 0..3 {
            let mut event = [0; 9];
            answer.read_exact(&mut event).expect("an event, before there is another");
            assert_eq!(event, *format!("data: {number}\n\n").as_bytes());
            let next = number + 1;
            sender.lock().unwrap().as_ref().expect("the head is here").send(next).expect("it is read");
        }
        *sender.lock().unwrap() = None;
        assert_eq!(answer.text(), "data: 3\n\n");
    });
}

/// `--auth`: the route `/auth` of a router decides, whatever was asked for and by whichever method.
#[test]
fn a_route_decides_who_may_enter() {
    async fn auth(headers: HeaderMap) -> Response {
        let [method, uri, pass] =
            ["x-original-method", "x-original-uri", "x-pass"].map(|name| headers.get(name));
        assert_eq!(method.expect("the visitor's method"), "POST");
        assert!(uri.is_some_and(|uri| uri.as_bytes().ends_with(b"/page?q=1")), "{uri:?}");
        match pass {
            Some(_) => [("x-remote-user", "alice")].into_response(),
            None => StatusCode::UNAUTHORIZED.into_response(),
        }
    }
    async fn page(Extension(fastcgi): Extension<FastCgi>, body: String) -> String {
        let visitor = fastcgi.params().get("REMOTE_USER").unwrap_or_default();
        format!("{body} of {}", String::from_utf8_lossy(visitor))
    }
    let router = || Router::new().route("/auth", get(auth)).route("/page", post(page));
    for mount in ["/", "/app"] {
        on_each_stand_with(&["--auth"], mount, router, |stand| {
            let target = format!("{}/page?q=1", mount.trim_end_matches('/'));
            let ask = || Request::post(&target, "body");
            let allowed = stand.send(ask().header("X-Pass", "1"));
            assert_eq!((allowed.status, allowed.text().as_str()), (200, "body of alice"));
            assert_eq!(stand.send(ask()).status, 401);
        });
    }
}

#[test]
fn a_hundred_megabytes_are_uploaded() {
    async fn upload(mut multipart: Multipart) -> Result<String, Response> {
        let (mut bytes, mut sum) = (0, 0u64);
        while let Some(mut field) = multipart.next_field().await.map_err(IntoResponse::into_response)? {
            while let Some(chunk) = field.chunk().await.map_err(IntoResponse::into_response)? {
                bytes += chunk.len();
                sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
        }
        Ok(format!("{bytes} {sum}"))
    }
    let file: Vec<u8> = (0..FILE_BYTES).map(|index| (index % 251) as u8).collect();
    let sum = file.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let head: &[u8] = b"--cut\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n";
    let body = Bytes::from([head, &file, b"\r\n--cut--\r\n"].concat());
    let router = || Router::new().route("/upload", post(upload)).layer(DefaultBodyLimit::disable());
    on_each_stand("/", router, |stand| {
        let request = Request::post("/upload", body.clone());
        let answer = stand.send(request.header("Content-Type", "multipart/form-data; boundary=cut"));
        assert_eq!((answer.status, answer.text()), (200, format!("{FILE_BYTES} {sum}")));
    });
}

/// What the visitor has got must not look whole.
#[test]
fn an_answer_that_breaks_off_is_seen_to() {
    async fn breaks(uri: Uri) -> Response {
        let parts = stream::iter([Ok(Bytes::from(vec![b'x'; 100_000])), Err(io::Error::other("gone"))]);
        // Not at once, or nginx has no head yet when the connection ends.
        let parts = parts.then(|part| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            part
        });
        let mut response = Response::new(Body::from_stream(parts));
        if uri.path() == "/announced" {
            response.headers_mut().insert("Content-Length", 200_000.into());
        }
        response
    }
    let router = || Router::new().route("/chunked", get(breaks)).route("/announced", get(breaks));
    on_each_stand("/", router, |stand| {
        for path in ["/chunked", "/announced"] {
            let answer = stand.send(Request::get(path));
            assert_eq!(answer.status, 200);
            let body = answer.try_body();
            assert!(body.is_err(), "{path}: {} bytes that look whole", body.unwrap_or_default().len());
        }
    });
}

#[test]
fn paths_below_a_mount() {
    async fn show(uri: Uri, OriginalUri(nested): OriginalUri, request: axum::extract::Request) -> String {
        let fastcgi = request.extensions().get::<FastCgi>().expect("it is always there");
        let script_name = fastcgi.script_name().escape_ascii();
        format!("{} {} {} {script_name}", uri.path(), nested, fastcgi.original_uri())
    }
    let router = || Router::new().route("/{*rest}", get(show));
    on_each_stand("/app", router, |stand| {
        for (target, seen) in [
            ("/app/a/b?c=%20", "/a/b http://probe.test/a/b?c=%20 http://probe.test/app/a/b?c=%20 /app"),
            ("/app/a%2Fb%20c", "/a%2Fb%20c http://probe.test/a%2Fb%20c http://probe.test/app/a%2Fb%20c /app"),
        ] {
            assert_eq!(stand.send(Request::get(target)).text(), seen);
        }
        assert_eq!(stand.send(Request::get("/app")).status, 404);
    });
}
