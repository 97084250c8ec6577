//! The network that simulated rings share: wires, listeners, the clock, the faults, and the peers' side of it
//! all.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;

use super::super::{Failure, ListenerId, Operation, Pool, PoolConfig, Waker};
use super::Sim;

/// What goes wrong, and how often: chances are in a thousand, drawn anew for each socket in each turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SimFaults {
    /// Sockets are served in a drawn order rather than by age.
    pub reorder: bool,
    /// One recv gives at most this many bytes.
    pub recv_bytes_max: Option<usize>,
    /// A recv gives fewer bytes than there are: a cut at any place.
    pub recv_split: u16,
    /// Bytes that are there come later.
    pub recv_stall: u16,
    /// No buffer was at hand (ENOBUFS); it is tried again.
    pub no_buffers: u16,
    /// The connection breaks (ECONNRESET) while receiving.
    pub recv_error: u16,
    /// A send takes fewer bytes than there is room for.
    pub send_short: u16,
    /// A send takes nothing (EAGAIN).
    pub send_stall: u16,
    /// The connection breaks (EPIPE) while sending.
    pub send_error: u16,
    /// `RecvStopped` comes later, and bytes before it.
    pub stop_late: u16,
    /// `Closed` comes later.
    pub close_late: u16,
    /// A connection that waits is accepted later.
    pub accept_stall: u16,
    /// Accepting fails with EMFILE.
    pub accept_error: u16,
    /// A hand-over fails: the socket is `Accepted` again where it was.
    pub hand_over_failure: u16,
}

impl SimFaults {
    /// Everything in pieces, late and in any order, but nothing lost and nothing broken.
    pub fn delays() -> SimFaults {
        SimFaults {
            reorder: true,
            recv_split: 400,
            recv_stall: 200,
            no_buffers: 50,
            send_short: 400,
            send_stall: 200,
            stop_late: 500,
            close_late: 300,
            accept_stall: 300,
            ..SimFaults::default()
        }
    }

    /// The delays, and whatever can fail does so now and then.
    pub fn errors() -> SimFaults {
        SimFaults {
            recv_error: 10,
            send_error: 10,
            accept_error: 50,
            hand_over_failure: 200,
            ..SimFaults::delays()
        }
    }
}

/// A network in memory, with its rings and peers. A clone is the same network.
#[derive(Clone)]
pub struct SimNetwork(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) begin: Instant,
    pub(super) seed: u64,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) random: Random,
    pub(super) faults: SimFaults,
    pub(super) refuse_accepts: Option<i32>,
    pub(super) clock: Duration,
    pub(super) wires: Slab<Wire>,
    /// For each listener, the rings that listen and the connections that wait there.
    pub(super) listeners: BTreeMap<u32, Vec<(usize, VecDeque<u32>)>>,
    pub(super) rings: Vec<Mailbox>,
}

/// One connection.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) ring: usize,
    pub(super) to_ring: VecDeque<u8>,
    pub(super) to_peer: VecDeque<u8>,
    pub(super) peer_shut: bool,
    pub(super) peer_gone: bool,
    pub(super) ring_shut: bool,
    pub(super) ring_gone: bool,
    /// What was not delivered when it happened is lost, and both sides have an error.
    pub(super) is_reset: bool,
}

impl Wire {
    /// Ends the ring's side; bytes that it has not received make a reset of it, as with a real socket.
    pub(super) fn close_ring(&mut self) {
        self.ring_gone = true;
        self.is_reset |= !self.to_ring.is_empty();
    }

    fn close_peer(&mut self) {
        self.peer_gone = true;
        self.is_reset |= !self.to_peer.is_empty() && !self.ring_gone;
    }
}

/// What the network tells a ring.
pub(super) struct Mailbox {
    pub(super) sockets: VecDeque<(ListenerId, u32)>,
    pub(super) is_woken: bool,
    /// Something has changed since the ring looked.
    pub(super) is_changed: bool,
    pub(super) is_closed: bool,
    pub(super) notify: bool,
    pub(super) event: Arc<OwnedFd>,
}

impl State {
    pub(super) fn tell(&mut self, ring: usize) {
        let mailbox = &mut self.rings[ring];
        mailbox.is_changed = true;
        if mailbox.notify {
            let _ = rustix::io::write(&mailbox.event, &1u64.to_ne_bytes());
        }
    }

    pub(super) fn remove_if_over(&mut self, wire: u32) {
        if self.wires[wire as usize].ring_gone && self.wires[wire as usize].peer_gone {
            self.wires.remove(wire as usize);
        }
    }
}

impl SimNetwork {
    /// An empty network without faults. What is drawn, is drawn from the seed.
    pub fn new(seed: u64) -> SimNetwork {
        let state = State {
            random: Random(seed),
            faults: SimFaults::default(),
            refuse_accepts: None,
            clock: Duration::ZERO,
            wires: Slab::new(),
            listeners: BTreeMap::new(),
            rings: Vec::new(),
        };
        let (begin, state) = (Instant::now(), Mutex::new(state));
        SimNetwork(Arc::new(Shared { begin, seed, state, changed: Condvar::new() }))
    }

    /// For the message of a test that fails.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// From now on this goes wrong.
    pub fn set_faults(&self, faults: SimFaults) {
        self.change(|state| state.faults = faults);
    }

    /// From now on every accept fails with this errno; `None` ends that.
    pub fn refuse_accepts(&self, errno: Option<i32>) {
        self.change(|state| state.refuse_accepts = errno);
    }

    /// The network's time.
    pub fn now(&self) -> Instant {
        self.0.begin + self.lock().clock
    }

    /// Lets time pass, for all rings at once.
    pub fn advance(&self, time: Duration) {
        self.change(|state| state.clock += time);
    }

    /// A new ring in this network.
    pub fn ring(&self, pool: &PoolConfig) -> Result<Sim, Failure> {
        let pool = Pool::new(pool)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Failure::new(Operation::Setup, errno.raw_os_error()))?;
        let event = Arc::new(event);
        let mut state = self.lock();
        let ring = state.rings.len();
        state.rings.push(Mailbox {
            sockets: VecDeque::new(),
            is_woken: false,
            is_changed: false,
            is_closed: false,
            notify: false,
            event: Arc::clone(&event),
        });
        let random = Random(state.random.next());
        drop(state);
        let network = self.clone();
        pool.set_waker(Waker::new(move || network.tell(ring)));
        Ok(Sim::new(self.clone(), ring, pool, random, event))
    }

    /// Something to give to [`Ring::listen`], which wants a descriptor; a simulated ring does not use it.
    pub fn socket() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("every system has /dev/null").into()
    }

    /// Connects to one of the rings that listen under this id, drawn from the seed. `None`: nobody does.
    pub fn connect(&self, listener: ListenerId) -> Option<SimPeer> {
        let mut state = self.lock();
        let State { random, wires, listeners, .. } = &mut *state;
        let rings = listeners.get_mut(&listener.0).filter(|rings| !rings.is_empty())?;
        let place = random.below(rings.len());
        let (ring, backlog) = &mut rings[place];
        let ring = *ring;
        let wire = wires.insert(Wire { ring, ..Wire::default() }) as u32;
        backlog.push_back(wire);
        state.tell(ring);
        self.0.changed.notify_all();
        Some(SimPeer { network: self.clone(), wire })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, ring: usize) {
        self.lock().tell(ring);
        self.0.changed.notify_all();
    }

    /// Changes something that may concern any ring.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        for ring in 0..state.rings.len() {
            state.tell(ring);
        }
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNetwork(seed {})", self.0.seed)
    }
}

/// The far side of a simulated connection. Nothing blocks but [`SimPeer::recv_until`]. Dropping it closes the
/// connection.
#[derive(Debug)]
pub struct SimPeer {
    network: SimNetwork,
    wire: u32,
}

/// How a peer sees its connection, once it has read all that there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimStatus {
    /// More may come.
    Open,
    /// The server has shut down its writing side, or closed.
    Ended,
    /// The server has closed without reading everything, or the connection broke.
    Reset,
}

impl SimPeer {
    /// Sends all of it; the network has room for any amount. Into a connection that is over it is lost.
    pub fn send(&self, bytes: &[u8]) {
        self.change(|wire| {
            assert!(!wire.peer_shut, "the peer has shut down its writing side");
            if !wire.ring_gone && !wire.is_reset {
                wire.to_ring.extend(bytes);
            }
        });
    }

    /// What has arrived; perhaps nothing.
    pub fn recv(&self) -> Vec<u8> {
        self.change(|wire| wire.to_peer.drain(..).collect())
    }

    /// Waits for so many bytes, or as many as came until the end or in so much real time. For a ring that is
    /// turned by another thread.
    pub fn recv_until(&self, count: usize, patience: Duration) -> Vec<u8> {
        let end = Instant::now() + patience;
        let mut bytes = Vec::new();
        loop {
            bytes.extend(self.recv());
            let state = self.network.lock();
            let wire = &state.wires[self.wire as usize];
            let is_over = self.status_of(wire) != SimStatus::Open;
            let left = end.saturating_duration_since(Instant::now());
            if bytes.len() >= count || (is_over && wire.to_peer.is_empty()) || left.is_zero() {
                return bytes;
            }
            if wire.to_peer.is_empty() {
                drop(self.network.0.changed.wait_timeout(state, left));
            }
        }
    }

    /// What follows what [`SimPeer::recv`] gave.
    pub fn status(&self) -> SimStatus {
        self.status_of(&self.network.lock().wires[self.wire as usize])
    }

    /// Bytes that the server has not received yet.
    pub fn unread(&self) -> usize {
        self.network.lock().wires[self.wire as usize].to_ring.len()
    }

    /// Ends this side's stream; the server reads the end, and may go on to write.
    pub fn shutdown(&self) {
        self.change(|wire| wire.peer_shut = true);
    }

    /// Breaks the connection: what is on its way is lost, and the server has an error.
    pub fn reset(&self) {
        self.change(|wire| {
            wire.is_reset = true;
            wire.to_ring.clear();
            wire.to_peer.clear();
        });
    }

    fn status_of(&self, wire: &Wire) -> SimStatus {
        match wire {
            Wire { is_reset: true, .. } => SimStatus::Reset,
            Wire { ring_shut: true, .. } | Wire { ring_gone: true, .. } => SimStatus::Ended,
            _ => SimStatus::Open,
        }
    }

    fn change<R>(&self, change: impl FnOnce(&mut Wire) -> R) -> R {
        let mut state = self.network.lock();
        let wire = &mut state.wires[self.wire as usize];
        let ring = wire.ring;
        let result = change(wire);
        state.tell(ring);
        self.network.0.changed.notify_all();
        result
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        self.change(Wire::close_peer);
        self.network.lock().remove_if_over(self.wire);
    }
}

/// SplitMix64: small, and good enough to find what nobody thought of.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// In so many of a thousand cases.
    pub(super) fn chance(&mut self, permille: u16) -> bool {
        permille > 0 && self.below(1000) < permille.into()
    }
}
