//! The FastCGI 1.0 protocol without I/O: bytes in, events out.
//!
//! No clock, no threads, no sockets, no `unsafe`, no `std`. It speaks the application's side of a connection
//! and has the numbers and encoders for the other one too.
//!
//! ```text
//!            ┌────────────────────────────── a record ──────────────────────────────┐
//!  bytes     0         1      2         4           6         7          8
//!            ├─────────┼──────┼─────────┼───────────┼─────────┼──────────┼─────────┬─────────┐
//!            │version 1│ type │ id      │ content   │ padding │ reserved │ content │ padding │
//!            │         │      │         │ length    │ length  │          │         │         │
//!            └─────────┴──────┴─────────┴───────────┴─────────┴──────────┴─────────┴─────────┘
//! ```
//!
//! Four types to know:
//!
//! - [`Connection`] takes what a peer sends and says what it means, as [`Event`]s;
//! - [`Params`] are a request's name-value pairs;
//! - [`encoder`] writes what is sent, into any `Vec<u8>`;
//! - [`Limits`] bounds what a peer can ask for.
//!
//! # Driving a connection
//!
//! 1. Give every byte received to [`Connection::handle_input`], in order, in pieces of any size, and call it
//!    until it returns `None`: the input is empty then, and the buffer it was in is free but for the pieces
//!    that events lent out and the caller keeps.
//! 2. Send what was appended to `reply`.
//! 3. Gather `Params`; at `ParamsEnded` call [`Params::parse`] and start the handler.
//! 4. Write the answer with [`encoder`]; end each stream; [`Connection::finish`] ends the request: once, and
//!    also after `Aborted` and `Failed`.
//! 5. After each `finish` and each call of `handle_input`, close if [`Connection::wants_close`].
//! 6. When the input ends, or after an error, abort [`Connection::incomplete`] and answer the others.
//!
//! The same bytes give the same events however they are split, but for the borders of stream pieces.

pub mod connection;
pub mod decoder;
pub mod encoder;
pub mod error;
pub mod limits;
mod management;
pub mod params;
mod request;
pub mod wire;

pub use connection::{Connection, Event, RequestKey, WholeRequest};
pub use decoder::{Decoder, Fragment};
pub use error::{Answer, Error, ErrorKind, Scope};
pub use limits::Limits;
pub use params::{Pairs, Params, WellKnown};
pub use wire::{Header, ProtocolStatus, RecordType, RequestId, Role};
