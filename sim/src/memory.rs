//! The shared memory of one host, which outlives its node: publishers' rings, relay rings and subscribers.
//!
//! It knows no links. What is seen in it is reported, for the checkers.
//!
//! Invariant: an entry of a relay ring reaches each subscriber that was attached before it.

use std::collections::BTreeMap;

use busway_wire::link::Announce;
use busway_wire::{Pattern, PortId};

use crate::few::Few;
use crate::relay::{Entry, Next, Relay};
use crate::ring::{Full, Ring};
use crate::seen::Seen;
use crate::subscriber::Subscriber;

/// One pattern that somebody on the host wants of other hosts: the same pattern of many is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Our number for it.
    pub id: u32,
    /// The topics.
    pub pattern: Pattern,
    /// Whether publishers wait.
    pub reliable: bool,
}

/// The shared memory of one host.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The host.
    pub host: usize,
    /// Entries of a relay ring.
    pub relay_slots: usize,
    /// Publishers' rings.
    pub rings: BTreeMap<PortId, Ring>,
    relays: BTreeMap<u64, Relay>,
    subscribers: BTreeMap<u64, Subscriber>,
    /// What the host wants of others.
    pub wishes: Vec<Wish>,
    /// Subscribers that have something to read.
    pub rung: Few<u64>,
    /// Whether a subscriber has made room since the node last looked.
    pub room_made: bool,
    opened: u64,
    numbered: u32,
}

impl Memory {
    /// The empty memory of a host.
    #[must_use]
    pub(crate) fn new(host: usize, relay_slots: usize) -> Memory {
        Memory { host, relay_slots, ..Memory::default() }
    }

    /// A subscriber begins. Returns what is new to want of other hosts.
    pub(crate) fn subscribe(
        &mut self,
        number: u64,
        subscriber: Subscriber,
        seen: &mut Vec<Seen>,
    ) -> Option<Wish> {
        let (pattern, reliable) = (subscriber.pattern.clone(), subscriber.reliable);
        self.subscribers.insert(number, subscriber);
        let matching: Vec<u64> = self.open_relays(|relay| pattern.matches(&relay.announce.topic));
        for ring in matching {
            self.attach(number, ring, seen);
        }
        if self.wishes.iter().any(|wish| wish.pattern == pattern && wish.reliable == reliable) {
            return None;
        }
        self.numbered += 1;
        let wish = Wish { id: self.numbered, pattern, reliable };
        self.wishes.push(wish.clone());
        Some(wish)
    }

    /// A subscriber leaves. Returns what nobody wants any more.
    pub(crate) fn unsubscribe(&mut self, number: u64) -> Option<Wish> {
        let gone = self.subscribers.remove(&number)?;
        for relay in self.relays.values_mut() {
            relay.detach(number);
        }
        self.room_made = true;
        let same = |s: &Subscriber| s.pattern == gone.pattern && s.reliable == gone.reliable;
        if self.subscribers.values().any(same) {
            return None;
        }
        let at = self.wishes.iter().position(|w| w.pattern == gone.pattern && w.reliable == gone.reliable)?;
        Some(self.wishes.remove(at))
    }

    /// A subscriber.
    pub(crate) fn subscriber_mut(&mut self, number: u64) -> Option<&mut Subscriber> {
        self.subscribers.get_mut(&number)
    }

    /// How many relay rings were ever opened.
    pub(crate) fn relays_opened(&self) -> u64 {
        self.opened
    }

    /// Opens a relay ring; those who want it read it from its beginning.
    pub(crate) fn open_relay(&mut self, announce: &Announce, seen: &mut Vec<Seen>) -> u64 {
        self.opened += 1;
        let ring = self.opened;
        let (host, source) = (self.host, announce.source);
        seen.push(Seen::RelayOpened { host, ring, source, reliable: announce.reliable });
        self.relays.insert(ring, Relay::new(announce.clone(), self.relay_slots));
        let wanting = self.subscribers.iter().filter(|(_, s)| s.pattern.matches(&announce.topic));
        let wanting: Vec<u64> = wanting.map(|(&number, _)| number).collect();
        for number in wanting {
            self.attach(number, ring, seen);
        }
        ring
    }

    /// Adds an entry to a relay ring.
    ///
    /// # Errors
    /// A subscriber for which the source waits is behind.
    pub(crate) fn push(&mut self, ring: u64, entry: Entry, seen: &mut Vec<Seen>) -> Result<(), Full> {
        let Some(relay) = self.relays.get_mut(&ring) else { return Ok(()) };
        let (first, last) = (entry.first(), entry.last());
        relay.push(entry)?;
        let (host, source) = (self.host, relay.source());
        self.ring_subscribers(ring);
        seen.push(Seen::RelayPushed { host, ring, source, first, last });
        Ok(())
    }

    /// Nothing will be added to a relay ring.
    pub(crate) fn close_relay(&mut self, ring: u64) {
        if let Some(relay) = self.relays.get_mut(&ring) {
            relay.closed = true;
            self.ring_subscribers(ring);
        }
        self.forget_read_relays();
    }

    fn ring_subscribers(&mut self, ring: u64) {
        let Some(relay) = self.relays.get(&ring) else { return };
        for number in relay.subscribers() {
            self.rung.insert(number);
            if let Some(subscriber) = self.subscribers.get_mut(&number) {
                subscriber.rung(relay.source());
            }
        }
    }

    /// The node is dead.
    pub(crate) fn node_died(&mut self) {
        for ring in self.rings.values_mut() {
            ring.orphan();
        }
        for ring in self.open_relays(|_| true) {
            self.close_relay(ring);
        }
    }

    /// A subscriber takes one entry, if there is one.
    pub(crate) fn consume(&mut self, number: u64, seen: &mut Vec<Seen>) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&number) else { return false };
        while let Some((source, ring)) = subscriber.next() {
            let next = self.relays.get_mut(&ring).map_or(Next::End, |relay| relay.take(number));
            match next {
                Next::Entry(entry) => {
                    self.room_made = true;
                    let host = self.host;
                    subscriber.take(source, entry, |told| {
                        seen.push(Seen::Told { host, subscriber: number, source, told });
                    });
                    return true;
                }
                Next::Lapped => {
                    subscriber.lapped(source);
                    return true;
                }
                Next::End => {
                    subscriber.ended(source);
                    if let Some(relay) = self.relays.get_mut(&ring) {
                        relay.detach(number);
                    }
                    self.forget_read_relays();
                    return true;
                }
                Next::Nothing => subscriber.emptied(source),
            }
        }
        false
    }

    fn attach(&mut self, number: u64, ring: u64, seen: &mut Vec<Seen>) {
        let (Some(relay), Some(subscriber)) = (self.relays.get_mut(&ring), self.subscribers.get_mut(&number))
        else {
            return;
        };
        relay.attach(number);
        subscriber.opened(relay.source(), ring);
        let (host, source) = (self.host, relay.source());
        let from_start = relay.last().is_none();
        seen.push(Seen::Attached { host, subscriber: number, source, from_start });
    }

    fn open_relays(&self, wanted: impl Fn(&Relay) -> bool) -> Vec<u64> {
        let open = self.relays.iter().filter(|(_, relay)| !relay.closed && wanted(relay));
        open.map(|(&ring, _)| ring).collect()
    }

    fn forget_read_relays(&mut self) {
        self.relays.retain(|_, relay| !relay.closed || relay.subscribers().next().is_some());
    }
}
