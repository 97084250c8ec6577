//! From params to an `http::Request`.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use crate::handler::{Failure, Params, Request};
use crate::proto::WellKnown;
use crate::proto::params::take_pair;

use super::Extend;
use super::body::Body;
use super::context::{Ending, FastCgi};
use super::names;
use super::uri::{self, Bad};

/// Params that are no headers: nginx sends 20, others up to 30.
const NO_HEADERS_MIN: usize = 16;

/// Room for headers that is made at once. More come as they come.
const HEADERS_MAX: usize = 96;

/// Makes the request that a service is given. A failure has the status to answer with.
pub(super) fn build(request: &Request, extend: &[Extend]) -> Result<(http::Request<Body>, Ending), Failure> {
    let fastcgi = FastCgi::of(request);
    // From here on all are views of the same bytes, which the request keeps.
    let params = fastcgi.params();
    let bytes = params.clone().into_bytes().into_bytes();
    let method = method(params)?;
    let version = version(params);
    let path_info = || request.path_info();
    let uri = uri::below(params, fastcgi.script_name(), path_info, &bytes)
        .map_err(|bad| refuse_uri(bad, params))?;
    let (headers, has_encoding) = headers(params, &bytes)?;
    let body = match content_length(params)? {
        Some(0) => Body::empty(),
        Some(length) => Body::of_stdin(fastcgi.clone(), Some(length)),
        // RFC 9112 6.3: without a length and an encoding there is no body. Only of GET and HEAD can that be
        // believed behind any web server.
        None if !has_encoding && matches!(method, Method::GET | Method::HEAD) && !says_unknown(params) => {
            Body::empty()
        }
        None => Body::of_stdin(fastcgi.clone(), None),
    };
    let mut built = http::Request::new(body);
    *built.method_mut() = method;
    *built.uri_mut() = uri;
    *built.version_mut() = version;
    *built.headers_mut() = headers;
    built.extensions_mut().insert(fastcgi.clone());
    extend.iter().for_each(|extend| extend(&fastcgi, built.extensions_mut()));
    Ok((built, Ending::of(fastcgi, request.stdin())))
}

fn method(params: &Params) -> Result<Method, Failure> {
    match params.well_known(WellKnown::RequestMethod) {
        None => Ok(Method::GET),
        Some(method) => Method::from_bytes(method).map_err(|_| refuse("REQUEST_METHOD", method)),
    }
}

fn version(params: &Params) -> Version {
    match params.well_known(WellKnown::ServerProtocol).unwrap_or_default() {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/2.0" | b"HTTP/2" => Version::HTTP_2,
        b"HTTP/3.0" | b"HTTP/3" => Version::HTTP_3,
        b"HTTP/0.9" => Version::HTTP_09,
        _ => Version::HTTP_11,
    }
}

/// The headers, and whether there was a transfer encoding among them.
fn headers(params: &Params, bytes: &Bytes) -> Result<(HeaderMap, bool), Failure> {
    let mut headers = HeaderMap::with_capacity(params.len().saturating_sub(NO_HEADERS_MIN).min(HEADERS_MAX));
    let mut has_encoding = false;
    let mut rest = params.as_bytes();
    while let Some((name, value)) = next_pair(&mut rest) {
        let Some(upper) = name.strip_prefix(b"HTTP_") else { continue };
        match upper {
            // The first could be taken for a setting (CVE-2016-5385), the others come without the prefix.
            b"PROXY" | b"CONTENT_TYPE" | b"CONTENT_LENGTH" => {}
            // What arrives here has no encoding any more.
            b"TRANSFER_ENCODING" => has_encoding = true,
            _ => {
                let header = names::of(upper).map_err(|_| refuse("the name of a header", name))?;
                insert(&mut headers, header, name, value, bytes)?;
            }
        }
    }
    for (known, header) in
        [(WellKnown::ContentType, header::CONTENT_TYPE), (WellKnown::ContentLength, header::CONTENT_LENGTH)]
    {
        match params.well_known(known) {
            // Empty and negative lengths are unknown ones.
            None | Some(b"" | [b'-', ..]) => {}
            Some(value) => insert(&mut headers, header, known.name().as_bytes(), value, bytes)?,
        }
    }
    Ok((headers, has_encoding))
}

/// As `take_pair`, with one look at both lengths, which nearly always are short. The pairs have been checked.
#[inline]
fn next_pair<'p>(rest: &mut &'p [u8]) -> Option<(&'p [u8], &'p [u8])> {
    if let Some((&[name_length, value_length], after)) = rest.split_first_chunk()
        && name_length | value_length < 0x80
    {
        let (pair, after) = after.split_at_checked(usize::from(name_length) + usize::from(value_length))?;
        *rest = after;
        return Some(pair.split_at(usize::from(name_length)));
    }
    take_pair(rest)
}

fn insert(
    headers: &mut HeaderMap,
    header: HeaderName,
    name: &[u8],
    value: &[u8],
    bytes: &Bytes,
) -> Result<(), Failure> {
    let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value))
        .map_err(|_| refuse(&String::from_utf8_lossy(name), value))?;
    match headers.try_insert(header, value) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::with_status(431, "there are too many headers")),
    }
}

/// CONTENT_LENGTH, where it is a number. Empty and negative ones are unknown.
fn content_length(params: &Params) -> Result<Option<u64>, Failure> {
    match params.well_known(WellKnown::ContentLength) {
        None | Some(b"" | [b'-', ..]) => Ok(None),
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            length.map(Some).ok_or_else(|| refuse("CONTENT_LENGTH", digits))
        }
        Some(other) => Err(refuse("CONTENT_LENGTH", other)),
    }
}

/// Caddy says -1 where a body of unknown length follows.
fn says_unknown(params: &Params) -> bool {
    params.well_known(WellKnown::ContentLength).is_some_and(|length| !length.is_empty())
}

#[cold]
fn refuse(what: &str, value: &[u8]) -> Failure {
    let shown = value[..value.len().min(80)].escape_ascii();
    Failure::with_status(400, format_args!("{what} is not what HTTP allows: \"{shown}\""))
}

#[cold]
fn refuse_uri(bad: Bad, params: &Params) -> Failure {
    let of = |name| params.well_known(name).unwrap_or_default();
    match bad {
        Bad::Host => refuse("HTTP_HOST", of(WellKnown::HttpHost)),
        Bad::Target if of(WellKnown::RequestUri).is_empty() => {
            refuse("QUERY_STRING", of(WellKnown::QueryString))
        }
        Bad::Target => refuse("REQUEST_URI", of(WellKnown::RequestUri)),
    }
}
