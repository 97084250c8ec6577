//! Memory that is lent to the kernel to fill, and to requests to read.
//!
//! A [`Pool`] is one anonymous mapping cut into buffers of equal size; pages that were never filled cost
//! nothing.
//!
//! ```text
//!            lend             fill(n)             drop of the last view
//!   free ───────────▶ lent ───────────▶ viewed ─────────────────────────▶ free
//!    ▲   exclusive: the kernel   shared: Chunk, clones,   from any thread    │
//!    │   or a driver writes      slices; nobody writes                       │
//!    └──────────── drop ─────────┘                                           │
//!    ▲───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Free buffers form a stack, not a queue: the buffer that was given back last is the next one lent, so the
//! few that are in use stay in the cache however many a burst once needed.
//!
//! What this is not: an allocator. When no buffer is free, `lend` says so and the driver waits.

#![expect(unsafe_code, reason = "buffers are written by the kernel and shared by counted views")]

mod stack;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use self::stack::{FreeStack, push};
use super::{Failure, Operation, Waker};

/// How much memory a ring may receive into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// Size of one buffer, and so of the largest chunk.
    pub buffer_bytes: u32,
    /// Buffers that lie ready for the kernel at a time; a power of two. Together they are the cache footprint
    /// of receiving: keep them within the L2 cache.
    pub ring_buffers: u16,
    /// All buffers: those that lie ready and those that requests keep. At most 32,768.
    pub buffers_max: u16,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig { buffer_bytes: 16 * 1024, ring_buffers: 128, buffers_max: 1024 }
    }
}

/// The receive buffers of one ring. A clone is another handle to the same buffers.
#[derive(Clone)]
pub struct Pool(Arc<Owner>);

impl Pool {
    /// Reserves the address space; memory is used as buffers are. EINVAL: the numbers do not fit each other.
    pub fn new(config: &PoolConfig) -> Result<Pool, Failure> {
        Memory::map(config).map(|memory| Pool(Arc::new(Owner(NonNull::from(Box::leak(Box::new(memory)))))))
    }

    /// Whether fewer than a quarter of the buffers are free: then a small piece is better copied than kept.
    pub fn is_scarce(&self) -> bool {
        self.free() < self.buffers().div_ceil(4)
    }

    /// Buffers that nobody holds.
    pub fn free(&self) -> usize {
        self.memory().free.len()
    }

    /// All buffers.
    pub fn buffers(&self) -> usize {
        self.memory().views.len()
    }

    /// Size of one buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.memory().buffer_bytes
    }

    #[inline]
    fn memory(&self) -> &Memory {
        // SAFETY: the memory stays until its owner has gone, and `self` holds on to that.
        unsafe { self.0.0.as_ref() }
    }

    /// Takes a buffer to be filled. `None`: all are in use; chunks that are dropped make room.
    pub(crate) fn lend(&self) -> Option<LentBuffer> {
        let memory = self.memory();
        let id = memory.free.pop()?;
        debug_assert_eq!(memory.views[id as usize].load(Ordering::Relaxed), 0);
        memory.views[id as usize].store(1, Ordering::Relaxed);
        Some(LentBuffer(Hold { memory: self.0.0, id }))
    }

    /// What [`Pool::await_return`] wakes. The first one stays.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.memory().waker.get_or_init(|| waker);
    }

    /// Asks for one use of the waker when a buffer comes back, from whatever thread: for a driver that has
    /// peers to receive from, no buffer to receive into, and is about to sleep. `false`: a buffer is free
    /// after all.
    pub(crate) fn await_return(&self) -> bool {
        self.memory().free.await_push()
    }

    /// Takes back [`Pool::await_return`].
    pub(crate) fn stop_awaiting(&self) {
        self.memory().free.stop_awaiting();
    }

    /// The buffer that [`LentBuffer::into_id`] turned into a number.
    ///
    /// # Safety
    ///
    /// `id` came from `into_id` of a buffer of this pool, was not reclaimed since, and whoever was given its
    /// address no longer writes to it.
    #[inline]
    pub(crate) unsafe fn reclaim(&self, id: u16) -> LentBuffer {
        debug_assert_eq!(self.memory().views[id as usize].load(Ordering::Relaxed), 1);
        LentBuffer(Hold { memory: self.0.0, id })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} x {} bytes free)", self.free(), self.buffers(), self.buffer_bytes())
    }
}

/// A buffer in the hands of one driver, to be written to. Dropping it gives it back.
///
/// Its content is what was last received into it, zeros at first.
pub(crate) struct LentBuffer(Hold);

impl LentBuffer {
    /// The whole buffer.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let memory = self.0.memory();
        // SAFETY: the buffer lies within the mapping, which `self.0` keeps alive; its bytes are initialised
        // (an anonymous mapping is zeroed). `self` is the only view: `views` is 1 until `fill`, which
        // consumes it.
        unsafe { slice::from_raw_parts_mut(memory.start_of(self.0.id), memory.buffer_bytes) }
    }

    /// Ends writing: the first `count` bytes become a chunk.
    ///
    /// # Panics
    ///
    /// When `count` is more than the buffer holds.
    #[inline(always)]
    pub(crate) fn fill(self, count: usize) -> Chunk {
        assert!(count <= self.0.memory().buffer_bytes, "more bytes than the buffer holds");
        if count == 0 {
            return Chunk::default();
        }
        Chunk(Kind::Pooled(View { hold: self.0, start: 0, len: count as u32 }))
    }

    /// Where the buffer lies, for the kernel. Valid until the buffer is reclaimed.
    pub(crate) fn address(&self) -> *mut u8 {
        self.0.memory().start_of(self.0.id)
    }

    /// Leaves the buffer to the kernel under this number. [`Pool::reclaim`] takes it back; without that it
    /// stays lent, and the mapping alive, for ever.
    pub(crate) fn into_id(self) -> u16 {
        let id = self.0.id;
        std::mem::forget(self);
        id
    }
}

/// Received bytes: a counted view of a part of a pooled buffer, or a block of its own.
///
/// Cloning and slicing share the bytes. The buffer goes back to its pool with the last view, from any thread.
#[derive(Clone)]
pub struct Chunk(Kind);

#[derive(Clone)]
enum Kind {
    Pooled(View),
    Heap(Bytes),
}

#[derive(Clone)]
struct View {
    hold: Hold,
    /// `start + len <= buffer_bytes`.
    start: u32,
    len: u32,
}

impl Chunk {
    /// A block of its own with a copy of `bytes`.
    pub fn copy_from_slice(bytes: &[u8]) -> Chunk {
        Bytes::copy_from_slice(bytes).into()
    }

    /// The chunk of `part`, which is a slice of this chunk.
    ///
    /// # Panics
    ///
    /// When `part` is not empty and lies outside of this chunk.
    pub fn slice_ref(&self, part: &[u8]) -> Chunk {
        match &self.0 {
            _ if part.is_empty() => Chunk::default(),
            Kind::Heap(bytes) => bytes.slice_ref(part).into(),
            Kind::Pooled(view) => {
                let start = view.start + self.range_of(part).start as u32;
                Chunk(Kind::Pooled(View { hold: view.hold.clone(), start, len: part.len() as u32 }))
            }
        }
    }

    /// Where `part`, which is a slice of this chunk and not empty, lies in it.
    ///
    /// # Panics
    ///
    /// When it lies outside.
    #[inline]
    pub(crate) fn range_of(&self, part: &[u8]) -> Range<usize> {
        let offset = (part.as_ptr().addr()).wrapping_sub(self.as_ptr().addr());
        let inside = offset < self.len() && part.len() <= self.len() - offset;
        assert!(inside, "the slice is not a part of this chunk");
        offset..offset + part.len()
    }

    /// The same chunk, less what lies outside of `range`. As [`Chunk::slice_ref`], but nothing is counted.
    ///
    /// # Panics
    ///
    /// When `range` reaches beyond the end.
    #[inline]
    pub(crate) fn into_part(mut self, range: Range<usize>) -> Chunk {
        assert!(range.start <= range.end && range.end <= self.len(), "the part is not one of this chunk");
        match &mut self.0 {
            _ if range.is_empty() => return Chunk::default(),
            Kind::Heap(bytes) => *bytes = bytes.slice(range),
            Kind::Pooled(view) => {
                view.start += range.start as u32;
                view.len = range.len() as u32;
            }
        }
        self
    }

    /// Takes the first `count` bytes off this chunk.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn split_to(&mut self, count: usize) -> Chunk {
        assert!(count <= self.len(), "split beyond the end of the chunk");
        if count == self.len() {
            return std::mem::take(self);
        }
        match &mut self.0 {
            _ if count == 0 => Chunk::default(),
            Kind::Heap(bytes) => bytes.split_to(count).into(),
            Kind::Pooled(view) => {
                let first = View { len: count as u32, ..view.clone() };
                view.start += count as u32;
                view.len -= count as u32;
                Chunk(Kind::Pooled(first))
            }
        }
    }

    /// Whether the bytes lie in a pooled buffer, which keeping them would keep from its ring.
    pub fn is_pooled(&self) -> bool {
        matches!(self.0, Kind::Pooled(_))
    }

    /// The same bytes as `Bytes`. Allocates a little for a pooled chunk, whose buffer it keeps.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Kind::Heap(bytes) => bytes,
            Kind::Pooled(_) => Bytes::from_owner(self),
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Heap(bytes) => bytes,
            Kind::Pooled(view) => view.as_slice(),
        }
    }
}

impl View {
    #[inline]
    fn as_slice(&self) -> &[u8] {
        let memory = self.hold.memory();
        debug_assert!((self.start + self.len) as usize <= memory.buffer_bytes);
        let start = memory.start_of(self.hold.id).wrapping_add(self.start as usize);
        // SAFETY: `start + len <= buffer_bytes`, so this lies within a buffer of the mapping that `hold`
        // keeps alive and initialised; a buffer is not written to from `fill` until its last view is gone.
        unsafe { slice::from_raw_parts(start, self.len as usize) }
    }
}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk(Kind::Heap(Bytes::new()))
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Chunk {
        Chunk(Kind::Heap(bytes))
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        Chunk(Kind::Heap(bytes.into()))
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

/// One of the views of a buffer that is not free.
struct Hold {
    /// Stays until this buffer, like all others, is given back.
    memory: NonNull<Memory>,
    id: u16,
}

// SAFETY: a hold is an index and a reference to `Memory`, which is `Sync`; its counts are atomic.
unsafe impl Send for Hold {}
// SAFETY: as above; nothing can be changed through a shared hold but the atomic counts.
unsafe impl Sync for Hold {}

impl Hold {
    #[inline]
    fn memory(&self) -> &Memory {
        // SAFETY: the memory stays as long as a buffer is out, and the drop of the last hold gives it back: `self` is
        // one.
        unsafe { self.memory.as_ref() }
    }
}

impl Clone for Hold {
    #[inline]
    fn clone(&self) -> Hold {
        let before = self.memory().views[self.id as usize].fetch_add(1, Ordering::Relaxed);
        // As `Arc`: far from the real number of views, and stopping is better than wrapping around.
        assert!((1..u32::MAX / 2).contains(&before), "too many views of one buffer");
        Hold { memory: self.memory, id: self.id }
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        let views = &self.memory().views[self.id as usize];
        // The only view cannot become two behind our back, so the common case needs no atomic subtraction.
        if views.load(Ordering::Acquire) == 1 {
            views.store(0, Ordering::Relaxed);
        } else if views.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
        } else {
            return;
        }
        // SAFETY: this was the last hold of a buffer that was out, and nothing uses `memory` after this.
        unsafe { Memory::give_back(self.memory, Some(self.id)) }
    }
}

/// From one buffer to the next. Most requests fill only the front of a buffer, and buffers a power of two apart have
/// their fronts in the same few sets of the cache, where they evict each other; so each lies a little further on.
fn stride(buffer_bytes: usize) -> usize {
    const CACHE_LINE: usize = 64;
    buffer_bytes.next_multiple_of(CACHE_LINE) + 17 * CACHE_LINE
}

/// All handles to a pool together. The memory goes with this and the last buffer that is out, whichever is later.
struct Owner(NonNull<Memory>);

// SAFETY: a reference to `Memory`, which is `Send` and `Sync`.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: there is one owner, this, and nothing uses `memory` after this.
        unsafe { Memory::give_back(self.0, None) }
    }
}

/// The mapping and who uses which part of it. Lives on the heap, for its owner and the buffers that are out.
struct Memory {
    base: NonNull<u8>,
    buffer_bytes: usize,
    /// For each buffer, how many holds it has: 0 while it is free.
    views: Box<[AtomicU32]>,
    free: FreeStack,
    /// Of a driver that cannot receive before a buffer comes back.
    waker: OnceLock<Waker>,
}

// SAFETY: `base` is an address in a mapping that belongs to this value alone and stays until it is dropped;
// what lies there is reached only through `LentBuffer` (exclusive) and `View` (read only).
unsafe impl Send for Memory {}
// SAFETY: as above; all else is atomic.
unsafe impl Sync for Memory {}

impl Memory {
    fn map(config: &PoolConfig) -> Result<Memory, Failure> {
        let PoolConfig { buffer_bytes, ring_buffers, buffers_max } = *config;
        let fits = buffer_bytes > 0 && ring_buffers.is_power_of_two();
        let fits = fits && (ring_buffers..=FreeStack::CAPACITY_MAX).contains(&buffers_max);
        let bytes = stride(buffer_bytes as usize).checked_mul(buffers_max as usize);
        let bytes = bytes.filter(|_| fits).ok_or(Failure::new(Operation::Setup, libc::EINVAL))?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice; no existing memory is affected.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOMEM);
            return Err(Failure::new(Operation::Setup, errno));
        }
        let base = NonNull::new(base.cast()).expect("a mapping without a fixed address is not at 0");
        let views = (0..buffers_max).map(|_| AtomicU32::new(0)).collect();
        let free = FreeStack::full(buffers_max);
        Ok(Memory { base, buffer_bytes: buffer_bytes as usize, views, free, waker: OnceLock::new() })
    }

    /// Gives back a buffer, or what the owner has (`None`). With the last of these the memory goes.
    ///
    /// # Safety
    ///
    /// The caller has what it gives back, and uses `memory` no more: another thread may free it.
    #[inline]
    unsafe fn give_back(memory: NonNull<Memory>, id: Option<u16>) {
        // SAFETY: what the caller has keeps the memory until the push.
        let Memory { free, views, waker: known, .. } = unsafe { memory.as_ref() };
        let (whole, mut waker) = (views.len() + 1, None);
        let pushed = push(&free.head, &free.below, id, || waker = known.get().cloned());
        if pushed.len as usize == whole {
            // SAFETY: from `Box::leak`; every buffer and the owner's part are back, so this thread, the last one, is
            // alone with it. The pushes before happen before this one: each is an exchange of the same word.
            drop(unsafe { Box::from_raw(memory.as_ptr()) });
        }
        if pushed.was_awaited
            && let Some(waker) = waker
        {
            waker.wake();
        }
    }

    #[inline]
    fn start_of(&self, id: u16) -> *mut u8 {
        self.base.as_ptr().wrapping_add(id as usize * stride(self.buffer_bytes))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        debug_assert_eq!(self.free.len(), self.views.len() + 1);
        let bytes = self.views.len() * stride(self.buffer_bytes);
        // SAFETY: exactly the mapping made in `map`; every buffer is free (`give_back`), so neither the kernel nor a
        // view can reach it any more.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert_eq!(result, 0);
    }
}
