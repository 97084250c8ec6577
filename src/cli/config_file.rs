//! Where settings come from when no program assigns them: a TOML file, the environment, the command line.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use ringway::config::{Config, Error, File, Origin, SETTINGS, Setting};

/// Adds `--config` and a flag for every setting.
pub(super) fn add_flags(command: clap::Command) -> clap::Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("RINGWAY_CONFIG")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file of settings; RINGWAY_… variables win over it, and flags over both");
    SETTINGS.iter().fold(command.arg(file), |command, setting| command.arg(flag_of(setting)))
}

/// The settings of this process: defaults, then the file, then the environment, then the flags.
pub(super) fn read(matches: &ArgMatches) -> Result<Config, Error> {
    let mut config = Config::default();
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        File::read(path)?.apply(&mut config)?;
    }
    config.read_env(std::env::vars_os())?;
    for setting in SETTINGS {
        if matches.value_source(setting.key) == Some(ValueSource::CommandLine) {
            let values = matches.get_many::<String>(setting.key).into_iter().flatten();
            let values: Vec<&str> = values.map(String::as_str).collect();
            setting.set(&mut config, &values, Origin::Flag(format!("--{}", setting.flag())))?;
        }
    }
    Ok(config)
}

fn flag_of(setting: &'static Setting) -> Arg {
    let (default, doc) = (setting.show(&Config::default()), setting.doc().trim_end_matches('.'));
    let help = match default.as_str() {
        "" => doc.to_owned(),
        default => format!("{doc} [default: {default}]"),
    };
    let arg = Arg::new(setting.key)
        .long(setting.flag())
        .value_name(setting.placeholder())
        .help(help)
        .help_heading(setting.section)
        .allow_hyphen_values(true);
    if setting.is_list() {
        arg.action(ArgAction::Append)
    } else if setting.is_switch() {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn flags(arguments: &[&str]) -> Result<Config, String> {
        let matches = add_flags(clap::Command::new("serve"))
            .try_get_matches_from([&["serve"], arguments].concat())
            .map_err(|error| error.to_string())?;
        read(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_read() {
        let config = flags(&["--listen", "a:1", "--listen", "b:2", "--pin", "--idle-timeout", "1m"]).unwrap();
        assert_eq!((config.listen, config.pin), (vec!["a:1".to_owned(), "b:2".to_owned()], true));
        assert_eq!(config.idle_timeout, Duration::from_secs(60));
        assert!(!flags(&["--pin=false"]).unwrap().pin);
        assert_eq!(flags(&["--workers", "-1"]).unwrap_err(), "--workers \"-1\": not a whole number");
        let error = flags(&["--config", "/nowhere/r.toml"]).unwrap_err();
        assert!(error.starts_with("--config \"/nowhere/r.toml\": No such file"), "{error}");
    }
}
