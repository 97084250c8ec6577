//! `ringway serve wsgi:MODULE:CALLABLE`: a Python application, in an interpreter inside of this process.

use std::time::Duration;

use clap::Args;
use pyo3::Python;
use ringway::wsgi::{self, Application, Hooks, Threads};
use ringway::{Config, Server};

use super::Failure;

/// What threads are given to finish after the last request.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(next_help_heading = "Python")]
/// Named apart from the command's own, since clap makes a group of each name.
pub(super) struct PythonOptions {
    /// Python threads, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Call the application on the worker's own thread: for those that compute and do not wait
    #[arg(long)]
    inline: bool,
    /// Requests that wait for a thread; one more is answered with 503
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    queue_max: u32,
    /// A request that waited longer for a thread is answered with 503
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = ringway::config::parse_duration)]
    queue_timeout: Duration,
    /// Log a request that runs longer, with the traceback of its thread; 0: none
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = ringway::config::parse_duration)]
    slow_log: Duration,
    /// Threads that may be stuck beyond --request-timeout; one more ends the process
    #[arg(long, value_name = "N", default_value_t = 16)]
    stuck_max: u16,
    /// Show tracebacks to visitors; never in production
    #[arg(long)]
    debug: bool,
}

/// Serves until a signal ends the server.
pub(super) fn serve(name: &str, options: &PythonOptions, config: Config) -> Result<(), Failure> {
    let is_cgi = super::is_cgi(&config);
    let mut wanted = wsgi::Options::default();
    wanted.threads = options.threads.into();
    wanted.inline = options.inline;
    wanted.queue_max = options.queue_max as usize;
    wanted.queue_timeout = options.queue_timeout;
    wanted.slow_log = options.slow_log;
    wanted.request_timeout = config.request_timeout;
    wanted.stuck_max = options.stuck_max.into();
    wanted.obeys_signals = true;
    // Whoever spawned this process may have spawned more.
    wanted.multiprocess = config.listen.is_empty();
    wanted.debug = options.debug;
    let wanted = if is_cgi { wanted.once() } else { wanted };
    Python::initialize();
    let (application, mut threads) = Python::attach(|py| {
        let application = wsgi::load(py, name).map_err(Failure::running)?;
        Application::start(&application, &wanted, Hooks::default()).map_err(Failure::running)
    })?;
    let mount = config.mount.clone();
    let served = super::answer(application.mount(Server::builder().config(config), &mount), is_cgi);
    join(&mut threads)?;
    served
}

fn join(threads: &mut Threads) -> Result<(), Failure> {
    match Python::attach(|py| threads.join(py, JOIN_TIMEOUT)).map_err(Failure::running)? {
        0 => Ok(()),
        running => Err(Failure::running(format!("{running} Python threads did not end; left behind"))),
    }
}
