//! What the adapter for tower services costs: user-space instructions for a request, counted by valgrind's cachegrind
//! on the epoll driver (valgrind knows no io_uring), for a plain handler and for a tower service that give the same
//! answer. `cargo bench --bench http --features http,mimalloc`; it fails where the adapter adds more than is said
//! below.
//!
//! All that the process executes is counted: engine, handler, libraries, allocator. Requests are all the same, as those
//! of a program are, or each has a path, a cookie and a browser of its own, so that less is known from recent ones
//! (`src/http/recent.rs`). A third handler tells what of it is the `http` crate's own: a plain one that besides makes
//! the types that a service is given and gives back, of names and values that it has at hand.
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
use ringway::proto::params::encode_pair;
use ringway::{Body, Driver, Request, Response, Server};

/// As the command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The aim: what the adapter adds, as a part of what a plain handler costs.
const PART_AIMED_AT: f64 = 0.4;

/// What it may add, in instructions, so that it does not get worse: a little more than was reached. What nothing spares
/// are the extension (540), two maps of headers (1,400), the handle behind `FastCgi` (600), a scan of the params (500).
const ADDED_MAX: [(Asks, f64); 2] = [(Asks::Same, 5_800.0), (Asks::Different, 7_700.0)];

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

/// How requests differ.
#[derive(Clone, Copy, Debug)]
enum Asks {
    Same,
    Different,
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
    for (asks, added_max) in ADDED_MAX {
        for batch in [1, 64] {
            let [plain, types, tower] =
                ["plain", "types", "tower"].map(|kind| instructions(kind, asks, batch));
            let added = tower.all() - plain.all();
            println!(
                "{batch:2} at a time, {}: plain handler {:.0}, with the types of http {:.0}, tower service {:.0} \
                 ({:.2} times); the adapter adds {added:.0}, the aim is {:.0}",
                format!("{asks:?}").to_lowercase(),
                plain.all(),
                types.all(),
                tower.all(),
                tower.all() / plain.all(),
                PART_AIMED_AT * plain.all(),
            );
            let parts = PARTS.iter().zip(tower.0.iter().zip(plain.0));
            let parts: Vec<String> =
                parts.map(|((part, _), (tower, plain))| format!("{part} {:.0}", tower - plain)).collect();
            println!("   of it {}", parts.join(", "));
            is_good &= added <= added_max;
        }
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

/// Where instructions are, by what their source file's path holds; the first one that fits.
const PARTS: [(&str, &[&str]); 7] = [
    ("the adapter", &["src/http/"]),
    ("http", &["/http-1.", "/http-body"]),
    ("bytes", &["/bytes-1."]),
    ("allocator", &["mimalloc"]),
    ("engine and handler", &["src/engine/", "src/handler/", "src/proto/", "src/ring/"]),
    ("core and std", &["/library/", "hashbrown"]),
    ("libc and others", &[""]),
];

/// Instructions, part by part.
#[derive(Clone, Copy)]
struct Counts([f64; PARTS.len()]);

impl Counts {
    fn all(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Reads cachegrind's file: `fl=` says which source file the counts of lines below belong to.
    fn read(report: &str) -> Counts {
        let mut counts = Counts([0.0; PARTS.len()]);
        let mut part = PARTS.len() - 1;
        for line in report.lines() {
            if let Some(file) = line.strip_prefix("fl=") {
                let is_in = |(_, marks): &(&str, &[&str])| marks.iter().any(|mark| file.contains(mark));
                part = PARTS.iter().position(is_in).expect("the last part takes all");
            } else if let Some((number, count)) = line.split_once(' ')
                && number.parse::<u32>().is_ok()
            {
                counts.0[part] += count.parse::<f64>().expect("a count");
            }
        }
        counts
    }
}

/// The instructions of one request of a batch.
fn instructions(kind: &str, asks: Asks, batch: u16) -> Counts {
    let [few, many] = ROUNDS.map(|rounds| count(kind, asks, batch, rounds));
    let requests = ((ROUNDS[1] - ROUNDS[0]) * u64::from(batch)) as f64;
    Counts(std::array::from_fn(|part| (many.0[part] - few.0[part]) / requests))
}

/// All instructions of a server that answers this many batches.
fn count(kind: &str, asks: Asks, batch: u16, rounds: u64) -> Counts {
    let folder = tempfile::tempdir().expect("a folder for the socket");
    let [path, report] = ["socket", "report"].map(|name| folder.path().join(name));
    let mut server = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no"])
        .arg(format!("--cachegrind-out-file={}", report.display()))
        .arg(std::env::current_exe().expect("our own path"))
        .env(SERVE, format!("{kind} {}", path.display()))
        .stderr(Stdio::null())
        .spawn()
        .expect("valgrind starts");
    ask(&path, asks, batch, rounds);
    let id = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("the server is there");
    server.wait().expect("the server ends");
    Counts::read(&std::fs::read_to_string(report).expect("cachegrind's report"))
}

fn ask(path: &Path, asks: Asks, batch: u16, rounds: u64) {
    let began = Instant::now();
    let mut client = loop {
        match UnixStream::connect(path) {
            Ok(client) => break client,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "no server: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // Answers differ between the kinds, not between requests: the first tells how long they are.
    client.write_all(&support::request(RequestId::ONE)).expect("the server reads");
    let mut answer = [0; 512];
    let length = client.read(&mut answer).expect("the server answers");
    let mut answers = vec![0; length * usize::from(batch)];
    for round in 0..rounds {
        let ids = (1..=batch).filter_map(RequestId::new);
        let requests: Vec<u8> = match asks {
            Asks::Same => ids.flat_map(support::request).collect(),
            Asks::Different => {
                ids.flat_map(|id| different(id, round * u64::from(batch) + u64::from(id.get()))).collect()
            }
        };
        client.write_all(&requests).expect("the server reads");
        client.read_exact(&mut answers).expect("the server answers");
    }
}

/// The request of a visitor who has no more in common with the one before than a site and a kind of browser.
fn different(id: RequestId, number: u64) -> Vec<u8> {
    let path = format!("/articles/{:04}", number % 10_000);
    let mut params = Vec::new();
    for (name, value) in support::PAIRS {
        let value = match name {
            "PATH_INFO" | "DOCUMENT_URI" => path.clone(),
            "REQUEST_URI" => format!("{path}?page=2&sort=date"),
            "HTTP_COOKIE" => {
                format!("session={:016x}; theme=dark", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            }
            "HTTP_USER_AGENT" => value.replace("128", &format!("12{}", number % 10)),
            _ => value.to_owned(),
        };
        encode_pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    support::records(id, &params)
}
