//! The simulation itself: what it promises to tests of others.

use super::*;
use crate::ring::PoolConfig;

const LISTENER: ListenerId = ListenerId(3);

/// Echoes what some peers send, in pieces, until all is echoed or broken. Gives a line for each completion.
fn echo(seed: u64, faults: SimFaults) -> Vec<String> {
    let network = SimNetwork::new(seed);
    network.set_faults(faults);
    let mut ring = network.ring(&PoolConfig::default()).unwrap();
    ring.listen(LISTENER, SimNetwork::socket(), false, false).unwrap();
    let mut peers: Vec<(SimPeer, Vec<u8>)> =
        (0..5).map(|_| (network.connect(LISTENER).unwrap(), Vec::new())).collect();
    let message: Vec<u8> = (0..2000u32).map(|at| (at % 251) as u8).collect();
    for (peer, _) in &peers {
        peer.send(&message);
        peer.shutdown();
    }
    let mut echo = Echo { ring, open: BTreeMap::new(), lines: Vec::new() };
    for _ in 0..100_000 {
        echo.turn();
        for (peer, heard) in &mut peers {
            heard.extend(peer.recv());
        }
        if peers.iter().all(|(peer, _)| peer.status() != SimStatus::Open) && echo.open.is_empty() {
            break;
        }
    }
    for (peer, heard) in &peers {
        match peer.status() {
            SimStatus::Open => panic!("unfinished with seed {seed}: {:?}", echo.lines.last()),
            SimStatus::Ended => assert!(*heard == message, "seed {seed}"),
            SimStatus::Reset => assert!(message.starts_with(heard), "seed {seed}"),
        }
    }
    assert!(echo.open.is_empty(), "seed {seed}");
    drop(echo.ring);
    drop(peers);
    assert!(network.lock().wires.is_empty(), "seed {seed}");
    echo.lines
}

struct Echo {
    ring: Sim,
    /// For each slot: the socket, what is to be sent, the output while it is not being sent, and whether
    /// receiving is over.
    open: BTreeMap<u32, (Descriptor, Vec<u8>, Option<Output>, bool)>,
    lines: Vec<String>,
}

impl Echo {
    fn turn(&mut self) {
        self.ring.turn(Wait::No).unwrap();
        while let Some(completion) = self.ring.completion() {
            self.lines.push(format!("{completion:?}"));
            self.handle(completion);
        }
        for (slot, (descriptor, pending, output, is_over)) in &mut self.open {
            let token = Token { slot: *slot, generation: 0 };
            if pending.is_empty() {
                if *is_over && output.take().is_some() {
                    self.ring.close(*descriptor, token);
                }
            } else if let Some(mut output) = output.take() {
                output.clear(4096);
                output.block_mut().append(pending);
                self.ring.send(*descriptor, token, output);
            }
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { listener, descriptor } => {
                assert_eq!(listener, LISTENER);
                let token = Token { slot: descriptor.0, generation: 0 };
                self.ring.recv(descriptor, token);
                let fresh = (descriptor, Vec::new(), Some(Output::default()), false);
                assert!(self.open.insert(token.slot, fresh).is_none());
            }
            Completion::AcceptFailed { listener, .. } => self.ring.accept(listener),
            Completion::Received { token, chunk } => {
                let (descriptor, pending, ..) = self.open.get_mut(&token.slot).unwrap();
                pending.extend_from_slice(&chunk);
                self.ring.recv_stop(*descriptor);
            }
            Completion::RecvStopped { token } => self.ring.recv(self.open[&token.slot].0, token),
            Completion::End { token } | Completion::RecvFailed { token, .. } => {
                self.open.get_mut(&token.slot).unwrap().3 = true;
            }
            Completion::Sent { token, output, result } => {
                let (_, pending, idle, is_over) = self.open.get_mut(&token.slot).unwrap();
                assert!(idle.replace(output).is_none(), "given back once");
                if result.is_err() {
                    pending.clear();
                    *is_over = true;
                }
            }
            Completion::Closed { token } => assert!(self.open.remove(&token.slot).is_some()),
            Completion::Alarm | Completion::Woken | Completion::HungUp { .. } => {
                panic!("nobody asked for that")
            }
        }
    }
}

#[test]
fn everything_arrives_whatever_is_late() {
    for seed in 0..40 {
        let lines = echo(seed, SimFaults::delays());
        assert!(!lines.iter().any(|line| line.contains("Failed")), "seed {seed}");
    }
}

#[test]
fn everything_ends_whatever_breaks() {
    let lines: Vec<String> = (0..40).flat_map(|seed| echo(seed, SimFaults::errors())).collect();
    for kind in ["AcceptFailed", "RecvFailed", "Broken pipe"] {
        assert!(lines.iter().any(|line| line.contains(kind)), "{kind} never happened");
    }
}

#[test]
fn the_same_seed_gives_the_same_completions() {
    assert_eq!(echo(7, SimFaults::errors()), echo(7, SimFaults::errors()));
    assert_ne!(echo(7, SimFaults::delays()), echo(8, SimFaults::delays()));
}

#[test]
fn bytes_can_be_forced_to_come_one_by_one() {
    let lines = echo(1, SimFaults { recv_bytes_max: Some(1), ..SimFaults::default() });
    assert_eq!(lines.iter().filter(|line| line.starts_with("Received")).count(), 5 * 2000);
}

#[test]
fn connections_are_spread_over_the_rings_that_listen() {
    let network = SimNetwork::new(1);
    assert!(network.connect(LISTENER).is_none());
    let mut rings = [0; 2].map(|_| network.ring(&PoolConfig::default()).unwrap());
    for ring in &mut rings {
        ring.listen(LISTENER, SimNetwork::socket(), false, false).unwrap();
    }
    let _peers: Vec<_> = (0..100).map(|_| network.connect(LISTENER).unwrap()).collect();
    for ring in &mut rings {
        ring.turn(Wait::No).unwrap();
        let accepted = std::iter::from_fn(|| ring.completion()).count();
        assert!((30..70).contains(&accepted), "{accepted}");
    }
}

#[test]
#[should_panic(expected = "one recv at a time")]
fn a_second_recv_breaks_the_contract() {
    let network = SimNetwork::new(1);
    let mut ring = network.ring(&PoolConfig::default()).unwrap();
    ring.listen(LISTENER, SimNetwork::socket(), false, false).unwrap();
    let _peer = network.connect(LISTENER).unwrap();
    ring.turn(Wait::UntilCompletion).unwrap();
    let Some(Completion::Accepted { descriptor, .. }) = ring.completion() else { panic!() };
    let token = Token { slot: 0, generation: 0 };
    ring.recv(descriptor, token);
    ring.recv(descriptor, token);
}
