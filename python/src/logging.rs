//! The engine's log in Python's `logging`.
//!
//! ```text
//!   workers, Python threads ─▶ bounded queue ─▶ one Python thread ─▶ logging.getLogger("ringway…")
//! ```
//!
//! Whoever logs must not wait for the interpreter: a worker would stand still while Python computes, and a Python
//! thread that waits for that worker would wait for ever. (So pyo3-log, which enters the interpreter where it is called,
//! is none for here.) Lines that do not fit are counted, and the count is logged.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, bounded};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that wait for Python.
const LINES_MAX: usize = 4096;
/// What the lines that wait are given at the end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Where lines go while a server logs to Python.
static QUEUE: RwLock<Option<Sender<Line>>> = RwLock::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This is the thread that logs: what its handlers cause to be logged goes to stderr, not round and round.
    static IS_LOGGING: Cell<bool> = const { Cell::new(false) };
}

struct Line {
    metadata: &'static Metadata<'static>,
    message: String,
    at: SystemTime,
    thread: Option<String>,
}

/// Whether a line of this thread is one for Python now. Lines are otherwise for stderr.
pub(crate) fn is_on() -> bool {
    !IS_LOGGING.get() && QUEUE.read().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Queues the lines for Python.
pub(crate) struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if IS_LOGGING.get() {
            return;
        }
        let queue = QUEUE.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else { return };
        let mut message = Message::default();
        event.record(&mut message);
        let thread = std::thread::current().name().map(str::to_owned);
        let line = Line { metadata: event.metadata(), message: message.0, at: SystemTime::now(), thread };
        if queue.try_send(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The text of an event, then its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

/// The thread that logs.
pub(crate) struct Logging {
    thread: Py<PyAny>,
}

impl Logging {
    /// Starts it where `log_to` says so.
    pub(crate) fn wanted(py: Python<'_>, log_to: &str) -> PyResult<Option<Logging>> {
        match log_to {
            "stderr" => Ok(None),
            "logging" => Logging::start(py).map(Some),
            _ => {
                let text = format!("log_to {log_to:?}: the log goes to \"stderr\" or to \"logging\"");
                Err(PyValueError::new_err(text))
            }
        }
    }

    /// From now on lines go to Python.
    fn start(py: Python<'_>) -> PyResult<Logging> {
        let (queue, lines) = bounded(LINES_MAX);
        let keywords = PyDict::new(py);
        keywords.set_item("target", Pump { lines })?;
        keywords.set_item("name", "ringway-log")?;
        keywords.set_item("daemon", true)?;
        let thread = py.import("threading")?.getattr("Thread")?.call((), Some(&keywords))?;
        thread.call_method0("start")?;
        *QUEUE.write().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        Ok(Logging { thread: thread.unbind() })
    }

    /// From now on lines go to stderr again. Waits until those before are logged.
    pub(crate) fn end(self, py: Python<'_>) -> PyResult<()> {
        // Its drop ends the thread.
        drop(QUEUE.write().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.call_method1(py, "join", (END_TIMEOUT.as_secs_f64(),))?;
        Ok(())
    }
}

/// What the thread runs.
#[pyclass(frozen, module = "ringway")]
struct Pump {
    lines: Receiver<Line>,
}

#[pymethods]
impl Pump {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        IS_LOGGING.set(true);
        let mut loggers = Loggers { get: py.import("logging")?.getattr("getLogger")?, known: HashMap::new() };
        while let Ok(line) = py.detach(|| self.lines.recv()) {
            if let Err(error) = loggers.log(&line) {
                error.write_unraisable(py, None);
            }
            let lost = LOST.swap(0, Ordering::Relaxed);
            if lost > 0
                && let Err(error) = loggers.log_loss(lost)
            {
                error.write_unraisable(py, None);
            }
        }
        Ok(())
    }
}

/// Python's loggers, by the engine's names for them.
struct Loggers<'py> {
    get: Bound<'py, PyAny>,
    known: HashMap<&'static str, Bound<'py, PyAny>>,
}

impl<'py> Loggers<'py> {
    fn named(&mut self, target: &'static str) -> PyResult<Bound<'py, PyAny>> {
        if let Some(logger) = self.known.get(target) {
            return Ok(logger.clone());
        }
        let logger = self.get.call1((target.replace("::", "."),))?;
        self.known.insert(target, logger.clone());
        Ok(logger)
    }

    fn log(&mut self, line: &Line) -> PyResult<()> {
        let Line { metadata, message, at, thread } = line;
        let (logger, level) = (self.named(metadata.target())?, level_of(*metadata.level()));
        if !logger.call_method1("isEnabledFor", (level,))?.extract::<bool>()? {
            return Ok(());
        }
        let py = logger.py();
        let place = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        let arguments =
            (logger.getattr("name")?, level, place.0, place.1, message, PyTuple::empty(py), py.None());
        let record = logger.call_method1("makeRecord", arguments)?;
        // When and where it was said, not when Python came to it.
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        record.setattr("created", since.as_secs_f64())?;
        record.setattr("msecs", f64::from(since.subsec_millis()))?;
        if let Some(thread) = thread {
            record.setattr("threadName", thread)?;
        }
        logger.call_method1("handle", (record,)).map(drop)
    }

    fn log_loss(&mut self, lost: u64) -> PyResult<()> {
        let text = format!("{lost} lines of the log were lost: the handlers of `logging` are too slow");
        self.named("ringway")?.call_method1("warning", (text,)).map(drop)
    }
}

fn level_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        // Below all of Python's.
        Level::TRACE => 5,
    }
}
