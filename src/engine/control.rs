//! What the workers share: orders from outside, connections from other processes, and how many each has.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;

use crate::ring::{ListenerId, Waker};

/// What the workers are to do. Orders only rise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Order {
    /// Serve.
    Serve = 0,
    /// As `Drain`, but other processes go on: they are passed the connections that are kept.
    Retire = 1,
    /// Accept no more, finish what has begun.
    Drain = 2,
    /// Leave everything.
    Stop = 3,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Control {
    order: AtomicU8,
    /// Who may still hand connections to workers: workers, and the one that receives from other processes.
    accepting: AtomicUsize,
    pub(crate) loads: Loads,
    /// One for each worker, once all are there; then that of the one that receives.
    wakers: OnceLock<Vec<Waker>>,
    /// For each worker the connections that it is to take over.
    arrivals: Box<[SegQueue<(ListenerId, OwnedFd)>]>,
}

impl Control {
    pub(crate) fn new(workers: usize, receives: bool) -> Control {
        Control {
            order: AtomicU8::new(Order::Serve as u8),
            accepting: AtomicUsize::new(workers + usize::from(receives)),
            loads: Loads((0..workers).map(|_| CachePadded::default()).collect()),
            wakers: OnceLock::new(),
            arrivals: (0..workers).map(|_| SegQueue::new()).collect(),
        }
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Retire,
            2 => Order::Drain,
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

    /// Gives a connection to the worker with the fewest.
    pub(crate) fn deliver(&self, listener: ListenerId, socket: OwnedFd) {
        let to = self.loads.least();
        // It counts from here on, so that the worker does not end before it has it.
        self.loads.add(to);
        self.arrivals[to].push((listener, socket));
        self.wakers.get().and_then(|wakers| wakers.get(to)).into_iter().for_each(Waker::wake);
    }

    /// A connection that was delivered to this worker.
    pub(crate) fn take_arrival(&self, worker: usize) -> Option<(ListenerId, OwnedFd)> {
        self.arrivals[worker].pop()
    }

    /// One of them hands connections to nobody any more.
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
        let control = Control::new(3, false);
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
        let control = Control::new(1, false);
        for (order, then) in [
            (Order::Retire, Order::Retire),
            (Order::Drain, Order::Drain),
            (Order::Retire, Order::Drain),
            (Order::Stop, Order::Stop),
            (Order::Drain, Order::Stop),
        ] {
            control.command(order);
            assert_eq!(control.order(), then);
        }
    }
}
