//! What the processes around an application do to it: the descriptors that they leave it, the signals that they send.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::nginx::Nginx;
use crate::pages;
use crate::support::conf;
use crate::support::process::{Process, exited_with};
use crate::support::web::{Request, find};

/// What a process has to end in once its last request is answered.
const END: Duration = Duration::from_secs(4);

/// `ringway serve probe` with a listening socket on descriptor 0 and nothing in its environment, as `script` starts it
/// by `exec "$@"`; and nginx in front of it.
struct Spawned {
    process: Process,
    nginx: Nginx,
}

impl Spawned {
    fn start(folder: &Path, driver: &str, script: &str) -> Option<Spawned> {
        find("nginx")?;
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("it is bound").to_string();
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_ringway"),
            "serve",
            "probe",
            "--driver",
            driver,
        ]);
        command.env_clear().current_dir("/").stdin(OwnedFd::from(socket));
        let process = Process::start("spawned", &mut command, folder);
        let nginx = Nginx::before(&address, folder);
        Some(Spawned { process, nginx })
    }

    /// What a descriptor of the process is open on.
    fn target(&self, number: &str) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/{}/fd/{number}", self.process.id())).ok()?;
        Some(link.display().to_string())
    }
}

/// FastCGI 2.2 has stdout and stderr closed; mod_fcgid leaks two pipes. No socket may come to lie where something
/// prints, and what is not ours is left alone.
#[test]
fn closed_streams_and_stray_descriptors_do_no_harm() {
    for driver in ["uring", "epoll"] {
        let folder = conf::folder();
        let script = r#"mkdir gone && cd gone && rmdir ../gone; exec "$@" >&- 2>&- 3</dev/zero 5>/dev/full"#;
        let script = format!("cd {}; {script}", folder.path().display());
        let Some(mut spawned) = Spawned::start(folder.path(), driver, &script) else { return };
        pages::all(&spawned.nginx.front(""));
        for (number, target) in [
            ("0", "/dev/null"),
            ("1", "/dev/null"),
            ("2", "/dev/null"),
            ("3", "/dev/zero"),
            ("5", "/dev/full"),
        ] {
            assert_eq!(spawned.target(number).as_deref(), Some(target), "descriptor {number}");
        }
        spawned.process.signal(Signal::TERM);
        assert!(exited_with(spawned.process.wait(END), 0));
    }
}

/// Every signal that a spawner sends asks for the same: the request in flight is answered, then it ends with 0.
#[test]
fn every_signal_of_a_spawner_drains() {
    let signals = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1];
    for (index, signal) in signals.into_iter().enumerate() {
        let folder = conf::folder();
        let driver = ["uring", "epoll"][index % 2];
        let Some(mut spawned) = Spawned::start(folder.path(), driver, r#"exec "$@""#) else { return };
        let front = spawned.nginx.front("");
        pages::hello(&front);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| spawned.nginx.front("").get("sleep?ms=1500").text());
            std::thread::sleep(Duration::from_millis(500));
            spawned.process.signal(signal);
            std::thread::sleep(Duration::from_millis(300));
            // Nobody listens any more: who connects is refused instead of kept waiting.
            let begin = Instant::now();
            assert_eq!(front.get("hello").status, 502, "{signal:?}");
            assert!(begin.elapsed() < Duration::from_millis(900), "{signal:?}: {:?}", begin.elapsed());
            assert_eq!(slow.join().expect("an answer"), "slept 1500\n", "{signal:?}");
        });
        let status = spawned.process.wait(END);
        assert!(exited_with(status, 0), "{signal:?}: {status}");
    }
}

/// mod_fcgid repeats its SIGTERM after 1.3 s, and means nothing by it: SIGKILL follows after 9 s.
#[test]
fn a_spawner_may_repeat_its_sigterm() {
    let folder = conf::folder();
    let Some(mut spawned) = Spawned::start(folder.path(), "uring", r#"exec "$@""#) else { return };
    pages::hello(&spawned.nginx.front(""));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| spawned.nginx.front("").get("sleep?ms=4000").text());
        std::thread::sleep(Duration::from_millis(500));
        spawned.process.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(1300));
        spawned.process.signal(Signal::TERM);
        assert_eq!(slow.join().expect("an answer"), "slept 4000\n");
    });
    assert!(exited_with(spawned.process.wait(END), 0));
    assert!(spawned.process.log().contains("SIGTERM again: still draining"), "{}", spawned.process.log());
}

/// Whoever is impatient is obeyed there too: another signal, or SIGTERM later.
#[test]
fn another_signal_stops_a_spawned_process() {
    for (first, second, pause) in [
        (Signal::TERM, Signal::INT, 300),
        (Signal::INT, Signal::INT, 300),
        (Signal::TERM, Signal::TERM, 3500),
    ] {
        let folder = conf::folder();
        let Some(mut spawned) = Spawned::start(folder.path(), "epoll", r#"exec "$@""#) else { return };
        let front = spawned.nginx.front("");
        pages::hello(&front);
        let (_visitor, _) = Request::get("/sleep?ms=600000").begin(front.address).expect("a connection");
        std::thread::sleep(Duration::from_millis(500));
        spawned.process.signal(first);
        std::thread::sleep(Duration::from_millis(pause));
        spawned.process.signal(second);
        let status = spawned.process.wait(Duration::from_secs(3));
        assert!(exited_with(status, 0), "{status}");
    }
}

/// A process that outlives its terminal must not end with it.
#[test]
fn under_nohup_the_end_of_the_terminal_means_nothing() {
    let folder = conf::folder();
    let Some(mut spawned) = Spawned::start(folder.path(), "epoll", r#"trap "" HUP; exec "$@""#) else {
        return;
    };
    let front = spawned.nginx.front("");
    pages::hello(&front);
    spawned.process.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    pages::hello(&front);
    spawned.process.signal(Signal::TERM);
    assert!(exited_with(spawned.process.wait(END), 0));
}
