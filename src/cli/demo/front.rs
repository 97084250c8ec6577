//! The HTTP front: requests in, FastCGI out, answers back, all of it streamed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringway::client::{Address, Answer, Client, Error, Exchange, Head, Part, Request, Upload};
use ringway::proto::Role;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::index;
use super::records::{Log, Recorder};

/// Idle connections that are kept.
const IDLE_MAX: usize = 8;
/// The file that the Filter is given.
const FILTER_FILE: &[u8] = b"The quick brown fox jumps over the lazy dog.\n";

/// What all HTTP connections share.
pub(super) struct Front {
    application: Arc<Application>,
    local: SocketAddr,
    driver: String,
    /// The records of the request that began last.
    last: Mutex<Option<Arc<Mutex<Log>>>>,
}

/// The FastCGI application behind, and the connections to it that have no request.
struct Application {
    address: Address,
    idle: Mutex<Vec<Connection>>,
}

/// A connection has one request at a time, so that a visitor who reads slowly holds up nobody else.
struct Connection {
    client: Client,
    recorder: Recorder,
}

/// An answer of any kind.
type Answered = Response<BoxBody<Bytes, Error>>;

impl Front {
    pub(super) fn new(address: Address, local: SocketAddr, driver: String) -> Front {
        let application = Arc::new(Application { address, idle: Mutex::default() });
        Front { application, local, driver, last: Mutex::default() }
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => drop(tokio::spawn(self.clone().serve_connection(stream, peer))),
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    // Out of descriptors, most likely: they come back as connections close.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let service = service_fn(|request| {
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.answer(request, peer).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("{peer}: {error}");
        }
    }

    async fn answer(&self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Answered {
        let html = |html| whole(StatusCode::OK, "text/html; charset=utf-8", html);
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => {
                let socket = self.application.address.to_string();
                html(self.with_log(|log| index::page(&self.driver, &socket, log)))
            }
            // What the page asks for after each request; it leaves no records itself.
            (&Method::GET, "/demo/records") => html(self.with_log(index::records)),
            (_, "/favicon.ico") => whole(StatusCode::NOT_FOUND, "text/plain", "no such page\n".to_owned()),
            _ => self.forward(request, peer).await.unwrap_or_else(|error| {
                tracing::warn!("no answer: {error}");
                whole(StatusCode::BAD_GATEWAY, "text/plain", format!("{error}\n"))
            }),
        }
    }

    fn with_log(&self, show: impl FnOnce(Option<&Log>) -> String) -> String {
        let log = lock(&self.last).clone();
        match log {
            Some(log) => show(Some(&lock(&log))),
            None => show(None),
        }
    }

    /// Sends a request on, and gives the answer as soon as its head is there. Dropped, it aborts the request.
    async fn forward(&self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Result<Answered, Error> {
        let (parts, body) = request.into_parts();
        let role = role_of(parts.uri.path());
        let connection = self.application.connection().await?;
        let log = connection.recorder.begin(format!("{} {}", parts.method, parts.uri));
        *lock(&self.last) = Some(log);
        let request = self.translate(role, &parts, peer);
        let Exchange { stdin, data, mut answer, .. } = connection.client.begin(&request)?;
        if role != Role::Authorizer {
            tokio::spawn(upload(role, body, stdin, data));
        }
        let head = answer.head().await?;
        let (sender, receiver) = mpsc::channel(4);
        let application = self.application.clone();
        tokio::spawn(async move {
            if download(answer, sender).await {
                application.keep(connection);
            }
        });
        Ok(response_of(head, AnswerBody(receiver)))
    }

    /// The parameters, as web servers make them.
    fn translate(&self, role: Role, parts: &request::Parts, peer: SocketAddr) -> Request {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::new(parts.method.as_str(), target)
            .role(role)
            .param("SERVER_PROTOCOL", format!("{:?}", parts.version))
            .param("SERVER_ADDR", self.local.ip().to_string())
            .param("SERVER_PORT", self.local.port().to_string())
            .param("REMOTE_ADDR", peer.ip().to_string())
            .param("REMOTE_PORT", peer.port().to_string());
        for (name, value) in &parts.headers {
            request = request.header(name.as_str(), value.as_bytes());
        }
        match role {
            Role::Responder => request,
            Role::Authorizer if parts.uri.query() == Some("PROBE_ALLOW=1") => {
                request.param("PROBE_ALLOW", "1")
            }
            Role::Authorizer => request,
            Role::Filter => request
                .param("FCGI_DATA_LENGTH", FILTER_FILE.len().to_string())
                .param("FCGI_DATA_LAST_MOD", "1000000000"),
        }
    }
}

impl Application {
    async fn connection(&self) -> Result<Connection, Error> {
        while let Some(connection) = lock(&self.idle).pop() {
            if connection.client.is_open() {
                return Ok(connection);
            }
        }
        let recorder = Recorder::new();
        let client = Client::connect_tapped(&self.address, Some(recorder.tap())).await?;
        Ok(Connection { client, recorder })
    }

    fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// The paths by which a browser can ask for the roles that only web servers use.
fn role_of(path: &str) -> Role {
    match path {
        "/roles/authorizer" => Role::Authorizer,
        "/roles/filter" => Role::Filter,
        _ => Role::Responder,
    }
}

/// Passes the request body on as it arrives. A body that breaks off is never ended, so no application takes
/// it for a whole one; the answer is then dropped with the HTTP connection, which aborts the request.
async fn upload(role: Role, mut body: Incoming, mut stdin: Upload, mut data: Upload) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        if let Ok(bytes) = frame.into_data()
            && stdin.write(&bytes).await.is_err()
        {
            return;
        }
    }
    // Fails once the request has ended, which the other direction sees too.
    let _ = stdin.end().await;
    if role == Role::Filter {
        let _ = data.write(FILTER_FILE).await;
        let _ = data.end().await;
    }
}

/// Passes the answer's body on as the visitor reads it. False when it did not come to its end.
async fn download(mut answer: Answer, body: mpsc::Sender<Result<Bytes, Error>>) -> bool {
    loop {
        let part = tokio::select! {
            part = answer.next() => part,
            // The visitor has gone: dropping the answer aborts the request.
            () = body.closed() => return false,
        };
        match part {
            Ok(Some(Part::Stdout(bytes))) => {
                // Seen above, when it fails.
                let _ = body.send(Ok(bytes)).await;
            }
            Ok(Some(Part::Stderr(bytes))) => {
                tracing::info!("stderr: {}", bytes.trim_ascii_end().escape_ascii());
            }
            Ok(Some(Part::End(end))) if end.is_complete() => return true,
            Ok(Some(Part::End(_)) | None) => return fail(&body, Error::Closed).await,
            Err(error) => return fail(&body, error).await,
        }
    }
}

async fn fail(body: &mpsc::Sender<Result<Bytes, Error>>, error: Error) -> bool {
    // The visitor may have gone too.
    let _ = body.send(Err(error)).await;
    false
}

/// The body of an answer on its way. An error breaks the HTTP connection off, so that the visitor notices.
struct AnswerBody(mpsc::Receiver<Result<Bytes, Error>>);

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

fn response_of(head: Head, body: AnswerBody) -> Answered {
    let status = match StatusCode::from_u16(head.status) {
        Ok(status) if !status.is_informational() => status,
        _ => {
            let text = format!("{} is no status to end a request with\n", head.status);
            return whole(StatusCode::BAD_GATEWAY, "text/plain", text);
        }
    };
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    for (name, value) in &head.headers {
        // What concerns the connection is the front's own (RFC 9110, 7.6.1).
        let of_connection = ["connection", "keep-alive", "transfer-encoding", "upgrade"];
        if of_connection.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn whole(status: StatusCode, content_type: &'static str, text: String) -> Answered {
    let body = Full::from(text).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
