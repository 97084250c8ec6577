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
#[derive(Default)]
pub struct Output {
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

    /// The block, to append encoded records to. Nothing before its present end may change.
    pub fn block_mut(&mut self) -> &mut Vec<u8> {
        &mut self.block
    }

    /// Adds bytes that are sent from where they are, after all that was added before.
    pub fn push_shared(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.shared_len += bytes.len();
            self.shared.push(Shared { at: self.block.len(), bytes });
        }
    }

    /// Bytes that the kernel has not taken yet.
    pub fn len(&self) -> usize {
        self.block.len() + self.shared_len - self.taken
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has no memory yet: better take a used one.
    pub fn is_bare(&self) -> bool {
        self.block.capacity() == 0 && self.shared.is_empty()
    }

    /// Memory of its block.
    pub(crate) fn capacity(&self) -> usize {
        self.block.capacity()
    }

    /// Empties it for reuse. A block that grew past `keep_bytes` gives its memory back.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.block.clear();
        if self.block.capacity() > keep_bytes {
            self.block = Vec::new();
        }
        self.shared.clear();
        self.shared_len = 0;
        self.taken = 0;
    }

    /// The kernel has taken `count` more bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.taken += count;
    }

    /// What is left, when it is all in the block.
    pub(crate) fn as_single(&self) -> Option<&[u8]> {
        self.shared.is_empty().then(|| &self.block[self.taken..])
    }

    /// What is left, as at most `slices.len()` pieces; returns how many were filled.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.taken;
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
        for shared in &self.shared {
            push(&self.block[from..shared.at]);
            push(&shared.bytes);
            from = shared.at;
        }
        push(&self.block[from..]);
        count
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes taken, {} left)", self.taken, self.len())
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
        assert_eq!(output.block.capacity(), 0);
    }
}
