//! What is different over TCP, where a close looks like a half-close and a reset takes an answer back.

use std::sync::mpsc;
use std::time::Duration;

use ringway::proto::RecordType;
use ringway::{Config, Driver, Request, Response};

use crate::app::{self, heard, nothing_heard, pattern};
use crate::peer::Ask;
use crate::server::{Serve, each_driver};

each_driver! {
    a_peer_that_closes_aborts_its_handlers,
    a_half_closed_peer_is_answered,
    a_connection_ends_with_an_answer_that_was_waited_for,
    an_early_answer_outlives_what_the_peer_still_sends,
}

/// No deadline may save what should not need one.
fn without_deadlines(config: &mut Config) {
    for deadline in [&mut config.first_timeout, &mut config.params_timeout, &mut config.stdin_timeout] {
        *deadline = Duration::ZERO;
    }
}

/// nginx says no more than this when its visitor leaves.
fn a_peer_that_closes_aborts_its_handlers(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .on_tcp()
        .config(without_deadlines)
        .start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    for ask in [Ask::get("/never"), Ask::get("/never").close()] {
        let mut peer = served.connect();
        assert_eq!(peer.get("/").status(), 200);
        peer.ask(&ask);
        assert_eq!(heard(&told), "began");
        nothing_heard(&told);
        drop(peer);
        assert_eq!(heard(&told), "dropped");
    }
    served.until("both are counted", |metrics| metrics.requests_aborted == 2);
}

/// Decision 10. What was sent to find out whether it still reads is part of its answer: the end of STDERR, once.
fn a_half_closed_peer_is_answered(driver: Driver) {
    async fn slow(request: Request) -> Response {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // It may have been ended; that is no failure of the handler's.
        request.stderr().write("late\n").await.expect("the request is not over");
        Response::text("answered\n")
    }
    let served = Serve::new(driver).on_tcp().start(|server| server.responder("/", slow));
    for ask in [Ask::get("/"), Ask::get("/").close()] {
        let mut peer = served.connect();
        peer.ask(&ask);
        peer.shut_down();
        let mut ends = 0;
        loop {
            let record = peer.record().expect("an answer");
            ends += u32::from(record.record_type == RecordType::Stderr && record.content.is_empty());
            assert!(record.record_type != RecordType::Stderr || record.content.is_empty(), "after its end");
            if record.record_type == RecordType::EndRequest {
                break;
            }
        }
        assert_eq!(ends, 1);
        peer.expect_end();
    }
}

/// The last step of a connection that is not kept, after a handler that waited, needs no further event.
fn a_connection_ends_with_an_answer_that_was_waited_for(driver: Driver) {
    let served = Serve::new(driver)
        .on_tcp()
        .config(without_deadlines)
        .start(|server| server.responder("/", app::count));
    let body = pattern(0, 3 << 20);
    for _ in 0..20 {
        let mut peer = served.connect();
        peer.ask(&Ask::post("/", body.clone()).close());
        assert!(peer.answer(1).is_complete());
        peer.expect_end();
    }
}

/// Decision 19: nobody reads what the peer still sends, and yet the answer is not lost in a reset.
fn an_early_answer_outlives_what_the_peer_still_sends(driver: Driver) {
    let served = Serve::new(driver).on_tcp().start(|server| server.responder("/", app::hello));
    for _ in 0..3 {
        let mut peer = served.connect();
        let ask = Ask::post("/", pattern(0, 20 << 20)).close();
        let (mut sender, bytes) = (peer.sender(), ask.bytes());
        peer.expect(1);
        let upload = std::thread::spawn(move || sender.write_all(&bytes));
        std::thread::sleep(Duration::from_millis(300));
        // nginx gives an answer up that it has not read when it cannot write.
        assert!(!upload.is_finished(), "the peer's sends fail before it has read its answer");
        assert_eq!(peer.answer(1).status(), 200);
        drop(peer);
        // It ends in an error, at the latest when the server has waited long enough.
        assert!(upload.join().expect("the sender does not panic").is_err());
    }
}
