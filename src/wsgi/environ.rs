//! The `environ` of a request (PEP 3333, "environ Variables").

use std::collections::HashMap;
use std::ops::Range;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::Params;

use super::Job;

/// Names of variables that are kept as Python strings, for the next request. Visitors can choose names.
const NAMES_MAX: usize = 256;

/// What must be there (PEP 3333), for the web server that leaves it out.
const DEFAULTS: [(&str, &str); 5] = [
    ("REQUEST_METHOD", "GET"),
    ("QUERY_STRING", ""),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
];

/// A copy of a request's parameters that may leave its worker.
#[derive(Debug)]
pub(super) struct Pairs {
    bytes: Vec<u8>,
    pairs: Vec<(Range<u32>, Range<u32>)>,
}

impl Pairs {
    pub(super) fn of(params: &Params) -> Pairs {
        let mut copy = Pairs { bytes: Vec::new(), pairs: Vec::with_capacity(params.len()) };
        for (name, value) in params.iter() {
            let (name, value) = (copy.push(name), copy.push(value));
            copy.pairs.push((name, value));
        }
        copy
    }

    fn push(&mut self, bytes: &[u8]) -> Range<u32> {
        // The limit params_bytes_max is far below 4 GiB.
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len() as u32
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let slice = |range: &Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        self.pairs.iter().map(move |(name, value)| (slice(name), slice(value)))
    }
}

/// Makes the `environ`s of one thread.
#[derive(Debug)]
pub(super) struct Maker {
    /// The `wsgi.` variables, the same for every request.
    base: Py<PyDict>,
    /// Put in last, over those of the request.
    extra: Option<Py<PyDict>>,
    names: HashMap<Box<[u8]>, Py<PyString>>,
}

impl Maker {
    pub(super) fn new(base: Py<PyDict>, extra: Option<Py<PyDict>>) -> Maker {
        Maker { base, extra, names: HashMap::new() }
    }

    /// A fresh dictionary, without the streams.
    pub(super) fn make<'py>(&mut self, py: Python<'py>, job: &Job) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.base.bind(py).copy()?;
        let mut is_secure = None;
        for (name, value) in job.params.iter() {
            match name {
                // httpoxy (CVE-2016-5385): libraries would take it for a setting of this process.
                b"HTTP_PROXY" => continue,
                // PEP 3333: these two have no prefix.
                b"HTTP_CONTENT_TYPE" | b"HTTP_CONTENT_LENGTH" | b"SCRIPT_NAME" | b"PATH_INFO" => continue,
                // Web servers send them empty where the visitor sent none.
                b"CONTENT_TYPE" | b"CONTENT_LENGTH" if value.is_empty() => continue,
                b"HTTPS" => {
                    is_secure = Some([&b"on"[..], b"1"].iter().any(|on| value.eq_ignore_ascii_case(on)));
                }
                b"REQUEST_SCHEME" if is_secure.is_none() && value == b"https" => is_secure = Some(true),
                _ => {}
            }
            // No variable of a request looks like one of the server's.
            if name.starts_with(b"wsgi.") || name.starts_with(b"ringway.") {
                continue;
            }
            environ.set_item(self.name(py, name), native(py, value))?;
        }
        for (name, default) in DEFAULTS {
            if !environ.contains(name)? {
                environ.set_item(name, default)?;
            }
        }
        environ.set_item(intern!(py, "SCRIPT_NAME"), native(py, &job.script_name))?;
        environ.set_item(intern!(py, "PATH_INFO"), native(py, &job.path_info))?;
        let scheme = if is_secure == Some(true) { intern!(py, "https") } else { intern!(py, "http") };
        environ.set_item(intern!(py, "wsgi.url_scheme"), scheme)?;
        if let Some(extra) = &self.extra {
            environ.update(extra.bind(py).as_mapping())?;
        }
        Ok(environ)
    }

    fn name<'py>(&mut self, py: Python<'py>, name: &[u8]) -> Bound<'py, PyString> {
        if let Some(known) = self.names.get(name) {
            return known.bind(py).clone();
        }
        let new = native(py, name);
        if self.names.len() < NAMES_MAX {
            self.names.insert(name.into(), new.clone().unbind());
        }
        new
    }
}

/// A native string: each byte is a character (PEP 3333, "A Note On String Types").
fn native<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().copied().map(char::from).collect::<String>()),
    }
}

/// The bytes that a native string stands for.
pub(super) fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(character).ok()).collect()
}
