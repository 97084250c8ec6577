//! Another process as the kernel accounts for it: CPU time, memory; and which core each side runs on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// CPU time of all threads of `pid` since it started, user and system, living and dead, in nanoseconds: the
/// scheduler's own clock, up to this moment even for a thread that is running.
#[expect(unsafe_code, reason = "the CPU clock of another process has no safe face")]
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: writes one clock id to the place given.
    let failed = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    anyhow::ensure!(failed == 0, "process {pid} has no CPU clock");
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec to the place given.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    anyhow::ensure!(failed == 0, "process {pid} has gone: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// A process and all that descend from it and live.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
            let children = fs::read_to_string(thread?.path().join("children"))?;
            all.extend(children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?);
        }
        next += 1;
    }
    Ok(all)
}

/// [`cpu_time`] of a process and of its descendants that live.
pub fn family_cpu_time(pid: u32) -> Result<Duration> {
    family(pid)?.into_iter().map(cpu_time).sum()
}

/// Time that `cores` have spent on anything but idling since the machine started, stolen time included; in
/// steps of 10 ms.
pub fn busy_time(cores: Cores) -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = |core: usize| {
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
        let line = line.with_context(|| format!("this machine has no core {core}"))?;
        let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
            anyhow::bail!("/proc/stat has too few columns");
        };
        Ok(user + nice + system + irq + softirq + steal)
    };
    let both = ticks(cores.server)? + ticks(cores.generator)?;
    Ok(Duration::from_millis(both * 1000 / TICKS_PER_SECOND))
}

/// `USER_HZ`, the unit of /proc/stat on every Linux of today.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All resident pages.
    pub resident: u64,
    /// Those that are neither files nor shared: what the program allocated.
    pub anonymous: u64,
}

/// Memory of `pid`, exact (`smaps_rollup`; the figures of `status` lag by up to a batch of pages).
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("{name} in {path}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok::<u64, anyhow::Error>(kib * 1024)
    };
    Ok(Memory { resident: field("Rss:")?, anonymous: field("Anonymous:")? })
}

/// Which core each side runs on.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The server's.
    pub server: usize,
    /// The generator's, and nginx's and wrk's.
    pub generator: usize,
}

/// Keeps this thread, and what it starts, on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("run on core {core}"))
}

/// Raises the number of descriptors to what the hard limit allows, for this process and its children; gives
/// that number.
pub fn raise_descriptors() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit of descriptors")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cpu_time_and_memory_are_seen() {
        let (pid, before) = (std::process::id(), cpu_time(std::process::id()).unwrap());
        let block = vec![1_u8; 32 << 20];
        let memory = memory(pid).unwrap();
        assert!(memory.anonymous >= 32 << 20 && memory.resident >= memory.anonymous);
        assert!(block.iter().map(|&byte| u64::from(byte)).sum::<u64>() == 32 << 20);
        assert!(cpu_time(pid).unwrap() > before);
        assert!(cpu_time(1 << 28).is_err());
    }

    #[test]
    fn children_belong_to_the_family() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let family = family(std::process::id()).unwrap();
        let _ = child.kill();
        let _ = child.wait();
        assert!(family.starts_with(&[std::process::id()]) && family.contains(&child.id()), "{family:?}");
    }
}
