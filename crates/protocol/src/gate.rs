//! When bulk may begin to leave by an interface, so that what is urgent finds short queues in the kernel.
//!
//! What the kernel has taken goes out in order, whatever comes behind it. It waits in two places. In this host all links of an
//! interface wait for each other, so a fragment of bulk begins only while what all of them have here, not sent, is less than
//! the interface carries in a millisecond. Behind that each link has a way of its own, and perhaps a crowd at its end: there a
//! link may have what comes through in a round trip and a millisecond, and in the pauses of what acknowledges it, of a round trip at most. Less would leave either idle, more only waits. What lies
//! elsewhere is counted for its link alone: a host that is slow to be reached stops nobody but who sends to it.
//!
//! Of the links that have bulk for an interface the one goes next that was given least, however often each of them looks: each is charged what
//! it writes of bulk, and who had none begins where the last one did that went, so that nobody saves up turns (start-time fair queueing: Goyal, Vin
//! and Cheng, SIGCOMM 1996).
//!
//! Invariant: what lies here of the interface is the sum of what was told last of its links, plus what was written since. Who has bulk and was charged
//! least is let in as soon as there is room; who does not look is waited for no longer than [`GATE_TURN_NS`],
//! and by nobody when less than a quarter of what may lie here does.

mod queue;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use busway_wire::limits::{
    GATE_ASK_MS, GATE_ASK_MS_MAX, GATE_EPOCH_MS, GATE_EPOCHS, GATE_LOOK_NS, GATE_LOOKED_NS_MAX, GATE_TURN_NS,
    GATE_WAIT_FAR_NS_MAX, GATE_WAIT_NS_MAX, GATE_WAIT_NS_MIN, LINK_FRAGMENT_BYTES,
};

use crate::gate::queue::Queue;
use crate::time::{ConnectionId, Time};

/// What the kernel has of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that were written and not acknowledged.
    pub unacknowledged: u64,
    /// How many of them, about, wait to leave this host.
    pub here: u64,
}

/// The links of one interface: those that carry bulk, and of others their round trips.
#[derive(Debug, Default)]
pub struct Gate {
    links: BTreeMap<ConnectionId, Link>,
    /// What waits to leave this host, of all links.
    here: Queue,
    /// When all links were asked for.
    refreshed: Option<Time>,
    /// The most that a link was charged when it was let in.
    begun: u64,
}

#[derive(Debug, Default)]
struct Link {
    here: u64,
    /// What is not acknowledged.
    way: Queue,
    looked: Time,
    /// What it wrote of bulk, and what others did in whose place it could have.
    charged: u64,
    /// It has bulk for which its own way has room, and looks before that.
    wants_until: Time,
    asked: Option<Time>,
    /// The shortest round trip of this epoch and of those before.
    round_trips: [Option<u64>; GATE_EPOCHS],
    epoch: Time,
}

impl Gate {
    /// Without links; nothing was measured yet.
    #[must_use]
    pub fn new() -> Gate {
        Gate::default()
    }

    /// What a link has in the kernel now.
    pub fn look(&mut self, now: Time, connection: ConnectionId, backlog: Backlog) {
        let link = self.links.entry(connection).or_default();
        let here = backlog.here.min(backlog.unacknowledged);
        let left = link.here.saturating_sub(here);
        let all = self.here.bytes.saturating_sub(link.here).saturating_add(here);
        (link.here, link.looked) = (here, now);
        let gone = link.way.bytes.saturating_sub(backlog.unacknowledged);
        let round_trip = link.round_trip();
        link.way.look(now, (gone, backlog.unacknowledged), round_trip);
        link.way.drain(now);
        self.here.look(now, (left, all), Some(0));
    }

    /// So much more was written to it.
    pub fn wrote(&mut self, connection: ConnectionId, bytes: u64) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.here = link.here.saturating_add(bytes);
            link.way.put(bytes);
            self.here.put(bytes);
        }
    }

    /// So much of what was written to it was bulk, for which it had its turn.
    pub fn charge(&mut self, connection: ConnectionId, bytes: u64) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.charged = link.charged.saturating_add(bytes);
        }
    }

    /// A round trip of a link, in nanoseconds; also while it carries no bulk, when it is shortest.
    pub fn round_trip(&mut self, now: Time, connection: ConnectionId, ns: u64) {
        let link = self.links.entry(connection).or_default();
        if now >= link.epoch.after_ms(GATE_EPOCH_MS) {
            link.round_trips.rotate_right(1);
            link.round_trips[0] = None;
            link.epoch = now;
        }
        let shortest = link.round_trips[0].map_or(ns, |shortest| shortest.min(ns));
        link.round_trips[0] = Some(shortest);
    }

    /// Whether a round trip of this link should be measured now.
    pub fn asks(&mut self, now: Time, connection: ConnectionId) -> bool {
        let link = self.links.entry(connection).or_default();
        let often = link.round_trips[0].is_none() || link.way.is_draining(now);
        let pause_ms = if often { GATE_ASK_MS } else { GATE_ASK_MS_MAX };
        let due = link.asked.is_none_or(|asked| now >= asked.after_ms(pause_ms));
        if due {
            link.asked = Some(now);
        }
        due
    }

    /// The connection is gone, or carries no bulk any more.
    pub fn forget(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.remove(&connection) {
            self.here.forget(link.here);
        }
    }

    /// How many bytes of bulk may begin to go over a link that has some: none while others have some that were given less. It asks again soon, or
    /// [`rests`](Gate::rests).
    ///
    /// `look` says what the kernel has of a link, `None` of one that is gone. It costs system calls, and is called where what it says may let something go.
    pub fn room(
        &mut self,
        now: Time,
        connection: ConnectionId,
        mut look: impl FnMut(ConnectionId) -> Option<Backlog>,
    ) -> u64 {
        for other in self.stale(now) {
            match look(other) {
                Some(backlog) => self.look(now, other, backlog),
                None => self.forget(other),
            }
        }
        let begun = self.begun;
        let link = self.links.entry(connection).or_default();
        if link.wants_until <= now {
            // While it had nothing that could go it had no turn, and none is owed to it.
            link.charged = link.charged.max(begun);
        }
        let mut may_go = self.may_go(now, connection);
        if self.is_unknown(now, connection, may_go) {
            match look(connection) {
                Some(backlog) => self.look(now, connection, backlog),
                None => return 0,
            }
            may_go = self.may_go(now, connection);
        }
        let here = self.here.room();
        let Some(link) = self.links.get_mut(&connection) else { return 0 };
        let way = link.way.room();
        // Where its own way keeps it back others go meanwhile.
        link.wants_until =
            if way > 0 || here == 0 { Time(now.0.saturating_add(GATE_TURN_NS)) } else { Time(0) };
        if way == 0 || !may_go {
            return 0;
        }
        self.begun = begun.max(link.charged);
        here.min(way)
    }

    /// Where nothing of bulk may begin because of what waits here: links of which less may wait than is known. None until there may be room.
    fn stale(&mut self, now: Time) -> Vec<ConnectionId> {
        if self.here.room() > 0 || now < self.refreshes_at() {
            return Vec::new();
        }
        self.refreshed = Some(now);
        let stale = |(_, link): &(&ConnectionId, &Link)| link.here > 0 && link.looked < now;
        self.links.iter().filter(stale).map(|(connection, _)| *connection).collect()
    }

    /// When there may be room here, if there is none by what is known.
    fn refreshes_at(&self) -> Time {
        let Some(refreshed) = self.refreshed else { return Time(0) };
        let looks = self.links.values().filter(|link| link.here > 0).count() as u64;
        let least_ns = GATE_WAIT_NS_MIN.saturating_add(GATE_LOOK_NS.saturating_mul(looks));
        let ns = self.here.wait_ns(LINK_FRAGMENT_BYTES as u64 / 2).min(GATE_WAIT_NS_MAX).max(least_ns);
        Time(refreshed.0.saturating_add(ns))
    }

    /// Whether there is room here, and it is the turn of nobody else; who is waited for unless the interface would run dry meanwhile.
    fn may_go(&self, now: Time, connection: ConnectionId) -> bool {
        let Some(link) = self.links.get(&connection) else { return false };
        let room = self.here.room();
        let dry = room > self.here.bound() / 4 * 3;
        let before = |other: &Link| other.wants_until > now && other.charged < link.charged;
        room > 0 && (dry || !self.links.values().any(before))
    }

    /// Whether a link is to be looked at: it may go unless its way is full, or that was so, or how fast it is would not be measured.
    fn is_unknown(&self, now: Time, connection: ConnectionId, may_go: bool) -> bool {
        self.links.get(&connection).is_none_or(|link| {
            let late = || link.way.bytes > 0 && now.since(link.looked) >= GATE_LOOKED_NS_MAX;
            link.looked < now && (may_go || link.way.room() == 0 || late())
        })
    }

    /// What a link has written of bulk, and what others did in whose place it could have: who has less goes first.
    #[must_use]
    pub fn charged(&self, connection: ConnectionId) -> u64 {
        self.links.get(&connection).map_or(0, |link| link.charged)
    }

    /// It has no bulk any more.
    pub fn rests(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.wants_until = Time(0);
        }
    }

    /// What may wait here, of all links, while bulk begins to go.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.here.bound()
    }

    /// When there may be room for a fragment of a link, if there is none now.
    #[must_use]
    pub fn wait_until(&self, now: Time, connection: ConnectionId) -> Time {
        let soon = Time(now.0.saturating_add(GATE_WAIT_NS_MIN));
        let way = self.links.get(&connection).map(|link| &link.way).filter(|way| way.room() == 0);
        if let Some(way) = way {
            let ns = way.wait_ns(LINK_FRAGMENT_BYTES as u64 / 2).min(GATE_WAIT_FAR_NS_MAX);
            return soon.max(Time(now.0.saturating_add(ns)));
        }
        if self.here.room() == 0 {
            // All who wait for the interface look together.
            return soon.max(self.refreshes_at());
        }
        // It is the turn of another, who looks within that time; but it is waited for no longer than until the interface would run dry.
        let ns = self.here.wait_ns(self.here.bound() / 4 * 3).min(GATE_WAIT_NS_MAX);
        soon.max(Time(now.0.saturating_add(ns)))
    }

    /// Bytes a second of a link, as far as that was measured.
    #[must_use]
    pub fn rate(&self, connection: ConnectionId) -> Option<u64> {
        self.links.get(&connection)?.way.rate()
    }
}

impl Link {
    fn round_trip(&self) -> Option<u64> {
        self.round_trips.iter().copied().flatten().min()
    }
}

#[cfg(test)]
mod tests;
