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

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

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
                let offset = (part.as_ptr().addr()).wrapping_sub(self.as_ptr().addr());
                let inside = offset < self.len() && part.len() <= self.len() - offset;
                assert!(inside, "the slice is not a part of this chunk");
                let start = view.start + offset as u32;
                Chunk(Kind::Pooled(View { hold: view.hold.clone(), start, len: part.len() as u32 }))
            }
        }
    }

    /// The same chunk, less what lies outside of `range`. As [`Chunk::slice_ref`], but nothing is counted.
    ///
    /// # Panics
    ///
    /// When `range` reaches beyond the end.
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

/// Free buffers, the last one given back on top. Lock-free; any thread may push and pop.
struct FreeStack {
    head: AtomicU64,
    /// For each buffer in the stack, the `top` below it.
    below: Box<[AtomicU16]>,
}

/// All that is true of the stack at a time, in one word: `changes:u31 | is_awaited:1 | len:u16 | top:u16`.
#[derive(Clone, Copy)]
struct Head {
    /// Makes a head that was seen before distinguishable from the same top buffer over another rest (the ABA problem).
    changes: u32,
    /// Whether a driver sleeps that wants to be woken by the next push.
    is_awaited: bool,
    /// Free buffers, and one more when the pool's owner has gone.
    len: u16,
    /// 1 + the id of the top buffer, or 0.
    top: u16,
}

impl Head {
    const AWAITED: u64 = 1 << 32;

    #[inline]
    fn unpack(word: u64) -> Head {
        let is_awaited = word & Head::AWAITED != 0;
        Head { changes: (word >> 33) as u32, is_awaited, len: (word >> 16) as u16, top: word as u16 }
    }

    #[inline]
    fn pack(self) -> u64 {
        let is_awaited = if self.is_awaited { Head::AWAITED } else { 0 };
        u64::from(self.changes) << 33 | is_awaited | u64::from(self.len) << 16 | u64::from(self.top)
    }
}

impl FreeStack {
    const CAPACITY_MAX: u16 = 1 << 15;

    /// All of `0..count`, 0 on top.
    fn full(count: u16) -> FreeStack {
        let below = (0..count).map(|id| AtomicU16::new(if id + 1 < count { id + 2 } else { 0 })).collect();
        let head = Head { changes: 0, is_awaited: false, len: count, top: 1 };
        FreeStack { head: AtomicU64::new(head.pack()), below }
    }

    fn len(&self) -> usize {
        Head::unpack(self.head.load(Ordering::Relaxed)).len as usize
    }

    #[inline]
    fn pop(&self) -> Option<u16> {
        let mut word = self.head.load(Ordering::Acquire);
        loop {
            let head = Head::unpack(word);
            let id = head.top.checked_sub(1)?;
            let below = self.below[id as usize].load(Ordering::Relaxed);
            let next = Head { changes: head.changes.wrapping_add(1), len: head.len - 1, top: below, ..head };
            match self.head.compare_exchange_weak(word, next.pack(), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(id),
                Err(seen) => word = seen,
            }
        }
    }

    /// Has the next push say that it was awaited. `false`: there is a buffer already.
    fn await_push(&self) -> bool {
        let set = |word| (Head::unpack(word).top == 0).then_some(word | Head::AWAITED);
        self.head.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok()
    }

    fn stop_awaiting(&self) {
        self.head.fetch_and(!Head::AWAITED, Ordering::Relaxed);
    }
}

/// What a [`push`] found and made.
struct Pushed {
    len: u16,
    was_awaited: bool,
}

/// Gives back a buffer, or what the owner has (`None`). Where that is awaited, `awaited` is called before.
///
/// No method: with the exchange in here the whole stack may be freed by another thread, so nothing may borrow it but
/// what is shared with that one anyway.
#[inline]
fn push(head: &AtomicU64, below: &[AtomicU16], id: Option<u16>, mut awaited: impl FnMut()) -> Pushed {
    let mut word = head.load(Ordering::Relaxed);
    loop {
        let seen = Head::unpack(word);
        if seen.is_awaited {
            awaited();
        }
        let top = id.map_or(seen.top, |id| {
            below[id as usize].store(seen.top, Ordering::Relaxed);
            id + 1
        });
        let next = Head { changes: seen.changes.wrapping_add(1), is_awaited: false, len: seen.len + 1, top };
        // Release: what was done with the buffer, here and by views dropped before, happens before it is lent, or
        // unmapped. Acquire: for the latter.
        match head.compare_exchange_weak(word, next.pack(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Pushed { len: next.len, was_awaited: seen.is_awaited },
            Err(other) => word = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(buffers_max: u16) -> Pool {
        Pool::new(&PoolConfig { buffer_bytes: 4096, ring_buffers: 2, buffers_max }).unwrap()
    }

    fn filled(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut lent = pool.lend().unwrap();
        lent.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        lent.fill(bytes.len())
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_view() {
        let pool = pool(2);
        let chunk = filled(&pool, b"hello world");
        let (clone, part) = (chunk.clone(), chunk.slice_ref(&chunk[6..]));
        assert!(part.is_pooled());
        assert_eq!(pool.free(), 1);
        drop(chunk);
        drop(clone);
        assert_eq!(pool.free(), 1);
        assert_eq!(&part[..], b"world");
        drop(part);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn the_buffer_given_back_last_is_lent_next() {
        let pool = pool(8);
        let (first, second) = (pool.lend().unwrap(), pool.lend().unwrap());
        let (low, high) = (first.address(), second.address());
        assert_eq!(high.addr() - low.addr(), stride(4096));
        drop(second);
        drop(first);
        assert_eq!(pool.lend().unwrap().address(), low);
    }

    #[test]
    fn an_empty_pool_lends_nothing_and_recovers() {
        let pool = pool(2);
        let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
        assert!(pool.lend().is_none());
        assert_eq!((&a[..], &b[..]), (&b"a"[..], &b"b"[..]));
        drop(a);
        assert!(pool.lend().is_some());
    }

    #[test]
    fn scarce_begins_below_a_quarter() {
        let pool = pool(8);
        let mut kept: Vec<Chunk> = (0..6).map(|_| filled(&pool, b"x")).collect();
        assert!(!pool.is_scarce());
        kept.push(filled(&pool, b"x"));
        assert!(pool.is_scarce());
        kept.pop();
        assert!(!pool.is_scarce());
    }

    #[test]
    fn splitting_parts_the_bytes_and_shares_the_buffer() {
        let pool = pool(2);
        for mut chunk in [filled(&pool, b"abcdef"), Chunk::copy_from_slice(b"abcdef")] {
            let pooled = chunk.is_pooled();
            let first = chunk.split_to(2);
            assert_eq!((&first[..], &chunk[..]), (&b"ab"[..], &b"cdef"[..]));
            assert_eq!(first.is_pooled(), pooled);
            assert!(chunk.split_to(0).is_empty());
            assert_eq!(&chunk.split_to(4)[..], b"cdef");
            assert!(chunk.is_empty() && !chunk.is_pooled());
        }
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn an_empty_slice_keeps_no_buffer() {
        let pool = pool(2);
        let chunk = filled(&pool, b"abc");
        let empty = chunk.slice_ref(&chunk[1..1]);
        assert!(!empty.is_pooled());
        assert!(!pool.lend().unwrap().fill(0).is_pooled());
        assert_eq!(pool.free(), 1);
    }

    #[test]
    #[should_panic(expected = "not a part of this chunk")]
    fn a_slice_of_something_else_is_refused() {
        let pool = pool(2);
        let (chunk, other) = (filled(&pool, b"abc"), filled(&pool, b"abc"));
        chunk.slice_ref(&other);
    }

    #[test]
    #[should_panic(expected = "not a part of this chunk")]
    fn a_slice_beyond_the_end_is_refused() {
        let pool = pool(2);
        let chunk = filled(&pool, b"abcdef");
        chunk.clone().split_to(3).slice_ref(&chunk[2..4]);
    }

    #[test]
    fn chunks_outlive_their_pool() {
        let pool = pool(2);
        let chunk = filled(&pool, b"still here");
        drop(pool);
        let bytes = chunk.into_bytes();
        assert_eq!(&bytes[..], b"still here");
    }

    #[test]
    fn a_number_becomes_the_same_buffer_again() {
        let pool = pool(2);
        let mut lent = pool.lend().unwrap();
        lent.as_mut_slice()[0] = 7;
        let id = lent.into_id();
        assert_eq!(pool.free(), 1);
        // SAFETY: `id` is from `into_id` just now, and nobody else was told its address.
        let chunk = unsafe { pool.reclaim(id) }.fill(1);
        assert_eq!(&chunk[..], [7]);
        drop(chunk);
        assert_eq!(pool.free(), 2);
    }

    /// Views are cloned, read and dropped by other threads while the owner lends again: no buffer is lost,
    /// given out twice, or written to under a reader.
    #[test]
    fn buffers_come_back_from_other_threads() {
        let rounds = if cfg!(miri) { 30 } else { 20_000 };
        let pool = pool(4);
        let (sender, receiver) = crossbeam::channel::bounded::<(u8, Chunk)>(8);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let receiver = receiver.clone();
                scope.spawn(move || {
                    for (value, chunk) in receiver {
                        let clone = chunk.clone();
                        drop(chunk);
                        assert!(clone.iter().all(|byte| *byte == value));
                    }
                });
            }
            for round in 0..rounds {
                let value = round as u8;
                let chunk = loop {
                    match pool.lend() {
                        Some(mut lent) => {
                            lent.as_mut_slice()[..64].fill(value);
                            break lent.fill(64);
                        }
                        None => std::thread::yield_now(),
                    }
                };
                sender.send((value, chunk.clone())).unwrap();
                assert!(chunk.iter().all(|byte| *byte == value));
            }
            drop(sender);
        });
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_buffer_that_comes_back_wakes_the_driver_that_waits_for_it_once() {
        let pool = pool(2);
        let wakes = Arc::new(AtomicU32::new(0));
        pool.set_waker(Waker::new({
            let wakes = Arc::clone(&wakes);
            move || {
                wakes.fetch_add(1, Ordering::Relaxed);
            }
        }));
        assert!(!pool.await_return(), "buffers are free");
        drop((filled(&pool, b"a"), filled(&pool, b"b")));
        assert_eq!(wakes.load(Ordering::Relaxed), 0);

        let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
        assert!(pool.await_return());
        std::thread::spawn(move || drop(a)).join().unwrap();
        drop(b);
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
    }

    /// The last handle, or the last chunk of several threads: in any order the memory goes once, and with the last.
    #[test]
    fn the_memory_goes_with_whoever_is_last() {
        for _ in 0..if cfg!(miri) { 20 } else { 2_000 } {
            let (pool, sign) = (pool(2), Arc::new(()));
            let held = Arc::clone(&sign);
            pool.set_waker(Waker::new(move || assert_eq!(*held, ())));
            let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
            assert!(pool.await_return());
            std::thread::scope(|scope| {
                scope.spawn(|| drop(a));
                scope.spawn(|| drop(b));
                drop(pool);
            });
            assert_eq!(Arc::strong_count(&sign), 1);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let good = PoolConfig::default();
        for config in [
            PoolConfig { buffer_bytes: 0, ..good },
            PoolConfig { ring_buffers: 12, ..good },
            PoolConfig { ring_buffers: 0, ..good },
            PoolConfig { buffers_max: 8, ..good },
            PoolConfig { buffers_max: FreeStack::CAPACITY_MAX + 1, ..good },
        ] {
            assert_eq!(Pool::new(&config).unwrap_err().errno, libc::EINVAL);
        }
    }

    #[test]
    fn a_part_of_the_only_view_is_the_only_view() {
        let pool = pool(2);
        for whole in [filled(&pool, b"abcdef"), Chunk::copy_from_slice(b"abcdef")] {
            let part = whole.into_part(1..5).into_part(1..3);
            assert_eq!(&part[..], b"cd");
            let is_pooled = part.is_pooled();
            assert_eq!(pool.free(), 2 - usize::from(is_pooled));
            assert!(part.into_part(2..2).is_empty());
            assert_eq!(pool.free(), 2);
        }
    }

    #[test]
    #[should_panic(expected = "not one of this chunk")]
    fn a_part_beyond_the_end_is_refused() {
        filled(&pool(2), b"abcdef").into_part(1..5).into_part(1..5);
    }

    #[test]
    fn a_chunk_is_four_words() {
        assert!(size_of::<Chunk>() <= 4 * size_of::<usize>());
    }
}
