//! What the server counts, in one table.
//!
//! Each worker has a [`Worker`] of its own and is the only one to write to it: counting is a load and a
//! store, never a locked instruction, and no two workers share a cache line. Whoever reads sums over the
//! workers.

use std::fmt;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($( $(#[doc = $doc:literal])+ $kind:ident $name:ident; )+) => {
        /// The counters of one worker: any thread reads, that worker writes.
        #[derive(Default, Debug)]
        // Two lines of 64 bytes: processors fetch lines in pairs.
        #[repr(align(128))]
        pub struct Worker { $( $(#[doc = $doc])+ pub $name: $kind, )+ }

        /// The sum over some workers at one time.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        #[non_exhaustive]
        pub struct Snapshot { $( $(#[doc = $doc])+ pub $name: u64, )+ }

        /// Every metric, in the order of the table.
        pub static METRICS: &[Metric] = &[ $( Metric {
            name: stringify!($name),
            kind: Kind::$kind,
            doc: concat!($($doc),+),
            read: |snapshot| snapshot.$name,
        }, )+ ];

        impl Snapshot {
            /// Reads the workers one after the other. Each number is right at some time during the call.
            pub fn sum<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> Snapshot {
                let mut sum = Snapshot::default();
                for worker in workers {
                    $( sum.$name = sum.$name.wrapping_add(worker.$name.get()); )+
                }
                sum
            }
        }

        /// What was counted since an earlier snapshot; gauges stay as they are now.
        impl Sub for Snapshot {
            type Output = Snapshot;

            fn sub(self, earlier: Snapshot) -> Snapshot {
                Snapshot { $( $name: $kind::since(self.$name, earlier.$name), )+ }
            }
        }
    };
}

metrics! {
    /// Connections accepted.
    Counter connections_accepted;
    /// Connections closed at once, because their peer may not connect (FCGI_WEB_SERVER_ADDRS).
    Counter connections_denied;
    /// Connections closed, by either side.
    Counter connections_closed;
    /// Connections given to another worker to even out the load.
    Counter connections_handed_over;
    /// Kept connections passed on to another process, by one that was being replaced.
    Counter connections_passed_on;
    /// Kept connections that a process being replaced closed, because no other one could take them.
    Counter connections_not_passed_on;
    /// Kept connections taken over from another process.
    Counter connections_taken_over;
    /// Times that accepting failed, for want of descriptors for example.
    Counter accept_failures;
    /// Requests begun: their FCGI_BEGIN_REQUEST was taken.
    Counter requests_begun;
    /// Requests that ended with an answer.
    Counter requests_finished;
    /// Requests given up by the peer: aborted, or their connection went away.
    Counter requests_aborted;
    /// Requests refused: overloaded, no multiplexing, unknown role.
    Counter requests_refused;
    /// Requests that the server answered with a 5xx of its own because their handler failed.
    Counter requests_failed;
    /// Handlers that panicked.
    Counter handler_panics;
    /// Rules of the protocol that peers broke.
    Counter protocol_errors;
    /// Bytes received.
    Counter bytes_received;
    /// Bytes sent.
    Counter bytes_sent;
    /// Requests whose parameters were copied, because they straddled buffers or buffers were scarce.
    Counter params_copied;
    /// Times that receiving paused because a handler did not read its request body.
    Counter stdin_pauses;
    /// Times that a handler waited because its peer did not read the response.
    Counter output_pauses;
    /// Sends that failed, peers that went away included.
    Counter send_failures;
    /// Deadlines that passed.
    Counter deadlines_passed;
    /// Turns of the workers' loops.
    Counter turns;
    /// System calls made by the workers' rings.
    Counter syscalls;
    /// Times that a worker was woken by another thread.
    Counter wakeups;
    /// Handlers that are waiting now.
    Gauge tasks_pending;
}

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one. Only the worker itself may call this.
    pub fn incr(&self) {
        self.add(1);
    }

    /// Counts `n`. Only the worker itself may call this.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store lose nothing and cost no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes over a total that is counted elsewhere. Only the worker itself may call this.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn since(now: u64, earlier: u64) -> u64 {
        now.wrapping_sub(earlier)
    }
}

/// A number that goes up and down.
#[derive(Default, Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it. Only the worker itself may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn since(now: u64, _: u64) -> u64 {
        now
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Metric {
    name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    doc: &'static str,
    read: fn(&Snapshot) -> u64,
}

/// How a metric moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Metric {
    /// The name that Prometheus sees.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("ringway_{}_total", self.name),
            Kind::Gauge => format!("ringway_{}", self.name),
        }
    }

    /// What is counted, in a sentence.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// Its number in a snapshot.
    pub fn read(&self, snapshot: &Snapshot) -> u64 {
        (self.read)(snapshot)
    }
}

/// The text format of Prometheus.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for metric in METRICS {
            let (name, kind) = (metric.name(), metric.kind);
            writeln!(f, "# HELP {name} {}\n# TYPE {name} {kind}", metric.doc())?;
            writeln!(f, "{name} {}", metric.read(self))?;
        }
        Ok(())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        })
    }
}

/// The reference `docs/metrics.md`, written from the table.
pub fn markdown() -> String {
    let mut page = String::from(MARKDOWN_HEAD);
    for metric in METRICS {
        page.push_str(&format!("| `{}` | {} | {} |\n", metric.name(), metric.kind, metric.doc()));
    }
    page
}

const MARKDOWN_HEAD: &str = "\
# Metrics

What `Handle::metrics()` counts, summed over the workers; as text it has the format of Prometheus. This page
is written from the table in `src/metrics.rs`.

| metric | type | meaning |
| --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed_and_deltas_taken() {
        let workers = [Worker::default(), Worker::default()];
        workers[0].requests_begun.incr();
        workers[1].requests_begun.add(4);
        workers[0].tasks_pending.set(2);
        workers[1].tasks_pending.set(1);
        let before = Snapshot::sum(&workers);
        assert_eq!((before.requests_begun, before.tasks_pending), (5, 3));

        workers[1].requests_begun.incr();
        workers[0].syscalls.set(9);
        workers[0].tasks_pending.set(0);
        let delta = Snapshot::sum(&workers) - before;
        assert_eq!((delta.requests_begun, delta.syscalls, delta.tasks_pending), (1, 9, 1));
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let worker = Worker::default();
        worker.bytes_sent.add(1 << 40);
        let text = Snapshot::sum([&worker]).to_string();
        assert!(text.contains(
            "# HELP ringway_bytes_sent_total Bytes sent.\n# TYPE ringway_bytes_sent_total counter\n\
             ringway_bytes_sent_total 1099511627776\n"
        ));
        assert!(text.contains("# TYPE ringway_tasks_pending gauge\nringway_tasks_pending 0\n"));
        assert_eq!(text.lines().count(), METRICS.len() * 3);
    }

    #[test]
    fn workers_share_no_cache_line() {
        assert_eq!(align_of::<Worker>(), 128);
        assert_eq!(size_of::<Worker>() % 128, 0);
    }
}
