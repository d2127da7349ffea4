//! Bytes that wait for somebody whose pace nobody tells: an interface, or all that lies between two hosts.
//!
//! How fast they leave is measured while some wait. It knows no sockets and no clock.
//!
//! Invariant: what was measured while nothing waited, at the end or at some look, is taken for a lower bound alone.

use busway_wire::limits::{
    GATE_ASK_MS, GATE_BYTES_FIRST, GATE_BYTES_MIN, GATE_DRAIN_MS_MAX, GATE_EPOCH_MS, GATE_PAUSE_NS_MAX,
    GATE_QUEUE_NS, GATE_WINDOW_NS,
};

use crate::time::Time;

const NS: u128 = 1_000_000_000;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What is in it, as far as is known.
    pub(super) bytes: u64,
    looked: Time,
    window: Window,
    /// For so long nothing has left it, in nanoseconds.
    silent_ns: u64,
    rates: Rates,
    /// How long it takes until who is at its end is known to have it, in nanoseconds, beyond the time in the queue.
    distance_ns: Option<u64>,
    /// Until then it is kept as short as can be, so that round trips are measured without it.
    drains_until: Time,
    drained: Option<Time>,
}

/// What left in times in which there was something to leave.
#[derive(Debug, Default)]
struct Window {
    bytes: u64,
    ns: u64,
    /// Nothing waited at its end, or at some look: it may have been faster than what it was given.
    emptied: bool,
    /// It was given as much as may wait.
    filled: bool,
    /// The longest time in which nothing left, though something waited.
    pause_ns: u64,
}

/// Bytes a second of the last windows.
#[derive(Debug, Default)]
struct Rates {
    last: [u64; Rates::COUNT],
    /// Windows so far.
    count: usize,
    /// The longest pauses of the last windows, also of those that tell nothing of a rate.
    pauses_ns: [u64; Rates::COUNT],
    pauses: usize,
    gain: Gain,
}

/// How much more than what was measured may wait, to see whether more can leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gain {
    #[default]
    Steady,
    /// A quarter more, now and then.
    Probe,
    /// Twice as much, after it has become faster.
    Grow,
}

impl Gain {
    const fn of(self, bytes: u128) -> u128 {
        match self {
            Gain::Steady => bytes,
            Gain::Probe => bytes + bytes / 4,
            Gain::Grow => bytes * 2,
        }
    }
}

impl Rates {
    const COUNT: usize = 8;

    fn most(&self) -> Option<u64> {
        self.last.iter().copied().max().filter(|rate| *rate > 0)
    }

    /// What leaves goes at once after so long: so much more must be under way meanwhile.
    fn pause_ns(&self) -> u64 {
        self.pauses_ns.iter().copied().max().unwrap_or(0)
    }

    fn paused(&mut self, ns: u64) {
        if let Some(last) = self.pauses_ns.get_mut(self.pauses % Rates::COUNT) {
            *last = ns;
        }
        self.pauses = self.pauses.wrapping_add(1);
    }

    /// A window has ended.
    fn add(&mut self, rate: u64, emptied: bool, filled: bool) {
        let before = self.most().unwrap_or(0);
        if emptied && (rate <= before || (before == 0 && !filled)) {
            // A lower bound: it tells nothing but that more can be.
            return;
        }
        if let Some(last) = self.last.get_mut(self.count % Rates::COUNT) {
            *last = rate;
        }
        self.count = self.count.wrapping_add(1);
        let grown = rate > before.saturating_add(before / 8);
        self.gain = match self.count % Rates::COUNT {
            _ if grown => Gain::Grow,
            0 => Gain::Probe,
            _ => Gain::Steady,
        };
    }
}

impl Queue {
    /// So much has left it since the last look, and so much waits now; what is at its end is that far away, as far as is known.
    pub(super) fn look(&mut self, now: Time, (gone, bytes): (u64, u64), distance_ns: Option<u64>) {
        let waited = self.bytes > 0;
        self.bytes = bytes;
        let passed = now.since(self.looked);
        self.looked = now.max(self.looked);
        if waited {
            self.measure(gone, passed, distance_ns);
        } else {
            self.silent_ns = 0;
        }
    }

    /// So much more waits.
    pub(super) fn put(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.window.filled |= self.room() == 0;
    }

    /// So much is of no concern any more.
    pub(super) fn forget(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// At first and now and then it is let run dry: who is measured behind a queue would be given a longer one for it.
    pub(super) fn drain(&mut self, now: Time) {
        if self.rates.most().is_none() {
            return;
        }
        let due = self.drained.is_none_or(|drained| now >= drained.after_ms(GATE_EPOCH_MS));
        if due {
            self.drained = Some(now);
        }
        // What lies there at first goes first; but some of it may be what no gate stops, and comes anew.
        let lies = self.looked < self.drains_until && self.bytes > 2 * GATE_BYTES_MIN;
        let soon = self.drained.is_some_and(|drained| now < drained.after_ms(GATE_DRAIN_MS_MAX));
        if due || (lies && soon) {
            self.drains_until = now.after_ms(2 * GATE_ASK_MS);
        }
    }

    /// Whether it is kept short, so that round trips are measured without it.
    pub(super) fn is_draining(&self, now: Time) -> bool {
        now < self.drains_until
    }

    /// How much more may be put into it.
    pub(super) fn room(&self) -> u64 {
        self.bound().saturating_sub(self.bytes)
    }

    /// How much may wait: what leaves in a millisecond, and while it is on its way.
    pub(super) fn bound(&self) -> u64 {
        let (Some(rate), Some(distance)) = (self.rates.most(), self.distance_ns) else {
            return GATE_BYTES_FIRST;
        };
        if self.looked < self.drains_until {
            return GATE_BYTES_MIN;
        }
        // On a short way a pause is more likely the turn of others in front, and who puts more there lengthens their queue.
        let pause = self.rates.pause_ns().min(distance);
        let ns = distance.saturating_add(GATE_QUEUE_NS).saturating_add(pause);
        let ns = u128::from(ns);
        let bytes = self.rates.gain.of(u128::from(rate) * ns / NS);
        u64::try_from(bytes).unwrap_or(u64::MAX).max(GATE_BYTES_MIN)
    }

    /// After how many nanoseconds there may be room for so many bytes more, as fast as it is.
    pub(super) fn wait_ns(&self, bytes: u64) -> u64 {
        let over = self.bytes.saturating_add(bytes).saturating_sub(self.bound());
        let ns = self.rates.most().map_or(0, |rate| u128::from(over) * NS / u128::from(rate));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Bytes a second, as far as that was measured.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rates.most()
    }

    /// So much left in a time at the beginning of which something waited.
    fn measure(&mut self, gone: u64, ns: u64, distance_ns: Option<u64>) {
        let window = &mut self.window;
        window.bytes = window.bytes.saturating_add(gone);
        window.ns = window.ns.saturating_add(ns);
        window.emptied |= self.bytes == 0;
        self.silent_ns = if gone > 0 { 0 } else { self.silent_ns.saturating_add(ns) };
        // Before a host there are no acknowledgements that could be put off; and while it runs dry what leaves is what was let in.
        if self.looked >= self.drains_until && self.distance_ns.is_some_and(|distance| distance > 0) {
            window.pause_ns = window.pause_ns.max(self.silent_ns.min(GATE_PAUSE_NS_MAX));
        }
        let enough = GATE_WINDOW_NS.max(self.distance_ns.unwrap_or(0));
        // It ends with what leaves, or what leaves at once after a while would be nothing in one and too much in another; and in a crowd
        // what is ours leaves together, when its turn comes.
        if window.ns < enough || gone == 0 {
            return;
        }
        let ended = core::mem::take(window);
        self.distance_ns = distance_ns.or(self.distance_ns);
        self.rates.paused(ended.pause_ns);
        // Nobody has looked for long: it says nothing.
        if ns < enough.saturating_mul(4) {
            let rate = u128::from(ended.bytes) * NS / u128::from(ended.ns.max(1));
            // While it runs dry it is not given as much as could leave.
            let bounded = ended.emptied || self.looked < self.drains_until;
            self.rates.add(u64::try_from(rate).unwrap_or(u64::MAX), bounded, ended.filled);
        }
    }
}
