//! The submission and completion queues: the only place that talks to the kernel's ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use io_uring::{IoUring, Submitter, cqueue, squeue};

use super::super::{Failure, Operation};

/// SQEs between two enters; when more are asked for, an enter comes in between. Small, because the kernel
/// walks round the whole queue and so all of it lies in the cache: 256 x 64 bytes.
const SUBMISSIONS: u32 = 256;
/// CQEs that fit before the kernel keeps them in a list of its own, which costs more but loses none.
const COMPLETIONS: u32 = 4096;

// linux/io_uring.h
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// The two queues, and operations that found no room.
pub(super) struct Queue {
    ring: IoUring,
    /// In order, behind what is in the submission queue. Empty but while the kernel takes nothing.
    backlog: VecDeque<squeue::Entry>,
    /// Flags of every enter that may wait.
    wait_flags: u32,
    syscalls: u64,
}

impl Queue {
    /// Sets up the ring for the calling thread alone.
    pub(super) fn new() -> io::Result<Queue> {
        let ring = match Queue::build(true) {
            // NO_SQARRAY is of Linux 6.6 and saves one indirection; all else must be there (Linux 6.1).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Queue::build(false)?,
            result => result?,
        };
        // A server that waits for requests is idle; without this it is shown as waiting for a disk.
        let no_iowait = if ring.params().is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 };
        let wait_flags = ENTER_GETEVENTS | no_iowait;
        Ok(Queue { ring, backlog: VecDeque::new(), wait_flags, syscalls: 0 })
    }

    fn build(no_sqarray: bool) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(COMPLETIONS).setup_submit_all();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(SUBMISSIONS)
    }

    /// Queues an operation that points to no memory.
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: there is no memory that would have to stay valid.
        unsafe { self.push_pointing(entry) }
    }

    /// Queues an operation. When the submission queue is full, what is in it is submitted first.
    ///
    /// # Safety
    ///
    /// The memory that the operation points to stays valid, and is not written to, until its last completion,
    /// or until it is known that the kernel is done with it.
    #[inline(always)]
    pub(super) unsafe fn push_pointing(&mut self, entry: squeue::Entry) {
        let mut submission = self.ring.submission();
        if self.backlog.is_empty() && !submission.is_full() {
            // SAFETY: as the caller promises.
            let _ = unsafe { submission.push(&entry) };
        } else {
            drop(submission);
            // SAFETY: as the caller promises.
            unsafe { self.push_late(entry) };
        }
    }

    /// Queues an operation for which there is no room.
    ///
    /// # Safety
    ///
    /// As for `push_pointing`.
    #[cold]
    unsafe fn push_late(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // Only submits: this may happen in the middle of reading completions.
            let _ = self.enter(0, 0);
        }
        self.backlog.push_back(entry);
        self.push_backlog();
    }

    fn push_backlog(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: whoever queued it promised what `push_pointing` asks for.
            if unsafe { submission.push(&entry) }.is_err() {
                return self.backlog.push_front(entry);
            }
        }
    }

    /// Submits what is queued, lets the kernel deliver what is due, and sleeps until at least `want`
    /// completions are there. A signal ends the sleep early; that is no failure.
    pub(super) fn turn(&mut self, want: u32) -> Result<(), Failure> {
        self.push_backlog();
        let want = if self.backlog.is_empty() { want } else { 0 };
        self.enter(want, self.wait_flags).or_else(|errno| match errno {
            // EBUSY: completions must be read first. EAGAIN: no memory for requests at the moment. Both pass,
            // and what was not submitted is still queued.
            libc::EINTR | libc::EBUSY | libc::EAGAIN => Ok(()),
            errno => Err(Failure::new(Operation::Wait, errno)),
        })
    }

    fn enter(&mut self, want: u32, flags: u32) -> Result<(), i32> {
        self.syscalls += 1;
        let queued = self.ring.submission().len() as u32;
        let submitter = self.ring.submitter();
        // SAFETY: no argument is passed by address; what the entries point to was promised when they were
        // queued.
        let result = unsafe { submitter.enter::<libc::sigset_t>(queued, want, flags, None) };
        result.map(drop).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Whether a turn has anything to do in the kernel: something to submit, or something due to be
    /// delivered.
    pub(super) fn needs_turn(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow() || !self.backlog.is_empty()
    }

    /// Whether the kernel has taken every operation that was queued.
    pub(super) fn is_submitted(&mut self) -> bool {
        self.backlog.is_empty() && self.ring.submission().is_empty()
    }

    /// Whether work is due that only an enter lets the kernel do.
    pub(super) fn has_work_due(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    pub(super) fn completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Fetches completions that the kernel keeps because the queue was full. Whether there are any now.
    pub(super) fn fetch_overflow(&mut self) -> bool {
        self.ring.submission().cq_overflow()
            && self.enter(0, ENTER_GETEVENTS).is_ok()
            && self.has_completions()
    }

    /// Whether the kernel still keeps completions.
    pub(super) fn is_overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Whether closing a slot of the table closes the file. Before Linux 6.13 that waited for all older operations of
    /// the ring; the feature asked for is of 6.15.
    pub(super) fn closes_slots_at_once(&self) -> bool {
        self.ring.params().is_feature_no_iowait()
    }

    /// Whether each completion signals the registered eventfd. No system call.
    pub(super) fn notify(&mut self, on: bool) {
        let completion = self.ring.completion();
        if on { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }

    /// For registering files, buffers and the eventfd.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// A descriptor of this ring of its own, by which other rings send messages.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring is open as long as `self.ring` lives, and the borrow ends here.
        let fd = unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) };
        fd.try_clone_to_owned()
    }

    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
