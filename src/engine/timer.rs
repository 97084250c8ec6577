//! Deadlines. Time is counted in milliseconds since the worker began and read once per turn.
//!
//! A peer has at most one valid entry in the queue. Activity only notes the time; when the entry comes up, the peer
//! works out its nearest deadline anew. So a busy connection costs the queue one operation per time limit, not one
//! per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::{Duration, Instant};

/// Milliseconds since the worker began.
pub(crate) type Tick = u64;

/// No time at all: later than every deadline.
pub(crate) const NEVER: Tick = Tick::MAX;

/// Turns the clock into ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    now: Tick,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { began: Instant::now(), now: 0 }
    }

    /// Reads the clock; called once per turn.
    pub(crate) fn advance(&mut self) -> Tick {
        self.now = self.began.elapsed().as_millis() as Tick;
        self.now
    }

    /// The time of this turn.
    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// When `tick` is. A deadline is met only after it, so the tick is counted to its end.
    pub(crate) fn instant(&self, tick: Tick) -> Instant {
        self.began + Duration::from_millis(tick.saturating_add(1).min(u64::from(u32::MAX) * 1000))
    }
}

/// What is limited in time, one row each; the limits are rows in the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deadline {
    /// `first_timeout`: no complete record since the connection was accepted.
    First,
    /// `params_timeout`: parameters that do not end.
    Params,
    /// `stdin_timeout`: a handler waits for a body that does not come.
    Stdin,
    /// `send_timeout`: output that the peer does not take.
    Send,
    /// `idle_timeout`: a kept connection without requests.
    Idle,
    /// `request_timeout`: a request that does not end.
    Request,
    /// `linger_timeout`: a peer that does not close after its last answer.
    Linger,
    /// Not a limit: a handler takes so long that its peer may have left meanwhile.
    Look,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deadline::First => "first_timeout",
            Deadline::Params => "params_timeout",
            Deadline::Stdin => "stdin_timeout",
            Deadline::Send => "send_timeout",
            Deadline::Idle => "idle_timeout",
            Deadline::Request => "request_timeout",
            Deadline::Linger => "linger_timeout",
            Deadline::Look => "a look at a peer that waits",
        })
    }
}

/// The time limits of the settings, in ticks; `NEVER` where one is off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    pub(crate) first: Tick,
    pub(crate) params: Tick,
    pub(crate) stdin: Tick,
    pub(crate) send: Tick,
    pub(crate) idle: Tick,
    pub(crate) request: Tick,
    pub(crate) linger: Tick,
    pub(crate) drain: Tick,
}

impl TimeLimits {
    pub(crate) fn of(config: &crate::Config) -> TimeLimits {
        let ticks = |limit: Duration| if limit.is_zero() { NEVER } else { limit.as_millis().max(1) as Tick };
        TimeLimits {
            first: ticks(config.first_timeout),
            params: ticks(config.params_timeout),
            stdin: ticks(config.stdin_timeout),
            send: ticks(config.send_timeout),
            idle: ticks(config.idle_timeout),
            request: ticks(config.request_timeout),
            linger: ticks(config.linger_timeout),
            drain: ticks(config.drain_timeout),
        }
    }

    /// No deadline of a request comes earlier than this after its latest activity.
    pub(crate) fn shortest_of_request(&self) -> Tick {
        self.params.min(self.stdin).min(self.send).min(self.request)
    }
}

/// The slots of peers with a deadline, soonest first.
///
/// An entry belongs to the slot: a peer that takes the place of one that is gone takes over its entry too. So short
/// connections, however many, cost the queue next to nothing.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BinaryHeap<Reverse<(Tick, u32)>>,
    /// For each slot when its entry comes up; entries of other times are void.
    armed: Vec<Tick>,
}

impl Timers {
    /// When the slot's entry comes up; `NEVER`: it has none.
    pub(crate) fn at(&self, slot: u32) -> Tick {
        self.armed.get(slot as usize).copied().unwrap_or(NEVER)
    }

    /// Gives the slot an entry in place of the one it may have.
    pub(crate) fn set(&mut self, slot: u32, at: Tick) {
        if self.armed.len() <= slot as usize {
            self.armed.resize(slot as usize + 1, NEVER);
        }
        self.armed[slot as usize] = at;
        self.queue.push(Reverse((at, slot)));
    }

    /// The next slot whose time has come; it has no entry then.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<u32> {
        while let Some(&Reverse((at, slot))) = self.queue.peek() {
            if at > now {
                return None;
            }
            self.queue.pop();
            let armed = &mut self.armed[slot as usize];
            if *armed == at {
                *armed = NEVER;
                return Some(slot);
            }
        }
        None
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Tick {
        self.queue.peek().map_or(NEVER, |Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_up_in_order_and_not_before_their_time() {
        let mut timers = Timers::default();
        timers.set(3, 30);
        timers.set(1, 10);
        timers.set(2, 20);
        assert_eq!((timers.next(), timers.at(1), timers.at(9)), (10, 10, NEVER));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(25), Some(1));
        assert_eq!(timers.at(1), NEVER);
        assert_eq!(timers.pop_due(25), Some(2));
        assert_eq!(timers.pop_due(25), None);
        assert_eq!(timers.next(), 30);
    }

    #[test]
    fn an_entry_that_was_replaced_is_void() {
        let mut timers = Timers::default();
        timers.set(1, 20);
        timers.set(1, 10);
        assert_eq!(timers.pop_due(30), Some(1));
        assert_eq!(timers.pop_due(30), None);
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let config = crate::Config {
            request_timeout: Duration::ZERO,
            linger_timeout: Duration::from_micros(1),
            ..crate::Config::default()
        };
        let limits = TimeLimits::of(&config);
        assert_eq!(limits.request, NEVER);
        assert_eq!(limits.linger, 1);
    }
}
