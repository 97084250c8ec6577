//! The generator against the echo: every shape is served and counted, and a wrong server is found out.
//!
//! Needs io_uring for the generator; without it the tests say so and pass, unless `RINGWAY_REQUIRE` names
//! `ring`.

use std::process::Command;
use std::time::Duration;

use loadtest::address::Address;
use loadtest::load::{self, Outcome, Pace, Plan, Shape};
use loadtest::ring::Ring;
use loadtest::server::Server;
use loadtest::{request, wire};

struct Echo {
    server: Server,
    shape: Shape,
    _directory: tempfile::TempDir,
}

impl Echo {
    /// `None` where this host has no io_uring.
    fn start(shape: Shape, is_tcp: bool, answer: &[u8]) -> Option<Echo> {
        if let Err(error) = Ring::new(1, Vec::new(), true) {
            let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "ring"), "io_uring: {error}");
            eprintln!("skipped: the generator needs io_uring: {error}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let answer_file = directory.path().join("answer");
        std::fs::write(&answer_file, answer).unwrap();
        let address =
            if is_tcp { Address::free_tcp().unwrap() } else { Address::unix_in(directory.path(), "echo") };
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo_epoll"));
        command.args(["--listen", &address.to_string(), "--ids", &shape.ids().to_string()]);
        command.args(["--request-bytes", &request::hello(1, true).len().to_string()]);
        command.arg("--answer").arg(answer_file);
        if !shape.keeps() {
            command.arg("--close");
        }
        let server = Server::start(command, address, &directory.path().join("log"), 0, 0).unwrap();
        Some(Echo { server, shape, _directory: directory })
    }

    fn load(&self, pace: Pace, requests_max: u64) -> anyhow::Result<Outcome> {
        load::run(&Plan {
            address: self.server.address.clone(),
            shape: self.shape,
            pace,
            warmup: Duration::from_millis(20),
            duration: Duration::from_secs(20),
            requests_max,
            server: Some(self.server.pid()),
        })
    }
}

#[test]
fn every_shape_is_served_verified_and_counted() {
    for shape in [Shape::Kept(1), Shape::Kept(20), Shape::Multiplexed(3, 7), Shape::PerRequest(5)] {
        for is_tcp in [false, true] {
            let Some(echo) = Echo::start(shape, is_tcp, &wire::hello_answer(1)) else { return };
            let outcome = echo.load(Pace::Closed, 2000).unwrap();
            assert!((2000..2100).contains(&outcome.requests), "{shape}: {}", outcome.requests);
            assert_eq!(outcome.latency.len(), outcome.requests, "{shape}");
            assert!(outcome.requests_total >= outcome.requests);
            assert!(outcome.cpu.unwrap() > Duration::ZERO);
            assert_eq!(outcome.answer, wire::hello_answer(1));
        }
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let Some(echo) = Echo::start(Shape::Kept(8), false, &wire::hello_answer(1)) else { return };
    let outcome = echo.load(Pace::Open(1000.0), 500).unwrap();
    let seconds = outcome.elapsed.as_secs_f64();
    assert!(seconds > 0.45, "500 requests at 1000 a second took {seconds} s");
}

#[test]
fn an_open_loop_charges_the_server_for_requests_that_could_not_start() {
    let Some(echo) = Echo::start(Shape::Kept(1), false, &wire::hello_answer(1)) else { return };
    let outcome = echo.load(Pace::Open(1e9), 2000).unwrap();
    assert!(outcome.unsent > 2000, "only {} requests were late", outcome.unsent);
    let (median, elapsed) = (outcome.latency.value_at_quantile(0.5), outcome.elapsed.as_nanos() as u64);
    assert!(median > elapsed / 4, "half of a growing queue waits less than {median} ns of {elapsed} ns");
}

#[test]
fn a_wrong_answer_ends_the_run_and_is_named() {
    let mut wrong = wire::hello_answer(1);
    let at = wrong.windows(6).position(|window| window == b"world!").unwrap();
    wrong[at] = b'W';
    for shape in [Shape::Kept(3), Shape::Multiplexed(1, 4), Shape::PerRequest(3)] {
        let Some(echo) = Echo::start(shape, false, &wrong) else { return };
        let error = format!("{:#}", echo.load(Pace::Closed, 2000).err().expect("a wrong answer"));
        assert!(error.contains("not the body of `hello`: `Hello, World!\\n`"), "{error}");
    }
}

#[test]
fn a_server_that_closes_kept_connections_is_found_out() {
    let Some(mut echo) = Echo::start(Shape::PerRequest(1), false, &wire::hello_answer(1)) else { return };
    echo.shape = Shape::Kept(2);
    let error = format!("{:#}", echo.load(Pace::Closed, 2000).err().expect("an end too early"));
    // Whether the end or the failure of the next request is seen first is a matter of luck.
    assert!(["closed kept connection", "reset", "pipe"].iter().any(|cause| error.contains(cause)), "{error}");
}
