//! The Python threads of an application: started, given up where they are stuck, waited for at the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interpreter::{Host, Runner};
use super::queue::Queue;
use super::watch::{Slot, Watch};
use super::{Options, Work};

/// The Python threads of an [`Application`](super::Application).
#[derive(Debug)]
pub struct Threads {
    crew: Arc<Crew>,
    watch: Option<Watch>,
}

/// Those who take jobs.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) host: Host,
    pub(super) queue: Arc<Queue<Work>>,
    is_watched: bool,
    begun_at: Instant,
    hired: AtomicUsize,
    /// Threads that were given up and have not come back.
    stuck: AtomicUsize,
    is_exhausted: AtomicBool,
    members: Mutex<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    thread: Py<PyAny>,
    slot: Arc<Slot>,
}

impl Threads {
    pub(super) fn start(
        py: Python<'_>,
        host: Host,
        queue: Arc<Queue<Work>>,
        options: &Options,
    ) -> PyResult<Threads> {
        let crew = Arc::new(Crew {
            host,
            queue,
            is_watched: Watch::is_wanted(options),
            begun_at: Instant::now(),
            hired: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            is_exhausted: AtomicBool::new(false),
            members: Mutex::default(),
        });
        let mut threads = Threads { crew, watch: None };
        let crew = &threads.crew;
        for _ in 0..options.threads.max(1) {
            crew.hire(py)?;
        }
        if crew.is_watched {
            threads.watch = Some(Watch::start(crew.clone(), options)?);
        }
        Ok(threads)
    }

    pub(super) fn crew(&self) -> Arc<Crew> {
        self.crew.clone()
    }

    /// Takes no more requests and waits until the threads have ended, `timeout` at most. Returns how many have not.
    pub fn join(&mut self, py: Python<'_>, timeout: Duration) -> PyResult<usize> {
        self.crew.queue.close();
        let watch = self.watch.take();
        py.detach(|| watch.map(Watch::join));
        let end = Instant::now() + timeout;
        let mut running = 0;
        for Member { thread, slot } in std::mem::take(&mut *self.crew.lock()) {
            // One that was given up was waited for already.
            if !slot.is_given_up() {
                let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
                thread.call_method1(py, "join", (left,))?;
            }
            running += usize::from(thread.call_method0(py, "is_alive")?.extract::<bool>(py)?);
        }
        Ok(running)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.crew.queue.close();
    }
}

impl Crew {
    /// Starts one more thread.
    pub(super) fn hire(self: &Arc<Crew>, py: Python<'_>) -> PyResult<()> {
        let name = format!("ringway-wsgi-{}", self.hired.fetch_add(1, Ordering::Relaxed) + 1);
        let slot = Arc::new(Slot::new(name.clone(), self.begun_at));
        let runner = Runner::new(self.clone(), self.is_watched.then(|| slot.clone()));
        let keywords = PyDict::new(py);
        keywords.set_item("target", runner)?;
        keywords.set_item("name", name)?;
        keywords.set_item("daemon", true)?;
        let thread = py.import("threading")?.getattr("Thread")?.call((), Some(&keywords))?;
        thread.call_method0("start")?;
        self.lock().push(Member { thread: thread.unbind(), slot });
        Ok(())
    }

    /// What the threads do now.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.lock().iter().map(|member| member.slot.clone()).collect()
    }

    /// Requests that wait for a thread.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Too many are stuck. Whether that is new.
    pub(super) fn exhaust(&self) -> bool {
        !self.is_exhausted.swap(true, Ordering::Relaxed)
    }

    /// A thread was given up.
    pub(super) fn has_lost(&self) {
        self.stuck.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread that was given up came back, and ends.
    pub(super) fn dismiss(&self, slot: &Arc<Slot>) {
        self.stuck.fetch_sub(1, Ordering::Relaxed);
        let mut members = self.lock();
        let place = members.iter().position(|member| Arc::ptr_eq(&member.slot, slot));
        let member = place.map(|place| members.swap_remove(place));
        // Its drop is Python's.
        drop(members);
        drop(member);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        super::lock(&self.members)
    }
}
