//! The probe: a small application that tests, benchmarks and demonstrations talk to. It uses what any
//! embedder of Ringway can use, and nothing else.
//!
//! A page is chosen by the last segment of the path, whatever the mount; arguments come from the query,
//! percent-decoded. Every body, in and out, is a stream: the largest takes no more memory than the smallest.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::percent_decode;
use ringway::{AuthRequest, Decision, Failure, FilterRequest, Request, Response, Stdin, Stdout};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that `bytes` makes: 2^40.
const BYTES_MAX: u64 = 1 << 40;
/// The most rounds of `interleave`.
const INTERLEAVE_MAX: u64 = 10_000;
/// What `echo` reads before it answers: a shorter body goes back in one piece, and one that ends too early
/// can still be answered with 400. Most web servers send no more of a body once they have the head of the answer.
const ECHO_START_BYTES: usize = 64 << 20;

/// Handlers that were dropped before they had answered.
static CANCELLED: AtomicU64 = AtomicU64::new(0);

/// The Responder.
pub(super) async fn respond(request: Request) -> Result<Response, Failure> {
    let watch = Watch::start();
    let answer = answer(request).await;
    watch.done();
    match answer {
        Ok(response) => Ok(response),
        Err(Trouble::BadRequest(reason)) => Ok(Response::text(format!("{reason}\n")).status(400)),
        Err(Trouble::Failure(failure)) => Err(failure),
    }
}

async fn answer(request: Request) -> Result<Response, Trouble> {
    match page(&request.path()) {
        b"hello" => Ok(Response::text("Hello, world!\n")),
        b"env" => env(&request),
        b"status" => status(&request),
        b"headers" => Ok(headers()),
        b"aborted" => Ok(Response::text(format!("{}\n", CANCELLED.load(Ordering::Relaxed)))),
        b"exit" => Ok(Response::text("bye\n").app_status(number(&request, "code", u32::MAX)?)),
        b"panic" => panic!("the probe was asked to panic"),
        b"bytes" => bytes(&request),
        b"stream" => stream(&request),
        b"interleave" => interleave(&request),
        // Those who wait are boxed, so that the future of the others stays small.
        b"echo" => Box::pin(echo(request)).await,
        b"sha256" => Box::pin(sha256(request)).await,
        b"read" => Box::pin(read(request)).await,
        b"sleep" => Box::pin(sleep(request)).await,
        b"stderr" => Box::pin(stderr(request)).await,
        _ => Ok(Response::text("no such page\n").status(404)),
    }
}

/// The Authorizer: lets through who has PROBE_ALLOW=1, and gives the web server a variable.
pub(super) async fn authorize(request: AuthRequest) -> Decision {
    match request.param("PROBE_ALLOW") {
        Some(b"1") => Decision::allow().variable("PROBE_USER", "alice"),
        _ => Decision::deny(Response::text("denied\n").status(403)),
    }
}

/// The Filter: says what it was given.
pub(super) async fn filter(request: FilterRequest) -> Result<Response, Failure> {
    let watch = Watch::start();
    let (stdin_bytes, stdin_hash) = digest(&mut request.stdin()).await?;
    let (data_bytes, data_hash) = digest(&mut request.data()).await?;
    let mtime = String::from_utf8_lossy(request.param("FCGI_DATA_LAST_MOD").unwrap_or_default());
    let text = format!("stdin {stdin_bytes} {stdin_hash}\ndata {data_bytes} {data_hash}\nmtime {mtime}\n");
    watch.done();
    Ok(Response::text(text))
}

/// Every parameter, as JSON; the last of a name wins.
fn env(request: &Request) -> Result<Response, Trouble> {
    let pairs = request.params().iter();
    let object: serde_json::Map<_, _> =
        pairs.map(|(name, value)| (text_of(name), text_of(value).into())).collect();
    let json = serde_json::to_string_pretty(&object)?;
    Ok(Response::new(200).header("Content-Type", "application/json").body(json + "\n"))
}

fn status(request: &Request) -> Result<Response, Trouble> {
    match number(request, "code", 599_u16)? {
        code @ 100.. => Ok(Response::text(format!("{code}\n")).status(code)),
        _ => Err(Trouble::bad("code: not a number from 100 to 599")),
    }
}

fn headers() -> Response {
    Response::text("").header("Set-Cookie", "a=1").header("Set-Cookie", "b=2").header("X-Probe", "yes")
}

/// The body goes back as it comes in.
async fn echo(request: Request) -> Result<Response, Trouble> {
    let content_type = match request.param("CONTENT_TYPE") {
        None | Some(b"") => b"application/octet-stream".to_vec(),
        Some(value) if value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) => {
            return Err(Trouble::bad("CONTENT_TYPE cannot be a header value"));
        }
        Some(value) => value.to_vec(),
    };
    let mut response = Response::new(200).header("Content-Type", content_type);
    let mut stdin = request.stdin();
    let mut start = Vec::new();
    while let Some(chunk) = stdin.chunk().await? {
        start.extend_from_slice(&chunk);
        if start.len() >= ECHO_START_BYTES {
            if let Some(length) = stdin.length() {
                response = response.header("Content-Length", length.to_string());
            }
            return Ok(streamed(response, async move |stdout| echo_on(start, stdin, stdout).await));
        }
    }
    Ok(response.body(start))
}

async fn echo_on(start: Vec<u8>, mut stdin: Stdin, stdout: &mut Stdout) -> Result<(), Failure> {
    stdout.write_bytes(start.into()).await?;
    while let Some(chunk) = stdin.chunk().await? {
        stdout.write(&chunk).await?;
        // The visitor may wait for this before he sends more.
        stdout.flush().await?;
    }
    Ok(())
}

async fn sha256(request: Request) -> Result<Response, Trouble> {
    let (_, hash) = digest(&mut request.stdin()).await?;
    Ok(Response::text(format!("{hash}\n")))
}

async fn read(request: Request) -> Result<Response, Trouble> {
    let mut part = request.stdin().take(number(&request, "n", u64::MAX)?);
    let count = tokio::io::copy(&mut part, &mut tokio::io::sink()).await?;
    Ok(Response::text(format!("read {count}\n")))
}

async fn sleep(request: Request) -> Result<Response, Trouble> {
    let ms = number(&request, "ms", u64::MAX)?;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(Response::text(format!("slept {ms}\n")))
}

async fn stderr(request: Request) -> Result<Response, Trouble> {
    let mut message = argument(&request, "msg")?;
    message.push(b'\n');
    request.stderr().write(&message).await?;
    Ok(Response::text("ok\n"))
}

/// `n` bytes of which the i-th is `i % 251`.
fn bytes(request: &Request) -> Result<Response, Trouble> {
    /// Whole periods of the pattern, so that each block follows on the one before; less than a record holds.
    static BLOCK: LazyLock<Bytes> =
        LazyLock::new(|| (0..251 * 256_u32).map(|index| (index % 251) as u8).collect());
    let mut left = number(request, "n", BYTES_MAX)?;
    let response = Response::bytes("").header("Content-Length", left.to_string());
    Ok(streamed(response, async move |stdout| {
        while left > 0 {
            let block = BLOCK.slice(..BLOCK.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= block.len() as u64;
            stdout.write_bytes(block).await?;
        }
        Ok(())
    }))
}

/// Server-sent events, each on its way as soon as it is made.
fn stream(request: &Request) -> Result<Response, Trouble> {
    let chunks = number(request, "chunks", u64::MAX)?;
    let pause = Duration::from_millis(number(request, "ms", u64::MAX)?);
    let response = Response::new(200).header("Content-Type", "text/event-stream");
    Ok(streamed(response, async move |stdout| {
        for index in 0..chunks {
            if index > 0 {
                tokio::time::sleep(pause).await;
            }
            stdout.write(format!("data: {index}\n\n").as_bytes()).await?;
            stdout.flush().await?;
        }
        Ok(())
    }))
}

/// Both output streams in turns.
fn interleave(request: &Request) -> Result<Response, Trouble> {
    let rounds = number(request, "n", INTERLEAVE_MAX)?;
    let stderr = request.stderr();
    Ok(streamed(Response::text(""), async move |stdout| {
        for index in 0..rounds {
            stdout.write(format!("out {index}\n").as_bytes()).await?;
            stdout.flush().await?;
            stderr.write(format!("err {index}\n")).await?;
        }
        Ok(())
    }))
}

/// A response whose body `write` makes; one that is given up in the middle counts as cancelled.
fn streamed<F>(response: Response, write: F) -> Response
where
    F: AsyncFnOnce(&mut Stdout) -> Result<(), Failure> + 'static,
{
    response.stream(|mut stdout| async move {
        let watch = Watch::start();
        let result = write(&mut stdout).await;
        watch.done();
        result
    })
}

/// The length of a stream and its hash in lower-case hex.
async fn digest(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u64, String)> {
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 16 << 10]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    Ok((length, hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// The last segment of a path; one slash at its end is ignored.
fn page(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// An argument of the query, decoded. A plus sign is a plus sign.
fn argument(request: &Request, name: &str) -> Result<Vec<u8>, Trouble> {
    for pair in request.query().split(|byte| *byte == b'&') {
        if let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
            return Ok(percent_decode(value).collect());
        }
    }
    Err(Trouble::bad(format!("{name}: this argument is missing")))
}

/// A decimal argument, at most `max`.
fn number<N>(request: &Request, name: &str, max: N) -> Result<N, Trouble>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let text = argument(request, name)?;
    let digits = std::str::from_utf8(&text).unwrap_or_default();
    // A number that was read may have a sign; a decimal one has none.
    let number = if digits.starts_with('+') { None } else { digits.parse().ok() };
    number
        .filter(|number| *number <= max)
        .ok_or_else(|| Trouble::bad(format!("{name}: not a number up to {max}")))
}

/// Bytes as text: UTF-8, else Latin-1.
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Why a page was not made.
enum Trouble {
    /// The visitor's fault; one line says what was wrong.
    BadRequest(String),
    /// Anything else. Ringway makes an answer and a line in the log of it.
    Failure(Failure),
}

impl Trouble {
    fn bad(reason: impl Into<String>) -> Trouble {
        Trouble::BadRequest(reason.into())
    }
}

impl<E: std::error::Error + 'static> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Failure(error.into())
    }
}

/// Counts a handler that is dropped before it is done, unless it panics.
struct Watch(());

impl Watch {
    fn start() -> Watch {
        Watch(())
    }

    fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            CANCELLED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_names_the_page() {
        for (path, name) in [
            ("/hello", "hello"),
            ("/hello/", "hello"),
            ("/app/a/hello", "hello"),
            ("hello", "hello"),
            ("/hello//", ""),
            ("/", ""),
            ("", ""),
        ] {
            assert_eq!(page(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_latin_1() {
        assert_eq!(text_of("grün".as_bytes()), "grün");
        assert_eq!(text_of(b"gr\xfcn"), "grün");
    }

    #[test]
    fn handlers_are_counted_only_when_they_are_dropped() {
        let before = CANCELLED.load(Ordering::Relaxed);
        Watch::start().done();
        assert!(std::panic::catch_unwind(drop_in_panic).is_err());
        drop(Watch::start());
        assert_eq!(CANCELLED.load(Ordering::Relaxed), before + 1);
    }

    fn drop_in_panic() {
        let _watch = Watch::start();
        panic!("with a watch");
    }
}
