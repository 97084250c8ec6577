//! What handlers see of the path: the mount, and the rest below it.

use ringway::{AuthRequest, Decision, Driver, Request, Response, ready};

use crate::peer::Ask;
use crate::server::{Serve, each_driver};

each_driver! {
    a_path_is_cut_at_its_mount,
    below_the_root_the_web_server_says,
    script_name_is_overridden,
    an_authorizer_has_the_path_of_request_uri,
    what_web_servers_sent_is_understood,
}

/// `SCRIPT_NAME|PATH_INFO|mount`.
fn show(request: &Request) -> Response {
    let (script_name, path_info) = (request.script_name(), request.path_info());
    assert_eq!([&script_name[..], &path_info[..]].concat(), &*request.path());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    Response::text(format!("{}|{}|{}", text(&script_name), text(&path_info), request.mount()))
}

fn ask(pairs: &[(&str, &str)]) -> Ask {
    let mut ask = Ask::get("/");
    ask.params.clear();
    pairs.iter().fold(ask, |ask, (name, value)| ask.param(*name, *value))
}

fn a_path_is_cut_at_its_mount(driver: Driver) {
    let handlers = |server: ringway::Builder| {
        let show = || ready(|request| show(&request));
        server.responder("/", show()).responder("/app", show()).responder("/app/admin", show())
    };
    let served = Serve::new(driver).start(handlers);
    let mut peer = served.connect();
    for (script_name, path_info, uri, seen) in [
        ("/app", "/x", "/app/x", "/app|/x|/app"),
        ("", "/app/x", "/app/x", "/app|/x|/app"),
        ("/app/x", "", "/app/x", "/app|/x|/app"),
        ("/app", "/admin/", "/app/admin/", "/app/admin|/|/app/admin"),
        ("/app/app.fcgi", "/x", "/app/x", "/app|/x|/app"),
        ("", "/x", "/app/x", "/app|/x|/app"),
        ("", "/apple", "/apple", "|/apple|/"),
        ("/site", "/x", "/site/x", "/site|/x|/"),
    ] {
        let ask = ask(&[("SCRIPT_NAME", script_name), ("PATH_INFO", path_info), ("REQUEST_URI", uri)]);
        assert_eq!(peer.fetch(&ask).text(), seen, "{script_name:?} {path_info:?} {uri:?}");
    }
}

fn below_the_root_the_web_server_says(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", ready(|request| show(&request))));
    let mut peer = served.connect();
    let below = ask(&[("SCRIPT_NAME", "/app"), ("PATH_INFO", "/x")]);
    assert_eq!(peer.fetch(&below).text(), "/app|/x|/");
    let missing = ask(&[("SCRIPT_NAME", "/hello"), ("REQUEST_URI", "/hello")]);
    assert_eq!(peer.fetch(&missing).text(), "|/hello|/");
    let nothing = ask(&[("REQUEST_URI", "/a%20b?c")]);
    assert_eq!(peer.fetch(&nothing).text(), "|/a b|/");
}

fn script_name_is_overridden(driver: Driver) {
    async fn answer(request: Request) -> String {
        format!(
            "{}|{}",
            String::from_utf8_lossy(&request.script_name()),
            String::from_utf8_lossy(&request.path_info())
        )
    }
    let handler = |request| async { Response::text(answer(request).await) };
    for (script_name, seen) in [("", "|/x"), ("/blog", "/blog|/x")] {
        let served = Serve::new(driver)
            .config(|config| config.script_name = Some(script_name.to_owned()))
            .start(|server| server.responder("/", handler));
        let mut peer = served.connect();
        for sent in ["/app", "/app.fcgi", ""] {
            let ask = ask(&[("SCRIPT_NAME", sent), ("PATH_INFO", "/x")]);
            assert_eq!(peer.fetch(&ask).text(), seen, "{sent:?}");
        }
    }
}

fn an_authorizer_has_the_path_of_request_uri(driver: Driver) {
    async fn guard(request: AuthRequest) -> Decision {
        match &*request.path_info() {
            b"/open/a b" => Decision::allow(),
            _ => Decision::deny(Response::text("no\n").status(403)),
        }
    }
    let served = Serve::new(driver).start(|server| server.authorizer("/", guard));
    let mut peer = served.connect();
    for (uri, status) in [("/open/a%20b?x", 200), ("/closed", 403)] {
        let mut ask = Ask::authorize("/");
        ask.params.retain(|(name, _)| name != b"SCRIPT_NAME");
        assert_eq!(peer.fetch(&ask.param("REQUEST_URI", uri)).status(), status, "{uri}");
    }
}

/// The bytes of five web servers at their worst, as they came.
fn what_web_servers_sent_is_understood(driver: Driver) {
    let handlers = |server: ringway::Builder| {
        let show = || ready(|request| show(&request));
        server.responder("/", show()).responder("/yourapplication", show())
    };
    let served = Serve::new(driver).start(handlers);
    for (capture, seen) in [
        ("apache-proxy-unix-escaped", "|/a b/grüße/x/hello|/"),
        ("apache-fcgid-htaccess-escaped", "|/a b/grüße/x/hello|/"),
        ("lighttpd-root-escaped", "|/a b/grüße/x/hello|/"),
        ("h2o-sub-tcp-escaped", "/yourapplication|/a b/grüße/x/hello|/yourapplication"),
        ("cherokee-spawn-escaped", "/yourapplication|/a b/grüße/x/hello|/yourapplication"),
    ] {
        let file = format!("{}/tests/vectors/captures/{capture}.bin", env!("CARGO_MANIFEST_DIR"));
        let mut peer = served.connect();
        peer.expect(1);
        peer.send(&std::fs::read(&file).expect("the capture"));
        assert_eq!(peer.answer(1).text(), seen, "{capture}");
    }
}
