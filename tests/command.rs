//! The command as its user meets it: what it prints, where, and its exit codes.

#[path = "support/served.rs"]
#[allow(dead_code)] // the tests of the probe use the rest
mod served;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use served::{Served, get};

fn ringway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

/// Exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = ringway(arguments);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_2() {
    for (arguments, expected) in [
        (
            &["serve", "nothing"][..],
            "\"nothing\" is no application of this build, which has: probe, cgi:DIRECTORY",
        ),
        (&["serve", "cgi:/nowhere"], "cgi:/nowhere: No such file"),
        (&["serve", "probe", "--workers", "many"], "--workers \"many\": not a whole number"),
        (&["serve", "probe", "--listen", "nonsense"], "cannot listen on nonsense"),
        (&["serve", "probe"], "file descriptor 0"),
        (&["serve", "probe", "--config", "/nowhere.toml"], "--config \"/nowhere.toml\""),
        (&["serve", "probe", "--listen", "127.0.0.1:0", "--log", "a=b=c"], "--log \"a=b=c\""),
        (&["request", "127.0.0.1:1", "/", "--data", "@/nowhere"], "/nowhere: No such file"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(
            (code, stdout.as_str(), stderr.matches('\n').count()),
            (2, "", 1),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.starts_with(&format!("ringway {}: ", arguments[0])), "{stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    for arguments in [&["request", "nowhere", "/"][..], &["frobnicate"], &[]] {
        assert_eq!(run(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_file_of_settings_is_obeyed_and_its_errors_located() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ringway.toml");
    std::fs::write(&file, "workers = 1\nsend_timeout = \"soon\"\n").unwrap();
    let name = file.to_str().unwrap();
    let (code, _, stderr) = run(&["serve", "probe", "--config", name]);
    assert_eq!(code, 2);
    assert!(stderr.contains(&format!("{name}:2: send_timeout = \"soon\": not a time")), "{stderr}");
}

#[tokio::test]
async fn serve_says_how_it_listens_and_ends_in_order() {
    let served = Served::start(&["--listen", "127.0.0.1:0", "--driver", "epoll", "--mount", "/app"]);
    let client = served.client().await;
    assert_eq!(get(&client, "/app/hello").await.text(), "Hello, world!\n");
    assert_eq!(get(&client, "/apple/hello").await.status, 404);
    let asleep = tokio::spawn(async move { get(&client, "/app/sleep?ms=500").await });
    // It must have begun before the signal.
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let ended = tokio::task::spawn_blocking(move || {
        let socket = served.address();
        let (status, log) = { served.terminate() };
        (socket, status, log)
    });
    assert_eq!(asleep.await.unwrap().text(), "slept 500\n");
    let (socket, status, log) = ended.await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    let path = socket.to_string().replace("unix:", "");
    assert!(!std::path::Path::new(&path).exists(), "the socket file is removed");
}

#[test]
fn request_prints_what_came_and_says_how_it_ended() {
    let served = Served::start(&[]);
    let address = served.address().to_string();
    let (code, stdout, stderr) = run(&["request", &address, "/hello"]);
    assert_eq!(
        (code, stderr.as_str()),
        (0, "-- status 200, 14 bytes of body; app status 0, REQUEST_COMPLETE\n")
    );
    assert!(
        stdout.starts_with("Content-Type: text/plain\r\n") && stdout.ends_with("\r\n\r\nHello, world!\n")
    );

    let (code, stdout, _) = run(&["request", &address, "--keep", "-b", "/hello", "/hello", "/aborted"]);
    assert_eq!((code, stdout.as_str()), (0, "Hello, world!\nHello, world!\n0\n"));

    let (_, stdout, stderr) = run(&["request", &address, "/stderr?msg=mind", "-v", "--param", "X=y z"]);
    assert!(stdout.ends_with("ok\n"));
    for line in
        ["> BEGIN_REQUEST 1 responder\n", "    X = y z\n", "< STDERR 1 length=5", "    mind\\n\n", "\nmind\n"]
    {
        assert!(stderr.contains(line), "{line:?} in {stderr}");
    }

    let (code, stdout, _) = run(&["request", &address, "/env", "-b", "-H", "Accept: x/y", "--mount", "/env"]);
    assert!(
        code == 0
            && stdout.contains("\"HTTP_ACCEPT\": \"x/y\"")
            && stdout.contains("\"SCRIPT_NAME\": \"/env\"")
    );

    let (code, stdout, _) = run(&["request", &address, "--get-values"]);
    assert!(code == 0 && stdout.contains("FCGI_MPXS_CONNS=1\n"), "{stdout}");
}

#[test]
fn request_sends_text_files_and_standard_input() {
    let served = Served::start(&[]);
    let address = served.address().to_string();
    assert_eq!(run(&["request", &address, "/echo", "-b", "-d", "some text"]).1, "some text");

    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..200_000_u32).map(|index| index as u8).collect();
    std::fs::write(file.path(), &content).unwrap();
    let data = format!("@{}", file.path().display());
    assert!(ringway(&["request", &address, "/echo", "-b", "-d", &data]).stdout == content);

    let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(["request", &address, "/echo", "-b", "-d", "@-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"from a pipe");

    let path = file.path().to_str().unwrap();
    let (_, stdout, _) = run(&["request", &address, "/", "--role", "filter", "--file", path, "-b"]);
    assert!(stdout.contains("\ndata 200000 "), "{stdout}");
    let mtime = stdout.lines().find_map(|line| line.strip_prefix("mtime ")).unwrap();
    assert!(mtime.parse::<u64>().is_ok_and(|mtime| mtime > 1_000_000_000), "{stdout}");
}

#[test]
fn request_aborts_and_gives_up() {
    let served = Served::start(&[]);
    let address = served.address().to_string();
    let (code, _, stderr) = run(&["request", &address, "/sleep?ms=60000", "--abort-after", "50ms"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.starts_with("-- aborted; "), "{stderr}");
    let (code, _, stderr) = run(&["request", &address, "/sleep?ms=60000", "--timeout", "50ms"]);
    assert_eq!((code, stderr.as_str()), (1, "ringway request: no complete answer within 50ms (--timeout)\n"));
}

/// Answers one connection with these bytes.
fn impostor(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The beginning of the request, whatever it is.
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(answer).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Closing with bytes unread would reset the connection.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    address
}

#[test]
fn an_incomplete_answer_is_exit_code_1_with_the_remedy() {
    let head_alone = b"\x01\x06\0\x01\0\x10\0\0Content-Length: \x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
    let short = b"\x01\x06\0\x01\0\x17\0\0Content-Length: 9\n\nbody\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
    let refused = b"\x01\x03\0\x01\0\x08\0\0\0\0\0\0\x02\0\0\0";
    for (answer, cause, remedy) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "protocol version 72",
            "an HTTP server listens at this address",
        ),
        (b"", "closed the connection before the answer was complete", "look into the application's log"),
        (head_alone, "before the empty line that ends the head", "an empty line before the body"),
        (short, "the body has 4 bytes where Content-Length says 9", ""),
        (refused, "the application refused the request: app status 0, OVERLOADED", ""),
    ] {
        let (code, _, stderr) = run(&["request", &impostor(answer).to_string(), "/"]);
        assert_eq!(code, 1, "{stderr}");
        let line = stderr.lines().last().unwrap();
        assert!(
            line.starts_with("ringway request: ") && line.contains(cause) && line.contains(remedy),
            "{line}"
        );
    }
    let (code, _, stderr) = run(&["request", "unix:/nowhere/s", "/"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("start the application, or correct the socket's path"), "{stderr}");
}

/// `ringway demo` on a port of its own.
struct Demo(Child, SocketAddr);

impl Demo {
    fn start() -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .args(["demo", "--http", "127.0.0.1:0", "--log", "error"])
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("http://").expect("it says where");
        Demo(child, rest.split('/').next().unwrap().parse().expect("an address"))
    }

    /// One HTTP request on a connection of its own: the status line, the headers and the body as they came.
    fn ask(&self, head: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.1).unwrap();
        let length = body.len();
        write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
    }

    fn get(&self, path: &str) -> (String, String) {
        let (head, body) = self.ask(&format!("GET {path} HTTP/1.1"), b"");
        (head, String::from_utf8(body).expect("text"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demo_shows_the_probe_and_the_records() {
    let demo = Demo::start();
    let (head, page) = demo.get("/");
    assert!(head.starts_with("HTTP/1.1 200 ") && page.contains("No request yet"), "{head}");

    let (head, body) = demo.get("/hello");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"), "{head}");
    assert_eq!(body, "Hello, world!\n");
    let (_, page) = demo.get("/");
    for text in ["GET /hello", "BEGIN_REQUEST 1 responder keep_conn", "PATH_INFO = /hello", "END_REQUEST 1"] {
        assert!(page.contains(text), "{text}");
    }

    let body: Vec<u8> = (0..2_000_000_u32).map(|index| index as u8).collect();
    let (_, echoed) = demo.ask("POST /echo HTTP/1.1", &body);
    assert!(echoed == body, "the body comes back");

    assert!(demo.get("/roles/authorizer?PROBE_ALLOW=1").0.contains("variable-probe_user: alice"));
    assert!(demo.get("/roles/authorizer").0.starts_with("HTTP/1.1 403 "));
    assert!(demo.get("/roles/filter").1.contains("data 45 "));
    assert!(demo.get("/panic").0.starts_with("HTTP/1.1 500 "));
    assert!(demo.get("/status?code=100").0.starts_with("HTTP/1.1 502 "));

    let (code, _, stderr) = run(&["demo", "--http", &demo.1.to_string()]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("another program has this port; choose one with --http"), "{stderr}");
}

#[test]
fn a_visitor_who_goes_away_cancels_his_request() {
    let demo = Demo::start();
    let mut stream = TcpStream::connect(demo.1).unwrap();
    write!(stream, "GET /sleep?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(stream);
    let deadline = std::time::Instant::now() + served::PATIENCE;
    while demo.get("/aborted").1 != "1\n" {
        assert!(std::time::Instant::now() < deadline, "it is not counted");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
