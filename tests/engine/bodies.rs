//! Bodies of any size in both directions: streamed, bounded, and with a peer or a handler that does not take part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringway::proto::{RecordType, RequestId, encoder};
use ringway::{Driver, Failure, Request, Response, Stdout};
use tokio::sync::Notify;

use crate::app::{self, pattern};
use crate::peer::{Ask, PATIENCE, Peer};
use crate::server::{Serve, Served, each_driver, eventually};

each_driver! {
    twenty_megabytes_are_echoed,
    a_body_is_copied_with_tokio,
    a_handler_that_does_not_read_stops_the_peer,
    an_unread_body_does_not_stall_the_neighbours,
    unread_bodies_do_not_use_up_the_buffers,
    content_length_caps_the_body,
    a_body_that_ends_early_breaks_an_answer_off,
    stdin_after_its_end_is_ignored,
    a_peer_that_does_not_read_stops_the_handler,
    a_large_answer_leaves_room_for_small_ones,
    a_body_arrives_while_the_answer_is_blocked,
    what_a_handler_leaves_unread_is_thrown_away,
}

/// More than the windows and what the kernel holds for a socket, together.
const BOUND: usize = 2 << 20;

fn twenty_megabytes_are_echoed(driver: Driver) {
    for serve in [Serve::new(driver), Serve::new(driver).on_tcp()] {
        let served = serve.start(|server| server.responder("/", app::echo));
        let mut peer = served.connect();
        let body = pattern(0, 20_000_000);
        let ask = Ask::post("/", body.clone());
        peer.expect(1);
        let mut sender = peer.sender();
        let sending = std::thread::spawn(move || sender.write_all(&ask.bytes()).unwrap());
        let answer = peer.answer(1);
        sending.join().unwrap();
        assert!(answer.body() == body, "the echo is not what was sent");
        assert!(answer.is_complete());
    }
}

fn a_body_is_copied_with_tokio(driver: Driver) {
    async fn copy(request: Request) -> Response {
        Response::new(200).stream(move |mut stdout: Stdout| async move {
            let copied = tokio::io::copy(&mut request.stdin(), &mut stdout).await?;
            assert_eq!(Some(copied), request.stdin().length());
            Ok::<(), Failure>(())
        })
    }
    let served = Serve::new(driver).start(|server| server.responder("/", copy));
    let body = pattern(0, 150_000);
    let answer = served.connect().fetch(&Ask::post("/", body.clone()));
    assert!(answer.body() == body && answer.is_complete());
}

/// A record of STDIN of request 1, with 32,000 bytes of content.
fn record() -> Vec<u8> {
    let mut record = Vec::new();
    encoder::stream(&mut record, RecordType::Stdin, RequestId::ONE, &pattern(0, 32_000));
    record
}

/// Sends that record again and again until the server takes no more for a while; how many bytes it took.
fn stuff(peer: &mut Peer, is_stuffed: impl Fn() -> bool) -> usize {
    let record = record();
    let (mut sent, mut stuck_since) = (0, Instant::now());
    while !is_stuffed() || stuck_since.elapsed() < Duration::from_millis(50) {
        match peer.send_some(&record[sent % record.len()..]) {
            0 => std::thread::sleep(Duration::from_millis(1)),
            count => (sent, stuck_since) = (sent + count, Instant::now()),
        }
        assert!(sent < 2 * BOUND, "the server takes everything");
        assert!(stuck_since.elapsed() < PATIENCE, "it is stuck before its time");
    }
    sent
}

fn a_handler_that_does_not_read_stops_the_peer(driver: Driver) {
    let go = Arc::new(Notify::new());
    let released = go.clone();
    let served = Serve::new(driver).start(|server| {
        server.responder("/", app::hello).responder("/wait", move |request: Request| {
            let go = released.clone();
            async move {
                go.notified().await;
                app::count(request).await
            }
        })
    });
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/wait"));
    let sent = stuff(&mut peer, || served.metrics().stdin_pauses == 1);
    assert!((256 << 10..BOUND).contains(&sent), "{sent} bytes were taken");
    // Other connections do not notice.
    assert_eq!(served.connect().get("/").status(), 200);
    // From here on all is taken: the rest of the record that was cut, then more.
    go.notify_one();
    let record = record();
    let records = sent.div_ceil(record.len());
    peer.send(&record.repeat(records)[sent..]);
    peer.send(&record.repeat(50));
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).text(), format!("{}\n", (records + 50) * 32_000));
}

/// Decision 12.
fn an_unread_body_does_not_stall_the_neighbours(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/never", app::never(tell)).responder("/", app::echo));
    let mut peer = served.connect();
    for id in [1, 3] {
        peer.ask_head(&Ask::get("/never").id(id));
        assert_eq!(app::heard(&told), "began");
        peer.stdin(id, &pattern(0, 128 << 10));
    }
    for id in 4..20 {
        assert_eq!(peer.fetch(&Ask::post("/", "small").id(id)).text(), "small");
    }
    assert_eq!(served.metrics().stdin_pauses, 0);
    for id in [1, 3] {
        peer.abort(id);
        peer.answer(id);
    }
}

/// A pool of eight small buffers, and far more unread input than fits them.
fn unread_bodies_do_not_use_up_the_buffers(driver: Driver) {
    let go = Arc::new(Notify::new());
    let released = go.clone();
    let serve = Serve::new(driver).config(|config| {
        config.buffer_bytes = 4096;
        config.ring_buffers = 4;
        config.buffers_max = 8;
    });
    let served = serve.start(|server| {
        server.responder("/", app::hello).responder("/wait", move |request: Request| {
            let go = released.clone();
            async move {
                go.notified().await;
                request.stdin().read_to_vec(1 << 20).await.map(Response::bytes)
            }
        })
    });
    let (mut peer, mut other) = (served.connect(), served.connect());
    let body = |id: u16| pattern(usize::from(id), 20_000);
    for id in 1..=32 {
        let ask = Ask::post("/wait", body(id)).with_nginx_headers().id(id);
        if id % 2 == 0 {
            peer.ask(&ask)
        } else {
            other.ask(&ask)
        };
    }
    assert_eq!(served.connect().get("/").status(), 200);
    // All handlers wait, each with its body.
    served.until("all wait", |metrics| metrics.tasks_pending == 32);
    go.notify_waiters();
    for id in 1..=32 {
        let answer = if id % 2 == 0 { peer.answer(id) } else { other.answer(id) };
        assert!(answer.body() == body(id), "request {id}");
    }
}

/// Decisions 7 and 20.
fn content_length_caps_the_body(driver: Driver) {
    async fn read(request: Request) -> Result<Response, Failure> {
        Ok(Response::bytes(request.stdin().read_to_vec(1_000).await?))
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/", read).responder("/unread", app::hello));
    let mut peer = served.connect();
    let mut ask = |uri: &str, length: Option<&str>| {
        let mut ask = Ask::get(uri);
        if let Some(length) = length {
            ask = ask.param("CONTENT_LENGTH", length);
        }
        ask.stdin = b"hello world".to_vec();
        peer.fetch(&ask)
    };
    for (length, body) in [("11", "hello world"), ("5", "hello"), ("0", ""), ("00005", "hello")] {
        assert_eq!(ask("/", Some(length)).text(), body, "{length:?}");
    }
    for unknown in [None, Some(""), Some("-1"), Some("-99999999999999999999999")] {
        assert_eq!(ask("/", unknown).text(), "hello world", "{unknown:?}");
    }
    for wrong in ["abc", "5x", "-", "+5", " 5", "5 ", "0x5", "99999999999999999999999", "5\n"] {
        let answer = ask("/", Some(wrong));
        assert_eq!((answer.status(), answer.app_status), (400, 1), "{wrong:?}");
        assert!(answer.is_complete() && !answer.stderr.is_empty());
        assert_eq!(ask("/unread", Some(wrong)).status(), 200, "{wrong:?}: nobody asked for the body");
    }
    let short = ask("/", Some("12"));
    assert_eq!((short.status(), short.app_status), (400, 1));
    assert_eq!(short.text(), "the body ended after 11 bytes, 12 were announced\n");
    // An error of the visitor's is none of the server's.
    assert_eq!(served.metrics().requests_failed, 0);
}

fn a_body_that_ends_early_breaks_an_answer_off(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::echo));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/").param("CONTENT_LENGTH", "100"));
    peer.stdin(1, b"half");
    peer.read_stdout(1, 1);
    peer.stdin_end(1);
    let answer = peer.rest(1);
    assert_eq!(answer.text(), "half");
    assert!(answer.protocol_status.is_none() && !answer.stdout_ended);
}

/// Decision 20: Cherokee.
fn stdin_after_its_end_is_ignored(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", app::count).responder("/never", app::never(tell)));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/never").id(2));
    assert_eq!(app::heard(&told), "began");
    peer.stdin(2, b"more");
    peer.stdin_end(2);
    peer.stdin_end(2);
    peer.ask(&Ask::post("/", "12345"));
    peer.stdin(1, b"678");
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).text(), "5\n");
    peer.abort(2);
    assert!(peer.answer(2).stdout.is_empty());
}

/// A server whose `/?N` writes N bytes of the pattern, and how many of them its handlers could write.
fn writer(driver: Driver) -> (Served, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let served = Serve::new(driver).start(|server| {
        server.responder("/small", app::hello).responder("/", move |request: Request| {
            let count = count.clone();
            async move {
                let length: usize = std::str::from_utf8(request.query()).unwrap().parse().unwrap();
                Response::new(200).stream(move |mut stdout: Stdout| async move {
                    for at in (0..length).step_by(10_000) {
                        stdout.write(&pattern(at, 10_000)).await?;
                        count.fetch_add(10_000, Ordering::SeqCst);
                    }
                    Ok::<(), Failure>(())
                })
            }
        })
    });
    (served, written)
}

fn until_steady(number: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, Instant::now());
    eventually("the handler waits", || {
        let now = number.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(50)
    });
    last
}

fn a_peer_that_does_not_read_stops_the_handler(driver: Driver) {
    let (served, written) = writer(driver);
    let mut peer = served.connect();
    peer.ask(&Ask::get("/?10000000"));
    let taken = until_steady(&written);
    assert!(taken < BOUND, "{taken} bytes were written though nobody reads");
    // The same connection still takes requests, others do not notice.
    peer.ask(&Ask::get("/small").id(2));
    assert_eq!(served.connect().get("/small").status(), 200);
    assert!(peer.answer(1).body() == pattern(0, 10_000_000));
    assert_eq!(peer.answer(2).status(), 200);
    assert!(served.metrics().output_pauses > 0);
}

/// Decision 12.
fn a_large_answer_leaves_room_for_small_ones(driver: Driver) {
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/small", app::hello)
            .responder("/stream", app::bytes)
            .responder("/block", |_: Request| async { Response::bytes(vec![b'x'; 8_000_000]) })
    });
    for large in ["/stream?8000000", "/block"] {
        let mut peer = served.connect();
        peer.ask(&Ask::get(large));
        peer.read_stdout(1, 100_000);
        peer.ask(&Ask::get("/small").id(2));
        assert_eq!(peer.answer(2).status(), 200);
        let before = peer.so_far(1).stdout.len();
        assert!(before < BOUND, "{large}: {before} bytes of the large answer came before the small one");
        assert_eq!(peer.answer(1).body().len(), 8_000_000);
    }
}

/// Decision 19.
fn a_body_arrives_while_the_answer_is_blocked(driver: Driver) {
    async fn answer_then_read(request: Request) -> Response {
        Response::new(200).stream(move |mut stdout: Stdout| async move {
            stdout.write(&pattern(0, 1_000_000)).await?;
            let body = request.stdin().read_to_vec(1 << 20).await?;
            stdout.write(&body).await?;
            Ok::<(), Failure>(())
        })
    }
    let served = Serve::new(driver).start(|server| server.responder("/", answer_then_read));
    let mut peer = served.connect();
    // All of it is sent before anything is read.
    let body = pattern(0, 200 << 10);
    let answer = peer.fetch(&Ask::post("/", body.clone()));
    assert!(answer.body() == [pattern(0, 1_000_000), body].concat());
}

/// Decision 19: a web server that sends its whole request before it reads the answer.
fn what_a_handler_leaves_unread_is_thrown_away(driver: Driver) {
    async fn read_some(request: Request) -> Result<Response, Failure> {
        request.stdin().chunk().await?;
        Ok(Response::bytes(pattern(0, 1_000_000)))
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/", app::hello).responder("/some", read_some));
    let mut peer = served.connect();
    let body = vec![b'x'; 20_000_000];
    assert_eq!(peer.fetch(&Ask::post("/", body.clone())).status(), 200);
    assert!(peer.fetch(&Ask::post("/some", body)).body() == pattern(0, 1_000_000));
    assert_eq!(peer.get("/").status(), 200);
    // Where the connection ends with the request, as much is read as it takes for the answer to arrive.
    let mut peer = served.connect();
    peer.ask(&Ask::post("/", vec![b'x'; 500_000]).close());
    assert_eq!(peer.answer(1).status(), 200);
    peer.expect_end();
}
