//! A ring without a kernel: the readable reference of the contract, and the place where things go wrong on
//! purpose.
//!
//! ```text
//!   SimPeer ──send──▶ wire ──recv──▶ Sim (one ring of one worker)      SimNetwork: the wires, the listeners,
//!           ◀──recv── wire ◀──send──                                   the clock, the faults, one seed
//! ```
//!
//! Nothing happens but in [`Ring::turn`]: an operation that is asked for is done by a later turn, as on
//! io_uring. Each turn goes once over all sockets, in an order drawn from the seed, and does for each what
//! can be done, or what a drawn fault makes of it. Turned by one thread, the same seed gives the same
//! completions. Time stands still until [`SimNetwork::advance`].
//!
//! Unlike the drivers for a kernel, it also holds its caller to the contract: a second recv or send on a
//! socket, or any operation on a closed one, panics.

mod network;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Completion, Descriptor, Failure, ListenerId, Operation, Output, Pool, Ring, Token, Wait, Waker};
use network::{Random, State, Wire};

pub use network::{SimFaults, SimNetwork, SimPeer, SimStatus};

/// Bytes on their way to a peer that does not read.
const WINDOW_BYTES: usize = 64 * 1024;

/// One simulated ring.
pub struct Sim {
    network: SimNetwork,
    ring: usize,
    pool: Pool,
    random: Random,
    /// The sockets of this ring by their wire, and so by descriptor.
    sockets: BTreeMap<u32, Socket>,
    accepting: BTreeMap<u32, bool>,
    queue: VecDeque<Completion>,
    alarm: Option<Instant>,
    /// A socket had bytes and no buffer was free.
    is_starved: bool,
    turns: u64,
    event: Arc<OwnedFd>,
}

/// What was asked for on one socket.
struct Socket {
    token: Token,
    recv: Recv,
    /// The hang-up is to be reported.
    is_watched: bool,
    send: Option<Output>,
    is_closing: bool,
}

/// ```text
///   Off ──recv──▶ On ──recv_stop──▶ Stopping ──▶ Off    RecvStopped
///    ▲            │                    │
///    └────────────┴────────────────────┘                End, RecvFailed
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recv {
    Off,
    On,
    Stopping,
}

/// What a step of one socket found.
#[derive(Default)]
struct Step {
    /// Something can be done with the next turn, though nothing new happens until then.
    is_put_off: bool,
    /// Bytes wait for a buffer.
    is_starved: bool,
    is_closed: bool,
}

impl Sim {
    fn new(network: SimNetwork, ring: usize, pool: Pool, random: Random, event: Arc<OwnedFd>) -> Sim {
        Sim {
            network,
            ring,
            pool,
            random,
            sockets: BTreeMap::new(),
            accepting: BTreeMap::new(),
            queue: VecDeque::new(),
            alarm: None,
            is_starved: false,
            turns: 0,
            event,
        }
    }

    fn socket(&mut self, descriptor: Descriptor) -> &mut Socket {
        let socket = self.sockets.get_mut(&descriptor.0).expect("the socket belongs to this ring");
        assert!(!socket.is_closing, "close is the last operation on a socket");
        socket
    }

    fn insert(&mut self, wire: u32, listener: ListenerId) {
        let token = Token { slot: 0, generation: 0 };
        let socket = Socket { token, recv: Recv::Off, is_watched: false, send: None, is_closing: false };
        assert!(self.sockets.insert(wire, socket).is_none(), "a wire belongs to one ring at a time");
        self.queue.push_back(Completion::Accepted { listener, descriptor: Descriptor(wire) });
    }

    /// Does for everything once what can be done. Whether more could be done at once.
    fn step(&mut self) -> bool {
        let network = self.network.clone();
        let mut state = network.lock();
        let faults = state.faults;
        state.rings[self.ring].is_changed = false;
        while let Some((listener, wire)) = state.rings[self.ring].sockets.pop_front() {
            self.insert(wire, listener);
        }
        if std::mem::take(&mut state.rings[self.ring].is_woken) {
            self.queue.push_back(Completion::Woken);
        }
        if self.alarm.take_if(|at| *at <= network.0.begin + state.clock).is_some() {
            self.queue.push_back(Completion::Alarm);
        }
        let mut is_put_off = self.step_accepts(&mut state);
        self.is_starved = false;
        for wire in self.order(&faults) {
            let Some(socket) = self.sockets.get_mut(&wire) else { continue };
            let mut turn = Turn {
                socket,
                wire: &mut state.wires[wire as usize],
                faults: &faults,
                random: &mut self.random,
                pool: &self.pool,
                queue: &mut self.queue,
            };
            let step = turn.step();
            is_put_off |= step.is_put_off;
            self.is_starved |= step.is_starved;
            if step.is_closed {
                self.sockets.remove(&wire);
                state.remove_if_over(wire);
            }
        }
        network.0.changed.notify_all();
        is_put_off
    }

    fn step_accepts(&mut self, state: &mut State) -> bool {
        let (faults, refused) = (state.faults, state.refuse_accepts);
        let mut is_put_off = false;
        let accepting: Vec<u32> = self.accepting.iter().filter(|(_, on)| **on).map(|(id, _)| *id).collect();
        for id in accepting {
            let listener = ListenerId(id);
            let backlogs = state.listeners.get_mut(&id).into_iter().flatten();
            let Some((_, backlog)) = backlogs.into_iter().find(|(ring, _)| *ring == self.ring) else {
                continue;
            };
            while !backlog.is_empty() {
                if self.random.chance(faults.accept_stall) {
                    is_put_off = true;
                    break;
                }
                let failed = self.random.chance(faults.accept_error).then_some(libc::EMFILE);
                if let Some(errno) = refused.or(failed) {
                    self.accepting.insert(id, false);
                    let failure = Failure::new(Operation::Accept, errno);
                    self.queue.push_back(Completion::AcceptFailed { listener, failure });
                    break;
                }
                if let Some(wire) = backlog.pop_front() {
                    self.insert(wire, listener);
                }
            }
        }
        is_put_off
    }

    /// In which order sockets have their turn.
    fn order(&mut self, faults: &SimFaults) -> Vec<u32> {
        let mut order: Vec<u32> = self.sockets.keys().copied().collect();
        if faults.reorder {
            for place in (1..order.len()).rev() {
                order.swap(place, self.random.below(place + 1));
            }
        }
        order
    }

    /// Until the network has changed something for this ring.
    fn sleep(&self) {
        let mut state = self.network.lock();
        while !state.rings[self.ring].is_changed {
            state = self.network.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One socket in one turn.
struct Turn<'a> {
    socket: &'a mut Socket,
    wire: &'a mut Wire,
    faults: &'a SimFaults,
    random: &'a mut Random,
    pool: &'a Pool,
    queue: &'a mut VecDeque<Completion>,
}

impl Turn<'_> {
    fn step(&mut self) -> Step {
        let mut step = Step::default();
        if self.socket.is_closing {
            self.close(&mut step);
            return step;
        }
        if let Some(output) = self.socket.send.take() {
            self.send(output, &mut step);
        }
        if self.socket.recv == Recv::Stopping && self.random.chance(1000 - self.faults.stop_late.min(999)) {
            self.socket.recv = Recv::Off;
            self.queue.push_back(Completion::RecvStopped { token: self.socket.token });
        }
        if self.socket.recv != Recv::Off {
            self.recv(&mut step);
            step.is_put_off |= self.socket.recv == Recv::Stopping;
        }
        if (self.wire.peer_gone || self.wire.is_reset) && std::mem::take(&mut self.socket.is_watched) {
            self.queue.push_back(Completion::HungUp { token: self.socket.token });
        }
        step
    }

    fn close(&mut self, step: &mut Step) {
        let token = self.socket.token;
        if let Some(output) = self.socket.send.take() {
            let result = Err(Failure::new(Operation::Send, libc::ECANCELED));
            self.queue.push_back(Completion::Sent { token, output, result });
        }
        if self.random.chance(self.faults.close_late) {
            step.is_put_off = true;
            return;
        }
        self.wire.close_ring();
        self.queue.push_back(Completion::Closed { token });
        step.is_closed = true;
    }

    fn send(&mut self, mut output: Output, step: &mut Step) {
        let token = self.socket.token;
        self.wire.is_reset |= self.random.chance(self.faults.send_error);
        if self.wire.is_reset || self.wire.peer_gone || self.wire.ring_shut {
            let result = Err(Failure::new(Operation::Send, libc::EPIPE));
            return self.queue.push_back(Completion::Sent { token, output, result });
        }
        let room = WINDOW_BYTES.saturating_sub(self.wire.to_peer.len());
        let mut count = room.min(output.len());
        if count > 0 && self.random.chance(self.faults.send_stall) {
            step.is_put_off = true;
            count = 0;
        } else if count > 0 && self.random.chance(self.faults.send_short) {
            count = 1 + self.random.below(count);
        }
        take(&mut output, count, &mut self.wire.to_peer);
        if output.is_empty() {
            return self.queue.push_back(Completion::Sent { token, output, result: Ok(()) });
        }
        step.is_put_off |= count < room;
        self.socket.send = Some(output);
    }

    fn recv(&mut self, step: &mut Step) {
        let token = self.socket.token;
        self.wire.is_reset |= self.random.chance(self.faults.recv_error);
        if self.wire.is_reset {
            self.socket.recv = Recv::Off;
            let failure = Failure::new(Operation::Recv, libc::ECONNRESET);
            return self.queue.push_back(Completion::RecvFailed { token, failure });
        }
        if self.wire.to_ring.is_empty() {
            if self.wire.peer_shut || self.wire.peer_gone {
                self.socket.recv = Recv::Off;
                self.queue.push_back(Completion::End { token });
            }
            return;
        }
        if self.pool.free() == 0 {
            step.is_starved = true;
            return;
        }
        if self.random.chance(self.faults.recv_stall) || self.random.chance(self.faults.no_buffers) {
            step.is_put_off = true;
            return;
        }
        let mut buffer = self.pool.lend().expect("this ring alone takes buffers, and one was free");
        let space = buffer.as_mut_slice();
        let mut count = self.wire.to_ring.len().min(space.len());
        count = count.min(self.faults.recv_bytes_max.unwrap_or(count).max(1));
        if self.random.chance(self.faults.recv_split) {
            count = 1 + self.random.below(count);
        }
        for (place, byte) in space.iter_mut().zip(self.wire.to_ring.drain(..count)) {
            *place = byte;
        }
        self.queue.push_back(Completion::Received { token, chunk: buffer.fill(count) });
        // What is left, also an end, has its turn with the next one.
        step.is_put_off |= !self.wire.to_ring.is_empty() || self.wire.peer_shut || self.wire.peer_gone;
    }
}

/// Takes `count` bytes off the front of `output`.
fn take(output: &mut Output, mut count: usize, to: &mut VecDeque<u8>) {
    while count > 0 {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = output.fill(&mut slices);
        let mut taken = 0;
        for slice in &slices[..filled] {
            let part = &slice[..slice.len().min(count - taken)];
            to.extend(part);
            taken += part.len();
        }
        output.advance(taken);
        count -= taken;
    }
}

/// Where another simulated ring hands sockets over to.
#[derive(Clone, Debug)]
pub struct SimAddress(usize);

impl Ring for Sim {
    type Address = SimAddress;

    fn driver(&self) -> &'static str {
        "sim"
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn address(&self) -> SimAddress {
        SimAddress(self.ring)
    }

    fn waker(&self) -> Waker {
        let (network, ring) = (self.network.clone(), self.ring);
        Waker::new(move || {
            let mut state = network.lock();
            state.rings[ring].is_woken = true;
            state.tell(ring);
            network.0.changed.notify_all();
        })
    }

    fn listen(
        &mut self,
        listener: ListenerId,
        _socket: OwnedFd,
        _identify: bool,
        _in_turns: bool,
    ) -> Result<(), Failure> {
        let mut state = self.network.lock();
        state.listeners.entry(listener.0).or_default().push((self.ring, VecDeque::new()));
        assert!(self.accepting.insert(listener.0, true).is_none(), "one socket for each listener");
        Ok(())
    }

    /// Refused: there is no kernel to have made the socket.
    fn adopt(&mut self, _listener: ListenerId, _socket: OwnedFd) -> Result<Descriptor, Failure> {
        Err(Failure::new(Operation::Accept, libc::EOPNOTSUPP))
    }

    fn accept(&mut self, listener: ListenerId) {
        self.accepting.entry(listener.0).and_modify(|on| *on = true);
    }

    fn accept_stop(&mut self, listener: ListenerId) {
        self.accepting.entry(listener.0).and_modify(|on| *on = false);
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.accepting.remove(&listener.0);
        let network = self.network.clone();
        let mut state = network.lock();
        let backlogs = state.listeners.remove(&listener.0).unwrap_or_default();
        for (ring, backlog) in backlogs {
            if ring != self.ring {
                state.listeners.entry(listener.0).or_default().push((ring, backlog));
                continue;
            }
            backlog.into_iter().for_each(|wire| self.insert(wire, listener));
        }
        network.0.changed.notify_all();
    }

    fn recv(&mut self, descriptor: Descriptor, token: Token) {
        let socket = self.socket(descriptor);
        assert!(socket.recv == Recv::Off, "one recv at a time");
        (socket.token, socket.recv) = (token, Recv::On);
    }

    fn recv_stop(&mut self, descriptor: Descriptor) {
        let socket = self.socket(descriptor);
        // Nothing follows where receiving is over already: its completion has been or will be seen.
        if socket.recv == Recv::On {
            socket.recv = Recv::Stopping;
        }
    }

    fn watch_hang_up(&mut self, descriptor: Descriptor, token: Token) {
        let socket = self.socket(descriptor);
        (socket.token, socket.is_watched) = (token, true);
    }

    fn send(&mut self, descriptor: Descriptor, token: Token, output: Output) {
        let socket = self.socket(descriptor);
        assert!(socket.send.is_none(), "one send at a time");
        (socket.token, socket.send) = (token, Some(output));
    }

    /// Nothing is done at once here.
    fn send_at_once(&mut self, _descriptor: Descriptor, _output: &mut Output) {}

    /// Nor this.
    fn send_last(&mut self, _descriptor: Descriptor, _output: &mut Output) -> bool {
        false
    }

    fn shutdown(&mut self, descriptor: Descriptor) {
        self.socket(descriptor);
        let mut state = self.network.lock();
        state.wires[descriptor.0 as usize].ring_shut = true;
        self.network.0.changed.notify_all();
    }

    fn close(&mut self, descriptor: Descriptor, token: Token) {
        let socket = self.socket(descriptor);
        (socket.token, socket.is_closing) = (token, true);
    }

    /// Nobody has a duplicate of a simulated connection: it ends.
    fn let_go(&mut self, descriptor: Descriptor, token: Token) {
        self.close(descriptor, token);
    }

    fn hand_over(&mut self, descriptor: Descriptor, listener: ListenerId, to: &SimAddress) {
        let wire = descriptor.0;
        let socket = self.sockets.remove(&wire).expect("the socket belongs to this ring");
        let is_fresh = socket.recv == Recv::Off && socket.send.is_none() && !socket.is_closing;
        assert!(is_fresh, "a socket is handed over before anything else");
        let network = self.network.clone();
        let mut state = network.lock();
        if state.rings[to.0].is_closed || self.random.chance(state.faults.hand_over_failure) {
            return self.insert(wire, listener);
        }
        state.wires[wire as usize].ring = to.0;
        state.rings[to.0].sockets.push_back((listener, wire));
        state.tell(to.0);
        network.0.changed.notify_all();
    }

    fn descriptor_fd(&self, _descriptor: Descriptor) -> Option<BorrowedFd<'_>> {
        None
    }

    fn now(&self) -> Instant {
        self.network.now()
    }

    fn alarm(&mut self, at: Option<Instant>) {
        self.alarm = at;
    }

    fn turn(&mut self, wait: Wait) -> Result<(), Failure> {
        self.turns += 1;
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
        loop {
            let mut is_put_off = self.step();
            // A buffer that comes back, from whatever thread, is something new.
            is_put_off |= self.is_starved && !self.pool.await_return();
            if !self.queue.is_empty() || !matches!(wait, Wait::UntilCompletion | Wait::UntilArrival) {
                let mut state = self.network.lock();
                if is_put_off {
                    state.tell(self.ring);
                }
                return Ok(());
            }
            if !is_put_off {
                self.sleep();
            }
        }
    }

    fn completion(&mut self) -> Option<Completion> {
        self.queue.pop_front()
    }

    fn notify_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn notify(&mut self, on: bool) {
        self.network.lock().rings[self.ring].notify = on;
    }

    /// Turns: the system calls that a perfect kernel would need.
    fn syscalls(&self) -> u64 {
        self.turns
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        for listener in self.accepting.keys().copied().collect::<Vec<_>>() {
            self.unlisten(ListenerId(listener));
        }
        let mut state = self.network.lock();
        let mailbox = &mut state.rings[self.ring];
        mailbox.is_closed = true;
        let handed_over = std::mem::take(&mut mailbox.sockets).into_iter().map(|(_, wire)| wire);
        for wire in std::mem::take(&mut self.sockets).into_keys().chain(handed_over) {
            state.wires[wire as usize].close_ring();
            state.remove_if_over(wire);
        }
        self.network.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
