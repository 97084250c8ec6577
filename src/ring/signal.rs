//! A ring's signal in the hands of its worker's host runtime.
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor's life")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets tokio watch [`notify_fd`](super::Ring::notify_fd). Must be called within the runtime.
pub(crate) fn watch(notify_fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = notify_fd.try_clone_to_owned()?;
    // SAFETY: the descriptor is a duplicate that nobody else has; `AsyncFd` owns it, and an `OwnedFd` stays open and
    // the same until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}
