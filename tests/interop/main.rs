//! Real web servers in front of `ringway serve probe`: what their visitors see.
//!
//! - [`pages`]: what every web server must show, page by page
//! - [`nginx`], [`haproxy`]: how each is set up, the ways to mount an application there, and what only it does
//! - [`starts`]: how a process comes to its socket, and how it is replaced while a web server sends requests
//! - [`spawned`]: what the processes around it do to it: descriptors, signals
//! - [`access`]: which peers may connect
//!
//! A web server that is not installed is skipped with a line that says so; `RINGWAY_REQUIRE=web` makes that a failure.

#[path = "../support"]
mod support {
    pub(crate) mod process;
    pub(crate) mod tap;
    pub(crate) mod web;
}

mod access;
mod haproxy;
mod nginx;
mod pages;
mod spawned;
mod starts;
