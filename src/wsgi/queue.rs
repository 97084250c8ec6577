//! The bounded queue between workers and Python threads, which wakes as few threads as it can.
//!
//! Only one thread at a time runs Python (where the interpreter has its lock), so one that is up takes job after job,
//! and at most one more is *called*: woken and on its way. It waits for the interpreter as long as the first one runs,
//! and takes over at once where that one blocks. When it has found a job and sees more of them, it calls the next. So
//! as many threads are up as block at the same time, and one; the last to sleep is the first to be called, while the
//! processor's caches still know it.
//!
//! A worker that has begun one request may have more to begin: it calls when it has put them all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::Thread;

/// Why a job was not taken into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Full,
    /// Nobody takes jobs any more.
    Closed,
}

/// What a thread finds.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Taken<T> {
    Job(T),
    /// Nothing: [`Seat::wait`], then look again.
    Empty,
    /// Nothing, and nothing will come.
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    jobs_max: usize,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<T>,
    /// Threads that sleep or are about to; the last one is called first.
    asleep: Vec<Arc<Call>>,
    /// A thread was called and has not looked yet.
    is_one_called: bool,
    /// Whoever has put a job first will call for all that are put before that.
    is_call_due: bool,
    is_closed: bool,
}

/// A call that is due, and made when this is dropped. If it is not the first, another one makes it.
#[derive(Debug)]
#[must_use = "dropped at once, it calls a thread for each job"]
pub(super) struct Due<'a, T> {
    queue: &'a Queue<T>,
    pub(super) is_first: bool,
}

impl<T> Drop for Due<'_, T> {
    fn drop(&mut self) {
        if self.is_first {
            let mut state = self.queue.lock();
            state.is_call_due = false;
            if !state.jobs.is_empty() {
                wake(state);
            }
        }
    }
}

#[derive(Debug)]
struct Call {
    thread: Thread,
    is_called: AtomicBool,
}

/// A thread's place at the queue.
#[derive(Debug)]
pub(super) struct Seat(Arc<Call>);

impl Seat {
    /// Of the thread that runs.
    pub(super) fn new() -> Seat {
        Seat(Arc::new(Call { thread: std::thread::current(), is_called: AtomicBool::new(false) }))
    }

    /// Sleeps until this thread is called; only after it found the queue empty. Be detached from the interpreter.
    pub(super) fn wait(&self) {
        while !self.0.is_called.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

impl Call {
    fn wake(&self) {
        self.is_called.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl<T> Queue<T> {
    /// For `jobs_max` jobs.
    pub(super) fn new(jobs_max: usize) -> Queue<T> {
        let state = State {
            jobs: VecDeque::new(),
            asleep: Vec::new(),
            is_one_called: false,
            is_call_due: false,
            is_closed: false,
        };
        Queue { state: Mutex::new(state), jobs_max }
    }

    /// Adds a job, and calls a thread for it when what is returned goes. Gives back what is refused.
    pub(super) fn put(&self, job: T) -> Result<Due<'_, T>, (Refused, T)> {
        let mut state = self.lock();
        if state.is_closed {
            return Err((Refused::Closed, job));
        }
        if state.jobs.len() >= self.jobs_max {
            return Err((Refused::Full, job));
        }
        state.jobs.push_back(job);
        Ok(Due { queue: self, is_first: !std::mem::replace(&mut state.is_call_due, true) })
    }

    /// The next job for the thread on that seat.
    pub(super) fn take(&self, seat: &Seat) -> Taken<T> {
        let mut state = self.lock();
        if seat.0.is_called.swap(false, Ordering::Acquire) {
            state.is_one_called = false;
        }
        match state.jobs.pop_front() {
            Some(job) => {
                if !state.jobs.is_empty() {
                    wake(state);
                }
                Taken::Job(job)
            }
            None if state.is_closed => Taken::Closed,
            None => {
                state.asleep.push(seat.0.clone());
                Taken::Empty
            }
        }
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// What waits is still taken, nothing more comes in.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        asleep.iter().for_each(|call| call.wake());
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics half-way through a change.
        super::lock(&self.state)
    }
}

/// Calls a thread, unless one is on its way.
fn wake<T>(mut state: MutexGuard<'_, State<T>>) {
    if !state.is_one_called
        && let Some(call) = state.asleep.pop()
    {
        state.is_one_called = true;
        drop(state);
        call.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_called(seat: &Seat) -> bool {
        seat.0.is_called.load(Ordering::SeqCst)
    }

    #[test]
    fn one_thread_is_called_at_a_time_and_the_last_that_slept_first() {
        let (queue, first, second) = (Queue::new(8), Seat::new(), Seat::new());
        assert_eq!((queue.take(&first), queue.take(&second)), (Taken::Empty, Taken::Empty));
        (1..=3).for_each(|job| drop(queue.put(job).unwrap()));
        assert_eq!((is_called(&first), is_called(&second)), (false, true));
        // There is more than it takes.
        assert_eq!(queue.take(&second), Taken::Job(1));
        assert_eq!((is_called(&first), is_called(&second)), (true, false));
        assert_eq!(queue.take(&second), Taken::Job(2));
        assert_eq!(queue.take(&second), Taken::Job(3));
        assert_eq!(queue.take(&second), Taken::Empty);
        // The first is on its way still.
        drop(queue.put(4).unwrap());
        assert!(!is_called(&second));
        assert_eq!(queue.take(&first), Taken::Job(4));
    }

    #[test]
    fn one_call_is_made_for_all_that_is_put_before_it() {
        let (queue, seat) = (Queue::new(8), Seat::new());
        assert_eq!(queue.take(&seat), Taken::Empty);
        let first = queue.put(1).unwrap();
        let second = queue.put(2).unwrap();
        assert_eq!((first.is_first, second.is_first), (true, false));
        drop(second);
        assert!(!is_called(&seat));
        drop(first);
        assert!(is_called(&seat));
        assert_eq!([queue.take(&seat), queue.take(&seat)], [Taken::Job(1), Taken::Job(2)]);
        // Who is up already may be faster.
        let third = queue.put(3).unwrap();
        assert!(third.is_first);
        assert_eq!([queue.take(&seat), queue.take(&seat)], [Taken::Job(3), Taken::Empty]);
        drop(third);
        assert!(!is_called(&seat));
    }

    #[test]
    fn it_is_full_at_its_bound_and_what_is_in_it_outlives_its_closing() {
        let (queue, seat) = (Queue::new(2), Seat::new());
        let put = |job| queue.put(job).map(drop);
        assert_eq!([put(1), put(2), put(3)], [Ok(()), Ok(()), Err((Refused::Full, 3))]);
        queue.close();
        assert_eq!(put(4), Err((Refused::Closed, 4)));
        let taken = [queue.take(&seat), queue.take(&seat), queue.take(&seat)];
        assert_eq!(taken, [Taken::Job(1), Taken::Job(2), Taken::Closed]);
    }

    #[test]
    fn no_job_is_left_behind_while_threads_sleep_and_wake() {
        let queue = Arc::new(Queue::new(usize::MAX));
        let take_all = |queue: Arc<Queue<u64>>| {
            let (seat, mut sum) = (Seat::new(), 0);
            loop {
                match queue.take(&seat) {
                    Taken::Job(job) => sum += job,
                    Taken::Empty => seat.wait(),
                    Taken::Closed => return sum,
                }
            }
        };
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || take_all(queue))
            })
            .collect();
        for job in 1..=20_000 {
            drop(queue.put(job).unwrap());
            if job % 64 == 0 {
                // Everything is taken without another one to wake for it.
                while queue.len() > 0 {
                    std::thread::yield_now();
                }
            }
        }
        queue.close();
        let sum: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(sum, 20_000 * 20_001 / 2);
    }
}
