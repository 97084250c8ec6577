//! Answers on their way out: encoded at once where they are small, a record of each request in turn where they are not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::engine::peer::Peer;
use crate::engine::task::{Work, panic_message};
use crate::handler::{Body, Ending, Exchange, Failure, Head, OutStream, Response, Stdout};
use crate::proto::encoder::{self, OpenRecord};
use crate::proto::{RecordType, RequestId, RequestKey, WellKnown};
use crate::ring::{Output, Ring};

use super::{Requests, must_hold_back};

/// A body up to this size is encoded in place with its head; one record with any sane head.
const INLINE_BODY_BYTES_MAX: usize = 16 * 1024;

/// A piece up to this size is copied beside the others; a larger one is sent from where it is.
const COPY_BYTES_MAX: usize = 2 * 1024;

/// Content of one record of a large answer: a multiple of 8, so it needs no padding.
const RECORD_CONTENT_MAX: usize = 65_528;

impl Requests {
    /// An answer that the engine itself gives.
    pub(super) fn answer_plainly<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        response: Response,
    ) {
        let exchange = peer.connection.get(request).and_then(|slot| slot.exchange.clone());
        if let Some(exchange) = exchange {
            let body = self.answer(ring, peer, request, &exchange, response);
            debug_assert!(body.is_none(), "the engine does not stream");
        }
    }

    /// Sends an answer. Gives back the work of writing its body, where it has one that is streamed.
    pub(super) fn answer<R: Ring>(
        &mut self,
        ring: &R,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Rc<Exchange>,
        response: Response,
    ) -> Option<Work> {
        let (head, body, failure) = response.into_parts();
        if let Some(failure) = failure {
            self.report(ring, peer, exchange, &failure);
        }
        let known = match head.check() {
            Ok(known) => known,
            Err(bad) => {
                let failure = Failure::new(format_args!("the answer was refused: {bad}"));
                return self.answer(ring, peer, request, exchange, Response::failure(failure));
            }
        };
        let is_head = exchange.params.well_known(WellKnown::RequestMethod) == Some(b"HEAD");
        let with_body = head.allows_body() && !is_head;
        let app_status = head.app_status;
        let length = if let Body::Bytes(bytes) = &body { Some(bytes.len()) } else { None };
        match body {
            Body::Bytes(bytes) if self.fits_in_place(peer, exchange, &head, bytes.len()) => {
                let out = peer.output.block_mut();
                let record = OpenRecord::begin(out, RecordType::Stdout, exchange.id());
                head.write(known, out, length);
                if with_body {
                    out.extend_from_slice(&bytes);
                }
                record.finish(out);
                encoder::stream_end(out, RecordType::Stdout, exchange.id());
                self.finish(peer, request, app_status);
                return None;
            }
            body => {
                let mut block = Vec::with_capacity(512);
                head.write(known, &mut block, length);
                exchange.out.borrow_mut().write(OutStream::Stdout, &block);
                match body {
                    Body::Stream(write) if with_body => {
                        let started = catch_unwind(AssertUnwindSafe(|| write(Stdout::new(exchange.clone()))));
                        match started {
                            Ok(write) => return Some(Work::Body { write, app_status }),
                            Err(panic) => {
                                let message = panic_message(panic);
                                self.panicked(ring, peer, request, exchange, &message, true);
                                return None;
                            }
                        }
                    }
                    Body::Bytes(bytes) if with_body => {
                        exchange.out.borrow_mut().write_shared(OutStream::Stdout, bytes);
                    }
                    Body::Bytes(_) | Body::Stream(_) => {}
                }
            }
        }
        self.end(peer, request, exchange, Ending { app_status, complete: true });
        None
    }

    /// Whether an answer can be encoded at once: small, nothing before it in the queue, and the peer reads.
    fn fits_in_place(&self, peer: &Peer, exchange: &Exchange, head: &Head, body_bytes: usize) -> bool {
        body_bytes <= INLINE_BODY_BYTES_MAX
            && head.size_hint() <= RECORD_CONTENT_MAX - INLINE_BODY_BYTES_MAX
            && exchange.out.borrow().is_untouched()
            && !must_hold_back(exchange)
            && peer.unsent() < self.output_high
    }

    /// The handler is done: what it wrote goes out, then the end.
    ///
    /// What it has not read is thrown away, and so is what still arrives: a web server that sends its whole request
    /// before it reads the answer would wait for ever.
    pub(super) fn end(
        &mut self,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Rc<Exchange>,
        ending: Ending,
    ) {
        exchange.out.borrow_mut().finish(ending);
        exchange.stdin.borrow_mut().discard();
        exchange.data.borrow_mut().discard();
        peer.queue(request);
        exchange.touch();
    }

    /// Tells the log and the web server's error log what went wrong.
    pub(super) fn report<R: Ring>(
        &mut self,
        ring: &R,
        peer: &Peer,
        exchange: &Rc<Exchange>,
        failure: &Failure,
    ) {
        if failure.status() >= 500 {
            self.metrics.requests_failed.incr();
            tracing::error!(
                "{}: request {} at {}: {failure}",
                self.name(ring, peer),
                exchange.id(),
                exchange.mount
            );
        } else {
            tracing::info!("{}: request {}: {failure}", self.name(ring, peer), exchange.id());
        }
        let mut line = one_line(&failure.to_string());
        line.push('\n');
        exchange.out.borrow_mut().write(OutStream::Stderr, line.as_bytes());
    }

    /// Moves output from the exchanges to the peer, a record of each request in turn, up to the high-water mark.
    pub(crate) fn gather(&mut self, peer: &mut Peer) {
        let mut held_back = 0;
        while peer.backlog.len() > held_back {
            if peer.unsent() >= self.output_high {
                self.metrics.output_pauses.incr();
                return;
            }
            let request = peer.backlog.pop_front().expect("it is not empty");
            let Some(slot) = peer.connection.get_mut(request) else { continue };
            let Some(exchange) = slot.exchange.clone() else { continue };
            if must_hold_back(&exchange) {
                held_back += 1;
                peer.backlog.push_back(request);
                continue;
            }
            let mut out = exchange.out.borrow_mut();
            if let Some(piece) = out.take(RECORD_CONTENT_MAX) {
                put(&mut peer.output, piece.stream, exchange.id(), piece.bytes);
            }
            if out.ready() > 0 {
                peer.backlog.push_back(request);
                continue;
            }
            slot.in_backlog = false;
            if let Some(ending) = out.ending() {
                let wrote_stderr = out.wrote_stderr();
                drop(out);
                self.finish_gathered(peer, request, &exchange, ending, wrote_stderr);
            }
        }
    }

    fn finish_gathered(
        &mut self,
        peer: &mut Peer,
        request: RequestKey,
        exchange: &Exchange,
        ending: Ending,
        wrote_stderr: bool,
    ) {
        if !ending.complete && peer.connection.active() == 1 {
            // The peer must not take the answer for complete, and only a connection that just ends says so to every
            // web server: END_REQUEST with an app status is read by none of them. nginx takes even that for the end
            // of an answer without a length, on connections that are not kept; what it cannot bear is a management
            // record. Everybody else passes over one that says nothing.
            peer.is_truncated = true;
            encoder::get_values_result(peer.output.block_mut(), []);
            return self.drop_request(peer, request, None);
        }
        let out = peer.output.block_mut();
        if wrote_stderr {
            // FastCGI 3.3: a stream that was used ends with an empty record.
            encoder::stream_end(out, RecordType::Stderr, exchange.id());
        }
        encoder::stream_end(out, RecordType::Stdout, exchange.id());
        self.finish(peer, request, ending.app_status);
    }
}

/// Encodes a piece as one record.
fn put(output: &mut Output, stream: OutStream, id: RequestId, bytes: bytes::Bytes) {
    if bytes.len() <= COPY_BYTES_MAX {
        return encoder::stream(output.block_mut(), stream.record_type(), id, &bytes);
    }
    let length = u16::try_from(bytes.len()).expect("a piece fits a record");
    let padding = encoder::stream_header(output.block_mut(), stream.record_type(), id, length);
    output.push_shared(bytes);
    encoder::padding(output.block_mut(), padding);
}

/// Error texts as one line: whoever reads the web server's log must not be shown lines that nobody wrote.
fn one_line(text: &str) -> String {
    text.trim_end()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_cannot_forge_log_lines() {
        assert_eq!(one_line("a\nb\r\x1b[1m\n"), "a\\nb\\r\\u{1b}[1m");
        assert_eq!(one_line("Grüße"), "Grüße");
    }
}
