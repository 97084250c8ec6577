//! Connections on their way from one process to another, as descriptors (SCM_RIGHTS, unix(7)).
//!
//! ```text
//!   a process that ends ── send ──▶ [ waiting connections ] ── take ──▶ a process that goes on
//! ```
//!
//! A connection that waits in between is open, and what its peer sends waits in its own buffer.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::{Failure, ListenerId, Operation};

/// The way by which processes that serve the same sockets pass kept connections on to each other, so that a web server
/// does not notice when one of them is replaced.
///
/// Their parent makes it, each of them gives it (or a duplicate) to its server with
/// [`Builder::passage`](crate::Builder::passage), and the one that is to go is told so with
/// [`Handle::retire`](crate::Handle::retire). The servers must have the same listeners in the same order. Connections
/// that nobody has taken are closed with the last duplicate.
#[derive(Debug)]
pub struct Passage {
    entrance: OwnedFd,
    exit: OwnedFd,
}

impl Passage {
    /// A passage in which nothing waits.
    pub fn new() -> io::Result<Passage> {
        // Each message comes out whole, to one taker; and other than with datagrams, more than ten fit in.
        let kind = SocketType::SEQPACKET;
        let (entrance, exit) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        Ok(Passage { entrance, exit })
    }

    /// Another handle to the same passage.
    pub fn try_clone(&self) -> io::Result<Passage> {
        Ok(Passage { entrance: self.entrance.try_clone()?, exit: self.exit.try_clone()? })
    }

    /// Lets a duplicate of a connection in. Never waits: EAGAIN and ETOOMANYREFS say that it is full.
    pub(crate) fn send(&self, listener: ListenerId, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        let sockets = [socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)), "there is space for one");
        let number = listener.0.to_ne_bytes();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&self.entrance, &[IoSlice::new(&number)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The connection that waits for the longest time; `None`: none does. EMFILE: it is lost.
    pub(crate) fn take(&self) -> Result<Option<(ListenerId, OwnedFd)>, Failure> {
        let mut number = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(&self.exit, &mut [IoSliceMut::new(&mut number)], &mut control, flags) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        let socket = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        // The kernel leaves a descriptor out for which there is no room.
        let socket = socket.ok_or(failed(Errno::MFILE))?;
        Ok(Some((ListenerId(u32::from_ne_bytes(number)), socket)))
    }

    /// Readable when a connection waits.
    pub(crate) fn exit(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }
}

fn failed(errno: Errno) -> Failure {
    Failure::new(Operation::PassOn, errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ring::Fate;

    #[test]
    fn connections_come_out_as_they_went_in() {
        let passage = Passage::new().expect("a passage");
        let other = passage.try_clone().expect("a duplicate");
        assert!(other.take().expect("it works").is_none());
        let mut peers = Vec::new();
        for number in 0..3 {
            let (mut near, far) = UnixStream::pair().expect("a pair");
            passage.send(ListenerId(number), far.as_fd()).expect("there is room");
            drop(far);
            // On its way a connection is open.
            near.write_all(&[number as u8]).expect("it is open");
            peers.push(near);
        }
        for number in 0..3 {
            let (listener, socket) = other.take().expect("it works").expect("it waits");
            assert_eq!(listener, ListenerId(number));
            let mut byte = [9];
            UnixStream::from(socket).read_exact(&mut byte).expect("what came on the way");
            assert_eq!(byte, [number as u8]);
        }
        assert!(other.take().expect("it works").is_none());
    }

    #[test]
    fn a_full_passage_says_so_and_what_waits_in_it_ends_with_it() {
        let passage = Passage::new().expect("a passage");
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let mut count = 0;
        let failure = loop {
            match passage.send(ListenerId(0), far.as_fd()) {
                Ok(()) => count += 1,
                Err(failure) => break failure,
            }
            assert!(count < 100_000, "it has a bound");
        };
        assert_eq!(failure.fate(), Fate::Retry, "{failure}");
        assert!(count >= 100, "{count} fit in");
        drop(far);
        drop(passage);
        assert_eq!(near.read(&mut [0]).expect("the end"), 0);
    }
}
