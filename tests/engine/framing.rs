//! Bytes that break the protocol: what ends, what goes on, and that nothing else happens.

use std::path::Path;

use ringway::proto::{Connection, Event, Limits, ProtocolStatus, RecordType, Role};
use ringway::{AuthRequest, Decision, Driver, FilterRequest, Request, Response};

use crate::app::{self, heard};
use crate::junk;
use crate::peer::{Ask, raw_record};
use crate::server::{Serve, Served, each_driver};

each_driver! {
    a_framing_error_ends_its_connection_alone,
    what_was_complete_is_answered_first,
    cherokees_empty_posts_get_their_page,
    recordings_of_web_servers_get_their_answers,
    an_id_in_use_ends_the_connection,
    records_of_inactive_ids_are_ignored,
    without_multiplexing_a_second_request_is_refused,
    junk_leaves_the_server_serving,
}

fn begin(id: u16) -> Vec<u8> {
    raw_record(RecordType::BeginRequest.into(), id, &[0, 1, 1, 0, 0, 0, 0, 0], 0)
}

/// Decisions 2 and 3.
fn a_framing_error_ends_its_connection_alone(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let served = Serve::new(driver)
        .start(|server| server.responder("/", app::hello).responder("/never", app::never(tell)));
    let mut neighbour = served.connect();
    neighbour.ask(&Ask::get("/never").id(2));
    assert_eq!(heard(&told), "began");
    let short_begin = raw_record(RecordType::BeginRequest.into(), 1, b"1234", 0);
    let broken: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 8],
        &[2, 1, 0, 1, 0, 8, 0, 0],
        &begin(0),
        &raw_record(RecordType::Params.into(), 0, b"x", 0),
        &short_begin,
    ];
    for (count, bytes) in broken.into_iter().enumerate() {
        let mut peer = served.connect();
        // Nothing after the error is served.
        peer.send(&[bytes, &Ask::get("/").bytes()].concat());
        peer.expect_end();
        assert_eq!(served.metrics().protocol_errors, count as u64 + 1);
    }
    assert_eq!(neighbour.get("/").status(), 200);
    neighbour.abort(2);
    neighbour.answer(2);
    assert_eq!(served.metrics().requests_begun, 2);
}

/// Decision 22.
fn what_was_complete_is_answered_first(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let later = |_: Request| async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        "later\n"
    };
    let served = Serve::new(driver).start(|server| {
        server.responder("/", app::hello).responder("/later", later).responder("/never", app::never(tell))
    });
    let mut peer = served.connect();
    for id in [1, 2, 3] {
        peer.expect(id);
    }
    let incomplete = Ask::get("/never").id(3).head();
    let complete = [Ask::get("/").bytes(), Ask::get("/later").id(2).bytes()].concat();
    peer.send(&[&incomplete[..], &complete, &[0; 8], &Ask::get("/").id(4).bytes()].concat());
    assert_eq!(peer.answer(1).text(), "Hello, world!\n");
    assert_eq!(peer.answer(2).text(), "later\n");
    assert_eq!((heard(&told), heard(&told)), ("began", "dropped"));
    peer.expect_end();
}

fn captures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/captures")
}

/// Decision 22: after an empty POST Cherokee sends eight zero bytes and a second end of STDIN.
fn cherokees_empty_posts_get_their_page(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::count));
    for name in ["cherokee-spawn-post-empty.bin", "cherokee-tcp-post-empty.bin"] {
        let bytes = std::fs::read(captures().join(name)).expect("the recording is there");
        let mut peer = served.connect();
        peer.expect(1);
        peer.send(&bytes);
        let answer = peer.answer(1);
        assert_eq!((answer.status(), answer.text()), (200, "0\n"), "{name}");
        assert!(answer.is_complete());
        peer.expect_end();
    }
}

/// A recording, cut after each request whose input is complete: a web server uses an id again once that has ended.
fn cut_into_requests(recording: &[u8]) -> Vec<&[u8]> {
    let mut connection = Connection::<()>::new(Limits::default().into());
    let (mut input, mut reply, mut pieces, mut cut) = (recording, Vec::new(), Vec::new(), 0);
    while let Ok(Some(event)) = connection.handle_input(&mut input, &mut reply) {
        let ended = match event {
            Event::StdinEnded { request } if connection.role(request) != Some(Role::Filter) => request,
            Event::ParamsEnded { request } if connection.role(request) == Some(Role::Authorizer) => request,
            Event::DataEnded { request } => request,
            _ => continue,
        };
        connection.finish(ended, 0, ProtocolStatus::RequestComplete, &mut reply);
        let at = recording.len() - input.len();
        pieces.push(&recording[cut..at]);
        cut = at;
    }
    pieces.push(&recording[cut..]);
    pieces
}

/// Whatever real web servers sent is answered, request by request.
fn recordings_of_web_servers_get_their_answers(driver: Driver) {
    let served = Serve::new(driver).start(|server| {
        server.responder("/", app::count).authorizer("/", |_: AuthRequest| async { Decision::allow() })
    });
    for entry in std::fs::read_dir(captures()).expect("recordings") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let recording = std::fs::read(&path).expect("a recording");
        let mut peer = served.connect();
        let pieces = cut_into_requests(&recording);
        let (rest, requests) = pieces.split_last().expect("at least the rest");
        for request in requests {
            peer.send(request);
            let mut has_page = false;
            loop {
                let record = peer.record().unwrap_or_else(|| panic!("{}: no answer", path.display()));
                match record.record_type {
                    RecordType::Stdout => {
                        has_page |= record.content.starts_with(b"Content-Type: text/plain\r\n")
                    }
                    RecordType::EndRequest => break,
                    RecordType::GetValuesResult => {}
                    other => panic!("{}: {other:?}", path.display()),
                }
            }
            assert!(has_page || path.to_str().unwrap().contains("authorizer"), "{}", path.display());
        }
        // An upload that was given up.
        let _ = peer.try_send(rest);
        let _ = rustix::net::shutdown(&peer, rustix::net::Shutdown::Write);
        peer.expect_close();
    }
    assert_eq!(served.metrics().requests_failed, 0);
}

/// Decision 4.
fn an_id_in_use_ends_the_connection(driver: Driver) {
    let (tell, told) = std::sync::mpsc::channel();
    let served = Serve::new(driver).start(|server| server.responder("/", app::never(tell)));
    let mut peer = served.connect();
    peer.ask_head(&Ask::get("/"));
    assert_eq!(heard(&told), "began");
    peer.send(&Ask::get("/other").bytes());
    assert_eq!(heard(&told), "dropped");
    let answer = peer.rest(1);
    assert!(answer.stdout.is_empty());
    assert_eq!(served.metrics().requests_begun, 1);
}

/// FastCGI 3.3.
fn records_of_inactive_ids_are_ignored(driver: Driver) {
    let served = Serve::new(driver).start(|server| server.responder("/", app::hello));
    let mut peer = served.connect();
    for record_type in [2, 4, 5, 8] {
        for content in [&b""[..], b"whatever"] {
            peer.send(&raw_record(record_type, 7, content, 3));
        }
    }
    // What only an application sends.
    for record_type in [3, 6, 7, 10, 11] {
        peer.send(&raw_record(record_type, 7, b"whatever", 0));
    }
    assert_eq!(peer.get("/").status(), 200);
    assert_eq!(peer.fetch(&Ask::get("/").id(7)).status(), 200);
    assert_eq!(peer.fetch(&Ask::get("/").id(u16::MAX)).status(), 200);
    assert_eq!(served.metrics().protocol_errors, 0);
}

/// FastCGI 5.5: CANT_MPX_CONN where one is the limit, OVERLOADED where more are.
fn without_multiplexing_a_second_request_is_refused(driver: Driver) {
    for (limit, status) in [(1, ProtocolStatus::CantMpxConn), (3, ProtocolStatus::Overloaded)] {
        let (tell, told) = std::sync::mpsc::channel();
        let serve = Serve::new(driver).config(|config| config.connection_requests_max = limit);
        let served = serve.start(|server| server.responder("/", app::never(tell)));
        let mut peer = served.connect();
        for id in 1..=limit {
            peer.ask(&Ask::get("/").id(id));
            assert_eq!(heard(&told), "began");
        }
        peer.ask(&Ask::get("/").id(99));
        assert_eq!(peer.answer(99).protocol_status, Some(status));
        peer.abort(1);
        peer.answer(1);
        peer.ask(&Ask::get("/").id(99));
        assert_eq!((heard(&told), heard(&told)), ("dropped", "began"));
    }
}

fn junk_leaves_the_server_serving(driver: Driver) {
    let served = Serve::new(driver).start(|server| {
        server
            .responder("/", app::hello)
            .responder("/echo", app::echo)
            .authorizer("/", |_: AuthRequest| async { Decision::allow() })
            .filter("/", |request: FilterRequest| async move {
                request.data().read_to_vec(500).await.map(Response::bytes)
            })
    });
    let open = junk::send(&served);
    assert_eq!(served.connect().get("/").status(), 200);
    drop(open);
    all_forgotten(&served);
    assert_eq!(served.connect().get("/").status(), 200);
}

fn all_forgotten(served: &Served) {
    served.until("all connections are closed", |metrics| {
        metrics.connections_closed == metrics.connections_accepted
    });
    served.until("no handler is left", |metrics| metrics.tasks_pending == 0);
    let metrics = served.metrics();
    assert!(metrics.protocol_errors > 100, "junk is not taken for requests: {metrics:?}");
    assert_eq!(metrics.handler_panics, 0);
}
