//! Clocks, and waiting for a moment.
//!
//! `now_ns` is `CLOCK_MONOTONIC`, which all processes of one host share, so that a stamp taken on one
//! side can be subtracted on the other. It does not correct for the cost of reading it: that cost is
//! the same on all sides of a ratio.

use rustix::thread::Timespec;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Nanoseconds since the host started.
pub fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Processor time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

/// Processor time of all threads of this process, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Gives the processor away for about `pause`.
pub fn pause(pause: Duration) {
    let request = Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(pause.subsec_nanos()),
    };
    // A signal may cut the pause short; every caller looks again at what it waits for.
    let _ = rustix::thread::nanosleep(&request);
}

/// Keeps the processor busy until `deadline_ns`, so that its core does not fall asleep.
pub fn spin_until(deadline_ns: u64) {
    while now_ns() < deadline_ns {}
}

/// A bounded busy wait: counts turns, and looks at the clock only now and then.
#[derive(Debug)]
pub struct Patience {
    turns: u64,
    deadline_ns: u64,
}

/// So many turns go by between two looks at the clock: 2^16 turns of some nanoseconds are below a millisecond.
const TURNS_PER_LOOK: u64 = 1 << 16;

/// A measured side that hears nothing for so long has lost its partner.
const PATIENCE_NS: u64 = 20_000_000_000;

impl Patience {
    /// Starts waiting.
    pub fn new() -> Self {
        Self { turns: 0, deadline_ns: 0 }
    }

    /// One turn more. False when nothing came for [`PATIENCE_NS`].
    #[inline]
    pub fn turn(&mut self) -> bool {
        self.turns += 1;
        if !self.turns.is_multiple_of(TURNS_PER_LOOK) {
            return true;
        }
        self.look()
    }

    #[cold]
    fn look(&mut self) -> bool {
        let now = now_ns();
        if self.deadline_ns == 0 {
            self.deadline_ns = now + PATIENCE_NS;
        }
        now < self.deadline_ns
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}
