//! The Python side: finding an application, and the threads that call it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyTuple};

use super::aborted::Aborted;
use super::call::{Call, First, Stage};
use super::conversation::{Conversation, Head, Output};
use super::environ::{Maker, latin1};
use super::io::{Errors, FileWrapper, Input};
use super::queue::{Seat, Taken};
use super::threads::Crew;
use super::watch::Slot;
use super::{Hooks, Job, Options, Work};

/// An application that cannot be had: a text of several lines, with the traceback where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

/// Imports `MODULE:CALLABLE`; the callable may be an attribute of one, and is `application` where it is left out. The
/// working directory is searched first.
///
/// # Errors
///
/// [`LoadError`] says what is missing, and where was looked.
pub fn load<'py>(py: Python<'py>, name: &str) -> Result<Bound<'py, PyAny>, LoadError> {
    let (module, callable) = name.split_once(':').unwrap_or((name, "application"));
    let failed =
        |what: String, error: &PyErr| LoadError(format!("{what}\n{}{}", traceback(py, error), place(py)));
    if module.is_empty() || callable.is_empty() {
        return Err(LoadError(format!("{name:?} is not MODULE:CALLABLE, such as app:application")));
    }
    search_here(py).map_err(|error| failed("sys.path cannot be changed".to_owned(), &error))?;
    let mut found = py
        .import(module)
        .map(Bound::into_any)
        .map_err(|error| failed(format!("module {module:?} cannot be imported:"), &error))?;
    for attribute in callable.split('.') {
        found = found
            .getattr(attribute)
            .map_err(|error| failed(format!("module {module:?} has no {callable:?}:"), &error))?;
    }
    if !found.is_callable() {
        let kind = super::io::kind_of(&found);
        return Err(LoadError(format!("{name:?} is no application: {kind} cannot be called")));
    }
    Ok(found)
}

fn search_here(py: Python<'_>) -> PyResult<()> {
    let here = py.import("os")?.call_method0("getcwd")?;
    let path = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
    if !path.contains(&here)? && !path.contains("")? {
        path.insert(0, here)?;
    }
    Ok(())
}

/// Which Python looks where: the answer to most failed imports.
fn place(py: Python<'_>) -> String {
    let look = || -> PyResult<String> {
        let sys = py.import("sys")?;
        let (executable, path) = (sys.getattr("executable")?, sys.getattr("path")?);
        let here = py.import("os")?.call_method0("getcwd")?;
        Ok(format!("working directory: {here}\ninterpreter: {executable}\nsys.path: {path}"))
    };
    look().unwrap_or_default()
}

/// As Python prints it, with a line end.
fn traceback(py: Python<'_>, error: &PyErr) -> String {
    let format = || -> PyResult<String> {
        let parts = (error.get_type(py), error.value(py), error.traceback(py));
        let lines = py.import("traceback")?.call_method1("format_exception", parts)?;
        lines.try_iter()?.map(|line| line?.extract::<String>()).collect()
    };
    format().unwrap_or_else(|_| format!("{error}\n"))
}

/// What all threads of an application share.
pub(super) struct Host {
    application: Py<PyAny>,
    base: Py<PyDict>,
    hooks: Hooks,
    queue_timeout: Duration,
    debug: bool,
}

impl Host {
    pub(super) fn new(application: &Bound<'_, PyAny>, options: &Options, hooks: Hooks) -> PyResult<Host> {
        let py = application.py();
        let base = PyDict::new(py);
        base.set_item("wsgi.version", (1, 0))?;
        base.set_item("wsgi.multithread", options.threads > 1 || options.inline)?;
        base.set_item("wsgi.multiprocess", options.multiprocess)?;
        base.set_item("wsgi.run_once", options.run_once)?;
        base.set_item("wsgi.input_terminated", true)?;
        base.set_item("wsgi.file_wrapper", py.get_type::<FileWrapper>())?;
        Ok(Host {
            application: application.clone().unbind(),
            base: base.unbind(),
            hooks,
            queue_timeout: options.queue_timeout,
            debug: options.debug,
        })
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("application", &self.application).finish_non_exhaustive()
    }
}

/// What a Python thread runs.
#[pyclass(frozen, module = "ringway", name = "Runner")]
pub(super) struct Runner {
    crew: Arc<Crew>,
    /// Where requests are watched.
    slot: Option<Arc<Slot>>,
}

impl Runner {
    pub(super) fn new(crew: Arc<Crew>, slot: Option<Arc<Slot>>) -> Runner {
        Runner { crew, slot }
    }
}

#[pymethods]
impl Runner {
    /// Takes jobs until the server has ended. Attached to the interpreter once, detached while there is none.
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Crew { host, queue, .. } = &*self.crew;
        let slot = self.slot.as_ref();
        slot.map_or(Ok(()), |slot| slot.is_here(py))?;
        let (seat, mut maker) = (Seat::new(), host.maker(py));
        loop {
            // Taken while attached: a job in the hands of a thread that waits for the interpreter would wait with it.
            let work = match queue.take(&seat) {
                Taken::Job(work) => work,
                Taken::Empty => {
                    py.detach(|| seat.wait());
                    continue;
                }
                Taken::Closed => return Ok(()),
            };
            let conversation = match &work {
                Work::Request(job) => job.conversation.clone(),
                Work::Rest(rest) => rest.conversation.clone(),
            };
            let serve = || match work {
                Work::Request(job) => host.serve(py, &mut maker, job, slot),
                Work::Rest(rest) => rest.send(py, host, slot),
            };
            // A bug in here must not cost the thread.
            if catch_unwind(AssertUnwindSafe(serve)).is_err() {
                let _ = conversation.emit([Output::End(Err("the adapter panicked".to_owned()))]);
            }
            if let Some(slot) = slot
                && slot.end()
            {
                self.crew.dismiss(slot);
                return Ok(());
            }
        }
    }
}

impl Host {
    fn serve(&self, py: Python<'_>, maker: &mut Maker, job: Job, slot: Option<&Arc<Slot>>) {
        if job.conversation.is_over() {
            tracing::debug!("skipped a request whose client left while it was queued");
            return;
        }
        if job.queued_at.elapsed() > self.queue_timeout {
            tracing::warn!(
                "a request waited {:?} for a Python thread: answered with 503",
                job.queued_at.elapsed()
            );
            let _ = job.conversation.emit([Output::Busy]);
            return;
        }
        if let Some(served) = self.prepare_or_fail(py, maker, &job) {
            if let Some(slot) = slot {
                let environ = served.environ.clone().unbind();
                slot.begin(environ, job.conversation.clone(), job.queued_at);
            }
            served.run(self);
        }
    }

    /// Serves a request on a worker's thread. Gives back what a thread must do.
    pub(super) fn serve_inline(&self, py: Python<'_>, maker: &mut Maker, job: &Job) -> Option<Rest> {
        let served = self.prepare_or_fail(py, maker, job)?;
        let result = served.call_application(self)?;
        match served.call.get().send_first(&result, || served.errors.get().finish(py)) {
            Ok(First::Complete) => {}
            Ok(First::Rest(items)) => {
                let (conversation, queued_at) = (job.conversation.clone(), job.queued_at);
                let Served { environ, input, errors, call } = served;
                return Some(Rest {
                    environ: environ.unbind(),
                    input: input.unbind(),
                    errors: errors.unbind(),
                    call: call.unbind(),
                    result: result.unbind(),
                    items: items.map(Bound::unbind),
                    conversation,
                    queued_at,
                });
            }
            Err(error) => served.fail(self, &error),
        }
        served.close(&result);
        None
    }

    /// For a thread that makes `environ`s.
    pub(super) fn maker(&self, py: Python<'_>) -> Maker {
        Maker::new(self.base.clone_ref(py), self.hooks.environ.as_ref().map(|extra| extra.clone_ref(py)))
    }

    fn prepare_or_fail<'py>(&self, py: Python<'py>, maker: &mut Maker, job: &Job) -> Option<Served<'py>> {
        self.prepare(py, maker, job)
            .inspect_err(|error| {
                let text = traceback(py, error);
                tracing::error!(target: "ringway::wsgi", "no environ can be made:\n{text}");
                let _ = job.conversation.emit([Output::End(Err("no environ can be made".to_owned()))]);
            })
            .ok()
    }

    fn prepare<'py>(&self, py: Python<'py>, maker: &mut Maker, job: &Job) -> PyResult<Served<'py>> {
        let environ = maker.make(py, job)?;
        let input = Bound::new(py, Input::new(job.conversation.clone()))?;
        let errors = Bound::new(py, Errors::new(job.conversation.clone()))?;
        environ.set_item(intern!(py, "wsgi.input"), &input)?;
        environ.set_item(intern!(py, "wsgi.errors"), &errors)?;
        let aborted = Bound::new(py, Aborted::new(job.conversation.clone()))?;
        environ.set_item(intern!(py, "ringway.aborted"), aborted)?;
        let call = Bound::new(py, Call::new(job.conversation.clone(), job.is_head))?;
        Ok(Served { environ, input, errors, call })
    }
}

/// An answer that began on a worker's thread and goes on in another: its application has returned.
#[derive(Debug)]
pub(super) struct Rest {
    environ: Py<PyDict>,
    input: Py<Input>,
    errors: Py<Errors>,
    call: Py<Call>,
    result: Py<PyAny>,
    /// The iteration, where it has begun.
    items: Option<Py<PyIterator>>,
    pub(super) conversation: Arc<Conversation>,
    queued_at: Instant,
}

impl Rest {
    /// Sends what is left of the answer.
    fn send(self, py: Python<'_>, host: &Host, slot: Option<&Arc<Slot>>) {
        if let Some(slot) = slot {
            slot.begin(self.environ.clone_ref(py), self.conversation.clone(), self.queued_at);
        }
        let (served, result, items) = self.into_bound(py);
        let before_end = || served.errors.get().finish(py);
        let sent = match items {
            Some(items) => served.call.get().send_items(&items, before_end),
            None => served.call.get().send(&result, before_end),
        };
        if let Err(error) = sent {
            served.fail(host, &error);
        }
        served.close(&result);
    }

    /// No thread takes it.
    pub(super) fn refuse(self, py: Python<'_>, host: &Host) {
        let (served, result, _) = self.into_bound(py);
        served.fail(host, &PyRuntimeError::new_err("no thread was free to send the rest of the answer"));
        served.close(&result);
    }

    fn into_bound(self, py: Python<'_>) -> (Served<'_>, Bound<'_, PyAny>, Option<Bound<'_, PyIterator>>) {
        let served = Served {
            environ: self.environ.into_bound(py),
            input: self.input.into_bound(py),
            errors: self.errors.into_bound(py),
            call: self.call.into_bound(py),
        };
        (served, self.result.into_bound(py), self.items.map(|items| items.into_bound(py)))
    }
}

/// A request as Python sees it.
struct Served<'py> {
    environ: Bound<'py, PyDict>,
    input: Bound<'py, Input>,
    errors: Bound<'py, Errors>,
    call: Bound<'py, Call>,
}

impl<'py> Served<'py> {
    fn run(&self, host: &Host) {
        let py = self.environ.py();
        let Some(result) = self.call_application(host) else { return };
        let call = self.call.get();
        // What was said before the answer goes out before its end.
        if let Err(error) = call.send(&result, || self.errors.get().finish(py)) {
            self.fail(host, &error);
        }
        self.close(&result);
    }

    /// What the application returned; `None` where it failed.
    fn call_application(&self, host: &Host) -> Option<Bound<'py, PyAny>> {
        let called = host.application.bind(self.environ.py()).call1((&self.environ, &self.call));
        called.inspect_err(|error| self.fail(host, error)).ok()
    }

    /// PEP 3333: whatever happened.
    fn close(&self, result: &Bound<'_, PyAny>) {
        let py = self.environ.py();
        let closed = result.getattr_opt(intern!(py, "close")).and_then(|close| match close {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        });
        if let Err(error) = closed {
            self.log(&format!("close() failed for {}:\n{}", self.request(), traceback(py, &error)));
        }
        self.errors.get().finish(py);
    }

    /// The application failed: `error` in the logs, a 500 to the visitor if nothing was sent yet.
    fn fail(&self, host: &Host, error: &PyErr) {
        let py = self.environ.py();
        let (stage, traceback) = (self.call.get().stage(), traceback(py, error));
        self.errors.get().finish(py);
        // A client that left, or sent half a body, is no fault of the application's.
        let broken = self.input.get().failure();
        if let Some(reason) = broken.filter(|_| error.is_instance_of::<pyo3::exceptions::PyOSError>(py)) {
            tracing::info!("the application gave up on {}: {reason}", self.request());
            let head = text_head(reason.status());
            return self.call.get().fail(reason.to_string(), (head, Bytes::from(format!("{reason}\n"))));
        }
        let when = match stage {
            Stage::Open => "",
            Stage::Started => " in the middle of its answer",
            Stage::Complete => " after its answer",
        };
        self.log(&format!("the application failed{when} for {}:\n{traceback}", self.request()));
        let instead = match (&host.hooks.on_error, stage) {
            (Some(hook), Stage::Open) => self.instead(hook.bind(py), error).unwrap_or_else(|failed| {
                self.log(&format!("error() failed:\n{}", self::traceback(py, &failed)));
                (text_head(500), "Internal Server Error\n".into())
            }),
            _ if host.debug => (text_head(500), traceback.into()),
            _ => (text_head(500), "Internal Server Error\n".into()),
        };
        self.call.get().fail("the application failed in the middle of its answer".to_owned(), instead);
    }

    /// The answer of an overridden `error()`.
    fn instead(&self, hook: &Bound<'_, PyAny>, error: &PyErr) -> PyResult<(Head, Bytes)> {
        let py = hook.py();
        let value = error.value(py);
        let answer = hook.call1((&self.environ, error.get_type(py), value, error.traceback(py)))?;
        let answer = answer.cast::<PyTuple>()?;
        let (status, headers, body): (u16, Vec<(String, String)>, Bound<'_, PyBytes>) = answer.extract()?;
        let latin1 = |text: String| latin1(&text).unwrap_or_default();
        let headers = headers.into_iter().map(|(name, value)| (name, latin1(value))).collect();
        Ok((Head { status, headers, app_status: 1 }, Bytes::copy_from_slice(body.as_bytes())))
    }

    /// To the log of this process, and to the web server's.
    fn log(&self, text: &str) {
        tracing::error!(target: "ringway::wsgi", "{}", text.trim_end());
        let _ = self.call.get().tell(text);
    }

    fn request(&self) -> String {
        request_line(&self.environ)
    }
}

/// What was asked for, for the log.
pub(super) fn request_line(environ: &Bound<'_, PyDict>) -> String {
    let get = |name: &str| {
        let value = environ.get_item(name).ok().flatten();
        value.map(|value| value.to_string()).unwrap_or_default()
    };
    format!("{} {:?}", get("REQUEST_METHOD").escape_debug(), get("SCRIPT_NAME") + &get("PATH_INFO"))
}

fn text_head(status: u16) -> Head {
    let headers = vec![("Content-Type".to_owned(), b"text/plain; charset=utf-8".to_vec())];
    Head { status, headers, app_status: 1 }
}
