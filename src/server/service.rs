//! What a service manager is told (sd_notify(3)): that the server is ready, that it stops, how it is, and that it is
//! alive. Where nobody asks (NOTIFY_SOCKET is not set), nothing of this runs.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::engine::{Engine, Order};
use crate::metrics::Snapshot;

/// How often the status is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Whether there is a service manager that listens.
fn is_wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The server begins to drain or to stop.
pub(super) fn stopping() {
    if is_wanted() {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager at NOTIFY_SOCKET: {error}");
    }
}

/// Reports until it is dropped.
pub(super) struct Reporter {
    /// Dropped to end the thread.
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Says that the server is ready, and goes on from there. `None` where nobody listens.
    pub(super) fn start(engine: &Engine) -> io::Result<Option<Reporter>> {
        if !is_wanted() {
            return Ok(None);
        }
        let workers = engine.metrics.clone();
        let control = engine.control.clone();
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        let (end, ended) = mpsc::channel();
        let report = move || {
            let status = || {
                let sum = Snapshot::sum(workers.iter().map(|worker| &**worker));
                describe(control.order(), control.loads.total(), &sum)
            };
            let mut said = status();
            tell(&[NotifyState::Ready, NotifyState::Status(&said)]);
            // Each worker is woken, and has a quarter of the watchdog's time to do a turn.
            let tick = watchdog.map_or(STATUS_EVERY, |limit| (limit / 4).min(STATUS_EVERY));
            let turns = || workers.iter().map(|worker| worker.turns.get()).collect::<Vec<u64>>();
            let mut before = turns();
            control.wake();
            while ended.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                let now = status();
                if now != said {
                    tell(&[NotifyState::Status(&now)]);
                    said = now;
                }
                if watchdog.is_some() {
                    let after = turns();
                    let all_turn = before.iter().zip(&after).all(|(before, after)| before != after);
                    // While the server drains, workers end one by one; that has a limit of its own.
                    if all_turn || control.order() != Order::Serve {
                        tell(&[NotifyState::Watchdog]);
                        before = after;
                    }
                    control.wake();
                }
            }
        };
        let thread = std::thread::Builder::new().name("ringway-service".into()).spawn(report)?;
        Ok(Some(Reporter { end: Some(end), thread: Some(thread) }))
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end = None;
        // It only tells; it cannot fail.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What `systemctl status` shows.
fn describe(order: Order, connections: usize, counted: &Snapshot) -> String {
    let doing = if order == Order::Serve { "serving" } else { "draining" };
    let Snapshot { tasks_pending, requests_finished, requests_failed, requests_refused, .. } = counted;
    format!(
        "{doing}: {connections} connections, {tasks_pending} handlers waiting; {requests_finished} requests answered, \
         {requests_failed} failed, {requests_refused} refused"
    )
}
