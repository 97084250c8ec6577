//! Settings in a TOML file. All keys are at the top level.

use std::path::{Path, PathBuf};

use toml::de::{DeInteger, DeTable, DeValue};

use super::{Config, Error, Origin, SETTINGS, Setting};

/// A file that was read, before it is applied.
///
/// ```no_run
/// # use std::path::Path;
/// # use ringway::config::{Config, File};
/// let mut config = Config::default();
/// File::read(Path::new("ringway.toml"))?.apply(&mut config)?;
/// # Ok::<(), ringway::config::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    key: String,
    /// As they would be written in flags; `None` where TOML's value is of a kind that no flag has.
    values: Option<Vec<String>>,
    line: usize,
}

impl File {
    /// Reads a file, and nothing of what its keys mean.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no TOML.
    pub fn read(path: &Path) -> Result<File, Error> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::new("config", &name, Origin::Flag("--config".to_owned()), error))?;
        File::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<File, Error> {
        let line = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let line = line(error.span().map_or(0, |span| span.start));
            Error::new("syntax", "", Origin::File { path: path.to_owned(), line }, error.message())
        })?;
        let entries = table.get_ref().iter().map(|(key, value)| {
            let name = key.get_ref().as_ref();
            let setting = SETTINGS.iter().find(|setting| setting.key == name);
            let values = texts_of(setting, value.get_ref());
            Entry { key: name.to_owned(), values, line: line(key.span().start) }
        });
        Ok(File { path: path.to_owned(), entries: entries.collect() })
    }

    /// Takes a key out that is not the engine's, for those who know what it means: its values as in a flag.
    ///
    /// # Errors
    ///
    /// The value is of a kind that no flag has.
    pub fn take(&mut self, key: &str) -> Result<Option<Vec<String>>, Error> {
        let Some(place) = self.entries.iter().position(|entry| entry.key == key) else { return Ok(None) };
        let entry = self.entries.remove(place);
        match entry.values {
            Some(values) => Ok(Some(values)),
            None => {
                let origin = Origin::File { path: self.path.clone(), line: entry.line };
                Err(Error::new(key, "", origin, "neither text, nor a number, nor true or false"))
            }
        }
    }

    /// The settings that are in the file, and their values as in flags.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.values.as_deref().unwrap_or_default()))
    }

    /// Takes the settings over.
    ///
    /// # Errors
    ///
    /// A key that is no setting, or a value that is none of this setting, with its line.
    pub fn apply(&self, config: &mut Config) -> Result<(), Error> {
        for Entry { key, values, line } in &self.entries {
            let origin = Origin::File { path: self.path.clone(), line: *line };
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
                return Err(Error::new(key, "", origin, unknown_key(key)));
            };
            let Some(values) = values else {
                let reason = format!("not a value of this setting: {}", setting.example());
                return Err(Error::new(key, "", origin, reason));
            };
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            setting.set(config, &values, origin)?;
        }
        Ok(())
    }
}

/// A value as it would be written in a flag; a list as several.
fn texts_of(setting: Option<&Setting>, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(items) if setting.is_none_or(Setting::is_list) => {
            items.iter().map(|item| text_of(setting, item.get_ref())).collect()
        }
        value => Some(vec![text_of(setting, value)?]),
    }
}

fn text_of(setting: Option<&Setting>, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Integer(number) => integer_text(setting, number),
        DeValue::Float(number) if setting.is_none() => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// Permissions are octal, as `0o660` in TOML and as `660` in a flag; any other number is decimal.
fn integer_text(setting: Option<&Setting>, number: &DeInteger<'_>) -> Option<String> {
    let is_mode = setting.is_some_and(|setting| setting.placeholder() == "MODE");
    if number.radix() == 10 || (number.radix() == 8 && is_mode) {
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
        let file = File::parse(text, Path::new("r.toml")).map_err(|error| error.to_string())?;
        file.apply(&mut config).map_err(|error| error.to_string())?;
        Ok(config)
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

    #[test]
    fn keys_of_others_can_be_taken_out() {
        let text =
            "threads = 0x10\nslow_log = '2s'\ntags = ['a', 'b']\nratio = 0.5\nworkers = 2\nat = 1979-05-27";
        let mut file = File::parse(text, Path::new("r.toml")).unwrap();
        for (key, expected) in [
            ("threads", vec!["16"]),
            ("slow_log", vec!["2s"]),
            ("tags", vec!["a", "b"]),
            ("ratio", vec!["0.5"]),
        ] {
            assert_eq!(file.take(key).unwrap().unwrap(), expected);
        }
        assert_eq!(file.take("threads"), Ok(None));
        let error = file.take("at").unwrap_err().to_string();
        assert_eq!(error, "r.toml:6: at: neither text, nor a number, nor true or false");
        let mut config = Config::default();
        file.apply(&mut config).unwrap();
        assert_eq!(config.workers, 2);
        assert_eq!(file.settings().collect::<Vec<_>>(), [("workers", &["2".to_owned()][..])]);
    }
}
