//! Management records (FastCGI 4): what the web server asks of the application itself, under id 0.
//!
//! They are answered here and at once, whatever the requests of the connection are doing; no event tells of
//! them.

use alloc::vec::Vec;

use super::decoder::Fragment;
use super::encoder;
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::params::take_pair;
use super::wire::{MANAGEMENT_ID, RecordType, variable};

/// What is kept of a management record between two reads.
#[derive(Debug, Default)]
pub(super) struct Management {
    /// The content of a GET_VALUES that came in pieces, up to `management_bytes_max`; no heap between
    /// records.
    content: Vec<u8>,
}

impl Management {
    /// Takes in a piece of a record with id 0; the answer is appended to `reply` once the record's content is
    /// there.
    pub(super) fn handle_record(
        &mut self,
        fragment: Fragment<'_>,
        limits: &Limits,
        reply: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let record_type = fragment.header.record_type;
        match record_type {
            RecordType::GetValues => self.handle_get_values(fragment, limits, reply),
            // FastCGI 4.2: whatever its content is.
            RecordType::Unknown(_) if fragment.starts => encoder::unknown_type(reply, record_type),
            // Answers to questions nobody asked; no answer to them, lest two sides answer each other forever.
            RecordType::Unknown(_) | RecordType::GetValuesResult | RecordType::UnknownType => {}
            RecordType::BeginRequest
            | RecordType::AbortRequest
            | RecordType::EndRequest
            | RecordType::Params
            | RecordType::Stdin
            | RecordType::Stdout
            | RecordType::Stderr
            | RecordType::Data => {
                return Err(Error::new(ErrorKind::ManagementId(record_type), Some(MANAGEMENT_ID)));
            }
        }
        Ok(())
    }

    fn handle_get_values(&mut self, fragment: Fragment<'_>, limits: &Limits, reply: &mut Vec<u8>) {
        let left = limits.management_bytes_max as usize - self.content.len();
        let looked_at = &fragment.content[..fragment.content.len().min(left)];
        if fragment.starts && fragment.ends {
            return answer_get_values(looked_at, limits, reply);
        }
        self.content.extend_from_slice(looked_at);
        if fragment.ends {
            answer_get_values(&core::mem::take(&mut self.content), limits, reply);
        }
    }
}

/// FastCGI 4.1: the variables asked for that are known here, each once.
///
/// FCGI_MAX_REQS counts the requests of all connections, but HAProxy, which asks, takes it for the limit of each:
/// where requests share a connection it is the smaller of the two.
fn answer_get_values(content: &[u8], limits: &Limits, reply: &mut Vec<u8>) {
    let is_multiplexed = limits.requests_max > 1;
    let of_connection = if is_multiplexed { u32::from(limits.requests_max) } else { u32::MAX };
    let variables = [
        (variable::MAX_CONNS, limits.connections_max),
        (variable::MAX_REQS, limits.requests_total_max.min(of_connection)),
        (variable::MPXS_CONNS, u32::from(is_multiplexed)),
    ];
    let mut asked = [false; 3];
    let mut rest = content;
    while let Some((name, _)) = take_pair(&mut rest) {
        for (asked, (variable, _)) in asked.iter_mut().zip(variables) {
            *asked |= name == variable;
        }
    }
    let mut digits = [[0; 10]; 3];
    let answers = variables.iter().zip(asked).zip(&mut digits).filter(|((_, asked), _)| *asked);
    encoder::get_values_result(
        reply,
        answers.map(|(((name, value), _), digits)| (*name, decimal(*value, digits))),
    );
}

/// `value` in decimal, at the end of `digits`.
fn decimal(value: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut rest = value;
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::Header;
    use alloc::vec;

    fn header(record_type: RecordType, content_length: usize) -> Header {
        let content_length = content_length as u16;
        Header { version: 1, record_type, request_id: 0, content_length, padding_length: 0 }
    }

    /// The answer to a record that comes in two pieces, or in one where a piece would be empty.
    fn answer(
        record_type: RecordType,
        content: &[u8],
        split: usize,
        limits: &Limits,
    ) -> Result<Vec<u8>, Error> {
        let header = header(record_type, content.len());
        let (mut management, mut reply) = (Management::default(), Vec::new());
        let whole = split == 0 || split >= content.len();
        let pieces = if whole { vec![content] } else { vec![&content[..split], &content[split..]] };
        for (place, piece) in pieces.iter().enumerate() {
            let (starts, ends) = (place == 0, place + 1 == pieces.len());
            let fragment = Fragment { header, content: piece, starts, ends };
            management.handle_record(fragment, limits, &mut reply)?;
            assert!(management.content.capacity() == 0 || !ends);
        }
        Ok(reply)
    }

    fn asked(content: &[u8], split: usize, limits: &Limits) -> Vec<u8> {
        let reply = answer(RecordType::GetValues, content, split, limits).unwrap();
        let length = usize::from(u16::from_be_bytes([reply[4], reply[5]]));
        assert_eq!((&reply[..4], reply.len()), (&[1, 10, 0, 0][..], 8 + length.next_multiple_of(8)));
        reply[8..8 + length].to_vec()
    }

    #[test]
    fn get_values_answers_what_is_asked_once_at_every_split() {
        let limits = |requests_max| Limits {
            connections_max: 0,
            requests_total_max: u32::MAX,
            requests_max,
            ..Limits::default()
        };
        let question = b"\x0d\0FCGI_MAX_REQS\x03\x05FOOvalue\x0e\0FCGI_MAX_CONNS\x0d\0FCGI_MAX_REQS";
        for split in 0..question.len() {
            let answer = asked(question, split, &limits(1));
            assert_eq!(answer, b"\x0e\x01FCGI_MAX_CONNS0\x0d\x0aFCGI_MAX_REQS4294967295");
        }
        let question = b"\x0f\0FCGI_MPXS_CONNS";
        assert_eq!(asked(question, 0, &limits(2)), b"\x0f\x01FCGI_MPXS_CONNS1");
        assert_eq!(asked(question, 0, &limits(1)), b"\x0f\x01FCGI_MPXS_CONNS0");
        assert_eq!(asked(b"\x7fFCGI", 0, &limits(1)), b"");
        assert_eq!(asked(b"", 0, &limits(1)), b"");
    }

    /// What a web server takes from it is right for one connection and for all.
    #[test]
    fn max_reqs_is_the_smaller_limit_where_requests_share_connections() {
        for (requests_max, requests_total_max, expected) in
            [(1, 50, "50"), (2, 50, "2"), (50, 50, "50"), (51, 50, "50"), (u16::MAX, 100_000, "65535")]
        {
            let limits = Limits { requests_max, requests_total_max, ..Limits::default() };
            let answer = asked(b"\x0d\0FCGI_MAX_REQS", 0, &limits);
            assert_eq!(&answer[2..], [b"FCGI_MAX_REQS", expected.as_bytes()].concat());
        }
    }

    #[test]
    fn get_values_is_looked_at_up_to_its_limit() {
        let question = [b"\x01\x05Xabcde".repeat(2).as_slice(), b"\x0f\0FCGI_MPXS_CONNS"].concat();
        for split in 0..question.len() {
            let asked = |management_bytes_max| {
                asked(&question, split, &Limits { management_bytes_max, ..Limits::default() })
            };
            assert_eq!(asked(33), b"\x0f\x01FCGI_MPXS_CONNS1");
            assert_eq!(asked(32), b"");
            assert_eq!(asked(0), b"");
        }
    }

    #[test]
    fn a_type_nobody_knows_is_named_once_under_id_zero() {
        for number in (12..=u8::MAX).chain([0]) {
            for split in [0, 3] {
                let reply = answer(RecordType::Unknown(number), b"content", split, &Limits::default());
                let expected = vec![1, 11, 0, 0, 0, 8, 0, 0, number, 0, 0, 0, 0, 0, 0, 0];
                assert_eq!(reply, Ok(expected));
            }
        }
    }

    #[test]
    fn answers_are_not_answered() {
        for record_type in [RecordType::GetValuesResult, RecordType::UnknownType] {
            assert_eq!(answer(record_type, b"12345678", 0, &Limits::default()), Ok(vec![]));
        }
    }

    #[test]
    fn application_records_do_not_come_under_id_zero() {
        for record_type in &RecordType::ALL[..8] {
            let error = answer(*record_type, b"12345678", 0, &Limits::default()).unwrap_err();
            assert_eq!((error.kind, error.id), (ErrorKind::ManagementId(*record_type), Some(0)));
        }
    }

    #[test]
    fn decimals() {
        for value in [0, 1, 9, 10, 99, 100, 16_384, u32::MAX] {
            assert_eq!(decimal(value, &mut [0; 10]), alloc::format!("{value}").as_bytes());
        }
    }
}
