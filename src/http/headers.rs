//! The headers among the params.

use http::header::{self, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use smallvec::SmallVec;

use crate::handler::{Failure, Params};
use crate::proto::WellKnown;
use crate::proto::params::take_pair;

use super::names;
use super::recent::{HEADER_SETS, Recent, Views};
use super::request::refuse;

/// Params that are no headers: nginx sends 20, others up to 30.
const NO_HEADERS_MIN: usize = 16;

/// Room for headers that is made at once. More come as they come.
const HEADERS_MAX: usize = 96;

/// Headers, and whether there was a transfer encoding among them.
type Found = (HeaderMap, bool);

pub(super) fn of(params: &Params, views: &Views<'_>, recent: &mut Recent) -> Result<Found, Failure> {
    let kept = &mut recent.headers[params.len() % HEADER_SETS];
    let known = kept.get().and_then(|template| template.fill(params, views));
    let (mut headers, has_encoding) = match known {
        Some(filled) => filled?,
        None => {
            if kept.wants(params.as_bytes().len())
                && let Some(template) = Template::of(params)
            {
                kept.keep(template);
            }
            make(params, |value| HeaderValue::from_maybe_shared(views.of(value)))?
        }
    };
    for (known, name) in
        [(WellKnown::ContentType, header::CONTENT_TYPE), (WellKnown::ContentLength, header::CONTENT_LENGTH)]
    {
        match params.well_known(known) {
            // Empty and negative lengths are unknown ones.
            None | Some(b"" | [b'-', ..]) => {}
            Some(bytes) => {
                let value = HeaderValue::from_maybe_shared(views.of(bytes));
                insert(&mut headers, name, value.map_err(|_| refuse(known.name(), bytes))?)?;
            }
        }
    }
    Ok((headers, has_encoding))
}

/// Makes each of them anew.
fn make(
    params: &Params,
    value_of: impl Fn(&[u8]) -> Result<HeaderValue, InvalidHeaderValue>,
) -> Result<Found, Failure> {
    let mut headers = HeaderMap::with_capacity(params.len().saturating_sub(NO_HEADERS_MIN).min(HEADERS_MAX));
    let mut has_encoding = false;
    let mut rest = from_first_header(params.as_bytes());
    while let Some((name, bytes)) = next_pair(&mut rest) {
        match Kind::of(name) {
            Kind::NoHeader => {}
            Kind::Encoding => has_encoding = true,
            Kind::Header(upper) => {
                let header = names::of(upper).map_err(|_| refuse("the name of a header", name))?;
                insert(&mut headers, header, value_of(bytes).map_err(|_| refuse_value(name, bytes))?)?;
            }
        }
    }
    Ok((headers, has_encoding))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), Failure> {
    match headers.try_insert(name, value) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::with_status(431, "there are too many headers")),
    }
}

/// What a param is to headers.
enum Kind<'p> {
    NoHeader,
    /// What arrives here has no encoding any more.
    Encoding,
    /// With what follows `HTTP_`.
    Header(&'p [u8]),
}

impl Kind<'_> {
    #[inline]
    fn of(name: &[u8]) -> Kind<'_> {
        match name.strip_prefix(b"HTTP_") {
            // The first could be taken for a setting (CVE-2016-5385), the others come without the prefix.
            None | Some(b"PROXY" | b"CONTENT_TYPE" | b"CONTENT_LENGTH") => Kind::NoHeader,
            Some(b"TRANSFER_ENCODING") => Kind::Encoding,
            Some(upper) => Kind::Header(upper),
        }
    }
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

/// The pairs from the first on that may be a header: web servers send their own before. Apart from the loops that look
/// closer, this one stays in registers: 22 instructions a pair instead of 30 (`benches/http.rs`).
#[inline(never)]
fn from_first_header(pairs: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some([name_length, value_length, text @ ..]) = pairs.get(at..)
        && name_length | value_length < 0x80
        && !text.starts_with(b"HTTP_")
    {
        at += 2 + usize::from(*name_length) + usize::from(*value_length);
    }
    &pairs[at.min(pairs.len())..]
}

#[cold]
fn refuse_value(name: &[u8], value: &[u8]) -> Failure {
    refuse(&String::from_utf8_lossy(name), value)
}

/// The headers of an earlier request. One that has the same names in the same order is given a clone of the map, with
/// those values replaced that differ: no name is looked up, and only new values are checked.
pub(super) struct Template {
    /// The pairs as they came, one after the other.
    pairs: Box<[u8]>,
    /// A value for each pair, in the same order.
    map: HeaderMap,
}

impl Template {
    /// `None` where there is nothing to keep, a name comes twice, or something is refused.
    fn of(params: &Params) -> Option<Template> {
        let (map, _) = make(params, HeaderValue::from_bytes).ok()?;
        let (mut pairs, mut keys, mut rest) = (Vec::new(), map.keys(), params.as_bytes());
        while let (before, Some((name, _))) = (rest, next_pair(&mut rest)) {
            if let Kind::Header(upper) = Kind::of(name) {
                keys.next().filter(|key| names::of(upper).is_ok_and(|name| name == **key))?;
                pairs.extend_from_slice(&before[..before.len() - rest.len()]);
            }
        }
        (!pairs.is_empty() && keys.next().is_none()).then(|| Template { pairs: pairs.into(), map })
    }

    /// `None`: the names are others.
    fn fill(&self, params: &Params, views: &Views<'_>) -> Option<Result<Found, Failure>> {
        let (mut known, mut rest) = (&*self.pairs, from_first_header(params.as_bytes()));
        let (mut place, mut has_encoding) = (0, false);
        let mut changed = SmallVec::<[(usize, &[u8], &[u8]); 4]>::new();
        while let (before, Some((name, value))) = (rest, next_pair(&mut rest)) {
            if !name.starts_with(b"HTTP_") {
                continue;
            }
            // Clients without cookies send all of them again, and web servers send them last.
            if place == 0 && before == known {
                return Some(Ok((self.map.clone(), has_encoding)));
            }
            if let Some(after) = known.strip_prefix(&before[..before.len() - rest.len()]) {
                known = after;
                place += 1;
                continue;
            }
            match Kind::of(name) {
                Kind::NoHeader => {}
                Kind::Encoding => has_encoding = true,
                Kind::Header(_) => {
                    next_pair(&mut known).filter(|(known, _)| *known == name)?;
                    changed.push((place, name, value));
                    place += 1;
                }
            }
        }
        known.is_empty().then(|| Ok((self.replace(&changed, views)?, has_encoding)))
    }

    fn replace(&self, changed: &[(usize, &[u8], &[u8])], views: &Views<'_>) -> Result<HeaderMap, Failure> {
        let mut headers = self.map.clone();
        let mut values = headers.values_mut().enumerate();
        for (place, name, bytes) in changed {
            let value =
                HeaderValue::from_maybe_shared(views.of(bytes)).map_err(|_| refuse_value(name, bytes))?;
            let (_, known) = values.find(|(at, _)| at == place).expect("a value for each pair");
            *known = value;
        }
        Ok(headers)
    }
}
