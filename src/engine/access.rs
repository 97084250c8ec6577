//! Which peers may connect.
//!
//! FastCGI 3.2: where the environment has FCGI_WEB_SERVER_ADDRS, a connection whose peer is not one of these addresses
//! is closed, and so is one that does not come over TCP/IP at all. The settings `peer_networks` and `peer_users` limit
//! peers further, each on its kind of socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

use crate::config::{Config, Error, Origin};

const VARIABLE: &str = "FCGI_WEB_SERVER_ADDRS";

/// The peers that may connect.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Access {
    /// In canonical form: an IPv4 address is never written as an IPv6 one. `None`: not limited.
    web_servers: Option<Vec<IpAddr>>,
    /// Empty: not limited.
    networks: Vec<IpNet>,
    /// Empty: not limited.
    users: Vec<u32>,
}

impl Access {
    /// What the process's environment and the settings demand; `None` where anybody may connect.
    ///
    /// # Errors
    ///
    /// A list that cannot be read lets nobody in by mistake: the server does not start.
    pub(crate) fn of(config: &Config) -> Result<Option<Access>, Error> {
        let mut access = match std::env::var_os(VARIABLE) {
            None => Access::default(),
            Some(list) => Access::read(&list.to_string_lossy())?,
        };
        (access.networks, access.users) = (config.peer_networks.clone(), config.peer_users.clone());
        Ok(Some(access).filter(|access| *access != Access::default()))
    }

    fn read(list: &str) -> Result<Access, Error> {
        let address = |text: &str| text.trim().parse().map(|address: IpAddr| address.to_canonical());
        match list.split(',').map(address).collect() {
            Ok(web_servers) => Ok(Access { web_servers: Some(web_servers), ..Access::default() }),
            Err(_) => {
                let origin = Origin::Variable(VARIABLE.to_owned());
                let reason = "not a list of IP addresses such as 127.0.0.1,10.0.0.7; correct it, or unset it to let \
                              every peer connect";
                Err(Error::new(VARIABLE, list, origin, reason))
            }
        }
    }

    /// Whether connections over Unix sockets must be ordinary descriptors, whose peers can be asked for.
    pub(crate) fn asks_unix(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether the peer of an accepted connection may stay, or why not. `socket`: of a Unix socket none is needed
    /// unless [`Access::asks_unix`].
    pub(crate) fn check(&self, is_tcp: bool, socket: Option<BorrowedFd<'_>>) -> Result<(), String> {
        let peer = socket.filter(|_| is_tcp).and_then(peer_address).map(|peer| peer.ip());
        match (&self.web_servers, peer) {
            (Some(allowed), Some(peer)) if !allowed.contains(&peer) => {
                return Err(format!("{peer} is not in {VARIABLE}"));
            }
            (Some(_), None) => return Err(format!("its peer has no IP address that could be in {VARIABLE}")),
            _ => {}
        }
        if is_tcp && !self.networks.is_empty() {
            let peer = peer.ok_or("its peer is gone")?;
            if !self.networks.iter().any(|network| network.contains(&peer)) {
                return Err(format!("{peer} is not in peer_networks"));
            }
        }
        if !is_tcp && !self.users.is_empty() {
            let socket = socket.ok_or("its peer cannot be asked for")?;
            let peer = rustix::net::sockopt::socket_peercred(socket).map_err(|errno| errno.to_string())?;
            let user = peer.uid.as_raw();
            if !self.users.contains(&user) {
                return Err(format!("user {user} is not in peer_users"));
            }
        }
        Ok(())
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
            assert_eq!(
                Access::read(list).expect(list).web_servers.map_or(0, |list| list.len()),
                count,
                "{list}"
            );
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
            assert_eq!(
                access.check(true, Some(socket.as_fd())).is_ok(),
                is_welcome,
                "{list} {server} {client}"
            );
        }
    }

    #[test]
    fn who_has_no_address_is_a_stranger() {
        let access = Access::read("127.0.0.1,::1").expect("a list");
        let (unix, _other) = UnixStream::pair().expect("a pair");
        assert!(access.check(false, None).is_err() && access.check(false, Some(unix.as_fd())).is_err());
    }

    #[test]
    fn settings_limit_each_kind_of_socket_alone() {
        let (tcp, _near) = accepted("127.0.0.1:0", "127.0.0.1");
        let (unix, _other) = UnixStream::pair().expect("a pair");
        let me = rustix::process::geteuid().as_raw();
        let read =
            |networks: &str| networks.split(',').map(|text| text.parse().expect("a network")).collect();
        for (networks, users, tcp_may, unix_may) in [
            ("127.0.0.0/8", vec![], true, true),
            ("10.0.0.0/8,127.0.0.1/32", vec![me], true, true),
            ("10.0.0.0/8", vec![me + 1, me], false, true),
            ("::1/128", vec![me + 1], false, false),
        ] {
            let access = Access { networks: read(networks), users, ..Access::default() };
            assert_eq!(access.check(true, Some(tcp.as_fd())).is_ok(), tcp_may, "{access:?}");
            assert_eq!(access.check(false, Some(unix.as_fd())).is_ok(), unix_may, "{access:?}");
        }
        let both = Access { networks: read("10.0.0.0/8"), ..Access::read("127.0.0.1").expect("a list") };
        assert!(both.check(true, Some(tcp.as_fd())).is_err(), "each list is obeyed");
    }
}
