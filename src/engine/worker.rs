//! The event loop. One worker is one thread, one ring, its own connections.
//!
//! ```text
//!   turn ─▶ completions ─▶ woken handlers ─▶ touched exchanges ─▶ settle dirty peers ─▶ deadlines ─▶ turn
//! ```
//!
//! All that happens to a peer in one turn is sent with one operation at the end of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::metrics;
use crate::proto::{Connection, Limits};
use crate::ring::{Chunk, Completion, Descriptor, Failure, Fate, ListenerId, Output, Ring, Token, Wait};

use super::access::Access;
use super::control::{Control, Order};
use super::peer::{Input, Peer, Phase, Receiving};
use super::requests::Requests;
use super::timer::{Clock, Deadline, NEVER, Tick, TimeLimits, Timers};
use super::{Bound, Share};

mod passing;

pub(crate) use passing::Passing;
use passing::count_not_passed_on;

/// Memory that an idle output block keeps.
const OUTPUT_KEEP_BYTES: usize = 64 * 1024;

/// Output blocks kept for reuse.
const OUTPUTS_POOLED_MAX: usize = 256;

/// Size up to which an output block stays with its closed peer.
const OUTPUT_OF_GONE_KEEP_BYTES: usize = 4 * 1024;

/// Closed peers kept for reuse.
const PEERS_POOLED_MAX: usize = 256;

/// How long accepting rests after it failed for want of descriptors or memory.
const ACCEPT_PAUSE: Tick = 100;

/// What a quiet connection is given for a request that is already under way when the server drains.
const DRAIN_GRACE: Tick = 100;

/// Rounds of handlers that wake each other before the ring gets its turn.
const TASK_ROUNDS_MAX: usize = 16;

/// No peer's token: what is reported of it concerns nobody.
const NOBODY: Token = Token { slot: u32::MAX, generation: 0 };

/// What a worker is made of, apart from its ring.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) control: Arc<Control>,
    pub(crate) requests: Requests,
    pub(crate) bound: Arc<[Bound]>,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) passing: Option<Passing>,
    pub(crate) metrics: Arc<metrics::Worker>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) times: TimeLimits,
    pub(crate) output_high: usize,
    pub(crate) linger_bytes: u32,
    pub(crate) connections_max: usize,
    pub(crate) spin: Duration,
}

/// How far the shutdown is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Draining {
    No,
    Since(Tick),
}

/// See the module's documentation.
pub(crate) struct Worker<R: Ring> {
    pub(crate) ring: R,
    parts: Parts,
    siblings: Vec<R::Address>,
    /// The listeners that this worker accepts on, and whether it accepts for all workers.
    listeners: Vec<Accepting>,
    /// Boxed, so that the slab is small when it grows, which leaves the old one behind.
    peers: Slab<Box<Peer>>,
    /// Peers that are closed, for reuse.
    #[expect(clippy::vec_box, reason = "what moves between here and `peers` is the box")]
    gone: Vec<Box<Peer>>,
    generation: u32,
    dirty: Vec<Token>,
    outputs: Vec<Output>,
    timers: Timers,
    clock: Clock,
    alarm_at: Tick,
    draining: Draining,
    said_accepting_is_over: bool,
    /// No new requests are received beside others, so that each connection comes to rest.
    makes_gaps: bool,
    /// Peers that have something to do as soon as their output is sent.
    awaiting_sent: usize,
}

#[derive(Clone, Copy, Debug)]
struct Accepting {
    listener: ListenerId,
    /// Connections are handed to the worker with the fewest.
    for_all: bool,
    /// When to accept again; `NEVER`: it is accepting, or for good no longer.
    resume_at: Tick,
    is_on: bool,
}

impl<R: Ring> Worker<R> {
    pub(crate) fn new(ring: R, parts: Parts) -> Worker<R> {
        Worker {
            ring,
            parts,
            siblings: Vec::new(),
            listeners: Vec::new(),
            peers: Slab::new(),
            gone: Vec::new(),
            generation: 0,
            dirty: Vec::new(),
            outputs: Vec::new(),
            timers: Timers::default(),
            clock: Clock::start(),
            alarm_at: NEVER,
            draining: Draining::No,
            said_accepting_is_over: false,
            makes_gaps: false,
            awaiting_sent: 0,
        }
    }

    /// Where the workers can be handed connections, this one's own place included.
    pub(crate) fn meet(&mut self, siblings: Vec<R::Address>) {
        self.siblings = siblings;
    }

    /// Starts to accept on a listener.
    pub(crate) fn listen(&mut self, share: Share) -> Result<(), Failure> {
        let Share { listener, socket, for_all, identify, in_turns } = share;
        self.ring.listen(listener, socket, identify, in_turns)?;
        self.listeners.push(Accepting { listener, for_all, resume_at: NEVER, is_on: true });
        Ok(())
    }

    /// Serves a connection that was not accepted here.
    pub(crate) fn adopt(
        &mut self,
        listener: ListenerId,
        socket: std::os::fd::OwnedFd,
    ) -> Result<(), Failure> {
        let descriptor = self.ring.adopt(listener, socket)?;
        self.parts.metrics.connections_accepted.incr();
        self.parts.control.loads.add(self.parts.index);
        self.admit(listener, descriptor);
        Ok(())
    }

    /// Whether nothing is under way but in the ring and in threads that wake through it, so that the ring alone may be
    /// waited for.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.parts.requests.tasks.need_host() && !self.has_work()
    }

    /// Whether a handler waits.
    pub(crate) fn has_tasks(&self) -> bool {
        !self.parts.requests.tasks.is_empty()
    }

    /// Whether there is something to do before sleeping.
    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || self.parts.requests.has_touched()
    }

    /// Whether the host must not sleep before the ring had one more turn.
    pub(crate) fn owes_turn(&mut self) -> bool {
        self.has_work() || self.ring.owes_turn()
    }

    /// Whether the worker has come to its end.
    pub(crate) fn is_finished(&self) -> bool {
        match (self.parts.control.order(), self.draining) {
            (Order::Stop, _) => true,
            (_, Draining::No) => false,
            (_, Draining::Since(since)) => {
                // What a sibling has handed over counts as a load before it arrives here.
                let control = &self.parts.control;
                let all_gone = self.peers.is_empty()
                    && control.nobody_accepts()
                    && control.loads.of(self.parts.index) == 0;
                all_gone || self.clock.now() >= since.saturating_add(self.parts.times.drain)
            }
        }
    }

    /// How a turn of the ring may wait when nothing else keeps this worker up. `did`: the last pass had something
    /// to do, so more may come soon.
    pub(crate) fn wait(&self, did: bool) -> Wait {
        if did && !self.parts.spin.is_zero() {
            Wait::SpinUntil(Instant::now() + self.parts.spin)
        } else if self.awaiting_sent > 0 || self.draining != Draining::No || self.has_tasks() {
            Wait::UntilCompletion
        } else {
            Wait::UntilArrival
        }
    }

    /// Drops every handler, while their runtime is still there.
    pub(crate) fn abandon(&mut self) {
        self.tell_of_passing();
        let left = self.parts.requests.active;
        if left > 0 {
            tracing::warn!("worker {}: stopping with {left} requests unanswered", self.parts.index);
        }
        for (_, peer) in &mut self.peers {
            self.parts.requests.abort_all(peer);
        }
        self.parts.requests.sweep();
    }

    /// Everything between two turns of the ring. Returns whether anything was there to do.
    pub(crate) fn pass(&mut self) -> bool {
        self.parts.requests.now = self.clock.advance();
        self.parts.requests.refresh();
        self.parts.metrics.turns.incr();
        let mut did = self.reap();
        did |= self.run_woken();
        did |= self.look_at_touched();
        self.settle_dirty();
        // What was sent at once, without the kernel's word for it, need not wait for the next turn.
        did |= self.reap();
        self.settle_dirty();
        self.meet_deadlines();
        self.set_alarm();
        self.parts.metrics.syscalls.set(self.ring.syscalls());
        self.parts.metrics.tasks_pending.set(self.parts.requests.tasks.len() as u64);
        did
    }

    /// Handles every completion there is. Returns whether there was any.
    fn reap(&mut self) -> bool {
        let mut did = false;
        while let Some(completion) = self.ring.completion() {
            did = true;
            self.complete(completion);
        }
        did
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { listener, descriptor } => self.accepted(listener, descriptor),
            Completion::AcceptFailed { listener, failure } => self.accept_failed(listener, failure),
            Completion::Received { token, chunk } => self.received(token, chunk),
            Completion::End { token } => self.ended(token),
            Completion::HungUp { token } => self.gone(token),
            Completion::RecvFailed { token, failure } => self.recv_failed(token, failure),
            Completion::RecvStopped { token } => {
                self.mark(token, |peer| peer.receiving = Receiving::Off);
            }
            Completion::Sent { token, output, result } => self.sent(token, output, result),
            Completion::Closed { token } => self.closed(token),
            Completion::Alarm => self.alarm_at = NEVER,
            Completion::Woken => {
                self.parts.metrics.wakeups.incr();
                self.obey();
            }
        }
    }

    fn accepted(&mut self, listener: ListenerId, descriptor: Descriptor) {
        let own = self.listeners.iter().find(|accepting| accepting.listener == listener);
        if let Some(access) = &self.parts.access
            && own.is_some()
            && let Err(reason) = access
                .check(self.parts.bound[listener.0 as usize].is_tcp, self.ring.descriptor_fd(descriptor))
        {
            self.parts.metrics.connections_denied.incr();
            tracing::warn!("{}: connection closed: {reason}", self.parts.bound[listener.0 as usize].address);
            return self.ring.close(descriptor, NOBODY);
        }
        let loads = &self.parts.control.loads;
        if own.is_some_and(|accepting| accepting.for_all) {
            self.parts.metrics.connections_accepted.incr();
            let to = loads.least();
            loads.add(to);
            if to != self.parts.index {
                self.parts.metrics.connections_handed_over.incr();
                return self.ring.hand_over(descriptor, listener, &self.siblings[to]);
            }
        } else if own.is_some() {
            self.parts.metrics.connections_accepted.incr();
            loads.add(self.parts.index);
        }
        self.admit(listener, descriptor);
        if self.parts.control.loads.total() >= self.parts.connections_max {
            self.pause_accepting(listener);
        }
    }

    fn admit(&mut self, listener: ListenerId, descriptor: Descriptor) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.peers.vacant_entry();
        let token = Token { slot: entry.key() as u32, generation: self.generation };
        let is_tcp = self.parts.bound.get(listener.0 as usize).is_some_and(|bound| bound.is_tcp);
        let now = self.clock.now();
        entry.insert(match self.gone.pop() {
            Some(mut place) => {
                place.renew(token, descriptor, listener, is_tcp, now);
                place
            }
            None => {
                let connection = Connection::new(self.parts.limits.clone());
                Box::new(Peer::new(token, descriptor, listener, is_tcp, connection, now))
            }
        });
        self.ring.recv(descriptor, token);
        self.mark(token, |_| {});
    }

    fn accept_failed(&mut self, listener: ListenerId, failure: Failure) {
        self.parts.metrics.accept_failures.incr();
        tracing::warn!(
            "{failure}; accepting again in {ACCEPT_PAUSE} ms (raise the limit of open files, or lower connections_max)"
        );
        if let Some(accepting) = accepting_on(&mut self.listeners, listener) {
            accepting.is_on = false;
            if self.draining == Draining::No {
                accepting.resume_at = self.clock.now() + ACCEPT_PAUSE;
            }
        }
    }

    fn pause_accepting(&mut self, listener: ListenerId) {
        let resume_at = self.clock.now() + ACCEPT_PAUSE;
        if let Some(accepting) = accepting_on(&mut self.listeners, listener)
            && accepting.is_on
        {
            self.ring.accept_stop(listener);
            accepting.is_on = false;
            accepting.resume_at = resume_at;
        }
    }

    fn resume_accepting(&mut self) {
        let now = self.clock.now();
        let is_full = self.parts.control.loads.total() >= self.parts.connections_max;
        for accepting in &mut self.listeners {
            if accepting.resume_at <= now {
                if is_full {
                    accepting.resume_at = now + ACCEPT_PAUSE;
                } else {
                    accepting.resume_at = NEVER;
                    accepting.is_on = true;
                    self.ring.accept(accepting.listener);
                }
            }
        }
    }

    fn received(&mut self, token: Token, chunk: Chunk) {
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        self.parts.metrics.bytes_received.add(chunk.len() as u64);
        match &mut peer.phase {
            Phase::Closing => return,
            Phase::Lingering { bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(chunk.len() as u32);
                if *bytes_left == 0 {
                    rest(&mut self.ring, &self.parts, peer);
                }
                return;
            }
            Phase::Serving | Phase::Leaving => peer.phase = Phase::Serving,
        }
        if peer.output.is_bare()
            && let Some(output) = self.outputs.pop()
        {
            peer.output = output;
        }
        let is_full = chunk.len() == self.ring.pool().buffer_bytes();
        self.parts.requests.receive(&self.ring, peer, chunk);
        self.parts.requests.sweep();
        // Of a burst the peer gets the answers part by part: it asks on meanwhile, and neither sleeps while the other
        // works (many requests on one connection: a third of all CPU time).
        let is_burst = std::mem::replace(&mut peer.in_burst, is_full) || is_full;
        if is_burst && peer.in_flight == 0 && !peer.output.is_empty() && !peer.ends_with_output() {
            counting(&self.parts, peer, |descriptor, output| self.ring.send_at_once(descriptor, output));
            if peer.output.is_empty() {
                peer.output.clear(OUTPUT_KEEP_BYTES);
            }
        }
        if is_full {
            mark(&mut self.dirty, peer);
        } else {
            // No more of this peer is waiting: settle it while it is in the cache.
            self.settle(token);
        }
    }

    /// The peer shut down writing. What it sent completely is still answered (it may read on); a peer that is gone
    /// altogether looks the same at first, so it is watched.
    fn ended(&mut self, token: Token) {
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        peer.input = Input::Ended;
        peer.receiving = Receiving::Off;
        match peer.phase {
            Phase::Closing => return,
            Phase::Lingering { .. } => return close(&mut self.ring, &self.parts, peer),
            Phase::Serving | Phase::Leaving => peer.phase = Phase::Serving,
        }
        self.parts.requests.abort_incomplete(peer);
        if peer.is_tcp {
            self.parts.requests.knock(peer);
        }
        self.parts.requests.sweep();
        mark(&mut self.dirty, peer);
    }

    /// The peer is gone in both directions: nobody will read an answer.
    fn gone(&mut self, token: Token) {
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        peer.input = Input::Ended;
        peer.receiving = Receiving::Off;
        if peer.phase != Phase::Closing {
            self.parts.requests.abort_all(peer);
            self.parts.requests.sweep();
            close(&mut self.ring, &self.parts, peer);
        }
    }

    fn recv_failed(&mut self, token: Token, failure: Failure) {
        if failure.fate() == Fate::Retry {
            return self.mark(token, |peer| peer.receiving = Receiving::Off);
        }
        self.log_failure(token, failure);
        self.gone(token);
    }

    fn sent(&mut self, token: Token, output: Output, result: Result<(), Failure>) {
        let unsent = output.len();
        self.keep_output(output);
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        self.parts.metrics.bytes_sent.add((peer.in_flight - unsent) as u64);
        peer.in_flight = 0;
        if peer.awaits_sent || peer.receiving != Receiving::On || result.is_err() {
            mark(&mut self.dirty, peer);
        }
        note_awaiting(&mut self.awaiting_sent, peer, &self.parts.times);
        peer.since = self.clock.now();
        // Closing cancels what is in flight, which is no failure.
        if let Err(failure) = result
            && peer.phase != Phase::Closing
        {
            self.parts.metrics.send_failures.incr();
            self.log_failure(token, failure);
            self.gone(token);
        }
    }

    fn closed(&mut self, token: Token) {
        if peer_of(&mut self.peers, token).is_some() {
            let peer = self.peers.remove(token.slot as usize);
            self.keep_peer(peer);
        }
    }

    fn log_failure(&self, token: Token, failure: Failure) {
        let Some(peer) = self.peers.get(token.slot as usize) else { return };
        let name = self.parts.requests.name(&self.ring, peer);
        match failure.fate() {
            Fate::PeerGone => tracing::debug!("{name}: {failure}"),
            Fate::Retry | Fate::ClosePeer | Fate::StopWorker => tracing::warn!("{name}: {failure}"),
        }
    }

    /// Notes that a peer needs settling, after a change to it.
    fn mark(&mut self, token: Token, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = peer_of(&mut self.peers, token) {
            change(peer);
            mark(&mut self.dirty, peer);
        }
    }

    /// Polls the handlers that were woken, and those that these wake, for some rounds.
    fn run_woken(&mut self) -> bool {
        let mut did = false;
        for _ in 0..TASK_ROUNDS_MAX {
            let batch = self.parts.requests.tasks.take_woken();
            if batch.is_empty() {
                self.parts.requests.tasks.put_back(batch);
                break;
            }
            did = true;
            for &slot in &batch {
                if let Some(((token, request), exchange, done)) = self.parts.requests.tasks.poll(slot)
                    && let Some(peer) = peer_of(&mut self.peers, token)
                {
                    self.parts.requests.resume(&self.ring, peer, request, exchange, done);
                    mark(&mut self.dirty, peer);
                }
            }
            self.parts.requests.tasks.put_back(batch);
            self.parts.requests.sweep();
        }
        did
    }

    /// Looks at what handlers, and tasks that they spawned, have read and written.
    fn look_at_touched(&mut self) -> bool {
        let batch = self.parts.requests.take_touched();
        let did = !batch.is_empty();
        for &(token, request) in &batch {
            if let Some(peer) = peer_of(&mut self.peers, token) {
                self.parts.requests.look_at(peer, request);
                mark(&mut self.dirty, peer);
            }
        }
        self.parts.requests.put_back_touched(batch);
        did
    }

    fn settle_dirty(&mut self) {
        // Settling may mark peers again, for the next pass: so by index, up to where the list ends now.
        let count = self.dirty.len();
        for index in 0..count {
            let token = self.dirty[index];
            if let Some(peer) = peer_of(&mut self.peers, token) {
                peer.is_dirty = false;
                self.settle(token);
            }
        }
        self.dirty.drain(..count);
        self.parts.requests.sweep();
    }

    /// Brings a peer's operations in line with its state: gather, send, receive, end.
    fn settle(&mut self, token: Token) {
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        match peer.phase {
            Phase::Serving => {}
            Phase::Leaving => return self.leave(token),
            Phase::Lingering { .. } | Phase::Closing => return,
        }
        if !peer.backlog.is_empty() {
            self.parts.requests.gather(peer);
        }
        if peer.ends_with_output() {
            let is_over =
                counting(&self.parts, peer, |descriptor, output| self.ring.send_last(descriptor, output));
            if is_over {
                return self.ended_at_once(token);
            }
        }
        if peer.in_flight == 0 && !peer.output.is_empty() {
            peer.in_flight = peer.output.len();
            peer.sending_since = self.clock.now();
            self.ring.send(peer.descriptor, token, std::mem::take(&mut peer.output));
        } else if peer.output.is_empty() && !peer.output.is_bare() && self.outputs.len() < OUTPUTS_POOLED_MAX
        {
            self.outputs.push(std::mem::take(&mut peer.output));
        }
        note_awaiting(&mut self.awaiting_sent, peer, &self.parts.times);
        if peer.is_done() {
            finish(&mut self.ring, &self.parts, peer, self.clock.now());
        } else {
            let too_much = peer.paused_requests > 0 || peer.unsent() >= 2 * self.parts.output_high;
            let is_for_later = self.makes_gaps && passing::has_all_of_its_requests(peer);
            peer.rests = peer.may_rest(self.clock.now());
            let wanted = !too_much && !is_for_later && !peer.rests && !peer.awaits_nothing();
            receive(&mut self.ring, peer, wanted);
            if peer.input == Input::Ended && !peer.is_watched {
                peer.is_watched = true;
                self.ring.watch_hang_up(peer.descriptor, token);
            }
        }
        schedule(&mut self.timers, peer, &self.parts.times, self.clock.now());
    }

    /// The connection was closed with its last output.
    fn ended_at_once(&mut self, token: Token) {
        let peer = self.peers.remove(token.slot as usize);
        self.parts.control.loads.remove(self.parts.index);
        self.parts.metrics.connections_closed.incr();
        self.keep_peer(peer);
    }

    fn keep_output(&mut self, mut output: Output) {
        output.clear(OUTPUT_KEEP_BYTES);
        if self.outputs.len() < OUTPUTS_POOLED_MAX {
            self.outputs.push(output);
        }
    }

    fn keep_peer(&mut self, mut peer: Box<Peer>) {
        if peer.output.capacity() > OUTPUT_OF_GONE_KEEP_BYTES {
            self.keep_output(std::mem::take(&mut peer.output));
        }
        if self.gone.len() < PEERS_POOLED_MAX {
            peer.output.clear(OUTPUT_OF_GONE_KEEP_BYTES);
            self.gone.push(peer);
        }
    }

    fn meet_deadlines(&mut self) {
        let now = self.clock.now();
        self.resume_accepting();
        while let Some(slot) = self.timers.pop_due(now) {
            let Some(peer) = self.peers.get(slot as usize) else { continue };
            let (token, (due, deadline)) = (peer.token, peer.deadline(&self.parts.times));
            if due <= now {
                self.deadline_passed(token, deadline);
            }
            if let Some(peer) = peer_of(&mut self.peers, token) {
                schedule(&mut self.timers, peer, &self.parts.times, now);
            }
        }
        if let Draining::Since(since) = self.draining
            && now >= since + DRAIN_GRACE
        {
            self.make_gaps(now - since);
            self.end_quiet_peers();
            // What was accepted before has been reported by now.
            if !std::mem::replace(&mut self.said_accepting_is_over, true) {
                self.parts.control.stopped_accepting();
            }
        }
    }

    fn deadline_passed(&mut self, token: Token, deadline: Deadline) {
        let now = self.clock.now();
        let Some(peer) = peer_of(&mut self.peers, token) else { return };
        if !matches!(deadline, Deadline::Linger | Deadline::Look) {
            self.parts.metrics.deadlines_passed.incr();
        }
        let late: Vec<_> = peer
            .connection
            .requests()
            .filter(|(_, slot)| slot.is_late(deadline, &self.parts.times, now))
            .map(|(request, _)| request)
            .collect();
        match deadline {
            Deadline::Request => late.into_iter().for_each(|request| {
                self.parts.requests.give_up(
                    &self.ring,
                    peer,
                    request,
                    504,
                    "not answered within request_timeout",
                );
            }),
            Deadline::Params => late.into_iter().for_each(|request| {
                self.parts.requests.give_up(
                    &self.ring,
                    peer,
                    request,
                    408,
                    "parameters not complete within params_timeout",
                );
            }),
            Deadline::Stdin => late.into_iter().for_each(|request| self.parts.requests.starve(peer, request)),
            Deadline::First | Deadline::Send | Deadline::Idle => {
                tracing::info!("{}: closed: {deadline} passed", self.parts.requests.name(&self.ring, peer));
                self.parts.requests.abort_all(peer);
                close(&mut self.ring, &self.parts, peer);
            }
            Deadline::Linger => close(&mut self.ring, &self.parts, peer),
            // Settling starts to receive.
            Deadline::Look => peer.rests = false,
        }
        self.parts.requests.sweep();
        if let Some(peer) = peer_of(&mut self.peers, token) {
            mark(&mut self.dirty, peer);
        }
    }

    fn set_alarm(&mut self) {
        let mut next = self.timers.next();
        for accepting in &self.listeners {
            next = next.min(accepting.resume_at);
        }
        if let Draining::Since(since) = self.draining {
            let now = self.clock.now();
            let grace = since + DRAIN_GRACE;
            next = next.min(if now < grace { grace } else { since.saturating_add(self.parts.times.drain) });
            // Whether the siblings still accept is not an event: look again.
            next = next.min(now + DRAIN_GRACE);
            if let Some(full_until) = self.parts.passing.as_ref().map(|passing| passing.full_until)
                && full_until > now
            {
                next = next.min(full_until);
            }
        }
        if next < self.alarm_at {
            self.alarm_at = next;
            self.ring.alarm(Some(self.clock.instant(next)));
        }
    }

    /// Another thread has left an order, or a connection.
    fn obey(&mut self) {
        self.take_arrivals();
        if self.parts.control.order() > Order::Serve && self.draining == Draining::No {
            self.draining = Draining::Since(self.clock.now());
            for accepting in &mut self.listeners {
                accepting.resume_at = NEVER;
                if std::mem::take(&mut accepting.is_on) {
                    self.ring.accept_stop(accepting.listener);
                }
                self.ring.unlisten(accepting.listener);
            }
        }
    }

    /// While draining: connections on which nothing happens are ended, here at least.
    fn end_quiet_peers(&mut self) {
        let now = self.clock.now();
        if self.dismiss_quiet_peers() {
            return;
        }
        for (_, peer) in &mut self.peers {
            let is_quiet = peer.connection.is_idle() && peer.unsent() == 0;
            if peer.phase == Phase::Serving && is_quiet {
                count_not_passed_on(&self.parts);
                finish(&mut self.ring, &self.parts, peer, now);
                schedule(&mut self.timers, peer, &self.parts.times, now);
            }
        }
    }
}

fn peer_of(peers: &mut Slab<Box<Peer>>, token: Token) -> Option<&mut Peer> {
    let peer = peers.get_mut(token.slot as usize)?.as_mut();
    (peer.token.generation == token.generation).then_some(peer)
}

fn accepting_on(listeners: &mut [Accepting], listener: ListenerId) -> Option<&mut Accepting> {
    listeners.iter_mut().find(|accepting| accepting.listener == listener)
}

fn mark(dirty: &mut Vec<Token>, peer: &mut Peer) {
    if !std::mem::replace(&mut peer.is_dirty, true) {
        dirty.push(peer.token);
    }
}

/// Counts what the ring takes of a peer's output at once.
fn counting<T>(parts: &Parts, peer: &mut Peer, send: impl FnOnce(Descriptor, &mut Output) -> T) -> T {
    let bytes = peer.output.len();
    let outcome = send(peer.descriptor, &mut peer.output);
    parts.metrics.bytes_sent.add((bytes - peer.output.len()) as u64);
    outcome
}

/// Counts the peer among those that wait for `Sent`, or no longer.
fn note_awaiting(count: &mut usize, peer: &mut Peer, limits: &TimeLimits) {
    // `idle_timeout` counts from then on.
    let will_idle = limits.idle != NEVER && peer.connection.active() == 0;
    let awaits = peer.in_flight > 0 && (will_idle || !peer.rests_once_sent());
    *count = *count + usize::from(awaits) - usize::from(std::mem::replace(&mut peer.awaits_sent, awaits));
}

/// Starts or stops receiving, as it should be.
fn receive<R: Ring>(ring: &mut R, peer: &mut Peer, wanted: bool) {
    if peer.input == Input::Ended {
        return;
    }
    match (peer.receiving, wanted) {
        (Receiving::On, false) => {
            peer.receiving = Receiving::Stopping;
            ring.recv_stop(peer.descriptor);
        }
        (Receiving::Off, true) => {
            peer.receiving = Receiving::On;
            ring.recv(peer.descriptor, peer.token);
        }
        // A recv that is stopping is started again when it says that it has stopped.
        (Receiving::On, true) | (Receiving::Off | Receiving::Stopping, _) => {}
    }
}

/// All is said. The peer reads the end of the stream; what it still sends is drained, so that the kernel does not
/// answer it with a reset that destroys the last answer.
fn finish<R: Ring>(ring: &mut R, parts: &Parts, peer: &mut Peer, now: Tick) {
    // On a Unix socket a close leaves what was sent before it readable, so it may come at once where nothing more is
    // to come; what web servers send beyond that is not missed.
    let may_close = peer.input == Input::Ended || (!peer.is_tcp && !peer.connection.expects_input());
    if may_close || parts.linger_bytes == 0 {
        return close(ring, parts, peer);
    }
    peer.phase = Phase::Lingering { bytes_left: parts.linger_bytes };
    peer.since = now;
    ring.shutdown(peer.descriptor);
    receive(ring, peer, true);
}

/// Enough was drained, and the peer still sends. Closing now would be answered to it with a reset, which takes the
/// answer away from a TCP peer that has not read it: it may read in peace until it closes, or `linger_timeout` ends.
fn rest<R: Ring>(ring: &mut R, parts: &Parts, peer: &mut Peer) {
    if parts.times.linger == NEVER {
        return close(ring, parts, peer);
    }
    receive(ring, peer, false);
    if !std::mem::replace(&mut peer.is_watched, true) {
        ring.watch_hang_up(peer.descriptor, peer.token);
    }
}

/// The connection no longer counts from here on: `Closed` may be reported late.
fn close<R: Ring>(ring: &mut R, parts: &Parts, peer: &mut Peer) {
    debug_assert!(peer.phase != Phase::Closing, "a connection is closed once");
    parts.control.loads.remove(parts.index);
    parts.metrics.connections_closed.incr();
    peer.phase = Phase::Closing;
    ring.close(peer.descriptor, peer.token);
}

/// Sees to it that the peer's next deadline has an entry in the queue.
fn schedule(timers: &mut Timers, peer: &Peer, limits: &TimeLimits, now: Tick) {
    let armed = timers.at(peer.token.slot);
    if armed <= peer.deadline_at_least(limits, now) {
        return;
    }
    let (at, _) = peer.deadline(limits);
    if at < armed {
        timers.set(peer.token.slot, at);
    }
}
