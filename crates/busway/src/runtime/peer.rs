//! One peer: its session, what we read for it, what it sends us, and its connection while there is one.
//!
//! A `Peer` is a step machine behind one lock: bytes come in by `arrived`, local messages go out by `pump`, and each step
//! carries out what the session asks for. It waits for nothing. Whoever has the lock writes, so a thread that found
//! something to send needs no other thread to send it.
//!
//! Invariant: a batch is in one place: here, or with the driver until it is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use busway_io::{ConnectionId, Driver, Fault, Read, Submitted};
use busway_protocol::flow::Flow;
use busway_protocol::{
    Acl, Batch, Closed, Deed, Delivery, Destination, Input, Link, Output, Passing, PeerId, Permits,
    Principal, Session, State, Stats, Time,
};
use busway_wire::limits::{LINK_AWAITED_MS, LINK_DIRECT_BYTES};
use busway_wire::link::Announce;
use busway_wire::{Cause, PortId};

use crate::bus::Core;
use crate::cluster::may_speak;
use crate::error::Error;
use crate::ports::lock;
use crate::publisher::Missing;
use crate::runtime::backlog::{Backlog, Backlogs};
use crate::runtime::cipher::{Cipher, Trouble};
use crate::runtime::desk::Channel;
use crate::runtime::export::{Care, Exports};
use crate::runtime::gate::{Gates, Passage};
use crate::runtime::gossip;
use crate::runtime::import::{Imports, Inputs, Lent};
use crate::runtime::{Goal, Outbound, Pieces, Staging, UnderWay};

mod artifacts;
mod fill;
mod words;

/// What a step did that others have to know.
#[derive(Debug)]
pub(crate) enum Happened {
    /// The link stands; this is what the peer calls itself, and the number of its start.
    Established {
        name: String,
        instance: u64,
        /// How far an earlier start of it had confirmed what was for that one.
        left: Vec<(PortId, u64)>,
    },
    /// Messages have come, or the peer has counted ours.
    Message(ConnectionId),
    /// The peer has answered a ping, and nobody has had anything else to say yet.
    Answered(ConnectionId),
    /// Something is not allowed, here or there; in words.
    Denied(String),
    /// The peer is a node and has announced a source that this client spoke for. It is opened for the peer by
    /// [`Peer::open_relay`] when it was closed for the client by [`Peer::cut`].
    Displaced { client: PeerId, announce: Announce },
    /// The session gave the link up; the connection is being closed.
    Closed { connection: ConnectionId, reason: Closed, retry_after_ms: u32 },
}

/// Which peer speaks for which source: the first that announced it, until it says that no more will come. A node that
/// announces what a client has taken gets it: a client may have heard of that source and been faster.
#[derive(Debug, Default)]
pub(crate) struct Speakers(Mutex<BTreeMap<PortId, PeerId>>);

/// What became of a peer's word that it speaks for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It does.
    Granted,
    /// It does from now on, in place of this client.
    InPlaceOf(PeerId),
    /// Another peer does.
    Refused,
}

impl Speakers {
    fn claim(&self, source: PortId, peer: PeerId) -> Claim {
        let mut speakers = lock(&self.0);
        let holder = speakers.entry(source).or_insert(peer);
        match (*holder, peer) {
            (held, peer) if held == peer => Claim::Granted,
            (held @ PeerId::Client { .. }, PeerId::Node { .. }) => {
                *holder = peer;
                Claim::InPlaceOf(held)
            }
            _ => Claim::Refused,
        }
    }

    /// The peer is forgotten: it speaks for nothing any more.
    pub(crate) fn forget(&self, peer: PeerId) {
        lock(&self.0).retain(|_, speaker| *speaker != peer);
    }

    fn silent(&self, source: PortId, peer: PeerId) {
        let mut speakers = lock(&self.0);
        if speakers.get(&source) == Some(&peer) {
            speakers.remove(&source);
        }
    }
}

/// The connection of a peer.
#[derive(Debug)]
struct Wire {
    connection: ConnectionId,
    /// What is to be written; with the driver while a write is under way.
    batch: Option<Pieces>,
    /// Bytes of a frame that has not come whole; with a cipher, it has them.
    rest: Vec<u8>,
    /// The last read was of a large payload.
    bulk: bool,
    /// It is read then though less has come than is waited for.
    awaits_until: Option<Time>,
    /// With TLS.
    cipher: Option<Box<Cipher>>,
    /// The session is done with it: what is in the batch is written, then it is closed.
    closing: Option<Closing>,
    told: Told,
    /// Bulk goes through a gate.
    passage: Option<Passage>,
    /// Its part of what may wait for all links.
    backlog: Backlog,
}

/// What the links of a host have together.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    pub(crate) gates: Arc<Gates>,
    pub(crate) backlogs: Arc<Backlogs>,
}

/// How much of a connection's life the membership was told of.
#[derive(Debug, Default)]
struct Told {
    /// Messages, theirs and those of ours that they have counted.
    messages: u64,
    at: Time,
    answered: bool,
}

/// A connection that the session is done with.
#[derive(Debug)]
struct Closing {
    reason: Closed,
    retry_after_ms: u32,
    since: Time,
}

/// Why a connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The driver has told that it can be.
    Told,
    /// Something may have come; it is watched as well.
    Guess,
}

/// Reads of one connection before others have their turn.
const TURNS: usize = 8;

/// See the head of this file.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    session: Session<Outbound>,
    /// Who it has shown to be.
    pub(crate) principal: Principal,
    /// What it may do.
    permits: Permits,
    exports: Exports,
    pub(crate) imports: Imports,
    /// What is said about work, if that is shared with other hosts.
    channel: Option<Channel>,
    /// What is said about artifacts, if it is a node and so are we.
    artifacts: Option<gossip::Channel>,
    wire: Option<Wire>,
    host: String,
    speakers: Arc<Speakers>,
    shares: Shares,
    outputs: Vec<Output>,
    /// Takes the outputs of what is done for the former: its memory is used again.
    spare: Vec<Output>,
    inputs: Inputs,
    /// Since the session was told last.
    delivered: usize,
    pub(crate) happened: Vec<Happened>,
    /// When all sources are looked at in turn again.
    full_at: Time,
    /// Behind the place in the list of sources that was read last.
    turn: usize,
    /// Of a full look that is under way: sources that were looked at.
    looked_at: usize,
    /// Sources that had something at the last look at all of them.
    gave: usize,
    /// The same of the look that goes on.
    giving: usize,
    /// Nanoseconds in which what came was put into its place.
    taking_ns: u64,
    /// When something was read last.
    heard: Time,
}

impl Peer {
    pub(crate) fn new(
        core: &Arc<Core>,
        session: Session<Outbound>,
        permits: Permits,
        host: String,
        place: u64,
        speakers: Arc<Speakers>,
        shares: Shares,
    ) -> Result<Self, Error> {
        let id = session.peer();
        Ok(Self {
            id,
            session,
            principal: permits.who().clone(),
            permits: permits.clone(),
            exports: Exports::new(core, id, permits, place)?,
            imports: Imports::new(core),
            channel: None,
            artifacts: None,
            wire: None,
            host,
            speakers,
            shares,
            outputs: Vec::new(),
            spare: Vec::new(),
            inputs: Vec::new(),
            delivered: 0,
            happened: Vec::new(),
            full_at: Time(0),
            turn: 0,
            looked_at: 0,
            gave: usize::MAX,
            giving: 0,
            taking_ns: 0,
            heard: Time::default(),
        })
    }

    /// A connection to this peer is there; `link` is ours or has heard the peer's hello. An older one is closed.
    pub(crate) fn connected<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        connection: ConnectionId,
        link: Link<Outbound>,
        cipher: Option<Box<Cipher>>,
    ) {
        let now = Time(driver.now_ns());
        if let Some(old) = self.wire.take() {
            driver.close(old.connection);
            self.lost(now);
        }
        let batch = Some(Pieces(Batch::new()));
        let passage = Passage::new(&self.shares.gates, driver, connection);
        let backlog = Backlog::new(&self.shares.backlogs);
        let (rest, told) = (Vec::new(), Told::default());
        self.wire = Some(Wire {
            connection,
            batch,
            rest,
            bulk: false,
            awaits_until: None,
            cipher,
            closing: None,
            told,
            passage,
            backlog,
        });
        self.session.connected(now, link, &mut self.outputs);
        self.carry_out(now);
        self.write(driver);
    }

    /// It may do something else than before. What it may no more stops at once: nothing that waits goes out, and what it
    /// announces on the next link is looked at anew.
    pub(crate) fn permit<D: Driver<Staging, Pieces>>(&mut self, driver: &D, acl: Option<&Acl>) {
        let permits = Permits::new(self.principal.clone(), acl);
        if permits == self.permits {
            return;
        }
        self.permits = permits.clone();
        if let Some(channel) = &mut self.channel {
            channel.withhold(&permits);
        }
        let now = Time(driver.now_ns());
        if let Some(wire) = self.wire.take() {
            driver.close(wire.connection);
            let (connection, retry_after_ms) = (wire.connection, 0);
            let reason = Closed::Insecure { reason: "what the peer may do has changed".to_owned() };
            self.happened.push(Happened::Closed { connection, reason, retry_after_ms });
            self.lost(now);
        }
        for source in self.exports.permit(permits) {
            self.session.handle(now, Input::Revoked { source }, &mut self.outputs);
        }
        self.carry_out(now);
    }

    /// The connection is gone, whoever closed it.
    pub(crate) fn disconnected<D: Driver<Staging, Pieces>>(&mut self, driver: &D, connection: ConnectionId) {
        if self.wire.as_ref().is_none_or(|wire| wire.connection != connection) {
            return;
        }
        self.wire = None;
        self.lost(Time(driver.now_ns()));
    }

    fn lost(&mut self, now: Time) {
        if let Some(channel) = &mut self.channel {
            channel.lost();
        }
        self.session.disconnected(now, &mut self.outputs);
        self.carry_out(now);
        self.lose_artifacts(now);
    }

    /// What we want of the peer has changed.
    pub(crate) fn tell<D: Driver<Staging, Pieces>>(&mut self, driver: &D, input: Input<Outbound>) {
        let now = Time(driver.now_ns());
        self.session.handle(now, input, &mut self.outputs);
        self.carry_out(now);
        self.write(driver);
    }

    /// Reads what has come, until there is nothing more at this moment or others should have their turn. Who was told
    /// that something has come watches for the next. Returns whether anything was read.
    pub(crate) fn read<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        connection: ConnectionId,
        staging: &mut Option<Staging>,
        reason: Reason,
    ) -> bool {
        for turn in 0..TURNS {
            let Some(wire) = self.wire.as_mut().filter(|wire| wire.connection == connection) else {
                return turn > 0;
            };
            let mut space = staging.take().unwrap_or_else(Staging::new);
            space.begin(wire.cipher.as_ref().map_or(&wire.rest, |cipher| cipher.incoming()));
            space.aim(self.goal());
            let (full, room) = (space.len(), space.room());
            let (mut space, result) = driver.read_now(connection, space);
            let lent = space.take_lent();
            match result {
                Some(Ok(Read::Bytes(count))) => {
                    let now = Time(driver.now_ns());
                    self.heard = now;
                    let there = self.came(now, lent, count);
                    space.filled(full + count - there);
                    self.come(now, space.bytes());
                    *staging = Some(space);
                    self.taken(driver, now);
                    self.write_at(driver, now);
                    if count < room {
                        // Who guessed has left what was asked for as it was, but for how much is worth being told of.
                        let awaits = |wire: &Wire| wire.awaits_until.is_some();
                        if reason == Reason::Told
                            || self.misses() > 0
                            || self.wire.as_ref().is_some_and(awaits)
                        {
                            self.watch(driver, connection, now);
                        }
                        return true;
                    }
                }
                Some(result) => {
                    self.came(Time::default(), lent, 0);
                    *staging = Some(space);
                    self.ended(driver, connection, result.err());
                    return true;
                }
                None => {
                    self.came(Time::default(), lent, 0);
                    *staging = Some(space);
                    if turn > 0 || reason == Reason::Told {
                        self.watch(driver, connection, Time(driver.now_ns()));
                    }
                    return turn > 0;
                }
            }
        }
        self.watch(driver, connection, Time(driver.now_ns()));
        true
    }

    /// Bytes of a payload that are to come.
    fn misses(&self) -> usize {
        match self.session.destination() {
            Destination::Message { remaining, .. } => usize::try_from(remaining).unwrap_or(usize::MAX),
            Destination::Staging => 0,
        }
    }

    /// Asks to be told of what comes next. The rest of a frame's payload can be followed by nothing before it is there, so
    /// that who receives is woken once for all of it; but not for ever by a peer that is slow.
    fn watch<D: Driver<Staging, Pieces>>(&mut self, driver: &D, connection: ConnectionId, now: Time) {
        let missing = self.misses();
        let Some(wire) = &mut self.wire else { return };
        // Encrypted it is no less, and some of it may be here.
        let here = wire.cipher.as_ref().map_or(0, |cipher| cipher.incoming().len());
        let least = missing.saturating_sub(here);
        let least = if least < LINK_DIRECT_BYTES { 1 } else { least };
        wire.awaits_until = (least > 1).then(|| now.after_ms(LINK_AWAITED_MS));
        driver.watch_for(connection, least);
    }

    /// What to read next: the rest of a payload that is coming goes to where it stays. What is encrypted does not.
    fn goal(&mut self) -> Goal {
        let Some(wire) = self.wire.as_ref().filter(|wire| wire.cipher.is_none()) else { return Goal::All };
        let lent = match self.session.destination() {
            Destination::Message { source, offset, remaining } if wire.rest.is_empty() => {
                self.imports.lend(source, offset, remaining)
            }
            Destination::Message { .. } | Destination::Staging => None,
        };
        match lent {
            Some(lent) => Goal::Payload(lent),
            None if wire.bulk => Goal::Beginning,
            None => Goal::All,
        }
    }

    /// While a payload is coming, whether the next read is to where it stays, and whether all of it is waited for.
    #[cfg(test)]
    pub(crate) fn aims_at_its_place(&mut self) -> Option<(bool, bool)> {
        let Destination::Message { .. } = self.session.destination() else { return None };
        let awaits = self.wire.as_ref()?.awaits_until.is_some();
        match self.goal() {
            Goal::Payload(lent) => {
                self.imports.take_back(lent);
                Some((true, awaits))
            }
            Goal::All | Goal::Beginning => Some((false, awaits)),
        }
    }

    /// A read is done that brought `count` bytes, of which the first lie where they stay: shows them to the session while
    /// the cache has them. Returns how many they were.
    fn came(&mut self, now: Time, lent: Option<Lent>, count: usize) -> usize {
        if let Some(wire) = self.wire.as_mut().filter(|_| count > 0) {
            wire.rest.clear();
            wire.bulk = lent.is_some();
        }
        let Some(mut lent) = lent else { return 0 };
        let bytes = lent.bytes_mut();
        let there = bytes.len().min(count);
        let delivery = match there {
            0 => None,
            _ => self.session.receive_direct(now, &bytes[..there], &mut self.outputs),
        };
        self.imports.take_back(lent);
        if !self.outputs.is_empty() {
            self.carry_out(now);
        }
        if let Some(delivery) = delivery {
            self.deliver(now, delivery);
        }
        there
    }

    /// A read that was pending is done.
    pub(crate) fn read_done<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        connection: ConnectionId,
        staging: &mut Staging,
        result: Result<Read, Fault>,
    ) {
        match result {
            Ok(Read::Bytes(count)) => {
                staging.filled(staging.len() + count);
                if self.wire.as_ref().is_some_and(|wire| wire.connection == connection) {
                    let now = Time(driver.now_ns());
                    self.come(now, staging.bytes());
                    self.taken(driver, now);
                    self.write(driver);
                    driver.watch(connection);
                }
            }
            Ok(Read::End) => self.ended(driver, connection, None),
            Err(fault) => self.ended(driver, connection, Some(fault)),
        }
    }

    /// What was read at this time is in its place.
    fn taken<D: Driver<Staging, Pieces>>(&mut self, driver: &D, since: Time) {
        self.rouse();
        self.taking_ns = self.taking_ns.saturating_add(Time(driver.now_ns()).since(since));
    }

    fn ended<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        connection: ConnectionId,
        fault: Option<Fault>,
    ) {
        tracing::debug!(target: "busway::link", peer = %self.id, ?fault, "the connection has ended");
        driver.close(connection);
        self.disconnected(driver, connection);
    }

    /// Bytes have come, from the first that is not done with.
    pub(crate) fn come(&mut self, now: Time, bytes: &mut [u8]) {
        match self.wire.as_mut().and_then(|wire| wire.cipher.take()) {
            Some(cipher) => self.open(now, cipher, bytes),
            None => {
                let at = self.arrived(now, bytes);
                if let Some(wire) = &mut self.wire {
                    wire.rest.extend_from_slice(bytes.get(at..).unwrap_or_default());
                }
            }
        }
    }

    /// As `come`, of encrypted bytes.
    fn open(&mut self, now: Time, mut cipher: Box<Cipher>, bytes: &mut [u8]) {
        let opened = cipher.open(bytes);
        if opened.is_ok() {
            let plain = cipher.take_plain();
            let done = self.arrived(now, &plain);
            cipher.keep(plain, done);
        }
        if let Some(wire) = &mut self.wire {
            wire.cipher = Some(cipher);
        }
        if let Err(trouble) = opened {
            self.give_up(now, trouble);
        }
    }

    /// The connection cannot be secured, or leads to somebody else.
    fn give_up(&mut self, now: Time, trouble: Trouble) {
        let (reason, retry_after_ms) = match trouble {
            Trouble::Broken(reason) => (Closed::Insecure { reason }, 0),
            Trouble::Plain => (Closed::Insecure { reason: "the peer does not speak TLS".to_owned() }, 0),
            Trouble::Refused(refusal) => {
                let retry_after_ms = refusal.retry_after_ms;
                (Closed::Refused(refusal), retry_after_ms)
            }
            Trouble::Stranger(refusal) => {
                self.session.handle(now, Input::Refuse { refusal }, &mut self.outputs);
                return self.carry_out(now);
            }
        };
        if let Some(wire) = &mut self.wire {
            wire.closing.get_or_insert(Closing { reason, retry_after_ms, since: now });
        }
    }

    /// Shows the session what can be read; returns how much of it is done with.
    fn arrived(&mut self, now: Time, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let (consumed, delivery) = self.session.receive(now, rest, &mut self.outputs);
            if !self.outputs.is_empty() {
                self.carry_out(now);
            }
            let nothing = consumed == 0 && delivery.is_none();
            if let Some(delivery) = delivery {
                self.deliver(now, delivery);
            }
            at += consumed;
            if nothing || at > bytes.len() || self.is_closing() {
                break;
            }
        }
        self.answer(now);
        self.hear(now);
        at
    }

    fn is_closing(&self) -> bool {
        self.wire.as_ref().is_none_or(|wire| wire.closing.is_some())
    }

    /// Notes, every now and then, that the connection is of use: who is idle longest gives way first.
    fn hear(&mut self, now: Time) {
        let (Some(wire), Some(stats)) = (&mut self.wire, self.session.stats()) else { return };
        let messages = stats.messages_in.saturating_add(stats.messages_seen);
        let told = &mut wire.told;
        if messages != told.messages && (told.messages == 0 || now >= told.at.after_ms(HEARD_MS)) {
            *told = Told { messages, at: now, answered: true };
            self.happened.push(Happened::Message(wire.connection));
        } else if stats.round_trip_ns > 0 && !told.answered {
            told.answered = true;
            self.happened.push(Happened::Answered(wire.connection));
        }
    }

    fn deliver(&mut self, now: Time, delivery: Delivery<'_>) {
        let source = match &delivery {
            Delivery::Message { header, .. }
            | Delivery::Run { header, .. }
            | Delivery::Begin { header, .. } => header.source(),
            Delivery::Bytes { source, .. } | Delivery::End { source } => *source,
        };
        if let Some(channel) = &mut self.channel
            && let Some(course) = channel.theirs(source)
        {
            return channel.deliver(course, delivery, &mut self.inputs);
        }
        if let Some(channel) = self.artifacts.as_mut().filter(|channel| channel.is_theirs(source)) {
            return channel.deliver(delivery);
        }
        self.imports.deliver(delivery, &mut self.inputs);
        self.delivered += 1;
        // Not after every message: what was published is told once for all of them.
        if self.delivered >= DELIVERED_MAX {
            self.answer(now);
        }
    }

    /// Tells the session what became of what came.
    fn answer(&mut self, now: Time) {
        self.delivered = 0;
        let mut inputs = std::mem::take(&mut self.inputs);
        for input in inputs.drain(..) {
            self.session.handle(now, input, &mut self.outputs);
        }
        self.inputs = inputs;
        if !self.outputs.is_empty() {
            self.carry_out(now);
        }
    }

    /// Does what the session asks for.
    fn carry_out(&mut self, now: Time) {
        while !self.outputs.is_empty() {
            let mut outputs = std::mem::replace(&mut self.outputs, std::mem::take(&mut self.spare));
            for output in outputs.drain(..) {
                self.carry_out_one(now, output);
            }
            self.spare = outputs;
            let mut inputs = std::mem::take(&mut self.inputs);
            for input in inputs.drain(..) {
                self.session.handle(now, input, &mut self.outputs);
            }
            self.inputs = inputs;
        }
    }

    fn carry_out_one(&mut self, now: Time, output: Output) {
        let Some(output) = self.carry_out_of_work(output) else { return };
        let Some(output) = self.carry_out_of_artifacts(output) else { return };
        match output {
            Output::Established { hello, restarted } => {
                tracing::info!(target: "busway::link", peer = %self.id, name = %hello.name.escape_debug(), restarted, "linked");
                // Before anything of the new link is heard.
                let left = if restarted { self.exports.confirmed() } else { Vec::new() };
                let (name, instance) = (hello.name, hello.instance);
                self.happened.push(Happened::Established { name, instance, left });
                self.exports.connected();
            }
            Output::PeerWants { id, pattern, reliable } => {
                let care = if reliable { Care::Reliable } else { Care::Lossy };
                if let Err(error) = self.exports.want(id, pattern, care) {
                    tracing::warn!(target: "busway::link", peer = %self.id, "cannot read for a peer: {error}");
                }
            }
            Output::PeerUnwants { id } => {
                for (source, last) in self.exports.unwant(id) {
                    self.inputs.push(Input::SourceGone { source, last });
                }
            }
            Output::OpenRelay { announce } => {
                let source = announce.source;
                // What endpoints of a cluster say to each other is bound to who they are.
                if !announce.topic.is_reserved() && !self.permits.allow(Deed::Publish, &announce.topic) {
                    self.happened
                        .push(Happened::Denied(self.permits.refusal(Deed::Publish, &announce.topic)));
                    self.imports.close(source);
                    self.inputs.push(Input::RelayRefused { source, cause: Cause::Denied });
                } else {
                    self.claim(announce, now);
                }
            }
            Output::CloseRelay { source } => {
                self.imports.close(source);
                self.speakers.silent(source, self.id);
            }
            Output::SourceDone { source, .. } => {
                if let Some(again) = self.exports.done(source) {
                    self.inputs.push(self.source(again));
                }
            }
            Output::SourceDenied { source, cause, .. } => {
                if let Some(topic) = self.exports.deny(source) {
                    self.happened
                        .push(Happened::Denied(format!("{} does not take {topic}: {cause}", self.id)));
                }
            }
            Output::Abort { source } => self.imports.abort(source),
            Output::Pass { source, to } => self.exports.confirm(source, to),
            Output::Rewind { source, to } => self.exports.rewind(source, to.saturating_add(1)),
            Output::RelayGap { source, from, to, cause, link } => {
                self.imports.missing(source, Missing { from, to, cause, link }, &mut self.inputs);
            }
            Output::Close { reason, retry_after_ms } => {
                if let Some(wire) = &mut self.wire {
                    wire.closing.get_or_insert(Closing { reason, retry_after_ms, since: now });
                }
            }
        }
    }

    /// It says that it speaks for a source.
    fn claim(&mut self, announce: Announce, now: Time) {
        let source = announce.source;
        let claim = if may_speak(&announce.topic, self.id) {
            self.speakers.claim(source, self.id)
        } else {
            Claim::Refused
        };
        match claim {
            Claim::Granted => self.imports.open(&announce, now.0, &mut self.inputs),
            Claim::InPlaceOf(client) => self.happened.push(Happened::Displaced { client, announce }),
            Claim::Refused => {
                tracing::warn!(target: "busway::link", peer = %self.id, source = %source, "speaks for a source of another peer");
                self.inputs.push(Input::RelayRefused { source, cause: Cause::SpoofedSource });
            }
        }
    }

    /// Another peer, a node, speaks for this source: nothing more of it is taken from this one, and what waits is dropped.
    pub(crate) fn cut<D: Driver<Staging, Pieces>>(&mut self, driver: &D, source: PortId, node: PeerId) {
        let reason = format!("{} announced source {source}, which is of {node}", self.id);
        self.happened.push(Happened::Denied(reason));
        self.imports.cut(source, &mut self.inputs);
        self.inputs.push(Input::RelayRefused { source, cause: Cause::SpoofedSource });
        self.answer(Time(driver.now_ns()));
        self.write(driver);
    }

    /// What this peer has announced is nobody else's any more.
    pub(crate) fn open_relay<D: Driver<Staging, Pieces>>(&mut self, driver: &D, announce: &Announce) {
        let now = Time(driver.now_ns());
        self.imports.open(announce, now.0, &mut self.inputs);
        self.answer(now);
        self.write(driver);
    }

    /// Writes what may go out, until the socket takes no more. Returns whether the last batch went out whole.
    pub(crate) fn write<D: Driver<Staging, Pieces>>(&mut self, driver: &D) -> bool {
        self.write_at(driver, Time(driver.now_ns()))
    }

    /// As [`Peer::write`], by who has just looked at the clock.
    fn write_at<D: Driver<Staging, Pieces>>(&mut self, driver: &D, now: Time) -> bool {
        loop {
            let Some(wire) = &mut self.wire else { return false };
            let Some(mut pieces) = wire.batch.take() else { return false };
            if pieces.0.is_empty() {
                self.session.set_queue_bytes(wire.backlog.bytes());
                if let Some(passage) = &mut wire.passage {
                    passage.look(driver, now, &mut self.session);
                }
            }
            if pieces.0.is_empty()
                && let Err(trouble) = transmit(&mut self.session, &mut wire.cipher, now, &mut pieces.0)
            {
                pieces.0.clear();
                wire.batch = Some(pieces);
                self.give_up(now, trouble);
                continue;
            }
            if pieces.0.is_empty() {
                let closing = wire.closing.take();
                wire.batch = Some(pieces);
                if let Some(closing) = closing {
                    self.close(driver, closing);
                }
                return true;
            }
            match driver.write(wire.connection, pieces) {
                Submitted::Done { buffer, result } => {
                    if !self.written(driver, buffer, result) {
                        return false;
                    }
                }
                // `Event::Written` brings the batch back.
                Submitted::Pending => return false,
            }
        }
    }

    /// A write is done; the batch is back. Returns whether the connection is of use.
    pub(crate) fn written<D: Driver<Staging, Pieces>>(
        &mut self,
        driver: &D,
        mut pieces: Pieces,
        result: Result<usize, Fault>,
    ) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        match result {
            Ok(count) => {
                pieces.0.advance(count);
                if let Some(passage) = &wire.passage {
                    passage.wrote(count);
                }
                wire.batch = Some(pieces);
                true
            }
            Err(fault) => {
                let connection = wire.connection;
                self.ended(driver, connection, Some(fault));
                false
            }
        }
    }

    fn close<D: Driver<Staging, Pieces>>(&mut self, driver: &D, closing: Closing) {
        let Some(wire) = self.wire.take() else { return };
        let Closing { reason, retry_after_ms, .. } = closing;
        tracing::info!(target: "busway::link", peer = %self.id, "closed: {reason}");
        driver.close(wire.connection);
        let connection = wire.connection;
        self.happened.push(Happened::Closed { connection, reason, retry_after_ms });
        self.lost(Time(driver.now_ns()));
    }

    /// Deadlines, relays that open, and messages that waited for room. Returns whether to come again soon.
    pub(crate) fn tick<D: Driver<Staging, Pieces>>(&mut self, driver: &D) -> bool {
        let now = Time(driver.now_ns());
        let waiting = self.imports.look_again(now.0, &mut self.inputs);
        self.answer(now);
        if self.session.deadline().is_some_and(|(at, _)| at <= now) {
            self.session.handle(now, Input::Tick, &mut self.outputs);
            self.carry_out(now);
        }
        if let Some(wire) = &mut self.wire
            && wire.awaits_until.take_if(|until| *until <= now).is_some()
        {
            driver.watch(wire.connection);
        }
        self.write(driver);
        self.rouse();
        // A peer that takes no bytes does not take the last ones either.
        let stuck = |closing: &mut Closing| now >= closing.since.after_ms(CLOSE_MS);
        if let Some(closing) = self.wire.as_mut().and_then(|wire| wire.closing.take_if(stuck)) {
            self.close(driver, closing);
        }
        waiting
    }

    /// When `tick` is wanted, but for what is held.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let awaits = self.wire.as_ref().and_then(|wire| wire.awaits_until);
        let session = self.session.deadline().map(|(at, _)| at);
        session.into_iter().chain(awaits).min()
    }

    /// Whether `tick` would do something at this time, but for what is held, or something has happened that nobody has heeded.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        let wire = self.wire.as_ref();
        self.deadline().is_some_and(|at| at <= now)
            || self.imports.is_waiting()
            || !self.happened.is_empty()
            || wire.is_some_and(|wire| wire.closing.is_some())
            || (wire.is_some_and(|wire| wire.batch.is_some()) && self.session.has_output())
    }

    /// When what is held is to be looked at again. While a write is under way its end tells.
    pub(crate) fn held_until(&self) -> Option<Time> {
        let wire = self.wire.as_ref().filter(|wire| wire.batch.is_some())?;
        wire.passage.as_ref()?.held_until()
    }

    /// Whether bulk that was held has gone otherwise than by a pump: what waited behind it may go.
    pub(crate) fn is_left(&self) -> bool {
        let wire = self.wire.as_ref().filter(|wire| wire.batch.is_some());
        wire.and_then(|wire| wire.passage.as_ref()).is_some_and(Passage::is_left)
    }

    /// Of those who wait for an interface who has less goes first.
    pub(crate) fn turn(&self) -> u64 {
        self.wire.as_ref().and_then(|wire| wire.passage.as_ref()).map_or(0, Passage::turn)
    }

    /// When something was read last.
    pub(crate) const fn heard_ns(&self) -> u64 {
        self.heard.0
    }

    /// The connection, while there is one.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.wire.as_ref().map(|wire| wire.connection)
    }

    /// What it waits for, in words.
    pub(crate) fn describe(&self) -> String {
        let wire = self.wire.as_ref().map(|wire| (wire.batch.is_none(), wire.closing.is_some()));
        let (coming, relays) = (self.exports.is_coming(), self.imports.is_opening());
        format!(
            "{}: {:?}, deadline {:?}, (writing, closing) {wire:?}, rows coming: {coming}, relays opening: {relays}",
            self.id,
            self.session.state(),
            self.session.deadline(),
        )
    }

    /// How far the link is.
    pub(crate) fn state(&self) -> Option<State> {
        self.session.state().cloned()
    }

    /// How far what has come is.
    pub(crate) fn coming(&self) -> UnderWay {
        self.imports.under_way()
    }

    /// What is under way, from the peer and to it.
    pub(crate) fn traffic(&self) -> [Passing; 3] {
        let mut traffic = self.session.traffic();
        for passing in &mut traffic {
            if passing.flow == Flow::Data {
                passing.from.handler_ns = self.taking_ns;
            }
        }
        traffic
    }

    /// What the link has counted.
    pub(crate) fn stats(&self) -> Option<Stats> {
        self.session.stats()
    }
}

/// Puts out what may go now, as it is to be written.
fn transmit(
    session: &mut Session<Outbound>,
    cipher: &mut Option<Box<Cipher>>,
    now: Time,
    batch: &mut Batch<Outbound>,
) -> Result<(), Trouble> {
    let Some(cipher) = cipher else {
        session.transmit(now, batch);
        return Ok(());
    };
    // Before it is ready there is nobody to say anything to.
    if cipher.is_ready() {
        session.transmit(now, batch);
    }
    cipher.seal(batch)
}

/// Milliseconds for the last bytes of a connection that is given up.
const CLOSE_MS: u64 = 500;

/// Milliseconds between two words to the membership that a peer says something: idleness is told in seconds.
const HEARD_MS: u64 = 100;

/// Messages that came before the session is told what became of them.
const DELIVERED_MAX: usize = 256;
