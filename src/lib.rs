//! Ringway is a FastCGI server engine on io_uring.
#![cfg_attr(not(feature = "server"), no_std)]

extern crate alloc;

pub mod proto;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod ring;
