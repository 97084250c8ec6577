//! The layers of tower-http around a service.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{get, post};
use http::StatusCode;
use ringway::{Body, Driver};
use tower::{ServiceBuilder, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::peer::Ask;
use crate::server::{Serve, each_driver};

each_driver! {
    around_a_router,
    around_a_plain_service,
}

fn around_a_router(driver: Driver) {
    let router = Router::new()
        .route("/large", get(|| async { "compress me ".repeat(10_000) }))
        .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }))
        .route("/take", post(|body: bytes::Bytes| async move { body.len().to_string() }))
        .layer(
            ServiceBuilder::new()
                .layer(TraceLayer::new_for_http())
                .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(50)))
                .layer(RequestBodyLimitLayer::new(1_000))
                .layer(CompressionLayer::new().gzip(true)),
        );
    let served = Serve::new(driver).start(|server| server.service("/", router));
    let mut peer = served.connect();
    assert_eq!(peer.get("/large").body().len(), 120_000);
    let zipped = peer.fetch(&Ask::get("/large").param("HTTP_ACCEPT_ENCODING", "gzip"));
    assert_eq!(zipped.header("Content-Encoding").as_deref(), Some("gzip"));
    assert!(zipped.body().starts_with(&[0x1f, 0x8b]) && zipped.body().len() < 5_000 && zipped.is_complete());
    assert_eq!(peer.get("/slow").status(), 408);
    assert_eq!(peer.fetch(&Ask::post("/take", vec![b'x'; 1_000])).text(), "1000");
    assert_eq!(peer.fetch(&Ask::post("/take", vec![b'x'; 1_001])).status(), 413);
    // Of a length that nobody announced.
    peer.ask_head(&Ask::post("/take", "").param("CONTENT_LENGTH", "-1"));
    peer.stdin(1, &[b'x'; 1_001]);
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).status(), 413);
}

fn around_a_plain_service(driver: Driver) {
    let echo = service_fn(|request: http::Request<tower_http::body::Limited<Body>>| async {
        let body = AxumBody::new(request.into_body());
        Ok::<_, Infallible>(http::Response::new(body))
    });
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new().gzip(true))
        .layer(RequestBodyLimitLayer::new(100_000))
        .service(echo);
    let served = Serve::new(driver).start(|server| server.service("/", service));
    let mut peer = served.connect();
    let body = "x".repeat(50_000);
    assert_eq!(peer.fetch(&Ask::post("/", body.clone())).text(), body);
    let zipped = peer.fetch(&Ask::post("/", body).param("HTTP_ACCEPT_ENCODING", "gzip"));
    assert!(zipped.body().starts_with(&[0x1f, 0x8b]) && zipped.body().len() < 1_000);
    assert_eq!(peer.fetch(&Ask::post("/", vec![b'x'; 200_000])).status(), 413);
}
