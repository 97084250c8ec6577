//! What the adapter for tower services costs: user-space instructions for a request, counted by valgrind's cachegrind
//! on the epoll driver (valgrind knows no io_uring), for a plain handler and for a tower service that give the same
//! answer. `cargo bench --bench http --features http,mimalloc`; it fails where the service costs more than is
//! said below.
//!
//! All that the process executes is counted: engine, handler, libraries, allocator. A third kind tells what of it is
//! the `http` crate's own: a plain handler that besides makes the types that a service is given and gives back, of
//! names and values that it has at hand.
//!
//! The server runs alone in a process of its own. Two counts, after few and after many requests, give the cost of one.

mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http_body_util::Full;
use ringway::proto::RequestId;
use ringway::{Body, Driver, Request, Response, Server};

/// As the command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many times the instructions of a plain handler a service may cost. The aim of 1.4 is beyond any adapter, for
/// the types of the `http` crate alone come to 1.7 with one request at a time and to 2 with 64; this is what was
/// reached, so that it does not get worse.
const RATIO_MAX: f64 = 3.1;

/// Rounds of the first and of the second count.
const ROUNDS: [u64; 2] = [50, 550];

/// Tells the process that it is the server, of which kind and at which socket.
const SERVE: &str = "RINGWAY_BENCH_SERVE";

async fn hello(_: Request) -> Response {
    Response::text("Hello, world!\n")
}

async fn hello_http(_: http::Request<Body>) -> Result<http::Response<Full<&'static [u8]>>, Infallible> {
    let mut response = http::Response::new(Full::new(&b"Hello, world!\n"[..]));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

async fn hello_types(request: Request) -> Response {
    let http_request = types(request.param("QUERY_STRING").is_some());
    let mut response = http::Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    black_box((http_request, response));
    Response::text("Hello, world!\n")
}

/// What the `http` crate does for the request of `support`; none of it is looked up or copied.
fn types(is_get: bool) -> http::Request<()> {
    static NAMES: [HeaderName; 7] = [
        header::HOST,
        header::USER_AGENT,
        header::ACCEPT,
        header::ACCEPT_LANGUAGE,
        header::ACCEPT_ENCODING,
        header::CONNECTION,
        header::COOKIE,
    ];
    /// Places in the pairs; the headers follow the host.
    const REQUEST_URI: usize = 6;
    const HTTP_HOST: usize = 20;
    let value = |place: usize| Bytes::from_static(support::PAIRS[place].1.as_bytes());
    let mut headers = HeaderMap::with_capacity(NAMES.len());
    for (name, place) in NAMES.iter().zip(HTTP_HOST..) {
        headers.insert(name.clone(), HeaderValue::from_maybe_shared(value(place)).expect("a good value"));
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Authority::from_maybe_shared(value(HTTP_HOST)).ok();
    parts.path_and_query = PathAndQuery::from_maybe_shared(value(REQUEST_URI)).ok();
    let mut request = http::Request::new(());
    *request.method_mut() = if is_get { http::Method::GET } else { http::Method::HEAD };
    *request.uri_mut() = Uri::from_parts(parts).expect("a good URI");
    *request.headers_mut() = headers;
    request.extensions_mut().insert(Arc::new(is_get));
    request
}

fn main() -> ExitCode {
    if let Ok(wanted) = std::env::var(SERVE) {
        let (kind, path) = wanted.split_once(' ').expect("kind and socket");
        serve(kind, path);
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("http: skipped: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    let mut is_good = true;
    for batch in [1, 64] {
        let [plain, types, tower] = ["plain", "types", "tower"].map(|kind| instructions(kind, batch));
        let ratio = tower / plain;
        println!(
            "{batch:2} at a time: plain handler {plain:.0}, with the types of http {types:.0} ({:.2} times), \
             tower service {tower:.0} ({ratio:.2} times)",
            types / plain
        );
        is_good &= ratio <= RATIO_MAX;
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(kind: &str, path: &str) {
    let server = Server::builder().listen(format!("unix:{path}")).workers(1).driver(Driver::Epoll);
    let server = match kind {
        "plain" => server.responder("/", hello),
        "types" => server.responder("/", hello_types),
        _ => server.service("/", tower::service_fn(hello_http)),
    };
    server.run().expect("the server runs");
}

/// The instructions of one request of a batch.
fn instructions(kind: &str, batch: u16) -> f64 {
    let [few, many] = ROUNDS.map(|rounds| count(kind, batch, rounds));
    (many - few) as f64 / ((ROUNDS[1] - ROUNDS[0]) * u64::from(batch)) as f64
}

/// All instructions of a server that answers this many batches.
fn count(kind: &str, batch: u16, rounds: u64) -> u64 {
    let folder = tempfile::tempdir().expect("a folder for the socket");
    let path = folder.path().join("socket");
    let server = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("our own path"))
        .env(SERVE, format!("{kind} {}", path.display()))
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind starts");
    ask(&path, batch, rounds);
    let id = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("the server is there");
    let output = server.wait_with_output().expect("the server ends");
    let report = String::from_utf8_lossy(&output.stderr);
    let line = report.lines().find_map(|line| line.split_once("refs:")).expect("valgrind's count");
    line.1.trim().replace(',', "").parse().expect("a number")
}

fn ask(path: &Path, batch: u16, rounds: u64) {
    let began = Instant::now();
    let mut client = loop {
        match UnixStream::connect(path) {
            Ok(client) => break client,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "no server: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let ids = (1..=batch).filter_map(RequestId::new);
    let requests: Vec<u8> = ids.flat_map(support::request).collect();
    // Answers differ between the kinds, not between requests: the first tells how long they are.
    client.write_all(&support::request(RequestId::ONE)).expect("the server reads");
    let mut answer = [0; 512];
    let length = client.read(&mut answer).expect("the server answers");
    let mut answers = vec![0; length * usize::from(batch)];
    for _ in 0..rounds {
        client.write_all(&requests).expect("the server reads");
        client.read_exact(&mut answers).expect("the server answers");
    }
}
