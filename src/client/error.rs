//! What can go wrong between a client and an application.

use std::io;
use std::sync::Arc;

use super::{Address, HeadError};
use crate::proto;

/// Why an answer did not come, or not all of it.
///
/// An answer that did come is no error, whatever its statuses: see [`End`](super::End).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no address.
    #[error("address {address:?}: {reason}")]
    Address {
        /// As it was written.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing could be reached there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
    /// The application closed the connection before it ended the request.
    #[error("the application closed the connection before the answer was complete")]
    Closed,
    /// The connection has ended in good order, after a request without `keep_conn`; it takes no further one.
    #[error("the connection is used up: its request did not ask to keep it")]
    UsedUp,
    /// The request has ended; nothing more can be sent for it.
    #[error("the request has ended already")]
    Ended,
    /// What came back is not FastCGI.
    #[error("the answer is not FastCGI: {0}")]
    Protocol(proto::Error),
    /// The application does not know the management record that it was asked with.
    #[error("the application does not know this management record (FCGI_UNKNOWN_TYPE)")]
    UnknownType,
    /// All 65,535 ids of this connection are in use.
    #[error("no request id is free on this connection")]
    NoFreeId,
    /// What the application wrote is not the head of a CGI response.
    #[error("the response head is wrong: {0}")]
    Head(#[from] HeadError),
    /// A whole answer was asked for and it is longer than the caller allowed.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl Error {
    /// What to do about it, in a sentence, where there is something to say.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Error::Connect { source, address } => connect_remedy(source, address),
            Error::Protocol(error) => match error.kind {
                proto::ErrorKind::Version(b'H') => {
                    Some("an HTTP server listens at this address; give the one where FastCGI is spoken")
                }
                _ => Some("something other than a FastCGI application listens at this address"),
            },
            Error::Closed | Error::Io(_) => Some(
                "look into the application's log; a server of another protocol (HTTP, uwsgi) closes like \
                 this too",
            ),
            Error::Head(_) => {
                Some("the application writes `Name: value` lines and an empty line before the body")
            }
            _ => None,
        }
    }
}

fn connect_remedy(source: &io::Error, address: &Address) -> Option<&'static str> {
    let tcp = matches!(address, Address::Tcp(_));
    Some(match source.kind() {
        io::ErrorKind::NotFound => "start the application, or correct the socket's path",
        io::ErrorKind::ConnectionRefused if tcp => "nobody listens on this port: start the application",
        io::ErrorKind::ConnectionRefused => {
            "the socket is stale or the path is no socket: start the application, which replaces a stale one"
        }
        io::ErrorKind::PermissionDenied => {
            "connecting takes write permission on the socket and search permission on each directory above it"
        }
        io::ErrorKind::WouldBlock => "the application's backlog is full: it accepts too slowly or hangs",
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => "a firewall or the route is in the way",
        _ => return None,
    })
}
