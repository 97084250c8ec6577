//! HAProxy, the web server that multiplexes: by socket file and by port, at the root and below a prefix, told to
//! multiplex or asking the application whether it can.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::pages::{self, Front};
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
}

impl Haproxy {
    fn start(folder: &Path, application: &str, options: &str, mount: &str) -> Haproxy {
        let address = free_address();
        let control = folder.join("haproxy.sock");
        let file = folder.join("haproxy.cfg");
        let path_info = if mount.is_empty() { String::new() } else { format!("path-info ^({mount})(/.*)$") };
        // `http-reuse always` makes HAProxy 2.6 multiplex, and give up some of 200 requests at once ("IH" in its log):
        // it aborts them before it has sent their params, and answers with 500 by itself.
        let text = format!(
            "global
    log stderr format raw local0
    nbthread 1
    stats socket {control} mode 600 level admin
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client 60s
    timeout server 60s
fcgi-app probe
    log-stderr global
    docroot /srv
    option keep-conn
    {options}
    {path_info}
frontend visitors
    bind {address}
    default_backend probe
backend probe
    use-fcgi-app probe
    http-reuse always
    option httpchk GET {mount}/hello
    http-check expect string Hello
    server ringway {application} proto fcgi check check-proto fcgi inter 100ms fall 2 rise 2
",
            control = control.display()
        );
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(find("haproxy").expect("haproxy was there"));
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let mut process = Process::start("haproxy", &mut command, folder);
        // The control socket is the last that it makes.
        process.wait_until("accepts", || control.exists() && Ringway::accepts(&address.to_string()));
        Haproxy { process, address, control }
    }

    /// What its check of the application says: `UP`, `DOWN`.
    fn health(&self) -> String {
        let mut control = UnixStream::connect(&self.control).expect("the control socket");
        control.set_read_timeout(Some(PATIENCE)).expect("a socket");
        control.write_all(b"show stat\n").expect("an order");
        let mut table = String::new();
        control.read_to_string(&mut table).expect("an answer");
        let row = table.lines().find(|row| row.starts_with("probe,ringway,")).expect("a row for the server");
        row.split(',').nth(17).expect("the column of the status").to_owned()
    }

    fn front(&self, mount: &'static str) -> Front<'_> {
        Front {
            address: self.address,
            mount,
            chunked_max: CHUNKED_MAX,
            fails_by_itself: true,
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
    fn new(driver: &str, socket: Socket, options: &str, mount: &'static str) -> Option<Stand> {
        let found = find("haproxy").is_some() && allows(driver);
        found.then(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let prefix = if mount.is_empty() { "/" } else { mount };
            let ringway = Ringway::start(folder.path(), driver, &["--mount", prefix]);
            let tap = matches!(socket, Socket::Tapped).then(|| Tap::start(ringway.tcp));
            let application = match (socket, &tap) {
                (Socket::Unix, _) => format!("unix@{}", ringway.unix.display()),
                (_, Some(tap)) => tap.address.to_string(),
                (_, None) => ringway.tcp.to_string(),
            };
            let haproxy = Haproxy::start(folder.path(), &application, options, mount);
            eventually("HAProxy finds the application well", || (haproxy.health() == "UP").then_some(()));
            Stand { haproxy, tap, ringway, folder }
        })
    }

    fn tap(&self) -> &Tap {
        self.tap.as_ref().expect("this stand has a tap")
    }
}

/// It multiplexes without asking.
const FORCED: &str = "option mpxs-conns\n    option max-reqs 8";
/// It asks the application whether it multiplexes, and how much.
const ASKING: &str = "option get-values\n    option max-reqs 8";

#[test]
fn uring_unix_pages() {
    every_page("uring", Socket::Unix, FORCED, "/app");
}

#[test]
fn uring_tcp_pages() {
    every_page("uring", Socket::Tcp, ASKING, "");
}

#[test]
fn epoll_unix_pages() {
    every_page("epoll", Socket::Unix, ASKING, "/app");
}

#[test]
fn epoll_tcp_pages() {
    every_page("epoll", Socket::Tcp, FORCED, "");
}

fn every_page(driver: &str, socket: Socket, options: &str, mount: &'static str) {
    let Some(stand) = Stand::new(driver, socket, options, mount) else { return };
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

#[test]
fn uring_unix_bodies() {
    bodies("uring", Socket::Unix, FORCED);
}

#[test]
fn uring_tcp_bodies() {
    bodies("uring", Socket::Tcp, ASKING);
}

#[test]
fn epoll_unix_bodies() {
    bodies("epoll", Socket::Unix, FORCED);
}

fn bodies(driver: &str, socket: Socket, options: &str) {
    let Some(stand) = Stand::new(driver, socket, options, "/app") else { return };
    let front = stand.haproxy.front("/app");
    pages::large_bodies(&front);
    pages::early_answers(&front);
    pages::echo(&front, 20 << 20);
}

#[test]
fn uring_crowd() {
    crowd("uring", FORCED);
}

#[test]
fn epoll_crowd() {
    crowd("epoll", ASKING);
}

/// Two hundred visitors share connections, each of which carries several requests at a time.
fn crowd(driver: &str, options: &str) {
    let Some(stand) = Stand::new(driver, Socket::Tapped, options, "/app") else { return };
    let front = stand.haproxy.front("/app");
    pages::crowd(&front);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| assert_eq!(front.get("sleep?ms=500").text(), "slept 500\n"));
        }
    });
    let counts = stand.tap().counts();
    assert!(counts.connections < counts.requests, "{counts:?}");
    if options == FORCED {
        assert_eq!(counts.at_a_time, AT_A_TIME, "{counts:?}");
    } else {
        assert!(counts.at_a_time > 1, "{counts:?}");
        assert!(counts.get_values > 0 && counts.get_values == counts.get_values_results, "{counts:?}");
    }
}

#[test]
fn uring_leavers() {
    leavers("uring");
}

#[test]
fn epoll_leavers() {
    leavers("epoll");
}

/// A visitor leaves in the middle of a download; his neighbours on the same connection see nothing of it.
fn leavers(driver: &str) {
    let Some(stand) = Stand::new(driver, Socket::Tapped, FORCED, "/app") else { return };
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
#[test]
fn health_checks() {
    let Some(mut stand) = Stand::new("epoll", Socket::Unix, FORCED, "/app") else { return };
    let front_address = stand.haproxy.address;
    let status = || Request::get("/app/hello").send(front_address).status;
    assert_eq!(status(), 200);
    let (unix, tcp) = (stand.ringway.unix.clone(), stand.ringway.tcp);
    drop(stand.ringway);
    eventually("HAProxy finds the application gone", || (stand.haproxy.health() == "DOWN").then_some(()));
    assert_eq!(status(), 503);
    stand.ringway = Ringway::start_at(stand.folder.path(), &unix, tcp, "epoll", &["--mount", "/app"]);
    eventually("HAProxy finds the application back", || (stand.haproxy.health() == "UP").then_some(()));
    assert_eq!(status(), 200);
}
