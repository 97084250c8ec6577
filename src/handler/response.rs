//! What a handler gives back: [`Response`] and [`Decision`], and the streams to write to.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use super::LocalBoxFuture;
use super::exchange::{Exchange, OutStream};
use super::request::ReadError;

/// The peer takes no more output of this request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The request is over: aborted, its connection closed, or already answered.
    #[error("the request is over, nothing more can be written to it")]
    Gone,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, error)
    }
}

/// Why a handler could not answer. The visitor gets the status (500 unless the request itself was at fault), the web
/// server's error log gets the text, and the request ends with a non-zero app status.
///
/// Any error converts into it, so handlers that return `Result<Response, Failure>` use `?` freely.
pub struct Failure {
    status: u16,
    text: String,
}

impl Failure {
    /// A failure with a text for the log.
    pub fn new(text: impl fmt::Display) -> Failure {
        Failure { status: 500, text: text.to_string() }
    }

    /// A failure that the visitor sees as this status.
    #[cfg(feature = "http")]
    pub(crate) fn with_status(status: u16, text: impl fmt::Display) -> Failure {
        Failure { status, text: text.to_string() }
    }

    /// The failure that an error stands for, with what caused it.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Failure {
        let (mut text, mut fault) = (error.to_string(), read_error(error));
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            fault = fault.or_else(|| read_error(cause));
            source = cause.source();
        }
        Failure { status: fault.map_or(500, ReadError::status), text }
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({}: {})", self.status, self.text)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::of(&error)
    }
}

/// The request body's fault, where it is what made an error.
fn read_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e ReadError> {
    let inner = error.downcast_ref().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| inner?.downcast_ref())
}

const CONTENT_TYPE: &str = "Content-Type";

type Header = (Cow<'static, str>, Cow<'static, [u8]>);
type StreamBody = Box<dyn FnOnce(Stdout) -> LocalBoxFuture<Result<(), Failure>>>;

/// The body of a [`Response`].
pub(crate) enum Body {
    /// All of it is there.
    Bytes(Bytes),
    /// A future that writes it.
    Stream(StreamBody),
}

/// An HTTP answer: status, headers and a body that is there or is written as a stream.
///
/// It goes out as a CGI response (RFC 3875 §6): a head of `Status` and header lines, an empty line, the body. A head
/// with a byte that could end a line early (CR, LF, NUL), or with a header name that is no token, is never sent; the
/// visitor gets a 500 instead and the log names the header.
///
/// A body that is there gets a `Content-Length`. No `Content-Type` is guessed. The bodies of answers to HEAD, of 1xx,
/// 204 and 304 are not sent.
pub struct Response {
    status: u16,
    headers: Headers,
    body: Body,
    app_status: u32,
    /// Boxed: answers are moved around, failures are rare.
    failure: Option<Box<Failure>>,
}

impl Response {
    /// An answer with this HTTP status (100 to 999), no headers and an empty body.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            headers: Headers::Pairs(SmallVec::new()),
            body: Body::Bytes(Bytes::new()),
            app_status: 0,
            failure: None,
        }
    }

    /// `200` with a `text/plain` body.
    pub fn text(body: impl Into<Bytes>) -> Response {
        Response::of_type("text/plain", body.into())
    }

    /// `200` with an `application/octet-stream` body.
    pub fn bytes(body: impl Into<Bytes>) -> Response {
        Response::of_type("application/octet-stream", body.into())
    }

    #[inline]
    fn of_type(content_type: &'static str, body: Bytes) -> Response {
        let header = (Cow::Borrowed(CONTENT_TYPE), Cow::Borrowed(content_type.as_bytes()));
        Response {
            status: 200,
            headers: Headers::Pairs(SmallVec::from_buf([header])),
            body: Body::Bytes(body),
            app_status: 0,
            failure: None,
        }
    }

    /// What a failure looks like to the visitor: its status and nothing else.
    pub(crate) fn failure(failure: Failure) -> Response {
        let status = failure.status;
        let text = if status == 500 { "Internal Server Error\n".into() } else { format!("{failure}\n") };
        Response { failure: Some(Box::new(failure)), app_status: 1, ..Response::text(text).status(status) }
    }

    /// Changes the status.
    pub fn status(mut self, status: u16) -> Response {
        self.status = status;
        self
    }

    /// Adds a header; one that is already there stays, as `Set-Cookie` needs it. `Status` is set by
    /// [`Response::status`] and refused here.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl IntoHeaderValue) -> Response {
        self.headers.push(name.into(), value.into_header_value());
        self
    }

    /// Sets the body. It is sent from where it lies, without copies, where it is large.
    pub fn body(mut self, body: impl Into<Bytes>) -> Response {
        self.body = Body::Bytes(body.into());
        self
    }

    /// Sets a body that is written while it is sent. `write` gets the output stream once the head is on its way; the
    /// answer ends when its future does. An error there ends the request visibly incomplete.
    pub fn stream<F, Fut, E>(mut self, write: F) -> Response
    where
        F: FnOnce(Stdout) -> Fut + 'static,
        Fut: Future<Output = Result<(), E>> + 'static,
        E: Into<Failure>,
    {
        self.body = Body::Stream(Box::new(|stdout| {
            let body = write(stdout);
            Box::pin(async { body.await.map_err(Into::into) })
        }));
        self
    }

    /// Sets the app status of END_REQUEST (FastCGI 1.0 §5.5): for a Responder what a CGI program's exit code would be.
    /// Mainstream web servers do not read it; FastCGI clients may.
    pub fn app_status(mut self, app_status: u32) -> Response {
        self.app_status = app_status;
        self
    }

    /// An answer whose header lines are written already.
    #[cfg(feature = "http")]
    pub(crate) fn with_lines(status: u16, lines: HeaderLines) -> Response {
        Response { headers: Headers::Lines(lines), ..Response::new(status) }
    }

    pub(crate) fn into_parts(self) -> (Head, Body, Option<Box<Failure>>) {
        (
            Head { status: self.status, headers: self.headers, app_status: self.app_status },
            self.body,
            self.failure,
        )
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A header value: text or bytes.
pub trait IntoHeaderValue {
    /// The bytes after `name: `.
    fn into_header_value(self) -> Cow<'static, [u8]>;
}

impl IntoHeaderValue for &'static str {
    fn into_header_value(self) -> Cow<'static, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl IntoHeaderValue for String {
    fn into_header_value(self) -> Cow<'static, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl IntoHeaderValue for Vec<u8> {
    fn into_header_value(self) -> Cow<'static, [u8]> {
        Cow::Owned(self)
    }
}

/// What handlers may return.
pub trait IntoResponse {
    /// The answer that this stands for.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl<T: IntoResponse, E: Into<Failure>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(response) => response.into_response(),
            Err(error) => Response::failure(error.into()),
        }
    }
}

/// The headers of a [`Response`].
enum Headers {
    /// As a handler gave them; they are still to be checked.
    Pairs(SmallVec<[Header; 1]>),
    #[cfg(feature = "http")]
    Lines(HeaderLines),
}

impl Headers {
    fn push(&mut self, name: Cow<'static, str>, value: Cow<'static, [u8]>) {
        match self {
            Headers::Pairs(pairs) => pairs.push((name, value)),
            #[cfg(feature = "http")]
            Headers::Lines(lines) => {
                lines.has_location |= is_header(&name, "Location");
                lines.has_content_type |= is_header(&name, CONTENT_TYPE);
                lines.has_content_length |= is_header(&name, "Content-Length");
                lines.push(&name, &value);
            }
        }
    }
}

/// Header lines as they are sent, of names and values that cannot hold a forbidden byte.
#[cfg(feature = "http")]
#[derive(Default)]
pub(crate) struct HeaderLines {
    pub(crate) bytes: Vec<u8>,
    pub(crate) has_location: bool,
    pub(crate) has_content_type: bool,
    pub(crate) has_content_length: bool,
}

#[cfg(feature = "http")]
impl HeaderLines {
    /// Appends a line. Of the three headers that the head of an answer depends on the caller notes that they are there.
    pub(crate) fn push(&mut self, name: &str, value: &[u8]) {
        write_line(&mut self.bytes, name, value);
    }
}

/// Which headers are there of those that decide what else a head needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    location: bool,
    content_type: bool,
    content_length: bool,
}

/// Everything of a [`Response`] but its body.
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Headers,
    pub(crate) app_status: u32,
}

/// A head that must not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("header {0:?} has a name that is not a token (RFC 9110 5.1), or is Status")]
    Name(String),
    #[error("the value of header {0:?} contains a carriage return, line feed or NUL")]
    Value(String),
    #[error("status {0} is not between 100 and 999")]
    Status(u16),
}

impl Head {
    /// Whether an answer with this status may have a body (RFC 9110 §6.4.1).
    pub(crate) fn allows_body(&self) -> bool {
        !matches!(self.status, 100..=199 | 204 | 304)
    }

    /// A bound on what [`Head::write`] writes.
    pub(crate) fn size_hint(&self) -> usize {
        128 + match &self.headers {
            Headers::Pairs(pairs) => {
                pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
            }
            #[cfg(feature = "http")]
            Headers::Lines(lines) => lines.bytes.len(),
        }
    }

    /// Checks the head; nothing may be written of one that fails. Tells which of the headers that matter it has.
    pub(crate) fn check(&self) -> Result<Known, BadHead> {
        if !(100..=999).contains(&self.status) {
            return Err(BadHead::Status(self.status));
        }
        match &self.headers {
            Headers::Pairs(pairs) => check_pairs(pairs),
            // These cannot hold what must not be sent.
            #[cfg(feature = "http")]
            Headers::Lines(lines) => Ok(Known {
                location: lines.has_location,
                content_type: lines.has_content_type,
                content_length: lines.has_content_length,
            }),
        }
    }

    /// Writes a checked head and the empty line after it.
    pub(crate) fn write(&self, known: Known, out: &mut Vec<u8>, content_length: Option<usize>) {
        out.reserve(self.size_hint());
        // RFC 3875 6.3.3: no Status means 200, and a Location without one means 302. 6.3: a head has at least one of
        // Content-Type, Location and Status.
        if self.status != 200 || known.location || !known.content_type {
            out.extend_from_slice(b"Status: ");
            out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
            if let Some(reason) = reason(self.status) {
                out.push(b' ');
                out.extend_from_slice(reason.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        match &self.headers {
            Headers::Pairs(pairs) => pairs.iter().for_each(|(name, value)| write_line(out, name, value)),
            #[cfg(feature = "http")]
            Headers::Lines(lines) => out.extend_from_slice(&lines.bytes),
        }
        if let Some(length) = content_length
            && self.allows_body()
            && !known.content_length
        {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn check_pairs(pairs: &[Header]) -> Result<Known, BadHead> {
    let mut known = Known::default();
    for (name, value) in pairs {
        // The header of nearly every answer needs no look at each byte.
        if name == CONTENT_TYPE {
            known.content_type = true;
        } else if !is_token(name.as_bytes()) || is_header(name, "Status") {
            return Err(BadHead::Name(name.to_string()));
        } else {
            known.location |= is_header(name, "Location");
            known.content_type |= is_header(name, CONTENT_TYPE);
            known.content_length |= is_header(name, "Content-Length");
        }
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(BadHead::Value(name.to_string()));
        }
    }
    Ok(known)
}

fn write_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Header names do not differ by case (RFC 9110 §5.1), and mostly are written as here.
#[inline(always)]
fn is_header(name: &str, wanted: &'static str) -> bool {
    name.len() == wanted.len() && (name == wanted || name.eq_ignore_ascii_case(wanted))
}

/// RFC 9110 §5.6.2.
fn is_token(name: &[u8]) -> bool {
    const IS_TOKEN: [bool; 256] = {
        let mut is_token = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            is_token[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            is_token[others[at] as usize] = true;
            at += 1;
        }
        is_token
    };
    !name.is_empty() && name.iter().all(|byte| IS_TOKEN[usize::from(*byte)])
}

/// The reason phrases of RFC 9110 §15 that applications meet.
fn reason(status: u16) -> Option<&'static str> {
    Some(match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => return None,
    })
}

/// What an Authorizer decides (FastCGI 1.0 §6.3).
#[derive(Debug)]
pub struct Decision {
    response: Response,
}

impl Decision {
    /// Lets the request through: `200`.
    pub fn allow() -> Decision {
        Decision { response: Response::new(200) }
    }

    /// Refuses it; the visitor gets this answer. Its status must not be 200, which would allow the request: 200 is
    /// sent as 403.
    pub fn deny(response: Response) -> Decision {
        let status = if response.status == 200 { 403 } else { response.status };
        Decision { response: response.status(status) }
    }

    /// Gives the web server a variable to hand on to the protected resource (`Variable-NAME` header).
    pub fn variable(self, name: &str, value: impl IntoHeaderValue) -> Decision {
        Decision { response: self.response.header(format!("Variable-{name}"), value) }
    }
}

impl From<Decision> for Response {
    fn from(decision: Decision) -> Response {
        decision.response
    }
}

/// What authorizers may return. An error denies.
pub trait IntoDecision {
    /// The decision that this stands for.
    fn into_decision(self) -> Decision;
}

impl IntoDecision for Decision {
    fn into_decision(self) -> Decision {
        self
    }
}

impl<E: Into<Failure>> IntoDecision for Result<Decision, E> {
    fn into_decision(self) -> Decision {
        match self {
            Ok(decision) => decision,
            Err(error) => Decision::deny(Response::failure(error.into())),
        }
    }
}

/// The output stream of an answer: STDOUT (FastCGI 1.0 §5.3), after the head.
///
/// Writes gather into records of about 16 KiB; [`Stdout::flush`] ends a record, so that the web server gets what was
/// written so far. A writer waits while more than `stdout_window_bytes` are unsent.
#[derive(Debug)]
pub struct Stdout {
    exchange: Rc<Exchange>,
}

impl Stdout {
    pub(crate) fn new(exchange: Rc<Exchange>) -> Stdout {
        Stdout { exchange }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// [`WriteError::Gone`] when the request is over.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let mut left = bytes;
        while !left.is_empty() {
            let count = std::future::poll_fn(|cx| self.poll_some(left, cx)).await?;
            left = &left[count..];
        }
        Ok(())
    }

    /// Sends `bytes` from where they are, without copies, in records of their own.
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        std::future::poll_fn(|cx| {
            let over = self.exchange.is_over();
            let polled = self.exchange.out.borrow_mut().poll_room(over, cx);
            self.exchange.touch();
            polled
        })
        .await?;
        self.exchange.out.borrow_mut().write_shared(OutStream::Stdout, bytes);
        self.exchange.touch();
        Ok(())
    }

    /// Ends the record that is being filled, so that it goes to the web server with the worker's next turn.
    pub async fn flush(&mut self) -> Result<(), WriteError> {
        if self.exchange.is_over() {
            return Err(WriteError::Gone);
        }
        self.exchange.out.borrow_mut().flush();
        self.exchange.touch();
        Ok(())
    }

    fn poll_some(&mut self, bytes: &[u8], cx: &Context<'_>) -> Poll<Result<usize, WriteError>> {
        let mut out = self.exchange.out.borrow_mut();
        let room = out.poll_room(self.exchange.is_over(), cx);
        self.exchange.touch();
        let count = std::task::ready!(room)?.min(bytes.len());
        out.write(OutStream::Stdout, &bytes[..count]);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_some(bytes, cx).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.out.borrow_mut().flush();
        self.exchange.touch();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// The error stream of a request: STDERR (FastCGI 1.0 §5.3). Web servers write it to their error log, a line for
/// every record, so write whole lines.
#[derive(Clone, Debug)]
pub struct Stderr {
    exchange: Rc<Exchange>,
}

impl Stderr {
    pub(crate) fn new(exchange: Rc<Exchange>) -> Stderr {
        Stderr { exchange }
    }

    /// Writes `text` as one record (up to 65,528 bytes), so that a line stays a line. Waits while too much is unsent,
    /// as [`Stdout::write`] does.
    ///
    /// # Errors
    ///
    /// [`WriteError::Gone`] when the request is over.
    pub async fn write(&self, text: impl AsRef<[u8]>) -> Result<(), WriteError> {
        let text = text.as_ref();
        std::future::poll_fn(|cx| {
            let mut out = self.exchange.out.borrow_mut();
            let room = out.poll_room(self.exchange.is_over(), cx);
            self.exchange.touch();
            std::task::ready!(room)?;
            out.write(OutStream::Stderr, text);
            out.flush();
            Poll::Ready(Ok(()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: Response) -> String {
        let (head, body, _) = response.into_parts();
        let known = head.check().unwrap();
        let Body::Bytes(body) = body else { panic!("no body") };
        let mut out = Vec::new();
        head.write(known, &mut out, Some(body.len()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_200_needs_no_status_line() {
        assert_eq!(
            head(Response::text("Hello, world!\n")),
            "Content-Type: text/plain\r\nContent-Length: 14\r\n\r\n"
        );
    }

    #[test]
    fn status_is_written_where_its_absence_would_mean_something_else() {
        assert_eq!(head(Response::new(404)), "Status: 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(
            head(Response::new(200).header("location", "/x")),
            "Status: 200 OK\r\nlocation: /x\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(head(Response::new(200)), "Status: 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(head(Response::new(299)), "Status: 299\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(head(Response::new(204)), "Status: 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_head_that_could_be_split_is_refused() {
        for value in ["a\rb", "a\nb", "a\0b", "a\r\n\r\n<script>"] {
            let (head, ..) = Response::new(200).header("X-A", value).into_parts();
            assert!(matches!(head.check(), Err(BadHead::Value(_))), "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "Status", "stAtus", "gr\u{fc}n"] {
            let (head, ..) = Response::new(200).header(name, "x").into_parts();
            assert!(matches!(head.check(), Err(BadHead::Name(_))), "{name:?}");
        }
        for status in [0, 99, 1000] {
            let (head, ..) = Response::new(status).into_parts();
            assert!(matches!(head.check(), Err(BadHead::Status(_))), "{status}");
        }
    }

    #[test]
    fn a_denial_is_never_a_200() {
        let response: Response = Decision::deny(Response::text("no\n")).into();
        assert_eq!(response.status, 403);
        let response: Response = Decision::deny(Response::new(302)).into();
        assert_eq!(response.status, 302);
    }

    #[test]
    fn the_visitors_fault_is_not_a_500() {
        assert_eq!(Failure::from(ReadError::Gone).status, 400);
        assert_eq!(Failure::from(io::Error::from(ReadError::TooLong(5))).status, 413);
        assert_eq!(Failure::from(io::Error::other("disk")).status, 500);
        assert_eq!(Failure::new("x").status, 500);
    }
}
