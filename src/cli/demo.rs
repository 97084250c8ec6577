//! `ringway demo`: the probe over FastCGI behind an HTTP front of our own. Nothing has to be installed.
//!
//! ```text
//!   browser ── HTTP ──▶ front (hyper, ringway::client) ── FastCGI, Unix socket ──▶ server, probe
//! ```

mod front;
mod index;
mod records;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgMatches, Args, FromArgMatches};
use ringway::Server;
use ringway::config::Config;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Command, Failure, Logging, config_file, serve};
use front::Front;

pub(super) const COMMAND: Command = Command {
    name: "demo",
    about: "Shows the probe application in a browser, over FastCGI, with nothing to install",
    arguments: |command| config_file::add_flags(Options::augment_args(command)),
    run,
};

#[derive(Args)]
struct Options {
    /// Where the HTTP front listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    #[command(flatten)]
    logging: Logging,
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    let config = config_file::read(matches).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(Failure::running)?.block_on(demonstrate(options, config))
}

async fn demonstrate(options: Options, mut config: Config) -> Result<(), Failure> {
    let listener =
        TcpListener::bind(options.http).await.map_err(|error| cannot_listen(options.http, &error))?;
    let local = listener.local_addr().map_err(Failure::running)?;
    let directory =
        PrivateDirectory::new().map_err(|error| Failure::running(format!("socket directory: {error}")))?;
    let address = format!("unix:{}", directory.path().join("ringway.sock").display());
    options.logging.start()?;

    config.listen.push(address.clone());
    if config.workers == 0 {
        // Enough to show, on whatever machine this is.
        config.workers = 2;
    }
    let mut server = serve::with_probe(Server::builder().config(config), "/").start()?;
    println!("The probe answers at http://{local}/ over FastCGI; Ctrl-C ends it.");

    let address = address.parse().map_err(Failure::running)?;
    let front = Arc::new(Front::new(address, local, server.driver()));
    tokio::select! {
        () = front.serve(listener) => {}
        () = ended() => {}
    }
    server.drain();
    Ok(server.wait()?)
}

fn cannot_listen(http: SocketAddr, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another program has this port; choose one with --http 127.0.0.1:PORT",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are root's; choose one with --http 127.0.0.1:PORT"
        }
        _ => "choose an address of this machine with --http ADDR:PORT",
    };
    Failure::usage(format!("cannot listen on {http}: {error}; {remedy}"))
}

/// SIGINT or SIGTERM.
async fn ended() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        // Without a handler the signal ends the process by itself.
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending().await },
        () = terminated => {}
    }
}

/// A directory that only this user can enter, removed in the end with the socket in it.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn new() -> io::Result<PrivateDirectory> {
        // One that exists is refused, so nobody else's directory is ever used; an earlier process may have
        // left one.
        let mut attempt = 0;
        loop {
            let path = std::env::temp_dir().join(format!("ringway-demo-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(PrivateDirectory(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What is left in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
