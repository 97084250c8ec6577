//! `ringway serve cgi:DIRECTORY` behind nginx: real Perl and shell scripts, as their visitors see them.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::pages::pattern;
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{Process, Ringway, allows, eventually};
use crate::support::web::{Request, find};

const ENV: &str = "#!/usr/bin/perl
print qq(Content-Type: text/plain\\r\\n\\r\\n), map { qq($_=$ENV{$_}\\n) } sort keys %ENV;
print STDERR qq(a word of Perl to the log\\n);
";
const FORM: &str = "#!/usr/bin/perl
read(STDIN, my $body, $ENV{CONTENT_LENGTH});
print qq(Status: 201 Made\\nContent-Type: text/plain\\nSet-Cookie: a=1\\nSet-Cookie: b=2\\n\\n);
print length($body), qq( $ENV{CONTENT_TYPE}\\n);
";
/// Reads all before it answers: nginx sends no more of a body once it has the head of the answer.
const CAT: &str = "#!/bin/sh
cat > body.$$
printf 'Content-Type: application/octet-stream\\n\\n'
cat body.$$
rm body.$$
";
const EVENTS: &str = "#!/bin/sh
echo $$ > pid
printf 'Content-Type: text/event-stream\\n\\ndata: 0\\n\\n'
sleep 600
";

/// nginx before `ringway serve cgi:` before scripts.
struct Stand {
    // Dropped from the top: the web server ends first.
    nginx: Nginx,
    _ringway: Process,
    folder: TempDir,
    mount: &'static str,
}

impl Stand {
    fn new(driver: &str, mount: &'static str, options: &[&str]) -> Option<Stand> {
        (find("nginx").is_some() && allows(driver)).then(|| {
            let folder = conf::folder();
            let programs = folder.path().join("programs");
            std::fs::create_dir(&programs).expect("a folder");
            for (name, text) in [("env.pl", ENV), ("form.pl", FORM), ("cat.sh", CAT), ("events.sh", EVENTS)] {
                write(&programs.join(name), text, 0o755);
            }
            write(&programs.join("data.txt"), "not for visitors\n", 0o644);
            let address = format!("unix:{}", folder.path().join("socket").display());
            let prefix = if mount.is_empty() { "/" } else { mount };
            // Some spawners ignore SIGCHLD, and so do those that they start.
            let mut command = Command::new("sh");
            command.args(["-c", "trap '' CHLD; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ringway")]);
            command.arg("serve").arg(format!("cgi:{}", programs.display()));
            command.args([
                "--listen",
                &address,
                "--mount",
                prefix,
                "--driver",
                driver,
                "--socket-mode",
                "666",
            ]);
            command.env("SECRET", "of the server's environment").env_remove("RUST_LOG").stdin(Stdio::null());
            let mut ringway = Process::start("ringway", &mut command, folder.path());
            ringway.wait_until("serves", || Ringway::accepts(&address));
            let arguments = [&["--listen", &address, "--mount", prefix], options].concat();
            let nginx = Nginx::start(&folder.path().join("nginx"), &arguments);
            Stand { nginx, _ringway: ringway, folder, mount }
        })
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

matrix! {
    "nginx", "serve cgi:":
        root ["unix", "closed", "root", "Perl and shell scripts"] =>
            scripts(Stand::new("uring", "", &["--no-buffering"]));
        prefix ["unix", "kept", "prefix", "Perl and shell scripts"] =>
            scripts(Stand::new("epoll", "/cgi-bin", &["--no-buffering", "--keep-connections"]));
}

fn scripts(stand: Option<Stand>) {
    let Some(stand) = stand else { return };
    let front = stand.nginx.front(stand.mount);
    let target = front.target("env.pl/a%20b/c?x=%20");
    let answer = front.send(Request::get(&target).header("Proxy", "http://evil.test"));
    assert_eq!((answer.status, answer.headers("Content-Type")), (200, vec!["text/plain"]));
    let text = answer.text();
    let env: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let script_name = front.target("env.pl");
    for (name, value) in [
        ("SCRIPT_NAME", script_name.as_str()),
        ("PATH_INFO", "/a b/c"),
        ("QUERY_STRING", "x=%20"),
        ("REQUEST_METHOD", "GET"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("HTTP_HOST", "probe.test"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}: {env:?}");
    }
    for absent in ["HTTP_PROXY", "SECRET", "CONTENT_LENGTH", "HOME"] {
        assert_eq!(env.get(absent), None, "{absent}");
    }
    eventually("the line in nginx's log", || front.server.log().contains("a word of Perl").then_some(()));

    let request = Request::post(&front.target("form.pl"), pattern(70_000)).header("Content-Type", "text/x");
    let answer = front.send(request);
    assert_eq!((answer.status, answer.headers("Set-Cookie")), (201, vec!["a=1", "b=2"]));
    assert_eq!(answer.text(), "70000 text/x\n");
    for length in [0, 1, 3 << 20] {
        assert!(front.post("cat.sh", pattern(length)).body() == pattern(length), "{length} bytes");
    }
    for (page, status) in [("none", 404), ("", 404), ("data.txt", 403), ("../socket", 404)] {
        // Browsers resolve `..` themselves; who writes it escaped means harm.
        let page = page.replace("..", "%2e%2e");
        let status_seen = front.get(&page).status;
        assert!(
            status_seen == status || (page.contains("%2e") && status_seen >= 400),
            "{page}: {status_seen}"
        );
    }
    let head = front.send(Request::new("HEAD", &front.target("env.pl")));
    assert_eq!((head.status, head.body()), (200, vec![]));

    let mut events = front.get("events.sh");
    let mut event = [0; 9];
    events.read_exact(&mut event).expect("the first event");
    assert_eq!(&event, b"data: 0\n\n");
    let pid = std::fs::read_to_string(stand.folder.path().join("programs/pid")).expect("it runs");
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    drop(events);
    eventually("the script is gone with its visitor", || (!process.exists()).then_some(()));
}
