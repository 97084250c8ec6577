//! Which buffers are free.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Free buffers, the last one given back on top. Lock-free; any thread may push and pop.
pub(super) struct FreeStack {
    pub(super) head: AtomicU64,
    /// For each buffer in the stack, the `top` below it.
    pub(super) below: Box<[AtomicU16]>,
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
    pub(super) const CAPACITY_MAX: u16 = 1 << 15;

    /// All of `0..count`, 0 on top.
    pub(super) fn full(count: u16) -> FreeStack {
        let below = (0..count).map(|id| AtomicU16::new(if id + 1 < count { id + 2 } else { 0 })).collect();
        let head = Head { changes: 0, is_awaited: false, len: count, top: 1 };
        FreeStack { head: AtomicU64::new(head.pack()), below }
    }

    pub(super) fn len(&self) -> usize {
        Head::unpack(self.head.load(Ordering::Relaxed)).len as usize
    }

    #[inline]
    pub(super) fn pop(&self) -> Option<u16> {
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
    pub(super) fn await_push(&self) -> bool {
        let set = |word| (Head::unpack(word).top == 0).then_some(word | Head::AWAITED);
        self.head.fetch_update(Ordering::AcqRel, Ordering::Acquire, set).is_ok()
    }

    pub(super) fn stop_awaiting(&self) {
        self.head.fetch_and(!Head::AWAITED, Ordering::Relaxed);
    }
}

/// What a [`push`] found and made.
pub(super) struct Pushed {
    pub(super) len: u16,
    pub(super) was_awaited: bool,
}

/// Gives back a buffer, or what the owner has (`None`). Where that is awaited, `awaited` is called before.
///
/// No method: with the exchange in here the whole stack may be freed by another thread, so nothing may borrow it but
/// what is shared with that one anyway.
#[inline]
pub(super) fn push(
    head: &AtomicU64,
    below: &[AtomicU16],
    id: Option<u16>,
    mut awaited: impl FnMut(),
) -> Pushed {
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
