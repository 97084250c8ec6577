//! Watches over Python threads: says which requests are slow, and gives up threads that do not come back.
//!
//! ```text
//!   Python thread ─▶ Slot: since when, which request ◀─ Watch, a thread of its own ─▶ the log, Crew::hire
//! ```
//!
//! A request costs its thread two stores and a lock that nobody else holds. The watch sleeps until something may be
//! late, and enters the interpreter only to say what it found.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rustix::process::{Signal, getpid, kill_process};

use super::Options;
use super::conversation::Conversation;
use super::interpreter::request_line;
use super::threads::Crew;

/// When the engine has ended a request, an application that waits for its client ends by itself: its thread is given up
/// if it is still there after so many looks. Not after a time, since on a machine that stands still time passes alone.
const LOOKS: u64 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a thread is given to let others into the interpreter, where `request_timeout` is not longer.
const HELD_MIN: Duration = Duration::from_secs(5);

/// What one Python thread does. It writes, the watch reads.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    epoch: Instant,
    /// As `threading.get_ident()` has it.
    ident: AtomicU64,
    /// Microseconds from the epoch to when the application was called; 0 while no request is served.
    begun: AtomicU64,
    /// The same to when the request was queued.
    queued: AtomicU64,
    /// `begun` of the request that was last said to be slow, and late: once is enough. The watch's own.
    said_slow: AtomicU64,
    said_late: AtomicU64,
    /// How often the watch looked since the request was ended.
    looks: AtomicU64,
    is_given_up: AtomicBool,
    /// Locked to decide whether a thread has come back before it was given up.
    request: Mutex<Option<Watched>>,
}

/// A request that is served.
#[derive(Debug)]
struct Watched {
    environ: Py<PyDict>,
    conversation: Arc<Conversation>,
}

impl Slot {
    pub(super) fn new(name: String, epoch: Instant) -> Slot {
        Slot {
            name,
            epoch,
            ident: AtomicU64::default(),
            begun: AtomicU64::default(),
            queued: AtomicU64::default(),
            said_slow: AtomicU64::default(),
            said_late: AtomicU64::default(),
            looks: AtomicU64::default(),
            is_given_up: AtomicBool::default(),
            request: Mutex::default(),
        }
    }

    /// Called by the thread itself, before its first request.
    pub(super) fn is_here(&self, py: Python<'_>) -> PyResult<()> {
        let ident = py.import("threading")?.call_method0("get_ident")?.extract()?;
        self.ident.store(ident, Ordering::Relaxed);
        Ok(())
    }

    /// The thread calls the application for a request that was queued at that time.
    pub(super) fn begin(&self, environ: Py<PyDict>, conversation: Arc<Conversation>, queued_at: Instant) {
        *self.lock() = Some(Watched { environ, conversation });
        self.queued.store(self.micros(queued_at), Ordering::Relaxed);
        self.begun.store(self.micros(Instant::now()), Ordering::Release);
    }

    /// The thread has done with the request. Whether it was given up meanwhile.
    pub(super) fn end(&self) -> bool {
        self.begun.store(0, Ordering::Relaxed);
        let request = self.lock().take();
        // Not under the lock: Python may run.
        drop(request);
        self.is_given_up()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Unless the request of `begun` has ended.
    fn give_up(&self, begun: u64) -> bool {
        let request = self.lock();
        let is_stuck = request.is_some() && self.begun.load(Ordering::Relaxed) == begun;
        if is_stuck {
            self.is_given_up.store(true, Ordering::Relaxed);
        }
        is_stuck
    }

    /// Whether nobody wants the answer any more.
    fn is_over(&self) -> bool {
        self.lock().as_ref().is_some_and(|request| request.conversation.is_over())
    }

    /// Never 0.
    fn micros(&self, at: Instant) -> u64 {
        // An application of half a million years.
        at.saturating_duration_since(self.epoch).as_micros() as u64 + 1
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watched>> {
        super::lock(&self.request)
    }
}

/// The thread that watches. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    /// Dropped to end the thread.
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub(super) fn is_wanted(options: &Options) -> bool {
        !options.slow_log.is_zero() || !options.request_timeout.is_zero()
    }

    pub(super) fn start(crew: Arc<Crew>, options: &Options) -> io::Result<Watch> {
        let wanted = |limit: Duration| if limit.is_zero() { None } else { Some(limit) };
        let watcher = Watcher {
            crew,
            slow: wanted(options.slow_log),
            late: wanted(options.request_timeout),
            threads: options.threads.max(1),
            stuck_max: options.stuck_max,
            obeys_signals: options.obeys_signals,
        };
        let (end, ended) = bounded(0);
        let thread =
            std::thread::Builder::new().name("ringway-watch".into()).spawn(move || watcher.run(&ended))?;
        Ok(Watch { end, thread })
    }

    /// Ends the thread and waits for it. It may be waiting for the interpreter: be detached from that.
    pub(super) fn join(self) {
        drop(self.end);
        // It only tells; it cannot fail.
        let _ = self.thread.join();
    }
}

struct Watcher {
    crew: Arc<Crew>,
    slow: Option<Duration>,
    late: Option<Duration>,
    threads: usize,
    stuck_max: usize,
    obeys_signals: bool,
}

impl Watcher {
    fn run(self, ended: &Receiver<()>) {
        loop {
            let next = self.look();
            if ended.recv_deadline(next) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Says what is to be said now. Returns when to look again.
    fn look(&self) -> Instant {
        let limits = [self.slow, self.late];
        let shortest = limits.into_iter().flatten().min().unwrap_or(LOOK_EVERY);
        // What begins after this look cannot be late before that.
        let mut next = Instant::now() + shortest;
        for slot in self.crew.slots() {
            let begun = slot.begun.load(Ordering::Acquire);
            if begun == 0 || slot.is_given_up() {
                continue;
            }
            let at = |micros: u64| slot.epoch + Duration::from_micros(micros);
            let is_due = |due: Instant, next: &mut Instant| {
                let is_due = due <= Instant::now();
                if !is_due {
                    *next = due.min(*next);
                }
                is_due
            };
            if let Some(slow) = self.slow
                && slot.said_slow.load(Ordering::Relaxed) != begun
                && is_due(at(begun) + slow, &mut next)
            {
                slot.said_slow.store(begun, Ordering::Relaxed);
                self.tell(&slot, begun, "slow");
            }
            let Some(late) = self.late else { continue };
            let due = at(slot.queued.load(Ordering::Relaxed)) + late;
            if slot.said_late.load(Ordering::Relaxed) != begun && is_due(due, &mut next) {
                slot.said_late.store(begun, Ordering::Relaxed);
                slot.looks.store(0, Ordering::Relaxed);
                self.tell(&slot, begun, "request_timeout passed");
            }
            if slot.said_late.load(Ordering::Relaxed) == begun {
                next = next.min(Instant::now() + LOOK_EVERY);
                if slot.is_over() && slot.looks.fetch_add(1, Ordering::Relaxed) >= LOOKS {
                    self.replace(&slot, begun);
                }
            }
        }
        next
    }

    /// One line of the log with the traceback of the thread, if it still serves the request.
    fn tell(&self, slot: &Slot, begun: u64, what: &str) {
        self.enter(|py| {
            let environ = slot.lock().as_ref().map(|request| request.environ.clone_ref(py));
            let stack = stack(py, slot.ident.load(Ordering::Relaxed));
            let Some(environ) = environ.filter(|_| slot.begun.load(Ordering::Relaxed) == begun) else {
                return;
            };
            let runs = Duration::from_micros(slot.micros(Instant::now()) - begun);
            let waited = Duration::from_micros(begun.saturating_sub(slot.queued.load(Ordering::Relaxed)));
            let (busy, threads) = (self.busy(), self.threads);
            let queued = self.crew.queued();
            let stack = stack.unwrap_or_else(|error| format!("(it cannot be said where: {error})"));
            tracing::warn!(
                target: "ringway::wsgi",
                "{what}: {} has run for {runs:.1?}, after {waited:.1?} in the queue, on {} ({busy} of {threads} \
                 threads busy, {queued} requests queued), and is here:\n{}",
                request_line(environ.bind(py)),
                slot.name,
                stack.trim_end(),
            );
        });
    }

    /// Calls `look` in the interpreter. `None` where that ends; where nobody gets in any more the process does.
    fn enter<T: Send>(&self, look: impl FnOnce(Python<'_>) -> T + Send) -> Option<T> {
        let (give, take) = bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || give.send(Python::try_attach(look)));
            let patience = self.late.unwrap_or_default().max(HELD_MIN);
            match take.recv_timeout(patience) {
                Ok(seen) => return seen,
                Err(RecvTimeoutError::Timeout) => self.held(patience),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            take.recv().ok().flatten()
        })
    }

    /// Whoever has the interpreter does not let it go: no request is served, and Python cannot say where it is.
    fn held(&self, patience: Duration) {
        let what = "the interpreter was not let go";
        let why = "a C extension computes, or waits, without letting other threads run";
        if self.late.is_none() {
            tracing::error!(target: "ringway::wsgi", "{what} for {patience:?}: {why}");
            return;
        }
        tracing::error!(
            target: "ringway::wsgi",
            "{what} for {patience:?} after request_timeout: {why}; aborting, for whoever supervises this process to \
             start it anew"
        );
        // faulthandler, where it is enabled, writes every thread's traceback without the interpreter.
        std::process::abort();
    }

    fn busy(&self) -> usize {
        let is_busy = |slot: &Arc<Slot>| slot.begun.load(Ordering::Relaxed) != 0 && !slot.is_given_up();
        self.crew.slots().iter().filter(|slot| is_busy(slot)).count()
    }

    /// Gives the thread up and starts another, or the end of the process.
    fn replace(&self, slot: &Slot, begun: u64) {
        let stuck = self.crew.stuck();
        if stuck >= self.stuck_max {
            if self.crew.exhaust() {
                self.exhausted(stuck);
            }
            return;
        }
        if !slot.give_up(begun) {
            return;
        }
        self.crew.has_lost();
        let hired = self.enter(|py| self.crew.hire(py));
        let (stuck, max, name) = (stuck + 1, self.stuck_max, &slot.name);
        match hired {
            Some(Ok(())) => tracing::warn!(
                target: "ringway::wsgi",
                "{name} is stuck: another thread takes its place ({stuck} stuck; more than {max} end the process)"
            ),
            Some(Err(error)) => {
                tracing::error!(target: "ringway::wsgi", "no thread can take the place of {name}: {error}");
            }
            // The interpreter ends.
            None => {}
        }
    }

    fn exhausted(&self, stuck: usize) {
        let more = stuck + 1;
        if !self.obeys_signals {
            tracing::error!(
                target: "ringway::wsgi",
                "{more} Python threads are stuck, more than {} are not replaced: this process is to be started anew",
                self.stuck_max
            );
            return;
        }
        tracing::error!(
            target: "ringway::wsgi",
            "{more} Python threads are stuck, more than {} are not replaced: ending, for whoever supervises this \
             process to start it anew",
            self.stuck_max
        );
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            tracing::error!(target: "ringway::wsgi", "cannot send SIGTERM to this process: {error}");
        }
    }
}

/// Where a thread is, as tracebacks have it.
fn stack(py: Python<'_>, ident: u64) -> PyResult<String> {
    let gc = py.import("gc")?;
    let is_enabled: bool = gc.call_method0("isenabled")?.extract()?;
    // A collection inside of _current_frames() can deadlock before CPython 3.12 (gh-106883).
    gc.call_method0("disable")?;
    let frames = py.import("sys")?.call_method0("_current_frames");
    if is_enabled {
        gc.call_method0("enable")?;
    }
    let frame = frames?.get_item(ident)?;
    let traceback = py.import("traceback")?;
    let all = traceback.call_method1("extract_stack", (frame,))?;
    let threading = py.import("threading")?.getattr("__file__")?;
    let shown = PyList::empty(py);
    for entry in all.try_iter()? {
        let entry = entry?;
        // The way that every thread begins.
        if shown.is_empty() && entry.getattr("filename")?.eq(&threading)? {
            continue;
        }
        shown.append(entry)?;
    }
    let lines: Vec<String> = traceback.call_method1("format_list", (shown,))?.extract()?;
    Ok(format!("Stack (most recent call last):\n{}", lines.concat()))
}
