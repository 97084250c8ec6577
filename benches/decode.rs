//! What a request costs before its handler runs: four records to events, params parsed, END_REQUEST written.

mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::proto::{
    Connection, Event, Limits, Params, ProtocolStatus, RecordType, RequestId, RequestKey, Role, WellKnown,
    encoder,
};

/// Takes `bytes` in, parses the params of every request and ends it once its input is complete. Returns the
/// number of requests served.
fn serve(connection: &mut Connection<()>, bytes: &[u8], limits: &Limits, out: &mut Vec<u8>) -> usize {
    let (mut input, mut served) = (bytes, 0);
    let mut params = Params::default();
    while let Some(event) = connection.handle_input(&mut input, out).expect("valid records") {
        match event {
            Event::Params { bytes, .. } => params = Params::parse(bytes, limits).expect("valid params"),
            Event::StdinEnded { request } => {
                black_box(params.well_known(WellKnown::RequestMethod));
                end(connection, request, out);
                served += 1;
            }
            _ => {}
        }
    }
    served
}

fn end(connection: &mut Connection<()>, request: RequestKey, out: &mut Vec<u8>) {
    out.clear();
    connection.finish(request, 0, ProtocolStatus::RequestComplete, out);
}

fn decode(c: &mut Criterion) {
    let limits = Arc::new(Limits::default());
    let mut out = Vec::with_capacity(1024);
    let mut group = c.benchmark_group("decode");

    let one = support::request(RequestId::ONE);
    group.throughput(Throughput::Elements(1));
    group.bench_function("request", |b| {
        let mut connection = Connection::new(Arc::clone(&limits));
        b.iter(|| serve(&mut connection, black_box(&one), &limits, &mut out));
    });
    group.bench_function("request_without_params_parse", |b| {
        let mut connection = Connection::<()>::new(Arc::clone(&limits));
        b.iter(|| {
            let mut input = black_box(&one[..]);
            while let Some(event) = connection.handle_input(&mut input, &mut out).expect("valid records") {
                if let Event::StdinEnded { request } = black_box(event) {
                    end(&mut connection, request, &mut out);
                }
            }
        });
    });

    // 64 requests begin, then their PARAMS come, then their STDIN: the id changes with every record.
    let mut multiplexed = Vec::new();
    let ids: Vec<_> = (1..=64).filter_map(RequestId::new).collect();
    for id in &ids {
        encoder::begin_request(&mut multiplexed, *id, Role::Responder, true);
    }
    for id in &ids {
        encoder::stream(&mut multiplexed, RecordType::Params, *id, &support::params());
    }
    for record_type in [RecordType::Params, RecordType::Stdin] {
        ids.iter().for_each(|id| encoder::stream_end(&mut multiplexed, record_type, *id));
    }
    group.throughput(Throughput::Elements(64));
    group.bench_function("64_requests_interleaved", |b| {
        let mut connection = Connection::new(Arc::clone(&limits));
        b.iter(|| serve(&mut connection, black_box(&multiplexed), &limits, &mut out));
    });

    let mut upload = Vec::new();
    encoder::begin_request(&mut upload, RequestId::ONE, Role::Responder, true);
    encoder::stream_end(&mut upload, RecordType::Params, RequestId::ONE);
    encoder::stream(&mut upload, RecordType::Stdin, RequestId::ONE, &vec![7; 1 << 20]);
    encoder::stream_end(&mut upload, RecordType::Stdin, RequestId::ONE);
    group.throughput(Throughput::Bytes(upload.len() as u64));
    group.bench_function("upload_1_mib_in_reads_of_16_kib", |b| {
        let mut connection = Connection::new(Arc::clone(&limits));
        b.iter(|| {
            black_box(&upload)
                .chunks(16_384)
                .map(|r| serve(&mut connection, r, &limits, &mut out))
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
