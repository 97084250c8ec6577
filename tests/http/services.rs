//! How services are made, waited for and given up.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::Full;
use ringway::http::{BoxError, FastCgi, Outcome, Tower};
use ringway::{Body, Driver};
use tokio::sync::Semaphore;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::{ServiceBuilder, service_fn};

use crate::peer::{Ask, PATIENCE};
use crate::server::{Serve, each_driver};

each_driver! {
    a_router_beside_other_handlers,
    a_service_that_is_not_send_is_made_for_each_worker,
    a_service_that_is_not_ready_is_waited_for_in_order,
    a_service_that_stays_unready_is_a_503,
    whoever_leaves_the_queue_does_not_stop_it,
    an_error_is_a_500_and_a_line_in_the_log,
    a_service_is_replaced_while_it_serves,
    what_was_started_elsewhere_hears_of_the_end,
}

type Answer = Result<http::Response<Full<bytes::Bytes>>, Infallible>;

fn text(text: impl Into<String>) -> Answer {
    Ok(http::Response::new(Full::from(text.into())))
}

fn a_router_beside_other_handlers(driver: Driver) {
    let router = Router::new().route("/", get(|| async { "root" })).route("/x/{y}", get(|| async { "x" }));
    let served = Serve::new(driver).start(|server| {
        server.service("/app", router).responder("/plain", |_| async { ringway::Response::text("plain") })
    });
    let mut peer = served.connect();
    for (path, expected) in [("/app", "root"), ("/app/", "root"), ("/app/x/1", "x"), ("/plain", "plain")] {
        assert_eq!(peer.get(path).text(), expected, "{path}");
    }
    assert_eq!(peer.get("/app/nothing").status(), 404);
    assert_eq!(peer.fetch(&Ask::post("/app", "")).status(), 405);
}

fn a_service_that_is_not_send_is_made_for_each_worker(driver: Driver) {
    let make = || {
        let served = Rc::new(Cell::new(0));
        service_fn(move |_: http::Request<Body>| {
            served.set(served.get() + 1);
            let served = served.clone();
            async move { text(format!("{:?} {}", std::thread::current().id(), served.get())) }
        })
    };
    let serve = Serve::new(driver).config(|config| config.workers = 2);
    let served = serve.start(|server| server.responder("/", Tower::per_worker(make)));
    // Connections go to the worker with the fewest, so two workers serve them.
    let mut peers: Vec<_> = (0..4).map(|_| served.connect()).collect();
    let mut answers: Vec<String> = peers.iter_mut().map(|peer| peer.get("/").text().to_owned()).collect();
    answers.sort();
    let counts: Vec<&str> = answers.iter().map(|answer| &answer[answer.len() - 1..]).collect();
    assert_eq!(counts.iter().filter(|count| **count == "1").count(), 2, "{answers:?}");
}

/// A service that takes one request at a time, and holds it until a permit is given.
fn one_at_a_time(
    permits: Arc<Semaphore>,
    began: mpsc::Sender<String>,
) -> impl tower::Service<
    http::Request<Body>,
    Response = http::Response<Full<bytes::Bytes>>,
    Error = Infallible,
    Future: 'static,
> + Clone
+ Send
+ 'static {
    ServiceBuilder::new().layer(ConcurrencyLimitLayer::new(1)).service(service_fn(
        move |request: http::Request<Body>| {
            let (permits, began) = (permits.clone(), began.clone());
            async move {
                began.send(request.uri().path().to_owned()).expect("the test listens");
                permits.acquire().await.expect("open").forget();
                text(request.uri().path())
            }
        },
    ))
}

fn a_service_that_is_not_ready_is_waited_for_in_order(driver: Driver) {
    let (permits, (tell, told)) = (Arc::new(Semaphore::new(0)), mpsc::channel());
    let service = one_at_a_time(permits.clone(), tell);
    let served = Serve::new(driver).start(|server| server.service("/", service));
    let mut peer = served.connect();
    for id in 1..=5 {
        peer.ask(&Ask::get(&format!("/{id}")).id(id));
    }
    for id in 1..=5 {
        assert_eq!(told.recv_timeout(PATIENCE).as_deref(), Ok(&*format!("/{id}")));
        assert!(
            told.recv_timeout(Duration::from_millis(30)).is_err(),
            "a second one before the first is done"
        );
        permits.add_permits(1);
        assert_eq!(peer.answer(id).text(), format!("/{id}"));
    }
}

fn a_service_that_stays_unready_is_a_503(driver: Driver) {
    let (permits, (tell, told)) = (Arc::new(Semaphore::new(0)), mpsc::channel());
    let service = Tower::new(one_at_a_time(permits.clone(), tell)).ready_timeout(Duration::from_millis(50));
    let served = Serve::new(driver).start(|server| server.responder("/", service));
    let mut peer = served.connect();
    peer.ask(&Ask::get("/1").id(1));
    assert_eq!(told.recv_timeout(PATIENCE).as_deref(), Ok("/1"));
    let busy = peer.fetch(&Ask::get("/2").id(2));
    assert_eq!((busy.status(), busy.header("Retry-After").as_deref()), (503, Some("1")));
    assert_eq!((busy.text(), busy.app_status), ("Service Unavailable\n", 1));
    assert!(busy.stderr_text().contains("was not ready within 50ms"), "{}", busy.stderr_text());
    // What the service is not given does not wait for it.
    assert_eq!(peer.fetch(&Ask::get("/bad").id(3).param("REQUEST_METHOD", "G T")).status(), 400);
    permits.add_permits(2);
    assert_eq!(peer.answer(1).text(), "/1");
    assert_eq!(peer.fetch(&Ask::get("/3")).text(), "/3");
}

fn whoever_leaves_the_queue_does_not_stop_it(driver: Driver) {
    let (permits, (tell, told)) = (Arc::new(Semaphore::new(0)), mpsc::channel());
    let service = one_at_a_time(permits.clone(), tell);
    let served = Serve::new(driver).start(|server| server.service("/", service));
    let mut peer = served.connect();
    for id in 1..=4 {
        peer.ask(&Ask::get(&format!("/{id}")).id(id));
    }
    assert_eq!(told.recv_timeout(PATIENCE).as_deref(), Ok("/1"));
    // The first of those who wait, one in the middle, and the one that is served.
    for id in [2, 3, 1] {
        peer.abort(id);
        assert_eq!(peer.answer(id).stdout, b"");
    }
    assert_eq!(told.recv_timeout(PATIENCE).as_deref(), Ok("/4"));
    permits.add_permits(1);
    assert_eq!(peer.answer(4).text(), "/4");
}

fn an_error_is_a_500_and_a_line_in_the_log(driver: Driver) {
    let fails = service_fn(|_: http::Request<Body>| async {
        Err::<http::Response<Body>, BoxError>("the disk is full".into())
    });
    let never_ready = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(0))
        .service(service_fn(|_: http::Request<Body>| async { text("never") }));
    let panics = service_fn(|_: http::Request<Body>| async {
        if true {
            panic!("at the disco");
        }
        text("never")
    });
    let served = Serve::new(driver).start(|server| {
        server.service("/fails", fails).service("/shed", never_ready).service("/panics", panics)
    });
    let mut peer = served.connect();
    for (path, line) in [
        ("/fails", "the disk is full\n"),
        ("/shed", "service overloaded\n"),
        ("/panics", "the handler panicked: at the disco\n"),
    ] {
        let answer = peer.get(path);
        assert_eq!((answer.status(), answer.text(), answer.app_status), (500, "Internal Server Error\n", 1));
        assert_eq!(answer.stderr_text(), line);
    }
}

fn a_service_is_replaced_while_it_serves(driver: Driver) {
    let service = |name: &'static str| service_fn(move |_: http::Request<Body>| async move { text(name) });
    let served = Serve::new(driver).start(|server| server.service("/", service("old")));
    let mut peer = served.connect();
    assert_eq!(peer.get("/").text(), "old");
    served.handle.registry().responder("/", Tower::new(service("new"))).unwrap();
    assert_eq!(peer.get("/").text(), "new");
    assert_eq!(served.connect().get("/").text(), "new");
}

fn what_was_started_elsewhere_hears_of_the_end(driver: Driver) {
    let (tell, told) = mpsc::channel();
    let service = service_fn(move |request: http::Request<Body>| {
        let request_of = request.extensions().get::<FastCgi>().expect("it is always there").clone();
        let tell = tell.clone();
        assert_eq!(request_of.outcome(), None);
        // Another thread, as a pool of blocking work would be.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            tell.send((request_of.id().get(), runtime.block_on(request_of.ended()))).unwrap();
        });
        let waits = request.uri().path() == "/never";
        async move {
            if waits {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>("answered".into_response())
        }
    });
    let served = Serve::new(driver).start(|server| server.service("/", service));
    let mut peer = served.connect();
    assert_eq!(peer.fetch(&Ask::get("/").id(7)).text(), "answered");
    assert_eq!(told.recv_timeout(PATIENCE), Ok((7, Outcome::Answered)));
    peer.ask(&Ask::get("/never").id(8));
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    peer.abort(8);
    assert_eq!(told.recv_timeout(PATIENCE), Ok((8, Outcome::GivenUp)));
}
