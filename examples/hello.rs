//! The ten-line server: `cargo run --example hello`, then point a web server's FastCGI at 127.0.0.1:9000.

use ringway::{Request, Response, Server};

async fn hello(_: Request) -> Response {
    Response::text("Hello, world!\n")
}

fn main() -> ringway::Result<()> {
    Server::builder().listen("127.0.0.1:9000").responder("/", hello).run()
}
