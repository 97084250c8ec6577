//! Where the suite of `tests/ring.rs` runs: a driver, and peers that connect to it.
//!
//! What this is not: it knows nothing of any one test. A [`World`] is a driver with a network, a [`Peer`] the
//! far side of one connection, a [`Crank`] one ring with what it has reported.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use ringway::ring::{
    Availability, Completion, Descriptor, Epoll, Failure, Listen, ListenOptions, Listener, ListenerId,
    Output, PoolConfig, Ring, Sim, SimFaults, SimNetwork, SimPeer, SimStatus, Token, Uring, Wait,
};

/// Longer than anything takes here; what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The listener that every world connects to.
pub const LISTENER: ListenerId = ListenerId(0);

/// A driver, and a network to reach it by. A clone is the same world.
pub trait World: Clone + Send + Sync + 'static {
    type Ring: Ring;

    /// `None`: this host denies the driver.
    fn open() -> Option<Self>;
    fn ring(&self, pool: &PoolConfig) -> Self::Ring;
    /// Makes `ring` listen under [`LISTENER`].
    fn listen(&self, ring: &mut Self::Ring, identify: bool);
    /// Connects to the ring that listens. `None`: refused.
    fn try_connect(&self) -> Option<Box<dyn Peer>>;
    /// Lets time pass.
    fn pass(&self, time: Duration);
    /// From here until the guard is dropped, accepting fails with EMFILE.
    fn exhaust_descriptors(&self) -> Box<dyn std::any::Any>;
}

/// The far side of one connection. Nothing blocks. Dropping it closes the connection.
pub trait Peer: Send {
    /// Sends what there is room for; returns how much.
    fn send(&mut self, bytes: &[u8]) -> usize;
    fn recv(&mut self) -> Heard;
    fn shutdown(&mut self);
    /// Ends the connection so that the other side has an error, if some of its bytes are unread here.
    fn reset(self: Box<Self>);
}

/// What a peer has received.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Reset,
}

/// A driver and how it is opened. `is_direct`: with a table of its own for connections, where it has one.
pub trait Open: Ring + 'static {
    fn open(pool: &PoolConfig, is_direct: bool) -> Result<Self, Failure>;

    fn is_available() -> bool {
        true
    }
}

impl Open for Epoll {
    fn open(pool: &PoolConfig, _is_direct: bool) -> Result<Epoll, Failure> {
        Epoll::new(pool)
    }
}

impl Open for Uring {
    fn open(pool: &PoolConfig, is_direct: bool) -> Result<Uring, Failure> {
        Uring::new(pool, if is_direct { Uring::DIRECT_DESCRIPTORS } else { 0 })
    }

    fn is_available() -> bool {
        let availability = ringway::ring::availability(&PoolConfig::default());
        let works = matches!(availability, Availability::Works);
        let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
        let is_required = required.split(',').any(|what| what == "ring");
        assert!(works || !is_required, "io_uring is required here: {availability}");
        if !works {
            eprintln!("skipped: {availability}");
        }
        works
    }
}

/// A socket family.
pub trait Family: 'static {
    type Stream: Stream;
    /// Whether connections may go into the ring's own table, where the driver has one.
    const IS_DIRECT: bool = false;
    fn listen() -> (Listener, Option<tempfile::TempDir>);
    fn connect(address: &str) -> io::Result<Self::Stream>;
}

pub struct Unix;

impl Family for Unix {
    type Stream = UnixStream;

    fn listen() -> (Listener, Option<tempfile::TempDir>) {
        let directory = tempfile::tempdir().unwrap();
        (bind(&format!("unix:{}/ring.sock", directory.path().display())), Some(directory))
    }

    fn connect(address: &str) -> io::Result<UnixStream> {
        UnixStream::connect(address.strip_prefix("unix:").unwrap())
    }
}

pub struct DirectUnix;

impl Family for DirectUnix {
    type Stream = UnixStream;
    const IS_DIRECT: bool = true;

    fn listen() -> (Listener, Option<tempfile::TempDir>) {
        Unix::listen()
    }

    fn connect(address: &str) -> io::Result<UnixStream> {
        Unix::connect(address)
    }
}

pub struct Tcp;

impl Family for Tcp {
    type Stream = TcpStream;

    fn listen() -> (Listener, Option<tempfile::TempDir>) {
        (bind("127.0.0.1:0"), None)
    }

    fn connect(address: &str) -> io::Result<TcpStream> {
        TcpStream::connect(address)
    }
}

fn bind(address: &str) -> Listener {
    address.parse::<Listen>().unwrap().bind(&ListenOptions::default()).unwrap().remove(0)
}

/// The real kernel, by one driver and one family of sockets.
pub struct Kernel<R, F> {
    listener: Arc<Mutex<Listener>>,
    _directory: Arc<Option<tempfile::TempDir>>,
    kinds: PhantomData<fn() -> (R, F)>,
}

impl<R, F> Clone for Kernel<R, F> {
    fn clone(&self) -> Kernel<R, F> {
        let (listener, _directory) = (Arc::clone(&self.listener), Arc::clone(&self._directory));
        Kernel { listener, _directory, kinds: PhantomData }
    }
}

impl<R: Open, F: Family> World for Kernel<R, F> {
    type Ring = R;

    fn open() -> Option<Kernel<R, F>> {
        R::is_available().then(|| {
            let (listener, directory) = F::listen();
            let listener = Arc::new(Mutex::new(listener));
            Kernel { listener, _directory: Arc::new(directory), kinds: PhantomData }
        })
    }

    fn ring(&self, pool: &PoolConfig) -> R {
        R::open(pool, F::IS_DIRECT).unwrap()
    }

    fn listen(&self, ring: &mut R, identify: bool) {
        let socket = self.listener.lock().unwrap().take_sockets().remove(0);
        ring.listen(LISTENER, socket, identify || !F::IS_DIRECT, false).unwrap();
    }

    fn try_connect(&self) -> Option<Box<dyn Peer>> {
        let address = self.listener.lock().unwrap().address().to_owned();
        let stream = F::connect(&address).ok()?;
        stream.set_nonblocking();
        Some(Box::new(stream))
    }

    fn pass(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn exhaust_descriptors(&self) -> Box<dyn std::any::Any> {
        let mut files = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        Box::new(files)
    }
}

pub trait Stream: Read + Write + Send + Sized + 'static {
    fn set_nonblocking(&self);
    fn shutdown_write(&self);
    fn set_linger_zero(&self);
}

impl Stream for UnixStream {
    fn set_nonblocking(&self) {
        UnixStream::set_nonblocking(self, true).unwrap();
    }

    fn shutdown_write(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }

    fn set_linger_zero(&self) {}
}

impl Stream for TcpStream {
    fn set_nonblocking(&self) {
        TcpStream::set_nonblocking(self, true).unwrap();
        self.set_nodelay(true).unwrap();
    }

    fn shutdown_write(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }

    fn set_linger_zero(&self) {
        rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO)).unwrap();
    }
}

impl<S: Stream> Peer for S {
    fn send(&mut self, bytes: &[u8]) -> usize {
        match self.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the peer cannot send: {error}"),
        }
    }

    fn recv(&mut self) -> Heard {
        let mut bytes = vec![0; 65536];
        match self.read(&mut bytes) {
            Ok(0) => Heard::End,
            Ok(count) => {
                bytes.truncate(count);
                Heard::Bytes(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Heard::Reset,
            Err(error) => panic!("the peer cannot receive: {error}"),
        }
    }

    fn shutdown(&mut self) {
        self.shutdown_write();
    }

    fn reset(self: Box<Self>) {
        self.set_linger_zero();
    }
}

/// The simulated network: a smooth one, or one in which everything comes late and in pieces.
#[derive(Clone)]
pub struct Simulated<const ROUGH: bool>(SimNetwork);

impl<const ROUGH: bool> World for Simulated<ROUGH> {
    type Ring = Sim;

    fn open() -> Option<Simulated<ROUGH>> {
        let network = SimNetwork::new(1);
        if ROUGH {
            network.set_faults(SimFaults::delays());
        }
        Some(Simulated(network))
    }

    fn ring(&self, pool: &PoolConfig) -> Sim {
        self.0.ring(pool).unwrap()
    }

    fn listen(&self, ring: &mut Sim, identify: bool) {
        ring.listen(LISTENER, SimNetwork::socket(), identify, false).unwrap();
    }

    fn try_connect(&self) -> Option<Box<dyn Peer>> {
        self.0.connect(LISTENER).map(|peer| Box::new(peer) as Box<dyn Peer>)
    }

    fn pass(&self, time: Duration) {
        self.0.advance(time);
    }

    fn exhaust_descriptors(&self) -> Box<dyn std::any::Any> {
        self.0.refuse_accepts(Some(libc::EMFILE));
        struct Guard(SimNetwork);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.refuse_accepts(None);
            }
        }
        Box::new(Guard(self.0.clone()))
    }
}

impl Peer for SimPeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        SimPeer::send(self, bytes);
        bytes.len()
    }

    fn recv(&mut self) -> Heard {
        let bytes = SimPeer::recv(self);
        match self.status() {
            _ if !bytes.is_empty() => Heard::Bytes(bytes),
            SimStatus::Open => Heard::Nothing,
            SimStatus::Ended => Heard::End,
            SimStatus::Reset => Heard::Reset,
        }
    }

    fn shutdown(&mut self) {
        SimPeer::shutdown(self);
    }

    fn reset(self: Box<Self>) {
        SimPeer::reset(&self);
    }
}

/// One ring, and what it has reported.
pub struct Crank<W: World> {
    pub world: W,
    pub ring: W::Ring,
    pub seen: VecDeque<Completion>,
    lives: u32,
    /// Watches `notify_fd` as a host runtime does: edge-triggered.
    host: OwnedFd,
}

impl<W: World> Crank<W> {
    pub fn new(world: &W) -> Crank<W> {
        Crank::with_pool(world, &PoolConfig::default())
    }

    pub fn with_pool(world: &W, pool: &PoolConfig) -> Crank<W> {
        let ring = world.ring(pool);
        let host = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&host, ring.notify_fd(), epoll::EventData::new_u64(0), edges).unwrap();
        Crank { world: world.clone(), ring, seen: VecDeque::new(), lives: 0, host }
    }

    /// Whether the host is told in time that a turn would find something.
    pub fn is_notified(&self, patience: Duration) -> bool {
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.host, spare_capacity(&mut events), Some(&timeout)).unwrap() == 1
    }

    /// The second way to park: the signal on, turns until nothing is found, and the host may sleep.
    pub fn park(&mut self) {
        self.ring.notify(true);
        for _ in 0..5 {
            while self.turn(Wait::No) > 0 {}
            assert!(self.seen.is_empty());
            // It may be told of what it has found by itself since, but not again and again.
            if !self.is_notified(Duration::from_millis(5)) {
                return;
            }
        }
        panic!("notified while there is nothing");
    }

    pub fn listening(world: &W) -> Crank<W> {
        Crank::listening_with_pool(world, &PoolConfig::default())
    }

    pub fn listening_with_pool(world: &W, pool: &PoolConfig) -> Crank<W> {
        let mut crank = Crank::with_pool(world, pool);
        world.listen(&mut crank.ring, false);
        crank
    }

    /// One turn; its completions go to `seen`. Returns how many there were.
    pub fn turn(&mut self, wait: Wait) -> usize {
        self.ring.turn(wait).unwrap();
        let before = self.seen.len();
        while let Some(completion) = self.ring.completion() {
            self.seen.push_back(completion);
        }
        self.seen.len() - before
    }

    /// Gives the ring time to do what it should not do, or what has no completion.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.turn(Wait::No);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next completion, however many turns it takes.
    pub fn next(&mut self) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.seen.pop_front() {
                return completion;
            }
            assert!(Instant::now() < end, "nothing completes");
            if self.turn(Wait::No) == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    pub fn token(&mut self) -> Token {
        self.lives += 1;
        Token { slot: 7, generation: self.lives }
    }

    /// A new connection, seen from both sides.
    pub fn connect(&mut self) -> (Descriptor, Box<dyn Peer>) {
        let peer = self.world.try_connect().expect("somebody listens");
        match self.next() {
            Completion::Accepted { listener: LISTENER, descriptor } => (descriptor, peer),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    /// A new connection on which the ring receives.
    pub fn connect_and_recv(&mut self) -> (Descriptor, Token, Box<dyn Peer>) {
        let (descriptor, peer) = self.connect();
        let token = self.token();
        self.ring.recv(descriptor, token);
        (descriptor, token, peer)
    }

    /// Receives exactly this much under `token`.
    pub fn receive(&mut self, token: Token, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.next() {
                Completion::Received { token: its, chunk } => {
                    assert_eq!(its, token);
                    assert!(!chunk.is_empty());
                    bytes.extend_from_slice(&chunk);
                }
                other => panic!("{other:?} instead of bytes"),
            }
        }
        assert_eq!(bytes.len(), count);
        bytes
    }

    /// Waits for the result of a send.
    pub fn sent(&mut self, token: Token) -> Result<Output, Failure> {
        match self.next() {
            Completion::Sent { token: its, output, result } => {
                assert_eq!(its, token);
                assert!(result.is_err() || output.is_empty());
                result.map(|()| output)
            }
            other => panic!("{other:?} instead of the result of a send"),
        }
    }

    /// What the peer receives, up to `count` bytes or an end, with the ring turning meanwhile.
    pub fn heard(&mut self, peer: &mut dyn Peer, count: usize) -> (Vec<u8>, Heard) {
        let end = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            assert!(Instant::now() < end, "the peer hears nothing");
            match peer.recv() {
                Heard::Bytes(more) => bytes.extend_from_slice(&more),
                Heard::Nothing => {
                    if self.turn(Wait::No) == 0 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                ended => return (bytes, ended),
            }
        }
        (bytes, Heard::Nothing)
    }
}

/// An output of one block.
pub fn output(bytes: &[u8]) -> Output {
    let mut output = Output::default();
    output.block_mut().extend_from_slice(bytes);
    output
}

/// Bytes in which every place is recognised.
pub fn pattern(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ at as u8 ^ seed).collect()
}

/// Sends all of it, with the ring turning meanwhile.
pub fn send_all<W: World>(crank: &mut Crank<W>, peer: &mut dyn Peer, mut bytes: &[u8]) {
    let end = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        assert!(Instant::now() < end, "the peer cannot send");
        bytes = &bytes[peer.send(bytes)..];
        crank.turn(Wait::No);
    }
}
