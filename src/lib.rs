//! Ringway is a FastCGI server engine on io_uring.
#![cfg_attr(not(feature = "server"), no_std)]

extern crate alloc;

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod metrics;
pub mod proto;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod ring;
