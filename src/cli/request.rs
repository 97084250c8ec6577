//! `ringway request`: curl for FastCGI.
//!
//! What the application writes on stdout goes to stdout, head included; what it writes on stderr goes to
//! stderr, and so does a last line with the statuses. With `-v` every record is shown, sent (`>`) and
//! received (`<`).

mod replay;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use clap::{ArgMatches, Args, FromArgMatches};
use ringway::client::{
    Address, Answer, Client, End, Error, Exchange, HeadParser, Part, Request, Tap, Upload,
};
use ringway::config::parse_duration;
use ringway::proto::Role;
use tokio::sync::mpsc;

use super::records::Transcript;
use super::{Command, Failure};

pub(super) const COMMAND: Command = Command {
    name: "request",
    about: "Sends requests to a FastCGI application, as curl does to a web server",
    arguments: Options::augment_args,
    run,
};

#[derive(Args)]
struct Options {
    /// Where the application listens: unix:/path, unix:@abstract or HOST:PORT
    address: Address,
    /// Path with an optional query, or an http:// URL; several are requested one after the other
    #[arg(value_name = "URI", required_unless_present_any = ["get_values", "from_capture"])]
    uris: Vec<String>,
    /// Request method; without it GET, or POST where there is data
    #[arg(short = 'X', long)]
    method: Option<String>,
    /// Role to ask for: responder, authorizer or filter
    #[arg(long, default_value = "responder", value_parser = parse_role)]
    role: Role,
    /// Parameter to set, in place of the one that a web server would send
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_param)]
    params: Vec<(String, String)>,
    /// HTTP header to send, as a parameter: `Accept: text/html` is HTTP_ACCEPT
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Prefix that the application is mounted under: it moves from PATH_INFO to SCRIPT_NAME
    #[arg(long, value_name = "PREFIX", default_value = "/")]
    mount: String,
    /// Request body: the text itself, @FILE, or @- for stdin
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// File that is sent to a filter
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ask to keep the connection, and send all requests on one
    #[arg(long)]
    keep: bool,
    /// Abort each request after this time, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    abort_after: Option<Duration>,
    /// Give up after this time; 0 never does
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print the body alone, without its head
    #[arg(short, long)]
    body: bool,
    /// Ask for FCGI_MAX_CONNS, FCGI_MAX_REQS and FCGI_MPXS_CONNS first
    #[arg(long)]
    get_values: bool,
    /// Send the bytes of this file, which a web server once sent (see `decode`), and print what comes back
    #[arg(long, value_name = "FILE", conflicts_with_all = ["uris", "get_values"])]
    from_capture: Option<PathBuf>,
    /// Show every record on stderr
    #[arg(short, long)]
    verbose: bool,
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    if let Some(file) = &options.from_capture {
        let timeout = if options.timeout.is_zero() { Duration::MAX } else { options.timeout };
        return replay::replay(&options.address, file, timeout, options.verbose.then(show_records));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::running)?.block_on(options.run())
}

impl Options {
    async fn run(&self) -> Result<(), Failure> {
        let mut kept = None;
        if self.get_values {
            let client = self.connect().await?;
            self.ask_values(&client).await?;
            kept = Some(client);
        }
        for uri in &self.uris {
            let prepared = self.prepare(uri)?;
            let client = match kept.take().filter(|_| self.keep) {
                Some(client) => client,
                None => self.connect().await?,
            };
            self.exchange(&client, prepared).await?;
            kept = Some(client);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let tap = self.verbose.then(show_records);
        self.in_time(Client::connect_tapped(&self.address, tap)).await
    }

    async fn ask_values(&self, client: &Client) -> Result<(), Failure> {
        let names = ["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"];
        for (name, value) in self.in_time(client.get_values(&names)).await? {
            println!("{}={}", name.escape_ascii(), value.escape_ascii());
        }
        Ok(())
    }

    async fn in_time<T>(&self, doing: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        tokio::select! {
            result = doing => result.map_err(explain),
            () = sleep_or_never(self.timeout) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> Failure {
        Failure::running(format!("no complete answer within {:?} (--timeout)", self.timeout))
    }

    /// Sends one request and prints its answer. Sending and receiving go on side by side: an application may
    /// answer while it reads, or without reading everything.
    async fn exchange(&self, client: &Client, prepared: Prepared) -> Result<(), Failure> {
        let Prepared { request, stdin, data } = prepared;
        let Exchange { stdin: to_stdin, data: to_data, mut answer, .. } =
            client.begin(&request).map_err(explain)?;
        let mut sending = std::pin::pin!(send_streams(self.role, stdin, to_stdin, data, to_data));
        let mut abort = std::pin::pin!(sleep_or_never(self.abort_after.unwrap_or_default()));
        let mut deadline = std::pin::pin!(sleep_or_never(self.timeout));
        let (mut is_sending, mut is_aborted) = (true, false);
        let mut printer = Printer::new(self.body);
        let end = loop {
            tokio::select! {
                part = answer.next() => match part.map_err(explain)? {
                    Some(Part::End(end)) => break end,
                    Some(Part::Stdout(bytes)) => printer.stdout(&bytes)?,
                    Some(Part::Stderr(bytes)) => printer.stderr(&bytes)?,
                    None => return Err(explain(Error::Closed)),
                },
                sent = &mut sending, if is_sending => {
                    is_sending = false;
                    sent?;
                }
                () = &mut abort, if !is_aborted => {
                    is_aborted = true;
                    abort_request(&answer)?;
                }
                () = &mut deadline => return Err(self.timed_out()),
            }
        };
        printer.finish(end, is_aborted, self.role, request.get("REQUEST_METHOD") == Some(b"HEAD"))
    }

    fn prepare(&self, uri: &str) -> Result<Prepared, Failure> {
        let stdin = Source::of_data(self.data.as_deref())?;
        let file = self.file.as_deref().map(open).transpose()?;
        let default_method = if self.data.is_some() { "POST" } else { "GET" };
        let method = self.method.as_deref().unwrap_or(default_method);
        let mut request = Request::new(method, uri).role(self.role).keep_conn(self.keep).mount(&self.mount);
        if self.data.is_some() {
            request = request.param("CONTENT_TYPE", "application/x-www-form-urlencoded");
        }
        if let Some(length) = stdin.length() {
            request = request.content_length(length);
        }
        if let Some(file) = &file {
            let metadata = file.metadata().map_err(Failure::running)?;
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let seconds = modified.unwrap_or_default().as_secs();
            request = request
                .param("FCGI_DATA_LENGTH", metadata.len().to_string())
                .param("FCGI_DATA_LAST_MOD", seconds.to_string());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value.as_bytes());
        }
        for (name, value) in &self.params {
            request = request.param(name.as_str(), value.as_str());
        }
        Ok(Prepared { request, stdin, data: file.map_or(Source::Nothing, Source::File) })
    }
}

/// A request, and what is sent on its streams.
struct Prepared {
    request: Request,
    stdin: Source,
    data: Source,
}

fn abort_request(answer: &Answer) -> Result<(), Failure> {
    match answer.abort() {
        // Its end is on the way.
        Ok(()) | Err(Error::Ended) => Ok(()),
        Err(error) => Err(explain(error)),
    }
}

/// Sends what each role waits for: stdin to a Responder and a Filter, the file to a Filter, nothing to an
/// Authorizer (FastCGI 6.2 to 6.4).
async fn send_streams(
    role: Role,
    stdin: Source,
    to_stdin: Upload,
    data: Source,
    to_data: Upload,
) -> Result<(), Failure> {
    match role {
        Role::Authorizer => Ok(()),
        Role::Responder => stdin.send(to_stdin).await,
        Role::Filter => {
            stdin.send(to_stdin).await?;
            data.send(to_data).await
        }
    }
}

/// What a stream is sent from.
enum Source {
    Nothing,
    Text(Vec<u8>),
    File(File),
    Stdin,
}

impl Source {
    fn of_data(data: Option<&str>) -> Result<Source, Failure> {
        match data {
            None => Ok(Source::Nothing),
            Some("@-") => Ok(Source::Stdin),
            Some(data) => match data.strip_prefix('@') {
                Some(path) => open(&PathBuf::from(path)).map(Source::File),
                None => Ok(Source::Text(data.into())),
            },
        }
    }

    /// How much it will be, where that is known before.
    fn length(&self) -> Option<u64> {
        match self {
            Source::Nothing | Source::Stdin => None,
            Source::Text(text) => Some(text.len() as u64),
            Source::File(file) => {
                file.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len())
            }
        }
    }

    async fn send(self, mut upload: Upload) -> Result<(), Failure> {
        let sent = match self {
            Source::Nothing => Ok(()),
            Source::Text(text) => upload.write(&text).await,
            Source::File(file) => send_all(file, &mut upload).await?,
            Source::Stdin => send_all(std::io::stdin(), &mut upload).await?,
        };
        match sent.and(upload.end().await) {
            // The answer is complete, or the connection is gone: the answer's reader says which.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Sends everything that `source` has, read on a thread of its own: a terminal may never give anything.
async fn send_all(
    mut source: impl Read + Send + 'static,
    upload: &mut Upload,
) -> Result<Result<(), Error>, Failure> {
    let (sender, mut pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let piece = match source.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(|error| Failure::running(format!("--data: {error}")))?;
        if let Err(error) = upload.write(&piece).await {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// Prints an answer as it comes, and keeps in mind what a web server would look at.
struct Printer {
    body_alone: bool,
    head: HeadParser,
    /// Once the head is whole: the status and the length that it announces.
    known: Option<(u16, Option<u64>)>,
    body_bytes: u64,
}

impl Printer {
    fn new(body_alone: bool) -> Printer {
        Printer { body_alone, head: HeadParser::default(), known: None, body_bytes: 0 }
    }

    fn stdout(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        let mut body = bytes.clone();
        if self.known.is_none() {
            match self.head.push(bytes).map_err(|error| explain(error.into()))? {
                None => body.clear(),
                Some((head, start)) => {
                    let length =
                        head.header("Content-Length").and_then(|value| std::str::from_utf8(value).ok());
                    self.known = Some((head.status, length.and_then(|length| length.parse().ok())));
                    body = start;
                }
            }
        }
        self.body_bytes += body.len() as u64;
        let shown = if self.body_alone { &body } else { bytes };
        let mut out = std::io::stdout().lock();
        out.write_all(shown)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::running(format!("stdout: {error}")))
    }

    fn stderr(&self, bytes: &[u8]) -> Result<(), Failure> {
        std::io::stderr().write_all(bytes).map_err(|error| Failure::running(format!("stderr: {error}")))
    }

    /// The last line, and whether all is well.
    fn finish(self, end: End, is_aborted: bool, role: Role, is_head: bool) -> Result<(), Failure> {
        let Printer { head, known, body_bytes, .. } = self;
        let status = known.map_or("no response head".to_owned(), |(status, _)| format!("status {status}"));
        let aborted = if is_aborted { "aborted; " } else { "" };
        eprintln!("-- {aborted}{status}, {body_bytes} bytes of body; {end}");
        if is_aborted {
            return Ok(());
        }
        match known {
            _ if !end.is_complete() => {
                Err(Failure::running(format!("the application refused the request: {end}")))
            }
            None => Err(explain(head.truncated().into())),
            Some((_, Some(length))) if role != Role::Authorizer && !is_head && length != body_bytes => {
                let text = format!("the body has {body_bytes} bytes where Content-Length says {length}");
                Err(Failure::running(text))
            }
            Some(_) => Ok(()),
        }
    }
}

fn show_records() -> Tap {
    let transcript = Mutex::new(Transcript::default());
    Arc::new(move |record| {
        let text = transcript.lock().expect("no holder panics").text(record, "    ");
        // Nothing can be said where stderr is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    })
}

/// The cause, and the remedy where there is one.
fn explain(error: Error) -> Failure {
    match error.remedy() {
        Some(remedy) => Failure::running(format!("{error}; {remedy}")),
        None => Failure::running(error),
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Zero means never.
async fn sleep_or_never(time: Duration) {
    if time.is_zero() { std::future::pending().await } else { tokio::time::sleep(time).await }
}

fn parse_role(text: &str) -> Result<Role, String> {
    let role = Role::ALL.iter().find(|role| role.name() == text);
    role.copied().ok_or_else(|| "neither responder, authorizer nor filter".to_owned())
}

fn parse_param(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".to_owned()),
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.trim().to_owned())),
        _ => Err("not 'Name: value'".to_owned()),
    }
}
