//! What is said to a peer about work, and what it says: one source on each way of its link, which no ring stands behind.
//!
//! Words wait here until the peer has confirmed them, so that a new connection goes on where the last one ended, and what has come waits
//! here until it is taken: the peer is not answered before, so that its window bounds what waits. Each word bears the number of the start of
//! the peer for which it is; what comes for an earlier start of ours is dropped.
//!
//! It does not know what the words mean, and says and hears nothing by itself.
//!
//! Invariant: `out` holds each word from the first that the peer has not confirmed, in order; its sequences have no hole.

use std::collections::VecDeque;
use std::sync::Arc;

use busway_protocol::{Delivery, Input};
use busway_wire::link::{Announce, label_of};
use busway_wire::work::topic;
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Topic};

use crate::bus::Core;
use crate::error::Error;
use crate::ports::work_line;
use crate::runtime::Outbound;
use crate::runtime::import::Inputs;

/// Our number, at a peer, for its words about work: interests are counted from 1.
pub(crate) const WANT: u32 = u32::MAX;

/// A body under way to the peer.
#[derive(Clone, Debug)]
struct Said {
    to: u64,
    body: Arc<[u8]>,
}

/// A body that has come.
#[derive(Debug)]
struct Came {
    sequence: u64,
    for_us: bool,
    body: Vec<u8>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Channel {
    core: Arc<Core>,
    source: PortId,
    topic: Topic,
    host: String,
    /// The number of our start, and of the latest of the peer's.
    own: u64,
    instance: u64,
    up: bool,
    told: bool,
    out: VecDeque<Said>,
    /// The sequence before the first of `out`, and the last that was given to the session.
    confirmed: u64,
    read: u64,
    waiting_bytes: usize,
    theirs: Option<PortId>,
    inbox: VecDeque<Came>,
    partial: Option<(Header, Vec<u8>)>,
}

/// What is known of a peer when words are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The number of its latest start; 0 before its first hello.
    pub(crate) instance: u64,
    /// The link stands.
    pub(crate) up: bool,
    /// Bytes that were said and that the peer has not confirmed.
    pub(crate) waiting_bytes: usize,
}

impl Channel {
    pub(crate) fn new(core: &Arc<Core>, own: u64, host: &str) -> Result<Self, Error> {
        Ok(Self {
            core: core.clone(),
            source: Core::new_port()?,
            topic: topic(),
            host: host.to_owned(),
            own,
            instance: 0,
            up: false,
            told: false,
            out: VecDeque::new(),
            confirmed: 0,
            read: 0,
            waiting_bytes: 0,
            theirs: None,
            inbox: VecDeque::new(),
            partial: None,
        })
    }

    pub(crate) fn source(&self) -> PortId {
        self.source
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(crate) fn is_theirs(&self, source: PortId) -> bool {
        self.theirs == Some(source)
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing { instance: self.instance, up: self.up, waiting_bytes: self.waiting_bytes }
    }

    /// Somebody looks what has come.
    fn wake(&self) {
        self.core.ports.ring_bell(work_line());
    }

    /// A link stands. What an earlier start of the peer said and nobody has heard is forgotten.
    pub(crate) fn established(&mut self, instance: u64, inputs: &mut Inputs) {
        if self.instance != instance {
            let last = self.inbox.back().map(|came| came.sequence);
            self.inbox.clear();
            if let (Some(source), Some(sequence)) = (self.theirs, last) {
                inputs.push(Input::Published { source, sequence });
            }
        }
        (self.instance, self.up) = (instance, true);
        self.wake();
    }

    pub(crate) fn lost(&mut self) {
        if std::mem::replace(&mut self.up, false) {
            self.wake();
        }
    }

    /// The peer wants to hear of work.
    pub(crate) fn wanted(&mut self, inputs: &mut Inputs) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let announce = Announce {
            source: self.source,
            topic: self.topic.clone(),
            publisher: label_of("work"),
            process: label_of("work"),
            host: label_of(&self.host),
            created_ns: 0,
            reliable: true,
            resumes: false,
        };
        inputs.push(Input::Source { announce, next: self.read + 1 });
    }

    /// Says something to this start of the peer.
    pub(crate) fn say(&mut self, to: u64, body: Vec<u8>) {
        self.waiting_bytes += body.len();
        self.out.push_back(Said { to, body: body.into() });
    }

    /// The next word for the session, if there is one.
    pub(crate) fn next(&mut self) -> Option<(Header, Outbound)> {
        let at = usize::try_from(self.read - self.confirmed).ok()?;
        let Said { to, body } = self.out.get(at)?.clone();
        self.read += 1;
        let mut header = Header::new(Kind::Publish);
        header.topic.set(self.topic.id().0);
        header.source.set(self.source.0);
        header.sequence.set(self.read);
        header.correlation.set(to);
        header.size.set(u32::try_from(HEADER_SIZE + body.len()).unwrap_or(u32::MAX));
        Some((header, Outbound::Said(body)))
    }

    pub(crate) fn has_next(&self) -> bool {
        self.read - self.confirmed < self.out.len() as u64
    }

    /// The peer has all up to here.
    pub(crate) fn confirm(&mut self, sequence: u64) {
        let sequence = sequence.min(self.read);
        while self.confirmed < sequence {
            self.confirmed += 1;
            self.waiting_bytes -= self.out.pop_front().map_or(0, |said| said.body.len());
        }
    }

    /// What followed this may not have arrived.
    pub(crate) fn rewind(&mut self, to: u64) {
        self.read = to.clamp(self.confirmed, self.read);
    }

    /// The peer has announced the source of its words.
    pub(crate) fn open(&mut self, source: PortId, inputs: &mut Inputs) {
        self.theirs = Some(source);
        self.partial = None;
        inputs.push(Input::RelayOpened { source });
    }

    pub(crate) fn close(&mut self) {
        (self.theirs, self.partial) = (None, None);
    }

    pub(crate) fn abort(&mut self) {
        self.partial = None;
    }

    /// What has come of the source of the peer's words.
    pub(crate) fn deliver(&mut self, delivery: Delivery<'_>) {
        match delivery {
            Delivery::Message { header, body } => {
                self.come(&header, body.get(header.extension_bytes()..).unwrap_or_default().to_vec());
            }
            Delivery::Run { header, records } => {
                for message in records {
                    self.come(&message.header(&header), message.payload.to_vec());
                }
            }
            Delivery::Begin { header, extensions } => self.partial = Some((header, extensions.to_vec())),
            Delivery::Bytes { bytes, .. } => {
                if let Some((_, body)) = &mut self.partial {
                    body.extend_from_slice(bytes);
                }
            }
            Delivery::End { .. } => {
                if let Some((header, mut body)) = self.partial.take() {
                    body.drain(..header.extension_bytes().min(body.len()));
                    self.come(&header, body);
                }
            }
        }
    }

    fn come(&mut self, header: &Header, body: Vec<u8>) {
        let for_us = header.correlation.get() == self.own;
        let body = if for_us { body } else { Vec::new() };
        self.inbox.push_back(Came { sequence: header.sequence.get(), for_us, body });
        self.wake();
    }

    /// Takes what has come; the session is told that it has its place.
    pub(crate) fn take(&mut self, come: &mut Vec<Vec<u8>>, inputs: &mut Inputs) {
        let Some(last) = self.inbox.back().map(|came| came.sequence) else { return };
        come.extend(self.inbox.drain(..).filter(|came| came.for_us).map(|came| came.body));
        if let Some(source) = self.theirs {
            inputs.push(Input::Published { source, sequence: last });
        }
    }
}
