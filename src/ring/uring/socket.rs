//! What this ring knows of each socket, and the numbers by which completions find it.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{squeue, types};

use super::super::{Descriptor, ListenerId, Token};

/// What a completion says that it is the completion of; travels as `user_data`.
///
/// `kind:8 | generation:24 | index:32`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) kind: Kind,
    /// Which life of the index is meant; wraps.
    pub(super) generation: u32,
    pub(super) index: u32,
}

/// Kinds of operations, with what their index names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// An accept, mostly multishot, or the poll before plain ones; a listener.
    Accept = 1,
    /// Multishot; a descriptor.
    Recv,
    /// A send that never waits and completes only when it fails; a send.
    SendNow,
    /// A send that waits; a send.
    Send,
    /// Completes only when it fails, which changes nothing: cancel, close, moving the timeout.
    Quiet,
    /// A message to another ring; a descriptor.
    HandOver,
    /// The message from another ring: its result is a slot of ours; a `ListenerId`.
    TakeOver,
    /// The one timeout.
    Alarm,
    /// Multishot poll of the waker's eventfd.
    Wake,
    /// Multishot poll for nothing but the hang-up, which comes unasked; a descriptor.
    HangUp,
    /// A descriptor, direct.
    Shutdown,
    /// A file was put into the ring's table; a descriptor, ordinary.
    Install,
}

impl Tag {
    /// Generations are equal when they are in these bits.
    pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;

    pub(super) const QUIET: Tag = Tag { kind: Kind::Quiet, generation: 0, index: 0 };

    pub(super) fn to_u64(self) -> u64 {
        let generation = u64::from(self.generation & Tag::GENERATION_MASK);
        (self.kind as u64) << 56 | generation << 32 | u64::from(self.index)
    }

    pub(super) fn from_u64(user_data: u64) -> Tag {
        const KINDS: [Kind; 12] = [
            Kind::Accept,
            Kind::Recv,
            Kind::SendNow,
            Kind::Send,
            Kind::Quiet,
            Kind::HandOver,
            Kind::TakeOver,
            Kind::Alarm,
            Kind::Wake,
            Kind::HangUp,
            Kind::Shutdown,
            Kind::Install,
        ];
        let kind = KINDS[(user_data >> 56) as usize - 1];
        Tag { kind, generation: (user_data >> 32) as u32 & Tag::GENERATION_MASK, index: user_data as u32 }
    }
}

/// Marks a [`Descriptor`] of this driver as a file descriptor; the others are slots of the ring's own table.
const ORDINARY: u32 = 1 << 31;

impl Descriptor {
    pub(super) fn direct(slot: u32) -> Descriptor {
        debug_assert_eq!(slot & ORDINARY, 0);
        Descriptor(slot)
    }

    pub(super) fn ordinary(fd: &OwnedFd) -> Descriptor {
        Descriptor(fd.as_raw_fd() as u32 | ORDINARY)
    }

    pub(super) fn is_direct(self) -> bool {
        self.0 & ORDINARY == 0
    }

    /// The slot or the file descriptor.
    pub(super) fn number(self) -> u32 {
        self.0 & !ORDINARY
    }

    /// As the target of an operation: `direct` must be applied to the entry that is built with it.
    pub(super) fn target(self) -> types::Fd {
        types::Fd(self.number() as i32)
    }

    /// Says in the entry what kind of number its target is.
    pub(super) fn marked(self, entry: squeue::Entry) -> squeue::Entry {
        if self.is_direct() { entry.flags(squeue::Flags::FIXED_FILE) } else { entry }
    }
}

/// One socket, from `Accepted` to `close`.
pub(super) struct Socket {
    pub(super) listener: ListenerId,
    pub(super) token: Token,
    /// Of this life; `Tag`s carry it.
    pub(super) generation: u32,
    pub(super) is_open: bool,
    /// `close` was called; a send or a shutdown may still be in progress.
    pub(super) is_closing: bool,
    pub(super) receiving: Receiving,
    /// The shutdown of a direct one is in flight.
    pub(super) is_shutting_down: bool,
    /// A poll for the hang-up is in flight.
    pub(super) is_watched: bool,
    /// The send in progress, by its key.
    pub(super) sending: Option<u32>,
    /// Only of an ordinary one.
    pub(super) fd: Option<OwnedFd>,
    pub(super) installed: Installed,
}

/// Whether an ordinary descriptor's file lies in the ring's table as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Installed {
    No,
    Asked,
    Yes,
}

/// ```text
///            recv            ENOBUFS
///   Off ───────────────▶ On ────────▶ Starved        On ◀─── a buffer came back ─── Starved
///    ▲                   │ recv_stop                  RecvStopped at once if asked while Starved
///    └── End, failure ───┼──────────▶ Stopping ── RecvStopped ──▶ Off
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiving {
    Off,
    On,
    Stopping,
    /// The first recv of a socket, or one that the kernel ended, has brought something. The multishot recv that goes on
    /// is queued with the next turn, unless receiving has stopped by then.
    Due,
    /// Ended for want of buffers; in the driver's list of those that wait for one.
    Starved,
}

/// The sockets of a ring by descriptor.
#[derive(Default)]
pub(super) struct Sockets {
    direct: Vec<Socket>,
    ordinary: Vec<Socket>,
    direct_open: usize,
}

impl Sockets {
    /// How many slots of the ring's table are in use.
    pub(super) fn direct_open(&self) -> usize {
        self.direct_open
    }

    /// A socket that this ring owns from now on, in a slot of its table.
    pub(super) fn open_direct(&mut self, slot: u32, listener: ListenerId) -> Descriptor {
        let descriptor = Descriptor::direct(slot);
        self.direct_open += 1;
        self.open(descriptor, listener, None)
    }

    /// A socket that this ring owns from now on, by file descriptor.
    pub(super) fn open_ordinary(&mut self, fd: OwnedFd, listener: ListenerId) -> Descriptor {
        self.open(Descriptor::ordinary(&fd), listener, Some(fd))
    }

    fn open(&mut self, descriptor: Descriptor, listener: ListenerId, fd: Option<OwnedFd>) -> Descriptor {
        let sockets = if descriptor.is_direct() { &mut self.direct } else { &mut self.ordinary };
        let index = descriptor.number() as usize;
        while sockets.len() <= index {
            sockets.push(Socket::unused());
        }
        let socket = &mut sockets[index];
        debug_assert!(!socket.is_open, "{descriptor:?} is open twice");
        *socket = Socket { listener, is_open: true, fd, generation: socket.generation, ..Socket::unused() };
        descriptor
    }

    /// The socket, if it is open.
    #[inline]
    pub(super) fn get(&self, descriptor: Descriptor) -> Option<&Socket> {
        let sockets = if descriptor.is_direct() { &self.direct } else { &self.ordinary };
        sockets.get(descriptor.number() as usize).filter(|socket| socket.is_open)
    }

    /// The socket, if it is open.
    #[inline]
    pub(super) fn get_mut(&mut self, descriptor: Descriptor) -> Option<&mut Socket> {
        let sockets = if descriptor.is_direct() { &mut self.direct } else { &mut self.ordinary };
        sockets.get_mut(descriptor.number() as usize).filter(|socket| socket.is_open)
    }

    /// The socket that the tag was made for, if that life of it lasts.
    #[inline]
    pub(super) fn of_tag(&mut self, tag: Tag) -> Option<&mut Socket> {
        self.get_mut(Descriptor(tag.index)).filter(|socket| socket.generation == tag.generation)
    }

    /// Ends this life of the socket. Its descriptor, if it has one, is the caller's.
    pub(super) fn end(&mut self, descriptor: Descriptor) -> Option<OwnedFd> {
        let socket = self.get_mut(descriptor)?;
        socket.is_open = false;
        socket.generation = (socket.generation + 1) & Tag::GENERATION_MASK;
        let fd = socket.fd.take();
        self.direct_open -= usize::from(descriptor.is_direct());
        fd
    }
}

impl Socket {
    fn unused() -> Socket {
        Socket {
            listener: ListenerId(0),
            token: Token { slot: 0, generation: 0 },
            generation: 0,
            is_open: false,
            is_closing: false,
            receiving: Receiving::Off,
            is_shutting_down: false,
            is_watched: false,
            sending: None,
            fd: None,
            installed: Installed::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_travel_as_numbers() {
        for kind in [Kind::Accept, Kind::SendNow, Kind::Quiet, Kind::TakeOver, Kind::Shutdown] {
            let tag = Tag { kind, generation: Tag::GENERATION_MASK, index: u32::MAX - 1 };
            assert_eq!(Tag::from_u64(tag.to_u64()), tag);
        }
    }

    #[test]
    fn a_tag_of_an_earlier_life_finds_nothing() {
        let mut sockets = Sockets::default();
        let descriptor = sockets.open_direct(3, ListenerId(1));
        let tag = Tag { kind: Kind::Recv, generation: 0, index: descriptor.0 };
        assert!(sockets.of_tag(tag).is_some());
        sockets.end(descriptor);
        assert!(sockets.of_tag(tag).is_none());
        sockets.open_direct(3, ListenerId(1));
        assert!(sockets.of_tag(tag).is_none());
        assert_eq!(sockets.direct_open(), 1);
    }

    #[test]
    fn an_idle_socket_is_small() {
        assert!(size_of::<Socket>() <= 40);
    }
}
