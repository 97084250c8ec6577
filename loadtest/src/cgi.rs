//! CGI programs: the same ones behind Ringway and behind fcgiwrap, and what each request costs in CPU time, that of the
//! programs included.
//!
//! Both servers and all that they start run on one core, the requests come from the other, one at a time and each on a
//! connection of its own, as web servers ask fcgiwrap. Rounds take turns; the ratio is taken within each round.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::address::Address;
use crate::family::Family;
use crate::process::{Cores, pin};
use crate::server::Server;
use crate::summary::Spread;
use crate::wire::{self, BEGIN_REQUEST, END_REQUEST, HELLO_BODY, Header, PARAMS, STDIN, STDOUT};

/// What is to be measured.
pub struct Comparison {
    /// The `ringway` program.
    pub ringway: PathBuf,
    /// The `fcgiwrap` program.
    pub fcgiwrap: PathBuf,
    /// Rounds of each program.
    pub rounds: usize,
    /// Requests of one round, to each server.
    pub requests: usize,
    /// Where each side runs.
    pub cores: Cores,
}

/// One program's figures: CPU time of a request in microseconds.
pub struct Measured {
    /// What kind of program.
    pub program: &'static str,
    /// Ringway's.
    pub ringway: Spread,
    /// fcgiwrap's.
    pub fcgiwrap: Spread,
    /// fcgiwrap's over Ringway's, round by round.
    pub ratio: Spread,
    /// Without a server, started by a loop: what no server can be below.
    pub alone: Spread,
}

/// How much less a request of the smallest program must cost here than with fcgiwrap, by the median of the rounds. Of
/// the others the program itself is the larger part, and the same on both sides: glibc alone asks the processor about
/// itself 68 times when a program starts, which on a virtual machine can take half a millisecond.
pub const RATIO_MIN: f64 = 1.3;

/// A program's name, and its text or what it is compiled from.
struct Program {
    name: &'static str,
    text: &'static str,
    is_c: bool,
    libraries: &'static [&'static str],
}

/// The least that a program can cost, C programs, the usual script, and the dearest.
const PROGRAMS: [Program; 5] = [
    Program { name: "no library", text: BARE, is_c: true, libraries: &["-static", "-nostartfiles"] },
    Program { name: "C, static", text: C, is_c: true, libraries: &["-static"] },
    Program { name: "C", text: C, is_c: true, libraries: &[] },
    Program { name: "shell", text: SHELL, is_c: false, libraries: &[] },
    Program { name: "Perl", text: PERL, is_c: false, libraries: &[] },
];

const BARE: &str = "#include <sys/syscall.h>
#include <unistd.h>
static const char text[] = \"Content-Type: text/plain\\r\\n\\r\\nHello, world!\\n\";
void _start(void) { syscall(SYS_write, 1, text, sizeof text - 1); syscall(SYS_exit_group, 0); }
";
const C: &str = "#include <stdio.h>
int main(void) { fputs(\"Content-Type: text/plain\\r\\n\\r\\nHello, world!\\n\", stdout); return 0; }
";
const SHELL: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\nHello, world!\\n'\n";
const PERL: &str = "#!/usr/bin/perl\nprint \"Content-Type: text/plain\\r\\n\\r\\nHello, world!\\n\";\n";

impl Comparison {
    /// Starts both servers and measures one program after the other.
    pub fn run(&self) -> Result<Vec<Measured>> {
        let folder = tempfile::tempdir()?;
        let programs = folder.path().join("cgi");
        fs::create_dir(&programs)?;
        for (number, program) in PROGRAMS.iter().enumerate() {
            program.put(&programs.join(number.to_string()))?;
        }
        let start = |name: &str, command: Command, address: Address| {
            let log = folder.path().join(format!("{name}.log"));
            Server::start(command, address, &log, self.cores.server, self.cores.generator)
        };
        let (one, other) = (Address::unix_in(folder.path(), "r"), Address::unix_in(folder.path(), "w"));
        let mut command = Command::new(&self.ringway);
        command.arg("serve").arg(format!("cgi:{}", programs.display()));
        command.args(["--workers", "1", "--log", "warn", "--listen", &one.to_string()]);
        let ringway = start("ringway", command, one)?;
        let mut command = Command::new(&self.fcgiwrap);
        command.args(["-s", &other.to_string()]);
        let fcgiwrap = start("fcgiwrap", command, other)?;
        let servers = [&ringway, &fcgiwrap];
        let families = [ringway.pid(), fcgiwrap.pid(), std::process::id()].map(Family::of);
        let families = families.into_iter().collect::<Result<Vec<_>>>()?;
        (0..PROGRAMS.len()).map(|number| self.measure(number, &programs, servers, &families)).collect()
    }

    fn measure(
        &self,
        number: usize,
        programs: &Path,
        servers: [&Server; 2],
        families: &[Family],
    ) -> Result<Measured> {
        let request = request(programs, &number.to_string());
        let mut costs: [Vec<f64>; 3] = Default::default();
        for round in 0..=self.rounds {
            for turn in 0..3 {
                let side = (round + turn) % 3;
                let before = families[side].cpu_time()?;
                match servers.get(side) {
                    Some(server) => (0..self.requests).try_for_each(|_| ask(&server.address, &request))?,
                    None => self.start_alone(&programs.join(number.to_string()))?,
                }
                let cost = families[side].cpu_time()? - before;
                // The first round is for the caches.
                if round > 0 {
                    costs[side].push(micros(cost) / self.requests as f64);
                }
            }
        }
        let [ringway, fcgiwrap, alone] = costs;
        let ratio = fcgiwrap.iter().zip(&ringway).map(|(fcgiwrap, ringway)| fcgiwrap / ringway);
        let spread = |values: &mut dyn Iterator<Item = f64>| Spread::of(values).context("no round");
        Ok(Measured {
            program: PROGRAMS[number].name,
            ratio: spread(&mut ratio.into_iter())?,
            ringway: spread(&mut ringway.iter().copied())?,
            fcgiwrap: spread(&mut fcgiwrap.iter().copied())?,
            alone: spread(&mut alone.iter().copied())?,
        })
    }

    /// Starts a program as often as a server is asked for it, on the core of the servers.
    fn start_alone(&self, program: &Path) -> Result<()> {
        pin(self.cores.server)?;
        for _ in 0..self.requests {
            let done = Command::new(program).env_clear().stdin(Stdio::null()).output()?;
            ensure!(done.stdout.ends_with(HELLO_BODY), "another output: {}", done.stdout.escape_ascii());
        }
        pin(self.cores.generator)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Program {
    fn put(&self, path: &Path) -> Result<()> {
        if !self.is_c {
            fs::write(path, self.text)?;
            return Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?);
        }
        let source = path.with_extension("c");
        fs::write(&source, self.text)?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-o"]).arg(path).arg(&source).args(self.libraries);
        let done = compiler.output().context("start the C compiler `cc`")?;
        ensure!(done.status.success(), "cc: {}", String::from_utf8_lossy(&done.stderr));
        Ok(fs::remove_file(source)?)
    }
}

/// A GET as nginx sends it to either.
fn request(programs: &Path, name: &str) -> Vec<u8> {
    let (root, script) = (programs.display().to_string(), format!("/{name}"));
    let file = format!("{root}{script}");
    let own = [
        ("SCRIPT_NAME", script.as_str()),
        ("SCRIPT_FILENAME", &file),
        ("REQUEST_URI", &script),
        ("DOCUMENT_URI", &script),
        ("DOCUMENT_ROOT", &root),
    ];
    let mut params = Vec::new();
    let usual = crate::request::PAIRS.iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name));
    for (name, value) in usual.chain(&own) {
        wire::pair(&mut params, name.as_bytes(), value.as_bytes());
    }
    let mut out = Vec::new();
    wire::record(&mut out, BEGIN_REQUEST, 1, &[0, 1, 0, 0, 0, 0, 0, 0]);
    wire::record(&mut out, PARAMS, 1, &params);
    wire::record(&mut out, PARAMS, 1, &[]);
    wire::record(&mut out, STDIN, 1, &[]);
    out
}

/// One request, and its answer to the last byte.
fn ask(address: &Address, request: &[u8]) -> Result<()> {
    let socket: OwnedFd = address.connect()?;
    let mut stream = fs::File::from(socket);
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let (mut stdout, mut rest, mut is_over) = (Vec::new(), &answer[..], false);
    while let Some(header) = Header::read(rest) {
        ensure!(rest.len() >= header.record_bytes(), "{address}: the connection ends within a record");
        let content = &rest[wire::HEADER_BYTES..][..usize::from(header.content)];
        match header.record_type {
            STDOUT => stdout.extend_from_slice(content),
            END_REQUEST => is_over = content == [0; 8],
            // fcgiwrap ends a STDERR that it has not used.
            wire::STDERR if content.is_empty() => {}
            other => anyhow::bail!("{address}: a record of type {other}: {}", content.escape_ascii()),
        }
        rest = &rest[header.record_bytes()..];
    }
    let is_hello = stdout.starts_with(b"Content-Type: text/plain\r\n") && stdout.ends_with(HELLO_BODY);
    ensure!(is_over && is_hello, "{address}: another answer: {}", answer.escape_ascii());
    Ok(())
}

/// The figures as a table.
pub fn markdown(measured: &[Measured]) -> String {
    let mut page = String::from(
        "| program | ringway, µs | fcgiwrap, µs | fcgiwrap / ringway | without a server, µs |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for Measured { program, ringway, fcgiwrap, ratio, alone } in measured {
        let show = |spread: &Spread, digits: usize| {
            format!("{:.digits$} ({:.digits$}–{:.digits$})", spread.median, spread.min, spread.max)
        };
        page.push_str(&format!(
            "| {program} | {} | {} | {} | {} |\n",
            show(ringway, 0),
            show(fcgiwrap, 0),
            show(ratio, 2),
            show(alone, 0)
        ));
    }
    page
}
