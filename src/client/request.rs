//! What a request begins with: its role and the parameters that a web server would send.

use percent_encoding::percent_decode_str;

use crate::proto::params::encode_pair;
use crate::proto::{RecordType, RequestId, Role, encoder};

/// The begin of a request. Its streams are sent through the [`Exchange`](super::Exchange).
#[derive(Clone, Debug)]
pub struct Request {
    role: Role,
    keep_conn: bool,
    /// In the order of sending; names are unique.
    params: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Request {
    /// A Responder request on a kept connection with the parameters that a web server makes from a request
    /// for `uri`, a path with an optional query, when the application is mounted at the root.
    ///
    /// A URI in absolute form (`http://host/path`) also gives HTTP_HOST, SERVER_NAME and SERVER_PORT.
    pub fn new(method: &str, uri: &str) -> Request {
        let (secure, authority, target) = split_uri(uri);
        let default_port = if secure { "443" } else { "80" };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                (host, port)
            }
            _ => (authority, default_port),
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let decoded: Vec<u8> = percent_decode_str(path).collect();
        let mut request = Request::bare(Role::Responder)
            .param("GATEWAY_INTERFACE", "CGI/1.1")
            .param("SERVER_SOFTWARE", concat!("ringway/", env!("CARGO_PKG_VERSION")))
            .param("SERVER_PROTOCOL", "HTTP/1.1")
            .param("REQUEST_SCHEME", if secure { "https" } else { "http" })
            .param("REQUEST_METHOD", method)
            .param("REQUEST_URI", target)
            .param("DOCUMENT_URI", &*decoded)
            .param("SCRIPT_NAME", "")
            .param("PATH_INFO", decoded)
            .param("QUERY_STRING", query)
            .param("SERVER_NAME", host)
            .param("SERVER_PORT", port)
            .param("SERVER_ADDR", "127.0.0.1")
            .param("REMOTE_ADDR", "127.0.0.1")
            .param("REMOTE_PORT", "0")
            .param("HTTP_HOST", authority);
        if secure {
            request = request.param("HTTPS", "on");
        }
        request
    }

    /// A request on a kept connection without any parameter.
    pub fn bare(role: Role) -> Request {
        Request { role, keep_conn: true, params: Vec::new() }
    }

    /// Asks the application to be this for the request.
    pub fn role(mut self, role: Role) -> Request {
        self.role = role;
        self
    }

    /// Whether the connection outlives the request. Without, it takes no other.
    pub fn keep_conn(mut self, keep_conn: bool) -> Request {
        self.keep_conn = keep_conn;
        self
    }

    /// Sets a parameter; one of that name is replaced in its place.
    pub fn param(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Request {
        let (name, value) = (name.into(), value.into());
        match self.params.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.params.push((name, value)),
        }
        self
    }

    /// Sets the parameter of an HTTP header: `Accept-Language` is HTTP_ACCEPT_LANGUAGE, while `Content-Type`
    /// and `Content-Length` have no prefix. A header that comes again is joined with a comma. `Proxy` is
    /// dropped: as HTTP_PROXY it would be taken for a setting (CVE-2016-5385).
    pub fn header(self, name: &str, value: &[u8]) -> Request {
        let upper = name.to_ascii_uppercase().replace('-', "_");
        match upper.as_str() {
            "PROXY" => self,
            "CONTENT_TYPE" | "CONTENT_LENGTH" => self.param(upper, value),
            _ => {
                let name = format!("HTTP_{upper}");
                let joined = match self.get(&name) {
                    Some(before) if name != "HTTP_HOST" => [before, b", ", value].concat(),
                    _ => value.to_vec(),
                };
                self.param(name, joined)
            }
        }
    }

    /// Sets CONTENT_LENGTH, the bytes that stdin will have.
    pub fn content_length(self, bytes: u64) -> Request {
        self.param("CONTENT_LENGTH", bytes.to_string())
    }

    /// Moves `prefix` from PATH_INFO to SCRIPT_NAME, as for an application that is mounted there. A path that
    /// is not below `prefix` stays as it is.
    pub fn mount(self, prefix: &str) -> Request {
        let prefix = prefix.trim_end_matches('/');
        let path = self.get("PATH_INFO").unwrap_or_default();
        match path.strip_prefix(prefix.as_bytes()) {
            Some(rest) if rest.is_empty() || rest[0] == b'/' => {
                let rest = rest.to_vec();
                self.param("SCRIPT_NAME", prefix).param("PATH_INFO", rest)
            }
            _ => self,
        }
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.params.iter().find(|(other, _)| other == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Whether the connection is asked to outlive the request.
    pub(super) fn keeps(&self) -> bool {
        self.keep_conn
    }

    /// BEGIN_REQUEST and the whole PARAMS stream.
    pub(super) fn encode(&self, id: RequestId, out: &mut Vec<u8>) {
        encoder::begin_request(out, id, self.role, self.keep_conn);
        let mut pairs = Vec::new();
        for (name, value) in &self.params {
            encode_pair(&mut pairs, name, value);
        }
        encoder::stream(out, RecordType::Params, id, &pairs);
        encoder::stream_end(out, RecordType::Params, id);
    }
}

/// Whether it is https, the authority (`localhost` if there is none) and the path with its query.
fn split_uri(uri: &str) -> (bool, &str, &str) {
    let (secure, rest) = match (uri.strip_prefix("https://"), uri.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return (false, "localhost", uri),
    };
    match rest.find(['/', '?']) {
        Some(at) => (secure, &rest[..at], &rest[at..]),
        None => (secure, rest, "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'r>(request: &'r Request, name: &str) -> &'r str {
        std::str::from_utf8(request.get(name).expect(name)).unwrap()
    }

    #[test]
    fn a_path_becomes_the_parameters_of_a_web_server() {
        let request = Request::new("POST", "/app/a%20b/c?x=1&y=%20").mount("/app/");
        for (name, value) in [
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/app/a%20b/c?x=1&y=%20"),
            ("DOCUMENT_URI", "/app/a b/c"),
            ("SCRIPT_NAME", "/app"),
            ("PATH_INFO", "/a b/c"),
            ("QUERY_STRING", "x=1&y=%20"),
            ("HTTP_HOST", "localhost"),
            ("SERVER_PORT", "80"),
        ] {
            assert_eq!(text(&request, name), value, "{name}");
        }
        assert!(request.get("HTTPS").is_none());
    }

    #[test]
    fn an_absolute_uri_names_the_server() {
        let request = Request::new("GET", "https://[::1]:8443/x");
        assert_eq!(text(&request, "SERVER_NAME"), "[::1]");
        assert_eq!(text(&request, "SERVER_PORT"), "8443");
        assert_eq!((text(&request, "HTTPS"), text(&request, "REQUEST_URI")), ("on", "/x"));
        assert_eq!(text(&Request::new("GET", "https://example.org"), "PATH_INFO"), "/");
        assert_eq!(text(&Request::new("GET", "https://example.org"), "SERVER_PORT"), "443");
    }

    #[test]
    fn mounts_match_whole_segments() {
        let request = Request::new("GET", "/apple").mount("/app");
        assert_eq!((text(&request, "SCRIPT_NAME"), text(&request, "PATH_INFO")), ("", "/apple"));
        let request = Request::new("GET", "/app").mount("/app");
        assert_eq!((text(&request, "SCRIPT_NAME"), text(&request, "PATH_INFO")), ("/app", ""));
    }

    #[test]
    fn headers_become_parameters() {
        let request = Request::new("GET", "/")
            .header("Accept-Language", b"de")
            .header("accept-language", b"en")
            .header("Content-Type", b"text/plain")
            .header("Host", b"example.org")
            .header("Proxy", b"evil:1");
        assert_eq!(text(&request, "HTTP_ACCEPT_LANGUAGE"), "de, en");
        assert_eq!(text(&request, "CONTENT_TYPE"), "text/plain");
        assert_eq!(text(&request, "HTTP_HOST"), "example.org");
        assert!(request.get("HTTP_PROXY").is_none());
    }
}
