//! An application of the simplest kind on a `Connection`, fed with bytes in any pieces.
//!
//! It answers a request once its input is complete: an empty STDOUT and app status 0; app status 1 if the
//! request broke a rule. What was reported becomes lines, in which the pieces of a stream are joined: so two
//! plays of the same bytes must be equal whatever the pieces were. On the way it checks what holds for every
//! input.

use std::ops::Range;
use std::sync::Arc;

use ringway::proto::{
    Connection, Error, Event, Limits, Params, ProtocolStatus, RecordType, RequestKey, Role, Scope,
    WholeRequest, encoder,
};

/// What a play came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Play {
    /// One line per thing reported, and the state of the connection at the end.
    pub(crate) events: Vec<String>,
    /// What goes back to the peer.
    pub(crate) sent: Vec<u8>,
    /// The requests that were answered: role, params, stdin, data.
    pub(crate) requests: Vec<Served>,
}

/// A request that was served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) id: u16,
    pub(crate) role: Role,
    pub(crate) params: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// What the application keeps with a request.
#[derive(Debug, Default)]
struct Gathered {
    params: Vec<u8>,
    parsed: Params<Vec<u8>>,
    stdin: Vec<u8>,
    data: Vec<u8>,
    /// How far its events have come: the order of streams is checked with it.
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
enum Stage {
    #[default]
    Params,
    Stdin,
    Data,
    Complete,
}

/// Plays the pieces one after the other, up to the first error.
pub(crate) fn play<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Play {
    let mut connection = Connection::new(Arc::new(limits.clone()));
    let mut play = Play::default();
    let (mut received, mut replied) = (0, 0);
    for piece in pieces {
        let mut input = piece;
        loop {
            let before = (input.len(), play.sent.len());
            // Pieces that hold no whole request go the other way, so that every split compares the two.
            if let Some(whole) = connection.take_request(&mut input) {
                received += before.0 - input.len();
                play.whole(&mut connection, whole, piece.as_ptr_range(), limits);
                continue;
            }
            let outcome = connection.handle_input(&mut input, &mut play.sent);
            received += before.0 - input.len();
            replied += play.sent.len() - before.1;
            assert!(replied <= 2 * received + 64, "{replied} bytes of replies to {received} received");
            match outcome {
                Ok(Some(event)) => play.handle(&mut connection, event, piece.as_ptr_range(), limits),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.scope, Scope::Connection);
                    play.events.push(format!("broken {error}"));
                    assert_dead(&mut connection);
                    return play.end(&connection);
                }
            }
        }
        assert!(input.is_empty(), "input is always emptied");
        assert!(connection.active() <= usize::from(limits.requests_max));
    }
    if connection.mid_record() {
        play.events.push("mid_record".into());
    }
    play.end(&connection)
}

impl Play {
    fn whole(
        &mut self,
        connection: &mut Connection<Gathered>,
        whole: WholeRequest<'_>,
        input: Range<*const u8>,
        limits: &Limits,
    ) {
        let WholeRequest { request, id, keep_conn, params: bytes, is_complete } = whole;
        let role = Role::Responder;
        self.handle(connection, Event::Begun { request, id, role, keep_conn }, input.clone(), limits);
        let piece = bytes.as_ptr_range();
        assert!(!bytes.is_empty() && input.start <= piece.start && piece.end <= input.end);
        assert_eq!(connection.incomplete().any(|other| other == request), !is_complete);
        connection.get_mut(request).expect("it has just begun").params.extend_from_slice(bytes);
        self.handle(connection, Event::ParamsEnded { request }, input.clone(), limits);
        if is_complete && connection.id(request).is_some() {
            self.handle(connection, Event::StdinEnded { request }, input, limits);
        }
    }

    fn handle(
        &mut self,
        connection: &mut Connection<Gathered>,
        event: Event<'_>,
        input: Range<*const u8>,
        limits: &Limits,
    ) {
        match event {
            Event::Begun { request, id, role, keep_conn } => {
                assert_eq!((connection.id(request), connection.role(request)), (Some(id), Some(role)));
                self.events.push(format!("begun {id} {role}{}", if keep_conn { " keep_conn" } else { "" }));
            }
            Event::Params { request, bytes } => {
                let gathered = stream(connection, request, Stage::Params, bytes, input);
                gathered.params.extend_from_slice(bytes);
                assert!(gathered.params.len() <= limits.params_bytes_max as usize);
            }
            Event::Stdin { request, bytes } => {
                stream(connection, request, Stage::Stdin, bytes, input).stdin.extend_from_slice(bytes);
            }
            Event::Data { request, bytes } => {
                stream(connection, request, Stage::Data, bytes, input).data.extend_from_slice(bytes);
            }
            Event::ParamsEnded { request } => self.params_ended(connection, request, limits),
            Event::StdinEnded { request } => {
                let (id, role) = (connection.id(request).unwrap(), connection.role(request).unwrap());
                let gathered = advance(connection, request, Stage::Stdin);
                self.events.push(format!("stdin {id} {}", super::transcript::quoted(&gathered.stdin)));
                match role {
                    Role::Responder => self.serve(connection, request),
                    Role::Filter => {}
                    Role::Authorizer => panic!("an authorizer has no stdin"),
                }
            }
            Event::DataEnded { request } => {
                let id = connection.id(request).unwrap();
                assert_eq!(connection.role(request), Some(Role::Filter));
                let gathered = advance(connection, request, Stage::Data);
                self.events.push(format!("data {id} {}", super::transcript::quoted(&gathered.data)));
                self.serve(connection, request);
            }
            Event::Aborted { request } => {
                self.events.push(format!("aborted {}", connection.id(request).unwrap()));
                self.finish(connection, request, 0);
            }
            Event::Failed { request, error } => self.fail(connection, request, error),
            Event::Refused { id, status } => self.events.push(format!("refused {id} {status}")),
        }
    }

    fn params_ended(&mut self, connection: &mut Connection<Gathered>, request: RequestKey, limits: &Limits) {
        let (id, role) = (connection.id(request).unwrap(), connection.role(request).unwrap());
        let gathered = advance(connection, request, Stage::Params);
        match Params::parse(std::mem::take(&mut gathered.params), limits) {
            Ok(params) => {
                let pairs = super::transcript::render_pairs(params.iter());
                self.events.push(format!("params {id} {pairs}").trim_end().into());
                gathered.parsed = params;
                if role == Role::Authorizer {
                    gathered.stage = Stage::Complete;
                    self.serve(connection, request);
                }
            }
            Err((error, _)) => self.fail(connection, request, error.with_id(id.get())),
        }
    }

    fn serve(&mut self, connection: &mut Connection<Gathered>, request: RequestKey) {
        assert!(!connection.incomplete().any(|other| other == request));
        let (id, role) = (connection.id(request).unwrap(), connection.role(request).unwrap());
        encoder::stream_end(&mut self.sent, RecordType::Stdout, id);
        let gathered = self.finish(connection, request, 0);
        let params = gathered.parsed.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let Gathered { stdin, data, .. } = gathered;
        self.requests.push(Served { id: id.get(), role, params, stdin, data });
    }

    fn fail(&mut self, connection: &mut Connection<Gathered>, request: RequestKey, error: Error) {
        assert_eq!((error.scope, error.id), (Scope::Request, connection.id(request).map(|id| id.get())));
        self.events.push(format!("failed {error}"));
        encoder::stream_end(&mut self.sent, RecordType::Stdout, connection.id(request).unwrap());
        self.finish(connection, request, error.answer().expect("an answer").app_status);
    }

    fn finish(
        &mut self,
        connection: &mut Connection<Gathered>,
        request: RequestKey,
        app_status: u32,
    ) -> Gathered {
        let status = ProtocolStatus::RequestComplete;
        let gathered =
            connection.finish(request, app_status, status, &mut self.sent).expect("an active request");
        assert!(connection.finish(request, app_status, status, &mut self.sent).is_none(), "it ends once");
        gathered
    }

    fn end(mut self, connection: &Connection<Gathered>) -> Play {
        let incomplete = connection.incomplete().map(|request| connection.id(request).unwrap());
        let mut ids: Vec<u16> = incomplete.map(|id| id.get()).collect();
        ids.sort_unstable();
        assert_eq!(ids.len(), connection.active(), "whatever is complete was answered");
        self.events.extend(ids.iter().map(|id| format!("incomplete {id}")));
        if connection.wants_close() {
            self.events.push("close".into());
        }
        self
    }
}

/// The request of a stream piece, which must lie in the input, hold something and come in order.
fn stream<'c>(
    connection: &'c mut Connection<Gathered>,
    request: RequestKey,
    stage: Stage,
    bytes: &[u8],
    input: Range<*const u8>,
) -> &'c mut Gathered {
    let piece = bytes.as_ptr_range();
    assert!(!bytes.is_empty() && input.start <= piece.start && piece.end <= input.end);
    assert!(connection.incomplete().any(|other| other == request));
    let gathered = connection.get_mut(request).expect("an active request");
    assert_eq!(gathered.stage, stage);
    gathered
}

/// The request of an end of stream, which must be of the stream it is at.
fn advance(connection: &mut Connection<Gathered>, request: RequestKey, stage: Stage) -> &mut Gathered {
    let gathered = connection.get_mut(request).expect("an active request");
    assert_eq!(gathered.stage, stage);
    gathered.stage = match stage {
        Stage::Params => Stage::Stdin,
        Stage::Stdin => Stage::Data,
        Stage::Data | Stage::Complete => Stage::Complete,
    };
    gathered
}

/// After an error no byte means anything.
fn assert_dead(connection: &mut Connection<Gathered>) {
    let (mut input, mut reply) = (&b"\x01\x09\0\0\0\0\0\0"[..], Vec::new());
    assert_eq!(connection.handle_input(&mut input, &mut reply), Ok(None));
    assert!(input.is_empty() && reply.is_empty());
}
