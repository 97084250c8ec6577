//! One WSGI application on Ringway, flup, uWSGI and gunicorn: one process, as many threads each, one core.
//!
//! The generator asks those that speak FastCGI, wrk asks all of them through nginx, each by the protocol that its
//! users have there. Rounds take turns; ratios are taken within each round.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::address::Address;
use crate::front::{Chain, Pass};
use crate::load::{self, Pace, Plan, Shape};
use crate::process::{self, Cores};
use crate::server::Server;
use crate::summary::{Round, Spread};
use crate::targets::Verdict;

/// What is to be measured.
pub struct Comparison {
    /// A virtual environment with the package and its peers.
    pub venv: PathBuf,
    /// Threads of each host.
    pub threads: u32,
    /// Rounds of each host in each cell.
    pub rounds: usize,
    /// Measured time of a round of the generator.
    pub duration: Duration,
    /// Seconds of wrk in a round.
    pub wrk_seconds: u32,
    /// Where each side runs.
    pub cores: Cores,
}

/// What serves the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// The package, with threads.
    Ringway,
    /// The package, on the worker's own thread.
    Inline,
    /// flup's threaded WSGIServer.
    Flup,
    /// uWSGI, by FastCGI or by its own protocol.
    Uwsgi,
    /// gunicorn with threads, by HTTP.
    Gunicorn,
}

/// A load, and who can serve it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// Kept connections, as many as threads: flup needs a thread for each, uWSGI keeps none.
    Kept,
    /// A connection for each request, 16 at a time.
    PerRequest,
    /// wrk with 64 connections through nginx.
    Nginx,
}

/// One host in one cell; a figure for each round.
pub struct Measured {
    /// Where.
    pub cell: Cell,
    /// Who.
    pub host: Host,
    /// CPU time of its processes for a request, microseconds.
    pub cpu_us: Vec<f64>,
    /// Requests a second.
    pub rps: Vec<f64>,
    /// The latency that 99 of 100 requests stay below, microseconds.
    pub p99_us: Vec<f64>,
    /// Resident memory of the process that serves, after the last round, bytes.
    pub resident: u64,
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Host::Ringway => "ringway",
            Host::Inline => "ringway --inline",
            Host::Flup => "flup",
            Host::Uwsgi => "uWSGI",
            Host::Gunicorn => "gunicorn gthread",
        }
    }

    /// How nginx asks it. A connection that is kept would hold a thread of flup's.
    fn pass(self) -> Pass {
        match self {
            Host::Ringway | Host::Inline => Pass::FastCgi,
            Host::Flup => Pass::FastCgiOnce,
            Host::Uwsgi => Pass::Uwsgi,
            Host::Gunicorn => Pass::Http,
        }
    }
}

impl Cell {
    fn name(self) -> &'static str {
        match self {
            Cell::Kept => "kept connections",
            Cell::PerRequest => "connection per request",
            Cell::Nginx => "behind nginx",
        }
    }

    fn hosts(self) -> &'static [Host] {
        match self {
            Cell::Kept => &[Host::Ringway, Host::Inline, Host::Flup],
            Cell::PerRequest => &[Host::Ringway, Host::Inline, Host::Flup, Host::Uwsgi],
            Cell::Nginx => &[Host::Ringway, Host::Inline, Host::Flup, Host::Uwsgi, Host::Gunicorn],
        }
    }
}

impl Comparison {
    /// Measures one cell after the other.
    pub fn run(&self) -> Result<Vec<Measured>> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("wsgi_hello.py"), include_str!("../peers/wsgi_hello.py"))?;
        let mut measured = self.generate(Cell::Kept, Shape::Kept(self.threads), folder.path())?;
        measured.extend(self.generate(Cell::PerRequest, Shape::PerRequest(16), folder.path())?);
        measured.extend(self.ask_through_nginx(folder.path())?);
        Ok(measured)
    }

    fn generate(&self, cell: Cell, shape: Shape, folder: &Path) -> Result<Vec<Measured>> {
        let start = |&host: &Host| {
            let address = Address::unix_in(folder, &format!("{cell:?}-{host:?}"));
            let command = self.command(host, true, &address, folder)?;
            let log = folder.join(format!("{cell:?}-{host:?}.log"));
            let server = Server::start(command, address, &log, self.cores.server, self.cores.generator)
                .with_context(|| host.name())?;
            Ok((server, Measured::none(cell, host)))
        };
        let mut all = cell.hosts().iter().map(start).collect::<Result<Vec<_>>>()?;
        for round in 0..self.rounds {
            for turn in 0..all.len() {
                let index = (round + turn) % all.len();
                let (server, measured) = &mut all[index];
                let outcome = load::run(&Plan {
                    address: server.address.clone(),
                    shape,
                    pace: Pace::Closed,
                    warmup: WARMUP,
                    duration: self.duration,
                    requests_max: u64::MAX,
                    server: Some(server.pid()),
                });
                let context = || format!("{}, {}", cell.name(), measured.host.name());
                let round = Round::new(&outcome.with_context(context)?);
                measured.cpu_us.push(round.cpu_us);
                measured.rps.push(round.rps);
                measured.p99_us.push(round.p99_us);
            }
        }
        all.into_iter().map(|(server, measured)| measured.with_memory(&server)).collect()
    }

    fn ask_through_nginx(&self, folder: &Path) -> Result<Vec<Measured>> {
        let start = |&host: &Host| {
            let directory = folder.join(format!("nginx-{host:?}"));
            fs::create_dir(&directory)?;
            let backend = Address::unix_in(&directory, "app");
            let command = self.command(host, false, &backend, folder)?;
            let chain = Chain::start(&directory, command, backend, host.pass(), self.cores);
            Ok((host, chain.with_context(|| host.name())?))
        };
        let mut all = Cell::Nginx.hosts().iter().map(start).collect::<Result<Vec<_>>>()?;
        for round in 0..self.rounds {
            for turn in 0..all.len() {
                let index = (round + turn) % all.len();
                let (host, chain) = &mut all[index];
                chain.round(self.wrk_seconds).with_context(|| format!("{} behind nginx", host.name()))?;
            }
        }
        let take = |(host, chain): (Host, Chain)| {
            let measured = Measured::none(Cell::Nginx, host).with_memory(chain.backend())?;
            Ok(Measured { cpu_us: chain.cpu_us, rps: chain.rps, p99_us: chain.p99_us, ..measured })
        };
        all.into_iter().map(take).collect()
    }

    /// The command that serves at `address`; by FastCGI, or as it is asked through nginx.
    fn command(&self, host: Host, is_fastcgi: bool, address: &Address, folder: &Path) -> Result<Command> {
        let program = |name: &str| {
            let path = self.venv.join("bin").join(name);
            ensure!(path.is_file(), "{} is missing: see loadtest/README.md for its making", path.display());
            let mut command = Command::new(path);
            command.current_dir(folder);
            Ok(command)
        };
        let Address::Unix(path) = address else { anyhow::bail!("{address}: a Unix socket is needed") };
        let threads = self.threads.to_string();
        let command = match host {
            Host::Ringway | Host::Inline => {
                let mut command = program("ringway-wsgi")?;
                command.args([APPLICATION, "--listen", &address.to_string(), "--threads", &threads]);
                command.args(["--log", "warn"]);
                if host == Host::Inline {
                    command.arg("--inline");
                }
                command
            }
            Host::Flup => {
                let mut command = program("python")?;
                command.arg("wsgi_hello.py").arg(path).arg(FLUP_THREADS);
                command
            }
            Host::Uwsgi => {
                let mut command = program("uwsgi")?;
                command.arg(if is_fastcgi { "--fastcgi-socket" } else { "--uwsgi-socket" }).arg(path);
                command.args(["--module", APPLICATION, "--processes", "1", "--threads", &threads]);
                command.args(["--need-app", "--disable-logging", "--die-on-term"]);
                command
            }
            Host::Gunicorn => {
                let mut command = program("gunicorn")?;
                command.args(["--bind", &address.to_string(), "--worker-class", "gthread"]);
                command.args(["--workers", "1", "--threads", &threads, "--keep-alive", "75"]);
                command.args(["--graceful-timeout", "1", APPLICATION]);
                command
            }
        };
        Ok(command)
    }
}

impl Measured {
    fn none(cell: Cell, host: Host) -> Measured {
        Measured { cell, host, cpu_us: Vec::new(), rps: Vec::new(), p99_us: Vec::new(), resident: 0 }
    }

    /// Of the largest of the server's processes: the others only watch it.
    fn with_memory(mut self, server: &Server) -> Result<Measured> {
        for pid in process::family(server.pid())? {
            self.resident = self.resident.max(process::memory(pid)?.resident);
        }
        Ok(self)
    }
}

/// Judges the figures by what Ringway has to reach.
pub fn judge(measured: &[Measured]) -> Vec<Verdict> {
    let of = |cell, host| measured.iter().find(|one| one.cell == cell && one.host == host);
    let ratio = |cell: Cell, host: Host, figure: fn(&Measured) -> &[f64]| {
        let (ours, theirs) = (figure(of(cell, Host::Ringway)?), figure(of(cell, host)?));
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs)).map(|spread| spread.median)
    };
    let verdict = |what: String, bound: f64, value: Option<f64>| Verdict {
        what,
        bound: format!("≤ {bound}"),
        value,
        is_met: value.is_some_and(|value| value <= bound),
    };
    let mut verdicts = Vec::new();
    for (cell, host, bound) in CPU_RATIOS {
        let what = format!("{}: CPU per request, ringway ÷ {}", cell.name(), host.name());
        verdicts.push(verdict(what, bound, ratio(cell, host, |one| &one.cpu_us)));
    }
    for host in [Host::Flup, Host::Uwsgi, Host::Gunicorn] {
        let what = format!("behind nginx, 64 at a time: p99, ringway ÷ {}", host.name());
        let value = ratio(Cell::Nginx, host, |one| &one.p99_us);
        let is_met = value.is_some_and(|value| value < 1.0);
        verdicts.push(Verdict { is_met, bound: "< 1".to_owned(), ..verdict(what, 1.0, value) });
    }
    let mib = |host| of(Cell::Nginx, host).map(|one| one.resident as f64 / f64::from(1 << 20));
    let more = mib(Host::Ringway).zip(mib(Host::Uwsgi)).map(|(ours, theirs)| ours - theirs);
    let is_met = more.is_some_and(|more| more < MIB_MORE_MAX);
    let what = "resident memory of a process, ringway − uWSGI, MiB".to_owned();
    verdicts.push(Verdict { is_met, bound: format!("< {MIB_MORE_MAX}"), ..verdict(what, 0.0, more) });
    verdicts
}

/// The figures as a table.
pub fn markdown(measured: &[Measured]) -> String {
    let mut page = String::from(
        "| cell | host | CPU µs/request | requests/s | p99 µs | resident MiB |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in measured {
        let show = |values: &[f64], digits: usize| {
            Spread::of(values.iter().copied()).map_or_else(String::new, |Spread { median, min, max }| {
                format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
            })
        };
        page.push_str(&format!(
            "| {} | {} | {} | {} | {} | {:.1} |\n",
            one.cell.name(),
            one.host.name(),
            show(&one.cpu_us, 1),
            show(&one.rps, 0),
            show(&one.p99_us, 0),
            one.resident as f64 / f64::from(1 << 20),
        ));
    }
    page
}

const APPLICATION: &str = "wsgi_hello:application";
/// flup closes connections for which it has no thread at once.
const FLUP_THREADS: &str = "128";
const WARMUP: Duration = Duration::from_millis(200);
/// What a request may cost at most, as a part of what it costs the other.
const CPU_RATIOS: [(Cell, Host, f64); 4] = [
    (Cell::Kept, Host::Flup, 0.25),
    (Cell::PerRequest, Host::Uwsgi, 0.9),
    (Cell::Nginx, Host::Uwsgi, 0.9),
    (Cell::Nginx, Host::Gunicorn, 0.25),
];
const MIB_MORE_MAX: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ours: f64) -> Vec<Measured> {
        let all = [Cell::Kept, Cell::PerRequest, Cell::Nginx];
        let of = |(cell, host): (Cell, Host)| {
            let (figure, resident) = match host {
                Host::Ringway => (ours, 30 << 20),
                Host::Uwsgi => (1.0, 21 << 20),
                Host::Inline | Host::Flup | Host::Gunicorn => (4.0, 0),
            };
            let figures = vec![figure, 99.0, figure];
            Measured { cell, host, cpu_us: figures.clone(), rps: Vec::new(), p99_us: figures, resident }
        };
        all.iter().flat_map(|cell| cell.hosts().iter().map(|host| of((*cell, *host)))).collect()
    }

    fn met(measured: &[Measured]) -> Vec<bool> {
        judge(measured).iter().map(|verdict| verdict.is_met).collect()
    }

    #[test]
    fn targets_are_met_at_their_bounds_and_missed_past_them() {
        assert_eq!(met(&figures(0.9)), [true; 8]);
        assert_eq!(met(&figures(0.91)), [true, false, false, true, true, true, true, true]);
        assert_eq!(met(&figures(1.1)), [false, false, false, false, true, false, true, true]);
        let mut figures = figures(0.9);
        figures.iter_mut().for_each(|one| one.resident += u64::from(one.host == Host::Ringway) << 20);
        assert!(!met(&figures)[7]);
        figures.retain(|one| one.host != Host::Uwsgi);
        assert_eq!(met(&figures), [true, false, false, true, true, false, true, false]);
    }
}
