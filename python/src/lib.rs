//! `ringway._ringway`: what the Python package needs of the engine. Its contract for users is in `ringway/`.

mod logging;
mod prefork;

use std::path::PathBuf;
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ringway::config::{File, Origin, SETTINGS};
use ringway::wsgi::{self, Application, Hooks};
use ringway::{Config, Server, as_cgi};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use logging::Logging;

create_exception!(
    ringway,
    LoadError,
    PyException,
    "The application cannot be imported; says where was looked."
);

/// What threads are given to finish after the last request.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A setting as the command line shows it.
#[derive(IntoPyObject)]
struct Row {
    key: &'static str,
    flag: String,
    section: &'static str,
    placeholder: &'static str,
    doc: &'static str,
    default: String,
    is_list: bool,
    is_switch: bool,
}

/// What is not a setting of the engine.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct How {
    threads: usize,
    inline: bool,
    queue_max: usize,
    queue_timeout: String,
    slow_log: String,
    stuck_max: usize,
    multiprocess: bool,
    debug: bool,
    /// As a CGI program, wherever the process was started.
    force_cgi: bool,
    /// Obeys signals; possible on any thread.
    signals: bool,
    log: String,
    /// `stderr` or `logging`.
    log_to: String,
}

/// Serves until a signal ends the server. Returns how many threads are still busy then.
#[pyfunction]
#[pyo3(signature = (application, settings, how, environ=None, on_error=None))]
fn serve(
    py: Python<'_>,
    application: &Bound<'_, PyAny>,
    settings: Vec<(String, Vec<String>)>,
    how: How,
    environ: Option<Py<PyDict>>,
    on_error: Option<Py<PyAny>>,
) -> PyResult<usize> {
    let config = read(&settings).map_err(|error| failure(error.into()))?;
    start_log(&how.log)?;
    let logging = Logging::wanted(py, &how.log_to)?;
    let is_cgi = how.force_cgi || (config.listen.is_empty() && as_cgi::is_meant());
    let options = options_of(&how, &config, is_cgi)?;
    let (application, mut threads) = Application::start(application, &options, Hooks { environ, on_error })?;
    let mount = config.mount.clone();
    let outcome = py.detach(|| {
        let server = application.mount(Server::builder().config(config), &mount);
        if is_cgi {
            return as_cgi::answer(server);
        }
        if how.signals {
            server.run()?
        } else {
            server.start()?.wait()?
        }
        Ok(())
    });
    let busy = threads.join(py, JOIN_TIMEOUT)?;
    logging.map_or(Ok(()), |logging| logging.end(py))?;
    match outcome {
        Ok(()) => Ok(busy),
        Err(as_cgi::Error::Server(error)) => Err(failure(error)),
        Err(error) => Err(PyRuntimeError::new_err(error.to_string())),
    }
}

fn duration(name: &str, text: &str) -> PyResult<Duration> {
    ringway::config::parse_duration(text)
        .map_err(|reason| PyValueError::new_err(format!("{name} {text:?}: {reason}")))
}

/// How the application is run.
fn options_of(how: &How, config: &Config, is_cgi: bool) -> PyResult<wsgi::Options> {
    let mut options = wsgi::Options::default();
    options.threads = how.threads;
    options.inline = how.inline;
    options.queue_max = how.queue_max;
    options.queue_timeout = duration("queue_timeout", &how.queue_timeout)?;
    options.slow_log = duration("slow_log", &how.slow_log)?;
    options.request_timeout = config.request_timeout;
    options.stuck_max = how.stuck_max;
    options.obeys_signals = how.signals;
    // Whoever spawned this process may have spawned more.
    options.multiprocess = how.multiprocess || config.listen.is_empty();
    options.debug = how.debug;
    Ok(if is_cgi { options.once() } else { options })
}

/// ValueError for what the operator can set right, RuntimeError for what happened.
fn failure(error: ringway::Error) -> PyErr {
    let text = error.to_string();
    if error.is_usage() { PyValueError::new_err(text) } else { PyRuntimeError::new_err(text) }
}

/// Defaults, then the environment, then what the caller says.
fn read(settings: &[(String, Vec<String>)]) -> Result<Config, ringway::config::Error> {
    let mut config = Config::default();
    // The interpreter runs on one core at a time, and so few workers keep it busy.
    config.workers = 1;
    config.read_env(std::env::vars_os())?;
    for (key, values) in settings {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let reason = "no such setting; docs/configuration.md lists them";
            return Err(ringway::config::Error::new(key, &values.join(","), Origin::Code, reason));
        };
        setting.set(&mut config, &values, Origin::Code)?;
    }
    Ok(config)
}

/// To stderr, or to Python's `logging` while that is started. A log that is there already stays.
fn start_log(filter: &str) -> PyResult<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| PyValueError::new_err(format!("log {filter:?}: {error}")))?;
    // Not a filter of tracing's, which would make each line that is not wanted ask for it.
    let stderr = std::io::stderr.with_filter(|_| !logging::is_on());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(false).finish();
    // Fails where there is one.
    let _ = log.with(logging::ToPython).try_init();
    Ok(())
}

/// Every setting of the engine.
#[pyfunction]
fn settings() -> Vec<Row> {
    let defaults = Config::default();
    let row = |setting: &'static ringway::config::Setting| Row {
        key: setting.key,
        flag: setting.flag(),
        section: setting.section,
        placeholder: setting.placeholder(),
        doc: setting.doc(),
        default: if setting.key == "workers" { "1".to_owned() } else { setting.show(&defaults) },
        is_list: setting.is_list(),
        is_switch: setting.is_switch(),
    };
    SETTINGS.iter().map(row).collect()
}

/// What a TOML file has: settings of the engine, which are checked, and those of `others`; each with its values as in
/// flags.
#[pyfunction]
fn read_config_file(path: PathBuf, others: Vec<String>) -> PyResult<Vec<(String, Vec<String>)>> {
    let failed = |error: ringway::config::Error| PyValueError::new_err(error.to_string());
    let mut file = File::read(&path).map_err(failed)?;
    let mut found = Vec::new();
    for other in others {
        if let Some(values) = file.take(&other).map_err(failed)? {
            found.push((other, values));
        }
    }
    file.apply(&mut Config::default()).map_err(failed)?;
    found.extend(file.settings().map(|(key, values)| (key.to_owned(), values.to_vec())));
    Ok(found)
}

/// The application that `MODULE:CALLABLE` names.
#[pyfunction]
fn load<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    wsgi::load(py, name).map_err(|error| LoadError::new_err(error.to_string()))
}

#[pymodule(gil_used = false)]
fn _ringway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("LoadError", module.py().get_type::<LoadError>())?;
    module.add_class::<prefork::Listeners>()?;
    module.add_class::<prefork::Running>()?;
    module.add_function(wrap_pyfunction!(prefork::bind, module)?)?;
    module.add_function(wrap_pyfunction!(prefork::start, module)?)?;
    module.add_function(wrap_pyfunction!(prefork::log, module)?)?;
    module.add_function(wrap_pyfunction!(prefork::seconds, module)?)?;
    module.add_function(wrap_pyfunction!(prefork::is_cgi, module)?)?;
    module.add_function(wrap_pyfunction!(serve, module)?)?;
    module.add_function(wrap_pyfunction!(settings, module)?)?;
    module.add_function(wrap_pyfunction!(read_config_file, module)?)?;
    module.add_function(wrap_pyfunction!(load, module)?)
}
