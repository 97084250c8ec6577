//! What a worker and a Python thread say to each other about one request.
//!
//! Either side waits for the other only where it has to: the thread for input that has not come and while too much of
//! its output is unsent; the worker's future for the next [`Output`].

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::{ReadError, Stdin};

/// Input that is handed over before the application asks for it, once it has asked for some.
const INPUT_BYTES_MAX: usize = 128 << 10;
/// Output that the worker has not taken yet, beyond which the application waits.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Status and headers of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) app_status: u32,
}

/// What comes from the Python side. An answer is one `Whole`, or `Head`, any number of `Piece`, `End`.
#[derive(Debug)]
pub(super) enum Output {
    /// Text for the web server's error log, whole lines.
    Stderr(Bytes),
    /// A complete answer; without a body where there must be none.
    Whole(Head, Option<Bytes>),
    Head(Head),
    Piece(Bytes),
    /// The end of the body, or why it breaks off.
    End(Result<(), String>),
    /// The request lay in the queue for too long.
    Busy,
}

impl Output {
    fn length(&self) -> usize {
        match self {
            Output::Stderr(bytes) | Output::Piece(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// The request is over, nobody listens any more.
#[derive(Debug)]
pub(super) struct Gone;

#[derive(Debug, Default)]
pub(super) struct Conversation {
    state: Mutex<State>,
    /// Input came, output went, or the worker left.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    input: VecDeque<Bytes>,
    input_bytes: usize,
    input_end: Option<Result<(), ReadError>>,
    wants_input: bool,
    output: VecDeque<Output>,
    /// Bytes of output that the worker has not written yet.
    unsent: usize,
    /// Of the worker's future.
    waker: Option<Waker>,
    /// Threads that wait for a change: without one there is nobody to wake, which would be a system call.
    waiting: u32,
    is_over: bool,
    /// It is over before the answer was taken whole.
    is_aborted: bool,
    /// The application runs on the worker's thread: it must not wait for the worker.
    is_inline: bool,
}

impl State {
    /// Takes the next piece of the body, or its end.
    fn take_in(&mut self, stdin: &mut Stdin, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(stdin.poll_chunk(usize::MAX, cx)) {
            // Copied: a receive buffer must not wait for the application.
            Ok(Some(chunk)) => {
                self.input_bytes += chunk.len();
                self.input.push_back(Bytes::copy_from_slice(&chunk));
            }
            Ok(None) => self.input_end = Some(Ok(())),
            Err(error) => self.input_end = Some(Err(error)),
        }
        Poll::Ready(())
    }
}

/// The worker's side.
impl Conversation {
    /// The next output; meanwhile input is handed over as it is asked for.
    pub(super) async fn next(&self, stdin: &mut Stdin) -> Output {
        poll_fn(|cx| {
            self.hand_over(stdin, cx);
            match self.lock().output.pop_front() {
                Some(output) => Poll::Ready(output),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for `future`, and hands over input meanwhile.
    pub(super) async fn with_input<F: Future>(&self, stdin: &mut Stdin, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.hand_over(stdin, cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    fn hand_over(&self, stdin: &mut Stdin, cx: &mut Context<'_>) {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        let mut is_changed = false;
        while state.wants_input && state.input_end.is_none() && state.input_bytes < INPUT_BYTES_MAX {
            if state.take_in(stdin, cx).is_pending() {
                break;
            }
            is_changed = true;
        }
        if is_changed {
            self.tell_of_change(state);
        }
    }

    /// Hands the body over before it is asked for, up to a little more than `bytes_max`. Whether that is all of it.
    pub(super) async fn hand_over_all(&self, stdin: &mut Stdin, bytes_max: usize) -> bool {
        poll_fn(|cx| {
            let mut state = self.lock();
            while state.input_end.is_none() && state.input_bytes <= bytes_max {
                ready!(state.take_in(stdin, cx));
            }
            Poll::Ready(state.input_end.is_some())
        })
        .await
    }

    /// While this is set nothing on the Python side waits for the worker.
    pub(super) fn set_inline(&self, is_inline: bool) {
        self.lock().is_inline = is_inline;
    }

    /// `length` bytes of output were written. Whether there is nothing more to write now.
    pub(super) fn has_sent(&self, length: usize) -> bool {
        let mut state = self.lock();
        let was_full = state.unsent >= OUTPUT_BYTES_MAX;
        state.unsent -= length;
        let is_drained = state.output.is_empty();
        if was_full {
            self.tell_of_change(state);
        }
        is_drained
    }

    /// Nobody listens any more. `is_aborted`: not because the answer is complete.
    pub(super) fn leave(&self, is_aborted: bool) {
        let mut state = self.lock();
        (state.is_over, state.is_aborted) = (true, is_aborted);
        state.waker = None;
        state.output.clear();
        state.input.clear();
        state.input_bytes = 0;
        self.tell_of_change(state);
    }

    fn tell_of_change(&self, state: MutexGuard<'_, State>) {
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.changed.notify_all();
        }
    }
}

/// The Python side. What may wait must be called detached from the interpreter.
impl Conversation {
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Whether the request was given up before its answer was taken whole.
    pub(super) fn is_aborted(&self) -> bool {
        self.lock().is_aborted
    }

    /// Waits until the request is over, `timeout` at most. Whether it was given up.
    pub(super) fn wait_for_end(&self, timeout: Option<Duration>) -> bool {
        let (mut state, goes_on) = (self.lock(), |state: &mut State| !state.is_over);
        if state.is_inline {
            return state.is_aborted;
        }
        state.waiting += 1;
        let mut state = match timeout {
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, goes_on);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, goes_on).unwrap_or_else(PoisonError::into_inner),
        };
        state.waiting -= 1;
        state.is_aborted
    }

    /// The next piece of input, if one is there: `None` means that [`Conversation::read`] has to wait for it.
    pub(super) fn try_read(&self) -> Option<Result<Option<Bytes>, ReadError>> {
        self.take_input(&mut self.lock())
    }

    /// The next piece of input, `None` at the end of the body. Waits.
    pub(super) fn read(&self) -> Result<Option<Bytes>, ReadError> {
        let mut state = self.lock();
        loop {
            if let Some(taken) = self.take_input(&mut state) {
                return taken;
            }
            state = self.wait(state);
        }
    }

    fn take_input(&self, state: &mut State) -> Option<Result<Option<Bytes>, ReadError>> {
        let taken = state.input.pop_front();
        state.input_bytes -= taken.as_ref().map_or(0, Bytes::len);
        if state.input_end.is_none() && state.input_bytes < INPUT_BYTES_MAX / 2 {
            state.wants_input = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        match (taken, &state.input_end) {
            (Some(bytes), _) => Some(Ok(Some(bytes))),
            (None, Some(Ok(()))) => Some(Ok(None)),
            (None, Some(Err(error))) => Some(Err(error.clone())),
            (None, None) if state.is_over => Some(Err(ReadError::Gone)),
            (None, None) => None,
        }
    }

    /// Gives output to the worker. `Ok(true)`: it is more than fits, so call [`Conversation::wait_for_room`].
    pub(super) fn emit(&self, outputs: impl IntoIterator<Item = Output>) -> Result<bool, Gone> {
        let mut state = self.lock();
        if state.is_over {
            return Err(Gone);
        }
        for output in outputs {
            state.unsent += output.length();
            state.output.push_back(output);
        }
        let (is_full, waker) = (state.unsent >= OUTPUT_BYTES_MAX, state.waker.take());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(is_full)
    }

    /// Waits until there is room for more output.
    pub(super) fn wait_for_room(&self) -> Result<(), Gone> {
        let mut state = self.lock();
        while state.unsent >= OUTPUT_BYTES_MAX && !state.is_over && !state.is_inline {
            state = self.wait(state);
        }
        if state.is_over { Err(Gone) } else { Ok(()) }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        super::lock(&self.state)
    }
}
