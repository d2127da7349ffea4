//! What comes: from whom, in what order, and what is held back.
//!
//! One subscriber reads all senders in turn. One that is suspended is held: its messages stay in its ring, which fills, so
//! that it is held back and no other is. When a sender has started again, what its earlier start had sent comes first;
//! what comes of that later is dropped and counted. The first message of a start waits until the sender can be answered.
//!
//! Invariant: of one sender nothing is handed out while something earlier of it is kept here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use busway_shm::clock::Deadline;
use busway_wire::PortId;

use super::address::Address;
use super::outgoing::Outgoing;
use super::tidings::{Order, Stance, Tidings};
use super::{Event, Message, Peer};
use crate::outcome::RecvError;
use crate::runtime::Hub;
use crate::sample::Sample;
use crate::subscriber::Subscriber;

/// While a start of a sender waits for its turn, it is looked at so often.
const SWITCH: Duration = Duration::from_millis(2);
/// So long the first message of a sender waits at most for the way back. One that listens to nothing is heard all the same.
const ANSWERABLE: Duration = Duration::from_secs(1);
/// Earlier starts of one sender that are remembered: as many as can have something under way at once, and some.
const RETIRED_MAX: usize = 8;

/// One sender.
#[derive(Debug, Default)]
struct From {
    /// The source that is read now: one start of the sender.
    source: Option<PortId>,
    /// Later starts, held until the present one has nothing more.
    next: VecDeque<Start>,
    retired: VecDeque<PortId>,
    suspended: bool,
    /// What was handed out and came back, in order.
    kept: VecDeque<Message>,
}

/// The first message of a start of a sender.
#[derive(Debug)]
struct Start {
    source: PortId,
    message: Message,
    until: Deadline,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Inbox {
    subscriber: Subscriber,
    tidings: Arc<Tidings>,
    outgoing: Arc<Outgoing>,
    /// Not kept: the links end before who reads.
    hub: Weak<Hub>,
    instance: u64,
    senders: BTreeMap<Peer, From>,
    /// Senders with more than one start.
    switching: BTreeSet<Peer>,
    /// What was kept and is handed out again.
    again: VecDeque<Message>,
    /// Peers that are forgotten once what they have sent is handed out.
    leaving: BTreeSet<Peer>,
    stance: Stance,
}

impl Inbox {
    pub(super) fn new(
        subscriber: Subscriber,
        tidings: &Arc<Tidings>,
        outgoing: &Arc<Outgoing>,
        hub: &Arc<Hub>,
    ) -> Self {
        Self {
            subscriber,
            tidings: tidings.clone(),
            outgoing: outgoing.clone(),
            hub: Arc::downgrade(hub),
            instance: hub.instance(),
            senders: BTreeMap::new(),
            switching: BTreeSet::new(),
            again: VecDeque::new(),
            leaving: BTreeSet::new(),
            stance: Stance::Open,
        }
    }

    /// The next message; `None` when the time is up.
    pub(super) fn next(&mut self, deadline: Deadline) -> Result<Option<Message>, RecvError> {
        loop {
            match self.obey() {
                Stance::Closing => return Err(RecvError::Closed),
                Stance::Paused if deadline.expired() => return Ok(None),
                Stance::Paused => {
                    self.tidings.wait(deadline);
                    continue;
                }
                Stance::Open => {}
            }
            if let Some(message) = self.again.pop_front().or_else(|| self.switch()) {
                return Ok(Some(self.hand_out(message)));
            }
            let until =
                if self.switching.is_empty() { deadline } else { deadline.earlier(Deadline::after(SWITCH)) };
            let tidings = self.tidings.clone();
            let taken = self.subscriber.recv_unless(until, || tidings.has_news());
            self.tell_losses();
            match taken? {
                Some(sample) => {
                    if let Some(message) = self.sort(sample) {
                        return Ok(Some(self.hand_out(message)));
                    }
                }
                None if deadline.expired() && !self.tidings.has_news() => return Ok(None),
                None => {}
            }
        }
    }

    fn hand_out(&self, message: Message) -> Message {
        self.tidings.count(|counters| counters.received += 1);
        message
    }

    /// Does what was ordered.
    fn obey(&mut self) -> Stance {
        if !self.tidings.has_news() {
            return self.stance;
        }
        let (orders, stance) = self.tidings.take();
        self.stance = stance;
        for order in orders {
            match order {
                Order::Suspend(message) => self.suspend(message),
                Order::Resume => self.resume(),
                Order::Forget(peer) => self.forget(peer),
            }
        }
        stance
    }

    /// Whose message it is, and whether its turn has come.
    fn sort(&mut self, sample: Sample) -> Option<Message> {
        let (own, instance) = (self.outgoing.own(), self.instance);
        let address = Address::parse(sample.topic());
        let Some(address) = address.filter(|to| to.to == own && to.instance == instance) else {
            self.stale();
            return None;
        };
        let (source, from) = (sample.source(), Peer::from(address.from));
        let message = Message { sample, from };
        let sender = self.senders.entry(from).or_default();
        if sender.retired.contains(&source) {
            self.stale();
            return None;
        }
        if sender.source == Some(source) {
            if !sender.suspended {
                return Some(message);
            }
            sender.kept.push_back(message);
            return None;
        }
        sender.next.push_back(Start { source, message, until: Deadline::after(ANSWERABLE) });
        self.switching.insert(from);
        self.subscriber.hold(source);
        None
    }

    /// The first message of a later start whose turn has come.
    fn switch(&mut self) -> Option<Message> {
        let peer = *self.switching.iter().find(|peer| self.has_turn(**peer))?;
        let sender = self.senders.get_mut(&peer)?;
        let Start { source, message, .. } = sender.next.pop_front()?;
        if sender.next.is_empty() {
            self.switching.remove(&peer);
        }
        if sender.retired.len() >= RETIRED_MAX {
            sender.retired.pop_front();
        }
        sender.retired.extend(sender.source.replace(source));
        self.subscriber.let_go(source);
        Some(message)
    }

    /// Whether the next start of a sender may be heard: nothing of the one before is left, and it can be answered, or is
    /// gone, or does not listen.
    fn has_turn(&self, peer: Peer) -> bool {
        let Some(sender) = self.senders.get(&peer).filter(|sender| !sender.suspended) else { return false };
        let Some(start) = sender.next.front() else { return false };
        let over = sender.source.is_none_or(|source| !self.subscriber.has_of(source));
        let gone = || self.hub.upgrade().is_none_or(|hub| !hub.is_connected(peer.into()));
        over && (self.outgoing.is_up(peer) || start.until.expired() || gone())
    }

    /// Keeps a message that was handed out, and holds its sender.
    pub(super) fn suspend(&mut self, message: Message) {
        self.tidings.count(|counters| {
            counters.suspended += 1;
            counters.received = counters.received.saturating_sub(1);
        });
        let Some(sender) = self.senders.get_mut(&message.from) else {
            // Its sender is forgotten: there is nobody to hold.
            return self.again.push_back(message);
        };
        if let Some(source) = sender.source {
            self.subscriber.hold(source);
        }
        sender.suspended = true;
        let from = message.from;
        sender.kept.push_back(message);
        // What was to come again of this sender comes after it.
        let again = std::mem::take(&mut self.again);
        for later in again {
            if later.from == from { sender.kept.push_back(later) } else { self.again.push_back(later) }
        }
    }

    fn resume(&mut self) {
        for sender in self.senders.values_mut().filter(|sender| sender.suspended) {
            sender.suspended = false;
            self.again.append(&mut sender.kept);
            if let Some(source) = sender.source {
                self.subscriber.let_go(source);
            }
        }
    }

    /// A peer will not come back, or begins anew. What it has sent is handed out all the same.
    fn forget(&mut self, peer: Peer) {
        self.leaving.insert(peer);
        let Self { leaving, senders, subscriber, .. } = self;
        leaving.retain(|peer| {
            let busy = senders.get(peer).is_some_and(|sender| {
                let unread = sender.source.is_some_and(|source| subscriber.has_of(source));
                sender.suspended || !sender.next.is_empty() || unread
            });
            if !busy {
                senders.remove(peer);
            }
            busy
        });
    }

    fn stale(&self) {
        self.tidings.count(|counters| counters.stale += 1);
    }

    fn tell_losses(&mut self) {
        for loss in self.subscriber.losses() {
            let Some(address) = Address::parse(loss.topic.as_str()) else { continue };
            let (peer, count, cause) = (address.from.into(), loss.count, loss.cause);
            self.tidings.tell(Event::Missed { peer, count, cause });
        }
    }

    /// Messages that have come and were not handed out.
    pub(super) fn unread(&mut self) -> u64 {
        self.subscriber.meet();
        let kept: usize = self.senders.values().map(|from| from.kept.len() + from.next.len()).sum();
        let here = u64::try_from(kept + self.again.len()).unwrap_or(u64::MAX);
        self.subscriber.account().in_flight.saturating_add(here)
    }
}
