//! Messages of peers towards local subscribers: relay rings, what waits for room in them, what has begun to come.
//!
//! Invariant: the entries of a relay ring are what was delivered, in that order.

use std::collections::VecDeque;

use busway_protocol::{Delivery, Input, PeerId, Time};
use busway_wire::link::Announce;
use busway_wire::{Cause, HEADER_SIZE, Header, PortId};

use super::{Around, Canary, Node};
use crate::relay::Entry;
use crate::seen::{Budget, Seen};
use crate::trace::Happening;

/// How long a node that is broken on purpose keeps what it has acknowledged.
const KEPT_MS: u64 = 20;

/// One source of one peer.
#[derive(Debug)]
pub(super) struct Inbound {
    ring: u64,
    /// What waits for room.
    pub(super) suspended: VecDeque<Entry>,
    suspended_bytes: u64,
    /// The message that has begun to come.
    pub(super) open: Option<Open>,
    /// Nothing more will come.
    closing: bool,
    /// A broken node keeps what has come until then.
    kept_until: Time,
}

/// A message of which bytes are still to come.
#[derive(Debug)]
pub(super) struct Open {
    header: Header,
    size: u64,
    body: Vec<u8>,
}

/// Where bytes of an open message belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) source: PortId,
    pub(super) offset: u64,
}

impl Node {
    pub(super) fn open_relay(&mut self, id: PeerId, announce: &Announce, around: &mut Around<'_>) {
        let source = announce.source;
        let elsewhere =
            |(other, peer): (&PeerId, &super::Peer)| *other != id && peer.relays.contains_key(&source);
        if self.peers.iter().any(elsewhere) {
            self.tell(id, Input::RelayRefused { source, cause: Cause::SpoofedSource }, around);
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(inbound) = peer.relays.get_mut(&source) {
            inbound.closing = false;
        } else {
            let ring = around.memory.open_relay(announce, around.seen);
            let suspended = VecDeque::new();
            let (open, closing, kept_until) = (None, false, Time(0));
            let inbound = Inbound { ring, suspended, suspended_bytes: 0, open, closing, kept_until };
            peer.relays.insert(source, inbound);
        }
        self.tell(id, Input::RelayOpened { source }, around);
    }

    pub(super) fn close_relay(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        let Some(inbound) = self.peers.get_mut(&id).and_then(|peer| peer.relays.get_mut(&source)) else {
            return;
        };
        inbound.closing = true;
        self.close_if_done(id, source, around);
    }

    fn close_if_done(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let done = |inbound: &Inbound| inbound.closing && inbound.suspended.is_empty();
        if peer.relays.get(&source).is_some_and(done)
            && let Some(inbound) = peer.relays.remove(&source)
        {
            around.memory.close_relay(inbound.ring);
        }
    }

    /// Takes what has come for a relay ring.
    pub(super) fn deliver(&mut self, id: PeerId, delivery: Delivery<'_>, around: &mut Around<'_>) {
        match delivery {
            Delivery::Message { header, body } => self.arrived(id, header, body, around),
            Delivery::Run { header, records } => {
                for message in records {
                    self.arrived(id, message.header(&header), message.payload, around);
                }
            }
            Delivery::Begin { header, extensions } => {
                let source = header.source();
                let size = u64::from(header.size.get()).saturating_sub(HEADER_SIZE as u64);
                let Some(inbound) = self.inbound(id, source) else { return broken(around, "no relay") };
                let open = Open { header, size, body: extensions.to_vec() };
                if inbound.open.replace(open).is_some() {
                    broken(around, "two messages of a source are open");
                }
                let open: u64 =
                    self.peers.values().flat_map(|p| p.relays.values()).map(Inbound::open_bytes).sum();
                let host = around.memory.host;
                let (what, held, bound) = (Budget::OpenBytes, open, self.open_bound());
                around.seen.push(Seen::Held { host, what, held, bound });
            }
            Delivery::Bytes { source, offset, bytes } => {
                self.place_bytes(id, Place { source, offset }, bytes, around);
            }
            Delivery::End { source } => {
                let open = self.inbound(id, source).and_then(|inbound| inbound.open.take());
                let Some(open) = open else { return broken(around, "the end of no message") };
                if open.body.len() as u64 != open.size {
                    return broken(around, "a message ended before its size");
                }
                self.arrived(id, open.header, &open.body, around);
            }
        }
    }

    /// The rest of an open message will not come.
    pub(super) fn abort(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        if self.inbound(id, source).and_then(|inbound| inbound.open.take()).is_none() {
            broken(around, "the end of no message");
        }
    }

    /// The connection is gone, and each message that was open has been given up.
    pub(super) fn expect_nothing_open(&mut self, id: PeerId, around: &mut Around<'_>) {
        let open = |peer: &super::Peer| peer.relays.values().any(|inbound| inbound.open.is_some());
        if self.peers.get(&id).is_some_and(open) {
            broken(around, "an open message was not given up");
        }
    }

    pub(super) fn place_bytes(&mut self, id: PeerId, place: Place, bytes: &[u8], around: &mut Around<'_>) {
        let open = self.inbound(id, place.source).and_then(|inbound| inbound.open.as_mut());
        let Some(open) = open else { return broken(around, "bytes of no message") };
        if place.offset != open.body.len() as u64 {
            return broken(around, "bytes of a message do not follow each other");
        }
        open.body.extend_from_slice(bytes);
        if open.body.len() as u64 > open.size {
            broken(around, "more bytes of a message than its size");
        }
    }

    /// A gap behind what was delivered before.
    pub(super) fn relay_gap(
        &mut self,
        id: PeerId,
        source: PortId,
        (from, to, cause): (u64, u64, Cause),
        around: &mut Around<'_>,
    ) {
        self.enter(id, source, Entry::Gap { from, to, cause }, around);
    }

    /// A whole message.
    fn arrived(&mut self, id: PeerId, header: Header, body: &[u8], around: &mut Around<'_>) {
        let (source, sequence) = (header.source(), header.sequence.get());
        around.trace.note(
            around.world,
            Happening {
                host: around.memory.host,
                what: "message",
                whom: source.0,
                much: sequence,
                source: 0,
                note: "",
            },
        );
        let Some(payload) = body.get(header.extension_bytes()..) else {
            return broken(around, "a message is shorter than its extensions");
        };
        let payload = payload.into();
        self.enter(id, source, Entry::Message { sequence, payload }, around);
    }

    fn enter(&mut self, id: PeerId, source: PortId, entry: Entry, around: &mut Around<'_>) {
        let canary = self.setup.canary;
        let Some(inbound) = self.inbound(id, source) else { return broken(around, "no relay") };
        let sequence = entry.last();
        if canary == Canary::AcknowledgesEarly {
            inbound.suspended.push_back(entry);
            inbound.kept_until = around.now.after_ms(KEPT_MS);
            self.again = Some(inbound.kept_until);
            self.suspended.insert((id, source));
            return self.tell(id, Input::Published { source, sequence }, around);
        }
        if inbound.suspended.is_empty()
            && around.memory.push(inbound.ring, entry.clone(), around.seen).is_ok()
        {
            return self.tell(id, Input::Published { source, sequence }, around);
        }
        let message = matches!(entry, Entry::Message { .. });
        inbound.suspended_bytes += entry.size() as u64;
        inbound.suspended.push_back(entry);
        self.suspended.insert((id, source));
        let Some(inbound) = self.inbound(id, source) else { return };
        let (messages, bytes) = (inbound.suspended.len() as u64, inbound.suspended_bytes);
        let largest = inbound.suspended.iter().map(Entry::size).max().unwrap_or(0) as u64;
        let hello = &self.setup.config.hello;
        let host = around.memory.host;
        // A gap stands beside the messages; a message that is larger than the window comes alone.
        let bound = u64::from(hello.window_messages) * 2;
        around.seen.push(Seen::Held { host, what: Budget::SuspendedMessages, held: messages, bound });
        let bound = hello.window_bytes.max(largest);
        around.seen.push(Seen::Held { host, what: Budget::SuspendedBytes, held: bytes, bound });
        if message {
            self.tell(id, Input::Suspended { source }, around);
        }
    }

    /// Puts into the relay rings what has waited for room.
    pub(super) fn resume_all(&mut self, around: &mut Around<'_>) {
        for (id, source) in self.suspended.clone() {
            self.resume(id, source, around);
            self.close_if_done(id, source, around);
            if self.inbound(id, source).is_none_or(|inbound| inbound.suspended.is_empty()) {
                self.suspended.remove(&(id, source));
            }
        }
    }

    fn resume(&mut self, id: PeerId, source: PortId, around: &mut Around<'_>) {
        let mut published = None;
        let canary = self.setup.canary;
        let Some(inbound) = self.inbound(id, source) else { return };
        if inbound.kept_until > around.now {
            self.again = Some(inbound.kept_until);
            return;
        }
        while let Some(entry) = inbound.suspended.front() {
            if around.memory.push(inbound.ring, entry.clone(), around.seen).is_err() {
                break;
            }
            published = Some(entry.last());
            if let Some(entry) = inbound.suspended.pop_front() {
                inbound.suspended_bytes = inbound.suspended_bytes.saturating_sub(entry.size() as u64);
            }
        }
        if let (Some(sequence), Canary::Sound) = (published, canary) {
            self.tell(id, Input::Published { source, sequence }, around);
        }
    }

    fn inbound(&mut self, id: PeerId, source: PortId) -> Option<&mut Inbound> {
        self.peers.get_mut(&id)?.relays.get_mut(&source)
    }

    /// Bytes that all peers together may have begun to send: each its credit, or one message that is larger.
    fn open_bound(&self) -> u64 {
        let hello = &self.setup.config.hello;
        let each = hello.credit_bytes.max(u64::from(hello.message_bytes_max));
        each * self.peers.len() as u64
    }
}

impl Inbound {
    /// The relay ring.
    pub(super) fn ring(&self) -> u64 {
        self.ring
    }

    fn open_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.size)
    }
}

fn broken(around: &mut Around<'_>, what: &'static str) {
    around.seen.push(Seen::Broken { host: around.memory.host, what });
}
