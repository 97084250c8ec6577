//! What is particular to this driver; the behaviour that all drivers share is tested in `tests/ring.rs`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use bytes::Bytes;

use super::*;
use crate::ring::Chunk;

const LISTENER: ListenerId = ListenerId(7);
const SMALL: PoolConfig = PoolConfig { buffer_bytes: 4096, ring_buffers: 4, buffers_max: 8 };

fn token(slot: u32) -> Token {
    Token { slot, generation: 1 }
}

fn output(bytes: &[u8]) -> Output {
    let mut output = Output::default();
    output.block_mut().extend_from_slice(bytes);
    output
}

/// A ring that listens on a Unix socket, with what it has reported.
struct Bench {
    ring: Uring,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(config: PoolConfig, send_now: bool) -> Bench {
        Bench::of(Uring::with_send_now(&config, 64, send_now).unwrap())
    }

    fn of(mut ring: Uring) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        ring.listen(LISTENER, UnixListener::bind(&path).unwrap().into(), false, false).unwrap();
        Bench { ring, path, _directory: directory }
    }

    /// Turns until something is reported, and gives all of it.
    fn turn(&mut self) -> Vec<Completion> {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(Instant::now() < patience, "nothing happens");
            self.ring.turn(Wait::SpinUntil(Instant::now() + Duration::from_millis(1))).unwrap();
            let completions: Vec<_> = std::iter::from_fn(|| self.ring.completion()).collect();
            if !completions.is_empty() {
                return completions;
            }
        }
    }

    fn one(&mut self) -> Completion {
        let mut completions = self.turn();
        assert_eq!(completions.len(), 1, "{completions:?}");
        completions.remove(0)
    }

    /// A connected pair: our descriptor and the peer.
    fn connect(&mut self) -> (Descriptor, UnixStream) {
        let peer = UnixStream::connect(&self.path).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        match self.one() {
            Completion::Accepted { listener: LISTENER, descriptor } => (descriptor, peer),
            other => panic!("{other:?}"),
        }
    }

    fn received(&mut self) -> Chunk {
        match self.one() {
            Completion::Received { chunk, .. } => chunk,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_small_send_completes_without_a_completion() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.send(descriptor, token(1), output(b"hello"));
    assert_eq!(bench.ring.in_flight, 2, "accept and waker: the send is not waited for");
    assert!(bench.ring.completion().is_none(), "not before it was submitted");
    let before = bench.ring.syscalls();
    bench.ring.turn(Wait::UntilCompletion).unwrap();
    assert_eq!(bench.ring.syscalls(), before + 1);
    assert!(!bench.ring.queue.has_completions());
    let sent = bench.ring.completion();
    assert!(matches!(sent, Some(Completion::Sent { result: Ok(()), .. })), "{sent:?}");
    let mut bytes = [0; 5];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn what_is_inferred_ends_a_sleep_only_when_it_is_waited_for() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.send(descriptor, token(1), output(b"hello"));
    let waker = bench.ring.waker();
    let thread = thread::spawn(move || {
        peer.read_exact(&mut [0; 5]).unwrap();
        waker.wake();
    });
    let before = bench.ring.syscalls();
    bench.ring.turn(Wait::UntilArrival).unwrap();
    assert_eq!(bench.ring.syscalls(), before + 1);
    assert!(matches!(bench.ring.completion(), Some(Completion::Sent { .. })));
    assert!(matches!(bench.ring.completion(), Some(Completion::Woken)));
    thread.join().unwrap();
}

#[test]
fn a_crowd_at_one_socket_keeps_no_other_waiting() {
    const OTHER: ListenerId = ListenerId(8);
    let directory = tempfile::tempdir().unwrap();
    let [crowded, quiet] = ["crowded", "quiet"].map(|name| directory.path().join(name));
    let mut ring = Uring::new(&SMALL, 64).unwrap();
    for (id, path) in [(LISTENER, &crowded), (OTHER, &quiet)] {
        ring.listen(id, UnixListener::bind(path).unwrap().into(), true, false).unwrap();
    }
    ring.turn(Wait::No).unwrap();
    let _crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(&crowded).unwrap()).collect();
    let _single = UnixStream::connect(&quiet).unwrap();
    let mut accepted = Vec::new();
    while accepted.len() < 101 {
        ring.turn(Wait::UntilCompletion).unwrap();
        while let Some(completion) = ring.completion() {
            let Completion::Accepted { listener, .. } = completion else { panic!("{completion:?}") };
            accepted.push(listener);
        }
    }
    assert!(accepted[..2].contains(&OTHER), "{accepted:?}");
}

/// 300 KiB and more never fit a Unix socket's buffer at once: the first part is taken, the rest waits.
#[test]
fn what_does_not_fit_waits_for_the_peer() {
    for send_now in [true, false] {
        for pieces in [1, 3, 200] {
            let mut bench = Bench::new(SMALL, send_now);
            let (descriptor, mut peer) = bench.connect();
            // Below the bound for `SendNow` each time, sent until the peer's buffer is full.
            let body: Bytes = (0..100_000u32).map(|i| (i % 251) as u8).collect();
            let total = 10 * body.len();
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                let mut bytes = vec![0; total];
                peer.read_exact(&mut bytes).unwrap();
                bytes
            });
            for _ in 0..10 {
                let mut output = Output::default();
                let step = body.len().div_ceil(pieces);
                for start in (0..body.len()).step_by(step) {
                    let part = body.slice(start..body.len().min(start + step));
                    if pieces == 1 { output.block_mut().extend(&part) } else { output.push_shared(part) }
                }
                bench.ring.send(descriptor, token(1), output);
                let sent = bench.one();
                assert!(matches!(sent, Completion::Sent { result: Ok(()), .. }), "{sent:?}");
            }
            assert!(reader.join().unwrap().chunks(body.len()).all(|part| part == body), "{pieces}");
        }
    }
}

#[test]
fn an_output_of_many_megabytes_is_sent_whole() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    });
    bench.ring.send(descriptor, token(1), output(&vec![7; 20 << 20]));
    let sent = bench.one();
    assert!(matches!(sent, Completion::Sent { result: Ok(()), .. }), "{sent:?}");
    bench.ring.close(descriptor, token(1));
    assert!(matches!(bench.one(), Completion::Closed { .. }));
    assert!(reader.join().unwrap() == vec![7; 20 << 20]);
}

#[test]
fn a_send_to_a_peer_that_is_gone_fails_and_gives_the_output_back() {
    for send_now in [true, false] {
        let mut bench = Bench::new(SMALL, send_now);
        let (descriptor, peer) = bench.connect();
        drop(peer);
        bench.ring.send(descriptor, token(1), output(b"hello"));
        let Completion::Sent { output, result, .. } = bench.one() else { panic!() };
        assert_eq!(result.unwrap_err().errno, libc::EPIPE);
        assert_eq!(output.len(), 5);
    }
}

#[test]
fn close_with_a_send_in_progress_gives_the_output_back_first() {
    for send_now in [true, false] {
        let mut bench = Bench::new(SMALL, send_now);
        let (descriptor, mut peer) = bench.connect();
        bench.ring.recv(descriptor, token(1));
        bench.ring.send(descriptor, token(1), output(&vec![0; 4 << 20]));
        bench.ring.turn(Wait::No).unwrap();
        assert!(bench.ring.completion().is_none());
        bench.ring.close(descriptor, token(2));
        let Completion::Sent { result, .. } = bench.one() else { panic!() };
        assert!(result.is_err());
        assert!(matches!(bench.one(), Completion::Closed { token } if token.slot == 2));
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        assert!(rest.len() < 4 << 20);
        assert!(bench.ring.sends.is_empty());
        assert_eq!(bench.ring.sockets.direct_open(), 0);
    }
}

/// The usual end of a connection takes one enter, with the recv still on.
#[test]
fn close_costs_one_turn_and_a_late_completion_changes_nothing() {
    let mut bench = Bench::new(SMALL, true);
    for round in 0..200 {
        let (descriptor, mut peer) = bench.connect();
        bench.ring.recv(descriptor, token(round));
        bench.ring.turn(Wait::No).unwrap();
        bench.ring.close(descriptor, token(round));
        let before = bench.ring.syscalls();
        assert!(matches!(bench.one(), Completion::Closed { token } if token.slot == round));
        assert_eq!(bench.ring.syscalls(), before + 1);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
    bench.ring.turn(Wait::No).unwrap();
    assert!(bench.ring.completion().is_none());
    assert_eq!(bench.ring.in_flight, 2);
    assert_eq!(bench.ring.pool().free(), 4);
}

#[test]
fn a_kept_chunk_keeps_its_buffer_out_and_a_spare_takes_its_place() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.recv(descriptor, token(1));
    let mut kept = Vec::new();
    for value in 0..4u8 {
        peer.write_all(&[value; 100]).unwrap();
        kept.push(bench.received());
    }
    bench.ring.turn(Wait::No).unwrap();
    assert_eq!((bench.ring.provided.len(), bench.ring.pool().free()), (4, 0));
    assert!(bench.ring.pool().is_scarce());
    for (value, chunk) in kept.iter().enumerate() {
        assert_eq!(&chunk[..], [value as u8; 100]);
    }
}

/// All buffers are kept: receiving stops without a spin and goes on, without a lost byte, when one comes back
/// from another thread while the ring sleeps.
#[test]
fn without_buffers_receiving_waits_for_one_that_comes_back() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.recv(descriptor, token(1));
    let bytes: Vec<u8> = (0..20 * 4096u32).map(|i| (i % 251) as u8).collect();
    peer.write_all(&bytes).unwrap();
    let mut kept = Vec::new();
    while kept.len() < 8 {
        kept.extend(bench.turn().into_iter().map(|completion| match completion {
            Completion::Received { chunk, .. } => chunk,
            other => panic!("{other:?}"),
        }));
    }
    for _ in 0..3 {
        bench.ring.turn(Wait::No).unwrap();
        assert!(bench.ring.completion().is_none());
    }
    assert_eq!(bench.ring.starved.len(), 1);
    let before = bench.ring.syscalls();
    bench.ring.turn(Wait::SpinUntil(Instant::now() + Duration::from_millis(20))).unwrap();
    assert!(bench.ring.syscalls() - before <= 1, "it spins");

    let mut read = Vec::new();
    loop {
        for chunk in kept.drain(..) {
            read.extend_from_slice(&chunk);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(5));
                drop(chunk);
            });
        }
        if read.len() == bytes.len() {
            break;
        }
        bench.ring.turn(Wait::UntilCompletion).unwrap();
        kept.extend(std::iter::from_fn(|| bench.ring.completion()).map(|completion| match completion {
            Completion::Received { chunk, .. } => chunk,
            other => panic!("{other:?}"),
        }));
    }
    assert!(read == bytes);
}

/// More operations than the submission queue holds, and more completions than the completion queue does:
/// nothing is lost, and no send is thought to have succeeded before its failure was seen.
#[test]
fn full_queues_lose_nothing() {
    let mut bench = Bench::new(PoolConfig::default(), true);
    let mut pairs: Vec<_> = (0..50).map(|_| bench.connect()).collect();
    let gone = pairs.split_off(25);
    let gone: Vec<_> = gone.into_iter().map(|(descriptor, _)| descriptor).collect();
    for _ in 0..6000 {
        // Each completes, with ENOENT.
        bench.ring.cancel(Tag { kind: Kind::Recv, generation: 9, index: 9 });
    }
    assert!(bench.ring.queue.is_overflowed());
    let all = pairs.iter().map(|(descriptor, _)| *descriptor).chain(gone);
    for (index, descriptor) in all.enumerate() {
        bench.ring.send(descriptor, token(index as u32), output(b"x"));
    }
    let mut results = [None; 50];
    while results.contains(&None) {
        for completion in bench.turn() {
            let Completion::Sent { token, result, .. } = completion else { panic!("{completion:?}") };
            assert_eq!(results[token.slot as usize].replace(result.is_ok()), None);
        }
    }
    assert!(results.iter().enumerate().all(|(index, sent)| *sent == Some(index < 25)));
    for (_, mut peer) in pairs {
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 1);
    }
}

#[test]
fn without_work_a_turn_makes_no_system_call() {
    let mut bench = Bench::new(SMALL, true);
    bench.ring.turn(Wait::No).unwrap();
    let before = bench.ring.syscalls();
    for _ in 0..10 {
        bench.ring.turn(Wait::No).unwrap();
        assert!(bench.ring.completion().is_none());
    }
    assert_eq!(bench.ring.syscalls(), before);
}

#[test]
fn an_alarm_takes_one_timeout_however_often_it_is_set() {
    let mut bench = Bench::new(SMALL, true);
    let start = Instant::now();
    for milliseconds in [5000, 4000, 60, 3000, 30] {
        bench.ring.alarm(Some(start + Duration::from_millis(milliseconds)));
        bench.ring.turn(Wait::No).unwrap();
    }
    assert_eq!(bench.ring.in_flight, 3, "accept, waker and one timeout");
    assert!(matches!(bench.one(), Completion::Alarm));
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(30) && elapsed < Duration::from_secs(2), "{elapsed:?}");

    // A timeout that fires before the alarm is armed anew and not reported.
    bench.ring.alarm(Some(Instant::now() + Duration::from_millis(20)));
    bench.ring.turn(Wait::No).unwrap();
    let later = Instant::now() + Duration::from_millis(60);
    bench.ring.alarm(Some(later));
    assert!(matches!(bench.one(), Completion::Alarm));
    assert!(Instant::now() >= later);

    bench.ring.alarm(Some(Instant::now() + Duration::from_millis(10)));
    bench.ring.turn(Wait::No).unwrap();
    bench.ring.alarm(None);
    thread::sleep(Duration::from_millis(20));
    bench.ring.turn(Wait::No).unwrap();
    assert!(bench.ring.completion().is_none());
}

#[test]
fn wakes_are_coalesced_and_end_a_sleep() {
    let mut bench = Bench::new(SMALL, true);
    bench.ring.turn(Wait::No).unwrap();
    let waker = bench.ring.waker();
    (0..5).for_each(|_| waker.wake());
    assert!(matches!(bench.one(), Completion::Woken));
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    bench.ring.turn(Wait::UntilCompletion).unwrap();
    assert!(matches!(bench.ring.completion(), Some(Completion::Woken)));
    assert!(bench.ring.completion().is_none());
    thread.join().unwrap();
}

#[test]
fn the_notify_descriptor_signals_only_while_it_is_on() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.recv(descriptor, token(1));
    bench.ring.turn(Wait::No).unwrap();
    let is_readable = |ring: &Uring| {
        let fd = ring.notify_fd();
        let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        rustix::event::poll(&mut poll, Some(&timeout)).unwrap() == 1
    };
    peer.write_all(b"a").unwrap();
    assert!(!is_readable(&bench.ring));
    assert_eq!(&bench.received()[..], b"a");
    bench.ring.notify(true);
    bench.ring.turn(Wait::No).unwrap();
    peer.write_all(b"b").unwrap();
    assert!(is_readable(&bench.ring));
    assert_eq!(&bench.received()[..], b"b");
}

#[test]
fn sockets_go_to_another_ring_by_both_kinds_of_descriptor() {
    let mut bench = Bench::new(SMALL, true);
    let (address, handle) = {
        let (sender, receiver) = std::sync::mpsc::channel();
        let handle = thread::spawn(move || {
            let mut ring = Uring::new(&SMALL, 16).unwrap();
            sender.send(ring.address()).unwrap();
            let mut kinds = Vec::new();
            while kinds.len() < 2 {
                ring.turn(Wait::UntilCompletion).unwrap();
                while let Some(completion) = ring.completion() {
                    match completion {
                        Completion::Accepted { listener: LISTENER, descriptor } => {
                            kinds.push(descriptor.is_direct());
                            ring.send(descriptor, token(1), output(b"from there"));
                        }
                        Completion::Sent { result: Ok(()), .. } => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            ring.turn(Wait::No).unwrap();
            kinds
        });
        (receiver.recv().unwrap(), handle)
    };
    let (descriptor, mut unix) = bench.connect();
    bench.ring.hand_over(descriptor, LISTENER, &address);
    bench.ring.turn(Wait::No).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    bench.ring.listen(ListenerId(1), listener.into(), true, false).unwrap();
    let Completion::Accepted { descriptor, .. } = bench.one() else { panic!() };
    assert!(bench.ring.descriptor_fd(descriptor).is_some());
    bench.ring.hand_over(descriptor, LISTENER, &address);
    bench.ring.turn(Wait::No).unwrap();

    let mut kinds = handle.join().unwrap();
    kinds.sort();
    assert_eq!(kinds, [false, true]);
    for peer in [&mut unix as &mut dyn Read, &mut tcp] {
        let mut bytes = String::new();
        // The end of the stream comes because neither ring holds the socket any more.
        for _ in 0..2 {
            bench.ring.turn(Wait::No).unwrap();
            assert!(bench.ring.completion().is_none());
        }
        peer.read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "from there");
    }
    assert_eq!(bench.ring.sockets.direct_open(), 0);
}

#[test]
fn a_kept_connection_is_sent_to_by_its_slot() {
    // A number that the other tests do not come to.
    const NUMBER: u32 = 900;
    let mut bench = Bench::of(Uring::new(&SMALL, 0).unwrap());
    // The same descriptor, and with it the same slot, for one connection after the other.
    for round in 0..3 {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let duplicate = rustix::io::fcntl_dupfd_cloexec(&ours, NUMBER as i32).unwrap();
        drop(ours);
        let descriptor = bench.ring.adopt(LISTENER, duplicate).unwrap();
        assert_eq!(descriptor.number(), NUMBER);
        bench.ring.recv(descriptor, token(round));
        for question in [&b"one"[..], b"another", b"a third"] {
            peer.write_all(question).unwrap();
            assert_eq!(bench.received()[..], *question);
            bench.ring.send(descriptor, token(round), output(question));
            assert!(matches!(bench.one(), Completion::Sent { result: Ok(()), .. }));
            let mut answer = vec![0; question.len()];
            peer.read_exact(&mut answer).unwrap();
            assert_eq!(answer, question);
        }
        let is_new = bench.ring.queue.closes_slots_at_once();
        let expected = if is_new { Installed::Yes } else { Installed::No };
        assert_eq!(bench.ring.sockets.get(descriptor).unwrap().installed, expected);
        bench.ring.close(descriptor, token(round));
        assert!(matches!(bench.one(), Completion::Closed { .. }));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "nothing holds the socket any more");
    }
}

/// What cannot be installed is sent to by its descriptor.
#[test]
fn a_descriptor_beyond_the_table_has_no_slot() {
    let mut bench = Bench::of(Uring::new(&SMALL, 0).unwrap());
    bench.ring.installable = bench.ring.installable.min(1);
    let (descriptor, mut peer) = bench.connect();
    bench.ring.recv(descriptor, token(1));
    for question in [b"a", b"b"] {
        peer.write_all(question).unwrap();
        assert_eq!(bench.received()[..], *question);
        bench.ring.send(descriptor, token(1), output(question));
        assert!(matches!(bench.one(), Completion::Sent { result: Ok(()), .. }));
        peer.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(bench.ring.sockets.get(descriptor).unwrap().installed, Installed::No);
}

#[test]
fn a_socket_that_the_other_ring_cannot_take_comes_back() {
    let mut bench = Bench::new(SMALL, true);
    let (descriptor, _peer) = bench.connect();
    let gone = thread::spawn(|| Uring::new(&SMALL, 16).unwrap().address()).join().unwrap();
    bench.ring.hand_over(descriptor, LISTENER, &gone);
    assert!(
        matches!(bench.one(), Completion::Accepted { listener: LISTENER, descriptor: d } if d == descriptor)
    );
}

#[test]
fn a_full_table_stops_accepting_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let mut ring = Uring::new(&SMALL, 2).unwrap();
    ring.listen(LISTENER, UnixListener::bind(&path).unwrap().into(), false, false).unwrap();
    let mut bench = Bench { ring, path, _directory: directory };
    let (first, _peer) = bench.connect();
    let (_second, _peer) = bench.connect();
    // Accepted and dropped by the kernel: that is how it finds the table full. The one after it waits.
    let _refused = UnixStream::connect(&bench.path).unwrap();
    let failed = bench.one();
    let is_full = |completion: &Completion| match completion {
        Completion::AcceptFailed { failure, .. } => failure.errno == libc::ENFILE,
        _ => false,
    };
    assert!(is_full(&failed), "{failed:?}");
    let mut waiting = UnixStream::connect(&bench.path).unwrap();
    bench.ring.accept(LISTENER);
    assert!(is_full(&bench.one()));
    bench.ring.close(first, token(1));
    assert!(matches!(bench.one(), Completion::Closed { .. }));
    bench.ring.accept(LISTENER);
    let Completion::Accepted { descriptor, .. } = bench.one() else { panic!() };
    bench.ring.send(descriptor, token(1), output(b"x"));
    bench.one();
    assert_eq!(waiting.read(&mut [0]).unwrap(), 1);
}

#[test]
fn dropping_a_busy_ring_closes_its_sockets_and_gives_all_buffers_back() {
    let mut bench = Bench::new(SMALL, true);
    let mut peers = Vec::new();
    for _ in 0..5 {
        let (descriptor, peer) = bench.connect();
        bench.ring.recv(descriptor, token(1));
        bench.ring.send(descriptor, token(1), output(&vec![0; 4 << 20]));
        peers.push(peer);
    }
    bench.ring.alarm(Some(Instant::now() + Duration::from_secs(100)));
    bench.ring.turn(Wait::No).unwrap();
    (&peers[0]).write_all(b"unread").unwrap();
    let (pool, address) = (bench.ring.pool().clone(), bench.ring.address());
    let start = Instant::now();
    drop(bench);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(pool.free(), pool.buffers());
    // Although somebody still has the ring's address.
    for mut peer in peers {
        peer.read_to_end(&mut Vec::new())
            .map_or_else(|error| assert_eq!(error.raw_os_error(), Some(104)), drop);
    }
    drop(address);
}

#[test]
fn a_descriptor_that_does_not_listen_is_refused() {
    let mut bench = Bench::new(SMALL, true);
    let (socket, _) = UnixStream::pair().unwrap();
    let refused = bench.ring.listen(LISTENER, socket.into(), false, false).unwrap_err();
    assert_eq!(refused.errno, libc::EINVAL);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(file.as_raw_fd() > 0);
    assert!(bench.ring.listen(LISTENER, file.into(), false, false).is_err());
}

#[test]
fn processes_that_accept_in_turns_get_their_parts_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
    // Two rings on one thread, as two processes have them.
    let mut rings: Vec<Uring> = (0..2)
        .map(|_| {
            let mut ring = Uring::new(&SMALL, 64).unwrap();
            ring.listen(LISTENER, socket.try_clone().unwrap(), false, true).unwrap();
            ring.turn(Wait::No).unwrap();
            ring
        })
        .collect();
    let accepted = |ring: &mut Uring| {
        ring.turn(Wait::No).unwrap();
        let completions = std::iter::from_fn(|| ring.completion());
        completions.filter(|completion| matches!(completion, Completion::Accepted { .. })).count()
    };
    let mut counts = [0, 0];
    let mut peers = Vec::new();
    for _ in 0..20 {
        peers.push(UnixStream::connect(&path).unwrap());
        for _ in 0..2 {
            for (count, ring) in counts.iter_mut().zip(&mut rings) {
                *count += accepted(ring);
            }
        }
    }
    assert_eq!(counts, [10, 10]);
    // The one that ends takes what is in the queue, and disturbs the other in nothing.
    rings[0].accept_stop(LISTENER);
    rings[1].accept_stop(LISTENER);
    rings.iter_mut().for_each(|ring| assert_eq!(accepted(ring), 0));
    peers.extend((0..5).map(|_| UnixStream::connect(&path).unwrap()));
    rings[0].unlisten(LISTENER);
    assert_eq!((0..10).map(|_| accepted(&mut rings[0])).sum::<usize>(), 5);
    rings[1].accept(LISTENER);
    peers.push(UnixStream::connect(&path).unwrap());
    assert_eq!((0..3).map(|_| accepted(&mut rings[1])).sum::<usize>(), 1);
}
