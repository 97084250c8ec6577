//! A hello through FastCGI: does the other end speak it, and does it serve a page.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ringway::client::{Client, Complete, Error, HeadParser, Request};
use ringway::proto::wire::variable;
use ringway::proto::{ErrorKind, Limits, Params, RecordType, encoder};
use socket2::Socket;

use super::{Finding, Report};
use crate::cli::records::{Piece, Records};
use crate::cli::socket::is_timeout;

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long another protocol's server is waited for, at most.
const GUESS_MAX: Duration = Duration::from_secs(1);
/// Characters of the application's own words that are shown.
const WORDS_MAX: usize = 200;

/// Makes a connection, as the web server would.
type Connect<'c> = &'c dyn Fn() -> io::Result<Socket>;

/// What came back first.
enum Hello {
    /// FastCGI, with what is to be said of it.
    Speaks(String),
    /// Bytes that begin no record.
    Strange(Vec<u8>),
    Closes,
    Silent,
}

/// Asks for variables, and then for a page.
pub(super) fn hello(connect: Connect<'_>, mount: &str, uri: &str, timeout: Duration, report: &mut Report) {
    let hello = ask_values(connect).unwrap_or(Hello::Closes);
    if let Hello::Strange(bytes) = &hello {
        report.add("protocol", strange(bytes, connect, timeout));
        return;
    }
    let answer =
        connect().map_err(|error| error.to_string()).and_then(|socket| get(socket, mount, uri, timeout));
    match (hello, answer) {
        (Hello::Speaks(text), answer) => {
            report.add("protocol", Finding::ok(text));
            report.add("request", page(uri, answer, timeout));
        }
        // Not every application answers the question.
        (_, Ok(answer @ Ok(_) | answer @ Err(Error::Head(_)))) => {
            report.add("protocol", Finding::ok("FastCGI; FCGI_GET_VALUES is not answered"));
            report.add("request", page(uri, Ok(answer), timeout));
        }
        (_, Ok(Err(Error::Protocol(error)))) => {
            let first = match error.kind {
                ErrorKind::Version(version) => vec![version],
                _ => Vec::new(),
            };
            report.add("protocol", strange(&first, connect, timeout));
        }
        (hello, _) => {
            report.add("protocol", other(&hello, connect, timeout));
        }
    }
}

/// FCGI_GET_VALUES (FastCGI 4.1).
fn ask_values(connect: Connect<'_>) -> io::Result<Hello> {
    let mut socket = connect()?;
    let mut question = Vec::new();
    encoder::get_values(&mut question, [variable::MAX_CONNS, variable::MAX_REQS, variable::MPXS_CONNS]);
    socket.write_all(&question)?;
    let mut records = Records::new(&socket);
    let hello = match records.next() {
        Ok(Piece::Record { header, content, .. }) => match header.record_type {
            RecordType::GetValuesResult => Hello::Speaks(values(content)),
            other => Hello::Speaks(format!("FastCGI; FCGI_GET_VALUES is answered with {other}")),
        },
        Ok(Piece::Strange { bytes, .. }) => Hello::Strange(bytes.to_vec()),
        Err(error) if is_timeout(&error) => Hello::Silent,
        Ok(Piece::End | Piece::Cut { .. }) | Err(_) => Hello::Closes,
    };
    Ok(hello)
}

fn values(content: &[u8]) -> String {
    let Ok(params) = Params::parse(content, &Limits::default()) else {
        return "FastCGI; the answer to FCGI_GET_VALUES cannot be read".to_owned();
    };
    let pairs =
        params.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    let text = pairs.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "FastCGI; FCGI_GET_VALUES names nothing".to_owned()
    } else {
        format!("FastCGI; {text}")
    }
}

/// What the request gave: no connection or runtime, an error on the way, a whole answer.
type Got = Result<Result<Complete, Error>, String>;

fn get(socket: Socket, mount: &str, uri: &str, timeout: Duration) -> Got {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let client = client_over(socket).map_err(|error| error.to_string())?;
        let request = Request::new("GET", uri).mount(mount).keep_conn(false);
        let asking = async {
            let mut exchange = client.begin(&request)?;
            // An application may answer without having read everything.
            let _ = exchange.stdin.end().await;
            exchange.answer.complete(ANSWER_BYTES_MAX).await
        };
        match tokio::time::timeout(timeout, asking).await {
            Ok(result) => Ok(result),
            Err(_) => Err(format!("no answer within {timeout:?}")),
        }
    })
}

fn client_over(socket: Socket) -> io::Result<Client> {
    socket.set_nonblocking(true)?;
    let is_unix = socket.domain()? == socket2::Domain::UNIX;
    let descriptor = OwnedFd::from(socket);
    Ok(if is_unix {
        Client::over(tokio::net::UnixStream::from_std(descriptor.into())?, None)
    } else {
        Client::over(tokio::net::TcpStream::from_std(descriptor.into())?, None)
    })
}

/// What there is to say of the answer.
fn page(uri: &str, answer: Got, timeout: Duration) -> Finding {
    let complete = match answer {
        Ok(Ok(complete)) => complete,
        Ok(Err(error)) => {
            let remedy = error.remedy().unwrap_or("look into the application's log");
            return Finding::wrong(format!("GET {uri}: {error}"), remedy);
        }
        Err(error) => {
            let remedy = format!(
                "it speaks FastCGI and then hangs: look into its log; more time: --timeout {timeout:?}"
            );
            return Finding::wrong(format!("GET {uri}: {error}"), remedy);
        }
    };
    let said = words(&complete.stderr);
    let php = ["Primary script unknown", "No input file specified"];
    let has = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        php.iter().any(|words| text.contains(words))
    };
    if has(&complete.stderr) || has(&complete.stdout) {
        return Finding::wrong(
            format!("GET {uri}: PHP answers here, and finds no script (Primary script unknown)"),
            "give the address of your application; if PHP is what you want, SCRIPT_FILENAME must name a file \
             that PHP's user can read",
        );
    }
    if !complete.end.is_complete() {
        let remedy = "the application is at its limits or refuses the role: look into its log";
        return Finding::wrong(format!("GET {uri} is refused: {}{said}", complete.end), remedy);
    }
    let mut parser = HeadParser::default();
    let (head, body) = match parser.push(&complete.stdout) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return headless(uri, &parser.truncated().to_string(), &said),
        Err(error) => return headless(uri, &error.to_string(), &said),
    };
    let (status, length) = (head.status, body.len());
    match status {
        500.. => Finding::wrong(
            format!("GET {uri} is answered with {status}{said}"),
            "the application itself failed: look into its log, or its standard error",
        ),
        404 => Finding::note(
            format!("GET {uri} is answered with 404: the application is reached, and has no such page"),
            "ask for a page that it has with --uri; if it is mounted under a prefix, give --mount, and see that \
             the web server passes SCRIPT_NAME and PATH_INFO",
        ),
        _ => Finding::ok(format!("GET {uri} is answered with {status}, {length} bytes; {}", complete.end)),
    }
}

/// What a web server calls premature end of script headers.
fn headless(uri: &str, error: &str, said: &str) -> Finding {
    Finding::wrong(
        format!("GET {uri}: no response head (premature end of script headers): {error}{said}"),
        "the application ended or printed something else before it had written `Name: value` lines and an \
         empty line: look into its log for a traceback, and let it print nothing by itself",
    )
}

/// The application's own words, if there are any.
fn words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text: String = text.trim().chars().take(WORDS_MAX).collect();
    if text.is_empty() { text } else { format!("; it says {text:?}") }
}

/// A server of another protocol, by its first bytes.
fn strange(bytes: &[u8], connect: Connect<'_>, timeout: Duration) -> Finding {
    match bytes {
        [b'H', ..] | [b'<', ..] => http(),
        _ => guess(connect, timeout).unwrap_or_else(|| {
            let rule = ErrorKind::Version(bytes.first().copied().unwrap_or_default());
            let start: String =
                bytes.iter().take(40).copied().flat_map(std::ascii::escape_default).map(char::from).collect();
            Finding::wrong(
                format!("something other than FastCGI listens here: it answers {start:?}: {rule}"),
                "give the address of the application, or make it speak FastCGI",
            )
        }),
    }
}

/// Nothing that can be understood came back.
fn other(hello: &Hello, connect: Connect<'_>, timeout: Duration) -> Finding {
    guess(connect, timeout).unwrap_or_else(|| match hello {
        Hello::Silent => Finding::wrong(
            format!("connections are accepted, and nothing is said within {timeout:?}"),
            "the application hangs, or waits for another protocol: look into its log and restart it",
        ),
        _ => Finding::wrong(
            "the connection is closed without a word".to_owned(),
            "it is no FastCGI application, or it refuses this peer: look into its log, and at \
             FCGI_WEB_SERVER_ADDRS in its environment",
        ),
    })
}

fn http() -> Finding {
    Finding::wrong(
        "an HTTP server listens here, not a FastCGI application",
        "proxy to it with proxy_pass (nginx) or http:// (Apache's ProxyPass), or give the address where FastCGI \
         is spoken",
    )
}

/// Speaks to it in other protocols.
fn guess(connect: Connect<'_>, timeout: Duration) -> Option<Finding> {
    let answers = |question: &[u8], beginnings: &[&[u8]]| {
        let heard = first_bytes(connect, question, timeout).unwrap_or_default();
        beginnings.iter().any(|beginning| heard.starts_with(beginning))
    };
    if answers(b"GET / HTTP/1.0\r\n\r\n", &[b"HTTP/"]) {
        return Some(http());
    }
    if answers(&uwsgi(), &[b"HTTP/", b"Status:"]) {
        return Some(Finding::wrong(
            "a uwsgi server listens here, not a FastCGI application",
            "use uwsgi_pass (nginx), or start uWSGI with --fastcgi-socket, or give the address where FastCGI is \
             spoken",
        ));
    }
    if answers(&scgi(), &[b"Status:", b"HTTP/", b"Content-"]) {
        return Some(Finding::wrong(
            "an SCGI server listens here, not a FastCGI application",
            "use scgi_pass (nginx), or give the address where FastCGI is spoken",
        ));
    }
    None
}

fn first_bytes(connect: Connect<'_>, question: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut socket = connect()?;
    socket.set_read_timeout(Some(timeout.min(GUESS_MAX)))?;
    socket.write_all(question)?;
    let mut bytes = vec![0; 64];
    let count = socket.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// A request of the uwsgi protocol: modifier 0, the length of the variables, each with its own length before
/// it, little-endian.
fn uwsgi() -> Vec<u8> {
    let mut variables = Vec::new();
    for text in VARIABLES.iter().flat_map(|(name, value)| [*name, *value]) {
        variables.extend((text.len() as u16).to_le_bytes());
        variables.extend(text.as_bytes());
    }
    let [low, high] = (variables.len() as u16).to_le_bytes();
    [&[0, low, high, 0], variables.as_slice()].concat()
}

/// A request of SCGI: the headers as a netstring, each text ended by a NUL.
fn scgi() -> Vec<u8> {
    let first = [("CONTENT_LENGTH", "0"), ("SCGI", "1")];
    let mut headers = Vec::new();
    for text in first.iter().chain(VARIABLES).flat_map(|(name, value)| [*name, *value]) {
        headers.extend(text.as_bytes());
        headers.push(0);
    }
    [headers.len().to_string().as_bytes(), b":", headers.as_slice(), b","].concat()
}

const VARIABLES: &[(&str, &str)] = &[
    ("REQUEST_METHOD", "GET"),
    ("REQUEST_URI", "/"),
    ("PATH_INFO", "/"),
    ("SCRIPT_NAME", ""),
    ("QUERY_STRING", ""),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
    ("HTTP_HOST", "localhost"),
];
