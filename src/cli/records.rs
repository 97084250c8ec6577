//! Records as text, and records out of a stream of bytes: what `request -v`, `request --from-capture`, `decode`
//! and `demo` share.

use std::collections::HashMap;
use std::io::{self, Read};

use ringway::client::{Direction, Record};
use ringway::proto::params::take_pair;
use ringway::proto::wire::{HEADER_BYTES, VERSION};
use ringway::proto::{Header, RecordType};

/// The longest beginning of a pair that is kept for its rest.
const PAIR_BYTES_MAX: usize = 1 << 20;

/// Writes out records, one after the other. It keeps what one record of a PARAMS stream leaves to the next.
#[derive(Default)]
pub(super) struct Transcript {
    /// The pair that has begun and not ended, for each request and direction.
    begun: HashMap<(bool, u16), Vec<u8>>,
}

impl Transcript {
    /// What is inside, a line each: the pairs that end in this record, or an excerpt of its content.
    pub(super) fn fields(&mut self, record: &Record<'_>) -> Vec<String> {
        if record.header.record_type != RecordType::Params {
            return record.fields();
        }
        let key = (record.direction == Direction::Sent, record.header.request_id);
        let begun = self.begun.remove(&key).unwrap_or_default();
        if record.content.is_empty() || begun.is_empty() {
            self.keep_rest(key, record.content);
            return record.fields();
        }
        let content = [begun.as_slice(), record.content].concat();
        self.keep_rest(key, &content);
        Record { content: &content, ..*record }.fields()
    }

    fn keep_rest(&mut self, key: (bool, u16), mut content: &[u8]) {
        while take_pair(&mut content).is_some() {}
        if !content.is_empty() && content.len() <= PAIR_BYTES_MAX {
            self.begun.insert(key, content.to_vec());
        }
    }

    /// The record's line and its fields below it, with `indent` before each.
    pub(super) fn text(&mut self, record: &Record<'_>, indent: &str) -> String {
        let mut text = format!("{record}\n");
        for field in self.fields(record) {
            text.push_str(indent);
            text.push_str(&field);
            text.push('\n');
        }
        text
    }
}

/// The way records of this type go: those of the web server are sent, those of the application received.
/// Unknown ones are taken for the web server's, as FastCGI 4.2 has it.
pub(super) fn direction_of(record_type: RecordType) -> Direction {
    match record_type {
        RecordType::EndRequest
        | RecordType::Stdout
        | RecordType::Stderr
        | RecordType::GetValuesResult
        | RecordType::UnknownType => Direction::Received,
        RecordType::BeginRequest
        | RecordType::AbortRequest
        | RecordType::Params
        | RecordType::Stdin
        | RecordType::Data
        | RecordType::GetValues
        | RecordType::Unknown(_) => Direction::Sent,
    }
}

/// Takes whole records off a stream, with their places in it.
pub(super) struct Records<R> {
    source: R,
    /// Read and not taken yet.
    bytes: Vec<u8>,
    /// How much of `bytes` is the piece that was given last.
    taken: usize,
    /// Where in the stream `bytes` begins.
    offset: u64,
}

/// What comes next in a stream.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Piece<'a> {
    /// A record; `bytes` is all of it, padding included.
    Record {
        offset: u64,
        header: Header,
        content: &'a [u8],
        bytes: &'a [u8],
    },
    /// The stream ends within a record: what is there of it, and how much is missing. A header that is not
    /// whole says nothing about the rest.
    Cut {
        offset: u64,
        bytes: &'a [u8],
        missing: usize,
    },
    /// No record begins here. What was read so far; nothing behind this place has a meaning.
    Strange {
        offset: u64,
        bytes: &'a [u8],
    },
    End,
}

impl<R: Read> Records<R> {
    pub(super) fn new(source: R) -> Records<R> {
        Records { source, bytes: Vec::new(), taken: 0, offset: 0 }
    }

    /// The next piece. [`Piece::Record`] is the only one that another follows.
    pub(super) fn next(&mut self) -> io::Result<Piece<'_>> {
        self.bytes.drain(..self.taken);
        self.offset += self.taken as u64;
        self.taken = 0;
        let offset = self.offset;
        self.fill(1)?;
        match self.bytes.first() {
            None => return Ok(Piece::End),
            Some(&VERSION) => {}
            Some(_) => return Ok(Piece::Strange { offset, bytes: &self.bytes }),
        }
        if !self.fill(HEADER_BYTES)? {
            let missing = HEADER_BYTES - self.bytes.len();
            return Ok(Piece::Cut { offset, bytes: &self.bytes, missing });
        }
        let header = Header::from_bytes(*self.bytes.first_chunk().expect("it is filled"));
        let end = HEADER_BYTES + usize::from(header.content_length);
        let length = end + usize::from(header.padding_length);
        if !self.fill(length)? {
            return Ok(Piece::Cut { offset, bytes: &self.bytes, missing: length - self.bytes.len() });
        }
        self.taken = length;
        let content = &self.bytes[HEADER_BYTES..end];
        Ok(Piece::Record { offset, header, content, bytes: &self.bytes[..length] })
    }

    /// Reads until that many bytes are there; false when the source has no more.
    fn fill(&mut self, count: usize) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        while self.bytes.len() < count {
            match self.source.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway::proto::params::encode_pair;
    use ringway::proto::{RequestId, encoder};

    #[test]
    fn a_pair_that_straddles_records_is_shown_once_it_is_whole() {
        let mut pairs = Vec::new();
        for (name, value) in [("A", "1"), ("LONG_NAME", "a value"), ("B", "2")] {
            encode_pair(&mut pairs, name.as_bytes(), value.as_bytes());
        }
        let mut transcript = Transcript::default();
        let mut shown = |content: &[u8]| {
            let mut bytes = Vec::new();
            encoder::stream(&mut bytes, RecordType::Params, RequestId::ONE, content);
            let header = Header::from_bytes(*bytes.first_chunk().unwrap());
            transcript.fields(&Record { direction: Direction::Sent, header, content })
        };
        assert_eq!(shown(&pairs[..10]), ["A = 1", "… 6 bytes of a pair that straddles records"]);
        assert_eq!(shown(&pairs[10..]), ["LONG_NAME = a value", "B = 2"]);
    }

    #[test]
    fn records_are_found_however_the_source_gives_its_bytes() {
        /// One byte at a time.
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(1);
                self.0.read(&mut buffer[..count])
            }
        }
        let mut bytes = Vec::new();
        encoder::abort_request(&mut bytes, RequestId::ONE);
        encoder::stream(&mut bytes, RecordType::Stdin, RequestId::ONE, b"abc");
        bytes.extend([1, 5, 0]);
        let mut records = Records::new(Slow(&bytes));
        assert!(matches!(records.next().unwrap(), Piece::Record { offset: 0, content: [], .. }));
        let Piece::Record { offset: 8, content: b"abc", bytes: whole, .. } = records.next().unwrap() else {
            panic!("the second record");
        };
        assert_eq!(whole, &bytes[8..24]);
        assert_eq!(records.next().unwrap(), Piece::Cut { offset: 24, bytes: &[1, 5, 0], missing: 5 });
        let mut records = Records::new(&b"HTTP"[..]);
        assert_eq!(records.next().unwrap(), Piece::Strange { offset: 0, bytes: b"HTTP" });
        assert_eq!(Records::new(&b""[..]).next().unwrap(), Piece::End);
    }
}
