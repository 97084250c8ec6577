//! Where settings come from when no program assigns them: a TOML file, the environment, the command line.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use ringway::config::{Config, Error, Origin, SETTINGS, Setting};
use toml::de::{DeInteger, DeTable, DeValue};

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
        read_file(&mut config, path)?;
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

fn read_file(config: &mut Config, path: &Path) -> Result<(), Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new("config", &name, Origin::Flag("--config".to_owned()), error))?;
    read_toml(config, &text, path)
}

/// Takes over every key. All keys are at the top level; one that is no setting is an error.
fn read_toml(config: &mut Config, text: &str, path: &Path) -> Result<(), Error> {
    let at = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1,
    };
    let table = DeTable::parse(text).map_err(|error| {
        Error::new("syntax", "", at(error.span().map_or(0, |span| span.start)), error.message())
    })?;
    for (key, value) in table.get_ref() {
        let (name, origin) = (key.get_ref().as_ref(), at(key.span().start));
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == name) else {
            return Err(Error::new(name, "", origin, unknown_key(name)));
        };
        let Some(values) = texts_of(setting, value.get_ref()) else {
            let reason = format!("not a value of this setting: {}", setting.example());
            return Err(Error::new(name, "", origin, reason));
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        setting.set(config, &values, origin)?;
    }
    Ok(())
}

/// A value as it would be written in a flag; a list as several.
fn texts_of(setting: &Setting, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(items) if setting.is_list() => {
            items.iter().map(|item| text_of(setting, item.get_ref())).collect()
        }
        value => Some(vec![text_of(setting, value)?]),
    }
}

fn text_of(setting: &Setting, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Integer(number) => integer_text(setting, number),
        _ => None,
    }
}

/// Permissions are octal, as `0o660` in TOML and as `660` in a flag; any other number is decimal.
fn integer_text(setting: &Setting, number: &DeInteger<'_>) -> Option<String> {
    if number.radix() == 10 || (number.radix() == 8 && setting.placeholder() == "MODE") {
        return Some(number.as_str().to_owned());
    }
    u64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
}

fn unknown_key(name: &str) -> String {
    let near = SETTINGS.iter().map(|setting| setting.key).min_by_key(|key| edits(key, name));
    match near.filter(|key| edits(key, name) <= 1 + name.len() / 4) {
        Some(key) => format!("no such setting; {key} is one"),
        None => "no such setting; docs/configuration.md lists them".to_owned(),
    }
}

/// Levenshtein's distance.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn toml(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        match read_toml(&mut config, text, Path::new("r.toml")) {
            Ok(()) => Ok(config),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_file_is_read() {
        let config = toml(
            "# a comment\nlisten = [\"127.0.0.1:9000\", 'unix:/a,b']\nworkers = 0x02\nsocket_mode = 0o600\n\
             send_timeout = '5s'\npin = true\nbuffer_bytes = 65_536\nmount = \"/app\"\n",
        )
        .unwrap();
        assert_eq!(config.listen, ["127.0.0.1:9000", "unix:/a,b"]);
        assert_eq!((config.workers, config.socket_mode, config.pin), (2, 0o600, true));
        assert_eq!((config.send_timeout, config.buffer_bytes), (Duration::from_secs(5), 65_536));
        assert_eq!(toml("socket_mode = 600").unwrap().socket_mode, 0o600);
        assert_eq!(toml("listen = 'a:1'").unwrap().listen, ["a:1"]);
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        for (text, expected) in [
            ("\nworkers = 'x'", "r.toml:2: workers = \"x\": not a whole number"),
            ("workers = -1", "r.toml:1: workers = \"-1\": not a whole number"),
            ("\n\nworker = 1", "r.toml:3: worker: no such setting; workers is one"),
            ("zzz = 1", "r.toml:1: zzz: no such setting; docs/configuration.md lists them"),
            ("workers = [1, 2]", "r.toml:1: workers: not a value of this setting: a number"),
            ("[workers]\nx = 1", "r.toml:1: workers: not a value of this setting: a number"),
        ] {
            assert_eq!(toml(text).unwrap_err(), expected);
        }
        assert!(toml("workers = 1\nworkers 2\n").unwrap_err().starts_with("r.toml:2: syntax: "));
    }

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
