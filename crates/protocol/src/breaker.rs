//! When something that fails is not tried for a while.
//!
//! Who is about to try asks ([`Breaker::admit`]) and tells how it ended ([`Breaker::settle`]), or that it was not tried ([`Breaker::forgo`]). As many bad ends within the
//! window as are allowed open the breaker: then nothing passes for a pause. After it the breaker is half-open: a few
//! probes pass; if all of them end well it closes, and one bad end opens it again. It knows no clock and calls nothing.
//!
//! Invariants, each compared with a naive model in the tests:
//! - open, nothing passes before the pause is over;
//! - half-open, no more than the probes pass, and what passed before it opened decides nothing;
//! - a probe that does not end counts as a bad one after a pause: no state holds for ever against who goes on asking. If it then ends well it is a good
//!   one all the same: what takes longer than the pause does not keep the breaker open, and what failed that late decides nothing;
//! - it keeps the times of fewer failures than open it, whatever happens.

use alloc::collections::VecDeque;
use core::time::Duration;

use busway_wire::limits::{BREAKER_FAILURES_MAX, BREAKER_PROBES_MAX};

use crate::time::Time;

/// How something that was tried ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Well,
    /// Otherwise.
    Badly,
}

/// What a breaker does with who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// Lets all through.
    Closed,
    /// Lets nobody through until the pause is over.
    Open,
    /// Lets a few through, to see how they end.
    HalfOpen,
}

impl BreakerState {
    /// `closed`, `open` or `half-open`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Leave to try, to be given back by [`Breaker::settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a breaker learns from how it ended"]
pub struct Pass {
    epoch: u64,
}

/// Nothing is let through before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it is worth asking again.
    pub until: Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// With the times of the failures within the window.
    Closed(VecDeque<Time>),
    Open {
        until: Time,
    },
    HalfOpen {
        passed: u32,
        well: u32,
        last: Time,
    },
}

/// A breaker: closed, open or half-open. Each thing that can fail for itself has one of its own.
///
/// ```
/// use std::time::Duration;
/// use busway_protocol::{Breaker, BreakerState, Ended, Time};
///
/// let mut breaker = Breaker::default().failures(2).pause(Duration::from_secs(10));
/// let at = |s: u64| Time(s * 1_000_000_000);
/// for second in [1, 2] {
///     let pass = breaker.admit(at(second)).expect("it is closed");
///     breaker.settle(at(second), pass, Ended::Badly);
/// }
/// assert_eq!(breaker.admit(at(3)).unwrap_err().until, at(12));
/// let probe = breaker.admit(at(12)).expect("the pause is over");
/// breaker.settle(at(12), probe, Ended::Well);
/// assert_eq!(breaker.state(at(12)), BreakerState::Closed);
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    failures: u32,
    window_ns: u64,
    pause_ns: u64,
    probes: u32,
    state: State,
    /// Raised with each change of the state.
    epoch: u64,
    /// The epoch that began with the last decision: it closed, or a bad end opened it. Who passed later has passed as a probe.
    decided_epoch: u64,
    opened: u64,
    refused: u64,
}

impl Default for Breaker {
    /// Five failures within 10 s open it for 10 s; one probe decides.
    fn default() -> Self {
        Self {
            failures: 5,
            window_ns: 10_000_000_000,
            pause_ns: 10_000_000_000,
            probes: 1,
            state: State::Closed(VecDeque::new()),
            epoch: 0,
            decided_epoch: 0,
            opened: 0,
            refused: 0,
        }
    }
}

impl Breaker {
    /// Bad ends within the window that open it: 1 to 1 024; beyond that the nearest of them.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures.clamp(1, BREAKER_FAILURES_MAX);
        self
    }

    /// How long a bad end counts.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window_ns = nanoseconds(window).max(1);
        self
    }

    /// How long nothing passes once it has opened, and how long a probe may take.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause_ns = nanoseconds(pause).max(1);
        self
    }

    /// Probes that pass once the pause is over, and that must all end well: 1 to 64; beyond that the nearest of them.
    #[must_use]
    pub fn probes(mut self, probes: u32) -> Self {
        self.probes = probes.clamp(1, BREAKER_PROBES_MAX);
        self
    }

    /// Asks for leave to try.
    ///
    /// # Errors
    /// It is open, or as many probes as may are under way.
    pub fn admit(&mut self, now: Time) -> Result<Pass, Refused> {
        self.pass_time(now);
        let until = match &mut self.state {
            State::Closed(_) => return Ok(Pass { epoch: self.epoch }),
            State::HalfOpen { passed, last, .. } if *passed < self.probes => {
                (*passed, *last) = (*passed + 1, now);
                return Ok(Pass { epoch: self.epoch });
            }
            State::HalfOpen { last, .. } => later(*last, self.pause_ns),
            State::Open { until } => *until,
        };
        self.refused = self.refused.saturating_add(1);
        Err(Refused { until })
    }

    /// Tells how it ended. What was let through before the state changed decides nothing any more, but a probe that was waited for too short.
    pub fn settle(&mut self, now: Time, pass: Pass, ended: Ended) {
        if pass.epoch != self.epoch {
            if pass.epoch > self.decided_epoch && ended == Ended::Well {
                self.late_probe(now);
            }
            return;
        }
        let (failures, probes) = (self.failures as usize, self.probes);
        match (&mut self.state, ended) {
            (State::Closed(_), Ended::Well) | (State::Open { .. }, _) => {}
            (State::Closed(times), Ended::Badly) => {
                while times.front().is_some_and(|time| now.since(*time) >= self.window_ns) {
                    times.pop_front();
                }
                if times.len() + 1 >= failures {
                    self.open(now);
                    self.decided_epoch = self.epoch;
                } else {
                    times.push_back(now);
                }
            }
            (State::HalfOpen { well, .. }, Ended::Well) => {
                *well += 1;
                if *well >= probes {
                    self.close();
                }
            }
            (State::HalfOpen { .. }, Ended::Badly) => {
                self.open(now);
                self.decided_epoch = self.epoch;
            }
        }
    }

    /// A probe that was given up has ended well. It counts among those of now.
    fn late_probe(&mut self, now: Time) {
        if matches!(self.state, State::Open { .. }) {
            self.change(State::HalfOpen { passed: 0, well: 0, last: now });
        }
        let probes = self.probes;
        if let State::HalfOpen { passed, well, last } = &mut self.state {
            *well += 1;
            if *passed < probes {
                (*passed, *last) = (*passed + 1, now);
            }
            if *well >= probes {
                self.close();
            }
        }
    }

    /// Gives back a pass with which nothing was tried: who found nothing to do keeps no probe from who does.
    pub fn forgo(&mut self, pass: Pass) {
        if pass.epoch == self.epoch
            && let State::HalfOpen { passed, .. } = &mut self.state
        {
            *passed = passed.saturating_sub(1);
        }
    }

    /// Whether this pass is still good: nothing was decided since it was given. That of a probe is, also where it was waited for too short.
    #[must_use]
    pub fn holds(&self, pass: &Pass) -> bool {
        pass.epoch == self.epoch || pass.epoch > self.decided_epoch
    }

    /// Its state at this time.
    #[must_use]
    pub fn state(&self, now: Time) -> BreakerState {
        match &self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open { until } if now < *until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// How often it let nobody through.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// What time alone changes: a pause that is over, and probes that have not come back.
    fn pass_time(&mut self, now: Time) {
        match &self.state {
            State::Open { until } if now >= *until => {
                self.change(State::HalfOpen { passed: 0, well: 0, last: now });
            }
            State::HalfOpen { passed, last, .. }
                if *passed >= self.probes && now >= later(*last, self.pause_ns) =>
            {
                self.open(now);
            }
            State::Closed(_) | State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    fn open(&mut self, now: Time) {
        self.opened = self.opened.saturating_add(1);
        self.change(State::Open { until: later(now, self.pause_ns) });
    }

    fn close(&mut self) {
        self.change(State::Closed(VecDeque::new()));
        self.decided_epoch = self.epoch;
    }

    fn change(&mut self, state: State) {
        self.epoch = self.epoch.wrapping_add(1);
        self.state = state;
    }
}

const fn later(time: Time, ns: u64) -> Time {
    Time(time.0.saturating_add(ns))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
