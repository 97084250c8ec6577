//! Receiving: the first bytes of a socket by a plain call or one recv, the others by a multishot recv.

use io_uring::{cqueue, opcode, squeue};
use rustix::net::RecvFlags;

use super::super::{Chunk, Completion, Descriptor, Failure, Operation, Token};
use super::socket::{Kind, Receiving, Tag};
use super::{Uring, provided};

impl Uring {
    /// Bytes of a multishot recv that goes on. `None`, and nothing done, for any other completion.
    #[inline(always)]
    pub(super) fn received_more(&mut self, entry: &cqueue::Entry) -> Option<(Token, Chunk)> {
        let (tag, flags) = (Tag::from_u64(entry.user_data()), entry.flags());
        if tag.kind != Kind::Recv || entry.result() <= 0 || !cqueue::more(flags) {
            return None;
        }
        let socket = self.sockets.of_tag(tag).filter(|socket| !socket.is_closing)?;
        let id = cqueue::buffer_select(flags)?;
        Some((socket.token, self.provided.take(id).fill(entry.result() as usize)))
    }

    pub(super) fn received(&mut self, tag: Tag, result: i32, flags: u32) -> Option<Completion> {
        let is_over = !cqueue::more(flags);
        self.in_flight -= usize::from(is_over);
        let buffer = cqueue::buffer_select(flags).map(|id| self.provided.take(id));
        let descriptor = Descriptor(tag.index);
        let socket = self.sockets.of_tag(tag)?;
        let (token, was) = (socket.token, socket.receiving);
        if is_over {
            socket.receiving = Receiving::Off;
        }
        if socket.is_closing {
            return None;
        }
        let failed = |errno| {
            let failure = Failure::new(Operation::Recv, errno);
            Some(Completion::RecvFailed { token, failure })
        };
        match (-result, was) {
            (0, _) => Some(Completion::End { token }),
            (..0, _) => {
                let chunk = buffer.expect("received bytes lie in a buffer").fill(result as usize);
                match was {
                    Receiving::Stopping if is_over => {
                        self.ready.push_back(Completion::RecvStopped { token });
                    }
                    _ if is_over => {
                        socket.receiving = Receiving::Due;
                        self.due.push((descriptor, tag.generation));
                    }
                    _ => {}
                }
                Some(Completion::Received { token, chunk })
            }
            (libc::ECANCELED | libc::ENOBUFS, Receiving::Stopping) => Some(Completion::RecvStopped { token }),
            (libc::ENOBUFS, _) => {
                self.provided.run_out();
                socket.receiving = Receiving::Starved;
                self.starved.push_back((descriptor, tag.generation));
                None
            }
            (errno, _) => failed(errno),
        }
    }

    /// The peer's half-close, which is known, comes unasked and first; the hang-up follows when it does.
    pub(super) fn hung_up(&mut self, tag: Tag, result: i32, flags: u32) -> Option<Completion> {
        let is_over = !cqueue::more(flags);
        self.in_flight -= usize::from(is_over);
        let socket = self.sockets.of_tag(tag)?;
        let token = socket.token;
        if socket.is_closing {
            socket.is_watched &= !is_over;
            return None;
        }
        if result >= 0 && result & i32::from(libc::POLLHUP) == 0 {
            if is_over {
                self.arm_watch(Descriptor(tag.index));
            }
            return None;
        }
        socket.is_watched &= !is_over;
        (result >= 0).then_some(Completion::HungUp { token })
    }

    pub(super) fn arm_watch(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        socket.is_watched = true;
        let tag = Tag { kind: Kind::HangUp, generation: socket.generation, index: descriptor.0 };
        let entry = opcode::PollAdd::new(descriptor.target(), 0).multi(true).build();
        self.in_flight += 1;
        self.queue.push(descriptor.marked(entry).user_data(tag.to_u64()));
    }

    pub(super) fn arm_recv(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        socket.receiving = Receiving::On;
        let tag = Tag { kind: Kind::Recv, generation: socket.generation, index: descriptor.0 };
        let entry = opcode::RecvMulti::new(descriptor.target(), provided::GROUP).build();
        self.in_flight += 1;
        self.queue.push(descriptor.marked(entry).user_data(tag.to_u64()));
        // Who goes on after its first bytes mostly is a connection that is kept.
        self.install(descriptor);
    }

    /// Takes what is there already by a plain call: the first request has mostly come by the time its connection is
    /// accepted. Whether anything was.
    pub(super) fn recv_at_once(&mut self, descriptor: Descriptor) -> bool {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return false };
        let Some(fd) = &socket.fd else { return false };
        let Some(mut buffer) = self.pool.lend() else { return false };
        self.syscalls_outside += 1;
        // What fails here fails again as an operation, which reports it.
        let Ok((received, _)) = rustix::net::recv(fd, buffer.as_mut_slice(), RecvFlags::DONTWAIT) else {
            return false;
        };
        let token = socket.token;
        if received == 0 {
            self.ready.push_back(Completion::End { token });
            return true;
        }
        socket.receiving = Receiving::Due;
        self.due.push((descriptor, socket.generation));
        self.ready.push_back(Completion::Received { token, chunk: buffer.fill(received) });
        true
    }

    /// One recv of what comes first. A connection that ends with its first request is thereby spared the multishot
    /// recv, which the kernel would have to set up and cancel again.
    pub(super) fn arm_first_recv(&mut self, descriptor: Descriptor) {
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        socket.receiving = Receiving::On;
        let tag = Tag { kind: Kind::Recv, generation: socket.generation, index: descriptor.0 };
        // No address and no length: both are the provided buffer's.
        let recv = opcode::Recv::new(descriptor.target(), std::ptr::null_mut(), 0).buf_group(provided::GROUP);
        self.in_flight += 1;
        let entry = recv.build().flags(squeue::Flags::BUFFER_SELECT);
        self.queue.push(descriptor.marked(entry).user_data(tag.to_u64()));
    }
}
