//! Child processes of tests: `ringway serve` and the web servers in front of it.
//!
//! A [`Process`] writes its output to a file, is ended and waited for when it is dropped, and shows what it logged
//! when the test failed. Nothing is left running, whatever a test does.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ringway::ring::{self, PoolConfig};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes here, on a machine that does much besides; what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a process is given to end on a polite signal before it is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is shown of a log: its last bytes.
const LOG_SHOWN_BYTES: usize = 8 << 10;

/// Ports below those that the kernel gives to clients, so that no connection takes one between choice and use.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// A child process.
pub(crate) struct Process {
    name: String,
    child: Child,
    logs: Vec<PathBuf>,
    farewell: Duration,
}

impl Process {
    /// Starts `command` with its output in `NAME.log` of `folder`; its stdin is whatever the command says.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Process {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log can be made");
        let errors = file.try_clone().expect("a file can be shared");
        let child = command.stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Process { name: name.to_owned(), child, logs: vec![log], farewell: FAREWELL }
    }

    /// Names another file that the process logs to.
    pub(crate) fn also_logs_to(&mut self, path: PathBuf) {
        self.logs.push(path);
    }

    /// Gives it more time to end: it has processes of its own to end first.
    pub(crate) fn ends_slowly(&mut self) {
        self.farewell = PATIENCE;
    }

    /// Waits until `is_ready`; fails at once when the process has ended.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) {
        let name = self.name.clone();
        eventually(&format!("{name}: {what}"), || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("{name} ended before it was ready: {status}\n{}", self.log());
            }
            is_ready().then_some(())
        });
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child that was not waited for can be signalled");
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.wait_up_to(limit)
            .unwrap_or_else(|| panic!("{} still runs after {limit:?}\n{}", self.name, self.log()))
    }

    /// The most memory that the process has had resident, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says this");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kilobytes << 10
    }

    /// All that was logged so far.
    pub(crate) fn log(&self) -> String {
        let read = |path: &PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        self.logs.iter().map(read).collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait_up_to(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The first asks Ringway to drain, the second to stop.
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            if self.wait_up_to(Duration::ZERO).is_some() {
                break;
            }
            // It may end in between.
            let _ = kill_process(self.pid(), signal);
            let _ = self.wait_up_to(self.farewell);
        }
        if std::thread::panicking() {
            for path in &self.logs {
                let text = fs::read(path).unwrap_or_default();
                let text = &text[text.len().saturating_sub(LOG_SHOWN_BYTES)..];
                eprintln!("---- {} ----\n{}", path.display(), String::from_utf8_lossy(text));
            }
        }
    }
}

/// Whether it ended by itself with this exit code; a signal is none.
pub(crate) fn exited_with(status: ExitStatus, code: i32) -> bool {
    status.signal().is_none() && status.code() == Some(code)
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "still waiting after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address of this host that nobody listens on. No two calls of one process give the same.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    let first = (std::process::id().wrapping_mul(197) % u32::from(span)) as u16;
    for _ in 0..span {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (u32::from(first) + u32::from(number)).rem_euclid(span.into()) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// Whether this host allows the driver that `--driver` calls so; a line says why not. `RINGWAY_REQUIRE=ring` makes
/// a host that denies io_uring a failure.
pub(crate) fn allows(driver: &str) -> bool {
    if driver != "uring" {
        return true;
    }
    let choice = ring::choose(ring::Driver::Uring, &PoolConfig::default());
    if let Err(reason) = &choice {
        assert!(!is_required("ring"), "RINGWAY_REQUIRE=ring, and this host denies it: {reason}");
        eprintln!("skipped: {reason}");
    }
    choice.is_ok()
}

/// Whether a missing part of the host is to fail the tests that need it.
pub(crate) fn is_required(part: &str) -> bool {
    let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
    required.split(',').any(|name| name.trim() == part)
}

/// `ringway serve probe`, ready for connections.
pub(crate) struct Ringway {
    pub(crate) process: Process,
    pub(crate) unix: PathBuf,
    pub(crate) tcp: SocketAddr,
}

impl Ringway {
    /// Starts the command of this build; it listens on a socket file in `folder` and on a port.
    pub(crate) fn start(folder: &Path, driver: &str, arguments: &[&str]) -> Ringway {
        Ringway::start_at(folder, &folder.join("ringway.sock"), free_address(), driver, arguments)
    }

    /// The same on addresses that are known.
    pub(crate) fn start_at(
        folder: &Path,
        unix: &Path,
        tcp: SocketAddr,
        driver: &str,
        arguments: &[&str],
    ) -> Ringway {
        let mut command = Ringway::command();
        command.args(["--driver", driver, "--workers", "2"]);
        command.args(["--listen", &format!("unix:{}", unix.display()), "--listen", &tcp.to_string()]);
        // Web servers that root starts become somebody else.
        command.args(["--socket-mode", "666"]);
        // No deadline may save what should not need one.
        for deadline in ["first", "params", "stdin", "send"] {
            command.arg(format!("--{deadline}-timeout=0"));
        }
        command.args(arguments).stdin(Stdio::null());
        let mut process = Process::start("ringway", &mut command, folder);
        process.wait_until("serves", || {
            Ringway::accepts(&format!("unix:{}", unix.display())) && Ringway::accepts(&tcp.to_string())
        });
        Ringway { process, unix: unix.to_owned(), tcp }
    }

    /// `ringway serve probe` without any argument, in an environment that says nothing to it. RINGWAY_PROBE names
    /// another probe that takes the same flags, such as `ringway-wsgi ringway.probe:application`.
    pub(crate) fn command() -> Command {
        let Some(program) = option_env!("CARGO_BIN_EXE_ringway") else { panic!("no test of the command") };
        let other = std::env::var("RINGWAY_PROBE").unwrap_or_default();
        let mut words = other.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(if other.is_empty() { vec!["serve", "probe"] } else { words.collect() });
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
        command
    }

    /// Whether somebody listens at `address`, written as `--listen` has it.
    pub(crate) fn accepts(address: &str) -> bool {
        match address.strip_prefix("unix:") {
            Some(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
            None => std::net::TcpStream::connect(address).is_ok(),
        }
    }
}
