//! The head of a CGI response (RFC 3875, 6): `Name: value` lines up to an empty line, read as web servers
//! read it.
//!
//! `Status` gives the status, a `Location` without one means 302, else it is 200. Lines end in LF or CRLF.

use bytes::{Buf, Bytes, BytesMut};

/// The most bytes a head may have.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A response head.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Head {
    /// 100 to 599.
    pub status: u16,
    /// The words behind the status, often none.
    pub reason: String,
    /// Every header but `Status`, in order.
    pub headers: Vec<(String, Bytes)>,
}

impl Head {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_ref())
    }
}

/// A head that no web server would pass on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Neither a header nor the empty line.
    #[error("line {line} is no header: {text:?}")]
    Line {
        /// From 1.
        line: usize,
        /// Its beginning.
        text: String,
    },
    /// A `Status` that is no number from 100 to 599.
    #[error("Status is {0:?}")]
    Status(String),
    /// More than 64 KiB without an empty line.
    #[error("no empty line within 65536 bytes")]
    TooLong,
    /// The output ended before the empty line.
    #[error("the output ended after {0} bytes, before the empty line that ends the head")]
    Truncated(usize),
}

/// Gathers stdout until the head is whole.
#[derive(Default, Debug)]
pub struct HeadParser {
    bytes: BytesMut,
    /// Where the last line that may be incomplete begins.
    line_start: usize,
}

impl HeadParser {
    /// Takes stdout in; gives the head and the body's first bytes once the empty line is there.
    pub fn push(&mut self, stdout: &[u8]) -> Result<Option<(Head, Bytes)>, HeadError> {
        self.bytes.extend_from_slice(stdout);
        while let Some(at) = memchr::memchr(b'\n', &self.bytes[self.line_start..]) {
            let (start, end) = (self.line_start, self.line_start + at);
            self.line_start = end + 1;
            if matches!(&self.bytes[start..end], b"" | b"\r") {
                let head = parse(&self.bytes[..start])?;
                self.bytes.advance(self.line_start);
                return Ok(Some((head, self.bytes.split().freeze())));
            }
        }
        if self.bytes.len() > HEAD_BYTES_MAX { Err(HeadError::TooLong) } else { Ok(None) }
    }

    /// What to say when stdout has ended before the head was whole.
    pub fn truncated(&self) -> HeadError {
        HeadError::Truncated(self.bytes.len())
    }
}

fn parse(lines: &[u8]) -> Result<Head, HeadError> {
    let (mut status, mut reason, mut headers) = (None, String::new(), Vec::new());
    for (index, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let refuse = || HeadError::Line {
            line: index + 1,
            text: String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned(),
        };
        let colon = memchr::memchr(b':', line).ok_or_else(refuse)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let forbidden = value.iter().any(|byte| matches!(byte, b'\0' | b'\r'));
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) || forbidden {
            return Err(refuse());
        }
        let name = String::from_utf8_lossy(name).into_owned();
        if name.eq_ignore_ascii_case("status") {
            let text = String::from_utf8_lossy(value).into_owned();
            let (code, words) = text.split_once(' ').unwrap_or((&text, ""));
            status = Some(parse_code(code).ok_or_else(|| HeadError::Status(text.clone()))?);
            words.trim().clone_into(&mut reason);
        } else {
            headers.push((name, Bytes::copy_from_slice(value)));
        }
    }
    let redirects = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("location"));
    let status = status.unwrap_or(if redirects { 302 } else { 200 });
    Ok(Head { status, reason, headers })
}

fn parse_code(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|code| digits && (100..600).contains(code))
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<(Head, Bytes), HeadError> {
        let mut parser = HeadParser::default();
        parser.push(text.as_bytes())?.ok_or(HeadError::Truncated(text.len()))
    }

    #[test]
    fn a_head_is_the_same_in_any_split() {
        let text = "Status: 404 Not Found\r\nContent-Type: text/plain\nSet-Cookie: a=1\r\n\r\nbody\n\nmore";
        let expected = whole(text).unwrap();
        assert_eq!((expected.0.status, expected.0.reason.as_str()), (404, "Not Found"));
        assert_eq!(expected.0.header("content-type"), Some(&b"text/plain"[..]));
        assert_eq!(expected.1, "body\n\nmore");
        for split in 1..text.len() {
            let mut parser = HeadParser::default();
            let first = parser.push(&text.as_bytes()[..split]).unwrap();
            let (head, body) = match first {
                Some((head, start)) => (head, [&start, &text.as_bytes()[split..]].concat()),
                None => {
                    let (head, body) = parser.push(&text.as_bytes()[split..]).unwrap().unwrap();
                    (head, body.to_vec())
                }
            };
            assert_eq!((head, Bytes::from(body)), expected, "split at {split}");
        }
    }

    #[test]
    fn the_status_follows_from_the_headers() {
        assert_eq!(whole("A: b\n\n").unwrap().0.status, 200);
        assert_eq!(whole("\n").unwrap().0.status, 200);
        assert_eq!(whole("Location: /x\n\n").unwrap().0.status, 302);
        assert_eq!(whole("Location: /x\nStatus: 201\n\n").unwrap().0.status, 201);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for bad in ["no colon\n\n", ": empty\n\n", "a b: c\n\n", "A: b\rc\n\n", "A: \0\n\n", " fold: x\n\n"] {
            assert!(matches!(whole(bad), Err(HeadError::Line { line: 1, .. })), "{bad:?}");
        }
        for bad in ["", "20", "099", "600", "2000", "+20", "OK"] {
            assert!(matches!(whole(&format!("Status: {bad}\n\n")), Err(HeadError::Status(_))), "{bad:?}");
        }
        assert_eq!(HeadParser::default().push(&[b'x'; HEAD_BYTES_MAX + 1]), Err(HeadError::TooLong));
        assert_eq!(HeadParser::default().push(&[b'x'; HEAD_BYTES_MAX]), Ok(None));
    }
}
