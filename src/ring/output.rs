//! What goes out on one connection: a block of encoded bytes, with large bodies beside it as they are.
//!
//! ```text
//!  block   [header|head|small body|pad|header|......|header|pad|...]
//!  shared                             ▲ at 96: Bytes (65,528)  ▲ at 104: Bytes
//! ```
//!
//! Small pieces are copied into the block, so that one send carries many replies. A large body is shared: it
//! goes to the kernel from where the handler left it.

use std::fmt;
use std::io::IoSlice;

use bytes::Bytes;

/// Encoded records on their way to one peer.
///
/// It passes from peer to ring and back with every answer, so it is one pointer: its parts stay where they are.
#[derive(Default)]
pub struct Output(Option<Box<Parts>>);

#[derive(Default)]
struct Parts {
    block: Vec<u8>,
    /// Ordered by `at`, the offset in `block` before which the piece goes.
    shared: Vec<Shared>,
    shared_len: usize,
    /// How much of block and shared together the kernel has taken: `0 <= taken <= len()`.
    taken: usize,
}

struct Shared {
    at: usize,
    bytes: Bytes,
}

impl Output {
    /// How many pieces one vectored send takes at most (UIO_MAXIOV is 1024; more gains nothing).
    pub const SLICES_MAX: usize = 64;

    #[inline]
    fn parts_mut(&mut self) -> &mut Parts {
        self.0.get_or_insert_default()
    }

    /// The block, to append encoded records to. Nothing before its present end may change.
    #[inline]
    pub fn block_mut(&mut self) -> &mut Vec<u8> {
        &mut self.parts_mut().block
    }

    /// Adds bytes that are sent from where they are, after all that was added before.
    pub fn push_shared(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let parts = self.parts_mut();
            parts.shared_len += bytes.len();
            parts.shared.push(Shared { at: parts.block.len(), bytes });
        }
    }

    /// Bytes that the kernel has not taken yet.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.block.len() + parts.shared_len - parts.taken)
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has no memory yet: better take a used one.
    pub fn is_bare(&self) -> bool {
        self.0.is_none()
    }

    /// Memory of its block.
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.block.capacity())
    }

    /// Empties it for reuse. A block that grew past `keep_bytes` gives its memory back.
    pub fn clear(&mut self, keep_bytes: usize) {
        let Some(parts) = &mut self.0 else { return };
        parts.block.clear();
        if parts.block.capacity() > keep_bytes {
            parts.block = Vec::new();
        }
        parts.shared.clear();
        parts.shared_len = 0;
        parts.taken = 0;
    }

    /// The kernel has taken `count` more bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        if count > 0 {
            self.parts_mut().taken += count;
        }
    }

    /// What is left, when it is all in the block.
    pub(crate) fn as_single(&self) -> Option<&[u8]> {
        match &self.0 {
            None => Some(&[]),
            Some(parts) => parts.shared.is_empty().then(|| &parts.block[parts.taken..]),
        }
    }

    /// What is left, as at most `slices.len()` pieces; returns how many were filled.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(parts) = &self.0 else { return 0 };
        let mut skip = parts.taken;
        let mut count = 0;
        let mut push = |piece: &'a [u8]| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            if skipped < piece.len() && count < slices.len() {
                slices[count] = IoSlice::new(&piece[skipped..]);
                count += 1;
            }
        };
        let mut from = 0;
        for shared in &parts.shared {
            push(&parts.block[from..shared.at]);
            push(&shared.bytes);
            from = shared.at;
        }
        push(&parts.block[from..]);
        count
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.0.as_ref().map_or(0, |parts| parts.taken);
        write!(f, "Output({taken} bytes taken, {} left)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was added comes out in order, at every point at which the kernel may have stopped.
    #[test]
    fn pieces_come_out_in_order_from_any_offset() {
        let mut output = Output::default();
        output.push_shared(Bytes::from_static(b"ab"));
        output.block_mut().extend_from_slice(b"cdef");
        output.push_shared(Bytes::from_static(b"ghi"));
        output.push_shared(Bytes::from_static(b"j"));
        output.block_mut().extend_from_slice(b"kl");
        let whole = b"abcdefghijkl";
        for taken in 0..=whole.len() {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = output.fill(&mut slices);
            let left: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(left, &whole[taken..]);
            assert_eq!(output.len(), left.len());
            if taken < whole.len() {
                output.advance(1);
            }
        }
        assert!(output.is_empty());
    }

    #[test]
    fn fill_stops_at_the_slices_given() {
        let mut output = Output::default();
        for _ in 0..10 {
            output.block_mut().push(1);
            output.push_shared(Bytes::from_static(b"x"));
        }
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(output.fill(&mut slices), 4);
    }

    #[test]
    fn a_large_block_gives_its_memory_back() {
        let mut output = Output::default();
        output.block_mut().resize(100_000, 0);
        output.clear(4096);
        assert_eq!(output.capacity(), 0);
    }
}
