//! The driver on io_uring, Linux 6.1 or later.
//!
//! ```text
//!              queue: SQEs ────────────── one enter per turn ──────────────▶ kernel
//!   engine ──▶ sends · listening · sockets                                     │
//!          ◀── ready ◀── handle ◀── queue: CQEs ◀──────────────────────────────┘
//!                          └── provided: buffers that the kernel fills, lent by the pool
//! ```
//!
//! Accept and recv are multishot: asked for once, they complete until they end. What costs less as a plain call is
//! one: accept of Unix sockets, and all that a connection of a single request needs. Every operation carries a
//! [`Tag`] whose generation tells it from operations of an earlier life. The kernel works for this ring only
//! while the worker is in an enter (deferred task work), so completions come in batches and never interrupt a
//! handler.
//!
//! [`Tag`]: socket::Tag

#![expect(unsafe_code, reason = "operations point to memory, and the queues are shared with the kernel")]

mod accept;
mod install;
mod provided;
mod queue;
mod recv;
mod send;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::SendFlags;

use self::accept::Listening;
pub use self::accept::UringAddress;
use self::provided::Provided;
use self::queue::Queue;
use self::send::{Progress, SEND_NOW, SEND_NOW_BYTES_MAX, Sends};
use self::socket::{Installed, Kind, Receiving, Sockets, Tag};
use super::socket::close;
use super::{
    Completion, Descriptor, Failure, ListenerId, Operation, Output, Pool, PoolConfig, Ring, Token, Wait,
    Waker,
};

/// How long `Drop` waits for the kernel to let go of memory before it leaves that memory to it.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// A ring of the thread that made it: it can neither be sent nor shared.
pub struct Uring {
    queue: Queue,
    provided: Provided,
    pool: Pool,
    sockets: Sockets,
    sends: Sends,
    listening: Listening,
    /// Sockets that have something to receive and no buffer to receive it into, with their generation.
    starved: VecDeque<(Descriptor, u32)>,
    /// Sockets whose recv is due, likewise.
    due: Vec<(Descriptor, u32)>,
    /// Completions that are not the kernel's own; reported first.
    ready: VecDeque<Completion>,
    /// What is true once the operations queued for it were submitted and no failure of theirs has come.
    inferred: VecDeque<Inferred>,
    /// How many of `inferred`, from the front, were submitted by the last turn or earlier.
    inferred_submitted: usize,
    /// How many of those are known to be true.
    inferred_true: usize,
    /// Completions that the last turn brought.
    taken: VecDeque<cqueue::Entry>,
    alarm: Alarm,
    waking: Arc<Waking>,
    is_wake_armed: bool,
    is_notifying: bool,
    /// Whether the notify descriptor may be readable for something that was seen since.
    is_notify_stale: bool,
    address: UringAddress,
    /// Rings that sockets were handed to.
    siblings: Vec<UringAddress>,
    /// How many direct descriptors there may be.
    direct_descriptors: u32,
    /// Ordinary descriptors below this may be installed.
    installable: u32,
    /// System calls that are not enters.
    syscalls_outside: u64,
    /// Operations that will complete for a last time: accepts, recvs, sends that wait, timeout, poll.
    in_flight: usize,
    /// The kernel takes operations from the thread that set the ring up, and no other.
    of_this_thread: PhantomData<*const ()>,
}

enum Inferred {
    /// A `SendNow` took all its bytes.
    Sent(Tag),
    /// The socket is closed.
    Closed(Token),
}

#[derive(Default)]
struct Alarm {
    wanted: Option<Instant>,
    /// When the timeout in flight fires.
    armed: Option<Instant>,
    /// What the kernel reads the time from when the timeout is submitted.
    timespec: Box<types::Timespec>,
}

/// What wakers and other rings share with the ring.
struct Waking {
    eventfd: OwnedFd,
    /// Registered with the ring: each completion, or work due, makes it readable while notifying is on.
    notify: OwnedFd,
    is_notifying: AtomicBool,
    /// Set by a waker, cleared when `Woken` is reported; only the first of several wakers writes.
    is_woken: AtomicBool,
    /// Sockets from other rings; `None` when the ring is gone.
    inbox: Mutex<Option<Vec<(ListenerId, OwnedFd)>>>,
}

impl Waking {
    /// Leaves a socket to the ring, or gives it back when there is no ring any more.
    fn deliver(&self, listener: ListenerId, socket: OwnedFd) -> Result<(), OwnedFd> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sockets) = inbox.as_mut() else { return Err(socket) };
        sockets.push((listener, socket));
        let is_first = sockets.len() == 1;
        drop(inbox);
        if is_first {
            self.signal();
        }
        Ok(())
    }

    fn take_sockets(&self) -> Vec<(ListenerId, OwnedFd)> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn close_inbox(&self) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn signal(&self) {
        // Fails only when the counter is full, and then the ring is being woken already.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        // From within the write to one eventfd the kernel does not signal another (seen: late or never, Linux
        // 6.18).
        if self.is_notifying.load(Ordering::SeqCst) {
            let _ = rustix::io::write(&self.notify, &1u64.to_ne_bytes());
        }
    }
}

impl Uring {
    /// How many direct descriptors a ring has room for unless told otherwise.
    pub const DIRECT_DESCRIPTORS: u32 = 16_384;

    /// A ring for this thread, with a table of at most `direct_descriptors` (as many as RLIMIT_NOFILE
    /// allows). With 0 all its sockets are ordinary descriptors, and those of kept connections lie in the table beside.
    pub fn new(config: &PoolConfig, direct_descriptors: u32) -> Result<Uring, Failure> {
        Uring::with_send_now(config, direct_descriptors, SEND_NOW)
    }

    fn with_send_now(config: &PoolConfig, direct: u32, send_now: bool) -> Result<Uring, Failure> {
        let pool = Pool::new(config)?;
        Uring::set_up(pool, config.ring_buffers, direct, send_now)
            .map_err(|error| Failure::new(Operation::Setup, error.raw_os_error().unwrap_or(libc::EINVAL)))
    }

    fn set_up(pool: Pool, ring_buffers: u16, direct: u32, send_now: bool) -> io::Result<Uring> {
        let mut queue = Queue::new()?;
        let (direct_descriptors, installable) = match (allowed(direct), queue.closes_slots_at_once()) {
            (0, true) => (0, allowed(install::INSTALLED_MAX)),
            (direct, _) => (direct, 0),
        };
        if direct_descriptors + installable > 0 {
            queue.submitter().register_files_sparse(direct_descriptors + installable)?;
        }
        let notify = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        queue.submitter().register_eventfd(notify.as_raw_fd())?;
        queue.notify(false);
        let provided = Provided::register(&queue.submitter(), pool.clone(), ring_buffers)?;
        let waking = Arc::new(Waking {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC)?,
            notify,
            is_notifying: AtomicBool::new(false),
            is_woken: AtomicBool::new(false),
            inbox: Mutex::new(Some(Vec::new())),
        });
        pool.set_waker(Waker::new({
            let waking = Arc::clone(&waking);
            move || waking.signal()
        }));
        let address = UringAddress::new(queue.duplicate()?, Arc::clone(&waking));
        Ok(Uring {
            queue,
            provided,
            pool,
            sockets: Sockets::default(),
            sends: Sends::new(send_now),
            listening: Listening::default(),
            starved: VecDeque::new(),
            due: Vec::new(),
            ready: VecDeque::new(),
            inferred: VecDeque::new(),
            inferred_submitted: 0,
            inferred_true: 0,
            taken: VecDeque::new(),
            alarm: Alarm::default(),
            waking,
            is_wake_armed: false,
            is_notifying: false,
            is_notify_stale: false,
            address,
            siblings: Vec::new(),
            direct_descriptors,
            installable,
            syscalls_outside: 0,
            in_flight: 0,
            of_this_thread: PhantomData,
        })
    }

    /// Queues what this turn owes to the kernel besides what was asked for.
    fn prepare_turn(&mut self) {
        self.allow_plain_accepts();
        self.provided.fill_up();
        while let Some((descriptor, generation)) = self.due.pop() {
            let socket = self.sockets.get(descriptor);
            if socket.is_some_and(|it| it.generation == generation && it.receiving == Receiving::Due) {
                self.arm_recv(descriptor);
            }
        }
        for _ in 0..self.starved.len().min(self.provided.len()) {
            let (descriptor, generation) = self.starved.pop_front().expect("counted");
            let socket = self.sockets.get(descriptor);
            let is_starved = |socket: &&socket::Socket| {
                socket.generation == generation && socket.receiving == Receiving::Starved
            };
            if socket.filter(is_starved).is_some() {
                self.arm_recv(descriptor);
            }
        }
        if !self.is_wake_armed {
            self.is_wake_armed = true;
            self.in_flight += 1;
            let target = types::Fd(self.waking.eventfd.as_raw_fd());
            let poll = opcode::PollAdd::new(target, libc::POLLIN as u32).multi(true).build();
            self.queue.push(poll.user_data(Tag { kind: Kind::Wake, generation: 0, index: 0 }.to_u64()));
        }
        self.arm_alarm();
    }

    /// Makes sure that the one timeout in flight fires no later than the alarm.
    fn arm_alarm(&mut self) {
        let Alarm { wanted, armed, timespec } = &mut self.alarm;
        let Some(at) = *wanted else { return };
        if armed.is_some_and(|armed| armed <= at) {
            return;
        }
        **timespec = at.saturating_duration_since(Instant::now()).into();
        let timespec: *const types::Timespec = &raw const **timespec;
        let tag = Tag { kind: Kind::Alarm, generation: 0, index: 0 }.to_u64();
        let entry = match armed.replace(at) {
            None => {
                self.in_flight += 1;
                opcode::Timeout::new(timespec).build().user_data(tag)
            }
            // If it fires before, it is armed anew with the turn after that.
            Some(_) => quiet(opcode::TimeoutUpdate::new(tag, timespec).build()),
        };
        // SAFETY: the kernel reads the time when it takes the entry, in the enter that follows; the box lives
        // as long as the ring and is written here alone, where nothing that points to it is queued: an entry
        // left over by an enter that took none is as good with the newer, earlier time.
        unsafe { self.queue.push_pointing(entry) };
    }

    /// Whether there is something to report that a sleep would delay and may not.
    fn has_news(&mut self, wait: Wait) -> bool {
        !self.ready.is_empty()
            || (!self.inferred.is_empty() && wait != Wait::UntilArrival)
            || !self.taken.is_empty()
            || self.queue.has_completions()
            || self.has_waiting()
            || (!self.starved.is_empty() && self.provided.len() > 0)
    }

    /// Whether the kernel has something for us that it would have signalled.
    fn is_due(&mut self) -> bool {
        self.queue.has_completions() || self.queue.has_work_due()
    }

    /// What was inferred from this turn's submission is true if no send is among what it brought: then it is reported
    /// before that, so that a peer's answer is known to be sent when its next request comes.
    fn judge_inferred(&mut self) {
        if !self.queue.is_submitted() {
            return;
        }
        self.inferred_submitted = self.inferred.len();
        if self.inferred_submitted == 0 || self.queue.is_overflowed() {
            return;
        }
        let mut has_failure = self.taken.iter().any(is_of_send_now);
        while let Some(entry) = self.queue.completion() {
            has_failure |= is_of_send_now(&entry);
            self.taken.push_back(entry);
        }
        if !has_failure {
            self.inferred_true = self.inferred_submitted;
        }
    }

    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        self.taken.pop_front().or_else(|| self.queue.completion())
    }

    /// Makes the notify descriptor unreadable before the turn that sees what it told of. Whatever happens
    /// from here on makes it readable again.
    fn calm_notify(&mut self) {
        if self.is_notify_stale || self.is_due() {
            self.is_notify_stale = false;
            self.syscalls_outside += 1;
            // Nothing to read is as good.
            let _ = rustix::io::read(&self.waking.notify, &mut [0; 8]);
        }
    }

    /// Polls without a system call until something is due or the time has come.
    fn spin(&mut self, until: Instant) -> Result<(), Failure> {
        if self.queue.needs_turn() {
            self.queue.turn(0)?;
        }
        while !self.queue.has_completions() && Instant::now() < until {
            for _ in 0..64 {
                if self.queue.has_work_due() {
                    return self.queue.turn(0);
                }
                spin_loop();
            }
        }
        Ok(())
    }

    fn handle(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let tag = Tag::from_u64(entry.user_data());
        let (result, flags) = (entry.result(), entry.flags());
        match tag.kind {
            Kind::Recv => self.received(tag, result, flags),
            Kind::SendNow | Kind::Send => {
                let progress = self.sends.completed(&mut self.queue, tag, result);
                self.in_flight -= usize::from(tag.kind == Kind::Send);
                self.sent(progress)
            }
            Kind::Accept => self.accepted(tag, result, flags),
            Kind::HandOver => self.socket_sent(tag, result),
            Kind::TakeOver => self.socket_came(tag, result),
            Kind::Alarm => self.alarm_fired(),
            Kind::HangUp => self.hung_up(tag, result, flags),
            Kind::Shutdown => {
                self.in_flight -= 1;
                let socket = self.sockets.of_tag(tag)?;
                socket.is_shutting_down = false;
                if socket.is_closing {
                    self.finish_close(Descriptor(tag.index));
                }
                None
            }
            Kind::Wake => self.woken(flags),
            Kind::Install => self.installed(tag, result),
            Kind::Quiet => None,
        }
    }

    fn woken(&mut self, flags: u32) -> Option<Completion> {
        if !cqueue::more(flags) {
            self.in_flight -= 1;
            self.is_wake_armed = false;
        }
        self.sockets_came();
        self.waking.is_woken.swap(false, Ordering::AcqRel).then_some(Completion::Woken)
    }

    fn sent(&mut self, progress: Progress) -> Option<Completion> {
        match progress {
            Progress::None => None,
            Progress::Continued => {
                self.in_flight += 1;
                None
            }
            Progress::Done { descriptor, completion } => {
                self.send_ended(descriptor);
                Some(completion)
            }
        }
    }

    /// Takes the front of `inferred` if it says that an output was sent with one operation.
    #[inline(always)]
    fn next_is_sent(&mut self) -> Option<(Token, Output)> {
        let Some(&Inferred::Sent(tag)) = self.inferred.front() else { return None };
        let (descriptor, token, output) = self.sends.inferred_whole(tag)?;
        self.inferred.pop_front();
        self.inferred_submitted -= 1;
        self.send_ended(descriptor);
        Some((token, output))
    }

    fn send_ended(&mut self, descriptor: Descriptor) {
        if let Some(socket) = self.sockets.get_mut(descriptor) {
            socket.sending = None;
            if socket.is_closing {
                self.finish_close(descriptor);
            }
        }
    }

    /// What the front of `inferred` says, now that it is true.
    fn infer_next(&mut self) -> Option<Completion> {
        self.inferred_submitted -= 1;
        match self.inferred.pop_front().expect("counted") {
            Inferred::Closed(token) => Some(Completion::Closed { token }),
            Inferred::Sent(tag) => {
                let (progress, again) = self.sends.inferred(&mut self.queue, tag);
                self.inferred.extend(again.map(Inferred::Sent));
                self.sent(progress)
            }
        }
    }

    fn alarm_fired(&mut self) -> Option<Completion> {
        self.in_flight -= 1;
        self.alarm.armed = None;
        let is_due = self.alarm.wanted.is_some_and(|at| at <= Instant::now());
        if is_due {
            self.alarm.wanted = None;
        }
        is_due.then_some(Completion::Alarm)
    }

    fn cancel(&mut self, tag: Tag) {
        let operation = types::CancelBuilder::user_data(tag.to_u64());
        self.queue.push(quiet(opcode::AsyncCancel2::new(operation).build()));
    }

    /// The last steps of closing a socket, once no send and no shutdown is in progress. A recv in flight is
    /// cancelled in the same enter, before the close; its last completion is of an earlier life and only
    /// gives its buffer back.
    fn finish_close(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get(descriptor) else { return };
        if socket.sending.is_some() || socket.is_shutting_down {
            return;
        }
        let (token, receiving, generation) = (socket.token, socket.receiving, socket.generation);
        let (is_watched, installed) = (socket.is_watched, socket.installed);
        if receiving == Receiving::On {
            self.cancel(Tag { kind: Kind::Recv, generation, index: descriptor.0 });
        }
        if is_watched {
            self.cancel(Tag { kind: Kind::HangUp, generation, index: descriptor.0 });
        }
        if installed != Installed::No {
            // First, so that the slot is free for who has this descriptor next.
            self.uninstall(descriptor);
        }
        // The kernel closes an ordinary descriptor as well; nobody else does from here on.
        self.sockets.end(descriptor).map(IntoRawFd::into_raw_fd);
        self.push_close(descriptor);
        self.inferred.push_back(Inferred::Closed(token));
    }

    fn push_close(&mut self, descriptor: Descriptor) {
        let close = match descriptor.is_direct() {
            true => opcode::Close::new(types::Fixed(descriptor.number())),
            false => opcode::Close::new(descriptor.target()),
        };
        self.queue.push(quiet(close.build()));
    }

    /// Waits until the kernel uses no memory of this ring any more. Whether it does not.
    fn settle(&mut self) -> bool {
        self.queue.push(quiet(opcode::AsyncCancel2::new(types::CancelBuilder::any()).build()));
        self.listening.want_none();
        let started = Instant::now();
        while self.in_flight > 0 || !self.queue.is_submitted() {
            // What is cancelled completes in the same enter or soon after; a sleep in the kernel could be for
            // ever.
            if self.queue.turn(0).is_err() || started.elapsed() > DROP_WAIT {
                return false;
            }
            if self.taken.is_empty() && !self.queue.has_completions() {
                std::thread::sleep(Duration::from_millis(1));
            }
            while let Some(entry) = self.next_entry() {
                let tag = Tag::from_u64(entry.user_data());
                if let Some(id) = cqueue::buffer_select(entry.flags()) {
                    drop(self.provided.take(id));
                }
                if tag.kind == Kind::Accept {
                    // It may have opened a socket, which is closed with the others.
                    drop(self.handle(&entry));
                    continue;
                }
                let ends = match tag.kind {
                    Kind::Recv | Kind::Send | Kind::Alarm | Kind::Wake | Kind::HangUp => true,
                    Kind::Shutdown | Kind::Install => true,
                    Kind::Accept | Kind::SendNow | Kind::Quiet | Kind::HandOver | Kind::TakeOver => false,
                };
                self.in_flight -= usize::from(ends && !cqueue::more(entry.flags()));
            }
        }
        true
    }
}

/// The kernel refuses a table of more than the process may have files.
fn allowed(slots: u32) -> u32 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    files.map_or(slots, |files| u64::from(slots).min(files) as u32)
}

fn is_of_send_now(entry: &cqueue::Entry) -> bool {
    Tag::from_u64(entry.user_data()).kind == Kind::SendNow
}

/// Completes only when it fails, and then nothing follows from it.
fn quiet(entry: squeue::Entry) -> squeue::Entry {
    entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::QUIET.to_u64())
}

impl Ring for Uring {
    type Address = UringAddress;

    fn driver(&self) -> &'static str {
        "uring"
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn address(&self) -> UringAddress {
        self.address.clone()
    }

    fn waker(&self) -> Waker {
        let waking = Arc::clone(&self.waking);
        Waker::new(move || {
            if !waking.is_woken.swap(true, Ordering::AcqRel) {
                waking.signal();
            }
        })
    }

    fn listen(
        &mut self,
        listener: ListenerId,
        socket: OwnedFd,
        identify: bool,
        in_turns: bool,
    ) -> Result<(), Failure> {
        self.add_listener(listener, socket, identify, in_turns)
    }

    fn adopt(&mut self, listener: ListenerId, socket: OwnedFd) -> Result<Descriptor, Failure> {
        self.add_connection(listener, socket)
    }

    fn accept(&mut self, listener: ListenerId) {
        self.accept_again(listener);
    }

    fn accept_stop(&mut self, listener: ListenerId) {
        self.stop_accepting(listener);
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.remove_listener(listener);
    }

    fn recv(&mut self, descriptor: Descriptor, token: Token) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        debug_assert_eq!(socket.receiving, Receiving::Off, "one recv at a time");
        socket.token = token;
        if !self.recv_at_once(descriptor) {
            self.arm_first_recv(descriptor);
        }
    }

    fn recv_stop(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        match socket.receiving {
            Receiving::Off | Receiving::Stopping => {}
            Receiving::Starved | Receiving::Due => {
                socket.receiving = Receiving::Off;
                self.ready.push_back(Completion::RecvStopped { token: socket.token });
            }
            Receiving::On => {
                socket.receiving = Receiving::Stopping;
                let generation = socket.generation;
                self.cancel(Tag { kind: Kind::Recv, generation, index: descriptor.0 });
            }
        }
    }

    fn watch_hang_up(&mut self, descriptor: Descriptor, token: Token) {
        let Some(socket) = self.sockets.get_mut(descriptor).filter(|socket| !socket.is_closing) else {
            return;
        };
        socket.token = token;
        if !socket.is_watched {
            self.arm_watch(descriptor);
        }
    }

    fn send(&mut self, descriptor: Descriptor, token: Token, output: Output) {
        let socket = self.sockets.get_mut(descriptor).filter(|socket| !socket.is_closing);
        let Some(socket) = socket.filter(|_| !output.is_empty()) else {
            return self.ready.push_back(Completion::Sent { token, output, result: Ok(()) });
        };
        debug_assert!(socket.sending.is_none(), "one send at a time");
        socket.token = token;
        let has_slot = descriptor.is_direct() || socket.installed == Installed::Yes;
        let (key, now) = self.sends.start(&mut self.queue, (descriptor, has_slot), token, output);
        socket.sending = Some(key);
        match now {
            Some(tag) => self.inferred.push_back(Inferred::Sent(tag)),
            None => self.in_flight += 1,
        }
    }

    fn send_at_once(&mut self, descriptor: Descriptor, output: &mut Output) {
        let Some(socket) = self.sockets.get(descriptor) else { return };
        debug_assert!(socket.sending.is_none(), "one send at a time");
        let (Some(fd), Some(bytes)) = (&socket.fd, output.as_single()) else { return };
        if socket.is_closing || bytes.is_empty() || bytes.len() > SEND_NOW_BYTES_MAX {
            return;
        }
        self.syscalls_outside += 1;
        // What fails here fails again as an operation, which reports it.
        if let Ok(sent) = rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            output.advance(sent);
        }
    }

    /// Two plain calls cost less than two operations: the socket is in the cache, and its peer is woken once (a
    /// connection per request: a tenth of all CPU time). Of a slot of the ring's table there are none.
    fn send_last(&mut self, descriptor: Descriptor, output: &mut Output) -> bool {
        let Some(socket) = self.sockets.get(descriptor) else { return false };
        let is_free = !socket.is_closing && !socket.is_watched && socket.sending.is_none();
        let is_receiving = matches!(socket.receiving, Receiving::On | Receiving::Stopping);
        if socket.fd.is_none() || !is_free || is_receiving || socket.installed != Installed::No {
            return false;
        }
        self.send_at_once(descriptor, output);
        if !output.is_empty() {
            return false;
        }
        self.syscalls_outside += 1;
        if let Some(fd) = self.sockets.end(descriptor) {
            close(fd);
        }
        true
    }

    fn shutdown(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        match &socket.fd {
            Some(fd) => {
                // Done at once: as an operation it takes a thread of the kernel's pool (Linux 6.18).
                self.syscalls_outside += 1;
                let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
            }
            None => {
                // The kernel's thread pool does it, and looks the slot up only then: until it has completed, the slot
                // must not be closed, or it would shut down the socket that comes there next.
                let tag = Tag { kind: Kind::Shutdown, generation: socket.generation, index: descriptor.0 };
                let entry = opcode::Shutdown::new(descriptor.target(), libc::SHUT_WR).build();
                self.queue.push(descriptor.marked(entry).user_data(tag.to_u64()));
                socket.is_shutting_down = true;
                self.in_flight += 1;
            }
        }
    }

    fn close(&mut self, descriptor: Descriptor, token: Token) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        socket.token = token;
        if std::mem::replace(&mut socket.is_closing, true) {
            return;
        }
        let Some(send) = socket.sending else { return self.finish_close(descriptor) };
        self.sends.abandon(send);
        let everything = match descriptor.is_direct() {
            true => types::CancelBuilder::fd(types::Fixed(descriptor.number())),
            false => types::CancelBuilder::fd(descriptor.target()),
        };
        self.queue.push(quiet(opcode::AsyncCancel2::new(everything.all()).build()));
    }

    fn let_go(&mut self, descriptor: Descriptor, token: Token) {
        let is_at_rest = |socket: &socket::Socket| {
            socket.receiving == Receiving::Off && socket.sending.is_none() && !socket.is_shutting_down
        };
        debug_assert!(self.sockets.get(descriptor).is_none_or(is_at_rest), "nothing is in progress");
        // With nothing in progress that only gives the descriptor back.
        self.close(descriptor, token);
    }

    fn hand_over(&mut self, descriptor: Descriptor, listener: ListenerId, to: &UringAddress) {
        self.send_socket(descriptor, listener, to);
    }

    fn descriptor_fd(&self, descriptor: Descriptor) -> Option<BorrowedFd<'_>> {
        self.sockets.get(descriptor)?.fd.as_ref().map(AsFd::as_fd)
    }

    fn alarm(&mut self, at: Option<Instant>) {
        self.alarm.wanted = at;
    }

    fn turn(&mut self, wait: Wait) -> Result<(), Failure> {
        self.prepare_turn();
        if self.is_notifying {
            self.calm_notify();
        }
        // A buffer that another thread gives back must end a sleep, also that of the host, but no more than
        // that: what comes back on this thread is found by the next turn anyway.
        let may_sleep = wait != Wait::No || self.is_notifying;
        let is_starved = may_sleep && !self.starved.is_empty();
        let has_news = self.has_news(wait) || (is_starved && !self.pool.await_return());
        match wait {
            Wait::UntilCompletion | Wait::UntilArrival if !has_news => self.queue.turn(1)?,
            Wait::SpinUntil(until) if !has_news => self.spin(until)?,
            _ if self.queue.needs_turn() => self.queue.turn(0)?,
            _ => {}
        }
        if is_starved && !self.is_notifying {
            self.pool.stop_awaiting();
        }
        self.is_notify_stale |= self.is_notifying && self.queue.has_completions();
        self.judge_inferred();
        Ok(())
    }

    fn completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            // What nearly all completions are is put together here, where it is returned: pieces just written
            // elsewhere, and copied as a whole, have the processor wait.
            if self.inferred_true > 0 {
                self.inferred_true -= 1;
                if let Some((token, output)) = self.next_is_sent() {
                    return Some(Completion::Sent { token, output, result: Ok(()) });
                }
                if let Some(completion) = self.infer_next() {
                    return Some(completion);
                }
                continue;
            }
            if let Some(entry) = self.next_entry() {
                if let Some((token, chunk)) = self.received_more(&entry) {
                    return Some(Completion::Received { token, chunk });
                }
                match self.handle(&entry) {
                    None => continue,
                    completion => return completion,
                }
            }
            if self.queue.fetch_overflow() {
                continue;
            }
            // The failure of a send may be among those that the kernel could not deliver.
            if self.inferred_submitted > 0 && !self.queue.is_overflowed() {
                if let Some(completion) = self.infer_next() {
                    return Some(completion);
                }
                continue;
            }
            return self.accept_at_once();
        }
    }

    fn owes_turn(&mut self) -> bool {
        !self.queue.is_submitted()
    }

    fn notify_fd(&self) -> BorrowedFd<'_> {
        self.waking.notify.as_fd()
    }

    fn notify(&mut self, on: bool) {
        self.is_notify_stale |= self.is_notifying && self.is_due();
        self.is_notifying = on;
        self.waking.is_notifying.store(on, Ordering::SeqCst);
        self.queue.notify(on);
    }

    fn syscalls(&self) -> u64 {
        self.queue.syscalls() + self.syscalls_outside
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.waking.close_inbox();
        if !self.settle() {
            // Better lost than written to or read from later: what the kernel may still use is never freed.
            tracing::error!(in_flight = self.in_flight, "the kernel holds on to memory of a dropped ring");
            std::mem::forget(std::mem::replace(&mut self.sends, Sends::new(false)));
            return;
        }
        // Other rings may keep this one's descriptor; its sockets and buffers go now.
        let _ = self.queue.submitter().unregister_files();
        if let Err(error) = self.provided.unregister(&self.queue.submitter()) {
            tracing::error!(%error, "the kernel keeps the receive buffers of a dropped ring");
        }
    }
}
