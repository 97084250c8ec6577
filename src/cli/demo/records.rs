//! The records of one request, kept for the page that shows them.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ringway::client::{Direction, Record, Tap};

use crate::cli::records::Transcript;

/// The most records that are kept of a request; the rest is counted.
const RECORDS_MAX: usize = 100;

/// A record as the page shows it.
pub(super) struct Line {
    /// Milliseconds since the request began.
    pub(super) ms: f64,
    pub(super) sent: bool,
    pub(super) text: String,
    pub(super) fields: Vec<String>,
}

/// What was exchanged for one request.
pub(super) struct Log {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
    /// Records beyond the ones kept; the last of them is always at hand.
    pub(super) left_out: usize,
    pub(super) last: Option<Line>,
    begun: Instant,
    transcript: Transcript,
}

impl Log {
    fn new(title: String) -> Log {
        Log {
            title,
            lines: Vec::new(),
            left_out: 0,
            last: None,
            begun: Instant::now(),
            transcript: Transcript::default(),
        }
    }

    fn push(&mut self, record: &Record<'_>) {
        let line = Line {
            ms: self.begun.elapsed().as_secs_f64() * 1e3,
            sent: record.direction == Direction::Sent,
            text: record.to_string(),
            fields: self.transcript.fields(record),
        };
        if self.lines.len() < RECORDS_MAX {
            self.lines.push(line);
        } else {
            self.left_out += usize::from(self.last.is_some());
            self.last = Some(line);
        }
    }
}

/// The log of whichever request has a connection now.
#[derive(Clone)]
pub(super) struct Recorder(Arc<Mutex<Arc<Mutex<Log>>>>);

impl Recorder {
    pub(super) fn new() -> Recorder {
        Recorder(Arc::new(Mutex::new(Arc::new(Mutex::new(Log::new(String::new()))))))
    }

    /// Begins the log of another request.
    pub(super) fn begin(&self, title: String) -> Arc<Mutex<Log>> {
        let log = Arc::new(Mutex::new(Log::new(title)));
        *self.0.lock().expect("no holder panics") = log.clone();
        log
    }

    pub(super) fn tap(&self) -> Tap {
        let current = self.0.clone();
        Arc::new(move |record| {
            let log = current.lock().expect("no holder panics").clone();
            log.lock().expect("no holder panics").push(record);
        })
    }
}
