//! One run of load against one address: who connects, how often requests start, what is measured.
//!
//! ```text
//!  free ids ─▶ start what is due ─▶ send ─▶ turn the ring ─▶ verify ─▶ record latency ─▶ free ids
//! ```
//!
//! Closed loop: an id asks again as soon as it is answered. Open loop: requests are due at a fixed rate and
//! their latency counts from when they were due, so a server that stalls is charged for every request it kept
//! from starting (no coordinated omission). Ids become free and are used again in one order: 1, 2, 3 …, for a
//! server that answers in order.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;

use crate::address::Address;
use crate::answer::{Answers, Known};
use crate::ring::{Event, Ring};
use crate::{process, request};

/// How requests are spread over connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// This many kept connections, one request at a time on each.
    Kept(u32),
    /// Connections × ids: that many requests at a time on each kept connection.
    Multiplexed(u32, u16),
    /// A new connection for each request, without FCGI_KEEP_CONN, read to its end; this many at a time.
    PerRequest(u32),
}

/// When requests start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as the one before is answered.
    Closed,
    /// This many a second, whatever the server does.
    Open(f64),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the server listens.
    pub address: Address,
    /// Connections and ids.
    pub shape: Shape,
    /// Closed or open loop.
    pub pace: Pace,
    /// Load before anything is measured.
    pub warmup: Duration,
    /// The measured time; the run ends earlier after `requests_max`.
    pub duration: Duration,
    /// The measured requests, at most.
    pub requests_max: u64,
    /// The server's process, if its CPU time is wanted.
    pub server: Option<u32>,
}

/// What one run measured.
pub struct Outcome {
    /// Requests answered in the measured time.
    pub requests: u64,
    /// Requests answered at all, warm-up included.
    pub requests_total: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// The server's CPU time in the measured time.
    pub cpu: Option<Duration>,
    /// Nanoseconds from when a request was due (open loop) or sent (closed) to its last byte, or to the end
    /// of its connection.
    pub latency: Histogram<u64>,
    /// Open loop: requests that were due in the measured time and never started, because nothing was free.
    pub unsent: u64,
    /// The answer, as id 1 gets it.
    pub answer: Vec<u8>,
}

/// Runs the load on this thread. Ends with an error at the first wrong answer, and when nothing moves for
/// five seconds.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let mut generator = Generator::connect(plan)?;
    generator.run()
}

impl Shape {
    /// Connections at a time.
    pub fn connections(self) -> u32 {
        match self {
            Shape::Kept(connections)
            | Shape::Multiplexed(connections, _)
            | Shape::PerRequest(connections) => connections,
        }
    }

    /// Requests at a time on one connection.
    pub fn ids(self) -> u16 {
        match self {
            Shape::Multiplexed(_, ids) => ids,
            Shape::Kept(_) | Shape::PerRequest(_) => 1,
        }
    }

    /// Whether connections outlive a request.
    pub fn keeps(self) -> bool {
        !matches!(self, Shape::PerRequest(_))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Kept(connections) => write!(f, "kept:{connections}"),
            Shape::Multiplexed(connections, ids) => write!(f, "mux:{connections}x{ids}"),
            Shape::PerRequest(connections) => write!(f, "per-request:{connections}"),
        }
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Shape> {
        let (kind, numbers) = text.split_once(':').context("kept:N, mux:NxM or per-request:N")?;
        let shape = match kind {
            "kept" => Shape::Kept(numbers.parse()?),
            "per-request" => Shape::PerRequest(numbers.parse()?),
            "mux" => {
                let (connections, ids) = numbers.split_once('x').context("mux:NxM")?;
                Shape::Multiplexed(connections.parse()?, ids.parse()?)
            }
            _ => bail!("`{kind}`: kept:N, mux:NxM or per-request:N"),
        };
        ensure!((1..=CONNECTIONS_MAX).contains(&shape.connections()), "1 to {CONNECTIONS_MAX} connections");
        ensure!((1..=IDS_MAX).contains(&shape.ids()), "1 to {IDS_MAX} ids");
        Ok(shape)
    }
}

struct Generator<'a> {
    plan: &'a Plan,
    ring: Ring,
    connections: Vec<Connection>,
    known: Known,
    /// `requests[id - 1]`: the bytes of a request.
    requests: Vec<Vec<u8>>,
    /// Connection and id of requests that may start, longest free first.
    free: VecDeque<(u32, u16)>,
    /// Connections that have ids to send.
    unsent: Vec<u32>,
    /// Answered since the last turn.
    finished: Vec<(u32, u16)>,
    /// Connections that ended since the last turn.
    ended: Vec<u32>,
    /// Zero of all times below.
    start: Instant,
    begun: u64,
    answered: u64,
    /// When something was answered last.
    progress_ns: u64,
    window: Option<Window>,
}

struct Connection {
    /// None between two requests that have a connection each.
    socket: Option<OwnedFd>,
    answers: Answers,
    /// `due_ns[id - 1]`
    due_ns: Vec<u64>,
    /// Ids whose requests are to be sent next.
    batch: Vec<u16>,
    /// The memory of a batch; None while the ring sends it.
    message: Option<Vec<u8>>,
    /// The answer is complete, the end of the connection is not here yet.
    is_answered: bool,
}

/// The measured part of the run.
struct Window {
    begin_ns: u64,
    cpu: Duration,
    answered: u64,
    latency: Histogram<u64>,
}

impl<'a> Generator<'a> {
    fn connect(plan: &'a Plan) -> Result<Generator<'a>> {
        let (count, ids) = (plan.shape.connections(), plan.shape.ids());
        let requests: Vec<_> = (1..=ids).map(|id| request::hello(id, plan.shape.keeps())).collect();
        let mut ring = Ring::new(count, requests[..1].to_vec(), plan.shape.keeps())
            .context("set up io_uring for the generator")?;
        let mut connections = Vec::new();
        for index in 0..count {
            let mut connection = Connection::new(ids);
            if plan.shape.keeps() {
                let socket =
                    plan.address.connect().with_context(|| format!("connect to {}", plan.address))?;
                ring.receive(index, socket.as_raw_fd())?;
                connection.socket = Some(socket);
            }
            connections.push(connection);
        }
        Ok(Generator {
            plan,
            ring,
            connections,
            known: Known::default(),
            requests,
            free: (0..count).flat_map(|index| (1..=ids).map(move |id| (index, id))).collect(),
            unsent: Vec::new(),
            finished: Vec::new(),
            ended: Vec::new(),
            start: Instant::now(),
            begun: 0,
            answered: 0,
            progress_ns: 0,
            window: None,
        })
    }

    fn run(&mut self) -> Result<Outcome> {
        let warmup_ns = self.plan.warmup.as_nanos() as u64;
        let end_ns = warmup_ns + self.plan.duration.as_nanos() as u64;
        let mut outcome = None;
        while outcome.is_none() || self.begun > self.answered {
            let now = self.now_ns();
            if outcome.is_none() {
                match &self.window {
                    None if now >= warmup_ns => self.window = Some(self.open_window(now)?),
                    Some(window) => {
                        let enough = self.answered - window.answered >= self.plan.requests_max;
                        if enough || now >= end_ns {
                            outcome = Some(self.close_window(now)?);
                        }
                    }
                    None => {}
                }
            }
            if outcome.is_none() {
                self.start_due(now);
            }
            ensure!(now < self.progress_ns + STALL_NS, self.describe_stall());
            self.send()?;
            let wait = self.plan.pace == Pace::Closed || outcome.is_some();
            self.turn(wait && self.begun > self.answered)?;
            self.settle()?;
        }
        let mut outcome = outcome.expect("the loop ends with one");
        outcome.requests_total = self.answered;
        Ok(outcome)
    }

    /// Marks requests as begun: all that are free, or as many as are due by now.
    fn start_due(&mut self, now: u64) {
        while let Some(&(index, id)) = self.free.front() {
            let due = match self.plan.pace {
                Pace::Closed => now,
                Pace::Open(rate) => due_ns(self.begun, rate),
            };
            if due > now {
                break;
            }
            self.free.pop_front();
            self.begun += 1;
            let connection = &mut self.connections[index as usize];
            connection.answers.expect(id);
            connection.due_ns[usize::from(id) - 1] = due;
            connection.batch.push(id);
            if connection.batch.len() == 1 {
                self.unsent.push(index);
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        for index in std::mem::take(&mut self.unsent) {
            let connection = &mut self.connections[index as usize];
            match (&connection.socket, self.plan.shape) {
                (Some(socket), Shape::Multiplexed(..)) => {
                    // None: a batch is on its way, this one follows when it is sent.
                    let Some(mut message) = connection.message.take() else { continue };
                    for id in connection.batch.drain(..) {
                        message.extend_from_slice(&self.requests[usize::from(id) - 1]);
                    }
                    self.ring.send_lent(index, socket.as_raw_fd(), message)?;
                }
                (Some(socket), _) => {
                    connection.batch.clear();
                    self.ring.send_fixed(index, socket.as_raw_fd(), 0)?;
                }
                (None, _) => {
                    connection.batch.clear();
                    let socket = self.plan.address.connect().context("connect")?;
                    let sent =
                        rustix::net::send(&socket, &self.requests[0], rustix::net::SendFlags::NOSIGNAL)?;
                    ensure!(sent == self.requests[0].len(), "a request did not fit a new connection");
                    self.ring.receive(index, socket.as_raw_fd())?;
                    connection.socket = Some(socket);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, wait: bool) -> Result<()> {
        let Generator { ring, connections, known, finished, ended, unsent, .. } = self;
        let mut fault = None;
        ring.turn(wait, |event| match event {
            Event::Received(index, bytes) => {
                let answers = &mut connections[index as usize].answers;
                if let Err(wrong) = answers.handle_input(bytes, known, |id| finished.push((index, id))) {
                    fault
                        .get_or_insert(anyhow!(wrong).context(format!("wrong answer on connection {index}")));
                }
            }
            Event::Ended(index) => ended.push(index),
            Event::Sent(index, message) => {
                let connection = &mut connections[index as usize];
                connection.message = Some(message);
                if !connection.batch.is_empty() {
                    unsent.push(index);
                }
            }
            Event::Failed(index, error) => {
                fault.get_or_insert(anyhow!(error).context(format!("connection {index} failed")));
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// Books what the last turn brought, all at one time: the moment the turn was over.
    fn settle(&mut self) -> Result<()> {
        if self.finished.is_empty() && self.ended.is_empty() {
            return Ok(());
        }
        let now = self.now_ns();
        self.progress_ns = now;
        for (index, id) in std::mem::take(&mut self.finished) {
            if self.plan.shape.keeps() {
                self.book(index, id, now);
            } else {
                self.connections[index as usize].is_answered = true;
            }
        }
        for index in std::mem::take(&mut self.ended) {
            let connection = &mut self.connections[index as usize];
            connection.answers.handle_end().with_context(|| format!("wrong answer on connection {index}"))?;
            ensure!(std::mem::take(&mut connection.is_answered), "the server closed kept connection {index}");
            connection.socket = None;
            self.book(index, 1, now);
        }
        Ok(())
    }

    fn book(&mut self, index: u32, id: u16, now: u64) {
        self.answered += 1;
        self.free.push_back((index, id));
        if let Some(window) = &mut self.window {
            let latency = now - self.connections[index as usize].due_ns[usize::from(id) - 1];
            window.latency.saturating_record(latency);
        }
    }

    fn open_window(&self, now: u64) -> Result<Window> {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds");
        let cpu = self.server_cpu()?.unwrap_or_default();
        Ok(Window { begin_ns: now, cpu, answered: self.answered, latency })
    }

    fn close_window(&mut self, now: u64) -> Result<Outcome> {
        let cpu = self.server_cpu()?;
        let window = self.window.take().expect("an open window");
        let due = match self.plan.pace {
            Pace::Closed => self.begun,
            Pace::Open(rate) => (now as f64 * rate / 1e9) as u64,
        };
        Ok(Outcome {
            requests: self.answered - window.answered,
            requests_total: self.answered,
            elapsed: Duration::from_nanos(now - window.begin_ns),
            cpu: cpu.map(|cpu| cpu - window.cpu),
            latency: window.latency,
            unsent: due.saturating_sub(self.begun),
            answer: self.known.first().unwrap_or_default().to_vec(),
        })
    }

    fn server_cpu(&self) -> Result<Option<Duration>> {
        self.plan.server.map(process::cpu_time).transpose()
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn describe_stall(&self) -> String {
        format!(
            "nothing was answered for {} s: {} requests begun, {} answered",
            STALL_NS / 1_000_000_000,
            self.begun,
            self.answered
        )
    }
}

impl Connection {
    fn new(ids: u16) -> Connection {
        Connection {
            socket: None,
            answers: Answers::new(ids),
            due_ns: vec![0; usize::from(ids)],
            batch: Vec::new(),
            message: Some(Vec::new()),
            is_answered: false,
        }
    }
}

/// When request `number` (from 0) is due.
fn due_ns(number: u64, rate: f64) -> u64 {
    (number as f64 / rate * 1e9) as u64
}

/// No answer of a server that works takes as long.
const STALL_NS: u64 = 5_000_000_000;
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// What the buffers, and a usual limit of descriptors, allow.
const CONNECTIONS_MAX: u32 = 15_000;
/// A batch of so many requests is sent in one piece.
const IDS_MAX: u16 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_back_as_they_are_written() {
        for text in ["kept:64", "mux:1x64", "per-request:16"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        for wrong in ["kept:0", "mux:1", "mux:1x0", "mux:1x5000", "kept:99999", "open:1", "kept"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_open_loop_never_drifts() {
        assert_eq!(due_ns(0, 3000.0), 0);
        assert_eq!(due_ns(3_000_000, 3000.0), 1_000_000_000_000);
    }
}
