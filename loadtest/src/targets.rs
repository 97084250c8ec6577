//! What Ringway has to reach, in one table, and the judgement of a comparison against it.

use crate::cells::{CELLS, UNIX_KEPT, UNIX_MUX, UNIX_PER_REQUEST};
use crate::contender::Contender::{self, Echo, Epoll, Libfcgi, Uring};
use crate::summary::Results;

/// One figure that must not exceed a bound.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    figure: Figure,
    bound: Bound,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// CPU time per request in this cell, as a multiple of another contender's: the median over rounds.
    Cpu(&'static str, Contender, Contender),
    /// System calls per request in this cell.
    Syscalls(&'static str, Contender),
    /// Growth of resident memory per idle connection, bytes.
    Idle(Contender),
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    Below(f64),
}

/// How a target came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What was judged, in words.
    pub what: String,
    /// The bound, in words.
    pub bound: String,
    /// What was measured; `None` where a contender is missing or failed.
    pub value: Option<f64>,
    /// Measured, and within the bound.
    pub is_met: bool,
}

/// The bounds; [`all`] adds the epoll driver's for every cell.
const TARGETS: [Target; 8] = [
    Target { figure: Figure::Cpu(UNIX_KEPT, Uring, Echo), bound: Bound::AtMost(1.2) },
    Target { figure: Figure::Cpu(UNIX_KEPT, Uring, Libfcgi), bound: Bound::AtMost(0.5) },
    Target { figure: Figure::Syscalls(UNIX_KEPT, Uring), bound: Bound::Below(0.2) },
    Target { figure: Figure::Cpu(UNIX_MUX, Uring, Echo), bound: Bound::AtMost(2.0) },
    Target { figure: Figure::Syscalls(UNIX_MUX, Uring), bound: Bound::Below(0.1) },
    Target { figure: Figure::Cpu(UNIX_PER_REQUEST, Uring, Echo), bound: Bound::AtMost(1.2) },
    Target { figure: Figure::Idle(Uring), bound: Bound::AtMost(1024.0) },
    Target { figure: Figure::Idle(Epoll), bound: Bound::AtMost(1024.0) },
];
/// The epoll driver against the io_uring driver, in every cell.
const EPOLL_OVER_URING: Bound = Bound::AtMost(1.25);

/// Every target, in the order of the table.
pub fn all() -> Vec<Target> {
    let drivers =
        CELLS.map(|cell| Target { figure: Figure::Cpu(cell.name, Epoll, Uring), bound: EPOLL_OVER_URING });
    TARGETS.into_iter().chain(drivers).collect()
}

/// Judges the targets of what was meant to be measured: the cells in `results`, and idle connections if there
/// are any.
pub fn judge(results: &Results) -> Vec<Verdict> {
    all().iter().filter(|target| target.was_tried(results)).map(|target| target.judge(results)).collect()
}

impl Target {
    fn was_tried(&self, results: &Results) -> bool {
        match self.figure {
            Figure::Cpu(cell, ..) | Figure::Syscalls(cell, _) => results.cell(cell).is_some(),
            Figure::Idle(_) => !results.idle.is_empty(),
        }
    }

    fn judge(&self, results: &Results) -> Verdict {
        let (what, value) = match self.figure {
            Figure::Cpu(cell, contender, base) => (
                format!("{cell}: CPU per request, {} ÷ {}", contender.name(), base.name()),
                results
                    .cell(cell)
                    .and_then(|cell| cell.cpu_ratio(contender, base))
                    .map(|spread| spread.median),
            ),
            Figure::Syscalls(cell, contender) => (
                format!("{cell}: system calls per request, {}", contender.name()),
                results.cell(cell).and_then(|cell| cell.of(contender)?.syscalls),
            ),
            Figure::Idle(contender) => (
                format!("bytes of memory per idle connection, {}", contender.name()),
                results.idle.iter().find(|idle| idle.contender == contender).map(|idle| idle.resident),
            ),
        };
        let (bound, is_met) = match self.bound {
            Bound::AtMost(bound) => (format!("≤ {bound}"), value.is_some_and(|value| value <= bound)),
            Bound::Below(bound) => (format!("< {bound}"), value.is_some_and(|value| value < bound)),
        };
        Verdict { what, bound, value, is_met }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::measured;
    use crate::summary::{CellResult, Idle};

    fn kept(uring_us: f64, epoll_us: f64, syscalls: f64) -> Results {
        let measured = vec![
            measured(Echo, &[2.0, 2.0, 2.0], 2.0),
            measured(Uring, &[uring_us, uring_us, 99.0], syscalls),
            measured(Epoll, &[epoll_us; 3], 2.0),
            measured(Libfcgi, &[8.0; 3], 4.0),
        ];
        Results { cells: vec![CellResult { cell: UNIX_KEPT, measured }], ..Results::default() }
    }

    fn met(results: &Results) -> Vec<bool> {
        judge(results).iter().map(|verdict| verdict.is_met).collect()
    }

    #[test]
    fn a_target_is_met_at_its_bound_and_missed_past_it() {
        assert_eq!(met(&kept(2.4, 3.0, 0.19)), [true, true, true, true]);
        assert_eq!(met(&kept(2.41, 3.0, 0.19)), [false, true, true, true]);
        assert_eq!(met(&kept(4.1, 3.0, 0.19)), [false, false, true, true]);
        assert_eq!(met(&kept(2.4, 3.0, 0.2)), [true, true, false, true]);
        assert_eq!(met(&kept(2.4, 3.1, 0.19)), [true, true, true, false]);
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let mut results = kept(2.4, 3.0, 0.19);
        results.cells[0].measured[1].error = Some("wrong answer".into());
        assert_eq!(met(&results), [false, false, false, false]);
        results.idle = vec![Idle { contender: Uring, connections: 1, resident: 1024.0, anonymous: 0.0 }];
        assert_eq!(met(&results), [false, false, false, true, false, false]);
    }
}
