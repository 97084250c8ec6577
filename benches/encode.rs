//! What an answer costs on its way out.

#[expect(dead_code, reason = "the request is for the other benchmarks")]
mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::proto::encoder::{self, OpenRecord};
use ringway::proto::{ProtocolStatus, RecordType, RequestId};

const HEAD: &[u8] = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\n";
const BODY: &[u8] = b"Hello, world!\n";

fn encode(c: &mut Criterion) {
    let id = RequestId::ONE;
    let mut out = Vec::with_capacity(1 << 21);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("answer", |b| {
        b.iter(|| {
            out.clear();
            let record = OpenRecord::begin(&mut out, RecordType::Stdout, black_box(id));
            out.extend_from_slice(black_box(HEAD));
            out.extend_from_slice(black_box(BODY));
            record.finish(&mut out);
            encoder::stream_end(&mut out, RecordType::Stdout, id);
            encoder::end_request(&mut out, id, 0, ProtocolStatus::RequestComplete);
            out.len()
        });
    });
    let megabyte = vec![7; 1 << 20];
    group.throughput(Throughput::Bytes(megabyte.len() as u64));
    group.bench_function("stream_1_mib", |b| {
        b.iter(|| {
            out.clear();
            encoder::stream(&mut out, RecordType::Stdout, black_box(id), black_box(&megabyte));
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
