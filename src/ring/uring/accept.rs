//! Listening sockets, and connections on their way to another ring.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;

use io_uring::{cqueue, opcode, types};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, sockopt};
use slab::Slab;

use super::super::{Completion, Descriptor, Failure, ListenerId, Operation};
use super::queue::Queue;
use super::socket::{Kind, Tag};
use super::{Uring, Waking};

/// Connections taken from the queue of a listener that is closed; more than a queue can hold.
const QUEUE_MAX: u32 = 1 << 16;

/// Connections that plain calls take in one turn; whoever has something for the ring waits that long.
const AT_ONCE_MAX: u32 = 16;

/// Where other rings send sockets to.
#[derive(Clone)]
pub struct UringAddress {
    /// A descriptor of the ring, of its own so that it stays what it is even if the ring is gone.
    ring: Arc<OwnedFd>,
    waking: Arc<Waking>,
}

impl UringAddress {
    pub(super) fn new(ring: OwnedFd, waking: Arc<Waking>) -> UringAddress {
        UringAddress { ring: Arc::new(ring), waking }
    }

    fn is(&self, other: &UringAddress) -> bool {
        Arc::ptr_eq(&self.ring, &other.ring)
    }
}

/// The listening sockets of a ring. An entry stays until its accept has ended.
#[derive(Default)]
pub(super) struct Listening {
    sockets: Slab<Listen>,
    /// Those whose connections are taken by plain calls, and that had some when they were looked at last.
    waiting: VecDeque<usize>,
    /// How many such calls this turn has left.
    calls_left: u32,
}

struct Listen {
    id: ListenerId,
    socket: OwnedFd,
    way: Way,
    /// Whether an accept, or the poll before plain ones, is in flight.
    is_armed: bool,
    is_wanted: bool,
    /// Closed as soon as the accept has ended.
    is_removed: bool,
    /// Whether the accept in flight only takes what waits in the queue.
    is_last: bool,
}

/// How connections are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// A poll says when there are some, accept4(2) takes them. Of a Unix socket: the kernel makes a socket and a file
    /// before it finds that its queue is empty, and a multishot accept would find that out at the end of each turn.
    Plain,
    /// Multishot, as ordinary descriptors. Of a TCP socket the kernel knows when its queue is empty.
    Multi,
    /// Multishot, into the ring's own table.
    Direct,
    /// Each accept takes one connection. The kernel gives a connection to the process that waits for the longest time,
    /// and a multishot accept never loses that place: it would take all.
    InTurns { direct: bool },
}

impl Way {
    fn is_direct(self) -> bool {
        matches!(self, Way::Direct | Way::InTurns { direct: true })
    }
}

impl Listening {
    fn find(&mut self, id: ListenerId) -> Option<(usize, &mut Listen)> {
        self.sockets.iter_mut().find(|(_, listen)| listen.id == id && !listen.is_removed)
    }

    /// For an end of the ring: nothing is armed again.
    pub(super) fn want_none(&mut self) {
        self.sockets.iter_mut().for_each(|(_, listen)| listen.is_wanted = false);
    }

    /// Queues an accept.
    fn arm(&mut self, key: usize, queue: &mut Queue) {
        let listen = &mut self.sockets[key];
        debug_assert!(!listen.is_armed);
        listen.is_armed = true;
        let target = types::Fd(listen.socket.as_raw_fd());
        // A slot of the table is not a descriptor that a child process could inherit.
        let flags = if listen.way.is_direct() { 0 } else { libc::SOCK_CLOEXEC };
        let accept = match listen.way {
            Way::Plain => opcode::PollAdd::new(target, libc::POLLIN as u32).build(),
            Way::Multi => opcode::AcceptMulti::new(target).flags(flags).build(),
            Way::Direct => opcode::AcceptMulti::new(target).allocate_file_index(true).flags(flags).build(),
            Way::InTurns { direct } => {
                let slot = direct.then(types::DestinationSlot::auto_target);
                opcode::Accept::new(target, null_mut(), null_mut()).file_index(slot).flags(flags).build()
            }
        };
        queue.push(accept.user_data(tag(key).to_u64()));
    }
}

fn tag(key: usize) -> Tag {
    Tag { kind: Kind::Accept, generation: 0, index: key as u32 }
}

impl Uring {
    pub(super) fn add_listener(
        &mut self,
        id: ListenerId,
        socket: OwnedFd,
        identify: bool,
        in_turns: bool,
    ) -> Result<(), Failure> {
        let failed = |errno| Failure::new(Operation::Listen, errno);
        let is_unix = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
        let direct = is_unix && !identify && self.direct_descriptors > 0;
        let way = match (in_turns, direct) {
            (true, direct) => Way::InTurns { direct },
            (false, true) => Way::Direct,
            (false, false) if is_unix => Way::Plain,
            (false, false) => Way::Multi,
        };
        // On a non-blocking socket io_uring reports EAGAIN instead of waiting for a connection.
        rustix::io::ioctl_fionbio(&socket, way == Way::Plain)
            .map_err(|error| failed(error.raw_os_error()))?;
        if !sockopt::socket_acceptconn(&socket).map_err(|error| failed(error.raw_os_error()))? {
            return Err(failed(libc::EINVAL));
        }
        let key = self.listening.sockets.insert(Listen {
            id,
            socket,
            way,
            is_armed: false,
            is_wanted: true,
            is_removed: false,
            is_last: false,
        });
        self.arm_accept(key);
        Ok(())
    }

    pub(super) fn add_connection(
        &mut self,
        listener: ListenerId,
        socket: OwnedFd,
    ) -> Result<Descriptor, Failure> {
        // On a non-blocking socket io_uring reports EAGAIN instead of waiting for bytes.
        rustix::io::ioctl_fionbio(&socket, false)
            .map_err(|errno| Failure::new(Operation::Accept, errno.raw_os_error()))?;
        self.syscalls_outside += 1;
        Ok(self.sockets.open_ordinary(socket, listener))
    }

    pub(super) fn accept_again(&mut self, id: ListenerId) {
        let full = self.sockets.direct_open() >= self.direct_descriptors as usize;
        let Some((key, listen)) = self.listening.find(id) else { return };
        if std::mem::replace(&mut listen.is_wanted, true) || listen.is_armed {
            return; // or being cancelled: then it is armed again when that is done
        }
        if listen.way.is_direct() && full {
            // The kernel would accept a connection and drop it before it sees that the table is full.
            listen.is_wanted = false;
            let failure = Failure::new(Operation::Accept, libc::ENFILE);
            return self.ready.push_back(Completion::AcceptFailed { listener: id, failure });
        }
        self.arm_accept(key);
    }

    pub(super) fn stop_accepting(&mut self, id: ListenerId) {
        let Some((key, listen)) = self.listening.find(id) else { return };
        let (was_wanted, is_armed) = (std::mem::replace(&mut listen.is_wanted, false), listen.is_armed);
        self.listening.waiting.retain(|waiting| *waiting != key);
        if was_wanted && is_armed {
            self.cancel(tag(key));
        }
    }

    pub(super) fn remove_listener(&mut self, id: ListenerId) {
        self.stop_accepting(id);
        let Some((key, listen)) = self.listening.find(id) else { return };
        listen.is_removed = true;
        if !listen.is_armed {
            self.end_listening(key);
        }
    }

    /// Closes a listening socket on which no accept is in flight, after it took what waits in its queue.
    fn end_listening(&mut self, key: usize) {
        let listen = &mut self.listening.sockets[key];
        if let Way::InTurns { .. } = listen.way {
            // Non-blocking mode would be that of the other processes too. An accept that is cancelled in the same
            // enter takes what is there, and waits for nothing.
            listen.is_last = true;
            self.arm_accept(key);
            return self.cancel(tag(key));
        }
        let Listen { id, socket, .. } = self.listening.sockets.remove(key);
        if rustix::io::ioctl_fionbio(&socket, true).is_err() {
            return;
        }
        for _ in 0..QUEUE_MAX {
            self.syscalls_outside += 1;
            match rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    let descriptor = self.sockets.open_ordinary(fd, id);
                    self.ready.push_back(Completion::Accepted { listener: id, descriptor });
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn arm_accept(&mut self, key: usize) {
        self.in_flight += 1;
        self.listening.arm(key, &mut self.queue);
    }

    /// A completion of an accept.
    pub(super) fn accepted(&mut self, tag: Tag, result: i32, flags: u32) -> Option<Completion> {
        let key = tag.index as usize;
        let listen = &mut self.listening.sockets[key];
        let listener = listen.id;
        let way = listen.way;
        if !cqueue::more(flags) {
            self.in_flight -= 1;
            listen.is_armed = false;
            if listen.is_removed && listen.is_last && result < 0 {
                self.listening.sockets.remove(key);
            } else if listen.is_removed {
                self.end_listening(key);
            } else if listen.is_wanted {
                match -result {
                    ..=0 if way == Way::Plain => self.listening.waiting.push_back(key),
                    // Ended without a failure, or cancelled by a stop that was taken back.
                    ..=0 | libc::ECANCELED => self.arm_accept(key),
                    errno => {
                        listen.is_wanted = false;
                        let failure = Failure::new(Operation::Accept, errno);
                        return Some(Completion::AcceptFailed { listener, failure });
                    }
                }
            }
        }
        if result < 0 || way == Way::Plain {
            return None;
        }
        let descriptor = if way.is_direct() {
            self.sockets.open_direct(result as u32, listener)
        } else {
            // SAFETY: the kernel made this descriptor for this accept and tells nobody else; each completion
            // is read once.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            self.sockets.open_ordinary(fd, listener)
        };
        Some(Completion::Accepted { listener, descriptor })
    }

    /// For a new turn.
    pub(super) fn allow_plain_accepts(&mut self) {
        self.listening.calls_left = AT_ONCE_MAX;
    }

    /// Whether plain calls may find connections to accept.
    pub(super) fn has_waiting(&self) -> bool {
        !self.listening.waiting.is_empty()
    }

    /// The next connection that a plain call takes. They come one by one, so that each is served while the kernel has
    /// it in the cache.
    pub(super) fn accept_at_once(&mut self) -> Option<Completion> {
        while let Some(&key) = self.listening.waiting.front() {
            self.listening.calls_left = self.listening.calls_left.checked_sub(1)?;
            let Listen { id, socket, is_wanted, .. } = &mut self.listening.sockets[key];
            self.syscalls_outside += 1;
            let errno = match rustix::net::accept_with(&*socket, SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    let (listener, descriptor) = (*id, self.sockets.open_ordinary(fd, *id));
                    // One of each in turn: a crowd at one socket must not keep the others waiting.
                    self.listening.waiting.rotate_left(1);
                    return Some(Completion::Accepted { listener, descriptor });
                }
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => errno,
            };
            self.listening.waiting.pop_front();
            if errno == Errno::AGAIN {
                self.arm_accept(key);
                continue;
            }
            *is_wanted = false;
            let failure = Failure::new(Operation::Accept, errno.raw_os_error());
            return Some(Completion::AcceptFailed { listener: *id, failure });
        }
        None
    }

    pub(super) fn send_socket(&mut self, descriptor: Descriptor, listener: ListenerId, to: &UringAddress) {
        let mut descriptor = descriptor;
        if !to.is(&self.address) {
            if descriptor.is_direct() {
                return self.send_direct(descriptor, listener, to);
            }
            // An ordinary descriptor is as good in any ring of this process.
            let Some(fd) = self.sockets.end(descriptor) else { return };
            let Err(fd) = to.waking.deliver(listener, fd) else { return };
            descriptor = self.sockets.open_ordinary(fd, listener);
        }
        self.ready.push_back(Completion::Accepted { listener, descriptor });
    }

    /// Has the kernel put the socket into the other ring's table.
    fn send_direct(&mut self, descriptor: Descriptor, listener: ListenerId, to: &UringAddress) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        socket.listener = listener;
        let here = Tag { kind: Kind::HandOver, generation: socket.generation, index: descriptor.0 };
        let there = Tag { kind: Kind::TakeOver, generation: 0, index: listener.0 };
        let ring = types::Fd(to.ring.as_raw_fd());
        let (slot, any) = (types::Fixed(descriptor.number()), types::DestinationSlot::auto_target());
        let message = opcode::MsgRingSendFd::new(ring, slot, any, there.to_u64()).build();
        self.queue.push(message.user_data(here.to_u64()));
        // The ring's descriptor must be open when the message is submitted; siblings are few.
        if !self.siblings.iter().any(|sibling| sibling.is(to)) {
            self.siblings.push(to.clone());
        }
    }

    /// The other ring has the socket, or cannot take it.
    pub(super) fn socket_sent(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        let descriptor = Descriptor(tag.index);
        let listener = self.sockets.of_tag(tag)?.listener;
        if result < 0 {
            return Some(Completion::Accepted { listener, descriptor });
        }
        // The socket lies in both tables.
        self.sockets.end(descriptor);
        self.push_close(descriptor);
        None
    }

    /// Another ring put a socket into our table.
    pub(super) fn socket_came(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        let listener = ListenerId(tag.index);
        let slot = u32::try_from(result).expect("messages carry sockets");
        let descriptor = self.sockets.open_direct(slot, listener);
        Some(Completion::Accepted { listener, descriptor })
    }

    /// Other rings may have left sockets in the inbox.
    pub(super) fn sockets_came(&mut self) {
        for (listener, fd) in self.waking.take_sockets() {
            let descriptor = self.sockets.open_ordinary(fd, listener);
            self.ready.push_back(Completion::Accepted { listener, descriptor });
        }
    }
}
