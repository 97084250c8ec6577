//! Handler futures: poll, wake, contain a panic.
//!
//! ```text
//!   started ──poll in place──▶ done            nothing is stored
//!              └─ pending ──▶ slot ◀─ wake ─ Wakeups ◀─ any thread
//!                              └──poll──▶ done
//! ```
//!
//! A future is dropped when its request is aborted; a wake-up for it that is still under way then finds an empty slot,
//! or polls whoever lives there now once for nothing, which futures must expect.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use crate::handler::{Exchange, ExchangeKey, Failure, LocalBoxFuture, Response};

/// What a request's handler is doing.
pub(crate) enum Work {
    /// It makes the answer.
    Answer(LocalBoxFuture<Response>),
    /// It writes the answer's body; `app_status` is for the end.
    Body { write: LocalBoxFuture<Result<(), Failure>>, app_status: u32 },
}

/// What came of it.
pub(crate) enum Done {
    Answer(Response),
    Body {
        result: Result<(), Failure>,
        app_status: u32,
    },
    /// The handler panicked, with this message.
    Panicked {
        message: String,
        head_sent: bool,
    },
}

/// A handler that waits.
pub(crate) struct Task {
    pub(crate) key: ExchangeKey,
    pub(crate) exchange: Rc<Exchange>,
    work: Work,
}

/// The waiting handlers of one worker.
pub(crate) struct Tasks {
    slab: Slab<Task>,
    /// How many of them may wait for the host's timers, sockets and tasks.
    hosted: usize,
    /// A waker for each slot, made once.
    wakers: Vec<Waker>,
    wakeups: Arc<Wakeups>,
    batch: Vec<u32>,
}

impl Tasks {
    pub(crate) fn new(wakeups: Arc<Wakeups>) -> Tasks {
        Tasks { slab: Slab::new(), hosted: 0, wakers: Vec::new(), wakeups, batch: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Whether any may wait for what only the host runtime brings.
    pub(crate) fn need_host(&self) -> bool {
        self.hosted > 0
    }

    /// Polls new work in place. `Err` is the slot where it waits now.
    pub(crate) fn begin(
        &mut self,
        key: ExchangeKey,
        exchange: &Rc<Exchange>,
        mut work: Work,
    ) -> Result<Done, u32> {
        let slot = self.slab.vacant_key();
        while self.wakers.len() <= slot {
            let slot = self.wakers.len() as u32;
            self.wakers.push(Waker::from(Arc::new(SlotWaker { slot, wakeups: self.wakeups.clone() })));
        }
        match poll(&mut work, &self.wakers[slot]) {
            Poll::Ready(done) => {
                drop_quietly(work);
                Ok(done)
            }
            Poll::Pending => {
                self.slab.insert(Task { key, exchange: exchange.clone(), work });
                self.hosted += usize::from(!exchange.leaves_runtime_alone);
                Err(slot as u32)
            }
        }
    }

    /// Takes the slots that were woken since the last call; they may be empty by now.
    pub(crate) fn take_woken(&mut self) -> Vec<u32> {
        let mut batch = std::mem::take(&mut self.batch);
        self.wakeups.take_into(&mut batch);
        batch
    }

    /// Gives the list back for reuse.
    pub(crate) fn put_back(&mut self, mut batch: Vec<u32>) {
        batch.clear();
        self.batch = batch;
    }

    /// Polls the handler in `slot`; when it is done its slot is free.
    pub(crate) fn poll(&mut self, slot: u32) -> Option<(ExchangeKey, Rc<Exchange>, Done)> {
        let task = self.slab.get_mut(slot as usize)?;
        match poll(&mut task.work, &self.wakers[slot as usize]) {
            Poll::Pending => None,
            Poll::Ready(done) => {
                let task = self.slab.remove(slot as usize);
                self.hosted -= usize::from(!task.exchange.leaves_runtime_alone);
                drop_quietly(task.work);
                Some((task.key, task.exchange, done))
            }
        }
    }

    /// Drops the handler in `slot`: its request is over.
    pub(crate) fn cancel(&mut self, slot: u32) {
        if let Some(task) = self.slab.try_remove(slot as usize) {
            self.hosted -= usize::from(!task.exchange.leaves_runtime_alone);
            drop_quietly(task.work);
        }
    }
}

/// Polls work once. Panics become [`Done::Panicked`].
fn poll(work: &mut Work, waker: &Waker) -> Poll<Done> {
    let head_sent = matches!(work, Work::Body { .. });
    let polled = catch_unwind(AssertUnwindSafe(|| {
        // Handlers share one poll of the host's task: without this, the first hundred operations on tokio's sockets
        // or timers would use up the budget of all the others.
        let unconstrained = tokio::task::coop::unconstrained(poll_fn(|cx| match work {
            Work::Answer(answer) => answer.as_mut().poll(cx).map(Done::Answer),
            Work::Body { write, app_status } => {
                let app_status = *app_status;
                write.as_mut().poll(cx).map(|result| Done::Body { result, app_status })
            }
        }));
        pin!(unconstrained).poll(&mut Context::from_waker(waker))
    }));
    polled.unwrap_or_else(|panic| Poll::Ready(Done::Panicked { message: panic_message(panic), head_sent }))
}

/// Drops a handler's future; a panic in one of its destructors stays there.
fn drop_quietly(work: Work) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
        tracing::error!("a handler panicked while it was dropped: {}", panic_message(panic));
    }
}

pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"(no message)").to_string(),
    }
}

/// The handlers that asked to be polled, from any thread.
///
/// A lock, not a lock-free queue: it is held for a push or a swap, and a queue would allocate.
#[derive(Debug, Default)]
pub(crate) struct Wakeups {
    woken: Mutex<Vec<u32>>,
    /// Set while the worker sleeps and needs waking.
    is_parked: AtomicBool,
    /// Where it sleeps: in its host runtime or in its ring.
    host: Mutex<Option<Waker>>,
}

impl Wakeups {
    /// Before the worker sleeps where this waker ends the sleep. False: somebody woke a handler meanwhile, stay up.
    pub(crate) fn park(&self, host: &Waker) -> bool {
        {
            let mut known = self.host.lock().unwrap_or_else(PoisonError::into_inner);
            if !known.as_ref().is_some_and(|known| known.will_wake(host)) {
                *known = Some(host.clone());
            }
        }
        self.is_parked.store(true, Ordering::SeqCst);
        let quiet = self.woken.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !quiet {
            self.unpark();
        }
        quiet
    }

    /// The worker is up again.
    pub(crate) fn unpark(&self) {
        self.is_parked.store(false, Ordering::SeqCst);
    }

    fn push(&self, slot: u32) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        if self.is_parked.swap(false, Ordering::SeqCst)
            && let Some(host) = &*self.host.lock().unwrap_or_else(PoisonError::into_inner)
        {
            host.wake_by_ref();
        }
    }

    fn take_into(&self, batch: &mut Vec<u32>) {
        debug_assert!(batch.is_empty());
        std::mem::swap(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner), batch);
    }
}

struct SlotWaker {
    slot: u32,
    wakeups: Arc<Wakeups>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wakeups.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wake_before_parking_is_not_lost_and_one_after_wakes_the_host() {
        let wakeups = Wakeups::default();
        let count = Arc::new(Count::default());
        let host = Waker::from(count.clone());
        wakeups.push(3);
        assert!(!wakeups.park(&host));
        let mut batch = Vec::new();
        wakeups.take_into(&mut batch);
        assert_eq!(batch, [3]);
        assert!(wakeups.park(&host));
        wakeups.push(4);
        wakeups.push(5);
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake-up of the host is enough");
    }

    /// Threads wake while the worker parks and unparks: every wake is seen, or the host is woken to see it.
    #[test]
    fn no_wake_is_lost_between_threads() {
        let wakeups = Arc::new(Wakeups::default());
        let count = Arc::new(Count::default());
        let host = Waker::from(count.clone());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let wakeups = wakeups.clone();
                std::thread::spawn(move || (0..10_000).for_each(|_| wakeups.push(thread)))
            })
            .collect();
        let (mut seen, mut batch, mut wakes_seen) = (0, Vec::new(), 0);
        while seen < 40_000 {
            if wakeups.park(&host) {
                // Parked: the host sleeps until it is woken.
                while count.0.load(Ordering::SeqCst) == wakes_seen {
                    std::thread::yield_now();
                }
                wakes_seen = count.0.load(Ordering::SeqCst);
                wakeups.unpark();
            }
            wakeups.take_into(&mut batch);
            seen += batch.len();
            batch.clear();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(seen, 40_000);
    }
}
