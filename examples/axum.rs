//! An axum application behind a web server: `cargo run --example axum --features http`.

use axum::{Router, extract::Path, routing::get};

async fn hello(Path(name): Path<String>) -> String {
    format!("Hello, {name}!\n")
}

fn main() -> ringway::Result<()> {
    ringway::serve("127.0.0.1:9000", Router::new().route("/hello/{name}", get(hello)))
}
