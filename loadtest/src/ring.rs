//! The generator's side of io_uring: receives into provided buffers, sends that report only failure.
//!
//! Nothing here knows FastCGI. Connections are small numbers chosen by the caller; what the kernel touches
//! belongs to the ring until it is dropped: the fixed messages, the messages on loan, the receive buffers.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// What happened on a connection since the last turn.
pub enum Event<'a> {
    /// Bytes came; they are gone when the handler returns.
    Received(u32, &'a [u8]),
    /// The far side closed, and the receive is over.
    Ended(u32),
    /// A lent message is sent; here it is back.
    Sent(u32, Vec<u8>),
    /// An operation failed.
    Failed(u32, io::Error),
}

/// One ring with its buffers; for the thread that made it only.
pub struct Ring {
    ring: IoUring,
    buffers: Buffers,
    /// Messages that are sent again and again, by index.
    fixed: Vec<Vec<u8>>,
    /// `lent[connection]`: the message that the kernel reads now.
    lent: Vec<Vec<u8>>,
    /// Receives that stopped and must be started again.
    stopped: Vec<(u32, RawFd)>,
    /// `sockets[connection]`: where its receive listens.
    sockets: Vec<RawFd>,
    /// One receive for all that comes, or one for each piece.
    is_multishot: bool,
    tick: Box<Timespec>,
    tick_is_armed: bool,
}

impl Ring {
    /// A ring for connections 0 to `connections - 1`.
    ///
    /// Where the far side sends and closes at once, `is_multishot` must be false: kernels before the repair
    /// of axboe/liburing#1549 (6.18 among them) lose the end of a Unix connection that arrives together with
    /// data.
    pub fn new(connections: u32, fixed: Vec<Vec<u8>>, is_multishot: bool) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_cqsize(COMPLETIONS);
        let ring = builder.build(SUBMISSIONS)?;
        let buffers = Buffers::new();
        let entries = buffers.entries.as_ptr().addr() as u64;
        // SAFETY: the page is aligned, large enough for the entries, and outlives the ring (`Drop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(entries, BUFFERS, GROUP, 0)? };
        let lent = (0..connections).map(|_| Vec::new()).collect();
        let sockets = vec![-1; connections as usize];
        let tick = Box::new(Timespec::new().nsec(TICK_NS));
        let stopped = Vec::new();
        Ok(Ring { ring, buffers, fixed, lent, stopped, sockets, is_multishot, tick, tick_is_armed: false })
    }

    /// Receives on `socket` until it ends; it must stay open until then.
    pub fn receive(&mut self, connection: u32, socket: RawFd) -> io::Result<()> {
        self.sockets[connection as usize] = socket;
        let receive = if self.is_multishot {
            opcode::RecvMulti::new(Fd(socket), GROUP).build()
        } else {
            let receive = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), BUFFER_BYTES).buf_group(GROUP);
            receive.build().flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(receive.user_data(token(RECEIVE, connection)))
    }

    /// Sends the fixed message `index`. Only a failure is reported.
    pub fn send_fixed(&mut self, connection: u32, socket: RawFd, index: usize) -> io::Result<()> {
        let message = &self.fixed[index];
        let send = opcode::Send::new(Fd(socket), message.as_ptr(), message.len() as u32).flags(SEND_FLAGS);
        let send = send.build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(send.user_data(token(SEND, connection)))
    }

    /// Sends `message`, which comes back with [`Event::Sent`]; one at a time on a connection.
    pub fn send_lent(&mut self, connection: u32, socket: RawFd, message: Vec<u8>) -> io::Result<()> {
        let lent = &mut self.lent[connection as usize];
        assert!(lent.is_empty(), "one message at a time");
        *lent = message;
        let send = opcode::Send::new(Fd(socket), lent.as_ptr(), lent.len() as u32).flags(SEND_FLAGS);
        self.push(send.build().user_data(token(SEND_LENT, connection)))
    }

    /// Gives all operations to the kernel, waits for a completion if `wait`, hands out all that are there.
    /// Waits at most about 20 ms, so that the caller can look at the clock.
    pub fn turn(&mut self, wait: bool, mut handle: impl FnMut(Event<'_>)) -> io::Result<()> {
        if wait && !self.tick_is_armed {
            self.tick_is_armed = true;
            let tick: *const Timespec = &*self.tick;
            self.push(opcode::Timeout::new(tick).build().user_data(token(TICK, 0)))?;
        }
        self.enter(wait)?;
        for completion in self.ring.completion() {
            let (kind, connection) = (completion.user_data() >> 32, completion.user_data() as u32);
            let (result, flags) = (completion.result(), completion.flags());
            let error = io::Error::from_raw_os_error(-result);
            match kind {
                TICK => self.tick_is_armed = false,
                RECEIVE if result > 0 => {
                    let buffer = cqueue::buffer_select(flags).expect("a receive chooses a buffer");
                    handle(Event::Received(connection, self.buffers.filled(buffer, result as usize)));
                    self.buffers.give_back(buffer);
                    if !cqueue::more(flags) {
                        self.stopped.push((connection, self.sockets[connection as usize]));
                    }
                }
                RECEIVE if result == 0 => handle(Event::Ended(connection)),
                RECEIVE if result == -libc::ENOBUFS => {
                    self.stopped.push((connection, self.sockets[connection as usize]));
                }
                SEND_LENT => {
                    let mut message = std::mem::take(&mut self.lent[connection as usize]);
                    if result == message.len() as i32 {
                        message.clear();
                        handle(Event::Sent(connection, message));
                    } else {
                        handle(Event::Failed(connection, error));
                    }
                }
                _ => handle(Event::Failed(connection, error)),
            }
        }
        self.buffers.commit();
        for (connection, socket) in std::mem::take(&mut self.stopped) {
            self.receive(connection, socket)?;
        }
        Ok(())
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        let submissions = self.ring.submission().len() as u32;
        // SAFETY: no argument but the ring's own queues, whose entries own or outlive what they point to
        // (`push`).
        let entered =
            unsafe { self.ring.submitter().enter::<()>(submissions, u32::from(wait), GETEVENTS, None) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: every entry points into memory of this ring (fixed, lent, tick, buffers) that stays until
        // `Drop`.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_full| io::Error::other("the submission queue stays full"))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Nothing may be in flight when the buffers go. ENOENT: nothing was.
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let _ = self.ring.submitter().unregister_buf_ring(GROUP);
    }
}

/// Provided buffers: one page of entries, and the memory behind them.
struct Buffers {
    entries: Box<Page>,
    memory: Vec<u8>,
    /// The next entry to fill, and as the kernel was told.
    tail: u16,
}

#[repr(align(4096))]
struct Page([u8; 4096]);

impl Page {
    fn as_ptr(&self) -> *const BufRingEntry {
        (&raw const self.0).cast()
    }
}

impl Buffers {
    fn new() -> Buffers {
        let memory = vec![0; usize::from(BUFFERS) * STRIDE];
        let mut buffers = Buffers { entries: Box::new(Page([0; 4096])), memory, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        buffers.commit();
        buffers
    }

    fn filled(&self, buffer: u16, length: usize) -> &[u8] {
        &self.memory[usize::from(buffer) * STRIDE..][..length]
    }

    fn give_back(&mut self, buffer: u16) {
        let address = self.memory[usize::from(buffer) * STRIDE..].as_mut_ptr().addr() as u64;
        let index = usize::from(self.tail % BUFFERS);
        let entries: *mut BufRingEntry = (&raw mut self.entries.0).cast();
        // SAFETY: the page holds BUFFERS entries and `index` is below that.
        let entry = unsafe { entries.add(index) };
        // SAFETY: the kernel does not read this entry before `commit` moves the tail past it.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn commit(&mut self) {
        // SAFETY: the page is a registered buffer ring; its tail lies in the first entry's reserved field.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned, inside the page, written by this thread only; the kernel reads it with acquire
        // order.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

fn token(kind: u64, connection: u32) -> u64 {
    kind << 32 | u64::from(connection)
}

const TICK: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const SEND_LENT: u64 = 3;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
const GROUP: u16 = 1;
/// 256 entries of 16 bytes are the one page.
const BUFFERS: u16 = 256;
/// Holds the answers of more than 64 requests.
const BUFFER_BYTES: u32 = 16 * 1024;
/// Not a multiple of a page: the fronts of the buffers spread over the cache's sets.
const STRIDE: usize = BUFFER_BYTES as usize + 192;
const TICK_NS: u32 = 20_000_000;
/// `IORING_ENTER_GETEVENTS`: runs the deferred work even where nothing is waited for.
const GETEVENTS: u32 = 1;
/// The kernel goes on until all is sent, and no signal comes when the server has gone.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
