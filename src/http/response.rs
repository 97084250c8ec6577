//! From an `http::Response` to a [`Response`].

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use http_body::{Body as HttpBody, Frame};
use tokio::io::AsyncWrite;

use crate::handler::{Failure, File, HeaderLines, Request, Response, Stdout};

use super::BoxError;
use super::context::Ending;

/// Whether nginx may gather an answer before it sends it on.
const NGINX_BUFFERING: &str = "x-accel-buffering";

/// A body of a known length up to this is collected and goes out with its head.
const WHOLE_BYTES_MAX: u64 = 16 * 1024;

/// A frame up to this is copied beside its neighbours into one record; a larger one is sent from where it is.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// What to do with a service's answer. Each `response` has its head.
pub(super) enum Plan {
    /// It cannot be sent.
    Refuse(Failure),
    /// There is no body to be sent.
    Bare(Response),
    /// The body is small enough to go out with its head.
    Whole { response: Response, length: u64 },
    /// The body is sent as it comes. `length`: what was announced of it.
    Stream { response: Response, length: Option<u64> },
}

/// The file in place of a service's body, with the headers that the service gave.
pub(super) async fn with_file(headers: &HeaderMap, file: File, request: &Request) -> Response {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let file = match given {
        Some(content_type) => file.content_type(content_type.to_owned()),
        None => file,
    };
    let response = file.respond(request).await;
    let others = headers.iter().filter(|(name, _)| !matches!(**name, CONTENT_TYPE | CONTENT_LENGTH));
    others.fold(response, |response, (name, value)| {
        response.header(name.as_str().to_owned(), value.as_bytes().to_vec())
    })
}

pub(super) fn plan<B: HttpBody>(answer: &http::Response<B>, is_head: bool) -> Plan {
    let status = answer.status().as_u16();
    let (mut lines, announced) = match lines_of(answer.headers()) {
        Ok(lines) => lines,
        Err(failure) => return Plan::Refuse(failure),
    };
    let known = answer.body().size_hint().exact();
    if is_head || matches!(status, 100..=199 | 204 | 304) {
        // An answer to HEAD has the length that one to GET would have, where somebody knows it: an empty body mostly
        // stands for one that was left out.
        if let (true, None, Some(length @ 1..)) = (is_head, announced, known) {
            push_length(&mut lines, length);
        }
        // As a stream, which is not begun there, since of bytes that are there the length would be said.
        let nothing = |_| async { Ok::<(), Failure>(()) };
        return Plan::Bare(Response::with_lines(status, lines).stream(nothing));
    }
    match (known, announced) {
        (Some(known), Some(announced)) if known != announced => Plan::Refuse(wrong_length(announced, known)),
        (Some(length), _) if length <= WHOLE_BYTES_MAX => {
            Plan::Whole { response: Response::with_lines(status, lines), length }
        }
        (known, announced) => {
            if let (Some(length), None) = (known, announced) {
                push_length(&mut lines, length);
            }
            Plan::Stream { response: Response::with_lines(status, lines), length: announced.or(known) }
        }
    }
}

/// Header lines, and the length that they announce.
fn lines_of(headers: &HeaderMap) -> Result<(HeaderLines, Option<u64>), Failure> {
    let mut lines = HeaderLines { bytes: Vec::with_capacity(256), ..HeaderLines::default() };
    let mut announced = None;
    for (name, value) in headers {
        if *name == CONTENT_TYPE {
            lines.has_content_type = true;
            // nginx would keep events until it has a buffer of them.
            if value.as_bytes().starts_with(b"text/event-stream") && !headers.contains_key(NGINX_BUFFERING) {
                lines.push("X-Accel-Buffering", b"no");
            }
        } else if *name == LOCATION {
            lines.has_location = true;
        } else if *name == CONTENT_LENGTH {
            lines.has_content_length = true;
            let length: Option<u64> = value.to_str().ok().and_then(|digits| digits.parse().ok());
            if length.is_none() || announced.is_some_and(|announced| Some(announced) != length) {
                return Err(Failure::new(format_args!(
                    "the answer was refused: its Content-Length is {value:?}"
                )));
            }
            announced = length;
        } else if name.as_str() == "status" {
            return Err(Failure::new(
                "the answer was refused: Status is no header, but the CGI name of the status",
            ));
        }
        lines.push(name.as_str(), value.as_bytes());
    }
    Ok((lines, announced))
}

fn push_length(lines: &mut HeaderLines, length: u64) {
    lines.has_content_length = true;
    lines.push("Content-Length", itoa::Buffer::new().format(length).as_bytes());
}

fn wrong_length(announced: u64, length: u64) -> Failure {
    Failure::new(format_args!("the answer has {length} bytes, its Content-Length is {announced}"))
}

/// Collects a small body; its only frame as it is.
pub(super) struct Whole {
    length: u64,
    first: Bytes,
    /// Once there is a second frame, all of it.
    joined: BytesMut,
}

impl Whole {
    pub(super) fn of(length: u64) -> Whole {
        Whole { length, first: Bytes::new(), joined: BytesMut::new() }
    }

    pub(super) fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Failure>>
    where
        B: HttpBody,
        B::Error: Into<BoxError>,
    {
        while !body.is_end_stream() {
            let Some(frame) = ready!(body.as_mut().poll_frame(cx)) else { break };
            let Some(bytes) = bytes_of(frame)? else { continue };
            self.push(bytes);
            if self.received() > self.length {
                break;
            }
        }
        Poll::Ready(match self.received() == self.length {
            true if self.joined.is_empty() => Ok(std::mem::take(&mut self.first)),
            true => Ok(self.joined.split().freeze()),
            false => Err(wrong_length(self.length, self.received())),
        })
    }

    fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&bytes);
    }

    fn received(&self) -> u64 {
        self.first.len().max(self.joined.len()) as u64
    }
}

/// Writes a body as it comes.
pub(super) async fn stream<B>(
    mut stdout: Stdout,
    body: B,
    announced: Option<u64>,
    mut ending: Ending,
) -> Result<(), Failure>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut sent = 0;
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| poll_next(body.as_mut(), &mut stdout, &mut ending, cx));
        let Some(frame) = next.await else { break };
        let Some(bytes) = bytes_of(frame)? else { continue };
        sent += bytes.len() as u64;
        if let Some(announced) = announced
            && sent > announced
        {
            return Err(wrong_length(announced, sent));
        }
        if bytes.len() <= COPY_BYTES_MAX {
            stdout.write(&bytes).await?;
        } else {
            stdout.write_bytes(bytes).await?;
        }
    }
    match announced {
        Some(announced) if announced != sent => Err(wrong_length(announced, sent)),
        _ => {
            ending.answered();
            Ok(())
        }
    }
}

type NextFrame<B> = Result<Frame<<B as HttpBody>::Data>, <B as HttpBody>::Error>;

/// The next frame. While there is none what was written goes out.
fn poll_next<B: HttpBody>(
    mut body: Pin<&mut B>,
    stdout: &mut Stdout,
    ending: &mut Ending,
    cx: &mut Context<'_>,
) -> Poll<Option<NextFrame<B>>> {
    loop {
        if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if !ending.pump(cx) {
            let flushed = Pin::new(&mut *stdout).poll_flush(cx);
            debug_assert!(flushed.is_ready(), "a flush only ends a record");
            return Poll::Pending;
        }
    }
}

/// The bytes of a frame; `None` where it has trailers.
fn bytes_of<D: Buf, E: Into<BoxError>>(frame: Result<Frame<D>, E>) -> Result<Option<Bytes>, Failure> {
    let frame = frame.map_err(|error| Failure::of(&*error.into()))?;
    match frame.into_data() {
        Ok(mut data) => Ok(Some(data.copy_to_bytes(data.remaining()))),
        Err(frame) => {
            if let Some(trailers) = frame.trailers_ref() {
                tracing::debug!("{} trailers dropped: a CGI response has none", trailers.len());
            }
            Ok(None)
        }
    }
}
