//! Sockets that listen before there is a server: for a parent process whose children serve.

use std::io;
use std::os::fd::OwnedFd;

use crate::Result;
use crate::config::Config;
use crate::ring::{self, Listener};

/// Listening sockets without a server, made as the settings say.
///
/// A process that forks binds them first; each child gives duplicates ([`Listeners::sockets`]) to a server of its own
/// with [`Builder::listener`](crate::Builder::listener). The kernel then gives connections to the children in turns.
/// Dropping it removes the files of Unix sockets, in the process that bound them.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    sockets: Vec<OwnedFd>,
}

impl Listeners {
    /// Checks the settings and listens on their addresses; without any, takes file descriptor 0.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) says which setting is wrong, or what cannot be listened on.
    pub fn bind(config: &Config) -> Result<Listeners> {
        ring::open_standard_streams().map_err(crate::Error::StandardStreams)?;
        config.check()?;
        let mut listeners = super::listen(config, 1)?;
        let sockets = listeners.iter_mut().flat_map(Listener::take_sockets).collect();
        Ok(Listeners { listeners, sockets })
    }

    /// Where clients connect: `127.0.0.1:9000` with the port that was taken, `unix:/path`.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(Listener::address)
    }

    /// Duplicates of the sockets; none after [`Listeners::close`].
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(OwnedFd::try_clone).collect()
    }

    /// Listens no more in this process. Files stay.
    pub fn close(&mut self) {
        self.sockets.clear();
    }
}
