//! Runs the comparison: every cell, all contenders in turn, round after round.
//!
//! Rounds interleave (A B C D, B C D A, …), so that noise and the machine's changes of speed hit everyone;
//! ratios are taken inside a round, between neighbours in time. All servers of a cell run at once on one
//! core; those that wait cost nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cells::{CELLS, Cell};
use crate::contender::{Contender, Programs};
use crate::load::{self, Outcome, Pace, Plan};
use crate::process::{self, Cores, cpu_time};
use crate::server::Server;
use crate::summary::{CellResult, Measured, Results, Round};
use crate::syscalls::Counter;
use crate::{front, idle, report};

/// What to compare, and for how long.
pub struct Comparison {
    /// The contenders' programs.
    pub programs: Programs,
    /// Only cells whose name contains this.
    pub cells: String,
    /// Rounds of each cell.
    pub rounds: usize,
    /// Measured time of one round.
    pub duration: Duration,
    /// Load before the measured time of each round.
    pub warmup: Duration,
    /// Idle connections to hold; 0 to leave that out.
    pub idle_connections: u32,
    /// Seconds of wrk through nginx, three rounds; 0 to leave that out.
    pub front_seconds: u32,
    /// Where each side runs.
    pub cores: Cores,
}

impl Comparison {
    /// Runs all of it. A contender that fails in a cell is out of that cell; the others go on.
    pub fn run(&mut self) -> Result<Results> {
        process::raise_descriptors()?;
        process::pin(self.cores.generator)?;
        self.learn_answer()?;
        let mut results = Results {
            machine: report::machine(),
            rounds: (self.rounds, self.duration.as_secs_f64()),
            ..Results::default()
        };
        for cell in CELLS.iter().filter(|cell| cell.name.contains(&self.cells)) {
            eprintln!("{} …", cell.name);
            let (result, method) = self.run_cell(cell)?;
            results.cells.push(result);
            results.syscalls_by = results.syscalls_by.or(method);
        }
        process::pin(self.cores.generator)?;
        if self.idle_connections > 0 {
            eprintln!("{} idle connections …", self.idle_connections);
            results.idle = self.run_idle()?;
        }
        if self.front_seconds > 0 {
            eprintln!("wrk through nginx …");
            results.front = front::measure(&self.programs, FRONT_ROUNDS, self.front_seconds, self.cores)?;
        }
        Ok(results)
    }

    /// The echo gives the very answer that Ringway gives, so that both move the same bytes.
    fn learn_answer(&mut self) -> Result<()> {
        if self.programs.absence(Contender::Uring).is_some() {
            return Ok(());
        }
        let cell = &CELLS[0];
        let server = self.start(Contender::Epoll, cell)?.context("Ringway serves every cell")?;
        let outcome = server.round(cell, Duration::ZERO, Duration::from_millis(50))?;
        self.programs.set_answer(&outcome.answer)
    }

    fn run_cell(&self, cell: &Cell) -> Result<(CellResult, Option<&'static str>)> {
        process::pin(self.cores.generator)?;
        let mut servers = Vec::new();
        for contender in Contender::ALL {
            if self.programs.absence(contender).is_none() {
                servers.extend(self.start(contender, cell)?);
            }
        }
        process::pin(if cell.shares_core { self.cores.server } else { self.cores.generator })?;
        let count = servers.len();
        for round in 0..self.rounds {
            for turn in 0..count {
                servers[(round + turn) % count].measure_round(cell, self);
            }
        }
        let mut method = None;
        for server in &mut servers {
            method = method.or(server.count_syscalls(cell, self.duration));
            server.measured.resident =
                process::memory(server.server.pid()).ok().map(|memory| memory.resident);
        }
        let measured = servers.into_iter().map(|server| server.measured).collect();
        Ok((CellResult { cell: cell.name, measured }, method))
    }

    fn run_idle(&self) -> Result<Vec<crate::summary::Idle>> {
        let mut all = Vec::new();
        for contender in [Contender::Echo, Contender::Uring, Contender::Epoll] {
            if self.programs.absence(contender).is_none() {
                let idle = idle::measure(&self.programs, contender, self.idle_connections, self.cores);
                all.extend(idle.with_context(|| format!("{} with idle connections", contender.name()))?);
            }
        }
        Ok(all)
    }

    /// `None` when the contender cannot serve the cell.
    fn start(&self, contender: Contender, cell: &Cell) -> Result<Option<Running>> {
        let name = format!("{contender:?}");
        let address = cell.address(self.programs.directory(), &name)?;
        let Some(command) = self.programs.command(contender, &address, cell.shape) else { return Ok(None) };
        let log = self.programs.directory().join(format!("{name}.log"));
        let server = Server::start(command, address, &log, self.cores.server, self.cores.generator)
            .with_context(|| contender.name())?;
        let measured =
            Measured { contender, rounds: Vec::new(), syscalls: None, resident: None, error: None };
        Ok(Some(Running { server, measured }))
    }
}

/// A contender in a cell.
struct Running {
    server: Server,
    measured: Measured,
}

impl Running {
    fn measure_round(&mut self, cell: &Cell, comparison: &Comparison) {
        if self.measured.error.is_none() {
            let round = self.witnessed_round(cell, comparison);
            match round {
                Ok(round) => self.measured.rounds.push(round),
                Err(error) => self.fail(cell, &error),
            }
        }
    }

    /// One round, and how much of both cores' time went to others meanwhile.
    fn witnessed_round(&self, cell: &Cell, comparison: &Comparison) -> Result<Round> {
        let ours = || Ok::<_, anyhow::Error>(cpu_time(self.server.pid())? + cpu_time(std::process::id())?);
        let (start, busy, used) = (Instant::now(), process::busy_time(comparison.cores)?, ours()?);
        let outcome = self.round(cell, comparison.warmup, comparison.duration)?;
        let busy = process::busy_time(comparison.cores)?.saturating_sub(busy);
        let others = busy.saturating_sub(ours()? - used);
        let all = 2.0 * start.elapsed().as_secs_f64();
        Ok(Round { others: others.as_secs_f64() / all, ..Round::new(&outcome) })
    }

    /// Counts system calls in a run of its own. Gives how they were counted.
    fn count_syscalls(&mut self, cell: &Cell, duration: Duration) -> Option<&'static str> {
        if self.measured.error.is_some() {
            return None;
        }
        let counted = || -> Result<(&'static str, f64)> {
            let counter = Counter::start(self.server.pid())?;
            let method = counter.method();
            let outcome = self.round(cell, Duration::ZERO, duration)?;
            Ok((method, counter.finish()? as f64 / outcome.requests_total.max(1) as f64))
        };
        match counted() {
            Ok((method, per_request)) => {
                self.measured.syscalls = Some(per_request);
                Some(method)
            }
            Err(error) => {
                eprintln!("{}: system calls of {}: {error:#}", cell.name, self.measured.contender.name());
                None
            }
        }
    }

    fn round(&self, cell: &Cell, warmup: Duration, duration: Duration) -> Result<Outcome> {
        load::run(&Plan {
            address: self.server.address.clone(),
            shape: cell.shape,
            pace: Pace::Closed,
            warmup,
            duration,
            requests_max: u64::MAX,
            server: Some(self.server.pid()),
        })
    }

    fn fail(&mut self, cell: &Cell, error: &anyhow::Error) {
        eprintln!("{}: {} is out: {error:#}", cell.name, self.measured.contender.name());
        self.measured.error = Some(format!("{error:#}"));
    }
}

const FRONT_ROUNDS: usize = 3;
