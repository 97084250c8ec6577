//! The protocol core from the outside: transcripts, captures of real web servers, round trips, properties,
//! and the known bugs of others.

#[path = "support/player.rs"]
mod player;
#[path = "support/transcript.rs"]
mod transcript;

use player::{Play, play};
use proptest::prelude::*;
use ringway::proto::params::{encode_pair, take_pair};
use ringway::proto::{Decoder, ErrorKind, Header, Limits, Params, RecordType, RequestId, Role, encoder};
use transcript::{Transcript, encode_line, render};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");

/// The whole of `bytes` at once.
fn play_whole(limits: &Limits, bytes: &[u8]) -> Play {
    play(limits, [bytes])
}

/// Lines of a transcript as bytes.
#[track_caller]
fn encode(lines: &[&str]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| encode_line(line).unwrap_or_else(|reason| panic!("{line}: {reason}")))
        .collect()
}

mod transcripts {
    use super::*;

    #[test]
    fn play_as_written_at_every_split() {
        let transcripts = Transcript::load_all(VECTORS);
        assert!(transcripts.len() >= 28, "{} transcripts", transcripts.len());
        for Transcript { name, limits, input, replies, events } in &transcripts {
            let whole = play_whole(limits, input);
            assert_eq!(&whole.events, events, "{name}");
            assert_eq!(&render(&whole.sent), replies, "{name}");
            for split in 1..input.len() {
                let (first, second) = input.split_at(split);
                assert_eq!(play(limits, [first, second]), whole, "{name} split at {split}");
            }
            assert_eq!(play(limits, input.chunks(1)), whole, "{name} byte by byte");
        }
    }

    #[test]
    fn rendered_and_read_again_are_the_same() {
        for Transcript { name, input, .. } in &Transcript::load_all(VECTORS) {
            let lines = render(input);
            let again = encode(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(render(&again), lines, "{name}");
            let lines: Vec<String> = render(&again);
            assert!(lines.iter().all(|line| !line.is_empty()));
        }
    }

    #[test]
    fn what_is_no_transcript_is_refused() {
        for line in [
            "NO_SUCH_TYPE 1",
            "PARAMS 1 NAME",
            "PARAMS 65536 end",
            "STDIN 1 \"open",
            "BEGIN_REQUEST 1 nobody",
            "BEGIN_REQUEST 1 responder whatever",
            "END_REQUEST 1 0 FINE",
            "STDIN",
            "record 300 1",
            "bytes 0g",
            "STDIN 1 \"\\q\"",
            "STDIN 1 x padding 256",
        ] {
            assert!(encode_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn lines_are_the_bytes_they_say() {
        assert_eq!(
            encode(&["BEGIN_REQUEST 258 filter keep_conn"]),
            b"\x01\x01\x01\x02\0\x08\0\0\0\x03\x01\0\0\0\0\0"
        );
        assert_eq!(encode(&["PARAMS 1 A=1 padding 1"]), b"\x01\x04\0\x01\0\x04\x01\0\x01\x01A1\xee");
        assert_eq!(encode(&["STDIN 1 3*\"ab\" content"]), b"\x01\x05\0\x01\0\x0d\0\0abababcontent");
        assert_eq!(
            encode(&["END_REQUEST 1 258 OVERLOADED"]),
            b"\x01\x03\0\x01\0\x08\0\0\0\0\x01\x02\x02\0\0\0"
        );
    }
}

mod captures {
    use super::*;
    use std::collections::BTreeSet;

    /// A row of `vectors/captures.txt`, and the bytes it is about.
    struct Capture {
        name: String,
        role: Role,
        flags: u8,
        ids: Vec<u16>,
        padding: BTreeSet<u8>,
        params: String,
        stdin: String,
        end: Vec<String>,
        bytes: Vec<u8>,
    }

    fn all() -> Vec<Capture> {
        let table = std::fs::read_to_string(format!("{VECTORS}/captures.txt")).expect("the table");
        table.lines().filter(|line| !line.starts_with('#')).map(capture).collect()
    }

    fn capture(row: &str) -> Capture {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [name, role, flags, ids, padding, params, stdin, end] = cells[..] else { panic!("{row}") };
        fn numbers<N: std::str::FromStr<Err: std::fmt::Debug>, L: FromIterator<N>>(list: &str) -> L {
            list.split(',').map(|number| number.parse().expect("a number")).collect()
        }
        let file = format!("{VECTORS}/captures/{name}.bin");
        Capture {
            name: name.into(),
            role: Role::try_from(role.parse::<u16>().expect("a number")).expect("a role"),
            flags: flags.parse().expect("a number"),
            ids: numbers(ids),
            padding: numbers(padding),
            params: params.into(),
            stdin: if stdin == "-" { String::new() } else { stdin.into() },
            end: end.split(", ").map(String::from).collect(),
            bytes: std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}")),
        }
    }

    /// What the table says of a file, counted with the decoder.
    #[derive(Default)]
    struct Counted {
        begun: Vec<(u16, u16, u8)>,
        padding: BTreeSet<u8>,
        params: Vec<u16>,
        stdin: Vec<u16>,
        error: Option<ErrorKind>,
    }

    fn count(bytes: &[u8]) -> Counted {
        let (mut decoder, mut input, mut counted) = (Decoder::new(), bytes, Counted::default());
        loop {
            let fragment = match decoder.take_fragment(&mut input) {
                Ok(Some(fragment)) => fragment,
                Ok(None) => return counted,
                Err(error) => return Counted { error: Some(error.kind), ..counted },
            };
            assert!(fragment.starts && fragment.ends, "captures hold whole records");
            let Header { record_type, request_id, content_length, padding_length, .. } = fragment.header;
            counted.padding.insert(padding_length);
            match (record_type, fragment.content) {
                (RecordType::BeginRequest, [role1, role0, flags, ..]) => {
                    counted.begun.push((request_id, u16::from_be_bytes([*role1, *role0]), *flags));
                }
                (RecordType::Params, _) => counted.params.push(content_length),
                (RecordType::Stdin, _) => counted.stdin.push(content_length),
                (other, _) => assert_eq!(other, RecordType::GetValues),
            }
        }
    }

    /// `[10, 10, 0]` as the table writes it: `10x2 0`.
    fn listed(lengths: &[u16]) -> String {
        let runs = lengths.chunk_by(|a, b| a == b).map(|run| match run.len() {
            1 => run[0].to_string(),
            length => format!("{}x{length}", run[0]),
        });
        runs.collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn assert_listed(lengths: &[u16], listing: &str, complete: bool, name: &str) {
        let got = listed(lengths);
        match listing.strip_suffix("...") {
            Some(start) => assert!(got.starts_with(start), "{name}: {got} instead of {listing}"),
            None if complete => assert_eq!(got, listing, "{name}"),
            // The recorder went on behind a broken header.
            None => assert!(listing.starts_with(&got), "{name}: {got} instead of {listing}"),
        }
    }

    #[test]
    fn every_file_is_in_the_table() {
        let in_table: BTreeSet<String> = all().into_iter().map(|capture| capture.name).collect();
        let files = std::fs::read_dir(format!("{VECTORS}/captures")).expect("the captures");
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.map(|name| name.replace(".bin", "")).collect::<BTreeSet<_>>(), in_table);
        assert_eq!(in_table.len(), 248);
    }

    #[test]
    fn hold_what_their_recorder_counted() {
        for Capture { name, role, flags, ids, padding, params, stdin, end, bytes } in all() {
            let counted = count(&bytes);
            let begun: Vec<_> = ids.iter().map(|id| (*id, u16::from(role), flags)).collect();
            assert_eq!(counted.begun, begun, "{name}");
            let complete = !end.contains(&"version 0".into());
            assert_eq!(counted.error, (!complete).then_some(ErrorKind::Version(0)), "{name}");
            assert_eq!(counted.padding, padding, "{name}");
            assert_listed(&counted.params, &params, true, &name);
            assert_listed(&counted.stdin, &stdin, complete, &name);
        }
    }

    #[test]
    fn are_served_the_same_in_any_pieces() {
        for Capture { name, role, flags, ids, end, bytes, .. } in all() {
            let whole = play_whole(&Limits::default(), &bytes);
            let ends = |line: &str| end.contains(&line.into());
            let incomplete = usize::from(ends("incomplete"));
            assert_eq!(whole.requests.len(), ids.len() - incomplete, "{name}");
            assert_eq!(whole.events.iter().filter(|line| line.starts_with("incomplete")).count(), incomplete);
            assert_eq!(
                whole.events.iter().any(|line| line.starts_with("broken")),
                ends("version 0"),
                "{name}"
            );
            let closes = flags == 0 && incomplete == 0 || ends("version 0");
            assert_eq!(whole.events.last().is_some_and(|line| line == "close"), closes, "{name}");
            let answers_first =
                render(&whole.sent).first().is_some_and(|line| line.starts_with("GET_VALUES_RESULT"));
            assert_eq!(answers_first, ends("get_values"), "{name}");
            for served in &whole.requests {
                assert_eq!(served.role, role);
                check_request(&name, served);
            }
            for size in [1, 3, 17, 1_000, 16_384] {
                assert_eq!(play(&Limits::default(), bytes.chunks(size)), whole, "{name} in pieces of {size}");
            }
        }
    }

    /// What every web server sends, and the body its client sent.
    fn check_request(name: &str, served: &player::Served) {
        let param = |name: &[u8]| served.params.iter().rfind(|pair| pair.0 == name).map(|pair| &pair.1[..]);
        assert!(param(b"REQUEST_URI").is_some() && served.params.len() >= 10, "{name}");
        let posts = name.contains("-post") || !served.stdin.is_empty();
        assert_eq!(param(b"REQUEST_METHOD"), Some(if posts { &b"POST"[..] } else { b"GET" }), "{name}");
        let body: Vec<u8> = match name {
            name if name.ends_with("-post") => b"0123456789".to_vec(),
            name if name.ends_with("-post-70000") => (0..70_000).map(|place| (place % 251) as u8).collect(),
            _ => return,
        };
        assert_eq!(param(b"CONTENT_LENGTH"), Some(body.len().to_string().as_bytes()), "{name}");
        assert!(served.stdin == body, "{name}");
    }

    #[test]
    fn read_as_their_transcripts() {
        for name in [
            "nginx-keepconn-get",
            "haproxy-mpxs-three",
            "apache-authnz-authorizer",
            "cherokee-tcp-post-empty",
        ] {
            let bytes = std::fs::read(format!("{VECTORS}/captures/{name}.bin")).expect("the capture");
            let lines: Vec<String> = render(&bytes).into_iter().map(|line| format!("> {line}\n")).collect();
            let file = format!("{VECTORS}/captures-{name}.txt");
            if std::env::var_os("UPDATE_VECTORS").is_some() {
                std::fs::write(&file, lines.concat()).expect("a writable file");
            }
            let expected = std::fs::read_to_string(&file).expect("the transcript");
            assert_eq!(lines.concat(), expected, "{name}");
        }
    }

    #[test]
    fn the_params_of_nginx() {
        let capture =
            all().into_iter().find(|capture| capture.name == "nginx-keepconn-get").expect("the capture");
        let whole = play_whole(&Limits::default(), &capture.bytes);
        let params: Vec<(&str, &str)> = whole.requests[0]
            .params
            .iter()
            .map(|(name, value)| (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value).unwrap()))
            .filter(|(name, _)| {
                !["DOCUMENT_ROOT", "SCRIPT_FILENAME", "REMOTE_PORT", "SERVER_PORT"].contains(name)
            })
            .collect();
        let expected = [
            ("QUERY_STRING", "a=1&b=%20x"),
            ("REQUEST_METHOD", "GET"),
            ("CONTENT_TYPE", ""),
            ("CONTENT_LENGTH", ""),
            ("SCRIPT_NAME", "/hello"),
            ("REQUEST_URI", "/hello?a=1&b=%20x"),
            ("DOCUMENT_URI", "/hello"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REQUEST_SCHEME", "http"),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_SOFTWARE", "nginx/1.22.1"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_USER", ""),
        ];
        assert_eq!(params[..expected.len()], expected);
        assert!(params.contains(&("HTTP_COOKIE", "k=v")), "{params:?}");
    }
}

mod round_trips {
    use super::*;

    /// The records of a stream, joined, with the number of them.
    fn decode(bytes: &[u8]) -> (Vec<u8>, usize) {
        let (mut decoder, mut input, mut joined, mut records) = (Decoder::new(), bytes, Vec::new(), 0);
        while let Some(fragment) = decoder.take_fragment(&mut input).expect("good records") {
            assert_eq!((fragment.header.record_type, fragment.header.request_id), (RecordType::Stdout, 1));
            joined.extend_from_slice(fragment.content);
            records += usize::from(fragment.ends);
        }
        assert!(!decoder.mid_record());
        (joined, records)
    }

    /// HAProxy 0aeae2305: a length cut to 16 bits lets content become records.
    #[test]
    fn streams_of_any_length() {
        let record = encode(&["BEGIN_REQUEST 1 responder"]);
        for (length, records) in
            [(0, 0), (1, 1), (7, 1), (8, 1), (65_528, 1), (65_535, 2), (65_536, 2), (99_000, 2)]
        {
            // Content that would be taken for records if a length were wrong.
            let content: Vec<u8> = record.iter().copied().cycle().take(length).collect();
            let mut out = Vec::new();
            encoder::stream(&mut out, RecordType::Stdout, RequestId::ONE, &content);
            assert_eq!(out.len() % 8, 0);
            let (joined, got) = decode(&out);
            assert!(joined == content && got == records, "{length} bytes in {got} records");
        }
        let content = vec![1; 16 << 20];
        let mut out = Vec::new();
        encoder::stream(&mut out, RecordType::Stdout, RequestId::ONE, &content);
        assert!(decode(&out).0 == content);
    }

    /// CVE-2026-55203: 65,535 and padding wrap 16 bits.
    #[test]
    fn every_content_length_with_every_padding() {
        for content_length in [0, 1, 7, 8, 65_535_u16] {
            for padding_length in 0..=255 {
                let header = Header {
                    version: 1,
                    record_type: RecordType::Stdout,
                    request_id: 1,
                    content_length,
                    padding_length,
                };
                let content = vec![b'c'; usize::from(content_length)];
                let one = [&header.to_bytes(), &content[..], &vec![1; usize::from(padding_length)]].concat();
                let (joined, records) = decode(&[&one[..], &one].concat());
                assert!(records == 2 && joined == [&content[..], &content].concat());
            }
        }
    }

    #[test]
    fn lengths_beyond_one_record_with_every_padding() {
        for length in [65_536, 99_000] {
            let content: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
            for padding_length in 0..=255_u8 {
                let mut bytes = Vec::new();
                for piece in content.chunks(65_535) {
                    let header = Header {
                        version: 1,
                        record_type: RecordType::Stdout,
                        request_id: 1,
                        content_length: piece.len() as u16,
                        padding_length,
                    };
                    bytes.extend(header.to_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.resize(bytes.len() + usize::from(padding_length), 1);
                }
                assert!(decode(&bytes) == (content.clone(), 2), "{length} bytes, padding {padding_length}");
            }
        }
    }

    #[test]
    fn both_sides_of_a_connection_understand_each_other() {
        let id = RequestId::new(0x1234).expect("not zero");
        let mut sent = Vec::new();
        encoder::get_values(&mut sent, [&b"FCGI_MAX_CONNS"[..], b"X"]);
        encoder::begin_request(&mut sent, id, Role::Filter, true);
        encoder::stream(&mut sent, RecordType::Params, id, b"\x01\x01AB");
        encoder::stream_end(&mut sent, RecordType::Params, id);
        encoder::abort_request(&mut sent, id);
        let lines = [
            "GET_VALUES FCGI_MAX_CONNS X",
            "BEGIN_REQUEST 4660 filter keep_conn",
            "PARAMS 4660 A=B",
            "PARAMS 4660 end",
            "ABORT_REQUEST 4660",
        ];
        assert_eq!(render(&sent), lines);
        let play = play_whole(&Limits::default(), &sent);
        assert_eq!(play.events, ["begun 4660 filter keep_conn", "params 4660 A=B", "aborted 4660"]);
        let lines = ["GET_VALUES_RESULT FCGI_MAX_CONNS=16384", "END_REQUEST 4660 0 REQUEST_COMPLETE"];
        assert_eq!(render(&play.sent), lines);
    }
}

/// What went wrong elsewhere: each a vulnerability or a bug of another implementation.
mod known_bugs {
    use super::*;

    /// CVE-2025-23016 and its kin: lengths that nobody sends bytes for. Nothing is reserved for them, in any
    /// number: the play's application holds the bytes that came, no more.
    #[test]
    fn claimed_lengths_without_data() {
        let claims = [0x7fff_ffff_u32, 0x7fff_fff8, 0x4000_0000, 0x1_0000, 0x80];
        for name in claims {
            for value in claims {
                let lengths = [name | 0x8000_0000, value | 0x8000_0000].map(u32::to_be_bytes).concat();
                let mut bytes = encode(&["BEGIN_REQUEST 1 responder keep_conn"]);
                encoder::stream(&mut bytes, RecordType::Params, RequestId::ONE, &lengths);
                encoder::stream_end(&mut bytes, RecordType::Params, RequestId::ONE);
                let play = play_whole(&Limits::default(), &bytes);
                assert_eq!(render(&play.sent)[1], "END_REQUEST 1 1 REQUEST_COMPLETE", "{name:x} {value:x}");
            }
        }
    }

    /// libfcgi: repeated names against a reply buffer of 64 bytes.
    #[test]
    fn ten_thousand_repeated_names() {
        let name = b"\x0e\0FCGI_MAX_CONNS";
        let mut bytes = Vec::new();
        for record in name.repeat(10_000).chunks(4_095 * name.len()) {
            let content_length = record.len() as u16;
            let record_type = RecordType::GetValues;
            let header = Header { version: 1, record_type, request_id: 0, content_length, padding_length: 0 };
            bytes.extend([&header.to_bytes(), record].concat());
        }
        let play = play_whole(&Limits::default(), &bytes);
        assert_eq!(render(&play.sent), ["GET_VALUES_RESULT FCGI_MAX_CONNS=16384"; 3]);
        assert_eq!(super::play(&Limits::default(), bytes.chunks(1_000)), play);
    }

    /// HAProxy 3ac082b2b: application records under id 0, in the middle of a request and without one.
    #[test]
    fn every_type_under_id_zero() {
        let begin = encode(&["BEGIN_REQUEST 1 responder keep_conn", "PARAMS 1 A=1"]);
        for number in 0..=u8::MAX {
            for before in [&[][..], &begin] {
                let record =
                    encode(&[&format!("record {number} 0 \"\\x00\\x01\\x01\\x00\\x00\\x00\\x00\\x00\"")]);
                let play = play_whole(&Limits::default(), &[before, &record].concat());
                let broken = play.events.iter().any(|line| line.starts_with("broken request id 0"));
                assert_eq!(broken, (1..=8).contains(&number), "type {number}");
                let replies = render(&play.sent);
                match number {
                    1..=8 | 10 | 11 => assert!(replies.is_empty()),
                    9 => assert_eq!(replies, ["GET_VALUES_RESULT"]),
                    _ => assert_eq!(replies, [format!("UNKNOWN_TYPE {number}")]),
                }
            }
        }
    }

    /// CVE-2023-0836: reserved bytes that nobody wrote.
    #[test]
    fn every_reserved_and_padding_byte_sent_is_zero() {
        let mut sent = vec![0xff; 4096];
        sent.clear();
        for length in 0..64 {
            encoder::stream(&mut sent, RecordType::Stdout, RequestId::ONE, &vec![0xff; length]);
            let record = encoder::OpenRecord::begin(&mut sent, RecordType::Stderr, RequestId::ONE);
            sent.resize(sent.len() + length, 0xff);
            record.finish(&mut sent);
        }
        encoder::stream_end(&mut sent, RecordType::Stdout, RequestId::ONE);
        let mut rest = &sent[..];
        while let Some((header, after)) = rest.split_first_chunk::<8>() {
            let parsed = Header::from_bytes(*header);
            let (content, after) = after.split_at(usize::from(parsed.content_length));
            let (padding, after) = after.split_at(usize::from(parsed.padding_length));
            assert!(content.iter().all(|byte| *byte == 0xff));
            assert!(padding.iter().chain(&header[7..]).all(|byte| *byte == 0));
            rest = after;
        }
        let mut fixed = Vec::new();
        encoder::end_request(
            &mut fixed,
            RequestId::ONE,
            u32::MAX,
            ringway::proto::ProtocolStatus::Overloaded,
        );
        assert_eq!((fixed[7], &fixed[13..]), (0, &[0; 3][..]));
        fixed.clear();
        encoder::unknown_type(&mut fixed, RecordType::Unknown(255));
        assert_eq!((fixed[7], &fixed[9..]), (0, &[0; 7][..]));
        fixed.clear();
        encoder::begin_request(&mut fixed, RequestId::ONE, Role::Responder, true);
        assert_eq!((fixed[7], &fixed[11..]), (0, &[0; 5][..]));
    }

    /// HTTP/2's rapid reset, and floods of whatever costs a peer little: nothing piles up and replies stay in
    /// proportion, which the play checks with every call.
    #[test]
    fn floods_of_cheap_records() {
        let floods: [&[&str]; 6] = [
            &["BEGIN_REQUEST 1 responder keep_conn", "ABORT_REQUEST 1"],
            &["STDIN 9 end", "PARAMS 9 end"],
            &["STDIN 9 end padding 255"],
            &["record 12 0"],
            &["GET_VALUES FCGI_MAX_CONNS FCGI_MAX_REQS FCGI_MPXS_CONNS"],
            &["BEGIN_REQUEST 1 77 keep_conn"],
        ];
        for flood in floods {
            let bytes = encode(flood).repeat(5_000);
            let play = play_whole(&Limits::default(), &bytes);
            assert!(!play.events.iter().any(|line| line.starts_with("incomplete")), "{flood:?}");
            assert!(play.sent.len() <= 2 * bytes.len(), "{flood:?}");
        }
    }

    #[test]
    fn params_a_byte_at_a_time_are_cut_at_their_limit() {
        let begin = encode(&["BEGIN_REQUEST 1 responder keep_conn"]);
        let endless = encode(&["PARAMS 1 content \"\\x7f\""]).repeat(1_000);
        let limits = Limits { params_bytes_max: 100, ..Limits::default() };
        let play = play_whole(&limits, &[begin, endless].concat());
        assert_eq!(play.events.len(), 2);
        assert!(play.events[1].starts_with("failed request id 1: PARAMS longer than params_bytes_max = 100"));
    }

    /// Values of 64 KiB and more work up to the limits, in records of any size.
    #[test]
    fn long_values() {
        for (length, record) in [(65_535, 65_535), (65_536, 1_000), (200_000, 65_535), (262_136, 8_191)] {
            let mut stream = Vec::new();
            encode_pair(&mut stream, b"V", &vec![b'v'; length]);
            let mut bytes = encode(&["BEGIN_REQUEST 1 responder keep_conn"]);
            for piece in stream.chunks(record) {
                let content_length = piece.len() as u16;
                let record_type = RecordType::Params;
                let header =
                    Header { version: 1, record_type, request_id: 1, content_length, padding_length: 3 };
                bytes.extend([&header.to_bytes(), piece, b"\xee\xee\xee"].concat());
            }
            bytes.extend(encode(&["PARAMS 1 end", "STDIN 1 end"]));
            let play = play_whole(&Limits::default(), &bytes);
            assert_eq!(play.requests[0].params[0].1.len(), length);
        }
    }

    /// The ids of a connection are all 16 bits; each may be used again after its end.
    #[test]
    fn every_id_twice() {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            for id in (1..=u16::MAX).filter_map(RequestId::new) {
                encoder::begin_request(&mut bytes, id, Role::Authorizer, true);
                encoder::stream_end(&mut bytes, RecordType::Params, id);
            }
        }
        let play = play_whole(&Limits::default(), &bytes);
        assert_eq!(play.requests.len(), 2 * 65_535);
        assert!(play.requests.iter().zip((1..=u16::MAX).cycle()).all(|(served, id)| served.id == id));
    }
}

mod properties {
    use super::*;

    /// A record that has a fair chance to mean something.
    fn record() -> impl Strategy<Value = Vec<u8>> {
        let id = prop_oneof![8 => 1..4_u16, 1 => Just(0_u16), 1 => any::<u16>()];
        let content = prop_oneof![
            4 => Just(Vec::new()),
            4 => proptest::collection::vec(any::<u8>(), 0..40),
            3 => pairs().prop_map(|pairs| stream_of(&pairs)),
        ];
        let begin = (id.clone(), 0..5_u16, any::<bool>()).prop_map(|(id, role, keep_conn)| {
            let kept = if keep_conn { " keep_conn" } else { "" };
            encode(&[&format!(
                "record 1 {id} \"\\x00\\x{role:02x}\\x{:02x}\\x00\\x00\\x00\\x00\\x00\"",
                kept.len().min(1)
            )])
        });
        let record_type = prop_oneof![
            4 => prop_oneof![Just(4_u8), Just(5)],
            2 => prop_oneof![Just(2_u8), Just(8), Just(9)],
            1 => any::<u8>(),
        ];
        let other = (record_type, id, content, prop_oneof![Just(0_u8), any::<u8>()]).prop_map(
            |(record_type, request_id, content, padding_length)| {
                let (record_type, content_length) = (RecordType::from(record_type), content.len() as u16);
                let header = Header { version: 1, record_type, request_id, content_length, padding_length };
                [&header.to_bytes(), &content[..], &vec![1; usize::from(padding_length)]].concat()
            },
        );
        prop_oneof![1 => begin, 4 => other]
    }

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn pairs() -> impl Strategy<Value = Pairs> {
        let text = || {
            prop_oneof![
                proptest::collection::vec(1..=255_u8, 0..20),
                proptest::collection::vec(1..=255_u8, 100..300)
            ]
        };
        let name =
            prop_oneof![text(), Just(b"SCRIPT_NAME".to_vec()), Just(b"HTTPS".to_vec()), Just(b"X".to_vec())];
        proptest::collection::vec((name, text()), 0..8)
    }

    fn stream_of(pairs: &Pairs) -> Vec<u8> {
        let mut stream = Vec::new();
        pairs.iter().for_each(|(name, value)| encode_pair(&mut stream, name, value));
        stream
    }

    /// `bytes` cut at the given places, taken modulo its length.
    fn cut<'b>(bytes: &'b [u8], places: &[usize]) -> Vec<&'b [u8]> {
        let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
    }

    fn limits() -> impl Strategy<Value = Limits> {
        (1..400_u32, 0..6_u32, 0..4_u16, 0..60_u32).prop_map(
            |(params_bytes_max, params_pairs_max, requests_max, management_bytes_max)| Limits {
                params_bytes_max,
                params_pairs_max,
                requests_max,
                management_bytes_max,
                ..Limits::default()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn the_same_bytes_in_any_split_give_the_same_events(
            records in proptest::collection::vec(record(), 0..40),
            places in proptest::collection::vec(any::<usize>(), 0..30),
            limits in prop_oneof![Just(Limits::default()), limits()],
            damage in proptest::option::weighted(0.2, (any::<usize>(), any::<u8>())),
        ) {
            let mut bytes = records.concat();
            if let (Some((place, byte)), false) = (damage, bytes.is_empty()) {
                let length = bytes.len();
                bytes[place % length] = byte;
            }
            let whole = play_whole(&limits, &bytes);
            prop_assert_eq!(&play(&limits, cut(&bytes, &places)), &whole);
            prop_assert_eq!(&play(&limits, bytes.chunks(1)), &whole);
        }

        #[test]
        fn any_bytes_at_all_are_taken_in(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1_u8), any::<u8>()], 0..400),
            places in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let whole = play_whole(&Limits::default(), &bytes);
            prop_assert_eq!(play(&Limits::default(), cut(&bytes, &places)), whole);
        }

        #[test]
        fn params_are_what_was_encoded(pairs in pairs()) {
            let stream = stream_of(&pairs);
            let params = Params::parse(&stream[..], &Limits::default()).expect("good pairs");
            prop_assert_eq!(params.len(), pairs.len());
            prop_assert!(params.iter().eq(pairs.iter().map(|(name, value)| (&name[..], &value[..]))));
            for (name, _) in &pairs {
                let last = pairs.iter().rfind(|(other, _)| other == name).map(|(_, value)| &value[..]);
                prop_assert_eq!(params.get(name), last);
            }
        }

        #[test]
        fn params_of_any_bytes_agree_with_the_simplest_reader(
            bytes in proptest::collection::vec(prop_oneof![0..6_u8, Just(0x80_u8), any::<u8>()], 0..60),
        ) {
            let (mut rest, mut pairs) = (&bytes[..], Vec::new());
            while let Some(pair) = take_pair(&mut rest) {
                pairs.push(pair);
            }
            let nul = pairs.iter().any(|(name, value)| name.contains(&0) || value.contains(&0));
            match Params::parse(&bytes[..], &Limits::default()) {
                Ok(params) => {
                    prop_assert!(rest.is_empty() && !nul);
                    prop_assert!(params.iter().eq(pairs));
                }
                Err((error, given_back)) => {
                    prop_assert_eq!(given_back, &bytes[..]);
                    prop_assert_eq!(matches!(error.kind, ErrorKind::ParamsTruncated(_)), !rest.is_empty());
                    prop_assert_eq!(matches!(error.kind, ErrorKind::ParamsNul(_)), rest.is_empty());
                    prop_assert!(!rest.is_empty() || nul);
                }
            }
        }

        #[test]
        fn streams_come_back_in_any_split(
            content in proptest::collection::vec(any::<u8>(), 0..2_000),
            places in proptest::collection::vec(any::<usize>(), 0..10),
            id in (1..=u16::MAX).prop_map(|id| RequestId::new(id).expect("not zero")),
        ) {
            let mut bytes = Vec::new();
            encoder::begin_request(&mut bytes, id, Role::Responder, false);
            encoder::stream_end(&mut bytes, RecordType::Params, id);
            encoder::stream(&mut bytes, RecordType::Stdin, id, &content);
            encoder::stream_end(&mut bytes, RecordType::Stdin, id);
            let play = play(&Limits::default(), cut(&bytes, &places));
            prop_assert_eq!(&play.requests[0].stdin, &content);
            prop_assert_eq!(play.requests[0].id, id.get());
        }
    }
}
