//! What visitors of the probe must see, whatever web server is between: one function for each subject.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::support::process::{Process, eventually};
use crate::support::web::{Answer, Request};

/// Longer than any test: who waits for this to pass has waited in vain.
const FOREVER_MS: u64 = 600_000;

/// A web server, as its visitors see it.
pub(crate) struct Front<'a> {
    pub(crate) address: SocketAddr,
    /// Where the probe is mounted: empty for the root.
    pub(crate) mount: &'static str,
    pub(crate) habits: Habits,
    /// The web server, for its log.
    pub(crate) server: &'a Process,
}

/// What a web server does in its own way, whatever the application.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// The longest body without a length that it passes on; what it does with longer ones is its own affair. `None`:
    /// it refuses them all.
    pub(crate) chunked_max: Option<usize>,
    /// It answers some of many requests at once with an error page of its own: visitors ask again.
    pub(crate) fails_by_itself: bool,
    /// Parameters of which it says something else than others, or nothing.
    pub(crate) params: &'static [(&'static str, Option<&'static str>)],
    /// What it calls a body that comes without a Content-Type.
    pub(crate) content_type: &'static str,
    /// What comes on STDERR goes to its log.
    pub(crate) logs_stderr: bool,
}

impl Habits {
    /// Those of most.
    pub(crate) const USUAL: Habits = Habits {
        chunked_max: Some(usize::MAX),
        fails_by_itself: false,
        params: &[],
        content_type: "application/octet-stream",
        logs_stderr: true,
    };
}

impl Front<'_> {
    pub(crate) fn target(&self, page: &str) -> String {
        format!("{}/{page}", self.mount)
    }

    pub(crate) fn send(&self, request: Request) -> Answer {
        if !self.habits.fails_by_itself {
            return request.send(self.address);
        }
        // The probe's pages are no HTML.
        let is_own =
            |answer: &Answer| answer.status == 500 && answer.headers("Content-Type") == ["text/html"];
        eventually("an answer that is not the web server's own", || {
            Some(request.clone().send(self.address)).filter(|answer| !is_own(answer))
        })
    }

    pub(crate) fn get(&self, page: &str) -> Answer {
        self.send(Request::get(&self.target(page)))
    }

    pub(crate) fn post(&self, page: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(&self.target(page), body))
    }

    /// Sends a body of `length` bytes, or of as many as the web server takes, in chunks of `chunk_bytes`, without an
    /// announced length; the second is how many. `None` if it takes none.
    fn post_chunked(&self, page: &str, length: usize, chunk_bytes: usize) -> Option<(Answer, usize)> {
        let length = length.min(self.habits.chunked_max?);
        let request = Request::post_chunked(&self.target(page), pattern(length), chunk_bytes);
        Some((self.send(request), length))
    }

    /// Handlers of this process that were cancelled.
    pub(crate) fn aborted(&self) -> u64 {
        let text = self.get("aborted").text();
        text.strip_suffix('\n').and_then(|number| number.parse().ok()).expect("a number and a newline")
    }

    /// The request's parameters, as the application has them.
    pub(crate) fn env(&self, request: Request) -> Map<String, Value> {
        let answer = self.send(request);
        assert_eq!((answer.status, answer.headers("Content-Type")), (200, vec!["application/json"]));
        serde_json::from_slice(&answer.body()).expect("an object")
    }
}

/// `length` bytes of which the i-th is `i % 251`.
pub(crate) fn pattern(length: usize) -> Bytes {
    static ALL: LazyLock<Bytes> = LazyLock::new(|| (0..20 << 20).map(|index| (index % 251) as u8).collect());
    ALL.slice(..length)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `length` bytes of the pattern, in pieces.
fn expect_pattern(answer: &mut Answer, length: u64) {
    let (mut buffer, mut at) = (vec![0; 251 << 10], 0);
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
        answer.read_exact(&mut buffer[..wanted]).unwrap_or_else(|error| panic!("after {at} bytes: {error}"));
        assert!(buffer[..wanted] == pattern(wanted), "other bytes after {at}");
        at += wanted as u64;
    }
}

pub(crate) fn hello(front: &Front<'_>) {
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let answer =
            Request::new(method, &front.target("hello")).header("Content-Length", "0").send(front.address);
        assert_eq!((answer.status, answer.headers("Content-Type")), (200, vec!["text/plain"]), "{method}");
        assert_eq!(answer.text(), "Hello, world!\n", "{method}");
    }
    assert_eq!(front.get("hello/").text(), "Hello, world!\n");
    assert_eq!(front.get("some/where/hello?a=b").text(), "Hello, world!\n");
}

/// HEAD is GET without the body; that a connection is kept after it is seen by the next request.
pub(crate) fn head(front: &Front<'_>) {
    for (page, status) in
        [("hello", 200), ("bytes?n=100000", 200), ("status?code=503", 503), ("nothing", 404)]
    {
        let answer = Request::new("HEAD", &front.target(page)).send(front.address);
        assert_eq!(answer.status, status, "{page}");
        assert_eq!(answer.body(), b"", "{page}");
        assert_eq!(front.get("hello").status, 200);
    }
    let answer = Request::new("HEAD", &front.target("bytes?n=100000")).send(front.address);
    assert_eq!(answer.headers("Content-Length"), ["100000"]);
}

pub(crate) fn statuses(front: &Front<'_>) {
    for code in [200, 201, 202, 206, 400, 401, 403, 404, 405, 410, 418, 422, 451, 500, 502, 503, 504, 599] {
        let answer = front.get(&format!("status?code={code}"));
        assert_eq!(answer.status, code);
        assert_eq!(answer.text(), format!("{code}\n"));
    }
    for code in [204, 304] {
        let answer = front.get(&format!("status?code={code}"));
        assert_eq!((answer.status, answer.body()), (code, vec![]));
    }
    let refused = [
        "status?code=99",
        "status?code=600",
        "status?code=1e2",
        "status?code=",
        "status",
        "bytes?n=-1",
        "bytes?n=+1",
        "bytes?n=1099511627777",
        "sleep?ms=soon",
        "stderr",
        "interleave?n=10001",
        "exit?code=4294967296",
    ];
    for page in refused {
        let answer = front.get(page);
        assert_eq!(answer.status, 400, "{page}");
        let reason = answer.text();
        assert!(reason.len() > 1 && reason.find('\n') == Some(reason.len() - 1), "{page}: {reason:?}");
    }
    assert_eq!(front.get("nothing").status, 404);
    assert_eq!(front.get("").status, 404);
}

pub(crate) fn headers(front: &Front<'_>) {
    let answer = front.get("headers");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.headers("X-Probe"), ["yes"]);
}

/// What every web server says of a request.
pub(crate) fn env(front: &Front<'_>) {
    let target = front.target("a%20b/gr%C3%BC%C3%9Fe/env?p=%2F&q=a+b");
    let request = Request::post(&target, &b"0123456789"[..])
        .header("Content-Type", "text/x-probe; charset=utf-8")
        .header("Cookie", "k=v; l=\"w\"")
        .header("X-Long", "x".repeat(5000))
        .header("X-Latin", *b"gr\xfcn")
        .header("X-Empty", "");
    let env = front.env(request);
    let port = front.address.port().to_string();
    let expected = [
        ("REQUEST_METHOD", "POST"),
        ("QUERY_STRING", "p=%2F&q=a+b"),
        ("REQUEST_URI", target.as_str()),
        ("CONTENT_TYPE", "text/x-probe; charset=utf-8"),
        ("CONTENT_LENGTH", "10"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("SERVER_PORT", &port),
        ("HTTP_HOST", "probe.test"),
        ("HTTP_COOKIE", "k=v; l=\"w\""),
        ("HTTP_X_LONG", &"x".repeat(5000)),
        ("HTTP_X_LATIN", "grün"),
    ];
    for (name, value) in expected {
        let own = front.habits.params.iter().find(|(own, _)| *own == name);
        let value = own.map_or(Some(value), |(_, value)| *value);
        assert_eq!(env.get(name).and_then(Value::as_str), value, "{name}");
    }
    let text = |name: &str| env.get(name).and_then(Value::as_str).unwrap_or_default();
    // A file that the path was rewritten to is no part of it.
    let path = text("SCRIPT_NAME").replace("/app.fcgi", "") + text("PATH_INFO");
    assert_eq!(path, front.target("a b/grüße/env"));
    let plain = front.env(Request::get(&front.target("env")));
    assert!(plain.get("QUERY_STRING").is_none_or(|query| query == ""), "{plain:?}");
}

pub(crate) fn content_types(front: &Front<'_>) {
    let echo = front.target("echo");
    let plain = Request::post(&echo, &b"abc"[..]).send(front.address);
    assert_eq!(plain.headers("Content-Type"), [front.habits.content_type]);
    let typed = Request::post(&echo, &b"abc"[..]).header("Content-Type", "text/x-probe").send(front.address);
    assert_eq!(typed.headers("Content-Type"), ["text/x-probe"]);
    assert_eq!(typed.body(), b"abc");
}

/// What the application says on STDERR is in the web server's log, with nothing of it in the answer.
pub(crate) fn stderr(front: &Front<'_>) {
    let answer = front.get("stderr?msg=a%20word%20to%20the%20log");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    logged(front, "a word to the log");
    let expected: String = (0..300).map(|index| format!("out {index}\n")).collect();
    assert_eq!(front.get("interleave?n=300").text(), expected);
    logged(front, "err 299");
}

fn logged(front: &Front<'_>, text: &str) {
    if front.habits.logs_stderr {
        eventually(&format!("{text:?} in the web server's log"), || {
            front.server.log().contains(text).then_some(())
        });
    }
}

pub(crate) fn panics(front: &Front<'_>) {
    for _ in 0..3 {
        assert_eq!(front.get("panic").status, 500);
        assert_eq!(front.get("hello").text(), "Hello, world!\n");
    }
    logged(front, "asked to panic");
}

pub(crate) fn small_things(front: &Front<'_>) {
    assert_eq!(front.get("sleep?ms=20").text(), "slept 20\n");
    for code in ["0", "3", "4294967295"] {
        assert_eq!(front.get(&format!("exit?code={code}")).text(), "bye\n");
    }
    assert_eq!(front.post("read?n=10", pattern(70_000)).text(), "read 10\n");
    assert_eq!(front.post("read?n=0", pattern(70_000)).text(), "read 0\n");
    assert_eq!(front.post("read?n=10", pattern(3)).text(), "read 3\n");
    let expected: String = (0..5).map(|index| format!("data: {index}\n\n")).collect();
    let answer = front.get("stream?chunks=5&ms=5");
    assert_eq!(answer.headers("Content-Type"), ["text/event-stream"]);
    assert_eq!(answer.text(), expected);
    assert_eq!(front.aborted(), 0);
}

/// Every page, as the probe's contract has it.
pub(crate) fn all(front: &Front<'_>) {
    let checks =
        [hello, head, statuses, headers, env, content_types, stderr, panics, small_bodies, small_things];
    for check in checks {
        check(front);
    }
}

/// Sizes of bodies around those of buffers and records.
const SMALL: [usize; 6] = [0, 1, 64 << 10, 65_529, 70_000, 300_000];

/// Bodies of ordinary sizes, in and out.
pub(crate) fn small_bodies(front: &Front<'_>) {
    for length in SMALL {
        upload(front, length);
        echo(front, length);
        download(front, length as u64);
    }
}

/// Much more than any buffer on the way holds, in and out, to somebody who does not keep it.
pub(crate) fn large_bodies(front: &Front<'_>) {
    upload(front, 20 << 20);
    download(front, 64 << 20);
}

/// A body arrives whole, with its length announced and in chunks.
fn upload(front: &Front<'_>, length: usize) {
    let hash_of = |length| hash(&pattern(length)) + "\n";
    assert_eq!(front.post("sha256", pattern(length)).text(), hash_of(length), "{length} bytes");
    if let Some((answer, length)) = front.post_chunked("sha256", length, 10_000) {
        assert_eq!(answer.text(), hash_of(length), "{length} bytes in chunks");
    }
}

/// A body comes back whole.
pub(crate) fn echo(front: &Front<'_>, length: usize) {
    let whole = front.post("echo", pattern(length)).body();
    assert!(whole == pattern(length), "{length} bytes came back as {} others", whole.len());
    if let Some((answer, length)) = front.post_chunked("echo", length, 30_000) {
        assert!(answer.body() == pattern(length), "{length} bytes in chunks came back as others");
    }
}

fn download(front: &Front<'_>, length: u64) {
    let mut answer = front.get(&format!("bytes?n={length}"));
    assert_eq!((answer.status, answer.headers("Content-Length")), (200, vec![length.to_string().as_str()]));
    expect_pattern(&mut answer, length);
    assert_eq!(answer.body(), b"", "more than {length} bytes");
}

/// An answer that comes before the request is complete is read, and leaves nothing behind.
pub(crate) fn early_answers(front: &Front<'_>) {
    for _ in 0..3 {
        assert_eq!(front.post("read?n=10", pattern(20 << 20)).text(), "read 10\n");
        if let Some((answer, _)) = front.post_chunked("read?n=10", 5 << 20, 50_000) {
            assert_eq!(answer.text(), "read 10\n");
        }
        assert_eq!(front.get("hello").text(), "Hello, world!\n");
    }
}

/// The first event is there long before the second is made.
pub(crate) fn streaming(front: &Front<'_>) {
    let mut answer = front.get(&format!("stream?chunks=2&ms={FOREVER_MS}"));
    let mut event = [0; 9];
    answer.read_exact(&mut event).expect("the first event");
    assert_eq!(&event, b"data: 0\n\n");
}

/// Visitors who leave: in the middle of an answer without end, while the handler sleeps, and before their body is
/// whole. Their handlers are cancelled, and everybody else is served.
pub(crate) fn leavers(front: &Front<'_>) {
    leavers_of_downloads(front);
    let before = front.aborted();
    let target = front.target(&format!("sleep?ms={FOREVER_MS}"));
    let (sleeper, _) = Request::get(&target).begin(front.address).expect("a connection");
    // Long enough for the request to be on its way, however busy the host is.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(front.aborted(), before);
    drop(sleeper);
    gone(front, before + 1);
}

/// The same of web servers that see a visitor gone only when they have something for him.
pub(crate) fn leavers_of_downloads(front: &Front<'_>) {
    let before = front.aborted();
    let mut endless = front.get("bytes?n=1099511627776");
    expect_pattern(&mut endless, 1 << 20);
    drop(endless);
    gone(front, before + 1);
}

fn gone(front: &Front<'_>, count: u64) {
    eventually(&format!("{count} cancelled handlers"), || (front.aborted() == count).then_some(()));
    assert_eq!(front.get("hello").text(), "Hello, world!\n");
}

/// Two hundred visitors at once, of whom each gets what he asked for.
pub(crate) fn crowd(front: &Front<'_>) {
    std::thread::scope(|scope| {
        for index in 0..200_usize {
            scope.spawn(move || visit(front, index));
        }
    });
    assert_eq!(front.aborted(), 0);
}

/// Four visitors who ask again and again while `act` does something to the application: all are served.
pub(crate) fn visited(front: &Front<'_>, act: impl FnOnce()) {
    /// Ends the visits, also when `act` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = Request::get(&front.target("sleep?ms=30")).send(front.address);
                    assert_eq!((answer.status, answer.text().as_str()), (200, "slept 30\n"));
                }
            });
        }
        let _over = Over(&is_over);
        act();
    });
}

fn visit(front: &Front<'_>, index: usize) {
    match index % 8 {
        0 => assert_eq!(front.get("hello").text(), "Hello, world!\n"),
        1 => {
            let env = front.env(Request::get(&front.target(&format!("env?{index}"))));
            assert_eq!(env["QUERY_STRING"], index.to_string());
        }
        2 => {
            let body = pattern(index * 1000);
            assert!(front.post("echo", body.clone()).body() == body, "request {index}");
        }
        3 => assert_eq!(
            front.get(&format!("sleep?ms={}", index + 200)).text(),
            format!("slept {}\n", index + 200)
        ),
        4 => {
            let length = index as u64 * 2000;
            expect_pattern(&mut front.get(&format!("bytes?n={length}")), length);
        }
        5 => {
            let body = pattern(index * 500);
            assert_eq!(front.post("sha256", body.clone()).text(), hash(&body) + "\n");
        }
        6 => assert_eq!(front.get("status?code=418").status, 418),
        _ => {
            let expected: String = (0..20).map(|round| format!("out {round}\n")).collect();
            assert_eq!(front.get("interleave?n=20").text(), expected);
        }
    }
}
