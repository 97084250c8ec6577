//! A guestbook for members: an axum application with a database, a form with upload, live entries and a login that
//! guards the whole site, behind nginx or lighttpd.
//!
//! ```text
//!              ┌─ nginx: the page /auth          ┐
//!   visitor ──▶│                                 ├─▶ session: who is it?   401, or REMOTE_USER
//!              ├─ lighttpd: the Authorizer       ┘
//!              └─ both: the pages, /login aside ───▶ pages: axum ─▶ store: SQLite or PostgreSQL
//! ```
//!
//! In this folder:
//!
//! ```text
//! GUESTBOOK_PASSWORD=sesame cargo run
//! nginx -e stderr -p "$PWD" -c nginx.conf      # or: lighttpd -D -f lighttpd.conf
//! ```
//!
//! and the guestbook is at <http://127.0.0.1:8080>.

mod pages;
mod session;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use ringway::http::Tower;
use ringway::{AuthRequest, Decision, Request, Response, Server};

use self::pages::Shared;
use self::session::Sessions;
use self::store::Store;

/// A guestbook for members, behind nginx or lighttpd.
#[derive(Parser)]
struct Arguments {
    /// Where the web server finds it: HOST:PORT or unix:/path.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: String,
    /// Where the entries are: sqlite:FILE?mode=rwc or postgres://USER:PASSWORD@HOST/NAME.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:guestbook.db?mode=rwc",
        hide_env_values = true
    )]
    database: String,
    /// Where the pictures are; the folder is made if need be.
    #[arg(long, default_value = "pictures")]
    pictures: PathBuf,
    /// What members log in with.
    #[arg(long, env = "GUESTBOOK_PASSWORD", hide_env_values = true)]
    password: String,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Arguments { listen, database, pictures, password } = Arguments::parse();
    std::fs::create_dir_all(&pictures)
        .with_context(|| format!("the folder {} cannot be made", pictures.display()))?;
    store::create(&database).context("the database cannot be set up")?;
    let sessions = Arc::new(Sessions::new(password));
    let shared = Shared::new(sessions.clone(), pictures)?;
    // A connection to a database belongs to the runtime that it was made in, and each worker has one of its own.
    let pages = Tower::per_worker(move || {
        let store = Store::connect(&database).expect("its URL was good a moment ago");
        pages::router(shared.clone(), store)
    });
    let asked = sessions.clone();
    Server::builder()
        .listen(listen)
        .authorizer("/", move |request| authorize(asked.clone(), request))
        .responder("/auth", move |request| auth(sessions.clone(), request))
        .responder("/", pages)
        .run()?;
    Ok(())
}

/// lighttpd asks here before it asks for a page, and makes the variable one of the page's parameters.
async fn authorize(sessions: Arc<Sessions>, request: AuthRequest) -> Decision {
    match sessions.member(request.params()) {
        Some(name) => Decision::allow().variable("REMOTE_USER", name),
        None => Decision::deny(Response::text("log in first\n").status(303).header("Location", "/login")),
    }
}

/// nginx has no Authorizers, and asks this page.
async fn auth(sessions: Arc<Sessions>, request: Request) -> Response {
    match sessions.member(request.params()) {
        Some(name) => Response::new(204).header("X-Remote-User", name),
        None => Response::text("log in first\n").status(401),
    }
}
