//! What comes back, byte for byte: ordinary requests, heads, streams, statuses, management records.

use std::time::Duration;

use ringway::proto::wire::variable;
use ringway::proto::{ProtocolStatus, RecordType, encoder};
use ringway::{AuthRequest, Decision, Driver, Failure, FilterRequest, Request, Response, Stdout, ready};

use crate::app::{self, pattern};
use crate::peer::{Ask, Peer, raw_record};
use crate::server::{Serve, each_driver};

each_driver! {
    a_kept_connection_serves_a_thousand,
    sixty_four_are_multiplexed,
    a_connection_for_each_request,
    a_peer_that_leaves_at_once_does_not_harm_the_next,
    tcp_serves_too,
    pipelined_requests_are_all_answered,
    a_request_may_come_byte_by_byte,
    padding_of_any_length_is_skipped,
    the_end_goes_out_together,
    stdout_and_stderr_keep_their_order,
    a_line_on_stderr_is_one_record,
    a_flush_ends_a_record,
    answers_without_a_body,
    a_bad_head_is_a_500_and_a_line_in_the_log,
    an_error_is_a_500_and_a_line_in_the_log,
    the_app_status_is_the_requests_own,
    unknown_roles_are_refused,
    a_role_that_nobody_has_is_unknown,
    an_authorizer_needs_no_stdin,
    a_filters_output_waits_for_the_end_of_stdin,
    a_filter_reads_its_data_after_stdin,
    a_filters_broken_request_is_answered,
    params_that_are_wrong_get_a_400,
    params_beyond_the_limits_get_a_431,
    duplicate_names_the_last_wins,
    large_values_arrive_whole,
    get_values_is_answered_at_once,
    unknown_management_records_are_answered,
}

fn a_kept_connection_serves_a_thousand(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    for _ in 0..1_000 {
        let answer = peer.get("/hello");
        assert_eq!(answer.stdout, b"Content-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n");
        assert!(answer.is_complete() && answer.app_status == 0 && answer.stderr.is_empty());
    }
    let metrics = served.metrics();
    assert_eq!((metrics.connections_accepted, metrics.requests_begun), (1, 1_000));
    assert_eq!((metrics.requests_finished, metrics.requests_aborted, metrics.protocol_errors), (1_000, 0, 0));
}

fn sixty_four_are_multiplexed(driver: Driver) {
    async fn after_a_while(request: Request) -> Response {
        let id = request.id().get();
        tokio::time::sleep(Duration::from_millis(u64::from(id * 7 % 5))).await;
        Response::text(format!("{id} {}\n", String::from_utf8_lossy(request.query())))
    }
    let served = Serve::new(driver).start(|server| server.responder("/", after_a_while));
    let mut peer = served.connect();
    for round in 0..5 {
        for id in 1..=64 {
            peer.ask(&Ask::get(&format!("/?{round}")).id(id));
        }
        for id in (1..=64).rev() {
            assert_eq!(peer.answer(id).text(), format!("{id} {round}\n"));
        }
    }
    assert_eq!(served.metrics().connections_accepted, 1);
}

fn a_connection_for_each_request(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    for _ in 0..100 {
        let mut peer = served.connect();
        assert_eq!(peer.fetch(&Ask::get("/").close()).text(), "Hello, world!\n");
        peer.expect_end();
    }
    served.until("all are closed", |metrics| metrics.connections_closed == 100);
    assert_eq!(served.handle.connections(), [0]);
}

/// nginx closes as soon as it has read the end of STDOUT, while the server ends the connection on its side.
fn a_peer_that_leaves_at_once_does_not_harm_the_next(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    for _ in 0..2_000 {
        let mut peer = served.connect();
        peer.ask(&Ask::get("/").close());
        peer.read_stdout(1, 10);
    }
}

fn tcp_serves_too(driver: Driver) {
    let served = Serve::new(driver).on_tcp().start(|server| server.responder("/", app::echo));
    let body = pattern(0, 300_000);
    let mut peer = served.connect();
    for _ in 0..3 {
        assert_eq!(peer.fetch(&Ask::post("/", body.clone())).body(), body);
    }
    peer.ask(&Ask::post("/", "the last one").close());
    assert_eq!(peer.answer(1).text(), "the last one");
    peer.expect_end();
}

/// Decision 16.
fn pipelined_requests_are_all_answered(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    let mut bytes = Vec::new();
    for id in 1..=200 {
        peer.expect(id);
        bytes.extend(Ask::get("/").with_nginx_headers().id(id).bytes());
    }
    peer.send(&bytes);
    for id in 1..=200 {
        assert_eq!(peer.answer(id).text(), "Hello, world!\n");
    }
}

fn a_request_may_come_byte_by_byte(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::echo));
    let mut peer = served.connect();
    peer.expect(1);
    for byte in Ask::post("/", "body").param("X", "y").bytes() {
        peer.send(&[byte]);
    }
    assert_eq!(peer.answer(1).text(), "body");
}

/// Decision 16.
fn padding_of_any_length_is_skipped(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::echo));
    let mut peer = served.connect();
    for padding in [1, 7, 255] {
        peer.expect(1);
        peer.send(&raw_record(RecordType::BeginRequest.into(), 1, &[0, 1, 1, 0, 0, 0, 0, 0], padding));
        peer.send(&raw_record(RecordType::Params.into(), 1, b"\x0b\x01SCRIPT_NAME/", padding));
        peer.send(&raw_record(RecordType::Params.into(), 1, b"", padding));
        peer.send(&raw_record(RecordType::Stdin.into(), 1, b"padded", padding));
        peer.send(&raw_record(RecordType::Stdin.into(), 1, b"", padding));
        assert_eq!(peer.answer(1).text(), "padded");
    }
}

/// Decision 18: whatever kind of answer it is, a read that has its last content has its end.
fn the_end_goes_out_together(driver: Driver) {
    let streamed = |_: Request| async {
        Response::new(200).stream(|mut stdout: Stdout| async move {
            stdout.write(b"first").await?;
            stdout.flush().await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            stdout.write(b"LAST").await?;
            stdout.flush().await
        })
    };
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/ready", ready(|_| Response::text("LAST")))
            .responder("/large", |_: Request| async {
                Response::bytes([&pattern(0, 50_000)[..], b"LAST"].concat())
            })
            .responder("/streamed", streamed)
    });
    let mut peer = served.connect();
    for uri in ["/ready", "/large", "/streamed"] {
        for _ in 0..50 {
            peer.ask(&Ask::get(uri));
            let mut bytes = Vec::new();
            loop {
                let block = peer.read_once();
                bytes.extend_from_slice(&block);
                if block.windows(4).any(|window| window == b"LAST") {
                    let end = &block[block.len() - 32..];
                    assert_eq!(
                        end[8..12],
                        [1, 6, 0, 1],
                        "{uri}: the end of STDOUT comes with the last content"
                    );
                    assert_eq!(end[16..20], [1, 3, 0, 1], "{uri}: END_REQUEST comes with the last content");
                    break;
                }
            }
            peer.unread(&bytes);
            assert!(peer.answer(1).is_complete());
        }
    }
}

fn stdout_and_stderr_keep_their_order(driver: Driver) {
    async fn interleave(request: Request) -> Response {
        Response::new(200).stream(move |mut stdout: Stdout| async move {
            let stderr = request.stderr();
            for number in 0..500 {
                stdout.write(format!("out {number}\n").as_bytes()).await?;
                stdout.flush().await?;
                stderr.write(format!("err {number}\n")).await?;
            }
            Ok::<(), Failure>(())
        })
    }
    let served = Serve::new(driver).start(|server| server.responder("/", interleave));
    let answer = served.connect().get("/");
    let expected = (0..500).flat_map(|number| {
        [(RecordType::Stdout, format!("out {number}\n")), (RecordType::Stderr, format!("err {number}\n"))]
    });
    let mut records = answer.records.clone();
    // The first record begins with the head.
    let head = records[0].1.len() - b"out 0\n".len();
    assert!(records[0].1.drain(..head).as_slice().ends_with(b"\r\n\r\n"));
    let records =
        records.into_iter().map(|(record_type, content)| (record_type, String::from_utf8(content).unwrap()));
    assert!(records.eq(expected));
    assert!(answer.is_complete());
}

/// Web servers log a line for each record.
fn a_line_on_stderr_is_one_record(driver: Driver) {
    async fn talk(request: Request) -> Result<Response, Failure> {
        for _ in 0..100 {
            request.stderr().write(format!("{}\n", "x".repeat(99))).await?;
        }
        Ok(Response::text("ok\n"))
    }
    let serve = Serve::new(driver).config(|config| config.stdout_window_bytes = 1_050);
    let answer = serve.start(|server| server.responder("/", talk)).connect().get("/");
    let lines: Vec<_> = answer.records.iter().filter(|(kind, _)| *kind == RecordType::Stderr).collect();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|(_, line)| line.len() == 100 && line.ends_with(b"\n")));
    assert!(answer.is_complete());
}

fn a_flush_ends_a_record(driver: Driver) {
    async fn pieces(_: Request) -> Response {
        Response::new(200).stream(|mut stdout: Stdout| async move {
            for piece in ["a", "b", "c"] {
                stdout.write(piece.as_bytes()).await?;
                stdout.write(piece.as_bytes()).await?;
                stdout.flush().await?;
            }
            Ok::<(), Failure>(())
        })
    }
    let served = Serve::new(driver).start(|server| server.responder("/", pieces));
    let answer = served.connect().get("/");
    let contents: Vec<_> = answer.records.iter().map(|(_, content)| &content[..]).collect();
    assert_eq!(contents[contents.len() - 2..], [b"bb", b"cc"]);
    assert_eq!(answer.text(), "aabbcc");
}

/// Decision 20, and RFC 9110 for the statuses.
fn answers_without_a_body(driver: Driver) {
    async fn with_status(request: Request) -> Response {
        let status = std::str::from_utf8(request.query()).unwrap().parse().unwrap();
        Response::text("body\n").status(status)
    }
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/", with_status)
            .responder("/streamed", app::bytes)
            .responder("/large", |_: Request| async { Response::bytes(pattern(0, 100_000)) })
    });
    let mut peer = served.connect();
    for status in [204, 304] {
        let answer = peer.get(&format!("/?{status}"));
        assert_eq!(
            (answer.status(), answer.body(), answer.header("Content-Length")),
            (status, &b""[..], None)
        );
    }
    for (uri, length) in [("/?200", Some("5")), ("/streamed?70000", None), ("/large", Some("100000"))] {
        let mut head = Ask::get(uri);
        head.params[0].1 = b"HEAD".to_vec();
        let answer = peer.fetch(&head);
        assert_eq!((answer.status(), answer.body()), (200, &b""[..]), "{uri}");
        assert_eq!(answer.header("Content-Length").as_deref(), length, "{uri}");
        assert!(answer.is_complete());
    }
    assert_eq!(peer.get("/?200").text(), "body\n");
}

fn a_bad_head_is_a_500_and_a_line_in_the_log(driver: Driver) {
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/value", |_: Request| async {
                Response::text("x").header("X-A", "b\r\nSet-Cookie: c=d")
            })
            .responder("/name", ready(|_| Response::text("x").header("X A", "b")))
            .responder("/streamed", |_: Request| async {
                Response::new(42).stream(|_| async { Ok::<(), Failure>(()) })
            })
    });
    let mut peer = served.connect();
    for (uri, reason) in [("/value", "X-A"), ("/name", "X A"), ("/streamed", "42")] {
        let answer = peer.get(uri);
        assert_eq!((answer.status(), answer.app_status), (500, 1), "{uri}");
        assert!(
            !answer.stdout.windows(10).any(|window| window == b"Set-Cookie"),
            "{uri}: the head was split"
        );
        assert!(answer.stderr_text().contains(reason), "{uri}: {:?}", answer.stderr_text());
        assert_eq!(answer.stderr_text().lines().count(), 1, "{uri}");
    }
    assert_eq!(served.metrics().requests_failed, 3);
}

fn an_error_is_a_500_and_a_line_in_the_log(driver: Driver) {
    async fn fails(_: Request) -> Result<Response, Failure> {
        std::fs::read("/nowhere\nat all")?;
        Ok(Response::new(204))
    }
    async fn fails_late(_: Request) -> Response {
        Response::new(200).stream(|mut stdout: Stdout| async move {
            stdout.write(b"half").await?;
            Err(Failure::new("the disk is full\nforged line"))
        })
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/", fails).responder("/late", fails_late));
    let mut peer = served.connect();
    let answer = peer.get("/");
    assert_eq!((answer.status(), answer.app_status, answer.text()), (500, 1, "Internal Server Error\n"));
    assert_eq!(answer.stderr_text().lines().count(), 1, "{:?}", answer.stderr_text());
    // The head is out: on a lone connection only its end tells that the answer is not whole.
    peer.ask(&Ask::get("/late"));
    let answer = peer.rest(1);
    assert!(answer.protocol_status.is_none() && !answer.stdout_ended, "{answer:?}");
    assert_eq!((answer.text(), answer.stderr_text()), ("half", "the disk is full\\nforged line\n"));
}

/// Decision 17.
fn the_app_status_is_the_requests_own(driver: Driver) {
    async fn exit(request: Request) -> Response {
        let status = std::str::from_utf8(request.query()).unwrap().parse().unwrap();
        Response::text("bye\n").app_status(status)
    }
    async fn exit_streamed(_: Request) -> Response {
        Response::new(200).app_status(7).stream(|_| async { Ok::<(), Failure>(()) })
    }
    let served =
        Serve::new(driver).start(|server| server.responder("/", exit).responder("/streamed", exit_streamed));
    let mut peer = served.connect();
    for status in [3, 0, u32::MAX, 0] {
        assert_eq!(peer.get(&format!("/?{status}")).app_status, status);
    }
    assert_eq!(peer.get("/streamed").app_status, 7);
    assert_eq!(peer.get("/?0").app_status, 0);
}

/// Decision 8.
fn unknown_roles_are_refused(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    for role in [0, 4, 0xFFFF] {
        peer.expect(1);
        let [high, low] = u16::to_be_bytes(role);
        peer.send(&raw_record(RecordType::BeginRequest.into(), 1, &[high, low, 1, 0, 0, 0, 0, 0], 0));
        let answer = peer.answer(1);
        assert_eq!(answer.protocol_status, Some(ProtocolStatus::UnknownRole));
        assert!(answer.stdout.is_empty());
    }
    assert_eq!(peer.get("/").status(), 200);
    assert_eq!(served.metrics().requests_refused, 3);
}

fn a_role_that_nobody_has_is_unknown(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    for ask in [Ask::authorize("/"), Ask::filter("/", "a", "b")] {
        // What follows the refusal is ignored.
        assert_eq!(peer.fetch(&ask).protocol_status, Some(ProtocolStatus::UnknownRole));
    }
    assert_eq!(peer.get("/").status(), 200);
    // Without KEEP_CONN the refusal ends the connection.
    peer.ask(&Ask::authorize("/").close());
    assert_eq!(peer.answer(1).protocol_status, Some(ProtocolStatus::UnknownRole));
    peer.expect_end();
}

/// Decision 8.
fn an_authorizer_needs_no_stdin(driver: Driver) {
    async fn check(request: AuthRequest) -> Decision {
        match request.param("PROBE_ALLOW") {
            Some(b"1") => Decision::allow().variable("PROBE_USER", "alice"),
            _ => Decision::deny(Response::text("denied\n").status(403)),
        }
    }
    let served = Serve::new(driver).start(|server| server.authorizer("/", check));
    let mut peer = served.connect();
    let allowed = peer.fetch(&Ask::authorize("/").param("PROBE_ALLOW", "1"));
    assert_eq!((allowed.status(), allowed.body()), (200, &b""[..]));
    assert_eq!(allowed.header("Variable-PROBE_USER").as_deref(), Some("alice"));
    let denied = peer.fetch(&Ask::authorize("/"));
    assert_eq!((denied.status(), denied.text()), (403, "denied\n"));
    // lighttpd sends an empty STDIN.
    peer.ask(&Ask::authorize("/"));
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).status(), 403);
    assert_eq!(peer.fetch(&Ask::authorize("/").param("PROBE_ALLOW", "1")).status(), 200);
}

/// FastCGI 6.4.
fn a_filters_output_waits_for_the_end_of_stdin(driver: Driver) {
    let at_once = |_: FilterRequest| async { Response::text("filtered\n") };
    let served = Serve::new(driver).start(|server| server.filter("/", at_once).responder("/", app::hello));
    let mut peer = served.connect();
    peer.ask_head(&Ask::filter("/", "abc", "defg"));
    peer.stdin(1, b"abc");
    // The neighbour's answer shows that the server has had its turn.
    assert_eq!(peer.fetch(&Ask::get("/").id(2)).status(), 200);
    assert!(peer.is_silent_for(Duration::from_millis(50)));
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).text(), "filtered\n");
}

fn a_filter_reads_its_data_after_stdin(driver: Driver) {
    async fn both(request: FilterRequest) -> Result<Response, Failure> {
        let stdin = request.stdin().read_to_vec(1_000_000).await?;
        let data = request.data().read_to_vec(1_000_000).await?;
        let lengths = (request.stdin().length(), request.data().length());
        Ok(Response::bytes([&stdin[..], b"|", &data].concat()).header("X-Lengths", format!("{lengths:?}")))
    }
    let served = Serve::new(driver).start(|server| server.filter("/", both));
    let mut peer = served.connect();
    let data = pattern(0, 200_000);
    let answer = peer.fetch(&Ask::filter("/", "abc", data.clone()));
    assert_eq!(answer.body(), [b"abc|", &data[..]].concat());
    assert_eq!(answer.header("X-Lengths").as_deref(), Some("(Some(3), Some(200000))"));
    let answer = peer.fetch(&Ask::filter("/", "", ""));
    assert_eq!(answer.body(), b"|");
    // The file ends before FCGI_DATA_LENGTH.
    let mut short = Ask::filter("/", "abc", "defg");
    short.data.truncate(2);
    assert_eq!(peer.fetch(&short).status(), 400);
}

/// A broken rule is answered also where the answer would otherwise wait for input that is not coming.
fn a_filters_broken_request_is_answered(driver: Driver) {
    let wait =
        |request: FilterRequest| async move { request.stdin().read_to_vec(100).await.map(Response::bytes) };
    let served = Serve::new(driver).start(|server| server.filter("/", wait));
    let mut peer = served.connect();
    peer.ask_head(&Ask::filter("/", "abc", "defg"));
    peer.stdin(1, b"a");
    peer.stream(RecordType::Data, 1, b"de");
    let answer = peer.answer(1);
    assert_eq!((answer.status(), answer.app_status), (400, 1));
    assert_eq!(peer.fetch(&Ask::filter("/", "abc", "defg")).text(), "abc");
}

/// Decisions 5 and 6.
fn params_that_are_wrong_get_a_400(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    let wrong: [&[u8]; 6] = [
        b"\x05",
        b"\x05\x05abc",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x00",
        b"\x01\x01a\0",
        b"\x01\x01\0a",
    ];
    for params in wrong {
        peer.expect(1);
        peer.send(&raw_record(RecordType::BeginRequest.into(), 1, &[0, 1, 1, 0, 0, 0, 0, 0], 0));
        peer.stream(RecordType::Params, 1, params);
        peer.stream_end(RecordType::Params, 1);
        peer.stdin_end(1);
        let answer = peer.answer(1);
        assert_eq!((answer.status(), answer.app_status), (400, 1), "{params:?}");
        assert!(answer.is_complete());
    }
    // STDIN before the end of PARAMS.
    peer.expect(1);
    peer.send(&raw_record(RecordType::BeginRequest.into(), 1, &[0, 1, 1, 0, 0, 0, 0, 0], 0));
    peer.stdin(1, b"too early");
    assert_eq!(peer.answer(1).status(), 400);
    assert_eq!(peer.get("/").status(), 200);
    assert_eq!(served.metrics().protocol_errors, 7);
}

/// Decision 5: at the bound and one past it; an endless stream is cut early.
fn params_beyond_the_limits_get_a_431(driver: Driver) {
    let serve = Serve::new(driver).config(|config| {
        config.params_bytes_max = 1024;
        config.params_pairs_max = 20;
    });
    let served = serve.start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    let many = |count| (0..count).fold(Ask::get("/"), |ask, _| ask.param("a", "b"));
    assert_eq!(peer.fetch(&many(17)).status(), 200);
    let answer = peer.fetch(&many(18));
    assert_eq!((answer.status(), answer.app_status), (431, 1));
    // 14 + 3, 11 + 1, 12 + 0 bytes and two lengths each are there; a value above 127 has a length of four bytes.
    let long = |bytes: usize| Ask::get("/").param("x", vec![b'v'; bytes - 47 - 6]);
    assert_eq!(peer.fetch(&long(1024)).status(), 200);
    assert_eq!(peer.fetch(&long(1025)).status(), 431);
    peer.expect(9);
    peer.send(&raw_record(RecordType::BeginRequest.into(), 9, &[0, 1, 1, 0, 0, 0, 0, 0], 0));
    let endless = raw_record(RecordType::Params.into(), 9, &[b'p'; 512], 0);
    for _ in 0..1_000 {
        peer.send(&endless);
    }
    assert_eq!(peer.answer(9).status(), 431);
    assert_eq!(peer.get("/").status(), 200);
}

/// Decisions 6 and 21.
fn duplicate_names_the_last_wins(driver: Driver) {
    async fn show(request: Request) -> Response {
        let all = request.params().iter().filter(|(name, _)| *name == b"X");
        let all: Vec<_> = all.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
        let last = String::from_utf8_lossy(request.param("X").unwrap()).into_owned();
        Response::text(format!("{} {} {last}\n", request.mount(), all.join(",")))
    }
    let served = Serve::new(driver).start(|server| server.responder("/a", show).responder("/b", show));
    let ask = Ask::get("/a").param("X", "1").param("X", "2").param("X", "3").param("SCRIPT_NAME", "/b");
    assert_eq!(served.connect().fetch(&ask).text(), "/b 1,2,3 3\n");
}

/// Decision 5: 64 KiB values work; the stream takes several records, and pairs straddle them and receive buffers.
fn large_values_arrive_whole(driver: Driver) {
    async fn value(request: Request) -> Response {
        Response::bytes(request.param("X-LARGE").unwrap().to_vec())
    }
    let served = Serve::new(driver).start(|server| server.responder("/", value));
    let mut peer = served.connect();
    for length in [0, 127, 128, 32_768, 65_536, 200_000] {
        let value: Vec<u8> = pattern(0, length).iter().map(|byte| byte | 1).collect();
        let ask = Ask::get("/").with_nginx_headers().param("X-LARGE", value.clone()).with_nginx_headers();
        assert_eq!(peer.fetch(&ask).body(), value);
    }
    assert!(served.metrics().params_copied >= 3);
}

/// Decisions 1 and 16.
fn get_values_is_answered_at_once(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let serve = Serve::new(driver).config(|config| {
        config.connections_max = 77;
        config.requests_max = 88;
    });
    let served = serve.start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    let ask = |peer: &mut Peer, names: &[&[u8]]| {
        let mut question = Vec::new();
        encoder::get_values(&mut question, names.iter().copied());
        peer.send(&question);
        let record = peer.record().expect("an answer");
        assert_eq!((record.record_type, record.id), (RecordType::GetValuesResult, 0));
        record.content
    };
    let all = [variable::MAX_CONNS, variable::MAX_REQS, variable::MPXS_CONNS];
    let expected = b"\x0e\x02FCGI_MAX_CONNS77\x0d\x02FCGI_MAX_REQS88\x0f\x01FCGI_MPXS_CONNS1";
    assert_eq!(ask(&mut peer, &all), expected);
    assert_eq!(
        ask(&mut peer, &[b"OTHER", variable::MAX_REQS, variable::MAX_REQS]),
        b"\x0d\x02FCGI_MAX_REQS88"
    );
    assert_eq!(ask(&mut peer, &[]), b"");
    peer.ask(&Ask::get("/").id(5));
    assert_eq!(app::heard(&told), "began");
    assert_eq!(ask(&mut peer, &all), expected);
}

fn unknown_management_records_are_answered(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    peer.send(&raw_record(99, 0, b"whatever", 3));
    let record = peer.record().expect("an answer");
    assert_eq!((record.record_type, record.id), (RecordType::UnknownType, 0));
    assert_eq!(record.content, [99, 0, 0, 0, 0, 0, 0, 0]);
    // Of an application record with a type that nobody knows nothing is said.
    peer.ask_head(&Ask::get("/"));
    peer.send(&raw_record(99, 1, b"whatever", 3));
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).status(), 200);
}
