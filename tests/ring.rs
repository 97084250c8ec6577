//! What every driver must do, as one suite that runs on each of them: over Unix sockets, over TCP, and on the
//! simulated network. `RINGWAY_REQUIRE=ring` makes a host that denies io_uring a failure.

#![expect(unreachable_pub, reason = "a test has no outside")]

mod support {
    pub mod world;
}

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringway::ring::{
    Chunk, Completion, Epoll, Fate, Operation, Output, PoolConfig, Ring, Token, Uring, Wait,
};

use support::world::{
    Crank, DirectUnix, Heard, Kernel, LISTENER, PATIENCE, Peer, Simulated, Tcp, Unix, World, output, pattern,
    send_all,
};

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(uring_unix: Kernel<Uring, Unix>; $($name),*);
        suite!(uring_direct: Kernel<Uring, DirectUnix>; $($name),*);
        suite!(uring_tcp: Kernel<Uring, Tcp>; $($name),*);
        suite!(epoll_unix: Kernel<Epoll, Unix>; $($name),*);
        suite!(epoll_tcp: Kernel<Epoll, Tcp>; $($name),*);
        suite!(sim: Simulated<false>; $($name),*);
        suite!(sim_rough: Simulated<true>; $($name),*);
    };
    ($module:ident: $world:ty; $($name:ident),*) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $name() {
                    if let Some(world) = <$world>::open() {
                        super::$name(world);
                    }
                }
            )*
        }
    };
}

suite! {
    bytes_are_echoed,
    many_connections_are_echoed,
    a_slow_reader_gets_a_big_output_in_order,
    vectored_output_comes_out_in_order,
    an_empty_output_is_sent_at_once,
    receiving_stops_and_starts_again_without_loss,
    receiving_stops_before_anything_came,
    a_half_closed_peer_still_gets_its_answer,
    shutdown_ends_the_stream,
    a_reset_is_told,
    closing_gives_the_output_back,
    closing_tells_the_peer,
    the_last_output_takes_the_socket_with_it,
    a_last_output_that_does_not_fit_is_sent_all_the_same,
    earlier_lives_are_silent,
    sockets_are_handed_over_between_threads,
    a_socket_that_nobody_takes_comes_back,
    a_socket_that_is_let_go_goes_on_with_its_duplicate,
    a_waker_ends_the_sleep,
    a_waker_used_before_the_turn_is_seen,
    the_alarm_rings_once_and_not_before_its_time,
    the_alarm_can_be_moved_and_cleared,
    the_notify_descriptor_tells_of_everything,
    held_chunks_stall_receiving_without_loss_or_spin,
    chunks_dropped_by_another_thread_are_seen,
    accepting_stops_and_starts_again,
    a_crowd_is_accepted_and_may_be_stopped_in_the_middle,
    nobody_connects_after_unlisten,
    who_waits_when_the_listener_closes_is_accepted,
    exhausted_descriptors_stop_accepting_without_a_spin,
    a_ring_is_dropped_with_everything_in_flight,
}

fn bytes_are_echoed<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    for round in 0..20 {
        let question = pattern(1 + round * 700, round as u8);
        send_all(&mut crank, &mut *peer, &question);
        assert_eq!(crank.receive(token, question.len()), question);
        crank.ring.send(descriptor, token, output(&question));
        assert_eq!(crank.heard(&mut *peer, question.len()).0, question);
        crank.sent(token).unwrap();
    }
    assert!(crank.ring.syscalls() > 0);
}

fn many_connections_are_echoed<W: World>(world: W) {
    allow_many_descriptors();
    let mut crank = Crank::listening(&world);
    let mut open: Vec<_> = (0..1000).map(|_| crank.connect_and_recv()).collect();
    for (place, (_, _, peer)) in open.iter_mut().enumerate() {
        assert_eq!(peer.send(&pattern(300, place as u8)), 300);
    }
    let mut received = vec![Vec::new(); open.len()];
    while received.iter().any(|bytes| bytes.len() < 300) {
        match crank.next() {
            Completion::Received { token, chunk } => {
                received[token.generation as usize - 1].extend_from_slice(&chunk)
            }
            other => panic!("{other:?}"),
        }
    }
    for (bytes, (descriptor, token, _)) in received.iter().zip(&open) {
        crank.ring.send(*descriptor, *token, output(bytes));
    }
    let mut sent = 0;
    while sent < open.len() {
        match crank.next() {
            Completion::Sent { result: Ok(()), .. } => sent += 1,
            other => panic!("{other:?}"),
        }
    }
    for (place, (_, _, peer)) in open.iter_mut().enumerate() {
        assert_eq!(crank.heard(&mut **peer, 300).0, pattern(300, place as u8));
    }
}

/// The default soft limit of 1,024 descriptors is less than a thousand connections need at both ends.
fn allow_many_descriptors() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

fn a_slow_reader_gets_a_big_output_in_order<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    let (head, body) = (pattern(100_000, 1), pattern(8 << 20, 2));
    let mut big = output(&head);
    big.push_shared(Bytes::from(body.clone()));
    big.block_mut().extend_from_slice(b"the end");
    crank.ring.send(descriptor, token, big);
    crank.settle();
    assert!(crank.seen.is_empty(), "that much does not fit into any socket");
    // The other direction is not held up by that.
    assert_eq!(peer.send(b"hello"), 5);
    assert_eq!(crank.receive(token, 5), b"hello");
    let whole = [&head[..], &body, b"the end"].concat();
    let (heard, _) = crank.heard(&mut *peer, whole.len());
    assert!(heard == whole);
    assert_eq!(crank.sent(token).unwrap().len(), 0);
}

fn vectored_output_comes_out_in_order<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    let (mut pieces, mut whole) = (Output::default(), Vec::new());
    for piece in 0..(3 * Output::SLICES_MAX) {
        let (own, shared) = (pattern(piece % 50, 3), pattern(1 + piece * 7, piece as u8));
        pieces.block_mut().extend_from_slice(&own);
        pieces.push_shared(Bytes::from(shared.clone()));
        whole.extend_from_slice(&own);
        whole.extend_from_slice(&shared);
    }
    crank.ring.send(descriptor, token, pieces);
    assert!(crank.heard(&mut *peer, whole.len()).0 == whole);
    let mut reused = crank.sent(token).unwrap();
    reused.clear(1 << 20);
    reused.block_mut().extend_from_slice(b"again");
    crank.ring.send(descriptor, token, reused);
    assert_eq!(crank.heard(&mut *peer, 5).0, b"again");
    crank.sent(token).unwrap();
}

fn an_empty_output_is_sent_at_once<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, _peer) = crank.connect_and_recv();
    crank.ring.send(descriptor, token, Output::default());
    crank.sent(token).unwrap();
}

fn receiving_stops_and_starts_again_without_loss<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    let whole = pattern(100_000, 5);
    let mut received = Vec::new();
    let mut given = 0;
    for stop in 0..10 {
        given += peer.send(&whole[given..(stop + 1) * 10_000]);
        crank.turn(Wait::No);
        crank.ring.recv_stop(descriptor);
        loop {
            match crank.next() {
                Completion::Received { chunk, .. } => received.extend_from_slice(&chunk),
                Completion::RecvStopped { token: its } => break assert_eq!(its, token),
                other => panic!("{other:?}"),
            }
        }
        given += peer.send(&whole[given..(stop + 1) * 10_000]);
        crank.settle();
        assert!(crank.seen.is_empty(), "stopped is stopped");
        crank.ring.recv(descriptor, token);
        let missing = given - received.len();
        received.extend(crank.receive(token, missing));
    }
    assert!(received == whole);
}

fn receiving_stops_before_anything_came<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    crank.ring.recv_stop(descriptor);
    assert!(matches!(crank.next(), Completion::RecvStopped { token: its } if its == token));
    crank.settle();
    crank.ring.recv(descriptor, token);
    assert_eq!(peer.send(b"late"), 4);
    assert_eq!(crank.receive(token, 4), b"late");
    crank.ring.recv_stop(descriptor);
    assert!(matches!(crank.next(), Completion::RecvStopped { .. }));
    // A peer that goes away while nobody listens to it must not wake anybody, least of all again and again.
    drop(peer);
    crank.settle();
    let turns = turns_until_alarm(&mut crank, Duration::from_millis(60));
    assert!(turns < 10, "{turns} turns");
    crank.ring.recv(descriptor, token);
    assert!(matches!(crank.next(), Completion::End { .. }));
}

/// Sleeps until an alarm in `after`; how many turns that took. Anything else that completes is a failure.
fn turns_until_alarm<W: World>(crank: &mut Crank<W>, after: Duration) -> usize {
    let world = crank.world.clone();
    crank.ring.alarm(Some(crank.ring.now() + after));
    let passing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1));
        world.pass(after);
    });
    for turn in 1.. {
        crank.turn(Wait::UntilCompletion);
        match crank.seen.pop_front() {
            None => {}
            Some(Completion::Alarm) => {
                passing.join().unwrap();
                return turn;
            }
            Some(other) => panic!("{other:?} while nothing should happen"),
        }
    }
    unreachable!("turns are endless")
}

fn a_half_closed_peer_still_gets_its_answer<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    assert_eq!(peer.send(b"question"), 8);
    peer.shutdown();
    assert_eq!(crank.receive(token, 8), b"question");
    assert!(matches!(crank.next(), Completion::End { token: its } if its == token));
    let turns = turns_until_alarm(&mut crank, Duration::from_millis(60));
    assert!(turns < 10, "{turns} turns after the end");
    let answer = pattern(3 << 20, 1);
    crank.ring.send(descriptor, token, output(&answer));
    assert!(crank.heard(&mut *peer, answer.len()).0 == answer);
    crank.sent(token).unwrap();
}

fn shutdown_ends_the_stream<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    crank.ring.send(descriptor, token, output(b"last words"));
    crank.sent(token).unwrap();
    crank.ring.shutdown(descriptor);
    assert_eq!(crank.heard(&mut *peer, usize::MAX), (b"last words".to_vec(), Heard::End));
    assert_eq!(peer.send(b"still talking"), 13);
    assert_eq!(crank.receive(token, 13), b"still talking");
}

fn a_reset_is_told<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, peer) = crank.connect_and_recv();
    crank.ring.send(descriptor, token, output(b"unread"));
    crank.sent(token).unwrap();
    peer.reset();
    match crank.next() {
        Completion::RecvFailed { token: its, failure } => {
            assert_eq!((its, failure.errno), (token, libc::ECONNRESET));
            assert_eq!(failure.fate(), Fate::PeerGone);
        }
        other => panic!("{other:?}"),
    }
    crank.ring.send(descriptor, token, output(b"in vain"));
    let failure = crank.sent(token).unwrap_err();
    assert_eq!((failure.operation, failure.fate()), (Operation::Send, Fate::PeerGone));
    crank.ring.close(descriptor, token);
    assert!(matches!(crank.next(), Completion::Closed { token: its } if its == token));
}

fn closing_gives_the_output_back<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    let big = pattern(8 << 20, 9);
    crank.ring.send(descriptor, token, output(&big));
    crank.settle();
    assert_eq!(peer.send(b"unheard"), 7);
    crank.ring.close(descriptor, token);
    assert!(crank.sent(token).is_err());
    assert!(matches!(crank.next(), Completion::Closed { token: its } if its == token));
    let (heard, how) = crank.heard(&mut *peer, usize::MAX);
    assert!(big.starts_with(&heard) && heard.len() < big.len());
    assert!(matches!(how, Heard::End | Heard::Reset));
    crank.settle();
    assert!(crank.seen.is_empty());
}

fn closing_tells_the_peer<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    // With and without an operation in progress.
    let (idle, mut idle_peer) = crank.connect();
    let (receiving, token, mut receiving_peer) = crank.connect_and_recv();
    for (descriptor, token, peer) in
        [(idle, Token { slot: 0, generation: 0 }, &mut idle_peer), (receiving, token, &mut receiving_peer)]
    {
        crank.ring.close(descriptor, token);
        assert!(matches!(crank.next(), Completion::Closed { token: its } if its == token));
        assert_eq!(crank.heard(&mut **peer, usize::MAX), (Vec::new(), Heard::End));
    }
}

fn the_last_output_takes_the_socket_with_it<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    world.listen(&mut crank.ring, true);
    for round in 0..50 {
        let (descriptor, token, mut peer) = crank.connect_and_recv();
        assert_eq!(peer.send(b"hello"), 5);
        assert_eq!(crank.receive(token, 5), b"hello");
        crank.ring.recv_stop(descriptor);
        assert!(matches!(crank.next(), Completion::RecvStopped { .. }));
        let mut last = output(b"and goodbye");
        if !crank.ring.send_last(descriptor, &mut last) {
            assert_eq!((crank.ring.driver(), last.len()), ("sim", 11), "round {round}");
            return;
        }
        assert!(last.is_empty());
        assert_eq!(crank.heard(&mut *peer, usize::MAX), (b"and goodbye".to_vec(), Heard::End));
        assert!(crank.seen.is_empty(), "nothing more is reported of it: {:?}", crank.seen);
    }
}

fn a_last_output_that_does_not_fit_is_sent_all_the_same<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    world.listen(&mut crank.ring, true);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    let whole = pattern(8 << 20, 3);
    let mut last = output(&whole);
    assert!(!crank.ring.send_last(descriptor, &mut last));
    crank.ring.send(descriptor, token, last);
    assert_eq!(crank.heard(&mut *peer, whole.len()).0, whole);
    crank.sent(token).unwrap();
}

fn earlier_lives_are_silent<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    for round in 0..200 {
        let (old, old_token, mut old_peer) = crank.connect_and_recv();
        assert_eq!(old_peer.send(b"old"), 3);
        if round % 2 == 0 {
            crank.turn(Wait::No);
        }
        // What was reported before the close may be on its way to the engine.
        let before = crank.seen.len();
        crank.ring.close(old, old_token);
        for _ in 0..before {
            assert!(matches!(crank.next(), Completion::Received { .. }));
        }
        assert!(matches!(crank.next(), Completion::Closed { token } if token == old_token));
        let (new, token, mut peer) = crank.connect_and_recv();
        assert_eq!(peer.send(b"new"), 3);
        assert_eq!(crank.receive(token, 3), b"new");
        crank.ring.close(new, token);
        assert!(matches!(crank.next(), Completion::Closed { token: its } if its == token));
    }
}

/// Echoes `count` connections to their end, whatever ring they came from.
fn echo_all<W: World>(crank: &mut Crank<W>, count: usize) {
    let mut open = std::collections::HashMap::new();
    let (mut accepted, mut closed) = (0, 0);
    while closed < count {
        match crank.next() {
            Completion::Accepted { listener: LISTENER, descriptor } => {
                let token = Token { slot: accepted, generation: accepted };
                open.insert(token, (descriptor, Vec::new(), Some(Output::default())));
                crank.ring.recv(descriptor, token);
                accepted += 1;
            }
            Completion::Received { token, chunk } => {
                let (descriptor, pending, idle) = open.get_mut(&token).unwrap();
                pending.extend_from_slice(&chunk);
                if let Some(mut output) = idle.take() {
                    output.block_mut().append(pending);
                    crank.ring.send(*descriptor, token, output);
                }
            }
            Completion::Sent { token, mut output, result } => {
                result.unwrap();
                output.clear(4096);
                let (descriptor, pending, idle) = open.get_mut(&token).unwrap();
                if pending.is_empty() {
                    *idle = Some(output);
                } else {
                    output.block_mut().append(pending);
                    crank.ring.send(*descriptor, token, output);
                }
            }
            Completion::End { token } => crank.ring.close(open[&token].0, token),
            Completion::Closed { .. } => closed += 1,
            other => panic!("{other:?}"),
        }
    }
}

fn sockets_are_handed_over_between_threads<W: World>(world: W) {
    const COUNT: usize = 64;
    let mut crank = Crank::listening(&world);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sibling = Crank::new(&world);
            sender.send(sibling.ring.address()).unwrap();
            echo_all(&mut sibling, COUNT);
        });
        let sibling = receiver.recv().unwrap();
        let mut peers = Vec::new();
        for place in 0..COUNT {
            let (descriptor, mut peer) = crank.connect();
            crank.ring.hand_over(descriptor, LISTENER, &sibling);
            crank.turn(Wait::No);
            let message = pattern(100, place as u8);
            assert_eq!(peer.send(&message), message.len());
            peers.push((peer, message));
        }
        for (peer, message) in &mut peers {
            assert_eq!(&crank.heard(&mut **peer, message.len()).0, message);
            peer.shutdown();
        }
        for (peer, _) in &mut peers {
            assert_eq!(crank.heard(&mut **peer, usize::MAX), (Vec::new(), Heard::End));
        }
    });
    assert!(crank.seen.is_empty(), "nothing stayed here");
}

fn a_socket_that_nobody_takes_comes_back<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let address = Crank::new(&world).ring.address();
    let (descriptor, mut peer) = crank.connect();
    crank.ring.hand_over(descriptor, LISTENER, &address);
    match crank.next() {
        Completion::Accepted { listener: LISTENER, descriptor } => {
            let token = crank.token();
            crank.ring.recv(descriptor, token);
            assert_eq!(peer.send(b"hello"), 5);
            assert_eq!(crank.receive(token, 5), b"hello");
        }
        other => panic!("{other:?}"),
    }
}

fn a_socket_that_is_let_go_goes_on_with_its_duplicate<W: World>(world: W) {
    let (mut crank, mut other) = (Crank::new(&world), Crank::new(&world));
    world.listen(&mut crank.ring, true);
    let (descriptor, token, mut peer) = crank.connect_and_recv();
    assert_eq!(peer.send(b"hello"), 5);
    assert_eq!(crank.receive(token, 5), b"hello");
    // Long enough for whatever the driver registers.
    crank.settle();
    crank.ring.recv_stop(descriptor);
    assert!(matches!(crank.next(), Completion::RecvStopped { .. }));
    // A simulated one has no descriptor.
    let Some(socket) = crank.ring.descriptor_fd(descriptor) else { return };
    let socket = socket.try_clone_to_owned().unwrap();
    assert_eq!(peer.send(b"early"), 5);
    crank.ring.let_go(descriptor, token);
    assert!(matches!(crank.next(), Completion::Closed { .. }));
    let (descriptor, token) = (other.ring.adopt(LISTENER, socket).unwrap(), other.token());
    // The first ring sleeps until its alarm, whatever is there to be received.
    crank.ring.alarm(Some(crank.ring.now() + Duration::from_millis(30)));
    let turns = (1..).find(|_| crank.turn(Wait::UntilCompletion) > 0);
    assert!(turns <= Some(3), "{turns:?} turns");
    assert!(matches!(crank.next(), Completion::Alarm));
    assert_eq!(peer.send(b" late"), 5);
    other.ring.recv(descriptor, token);
    assert_eq!(other.receive(token, 10), b"early late");
    drop(crank);
    other.ring.send(descriptor, token, output(b"an answer"));
    assert_eq!(other.heard(&mut *peer, 9).0, b"an answer");
    other.sent(token).unwrap();
}

fn a_waker_ends_the_sleep<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    let waker = crank.ring.waker();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let waker = waker.clone();
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(3));
                waker.wake();
            });
            while crank.turn(Wait::UntilCompletion) == 0 {}
            assert!(matches!(crank.seen.pop_front(), Some(Completion::Woken)));
            assert!(crank.seen.is_empty());
        }
    });
}

fn a_waker_used_before_the_turn_is_seen<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    let waker = crank.ring.waker();
    for _ in 0..100 {
        waker.wake();
        waker.wake();
        while crank.turn(Wait::UntilCompletion) == 0 {}
        assert!(matches!(crank.seen.pop_front(), Some(Completion::Woken)));
        crank.turn(Wait::No);
        crank.seen.clear();
    }
    drop(crank);
    waker.wake(); // of nobody: nothing happens
}

fn the_alarm_rings_once_and_not_before_its_time<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    for after in [40, 0, 5] {
        let begin = crank.ring.now();
        turns_until_alarm(&mut crank, Duration::from_millis(after));
        assert!(crank.ring.now() - begin >= Duration::from_millis(after));
        crank.settle();
        assert!(crank.seen.is_empty(), "it rings once");
    }
}

fn the_alarm_can_be_moved_and_cleared<W: World>(world: W) {
    let mut crank = Crank::new(&world);
    let (world, begin) = (crank.world.clone(), crank.ring.now());
    crank.ring.alarm(Some(begin + Duration::from_millis(20)));
    crank.turn(Wait::No);
    crank.ring.alarm(Some(begin + Duration::from_millis(300)));
    crank.turn(Wait::No);
    world.pass(Duration::from_millis(60));
    crank.settle();
    assert!(crank.seen.is_empty(), "moved away");
    crank.ring.alarm(Some(begin + Duration::from_millis(80)));
    world.pass(Duration::from_millis(40));
    assert!(matches!(crank.next(), Completion::Alarm), "moved near");
    crank.ring.alarm(Some(crank.ring.now() + Duration::from_millis(10)));
    crank.turn(Wait::No);
    crank.ring.alarm(None);
    world.pass(Duration::from_millis(40));
    crank.settle();
    assert!(crank.seen.is_empty(), "cleared");
}

fn the_notify_descriptor_tells_of_everything<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let mut peers: [Option<Box<dyn Peer>>; 3] = Default::default();
    for peer in &mut peers {
        crank.park();
        let peer = peer.insert(world.try_connect().unwrap());
        assert!(crank.is_notified(PATIENCE), "a connection");
        let Completion::Accepted { descriptor, .. } = crank.next() else { panic!("not accepted") };
        crank.ring.notify(false);
        let token = crank.token();
        crank.ring.recv(descriptor, token);

        crank.park();
        assert_eq!(peer.send(b"x"), 1);
        assert!(crank.is_notified(PATIENCE), "a byte");
        assert_eq!(crank.receive(token, 1), b"x");
        crank.ring.notify(false);

        crank.park();
        let waker = crank.ring.waker();
        std::thread::spawn(move || waker.wake()).join().unwrap();
        assert!(crank.is_notified(PATIENCE), "a waker");
        assert!(matches!(crank.next(), Completion::Woken));
        crank.ring.notify(false);

        crank.ring.alarm(Some(crank.ring.now() + Duration::from_millis(30)));
        crank.park();
        world.pass(Duration::from_millis(30));
        assert!(crank.is_notified(PATIENCE), "the alarm");
        assert!(matches!(crank.next(), Completion::Alarm));
        crank.ring.notify(false);
    }
}

const SMALL_POOL: PoolConfig = PoolConfig { buffer_bytes: 1024, ring_buffers: 2, buffers_max: 4 };

/// Connections that have more to say than the pool can hold, and as many chunks of them as it can.
struct Stalled<W: World> {
    crank: Crank<W>,
    peers: Vec<Box<dyn Peer>>,
    messages: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
    held: Vec<Chunk>,
}

impl<W: World> Stalled<W> {
    const PEERS: usize = 3;
    const BYTES: usize = 30_000;

    fn new(world: &W) -> Stalled<W> {
        let mut crank = Crank::listening_with_pool(world, &SMALL_POOL);
        let mut peers: Vec<_> = (0..Self::PEERS).map(|_| crank.connect_and_recv().2).collect();
        let messages: Vec<_> = (0..Self::PEERS).map(|place| pattern(Self::BYTES, place as u8)).collect();
        for (peer, message) in peers.iter_mut().zip(&messages) {
            assert_eq!(peer.send(message), message.len());
        }
        let received = vec![Vec::new(); Self::PEERS];
        Stalled { crank, peers, messages, received, held: Vec::new() }
    }

    /// Takes the completions that there are, holding their chunks.
    fn take(&mut self) {
        self.crank.turn(Wait::No);
        while let Some(completion) = self.crank.seen.pop_front() {
            let Completion::Received { token, chunk } = completion else { panic!("{completion:?}") };
            self.received[token.generation as usize - 1].extend_from_slice(&chunk);
            self.held.push(chunk);
        }
    }

    fn exhaust(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.held.len() < SMALL_POOL.buffers_max.into() && !self.is_complete() {
            assert!(Instant::now() < end, "{:?}", self.crank.ring.pool());
            self.take();
        }
    }

    fn is_complete(&self) -> bool {
        self.received.iter().all(|bytes| bytes.len() == Self::BYTES)
    }
}

fn held_chunks_stall_receiving_without_loss_or_spin<W: World>(world: W) {
    let mut stalled = Stalled::new(&world);
    let end = Instant::now() + PATIENCE;
    while !stalled.is_complete() {
        assert!(Instant::now() < end);
        stalled.exhaust();
        for _ in 0..3 {
            stalled.take();
        }
        assert!(stalled.held.len() <= SMALL_POOL.buffers_max.into());
        if stalled.received[0].len() < 8 * 1024 && !stalled.is_complete() {
            let before = stalled.crank.ring.syscalls();
            let turns = turns_until_alarm(&mut stalled.crank, Duration::from_millis(100));
            let syscalls = stalled.crank.ring.syscalls() - before;
            assert!(
                turns < 200 && syscalls < 600,
                "{turns} turns, {syscalls} system calls while nothing can be"
            );
        }
        stalled.held.clear();
        stalled.take();
    }
    assert!(stalled.received == stalled.messages);
    drop(stalled.held);
    drop(stalled.peers);
    for _ in 0..Stalled::<W>::PEERS {
        assert!(matches!(stalled.crank.next(), Completion::End { .. }));
    }
}

fn chunks_dropped_by_another_thread_are_seen<W: World>(world: W) {
    let mut stalled = Stalled::new(&world);
    stalled.exhaust();
    for _ in 0..3 {
        stalled.take();
    }
    let held = std::mem::take(&mut stalled.held);
    let drop_later = |held: Vec<Chunk>| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(held);
        })
    };
    let dropping = drop_later(held);
    while stalled.crank.turn(Wait::UntilCompletion) == 0 {}
    assert!(matches!(stalled.crank.seen.front(), Some(Completion::Received { .. })));
    dropping.join().unwrap();

    // The same while the host sleeps.
    stalled.take();
    stalled.exhaust();
    stalled.crank.park();
    let dropping = drop_later(std::mem::take(&mut stalled.held));
    assert!(stalled.crank.is_notified(PATIENCE));
    assert!(matches!(stalled.crank.next(), Completion::Received { .. }));
    dropping.join().unwrap();
}

fn accepting_stops_and_starts_again<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    crank.connect();
    crank.ring.accept_stop(LISTENER);
    crank.settle();
    let _peer = world.try_connect().expect("the socket stays open");
    crank.settle();
    assert!(crank.seen.is_empty());
    crank.ring.accept(LISTENER);
    assert!(matches!(crank.next(), Completion::Accepted { .. }));
    crank.connect();
}

/// More than a driver accepts in one turn. What comes after a stop was on its way already.
fn a_crowd_is_accepted_and_may_be_stopped_in_the_middle<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    crank.settle();
    let peers: Vec<_> = (0..150).map(|_| world.try_connect().expect("somebody listens")).collect();
    let is_accepted = |it: &Completion| matches!(it, Completion::Accepted { .. });
    let mut accepted = 0;
    for _ in 0..2 {
        assert!(is_accepted(&crank.next()));
        crank.ring.accept_stop(LISTENER);
        crank.settle();
        assert!(crank.seen.iter().all(is_accepted), "{:?}", crank.seen);
        accepted += 1 + crank.seen.drain(..).count();
        crank.ring.accept(LISTENER);
        // Also a stop that is taken back at once.
        crank.ring.accept_stop(LISTENER);
        crank.ring.accept(LISTENER);
        if accepted == peers.len() {
            break;
        }
    }
    while accepted < peers.len() {
        assert!(is_accepted(&crank.next()));
        accepted += 1;
    }
    crank.settle();
    assert!(crank.seen.is_empty());
    crank.connect();
}

fn nobody_connects_after_unlisten<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let (descriptor, mut peer) = crank.connect();
    crank.ring.unlisten(LISTENER);
    crank.settle();
    assert!(world.try_connect().is_none());
    let token = crank.token();
    crank.ring.recv(descriptor, token);
    assert_eq!(peer.send(b"still here"), 10);
    assert_eq!(crank.receive(token, 10), b"still here");
}

fn who_waits_when_the_listener_closes_is_accepted<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    crank.settle();
    let mut peers: Vec<_> = (0..50).map(|_| world.try_connect().expect("somebody listens")).collect();
    crank.ring.unlisten(LISTENER);
    for peer in &mut peers {
        assert_eq!(peer.send(b"in time"), 7);
    }
    let accepted: Vec<_> = peers.iter().map(|_| crank.next()).collect();
    for completion in accepted {
        let Completion::Accepted { descriptor, .. } = completion else { panic!("{completion:?}") };
        let token = crank.token();
        crank.ring.recv(descriptor, token);
        assert_eq!(crank.receive(token, 7), b"in time");
    }
}

/// In a child process with few descriptors, so that nobody else suffers.
fn exhausted_descriptors_stop_accepting_without_a_spin<W: World>(world: W) {
    let name = std::thread::current().name().expect("tests have names").to_owned();
    if std::env::var_os("RINGWAY_TEST_CHILD").is_none() {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 40; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env("RINGWAY_TEST_CHILD", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
        return;
    }
    let mut crank = Crank::with_pool(&world, &PoolConfig::default());
    world.listen(&mut crank.ring, true);
    let mut peer = world.try_connect().unwrap();
    let exhausted = world.exhaust_descriptors();
    match crank.next() {
        Completion::AcceptFailed { listener: LISTENER, failure } => {
            assert_eq!((failure.errno, failure.fate()), (libc::EMFILE, Fate::Retry));
        }
        other => panic!("{other:?}"),
    }
    let turns = turns_until_alarm_alone(&mut crank, Duration::from_millis(60));
    assert!(turns < 10, "{turns} turns while accepting is stopped");
    drop(exhausted);
    crank.ring.accept(LISTENER);
    let Completion::Accepted { descriptor, .. } = crank.next() else { panic!("not accepted") };
    let token = crank.token();
    crank.ring.recv(descriptor, token);
    assert_eq!(peer.send(b"patience"), 8);
    assert_eq!(crank.receive(token, 8), b"patience");
}

/// As `turns_until_alarm`, without a thread, whose stack would need a descriptor.
fn turns_until_alarm_alone<W: World>(crank: &mut Crank<W>, after: Duration) -> usize {
    crank.ring.alarm(Some(crank.ring.now() + after));
    crank.turn(Wait::No);
    crank.world.pass(after / 2);
    assert!(crank.seen.is_empty());
    crank.world.pass(after / 2);
    for turn in 1.. {
        crank.turn(Wait::UntilCompletion);
        match crank.seen.pop_front() {
            None => {}
            Some(Completion::Alarm) => return turn,
            Some(other) => panic!("{other:?} while nothing should happen"),
        }
    }
    unreachable!("turns are endless")
}

fn a_ring_is_dropped_with_everything_in_flight<W: World>(world: W) {
    let mut crank = Crank::listening(&world);
    let mut peers = Vec::new();
    let mut kept = None;
    let open: Vec<_> = (0..10).map(|_| crank.connect_and_recv()).collect();
    for (place, (descriptor, token, mut peer)) in open.into_iter().enumerate() {
        if place == 0 {
            assert_eq!(peer.send(b"kept"), 4);
            let Completion::Received { chunk, .. } = crank.next() else { panic!("not received") };
            kept = Some(chunk);
        }
        crank.ring.send(descriptor, token, output(&pattern(4 << 20, place as u8)));
        match place {
            1 => crank.ring.close(descriptor, token),
            2 => crank.ring.recv_stop(descriptor),
            _ => {}
        }
        peers.push(peer);
    }
    let waiting = world.try_connect();
    crank.ring.alarm(Some(crank.ring.now() + Duration::from_secs(1000)));
    crank.ring.turn(Wait::No).unwrap();
    let waker = crank.ring.waker();
    drop(crank);
    waker.wake();
    assert_eq!(&kept.unwrap()[..], b"kept", "a chunk outlives its ring");
    for mut peer in peers {
        while let Heard::Bytes(_) | Heard::Nothing = peer.recv() {}
    }
    drop(waiting);
}

/// recv and send for each request, a share of one epoll_wait, and nothing else: no epoll_ctl, no vain recv.
#[test]
fn epoll_costs_two_system_calls_for_a_request() {
    const PEERS: usize = 64;
    const ROUNDS: usize = 20;
    let world = Kernel::<Epoll, Unix>::open().unwrap();
    let mut crank = Crank::listening(&world);
    let mut open: Vec<_> = (0..PEERS).map(|_| crank.connect_and_recv()).collect();
    crank.settle();
    let before = crank.ring.syscalls();
    for _ in 0..ROUNDS {
        for (_, _, peer) in &mut open {
            assert_eq!(peer.send(b"question"), 8);
        }
        let mut done = 0;
        while done < 2 * PEERS {
            if crank.seen.is_empty() {
                crank.turn(Wait::UntilCompletion);
            }
            match crank.next() {
                Completion::Received { token, .. } => {
                    let (descriptor, ..) = open[token.generation as usize - 1];
                    crank.ring.send(descriptor, token, output(b"answer"));
                }
                Completion::Sent { result, .. } => result.unwrap(),
                other => panic!("{other:?}"),
            }
            done += 1;
        }
        for (_, _, peer) in &mut open {
            assert_eq!(peer.recv(), Heard::Bytes(b"answer".to_vec()));
        }
    }
    let requests = (PEERS * ROUNDS) as f64;
    let each = (crank.ring.syscalls() - before) as f64 / requests;
    assert!((2.0..2.1).contains(&each), "{each} system calls for a request");
}
