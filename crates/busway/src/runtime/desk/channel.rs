//! What is said to a peer about work, and what it says: one source on each way of its link, which no ring stands behind.
//!
//! Words wait here until the peer has confirmed them, so that a new connection goes on where the last one ended, and what has come waits
//! here until it is taken: the peer is not answered before, so that its window bounds what waits. Each word bears the source of the peer's
//! words for which it is; what comes for an earlier source of ours is dropped. So a host that has forgotten the other, which both need not
//! notice, begins anew with it as one that has started again does.
//!
//! What it loses the right to while it waits here does not go: that it is over goes in its place, and the desk has it back. Of what went and was
//! not confirmed it is known on the next connection whether it came; what came stays the peer's.
//!
//! A peer that takes our words and does not confirm them, and one of whose words some are lost, is begun anew with: under a new source.
//!
//! It does not know what the words mean, but that a task which is over need not be said any more, and says and hears nothing by itself.
//!
//! Invariant: `out` holds each word from the first that the peer has not confirmed, in order; its sequences have no hole. It is never longer
//! than `WORK_WORDS_MAX`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::{Delivery, Input, Permits};
use busway_shm::clock;
use busway_wire::limits::{WORK_STRANGER_BYTES_MAX, WORK_WORDS_MAX};
use busway_wire::link::{Announce, label_of};
use busway_wire::work::topic;
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Topic};

use crate::bus::Core;
use crate::error::Error;
use crate::ports::work_line;
use crate::runtime::Outbound;
use crate::runtime::desk::says::{Body, Saying, Says};
use crate::runtime::import::Inputs;

/// Our number, at a peer, for its words about work: interests are counted from 1.
pub(crate) const WANT: u32 = u32::MAX;

/// A word under way to the peer.
#[derive(Clone, Debug)]
struct Said {
    to: PortId,
    /// `None`: it was for an earlier source of the peer's, and only keeps its place.
    saying: Option<Saying>,
    size: usize,
}

/// A body that has come.
#[derive(Debug)]
struct Came {
    sequence: u64,
    for_us: bool,
    body: Vec<u8>,
}

/// A body that comes in pieces.
#[derive(Debug)]
struct Partial {
    header: Header,
    /// `None`: it is not for us, or there is no room for it.
    body: Option<Vec<u8>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Channel {
    core: Arc<Core>,
    source: PortId,
    topic: Topic,
    host: String,
    /// The number of the latest start of the peer.
    instance: u64,
    up: bool,
    told: bool,
    out: VecDeque<Said>,
    /// The sequence before the first of `out`, and the last that was given to the session.
    confirmed: u64,
    read: u64,
    waiting_bytes: usize,
    /// Where the tasks lie that `out` gives.
    gives: BTreeMap<u64, u64>,
    /// Tasks that the peer may not have any more, and has not had.
    withheld: Vec<u64>,
    theirs: Option<PortId>,
    inbox: VecDeque<Came>,
    partial: Option<Partial>,
    /// It was given work, or may give us some: its words may be large.
    shares: bool,
    /// Words of the peer are lost: what we know of it may be wrong.
    has_lost: bool,
    warned: bool,
    /// It speaks other words than ours.
    is_older: bool,
}

/// Between which two sources words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Between {
    pub(crate) theirs: PortId,
    pub(crate) ours: PortId,
}

/// What is known of a peer when words are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The sources of its words and of ours; `None` before it has announced one. Others than before: one of us begins anew.
    pub(crate) between: Option<Between>,
    /// The link stands.
    pub(crate) up: bool,
    /// Bytes that were said and that the peer has not confirmed.
    pub(crate) waiting_bytes: usize,
    /// The same of all peers.
    pub(crate) of_all: usize,
    /// The largest message that the peer takes.
    pub(crate) largest: u64,
}

impl Channel {
    pub(crate) fn new(core: &Arc<Core>, host: &str) -> Result<Self, Error> {
        Ok(Self {
            core: core.clone(),
            source: Core::new_port()?,
            topic: topic(),
            host: host.to_owned(),
            instance: 0,
            up: false,
            told: false,
            out: VecDeque::new(),
            confirmed: 0,
            read: 0,
            waiting_bytes: 0,
            gives: BTreeMap::new(),
            withheld: Vec::new(),
            theirs: None,
            inbox: VecDeque::new(),
            partial: None,
            shares: false,
            has_lost: false,
            warned: false,
            is_older: false,
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
        let between = self.theirs.map(|theirs| Between { theirs, ours: self.source });
        let (of_all, largest) = (0, u64::MAX);
        Standing { between, up: self.up, waiting_bytes: self.waiting_bytes, of_all, largest }
    }

    /// Somebody looks what has come.
    fn wake(&self) {
        self.core.ports.ring_bell(work_line());
    }

    /// A link stands. What an earlier start of the peer said and nobody has heard is forgotten.
    pub(crate) fn established(&mut self, instance: u64, inputs: &mut Inputs) {
        if self.instance != instance {
            self.forget_theirs(inputs);
        }
        (self.instance, self.up) = (instance, true);
        self.wake();
    }

    /// What the peer has said means nothing any more, nor what was for it.
    fn forget_theirs(&mut self, inputs: &mut Inputs) {
        let last = self.inbox.back().map(|came| came.sequence);
        self.inbox.clear();
        self.partial = None;
        if let (Some(source), Some(sequence)) = (self.theirs.take(), last) {
            inputs.push(Input::Published { source, sequence });
        }
        for said in &mut self.out {
            (said.saying, said.size) = (None, 0);
        }
        self.gives.clear();
        self.withheld.clear();
        self.waiting_bytes = 0;
        (self.shares, self.has_lost) = (false, false);
    }

    pub(crate) fn lost(&mut self) {
        if std::mem::replace(&mut self.up, false) {
            self.wake();
        }
    }

    /// The peer wants to hear of work.
    pub(crate) fn wanted(&mut self, inputs: &mut Inputs) {
        if !std::mem::replace(&mut self.told, true) {
            self.announce(inputs);
        }
    }

    fn announce(&self, inputs: &mut Inputs) {
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

    /// Begins anew with the peer, under another source: what was said and heard means nothing any more.
    fn begin_anew(&mut self, why: &str, inputs: &mut Inputs) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(target: "busway::work", "begins anew with a peer, and says so once: {why}");
        }
        self.has_lost = false;
        // Where there is no number for one, nothing changes; it is tried again with the next word.
        let Ok(source) = Core::new_port() else { return };
        let former = std::mem::replace(&mut self.source, source);
        self.out.clear();
        self.gives.clear();
        self.withheld.clear();
        (self.confirmed, self.read, self.waiting_bytes) = (0, 0, 0);
        if self.told {
            inputs.push(Input::Revoked { source: former });
            self.announce(inputs);
        }
        self.wake();
    }

    /// Says all this to the peer, if it is who it was for. It was given `by` these rights; the others are those of now.
    pub(crate) fn say_all(
        &mut self,
        between: Between,
        say: Says,
        [by, now]: [&Permits; 2],
        inputs: &mut Inputs,
    ) {
        for saying in say.into_all() {
            self.say(between, saying, inputs);
        }
        if by != now {
            self.withhold(now);
        }
    }

    /// What the peer may not have, and has not had, does not go.
    pub(crate) fn withhold(&mut self, permits: &Permits) {
        let before = self.withheld.len();
        for sequence in self.read + 1..=self.confirmed + self.out.len() as u64 {
            let at = usize::try_from(sequence - self.confirmed - 1).ok();
            let said = at.and_then(|at| self.out.get(at)).and_then(|said| said.saying.as_ref());
            let Some((pull, task)) = said.and_then(|saying| saying.denied_by(permits)) else { continue };
            self.gives.remove(&task);
            self.instead(sequence, &Saying::Cancel { pull, task });
            self.withheld.push(task);
        }
        if self.withheld.len() > before {
            self.wake();
        }
    }

    /// Tasks that the peer may not have any more, and has not had.
    pub(crate) fn withheld(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.withheld)
    }

    /// Says something to the peer, if it is who it was for.
    fn say(&mut self, between: Between, saying: Saying, inputs: &mut Inputs) {
        if self.standing().between != Some(between) {
            return;
        }
        if let Saying::Cancel { task, .. } = saying
            && let Some(sequence) = self.gives.remove(&task)
            && !self.instead(sequence, &saying)
        {
            return;
        }
        if self.out.len() >= WORK_WORDS_MAX {
            return self.begin_anew("it takes our words and confirms none", inputs);
        }
        let (size, to) = (saying.size(), between.theirs);
        self.waiting_bytes += size;
        if let Some(task) = saying.gives() {
            self.gives.insert(task, self.confirmed + self.out.len() as u64 + 1);
        }
        self.out.push_back(Said { to, saying: Some(saying), size });
    }

    /// Puts a word in the place of one that the peer has not confirmed. Returns whether the other may be there already.
    fn instead(&mut self, sequence: u64, saying: &Saying) -> bool {
        let at = sequence.checked_sub(self.confirmed + 1).and_then(|at| usize::try_from(at).ok());
        let Some(said) = at.and_then(|at| self.out.get_mut(at)) else { return true };
        let size = saying.size();
        self.waiting_bytes = (self.waiting_bytes + size).saturating_sub(said.size);
        (said.saying, said.size) = (Some(saying.clone()), size);
        sequence <= self.read
    }

    /// The next word for the session, if there is one.
    pub(crate) fn next(&mut self) -> Option<(Header, Outbound)> {
        let at = usize::try_from(self.read - self.confirmed).ok()?;
        let said = self.out.get(at)?;
        let body =
            said.saying.as_ref().map_or_else(Body::default, |saying| saying.body(clock::monotonic_ns()));
        let to = said.to;
        self.read += 1;
        let mut header = Header::new(Kind::Publish);
        header.topic.set(self.topic.id().0);
        header.source.set(self.source.0);
        header.sequence.set(self.read);
        header.correlation.set(to.0);
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
            let Some(said) = self.out.pop_front() else { continue };
            self.waiting_bytes = self.waiting_bytes.saturating_sub(said.size);
            if let Some(task) = said.saying.as_ref().and_then(Saying::gives) {
                self.gives.remove(&task);
            }
        }
    }

    /// What followed this has not arrived.
    pub(crate) fn rewind(&mut self, to: u64, permits: &Permits) {
        self.read = to.clamp(self.confirmed, self.read);
        self.withhold(permits);
    }

    /// The peer has announced the source of its words.
    pub(crate) fn open(&mut self, source: PortId, inputs: &mut Inputs) {
        if self.theirs.is_some_and(|theirs| theirs != source) {
            self.forget_theirs(inputs);
        }
        self.theirs = Some(source);
        self.partial = None;
        inputs.push(Input::RelayOpened { source });
        self.wake();
    }

    /// Nothing of the peer's source comes any more.
    pub(crate) fn close(&mut self, inputs: &mut Inputs) {
        self.forget_theirs(inputs);
        self.wake();
    }

    /// Words of the peer will not come: both begin anew.
    pub(crate) fn gap(&mut self, source: PortId, to: u64, inputs: &mut Inputs) {
        inputs.push(Input::Published { source, sequence: to });
        self.has_lost = true;
        self.wake();
    }

    /// The peer was given work, or may give us some.
    pub(crate) fn shares_work(&mut self) {
        self.shares = true;
    }

    pub(crate) fn abort(&mut self) {
        self.partial = None;
    }

    /// What has come of the source of the peer's words.
    pub(crate) fn deliver(&mut self, delivery: Delivery<'_>) {
        match delivery {
            Delivery::Message { header, body } => {
                let body = body.get(header.extension_bytes()..).unwrap_or_default().to_vec();
                self.come(&header, Some(body));
            }
            Delivery::Run { header, records } => {
                for message in records {
                    self.come(&message.header(&header), Some(message.payload.to_vec()));
                }
            }
            Delivery::Begin { header, .. } => {
                let body = self.room_for(&header);
                self.partial = Some(Partial { header, body });
            }
            Delivery::Bytes { bytes, offset, .. } => {
                if let Some(Partial { header, body: Some(body) }) = &mut self.partial {
                    // The extensions are no part of the body; the caller says where these bytes belong.
                    let skip = header
                        .extension_bytes()
                        .saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX));
                    body.extend_from_slice(bytes.get(skip..).unwrap_or_default());
                }
            }
            Delivery::End { .. } => {
                if let Some(Partial { header, body }) = self.partial.take() {
                    self.come(&header, body);
                }
            }
        }
    }

    fn is_for_us(&self, header: &Header) -> bool {
        header.correlation.get() == self.source.0
    }

    /// Memory for a body that comes in pieces: refused rather than aborted, and none for who has no work of ours and may give us none.
    fn room_for(&self, header: &Header) -> Option<Vec<u8>> {
        let size =
            usize::try_from(header.size.get()).ok()?.saturating_sub(HEADER_SIZE + header.extension_bytes());
        if !self.is_for_us(header) || (!self.shares && size > WORK_STRANGER_BYTES_MAX) {
            return None;
        }
        let mut body = Vec::new();
        body.try_reserve_exact(size).ok().map(|()| body)
    }

    fn come(&mut self, header: &Header, body: Option<Vec<u8>>) {
        let for_us = self.is_for_us(header);
        // Words have borne whom they are for since there are words of this kind.
        if header.correlation.get() == 0 && !std::mem::replace(&mut self.is_older, true) {
            tracing::warn!(target: "busway::work", "a peer says words about work of an older version: no work is shared with it");
        }
        self.has_lost |= for_us && body.is_none();
        let body = body.filter(|_| for_us).unwrap_or_default();
        self.inbox.push_back(Came { sequence: header.sequence.get(), for_us, body });
        self.wake();
    }

    /// Takes what has come; the session is told that it has its place.
    pub(crate) fn take(&mut self, come: &mut Vec<Vec<u8>>, inputs: &mut Inputs) {
        if let (Some(source), Some(last)) = (self.theirs, self.inbox.back().map(|came| came.sequence)) {
            come.extend(self.inbox.drain(..).filter(|came| came.for_us).map(|came| came.body));
            inputs.push(Input::Published { source, sequence: last });
        }
        if self.has_lost {
            come.clear();
            self.begin_anew("words of it are lost", inputs);
        }
    }
}

#[cfg(test)]
mod tests;
