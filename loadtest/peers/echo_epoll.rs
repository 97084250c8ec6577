//! The floor of every comparison: a bare epoll loop that decodes nothing.
//!
//! It counts bytes: each `--request-bytes` on a connection are answered with fixed bytes. What a FastCGI
//! server costs above this program is what FastCGI costs; what this program costs is the kernel's sockets. It
//! is as tight as such a loop gets: one scratch buffer, level-triggered events, no read that finds nothing,
//! one write for all requests of one read, answers sent from where they lie, and in `--close` mode no
//! registration of a connection whose request is already there.
//!
//! With `--ids M` the k-th answer on a connection carries id k modulo M, so it fits a client that uses its
//! ids in order.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use loadtest::address::Address;
use loadtest::wire;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

/// A bare epoll echo: fixed bytes for every so many bytes.
#[derive(Parser)]
struct Args {
    /// unix:/path or IP:PORT of the loopback
    #[arg(long)]
    listen: Address,
    /// Bytes of one request
    #[arg(long)]
    request_bytes: usize,
    /// Requests at a time on one connection: answers carry ids 1 to M in turn
    #[arg(long, default_value_t = 1)]
    ids: u16,
    /// Close each connection after its first answer
    #[arg(long)]
    close: bool,
    /// A file with one answer, whole records of any id [default: what Ringway's `hello` sends]
    #[arg(long)]
    answer: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.request_bytes > 0 && args.ids > 0, "a request has bytes, a connection an id");
    let answer = match &args.answer {
        Some(path) => fs::read(path).with_context(|| format!("read {}", path.display()))?,
        None => wire::hello_answer(1),
    };
    let listener = listen(&args.listen)?;
    Echo::new(args, &answer, listener)?.run()
}

fn listen(address: &Address) -> Result<OwnedFd> {
    let listener = match address {
        Address::Unix(path) => {
            let listener = std::os::unix::net::UnixListener::bind(path);
            OwnedFd::from(listener.with_context(|| format!("listen on {address}"))?)
        }
        Address::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address);
            let listener = OwnedFd::from(listener.with_context(|| format!("listen on {address}"))?);
            rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
            listener
        }
    };
    rustix::net::listen(&listener, 4096)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok(listener)
}

struct Echo {
    args: Args,
    listener: OwnedFd,
    epoll: OwnedFd,
    /// Answers to ids 1 to M, 1 to M again …: any run that one read can ask for, from any id on, is one
    /// slice.
    answers: Vec<u8>,
    answer_bytes: usize,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    scratch: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// Bytes of a request that has begun; `0 <= pending < request_bytes`.
    pending: usize,
    /// The id of the next answer, from 0.
    next: usize,
}

impl Echo {
    fn new(args: Args, answer: &[u8], listener: OwnedFd) -> Result<Echo> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listening = epoll::EventData::new_u64(listener.as_raw_fd() as u64);
        epoll::add(&epoll, &listener, listening, epoll::EventFlags::IN)?;
        let run_max = usize::from(args.ids) + SCRATCH_BYTES / args.request_bytes + 1;
        let mut answers = Vec::new();
        for id in (1..=args.ids).cycle().take(run_max) {
            let start = answers.len();
            answers.extend_from_slice(answer);
            wire::set_id(&mut answers[start..], id);
        }
        let scratch = vec![0; SCRATCH_BYTES];
        Ok(Echo {
            args,
            listener,
            epoll,
            answers,
            answer_bytes: answer.len(),
            connections: Vec::new(),
            scratch,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() as usize {
                    fd if fd == self.listener.as_raw_fd() as usize => self.accept()?,
                    fd => {
                        let mut connection = self.connections[fd].take().expect("registered until closed");
                        if self.serve(&mut connection) {
                            self.connections[fd] = Some(connection);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error).context("accept"),
            };
            let mut connection = Connection { socket, pending: 0, next: 0 };
            if self.args.close && !self.serve(&mut connection) {
                continue;
            }
            let fd = connection.socket.as_raw_fd() as usize;
            epoll::add(
                &self.epoll,
                &connection.socket,
                epoll::EventData::new_u64(fd as u64),
                epoll::EventFlags::IN,
            )?;
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, || None);
            }
            self.connections[fd] = Some(connection);
        }
    }

    /// Reads once and answers what is whole. False when the connection is over.
    fn serve(&mut self, connection: &mut Connection) -> bool {
        let received = match recv(&connection.socket, &mut self.scratch[..], RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((received, _)) => received,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let bytes = connection.pending + received;
        let requests = bytes / self.args.request_bytes;
        connection.pending = bytes % self.args.request_bytes;
        if requests == 0 {
            return true;
        }
        let run = &self.answers[connection.next * self.answer_bytes..][..requests * self.answer_bytes];
        connection.next = (connection.next + requests) % usize::from(self.args.ids);
        // A client that does not read its answers is not this program's business: it is dropped.
        let sent = send(&connection.socket, run, SendFlags::NOSIGNAL);
        sent == Ok(run.len()) && !self.args.close
    }
}

/// Holds 64 requests of nginx's size.
const SCRATCH_BYTES: usize = 64 * 1024;
