//! Every number in the FastCGI 1.0 specification: record types, roles, statuses, the record header.
//!
//! All integers are big-endian ("network order"). Section numbers are those of the specification.

use core::fmt;
use core::num::NonZeroU16;

/// The only protocol version there is (3.3); the first byte of every record.
pub const VERSION: u8 = 1;
/// Bytes of a record header (3.3).
pub const HEADER_BYTES: usize = 8;
/// Bytes of the content of BEGIN_REQUEST (5.1), END_REQUEST (5.5) and UNKNOWN_TYPE (4.2).
pub const BODY_BYTES: usize = 8;
/// The longest content one record can carry.
pub const CONTENT_BYTES_MAX: usize = u16::MAX as usize;
/// The request id of management records (3.3).
pub const MANAGEMENT_ID: u16 = 0;
/// The flag of BEGIN_REQUEST that leaves the connection open after the request (5.1).
pub const KEEP_CONN: u8 = 1;

/// The variables an application answers to GET_VALUES (4.1).
pub mod variable {
    /// How many connections the application accepts at once.
    pub const MAX_CONNS: &[u8] = b"FCGI_MAX_CONNS";
    /// How many requests the application accepts at once.
    pub const MAX_REQS: &[u8] = b"FCGI_MAX_REQS";
    /// Whether one connection may carry several requests at once: `0` or `1`.
    pub const MPXS_CONNS: &[u8] = b"FCGI_MPXS_CONNS";
}

/// A closed set of numbers: the enum, its names as the project spells them, and the way back from the wire.
macro_rules! wire_numbers {
    (
        $(#[$doc:meta])* $name:ident($int:ty)
        { $($(#[$variant_doc:meta])* $variant:ident = $value:literal $text:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant = $value,)+ }

        impl $name {
            /// Every value, in the order of the specification.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name, as transcripts and log lines spell it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl From<$name> for $int {
            fn from(value: $name) -> $int {
                value as $int
            }
        }

        /// Fails with the number itself when the specification does not define it.
        impl TryFrom<$int> for $name {
            type Error = $int;

            fn try_from(value: $int) -> Result<Self, $int> {
                match value { $($value => Ok(Self::$variant),)+ unknown => Err(unknown) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

wire_numbers! {
    /// What an application is asked to be for one request (5.1, 6).
    Role(u16) {
        /// Params and stdin in, stdout and stderr out: what CGI/1.1 programs do (6.2).
        Responder = 1 "responder",
        /// Params in, a decision out; there is no stdin (6.3).
        Authorizer = 2 "authorizer",
        /// Params, stdin and the data of a file in, stdout and stderr out (6.4).
        Filter = 3 "filter",
    }
}

wire_numbers! {
    /// Why a request ended, as far as the protocol is concerned (5.5).
    ProtocolStatus(u8) {
        /// It ran; the app status says how well.
        RequestComplete = 0 "REQUEST_COMPLETE",
        /// Refused: this application takes one request at a time on a connection.
        CantMpxConn = 1 "CANT_MPX_CONN",
        /// Refused: out of some resource.
        Overloaded = 2 "OVERLOADED",
        /// Refused: the role is not known here.
        UnknownRole = 3 "UNKNOWN_ROLE",
    }
}

/// An open set of numbers: as [`wire_numbers`], and what is not in the table keeps its value.
macro_rules! record_types {
    ($($(#[$doc:meta])* $variant:ident = $value:literal $text:literal,)+) => {
        /// The type of a record (8). Numbers that the specification does not define stay printable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RecordType {
            $($(#[$doc])* $variant,)+
            /// A number outside the specification.
            Unknown(u8),
        }

        impl RecordType {
            /// Every type of the specification, in its order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The specification's name without `FCGI_`, or `UNKNOWN`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::Unknown(_) => "UNKNOWN" }
            }
        }

        impl From<RecordType> for u8 {
            fn from(value: RecordType) -> u8 {
                match value { $(RecordType::$variant => $value,)+ RecordType::Unknown(number) => number }
            }
        }

        impl From<u8> for RecordType {
            fn from(value: u8) -> Self {
                match value { $($value => Self::$variant,)+ unknown => Self::Unknown(unknown) }
            }
        }
    };
}

record_types! {
    /// The web server opens a request (5.1).
    BeginRequest = 1 "BEGIN_REQUEST",
    /// The web server gives a request up (5.4).
    AbortRequest = 2 "ABORT_REQUEST",
    /// The application ends a request (5.5).
    EndRequest = 3 "END_REQUEST",
    /// A stream of name-value pairs (5.2).
    Params = 4 "PARAMS",
    /// The stream of the request's body (5.3).
    Stdin = 5 "STDIN",
    /// The stream of the answer (5.3).
    Stdout = 6 "STDOUT",
    /// The stream of error messages (5.3).
    Stderr = 7 "STDERR",
    /// The stream of a Filter's file (5.3).
    Data = 8 "DATA",
    /// The web server asks for variables (4.1).
    GetValues = 9 "GET_VALUES",
    /// The answer to GET_VALUES (4.1).
    GetValuesResult = 10 "GET_VALUES_RESULT",
    /// The answer to a management record nobody knows (4.2).
    UnknownType = 11 "UNKNOWN_TYPE",
}

/// The name, with the number where that is all there is: `PARAMS`, `UNKNOWN(77)`.
impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordType::Unknown(number) => write!(f, "UNKNOWN({number})"),
            known => f.write_str(known.name()),
        }
    }
}

/// The id of a request: 1 to 65,535. Zero belongs to management records, so it is no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(NonZeroU16);

impl RequestId {
    /// The id most web servers use for every request.
    pub const ONE: RequestId = RequestId(NonZeroU16::MIN);

    /// `None` for zero.
    pub const fn new(id: u16) -> Option<RequestId> {
        match NonZeroU16::new(id) {
            Some(id) => Some(RequestId(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first eight bytes of a record (3.3); the eighth is reserved: written as zero, never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Always [`VERSION`] in a record that is any good.
    pub version: u8,
    /// What the record is.
    pub record_type: RecordType,
    /// The request it belongs to, or [`MANAGEMENT_ID`].
    pub request_id: u16,
    /// Bytes of content that follow the header.
    pub content_length: u16,
    /// Bytes of padding that follow the content, to be skipped unread.
    pub padding_length: u8,
}

impl Header {
    /// Reads a header; whether it is a good one is for the reader to say.
    #[inline]
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Header {
        let [version, record_type, id1, id0, length1, length0, padding_length, _reserved] = bytes;
        Header {
            version,
            record_type: RecordType::from(record_type),
            request_id: u16::from_be_bytes([id1, id0]),
            content_length: u16::from_be_bytes([length1, length0]),
            padding_length,
        }
    }

    /// The header as it goes out.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [id1, id0] = self.request_id.to_be_bytes();
        let [length1, length0] = self.content_length.to_be_bytes();
        [self.version, u8::from(self.record_type), id1, id0, length1, length0, self.padding_length, 0]
    }
}

/// The content of BEGIN_REQUEST (5.1): role, flags, five reserved bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginBody {
    /// As sent; it may be none of [`Role`]'s.
    pub role: u16,
    /// Of the flags only [`KEEP_CONN`] means something.
    pub flags: u8,
}

impl BeginBody {
    /// Reads the content of a BEGIN_REQUEST.
    #[inline]
    pub fn from_bytes(bytes: [u8; BODY_BYTES]) -> BeginBody {
        BeginBody { role: u16::from_be_bytes([bytes[0], bytes[1]]), flags: bytes[2] }
    }

    /// The content as it goes out, reserved bytes zero.
    #[inline]
    pub fn to_bytes(self) -> [u8; BODY_BYTES] {
        let [role1, role0] = self.role.to_be_bytes();
        [role1, role0, self.flags, 0, 0, 0, 0, 0]
    }
}

/// The content of END_REQUEST (5.5): app status, then protocol status (the example in 3.3 has them reversed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndBody {
    /// The application's exit code, as CGI programs have one.
    pub app_status: u32,
    /// As sent; it may be none of [`ProtocolStatus`]'s.
    pub protocol_status: u8,
}

impl EndBody {
    /// Reads the content of an END_REQUEST.
    #[inline]
    pub fn from_bytes(bytes: [u8; BODY_BYTES]) -> EndBody {
        let [app3, app2, app1, app0, protocol_status, ..] = bytes;
        EndBody { app_status: u32::from_be_bytes([app3, app2, app1, app0]), protocol_status }
    }

    /// The content as it goes out, reserved bytes zero.
    #[inline]
    pub fn to_bytes(self) -> [u8; BODY_BYTES] {
        let [app3, app2, app1, app0] = self.app_status.to_be_bytes();
        [app3, app2, app1, app0, self.protocol_status, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn every_record_type_survives_the_wire() {
        for number in 0..=u8::MAX {
            assert_eq!(u8::from(RecordType::from(number)), number);
        }
        assert_eq!(RecordType::ALL.len(), 11);
        assert!(RecordType::ALL.iter().zip(1u8..).all(|(known, number)| u8::from(*known) == number));
    }

    #[test]
    fn roles_and_statuses_are_the_specifications_and_no_others() {
        let roles: alloc::vec::Vec<u16> = (0..=u16::MAX).filter(|n| Role::try_from(*n).is_ok()).collect();
        assert_eq!(roles, [1, 2, 3]);
        let statuses: alloc::vec::Vec<u8> =
            (0..=u8::MAX).filter(|n| ProtocolStatus::try_from(*n).is_ok()).collect();
        assert_eq!(statuses, [0, 1, 2, 3]);
        assert_eq!(Role::try_from(4), Err(4));
    }

    #[test]
    fn unknown_types_stay_printable() {
        assert_eq!(RecordType::from(77).to_string(), "UNKNOWN(77)");
        assert_eq!(RecordType::from(9).to_string(), "GET_VALUES");
    }

    #[test]
    fn zero_is_no_request_id() {
        assert_eq!(RequestId::new(0), None);
        assert_eq!(RequestId::new(65_535).map(RequestId::get), Some(65_535));
    }

    #[test]
    fn header_layout() {
        let header = Header {
            version: 1,
            record_type: RecordType::Stdout,
            request_id: 0x0203,
            content_length: 0x0405,
            padding_length: 6,
        };
        assert_eq!(header.to_bytes(), [1, 6, 2, 3, 4, 5, 6, 0]);
        assert_eq!(Header::from_bytes([1, 6, 2, 3, 4, 5, 6, 99]), header);
    }

    #[test]
    fn body_layouts() {
        let begin = BeginBody { role: 0x0102, flags: KEEP_CONN };
        assert_eq!(begin.to_bytes(), [1, 2, 1, 0, 0, 0, 0, 0]);
        assert_eq!(BeginBody::from_bytes([1, 2, 1, 9, 9, 9, 9, 9]), begin);
        let end = EndBody { app_status: 0x0102_0304, protocol_status: 3 };
        assert_eq!(end.to_bytes(), [1, 2, 3, 4, 3, 0, 0, 0]);
        assert_eq!(EndBody::from_bytes([1, 2, 3, 4, 3, 9, 9, 9]), end);
    }
}
