//! The requests multiplexed on one connection: which there are, and which of them a record belongs to.
//!
//! What is not here: sockets, time, and the memory that params and stdin wait in.

use alloc::sync::Arc;
use alloc::vec::Vec;

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
    /// By slot. One that is over stays, to be filled in place: a request that is put together elsewhere and copied has
    /// the processor wait.
    requests: Vec<Request<T>>,
    /// The id of the request in each slot of `requests`, 0 where there is none: a dense array to search.
    ids: Vec<u16>,
    active: u16,
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
            requests: Vec::new(),
            ids: Vec::new(),
            active: 0,
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
            (self.requests, self.ids) = (Vec::new(), Vec::new());
        }
        if core::mem::take(&mut self.active) > 0 {
            self.requests.iter_mut().for_each(|request| drop(request.end()));
            self.ids.fill(0);
        }
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
        if self.decoder.mid_record() || self.closing || self.active >= self.limits.requests_max {
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
        let request = self.insert(id, Role::Responder, keep_conn);
        self.requests[usize::from(request.slot)].has_params(state, params.len() as u32);
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
        let slot = usize::from(request.slot);
        let ended = self.requests.get_mut(slot).filter(|active| active.key == request)?;
        self.ids[slot] = 0;
        self.active -= 1;
        self.closing |= !ended.keep_conn;
        if ended.is_incomplete() {
            self.owed = match (self.owed, ended.last_stream()) {
                (Owed::Nothing, Some(stream)) => Owed::End(ended.id, stream),
                _ => Owed::Unknown,
            };
        }
        encoder::end_request(out, ended.id, app_status, status);
        Some(ended.end())
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
            Ok(role) if self.active < self.limits.requests_max => {
                let request = self.insert(id, role, keep_conn);
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
    fn insert(&mut self, id: RequestId, role: Role, keep_conn: bool) -> RequestKey {
        self.generation = self.generation.wrapping_add(1);
        // Most connections carry one request at a time: room for one, not for the four a Vec begins with.
        if self.ids.capacity() == 0 {
            self.requests.reserve_exact(1);
            self.ids.reserve_exact(1);
        }
        if usize::from(self.active) == self.ids.len() {
            self.requests.push(Request::default());
            self.ids.push(0);
        }
        let slot = position(&self.ids, 0).expect("fewer are active than there are slots");
        self.active += 1;
        self.ids[slot] = id.get();
        // `requests_max` is a u16, so slots are below it.
        let key = RequestKey { slot: slot as u16, generation: self.generation };
        self.requests[slot].begin(key, id, role, keep_conn);
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
        self.closing && self.active == 0
    }

    /// Bytes are still to come that belong to what has begun: the rest of a record, or of the input of a request
    /// that was finished before its input was. Closing a TCP socket before they came resets the connection.
    pub fn expects_input(&self) -> bool {
        self.mid_record() || self.owed != Owed::Nothing
    }

    /// Whether there are active requests, complete and asked without KEEP_CONN: their answers end the connection.
    pub fn is_all_said(&self) -> bool {
        let is_last = |active: &Request<T>| !active.keep_conn && !active.is_incomplete();
        !self.mid_record() && self.active > 0 && self.iter().all(is_last)
    }

    /// How many requests are active.
    pub fn active(&self) -> usize {
        usize::from(self.active)
    }

    /// No request is active and no record is under way.
    pub fn is_idle(&self) -> bool {
        self.active == 0 && !self.mid_record()
    }

    /// Bytes of a record were taken that is not at its end yet.
    pub fn mid_record(&self) -> bool {
        self.decoder.mid_record()
    }

    /// The requests whose input is not all there; they cannot be served once the input has ended or broken.
    pub fn incomplete(&self) -> impl Iterator<Item = RequestKey> {
        self.iter().filter(|active| active.is_incomplete()).map(|active| active.key)
    }

    /// The active requests, with what the caller keeps with each.
    pub fn requests(&self) -> impl Iterator<Item = (RequestKey, &T)> {
        self.iter().map(|active| (active.key, &active.value))
    }

    fn iter(&self) -> impl Iterator<Item = &Request<T>> {
        self.requests.iter().filter(|request| request.is_active())
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
        if self.active == 0 {
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
mod tests;
