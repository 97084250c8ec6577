//! `ringway serve`: an application behind FastCGI.

mod as_cgi;

use clap::{ArgMatches, Args, FromArgMatches};
use ringway::{Builder, Server};

use super::{Command, Failure, Logging, config_file, probe};

pub(super) const COMMAND: Command = Command {
    name: "serve",
    about: "Serves an application over FastCGI",
    arguments: |command| config_file::add_flags(Options::augment_args(command)),
    run,
};

#[derive(Args)]
struct Options {
    /// The application: `probe`, a small one for tests, which answers /hello, /env, /echo and more
    app: String,
    #[command(flatten)]
    logging: Logging,
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    if options.app != "probe" {
        let app = &options.app;
        return Err(Failure::usage(format!("{app:?} is no application of this build, which has: probe")));
    }
    let config = config_file::read(matches).map_err(Failure::usage)?;
    options.logging.start()?;
    let is_cgi = config.listen.is_empty() && as_cgi::is_meant();
    let mount = config.mount.clone();
    let server = with_probe(Server::builder().config(config), &mount);
    if is_cgi { as_cgi::answer(server) } else { Ok(server.run()?) }
}

/// Mounts the probe in all its roles.
pub(super) fn with_probe(builder: Builder, mount: &str) -> Builder {
    builder.responder(mount, probe::respond).authorizer(mount, probe::authorize).filter(mount, probe::filter)
}
