//! Which driver this host allows, and a sentence for the operator when it is not io_uring.
//!
//! Containers' default seccomp profiles deny io_uring, sysctl can, old kernels lack it. Asking for the
//! version tells none of that, so the probe sets up the ring that a worker would, with the same flags, files
//! and buffers, and echoes bytes through it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Completion, Descriptor, Failure, ListenerId, Output, PoolConfig, Ring, Token, Uring, Wait};

/// Which driver the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// io_uring where the host allows it, epoll elsewhere.
    #[default]
    Auto,
    /// io_uring or a failure.
    Uring,
    /// epoll, without a look at io_uring.
    Epoll,
}

/// What the host makes of io_uring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Availability {
    /// It works, with all that the driver uses.
    Works,
    /// The kernel refused something.
    Denied(Failure),
    /// The kernel took everything, but what came back is not what was sent.
    Misbehaves(&'static str),
}

/// The driver to use and why; displays as the line that the server logs at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// io_uring, as wanted or because it works.
    Uring,
    /// epoll, because the operator wants it.
    EpollWanted,
    /// epoll, because io_uring does not work here.
    EpollInstead(Availability),
}

impl Choice {
    /// The driver's name, as [`Ring::driver`] gives it.
    pub fn driver(&self) -> &'static str {
        match self {
            Choice::Uring => "uring",
            Choice::EpollWanted | Choice::EpollInstead(_) => "epoll",
        }
    }

    /// What is in the way of io_uring, where it was not to be had.
    pub fn reason(&self) -> Option<&Availability> {
        match self {
            Choice::EpollInstead(why) => Some(why),
            Choice::Uring | Choice::EpollWanted => None,
        }
    }
}

/// io_uring was asked for and does not work; displays as what to change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable(pub Availability);

/// Chooses a driver. The host is probed once per process, for the first pool that is asked about.
pub fn choose(wanted: Driver, pool: &PoolConfig) -> Result<Choice, Unavailable> {
    match wanted {
        Driver::Epoll => Ok(Choice::EpollWanted),
        Driver::Auto | Driver::Uring => decide(wanted, availability(pool)),
    }
}

/// What the host makes of io_uring: probed once per process.
pub fn availability(pool: &PoolConfig) -> Availability {
    static AVAILABILITY: OnceLock<Availability> = OnceLock::new();
    AVAILABILITY.get_or_init(|| probe(pool)).clone()
}

fn decide(wanted: Driver, availability: Availability) -> Result<Choice, Unavailable> {
    match availability {
        Availability::Works => Ok(Choice::Uring),
        _ if wanted == Driver::Uring => Err(Unavailable(availability)),
        _ => Ok(Choice::EpollInstead(availability)),
    }
}

/// Longer than the echo takes on the slowest host.
const PATIENCE: Duration = Duration::from_secs(2);

fn probe(pool: &PoolConfig) -> Availability {
    let echoed = Uring::new(pool, Uring::DIRECT_DESCRIPTORS).map_err(Availability::Denied).and_then(echo);
    echoed.err().unwrap_or(Availability::Works)
}

/// A connection accepted into the ring's table; a multishot recv of two pieces; sends until the peer's buffer
/// is full, the first of which completes without a completion and the last of which the kernel takes a part
/// of; a close.
fn echo(mut ring: Uring) -> Result<(), Availability> {
    let here = |_| Availability::Misbehaves("there is no local socket to try it with");
    let listener = listen().map_err(here)?;
    let mut peer =
        listener.local_addr().and_then(|address| UnixStream::connect_addr(&address)).map_err(here)?;
    peer.set_nonblocking(true).map_err(here)?;
    ring.listen(ListenerId(0), listener.into(), false, false).map_err(Availability::Denied)?;

    let Completion::Accepted { descriptor, .. } = next(&mut ring)? else {
        return Err(Availability::Misbehaves("a connection is not accepted"));
    };
    let token = Token { slot: 0, generation: 0 };
    ring.recv(descriptor, token);
    for question in [&b"one"[..], b"another"] {
        peer.write_all(question).map_err(here)?;
        match next(&mut ring)? {
            Completion::Received { chunk, .. } if chunk[..] == *question => {}
            _ => return Err(Availability::Misbehaves("bytes are not received as they were sent")),
        }
    }
    let sent = send_until_full(&mut ring, descriptor, token)?;
    if !hears(&mut ring, &mut peer, sent)? {
        return Err(Availability::Misbehaves("bytes are not sent as they were given"));
    }
    ring.close(descriptor, token);
    match next(&mut ring)? {
        Completion::Closed { .. } => Ok(()),
        _ => Err(Availability::Misbehaves("a socket does not close")),
    }
}

fn listen() -> io::Result<UnixListener> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringway-probe-{}-{count}", std::process::id());
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// The next completion, in good time.
fn next(ring: &mut Uring) -> Result<Completion, Availability> {
    let end = Instant::now() + PATIENCE;
    loop {
        ring.alarm(Some(end));
        ring.turn(Wait::UntilCompletion).map_err(Availability::Denied)?;
        match ring.completion() {
            None => {}
            Some(Completion::Alarm) => {
                return Err(Availability::Misbehaves("an operation does not complete"));
            }
            Some(Completion::AcceptFailed { failure, .. } | Completion::RecvFailed { failure, .. }) => {
                return Err(Availability::Denied(failure));
            }
            Some(Completion::Sent { result: Err(failure), .. }) => return Err(Availability::Denied(failure)),
            Some(completion) => {
                ring.alarm(None);
                return Ok(completion);
            }
        }
    }
}

/// What the bytes sent are at each place.
fn byte_at(place: usize) -> u8 {
    (place % 251) as u8
}

/// Sends until a send does not complete at once; gives the number of bytes, all told.
fn send_until_full(ring: &mut Uring, descriptor: Descriptor, token: Token) -> Result<usize, Availability> {
    const PIECE: usize = 60_000;
    // Sockets hold about 200 KiB unless the host was told otherwise, up to some megabytes.
    for piece in 0..1000 {
        let mut output = Output::default();
        output.block_mut().extend((0..PIECE).map(|place| byte_at(piece * PIECE + place)));
        ring.send(descriptor, token, output);
        ring.turn(Wait::No).map_err(Availability::Denied)?;
        match ring.completion() {
            Some(Completion::Sent { result: Ok(()), .. }) => {}
            Some(Completion::Sent { result: Err(failure), .. }) => return Err(Availability::Denied(failure)),
            None => return Ok((piece + 1) * PIECE),
            Some(_) => return Err(Availability::Misbehaves("a send completes as something else")),
        }
    }
    Err(Availability::Misbehaves("a socket that nobody reads is never full"))
}

/// Whether the peer gets these many bytes, in order, and the send in progress completes.
fn hears(ring: &mut Uring, peer: &mut UnixStream, count: usize) -> Result<bool, Availability> {
    let (mut heard, mut is_sent, end) = (0, false, Instant::now() + PATIENCE);
    let mut bytes = vec![0; 65_536];
    while (heard < count || !is_sent) && Instant::now() < end {
        let read = peer.read(&mut bytes).unwrap_or(0);
        if !bytes[..read].iter().enumerate().all(|(place, byte)| *byte == byte_at(heard + place)) {
            return Ok(false);
        }
        heard += read;
        ring.turn(Wait::No).map_err(Availability::Denied)?;
        is_sent |= matches!(ring.completion(), Some(Completion::Sent { result: Ok(()), .. }));
    }
    Ok(heard == count && is_sent)
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = match self {
            Availability::Works => return f.write_str("io_uring works"),
            Availability::Misbehaves(what) => {
                return write!(f, "io_uring does not do on this kernel what it should: {what}");
            }
            Availability::Denied(failure) => failure,
        };
        match failure.errno {
            libc::EPERM => f.write_str(
                "io_uring is forbidden here (EPERM): by a seccomp profile, as Docker and containerd bring one \
                 (allow io_uring_setup, io_uring_enter and io_uring_register in it), or by the sysctl \
                 kernel.io_uring_disabled (set it to 0)",
            ),
            libc::ENOSYS => f.write_str(
                "this kernel or sandbox has no io_uring (ENOSYS): run on Linux 6.1 or later, built with \
                 CONFIG_IO_URING, and outside of sandboxes such as gVisor",
            ),
            libc::EINVAL => f.write_str(
                "this kernel's io_uring is too old (EINVAL): run on Linux 6.1 or later",
            ),
            libc::ENOMEM => f.write_str(
                "the memory that may be locked does not suffice for io_uring (ENOMEM): raise it \
                 (ulimit -l, or LimitMEMLOCK= in the systemd unit)",
            ),
            libc::EMFILE | libc::ENFILE => f.write_str(
                "there are not enough file descriptors for io_uring: raise their number (ulimit -n, or \
                 LimitNOFILE= in the systemd unit)",
            ),
            _ => write!(f, "io_uring does not work here: {failure}"),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Uring => f.write_str("driver io_uring"),
            Choice::EpollWanted => f.write_str("driver epoll, as configured"),
            Choice::EpollInstead(why) => write!(f, "driver epoll: {why}"),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; or let the driver be chosen (driver = auto)", self.0)
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Operation;

    fn denied(errno: i32) -> Availability {
        Availability::Denied(Failure::new(Operation::Setup, errno))
    }

    /// Where the host has io_uring; the suite says when it has not.
    #[test]
    fn the_echo_comes_back() {
        match probe(&PoolConfig::default()) {
            Availability::Misbehaves(what) => panic!("{what}"),
            works_or_denied => eprintln!("{works_or_denied}"),
        }
    }

    #[test]
    fn what_is_denied_falls_back_or_fails_as_wanted() {
        let why = denied(libc::EPERM);
        assert_eq!(decide(Driver::Auto, why.clone()), Ok(Choice::EpollInstead(why.clone())));
        assert_eq!(decide(Driver::Uring, why.clone()), Err(Unavailable(why)));
        assert_eq!(decide(Driver::Auto, Availability::Works), Ok(Choice::Uring));
        assert_eq!(choose(Driver::Epoll, &PoolConfig::default()).unwrap().driver(), "epoll");
    }

    #[test]
    fn each_cause_has_its_own_remedy() {
        for (errno, remedy) in [
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::EINVAL, "Linux 6.1"),
            (libc::ENOMEM, "LimitMEMLOCK"),
            (libc::EMFILE, "LimitNOFILE"),
            (libc::EIO, "Input/output error"),
        ] {
            let line = Unavailable(denied(errno)).to_string();
            assert!(line.contains(remedy) && line.contains("driver = auto"), "{line}");
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
    }

    const CHILD: &str = "RINGWAY_TEST_DENIED";

    /// The real thing: a child whose system calls of io_uring are answered with EPERM or ENOSYS.
    #[test]
    fn a_filter_that_denies_io_uring_is_noticed_and_named() {
        if let Ok(errno) = std::env::var(CHILD) {
            let errno = errno.parse().unwrap();
            deny_io_uring(errno);
            assert_eq!(availability(&PoolConfig::default()), denied(errno));
            assert_eq!(choose(Driver::Auto, &PoolConfig::default()).unwrap().driver(), "epoll");
            assert!(choose(Driver::Uring, &PoolConfig::default()).is_err());
            return;
        }
        for errno in [libc::EPERM, libc::ENOSYS] {
            let test = "ring::probe::tests::a_filter_that_denies_io_uring_is_noticed_and_named";
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(CHILD, errno.to_string())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && said.contains("1 passed"), "{said}{child:?}");
        }
    }

    /// For this thread, and so for its part of the process: `io_uring_setup` answers `errno`.
    #[expect(unsafe_code, reason = "there is no safe way to install a seccomp filter")]
    fn deny_io_uring(errno: i32) {
        let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut filter = [
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the call
            statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
            statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
            statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: takes numbers alone.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        assert_eq!(result, 0);
        // SAFETY: `program` and the filter that it points to are valid for the call, which copies them.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(result, 0);
    }
}
