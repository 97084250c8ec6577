//! The probe application answers as its contract says: every page, every role, through a real server.

#[path = "support/served.rs"]
#[allow(dead_code)] // the tests of the command use the rest
mod served;

use std::time::{Duration, Instant};

use ringway::client::{Exchange, Part, Request};
use ringway::proto::Role;
use served::{PATIENCE, Served, ask, get, taken_apart};
use sha2::{Digest, Sha256};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_pages_that_answer_at_once() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for uri in ["/hello", "/hello/", "/app/deep/hello", "/hello?x"] {
        let hello = get(&client, uri).await;
        assert_eq!((hello.status, hello.text(), hello.app_status), (200, "Hello, world!\n", 0), "{uri}");
        assert_eq!(hello.header("Content-Type"), "text/plain");
    }
    assert_eq!(ask(&client, Request::new("BREW", "/hello"), b"x").await.text(), "Hello, world!\n");

    let headers = get(&client, "/headers").await;
    let cookies: Vec<_> = headers.head.headers.iter().filter(|(name, _)| name == "Set-Cookie").collect();
    assert_eq!((cookies.len(), headers.header("X-Probe")), (2, "yes"));
    assert_eq!((&cookies[0].1[..], &cookies[1].1[..]), (&b"a=1"[..], &b"b=2"[..]));

    let exit = get(&client, "/exit?code=4294967295").await;
    assert_eq!((exit.status, exit.text(), exit.app_status), (200, "bye\n", u32::MAX));
    assert_eq!(get(&client, "/hello").await.app_status, 0);

    let stderr = get(&client, "/stderr?msg=a%20b+c").await;
    assert_eq!((stderr.text(), stderr.stderr.as_str()), ("ok\n", "a b+c\n"));
}

#[tokio::test]
async fn env_shows_every_parameter() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let request = Request::new("GET", "/env").param("UTF", "gr\u{fc}n").param("LATIN", b"gr\xfcn".to_vec());
    let env = ask(&client, request.param("QUOTE", "\"\\\n"), b"").await;
    assert_eq!(env.header("Content-Type"), "application/json");
    let object: serde_json::Value = serde_json::from_slice(&env.body).unwrap();
    assert_eq!(object["UTF"], "grün");
    assert_eq!(object["LATIN"], "grün");
    assert_eq!(object["QUOTE"], "\"\\\n");
    assert_eq!(object["PATH_INFO"], "/env");
}

#[tokio::test]
async fn statuses_have_a_body_where_they_may() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for code in [200_u16, 201, 301, 404, 418, 500, 599] {
        let answer = get(&client, &format!("/status?code={code}")).await;
        assert_eq!((answer.status, answer.text()), (code, format!("{code}\n").as_str()));
    }
    for code in [204_u16, 304] {
        let answer = get(&client, &format!("/status?code={code}")).await;
        assert_eq!((answer.status, answer.text()), (code, ""));
    }
}

#[tokio::test]
async fn bad_arguments_get_one_line_and_the_connection_stays() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for uri in [
        "/status",
        "/status?code=99",
        "/status?code=600",
        "/status?code=+200",
        "/status?code=",
        "/bytes?n=-1",
        "/bytes?n=1099511627777",
        "/bytes?m=1",
        "/sleep?ms=x",
        "/stream?chunks=1",
        "/interleave?n=10001",
        "/read?n=1%00",
        "/exit?code=4294967296",
        "/stderr",
    ] {
        let answer = get(&client, uri).await;
        assert_eq!(
            (answer.status, answer.text().matches('\n').count()),
            (400, 1),
            "{uri}: {}",
            answer.text()
        );
    }
    for uri in ["/", "/nothing", "/hello//"] {
        assert_eq!(get(&client, uri).await.status, 404, "{uri}");
    }
    assert_eq!(get(&client, "/hello").await.status, 200);
}

#[tokio::test]
async fn bodies_of_any_size_come_back() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for length in [0, 1, 32 << 10, (32 << 10) + 1, 65_535, 65_536, 3_000_000] {
        let body = pattern(length);
        let echo = ask(&client, Request::new("POST", "/echo").param("CONTENT_TYPE", "a/b"), &body).await;
        assert_eq!((echo.status, echo.header("Content-Type")), (200, "a/b"));
        assert!(echo.body == body, "{length} bytes");
        let hash = ask(&client, Request::new("POST", "/sha256"), &body).await;
        assert_eq!(hash.text(), format!("{}\n", hex_of(&body)), "{length} bytes");
    }
    let plain = ask(&client, Request::new("POST", "/echo"), b"x").await;
    assert_eq!(plain.header("Content-Type"), "application/octet-stream");
    let refused = ask(&client, Request::new("POST", "/echo").param("CONTENT_TYPE", "a\r\nb: c"), b"x").await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn read_leaves_the_rest_unread() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let body = pattern(100_000);
    for (wanted, got) in [(0, 0), (5, 5), (99_999, 99_999), (200_000, 100_000)] {
        let answer = ask(&client, Request::new("POST", &format!("/read?n={wanted}")), &body).await;
        assert_eq!(answer.text(), format!("read {got}\n"));
    }
}

#[tokio::test]
async fn bytes_follow_the_pattern() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for length in [0, 1, 251, 64_256, 64_257, 5_000_000] {
        let answer = get(&client, &format!("/bytes?n={length}")).await;
        assert!(answer.body == pattern(length), "{length} bytes");
        assert_eq!(answer.header("Content-Type"), "application/octet-stream");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for uri in ["/hello", "/bytes?n=1099511627776", "/status?code=404", "/stream?chunks=1000000&ms=1000"] {
        let answer = ask(&client, Request::new("HEAD", uri), b"").await;
        assert_eq!(answer.text(), "", "{uri}");
        assert_eq!(answer.status, if uri.contains("404") { 404 } else { 200 });
    }
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let begun = Instant::now();
    let mut answer = begin(&client, Request::new("GET", "/stream?chunks=3&ms=200")).await.answer;
    assert_eq!(answer.head().await.unwrap().header("Content-Type"), Some(&b"text/event-stream"[..]));
    let mut times = Vec::new();
    for index in 0..3 {
        let part = answer.next().await.unwrap();
        assert_eq!(part, Some(Part::Stdout(format!("data: {index}\n\n").into())));
        times.push(begun.elapsed());
    }
    assert!(times[0] < Duration::from_millis(200) && times[2] >= Duration::from_millis(400), "{times:?}");
}

#[tokio::test]
async fn both_output_streams_in_turns() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let mut answer = begin(&client, Request::new("GET", "/interleave?n=3")).await.answer;
    answer.head().await.unwrap();
    let mut seen = Vec::new();
    while let Some(part) = answer.next().await.unwrap() {
        match part {
            Part::Stdout(bytes) | Part::Stderr(bytes) => {
                seen.push(String::from_utf8(bytes.to_vec()).unwrap())
            }
            Part::End(end) => assert!(end.is_complete()),
        }
    }
    assert_eq!(seen, ["out 0\n", "err 0\n", "out 1\n", "err 1\n", "out 2\n", "err 2\n"]);
}

#[tokio::test]
async fn a_panic_ends_its_own_request_alone() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let neighbour = begin(&client, Request::new("GET", "/sleep?ms=200")).await;
    let panicked = get(&client, "/panic").await;
    assert_eq!(panicked.status, 500);
    assert_ne!(panicked.app_status, 0);
    let slept = taken_apart(neighbour.answer.complete(1000).await.unwrap());
    assert_eq!((slept.status, slept.text()), (200, "slept 200\n"));
}

#[tokio::test]
async fn cancelled_handlers_are_counted() {
    let served = Served::start(&[]);
    let client = served.client().await;
    assert_eq!(get(&client, "/aborted").await.text(), "0\n");
    assert_eq!(get(&client, "/panic").await.status, 500);

    let waiting = begin(&client, Request::new("GET", "/sleep?ms=60000")).await.answer;
    waiting.abort().unwrap();
    assert!(waiting.complete(1000).await.unwrap().end.is_complete());
    let mut flowing = begin(&client, Request::new("GET", "/bytes?n=1099511627776")).await.answer;
    flowing.head().await.unwrap();
    drop(flowing);
    drop(begin(&served.client().await, Request::new("GET", "/sleep?ms=60000")).await);

    let deadline = Instant::now() + PATIENCE;
    loop {
        let count = get(&client, "/aborted").await;
        if count.text() == "3\n" {
            break;
        }
        assert!(Instant::now() < deadline, "{}", count.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_authorizer_lets_through_who_may() {
    let served = Served::start(&[]);
    let client = served.client().await;
    for (allow, status, body) in [("1", 200, ""), ("0", 403, "denied\n"), ("", 403, "denied\n")] {
        let request = Request::new("GET", "/x").role(Role::Authorizer).param("PROBE_ALLOW", allow);
        // An Authorizer is answered without any STDIN (FastCGI 6.3).
        let exchange = client.begin(&request).unwrap();
        let answer = tokio::time::timeout(PATIENCE, exchange.answer.complete(1000)).await.unwrap().unwrap();
        let answer = taken_apart(answer);
        assert_eq!((answer.status, answer.text()), (status, body), "PROBE_ALLOW={allow}");
        let user = answer.head.header("Variable-PROBE_USER");
        assert_eq!(user, (status == 200).then_some(&b"alice"[..]));
    }
}

#[tokio::test]
async fn the_filter_hashes_both_its_streams() {
    let served = Served::start(&[]);
    let client = served.client().await;
    let (body, file) = (pattern(70_000), pattern(300_000));
    for (mtime, expected) in [(Some("1234567890"), "1234567890"), (None, "")] {
        let mut request = Request::new("POST", "/x")
            .role(Role::Filter)
            .content_length(body.len() as u64)
            .param("FCGI_DATA_LENGTH", file.len().to_string());
        if let Some(mtime) = mtime {
            request = request.param("FCGI_DATA_LAST_MOD", mtime);
        }
        let Exchange { mut stdin, mut data, answer, .. } = client.begin(&request).unwrap();
        stdin.write(&body).await.unwrap();
        stdin.end().await.unwrap();
        data.write(&file).await.unwrap();
        data.end().await.unwrap();
        let answer = taken_apart(answer.complete(1000).await.unwrap());
        let lines = format!(
            "stdin {} {}\ndata {} {}\nmtime {expected}\n",
            body.len(),
            hex_of(&body),
            file.len(),
            hex_of(&file)
        );
        assert_eq!((answer.status, answer.text()), (200, lines.as_str()));
    }
}

/// Begins a request without a body.
async fn begin(client: &ringway::client::Client, request: Request) -> Exchange {
    let mut exchange = client.begin(&request).unwrap();
    exchange.stdin.end().await.unwrap();
    exchange
}

#[tokio::test]
async fn what_is_made_of_paths_is_said_once() {
    let mut served = Served::start(&[]);
    let client = served.client().await;
    let bare = || Request::bare(Role::Responder).param("SCRIPT_NAME", "/hello");
    for _ in 0..3 {
        assert_eq!(ask(&client, bare(), b"").await.text(), "Hello, world!\n");
    }
    let line = served.wait_for_line("PATH_INFO is taken from SCRIPT_NAME");
    assert!(line.contains("SCRIPT_NAME \"/hello\", no PATH_INFO, no REQUEST_URI"), "{line}");
    let (_, rest) = served.terminate();
    assert!(!rest.contains("is taken from"), "{rest}");
}
