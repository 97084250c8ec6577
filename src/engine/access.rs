//! Which peers may connect.
//!
//! FastCGI 3.2: where the environment has FCGI_WEB_SERVER_ADDRS, a connection whose peer is not one of these addresses
//! is closed, and so is one that does not come over TCP/IP at all.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::config::{Error, Origin};

const VARIABLE: &str = "FCGI_WEB_SERVER_ADDRS";

/// The peers that may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    /// In canonical form: an IPv4 address is never written as an IPv6 one.
    web_servers: Vec<IpAddr>,
}

impl Access {
    /// What the process's environment demands; `None` where anybody may connect.
    ///
    /// # Errors
    ///
    /// A list that cannot be read lets nobody in by mistake: the server does not start.
    pub(crate) fn from_env() -> Result<Option<Access>, Error> {
        match std::env::var_os(VARIABLE) {
            None => Ok(None),
            Some(list) => Access::read(&list.to_string_lossy()).map(Some),
        }
    }

    fn read(list: &str) -> Result<Access, Error> {
        let address = |text: &str| text.trim().parse().map(|address: IpAddr| address.to_canonical());
        match list.split(',').map(address).collect() {
            Ok(web_servers) => Ok(Access { web_servers }),
            Err(_) => {
                let origin = Origin::Variable(VARIABLE.to_owned());
                let reason = "not a list of IP addresses such as 127.0.0.1,10.0.0.7; correct it, or unset it to let \
                              every peer connect";
                Err(Error::new(VARIABLE, list, origin, reason))
            }
        }
    }

    /// Whether the peer of an accepted connection may stay, or why not. `socket`: none of a Unix socket is needed.
    pub(crate) fn check(&self, socket: Option<BorrowedFd<'_>>) -> Result<(), String> {
        match socket.and_then(peer_address) {
            Some(peer) if self.web_servers.contains(&peer.ip()) => Ok(()),
            Some(peer) => Err(format!("{} is not in {VARIABLE}", peer.ip())),
            None => Err(format!("its peer has no IP address that could be in {VARIABLE}")),
        }
    }
}

/// In canonical form. A peer on a Unix socket has none, and a peer that is gone again has none any more.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let peer = SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()?;
    Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        for (list, count) in
            [("127.0.0.1", 1), ("10.0.0.7, 10.0.0.8", 2), ("::1,2001:db8::7", 2), ("::ffff:10.0.0.7", 1)]
        {
            assert_eq!(Access::read(list).expect(list).web_servers.len(), count, "{list}");
        }
        for list in [
            "",
            ",",
            "127.0.0.1,",
            "localhost",
            "127.1",
            "10.0.0.0/8",
            "1.2.3.4.5",
            "256.0.0.1",
            "010.0.0.1",
            "[::1]",
        ] {
            let error = Access::read(list).expect_err(list).to_string();
            assert!(error.starts_with(&format!("environment variable {VARIABLE}={list:?}: ")), "{error}");
        }
    }

    /// A connection's accepted end.
    fn accepted(server: &str, client: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(server).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let near = TcpStream::connect((client, port)).expect("it listens");
        (listener.accept().expect("it connected").0, near)
    }

    #[test]
    fn whole_addresses_are_compared_in_canonical_form() {
        for (list, server, client, is_welcome) in [
            ("127.0.0.1", "127.0.0.1:0", "127.0.0.1", true),
            ("127.0.0.2", "127.0.0.1:0", "127.0.0.1", false),
            ("::1", "[::1]:0", "::1", true),
            // The first twelve bytes are equal.
            ("::2", "[::1]:0", "::1", false),
            // The peer's address is ::ffff:127.0.0.1 there.
            ("127.0.0.1", "[::]:0", "127.0.0.1", true),
            ("::ffff:127.0.0.1", "127.0.0.1:0", "127.0.0.1", true),
            ("::ffff:127.0.0.2", "[::]:0", "127.0.0.1", false),
            ("::1", "[::]:0", "127.0.0.1", false),
        ] {
            let access = Access::read(list).expect("a list");
            let (socket, _near) = accepted(server, client);
            assert_eq!(access.check(Some(socket.as_fd())).is_ok(), is_welcome, "{list} {server} {client}");
        }
    }

    #[test]
    fn who_has_no_address_is_a_stranger() {
        let access = Access::read("127.0.0.1,::1").expect("a list");
        let (unix, _other) = UnixStream::pair().expect("a pair");
        assert!(access.check(None).is_err() && access.check(Some(unix.as_fd())).is_err());
    }
}
