//! supervisor: several processes on one socket, with the configuration that `ringway conf` prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::nginx::Nginx;
use crate::pages;
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Process, Ringway, eventually, exited_with, free_address};
use crate::support::web::find;

matrix! {
    "supervisor", "fcgi-program":
        unix_root ["fd 0", "unix", "root", "pages", "processes replaced one by one"] =>
            several_processes(|folder| format!("unix:{}", folder.join("ringway.sock").display()), "");
        tcp_prefix ["tcp", "prefix"] => several_processes(|_| free_address().to_string(), "/app");
}

/// supervisord and its processes.
struct Supervisor {
    process: Process,
    file: PathBuf,
}

impl Supervisor {
    fn start(folder: &Path, arguments: &[&str]) -> Supervisor {
        let file = folder.join("supervisor.conf");
        let state = folder.to_str().expect("a name");
        let text = conf::print(&[&["supervisor", "--state-dir", state], arguments].concat());
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(find("supervisord").expect("supervisord was there"));
        command.args(["--nodaemon", "-c"]).arg(&file).env_remove("RUST_LOG").stdin(Stdio::null());
        let mut process = Process::start("supervisor", &mut command, folder);
        process.also_logs_to(folder.join("ringway.log"));
        let mut supervisor = Supervisor { process, file };
        supervisor.wait_until_all("RUNNING");
        supervisor
    }

    /// What `supervisorctl` prints.
    fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(find("supervisorctl").expect("it comes with supervisord"));
        let output = command.arg("-c").arg(&self.file).args(arguments).stdin(Stdio::null()).output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    }

    fn wait_until_all(&mut self, state: &str) {
        eventually(&format!("all are {state}"), || {
            let status = self.control(&["status"]);
            let all = status.lines().filter(|line| line.starts_with("ringway:"));
            let states: Vec<_> = all.map(|line| line.split_whitespace().nth(1) == Some(state)).collect();
            (states.len() == PROCESSES && states.iter().all(|is| *is)).then_some(())
        });
    }
}

const PROCESSES: usize = 3;

fn several_processes(address: fn(&Path) -> String, mount: &'static str) {
    let (Some(_), Some(_)) = (find("supervisord"), find("nginx")) else { return };
    let folder = conf::folder();
    let address = address(folder.path());
    let prefix = if mount.is_empty() { "/" } else { mount };
    let arguments = ["--listen", &address, "--mount", prefix, "--processes", &PROCESSES.to_string()];
    let mut supervisor = Supervisor::start(folder.path(), &arguments);
    let nginx = Nginx::start(&folder.path().join("nginx"), &["--listen", &address, "--mount", prefix]);
    let front = nginx.front(mount);
    // Each process has a worker of its own, so that `aborted`, which the pages look at, may ask any.
    pages::all(&front);

    // One after another is replaced, and of the visitors who come meanwhile all are served.
    pages::visited(&front, || {
        for index in 0..PROCESSES {
            let said = supervisor.control(&["restart", &format!("ringway:ringway_{index}")]);
            assert!(said.contains("stopped") && said.contains("started"), "{said}");
        }
    });
    let log = std::fs::read_to_string(folder.path().join("supervisord.log")).expect("a log");
    assert_eq!(log.matches("(exit status 0)").count(), PROCESSES, "{log}");

    supervisor.control(&["stop", "ringway:*"]);
    supervisor.wait_until_all("STOPPED");
    assert_eq!(front.get("hello").status, 502);
    assert!(!Ringway::accepts(&address), "supervisor closes the socket with the last process");
    supervisor.control(&["start", "ringway:*"]);
    supervisor.wait_until_all("RUNNING");
    pages::hello(&front);
    supervisor.process.signal(Signal::TERM);
    assert!(exited_with(supervisor.process.wait(PATIENCE), 0));
    assert!(!Ringway::accepts(&address), "nothing is left running");
}
