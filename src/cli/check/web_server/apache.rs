//! Apache: `ProxyPass`, `ProxyPassMatch`, `SetHandler`, `RewriteRule`, `BalancerMember` and
//! `AuthnzFcgiDefineProvider` with `fcgi://`, and mod_fastcgi's `FastCgiExternalServer`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::{INCLUDES_DEEP_MAX, Named, Place, folders, included, parse};

/// What mod_proxy_fcgi takes where no port is given.
const PORT: u16 = 8000;

pub(super) fn read(file: &Path) -> Result<Vec<Named>, String> {
    let mut reader = Reader::default();
    reader.read(file, file, 0)?;
    Ok(reader.named)
}

#[derive(Default)]
struct Reader {
    named: Vec<Named>,
    /// By `Define`.
    variables: HashMap<String, String>,
    /// By `ServerRoot`: where relative paths begin.
    root: Option<String>,
}

impl Reader {
    fn read(&mut self, file: &Path, main: &Path, depth: usize) -> Result<(), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut lines = text.lines().zip(1..);
        while let Some((first, line)) = lines.next() {
            let mut directive = first.to_owned();
            while directive.ends_with('\\') {
                directive.pop();
                let Some((next, _)) = lines.next() else { break };
                directive.push_str(next);
            }
            let words = words(&directive);
            self.directive(&words, &Place { file: file.to_owned(), line }, main, depth)?;
        }
        Ok(())
    }

    fn directive(
        &mut self,
        words: &[String],
        place: &Place,
        main: &Path,
        depth: usize,
    ) -> Result<(), String> {
        let [name, arguments @ ..] = words else { return Ok(()) };
        let arguments: Vec<String> = arguments.iter().map(|word| self.expand(word)).collect();
        match (name.to_ascii_lowercase().as_str(), arguments.as_slice()) {
            // What a section is for is said again inside of it or elsewhere.
            (name, _) if name.starts_with(['#', '<']) => {}
            ("define", [name, value]) => drop(self.variables.insert(name.clone(), value.clone())),
            ("serverroot", [root]) => self.root = Some(root.clone()),
            ("include" | "includeoptional", [pattern]) if depth < INCLUDES_DEEP_MAX => {
                let mut near = folders(main);
                if let Some(root) = &self.root {
                    near.insert(0, Path::new(root));
                }
                near.push(Path::new("/etc/apache2"));
                for path in included(pattern, &near) {
                    self.read(&path, main, depth + 1)?;
                }
            }
            ("fastcgiexternalserver", _) => {
                for pair in arguments.windows(2) {
                    let text = match pair[0].as_str() {
                        "-host" => pair[1].clone(),
                        "-socket" => format!("unix:{}", pair[1]),
                        _ => continue,
                    };
                    self.named.push(Named::new(place.clone(), &text, parse(&text)));
                }
            }
            _ => {
                for word in arguments.iter().filter(|word| word.contains("fcgi://")) {
                    self.named.push(Named::new(
                        place.clone(),
                        word,
                        address(word).and_then(|text| parse(&text)),
                    ));
                }
            }
        }
        Ok(())
    }

    /// `${NAME}` by its definition; one that is unknown stays.
    fn expand(&self, word: &str) -> String {
        let mut text = word.to_owned();
        for (name, value) in &self.variables {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        text
    }
}

/// `unix:/path|fcgi://any` or `fcgi://host:port/path`, perhaps behind `proxy:`.
fn address(word: &str) -> Option<String> {
    let word = word.strip_prefix("proxy:").unwrap_or(word);
    let (before, behind) = word.split_once("fcgi://")?;
    if let Some(path) = before.strip_prefix("unix:") {
        return Some(format!("unix:{}", path.strip_suffix('|')?));
    }
    let authority = behind.split('/').next()?;
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { authority.to_owned() } else { format!("{authority}:{PORT}") })
}

/// The words of a directive; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = line.trim().chars().peekable();
    while let Some(first) = characters.next() {
        match first {
            first if first.is_whitespace() => {}
            '"' | '\'' => {
                let mut word = String::new();
                while let Some(character) = characters.next_if(|character| *character != first) {
                    word.push(character);
                }
                characters.next();
                words.push(word);
            }
            first => {
                let mut word = String::from(first);
                while let Some(character) = characters.next_if(|character| !character.is_whitespace()) {
                    word.push(character);
                }
                words.push(word);
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_what_directives_say() {
        for (word, expected) in [
            ("unix:/run/a.sock|fcgi://localhost/", "unix:/run/a.sock"),
            ("proxy:unix:/run/a.sock|fcgi://app", "unix:/run/a.sock"),
            ("fcgi://127.0.0.1:9000/", "127.0.0.1:9000"),
            ("proxy:fcgi://[::1]:9000", "[::1]:9000"),
            ("fcgi://localhost/app", "localhost:8000"),
        ] {
            assert_eq!(address(word).as_deref(), Some(expected));
        }
        assert_eq!(words("ProxyPass \"/a b\" 'c' d"), ["ProxyPass", "/a b", "c", "d"]);
    }
}
