//! The ring over epoll, for hosts that deny io_uring.
//!
//! ```text
//!   turn:        epoll_wait ──▶ events          completion:   queue ▸ fresh ▸ events ──▶ recv · accept
//!   operation:   send at once ──▶ queue                        what was done before comes first
//! ```
//!
//! Events are level-triggered and taken lazily: each [`Ring::completion`] does one recv, so that one pooled
//! buffer at a time is hot, and bytes that nobody asked for stay in the kernel. A busy kept connection costs
//! two system calls for each request, recv and send, and a share of one epoll_wait.
//!
//! Interest is registered when it is missed and taken back when it disturbs: an event that serves nobody
//! makes the registration match what is wanted now. So a socket that receives all its life is registered
//! once, one that is served by its first recv never, and one that sends without end keeps its EPOLLOUT
//! between outputs.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use slab::Slab;

use super::buffer::LentBuffer;
use super::socket::close;
use super::{
    Completion, Descriptor, Failure, ListenerId, Operation, Output, Pool, PoolConfig, Ring, Token, Wait,
    Waker,
};

/// Events taken with one epoll_wait.
const EVENTS_MAX: usize = 256;

/// Connections accepted in one turn of one listener.
const ACCEPTS_MAX: u32 = 64;

/// Connections taken from the queue of a listener that is closed; more than a queue can hold.
const QUEUE_MAX: u32 = 1 << 16;

/// No wait has this number.
const NEVER: u64 = u64::MAX - 1;

/// What an event is about: its data is `life << 32 | index`, where index is a socket's unless it is one of
/// these.
const TIMER: u32 = u32::MAX;
const INBOX: u32 = u32::MAX - 1;
const LISTENER: u32 = 1 << 31;

/// The driver.
pub struct Epoll {
    epoll: OwnedFd,
    /// In use from the first alarm on. Never read: its registration is edge-triggered.
    timer: OwnedFd,
    alarm: Option<Instant>,
    /// When the timer fires: not later than `alarm`, perhaps earlier, for an alarm that was since moved.
    armed: Option<Instant>,

    pool: Pool,
    /// A buffer that the last recv did not need. Given back before the ring sleeps.
    spare: Option<LentBuffer>,

    sockets: Slab<Socket>,
    lives: u32,
    listeners: Vec<Option<Listening>>,

    events: Vec<epoll::Event>,
    /// `0 <= next_event <= events.len()`
    next_event: usize,
    /// Completions that are ready: results of sends, accepted sockets, answers to requests.
    queue: VecDeque<Completion>,
    /// Sockets that began to receive and may have bytes already.
    fresh: VecDeque<Key>,
    /// Sockets that had bytes at once; they are registered with the next turn if they still receive then.
    unregistered: Vec<Key>,
    /// Sockets with bytes but without a buffer.
    starved: VecDeque<Key>,

    inbox: Arc<Inbox>,
    notify: bool,
    /// Whether the last turn only gave time for what was ready.
    skipped: bool,
    waits: u64,
    syscalls: u64,
}

/// One life of a socket.
#[derive(Clone, Copy)]
struct Key {
    index: u32,
    life: u32,
}

struct Socket {
    fd: OwnedFd,
    life: u32,
    token: Token,
    /// What is registered with epoll; empty means not at all.
    interest: EventFlags,
    is_receiving: bool,
    /// Waits for a buffer; only while `is_receiving`.
    is_starved: bool,
    /// Its end was read; whether the peer reads on is to be reported.
    is_watched: bool,
    /// The rest of it waits for room. Boxed: it rarely does, and ten thousand idle sockets lie here.
    sending: Option<Box<Output>>,
}

impl Socket {
    fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.is_receiving && !self.is_starved);
        wanted.set(EventFlags::OUT, self.sending.is_some());
        // Just being registered brings EPOLLHUP; edge-triggered, because it does not go away.
        wanted.set(EventFlags::ET, self.is_watched);
        wanted
    }
}

struct Listening {
    socket: OwnedFd,
    is_accepting: bool,
    /// How many connections to take at a time, from 1 to ACCEPTS_MAX: a vain accept4 costs as much as a good
    /// one, so it is tried only where the turn before left connections behind.
    batch: u32,
    /// The wait whose event was answered with a full batch.
    full_at: u64,
}

/// What other threads reach of a ring.
struct Inbox {
    /// Sockets handed over.
    sockets: SegQueue<(ListenerId, OwnedFd)>,
    is_woken: AtomicBool,
    /// Something is in here that the ring has not looked at.
    is_full: AtomicBool,
    /// The ring sleeps, or its host does on the ring's behalf: the event is needed.
    is_asleep: AtomicBool,
    is_closed: AtomicBool,
    /// Never read: its registration is edge-triggered.
    event: OwnedFd,
}

impl Inbox {
    /// Makes the ring look in here; returns the system calls that it took.
    fn signal(&self) -> u64 {
        // Either this sees that the ring is asleep, or the ring, before it sleeps, sees that this is full.
        if self.is_full.swap(true, Ordering::SeqCst) || !self.is_asleep.load(Ordering::SeqCst) {
            return 0;
        }
        // Fails only when the counter is full: then the event has been raised.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        1
    }

    fn wake(&self) {
        self.is_woken.store(true, Ordering::SeqCst);
        self.signal();
    }
}

/// Where other epoll rings hand sockets over to.
#[derive(Clone)]
pub struct EpollAddress(Arc<Inbox>);

impl Epoll {
    /// Opens a ring with its pool.
    pub fn new(pool: &PoolConfig) -> Result<Epoll, Failure> {
        let pool = Pool::new(pool)?;
        Epoll::open(pool).map_err(|errno| failure(Operation::Setup, errno))
    }

    fn open(pool: Pool) -> rustix::io::Result<Epoll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER.into()), edges)?;
        epoll::add(&epoll, &event, EventData::new_u64(INBOX.into()), edges)?;
        let inbox = Inbox {
            sockets: SegQueue::new(),
            is_woken: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            event,
        };
        let inbox = Arc::new(inbox);
        let told = Arc::clone(&inbox);
        pool.set_waker(Waker::new(move || {
            told.signal();
        }));
        Ok(Epoll {
            epoll,
            timer,
            alarm: None,
            armed: None,
            pool,
            spare: None,
            sockets: Slab::new(),
            lives: 0,
            listeners: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            next_event: 0,
            queue: VecDeque::new(),
            fresh: VecDeque::new(),
            unregistered: Vec::new(),
            starved: VecDeque::new(),
            inbox,
            notify: false,
            skipped: false,
            waits: 0,
            syscalls: 5,
        })
    }

    fn insert(&mut self, fd: OwnedFd) -> Descriptor {
        self.lives = self.lives.wrapping_add(1);
        let index = self.sockets.insert(Socket {
            fd,
            life: self.lives,
            token: Token { slot: 0, generation: 0 },
            interest: EventFlags::empty(),
            is_receiving: false,
            is_starved: false,
            is_watched: false,
            sending: None,
        });
        assert!(index < LISTENER as usize, "fewer descriptors than that exist");
        Descriptor(index as u32)
    }

    fn is_alive(&self, key: Key) -> bool {
        self.sockets.get(key.index as usize).is_some_and(|socket| socket.life == key.life)
    }

    /// Makes the registration exactly what is wanted.
    fn register(&mut self, index: u32) -> rustix::io::Result<()> {
        let socket = &mut self.sockets[index as usize];
        let (before, wanted) = (socket.interest, socket.wanted());
        if before == wanted {
            return Ok(());
        }
        socket.interest = wanted;
        self.syscalls += 1;
        let data = EventData::new_u64(u64::from(socket.life) << 32 | u64::from(index));
        let result = match (before.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(&self.epoll, &socket.fd, data, wanted),
            (false, true) => epoll::delete(&self.epoll, &socket.fd),
            (false, false) => epoll::modify(&self.epoll, &socket.fd, data, wanted),
        };
        result.inspect_err(|_| socket.interest = before)
    }

    /// Registers what is wanted and not registered yet; what is registered beyond that may stay.
    fn watch(&mut self, index: u32) {
        let socket = &self.sockets[index as usize];
        if !socket.interest.contains(socket.wanted())
            && let Err(errno) = self.register(index)
        {
            self.fail(index, errno);
        }
    }

    /// epoll cannot watch the socket (ENOMEM, ENOSPC): what waits for it ends.
    fn fail(&mut self, index: u32, errno: Errno) {
        let socket = &mut self.sockets[index as usize];
        let token = socket.token;
        if let Some(output) = socket.sending.take() {
            let result = Err(failure(Operation::Send, errno));
            self.queue.push_back(Completion::Sent { token, output: *output, result });
        }
        if std::mem::take(&mut socket.is_receiving) {
            socket.is_starved = false;
            self.queue.push_back(Completion::RecvFailed { token, failure: failure(Operation::Recv, errno) });
        }
    }

    /// One recv of a socket that may have bytes.
    fn receive(&mut self, index: u32) -> Received {
        let Some(mut buffer) = self.spare.take().or_else(|| self.pool.lend()) else {
            return Received::NoBuffer;
        };
        let socket = &mut self.sockets[index as usize];
        let token = socket.token;
        self.syscalls += 1;
        let ended = match rustix::net::recv(&socket.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => Completion::End { token },
            Ok((count, _)) => {
                return Received::Completion(Completion::Received { token, chunk: buffer.fill(count) });
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                self.spare = Some(buffer);
                return Received::Nothing;
            }
            Err(errno) => Completion::RecvFailed { token, failure: failure(Operation::Recv, errno) },
        };
        self.spare = Some(buffer);
        socket.is_receiving = false;
        Received::Completion(ended)
    }

    /// Lets a socket wait for a buffer, and its bytes for the socket, without events in the meantime.
    fn starve(&mut self, key: Key) {
        self.sockets[key.index as usize].is_starved = true;
        self.starved.push_back(key);
        if let Err(errno) = self.register(key.index) {
            self.fail(key.index, errno);
        }
    }

    /// As many of the waiting sockets as there are buffers try again.
    fn feed_starved(&mut self) {
        let count = self.pool.free().min(self.starved.len());
        for key in self.starved.drain(..count) {
            let socket = self.sockets.get_mut(key.index as usize).filter(|socket| socket.life == key.life);
            // It may have stopped to receive and begun again since; then it is in `fresh` already.
            if let Some(socket) = socket.filter(|socket| socket.is_starved) {
                socket.is_starved = false;
                self.fresh.push_back(key);
            }
        }
    }

    /// A socket that began to receive: bytes that are there already come without a round through epoll.
    fn receive_fresh(&mut self, key: Key) -> Option<Completion> {
        if !self.is_alive(key) || !self.sockets[key.index as usize].is_receiving {
            return None;
        }
        match self.receive(key.index) {
            Received::Completion(completion) => {
                self.unregistered.push(key);
                Some(completion)
            }
            Received::Nothing => {
                self.watch(key.index);
                None
            }
            Received::NoBuffer => {
                self.starve(key);
                None
            }
        }
    }

    fn handle_event(&mut self, event: epoll::Event) -> Option<Completion> {
        let (index, life) = (event.data.u64() as u32, (event.data.u64() >> 32) as u32);
        match index {
            TIMER => self.handle_timer(),
            INBOX => self.empty_inbox(),
            _ if index >= LISTENER => self.accept_batch(ListenerId(index - LISTENER)),
            _ => return self.handle_socket(Key { index, life }, event.flags),
        }
        None
    }

    fn handle_socket(&mut self, key: Key, flags: EventFlags) -> Option<Completion> {
        // Closed since epoll_wait, perhaps replaced by another socket.
        let socket = self.sockets.get_mut(key.index as usize).filter(|socket| socket.life == key.life)?;
        if flags.contains(EventFlags::HUP) && std::mem::take(&mut socket.is_watched) {
            self.queue.push_back(Completion::HungUp { token: socket.token });
        }
        let broken = EventFlags::HUP | EventFlags::ERR; // sends and receives then fail, and say how
        let receives = socket.is_receiving && !socket.is_starved && flags.intersects(EventFlags::IN | broken);
        let sends = socket.sending.take_if(|_| flags.intersects(EventFlags::OUT | broken));
        if !receives && sends.is_none() {
            // Wanted by nobody now. EPOLLHUP and EPOLLERR come unasked; but who wants nothing leaves epoll.
            if let Err(errno) = self.register(key.index) {
                self.fail(key.index, errno);
            }
            return None;
        }
        if let Some(output) = sends {
            self.transmit(key.index, *output);
        }
        if receives {
            match self.receive(key.index) {
                Received::Completion(completion) if self.queue.is_empty() => return Some(completion),
                Received::Completion(completion) => self.queue.push_back(completion),
                Received::Nothing => {}
                Received::NoBuffer => self.starve(key),
            }
        }
        None
    }

    /// Sends what the socket takes now; the rest waits for EPOLLOUT.
    fn transmit(&mut self, index: u32, mut output: Output) {
        let socket = &mut self.sockets[index as usize];
        let token = socket.token;
        let mut result = Ok(());
        while !output.is_empty() {
            self.syscalls += 1;
            match send_once(socket.fd.as_fd(), &output) {
                Ok((sent, offered)) => {
                    output.advance(sent);
                    if sent == offered {
                        continue;
                    }
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(errno) => {
                    result = Err(failure(Operation::Send, errno));
                    break;
                }
            }
            socket.sending = Some(Box::new(output));
            return self.watch(index);
        }
        self.queue.push_back(Completion::Sent { token, output, result });
    }

    fn listening(&mut self, listener: ListenerId) -> Option<&mut Listening> {
        self.listeners.get_mut(listener.0 as usize)?.as_mut()
    }

    fn accept_batch(&mut self, listener: ListenerId) {
        let wait = self.waits;
        let Some(listening) = self.listening(listener).filter(|listening| listening.is_accepting) else {
            return;
        };
        if listening.full_at + 1 == wait {
            listening.batch = (listening.batch * 2).min(ACCEPTS_MAX);
        }
        listening.full_at = wait;
        for count in 0..listening.batch {
            match self.accept_once(listener) {
                Ok(descriptor) => self.queue.push_back(Completion::Accepted { listener, descriptor }),
                // The next connection may be fine: accept(2).
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    let Some(listening) = self.listening(listener) else { return };
                    return (listening.batch, listening.full_at) = (count.max(1), NEVER);
                }
                Err(errno) => {
                    self.accept_stop(listener);
                    let failure = failure(Operation::Accept, errno);
                    return self.queue.push_back(Completion::AcceptFailed { listener, failure });
                }
            }
        }
    }

    fn accept_once(&mut self, listener: ListenerId) -> rustix::io::Result<Descriptor> {
        self.syscalls += 1;
        let listening = self.listening(listener).ok_or(Errno::AGAIN)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        rustix::net::accept_with(&listening.socket, flags).map(|fd| self.insert(fd))
    }

    fn empty_inbox(&mut self) {
        if !self.inbox.is_full.swap(false, Ordering::SeqCst) {
            return; // it was emptied before its event came
        }
        if self.inbox.is_woken.swap(false, Ordering::SeqCst) {
            self.queue.push_back(Completion::Woken);
        }
        while let Some((listener, fd)) = self.inbox.sockets.pop() {
            let descriptor = self.insert(fd);
            self.queue.push_back(Completion::Accepted { listener, descriptor });
        }
    }

    fn handle_timer(&mut self) {
        self.armed = None;
        let Some(at) = self.alarm else { return };
        if at <= Instant::now() {
            self.alarm = None;
            self.queue.push_back(Completion::Alarm);
        } else {
            self.arm(at);
        }
    }

    /// Makes the timer fire at this time or before. Timers that are only moved away are left as they are: a
    /// timeout of its own for each wait was measured to cost 4 µs, far more than firing once in vain.
    fn arm(&mut self, at: Instant) {
        if self.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        // Zero would disarm it.
        let after = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: after.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: after.subsec_nanos().into(),
        };
        self.syscalls += 1;
        rustix::time::timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )
        .expect("a valid time on a timer of our own");
        self.armed = Some(at);
    }

    fn register_unregistered(&mut self) {
        while let Some(key) = self.unregistered.pop() {
            if self.is_alive(key) {
                self.watch(key.index);
            }
        }
    }

    /// The host may sleep now, and no turn of ours comes before that. Whether there is something to do after
    /// all.
    fn prepare_host_sleep(&mut self) -> bool {
        self.register_unregistered();
        if !self.starved.is_empty() && !self.pool.await_return() {
            self.feed_starved();
        }
        !self.queue.is_empty() || !self.fresh.is_empty()
    }

    fn ask_kernel(&mut self, wait: Wait) -> Result<(), Failure> {
        if self.next_event < self.events.len() {
            return Ok(());
        }
        let is_ready = !self.queue.is_empty() || !self.fresh.is_empty();
        // What is ready comes first, mostly results of sends; but every second time at least the kernel is
        // asked.
        self.skipped = is_ready && !self.skipped && wait != Wait::No;
        match wait {
            _ if self.skipped => Ok(()),
            _ if is_ready => self.wait(false),
            Wait::No => self.wait(false),
            Wait::UntilCompletion | Wait::UntilArrival => self.sleep(),
            Wait::SpinUntil(at) => self.spin(at),
        }
    }

    /// epoll_wait without sleeping or without end.
    fn wait(&mut self, sleep: bool) -> Result<(), Failure> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        self.next_event = 0;
        self.waits += 1;
        self.syscalls += 1;
        let timeout = if sleep { None } else { Some(&zero) };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(failure(Operation::Wait, errno)),
        }
    }

    fn sleep(&mut self) -> Result<(), Failure> {
        self.inbox.is_asleep.store(true, Ordering::SeqCst);
        let result = self.wait(!self.inbox.is_full.load(Ordering::SeqCst));
        self.inbox.is_asleep.store(self.notify, Ordering::SeqCst);
        result
    }

    fn spin(&mut self, until: Instant) -> Result<(), Failure> {
        loop {
            self.wait(false)?;
            let found = !self.events.is_empty() || self.inbox.is_full.load(Ordering::SeqCst);
            if found || Instant::now() >= until {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
}

/// What one recv gave.
enum Received {
    Completion(Completion),
    Nothing,
    NoBuffer,
}

/// One system call: how many bytes were taken, of how many that were offered.
fn send_once(fd: BorrowedFd<'_>, output: &Output) -> rustix::io::Result<(usize, usize)> {
    if let Some(bytes) = output.as_single() {
        return Ok((rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)?, bytes.len()));
    }
    let mut slices = [IoSlice::new(&[]); Output::SLICES_MAX];
    let count = output.fill(&mut slices);
    let offered = slices[..count].iter().map(|slice| slice.len()).sum();
    let mut nothing = SendAncillaryBuffer::default();
    Ok((rustix::net::sendmsg(fd, &slices[..count], &mut nothing, SendFlags::NOSIGNAL)?, offered))
}

fn failure(operation: Operation, errno: Errno) -> Failure {
    Failure::new(operation, errno.raw_os_error())
}

impl Ring for Epoll {
    type Address = EpollAddress;

    fn driver(&self) -> &'static str {
        "epoll"
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn address(&self) -> EpollAddress {
        EpollAddress(Arc::clone(&self.inbox))
    }

    fn waker(&self) -> Waker {
        let inbox = Arc::clone(&self.inbox);
        Waker::new(move || inbox.wake())
    }

    fn listen(
        &mut self,
        listener: ListenerId,
        socket: OwnedFd,
        _identify: bool,
        _in_turns: bool,
    ) -> Result<(), Failure> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| failure(Operation::Listen, errno))?;
        self.syscalls += 1;
        let index = listener.0 as usize;
        assert!(listener.0 < INBOX - LISTENER, "a listener's index is small");
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        debug_assert!(self.listeners[index].is_none(), "one socket for each listener");
        self.listeners[index] = Some(Listening { socket, is_accepting: false, batch: 1, full_at: NEVER });
        self.accept(listener);
        Ok(())
    }

    fn adopt(&mut self, _listener: ListenerId, socket: OwnedFd) -> Result<Descriptor, Failure> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| failure(Operation::Accept, errno))?;
        self.syscalls += 1;
        Ok(self.insert(socket))
    }

    fn accept(&mut self, listener: ListenerId) {
        let Some(Some(listening)) = self.listeners.get_mut(listener.0 as usize) else { return };
        if listening.is_accepting {
            return;
        }
        self.syscalls += 1;
        let data = EventData::new_u64((LISTENER | listener.0).into());
        match epoll::add(&self.epoll, &listening.socket, data, EventFlags::IN) {
            Ok(()) => listening.is_accepting = true,
            Err(errno) => {
                let failure = failure(Operation::Accept, errno);
                self.queue.push_back(Completion::AcceptFailed { listener, failure });
            }
        }
    }

    fn accept_stop(&mut self, listener: ListenerId) {
        let Some(Some(listening)) = self.listeners.get_mut(listener.0 as usize) else { return };
        if std::mem::take(&mut listening.is_accepting) {
            self.syscalls += 1;
            let result = epoll::delete(&self.epoll, &listening.socket);
            debug_assert!(result.is_ok(), "it was registered");
        }
    }

    fn unlisten(&mut self, listener: ListenerId) {
        // Closing alone would leave a socket registered whose duplicates are open elsewhere.
        self.accept_stop(listener);
        for _ in 0..QUEUE_MAX {
            match self.accept_once(listener) {
                Ok(descriptor) => self.queue.push_back(Completion::Accepted { listener, descriptor }),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => break,
            }
        }
        if let Some(place) = self.listeners.get_mut(listener.0 as usize) {
            self.syscalls += u64::from(place.take().is_some());
        }
    }

    fn recv(&mut self, descriptor: Descriptor, token: Token) {
        let socket = &mut self.sockets[descriptor.0 as usize];
        debug_assert!(!socket.is_receiving, "one recv at a time");
        socket.token = token;
        socket.is_receiving = true;
        if !socket.interest.contains(EventFlags::IN) {
            self.fresh.push_back(Key { index: descriptor.0, life: socket.life });
        }
    }

    fn recv_stop(&mut self, descriptor: Descriptor) {
        let socket = &mut self.sockets[descriptor.0 as usize];
        if std::mem::take(&mut socket.is_receiving) {
            socket.is_starved = false;
            self.queue.push_back(Completion::RecvStopped { token: socket.token });
        }
    }

    fn watch_hang_up(&mut self, descriptor: Descriptor, token: Token) {
        let socket = &mut self.sockets[descriptor.0 as usize];
        (socket.token, socket.is_watched) = (token, true);
        self.watch(descriptor.0);
    }

    fn send(&mut self, descriptor: Descriptor, token: Token, output: Output) {
        let socket = &mut self.sockets[descriptor.0 as usize];
        debug_assert!(socket.sending.is_none(), "one send at a time");
        socket.token = token;
        self.transmit(descriptor.0, output);
    }

    fn send_at_once(&mut self, descriptor: Descriptor, output: &mut Output) {
        let socket = &self.sockets[descriptor.0 as usize];
        debug_assert!(socket.sending.is_none(), "one send at a time");
        self.syscalls += 1;
        // What fails here fails again as a send, which reports it.
        if let Ok((sent, _)) = send_once(socket.fd.as_fd(), output) {
            output.advance(sent);
        }
    }

    fn send_last(&mut self, descriptor: Descriptor, output: &mut Output) -> bool {
        self.send_at_once(descriptor, output);
        if !output.is_empty() {
            return false;
        }
        self.syscalls += 1;
        close(self.sockets.remove(descriptor.0 as usize).fd);
        true
    }

    fn shutdown(&mut self, descriptor: Descriptor) {
        self.syscalls += 1;
        // ENOTCONN: the peer was faster.
        let _ = rustix::net::shutdown(&self.sockets[descriptor.0 as usize].fd, Shutdown::Write);
    }

    fn close(&mut self, descriptor: Descriptor, token: Token) {
        // Nothing is ever in flight here, so the three steps are one: close(2) shuts down and leaves epoll.
        let socket = self.sockets.remove(descriptor.0 as usize);
        self.syscalls += 1;
        close(socket.fd);
        if let Some(output) = socket.sending {
            let result = Err(failure(Operation::Send, Errno::CANCELED));
            self.queue.push_back(Completion::Sent { token: socket.token, output: *output, result });
        }
        self.queue.push_back(Completion::Closed { token });
    }

    fn let_go(&mut self, descriptor: Descriptor, token: Token) {
        let socket = &self.sockets[descriptor.0 as usize];
        debug_assert!(!socket.is_receiving && socket.sending.is_none(), "nothing is in progress");
        if !socket.interest.is_empty() {
            // Closing alone would leave a socket registered whose duplicates are open elsewhere.
            self.syscalls += 1;
            let result = epoll::delete(&self.epoll, &socket.fd);
            debug_assert!(result.is_ok(), "it was registered");
        }
        self.close(descriptor, token);
    }

    fn hand_over(&mut self, descriptor: Descriptor, listener: ListenerId, to: &EpollAddress) {
        let socket = self.sockets.remove(descriptor.0 as usize);
        debug_assert!(socket.interest.is_empty() && !socket.is_receiving, "no operation was started");
        to.0.sockets.push((listener, socket.fd));
        // A ring that closes says so first and empties its inbox then: one of the two of us finds the socket.
        if to.0.is_closed.load(Ordering::SeqCst)
            && let Some((listener, fd)) = to.0.sockets.pop()
        {
            let descriptor = self.insert(fd);
            return self.queue.push_back(Completion::Accepted { listener, descriptor });
        }
        self.syscalls += to.0.signal();
    }

    fn descriptor_fd(&self, descriptor: Descriptor) -> Option<BorrowedFd<'_>> {
        self.sockets.get(descriptor.0 as usize).map(|socket| socket.fd.as_fd())
    }

    fn alarm(&mut self, at: Option<Instant>) {
        self.alarm = at;
        if let Some(at) = at {
            self.arm(at);
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), Failure> {
        self.register_unregistered();
        if !self.starved.is_empty() {
            self.feed_starved();
        }
        // A buffer that another thread gives back ends the sleep.
        let is_starved = !self.starved.is_empty() && wait != Wait::No;
        if is_starved && !self.pool.await_return() {
            self.feed_starved();
        }
        self.ask_kernel(wait)?;
        if is_starved {
            self.pool.stop_awaiting();
            self.feed_starved();
        }
        // Here rather than in `completion`, so that a waker used by its own thread waits for the next turn.
        if self.inbox.is_full.load(Ordering::SeqCst) {
            self.empty_inbox();
        }
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.queue.pop_front() {
                return Some(completion);
            }
            if let Some(key) = self.fresh.pop_front() {
                if let Some(completion) = self.receive_fresh(key) {
                    return Some(completion);
                }
                continue;
            }
            if let Some(event) = self.events.get(self.next_event).copied() {
                self.next_event += 1;
                if let Some(completion) = self.handle_event(event) {
                    return Some(completion);
                }
                continue;
            }
            self.spare = None;
            if !self.notify || !self.prepare_host_sleep() {
                return None;
            }
        }
    }

    fn notify_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn notify(&mut self, on: bool) {
        self.notify = on;
        self.inbox.is_asleep.store(on, Ordering::SeqCst);
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        self.inbox.is_closed.store(true, Ordering::SeqCst);
        while self.inbox.sockets.pop().is_some() {}
    }
}
