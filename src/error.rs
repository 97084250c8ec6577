//! What [`run`](crate::Builder::run) and [`start`](crate::Builder::start) return to an embedder.

use crate::config;
use crate::engine::EngineError;
use crate::handler::MountError;
use crate::ring::{ListenError, Unavailable};

/// The server could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A mount is not a path prefix.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No handler was given: there would be nothing to serve.
    #[error("no handler: give the server at least one with responder(), authorizer() or filter()")]
    NoHandler,
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The driver that was asked for does not work on this host.
    #[error(transparent)]
    Driver(#[from] Unavailable),
    /// One of the descriptors 0, 1 and 2 is closed, and stays closed.
    #[error("a standard stream is closed, and /dev/null cannot be opened in its place: {0}")]
    StandardStreams(#[source] std::io::Error),
    /// The signals that end the server cannot be caught.
    #[error("cannot handle SIGTERM and SIGINT: {0}")]
    Signals(#[source] std::io::Error),
    /// A worker could not start, or failed while it ran.
    #[error("{0}")]
    Worker(String),
}

impl Error {
    /// Whether the operator's settings are at fault, rather than something that happened while running: the command
    /// exits with 2 instead of 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Config(_) | Error::Mount(_) | Error::NoHandler | Error::Listen(_) | Error::Driver(_) => {
                true
            }
            Error::StandardStreams(_) | Error::Signals(_) | Error::Worker(_) => false,
        }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Error {
        Error::Worker(error.to_string())
    }
}
