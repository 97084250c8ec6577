//! What is sent, appended to a `Vec<u8>`: stream writes become header, content and padding.
//!
//! Every record ends on a multiple of eight bytes from its start, as the specification recommends (3.3), and
//! every padding and reserved byte is zero: nothing of this process's memory reaches a peer by accident.
//! Content is split into records of at most [`RECORD_CONTENT_BYTES`].

use alloc::vec::Vec;

use super::params::encode_pair;
use super::wire::{
    BODY_BYTES, BeginBody, CONTENT_BYTES_MAX, EndBody, HEADER_BYTES, Header, KEEP_CONN, MANAGEMENT_ID,
    ProtocolStatus, RecordType, RequestId, Role, VERSION,
};

/// The most content a record written here carries: the largest multiple of eight that fits 16 bits.
pub const RECORD_CONTENT_BYTES: usize = 65_528;

const ZEROS: [u8; 255] = [0; 255];

/// `content` as records of a stream, as many as it takes. Nothing for empty content: an empty record would
/// end the stream, which [`stream_end`] says on purpose.
pub fn stream(out: &mut Vec<u8>, record_type: RecordType, id: RequestId, content: &[u8]) {
    let records = content.len().div_ceil(RECORD_CONTENT_BYTES);
    out.reserve(content.len() + records * (HEADER_BYTES + 7));
    for piece in content.chunks(RECORD_CONTENT_BYTES) {
        // A piece has at most 65,528 bytes.
        let pad = stream_header(out, record_type, id, piece.len() as u16);
        out.extend_from_slice(piece);
        padding(out, pad);
    }
}

/// The empty record that ends a stream (3.3).
#[inline]
pub fn stream_end(out: &mut Vec<u8>, record_type: RecordType, id: RequestId) {
    out.extend_from_slice(&header(record_type, id.get(), 0, 0));
}

/// The header of a record whose content is sent from where it is. Returns the bytes of [`padding`] that go
/// behind the content.
#[inline]
pub fn stream_header(out: &mut Vec<u8>, record_type: RecordType, id: RequestId, content_length: u16) -> u8 {
    let pad = padding_of(usize::from(content_length));
    out.extend_from_slice(&header(record_type, id.get(), content_length, pad));
    pad
}

/// `length` zero bytes.
#[inline]
pub fn padding(out: &mut Vec<u8>, length: u8) {
    out.extend_from_slice(&ZEROS[..usize::from(length)]);
}

/// END_REQUEST (5.5): the request is over and its id free.
#[inline]
pub fn end_request(out: &mut Vec<u8>, id: RequestId, app_status: u32, status: ProtocolStatus) {
    let body = EndBody { app_status, protocol_status: u8::from(status) };
    fixed(out, RecordType::EndRequest, id.get(), body.to_bytes());
}

/// BEGIN_REQUEST (5.1), as a web server sends it.
pub fn begin_request(out: &mut Vec<u8>, id: RequestId, role: Role, keep_conn: bool) {
    let body = BeginBody { role: u16::from(role), flags: if keep_conn { KEEP_CONN } else { 0 } };
    fixed(out, RecordType::BeginRequest, id.get(), body.to_bytes());
}

/// ABORT_REQUEST (5.4), as a web server sends it.
pub fn abort_request(out: &mut Vec<u8>, id: RequestId) {
    out.extend_from_slice(&header(RecordType::AbortRequest, id.get(), 0, 0));
}

/// GET_VALUES (4.1), as a web server sends it. The names must fit one record: 65,535 bytes with their
/// lengths.
pub fn get_values<'n>(out: &mut Vec<u8>, names: impl IntoIterator<Item = &'n [u8]>) {
    let record = OpenRecord::management(out, RecordType::GetValues);
    for name in names {
        encode_pair(out, name, b"");
    }
    record.finish(out);
}

/// GET_VALUES_RESULT (4.1). The pairs must fit one record: 65,535 bytes with their lengths.
pub fn get_values_result<'p>(out: &mut Vec<u8>, pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>) {
    let record = OpenRecord::management(out, RecordType::GetValuesResult);
    for (name, value) in pairs {
        encode_pair(out, name, value);
    }
    record.finish(out);
}

/// UNKNOWN_TYPE (4.2): the answer to a management record of a type nobody knows.
pub fn unknown_type(out: &mut Vec<u8>, unknown: RecordType) {
    let body = [u8::from(unknown), 0, 0, 0, 0, 0, 0, 0];
    fixed(out, RecordType::UnknownType, MANAGEMENT_ID, body);
}

/// A record whose content is written before its length is known.
///
/// ```text
/// begin ─▶ header with length 0 ─▶ the caller appends content ─▶ finish: length patched, padding appended
/// ```
#[derive(Debug)]
#[must_use = "the length is only known to `finish`"]
pub struct OpenRecord {
    /// Where the header begins in `out`.
    start: usize,
}

impl OpenRecord {
    /// Appends the header. Until [`finish`](OpenRecord::finish) the caller only appends, at most 65,535
    /// bytes.
    #[inline]
    pub fn begin(out: &mut Vec<u8>, record_type: RecordType, id: RequestId) -> OpenRecord {
        OpenRecord::open(out, record_type, id.get())
    }

    fn management(out: &mut Vec<u8>, record_type: RecordType) -> OpenRecord {
        OpenRecord::open(out, record_type, MANAGEMENT_ID)
    }

    #[inline]
    fn open(out: &mut Vec<u8>, record_type: RecordType, id: u16) -> OpenRecord {
        let start = out.len();
        out.extend_from_slice(&header(record_type, id, 0, 0));
        OpenRecord { start }
    }

    /// Bytes of content appended so far.
    pub fn content_bytes(&self, out: &[u8]) -> usize {
        out.len() - self.start - HEADER_BYTES
    }

    /// Patches the length and pads.
    #[inline]
    pub fn finish(self, out: &mut Vec<u8>) {
        let length = self.content_bytes(out);
        debug_assert!(length <= CONTENT_BYTES_MAX, "a record of {length} bytes");
        let pad = padding_of(length);
        let [length1, length0] = (length as u16).to_be_bytes();
        out[self.start + 4..self.start + 7].copy_from_slice(&[length1, length0, pad]);
        padding(out, pad);
    }
}

#[inline]
fn fixed(out: &mut Vec<u8>, record_type: RecordType, id: u16, body: [u8; BODY_BYTES]) {
    let mut record = [0; HEADER_BYTES + BODY_BYTES];
    record[..HEADER_BYTES].copy_from_slice(&header(record_type, id, BODY_BYTES as u16, 0));
    record[HEADER_BYTES..].copy_from_slice(&body);
    out.extend_from_slice(&record);
}

#[inline]
fn header(record_type: RecordType, request_id: u16, content_length: u16, pad: u8) -> [u8; HEADER_BYTES] {
    Header { version: VERSION, record_type, request_id, content_length, padding_length: pad }.to_bytes()
}

/// Bytes from the end of the content to the next multiple of eight.
#[inline]
const fn padding_of(content_bytes: usize) -> u8 {
    (content_bytes.wrapping_neg() % 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::variable;
    use alloc::vec;

    const ID: RequestId = RequestId::ONE;

    #[test]
    fn a_record_is_header_content_and_zero_padding() {
        let mut out = Vec::new();
        stream(&mut out, RecordType::Stdout, ID, b"hello");
        assert_eq!(out, [&[1, 6, 0, 1, 0, 5, 3, 0][..], b"hello", &[0; 3]].concat());
    }

    #[test]
    fn content_is_split_at_the_largest_aligned_length() {
        let cases: [(usize, &[(u16, u8)]); 8] = [
            (0, &[]),
            (1, &[(1, 7)]),
            (7, &[(7, 1)]),
            (8, &[(8, 0)]),
            (65_528, &[(65_528, 0)]),
            (65_529, &[(65_528, 0), (1, 7)]),
            (65_536, &[(65_528, 0), (8, 0)]),
            (99_000, &[(65_528, 0), (33_472, 0)]),
        ];
        for (length, records) in cases {
            let content: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            let mut out = Vec::new();
            stream(&mut out, RecordType::Stdin, ID, &content);
            let (mut rest, mut joined) = (&out[..], Vec::new());
            for (content_length, padding_length) in records {
                let (head, after) = rest.split_first_chunk().unwrap();
                let header = Header::from_bytes(*head);
                assert_eq!(
                    (header.content_length, header.padding_length),
                    (*content_length, *padding_length)
                );
                let (content, after) = after.split_at(usize::from(*content_length));
                let (pad, after) = after.split_at(usize::from(*padding_length));
                assert!(pad.iter().all(|byte| *byte == 0));
                joined.extend_from_slice(content);
                rest = after;
            }
            assert!(rest.is_empty() && joined == content, "{length} bytes");
        }
    }

    #[test]
    fn content_sent_from_where_it_is_makes_the_same_record() {
        for length in [0, 1, 7, 8, 65_528, 65_535] {
            let content = vec![7; usize::from(length)];
            let mut out = Vec::new();
            let pad = stream_header(&mut out, RecordType::Stdout, ID, length);
            out.extend_from_slice(&content);
            padding(&mut out, pad);
            assert_eq!(out.len() % 8, 0);
            assert_eq!(out[4..7], [length.to_be_bytes()[0], length.to_be_bytes()[1], pad]);
        }
    }

    #[test]
    fn an_open_record_learns_its_length_at_the_end() {
        for length in [0, 1, 8, 65_528, 65_535] {
            let content = vec![7; length];
            let mut out = b"before".to_vec();
            let record = OpenRecord::begin(&mut out, RecordType::Stdout, ID);
            out.extend_from_slice(&content);
            assert_eq!(record.content_bytes(&out), length);
            record.finish(&mut out);
            let mut same = b"before".to_vec();
            let pad = stream_header(&mut same, RecordType::Stdout, ID, length as u16);
            same.extend_from_slice(&content);
            padding(&mut same, pad);
            assert!(out == same, "{length} bytes");
        }
    }

    #[test]
    fn fixed_records() {
        let id = RequestId::new(0x0203).unwrap();
        let mut out = Vec::new();
        begin_request(&mut out, id, Role::Filter, true);
        assert_eq!(out, [1, 1, 2, 3, 0, 8, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0]);
        out.clear();
        begin_request(&mut out, id, Role::Responder, false);
        assert_eq!(out, [1, 1, 2, 3, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        out.clear();
        abort_request(&mut out, id);
        assert_eq!(out, [1, 2, 2, 3, 0, 0, 0, 0]);
        out.clear();
        stream_end(&mut out, RecordType::Stdout, id);
        assert_eq!(out, [1, 6, 2, 3, 0, 0, 0, 0]);
        out.clear();
        end_request(&mut out, id, 0x0405_0607, ProtocolStatus::Overloaded);
        assert_eq!(out, [1, 3, 2, 3, 0, 8, 0, 0, 4, 5, 6, 7, 2, 0, 0, 0]);
        out.clear();
        unknown_type(&mut out, RecordType::Unknown(77));
        assert_eq!(out, [1, 11, 0, 0, 0, 8, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn variables_are_asked_for_and_answered() {
        let mut out = Vec::new();
        get_values(&mut out, [variable::MAX_REQS]);
        assert_eq!(out, b"\x01\x09\0\0\0\x0f\x01\0\x0d\0FCGI_MAX_REQS\0");
        out.clear();
        get_values_result(&mut out, [(variable::MAX_REQS, &b"50"[..])]);
        assert_eq!(out, b"\x01\x0a\0\0\0\x11\x07\0\x0d\x02FCGI_MAX_REQS50\0\0\0\0\0\0\0");
    }
}
