//! What broken and hostile peers send, the same in every run.

use crate::peer::{Ask, Peer};
use crate::server::Served;

/// Sends the junk of five hundred connections. Those are returned that the test should close when it likes.
pub(crate) fn send(served: &Served) -> Vec<Peer> {
    let mut random = Random(20_260_101);
    let mut open: Vec<Peer> = Vec::new();
    for round in 0..500 {
        let mut peer = served.connect();
        let bytes = match round % 5 {
            0 => {
                let count = random.below(4_000);
                random.bytes(count)
            }
            _ => mutated(&mut random),
        };
        // The server may have closed already: what is left of the junk has nowhere to go.
        let _ = peer.try_send(&bytes);
        match random.below(3) {
            0 => drop(peer),
            1 => {
                let _ = rustix::net::shutdown(&peer, rustix::net::Shutdown::Write);
                open.push(peer);
            }
            _ => open.push(peer),
        }
    }
    open
}

/// A generator of numbers that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Requests that were valid, with some bytes changed, cut out, doubled.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in 1..=4 {
        let body = random.below(3_000);
        bytes.extend(match random.below(4) {
            0 => Ask::get("/").with_nginx_headers().id(id).bytes(),
            1 => Ask::post("/echo", random.bytes(body)).id(id).bytes(),
            2 => Ask::filter("/", random.bytes(100), random.bytes(body)).id(id).bytes(),
            _ => Ask::authorize("/").id(id).bytes(),
        });
    }
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..(at + 1 + random.below(64)).min(bytes.len()))),
            _ => {
                let again = bytes[at..(at + 1 + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}
