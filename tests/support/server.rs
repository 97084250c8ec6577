//! A server that a test talks to, and on which drivers it runs.

use std::time::{Duration, Instant};

use ringway::metrics::Snapshot;
use ringway::ring::{self, PoolConfig};
use ringway::{Builder, Config, Driver, Handle, Server};
use tempfile::TempDir;

use crate::peer::{PATIENCE, Peer};

/// Runs each test once for each driver: `each_driver! { a, b }` makes `epoll::a`, `uring::a`, ….
macro_rules! each_driver {
    ($($name:ident),* $(,)?) => {
        mod epoll {
            $(#[test] fn $name() { super::$name(ringway::Driver::Epoll); })*
        }
        mod uring {
            $(#[test] fn $name() {
                if crate::server::has_uring() {
                    super::$name(ringway::Driver::Uring);
                }
            })*
        }
    };
}
pub(crate) use each_driver;

/// Whether this host has io_uring; says so where it has not. `RINGWAY_REQUIRE=ring` makes that a failure.
pub(crate) fn has_uring() -> bool {
    let pool = PoolConfig { buffer_bytes: 32 << 10, ring_buffers: 16, buffers_max: 64 };
    let Err(error) = ring::choose(ring::Driver::Uring, &pool) else { return true };
    let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "ring"), "RINGWAY_REQUIRE=ring, but {error}");
    eprintln!("skipped: {error}");
    false
}

/// How a server is to be started.
pub(crate) struct Serve {
    config: Config,
    tcp: bool,
}

impl Serve {
    /// One worker, on a Unix socket of its own.
    pub(crate) fn new(driver: Driver) -> Serve {
        let mut config = Config::default();
        config.workers = 1;
        config.driver = driver;
        Serve { config, tcp: false }
    }

    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Serve {
        change(&mut self.config);
        self
    }

    /// On TCP, on a port that is free.
    pub(crate) fn on_tcp(self) -> Serve {
        Serve { tcp: true, ..self }
    }

    pub(crate) fn start(mut self, handlers: impl FnOnce(Builder) -> Builder) -> Served {
        let directory = TempDir::new().expect("a directory for the socket");
        let address = match self.tcp {
            true => "127.0.0.1:0".to_owned(),
            false => format!("unix:{}", directory.path().join("socket").display()),
        };
        self.config.listen.push(address);
        let handle = handlers(Server::builder().config(self.config)).start().expect("the server starts");
        let address = handle.addresses()[0].clone();
        Served { handle, address, _directory: directory }
    }
}

/// A running server. Dropping it stops it.
pub(crate) struct Served {
    pub(crate) handle: Handle,
    pub(crate) address: String,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(&self.address)
    }

    pub(crate) fn metrics(&self) -> Snapshot {
        self.handle.metrics()
    }

    /// Waits until what was counted is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) {
        eventually(what, || is_so(&self.metrics()));
    }

    /// Waits for the end of a server that was told to drain or stop.
    pub(crate) fn wait(&mut self) {
        self.handle.wait().expect("the server ends in order");
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
