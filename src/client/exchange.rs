//! One request on its way: streams up, an answer down.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::{Outbox, Ticket};
use super::{Error, Head, HeadError, HeadParser};
use crate::proto::{ProtocolStatus, RecordType, RequestId, encoder};

/// A request that was begun: its params are on their way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exchange {
    /// The request body. A Responder and a Filter wait for its end; an Authorizer has none.
    pub stdin: Upload,
    /// The file of a Filter, which follows stdin.
    pub data: Upload,
    /// What comes back.
    pub answer: Answer,
}

impl Exchange {
    /// Sends `stdin` and its end while the answer comes, and gives that whole: at most `bytes_max` of it. An
    /// application may answer without having read all. What a Filter reads as data is to be sent before.
    pub async fn complete(self, stdin: &[u8], bytes_max: usize) -> Result<Complete, Error> {
        let Exchange { stdin: mut upload, data: _data, answer } = self;
        let send = async {
            upload.write(stdin).await?;
            upload.end().await
        };
        let (sent, complete) = tokio::join!(send, answer.complete(bytes_max));
        match (sent, complete) {
            (Err(error), Ok(_)) if !matches!(error, Error::Ended) => Err(error),
            (_, complete) => complete,
        }
    }
}

/// A stream to the application. It ends by [`Upload::end`] alone: dropping it leaves the request incomplete.
#[derive(Debug)]
pub struct Upload {
    outbox: Outbox,
    ticket: Ticket,
    record_type: RecordType,
    ended: bool,
}

/// Bytes that one step of [`Upload::write`] takes: a record of the usual read size of servers.
const UPLOAD_STEP_BYTES: usize = 32 << 10;

impl Upload {
    pub(super) fn new(outbox: Outbox, ticket: Ticket, record_type: RecordType) -> Upload {
        Upload { outbox, ticket, record_type, ended: false }
    }

    /// Sends `bytes`, waiting while the application takes no more. Fails with [`Error::Ended`] once the
    /// request is over: an application may answer without having read the body. Cancelled, it has sent whole
    /// records: some beginning of `bytes`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(!self.ended, "the stream has ended");
        for step in bytes.chunks(UPLOAD_STEP_BYTES) {
            let room = self.outbox.room(step.len()).await?;
            let mut records = Vec::with_capacity(step.len() + 16);
            encoder::stream(&mut records, self.record_type, self.ticket.id, step);
            self.outbox.send(self.ticket, records, Some(room))?;
        }
        Ok(())
    }

    /// Ends the stream; a second call does nothing. Fails as [`Upload::write`] does.
    pub async fn end(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let mut record = Vec::new();
        encoder::stream_end(&mut record, self.record_type, self.ticket.id);
        self.outbox.send(self.ticket, record, None)
    }
}

/// What comes back for one request. Dropping it before its end sends ABORT_REQUEST.
#[derive(Debug)]
pub struct Answer {
    outbox: Outbox,
    ticket: Ticket,
    parts: mpsc::Receiver<Part>,
    /// Parts that were read on the way to the head, and the body's beginning behind it.
    early: VecDeque<Part>,
    ended: bool,
}

/// A piece of an answer, in the order of arrival.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Bytes of the response: never empty.
    Stdout(Bytes),
    /// Bytes of error messages: never empty.
    Stderr(Bytes),
    /// The request is over: the last part.
    End(End),
}

/// How a request ended (FastCGI 5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct End {
    /// The application's exit code; 0 means well.
    pub app_status: u32,
    /// The protocol status as it was sent; it may be none of [`ProtocolStatus`]'s.
    pub protocol_status: u8,
}

impl End {
    /// Whether the application has served the request, whatever came out, and did not refuse it.
    pub fn is_complete(&self) -> bool {
        self.protocol_status == u8::from(ProtocolStatus::RequestComplete)
    }
}

/// `app status 0, REQUEST_COMPLETE`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "app status {}, ", self.app_status)?;
        match ProtocolStatus::try_from(self.protocol_status) {
            Ok(status) => write!(f, "{status}"),
            Err(number) => write!(f, "protocol status {number}"),
        }
    }
}

/// A whole answer in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Complete {
    /// Everything that came on stdout, the head included.
    pub stdout: Vec<u8>,
    /// Everything that came on stderr.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub end: End,
}

impl Answer {
    pub(super) fn new(outbox: Outbox, ticket: Ticket, parts: mpsc::Receiver<Part>) -> Answer {
        Answer { outbox, ticket, parts, early: VecDeque::new(), ended: false }
    }

    /// The request's id on its connection.
    pub fn id(&self) -> RequestId {
        self.ticket.id
    }

    /// The next part; `None` after [`Part::End`]. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        match self.early.pop_front() {
            Some(part) => Ok(Some(part)),
            None => self.receive().await,
        }
    }

    /// Reads stdout up to the end of the CGI response head. [`Answer::next`] goes on with what was on stderr
    /// meanwhile and then with the body. To be called first, and once.
    pub async fn head(&mut self) -> Result<Head, Error> {
        let mut parser = HeadParser::default();
        loop {
            match self.receive().await? {
                Some(Part::Stdout(bytes)) => {
                    if let Some((head, body)) = parser.push(&bytes)? {
                        if !body.is_empty() {
                            self.early.push_back(Part::Stdout(body));
                        }
                        return Ok(head);
                    }
                }
                Some(stderr @ Part::Stderr(_)) => self.early.push_back(stderr),
                Some(end @ Part::End(_)) => {
                    self.early.push_back(end);
                    return Err(parser.truncated().into());
                }
                None => return Err(HeadError::Truncated(0).into()),
            }
        }
    }

    /// Reads everything that is left into memory, at most `bytes_max` of it.
    pub async fn complete(mut self, bytes_max: usize) -> Result<Complete, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Some(Part::Stdout(bytes)) => stdout.extend_from_slice(&bytes),
                Some(Part::Stderr(bytes)) => stderr.extend_from_slice(&bytes),
                Some(Part::End(end)) => return Ok(Complete { stdout, stderr, end }),
                None => return Err(Error::Closed),
            }
            if stdout.len() + stderr.len() > bytes_max {
                return Err(Error::TooLong(bytes_max));
            }
        }
    }

    /// Sends ABORT_REQUEST (FastCGI 5.4). The application ends the request as soon as it can; until then
    /// parts that were on their way still come.
    pub fn abort(&self) -> Result<(), Error> {
        let mut record = Vec::new();
        encoder::abort_request(&mut record, self.ticket.id);
        self.outbox.send(self.ticket, record, None)
    }

    async fn receive(&mut self) -> Result<Option<Part>, Error> {
        if self.ended {
            return Ok(None);
        }
        let part = self.parts.recv().await;
        self.ended = matches!(part, None | Some(Part::End(_)));
        match part {
            Some(part) => Ok(Some(part)),
            None => Err(self.outbox.failure()),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            // The connection may be gone, and the request with it.
            let _ = self.abort();
        }
    }
}
