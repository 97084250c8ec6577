//! `ringway decode` and `ringway request --from-capture`: captures of real web servers, and streams that break
//! the rules.

#[path = "support/served.rs"]
#[allow(dead_code)] // the tests of the probe use the rest
mod served;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ringway::proto::params::encode_pair;
use ringway::proto::{ProtocolStatus, RecordType, RequestId, Role, encoder};
use served::Served;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/captures")
}

/// Exit code, stdout, stderr.
fn shown(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    shown(command.args(arguments).stdin(Stdio::null()).output().expect("the command starts"))
}

/// `ringway decode -` of these bytes.
fn decode(bytes: &[u8]) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(["decode", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("it is piped").write_all(bytes).expect("it reads");
    shown(child.wait_with_output().expect("it ends"))
}

/// The complaints of `ringway decode`.
fn complaints(bytes: &[u8]) -> Vec<String> {
    let (code, stdout, stderr) = decode(bytes);
    let found: Vec<String> =
        stdout.lines().filter_map(|line| line.trim().strip_prefix("!! ")).map(str::to_owned).collect();
    assert_eq!(code, i32::from(!found.is_empty()), "{stdout}{stderr}");
    found
}

/// What web servers break themselves, and nothing else.
#[test]
fn captures_of_web_servers_keep_the_rules() {
    let mut count = 0;
    for entry in std::fs::read_dir(captures()).expect("captures") {
        let path = entry.expect("a capture").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let expected = match name.as_str() {
            name if name.ends_with("abort-upload") => {
                "the stream ends before the input of request 1 is complete"
            }
            // Eight zero bytes follow an empty POST.
            "cherokee-spawn-post-empty" | "cherokee-tcp-post-empty" => "protocol version 0 instead of 1",
            "cherokee-spawn-post-chunked" | "cherokee-tcp-post-chunked" => {
                "STDIN after the end of that stream"
            }
            _ => "",
        };
        let found = complaints(&std::fs::read(&path).expect("a capture"));
        match expected {
            "" => assert!(found.is_empty(), "{name}: {found:?}"),
            expected => assert!(found.iter().all(|text| text.starts_with(expected)), "{name}: {found:?}"),
        }
        assert_eq!(found.is_empty(), expected.is_empty(), "{name}");
        count += 1;
    }
    assert!(count > 100, "{count} captures");
}

#[test]
fn records_are_printed_with_their_places_and_fields() {
    let capture = captures().join("nginx-keepconn-get.bin");
    let (code, stdout, stderr) = run(&["decode", capture.to_str().expect("a name")]);
    assert_eq!((code, stderr.as_str()), (0, "-- 4 records, nothing wrong\n"));
    for line in [
        "       0 > BEGIN_REQUEST 1 responder keep_conn\n",
        "      16 > PARAMS 1 length=574 padding=2\n             QUERY_STRING = a=1&b=%20x\n",
        "     600 > PARAMS 1 end\n     608 > STDIN 1 end\n",
    ] {
        assert!(stdout.contains(line), "{line:?} in {stdout}");
    }
    // Each pair in a record of its own.
    let capture = captures().join("cherokee-tcp-get.bin");
    let (_, stdout, _) = run(&["decode", capture.to_str().expect("a name")]);
    assert!(stdout.contains("\n             PATH_INFO = /hello\n"), "{stdout}");
    assert_eq!(run(&["decode", "/nowhere"]).0, 2);
}

const ONE: RequestId = RequestId::ONE;

/// BEGIN_REQUEST, PARAMS and an empty STDIN.
fn request() -> Vec<u8> {
    let mut out = begun();
    encoder::stream_end(&mut out, RecordType::Stdin, ONE);
    out
}

fn begun() -> Vec<u8> {
    let mut out = Vec::new();
    encoder::begin_request(&mut out, ONE, Role::Responder, true);
    let mut pairs = Vec::new();
    for name in ["REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO"] {
        encode_pair(&mut pairs, name.as_bytes(), b"x");
    }
    encoder::stream(&mut out, RecordType::Params, ONE, &pairs);
    encoder::stream_end(&mut out, RecordType::Params, ONE);
    out
}

fn answer(stdout: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if !stdout.is_empty() {
        encoder::stream(&mut out, RecordType::Stdout, ONE, stdout);
    }
    encoder::stream_end(&mut out, RecordType::Stdout, ONE);
    encoder::end_request(&mut out, ONE, 0, ProtocolStatus::RequestComplete);
    out
}

#[test]
fn a_broken_rule_is_named_below_its_record() {
    let good = answer(b"Status: 200\n\nbody");
    assert_eq!(complaints(&[request(), good.clone(), request(), good.clone()].concat()), [""; 0]);
    assert_eq!(complaints(&good), [""; 0]);
    let record = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let refused = record(&|out| encoder::end_request(out, ONE, 0, ProtocolStatus::Overloaded));
    assert_eq!(complaints(&[request(), refused].concat()), [""; 0]);
    let raw = |record_type: u8, id: u8, content: &[u8]| {
        [&[1, record_type, 0, id, 0, content.len() as u8, 0, 0], content].concat()
    };
    let bare =
        |content: &[u8]| [raw(1, 1, &[0, 1, 1, 0, 0, 0, 0, 0]), raw(4, 1, content), raw(4, 1, b"")].concat();
    for (bytes, expected) in [
        ([request(), answer(b"")].concat(), "the response has no head: the output ended after 0 bytes"),
        ([request(), answer(b"<p>Hello</p>\n\n")].concat(), "the response head is wrong: "),
        ([request(), answer(b"A: b\n")].concat(), "the response has no head: the output ended after 5 bytes"),
        ([request(), good.clone(), good.clone()].concat(), "STDOUT after END_REQUEST"),
        ([request(), b"HTTP/1.1 400 Bad Request\r\n".to_vec()].concat(), "protocol version 72 instead of 1"),
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "protocol version 71 instead of 1 (FastCGI 3.3): an HTTP client",
        ),
        (b"\0\x0e\0\0".to_vec(), "protocol version 0 instead of 1 (FastCGI 3.3): perhaps uwsgi"),
        (request()[..10].to_vec(), "the stream ends 6 bytes before the end of this record"),
        ([begun(), begun()].concat(), "BEGIN_REQUEST for a request that has not ended"),
        (raw(1, 1, b"short"), "BEGIN_REQUEST with 5 bytes of content instead of 8"),
        (raw(1, 1, &[0, 7, 1, 0, 0, 0, 0, 0]), "role 7 is none of the specification's"),
        (raw(1, 1, &[0, 1, 4, 0, 0, 0, 0, 0]), "flags 4 have bits other than FCGI_KEEP_CONN"),
        (raw(4, 0, b""), "PARAMS with request id 0"),
        (raw(9, 3, b""), "GET_VALUES with request id 3 instead of 0"),
        (raw(9, 0, b"\x09\x00short"), "the pair at byte 0 of PARAMS reaches beyond the stream's end"),
        (raw(77, 0, b""), "type 77 is none of the specification's"),
        (raw(5, 1, b"body"), "STDIN for request 1, which was not begun"),
        ([raw(1, 1, &[0, 1, 1, 0, 0, 0, 0, 0]), raw(5, 1, b"b")].concat(), "STDIN before the stream ahead"),
        ([request(), raw(8, 1, b"file")].concat(), "DATA to a role that has no such stream"),
        ([request(), raw(5, 1, b"")].concat(), "STDIN after the end of that stream"),
        ([request(), raw(3, 1, b"end")].concat(), "END_REQUEST with 3 bytes of content instead of 8"),
        ([request(), raw(3, 1, &[0, 0, 0, 0, 9, 0, 0, 0])].concat(), "protocol status 9 is none of"),
        (
            [request(), raw(6, 1, b"A: b\n\n")].concat(),
            "the stream ends before request 1 has its END_REQUEST",
        ),
        (bare(b"\x0b\x01REQUEST_URI/"), "REQUEST_METHOD is missing in PARAMS"),
        (bare(b"\x0b\x01SCRIPT_NAME/"), "neither PATH_INFO nor REQUEST_URI in PARAMS"),
        (bare(b"\x05\x05N"), "the pair at byte 0 of PARAMS reaches beyond the stream's end"),
    ] {
        let found = complaints(&bytes);
        assert!(found.iter().any(|text| text.starts_with(expected)), "{expected:?} in {found:?}");
    }
}

#[test]
fn captures_are_replayed_and_answered() {
    let served = Served::start(&[]);
    let address = served.address().to_string();
    for (name, answers, hellos) in [
        ("nginx-sub-get", 1, 1),
        // One request id, three times.
        ("nginx-keepconn-three", 3, 3),
        ("haproxy-mpxs-three", 3, 3),
        // What follows the request is no record.
        ("cherokee-tcp-post-empty", 1, 1),
        ("apache-authnz-authorizer", 1, 0),
    ] {
        let file = captures().join(name).with_extension("bin");
        let file = file.to_str().expect("a name");
        let (code, stdout, stderr) = run(&["request", &address, "--from-capture", file]);
        assert_eq!(code, 0, "{name}: {stdout}{stderr}");
        assert_eq!(stderr.matches("app status 0, REQUEST_COMPLETE\n").count(), answers, "{name}: {stderr}");
        assert_eq!(stdout.matches("\r\n\r\nHello, world!\n").count(), hellos, "{name}: {stdout}");
    }
    let file = captures().join("nginx-keepconn-get.bin");
    let file = file.to_str().expect("a name");
    let (_, _, stderr) = run(&["request", &address, "--from-capture", file, "-v"]);
    for line in ["> BEGIN_REQUEST 1 responder keep_conn\n", "    PATH_INFO = /hello\n", "< STDOUT 1 length="]
    {
        assert!(stderr.contains(line), "{line:?} in {stderr}");
    }
    let (code, _, stderr) = run(&["request", "unix:/nowhere/s", "--from-capture", file]);
    assert!(code == 1 && stderr.contains("start the application, or correct the socket's path"), "{stderr}");
    assert_eq!(run(&["request", &address, "--from-capture", "/nowhere"]).0, 2);
    assert_eq!(run(&["request", &address, "/", "--from-capture", file]).0, 2);
}
