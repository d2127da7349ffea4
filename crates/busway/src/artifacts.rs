//! Artifacts: bodies that are to be at many nodes, by name of their bytes.
//!
//! A program offers an artifact on a topic; its node tells the others, which ask for the bytes of whoever has them. An offer is state, not a message: it stands until
//! it is withdrawn, and who comes late, or was away, is told what stands then. Who subscribes is given each artifact once, whole and checked.
//!
//! What a node has of others lies in its memory, within its budgets, and what is larger than 256 KiB in its store, in memory or in a directory. It comes in pieces, from all who have some.
//!
//! Invariant: what is handed out has the size and the hash that its advert says; what is handed out of one that still comes is a part of that.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip;
use busway_wire::{Pattern, Topic};

use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::runtime::{Call, Calls};

mod artifact;
mod away;
mod broadcaster;
mod handler;
mod hatch;
mod machine;
mod offer;
pub(crate) mod store;
mod subscriber;
mod voice;
mod words;
mod workers;

pub use artifact::{Arriving, Artifact, Reader};
pub(crate) use away::{Away, Held};
pub use broadcaster::{BroadcastCounts, Broadcaster, Draft};
pub use busway_protocol::gossip::{ArtifactId, Interest};
pub(crate) use handler::Handling;
pub use handler::{ArtifactHandler, Flow, Heard, PeerEvent, WhenFull, Word};
pub(crate) use hatch::{Hatch, HatchReach};
pub use machine::{SwarmHandler, SwarmOffer};
pub use offer::{Destination, Offer, OfferBuilder, Reach};
use offer::{Exact, Source};
pub use subscriber::{Event, Subscriber, SubscriberBuilder};
pub use voice::Voice;
pub use workers::{EVENT_FLOWS, FlowCounts, Workers, WorkersBuilder};

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
    /// Pieces that were damaged in the store, and were not handed out.
    pub damaged: u64,
    /// Times that an artifact that was wanted had no room in the store, or that this could not be written.
    pub full: u64,
    /// Bytes of the store that are taken.
    pub stored_bytes: u64,
    /// Artifacts that are wanted, and for which there is no room now.
    pub waiting: u64,
    /// What programs of its host asked for and were refused: what was not understood, and what is beyond a bound.
    pub refused: u64,
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
        hatch::check_pattern(&pattern)?;
        let own = crate::ports::lock(&bus.core.artifacts).clone();
        let calls = own.map_or_else(|| away::calls(bus, &pattern), Ok)?;
        Ok(Self { calls, pattern })
    }

    /// Offers these bytes, at most 4 GiB and what the store of the node has room for, to be opened with [`OfferBuilder::open`].
    pub fn offer(&self, body: &[u8]) -> OfferBuilder {
        self.offer_of(Source::Bytes(body.into()))
    }

    /// Offers what is in a file now, as [`Artifacts::offer`]: it is read when the offer is opened, and may go behind that.
    pub fn offer_file(&self, path: impl AsRef<Path>) -> OfferBuilder {
        self.offer_of(Source::File(path.as_ref().to_owned()))
    }

    /// Offers what this gives until its end, as [`Artifacts::offer`]: it is read when the offer is opened.
    pub fn offer_reader(&self, reader: impl Read + Send + 'static) -> OfferBuilder {
        self.offer_of(Source::Reader(Box::new(reader)))
    }

    /// Offers the next `size` bytes that this gives, as [`Artifacts::offer`]: it is read when the offer is opened. Its room is taken before the first of them is read, and they are not
    /// gathered anywhere else; where it gives fewer, nothing is offered.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus = busway::Bus::open("example-of-offer-sized")?;
    /// let node = busway::Node::builder().listen("127.0.0.1:0".parse()?).open(&bus)?;
    /// let offer = bus.artifacts("block.new")?.offer_sized(&b"a block and more"[..], 7).open()?;
    /// assert_eq!(offer.id(), busway::artifacts::ArtifactId::of(b"a block"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn offer_sized(&self, reader: impl Read + Send + 'static, size: u64) -> OfferBuilder {
        self.offer_of(Source::Sized(Exact::new(reader, size), size))
    }

    fn offer_of(&self, source: Source) -> OfferBuilder {
        OfferBuilder::new(&self.calls, self.topic(), source)
    }

    /// The artifact of this name, if this node or another offers it on a topic of these: waits for it at most for `timeout`.
    ///
    /// # Errors
    /// [`Code::TimedOut`] where it is not all here by then; what has come of it is not asked for again, if the store is a directory. [`Code::Closed`] where the node has ended;
    /// [`Code::Forked`].
    pub fn fetch(&self, id: ArtifactId, timeout: Duration) -> Result<Artifact, Error> {
        let mut subscriber = self.subscriber().only(id).open()?;
        let deadline = busway_shm::clock::Deadline::after(timeout);
        loop {
            match subscriber.recv_timeout(deadline.remaining().unwrap_or(timeout))? {
                Some(Event::Received(artifact)) => return Ok(artifact),
                Some(Event::Withdrawn(_) | Event::Progress { .. } | Event::Arriving(_)) => {}
                None => {
                    return Err(Error::new(Code::TimedOut, format!("it has not come after {timeout:?}"))
                        .at(format!("artifact {id}"))
                        .remedy("see who offers it: Artifacts::list, and who is linked: busway peers"));
                }
            }
        }
    }

    /// Who is given the artifacts, to be opened with [`SubscriberBuilder::open`].
    pub fn subscriber(&self) -> SubscriberBuilder {
        SubscriberBuilder::new(&self.calls, self.pattern.clone())
    }

    /// Those that the node knows of, by node and in the order of its slots.
    ///
    /// # Errors
    /// [`Code::Closed`] where the node has ended.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        self.list_after(None, usize::MAX)
    }

    /// The first `most` of those behind this one, as [`Artifacts::list`] has them; of all, where it is `None`.
    ///
    /// # Errors
    /// As [`Artifacts::list`].
    pub fn list_after(&self, after: Option<&Listed>, most: usize) -> Result<Vec<Listed>, Error> {
        let pattern = self.pattern.clone();
        let after = after.map(|listed| listed.advert.reference());
        let listed = self.calls.ask(|answer| Call::List { pattern, after, most, answer })??;
        Ok(listed
            .into_iter()
            .map(|listed| Listed { advert: Advert { of: listed.advert }, here: listed.here, own: listed.own })
            .collect())
    }

    /// Takes back what this node offers on these topics under this name, whoever offered it; returns how many such offers there were.
    ///
    /// # Errors
    /// [`Code::Closed`] where the node has ended.
    pub fn remove(&self, id: ArtifactId) -> Result<usize, Error> {
        let own: Vec<Listed> = self.list()?.into_iter().filter(|of| of.own && of.advert.id() == id).collect();
        for listed in &own {
            let of = listed.advert.reference();
            match self.calls.way() {
                // Who ends behind this does not take it along.
                Some(away) => away.remove(of)?,
                None => self.calls.leave(Call::Withdraw { of }),
            }
        }
        Ok(own.len())
    }

    /// What the node has counted since its start, of all topics. All is 0 where it does not answer: see [`Artifacts::try_counts`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.try_counts().unwrap_or_default()
    }

    /// As [`Artifacts::counts`].
    ///
    /// # Errors
    /// [`Code::Closed`] where the node of the host has ended, [`Code::TimedOut`] where it does not answer.
    pub fn try_counts(&self) -> Result<Counts, Error> {
        self.calls.way().map_or_else(|| Ok(self.calls.counts()), Away::counts)
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

/// As milliseconds that a machine counts: at least one.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests;
