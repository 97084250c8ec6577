//! What FastCGI knows of a request and HTTP has no place for: [`FastCgi`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::handler::{Params, Request, Stdin};
use crate::proto::{RequestId, Role, WellKnown};

use super::body::Pipe;
use super::uri;

/// The FastCGI side of an `http::Request`, to be found among its extensions. A clone is another handle to the same
/// request, and may be taken to other threads.
#[derive(Clone)]
pub struct FastCgi(Arc<Shared>);

struct Shared {
    params: Params,
    script_name: SmallVec<[u8; 16]>,
    peer: Option<SocketAddr>,
    id: RequestId,
    role: Role,
    pipe: Pipe,
    outcome: OnceLock<Outcome>,
    ended: Notify,
}

/// How a request ended, as far as the application is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The whole answer was given to the engine.
    Answered,
    /// The web server gave the request up, its deadline passed, or the answer failed: nobody waits for it any more.
    GivenUp,
}

impl FastCgi {
    pub(super) fn of(request: &Request) -> FastCgi {
        FastCgi(Arc::new(Shared {
            params: request.params().clone(),
            script_name: SmallVec::from_slice(&request.script_name()),
            peer: request.peer(),
            id: request.id(),
            role: request.role(),
            pipe: Pipe::default(),
            outcome: OnceLock::new(),
            ended: Notify::const_new(),
        }))
    }

    /// All parameters, as the web server sent them.
    pub fn params(&self) -> &Params {
        &self.0.params
    }

    /// The part of the path that leads to the service, decoded: what the request's URI lacks at its front. It is the
    /// mount or, at the root, empty or what the web server says (see [`Request::script_name`]).
    pub fn script_name(&self) -> &[u8] {
        &self.0.script_name
    }

    /// The URI with the script name, as the visitor asked for it.
    pub fn original_uri(&self) -> http::Uri {
        uri::original(&self.0.params).unwrap_or_default()
    }

    /// The web server's address; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// The visitor's address: `REMOTE_ADDR` and `REMOTE_PORT`, with port 0 where the latter is absent. `None` where
    /// the visitor has no such address, or the web server does not say it.
    pub fn client(&self) -> Option<SocketAddr> {
        let text = |name| std::str::from_utf8(self.0.params.well_known(name)?).ok();
        let address: IpAddr = text(WellKnown::RemoteAddr)?.parse().ok()?;
        let port = text(WellKnown::RemotePort).and_then(|port| port.parse().ok());
        Some(SocketAddr::new(address, port.unwrap_or(0)))
    }

    /// The id of the request on its connection (FastCGI 1.0 §3.3).
    pub fn id(&self) -> RequestId {
        self.0.id
    }

    /// The role that the web server asked for (FastCGI 1.0 §6).
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// How the request ended; `None` while it has not.
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome.get().copied()
    }

    /// Waits for the end of the request. A service's own future is dropped when its request is aborted; this is for
    /// what it has started elsewhere.
    pub async fn ended(&self) -> Outcome {
        let mut ended = pin!(self.0.ended.notified());
        ended.as_mut().enable();
        if self.outcome().is_none() {
            ended.await;
        }
        self.outcome().unwrap_or(Outcome::GivenUp)
    }

    pub(super) fn pipe(&self) -> &Pipe {
        &self.0.pipe
    }
}

impl fmt::Debug for FastCgi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastCgi")
            .field("id", &self.0.id)
            .field("role", &self.0.role)
            .field("script_name", &format_args!("\"{}\"", self.0.script_name.escape_ascii()))
            .field("params", &self.0.params)
            .finish_non_exhaustive()
    }
}

/// The worker's end of a request: pumps stdin to its body, and says how it ended.
pub(super) struct Ending {
    request: FastCgi,
    stdin: Stdin,
    outcome: Outcome,
}

impl Ending {
    pub(super) fn of(request: FastCgi, stdin: Stdin) -> Ending {
        Ending { request, stdin, outcome: Outcome::GivenUp }
    }

    /// Polls what may read the request's body.
    pub(super) fn poll_pumping<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            if let Poll::Ready(output) = poll(cx) {
                return Poll::Ready(output);
            }
            if !self.pump(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Moves a chunk of stdin, if the body wants one. Returns whether what reads it should be polled again at once.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) -> bool {
        self.request.pipe().pump(&mut self.stdin, cx)
    }

    /// The answer is whole.
    pub(super) fn answered(mut self) {
        self.outcome = Outcome::Answered;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Mostly the service is done with the request, and nobody is there to be told.
        if Arc::strong_count(&self.request.0) == 1 {
            return;
        }
        self.request.pipe().close();
        // Set here alone, once.
        let _ = self.request.0.outcome.set(self.outcome);
        self.request.0.ended.notify_waiters();
    }
}
