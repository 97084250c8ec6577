//! [`Server`], [`Builder`], [`Handle`]: what an embedder touches first.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::config::{Config, Driver};
use crate::engine::{Access, Around, Engine, HostKind, Order, Setup};
use crate::handler::{Authorizer, Filter, MountError, Registry, Responder};
use crate::metrics::Snapshot;
use crate::ring::{self, Choice, Epoll, Listen, ListenOptions, Listener, Passage, PoolConfig, Uring};
use crate::{Error, Result};

pub use listeners::Listeners;
use service::Reporter;
use signals::Catcher;

mod listeners;
mod service;
mod signals;

/// A FastCGI server. Begin with [`Server::builder`].
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// Which driver a server with these settings takes on this host. It displays as the reason; the host is asked
    /// once per process.
    ///
    /// # Errors
    ///
    /// io_uring is demanded, and does not work here: what to change.
    pub fn choose_driver(config: &Config) -> Result<Choice> {
        Ok(ring::choose(driver(config.driver), &pool_of(config))?)
    }

    /// What a server is made from.
    pub fn builder() -> Builder {
        let (config, registry) = (Config::default(), Registry::default());
        let (connections, given, around) = (Vec::new(), Vec::new(), Around::default());
        Builder { config, registry, connections, given, passage: None, around, bad_mount: None }
    }
}

/// Collects handlers and settings. End with [`Builder::run`] or [`Builder::start`].
#[derive(Debug)]
#[must_use = "a server does nothing until it is run or started"]
pub struct Builder {
    config: Config,
    registry: Registry,
    connections: Vec<OwnedFd>,
    given: Vec<OwnedFd>,
    passage: Option<Passage>,
    around: Around,
    bad_mount: Option<MountError>,
}

impl Builder {
    /// Listens on an address: `unix:/path`, `unix:@abstract`, `HOST:PORT`, `[::1]:9000`, `fd:N`, `systemd` or
    /// `systemd:NAME`. May be called several times. Without any, the server takes file descriptor 0, as web servers
    /// hand it over (FCGI_LISTENSOCK_FILENO, FastCGI 1.0 §2.2).
    pub fn listen(mut self, address: impl Into<String>) -> Builder {
        self.config.listen.push(address.into());
        self
    }

    /// Serves a connection that is there already, a stream socket. May be called several times. A server that is given
    /// connections and no address listens nowhere; it goes on when they have ended.
    pub fn connection(mut self, socket: impl Into<OwnedFd>) -> Builder {
        self.connections.push(socket.into());
        self
    }

    /// Listens on a socket that is there already, a listening stream socket, perhaps shared with other processes. May
    /// be called several times. A server that is given some listens nowhere else, except where it is told to.
    pub fn listener(mut self, socket: impl Into<OwnedFd>) -> Builder {
        self.given.push(socket.into());
        self
    }

    /// Takes over the connections that other processes pass on through `passage`. Once it is told to
    /// [`retire`](Handle::retire), it passes on those that are kept here.
    pub fn passage(mut self, passage: Passage) -> Builder {
        self.passage = Some(passage);
        self
    }

    /// Answers requests below `mount`, a path prefix such as `/` or `/app`, in the Responder role.
    pub fn responder(self, mount: &str, handler: impl Responder) -> Builder {
        let published = self.registry.responder(mount, handler);
        self.note(published)
    }

    /// Decides on requests below `mount` in the Authorizer role.
    pub fn authorizer(self, mount: &str, handler: impl Authorizer) -> Builder {
        let published = self.registry.authorizer(mount, handler);
        self.note(published)
    }

    /// Filters files below `mount` in the Filter role.
    pub fn filter(self, mount: &str, handler: impl Filter) -> Builder {
        let published = self.registry.filter(mount, handler);
        self.note(published)
    }

    fn note(mut self, published: std::result::Result<(), MountError>) -> Builder {
        self.bad_mount = self.bad_mount.or(published.err());
        self
    }

    /// Worker threads, each with a ring of its own; 0, the default, for one per core.
    pub fn workers(mut self, workers: usize) -> Builder {
        self.config.workers = workers;
        self
    }

    /// The way to the kernel; [`Driver::Auto`] is the default.
    pub fn driver(mut self, driver: Driver) -> Builder {
        self.config.driver = driver;
        self
    }

    /// Runs each worker inside of `surround`, on the worker's thread: for what a thread must have around it, such as an
    /// interpreter's state. `surround` must call what it is given, once, and return when that has; the worker does not
    /// start otherwise.
    ///
    /// # Panics
    ///
    /// The worker's thread, where `surround` does not call.
    pub fn around_workers(
        mut self,
        surround: impl Fn(&mut (dyn FnMut() + Send)) + Send + Sync + 'static,
    ) -> Builder {
        self.around = Around(Some(Arc::new(surround)));
        self
    }

    /// Takes all settings from `config`. Addresses given with [`Builder::listen`] before this call are added to its.
    pub fn config(mut self, mut config: Config) -> Builder {
        config.listen.append(&mut self.config.listen);
        self.config = config;
        self
    }

    /// Serves until a signal asks for the end (SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGUSR1), then drains: no new
    /// connections, requests in flight are answered within `drain_timeout`. A second signal ends it at once, except
    /// that a server on file descriptor 0 takes a SIGTERM repeated within 3 s for the same one, as mod_fcgid sends it.
    ///
    /// A service manager that listens at NOTIFY_SOCKET (systemd's `Type=notify`) hears READY, STATUS, STOPPING and,
    /// with `WatchdogSec=`, WATCHDOG for as long as every worker does its turns.
    ///
    /// # Errors
    ///
    /// [`Error`] says what cannot be listened on, set or started, in one line each, or which worker failed.
    pub fn run(self) -> Result<()> {
        ring::open_standard_streams().map_err(Error::StandardStreams)?;
        // Caught before anything can be connected to; obeyed as soon as there are workers.
        let signals = Catcher::signals().map_err(Error::Signals)?;
        let is_spawned = self.config.listen.iter().all(|address| address == "fd:0");
        let mut handle = self.start()?;
        let control = handle.engine.control.clone();
        let obey = move |order| {
            control.command(order);
            service::stopping();
        };
        let _catcher = Catcher::obey(signals, is_spawned, obey).map_err(Error::Signals)?;
        let _reporter = Reporter::start(&handle.engine).map_err(|error| Error::Worker(error.to_string()))?;
        handle.wait()
    }

    /// Starts the workers and returns. No signal is caught.
    pub fn start(self) -> Result<Handle> {
        if let Some(error) = self.bad_mount {
            return Err(error.into());
        }
        ring::open_standard_streams().map_err(Error::StandardStreams)?;
        let config = self.config;
        config.check()?;
        let around = self.around;
        let access = Access::of(&config)?;
        let workers = match config.workers {
            0 => available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let pool = pool_of(&config);
        let choice = ring::choose(driver(config.driver), &pool)?;
        let listens = !config.listen.is_empty() || (self.connections.is_empty() && self.given.is_empty());
        let mut listeners = if listens { listen(&config, workers)? } else { Vec::new() };
        for socket in self.given {
            listeners.push(Listener::given(socket, workers)?);
        }
        let addresses: Arc<[String]> = listeners.iter().map(|l| l.address().to_owned()).collect();
        let registry = Arc::new(self.registry);
        let is_uring = choice == Choice::Uring;
        let host = if is_uring { HostKind::TokioUring } else { HostKind::Tokio };
        let connections = self.connections;
        let setup = Setup {
            config,
            workers,
            host,
            registry: registry.clone(),
            listeners,
            connections,
            access,
            passage: self.passage,
            around,
        };
        let engine = if is_uring {
            let direct = if setup.config.direct_descriptors { Uring::DIRECT_DESCRIPTORS } else { 0 };
            Engine::start(setup, move || Uring::new(&pool, direct))?
        } else {
            Engine::start(setup, move || Epoll::new(&pool))?
        };
        if !addresses.is_empty() {
            tracing::info!(
                "listening on {}; {workers} {}; {choice}",
                addresses.join(", "),
                if workers == 1 { "worker" } else { "workers" },
            );
        }
        Ok(Handle { engine, registry, addresses, choice, workers })
    }
}

fn pool_of(config: &Config) -> PoolConfig {
    PoolConfig {
        buffer_bytes: config.buffer_bytes,
        ring_buffers: config.ring_buffers,
        buffers_max: config.buffers_max.max(config.ring_buffers.saturating_mul(2)),
    }
}

fn listen(config: &Config, workers: usize) -> Result<Vec<Listener>> {
    let options = ListenOptions {
        workers,
        backlog: config.backlog,
        mode: config.socket_mode,
        owner: config.socket_owner.clone(),
        group: config.socket_group.clone(),
    };
    let standard_input = ["fd:0".to_owned()];
    let wanted = if config.listen.is_empty() { &standard_input[..] } else { &config.listen };
    let mut listeners = Vec::new();
    for address in wanted {
        listeners.extend(address.parse::<Listen>()?.bind(&options)?);
    }
    Ok(listeners)
}

fn driver(driver: Driver) -> ring::Driver {
    match driver {
        Driver::Auto => ring::Driver::Auto,
        Driver::Uring => ring::Driver::Uring,
        Driver::Epoll => ring::Driver::Epoll,
    }
}

/// A running server. Dropping it stops the server at once; [`Handle::drain`] and [`Handle::wait`] end it in order.
pub struct Handle {
    engine: Engine,
    registry: Arc<Registry>,
    addresses: Arc<[String]>,
    choice: Choice,
    workers: usize,
}

impl Handle {
    /// Where it listens, as clients connect: `127.0.0.1:9000` with the port that was taken, `unix:/path`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The handlers; they may be changed while the server serves.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Which driver serves and why, in one sentence for the operator.
    pub fn driver(&self) -> String {
        self.choice.to_string()
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// What was counted so far, summed over the workers.
    pub fn metrics(&self) -> Snapshot {
        Snapshot::sum(self.engine.metrics.iter().map(|worker| &**worker))
    }

    /// What each worker counted.
    pub fn worker_metrics(&self) -> Vec<Snapshot> {
        self.engine.metrics.iter().map(|worker| Snapshot::sum([&**worker])).collect()
    }

    /// Open connections of each worker.
    pub fn connections(&self) -> Vec<usize> {
        let loads = &self.engine.control.loads;
        (0..self.workers).map(|worker| loads.of(worker)).collect()
    }

    /// Whether all workers still serve or drain: false once [`Handle::wait`] has something to say.
    pub fn is_running(&self) -> bool {
        self.engine.is_running()
    }

    /// Accepts no more, answers what has begun (within `drain_timeout`), then ends.
    pub fn drain(&self) {
        self.engine.control.command(Order::Drain);
    }

    /// As [`Handle::drain`], while other processes go on: with a [`Passage`] they are given the connections that web
    /// servers keep, each as soon as nothing is under way on it. What its web server sends meanwhile is theirs to
    /// answer. Without a passage, or where nobody takes them, such connections are closed.
    pub fn retire(&self) {
        self.engine.control.command(Order::Retire);
    }

    /// Ends at once; requests in flight get no answer.
    pub fn stop(&self) {
        self.engine.control.command(Order::Stop);
    }

    /// Waits until the server has ended.
    pub fn wait(&mut self) -> Result<()> {
        Ok(self.engine.wait()?)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        // Whoever wants to know how it ended calls wait().
        let _ = self.engine.wait();
    }
}
