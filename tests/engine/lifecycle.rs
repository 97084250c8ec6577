//! The life of a server: workers and listeners, changes while it serves, overload, drain and stop, signals.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ringway::proto::ProtocolStatus;
use ringway::{Driver, Request, Response, Role, Server, ready};

use crate::app::{self, heard};
use crate::peer::{Ask, PATIENCE, Peer};
use crate::server::{Serve, each_driver, eventually};

each_driver! {
    unix_connections_are_spread_evenly,
    unix_connections_in_the_rings_own_table_are_spread_evenly,
    tcp_connections_reach_all_workers,
    handlers_are_changed_while_serving,
    mounts_match_whole_segments,
    overload_is_said_so_that_the_peer_understands,
    more_connections_than_allowed_wait,
    drain_answers_what_is_in_flight_and_what_was_received,
    drain_ends_kept_connections_that_are_idle,
    drain_has_a_limit,
    stop_ends_at_once,
    a_drain_can_be_cut_short,
    dropping_the_handle_stops,
    idle_connections_cost_nothing,
    signals_drain_and_then_stop,
    a_shortage_of_descriptors_passes,
    given_connections_are_served_without_listening,
}

fn unix_connections_are_spread_evenly(driver: Driver) {
    are_spread_evenly(driver, false);
}

fn unix_connections_in_the_rings_own_table_are_spread_evenly(driver: Driver) {
    are_spread_evenly(driver, true);
}

fn are_spread_evenly(driver: Driver, direct_descriptors: bool) {
    let serve = Serve::new(driver).config(|config| {
        config.workers = 2;
        config.direct_descriptors = direct_descriptors;
    });
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peers: Vec<Peer> = (0..64).map(|_| served.connect()).collect();
    for peer in &mut peers {
        assert_eq!(peer.get("/").status(), 200);
    }
    let shares = served.handle.connections();
    assert_eq!(shares.iter().sum::<usize>(), 64);
    assert!(shares.iter().all(|share| *share >= 24), "{shares:?}");
    for (share, metrics) in shares.iter().zip(served.handle.worker_metrics()) {
        assert_eq!(metrics.requests_finished, *share as u64, "requests are served where their connection is");
    }
    for _ in 0..8 {
        let mut peer = served.connect();
        peer.ask(&Ask::get("/").close());
        assert_eq!(peer.answer(1).status(), 200);
        peer.expect_end();
    }
    eventually("they are closed", || served.handle.connections().iter().sum::<usize>() == 64);
    // What ended on one worker is made up for by the next connections.
    drop(peers.split_off(32));
    eventually("they are closed", || served.handle.connections().iter().sum::<usize>() == 32);
    peers.extend((0..32).map(|_| served.connect()));
    for peer in &mut peers {
        assert_eq!(peer.get("/").status(), 200);
    }
    assert!(
        served.handle.connections().iter().all(|share| *share >= 24),
        "{:?}",
        served.handle.connections()
    );
}

/// SO_REUSEPORT: a socket for each worker. Which of them gets a connection is a hash's choice.
fn tcp_connections_reach_all_workers(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.workers = 2).on_tcp();
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peers: Vec<Peer> = (0..64).map(|_| served.connect()).collect();
    for peer in &mut peers {
        assert_eq!(peer.get("/").status(), 200);
    }
    assert!(served.handle.connections().iter().all(|share| *share > 0), "{:?}", served.handle.connections());
    assert_eq!(served.metrics().connections_handed_over, 0);
}

fn handlers_are_changed_while_serving(driver: Driver) {
    let (old, told, go) = app::waits_for_test("old\n");
    let serve = Serve::new(driver).config(|config| config.workers = 2);
    let served = serve.start(|server| server.responder("/a", old));
    let registry = served.handle.registry();
    let (mut peer, mut other) = (served.connect(), served.connect());
    peer.ask(&Ask::get("/a"));
    assert_eq!(heard(&told), "began");
    registry.responder("/a", ready(|_| Response::text("new\n"))).unwrap();
    // From the next turn of each worker on; asking makes it turn.
    for peer in [&mut peer, &mut other] {
        assert_eq!(peer.fetch(&Ask::get("/a").id(2)).text(), "new\n");
    }
    assert_eq!(other.fetch(&Ask::get("/b").id(3)).status(), 404);
    registry.responder("/b", app::hello).unwrap();
    assert_eq!(other.fetch(&Ask::get("/b").id(3)).status(), 200);
    assert!(registry.withdraw(Role::Responder, "/b"));
    assert_eq!(other.fetch(&Ask::get("/b").id(3)).status(), 404);
    // A request keeps the handler that it began with.
    go.notify_one();
    assert_eq!(peer.answer(1).text(), "old\n");
    // The last one of a role: nobody has it any more.
    assert!(registry.withdraw(Role::Responder, "/a"));
    assert_eq!(peer.get("/a").protocol_status, Some(ProtocolStatus::UnknownRole));
}

fn mounts_match_whole_segments(driver: Driver) {
    async fn mount(request: Request) -> Response {
        Response::text(format!("{} {}", request.mount(), String::from_utf8_lossy(&request.path())))
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/app", mount).responder("/app/admin", mount));
    let mut peer = served.connect();
    for (script_name, path_info, found) in [
        ("/app", "", "/app /app"),
        ("/app", "/x", "/app /app/x"),
        ("", "/app/admin/y", "/app/admin /app/admin/y"),
        ("/ap", "p/admin", "/app/admin /app/admin"),
        ("/app", "/administrator", "/app /app/administrator"),
    ] {
        let answer = peer.fetch(&Ask::get(script_name).param("PATH_INFO", path_info));
        assert_eq!(answer.text(), found);
    }
    for missing in ["/apple", "/", "", "/APP"] {
        assert_eq!(peer.get(missing).status(), 404, "{missing:?}");
    }
}

/// 503 for a web server that sends one request at a time and reads nothing else; OVERLOADED for one that multiplexes.
fn overload_is_said_so_that_the_peer_understands(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let serve = Serve::new(driver).config(|config| config.requests_max = 2);
    let served =
        serve.start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let (mut busy, mut lone) = (served.connect(), served.connect());
    for id in [1, 2] {
        busy.ask(&Ask::get("/never").id(id));
        assert_eq!(heard(&told), "began");
    }
    busy.ask(&Ask::get("/").id(3));
    let answer = busy.answer(3);
    assert_eq!(answer.protocol_status, Some(ProtocolStatus::Overloaded));
    assert!(answer.stdout.is_empty());
    let answer = lone.get("/");
    assert_eq!((answer.status(), answer.app_status), (503, 1));
    assert!(answer.header("Retry-After").is_some() && answer.is_complete());
    // It passes.
    busy.abort(1);
    busy.answer(1);
    assert_eq!(lone.get("/").status(), 200);
    assert_eq!(served.metrics().requests_refused, 2);
}

fn more_connections_than_allowed_wait(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.connections_max = 3);
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peers: Vec<Peer> = (0..3).map(|_| served.connect()).collect();
    for peer in &mut peers {
        assert_eq!(peer.get("/").status(), 200);
    }
    let mut waiting = served.connect();
    waiting.ask(&Ask::get("/"));
    // io_uring may have accepted a few before it was told to stop; they are served.
    peers.pop();
    assert_eq!(waiting.answer(1).status(), 200);
}

/// Decision 14.
fn drain_answers_what_is_in_flight_and_what_was_received(driver: Driver) {
    for workers in [1, 2] {
        let (wait, told, go) = app::waits_for_test("waited\n");
        let serve = Serve::new(driver).config(|config| config.workers = workers);
        let mut served = serve.start(|server| server.responder("/", app::hello).responder("/wait", wait));
        let (mut kept, mut closing) = (served.connect(), served.connect());
        kept.ask(&Ask::get("/wait"));
        closing.ask(&Ask::get("/wait").close());
        assert_eq!((heard(&told), heard(&told)), ("began", "began"));
        // Connected and sent, and perhaps not even accepted yet.
        let mut late: Vec<Peer> = (0..8).map(|_| served.connect()).collect();
        for peer in &mut late {
            peer.ask(&Ask::get("/"));
        }
        served.handle.drain();
        for peer in &mut late {
            assert_eq!(peer.answer(1).status(), 200);
            peer.expect_end();
        }
        eventually("nobody is accepted", || Peer::try_connect(&served.address).is_err_and(refused));
        go.notify_waiters();
        let began = Instant::now();
        assert_eq!((kept.answer(1).text(), closing.answer(1).text()), ("waited\n", "waited\n"));
        kept.expect_end();
        closing.expect_end();
        drop((kept, closing));
        served.wait();
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}

fn refused(error: std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
}

fn drain_ends_kept_connections_that_are_idle(driver: Driver) {
    let mut served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut kept = served.connect();
    let mut silent = served.connect();
    assert_eq!(kept.get("/").status(), 200);
    served.handle.drain();
    kept.expect_end();
    silent.expect_end();
    drop((kept, silent));
    served.wait();
}

fn drain_has_a_limit(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let limit = Duration::from_millis(300);
    let serve = Serve::new(driver).config(|config| config.drain_timeout = limit);
    let mut served = serve.start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    let began = Instant::now();
    served.handle.drain();
    served.wait();
    assert!(began.elapsed() >= limit && began.elapsed() < PATIENCE);
    assert_eq!(heard(&told), "dropped");
    peer.expect_close();
}

fn stop_ends_at_once(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let serve = Serve::new(driver).config(|config| config.workers = 2);
    let mut served = serve.start(|server| server.responder("/", app::never(tell)));
    let mut peers: Vec<Peer> = (0..4).map(|_| served.connect()).collect();
    for peer in &mut peers {
        peer.ask(&Ask::get("/"));
        assert_eq!(heard(&told), "began");
    }
    let began = Instant::now();
    served.handle.stop();
    served.wait();
    assert!(began.elapsed() < Duration::from_secs(3));
    for peer in &mut peers {
        assert_eq!(heard(&told), "dropped");
        peer.expect_close();
    }
    let path = served.address.strip_prefix("unix:").unwrap();
    assert!(!std::path::Path::new(path).exists(), "the socket's file is left behind");
}

fn a_drain_can_be_cut_short(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let mut served = Serve::new(driver).start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    served.handle.drain();
    eventually("it drains", || Peer::try_connect(&served.address).is_err_and(refused));
    app::nothing_heard(&told);
    let began = Instant::now();
    served.handle.stop();
    served.wait();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(heard(&told), "dropped");
}

fn dropping_the_handle_stops(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver).start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    drop(served);
    assert_eq!(heard(&told), "dropped");
    peer.expect_close();
}

fn idle_connections_cost_nothing(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peers: Vec<Peer> = (0..50).map(|_| served.connect()).collect();
    for peer in &mut peers {
        assert_eq!(peer.get("/").status(), 200);
    }
    served.until("all is sent", |metrics| metrics.requests_finished == 50);
    std::thread::sleep(Duration::from_millis(20));
    let before = served.metrics().turns;
    std::thread::sleep(Duration::from_millis(300));
    let turns = served.metrics().turns - before;
    assert!(turns <= 1, "{turns} turns while nothing happened");
}

/// A server in a process of its own: what the tests of signals and of limits run, on the address in the environment.
#[test]
#[ignore = "run by other tests as a process of its own"]
fn server_process() {
    let driver = if std::env::var("TEST_DRIVER").unwrap() == "uring" { Driver::Uring } else { Driver::Epoll };
    if let Ok(files) = std::env::var("TEST_FILES") {
        let files = files.parse().ok();
        let limit = rustix::process::Rlimit { current: files, maximum: files };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    }
    let counter = Arc::new(AtomicUsize::new(0));
    let sleep = move |_: Request| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slept\n"
        }
    };
    let server = Server::builder().listen(std::env::var("TEST_LISTEN").unwrap()).driver(driver).workers(1);
    server.responder("/", app::hello).responder("/sleep", sleep).run().unwrap();
}

/// The process, told to end when the test is over.
struct Process {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Process {
    fn start(driver: Driver, files: Option<u32>) -> Process {
        let directory = tempfile::TempDir::new().unwrap();
        let address = format!("unix:{}", directory.path().join("socket").display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["lifecycle::server_process", "--exact", "--ignored", "--nocapture"]);
        command.env("TEST_LISTEN", &address).env("TEST_DRIVER", format!("{driver:?}").to_lowercase());
        if let Some(files) = files {
            command.env("TEST_FILES", files.to_string());
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("it listens", || Peer::try_connect(&address).is_ok());
        Process { child, address, _directory: directory }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Seconds of processor time that it took so far.
    fn cpu_time(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0 // proc(5): USER_HZ
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Decision 14.
fn signals_drain_and_then_stop(driver: Driver) {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(driver, None);
        let mut peer = Peer::connect(&process.address);
        peer.ask(&Ask::get("/sleep").close());
        peer.fetch(&Ask::get("/").id(2));
        process.signal(signal);
        assert_eq!(peer.answer(1).text(), "slept\n");
        drop(peer);
        let began = Instant::now();
        assert!(process.child.wait().unwrap().success());
        assert!(began.elapsed() < Duration::from_secs(4));
    }
    let mut process = Process::start(driver, None);
    let mut peer = Peer::connect(&process.address);
    peer.ask(&Ask::get("/sleep"));
    peer.fetch(&Ask::get("/").id(2));
    let began = Instant::now();
    process.signal(Signal::TERM);
    eventually("it drains", || Peer::try_connect(&process.address).is_err_and(refused));
    process.signal(Signal::TERM);
    assert!(process.child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(peer.rest(1).protocol_status.is_none());
}

/// Decision 15: EMFILE is no end and no spin, and it passes.
fn a_shortage_of_descriptors_passes(driver: Driver) {
    let process = Process::start(driver, Some(40));
    let mut peers: Vec<Peer> = (0..30).map(|_| Peer::connect(&process.address)).collect();
    assert_eq!(peers[0].get("/").status(), 200);
    peers.extend((0..30).map(|_| Peer::connect(&process.address)));
    std::thread::sleep(Duration::from_millis(100));
    let before = process.cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let used = process.cpu_time() - before;
    assert!(used < 0.1, "{used} s of processor time within half a second of shortage");
    let mut answered = 0;
    for mut peer in peers {
        peer.expect(9);
        // With epoll who was not accepted waits. io_uring's accept takes all that come at once, and drops those for
        // which there is no descriptor: their peers see the end.
        if peer.try_send(&Ask::get("/").id(9).close().bytes()).is_ok() {
            answered += usize::from(peer.is_answered(9));
        }
    }
    assert!(answered >= if driver == Driver::Epoll { 60 } else { 20 }, "{answered} of 60 were answered");
    assert_eq!(Peer::connect(&process.address).get("/").status(), 200);
}

/// Unix and TCP, blocking or not, on more workers than one.
fn given_connections_are_served_without_listening(driver: Driver) {
    let (near, far) = UnixStream::pair().expect("a pair");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut peers = vec![Peer::connect(&port.local_addr().expect("bound").to_string())];
    let (accepted, _) = port.accept().expect("it has connected");
    accepted.set_nonblocking(true).expect("a socket");
    peers.push(Peer::over(near));
    let server = Server::builder().driver(driver).workers(2).connection(far).connection(accepted);
    let mut handle = server.responder("/", app::hello).start().expect("the server starts");
    assert!(handle.addresses().is_empty());
    eventually("each worker has one", || handle.connections() == [1, 1]);
    for peer in &mut peers {
        assert_eq!(peer.get("/").text(), "Hello, world!\n");
        assert_eq!(peer.get("/").text(), "Hello, world!\n");
    }
    handle.drain();
    peers.iter_mut().for_each(Peer::expect_end);
    handle.wait().expect("the server ends in order");
}
