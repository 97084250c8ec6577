//! Kept connections go from a process that is being replaced to those that serve on.
//!
//! ```text
//!   quiet peer ── recv_stop ──▶ Leaving ── RecvStopped ──▶ through the passage, let go
//!                                  └────── bytes came ───▶ Serving: answered first, then tried again
//! ```
//!
//! What the web server sends from then on waits in the socket's own buffer for the process that takes over. So it does
//! where a web server multiplexes without a pause: now and then nothing is received for a while, until what has begun
//! is answered.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::engine::control::Order;
use crate::engine::peer::{Input, Peer, Phase, Receiving};
use crate::engine::timer::Tick;
use crate::ring::{Fate, ListenerId, Passage, Ring, Token};

use super::{DRAIN_GRACE, Draining, Parts, Worker, mark, peer_of, receive};

/// Connections that are taken from their peers at a time: no more than fit into the passage.
const LEAVING_MAX: usize = 64;

/// How long a full passage is left to those who take from it.
const FULL_PAUSE: Tick = 10;

/// A passage that was full for so long has nobody at its end.
const PATIENCE: Tick = 1_000;

/// Of so much time since it began to drain the worker makes gaps in this part.
const GAPS: (Tick, Range<Tick>) = (4_000, 1_000..2_000);

/// A worker's way to other processes.
pub(crate) struct Passing {
    pub(crate) passage: Arc<Passage>,
    /// How many listeners all the processes know, by the same numbers.
    pub(crate) listeners: usize,
    /// When to try again, where it was full.
    pub(crate) full_until: Tick,
    /// When a connection last went through.
    passed_at: Tick,
    is_shut: bool,
}

impl Passing {
    pub(crate) fn new(passage: Arc<Passage>, listeners: usize) -> Passing {
        Passing { passage, listeners, full_until: 0, passed_at: 0, is_shut: false }
    }
}

impl<R: Ring> Worker<R> {
    /// Whether connections are to be passed on now.
    fn passes_on(&self) -> bool {
        let is_open = self.parts.passing.as_ref().is_some_and(|passing| !passing.is_shut);
        is_open && self.draining != Draining::No && self.parts.control.order() == Order::Retire
    }

    /// Begins or ends a time of gaps. (Not all the time: a request that takes long would keep all others waiting.)
    pub(super) fn make_gaps(&mut self, since: Tick) {
        let is_time = self.passes_on() && GAPS.1.contains(&(since % GAPS.0));
        if std::mem::replace(&mut self.makes_gaps, is_time) != is_time {
            self.peers.iter_mut().for_each(|(_, peer)| mark(&mut self.dirty, peer));
        }
    }

    /// While retiring: connections on which nothing happens take leave. Whether that is the way to end them.
    pub(super) fn dismiss_quiet_peers(&mut self) -> bool {
        if !self.passes_on() {
            return false;
        }
        let Some(passing) = &self.parts.passing else { return false };
        if self.clock.now() < passing.full_until {
            return true;
        }
        let known = |peer: &Peer| (peer.listener.0 as usize) < passing.listeners;
        let quiet = self.peers.iter_mut().map(|(_, peer)| peer).filter(|peer| is_quiet(peer) && known(peer));
        for peer in quiet.take(LEAVING_MAX) {
            peer.phase = Phase::Leaving;
            receive(&mut self.ring, peer, false);
            // One that does not receive leaves at once.
            mark(&mut self.dirty, peer);
        }
        true
    }

    /// The last step: nothing of the peer is in the ring any more, and nothing of it was read that is not answered.
    pub(super) fn leave(&mut self, token: Token) {
        let passes_on = self.passes_on();
        let now = self.clock.now();
        let Some(peer) = peer_of(&mut self.peers, token).filter(|peer| peer.receiving == Receiving::Off)
        else {
            return;
        };
        peer.phase = Phase::Serving;
        mark(&mut self.dirty, peer);
        let Some(passing) = self.parts.passing.as_mut().filter(|_| passes_on && is_quiet(peer)) else {
            return;
        };
        if now < passing.full_until {
            return;
        }
        let Some(socket) = self.ring.descriptor_fd(peer.descriptor) else {
            passing.is_shut = true;
            return;
        };
        match passing.passage.send(peer.listener, socket) {
            Ok(()) => {
                passing.passed_at = now;
                peer.phase = Phase::Closing;
                self.parts.control.loads.remove(self.parts.index);
                self.parts.metrics.connections_passed_on.incr();
                self.ring.let_go(peer.descriptor, token);
            }
            Err(failure) => {
                let Draining::Since(since) = self.draining else { return };
                passing.full_until = now + FULL_PAUSE;
                let patience_ends = passing.passed_at.max(since + DRAIN_GRACE) + PATIENCE;
                if failure.fate() != Fate::Retry || now >= patience_ends {
                    passing.is_shut = true;
                    tracing::warn!(
                        "worker {}: {failure}; nobody takes kept connections over, and they are closed",
                        self.parts.index
                    );
                }
            }
        }
    }

    /// Serves what other processes have passed on.
    pub(super) fn take_arrivals(&mut self) {
        while let Some((listener, socket)) = self.parts.control.take_arrival(self.parts.index) {
            if let Err(reason) = self.take_over(listener, socket) {
                self.parts.control.loads.remove(self.parts.index);
                tracing::warn!("a connection of another process is closed: {reason}");
            }
        }
    }

    fn take_over(&mut self, listener: ListenerId, socket: OwnedFd) -> Result<(), String> {
        let known = self.parts.passing.as_ref().map_or(0, |passing| passing.listeners);
        let bound = self.parts.bound.iter().take(known).nth(listener.0 as usize);
        let bound = bound.ok_or("this one has no such listener")?;
        if let Some(access) = &self.parts.access
            && let Err(reason) = access.check(bound.is_tcp, Some(socket.as_fd()))
        {
            self.parts.metrics.connections_denied.incr();
            return Err(reason);
        }
        let descriptor = self.ring.adopt(listener, socket).map_err(|failure| failure.to_string())?;
        self.parts.metrics.connections_taken_over.incr();
        self.admit(listener, descriptor);
        Ok(())
    }

    /// At the end.
    pub(super) fn tell_of_passing(&self) {
        let metrics = &self.parts.metrics;
        let (passed, closed) = (metrics.connections_passed_on.get(), metrics.connections_not_passed_on.get());
        if passed + closed > 0 {
            tracing::info!(
                "worker {}: passed on {passed} kept connections, closed {closed}",
                self.parts.index
            );
        }
    }
}

/// Nothing is still to come of what has begun.
pub(super) fn has_all_of_its_requests(peer: &Peer) -> bool {
    !peer.connection.mid_record() && peer.connection.incomplete().next().is_none()
}

/// A quiet connection is closed; counts it if it was to be passed on.
pub(super) fn count_not_passed_on(parts: &Parts) {
    if parts.passing.is_some() && parts.control.order() == Order::Retire {
        parts.metrics.connections_not_passed_on.incr();
    }
}

/// Nothing of it has begun, or is only half there, in either direction.
fn is_quiet(peer: &Peer) -> bool {
    peer.phase == Phase::Serving
        && peer.connection.is_idle()
        && peer.unsent() == 0
        && peer.backlog.is_empty()
        && peer.input == Input::Open
        && !peer.connection.wants_close()
}
