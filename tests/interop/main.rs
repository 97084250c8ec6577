//! Real web servers in front of `ringway serve probe`: what their visitors see.
//!
//! - [`pages`]: what every web server must show, page by page
//! - [`nginx`], [`apache`], [`haproxy`]: how each is set up, the ways to mount an application there, and what only
//!   it does
//! - [`lighttpd`], [`caddy`], [`h2o`]: the same, by way of [`stand`], which starts any of them
//! - [`replayed`]: web servers that are not to be had any more, by what they sent
//! - [`systemd`], [`supervisor`]: who starts processes and keeps them running
//! - [`support::conf`]: `ringway conf` configures the web servers; [`support::matrix`]: what they show is the
//!   table in `docs/deployment.md`
//! - `tower`: an axum router behind nginx (feature `http`)
//! - [`starts`]: how a process comes to its socket, and how it is replaced while a web server sends requests
//! - [`spawners`]: the programs that hand it a socket: spawn-fcgi, systemd
//! - [`spawned`]: what the processes around it do to it: descriptors, signals
//! - [`files`]: files that the web server sends for the application
//! - [`client`]: our own client before PHP-FPM, libfcgi and Go
//! - [`access`]: which peers may connect
//! - [`as_cgi`]: without FastCGI, as a CGI program
//! - [`mounts`]: where an application sees itself mounted, whatever it is told
//! - [`cgi`]: `ringway serve cgi:DIRECTORY`
//!
//! A web server that is not installed is skipped with a line that says so; `RINGWAY_REQUIRE=web` makes that a failure.

#[path = "../support"]
mod support {
    pub(crate) mod conf;
    pub(crate) mod matrix;
    pub(crate) mod process;
    pub(crate) mod tap;
    pub(crate) mod web;
}

mod access;
mod apache;
mod as_cgi;
mod caddy;
mod cgi;
mod client;
#[cfg(feature = "http")]
mod files;
mod h2o;
mod haproxy;
mod lighttpd;
mod mounts;
mod nginx;
mod pages;
mod replayed;
mod spawned;
mod spawners;
mod stand;
mod starts;
mod supervisor;
mod systemd;
#[cfg(feature = "http")]
mod tower;

/// The table in `docs/deployment.md` has a row for each way that is tested; `UPDATE_DOCS=1` writes it.
#[test]
fn the_table_of_the_docs_is_what_is_tested() {
    #[rustfmt::skip]
    let rows = [
        nginx::WAYS,
        nginx::MATRIX,
        apache::MATRIX,
        haproxy::MATRIX,
        lighttpd::MATRIX,
        caddy::MATRIX,
        h2o::MATRIX,
        replayed::MATRIX,
        as_cgi::MATRIX,
        cgi::MATRIX,
        spawners::MATRIX,
        systemd::MATRIX,
        supervisor::MATRIX,
    ];
    support::matrix::compare(&rows.concat());
}
