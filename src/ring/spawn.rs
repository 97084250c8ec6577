//! Starts a program: what posix_spawn does, with as little as a server of programs needs.
//!
//! ```text
//!   parent: block signals ─▶ clone(VM | VFORK) ─ ─ ─ ─ ─ suspended ─ ─ ─ ─ ─▶ restore signals
//!   child:                   signals ─▶ own group ─▶ 0, 1, 2 ─▶ directory ─▶ execve
//! ```
//!
//! Nothing of this process is copied: the child runs on a stack of its own in the parent's memory until it executes the
//! program. glibc's posix_spawn asks for and sets the disposition of each of 64 signals in the child, a tenth of
//! all that a small program costs; here only those are reset that this process catches (`ringway-loadtest cgi`).
#![expect(unsafe_code, reason = "no crate starts a program without copying or 130 system calls")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use rustix::process::{Pid, WaitOptions, waitpid};

/// A program's environment: `NAME=value` texts.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// A bit for each name that was set: most are new, and need not be looked for.
    seen: [u64; SEEN_WORDS],
}

const SEEN_WORDS: usize = 8;

/// `start` is a place in the bytes: of the name, an equals sign, the value and a NUL.
#[derive(Debug)]
struct Entry {
    start: usize,
    name_bytes: usize,
}

impl Environment {
    /// With room for so many variables and bytes.
    pub(crate) fn with_capacity(entries: usize, bytes: usize) -> Environment {
        Environment {
            bytes: Vec::with_capacity(bytes),
            entries: Vec::with_capacity(entries),
            ..Environment::default()
        }
    }

    /// Sets a variable, in place of one of that name. What holds a NUL, or a name with an equals sign, cannot be set.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        let is_bad = name.iter().any(|byte| matches!(byte, b'=' | 0)) || memchr::memchr(0, value).is_some();
        if name.is_empty() || is_bad {
            return;
        }
        let (word, bit) = place_of(name);
        self.seen[word] |= bit;
        self.entries.push(Entry { start: self.bytes.len(), name_bytes: name.len() });
        for part in [name, b"=", value, b"\0"] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Removes a variable.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        let Environment { bytes, entries, seen } = self;
        let (word, bit) = place_of(name);
        if seen[word] & bit == 0 {
            return;
        }
        entries.retain(|entry| bytes[entry.start..][..entry.name_bytes] != *name);
    }

    /// For execve; good as long as `self` is not changed.
    fn pointers(&self) -> Vec<*const c_char> {
        let entries = self.entries.iter().map(|entry| self.bytes[entry.start..].as_ptr().cast());
        entries.chain([ptr::null()]).collect()
    }
}

/// The word and the bit of [`Environment::seen`] that belong to a name. Names differ in their second halves.
fn place_of(name: &[u8]) -> (usize, u64) {
    let mix = |hash: usize, byte: &u8| hash.wrapping_mul(31).wrapping_add(usize::from(*byte));
    let hash = name[name.len() / 2..].iter().fold(name.len(), mix);
    (hash / 64 % SEEN_WORDS, 1 << (hash % 64))
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its id, which stays its own until somebody waits for it.
    pub(crate) pid: Pid,
    /// Becomes readable when it ends.
    pub(crate) pidfd: OwnedFd,
}

/// What the child must know, in memory that it shares.
struct Plan {
    program: *const c_char,
    arguments: [*const c_char; 2],
    environment: *const *const c_char,
    directory: *const c_char,
    streams: [c_int; 3],
    caught: &'static [c_int],
    /// Why the child could not execute the program; 0: it did.
    errno: c_int,
}

/// More than the child's few calls need.
const STACK_BYTES: usize = 32 << 10;

thread_local! {
    /// The child's stack, of which one at a time is in use: the parent is suspended meanwhile.
    static STACK: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// Starts `program` without arguments, in `directory`, as the leader of a process group of its own, with these streams
/// as its 0, 1 and 2. Every other descriptor that it is not to have must be close-on-exec.
///
/// # Errors
///
/// The reason of execve(2), chdir(2) or clone(2).
pub(crate) fn spawn(
    program: &CStr,
    environment: &Environment,
    directory: &CStr,
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<Started> {
    let streams = streams.map(|stream| stream.as_raw_fd());
    if streams.iter().any(|stream| *stream <= 2) {
        // Putting one in its place would close another, and none may stay close-on-exec.
        return Err(io::Error::other("the standard streams of this process are not all open"));
    }
    let environment = environment.pointers();
    let mut plan = Plan {
        program: program.as_ptr(),
        arguments: [program.as_ptr(), ptr::null()],
        environment: environment.as_ptr(),
        directory: directory.as_ptr(),
        streams,
        caught: caught(),
        errno: 0,
    };
    let (pid, pidfd) = STACK.with_borrow_mut(|stack| {
        stack.resize(STACK_BYTES / size_of::<u128>(), 0);
        let before = mask(&all_signals())?;
        let outcome = clone(stack, &mut plan);
        mask(&before)?;
        outcome
    })?;
    if plan.errno != 0 {
        // It has ended already; how is in the plan.
        let _ = waitpid(Some(pid), WaitOptions::empty());
        return Err(io::Error::from_raw_os_error(plan.errno));
    }
    Ok(Started { pid, pidfd })
}

fn clone(stack: &mut [u128], plan: &mut Plan) -> io::Result<(Pid, OwnedFd)> {
    const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    let top = stack.as_mut_ptr_range().end.cast();
    let plan: *mut Plan = plan;
    // SAFETY: `child` gets a plan and a stack, aligned to 16 bytes, that outlive it: CLONE_VFORK suspends this thread
    // until it has executed the program or ended. All signals are blocked, so no handler runs on either side.
    let pid = unsafe { libc::clone(child, top, FLAGS, plan.cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("clone gave no process"))?;
    if pidfd < 0 {
        // A kernel before 5.2 does not know the flag.
        let opened = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        return Ok((pid, opened?));
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child, in its parent's memory: system calls and nothing else.
extern "C" fn child(plan: *mut c_void) -> c_int {
    let plan: *mut Plan = plan.cast();
    // SAFETY: the parent is suspended, so nobody else touches its plan.
    let plan = unsafe { &mut *plan };
    plan.errno = execute(plan);
    // SAFETY: ends the child alone; nothing of the parent's is run or flushed.
    unsafe { libc::_exit(127) }
}

/// Never comes back where all goes well.
fn execute(plan: &Plan) -> c_int {
    let failed = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    for signal in plan.caught {
        // SAFETY: dispositions are the child's own, which does not share them (no CLONE_SIGHAND).
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::setpgid(0, 0) } != 0 {
        return failed();
    }
    for (number, stream) in (0..).zip(plan.streams) {
        // SAFETY: changes descriptors of the child, which does not share them (no CLONE_FILES).
        if unsafe { libc::dup2(stream, number) } < 0 {
            return failed();
        }
    }
    // SAFETY: a string that the parent keeps; the directory is the child's own (no CLONE_FS).
    if unsafe { libc::chdir(plan.directory) } != 0 {
        return failed();
    }
    if mask(&no_signals()).is_err() {
        return libc::EINVAL;
    }
    // SAFETY: strings and arrays that end with a null pointer, which the parent keeps.
    unsafe { libc::execve(plan.program, plan.arguments.as_ptr(), plan.environment) };
    failed()
}

/// Sets which signals this thread blocks; gives those that it did.
fn mask(signals: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = no_signals();
    // SAFETY: reads one set and writes another.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, signals, &raw mut before) } {
        0 => Ok(before),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: a set is plain bits, all of them 0 in an empty one.
    unsafe { std::mem::zeroed() }
}

fn all_signals() -> libc::sigset_t {
    let mut signals = no_signals();
    // SAFETY: writes one set.
    unsafe { libc::sigfillset(&raw mut signals) };
    signals
}

/// The signals that this process catches, as of the first program: a handler must not run in a child that is about to
/// execute a program. And two that programs do not expect to be ignored, which would be inherited: SIGPIPE, as Rust has
/// it, and SIGCHLD, as some spawners do.
fn caught() -> &'static [c_int] {
    static CAUGHT: OnceLock<Vec<c_int>> = OnceLock::new();
    CAUGHT.get_or_init(|| (1..=libc::SIGRTMAX()).filter(|signal| is_reset(*signal)).collect())
}

fn is_reset(signal: c_int) -> bool {
    // SAFETY: a disposition is plain numbers.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: writes one disposition; nothing is changed. Numbers that are no signals are refused.
    let known = unsafe { libc::sigaction(signal, ptr::null(), &raw mut now) } == 0;
    let is_usual = matches!(signal, libc::SIGPIPE | libc::SIGCHLD);
    known && (is_usual || !matches!(now.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn run(program: &CStr, environment: &Environment) -> io::Result<(String, i32)> {
        let null = std::fs::File::open("/dev/null")?;
        let (mut output, write) = io::pipe()?;
        let streams = [null.as_fd(), write.as_fd(), write.as_fd()];
        let started = spawn(program, environment, c"/", streams)?;
        drop(write);
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        let (_, status) = waitpid(Some(started.pid), WaitOptions::empty())?.expect("it was waited for");
        Ok((text, status.as_raw()))
    }

    #[test]
    fn a_program_has_its_environment_and_nothing_else() {
        let mut environment = Environment::default();
        environment.set(b"A", b"first");
        environment.set(b"B", b"2=\xff");
        environment.set(b"A", b"last");
        environment.set(b"C", b"gone");
        environment.remove(b"C");
        for (name, value) in [(&b""[..], &b"x"[..]), (b"D=", b"x"), (b"E\0", b"x"), (b"F", b"x\0y")] {
            environment.set(name, value);
        }
        let entries: Vec<_> = environment.entries.iter().map(|entry| entry.name_bytes).collect();
        assert_eq!(entries, [1, 1]);
        environment.set(b"B", b"2=");
        let (text, status) = run(c"/usr/bin/env", &environment).expect("it starts");
        assert_eq!((text.as_str(), status), ("A=last\nB=2=\n", 0));
    }

    #[test]
    fn what_cannot_be_executed_is_said_and_leaves_no_child() {
        for (program, errno) in [(c"/no/such/program", libc::ENOENT), (c"/etc", libc::EACCES)] {
            let error = run(program, &Environment::default()).expect_err("it cannot be executed");
            assert_eq!(error.raw_os_error(), Some(errno), "{program:?}");
        }
        let null = std::fs::File::open("/dev/null").expect("a file");
        let missing = spawn(c"/bin/true", &Environment::default(), c"/no/such", [null.as_fd(); 3]);
        assert_eq!(missing.expect_err("no such directory").raw_os_error(), Some(libc::ENOENT));
    }

    /// Programs are started from all workers at once.
    #[test]
    fn threads_do_not_get_in_each_others_way() {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut environment = Environment::default();
                        let value = format!("{thread}.{round}");
                        environment.set(b"V", value.as_bytes());
                        let (text, _) = run(c"/usr/bin/env", &environment).expect("it starts");
                        assert_eq!(text, format!("V={value}\n"));
                    }
                });
            }
        });
    }
}
