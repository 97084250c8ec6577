//! What a handler is given: [`Request`], [`AuthRequest`], [`FilterRequest`] and the streams to read from.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::proto::{self, RequestId, Role, WellKnown};
use crate::ring::Chunk;

use super::exchange::{Exchange, Inbox, ParamsBytes};
use super::response::Stderr;

/// The FastCGI parameters of a request: name-value pairs of bytes (FastCGI 1.0 §3.4), in the order in which they were
/// sent. Where a name came twice the last one wins in look-ups.
pub type Params = proto::Params<ParamsBytes>;

/// Why a request body could not be read to its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream ended before the length that the web server had announced (FastCGI 1.0 §6.2).
    #[error("the body ended after {received} bytes, {expected} were announced")]
    Short {
        /// `CONTENT_LENGTH`, or `FCGI_DATA_LENGTH` for a Filter's data.
        expected: u64,
        /// Bytes that arrived.
        received: u64,
    },
    /// `CONTENT_LENGTH` is not a number.
    #[error("CONTENT_LENGTH is not a number: {0:?}")]
    Malformed(String),
    /// Nothing arrived for longer than `stdin_timeout`.
    #[error("the web server sent no more of the body within the time limit (stdin_timeout)")]
    TimedOut,
    /// The body is longer than the reader allows.
    #[error("the body is longer than the {0} bytes allowed")]
    TooLong(usize),
    /// The request is over: aborted, or already answered.
    #[error("the request is over")]
    Gone,
}

impl ReadError {
    /// The HTTP status that tells the visitor: 400, 408 or 413.
    pub fn status(&self) -> u16 {
        match self {
            ReadError::TimedOut => 408,
            ReadError::TooLong(_) => 413,
            ReadError::Short { .. } | ReadError::Malformed(_) | ReadError::Gone => 400,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> io::Error {
        let kind = match error {
            ReadError::Short { .. } => io::ErrorKind::UnexpectedEof,
            ReadError::TimedOut => io::ErrorKind::TimedOut,
            ReadError::Malformed(_) | ReadError::TooLong(_) => io::ErrorKind::InvalidData,
            ReadError::Gone => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, error)
    }
}

/// What the three kinds of request have in common.
macro_rules! common_methods {
    () => {
        /// All parameters of the request.
        pub fn params(&self) -> &Params {
            &self.exchange.params
        }

        /// The value of one parameter, as bytes.
        pub fn param(&self, name: &str) -> Option<&[u8]> {
            self.exchange.params.get(name)
        }

        /// The request method; `GET` where the web server sent none.
        pub fn method(&self) -> &str {
            self.exchange.text(WellKnown::RequestMethod).unwrap_or("GET")
        }

        /// The whole path that was asked for, unescaped, byte for byte: [`script_name`](Self::script_name) followed by
        /// [`path_info`](Self::path_info). Mounts are matched with it.
        pub fn path(&self) -> Cow<'_, [u8]> {
            self.exchange.cut().path()
        }

        /// The part of the path that leads to the application: `SCRIPT_NAME` (RFC 3875 §4.1.13). It is the mount
        /// or, at the root, empty or what the web server says. The setting `script_name` takes its place.
        ///
        /// This and [`path_info`](Self::path_info) are what the web server ought to have sent: what is missing is
        /// taken from `DOCUMENT_URI` or `REQUEST_URI`, the name of a `.fcgi` file is left out, and so on. The params
        /// stay as they came.
        pub fn script_name(&self) -> Cow<'_, [u8]> {
            match &self.exchange.paths().script_name {
                Some(name) => Cow::Borrowed(name.as_bytes()),
                None => self.exchange.cut().script_name(),
            }
        }

        /// The part of the path that is the application's own: `PATH_INFO` (RFC 3875 §4.1.5), unescaped. Empty, or
        /// with a slash at its front.
        pub fn path_info(&self) -> Cow<'_, [u8]> {
            self.exchange.cut().path_info()
        }

        /// `QUERY_STRING`, without the question mark; empty where there is none.
        pub fn query(&self) -> &[u8] {
            self.exchange.params.well_known(WellKnown::QueryString).unwrap_or_default()
        }

        /// The mount under which this handler was found; `/` at the root.
        pub fn mount(&self) -> &str {
            &self.exchange.mount
        }

        /// The id of the request on its connection (FastCGI 1.0 §3.3).
        pub fn id(&self) -> RequestId {
            self.exchange.id()
        }

        /// The role that the web server asked for (FastCGI 1.0 §6).
        pub fn role(&self) -> Role {
            self.exchange.role()
        }

        /// The request's error stream: what is written here goes to the web server's error log.
        pub fn stderr(&self) -> Stderr {
            Stderr::new(self.exchange.clone())
        }
    };
}

impl Exchange {
    fn text(&self, name: WellKnown) -> Option<&str> {
        std::str::from_utf8(self.params.well_known(name)?).ok()
    }
}

/// A request to a Responder (FastCGI 1.0 §6.2): parameters, and a body to read.
#[derive(Debug)]
pub struct Request {
    exchange: Rc<Exchange>,
}

impl Request {
    /// How files are sent.
    #[cfg(feature = "http")]
    pub(crate) fn send_file(&self) -> &crate::config::SendFile {
        self.exchange.send_file()
    }

    pub(crate) fn new(exchange: Rc<Exchange>) -> Request {
        Request { exchange }
    }

    common_methods!();

    /// The peer's address, where the handler [wants](super::Responder::wants_peer) it.
    #[cfg(feature = "http")]
    pub(crate) fn peer(&self) -> Option<std::net::SocketAddr> {
        self.exchange.peer
    }

    /// The request body. Every call gives a handle on the same stream.
    pub fn stdin(&self) -> Stdin {
        Stdin { exchange: self.exchange.clone() }
    }
}

/// A request to an Authorizer (FastCGI 1.0 §6.3): parameters, no body.
#[derive(Debug)]
pub struct AuthRequest {
    exchange: Rc<Exchange>,
}

impl AuthRequest {
    pub(crate) fn new(exchange: Rc<Exchange>) -> AuthRequest {
        AuthRequest { exchange }
    }

    common_methods!();
}

/// A request to a Filter (FastCGI 1.0 §6.4): parameters, a body, and the file to filter.
#[derive(Debug)]
pub struct FilterRequest {
    exchange: Rc<Exchange>,
}

impl FilterRequest {
    pub(crate) fn new(exchange: Rc<Exchange>) -> FilterRequest {
        FilterRequest { exchange }
    }

    common_methods!();

    /// The request body. It must be read to its end before [`FilterRequest::data`] has anything.
    pub fn stdin(&self) -> Stdin {
        Stdin { exchange: self.exchange.clone() }
    }

    /// The file to filter, which follows the body; `FCGI_DATA_LENGTH` bytes.
    pub fn data(&self) -> Data {
        Data { exchange: self.exchange.clone() }
    }
}

macro_rules! input_stream {
    ($(#[$doc:meta])* $name:ident, $field:ident) => {
        $(#[$doc])*
        ///
        /// Read it chunk by chunk without copies, or as [`AsyncRead`]. One reader at a time.
        #[derive(Debug)]
        pub struct $name {
            exchange: Rc<Exchange>,
        }

        impl $name {
            /// The next piece, as it lies in the receive buffer; `None` at the end of the stream.
            pub async fn chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
                std::future::poll_fn(|cx| self.poll_chunk(usize::MAX, cx)).await
            }

            /// Reads everything that is left, at most `length_max` bytes of it.
            ///
            /// # Errors
            ///
            /// [`ReadError::TooLong`] when there is more; what was read until then is lost.
            pub async fn read_to_vec(&mut self, length_max: usize) -> Result<Vec<u8>, ReadError> {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk().await? {
                    if chunk.len() > length_max - body.len() {
                        return Err(ReadError::TooLong(length_max));
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(body)
            }

            /// How many bytes the web server announced, where it did.
            pub fn length(&self) -> Option<u64> {
                self.inbox().borrow().expected()
            }

            /// Polls for a piece of at most `length_max` bytes.
            pub fn poll_chunk(
                &mut self,
                length_max: usize,
                cx: &mut Context<'_>,
            ) -> Poll<Result<Option<Chunk>, ReadError>> {
                let over = self.exchange.is_over();
                let polled = self.inbox().borrow_mut().poll_take(length_max, over, cx);
                self.exchange.touch();
                polled
            }

            fn inbox(&self) -> &std::cell::RefCell<Inbox> {
                &self.exchange.$field
            }
        }

        impl AsyncRead for $name {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if buffer.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                match std::task::ready!(self.poll_chunk(buffer.remaining(), cx))? {
                    Some(chunk) => buffer.put_slice(&chunk),
                    None => {}
                }
                Poll::Ready(Ok(()))
            }
        }
    };
}

input_stream!(
    /// The body of a request: the STDIN stream (FastCGI 1.0 §5.3), capped at `CONTENT_LENGTH`.
    Stdin,
    stdin
);
input_stream!(
    /// The file that a Filter works on: the DATA stream (FastCGI 1.0 §6.4), capped at `FCGI_DATA_LENGTH`.
    Data,
    data
);
