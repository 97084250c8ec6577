//! PARAMS alone: parse, look up, iterate, encode.

#[expect(dead_code, reason = "the records are for the other benchmarks")]
mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::proto::params::encode_pair;
use ringway::proto::{Limits, Params, WellKnown};

fn params(c: &mut Criterion) {
    let stream = support::params();
    let limits = Limits::default();
    let parsed = Params::parse(&stream[..], &limits).expect("a valid stream");
    let mut group = c.benchmark_group("params");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| Params::parse(black_box(&stream[..]), &limits).is_ok());
    });
    group.bench_function("well_known", |b| {
        b.iter(|| black_box(&parsed).well_known(black_box(WellKnown::PathInfo)).map(<[u8]>::len));
    });
    group.bench_function("get_other", |b| {
        b.iter(|| black_box(&parsed).get(black_box("HTTP_ACCEPT")).map(<[u8]>::len));
    });
    group.bench_function("iterate", |b| {
        b.iter(|| black_box(&parsed).iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
    });
    let mut out = Vec::with_capacity(stream.len());
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            for (name, value) in support::PAIRS {
                encode_pair(&mut out, black_box(name.as_bytes()), black_box(value.as_bytes()));
            }
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, params);
criterion_main!(benches);
