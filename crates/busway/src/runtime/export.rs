//! What a peer on another host wants of this one: rows at the rings that match, read on its behalf.
//!
//! A peer asks by patterns; a ring that several of them match is read once. Rows of reliable patterns gate their
//! publishers until the peer has confirmed, so that their cursor is the place from which a new connection goes on; rows
//! of the others lose the oldest. This file opens and closes rows and turns what lies in slots into headers and
//! payloads. Which source is read next, and how far, the session decides.
//!
//! Invariant: a source has one row here. It is reliable if any pattern that matches its topic is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use busway_protocol::{Deed, PeerId, Permits, Room};
use busway_shm::clock;
use busway_shm::row::{Body, Gap, Message, RowOptions, RowReader, Taken, TakenSmall};
use busway_shm::slot::InlineMessage;
use busway_wire::limits::{EXTENSION_BYTES_MAX, HOLDS_MAX, LINK_RUN_PAYLOAD_BYTES_MAX};
use busway_wire::{
    Cause, Extensions, Flags, HEADER_SIZE, Header, Kind, Part, Pattern, Policy, PortId, Run, Topic, TopicId,
};

use crate::bus::Core;
use crate::cluster::may_hear;
use crate::control::SubscriberRecord;
use crate::error::Error;
use crate::ports::{Arrival, Filter, Subscription, line_of};
use crate::publisher::ORIGIN_BYTES;
use crate::runtime::news::News;

/// Whether a peer may lose what it cannot keep up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Care {
    /// The oldest are lost, and told.
    Lossy,
    /// The publisher waits.
    Reliable,
}

impl Care {
    fn policy(self) -> Policy {
        match self {
            Care::Lossy => Policy::default(),
            Care::Reliable => Policy::Block,
        }
    }
}

/// The payload of a message on its way out: where it lies, or a copy if it was small. Cloning copies no payload.
#[derive(Clone, Debug)]
pub(crate) enum Outbound {
    /// Copied out of its slot; so many bytes before the payload are not part of it.
    Small(InlineMessage, usize),
    /// Where it lies, held until this is dropped.
    Held(Arc<Message>, usize),
    /// A word about work or artifacts.
    Said(Arc<Vec<u8>>),
    /// A piece of a word about work.
    Piece(Arc<Vec<u8>>, std::ops::Range<usize>),
}

/// The number under which publishers keep the place of what a node reads for a peer; never 0.
pub(crate) fn place_of(cluster: &str, node: PeerId, peer: PeerId) -> u64 {
    busway_wire::cluster_id(&format!("{cluster}: {node} for {peer}")).max(1)
}

impl AsRef<[u8]> for Outbound {
    fn as_ref(&self) -> &[u8] {
        let (bytes, skip) = match self {
            Outbound::Small(inline, skip) => (inline.payload(), *skip),
            Outbound::Held(message, skip) => (message.body.following(), *skip),
            Outbound::Said(body) => (body.as_slice(), 0),
            Outbound::Piece(body, range) => (body.get(range.clone()).unwrap_or_default(), 0),
        };
        bytes.get(skip..).unwrap_or_default()
    }
}

/// What a look at a source found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing yet, nor will be, as far as that is known.
    Nothing,
    /// Nothing behind what was taken, at a glance.
    NothingYet,
    /// The next message, with the header that it travels with.
    Message(Header, Outbound),
    /// These were lost before they were read.
    Lost(Gap),
    /// The publisher is gone; this was its last sequence.
    End {
        /// The last sequence that it sent, or that was lost.
        last: u64,
    },
}

/// A source that a peer wants, as it is told of it.
#[derive(Clone, Debug)]
pub(crate) struct ExportedSource {
    pub(crate) source: PortId,
    pub(crate) topic: Topic,
    pub(crate) process: String,
    pub(crate) created_ns: u64,
    pub(crate) care: Care,
    /// The first sequence that the row will read.
    pub(crate) first: u64,
}

/// What `meet` found.
#[derive(Debug)]
pub(crate) enum Met {
    /// A source to be told of.
    Source(ExportedSource),
    /// A source that ends after this sequence, because a more careful row takes its place.
    Gone(PortId, u64),
}

#[derive(Debug)]
struct Wanted {
    /// `None` where the peer may not have what it asks for.
    port: Option<PortId>,
    pattern: Pattern,
    care: Care,
}

/// What became of a message that was to be copied into a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// It is the last of it.
    Next,
    /// It has no room in this one, and begins the next.
    Full,
    /// It is none for runs, or something else comes first.
    Not,
}

#[derive(Debug)]
struct Exported {
    reader: RowReader,
    topic: Topic,
    /// Of the topic: it costs a hash.
    id: TopicId,
    care: Care,
    /// The last sequence that was read.
    read: u64,
    /// Messages that a rewind could not bring back: told before the next one.
    gone: Option<Gap>,
    /// Nothing after this is read: the publisher is gone, or the peer wants it no more. The row stays until the peer
    /// has all up to there.
    until: Option<u64>,
    /// Where it stands in the news.
    place: usize,
}

impl Exported {
    /// A head behind this says that there is something to be taken.
    fn passed(&self) -> u64 {
        match self.until {
            Some(until) if self.read >= until => u64::MAX,
            Some(_) | None if self.gone.is_some() => 0,
            Some(_) | None => self.read,
        }
    }

    fn take(&mut self, source: PortId) -> Found {
        if let Some(gap) = self.gone.take() {
            return Found::Lost(gap);
        }
        if self.until.is_some_and(|until| self.read >= until) {
            return Found::Nothing;
        }
        match self.reader.take() {
            Taken::Message(message) => {
                self.read = message.sequence;
                let (header, skip) = header_of(&message, source, self.id);
                let payload = match message.body {
                    Body::Inline(inline) => Outbound::Small(inline, skip),
                    Body::Chunk(_) | Body::Copied(..) => Outbound::Held(Arc::new(message), skip),
                };
                Found::Message(header, payload)
            }
            Taken::Gap(gap) => {
                self.read = gap.from.saturating_add(gap.count).saturating_sub(1);
                Found::Lost(gap)
            }
            Taken::Empty | Taken::HoldsExhausted => {
                if self.reader.is_over() {
                    return self.end();
                }
                Found::Nothing
            }
            Taken::End | Taken::Evicted(_) => self.end(),
        }
    }

    /// Copies the next message to the end of `run` if it lies in a chunk and is one for runs.
    fn copy_large(&mut self, source: PortId, room: &Room, run: &mut Run) -> Copied {
        let (id, sequence) = (self.id, self.read + 1);
        let mut refused = Copied::Not;
        let copied = self.reader.copy_next(LINK_RUN_PAYLOAD_BYTES_MAX, |header, payload| {
            let flags = Flags::from_bits(header.flags).filter(|flags| !flags.has(Flags::RELAYED));
            let plain = header.extensions == 0 && header.sequence.get() == sequence;
            let Some(flags) = flags.filter(|_| plain) else { return false };
            let (time_ns, correlation) = (header.time_ns.get(), header.correlation.get());
            let first = run.count() == 0;
            if first {
                run.begin(id, source, sequence, time_ns);
            }
            let fits = room.has(run, payload.len())
                && run.push(flags.without(Flags::OF_A_HOST).bits(), time_ns, correlation, payload);
            if !first {
                refused = Copied::Full;
            }
            fits
        });
        match copied {
            TakenSmall::Message(sequence) => {
                self.read = sequence;
                Copied::Next
            }
            TakenSmall::Empty | TakenSmall::Other => refused,
        }
    }

    fn end(&mut self) -> Found {
        Found::End { last: *self.until.insert(self.read) }
    }

    fn shown(&self, source: PortId) -> ExportedSource {
        let row = self.reader.row();
        let created_ns = row.ring().created_ns.load(busway_shm::sync::Ordering::Relaxed);
        let (topic, process) = (self.topic.clone(), row.peer().name());
        ExportedSource { source, topic, process, created_ns, care: self.care, first: self.read + 1 }
    }
}

/// Everything that is read for one peer.
#[derive(Debug)]
pub(crate) struct Exports {
    core: Arc<Core>,
    peer: PeerId,
    lossy: Arc<Subscription>,
    reliable: Arc<Subscription>,
    versions: [u64; 2],
    wanted: BTreeMap<u32, Wanted>,
    sources: BTreeMap<PortId, Exported>,
    news: News,
    /// Rows that have no seat yet.
    coming: Vec<(Arrival, Care)>,
    /// Whether some of them had no seat when they were looked at last.
    unseated: bool,
    /// What the peer may read.
    permits: Arc<Permits>,
    /// Sources that the peer does not take on this link.
    denied: BTreeSet<PortId>,
    /// Where a small message is copied to when it is seen.
    place: InlineMessage,
}

impl Exports {
    /// `place` says for which peer of which node this is read, the same after each start of the node: publishers keep
    /// the place of a reliable row by it while the node is dead.
    pub(crate) fn new(core: &Arc<Core>, peer: PeerId, permits: Permits, place: u64) -> Result<Self, Error> {
        let subscription = |care: Care| -> Result<Arc<Subscription>, Error> {
            let port = Core::new_port()?;
            let created_ns = clock::monotonic_ns();
            let place = if care == Care::Reliable { place } else { 0 };
            let (policy, holds) = (care.policy(), HOLDS_MAX / 4);
            let options = RowOptions { port, policy, history: 0, holds, created_ns, place };
            Ok(Arc::new(Subscription::new(options, line_of(None))))
        };
        let mut exports = Self {
            core: core.clone(),
            peer,
            permits: Arc::new(permits.clone()),
            denied: BTreeSet::new(),
            lossy: subscription(Care::Lossy)?,
            reliable: subscription(Care::Reliable)?,
            versions: [0; 2],
            wanted: BTreeMap::new(),
            sources: BTreeMap::new(),
            news: News::default(),
            coming: Vec::new(),
            unseated: false,
            place: InlineMessage::EMPTY,
        };
        exports.filter(permits);
        Ok(exports)
    }

    /// From now on these are the rows that the peer may have.
    fn filter(&mut self, permits: Permits) {
        self.permits = Arc::new(permits);
        for subscription in [&self.lossy, &self.reliable] {
            let (permits, peer) = (self.permits.clone(), self.peer);
            let may = move |topic: &Topic| hears(&permits, peer, topic);
            subscription.set_filter(Filter(Arc::new(may)));
        }
    }

    /// The peer may read something else than before. Returns what it may read no more: those rows are gone.
    pub(crate) fn permit(&mut self, permits: Permits) -> Vec<PortId> {
        self.filter(permits);
        let Self { coming, permits, peer, .. } = self;
        coming.retain(|(arrival, _)| hears(permits, *peer, &arrival.topic));
        let revoked =
            self.sources.iter().filter(|(_, exported)| !hears(&self.permits, self.peer, &exported.topic));
        let revoked: Vec<PortId> = revoked.map(|(source, _)| *source).collect();
        for source in &revoked {
            self.drop_source(*source);
        }
        self.ask_again();
        revoked
    }

    /// The peer does not take a source on this link. Returns its topic.
    pub(crate) fn deny(&mut self, source: PortId) -> Option<Topic> {
        let topic = self.sources.get(&source).map(|exported| exported.topic.clone());
        self.denied.insert(source);
        self.drop_source(source);
        self.core.control.poke();
        topic
    }

    /// On a new link the peer may take what it did not on the last.
    pub(crate) fn connected(&mut self) {
        if !std::mem::take(&mut self.denied).is_empty() {
            self.ask_again();
        }
    }

    /// Meets every ring again that the peer asked for: those that have a row stay as they are.
    fn ask_again(&mut self) {
        let wanted: Vec<(u32, Pattern, Care)> =
            self.wanted.iter().map(|(id, wanted)| (*id, wanted.pattern.clone(), wanted.care)).collect();
        for (id, pattern, care) in wanted {
            let former = self.wanted.get(&id).and_then(|wanted| wanted.port);
            if let Err(error) = self.subscribe(id, pattern, care) {
                tracing::warn!(target: "busway::link", "cannot read for a peer: {error}");
            }
            if let Some(port) = former {
                self.core.ports.remove_subscription(port);
                self.core.control.unsubscribe(port);
            }
        }
        self.core.control.poke();
    }

    /// Asks for the rings that match. Those of a single topic that the peer may not read are not asked for.
    fn subscribe(&mut self, id: u32, pattern: Pattern, care: Care) -> Result<(), Error> {
        let never = pattern.exact().is_some_and(|topic| !hears(&self.permits, self.peer, topic));
        if never {
            self.wanted.insert(id, Wanted { port: None, pattern, care });
            return Ok(());
        }
        let port = Core::new_port()?;
        let created_ns = clock::monotonic_ns();
        self.core.ports.add_subscription(port, self.subscription(care), created_ns);
        let (policy, named) = (care.policy(), pattern.clone());
        self.wanted.insert(id, Wanted { port: Some(port), pattern, care });
        let record = SubscriberRecord { port, pattern: named, policy, created_ns, export: true };
        self.core.control.subscribe_later(record)
    }

    /// The peer wants what matches `pattern`, until [`Exports::unwant`] with the same `id`.
    ///
    /// # Errors
    /// Too many ports, or a closed bus.
    pub(crate) fn want(&mut self, id: u32, pattern: Pattern, care: Care) -> Result<(), Error> {
        self.unwant(id);
        self.subscribe(id, pattern, care)
    }

    /// The peer no longer wants what it asked for by `id`. Returns the sources that end by that, each with the last
    /// sequence that was read.
    pub(crate) fn unwant(&mut self, id: u32) -> Vec<(PortId, u64)> {
        let Some(gone) = self.wanted.remove(&id) else { return Vec::new() };
        if let Some(port) = gone.port {
            self.core.ports.remove_subscription(port);
            self.core.control.unsubscribe(port);
        }
        let wanted = &self.wanted;
        let unwanted = self.sources.iter_mut().filter(|(_, exported)| {
            exported.until.is_none() && !wanted.values().any(|wanted| wanted.pattern.matches(&exported.topic))
        });
        let unwanted: Vec<(PortId, u64)> =
            unwanted.map(|(source, exported)| (*source, *exported.until.insert(exported.read))).collect();
        let coming = std::mem::take(&mut self.coming);
        for (arrival, care) in coming {
            if self.care_for(&arrival.topic).is_some() {
                self.coming.push((arrival, care))
            } else {
                self.forget(&arrival, care)
            }
        }
        self.core.control.poke();
        unwanted
    }

    /// Whether anything that the peer asked for matches, and it may have it.
    fn care_for(&self, topic: &Topic) -> Option<Care> {
        if !hears(&self.permits, self.peer, topic) {
            return None;
        }
        self.wanted.values().filter(|wanted| wanted.pattern.matches(topic)).map(|wanted| wanted.care).max()
    }

    fn subscription(&self, care: Care) -> &Arc<Subscription> {
        match care {
            Care::Lossy => &self.lossy,
            Care::Reliable => &self.reliable,
        }
    }

    fn drop_source(&mut self, source: PortId) {
        if let Some(exported) = self.sources.remove(&source) {
            let moved = self.news.remove(exported.place).and_then(|moved| self.sources.get_mut(&moved));
            if let Some(moved) = moved {
                moved.place = exported.place;
            }
            let row = exported.reader.row();
            // The peer may want it again.
            self.subscription(exported.care).forget(row.peer().process(), row.ring_key());
        }
    }

    /// Whether there are publishers for `meet`.
    pub(crate) fn has_arrivals(&self) -> bool {
        !self.coming.is_empty()
            || self.lossy.version() != self.versions[0]
            || self.reliable.version() != self.versions[1]
    }

    /// Takes up the publishers that the control thread has met and whose rows have their seats.
    pub(crate) fn meet(&mut self, mut met: impl FnMut(Met)) {
        for (at, care) in [Care::Lossy, Care::Reliable].into_iter().enumerate() {
            let subscription = self.subscription(care);
            let version = subscription.version();
            if version != self.versions[at] {
                let arrived = subscription.arrived();
                self.versions[at] = version;
                self.coming.extend(arrived.into_iter().map(|arrival| (arrival, care)));
            }
        }
        let coming = std::mem::take(&mut self.coming);
        self.unseated = false;
        for (arrival, care) in coming {
            if arrival.row.is_refused() {
                continue;
            }
            if !arrival.row.is_attached() {
                self.unseated = true;
                self.coming.push((arrival, care));
                continue;
            }
            match self.sources.get_mut(&arrival.publisher) {
                // The careless row ends first: what it has read must arrive before what this one will.
                Some(known) if known.care < care => {
                    if known.until.is_none() {
                        known.until = Some(known.read);
                        met(Met::Gone(arrival.publisher, known.read));
                    }
                    self.coming.push((arrival, care));
                }
                Some(_) => {}
                None => {
                    if let Some(source) = self.take_up(arrival, care) {
                        met(Met::Source(source));
                    }
                }
            }
        }
    }

    /// A row that is not wanted any more before it was read: if its topic is wanted again, so is its ring.
    fn forget(&self, arrival: &Arrival, care: Care) {
        let row = &arrival.row;
        self.subscription(care).forget(row.peer().process(), row.ring_key());
    }

    fn take_up(&mut self, arrival: Arrival, care: Care) -> Option<ExportedSource> {
        let source = arrival.publisher;
        match self.care_for(&arrival.topic) {
            None => {
                self.forget(&arrival, care);
                return None;
            }
            // The reliable row comes, or is there.
            Some(wanted) if wanted > care => return None,
            Some(_) => {}
        }
        if self.sources.contains_key(&source) || self.denied.contains(&source) {
            return None;
        }
        let peer = arrival.row.peer().clone();
        let foreign = peer.uid() != busway_shm::sys::identity::uid();
        let read = arrival.row.entry().cursor.load(busway_shm::sync::Ordering::Relaxed);
        let mut reader = RowReader::new(arrival.row, care.policy(), foreign);
        if care == Care::Reliable {
            reader.confirm_later();
        }
        let id = arrival.topic.id();
        let place = self.news.add(source, reader.row().head_word(), read);
        let exported =
            Exported { reader, topic: arrival.topic, id, care, read, gone: None, until: None, place };
        let shown = exported.shown(source);
        self.sources.insert(source, exported);
        Some(shown)
    }

    /// Puts the next messages of a source into `run`, which is empty, as long as they are small, follow each other and have
    /// room. What comes next and is none of those is returned.
    pub(crate) fn take_run(&mut self, source: PortId, room: &Room, run: &mut Run) -> Found {
        loop {
            if let Some(found) = self.take_small(source, room, run) {
                if let (Found::NothingYet, Some(exported)) = (&found, self.sources.get(&source)) {
                    self.news.read(exported.place, exported.passed());
                }
                return found;
            }
            // Not a small message that is there: a large one, a loss, an end.
            match self.take(source) {
                Found::Message(header, payload) => {
                    if !pack(run, room, &header, payload.as_ref()) {
                        return Found::Message(header, payload);
                    }
                    if !room.has(run, 0) {
                        return Found::Nothing;
                    }
                }
                other => return other,
            }
        }
    }

    /// As [`Exports::take_run`], while nothing else is to be done than to copy; `None` where something is.
    fn take_small(&mut self, source: PortId, room: &Room, run: &mut Run) -> Option<Found> {
        let Self { sources, place, .. } = self;
        let Some(exported) = sources.get_mut(&source) else { return Some(Found::Nothing) };
        if exported.gone.is_some() {
            return None;
        }
        let most = exported.until.unwrap_or(u64::MAX);
        while exported.read < most {
            if !room.has(run, 0) {
                return Some(Found::Nothing);
            }
            let sequence = match exported.reader.take_small(place) {
                TakenSmall::Message(sequence) => sequence,
                // Behind what was taken a look in vain is enough; else it is asked whether the publisher is gone.
                TakenSmall::Empty if run.count() > 0 => return Some(Found::NothingYet),
                TakenSmall::Empty => return None,
                TakenSmall::Other => match exported.copy_large(source, room, run) {
                    Copied::Next => continue,
                    Copied::Full => return Some(Found::Nothing),
                    Copied::Not => return None,
                },
            };
            exported.read = sequence;
            let (meta, payload) = (&place.meta, place.payload());
            if run.count() == 0 {
                run.begin(exported.id, source, sequence, meta.time_ns);
            }
            let of_here = Flags::from_bits(meta.flags).filter(|flags| !flags.has(Flags::RELAYED));
            let packed = of_here.is_some_and(|flags| {
                let flags = flags.without(Flags::OF_A_HOST).bits();
                room.has(run, payload.len()) && run.push(flags, meta.time_ns, meta.correlation, payload)
            });
            if !packed {
                let message = Message { sequence, body: Body::Inline(*place) };
                let (header, skip) = header_of(&message, source, exported.id);
                return Some(Found::Message(header, Outbound::Small(*place, skip)));
            }
        }
        Some(Found::Nothing)
    }

    /// Looks for the next message of a source.
    pub(crate) fn take(&mut self, source: PortId) -> Found {
        let Some(exported) = self.sources.get_mut(&source) else { return Found::Nothing };
        let found = exported.take(source);
        self.news.read(exported.place, exported.passed());
        found
    }

    /// The first of these places in the list of sources at which something is to be taken, and its source.
    pub(crate) fn news(&self, places: Range<usize>) -> Option<(usize, PortId)> {
        self.news.next(places)
    }

    /// The peer has all of `source` up to `sequence`: its publisher need not keep it any more.
    pub(crate) fn confirm(&mut self, source: PortId, sequence: u64) {
        if let Some(exported) = self.sources.get_mut(&source).filter(|found| found.care == Care::Reliable) {
            exported.reader.confirm(sequence);
        }
    }

    /// The next message of `source` is `next` again, because what followed may not have arrived; where its publisher
    /// no longer has that, it is told as lost.
    pub(crate) fn rewind(&mut self, source: PortId, next: u64) {
        let Some(exported) = self.sources.get_mut(&source) else { return };
        let first = exported.reader.rewind(next);
        exported.read = first.saturating_sub(1);
        exported.gone =
            (first > next).then(|| Gap { cause: Cause::Stalled, from: next, count: first - next });
        self.news.read(exported.place, exported.passed());
    }

    /// The peer has all of a source that has ended: its row is let go. If the peer wants it again meanwhile, and its
    /// publisher goes on, the row is kept and the source begins anew.
    pub(crate) fn done(&mut self, source: PortId) -> Option<ExportedSource> {
        let again = self.sources.get(&source).and_then(|exported| self.care_for(&exported.topic));
        let exported = self.sources.get_mut(&source)?;
        if again == Some(exported.care) && !exported.reader.is_over() {
            exported.until = None;
            self.news.read(exported.place, exported.passed());
            return Some(exported.shown(source));
        }
        self.drop_source(source);
        self.core.control.poke();
        None
    }

    /// Whether rows had no seat when they were looked at last. One that has it and waits until a careless row has ended
    /// waits for the peer.
    pub(crate) fn is_coming(&self) -> bool {
        self.unseated && !self.coming.is_empty()
    }

    /// How far the peer has confirmed each source that is for one start of it only.
    pub(crate) fn confirmed(&self) -> Vec<(PortId, u64)> {
        let own = self.sources.iter().filter(|(_, exported)| exported.topic.is_reserved());
        own.map(|(source, exported)| {
            let cursor = &exported.reader.row().entry().cursor;
            (*source, cursor.load(busway_shm::sync::Ordering::Relaxed))
        })
        .collect()
    }

    /// How many messages up to `sequence` of a source that loses nothing have not been read.
    pub(crate) fn behind(&self, source: PortId, sequence: u64) -> u64 {
        let exported = self.sources.get(&source);
        let read = exported.filter(|known| known.care == Care::Reliable && known.until.is_none());
        read.map_or(0, |known| sequence.saturating_sub(known.read))
    }

    /// How many sources are read now.
    pub(crate) fn count(&self) -> usize {
        self.sources.len()
    }

    /// Whether this source is read.
    pub(crate) fn has(&self, source: PortId) -> bool {
        self.sources.contains_key(&source)
    }
}

/// Whether a peer may have messages of this topic. What endpoints of a cluster say to each other is for whom it names; all
/// other reserved topics are for nobody.
fn hears(permits: &Permits, peer: PeerId, topic: &Topic) -> bool {
    if topic.is_reserved() { may_hear(topic, peer) } else { permits.allow(Deed::Subscribe, topic) }
}

impl Drop for Exports {
    fn drop(&mut self) {
        if self.core.own.forked() {
            return;
        }
        for port in self.wanted.values().filter_map(|wanted| wanted.port) {
            self.core.ports.remove_subscription(port);
            self.core.control.unsubscribe(port);
        }
        self.sources.clear();
        self.news.clear();
        self.coming.clear();
        drop((self.lossy.arrived(), self.reliable.arrived()));
        // The control thread frees the rows once their publishers have taken note.
        self.core.control.poke();
    }
}

/// Puts a message into a run that it follows, if it is one for runs and has room there.
fn pack(run: &mut Run, room: &Room, header: &Header, payload: &[u8]) -> bool {
    // What a message says beside its payload has no place there.
    let Some(flags) = Flags::from_bits(header.flags).filter(|_| header.extensions == 0) else { return false };
    let (sequence, time_ns) = (header.sequence.get(), header.time_ns.get());
    if run.count() == 0 {
        run.begin(TopicId(header.topic.get()), header.source(), sequence, time_ns);
    }
    sequence == run.last() + 1
        && room.has(run, payload.len())
        && run.push(flags.without(Flags::OF_A_HOST).bits(), time_ns, header.correlation.get(), payload)
}

/// The header that a message travels with, and how many bytes of what follows it are not sent.
fn header_of(message: &Message, source: PortId, topic: TopicId) -> (Header, usize) {
    let mut header = Header::new(Kind::Publish);
    match &message.body {
        Body::Inline(inline) => {
            header.time_ns.set(inline.meta.time_ns);
            header.correlation.set(inline.meta.correlation);
            header.kind = inline.meta.kind;
            header.flags = inline.meta.flags;
        }
        Body::Chunk(chunk) => header = *chunk.header(),
        Body::Copied(copied, _) => header = *copied,
    }
    let flags = Flags::from_bits(header.flags).unwrap_or_default();
    header.sequence.set(message.sequence);
    let relayed =
        flags.has(Flags::RELAYED).then(|| message.body.payload().first_chunk::<ORIGIN_BYTES>()).flatten();
    let mut skip = 0;
    if let Some(origin) = relayed {
        header.sequence.set(u64::from_le_bytes(*origin));
        skip = ORIGIN_BYTES;
    }
    let extensions = message.body.extensions();
    // What stands between extensions and payload is not sent, so they are not either: no relay is carried on. Nor are those that the
    // peer would close its link for; a part is ours to make.
    if skip > 0 || !may_go(extensions) {
        skip += extensions.len();
        header.extensions = 0;
    }
    header.topic.set(topic.0);
    header.source.set(source.0);
    header.size.set((HEADER_SIZE + message.body.following().len().saturating_sub(skip)) as u32);
    (header, skip)
}

/// Whether a peer takes these extensions of a message of a program of this host, which may change them still: the link looks again at its own copy.
fn may_go(extensions: &[u8]) -> bool {
    extensions.is_empty()
        || extensions.len() + Part::SIZE <= EXTENSION_BYTES_MAX
            && Extensions::check(extensions).is_ok()
            && matches!(Part::of(Extensions::new(extensions)), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::may_go;
    use busway_wire::{Context, ExtensionKind, Extensions, MessageId, Part};

    #[test]
    fn extensions_for_which_a_peer_would_close_its_link_do_not_go() {
        let context = Context::default().with_id(MessageId(7));
        let mut good = vec![0; context.size()];
        context.write(&mut good);
        assert!(may_go(&[]) && may_go(&good));
        for cut in 1..good.len() {
            assert!(!may_go(&good[..cut]), "{cut}");
        }
        let mut part = good.clone();
        Part { message: 1, offset: 0, total: 9 }.push(&mut part).unwrap();
        let mut long = Vec::new();
        Extensions::push(&mut long, ExtensionKind::Headers, &[0; 2_020]).unwrap();
        assert!(!may_go(&part) && !may_go(&long), "a part is ours to make, and needs its room");
        assert!(!may_go(&[0; 8]) && !may_go(&[0xff; 64]));
    }
}
