//! A server that was started as a plain CGI program (RFC 3875): one request on stdin and stdout, then the end.
//!
//! ```text
//!   web server ── environment, stdin ──▶ client ── FastCGI, a pair of sockets ──▶ server
//!              ◀──────── stdout, stderr ──┘
//! ```
//!
//! The application sees no difference, for it is served by the same engine.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{self, Client, End, Part, Request, Upload};
use crate::{Builder, Role};

/// Why the request could not be answered as a CGI program answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server inside did not start.
    #[error(transparent)]
    Server(#[from] crate::Error),
    /// The exchange with it broke off.
    #[error(transparent)]
    Exchange(#[from] client::Error),
    /// The request ended incomplete, or with an app status other than 0.
    #[error("{0}")]
    Failed(End),
    /// The web server takes no more of the answer.
    #[error("the web server takes no more of the answer: {0}")]
    Unread(#[source] io::Error),
    /// The operating system refuses what it takes.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a CGI environment must have (RFC 3875 4.1), for the web server or the shell that leaves it out.
const DEFAULTS: [(&str, &str); 6] = [
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("REQUEST_METHOD", "GET"),
    ("SCRIPT_NAME", ""),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
];

/// Bytes of the request body read at a time.
const READ_BYTES: usize = 32 << 10;

/// Whether the process was started as a CGI program: its environment is one, and descriptor 0 is no listening socket
/// (FastCGI 2.2). `FCGI_FORCE_CGI=Y` decides without looking.
pub fn is_meant() -> bool {
    if variable("FCGI_FORCE_CGI").first().is_some_and(|first| first.eq_ignore_ascii_case(&b'y')) {
        return true;
    }
    let is_listening = socket2::SockRef::from(&io::stdin()).is_listener().unwrap_or(false);
    let has = |name| std::env::var_os(name).is_some();
    !is_listening && (has("GATEWAY_INTERFACE") || has("REQUEST_METHOD"))
}

/// Answers the request, with a server that has no other connection.
///
/// # Errors
///
/// [`Error`] says what failed; a CGI program then exits with 1.
pub fn answer(server: Builder) -> Result<(), Error> {
    let (near, far) = UnixStream::pair()?;
    // Dropped last: that stops it.
    let _server = server.workers(1).connection(far).start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        near.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(near)?;
        exchange(&Client::over(stream, None)).await
    });
    // A thread may still wait for more of stdin.
    runtime.shutdown_background();
    outcome
}

async fn exchange(client: &Client) -> Result<(), Error> {
    let client::Exchange { stdin, mut answer, .. } = client.begin(&request())?;
    let sending = tokio::spawn(send_body(stdin));
    let mut stdout = tokio::io::stdout();
    let end = loop {
        match answer.next().await? {
            Some(Part::Stdout(bytes)) => {
                stdout.write_all(&bytes).await.map_err(Error::Unread)?;
                stdout.flush().await.map_err(Error::Unread)?;
            }
            // Nobody has to read it.
            Some(Part::Stderr(bytes)) => drop(io::stderr().write_all(&bytes)),
            Some(Part::End(end)) => break end,
            None => return Err(client::Error::Closed.into()),
        }
    };
    sending.abort();
    if end.is_complete() && end.app_status == 0 { Ok(()) } else { Err(Error::Failed(end)) }
}

/// The request that the environment describes. All of it is passed on, as CGI has no list of what belongs to it.
fn request() -> Request {
    let bare = Request::bare(Role::Responder).keep_conn(false);
    let request = DEFAULTS.into_iter().fold(bare, |request, (name, value)| request.param(name, value));
    let variables = std::env::vars_os().filter(|(name, _)| name.as_bytes() != b"FCGI_FORCE_CGI");
    variables.fold(request, |request, (name, value)| request.param(name.as_bytes(), value.as_bytes()))
}

/// RFC 3875 4.2: stdin has CONTENT_LENGTH bytes and need not end after them; without CONTENT_LENGTH there is no body,
/// but for chunked ones, whose end is that of stdin.
async fn send_body(mut upload: Upload) -> Result<(), client::Error> {
    let length =
        std::str::from_utf8(&variable("CONTENT_LENGTH")).ok().and_then(|text| text.trim().parse().ok());
    let is_chunked = variable("HTTP_TRANSFER_ENCODING").eq_ignore_ascii_case(b"chunked");
    let mut stdin = tokio::io::stdin().take(length.unwrap_or(if is_chunked { u64::MAX } else { 0 }));
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // What cannot be read has ended; the engine finds out that it is too short.
        match stdin.read(&mut buffer).await.unwrap_or(0) {
            0 => return upload.end().await,
            count => upload.write(&buffer[..count]).await?,
        }
    }
}

fn variable(name: impl AsRef<OsStr>) -> Vec<u8> {
    std::env::var_os(name).unwrap_or_default().as_bytes().to_vec()
}
