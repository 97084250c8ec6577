//! Every deadline of the settings: what it ends, what it tells whom, and what it leaves alone.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringway::proto::wire::variable;
use ringway::proto::{RecordType, encoder};
use ringway::{Driver, Failure, FilterRequest, Request, Response, Stdout};

use crate::app::{self, heard, pattern};
use crate::peer::{Ask, Peer};
use crate::server::{Serve, Served, each_driver};

each_driver! {
    first_closes_who_does_not_speak,
    first_lets_a_management_record_count,
    params_that_do_not_end_get_a_408,
    stdin_that_stops_is_a_read_error,
    stdin_that_trickles_is_no_read_error,
    stdin_fails_a_filters_data_too,
    send_closes_who_does_not_read,
    send_lets_a_slow_reader_be,
    idle_closes_a_kept_connection,
    idle_does_not_cut_an_answer,
    request_gives_a_504,
    request_breaks_off_an_answer_that_has_begun,
    request_answers_a_filter_that_waits,
    request_does_not_spin_while_the_peer_does_not_read,
    linger_closes_who_does_not_close,
    linger_reads_no_more_than_its_bytes,
}

/// Short, but long enough for a busy machine to do ten times what happens within it.
const LIMIT: Duration = Duration::from_millis(200);

fn took_about_the_limit(began: Instant) {
    assert!(began.elapsed() >= LIMIT, "it came too early, after {:?}", began.elapsed());
    assert!(began.elapsed() < 40 * LIMIT, "it came too late, after {:?}", began.elapsed());
}

fn first_closes_who_does_not_speak(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.first_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut kept = served.connect();
    assert_eq!(kept.get("/").status(), 200);
    let began = Instant::now();
    let (mut silent, mut slow) = (served.connect(), served.connect());
    slow.send(&Ask::get("/").bytes()[..10]);
    silent.expect_close();
    took_about_the_limit(began);
    slow.expect_close();
    assert_eq!(served.metrics().deadlines_passed, 2);
    assert_eq!(kept.get("/").status(), 200);
}

fn first_lets_a_management_record_count(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.first_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    let mut question = Vec::new();
    encoder::get_values(&mut question, [variable::MAX_REQS]);
    peer.send(&question);
    peer.record().expect("an answer");
    assert!(peer.is_silent_for(2 * LIMIT));
    assert_eq!(peer.get("/").status(), 200);
    assert_eq!(served.metrics().deadlines_passed, 0);
}

fn params_that_do_not_end_get_a_408(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.params_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    peer.expect(1);
    let began = Instant::now();
    let head = Ask::get("/").head();
    peer.send(&head[..head.len() - 8]);
    // The neighbour is not concerned, and the rest comes too late.
    assert_eq!(peer.fetch(&Ask::get("/").id(2)).status(), 200);
    let answer = peer.answer(1);
    took_about_the_limit(began);
    assert_eq!((answer.status(), answer.app_status), (408, 1));
    peer.send(&head[head.len() - 8..]);
    assert_eq!(peer.get("/").status(), 200);
    assert_eq!(served.metrics().deadlines_passed, 1);
}

fn stdin_that_stops_is_a_read_error(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.stdin_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::count));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/"));
    let began = Instant::now();
    peer.stdin(1, b"half");
    let answer = peer.answer(1);
    took_about_the_limit(began);
    assert_eq!((answer.status(), answer.app_status), (408, 1));
    assert!(answer.is_complete() && answer.stderr_text().contains("stdin_timeout"));
    assert_eq!(peer.fetch(&Ask::post("/", "whole")).text(), "5\n");
    assert_eq!(served.metrics().requests_failed, 0, "the visitor's fault");
}

fn stdin_that_trickles_is_no_read_error(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.stdin_timeout = 2 * LIMIT);
    let served = serve.start(|server| server.responder("/", app::count));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/"));
    for _ in 0..6 {
        peer.stdin(1, b"x");
        std::thread::sleep(LIMIT / 2);
    }
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).text(), "6\n");
}

fn stdin_fails_a_filters_data_too(driver: Driver) {
    async fn both(request: FilterRequest) -> Result<Response, Failure> {
        request.stdin().read_to_vec(100).await?;
        request.data().read_to_vec(100).await.map(Response::bytes).map_err(Into::into)
    }
    let serve = Serve::new(driver).config(|config| config.stdin_timeout = LIMIT);
    let served = serve.start(|server| server.filter("/", both));
    let mut peer = served.connect();
    peer.ask_head(&Ask::filter("/", "", "data"));
    peer.stdin_end(1);
    peer.stream(RecordType::Data, 1, b"da");
    assert_eq!(peer.answer(1).status(), 408);
}

fn send_closes_who_does_not_read(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.send_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::hello).responder("/bytes", app::bytes));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/bytes?10000000"));
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
    assert_eq!(served.connect().get("/").status(), 200);
    let metrics = served.metrics();
    assert_eq!((metrics.deadlines_passed, metrics.requests_aborted, metrics.tasks_pending), (1, 1, 0));
    // What was being sent was cancelled by closing.
    assert_eq!(metrics.send_failures, 0);
}

/// However long an answer takes as a whole: what counts is that a send of `output_high_bytes` ends in time.
fn send_lets_a_slow_reader_be(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.send_timeout = 2 * LIMIT);
    let served = serve.start(|server| server.responder("/bytes", app::bytes));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/bytes?1000000"));
    for step in 1..=20 {
        peer.read_stdout(1, step * 40_000);
        std::thread::sleep(LIMIT / 4);
    }
    assert!(peer.answer(1).body() == pattern(0, 1_000_000));
    assert_eq!(served.metrics().deadlines_passed, 0);
}

fn idle_closes_a_kept_connection(driver: Driver) {
    async fn slowly(_: Request) -> Response {
        tokio::time::sleep(3 * LIMIT).await;
        Response::new(204)
    }
    let serve = Serve::new(driver).config(|config| config.idle_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", app::hello).responder("/slowly", slowly));
    let (mut idle, mut busy) = (served.connect(), served.connect());
    busy.ask(&Ask::get("/slowly"));
    let began = Instant::now();
    assert_eq!(idle.get("/").status(), 200);
    idle.expect_close();
    took_about_the_limit(began);
    assert_eq!(busy.answer(1).status(), 204);
    busy.expect_close();
}

fn idle_does_not_cut_an_answer(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.idle_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/bytes", app::bytes));
    let mut peer = served.connect();
    // More than the kernel takes, so that some of it waits here.
    peer.ask(&Ask::get("/bytes?250000"));
    served.until("all of it is under way", |metrics| metrics.requests_finished == 1);
    std::thread::sleep(2 * LIMIT);
    assert_eq!(peer.answer(1).body().len(), 250_000);
}

fn request_gives_a_504(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let serve = Serve::new(driver).config(|config| config.request_timeout = LIMIT);
    let served =
        serve.start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let mut peer = served.connect();
    let began = Instant::now();
    peer.ask(&Ask::get("/never"));
    assert_eq!(heard(&told), "began");
    assert_eq!(peer.fetch(&Ask::get("/").id(2)).status(), 200);
    let answer = peer.answer(1);
    took_about_the_limit(began);
    assert_eq!((answer.status(), answer.app_status), (504, 1));
    assert!(answer.is_complete());
    assert_eq!(heard(&told), "dropped");
    assert_eq!(peer.get("/").status(), 200);
    let metrics = served.metrics();
    assert_eq!((metrics.deadlines_passed, metrics.requests_failed, metrics.tasks_pending), (1, 1, 0));
}

fn request_breaks_off_an_answer_that_has_begun(driver: Driver) {
    async fn trickle(_: Request) -> Response {
        Response::new(200).stream(|mut stdout: Stdout| async move {
            for _ in 0..1_000_000 {
                stdout.write(b"x").await?;
                stdout.flush().await?;
                tokio::time::sleep(LIMIT / 10).await;
            }
            Ok::<(), Failure>(())
        })
    }
    let serve = Serve::new(driver).config(|config| config.request_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/", trickle));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    let answer = peer.rest(1);
    assert!(answer.body().starts_with(b"x") && !answer.stdout_ended && answer.protocol_status.is_none());
}

fn request_answers_a_filter_that_waits(driver: Driver) {
    async fn wait(request: FilterRequest) -> Result<Response, Failure> {
        request.stderr().write("held back\n").await?;
        request.stdin().read_to_vec(100).await.map(Response::bytes).map_err(Into::into)
    }
    let serve = Serve::new(driver).config(|config| config.request_timeout = LIMIT);
    let served = serve.start(|server| server.filter("/", wait));
    let mut peer = served.connect();
    peer.ask_head(&Ask::filter("/", "abc", ""));
    assert_eq!(peer.answer(1).status(), 504);
    assert_eq!(served.metrics().deadlines_passed, 1);
}

/// How many turns the server takes in a while.
fn turns(served: &Served, time: Duration) -> u64 {
    let before = served.metrics().turns;
    std::thread::sleep(time);
    served.metrics().turns - before
}

fn request_does_not_spin_while_the_peer_does_not_read(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.request_timeout = LIMIT);
    let served = serve.start(|server| server.responder("/bytes", app::bytes));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/bytes?10000000"));
    served.until("the deadline passes", |metrics| metrics.deadlines_passed > 0);
    let turns = turns(&served, LIMIT);
    assert!(turns < 20, "{turns} turns with nothing to do");
    assert_eq!(served.metrics().deadlines_passed, 1);
    assert!(peer.rest(1).protocol_status.is_none());
}

/// A peer that got its last answer and neither closes nor sends anything. On TCP, where a close that leaves input
/// unread would take the answer with it.
fn linger(served: &Served) -> Peer {
    let mut peer = served.connect();
    assert_eq!(peer.fetch(&Ask::get("/").close()).status(), 200);
    peer.expect_end();
    peer
}

fn linger_closes_who_does_not_close(driver: Driver) {
    let serve = Serve::new(driver).config(|config| config.linger_timeout = LIMIT).on_tcp();
    let served = serve.start(|server| server.responder("/", app::hello));
    let began = Instant::now();
    let _peer = linger(&served);
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
    took_about_the_limit(began);
    assert_eq!(served.metrics().deadlines_passed, 0, "an ordinary end");
}

fn linger_reads_no_more_than_its_bytes(driver: Driver) {
    let serve = Serve::new(driver).config(|config| {
        config.linger_timeout = 5 * LIMIT;
        config.linger_bytes = 100_000;
    });
    let served = serve.on_tcp().start(|server| server.responder("/", app::hello));
    let mut peer = linger(&served);
    // Beyond its bytes nothing is read; a close now could take the answer from a peer that has not read it.
    let began = Instant::now();
    let (mut sent, mut stuck_since) = (0, Instant::now());
    while stuck_since.elapsed() < LIMIT / 2 {
        let count = peer.send_some(&[b'x'; 50_000]);
        sent += count;
        if count > 0 {
            stuck_since = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(1));
        assert!(sent < 50_000_000, "everything is read");
    }
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
    assert!(began.elapsed() > LIMIT, "it is closed with its answer unread");
}
