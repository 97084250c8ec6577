//! The command line: one file for each command, and one row for it here.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.

mod check;
mod conf;
mod config_file;
mod decode;
mod demo;
mod probe;
mod records;
mod request;
mod serve;
mod socket;

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::ArgMatches;
use tracing_subscriber::EnvFilter;

/// One command.
struct Command {
    name: &'static str,
    about: &'static str,
    /// Adds its arguments.
    arguments: fn(clap::Command) -> clap::Command,
    run: fn(&ArgMatches) -> Result<(), Failure>,
}

const COMMANDS: &[Command] =
    &[serve::COMMAND, demo::COMMAND, request::COMMAND, check::COMMAND, conf::COMMAND, decode::COMMAND];

/// Why a command did not do what it should: a text for people, and which exit code.
#[derive(Debug)]
enum Failure {
    /// It was under way: 1.
    Running(String),
    /// The arguments, the configuration or the host do not allow it: 2.
    Usage(String),
}

impl Failure {
    fn running(text: impl fmt::Display) -> Failure {
        Failure::Running(text.to_string())
    }

    fn usage(text: impl fmt::Display) -> Failure {
        Failure::Usage(text.to_string())
    }
}

impl From<ringway::Error> for Failure {
    fn from(error: ringway::Error) -> Failure {
        if error.is_usage() { Failure::usage(error) } else { Failure::running(error) }
    }
}

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    // clap prints help and usage errors itself, with exit codes 0 and 2.
    let matches = command_line().get_matches();
    let (name, matches) = matches.subcommand().expect("clap demands a command");
    let command = COMMANDS.iter().find(|command| command.name == name).expect("clap knows only these");
    let (code, text) = match (command.run)(matches) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Running(text)) => (1, text),
        Err(Failure::Usage(text)) => (2, text),
    };
    eprintln!("ringway {name}: {text}");
    ExitCode::from(code)
}

fn command_line() -> clap::Command {
    let mut root = clap::Command::new("ringway")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    for command in COMMANDS {
        // Last, since deriving arguments sets a text of its own.
        let blank = clap::Command::new(command.name);
        root = root.subcommand((command.arguments)(blank).about(command.about));
    }
    root
}

/// The option `--log` of the commands that run for long.
#[derive(clap::Args)]
struct Logging {
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as `ringway=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    log: String,
}

impl Logging {
    fn start(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| Failure::usage(format!("--log {:?}: {error}", self.log)))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in COMMANDS {
            let root = command_line();
            let built = root.find_subcommand(command.name).expect("it is in the table");
            assert_eq!(built.get_about().map(ToString::to_string).as_deref(), Some(command.about));
        }
    }

    #[test]
    fn every_setting_is_a_flag_of_serve() {
        let root = command_line();
        let serve = root.find_subcommand("serve").expect("it is in the table");
        for setting in ringway::config::SETTINGS {
            let flag = setting.flag();
            assert!(serve.get_arguments().any(|arg| arg.get_long() == Some(&flag)), "--{flag}");
        }
    }
}
