//! When bulk may begin to leave by an interface, so that what is urgent finds short queues in the kernel.
//!
//! What the kernel has taken goes out in order, whatever comes behind it. So a fragment of bulk begins only while what all
//! links of an interface have in the kernel, not acknowledged, is less than the interface carries in a round trip and a
//! millisecond: less would leave it idle, more only waits. A gate for each link alone would let through the sum of all. How
//! fast the interface is, is measured by what is acknowledged while something waits; it knows no sockets and no clock, and
//! stops nothing but bulk.
//!
//! Invariant: the backlog of the interface is the sum of those that were told last, plus what was written since.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use busway_wire::limits::{
    GATE_ASK_MS, GATE_BYTES_FIRST, GATE_BYTES_MIN, GATE_EPOCH_MS, GATE_LOOK_NS, GATE_QUEUE_NS,
    GATE_WAIT_NS_MAX, GATE_WAIT_NS_MIN, GATE_WINDOW_NS, LINK_FRAGMENT_BYTES,
};

use crate::time::{ConnectionId, Time};

const NS: u128 = 1_000_000_000;

/// The links of one interface that carry bulk.
#[derive(Debug, Default)]
pub struct Gate {
    links: BTreeMap<ConnectionId, Link>,
    backlog: u64,
    looked: Time,
    window: Window,
    rates: Rates,
    /// The round trip of the farthest that had something there when a window ended last.
    farthest_ns: Option<u64>,
    /// When all links were asked for.
    refreshed: Option<Time>,
    /// Until then the queues are kept as short as can be, so that round trips are measured without them.
    drains_until: Time,
    drained: Option<Time>,
}

#[derive(Debug, Default)]
struct Link {
    backlog: u64,
    looked: Time,
    asked: Option<Time>,
    /// The shortest round trip of this epoch and of the one before.
    round_trips: [Option<u64>; 2],
    epoch: Time,
}

/// What was acknowledged in times in which there was something to be.
#[derive(Debug, Default)]
struct Window {
    bytes: u64,
    ns: u64,
    /// Nothing waited at its end, or at some look: it may have been faster than what it was given.
    emptied: bool,
}

/// Bytes a second of the last windows.
#[derive(Debug, Default)]
struct Rates {
    last: [u64; Rates::COUNT],
    /// Windows so far.
    count: usize,
    gain: Gain,
}

/// How much more than what was measured may lie in the kernel, to see whether more can be.
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

    /// A window has ended.
    fn add(&mut self, rate: u64, emptied: bool) {
        let before = self.most().unwrap_or(0);
        if emptied {
            // A lower bound: it tells nothing but that more can be.
            if rate <= before || before == 0 {
                return;
            }
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

impl Gate {
    /// Without links; nothing was measured yet.
    #[must_use]
    pub fn new() -> Gate {
        Gate::default()
    }

    /// What a link has in the kernel now, not acknowledged.
    pub fn look(&mut self, now: Time, connection: ConnectionId, backlog: u64) {
        let waited = self.backlog > 0;
        let link = self.links.entry(connection).or_default();
        let gone = link.backlog.saturating_sub(backlog);
        self.backlog = self.backlog.saturating_sub(link.backlog).saturating_add(backlog);
        (link.backlog, link.looked) = (backlog, now);
        let passed = now.since(self.looked);
        self.looked = now.max(self.looked);
        if waited {
            self.measure(gone, passed);
        }
        self.drain(now);
    }

    /// So much more was written to it.
    pub fn wrote(&mut self, connection: ConnectionId, bytes: u64) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.backlog = link.backlog.saturating_add(bytes);
            self.backlog = self.backlog.saturating_add(bytes);
        }
    }

    /// A round trip of a link, in nanoseconds.
    pub fn round_trip(&mut self, now: Time, connection: ConnectionId, ns: u64) {
        let link = self.links.entry(connection).or_default();
        if now >= link.epoch.after_ms(GATE_EPOCH_MS) {
            link.round_trips = [None, link.round_trips[0]];
            link.epoch = now;
        }
        let shortest = link.round_trips[0].map_or(ns, |shortest| shortest.min(ns));
        link.round_trips[0] = Some(shortest);
    }

    /// Whether a round trip of this link should be measured now.
    pub fn asks(&mut self, now: Time, connection: ConnectionId) -> bool {
        let link = self.links.entry(connection).or_default();
        let due = link.asked.is_none_or(|asked| now >= asked.after_ms(GATE_ASK_MS));
        if due {
            link.asked = Some(now);
        }
        due
    }

    /// The connection is gone, or carries no bulk any more.
    pub fn forget(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.remove(&connection) {
            self.backlog = self.backlog.saturating_sub(link.backlog);
        }
    }

    /// Links that may have less in the kernel than is known, to be looked at; none where all were just looked at.
    pub fn stale(&mut self, now: Time) -> Vec<ConnectionId> {
        let pause_ns = GATE_WAIT_NS_MIN.saturating_add(GATE_LOOK_NS.saturating_mul(self.links.len() as u64));
        if self.refreshed.is_some_and(|refreshed| now.since(refreshed) < pause_ns) {
            return Vec::new();
        }
        self.refreshed = Some(now);
        let stale = |(_, link): &(&ConnectionId, &Link)| link.backlog > 0 && link.looked < now;
        self.links.iter().filter(stale).map(|(connection, _)| *connection).collect()
    }

    /// How many bytes of bulk may begin to go.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.bound().saturating_sub(self.backlog)
    }

    /// What may lie in the kernel, not acknowledged, while bulk begins to go.
    #[must_use]
    pub fn bound(&self) -> u64 {
        let (Some(rate), Some(round_trip)) = (self.rates.most(), self.farthest_ns) else {
            return GATE_BYTES_FIRST;
        };
        if self.looked < self.drains_until {
            return GATE_BYTES_MIN;
        }
        let ns = u128::from(round_trip.saturating_add(GATE_QUEUE_NS));
        let bytes = self.rates.gain.of(u128::from(rate) * ns / NS);
        u64::try_from(bytes).unwrap_or(u64::MAX).max(GATE_BYTES_MIN)
    }

    /// After how many nanoseconds there may be room for a fragment, if there is none now.
    #[must_use]
    pub fn wait_ns(&self) -> u64 {
        let over = self.backlog.saturating_sub(self.bound()).saturating_add(LINK_FRAGMENT_BYTES as u64 / 2);
        let ns = self.rates.most().map_or(0, |rate| u128::from(over) * NS / u128::from(rate));
        u64::try_from(ns).unwrap_or(u64::MAX).clamp(GATE_WAIT_NS_MIN, GATE_WAIT_NS_MAX)
    }

    /// Bytes a second, as far as that was measured.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.rates.most()
    }

    /// So much was acknowledged in a time at the beginning of which something waited to be.
    fn measure(&mut self, gone: u64, ns: u64) {
        let window = &mut self.window;
        window.bytes = window.bytes.saturating_add(gone);
        window.ns = window.ns.saturating_add(ns);
        window.emptied |= self.backlog == 0;
        let enough = GATE_WINDOW_NS.max(self.farthest_ns.unwrap_or(0));
        if window.ns < enough {
            return;
        }
        let ended = core::mem::take(window);
        // It needs that much under way.
        let busy = self.links.values().filter(|link| link.backlog > 0);
        self.farthest_ns = busy.filter_map(Link::round_trip).max().or(self.farthest_ns);
        // Nobody has looked for long: it says nothing.
        if ns < enough.saturating_mul(4) {
            let rate = u128::from(ended.bytes) * NS / u128::from(ended.ns.max(1));
            // While they run dry it is not given as much as it could carry.
            let bounded = ended.emptied || self.looked < self.drains_until;
            self.rates.add(u64::try_from(rate).unwrap_or(u64::MAX), bounded);
        }
    }

    /// At first and now and then the queues are let run dry: who is measured behind a queue would be given a longer one
    /// for it.
    fn drain(&mut self, now: Time) {
        let due = self.drained.is_none_or(|drained| now >= drained.after_ms(GATE_EPOCH_MS));
        let lies = self.looked < self.drains_until && self.backlog > 2 * GATE_BYTES_MIN;
        if self.rates.most().is_some() && (due || lies) {
            self.drained = Some(now);
            self.drains_until = now.after_ms(2 * GATE_ASK_MS);
        }
    }
}

impl Link {
    fn round_trip(&self) -> Option<u64> {
        self.round_trips.iter().copied().flatten().min()
    }
}

#[cfg(test)]
mod tests;
