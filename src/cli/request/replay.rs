//! `ringway request --from-capture`: sends again what a web server once sent, byte for byte.
//!
//! A request id that is used again waits until the application has ended the request before it, as the web
//! server did. Where a request of the capture is incomplete, or what follows is no record, the sending side is
//! shut down behind the last byte.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::client::{Address, Direction, Error, Record, Tap};
use ringway::proto::wire::{BeginBody, EndBody};
use ringway::proto::{Header, ProtocolStatus, RecordType, Role};
use socket2::Socket;

use super::{Failure, explain};
use crate::cli::records::{Piece, Records};
use crate::cli::socket;

/// Sends the capture and prints what comes back; every record goes to `tap`.
pub(super) fn replay(
    address: &Address,
    file: &Path,
    timeout: Duration,
    tap: Option<Tap>,
) -> Result<(), Failure> {
    let unreadable = |error| Failure::usage(format!("{}: {error}", file.display()));
    let mut records = Records::new(File::open(file).map_err(unreadable)?);
    let connection = socket::connect(address, timeout)
        .map_err(|source| explain(Error::Connect { address: address.clone(), source: Arc::new(source) }))?;
    let (ended, endings) = mpsc::channel();
    let answers = connection.try_clone().map_err(Failure::running)?;
    let problem = Arc::new(Mutex::new(None));
    let reader = std::thread::spawn({
        let (tap, problem) = (tap.clone(), problem.clone());
        move || {
            let result = receive(answers, tap, &ended);
            *problem.lock().expect("no holder panics") = result.err();
        }
    });
    let mut sender = Sending { connection, timeout, endings, open: HashMap::new(), tap };
    let is_whole = loop {
        match records.next().map_err(unreadable)? {
            Piece::Record { header, content, bytes, .. } => sender.send(header, content, bytes)?,
            Piece::Cut { bytes, .. } | Piece::Strange { bytes, .. } => {
                sender.write(bytes)?;
                // What is strange may be long.
                break false;
            }
            Piece::End => break sender.open.values().all(|request| request.is_complete),
        }
    };
    if !is_whole {
        // The application may have closed already.
        let _ = sender.connection.shutdown(Shutdown::Write);
    }
    let outcome = sender.wait_until(|open| open.is_empty());
    // Ends the reader, which may wait for more.
    let _ = sender.connection.shutdown(Shutdown::Both);
    reader.join().expect("the reader does not panic");
    let problem = problem.lock().expect("no holder panics").take();
    match (outcome, problem) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(problem)) => Err(problem),
        (Err(failure), None) => Err(failure),
    }
}

/// A request that was sent and has not ended.
struct Open {
    role: Option<Role>,
    is_complete: bool,
}

struct Sending {
    connection: Socket,
    timeout: Duration,
    /// The ids whose requests have ended; 0 for the answer to a management record.
    endings: Receiver<u16>,
    open: HashMap<u16, Open>,
    tap: Option<Tap>,
}

impl Sending {
    fn send(&mut self, header: Header, content: &[u8], bytes: &[u8]) -> Result<(), Failure> {
        let Header { record_type, request_id, .. } = header;
        match record_type {
            RecordType::BeginRequest => {
                self.wait_until(|open| open.get(&request_id).is_none_or(|request| !request.is_complete))?;
                let role = content.try_into().ok().map(|body| BeginBody::from_bytes(body).role);
                let role = role.and_then(|role| Role::try_from(role).ok());
                self.open.insert(request_id, Open { role, is_complete: false });
            }
            RecordType::GetValues => {
                self.wait_until(|open| !open.contains_key(&0))?;
                self.open.insert(0, Open { role: None, is_complete: true });
            }
            RecordType::Params | RecordType::Stdin | RecordType::Data if content.is_empty() => {
                if let Some(request) = self.open.get_mut(&request_id) {
                    request.is_complete |= record_type == last_stream(request.role);
                }
            }
            _ => {}
        }
        if let Some(tap) = &self.tap {
            tap(&Record { direction: Direction::Sent, header, content });
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.connection.write_all(bytes) {
            Err(error) if socket::is_timeout(&error) => Err(timed_out(self.timeout)),
            // What came before the end says why.
            Err(_) => self.wait_until(|open| open.is_empty()),
            Ok(()) => Ok(()),
        }
    }

    fn wait_until(&mut self, is_met: impl Fn(&HashMap<u16, Open>) -> bool) -> Result<(), Failure> {
        while !is_met(&self.open) {
            match self.endings.recv_timeout(self.timeout) {
                Ok(id) => drop(self.open.remove(&id)),
                Err(RecvTimeoutError::Timeout) => return Err(timed_out(self.timeout)),
                Err(RecvTimeoutError::Disconnected) => return Err(explain(Error::Closed)),
            }
        }
        Ok(())
    }
}

/// The stream whose end completes a request (FastCGI 6.2 to 6.4).
fn last_stream(role: Option<Role>) -> RecordType {
    match role {
        Some(Role::Authorizer) => RecordType::Params,
        Some(Role::Filter) => RecordType::Data,
        Some(Role::Responder) | None => RecordType::Stdin,
    }
}

fn timed_out(timeout: Duration) -> Failure {
    Failure::running(format!("no complete answer within {timeout:?} (--timeout)"))
}

/// Prints answers until the application closes.
fn receive(answers: Socket, tap: Option<Tap>, ended: &Sender<u16>) -> Result<(), Failure> {
    let mut records = Records::new(answers);
    loop {
        let (header, content) = match records.next() {
            Ok(Piece::Record { header, content, .. }) => (header, content),
            Ok(Piece::Strange { bytes, .. }) => return Err(strange(bytes)),
            Ok(Piece::End | Piece::Cut { .. }) => return Ok(()),
            // The sending side keeps the time.
            Err(error) if socket::is_timeout(&error) => return Ok(()),
            Err(error) => return Err(explain(Error::Io(Arc::new(error)))),
        };
        if let Some(tap) = &tap {
            tap(&Record { direction: Direction::Received, header, content });
        }
        let printed = match header.record_type {
            RecordType::Stdout => io::stdout().write_all(content).and_then(|()| io::stdout().flush()),
            RecordType::Stderr => io::stderr().write_all(content),
            RecordType::EndRequest => {
                show_end(header, content);
                // The sending side may have given up.
                let _ = ended.send(header.request_id);
                Ok(())
            }
            RecordType::GetValuesResult | RecordType::UnknownType => {
                let _ = ended.send(0);
                Ok(())
            }
            _ => Ok(()),
        };
        printed.map_err(|error| Failure::running(format!("stdout: {error}")))?;
    }
}

fn show_end(header: Header, content: &[u8]) {
    let Ok(body) = content.try_into() else { return };
    let EndBody { app_status, protocol_status } = EndBody::from_bytes(body);
    let status = match ProtocolStatus::try_from(protocol_status) {
        Ok(status) => status.to_string(),
        Err(number) => format!("protocol status {number}"),
    };
    eprintln!("-- request {}: app status {app_status}, {status}", header.request_id);
}

fn strange(bytes: &[u8]) -> Failure {
    let kind = ringway::proto::ErrorKind::Version(bytes.first().copied().unwrap_or_default());
    let scope = ringway::proto::Scope::Connection;
    explain(Error::Protocol(ringway::proto::Error { kind, scope, id: None }))
}
