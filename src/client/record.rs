//! A record as people read it: one line in the notation of the project's transcripts, and its fields below.
//!
//! ```text
//! > BEGIN_REQUEST 1 responder keep_conn
//! > PARAMS 1 length=850 padding=6
//!     REQUEST_METHOD = GET
//! < STDOUT 1 length=44 padding=4
//!     Content-Type: text/plain\r\n\r\nHello, world!\n
//! < END_REQUEST 1 app_status=0 REQUEST_COMPLETE
//! ```

use std::fmt;

use crate::proto::params::take_pair;
use crate::proto::wire::{BeginBody, EndBody, KEEP_CONN};
use crate::proto::{Header, ProtocolStatus, RecordType, Role};

/// The way a record went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the application.
    Sent,
    /// From the application to the client.
    Received,
}

/// A whole record, as a [`Tap`](super::Tap) sees it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// Its header.
    pub header: Header,
    /// Its content; the padding is not kept.
    pub content: &'a [u8],
}

/// Bytes of a stream's content that [`Record::fields`] shows.
const EXCERPT_BYTES: usize = 160;

impl Record<'_> {
    /// What is inside, a line each: the pairs of a name-value stream, an excerpt of any other.
    pub fn fields(&self) -> Vec<String> {
        match self.header.record_type {
            RecordType::Params | RecordType::GetValues | RecordType::GetValuesResult => {
                pair_lines(self.content)
            }
            RecordType::Stdin
            | RecordType::Stdout
            | RecordType::Stderr
            | RecordType::Data
            | RecordType::Unknown(_) => match self.content {
                [] => Vec::new(),
                content => vec![excerpt(content)],
            },
            RecordType::BeginRequest
            | RecordType::AbortRequest
            | RecordType::EndRequest
            | RecordType::UnknownType => Vec::new(),
        }
    }

    fn fixed_body(&self) -> Option<[u8; 8]> {
        self.content.try_into().ok()
    }
}

/// One line: direction, type, id, and the fields of a fixed body or the lengths of any other.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.direction {
            Direction::Sent => '>',
            Direction::Received => '<',
        };
        let Header { record_type, request_id, content_length, padding_length, .. } = self.header;
        write!(f, "{arrow} {record_type} {request_id}")?;
        match (record_type, self.fixed_body()) {
            (RecordType::BeginRequest, Some(body)) => {
                let BeginBody { role, flags } = BeginBody::from_bytes(body);
                match Role::try_from(role) {
                    Ok(role) => write!(f, " {role}")?,
                    Err(number) => write!(f, " role={number}")?,
                }
                if flags & KEEP_CONN != 0 {
                    f.write_str(" keep_conn")?;
                }
                match flags & !KEEP_CONN {
                    0 => Ok(()),
                    others => write!(f, " flags={others:#x}"),
                }
            }
            (RecordType::EndRequest, Some(body)) => {
                let EndBody { app_status, protocol_status } = EndBody::from_bytes(body);
                write!(f, " app_status={app_status}")?;
                match ProtocolStatus::try_from(protocol_status) {
                    Ok(status) => write!(f, " {status}"),
                    Err(number) => write!(f, " protocol_status={number}"),
                }
            }
            (RecordType::UnknownType, Some([unknown, ..])) => {
                write!(f, " type={}", RecordType::from(unknown))
            }
            (RecordType::AbortRequest, _) if content_length == 0 => Ok(()),
            _ if content_length == 0 && padding_length == 0 => f.write_str(" end"),
            _ => write!(f, " length={content_length} padding={padding_length}"),
        }
    }
}

/// The pairs that are whole within this record. A stream may split a pair; what is left is counted.
fn pair_lines(mut content: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((name, value)) = take_pair(&mut content) {
        lines.push(format!("{} = {}", name.escape_ascii(), value.escape_ascii()));
    }
    if !content.is_empty() {
        lines.push(format!("… {} bytes of a pair that straddles records", content.len()));
    }
    lines
}

fn excerpt(content: &[u8]) -> String {
    match content.split_at_checked(EXCERPT_BYTES) {
        Some((start, rest)) if !rest.is_empty() => format!("{} … {} more", start.escape_ascii(), rest.len()),
        _ => content.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Decoder, RequestId, encoder};

    fn lines(bytes: &[u8]) -> Vec<(String, Vec<String>)> {
        let (mut decoder, mut input, mut lines) = (Decoder::new(), bytes, Vec::new());
        while let Some(fragment) = decoder.take_fragment(&mut input).unwrap() {
            let record =
                Record { direction: Direction::Sent, header: fragment.header, content: fragment.content };
            lines.push((record.to_string(), record.fields()));
        }
        lines
    }

    #[test]
    fn records_read_like_a_transcript() {
        let mut out = Vec::new();
        let id = RequestId::ONE;
        encoder::begin_request(&mut out, id, Role::Responder, true);
        let mut pairs = Vec::new();
        crate::proto::params::encode_pair(&mut pairs, b"NAME", b"va\nlue");
        pairs.extend(b"\x05\x01SPL");
        encoder::stream(&mut out, RecordType::Params, id, &pairs);
        encoder::stream_end(&mut out, RecordType::Params, id);
        encoder::stream(&mut out, RecordType::Stdin, id, &[b'x'; 200]);
        encoder::abort_request(&mut out, id);
        encoder::end_request(&mut out, id, 7, ProtocolStatus::Overloaded);
        encoder::unknown_type(&mut out, RecordType::Unknown(99));
        let lines = lines(&out);
        let heads: Vec<&str> = lines.iter().map(|(head, _)| head.as_str()).collect();
        assert_eq!(
            heads,
            [
                "> BEGIN_REQUEST 1 responder keep_conn",
                "> PARAMS 1 length=17 padding=7",
                "> PARAMS 1 end",
                "> STDIN 1 length=200 padding=0",
                "> ABORT_REQUEST 1",
                "> END_REQUEST 1 app_status=7 OVERLOADED",
                "> UNKNOWN_TYPE 0 type=UNKNOWN(99)",
            ]
        );
        assert_eq!(lines[1].1, ["NAME = va\\nlue", "… 5 bytes of a pair that straddles records"]);
        assert_eq!(lines[3].1, [format!("{} … 40 more", "x".repeat(160))]);
    }

    #[test]
    fn bodies_of_the_wrong_length_and_unknown_numbers_are_shown_as_they_are() {
        let header = |record_type, content_length| Header {
            version: 1,
            record_type,
            request_id: 1,
            content_length,
            padding_length: 0,
        };
        let show = |record_type, content: &[u8]| {
            let header = header(record_type, content.len() as u16);
            Record { direction: Direction::Received, header, content }.to_string()
        };
        assert_eq!(show(RecordType::EndRequest, b"short"), "< END_REQUEST 1 length=5 padding=0");
        assert_eq!(
            show(RecordType::EndRequest, &[0, 0, 1, 0, 9, 0, 0, 0]),
            "< END_REQUEST 1 app_status=256 protocol_status=9"
        );
        assert_eq!(show(RecordType::BeginRequest, &[0, 9, 0, 0, 0, 0, 0, 0]), "< BEGIN_REQUEST 1 role=9");
    }

    #[test]
    fn long_lengths_are_read_and_never_reach_beyond_the_content() {
        let mut pairs = Vec::new();
        crate::proto::params::encode_pair(&mut pairs, &[b'N'; 200], b"v");
        assert_eq!(pair_lines(&pairs), [format!("{} = v", "N".repeat(200))]);
        for end in 1..pairs.len() {
            assert!(pair_lines(&pairs[..end])[0].starts_with(&format!("… {end} bytes")));
        }
        assert!(pair_lines(&[0xff; 8])[0].starts_with("… 8 bytes"));
    }
}
