//! Artifacts: bodies that are to be at many nodes, by name of their bytes.
//!
//! A program offers an artifact on a topic; its node tells the others, which ask for the bytes of whoever has them. An offer is state, not a message: it stands until
//! it is withdrawn, and who comes late, or was away, is told what stands then. Who subscribes is given each artifact once, whole and checked.
//!
//! What a node has of others lies in its memory, within its budgets. An artifact has up to 256 KiB.
//!
//! Invariant: what is handed out has the size and the hash that its advert says.

use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip;
use busway_wire::{Pattern, Topic};

use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::runtime::{Call, Calls};

mod offer;
mod subscriber;

pub use busway_protocol::gossip::{ArtifactId, Interest};
pub use offer::{Destination, Offer, OfferBuilder, Reach};
pub use subscriber::{Event, Subscriber, SubscriberBuilder};

/// The artifacts of a topic, or of topics. See [`Bus::artifacts`].
#[derive(Clone, Debug)]
pub struct Artifacts {
    calls: Arc<Calls>,
    pattern: Pattern,
}

/// An artifact that is offered, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    of: gossip::Advert,
}

/// An artifact, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    advert: Advert,
    body: Arc<[u8]>,
}

/// What the node has counted of artifacts. Of what it was told, `told` = `handled` + `coalesced` + `dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Changes of offers that other nodes told.
    pub told: u64,
    /// Of these, those that are known now.
    pub handled: u64,
    /// Of these, those that were known already, or older than what was.
    pub coalesced: u64,
    /// Of these, those that are not kept: for want of room, for their size, and because nobody may say so.
    pub dropped: [u64; 3],
    /// Offers that their node may not publish here: they count as withdrawn.
    pub denied: u64,
    /// Changes of its own offers that it told others.
    pub said: u64,
    /// Bytes of larger artifacts that came and were wanted.
    pub bytes_useful: u64,
    /// The same that nobody waited for any more, or that were wrong.
    pub bytes_wasted: u64,
    /// The same that it gave to others.
    pub bytes_given: u64,
}

/// What `busway artifacts ls` shows of one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Listed {
    /// Which.
    pub advert: Advert,
    /// All of its bytes are at this node.
    pub here: bool,
    /// This node offers it.
    pub own: bool,
}

impl Artifacts {
    pub(crate) fn of(bus: &Bus, pattern: &str) -> Result<Self, Error> {
        bus.core.check()?;
        let pattern = Pattern::parse(pattern).map_err(Error::bad_pattern)?;
        if pattern.as_str().trim_start_matches('^').starts_with('$') {
            return Err(Error::new(Code::ReservedTopic, "artifacts cannot be on a topic of the bus")
                .at(format!("topic {}", pattern.as_str()))
                .remedy("choose a name that does not begin with `$`"));
        }
        let calls = crate::ports::lock(&bus.core.artifacts).clone();
        let calls = calls.ok_or_else(|| {
            Error::new(Code::NoNode, "no node of this process shares artifacts")
                .at(format!("topic {}", pattern.as_str()))
                .remedy("open one with Node::builder().index(..), and keep it open")
        })?;
        Ok(Self { calls, pattern })
    }

    /// Offers these bytes, at most 256 KiB, to be opened with [`OfferBuilder::open`].
    pub fn offer(&self, body: &[u8]) -> OfferBuilder {
        OfferBuilder::new(&self.calls, self.topic(), body)
    }

    /// Who is given the artifacts, to be opened with [`SubscriberBuilder::open`].
    pub fn subscriber(&self) -> SubscriberBuilder {
        SubscriberBuilder::new(&self.calls, self.pattern.clone())
    }

    /// Those that the node knows of, in no particular order.
    ///
    /// # Errors
    /// [`Code::Closed`] where the node has ended.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let listed = self.calls.ask(|answer| Call::List { answer })?;
        let listed = listed.into_iter().filter(|listed| self.pattern.matches(&listed.advert.topic));
        Ok(listed
            .map(|listed| Listed { advert: Advert { of: listed.advert }, here: listed.here, own: listed.own })
            .collect())
    }

    /// What the node has counted since its start, of all topics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (counts, _, denied) = self.calls.counts();
        Counts {
            told: counts.told_of,
            handled: counts.handled,
            coalesced: counts.coalesced,
            dropped: counts.dropped,
            denied,
            said: counts.said,
            bytes_useful: counts.bytes_useful,
            bytes_wasted: counts.bytes_wasted,
            bytes_given: counts.bytes_given,
        }
    }

    fn topic(&self) -> Result<Topic, Error> {
        self.pattern.exact().cloned().ok_or_else(|| {
            Error::new(Code::BadTopic, "an artifact is offered on one topic, and this is a pattern")
                .at(format!("pattern {}", self.pattern.as_str()))
                .remedy("name the topic in full")
        })
    }
}

impl Advert {
    pub(crate) fn new(of: gossip::Advert) -> Self {
        Self { of }
    }

    /// On which topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.of.topic.as_str()
    }

    /// The name of the bytes: BLAKE3 of them.
    #[must_use]
    pub fn id(&self) -> ArtifactId {
        self.of.id
    }

    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.of.size
    }

    /// What its origin says of it beside.
    #[must_use]
    pub fn attribute(&self) -> &[u8] {
        &self.of.attribute
    }

    /// The index of the node that offers it.
    #[must_use]
    pub fn node(&self) -> u8 {
        self.of.of.node.0
    }

    pub(crate) fn reference(&self) -> gossip::Reference {
        self.of.of
    }
}

impl Artifact {
    pub(crate) fn new(advert: gossip::Advert, body: Arc<[u8]>) -> Self {
        Self { advert: Advert::new(advert), body }
    }

    /// What it is.
    #[must_use]
    pub fn advert(&self) -> &Advert {
        &self.advert
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Its bytes, shared: nothing is copied.
    #[must_use]
    pub fn body(&self) -> Arc<[u8]> {
        self.body.clone()
    }
}

/// As milliseconds that a machine counts: at least one.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
