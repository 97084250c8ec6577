//! How many system calls a process makes: the tracepoint `raw_syscalls:sys_enter`, or `strace` where there is
//! none.
//!
//! A tracepoint makes system calls a little dearer and strace makes them very dear, so this never runs in a
//! round whose CPU
//! time is reported.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running count of one process's system calls.
pub enum Counter {
    /// One kernel counter per thread; threads that start later are included.
    Tracepoint(Vec<fs::File>),
    /// strace attached to all threads; it counts once, at the end.
    Strace(Child, tempfile::NamedTempFile),
}

impl Counter {
    /// Starts counting the calls of `pid`.
    pub fn start(pid: u32) -> Result<Counter> {
        match tracepoint_id() {
            Some(id) => Counter::tracepoint(pid, id),
            None => Counter::strace(pid),
        }
    }

    /// The calls since [`Counter::start`].
    pub fn finish(self) -> Result<u64> {
        match self {
            Counter::Tracepoint(counters) => {
                let mut sum = 0;
                for mut counter in counters {
                    let mut count = [0; 8];
                    counter.read_exact(&mut count).context("read a counter")?;
                    sum += u64::from_ne_bytes(count);
                }
                Ok(sum)
            }
            Counter::Strace(mut strace, report) => {
                let pid = Pid::from_child(&strace);
                kill_process(pid, Signal::INT).context("end strace")?;
                strace.wait()?;
                total_calls(&fs::read_to_string(report.path())?)
            }
        }
    }

    /// How it counts, for the report.
    pub fn method(&self) -> &'static str {
        match self {
            Counter::Tracepoint(_) => "tracepoint raw_syscalls:sys_enter",
            Counter::Strace(..) => "strace -c -f",
        }
    }

    fn tracepoint(pid: u32, id: u64) -> Result<Counter> {
        let mut counters = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            let counter = open_counter(thread, PERF_TYPE_TRACEPOINT, id)
                .context("count system calls (needs CAP_PERFMON)")?;
            counters.push(fs::File::from(counter));
        }
        Ok(Counter::Tracepoint(counters))
    }

    fn strace(pid: u32) -> Result<Counter> {
        let report = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(report.path());
        let strace = command.stderr(Stdio::null()).spawn().context("start strace")?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_traced(pid)? {
            ensure!(Instant::now() < deadline, "strace does not attach to {pid}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Counter::Strace(strace, report))
    }
}

/// The tracepoint's number, where tracefs is mounted and readable.
fn tracepoint_id() -> Option<u64> {
    let path = Path::new("events/raw_syscalls/sys_enter/id");
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .find_map(|root| fs::read_to_string(Path::new(root).join(path)).ok()?.trim().parse().ok())
}

/// A kernel counter of one thread and of all that it starts.
#[expect(unsafe_code, reason = "perf_event_open has no wrapper")]
pub(crate) fn open_counter(thread: i32, event_type: u32, config: u64) -> io::Result<OwnedFd> {
    let attributes = PerfEventAttributes {
        event_type,
        size: size_of::<PerfEventAttributes>() as u32,
        config,
        flags: PERF_FLAG_INHERIT,
        ..PerfEventAttributes::default()
    };
    let any_cpu = -1;
    let no_group = -1;
    // SAFETY: reads the attributes, whose size is told, and touches nothing else of ours.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct perf_event_attr`, its first published size.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttributes {
    event_type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_INHERIT: u64 = 1 << 1;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

fn is_traced(pid: u32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    Ok(tracer.is_some_and(|tracer| tracer.trim() != "0"))
}

/// The sum in the last line of `strace -c`: `100.00  seconds  usecs/call  calls  [errors]  total`.
fn total_calls(report: &str) -> Result<u64> {
    let Some(line) = report.lines().rev().find(|line| line.trim_end().ends_with(" total")) else {
        bail!("no total in strace's report");
    };
    line.split_whitespace()
        .nth(3)
        .context("calls in strace's total")?
        .parse()
        .context("calls in strace's total")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    #[test]
    fn the_total_of_strace_is_found_with_and_without_errors() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        let with =
            format!("{head} 60.00  0.1  1  10  2 read\n100.00    0.000123       1       74        2 total\n");
        let without = format!("{head}100.00    0.000123           1        74           total\n");
        assert_eq!(total_calls(&with).unwrap(), 74);
        assert_eq!(total_calls(&without).unwrap(), 74);
        assert!(total_calls(head).is_err());
    }

    /// `cat` reads and writes once for each line.
    fn count_cat(start: impl Fn(u32) -> Result<Counter>) -> Option<u64> {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, mut output) = (cat.stdin.take().unwrap(), BufReader::new(cat.stdout.take().unwrap()));
        let mut line = || {
            input.write_all(b"line\n").unwrap();
            output.read_line(&mut String::new()).unwrap();
        };
        line(); // it has started
        let counter = start(cat.id());
        (0..10).for_each(|_| line());
        let calls = counter.and_then(Counter::finish);
        drop(input);
        cat.wait().unwrap();
        calls.map_err(|error| eprintln!("skipped: {error:#}")).ok()
    }

    #[test]
    fn both_ways_count_the_same_calls() {
        if let Some(calls) = tracepoint_id().and_then(|id| count_cat(|pid| Counter::tracepoint(pid, id))) {
            assert!((19..=21).contains(&calls), "tracepoint: {calls}");
        }
        if let Some(calls) = count_cat(Counter::strace) {
            assert!((19..=22).contains(&calls), "strace: {calls}");
        }
    }
}
