//! What a comparison measured, and the figures drawn from it: medians, spreads, ratios within rounds.

use serde::Serialize;

use crate::contender::Contender;
use crate::load::Outcome;

/// Everything one comparison measured.
#[derive(Default, Serialize)]
pub struct Results {
    /// Where it was measured.
    pub machine: String,
    /// Interleaved rounds of each cell, and the measured seconds of each.
    pub rounds: (usize, f64),
    /// How system calls were counted.
    pub syscalls_by: Option<&'static str>,
    /// In the order of the cells.
    pub cells: Vec<CellResult>,
    /// Idle connections, if measured.
    pub idle: Vec<Idle>,
    /// Behind nginx, if measured.
    pub front: Vec<Front>,
}

/// One cell.
#[derive(Serialize)]
pub struct CellResult {
    /// Name of the cell.
    pub cell: &'static str,
    /// Those that can serve it.
    pub measured: Vec<Measured>,
}

/// One contender in one cell.
#[derive(Serialize)]
pub struct Measured {
    /// Who.
    pub contender: Contender,
    /// `rounds[n]` of two contenders ran one after the other.
    pub rounds: Vec<Round>,
    /// System calls of the server per request, from a run of its own.
    pub syscalls: Option<f64>,
    /// Resident memory after the last round, bytes.
    pub resident: Option<u64>,
    /// Why it stopped: a wrong answer, a stall.
    pub error: Option<String>,
}

/// One round of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Requests answered.
    pub requests: u64,
    /// Requests a second.
    pub rps: f64,
    /// The server's CPU time per request, microseconds.
    pub cpu_us: f64,
    /// The server's CPU time in all time: 1 where the server was the limit.
    pub busy: f64,
    /// Part of both cores' time that other processes took: near 0 on a quiet machine.
    pub others: f64,
    /// Latency in microseconds: median.
    pub p50_us: f64,
    /// 99 of 100 are faster.
    pub p99_us: f64,
    /// 999 of 1000 are faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Memory of idle connections.
#[derive(Serialize)]
pub struct Idle {
    /// Who.
    pub contender: Contender,
    /// How many were idle.
    pub connections: u32,
    /// Growth of resident memory per connection, bytes.
    pub resident: f64,
    /// Growth of anonymous memory per connection, bytes.
    pub anonymous: f64,
}

/// One contender behind nginx.
#[derive(Serialize)]
pub struct Front {
    /// Who.
    pub contender: Contender,
    /// Requests a second by wrk, each round.
    pub rps: Vec<f64>,
    /// CPU time of the server behind nginx per request, microseconds, each round.
    pub cpu_us: Vec<f64>,
}

impl Round {
    /// The figures of one run; the run must have measured the server's CPU time.
    pub fn new(outcome: &Outcome) -> Round {
        let (seconds, requests) = (outcome.elapsed.as_secs_f64(), outcome.requests.max(1) as f64);
        let cpu = outcome.cpu.unwrap_or_default().as_secs_f64();
        let microseconds = |ns: u64| ns as f64 / 1e3;
        Round {
            requests: outcome.requests,
            rps: requests / seconds,
            cpu_us: cpu * 1e6 / requests,
            busy: cpu / seconds,
            others: 0.0,
            p50_us: microseconds(outcome.latency.value_at_quantile(0.5)),
            p99_us: microseconds(outcome.latency.value_at_quantile(0.99)),
            p999_us: microseconds(outcome.latency.value_at_quantile(0.999)),
            max_us: microseconds(outcome.latency.max()),
        }
    }
}

impl Results {
    /// The cell of that name.
    pub fn cell(&self, name: &str) -> Option<&CellResult> {
        self.cells.iter().find(|cell| cell.cell == name)
    }
}

impl CellResult {
    /// What `contender` did here, if it finished every round.
    pub fn of(&self, contender: Contender) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.contender == contender && measured.error.is_none())
    }

    /// CPU time per request of one over the other's, round by round.
    pub fn cpu_ratio(&self, contender: Contender, base: Contender) -> Option<Spread> {
        let (contender, base) = (self.of(contender)?, self.of(base)?);
        let rounds = contender.rounds.iter().zip(&base.rounds);
        Spread::of(rounds.map(|(contender, base)| contender.cpu_us / base.cpu_us))
    }
}

impl Measured {
    /// One figure over all rounds.
    pub fn spread(&self, figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(figure))
    }
}

/// The median of a few values and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measured(contender: Contender, cpu_us: &[f64], syscalls: f64) -> Measured {
        let round = |&cpu_us: &f64| Round {
            requests: 1000,
            rps: 1e5,
            cpu_us,
            busy: 1.0,
            others: 0.0,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            max_us: 4.0,
        };
        let rounds = cpu_us.iter().map(round).collect();
        Measured { contender, rounds, syscalls: Some(syscalls), resident: Some(1 << 20), error: None }
    }

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_only_of_those_that_finished() {
        let mut echo = measured(Contender::Echo, &[1.0, 2.0, 4.0], 2.0);
        let uring = measured(Contender::Uring, &[2.0, 2.0, 5.0], 0.1);
        let ratio = |measured| CellResult { cell: "", measured }.cpu_ratio(Contender::Uring, Contender::Echo);
        let expected = Spread { median: 1.25, min: 1.0, max: 2.0 };
        assert_eq!(ratio(vec![measured(Contender::Echo, &[1.0, 2.0, 4.0], 2.0), uring]), Some(expected));
        echo.error = Some("stalled".into());
        assert_eq!(ratio(vec![echo, measured(Contender::Uring, &[2.0], 0.1)]), None);
    }
}
