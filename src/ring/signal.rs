//! Descriptors in the hands of the worker's host runtime: a ring's signal, a process.
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor's life")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets tokio watch [`notify_fd`](super::Ring::notify_fd). Must be called within the runtime.
pub(crate) fn watch(notify_fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    watch_owned(notify_fd.try_clone_to_owned()?)
}

/// Lets tokio watch a descriptor until it is readable. Must be called within the runtime.
pub(crate) fn watch_owned(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `AsyncFd` owns the descriptor, and an `OwnedFd` stays open and the same until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}
