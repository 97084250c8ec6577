//! How a process comes to its socket, and how it is replaced while a web server sends requests.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::nginx::{Connections, Nginx, Socket, Stand, Way};
use crate::pages;
use crate::support::conf;
use crate::support::process::{Process, Ringway, exited_with, free_address};
use crate::support::web::{Request, find};

/// What a process has to end in once its last request is answered.
const END: Duration = Duration::from_secs(4);

/// nginx keeps its connections; the application is asked to end, and another takes over its addresses.
#[test]
fn a_restart_behind_kept_connections_loses_nothing() {
    for (driver, socket) in [("uring", Socket::Unix), ("epoll", Socket::Tcp), ("uring", Socket::Tcp)] {
        let way = Way { driver, socket, connections: Connections::Kept, mount: "" };
        let Some(mut stand) = Stand::new(way) else { continue };
        std::thread::scope(|scope| {
            let front = stand.buffered();
            // Connections that are kept idle, and those of requests in flight.
            (0..4).for_each(|_| assert_eq!(front.get("hello").status, 200));
            let visitors: Vec<_> =
                (0..8).map(|_| scope.spawn(|| stand.buffered().get("sleep?ms=800").text())).collect();
            std::thread::sleep(Duration::from_millis(400));
            stand.ringway.process.signal(Signal::TERM);
            visitors.into_iter().for_each(|visitor| {
                assert_eq!(visitor.join().expect("an answer"), "slept 800\n");
            });
        });
        let answered = Instant::now();
        let status = stand.ringway.process.wait(END);
        assert!(exited_with(status, 0), "{status} after {:?}", answered.elapsed());
        assert!(!stand.ringway.unix.exists(), "the socket file is left");
        let (folder, unix, tcp) = (stand.folder().to_owned(), stand.ringway.unix.clone(), stand.ringway.tcp);
        assert_eq!(stand.buffered().get("hello").status, 502);
        stand.ringway = Ringway::start_at(&folder, &unix, tcp, driver, &[]);
        pages::hello(&stand.buffered());
    }
}

/// A successor may begin before its predecessor has answered everything: both serve, and no visitor is turned away.
#[test]
fn a_successor_takes_over_while_the_old_one_drains() {
    for driver in ["uring", "epoll"] {
        let way = Way { driver, socket: Socket::Unix, connections: Connections::Kept, mount: "" };
        let Some(mut stand) = Stand::new(way) else { continue };
        let (folder, unix, tcp) = (stand.folder().to_owned(), stand.ringway.unix.clone(), free_address());
        let old = std::thread::scope(|scope| {
            let slow = scope.spawn(|| stand.buffered().get("sleep?ms=2000").text());
            std::thread::sleep(Duration::from_millis(500));
            stand.ringway.process.signal(Signal::TERM);
            // From here on connecting is refused, until the next one listens.
            while Ringway::accepts(&format!("unix:{}", unix.display())) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let new = Ringway::start_at(&folder, &unix, tcp, driver, &[]);
            pages::hello(&stand.buffered());
            assert!(!slow.is_finished(), "the old process was to be at work still");
            assert_eq!(slow.join().expect("an answer"), "slept 2000\n");
            new
        });
        let mut old = std::mem::replace(&mut stand.ringway, old);
        assert!(exited_with(old.process.wait(END), 0));
        assert!(unix.exists(), "the old process removed the new one's socket file");
        pages::hello(&stand.buffered());
    }
}

/// A process that was killed leaves its socket file; one that lives cannot be pushed away.
#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let way = Way { driver: "epoll", socket: Socket::Unix, connections: Connections::Kept, mount: "" };
    let Some(mut stand) = Stand::new(way) else { return };
    let unix = stand.ringway.unix.clone();
    let address = format!("unix:{}", unix.display());
    let second = Ringway::command().args(["--listen", &address]).stdin(Stdio::null()).output();
    let second = second.expect("the command runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(exited_with(second.status, 2) && said.lines().count() == 1, "{}: {said}", second.status);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    pages::hello(&stand.buffered());

    stand.ringway.process.signal(Signal::KILL);
    stand.ringway.process.wait(END);
    assert!(unix.exists(), "who is killed cannot clean up");
    assert_eq!(stand.buffered().get("hello").status, 502);
    let folder = stand.folder().to_owned();
    stand.ringway = Ringway::start_at(&folder, &unix, free_address(), "epoll", &[]);
    pages::hello(&stand.buffered());
}

/// A second signal ends the process without waiting for its requests.
#[test]
fn a_second_signal_stops_at_once() {
    let folder = conf::folder();
    if find("nginx").is_none() {
        return;
    }
    let mut ringway = Ringway::start(folder.path(), "epoll", &[]);
    let nginx = Nginx::before(&ringway.tcp.to_string(), folder.path());
    let (_visitor, _) =
        Request::get("/sleep?ms=600000").begin(nginx.front("").address).expect("a connection");
    std::thread::sleep(Duration::from_millis(300));
    ringway.process.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    ringway.process.signal(Signal::TERM);
    let status = ringway.process.wait(Duration::from_secs(3));
    assert!(exited_with(status, 0) || exited_with(status, 1), "{status}");
}

/// Web servers and supervisors hand over the socket they listen on as file descriptor 0, with no environment, in
/// any directory, with stdout and stderr closed (FastCGI 2.2).
#[test]
fn spawned_with_the_socket_on_descriptor_0() {
    if find("nginx").is_none() {
        return;
    }
    let folder = conf::folder();
    let path = folder.path().join("spawned.sock");
    let unix: OwnedFd = UnixListener::bind(&path).expect("a socket file").into();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("it is ours");
    spawned_by_hand(folder.path(), unix, &format!("unix:{}", path.display()));
    assert!(path.exists(), "the file is the spawner's, not ours to remove");
    let folder = conf::folder();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("it is bound").to_string();
    spawned_by_hand(folder.path(), tcp.into(), &address);
}

fn spawned_by_hand(folder: &Path, socket: OwnedFd, upstream: &str) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" serve probe >&- 2>&-", env!("CARGO_BIN_EXE_ringway")]);
    command.env_clear().current_dir("/").stdin(socket);
    serves(folder, Process::start("spawned", &mut command, folder), upstream);
}

/// Serves every page behind nginx, and ends as spawners want it.
fn serves(folder: &Path, mut process: Process, upstream: &str) {
    process.wait_until("listens", || Ringway::accepts(upstream));
    let nginx = Nginx::before(upstream, folder);
    pages::all(&nginx.front(""));
    process.signal(Signal::TERM);
    let status = process.wait(END);
    assert!(exited_with(status, 0), "{status}");
}

/// Without a socket on descriptor 0 there is nothing to serve, and the message says what to do.
#[test]
fn started_by_hand_without_a_socket() {
    let output = Ringway::command().stdin(Stdio::null()).output().expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(exited_with(output.status, 2) && said.lines().count() == 1, "{}: {said}", output.status);
    assert!(said.contains("fd:0") && said.contains("give an address"), "{said}");
    assert!(output.stdout.is_empty());
}
