//! Where an application listens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Error;

/// The address of an application: `unix:/path`, `unix:@abstract` or `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Address {
    /// A Unix socket file.
    Unix(PathBuf),
    /// A Unix socket in Linux's abstract namespace, by its name without the leading NUL.
    Abstract(String),
    /// A TCP host and port; an IPv6 host stands in brackets.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let refuse = |reason| Err(Error::Address { address: text.to_owned(), reason });
        match text.strip_prefix("unix:") {
            Some("" | "@") => refuse("the socket's path is missing"),
            Some(path) if path.contains('\0') => refuse("a path has no NUL"),
            Some(path) => match path.strip_prefix('@') {
                Some(name) => Ok(Address::Abstract(name.to_owned())),
                None => Ok(Address::Unix(path.into())),
            },
            None if text.starts_with('/') => refuse("a Unix socket is written unix:/path"),
            None => match text.rsplit_once(':') {
                Some(("", _)) => refuse("the host is missing"),
                Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port != 0) => {
                    match host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
                        true => refuse("an IPv6 host stands in brackets: [::1]:9000"),
                        false => Ok(Address::Tcp(text.to_owned())),
                    }
                }
                _ => refuse("neither unix:/path, unix:@name nor HOST:PORT"),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
            Address::Tcp(authority) => f.write_str(authority),
        }
    }
}

/// Both directions of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

impl Address {
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Abstract(name) => Ok(Box::new(UnixStream::connect(format!("\0{name}")).await?)),
            Address::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["unix:/run/app.sock", "unix:app.sock", "unix:@ringway", "localhost:9000", "[::1]:9000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for text in
            ["", "unix:", "unix:@", "/run/app.sock", "localhost", ":9000", "::1:9000", "a:0", "a:65536"]
        {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("address {text:?}: ")), "{error}");
        }
    }
}
