//! What is sent: a publisher for each peer, opened when the peer is there and dropped when it has ended.
//!
//! A publisher's ring is the queue to its peer; the peer's node gates it, so it keeps what the peer has not acknowledged,
//! also while their link is down. Publishers of an earlier start of a peer are dropped, and what they had is told as lost.
//!
//! Invariant: a pair that is up has a publisher that its peer's node reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::PeerId;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::limits::CLUSTER_MESSAGE_BYTES_MAX;

use super::address::{Address, queue_between};
use super::tidings::{Order, Tidings};
use super::{Event, Outcome, Peer};
use crate::bus::Bus;
use crate::error::Error;
use crate::outcome::SendError;
use crate::ports::lock;
use crate::publisher::Publisher;
use crate::runtime::LinkView;

/// What we have for one peer.
#[derive(Debug)]
struct Pair {
    publisher: Publisher,
    /// The start of the peer that it is for.
    instance: u64,
    up: bool,
    /// The last message that was queued.
    queued: u64,
}

impl Pair {
    /// Messages that the peer has not acknowledged.
    fn behind(&self) -> u64 {
        self.queued.saturating_sub(self.publisher.account().delivered)
    }

    /// As [`Pair::behind`], once all is acknowledged or the time is up.
    fn settle(&mut self, timeout: Duration) -> u64 {
        // Who is behind is counted next.
        let _ = self.publisher.flush(timeout);
        self.behind()
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Outgoing {
    bus: Bus,
    own: PeerId,
    tidings: Arc<Tidings>,
    pairs: Mutex<BTreeMap<PeerId, Arc<Mutex<Pair>>>>,
    closing: AtomicBool,
}

impl Outgoing {
    pub(super) fn new(bus: &Bus, own: PeerId, tidings: &Arc<Tidings>) -> Self {
        let (pairs, closing) = (Mutex::default(), AtomicBool::new(false));
        Self { bus: bus.clone(), own, tidings: tidings.clone(), pairs, closing }
    }

    pub(super) fn own(&self) -> PeerId {
        self.own
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) // pairs with Release in `close`
    }

    /// From now on nothing is sent.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release); // pairs with Acquire in `is_closing`
    }

    fn pair(&self, peer: PeerId) -> Option<Arc<Mutex<Pair>>> {
        lock(&self.pairs).get(&peer).cloned()
    }

    pub(super) fn send(&self, to: Peer, payload: &[u8]) -> Outcome {
        let outcome = self.try_send(to.into(), payload);
        self.tidings.count(|counters| match outcome {
            Outcome::Queued => counters.queued += 1,
            Outcome::Full => counters.full += 1,
            Outcome::NotConnected => counters.not_connected += 1,
            Outcome::Closing | Outcome::TooLarge => {}
        });
        outcome
    }

    fn try_send(&self, to: PeerId, payload: &[u8]) -> Outcome {
        if self.is_closing() {
            return Outcome::Closing;
        }
        if payload.len() > CLUSTER_MESSAGE_BYTES_MAX {
            return Outcome::TooLarge;
        }
        let Some(pair) = self.pair(to) else { return Outcome::NotConnected };
        let mut pair = lock(&pair);
        // Nobody who reads it: it would be gone without a word.
        if !pair.up || pair.publisher.subscribers() == 0 {
            return Outcome::NotConnected;
        }
        match pair.publisher.try_send(payload) {
            Ok(sent) => {
                pair.queued = sent.sequence;
                Outcome::Queued
            }
            Err(SendError::Full(_) | SendError::Timeout(_) | SendError::OutOfMemory(_)) => Outcome::Full,
            Err(SendError::TooLarge { .. } | SendError::Encode(_)) => Outcome::TooLarge,
            Err(SendError::Closed | SendError::Forked) => Outcome::Closing,
        }
    }

    /// Those that are up.
    pub(super) fn up(&self) -> Vec<Peer> {
        let pairs = lock(&self.pairs).clone();
        pairs.into_iter().filter(|(_, pair)| lock(pair).up).map(|(peer, _)| peer.into()).collect()
    }

    pub(super) fn is_up(&self, peer: Peer) -> bool {
        self.pair(peer.into()).is_some_and(|pair| lock(&pair).up)
    }

    /// Brings the pairs up to date with the links. Returns whether something is to come: a peer that is linked and does
    /// not read yet.
    pub(super) fn follow(&self, links: &[LinkView]) -> bool {
        let mut to_come = false;
        for link in links.iter().filter(|link| link.peer != self.own) {
            match self.pair(link.peer) {
                Some(pair) => to_come |= self.follow_one(&pair, link),
                None if link.connected => to_come |= self.open(link),
                None => {}
            }
        }
        let gone = |peer: &PeerId| !links.iter().any(|link| link.peer == *peer);
        let gone: Vec<PeerId> = lock(&self.pairs).keys().copied().filter(gone).collect();
        for peer in gone {
            let Some(pair) = lock(&self.pairs).remove(&peer) else { continue };
            self.given_up(peer, &mut lock(&pair), None, "it is forgotten");
            self.tidings.order(Order::Forget(peer.into()));
        }
        to_come
    }

    fn follow_one(&self, pair: &Mutex<Pair>, link: &LinkView) -> bool {
        let mut held = lock(pair);
        if link.connected && held.instance != link.instance {
            // What another start of it acknowledges is lost all the same.
            let confirmed = link.left.get(&held.publisher.id()).copied();
            self.given_up(link.peer, &mut held, confirmed, "it has started again");
            drop(held);
            lock(&self.pairs).remove(&link.peer);
            return self.open(link);
        }
        let up = link.connected && (held.up || held.publisher.subscribers() > 0);
        if up != held.up {
            held.up = up;
            drop(held);
            let peer = link.peer.into();
            self.tidings.tell(if up {
                Event::Up { peer }
            } else {
                let reason = link.last_error.clone().unwrap_or_else(|| "the connection has ended".to_owned());
                Event::Down { peer, reason }
            });
        }
        link.connected && !up
    }

    /// Nothing more goes to this start of a peer.
    fn given_up(&self, peer: PeerId, pair: &mut Pair, confirmed: Option<u64>, reason: &str) {
        let peer = peer.into();
        if std::mem::take(&mut pair.up) {
            self.tidings.tell(Event::Down { peer, reason: reason.to_owned() });
        }
        let count =
            confirmed.map_or_else(|| pair.behind(), |confirmed| pair.queued.saturating_sub(confirmed));
        if count > 0 {
            self.tidings.tell(Event::Lost { peer, count });
        }
    }

    /// Opens the way to a peer that is linked; true if it does not read yet.
    fn open(&self, link: &LinkView) -> bool {
        let made = match self.publisher(link) {
            Ok(publisher) => Pair { publisher, instance: link.instance, up: false, queued: 0 },
            Err(error) => {
                tracing::warn!(target: "busway::cluster", peer = %Peer::from(link.peer), "cannot send to a peer: {error}");
                return true;
            }
        };
        let pair = Arc::new(Mutex::new(made));
        lock(&self.pairs).insert(link.peer, pair.clone());
        self.follow_one(&pair, link)
    }

    fn publisher(&self, link: &LinkView) -> Result<Publisher, Error> {
        let address = Address { to: link.peer, instance: link.instance, from: self.own };
        let (slots, bytes) = queue_between(self.own, link.peer);
        let topic = address.topic().map_err(Error::from)?;
        let publisher = self.bus.publisher_of(topic).slots_max(slots).bytes_max(bytes);
        // The peer's node never counts as stalled: what it has not taken is kept, and what follows is refused.
        publisher.max_wait(Duration::MAX).open_reserved()
    }

    /// Waits until all that is queued is acknowledged by those that are up, all together at most `timeout`; returns what
    /// is not.
    pub(super) fn drain(&self, timeout: Duration) -> u64 {
        let deadline = busway_shm::clock::Deadline::after(timeout);
        let pairs: Vec<Arc<Mutex<Pair>>> = lock(&self.pairs).values().cloned().collect();
        let mut left = 0;
        for pair in pairs {
            let mut pair = lock(&pair);
            let patience = if pair.up { deadline.remaining().unwrap_or(timeout) } else { Duration::ZERO };
            left += pair.settle(patience);
        }
        left
    }

    /// Lets all publishers go.
    pub(super) fn clear(&self) {
        let pairs = std::mem::take(&mut *lock(&self.pairs));
        drop(pairs);
    }
}

/// Sends, and nothing else: cheap to clone, for other threads and for handlers. It does not keep its endpoint open.
#[derive(Clone, Debug)]
pub struct Sender {
    pub(super) outgoing: Arc<Outgoing>,
}

impl Sender {
    /// Sends to the replica with this index.
    pub fn send_to_replica(&self, index: u8, payload: &[u8]) -> Outcome {
        self.send(Peer::Replica(index), payload)
    }

    /// Sends to the client with this id. Clients are linked to replicas only.
    pub fn send_to_client(&self, id: u64, payload: &[u8]) -> Outcome {
        self.send(Peer::Client(id), payload)
    }

    /// Sends to whomever; an answer goes to [`Message::from`](super::Message::from).
    pub fn send(&self, to: Peer, payload: &[u8]) -> Outcome {
        self.outgoing.send(to, payload)
    }
}
