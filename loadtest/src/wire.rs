//! FastCGI records as the generator writes and expects them: the few parts of the specification a client
//! needs.
//!
//! ```text
//!  0        1        2   3      4   5        6         7         8
//!  version  type     request id content len  padding   reserved  content, then padding
//! ```

/// Bytes of a record header.
pub const HEADER_BYTES: usize = 8;
/// The only version there is; the first byte of every record.
pub const VERSION: u8 = 1;

/// Record types (FastCGI 8), as many as a client meets.
pub const BEGIN_REQUEST: u8 = 1;
/// Ends a request, from the server.
pub const END_REQUEST: u8 = 3;
/// Name-value pairs of the request.
pub const PARAMS: u8 = 4;
/// The request's body.
pub const STDIN: u8 = 5;
/// The answer: CGI head and body.
pub const STDOUT: u8 = 6;
/// The application's complaints.
pub const STDERR: u8 = 7;

/// A record header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Always [`VERSION`] in a correct record.
    pub version: u8,
    /// One of the constants above, or whatever was sent.
    pub record_type: u8,
    /// The request the record belongs to; 0 for management.
    pub id: u16,
    /// Bytes of content.
    pub content: u16,
    /// Bytes of padding after the content.
    pub padding: u8,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` when fewer than eight are there.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let &[version, record_type, id1, id0, len1, len0, padding, _reserved] = bytes.first_chunk()?;
        let (id, content) = (u16::from_be_bytes([id1, id0]), u16::from_be_bytes([len1, len0]));
        Some(Header { version, record_type, id, content, padding })
    }

    /// Bytes of the whole record: header, content and padding.
    pub fn record_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.content) + usize::from(self.padding)
    }
}

/// Appends one record, padded with zeros to a multiple of eight as nginx does. `content` is at most 65,535
/// bytes.
pub fn record(out: &mut Vec<u8>, record_type: u8, id: u16, content: &[u8]) {
    let length = u16::try_from(content.len()).expect("content of one record");
    let padding = (8 - content.len() % 8) % 8;
    let [id1, id0] = id.to_be_bytes();
    let [len1, len0] = length.to_be_bytes();
    out.extend_from_slice(&[VERSION, record_type, id1, id0, len1, len0, padding as u8, 0]);
    out.extend_from_slice(content);
    out.resize(out.len() + padding, 0);
}

/// Appends a name-value pair with lengths of one byte, or four with the high bit set (FastCGI 3.4).
pub fn pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, value] {
        match part.len() {
            length @ ..128 => out.push(length as u8),
            length => out.extend_from_slice(&(length as u32 | 1 << 31).to_be_bytes()),
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// The answer that Ringway's `hello` sends: head and body in one STDOUT record, the end of STDOUT,
/// END_REQUEST.
pub fn hello_answer(id: u16) -> Vec<u8> {
    let mut answer = Vec::new();
    let stdout = [HELLO_HEAD, HELLO_BODY].concat();
    record(&mut answer, STDOUT, id, &stdout);
    record(&mut answer, STDOUT, id, &[]);
    record(&mut answer, END_REQUEST, id, &[0; 8]);
    answer
}

/// Writes `id` into every record of `answer`, which must be whole records.
pub fn set_id(answer: &mut [u8], id: u16) {
    let mut at = 0;
    while let Some(header) = Header::read(&answer[at..]) {
        answer[at + 2..at + 4].copy_from_slice(&id.to_be_bytes());
        at += header.record_bytes();
    }
    assert_eq!(at, answer.len(), "whole records");
}

/// The CGI head of [`hello_answer`].
pub const HELLO_HEAD: &[u8] = b"Content-Type: text/plain\r\nContent-Length: 14\r\n\r\n";
/// The body that every answer to `hello` must have.
pub const HELLO_BODY: &[u8] = b"Hello, world!\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_padded_to_eight_and_reads_back() {
        let mut out = Vec::new();
        record(&mut out, PARAMS, 0x0102, b"abc");
        assert_eq!(out, [1, 4, 1, 2, 0, 3, 5, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0]);
        let header = Header::read(&out).unwrap();
        assert_eq!(header, Header { version: 1, record_type: 4, id: 0x0102, content: 3, padding: 5 });
        assert_eq!(header.record_bytes(), out.len());
        assert_eq!(Header::read(&out[..7]), None);
    }

    #[test]
    fn lengths_grow_to_four_bytes_at_128() {
        let mut out = Vec::new();
        pair(&mut out, b"n", &[b'v'; 127]);
        assert_eq!(out[..3], [1, 127, b'n']);
        out.clear();
        pair(&mut out, b"n", &[b'v'; 128]);
        assert_eq!(out[..6], [1, 0x80, 0, 0, 128, b'n']);
    }

    #[test]
    fn an_answer_takes_another_id_in_every_record() {
        let mut answer = hello_answer(1);
        set_id(&mut answer, 513);
        assert_eq!(answer, hello_answer(513));
        assert_eq!(answer.len() % 8, 0);
    }
}
