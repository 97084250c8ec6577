//! Listening on the real file system and the real network.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use super::*;

fn listen_with(address: &str, options: &ListenOptions) -> Result<Listener, ListenError> {
    let mut listeners = address.parse::<Listen>()?.bind(options)?;
    assert_eq!(listeners.len(), 1);
    Ok(listeners.remove(0))
}

fn listen(address: &str) -> Result<Listener, ListenError> {
    listen_with(address, &ListenOptions::default())
}

/// The message of a refusal, checked to be one line that begins with the address.
fn refusal(address: &str) -> String {
    let message = listen(address).map(|listener| listener.address().to_owned()).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot listen on {address}: ")), "{message}");
    assert!(!message.contains('\n'));
    message
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs one test of this binary again in a child that `script` prepares before it becomes `"$@"`.
fn rerun(test: &str, script: &str, stdin: Stdio, argument: &str) {
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("ring::socket::tests::{test}"), "--nocapture"])
        .env("RINGWAY_TEST_CHILD", argument)
        .stdin(stdin)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
}

/// What `rerun` gave, in the child.
fn child_argument() -> Option<String> {
    std::env::var("RINGWAY_TEST_CHILD").ok()
}

#[test]
fn addresses_read_as_they_are_written() {
    for text in [
        "unix:/run/a.sock",
        "unix:relative.sock",
        "unix:@name",
        "127.0.0.1:9000",
        "[::1]:0",
        "localhost:9",
        "fd:0",
        "systemd",
        "systemd:web",
    ] {
        assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "unix:",
        "unix:@",
        "unix:/a\0b",
        "9000",
        ":9000",
        "::1:9000",
        "[::1]",
        "[x]:1",
        "host:65536",
        "host:http",
        "/run/a.sock",
        "fd:",
        "fd:-1",
        "systemd:",
        "http://a:80",
    ] {
        let error = text.parse::<Listen>().unwrap_err();
        assert!(matches!(error.fault, ListenFault::Syntax), "{text}");
    }
}

#[test]
fn the_mode_is_as_asked_under_every_umask() {
    if let Some(directory) = child_argument() {
        for mode in [0o660, 0o600, 0o666, 0o777] {
            let path = Path::new(&directory).join("mode.sock");
            let options = ListenOptions { mode, ..ListenOptions::default() };
            let listener = listen_with(&format!("unix:{}", path.display()), &options).unwrap();
            assert_eq!(mode_of(&path), mode);
            drop(listener);
            assert!(!path.exists());
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for umask in ["0", "022", "027", "077", "0777"] {
        let script = format!("umask {umask}; exec \"$@\"");
        let argument = directory.path().to_str().unwrap();
        rerun("the_mode_is_as_asked_under_every_umask", &script, Stdio::null(), argument);
    }
}

#[test]
fn owner_and_group_are_set_by_name_or_number() {
    assert_eq!(find_user("root").unwrap(), Uid::ROOT);
    assert_eq!(find_group("0").unwrap(), Gid::ROOT);
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/a.sock", directory.path().display());
    let unknown = ListenOptions { owner: Some("no such user".into()), ..ListenOptions::default() };
    let error = listen_with(&address, &unknown).unwrap_err();
    assert!(matches!(error.fault, ListenFault::NoSuchUser { .. }), "{error}");
    let given = ListenOptions {
        owner: Some("65534".into()),
        group: Some("65533".into()),
        ..ListenOptions::default()
    };
    match listen_with(&address, &given) {
        Ok(_listener) => {
            let found = std::fs::metadata(directory.path().join("a.sock")).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (65534, 65533, 0o660));
        }
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            assert!(matches!(error.fault, ListenFault::OwnershipDenied { .. }), "{error}");
        }
    }
    assert!(!directory.path().join("a.sock").exists(), "removed with its listener, and after a failure");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let address = format!("unix:{}", path.display());
    let listener = listen(&address).unwrap();
    assert_eq!(listener.address(), address);
    UnixStream::connect(&path).unwrap();
    assert!(refusal(&address).contains("already in use"));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_with_a_full_backlog_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/a.sock", directory.path().display());
    let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
    let _listener = listen_with(&address, &options).unwrap();
    let _waiting = UnixStream::connect(directory.path().join("a.sock")).unwrap();
    assert!(refusal(&address).contains("already in use"));
}

#[test]
fn only_sockets_are_ever_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(refusal(&format!("unix:{}", file.display())).contains("regular file"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
    assert!(refusal(&format!("unix:{}", link.display())).contains("symbolic link"));
    assert!(link.is_symlink());
    assert!(refusal(&format!("unix:{}", directory.path().display())).contains("directory"));
}

#[test]
fn only_our_own_file_is_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let mut listener = listen(&format!("unix:{}", path.display())).unwrap();
    drop(listener.take_sockets());
    std::fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).expect("the successor's file is still there");
}

#[test]
fn long_names_are_refused_and_the_longest_works() {
    let directory = tempfile::tempdir().unwrap();
    let room = UNIX_NAME_BYTES_MAX - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("x".repeat(room));
    let _listener = listen(&format!("unix:{}", longest.display())).unwrap();
    UnixStream::connect(&longest).unwrap();
    let message = refusal(&format!("unix:{}x", longest.display()));
    assert!(message.contains("108 bytes and the limit is 107"), "{message}");
    assert!(refusal(&format!("unix:@{}", "x".repeat(108))).contains("108 bytes"));
}

#[test]
fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let message = refusal(&format!("unix:{}/deep/a.sock", missing.display()));
    assert!(message.contains(&format!("no directory {};", missing.display())), "{message}");
    std::fs::write(&missing, "").unwrap();
    let message = refusal(&format!("unix:{}/a.sock", missing.display()));
    assert!(message.contains("is not a directory"), "{message}");
}

#[test]
fn the_directory_that_forbids_is_named() {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (name, mode) in [("unwritable", 0o555), ("unsearchable", 0o600)] {
        let directory = root.path().join(name);
        std::fs::create_dir_all(directory.join("deep")).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
        let deep = if mode & 0o111 == 0 { "deep/" } else { "" };
        let address = format!("unix:{}/{deep}a.sock", directory.display());
        // In a thread, because credentials are a thread's, and root is forbidden nothing.
        let message = std::thread::spawn(move || {
            if rustix::process::geteuid().is_root() {
                let nobody = Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            refusal(&address)
        });
        let message = message.join().unwrap();
        let named = format!("permission denied in the directory {} (owner ", directory.display());
        assert!(message.contains(&named), "{message}");
        assert!(message.contains(&format!("mode {mode:04o}")), "{message}");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

#[test]
fn abstract_names_have_no_file() {
    let name = format!("ringway-test-{}", std::process::id());
    let listener = listen(&format!("unix:@{name}")).unwrap();
    assert!(!listener.is_tcp() && listener.is_shared());
    let probe = unix_socket(SocketFlags::CLOEXEC).unwrap();
    rustix::net::connect(&probe, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    assert!(refusal(&format!("unix:@{name}")).contains("already in use"));
}

#[test]
fn each_worker_has_its_own_queue_on_one_tcp_port() {
    let options = ListenOptions { workers: 3, ..ListenOptions::default() };
    for host in ["127.0.0.1", "localhost"] {
        let mut listener = listen_with(&format!("{host}:0"), &options).unwrap();
        assert!(listener.is_tcp() && !listener.is_shared());
        let address = listener.address().to_owned();
        assert!(!address.ends_with(":0"));
        let sockets = listener.take_sockets();
        assert_eq!(sockets.len(), 3);
        for socket in &sockets {
            assert_eq!(local_address(socket.as_fd()).unwrap(), address);
            assert!(rustix::net::sockopt::socket_acceptconn(socket).unwrap());
            assert!(rustix::net::sockopt::tcp_nodelay(socket).unwrap());
        }
        TcpStream::connect(&address).unwrap();
        assert!(refusal(&address).contains("already in use"), "not joined in silence");
        drop(sockets);
        TcpStream::connect(&address).expect_err("nothing listens any more");
        listen(&address).expect("the port is free at once");
    }
}

#[test]
fn foreign_addresses_and_names_are_refused() {
    assert!(refusal("192.0.2.1:9000").contains("no interface"));
    assert!(refusal("no.such.host.invalid:9000").contains("host name was not found"));
}

#[test]
fn inherited_descriptors_are_checked() {
    let file = tempfile::tempfile().unwrap();
    assert!(refusal(&format!("fd:{}", file.as_raw_fd())).contains("is not a socket"));
    let unconnected = unix_socket(SocketFlags::CLOEXEC).unwrap();
    let (connected, _other) = UnixStream::pair().unwrap();
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in [unconnected.as_raw_fd(), connected.as_raw_fd(), datagram.as_raw_fd()] {
        assert!(refusal(&format!("fd:{number}")).contains("not a listening stream socket"));
    }
    assert!(refusal("fd:1000000000").contains("is not open"));
    assert!(refusal("systemd").contains("systemd passed no sockets"));
}

#[test]
fn inherited_sockets_are_duplicated_for_each_worker() {
    let directory = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(directory.path().join("a.sock")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ListenOptions { workers: 2, ..ListenOptions::default() };
    let mut listener = listen_with(&format!("fd:{}", unix.as_raw_fd()), &options).unwrap();
    assert_eq!(listener.address(), format!("unix:{}/a.sock", directory.path().display()));
    assert!(!listener.is_tcp() && listener.is_shared());
    assert_eq!(listener.take_sockets().len(), 2);
    drop(listener);
    UnixStream::connect(directory.path().join("a.sock")).expect("the file belongs to the parent");

    let mut listener = listen_with(&format!("fd:{}", tcp.as_raw_fd()), &options).unwrap();
    assert_eq!(listener.address(), tcp.local_addr().unwrap().to_string());
    assert!(listener.is_tcp() && listener.is_shared());
    for socket in listener.take_sockets() {
        assert!(rustix::net::sockopt::tcp_nodelay(socket).unwrap());
    }
}

#[test]
fn systemd_sockets_are_found_by_name() {
    if child_argument().is_some() {
        let named = listen("systemd:web").unwrap();
        assert!(named.address().starts_with("127.0.0.1:"));
        assert_eq!("systemd".parse::<Listen>().unwrap().bind(&ListenOptions::default()).unwrap().len(), 1);
        let message = refusal("systemd:other");
        assert!(message.contains("only: web"), "{message}");
        assert!(std::env::var_os("LISTEN_FDS").is_none(), "children must not take them for their own");
        return;
    }
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = "exec env LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web \"$@\" 3<&0 </dev/null";
    rerun("systemd_sockets_are_found_by_name", script, OwnedFd::from(tcp).into(), "systemd");
}
