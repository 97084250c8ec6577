//! tower services, axum routers among them, as handlers (feature `http`).
//!
//! ```text
//!   Request ──▶ http::Request<Body> ──▶ tower::Service ──▶ http::Response<B> ──▶ Response
//!               request, uri, headers    worker              response
//! ```
//!
//! Any `tower::Service<http::Request<Body>>` whose answers have an [`http_body::Body`] is served:
//!
//! ```no_run
//! # #[derive(Clone)] struct App;
//! # impl tower_service::Service<http::Request<ringway::Body>> for App {
//! #     type Response = http::Response<ringway::Body>;
//! #     type Error = std::convert::Infallible;
//! #     type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
//! #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
//! #         std::task::Poll::Ready(Ok(()))
//! #     }
//! #     fn call(&mut self, _: http::Request<ringway::Body>) -> Self::Future {
//! #         std::future::ready(Ok(http::Response::new(ringway::Body::empty())))
//! #     }
//! # }
//! # let router = App;
//! ringway::serve("127.0.0.1:9000", router)?;
//! # Ok::<(), ringway::Error>(())
//! ```
//!
//! [`Builder::service`](crate::Builder::service) mounts one beside other handlers, [`Tower`] has the options.
//!
//! # What a service is given
//!
//! | of the [`http::Request`] | from |
//! | --- | --- |
//! | method | `REQUEST_METHOD`; GET where it is absent |
//! | path and query | `REQUEST_URI` without the mount (below) |
//! | scheme, authority | `HTTPS` (or `REQUEST_SCHEME`) and `HTTP_HOST`; without a Host neither |
//! | version | `SERVER_PROTOCOL`; HTTP/1.1 where it is none of HTTP's |
//! | headers | `HTTP_*`, `CONTENT_TYPE` and `CONTENT_LENGTH`, the last one where a name came twice |
//! | extensions | [`FastCgi`]: everything that HTTP has no place for |
//! | body | stdin as it comes: nothing is read that the service has not asked for |
//!
//! `HTTP_PROXY` is left out, since it would be taken for a setting (CVE-2016-5385), and so is
//! `HTTP_TRANSFER_ENCODING`, for the web server has undone the encoding. What the `http` crate forbids in a method,
//! URI or header is answered with 400 and logged.
//!
//! The part of the path that leads to the service, its mount, is no part of the URI
//! ([`Request::script_name`](crate::Request::script_name)). Where the web server sent no `REQUEST_URI`, or rewrote the
//! path to one with another script name, the URI is the [path info](crate::Request::path_info), percent-encoded again,
//! and `QUERY_STRING`. The visitor's own is [`FastCgi::original_uri`].
//!
//! # What HTTP has no place for
//!
//! All of it is asked of one extension, since each costs allocations: `request.extensions().get::<FastCgi>()` or, in
//! axum, the extractor `Extension<FastCgi>`.
//!
//! | | |
//! | --- | --- |
//! | every param, as it came | [`FastCgi::params`] |
//! | the visitor's address, the web server's | [`FastCgi::client`], [`FastCgi::peer`] |
//! | role, id on the connection | [`FastCgi::role`], [`FastCgi::id`] |
//! | whether somebody still waits for the answer | [`FastCgi::ended`], [`FastCgi::outcome`] |
//! | the mount, the URI with it | [`FastCgi::script_name`], [`FastCgi::original_uri`] |
//!
//! Extractors that look for a type of their own, such as axum's `ConnectInfo`, find it by [`Tower::extension`].
//!
//! # What becomes of its answer
//!
//! A body whose length is known and at most 16 KiB goes out with its head; a longer one follows as it comes, and is
//! flushed whenever it has nothing more for the moment; server-sent events carry `X-Accel-Buffering: no`, so that nginx
//! passes them on one by one. A body that fails, or is longer or shorter than its `Content-Length`, ends the request
//! visibly incomplete, with a non-zero app status. Trailers have no place in a CGI response and are dropped. A [`File`]
//! among the answer's extensions takes the place of its body and status. An error of the service itself is a
//! [`Failure`]: 500, with its text in the logs alone.

mod body;
mod context;
mod headers;
mod names;
mod recent;
mod request;
mod response;
mod uri;
mod worker;

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use http_body::Body as HttpBody;
use tower_service::Service;

use crate::handler::{Failure, File, Request, Responder, Response};
use crate::server::{Builder, Server};

use self::response::{Plan, Whole};
use self::worker::{Instances, NotReady};

pub use self::body::Body;
pub use self::context::{FastCgi, Outcome};

/// What errors of services and bodies convert into.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How long a request waits for its service to be ready, unless [`Tower::ready_timeout`] says otherwise.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a tower service on an address, as [`Builder::listen`] has them, with a worker for each core, until SIGTERM
/// or SIGINT. It blocks the thread.
///
/// # Errors
///
/// As [`Builder::run`].
pub fn serve<S, B>(address: impl Into<String>, service: S) -> crate::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    Server::builder().listen(address).service("/", service).run()
}

impl Builder {
    /// Answers requests below `mount` with a tower service, in the Responder role. Each worker has a clone of it. The
    /// service sees the URI without the mount.
    pub fn service<S, B>(self, mount: &str, service: S) -> Builder
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        B: HttpBody + 'static,
        B::Error: Into<BoxError>,
    {
        self.responder(mount, Tower::new(service))
    }
}

type Make<S> = Box<dyn Fn() -> S + Send + Sync>;
type Extend = Box<dyn Fn(&FastCgi, &mut http::Extensions) + Send + Sync>;

/// A tower service as a [`Responder`]. Each worker has an instance of its own, made when its first request comes.
///
/// A service that is not ready is waited for: its requests queue, first come, first served, and nothing of their
/// bodies is read. After [`ready_timeout`](Tower::ready_timeout) a request is answered with 503.
pub struct Tower<S> {
    make: Make<S>,
    instances: Instances,
    ready_timeout: Duration,
    extend: Arc<Vec<Extend>>,
}

impl<S: 'static> Tower<S> {
    /// Clones the service once for each worker.
    pub fn new(service: S) -> Tower<S>
    where
        S: Clone + Send,
    {
        let original = Mutex::new(service);
        Tower::per_worker(move || original.lock().expect("cloning a service does not panic").clone())
    }

    /// Makes a service for each worker, on the worker's thread and within its runtime: for services that are not
    /// `Send`.
    pub fn per_worker(make: impl Fn() -> S + Send + Sync + 'static) -> Tower<S> {
        Tower {
            make: Box::new(make),
            instances: Instances::default(),
            ready_timeout: READY_TIMEOUT,
            extend: Arc::default(),
        }
    }

    /// How long a request waits for the service to be ready before it is answered with 503; 5 seconds if not said.
    pub fn ready_timeout(mut self, limit: Duration) -> Tower<S> {
        self.ready_timeout = limit;
        self
    }

    /// Gives every request one more extension, where `make` gives one. With
    /// `.extension(|request| request.client().map(ConnectInfo))` axum's `ConnectInfo<SocketAddr>` is the visitor's
    /// address.
    pub fn extension<T>(mut self, make: impl Fn(&FastCgi) -> Option<T> + Send + Sync + 'static) -> Tower<S>
    where
        T: Clone + Send + Sync + 'static,
    {
        let extend = Arc::get_mut(&mut self.extend).expect("workers share it once requests come");
        extend.push(Box::new(move |request, extensions| {
            if let Some(value) = make(request) {
                extensions.insert(value);
            }
        }));
        self
    }
}

impl<S> fmt::Debug for Tower<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tower").field("ready_timeout", &self.ready_timeout).finish_non_exhaustive()
    }
}

impl<S, B> Responder for Tower<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    fn wants_peer(&self) -> bool {
        true
    }

    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        let instance = self.instances.of_this_worker(|| (self.make)(), &self.extend);
        let limit = self.ready_timeout;
        async move {
            let mut made = http::Request::new(Body::empty());
            let mut ending = match instance.fill(&mut made, &request) {
                Ok(ending) => ending,
                Err(refused) => return Response::failure(refused),
            };
            // Last of all: a place that is got and not used would be kept from other workers.
            if let Err(not_ready) = instance.ready(limit).await {
                return refuse(not_ready);
            }
            let is_head = made.method() == http::Method::HEAD;
            let answer = {
                let mut answer = pin!(instance.call(made));
                poll_fn(|cx| ending.poll_pumping(cx, |cx| answer.as_mut().poll(cx))).await
            };
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Response::failure(Failure::of(&*error.into())),
            };
            if let Some(file) = answer.extensions_mut().remove::<File>() {
                ending.answered();
                // Boxed, for it is large.
                return Box::pin(response::with_file(answer.headers(), file, &request)).await;
            }
            match response::plan(&answer, is_head) {
                Plan::Refuse(failure) => Response::failure(failure),
                Plan::Bare(response) => {
                    ending.answered();
                    response
                }
                Plan::Whole { response, length } => {
                    let (mut body, mut whole) = (pin!(answer.into_body()), Whole::of(length));
                    let poll =
                        |cx: &mut Context<'_>| ending.poll_pumping(cx, |cx| whole.poll(body.as_mut(), cx));
                    match poll_fn(poll).await {
                        Ok(bytes) => {
                            ending.answered();
                            response.body(bytes)
                        }
                        Err(failure) => Response::failure(failure),
                    }
                }
                Plan::Stream { response, length } => {
                    let body = answer.into_body();
                    response.stream(move |stdout| response::stream(stdout, body, length, ending))
                }
            }
        }
    }
}

fn refuse<E: Into<BoxError>>(not_ready: NotReady<E>) -> Response {
    match not_ready {
        NotReady::Late(limit) => {
            let text = format_args!("the service was not ready within {limit:?}").to_string();
            Response::failure(Failure::with_status(503, text))
                .body("Service Unavailable\n")
                .header("Retry-After", "1")
        }
        NotReady::Failed(error) => Response::failure(Failure::of(&*error.into())),
    }
}
