//! The programs that start an application on a socket of theirs: spawn-fcgi, and systemd in the ways that its units of
//! `ringway conf` do not use.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::nginx::Nginx;
use crate::pages;
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Process, Ringway, eventually, exited_with, free_address};
use crate::support::web::{Request, find};

const RINGWAY: &str = env!("CARGO_BIN_EXE_ringway");

/// What a process has to end in once its last request is answered.
const END: Duration = Duration::from_secs(4);

matrix! {
    "spawn-fcgi", "spawn-fcgi -n":
        spawn_fcgi_on_a_socket_file ["fd 0", "unix", "root", "pages"] => spawn_fcgi(None);
        spawn_fcgi_on_a_port ["tcp"] => spawn_fcgi(Some(free_address()));
    "spawn-fcgi", "spawn-fcgi -F 3":
        spawn_fcgi_with_children ["fd 0", "unix", "root", "several processes on one socket"] => children();
    "systemd", "socket":
        systemd_by_name ["several sockets by name"] => sockets_by_name();
        systemd_all ["all sockets"] => all_sockets();
    "systemd", "StandardInput=socket":
        systemd_inetd ["fd 0", "tcp", "root", "pages"] => inetd();
}

/// Serves every page behind nginx.
fn serves(folder: &Path, upstream: &str) {
    pages::all(&Nginx::before(upstream, folder).front(""));
}

fn spawn_fcgi(tcp: Option<SocketAddr>) {
    let (Some(spawner), Some(_)) = (find("spawn-fcgi"), find("nginx")) else { return };
    let folder = conf::folder();
    let path = folder.path().join("spawned.sock");
    let mut command = Command::new(&spawner);
    command.arg("-n").stdin(Stdio::null()).env_clear().current_dir("/");
    let upstream = match tcp {
        Some(address) => {
            command.args(["-a", &address.ip().to_string(), "-p", &address.port().to_string()]);
            address.to_string()
        }
        None => {
            command.args(["-M", "0666", "-s"]).arg(&path);
            format!("unix:{}", path.display())
        }
    };
    command.args(["--", RINGWAY, "serve", "probe"]);
    let mut process = Process::start("spawn-fcgi", &mut command, folder.path());
    process.wait_until("listens", || Ringway::accepts(&upstream));
    serves(folder.path(), &upstream);
    process.signal(Signal::TERM);
    let status = process.wait(END);
    assert!(exited_with(status, 0), "{status}");
    let is_left = fs::metadata(&path).is_ok_and(|file| file.file_type().is_socket());
    assert_eq!(is_left, tcp.is_none(), "the file is the spawner's, not ours to remove");
}

/// `-F 3`: three processes accept from one queue, and each is ended by a signal of its own.
fn children() {
    let (Some(spawner), Some(_)) = (find("spawn-fcgi"), find("nginx")) else { return };
    let folder = conf::folder();
    let path = folder.path().join("spawned.sock");
    let pids = folder.path().join("pids");
    let mut command = Command::new(spawner);
    command.args(["-M", "0666", "-F", "3", "-P"]).arg(&pids).arg("-s").arg(&path).env_clear();
    command.args(["--", RINGWAY, "serve", "probe", "--workers", "1"]);
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let pids = fs::read_to_string(&pids).expect("the numbers of the processes");
    let children = Children(pids.split_whitespace().map(|pid| pid.parse().expect("a number")).collect());
    assert_eq!(children.0.len(), 3);
    let upstream = format!("unix:{}", path.display());
    let nginx = Nginx::before(&upstream, folder.path());
    let front = nginx.front("");
    pages::hello(&front);
    // A blocked queue would leave them to one process; all answer together.
    pages::crowd(&front);
    std::thread::scope(|scope| {
        // One ends while it serves, and so does the next; the queue is the last one's.
        for child in &children.0[..2] {
            let visitors: Vec<_> = (0..6).map(|_| scope.spawn(|| front.get("sleep?ms=600").text())).collect();
            std::thread::sleep(Duration::from_millis(300));
            kill_process(child.pid(), Signal::TERM).expect("it runs");
            (0..20).for_each(|_| assert_eq!(front.get("hello").status, 200));
            visitors.into_iter().for_each(|visitor| {
                assert_eq!(visitor.join().expect("an answer"), "slept 600\n");
            });
            eventually("it is gone", || child.is_gone().then_some(()));
        }
    });
    pages::hello(&front);
}

/// Processes that are nobody's children here. Dropping it ends them.
struct Children(Vec<Child>);

struct Child(i32);

impl std::str::FromStr for Child {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Child, Self::Err> {
        text.parse().map(Child)
    }
}

impl Child {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0).expect("not 0")
    }

    /// Whether it has ended, though init may not have noticed.
    fn is_gone(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.iter().filter(|child| !child.is_gone()) {
            let _ = kill_process(child.pid(), Signal::KILL);
        }
    }
}

/// A process that `systemd-socket-activate` becomes when somebody connects.
fn activated(folder: &Path, listen: &[&str], options: &[&str], arguments: &[&str]) -> Option<Process> {
    let (spawner, _) = (find("systemd-socket-activate")?, find("nginx")?);
    let mut command = Command::new(spawner);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    for address in listen {
        command.args(["-l", address]);
    }
    command.args(options).args([RINGWAY, "serve", "probe"]).args(arguments);
    Some(Process::start("activated", &mut command, folder))
}

/// As `SocketMode=` of a unit does it.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("it is ours");
}

/// Two sockets with names of their own, and a third that is not asked for.
fn sockets_by_name() {
    let folder = conf::folder();
    let (path, tcp, other) = (folder.path().join("web.sock"), free_address(), free_address());
    let listen = [path.to_str().expect("a name"), &tcp.to_string(), &other.to_string()];
    let arguments = ["--listen", "systemd:web", "--listen", "systemd:admin", "--driver", "uring"];
    let Some(mut process) = activated(folder.path(), &listen, &["--fdname=web:admin:other"], &arguments)
    else {
        return;
    };
    let upstream = format!("unix:{}", path.display());
    process.wait_until("listens", || Ringway::accepts(&upstream));
    open_to_all(&path);
    serves(folder.path(), &upstream);
    serves(&folder.path().join("admin"), &tcp.to_string());
    process.signal(Signal::TERM);
    assert!(exited_with(process.wait(END), 0));
    assert!(path.exists(), "the file is systemd's, not ours to remove");
    let log = process.log();
    assert!(log.contains(&format!("listening on {upstream}, {tcp};")), "{log}");
}

/// All of them, on the other driver; and a name that nobody has.
fn all_sockets() {
    let folder = conf::folder();
    let (path, tcp) = (folder.path().join("all.sock"), free_address());
    let listen = [path.to_str().expect("a name"), &tcp.to_string()];
    let Some(mut process) =
        activated(folder.path(), &listen, &[], &["--listen", "systemd", "--driver", "epoll"])
    else {
        return;
    };
    process.wait_until("listens", || Ringway::accepts(&tcp.to_string()));
    open_to_all(&path);
    serves(folder.path(), &tcp.to_string());
    pages::hello(&Nginx::before(&format!("unix:{}", path.display()), &folder.path().join("unix")).front(""));

    let free = free_address().to_string();
    let arguments = ["--listen", "systemd:web"];
    let mut process =
        activated(&folder.path().join("unix"), &[&free], &["--fdname=admin"], &arguments).expect("as before");
    eventually("a connection", || Ringway::accepts(&free).then_some(()));
    assert!(exited_with(process.wait(PATIENCE), 2));
    let log = process.log();
    assert!(log.contains("no socket of that name, only: admin; set FileDescriptorName="), "{log}");
}

/// As inetd does it, and `StandardInput=socket`: the socket on descriptors 0 and 1.
fn inetd() {
    let (folder, tcp) = (conf::folder(), free_address());
    let Some(mut process) = activated(folder.path(), &[&tcp.to_string()], &["--inetd"], &[]) else { return };
    process.wait_until("listens", || Ringway::accepts(&tcp.to_string()));
    let nginx = Nginx::before(&tcp.to_string(), folder.path());
    pages::all(&nginx.front(""));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| nginx.front("").get("sleep?ms=1000").text());
        std::thread::sleep(Duration::from_millis(400));
        process.signal(Signal::TERM);
        assert_eq!(slow.join().expect("an answer"), "slept 1000\n");
    });
    assert!(exited_with(process.wait(END), 0));
}

/// Everything at once, by one process of its own.
#[test]
fn several_addresses_at_once() {
    if find("nginx").is_none() {
        return;
    }
    let (folder, tcp) = (conf::folder(), free_address());
    let (path, second) = (folder.path().join("a.sock"), folder.path().join("b.sock"));
    let name = format!("ringway-test-{}", std::process::id());
    let mut command = Ringway::command();
    command.args(["--workers", "2", "--socket-mode", "0606"]).stdin(Stdio::null());
    let addresses = [
        format!("unix:{}", path.display()),
        format!("unix:{}", second.display()),
        format!("unix:@{name}"),
        tcp.to_string(),
        format!("[::1]:{}", tcp.port()),
    ];
    for address in &addresses {
        command.args(["--listen", address]);
    }
    let mut process = Process::start("ringway", &mut command, folder.path());
    process.wait_until("listens", || Ringway::accepts(&tcp.to_string()));
    pages::hello(&Nginx::before(&addresses[0], folder.path()).front(""));
    for address in &addresses {
        let request =
            Command::new(RINGWAY).args(["request", address, "/hello", "-b"]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&request.stdout), "Hello, world!\n", "{address}: {request:?}");
    }
    for path in [&path, &second] {
        assert_eq!(fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o606);
    }
    process.signal(Signal::TERM);
    assert!(exited_with(process.wait(END), 0));
    assert!(!path.exists() && !second.exists(), "the files are ours to remove");
    let visitor = Request::get("/").try_send(tcp);
    assert!(visitor.is_err(), "nobody listens any more");
}
