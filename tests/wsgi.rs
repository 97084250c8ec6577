//! `ringway serve wsgi:MODULE:CALLABLE`, as its user meets it. What an application sees is tested with the package,
//! in `python/tests`.

#[path = "support/peer.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod peer;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use peer::{Ask, Peer};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const APPLICATION: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SCRIPT_NAME"].encode(), b"|", environ["PATH_INFO"].encode(), b"\n"]
"#;

/// `ringway serve` in a folder with the module `app`.
fn serve(folder: &TempDir, arguments: &[&str]) -> Command {
    std::fs::write(folder.path().join("app.py"), APPLICATION).expect("a module");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command
        .arg("serve")
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn an_application_of_the_working_directory_is_served_and_ends_on_a_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    let mut command =
        serve(&folder, &["wsgi:app:application", "--mount", "/app", "--workers", "1", "--listen", &address]);
    let mut child = command.spawn().expect("the command starts");
    let began = Instant::now();
    let mut peer = loop {
        if folder.path().join("socket").exists()
            && let Ok(peer) = std::panic::catch_unwind(|| Peer::connect(&address))
        {
            break peer;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    };
    for path in ["/app/a/b", "/app/c"] {
        let answer = peer.fetch(&Ask::get(path));
        let expected = format!("/app|{}\n", &path["/app".len()..]);
        assert_eq!((answer.status(), answer.text()), (200, expected.as_str()));
    }
    drop(peer);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_module_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let output =
        serve(&folder, &["wsgi:nowhere:application", "--listen", "127.0.0.1:0"]).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("nowhere") && stderr.contains("sys.path"), "{stderr}");
}
