//! The operating system: every socket, buffer and system call of the server is behind [`Ring`].
//!
//! What this is not: it knows nothing of FastCGI and decides nothing. The engine asks for operations, the
//! ring reports completions. Three drivers have this face: `uring` (io_uring), `epoll` (for hosts that deny
//! io_uring) and `sim` (no kernel at all: seeded, in memory, fails on request).
//!
//! ```text
//!            accept · recv · send · shutdown · close · hand_over · let_go · alarm
//!   engine ──────────────────────────────────────────────────────────────▶ ring ──▶ kernel
//!          ◀──────────────────────────────────────────────────────────────
//!            Accepted · Received · Sent · End · Closed · Alarm · Woken
//! ```
//!
//! One turn of the engine's crank:
//!
//! 1. [`Ring::turn`] submits what was asked for and, when told to wait, sleeps until something completes.
//! 2. [`Ring::completion`] is called until it gives `None`; each completion is handled at once.
//! 3. The engine asks for new operations; they go to the kernel together, with the next turn.
//!
//! Public for the project's own tests and benches; not covered by semantic versioning.

mod buffer;
mod epoll;
mod output;
mod passage;
mod probe;
pub(crate) mod signal;
mod sim;
mod socket;
#[cfg(feature = "cgi")]
pub(crate) mod spawn;
mod standard;
mod uring;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

pub use buffer::{Chunk, Pool, PoolConfig};
pub use epoll::{Epoll, EpollAddress};
pub use output::Output;
pub use passage::Passage;
pub use probe::{Availability, Choice, Driver, Unavailable, availability, choose};
pub use sim::{Sim, SimAddress, SimFaults, SimNetwork, SimPeer, SimStatus};
pub use socket::{Listen, ListenError, ListenFault, ListenOptions, Listener};
#[cfg(feature = "cgi")]
pub(crate) use standard::keep_descriptors;
pub(crate) use standard::open_standard_streams;
pub use uring::{Uring, UringAddress};

/// The ring's name for an open socket: a direct descriptor's slot, a file descriptor or a simulated index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Descriptor(pub(crate) u32);

/// The engine's name for a socket, given with each operation and returned with each completion.
///
/// Numbers, never an address: a completion for an earlier life of a slot is recognised by its generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// Where the engine keeps the peer.
    pub slot: u32,
    /// Which life of that slot is meant.
    pub generation: u32,
}

/// The engine's name for a listening socket: its index in the server's list of listeners.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// Something that happened, in the order in which it happened on each socket.
#[derive(Debug)]
pub enum Completion {
    /// A connection arrived, or another ring handed one over. Accepting goes on.
    Accepted {
        /// The listener that the connection arrived on, also after a hand-over.
        listener: ListenerId,
        /// The new socket, owned by this ring until [`Ring::close`].
        descriptor: Descriptor,
    },
    /// Accepting has stopped; [`Ring::accept`] starts it again.
    AcceptFailed {
        /// The listener that no longer accepts.
        listener: ListenerId,
        /// EMFILE and ENFILE deserve a pause before the next try.
        failure: Failure,
    },
    /// Bytes arrived: never empty. Receiving goes on until `End`, `RecvFailed` or `RecvStopped`.
    Received {
        /// The socket.
        token: Token,
        /// The bytes. Dropping the last view of it gives the buffer back to the pool.
        chunk: Chunk,
    },
    /// The peer shut down its writing side; receiving is over.
    End {
        /// The socket.
        token: Token,
    },
    /// The peer has closed both directions, after `End`: nobody reads any more. As [`Ring::watch_hang_up`] asked.
    HungUp {
        /// The socket.
        token: Token,
    },
    /// Receiving failed and is over.
    RecvFailed {
        /// The socket.
        token: Token,
        /// Why.
        failure: Failure,
    },
    /// Receiving stopped as [`Ring::recv_stop`] asked. [`Ring::recv`] starts it again.
    RecvStopped {
        /// The socket.
        token: Token,
    },
    /// The kernel has taken the whole output, or will take no more of it.
    Sent {
        /// The socket.
        token: Token,
        /// The output as it was given, for reuse.
        output: Output,
        /// Whether every byte was taken.
        result: Result<(), Failure>,
    },
    /// The socket is closed. No completion for this token follows.
    Closed {
        /// The socket.
        token: Token,
    },
    /// The time given to [`Ring::alarm`] has come; no alarm is set now.
    Alarm,
    /// A [`Waker`] was used since the last turn.
    Woken,
}

/// Whether a turn may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Submit, look, come back.
    No,
    /// Sleep until a completion, the alarm or a waker.
    UntilCompletion,
    /// As `UntilCompletion`, but a `Sent` or `Closed` that the ring knows of without the kernel's telling
    /// need not end the sleep; it is reported with what does. For a worker that would do nothing upon it but
    /// go back to sleep: it saves a system call for each batch of replies.
    UntilArrival,
    /// Poll without sleeping until something completes or this time has come (`spin_us`), then come back.
    SpinUntil(Instant),
}

/// One worker's way to the operating system.
///
/// # Contract
///
/// - At most one `send` and one `recv` are in progress on a socket; the engine keeps to that.
/// - `recv` is multishot: it stays on until a completion says that it is over.
/// - `Received` bytes are in order. `Sent` gives the output back exactly once, whatever happens.
/// - `close` may be called at any time. The ring shuts the socket down, waits until nothing is in flight,
///   closes it and reports `Closed`; bytes that arrive after `close` was called are not reported.
/// - Nothing blocks but `turn` when it is told to wait.
/// - Dropping the ring cancels what is in flight and waits for it before any memory that the kernel was lent
///   goes away.
pub trait Ring: Sized {
    /// Where other rings hand sockets over to and wake this one.
    type Address: Clone + Send + Sync + 'static;

    /// Which driver this is, for logs and metrics.
    fn driver(&self) -> &'static str;

    /// The receive buffers of this ring.
    fn pool(&self) -> &Pool;

    /// This ring's address for [`Ring::hand_over`] from its siblings.
    fn address(&self) -> Self::Address;

    /// A handle by which any thread can end a sleeping turn; it shows as [`Completion::Woken`].
    fn waker(&self) -> Waker;

    /// Adds a listening socket under `listener` and starts to accept. With `identify` the accepted sockets
    /// are ordinary descriptors whose peer can be asked for ([`Ring::descriptor_fd`]); without, the driver
    /// may use whatever is cheapest. With `in_turns` other processes that accept from the same socket get their part
    /// of the connections.
    fn listen(
        &mut self,
        listener: ListenerId,
        socket: OwnedFd,
        identify: bool,
        in_turns: bool,
    ) -> Result<(), Failure>;

    /// Takes a connected socket that was not accepted here. Nothing is reported; receiving may begin.
    fn adopt(&mut self, listener: ListenerId, socket: OwnedFd) -> Result<Descriptor, Failure>;

    /// Starts to accept again after `AcceptFailed` or [`Ring::accept_stop`].
    fn accept(&mut self, listener: ListenerId);

    /// Stops to accept; connections accepted meanwhile are still reported. The socket stays open.
    fn accept_stop(&mut self, listener: ListenerId);

    /// Closes the listening socket. Connections that wait in its queue are accepted and reported first: their peers
    /// have connected, and may have sent.
    fn unlisten(&mut self, listener: ListenerId);

    /// Receives into pooled buffers until told otherwise.
    fn recv(&mut self, descriptor: Descriptor, token: Token);

    /// Stops receiving. `RecvStopped` follows, after any bytes that were already on their way.
    fn recv_stop(&mut self, descriptor: Descriptor);

    /// After `End`: reports `HungUp` when the peer closes the other direction too, or at once if it has. Only Unix
    /// sockets tell; a TCP peer that is gone shows when something is sent to it.
    fn watch_hang_up(&mut self, descriptor: Descriptor, token: Token);

    /// Sends the whole output, however many system calls that takes.
    fn send(&mut self, descriptor: Descriptor, token: Token, output: Output);

    /// Sends as much of the output as the kernel takes without waiting, where the driver has a way to that sooner than
    /// the next turn. `output` is what is left to send. No send may be in progress.
    fn send_at_once(&mut self, descriptor: Descriptor, output: &mut Output);

    /// Sends the last output of a socket and closes it, both at once, where the kernel takes all of it without
    /// waiting: true, and nothing more is reported of the socket. False: it is open, and `output` is what is left
    /// to send. The peer reads the end together with the answer, and the kernel wakes it once.
    fn send_last(&mut self, descriptor: Descriptor, output: &mut Output) -> bool;

    /// Shuts down the writing side: the peer reads the end of the stream. Has no completion.
    fn shutdown(&mut self, descriptor: Descriptor);

    /// Closes the socket in three steps; `Closed` follows.
    fn close(&mut self, descriptor: Descriptor, token: Token);

    /// As [`Ring::close`] for a socket that others have a duplicate of: the connection goes on with them. Nothing may
    /// be in progress on it.
    fn let_go(&mut self, descriptor: Descriptor, token: Token);

    /// Gives a just accepted socket, on which no operation was started, to another ring, which reports it as
    /// `Accepted`. If that ring cannot take it, this ring reports it as `Accepted` again.
    fn hand_over(&mut self, descriptor: Descriptor, listener: ListenerId, to: &Self::Address);

    /// The socket's file descriptor, where it has one (see `identify` in [`Ring::listen`]).
    fn descriptor_fd(&self, descriptor: Descriptor) -> Option<BorrowedFd<'_>>;

    /// The time that [`Ring::alarm`] goes by. A simulated ring has a clock of its own.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Asks for [`Completion::Alarm`] at this time; replaces the alarm set before. `None` clears it.
    fn alarm(&mut self, at: Option<Instant>);

    /// Submits what was asked for and reaps what is done.
    fn turn(&mut self, wait: Wait) -> Result<(), Failure>;

    /// The next completion of this turn.
    fn completion(&mut self) -> Option<Completion>;

    /// Whether something was asked for that only the next turn submits, so that no completion could end a sleep outside
    /// of the ring.
    fn owes_turn(&mut self) -> bool {
        false
    }

    /// A descriptor that is readable when [`Ring::turn`] would find something, while [`Ring::notify`] is on.
    /// The worker's host runtime watches it when it is the one that sleeps.
    fn notify_fd(&self) -> BorrowedFd<'_>;

    /// Turns that signal on or off. After turning it on, one `turn(Wait::No)` closes the race. Costs no
    /// system call.
    fn notify(&mut self, on: bool);

    /// System calls made by this ring so far.
    fn syscalls(&self) -> u64;
}

/// Ends a sleeping turn from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Waker(std::sync::Arc<dyn Fn() + Send + Sync>);

impl Waker {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Waker {
        Waker(std::sync::Arc::new(wake))
    }

    /// Makes the ring's current or next turn report [`Completion::Woken`].
    pub fn wake(&self) {
        (self.0)()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What the kernel was asked to do when it said no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are those of the system calls
pub enum Operation {
    Setup,
    Listen,
    Accept,
    Recv,
    Send,
    Shutdown,
    Close,
    HandOver,
    PassOn,
    Wait,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Setup => "setting up the ring",
            Operation::Listen => "listen",
            Operation::Accept => "accept",
            Operation::Recv => "recv",
            Operation::Send => "send",
            Operation::Shutdown => "shutdown",
            Operation::Close => "close",
            Operation::HandOver => "handing a connection to another worker",
            Operation::PassOn => "passing a connection on to another process",
            Operation::Wait => "waiting for completions",
        })
    }
}

/// The kernel refused an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was asked.
    pub operation: Operation,
    /// The errno that came back.
    pub errno: i32,
}

/// What a failure means for those who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A shortage that passes: try again after a pause (EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN, EINTR and the like).
    Retry,
    /// The peer went away (EPIPE, ECONNRESET and the like): ordinary, its connection ends.
    PeerGone,
    /// Anything else on a socket: its connection ends and the log says so.
    ClosePeer,
    /// The ring itself does not work: the worker stops.
    StopWorker,
}

impl Failure {
    pub(crate) fn new(operation: Operation, errno: i32) -> Failure {
        Failure { operation, errno }
    }

    /// What to do about it.
    pub fn fate(&self) -> Fate {
        match (self.operation, self.errno) {
            (Operation::Setup | Operation::Wait | Operation::Listen, _) => Fate::StopWorker,
            (_, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::EINTR) => {
                Fate::Retry
            }
            // sendmsg(2): more descriptors are on their way already than this user may have.
            (Operation::PassOn, libc::ETOOMANYREFS) => Fate::Retry,
            // accept(2): errors of the new connection itself, passed on by Linux; the next one may be fine.
            (Operation::Accept, _) => Fate::Retry,
            (_, libc::EPIPE | libc::ECONNRESET | libc::ECONNABORTED | libc::ENOTCONN | libc::ETIMEDOUT) => {
                Fate::PeerGone
            }
            _ => Fate::ClosePeer,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl std::error::Error for Failure {}
