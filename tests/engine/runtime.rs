//! What handlers may use: timers, sockets, tasks, files and wake-ups from other threads, on the worker that they
//! live on.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringway::{Driver, Failure, Request, Responder, Response, Stdout, ready};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app::{self, heard};
use crate::peer::Ask;
use crate::server::{Serve, each_driver, eventually};

each_driver! {
    timers_are_kept_while_the_worker_is_busy,
    a_timer_ends_in_time_on_a_quiet_worker,
    tasks_may_outlive_their_request,
    a_spawned_task_may_write_the_answer,
    sockets_work,
    other_threads_wake_a_handler,
    other_threads_wake_a_worker_that_sleeps_in_its_ring,
    thousands_of_handlers_wait_at_once,
    a_handler_that_is_always_ready_starves_nobody,
    files_are_read_with_io_uring,
    several_workers_each_have_a_runtime,
    a_burst_of_connections_leaves_no_one_out,
}

fn timers_are_kept_while_the_worker_is_busy(driver: Driver) {
    async fn sleep(_: Request) -> Response {
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::text(format!("{}", began.elapsed().as_millis()))
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/", app::hello).responder("/sleep", sleep));
    let (mut sleeper, mut busy) = (served.connect(), served.connect());
    let began = Instant::now();
    sleeper.ask(&Ask::get("/sleep"));
    // Never a moment without a request, so that the worker never sleeps.
    for id in 1..=8 {
        busy.ask(&Ask::get("/").id(id));
    }
    while began.elapsed() < Duration::from_millis(300) {
        for id in 1..=8 {
            busy.answer(id);
            busy.ask(&Ask::get("/").id(id));
        }
    }
    let slept: u64 = sleeper.answer(1).text().parse().unwrap();
    assert!((50..250).contains(&slept), "a sleep of 50 ms took {slept} ms beside busy requests");
}

fn a_timer_ends_in_time_on_a_quiet_worker(driver: Driver) {
    async fn sleep(_: Request) -> Response {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Response::new(204)
    }
    let served = Serve::new(driver).start(|server| server.responder("/", sleep));
    let mut peer = served.connect();
    for _ in 0..3 {
        let (before, began) = (served.metrics().turns, Instant::now());
        assert_eq!(peer.get("/").status(), 204);
        let took = began.elapsed();
        assert!((30..1_000).contains(&took.as_millis()), "{took:?}");
        let turns = served.metrics().turns - before;
        assert!(turns < 50, "{turns} turns for one sleep");
    }
}

fn tasks_may_outlive_their_request(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let spawn = move |_: Request| {
        let tell = Rc::new(tell.clone());
        async move {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                // And one that is spawned by a task.
                tokio::task::spawn_local(async move { tell.send("done").unwrap() });
            });
            "spawned\n"
        }
    };
    let served = Serve::new(driver).start(|server| server.responder("/", spawn));
    // The worker has nothing else to do, and the connection is gone.
    assert_eq!(served.connect().fetch(&Ask::get("/").close()).text(), "spawned\n");
    assert_eq!(heard(&told), "done");
}

/// More than every window holds, by a task that the engine does not poll.
fn a_spawned_task_may_write_the_answer(driver: Driver) {
    const LENGTH: usize = 8_000_000;
    const PIECE: usize = 50_000;
    async fn spawn(_: Request) -> Response {
        Response::new(200).stream(|mut stdout: Stdout| async move {
            let written = tokio::task::spawn_local(async move {
                for at in (0..LENGTH).step_by(PIECE) {
                    stdout.write(&app::pattern(at, PIECE)).await?;
                }
                Ok(())
            });
            written.await.unwrap_or_else(|error| Err(Failure::new(error)))
        })
    }
    let served = Serve::new(driver).start(|server| server.responder("/", spawn));
    let mut peer = served.connect();
    for _ in 0..3 {
        assert!(peer.get("/").body() == app::pattern(0, LENGTH));
    }
}

fn sockets_work(driver: Driver) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().unwrap();
            std::thread::sleep(Duration::from_millis(1));
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
    });
    let ask_upstream = move |request: Request| async move {
        let mut stream = tokio::net::TcpStream::connect(upstream).await?;
        tokio::io::copy(&mut request.stdin(), &mut stream).await?;
        stream.shutdown().await?;
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await?;
        Ok::<_, Failure>(Response::bytes(body))
    };
    let served = Serve::new(driver).start(|server| server.responder("/", ask_upstream));
    let mut peer = served.connect();
    for id in 1..=20 {
        peer.ask(&Ask::post("/", format!("body {id}")).id(id));
    }
    for id in 1..=20 {
        assert_eq!(peer.answer(id).text(), format!("body {id}"));
    }
    echo.join().unwrap();
}

fn other_threads_wake_a_handler(driver: Driver) {
    async fn ask_a_thread(request: Request) -> Result<Response, Failure> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let after: u64 = std::str::from_utf8(request.query())?.parse()?;
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(after));
            answer.send("from a thread\n").unwrap();
        });
        Ok(Response::text(answered.await?))
    }
    let served = Serve::new(driver).start(|server| server.responder("/", ask_a_thread));
    let mut peer = served.connect();
    for after in [0, 1, 20] {
        for _ in 0..10 {
            assert_eq!(peer.get(&format!("/?{after}")).text(), "from a thread\n");
        }
    }
    // Many at once, so that wake-ups meet the worker in every state.
    for id in 1..=50 {
        peer.ask(&Ask::get(&format!("/?{}", id % 5)).id(id));
    }
    for id in 1..=50 {
        assert_eq!(peer.answer(id).text(), "from a thread\n");
    }
}

/// A handler that waits for threads alone, and says so.
struct Threads;

impl Responder for Threads {
    fn leaves_runtime_alone(&self) -> bool {
        true
    }

    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        let (answer, answered) = tokio::sync::oneshot::channel();
        async move {
            let mut stdin = request.stdin();
            let mut body = Vec::new();
            while let Some(chunk) = stdin.chunk().await.unwrap() {
                body.extend_from_slice(&chunk);
            }
            let after: u64 = std::str::from_utf8(request.query()).unwrap().parse().unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after));
                // Nobody listens where the request was given up.
                let _ = answer.send(body);
            });
            let body = answered.await.unwrap();
            // More than fits at once: the handler waits for room as well.
            Response::new(200).stream(async move |mut stdout: Stdout| {
                for _ in 0..64 {
                    stdout.write(&body).await?;
                    stdout.flush().await?;
                }
                Ok::<(), Failure>(())
            })
        }
    }
}

fn other_threads_wake_a_worker_that_sleeps_in_its_ring(driver: Driver) {
    async fn sleep(_: Request) -> Response {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Response::new(204)
    }
    let served = Serve::new(driver).start(|server| server.responder("/", Threads).responder("/sleep", sleep));
    let mut peer = served.connect();
    let body = vec![b'x'; 20_000];
    for after in [0, 1, 20] {
        for _ in 0..5 {
            let ask = Ask::post(&format!("/?{after}"), body.clone());
            assert_eq!(peer.fetch(&ask).body().len(), 64 * body.len());
        }
    }
    // Beside handlers that need the runtime, which must not miss their timers.
    let mut sleeper = served.connect();
    for _ in 0..3 {
        let began = Instant::now();
        peer.ask(&Ask::get("/?100"));
        assert_eq!(sleeper.get("/sleep").status(), 204);
        assert!(began.elapsed() < Duration::from_millis(95), "{:?}", began.elapsed());
        assert_eq!(peer.answer(1).status(), 200);
    }
    // Given up while it waits; the worker goes on, and its count of them is right.
    let mut leaver = served.connect();
    leaver.ask(&Ask::get("/?50"));
    drop(leaver);
    for id in 1..=50 {
        peer.ask(&Ask::get(&format!("/?{}", id % 5)).id(id));
    }
    for id in 1..=50 {
        assert_eq!(peer.answer(id).status(), 200);
    }
    served.until("none is left", |metrics| metrics.tasks_pending == 0);
}

fn thousands_of_handlers_wait_at_once(driver: Driver) {
    async fn sleep(_: Request) -> Response {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(204)
    }
    let serve = Serve::new(driver).config(|config| config.connection_requests_max = 2_000);
    let served = serve.start(|server| server.responder("/", sleep));
    let mut peer = served.connect();
    for id in 1..=2_000 {
        peer.ask(&Ask::get("/").id(id));
    }
    for id in 1..=2_000 {
        assert_eq!(peer.answer(id).status(), 204);
    }
    served.until("none is left", |metrics| metrics.tasks_pending == 0);
}

fn a_handler_that_is_always_ready_starves_nobody(driver: Driver) {
    async fn spin(_: Request) -> Response {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            tokio::task::yield_now().await;
        }
        Response::new(204)
    }
    let (tell, told) = mpsc::channel();
    let served = Serve::new(driver).start(|server| {
        server.responder("/", app::hello).responder("/spin", move |request: Request| {
            tell.send("began").unwrap();
            spin(request)
        })
    });
    let (mut spinner, mut peer) = (served.connect(), served.connect());
    spinner.ask(&Ask::get("/spin"));
    assert_eq!(heard(&told), "began");
    let began = Instant::now();
    assert_eq!(peer.get("/").status(), 200);
    assert!(began.elapsed() < Duration::from_millis(250), "it waited for {:?}", began.elapsed());
    assert_eq!(spinner.answer(1).status(), 204);
}

fn files_are_read_with_io_uring(driver: Driver) {
    if driver != Driver::Uring {
        return; // There the host is tokio alone.
    }
    async fn read(_: Request) -> Result<Response, Failure> {
        let file = tokio_uring::fs::File::open("Cargo.toml").await?;
        let (result, block) = file.read_at(Vec::with_capacity(64), 0).await;
        let count = result?;
        file.close().await?;
        Ok(Response::bytes(block[..count].to_vec()))
    }
    let served = Serve::new(driver).start(|server| server.responder("/", read));
    let mut peer = served.connect();
    for id in 1..=20 {
        peer.ask(&Ask::get("/").id(id));
    }
    for id in 1..=20 {
        assert!(peer.answer(id).text().starts_with("[package]"));
    }
}

fn several_workers_each_have_a_runtime(driver: Driver) {
    async fn thread(_: Request) -> Response {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Response::text(std::thread::current().name().unwrap().to_owned())
    }
    let serve = Serve::new(driver).config(|config| config.workers = 3);
    let served = serve.start(|server| server.responder("/", thread));
    let mut peers: Vec<_> = (0..9).map(|_| served.connect()).collect();
    let mut names: Vec<_> = peers.iter_mut().map(|peer| peer.get("/").text().to_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, ["ringway-0", "ringway-1", "ringway-2"]);
}

/// While a handler waits in the host runtime that is where the worker sleeps, and nothing of its ring may be left over.
fn a_burst_of_connections_leaves_no_one_out(driver: Driver) {
    async fn sleep(_: Request) -> Response {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(204)
    }
    let block = ready(|_| {
        std::thread::sleep(Duration::from_millis(30));
        Response::new(204)
    });
    let served = Serve::new(driver).start(|server| {
        server.responder("/", app::hello).responder("/sleep", sleep).responder("/block", block)
    });
    let mut sleeper = served.connect();
    sleeper.ask(&Ask::get("/sleep"));
    served.until("it sleeps", |metrics| metrics.tasks_pending == 1);
    let mut blocker = served.connect();
    for size in [15, 16, 17, 31, 32, 33] {
        blocker.ask(&Ask::get("/block"));
        let burst: Vec<_> = (0..size).map(|_| served.connect()).collect();
        blocker.answer(1);
        // They say nothing, so that only what is left over could wake the worker.
        eventually("they are accepted", || served.handle.connections() == [2 + size]);
        std::thread::sleep(Duration::from_millis(5));
        let began = Instant::now();
        assert_eq!(served.connect().get("/").status(), 200);
        assert!(began.elapsed() < Duration::from_secs(2), "after {size}: {:?}", began.elapsed());
        drop(burst);
        eventually("they are gone", || served.handle.connections() == [2]);
    }
}
