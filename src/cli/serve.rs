//! `ringway serve`: an application behind FastCGI.

#[cfg(feature = "python")]
mod wsgi;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgMatches, Args, FromArgMatches};
use ringway::cgi::Cgi;
use ringway::{Builder, Config, Server, as_cgi};

use super::{Command, Failure, Logging, config_file, probe};

pub(super) const COMMAND: Command = Command {
    name: "serve",
    about: "Serves an application over FastCGI",
    arguments: |command| config_file::add_flags(Options::augment_args(command)),
    run,
};

#[derive(Args)]
struct Options {
    /// The application: `probe`, a small one for tests, which answers /hello, /env, /echo and more;
    /// `cgi:DIRECTORY`, the CGI programs of a directory; `wsgi:MODULE:CALLABLE`, a Python application, where the
    /// command was built with the feature python
    app: String,
    #[cfg(feature = "python")]
    #[command(flatten)]
    wsgi: wsgi::PythonOptions,
    #[command(flatten)]
    logging: Logging,
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    #[cfg(feature = "python")]
    if let Some(name) = options.app.strip_prefix("wsgi:") {
        let config = config_file::read(matches).map_err(Failure::usage)?;
        options.logging.start()?;
        return wsgi::serve(name, &options.wsgi, config);
    }
    let app: App = options.app.parse().map_err(Failure::usage)?;
    let config = config_file::read(matches).map_err(Failure::usage)?;
    options.logging.start()?;
    let is_cgi = is_cgi(&config);
    answer(app.serve(config)?, is_cgi)
}

/// Whether to answer one request as a CGI program, and end.
fn is_cgi(config: &Config) -> bool {
    config.listen.is_empty() && as_cgi::is_meant()
}

fn answer(server: Builder, is_cgi: bool) -> Result<(), Failure> {
    if !is_cgi {
        return Ok(server.run()?);
    }
    as_cgi::answer(server).map_err(|error| match error {
        as_cgi::Error::Server(error) => error.into(),
        error => Failure::running(error),
    })
}

/// What can be served.
enum App {
    Probe,
    Cgi(PathBuf),
}

impl FromStr for App {
    type Err = String;

    fn from_str(text: &str) -> Result<App, String> {
        match text.split_once(':') {
            None if text == "probe" => Ok(App::Probe),
            Some(("cgi", directory)) if !directory.is_empty() => Ok(App::Cgi(directory.into())),
            _ => {
                let python = if cfg!(feature = "python") { ", wsgi:MODULE:CALLABLE" } else { "" };
                let has = format!("probe, cgi:DIRECTORY{python}");
                Err(format!("{text:?} is no application of this build, which has: {has}"))
            }
        }
    }
}

impl App {
    fn serve(self, config: Config) -> Result<Builder, Failure> {
        let mount = config.mount.clone();
        match self {
            App::Probe => Ok(with_probe(Server::builder().config(config), &mount)),
            App::Cgi(directory) => {
                let refuse = |error| Failure::usage(format!("cgi:{}: {error}", directory.display()));
                let programs = Cgi::new(&directory).map_err(refuse)?;
                let programs =
                    programs.processes_max(config.cgi_processes_max as usize).timeout(config.cgi_timeout);
                Ok(Server::builder().config(config).responder(&mount, programs))
            }
        }
    }
}

/// Mounts the probe in all its roles.
pub(super) fn with_probe(builder: Builder, mount: &str) -> Builder {
    builder.responder(mount, probe::respond).authorizer(mount, probe::authorize).filter(mount, probe::filter)
}
