//! What goes wrong on the lines: nothing passes, bytes are lost or changed, connections end.
//!
//! Invariant: whoever waits behind a partition is told all of it when the partition ends, in order.

use busway_protocol::Time;

use super::stream::Stream;
use super::{End, Item, Network, Side};
use crate::fault::Pair;

/// After a partition the first segment comes again when the sender's timer fires, at the latest after this.
const RETRANSMIT_NS_MAX: u64 = 400_000_000;

impl Network {
    /// Nothing passes from one host to another, until as many `unblock`.
    pub fn block(&mut self, from: usize, to: usize) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    /// Takes one `block` back. What waited comes after a while.
    pub fn unblock(&mut self, now: Time, from: usize, to: usize) {
        let Some(count) = self.blocked.get_mut(&(from, to)) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.blocked.remove(&(from, to));
        let again = Time(now.0 + self.rng.u64(0..=RETRANSMIT_NS_MAX));
        for (connection, c) in self.connections.iter_mut() {
            for item in std::mem::take(&mut c.waiting) {
                self.agenda.enter(again, item);
            }
            for from_side in [Side::Dialer, Side::Acceptor] {
                let pair = (c.hosts[from_side.index()], c.hosts[from_side.other().index()]);
                let stream = &mut c.streams[from_side.index()];
                if pair != (from, to) || stream.black {
                    continue;
                }
                stream.arrives_at = stream.arrives_at.max(again);
                for _ in stream.scheduled..stream.flying() {
                    stream.scheduled += 1;
                    let item = Item::Arrive { connection, from: from_side };
                    self.agenda.enter(stream.arrives_at, item);
                }
            }
        }
    }

    /// Whether anything passes from one host to another.
    #[must_use]
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.blocked.contains_key(&(from, to))
    }

    /// Both ends are told that the connection is gone.
    pub fn reset(&mut self, now: Time, connection: u64) {
        let Some(c) = self.connections.get_mut(connection) else { return };
        for stream in &mut c.streams {
            stream.die();
        }
        self.enter_reset(now, connection, Side::Dialer);
        self.enter_reset(now, connection, Side::Acceptor);
    }

    /// Of what this end writes, only so many bytes come; then its direction ends.
    pub fn truncate(&mut self, end: End, after: usize) {
        self.spoiled.insert(end.connection);
        if let Some(c) = self.connections.get_mut(end.connection) {
            c.streams[end.side.index()].cut_after = Some(after);
        }
    }

    /// One bit of what this end has written, or will write next, comes wrong.
    pub fn corrupt(&mut self, end: End) {
        self.spoiled.insert(end.connection);
        let at = self.rng.usize(..);
        let bit = self.rng.u8(0..8);
        if let Some(c) = self.connections.get_mut(end.connection) {
            c.streams[end.side.index()].corrupt(at, bit);
        }
    }

    /// Whether what is read from the connection may differ from what was written.
    #[must_use]
    pub fn is_spoiled(&self, connection: u64) -> bool {
        self.spoiled.contains(&connection)
    }

    /// No new connection reaches one host from another, until as many `hear`.
    pub fn ignore(&mut self, from: usize, to: usize) {
        *self.deaf.entry((from, to)).or_default() += 1;
    }

    /// Takes one `ignore` back.
    pub fn hear(&mut self, from: usize, to: usize) {
        if let Some(count) = self.deaf.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.deaf.remove(&(from, to));
            }
        }
    }

    /// Nothing that is written to the connection comes any more, and nobody is told.
    pub fn swallow(&mut self, connection: u64) {
        if let Some(c) = self.connections.get_mut(connection) {
            for stream in &mut c.streams {
                stream.black = true;
            }
        }
    }

    /// The pairs of hosts that have a broken connection, the lower number first.
    #[must_use]
    pub fn broken(&self) -> Vec<Pair> {
        let broken =
            self.connections.iter().map(|(_, c)| c).filter(|c| c.streams.iter().any(Stream::is_broken));
        broken.map(|c| Pair { from: c.hosts[0].min(c.hosts[1]), to: c.hosts[0].max(c.hosts[1]) }).collect()
    }

    /// Whether the connection is one that `swallow` has hit, or that was cut or ended on one side.
    #[must_use]
    pub fn is_broken(&self, connection: u64) -> bool {
        self.connections.get(connection).is_some_and(|c| c.streams.iter().any(Stream::is_broken))
    }
}
