//! The signals that end a server.
//!
//! | signal | who sends it |
//! | --- | --- |
//! | SIGTERM | init systems, supervisors, containers, and every web server that spawns its applications |
//! | SIGINT | a terminal's Ctrl-C; lighttpd and supervisors when told so |
//! | SIGUSR1 | Apache, for a graceful restart |
//! | SIGHUP | a terminal that closes, supervisors that want a process started anew. Left ignored under `nohup` |
//! | SIGQUIT | supervisors and containers set up as for PHP-FPM |
//!
//! All of them ask for the same: [`Order::Drain`], then exit code 0. The process that follows has the new program
//! and configuration, so there is no reload. A second one means [`Order::Stop`].

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::signal_name;

use crate::engine::Order;

/// mod_fcgid sends SIGTERM, the same again after about 1.3 s, and SIGKILL after about 9 s. Its second one is no
/// impatience.
const REPEATED_WITHIN: Duration = Duration::from_secs(3);

/// Catches the signals from now on until it is dropped.
pub(super) struct Catcher {
    closer: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Catcher {
    /// Catches the signals; they are kept until [`Catcher::obey`].
    pub(super) fn signals() -> io::Result<Signals> {
        let mut wanted = vec![SIGTERM, SIGINT, SIGQUIT, SIGUSR1];
        if !is_ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        Signals::new(wanted)
    }

    /// Gives each order that the signals mean to `command`, on a thread of its own.
    ///
    /// `is_spawned`: the socket came on file descriptor 0, from a spawner that has SIGKILL for impatience.
    pub(super) fn obey(
        mut signals: Signals,
        is_spawned: bool,
        command: impl Fn(Order) + Send + 'static,
    ) -> io::Result<Catcher> {
        let closer = signals.handle();
        let thread = std::thread::Builder::new().name("ringway-signals".into()).spawn(move || {
            let mut meaning = Meaning { is_spawned, first: None };
            for signal in signals.forever() {
                let name = signal_name(signal).unwrap_or("a signal");
                let order = meaning.of(signal, Instant::now());
                match order {
                    None => tracing::info!("{name} again: still draining"),
                    Some(Order::Stop) => tracing::warn!("{name}: stopping now"),
                    Some(_) if is_spawned => {
                        tracing::info!("{name}: draining; one more after {REPEATED_WITHIN:?} stops at once");
                    }
                    Some(_) => tracing::info!("{name}: draining; a second signal stops at once"),
                }
                order.into_iter().for_each(&command);
            }
        })?;
        Ok(Catcher { closer, thread: Some(thread) })
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.closer.close();
        // The thread only loops over signals; it cannot fail.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a signal means, after those that came before.
struct Meaning {
    is_spawned: bool,
    first: Option<(i32, Instant)>,
}

impl Meaning {
    fn of(&mut self, signal: i32, now: Instant) -> Option<Order> {
        let Some((first, at)) = self.first else {
            self.first = Some((signal, now));
            return Some(Order::Drain);
        };
        let is_repeated = signal == SIGTERM && first == SIGTERM && now.duration_since(at) < REPEATED_WITHIN;
        if self.is_spawned && is_repeated { None } else { Some(Order::Stop) }
    }
}

/// Whether the parent process had the signal ignored (proc_pid_status(5)).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the second signal means when it comes after `after`.
    fn second(is_spawned: bool, signals: [i32; 2], after: Duration) -> Option<Order> {
        let mut meaning = Meaning { is_spawned, first: None };
        let begin = Instant::now();
        assert_eq!(meaning.of(signals[0], begin), Some(Order::Drain));
        meaning.of(signals[1], begin + after)
    }

    #[test]
    fn a_second_signal_stops_unless_a_spawner_repeats_itself() {
        let soon = Duration::from_millis(1300);
        assert_eq!(second(true, [SIGTERM, SIGTERM], soon), None);
        for (is_spawned, signals, after) in [
            (false, [SIGTERM, SIGTERM], soon),
            (true, [SIGTERM, SIGTERM], REPEATED_WITHIN),
            (true, [SIGTERM, SIGINT], soon),
            (true, [SIGINT, SIGINT], soon),
            (true, [SIGUSR1, SIGTERM], soon),
        ] {
            assert_eq!(second(is_spawned, signals, after), Some(Order::Stop), "{is_spawned} {signals:?}");
        }
    }

    #[test]
    fn the_signal_that_rust_ignores_is_seen_as_ignored() {
        assert!(is_ignored(signal_hook::consts::SIGPIPE), "Rust's main ignores it");
        assert!(!is_ignored(SIGTERM));
    }
}
