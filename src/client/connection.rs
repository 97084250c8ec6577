//! One connection: a table of ids, a task that writes and a task that reads.
//!
//! Records leave through one queue, so that none is ever cut in two by a future that is dropped. Bodies wait
//! for room in it; what begins, ends and aborts requests does not.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Address, Answer, Direction, End, Error, Exchange, Part, Record, Request, Upload};
use crate::proto::wire::EndBody;
use crate::proto::{Decoder, Fragment, Limits, Params, RecordType, RequestId, encoder};

/// Sees every whole record in the order in which it leaves or arrives. Called from the connection's tasks.
pub type Tap = Arc<dyn Fn(&Record<'_>) + Send + Sync>;

/// Bytes of request bodies that wait to be written.
const OUTBOX_BYTES: usize = 256 << 10;
/// Parts of one answer that wait to be read, each of at most [`READ_BYTES`].
const ANSWER_PARTS: usize = 16;
/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// One connection to an application; cheap to clone. It closes when the last clone, [`Upload`] and [`Answer`]
/// of it are gone.
#[derive(Clone)]
pub struct Client {
    outbox: Outbox,
}

impl Client {
    /// Connects to an application. Needs a tokio runtime with I/O, and runs two tasks on it.
    pub async fn connect(address: &Address) -> Result<Client, Error> {
        Client::connect_tapped(address, None).await
    }

    /// As [`Client::connect`], showing every record to `tap`.
    pub async fn connect_tapped(address: &Address, tap: Option<Tap>) -> Result<Client, Error> {
        let stream = address
            .connect()
            .await
            .map_err(|source| Error::Connect { address: address.clone(), source: Arc::new(source) })?;
        Ok(Client::over(stream, tap))
    }

    /// A client over a connection that is there already.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static, tap: Option<Tap>) -> Client {
        let (read_half, write_half) = tokio::io::split(stream);
        let shared = Arc::new(Shared::default());
        let (messages, queued) = mpsc::unbounded_channel();
        let reader = Reader { shared: shared.clone(), tap: tap.clone(), content: Vec::new() };
        let reader = tokio::spawn(reader.run(read_half));
        tokio::spawn(async move {
            write_records(write_half, queued, tap).await;
            reader.abort();
        });
        let room = Arc::new(Semaphore::new(OUTBOX_BYTES));
        Client { outbox: Outbox { messages, room, shared } }
    }

    /// Begins a request: sends its BEGIN_REQUEST and params under the lowest free id.
    pub fn begin(&self, request: &Request) -> Result<Exchange, Error> {
        let (sender, parts) = mpsc::channel(ANSWER_PARTS);
        let ticket = self.outbox.shared.table()?.insert(sender, request.keeps())?;
        let mut records = Vec::new();
        request.encode(ticket.id, &mut records);
        self.outbox.send(ticket, records, None)?;
        let outbox = &self.outbox;
        Ok(Exchange {
            stdin: Upload::new(outbox.clone(), ticket, RecordType::Stdin),
            data: Upload::new(outbox.clone(), ticket, RecordType::Data),
            answer: Answer::new(outbox.clone(), ticket, parts),
        })
    }

    /// Asks for variables with FCGI_GET_VALUES (FastCGI 4.1) and gives those that the application answers.
    pub async fn get_values(&self, names: &[&str]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let (sender, answer) = oneshot::channel();
        let mut record = Vec::new();
        encoder::get_values(&mut record, names.iter().map(|name| name.as_bytes()));
        {
            // Queued under the lock: answers come in the order of the questions.
            let mut table = self.outbox.shared.table()?;
            table.questions.push_back(sender);
            self.outbox.queue(record, None)?;
        }
        answer.await.unwrap_or_else(|_| Err(self.outbox.failure()))
    }

    /// Whether the connection can take another request, as far as is known here.
    pub fn is_open(&self) -> bool {
        self.outbox.shared.table().is_ok_and(|table| !table.last_begun)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// The sending side of a connection.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    messages: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// Whole records, and the room that they take until they are written.
#[derive(Debug)]
struct Message {
    records: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    /// Waits for room for `bytes` of a body. Cancel safe.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let bytes = u32::try_from(bytes).expect("a step of an upload is short");
        self.room.clone().acquire_many_owned(bytes).await.map_err(|_| self.failure())
    }

    /// Sends records of a request that has not ended. Its id may belong to another one by now, which must not
    /// get them: checked and queued under the lock that a new owner of the id needs first.
    pub(super) fn send(
        &self,
        ticket: Ticket,
        records: Vec<u8>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Error> {
        let table = self.shared.table()?;
        match table.requests.get(&ticket.id) {
            Some(request) if request.serial == ticket.serial => self.queue(records, room),
            _ => Err(Error::Ended),
        }
    }

    fn queue(&self, records: Vec<u8>, room: Option<OwnedSemaphorePermit>) -> Result<(), Error> {
        self.messages.send(Message { records, _room: room }).map_err(|_| self.failure())
    }

    /// Why the connection takes or gives nothing more.
    pub(super) fn failure(&self) -> Error {
        self.shared.failure.get().cloned().unwrap_or(Error::Closed)
    }
}

/// What the handles and the reader share.
#[derive(Default, Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Set once, when nothing more will arrive.
    failure: OnceLock<Error>,
}

impl Shared {
    /// The table of a connection that still answers.
    fn table(&self) -> Result<MutexGuard<'_, Table>, Error> {
        let table = self.lock();
        // Looked at under the lock: the reader fails the connection and clears the table under it.
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(table),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it holds the table")
    }
}

/// The answer to FCGI_GET_VALUES.
type Variables = Result<Vec<(Bytes, Bytes)>, Error>;

/// A request's id, and which life of the id is meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) id: RequestId,
    serial: u64,
}

/// Who waits for what.
#[derive(Default, Debug)]
struct Table {
    /// Requests that have not ended, also those whose answer nobody reads any more: their id is not free.
    requests: HashMap<RequestId, Open>,
    /// Those who asked for variables, oldest first.
    questions: VecDeque<oneshot::Sender<Variables>>,
    /// A request without `keep_conn` was begun: it is the last.
    last_begun: bool,
    /// Requests begun so far.
    serial: u64,
}

/// A request that has not ended.
#[derive(Debug)]
struct Open {
    serial: u64,
    answer: mpsc::Sender<Part>,
}

impl Table {
    fn insert(&mut self, answer: mpsc::Sender<Part>, keep_conn: bool) -> Result<Ticket, Error> {
        if self.last_begun {
            return Err(Error::UsedUp);
        }
        // At most one more id than there are requests has to be looked at.
        let mut ids = (1..=u16::MAX).filter_map(RequestId::new);
        let id = ids.find(|id| !self.requests.contains_key(id)).ok_or(Error::NoFreeId)?;
        self.serial += 1;
        self.last_begun = !keep_conn;
        self.requests.insert(id, Open { serial: self.serial, answer });
        Ok(Ticket { id, serial: self.serial })
    }
}

/// Writes until the last handle is gone. When the peer takes nothing more, what is queued is thrown away: the
/// answer may still be on its way, and the reader says how it ends.
async fn write_records(
    mut socket: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<Message>,
    tap: Option<Tap>,
) {
    let mut broken = false;
    while let Some(Message { records, _room }) = queue.recv().await {
        if broken {
            continue;
        }
        if let Some(tap) = &tap {
            show_sent(&records, tap);
        }
        broken = socket.write_all(&records).await.is_err() || socket.flush().await.is_err();
    }
    // The peer may have closed first.
    let _ = socket.shutdown().await;
}

fn show_sent(mut records: &[u8], tap: &Tap) {
    let mut decoder = Decoder::new();
    // Our own records: whole, and of the version that there is.
    while let Ok(Some(Fragment { header, content, .. })) = decoder.take_fragment(&mut records) {
        tap(&Record { direction: Direction::Sent, header, content });
    }
}

/// Reads records and gives each to who waits for it.
struct Reader {
    shared: Arc<Shared>,
    tap: Option<Tap>,
    /// The current record's content so far, where it is wanted whole.
    content: Vec<u8>,
}

impl Reader {
    async fn run(mut self, mut socket: impl AsyncRead + Unpin) {
        let failure = self.read(&mut socket).await;
        let mut table = self.shared.lock();
        let failure = if table.last_begun && table.requests.is_empty() { Error::UsedUp } else { failure };
        self.shared.failure.set(failure).expect("only the reader fails a connection");
        // Whoever waits finds its sender gone, and the failure.
        table.requests.clear();
        table.questions.clear();
    }

    async fn read(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> Error {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            match socket.read_buf(&mut buffer).await {
                Ok(0) => return Error::Closed,
                Ok(_) => {}
                Err(error) => return Error::Io(Arc::new(error)),
            }
            let bytes = buffer.split().freeze();
            let mut input: &[u8] = &bytes;
            loop {
                match decoder.take_fragment(&mut input) {
                    Ok(Some(fragment)) => self.handle_fragment(&bytes, fragment).await,
                    Ok(None) => break,
                    Err(error) => return Error::Protocol(error),
                }
            }
        }
    }

    /// Streams are passed on piece by piece, other records once they are whole.
    async fn handle_fragment(&mut self, bytes: &Bytes, fragment: Fragment<'_>) {
        let Fragment { header, content, starts, ends } = fragment;
        let streams = matches!(header.record_type, RecordType::Stdout | RecordType::Stderr);
        let id = RequestId::new(header.request_id);
        if starts {
            self.content.clear();
        }
        if !streams || self.tap.is_some() {
            self.content.extend_from_slice(content);
        }
        if let Some(tap) = self.tap.as_ref().filter(|_| ends) {
            tap(&Record { direction: Direction::Received, header, content: &self.content });
        }
        match (header.record_type, id) {
            (RecordType::Stdout, Some(id)) if !content.is_empty() => {
                self.deliver(id, Part::Stdout(bytes.slice_ref(content))).await;
            }
            (RecordType::Stderr, Some(id)) if !content.is_empty() => {
                self.deliver(id, Part::Stderr(bytes.slice_ref(content))).await;
            }
            (RecordType::EndRequest, Some(id)) if ends => self.handle_end(id).await,
            (RecordType::GetValuesResult, None) if ends => self.answer_question(pairs_of(&self.content)),
            (RecordType::UnknownType, None) if ends => self.answer_question(Err(Error::UnknownType)),
            // Nothing else concerns a client (FastCGI 3.3: records for inactive ids are ignored).
            _ => {}
        }
    }

    async fn handle_end(&mut self, id: RequestId) {
        let Ok(body) = self.content.as_slice().try_into() else { return };
        let EndBody { app_status, protocol_status } = EndBody::from_bytes(body);
        // The id is free from here on.
        let request = self.shared.lock().requests.remove(&id);
        if let Some(request) = request {
            // Nobody may be reading any more.
            let _ = request.answer.send(Part::End(End { app_status, protocol_status })).await;
        }
    }

    /// Waits while the answer's window is full.
    async fn deliver(&self, id: RequestId, part: Part) {
        let answer = self.shared.lock().requests.get(&id).map(|request| request.answer.clone());
        if let Some(answer) = answer {
            // An answer that was dropped is aborted; what still comes of it goes nowhere.
            let _ = answer.send(part).await;
        }
    }

    fn answer_question(&self, answer: Variables) {
        let question = self.shared.lock().questions.pop_front();
        if let Some(question) = question {
            // Whoever asked may have given up.
            let _ = question.send(answer);
        }
    }
}

fn pairs_of(content: &[u8]) -> Variables {
    let params = Params::parse(content, &Limits::default()).map_err(|(error, _)| Error::Protocol(error))?;
    let copy = Bytes::copy_from_slice;
    Ok(params.iter().map(|(name, value)| (copy(name), copy(value))).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::DuplexStream;
    use tokio::time::timeout;

    use super::*;
    use crate::proto::{ErrorKind, Header, ProtocolStatus, RecordType::*};

    /// The other end, record by record.
    struct Application(DuplexStream);

    type Received = (RecordType, u16, Vec<u8>);

    impl Application {
        async fn record(&mut self) -> Received {
            let mut header = [0; 8];
            self.0.read_exact(&mut header).await.unwrap();
            let header = Header::from_bytes(header);
            let mut content = vec![0; header.content_length.into()];
            self.0.read_exact(&mut content).await.unwrap();
            self.0.read_exact(&mut vec![0; header.padding_length.into()]).await.unwrap();
            (header.record_type, header.request_id, content)
        }

        /// Reads up to and including the empty record of that type.
        async fn stream(&mut self, record_type: RecordType) -> Vec<u8> {
            let mut stream = Vec::new();
            loop {
                match self.record().await {
                    (found, _, content) if found == record_type && content.is_empty() => return stream,
                    (found, _, content) if found == record_type => stream.extend(content),
                    (BeginRequest | Params, ..) => {}
                    other => panic!("{other:?} in {record_type}"),
                }
            }
        }

        async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
            let mut out = Vec::new();
            write(&mut out);
            self.0.write_all(&out).await.unwrap();
        }

        async fn stdout(&mut self, id: u16, content: &str) {
            self.send(|out| encoder::stream(out, Stdout, RequestId::new(id).unwrap(), content.as_bytes()))
                .await;
        }

        async fn end(&mut self, id: u16) {
            let status = ProtocolStatus::RequestComplete;
            self.send(|out| encoder::end_request(out, RequestId::new(id).unwrap(), 0, status)).await;
        }
    }

    fn pair() -> (Client, Application) {
        pair_tapped(None)
    }

    fn pair_tapped(tap: Option<Tap>) -> (Client, Application) {
        let (near, far) = tokio::io::duplex(4096);
        (Client::over(near, tap), Application(far))
    }

    fn get(path: &str) -> Request {
        Request::new("GET", path)
    }

    fn stdout(text: &'static str) -> Option<Part> {
        Some(Part::Stdout(Bytes::from_static(text.as_bytes())))
    }

    const WELL: Option<Part> = Some(Part::End(End { app_status: 0, protocol_status: 0 }));

    #[tokio::test]
    async fn a_request_and_its_answer() {
        let (client, mut app) = pair();
        let mut exchange = client.begin(&get("/hello?x=1")).unwrap();
        exchange.stdin.write(b"body").await.unwrap();
        exchange.stdin.end().await.unwrap();

        assert_eq!(app.record().await, (BeginRequest, 1, vec![0, 1, 1, 0, 0, 0, 0, 0]));
        let params = crate::proto::Params::parse(app.stream(Params).await, &Limits::default()).unwrap();
        assert_eq!(params.get("QUERY_STRING"), Some(&b"x=1"[..]));
        assert_eq!(app.stream(Stdin).await, b"body");

        app.send(|out| encoder::stream(out, Stderr, RequestId::ONE, b"careful\n")).await;
        app.stdout(1, "Status: 201 Cre").await;
        app.stdout(1, "ated\r\n\r\nHel").await;
        app.stdout(1, "lo").await;
        app.send(|out| encoder::end_request(out, RequestId::ONE, 3, ProtocolStatus::RequestComplete)).await;

        let answer = &mut exchange.answer;
        let head = answer.head().await.unwrap();
        assert_eq!((head.status, head.reason.as_str()), (201, "Created"));
        assert_eq!(answer.next().await.unwrap(), Some(Part::Stderr("careful\n".into())));
        assert_eq!(answer.next().await.unwrap(), stdout("Hel"));
        assert_eq!(answer.next().await.unwrap(), stdout("lo"));
        assert_eq!(answer.next().await.unwrap(), Some(Part::End(End { app_status: 3, protocol_status: 0 })));
        assert_eq!(answer.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_answer_is_the_same_byte_by_byte() {
        let (client, mut app) = pair();
        let exchange = client.begin(&get("/")).unwrap();
        let mut out = Vec::new();
        encoder::stream(&mut out, Stdout, RequestId::ONE, b"A: b\n\nbody");
        encoder::stream_end(&mut out, Stdout, RequestId::ONE);
        encoder::end_request(&mut out, RequestId::ONE, 9, ProtocolStatus::RequestComplete);
        let reading = tokio::spawn(exchange.answer.complete(100));
        for byte in out {
            app.0.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let answer = reading.await.unwrap().unwrap();
        assert_eq!((answer.stdout.as_slice(), answer.end.app_status), (&b"A: b\n\nbody"[..], 9));
    }

    #[tokio::test]
    async fn requests_share_a_connection_and_ids_are_used_again() {
        let (client, mut app) = pair();
        let mut first = client.begin(&get("/1")).unwrap().answer;
        let mut second = client.begin(&get("/2")).unwrap().answer;
        assert_eq!((first.id().get(), second.id().get()), (1, 2));
        app.stdout(2, "two").await;
        app.stdout(1, "one").await;
        app.end(1).await;
        assert_eq!(first.next().await.unwrap(), stdout("one"));
        assert_eq!(first.next().await.unwrap(), WELL);
        assert_eq!(client.begin(&get("/3")).unwrap().answer.id().get(), 1);
        assert_eq!(second.next().await.unwrap(), stdout("two"));
    }

    #[tokio::test]
    async fn a_dropped_answer_is_aborted_and_its_id_is_taken_until_the_end() {
        let (client, mut app) = pair();
        drop(client.begin(&get("/")).unwrap());
        app.stream(Params).await;
        assert_eq!(app.record().await, (AbortRequest, 1, vec![]));
        let mut other = client.begin(&get("/")).unwrap().answer;
        assert_eq!(other.id().get(), 2);
        // More than its window: nobody reads it, and nobody else has to wait for that.
        for _ in 0..ANSWER_PARTS + 5 {
            app.stdout(1, "late").await;
        }
        app.end(1).await;
        app.stdout(2, "on time").await;
        assert_eq!(other.next().await.unwrap(), stdout("on time"));
        assert_eq!(client.begin(&get("/")).unwrap().answer.id().get(), 1);
    }

    #[tokio::test]
    async fn a_body_waits_for_the_application_and_arrives_whole() {
        let (client, mut app) = pair();
        let mut exchange = client.begin(&get("/")).unwrap();
        let body: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = body.clone();
        let mut sending = tokio::spawn(async move {
            exchange.stdin.write(&sent).await.unwrap();
            exchange.stdin.end().await.unwrap();
            exchange
        });
        assert!(timeout(Duration::from_millis(50), &mut sending).await.is_err(), "it does not wait");
        app.stream(Params).await;
        assert_eq!(app.stream(Stdin).await, body);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_comes_too_late_does_not_reach_the_next_request() {
        let (client, mut app) = pair();
        let mut early = client.begin(&get("/")).unwrap();
        app.stream(Params).await;
        app.end(1).await;
        assert_eq!(early.answer.next().await.unwrap(), WELL);
        let mut next = client.begin(&get("/")).unwrap();
        assert_eq!(next.answer.id().get(), 1);
        assert!(matches!(early.stdin.write(b"stale").await, Err(Error::Ended)));
        assert!(matches!(early.stdin.end().await, Err(Error::Ended)));
        drop(early);
        next.stdin.end().await.unwrap();
        app.stream(Params).await;
        assert_eq!(app.record().await, (Stdin, 1, vec![]));
    }

    #[tokio::test]
    async fn a_connection_that_closes_fails_every_request_on_it() {
        let (client, app) = pair();
        let mut answers =
            [client.begin(&get("/1")).unwrap().answer, client.begin(&get("/2")).unwrap().answer];
        drop(app);
        for answer in &mut answers {
            assert!(matches!(answer.next().await, Err(Error::Closed | Error::Io(_))));
        }
        assert!(client.begin(&get("/")).is_err() && !client.is_open());
        assert!(client.get_values(&["FCGI_MAX_CONNS"]).await.is_err());
    }

    #[tokio::test]
    async fn another_protocol_is_recognised() {
        let (client, mut app) = pair();
        let mut answer = client.begin(&get("/")).unwrap().answer;
        app.0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let error = answer.next().await.unwrap_err();
        let Error::Protocol(rule) = &error else { panic!("{error}") };
        assert_eq!(rule.kind, ErrorKind::Version(b'H'));
        assert!(error.remedy().unwrap().contains("HTTP server"));
    }

    #[tokio::test]
    async fn variables_are_asked_for_beside_requests() {
        let (client, mut app) = pair();
        let _answer = client.begin(&get("/")).unwrap().answer;
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.get_values(&["FCGI_MAX_REQS", "X"]).await }
        });
        app.stream(Params).await;
        assert_eq!(app.record().await.0, GetValues);
        app.send(|out| encoder::get_values_result(out, [(&b"FCGI_MAX_REQS"[..], &b"50"[..])])).await;
        assert_eq!(asking.await.unwrap().unwrap(), [("FCGI_MAX_REQS".into(), "50".into())]);
        let (asked, ()) = tokio::join!(client.get_values(&["Y"]), async {
            app.record().await;
            app.send(|out| encoder::unknown_type(out, GetValues)).await;
        });
        assert!(matches!(asked, Err(Error::UnknownType)));
    }

    #[tokio::test]
    async fn without_keep_conn_the_connection_takes_no_other_request() {
        let (client, mut app) = pair();
        let mut answer = client.begin(&get("/").keep_conn(false)).unwrap().answer;
        assert!(matches!(client.begin(&get("/")), Err(Error::UsedUp)));
        assert_eq!(app.record().await.2[2], 0);
        app.end(1).await;
        drop(app);
        assert_eq!(answer.next().await.unwrap(), WELL);
        assert!(matches!(client.begin(&get("/")), Err(Error::UsedUp)));
    }

    #[tokio::test]
    async fn the_connection_closes_with_its_last_handle() {
        let (client, mut app) = pair();
        let exchange = client.begin(&get("/")).unwrap();
        drop(client);
        app.stream(Params).await;
        app.end(1).await;
        drop(exchange);
        let mut rest = Vec::new();
        app.0.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty() || rest.len() == 8, "nothing, or the abort that came too late: {rest:?}");
    }

    #[tokio::test]
    async fn a_tap_sees_every_record_whole() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tap: Tap = Arc::new({
            let seen = seen.clone();
            move |record| seen.lock().unwrap().push(record.to_string())
        });
        let (client, mut app) = pair_tapped(Some(tap));
        let mut exchange = client.begin(&Request::bare(crate::proto::Role::Authorizer)).unwrap();
        exchange.stdin.end().await.unwrap();
        let mut out = Vec::new();
        encoder::stream(&mut out, Stdout, RequestId::ONE, b"\n");
        encoder::end_request(&mut out, RequestId::ONE, 0, ProtocolStatus::RequestComplete);
        for piece in out.chunks(3) {
            app.0.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        exchange.answer.head().await.unwrap();
        assert_eq!(exchange.answer.next().await.unwrap(), WELL);
        let expected = [
            "> BEGIN_REQUEST 1 authorizer keep_conn",
            "> PARAMS 1 end",
            "> STDIN 1 end",
            "< STDOUT 1 length=1 padding=7",
            "< END_REQUEST 1 app_status=0 REQUEST_COMPLETE",
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
