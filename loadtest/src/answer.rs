//! Verifies every byte of every answer: framing, ids, the CGI head, the body, END_REQUEST.
//!
//! The slow path reads records one by one and is the judge. An answer it has judged correct becomes the
//! [`Known`] form; an answer of exactly those bytes (but for its id) is then accepted by one comparison.
//! Whatever differs is judged again.

use std::fmt;

use crate::wire::{self, END_REQUEST, HELLO_BODY, Header, STDERR, STDOUT, VERSION};

/// The answers of one connection, in whatever pieces they arrive. Ids are 1 to the number it was made for.
pub struct Answers {
    /// `requests[id - 1]`
    requests: Vec<Progress>,
    /// The front of a record whose end has not arrived; empty at a record boundary.
    partial: Vec<u8>,
}

/// How far the answer to one id is.
#[derive(Default)]
struct Progress {
    asked: bool,
    stdout: Vec<u8>,
    stdout_ended: bool,
}

/// The first correct answer, once per id, shared by all connections of a run.
#[derive(Default)]
pub struct Known {
    /// All of equal length; `forms[id - 1]`. Empty until something is known.
    forms: Vec<Vec<u8>>,
}

/// What an answer did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The first byte of a record is not 1.
    Version(u8),
    /// A record type that no responder sends.
    RecordType(u8),
    /// A record for an id that has no request.
    UnknownId(u16),
    /// Content in the error stream, which `hello` leaves empty.
    Stderr(u16, String),
    /// STDOUT after the end of STDOUT.
    AfterEnd(u16),
    /// More STDOUT than any answer to `hello`.
    TooLong(u16),
    /// END_REQUEST without the end of STDOUT.
    NoStreamEnd(u16),
    /// END_REQUEST whose content is not eight bytes.
    EndLength(u16, u16),
    /// END_REQUEST with an app status or protocol status other than 0.
    Status(u16, u32, u8),
    /// A CGI head that is not one, or of another answer.
    Head(u16, String),
    /// A body other than `Hello, world!\n`.
    Body(u16, String),
    /// The connection ended inside a record or before an answer was complete.
    EndedEarly(u16),
}

impl Answers {
    /// For requests with ids 1 to `ids`, none asked yet.
    pub fn new(ids: u16) -> Answers {
        Answers { requests: (0..ids).map(|_| Progress::default()).collect(), partial: Vec::new() }
    }

    /// A request with this id is on its way; exactly one answer is due.
    pub fn expect(&mut self, id: u16) {
        let request = &mut self.requests[usize::from(id) - 1];
        assert!(!request.asked, "id {id} is in use");
        request.asked = true;
    }

    /// Takes the next bytes of the connection and calls `finished` with the id of each answer that is
    /// complete and right.
    pub fn handle_input(
        &mut self,
        mut input: &[u8],
        known: &mut Known,
        mut finished: impl FnMut(u16),
    ) -> Result<(), Wrong> {
        while !self.partial.is_empty() {
            let Some(record) = self.complete_partial(&mut input)? else { return Ok(()) };
            self.handle_record(&record)?.into_iter().for_each(&mut finished);
        }
        let mut at = 0;
        let mut run = (0, 0); // id and first byte of an answer that has come in one piece so far
        while let Some(header) = Header::read(&input[at..]) {
            if self.is_untouched(header.id) {
                if let Some(bytes) = known.accept(header.id, &input[at..]) {
                    self.requests[usize::from(header.id) - 1].asked = false;
                    finished(header.id);
                    at += bytes;
                    continue;
                }
                run = (header.id, at);
            } else if header.id != run.0 {
                run = (0, 0);
            }
            let Some(record) = input.get(at..at + checked_bytes(&header)?) else { break };
            at += record.len();
            if let Some(id) = self.handle_record(record)? {
                if run.0 == id {
                    known.learn(&input[run.1..at], self.requests.len() as u16);
                }
                finished(id);
            }
        }
        self.partial.extend_from_slice(&input[at..]);
        Ok(())
    }

    /// The connection ended. Right only when no answer is due and no record has begun.
    pub fn handle_end(&self) -> Result<(), Wrong> {
        match self.requests.iter().position(|request| request.asked) {
            Some(index) => Err(Wrong::EndedEarly(index as u16 + 1)),
            None if !self.partial.is_empty() => Err(Wrong::EndedEarly(0)),
            None => Ok(()),
        }
    }

    fn is_untouched(&self, id: u16) -> bool {
        let request = usize::from(id).checked_sub(1).and_then(|index| self.requests.get(index));
        request.is_some_and(|request| request.asked && request.stdout.is_empty() && !request.stdout_ended)
    }

    /// Moves bytes from `input` to the record that has begun; gives it out when it is whole.
    fn complete_partial(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Wrong> {
        let mut wanted = wire::HEADER_BYTES;
        loop {
            let missing = wanted.saturating_sub(self.partial.len()).min(input.len());
            let (taken, rest) = input.split_at(missing);
            self.partial.extend_from_slice(taken);
            *input = rest;
            if self.partial.len() < wanted {
                return Ok(None);
            }
            let header = Header::read(&self.partial).expect("eight bytes");
            match checked_bytes(&header)? {
                whole if whole == self.partial.len() => return Ok(Some(std::mem::take(&mut self.partial))),
                whole => wanted = whole,
            }
        }
    }

    /// One whole record. Gives the id of the request that it ends.
    fn handle_record(&mut self, record: &[u8]) -> Result<Option<u16>, Wrong> {
        let header = Header::read(record).expect("whole record");
        let content = &record[wire::HEADER_BYTES..][..usize::from(header.content)];
        let id = header.id;
        let request = usize::from(id).checked_sub(1).and_then(|index| self.requests.get_mut(index));
        let request = request.filter(|request| request.asked).ok_or(Wrong::UnknownId(id))?;
        match header.record_type {
            STDOUT if request.stdout_ended => Err(Wrong::AfterEnd(id)),
            STDOUT if content.is_empty() => {
                request.stdout_ended = true;
                Ok(None)
            }
            STDOUT if request.stdout.len() + content.len() > STDOUT_BYTES_MAX => Err(Wrong::TooLong(id)),
            STDOUT => {
                request.stdout.extend_from_slice(content);
                Ok(None)
            }
            STDERR if content.is_empty() => Ok(None),
            STDERR => Err(Wrong::Stderr(id, content.escape_ascii().to_string())),
            END_REQUEST => {
                check_end(id, content, request)?;
                *request = Progress::default();
                Ok(Some(id))
            }
            other => Err(Wrong::RecordType(other)),
        }
    }
}

impl Known {
    /// The length of the known answer to `id`, when `input` begins with it.
    fn accept(&self, id: u16, input: &[u8]) -> Option<usize> {
        let form = self.forms.get(usize::from(id) - 1)?;
        input.starts_with(form).then_some(form.len())
    }

    /// Takes a correct answer as the known form for ids 1 to `ids`, unless one is known.
    fn learn(&mut self, answer: &[u8], ids: u16) {
        if self.forms.is_empty() {
            self.forms = (1..=ids).map(|id| with_id(answer, id)).collect();
        }
    }

    /// The known answer to id 1, records and all.
    pub fn first(&self) -> Option<&[u8]> {
        self.forms.first().map(Vec::as_slice)
    }
}

fn with_id(answer: &[u8], id: u16) -> Vec<u8> {
    let mut answer = answer.to_vec();
    wire::set_id(&mut answer, id);
    answer
}

/// The length of the record, if it is one: a wrong version must not make us wait for a length that means
/// nothing.
fn checked_bytes(header: &Header) -> Result<usize, Wrong> {
    if header.version == VERSION { Ok(header.record_bytes()) } else { Err(Wrong::Version(header.version)) }
}

fn check_end(id: u16, content: &[u8], request: &Progress) -> Result<(), Wrong> {
    let &[a, b, c, d, protocol_status, _, _, _] = content else {
        return Err(Wrong::EndLength(id, content.len() as u16));
    };
    let app_status = u32::from_be_bytes([a, b, c, d]);
    if app_status != 0 || protocol_status != 0 {
        return Err(Wrong::Status(id, app_status, protocol_status));
    }
    if !request.stdout_ended {
        return Err(Wrong::NoStreamEnd(id));
    }
    check_stdout(id, &request.stdout)
}

/// The CGI head ends at the first empty line; the rest is the body.
fn check_stdout(id: u16, stdout: &[u8]) -> Result<(), Wrong> {
    let wrong_head = |head: &[u8]| Wrong::Head(id, head.escape_ascii().to_string());
    let end = stdout.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(|| wrong_head(stdout))?;
    let (head, body) = (&stdout[..end], &stdout[end + 4..]);
    if !is_hello_head(head) {
        return Err(wrong_head(head));
    }
    if body != HELLO_BODY {
        return Err(Wrong::Body(id, body.escape_ascii().to_string()));
    }
    Ok(())
}

/// A `Content-Type` of plain text must be there; a status, if any, is 200; a length, if any, is the body's.
fn is_hello_head(head: &[u8]) -> bool {
    let Ok(head) = std::str::from_utf8(head) else { return false };
    let mut typed = false;
    for line in head.split("\r\n") {
        let Some((name, value)) = line.split_once(':') else { return false };
        let value = value.trim_start();
        let right = match name.to_ascii_lowercase().as_str() {
            "content-type" => {
                typed = true;
                value.starts_with("text/plain")
            }
            "status" => value.starts_with("200"),
            "content-length" => value.parse() == Ok(HELLO_BODY.len()),
            _ => true,
        };
        if !right {
            return false;
        }
    }
    typed
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Version(version) => write!(f, "a record of version {version}"),
            Wrong::RecordType(record_type) => write!(f, "a record of type {record_type}"),
            Wrong::UnknownId(id) => write!(f, "a record for id {id}, which has no request"),
            Wrong::Stderr(id, text) => write!(f, "id {id}: STDERR says `{text}`"),
            Wrong::AfterEnd(id) => write!(f, "id {id}: STDOUT after its end"),
            Wrong::TooLong(id) => write!(f, "id {id}: STDOUT longer than {STDOUT_BYTES_MAX} bytes"),
            Wrong::NoStreamEnd(id) => write!(f, "id {id}: END_REQUEST before the end of STDOUT"),
            Wrong::EndLength(id, length) => write!(f, "id {id}: END_REQUEST of {length} bytes"),
            Wrong::Status(id, app, protocol) => {
                write!(f, "id {id}: ended with app status {app}, protocol status {protocol}")
            }
            Wrong::Head(id, head) => write!(f, "id {id}: not the head of `hello`: `{head}`"),
            Wrong::Body(id, body) => write!(f, "id {id}: not the body of `hello`: `{body}`"),
            Wrong::EndedEarly(0) => write!(f, "the connection ended inside a record"),
            Wrong::EndedEarly(id) => write!(f, "the connection ended before the answer to id {id}"),
        }
    }
}

impl std::error::Error for Wrong {}

/// Far more than any answer to `hello`; bounds what a wrong server can make us keep.
const STDOUT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{hello_answer, record};

    /// Ids in the order their answers finished, and how it ended, when `bytes` arrive in pieces of `piece`
    /// bytes.
    fn judge(asked: &[u16], bytes: &[u8], piece: usize) -> (Vec<u16>, Result<(), Wrong>) {
        let mut answers = Answers::new(9);
        asked.iter().for_each(|&id| answers.expect(id));
        let (mut known, mut finished) = (Known::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            if let Err(wrong) = answers.handle_input(piece, &mut known, |id| finished.push(id)) {
                return (finished, Err(wrong));
            }
        }
        (finished, answers.handle_end())
    }

    fn judge_all_splits(asked: &[u16], bytes: &[u8]) -> (Vec<u16>, Result<(), Wrong>) {
        let whole = judge(asked, bytes, bytes.len());
        for piece in 1..bytes.len() {
            assert_eq!(judge(asked, bytes, piece), whole, "pieces of {piece}");
        }
        whole
    }

    fn answer(id: u16, stdout: &[u8], end: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        record(&mut out, STDOUT, id, stdout);
        record(&mut out, STDOUT, id, &[]);
        record(&mut out, END_REQUEST, id, end);
        out
    }

    #[test]
    fn right_answers_finish_in_the_order_they_end() {
        let bytes = [hello_answer(2), hello_answer(1), hello_answer(9)].concat();
        assert_eq!(judge_all_splits(&[1, 2, 9], &bytes), (vec![2, 1, 9], Ok(())));
    }

    #[test]
    fn interleaved_records_of_two_answers_are_right() {
        let (first, second) = (hello_answer(1), hello_answer(2));
        let cut = Header::read(&first).unwrap().record_bytes();
        let bytes = [&first[..cut], &second[..], &first[cut..]].concat();
        assert_eq!(judge_all_splits(&[1, 2], &bytes), (vec![2, 1], Ok(())));
    }

    #[test]
    fn other_framing_of_the_same_answer_is_right() {
        let mut bytes = Vec::new();
        for byte in b"Status: 200 OK\r\ncontent-type: text/plain\r\n\r\nHello, world!\n" {
            bytes.extend_from_slice(&[1, STDOUT, 0, 1, 0, 1, 2, 0xff, *byte, 7, 7]);
        }
        record(&mut bytes, STDERR, 1, &[]);
        record(&mut bytes, STDOUT, 1, &[]);
        record(&mut bytes, END_REQUEST, 1, &[0; 8]);
        assert_eq!(judge_all_splits(&[1], &bytes), (vec![1], Ok(())));
    }

    #[test]
    fn every_wrong_byte_that_means_something_is_detected_with_and_without_a_known_form() {
        let right = hello_answer(3);
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 0x41;
            if meaningless(at, &right) {
                continue;
            }
            assert!(judge(&[3], &wrong, wrong.len()).1.is_err(), "byte {at}");
            let bytes = [hello_answer(1), wrong].concat();
            let (finished, end) = judge(&[1, 3], &bytes, bytes.len());
            assert_eq!(finished, [1], "byte {at}");
            assert!(end.is_err(), "byte {at}");
        }
    }

    /// Padding, reserved bytes, and the head's spelling where it leaves its meaning.
    fn meaningless(at: usize, answer: &[u8]) -> bool {
        let mut start = 0;
        while let Some(header) = Header::read(&answer[start..]) {
            if at < start + header.record_bytes() {
                let (within, content) = (at - start, usize::from(header.content));
                let reserved = within == 7 || header.record_type == END_REQUEST && within >= 8 + 5;
                let spelling = content > 8 && (8 + 22..8 + 26 + 16).contains(&within);
                return reserved || spelling || within >= 8 + content;
            }
            start += header.record_bytes();
        }
        false
    }

    #[test]
    fn each_fault_has_its_name() {
        let stdout = [wire::HELLO_HEAD, HELLO_BODY].concat();
        let fault = |bytes: &[u8]| judge_all_splits(&[1], bytes).1.unwrap_err();
        assert_eq!(fault(&answer(1, &stdout, &[0, 0, 0, 5, 0, 0, 0, 0])), Wrong::Status(1, 5, 0));
        assert_eq!(fault(&answer(1, &stdout, &[0, 0, 0, 0, 2, 0, 0, 0])), Wrong::Status(1, 0, 2));
        assert_eq!(fault(&answer(1, &stdout, &[0; 7])), Wrong::EndLength(1, 7));
        assert_eq!(fault(&answer(4, &stdout, &[0; 8])), Wrong::UnknownId(4));
        assert_eq!(fault(&answer(0, &stdout, &[0; 8])), Wrong::UnknownId(0));
        assert_eq!(fault(&answer(10, &stdout, &[0; 8])), Wrong::UnknownId(10));
        assert_eq!(fault(&[hello_answer(1), hello_answer(1)].concat()), Wrong::UnknownId(1));
        assert!(matches!(fault(&answer(1, b"Hello, world!\n", &[0; 8])), Wrong::Head(1, _)));
        let not_found = b"Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\nHello, world!\n";
        assert!(matches!(fault(&answer(1, not_found, &[0; 8])), Wrong::Head(1, _)));
        assert!(matches!(fault(&answer(1, &stdout[..stdout.len() - 1], &[0; 8])), Wrong::Body(1, _)));
        assert!(matches!(fault(&answer(1, &[0; 5000], &[0; 8])), Wrong::TooLong(1)));
        assert_eq!(fault(&hello_answer(1)[..60]), Wrong::EndedEarly(1));
        assert_eq!(judge_all_splits(&[], &[1, 6, 0]).1, Err(Wrong::EndedEarly(0)));
        assert_eq!(fault(&[2, 6, 0, 1, 0xff, 0xff, 0, 0]), Wrong::Version(2));
        assert_eq!(fault(&[1, 9, 0, 1, 0, 0, 0, 0]), Wrong::RecordType(9));
        let mut stderr = Vec::new();
        record(&mut stderr, STDERR, 1, b"oh");
        assert_eq!(fault(&stderr), Wrong::Stderr(1, "oh".into()));
        let mut unended = Vec::new();
        record(&mut unended, STDOUT, 1, &stdout);
        record(&mut unended, END_REQUEST, 1, &[0; 8]);
        assert_eq!(fault(&unended), Wrong::NoStreamEnd(1));
        let mut after_end = Vec::new();
        record(&mut after_end, STDOUT, 1, &[]);
        record(&mut after_end, STDOUT, 1, b"x");
        assert_eq!(fault(&after_end), Wrong::AfterEnd(1));
    }
}
