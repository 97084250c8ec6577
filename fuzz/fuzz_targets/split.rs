//! The same bytes in any split give the same events, the same answers and the same end.
//!
//! Input: a byte with the number of cuts, as many cuts of two bytes, a byte for the limits, the peer's bytes.
#![no_main]

#[path = "../../tests/support/player.rs"]
mod player;
#[expect(dead_code, reason = "transcripts are for other tests; the lines of a play are written with it")]
#[path = "../../tests/support/transcript.rs"]
mod transcript;

use libfuzzer_sys::fuzz_target;
use player::play;
use ringway::proto::Limits;

fuzz_target!(|bytes: &[u8]| {
    let Some((cuts, rest)) = bytes.split_first() else { return };
    let Some((cuts, rest)) = rest.split_at_checked(2 * usize::from(cuts % 16)) else { return };
    let Some((limit, bytes)) = rest.split_first() else { return };
    let limits = Limits {
        params_bytes_max: 32 * u32::from(limit >> 4),
        requests_max: u16::from(limit & 0x0f),
        management_bytes_max: u32::from(*limit),
        ..Limits::default()
    };
    let mut places: Vec<usize> = cuts
        .as_chunks::<2>()
        .0
        .iter()
        .map(|cut| usize::from(u16::from_be_bytes(*cut)) % (bytes.len() + 1))
        .chain([0, bytes.len()])
        .collect();
    places.sort_unstable();
    let whole = play(&limits, [bytes]);
    assert_eq!(play(&limits, places.windows(2).map(|ends| &bytes[ends[0]..ends[1]])), whole);
});
