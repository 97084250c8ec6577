//! Real web servers in front of `ringway serve probe`: what their visitors see.
//!
//! - [`pages`]: what every web server must show, page by page
//! - [`nginx`], [`haproxy`]: how each is set up, the ways to mount an application there, and what only it does
//! - [`starts`]: how a process comes to its socket, and how it is replaced while a web server sends requests
//!
//! A web server that is not installed is skipped with a line that says so; `RINGWAY_REQUIRE=web` makes that a failure.

#[path = "../support"]
mod support {
    pub(crate) mod process;
    pub(crate) mod tap;
    pub(crate) mod web;
}

mod haproxy;
mod nginx;
mod pages;
mod starts;
