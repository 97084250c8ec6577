//! One request's life: which of its streams is open, and what a record does to it.

use super::connection::RequestKey;
use super::error::ErrorKind;
use super::limits::Limits;
use super::wire::{RecordType, RequestId, Role};

/// A request that is active on a connection: from BEGIN_REQUEST until its END_REQUEST is written.
#[derive(Debug)]
pub(super) struct Request<T> {
    pub(super) key: RequestKey,
    pub(super) id: RequestId,
    pub(super) role: Role,
    pub(super) keep_conn: bool,
    state: State,
    /// Bytes of PARAMS announced by its records so far; at most `params_bytes_max`.
    params_bytes: u32,
    /// What the caller keeps with the request.
    pub(super) value: T,
}

/// Which stream is open. The empty record of that stream leads on; the streams behind it are not awaited yet.
///
/// ```text
///  BEGIN_REQUEST
///       │
///       ▼     end of PARAMS        end of STDIN     end of DATA
///    Params ───────┬─────▶ Stdin ───────┬─────▶ Data ───┐
///       │          │         │          │        │      ▼
///       │          │         │          └────────│─▶ Complete      (Responder: no DATA)
///       │          └─────────│───────────────────│─▶ Complete      (Authorizer: no STDIN either)
///       │                    │                   │      │
///       ├────────────────────┴───────────────────┘      │
///       │ a rule is broken                              │
///       ▼                                               │
///    Failed ──────────┐                                 │
///       every state   │ ABORT_REQUEST                   │
///       but the last ─┴──────────▶ Aborted ◀────────────┘
///
///  END_REQUEST, written by the caller in any state, takes the request off the connection.
/// ```
///
/// A record of a stream that has ended, or that the role does not have, is ignored: Cherokee ends STDIN
/// twice, lighttpd sends an authorizer an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Params,
    Stdin,
    Data,
    /// All input is there.
    Complete,
    /// The request broke a rule; it waits for its answer.
    Failed,
    /// The peer gave it up; it waits for its END_REQUEST.
    Aborted,
}

/// What a record means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; the record is skipped.
    Ignore,
    /// Its content is the next piece of the stream that is open.
    Content,
    /// The stream that was open has ended.
    End,
    /// The peer gave the request up.
    Abort,
    /// It broke a rule.
    Fail(ErrorKind),
}

/// Of a slot without a request: no slot has this number.
const NOBODY: RequestKey = RequestKey { slot: u16::MAX, generation: 0 };

/// A slot without a request.
impl<T: Default> Default for Request<T> {
    fn default() -> Request<T> {
        Request {
            key: NOBODY,
            id: RequestId::ONE,
            role: Role::Responder,
            keep_conn: false,
            state: State::Params,
            params_bytes: 0,
            value: T::default(),
        }
    }
}

impl<T: Default> Request<T> {
    /// Makes the slot free and gives what the caller kept in it.
    #[inline]
    pub(super) fn end(&mut self) -> T {
        self.key = NOBODY;
        core::mem::take(&mut self.value)
    }
}

impl<T> Request<T> {
    #[inline]
    pub(super) fn begin(&mut self, key: RequestKey, id: RequestId, role: Role, keep_conn: bool) {
        (self.key, self.id, self.role, self.keep_conn) = (key, id, role, keep_conn);
        (self.state, self.params_bytes) = (State::Params, 0);
    }

    pub(super) fn is_active(&self) -> bool {
        self.key != NOBODY
    }

    /// All its params came with it.
    #[inline]
    pub(super) fn has_params(&mut self, state: State, params_bytes: u32) {
        (self.state, self.params_bytes) = (state, params_bytes);
    }
}

impl<T> Request<T> {
    /// Takes in an application record other than BEGIN_REQUEST: its length, and whether this is its
    /// beginning.
    #[inline]
    pub(super) fn handle_record(
        &mut self,
        record_type: RecordType,
        content_length: u16,
        starts: bool,
        limits: &Limits,
    ) -> Step {
        match (record_type, self.state) {
            (RecordType::Params, State::Params) => self.handle_params(content_length, starts, limits),
            (RecordType::Stdin, State::Stdin) => match content_length {
                0 => self.advance(if self.role == Role::Filter { State::Data } else { State::Complete }),
                _ => Step::Content,
            },
            (RecordType::Data, State::Data) => match content_length {
                0 => self.advance(State::Complete),
                _ => Step::Content,
            },
            (RecordType::AbortRequest, State::Aborted) => Step::Ignore,
            (RecordType::AbortRequest, _) => {
                self.state = State::Aborted;
                Step::Abort
            }
            // FastCGI 6.2, 6.4: PARAMS, then STDIN, then DATA. An authorizer has no STDIN, only a Filter has
            // DATA.
            (RecordType::Stdin, State::Params) if self.role != Role::Authorizer => {
                self.fail_order(record_type)
            }
            (RecordType::Data, State::Params | State::Stdin) if self.role == Role::Filter => {
                self.fail_order(record_type)
            }
            _ => Step::Ignore,
        }
    }

    /// Input is still to come that the role needs.
    pub(super) fn is_incomplete(&self) -> bool {
        match self.state {
            State::Params | State::Stdin | State::Data => true,
            State::Complete | State::Failed | State::Aborted => false,
        }
    }

    /// The stream whose empty record is all that is missing to the request's input, or `None` where more is.
    pub(super) fn last_stream(&self) -> Option<RecordType> {
        match self.state {
            State::Stdin if self.role == Role::Responder => Some(RecordType::Stdin),
            State::Data => Some(RecordType::Data),
            _ => None,
        }
    }

    #[inline]
    fn handle_params(&mut self, content_length: u16, starts: bool, limits: &Limits) -> Step {
        if content_length == 0 {
            return self.advance(match self.role {
                Role::Responder | Role::Filter => State::Stdin,
                Role::Authorizer => State::Complete,
            });
        }
        if starts {
            // Both are at most 2^32 - 1 and 2^16 - 1; a sum beyond 32 bits is beyond any limit.
            match self.params_bytes.checked_add(u32::from(content_length)) {
                Some(sum) if sum <= limits.params_bytes_max => self.params_bytes = sum,
                _ => {
                    self.state = State::Failed;
                    return Step::Fail(ErrorKind::ParamsTooLong(limits.params_bytes_max));
                }
            }
        }
        Step::Content
    }

    fn advance(&mut self, state: State) -> Step {
        self.state = state;
        Step::End
    }

    fn fail_order(&mut self, record_type: RecordType) -> Step {
        self.state = State::Failed;
        Step::Fail(ErrorKind::StreamOrder(record_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecordType::{AbortRequest, Data, Params, Stdin};

    fn request(role: Role) -> Request<()> {
        Request { role, ..Request::default() }
    }

    /// Feeds whole records of the given lengths and checks what each one means.
    #[track_caller]
    fn check(role: Role, records: &[(RecordType, u16, Step)]) -> Request<()> {
        let mut request = request(role);
        for (place, (record_type, length, step)) in records.iter().enumerate() {
            let got = request.handle_record(*record_type, *length, true, &Limits::default());
            assert_eq!(got, *step, "{role} record {place}: {record_type} of {length}");
        }
        request
    }

    const IGNORE: Step = Step::Ignore;
    const CONTENT: Step = Step::Content;
    const END: Step = Step::End;

    #[test]
    fn a_responder_reads_params_then_stdin() {
        let params = [(Params, 9, CONTENT), (Params, 1, CONTENT), (Params, 0, END)];
        assert!(check(Role::Responder, &params).is_incomplete());
        let stdin = [(Params, 0, END), (Data, 5, IGNORE), (Stdin, 9, CONTENT), (Stdin, 0, END)];
        assert!(!check(Role::Responder, &stdin).is_incomplete());
        let late = [(Params, 0, END), (Params, 0, IGNORE), (Params, 3, IGNORE), (Stdin, 0, END)];
        check(Role::Responder, &late);
        let twice =
            [(Params, 0, END), (Stdin, 0, END), (Stdin, 0, IGNORE), (Stdin, 3, IGNORE), (Data, 0, IGNORE)];
        assert!(!check(Role::Responder, &twice).is_incomplete());
    }

    #[test]
    fn an_authorizer_reads_params_alone() {
        assert!(!check(Role::Authorizer, &[(Params, 9, CONTENT), (Params, 0, END)]).is_incomplete());
        check(
            Role::Authorizer,
            &[(Stdin, 0, IGNORE), (Params, 0, END), (Stdin, 0, IGNORE), (Stdin, 7, IGNORE)],
        );
    }

    #[test]
    fn a_filter_reads_stdin_then_data() {
        let records = [(Params, 0, END), (Stdin, 3, CONTENT), (Stdin, 0, END), (Data, 3, CONTENT)];
        assert!(check(Role::Filter, &records).is_incomplete());
        let whole =
            [(Params, 0, END), (Stdin, 0, END), (Data, 0, END), (Data, 0, IGNORE), (Stdin, 0, IGNORE)];
        assert!(!check(Role::Filter, &whole).is_incomplete());
    }

    #[test]
    fn streams_out_of_order_fail_the_request_once() {
        for length in [0, 5] {
            let fail = Step::Fail(ErrorKind::StreamOrder(Stdin));
            let early = [(Stdin, length, fail), (Stdin, length, IGNORE), (Params, 0, IGNORE)];
            assert!(!check(Role::Responder, &early).is_incomplete());
            check(Role::Filter, &early);
            let fail = Step::Fail(ErrorKind::StreamOrder(Data));
            check(Role::Filter, &[(Data, length, fail), (Params, 4, IGNORE)]);
            check(Role::Filter, &[(Params, 0, END), (Data, length, fail), (Stdin, 4, IGNORE)]);
        }
    }

    #[test]
    fn an_abort_counts_once_in_every_state() {
        let abort = [(AbortRequest, 0, Step::Abort), (AbortRequest, 0, IGNORE), (Params, 3, IGNORE)];
        let ends = [(Params, 0, END), (Stdin, 0, END), (Data, 0, END)];
        for before in 0..=ends.len() {
            let records = [&ends[..before], &abort].concat();
            assert!(!check(Role::Filter, &records).is_incomplete());
        }
        let failed = [(Stdin, 0, Step::Fail(ErrorKind::StreamOrder(Stdin)))];
        check(Role::Responder, &[&failed[..], &abort].concat());
    }

    #[test]
    fn params_are_limited_as_their_records_begin() {
        let limits = Limits { params_bytes_max: 100, ..Limits::default() };
        let mut at_the_bound = request(Role::Responder);
        assert_eq!(at_the_bound.handle_record(Params, 60, true, &limits), CONTENT);
        assert_eq!(at_the_bound.handle_record(Params, 60, false, &limits), CONTENT);
        assert_eq!(at_the_bound.handle_record(Params, 40, true, &limits), CONTENT);
        assert_eq!(at_the_bound.handle_record(Params, 0, true, &limits), END);
        let mut past_it = request(Role::Responder);
        assert_eq!(past_it.handle_record(Params, 60, true, &limits), CONTENT);
        assert_eq!(
            past_it.handle_record(Params, 41, true, &limits),
            Step::Fail(ErrorKind::ParamsTooLong(100))
        );
        assert_eq!(past_it.handle_record(Params, 41, false, &limits), IGNORE);
        assert_eq!(past_it.handle_record(Params, 0, true, &limits), IGNORE);

        let unlimited = Limits { params_bytes_max: u32::MAX, ..Limits::default() };
        let mut endless = request(Role::Responder);
        let failed =
            (0..70_000).find(|_| endless.handle_record(Params, u16::MAX, true, &unlimited) != CONTENT);
        assert_eq!(failed, Some(65_537), "2^32 - 1 bytes are 65,537 records of 65,535");
    }
}
