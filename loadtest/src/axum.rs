//! One axum router, behind nginx by FastCGI on Ringway and by HTTP on hyper.
//!
//! Both are the same program (`peers/axum_hello.rs`), one thread on one core; nginx keeps its connections to either.
//! Rounds take turns; the ratio is taken within each round.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::address::Address;
use crate::front::{Chain, Pass};
use crate::process::Cores;
use crate::summary::Spread;

/// What the request on Ringway may cost at most, as a part of what it costs on hyper, by the median of the rounds.
pub const RATIO_MAX: f64 = 0.9;

/// CPU time of the application's process for a request, in microseconds.
pub struct Measured {
    /// On Ringway.
    pub fastcgi: Spread,
    /// On hyper.
    pub http: Spread,
    /// Ringway's over hyper's, round by round.
    pub ratio: Spread,
}

/// Runs wrk for `seconds` against each in turn, `rounds` times over.
pub fn measure(rounds: usize, seconds: u32, cores: Cores) -> Result<Measured> {
    let program = std::env::current_exe()?.with_file_name("axum_hello");
    ensure!(program.is_file(), "{} is missing: build the whole package", program.display());
    let folder = tempfile::tempdir()?;
    let start = |flag: &str, pass: Pass| {
        let directory = folder.path().join(&flag[2..]);
        fs::create_dir(&directory)?;
        let backend = Address::unix_in(&directory, "app");
        let mut command = Command::new(&program);
        command.args([flag, &backend.to_string()]);
        Chain::start(&directory, command, backend, pass, cores).with_context(|| format!("axum_hello {flag}"))
    };
    let (mut fastcgi, mut http) = (start("--fastcgi", Pass::FastCgi)?, start("--http", Pass::Http)?);
    for round in 0..rounds {
        // Who is first takes turns too.
        let mut both = [&mut fastcgi, &mut http];
        if round % 2 == 1 {
            both.reverse();
        }
        both.into_iter().try_for_each(|chain| chain.round(seconds))?;
    }
    let spread = |values: &mut dyn Iterator<Item = f64>| Spread::of(values).context("no round");
    Ok(Measured {
        ratio: spread(&mut fastcgi.cpu_us.iter().zip(&http.cpu_us).map(|(fastcgi, http)| fastcgi / http))?,
        fastcgi: spread(&mut fastcgi.cpu_us.iter().copied())?,
        http: spread(&mut http.cpu_us.iter().copied())?,
    })
}

/// The figures as a table.
pub fn markdown(measured: &Measured) -> String {
    let show = |spread: &Spread| format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max);
    format!(
        "| the same axum router behind nginx | CPU µs/request |\n| --- | --- |\n\
         | on ringway, `fastcgi_pass` | {} |\n| on hyper, `proxy_pass` | {} |\n| ratio | {} |\n",
        show(&measured.fastcgi),
        show(&measured.http),
        show(&measured.ratio)
    )
}
