//! A parent process that listens, and children that serve; `ringway/_prefork.py` and `_worker.py` drive them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use ringway::wsgi::{Application, Hooks, Threads};
use ringway::{Handle, Passage, Server, as_cgi};

use super::logging::Logging;
use super::{How, JOIN_TIMEOUT, duration, failure, options_of, read, start_log};

/// The listening sockets of a parent process.
#[pyclass(frozen, module = "ringway")]
pub(super) struct Listeners {
    /// `None` once their files were removed.
    bound: Mutex<Option<ringway::Listeners>>,
    /// By which a process that is replaced passes the connections that it keeps on to the others.
    passage: Mutex<Option<Passage>>,
    drain_timeout: Duration,
    is_spawned: bool,
}

#[pymethods]
impl Listeners {
    /// Where clients connect.
    fn addresses(&self) -> Vec<String> {
        lock(&self.bound).iter().flat_map(ringway::Listeners::addresses).map(str::to_owned).collect()
    }

    /// Listens no more in this process.
    fn close(&self) {
        lock(&self.bound).iter_mut().for_each(ringway::Listeners::close);
        *lock(&self.passage) = None;
    }

    /// Removes the files of Unix sockets.
    fn remove(&self) {
        *lock(&self.bound) = None;
    }

    /// Whether all sockets came on file descriptor 0.
    #[getter]
    fn is_spawned(&self) -> bool {
        self.is_spawned
    }

    /// Seconds that a server drains at most.
    #[getter]
    fn drain_timeout(&self) -> f64 {
        self.drain_timeout.as_secs_f64()
    }
}

/// Listens as the settings say. Starts no thread, so that the process may fork.
#[pyfunction]
pub(super) fn bind(settings: Vec<(String, Vec<String>)>, how: How) -> PyResult<Listeners> {
    let config = read(&settings).map_err(|error| failure(error.into()))?;
    start_log(&how.log)?;
    let bound = ringway::Listeners::bind(&config).map_err(failure)?;
    let passage = Passage::new()?;
    let is_spawned = config.listen.iter().all(|address| address == "fd:0");
    Ok(Listeners {
        bound: Mutex::new(Some(bound)),
        passage: Mutex::new(Some(passage)),
        drain_timeout: config.drain_timeout,
        is_spawned,
    })
}

/// A line in the log: `error`, `warn` or `info`.
#[pyfunction]
pub(super) fn log(level: &str, text: &str) {
    match level {
        "error" => tracing::error!(target: "ringway::prefork", "{text}"),
        "warn" => tracing::warn!(target: "ringway::prefork", "{text}"),
        _ => tracing::info!(target: "ringway::prefork", "{text}"),
    }
}

/// Seconds in a text such as `90s` or `12h`, the value of an option; 0 for `0`.
#[pyfunction]
pub(super) fn seconds(name: &str, text: &str) -> PyResult<f64> {
    duration(name, text).map(|duration| duration.as_secs_f64())
}

/// Whether the process was started as a CGI program.
#[pyfunction]
pub(super) fn is_cgi(settings: Vec<(String, Vec<String>)>, force: bool) -> PyResult<bool> {
    let config = read(&settings).map_err(|error| failure(error.into()))?;
    Ok(force || (config.listen.is_empty() && as_cgi::is_meant()))
}

/// A server in a child process. Signals are its caller's affair.
#[pyclass(frozen, module = "ringway")]
pub(super) struct Running {
    state: Mutex<(Handle, Threads)>,
    logging: Mutex<Option<Logging>>,
}

#[pymethods]
impl Running {
    /// Whether it serves or drains.
    fn is_running(&self) -> bool {
        lock(&self.state).0.is_running()
    }

    /// Requests that have begun so far.
    fn requests(&self) -> u64 {
        lock(&self.state).0.metrics().requests_begun
    }

    /// As `drain`, while other processes go on: they take over the connections that are kept.
    fn retire(&self) {
        lock(&self.state).0.retire();
    }

    /// Accepts no more, answers what has begun, then ends.
    fn drain(&self) {
        lock(&self.state).0.drain();
    }

    /// Ends at once.
    fn stop(&self) {
        lock(&self.state).0.stop();
    }

    /// Waits for the end. Returns how many Python threads are still busy then.
    fn wait(&self, py: Python<'_>) -> PyResult<usize> {
        let outcome = py.detach(|| lock(&self.state).0.wait());
        let busy = lock(&self.state).1.join(py, JOIN_TIMEOUT)?;
        lock(&self.logging).take().map_or(Ok(()), |logging| logging.end(py))?;
        outcome.map(|()| busy).map_err(failure)
    }
}

/// Serves on the sockets of the parent process, and returns while it serves.
#[pyfunction]
#[pyo3(signature = (application, settings, how, listeners, environ=None, on_error=None))]
pub(super) fn start(
    py: Python<'_>,
    application: &Bound<'_, PyAny>,
    settings: Vec<(String, Vec<String>)>,
    how: How,
    listeners: &Listeners,
    environ: Option<Py<PyDict>>,
    on_error: Option<Py<PyAny>>,
) -> PyResult<Running> {
    let mut config = read(&settings).map_err(|error| failure(error.into()))?;
    start_log(&how.log)?;
    let logging = Logging::wanted(py, &how.log_to)?;
    let options = options_of(&how, &config, false)?;
    let (application, threads) = Application::start(application, &options, Hooks { environ, on_error })?;
    let sockets = match &mut *lock(&listeners.bound) {
        Some(bound) => {
            let sockets = bound.sockets()?;
            bound.close();
            sockets
        }
        None => Vec::new(),
    };
    config.listen.clear();
    let mount = config.mount.clone();
    let server = application.mount(Server::builder().config(config), &mount);
    let server = sockets.into_iter().fold(server, ringway::Builder::listener);
    let server = match lock(&listeners.passage).take() {
        Some(passage) => server.passage(passage),
        None => server,
    };
    let handle = py.detach(|| server.start()).map_err(failure)?;
    Ok(Running { state: Mutex::new((handle, threads)), logging: Mutex::new(logging) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
