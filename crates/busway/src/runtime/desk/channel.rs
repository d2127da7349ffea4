//! What is said to a peer about work, and what it says: two sources on each way of its link, which no ring stands behind.
//!
//! Words wait here until the peer has confirmed them, so that a new connection goes on where the last one ended, and what has come waits
//! here until it is taken: the peer is not answered before, so that its window bounds what waits. Each word bears the source of the peer's
//! words for which it is; what comes for an earlier source of ours is dropped. So a host that has forgotten the other, which both need not
//! notice, begins anew with it as one that has started again does.
//!
//! A small word goes by the quick source and waits for no large one, which goes by the other in pieces, to a peer that wants it; with an older peer all words go by
//! the first. What must keep an order does so: words of one task that we give go by the source that its number names; of one that we were given they go by
//! the large source as long as the peer has not confirmed the last that went by it, and a large one goes when the peer has confirmed the small ones before it. Words of
//! different tasks have no order. Which large source belongs to which quick one follows from their numbers, so that only the quick ones say with whom is spoken.
//!
//! What it loses the right to while it waits here does not go: that it is over goes in its place, and the desk has it back. Of what went and was
//! not confirmed it is known on the next connection whether it came; what came stays the peer's.
//!
//! A peer that takes our words and does not confirm them, and one of whose words some are lost, is begun anew with: under new sources.
//!
//! It does not know what the words mean, but of which task they are and that one which is over need not be said any more, and says and hears nothing by itself.
//!
//! Invariant: words about one task, from one side, are taken in the order in which they were said; the numbers of the tasks of one source only rise. Both sources together
//! have never more than `WORK_WORDS_MAX` messages waiting.

mod incoming;
mod outgoing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::{Delivery, Input, Permits};
use busway_shm::clock;
use busway_wire::limits::{
    MESSAGE_BYTES_MAX, WORK_PIECE_BYTES, WORK_STRANGER_BYTES_MAX, WORK_WAITING_BYTES_MAX, WORK_WORDS_MAX,
};
use busway_wire::link::{Announce, label_of};
use busway_wire::work::{Piece, large_of, topic, topic_of_large};
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Topic};

use crate::bus::Core;
use crate::error::Error;
use crate::ports::work_line;
use crate::runtime::Outbound;
use crate::runtime::desk::GONE_NS;
use crate::runtime::desk::says::{Saying, Says};
use crate::runtime::import::Inputs;
use incoming::{Ended, Incoming};
use outgoing::{Going, Outgoing};

/// Our numbers, at a peer, for its words about work: interests are counted from 1. That between them is for artifacts.
pub(crate) const WANT: u32 = u32::MAX;
pub(crate) const WANT_LARGE: u32 = u32::MAX - 2;

/// One of the two sources on each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Course {
    /// Of all words to who does not want the other.
    Quick,
    Large,
}

impl Course {
    pub(crate) const ALL: [Course; 2] = [Course::Quick, Course::Large];
}

/// Something of each.
#[derive(Debug, Default)]
struct Both<T> {
    quick: T,
    large: T,
}

impl<T> Both<T> {
    fn of(&self, course: Course) -> &T {
        match course {
            Course::Quick => &self.quick,
            Course::Large => &self.large,
        }
    }

    fn of_mut(&mut self, course: Course) -> &mut T {
        match course {
            Course::Quick => &mut self.quick,
            Course::Large => &mut self.large,
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Channel {
    core: Arc<Core>,
    source: PortId,
    topics: Both<Topic>,
    host: String,
    /// The number of the latest start of the peer.
    instance: u64,
    up: bool,
    /// Since when it is away, as far as that was looked at.
    down_ns: Option<u64>,
    /// The peer's number for the source of large words, as far as it wants it.
    wants_large: Option<u32>,
    out: Both<Outgoing>,
    /// Where the tasks lie that `out` gives: the source is that of their number.
    gives: BTreeMap<u64, u64>,
    /// Of tasks that the peer gave, the last word of ours that it has not confirmed.
    answered: BTreeMap<u64, (Course, u64)>,
    /// Tasks that the peer may not have any more, and has not had.
    withheld: Vec<u64>,
    theirs: Both<Incoming>,
    /// Words in the order in which they came whole.
    inbox: VecDeque<Vec<u8>>,
    piece_bytes: usize,
    /// It was given work, or may give us some: its words may be large.
    shares: bool,
    /// Words of the peer are lost: what we know of it may be wrong.
    has_lost: bool,
    warned: bool,
    /// It speaks other words than ours.
    is_older: bool,
}

/// Between which two sources words go, of those of the small ones.
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
    /// It wants large words by a source of their own.
    pub(crate) has_two: bool,
    /// Bytes that were said and that the peer has not confirmed.
    pub(crate) waiting_bytes: usize,
    /// Of these, those of the source of large words.
    pub(crate) large_bytes: usize,
    /// Bytes of memory of what was said: with those of a word that the peer has confirmed but for its end.
    pub(crate) kept_bytes: usize,
    /// Bytes of memory of what waits for all peers.
    pub(crate) of_all: usize,
    /// The largest message that the peer takes.
    pub(crate) largest: u64,
}

impl Channel {
    pub(crate) fn new(core: &Arc<Core>, host: &str) -> Result<Self, Error> {
        Ok(Self {
            core: core.clone(),
            source: Core::new_port()?,
            topics: Both { quick: topic(), large: topic_of_large() },
            host: host.to_owned(),
            instance: 0,
            up: false,
            down_ns: None,
            wants_large: None,
            out: Both::default(),
            gives: BTreeMap::new(),
            answered: BTreeMap::new(),
            withheld: Vec::new(),
            theirs: Both::default(),
            inbox: VecDeque::new(),
            piece_bytes: WORK_PIECE_BYTES,
            shares: false,
            has_lost: false,
            warned: false,
            is_older: false,
        })
    }

    /// Large words are cut into pieces of so many bytes.
    #[cfg(test)]
    pub(super) fn set_piece_bytes(&mut self, bytes: usize) {
        self.piece_bytes = bytes;
    }

    /// Of our words, by that source.
    pub(crate) fn source(&self, course: Course) -> PortId {
        match course {
            Course::Quick => self.source,
            Course::Large => large_of(self.source),
        }
    }

    pub(crate) fn topic(&self, course: Course) -> &Topic {
        self.topics.of(course)
    }

    /// Which source of our words that is.
    pub(crate) fn ours(&self, source: PortId) -> Option<Course> {
        Course::ALL.into_iter().find(|course| self.source(*course) == source)
    }

    /// Which source of the peer's words that is.
    pub(crate) fn theirs(&self, source: PortId) -> Option<Course> {
        Course::ALL.into_iter().find(|course| self.theirs.of(*course).source == Some(source))
    }

    pub(crate) fn standing(&self) -> Standing {
        let between = self.theirs.quick.source.map(|theirs| Between { theirs, ours: self.source });
        let large_bytes = self.out.large.bytes();
        let waiting_bytes = self.out.quick.bytes() + large_bytes;
        let (has_two, of_all, largest) = (self.out.large.told, 0, u64::MAX);
        let kept_bytes = self.out.quick.kept() + self.out.large.kept();
        Standing { between, up: self.up, has_two, waiting_bytes, large_bytes, kept_bytes, of_all, largest }
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
        self.inbox.clear();
        for course in Course::ALL {
            let theirs = self.theirs.of_mut(course);
            theirs.forget();
            if let Some((source, sequence)) = theirs.publish() {
                inputs.push(Input::Published { source, sequence });
            }
            self.out.of_mut(course).mute();
        }
        self.theirs.quick.source = None;
        self.gives.clear();
        self.answered.clear();
        self.withheld.clear();
        (self.shares, self.has_lost) = (false, false);
    }

    pub(crate) fn lost(&mut self) {
        if std::mem::replace(&mut self.up, false) {
            self.wake();
        }
    }

    /// Looks at the time: what has come of a word goes when the peer is away for so long that it counts as gone, and both begin anew.
    pub(crate) fn passes(&mut self, now_ns: u64) {
        if self.up {
            self.down_ns = None;
            return;
        }
        let down_ns = *self.down_ns.get_or_insert(now_ns);
        if now_ns >= down_ns.saturating_add(GONE_NS) {
            let [quick, large] = [&mut self.theirs.quick, &mut self.theirs.large].map(Incoming::drop_word);
            self.has_lost |= quick || large;
        }
    }

    /// The peer wants to hear of work.
    pub(crate) fn wanted(&mut self, course: Course, id: u32, inputs: &mut Inputs) {
        if course == Course::Large {
            self.wants_large = Some(id);
        }
        if !std::mem::replace(&mut self.out.of_mut(course).told, true) {
            self.announce(course, inputs);
        }
    }

    /// The peer does not want this any more. Whether it was the source of large words: it is another program by now, which knows one source.
    pub(crate) fn unwanted(&mut self, id: u32, inputs: &mut Inputs) -> bool {
        if self.wants_large.take_if(|wanted| *wanted == id).is_none() {
            return false;
        }
        let waits = self.out.large.len() > 0;
        self.out.large.told = false;
        inputs.push(Input::Revoked { source: self.source(Course::Large) });
        if waits {
            self.begin_anew("it wants no large words any more", inputs);
        }
        true
    }

    fn announce(&self, course: Course, inputs: &mut Inputs) {
        let announce = Announce {
            source: self.source(course),
            topic: self.topic(course).clone(),
            publisher: label_of("work"),
            process: label_of("work"),
            host: label_of(&self.host),
            created_ns: 0,
            reliable: true,
            resumes: false,
        };
        inputs.push(Input::Source { announce, next: self.out.of(course).read() + 1 });
    }

    /// Begins anew with the peer, under other sources: what was said and heard means nothing any more.
    fn begin_anew(&mut self, why: &str, inputs: &mut Inputs) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(target: "busway::work", "begins anew with a peer, and says so once: {why}");
        }
        // Where there is no number for one, nothing changes; it is tried again when somebody looks what has come.
        self.has_lost = true;
        let Ok(source) = Core::new_port() else { return };
        self.has_lost = false;
        let former = Course::ALL.map(|course| self.source(course));
        self.source = source;
        self.gives.clear();
        self.answered.clear();
        self.withheld.clear();
        self.inbox.clear();
        for (course, former) in Course::ALL.into_iter().zip(former) {
            self.theirs.of_mut(course).forget();
            self.out.of_mut(course).clear();
            if self.out.of(course).told {
                inputs.push(Input::Revoked { source: former });
                self.announce(course, inputs);
            }
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
        for course in Course::ALL {
            for (sequence, pull, task) in self.out.of(course).denied(permits) {
                self.gives.remove(&task);
                let nobody = self.source;
                self.out.of_mut(course).instead(sequence, &Saying::Cancel { pull, task }, nobody);
                self.withheld.push(task);
            }
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
        let (course, after) = self.course(&saying);
        if course == Course::Large && !self.out.large.told {
            return self.begin_anew("it wants no large words any more", inputs);
        }
        if let Saying::Cancel { task, .. } = saying
            && let Some(sequence) = self.gives.remove(&task)
            && !self.out.of_mut(course).instead(sequence, &saying, self.source)
        {
            return;
        }
        let more = match course {
            Course::Quick => 1,
            Course::Large => Outgoing::pieces(&saying, self.piece_bytes),
        };
        if self.out.quick.len() + self.out.large.len() + more > WORK_WORDS_MAX {
            return self.begin_anew("it takes our words and confirms none", inputs);
        }
        let (gives, answers) = (saying.gives(), saying.answers());
        let sequence = match course {
            Course::Quick => self.out.quick.push(between.theirs, saying),
            Course::Large => self.out.large.push_pieces(between.theirs, saying, self.piece_bytes, after),
        };
        if let Some(task) = gives {
            self.gives.insert(task, sequence);
        }
        if let Some(task) = answers {
            self.answered.insert(task, (course, sequence));
        }
    }

    /// By which source it goes, and up to where the other has to be confirmed before.
    fn course(&self, saying: &Saying) -> (Course, u64) {
        let is_large = saying.is_large();
        let Some(task) = saying.answers() else {
            return (if is_large { Course::Large } else { Course::Quick }, 0);
        };
        match self.answered.get(&task) {
            Some((Course::Large, _)) => (Course::Large, 0),
            _ if !is_large || !self.out.large.told => (Course::Quick, 0),
            Some((Course::Quick, sequence)) => (Course::Large, *sequence),
            None => (Course::Large, 0),
        }
    }

    /// The next message for the session, if there is one.
    pub(crate) fn next(&mut self, course: Course) -> Option<(Header, Outbound)> {
        let other = self.confirmed_before(course);
        let Going { sequence, to, piece, payload } =
            self.out.of_mut(course).next(other, clock::monotonic_ns())?;
        let mut header = Header::new(Kind::Publish);
        header.topic.set(self.topic(course).id().0);
        header.source.set(self.source(course).0);
        header.sequence.set(sequence);
        header.correlation.set(to.0);
        header.size.set(u32::try_from(HEADER_SIZE + payload.as_ref().len()).unwrap_or(u32::MAX));
        if course == Course::Large {
            header.time_ns.set(piece.to_bits());
        }
        Some((header, payload))
    }

    pub(crate) fn has_next(&self, course: Course) -> bool {
        self.out.of(course).has_next(self.confirmed_before(course))
    }

    /// How far the source is confirmed for which that one waits.
    fn confirmed_before(&self, course: Course) -> u64 {
        match course {
            Course::Quick => 0,
            Course::Large => self.out.quick.confirmed(),
        }
    }

    /// The peer has all up to here.
    pub(crate) fn confirm(&mut self, course: Course, sequence: u64) {
        let before = self.out.of(course).bytes();
        let Self { out, gives, answered, .. } = self;
        out.of_mut(course).confirm(sequence, |sequence, said| {
            let Some(saying) = said.ends() else { return };
            if let Some(task) = saying.gives() {
                gives.remove(&task);
            }
            if let Some(task) = saying.answers()
                && answered.get(&task) == Some(&(course, sequence))
            {
                answered.remove(&task);
            }
        });
        // There is room again for what was not said.
        if before >= WORK_WAITING_BYTES_MAX && self.out.of(course).bytes() < WORK_WAITING_BYTES_MAX {
            self.wake();
        }
    }

    /// What followed this has not arrived.
    pub(crate) fn rewind(&mut self, course: Course, to: u64, permits: &Permits) {
        self.out.of_mut(course).rewind(to);
        self.withhold(permits);
    }

    /// The peer has announced a source of its words.
    pub(crate) fn open(&mut self, course: Course, source: PortId, inputs: &mut Inputs) {
        if course == Course::Quick && self.theirs.quick.source.is_some_and(|theirs| theirs != source) {
            self.forget_theirs(inputs);
        }
        self.theirs.of_mut(course).open(source);
        inputs.push(Input::RelayOpened { source });
        self.wake();
    }

    /// Nothing of that source of the peer's comes any more.
    pub(crate) fn close(&mut self, course: Course, inputs: &mut Inputs) {
        match course {
            Course::Quick => self.forget_theirs(inputs),
            Course::Large => self.theirs.large = Incoming::default(),
        }
        self.wake();
    }

    /// Words of the peer will not come: both begin anew.
    pub(crate) fn gap(&mut self, course: Course, to: u64) {
        self.theirs.of_mut(course).arrived = to;
        // What a large source says that is not of who speaks now is of no concern, nor is what of it does not come.
        let Both { quick, large } = &self.theirs;
        self.has_lost |= course == Course::Quick || quick.source.map(large_of) == large.source;
        self.wake();
    }

    /// The peer was given work, or may give us some.
    pub(crate) fn shares_work(&mut self) {
        self.shares = true;
    }

    pub(crate) fn abort(&mut self, course: Course) {
        self.theirs.of_mut(course).abort();
    }

    /// What has come of a source of the peer's words.
    pub(crate) fn deliver(&mut self, course: Course, delivery: Delivery<'_>, inputs: &mut Inputs) {
        match delivery {
            Delivery::Message { header, body } => {
                let body = body.get(header.extension_bytes()..).unwrap_or_default();
                self.come(course, &header, body, inputs);
            }
            Delivery::Run { header, records } => {
                for message in records {
                    self.come(course, &message.header(&header), message.payload, inputs);
                }
            }
            Delivery::Begin { header, .. } => self.begin(course, &header),
            Delivery::Bytes { bytes, offset, .. } => {
                let theirs = self.theirs.of_mut(course);
                // The extensions are no part of the body; the caller says where these bytes belong.
                let skip = theirs.skips().saturating_sub(usize::try_from(offset).unwrap_or(usize::MAX));
                theirs.bytes(bytes.get(skip..).unwrap_or_default());
            }
            Delivery::End { .. } => self.end(course, inputs),
        }
    }

    fn come(&mut self, course: Course, header: &Header, body: &[u8], inputs: &mut Inputs) {
        self.begin(course, header);
        self.theirs.of_mut(course).bytes(body);
        self.end(course, inputs);
    }

    fn begin(&mut self, course: Course, header: &Header) {
        let for_us = self.is_for_us(header);
        // Words have borne whom they are for since there are words of this kind.
        if header.correlation.get() == 0 && !std::mem::replace(&mut self.is_older, true) {
            tracing::warn!(target: "busway::work", "a peer says words about work of an older version: no work is shared with it");
        }
        let piece = match course {
            Course::Quick => Piece::WHOLE,
            Course::Large => Piece::from_bits(header.time_ns.get()),
        };
        // None for who has no work of ours and may give us none.
        let most = if self.shares { MESSAGE_BYTES_MAX } else { WORK_STRANGER_BYTES_MAX as u64 };
        self.theirs.of_mut(course).begin(for_us, piece, header, most);
    }

    /// What it says is for our present source, and of the peer's present one.
    fn is_for_us(&self, header: &Header) -> bool {
        let (from, theirs) = (header.source(), self.theirs.quick.source);
        let is_theirs = theirs.is_some_and(|theirs| from == theirs || from == large_of(theirs));
        is_theirs && header.correlation.get() == self.source.0
    }

    /// A message is whole. Of a word that is not, the session is told at once, unless others wait before it: so what waits is bounded by the window of the source, and
    /// one word.
    fn end(&mut self, course: Course, inputs: &mut Inputs) {
        let theirs = self.theirs.of_mut(course);
        match theirs.end() {
            Ended::Nothing => {
                if theirs.waiting == 0
                    && let Some((source, sequence)) = theirs.publish()
                {
                    inputs.push(Input::Published { source, sequence });
                }
            }
            Ended::Word(body) => {
                theirs.waiting += 1;
                self.inbox.push_back(body);
                self.wake();
            }
            Ended::Lost => {
                self.has_lost = true;
                self.wake();
            }
        }
    }

    /// Takes what has come; the session is told that it has its place.
    pub(crate) fn take(&mut self, come: &mut Vec<Vec<u8>>, inputs: &mut Inputs) {
        come.extend(self.inbox.drain(..));
        for course in Course::ALL {
            let theirs = self.theirs.of_mut(course);
            theirs.waiting = 0;
            if let Some((source, sequence)) = theirs.publish() {
                inputs.push(Input::Published { source, sequence });
            }
        }
        if self.has_lost {
            come.clear();
            self.begin_anew("words of it are lost", inputs);
        }
    }
}

#[cfg(test)]
mod courses;
#[cfg(test)]
mod tests;
