//! tower services and axum routers behind a FastCGI socket, on every driver.

#[path = "../support/peer.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod peer;
#[path = "../support/server.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod server;

mod answers;
mod bodies;
mod files;
mod layers;
mod requests;
mod routers;
mod services;
