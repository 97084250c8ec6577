//! One call of an application: `start_response`, `write`, and the body on its way out (PEP 3333).

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pyo3::exceptions::{PyAssertionError, PyConnectionError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyIterator, PyList, PyString, PyTuple};

use super::conversation::{Conversation, Gone, Head, Output};
use super::environ::latin1;
use super::io::{FileWrapper, kind_of};

/// Pieces up to this size are copied; larger ones are sent from where Python has them.
const COPY_BYTES_MAX: usize = 4 << 10;
/// Bytes of a file that are read at a time.
const FILE_BYTES: usize = 64 << 10;

/// Of a connection, not of an answer: the web server's affair (RFC 9110 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// `start_response` of one request, and what became of its answer.
#[pyclass(frozen, module = "ringway", name = "start_response")]
pub(super) struct Call {
    conversation: Arc<Conversation>,
    is_head: bool,
    answer: Mutex<Answer>,
}

#[derive(Default)]
struct Answer {
    head: Option<Head>,
    /// What Content-Length promises.
    length: Option<u64>,
    sent: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// Nothing is sent; the head may still be changed.
    #[default]
    Open,
    /// The head is out, the body is not complete.
    Started,
    /// All of the answer was given to the worker.
    Complete,
}

/// What came of the first piece of an answer.
pub(super) enum First<'py> {
    /// It was all.
    Complete,
    /// More is to be sent, or nothing was yet: from the iteration where it has begun.
    Rest(Option<Bound<'py, PyIterator>>),
}

impl Call {
    pub(super) fn new(conversation: Arc<Conversation>, is_head: bool) -> Call {
        Call { conversation, is_head, answer: Mutex::default() }
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Sends what the application returned. `Ok` also where the web server gave up in the middle.
    /// `before_end` is called when nothing of the application's own is left to run.
    pub(super) fn send(&self, result: &Bound<'_, PyAny>, before_end: impl Fn()) -> PyResult<()> {
        let py = result.py();
        if self.send_at_once(result, &before_end)? {
            return Ok(());
        }
        if let Ok(wrapper) = result.cast_exact::<FileWrapper>()
            && let Some((file, position)) = wrapper.get().reopen(py)
        {
            before_end();
            self.send_file(py, &file, position)?;
            return self.finish();
        }
        self.send_items(&items_of(result)?, before_end)
    }

    /// As [`Call::send`], but up to the first piece alone: whoever sends more may have to wait.
    pub(super) fn send_first<'py>(
        &self,
        result: &Bound<'py, PyAny>,
        before_end: impl Fn(),
    ) -> PyResult<First<'py>> {
        if self.send_at_once(result, &before_end)? {
            return Ok(First::Complete);
        }
        if self.stage() == Stage::Started || result.is_exact_instance_of::<FileWrapper>() {
            return Ok(First::Rest(None));
        }
        let mut items = items_of(result)?;
        while let Some(item) = items.next() {
            if !self.piece(result.py(), bytes_of(&item?)?)? {
                break;
            }
            if self.stage() == Stage::Started {
                return Ok(First::Rest(Some(items)));
            }
        }
        before_end();
        self.finish().map(|()| First::Complete)
    }

    /// Sends all that iterating gives, and the end.
    pub(super) fn send_items(&self, items: &Bound<'_, PyIterator>, before_end: impl Fn()) -> PyResult<()> {
        for item in items {
            let is_wanted = self.piece(items.py(), bytes_of(&item?)?)?;
            if !is_wanted {
                break;
            }
        }
        before_end();
        self.finish()
    }

    /// Sends an answer that is a list or a tuple. Whether it is one.
    fn send_at_once(&self, result: &Bound<'_, PyAny>, before_end: impl Fn()) -> PyResult<bool> {
        if result.is_none() {
            let text = "the application returned None, not an iterable of bytes: is a `return` missing?";
            return Err(PyTypeError::new_err(text));
        }
        if result.is_instance_of::<PyString>() {
            let text = "the application returned str, not an iterable of bytes: return [text.encode()]";
            return Err(PyTypeError::new_err(text));
        }
        if self.stage() == Stage::Open {
            if let Ok(items) = result.cast_exact::<PyList>() {
                before_end();
                return self.send_whole(items.iter()).map(|()| true);
            }
            if let Ok(items) = result.cast_exact::<PyTuple>() {
                before_end();
                return self.send_whole(items.iter()).map(|()| true);
            }
        }
        Ok(false)
    }

    /// All of the body is there: one answer with its length.
    fn send_whole<'py>(&self, items: impl ExactSizeIterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
        let mut body = Bytes::new();
        let count = items.len();
        for item in items {
            let item = bytes_of(&item)?;
            body = match count {
                1 => body_of(item),
                _ => [body, body_of(item)].concat().into(),
            };
        }
        let mut answer = self.lock();
        let mut head = started(&mut answer)?;
        let has_no_body = self.has_no_body(head.status);
        if has_no_body {
            if self.is_head && answer.length.is_none() && !bodiless(head.status) && !body.is_empty() {
                head.headers.push(("Content-Length".into(), body.len().to_string().into_bytes()));
            }
        } else if let Some(length) = answer.length {
            let given = body.len() as u64;
            if given < length {
                let text = format!("Content-Length says {length} bytes, the application gave {given}");
                return Err(PyAssertionError::new_err(text));
            }
            warn_of_excess(given, length);
            body.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        answer.stage = Stage::Complete;
        drop(answer);
        // A client that left needs no answer.
        let _ = self.conversation.emit([Output::Whole(head, (!has_no_body).then_some(body))]);
        Ok(())
    }

    /// Blocks of a file, read while other threads have the interpreter.
    fn send_file(&self, py: Python<'_>, file: &std::fs::File, mut position: u64) -> PyResult<()> {
        loop {
            let block = py.detach(|| {
                let mut block = vec![0; FILE_BYTES];
                file.read_at(&mut block, position).map(|count| {
                    block.truncate(count);
                    Bytes::from(block)
                })
            })?;
            position += block.len() as u64;
            if block.is_empty() || !self.piece_of(py, block)? {
                return Ok(());
            }
        }
    }

    fn piece(&self, py: Python<'_>, item: Bound<'_, PyBytes>) -> PyResult<bool> {
        if item.as_bytes().is_empty() { Ok(true) } else { self.piece_of(py, body_of(item)) }
    }

    /// Sends a piece that is not empty, after the head. Whether more is wanted.
    fn piece_of(&self, py: Python<'_>, mut piece: Bytes) -> PyResult<bool> {
        let mut answer = self.lock();
        if answer.stage == Stage::Complete {
            warn_of_excess(1, 0);
            return Ok(!self.is_head);
        }
        let head = if answer.stage == Stage::Open { Some(started(&mut answer)?) } else { None };
        if let Some(head) = &head
            && self.has_no_body(head.status)
        {
            answer.stage = Stage::Complete;
            let _ = self.conversation.emit([Output::Whole(head.clone(), None)]);
            return Ok(false);
        }
        if let Some(length) = answer.length {
            let left = length - answer.sent;
            warn_of_excess(piece.len() as u64, left);
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
        answer.sent += piece.len() as u64;
        let is_all = answer.length == Some(answer.sent);
        answer.stage = if is_all { Stage::Complete } else { Stage::Started };
        drop(answer);
        let emitted = match (head, is_all) {
            (Some(head), true) => self.conversation.emit([Output::Whole(head, Some(piece))]),
            (Some(head), false) => self.conversation.emit([Output::Head(head), Output::Piece(piece)]),
            (None, true) => self.conversation.emit([Output::Piece(piece), Output::End(Ok(()))]),
            (None, false) => self.conversation.emit([Output::Piece(piece)]),
        };
        let sent = match emitted {
            Ok(true) if !is_all => py.detach(|| self.conversation.wait_for_room()),
            Ok(_) => Ok(()),
            Err(gone) => Err(gone),
        };
        Ok(sent.is_ok())
    }

    /// The iterable has ended.
    fn finish(&self) -> PyResult<()> {
        let mut answer = self.lock();
        let ending = match answer.stage {
            Stage::Complete => return Ok(()),
            _ if self.conversation.is_over() => return Ok(()),
            Stage::Open => {
                let head = started(&mut answer)?;
                let has_no_body = self.has_no_body(head.status);
                if let Some(length) = answer.length.filter(|length| *length > 0 && !has_no_body) {
                    let text = format!("Content-Length says {length} bytes, the application gave none");
                    return Err(PyAssertionError::new_err(text));
                }
                Output::Whole(head, (!has_no_body).then(Bytes::new))
            }
            Stage::Started => match answer.length {
                Some(length) => {
                    let sent = answer.sent;
                    let text = format!("Content-Length says {length} bytes, the application gave {sent}");
                    return Err(PyAssertionError::new_err(text));
                }
                None => Output::End(Ok(())),
            },
        };
        answer.stage = Stage::Complete;
        drop(answer);
        let _ = self.conversation.emit([ending]);
        Ok(())
    }

    /// Ends an answer that failed: with `instead` where nothing was sent, otherwise visibly incomplete.
    pub(super) fn fail(&self, reason: String, instead: (Head, Bytes)) {
        let mut answer = self.lock();
        let stage = std::mem::replace(&mut answer.stage, Stage::Complete);
        drop(answer);
        let (head, body) = instead;
        let _ = match stage {
            Stage::Open => self.conversation.emit([Output::Whole(head, (!self.is_head).then_some(body))]),
            Stage::Started => self.conversation.emit([Output::End(Err(reason))]),
            Stage::Complete => Ok(false),
        };
    }

    /// Text for the web server's error log.
    pub(super) fn tell(&self, text: &str) -> Result<bool, Gone> {
        self.conversation.emit([Output::Stderr(Bytes::copy_from_slice(text.as_bytes()))])
    }

    fn has_no_body(&self, status: u16) -> bool {
        self.is_head || bodiless(status)
    }

    fn lock(&self) -> MutexGuard<'_, Answer> {
        super::lock(&self.answer)
    }
}

#[pymethods]
impl Call {
    #[pyo3(signature = (status, headers, exc_info=None, /))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyTuple>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let call = slf.get();
        if let Some(exc_info) = exc_info
            && call.stage() != Stage::Open
        {
            // PEP 3333: the head is out, so the application must be stopped with its own exception.
            return Err(PyErr::from_value(exc_info.get_item(1)?));
        }
        if exc_info.is_none() && call.lock().head.is_some() {
            let text = "start_response() was called a second time, and without exc_info";
            return Err(PyAssertionError::new_err(text));
        }
        let (head, length) = read_head(status, headers)?;
        let mut answer = call.lock();
        (answer.head, answer.length) = (Some(head), length);
        drop(answer);
        slf.getattr(intern!(py, "write"))
    }

    /// The `write()` that `start_response` returns.
    #[pyo3(signature = (data, /))]
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_over = self.conversation.is_over() && self.stage() != Stage::Complete;
        let is_wanted = !is_over && self.piece(py, bytes_of(data)?)?;
        if is_wanted || self.stage() == Stage::Complete {
            return Ok(());
        }
        Err(PyConnectionError::new_err(Gone.to_string()))
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the web server has given the request up")
    }
}

/// The iteration over what the application returned.
fn items_of<'py>(result: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
    result.try_iter().map_err(|_| {
        let kind = kind_of(result);
        PyTypeError::new_err(format!("the application returned {kind}, not an iterable of bytes"))
    })
}

/// The head to send now.
fn started(answer: &mut Answer) -> PyResult<Head> {
    answer.head.clone().ok_or_else(|| {
        PyAssertionError::new_err("the application sends a body, but did not call start_response()")
    })
}

/// RFC 9110 6.4.1.
fn bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

fn warn_of_excess(given: u64, left: u64) {
    if given > left {
        tracing::warn!("the application gives more bytes than its Content-Length says; the rest is not sent");
    }
}

fn bytes_of<'py>(item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    item.cast::<PyBytes>().cloned().map_err(|_| {
        let kind = kind_of(item);
        let hint = if kind == "str" { ": encode it" } else { "" };
        PyTypeError::new_err(format!("the application gave {kind} for a piece of the body, not bytes{hint}"))
    })
}

fn body_of(item: Bound<'_, PyBytes>) -> Bytes {
    if item.as_bytes().len() <= COPY_BYTES_MAX {
        Bytes::copy_from_slice(item.as_bytes())
    } else {
        Bytes::from_owner(PyBackedBytes::from(item))
    }
}

/// Checks what `start_response` was given while the application can still be told.
fn read_head(status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<(Head, Option<u64>)> {
    let status = status.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the status must be str like \"200 OK\", not {}", kind_of(status)))
    })?;
    let status = status.to_string_lossy();
    let code = match status.as_bytes() {
        [code @ (b'1'..=b'9'), rest @ ..] if rest.len() >= 2 => {
            let is_separated = rest.len() == 2 || rest[2] == b' ';
            let digits = [*code, rest[0], rest[1]];
            std::str::from_utf8(&digits)
                .ok()
                .and_then(|text| text.parse::<u16>().ok())
                .filter(|_| is_separated)
        }
        _ => None,
    };
    let code = code.filter(|_| !status.chars().any(char::is_control)).ok_or_else(|| {
        PyValueError::new_err(format!("the status must be like \"200 OK\", not {status:?}"))
    })?;
    let list = headers.cast::<PyList>().map_err(|_| {
        PyTypeError::new_err(format!("the headers must be a list of tuples, not {}", kind_of(headers)))
    })?;
    let (mut pairs, mut length) = (Vec::with_capacity(list.len()), None);
    for item in list.iter() {
        let pair = item.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2).ok_or_else(|| {
            PyTypeError::new_err(format!("a header must be a tuple (name, value), not {}", kind_of(&item)))
        })?;
        let text = |index: usize| -> PyResult<String> {
            let part = pair.get_item(index)?;
            let text = part.cast::<PyString>().map_err(|_| {
                let what = ["name", "value"][index];
                PyTypeError::new_err(format!("the {what} of a header must be str, not {}", kind_of(&part)))
            })?;
            Ok(text.to_cow()?.into_owned())
        };
        let (name, value) = (text(0)?, text(1)?);
        check_name(&name)?;
        let bytes =
            latin1(&value).filter(|value| !value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)));
        let bytes = bytes.ok_or_else(|| {
            let text = "has a control character (an injected header?) or one that is not Latin-1";
            PyValueError::new_err(format!("the value of header {name:?} {text}: {value:?}"))
        })?;
        if name.eq_ignore_ascii_case("Content-Length") {
            length = Some(value.trim().parse().map_err(|_| {
                PyValueError::new_err(format!("the value of Content-Length is not a number: {value:?}"))
            })?);
        }
        pairs.push((name, bytes));
    }
    Ok((Head { status: code, headers: pairs, app_status: 0 }, length))
}

fn check_name(name: &str) -> PyResult<()> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(PyValueError::new_err(format!("{name:?} cannot be the name of a header (RFC 9110 5.1)")));
    }
    if name.eq_ignore_ascii_case("Status") {
        return Err(PyValueError::new_err(
            "a header \"Status\": the status is start_response()'s first argument",
        ));
    }
    if HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
        let text = "is a matter of the web server's connection; PEP 3333 forbids it to applications";
        return Err(PyValueError::new_err(format!("header {name:?} {text}")));
    }
    Ok(())
}
