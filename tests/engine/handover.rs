//! A server that is replaced passes its kept connections on, and their web servers notice nothing.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringway::{Builder, Driver, Handle, Passage, Request, Server};
use tempfile::TempDir;

use crate::app::{self, heard, pattern};
use crate::peer::{Ask, Peer};
use crate::server::{each_driver, eventually};

each_driver! {
    idle_connections_go_on_with_another_server,
    connections_are_spread_over_the_workers,
    a_record_that_is_half_there_is_waited_for,
    an_answer_is_given_before_the_connection_goes,
    a_connection_that_is_never_at_rest_is_brought_to_it,
    a_long_request_does_not_keep_others_waiting,
    a_request_that_comes_with_the_order_is_answered,
    no_request_is_lost_in_many_replacements,
    who_drains_passes_nothing_on,
    a_retirement_can_become_a_drain,
    where_nobody_takes_them_connections_end,
    what_is_on_its_way_when_all_end_is_answered,
    a_listener_that_the_other_does_not_have_is_none,
}

/// What a chain of servers shares.
struct Stand {
    driver: Driver,
    sockets: Vec<OwnedFd>,
    address: String,
    passage: Passage,
    _directory: TempDir,
}

impl Stand {
    fn unix(driver: Driver) -> Stand {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap().into();
        Stand::new(driver, socket, format!("unix:{}", path.display()), directory)
    }

    fn tcp(driver: Driver) -> Stand {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        Stand::new(driver, socket.into(), address, TempDir::new().unwrap())
    }

    fn new(driver: Driver, socket: OwnedFd, address: String, directory: TempDir) -> Stand {
        let passage = Passage::new().unwrap();
        Stand { driver, sockets: vec![socket], address, passage, _directory: directory }
    }

    fn each(driver: Driver) -> [Stand; 2] {
        [Stand::unix(driver), Stand::tcp(driver)]
    }

    fn builder(&self) -> Builder {
        let server = Server::builder().driver(self.driver).workers(1);
        let server =
            self.sockets.iter().fold(server, |server, socket| server.listener(socket.try_clone().unwrap()));
        server.passage(self.passage.try_clone().unwrap())
    }

    /// A server that answers with its name.
    fn start(&self, name: &'static str) -> Handle {
        self.builder().responder("/", move |_: Request| async move { name }).start().unwrap()
    }

    fn connect(&self) -> Peer {
        Peer::connect(&self.address)
    }
}

fn ends(mut handle: Handle) {
    handle.wait().expect("the server ends in order");
}

/// Waits until so many have come over; nothing else counts as a connection that was accepted.
fn taken_over(by: &Handle, count: u64) {
    eventually("they are taken over", || by.metrics().connections_taken_over == count);
    assert_eq!(by.metrics().connections_accepted, 0);
}

fn idle_connections_go_on_with_another_server(driver: Driver) {
    for stand in Stand::each(driver) {
        let old = stand.start("old");
        let mut peers: Vec<Peer> = (0..20).map(|_| stand.connect()).collect();
        for peer in &mut peers {
            assert_eq!(peer.get("/").text(), "old");
        }
        // Who has never said anything may yet.
        peers.push(stand.connect());
        eventually("all are accepted", || old.connections() == [21]);
        let new = stand.start("new");
        old.retire();
        taken_over(&new, 21);
        let metrics = old.metrics();
        assert_eq!((metrics.connections_passed_on, metrics.connections_closed), (21, 0));
        ends(old);
        for peer in &mut peers {
            assert_eq!(peer.get("/").text(), "new");
            assert_eq!(peer.fetch(&Ask::post("/", pattern(0, 300_000)).id(7)).text(), "new");
        }
        assert_eq!(new.connections(), [21]);
        drop(peers);
        eventually("they end like all others", || new.connections() == [0]);
        assert_eq!(new.metrics().connections_closed, 21);
    }
}

fn connections_are_spread_over_the_workers(driver: Driver) {
    let stand = Stand::unix(driver);
    let old = stand.start("old");
    let mut peers: Vec<Peer> = (0..30).map(|_| stand.connect()).collect();
    eventually("all are accepted", || old.connections() == [30]);
    let new = stand.builder().workers(3).responder("/", |_: Request| async { "new" }).start().unwrap();
    old.retire();
    ends(old);
    for peer in &mut peers {
        assert_eq!(peer.get("/").text(), "new");
    }
    assert_eq!(new.connections(), [10, 10, 10]);
    // From there as well, to two others of which each takes a part.
    let [left, right] = [stand.start("new"), stand.start("new")];
    new.retire();
    ends(new);
    for peer in &mut peers {
        assert_eq!(peer.get("/").text(), "new");
    }
    let parts = [left.connections()[0], right.connections()[0]];
    assert!(parts[0] + parts[1] == 30 && parts.iter().all(|part| *part >= 5), "{parts:?}");
}

fn a_record_that_is_half_there_is_waited_for(driver: Driver) {
    for stand in Stand::each(driver) {
        let old = stand.start("old");
        let bytes = Ask::get("/").bytes();
        // In a header; after BEGIN_REQUEST; in PARAMS.
        let cuts = [3, 16, 40];
        let mut peers = cuts.map(|cut| {
            let mut peer = stand.connect();
            peer.expect(1);
            peer.send(&bytes[..cut]);
            peer
        });
        old_has_received(&old, cuts.iter().sum::<usize>() as u64);
        let new = stand.start("new");
        old.retire();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(new.metrics().connections_taken_over, 0);
        for (peer, cut) in peers.iter_mut().zip(cuts) {
            peer.send(&bytes[cut..]);
            assert_eq!(peer.answer(1).text(), "old");
        }
        taken_over(&new, 3);
        for peer in &mut peers {
            assert_eq!(peer.get("/").text(), "new");
        }
        ends(old);
    }
}

fn old_has_received(old: &Handle, bytes: u64) {
    eventually("the bytes are there", || old.metrics().bytes_received == bytes);
}

fn an_answer_is_given_before_the_connection_goes(driver: Driver) {
    for stand in Stand::each(driver) {
        let (wait, told, go) = app::waits_for_test("old");
        let old = stand.builder().responder("/", wait).responder("/bytes", app::bytes).start().unwrap();
        let (mut waiting, mut slow) = (stand.connect(), stand.connect());
        waiting.ask(&Ask::get("/"));
        assert_eq!(heard(&told), "began");
        // More than the kernel takes for a peer that does not read.
        let length = 16 << 20;
        slow.ask(&Ask::get(&format!("/bytes?{length}")));
        slow.read_stdout(1, 1);
        let new = stand.start("new");
        old.retire();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(new.metrics().connections_taken_over, 0);
        go.notify_one();
        assert_eq!(waiting.answer(1).text(), "old");
        assert_eq!(waiting.get("/").text(), "new");
        assert_eq!(slow.answer(1).body(), pattern(0, length));
        assert_eq!(slow.get("/").text(), "new");
        ends(old);
    }
}

/// A web server that multiplexes: no request is answered before the next one has begun.
fn a_connection_that_is_never_at_rest_is_brought_to_it(driver: Driver) {
    for stand in Stand::each(driver) {
        let (wait, told, go) = app::waits_for_test("old");
        let old = stand.builder().responder("/", wait).start().unwrap();
        let mut peer = stand.connect();
        peer.ask(&Ask::get("/").id(1));
        assert_eq!(heard(&told), "began");
        let new = stand.start("new");
        old.retire();
        let began = Instant::now();
        for (id, next) in [(1, 2), (2, 1)].into_iter().cycle() {
            peer.ask(&Ask::post("/", pattern(0, 5_000)).id(next));
            let has_begun = told.recv_timeout(Duration::from_millis(300)).is_ok();
            go.notify_one();
            assert_eq!(peer.answer(id).text(), "old");
            if !has_begun {
                // It was left to the other one.
                assert_eq!(peer.answer(next).text(), "new");
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it stays for ever");
        }
        taken_over(&new, 1);
        ends(old);
    }
}

fn a_long_request_does_not_keep_others_waiting(driver: Driver) {
    let stand = Stand::unix(driver);
    let (tell, told) = mpsc::channel();
    let old =
        stand.builder().responder("/", app::hello).responder("/never", app::never(tell)).start().unwrap();
    let mut peer = stand.connect();
    peer.ask(&Ask::get("/never").id(1));
    assert_eq!(heard(&told), "began");
    let new = stand.start("new");
    old.retire();
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_millis(2_500) {
        let asked = Instant::now();
        assert_eq!(peer.fetch(&Ask::get("/").id(2)).text(), "Hello, world!\n");
        longest = longest.max(asked.elapsed());
    }
    // Nothing is received for a second, then all is.
    assert!(longest > Duration::from_millis(500) && longest < Duration::from_millis(1_500), "{longest:?}");
    peer.abort(1);
    peer.answer(1);
    taken_over(&new, 1);
    assert_eq!(peer.get("/").text(), "new");
    ends(old);
}

fn a_request_that_comes_with_the_order_is_answered(driver: Driver) {
    for stand in Stand::each(driver) {
        let mut now = stand.start("one");
        let mut peer = stand.connect();
        assert_eq!(peer.get("/").text(), "one");
        // Before, in the middle of and after the connection's way to the other one.
        for micros in (0..120_000).step_by(24_000).chain((99_000..103_000).step_by(500)) {
            let next = stand.start("another");
            now.retire();
            std::thread::sleep(Duration::from_micros(micros));
            peer.get("/");
            ends(std::mem::replace(&mut now, next));
            taken_over(&now, 1);
        }
    }
}

fn no_request_is_lost_in_many_replacements(driver: Driver) {
    for stand in Stand::each(driver) {
        let mut now = stand.start("server");
        let is_over = AtomicBool::new(false);
        let mut answers = 0;
        std::thread::scope(|scope| {
            let visitors: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut peer, mut count) = (stand.connect(), 0);
                        while !is_over.load(Ordering::Relaxed) {
                            assert_eq!(peer.fetch(&Ask::post("/", "a body")).text(), "server");
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            eventually("all are connected", || now.connections() == [6]);
            for _ in 0..10 {
                let next = stand.start("server");
                now.retire();
                ends(std::mem::replace(&mut now, next));
                assert_eq!(now.metrics().connections_accepted, 0);
            }
            is_over.store(true, Ordering::Relaxed);
            answers = visitors.into_iter().map(|visitor| visitor.join().expect("nothing is lost")).sum();
        });
        assert!(answers > 100, "{answers}");
    }
}

fn who_drains_passes_nothing_on(driver: Driver) {
    let stand = Stand::unix(driver);
    let old = stand.start("old");
    let mut peer = stand.connect();
    assert_eq!(peer.get("/").text(), "old");
    let new = stand.start("new");
    old.drain();
    peer.expect_end();
    ends(old);
    assert_eq!(new.metrics().connections_taken_over, 0);
}

fn a_retirement_can_become_a_drain(driver: Driver) {
    let stand = Stand::unix(driver);
    let (wait, told, go) = app::waits_for_test("old");
    let old = stand.builder().responder("/", wait).start().unwrap();
    let mut peer = stand.connect();
    peer.ask(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    let new = stand.start("new");
    old.retire();
    std::thread::sleep(Duration::from_millis(150));
    old.drain();
    go.notify_one();
    assert_eq!(peer.answer(1).text(), "old");
    peer.expect_end();
    ends(old);
    assert_eq!(new.metrics().connections_taken_over, 0);
}

/// As many as fit wait for somebody to take them; the others are closed after a while, and no later than that.
fn where_nobody_takes_them_connections_end(driver: Driver) {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let stand = Stand::unix(driver);
    let mut old = stand.start("old");
    let mut peers: Vec<Peer> = (0..600).map(|_| stand.connect()).collect();
    eventually("all are accepted", || old.connections() == [600]);
    let began = Instant::now();
    old.retire();
    old.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let metrics = old.metrics();
    let (waiting, closed) = (metrics.connections_passed_on, metrics.connections_not_passed_on);
    assert!(waiting + closed == 600 && waiting >= 100 && closed > 0, "{waiting} wait, {closed} are closed");
    assert_eq!(metrics.connections_closed, closed);
    drop(old);
    let silent =
        peers.iter_mut().filter_map(|peer| peer.is_silent_for(Duration::from_millis(1)).then_some(()));
    assert_eq!(silent.count() as u64, waiting);
    drop(stand);
    peers.iter_mut().for_each(Peer::expect_end);
}

fn what_is_on_its_way_when_all_end_is_answered(driver: Driver) {
    let stand = Stand::unix(driver);
    let old = stand.start("old");
    let mut peers: Vec<Peer> = (0..5).map(|_| stand.connect()).collect();
    eventually("all are accepted", || old.connections() == [5]);
    old.retire();
    ends(old);
    for peer in &mut peers {
        peer.ask(&Ask::get("/"));
    }
    let new = stand.start("new");
    new.drain();
    for peer in &mut peers {
        assert_eq!(peer.answer(1).text(), "new");
        peer.expect_end();
    }
    ends(new);
}

fn a_listener_that_the_other_does_not_have_is_none(driver: Driver) {
    let mut stand = Stand::unix(driver);
    let more = Stand::tcp(driver);
    stand.sockets.extend(more.sockets);
    let old = stand.start("old");
    let (mut first, mut second) = (stand.connect(), Peer::connect(&more.address));
    assert_eq!((first.get("/").text(), second.get("/").text()), ("old", "old"));
    stand.sockets.truncate(1);
    let new = stand.start("new");
    old.retire();
    ends(old);
    assert_eq!(first.get("/").text(), "new");
    second.expect_end();
    eventually("only one is kept", || new.connections() == [1]);
}
