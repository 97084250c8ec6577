//! CGI programs (RFC 3875) behind FastCGI: each request starts one and speaks to it through pipes.
//!
//! ```text
//!  params ─▶ environment ─▶ ┌─────────┐ ─▶ stdout ─▶ head, STDOUT
//!  STDIN  ─▶ stdin       ─▶ │ program │ ─▶ stderr ─▶ STDERR
//!                           └─────────┘
//! ```
//!
//! - **Which program:** the path below the mount is looked up below the directory; the first part of it that is a file
//!   is the program, the rest is its PATH_INFO. Nothing outside of the directory is ever reached: `..` is no name here,
//!   and a symbolic link that leads out is refused. A file without permission to execute is a 403, none is a 404.
//! - **How it runs:** without a shell and without arguments (RFC 3875 4.4 is not supported), in the directory that it
//!   lies in, as the leader of a process group of its own. It is given the environment of [RFC 3875 4.1] and the
//!   params, nothing else: see [`Cgi`].
//! - **What it answers:** a head (RFC 3875 6) and a body, streamed as they come; a program that is over within 5 ms is
//!   answered whole. Most web servers send no more of a request's body once they have the head of the answer.
//!   `nph-` programs, which write HTTP themselves, are not supported: FastCGI has no way to carry that. A `Location`
//!   that is a path, a local redirect (6.2.2), reaches the visitor as a redirect: only the web server could do more.
//! - **How it ends:** when the request is aborted, or takes longer than the time limit, its process group gets SIGTERM
//!   and two seconds later SIGKILL; when the server ends, SIGKILL. A program that has closed its output may work on
//!   within the time limit. None is left as a zombie.
//!
//! [RFC 3875 4.1]: https://www.rfc-editor.org/rfc/rfc3875#section-4.1

mod directory;
mod environment;
mod program;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::{HeadError, HeadParser};
use crate::{Failure, Request, Responder, Response};

use directory::{Directory, Missing};
use program::{Program, Trouble};

/// A Responder that runs the CGI programs of a directory. The module says how.
///
/// A program's environment is made of:
///
/// - every param whose name is a name in shells (letters, digits, `_`), the last of each. Left out are HTTP_PROXY,
///   which many programs would take for their own (CVE-2016-5385), and names that change what a loader or interpreter
///   runs, such as LD_PRELOAD or PERL5OPT;
/// - SCRIPT_NAME, PATH_INFO, SCRIPT_FILENAME, PATH_TRANSLATED of the program that was found; GATEWAY_INTERFACE,
///   REQUEST_METHOD, QUERY_STRING and SERVER_SOFTWARE also where the web server sends none; CONTENT_LENGTH and
///   CONTENT_TYPE only where they say something;
/// - PATH as `/usr/local/bin:/usr/bin:/bin`. Nothing of this process's environment.
#[derive(Debug)]
pub struct Cgi {
    programs: Arc<Programs>,
}

#[derive(Clone, Debug)]
struct Programs {
    directory: Directory,
    /// The stdin of those that have none.
    null: Arc<OwnedFd>,
    places: Arc<Semaphore>,
    /// Zero: none.
    timeout: Duration,
}

impl Cgi {
    /// Programs below this directory, 64 at a time, each for at most a minute.
    ///
    /// Descriptors that this process has inherited are closed for programs from now on.
    ///
    /// # Errors
    ///
    /// The directory is none, or cannot be opened.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Cgi> {
        crate::ring::keep_descriptors();
        let directory = Directory::open(directory.as_ref())?;
        let null = Arc::new(std::fs::File::open("/dev/null")?.into());
        let (places, timeout) = (Arc::new(Semaphore::new(64)), Duration::from_secs(60));
        Ok(Cgi { programs: Arc::new(Programs { directory, null, places, timeout }) })
    }

    /// How many programs may run at a time, in all workers together; further requests wait for a place, within the
    /// time limit.
    pub fn processes_max(self, count: usize) -> Cgi {
        let places = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Cgi { programs: Arc::new(Programs { places, ..Arc::unwrap_or_clone(self.programs) }) }
    }

    /// How long a program may run, and how long a request may wait for a place; zero for any time.
    pub fn timeout(self, timeout: Duration) -> Cgi {
        Cgi { programs: Arc::new(Programs { timeout, ..Arc::unwrap_or_clone(self.programs) }) }
    }
}

impl Responder for Cgi {
    fn respond(&self, request: Request) -> impl Future<Output = Response> + 'static {
        let programs = self.programs.clone();
        async move { crate::handler::IntoResponse::into_response(programs.answer(request).await) }
    }
}

impl Programs {
    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let script = match self.directory.find(&request.path_info()) {
            Ok(script) => script,
            Err(missing) => return Ok(refuse(&request, &missing).await),
        };
        let Some(place) = self.place().await else {
            let busy = Response::text("Service Unavailable\n").status(503).header("Retry-After", "1");
            return Ok(busy.app_status(1));
        };
        // A request without a body, which nearly all are, needs no pipe for it.
        let body = request.stdin().chunk().await?;
        let name = script.path.display().to_string();
        let started = Program::start(&script, &request, body, &self.null, self.timeout, place);
        let mut program = match started {
            Ok(program) => program,
            Err(error) => return not_started(&request, &name, &error).await,
        };
        match respond(&mut program, &request).await {
            // The rest of its output is still to come.
            Ok((response, Some(start))) => Ok(response.stream(|mut stdout| async move {
                if !start.is_empty() {
                    stdout.write_bytes(start).await?;
                }
                program.copy(&mut stdout).await?;
                program.end().await.check(&name)
            })),
            Ok((response, None)) => {
                program.end().await.check(&name)?;
                Ok(response)
            }
            Err(Refusal::TimedOut) => {
                complain(&request, &name, "ran for longer than cgi_timeout").await;
                Ok(Response::text("Gateway Timeout\n").status(504).app_status(1))
            }
            Err(Refusal::Head(error)) => {
                let end = program.end().await;
                Err(Failure::new(format_args!("{name}: {error}; {end}")))
            }
            Err(Refusal::Failed(failure)) => Err(failure),
        }
    }

    /// A place for one more program; `None` where none was free for too long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let places = self.places.clone();
        if self.timeout.is_zero() {
            return places.acquire_owned().await.ok();
        }
        match places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => tokio::time::timeout(self.timeout, places.acquire_owned()).await.ok()?.ok(),
        }
    }
}

/// Reads a program's answer as far as that is needed: its head, and what came with it of a body that is still being
/// written.
async fn respond(program: &mut Program, request: &Request) -> Result<(Response, Option<Bytes>), Refusal> {
    let mut parser = HeadParser::default();
    let whole = program.whole().await?;
    let is_whole = whole.is_some();
    let mut next = whole;
    let (head, start) = loop {
        let bytes = match next.take() {
            Some(bytes) => bytes,
            None if is_whole => return Err(Refusal::Head(parser.truncated())),
            None => program.read().await?.ok_or_else(|| Refusal::Head(parser.truncated()))?,
        };
        if let Some(parsed) = parser.push(&bytes).map_err(Refusal::Head)? {
            break parsed;
        }
    };
    let mut response = Response::new(head.status);
    for (name, value) in head.headers {
        response = response.header(name, value.to_vec());
    }
    let is_head = request.method() == "HEAD";
    if is_whole && !is_head {
        return Ok((response.body(start), None));
    }
    if !is_head && !matches!(head.status, 100..=199 | 204 | 304) {
        return Ok((response, Some(start)));
    }
    // What it wrote says nothing of the length that GET would have.
    let response = response.stream(|_| async { Ok::<(), Failure>(()) });
    // It is not cut short for what nobody will read.
    while program.read().await?.is_some() {}
    Ok((response, None))
}

/// Why there is no answer of the program's.
enum Refusal {
    TimedOut,
    Head(HeadError),
    Failed(Failure),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Refusal {
        match trouble {
            Trouble::TimedOut => Refusal::TimedOut,
            trouble => Refusal::Failed(trouble.into()),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        match trouble {
            Trouble::TimedOut => Failure::new("the program ran for longer than cgi_timeout"),
            Trouble::Body(error) => error.into(),
            Trouble::Output(error) => error.into(),
        }
    }
}

/// 403 or 404, with the reason in the web server's log where the visitor's path is not to blame.
async fn refuse(request: &Request, missing: &Missing) -> Response {
    let (status, text) = match missing {
        Missing::NoFile => return Response::text("Not Found\n").status(404),
        Missing::NotAllowed { .. } => (403, "Forbidden\n"),
        Missing::NoParsedHeaders { .. } => (501, "Not Implemented\n"),
    };
    // A request that is over needs no reason.
    let _ = request.stderr().write(format!("{missing}\n")).await;
    Response::text(text).status(status)
}

async fn not_started(request: &Request, name: &str, error: &io::Error) -> Result<Response, Failure> {
    use rustix::io::Errno;
    let (status, hint) = match Errno::from_io_error(error) {
        Some(Errno::ACCESS) => (403, "; it, its interpreter and the directories above must be executable"),
        Some(Errno::TOOBIG) => (431, "; the params are longer than the kernel takes"),
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => (503, ""),
        Some(Errno::NOENT) => (500, "; the interpreter in its first line does not exist"),
        Some(Errno::NOEXEC) => (500, "; neither a binary nor #! and an interpreter in its first line"),
        _ => (500, ""),
    };
    let text = format!("cannot be started: {error}{hint}");
    if status == 500 {
        return Err(Failure::new(format_args!("{name}: {text}")));
    }
    complain(request, name, &text).await;
    Ok(Response::text(format!("{status}\n")).status(status).app_status(1))
}

/// To both logs.
async fn complain(request: &Request, name: &str, text: &str) {
    tracing::warn!("{name}: {text}");
    // A request that is over needs no reason.
    let _ = request.stderr().write(format!("{name}: {text}\n")).await;
}
