//! systemd's socket activation, with the units that `ringway conf` prints.
//!
//! systemd itself is not started: its own tools check the units, and `systemd-socket-activate` hands the sockets over.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::nginx::Nginx;
use crate::pages;
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Process, Ringway, exited_with, free_address};
use crate::support::web::find;

matrix! {
    "systemd", "service":
        units_are_correct_and_tight ["checked by systemd-analyze"] => check();
    "systemd", "socket":
        activated ["unix", "tcp", "root", "pages"] => activate("");
        activated_below_a_prefix ["prefix"] => activate("/app");
}

/// Both units, in a folder.
fn units(folder: &Path, listen: &[&str], mount: &str) -> [PathBuf; 2] {
    let prefix = if mount.is_empty() { "/" } else { mount };
    let service = folder.join("ringway.service");
    fs::write(&service, conf::print(&["systemd", "--mount", prefix])).expect("a unit");
    let socket = folder.join("ringway.socket");
    let addresses: Vec<&str> = listen.iter().flat_map(|address| ["--listen", *address]).collect();
    fs::write(&socket, conf::print(&[&["systemd", "--way", "socket"], &addresses[..]].concat()))
        .expect("a unit");
    [service, socket]
}

/// The values of a key in a unit.
fn values(unit: &Path, key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit).expect("a unit");
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    text.lines().filter_map(value).collect()
}

/// systemd's own judgement: nothing to complain of, and an exposure (0 to 10) of less than 2.
fn check() {
    let Some(analyze) = find("systemd-analyze") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let units = units(folder.path(), &["unix:/run/ringway/app.sock", "[::1]:9000", "unix:@ringway"], "/app");
    assert_eq!(values(&units[1], "ListenStream"), ["/run/ringway/app.sock", "[::1]:9000", "@ringway"]);
    let run = |arguments: &[&str], units: &[PathBuf]| {
        let output = Command::new(&analyze).args(arguments).args(units).stdin(Stdio::null()).output();
        let output = output.expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = run(&["verify", "--man=no"], &units);
    assert!(code == Some(0) && !said.contains("ringway"), "{said}");
    let (code, said) = run(&["security", "--offline=yes", "--threshold=20", "--no-pager"], &units[..1]);
    assert_eq!(code, Some(0), "{said}");
    // io_uring has to be allowed, or the unit would serve by epoll alone.
    let (_, allowed) = run(&["syscall-filter", "--no-pager", "@system-service", "@aio"], &[]);
    assert!(allowed.contains("@aio") && allowed.contains("io_uring_enter"), "{allowed}");
    assert_eq!(values(&units[0], "SystemCallFilter")[0], "@system-service");
}

/// The command of the service, on the sockets of the socket unit.
fn activate(mount: &'static str) {
    let (Some(activator), Some(_)) = (find("systemd-socket-activate"), find("nginx")) else { return };
    let folder = conf::folder();
    let (unix, tcp) = (folder.path().join("ringway.sock"), free_address().to_string());
    let unix_address = format!("unix:{}", unix.display());
    let [service, socket] = units(folder.path(), &[&unix_address, &tcp], mount);
    let mut command = Command::new(activator);
    for address in values(&socket, "ListenStream") {
        command.args(["--listen", &address]);
    }
    command.args(["--fdname", "ringway.socket:ringway.socket", "--"]);
    command.args(values(&service, "ExecStart")[0].split(' ')).env_remove("RUST_LOG").stdin(Stdio::null());
    let mut process = Process::start("activated", &mut command, folder.path());
    process.wait_until("listens", || unix.exists());
    fs::set_permissions(&unix, Permissions::from_mode(0o666)).expect("it is ours");
    process.wait_until("serves", || Ringway::accepts(&tcp) && Ringway::accepts(&unix_address));
    let prefix = if mount.is_empty() { "/" } else { mount };
    for (name, address) in [("by-unix", &unix_address), ("by-tcp", &tcp)] {
        let nginx = Nginx::start(&folder.path().join(name), &["--listen", address, "--mount", prefix]);
        pages::all(&nginx.front(mount));
    }
    process.signal(Signal::TERM);
    assert!(exited_with(process.wait(PATIENCE), 0));
    assert!(unix.exists(), "the file is systemd's");
}
