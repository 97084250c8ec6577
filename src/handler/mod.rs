//! What applications implement: one trait for each role of FastCGI, and the types that they work with.
//!
//! | role | is given | gives back | for |
//! | --- | --- | --- | --- |
//! | [`Responder`] | [`Request`]: params, stdin | [`Response`] | pages, the role that everyone uses |
//! | [`Authorizer`] | [`AuthRequest`]: params | [`Decision`] | guarding what the web server itself serves |
//! | [`Filter`] | [`FilterRequest`]: params, stdin, data | [`Response`] | changing a file on its way out |
//!
//! Any `Fn(Request) -> impl Future` is a `Responder`, so `async fn`s and closures work as they are; a struct
//! implements the trait. A handler is shared by all workers. Its future stays on the worker that polled it first, so
//! it may hold an `Rc`, use tokio's timers and sockets, and `tokio::task::spawn_local`.

mod exchange;
#[cfg(feature = "http")]
mod file;
mod path;
mod registry;
mod request;
mod response;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use crate::config::SendFile;

pub(crate) use exchange::{Ending, Exchange, ExchangeKey, Inbox, OutStream, Touched};
#[cfg(feature = "http")]
pub(crate) use file::read_with_uring;
pub(crate) use path::Paths;
pub(crate) use registry::Table;
#[cfg(feature = "http")]
pub(crate) use response::HeaderLines;
pub(crate) use response::{Body, Head};

pub use exchange::ParamsBytes;
#[cfg(feature = "http")]
pub use file::File;
pub use registry::{MountError, Registry};
pub use request::{AuthRequest, Data, FilterRequest, Params, ReadError, Request, Stdin};
pub use response::{
    Decision, Failure, IntoDecision, IntoHeaderValue, IntoResponse, Response, Stderr, Stdout, WriteError,
};

/// What the settings say of every request of a server.
#[derive(Debug, Default)]
pub(crate) struct Site {
    pub(crate) paths: Paths,
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only `File` asks for it"))]
    pub(crate) send_file: SendFile,
}

pub(crate) type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Answers requests (FastCGI 1.0 §6.2).
pub trait Responder: Send + Sync + 'static {
    /// Starts to answer. The future is polled once at once; it must not borrow from `self`, so clone what it needs.
    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static;

    /// Whether requests must know their peer's address, which costs a system call for each connection.
    #[doc(hidden)]
    fn wants_peer(&self) -> bool {
        false
    }

    /// Whether its future waits for other threads and for its own streams alone, never for tokio's timers, sockets and
    /// tasks: then the worker sleeps in its ring meanwhile, which takes fewer system calls.
    #[doc(hidden)]
    fn leaves_runtime_alone(&self) -> bool {
        false
    }

    /// Starts to answer for the engine; [`Ready`] answers in place.
    #[doc(hidden)]
    fn start(&self, request: Request) -> Started {
        Started(Start::Pending(Box::pin(self.respond(request))))
    }
}

impl<F, Fut, R> Responder for F
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + 'static,
    R: IntoResponse,
{
    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        let answer = self(request);
        async { answer.await.into_response() }
    }
}

/// Decides on requests (FastCGI 1.0 §6.3).
pub trait Authorizer: Send + Sync + 'static {
    /// Starts to decide.
    fn authorize(&self, request: AuthRequest) -> impl Future<Output = Decision> + 'static;
}

impl<F, Fut, D> Authorizer for F
where
    F: Fn(AuthRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = D> + 'static,
    D: IntoDecision,
{
    fn authorize(&self, request: AuthRequest) -> impl Future<Output = Decision> + 'static {
        let decision = self(request);
        async { decision.await.into_decision() }
    }
}

/// Changes a file on its way to the visitor (FastCGI 1.0 §6.4).
pub trait Filter: Send + Sync + 'static {
    /// Starts to answer. What is written is held back until STDIN has ended, as §6.4 demands.
    fn filter(&self, request: FilterRequest) -> impl Future<Output = Response> + 'static;
}

impl<F, Fut, R> Filter for F
where
    F: Fn(FilterRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + 'static,
    R: IntoResponse,
{
    fn filter(&self, request: FilterRequest) -> impl Future<Output = Response> + 'static {
        let answer = self(request);
        async { answer.await.into_response() }
    }
}

/// A responder that never waits: `ready(|request| Response::text("Hello"))`. It is answered in place, without a future
/// and without the one allocation that a future costs.
pub fn ready<F, R>(answer: F) -> Ready<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    Ready(answer)
}

/// See [`ready`].
#[derive(Debug, Clone)]
pub struct Ready<F>(F);

impl<F, R> Responder for Ready<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        std::future::ready(self.0(request).into_response())
    }

    fn start(&self, request: Request) -> Started {
        Started(Start::Ready(self.0(request).into_response()))
    }
}

/// What starting a handler gives.
#[doc(hidden)]
pub struct Started(pub(crate) Start);

pub(crate) enum Start {
    /// The answer.
    Ready(Response),
    /// A future of it, not polled yet.
    Pending(LocalBoxFuture<Response>),
}

/// A handler of any role, as the registry holds it.
pub(crate) trait Handler: Send + Sync {
    fn wants_peer(&self) -> bool {
        false
    }

    fn leaves_runtime_alone(&self) -> bool {
        false
    }

    fn start(&self, exchange: Rc<Exchange>) -> Start;
}

pub(crate) struct OfResponder<H>(pub(crate) H);
pub(crate) struct OfAuthorizer<H>(pub(crate) H);
pub(crate) struct OfFilter<H>(pub(crate) H);

impl<H: Responder> Handler for OfResponder<H> {
    fn wants_peer(&self) -> bool {
        self.0.wants_peer()
    }

    fn leaves_runtime_alone(&self) -> bool {
        self.0.leaves_runtime_alone()
    }

    fn start(&self, exchange: Rc<Exchange>) -> Start {
        self.0.start(Request::new(exchange)).0
    }
}

impl<H: Authorizer> Handler for OfAuthorizer<H> {
    fn start(&self, exchange: Rc<Exchange>) -> Start {
        let decision = self.0.authorize(AuthRequest::new(exchange));
        Start::Pending(Box::pin(async { decision.await.into() }))
    }
}

impl<H: Filter> Handler for OfFilter<H> {
    fn start(&self, exchange: Rc<Exchange>) -> Start {
        Start::Pending(Box::pin(self.0.filter(FilterRequest::new(exchange))))
    }
}
