//! The command line: `run` loads one address, the others start servers and compare them.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::address::Address;
use crate::compare::Comparison;
use crate::contender::Programs;
use crate::load::{self, Pace, Plan, Shape};
use crate::process::{self, Cores};
use crate::syscalls::Counter;
use crate::{axum, cgi, report, targets, wsgi};

/// Loads FastCGI servers with requests as nginx sends them, verifies every answer, and measures the server.
#[derive(Parser)]
#[command(name = "ringway-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Run),
    Compare(Compare),
    Cgi(Cgi),
    Axum(Axum),
    Wsgi(Wsgi),
}

/// Loads one server that is already there and serves the probe's `hello`
#[derive(Args)]
struct Run {
    /// unix:/path or IP:PORT of the loopback
    #[arg(long)]
    connect: Address,
    /// kept:N, mux:NxM (connections × ids) or per-request:N
    #[arg(long, default_value = "kept:64")]
    shape: Shape,
    /// Open loop: start this many requests a second, whatever the server does
    #[arg(long)]
    rate: Option<f64>,
    /// Measured seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds of load before that
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Measured requests, at most
    #[arg(long)]
    requests: Option<u64>,
    /// The server's process: report its CPU time and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Count the system calls of --pid too; makes them dearer
    #[arg(long, requires = "pid")]
    syscalls: bool,
    /// The core to run on
    #[arg(long)]
    core: Option<usize>,
}

/// Starts the servers, compares them cell by cell, prints Markdown
#[derive(Args)]
struct Compare {
    /// The `ringway` program; without it only the comparison servers are measured
    #[arg(long)]
    ringway: Option<PathBuf>,
    /// Only cells whose name contains this, such as `unix` or `mux`
    #[arg(long, default_value = "")]
    cells: String,
    /// Interleaved rounds of each cell
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Measured seconds of one round
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seconds of load before each round
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Idle connections whose memory is measured; 0 to leave that out
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// Seconds of wrk through nginx in each of three rounds; 0 to leave that out
    #[arg(long, default_value_t = 3)]
    front: u32,
    #[command(flatten)]
    cores: CoreOptions,
    /// Write the tables to this file too
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write every round to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Exit with 1 where a target is missed or not measured
    #[arg(long)]
    check: bool,
}

/// Runs CGI programs behind Ringway and behind fcgiwrap, prints Markdown
#[derive(Args)]
struct Cgi {
    /// The `ringway` program
    #[arg(long)]
    ringway: PathBuf,
    /// The `fcgiwrap` program
    #[arg(long, default_value = "/usr/sbin/fcgiwrap")]
    fcgiwrap: PathBuf,
    /// Rounds of each program
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Requests to each server in one round
    #[arg(long, default_value_t = 100)]
    requests: usize,
    #[command(flatten)]
    cores: CoreOptions,
    /// Exit with 1 where the smallest program costs too much
    #[arg(long)]
    check: bool,
}

/// Runs one axum router behind nginx, on Ringway and on hyper, prints Markdown
#[derive(Args)]
struct Axum {
    /// Rounds of each
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of wrk in one round
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    #[command(flatten)]
    cores: CoreOptions,
    /// Exit with 1 where Ringway costs too much
    #[arg(long)]
    check: bool,
}

/// Runs one WSGI application on Ringway, flup, uWSGI and gunicorn, prints Markdown
#[derive(Args)]
struct Wsgi {
    /// A virtual environment with the package ringway and peers/requirements.txt
    #[arg(long)]
    venv: PathBuf,
    /// Threads of each host
    #[arg(long, default_value_t = 16)]
    threads: u32,
    /// Rounds of each host in each cell
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Measured seconds of one round of the generator
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seconds of wrk through nginx in one round
    #[arg(long, default_value_t = 2)]
    front: u32,
    #[command(flatten)]
    cores: CoreOptions,
    /// Exit with 1 where a target is missed
    #[arg(long)]
    check: bool,
}

/// Who runs where, so that servers and load do not take each other's time.
#[derive(Args)]
struct CoreOptions {
    /// The core of the servers, and of the programs that they start
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the generator, nginx and wrk
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
}

impl CoreOptions {
    fn cores(&self) -> Cores {
        Cores { server: self.server_core, generator: self.generator_core }
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Compare(compare) => compare.run(),
        Command::Cgi(cgi) => cgi.run(),
        Command::Axum(axum) => axum.run(),
        Command::Wsgi(wsgi) => wsgi.run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ringway-loadtest: {error:#}");
        ExitCode::FAILURE
    })
}

impl Run {
    fn run(self) -> Result<ExitCode> {
        process::raise_descriptors()?;
        self.core.map(process::pin).transpose()?;
        if let Some(rate) = self.rate {
            ensure!(rate.is_finite() && rate > 0.0, "--rate is a number of requests a second");
        }
        let plan = Plan {
            address: self.connect,
            shape: self.shape,
            pace: self.rate.map_or(Pace::Closed, Pace::Open),
            warmup: seconds("--warmup", self.warmup)?,
            duration: seconds("--seconds", self.seconds)?,
            requests_max: self.requests.unwrap_or(u64::MAX),
            server: self.pid,
        };
        let counter = self.pid.filter(|_| self.syscalls).map(Counter::start).transpose()?;
        let outcome = load::run(&plan)?;
        let calls = counter.map(Counter::finish).transpose()?;
        let calls = calls.map(|calls| calls as f64 / outcome.requests_total.max(1) as f64);
        let memory = self.pid.map(process::memory).transpose()?;
        print!("{}", report::run(&outcome, memory.map(|memory| memory.resident), calls));
        Ok(ExitCode::SUCCESS)
    }
}

impl Compare {
    fn run(self) -> Result<ExitCode> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds: 1 to 1000");
        ensure!(self.front <= MINUTE, "--front: at most {MINUTE} seconds");
        ensure!(self.ringway.is_some() || !self.check, "--check needs --ringway");
        let has_ringway = self.ringway.is_some();
        let mut comparison = Comparison {
            programs: Programs::prepare(self.ringway)?,
            cells: self.cells,
            rounds: self.rounds,
            duration: seconds("--seconds", self.seconds)?,
            warmup: seconds("--warmup", self.warmup)?,
            idle_connections: self.idle,
            front_seconds: self.front,
            cores: self.cores.cores(),
        };
        let results = comparison.run()?;
        let verdicts = if has_ringway { targets::judge(&results) } else { Vec::new() };
        let markdown = report::markdown(&results, &verdicts);
        print!("{markdown}");
        if let Some(path) = self.markdown {
            fs::write(&path, &markdown).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = self.json {
            let json = serde_json::to_string_pretty(&results)?;
            fs::write(&path, json).with_context(|| format!("write {}", path.display()))?;
        }
        let is_missed = verdicts.iter().any(|verdict| !verdict.is_met);
        Ok(if self.check && is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Cgi {
    fn run(self) -> Result<ExitCode> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds: 1 to 1000");
        ensure!((1..=1_000_000).contains(&self.requests), "--requests: 1 to 1000000");
        let measured = cgi::Comparison {
            ringway: self.ringway,
            fcgiwrap: self.fcgiwrap,
            rounds: self.rounds,
            requests: self.requests,
            cores: self.cores.cores(),
        }
        .run()?;
        print!("{}", cgi::markdown(&measured));
        let is_missed = measured.first().is_none_or(|least| least.ratio.median < cgi::RATIO_MIN);
        Ok(if self.check && is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Axum {
    fn run(self) -> Result<ExitCode> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds: 1 to 1000");
        ensure!((1..=MINUTE).contains(&self.seconds), "--seconds: 1 to {MINUTE}");
        let cores = self.cores.cores();
        let measured = axum::measure(self.rounds, self.seconds, cores)?;
        print!("{}", axum::markdown(&measured));
        let is_missed = measured.ratio.median > axum::RATIO_MAX;
        Ok(if self.check && is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Wsgi {
    fn run(self) -> Result<ExitCode> {
        ensure!((1..=1000).contains(&self.rounds), "--rounds: 1 to 1000");
        ensure!((1..=1000).contains(&self.threads), "--threads: 1 to 1000");
        ensure!((1..=MINUTE).contains(&self.front), "--front: 1 to {MINUTE} seconds");
        process::raise_descriptors()?;
        let measured = wsgi::Comparison {
            venv: self.venv.canonicalize().with_context(|| format!("--venv {}", self.venv.display()))?,
            threads: self.threads,
            rounds: self.rounds,
            duration: seconds("--seconds", self.seconds)?,
            wrk_seconds: self.front,
            cores: self.cores.cores(),
        }
        .run()?;
        let verdicts = wsgi::judge(&measured);
        let mut page = wsgi::markdown(&measured);
        report::targets(&mut page, &verdicts);
        print!("{page}");
        let is_missed = verdicts.iter().any(|verdict| !verdict.is_met);
        Ok(if self.check && is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// A time of at most a minute.
fn seconds(flag: &str, seconds: f64) -> Result<Duration> {
    ensure!((0.0..=f64::from(MINUTE)).contains(&seconds), "{flag}: 0 to {MINUTE} seconds");
    Ok(Duration::from_secs_f64(seconds))
}

const MINUTE: u32 = 60;
