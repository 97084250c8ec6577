//! CPU time of a process and of all that it starts, whoever waits for them: a kernel counter that children inherit.
//!
//! `getrusage` would need the server to wait for its children; one that ignores SIGCHLD, as fcgiwrap does, is charged
//! with nothing.

use std::fs;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::syscalls::open_counter;

/// Counters of a process's threads and of what they start from now on.
pub struct Family(Vec<fs::File>);

impl Family {
    /// Begins to count for all threads of `pid`.
    pub fn of(pid: u32) -> Result<Family> {
        let mut counters = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            let counter = open_counter(thread, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK);
            counters.push(fs::File::from(counter.context("count CPU time (needs CAP_PERFMON)")?));
        }
        Ok(Family(counters))
    }

    /// What was counted so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut sum = 0;
        for mut counter in &self.0 {
            let mut nanoseconds = [0; 8];
            counter.read_exact(&mut nanoseconds).context("read a counter")?;
            sum += u64::from_ne_bytes(nanoseconds);
        }
        Ok(Duration::from_nanos(sum))
    }
}

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_counted_too() {
        let Ok(family) = Family::of(std::process::id()) else {
            return eprintln!("skipped: this host does not let us count CPU time");
        };
        let before = family.cpu_time().unwrap();
        let loops = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let child = std::process::Command::new("sh").args(["-c", loops]).status().unwrap();
        assert!(child.success());
        let counted = family.cpu_time().unwrap() - before;
        assert!(counted > Duration::from_millis(20), "{counted:?}");
    }
}
