//! One axum router, served over FastCGI by Ringway or over HTTP by hyper: one thread either way.

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use clap::Parser;
use loadtest::address::Address;
use ringway::Server;

/// An axum application that says hello.
#[derive(Parser)]
#[group(required = true, multiple = false)]
struct Args {
    /// Serve FastCGI at unix:/path or IP:PORT
    #[arg(long)]
    fastcgi: Option<Address>,
    /// Serve HTTP at unix:/path or IP:PORT
    #[arg(long)]
    http: Option<Address>,
}

fn router() -> Router {
    Router::new().route("/hello", get(|| async { ([("content-type", "text/plain")], "Hello, world!\n") }))
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(address) = args.fastcgi {
        return Ok(Server::builder().listen(address.to_string()).workers(1).service("/", router()).run()?);
    }
    let address = args.http.context("clap demands one of the two")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match address {
            Address::Unix(path) => axum::serve(tokio::net::UnixListener::bind(path)?, router()).await,
            Address::Tcp(address) => {
                axum::serve(tokio::net::TcpListener::bind(address).await?, router()).await
            }
        }
    })?;
    Ok(())
}
