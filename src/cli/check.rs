//! `ringway check`: walks the way a request takes, and names the first thing that is wrong with its remedy.
//!
//! ```text
//! driver ▶ directories ▶ socket ▶ connect ▶ process ▶ output ▶ limits ▶ protocol ▶ request ▶ web server
//!          └─ as the web server's user ─┘   └─ of the application ─┘   └─── FastCGI ────┘   its file
//! ```
//!
//! Each of them is a [`Step`]. What is wrong makes the steps that need it skipped; the others are taken all the
//! same.

mod path;
mod process;
mod protocol;
mod user;
mod web_server;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches};
use ringway::client::Address;
use ringway::config::{Origin, SETTINGS, parse_duration};
use ringway::{Config, Server};
use serde::Serialize;

use super::{Command, Failure};
use user::User;

pub(super) const COMMAND: Command = Command {
    name: "check",
    about: "Says what keeps a web server from reaching a FastCGI application, and what to do about it",
    arguments: Options::augment_args,
    run,
};

#[derive(Args)]
struct Options {
    /// Where the application listens: unix:/path, unix:@abstract or HOST:PORT
    address: Address,
    /// User that the web server's workers run as, a name or a number; without it, you
    #[arg(long = "as", value_name = "USER", value_parser = User::find)]
    user: Option<User>,
    /// Configuration file of nginx, Apache or lighttpd, whose addresses are compared with this one
    #[arg(long, value_name = "FILE")]
    server_config: Option<PathBuf>,
    /// Page to ask for; without it the mount itself
    #[arg(long, value_name = "URI")]
    uri: Option<String>,
    /// Prefix that the application is mounted under
    #[arg(long, value_name = "PREFIX", default_value = "/")]
    mount: String,
    /// Driver that the server is to use here: auto, uring or epoll
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    driver: String,
    /// Give the application up after this time without a word
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print the steps as JSON
    #[arg(long)]
    json: bool,
}

/// What one step has found.
#[derive(Serialize)]
struct Step {
    step: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it.
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It does no harm to a request, and is worth knowing.
    Note,
    Wrong,
    /// It could not be looked at.
    Skipped,
}

/// A [`Step`] without its name.
struct Finding {
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn note(found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Note, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn wrong(found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Wrong, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn skipped(found: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Skipped, found: found.into(), remedy: None }
    }
}

/// The steps that were taken, in order.
#[derive(Default)]
struct Report(Vec<Step>);

impl Report {
    /// Adds a step; true unless it is wrong.
    fn add(&mut self, step: &'static str, finding: Finding) -> bool {
        let Finding { verdict, found, remedy } = finding;
        self.0.push(Step { step, verdict, found, remedy });
        verdict != Verdict::Wrong
    }

    fn first_wrong(&self) -> Option<&Step> {
        self.0.iter().find(|step| step.verdict == Verdict::Wrong)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Step { step, verdict, found, remedy } in &self.0 {
            let mark = match verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Wrong => "WRONG",
                Verdict::Skipped => "-",
            };
            writeln!(text, "{mark:<6} {step:<12} {found}").expect("a string");
            if let Some(remedy) = remedy {
                writeln!(text, "{:19} => {remedy}", "").expect("a string");
            }
        }
        text
    }

    fn json(&self, options: &Options, user: &User) -> String {
        let report = serde_json::json!({
            "address": options.address.to_string(),
            "as": user.name,
            "well": self.first_wrong().is_none(),
            "wrong": self.first_wrong().map(|step| step.step),
            "steps": self.0,
        });
        format!("{report:#}\n")
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    if !options.mount.starts_with('/') {
        return Err(Failure::usage(format!("--mount {:?}: a prefix begins with /", options.mount)));
    }
    let user = options.user.clone().unwrap_or_else(User::current);
    let named = options.server_config.as_deref().map(web_server::read).transpose();
    let named = named.map_err(Failure::usage)?;

    let mut report = Report::default();
    report.add("driver", driver(&options.driver)?);
    way(&options, &user, &mut report);
    if let Some(named) = named {
        for finding in web_server::compare(&named, &options.address) {
            report.add("web server", finding);
        }
    }
    let text = if options.json { report.json(&options, &user) } else { report.text() };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::running(format!("stdout: {error}")))?;
    match report.first_wrong() {
        None => Ok(()),
        Some(Step { step, found, remedy, .. }) => {
            let remedy = remedy.as_deref().unwrap_or_default();
            Err(Failure::running(format!("{step}: {found}; {remedy}")))
        }
    }
}

/// Which driver a server takes here. That io_uring is denied is wrong only where it was asked for.
fn driver(wanted: &str) -> Result<Finding, Failure> {
    let mut config = Config::default();
    let setting = SETTINGS.iter().find(|setting| setting.key == "driver").expect("it is in the table");
    setting.set(&mut config, &[wanted], Origin::Flag("--driver".to_owned())).map_err(Failure::usage)?;
    Ok(match Server::choose_driver(&config) {
        Ok(choice) => match choice.reason() {
            None => Finding::ok(choice.to_string()),
            Some(reason) => Finding::note("driver epoll: io_uring does not work here", reason.to_string()),
        },
        Err(error) => Finding::wrong("io_uring was asked for and does not work here", error.to_string()),
    })
}

/// From the web server's process to the answer of the application.
fn way(options: &Options, user: &User, report: &mut Report) {
    let Options { address, timeout, .. } = options;
    if let Address::Unix(path) = address
        && !(report.add("directories", path::directories(path, user))
            && report.add("socket", path::socket(path, user)))
    {
        report.add("connect", Finding::skipped("the way to the socket is not free"));
        return;
    }
    let connect = || user.connect(address, *timeout);
    let is_connected = match connect() {
        Ok(_) => {
            let found = format!("{address} accepts connections of {}", user.acting());
            report.add("connect", Finding::ok(found))
        }
        Err(error) => {
            report.add("connect", path::refused(address, user, &error));
            false
        }
    };
    let holders = process::holders(address);
    report.add("process", process::who(&holders));
    if !holders.is_empty() {
        report.add("output", process::output(&holders));
        report.add("limits", process::limits(&holders));
    }
    if !is_connected {
        report.add("protocol", Finding::skipped("there is no connection"));
        return;
    }
    let mount = options.mount.trim_end_matches('/');
    let uri = options.uri.clone().unwrap_or_else(|| format!("{mount}/"));
    protocol::hello(&connect, &options.mount, &uri, *timeout, report);
}
