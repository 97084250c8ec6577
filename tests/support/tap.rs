//! A relay between a web server and an application that counts what passes: connections, requests, and how many
//! requests one connection carried at a time.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ringway::proto::RecordType;

/// What passed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    /// The most requests that one connection had at a time.
    pub(crate) at_a_time: usize,
    pub(crate) aborts: usize,
    pub(crate) get_values: usize,
    pub(crate) get_values_results: usize,
}

/// The relay. It lasts as long as the test's process.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Tap {
    /// Relays to an application's port.
    pub(crate) fn start(application: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let counts: Arc<Mutex<Counts>> = Arc::default();
        let shared = counts.clone();
        std::thread::spawn(move || {
            for visitor in listener.incoming().map_while(Result::ok) {
                // Where nobody listens the visitor sees his connection end.
                if let Ok(application) = TcpStream::connect(application) {
                    relay(visitor, application, &shared);
                }
            }
        });
        Tap { address, counts }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().expect("no relay panics").clone()
    }
}

/// Copies both ways, each on a thread of its own.
fn relay(visitor: TcpStream, application: TcpStream, counts: &Arc<Mutex<Counts>>) {
    counts.lock().expect("no relay panics").connections += 1;
    let active = Arc::new(Mutex::new(BTreeSet::new()));
    for (from, to) in [(&visitor, &application), (&application, &visitor)] {
        from.set_nodelay(true).expect("a TCP socket");
        let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        let (active, counts) = (active.clone(), counts.clone());
        std::thread::spawn(move || copy(from, to, &active, &counts));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, active: &Mutex<BTreeSet<u16>>, counts: &Mutex<Counts>) {
    let (mut buffer, mut records) = (vec![0; 64 << 10], Records::default());
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        records.pass(&buffer[..length], |record_type, id| count(record_type, id, active, counts));
        if to.write_all(&buffer[..length]).is_err() {
            // Nobody takes it: whoever sends it is to see that.
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

fn count(record_type: RecordType, id: u16, active: &Mutex<BTreeSet<u16>>, counts: &Mutex<Counts>) {
    let (mut active, mut counts) = (active.lock().expect("no panic"), counts.lock().expect("no panic"));
    match record_type {
        RecordType::BeginRequest => {
            active.insert(id);
            counts.requests += 1;
            counts.at_a_time = counts.at_a_time.max(active.len());
        }
        RecordType::EndRequest => {
            active.remove(&id);
        }
        // The web server does not count it any more, whether or not its end has come.
        RecordType::AbortRequest => {
            active.remove(&id);
            counts.aborts += 1;
        }
        RecordType::GetValues => counts.get_values += 1,
        RecordType::GetValuesResult => counts.get_values_results += 1,
        _ => {}
    }
}

/// Finds the headers of records in a stream of bytes.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    /// Content and padding that is still to come.
    skip: usize,
}

impl Records {
    fn pass(&mut self, mut bytes: &[u8], mut record: impl FnMut(RecordType, u16)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let (header, rest) = bytes.split_at(bytes.len().min(8 - self.header.len()));
            self.header.extend_from_slice(header);
            bytes = rest;
            if let &[_, record_type, id_high, id_low, length_high, length_low, padding, _] = &self.header[..]
            {
                let length = u16::from_be_bytes([length_high, length_low]);
                self.skip = usize::from(length) + usize::from(padding);
                self.header.clear();
                record(RecordType::from(record_type), u16::from_be_bytes([id_high, id_low]));
            }
        }
    }
}
