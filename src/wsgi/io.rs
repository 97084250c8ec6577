//! `wsgi.input`, `wsgi.errors` and `wsgi.file_wrapper` (PEP 3333, "Input and Error Streams").

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::ReadError;

use super::conversation::{Conversation, Output};
use super::lock;

/// What a line of an application without line ends may grow to before it is sent.
const LINE_BYTES_MAX: usize = 8 << 10;

/// The request body, read from the web server as the application asks for it.
#[pyclass(frozen, module = "ringway", name = "Input")]
pub(super) struct Input {
    conversation: Arc<Conversation>,
    /// What was received and not read: the rest of a piece. The lock is never held while waiting.
    rest: Mutex<Bytes>,
    failed: Mutex<Option<ReadError>>,
}

impl Input {
    pub(super) fn new(conversation: Arc<Conversation>) -> Input {
        Input { conversation, rest: Mutex::default(), failed: Mutex::default() }
    }

    /// Why the body could not be read to its end, if an attempt was made.
    pub(super) fn failure(&self) -> Option<ReadError> {
        lock(&self.failed).clone()
    }

    /// Some bytes that were not read yet; none at the end.
    fn pull(&self, py: Python<'_>) -> PyResult<Bytes> {
        let rest = std::mem::take(&mut *lock(&self.rest));
        if !rest.is_empty() {
            return Ok(rest);
        }
        let piece = match self.conversation.try_read() {
            Some(piece) => piece,
            None => py.detach(|| self.conversation.read()),
        };
        match piece {
            Ok(piece) => Ok(piece.unwrap_or_default()),
            Err(error) => {
                let text = format!("cannot read the request body: {error}");
                *lock(&self.failed) = Some(error);
                Err(PyOSError::new_err(text))
            }
        }
    }

    /// Up to `size` bytes, fewer only at the end of the body, or up to and including a line feed.
    fn take(&self, py: Python<'_>, size: Option<usize>, is_line: bool) -> PyResult<Vec<u8>> {
        let mut taken = Vec::new();
        while size.is_none_or(|size| taken.len() < size) {
            let mut piece = self.pull(py)?;
            if piece.is_empty() {
                break;
            }
            let room = size.map_or(usize::MAX, |size| size - taken.len());
            let line_end = if is_line { memchr::memchr(b'\n', &piece) } else { None };
            let count = line_end.map_or(piece.len(), |at| at + 1).min(room);
            taken.extend_from_slice(&piece.split_to(count));
            let is_line_complete = line_end.is_some_and(|at| at + 1 == count);
            if !piece.is_empty() {
                *lock(&self.rest) = piece;
            }
            if is_line_complete {
                break;
            }
        }
        Ok(taken)
    }
}

/// `None` and negative sizes mean all.
fn size_of(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.take(py, size_of(size), false)?))
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.take(py, size_of(size), true)?))
    }

    /// Lines until `hint` bytes are exceeded; all of them without a hint.
    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let hint = size_of(hint).filter(|hint| *hint > 0).unwrap_or(usize::MAX);
        let (lines, mut total) = (PyList::empty(py), 0);
        while total < hint {
            let line = self.take(py, None, true)?;
            if line.is_empty() {
                break;
            }
            total += line.len();
            lines.append(PyBytes::new(py, &line))?;
        }
        Ok(lines)
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.take(py, None, true)?;
        Ok(if line.is_empty() { None } else { Some(PyBytes::new(py, &line)) })
    }
}

/// Text for the web server's error log (FCGI_STDERR), and for the log of this process.
#[pyclass(frozen, module = "ringway", name = "Errors")]
pub(super) struct Errors {
    conversation: Arc<Conversation>,
    /// A line that has not ended.
    line: Mutex<Vec<u8>>,
}

impl Errors {
    pub(super) fn new(conversation: Arc<Conversation>) -> Errors {
        Errors { conversation, line: Mutex::default() }
    }

    /// Sends what was written, the last line as it is.
    pub(super) fn finish(&self, py: Python<'_>) {
        let line = std::mem::take(&mut *lock(&self.line));
        self.send(py, line);
    }

    fn send(&self, py: Python<'_>, text: Vec<u8>) {
        if text.is_empty() {
            return;
        }
        for line in String::from_utf8_lossy(&text).lines() {
            tracing::warn!(target: "ringway::wsgi::errors", "{}", line.escape_debug());
        }
        // Where the request is over the log has it.
        if let Ok(true) = self.conversation.emit([Output::Stderr(text.into())]) {
            let _ = py.detach(|| self.conversation.wait_for_room());
        }
    }
}

#[pymethods]
impl Errors {
    #[pyo3(signature = (text, /))]
    fn write(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> PyResult<usize> {
        let text = text.call_method1("encode", ("utf-8", "backslashreplace"))?;
        let text = text.cast::<PyBytes>()?.as_bytes();
        let mut line = lock(&self.line);
        line.extend_from_slice(text);
        let end = match memchr::memrchr(b'\n', &line) {
            Some(at) => at + 1,
            None if line.len() > LINE_BYTES_MAX => line.len(),
            None => 0,
        };
        let rest = line.split_off(end);
        let whole = std::mem::replace(&mut *line, rest);
        drop(line);
        self.send(py, whole);
        Ok(text.len())
    }

    #[pyo3(signature = (lines, /))]
    fn writelines(&self, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            let line = line?;
            let text = line.cast::<PyString>().map_err(|_| {
                PyTypeError::new_err(format!("wsgi.errors takes str, not {}", kind_of(&line)))
            })?;
            self.write(lines.py(), text)?;
        }
        Ok(())
    }

    fn flush(&self, py: Python<'_>) {
        self.finish(py);
    }
}

/// PEP 3333, "Optional Platform-Specific File Handling". Where the file is one of the file system, its bytes are sent
/// without passing through Python.
#[pyclass(frozen, module = "ringway", name = "FileWrapper")]
pub(super) struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    blksize: isize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize=8192))]
    fn new(filelike: Py<PyAny>, blksize: isize) -> FileWrapper {
        FileWrapper { filelike, blksize }
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self.filelike.bind(py).call_method1("read", (self.blksize,))?;
        Ok(if block.is_truthy()? { Some(block) } else { None })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt("close")? {
            close.call0()?;
        }
        Ok(())
    }
}

impl FileWrapper {
    /// The file opened anew, and where to read on in it: only for regular files that this process may open.
    pub(super) fn reopen(&self, py: Python<'_>) -> Option<(std::fs::File, u64)> {
        let filelike = self.filelike.bind(py);
        let descriptor: i32 = filelike.call_method0("fileno").ok()?.extract().ok()?;
        let position: u64 = filelike.call_method0("tell").ok()?.extract().ok()?;
        let path = format!("/proc/self/fd/{descriptor}");
        // Looked at before it is opened: opening a pipe or a device could wait or change something.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        Some((std::fs::File::open(path).ok()?, position))
    }
}

/// The name of a value's type, for messages.
pub(super) fn kind_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}
