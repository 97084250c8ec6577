//! CGI programs behind a real server: real Perl and shell scripts, every driver, the public API.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ringway::cgi::Cgi;
use ringway::proto::RecordType;
use ringway::{Driver, Handle};
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

#[path = "support/peer.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod peer;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod server;

use peer::{Answer, Ask, Peer};
use server::{Serve, Served, each_driver, eventually};

each_driver! {
    the_environment_is_exact,
    a_program_has_nothing_else_of_ours,
    what_cannot_run_is_refused,
    heads_are_read_as_web_servers_do,
    bodies_of_any_size_are_streamed_both_ways,
    a_program_need_not_read_its_body,
    a_body_that_breaks_off_ends_the_program,
    output_is_passed_on_as_it_comes,
    stderr_goes_to_the_log_line_by_line,
    an_abort_ends_the_whole_process_group,
    a_program_that_takes_too_long_is_ended,
    only_so_many_run_at_a_time,
    a_program_may_work_on_after_its_answer,
    the_end_of_the_server_is_the_end_of_its_programs,
    no_zombie_is_left,
}

/// A server of the programs in a directory.
struct Stand {
    served: Served,
    folder: TempDir,
}

impl Stand {
    fn new(driver: Driver, programs: &[(&str, &str)], change: impl FnOnce(Cgi) -> Cgi) -> Stand {
        let folder = tempfile::tempdir().expect("a directory");
        for (name, text) in programs {
            write(&folder.path().join(name), text, 0o755);
        }
        let cgi = change(Cgi::new(folder.path()).expect("a directory of programs"));
        let served = Serve::new(driver).start(|server| server.responder("/", cgi));
        Stand { served, folder }
    }

    fn with(driver: Driver, programs: &[(&str, &str)]) -> Stand {
        Stand::new(driver, programs, |cgi| cgi)
    }

    fn peer(&self) -> Peer {
        self.served.connect()
    }

    /// The pid that a program has written.
    fn pid(&self, name: &str) -> Pid {
        let mut pid = None;
        eventually(&format!("the pid in {name}"), || {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|number| number.parse().ok()).and_then(Pid::from_raw);
            pid.is_some()
        });
        pid.expect("a pid")
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
}

fn get(path: &str) -> Ask {
    let mut ask = Ask::get("/");
    ask.params.clear();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    ask.param("REQUEST_METHOD", "GET")
        .param("SCRIPT_NAME", "")
        .param("PATH_INFO", path)
        .param("QUERY_STRING", query)
}

fn post(path: &str, body: impl Into<Vec<u8>>) -> Ask {
    let body = body.into();
    let mut ask = get(path).param("CONTENT_LENGTH", body.len().to_string());
    ask.params[0].1 = b"POST".to_vec();
    ask.stdin = body;
    ask
}

/// Whether no process has this number, or one that is only not yet reaped by its new parent.
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err() || state(pid.as_raw_nonzero().get()) == Some('Z')
}

/// The letter of a process's state.
fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

const ENV: &str = r#"#!/usr/bin/perl
print "Content-Type: text/plain\r\n\r\n";
print "$_=$ENV{$_}\n" for sort keys %ENV;
"#;

fn environment(answer: &Answer) -> BTreeMap<&str, &str> {
    answer.text().lines().map(|line| line.split_once('=').expect("NAME=value")).collect()
}

fn the_environment_is_exact(driver: Driver) {
    let stand = Stand::with(driver, &[("sub/env.pl", ENV)]);
    let ask = get("/sub/env.pl/a b/c?x=%20&y")
        .param("SERVER_PROTOCOL", "HTTP/1.1")
        .param("DOCUMENT_ROOT", "/srv/www")
        .param("PATH_TRANSLATED", "/elsewhere")
        .param("SCRIPT_FILENAME", "/bin/sh")
        .param("CONTENT_LENGTH", "")
        .param("CONTENT_TYPE", "")
        .param("HTTP_ACCEPT", "first")
        .param("HTTP_ACCEPT", "last")
        .param("HTTP_PROXY", "http://evil.test")
        .param("LD_PRELOAD", "/tmp/evil.so")
        .param("PERL5OPT", "-Mevil")
        .param("PATH", "/tmp/evil")
        .param("GIT_PROJECT_ROOT", "/srv/git")
        .param("no name", "x")
        .param("SERVER_SOFTWARE", "nginx/1.22.1");
    let script = stand.folder.path().canonicalize().expect("it exists").join("sub/env.pl");
    let answer = stand.peer().fetch(&ask);
    assert_eq!((answer.status(), answer.header("Content-Type").as_deref()), (200, Some("text/plain")));
    let expected = BTreeMap::from([
        ("DOCUMENT_ROOT", "/srv/www"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("GIT_PROJECT_ROOT", "/srv/git"),
        ("HTTP_ACCEPT", "last"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PATH_INFO", "/a b/c"),
        ("PATH_TRANSLATED", "/srv/www/a b/c"),
        ("QUERY_STRING", "x=%20&y"),
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_FILENAME", script.to_str().expect("text")),
        ("SCRIPT_NAME", "/sub/env.pl"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", "nginx/1.22.1"),
    ]);
    assert_eq!(environment(&answer), expected);

    // What only REQUEST_URI says, and what only a body has.
    let mut bare = post("/", "12345").param("REQUEST_URI", "/sub/env.pl").param("CONTENT_TYPE", "text/x");
    bare.params.retain(|(name, _)| name != b"PATH_INFO" && name != b"QUERY_STRING");
    let answer = stand.peer().fetch(&bare);
    let found = environment(&answer);
    for (name, value) in [("CONTENT_LENGTH", "5"), ("CONTENT_TYPE", "text/x"), ("QUERY_STRING", "")] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    assert_eq!((found["SCRIPT_NAME"], found.get("PATH_INFO")), ("/sub/env.pl", None));
    assert_eq!((found["SERVER_SOFTWARE"], found.get("PATH_TRANSLATED")), ("ringway", None));
}

/// Its descriptors, arguments and directory; that it leads a process group.
fn a_program_has_nothing_else_of_ours(driver: Driver) {
    const SELF: &str = r#"#!/usr/bin/perl
use Cwd;
opendir(my $fds, "/proc/self/fd");
my $own = fileno($fds);
my @fds = grep { /\d/ && -e "/proc/self/fd/$_" && readlink("/proc/self/fd/$_") !~ m{/fd$|self\.pl$} } readdir $fds;
@fds = sort @fds;
my ($blocked) = `cat /proc/self/status` =~ /SigBlk:\s*(\S+)/;
print "Content-Type: text/plain\n\n";
print join("|", "@fds", scalar(@ARGV), getcwd(), getpgrp() == $$, $blocked, $SIG{PIPE} // "");
"#;
    // As mod_fcgid does: a descriptor that is not closed when a program is executed.
    let (stray, _writer) = std::io::pipe().expect("a pipe");
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).expect("a descriptor");
    let stand = Stand::with(driver, &[("sub/self.pl", SELF)]);
    let folder = stand.folder.path().canonicalize().expect("it exists").join("sub");
    let answer = stand.peer().fetch(&get("/sub/self.pl?word+word"));
    assert_eq!(answer.text(), format!("0 1 2|0|{}|1|0000000000000000|", folder.display()));
}

fn what_cannot_run_is_refused(driver: Driver) {
    let stand = Stand::with(
        driver,
        &[
            ("run", "#!/bin/sh\n"),
            ("nph-run", "#!/bin/sh\n"),
            ("lost", "#!/no/such/interpreter\n"),
            ("text", "hello\n"),
        ],
    );
    write(&stand.folder.path().join("plain"), "#!/bin/sh\n", 0o644);
    std::os::unix::fs::symlink("/bin/true", stand.folder.path().join("out")).expect("a link");
    let mut peer = stand.peer();
    for (path, status, reason) in [
        ("/none", 404, ""),
        ("/", 404, ""),
        ("/../run", 404, ""),
        ("/./run", 404, ""),
        ("/plain", 403, "not executable"),
        ("/out", 403, "leads out"),
        ("/nph-run", 501, "nph-"),
        ("/lost", 500, "interpreter in its first line does not exist"),
        ("/text", 500, "neither a binary nor"),
    ] {
        let answer = peer.fetch(&get(path));
        assert_eq!(answer.status(), status, "{path}: {answer:?}");
        assert!(answer.stderr_text().contains(reason), "{path}: {answer:?}");
    }
    let long = get("/run").param("HTTP_LONG", vec![b'x'; 140 << 10]);
    assert_eq!(peer.fetch(&long).status(), 431);
}

fn heads_are_read_as_web_servers_do(driver: Driver) {
    let script = |text: &str| format!("#!/bin/sh\nprintf '{text}'\n");
    let programs = [
        ("lf", script("Content-Type: text/x\\n\\nbody\\n"), 200, "body\n"),
        ("crlf", script("Content-Type: text/x\\r\\nX-A: b\\r\\n\\r\\nbody\\n"), 200, "body\n"),
        ("status", script("Status: 404 Nope\\n\\nbody"), 404, "body"),
        ("location", script("Location: http://h/x\\n\\n"), 302, ""),
        ("local", script("Location: /x\\n\\n"), 302, ""),
        ("moved", script("Status: 301 Moved\\nLocation: /x\\n\\nbody"), 301, "body"),
        ("nothing", script("Status: 204\\n\\nbody"), 204, ""),
        ("empty", "#!/bin/sh\n".to_owned(), 500, "Internal Server Error\n"),
        ("truncated", script("Content-Type: text/x\\n"), 500, "Internal Server Error\n"),
        ("bad", script("no header\\n\\n"), 500, "Internal Server Error\n"),
        ("http", script("HTTP/1.1 200 OK\\n\\n"), 500, "Internal Server Error\n"),
        ("split", script("X: a\\rb\\n\\n"), 500, "Internal Server Error\n"),
    ];
    let files: Vec<_> = programs.iter().map(|(name, text, ..)| (*name, text.as_str())).collect();
    let stand = Stand::with(driver, &files);
    let mut peer = stand.peer();
    for (name, _, status, body) in &programs {
        let answer = peer.fetch(&get(&format!("/{name}")));
        assert_eq!((answer.status(), answer.text()), (*status, *body), "{name}: {answer:?}");
        assert_eq!(answer.stderr_text().is_empty(), *status != 500, "{name}: {answer:?}");
    }
    assert_eq!(peer.get("/").status(), 404);
    let mut head = get("/lf");
    head.params[0].1 = b"HEAD".to_vec();
    let answer = peer.fetch(&head);
    assert_eq!((answer.status(), answer.text()), (200, ""));
    assert!(peer.fetch(&get("/empty")).stderr_text().contains("exit status: 0"));

    // Killed in the middle of its output: it must not pass for whole, whether its head is out already or not.
    let dies = "#!/bin/sh\nprintf 'Content-Type: text/x\\n\\nhalf'\nkill -9 $$\n";
    let later = dies.replace("kill", "sleep 0.3\nkill");
    let fails = "#!/bin/sh\nprintf 'A: b\\n\\nx'\nexit 3\n";
    let stand = Stand::with(driver, &[("dies", dies), ("later", &later), ("fails", fails)]);
    let mut peer = stand.peer();
    assert_eq!(peer.fetch(&get("/fails")).app_status, 0);
    peer.ask(&get("/dies").close());
    let answer = peer.rest(1);
    assert!(answer.status() == 500 || !answer.is_complete() || answer.app_status != 0, "{answer:?}");
    assert!(answer.stderr_text().contains("signal: 9"), "{answer:?}");
    let mut peer = stand.peer();
    peer.ask(&get("/later"));
    let answer = peer.rest(1);
    assert!(!answer.is_complete() || answer.app_status != 0, "{answer:?}");
    assert_eq!(answer.status(), 200);
    assert!(answer.stderr_text().contains("signal: 9"), "{answer:?}");
}

/// Counts and copies its body.
const CAT: &str = "#!/bin/sh\nprintf 'Content-Type: application/octet-stream\\n\\n'\nexec cat\n";

fn bodies_of_any_size_are_streamed_both_ways(driver: Driver) {
    let stand = Stand::with(driver, &[("cat", CAT)]);
    for length in [0, 1, 65_535, 70_000, 5 << 20] {
        let body: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut peer = stand.peer();
        let ask = post("/cat", body.clone());
        let (bytes, mut sender) = (ask.bytes(), peer.sender());
        peer.expect(1);
        let sending = std::thread::spawn(move || sender.write_all(&bytes));
        let answer = peer.answer(1);
        sending.join().expect("no panic").expect("all of it is taken");
        assert!(answer.body() == body, "{length} bytes came back as {} others", answer.body().len());
    }
    // Without a length: to its end.
    let mut unannounced = post("/cat", "chunked");
    unannounced.params.retain(|(name, _)| name != b"CONTENT_LENGTH");
    assert_eq!(stand.peer().fetch(&unannounced).text(), "chunked");
}

fn a_program_need_not_read_its_body(driver: Driver) {
    let stand = Stand::with(driver, &[("deaf", "#!/bin/sh\nexec <&-\nprintf 'A: b\\n\\nno'\n")]);
    let mut peer = stand.peer();
    for _ in 0..3 {
        let (bytes, mut sender) = (post("/deaf", vec![b'x'; 3 << 20]).bytes(), peer.sender());
        peer.expect(1);
        let sending = std::thread::spawn(move || sender.write_all(&bytes));
        assert_eq!(peer.answer(1).text(), "no");
        sending.join().expect("no panic").expect("all of it is taken");
    }
}

fn a_body_that_breaks_off_ends_the_program(driver: Driver) {
    let script = "#!/bin/sh\necho $$ > pid\ncat > /dev/null\nsleep 600\n";
    let stand = Stand::with(driver, &[("wait", script)]);
    let mut peer = stand.peer();
    let ask = post("/wait", "12345").param("CONTENT_LENGTH", "10");
    peer.ask_head(&ask);
    peer.stdin(1, b"12345");
    let pid = stand.pid("pid");
    assert!(!is_gone(pid));
    peer.stdin_end(1);
    assert_eq!(peer.answer(1).status(), 400);
    eventually("the program is gone", || is_gone(pid));
}

fn output_is_passed_on_as_it_comes(driver: Driver) {
    let script =
        "#!/bin/sh\nprintf 'Content-Type: text/event-stream\\n\\n'\necho one\nread go < gate\necho two\n";
    let stand = Stand::with(driver, &[("events", script)]);
    let gate = stand.folder.path().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status().expect("mkfifo");
    assert!(made.success());
    let mut peer = stand.peer();
    peer.ask(&get("/events"));
    let first = b"Content-Type: text/event-stream\r\n\r\none\n".len();
    peer.read_stdout(1, first);
    assert!(peer.so_far(1).text().ends_with("one\n"));
    std::fs::write(&gate, "go\n").expect("somebody reads");
    assert_eq!(peer.answer(1).text(), "one\ntwo\n");
}

fn stderr_goes_to_the_log_line_by_line(driver: Driver) {
    let script = "#!/bin/sh\nprintf 'a\\033[2J\\nb\\nc' >&2\nprintf 'A: b\\n\\nout'\n";
    let stand = Stand::with(driver, &[("loud", script)]);
    let answer = stand.peer().fetch(&get("/loud"));
    assert_eq!((answer.text(), answer.stderr_text()), ("out", "a\\x1b[2J\nb\nc\n"));
    let lines: Vec<_> = answer
        .records
        .iter()
        .filter(|(kind, _)| *kind == RecordType::Stderr)
        .map(|(_, text)| text.len())
        .collect();
    assert_eq!(lines, [9, 2, 2]);
}

/// Starts two processes and notes their numbers; neither cares for SIGTERM.
const STUBBORN: &str = "#!/bin/sh
trap '' TERM
sleep 600 &
echo $! > child
echo $$ > leader
wait
sleep 600
";

fn an_abort_ends_the_whole_process_group(driver: Driver) {
    let obedient = STUBBORN.replace("trap '' TERM", "trap 'echo stopped > stopped; exit' TERM");
    let stand = Stand::with(driver, &[("stubborn", STUBBORN), ("obedient", &obedient)]);
    for name in ["stubborn", "obedient"] {
        let mut peer = stand.peer();
        peer.ask(&get(&format!("/{name}")));
        let (leader, child) = (stand.pid("leader"), stand.pid("child"));
        if name == "stubborn" {
            peer.abort(1);
            assert_eq!(peer.answer(1).stdout, b"");
        } else {
            drop(peer);
        }
        eventually("both are gone", || is_gone(leader) && is_gone(child));
        for file in ["leader", "child"] {
            std::fs::remove_file(stand.folder.path().join(file)).expect("a file");
        }
    }
    assert!(stand.folder.path().join("stopped").exists(), "SIGTERM comes first");
    let metrics = stand.served.metrics();
    assert_eq!(metrics.requests_aborted, 2);
}

fn a_program_that_takes_too_long_is_ended(driver: Driver) {
    let late = format!("{}\n", STUBBORN.replace("wait\n", "printf 'A: b\\n\\nhalf'\nwait\n"));
    let programs = [("stubborn", STUBBORN), ("late", late.as_str())];
    let stand = Stand::new(driver, &programs, |cgi| cgi.timeout(Duration::from_millis(300)));
    let answer = stand.peer().fetch(&get("/stubborn"));
    assert_eq!((answer.status(), answer.app_status), (504, 1));
    assert!(answer.stderr_text().contains("cgi_timeout"), "{answer:?}");
    let (leader, child) = (stand.pid("leader"), stand.pid("child"));
    eventually("both are gone", || is_gone(leader) && is_gone(child));
    let mut peer = stand.peer();
    peer.ask(&get("/late"));
    let answer = peer.rest(1);
    assert!(!answer.is_complete() || answer.app_status != 0, "{answer:?}");
    assert_eq!(answer.status(), 200);
}

fn only_so_many_run_at_a_time(driver: Driver) {
    // Says how many run, itself included.
    let script = "#!/bin/sh\nmkdir run-$$\nn=$(ls -d run-* | wc -l)\nsleep 0.2\nrmdir run-$$\n\
                  printf 'A: b\\n\\n'\necho $n\n";
    let stand = Stand::new(driver, &[("count", script), ("wait", STUBBORN)], |cgi| cgi.processes_max(2));
    let mut peer = stand.peer();
    for id in 1..=6 {
        peer.ask(&get("/count").id(id));
    }
    for id in 1..=6 {
        let answer = peer.answer(id);
        let count: u32 = answer.text().trim().parse().expect("a number");
        assert!((1..=2).contains(&count), "{count} at a time");
    }
    let stand = Stand::new(driver, &[("wait", "#!/bin/sh\nexec sleep 600\n")], |cgi| {
        cgi.processes_max(1).timeout(Duration::from_millis(500))
    });
    let mut peer = stand.peer();
    peer.ask(&get("/wait").id(1));
    peer.ask(&get("/wait").id(2));
    let mut statuses =
        [peer.answer(1), peer.answer(2)].map(|answer| (answer.status(), answer.header("Retry-After")));
    statuses.sort();
    assert!(matches!(statuses[0].0, 503 | 504) && statuses[1] == (504, None), "{statuses:?}");
}

fn a_program_may_work_on_after_its_answer(driver: Driver) {
    let script = "#!/bin/sh\nprintf 'A: b\\n\\ndone'\nexec >&- 2>&-\nread go < gate\n: > worked-on\n";
    let stand = Stand::with(driver, &[("work", script)]);
    let gate = stand.folder.path().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status().expect("mkfifo");
    assert!(made.success());
    assert_eq!(stand.peer().fetch(&get("/work")).text(), "done");
    std::fs::write(&gate, "go\n").expect("somebody reads");
    eventually("it has worked on", || stand.folder.path().join("worked-on").exists());
    // But not for ever.
    let script = "#!/bin/sh\nprintf 'A: b\\n\\ndone'\nexec >&- 2>&-\necho $$ > pid\nexec sleep 600\n";
    let stand = Stand::new(driver, &[("work", script)], |cgi| cgi.timeout(Duration::from_millis(400)));
    assert_eq!(stand.peer().fetch(&get("/work")).text(), "done");
    let pid = stand.pid("pid");
    eventually("its time is over", || is_gone(pid));
}

fn the_end_of_the_server_is_the_end_of_its_programs(driver: Driver) {
    let stand = Stand::with(driver, &[("stubborn", STUBBORN)]);
    let mut peer = stand.peer();
    peer.ask(&get("/stubborn"));
    let (leader, child) = (stand.pid("leader"), stand.pid("child"));
    let Stand { served, folder } = stand;
    Handle::stop(&served.handle);
    drop(served);
    eventually("both are gone", || is_gone(leader) && is_gone(child));
    drop(folder);
}

fn no_zombie_is_left(driver: Driver) {
    let programs =
        [("hello", "#!/bin/sh\nprintf 'A: b\\n\\nhello'\n"), ("slow", "#!/bin/sh\nexec sleep 600\n")];
    let stand = Stand::with(driver, &programs);
    let mut peer = stand.peer();
    for id in 1..=20 {
        peer.ask(&get(if id % 4 == 0 { "/slow" } else { "/hello" }).id(id));
    }
    for id in (1..=20).filter(|id| id % 4 != 0) {
        assert_eq!(peer.answer(id).text(), "hello");
    }
    drop(peer);
    let metrics = || stand.served.metrics();
    eventually("all have ended", || metrics().requests_finished + metrics().requests_aborted == 20);
    // Other tests of this process have children too, but none for long.
    let began = Instant::now();
    let mut seen: BTreeMap<i32, Instant> = BTreeMap::new();
    while began.elapsed() < Duration::from_secs(4) {
        let zombies = zombies();
        seen.retain(|pid, _| zombies.contains(pid));
        for pid in zombies {
            let since = *seen.entry(pid).or_insert_with(Instant::now);
            assert!(since.elapsed() < Duration::from_secs(3), "process {pid} is not reaped");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Children of this process that have ended and were not waited for.
fn zombies() -> Vec<i32> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_zombie = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').take(2).collect::<Vec<_>>());
        fields.is_some_and(|fields| fields == ["Z", &own])
    };
    pids.filter(is_zombie).collect()
}
