//! The requests multiplexed on one connection: which there are, and which of them a record belongs to.
//!
//! What is not here: sockets, time, and the memory that params and stdin wait in.

use alloc::sync::Arc;
use alloc::vec::Vec;

use slab::Slab;

use super::decoder::{Decoder, Fragment};
use super::encoder;
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::management::Management;
use super::request::{Request, State, Step};
use super::wire::{
    BODY_BYTES, BeginBody, HEADER_BYTES, KEEP_CONN, ProtocolStatus, RecordType, RequestId, Role, VERSION,
};

/// One request's life on its connection. An id comes again after END_REQUEST; a key does so only when 65,536
/// requests have begun since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    pub(super) slot: u16,
    pub(super) generation: u16,
}

/// What the bytes of a peer mean, one thing at a time.
///
/// Of one request the order is `Begun`, `Params`…, `ParamsEnded`, `Stdin`…, `StdinEnded`, and for a Filter
/// `Data`…, `DataEnded`; `Aborted` or `Failed` may come at any point and are the last but for an `Aborted`
/// after `Failed`. An Authorizer's input ends with `ParamsEnded`. Pieces are never empty; how a stream is
/// split into them follows records and receives and means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request has begun.
    Begun {
        /// The request.
        request: RequestKey,
        /// Its id on the wire.
        id: RequestId,
        /// What the application is to be.
        role: Role,
        /// Whether the connection outlives it.
        keep_conn: bool,
    },
    /// The next bytes of its params.
    Params {
        /// The request.
        request: RequestKey,
        /// Part of the caller's input.
        bytes: &'a [u8],
    },
    /// Its params are complete: time to parse them.
    ParamsEnded {
        /// The request.
        request: RequestKey,
    },
    /// The next bytes of its body.
    Stdin {
        /// The request.
        request: RequestKey,
        /// Part of the caller's input.
        bytes: &'a [u8],
    },
    /// Its body is complete.
    StdinEnded {
        /// The request.
        request: RequestKey,
    },
    /// Filter: the next bytes of its file.
    Data {
        /// The request.
        request: RequestKey,
        /// Part of the caller's input.
        bytes: &'a [u8],
    },
    /// Filter: its file is complete.
    DataEnded {
        /// The request.
        request: RequestKey,
    },
    /// The peer gave it up: stop its work and finish it, soon (5.4).
    Aborted {
        /// The request.
        request: RequestKey,
    },
    /// It broke a rule: answer it ([`Error::answer`]) and finish it. Its further records are ignored.
    Failed {
        /// The request.
        request: RequestKey,
        /// The rule.
        error: Error,
    },
    /// It was not let in: its END_REQUEST is in `reply`, its further records are ignored.
    Refused {
        /// Its id on the wire.
        id: RequestId,
        /// Why.
        status: ProtocolStatus,
    },
}

// As patterns have them.
const BEGIN_REQUEST: u8 = 1;
const BODY_LENGTH: u8 = BODY_BYTES as u8;

/// A Responder's request that came in one piece. See [`Connection::take_request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeRequest<'a> {
    /// The request.
    pub request: RequestKey,
    /// Its id on the wire.
    pub id: RequestId,
    /// Whether the connection outlives it.
    pub keep_conn: bool,
    /// All of its params, part of the caller's input: time to parse them.
    pub params: &'a [u8],
    /// Its body is empty, and that has been said too.
    pub is_complete: bool,
}

/// The application's side of one FastCGI connection. `T` is what the caller keeps with each request.
///
/// Memory: what is here, one slot per request that was active at the same time (at most `requests_max`), and
/// while a GET_VALUES is split over reads, at most `management_bytes_max`. Whatever a peer sends, `reply`
/// grows by at most twice the bytes of the input plus 64: 16 bytes per 8 of an unknown management record.
#[derive(Debug)]
pub struct Connection<T> {
    limits: Arc<Limits>,
    requests: Slab<Request<T>>,
    /// The id of the request in each slot of `requests`, 0 where there is none: a dense array to search.
    ids: Vec<u16>,
    management: Management,
    decoder: Decoder,
    /// The content of a BEGIN_REQUEST that came in pieces, and how much of it is there.
    begin: [u8; BODY_BYTES],
    begin_filled: u8,
    /// A request without KEEP_CONN has ended, or the input is broken: nothing new begins.
    closing: bool,
    /// A framing error was reported: no byte means anything any more.
    broken: bool,
    owed: Owed,
    /// Where the last record's request was: the next one is mostly the same's.
    recent: u16,
    generation: u16,
}

/// Input of finished requests that has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// Of one request, up to the empty record of this stream.
    End(RequestId, RecordType),
    /// More than is worth keeping track of.
    Unknown,
}

impl<T: Default> Connection<T> {
    /// A connection on which nothing has arrived. Takes no heap until a request begins.
    pub fn new(limits: Arc<Limits>) -> Self {
        Connection {
            limits,
            requests: Slab::new(),
            ids: Vec::new(),
            management: Management::default(),
            decoder: Decoder::new(),
            begin: [0; BODY_BYTES],
            begin_filled: 0,
            closing: false,
            broken: false,
            owed: Owed::Nothing,
            recent: 0,
            generation: 0,
        }
    }

    /// Makes it as new, for another socket. The memory for its requests stays, if it is for no more than
    /// `requests_kept`.
    pub fn reset(&mut self, requests_kept: usize) {
        if self.requests.capacity() > requests_kept {
            (self.requests, self.ids) = (Slab::new(), Vec::new());
        }
        self.requests.clear();
        self.ids.clear();
        self.management = Management::default();
        self.decoder = Decoder::new();
        self.begin_filled = 0;
        (self.closing, self.broken) = (false, false);
        self.owed = Owed::Nothing;
        self.recent = 0;
        // `generation` goes on: keys of the life before are not those of the next.
    }

    /// Takes a request off the front of `input` whose params are all at hand, as most web servers send them:
    /// BEGIN_REQUEST, one PARAMS record and the empty one behind it, in one piece. `None`, and nothing taken, where
    /// anything else comes first; [`handle_input`](Connection::handle_input) knows what that means.
    ///
    /// Both together are `handle_input` with fewer steps: it would report `Begun`, `Params`, `ParamsEnded`, and
    /// `StdinEnded` where `is_complete`.
    #[inline]
    pub fn take_request<'a>(&mut self, input: &mut &'a [u8]) -> Option<WholeRequest<'a>> {
        if self.decoder.mid_record()
            || self.closing
            || self.requests.len() >= usize::from(self.limits.requests_max)
        {
            return None;
        }
        let (begin, rest) = input.split_first_chunk()?;
        let [VERSION, BEGIN_REQUEST, id1, id0, 0, BODY_LENGTH, 0, _, role1, role0, flags, _, _, _, _, _] =
            *begin
        else {
            return None;
        };
        let id = RequestId::new(u16::from_be_bytes([id1, id0]))?;
        if u16::from_be_bytes([role1, role0]) != Role::Responder as u16 {
            return None;
        }
        let (params, rest) = take_record(rest, RecordType::Params, id)?;
        let (end, rest) = take_record(rest, RecordType::Params, id)?;
        let is_good =
            !params.is_empty() && end.is_empty() && params.len() <= self.limits.params_bytes_max as usize;
        if !is_good || self.slot_of(id).is_some() {
            return None;
        }
        let (is_complete, rest) = match take_record(rest, RecordType::Stdin, id) {
            Some(([], rest)) => (true, rest),
            _ => (false, rest),
        };
        *input = rest;
        let keep_conn = flags & KEEP_CONN != 0;
        let state = if is_complete { State::Complete } else { State::Stdin };
        let request = self.insert(id, |key| Request::opened(key, id, keep_conn, state, params.len() as u32));
        Some(WholeRequest { request, id, keep_conn, params, is_complete })
    }

    /// Takes bytes off the front of `input` and reports the next thing they mean; `None` once `input` is
    /// empty, so call until then. Answers to management records and refusals are appended to `reply`: send
    /// them.
    ///
    /// An error ends the connection: requests whose input is complete are still answered, those of
    /// [`incomplete`](Connection::incomplete) are aborted. Input given after it is dropped unread.
    #[inline(always)]
    pub fn handle_input<'a>(
        &mut self,
        input: &mut &'a [u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Error> {
        if self.broken {
            *input = &[];
            return Ok(None);
        }
        loop {
            let fragment = match self.decoder.take_fragment(input) {
                Ok(Some(fragment)) => fragment,
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.break_off(input, error)),
            };
            match self.handle_fragment(fragment, reply) {
                Ok(None) => continue,
                Ok(event) => return Ok(event),
                Err(error) => return Err(self.break_off(input, error)),
            }
        }
    }

    /// Ends a request: END_REQUEST goes to `out`, the id is free, the caller gets its value back. `None`, and
    /// nothing written, when it was over already.
    pub fn finish(
        &mut self,
        request: RequestKey,
        app_status: u32,
        status: ProtocolStatus,
        out: &mut Vec<u8>,
    ) -> Option<T> {
        self.find(request)?;
        let ended = self.requests.remove(usize::from(request.slot));
        self.ids[usize::from(request.slot)] = 0;
        self.closing |= !ended.keep_conn;
        if ended.is_incomplete() {
            self.owed = match (self.owed, ended.last_stream()) {
                (Owed::Nothing, Some(stream)) => Owed::End(ended.id, stream),
                _ => Owed::Unknown,
            };
        }
        encoder::end_request(out, ended.id, app_status, status);
        Some(ended.value)
    }

    #[inline(always)]
    fn handle_fragment<'a>(
        &mut self,
        fragment: Fragment<'a>,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Error> {
        let Some(id) = RequestId::new(fragment.header.request_id) else {
            self.management.handle_record(fragment, &self.limits, reply)?;
            return Ok(None);
        };
        match fragment.header.record_type {
            RecordType::Params | RecordType::Stdin | RecordType::Data | RecordType::AbortRequest => {
                Ok(self.handle_stream(id, fragment))
            }
            RecordType::BeginRequest => self.handle_begin(id, fragment, reply),
            // What an application sends, and management records, mean nothing on a request's id; nor does a
            // type nobody knows: UNKNOWN_TYPE is for management records (4.2).
            RecordType::EndRequest
            | RecordType::Stdout
            | RecordType::Stderr
            | RecordType::GetValues
            | RecordType::GetValuesResult
            | RecordType::UnknownType
            | RecordType::Unknown(_) => Ok(None),
        }
    }

    #[inline(always)]
    fn handle_stream<'a>(&mut self, id: RequestId, fragment: Fragment<'a>) -> Option<Event<'a>> {
        // FastCGI 3.3: records of an inactive id are ignored.
        let Some(slot) = self.slot_of(id) else {
            let header = fragment.header;
            if header.content_length == 0 && self.owed == Owed::End(id, header.record_type) {
                self.owed = Owed::Nothing;
            }
            return None;
        };
        let active = self.requests.get_mut(slot)?;
        let Fragment { header, content: bytes, starts, .. } = fragment;
        let request = active.key;
        match active.handle_record(header.record_type, header.content_length, starts, &self.limits) {
            Step::Ignore => None,
            Step::Content => match header.record_type {
                RecordType::Params => Some(Event::Params { request, bytes }),
                RecordType::Stdin => Some(Event::Stdin { request, bytes }),
                _ => Some(Event::Data { request, bytes }),
            },
            Step::End => match header.record_type {
                RecordType::Params => Some(Event::ParamsEnded { request }),
                RecordType::Stdin => Some(Event::StdinEnded { request }),
                _ => Some(Event::DataEnded { request }),
            },
            Step::Abort => Some(Event::Aborted { request }),
            Step::Fail(kind) => Some(Event::Failed { request, error: Error::new(kind, Some(id.get())) }),
        }
    }

    fn handle_begin<'a>(
        &mut self,
        id: RequestId,
        fragment: Fragment<'a>,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Error> {
        let Fragment { header, content, starts, ends } = fragment;
        if usize::from(header.content_length) != BODY_BYTES {
            return Err(Error::new(ErrorKind::BeginLength(header.content_length), Some(id.get())));
        }
        let body = match content.first_chunk() {
            Some(whole) => *whole,
            None => {
                let filled = if starts { 0 } else { usize::from(self.begin_filled) };
                self.begin[filled..filled + content.len()].copy_from_slice(content);
                self.begin_filled = (filled + content.len()) as u8;
                if !ends {
                    return Ok(None);
                }
                self.begin
            }
        };
        // Also while closing: the params of two requests must never meet.
        if self.slot_of(id).is_some() {
            return Err(Error::new(ErrorKind::IdInUse, Some(id.get())));
        }
        if self.closing {
            return Ok(None);
        }
        Ok(Some(self.begin(id, BeginBody::from_bytes(body), reply)))
    }

    fn begin(&mut self, id: RequestId, body: BeginBody, reply: &mut Vec<u8>) -> Event<'static> {
        let keep_conn = body.flags & KEEP_CONN != 0;
        let refusal = match Role::try_from(body.role) {
            Err(_) => ProtocolStatus::UnknownRole,
            Ok(role) if self.requests.len() < usize::from(self.limits.requests_max) => {
                let request = self.insert(id, |key| Request::new(key, id, role, keep_conn));
                return Event::Begun { request, id, role, keep_conn };
            }
            // FastCGI 5.5: CANT_MPX_CONN for one request at a time, OVERLOADED for any other number.
            Ok(_) if self.limits.requests_max == 1 => ProtocolStatus::CantMpxConn,
            Ok(_) => ProtocolStatus::Overloaded,
        };
        encoder::end_request(reply, id, 0, refusal);
        // A refused request has ended too (5.5), so its flag counts.
        self.closing |= !keep_conn;
        Event::Refused { id, status: refusal }
    }

    #[inline]
    fn insert(&mut self, id: RequestId, request: impl FnOnce(RequestKey) -> Request<T>) -> RequestKey {
        self.generation = self.generation.wrapping_add(1);
        // Most connections carry one request at a time: room for one, not for the four a Vec begins with.
        if self.ids.capacity() == 0 {
            self.requests.reserve_exact(1);
            self.ids.reserve_exact(1);
        }
        let entry = self.requests.vacant_entry();
        let slot = entry.key();
        // `requests_max` is a u16, so slots are below it.
        let key = RequestKey { slot: slot as u16, generation: self.generation };
        entry.insert(request(key));
        if slot == self.ids.len() {
            self.ids.push(id.get());
        } else {
            self.ids[slot] = id.get();
        }
        self.recent = key.slot;
        key
    }

    #[cold]
    fn break_off(&mut self, input: &mut &[u8], error: Error) -> Error {
        *input = &[];
        self.broken = true;
        self.closing = true;
        self.management = Management::default();
        error
    }
}

impl<T> Connection<T> {
    /// What the caller keeps with a request; `None` when that is over.
    pub fn get(&self, request: RequestKey) -> Option<&T> {
        self.find(request).map(|active| &active.value)
    }

    /// What the caller keeps with a request; `None` when that is over.
    pub fn get_mut(&mut self, request: RequestKey) -> Option<&mut T> {
        let active = self.requests.get_mut(usize::from(request.slot))?;
        (active.key == request).then_some(&mut active.value)
    }

    /// A request's id on the wire; `None` when it is over.
    pub fn id(&self, request: RequestKey) -> Option<RequestId> {
        self.find(request).map(|active| active.id)
    }

    /// A request's role; `None` when it is over.
    pub fn role(&self, request: RequestKey) -> Option<Role> {
        self.find(request).map(|active| active.role)
    }

    /// The connection is to be closed: a request without KEEP_CONN has ended, or the input broke, and no
    /// request is active any more. From that end on BEGIN_REQUEST is ignored.
    pub fn wants_close(&self) -> bool {
        self.closing && self.requests.is_empty()
    }

    /// Bytes are still to come that belong to what has begun: the rest of a record, or of the input of a request
    /// that was finished before its input was. Closing a TCP socket before they came resets the connection.
    pub fn expects_input(&self) -> bool {
        self.mid_record() || self.owed != Owed::Nothing
    }

    /// Whether there are active requests, complete and asked without KEEP_CONN: their answers end the connection.
    pub fn is_all_said(&self) -> bool {
        let is_last = |active: &Request<T>| !active.keep_conn && !active.is_incomplete();
        !self.mid_record() && !self.requests.is_empty() && self.requests.iter().all(|(_, it)| is_last(it))
    }

    /// How many requests are active.
    pub fn active(&self) -> usize {
        self.requests.len()
    }

    /// No request is active and no record is under way.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && !self.mid_record()
    }

    /// Bytes of a record were taken that is not at its end yet.
    pub fn mid_record(&self) -> bool {
        self.decoder.mid_record()
    }

    /// The requests whose input is not all there; they cannot be served once the input has ended or broken.
    pub fn incomplete(&self) -> impl Iterator<Item = RequestKey> {
        self.requests.iter().filter(|(_, active)| active.is_incomplete()).map(|(_, active)| active.key)
    }

    /// The active requests, with what the caller keeps with each.
    pub fn requests(&self) -> impl Iterator<Item = (RequestKey, &T)> {
        self.requests.iter().map(|(_, active)| (active.key, &active.value))
    }

    fn find(&self, request: RequestKey) -> Option<&Request<T>> {
        self.requests.get(usize::from(request.slot)).filter(|active| active.key == request)
    }

    /// The slot of an active id.
    #[inline]
    fn slot_of(&mut self, id: RequestId) -> Option<usize> {
        let recent = usize::from(self.recent);
        if self.ids.get(recent) == Some(&id.get()) {
            return Some(recent);
        }
        if self.requests.is_empty() {
            return None;
        }
        let slot = position(&self.ids, id.get())?;
        self.recent = slot as u16;
        Some(slot)
    }
}

/// The content of the record at the front of `input`, if it is of this type and request and all there, and what
/// follows its padding.
#[inline(always)]
fn take_record(input: &[u8], record_type: RecordType, id: RequestId) -> Option<(&[u8], &[u8])> {
    let (head, rest) = input.split_first_chunk::<HEADER_BYTES>()?;
    let [version, number, id1, id0, length1, length0, padding_length, _] = *head;
    let [wanted1, wanted0] = id.get().to_be_bytes();
    if [version, number, id1, id0] != [VERSION, u8::from(record_type), wanted1, wanted0] {
        return None;
    }
    let (content, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([length1, length0])))?;
    let (_padding, rest) = rest.split_at_checked(usize::from(padding_length))?;
    Some((content, rest))
}

/// Where `id` is in `ids`, 32 of them at a time: without an early exit in its body the inner loop is a few
/// vector instructions.
fn position(ids: &[u16], id: u16) -> Option<usize> {
    let (blocks, tail) = ids.as_chunks::<32>();
    for (block, start) in blocks.iter().zip((0..).step_by(32)) {
        if block.iter().fold(false, |found, other| found | (*other == id)) {
            return block.iter().position(|other| *other == id).map(|place| start + place);
        }
    }
    let place = tail.iter().position(|other| *other == id)?;
    Some(ids.len() - tail.len() + place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordType::{Data, Params, Stdin};
    use alloc::vec;

    const ONE: RequestId = RequestId::ONE;

    fn connection(limits: Limits) -> Connection<u32> {
        Connection::new(Arc::new(limits))
    }

    fn id(id: u16) -> RequestId {
        RequestId::new(id).unwrap()
    }

    fn begin(id: RequestId, role: Role, keep_conn: bool) -> Vec<u8> {
        let mut out = Vec::new();
        encoder::begin_request(&mut out, id, role, keep_conn);
        out
    }

    fn record(record_type: RecordType, id: u16, content: &[u8]) -> Vec<u8> {
        let [length1, length0] = (content.len() as u16).to_be_bytes();
        let [id1, id0] = id.to_be_bytes();
        [&[1, u8::from(record_type), id1, id0, length1, length0, 0, 0], content].concat()
    }

    /// All events of `bytes`, and the replies to it.
    #[track_caller]
    fn feed<'a>(connection: &mut Connection<u32>, bytes: &'a [u8]) -> (Vec<Event<'a>>, Vec<u8>) {
        let (mut input, mut reply, mut events) = (bytes, Vec::new(), Vec::new());
        while let Some(event) = connection.handle_input(&mut input, &mut reply).unwrap() {
            events.push(event);
        }
        assert!(input.is_empty());
        (events, reply)
    }

    #[track_caller]
    fn begun(connection: &mut Connection<u32>, id: RequestId, role: Role, keep_conn: bool) -> RequestKey {
        let bytes = begin(id, role, keep_conn);
        let (events, reply) = feed(connection, &bytes);
        let [Event::Begun { request, .. }] = events[..] else { panic!("{events:?}") };
        assert_eq!(events, [Event::Begun { request, id, role, keep_conn }]);
        assert!(reply.is_empty());
        request
    }

    /// The error of `bytes`, which must come before anything else of them.
    #[track_caller]
    fn broken(connection: &mut Connection<u32>, bytes: &[u8]) -> ErrorKind {
        let (mut input, mut reply) = (bytes, Vec::new());
        let error = connection.handle_input(&mut input, &mut reply).unwrap_err();
        assert!(input.is_empty() && reply.is_empty());
        assert_eq!(error.scope, crate::proto::Scope::Connection);
        error.kind
    }

    #[test]
    fn a_connection_that_was_reset_is_as_new() {
        for kept in [0, 8] {
            let mut connection = connection(Limits::default());
            let old = begun(&mut connection, ONE, Role::Responder, false);
            feed(&mut connection, &record(Params, 1, b"half of a record")[..12]);
            connection.finish(old, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
            assert!(connection.wants_close() && connection.expects_input());
            connection.reset(kept);
            assert!(connection.is_idle() && !connection.wants_close() && !connection.expects_input());
            let new = begun(&mut connection, ONE, Role::Responder, true);
            assert!(connection.get(old).is_none() && connection.get(new).is_some());
            broken(&mut connection, b"GET / HTTP/1.1");
            connection.reset(kept);
            begun(&mut connection, ONE, Role::Responder, true);
        }
    }

    #[test]
    fn one_request_from_begin_to_end() {
        let mut connection = connection(Limits::default());
        assert!(connection.is_idle());
        let request = begun(&mut connection, ONE, Role::Responder, false);
        *connection.get_mut(request).unwrap() = 42;
        let bytes = [
            record(Params, 1, b"\x01\x01ab"),
            record(Params, 1, b""),
            record(Stdin, 1, b"body"),
            record(Stdin, 1, b""),
            record(Stdin, 1, b""),
        ]
        .concat();
        let (events, reply) = feed(&mut connection, &bytes);
        let expected = [
            Event::Params { request, bytes: b"\x01\x01ab" },
            Event::ParamsEnded { request },
            Event::Stdin { request, bytes: b"body" },
            Event::StdinEnded { request },
        ];
        assert_eq!(events, expected);
        assert!(reply.is_empty() && !connection.wants_close() && !connection.is_idle());
        assert_eq!((connection.id(request), connection.role(request)), (Some(ONE), Some(Role::Responder)));
        let mut out = Vec::new();
        assert_eq!(connection.finish(request, 7, ProtocolStatus::RequestComplete, &mut out), Some(42));
        assert_eq!(out, [1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
        assert!(connection.wants_close() && connection.is_idle());
    }

    #[test]
    fn input_of_a_finished_request_is_expected_until_its_end() {
        let mut connection = connection(Limits::default());
        assert!(!connection.expects_input());
        let request = begun(&mut connection, ONE, Role::Responder, false);
        feed(&mut connection, &record(Params, 1, b""));
        connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        assert!(connection.expects_input());
        feed(&mut connection, &record(Stdin, 1, b"late"));
        feed(&mut connection, &record(Stdin, 2, b""));
        assert!(connection.expects_input());
        feed(&mut connection, &record(Stdin, 1, b""));
        assert!(!connection.expects_input());
        feed(&mut connection, &record(Stdin, 1, b"")[..3]);
        assert!(connection.expects_input(), "in the middle of a record");
    }

    #[test]
    fn all_is_said_where_complete_requests_end_the_connection() {
        let mut connection = connection(Limits::default());
        assert!(!connection.is_all_said(), "nothing was said yet");
        begun(&mut connection, ONE, Role::Responder, false);
        feed(&mut connection, &record(Params, 1, b""));
        assert!(!connection.is_all_said());
        feed(&mut connection, &record(Stdin, 1, b""));
        assert!(connection.is_all_said());
        feed(&mut connection, &record(Stdin, 1, b"")[..3]);
        assert!(!connection.is_all_said(), "in the middle of a record");
        for (keep, is_all_said) in [(false, true), (true, false)] {
            connection.reset(0);
            for (id, keep) in [(ONE, false), (RequestId::new(2).unwrap(), keep)] {
                begun(&mut connection, id, Role::Authorizer, keep);
                feed(&mut connection, &record(Params, id.get(), b""));
            }
            assert_eq!(connection.is_all_said(), is_all_said);
        }
    }

    #[test]
    fn a_key_ends_with_its_request() {
        let mut connection = connection(Limits::default());
        let first = begun(&mut connection, ONE, Role::Responder, true);
        let mut out = Vec::new();
        assert_eq!(connection.finish(first, 0, ProtocolStatus::RequestComplete, &mut out), Some(0));
        let second = begun(&mut connection, ONE, Role::Filter, true);
        assert_eq!((first.slot, first == second), (second.slot, false));
        out.clear();
        assert_eq!(connection.finish(first, 0, ProtocolStatus::RequestComplete, &mut out), None);
        assert!(out.is_empty());
        assert!(connection.get(first).is_none() && connection.get_mut(first).is_none());
        assert!(connection.id(first).is_none() && connection.role(first).is_none());
        assert_eq!(connection.role(second), Some(Role::Filter));
        assert!(!connection.wants_close());
    }

    #[test]
    fn requests_interleave_and_end_in_any_order() {
        let mut connection = connection(Limits::default());
        let keys: Vec<RequestKey> = [1, 256, 65_535, 7]
            .map(|number| begun(&mut connection, id(number), Role::Responder, true))
            .to_vec();
        for (key, number) in keys.iter().zip([1, 256, 65_535, 7]).rev() {
            let bytes = record(Params, number, b"x");
            assert_eq!(feed(&mut connection, &bytes).0, [Event::Params { request: *key, bytes: b"x" }]);
        }
        assert!(connection.requests().map(|(key, _)| key).eq(keys.iter().copied()));
        let mut out = Vec::new();
        for key in [keys[2], keys[0], keys[3], keys[1]] {
            connection.finish(key, 0, ProtocolStatus::RequestComplete, &mut out).unwrap();
        }
        assert_eq!(connection.active(), 0);
        assert_eq!(
            out.chunks(16).map(|end| u16::from_be_bytes([end[2], end[3]])).collect::<Vec<_>>(),
            [65_535, 1, 7, 256]
        );
    }

    #[test]
    fn records_of_inactive_ids_are_ignored() {
        let mut connection = connection(Limits::default());
        let active = begun(&mut connection, ONE, Role::Responder, true);
        for record_type in
            RecordType::ALL.iter().copied().chain([RecordType::Unknown(0), RecordType::Unknown(200)])
        {
            let stray = if record_type == RecordType::BeginRequest { 0 } else { 2 };
            if stray != 0 {
                let bytes = record(record_type, stray, b"stray");
                assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
            }
        }
        connection.finish(active, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        for record_type in [Params, Stdin, Data, RecordType::AbortRequest] {
            let bytes = record(record_type, 1, b"late");
            assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
        }
    }

    #[test]
    fn what_is_not_a_web_servers_to_send_is_ignored_on_an_active_id() {
        use RecordType::{EndRequest, GetValues, GetValuesResult, Stderr, Stdout, Unknown, UnknownType};
        let mut connection = connection(Limits::default());
        begun(&mut connection, ONE, Role::Responder, true);
        for record_type in [EndRequest, Stdout, Stderr, GetValues, GetValuesResult, UnknownType, Unknown(99)]
        {
            let bytes = record(record_type, 1, b"12345678");
            assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
        }
        assert_eq!(connection.active(), 1);
    }

    #[test]
    fn a_record_in_pieces_outlives_its_request() {
        let mut connection = connection(Limits::default());
        let request = begun(&mut connection, ONE, Role::Responder, true);
        let bytes = record(Params, 1, b"abcdef");
        assert_eq!(feed(&mut connection, &bytes[..10]).0, [Event::Params { request, bytes: b"ab" }]);
        assert!(connection.mid_record());
        connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        assert!(!connection.is_idle());
        assert_eq!(feed(&mut connection, &bytes[10..]).0, []);
        assert!(connection.is_idle());
    }

    #[test]
    fn without_keep_conn_the_others_finish_first() {
        let mut connection = connection(Limits::default());
        let (last, kept) = (id(2), id(3));
        let ends = begun(&mut connection, ONE, Role::Responder, false);
        let stays = begun(&mut connection, last, Role::Responder, true);
        let mut out = Vec::new();
        connection.finish(ends, 0, ProtocolStatus::RequestComplete, &mut out);
        assert!(!connection.wants_close());
        assert_eq!(feed(&mut connection, &begin(kept, Role::Responder, true)), (vec![], vec![]));
        assert_eq!(feed(&mut connection, &record(Params, 3, b"x")), (vec![], vec![]));
        let bytes = record(Params, 2, b"x");
        assert_eq!(feed(&mut connection, &bytes).0, [Event::Params { request: stays, bytes: b"x" }]);
        assert_eq!(broken(&mut connection, &begin(last, Role::Responder, true)), ErrorKind::IdInUse);
        connection.finish(stays, 0, ProtocolStatus::RequestComplete, &mut out);
        assert!(connection.wants_close());
    }

    #[test]
    fn requests_at_once_are_limited() {
        for (max, status) in [(1, ProtocolStatus::CantMpxConn), (2, ProtocolStatus::Overloaded)] {
            let mut connection = connection(Limits { requests_max: max, ..Limits::default() });
            let keys: Vec<_> =
                (1..=max).map(|number| begun(&mut connection, id(number), Role::Responder, true)).collect();
            let bytes = [begin(id(9), Role::Responder, true), record(Params, 9, b"ignored")].concat();
            let (events, reply) = feed(&mut connection, &bytes);
            assert_eq!(events, [Event::Refused { id: id(9), status }]);
            assert_eq!(reply, [1, 3, 0, 9, 0, 8, 0, 0, 0, 0, 0, 0, u8::from(status), 0, 0, 0]);
            connection.finish(keys[0], 0, ProtocolStatus::RequestComplete, &mut Vec::new());
            begun(&mut connection, id(9), Role::Responder, true);
        }
    }

    #[test]
    fn unknown_roles_are_refused() {
        for (role, keep_conn) in [(0, true), (4, false), (0x0101, true), (65_535, false)] {
            let mut connection = connection(Limits::default());
            let body = BeginBody { role, flags: if keep_conn { 0xff } else { 0xfe } };
            let bytes = record(RecordType::BeginRequest, 1, &body.to_bytes());
            let (events, reply) = feed(&mut connection, &bytes);
            assert_eq!(events, [Event::Refused { id: ONE, status: ProtocolStatus::UnknownRole }]);
            assert_eq!(reply, [1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
            assert_eq!(connection.wants_close(), !keep_conn);
        }
    }

    #[test]
    fn a_failed_request_waits_for_its_answer() {
        let mut connection = connection(Limits { params_bytes_max: 5, ..Limits::default() });
        let request = begun(&mut connection, ONE, Role::Responder, true);
        let bytes = [
            record(Params, 1, b"abcde"),
            record(Params, 1, b"f"),
            record(Params, 1, b""),
            record(RecordType::AbortRequest, 1, b""),
            record(Stdin, 1, b""),
        ]
        .concat();
        let error = Error::new(ErrorKind::ParamsTooLong(5), Some(1));
        let expected = [
            Event::Params { request, bytes: b"abcde" },
            Event::Failed { request, error },
            Event::Aborted { request },
        ];
        assert_eq!(feed(&mut connection, &bytes).0, expected);
        assert_eq!((connection.incomplete().count(), connection.active()), (0, 1));
    }

    #[test]
    fn incomplete_are_those_whose_input_is_awaited() {
        let mut connection = connection(Limits::default());
        let in_params = begun(&mut connection, id(1), Role::Authorizer, true);
        let in_stdin = begun(&mut connection, id(2), Role::Responder, true);
        let in_data = begun(&mut connection, id(3), Role::Filter, true);
        let authorizer = begun(&mut connection, id(4), Role::Authorizer, true);
        let aborted = begun(&mut connection, id(5), Role::Responder, true);
        let params: Vec<u8> = (2..=4).flat_map(|number| record(Params, number, b"")).collect();
        feed(&mut connection, &params);
        feed(&mut connection, &record(Stdin, 3, b""));
        feed(&mut connection, &record(RecordType::AbortRequest, 5, b""));
        assert!(connection.incomplete().eq([in_params, in_stdin, in_data]));
        // FastCGI 3.3: a broken frame; what was complete can still be answered.
        assert_eq!(broken(&mut connection, &[0; 8]), ErrorKind::Version(0));
        assert!(connection.incomplete().eq([in_params, in_stdin, in_data]));
        assert!(!connection.wants_close());
        let mut out = Vec::new();
        for key in [in_params, in_stdin, in_data, authorizer, aborted] {
            connection.finish(key, 0, ProtocolStatus::RequestComplete, &mut out).unwrap();
        }
        assert!(connection.wants_close());
        assert_eq!(feed(&mut connection, &begin(ONE, Role::Responder, true)), (vec![], vec![]));
    }

    #[test]
    fn framing_errors_end_the_connection() {
        let begin_with = |length: usize| record(RecordType::BeginRequest, 1, &vec![1; length]);
        for length in [0, 1, 7, 9, 65_535] {
            let kind = ErrorKind::BeginLength(length as u16);
            assert_eq!(broken(&mut connection(Limits::default()), &begin_with(length)), kind);
        }
        let mut twice = connection(Limits::default());
        begun(&mut twice, ONE, Role::Responder, true);
        assert_eq!(broken(&mut twice, &begin(ONE, Role::Responder, true)), ErrorKind::IdInUse);
        for version in [0, 2, 255] {
            let bytes = [version, 1, 0, 1, 0, 0, 0, 0];
            assert_eq!(broken(&mut connection(Limits::default()), &bytes), ErrorKind::Version(version));
        }
    }

    #[test]
    fn ids_are_found_in_blocks_and_behind_them() {
        for length in [0, 1, 31, 32, 33, 64, 100] {
            let ids: Vec<u16> = (1..=length).collect();
            for id in 0..=length + 1 {
                let place = usize::from(id).checked_sub(1).filter(|place| *place < ids.len());
                assert_eq!(position(&ids, id), place, "{id} of {length}");
            }
        }
    }

    #[test]
    fn ten_thousand_idle_connections_are_small() {
        assert!(size_of::<Connection<()>>() <= 128, "{}", size_of::<Connection<()>>());
        assert!(size_of::<Result<Option<Event<'_>>, Error>>() <= 40);
        let mut connection = connection(Limits::default());
        let request = begun(&mut connection, ONE, Role::Responder, true);
        connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        assert_eq!((connection.requests.capacity(), connection.ids.capacity()), (1, 1));
    }
}
