//! The runtime that handlers live in, and the two ways to park.
//!
//! Each worker runs as one future of its host: tokio-uring's runtime beside the io_uring driver, tokio's
//! current-thread runtime beside epoll. Handlers find their timers, sockets and files there.
//!
//! - **A, quiet:** no handler waits and no task of theirs lives. Nothing but the ring can bring work, so the worker
//!   sleeps in the ring: one system call a turn. Handlers that wait for other threads alone, and say so, are woken
//!   through the ring.
//! - **B, waiting:** the host must run, for it has the timers and foreign sockets. The ring signals a descriptor that
//!   the host watches, one look at the ring closes the race, and the host sleeps.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::LocalSet;

use crate::ring::{self, Failure, Ring, Wait, signal};

use super::task::Wakeups;
use super::worker::Worker;

/// Turns of the ring before the host gets its turn, while there is work.
const TURNS_PER_HOST_TURN: usize = 8;

/// Which runtime is the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    TokioUring,
    Tokio,
}

/// Why a worker ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("cannot start the worker's runtime: {0}")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Ring(#[from] Failure),
}

/// Runs a worker to its end on this thread.
pub(crate) fn run<R: Ring>(
    kind: Kind,
    wakeups: Arc<Wakeups>,
    mut worker: Worker<R>,
) -> Result<(), HostError> {
    #[cfg(feature = "http")]
    crate::handler::read_with_uring(kind == Kind::TokioUring);
    match kind {
        Kind::TokioUring => {
            let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
            runtime.block_on(drive(&mut worker, &wakeups))
        }
        Kind::Tokio => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(drive(&mut worker, &wakeups))
        }
    }
}

async fn drive<R: Ring>(worker: &mut Worker<R>, wakeups: &Wakeups) -> Result<(), HostError> {
    let signal = signal::watch(worker.ring.notify_fd())?;
    let host = Handle::current();
    let ring_waker = Waker::from(Arc::new(RingWaker(worker.ring.waker())));
    let mut locals = LocalSet::new();
    std::future::poll_fn(|cx| {
        wakeups.unpark();
        poll(worker, wakeups, &signal, (&host, &ring_waker), &mut locals, cx)
    })
    .await
}

/// Ends the sleep of a worker in its ring.
struct RingWaker(ring::Waker);

impl Wake for RingWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

fn poll<R: Ring>(
    worker: &mut Worker<R>,
    wakeups: &Wakeups,
    signal: &AsyncFd<OwnedFd>,
    (host, ring_waker): (&Handle, &Waker),
    locals: &mut LocalSet,
    cx: &mut Context<'_>,
) -> Poll<Result<(), HostError>> {
    let mut turns_left = TURNS_PER_HOST_TURN;
    loop {
        let did;
        {
            // What handlers spawn with `spawn_local` lives here.
            let _guard = locals.enter();
            did = worker.pass();
        }
        if worker.is_finished() {
            worker.abandon();
            return Poll::Ready(Ok(()));
        }
        let no_locals = Pin::new(&mut *locals).poll(cx).is_ready();
        if worker.has_work() {
            worker.ring.turn(Wait::No)?;
            continue;
        }
        if worker.is_quiet() && no_locals && host.metrics().num_alive_tasks() == 0 {
            worker.ring.notify(false);
            if !worker.has_tasks() {
                worker.ring.turn(worker.wait(did))?;
            } else if wakeups.park(ring_waker) {
                worker.ring.turn(worker.wait(did))?;
                wakeups.unpark();
            }
            continue;
        }
        worker.ring.notify(true);
        while let Poll::Ready(ready) = signal.poll_read_ready(cx) {
            ready?.clear_ready();
        }
        worker.ring.turn(Wait::No)?;
        let found_any = {
            let _guard = locals.enter();
            worker.pass()
        };
        if !found_any && !worker.owes_turn() && !worker.is_finished() && wakeups.park(cx.waker()) {
            return Poll::Pending;
        }
        turns_left -= 1;
        if turns_left == 0 {
            // The host's timers and sockets must not starve.
            worker.ring.turn(Wait::No)?;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}
