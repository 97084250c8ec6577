//! What earlier requests of a worker had. Most of it comes again: the host, the headers of a kind of client, often the
//! target. The same bytes parse to the same value, so a kept value is its own key, and a clone of it costs a count.
//!
//! What is kept lies in memory of its own, never in a receive buffer, and is bounded: a host, a target, and
//! [`HEADER_SETS`] sets of headers of at most [`BYTES_MAX`] each.

use std::cell::OnceCell;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};

use crate::handler::Params;

use super::headers::Template;

/// One for each number of params, which tells kinds of clients apart well enough.
pub(super) const HEADER_SETS: usize = 16;

/// Longer ones are not kept.
pub(super) const BYTES_MAX: usize = 4096;

/// What is new is kept once in so many times: that costs a copy, in vain where it never comes again.
const MISSES: u8 = 16;

#[derive(Default)]
pub(super) struct Recent {
    pub(super) authority: Kept<Authority>,
    pub(super) target: Kept<PathAndQuery>,
    pub(super) headers: [Kept<Template>; HEADER_SETS],
}

/// A value, until another takes its place.
pub(super) struct Kept<T> {
    value: Option<T>,
    misses: u8,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { value: None, misses: 0 }
    }
}

impl<T> Kept<T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Whether what was not found, `bytes` long, should be kept.
    pub(super) fn wants(&mut self, bytes: usize) -> bool {
        self.misses = (self.misses + 1) % MISSES;
        self.misses == 1 && bytes <= BYTES_MAX
    }

    pub(super) fn keep(&mut self, value: T) {
        self.value = Some(value);
    }
}

impl<T: Clone> Kept<T> {
    /// What these bytes are parsed to; `text_of` is the way back.
    #[inline]
    pub(super) fn parse<E>(
        &mut self,
        bytes: &[u8],
        views: &Views<'_>,
        text_of: impl FnOnce(&T) -> &str,
        parse: impl FnOnce(Bytes) -> Result<T, E>,
    ) -> Result<T, E> {
        if let Some(known) = self.get().filter(|known| text_of(known).as_bytes() == bytes) {
            return Ok(known.clone());
        }
        if !self.wants(bytes.len()) {
            return parse(views.of(bytes));
        }
        let value = parse(Bytes::copy_from_slice(bytes))?;
        self.keep(value.clone());
        Ok(value)
    }
}

/// Views of the bytes of a request's params, which can be shared once the first one is asked for.
pub(super) struct Views<'p> {
    params: &'p Params,
    bytes: OnceCell<Bytes>,
}

impl<'p> Views<'p> {
    pub(super) fn new(params: &'p Params) -> Views<'p> {
        Views { params, bytes: OnceCell::new() }
    }

    /// A view of this part of them.
    pub(super) fn of(&self, part: &[u8]) -> Bytes {
        self.bytes.get_or_init(|| self.params.clone().into_bytes().into_bytes()).slice_ref(part)
    }
}

/// Params of these pairs, for tests.
#[cfg(test)]
pub(super) fn params_of(pairs: &[(&str, &[u8])]) -> Params {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        crate::proto::params::encode_pair(&mut bytes, name.as_bytes(), value);
    }
    let mut params = Params::default();
    *params.bytes_mut() = crate::handler::ParamsBytes::Chunk(bytes.into());
    params.read(&crate::proto::Limits::default()).expect("good pairs");
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{headers, uri};
    use proptest::prelude::*;

    /// What a service sees of a request, or why it is refused.
    fn seen(params: &Params, recent: &mut Recent) -> String {
        let (script_name, views) =
            (params.well_known(crate::proto::WellKnown::ScriptName), Views::new(params));
        let uri = uri::below(params, script_name.unwrap_or_default(), || b"/i".into(), &views, recent);
        let mut headers = headers::of(params, &views, recent);
        // Maps are equal in whatever order their headers are.
        let mut lines: Vec<String> = Vec::new();
        if let Ok((headers, _)) = &mut headers {
            lines.extend(headers.drain().map(|(name, value)| format!("{name:?}: {value:?}")));
            lines.sort();
        }
        format!("{uri:?} {lines:?} {headers:?}")
    }

    const NAMES: [&[&str]; 6] = [
        &["REQUEST_URI", "HTTP_HOST", "HTTP_ACCEPT", "SERVER_NAME"],
        &["REQUEST_URI", "HTTP_HOST", "HTTP_ACCEPT", "HTTP_COOKIE"],
        &["REQUEST_URI", "HTTP_HOST", "HTTP_COOKIE", "HTTP_ACCEPT"],
        &[
            "HTTP_HOST",
            "CONTENT_TYPE",
            "HTTP_PROXY",
            "HTTP_X_NEW",
            "CONTENT_LENGTH",
            "HTTP_TRANSFER_ENCODING",
        ],
        &["HTTP_ACCEPT", "SCRIPT_NAME", "HTTP_ACCEPT", "REQUEST_URI"],
        &["HTTP_COOKIE"],
    ];
    const LONG: [u8; 300] = [b'l'; 300];
    const VALUES: [&[u8]; 10] = [b"", b"a", b"b", b"A", b"/s/t?u", b"/s", b"/s/t#f", b"u@h", b"bad\n", &LONG];

    proptest! {
        /// The same as without: whatever came before a request, nothing of it is seen.
        #[test]
        fn recent_requests_change_nothing(
            requests in prop::collection::vec(
                (0..NAMES.len(), prop::array::uniform6(0..VALUES.len())), 1..60,
            ),
        ) {
            let mut recent = Recent::default();
            for (names, values) in requests {
                let pairs: Vec<(&str, &[u8])> =
                    NAMES[names].iter().zip(values).map(|(name, value)| (*name, VALUES[value])).collect();
                let params = params_of(&pairs);
                prop_assert_eq!(seen(&params, &mut recent), seen(&params, &mut Recent::default()), "{:?}", pairs);
            }
        }
    }

    #[test]
    fn what_comes_again_lies_where_it_did_and_not_among_the_params() {
        let mut recent = Recent::default();
        let mut places = || {
            let params = params_of(&[
                ("REQUEST_URI", b"/x"),
                ("HTTP_HOST", b"example.org"),
                ("HTTP_ACCEPT", b"text/html"),
            ]);
            let views = Views::new(&params);
            let uri = uri::below(&params, b"", || b"/x".into(), &views, &mut recent).expect("a URI");
            let (headers, _) = headers::of(&params, &views, &mut recent).expect("headers");
            let host = uri.host().expect("a host");
            let places = [uri.path().as_ptr(), host.as_ptr(), headers["accept"].as_bytes().as_ptr()];
            let among = params.as_bytes().as_ptr_range();
            places.map(|place| (place, among.contains(&place)))
        };
        places();
        let second = places();
        assert_eq!(second, places());
        assert!(second.iter().all(|(_, is_among_params)| !is_among_params));
    }

    #[test]
    fn what_is_long_is_not_kept_and_what_is_new_only_now_and_then() {
        let mut kept: Kept<()> = Kept::default();
        assert!(kept.wants(BYTES_MAX));
        assert!((0..15).all(|_| !kept.wants(1)));
        assert!(!kept.wants(BYTES_MAX + 1));
    }
}
