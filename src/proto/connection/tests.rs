use super::*;
use RecordType::{Data, Params, Stdin};
use alloc::vec;

const ONE: RequestId = RequestId::ONE;

fn connection(limits: Limits) -> Connection<u32> {
    Connection::new(Arc::new(limits))
}

fn id(id: u16) -> RequestId {
    RequestId::new(id).unwrap()
}

fn begin(id: RequestId, role: Role, keep_conn: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encoder::begin_request(&mut out, id, role, keep_conn);
    out
}

fn record(record_type: RecordType, id: u16, content: &[u8]) -> Vec<u8> {
    let [length1, length0] = (content.len() as u16).to_be_bytes();
    let [id1, id0] = id.to_be_bytes();
    [&[1, u8::from(record_type), id1, id0, length1, length0, 0, 0], content].concat()
}

/// All events of `bytes`, and the replies to it.
#[track_caller]
fn feed<'a>(connection: &mut Connection<u32>, bytes: &'a [u8]) -> (Vec<Event<'a>>, Vec<u8>) {
    let (mut input, mut reply, mut events) = (bytes, Vec::new(), Vec::new());
    while let Some(event) = connection.handle_input(&mut input, &mut reply).unwrap() {
        events.push(event);
    }
    assert!(input.is_empty());
    (events, reply)
}

#[track_caller]
fn begun(connection: &mut Connection<u32>, id: RequestId, role: Role, keep_conn: bool) -> RequestKey {
    let bytes = begin(id, role, keep_conn);
    let (events, reply) = feed(connection, &bytes);
    let [Event::Begun { request, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(events, [Event::Begun { request, id, role, keep_conn }]);
    assert!(reply.is_empty());
    request
}

/// The error of `bytes`, which must come before anything else of them.
#[track_caller]
fn broken(connection: &mut Connection<u32>, bytes: &[u8]) -> ErrorKind {
    let (mut input, mut reply) = (bytes, Vec::new());
    let error = connection.handle_input(&mut input, &mut reply).unwrap_err();
    assert!(input.is_empty() && reply.is_empty());
    assert_eq!(error.scope, crate::proto::Scope::Connection);
    error.kind
}

#[test]
fn a_connection_that_was_reset_is_as_new() {
    for kept in [0, 8] {
        let mut connection = connection(Limits::default());
        let old = begun(&mut connection, ONE, Role::Responder, false);
        feed(&mut connection, &record(Params, 1, b"half of a record")[..12]);
        connection.finish(old, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        assert!(connection.wants_close() && connection.expects_input());
        connection.reset(kept);
        assert!(connection.is_idle() && !connection.wants_close() && !connection.expects_input());
        let new = begun(&mut connection, ONE, Role::Responder, true);
        assert!(connection.get(old).is_none() && connection.get(new).is_some());
        broken(&mut connection, b"GET / HTTP/1.1");
        connection.reset(kept);
        begun(&mut connection, ONE, Role::Responder, true);
    }
}

#[test]
fn one_request_from_begin_to_end() {
    let mut connection = connection(Limits::default());
    assert!(connection.is_idle());
    let request = begun(&mut connection, ONE, Role::Responder, false);
    *connection.get_mut(request).unwrap() = 42;
    let bytes = [
        record(Params, 1, b"\x01\x01ab"),
        record(Params, 1, b""),
        record(Stdin, 1, b"body"),
        record(Stdin, 1, b""),
        record(Stdin, 1, b""),
    ]
    .concat();
    let (events, reply) = feed(&mut connection, &bytes);
    let expected = [
        Event::Params { request, bytes: b"\x01\x01ab" },
        Event::ParamsEnded { request },
        Event::Stdin { request, bytes: b"body" },
        Event::StdinEnded { request },
    ];
    assert_eq!(events, expected);
    assert!(reply.is_empty() && !connection.wants_close() && !connection.is_idle());
    assert_eq!((connection.id(request), connection.role(request)), (Some(ONE), Some(Role::Responder)));
    let mut out = Vec::new();
    assert_eq!(connection.finish(request, 7, ProtocolStatus::RequestComplete, &mut out), Some(42));
    assert_eq!(out, [1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
    assert!(connection.wants_close() && connection.is_idle());
}

#[test]
fn input_of_a_finished_request_is_expected_until_its_end() {
    let mut connection = connection(Limits::default());
    assert!(!connection.expects_input());
    let request = begun(&mut connection, ONE, Role::Responder, false);
    feed(&mut connection, &record(Params, 1, b""));
    connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
    assert!(connection.expects_input());
    feed(&mut connection, &record(Stdin, 1, b"late"));
    feed(&mut connection, &record(Stdin, 2, b""));
    assert!(connection.expects_input());
    feed(&mut connection, &record(Stdin, 1, b""));
    assert!(!connection.expects_input());
    feed(&mut connection, &record(Stdin, 1, b"")[..3]);
    assert!(connection.expects_input(), "in the middle of a record");
}

#[test]
fn all_is_said_where_complete_requests_end_the_connection() {
    let mut connection = connection(Limits::default());
    assert!(!connection.is_all_said(), "nothing was said yet");
    begun(&mut connection, ONE, Role::Responder, false);
    feed(&mut connection, &record(Params, 1, b""));
    assert!(!connection.is_all_said());
    feed(&mut connection, &record(Stdin, 1, b""));
    assert!(connection.is_all_said());
    feed(&mut connection, &record(Stdin, 1, b"")[..3]);
    assert!(!connection.is_all_said(), "in the middle of a record");
    for (keep, is_all_said) in [(false, true), (true, false)] {
        connection.reset(0);
        for (id, keep) in [(ONE, false), (RequestId::new(2).unwrap(), keep)] {
            begun(&mut connection, id, Role::Authorizer, keep);
            feed(&mut connection, &record(Params, id.get(), b""));
        }
        assert_eq!(connection.is_all_said(), is_all_said);
    }
}

#[test]
fn a_key_ends_with_its_request() {
    let mut connection = connection(Limits::default());
    let first = begun(&mut connection, ONE, Role::Responder, true);
    let mut out = Vec::new();
    assert_eq!(connection.finish(first, 0, ProtocolStatus::RequestComplete, &mut out), Some(0));
    let second = begun(&mut connection, ONE, Role::Filter, true);
    assert_eq!((first.slot, first == second), (second.slot, false));
    out.clear();
    assert_eq!(connection.finish(first, 0, ProtocolStatus::RequestComplete, &mut out), None);
    assert!(out.is_empty());
    assert!(connection.get(first).is_none() && connection.get_mut(first).is_none());
    assert!(connection.id(first).is_none() && connection.role(first).is_none());
    assert_eq!(connection.role(second), Some(Role::Filter));
    assert!(!connection.wants_close());
}

#[test]
fn requests_interleave_and_end_in_any_order() {
    let mut connection = connection(Limits::default());
    let keys: Vec<RequestKey> =
        [1, 256, 65_535, 7].map(|number| begun(&mut connection, id(number), Role::Responder, true)).to_vec();
    for (key, number) in keys.iter().zip([1, 256, 65_535, 7]).rev() {
        let bytes = record(Params, number, b"x");
        assert_eq!(feed(&mut connection, &bytes).0, [Event::Params { request: *key, bytes: b"x" }]);
    }
    assert!(connection.requests().map(|(key, _)| key).eq(keys.iter().copied()));
    let mut out = Vec::new();
    for key in [keys[2], keys[0], keys[3], keys[1]] {
        connection.finish(key, 0, ProtocolStatus::RequestComplete, &mut out).unwrap();
    }
    assert_eq!(connection.active(), 0);
    assert_eq!(
        out.chunks(16).map(|end| u16::from_be_bytes([end[2], end[3]])).collect::<Vec<_>>(),
        [65_535, 1, 7, 256]
    );
}

#[test]
fn records_of_inactive_ids_are_ignored() {
    let mut connection = connection(Limits::default());
    let active = begun(&mut connection, ONE, Role::Responder, true);
    for record_type in
        RecordType::ALL.iter().copied().chain([RecordType::Unknown(0), RecordType::Unknown(200)])
    {
        let stray = if record_type == RecordType::BeginRequest { 0 } else { 2 };
        if stray != 0 {
            let bytes = record(record_type, stray, b"stray");
            assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
        }
    }
    connection.finish(active, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
    for record_type in [Params, Stdin, Data, RecordType::AbortRequest] {
        let bytes = record(record_type, 1, b"late");
        assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
    }
}

#[test]
fn what_is_not_a_web_servers_to_send_is_ignored_on_an_active_id() {
    use RecordType::{EndRequest, GetValues, GetValuesResult, Stderr, Stdout, Unknown, UnknownType};
    let mut connection = connection(Limits::default());
    begun(&mut connection, ONE, Role::Responder, true);
    for record_type in [EndRequest, Stdout, Stderr, GetValues, GetValuesResult, UnknownType, Unknown(99)] {
        let bytes = record(record_type, 1, b"12345678");
        assert_eq!(feed(&mut connection, &bytes), (vec![], vec![]), "{record_type}");
    }
    assert_eq!(connection.active(), 1);
}

#[test]
fn a_record_in_pieces_outlives_its_request() {
    let mut connection = connection(Limits::default());
    let request = begun(&mut connection, ONE, Role::Responder, true);
    let bytes = record(Params, 1, b"abcdef");
    assert_eq!(feed(&mut connection, &bytes[..10]).0, [Event::Params { request, bytes: b"ab" }]);
    assert!(connection.mid_record());
    connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
    assert!(!connection.is_idle());
    assert_eq!(feed(&mut connection, &bytes[10..]).0, []);
    assert!(connection.is_idle());
}

#[test]
fn without_keep_conn_the_others_finish_first() {
    let mut connection = connection(Limits::default());
    let (last, kept) = (id(2), id(3));
    let ends = begun(&mut connection, ONE, Role::Responder, false);
    let stays = begun(&mut connection, last, Role::Responder, true);
    let mut out = Vec::new();
    connection.finish(ends, 0, ProtocolStatus::RequestComplete, &mut out);
    assert!(!connection.wants_close());
    assert_eq!(feed(&mut connection, &begin(kept, Role::Responder, true)), (vec![], vec![]));
    assert_eq!(feed(&mut connection, &record(Params, 3, b"x")), (vec![], vec![]));
    let bytes = record(Params, 2, b"x");
    assert_eq!(feed(&mut connection, &bytes).0, [Event::Params { request: stays, bytes: b"x" }]);
    assert_eq!(broken(&mut connection, &begin(last, Role::Responder, true)), ErrorKind::IdInUse);
    connection.finish(stays, 0, ProtocolStatus::RequestComplete, &mut out);
    assert!(connection.wants_close());
}

#[test]
fn requests_at_once_are_limited() {
    for (max, status) in [(1, ProtocolStatus::CantMpxConn), (2, ProtocolStatus::Overloaded)] {
        let mut connection = connection(Limits { requests_max: max, ..Limits::default() });
        let keys: Vec<_> =
            (1..=max).map(|number| begun(&mut connection, id(number), Role::Responder, true)).collect();
        let bytes = [begin(id(9), Role::Responder, true), record(Params, 9, b"ignored")].concat();
        let (events, reply) = feed(&mut connection, &bytes);
        assert_eq!(events, [Event::Refused { id: id(9), status }]);
        assert_eq!(reply, [1, 3, 0, 9, 0, 8, 0, 0, 0, 0, 0, 0, u8::from(status), 0, 0, 0]);
        connection.finish(keys[0], 0, ProtocolStatus::RequestComplete, &mut Vec::new());
        begun(&mut connection, id(9), Role::Responder, true);
    }
}

#[test]
fn unknown_roles_are_refused() {
    for (role, keep_conn) in [(0, true), (4, false), (0x0101, true), (65_535, false)] {
        let mut connection = connection(Limits::default());
        let body = BeginBody { role, flags: if keep_conn { 0xff } else { 0xfe } };
        let bytes = record(RecordType::BeginRequest, 1, &body.to_bytes());
        let (events, reply) = feed(&mut connection, &bytes);
        assert_eq!(events, [Event::Refused { id: ONE, status: ProtocolStatus::UnknownRole }]);
        assert_eq!(reply, [1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(connection.wants_close(), !keep_conn);
    }
}

#[test]
fn a_failed_request_waits_for_its_answer() {
    let mut connection = connection(Limits { params_bytes_max: 5, ..Limits::default() });
    let request = begun(&mut connection, ONE, Role::Responder, true);
    let bytes = [
        record(Params, 1, b"abcde"),
        record(Params, 1, b"f"),
        record(Params, 1, b""),
        record(RecordType::AbortRequest, 1, b""),
        record(Stdin, 1, b""),
    ]
    .concat();
    let error = Error::new(ErrorKind::ParamsTooLong(5), Some(1));
    let expected = [
        Event::Params { request, bytes: b"abcde" },
        Event::Failed { request, error },
        Event::Aborted { request },
    ];
    assert_eq!(feed(&mut connection, &bytes).0, expected);
    assert_eq!((connection.incomplete().count(), connection.active()), (0, 1));
}

#[test]
fn incomplete_are_those_whose_input_is_awaited() {
    let mut connection = connection(Limits::default());
    let in_params = begun(&mut connection, id(1), Role::Authorizer, true);
    let in_stdin = begun(&mut connection, id(2), Role::Responder, true);
    let in_data = begun(&mut connection, id(3), Role::Filter, true);
    let authorizer = begun(&mut connection, id(4), Role::Authorizer, true);
    let aborted = begun(&mut connection, id(5), Role::Responder, true);
    let params: Vec<u8> = (2..=4).flat_map(|number| record(Params, number, b"")).collect();
    feed(&mut connection, &params);
    feed(&mut connection, &record(Stdin, 3, b""));
    feed(&mut connection, &record(RecordType::AbortRequest, 5, b""));
    assert!(connection.incomplete().eq([in_params, in_stdin, in_data]));
    // FastCGI 3.3: a broken frame; what was complete can still be answered.
    assert_eq!(broken(&mut connection, &[0; 8]), ErrorKind::Version(0));
    assert!(connection.incomplete().eq([in_params, in_stdin, in_data]));
    assert!(!connection.wants_close());
    let mut out = Vec::new();
    for key in [in_params, in_stdin, in_data, authorizer, aborted] {
        connection.finish(key, 0, ProtocolStatus::RequestComplete, &mut out).unwrap();
    }
    assert!(connection.wants_close());
    assert_eq!(feed(&mut connection, &begin(ONE, Role::Responder, true)), (vec![], vec![]));
}

#[test]
fn framing_errors_end_the_connection() {
    let begin_with = |length: usize| record(RecordType::BeginRequest, 1, &vec![1; length]);
    for length in [0, 1, 7, 9, 65_535] {
        let kind = ErrorKind::BeginLength(length as u16);
        assert_eq!(broken(&mut connection(Limits::default()), &begin_with(length)), kind);
    }
    let mut twice = connection(Limits::default());
    begun(&mut twice, ONE, Role::Responder, true);
    assert_eq!(broken(&mut twice, &begin(ONE, Role::Responder, true)), ErrorKind::IdInUse);
    for version in [0, 2, 255] {
        let bytes = [version, 1, 0, 1, 0, 0, 0, 0];
        assert_eq!(broken(&mut connection(Limits::default()), &bytes), ErrorKind::Version(version));
    }
}

#[test]
fn ids_are_found_in_blocks_and_behind_them() {
    for length in [0, 1, 31, 32, 33, 64, 100] {
        let ids: Vec<u16> = (1..=length).collect();
        for id in 0..=length + 1 {
            let place = usize::from(id).checked_sub(1).filter(|place| *place < ids.len());
            assert_eq!(position(&ids, id), place, "{id} of {length}");
        }
    }
}

#[test]
fn ten_thousand_idle_connections_are_small() {
    assert!(size_of::<Connection<()>>() <= 128, "{}", size_of::<Connection<()>>());
    assert!(size_of::<Result<Option<Event<'_>>, Error>>() <= 40);
    let mut connection = connection(Limits::default());
    let request = begun(&mut connection, ONE, Role::Responder, true);
    connection.finish(request, 0, ProtocolStatus::RequestComplete, &mut Vec::new());
    assert_eq!((connection.requests.capacity(), connection.ids.capacity()), (1, 1));
}
