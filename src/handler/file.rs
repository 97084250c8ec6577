//! A file as an answer: read by the worker's own runtime, or left to the web server.
//!
//! ```text
//!                    ┌─ send_file is set: a header, and the web server sends the file
//!   File ─ respond ──┤
//!                    └─ open ─▶ conditions, range (RFC 9110 §13, §14) ─▶ head ─▶ read ─▶ Stdout
//! ```

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use headers::{
    ETag, HeaderMapExt, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified,
};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_range_header::{SyntacticallyCorrectRange as Asked, parse_range_header};

use crate::config::SendFile;

use super::{Failure, Params, Request, Response, Stdout};

/// What is read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The headers that say whether the file, and how much of it, is wanted.
const CONDITIONS: &[(&str, HeaderName)] = &[
    ("HTTP_IF_MATCH", header::IF_MATCH),
    ("HTTP_IF_NONE_MATCH", header::IF_NONE_MATCH),
    ("HTTP_IF_MODIFIED_SINCE", header::IF_MODIFIED_SINCE),
    ("HTTP_IF_UNMODIFIED_SINCE", header::IF_UNMODIFIED_SINCE),
    ("HTTP_IF_RANGE", header::IF_RANGE),
    ("HTTP_RANGE", header::RANGE),
];

thread_local! {
    /// Whether this worker's runtime is tokio-uring's.
    static HAS_URING: Cell<bool> = const { Cell::new(false) };
}

/// Tells the files that are answered on this thread how they may be read.
pub(crate) fn read_with_uring(yes: bool) {
    HAS_URING.set(yes);
}

/// A file as an answer (feature `http`).
///
/// A handler answers with [`respond`](File::respond). A service puts it into the extensions of its
/// `http::Response`, whose body it takes the place of; with axum that is
/// `Extension(ringway::File::new("/srv/report.pdf"))` as the answer.
///
/// - It is answered with an `ETag`, `Last-Modified`, and 304, 412, 206 (one range) or 416 as RFC 9110 §13 and §14 have
///   them; GET and HEAD only. Several ranges at a time are answered with the whole file, which §14.2 allows.
/// - A file that is not there, or is none, is 404; one that may not be read is 403.
/// - It is read through the worker's io_uring, 64 KiB at a time and no faster than it is sent; with the epoll driver on
///   tokio's blocking threads.
/// - With the setting `send_file` the web server sends it instead (`X-Sendfile`, `X-Accel-Redirect`), and looks after
///   conditions and ranges itself.
///
/// The path is taken as it is: do not make it of what a visitor sent without a check.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    content_type: Option<Cow<'static, str>>,
}

impl File {
    /// The file at this path.
    pub fn new(path: impl Into<PathBuf>) -> File {
        File { path: path.into(), content_type: None }
    }

    /// Its media type. Without one it is told by the path's extension, and `application/octet-stream` where that tells
    /// nothing.
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> File {
        self.content_type = Some(content_type.into());
        self
    }

    /// Answers a request with the file, or with the status that says why not.
    pub async fn respond(self, request: &Request) -> Response {
        if !matches!(request.method(), "GET" | "HEAD") {
            return Response::text("Method Not Allowed\n").status(405).header("Allow", "GET, HEAD");
        }
        let content_type = self.content_type.clone().unwrap_or_else(|| guess(&self.path));
        if let Some(response) = leave_to_web_server(request.send_file(), &self.path) {
            return response.header("Content-Type", content_type.into_owned());
        }
        let wanted = Wanted::of(request.params());
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        let (file, metadata) = match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(opened) => opened,
            Err(error) => return refuse(&self.path, &error),
        };
        answer(Source::of(file), &Kind::of(&metadata), &wanted, content_type)
    }
}

fn guess(path: &Path) -> Cow<'static, str> {
    mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream").into()
}

/// The file, and that it is one. `O_NONBLOCK`: a FIFO must not be waited for.
fn open(path: &Path) -> io::Result<(fs::File, Metadata)> {
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(ErrorKind::IsADirectory.into()) }
}

fn refuse(path: &Path, error: &io::Error) -> Response {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename => Response::text("Not Found\n").status(404),
        ErrorKind::PermissionDenied => {
            tracing::warn!("{}: {error}; answered with 403", path.display());
            Response::text("Forbidden\n").status(403)
        }
        _ => Response::failure(Failure::new(format_args!("{}: {error}", path.display()))),
    }
}

/// The answer by which a web server is told to send the file, where `send_file` says so.
fn leave_to_web_server(how: &SendFile, path: &Path) -> Option<Response> {
    let bytes = path.as_os_str().as_bytes();
    let (name, value) = match how {
        SendFile::Off => return None,
        SendFile::XSendfile => ("X-Sendfile", bytes.to_vec()),
        SendFile::XLighttpdSendFile => ("X-LIGHTTPD-send-file", bytes.to_vec()),
        SendFile::XAccelRedirect { location, directory } => {
            // A file elsewhere nginx would not find: it is sent from here.
            let rest = path.strip_prefix(directory).ok()?;
            let escaped = percent_encoding::percent_encode(
                rest.as_os_str().as_bytes(),
                percent_encoding::NON_ALPHANUMERIC,
            )
            .to_string()
            .replace("%2F", "/");
            ("X-Accel-Redirect", format!("{}/{escaped}", location.trim_end_matches('/')).into_bytes())
        }
    };
    // A length would be that of the empty body, so the body is one without a length.
    Some(Response::new(200).header(name, value).stream(|_| async { Ok::<(), Failure>(()) }))
}

/// What the visitor asks for, besides the file.
struct Wanted(HeaderMap);

impl Wanted {
    fn of(params: &Params) -> Wanted {
        let value = |param: &str| params.get(param).and_then(|value| HeaderValue::from_bytes(value).ok());
        let named = |(param, name): &(&str, HeaderName)| Some((name.clone(), value(param)?));
        Wanted(CONDITIONS.iter().filter_map(named).collect())
    }

    /// RFC 9110 §13.2.2, in its order: the status that ends the matter, if one does.
    fn precondition(&self, kind: &Kind) -> Option<u16> {
        let Wanted(headers) = self;
        if let Some(if_match) = headers.typed_get::<IfMatch>() {
            if !if_match.precondition_passes(&kind.etag) {
                return Some(412);
            }
        } else if let Some(if_unmodified) = headers.typed_get::<IfUnmodifiedSince>()
            && !if_unmodified.precondition_passes(kind.modified)
        {
            return Some(412);
        }
        let is_known = if let Some(if_none_match) = headers.typed_get::<IfNoneMatch>() {
            !if_none_match.precondition_passes(&kind.etag)
        } else if let Some(if_modified) = headers.typed_get::<IfModifiedSince>() {
            !if_modified.is_modified(kind.modified)
        } else {
            false
        };
        is_known.then_some(304)
    }

    /// The bytes that are asked for; `None`: all. `Err`: there are none such.
    fn range(&self, kind: &Kind) -> Result<Option<Range<u64>>, NoSuchRange> {
        let Wanted(headers) = self;
        let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
            return Ok(None);
        };
        if let Some(if_range) = headers.typed_get::<IfRange>()
            && if_range.is_modified(Some(&kind.etag), Some(&LastModified::from(kind.modified)))
        {
            return Ok(None);
        }
        // §14.2: what cannot be read is ignored.
        let Ok(ranges) = parse_range_header(text) else { return Ok(None) };
        let [asked] = ranges.into_ranges()[..] else { return Ok(None) };
        let range = match asked {
            Asked::FromStart(first) => first..kind.length,
            Asked::FromLast(count) => kind.length.saturating_sub(count)..kind.length,
            Asked::Indexed(first, last) => first..kind.length.min(last.saturating_add(1)),
        };
        if range.is_empty() { Err(NoSuchRange) } else { Ok(Some(range)) }
    }
}

struct NoSuchRange;

/// What is told of a file.
struct Kind {
    length: u64,
    modified: SystemTime,
    etag: ETag,
}

impl Kind {
    fn of(metadata: &Metadata) -> Kind {
        let (seconds, nanos, length) = (metadata.mtime(), metadata.mtime_nsec(), metadata.len());
        let etag = format!("\"{seconds:x}-{nanos:x}-{length:x}\"");
        Kind {
            length,
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            etag: etag.parse().expect("hexadecimal digits between quotes"),
        }
    }
}

fn answer(source: Source, kind: &Kind, wanted: &Wanted, content_type: Cow<'static, str>) -> Response {
    let mut known = HeaderMap::new();
    known.typed_insert(kind.etag.clone());
    known.typed_insert(LastModified::from(kind.modified));
    let with_known = |response: Response| {
        known.iter().fold(response, |response, (name, value)| {
            response.header(name.as_str().to_owned(), value.as_bytes().to_vec())
        })
    };
    match wanted.precondition(kind) {
        Some(304) => return with_known(Response::new(304)),
        Some(status) => return Response::text("Precondition Failed\n").status(status),
        None => {}
    }
    let (status, range) = match wanted.range(kind) {
        Ok(None) => (200, 0..kind.length),
        Ok(Some(range)) => (206, range),
        Err(NoSuchRange) => {
            return Response::text("Range Not Satisfiable\n")
                .status(416)
                .header("Content-Range", format!("bytes */{}", kind.length));
        }
    };
    let mut response = with_known(Response::new(status))
        .header("Content-Type", content_type.into_owned())
        .header("Content-Length", (range.end - range.start).to_string())
        .header("Accept-Ranges", "bytes");
    if status == 206 {
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, kind.length);
        response = response.header("Content-Range", content_range);
    }
    response.stream(move |stdout| send(source, range, stdout))
}

async fn send(source: Source, mut range: Range<u64>, mut stdout: Stdout) -> Result<(), Failure> {
    while !range.is_empty() {
        let wanted =
            usize::try_from(range.end - range.start).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = source.read(range.start, wanted).await.map_err(Failure::new)?;
        if piece.is_empty() {
            return Err(Failure::new("the file became shorter while it was sent"));
        }
        range.start += piece.len() as u64;
        stdout.write_bytes(piece).await?;
    }
    Ok(())
}

/// An open file, as this worker reads it.
enum Source {
    Uring(tokio_uring::fs::File),
    Blocking(Arc<fs::File>),
}

impl Source {
    fn of(file: fs::File) -> Source {
        match HAS_URING.get() {
            true => Source::Uring(tokio_uring::fs::File::from_std(file)),
            false => Source::Blocking(Arc::new(file)),
        }
    }

    /// At most `length` bytes; none at the end.
    async fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let piece = match self {
            Source::Uring(file) => {
                let (read, mut piece) = file.read_at(Vec::with_capacity(length), at).await;
                piece.truncate(read?);
                piece
            }
            Source::Blocking(file) => {
                let file = file.clone();
                let read = move || {
                    let mut piece = vec![0; length];
                    let read = file.read_at(&mut piece, at)?;
                    piece.truncate(read);
                    Ok(piece)
                };
                tokio::task::spawn_blocking(read)
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error)))?
            }
        };
        Ok(piece.into())
    }
}
