//! What a whole worker costs: requests in at a Unix socket, answers out, one worker on each driver.
//!
//! The time is that of a batch of 64 there and back, with the client's share; the load test separates the two.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::proto::RequestId;
use ringway::{Driver, Request, Response, Server};

const BATCH: u16 = 64;

async fn hello(_: Request) -> Response {
    Response::text("Hello, world!\n")
}

fn worker(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker");
    group.throughput(Throughput::Elements(BATCH.into()));
    let folder = tempfile::tempdir().expect("a folder for the socket");
    for (name, driver) in [("uring", Driver::Uring), ("epoll", Driver::Epoll)] {
        let path = folder.path().join(name);
        let builder = Server::builder().listen(format!("unix:{}", path.display())).workers(1).driver(driver);
        let server = match builder.responder("/", hello).start() {
            Ok(server) => server,
            Err(error) => {
                println!("worker/{name}: skipped: {error}");
                continue;
            }
        };
        let mut client = UnixStream::connect(&path).expect("the server listens");
        let ids = (1..=BATCH).filter_map(RequestId::new);
        let batch: Vec<u8> = ids.flat_map(support::request).collect();
        let mut answers = vec![0; answer_bytes(&mut client) * usize::from(BATCH)];
        group.bench_function(format!("multiplexed_64/{name}"), |b| {
            b.iter(|| {
                client.write_all(&batch).expect("the server reads");
                client.read_exact(&mut answers).expect("the server answers");
            });
        });
        server.stop();
    }
    group.finish();
}

/// How long one answer is: all are.
fn answer_bytes(client: &mut UnixStream) -> usize {
    client.write_all(&support::request(RequestId::ONE)).expect("the server reads");
    let mut answer = [0; 512];
    // It is short and leaves in one write.
    client.read(&mut answer).expect("the server answers")
}

criterion_group!(benches, worker);
criterion_main!(benches);
