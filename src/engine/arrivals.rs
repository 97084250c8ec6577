//! Takes over the connections that other processes pass on, on a thread of its own.
//!
//! ```text
//!   passage ─▶ this thread ─▶ the worker with the fewest     one in each process; who has the fewest
//!          └─▶ that of another process ─▶ …                  connections is the first to take the next
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::ring::{Passage, Waker};

use super::control::{Control, Order};

/// How long a process leaves a connection to those with fewer, for each connection that it has.
const DEFERENCE: Duration = Duration::from_micros(20);

/// From so many connections on it does not wait any longer.
const DEFERENCE_LOADS_MAX: u32 = 25;

/// When to look again whether there is room for connections.
const FULL_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the thread works with.
pub(super) struct Arrivals {
    passage: Arc<Passage>,
    control: Arc<Control>,
    connections_max: usize,
    /// Readable once there is an order.
    event: Arc<OwnedFd>,
}

impl Arrivals {
    pub(super) fn new(
        passage: Arc<Passage>,
        control: Arc<Control>,
        connections_max: usize,
    ) -> io::Result<Arrivals> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Arrivals { passage, control, connections_max, event })
    }

    /// Makes the thread see orders.
    pub(super) fn waker(&self) -> Waker {
        let event = self.event.clone();
        Waker::new(move || {
            // Fails only when the counter is full: then it is readable.
            let _ = rustix::io::write(&event, &1u64.to_ne_bytes());
        })
    }

    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("ringway-arrivals".into()).spawn(move || self.run())
    }

    fn run(&self) {
        while self.control.order() == Order::Serve {
            self.wait();
        }
        // Where all processes end at a time nobody else takes what is on its way, and it may have requests.
        if self.control.order() == Order::Drain {
            while self.take() {}
        }
        self.control.stopped_accepting();
    }

    /// Waits for a connection, or for an order.
    fn wait(&self) {
        let is_full = self.control.loads.total() >= self.connections_max;
        let mut sources = [
            PollFd::new(&*self.event, PollFlags::IN),
            PollFd::from_borrowed_fd(self.passage.exit(), PollFlags::IN),
        ];
        let watched = if is_full { &mut sources[..1] } else { &mut sources[..] };
        match poll(watched, is_full.then_some(&FULL_PAUSE)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => panic!("two open descriptors can be polled: {errno}"),
        }
        if !sources[0].revents().is_empty() {
            // Nothing to read is as good.
            let _ = rustix::io::read(&*self.event, &mut [0; 8]);
        } else if !is_full && !sources[1].revents().is_empty() {
            let loads = self.control.loads.total() as u32;
            std::thread::sleep(DEFERENCE * loads.min(DEFERENCE_LOADS_MAX));
            self.take();
        }
    }

    /// Whether there was a connection.
    fn take(&self) -> bool {
        match self.passage.take() {
            Ok(Some((listener, socket))) => {
                self.control.deliver(listener, socket);
                true
            }
            Ok(None) => false,
            Err(failure) => {
                tracing::warn!("a connection is lost: {failure} (raise the limit of open files)");
                true
            }
        }
    }
}
