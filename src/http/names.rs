//! From `HTTP_ACCEPT` to `accept`: the header names that requests really have, so that they need not be made anew.

use http::header::{self, HeaderName, InvalidHeaderName};

/// Longer names, which nobody sends, are made in memory of their own.
const NAME_BYTES_MAX: usize = 64;

macro_rules! known {
    ($($upper:literal => $name:expr,)+) => {
        /// As they follow `HTTP_`.
        const UPPER: &[&[u8]] = &[$($upper.as_bytes(),)+];
        static NAMES: [HeaderName; UPPER.len()] = [$($name,)+];
    };
}

known! {
    "ACCEPT" => header::ACCEPT,
    "ACCEPT_CHARSET" => header::ACCEPT_CHARSET,
    "ACCEPT_ENCODING" => header::ACCEPT_ENCODING,
    "ACCEPT_LANGUAGE" => header::ACCEPT_LANGUAGE,
    "ACCESS_CONTROL_REQUEST_HEADERS" => header::ACCESS_CONTROL_REQUEST_HEADERS,
    "ACCESS_CONTROL_REQUEST_METHOD" => header::ACCESS_CONTROL_REQUEST_METHOD,
    "AUTHORIZATION" => header::AUTHORIZATION,
    "CACHE_CONTROL" => header::CACHE_CONTROL,
    "CONNECTION" => header::CONNECTION,
    "CONTENT_ENCODING" => header::CONTENT_ENCODING,
    "CONTENT_LANGUAGE" => header::CONTENT_LANGUAGE,
    "COOKIE" => header::COOKIE,
    "DATE" => header::DATE,
    "DNT" => header::DNT,
    "EXPECT" => header::EXPECT,
    "FORWARDED" => header::FORWARDED,
    "FROM" => header::FROM,
    "HOST" => header::HOST,
    "IF_MATCH" => header::IF_MATCH,
    "IF_MODIFIED_SINCE" => header::IF_MODIFIED_SINCE,
    "IF_NONE_MATCH" => header::IF_NONE_MATCH,
    "IF_RANGE" => header::IF_RANGE,
    "IF_UNMODIFIED_SINCE" => header::IF_UNMODIFIED_SINCE,
    "KEEP_ALIVE" => HeaderName::from_static("keep-alive"),
    "LAST_EVENT_ID" => HeaderName::from_static("last-event-id"),
    "ORIGIN" => header::ORIGIN,
    "PRAGMA" => header::PRAGMA,
    "PRIORITY" => HeaderName::from_static("priority"),
    "RANGE" => header::RANGE,
    "REFERER" => header::REFERER,
    "SAVE_DATA" => HeaderName::from_static("save-data"),
    "SEC_CH_UA" => HeaderName::from_static("sec-ch-ua"),
    "SEC_CH_UA_MOBILE" => HeaderName::from_static("sec-ch-ua-mobile"),
    "SEC_CH_UA_PLATFORM" => HeaderName::from_static("sec-ch-ua-platform"),
    "SEC_FETCH_DEST" => HeaderName::from_static("sec-fetch-dest"),
    "SEC_FETCH_MODE" => HeaderName::from_static("sec-fetch-mode"),
    "SEC_FETCH_SITE" => HeaderName::from_static("sec-fetch-site"),
    "SEC_FETCH_USER" => HeaderName::from_static("sec-fetch-user"),
    "SEC_GPC" => HeaderName::from_static("sec-gpc"),
    "TE" => header::TE,
    "TRACEPARENT" => HeaderName::from_static("traceparent"),
    "TRACESTATE" => HeaderName::from_static("tracestate"),
    "UPGRADE" => header::UPGRADE,
    "UPGRADE_INSECURE_REQUESTS" => header::UPGRADE_INSECURE_REQUESTS,
    "USER_AGENT" => header::USER_AGENT,
    "VIA" => header::VIA,
    "X_FORWARDED_FOR" => HeaderName::from_static("x-forwarded-for"),
    "X_FORWARDED_HOST" => HeaderName::from_static("x-forwarded-host"),
    "X_FORWARDED_PORT" => HeaderName::from_static("x-forwarded-port"),
    "X_FORWARDED_PROTO" => HeaderName::from_static("x-forwarded-proto"),
    "X_REAL_IP" => HeaderName::from_static("x-real-ip"),
    "X_REQUESTED_WITH" => HeaderName::from_static("x-requested-with"),
    "X_REQUEST_ID" => HeaderName::from_static("x-request-id"),
}

/// Rows of the hash table; a power of two, sparse enough that a search ends soon.
const ROWS: usize = 256;
const NOBODY: u8 = u8::MAX;

/// For each hash the place in [`UPPER`], or in a row after it.
const PLACES: [u8; ROWS] = {
    let mut places = [NOBODY; ROWS];
    let mut at = 0;
    while at < UPPER.len() {
        let mut row = hash(UPPER[at]);
        while places[row] != NOBODY {
            row = (row + 1) % ROWS;
        }
        places[row] = at as u8;
        at += 1;
    }
    places
};

/// Of the length and three bytes. Names are not empty.
#[inline]
const fn hash(name: &[u8]) -> usize {
    let length = name.len();
    let (first, middle, last) = (name[0] as usize, name[length / 2] as usize, name[length - 1] as usize);
    (length + 5 * first + 23 * middle + 47 * last) % ROWS
}

/// The header that a variable `HTTP_` + `upper` stands for.
#[inline]
pub(super) fn of(upper: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    if upper.is_empty() {
        return HeaderName::from_bytes(upper);
    }
    let mut row = hash(upper);
    while PLACES[row] != NOBODY {
        let place = usize::from(PLACES[row]);
        if UPPER[place] == upper {
            return Ok(NAMES[place].clone());
        }
        row = (row + 1) % ROWS;
    }
    make(upper)
}

fn make(upper: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let lower = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    if upper.len() > NAME_BYTES_MAX {
        return HeaderName::from_bytes(&upper.iter().copied().map(lower).collect::<Vec<u8>>());
    }
    let mut name = [0; NAME_BYTES_MAX];
    for (to, from) in name.iter_mut().zip(upper) {
        *to = lower(*from);
    }
    HeaderName::from_lowercase(&name[..upper.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_the_table_is_the_one_it_would_be_without() {
        for (upper, name) in UPPER.iter().zip(&NAMES) {
            assert_eq!(of(upper).unwrap(), *name);
            assert_eq!(make(upper).unwrap(), *name);
        }
    }

    #[test]
    fn unknown_names_are_made_and_bad_ones_refused() {
        assert_eq!(of(b"X_FOO").unwrap(), "x-foo");
        assert_eq!(of(b"1").unwrap(), "1");
        assert_eq!(of("X".repeat(100).as_bytes()).unwrap(), *"x".repeat(100));
        for bad in ["", "A B", "A:", "\u{c4}", "A\n", &("X".repeat(100) + " ")] {
            assert!(of(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    /// A search that has to look at many rows would be slower than making the name.
    #[test]
    fn the_table_is_sparse() {
        for upper in UPPER {
            let mut steps = 0;
            while PLACES[(hash(upper) + steps) % ROWS] != NOBODY {
                steps += 1;
            }
            assert!(steps <= 5, "{steps} rows in a line at {}", upper.escape_ascii());
        }
    }
}
