//! All that we have with one peer: its link while there is one, our sources there, its sources here, what is wanted.
//!
//! A session outlives its connections. It remembers how far each source has come, so that after a reconnect a
//! reliable source loses nothing and delivers nothing twice, and of any other each message is either delivered or
//! told as lost with its cause. Rings, rows and connections are the caller's; the session says what to do with
//! them by `Output`s, to be carried out in order and before the `Delivery` of the same call.
//!
//! Invariant: for each source, sent = acknowledged + lost by a named cause + in flight.

mod export;
mod incoming;
mod interest;
mod relay;
mod sources;
mod traffic;
mod words;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use busway_wire::limits::{LINK_ACKNOWLEDGE_MS, LINK_FLIGHT_MESSAGES_MAX, LINK_RESUME_MS};
use busway_wire::link::{Frame, Interest, Wanted};
use busway_wire::{Cause, PortId, Run};

use crate::batch::Batch;
use crate::error::{Closed, PeerError};
use crate::framing::Want;
use crate::link::{Config, Deadline, Event, Link, Room, State, Stats};
use crate::time::{PeerId, Time};

use export::Export;
use interest::{PeerWants, Wants};
use relay::Relay;
pub use traffic::{Passing, Traffic};
pub use words::{Account, Delivery, Destination, Input, Outbox, Output};

/// Interests and announcements that are handed to the link ahead of what it has sent. What is not handed over yet
/// is a set of numbers, however much it is.
const ORDERED_MAX: usize = 16;

/// All that we have with one peer.
#[derive(Debug)]
pub struct Session<P> {
    peer: PeerId,
    config: Config,
    link: Option<Link<P>>,
    /// Whether the caller has been asked to close the connection.
    closing: bool,
    /// Of the latest hello.
    instance: Option<u64>,
    /// Whether the peer has ever been started again.
    restarted: bool,
    wants: Wants,
    peer_wants: PeerWants,
    exports: BTreeMap<PortId, Export>,
    to_announce: BTreeSet<PortId>,
    /// The source whose turn it was when `next_source` was asked last.
    named: Option<PortId>,
    /// The one that it named last of those whose messages are small, and of those whose are bulk.
    named_of: [Option<PortId>; 2],
    /// Notes that all exports together keep.
    flight: usize,
    /// The peer has accepted more since that was asked last.
    freed: bool,
    relays: BTreeMap<PortId, Relay>,
    ended: VecDeque<PortId>,
    /// Relays that have something to acknowledge, and when that is due.
    dirty: BTreeSet<PortId>,
    acknowledge_at: Option<Time>,
    /// Something has come since credit was told last for which somebody may wait.
    hurries: bool,
    /// When the peer is asked again what has arrived, on a link that drains.
    ask_at: Option<Time>,
    /// When the peer is told what was consumed of its credit.
    credit_at: Option<Time>,
    resume_at: Option<Time>,
    farewell: String,
    dropped: [u64; Cause::COUNT],
    duplicates: u64,
    tally: traffic::Tally,
}

impl<P: AsRef<[u8]> + Clone> Session<P> {
    /// A session without a link.
    #[must_use]
    pub fn new(config: Config, peer: PeerId) -> Session<P> {
        Session {
            peer,
            config,
            link: None,
            closing: false,
            instance: None,
            restarted: false,
            wants: Wants::default(),
            peer_wants: PeerWants::default(),
            exports: BTreeMap::new(),
            to_announce: BTreeSet::new(),
            named: None,
            named_of: [None; 2],
            flight: 0,
            freed: false,
            relays: BTreeMap::new(),
            ended: VecDeque::new(),
            dirty: BTreeSet::new(),
            acknowledge_at: None,
            hurries: false,
            ask_at: None,
            credit_at: None,
            resume_at: None,
            farewell: String::new(),
            dropped: [0; Cause::COUNT],
            duplicates: 0,
            tally: traffic::Tally::default(),
        }
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// There is a connection: one that we made, or an accepted one whose hello has come and named this peer. The
    /// session answers the hello. An older link is given up; the caller closes its connection and clears its batch.
    pub fn connected(&mut self, now: Time, link: Link<P>, out: &mut Outbox) {
        if self.link.is_some() {
            self.disconnected(now, out);
        }
        let link = self.link.insert(link);
        let Some(hello) = link.hello() else { return };
        let (theirs, expected) = (hello.identity, self.peer);
        if theirs != expected {
            let closed = link.fail(PeerError::Identity { theirs, expected });
            self.close(closed, out);
            return;
        }
        link.welcome(now);
        self.establish(now, out);
    }

    /// The connection is gone, whoever closed it. The batch of that connection is to be cleared.
    pub fn disconnected(&mut self, now: Time, out: &mut Outbox) {
        let _ = now;
        self.link = None;
        self.closing = false;
        self.to_announce.clear();
        self.dirty.clear();
        (self.acknowledge_at, self.credit_at, self.resume_at) = (None, None, None);
        self.ask_at = None;
        for (source, relay) in &mut self.relays {
            if relay.disconnected() {
                out.push(Output::Abort { source: *source });
            }
        }
        let sources: Vec<PortId> = self.exports.keys().copied().collect();
        for source in sources {
            if let Some(export) = self.exports.get_mut(&source) {
                export.disconnected();
            }
            self.settle(source, out);
        }
    }

    /// Takes what the caller has to say.
    pub fn handle(&mut self, now: Time, input: Input<P>, out: &mut Outbox) {
        match input {
            Input::Want { id, pattern, reliable } => self.wants.want(id, pattern, reliable),
            Input::Unwant { id } => self.wants.unwant(id),
            Input::Listed { all } => self.wants.listed(all),
            Input::Source { announce, next } => self.add_source(announce, next),
            Input::SourceGone { source, last } => {
                if let Some(export) = self.exports.get_mut(&source) {
                    export.end(last);
                    self.settle(source, out);
                }
            }
            Input::Publish { source, header, payload } => self.publish(source, header, payload, out),
            Input::Run(run) => self.publish_run(run, out),
            Input::Lost { source, from: _, to, cause } => self.lose(source, to, cause, out),
            Input::RelayOpened { source } => {
                if let Some(relay) = self.relays.get_mut(&source) {
                    relay.opened();
                    self.after_relay(now, source, out);
                }
            }
            Input::RelayRefused { source, cause } => self.refuse_relay(now, source, cause),
            Input::Revoked { source } => {
                self.revoke(source);
            }
            Input::Published { source, sequence } => self.published(now, source, sequence, out),
            Input::Dropped { source, sequence, cause } => {
                self.count(cause, 1);
                self.published(now, source, sequence, out);
            }
            // The queue lies with the caller; what has room is told by `Published`.
            Input::Suspended { source: _ } => self.tally.suspended(),
            Input::Refuse { refusal } => {
                if let Some(link) = self.link.as_mut().filter(|_| !self.closing) {
                    link.refuse(refusal.clone());
                    self.close(Closed::Refusing(refusal), out);
                }
            }
            Input::Drain { reason } => {
                self.farewell = reason;
                if let Some(link) = &mut self.link {
                    link.drain(now);
                }
                self.tick(now, out);
            }
            Input::Tick => self.tick(now, out),
        }
        self.finish_drain(out);
    }

    /// Takes bytes that have arrived: how many are done with, and at most one delivery. To be called again while
    /// a delivery comes; when none does, it needs more bytes than there are.
    pub fn receive<'a>(
        &mut self,
        now: Time,
        bytes: &'a [u8],
        out: &mut Outbox,
    ) -> (usize, Option<Delivery<'a>>) {
        let mut at = 0;
        loop {
            let Some(link) = self.link.as_mut().filter(|_| !self.closing) else { return (bytes.len(), None) };
            let (consumed, event) = match link.receive(now, bytes.get(at..).unwrap_or_default()) {
                Ok(received) => received,
                Err(closed) => {
                    self.close(closed, out);
                    return (bytes.len(), None);
                }
            };
            at += consumed;
            if link.take_asked() {
                // Beside the answer it costs no write of its own.
                self.acknowledge();
            }
            let Some(event) = event else {
                self.owe(now);
                self.finish_drain(out);
                return (at, None);
            };
            if let Some(delivery) = self.event(now, event, out) {
                return (at, Some(delivery));
            }
        }
    }

    /// Where the next bytes may be read to.
    #[must_use]
    pub fn destination(&self) -> Destination {
        let Some(link) = self.link.as_ref().filter(|_| !self.closing) else { return Destination::Staging };
        let (Want::Payload { remaining }, Some(source)) = (link.want(), link.coming()) else {
            return Destination::Staging;
        };
        match self.relays.get(&source).and_then(Relay::open) {
            Some(offset) => Destination::Message { source, offset, remaining },
            // It is dropped: wherever it goes.
            None => Destination::Staging,
        }
    }

    /// Takes bytes that were read to where `destination` said, at most as many as remain.
    pub fn receive_direct(&mut self, now: Time, bytes: &[u8], out: &mut Outbox) -> Option<Delivery<'static>> {
        let link = self.link.as_mut().filter(|_| !self.closing)?;
        if let Some(relay) = link.coming().and_then(|source| self.relays.get_mut(&source)) {
            relay.advance(bytes.len() as u64);
        }
        match link.receive_direct(now, bytes) {
            Ok(event) => event.and_then(|event| self.event(now, event, out)),
            Err(closed) => {
                self.close(closed, out);
                None
            }
        }
    }

    /// How many sources there are whose turn may come, the channels of nodes among them.
    #[must_use]
    pub fn exports(&self) -> usize {
        self.exports.len()
    }

    /// The next source that may send a message now, in turn. It is named again when its turn comes again, also if
    /// its row had nothing; `None` when no source may send.
    pub fn next_source(&mut self) -> Option<PortId> {
        let first = if self.may_any_send() { self.after(self.named, |_| true) } else { None };
        match first {
            Some(_) => self.tally.has_room(),
            None if self.is_flowing() => self.tally.starves(),
            None => {}
        }
        let first = first?;
        // Bulk has its turns for itself: where one of it has all the credit that there is for it, small messages go on, and
        // behind each the same one of it would be first again, so that the others would wait for ever.
        let bulk = self.is_bulk(first);
        let named = self.named_of[usize::from(bulk)];
        let next = if named == self.named {
            first
        } else {
            self.after(named, |source| self.is_bulk(source) == bulk).unwrap_or(first)
        };
        self.named = Some(first);
        self.named_of[usize::from(bulk)] = Some(next);
        Some(next)
    }

    /// The next source behind this one, in turn, that may send and is such a one.
    fn after(&self, after: Option<PortId>, fits: impl Fn(PortId) -> bool) -> Option<PortId> {
        let later = self.exports.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let earlier =
            self.exports.iter().take_while(|(source, _)| after.is_some_and(|after| **source <= after));
        let mut all = later.chain(earlier).map(|(source, _)| *source);
        all.find(|source| fits(*source) && self.may_send(*source))
    }

    /// Whether the next message of a source is taken to be bulk, as its latest was.
    fn is_bulk(&self, source: PortId) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_bulk(source))
    }

    /// Whether any source may send, as far as that does not depend on the source: where this says no, [`Session::may_send`]
    /// says so of each, and of ten thousand none need be asked.
    #[must_use]
    pub fn may_any_send(&self) -> bool {
        let link = self.link.as_ref().filter(|_| !self.closing);
        self.flight < LINK_FLIGHT_MESSAGES_MAX && link.is_some_and(Link::has_room_for_any)
    }

    /// Whether one more message of a source may be given: it has been accepted, and has window, credit and room.
    #[must_use]
    pub fn may_send(&self, source: PortId) -> bool {
        let Some(link) = self.link.as_ref().filter(|_| !self.closing) else { return false };
        let flowing =
            self.exports.get(&source).is_some_and(|export| export.phase() == export::Phase::Flowing);
        flowing && self.flight < LINK_FLIGHT_MESSAGES_MAX && link.has_room(source)
    }

    /// How large a run of a source may be that `may_send` speaks of: so much finds window and credit. One message more,
    /// of any size, may follow it; it waits for them.
    #[must_use]
    pub fn room(&self, source: PortId) -> Room {
        self.link.as_ref().filter(|_| !self.closing).map_or_else(Room::default, |link| link.room(source))
    }

    /// A run to be filled for [`Input::Run`]: its memory is used again when it has gone.
    pub fn spare_run(&mut self) -> Run {
        self.link.as_mut().map_or_else(Run::default, Link::spare_run)
    }

    /// A run of `spare_run` in which there is nothing.
    pub fn put_back(&mut self, run: Run) {
        if let Some(link) = &mut self.link {
            link.outgoing().put_back(run);
        }
    }

    /// Whether sources that could not send may be able to now, by what the peer has said since this was asked last.
    pub fn take_freed(&mut self) -> bool {
        let raised = self.link.as_mut().is_some_and(Link::take_raised);
        core::mem::take(&mut self.freed) || raised
    }

    /// Puts out what may go now, until the batch has its size.
    pub fn transmit(&mut self, now: Time, batch: &mut Batch<P>) {
        let Some(link) = &mut self.link else { return };
        if *link.state() == State::Established {
            while link.ordered_len() < ORDERED_MAX {
                if let Some(interest) = self.wants.next() {
                    link.push_ordered(Frame::Interest(interest));
                    continue;
                }
                let Some(source) = self.to_announce.pop_first() else { break };
                // It may have been answered meanwhile.
                let unanswered = |export: &&mut Export| export.phase() != export::Phase::Flowing;
                if let Some(export) = self.exports.get_mut(&source).filter(unanswered) {
                    link.push_ordered(Frame::Announce(export.announced()));
                }
            }
        }
        link.transmit(now, batch);
    }

    /// Of bulk so many bytes may begin to go until this is said again; without a number, any. A new link has none.
    pub fn set_bulk_room(&mut self, room: Option<u64>) {
        if let Some(link) = &mut self.link {
            link.set_bulk_room(room);
        }
    }

    /// Of messages so many bytes may wait for the present link, `LINK_QUEUE_BYTES_MAX` at most: what a host has for all of
    /// its links is shared. A new link has that much.
    pub fn set_queue_bytes(&mut self, bytes: u64) {
        if let Some(link) = &mut self.link {
            link.set_queue_bytes(bytes);
        }
    }

    /// Asks the peer how far away it is; the next change of `round_trip_ns` in the link's counts is the answer.
    pub fn ask(&mut self, now: Time) {
        if let Some(link) = &mut self.link {
            link.ask(now);
        }
    }

    /// Bytes of bulk that `transmit` has put out on the present link, with their frames: 0 without one.
    #[must_use]
    pub fn bulk_out(&self) -> u64 {
        self.link.as_ref().map_or(0, Link::bulk_out)
    }

    /// Whether bulk is there, so that `transmit` should be told how much room there is.
    #[must_use]
    pub fn has_bulk(&self) -> bool {
        self.link.as_ref().is_some_and(Link::has_bulk)
    }

    /// Whether `transmit` would put anything out.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            let news = self.wants.has_news() || !self.to_announce.is_empty();
            link.has_output() || (news && *link.state() == State::Established)
        })
    }

    /// When `Input::Tick` is wanted next, and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Time, Deadline)> {
        let link = self.link.as_ref().filter(|_| !self.closing)?;
        let acknowledge = self.acknowledge_at.map(|at| (at, Deadline::Acknowledge));
        let resume = self.resume_at.map(|at| (at, Deadline::Resume));
        let credit = self.credit_at.map(|at| (at, Deadline::Credit));
        let asks = self.flight > 0 && *link.state() == State::Draining;
        let ask = self.ask_at.filter(|_| asks).map(|at| (at, Deadline::Ping));
        [link.deadline(), acknowledge, credit, resume, ask].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// How far the link is; `None` without one.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.link.as_ref().map(Link::state)
    }

    /// What the link has counted; `None` without one.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        self.link.as_ref().map(Link::stats)
    }

    /// What became of the messages of one of our sources.
    #[must_use]
    pub fn account(&self, source: PortId) -> Option<Account> {
        self.exports.get(&source).map(Export::account)
    }

    /// Messages of the peer that were dropped here, by cause, and those that came twice.
    #[must_use]
    pub fn dropped(&self) -> ([u64; Cause::COUNT], u64) {
        (self.dropped, self.duplicates)
    }

    /// Both have said hello.
    fn establish(&mut self, now: Time, out: &mut Outbox) {
        let Some(hello) = self.link.as_ref().and_then(Link::hello).cloned() else { return };
        let restarted = self.instance.is_some_and(|instance| instance != hello.instance);
        self.instance = Some(hello.instance);
        self.restarted |= restarted;
        self.wants.connected();
        self.peer_wants.connected();
        self.to_announce = self.exports.keys().copied().collect();
        self.resume_at = (!self.relays.is_empty()).then(|| now.after_ms(LINK_RESUME_MS));
        out.push(Output::Established { hello, restarted });
    }

    fn tick(&mut self, now: Time, out: &mut Outbox) {
        let Some(link) = self.link.as_mut().filter(|_| !self.closing) else { return };
        if let Err(closed) = link.tick(now) {
            self.close(closed, out);
            return;
        }
        // While it drains what was sent is asked for, until it is known what became of it.
        let asks = self.flight > 0 && *link.state() == State::Draining;
        if asks && self.ask_at.is_none_or(|at| at <= now) {
            link.ask(now);
            self.ask_at = Some(now.after_ms(LINK_ACKNOWLEDGE_MS));
        }
        let soon = now.after_ms(LINK_ACKNOWLEDGE_MS);
        if self.credit_at.is_some_and(|at| at <= now) {
            self.acknowledge();
        } else if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge_sources();
            // One write for both.
            if self.credit_at.is_some_and(|at| at <= soon) {
                self.acknowledge();
            }
        }
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            self.end_stale_relays(now, out);
        }
    }

    /// Tells the peer how far its sources have arrived that have something to acknowledge.
    fn acknowledge_sources(&mut self) {
        self.acknowledge_at = None;
        let Some(link) = &mut self.link else { return };
        while let Some(source) = self.dirty.pop_first() {
            if let Some(accept) = self.relays.get_mut(&source).and_then(Relay::tell) {
                link.tell_accept(accept);
            }
        }
    }

    /// The same, and what was consumed of its credit.
    fn acknowledge(&mut self) {
        self.acknowledge_sources();
        (self.credit_at, self.hurries) = (None, false);
        if let Some(link) = &mut self.link {
            link.tell_credit();
        }
    }

    /// Says goodbye once a draining link has nothing under way.
    fn finish_drain(&mut self, out: &mut Outbox) {
        let Some(link) = self.link.as_mut().filter(|_| !self.closing) else { return };
        if *link.state() == State::Draining && self.flight == 0 {
            link.goodbye(&self.farewell);
            self.close(Closed::Drained, out);
        }
    }

    fn close(&mut self, reason: Closed, out: &mut Outbox) {
        if !core::mem::replace(&mut self.closing, true) {
            let retry_after_ms = match &reason {
                Closed::Refused(refusal) => refusal.retry_after_ms,
                Closed::Peer(_)
                | Closed::Refusing(_)
                | Closed::Goodbye { .. }
                | Closed::Drained
                | Closed::Handshake
                | Closed::Partial
                | Closed::Silent
                | Closed::Insecure { .. } => 0,
            };
            out.push(Output::Close { reason, retry_after_ms });
        }
    }

    /// A peer that has started again may hear of a source before it wants it, and does not answer then. Once it says that
    /// it does, it is told again.
    fn announce_again(&mut self, interest: &Interest) {
        if !self.restarted {
            return;
        }
        let unanswered = self.exports.iter().filter(|(_, export)| export.phase() == export::Phase::Announced);
        let wanted = unanswered.filter(|(_, export)| {
            interest.add.iter().any(|wanted| wanted.pattern.matches(export.topic_name()))
        });
        self.to_announce.extend(wanted.map(|(source, _)| *source));
    }

    fn fail(&mut self, error: PeerError, out: &mut Outbox) {
        if let Some(link) = &mut self.link {
            let closed = link.fail(error);
            self.close(closed, out);
        }
    }

    fn count(&mut self, cause: Cause, count: u64) {
        if let Some(word) = self.dropped.get_mut(cause.index()) {
            *word = word.saturating_add(count);
        }
    }

    /// What an event of the link means.
    fn event<'a>(&mut self, now: Time, event: Event<'a>, out: &mut Outbox) -> Option<Delivery<'a>> {
        match event {
            Event::Hello(_) => {
                self.establish(now, out);
                None
            }
            Event::Frame(frame) => {
                if let Err(error) = self.frame(now, frame, out) {
                    self.fail(error, out);
                }
                None
            }
            Event::Message { header, body } => self.message(now, header, body, out),
            Event::Spoiled { header } => {
                self.spoiled(now, &header, out);
                None
            }
            Event::Run { header, records } => self.run(now, header, records, out),
            Event::Begin { header, extensions } => self.begin(now, header, extensions, out),
            Event::Bytes { source, bytes } => {
                let offset = self.relays.get_mut(&source)?.advance(bytes.len() as u64)?;
                Some(Delivery::Bytes { source, offset, bytes })
            }
            Event::End { source } => self.end(source, out),
            Event::SpoiledPiece { source, ends } => {
                self.spoiled_piece(source, ends, out);
                None
            }
        }
    }

    fn frame(&mut self, now: Time, frame: Frame, out: &mut Outbox) -> Result<(), PeerError> {
        match frame {
            Frame::Interest(interest) => {
                self.announce_again(&interest);
                let changes = self.peer_wants.take(interest)?;
                out.extend(changes.gone.into_iter().map(|id| Output::PeerUnwants { id }));
                out.extend(
                    changes.new.into_iter().map(|Wanted { id, pattern, reliable }| Output::PeerWants {
                        id,
                        pattern,
                        reliable,
                    }),
                );
                Ok(())
            }
            Frame::Announce(announce) => self.announced(announce, out),
            Frame::Retire(retire) => {
                self.retired(now, retire, out);
                Ok(())
            }
            Frame::Accept(accept) => self.accepted(&accept, out),
            Frame::Gap(gap) => self.gap(now, gap, out),
            Frame::Deny(deny) => {
                self.denied(deny, out);
                Ok(())
            }
            // The link keeps these to itself.
            Frame::Hello(_)
            | Frame::Refusal(_)
            | Frame::Credit(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Goodbye { .. } => Ok(()),
        }
    }
}
