//! `ringway serve probe` as a process of its own, and requests to it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ringway::client::{Address, Client, Complete, Exchange, Head, HeadParser, Request};
use tempfile::TempDir;

/// Longer than anything takes here; what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The server, on a Unix socket in a directory that goes with it.
pub(crate) struct Served {
    child: Child,
    stderr: BufReader<ChildStderr>,
    directory: TempDir,
}

/// A whole answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) app_status: u32,
}

impl Served {
    /// Starts with these further arguments and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Served {
        let directory = TempDir::new().expect("a temporary directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["serve", "probe", "--workers", "1", "--listen"])
            .arg(format!("unix:{}", directory.path().join("probe.sock").display()))
            .args(arguments)
            .env("RUST_LOG", "info")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut served = Served { child, stderr, directory };
        served.wait_for_line("listening on ");
        served
    }

    /// Reads the log up to a line that contains `text`, and gives that line.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.stderr.read_line(&mut line).expect("the log is text");
            assert!(count > 0, "the log ended without {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn address(&self) -> Address {
        let path = self.directory.path().join("probe.sock");
        format!("unix:{}", path.display()).parse().expect("an address")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address()).await.expect("it listens")
    }

    /// Sends SIGTERM and waits for the end: how it exited, and the rest of its log.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).expect("the log is text");
        (status, log)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request with this body and takes the whole answer.
pub(crate) async fn ask(client: &Client, request: Request, body: &[u8]) -> Answered {
    let request = request.content_length(body.len() as u64);
    tokio::time::timeout(PATIENCE, exchange(client, &request, body)).await.expect("an answer in time")
}

pub(crate) async fn get(client: &Client, uri: &str) -> Answered {
    ask(client, Request::new("GET", uri), b"").await
}

async fn exchange(client: &Client, request: &Request, body: &[u8]) -> Answered {
    let Exchange { mut stdin, answer, .. } = client.begin(request).expect("an open connection");
    let sending = async {
        // The probe may answer without having read everything.
        if stdin.write(body).await.is_ok() {
            let _ = stdin.end().await;
        }
    };
    let (answer, ()) = tokio::join!(answer.complete(64 << 20), sending);
    taken_apart(answer.expect("a complete answer"))
}

pub(crate) fn taken_apart(answer: Complete) -> Answered {
    let parsed = HeadParser::default().push(&answer.stdout).expect("a good head");
    let (head, body) = parsed.expect("a whole head");
    Answered {
        status: head.status,
        head,
        body: body.to_vec(),
        stderr: String::from_utf8(answer.stderr).expect("text"),
        app_status: answer.end.app_status,
    }
}

impl Answered {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.head.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.head));
        std::str::from_utf8(value).expect("text")
    }
}
