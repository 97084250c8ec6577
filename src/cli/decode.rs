//! `ringway decode`: a capture, or a stream from a socket tap, as records, and where it breaks the protocol.
//!
//! The stream is what passed on one connection: what the web server sent, what the application sent, or both in
//! the order in which they passed. A complaint stands below its record, behind `!!`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches};
use ringway::client::{Direction, HeadParser, Record};
use ringway::proto::wire::{BODY_BYTES, BeginBody, EndBody};
use ringway::proto::{Error, ErrorKind, Header, Limits, Params, ProtocolStatus, RecordType, Role};

use super::records::{Piece, Records, Transcript, direction_of};
use super::{Command, Failure};

pub(super) const COMMAND: Command = Command {
    name: "decode",
    about: "Prints a captured FastCGI stream as records, and says where it breaks the protocol",
    arguments: Options::augment_args,
    run,
};

/// The most bytes of PARAMS or of a response head that are looked into, for each request.
const INSPECTED_BYTES_MAX: usize = 1 << 20;
/// Bytes that are shown of what is no record.
const EXCERPT_BYTES: usize = 80;

#[derive(Args)]
struct Options {
    /// File with the bytes of one connection; - reads standard input, and prints records as they come
    file: PathBuf,
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Options { file } = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    let unreadable = |error: io::Error| Failure::usage(format!("{}: {error}", file.display()));
    let source: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(File::open(&file).map_err(unreadable)?),
    };
    let (mut records, mut transcript, mut checker) =
        (Records::new(source), Transcript::default(), Checker::default());
    let mut out = io::stdout().lock();
    let (mut count, mut complaints) = (0_u64, 0_u64);
    loop {
        let (text, found, is_last) = match records.next().map_err(unreadable)? {
            Piece::Record { offset, header, content, .. } => {
                count += 1;
                let record = Record { direction: direction_of(header.record_type), header, content };
                (
                    format!("{offset:>8} {}", transcript.text(&record, "             ")),
                    checker.check(&record),
                    false,
                )
            }
            Piece::Cut { offset, bytes, missing } => (
                format!("{offset:>8} {}\n", excerpt(bytes)),
                vec![format!("the stream ends {missing} bytes before the end of this record or its header")],
                true,
            ),
            Piece::Strange { offset, bytes } => {
                let text = format!("{offset:>8} {}\n", excerpt(bytes));
                (text, vec![format!("{}; nothing from here on can be decoded", strange(bytes))], true)
            }
            Piece::End => (String::new(), checker.finish(), true),
        };
        complaints += found.len() as u64;
        let found: String = found.iter().map(|complaint| format!("      !! {complaint}\n")).collect();
        out.write_all((text + &found).as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::running(format!("stdout: {error}")))?;
        if is_last {
            break;
        }
    }
    match complaints {
        0 => {
            eprintln!("-- {count} records, nothing wrong");
            Ok(())
        }
        _ => Err(Failure::running(format!(
            "{complaints} complaints in {count} records, in the lines marked !!"
        ))),
    }
}

fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(EXCERPT_BYTES)].escape_ascii().to_string()
}

/// What bytes are that begin with no record.
fn strange(bytes: &[u8]) -> String {
    let rule = ErrorKind::Version(bytes.first().copied().unwrap_or_default());
    match bytes {
        [b'H', b'T', b'T', b'P', ..] => format!("{rule}: an HTTP server answers here"),
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] => {
            format!("{rule}: an HTTP client, so the web server proxies by HTTP instead of FastCGI")
        }
        [0, low, high, 0, ..] if usize::from(*low) + usize::from(*high) > 0 => {
            format!("{rule}: perhaps uwsgi, whose first bytes look like this")
        }
        _ => rule.to_string(),
    }
}

/// Keeps account of the requests of one connection, and finds what breaks the rules.
#[derive(Default)]
struct Checker {
    requests: BTreeMap<u16, Request>,
    /// Whether the web server's, and the application's records pass here.
    has_sent: bool,
    has_received: bool,
}

/// What has passed of a request.
#[derive(Default)]
struct Request {
    role: Option<Role>,
    params: Vec<u8>,
    /// Types of streams that have ended.
    ended: Vec<RecordType>,
    head: HeadParser,
    has_head: bool,
    /// A head that is wrong is complained about once.
    head_is_wrong: bool,
    is_aborted: bool,
    is_over: bool,
}

impl Request {
    fn has_ended(&self, stream: RecordType) -> bool {
        self.ended.contains(&stream)
    }

    /// Everything has come that its role waits for (FastCGI 6.2 to 6.4).
    fn is_complete(&self) -> bool {
        let last = match self.role {
            Some(Role::Authorizer) => RecordType::Params,
            Some(Role::Responder) | None => RecordType::Stdin,
            Some(Role::Filter) => RecordType::Data,
        };
        self.has_ended(last)
    }
}

impl Checker {
    fn check(&mut self, record: &Record<'_>) -> Vec<String> {
        let Header { record_type, request_id, .. } = record.header;
        match record.direction {
            Direction::Sent => self.has_sent = true,
            Direction::Received => self.has_received = true,
        }
        let is_management = matches!(
            record_type,
            RecordType::GetValues | RecordType::GetValuesResult | RecordType::UnknownType
        );
        match (record_type, request_id) {
            (RecordType::Unknown(number), _) => {
                vec![format!("type {number} is none of the specification's (FastCGI 8)")]
            }
            (_, 0) if !is_management => vec![ErrorKind::ManagementId(record_type).to_string()],
            (_, 1..) if is_management => {
                vec![format!("{record_type} with request id {request_id} instead of 0 (FastCGI 3.3)")]
            }
            (RecordType::GetValues | RecordType::GetValuesResult, _) => {
                let pairs = Params::parse(record.content, &limits());
                pairs.err().map(|(error, _)| error.to_string()).into_iter().collect()
            }
            (RecordType::UnknownType, _) => self.fixed(record),
            (RecordType::BeginRequest, _) => self.begin(record),
            _ => self.belongs(record),
        }
    }

    fn fixed(&self, record: &Record<'_>) -> Vec<String> {
        let Header { record_type, content_length, .. } = record.header;
        let text = format!(
            "{record_type} with {content_length} bytes of content instead of {BODY_BYTES} (FastCGI 8)"
        );
        if record.content.len() == BODY_BYTES { Vec::new() } else { vec![text] }
    }

    fn begin(&mut self, record: &Record<'_>) -> Vec<String> {
        let Header { request_id, content_length, .. } = record.header;
        let Ok(body) = record.content.try_into() else {
            return vec![ErrorKind::BeginLength(content_length).to_string()];
        };
        let mut found = Vec::new();
        if let Some(request) = self.requests.get(&request_id) {
            // Where the answers do not pass here, one whose input is complete may have ended.
            let may_be_over =
                request.is_over || !self.has_received && (request.is_complete() || request.is_aborted);
            if !may_be_over {
                found.push(ErrorKind::IdInUse.to_string());
            }
        }
        let BeginBody { role, flags } = BeginBody::from_bytes(body);
        let role = Role::try_from(role);
        if let Err(number) = role {
            found.push(format!("role {number} is none of the specification's: 1, 2 or 3 (FastCGI 5.1)"));
        }
        if flags > 1 {
            found.push(format!("flags {flags} have bits other than FCGI_KEEP_CONN (FastCGI 5.1)"));
        }
        self.requests.insert(request_id, Request { role: role.ok(), ..Request::default() });
        found
    }

    fn belongs(&mut self, record: &Record<'_>) -> Vec<String> {
        let Header { record_type, request_id, .. } = record.header;
        if !self.has_sent {
            // The application's half alone: its answers begin the requests.
            let is_over = self.requests.get(&request_id).is_none_or(|request| request.is_over);
            if is_over {
                self.requests.insert(request_id, Request::default());
            }
        }
        let Some(request) = self.requests.get_mut(&request_id) else {
            return vec![format!(
                "{record_type} for request {request_id}, which was not begun (FastCGI 3.3)"
            )];
        };
        if request.is_over && record.direction == Direction::Received {
            return vec![format!("{record_type} after END_REQUEST (FastCGI 3.3)")];
        }
        match record_type {
            RecordType::AbortRequest => {
                request.is_aborted = true;
                Vec::new()
            }
            RecordType::EndRequest => {
                request.is_over = true;
                end(request, record)
            }
            _ => stream(request, record),
        }
    }

    /// What is missing when the stream ends.
    fn finish(&mut self) -> Vec<String> {
        let unended = self.requests.iter().filter(|(_, request)| !request.is_over && !request.is_aborted);
        let mut found = Vec::new();
        for (id, request) in unended {
            if self.has_sent && !request.is_complete() {
                found.push(format!("the stream ends before the input of request {id} is complete"));
            } else if self.has_received {
                found.push(format!("the stream ends before request {id} has its END_REQUEST (FastCGI 5.5)"));
            }
        }
        found
    }
}

fn limits() -> Limits {
    Limits { params_bytes_max: u32::MAX, params_pairs_max: u32::MAX, ..Limits::default() }
}

fn end(request: &Request, record: &Record<'_>) -> Vec<String> {
    let Ok(body) = record.content.try_into() else {
        let length = record.content.len();
        return vec![format!("END_REQUEST with {length} bytes of content instead of 8 (FastCGI 5.5)")];
    };
    match ProtocolStatus::try_from(EndBody::from_bytes(body).protocol_status) {
        Ok(ProtocolStatus::RequestComplete)
            if !request.has_head && !request.head_is_wrong && !request.is_aborted =>
        {
            vec![format!("the response has no head: {} (RFC 3875, 6)", request.head.truncated())]
        }
        Ok(_) => Vec::new(),
        Err(number) => {
            vec![format!("protocol status {number} is none of the specification's: 0 to 3 (FastCGI 5.5)")]
        }
    }
}

fn stream(request: &mut Request, record: &Record<'_>) -> Vec<String> {
    let record_type = record.header.record_type;
    let mut found = Vec::new();
    if request.has_ended(record_type) {
        found.push(format!("{record_type} after the end of that stream (FastCGI 3.3)"));
        return found;
    }
    let ahead = match record_type {
        RecordType::Stdin => Some(RecordType::Params),
        RecordType::Data => Some(RecordType::Stdin),
        _ => None,
    };
    if ahead.is_some_and(|ahead| !request.has_ended(ahead)) {
        found.push(ErrorKind::StreamOrder(record_type).to_string());
    }
    let is_unwanted = match record_type {
        RecordType::Stdin => request.role == Some(Role::Authorizer),
        RecordType::Data => matches!(request.role, Some(Role::Responder | Role::Authorizer)),
        _ => false,
    };
    // An empty one does no harm, and lighttpd sends it.
    if is_unwanted && !record.content.is_empty() {
        found.push(format!("{record_type} to a role that has no such stream (FastCGI 6.2, 6.3)"));
    }
    if record.content.is_empty() {
        request.ended.push(record_type);
        if record_type == RecordType::Params {
            found.extend(wrong_params(request));
        }
        return found;
    }
    match record_type {
        RecordType::Params if request.params.len() < INSPECTED_BYTES_MAX => {
            request.params.extend_from_slice(record.content);
        }
        RecordType::Stdout if !request.has_head && !request.head_is_wrong => {
            match request.head.push(record.content) {
                Ok(head) => request.has_head = head.is_some(),
                Err(error) => {
                    request.head_is_wrong = true;
                    found.push(format!("the response head is wrong: {error} (RFC 3875, 6)"));
                }
            }
        }
        _ => {}
    }
    found
}

/// Complaints about the whole PARAMS stream.
fn wrong_params(request: &mut Request) -> Vec<String> {
    if request.params.len() >= INSPECTED_BYTES_MAX {
        return Vec::new();
    }
    let params = match Params::parse(std::mem::take(&mut request.params), &limits()) {
        Ok(params) => params,
        Err((Error { kind, .. }, _)) => return vec![kind.to_string()],
    };
    // An Authorizer has no page of its own.
    if request.role == Some(Role::Authorizer) {
        return Vec::new();
    }
    // Of what RFC 3875, 4.1 demands, that by which an application finds its page; HAProxy, for one, leaves
    // an empty QUERY_STRING out.
    let required = ["REQUEST_METHOD", "SCRIPT_NAME"];
    let missing = required.iter().filter(|name| params.get(name).is_none());
    let mut found: Vec<String> =
        missing.map(|name| format!("{name} is missing in PARAMS (RFC 3875, 4.1)")).collect();
    let has_path = ["PATH_INFO", "REQUEST_URI", "DOCUMENT_URI"].iter().any(|name| params.get(name).is_some());
    if !has_path {
        found
            .push("neither PATH_INFO nor REQUEST_URI in PARAMS: no application can tell the page".to_owned());
    }
    found
}
