//! Any bytes as records: what is decoded is what a reader of the whole input finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::proto::wire::{HEADER_BYTES, VERSION};
use ringway::proto::{Decoder, Header};

fuzz_target!(|bytes: &[u8]| {
    let (mut decoder, mut input, mut expected) = (Decoder::new(), bytes, bytes);
    loop {
        let before = expected;
        let record = whole_record(&mut expected);
        match (decoder.take_fragment(&mut input), record) {
            (Ok(Some(fragment)), Some((header, content))) => {
                assert_eq!((fragment.header, fragment.content), (header, content));
                assert!(fragment.starts && fragment.ends);
                assert_eq!(input, expected);
            }
            // The last record: its content may be there without all of its padding, or in part.
            (Ok(Some(fragment)), None) => {
                assert!(fragment.starts && input.is_empty());
                assert_eq!(fragment.content, &before[HEADER_BYTES..HEADER_BYTES + fragment.content.len()]);
                assert!(matches!(decoder.take_fragment(&mut input), Ok(None)));
                return;
            }
            (Ok(None), None) => return assert!(input.is_empty()),
            (Ok(None), Some(record)) => panic!("not reported: {record:?}"),
            (Err(_), _) => return assert_ne!(before[0], VERSION),
        }
    }
});

fn whole_record<'b>(rest: &mut &'b [u8]) -> Option<(Header, &'b [u8])> {
    let (head, after) = rest.split_first_chunk()?;
    let header = Header::from_bytes(*head);
    let (content, after) = after.split_at_checked(usize::from(header.content_length))?;
    *rest = after.get(usize::from(header.padding_length)..)?;
    (header.version == VERSION).then_some((header, content))
}
