//! The ring of buffers that the kernel takes from when bytes arrive.
//!
//! ```text
//!   entries   [ addr len id | addr len id | ... ]   16 bytes each, one mapping shared with the kernel
//!               ▲ the kernel takes at its own head    ▲ we add at `tail`, which lies in the first entry
//! ```

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::super::buffer::{LentBuffer, Pool};

/// The only buffer group.
pub(super) const GROUP: u16 = 0;

const WANTED_AT_FIRST: u16 = 8;

/// Buffers that lie ready for the kernel.
pub(super) struct Provided {
    pool: Pool,
    /// A mapping of `capacity` entries, zeroed at first.
    entries: *mut BufRingEntry,
    /// A power of two.
    capacity: u16,
    /// Entries ever added, wrapping.
    tail: u16,
    /// Buffers that the kernel has: `0 <= len <= wanted`.
    len: u16,
    /// How many it is to have: `wanted <= capacity`. The kernel goes through them all in turn, so all of them lie in
    /// the cache: few for a server of few busy connections, doubled whenever the kernel ran out of them.
    wanted: u16,
    has_run_out: bool,
    /// For each buffer of the pool, whether the kernel has it.
    lies_ready: Box<[bool]>,
}

impl Provided {
    /// Registers an empty ring of `capacity` buffers.
    pub(super) fn register(submitter: &Submitter<'_>, pool: Pool, capacity: u16) -> io::Result<Provided> {
        let bytes = capacity as usize * size_of::<BufRingEntry>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice; no existing memory is affected.
        let entries = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if entries == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let (wanted, has_run_out) = (capacity.min(WANTED_AT_FIRST), false);
        let lies_ready = vec![false; pool.buffers()].into();
        let provided = Provided {
            pool,
            entries: entries.cast(),
            capacity,
            tail: 0,
            len: 0,
            wanted,
            has_run_out,
            lies_ready,
        };
        // SAFETY: the mapping has room for `capacity` entries and stays until after `unregister` (see
        // `Drop`).
        unsafe { submitter.register_buf_ring_with_flags(entries.addr() as u64, capacity, GROUP, 0) }?;
        Ok(provided)
    }

    /// How many buffers the kernel has.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Fills the ring up with free buffers of the pool, as far as there are any.
    pub(super) fn fill_up(&mut self) {
        if std::mem::take(&mut self.has_run_out) {
            self.wanted = self.capacity.min(self.wanted * 2);
        }
        if self.len == self.wanted {
            return;
        }
        let tail = self.tail;
        while self.len < self.wanted {
            let Some(buffer) = self.pool.lend() else { break };
            self.add(buffer);
        }
        if self.tail != tail {
            self.publish();
        }
    }

    /// The kernel had bytes and no buffer.
    pub(super) fn run_out(&mut self) {
        self.has_run_out = true;
    }

    fn add(&mut self, buffer: LentBuffer) {
        let index = (self.tail & (self.capacity - 1)) as usize;
        let (address, bytes) = (buffer.address(), self.pool.buffer_bytes());
        let id = buffer.into_id();
        let entry = self.entries.wrapping_add(index);
        // SAFETY: `index < capacity`, within the mapping, which is aligned to a page; entries between the
        // kernel's head and the tail not yet published are not looked at, and `len < capacity` says that this
        // is one. Zeros are a valid entry.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address.addr() as u64);
        entry.set_len(bytes as u32);
        entry.set_bid(id);
        self.lies_ready[id as usize] = true;
        self.tail = self.tail.wrapping_add(1);
        self.len += 1;
    }

    /// Shows the kernel what was added.
    fn publish(&mut self) {
        // SAFETY: `entries` is the address of the first entry of the ring, which is initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is an aligned u16 within the mapping. The kernel only reads it, and so do we only
        // through this atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries are seen before the tail.
        tail.store(self.tail, Ordering::Release);
    }

    /// The buffer that a completion names.
    #[inline]
    pub(super) fn take(&mut self, id: u16) -> LentBuffer {
        assert!(
            std::mem::take(&mut self.lies_ready[id as usize]),
            "the kernel names a buffer that it has not"
        );
        self.len -= 1;
        // SAFETY: the id was made by `into_id` in `add` and was not taken since, as `lies_ready` says; the
        // kernel names a buffer in a completion when it has written to it for the last time.
        unsafe { self.pool.reclaim(id) }
    }

    /// Gives back what the kernel did not use. Nothing may be in flight that could receive.
    pub(super) fn unregister(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        submitter.unregister_buf_ring(GROUP)?;
        for id in 0..self.lies_ready.len() as u16 {
            if self.lies_ready[id as usize] {
                drop(self.take(id));
            }
        }
        Ok(())
    }
}

impl Drop for Provided {
    fn drop(&mut self) {
        let bytes = self.capacity as usize * size_of::<BufRingEntry>();
        // SAFETY: exactly the mapping made in `register`; no reference to it is alive. The kernel pinned the
        // pages when it was registered, so even if unregistering failed it would not write to what comes here
        // next.
        let result = unsafe { libc::munmap(self.entries.cast(), bytes) };
        debug_assert_eq!(result, 0);
    }
}
