//! Sends: output that the kernel reads from, kept where it is until the kernel is done with it.
//!
//! ```text
//!             submitted and          no completion came
//!   send ───▶ SendNow ──────────────────────────────────────────▶ Sent
//!                │ it completed: failed, or took a part                ▲
//!                ▼                                                     │
//!              Send, waits for room; repeated until all is taken ──────┘
//! ```
//!
//! `SendNow` is a send with `MSG_DONTWAIT`: the kernel does it while the enter that submits it runs, or not
//! at all, so that after this enter it reads the bytes no more. With `CQE_SKIP_SUCCESS` it says nothing when
//! it took all (`MSG_WAITALL` makes a short send a failure). So the ordinary reply costs no completion, and
//! `Sent` is inferred once every completion that was there after the enter has been read.

use std::io::IoSlice;

use io_uring::{opcode, squeue};

use super::super::{Completion, Descriptor, Failure, Operation, Output, Token};
use super::queue::Queue;
use super::socket::{Kind, Tag};

/// Whether sends go out as `SendNow` first. This rests on what kernels do, which is tested at start
/// (`probe`), rather than on what they promise; without it every send waits for its completion.
pub(super) const SEND_NOW: bool = true;

/// More than this is not tried as `SendNow`: socket buffers hold about 200 KiB, and a part taken costs a
/// second operation.
pub(super) const SEND_NOW_BYTES_MAX: usize = 128 * 1024;

const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// The sends in progress.
pub(super) struct Sends {
    /// By key. One that ended stays, to be filled in place for another: copies of it, just written and at once read
    /// again in other pieces, would have the processor wait (2 % of the time that a request takes here).
    sends: Vec<Send>,
    /// Keys of those that ended.
    idle: Vec<u32>,
    /// Blocks for vectored sends that are not in use.
    #[expect(clippy::vec_box, reason = "a box moves between here and a send, its kilobyte does not")]
    spare: Vec<Box<Vectored>>,
    /// Tells the sends apart that use the same key one after the other.
    generation: u32,
    send_now: bool,
}

struct Send {
    descriptor: Descriptor,
    /// The descriptor's number is that of a slot.
    has_slot: bool,
    token: Token,
    output: Output,
    /// Of the operation in flight; changes with each. [`ENDED`]: there is none.
    generation: u32,
    kind: Kind,
    /// Bytes that the operation in flight was given.
    asked: usize,
    /// The socket is being closed: what is not sent yet never is.
    is_abandoned: bool,
    vectored: Option<Box<Vectored>>,
}

/// Beyond all that tags carry.
const ENDED: u32 = u32::MAX;

/// What a vectored send points to. Boxed: the kernel is told its address.
struct Vectored {
    slices: [libc::iovec; Output::SLICES_MAX],
    header: libc::msghdr,
}

/// What came of an operation.
pub(super) enum Progress {
    /// Nothing that the engine must know: the rest was sent after it, or this was no longer the send in
    /// progress.
    None,
    /// An operation that waits has ended and another was queued for the rest.
    Continued,
    /// All is sent, or nothing more will be.
    Done { descriptor: Descriptor, completion: Completion },
}

impl Sends {
    pub(super) fn new(send_now: bool) -> Sends {
        Sends { sends: Vec::new(), idle: Vec::new(), spare: Vec::new(), generation: 0, send_now }
    }

    /// Queues the output, which is not empty; gives its key and the tag to infer its success by, if it is
    /// sent as `SendNow`.
    pub(super) fn start(
        &mut self,
        queue: &mut Queue,
        (descriptor, has_slot): (Descriptor, bool),
        token: Token,
        output: Output,
    ) -> (u32, Option<Tag>) {
        debug_assert!(!output.is_empty());
        let now = self.send_now && output.len() <= SEND_NOW_BYTES_MAX;
        let kind = if now { Kind::SendNow } else { Kind::Send };
        let key = self.idle.pop().unwrap_or_else(|| {
            self.sends.push(Send::ended());
            self.sends.len() as u32 - 1
        });
        let send = &mut self.sends[key as usize];
        (send.descriptor, send.has_slot, send.token) = (descriptor, has_slot, token);
        send.output = output;
        (send.kind, send.is_abandoned) = (kind, false);
        let tag = self.submit(queue, key);
        (key, now.then_some(tag))
    }

    /// The operation in flight is the last one, whatever comes of it.
    pub(super) fn abandon(&mut self, key: u32) {
        self.sends[key as usize].is_abandoned = true;
    }

    /// The completion of an operation; `result` is the kernel's. For `SendNow` this is a failure.
    pub(super) fn completed(&mut self, queue: &mut Queue, tag: Tag, result: i32) -> Progress {
        let Some(send) = self.in_flight(tag) else {
            debug_assert!(false, "a send completed twice: {tag:?}");
            return Progress::None;
        };
        let waited = send.kind == Kind::Send;
        send.output.advance(result.max(0) as usize);
        if send.output.is_empty() {
            return self.done(tag.index, Ok(()));
        }
        if send.is_abandoned {
            return self.done(tag.index, Err(libc::ECANCELED));
        }
        match -result {
            libc::EAGAIN if !waited => {}
            libc::EINTR | ..0 => {}
            // A stream never takes nothing of something, but if it did this would go on for ever.
            0 if waited => return self.done(tag.index, Err(libc::EPIPE)),
            0 => {}
            errno => return self.done(tag.index, Err(errno)),
        }
        send.kind = Kind::Send;
        self.submit(queue, tag.index);
        Progress::Continued
    }

    /// Ends a send.
    #[inline(always)]
    fn end(&mut self, key: u32) -> (Descriptor, Token, Output) {
        let send = &mut self.sends[key as usize];
        send.generation = ENDED;
        let ended = (send.descriptor, send.token, std::mem::take(&mut send.output));
        if send.vectored.is_some() {
            self.spare.extend(send.vectored.take());
        }
        self.idle.push(key);
        ended
    }

    /// As [`Sends::inferred`], where all of the output was given to the kernel at a time. `None`, and nothing done,
    /// where it was not, and where this is no longer the operation in flight.
    #[inline(always)]
    pub(super) fn inferred_whole(&mut self, tag: Tag) -> Option<(Descriptor, Token, Output)> {
        let send = self.in_flight(tag)?;
        if send.asked != send.output.len() {
            return None;
        }
        send.output.advance(send.asked);
        Some(self.end(tag.index))
    }

    /// A `SendNow` was submitted and has not completed: it took all it was given.
    pub(super) fn inferred(&mut self, queue: &mut Queue, tag: Tag) -> (Progress, Option<Tag>) {
        let Some(send) = self.in_flight(tag) else { return (Progress::None, None) };
        debug_assert_eq!(send.kind, Kind::SendNow);
        send.output.advance(send.asked);
        if send.output.is_empty() {
            return (self.done(tag.index, Ok(())), None);
        }
        if send.is_abandoned {
            return (self.done(tag.index, Err(libc::ECANCELED)), None);
        }
        // There were more pieces than one operation takes.
        (Progress::None, Some(self.submit(queue, tag.index)))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sends.len() == self.idle.len()
    }

    fn in_flight(&mut self, tag: Tag) -> Option<&mut Send> {
        self.sends.get_mut(tag.index as usize).filter(|send| send.generation == tag.generation)
    }

    fn done(&mut self, key: u32, result: Result<(), i32>) -> Progress {
        let (descriptor, token, output) = self.end(key);
        let result = result.map_err(|errno| Failure::new(Operation::Send, errno));
        Progress::Done { descriptor, completion: Completion::Sent { token, output, result } }
    }

    /// Queues an operation for what is left, of the send's kind.
    fn submit(&mut self, queue: &mut Queue, key: u32) -> Tag {
        self.generation = (self.generation + 1) & Tag::GENERATION_MASK;
        let send = &mut self.sends[key as usize];
        send.generation = self.generation;
        let tag = Tag { kind: send.kind, generation: send.generation, index: key };
        let flags = if send.kind == Kind::SendNow { FLAGS | libc::MSG_DONTWAIT } else { FLAGS };
        let target = send.descriptor.target();
        let entry = match send.output.as_single() {
            Some(bytes) => {
                // A length is 32 bits; a longer output is sent in parts.
                let len = u32::try_from(bytes.len()).unwrap_or(1 << 30);
                send.asked = len as usize;
                opcode::Send::new(target, bytes.as_ptr(), len).flags(flags).build()
            }
            None => {
                let spare = &mut self.spare;
                let vectored = send.vectored.get_or_insert_with(|| spare.pop().unwrap_or_default());
                send.asked = vectored.fill(&send.output);
                opcode::SendMsg::new(target, &raw const vectored.header).flags(flags as u32).build()
            }
        };
        let mut entry = entry.user_data(tag.to_u64());
        if send.has_slot {
            entry = entry.flags(squeue::Flags::FIXED_FILE);
        }
        if send.kind == Kind::SendNow {
            entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        }
        // SAFETY: the bytes lie in allocations that `send.output` owns, header and slices in the box that
        // `send` owns; neither is changed nor dropped before `done`, which is called when this operation has
        // completed or, for `SendNow`, when it was submitted without a failure: then the kernel has finished
        // with it. The driver's `Drop` waits for the others or leaves `self` to the kernel.
        unsafe { queue.push_pointing(entry) };
        tag
    }
}

impl Send {
    fn ended() -> Send {
        Send {
            descriptor: Descriptor(0),
            has_slot: false,
            token: Token { slot: 0, generation: 0 },
            output: Output::default(),
            generation: ENDED,
            kind: Kind::Send,
            asked: 0,
            is_abandoned: false,
            vectored: None,
        }
    }
}

impl Vectored {
    /// Points to what is left of the output; gives the number of bytes.
    fn fill(&mut self, output: &Output) -> usize {
        let mut pieces = [IoSlice::new(&[]); Output::SLICES_MAX];
        let count = output.fill(&mut pieces);
        for (slice, piece) in self.slices.iter_mut().zip(&pieces[..count]) {
            *slice = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
        }
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = count;
        pieces[..count].iter().map(|piece| piece.len()).sum()
    }
}

impl Default for Vectored {
    fn default() -> Vectored {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all fields are integers and pointers, for which zeros are valid: no address, no control
        // data.
        let header = unsafe { std::mem::zeroed() };
        Vectored { slices: [none; Output::SLICES_MAX], header }
    }
}
