//! Memory of idle connections: each serves one request, then all are silent.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::address::Address;
use crate::answer::{Answers, Known};
use crate::contender::{Contender, Programs};
use crate::load::Shape;
use crate::process::Cores;
use crate::server::Server;
use crate::summary::Idle;
use crate::{process, request};

/// Holds `connections` idle connections to `contender`; `None` where it cannot have so many.
pub fn measure(
    programs: &Programs,
    contender: Contender,
    connections: u32,
    cores: Cores,
) -> Result<Option<Idle>> {
    let address = Address::unix_in(programs.directory(), "idle");
    let Some(command) = programs.command(contender, &address, Shape::Kept(connections)) else {
        return Ok(None);
    };
    let log = programs.directory().join("idle.log");
    let server = Server::start(command, address, &log, cores.server, cores.generator)?;

    // What the first requests touch once (code, buffers for as many at a time) is the server's, not a
    // connection's.
    drop(serve_one_each(&server.address, AT_A_TIME)?);
    std::thread::sleep(SETTLE);
    let before = process::memory(server.pid())?;
    let held = serve_one_each(&server.address, connections as usize)?;
    std::thread::sleep(SETTLE);
    let after = process::memory(server.pid())?;
    drop(held);

    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
    Ok(Some(Idle {
        contender,
        connections,
        resident: each(before.resident, after.resident),
        anonymous: each(before.anonymous, after.anonymous),
    }))
}

/// Opens `count` connections; each asks once and is answered, 64 at a time.
fn serve_one_each(address: &Address, count: usize) -> Result<Vec<OwnedFd>> {
    let request = request::hello(1, true);
    let mut known = Known::default();
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let first = held.len();
        for _ in first..count.min(first + AT_A_TIME) {
            let socket = address.connect().context("connect (descriptors? see `ulimit -n`)")?;
            let timeout = Some(ANSWER_MAX);
            rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, timeout)?;
            held.push(socket);
        }
        for socket in &held[first..] {
            let sent = send(socket, &request, SendFlags::NOSIGNAL)?;
            ensure!(sent == request.len(), "a request did not fit a new connection");
        }
        for socket in &held[first..] {
            take_answer(socket, &mut known)?;
        }
    }
    Ok(held)
}

fn take_answer(socket: &OwnedFd, known: &mut Known) -> Result<()> {
    let mut answers = Answers::new(1);
    answers.expect(1);
    let (mut buffer, mut is_finished) = ([0; 4096], false);
    while !is_finished {
        let (received, _) =
            recv(socket, &mut buffer[..], RecvFlags::empty()).context("wait for an answer")?;
        if received == 0 {
            bail!("the server closed a kept connection");
        }
        answers.handle_input(&buffer[..received], known, |_| is_finished = true)?;
    }
    Ok(())
}

const AT_A_TIME: usize = 64;
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// For the server to give back what it keeps for a moment only.
const SETTLE: Duration = Duration::from_millis(500);
