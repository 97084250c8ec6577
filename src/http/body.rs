//! The body of an `http::Request`: stdin, as far as the service asks for it.
//!
//! ```text
//!   worker: Stdin ──▶ Pump ──▶ Pipe ──▶ Body: wherever the service takes it
//!                       ▲        │
//!                       └─ wants ┘
//! ```
//!
//! Stdin stays on its worker, but a service may take the body to another thread. So the future of the request pumps: a
//! chunk at a time, when the body is asked for one. What nobody asks for stays with the engine, which stops receiving
//! above `stdin_window_bytes`.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::handler::{ReadError, Stdin};

use super::context::FastCgi;

/// The body of an `http::Request`: `Bytes` as they were received, without copies.
///
/// It may be read on any thread. After the request is over, reading fails with [`ReadError::Gone`].
#[derive(Default)]
pub struct Body(Source);

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Whole(Bytes),
    Stdin {
        request: FastCgi,
        /// Bytes to come, where CONTENT_LENGTH says it.
        left: Option<u64>,
    },
}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Body {
        Body::default()
    }

    /// The body of a request of which stdin will be pumped.
    pub(super) fn of_stdin(request: FastCgi, length: Option<u64>) -> Body {
        Body(Source::Stdin { request, left: length })
    }
}

/// A body that is there already, for tests of services and requests made by hand.
impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Body {
        let bytes = bytes.into();
        Body(if bytes.is_empty() { Source::Empty } else { Source::Whole(bytes) })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        let source = &mut self.get_mut().0;
        match std::mem::take(source) {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Source::Stdin { request, left } => {
                let polled = request.pipe().poll_chunk(cx);
                match polled {
                    Poll::Ready(Some(Ok(chunk))) => {
                        let left = left.map(|left| left.saturating_sub(chunk.len() as u64));
                        *source = Source::Stdin { request, left };
                        Poll::Ready(Some(Ok(Frame::data(chunk))))
                    }
                    Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                    Poll::Ready(None) => Poll::Ready(None),
                    Poll::Pending => {
                        *source = Source::Stdin { request, left };
                        Poll::Pending
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty | Source::Stdin { left: Some(0), .. } => true,
            Source::Whole(_) | Source::Stdin { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stdin { left: Some(left), .. } => SizeHint::with_exact(*left),
            Source::Stdin { left: None, .. } => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = http_body::Body::size_hint(self).exact();
        f.debug_struct("Body").field("length", &length).finish_non_exhaustive()
    }
}

/// What goes from the worker to the body.
#[derive(Default)]
pub(super) struct Pipe(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    chunk: Option<Bytes>,
    /// How stdin ended; no chunk follows.
    end: Option<Result<(), ReadError>>,
    /// Whoever waits for a chunk.
    reader: Option<Waker>,
    /// The request's future, to be woken by whoever wants a chunk.
    pump: Option<Waker>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("nothing panics while it holds the pipe")
    }

    fn poll_chunk(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        let mut inside = self.lock();
        if let Some(chunk) = inside.chunk.take() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match &inside.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            None => {}
        }
        match &mut inside.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => inside.reader = Some(cx.waker().clone()),
        }
        // One that is woken as we are is polled together with us.
        let pump = inside.pump.take_if(|pump| !pump.will_wake(cx.waker()));
        drop(inside);
        if let Some(pump) = pump {
            pump.wake();
        }
        Poll::Pending
    }

    /// Moves a chunk, if one is wanted. Returns whether a reader that is polled together with the pump has it now.
    pub(super) fn pump(&self, stdin: &mut Stdin, cx: &mut Context<'_>) -> bool {
        let mut inside = self.lock();
        let Inside { chunk, end, reader, pump } = &mut *inside;
        if reader.is_some() && chunk.is_none() && end.is_none() {
            match stdin.poll_chunk(usize::MAX, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(Some(received))) => *chunk = Some(received.into_bytes()),
                Poll::Ready(Ok(None)) => *end = Some(Ok(())),
                Poll::Ready(Err(error)) => *end = Some(Err(error)),
            }
        }
        match pump {
            Some(pump) => pump.clone_from(cx.waker()),
            None => *pump = Some(cx.waker().clone()),
        }
        let has_news = chunk.is_some() || end.is_some();
        let reader = reader.take_if(|_| has_news);
        drop(inside);
        match reader {
            Some(reader) if reader.will_wake(cx.waker()) => true,
            Some(reader) => {
                reader.wake();
                false
            }
            None => false,
        }
    }

    /// The request is over.
    pub(super) fn close(&self) {
        let mut inside = self.lock();
        inside.end.get_or_insert(Err(ReadError::Gone));
        inside.pump = None;
        let reader = inside.reader.take();
        drop(inside);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}
