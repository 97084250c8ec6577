//! What a service is given.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, OriginalUri};
use axum::routing::get;
use axum::{Extension, Router};
use http_body::Body as _;
use http_body_util::Full;
use ringway::http::{FastCgi, Tower};
use ringway::{Body, Driver, RequestId, Role};
use tower::service_fn;

use crate::peer::Ask;
use crate::server::{Serve, Served, each_driver};

each_driver! {
    method_uri_and_version,
    headers,
    what_http_forbids_is_a_400,
    params_that_were_copied,
    the_length_of_the_body,
    what_http_has_no_place_for,
    the_web_servers_address,
    axums_own_extractors,
}

type Answer = Result<http::Response<Full<bytes::Bytes>>, Infallible>;

/// The request as text: a line of its head, one for each header, one for its body's length.
async fn show(request: http::Request<Body>) -> Answer {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        writeln!(text, "{name}: {}", value.as_bytes().escape_ascii()).unwrap();
    }
    let body = request.body();
    writeln!(text, "body {:?} {}", body.size_hint().exact(), body.is_end_stream()).unwrap();
    Ok(http::Response::new(Full::from(text)))
}

fn serve(driver: Driver) -> Served {
    Serve::new(driver).start(|server| server.service("/", service_fn(show)).service("/app", service_fn(show)))
}

fn bare() -> Ask {
    Ask { params: Vec::new(), ..Ask::get("/") }
}

fn method_uri_and_version(driver: Driver) {
    let served = serve(driver);
    let mut peer = served.connect();
    let mut line = |ask: Ask| peer.fetch(&ask).text().lines().next().unwrap().to_owned();
    assert_eq!(line(bare()), "GET / HTTP/1.1");
    assert_eq!(line(Ask::post("/a b?c=d", "")), "POST /a%20b?c=d HTTP/1.1");
    let asked = bare().param("REQUEST_URI", "/%61?x=%20").param("SCRIPT_NAME", "/a");
    assert_eq!(line(asked.clone()), "GET /%61?x=%20 HTTP/1.1");
    let asked = asked.param("HTTP_HOST", "example.org").param("HTTPS", "on");
    assert_eq!(line(asked), "GET https://example.org/%61?x=%20 HTTP/1.1");
    let mounted = Ask::get("/app").param("REQUEST_METHOD", "PROPFIND").param("REQUEST_URI", "/app/x?y");
    assert_eq!(line(mounted.param("PATH_INFO", "/x")), "PROPFIND /x?y HTTP/1.1");
    for (protocol, version) in [
        ("HTTP/1.0", "HTTP/1.0"),
        ("HTTP/1.1", "HTTP/1.1"),
        ("HTTP/2.0", "HTTP/2.0"),
        ("HTTP/3.0", "HTTP/3.0"),
        ("INCLUDED", "HTTP/1.1"),
    ] {
        assert_eq!(line(Ask::get("/").param("SERVER_PROTOCOL", protocol)), format!("GET / {version}"));
    }
}

fn headers(driver: Driver) {
    let served = serve(driver);
    let mut peer = served.connect();
    let mut lines = |ask: Ask| {
        let answer = peer.fetch(&ask);
        let mut lines: Vec<String> = answer.text().lines().skip(1).map(str::to_owned).collect();
        lines.pop();
        lines.sort();
        lines
    };
    let ask = bare()
        .param("HTTP_ACCEPT", "text/html")
        .param("HTTP_X_FORWARDED_FOR", "192.0.2.1")
        .param("HTTP_X_SOMETHING_OF_OURS", "gr\u{fc}n\ttab")
        .param("HTTP_COOKIE", "a=1; b=2")
        .param("HTTP_EMPTY", "")
        .param("HTTP_PROXY", "evil:1")
        .param("HTTP_TRANSFER_ENCODING", "chunked")
        .param("HTTP_CONTENT_TYPE", "application/forged")
        .param("HTTP_CONTENT_LENGTH", "99")
        .param("CONTENT_TYPE", "text/plain")
        .param("CONTENT_LENGTH", "0")
        .param("http_lower", "no header")
        .param("HTTPS_NOT", "no header");
    let expected = [
        "accept: text/html",
        "content-length: 0",
        "content-type: text/plain",
        "cookie: a=1; b=2",
        "empty: ",
        "x-forwarded-for: 192.0.2.1",
        "x-something-of-ours: gr\\xc3\\xbcn\\ttab",
    ];
    assert_eq!(lines(ask), expected);
    // Decision 6: the last one wins.
    assert_eq!(lines(bare().param("HTTP_ACCEPT", "1").param("HTTP_ACCEPT", "2")), ["accept: 2"]);
    assert_eq!(lines(bare().param("CONTENT_TYPE", "").param("CONTENT_LENGTH", "")), [""; 0]);
    let many = (0..1_000).fold(bare(), |ask, n| ask.param(format!("HTTP_X_{n}"), n.to_string()));
    assert_eq!(lines(many).len(), 1_000);
}

fn what_http_forbids_is_a_400(driver: Driver) {
    let served = serve(driver);
    let mut peer = served.connect();
    for (name, value) in [
        ("REQUEST_METHOD", "GE T"),
        ("REQUEST_METHOD", ""),
        ("REQUEST_URI", "/a b"),
        ("REQUEST_URI", "/\n"),
        ("REQUEST_URI", "nonsense"),
        ("HTTP_HOST", "a b"),
        ("HTTP_X", "a\nb"),
        ("HTTP_X", "a\rb"),
        ("HTTP_X", "\u{1}"),
        ("HTTP_X Y", "z"),
        ("HTTP_\u{fc}", "z"),
        ("HTTP_", "z"),
        ("CONTENT_TYPE", "text/\u{7f}"),
        ("CONTENT_LENGTH", "1e3"),
        ("CONTENT_LENGTH", "18446744073709551616"),
    ] {
        let answer = peer.fetch(&bare().param(name, value));
        assert_eq!((answer.status(), answer.app_status), (400, 1), "{name}: {value:?}");
        let line = answer.stderr_text();
        assert!(line.contains("is not what HTTP allows") && line.lines().count() == 1, "{line:?}");
        assert_eq!(peer.get("/").status(), 200);
    }
    let long = bare().param("REQUEST_URI", format!("/{}", "x".repeat(65_535)));
    assert_eq!(peer.fetch(&long).status(), 400);
}

/// Params that straddle records are copied together by the engine, and once more to be shared.
fn params_that_were_copied(driver: Driver) {
    let served = serve(driver);
    let mut peer = served.connect();
    let value = "x".repeat(40_000);
    let ask =
        bare().param("HTTP_HOST", "example.org").param("REQUEST_URI", "/x").param("HTTP_LONG", value.clone());
    let answer = peer.fetch(&ask.param("HTTP_ACCEPT", "text/html"));
    let expected = format!(
        "GET http://example.org/x HTTP/1.1\nhost: example.org\nlong: {value}\naccept: text/html\nbody Some(0) true\n"
    );
    assert!(answer.text() == expected, "{}", &answer.text()[..200]);
    assert!(served.metrics().params_copied > 0);
}

fn the_length_of_the_body(driver: Driver) {
    let served = serve(driver);
    let mut peer = served.connect();
    let mut body = |ask: Ask| peer.fetch(&ask).text().lines().last().unwrap().to_owned();
    assert_eq!(body(bare()), "body Some(0) true");
    assert_eq!(body(Ask::post("/", "abc")), "body Some(3) false");
    assert_eq!(body(Ask::post("/", "")), "body Some(0) true");
    let get = |length: &str| bare().param("CONTENT_LENGTH", length);
    assert_eq!(body(get("")), "body Some(0) true");
    assert_eq!(body(get("").param("HTTP_TRANSFER_ENCODING", "chunked")), "body None false");
    assert_eq!(body(get("-1")), "body None false");
    assert_eq!(body(get("").param("REQUEST_METHOD", "POST")), "body None false");
}

fn what_http_has_no_place_for(driver: Driver) {
    async fn show(request: http::Request<Body>) -> Answer {
        let of = request.extensions().get::<FastCgi>().expect("it is always there");
        assert_eq!((of.role(), of.id()), (Role::Responder, RequestId::new(9).unwrap()));
        let text = format!(
            "{} {} {:?} {:?}",
            of.script_name().escape_ascii(),
            of.original_uri(),
            of.client(),
            of.params().get("REMOTE_USER").map(|user| user.escape_ascii().to_string()),
        );
        Ok(http::Response::new(Full::from(text)))
    }
    let served = Serve::new(driver)
        .start(|server| server.service("/", service_fn(show)).service("/a", service_fn(show)));
    let mut peer = served.connect();
    let ask = Ask::get("/a").id(9).param("PATH_INFO", "/b").param("REQUEST_URI", "/a/b?c");
    let answer =
        peer.fetch(&ask.clone().param("HTTP_HOST", "example.org").param("REMOTE_ADDR", "2001:db8::1"));
    assert_eq!(answer.text(), "/a http://example.org/a/b?c Some([2001:db8::1]:0) None");
    let ask =
        ask.param("REMOTE_ADDR", "192.0.2.1").param("REMOTE_PORT", "4711").param("REMOTE_USER", "x\u{ff}");
    assert_eq!(peer.fetch(&ask).text(), "/a /a/b?c Some(192.0.2.1:4711) Some(\"x\\\\xc3\\\\xbf\")");
    let nobody = Ask::get("/").id(9).param("REMOTE_ADDR", "unix:");
    assert_eq!(peer.fetch(&nobody).text(), " / None None");
}

fn the_web_servers_address(driver: Driver) {
    let show = |request: http::Request<Body>| async move {
        let peer = request.extensions().get::<FastCgi>().and_then(FastCgi::peer);
        Ok::<_, Infallible>(http::Response::new(Full::<bytes::Bytes>::from(format!("{peer:?}"))))
    };
    let served = Serve::new(driver).start(|server| server.service("/", service_fn(show)));
    assert_eq!(served.connect().get("/").text(), "None");
    let served = Serve::new(driver).on_tcp().start(|server| server.service("/", service_fn(show)));
    let mut peer = served.connect();
    for _ in 0..2 {
        let text = peer.get("/").text().to_owned();
        assert!(text.starts_with("Some(127.0.0.1:"), "{text}");
    }
}

fn axums_own_extractors(driver: Driver) {
    async fn who(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
        client.to_string()
    }
    async fn fastcgi(Extension(of): Extension<FastCgi>, Extension(id): Extension<RequestId>) -> String {
        let name = of.params().get("SERVER_NAME").map(|name| name.escape_ascii().to_string());
        format!("{:?} {} {} {:?} {:?} {:?}", of.role(), of.id(), id, name, of.client(), of.outcome())
    }
    async fn asked(OriginalUri(uri): OriginalUri) -> String {
        uri.to_string()
    }
    let router = Router::new().route("/who", get(who)).route("/fastcgi", get(fastcgi));
    let router = router.nest("/in", Router::new().route("/asked", get(asked)));
    let tower = Tower::new(router)
        .extension(|request| request.client().map(ConnectInfo))
        .extension(|request| Some(request.id()))
        .extension(|request| Some(OriginalUri(request.original_uri())));
    let served = Serve::new(driver).start(|server| server.responder("/app", tower));
    let mut peer = served.connect();
    let who = Ask::get("/app/who").param("REMOTE_ADDR", "192.0.2.1").param("REMOTE_PORT", "4711");
    assert_eq!(peer.fetch(&who).text(), "192.0.2.1:4711");
    let fastcgi = Ask::get("/app/fastcgi").id(7).param("SERVER_NAME", "example.org");
    let fastcgi = fastcgi.param("REMOTE_ADDR", "2001:db8::1");
    let all = r#"Responder 7 7 Some("example.org") Some([2001:db8::1]:0) None"#;
    assert_eq!(peer.fetch(&fastcgi).text(), all);
    // As where axum itself serves without connect info.
    assert_eq!(peer.get("/app/who").status(), 500);
    assert_eq!(peer.get("/app/in/asked?x").text(), "/app/in/asked?x");
}
