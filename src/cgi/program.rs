//! A program that runs: its streams, its time, and its end, whichever way that comes.
//!
//! ```text
//!   start ─▶ runs ─┬─ exits soon ─▶ its output, whole
//!                  ├─ does not ─▶ its output as it comes ─▶ exits, or works on until its time is over
//!                  └─ request over or time over ─▶ SIGTERM ─▶ 2 s ─▶ SIGKILL (to its group)
//! ```
//!
//! Most programs are over in milliseconds, and pipes hold 64 KiB. So at first only the end is waited for: one
//! descriptor to watch and one wake-up for a whole answer.

use std::ffi::CString;
use std::fmt;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::ring::signal::watch_owned;
use crate::ring::spawn::{Started, spawn};
use crate::{Chunk, Failure, ReadError, Request, Stderr, Stdin, Stdout};

use super::directory::Script;
use super::environment;

/// How long only the end of a program is waited for, while its output gathers in the pipe.
const SOON: Duration = Duration::from_millis(5);
/// From SIGTERM to SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// What a program is given to exit after it has closed its output; one that takes longer works on by itself.
const EXIT_GRACE: Duration = Duration::from_millis(100);
/// Room for one read of a program's output. Pipes hold 64 KiB.
const READ_BYTES: usize = 64 << 10;
/// The same where output is read that is mostly short.
const DRAIN_BYTES: usize = 4 << 10;
/// Less room than this is not worth a system call.
const READ_BYTES_MIN: usize = 4 << 10;
/// Longer lines on stderr are cut in two.
const STDERR_LINE_BYTES_MAX: usize = 8 << 10;

/// Why a program's output is of no use.
#[derive(Debug)]
pub(super) enum Trouble {
    TimedOut,
    /// The request's body, without which it must not go on as if it were whole.
    Body(ReadError),
    Output(io::Error),
}

/// A program whose request is not over. Dropping it ends it.
pub(super) struct Program {
    group: Option<Group>,
    stdout: Output,
    stderr: Option<PipeReader>,
    log: Stderr,
    buffer: BytesMut,
    beside: Beside,
    exited: Option<ExitStatus>,
    began: Instant,
    timeout: Duration,
}

/// Where a program's output comes from.
enum Output {
    /// Not watched yet.
    Quiet(PipeReader),
    Watched(Receiver),
    Ended,
}

/// What goes on while output is read or written.
struct Beside {
    feeding: Option<LocalBoxFuture<Result<(), ReadError>>>,
    complaining: Option<LocalBoxFuture<()>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// How a program ended.
pub(super) enum End {
    Exited(ExitStatus),
    /// It has closed its output and works on.
    WorksOn,
    Unknown(io::Error),
}

impl Program {
    /// Starts it. `body` is the first piece of the request's, `None` where it has none.
    pub(super) fn start(
        script: &Script,
        request: &Request,
        body: Option<Chunk>,
        null: &OwnedFd,
        timeout: Duration,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Program> {
        let (stdout, its_stdout) = io::pipe()?;
        let (stderr, its_stderr) = io::pipe()?;
        let input = body.map(|first| io::pipe().map(|ends| (first, ends))).transpose()?;
        let its_stdin = input.as_ref().map_or(null.as_fd(), |(_, (pipe, _))| pipe.as_fd());
        let started = spawn(
            &c_string(&script.path)?,
            &environment::of(request, script),
            &c_string(script.path.parent().unwrap_or(Path::new("/")))?,
            [its_stdin, its_stdout.as_fd(), its_stderr.as_fd()],
        )?;
        let group = Group::of(started, place)?;
        let feeding = match input {
            None => None,
            Some((first, (_, pipe))) => {
                let pipe = Sender::from_owned_fd(OwnedFd::from(pipe))?;
                let feeding: LocalBoxFuture<_> = Box::pin(feed(request.stdin(), first, pipe));
                Some(feeding)
            }
        };
        let deadline = (!timeout.is_zero()).then(|| Box::pin(tokio::time::sleep(timeout)));
        Ok(Program {
            group: Some(group),
            stdout: Output::Quiet(stdout),
            stderr: Some(stderr),
            log: request.stderr(),
            buffer: BytesMut::new(),
            beside: Beside { feeding, complaining: None, deadline },
            exited: None,
            began: Instant::now(),
            timeout,
        })
    }

    /// Waits a little for its end. Gives its whole output where it came in time.
    pub(super) async fn whole(&mut self) -> Result<Option<Bytes>, Trouble> {
        let (Some(group), Output::Quiet(stdout)) = (&mut self.group, &mut self.stdout) else {
            return Ok(None);
        };
        let soon = tokio::time::timeout(SOON, group.wait());
        let Ok(exited) = self.beside.with(soon).await? else {
            self.watch().map_err(Trouble::Output)?;
            return Ok(None);
        };
        self.exited = Some(exited.map_err(Trouble::Output)?);
        if let Some(stderr) = &self.stderr {
            let (text, is_whole) = drain(stderr).map_err(Trouble::Output)?;
            let mut rest = &text[..];
            while let Some(end) = line_end(rest, true) {
                // Where the request is over, nobody reads it.
                let _ = self.log.write(printable(&rest[..end])).await;
                rest = &rest[end..];
            }
            if is_whole {
                self.stderr = None;
            }
        }
        let (start, is_whole) = drain(stdout).map_err(Trouble::Output)?;
        if is_whole {
            self.stdout = Output::Ended;
            return Ok(Some(start.into()));
        }
        self.buffer.extend_from_slice(&start);
        // Somebody whom it has started has the other end.
        self.watch().map_err(Trouble::Output)?;
        Ok(None)
    }

    /// Watches the pipes from now on.
    fn watch(&mut self) -> io::Result<()> {
        if let Output::Quiet(_) = self.stdout
            && let Output::Quiet(pipe) = std::mem::replace(&mut self.stdout, Output::Ended)
        {
            self.stdout = Output::Watched(Receiver::from_owned_fd(OwnedFd::from(pipe))?);
        }
        if let Some(pipe) = self.stderr.take() {
            let pipe = Receiver::from_owned_fd(OwnedFd::from(pipe))?;
            self.beside.complaining = Some(Box::pin(complain(pipe, self.log.clone())));
        }
        Ok(())
    }

    /// The next piece of its output; `None` at the end.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>, Trouble> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        let Output::Watched(stdout) = &mut self.stdout else { return Ok(None) };
        if self.buffer.capacity() < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
        let count = self.beside.with(stdout.read_buf(&mut self.buffer)).await?.map_err(Trouble::Output)?;
        Ok((count > 0).then(|| self.buffer.split().freeze()))
    }

    /// Passes the rest of its output on.
    pub(super) async fn copy(&mut self, stdout: &mut Stdout) -> Result<(), Failure> {
        while let Some(bytes) = self.read().await? {
            self.beside.with(stdout.write_bytes(bytes)).await??;
        }
        Ok(())
    }

    /// Waits a little for its end, after that of its output.
    pub(super) async fn end(mut self) -> End {
        let Some(mut group) = self.group.take() else { return End::WorksOn };
        let exited = self.exited;
        let complaining = self.beside.complaining.take();
        let ended = tokio::time::timeout(EXIT_GRACE, async {
            let exited = match exited {
                Some(status) => Ok(status),
                None => group.wait().await,
            };
            if let Some(complaining) = complaining {
                complaining.await;
            }
            exited
        });
        match ended.await {
            Ok(Ok(status)) => End::Exited(status),
            Ok(Err(error)) => End::Unknown(error),
            Err(_) => {
                let left = (!self.timeout.is_zero()).then(|| self.began + self.timeout);
                group.guard(left);
                End::WorksOn
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.guard(Some(Instant::now()));
        }
    }
}

/// Reads what is there. Whether that was all there will be.
fn drain(pipe: &PipeReader) -> io::Result<(Vec<u8>, bool)> {
    rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
    let mut text = Vec::new();
    loop {
        if text.len() == text.capacity() {
            text.reserve(DRAIN_BYTES);
        }
        match rustix::io::read(pipe, spare_capacity(&mut text)) {
            Ok(0) => return Ok((text, true)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok((text, false)),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Beside {
    /// Does everything else while `main` waits.
    async fn with<T>(&mut self, main: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut main = std::pin::pin!(main);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(trouble) = self.poll(cx) {
                return Poll::Ready(Err(trouble));
            }
            main.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Trouble> {
        if let Some(feeding) = &mut self.feeding
            && let Poll::Ready(fed) = feeding.as_mut().poll(cx)
        {
            self.feeding = None;
            if let Err(error) = fed {
                return Poll::Ready(Trouble::Body(error));
            }
        }
        if let Some(complaining) = &mut self.complaining
            && complaining.as_mut().poll(cx).is_ready()
        {
            self.complaining = None;
        }
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx).map(|()| Trouble::TimedOut),
            None => Poll::Pending,
        }
    }
}

impl End {
    /// An output that a signal has cut short is not whole.
    pub(super) fn check(self, name: &str) -> Result<(), Failure> {
        match self {
            End::Exited(status) if status.signal().is_some() => {
                Err(Failure::new(format_args!("{name}: {}", End::Exited(status))))
            }
            End::Exited(status) if !status.success() => {
                tracing::info!("{name}: {status}");
                Ok(())
            }
            End::Exited(_) | End::WorksOn => Ok(()),
            End::Unknown(_) => Err(Failure::new(format_args!("{name}: {self}"))),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "the program ended with {status}"),
            End::WorksOn => f.write_str("the program has closed its output"),
            End::Unknown(error) => write!(f, "how the program ended is not known: {error}"),
        }
    }
}

/// The request's body into the program. What it does not read is thrown away, so that nobody waits for it.
async fn feed(mut body: Stdin, first: Chunk, pipe: Sender) -> Result<(), ReadError> {
    let mut pipe = Some(pipe);
    let mut next = Some(first);
    while let Some(chunk) = next {
        if let Some(open) = &mut pipe
            && open.write_all(&chunk).await.is_err()
        {
            pipe = None;
        }
        drop(chunk);
        next = body.chunk().await?;
    }
    Ok(())
}

/// The program's stderr to the web server's log, a record for each line.
async fn complain(mut pipe: Receiver, stderr: Stderr) {
    let mut text = BytesMut::new();
    loop {
        // A pipe that fails has ended.
        let is_over = pipe.read_buf(&mut text).await.is_ok_and(|count| count == 0);
        while let Some(end) = line_end(&text, is_over) {
            if stderr.write(printable(&text.split_to(end))).await.is_err() {
                return;
            }
        }
        if is_over {
            return;
        }
    }
}

/// Where the first line ends that may go out.
fn line_end(text: &[u8], is_over: bool) -> Option<usize> {
    match memchr::memchr(b'\n', text) {
        Some(at) => Some(at + 1),
        None if text.len() >= STDERR_LINE_BYTES_MAX || (is_over && !text.is_empty()) => Some(text.len()),
        None => None,
    }
}

/// A line that cannot pass for another in a log.
fn printable(line: &[u8]) -> Vec<u8> {
    let mut printable = Vec::with_capacity(line.len() + 1);
    for byte in line.strip_suffix(b"\n").unwrap_or(line) {
        match byte {
            b'\t' | 0x20..=0x7e | 0x80.. => printable.push(*byte),
            control => printable.extend(control.escape_ascii()),
        }
    }
    printable.push(b'\n');
    printable
}

/// A process and those that it has started. Dropping it kills them unless it has ended by itself.
struct Group {
    leader: Pid,
    pidfd: AsyncFd<OwnedFd>,
    is_over: bool,
    /// Among those that may run at a time.
    _place: OwnedSemaphorePermit,
}

impl Group {
    fn of(started: Started, place: OwnedSemaphorePermit) -> io::Result<Group> {
        let Started { pid: leader, pidfd } = started;
        match watch_owned(pidfd) {
            Ok(pidfd) => Ok(Group { leader, pidfd, is_over: false, _place: place }),
            Err(error) => {
                end_now(leader);
                Err(error)
            }
        }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut readable = self.pidfd.readable().await?;
            match waitpid(Some(self.leader), WaitOptions::NOHANG) {
                Ok(None) => readable.clear_ready(),
                Ok(Some((_, status))) => {
                    self.is_over = true;
                    return Ok(ExitStatus::from_raw(status.as_raw()));
                }
                // Whoever started this process has it ignore SIGCHLD: nobody can know how its children end.
                Err(Errno::CHILD) => {
                    self.is_over = true;
                    return Ok(ExitStatus::default());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sees to it that it ends, at the latest from `end` on, and is waited for.
    fn guard(mut self, end: Option<Instant>) {
        if self.is_over {
            return;
        }
        // Outside of a runtime, and when it ends, dropping does it at once.
        if let Ok(host) = tokio::runtime::Handle::try_current() {
            host.spawn(async move {
                let over = async {
                    match end {
                        Some(end) => tokio::time::sleep_until(end).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    _ = self.wait() => return,
                    () = over => {}
                }
                self.signal(Signal::TERM);
                let exited = tokio::time::timeout(TERM_GRACE, self.wait()).await;
                self.signal(Signal::KILL);
                if exited.is_err() {
                    // How it ended is of no interest.
                    let _ = self.wait().await;
                }
            });
        }
    }

    fn signal(&self, signal: Signal) {
        // All of them may have ended.
        let _ = kill_process_group(self.leader, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            end_now(self.leader);
        }
    }
}

/// Kills a process that was not waited for, and its group, and waits for it: it does not take long now, and nobody
/// else will do it.
fn end_now(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
    let _ = waitpid(Some(leader), WaitOptions::empty());
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_on_stderr_cannot_pass_for_another() {
        assert_eq!(printable(b"gr\xc3\xbcn\t\x1b[2J\r\n"), b"gr\xc3\xbcn\t\\x1b[2J\\r\n");
        assert_eq!(printable(b"no end"), b"no end\n");
        assert_eq!(line_end(b"ab\ncd", false), Some(3));
        assert_eq!(
            (line_end(b"ab", false), line_end(b"ab", true), line_end(b"", true)),
            (None, Some(2), None)
        );
        assert_eq!(line_end(&[b'x'; STDERR_LINE_BYTES_MAX], false), Some(STDERR_LINE_BYTES_MAX));
    }
}
