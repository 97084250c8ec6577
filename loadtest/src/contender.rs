//! Who is compared, and how each is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::address::Address;
use crate::load::Shape;
use crate::request;

/// A server in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The bare epoll loop of `peers/echo_epoll.rs`.
    Echo,
    /// Ringway on io_uring, one worker.
    Uring,
    /// Ringway on epoll, one worker.
    Epoll,
    /// libfcgi's threaded accept loop of `peers/libfcgi_threaded.c`.
    Libfcgi,
}

impl Contender {
    /// Everyone, in the order of the tables.
    pub const ALL: [Contender; 4] = [Contender::Echo, Contender::Uring, Contender::Epoll, Contender::Libfcgi];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Echo => "echo",
            Contender::Uring => "ringway uring",
            Contender::Epoll => "ringway epoll",
            Contender::Libfcgi => "libfcgi",
        }
    }
}

/// Where the contenders' programs are, and a directory for sockets, logs and what is built.
pub struct Programs {
    ringway: Option<PathBuf>,
    echo: PathBuf,
    libfcgi: Result<PathBuf, String>,
    /// The answer that the echo gives, when it was taken from another server.
    answer: Option<PathBuf>,
    directory: tempfile::TempDir,
}

impl Programs {
    /// Finds the echo beside this program and builds libfcgi's program; without libfcgi's headers it goes
    /// without.
    pub fn prepare(ringway: Option<PathBuf>) -> Result<Programs> {
        let directory = tempfile::Builder::new().prefix("ringway-loadtest-").tempdir()?;
        let echo = std::env::current_exe()?.with_file_name("echo_epoll");
        ensure!(echo.is_file(), "{} is missing: build the whole package", echo.display());
        if let Some(ringway) = &ringway {
            ensure!(ringway.is_file(), "{} is not a program", ringway.display());
        }
        let libfcgi = build_libfcgi(directory.path()).map_err(|error| format!("{error:#}"));
        Ok(Programs { ringway, echo, libfcgi, answer: None, directory })
    }

    /// For sockets and logs; removed at the end.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// From now on the echo gives this answer.
    pub fn set_answer(&mut self, answer: &[u8]) -> Result<()> {
        let path = self.directory().join("answer.bin");
        fs::write(&path, answer)?;
        self.answer = Some(path);
        Ok(())
    }

    /// Why a contender is not in the comparison at all.
    pub fn absence(&self, contender: Contender) -> Option<String> {
        match contender {
            Contender::Echo => None,
            Contender::Uring | Contender::Epoll if self.ringway.is_none() => {
                Some("no --ringway given".into())
            }
            Contender::Uring | Contender::Epoll => None,
            Contender::Libfcgi => self.libfcgi.as_ref().err().cloned(),
        }
    }

    /// The command that serves this shape of load on `address`; `None` where the contender cannot.
    pub fn command(&self, contender: Contender, address: &Address, shape: Shape) -> Option<Command> {
        let command = match contender {
            Contender::Echo => self.echo(address, shape),
            Contender::Uring => self.ringway("uring", address)?,
            Contender::Epoll => self.ringway("epoll", address)?,
            Contender::Libfcgi => {
                let listen = match address {
                    Address::Unix(path) => path.display().to_string(),
                    Address::Tcp(address) => address.to_string(),
                };
                // It refuses a second id, and a kept connection holds its thread.
                if matches!(shape, Shape::Multiplexed(..)) || shape.connections() > LIBFCGI_THREADS_MAX {
                    return None;
                }
                let mut command = Command::new(self.libfcgi.as_ref().ok()?);
                command.args([listen, shape.connections().to_string()]);
                command
            }
        };
        Some(command)
    }

    fn echo(&self, address: &Address, shape: Shape) -> Command {
        let request_bytes = request::hello(1, shape.keeps()).len();
        let mut command = Command::new(&self.echo);
        command.args(["--listen", &address.to_string(), "--request-bytes", &request_bytes.to_string()]);
        command.args(["--ids", &shape.ids().to_string()]);
        if let Some(answer) = &self.answer {
            command.arg("--answer").arg(answer);
        }
        if !shape.keeps() {
            command.arg("--close");
        }
        command
    }

    fn ringway(&self, driver: &str, address: &Address) -> Option<Command> {
        let mut command = Command::new(self.ringway.as_ref()?);
        command.args([
            "serve",
            "probe",
            "--listen",
            &address.to_string(),
            "--workers",
            "1",
            "--driver",
            driver,
        ]);
        Some(command)
    }
}

fn build_libfcgi(directory: &Path) -> Result<PathBuf> {
    let (source, program) = (directory.join("libfcgi_threaded.c"), directory.join("libfcgi_threaded"));
    fs::write(&source, include_str!("../peers/libfcgi_threaded.c"))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-Wall", "-Wextra", "-pthread", "-o"]).arg(&program).arg(&source).arg("-lfcgi");
    let output = compiler.output().context("start the C compiler `cc`")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "build libfcgi_threaded.c (Debian: libfcgi-dev): {}",
            errors.lines().next().unwrap_or_default()
        );
    }
    Ok(program)
}

const LIBFCGI_THREADS_MAX: u32 = 1024;
