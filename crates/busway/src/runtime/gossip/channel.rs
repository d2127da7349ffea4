//! What is said to a node about artifacts, and what it says: a source for each lane on each way of a link, which no ring stands behind.
//!
//! Nothing waits here to be said: the machine is asked for the next word when the session takes one, lane by lane. What has come waits
//! until it is taken, and the peer is not answered before, so that its window bounds what waits. Words are of one link: when that ends what
//! has come and was not taken is forgotten, and the next link has other sources, which say from the beginning what is so.
//!
//! It does not know what the words mean.
//!
//! Invariant: a source of ours is of one link. What waits here has come over the link that stands.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_protocol::gossip::Lane;
use busway_protocol::{Delivery, Input};
use busway_wire::gossip;
use busway_wire::limits::{ARTIFACT_CHUNK_BYTES, GOSSIP_WORD_BYTES_MAX};
use busway_wire::link::{Announce, label_of};
use busway_wire::{HEADER_SIZE, Header, PortId, Topic};

use crate::bus::Core;
use crate::error::Error;
use crate::runtime::Outbound;
use crate::runtime::gossip::calls::Calls;
use crate::runtime::import::Inputs;

/// Our number, at a peer, for its words about artifacts: interests are counted from 1, and that of work is the last.
pub(crate) const WANT: u32 = u32::MAX - 1;

const LANES: usize = Lane::ALL.len();
const BODY_BYTES_MAX: usize = GOSSIP_WORD_BYTES_MAX + ARTIFACT_CHUNK_BYTES;

/// A lane of ours.
#[derive(Debug)]
struct Ours {
    topic: Topic,
    source: PortId,
    said: u64,
    /// There is something for it, and the session had no room.
    waits: bool,
}

/// A lane of the peer's.
#[derive(Debug, Default)]
struct Theirs {
    source: Option<PortId>,
    /// What comes in pieces; nothing of what is no word.
    partial: Option<(Header, Option<Vec<u8>>)>,
}

/// A body that has come; nothing of what is no word.
#[derive(Debug)]
struct Came {
    lane: Lane,
    source: PortId,
    sequence: u64,
    body: Option<Vec<u8>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Channel {
    calls: Arc<Calls>,
    host: String,
    ours: [Ours; LANES],
    theirs: [Theirs; LANES],
    inbox: VecDeque<Came>,
    /// What was in the inbox and is of a lane of which nothing was taken.
    left: [VecDeque<Came>; LANES],
    /// Links so far.
    links: u64,
    up: bool,
    /// The peer's number for its wish to hear such words, which it keeps from link to link.
    wanted: Option<u32>,
}

impl Channel {
    pub(crate) fn new(calls: &Arc<Calls>, host: &str) -> Result<Self, Error> {
        let [advert, request, chunk] = gossip::topics();
        let ours = |topic| Ok::<_, Error>(Ours { topic, source: Core::new_port()?, said: 0, waits: false });
        Ok(Self {
            calls: calls.clone(),
            host: host.to_owned(),
            ours: [ours(advert)?, ours(request)?, ours(chunk)?],
            theirs: Default::default(),
            inbox: VecDeque::new(),
            left: Default::default(),
            links: 0,
            up: false,
            wanted: None,
        })
    }

    /// Which link stands, if one does.
    pub(crate) fn link(&self) -> Option<u64> {
        self.up.then_some(self.links)
    }

    pub(crate) fn source(&self, lane: Lane) -> PortId {
        self.ours[lane as usize].source
    }

    pub(crate) fn is_ours(&self, source: PortId) -> bool {
        self.ours.iter().any(|ours| ours.source == source)
    }

    pub(crate) fn is_theirs(&self, source: PortId) -> bool {
        self.theirs.iter().any(|theirs| theirs.source == Some(source))
    }

    pub(crate) fn is_lane(&self, topic: &Topic) -> bool {
        self.ours.iter().any(|ours| ours.topic == *topic)
    }

    /// A link stands.
    pub(crate) fn established(&mut self, inputs: &mut Inputs) {
        self.forget(inputs);
        self.links += 1;
        self.up = true;
        if self.wanted.is_some() {
            self.announce(inputs);
        }
        self.calls.wake();
    }

    fn forget(&mut self, inputs: &mut Inputs) {
        let left = self.left.iter_mut().flat_map(|left| left.drain(..));
        for Came { source, sequence, .. } in left.chain(self.inbox.drain(..)) {
            inputs.push(Input::Published { source, sequence });
        }
        self.theirs = Default::default();
    }

    /// The link has ended: its sources of ours, which end with it.
    pub(crate) fn lost(&mut self, inputs: &mut Inputs) -> [PortId; LANES] {
        self.forget(inputs);
        let former = Lane::ALL.map(|lane| self.source(lane));
        for ours in &mut self.ours {
            // Where there is no number for one it is the same again, and its sequences go on.
            if let Ok(source) = Core::new_port() {
                (ours.source, ours.said) = (source, 0);
            }
            ours.waits = false;
        }
        self.up = false;
        self.calls.wake();
        former
    }

    /// The peer takes words about artifacts.
    pub(crate) fn wanted(&mut self, id: u32, inputs: &mut Inputs) {
        if self.wanted.replace(id).is_none() && self.up {
            self.announce(inputs);
        }
    }

    /// It does not any more; whether it was this that it wanted.
    pub(crate) fn unwanted(&mut self, id: u32) -> bool {
        self.wanted.take_if(|wanted| *wanted == id).is_some()
    }

    fn announce(&self, inputs: &mut Inputs) {
        for ours in &self.ours {
            let announce = Announce {
                source: ours.source,
                topic: ours.topic.clone(),
                publisher: label_of("artifacts"),
                process: label_of("artifacts"),
                host: label_of(&self.host),
                created_ns: 0,
                reliable: false,
                resumes: false,
            };
            inputs.push(Input::Source { announce, next: ours.said + 1 });
        }
    }

    /// The peer has announced a lane of its words.
    pub(crate) fn open(&mut self, source: PortId, topic: &Topic, inputs: &mut Inputs) {
        let lanes = self.ours.iter().zip(&mut self.theirs);
        for (_, theirs) in lanes.filter(|(ours, _)| ours.topic == *topic) {
            *theirs = Theirs { source: Some(source), partial: None };
            inputs.push(Input::RelayOpened { source });
        }
    }

    fn lane_of(&mut self, source: PortId) -> Option<&mut Theirs> {
        self.theirs.iter_mut().find(|theirs| theirs.source == Some(source))
    }

    /// Nothing of this source comes any more.
    pub(crate) fn close(&mut self, source: PortId) {
        if let Some(theirs) = self.lane_of(source) {
            *theirs = Theirs::default();
        }
    }

    pub(crate) fn abort(&mut self, source: PortId) {
        if let Some(theirs) = self.lane_of(source) {
            theirs.partial = None;
        }
    }

    /// What has come of a source of the peer's.
    pub(crate) fn deliver(&mut self, delivery: Delivery<'_>) {
        match delivery {
            Delivery::Message { header, body } => {
                let body = body.get(header.extension_bytes()..).unwrap_or_default();
                self.come(&header, (body.len() <= BODY_BYTES_MAX).then(|| body.to_vec()));
            }
            Delivery::Run { header, records } => {
                for message in records {
                    self.come(&message.header(&header), Some(message.payload.to_vec()));
                }
            }
            Delivery::Begin { header, .. } => {
                let size = usize::try_from(header.size.get()).unwrap_or(usize::MAX);
                let size = size.saturating_sub(HEADER_SIZE + header.extension_bytes());
                let body = (size <= BODY_BYTES_MAX).then(|| Vec::with_capacity(size));
                if let Some(theirs) = self.lane_of(header.source()) {
                    theirs.partial = Some((header, body));
                }
            }
            Delivery::Bytes { source, offset, bytes } => {
                if let Some(Theirs { partial: Some((header, Some(body))), .. }) = self.lane_of(source) {
                    // The extensions are no part of the body; the caller says where these bytes belong.
                    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                    let skip = header.extension_bytes().saturating_sub(offset);
                    body.extend_from_slice(bytes.get(skip..).unwrap_or_default());
                }
            }
            Delivery::End { source } => {
                if let Some((header, body)) = self.lane_of(source).and_then(|theirs| theirs.partial.take()) {
                    self.come(&header, body);
                }
            }
        }
    }

    fn come(&mut self, header: &Header, body: Option<Vec<u8>>) {
        let (source, sequence) = (header.source(), header.sequence.get());
        let at = self.theirs.iter().position(|theirs| theirs.source == Some(source));
        let Some(lane) = at.and_then(|at| Lane::ALL.get(at).copied()) else { return };
        self.inbox.push_back(Came { lane, source, sequence, body });
        self.calls.wake();
    }

    /// Takes what has come in these lanes, in order in each; the session is told that it has its place.
    pub(crate) fn take(
        &mut self,
        lanes: [bool; LANES],
        come: &mut Vec<(Lane, Option<Vec<u8>>)>,
        inputs: &mut Inputs,
    ) {
        let left = self.left.iter_mut().zip(lanes).filter(|(_, wanted)| *wanted);
        let left: Vec<Came> = left.flat_map(|(left, _)| left.drain(..)).collect();
        for came in left.into_iter().chain(self.inbox.drain(..)) {
            if !lanes[came.lane as usize] {
                self.left[came.lane as usize].push_back(came);
                continue;
            }
            inputs.push(Input::Published { source: came.source, sequence: came.sequence });
            come.push((came.lane, came.body));
        }
    }

    /// The message in which a word is said.
    pub(crate) fn say(&mut self, lane: Lane, body: Vec<u8>) -> Input<Outbound> {
        let ours = &mut self.ours[lane as usize];
        ours.said += 1;
        let source = ours.source;
        let mut header = Header::new(gossip::kind_of(&ours.topic));
        header.topic.set(ours.topic.id().0);
        header.source.set(source.0);
        header.sequence.set(ours.said);
        header.size.set(u32::try_from(HEADER_SIZE + body.len()).unwrap_or(u32::MAX));
        Input::Publish { source, header, payload: Outbound::Said(Arc::new(body)) }
    }

    /// Whether there was something for a lane that had no room.
    pub(crate) fn waits(&self, lane: Lane) -> bool {
        self.ours[lane as usize].waits
    }

    pub(crate) fn set_waits(&mut self, lane: Lane, waits: bool) {
        self.ours[lane as usize].waits = waits;
    }

    /// There may be room for what waits.
    pub(crate) fn rouse(&self) {
        self.calls.wake();
    }
}
