//! Ringway is a FastCGI server engine on io_uring: web servers (nginx, Apache, lighttpd, HAProxy, Caddy, h2o) speak
//! FastCGI 1.0 to an application, and Ringway is that application's end of the socket.
//!
//! ```text
//!  socket ─▶ ring ─▶ buffer ─▶ decoder ─▶ connection ─▶ request ─▶ handler ─▶ response ─▶ encoder ─▶ ring ─▶ socket
//!           └──── ring/ ────┘  └──────────── proto/ ──────────┘   └─── handler/ ────┘    proto/     ring/
//!                              engine/ turns the crank: one worker = one thread = one ring = its own connections
//! ```
//!
//! A server in ten lines:
//!
//! ```no_run
//! use ringway::{Request, Response, Server};
//!
//! async fn hello(_: Request) -> Response {
//!     Response::text("Hello, world!\n")
//! }
//!
//! fn main() -> ringway::Result<()> {
//!     Server::builder().listen("127.0.0.1:9000").responder("/", hello).run()
//! }
//! ```
//!
//! What it does not do: it speaks no HTTP, serves no files and terminates no TLS; the web server in front does.
//!
//! # Where to look
//!
//! - [`Server`], [`Builder`], [`Handle`]: start, change and stop a server
//! - [`Request`], [`Response`] and the other types that handlers use; [`Responder`], [`Authorizer`], [`Filter`]
//! - [`Config`]: every limit, deadline and address, with its default
//! - [`metrics`]: what is counted
//! - `cgi`: CGI programs as a handler (feature `cgi`)
//! - [`proto`]: the protocol alone, without I/O and without `std`
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `server` (default) | the server; without it the crate is `proto` alone, `no_std` |
//! | `http` | tower services and axum routers as handlers, in the module `http`; answers that are files |
//! | `client` | a FastCGI client on tokio |
//! | `cgi` | CGI programs behind FastCGI |
//! | `as-cgi` | answering as a plain CGI program where started as one |
//! | `config-file` | settings in a TOML file: `config::File` |
//! | `cli` | the command `ringway` |
//! | `python` | WSGI applications, in the module `wsgi`; needs a Python to build |
//! | `mimalloc` | mimalloc as the allocator of the command; a library never chooses one |
#![cfg_attr(not(any(feature = "server", feature = "client")), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The page above is the same without the server that it tells of.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

extern crate alloc;

#[cfg(feature = "as-cgi")]
pub mod as_cgi;
#[cfg(feature = "cgi")]
pub mod cgi;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
mod engine;
#[cfg(feature = "server")]
mod error;
#[cfg(feature = "server")]
pub mod handler;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "server")]
pub mod metrics;
pub mod proto;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod ring;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "python")]
pub mod wsgi;

#[cfg(feature = "server")]
pub use self::{
    config::{Config, Driver, SendFile},
    error::Error,
    handler::{
        AuthRequest, Authorizer, Data, Decision, Failure, Filter, FilterRequest, IntoResponse, Params,
        ReadError, Registry, Request, Responder, Response, Stderr, Stdin, Stdout, WriteError, ready,
    },
    proto::{RequestId, Role},
    ring::{Choice, Chunk, Passage},
    server::{Builder, Handle, Listeners, Server},
};
#[cfg(feature = "http")]
pub use self::{
    handler::File,
    http::{Body, serve},
};

/// The outcome of running a server.
#[cfg(feature = "server")]
pub type Result<T, E = Error> = std::result::Result<T, E>;
