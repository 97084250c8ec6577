//! What the workers share: orders from outside, and how many connections each has.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

use crate::ring::Waker;

/// What the workers are to do. Orders only rise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Order {
    /// Serve.
    Serve = 0,
    /// Accept no more, finish what has begun.
    Drain = 1,
    /// Leave everything.
    Stop = 2,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Control {
    order: AtomicU8,
    /// Workers that may still hand connections to others.
    accepting: AtomicUsize,
    pub(crate) loads: Loads,
    /// One for each worker, once all are there.
    wakers: OnceLock<Vec<Waker>>,
}

impl Control {
    pub(crate) fn new(workers: usize) -> Control {
        Control {
            order: AtomicU8::new(Order::Serve as u8),
            accepting: AtomicUsize::new(workers),
            loads: Loads((0..workers).map(|_| CachePadded::default()).collect()),
            wakers: OnceLock::new(),
        }
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }

    /// All workers are there; from now on they are woken for orders.
    pub(crate) fn gather(&self, wakers: Vec<Waker>) {
        assert!(self.wakers.set(wakers).is_ok(), "workers gather once");
    }

    /// Raises the order and wakes the workers to see it.
    pub(crate) fn command(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Release);
        self.wake();
    }

    /// Makes every worker do a turn.
    pub(crate) fn wake(&self) {
        self.wakers.get().into_iter().flatten().for_each(Waker::wake);
    }

    /// One worker accepts no more.
    pub(crate) fn stopped_accepting(&self) {
        self.accepting.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn nobody_accepts(&self) -> bool {
        self.accepting.load(Ordering::Acquire) == 0
    }
}

/// Connections of each worker, those on their way to it included.
#[derive(Debug)]
pub(crate) struct Loads(Box<[CachePadded<AtomicUsize>]>);

impl Loads {
    pub(crate) fn add(&self, worker: usize) {
        self.0[worker].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, worker: usize) {
        self.0[worker].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, worker: usize) -> usize {
        self.0[worker].load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> usize {
        self.0.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest; the first of those that are equal.
    pub(crate) fn least(&self) -> usize {
        let load = |worker: &usize| self.0[*worker].load(Ordering::Relaxed);
        (0..self.0.len()).min_by_key(load).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        let control = Control::new(3);
        for _ in 0..30 {
            control.loads.add(control.loads.least());
        }
        assert_eq!([0, 1, 2].map(|worker| control.loads.of(worker)), [10, 10, 10]);
        control.loads.remove(1);
        assert_eq!(control.loads.least(), 1);
        assert_eq!(control.loads.total(), 29);
    }

    #[test]
    fn orders_only_rise() {
        let control = Control::new(1);
        control.command(Order::Stop);
        control.command(Order::Drain);
        assert_eq!(control.order(), Order::Stop);
    }
}
