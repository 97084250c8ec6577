//! A FastCGI client: what a web server does, for tools, tests and proxies.
//!
//! ```text
//!              ┌───────────┐ outbox   ┌────────┐
//!  Upload ────▶│ Client    ├─────────▶│ writer ├──▶ socket      many requests on one connection,
//!              │ (id table)│          └────────┘                told apart by their ids
//!  Answer ◀────┤           │◀─────────  reader  ◀── socket
//!              └───────────┘ parts
//! ```
//!
//! ```no_run
//! use ringway::client::{Client, Part, Request};
//!
//! # async fn example() -> Result<(), ringway::client::Error> {
//! let client = Client::connect(&"127.0.0.1:9000".parse()?).await?;
//! let mut exchange = client.begin(&Request::new("GET", "/hello"))?;
//! exchange.stdin.end().await?;
//! let head = exchange.answer.head().await?;
//! println!("{}", head.status);
//! while let Some(part) = exchange.answer.next().await? {
//!     match part {
//!         Part::Stdout(bytes) => println!("{} bytes", bytes.len()),
//!         Part::Stderr(bytes) => eprint!("{}", String::from_utf8_lossy(&bytes)),
//!         Part::End(end) => println!("{end}"),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! FastCGI has no flow control for the streams of one connection: an [`Answer`] that nobody reads stops, once
//! its window is full, every other request on its connection. Read answers while bodies are sent, or give a
//! slow reader a connection of its own.

mod address;
mod connection;
mod error;
mod exchange;
mod head;
mod record;
mod request;

pub use address::Address;
pub use connection::{Client, Tap};
pub use error::Error;
pub use exchange::{Answer, Complete, End, Exchange, Part, Upload};
pub use head::{Head, HeadError, HeadParser};
pub use record::{Direction, Record};
pub use request::Request;
