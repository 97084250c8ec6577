//! What a peer can do wrong: which rule it broke, and what ends because of it.

use core::fmt;

use super::wire::{RecordType, VERSION};

/// A broken rule. `scope` follows from `kind`; both are spelled out because callers match on either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The rule.
    pub kind: ErrorKind,
    /// What ends.
    pub scope: Scope,
    /// The request id concerned, as the record named it; `None` when no record was understood.
    pub id: Option<u16>,
}

/// What ends because of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The request; its neighbours go on.
    Request,
    /// The connection: no further byte of it can be trusted. Requests whose input had ended are answered
    /// first.
    Connection,
}

/// The rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The first byte of a record was this, not 1.
    Version(u8),
    /// A record that belongs to a request came with id 0.
    ManagementId(RecordType),
    /// BEGIN_REQUEST with this many bytes of content instead of 8.
    BeginLength(u16),
    /// BEGIN_REQUEST for a request that has not ended.
    IdInUse,
    /// A stream before the one that goes ahead of it had ended: STDIN in PARAMS, DATA in STDIN.
    StreamOrder(RecordType),
    /// More bytes of PARAMS than `params_bytes_max`, which is this.
    ParamsTooLong(u32),
    /// More pairs than `params_pairs_max`, which is this.
    ParamsTooMany(u32),
    /// PARAMS ended within a pair, or a pair claimed more than the stream holds; its offset in the stream.
    ParamsTruncated(u32),
    /// A NUL in a name or a value; the offset of its pair in the stream.
    ParamsNul(u32),
}

/// How a responder answers a request that broke a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, with its reason.
    pub status: &'static str,
    /// The app status of END_REQUEST; never zero.
    pub app_status: u32,
}

impl Error {
    pub(super) const fn new(kind: ErrorKind, id: Option<u16>) -> Error {
        Error { kind, scope: kind.scope(), id }
    }

    /// The same error, of a request whose id the reporter did not know.
    pub const fn with_id(self, id: u16) -> Error {
        Error { id: Some(id), ..self }
    }

    /// What the peer is told: `None` when the connection ends without another word.
    pub const fn answer(&self) -> Option<Answer> {
        match self.kind {
            ErrorKind::StreamOrder(_) | ErrorKind::ParamsTruncated(_) | ErrorKind::ParamsNul(_) => {
                Some(Answer { status: "400 Bad Request", app_status: 1 })
            }
            ErrorKind::ParamsTooLong(_) | ErrorKind::ParamsTooMany(_) => {
                Some(Answer { status: "431 Request Header Fields Too Large", app_status: 1 })
            }
            ErrorKind::Version(_)
            | ErrorKind::ManagementId(_)
            | ErrorKind::BeginLength(_)
            | ErrorKind::IdInUse => None,
        }
    }
}

impl ErrorKind {
    const fn scope(self) -> Scope {
        match self {
            ErrorKind::Version(_)
            | ErrorKind::ManagementId(_)
            | ErrorKind::BeginLength(_)
            | ErrorKind::IdInUse => Scope::Connection,
            ErrorKind::StreamOrder(_)
            | ErrorKind::ParamsTooLong(_)
            | ErrorKind::ParamsTooMany(_)
            | ErrorKind::ParamsTruncated(_)
            | ErrorKind::ParamsNul(_) => Scope::Request,
        }
    }
}

/// The rule and where it stands; the id and the peer are the log line's to add.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Version(version) => {
                write!(f, "protocol version {version} instead of {VERSION} (FastCGI 3.3)")
            }
            ErrorKind::ManagementId(record_type) => {
                write!(f, "{record_type} with request id 0, which is for management records (FastCGI 3.3)")
            }
            ErrorKind::BeginLength(length) => {
                write!(f, "BEGIN_REQUEST with {length} bytes of content instead of 8 (FastCGI 5.1)")
            }
            ErrorKind::IdInUse => f.write_str("BEGIN_REQUEST for a request that has not ended (FastCGI 3.3)"),
            ErrorKind::StreamOrder(record_type) => {
                write!(f, "{record_type} before the stream ahead of it has ended (FastCGI 6.2, 6.4)")
            }
            ErrorKind::ParamsTooLong(max) => {
                write!(f, "PARAMS longer than params_bytes_max = {max} (a limit of this server)")
            }
            ErrorKind::ParamsTooMany(max) => {
                write!(f, "more pairs in PARAMS than params_pairs_max = {max} (a limit of this server)")
            }
            ErrorKind::ParamsTruncated(offset) => {
                write!(f, "the pair at byte {offset} of PARAMS reaches beyond the stream's end (FastCGI 3.4)")
            }
            ErrorKind::ParamsNul(offset) => {
                write!(f, "NUL in the pair at byte {offset} of PARAMS (FastCGI 6.1)")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "request id {id}: {}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const ALL: [ErrorKind; 9] = [
        ErrorKind::Version(0),
        ErrorKind::ManagementId(RecordType::Params),
        ErrorKind::BeginLength(9),
        ErrorKind::IdInUse,
        ErrorKind::StreamOrder(RecordType::Stdin),
        ErrorKind::ParamsTooLong(10),
        ErrorKind::ParamsTooMany(10),
        ErrorKind::ParamsTruncated(3),
        ErrorKind::ParamsNul(3),
    ];

    #[test]
    fn a_request_is_answered_and_a_broken_connection_is_not() {
        for kind in ALL {
            let error = Error::new(kind, None);
            assert_eq!(error.answer().is_some(), error.scope == Scope::Request, "{kind:?}");
            assert!(error.answer().is_none_or(|answer| answer.app_status != 0));
        }
    }

    #[test]
    fn display_names_the_rule_and_its_source() {
        for kind in ALL {
            let line = kind.to_string();
            assert!(line.contains("FastCGI") || line.contains("limit of this server"), "{line}");
            assert!(!line.contains('\n'));
        }
        let error = Error::new(ErrorKind::Version(0), None).with_id(7);
        assert_eq!(error.to_string(), "request id 7: protocol version 0 instead of 1 (FastCGI 3.3)");
    }
}
