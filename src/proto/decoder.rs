//! Bytes to record fragments, resumable at every byte; content is never copied.
//!
//! ```text
//!            ┌─ filled < 8 ─┐┌─ content_left > 0 ─┐┌─ padding_left > 0 ─┐
//! input ─▶   │    header    ││      content       ││      padding       │  next record
//!            └──────────────┘└─▶ Fragment, Fragment┘└─▶ nothing         ┘
//! ```
//!
//! It knows neither ids nor types, so it serves both sides of a connection.

use super::error::{Error, ErrorKind};
use super::wire::{HEADER_BYTES, Header, VERSION};

/// Where a connection is within its current record: 12 bytes, no heap.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// The header of the current record, as far as it is known.
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that are known: 0 between records, 8 behind the header.
    filled: u8,
    /// Padding yet to be skipped; means something once `filled` is 8.
    padding_left: u8,
    /// Content yet to come; means something once `filled` is 8.
    content_left: u16,
}

/// A record, or as much of its content as one call had at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The record's header, the same on each of its fragments.
    pub header: Header,
    /// A piece of its content: empty only if the record is.
    pub content: &'a [u8],
    /// This is the record's first fragment.
    pub starts: bool,
    /// The content is complete.
    pub ends: bool,
}

impl Decoder {
    /// Between records, with nothing taken.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes the next fragment off the front of `input`. `None` means that more bytes are needed; `input` is
    /// empty then. An error (a version other than 1, seen at the first byte of a record) leaves `input` where
    /// the record began; nothing behind it has a meaning.
    #[inline]
    pub fn take_fragment<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Fragment<'a>>, Error> {
        // What is left of a record without a byte more is nothing: empty records are reported with their
        // header.
        if input.is_empty() {
            return Ok(None);
        }
        // The usual case, a whole record at hand, touches no state.
        if self.filled == 0
            && let Some((head, rest)) = input.split_first_chunk()
            && head[0] == VERSION
        {
            let header = Header::from_bytes(*head);
            if let Some((content, rest)) = rest.split_at_checked(usize::from(header.content_length))
                && let Some((_padding, rest)) = rest.split_at_checked(usize::from(header.padding_length))
            {
                *input = rest;
                return Ok(Some(Fragment { header, content, starts: true, ends: true }));
            }
        }
        self.take_piece(input)
    }

    /// Bytes of a record were taken that is not at its end yet, padding included.
    pub fn mid_record(&self) -> bool {
        self.filled != 0
    }

    /// As [`take_fragment`](Decoder::take_fragment), for a record that comes in pieces.
    fn take_piece<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Fragment<'a>>, Error> {
        self.skip_padding(input);
        if !self.fill_header(input)? {
            return Ok(None);
        }
        let header = Header::from_bytes(self.header);
        let starts = self.content_left == header.content_length;
        if input.is_empty() && header.content_length != 0 {
            return Ok(None);
        }
        let taken = input.len().min(usize::from(self.content_left));
        let (content, rest) = input.split_at(taken);
        *input = rest;
        self.content_left -= taken as u16;
        let ends = self.content_left == 0;
        self.skip_padding(input);
        Ok(Some(Fragment { header, content, starts, ends }))
    }

    /// True once the header is whole and its content is what comes next.
    fn fill_header(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let filled = usize::from(self.filled);
        if filled == HEADER_BYTES {
            return Ok(self.content_left != 0);
        }
        // FastCGI 3.3: the version is the first byte, so a stranger is known by it.
        if filled == 0
            && let Some(version) = input.first()
            && *version != VERSION
        {
            return Err(Error::new(ErrorKind::Version(*version), None));
        }
        let taken = input.len().min(HEADER_BYTES - filled);
        let (bytes, rest) = input.split_at(taken);
        *input = rest;
        self.header[filled..filled + taken].copy_from_slice(bytes);
        self.filled += taken as u8;
        if usize::from(self.filled) < HEADER_BYTES {
            return Ok(false);
        }
        let header = Header::from_bytes(self.header);
        self.content_left = header.content_length;
        self.padding_left = header.padding_length;
        Ok(true)
    }

    /// Behind the content: skips what is there of the padding; at its end the record is over.
    fn skip_padding(&mut self, input: &mut &[u8]) {
        if usize::from(self.filled) < HEADER_BYTES || self.content_left != 0 {
            return;
        }
        let skipped = input.len().min(usize::from(self.padding_left));
        *input = &input[skipped..];
        self.padding_left -= skipped as u8;
        if self.padding_left == 0 {
            self.filled = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::RecordType;
    use alloc::vec::Vec;

    /// Two records, the second empty, both padded with bytes that would be bad headers.
    const RECORDS: &[u8] = b"\x01\x05\x00\x07\x00\x03\x02\xffabc\xee\xee\x01\x05\x00\x07\x00\x00\x01\x00\xee";

    /// A record: header, joined content, number of first and of last fragments.
    type Record = (Header, Vec<u8>, u32, u32);

    fn decode(pieces: &[&[u8]]) -> (Decoder, Vec<Record>) {
        let mut decoder = Decoder::new();
        let mut records: Vec<Record> = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(fragment) = decoder.take_fragment(&mut input).unwrap() {
                if fragment.starts {
                    records.push((fragment.header, Vec::new(), 0, 0));
                }
                let record = records.last_mut().expect("a first fragment");
                assert_eq!(fragment.header, record.0);
                record.1.extend_from_slice(fragment.content);
                record.2 += u32::from(fragment.starts);
                record.3 += u32::from(fragment.ends);
            }
            assert!(input.is_empty());
        }
        (decoder, records)
    }

    #[test]
    fn records_are_the_same_at_every_split() {
        let header = |content_length, padding_length| Header {
            version: 1,
            record_type: RecordType::Stdin,
            request_id: 7,
            content_length,
            padding_length,
        };
        let expected = [(header(3, 2), b"abc".to_vec(), 1, 1), (header(0, 1), Vec::new(), 1, 1)];
        for first in 0..=RECORDS.len() {
            for second in first..=RECORDS.len() {
                let pieces = [&RECORDS[..first], &RECORDS[first..second], &RECORDS[second..]];
                let (decoder, records) = decode(&pieces);
                assert_eq!(records, expected, "split at {first} and {second}");
                assert!(!decoder.mid_record());
            }
        }
        let bytes: Vec<&[u8]> = RECORDS.chunks(1).collect();
        assert_eq!(decode(&bytes).1, expected);
    }

    #[test]
    fn mid_record_is_everywhere_but_at_the_borders() {
        for taken in 0..=RECORDS.len() {
            let (decoder, _) = decode(&[&RECORDS[..taken]]);
            assert_eq!(decoder.mid_record(), ![0, 13, 22].contains(&taken), "after {taken} bytes");
        }
    }

    #[test]
    fn whole_records_are_one_fragment_that_borrows_the_input() {
        let mut input = RECORDS;
        let fragment = Decoder::new().take_fragment(&mut input).unwrap().unwrap();
        assert!(fragment.starts && fragment.ends);
        assert_eq!(fragment.content.as_ptr(), RECORDS[8..].as_ptr());
        assert_eq!(input, &RECORDS[13..]);
    }

    #[test]
    fn a_strange_version_is_seen_at_its_first_byte() {
        for version in (0..=u8::MAX).filter(|version| *version != VERSION) {
            for length in [1, 8, 100] {
                let mut bytes = [0; 100];
                bytes[0] = version;
                let mut input = &bytes[..length];
                let error = Decoder::new().take_fragment(&mut input).unwrap_err();
                assert_eq!((error.kind, error.id), (ErrorKind::Version(version), None));
                assert_eq!(input.len(), length);
            }
        }
    }

    #[test]
    fn it_stays_small() {
        assert_eq!(size_of::<Decoder>(), 12);
    }
}
