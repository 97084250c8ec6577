//! The URI of a request: what the visitor asked for, and what of it lies below a mount.

use std::borrow::Cow;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::handler::Params;
use crate::proto::WellKnown;

use super::recent::{Recent, Views};

/// What a path needs no escape for (RFC 3986 §3.3): `pchar` and `/`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/');

/// What of a request cannot be part of a URI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bad {
    /// `REQUEST_URI`, or `QUERY_STRING` where that takes its place.
    Target,
    /// `HTTP_HOST`.
    Host,
}

/// The URI as the visitor asked for it.
pub(super) fn original(params: &Params) -> Result<Uri, Bad> {
    let (front, back) = sent(params);
    let path = || Cow::Owned([front, back].concat());
    below(params, b"", path, &Views::new(params), &mut Recent::default())
}

/// The URI below the script name. `path_info` gives the rest of the path, decoded as the script name is; what is not
/// known from a recent request is one of the `views` of the params where it can be.
pub(super) fn below<'p>(
    params: &Params,
    script_name: &[u8],
    path_info: impl FnOnce() -> Cow<'p, [u8]>,
    views: &Views<'_>,
    recent: &mut Recent,
) -> Result<Uri, Bad> {
    let path_and_query = match target(params, script_name, views, recent) {
        Target::Asked(asked) => asked,
        Target::Rewritten => rebuilt(params, &path_info()),
    };
    let path_and_query = path_and_query.ok_or(Bad::Target)?;
    let host = match params.well_known(WellKnown::HttpHost) {
        Some(host) if !host.is_empty() && path_and_query.path() != "*" => host,
        _ => return Ok(Uri::from(path_and_query)),
    };
    let authority =
        recent.authority.parse(host, views, Authority::as_str, |bytes| match memchr::memchr(b'@', host) {
            None => Authority::from_maybe_shared(bytes).map_err(|_| Bad::Host),
            // A Host names no user (RFC 9110 §7.2).
            Some(_) => Err(Bad::Host),
        })?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority);
    parts.scheme = Some(scheme(params));
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).map_err(|_| Bad::Target)
}

fn scheme(params: &Params) -> Scheme {
    let is_https = match params.well_known(WellKnown::Https) {
        None | Some(b"") => params.well_known(WellKnown::RequestScheme) == Some(b"https"),
        Some(value) => !value.eq_ignore_ascii_case(b"off"),
    };
    if is_https { Scheme::HTTPS } else { Scheme::HTTP }
}

/// Where path and query come from.
enum Target {
    /// REQUEST_URI; `None` where it cannot be.
    Asked(Option<PathAndQuery>),
    /// The web server's own path.
    Rewritten,
}

fn target(params: &Params, script_name: &[u8], views: &Views<'_>, recent: &mut Recent) -> Target {
    let asked = origin_form(params.well_known(WellKnown::RequestUri).unwrap_or_default());
    let mut end = memchr::memchr2(b'?', b'%', asked).unwrap_or(asked.len());
    let has_escape = asked.get(end) == Some(&b'%');
    if has_escape {
        end = memchr::memchr(b'?', asked).unwrap_or(asked.len());
    }
    let path = &asked[..end];
    match path {
        b"" => return Target::Rewritten,
        b"*" | [b'/', ..] => {}
        _ => return Target::Asked(None),
    }
    // A script name that the path does not have is that of what the web server made of it.
    let Some(rest) = rest_below(path, script_name) else { return Target::Rewritten };
    let known = match rest {
        b"" => PathAndQuery::try_from([b"/", &asked[path.len()..]].concat()).ok(),
        rest => {
            let bytes = &asked[path.len() - rest.len()..];
            recent.target.parse(bytes, views, PathAndQuery::as_str, PathAndQuery::from_maybe_shared).ok()
        }
    };
    // Cherokee sends REQUEST_URI decoded: then it is the same as the decoded path, which an encoded one with an escape
    // in it is not.
    if known.is_none() || has_escape && memchr::memchr(b'%', rest).is_some() {
        let (front, back) = sent(params);
        if path.strip_prefix(front) == Some(back) {
            return Target::Rewritten;
        }
    }
    Target::Asked(known)
}

/// `SCRIPT_NAME` and `PATH_INFO` as they came: together the decoded path.
fn sent(params: &Params) -> (&[u8], &[u8]) {
    let of = |name| params.well_known(name).unwrap_or_default();
    (of(WellKnown::ScriptName), of(WellKnown::PathInfo))
}

/// Path and query of what the web server decoded.
fn rebuilt(params: &Params, path_info: &[u8]) -> Option<PathAndQuery> {
    let mut text = percent_encode(path_info, ESCAPED).to_string().into_bytes();
    if text.first() != Some(&b'/') {
        text.insert(0, b'/');
    }
    let query = params.well_known(WellKnown::QueryString).unwrap_or_default();
    if !query.is_empty() {
        text.push(b'?');
        text.extend_from_slice(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(text)).ok()
}

/// A target without scheme and authority, which a client may send to a web server as to a proxy (RFC 9112 §3.2.2).
fn origin_form(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let after =
        |scheme: &[u8]| target.split_at_checked(scheme.len()).filter(|(s, _)| s.eq_ignore_ascii_case(scheme));
    match after(b"http://").or_else(|| after(b"https://")) {
        Some((_, rest)) => &rest[memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len())..],
        None => target,
    }
}

/// What of an encoded path follows the script name: nothing, or something that begins with a slash.
fn rest_below<'p>(path: &'p [u8], script_name: &[u8]) -> Option<&'p [u8]> {
    if script_name.is_empty() {
        return Some(path);
    }
    let rest = match path.strip_prefix(script_name) {
        Some(rest) => rest,
        None => &path[escaped_length(path, script_name)?..],
    };
    matches!(rest.first(), None | Some(b'/')).then_some(rest)
}

/// How many bytes of an encoded path stand for `front`, which it begins with.
fn escaped_length(path: &[u8], front: &[u8]) -> Option<usize> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut at = 0;
    for wanted in front {
        let (byte, length) = match path.get(at..)? {
            [b'%', high, low, ..] => (digit(*high)? * 16 + digit(*low)?, 3),
            [byte, ..] => (u32::from(*byte), 1),
            [] => return None,
        };
        if byte != u32::from(*wanted) {
            return None;
        }
        at += length;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::recent::params_of;

    fn uri(cut: [&str; 2], pairs: &[(&str, &[u8])]) -> Result<String, Bad> {
        let params = params_of(pairs);
        let path_info = || cut[1].as_bytes().into();
        let (views, mut recent) = (Views::new(&params), Recent::default());
        below(&params, cut[0].as_bytes(), path_info, &views, &mut recent).map(|uri| uri.to_string())
    }

    fn below_app(request_uri: &str, path_info: &str) -> Result<String, Bad> {
        uri(
            ["/app", path_info],
            &[
                ("REQUEST_URI", request_uri.as_bytes()),
                ("SCRIPT_NAME", b"/app"),
                ("PATH_INFO", path_info.as_bytes()),
                ("QUERY_STRING", b"q=%20"),
            ],
        )
    }

    #[test]
    fn the_mount_is_taken_off_in_any_spelling() {
        for (asked, expected) in [
            ("/app/x%2fy?q=%20", "/x%2fy?q=%20"),
            ("/app", "/"),
            ("/app?q=%20", "/?q=%20"),
            ("/app/?", "/?"),
            ("/%61pp/x%20y", "/x%20y"),
            ("http://example.org/app/x", "/x"),
            ("HTTPS://example.org/app", "/"),
        ] {
            assert_eq!(below_app(asked, "/x/y").as_deref(), Ok(expected), "{asked}");
        }
    }

    #[test]
    fn what_the_web_server_rewrote_counts_as_it_did() {
        for (asked, path_info, expected) in [
            ("/pretty", "/x y", "/x%20y?q=%20"),
            ("/apple", "", "/?q=%20"),
            ("/a/../app/x", "/x", "/x?q=%20"),
            ("/app%2Fx", "/x", "/x?q=%20"),
            ("/%6", "/x", "/x?q=%20"),
            ("", "/\u{e9}%", "/%C3%A9%25?q=%20"),
            ("", "", "/?q=%20"),
            // Decoded, as Cherokee sends it.
            ("/app/x y", "/x y", "/x%20y?q=%20"),
            ("/app/100%25", "/100%25", "/100%2525?q=%20"),
        ] {
            assert_eq!(below_app(asked, path_info).as_deref(), Ok(expected), "{asked}");
        }
        // At the root the visitor's own spelling counts.
        assert_eq!(uri(["", "/index"], &[("REQUEST_URI", b"/pretty")]).as_deref(), Ok("/pretty"));
    }

    #[test]
    fn scheme_and_authority_are_those_of_the_visitor() {
        let of = |more: &[(&str, &[u8])]| {
            let mut pairs: Vec<(&str, &[u8])> = vec![("REQUEST_URI", b"/x?")];
            pairs.extend_from_slice(more);
            uri(["", "/"], &pairs)
        };
        let host: (&str, &[u8]) = ("HTTP_HOST", b"example.org:8080");
        assert_eq!(of(&[host]).as_deref(), Ok("http://example.org:8080/x?"));
        assert_eq!(of(&[host, ("HTTPS", b"on")]).as_deref(), Ok("https://example.org:8080/x?"));
        assert_eq!(of(&[host, ("HTTPS", b"off")]).as_deref(), Ok("http://example.org:8080/x?"));
        let scheme: (&str, &[u8]) = ("REQUEST_SCHEME", b"https");
        assert_eq!(of(&[host, ("HTTPS", b""), scheme]).as_deref(), Ok("https://example.org:8080/x?"));
        assert_eq!(of(&[scheme]).as_deref(), Ok("/x?"));
        assert_eq!(of(&[("HTTP_HOST", b"[::1]")]).as_deref(), Ok("http://[::1]/x?"));
        assert_eq!(uri(["", ""], &[host, ("REQUEST_URI", b"*")]).as_deref(), Ok("*"));
        assert_eq!(uri(["", ""], &[host]).as_deref(), Ok("http://example.org:8080/"));
    }

    #[test]
    fn what_no_uri_may_hold_is_refused() {
        for asked in [&b"/a b"[..], b"/a\n", b"/a\x7f", b"x", b"//\xff", b"/?a b", b"**"] {
            assert_eq!(
                uri(["", "/b"], &[("REQUEST_URI", asked)]),
                Err(Bad::Target),
                "{}",
                asked.escape_ascii()
            );
        }
        assert_eq!(uri(["", "/a"], &[("QUERY_STRING", b"a b")]), Err(Bad::Target));
        for host in [&b"a b"[..], b"a\r\n", b"user@host", b"a/b", b":x:"] {
            assert_eq!(uri(["", "/"], &[("HTTP_HOST", host)]), Err(Bad::Host), "{}", host.escape_ascii());
        }
    }
}
