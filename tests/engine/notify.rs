//! What a service manager hears (sd_notify(3)), played by a datagram socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringway::{Driver, Request, Server};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::app;
use crate::peer::{Ask, PATIENCE, Peer};
use crate::server::{each_driver, eventually};

each_driver! {
    readiness_status_and_the_end_are_told,
    a_worker_that_does_not_turn_starves_the_watchdog,
}

/// How long `/block` keeps its worker.
const BLOCKED: Duration = Duration::from_secs(4);

/// The server, in a process of its own because the environment is the process's.
#[test]
#[ignore = "run by other tests as a process of its own"]
fn server_process() {
    let driver = std::env::var("TEST_DRIVER").unwrap().parse().unwrap();
    let server = Server::builder().listen(std::env::var("TEST_LISTEN").unwrap()).driver(driver).workers(2);
    let block = |_: Request| async {
        std::thread::sleep(BLOCKED);
        "blocked\n"
    };
    let sleep = |_: Request| async {
        tokio::time::sleep(2 * BLOCKED).await;
        "slept\n"
    };
    let server = server.responder("/", app::hello).responder("/block", block).responder("/sleep", sleep);
    server.run().unwrap();
}

/// The process and what it tells.
struct Service {
    child: Child,
    told: UnixDatagram,
    address: String,
    _directory: TempDir,
}

impl Service {
    fn start(driver: Driver, watchdog_us: Option<u32>) -> Service {
        let directory = TempDir::new().unwrap();
        let told = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        told.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = format!("unix:{}", directory.path().join("socket").display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["notify::server_process", "--exact", "--ignored", "--nocapture"]);
        command.env("TEST_LISTEN", &address).env("TEST_DRIVER", driver.to_string());
        command.env("NOTIFY_SOCKET", directory.path().join("notify"));
        if let Some(watchdog_us) = watchdog_us {
            command.env("WATCHDOG_USEC", watchdog_us.to_string());
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Service { child, told, address, _directory: directory }
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut message = [0; 1024];
        let length = loop {
            match self.told.recv(&mut message) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                length => break length.expect("it tells something"),
            }
        };
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// Waits for a message with this line.
    fn hear_of(&self, line: &str) {
        eventually(line, || self.hear().lines().any(|said| said == line));
    }

    /// Throws away what has been told, and counts what is told within `time` from now.
    fn hears_within(&self, time: Duration) -> usize {
        self.told.set_nonblocking(true).unwrap();
        let count = || std::iter::from_fn(|| self.told.recv(&mut [0; 1024]).ok()).count();
        count();
        std::thread::sleep(time);
        let heard = count();
        self.told.set_nonblocking(false).unwrap();
        heard
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn readiness_status_and_the_end_are_told(driver: Driver) {
    let mut service = Service::start(driver, None);
    let ready = service.hear();
    assert!(ready.starts_with("READY=1\nSTATUS=serving: 0 connections, 0 handlers waiting; "), "{ready}");
    // Whoever is told may connect.
    let mut peer = Peer::connect(&service.address);
    (0..3).for_each(|_| assert_eq!(peer.get("/").status(), 200));
    peer.ask(&Ask::get("/sleep"));
    service.hear_of(
        "STATUS=serving: 1 connections, 1 handlers waiting; 3 requests answered, 0 failed, 0 refused",
    );
    kill_process(Pid::from_child(&service.child), Signal::TERM).unwrap();
    service.hear_of("STOPPING=1");
    assert_eq!(peer.answer(1).text(), "slept\n");
    assert!(service.child.wait().unwrap().success());
}

fn a_worker_that_does_not_turn_starves_the_watchdog(driver: Driver) {
    let service = Service::start(driver, Some(400_000));
    (0..5).for_each(|_| service.hear_of("WATCHDOG=1"));
    // A handler that waits is no obstacle, one that blocks its worker is.
    let mut peer = Peer::connect(&service.address);
    peer.ask(&Ask::get("/sleep"));
    assert!(service.hears_within(Duration::from_secs(1)) > 0);
    let mut other = Peer::connect(&service.address);
    other.ask(&Ask::get("/block"));
    // Its beginning, and the turn that was counted before.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(service.hears_within(BLOCKED / 4), 0);
    assert_eq!(other.answer(1).text(), "blocked\n");
    (0..5).for_each(|_| service.hear_of("WATCHDOG=1"));
}
