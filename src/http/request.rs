//! From params to an `http::Request`.

use http::{Method, Version};

use crate::handler::{Failure, Params, Request};
use crate::proto::WellKnown;

use super::Extend;
use super::body::Body;
use super::context::{Ending, FastCgi};
use super::headers;
use super::recent::{Recent, Views};
use super::uri::{self, Bad};

/// Makes of an empty request the one that a service is given, in place, for it is some hundred bytes. A failure has the
/// status to answer with.
pub(super) fn fill(
    made: &mut http::Request<Body>,
    request: &Request,
    recent: &mut Recent,
    extend: &[Extend],
) -> Result<Ending, Failure> {
    let fastcgi = FastCgi::of(request);
    let params = fastcgi.params();
    let views = Views::new(params);
    *made.method_mut() = method(params)?;
    *made.version_mut() = version(params);
    let path_info = || request.path_info();
    *made.uri_mut() = uri::below(params, fastcgi.script_name(), path_info, &views, recent)
        .map_err(|bad| refuse_uri(bad, params))?;
    let (headers, has_encoding) = headers::of(params, &views, recent)?;
    *made.headers_mut() = headers;
    *made.body_mut() = match content_length(params)? {
        Length::Known(0) => Body::empty(),
        Length::Known(length) => Body::of_stdin(fastcgi.clone(), Some(length)),
        // RFC 9112 6.3: without a length and an encoding there is no body. Only of GET and HEAD can that be
        // believed behind any web server.
        Length::Unsaid if !has_encoding && matches!(*made.method(), Method::GET | Method::HEAD) => {
            Body::empty()
        }
        Length::Unsaid | Length::Unknown => Body::of_stdin(fastcgi.clone(), None),
    };
    made.extensions_mut().insert(fastcgi.clone());
    extend.iter().for_each(|extend| extend(&fastcgi, made.extensions_mut()));
    Ok(Ending::of(fastcgi, request.stdin()))
}

fn method(params: &Params) -> Result<Method, Failure> {
    match params.well_known(WellKnown::RequestMethod) {
        None | Some(b"GET") => Ok(Method::GET),
        Some(method) => Method::from_bytes(method).map_err(|_| refuse("REQUEST_METHOD", method)),
    }
}

fn version(params: &Params) -> Version {
    match params.well_known(WellKnown::ServerProtocol).unwrap_or_default() {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/2.0" | b"HTTP/2" => Version::HTTP_2,
        b"HTTP/3.0" | b"HTTP/3" => Version::HTTP_3,
        b"HTTP/0.9" => Version::HTTP_09,
        _ => Version::HTTP_11,
    }
}

/// What CONTENT_LENGTH says.
enum Length {
    /// Nothing.
    Unsaid,
    /// A negative number: Caddy's -1, where a body of unknown length follows.
    Unknown,
    Known(u64),
}

fn content_length(params: &Params) -> Result<Length, Failure> {
    match params.well_known(WellKnown::ContentLength) {
        None | Some(b"") => Ok(Length::Unsaid),
        Some([b'-', ..]) => Ok(Length::Unknown),
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            length.map(Length::Known).ok_or_else(|| refuse("CONTENT_LENGTH", digits))
        }
        Some(other) => Err(refuse("CONTENT_LENGTH", other)),
    }
}

#[cold]
pub(super) fn refuse(what: &str, value: &[u8]) -> Failure {
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
