//! nginx: `fastcgi_pass`, the upstreams that it names, and the `fastcgi_param`s that go with it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::{INCLUDES_DEEP_MAX, Missing, Named, Place, folders, included, parse};

/// One token: a word, `;`, `{` or `}`. A quoted word is never a sign.
struct Token {
    text: String,
    is_sign: bool,
    line: usize,
}

/// What a block has gathered so far.
#[derive(Default)]
struct Block {
    /// The first two words before its brace.
    head: Vec<String>,
    /// Names of `fastcgi_param`; nginx inherits those of the block around it where there are none here.
    params: Vec<String>,
    passes: Vec<(Place, String)>,
    /// `fastcgi_pass` of inner blocks that have no parameters of their own.
    orphans: Vec<(Place, String)>,
}

#[derive(Default)]
struct Reader {
    stack: Vec<Block>,
    /// Each `fastcgi_pass` with the parameters that reach it.
    passes: Vec<(Place, String, Vec<String>)>,
    upstreams: HashMap<String, Vec<(Place, String)>>,
}

pub(super) fn read(file: &Path) -> Result<Vec<Named>, String> {
    let mut reader = Reader { stack: vec![Block::default()], ..Reader::default() };
    reader.read(file, file, 0)?;
    while reader.stack.len() > 1 {
        reader.close();
    }
    let outermost = reader.stack.pop().unwrap_or_default();
    let left = outermost.passes.into_iter().chain(outermost.orphans);
    reader.passes.extend(left.map(|(place, to)| (place, to, outermost.params.clone())));
    let Reader { passes, upstreams, .. } = reader;
    let mut named = Vec::new();
    for (place, to, params) in passes {
        match upstreams.get(&to) {
            Some(servers) => {
                for (at, server) in servers {
                    let address = parse(&with_port(server));
                    named
                        .push(Named { missing: missing(&params), ..Named::new(at.clone(), server, address) });
                }
            }
            None => named
                .push(Named { missing: missing(&params), ..Named::new(place, &to, parse(&with_port(&to))) }),
        }
    }
    Ok(named)
}

impl Reader {
    fn read(&mut self, file: &Path, main: &Path, depth: usize) -> Result<(), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut words: Vec<Token> = Vec::new();
        for token in tokens(&text) {
            match token.text.as_str() {
                ";" if token.is_sign => {
                    self.directive(&words, file, main, depth)?;
                    words.clear();
                }
                "{" if token.is_sign => {
                    let head = words.drain(..).take(2).map(|token| token.text).collect();
                    self.stack.push(Block { head, ..Block::default() });
                }
                "}" if token.is_sign => {
                    words.clear();
                    self.close();
                }
                _ => words.push(token),
            }
        }
        Ok(())
    }

    fn directive(&mut self, words: &[Token], file: &Path, main: &Path, depth: usize) -> Result<(), String> {
        let [name, first, ..] = words else { return Ok(()) };
        let place = Place { file: file.to_owned(), line: name.line };
        let Some(block) = self.stack.last_mut() else { return Ok(()) };
        match name.text.as_str() {
            "fastcgi_pass" => block.passes.push((place, first.text.clone())),
            "fastcgi_param" => block.params.push(first.text.clone()),
            "server" => {
                if let [kind, upstream] = block.head.as_slice()
                    && kind == "upstream"
                {
                    self.upstreams.entry(upstream.clone()).or_default().push((place, first.text.clone()));
                }
            }
            "include" if depth < INCLUDES_DEEP_MAX => {
                // Relative to the main file, which may be above the fragment that was given.
                let mut near = folders(main);
                near.push(Path::new("/etc/nginx"));
                for path in included(&first.text, &near) {
                    self.read(&path, main, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.stack.len() < 2 {
            return;
        }
        let Some(block) = self.stack.pop() else { return };
        let found = block.passes.into_iter().chain(block.orphans);
        if block.params.is_empty() {
            // The parameters of the block around it reach these.
            if let Some(outer) = self.stack.last_mut() {
                outer.orphans.extend(found);
            }
        } else {
            self.passes.extend(found.map(|(place, to)| (place, to, block.params.clone())));
        }
    }
}

/// nginx wants no port for a socket, and takes 80 for a host without one.
fn with_port(text: &str) -> String {
    if let Some(path) = text.strip_prefix("unix:") {
        return format!("unix:{}", path.trim_end_matches(':'));
    }
    let host_alone = !text.contains(':') || text.ends_with(']');
    if host_alone { format!("{text}:80") } else { text.to_owned() }
}

fn missing(params: &[String]) -> Vec<Missing> {
    let has = |name: &str| params.iter().any(|found| found == name);
    let mut missing = Vec::new();
    for name in ["REQUEST_METHOD", "SCRIPT_NAME"] {
        if !has(name) {
            let remedy = "write `include fastcgi_params;` beside fastcgi_pass: a block with a fastcgi_param of its \
                          own inherits none";
            missing.push(Missing { name, remedy, is_fatal: true });
        }
    }
    if !has("PATH_INFO") {
        let remedy = "write `fastcgi_split_path_info ^(/PREFIX)(.*)$; fastcgi_param PATH_INFO $fastcgi_path_info;`, \
                      or at the root `fastcgi_param SCRIPT_NAME \"\"; fastcgi_param PATH_INFO $document_uri;`: \
                      Ringway finds the path without, other applications answer 404";
        let is_fatal = !has("REQUEST_URI") && !has("DOCUMENT_URI");
        missing.push(Missing { name: "PATH_INFO", remedy, is_fatal });
    }
    missing
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut line, mut characters) = (1, text.chars().peekable());
    while let Some(&first) = characters.peek() {
        let begun = line;
        match first {
            '\n' => {
                line += 1;
                characters.next();
            }
            first if first.is_whitespace() => {
                characters.next();
            }
            '#' => while characters.next_if(|character| *character != '\n').is_some() {},
            ';' | '{' | '}' => {
                characters.next();
                tokens.push(Token { text: first.to_string(), is_sign: true, line });
            }
            '"' | '\'' => {
                characters.next();
                let mut text = String::new();
                while let Some(character) = characters.next() {
                    match character {
                        '\\' => text.extend(characters.next()),
                        character if character == first => break,
                        character => {
                            line += usize::from(character == '\n');
                            text.push(character);
                        }
                    }
                }
                tokens.push(Token { text, is_sign: false, line: begun });
            }
            _ => {
                let mut text = String::new();
                while let Some(&character) = characters.peek() {
                    // `${name}` is part of a word.
                    let is_variable = character == '{' && text.ends_with('$');
                    if character.is_whitespace() || matches!(character, ';' | '{') && !is_variable {
                        break;
                    }
                    if character == '}' && !text.contains("${") {
                        break;
                    }
                    text.push(character);
                    characters.next();
                }
                tokens.push(Token { text, is_sign: false, line });
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_signs_and_comments_are_nothing() {
        let text = "a \"b;{\" # c;\n d${e}f;location ~ \\.php$ {x 'y\nz'}";
        let found: Vec<(String, usize)> =
            tokens(text).into_iter().map(|token| (token.text, token.line)).collect();
        let expected = [
            ("a", 1),
            ("b;{", 1),
            ("d${e}f", 2),
            (";", 2),
            ("location", 2),
            ("~", 2),
            ("\\.php$", 2),
            ("{", 2),
            ("x", 2),
            ("y\nz", 2),
            ("}", 3),
        ];
        assert_eq!(found, expected.map(|(text, line)| (text.to_owned(), line)));
    }
}
