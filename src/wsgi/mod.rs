//! Python applications (PEP 3333) as a [`Responder`].
//!
//! ```text
//!   worker ── Job ──▶ bounded queue ──▶ Python thread: environ, application(environ, start_response), iteration
//!     │                                    │
//!     └────── Conversation: stdin ──▶, ◀── head, body, stderr: both ends wait for each other, neither holds the GIL
//! ```
//!
//! Workers do not run Python, but where [`Options::inline`] says so. A pool of Python threads does; each is attached
//! to the interpreter once and detached while it waits. Admission counts requests: one that finds the queue full, or
//! that lay in it for too long, is answered with 503 and `Retry-After`; one whose client is gone when its turn comes
//! is skipped.
//!
//! It differs from plain CGI hosts in what it refuses: heads with bytes that could split them, hop-by-hop headers,
//! bodies that are not bytes, bodies shorter than their Content-Length. A body that breaks off is seen as broken off.

mod aborted;
mod call;
mod conversation;
mod environ;
mod inline;
mod interpreter;
mod io;
mod queue;
mod threads;
mod watch;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{Builder, Failure, Request, Responder, Response, Stderr, Stdin, Stdout};

use conversation::{Conversation, Head, Output};
use inline::{INLINE_BODY_BYTES_MAX, Inline};
use interpreter::{Host, Rest};
pub use interpreter::{LoadError, load};
use queue::{Queue, Refused};
pub use threads::Threads;

/// Pieces of a body up to this size are copied into the record that is being filled.
const COPY_BYTES_MAX: usize = 4 << 10;

/// How a Python application is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Python threads, each with one request at a time; at least 1.
    pub threads: usize,
    /// Calls the application on the worker's own thread, one request at a time. Threads take what would have a worker
    /// wait for itself: bodies longer than 1 MiB, and all of an answer after its first piece. An application that
    /// waits keeps its worker from everything else, and is not watched: `slow_log` and `request_timeout` see threads.
    /// Mount it with [`Application::mount`].
    pub inline: bool,
    /// Requests that wait for a thread; one more is answered with 503. At least 1.
    pub queue_max: usize,
    /// A request that waited longer is answered with 503.
    pub queue_timeout: Duration,
    /// A request whose application runs longer is logged with the traceback of its thread; 0: none is.
    pub slow_log: Duration,
    /// What [`Config::request_timeout`](crate::Config::request_timeout) says. The engine ends such a request; here its
    /// thread's traceback is logged, and the thread is given up: another takes its place. 0: none is.
    pub request_timeout: Duration,
    /// Threads that may be given up and not have come back. One more: none takes its place, and the process ends.
    pub stuck_max: usize,
    /// Whether SIGTERM ends the server in order: then the process sends it to itself when too many threads are stuck.
    pub obeys_signals: bool,
    /// `wsgi.multiprocess`: whether other processes may run the same application.
    pub multiprocess: bool,
    /// `wsgi.run_once`: whether the process ends after one request, as a CGI program does.
    pub run_once: bool,
    /// Shows tracebacks to visitors. Never in production.
    pub debug: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 16,
            inline: false,
            queue_max: 1024,
            queue_timeout: Duration::from_secs(30),
            slow_log: Duration::ZERO,
            request_timeout: Duration::ZERO,
            stuck_max: 16,
            obeys_signals: false,
            multiprocess: false,
            run_once: false,
            debug: false,
        }
    }
}

impl Options {
    /// The same for a process that answers one request, as a CGI program does.
    pub fn once(self) -> Options {
        Options { threads: 1, inline: false, obeys_signals: false, run_once: true, ..self }
    }
}

/// What Python code may add to an [`Application`].
#[derive(Debug, Default)]
pub struct Hooks {
    /// Variables that every `environ` gets, over those of the request.
    pub environ: Option<Py<PyDict>>,
    /// `on_error(environ, type, value, traceback)`, called for an exception before the head was sent; returns
    /// `(status, headers, body)`, the answer to send.
    pub on_error: Option<Py<PyAny>>,
}

/// A WSGI application; give it to [`Application::mount`]. Clones share the threads.
#[derive(Clone, Debug)]
pub struct Application {
    /// [`Threads`] closes it.
    queue: Arc<Queue<Work>>,
    inline: Option<Arc<Inline>>,
}

/// What Python threads do.
#[derive(Debug)]
enum Work {
    Request(Job),
    /// What is left of an answer that began on a worker.
    Rest(Rest),
}

/// A request on its way to Python.
#[derive(Debug)]
struct Job {
    params: environ::Pairs,
    script_name: Vec<u8>,
    path_info: Vec<u8>,
    is_head: bool,
    queued_at: Instant,
    conversation: Arc<Conversation>,
}

impl Application {
    /// Starts the threads for `application`, a callable as PEP 3333 describes it.
    ///
    /// # Errors
    ///
    /// Python's, where no thread can be started.
    pub fn start(
        application: &Bound<'_, PyAny>,
        options: &Options,
        hooks: Hooks,
    ) -> PyResult<(Application, Threads)> {
        let py = application.py();
        let queue = Arc::new(Queue::new(options.queue_max.max(1)));
        let host = Host::new(application, options, hooks)?;
        let threads = Threads::start(py, host, queue.clone(), options)?;
        let inline = options.inline.then(|| Arc::new(Inline::new(threads.crew())));
        Ok((Application { queue, inline }, threads))
    }

    /// Has a server answer requests below `mount` with the application.
    pub fn mount(self, server: Builder, mount: &str) -> Builder {
        let server = if self.inline.is_some() { server.around_workers(inline::surround) } else { server };
        server.responder(mount, self)
    }

    fn converse(request: &Request) -> (Job, Answering) {
        let conversation = Arc::new(Conversation::default());
        let job = Job {
            params: environ::Pairs::of(request.params()),
            script_name: request.script_name().into_owned(),
            path_info: request.path_info().into_owned(),
            is_head: request.method() == "HEAD",
            queued_at: Instant::now(),
            conversation: conversation.clone(),
        };
        let (stdin, stderr) = (request.stdin(), request.stderr());
        (job, Answering { conversation, stdin, stderr, is_done: false })
    }

    /// Hands the request to the threads and calls one, for all that came with it once. Or says why not.
    async fn admit(&self, job: Job) -> Result<(), Response> {
        match self.queue.put(Work::Request(job)) {
            Ok(due) => {
                if due.is_first {
                    give_way().await;
                }
                Ok(())
            }
            Err((Refused::Full, _)) => {
                tracing::warn!("the queue for Python threads is full: answered with 503");
                Err(busy("too many requests wait"))
            }
            Err((Refused::Closed, _)) => Err(busy("the server is stopping")),
        }
    }
}

/// Lets the worker begin the other requests that came with this one.
async fn give_way() {
    let mut is_first = true;
    poll_fn(|cx| match std::mem::take(&mut is_first) {
        true => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

fn busy(reason: &str) -> Response {
    Response::text(format!("Service Unavailable: {reason}\n")).status(503).header("Retry-After", "1")
}

impl Responder for Application {
    /// It waits for Python threads and for its own streams.
    fn leaves_runtime_alone(&self) -> bool {
        true
    }

    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        let (job, mut answering) = Application::converse(&request);
        let application = self.clone();
        async move {
            match &application.inline {
                Some(inline) if answering.has_body(INLINE_BODY_BYTES_MAX).await => inline.serve(job),
                _ => {
                    if let Err(refusal) = application.admit(job).await {
                        return refusal;
                    }
                }
            }
            answering.answer().await
        }
    }
}

/// The worker's side of a request. Dropping it tells the Python side that nobody listens any more.
struct Answering {
    conversation: Arc<Conversation>,
    stdin: Stdin,
    stderr: Stderr,
    /// The answer was taken whole.
    is_done: bool,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.conversation.leave(!self.is_done);
    }
}

impl Answering {
    /// Waits for a body of at most so many bytes. Whether it is complete.
    async fn has_body(&mut self, bytes_max: usize) -> bool {
        self.conversation.hand_over_all(&mut self.stdin, bytes_max).await
    }

    async fn answer(mut self) -> Response {
        loop {
            let output = self.conversation.next(&mut self.stdin).await;
            self.is_done = !matches!(output, Output::Stderr(_) | Output::Head(_));
            match output {
                Output::Stderr(text) => self.log(text.as_ref()).await,
                Output::Whole(head, Some(body)) => return response(head).body(body),
                // A body that is not there must not get a Content-Length of its own.
                Output::Whole(head, None) => return response(head).stream(async |_| Ok::<(), Failure>(())),
                Output::Head(head) => {
                    return response(head).stream(|stdout| self.stream(stdout));
                }
                Output::Busy => return busy("the request waited for too long"),
                Output::Piece(_) | Output::End(_) => {
                    return Response::text("Internal Server Error\n").status(500).app_status(1);
                }
            }
        }
    }

    async fn stream(mut self, mut stdout: Stdout) -> Result<(), Failure> {
        loop {
            match self.conversation.next(&mut self.stdin).await {
                Output::Stderr(text) => self.log(text.as_ref()).await,
                Output::Piece(bytes) => {
                    let length = bytes.len();
                    let conversation = self.conversation.clone();
                    let write = async {
                        if length <= COPY_BYTES_MAX {
                            stdout.write(&bytes).await?;
                        } else {
                            stdout.write_bytes(bytes).await?;
                        }
                        // PEP 3333: no block may be held back.
                        if conversation.has_sent(length) { stdout.flush().await } else { Ok(()) }
                    };
                    // The application may want input before the web server takes more output.
                    self.conversation.with_input(&mut self.stdin, write).await?;
                }
                Output::End(end) => {
                    self.is_done = true;
                    return end.map_err(Failure::new);
                }
                Output::Whole(..) | Output::Head(_) | Output::Busy => {
                    return Err(Failure::new("a second head in one answer"));
                }
            }
        }
    }

    async fn log(&mut self, text: &[u8]) {
        let stderr = self.stderr.clone();
        // Where the request is over, the log of the process has it.
        let _ = self.conversation.with_input(&mut self.stdin, stderr.write(text)).await;
        self.conversation.has_sent(text.len());
    }
}

fn response(head: Head) -> Response {
    let start = Response::new(head.status).app_status(head.app_status);
    head.headers.into_iter().fold(start, |response, (name, value)| response.header(name, value))
}

/// Locks; nothing behind these locks is left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
