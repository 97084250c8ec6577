//! The guestbook as its visitors have it: behind real web servers, configured by the files of this folder, with a real
//! database and a real browser.
//!
//! - [`pages`]: what every web server and database must show
//! - [`browser`]: what Chromium shows
//! - [`stand`]: the guestbook, a web server before it and a database behind it
//!
//! What is not installed is skipped with a line that says so; `RINGWAY_REQUIRE=web,browser,postgres` makes that a
//! failure.

#[path = "../../../../tests/support"]
#[allow(dead_code, reason = "other tests use all of it")]
mod support {
    pub(crate) mod process;
    pub(crate) mod web;
}

mod browser;
mod pages;
mod stand;
