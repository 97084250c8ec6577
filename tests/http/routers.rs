//! axum's extractors and answers, over the crate's own client.

use axum::extract::{DefaultBodyLimit, Form, Json, Multipart, Path, Query};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body as AxumBody};
use futures_util::{Stream, StreamExt, stream};
use ringway::Driver;
use ringway::client::{Client, Complete, HeadParser, Part, Request};
use serde::{Deserialize, Serialize};

use crate::peer::Peer;
use crate::server::{Serve, Served, each_driver, eventually};

const EXAMPLE_ADDRESS: &str = "127.0.0.1:9000";

each_driver! {
    paths_queries_and_forms,
    json_both_ways,
    a_large_upload_as_multipart,
    a_body_that_streams_through,
    server_sent_events,
}

#[derive(Deserialize, Serialize)]
struct Greeting {
    name: String,
    times: u32,
}

async fn upload(mut multipart: Multipart) -> Result<String, Response> {
    let mut lines = String::new();
    while let Some(mut field) = multipart.next_field().await.map_err(IntoResponse::into_response)? {
        let name = field.name().unwrap_or("?").to_owned();
        let (mut length, mut sum) = (0, 0u64);
        while let Some(chunk) = field.chunk().await.map_err(IntoResponse::into_response)? {
            length += chunk.len();
            sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        lines += &format!("{name} {length} {sum}\n");
    }
    Ok(lines)
}

async fn events() -> Sse<impl Stream<Item = Result<Event, std::convert::Infallible>>> {
    Sse::new(stream::iter(1..=3).then(|number| async move {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Ok(Event::default().id(number.to_string()).data("tick"))
    }))
}

fn serve(driver: Driver) -> Served {
    let router = Router::new()
        .route(
            "/hello/{name}",
            get(|Path(name): Path<String>, Query(g): Query<Greeting>| async move {
                format!("{name} {} {}", g.name, g.times)
            }),
        )
        .route("/form", post(|Form(g): Form<Greeting>| async move { format!("{} {}", g.name, g.times) }))
        .route(
            "/json",
            post(|Json(g): Json<Greeting>| async move {
                (StatusCode::CREATED, Json(Greeting { times: g.times + 1, ..g }))
            }),
        )
        .route("/upload", post(upload).layer(DefaultBodyLimit::disable()))
        .route("/small", post(upload).layer(DefaultBodyLimit::max(1_000)))
        .route("/echo", post(|body: AxumBody| async { Response::new(body) }))
        .route("/events", get(events));
    Serve::new(driver).start(|server| server.service("/app", router))
}

/// Sends a request with a body, which may be longer than both ends keep, and reads the answer meanwhile.
fn fetch(served: &Served, request: Request, body: Vec<u8>) -> (u16, Complete) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = served.address.parse().expect("an address");
        let client = Client::connect(&address).await.expect("the server listens");
        let exchange = client.begin(&request.content_length(body.len() as u64)).expect("it is open");
        let mut complete = exchange.complete(&body, usize::MAX).await.expect("an end");
        let head = HeadParser::default().push(&complete.stdout).expect("a good head").expect("a whole one");
        complete.stdout = head.1.to_vec();
        (head.0.status, complete)
    })
}

fn post_to(path: &str) -> Request {
    Request::new("POST", path).mount("/app")
}

fn text(complete: &Complete) -> &str {
    std::str::from_utf8(&complete.stdout).expect("a text")
}

fn paths_queries_and_forms(driver: Driver) {
    let served = serve(driver);
    let request = Request::new("GET", "/app/hello/w%C3%B6rld%2F?name=a+b%26&times=2").mount("/app");
    let (status, answer) = fetch(&served, request, Vec::new());
    assert_eq!((status, text(&answer)), (200, "wörld/ a b& 2"));
    let form = post_to("/app/form").header("Content-Type", b"application/x-www-form-urlencoded");
    let (status, answer) = fetch(&served, form.clone(), b"name=%C3%BC&times=7".to_vec());
    assert_eq!((status, text(&answer)), (200, "ü 7"));
    assert_eq!(fetch(&served, form, b"name=x".to_vec()).0, 422);
    assert_eq!(fetch(&served, post_to("/app/form"), b"name=x&times=7".to_vec()).0, 415);
}

fn json_both_ways(driver: Driver) {
    let served = serve(driver);
    let json = post_to("/app/json").header("Content-Type", b"application/json");
    let name = "n".repeat(500_000);
    let body = serde_json::to_vec(&Greeting { name: name.clone(), times: 1 }).expect("json");
    let (status, answer) = fetch(&served, json.clone(), body);
    let back: Greeting = serde_json::from_slice(&answer.stdout).expect("json");
    assert_eq!((status, back.times, back.name == name), (201, 2, true));
    assert_eq!(fetch(&served, json.clone(), b"{".to_vec()).0, 400);
    // More than axum's own limit of 2 MB.
    assert_eq!(fetch(&served, json, vec![b' '; 3_000_000]).0, 413);
}

fn multipart(file_bytes: usize) -> (Request, Vec<u8>, u64) {
    let file: Vec<u8> = (0..file_bytes).map(|index| (index % 251) as u8).collect();
    let sum = file.iter().map(|byte| u64::from(*byte)).sum();
    let mut body = b"--cut\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nhi\r\n".to_vec();
    body.extend_from_slice(b"--cut\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n");
    body.extend_from_slice(&file);
    body.extend_from_slice(b"\r\n--cut--\r\n");
    (post_to("/app/upload").header("Content-Type", b"multipart/form-data; boundary=cut"), body, sum)
}

fn a_large_upload_as_multipart(driver: Driver) {
    let served = serve(driver);
    let (request, body, sum) = multipart(5_000_000);
    let (status, answer) = fetch(&served, request, body);
    assert_eq!((status, text(&answer)), (200, &*format!("title 2 209\nfile 5000000 {sum}\n")));
    let (request, body, _) = multipart(2_000);
    let small = request.param("REQUEST_URI", "/app/small").param("PATH_INFO", "/small");
    assert_eq!(fetch(&served, small, body).0, 413);
}

fn a_body_that_streams_through(driver: Driver) {
    let served = serve(driver);
    let body: Vec<u8> = (0..5_000_000).map(|index| (index % 241) as u8).collect();
    let (status, answer) = fetch(&served, post_to("/app/echo"), body.clone());
    assert!(status == 200 && answer.stdout == body);
}

fn server_sent_events(driver: Driver) {
    let served = serve(driver);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let parts = runtime.block_on(async {
        let client = Client::connect(&served.address.parse().expect("an address")).await.expect("it listens");
        let mut exchange =
            client.begin(&Request::new("GET", "/app/events").mount("/app")).expect("it is open");
        exchange.stdin.end().await.expect("it reads");
        let head = exchange.answer.head().await.expect("a head");
        assert_eq!(head.header("content-type"), Some(&b"text/event-stream"[..]));
        let mut parts = Vec::new();
        while let Some(part) = exchange.answer.next().await.expect("a part") {
            if let Part::Stdout(bytes) = part {
                parts.push(String::from_utf8(bytes.to_vec()).expect("a text"));
            }
        }
        parts
    });
    assert_eq!(parts, ["id: 1\ndata: tick\n\n", "id: 2\ndata: tick\n\n", "id: 3\ndata: tick\n\n"]);
}

/// The example of the README, as it is built beside the tests.
#[test]
fn the_example_says_hello() {
    let built = std::env::current_exe().expect("our own path");
    let example = built.ancestors().nth(2).expect("target/debug").join("examples/axum");
    if !example.exists() || Peer::try_connect(EXAMPLE_ADDRESS).is_ok() {
        eprintln!("skipped: the example is not built, or its address is in use");
        return;
    }
    let mut process = std::process::Command::new(example).spawn().expect("it starts");
    eventually("it listens", || Peer::try_connect(EXAMPLE_ADDRESS).is_ok());
    let answer = Peer::connect(EXAMPLE_ADDRESS).get("/hello/world");
    process.kill().expect("it runs");
    process.wait().expect("it ends");
    assert_eq!((answer.status(), answer.text()), (200, "Hello, world!\n"));
}
