//! The whole server as a web server sees it: real sockets, every driver, the public API.
//!
//! `RINGWAY_REQUIRE=ring` makes a host that denies io_uring a failure.

#[path = "../support/junk.rs"]
mod junk;
#[path = "../support/peer.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod peer;
#[path = "../support/server.rs"]
mod server;

mod aborts;
mod answers;
mod app;
mod bodies;
mod deadlines;
mod framing;
mod handover;
mod lifecycle;
mod notify;
mod paths;
mod runtime;
mod tcp;
