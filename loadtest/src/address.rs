//! Where a server listens: `unix:/path` or `HOST:PORT` (numbers only; nothing here resolves names).

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket, sockopt};

/// A server's address, Unix or TCP on the loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

impl Address {
    /// A fresh Unix address inside `directory`.
    pub fn unix_in(directory: &Path, name: &str) -> Address {
        Address::Unix(directory.join(format!("{name}.sock")))
    }

    /// A TCP port of the loopback that was free a moment ago.
    pub fn free_tcp() -> Result<Address> {
        let listener = TcpListener::bind("127.0.0.1:0").context("bind a port of the loopback")?;
        Ok(Address::Tcp(listener.local_addr()?))
    }

    /// A connected blocking socket, with Nagle's algorithm off on TCP as web servers have it.
    pub fn connect(&self) -> rustix::io::Result<OwnedFd> {
        match self {
            Address::Unix(path) => {
                let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
                connect(&fd, &SocketAddrUnix::new(path.as_path())?)?;
                Ok(fd)
            }
            Address::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = socket(family, SocketType::STREAM, None)?;
                sockopt::set_tcp_nodelay(&fd, true)?;
                connect(&fd, address)?;
                Ok(fd)
            }
        }
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Address> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                bail!("no path after `unix:`");
            }
            return Ok(Address::Unix(path.into()));
        }
        let address = text.parse::<SocketAddr>();
        let address = address.with_context(|| format!("`{text}` is neither unix:/path nor IP:PORT"))?;
        if !address.ip().is_loopback() {
            bail!("{address} is not on the loopback; this program loads its own machine only");
        }
        Ok(Address::Tcp(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_are_written() {
        for text in ["unix:/run/app.sock", "127.0.0.1:9000", "[::1]:9000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in ["unix:", "localhost:9000", "/run/app.sock", "192.0.2.1:9000"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
