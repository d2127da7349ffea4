//! A slot of another node as it was at one version: what stood in it, who has it, and to whom we have said that we do.
//!
//! Invariant: what is charged for an entry is charged to its teller, and given back when the entry has gone.

use alloc::boxed::Box;
use alloc::sync::Arc;

use busway_wire::Topic;
use busway_wire::gossip::{ArtifactId, Content, NodeIndex, Offer, Reference, Standing};

use crate::artifact::{Name, TopicHash, Travel};
use crate::flow::{Charge, Flow, Flows};
use crate::gossip::reader::Reader;
use crate::gossip::table::cost;
use crate::gossip::{Advert, Interest, Nodes};
use crate::time::{PeerId, Time};

/// What stands in a slot.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) topic: Topic,
    pub(super) attribute: Box<[u8]>,
    pub(super) confirm: bool,
    pub(super) id: ArtifactId,
    pub(super) size: u64,
    /// All of it, checked.
    pub(super) body: Option<Arc<[u8]>>,
    /// All of it lies in the store.
    pub(super) stored: bool,
    pub(super) interest: Option<Interest>,
    /// The user has it.
    pub(super) received: bool,
}

/// A slot of another node at one version.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its node has said so itself.
    pub(super) first_hand: bool,
    /// Who is charged for it, and how much.
    teller: NodeIndex,
    bytes: u64,
    /// The bytes apart from it that are charged.
    body_bytes: u64,
    since: Time,
    /// Without, it is over.
    pub(super) artifact: Option<Box<Artifact>>,
    /// The user does not want it.
    pub(super) declined: bool,
    /// Who has said that it has the bytes.
    pub(super) holders: Nodes,
    /// Who may believe that we have them: whom we have said so, and who has not acknowledged that we do not.
    pub(super) told: Nodes,
    /// Its place in the order of marks, or 0.
    pub(super) mark: u64,
}

impl Artifact {
    pub(super) fn of(offer: Offer) -> Artifact {
        let (id, size, body) = match offer.content {
            Content::Inside { body } => (ArtifactId::of(&body), body.len() as u64, Some(body.into())),
            Content::Apart { id, size } => (id, size, None),
        };
        Artifact {
            topic: offer.topic,
            attribute: offer.attribute.into(),
            confirm: offer.confirm,
            id,
            size,
            body,
            stored: false,
            interest: None,
            received: false,
        }
    }

    /// Its name in the store, where it comes in pieces.
    pub(super) fn name(&self) -> Option<Name> {
        let (id, size) = (self.id, self.size);
        (Travel::of(size) == Travel::Pieces).then(|| Name { id, size, topic: TopicHash::of(&self.topic) })
    }

    fn cost(&self) -> u64 {
        cost(&self.topic, self.attribute.len(), self.body.as_ref().map_or(0, |body| body.len() as u64))
    }

    pub(super) fn said(&self) -> Offer {
        let content = match (&self.body, Travel::of(self.size)) {
            (Some(body), Travel::Inside) => Content::Inside { body: body.to_vec() },
            (_, Travel::Inside | Travel::Whole | Travel::Pieces) => {
                Content::Apart { id: self.id, size: self.size }
            }
        };
        let attribute = self.attribute.to_vec();
        Offer { topic: self.topic.clone(), attribute, confirm: self.confirm, content }
    }

    pub(super) fn advert(&self, of: Reference) -> Advert {
        let (topic, attribute) = (self.topic.clone(), self.attribute.to_vec());
        Advert { of, topic, id: self.id, size: self.size, attribute, confirm: self.confirm }
    }
}

impl Entry {
    /// What `teller` says of it, if there is room for that.
    pub(super) fn of(
        now: Time,
        artifact: Artifact,
        (teller, first_hand): (NodeIndex, bool),
        flows: &mut Flows,
    ) -> Option<Entry> {
        let bytes = artifact.cost();
        flows.charge(Charge { flow: Flow::Advert, peer: peer(teller), bytes }).ok()?;
        Some(Entry {
            first_hand,
            teller,
            bytes,
            body_bytes: 0,
            since: now,
            artifact: Some(Box::new(artifact)),
            declined: false,
            holders: Nodes::default(),
            told: Nodes::default(),
            mark: 0,
        })
    }

    pub(super) fn teller(&self) -> NodeIndex {
        self.teller
    }

    /// Whether we have the bytes, and want to give them.
    pub(super) fn has_body(&self) -> bool {
        self.artifact
            .as_ref()
            .is_some_and(|artifact| artifact.received && (artifact.stored || artifact.body.is_some()))
    }

    /// It stands nowhere any more.
    pub(super) fn is_over(&self) -> bool {
        self.artifact.is_none()
    }

    pub(super) fn says(&self, offer: &Offer) -> bool {
        self.artifact.as_ref().is_some_and(|artifact| artifact.said() == *offer)
    }

    /// What `to` is to be told of us and this slot.
    pub(super) fn standing(
        &self,
        now: Time,
        of: Reference,
        to: NodeIndex,
        reader: &Reader,
    ) -> Option<Standing> {
        if to == of.node {
            let confirm = self.artifact.as_ref().is_some_and(|artifact| artifact.confirm);
            return match (self.has_body(), self.declined) {
                (true, _) if confirm => Some(Standing::Has),
                (false, true) => Some(Standing::Declines),
                (true | false, _) => None,
            };
        }
        if !self.has_body() {
            return self.told.has(to).then_some(Standing::Lacks);
        }
        let wanted = self.artifact.as_ref().is_some_and(|a| reader.admits(now, &a.topic, self.since));
        (wanted && !self.holders.has(to)).then_some(Standing::Has)
    }

    /// What stood there is kept no more: only who is to be told.
    pub(super) fn shrink(&mut self, flows: &mut Flows) -> Option<Box<Artifact>> {
        let artifact = self.artifact.take()?;
        self.release_body(flows);
        self.release(flows);
        // It is less than what was given back.
        let charge = Charge { flow: Flow::Advert, peer: peer(self.teller), bytes: cost_of_nothing() };
        self.bytes = flows.charge(charge).map_or(0, |()| charge.bytes);
        Some(artifact)
    }

    /// Gives back what it was charged.
    pub(super) fn release(&mut self, flows: &mut Flows) {
        let bytes = core::mem::take(&mut self.bytes);
        if bytes > 0 {
            flows.release(Charge { flow: Flow::Advert, peer: peer(self.teller), bytes });
        }
    }

    /// Charges its bytes, which are to come; whether there is room.
    pub(super) fn charge_body(&mut self, size: u64, flows: &mut Flows) -> bool {
        let charge = Charge { flow: Flow::Chunk, peer: peer(self.teller), bytes: size };
        if self.body_bytes == 0 && flows.has_room(charge) && flows.charge(charge).is_ok() {
            self.body_bytes = size;
        }
        self.body_bytes > 0
    }

    pub(super) fn release_body(&mut self, flows: &mut Flows) {
        let bytes = core::mem::take(&mut self.body_bytes);
        if bytes > 0 {
            flows.release(Charge { flow: Flow::Chunk, peer: peer(self.teller), bytes });
        }
    }
}

/// What an entry without an offer is charged.
fn cost_of_nothing() -> u64 {
    busway_wire::limits::GOSSIP_SLOT_BYTES / 2
}

fn peer(node: NodeIndex) -> PeerId {
    PeerId::Node { index: node.0 }
}
