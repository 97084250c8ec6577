//! A web server's end of a FastCGI connection, as tests need one: blocking, over the encoder of `ringway::proto`, and
//! free to send anything at all.
//!
//! ```text
//!   Ask ─▶ Peer::ask ─▶ records ─▶ server ─▶ records ─▶ Peer::answer ─▶ Answer
//! ```
//!
//! What it reads it also judges: every record belongs to a request that was asked and has not ended, nothing follows
//! the end of a stream, padding is zero. So every test that uses it checks that each request ends exactly once.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringway::proto::params::encode_pair;
use ringway::proto::wire::{EndBody, HEADER_BYTES};
use ringway::proto::{Header, ProtocolStatus, RecordType, RequestId, Role, encoder};

/// Longer than anything takes here, on a machine that is busy with other things; what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: u16,
    pub(crate) role: Role,
    pub(crate) keep_conn: bool,
    pub(crate) params: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Ask {
    /// `GET` with the path in SCRIPT_NAME; a query may follow. Request 1 on a connection that is kept.
    pub(crate) fn get(uri: &str) -> Ask {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let ask = Ask {
            id: 1,
            role: Role::Responder,
            keep_conn: true,
            params: Vec::new(),
            stdin: Vec::new(),
            data: Vec::new(),
        };
        ask.param("REQUEST_METHOD", "GET").param("SCRIPT_NAME", path).param("QUERY_STRING", query)
    }

    /// `POST` with a body and its CONTENT_LENGTH.
    pub(crate) fn post(uri: &str, body: impl Into<Vec<u8>>) -> Ask {
        let body = body.into();
        let mut ask = Ask::get(uri).param("CONTENT_LENGTH", body.len().to_string());
        ask.params[0].1 = b"POST".to_vec();
        ask.stdin = body;
        ask
    }

    /// To an authorizer, which has no body.
    pub(crate) fn authorize(uri: &str) -> Ask {
        Ask { role: Role::Authorizer, ..Ask::get(uri) }
    }

    /// To a filter.
    pub(crate) fn filter(uri: &str, stdin: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Ask {
        let data = data.into();
        let ask = Ask::post(uri, stdin).param("FCGI_DATA_LENGTH", data.len().to_string());
        Ask { role: Role::Filter, data, ..ask }
    }

    pub(crate) fn id(self, id: u16) -> Ask {
        Ask { id, ..self }
    }

    /// The connection ends with this request.
    pub(crate) fn close(self) -> Ask {
        Ask { keep_conn: false, ..self }
    }

    /// Adds a pair, whatever is there already.
    pub(crate) fn param(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Ask {
        self.params.push((name.into(), value.into()));
        self
    }

    /// What nginx sends beside: about 27 pairs and 850 bytes in all.
    pub(crate) fn with_nginx_headers(mut self) -> Ask {
        for number in 0..24 {
            self = self.param(format!("HTTP_X_HEADER_{number}"), "some-value-0123");
        }
        self
    }

    fn request_id(&self) -> RequestId {
        RequestId::new(self.id).expect("an id that is not 0")
    }

    /// Everything up to the end of PARAMS.
    pub(crate) fn head(&self) -> Vec<u8> {
        let (mut out, id, mut pairs) = (Vec::new(), self.request_id(), Vec::new());
        encoder::begin_request(&mut out, id, self.role, self.keep_conn);
        for (name, value) in &self.params {
            encode_pair(&mut pairs, name, value);
        }
        encoder::stream(&mut out, RecordType::Params, id, &pairs);
        encoder::stream_end(&mut out, RecordType::Params, id);
        out
    }

    /// The whole request.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (mut out, id) = (self.head(), self.request_id());
        if self.role != Role::Authorizer {
            encoder::stream(&mut out, RecordType::Stdin, id, &self.stdin);
            encoder::stream_end(&mut out, RecordType::Stdin, id);
        }
        if self.role == Role::Filter {
            encoder::stream(&mut out, RecordType::Data, id, &self.data);
            encoder::stream_end(&mut out, RecordType::Data, id);
        }
        out
    }
}

/// What came for one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// The records with content, as they came.
    pub(crate) records: Vec<(RecordType, Vec<u8>)>,
    pub(crate) stdout_ended: bool,
    stderr_ended: bool,
    pub(crate) app_status: u32,
    /// `None`: END_REQUEST has not come.
    pub(crate) protocol_status: Option<ProtocolStatus>,
}

impl Answer {
    /// Whether it ended as a request does that was served, well or not.
    pub(crate) fn is_complete(&self) -> bool {
        let is_open = !self.stdout_ended || self.stderr_ended == self.stderr.is_empty();
        self.protocol_status == Some(ProtocolStatus::RequestComplete) && !is_open
    }

    /// The HTTP status; 200 where the head does not say.
    pub(crate) fn status(&self) -> u16 {
        let status = self.header("Status").map(|value| value[..3].parse().expect("a number"));
        status.unwrap_or_else(|| if self.header("Location").is_some() { 302 } else { 200 })
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let head = std::str::from_utf8(self.split().0).expect("a head of text");
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.split().1
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body()).expect("a body of text")
    }

    pub(crate) fn stderr_text(&self) -> &str {
        std::str::from_utf8(&self.stderr).expect("text on stderr")
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let end = self.stdout.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| {
            panic!("no head: {}", &self.stdout[..self.stdout.len().min(99)].escape_ascii())
        });
        (&self.stdout[..end + 2], &self.stdout[end + 4..])
    }
}

/// One record as it was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) record_type: RecordType,
    pub(crate) id: u16,
    pub(crate) content: Vec<u8>,
}

/// The bytes of a record that the encoder would not write: any type, any id, any padding.
pub(crate) fn raw_record(record_type: u8, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let header = Header {
        version: 1,
        record_type: record_type.into(),
        request_id: id,
        content_length: u16::try_from(content.len()).expect("content of one record"),
        padding_length: padding,
    };
    [&header.to_bytes()[..], content, &vec![0xAA; padding.into()]].concat()
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// The far side of one connection. Dropping it closes the connection.
pub(crate) struct Peer {
    socket: Socket,
    /// Received, not taken yet.
    unread: Vec<u8>,
    /// Of the requests that were asked and have not been fetched with `answer`.
    answers: HashMap<u16, Answer>,
}

impl Peer {
    /// Connects to an address as `Handle::addresses` gives it.
    pub(crate) fn connect(address: &str) -> Peer {
        Peer::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: &str) -> io::Result<Peer> {
        Peer::on(match address.strip_prefix("unix:") {
            Some(path) => Socket::Unix(UnixStream::connect(path)?),
            None => Socket::Tcp(TcpStream::connect(address)?),
        })
    }

    /// A connection that is there already.
    #[allow(dead_code)] // not every test that has peers
    pub(crate) fn over(stream: UnixStream) -> Peer {
        Peer::on(Socket::Unix(stream)).expect("an open socket")
    }

    fn on(socket: Socket) -> io::Result<Peer> {
        let mut peer = Peer { socket, unread: Vec::new(), answers: HashMap::new() };
        if let Socket::Tcp(stream) = &peer.socket {
            stream.set_nodelay(true)?;
        }
        peer.limit_reads(PATIENCE);
        match &peer.socket {
            Socket::Unix(stream) => stream.set_write_timeout(Some(PATIENCE))?,
            Socket::Tcp(stream) => stream.set_write_timeout(Some(PATIENCE))?,
        }
        Ok(peer)
    }

    /// Sends bytes, whatever they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Unix(stream) => stream.write_all(bytes),
            Socket::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// Sends as much as there is room for without waiting; returns how much that was.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> usize {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        match rustix::net::send(self.as_fd(), bytes, flags) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(errno) => panic!("send: {errno}"),
        }
    }

    /// Another handle on the connection, to send from another thread.
    pub(crate) fn sender(&self) -> Box<dyn Write + Send> {
        match &self.socket {
            Socket::Unix(stream) => Box::new(stream.try_clone().expect("a descriptor")),
            Socket::Tcp(stream) => Box::new(stream.try_clone().expect("a descriptor")),
        }
    }

    /// Sends a whole request.
    pub(crate) fn ask(&mut self, ask: &Ask) {
        self.expect(ask.id);
        self.send(&ask.bytes());
    }

    /// Sends a request up to the end of its PARAMS; what follows is the caller's.
    pub(crate) fn ask_head(&mut self, ask: &Ask) {
        self.expect(ask.id);
        self.send(&ask.head());
    }

    /// Records for this id may come from now on: its BEGIN_REQUEST is about to be sent.
    pub(crate) fn expect(&mut self, id: u16) {
        assert!(self.answers.insert(id, Answer::default()).is_none(), "id {id} is in use");
    }

    pub(crate) fn stdin(&mut self, id: u16, content: &[u8]) {
        self.stream(RecordType::Stdin, id, content);
    }

    pub(crate) fn stdin_end(&mut self, id: u16) {
        self.stream_end(RecordType::Stdin, id);
    }

    pub(crate) fn stream(&mut self, record_type: RecordType, id: u16, content: &[u8]) {
        let mut out = Vec::new();
        encoder::stream(&mut out, record_type, RequestId::new(id).expect("not 0"), content);
        self.send(&out);
    }

    pub(crate) fn stream_end(&mut self, record_type: RecordType, id: u16) {
        self.send(&raw_record(record_type.into(), id, b"", 0));
    }

    pub(crate) fn abort(&mut self, id: u16) {
        let mut out = Vec::new();
        encoder::abort_request(&mut out, RequestId::new(id).expect("not 0"));
        self.send(&out);
    }

    /// Shuts down writing: a half-closed peer.
    pub(crate) fn shut_down(&mut self) {
        let result = match &self.socket {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
        };
        result.expect("the connection is there");
    }

    /// Asks and waits for the answer.
    pub(crate) fn fetch(&mut self, ask: &Ask) -> Answer {
        self.ask(ask);
        self.answer(ask.id)
    }

    /// `fetch` of a `GET` as request 1.
    pub(crate) fn get(&mut self, uri: &str) -> Answer {
        self.fetch(&Ask::get(uri))
    }

    /// Waits until the request has ended.
    pub(crate) fn answer(&mut self, id: u16) -> Answer {
        assert!(self.answers.contains_key(&id), "request {id} was not asked");
        while self.answers[&id].protocol_status.is_none() {
            if !self.read_record() {
                panic!("the connection ended within request {id}: {:?}", self.answers[&id]);
            }
        }
        self.answers.remove(&id).expect("it was there")
    }

    /// What has come so far of a request that has not ended.
    pub(crate) fn so_far(&self, id: u16) -> &Answer {
        &self.answers[&id]
    }

    /// Reads until the request has this much STDOUT.
    pub(crate) fn read_stdout(&mut self, id: u16, length: usize) {
        while self.answers[&id].stdout.len() < length {
            assert!(self.read_record(), "the connection ended within request {id}");
        }
    }

    /// Reads until the server ends the connection; what came of `id` by then. A reset is no end.
    pub(crate) fn rest(&mut self, id: u16) -> Answer {
        while self.read_record() {}
        self.answers.remove(&id).expect("it was asked")
    }

    /// Reads until the server ends the connection in any way; whether the request was answered by then.
    pub(crate) fn is_answered(&mut self, id: u16) -> bool {
        while let Ok(1..) = self.read_some() {}
        while let Some(record) = self.take_record() {
            self.judge(record);
        }
        self.answers.remove(&id).is_some_and(|answer| answer.is_complete())
    }

    /// Reads until the server ends the connection in order.
    pub(crate) fn expect_end(&mut self) {
        while self.read_record() {}
    }

    /// Reads until the server ends the connection in any way.
    pub(crate) fn expect_close(&mut self) {
        let began = Instant::now();
        loop {
            match self.read_some() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection was not closed: {error}"),
            }
            assert!(began.elapsed() < PATIENCE, "the connection was not closed");
        }
    }

    /// Whether nothing arrives for this long.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.limit_reads(time);
        let result = self.read_some();
        self.limit_reads(PATIENCE);
        match result {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// The next record as it is: for management records, and where the order across requests matters.
    pub(crate) fn record(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.take_record() {
                return Some(record);
            }
            match self.read_some() {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "the connection ended within a record");
                    return None;
                }
                Ok(_) => {}
                Err(error) => panic!("no record came: {error}"),
            }
        }
    }

    /// A record that is there, without waiting for one.
    pub(crate) fn waiting_record(&mut self) -> Option<Record> {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let mut block = [0; 16 * 1024];
        if let Ok((count, _)) = rustix::net::recv(self.as_fd(), &mut block, flags) {
            self.unread.extend_from_slice(&block[..count]);
        }
        self.take_record()
    }

    /// One read of the socket, not a byte more; the bytes that it gave.
    pub(crate) fn read_once(&mut self) -> Vec<u8> {
        assert!(self.unread.is_empty());
        assert_ne!(self.read_some().expect("bytes come"), 0, "the connection ended");
        std::mem::take(&mut self.unread)
    }

    /// Takes bytes from [`Peer::read_once`] in again, to be judged.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    fn limit_reads(&mut self, time: Duration) {
        let result = match &self.socket {
            Socket::Unix(stream) => stream.set_read_timeout(Some(time)),
            Socket::Tcp(stream) => stream.set_read_timeout(Some(time)),
        };
        result.expect("a time that is not 0");
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut block = [0; 64 * 1024];
        let count = loop {
            let result = match &mut self.socket {
                Socket::Unix(stream) => stream.read(&mut block),
                Socket::Tcp(stream) => stream.read(&mut block),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.unread.extend_from_slice(&block[..count]);
        Ok(count)
    }

    fn take_record(&mut self) -> Option<Record> {
        let header = Header::from_bytes(*self.unread.first_chunk()?);
        assert_eq!(header.version, 1);
        let content_end = HEADER_BYTES + usize::from(header.content_length);
        let end = content_end + usize::from(header.padding_length);
        if self.unread.len() < end {
            return None;
        }
        assert!(self.unread[content_end..end].iter().all(|byte| *byte == 0), "padding leaks memory");
        assert_eq!(end % 8, 0, "records are aligned");
        let content = self.unread[HEADER_BYTES..content_end].to_vec();
        self.unread.drain(..end);
        Some(Record { record_type: header.record_type, id: header.request_id, content })
    }

    /// Reads a record into its request's answer; false at the end of the connection.
    fn read_record(&mut self) -> bool {
        let Some(record) = self.record() else { return false };
        self.judge(record);
        true
    }

    fn judge(&mut self, Record { record_type, id, content }: Record) {
        if (record_type, id, content.is_empty()) == (RecordType::GetValuesResult, 0, true) {
            // Nobody asked: it tells that an answer has broken off.
            return;
        }
        let answer = self.answers.get_mut(&id).filter(|answer| answer.protocol_status.is_none());
        let answer =
            answer.unwrap_or_else(|| panic!("{record_type:?} for id {id}, which has ended or never began"));
        match record_type {
            RecordType::Stdout if content.is_empty() => {
                assert!(!answer.stdout_ended, "STDOUT ended twice");
                answer.stdout_ended = true;
            }
            RecordType::Stdout => {
                assert!(!answer.stdout_ended, "STDOUT after its end");
                answer.stdout.extend_from_slice(&content);
                answer.records.push((record_type, content));
            }
            RecordType::Stderr if content.is_empty() => {
                assert!(!answer.stderr_ended, "STDERR ended twice");
                answer.stderr_ended = true;
            }
            RecordType::Stderr => {
                assert!(!answer.stderr_ended, "STDERR after its end");
                answer.stderr.extend_from_slice(&content);
                answer.records.push((record_type, content));
            }
            RecordType::EndRequest => {
                let body = EndBody::from_bytes(content[..].try_into().expect("8 bytes"));
                answer.app_status = body.app_status;
                let status =
                    ProtocolStatus::try_from(body.protocol_status).expect("a status that is defined");
                answer.protocol_status = Some(status);
            }
            other => panic!("an application does not send {other:?} for a request"),
        }
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}
