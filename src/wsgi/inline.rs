//! Applications that run on the workers' own threads: no hand-over, so the least latency.
//!
//! ```text
//!   worker ─▶ body, up to INLINE_BODY_BYTES_MAX ─▶ application(environ, start_response) ─▶ first piece of the answer
//!                 │ longer                                                                     │ not all of it
//!                 └──────────────▶ queue ─▶ Python thread ◀── the rest of the iterable ────────┘
//! ```
//!
//! While the application runs, its worker does nothing else: this suits applications that compute, not those that wait.
//! What would have the worker wait for itself goes to the threads.

use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::prelude::*;

use super::environ::Maker;
use super::threads::Crew;
use super::{Job, Work};

/// A request with a longer body is a thread's.
pub(super) const INLINE_BODY_BYTES_MAX: usize = 1 << 20;

/// Runs requests on the thread that calls.
#[derive(Debug)]
pub(super) struct Inline {
    crew: Arc<Crew>,
    /// Of the workers that are not in Python now.
    makers: Mutex<Vec<Maker>>,
}

impl Inline {
    pub(super) fn new(crew: Arc<Crew>) -> Inline {
        Inline { crew, makers: Mutex::default() }
    }

    /// Runs a request whose body is there. What it says waits in its conversation.
    pub(super) fn serve(&self, job: Job) {
        let host = &self.crew.host;
        Python::attach(|py| {
            let mut maker = self.lock().pop().unwrap_or_else(|| host.maker(py));
            job.conversation.set_inline(true);
            let rest = host.serve_inline(py, &mut maker, &job);
            job.conversation.set_inline(false);
            self.lock().push(maker);
            if let Some(rest) = rest
                && let Err((_, Work::Rest(rest))) = self.crew.queue.put(Work::Rest(rest))
            {
                rest.refuse(py, host);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Maker>> {
        super::lock(&self.makers)
    }
}

/// Keeps a worker's thread known to the interpreter as long as it lives: otherwise each request would make it known and
/// forget it again, and with it what the application keeps for a thread.
pub(super) fn surround(life: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(life));
}
