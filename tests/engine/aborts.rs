//! Requests and connections that end before their time: aborts, peers that go away, panics.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ringway::proto::RecordType;
use ringway::{Driver, Failure, Request, Response, Stdout, WriteError, ready};
use tokio::sync::Notify;

use crate::app::{self, Tell, heard};
use crate::peer::{Ask, raw_record};
use crate::server::{Serve, each_driver, eventually};

each_driver! {
    an_abort_drops_the_handler_and_frees_the_id,
    an_abort_in_the_middle_of_a_large_answer,
    an_abort_at_any_time_ends_a_request_once,
    a_task_that_outlives_its_request_cannot_write,
    a_peer_that_closes_aborts_its_handlers,
    who_waits_for_the_last_answer_is_heard,
    a_peer_that_closes_while_it_is_held_up_is_noticed_later,
    a_peer_that_resets_is_forgotten,
    a_half_closed_peer_is_answered,
    a_half_closed_peer_that_goes_away_aborts_its_handlers,
    what_is_incomplete_when_the_input_ends_is_aborted,
    a_panic_is_a_500_and_the_neighbours_go_on,
    a_panic_in_a_body_ends_it_visibly_incomplete,
    a_panic_while_a_handler_is_dropped_stays_there,
}

/// Decision 11.
fn an_abort_drops_the_handler_and_frees_the_id(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let mut peer = served.connect();
    for _ in 0..3 {
        peer.ask(&Ask::get("/never"));
        assert_eq!(heard(&told), "began");
        peer.abort(1);
        assert_eq!(told.recv_timeout(Duration::from_secs(1)), Ok("dropped"));
        let answer = peer.answer(1);
        assert_eq!((answer.app_status, answer.stdout.len()), (0, 0));
        assert_eq!(peer.get("/").status(), 200);
    }
    let metrics = served.metrics();
    assert_eq!((metrics.requests_aborted, metrics.requests_finished, metrics.tasks_pending), (3, 3, 0));
    // Without KEEP_CONN the connection ends with it.
    peer.ask(&Ask::get("/never").close());
    assert_eq!(heard(&told), "began");
    peer.abort(1);
    peer.answer(1);
    peer.expect_end();
}

/// Decision 11.
fn an_abort_in_the_middle_of_a_large_answer(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let endless = move |_: Request| {
        let guard = Tell(tell.clone(), "dropped");
        async move {
            Response::new(200).stream(|mut stdout: Stdout| async move {
                let _guard = guard;
                loop {
                    stdout.write(&[b'x'; 10_000]).await?;
                }
                #[allow(unreachable_code)]
                Ok::<(), Failure>(())
            })
        }
    };
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/", app::hello)
            .responder("/endless", endless)
            .responder("/block", |_: Request| async { Response::bytes(vec![b'x'; 100_000_000]) })
    });
    let mut peer = served.connect();
    for uri in ["/endless", "/block"] {
        peer.ask(&Ask::get(uri));
        peer.read_stdout(1, 1_000_000);
        let before = peer.so_far(1).stdout.len();
        peer.abort(1);
        let began = Instant::now();
        let answer = peer.answer(1);
        assert!(began.elapsed() < Duration::from_secs(3));
        assert!(
            answer.stdout.len() - before < 2 << 20,
            "{uri}: {} bytes came after the abort",
            answer.stdout.len()
        );
        if uri == "/endless" {
            assert_eq!(heard(&told), "dropped");
        }
        assert_eq!(peer.get("/").status(), 200);
    }
}

fn an_abort_at_any_time_ends_a_request_once(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::echo));
    let mut peer = served.connect();
    let whole = Ask::post("/", "body").bytes();
    // After BEGIN_REQUEST, after PARAMS, after their end, after STDIN.
    for cut in [16, whole.len() - 32, whole.len() - 24, whole.len() - 8] {
        peer.expect(1);
        peer.send(&whole[..cut]);
        peer.abort(1);
        peer.answer(1);
        // Of an id that is not active.
        peer.abort(1);
        peer.send(&whole[16..]);
        assert_eq!(peer.fetch(&Ask::post("/", "body").id(2)).text(), "body");
    }
    // After the end, all at once.
    peer.expect(1);
    peer.send(&[&whole[..], &raw_record(RecordType::AbortRequest.into(), 1, b"", 0)].concat());
    peer.answer(1);
    assert_eq!(peer.fetch(&Ask::post("/", "body").id(2)).text(), "body");
}

fn a_task_that_outlives_its_request_cannot_write(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let detach = move |request: Request| {
        let tell = tell.clone();
        async move {
            Response::new(200).stream(|mut stdout: Stdout| async move {
                stdout.write(b"x").await?;
                stdout.flush().await?;
                tokio::task::spawn_local(async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        if let Err(WriteError::Gone) = stdout.write(b"ghost").await {
                            assert!(request.stderr().write("ghost").await.is_err());
                            assert!(request.stdin().chunk().await.is_err());
                            return tell.send("gone").unwrap();
                        }
                    }
                });
                std::future::pending::<Result<(), Failure>>().await
            })
        }
    };
    let served =
        Serve::new(driver).start(|server| server.responder("/", app::hello).responder("/detach", detach));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/detach"));
    peer.read_stdout(1, 1);
    peer.abort(1);
    // Whoever gets the id next does not see what the task writes.
    peer.answer(1);
    for _ in 0..100 {
        assert_eq!(peer.get("/").text(), "Hello, world!\n");
    }
    assert_eq!(heard(&told), "gone");
}

fn a_peer_that_closes_aborts_its_handlers(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver).start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    for id in 1..=5 {
        peer.ask(&Ask::get("/").id(id));
        assert_eq!(heard(&told), "began");
    }
    drop(peer);
    for _ in 0..5 {
        assert_eq!(heard(&told), "dropped");
    }
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
    assert_eq!(served.metrics().requests_aborted, 5);
}

/// A connection that its answers end is not listened to in the first moments of their handlers, but after them.
fn who_waits_for_the_last_answer_is_heard(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let mut leaving = served.connect();
    leaving.ask(&Ask::get("/never").close());
    assert_eq!(heard(&told), "began");
    drop(leaving);
    assert_eq!(told.recv_timeout(Duration::from_secs(1)), Ok("dropped"));

    let mut asking = served.connect();
    for id in [1, 2] {
        asking.ask(&Ask::get("/never").id(id).close());
        assert_eq!(heard(&told), "began");
    }
    // Decision 9: there is an answer for whoever asks before the end.
    assert_eq!(asking.fetch(&Ask::get("/").id(3)).text(), "Hello, world!\n");
    for id in [1, 2] {
        asking.abort(id);
        asking.answer(id);
    }
    asking.expect_end();
}

/// An upload that its handler does not read is not received, and neither is its end; both are once it reads on.
fn a_peer_that_closes_while_it_is_held_up_is_noticed_later(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let go = Arc::new(Notify::new());
    let released = go.clone();
    let served = Serve::new(driver).start(|server| {
        server.responder("/", move |request: Request| {
            let (guard, go) = (Tell(tell.clone(), "dropped"), released.clone());
            async move {
                guard.0.send("began").unwrap();
                go.notified().await;
                while let Some(_chunk) = request.stdin().chunk().await? {}
                guard.0.send("read to its end").unwrap();
                Ok::<_, Failure>(Response::new(204))
            }
        })
    });
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    peer.stdin(1, &[b'x'; 400_000]);
    served.until("it is held up", |metrics| metrics.stdin_pauses == 1);
    drop(peer);
    go.notify_one();
    assert_eq!(heard(&told), "dropped");
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
}

fn a_peer_that_resets_is_forgotten(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .on_tcp()
        .start(|server| server.responder("/bytes", app::bytes).responder("/never", app::never(tell)));
    for uri in ["/bytes?10000000", "/never"] {
        let mut peer = served.connect();
        peer.ask(&Ask::get(uri));
        if uri == "/never" {
            assert_eq!(heard(&told), "began");
        } else {
            peer.read_stdout(1, 1);
        }
        // Closing without waiting, or with unread bytes, resets the connection.
        let linger = rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO));
        linger.expect("a socket option");
    }
    assert_eq!(heard(&told), "dropped");
    served.until("both are closed", |metrics| metrics.connections_closed == 2);
    served.until("no handler is left", |metrics| metrics.tasks_pending == 0);
}

/// Decision 10.
fn a_half_closed_peer_is_answered(driver: Driver) {
    async fn late(request: Request) -> Result<Response, Failure> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        app::count(request).await
    }
    for serve in [Serve::new(driver), Serve::new(driver).on_tcp()] {
        let served = serve.start(|server| server.responder("/", late).responder("/bytes", app::bytes));
        let mut peer = served.connect();
        peer.ask(&Ask::post("/", "12345"));
        peer.ask(&Ask::get("/bytes?1000000").id(2));
        peer.ask(&Ask::post("/", "123").id(3).close());
        peer.shut_down();
        assert_eq!(peer.answer(1).text(), "5\n");
        assert_eq!(peer.answer(2).body().len(), 1_000_000);
        assert_eq!(peer.answer(3).text(), "3\n");
        peer.expect_end();
        assert_eq!(served.metrics().requests_aborted, 0);
    }
}

fn a_half_closed_peer_that_goes_away_aborts_its_handlers(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver).start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/"));
    peer.shut_down();
    assert_eq!(heard(&told), "began");
    app::nothing_heard(&told);
    drop(peer);
    assert_eq!(heard(&told), "dropped");
    served.until("it is closed", |metrics| metrics.connections_closed == 1);
}

/// Decision 10: complete requests are answered, the others never can be.
fn what_is_incomplete_when_the_input_ends_is_aborted(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/never").id(1));
    assert_eq!(heard(&told), "began");
    peer.expect(2);
    peer.send(&Ask::get("/").id(2).head()[..20]);
    peer.shut_down();
    assert_eq!(heard(&told), "dropped");
    peer.expect_end();
    assert_eq!(served.metrics().requests_aborted, 2);
}

/// `?at_once`, `?later`, `?in_the_call`: where it panics.
fn panics(request: Request) -> app::Never {
    if request.query() == b"in_the_call" {
        panic!("on purpose");
    }
    Box::pin(async move {
        if request.query() == b"later" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        request.stderr().write("before\n").await.unwrap();
        panic!("on purpose")
    })
}

fn a_panic_is_a_500_and_the_neighbours_go_on(driver: Driver) {
    let slowly = |_: Request| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        "slowly\n"
    };
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/", panics)
            .responder("/ready", ready(|_| -> Response { panic!("on purpose") }))
            .responder("/slowly", slowly)
    });
    let mut peer = served.connect();
    for id in 10..20 {
        peer.ask(&Ask::get("/slowly").id(id));
    }
    for uri in ["/?at_once", "/?later", "/?in_the_call", "/ready"] {
        let answer = peer.get(uri);
        assert_eq!((answer.status(), answer.text()), (500, "Internal Server Error\n"), "{uri}");
        assert_ne!(answer.app_status, 0);
        assert!(answer.is_complete());
        let stderr = answer.stderr_text();
        assert!(stderr.ends_with("the handler panicked: on purpose\n"), "{uri}: {stderr:?}");
    }
    for id in 10..20 {
        assert_eq!(peer.answer(id).text(), "slowly\n");
    }
    let metrics = served.metrics();
    assert_eq!((metrics.handler_panics, metrics.requests_failed, metrics.connections_closed), (4, 4, 0));
}

fn a_panic_in_a_body_ends_it_visibly_incomplete(driver: Driver) {
    async fn panics(request: Request) -> Response {
        let later = request.query() == b"later";
        Response::new(200).stream(move |mut stdout: Stdout| async move {
            stdout.write(b"half").await?;
            stdout.flush().await?;
            if later {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("on purpose");
            #[allow(unreachable_code)]
            Ok::<(), Failure>(())
        })
    }
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", panics).responder("/never", app::never(tell)));
    for uri in ["/", "/?later"] {
        // Alone: only the end of the connection, without END_REQUEST, tells every web server.
        let mut peer = served.connect();
        peer.ask(&Ask::get(uri));
        let answer = peer.rest(1);
        assert_eq!((answer.status(), answer.text()), (200, "half"));
        assert!(answer.protocol_status.is_none() && !answer.stdout_ended);
        // Beside others: the app status.
        let mut peer = served.connect();
        peer.ask(&Ask::get("/never").id(2));
        assert_eq!(heard(&told), "began");
        let answer = peer.get(uri);
        assert_eq!(answer.text(), "half");
        assert_ne!(answer.app_status, 0);
        peer.abort(2);
        assert_eq!(heard(&told), "dropped");
        peer.answer(2);
    }
}

fn a_panic_while_a_handler_is_dropped_stays_there(driver: Driver) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (tell, told) = mpsc::channel();
    let armed = move |_: Request| {
        let tell = tell.clone();
        async move {
            let _bomb = Bomb;
            tell.send("began").unwrap();
            std::future::pending::<Response>().await
        }
    };
    let served =
        Serve::new(driver).start(|server| server.responder("/", app::hello).responder("/armed", armed));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/armed"));
    assert_eq!(heard(&told), "began");
    peer.abort(1);
    peer.answer(1);
    assert_eq!(peer.get("/").status(), 200);
    peer.ask(&Ask::get("/armed"));
    assert_eq!(heard(&told), "began");
    drop(peer);
    eventually("it is closed", || served.handle.connections() == [0]);
    assert_eq!(served.connect().get("/").status(), 200);
}
