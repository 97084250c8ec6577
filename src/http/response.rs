//! From an `http::Response` to a [`Response`].

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http_body::{Body as HttpBody, Frame};
use tokio::io::AsyncWrite;

use crate::handler::{Failure, File, HeaderLines, Request, Response, Stdout};

use super::BoxError;
use super::context::Ending;

/// A body of a known length up to this is collected and goes out with its head.
const WHOLE_BYTES_MAX: u64 = 16 * 1024;

/// A frame up to this is copied beside its neighbours into one record; a larger one is sent from where it is.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// Turns a service's answer into one for the engine; waits for small bodies.
pub(super) async fn send<B>(answer: http::Response<B>, is_head: bool, mut ending: Ending) -> Response
where
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = answer.into_parts();
    let status = parts.status.as_u16();
    let (mut lines, announced) = match lines_of(&parts.headers) {
        Ok(lines) => lines,
        Err(failure) => return Response::failure(failure),
    };
    let has_body = !is_head && !matches!(status, 100..=199 | 204 | 304);
    let length = body.size_hint().exact();
    if !has_body {
        // An answer to HEAD has the length that one to GET would have, where somebody knows it: an empty body mostly
        // stands for one that was left out.
        if let (true, None, Some(length @ 1..)) = (is_head, announced, length) {
            push_length(&mut lines, length);
        }
        ending.answered();
        return without_body(Response::with_lines(status, lines));
    }
    if let (Some(length), Some(announced)) = (length, announced)
        && length != announced
    {
        return Response::failure(wrong_length(announced, length));
    }
    if let Some(length) = length
        && length <= WHOLE_BYTES_MAX
    {
        return match ending.while_pumping(collect(body, length)).await {
            Ok(bytes) => {
                ending.answered();
                Response::with_lines(status, lines).body(bytes)
            }
            Err(failure) => Response::failure(failure),
        };
    }
    if let (Some(length), None) = (length, announced) {
        push_length(&mut lines, length);
    }
    let announced = announced.or(length);
    Response::with_lines(status, lines).stream(move |stdout| stream(stdout, body, announced, ending))
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

/// A stream is neither begun nor given a length where an answer must not have a body.
fn without_body(response: Response) -> Response {
    response.stream(|_| async { Ok::<(), Failure>(()) })
}

/// Header lines, and the length that they announce.
fn lines_of(headers: &HeaderMap) -> Result<(HeaderLines, Option<u64>), Failure> {
    let mut lines = HeaderLines { bytes: Vec::with_capacity(256), ..HeaderLines::default() };
    for (name, value) in headers {
        if name == "status" {
            return Err(Failure::new(
                "the answer was refused: Status is no header, but the CGI name of the status",
            ));
        }
        lines.push(name.as_str(), value.as_bytes());
    }
    let announced = match headers.get(CONTENT_LENGTH) {
        None => None,
        Some(value) => {
            let length = value.to_str().ok().and_then(|digits| digits.parse().ok());
            let refuse =
                || Failure::new(format_args!("the answer was refused: its Content-Length is {value:?}"));
            Some(length.ok_or_else(refuse)?)
        }
    };
    Ok((lines, announced))
}

fn push_length(lines: &mut HeaderLines, length: u64) {
    lines.push("Content-Length", itoa::Buffer::new().format(length).as_bytes());
}

fn wrong_length(announced: u64, length: u64) -> Failure {
    Failure::new(format_args!("the answer has {length} bytes, its Content-Length is {announced}"))
}

/// A small body in one piece; its only frame as it is.
async fn collect<B>(body: B, length: u64) -> Result<Bytes, Failure>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    let mut received = 0;
    while !body.is_end_stream() {
        let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await else { break };
        let Some(bytes) = bytes_of(frame)? else { continue };
        received += bytes.len() as u64;
        if received > length {
            return Err(wrong_length(length, received));
        }
        if received == bytes.len() as u64 {
            first = bytes;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&bytes);
        }
    }
    if received != length {
        return Err(wrong_length(length, received));
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

/// Writes a body as it comes.
async fn stream<B>(
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
