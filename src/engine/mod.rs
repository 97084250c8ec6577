//! The only layer that drives both `proto` and `ring`: workers, their hosts, and what keeps them together.
//!
//! ```text
//!   Engine ── starts ──▶ worker 0 … n    each: host ▸ worker ▸ (ring, peers, requests)
//!      └──── Control: orders, loads ◀── all of them
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `worker` | the event loop |
//! | `peer` | one web server's socket |
//! | `requests` | from events to handlers, and from answers (`requests/answers`) to records |
//! | `task` | handler futures |
//! | `host` | the runtime that handlers live in |
//! | `timer` | deadlines |
//! | `control` | what the workers share |
//! | `access` | which peers may connect |
//! | `arrivals` | connections that other processes pass on |

mod access;
mod arrivals;
mod control;
mod host;
mod peer;
mod requests;
mod task;
mod timer;
mod worker;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};

use crate::Config;
use crate::handler::{Paths, Registry, Site};
use crate::metrics;
use crate::proto::Limits;
use crate::ring::{Failure, Listener, ListenerId, Passage, Ring, Waker};

pub(crate) use access::Access;
pub(crate) use control::{Control, Order};
pub(crate) use host::Kind as HostKind;

use arrivals::Arrivals;
use host::HostError;
use requests::Requests;
use task::Wakeups;
use timer::TimeLimits;
use worker::{Parts, Passing, Worker};

/// What the engine needs to start.
pub(crate) struct Setup {
    pub(crate) config: Config,
    /// At least 1.
    pub(crate) workers: usize,
    pub(crate) host: HostKind,
    pub(crate) registry: Arc<Registry>,
    pub(crate) listeners: Vec<Listener>,
    /// Connections that are there from the beginning.
    pub(crate) connections: Vec<OwnedFd>,
    /// `None`: anybody may connect.
    pub(crate) access: Option<Access>,
    /// To and from other processes with the same listeners.
    pub(crate) passage: Option<Passage>,
    pub(crate) around: Around,
}

/// What runs around the life of each worker, on its thread; it must call what it is given.
#[derive(Clone, Default)]
pub(crate) struct Around(pub(crate) Option<Arc<Surround>>);

pub(crate) type Surround = dyn Fn(&mut (dyn FnMut() + Send)) + Send + Sync;

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Around").field(&self.0.is_some()).finish()
    }
}

impl Around {
    fn run<T: Send>(&self, life: impl FnOnce() -> T + Send) -> T {
        let Some(surround) = &self.0 else { return life() };
        let (mut life, mut result) = (Some(life), None);
        surround(&mut || result = life.take().map(|life| life()));
        result.expect("what runs around a worker calls what it is given")
    }
}

/// The running workers.
pub(crate) struct Engine {
    pub(crate) control: Arc<Control>,
    pub(crate) metrics: Vec<Arc<metrics::Worker>>,
    threads: Vec<JoinHandle<Result<(), HostError>>>,
    arrivals: Option<JoinHandle<()>>,
    /// Kept for what dropping them removes: the files of Unix sockets.
    listeners: Vec<Listener>,
}

/// Why the engine could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("worker {worker}: {reason}")]
    Worker { worker: usize, reason: String },
    #[error(
        "what receives connections of other processes stopped by a mistake of ours, please report it: {0}"
    )]
    Arrivals(String),
}

/// What the workers know of a listener, by its number.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: String,
    pub(crate) is_tcp: bool,
}

impl Bound {
    fn of(listener: &Listener) -> Bound {
        Bound { address: listener.address().to_owned(), is_tcp: listener.is_tcp() }
    }

    /// Of a connection that was not accepted here.
    fn given(connection: &OwnedFd) -> Bound {
        let is_unix = sockopt::socket_domain(connection) == Ok(AddressFamily::UNIX);
        Bound { address: "a given connection".to_owned(), is_tcp: !is_unix }
    }
}

/// A socket to accept on, as one worker gets it.
struct Share {
    listener: ListenerId,
    socket: OwnedFd,
    /// Whether the queue is shared by all workers, so that what is accepted is handed round.
    for_all: bool,
    identify: bool,
    in_turns: bool,
}

/// What a worker reports once its ring is there.
type Hello<A> = (usize, Result<(A, Waker), String>);

impl Engine {
    /// Starts the workers, each with a ring that `open` makes on the worker's own thread.
    pub(crate) fn start<R: Ring>(
        mut setup: Setup,
        open: impl Fn() -> Result<R, Failure> + Send + Sync + 'static,
    ) -> Result<Engine, EngineError> {
        let open = Arc::new(open);
        let passage = setup.passage.take().map(Arc::new);
        let control = Arc::new(Control::new(setup.workers, passage.is_some()));
        let bound: Arc<[Bound]> = {
            let given = setup.connections.iter().map(Bound::given);
            setup.listeners.iter().map(Bound::of).chain(given).collect()
        };
        let access = setup.access.take().map(Arc::new);
        let mut given = deal(setup.connections, setup.listeners.len(), setup.workers);
        // Only ordinary descriptors can be passed on.
        let identify_unix = !setup.config.direct_descriptors
            || passage.is_some()
            || access.as_ref().is_some_and(|access| access.asks_unix());
        let listeners_known = setup.listeners.len();
        let shares = share_out(&mut setup.listeners, setup.workers, identify_unix);
        let (say_hello, hellos) = mpsc::channel::<Hello<R::Address>>();
        let mut engine = Engine {
            control: control.clone(),
            metrics: Vec::new(),
            threads: Vec::new(),
            arrivals: None,
            listeners: setup.listeners,
        };
        let site = Arc::new(Site {
            paths: Paths::new(setup.config.script_name.clone()),
            send_file: setup.config.send_file.clone(),
        });
        let mut introductions = Vec::new();
        let cores = if setup.config.pin { cores() } else { Vec::new() };
        for (index, shares) in shares.into_iter().enumerate() {
            let (introduce, introduction) = mpsc::channel::<Vec<R::Address>>();
            introductions.push(introduce);
            let metrics = Arc::new(metrics::Worker::default());
            engine.metrics.push(metrics.clone());
            let seed = Seed {
                index,
                workers: setup.workers,
                config: setup.config.clone(),
                host: setup.host,
                registry: setup.registry.clone(),
                site: site.clone(),
                control: control.clone(),
                metrics,
                bound: bound.clone(),
                access: access.clone(),
                passing: passage.clone().map(|passage| Passing::new(passage, listeners_known)),
                shares,
                connections: std::mem::take(&mut given[index]),
                core: cores.get(index % cores.len().max(1)).copied(),
            };
            let (open, say_hello, around) = (open.clone(), say_hello.clone(), setup.around.clone());
            let thread = std::thread::Builder::new()
                .name(format!("ringway-{index}"))
                .spawn(move || around.run(move || seed.grow(&*open, &say_hello, &introduction)))?;
            engine.threads.push(thread);
        }
        drop(say_hello);
        let connections_max = setup.config.connections_max as usize;
        let arrivals = passage.map(|passage| Arrivals::new(passage, control, connections_max)).transpose()?;
        engine.meet(hellos, introductions, arrivals)
    }

    /// Waits until every worker has its ring, then tells each where the others are.
    fn meet<A: Clone>(
        mut self,
        hellos: mpsc::Receiver<Hello<A>>,
        introductions: Vec<mpsc::Sender<Vec<A>>>,
        arrivals: Option<Arrivals>,
    ) -> Result<Engine, EngineError> {
        let mut siblings: Vec<Option<(A, Waker)>> = (0..self.threads.len()).map(|_| None).collect();
        for (index, hello) in hellos.iter().take(self.threads.len()) {
            match hello {
                Ok(sibling) => siblings[index] = Some(sibling),
                // Dropping the introductions ends the workers that wait for theirs.
                Err(reason) => return Err(EngineError::Worker { worker: index, reason }),
            }
        }
        let Some(siblings) = siblings.into_iter().collect::<Option<Vec<_>>>() else {
            return self.wait().and(Err(EngineError::Worker { worker: 0, reason: "did not start".into() }));
        };
        let addresses: Vec<A> = siblings.iter().map(|(address, _)| address.clone()).collect();
        let wakers = siblings.into_iter().map(|(_, waker)| waker);
        self.control.gather(wakers.chain(arrivals.as_ref().map(Arrivals::waker)).collect());
        self.arrivals = arrivals.map(Arrivals::start).transpose()?;
        for introduce in introductions {
            // A worker that is gone already says why when it is waited for.
            let _ = introduce.send(addresses.clone());
        }
        Ok(self)
    }

    /// Whether no worker has ended yet.
    pub(crate) fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for all workers.
    pub(crate) fn wait(&mut self) -> Result<(), EngineError> {
        let mut outcome = Ok(());
        for (worker, thread) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let reason = match thread.join() {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => {
                    format!("stopped by a mistake of ours, please report it: {}", task::panic_message(panic))
                }
            };
            if outcome.is_ok() {
                outcome = Err(EngineError::Worker { worker, reason });
            }
        }
        if let Some(arrivals) = self.arrivals.take()
            && let Err(panic) = arrivals.join()
            && outcome.is_ok()
        {
            outcome = Err(EngineError::Arrivals(task::panic_message(panic)));
        }
        self.listeners.clear();
        outcome
    }
}

/// Gives each worker its sockets: one of every listener, or, of one with a shared queue, all to worker 0, which hands
/// the connections round.
fn share_out(listeners: &mut [Listener], workers: usize, identify_unix: bool) -> Vec<Vec<Share>> {
    let mut shares: Vec<Vec<Share>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, listener) in listeners.iter_mut().enumerate() {
        let (for_all, identify) = (listener.is_shared() && workers > 1, listener.is_tcp() || identify_unix);
        let (wanted, in_turns) = (if listener.is_shared() { 1 } else { workers }, listener.is_inherited());
        for (worker, socket) in listener.take_sockets().into_iter().take(wanted).enumerate() {
            let listener = ListenerId(number as u32);
            shares[worker].push(Share { listener, socket, for_all, identify, in_turns });
        }
    }
    shares
}

/// Gives the connections to the workers in turn, numbered as listeners from `first` on.
fn deal(connections: Vec<OwnedFd>, first: usize, workers: usize) -> Vec<Vec<(ListenerId, OwnedFd)>> {
    let mut hands: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, connection) in connections.into_iter().enumerate() {
        hands[number % workers].push((ListenerId((first + number) as u32), connection));
    }
    hands
}

/// The cores that this process may use.
fn cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// A worker before it has a thread.
struct Seed {
    index: usize,
    workers: usize,
    config: Config,
    host: HostKind,
    registry: Arc<Registry>,
    site: Arc<Site>,
    control: Arc<Control>,
    metrics: Arc<metrics::Worker>,
    bound: Arc<[Bound]>,
    access: Option<Arc<Access>>,
    passing: Option<Passing>,
    shares: Vec<Share>,
    connections: Vec<(ListenerId, OwnedFd)>,
    core: Option<usize>,
}

impl Seed {
    fn grow<R: Ring>(
        self,
        open: &(impl Fn() -> Result<R, Failure> + ?Sized),
        say_hello: &mpsc::Sender<Hello<R::Address>>,
        introduction: &mpsc::Receiver<Vec<R::Address>>,
    ) -> Result<(), HostError> {
        if let Some(core) = self.core {
            let mut only = rustix::thread::CpuSet::new();
            only.set(core);
            if let Err(error) = rustix::thread::sched_setaffinity(None, &only) {
                tracing::warn!("worker {}: cannot pin to core {core}: {error}", self.index);
            }
        }
        let ring = match open() {
            Ok(ring) => ring,
            Err(failure) => {
                let _ = say_hello.send((self.index, Err(failure.to_string())));
                return Err(failure.into());
            }
        };
        let hello = (ring.address(), ring.waker());
        let _ = say_hello.send((self.index, Ok(hello)));
        let Ok(siblings) = introduction.recv() else { return Ok(()) };
        let _guard = StopOthers(self.control.clone());
        let (host, wakeups) = (self.host, Arc::new(Wakeups::default()));
        let mut worker = self.worker(ring, &wakeups)?;
        worker.meet(siblings);
        host::run(host, wakeups, worker)
    }

    fn worker<R: Ring>(self, ring: R, wakeups: &Arc<Wakeups>) -> Result<Worker<R>, Failure> {
        let limits = Arc::new(limits(&self.config));
        let requests = Requests::new(&self, limits.clone(), ring.pool().clone(), wakeups.clone());
        let parts = Parts {
            index: self.index,
            control: self.control,
            requests,
            bound: self.bound,
            access: self.access,
            passing: self.passing,
            metrics: self.metrics,
            limits,
            times: TimeLimits::of(&self.config),
            output_high: self.config.output_high_bytes as usize,
            linger_bytes: self.config.linger_bytes,
            connections_max: self.config.connections_max as usize,
            spin: Duration::from_micros(self.config.spin_us.into()),
        };
        let mut worker = Worker::new(ring, parts);
        for share in self.shares {
            worker.listen(share)?;
        }
        for (listener, connection) in self.connections {
            worker.adopt(listener, connection)?;
        }
        Ok(worker)
    }
}

/// One worker for all: when one ends, in order or by a failure of its own, it does not leave the others serving alone.
struct StopOthers(Arc<Control>);

impl Drop for StopOthers {
    fn drop(&mut self) {
        if self.0.order() == Order::Serve {
            self.0.command(Order::Stop);
        }
    }
}

/// The bounds of the protocol core, out of the settings.
fn limits(config: &Config) -> Limits {
    Limits {
        params_bytes_max: config.params_bytes_max,
        params_pairs_max: config.params_pairs_max,
        requests_max: config.connection_requests_max,
        management_bytes_max: config.management_bytes_max,
        connections_max: config.connections_max,
        requests_total_max: config.requests_max,
    }
}
