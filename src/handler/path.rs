//! Where a request's path is cut: `SCRIPT_NAME` leads to the application, `PATH_INFO` is the application's own
//! (RFC 3875 4.1.13 and 4.1.5).
//!
//! Web servers do not agree on that, so both are made from what came. Nothing is looked at before somebody asks.
//!
//! | what came | from | what it is taken for |
//! | --- | --- | --- |
//! | both, and REQUEST_URI begins with them | nginx, HAProxy, Cherokee below a prefix | as it came |
//! | a SCRIPT_NAME that ends in a `.fcgi` file | Apache's `.htaccess`, lighttpd's rewriting | without the file |
//! | a SCRIPT_NAME that REQUEST_URI does not have | rewriting to another name | that name is left out |
//! | both, cut after the first segment | lighttpd at the root | all of it is PATH_INFO |
//! | no PATH_INFO | mod_proxy_fcgi, HAProxy at the root | from DOCUMENT_URI, REQUEST_URI or SCRIPT_NAME |
//! | a PATH_INFO with the mount in it | h2o | cut at the mount |
//! | a path without the mount, which REQUEST_URI has | prefixes that the web server strips | the mount goes before it |
//!
//! A handler's mount settles the cut. Below `/` it is where the web server has it.
//!
//! All of it is bytes: nothing is folded, and the pieces that are given out are those that came. Only what is taken
//! from REQUEST_URI is unescaped, since the other three are so already.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::proto::{Params, WellKnown};

/// How a server reads paths.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// What handlers see as SCRIPT_NAME, whatever the web server sends.
    pub(crate) script_name: Option<String>,
    /// The bits of the [`Remedy`]s that the log has.
    said: AtomicU8,
}

impl Paths {
    pub(crate) fn new(script_name: Option<String>) -> Paths {
        Paths { script_name, said: AtomicU8::new(0) }
    }

    /// Says once what is made of this server's paths.
    pub(crate) fn note<B: AsRef<[u8]>>(&self, cut: &Cut<'_>, params: &Params<B>) {
        if let Some(remedy) = cut.remedy
            && self.is_first(1 << remedy as u8)
        {
            let (sent, remedy) = (sent(params), remedy.text());
            tracing::info!(
                "the web server sends {sent}: {remedy} (said once; a mount other than / settles it)"
            );
        }
    }

    /// Says once that a path lies below no mount.
    pub(crate) fn note_nowhere<B: AsRef<[u8]>>(&self, params: &Params<B>) {
        if self.is_first(NOWHERE) {
            let sent = sent(params);
            tracing::warn!(
                "the web server sends {sent}: nothing is mounted there (said once); \
                 make --mount and the web server's SCRIPT_NAME or PATH_INFO agree"
            );
        }
    }

    fn is_first(&self, bit: u8) -> bool {
        self.said.load(Ordering::Relaxed) & bit == 0 && self.said.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// The bit of [`Paths::note_nowhere`], beside those of the remedies.
const NOWHERE: u8 = 1 << 7;

/// The params that say where a path is, for the log.
fn sent<B: AsRef<[u8]>>(params: &Params<B>) -> String {
    let show = |name: WellKnown| match params.well_known(name) {
        None => format!("no {}", name.name()),
        Some(value) => format!("{} \"{}\"", name.name(), value.escape_ascii()),
    };
    [WellKnown::ScriptName, WellKnown::PathInfo, WellKnown::RequestUri].map(show).join(", ")
}

/// What was made of params that do not say where the path is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remedy {
    FromScriptName,
    FromDocumentUri,
    FromRequestUri,
    FileName,
    Rewritten,
    LighttpdRoot,
}

impl Remedy {
    fn text(self) -> &'static str {
        match self {
            Remedy::FromScriptName => "PATH_INFO is taken from SCRIPT_NAME",
            Remedy::FromDocumentUri => "PATH_INFO is taken from DOCUMENT_URI",
            Remedy::FromRequestUri => "PATH_INFO is taken from REQUEST_URI",
            Remedy::FileName => "the name of the .fcgi file is left out",
            Remedy::Rewritten => "what REQUEST_URI does not have is left out of SCRIPT_NAME",
            Remedy::LighttpdRoot => {
                "lighttpd at the root cuts one segment late, all is PATH_INFO; below a prefix give --mount"
            }
        }
    }
}

/// A path in two pieces and where it is cut, which need not be between them.
#[derive(Clone, Debug)]
pub(crate) struct Cut<'p> {
    head: &'p [u8],
    tail: Cow<'p, [u8]>,
    /// `0 <= at <= head.len() + tail.len()`
    at: usize,
    remedy: Option<Remedy>,
}

/// In which path a mount was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// The one that was made of the params.
    Made,
    /// SCRIPT_NAME and PATH_INFO as they came.
    Sent,
    /// REQUEST_URI, of which the web server has stripped it.
    Stripped,
}

impl<'p> Cut<'p> {
    /// The path as the web server's params have it.
    pub(crate) fn of<B: AsRef<[u8]>>(params: &'p Params<B>) -> Cut<'p> {
        let script = params.well_known(WellKnown::ScriptName).unwrap_or_default();
        let info = params.well_known(WellKnown::PathInfo).unwrap_or_default();
        let cut = if info.is_empty() {
            Cut::without_info(params, script)
        } else if script.is_empty() {
            Cut::between(b"", info, None)
        } else {
            Cut::with_both(params, script, info)
        };
        cut.on_a_segment()
    }

    fn between(head: &'p [u8], tail: impl Into<Cow<'p, [u8]>>, remedy: Option<Remedy>) -> Cut<'p> {
        Cut { head, tail: tail.into(), at: head.len(), remedy }
    }

    fn with_both<B: AsRef<[u8]>>(params: &Params<B>, script: &'p [u8], info: &'p [u8]) -> Cut<'p> {
        let (folder, file) = split_last(script);
        if is_fcgi(file) {
            return Cut::between(folder, info, Some(Remedy::FileName));
        }
        if folder.is_empty()
            && params.get("SERVER_SOFTWARE").is_some_and(|name| name.starts_with(b"lighttpd"))
        {
            return Cut { at: 0, ..Cut::between(script, info, Some(Remedy::LighttpdRoot)) };
        }
        let uri = params.well_known(WellKnown::RequestUri).and_then(path_of_uri);
        let shows = |front: &[u8]| uri.is_some_and(|uri| is_made_of(uri, &[front, info]));
        if !shows(script) && shows(folder) {
            return Cut::between(folder, info, Some(Remedy::Rewritten));
        }
        if !shows(script) && shows(b"") {
            return Cut::between(b"", info, Some(Remedy::Rewritten));
        }
        Cut::between(script, info, None)
    }

    fn without_info<B: AsRef<[u8]>>(params: &'p Params<B>, script: &'p [u8]) -> Cut<'p> {
        if let Some(end) = end_of_fcgi(script) {
            let (file, rest) = script.split_at(end);
            let (folder, _) = split_last(file);
            let uri = params.well_known(WellKnown::RequestUri).and_then(path_of_uri);
            let tail = match rest {
                b"" if uri.is_some_and(|uri| is_made_of(uri, &[file])) => None,
                b"" => further(params, file).or_else(|| further(params, folder)).map(|(tail, _)| tail),
                rest => Some(rest.into()),
            };
            let tail = tail.unwrap_or_default();
            return Cut::between(folder, tail, Some(Remedy::FileName));
        }
        match further(params, script) {
            Some((tail, remedy)) => Cut::between(script, tail, Some(remedy)),
            None if script.is_empty() => Cut::between(script, b"".as_slice(), None),
            None => Cut::between(b"", script, Some(Remedy::FromScriptName)),
        }
    }

    /// PATH_INFO begins with a slash: where it does not, the cut moves to the slash before.
    fn on_a_segment(mut self) -> Cut<'p> {
        while self.at > 0 && self.byte(self.at).is_some_and(|byte| byte != b'/') {
            self.at -= 1;
        }
        self
    }

    fn byte(&self, index: usize) -> Option<u8> {
        match index.checked_sub(self.head.len()) {
            None => self.head.get(index).copied(),
            Some(index) => self.tail.get(index).copied(),
        }
    }

    /// Whether the path lies below this mount, where that is found, and what the log should know.
    fn find<B: AsRef<[u8]>>(&self, params: &Params<B>, mount: &str) -> Option<Found> {
        let mount = mount.as_bytes();
        if holds(mount, self.head, &self.tail) {
            return Some(Found::Made);
        }
        let script = params.well_known(WellKnown::ScriptName).unwrap_or_default();
        let info = params.well_known(WellKnown::PathInfo).unwrap_or_default();
        if holds(mount, script, info) {
            return Some(Found::Sent);
        }
        let uri = params.well_known(WellKnown::RequestUri).and_then(path_of_uri)?;
        let is_path = matches!(self.byte(0), None | Some(b'/'));
        (is_path && is_made_of(uri, &[mount, self.head, &self.tail])).then_some(Found::Stripped)
    }

    /// Whether the path lies below this mount.
    pub(crate) fn is_below<B: AsRef<[u8]>>(&self, params: &Params<B>, mount: &str) -> bool {
        self.find(params, mount).is_some()
    }

    /// The same path, cut after this mount; as it is below the root and where it does not lie below the mount.
    pub(crate) fn below<B: AsRef<[u8]>>(self, params: &'p Params<B>, mount: &'p str) -> Cut<'p> {
        if mount == "/" || mount.is_empty() {
            return self;
        }
        match self.find(params, mount) {
            None => self,
            Some(Found::Made) => Cut { at: mount.len(), ..self },
            Some(Found::Sent) => {
                let script = params.well_known(WellKnown::ScriptName).unwrap_or_default();
                let info = params.well_known(WellKnown::PathInfo).unwrap_or_default();
                Cut { at: mount.len(), ..Cut::between(script, info, self.remedy) }
            }
            Some(Found::Stripped) => Cut::between(mount.as_bytes(), self.path(), None),
        }
    }

    /// What leads to the application: empty at the root, else without a slash at its end unless one was sent.
    pub(crate) fn script_name(self) -> Cow<'p, [u8]> {
        let at = self.at;
        self.part(0, at)
    }

    /// The application's own part: empty, or with a slash at its front unless none was sent.
    pub(crate) fn path_info(self) -> Cow<'p, [u8]> {
        let (at, end) = (self.at, self.head.len() + self.tail.len());
        self.part(at, end)
    }

    /// The whole path.
    pub(crate) fn path(self) -> Cow<'p, [u8]> {
        let end = self.head.len() + self.tail.len();
        self.part(0, end)
    }

    fn part(self, from: usize, to: usize) -> Cow<'p, [u8]> {
        let length = self.head.len();
        if to <= length {
            return Cow::Borrowed(&self.head[from..to]);
        }
        match (from.checked_sub(length), self.tail) {
            (Some(from), Cow::Borrowed(tail)) => Cow::Borrowed(&tail[from..to - length]),
            (Some(from), Cow::Owned(tail)) => Cow::Owned(tail[from..to - length].to_vec()),
            (None, tail) => Cow::Owned([&self.head[from..], &tail[..to - length]].concat()),
        }
    }
}

/// What DOCUMENT_URI or else REQUEST_URI have after `front`, unescaped.
fn further<'p, B: AsRef<[u8]>>(params: &'p Params<B>, front: &[u8]) -> Option<(Cow<'p, [u8]>, Remedy)> {
    let document_uri = params.well_known(WellKnown::DocumentUri).unwrap_or_default();
    if let Some(rest) = document_uri.strip_prefix(front)
        && rest.starts_with(b"/")
    {
        return Some((rest.into(), Remedy::FromDocumentUri));
    }
    let uri = params.well_known(WellKnown::RequestUri)?;
    // Nearly always it is the same path, and what follows it a query.
    if uri.strip_prefix(front).is_some_and(|rest| matches!(rest.first(), None | Some(b'?'))) {
        return None;
    }
    let uri = path_of_uri(uri)?;
    let rest = after(uri, front).filter(|rest| rest.starts_with(b"/"))?;
    Some((unescape(rest), Remedy::FromRequestUri))
}

/// Whether the path `script_name + path_info` lies under `prefix`: equal, or longer with a `/` after it.
fn holds(prefix: &[u8], script_name: &[u8], path_info: &[u8]) -> bool {
    if prefix == b"/" {
        return true;
    }
    let at = |index: usize| match script_name.get(index) {
        Some(byte) => Some(*byte),
        None => path_info.get(index - script_name.len()).copied(),
    };
    let in_script = prefix.len().min(script_name.len());
    let (head, tail) = prefix.split_at(in_script);
    script_name.starts_with(head)
        && path_info.starts_with(tail)
        && matches!(at(prefix.len()), None | Some(b'/'))
}

/// A path without its last segment, and that segment.
fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b'/', path) {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// `.fcgi` alone is no name.
fn is_fcgi(segment: &[u8]) -> bool {
    segment.strip_suffix(b".fcgi").is_some_and(|name| !name.is_empty())
}

/// Where the first segment that is a `.fcgi` file ends.
fn end_of_fcgi(path: &[u8]) -> Option<usize> {
    // Most paths have no dot at all.
    memchr::memchr(b'.', path)?;
    let ends = memchr::memchr_iter(b'/', path).chain([path.len()]);
    let mut start = 0;
    for end in ends {
        if is_fcgi(&path[start..end]) {
            return Some(end);
        }
        start = end + 1;
    }
    None
}

/// The path of a request target, escaped as it is: without the query, and in absolute form (RFC 9112 3.2.2) without
/// scheme and authority. `*` and the target of CONNECT have none.
fn path_of_uri(uri: &[u8]) -> Option<&[u8]> {
    let target = memchr::memchr(b'?', uri).map_or(uri, |query| &uri[..query]);
    if target.starts_with(b"/") {
        return Some(target);
    }
    let scheme = memchr::memchr(b':', target)?;
    let authority = target[scheme + 1..].strip_prefix(b"//")?;
    Some(memchr::memchr(b'/', authority).map_or(b"/", |slash| &authority[slash..]))
}

/// What `uri` has after `front`, which is unescaped.
fn after<'p>(uri: &'p [u8], front: &[u8]) -> Option<&'p [u8]> {
    // Nearly always neither has an escape: one comparison does.
    if let Some(rest) = uri.strip_prefix(front)
        && memchr::memchr(b'%', front).is_none()
    {
        return Some(rest);
    }
    let mut rest = uri;
    for wanted in front {
        let (byte, further) = take_byte(rest)?;
        if byte != *wanted {
            return None;
        }
        rest = further;
    }
    Some(rest)
}

/// Whether `uri` is these parts one after the other, which are unescaped. Cherokee's `uri` is so too.
fn is_made_of(uri: &[u8], parts: &[&[u8]]) -> bool {
    let escaped = parts.iter().try_fold(uri, |rest, part| after(rest, part));
    let plain = parts.iter().try_fold(uri, |rest, part| rest.strip_prefix(*part));
    escaped.is_some_and(<[u8]>::is_empty) || plain.is_some_and(<[u8]>::is_empty)
}

/// The first byte, unescaped, and what follows it.
fn take_byte(uri: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [b'%', high, low, rest @ ..] = uri
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some(((high * 16 + low) as u8, rest));
    }
    let (byte, rest) = uri.split_first()?;
    Some((*byte, rest))
}

/// Unescapes; what would hold a NUL stays as it is, since no other param can hold one.
fn unescape(uri: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', uri).is_none() {
        return Cow::Borrowed(uri);
    }
    let mut plain = Vec::with_capacity(uri.len());
    let mut rest = uri;
    while let Some((byte, further)) = take_byte(rest) {
        plain.push(byte);
        rest = further;
    }
    if plain.contains(&0) { Cow::Borrowed(uri) } else { Cow::Owned(plain) }
}

#[cfg(test)]
mod tests;
