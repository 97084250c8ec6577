//! One request as its handler and the engine both see it.
//!
//! ```text
//!   engine ──▶ params, Inbox (stdin, data) ──▶ handler
//!   engine ◀── Outbox (stdout, stderr)     ◀── handler
//! ```
//!
//! Both sides live on one worker thread, so plain cells are enough. Whatever the handler's side changes is noted in
//! the worker's [`Touched`] list; the engine looks there once per turn. Exchanges are pooled: a request that is served
//! takes one that an earlier request left.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

#[cfg(feature = "http")]
use crate::config::SendFile;
use crate::proto::{Limits, Params, RecordType, RequestId, RequestKey, Role};
use crate::ring::{Chunk, Token};

use super::Site;
use super::path::{Cut, Paths};
use super::request::ReadError;
use super::response::WriteError;

/// Content of a record that is being filled by small writes ends at this many bytes, flush or not.
const RECORD_FILL: usize = 16 * 1024;

/// A params block larger than this is not kept for the next request.
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// Which exchange, in the engine's terms: the peer and the request on it.
pub(crate) type ExchangeKey = (Token, RequestKey);

/// The exchanges whose handler did something since the engine looked last.
#[derive(Debug, Default)]
pub(crate) struct Touched(RefCell<Vec<ExchangeKey>>);

impl Touched {
    /// Moves the list into `keys`, which must be empty.
    pub(crate) fn take_into(&self, keys: &mut Vec<ExchangeKey>) {
        debug_assert!(keys.is_empty());
        std::mem::swap(&mut *self.0.borrow_mut(), keys);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// Where the params of a request lie: in the receive buffer that they came in, or copied together.
#[derive(Debug, Default)]
pub enum ParamsBytes {
    /// No params yet.
    #[default]
    None,
    /// A view of the receive buffer: the stream came in one record, in one piece.
    Chunk(Chunk),
    /// A block of their own: pairs straddled records or buffers, or buffers were scarce.
    Copied(Vec<u8>),
}

impl ParamsBytes {
    /// The same bytes, where they lie.
    #[cfg(feature = "http")]
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            ParamsBytes::None => Bytes::new(),
            ParamsBytes::Chunk(chunk) => chunk.into_bytes(),
            ParamsBytes::Copied(block) => Bytes::from(block),
        }
    }
}

/// A clone shares the bytes; a block that was copied together once is copied again, into one that can be shared.
impl Clone for ParamsBytes {
    fn clone(&self) -> ParamsBytes {
        match self {
            ParamsBytes::None => ParamsBytes::None,
            ParamsBytes::Chunk(chunk) => ParamsBytes::Chunk(chunk.clone()),
            ParamsBytes::Copied(block) => ParamsBytes::Chunk(Chunk::copy_from_slice(block)),
        }
    }
}

impl AsRef<[u8]> for ParamsBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            ParamsBytes::None => &[],
            ParamsBytes::Chunk(chunk) => chunk,
            ParamsBytes::Copied(block) => block,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// The handler may read and write.
    Open,
    /// Aborted, failed or answered: reads and writes are refused.
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Exchange {
    key: Cell<Option<ExchangeKey>>,
    id: RequestId,
    role: Role,
    /// While PARAMS are arriving just their bytes; they are read when they are complete.
    pub(crate) params: Params<ParamsBytes>,
    /// Memory for the next request's copied params.
    spare: Vec<u8>,
    pub(crate) mount: Rc<str>,
    site: Arc<Site>,
    /// The peer's address, for a handler that wants it.
    pub(crate) peer: Option<SocketAddr>,
    /// What [`Responder::leaves_runtime_alone`](super::Responder::leaves_runtime_alone) says of its handler.
    pub(crate) leaves_runtime_alone: bool,
    pub(crate) stdin: RefCell<Inbox>,
    pub(crate) data: RefCell<Inbox>,
    pub(crate) out: RefCell<Outbox>,
    life: Cell<Life>,
    is_touched: Cell<bool>,
    touched: Rc<Touched>,
}

impl Exchange {
    pub(crate) fn new(
        touched: Rc<Touched>,
        no_mount: Rc<str>,
        site: Arc<Site>,
        stdout_window: usize,
    ) -> Exchange {
        Exchange {
            key: Cell::new(None),
            id: RequestId::ONE,
            role: Role::Responder,
            params: Params::default(),
            spare: Vec::new(),
            mount: no_mount,
            site,
            peer: None,
            leaves_runtime_alone: false,
            stdin: RefCell::default(),
            data: RefCell::default(),
            out: RefCell::new(Outbox { window: stdout_window, ..Outbox::default() }),
            life: Cell::new(Life::Open),
            is_touched: Cell::new(false),
            touched,
        }
    }

    /// Makes a new or pooled exchange that of a request that has just begun.
    pub(crate) fn begin(&mut self, key: ExchangeKey, id: RequestId, role: Role) {
        self.key.set(Some(key));
        self.id = id;
        self.role = role;
        self.life.set(Life::Open);
    }

    /// Forgets the request: nothing of it is visible to the next one.
    pub(crate) fn reset(&mut self, no_mount: &Rc<str>) {
        self.key.set(None);
        if let ParamsBytes::Copied(mut block) = std::mem::take(self.params.bytes_mut())
            && block.capacity() <= SPARE_BYTES_MAX
        {
            block.clear();
            self.spare = block;
        }
        self.mount = no_mount.clone();
        self.peer = None;
        self.leaves_runtime_alone = false;
        self.stdin.get_mut().clear();
        self.data.get_mut().clear();
        self.out.get_mut().clear();
        self.is_touched.set(false);
    }

    /// Takes the next piece of the PARAMS stream. The first one is kept as it is, unless buffers are scarce. Returns
    /// whether bytes were copied.
    pub(crate) fn collect_params(&mut self, piece: Chunk, may_keep: bool) -> bool {
        let bytes = self.params.bytes_mut();
        let mut block = match std::mem::take(bytes) {
            ParamsBytes::None if may_keep => {
                *bytes = ParamsBytes::Chunk(piece);
                return false;
            }
            ParamsBytes::None => std::mem::take(&mut self.spare),
            ParamsBytes::Chunk(first) => {
                let mut block = std::mem::take(&mut self.spare);
                block.extend_from_slice(&first);
                block
            }
            ParamsBytes::Copied(block) => block,
        };
        block.extend_from_slice(&piece);
        *bytes = ParamsBytes::Copied(block);
        true
    }

    /// The PARAMS stream has ended: reads the pairs.
    pub(crate) fn parse_params(&mut self, limits: &Limits) -> Result<(), crate::proto::Error> {
        self.params.read(limits)
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The request's path, cut at its mount.
    pub(crate) fn cut(&self) -> Cut<'_> {
        let cut = Cut::of(&self.params);
        // FastCGI 6.3: an Authorizer is not told of paths.
        if self.role != Role::Authorizer {
            self.site.paths.note(&cut, &self.params);
        }
        cut.below(&self.params, &self.mount)
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.site.paths
    }

    #[cfg(feature = "http")]
    pub(crate) fn send_file(&self) -> &SendFile {
        &self.site.send_file
    }

    pub(crate) fn is_over(&self) -> bool {
        self.life.get() == Life::Over
    }

    /// Ends the handler's rights; wakes whoever still waits on a stream, so that it sees the end.
    pub(crate) fn end(&self) {
        self.life.set(Life::Over);
        self.stdin.borrow_mut().wake();
        self.data.borrow_mut().wake();
        self.out.borrow_mut().wake();
    }

    /// Tells the engine that there is something to look at.
    pub(crate) fn touch(&self) {
        if let Some(key) = self.key.get()
            && !self.is_touched.replace(true)
        {
            self.touched.0.borrow_mut().push(key);
        }
    }

    /// The engine has looked.
    pub(crate) fn untouch(&self) {
        self.is_touched.set(false);
    }
}

/// A stream towards the handler: STDIN or DATA.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    queued: usize,
    /// Bytes that were queued since the request began, for `CONTENT_LENGTH`.
    received: u64,
    /// What `CONTENT_LENGTH` or `FCGI_DATA_LENGTH` promised.
    expected: Option<u64>,
    ended: bool,
    failed: Option<ReadError>,
    waker: Option<Waker>,
    /// Whether any of the above was changed: most requests have no body and nobody who asks for one.
    is_used: bool,
}

impl Inbox {
    pub(crate) fn expect(&mut self, length: Option<u64>) {
        self.is_used = true;
        self.expected = length;
    }

    pub(crate) fn expected(&self) -> Option<u64> {
        self.expected
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a handler is waiting for bytes that have not come.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waker.is_some() && !self.ended
    }

    /// How many of `length` more bytes the handler may see: CONTENT_LENGTH caps the stream (RFC 3875 4.2).
    pub(crate) fn admit(&mut self, length: usize) -> usize {
        let room = self.expected.map_or(u64::MAX, |expected| expected.saturating_sub(self.received));
        usize::try_from(room).unwrap_or(usize::MAX).min(length)
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.is_used = true;
        self.received += chunk.len() as u64;
        self.queued += chunk.len();
        self.chunks.push_back(chunk);
        self.wake();
    }

    /// The stream has ended; FastCGI 6.2: fewer bytes than promised is an error that the handler must see.
    pub(crate) fn end(&mut self) {
        (self.ended, self.is_used) = (true, true);
        if let Some(expected) = self.expected
            && self.received < expected
        {
            self.failed = Some(ReadError::Short { expected, received: self.received });
        }
        self.wake();
    }

    pub(crate) fn fail(&mut self, error: ReadError) {
        self.is_used = true;
        self.failed = Some(error);
        self.ended = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_front(&mut self, over: bool, cx: &Context<'_>) -> Poll<Result<Option<&mut Chunk>, ReadError>> {
        if self.queued > 0 {
            return Poll::Ready(Ok(self.chunks.front_mut()));
        }
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if self.ended || self.expected.is_some_and(|expected| self.received >= expected) {
            // All that was promised has come. Some peers never end a stream that CONTENT_LENGTH says is empty
            // (HAProxy 2.6, an empty chunked body).
            return Poll::Ready(Ok(None));
        }
        if over {
            return Poll::Ready(Err(ReadError::Gone));
        }
        self.is_used = true;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The next piece of at most `length_max` bytes; `None` at the end.
    pub(crate) fn poll_take(
        &mut self,
        length_max: usize,
        over: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        let Some(front) = std::task::ready!(self.poll_front(over, cx))? else { return Poll::Ready(Ok(None)) };
        let piece = if front.len() <= length_max {
            self.chunks.pop_front().expect("front was there")
        } else {
            front.split_to(length_max)
        };
        self.queued -= piece.len();
        Poll::Ready(Ok(Some(piece)))
    }

    /// Drops what was not read.
    pub(crate) fn discard(&mut self) {
        self.chunks.clear();
        self.queued = 0;
    }

    fn clear(&mut self) {
        if self.is_used {
            let mut chunks = std::mem::take(&mut self.chunks);
            chunks.clear();
            *self = Inbox { chunks, ..Inbox::default() };
        }
    }
}

/// Which stream a piece of output belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum OutStream {
    #[default]
    Stdout,
    Stderr,
}

impl OutStream {
    pub(crate) fn record_type(self) -> RecordType {
        match self {
            OutStream::Stdout => RecordType::Stdout,
            OutStream::Stderr => RecordType::Stderr,
        }
    }
}

/// Bytes that the handler has written and the engine has not yet taken. A piece ends where a record must end.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) stream: OutStream,
    pub(crate) bytes: Bytes,
}

/// The streams from the handler: STDOUT and STDERR, in the order in which they were written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Small writes that no flush has ended yet.
    open: BytesMut,
    open_stream: OutStream,
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`; what is in `open` is not ready to go.
    ready: usize,
    /// How much may be unsent before writers wait.
    window: usize,
    waker: Option<Waker>,
    /// The handler is done: what follows the last piece.
    end: Option<Ending>,
    was_written: bool,
    wrote_stderr: bool,
    /// The empty record that ends STDERR is out.
    ended_stderr: bool,
}

/// How a request ends once its output is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ending {
    pub(crate) app_status: u32,
    /// False where the answer broke off after its head was sent: the peer must not take it for complete.
    pub(crate) complete: bool,
}

impl Outbox {
    /// Whether nothing was ever written.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.was_written
    }

    pub(crate) fn wrote_stderr(&self) -> bool {
        self.wrote_stderr
    }

    /// Ends STDERR before the request does; false where it was used. What is written there later goes to nobody.
    pub(crate) fn end_stderr(&mut self) -> bool {
        self.ended_stderr |= !self.wrote_stderr;
        self.ended_stderr
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.end
    }

    /// No more will be written.
    pub(crate) fn finish(&mut self, ending: Ending) {
        self.flush();
        self.end = Some(ending);
    }

    /// Appends small bytes to the record that is being filled.
    pub(crate) fn write(&mut self, stream: OutStream, bytes: &[u8]) {
        if !self.admit(stream) {
            return;
        }
        if self.open_stream != stream {
            self.flush();
            self.open_stream = stream;
        }
        self.open.extend_from_slice(bytes);
        if self.open.len() >= RECORD_FILL {
            self.flush();
        }
    }

    /// Appends bytes as they are: at least one record of their own.
    pub(crate) fn write_shared(&mut self, stream: OutStream, bytes: Bytes) {
        if !self.admit(stream) {
            return;
        }
        self.flush();
        if !bytes.is_empty() {
            self.ready += bytes.len();
            self.pieces.push_back(Piece { stream, bytes });
        }
    }

    /// Whether the stream takes more; notes that it was used.
    fn admit(&mut self, stream: OutStream) -> bool {
        if stream == OutStream::Stderr {
            if self.ended_stderr {
                return false;
            }
            self.wrote_stderr = true;
        }
        self.was_written = true;
        true
    }

    /// Ends the record that is being filled.
    pub(crate) fn flush(&mut self) {
        if !self.open.is_empty() {
            let bytes = self.open.split().freeze();
            self.ready += bytes.len();
            self.pieces.push_back(Piece { stream: self.open_stream, bytes });
        }
    }

    /// The next piece, of at most `length_max` bytes.
    pub(crate) fn take(&mut self, length_max: usize) -> Option<Piece> {
        let front = self.pieces.front_mut()?;
        let piece = if front.bytes.len() <= length_max {
            self.pieces.pop_front()?
        } else {
            Piece { stream: front.stream, bytes: front.bytes.split_to(length_max) }
        };
        self.ready -= piece.bytes.len();
        if self.ready <= self.window / 2 {
            self.wake();
        }
        Some(piece)
    }

    /// Drops what was not sent: the request was aborted.
    pub(crate) fn discard(&mut self) {
        self.open.clear();
        self.pieces.clear();
        self.ready = 0;
    }

    /// Room for a writer, or a place in the queue of those who wait.
    pub(crate) fn poll_room(&mut self, over: bool, cx: &Context<'_>) -> Poll<Result<usize, WriteError>> {
        if over {
            return Poll::Ready(Err(WriteError::Gone));
        }
        let used = self.ready + self.open.len();
        if used < self.window {
            return Poll::Ready(Ok(self.window - used));
        }
        // A writer that waits with an unflushed record would wait for itself.
        self.flush();
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Forgets that anything was written.
    pub(crate) fn clear(&mut self) {
        if !self.was_written && self.end.is_none() && self.waker.is_none() {
            return;
        }
        let (mut open, mut pieces) = (std::mem::take(&mut self.open), std::mem::take(&mut self.pieces));
        open.clear();
        pieces.clear();
        *self = Outbox { open, pieces, window: self.window, ..Outbox::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn content_length_caps_and_a_short_body_is_an_error() {
        let mut inbox = Inbox::default();
        inbox.expect(Some(5));
        assert_eq!(inbox.admit(3), 3);
        inbox.push(Chunk::copy_from_slice(b"abc"));
        assert_eq!(inbox.admit(10), 2);
        inbox.end();
        let Poll::Ready(Ok(Some(first))) = inbox.poll_take(2, false, &context()) else { panic!() };
        assert_eq!(&first[..], b"ab");
        let Poll::Ready(Ok(Some(second))) = inbox.poll_take(64, false, &context()) else { panic!() };
        assert_eq!(&second[..], b"c");
        assert!(matches!(
            inbox.poll_take(64, false, &context()),
            Poll::Ready(Err(ReadError::Short { expected: 5, received: 3 }))
        ));
    }

    #[test]
    fn a_body_is_over_when_all_that_was_promised_has_come() {
        let mut inbox = Inbox::default();
        inbox.expect(Some(3));
        inbox.push(Chunk::copy_from_slice(b"ab"));
        assert!(matches!(inbox.poll_take(64, false, &context()), Poll::Ready(Ok(Some(_)))));
        assert!(inbox.poll_take(64, false, &context()).is_pending());
        inbox.push(Chunk::copy_from_slice(b"c"));
        assert!(matches!(inbox.poll_take(64, false, &context()), Poll::Ready(Ok(Some(_)))));
        assert!(matches!(inbox.poll_take(64, false, &context()), Poll::Ready(Ok(None))));
        let mut empty = Inbox::default();
        empty.expect(Some(0));
        assert!(matches!(empty.poll_take(64, false, &context()), Poll::Ready(Ok(None))));
    }

    #[test]
    fn stderr_that_was_ended_takes_no_more() {
        let mut out = Outbox { window: 100, ..Outbox::default() };
        assert!(out.end_stderr());
        out.write(OutStream::Stderr, b"late");
        out.write_shared(OutStream::Stderr, Bytes::from_static(b"later"));
        assert!(out.is_untouched() && out.take(usize::MAX).is_none());
        let mut used = Outbox { window: 100, ..Outbox::default() };
        used.write(OutStream::Stderr, b"early");
        assert!(!used.end_stderr());
        used.write(OutStream::Stderr, b" and late");
        used.flush();
        assert_eq!(used.take(usize::MAX).expect("a piece").bytes, &b"early and late"[..]);
    }

    #[test]
    fn a_reader_waits_and_an_ended_request_refuses_it() {
        let mut inbox = Inbox::default();
        assert!(inbox.poll_take(1, false, &context()).is_pending());
        assert!(inbox.is_waiting());
        assert!(matches!(inbox.poll_take(1, true, &context()), Poll::Ready(Err(ReadError::Gone))));
    }

    #[test]
    fn output_keeps_its_order_and_its_record_ends() {
        let mut out = Outbox { window: 100, ..Outbox::default() };
        out.write(OutStream::Stdout, b"a");
        out.write(OutStream::Stdout, b"b");
        out.write(OutStream::Stderr, b"e");
        out.write(OutStream::Stdout, b"c");
        out.flush();
        out.write(OutStream::Stdout, b"d");
        out.flush();
        let mut seen = Vec::new();
        while let Some(piece) = out.take(usize::MAX) {
            seen.push((piece.stream, piece.bytes));
        }
        let expected: [(OutStream, &[u8]); 4] = [
            (OutStream::Stdout, b"ab"),
            (OutStream::Stderr, b"e"),
            (OutStream::Stdout, b"c"),
            (OutStream::Stdout, b"d"),
        ];
        assert_eq!(seen.len(), expected.len());
        for ((stream, bytes), (stream_expected, bytes_expected)) in seen.iter().zip(expected) {
            assert_eq!((*stream, &bytes[..]), (stream_expected, bytes_expected));
        }
        assert_eq!(out.ready(), 0);
    }

    #[test]
    fn a_writer_waits_at_the_window_and_not_before() {
        let mut out = Outbox { window: 4, ..Outbox::default() };
        out.write(OutStream::Stdout, b"abc");
        assert!(matches!(out.poll_room(false, &context()), Poll::Ready(Ok(1))));
        out.write(OutStream::Stdout, b"d");
        assert!(out.poll_room(false, &context()).is_pending());
        assert!(out.take(2).is_some());
        assert!(matches!(out.poll_room(false, &context()), Poll::Ready(Ok(2))));
        assert!(matches!(out.poll_room(true, &context()), Poll::Ready(Err(WriteError::Gone))));
    }

    #[test]
    fn params_are_copied_only_when_they_come_in_pieces() {
        let touched = Rc::new(Touched::default());
        let mut exchange = Exchange::new(touched, "".into(), Arc::default(), 1);
        assert!(!exchange.collect_params(Chunk::copy_from_slice(b"\x01\x01a1"), true));
        assert!(exchange.collect_params(Chunk::copy_from_slice(b"\x01\x01b2"), true));
        exchange.parse_params(&Limits::default()).unwrap();
        assert_eq!(exchange.params.get("a"), Some(&b"1"[..]));
        assert_eq!(exchange.params.get("b"), Some(&b"2"[..]));
        exchange.reset(&"".into());
        assert!(exchange.params.is_empty());
        assert_eq!(exchange.params.get("a"), None);
    }
}
