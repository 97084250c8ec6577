//! HAProxy, the web server that multiplexes: by socket file and by port, at the root and below a prefix, told to
//! multiplex or asking the application whether it can.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::pages::{self, Front, Habits};
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Process, Ringway, allows, eventually, free_address};
use crate::support::tap::Tap;
use crate::support::web::{Request, find};

/// Requests that one connection may have at a time where HAProxy is told; where it asks, the application says.
const AT_A_TIME: usize = 8;

/// What a body without a length may have: HAProxy passes it on only if it has it whole, in one buffer of 16 KiB.
const CHUNKED_MAX: usize = 10_000;

struct Haproxy {
    process: Process,
    address: SocketAddr,
    control: PathBuf,
    /// It answers some of many requests at once with 500 by itself: HAProxy 2.6 does so where it multiplexes.
    fails: bool,
}

impl Haproxy {
    /// Starts it in `folder`, which is made, with these arguments of `ringway conf haproxy`.
    fn start(folder: &Path, arguments: &[&str]) -> Haproxy {
        let address = free_address();
        let file = conf::write(folder, "haproxy", address, arguments);
        let control = folder.join("admin.sock");
        // It multiplexes the requests of a thread: how many were at a time can be said only of one.
        let single = folder.join("single.conf");
        std::fs::write(&single, "global\n    nbthread 1\n").expect("a file can be written");
        let mut command = Command::new(find("haproxy").expect("haproxy was there"));
        command.arg("-db").arg("-f").arg(&file).arg("-f").arg(&single).stdin(Stdio::null());
        let mut process = Process::start("haproxy", &mut command, folder);
        // The control socket is the last that it makes.
        process.wait_until("accepts", || control.exists() && Ringway::accepts(&address.to_string()));
        Haproxy { process, address, control, fails: arguments.contains(&TOLD) || arguments.contains(&ASKING) }
    }

    /// What its check of a server of the application says: `UP`, `DOWN`.
    fn health(&self, server: usize) -> String {
        let mut control = UnixStream::connect(&self.control).expect("the control socket");
        control.set_read_timeout(Some(PATIENCE)).expect("a socket");
        control.write_all(b"show stat\n").expect("an order");
        let (mut table, name) = (String::new(), format!("application,ringway{server},"));
        control.read_to_string(&mut table).expect("an answer");
        let row = table.lines().find(|row| row.starts_with(&name)).expect("a row for the server");
        row.split(',').nth(17).expect("the column of the status").to_owned()
    }

    fn front(&self, mount: &'static str) -> Front<'_> {
        Front {
            address: self.address,
            mount,
            habits: Habits { chunked_max: Some(CHUNKED_MAX), fails_by_itself: self.fails, ..Habits::USUAL },
            server: &self.process,
        }
    }
}

/// Ringway behind HAProxy.
struct Stand {
    haproxy: Haproxy,
    tap: Option<Tap>,
    ringway: Ringway,
    folder: TempDir,
}

/// Where HAProxy connects.
#[derive(Clone, Copy)]
enum Socket {
    Unix,
    Tcp,
    /// By a port, through a relay that counts.
    Tapped,
}

impl Stand {
    fn new(driver: &str, socket: Socket, way: &str, mount: &'static str) -> Option<Stand> {
        let found = find("haproxy").is_some() && allows(driver);
        found.then(|| {
            let folder = conf::folder();
            let prefix = if mount.is_empty() { "/" } else { mount };
            let ringway = Ringway::start(folder.path(), driver, &["--mount", prefix]);
            let tap = matches!(socket, Socket::Tapped).then(|| Tap::start(ringway.tcp));
            let application = match (socket, &tap) {
                (Socket::Unix, _) => format!("unix:{}", ringway.unix.display()),
                (_, Some(tap)) => tap.address.to_string(),
                (_, None) => ringway.tcp.to_string(),
            };
            let arguments = ["--way", way, "--listen", &application, "--mount", prefix, "--health", "/hello"];
            let haproxy = Haproxy::start(&folder.path().join("haproxy"), &arguments);
            eventually("HAProxy finds the application well", || (haproxy.health(1) == "UP").then_some(()));
            Stand { haproxy, tap, ringway, folder }
        })
    }

    fn tap(&self) -> &Tap {
        self.tap.as_ref().expect("this stand has a tap")
    }
}

/// It keeps connections, with one request at a time.
const KEEP: &str = "keep";
/// It multiplexes without asking.
const TOLD: &str = "mpxs-conns";
/// It asks the application whether it multiplexes, and how much.
const ASKING: &str = "get-values";
/// A connection for each request.
const CLOSE: &str = "close";

matrix! {
    "haproxy", "keep":
        uring_kept_pages ["unix", "kept", "prefix", "pages"] => every_page("uring", Socket::Unix, KEEP, "/app");
        epoll_kept_pages ["tcp", "kept", "root", "pages"] => every_page("epoll", Socket::Tcp, KEEP, "");
        uring_kept_crowd ["crowd"] => crowd("uring", KEEP);
        epoll_kept_crowd ["crowd"] => crowd("epoll", KEEP);
        uring_failover ["failover"] => failover("uring");
        epoll_failover ["failover"] => failover("epoll");
        health_checks ["health checks"] => finds_it_gone_and_back();
    "haproxy", "get-values":
        uring_tcp_pages ["tcp", "multiplexed", "root", "pages"] => every_page("uring", Socket::Tcp, ASKING, "");
        epoll_unix_pages ["unix", "multiplexed", "prefix", "pages"] =>
            every_page("epoll", Socket::Unix, ASKING, "/app");
        uring_tcp_bodies ["bodies"] => bodies("uring", Socket::Tcp, ASKING);
        uring_asking_crowd ["crowd"] => crowd("uring", ASKING);
        epoll_crowd ["crowd"] => crowd("epoll", ASKING);
    "haproxy", "mpxs-conns":
        uring_unix_pages ["unix", "multiplexed", "prefix", "pages"] =>
            every_page("uring", Socket::Unix, TOLD, "/app");
        epoll_tcp_pages ["tcp", "multiplexed", "root", "pages"] => every_page("epoll", Socket::Tcp, TOLD, "");
        uring_unix_bodies ["bodies"] => bodies("uring", Socket::Unix, TOLD);
        epoll_unix_bodies ["bodies"] => bodies("epoll", Socket::Unix, TOLD);
        uring_crowd ["crowd"] => crowd("uring", TOLD);
        uring_leavers ["leavers"] => leavers("uring");
        epoll_leavers ["leavers"] => leavers("epoll");
    "haproxy", "close":
        uring_closed_pages ["unix", "closed", "prefix", "pages"] =>
            every_page("uring", Socket::Unix, CLOSE, "/app");
        epoll_closed_pages ["tcp", "closed", "root", "pages"] => every_page("epoll", Socket::Tcp, CLOSE, "");
        closed_crowd ["crowd"] => crowd("epoll", CLOSE);
}

fn every_page(driver: &str, socket: Socket, way: &str, mount: &'static str) {
    let Some(stand) = Stand::new(driver, socket, way, mount) else { return };
    let front = stand.haproxy.front(mount);
    pages::all(&front);
    pages::streaming(&front);
    let env = front.env(Request::get(&front.target("env")));
    if mount.is_empty() {
        assert_eq!((&env["SCRIPT_NAME"], env.get("PATH_INFO")), (&"/env".into(), None));
    } else {
        assert_eq!((&env["SCRIPT_NAME"], &env["PATH_INFO"]), (&mount.into(), &"/env".into()));
    }
}

fn bodies(driver: &str, socket: Socket, way: &str) {
    let Some(stand) = Stand::new(driver, socket, way, "/app") else { return };
    let front = stand.haproxy.front("/app");
    pages::large_bodies(&front);
    pages::early_answers(&front);
    pages::echo(&front, 20 << 20);
}

/// Two hundred visitors share connections, each of which carries several requests at a time, if HAProxy is to.
fn crowd(driver: &str, way: &str) {
    let Some(stand) = Stand::new(driver, Socket::Tapped, way, "/app") else { return };
    let front = stand.haproxy.front("/app");
    pages::crowd(&front);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| assert_eq!(front.get("sleep?ms=500").text(), "slept 500\n"));
        }
    });
    let counts = stand.tap().counts();
    match way {
        CLOSE => assert_eq!((counts.at_a_time, counts.connections), (1, counts.requests), "{counts:?}"),
        KEEP => assert!(counts.at_a_time == 1 && counts.connections < counts.requests, "{counts:?}"),
        TOLD => assert_eq!(counts.at_a_time, AT_A_TIME, "{counts:?}"),
        _ => {
            assert!(counts.at_a_time > 1 && counts.connections < counts.requests, "{counts:?}");
            // It may give up a connection before it has the answer to its question.
            assert!((1..=counts.get_values).contains(&counts.get_values_results), "{counts:?}");
        }
    }
}

/// A visitor leaves in the middle of a download; his neighbours on the same connection see nothing of it.
fn leavers(driver: &str) {
    let Some(stand) = Stand::new(driver, Socket::Tapped, TOLD, "/app") else { return };
    let front = stand.haproxy.front("/app");
    std::thread::scope(|scope| {
        let neighbours: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| assert_eq!(front.get("stream?chunks=10&ms=100").text().len(), 90)))
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        let mut download = front.get("bytes?n=200000000");
        let mut start = vec![0; 1 << 20];
        download.read_exact(&mut start).expect("the first MiB");
        drop(download);
        neighbours.into_iter().for_each(|neighbour| neighbour.join().expect("a neighbour has his answer"));
    });
    let counts = stand.tap().counts();
    assert!(counts.at_a_time > 1, "{counts:?}");
    assert_eq!(front.get("hello").text(), "Hello, world!\n");
    let peak = stand.ringway.process.memory_peak();
    assert!(peak < 48 << 20, "{} MiB of memory", peak >> 20);
}

/// HAProxy's check sees that the application is gone, and that it is back.
fn finds_it_gone_and_back() {
    let Some(mut stand) = Stand::new("epoll", Socket::Unix, TOLD, "/app") else { return };
    let front_address = stand.haproxy.address;
    let status = || Request::get("/app/hello").send(front_address).status;
    assert_eq!(status(), 200);
    let (unix, tcp) = (stand.ringway.unix.clone(), stand.ringway.tcp);
    drop(stand.ringway);
    eventually("HAProxy finds the application gone", || (stand.haproxy.health(1) == "DOWN").then_some(()));
    assert_eq!(status(), 503);
    stand.ringway = Ringway::start_at(stand.folder.path(), &unix, tcp, "epoll", &["--mount", "/app"]);
    eventually("HAProxy finds the application back", || (stand.haproxy.health(1) == "UP").then_some(()));
    assert_eq!(status(), 200);
}

/// Of two servers one ends in order, and later one is killed; no visitor notices.
fn failover(driver: &str) {
    if find("haproxy").is_none() || !allows(driver) {
        return;
    }
    let (folder, other) = (conf::folder(), conf::folder());
    let start = |folder: &TempDir| Ringway::start(folder.path(), driver, &["--mount", "/app"]);
    let (mut first, second) = (start(&folder), start(&other));
    let address = |ringway: &Ringway| format!("unix:{}", ringway.unix.display());
    let (one, two) = (address(&first), second.tcp.to_string());
    let arguments = ["--listen", &one, "--listen", &two, "--mount", "/app", "--health", "/hello"];
    let haproxy = Haproxy::start(&folder.path().join("haproxy"), &arguments);
    let is =
        |server, state| eventually("HAProxy sees it", || (haproxy.health(server) == state).then_some(()));
    is(1, "UP");
    is(2, "UP");
    let front = haproxy.front("/app");
    pages::visited(&front, || {
        std::thread::sleep(Duration::from_millis(300));
        first.process.signal(Signal::TERM);
        is(1, "DOWN");
        first =
            Ringway::start_at(folder.path(), &first.unix.clone(), first.tcp, driver, &["--mount", "/app"]);
        is(1, "UP");
        second.process.signal(Signal::KILL);
        is(2, "DOWN");
    });
}
