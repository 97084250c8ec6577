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
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
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
pub struct Pool(Arc<Memory>);

impl Pool {
    /// Reserves the address space; memory is used as buffers are. EINVAL: the numbers do not fit each other.
    pub fn new(config: &PoolConfig) -> Result<Pool, Failure> {
        Memory::map(config).map(|memory| Pool(Arc::new(memory)))
    }

    /// Whether fewer than a quarter of the buffers are free: then a small piece is better copied than kept.
    pub fn is_scarce(&self) -> bool {
        self.free() < self.buffers().div_ceil(4)
    }

    /// Buffers that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free.len()
    }

    /// All buffers.
    pub fn buffers(&self) -> usize {
        self.0.views.len()
    }

    /// Size of one buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }

    /// Takes a buffer to be filled. `None`: all are in use; chunks that are dropped make room.
    pub(crate) fn lend(&self) -> Option<LentBuffer> {
        let id = self.0.free.pop()?;
        debug_assert_eq!(self.0.views[id as usize].load(Ordering::Relaxed), 0);
        self.0.views[id as usize].store(1, Ordering::Relaxed);
        Some(LentBuffer(Hold { memory: Arc::into_raw(Arc::clone(&self.0)), id }))
    }

    /// What [`Pool::await_return`] wakes. The first one stays.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.0.waker.get_or_init(|| waker);
    }

    /// Asks for one use of the waker when a buffer comes back, from whatever thread: for a driver that has
    /// peers to receive from, no buffer to receive into, and is about to sleep. `false`: a buffer is free
    /// after all.
    pub(crate) fn await_return(&self) -> bool {
        // Either this load sees the buffer given back or the thread that gives it back sees the flag: both
        // sides write first and read then, and all four accesses are SeqCst.
        self.0.awaited.store(true, Ordering::SeqCst);
        let must_wait = FreeStack::unpack(self.0.free.head.load(Ordering::SeqCst)).1 == 0;
        if !must_wait {
            self.stop_awaiting();
        }
        must_wait
    }

    /// Takes back [`Pool::await_return`].
    pub(crate) fn stop_awaiting(&self) {
        self.0.awaited.store(false, Ordering::Relaxed);
    }

    /// The buffer that [`LentBuffer::into_id`] turned into a number.
    ///
    /// # Safety
    ///
    /// `id` came from `into_id` of a buffer of this pool, was not reclaimed since, and whoever was given its
    /// address no longer writes to it.
    pub(crate) unsafe fn reclaim(&self, id: u16) -> LentBuffer {
        debug_assert_eq!(self.0.views[id as usize].load(Ordering::Relaxed), 1);
        LentBuffer(Hold { memory: Arc::as_ptr(&self.0), id })
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
    /// From `Arc::into_raw`. Every buffer that is not free owns one strong reference, common to all its
    /// holds.
    memory: *const Memory,
    id: u16,
}

// SAFETY: a hold is an index and a counted reference to `Memory`, which is `Sync`; the counts are atomic.
unsafe impl Send for Hold {}
// SAFETY: as above; nothing can be changed through a shared hold but the atomic counts.
unsafe impl Sync for Hold {}

impl Hold {
    #[inline]
    fn memory(&self) -> &Memory {
        // SAFETY: the buffer's strong reference is given back by the drop of its last hold, and `self` is
        // one.
        unsafe { &*self.memory }
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
        self.memory().give_back(self.id);
        // SAFETY: the pointer is from `Arc::into_raw` or `as_ptr` of the same Arc, and the strong reference
        // that this buffer owned since it was lent is given back here alone, by the last hold.
        unsafe { Arc::decrement_strong_count(self.memory) }
    }
}

/// From one buffer to the next. Most requests fill only the front of a buffer, and buffers a power of two apart have
/// their fronts in the same few sets of the cache, where they evict each other; so each lies a little further on.
fn stride(buffer_bytes: usize) -> usize {
    const CACHE_LINE: usize = 64;
    buffer_bytes.next_multiple_of(CACHE_LINE) + 17 * CACHE_LINE
}

/// The mapping and who uses which part of it.
struct Memory {
    base: NonNull<u8>,
    buffer_bytes: usize,
    /// For each buffer, how many holds it has: 0 while it is free.
    views: Box<[AtomicU32]>,
    free: FreeStack,
    /// Whether a driver sleeps that cannot receive before a buffer comes back.
    awaited: AtomicBool,
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
        let (awaited, waker) = (AtomicBool::new(false), OnceLock::new());
        Ok(Memory { base, buffer_bytes: buffer_bytes as usize, views, free, awaited, waker })
    }

    #[inline]
    fn give_back(&self, id: u16) {
        self.free.push(id);
        if self.awaited.load(Ordering::SeqCst) && self.awaited.swap(false, Ordering::SeqCst) {
            self.waker.get().inspect(|waker| waker.wake());
        }
    }

    #[inline]
    fn start_of(&self, id: u16) -> *mut u8 {
        self.base.as_ptr().wrapping_add(id as usize * stride(self.buffer_bytes))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        debug_assert_eq!(self.free.len(), self.views.len());
        let bytes = self.views.len() * stride(self.buffer_bytes);
        // SAFETY: exactly the mapping made in `map`; every buffer is free (each other one owns a reference to
        // `self`), so neither the kernel nor a view can reach it any more.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert_eq!(result, 0);
    }
}

/// Free buffers, the last one given back on top. Lock-free; any thread may push and pop.
struct FreeStack {
    /// `changes:u32 | len:u16 | top:u16`, where `top` is 1 + the id, or 0. `changes` makes a head that was
    /// seen before distinguishable from the same top buffer over another rest (the ABA problem).
    head: AtomicU64,
    /// For each buffer in the stack, the `top` below it.
    below: Box<[AtomicU16]>,
}

impl FreeStack {
    const CAPACITY_MAX: u16 = 1 << 15;

    /// All of `0..count`, 0 on top.
    fn full(count: u16) -> FreeStack {
        let below = (0..count).map(|id| AtomicU16::new(if id + 1 < count { id + 2 } else { 0 })).collect();
        FreeStack { head: AtomicU64::new(FreeStack::pack(0, count, 1)), below }
    }

    fn len(&self) -> usize {
        FreeStack::unpack(self.head.load(Ordering::Relaxed)).1 as usize
    }

    #[inline]
    fn pop(&self) -> Option<u16> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (changes, len, top) = FreeStack::unpack(head);
            let id = top.checked_sub(1)?;
            let below = self.below[id as usize].load(Ordering::Relaxed);
            let next = FreeStack::pack(changes.wrapping_add(1), len - 1, below);
            match self.head.compare_exchange_weak(head, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(id),
                Err(seen) => head = seen,
            }
        }
    }

    #[inline]
    fn push(&self, id: u16) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (changes, len, top) = FreeStack::unpack(head);
            self.below[id as usize].store(top, Ordering::Relaxed);
            let next = FreeStack::pack(changes.wrapping_add(1), len + 1, id + 1);
            // Release: what was done with the buffer, here and by views dropped before, happens before it is
            // lent. SeqCst rather, for `await_return`; it costs nothing more where such an exchange is a full
            // barrier.
            match self.head.compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    fn pack(changes: u32, len: u16, top: u16) -> u64 {
        u64::from(changes) << 32 | u64::from(len) << 16 | u64::from(top)
    }

    fn unpack(head: u64) -> (u32, u16, u16) {
        ((head >> 32) as u32, (head >> 16) as u16, head as u16)
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
    fn a_chunk_is_four_words() {
        assert!(size_of::<Chunk>() <= 4 * size_of::<usize>());
    }
}
