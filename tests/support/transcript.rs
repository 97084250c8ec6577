//! Transcripts: one FastCGI conversation as text, to bytes and back.
//!
//! ```text
//! # A comment. Then the limits that differ from the defaults, then what the web server sends:
//! limits requests_max=1 params_bytes_max=100
//! > GET_VALUES FCGI_MAX_REQS
//! > BEGIN_REQUEST 1 responder keep_conn          or a number for a role nobody knows
//! > PARAMS 1 REQUEST_METHOD=GET X="a \"b\"\n"    whole pairs ...
//! > PARAMS 1 content "\x05\x02HT" padding 255    ... or any bytes; padding is 0 unless said, and never zeros
//! > PARAMS 1 end
//! > STDIN 1 70000*"x"
//! > record 77 0 "any type, any id"
//! > bytes 01 05 00                               anything
//! < END_REQUEST 1 0 REQUEST_COMPLETE             the records of the answer, in order, as they are rendered
//! = begun 1 responder keep_conn                  what the core reports, in order; other players skip it
//! ```

use ringway::proto::params::{encode_pair, take_pair};
use ringway::proto::wire::{BeginBody, EndBody, KEEP_CONN};
use ringway::proto::{Decoder, Header, Limits, ProtocolStatus, RecordType, Role};

/// One file of `tests/vectors`.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// The file, for messages.
    pub(crate) name: String,
    pub(crate) limits: Limits,
    /// What the web server sends.
    pub(crate) input: Vec<u8>,
    /// The records it gets, as [`render`] writes them.
    pub(crate) replies: Vec<String>,
    /// What the core reports.
    pub(crate) events: Vec<String>,
}

impl Transcript {
    /// Every `*.txt` of a directory whose first line begins with `#!transcript`.
    pub(crate) fn load_all(directory: &str) -> Vec<Transcript> {
        let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
        paths.sort();
        let texts = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
        texts
            .filter_map(|path| {
                let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                text.starts_with("#!transcript")
                    .then(|| Transcript::parse(&path.display().to_string(), &text))
            })
            .collect()
    }

    /// Panics with file and line where the text is none.
    pub(crate) fn parse(name: &str, text: &str) -> Transcript {
        let mut transcript = Transcript {
            name: name.into(),
            limits: Limits::default(),
            input: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
        };
        for (line, number) in text.lines().zip(1..) {
            transcript.parse_line(line.trim()).unwrap_or_else(|reason| panic!("{name}:{number}: {reason}"));
        }
        transcript
    }

    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "" => {}
            comment if comment.starts_with('#') => {}
            "limits" => rest.split_whitespace().try_for_each(|limit| self.set_limit(limit))?,
            ">" => self.input.extend(encode_line(rest)?),
            "<" => self.replies.push(rest.into()),
            "=" => self.events.push(rest.into()),
            other => return Err(format!("{other:?} is no kind of line")),
        }
        Ok(())
    }

    fn set_limit(&mut self, limit: &str) -> Result<(), String> {
        let (name, value) = limit.split_once('=').ok_or("limits are NAME=NUMBER")?;
        let value: u32 = number(value)?;
        match name {
            "params_bytes_max" => self.limits.params_bytes_max = value,
            "params_pairs_max" => self.limits.params_pairs_max = value,
            "requests_max" => self.limits.requests_max = u16::try_from(value).map_err(|_| "too large")?,
            "management_bytes_max" => self.limits.management_bytes_max = value,
            "connections_max" => self.limits.connections_max = value,
            "requests_total_max" => self.limits.requests_total_max = value,
            other => return Err(format!("no limit is named {other}")),
        }
        Ok(())
    }
}

/// The bytes of one line, without its `>`.
pub(crate) fn encode_line(line: &str) -> Result<Vec<u8>, String> {
    let mut words = words(line)?;
    let padding = match &words[..] {
        [.., padding, length] if padding.is("padding") => {
            let length = number(length.text()?)?;
            words.truncate(words.len() - 2);
            length
        }
        _ => 0,
    };
    let (kind, rest) = words.split_first().ok_or("an empty line")?;
    let kind = kind.text()?;
    if kind == "bytes" {
        let byte = |word: &Word| u8::from_str_radix(word.text()?, 16).map_err(|error| error.to_string());
        return rest.iter().map(byte).collect();
    }
    if kind == "record" {
        let [record_type, id, content @ ..] = rest else { return Err("record TYPE ID [CONTENT]".into()) };
        let record_type = RecordType::from(number::<u8>(record_type.text()?)?);
        let content: Vec<u8> = content.iter().flat_map(|word| word.bytes.clone()).collect();
        return Ok(record(record_type, number(id.text()?)?, &content, padding));
    }
    let known = RecordType::ALL.iter().find(|known| known.name() == kind);
    let record_type = *known.ok_or_else(|| format!("{kind:?} is no record type"))?;
    let (id, rest) = match (record_type, rest) {
        (RecordType::GetValues | RecordType::GetValuesResult | RecordType::UnknownType, rest) => (0, rest),
        (_, [id, rest @ ..]) => (number(id.text()?)?, rest),
        (_, []) => return Err(format!("{kind} needs an id")),
    };
    Ok(record(record_type, id, &content(record_type, rest)?, padding))
}

/// The records of a byte stream, one line each: padding is not shown, what is no whole record is `bytes`.
pub(crate) fn render(bytes: &[u8]) -> Vec<String> {
    let (mut decoder, mut lines, mut content) = (Decoder::new(), Vec::new(), Vec::new());
    let mut rest = bytes;
    let mut whole = bytes;
    loop {
        match decoder.take_fragment(&mut rest) {
            Ok(Some(fragment)) => {
                content.extend_from_slice(fragment.content);
                if fragment.ends {
                    lines.push(render_record(&fragment.header, &content));
                    content.clear();
                    whole = rest;
                }
            }
            Ok(None) if !decoder.mid_record() || whole.is_empty() => return lines,
            Ok(None) | Err(_) => {
                let hex: Vec<String> = whole.iter().map(|byte| format!("{byte:02x}")).collect();
                lines.push(format!("bytes {}", hex.join(" ")));
                return lines;
            }
        }
    }
}

/// `NAME=value NAME="quoted value"`.
pub(crate) fn render_pairs<'p>(pairs: impl Iterator<Item = (&'p [u8], &'p [u8])>) -> String {
    let pair = |(name, value)| format!("{}={}", quoted(name), quoted(value));
    pairs.map(pair).collect::<Vec<_>>().join(" ")
}

/// Bytes as one word of a line: bare, `"quoted"`, or `70000*"x"`.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:;,?&%+()@~".contains(byte);
    match bytes {
        [first, .., last] if bytes.len() > 32 && first == last && bytes.iter().all(|byte| byte == first) => {
            format!("{}*\"{}\"", bytes.len(), [*first].escape_ascii())
        }
        b"end" | b"content" | b"padding" => format!("\"{}\"", bytes.escape_ascii()),
        _ if !bytes.is_empty() && bytes.iter().all(bare) => bytes.escape_ascii().to_string(),
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn content(record_type: RecordType, words: &[Word]) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    match (record_type, words) {
        (_, [end]) if end.is("end") => {}
        (_, [raw, rest @ ..]) if raw.is("content") => {
            rest.iter().for_each(|word| content.extend_from_slice(&word.bytes));
        }
        (RecordType::BeginRequest, [role, flags @ ..]) => {
            let text = role.text()?;
            let known = Role::ALL.iter().find(|role| role.name() == text);
            let role = known.map_or_else(|| number(text), |role| Ok(u16::from(*role)))?;
            let flags = match flags {
                [] => 0,
                [keep] if keep.is("keep_conn") => KEEP_CONN,
                _ => return Err("the flag is keep_conn".into()),
            };
            content.extend(BeginBody { role, flags }.to_bytes());
        }
        (RecordType::EndRequest, [app_status, status]) => {
            let text = status.text()?;
            let status = ProtocolStatus::ALL.iter().find(|status| status.name() == text);
            let protocol_status = u8::from(*status.ok_or_else(|| format!("{text} is no protocol status"))?);
            content.extend(EndBody { app_status: number(app_status.text()?)?, protocol_status }.to_bytes());
        }
        (RecordType::UnknownType, [number_word]) => {
            content.extend([number(number_word.text()?)?, 0, 0, 0, 0, 0, 0, 0]);
        }
        (RecordType::Params | RecordType::GetValues | RecordType::GetValuesResult, pairs) => {
            for word in pairs {
                let (name, value) = match word.equals {
                    Some(place) => (&word.bytes[..place], &word.bytes[place..]),
                    None if record_type == RecordType::GetValues => (&word.bytes[..], &b""[..]),
                    None => return Err("pairs are NAME=VALUE".into()),
                };
                encode_pair(&mut content, name, value);
            }
        }
        (_, words) => words.iter().for_each(|word| content.extend_from_slice(&word.bytes)),
    }
    Ok(content)
}

/// The padding is no zeros: nobody may look at it.
fn record(record_type: RecordType, request_id: u16, content: &[u8], padding_length: u8) -> Vec<u8> {
    let content_length = u16::try_from(content.len()).expect("content fits a record");
    let header = Header { version: 1, record_type, request_id, content_length, padding_length };
    [&header.to_bytes(), content, &vec![0xee; usize::from(padding_length)]].concat()
}

fn render_record(header: &Header, content: &[u8]) -> String {
    let (kind, id) = (header.record_type, header.request_id);
    let body: Result<[u8; 8], _> = content.try_into();
    let generic = || format!("record {} {id} {}", u8::from(kind), quoted(content));
    match (kind, id, body) {
        (RecordType::BeginRequest, 1.., Ok(body)) => {
            let begin = BeginBody::from_bytes(body);
            let role =
                Role::try_from(begin.role).map_or_else(|number| number.to_string(), |role| role.to_string());
            match begin {
                begin if begin.to_bytes() != body || begin.flags > KEEP_CONN => generic(),
                begin => format!("{kind} {id} {role}{}", if begin.flags == 0 { "" } else { " keep_conn" }),
            }
        }
        (RecordType::EndRequest, 1.., Ok(body)) => {
            let end = EndBody::from_bytes(body);
            match ProtocolStatus::try_from(end.protocol_status) {
                Ok(status) if end.to_bytes() == body => format!("{kind} {id} {} {status}", end.app_status),
                _ => generic(),
            }
        }
        (RecordType::UnknownType, 0, Ok([number, 0, 0, 0, 0, 0, 0, 0])) => format!("{kind} {number}"),
        (RecordType::GetValues | RecordType::GetValuesResult, 0, _) => match pairs(content) {
            Some(pairs)
                if kind == RecordType::GetValues && pairs.iter().all(|(_, value)| value.is_empty()) =>
            {
                let names: Vec<String> = pairs.iter().map(|(name, _)| quoted(name)).collect();
                [&[kind.to_string()], &names[..]].concat().join(" ")
            }
            Some(pairs) => format!("{kind} {}", render_pairs(pairs.into_iter())).trim_end().into(),
            None => format!("{kind} content {}", quoted(content)),
        },
        (RecordType::AbortRequest, 1.., _) if content.is_empty() => format!("{kind} {id}"),
        (RecordType::Params, 1.., _) if !content.is_empty() => match pairs(content) {
            Some(pairs) => format!("{kind} {id} {}", render_pairs(pairs.into_iter())),
            None => format!("{kind} {id} content {}", quoted(content)),
        },
        (RecordType::Params | RecordType::Stdin | RecordType::Stdout, 1.., _)
        | (RecordType::Stderr | RecordType::Data, 1.., _) => match content {
            [] => format!("{kind} {id} end"),
            _ => format!("{kind} {id} {}", quoted(content)),
        },
        _ => generic(),
    }
}

/// The pairs, if that is all there is and each is encoded in the shortest way.
fn pairs(content: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let (mut rest, mut pairs, mut again) = (content, Vec::new(), Vec::new());
    while !rest.is_empty() {
        let pair = take_pair(&mut rest)?;
        encode_pair(&mut again, pair.0, pair.1);
        pairs.push(pair);
    }
    (again == content).then_some(pairs)
}

/// A word of a line, quotes and escapes resolved.
#[derive(Clone, Debug, Default)]
struct Word {
    bytes: Vec<u8>,
    /// Where the first `=` outside quotes was; it is not in `bytes`.
    equals: Option<usize>,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.equals.is_none() && self.bytes == keyword.as_bytes()
    }

    fn text(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.bytes).map_err(|error| error.to_string())
    }
}

fn words(line: &str) -> Result<Vec<Word>, String> {
    let (mut words, mut word, mut rest) = (Vec::new(), Word::default(), line.as_bytes());
    let mut open = false;
    // Where a number begins that may turn out to be a count: `70000*"x"`.
    let mut count_from = 0;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b' ' if open => {
                words.push(std::mem::take(&mut word));
                (open, count_from) = (false, 0);
                continue;
            }
            b' ' => continue,
            b'"' => {
                word.quoted = true;
                rest = unquote(rest, &mut word.bytes)?;
            }
            b'*' if rest.first() == Some(&b'"') => {
                let count =
                    String::from_utf8(word.bytes.split_off(count_from)).map_err(|error| error.to_string())?;
                let mut unit = Vec::new();
                rest = unquote(&rest[1..], &mut unit)?;
                word.bytes.extend(unit.repeat(number(&count)?));
                word.quoted = true;
            }
            b'=' if word.equals.is_none() => {
                word.equals = Some(word.bytes.len());
                count_from = word.bytes.len();
            }
            byte => word.bytes.push(*byte),
        }
        open = true;
    }
    if open {
        words.push(word);
    }
    Ok(words)
}

/// Takes a quoted string behind its first quote; the escapes are those of `escape_ascii`.
fn unquote<'t>(mut rest: &'t [u8], bytes: &mut Vec<u8>) -> Result<&'t [u8], String> {
    loop {
        let (byte, after) = match rest {
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'n', after @ ..] => (b'\n', after),
            [b'\\', b'r', after @ ..] => (b'\r', after),
            [b'\\', b't', after @ ..] => (b'\t', after),
            [b'\\', b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).map_err(|error| error.to_string())?;
                (u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?, after)
            }
            [b'\\', byte @ (b'"' | b'\\' | b'\''), after @ ..] => (*byte, after),
            [byte, after @ ..] if *byte != b'\\' => (*byte, after),
            _ => return Err("a quoted string has no end, or an unknown escape".into()),
        };
        bytes.push(byte);
        rest = after;
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that fits here"))
}
