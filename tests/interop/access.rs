//! Which peers may connect: FCGI_WEB_SERVER_ADDRS (FastCGI 3.2).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::nginx::Nginx;
use crate::pages;
use crate::support::conf;
use crate::support::process::{PATIENCE, Process, Ringway, allows, exited_with, free_address};
use crate::support::web::find;

/// FCGI_GET_VALUES that asks for nothing: answered by any application at once.
const GET_VALUES: [u8; 8] = [1, 9, 0, 0, 0, 0, 0, 0];

/// Whether the application answers on a connection, instead of closing it.
fn answers(mut stream: impl Read + Write) -> bool {
    stream.write_all(&GET_VALUES).is_ok() && stream.read_exact(&mut [0; 8]).is_ok()
}

/// A connection to `server` from one of this host's addresses.
fn connect_from(client: &str, server: SocketAddr) -> TcpStream {
    let client: IpAddr = client.parse().expect("an address");
    let server = match client {
        IpAddr::V4(_) => server,
        IpAddr::V6(_) => SocketAddr::new("::1".parse().expect("an address"), server.port()),
    };
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(client, 0).into()).expect("an address of this host");
    socket.connect(&server.into()).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.into()
}

/// `ringway serve` on a socket file and, for both families of addresses, on a port.
fn start(folder: &Path, driver: &str, tcp: SocketAddr, allowed: &str) -> Process {
    start_with(folder, driver, tcp, |command| command.env("FCGI_WEB_SERVER_ADDRS", allowed))
}

fn start_with(
    folder: &Path,
    driver: &str,
    tcp: SocketAddr,
    limit: impl FnOnce(&mut Command) -> &mut Command,
) -> Process {
    let mut command = Ringway::command();
    command.args(["--driver", driver, "--workers", "2", "--listen", &format!("[::]:{}", tcp.port())]);
    command.args(["--listen", &format!("unix:{}/a.sock", folder.display())]);
    limit(&mut command).stdin(Stdio::null());
    let mut process = Process::start("ringway", &mut command, folder);
    process.wait_until("listens", || {
        UnixStream::connect(folder.join("a.sock")).is_ok() && TcpStream::connect(tcp).is_ok()
    });
    process
}

#[test]
fn peers_that_are_not_listed_are_closed() {
    for driver in ["uring", "epoll"].into_iter().filter(|driver| allows(driver)) {
        // The peers of the port are IPv4-mapped addresses where they come over IPv4.
        for (allowed, client, is_served) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::1", false),
            ("127.0.0.2, ::1", "127.0.0.2", true),
            ("127.0.0.2, ::1", "::1", true),
            ("127.0.0.2, ::1", "127.0.0.1", false),
            // Equal in all bytes but the last four.
            ("::2", "::1", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
        ] {
            let (folder, tcp) = (tempfile::tempdir().expect("a folder"), free_address());
            let mut process = start(folder.path(), driver, tcp, allowed);
            for _ in 0..3 {
                let stream = connect_from(client, tcp);
                assert_eq!(answers(stream), is_served, "{driver}: {client} where {allowed} may connect");
            }
            let unix = UnixStream::connect(folder.path().join("a.sock")).expect("it listens");
            unix.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            assert!(!answers(unix), "{driver}: a peer without an address");
            process.signal(Signal::TERM);
            assert!(exited_with(process.wait(PATIENCE), 0));
            let log = process.log();
            assert!(log.contains("no IP address that could be in FCGI_WEB_SERVER_ADDRS"), "{log}");
            assert_eq!(
                log.contains(&format!("{client} is not in FCGI_WEB_SERVER_ADDRS")),
                !is_served,
                "{log}"
            );
        }
    }
}

/// `--peer-networks` is for ports and `--peer-users` for socket files; neither says anything of the other.
#[test]
fn settings_limit_peers_too() {
    let me = rustix::process::geteuid().as_raw();
    for driver in ["uring", "epoll"].into_iter().filter(|driver| allows(driver)) {
        for (networks, users, served) in [
            ("127.0.0.2,192.0.2.0/24", me.to_string(), [false, true, true]),
            ("127.0.0.0/30", format!("{},{}", me + 1, me + 2), [true, true, false]),
            ("10.0.0.0/8,::1", String::new(), [false, false, true]),
        ] {
            let (folder, tcp) = (tempfile::tempdir().expect("a folder"), free_address());
            let limits = ["--peer-networks", networks, "--peer-users", &users];
            let _process = start_with(folder.path(), driver, tcp, |command| command.args(limits));
            // More than there are workers, of whom one accepts for all on the socket file.
            for _ in 0..3 {
                let unix = UnixStream::connect(folder.path().join("a.sock")).expect("it listens");
                unix.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let first = answers(connect_from("127.0.0.1", tcp));
                let found = [first, answers(connect_from("127.0.0.2", tcp)), answers(unix)];
                assert_eq!(found, served, "{driver}: {limits:?}");
            }
        }
    }
}

/// Also of a queue that one worker accepts from for all, and through a web server.
#[test]
fn an_inherited_socket_is_guarded_too() {
    if find("nginx").is_none() {
        return;
    }
    for driver in ["uring", "epoll"].into_iter().filter(|driver| allows(driver)) {
        for (allowed, is_served) in [("127.0.0.1", true), ("127.0.0.3,192.0.2.1", false)] {
            let folder = conf::folder();
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = socket.local_addr().expect("it is bound");
            let mut command = Ringway::command();
            command.args(["--driver", driver, "--workers", "3"]).env("FCGI_WEB_SERVER_ADDRS", allowed);
            command.stdin(std::os::fd::OwnedFd::from(socket));
            let _process = Process::start("ringway", &mut command, folder.path());
            let nginx = Nginx::before(&address.to_string(), folder.path());
            let front = nginx.front("");
            if is_served {
                (0..9).for_each(|_| pages::hello(&front));
            } else {
                (0..9).for_each(|_| assert_eq!(front.get("hello").status, 502));
            }
        }
    }
}

#[test]
fn a_list_that_cannot_be_read_lets_nobody_in() {
    for list in ["", "localhost", "10.0.0.0/8", "127.0.0.1;127.0.0.2", "127.0.0.1,"] {
        let mut command = Ringway::command();
        command.args(["--listen", "127.0.0.1:0"]).env("FCGI_WEB_SERVER_ADDRS", list).stdin(Stdio::null());
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(exited_with(output.status, 2) && said.lines().count() == 1, "{}: {said}", output.status);
        assert!(
            said.contains(&format!("FCGI_WEB_SERVER_ADDRS={list:?}")) && said.contains("unset it"),
            "{said}"
        );
    }
}
