//! A comparison as Markdown, and one run as lines of text.

use std::fmt::Write;

use crate::contender::Contender;
use crate::load::Outcome;
use crate::summary::{CellResult, Measured, Results, Round, Spread};
use crate::targets::Verdict;

/// The whole comparison as Markdown tables.
pub fn markdown(results: &Results, verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    let (rounds, seconds) = results.rounds;
    line(
        &mut out,
        &format!("Measured on {}. {rounds} interleaved rounds of {seconds} s a cell.", results.machine),
    );
    if let Some(method) = results.syscalls_by {
        line(&mut out, &format!("System calls counted by {method}."));
    }
    ratios(&mut out, results);
    cells(&mut out, results);
    idle(&mut out, results);
    front(&mut out, results);
    targets(&mut out, verdicts);
    for cell in &results.cells {
        for measured in cell.measured.iter().filter(|measured| measured.error.is_some()) {
            let error = measured.error.as_deref().unwrap_or_default();
            line(&mut out, &format!("\n**{}: {} failed:** {error}", cell.cell, measured.contender.name()));
        }
    }
    out
}

/// One run as text.
pub fn run(outcome: &Outcome, memory_bytes: Option<u64>, syscalls: Option<f64>) -> String {
    let round = Round::new(outcome);
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "requests        {} in {:.3} s, all verified",
            round.requests,
            outcome.elapsed.as_secs_f64()
        ),
    );
    line(&mut out, &format!("rate            {:.0} a second", round.rps));
    let Round { p50_us, p99_us, p999_us, max_us, .. } = round;
    line(
        &mut out,
        &format!("latency (us)    p50 {p50_us:.1}  p99 {p99_us:.1}  p99.9 {p999_us:.1}  max {max_us:.1}"),
    );
    if outcome.unsent > 0 {
        line(
            &mut out,
            &format!("never started   {} requests were due and found nothing free", outcome.unsent),
        );
    }
    if outcome.cpu.is_some() {
        line(
            &mut out,
            &format!("server CPU      {:.3} us a request, busy {:.0} %", round.cpu_us, round.busy * 100.0),
        );
    }
    if let Some(syscalls) = syscalls {
        line(&mut out, &format!("server syscalls {syscalls:.3} a request"));
    }
    if let Some(bytes) = memory_bytes {
        line(&mut out, &format!("server memory   {} KiB resident", bytes / 1024));
    }
    out
}

/// Kernel, processor and its cores, in a few words.
pub fn machine() -> String {
    let name = rustix::system::uname();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let processor =
        field.and_then(|line| line.split_once(':')).map_or("an unknown processor", |(_, name)| name.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{} {}, {processor}, {cores} cores",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy()
    )
}

fn ratios(out: &mut String, results: &Results) {
    use Contender::{Echo, Epoll, Libfcgi, Uring};
    const COLUMNS: [(Contender, Contender); 5] =
        [(Uring, Echo), (Uring, Libfcgi), (Epoll, Echo), (Epoll, Uring), (Libfcgi, Echo)];
    line(out, "\n### CPU time per request: ratios (median of rounds, least to greatest)\n");
    let names = COLUMNS.map(|(contender, base)| format!("{} ÷ {}", contender.name(), base.name()));
    header(out, "cell", &names);
    for cell in &results.cells {
        let values = COLUMNS.map(|(contender, base)| cell.cpu_ratio(contender, base));
        row(out, cell.cell, values.map(|value| spread(value, 2)));
    }
}

fn cells(out: &mut String, results: &Results) {
    const COLUMNS: [&str; 10] = [
        "CPU µs/request",
        "syscalls/request",
        "requests/s",
        "busy",
        "others",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "resident KiB",
    ];
    line(out, "\n### Each contender (medians of rounds)\n");
    header(out, "cell | contender", &COLUMNS.map(String::from));
    for CellResult { cell, measured } in &results.cells {
        for measured in measured {
            row(out, &format!("{cell} | {}", measured.contender.name()), figures(measured));
        }
    }
}

fn figures(measured: &Measured) -> [String; 10] {
    let median = |figure: fn(&Round) -> f64, digits: usize| {
        let median = measured.spread(figure).map(|spread| spread.median);
        median.map_or(NONE.into(), |median| format!("{median:.digits$}"))
    };
    [
        spread(measured.spread(|round| round.cpu_us), 2),
        measured.syscalls.map_or(NONE.into(), |syscalls| format!("{syscalls:.3}")),
        median(|round| round.rps, 0),
        median(|round| round.busy, 2),
        median(|round| round.others, 2),
        median(|round| round.p50_us, 1),
        median(|round| round.p99_us, 1),
        median(|round| round.p999_us, 1),
        median(|round| round.max_us, 0),
        measured.resident.map_or(NONE.into(), |bytes| (bytes / 1024).to_string()),
    ]
}

fn idle(out: &mut String, results: &Results) {
    if results.idle.is_empty() {
        return;
    }
    line(out, "\n### Idle connections: user memory of the server, bytes per connection\n");
    header(out, "contender", &["connections", "resident", "anonymous"].map(String::from));
    for idle in &results.idle {
        let bytes = [idle.resident, idle.anonymous].map(|bytes| format!("{bytes:.0}"));
        let [resident, anonymous] = bytes;
        row(out, idle.contender.name(), [idle.connections.to_string(), resident, anonymous]);
    }
}

fn front(out: &mut String, results: &Results) {
    if results.front.is_empty() {
        return;
    }
    line(out, "\n### wrk through nginx, 64 connections, kept FastCGI connections\n");
    header(out, "server behind nginx", &["requests/s", "its CPU µs/request"].map(String::from));
    for front in &results.front {
        let values = [spread(Spread::of(front.rps.clone()), 0), spread(Spread::of(front.cpu_us.clone()), 2)];
        row(out, front.contender.name(), values);
    }
}

/// How targets came out, as a table.
pub(crate) fn targets(out: &mut String, verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    line(out, "\n### Targets\n");
    header(out, "target", &["bound", "measured", ""].map(String::from));
    for Verdict { what, bound, value, is_met } in verdicts {
        let value = value.map_or("not measured".into(), |value| format!("{value:.3}"));
        row(out, what, [bound.clone(), value, if *is_met { "met" } else { "**missed**" }.into()]);
    }
}

fn spread(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or(NONE.into(), |Spread { median, min, max }| {
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    })
}

fn header(out: &mut String, first: &str, columns: &[String]) {
    line(out, &format!("| {first} | {} |", columns.join(" | ")));
    let dashes = vec!["---"; first.split('|').count() + columns.len()];
    line(out, &format!("| {} |", dashes.join(" | ")));
}

fn row<const N: usize>(out: &mut String, first: &str, values: [String; N]) {
    line(out, &format!("| {first} | {} |", values.join(" | ")));
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string cannot fail");
}

const NONE: &str = "–";
