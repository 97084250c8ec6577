//! One web server's socket: its `proto::Connection`, its operations in flight, its deadlines.
//!
//! ```text
//!               ┌──────────── Serving ────────────┐
//!  accepted ──▶ │ receiving ⇄ paused, sending     │──▶ Lingering ──▶ Closing ──▶ closed
//!               └─ input ended or broken ─────────┘     answered,      ring.close
//!                  (what is complete is answered)       draining input
//!                         Serving ⇄ Leaving ──▶ another process
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::handler::Exchange;
use crate::proto::{Connection, RequestKey};
use crate::ring::{Descriptor, ListenerId, Output, Ring, Token};

use super::Bound;
use super::timer::{Deadline, NEVER, Tick, TimeLimits};

/// Requests for which a peer that is used again has room already; what more a busy one took is let go.
const REQUESTS_KEPT: usize = 8;

/// For how long after a request began nothing is received from a peer that only waits for the last answer.
const REST: Tick = 10;

/// Where a peer is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Requests are read and answered.
    Serving,
    /// Nothing is under way, and receiving stops: as soon as it has, another process gets the connection.
    Leaving,
    /// All is answered and our writing side is shut down; input is thrown away until the peer closes, or until this
    /// many more bytes (`linger_bytes`), so that closing does not reset the connection under the last answer.
    Lingering { bytes_left: u32 },
    /// The ring was asked to close the socket.
    Closing,
}

/// What the peer still sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    /// Records.
    Open,
    /// Bytes that are not interpreted: it broke a rule.
    Broken,
    /// Nothing: it shut down writing, or is gone.
    Ended,
}

/// The recv operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receiving {
    On,
    /// `recv_stop` was asked for.
    Stopping,
    Off,
}

/// See the module's documentation.
pub(crate) struct Peer {
    pub(crate) token: Token,
    pub(crate) descriptor: Descriptor,
    pub(crate) listener: ListenerId,
    pub(crate) is_tcp: bool,
    /// The address of a TCP peer, once a handler has wanted it.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) connection: Connection<Slot>,
    /// Records that wait to be sent.
    pub(crate) output: Output,
    /// Bytes of the output that the ring has. 0: no send is in progress.
    pub(crate) in_flight: usize,
    /// Requests with output that waits in their exchange, in turn.
    pub(crate) backlog: VecDeque<RequestKey>,
    /// Requests whose unread input is over the window.
    pub(crate) paused_requests: u32,
    pub(crate) phase: Phase,
    pub(crate) input: Input,
    pub(crate) receiving: Receiving,
    pub(crate) is_dirty: bool,
    /// Nothing is received until [`Deadline::Look`]: nothing is to come, and most answers are there before.
    pub(crate) rests: bool,
    /// What was received last filled its buffer: there is more.
    pub(crate) in_burst: bool,
    /// Something is to be done as soon as the output in flight is sent.
    pub(crate) awaits_sent: bool,
    /// Close without END_REQUEST: the last answer broke off.
    pub(crate) is_truncated: bool,
    /// Whether a complete record has come.
    pub(crate) has_spoken: bool,
    /// Watching for the peer to close both directions.
    pub(crate) is_watched: bool,
    /// When something last happened that the deadlines of the connection count from.
    pub(crate) since: Tick,
    /// When the output in flight was given to the ring.
    pub(crate) sending_since: Tick,
}

/// What the engine keeps with each request of a connection.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) exchange: Option<Rc<Exchange>>,
    /// Where the handler waits.
    pub(crate) task: Option<u32>,
    pub(crate) began: Tick,
    /// When input for this request last arrived.
    pub(crate) fed: Tick,
    pub(crate) stage: Stage,
    pub(crate) is_paused: bool,
    pub(crate) in_backlog: bool,
}

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Stage {
    /// PARAMS are arriving.
    #[default]
    Params,
    /// The same, and it will be answered with 503: the server has too many.
    Overloaded,
    /// The handler has it.
    Handling,
    /// It was taken from its handler and answered; only the peer can delay its end.
    GivenUp,
}

impl Peer {
    pub(crate) fn new(
        token: Token,
        descriptor: Descriptor,
        listener: ListenerId,
        is_tcp: bool,
        connection: Connection<Slot>,
        now: Tick,
    ) -> Peer {
        Peer {
            token,
            descriptor,
            listener,
            is_tcp,
            address: None,
            connection,
            output: Output::default(),
            in_flight: 0,
            backlog: VecDeque::new(),
            paused_requests: 0,
            phase: Phase::Serving,
            input: Input::Open,
            receiving: Receiving::On,
            is_dirty: false,
            rests: false,
            in_burst: false,
            awaits_sent: false,
            is_truncated: false,
            has_spoken: false,
            is_watched: false,
            since: now,
            sending_since: now,
        }
    }

    /// Becomes that of another socket, with the memory of this one. Its output was cleared.
    pub(crate) fn renew(
        &mut self,
        token: Token,
        descriptor: Descriptor,
        listener: ListenerId,
        is_tcp: bool,
        now: Tick,
    ) {
        self.connection.reset(REQUESTS_KEPT);
        // In place, since all of it is some cache lines; and all named, so that no field is forgotten.
        let Peer {
            token: its_token,
            descriptor: its_descriptor,
            listener: its_listener,
            is_tcp: is_its_tcp,
            address,
            connection: _,
            output: _,
            in_flight,
            backlog,
            paused_requests,
            phase,
            input,
            receiving,
            is_dirty,
            rests,
            in_burst,
            awaits_sent,
            is_truncated,
            has_spoken,
            is_watched,
            since,
            sending_since,
        } = self;
        (*its_token, *its_descriptor, *its_listener, *is_its_tcp) = (token, descriptor, listener, is_tcp);
        *address = None;
        *backlog = VecDeque::new();
        (*in_flight, *paused_requests) = (0, 0);
        (*phase, *input, *receiving) = (Phase::Serving, Input::Open, Receiving::On);
        (*is_dirty, *rests, *in_burst, *awaits_sent) = (false, false, false, false);
        (*is_truncated, *has_spoken, *is_watched) = (false, false, false);
        (*since, *sending_since) = (now, now);
    }

    /// Bytes on their way out that the peer has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() + self.in_flight
    }

    /// Notes that this request has output in its exchange.
    pub(crate) fn queue(&mut self, request: RequestKey) {
        if let Some(slot) = self.connection.get_mut(request)
            && !slot.in_backlog
        {
            slot.in_backlog = true;
            self.backlog.push_back(request);
        }
    }

    /// Whether all there is to say has been said: the connection may end.
    pub(crate) fn is_done(&self) -> bool {
        self.says_no_more() && self.connection.active() == 0 && self.unsent() == 0
    }

    fn says_no_more(&self) -> bool {
        self.connection.wants_close() || self.input != Input::Open || self.is_truncated
    }

    /// Whether the connection ends with the output that is on its way, and nothing more is to come before it does.
    pub(crate) fn awaits_nothing(&self) -> bool {
        self.connection.wants_close() && !self.is_tcp && !self.connection.expects_input()
    }

    /// Whether the connection ends with the output that waits, and may be closed under it.
    pub(crate) fn ends_with_output(&self) -> bool {
        self.awaits_nothing() && self.in_flight == 0 && !self.output.is_empty() && self.input == Input::Open
    }

    /// Whether the peer only waits for answers that end the connection, and has not waited for long. To know at once
    /// that it left is worth less than a recv that has to be set up and cancelled (a quarter of the CPU time of such a
    /// request).
    pub(crate) fn may_rest(&self, now: Tick) -> bool {
        !self.is_tcp
            && self.input == Input::Open
            && self.connection.is_all_said()
            && self.connection.requests().all(|(_, slot)| now < slot.began.saturating_add(REST))
    }

    /// Whether nothing follows at once when the output in flight is sent.
    pub(crate) fn rests_once_sent(&self) -> bool {
        !self.says_no_more() && self.backlog.is_empty() && self.output.is_empty()
    }

    /// The next deadline, and which it is.
    pub(crate) fn deadline(&self, limits: &TimeLimits) -> (Tick, Deadline) {
        let after = |since: Tick, limit: Tick| since.saturating_add(limit);
        let mut next = (NEVER, Deadline::Idle);
        let mut consider = |at: Tick, deadline: Deadline| {
            if at < next.0 {
                next = (at, deadline);
            }
        };
        match self.phase {
            Phase::Closing => return (NEVER, Deadline::Linger),
            Phase::Lingering { .. } => return (after(self.since, limits.linger), Deadline::Linger),
            Phase::Serving | Phase::Leaving => {}
        }
        if self.in_flight > 0 {
            consider(after(self.sending_since, limits.send), Deadline::Send);
        }
        if !self.has_spoken {
            consider(after(self.since, limits.first), Deadline::First);
        } else if self.connection.active() == 0 && self.in_flight == 0 {
            consider(after(self.since, limits.idle), Deadline::Idle);
        }
        if self.rests {
            let began = self.connection.requests().map(|(_, slot)| slot.began).min().unwrap_or(0);
            consider(after(began, REST), Deadline::Look);
        }
        for (_, slot) in self.connection.requests().filter(|(_, slot)| slot.stage != Stage::GivenUp) {
            consider(after(slot.began, limits.request), Deadline::Request);
            match slot.stage {
                Stage::Params | Stage::Overloaded => {
                    consider(after(slot.began, limits.params), Deadline::Params);
                }
                Stage::Handling if slot.waits_for_input() => {
                    consider(after(slot.fed, limits.stdin), Deadline::Stdin);
                }
                Stage::Handling | Stage::GivenUp => {}
            }
        }
        next
    }

    /// A bound below which [`Peer::deadline`] cannot be, without looking at the requests.
    pub(crate) fn deadline_at_least(&self, limits: &TimeLimits, now: Tick) -> Tick {
        match self.phase {
            _ if self.rests => 0,
            Phase::Serving if self.has_spoken && self.connection.active() == 0 => match self.in_flight {
                0 => self.since.saturating_add(limits.idle),
                _ => self.sending_since.saturating_add(limits.send),
            },
            Phase::Serving if self.has_spoken => now.saturating_add(limits.shortest_of_request()),
            _ => 0,
        }
    }
}

impl Slot {
    /// Whether it is this request that let a deadline of its peer pass.
    pub(crate) fn is_late(&self, deadline: Deadline, limits: &TimeLimits, now: Tick) -> bool {
        let passed = |since: Tick, limit: Tick| since.saturating_add(limit) <= now;
        match (deadline, self.stage) {
            (_, Stage::GivenUp) => false,
            (Deadline::Request, _) => passed(self.began, limits.request),
            (Deadline::Params, Stage::Params | Stage::Overloaded) => passed(self.began, limits.params),
            (Deadline::Stdin, Stage::Handling) => self.waits_for_input() && passed(self.fed, limits.stdin),
            _ => false,
        }
    }

    pub(crate) fn waits_for_input(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| {
            exchange.stdin.borrow().is_waiting() || exchange.data.borrow().is_waiting()
        })
    }

    /// Bytes that arrived and were not read.
    pub(crate) fn unread(&self) -> usize {
        self.exchange
            .as_ref()
            .map_or(0, |exchange| exchange.stdin.borrow().queued() + exchange.data.borrow().queued())
    }
}

/// A peer for the log: who it is as far as its socket tells, the listener, and its number.
pub(crate) struct Name<'a, R> {
    pub(crate) ring: &'a R,
    pub(crate) peer: &'a Peer,
    pub(crate) bound: &'a [Bound],
}

impl<R: Ring> fmt::Display for Name<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listener = self.bound.get(self.peer.listener.0 as usize).map_or("?", |bound| &bound.address);
        if let Some(fd) = self.ring.descriptor_fd(self.peer.descriptor) {
            let socket = socket2::SockRef::from(&fd);
            match socket.peer_addr().ok().and_then(|address| address.as_socket()) {
                Some(address) => write!(f, "{address}")?,
                None => match rustix::net::sockopt::socket_peercred(fd) {
                    Ok(cred) => {
                        write!(f, "process {} of user {}", cred.pid.as_raw_nonzero(), cred.uid.as_raw())?;
                    }
                    Err(_) => f.write_str("(gone)")?,
                },
            }
            write!(f, " at {listener}, connection {}", self.peer.token.generation)
        } else {
            write!(f, "{listener}, connection {}", self.peer.token.generation)
        }
    }
}
