//! Blocking connections to an application, for the commands that look at bytes rather than at requests.

use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;

use ringway::client::Address;
use socket2::{Domain, SockAddr, Socket, Type};

/// Connects within `timeout`; each later read and write has the same time. A full backlog of a Unix socket is
/// an error of the kind `WouldBlock`, at once.
pub(super) fn connect(address: &Address, timeout: Duration) -> io::Result<Socket> {
    let socket = match address {
        Address::Unix(path) => connect_unix(path)?,
        Address::Abstract(name) => connect_unix(Path::new(&format!("\0{name}")))?,
        Address::Tcp(authority) => connect_tcp(authority, timeout)?,
        other => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{other} is no socket"))),
    };
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket)
}

fn connect_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Each address of the host in turn.
fn connect_tcp(authority: &str, timeout: Duration) -> io::Result<Socket> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in authority.to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), timeout) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Whether a read or write has run out of its time.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
