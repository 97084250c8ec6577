//! From events to handlers, and from answers to records.
//!
//! ```text
//!   Event ─▶ Exchange ─▶ handler ─▶ Response ─┬─ small: encoded in place ──────▶ peer.output
//!                                             └─ large, streamed: Outbox ─ gather ─▶ peer.output
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use crate::handler;
use crate::handler::{Ending, Exchange, Failure, ReadError, Registry, Response, Site, Start, Table, Touched};
use crate::metrics;
use crate::proto::{
    self, ErrorKind, Event, Limits, ProtocolStatus, RecordType, RequestId, RequestKey, Role, WellKnown,
    WholeRequest, encoder,
};
use crate::ring::{Chunk, Pool, Ring};

use super::access;
use super::peer::{Input, Name, Peer, Stage};
use super::task::{Done, Tasks, Wakeups, Work, panic_message};
use super::timer::Tick;
use super::{Bound, Seed};

mod answers;

/// Exchanges kept for reuse.
const POOLED_MAX: usize = 1024;

/// The requests of one worker: everything about them but the sockets.
pub(crate) struct Requests {
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Arc<metrics::Worker>,
    pub(crate) now: Tick,
    /// Requests on all connections.
    pub(crate) active: usize,
    active_max: usize,
    stdin_window: usize,
    stdout_window: usize,
    output_high: usize,
    limits: Arc<Limits>,
    buffers: Pool,
    registry: Arc<Registry>,
    table: Table,
    touched: Rc<Touched>,
    touched_batch: Vec<handler::ExchangeKey>,
    pool: Vec<Rc<Exchange>>,
    /// Exchanges of requests that are over, which callers up the stack may still hold.
    finished: Vec<Rc<Exchange>>,
    no_mount: Rc<str>,
    site: Arc<Site>,
    bound: Arc<[Bound]>,
}

impl Requests {
    pub(crate) fn new(seed: &Seed, limits: Arc<Limits>, buffers: Pool, wakeups: Arc<Wakeups>) -> Requests {
        let (config, registry) = (&seed.config, seed.registry.clone());
        Requests {
            tasks: Tasks::new(wakeups),
            metrics: seed.metrics.clone(),
            now: 0,
            active: 0,
            active_max: (config.requests_max as usize).div_ceil(seed.workers),
            stdin_window: config.stdin_window_bytes as usize,
            stdout_window: config.stdout_window_bytes as usize,
            output_high: config.output_high_bytes as usize,
            limits,
            buffers,
            table: Table::of_registry(&registry),
            registry,
            touched: Rc::default(),
            touched_batch: Vec::new(),
            pool: Vec::new(),
            finished: Vec::new(),
            no_mount: "".into(),
            site: seed.site.clone(),
            bound: seed.bound.clone(),
        }
    }

    /// Takes over changes of the registry; once per turn.
    pub(crate) fn refresh(&mut self) {
        if let Some(table) = self.registry.changed_since(self.table.generation()) {
            self.table = table;
        }
    }

    /// What the log calls a peer.
    pub(crate) fn name<'a, R: Ring>(&'a self, ring: &'a R, peer: &'a Peer) -> Name<'a, R> {
        Name { ring, peer, bound: &self.bound }
    }

    /// Feeds received bytes to the peer's connection.
    pub(crate) fn receive<R: Ring>(&mut self, ring: &R, peer: &mut Peer, chunk: Chunk) {
        let mut input: &[u8] = &chunk;
        loop {
            while let Some(whole) = peer.connection.take_request(&mut input) {
                peer.has_spoken = true;
                let WholeRequest { request, id, params, is_complete, .. } = whole;
                if input.is_empty() {
                    // Most chunks are one request: it gets the buffer itself, not a view of it beside ours.
                    let part = chunk.range_of(params);
                    return self.whole(ring, peer, (request, id), chunk.into_part(part), is_complete);
                }
                self.whole(ring, peer, (request, id), chunk.slice_ref(params), is_complete);
            }
            match peer.connection.handle_input(&mut input, peer.output.block_mut()) {
                Ok(Some(event)) => {
                    peer.has_spoken = true;
                    self.event(ring, peer, event, &chunk);
                }
                Ok(None) => {
                    // Management records are no events, but they are records.
                    peer.has_spoken |= !peer.connection.mid_record();
                    return;
                }
                Err(error) => {
                    self.metrics.protocol_errors.incr();
                    tracing::warn!("{}: {error}; closing the connection", self.name(ring, peer));
                    peer.input = Input::Broken;
                    return self.abort_incomplete(peer);
                }
            }
        }
    }

    /// A Responder's request with all its params, as most come.
    #[inline]
    fn whole<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        (request, id): (RequestKey, RequestId),
        params: Chunk,
        is_complete: bool,
    ) {
        self.begun(peer, request, id, Role::Responder, Some(params));
        self.params_ended(ring, peer, request);
        if is_complete {
            self.feed_ended(peer, request, RecordType::Stdin);
        }
    }

    fn event<R: Ring>(&mut self, ring: &R, peer: &mut Peer, event: Event<'_>, chunk: &Chunk) {
        match event {
            Event::Begun { request, id, role, .. } => self.begun(peer, request, id, role, None),
            Event::Params { request, bytes } => self.params(peer, request, chunk.slice_ref(bytes)),
            Event::ParamsEnded { request } => self.params_ended(ring, peer, request),
            Event::Stdin { request, bytes } => self.feed(peer, request, RecordType::Stdin, bytes, chunk),
            Event::StdinEnded { request } => self.feed_ended(peer, request, RecordType::Stdin),
            Event::Data { request, bytes } => self.feed(peer, request, RecordType::Data, bytes, chunk),
            Event::DataEnded { request } => self.feed_ended(peer, request, RecordType::Data),
            Event::Aborted { request } => self.abort(peer, request),
            Event::Failed { request, error } => self.refuse_bad(ring, peer, request, error),
            Event::Refused { id, status } => {
                self.metrics.requests_refused.incr();
                tracing::warn!("{}: request {id} refused: {status:?}", self.name(ring, peer));
            }
        }
    }

    #[inline]
    fn begun(
        &mut self,
        peer: &mut Peer,
        request: RequestKey,
        id: RequestId,
        role: Role,
        params: Option<Chunk>,
    ) {
        if !self.table.serves(role) {
            // FastCGI 5.5: a role that this application does not have.
            self.metrics.requests_refused.incr();
            let out = peer.output.block_mut();
            peer.connection.finish(request, 0, ProtocolStatus::UnknownRole, out);
            return;
        }
        let is_overloaded = self.active >= self.active_max;
        if is_overloaded && peer.connection.active() > 1 {
            // A peer that multiplexes reads the protocol status; the others only understand an answer.
            self.metrics.requests_refused.incr();
            let out = peer.output.block_mut();
            peer.connection.finish(request, 0, ProtocolStatus::Overloaded, out);
            return;
        }
        let mut exchange = self.pool.pop().unwrap_or_else(|| {
            let (touched, no_mount, site) = (self.touched.clone(), self.no_mount.clone(), self.site.clone());
            Rc::new(Exchange::new(touched, no_mount, site, self.stdout_window))
        });
        let unique = Rc::get_mut(&mut exchange).expect("a pooled exchange has one owner");
        unique.begin((peer.token, request), id, role);
        if let Some(params) = params {
            self.collect(unique, params);
        }
        let now = self.now;
        let slot = peer.connection.get_mut(request).expect("it has just begun");
        slot.exchange = Some(exchange);
        slot.began = now;
        slot.fed = now;
        slot.stage = if is_overloaded { Stage::Overloaded } else { Stage::Params };
        self.active += 1;
        self.metrics.requests_begun.incr();
    }

    fn params(&mut self, peer: &mut Peer, request: RequestKey, piece: Chunk) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        let Some(exchange) = slot.exchange.as_mut().and_then(Rc::get_mut) else { return };
        self.collect(exchange, piece);
    }

    fn collect(&self, exchange: &mut Exchange, piece: Chunk) {
        let may_keep = !self.buffers.is_scarce();
        if exchange.collect_params(piece, may_keep) {
            self.metrics.params_copied.incr();
        }
    }

    fn params_ended<R: Ring>(&mut self, ring: &R, peer: &mut Peer, request: RequestKey) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        let is_overloaded = slot.stage == Stage::Overloaded;
        slot.stage = Stage::Handling;
        let Some(exchange) = slot.exchange.as_mut() else { return };
        let unique = Rc::get_mut(exchange).expect("no handler has it yet");
        if let Err(error) = unique.parse_params(&self.limits) {
            return self.refuse_bad(ring, peer, request, error);
        }
        let role = unique.role();
        if is_overloaded {
            self.metrics.requests_refused.incr();
            let busy =
                Response::text("Service Unavailable\n").status(503).header("Retry-After", "1").app_status(1);
            return self.answer_plainly(ring, peer, request, busy);
        }
        let Some(mount) = self.table.find(role, &unique.params) else {
            let status = if role == Role::Authorizer { 403 } else { 404 };
            let nobody = Response::text("nothing is mounted here\n").status(status);
            self.site.paths.note_nowhere(&unique.params);
            return self.answer_plainly(ring, peer, request, nobody);
        };
        unique.mount = mount.prefix.clone();
        unique.leaves_runtime_alone = mount.leaves_runtime_alone;
        if mount.wants_peer && peer.is_tcp {
            peer.address =
                peer.address.or_else(|| access::peer_address(ring.descriptor_fd(peer.descriptor)?));
            unique.peer = peer.address;
        }
        expect_lengths(unique);
        let exchange = exchange.clone();
        let started = catch_unwind(AssertUnwindSafe(|| mount.handler.start(exchange.clone())));
        let work = match started {
            Ok(Start::Ready(response)) => match self.answer(ring, peer, request, &exchange, response) {
                None => return,
                Some(work) => work,
            },
            Ok(Start::Pending(answer)) => Work::Answer(answer),
            Err(panic) => {
                return self.panicked(ring, peer, request, &exchange, &panic_message(panic), false);
            }
        };
        self.work(ring, peer, request, exchange, work);
    }

    /// Polls work until it waits or the request is answered.
    fn work<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: Rc<Exchange>,
        mut work: Work,
    ) {
        loop {
            match self.tasks.begin((peer.token, request), &exchange, work) {
                Err(task) => {
                    let slot = peer.connection.get_mut(request).expect("a request with work is active");
                    slot.task = Some(task);
                    return;
                }
                Ok(done) => match self.done(ring, peer, request, &exchange, done) {
                    Some(more) => work = more,
                    None => return,
                },
            }
        }
    }

    /// A handler that waited is done with what it did.
    pub(crate) fn resume<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: Rc<Exchange>,
        done: Done,
    ) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        slot.task = None;
        if let Some(work) = self.done(ring, peer, request, &exchange, done) {
            self.work(ring, peer, request, exchange, work);
        }
    }

    fn done<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Rc<Exchange>,
        done: Done,
    ) -> Option<Work> {
        match done {
            Done::Answer(response) => return self.answer(ring, peer, request, exchange, response),
            Done::Body { result: Ok(()), app_status } => {
                self.end(peer, request, exchange, Ending { app_status, complete: true });
            }
            Done::Body { result: Err(failure), app_status } => {
                self.broken_off(ring, peer, request, exchange, &failure, app_status.max(1));
            }
            Done::Panicked { message, head_sent } => {
                self.panicked(ring, peer, request, exchange, &message, head_sent);
            }
        }
        None
    }

    fn panicked<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Rc<Exchange>,
        message: &str,
        head_sent: bool,
    ) {
        self.metrics.handler_panics.incr();
        let failure = Failure::new(format_args!("the handler panicked: {message}"));
        if head_sent {
            return self.broken_off(ring, peer, request, exchange, &failure, 1);
        }
        let body = self.answer(ring, peer, request, exchange, Response::failure(failure));
        debug_assert!(body.is_none(), "a failure has no streamed body");
    }

    /// The head is out and the body will not be whole.
    fn broken_off<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Rc<Exchange>,
        failure: &Failure,
        app_status: u32,
    ) {
        self.report(ring, peer, exchange, failure);
        self.end(peer, request, exchange, Ending { app_status, complete: false });
    }

    /// A request that broke a rule of the protocol: nothing of it is served.
    fn refuse_bad<R: Ring>(&mut self, ring: &R, peer: &mut Peer, request: RequestKey, error: proto::Error) {
        let (status, text) = match error.kind {
            ErrorKind::ParamsTooLong(_) | ErrorKind::ParamsTooMany(_) => {
                (431, "Request Header Fields Too Large\n")
            }
            _ => (400, "Bad Request\n"),
        };
        self.metrics.protocol_errors.incr();
        tracing::warn!("{}: {error}; answered with {status}", self.name(ring, peer));
        self.take_over(ring, peer, request, Response::text(text).status(status).app_status(1));
    }

    /// Takes a request from its handler and answers in its place. Where the head of an answer is out already, the
    /// answer ends visibly incomplete.
    fn take_over<R: Ring>(&mut self, ring: &R, peer: &mut Peer, request: RequestKey, response: Response) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        let Some(exchange) = slot.exchange.clone() else { return };
        slot.stage = Stage::GivenUp;
        if let Some(task) = slot.task.take() {
            self.tasks.cancel(task);
        }
        if must_hold_back(&exchange) {
            // Nothing of it is out yet, and nothing may wait for the rest of its STDIN.
            exchange.out.borrow_mut().clear();
            exchange.stdin.borrow_mut().end();
        }
        if exchange.out.borrow().is_untouched() {
            self.answer_plainly(ring, peer, request, response);
        } else {
            exchange.out.borrow_mut().discard();
            self.end(peer, request, &exchange, Ending { app_status: 1, complete: false });
        }
    }

    fn feed(
        &mut self,
        peer: &mut Peer,
        request: RequestKey,
        stream: RecordType,
        bytes: &[u8],
        chunk: &Chunk,
    ) {
        let now = self.now;
        let Some(slot) = peer.connection.get_mut(request) else { return };
        slot.fed = now;
        let Some(exchange) = &slot.exchange else { return };
        let mut inbox = inbox_of(exchange, stream).borrow_mut();
        let admitted = inbox.admit(bytes.len());
        // FastCGI 6.4: what a handler that has answered does not read is thrown away.
        if admitted == 0 || exchange.out.borrow().ending().is_some() {
            return;
        }
        let bytes = &bytes[..admitted];
        inbox.push(if self.buffers.is_scarce() {
            Chunk::copy_from_slice(bytes)
        } else {
            chunk.slice_ref(bytes)
        });
        drop(inbox);
        if !slot.is_paused && slot.unread() > self.stdin_window {
            slot.is_paused = true;
            peer.paused_requests += 1;
            self.metrics.stdin_pauses.incr();
        }
    }

    fn feed_ended(&mut self, peer: &mut Peer, request: RequestKey, stream: RecordType) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        let Some(exchange) = &slot.exchange else { return };
        inbox_of(exchange, stream).borrow_mut().end();
        let waits_to_go = exchange.out.borrow().ready() > 0 || exchange.out.borrow().ending().is_some();
        if exchange.role() == Role::Filter && waits_to_go {
            peer.queue(request);
        }
    }

    /// Looks at the exchanges whose handlers read or wrote since the last turn.
    pub(crate) fn take_touched(&mut self) -> Vec<handler::ExchangeKey> {
        let mut batch = std::mem::take(&mut self.touched_batch);
        self.touched.take_into(&mut batch);
        batch
    }

    /// Gives the list back for reuse.
    pub(crate) fn put_back_touched(&mut self, mut batch: Vec<handler::ExchangeKey>) {
        batch.clear();
        self.touched_batch = batch;
    }

    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub(crate) fn look_at(&mut self, peer: &mut Peer, request: RequestKey) {
        let (now, window) = (self.now, self.stdin_window);
        let Some(slot) = peer.connection.get_mut(request) else { return };
        let Some(exchange) = slot.exchange.clone() else { return };
        exchange.untouch();
        if slot.is_paused && slot.unread() <= window / 2 {
            slot.is_paused = false;
            slot.fed = now;
            peer.paused_requests -= 1;
        }
        if exchange.out.borrow().ready() > 0 {
            peer.queue(request);
        }
    }

    /// The peer gave the request up: the handler's future is dropped, END_REQUEST answers at once (FastCGI 5.4).
    fn abort(&mut self, peer: &mut Peer, request: RequestKey) {
        self.metrics.requests_aborted.incr();
        self.drop_request(peer, request, Some(0));
    }

    /// The deadline of one request passed before its handler answered.
    pub(crate) fn give_up<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        status: u16,
        why: &str,
    ) {
        let Some(exchange) = peer.connection.get(request).and_then(|slot| slot.exchange.as_ref()) else {
            return;
        };
        self.metrics.requests_failed.incr();
        tracing::warn!("{}: request {} at {}: {why}", self.name(ring, peer), exchange.id(), exchange.mount);
        let late = Response::text(format!("{why}\n")).status(status).app_status(1);
        self.take_over(ring, peer, request, late);
    }

    /// Tells a handler that waits for its body that no more will come.
    pub(crate) fn starve(&mut self, peer: &mut Peer, request: RequestKey) {
        let Some(slot) = peer.connection.get_mut(request) else { return };
        if let Some(exchange) = &slot.exchange {
            exchange.stdin.borrow_mut().fail(ReadError::TimedOut);
            exchange.data.borrow_mut().fail(ReadError::TimedOut);
        }
    }

    /// The input is over: requests that are not complete will never be (decided at [`proto::Connection::incomplete`]).
    pub(crate) fn abort_incomplete(&mut self, peer: &mut Peer) {
        let incomplete: Vec<RequestKey> = peer.connection.incomplete().collect();
        for request in incomplete {
            self.abort(peer, request);
        }
    }

    /// Finds out whether a TCP peer whose input has ended is gone: only something that is sent to it tells, since its
    /// kernel then answers with a reset. An empty STDERR record tells a peer that still reads nothing new: FastCGI
    /// 6.1 has applications without errors to report send one or none.
    pub(crate) fn knock(&mut self, peer: &mut Peer) {
        if peer.unsent() > 0 {
            return;
        }
        let mut exchanges = peer.connection.requests().filter_map(|(_, slot)| slot.exchange.as_ref());
        let silent = exchanges.find(|exchange| exchange.out.borrow_mut().end_stderr());
        if let Some(id) = silent.map(|exchange| exchange.id()) {
            encoder::stream_end(peer.output.block_mut(), RecordType::Stderr, id);
        }
    }

    /// The connection is over for every request on it; nobody will read an answer.
    pub(crate) fn abort_all(&mut self, peer: &mut Peer) {
        let all: Vec<RequestKey> = peer.connection.requests().map(|(request, _)| request).collect();
        for request in all {
            self.abort(peer, request);
        }
        peer.backlog.clear();
    }

    fn finish(&mut self, peer: &mut Peer, request: RequestKey, app_status: u32) {
        self.metrics.requests_finished.incr();
        self.drop_request(peer, request, Some(app_status));
    }

    /// Ends a request, with END_REQUEST where an app status is given.
    fn drop_request(&mut self, peer: &mut Peer, request: RequestKey, app_status: Option<u32>) {
        let mut unsaid = Vec::new();
        let (app_status, out) = match app_status {
            Some(app_status) => (app_status, peer.output.block_mut()),
            None => (0, &mut unsaid),
        };
        let Some(slot) = peer.connection.finish(request, app_status, ProtocolStatus::RequestComplete, out)
        else {
            return;
        };
        if slot.is_paused {
            peer.paused_requests -= 1;
        }
        if let Some(task) = slot.task {
            self.tasks.cancel(task);
        }
        if let Some(exchange) = slot.exchange {
            self.active -= 1;
            exchange.end();
            self.finished.push(exchange);
        }
        peer.since = self.now;
    }

    /// Keeps the exchanges of finished requests for later ones, but for those that somebody still holds on to.
    pub(crate) fn sweep(&mut self) {
        for mut exchange in self.finished.drain(..) {
            if self.pool.len() < POOLED_MAX
                && let Some(unique) = Rc::get_mut(&mut exchange)
            {
                unique.reset(&self.no_mount);
                self.pool.push(exchange);
            }
        }
    }
}

/// FastCGI 6.4: a Filter's output waits until STDIN has ended.
fn must_hold_back(exchange: &Exchange) -> bool {
    exchange.role() == Role::Filter && !exchange.stdin.borrow().has_ended()
}

fn inbox_of(exchange: &Exchange, stream: RecordType) -> &std::cell::RefCell<handler::Inbox> {
    if stream == RecordType::Data { &exchange.data } else { &exchange.stdin }
}

/// Reads the announced lengths. One that is empty or negative means unknown: the stream's end decides (Caddy sends -1
/// for a chunked body); what is no number fails the handler's first read.
fn expect_lengths(exchange: &mut Exchange) {
    if let Some(value) = exchange.params.well_known(WellKnown::ContentLength)
        && !value.is_empty()
    {
        announce(exchange.stdin.get_mut(), length_of(value));
    }
    match exchange.role() {
        Role::Responder => {}
        Role::Authorizer => exchange.stdin.get_mut().end(),
        Role::Filter => {
            if let Some(value) = exchange.params.well_known(WellKnown::FcgiDataLength)
                && !value.is_empty()
            {
                announce(exchange.data.get_mut(), length_of(value));
            }
        }
    }
}

fn announce(inbox: &mut handler::Inbox, length: Result<Option<u64>, ReadError>) {
    match length {
        Ok(length) => inbox.expect(length),
        Err(error) => inbox.fail(error),
    }
}

/// The number of bytes that a header announces; `None` where a negative number says that it is unknown.
fn length_of(value: &[u8]) -> Result<Option<u64>, ReadError> {
    let malformed =
        || ReadError::Malformed(String::from_utf8_lossy(&value[..value.len().min(64)]).into_owned());
    let (is_negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    if is_negative {
        return Ok(None);
    }
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).map(Some).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers_or_unknown_or_refused() {
        assert_eq!(length_of(b"0"), Ok(Some(0)));
        assert_eq!(length_of(b"18446744073709551615"), Ok(Some(u64::MAX)));
        assert_eq!(length_of(b"-1"), Ok(None));
        for bad in ["-", "1e3", " 1", "+1", "18446744073709551616", "\u{b2}", "--1"] {
            assert!(matches!(length_of(bad.as_bytes()), Err(ReadError::Malformed(_))), "{bad:?}");
        }
    }
}
