//! Cherokee and mod_fastcgi, which Debian has no package of: what they sent when they were there is answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Ringway, allows};

matrix! {
    "cherokee", "host":
        cherokee_host ["not executed, no package: its 10 recordings are answered"] => replay("cherokee-tcp-", "/", 10);
    "cherokee", "interpreter":
        cherokee_interpreter ["not executed, no package: its 7 recordings are answered"] =>
            replay("cherokee-spawn-", "/yourapplication", 7);
    "apache", "mod_fastcgi":
        mod_fastcgi ["not executed, no package: its 6 recordings are answered"] =>
            replay("apache-modfastcgi-", "/", 6);
    "apache", "mod_fastcgi-external":
        mod_fastcgi_external ["not executed, no package: its 8 recordings are answered"] =>
            replay("apache-modfastcgi-ext-", "/", 8);
}

/// Sends every recording whose name begins so; each asks for `hello` below the mount.
fn replay(prefix: &str, mount: &str, expected: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/captures");
    let names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the recordings")
        .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
        .filter(|name| name.strip_prefix(prefix).is_some_and(|case| !case.starts_with("ext-")))
        .collect();
    assert_eq!(names.len(), expected, "{names:?}");
    for driver in ["uring", "epoll"].into_iter().filter(|driver| allows(driver)) {
        let state = tempfile::tempdir().expect("a folder");
        let ringway = Ringway::start(state.path(), driver, &["--mount", mount]);
        for name in &names {
            let recording = std::fs::read(folder.join(name)).expect("a recording");
            // Whole, and in pieces of which none has a whole record.
            for pieces in [recording.len(), 13] {
                let answer = ask(&ringway, &recording, pieces);
                assert!(answer.ends_with(b"\r\n\r\nHello, world!\n"), "{name}: {}", answer.escape_ascii());
            }
        }
    }
}

/// What comes on the standard output stream of the request, which must be over and complete when the connection ends.
fn ask(ringway: &Ringway, recording: &[u8], piece: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(ringway.tcp).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    for piece in recording.chunks(piece) {
        match stream.write_all(piece) {
            // It has its answer: after Cherokee's empty POST come bytes that are no record.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            result => result.expect("it can be sent"),
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer and the end");
    let (mut stdout, mut ends, mut rest) = (Vec::new(), 0, &bytes[..]);
    while let [1, record_type, 0, 1, high, low, padding, _, content @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        match record_type {
            6 => stdout.extend_from_slice(&content[..length]),
            3 => {
                ends += 1;
                assert_eq!(&content[..5], [0; 5], "app status 0, FCGI_REQUEST_COMPLETE");
            }
            other => panic!("record of type {other}"),
        }
        rest = &content[length + usize::from(*padding)..];
    }
    assert_eq!((ends, rest), (1, &[][..]));
    stdout
}
