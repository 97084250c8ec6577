//! Name-value pairs (FastCGI 3.4): the params of a request, and the content of GET_VALUES.
//!
//! ```text
//!  short, 0 to 127    long, 0 to 2^31 - 1         Name and value may each have either form,
//! ┌────────┐         ┌────────┬───┬───┬───┐        whatever their length. A pair may
//! │0lllllll│         │1lllllll│ l │ l │ l │        straddle records, but not the stream's end.
//! └────────┘         └────────┴───┴───┴───┘
//!  pair:  name length │ value length │ name │ value
//! ```
//!
//! [`Params`] keeps the bytes as they came, with the places of the names that every request is asked for.

use alloc::vec::Vec;
use core::fmt;

use super::error::{Error, ErrorKind};
use super::limits::Limits;

/// The longest name or value that the long form can say.
const LENGTH_MAX: usize = 0x7fff_ffff;

/// The params of one request: contiguous bytes, checked, with an index of the [`WellKnown`] names.
///
/// `B` is whatever holds the bytes: a `Vec`, a slice, a view of a receive buffer.
#[derive(Clone)]
pub struct Params<B> {
    bytes: B,
    pairs: u32,
    index: Index,
}

/// For each well-known name where the value of its last pair lies.
type Index = [Span; WellKnown::COUNT];

/// A part of the bytes. At 0, where no value can lie: there is none.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

const NO_INDEX: Index = [Span { start: 0, len: 0 }; WellKnown::COUNT];

impl<B: AsRef<[u8]>> Params<B> {
    /// Checks a whole PARAMS stream and builds the index, in one pass over the pairs. Gives the bytes back
    /// with the error when the stream or the number of pairs is longer than the limits, a pair reaches beyond
    /// the end, or a name or value holds a NUL (6.1: no NUL; cutting there would let two parties read two
    /// paths).
    pub fn parse(bytes: B, limits: &Limits) -> Result<Params<B>, (Error, B)> {
        let mut params = Params { bytes, pairs: 0, index: NO_INDEX };
        match params.read(limits) {
            Ok(()) => Ok(params),
            Err(error) => Err((error, params.bytes)),
        }
    }

    /// As [`Params::parse`], of the bytes that [`Params::bytes_mut`] was used to put in place: for memory that is
    /// used again and again.
    pub fn read(&mut self, limits: &Limits) -> Result<(), Error> {
        self.forget();
        match scan(self.bytes.as_ref(), limits, &mut self.index) {
            Ok(pairs) => {
                self.pairs = pairs;
                Ok(())
            }
            Err(kind) => {
                self.index = NO_INDEX;
                Err(Error::new(kind, None))
            }
        }
    }

    /// The bytes, to be changed. There are no pairs until they are [read](Params::read).
    pub fn bytes_mut(&mut self) -> &mut B {
        self.forget();
        &mut self.bytes
    }

    fn forget(&mut self) {
        // Without pairs the index is empty.
        if self.pairs > 0 {
            (self.pairs, self.index) = (0, NO_INDEX);
        }
    }

    /// The value of a name, byte for byte, the last one where a name comes twice.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        match WellKnown::find(name) {
            Some(known) => self.well_known(known),
            None => self.iter().filter(|(other, _)| *other == name).last().map(|(_, value)| value),
        }
    }

    /// The value of a well-known name, without a search.
    #[inline]
    pub fn well_known(&self, name: WellKnown) -> Option<&[u8]> {
        let Span { start, len } = self.index[name as usize];
        if start == 0 {
            return None;
        }
        self.bytes.as_ref().get(start as usize..)?.get(..len as usize)
    }

    /// Every pair in the order it came, duplicates included.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs { rest: self.bytes.as_ref(), left: self.pairs }
    }

    /// How many pairs there are, duplicates included.
    pub fn len(&self) -> usize {
        self.pairs as usize
    }

    /// Whether the stream was empty.
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The stream as it came.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The stream as it came.
    pub fn into_bytes(self) -> B {
        self.bytes
    }
}

/// No pairs.
impl<B: Default> Default for Params<B> {
    fn default() -> Self {
        Params { bytes: B::default(), pairs: 0, index: NO_INDEX }
    }
}

/// The pairs as text; bytes that are none are escaped.
impl<B: AsRef<[u8]>> fmt::Debug for Params<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| alloc::format!("{}", bytes.escape_ascii());
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

impl<'p, B: AsRef<[u8]>> IntoIterator for &'p Params<B> {
    type Item = (&'p [u8], &'p [u8]);
    type IntoIter = Pairs<'p>;

    fn into_iter(self) -> Pairs<'p> {
        self.iter()
    }
}

/// The pairs of a [`Params`], `(name, value)`, in order.
#[derive(Clone, Debug)]
pub struct Pairs<'p> {
    rest: &'p [u8],
    left: u32,
}

impl<'p> Iterator for Pairs<'p> {
    type Item = (&'p [u8], &'p [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = take_pair(&mut self.rest)?;
        self.left -= 1;
        Some(pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

/// Takes the first pair off `rest`; `None`, and `rest` as it was, when it is not all there.
pub fn take_pair<'p>(rest: &mut &'p [u8]) -> Option<(&'p [u8], &'p [u8])> {
    let (name_length, after) = take_length(rest)?;
    let (value_length, after) = take_length(after)?;
    // Two splits, not a sum: two lengths of 2^31 - 1 and their headers do not fit 32 bits (CVE-2025-23016).
    let (name, after) = after.split_at_checked(name_length)?;
    let (value, after) = after.split_at_checked(value_length)?;
    *rest = after;
    Some((name, value))
}

/// Appends a pair, each length in its shortest form.
///
/// # Panics
/// When name or value is longer than 2^31 - 1 bytes, which the format cannot say.
pub fn encode_pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    encode_length(out, name.len());
    encode_length(out, value.len());
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

fn encode_length(out: &mut Vec<u8>, length: usize) {
    assert!(length <= LENGTH_MAX, "a name or value of {length} bytes");
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => out.extend_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes()),
    }
}

#[inline]
fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let (long, rest) = bytes.split_first_chunk()?;
    Some(((u32::from_be_bytes(*long) & 0x7fff_ffff) as usize, rest))
}

/// The one pass over the pairs. NULs are not looked for in each name and value: the zero bytes of the whole
/// stream are counted, many at a time, and must be as many as the lengths account for.
fn scan(bytes: &[u8], limits: &Limits, index: &mut Index) -> Result<u32, ErrorKind> {
    if bytes.len() as u64 > u64::from(limits.params_bytes_max) {
        return Err(ErrorKind::ParamsTooLong(limits.params_bytes_max));
    }
    let (mut pairs, mut zeros_in_lengths, mut rest) = (0, 0, bytes);
    // `rest` lives in registers: each pair's place depends on the lengths of the one before, so a detour over memory
    // would be most of the time that this takes.
    while !rest.is_empty() {
        let (name, value, zeros, after) = match short_pair(rest) {
            Some((name, value, after)) => (name, value, usize::from(value.is_empty()), after),
            None => {
                let truncated = ErrorKind::ParamsTruncated((bytes.len() - rest.len()) as u32);
                let mut after = rest;
                let (name, value, zeros) = long_pair(&mut after).ok_or(truncated)?;
                (name, value, zeros, after)
            }
        };
        zeros_in_lengths += zeros;
        pairs += 1;
        rest = after;
        if let Some(known) = WellKnown::find(name) {
            // All of it fits 32 bits, as `params_bytes_max` does.
            let start = (bytes.len() - rest.len() - value.len()) as u32;
            index[known as usize] = Span { start, len: value.len() as u32 };
        }
    }
    if pairs > limits.params_pairs_max {
        return Err(ErrorKind::ParamsTooMany(limits.params_pairs_max));
    }
    match count_zeros(bytes) == zeros_in_lengths {
        true => Ok(pairs),
        false => Err(ErrorKind::ParamsNul(nul_pair_offset(bytes))),
    }
}

/// A pair with a name and two short lengths, which nearly all are: name, value, what follows.
#[inline(always)]
fn short_pair(stream: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&[name_length, value_length], after) = stream.split_first_chunk()?;
    // Less one, a length of 0 is beyond 0x7f too.
    if name_length.wrapping_sub(1) | name_length | value_length >= 0x80 {
        return None;
    }
    let (name_length, value_length) = (usize::from(name_length), usize::from(value_length));
    let (pair, after) = after.split_at_checked(name_length + value_length)?;
    let (name, value) = pair.split_at(name_length);
    Some((name, value, after))
}

/// Takes any pair off `rest`: name, value, how many zero bytes the lengths have.
#[cold]
fn long_pair<'p>(rest: &mut &'p [u8]) -> Option<(&'p [u8], &'p [u8], usize)> {
    let stream = *rest;
    let (name, value) = take_pair(rest)?;
    let lengths = &stream[..stream.len() - rest.len() - name.len() - value.len()];
    Some((name, value, count_zeros(lengths)))
}

/// How many bytes are zero. A sum of bytes over at most 255 of them is what the compiler turns into comparing
/// and adding a vector at a time (18 ns for 800 bytes, 300 when counted in words; `params/parse` in benches).
fn count_zeros(bytes: &[u8]) -> usize {
    let zeros = |block: &[u8]| block.iter().map(|byte| u8::from(*byte == 0)).sum::<u8>();
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().map(|block| usize::from(zeros(block))).sum::<usize>() + usize::from(zeros(rest))
}

/// The offset of the first pair with a NUL in its name or value, in a stream that has one.
#[cold]
fn nul_pair_offset(bytes: &[u8]) -> u32 {
    let mut rest = bytes;
    loop {
        let offset = (bytes.len() - rest.len()) as u32;
        match take_pair(&mut rest) {
            Some((name, value))
                if memchr::memchr(0, name).is_none() && memchr::memchr(0, value).is_none() => {}
            Some(_) | None => return offset,
        }
    }
}

macro_rules! well_known {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Names that servers and handlers ask every request for; [`Params`] knows their places.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum WellKnown { $($(#[$doc])* $variant,)+ }

        impl WellKnown {
            /// Every one, in order of declaration.
            pub const ALL: &[WellKnown] = &[$(WellKnown::$variant,)+];
            const NAMES: &[&[u8]] = &[$($name.as_bytes(),)+];
        }
    };
}

well_known! {
    /// The HTTP method.
    RequestMethod = "REQUEST_METHOD",
    /// The part of the path that leads to the application, as the web server sees it.
    ScriptName = "SCRIPT_NAME",
    /// The rest of the path; absent behind some web servers.
    PathInfo = "PATH_INFO",
    /// What follows the `?`, escaped as it came.
    QueryString = "QUERY_STRING",
    /// The media type of stdin.
    ContentType = "CONTENT_TYPE",
    /// The length of stdin in decimal, or empty, or absent.
    ContentLength = "CONTENT_LENGTH",
    /// The request target as the client sent it.
    RequestUri = "REQUEST_URI",
    /// nginx: the path after rewriting.
    DocumentUri = "DOCUMENT_URI",
    /// The directory of the web server's files.
    DocumentRoot = "DOCUMENT_ROOT",
    /// The file the web server would run.
    ScriptFilename = "SCRIPT_FILENAME",
    /// As `HTTP/1.1`.
    ServerProtocol = "SERVER_PROTOCOL",
    /// The virtual host's name.
    ServerName = "SERVER_NAME",
    /// The port the client connected to.
    ServerPort = "SERVER_PORT",
    /// The address the client connected to.
    ServerAddr = "SERVER_ADDR",
    /// The client's address.
    RemoteAddr = "REMOTE_ADDR",
    /// The client's port.
    RemotePort = "REMOTE_PORT",
    /// Who the client is, once the web server or an authorizer has found out.
    RemoteUser = "REMOTE_USER",
    /// `on` over TLS; otherwise empty, absent or `off`.
    Https = "HTTPS",
    /// `http` or `https`.
    RequestScheme = "REQUEST_SCHEME",
    /// As `CGI/1.1`.
    GatewayInterface = "GATEWAY_INTERFACE",
    /// The `Host` header.
    HttpHost = "HTTP_HOST",
    /// Filter: the length of the data in decimal (6.4).
    FcgiDataLength = "FCGI_DATA_LENGTH",
    /// Filter: when the file changed last, in seconds since 1970 UTC (6.4).
    FcgiDataLastMod = "FCGI_DATA_LAST_MOD",
    /// PATH_INFO under DOCUMENT_ROOT.
    PathTranslated = "PATH_TRANSLATED",
}

impl WellKnown {
    /// How many there are.
    pub const COUNT: usize = WellKnown::ALL.len();

    /// The name itself.
    pub const fn name(self) -> &'static str {
        match core::str::from_utf8(WellKnown::NAMES[self as usize]) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        }
    }

    /// The well-known name that these bytes are, if any: one look into a table, two comparisons of a word.
    #[inline(always)]
    pub fn find(name: &[u8]) -> Option<WellKnown> {
        let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) else {
            return (name == WellKnown::NAMES[WellKnown::SHORT as usize]).then_some(WellKnown::SHORT);
        };
        let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        let place = &WellKnown::PLACES[WellKnown::hash(last)];
        let is_it = place.last == last
            && place.first == first
            && usize::from(place.length) == name.len()
            // Of most names the two words are all; no name has more than three.
            && (name.len() <= 16 || second_word(name) == place.second);
        is_it.then_some(place.known)
    }

    /// The only name that is shorter than a word.
    const SHORT: WellKnown = WellKnown::Https;

    /// Of the last eight bytes. Perfect on the table above: the compiler checks it in [`WellKnown::PLACES`]. A new row
    /// may ask for another multiplier.
    #[inline(always)]
    const fn hash(last: u64) -> usize {
        (last.wrapping_mul(0x2a3a_f4d4_6b0a_18e9) >> 58) as usize
    }

    /// The names by their hash. No name is empty, so a length of 0 marks a place that nobody has.
    const PLACES: [Place; 64] = {
        const NOBODY: Place =
            Place { first: 0, second: 0, last: 0, length: 0, known: WellKnown::RequestMethod };
        let mut places = [NOBODY; 64];
        let mut row = 0;
        while row < WellKnown::COUNT {
            let (known, name) = (WellKnown::ALL[row], WellKnown::NAMES[row]);
            if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
                assert!(name.len() <= 24, "a name of more than three words");
                let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
                let second = if name.len() > 16 { second_word(name) } else { 0 };
                let place = &mut places[WellKnown::hash(last)];
                assert!(place.length == 0, "two well-known names share a hash");
                *place = Place { first, second, last, length: name.len() as u8, known };
            } else {
                assert!(known as usize == WellKnown::SHORT as usize, "a second name shorter than a word");
            }
            row += 1;
        }
        places
    };
}

/// A row of the hash table: a name's length and its words; the first and the last overlap in most names.
#[derive(Clone, Copy)]
struct Place {
    first: u64,
    second: u64,
    last: u64,
    length: u8,
    known: WellKnown,
}

/// Of a name that is longer than two.
#[inline(always)]
const fn second_word(name: &[u8]) -> u64 {
    match name.split_at(8).1.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, vec};

    fn encoded(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut stream = Vec::new();
        pairs.iter().for_each(|(name, value)| encode_pair(&mut stream, name, value));
        stream
    }

    fn parse(stream: &[u8]) -> Result<Params<&[u8]>, ErrorKind> {
        Params::parse(stream, &Limits::default()).map_err(|(error, bytes)| {
            assert_eq!(bytes, stream);
            error.kind
        })
    }

    #[test]
    fn pairs_come_back_in_order_with_duplicates_and_the_last_wins() {
        let pairs: [(&[u8], &[u8]); 6] = [
            (b"SCRIPT_NAME", b"/first"),
            (b"X", b"1"),
            (b"", b"nameless"),
            (b"SCRIPT_NAME", b"/last"),
            (b"X", b""),
            (b"\xff\xfe", b"\xfd"),
        ];
        let stream = encoded(&pairs);
        let params = parse(&stream).unwrap();
        assert!(params.iter().eq(pairs));
        assert_eq!((params.len(), params.iter().len(), params.is_empty()), (6, 6, false));
        assert_eq!(params.get("SCRIPT_NAME"), Some(&b"/last"[..]));
        assert_eq!(params.well_known(WellKnown::ScriptName), Some(&b"/last"[..]));
        assert_eq!(params.get("X"), Some(&b""[..]));
        assert_eq!(params.get(""), Some(&b"nameless"[..]));
        assert_eq!(params.get(b"\xff\xfe"), Some(&b"\xfd"[..]));
        assert_eq!(params.get("x"), None);
        assert_eq!(params.well_known(WellKnown::Https), None);
        assert_eq!(params.as_bytes(), stream);
        assert_eq!(params.into_bytes(), stream);
    }

    #[test]
    fn no_params_at_all() {
        let params = parse(b"").unwrap();
        assert!(params.is_empty() && params.iter().next().is_none() && params.get("X").is_none());
        assert!(Params::<&[u8]>::default().get("HTTPS").is_none());
    }

    #[test]
    fn lengths_take_their_shortest_form_and_either_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let text = vec![b'a'; length];
            for (name, value) in [(&text[..], &b"v"[..]), (b"n", &text)] {
                let stream = encoded(&[(name, value), (b"HTTPS", b"on")]);
                let head = if length < 128 { 2 } else { 5 };
                assert_eq!(stream.len(), head + length + 1 + 9);
                let params = parse(&stream).unwrap();
                assert!(params.iter().eq([(name, value), (b"HTTPS", b"on")]));
                assert_eq!(params.get("HTTPS"), Some(&b"on"[..]));
            }
        }
        // Long forms of small lengths are legal; their zero bytes are no NULs.
        let stream = b"\x80\0\0\x05\x02HTTPSon\x01\x80\0\0\x00X\x80\0\0\0\x80\0\0\0";
        let params = parse(stream).unwrap();
        assert!(params.iter().eq([(&b"HTTPS"[..], &b"on"[..]), (b"X", b""), (b"", b"")]));
    }

    #[test]
    fn a_pair_must_not_reach_beyond_the_end() {
        let stream = encoded(&[(b"AB", b"cd"), (b"HTTPS", &[b'v'; 200])]);
        for length in 0..=stream.len() {
            let expected = match length {
                0 => Ok(0),
                6 => Ok(1),
                whole if whole == stream.len() => Ok(2),
                1..6 => Err(ErrorKind::ParamsTruncated(0)),
                _ => Err(ErrorKind::ParamsTruncated(6)),
            };
            assert_eq!(parse(&stream[..length]).map(|params| params.len()), expected, "{length} bytes");
        }
    }

    /// CVE-2025-23016: sums of claimed lengths that wrap 32 bits.
    #[test]
    fn claimed_lengths_are_never_summed() {
        let claims = [0x80, 0xff, 0x7fff_fffa, 0x7fff_fffe, 0x7fff_ffff_u32];
        for name in claims {
            for value in claims {
                let lengths = [name | 0x8000_0000, value | 0x8000_0000].map(u32::to_be_bytes).concat();
                let stream = [&lengths, &b"abcdefgh"[..]].concat();
                assert_eq!(parse(&stream).err(), Some(ErrorKind::ParamsTruncated(0)), "{name:x} {value:x}");
            }
        }
        assert_eq!(parse(b"\xff\xff\xff\xff").err(), Some(ErrorKind::ParamsTruncated(0)));
    }

    #[test]
    fn nul_is_refused_wherever_it_is() {
        let clean = encoded(&[(b"", b""), (b"AB", b""), (b"HTTPS", &[b'v'; 400]), (b"CD", b"ef")]);
        assert!(parse(&clean).is_ok());
        for (text, pair) in [(4..6, 2), (11..416, 6), (418..422, 416)] {
            for place in text {
                let mut stream = clean.clone();
                assert!(stream[place].is_ascii_alphabetic());
                stream[place] = 0;
                assert_eq!(parse(&stream).err(), Some(ErrorKind::ParamsNul(pair)), "NUL at {place}");
            }
        }
    }

    #[test]
    fn zeros_are_counted_at_every_length() {
        for length in (0..70).chain([127, 128, 129, 255, 256, 257, 5_000]) {
            for zeros in [0, 1, length / 2, length] {
                let mut bytes = vec![1; length];
                bytes[..zeros.min(length)].fill(0);
                assert_eq!(count_zeros(&bytes), zeros.min(length));
                bytes.reverse();
                assert_eq!(count_zeros(&bytes), zeros.min(length));
            }
        }
    }

    #[test]
    fn bytes_and_pairs_are_limited() {
        let stream = encoded(&[(b"A", b"1"), (b"B", b"2"), (b"C", b"3")]);
        let parse = |params_bytes_max, params_pairs_max| {
            let limits = Limits { params_bytes_max, params_pairs_max, ..Limits::default() };
            Params::parse(&stream[..], &limits).map(|params| params.len()).map_err(|(error, _)| error.kind)
        };
        assert_eq!(parse(12, 3), Ok(3));
        assert_eq!(parse(11, 3), Err(ErrorKind::ParamsTooLong(11)));
        assert_eq!(parse(12, 2), Err(ErrorKind::ParamsTooMany(2)));
        assert_eq!(parse(12, 0), Err(ErrorKind::ParamsTooMany(0)));
    }

    #[test]
    fn well_known_names_are_found_and_no_others() {
        for known in WellKnown::ALL {
            let name = known.name().as_bytes();
            assert_eq!(WellKnown::find(name), Some(*known));
            for place in 0..name.len() {
                let mut other = name.to_vec();
                other[place] ^= 1;
                assert_eq!(WellKnown::find(&other), None, "{}", other.escape_ascii());
                assert_eq!(WellKnown::find(&name[..place]), None);
                let shorter = [&name[..place], &name[place + 1..]].concat();
                assert_eq!(WellKnown::find(&shorter), None);
            }
            assert_eq!(WellKnown::find(&[name, b"X"].concat()), None);
        }
    }

    #[test]
    fn every_well_known_name_is_indexed() {
        let pairs: Vec<(&[u8], &[u8])> =
            WellKnown::ALL.iter().map(|known| (known.name().as_bytes(), known.name().as_bytes())).collect();
        let stream = encoded(&pairs);
        let params = parse(&stream).unwrap();
        for known in WellKnown::ALL {
            assert_eq!(params.well_known(*known), Some(known.name().as_bytes()));
            assert_eq!(params.get(known.name()), Some(known.name().as_bytes()));
        }
    }

    #[test]
    fn debug_is_readable() {
        let stream = encoded(&[(b"A", b"\xff\n")]);
        assert_eq!(format!("{:?}", parse(&stream).unwrap()), r#"{"A": "\\xff\\n"}"#);
    }
}
