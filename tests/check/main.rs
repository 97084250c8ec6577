//! `ringway check`: each thing that can be wrong is set up for real, and named.
//!
//! - here: the way from the socket to the answer
//! - [`web_server`]: the files of web servers
//! - [`symptoms`]: what a web server's visitors and its log show, and what check makes of it

#[path = "../support"]
#[allow(dead_code)] // the tests behind web servers use the rest
mod support {
    pub(crate) mod process;
    pub(crate) mod web;
}

mod symptoms;
mod web_server;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use ringway::proto::{ProtocolStatus, RecordType, RequestId, encoder};
use support::process::{Process, Ringway, eventually, free_address};
use support::web::find;
use tempfile::TempDir;

/// What `ringway check --json` said.
struct Checked {
    code: i32,
    report: serde_json::Value,
    stderr: String,
}

fn check(arguments: &[&str]) -> Checked {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["check", "--json"]).args(arguments);
    if !arguments.contains(&"--timeout") {
        command.args(["--timeout", "2s"]);
    }
    checked(&mut command)
}

fn checked(command: &mut Command) -> Checked {
    let output = command.stdin(Stdio::null()).output().expect("the command starts");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Checked { code: output.status.code().unwrap_or_else(|| panic!("{stderr}")), report, stderr }
}

impl Checked {
    /// The first step of that name, as `verdict: found => remedy`.
    fn step(&self, name: &str) -> String {
        let steps = self.report["steps"].as_array().expect("steps");
        let Some(step) = steps.iter().find(|step| step["step"] == name) else {
            return format!("no step {name} in {:#}", self.report);
        };
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        format!("{}: {} => {}", text("verdict"), text("found"), text("remedy"))
    }

    /// That this step is the first that is wrong, and what is said of it.
    #[track_caller]
    fn is_wrong(&self, step: &str, said: &[&str]) {
        let text = self.step(step);
        assert_eq!((self.code, self.report["wrong"].as_str()), (1, Some(step)), "{:#}", self.report);
        for words in [&["wrong: "], said].concat() {
            assert!(text.contains(words), "{words:?} in {text}");
        }
        let line = self.stderr.lines().last().unwrap_or_default();
        assert!(line.starts_with(&format!("ringway check: {step}: ")), "{line}");
    }
}

/// A folder that everybody may enter, as tempfile's are not.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// The probe, whose socket file has this mode.
fn serve(folder: &Path, mode: u32, arguments: &[&str]) -> Ringway {
    let ringway = Ringway::start(folder, "epoll", arguments);
    fs::set_permissions(&ringway.unix, fs::Permissions::from_mode(mode)).expect("it is ours");
    ringway
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Another user than ourselves; what it may do is known of the modes even where we cannot become it.
const NOBODY: &str = "nobody";

#[test]
fn a_server_that_is_well_passes_every_step() {
    let folder = open_folder();
    let ringway = serve(folder.path(), 0o666, &[]);
    for address in [unix(&ringway.unix), ringway.tcp.to_string()] {
        let checked = check(&[&address, "--as", NOBODY, "--uri", "/hello"]);
        assert_eq!((checked.code, checked.report["well"].as_bool()), (0, Some(true)), "{:#}", checked.report);
        let pid = format!("(pid {})", ringway.process.id());
        for (step, said) in [
            ("connect", "accepts connections"),
            ("process", pid.as_str()),
            ("output", "standard error are open"),
            ("limits", "file descriptors open"),
            ("protocol", "FCGI_MPXS_CONNS=1"),
            ("request", "GET /hello is answered with 200, 14 bytes"),
        ] {
            let text = checked.step(step);
            assert!(text.starts_with("ok: ") && text.contains(said), "{step}: {text}");
        }
    }
    // For people: the same steps, a line each.
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    let output = command.args(["check", &unix(&ringway.unix)]).output().expect("the command starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nok     socket       "), "{text}");
    assert!(text.contains("\nnote   request      GET / is answered with 404"), "{text}");
    assert!(text.contains("\n                    => ask for a page that it has with --uri"), "{text}");
}

#[test]
fn whom_a_directory_or_the_socket_keeps_out_is_named() {
    let folder = open_folder();
    let inner = folder.path().join("private");
    fs::create_dir(&inner).expect("a folder");
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let ringway = serve(&inner, 0o600, &[]);
    let address = unix(&ringway.unix);
    let closed = format!("nobody may not enter {} (mode 0700, ", inner.display());
    check(&[&address, "--as", NOBODY]).is_wrong("directories", &[&closed, "chmod o+x"]);
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let kept_out = format!("{} has mode 0600 and belongs to ", ringway.unix.display());
    check(&[&address, "--as", NOBODY]).is_wrong(
        "socket",
        &["nobody may not connect", &kept_out, "--socket-group nogroup --socket-mode 0660"],
    );
    // Ourselves it lets in.
    assert_eq!(check(&[&address]).code, 0);
}

/// What a user who is not root is told of another one: what the modes say, and that root would know more.
#[test]
fn who_is_not_root_goes_by_the_modes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let folder = open_folder();
    let ringway = serve(folder.path(), 0o660, &[]);
    // The build's folder may be closed to others.
    let program = folder.path().join("ringway");
    fs::copy(env!("CARGO_BIN_EXE_ringway"), &program).expect("it can be copied");
    let as_nobody = |user: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(&program);
        checked(command.args(["check", "--json", &unix(&ringway.unix), "--as", user]))
    };
    let checked = as_nobody("root");
    assert_eq!(checked.code, 0, "{:#}", checked.report);
    assert!(checked.step("socket").starts_with("ok: root may connect"), "{}", checked.step("socket"));
    let said = checked.step("connect");
    assert!(said.starts_with("skipped: nobody may not connect, and cannot try it as root"), "{said}");
    as_nobody("nobody").is_wrong("socket", &["nobody may not connect"]);
}

#[test]
fn what_is_no_listening_socket_is_named() {
    let folder = open_folder();
    let path = folder.path().join("s");
    let address = unix(&path);
    check(&[&address]).is_wrong("socket", &["there is nothing at ", "--listen unix:"]);
    fs::write(&path, "").expect("a file");
    check(&[&address]).is_wrong("socket", &["is a regular file, not a socket"]);
    check(&[&unix(&path.join("below"))]).is_wrong("directories", &["is not a directory"]);
    check(&["unix:/nowhere/at/all/s"])
        .is_wrong("directories", &["/nowhere does not exist", "RuntimeDirectory="]);
    fs::remove_file(&path).expect("it is there");
    drop(UnixListener::bind(&path).expect("a socket"));
    check(&[&address])
        .is_wrong("connect", &["is stale: nobody listens there", "Ringway replaces a stale socket"]);
    fs::remove_file(&path).expect("it is there");
    let _datagrams = UnixDatagram::bind(&path).expect("a socket");
    check(&[&address]).is_wrong("connect", &["a socket of another type"]);
    check(&[&free_address().to_string()]).is_wrong("connect", &["nobody listens on 127.0.0.1:"]);
    check(&["unix:@ringway-nobody-listens-here"]).is_wrong("connect", &["nobody listens"]);
}

#[test]
fn a_full_backlog_is_named() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let folder = open_folder();
    let path = folder.path().join("s");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(&path).expect("a short path")).expect("a free path");
    listen(&listener, 0).expect("it is bound");
    let _waiting = UnixStream::connect(&path).expect("one may wait");
    check(&[&unix(&path)]).is_wrong("connect", &["the backlog of ", " is full", "net.core.somaxconn"]);
}

/// Serves connections with `answer`, each on a thread of its own, as long as the test lasts.
fn impostor(folder: &Path, answer: impl Fn(UnixStream) + Copy + Send + 'static) -> String {
    let path = folder.join("impostor.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    unix(&path)
}

/// An application that answers GET_VALUES with nothing and every request with these bytes of stdout.
fn application(mut stream: UnixStream, stdout: &[u8], stderr: &[u8]) {
    let mut bytes = vec![0; 4096];
    let Ok(1..) = stream.read(&mut bytes) else { return };
    let mut out = Vec::new();
    if bytes[1] == u8::from(RecordType::GetValues) {
        encoder::get_values_result(&mut out, []);
    } else {
        for (record_type, content) in [(RecordType::Stderr, stderr), (RecordType::Stdout, stdout)] {
            if !content.is_empty() {
                encoder::stream(&mut out, record_type, RequestId::ONE, content);
            }
        }
        encoder::stream_end(&mut out, RecordType::Stdout, RequestId::ONE);
        encoder::end_request(&mut out, RequestId::ONE, 0, ProtocolStatus::RequestComplete);
    }
    let _ = stream.write_all(&out);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

#[test]
fn who_speaks_something_else_is_named() {
    let folder = open_folder();
    // Waits for a whole line, as HTTP servers do.
    let address = impostor(folder.path(), |mut stream| {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            line.push(byte[0]);
        }
        let _ = stream.write_all(if line.starts_with(b"GET ") { b"HTTP/1.0 200 OK\r\n\r\n" } else { b"" });
    });
    check(&[&address, "--timeout", "500ms"])
        .is_wrong("protocol", &["an HTTP server listens here", "proxy_pass"]);
    let address = impostor(folder.path(), |mut stream| {
        let mut bytes = [0; 64];
        let count = stream.read(&mut bytes).unwrap_or_default();
        let is_scgi = bytes[..count]
            .split(|byte| *byte == b':')
            .nth(1)
            .is_some_and(|rest| rest.starts_with(b"CONTENT_LENGTH"));
        let _ = stream.write_all(if is_scgi { b"Status: 200 OK\r\n\r\n" } else { b"" });
    });
    check(&[&address]).is_wrong("protocol", &["an SCGI server listens here", "scgi_pass"]);
    let address = impostor(folder.path(), |mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"220 mail ESMTP\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    check(&[&address])
        .is_wrong("protocol", &["something other than FastCGI listens here: it answers \"220 mail"]);
    let address = impostor(folder.path(), drop);
    check(&[&address]).is_wrong("protocol", &["closed without a word", "FCGI_WEB_SERVER_ADDRS"]);
    let address = impostor(folder.path(), |stream| {
        std::thread::sleep(support::process::PATIENCE);
        drop(stream);
    });
    check(&[&address, "--timeout", "200ms"]).is_wrong("protocol", &["nothing is said within 200ms"]);
}

/// The real one.
#[test]
fn uwsgi_is_known_by_its_answer() {
    let Some(uwsgi) = find("uwsgi") else { return };
    let (folder, address) = (open_folder(), free_address());
    let mut command = Command::new(uwsgi);
    command.args(["--plugin", "notfound", "--socket", &address.to_string()]).stdin(Stdio::null());
    let mut process = Process::start("uwsgi", &mut command, folder.path());
    process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    check(&[&address.to_string()]).is_wrong("protocol", &["a uwsgi server listens here", "uwsgi_pass"]);
}

/// A real web server where the application should be.
#[test]
fn http_is_known_by_its_answer() {
    let folder = open_folder();
    let address = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["demo", "--http", &address.to_string()]).stdin(Stdio::null());
    let mut process = Process::start("demo", &mut command, folder.path());
    process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    check(&[&address.to_string()]).is_wrong("protocol", &["an HTTP server listens here"]);
}

#[test]
fn what_an_application_answers_is_judged() {
    let folder = open_folder();
    let address = impostor(folder.path(), |stream| application(stream, b"", b"Traceback: no module"));
    check(&[&address])
        .is_wrong("request", &["premature end of script headers", "it says \"Traceback: no module\""]);
    let address = impostor(folder.path(), |stream| application(stream, b"debug\nStatus: 200\n\nbody", b""));
    check(&[&address])
        .is_wrong("request", &["premature end of script headers", "line 1 is no header: \"debug\""]);
    let unknown = b"Status: 404 Not Found\r\n\r\nFile not found.\n";
    let address = impostor(folder.path(), |stream| application(stream, unknown, b"Primary script unknown"));
    check(&[&address]).is_wrong("request", &["PHP answers here", "SCRIPT_FILENAME"]);

    let ringway = serve(folder.path(), 0o666, &["--mount", "/app"]);
    let address = unix(&ringway.unix);
    check(&[&address, "--uri", "/app/panic", "--mount", "/app"])
        .is_wrong("request", &["GET /app/panic is answered with 500"]);
    check(&[&address, "--uri", "/app/sleep?ms=60000", "--timeout", "300ms"])
        .is_wrong("request", &["no answer within 300ms", "hangs"]);
    let checked = check(&[&address]);
    assert!(checked.code == 0 && checked.step("request").starts_with("note: GET / is answered with 404"));
    assert!(checked.step("request").contains("give --mount"), "{}", checked.step("request"));
    assert_eq!(check(&[&address, "--uri", "/app/hello", "--mount", "/app"]).code, 0);
}

#[test]
fn descriptors_that_run_out_are_noticed() {
    let folder = open_folder();
    let path = folder.path().join("s");
    let program = env!("CARGO_BIN_EXE_ringway");
    let script = format!(
        "ulimit -n 40; exec {program} serve probe --driver epoll --workers 1 --listen {}",
        unix(&path)
    );
    let mut command = Command::new("sh");
    let mut process =
        Process::start("ringway", command.args(["-c", &script]).stdin(Stdio::null()), folder.path());
    process.wait_until("serves", || Ringway::accepts(&unix(&path)));
    let few = check(&[&unix(&path)]);
    assert!(few.step("limits").starts_with("note: ringway (pid "), "{}", few.step("limits"));
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).expect("the backlog has room")).collect();
    let said = eventually("all descriptors are taken", || {
        let checked = check(&[&unix(&path), "--timeout", "200ms"]);
        (checked.report["wrong"] == "limits").then(|| checked.step("limits"))
    });
    assert!(said.contains(" of 40 file descriptors open") && said.contains("LimitNOFILE="), "{said}");
    drop(idle);
}

/// fcgiwrap, started as careless scripts start things.
#[test]
fn closed_output_is_noticed() {
    let Some(fcgiwrap) = find("fcgiwrap") else { return };
    let folder = open_folder();
    let path = folder.path().join("s");
    let script = format!("exec {} -s {} >&- 2>&-", fcgiwrap.display(), unix(&path));
    let mut command = Command::new("sh");
    let mut process =
        Process::start("fcgiwrap", command.args(["-c", &script]).stdin(Stdio::null()), folder.path());
    process.wait_until("accepts", || Ringway::accepts(&unix(&path)));
    let checked = check(&[&unix(&path)]);
    let said = checked.step("output");
    assert_eq!(checked.report["wrong"], "output", "{:#}", checked.report);
    assert!(said.contains("is closed") || said.contains("is the FastCGI socket itself"), "{said}");
}

/// A host that has no descriptor left for a ring.
#[test]
fn a_host_that_denies_io_uring_is_named() {
    for (driver, verdict) in [("uring", "wrong: io_uring was asked for"), ("auto", "note: driver epoll")] {
        // Whoever runs the tests may hand down more than three.
        let script = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n 4
                      exec \"$0\" check unix:/nowhere/s --json --driver \"$1\"";
        let mut command = Command::new("sh");
        let checked = checked(command.args(["-c", script, env!("CARGO_BIN_EXE_ringway"), driver]));
        let said = checked.step("driver");
        assert!(said.starts_with(verdict) && said.contains("ulimit -n"), "{said}");
    }
    let checked = check(&["unix:/nowhere/s", "--driver", "epoll"]);
    assert_eq!(checked.step("driver"), "ok: driver epoll, as configured => ");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (arguments, said) in [
        (&["check", "/run/s"][..], "a Unix socket is written unix:/path"),
        (&["check", "unix:/s", "--as", "no such user"], "there is no user \"no such user\" here"),
        (
            &["check", "unix:/s", "--server-config", "/nowhere.conf"],
            "--server-config /nowhere.conf: No such file",
        ),
        (&["check", "unix:/s", "--driver", "kqueue"], "--driver \"kqueue\""),
        (&["check", "unix:/s", "--mount", "app"], "a prefix begins with /"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway")).args(arguments).output().expect("it starts");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
