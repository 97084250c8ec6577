//! The visitor's side of a web server: a small HTTP/1.1 client that can do what browsers do at their worst.
//!
//! One connection for each request. The body is sent by a thread of its own, so that an answer may come before its
//! end; the answer's body is a stream, and dropping it unread is a visitor who goes away.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::process::{PATIENCE, is_required};

/// Where a web server's program is. `None`, with a line that says so, where it is not installed;
/// `RINGWAY_REQUIRE=web` makes that a failure.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        assert!(!is_required("web"), "RINGWAY_REQUIRE=web, and {program} is not installed (`make packages`)");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A request of a visitor.
#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Upload,
}

#[derive(Clone)]
enum Upload {
    Nothing,
    Whole(Bytes),
    /// In chunks of the size given.
    Chunked(Bytes, usize),
}

/// The head of an answer and, as a stream, its body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    upload: Option<JoinHandle<()>>,
}

struct Body {
    stream: BufReader<TcpStream>,
    framing: Framing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// Bytes that are left.
    Length(u64),
    /// Bytes that are left of the chunk; 0: a new one begins.
    Chunk(u64),
    UntilClose,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Upload::Nothing,
        }
    }

    pub(crate) fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    pub(crate) fn post(target: &str, body: impl Into<Bytes>) -> Request {
        Request { body: Upload::Whole(body.into()), ..Request::new("POST", target) }
    }

    pub(crate) fn post_chunked(target: &str, body: impl Into<Bytes>, chunk_bytes: usize) -> Request {
        Request { body: Upload::Chunked(body.into(), chunk_bytes), ..Request::new("POST", target) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sends it, and waits for the head of the answer.
    pub(crate) fn send(self, server: SocketAddr) -> Answer {
        let what = format!("{} {}", self.method, self.target);
        self.try_send(server).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    pub(crate) fn try_send(self, server: SocketAddr) -> io::Result<Answer> {
        let is_head = self.method == "HEAD";
        let (stream, upload) = self.begin(server)?;
        Answer::read(BufReader::new(stream), is_head, upload)
    }

    /// Sends it, and leaves what comes to the caller; dropping the stream is going away.
    pub(crate) fn begin(self, server: SocketAddr) -> io::Result<(TcpStream, Option<JoinHandle<()>>)> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.head())?;
        let mut writer = stream.try_clone()?;
        let upload = match self.body {
            Upload::Nothing => None,
            body => Some(std::thread::spawn(move || {
                // A server that has answered may close before it has everything.
                let _ = body.write(&mut writer);
            })),
        };
        Ok((stream, upload))
    }

    fn head(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.target);
        match &self.body {
            Upload::Nothing => {}
            Upload::Whole(body) => write!(text, "Content-Length: {}\r\n", body.len()).expect("a string"),
            Upload::Chunked(..) => text.push_str("Transfer-Encoding: chunked\r\n"),
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str("Host: probe.test\r\n");
        }
        let mut head = text.into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

impl Upload {
    fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Upload::Nothing => Ok(()),
            Upload::Whole(body) => stream.write_all(body),
            Upload::Chunked(body, chunk_bytes) => {
                for chunk in body.chunks(*chunk_bytes) {
                    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")
            }
        }
    }
}

impl Answer {
    fn read(
        mut stream: BufReader<TcpStream>,
        is_head: bool,
        upload: Option<JoinHandle<()>>,
    ) -> io::Result<Answer> {
        let (status, headers) = loop {
            let (status, headers) = read_head(&mut stream)?;
            // 1xx announces another head.
            if status >= 200 {
                break (status, headers);
            }
        };
        let find =
            |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        let framing = if is_head || matches!(status, 204 | 304) {
            Framing::Length(0)
        } else if find("Transfer-Encoding").is_some() {
            Framing::Chunk(0)
        } else if let Some(length) = find("Content-Length") {
            Framing::Length(length.parse().map_err(|_| bad("Content-Length is no number"))?)
        } else {
            Framing::UntilClose
        };
        Ok(Answer { status, headers, body: Body { stream, framing }, upload })
    }

    /// The values of a header, in order.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let same = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The whole body; an error where it ends before it is whole.
    pub(crate) fn try_body(mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.read_to_end(&mut body)?;
        if let Some(upload) = self.upload.take() {
            // Ends a body that the server no longer takes.
            let _ = self.body.stream.get_ref().shutdown(Shutdown::Both);
            upload.join().expect("the writer does not panic");
        }
        Ok(body)
    }

    pub(crate) fn body(self) -> Vec<u8> {
        self.try_body().unwrap_or_else(|error| panic!("the body breaks off: {error}"))
    }

    pub(crate) fn text(self) -> String {
        String::from_utf8(self.body()).expect("a text")
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Body { stream, framing } = &mut self.body;
        if *framing == Framing::Chunk(0) {
            let line = read_line(stream)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(|_| bad("not the size of a chunk"))?;
            if length == 0 {
                read_line(stream)?;
            }
            *framing = if length == 0 { Framing::Length(0) } else { Framing::Chunk(length) };
        }
        let (Framing::Length(left) | Framing::Chunk(left)) = framing else { return stream.read(buffer) };
        let room = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = stream.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        *left -= count as u64;
        if *framing == Framing::Chunk(0) && !read_line(stream)?.is_empty() {
            return Err(bad("a chunk is longer than its size"));
        }
        Ok(count)
    }
}

fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let line = read_line(stream)?;
    let status =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad(&format!("not the first line of an answer: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// A line without its end.
fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| bad("a line without its end"))?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
