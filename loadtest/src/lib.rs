//! A load generator for FastCGI servers, the servers to compare with, and the scenarios that compare them.
//!
//! ```text
//!  request ─▶ load ─▶ ring ─▶ socket ─▶ server under test     wire      records, written a second time
//!              ▲                            │                 process   the server's CPU clock and memory
//!   answer ◀───┴──── ring ◀── socket ◀──────┘                 syscalls  its system calls, as the kernel counts
//!
//!  compare: cells × contenders × rounds ─▶ summary ─▶ targets ─▶ Markdown, JSON, exit code
//! ```
//!
//! It shares no code with the server it measures: an error in one reading of the specification is caught by
//! the other. It is not a conformance suite, and it does not spread over threads: one thread on one core loads
//! one worker on another.

pub mod address;
pub mod answer;
pub mod axum;
pub mod cells;
pub mod cgi;
pub mod cli;
pub mod compare;
pub mod contender;
pub mod family;
pub mod front;
pub mod idle;
pub mod load;
pub mod process;
pub mod report;
pub mod request;
pub mod ring;
pub mod server;
pub mod summary;
pub mod syscalls;
pub mod targets;
pub mod wire;
pub mod wsgi;
