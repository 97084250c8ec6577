//! A request as nginx sends it to an application behind a browser: 27 params, about 800 bytes, no body.

use ringway::proto::params::encode_pair;
use ringway::proto::{RecordType, RequestId, Role, encoder};

pub(crate) const PAIRS: [(&str, &str); 27] = [
    ("QUERY_STRING", "page=2&sort=date"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("SCRIPT_NAME", ""),
    ("PATH_INFO", "/articles/list"),
    ("REQUEST_URI", "/articles/list?page=2&sort=date"),
    ("DOCUMENT_URI", "/articles/list"),
    ("DOCUMENT_ROOT", "/srv/www/example"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "https"),
    ("HTTPS", "on"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ("REMOTE_ADDR", "203.0.113.7"),
    ("REMOTE_PORT", "39144"),
    ("REMOTE_USER", ""),
    ("SERVER_ADDR", "198.51.100.20"),
    ("SERVER_PORT", "443"),
    ("SERVER_NAME", "www.example.org"),
    ("HTTP_HOST", "www.example.org"),
    ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("HTTP_ACCEPT", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
    ("HTTP_ACCEPT_LANGUAGE", "en,de;q=0.7,en-US;q=0.3"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
    ("HTTP_CONNECTION", "keep-alive"),
    ("HTTP_COOKIE", "session=6f1d8a0c2b7e4953; theme=dark"),
];

/// The PARAMS stream.
pub(crate) fn params() -> Vec<u8> {
    let mut stream = Vec::new();
    for (name, value) in PAIRS {
        encode_pair(&mut stream, name.as_bytes(), value.as_bytes());
    }
    stream
}

/// The four records of the request; the connection is kept.
pub(crate) fn request(id: RequestId) -> Vec<u8> {
    records(id, &params())
}

/// As [`request`], of this PARAMS stream.
pub(crate) fn records(id: RequestId, params: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    encoder::begin_request(&mut records, id, Role::Responder, true);
    encoder::stream(&mut records, RecordType::Params, id, params);
    encoder::stream_end(&mut records, RecordType::Params, id);
    encoder::stream_end(&mut records, RecordType::Stdin, id);
    records
}
