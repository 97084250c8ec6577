//! One GET as nginx sends it: BEGIN_REQUEST, PARAMS, the end of PARAMS, the end of STDIN, in one write.
//!
//! Order, names and padding are those of nginx 1.22 with Debian's `fastcgi_params` and a mount at the root,
//! asked by a
//! browser: 27 pairs, 850 bytes of PARAMS, every record padded to a multiple of eight.

use crate::wire::{self, BEGIN_REQUEST, PARAMS, STDIN};

/// The bytes of one request for `/hello` with this id. All ids give the same length.
pub fn hello(id: u16, keep_conn: bool) -> Vec<u8> {
    let mut out = Vec::new();
    wire::record(&mut out, BEGIN_REQUEST, id, &[0, 1, u8::from(keep_conn), 0, 0, 0, 0, 0]);
    wire::record(&mut out, PARAMS, id, &params());
    wire::record(&mut out, PARAMS, id, &[]);
    wire::record(&mut out, STDIN, id, &[]);
    out
}

fn params() -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in PAIRS {
        wire::pair(&mut out, name.as_bytes(), value.as_bytes());
    }
    out
}

/// What nginx says of the request.
pub const PAIRS: [(&str, &str); 27] = [
    ("QUERY_STRING", "a=1&b=%20x"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("SCRIPT_NAME", "/hello"),
    ("REQUEST_URI", "/hello?a=1&b=%20x"),
    ("DOCUMENT_URI", "/hello"),
    ("DOCUMENT_ROOT", "/srv/www/www.example.org/htdocs"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "https"),
    ("HTTPS", "on"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ("REMOTE_ADDR", "203.0.113.97"),
    ("REMOTE_PORT", "39144"),
    ("REMOTE_USER", ""),
    ("SERVER_ADDR", "198.51.100.10"),
    ("SERVER_PORT", "443"),
    ("SERVER_NAME", "www.example.org"),
    ("REDIRECT_STATUS", "200"),
    ("HTTP_HOST", "www.example.org"),
    ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.5"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
    ("HTTP_REFERER", "https://www.example.org/index.html?from=/"),
    ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef; theme=dark; seen=128; lang=en-GB"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Header;

    #[test]
    fn the_request_has_the_size_and_shape_that_is_documented() {
        let request = hello(7, true);
        let mut records = Vec::new();
        let mut at = 0;
        while let Some(header) = Header::read(&request[at..]) {
            records.push((header.record_type, header.id, header.content, header.padding));
            at += header.record_bytes();
        }
        assert_eq!(at, request.len());
        assert_eq!(records, [(1, 7, 8, 0), (4, 7, 850, 6), (4, 7, 0, 0), (5, 7, 0, 0)]);
        assert_eq!(request[10], 1, "FCGI_KEEP_CONN");
        assert_eq!(hello(7, false)[10], 0);
    }
}
