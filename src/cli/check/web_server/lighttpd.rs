//! lighttpd: `"socket"`, or `"host"` and `"port"`, in `fastcgi.server`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{INCLUDES_DEEP_MAX, Named, Place, folders, included, parse};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    /// A name, a number, an operator.
    Word,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    kind: Kind,
    line: usize,
}

pub(super) fn read(file: &Path) -> Result<Vec<Named>, String> {
    let mut reader = Reader::default();
    reader.read(file, file, 0)?;
    Ok(reader.named)
}

#[derive(Default)]
struct Reader {
    named: Vec<Named>,
    variables: HashMap<String, String>,
}

/// A value that was given to a key.
struct Value {
    line: usize,
    /// As it is written.
    written: String,
    /// `None` where it needs a variable that is not known.
    text: Option<String>,
}

impl Reader {
    fn read(&mut self, file: &Path, main: &Path, depth: usize) -> Result<(), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let tokens = tokens(&text);
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += match rest {
                [name, sign, ..]
                    if name.text == "fastcgi.server" && matches!(sign.text.as_str(), "=" | "+=") =>
                {
                    2 + self.servers(&rest[2..], file)
                }
                [name, sign, ..]
                    if name.kind == Kind::Word && sign.text == "=" && sign.kind == Kind::Word =>
                {
                    let (value, used) = self.value(&rest[2..]);
                    if let Some(text) = value.text {
                        let key = name.text.strip_prefix("var.").unwrap_or(&name.text);
                        self.variables.insert(key.to_owned(), text);
                    }
                    2 + used
                }
                [name, ..]
                    if name.kind == Kind::Word && name.text == "include" && depth < INCLUDES_DEEP_MAX =>
                {
                    let (value, used) = self.value(&rest[1..]);
                    let near = [folders(main), vec![Path::new("/etc/lighttpd")]].concat();
                    for path in included(value.text.as_deref().unwrap_or_default(), &near) {
                        self.read(&path, main, depth + 1)?;
                    }
                    1 + used
                }
                _ => 1,
            };
        }
        Ok(())
    }

    /// The parentheses behind `fastcgi.server =`; gives the number of tokens in them.
    fn servers(&mut self, tokens: &[Token], file: &Path) -> usize {
        let mut frames: Vec<HashMap<String, Value>> = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match (token.kind.clone(), token.text.as_str()) {
                (Kind::Word, "(") => frames.push(HashMap::new()),
                (Kind::Word, ")") => {
                    let frame = frames.pop().unwrap_or_default();
                    self.named.extend(named(&frame, file.to_owned()));
                    if frames.is_empty() {
                        break;
                    }
                }
                (Kind::Text, key) if tokens.get(at).is_some_and(|next| next.text == "=>") => {
                    let key = key.to_owned();
                    at += 1;
                    let (value, used) = self.value(&tokens[at..]);
                    at += used;
                    if used > 0
                        && let Some(frame) = frames.last_mut()
                    {
                        frame.insert(key, value);
                    }
                }
                _ => {}
            }
            if frames.is_empty() {
                break;
            }
        }
        at
    }

    /// Texts, numbers and variables with + between them; gives the number of tokens too, 0 for a parenthesis.
    fn value(&self, tokens: &[Token]) -> (Value, usize) {
        let line = tokens.first().map_or(0, |token| token.line);
        let (mut written, mut text, mut used) = (String::new(), Some(String::new()), 0);
        for token in tokens {
            let is_operand = used % 2 == 0;
            match &token.kind {
                Kind::Word if is_operand && matches!(token.text.as_str(), "(" | ")" | ",") => break,
                Kind::Word if !is_operand && token.text != "+" => break,
                Kind::Text if !is_operand => break,
                _ => {}
            }
            used += 1;
            if !is_operand {
                written.push_str(" + ");
                continue;
            }
            let part = match &token.kind {
                Kind::Text => Some(token.text.clone()),
                Kind::Word if token.text.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Some(token.text.clone())
                }
                Kind::Word => {
                    let key = token.text.strip_prefix("var.").unwrap_or(&token.text);
                    self.variables.get(key).cloned()
                }
            };
            written.push_str(&token.text);
            text = text.zip(part).map(|(text, part)| text + &part);
        }
        (Value { line, written, text: text.filter(|_| used > 0) }, used)
    }
}

/// One application, if the parentheses were one's.
fn named(frame: &HashMap<String, Value>, file: PathBuf) -> Option<Named> {
    if let Some(socket) = frame.get("socket") {
        let place = Place { file, line: socket.line };
        let address = socket.text.as_ref().and_then(|path| parse(&format!("unix:{path}")));
        let written = format!("unix:{}", socket.text.as_ref().unwrap_or(&socket.written));
        let is_numbered = frame.contains_key("bin-path");
        return Some(Named { is_numbered, ..Named::new(place, &written, address) });
    }
    let port = frame.get("port")?;
    let host = frame.get("host");
    let place = Place { file, line: host.map_or(port.line, |host| host.line) };
    let name = host.map_or(Some("127.0.0.1"), |host| host.text.as_deref());
    let text = name.zip(port.text.as_deref()).map(|(host, port)| match host.contains(':') {
        true => format!("[{}]:{port}", host.trim_matches(['[', ']'])),
        false => format!("{host}:{port}"),
    });
    let written = text.clone().unwrap_or_else(|| port.written.clone());
    Some(Named::new(place, &written, text.and_then(|text| parse(&text))))
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let mut characters = line.chars().peekable();
        while let Some(first) = characters.next() {
            let (kind, mut text) = match first {
                '#' => break,
                first if first.is_whitespace() => continue,
                '"' => {
                    let mut text = String::new();
                    while let Some(character) = characters.next_if(|character| *character != '"') {
                        text.push(character);
                    }
                    characters.next();
                    (Kind::Text, text)
                }
                first => (Kind::Word, String::from(first)),
            };
            if kind == Kind::Word && !"(),{}".contains(first) {
                let is_name = |character: char| character.is_alphanumeric() || "._-".contains(character);
                let alike = |character: &char| {
                    is_name(*character) == is_name(first)
                        && !character.is_whitespace()
                        && !"(),{}\"#".contains(*character)
                };
                while let Some(character) = characters.next_if(alike) {
                    text.push(character);
                }
            }
            tokens.push(Token { text, kind, line: number });
        }
    }
    tokens
}
