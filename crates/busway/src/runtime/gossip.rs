//! The node's part in the swarm: the machine of artifacts, what peers say to it, and what programs want of it.
//!
//! ```text
//! offer, subscribe -> | calls    the    words, lane by lane | -> session of each peer
//! adverts, bodies  <- | mailbox  machine       words        | <-
//! ```
//!
//! One thread, `bw-gossip`, has the machine; nobody else touches it, and it waits for nobody: not for a peer, not for a subscriber, not for a user's function,
//! which is called by who receives. What has come over a link waits with its peer until it is taken, so that the window of the link bounds it; what is to be said
//! is asked for when the session of the peer has room for a word more, so that nothing is queued here. Where flows are configured what has come goes through workers first (`intake`), which tell this thread one event each.
//!
//! Invariant: the machine hears that a link stands before any word of it, and none of a link behind its end.

mod anew;
mod calls;
mod channel;
mod intake;
mod mailbox;
mod news;
mod plugged;
mod relay;
mod rights;
mod standing;
mod users;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::artifact::Name;
use busway_protocol::flow::{Budget, Flow, Rule};
use busway_protocol::gossip::{
    Advert, Config, Epoch, Fault, Gossip, Input, Interest, Lane, NodeIndex, Nodes, OfferError, Offering,
    Output, Part, Reference, Room, Word,
};
use busway_protocol::{Deed, PeerId, Permits, Principal, Time};
use busway_wire::gossip::{decode, encode};
use busway_wire::limits::{ARTIFACT_WHOLE_BYTES_MAX, GOSSIP_SERVED_MAX, GOSSIP_TURN_WORDS};

use crate::acl::Acl;
use crate::artifacts::PeerEvent;
use crate::artifacts::store::Shelf;
use crate::error::{Code, Error};
use crate::ports::lock;
use crate::runtime::hub::{Shared, Wires};
use crate::runtime::peer::Peer;

use anew::Anew;
pub(crate) use calls::{Call, Calls, Listed, ReaderId, Tells, Wants, ended};
pub(crate) use channel::{Channel, WANT};
pub(super) use intake::Intake;
pub(crate) use mailbox::{Body, Mailbox, Note, Taken};
pub(crate) use news::{News, Whose};
pub(super) use plugged::Plugged;
pub(super) use relay::Relay;
use rights::Passed;
pub(crate) use standing::{Standing, Stands};
use users::Users;
pub(crate) use users::names;

/// It looks at least so often: whatever was missed is found then.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// One of so many bytes of what comes whole may be of this node's own offers.
const OFFERS_PARTS: u64 = 4;
/// So many are let go at a time where there is no room.
const LET_GO: usize = 16;
/// And not more often, since all that is known is looked at: 3 200 a second.
const LET_GO_NS: u64 = 5_000_000;
/// Pieces that a peer is given in one turn at most.
const WARM_PIECES: usize = 16;
const ALL_LANES: [bool; Lane::ALL.len()] = [true; Lane::ALL.len()];
/// So often it says what is to be said when the node ends, if links have room.
const LAST_STEPS: usize = 64;

/// What is known of a peer here.
#[derive(Debug, Default)]
struct Line {
    /// Which link of it the machine knows of.
    link: Option<u64>,
    /// What it may do, since that link began.
    permits: Option<Permits>,
    /// The rules when that link began.
    rules: Option<Acl>,
    /// It, or another, may do something else than when the link before began: it is asked for all again when this one begins.
    changed: bool,
    /// What it is told again.
    anew: Anew,
    /// Requests for what it may not have.
    not_found: VecDeque<u64>,
    /// What it said and may not say.
    denied: u64,
    /// Words that could not be read.
    nonsense: u64,
    /// What it did that no sound node does, as far as it was said in the log.
    blamed: Vec<Fault>,
}

/// See the head of this file.
pub(super) struct Swarm<D> {
    shared: Arc<Shared<D>>,
    calls: Arc<Calls>,
    machine: Gossip,
    members: Nodes,
    lines: BTreeMap<u8, Line>,
    /// What waits for the workers, if there are some.
    intake: Option<Intake>,
    users: Users,
    out: Vec<Output>,
    come: Vec<(Lane, Option<Vec<u8>>)>,
    /// Times that the store had no room, and what waits for some.
    full: u64,
    room: Room,
    /// When small ones are let go again.
    let_go_ns: u64,
    /// Who is spoken to first.
    turn: u8,
}

impl<D: Wires> Swarm<D> {
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        calls: Arc<Calls>,
        node: NodeIndex,
        intake: Option<Intake>,
    ) -> Result<Self, Error> {
        let members = shared.config.nodes.keys().copied().map(NodeIndex).collect();
        // Of two starts the later has the larger one, as of two ids of messages, unless the clock was set back; a linked node is believed in any case.
        let epoch = Epoch(u64::try_from(shared.core.ids.next()?.0 >> 64).unwrap_or_default());
        let mut config = Config::new(node, epoch, members);
        config.seed = shared.link.hello.instance;
        // Others with as much room have some for what four such nodes offer.
        config.bytes_max = config.bytes_max.max(shared.config.store.bodies_bytes_max / OFFERS_PARTS);
        let chunks = config.limits.rule(Flow::Chunk);
        let limit = Budget { bytes: shared.config.store.bodies_bytes_max, ..chunks.limit };
        // One that is not taken leaves what was.
        let _ = config.limits.set(Flow::Chunk, Rule { limit, ..chunks });
        Ok(Self {
            shared,
            full: 0,
            room: Room::default(),
            let_go_ns: 0,
            turn: 0,
            machine: Gossip::with_store(config, Box::new(Shelf(calls.store.clone()))),
            members,
            lines: BTreeMap::new(),
            intake,
            users: Users::default(),
            out: Vec::new(),
            come: Vec::new(),
            calls,
        })
    }

    /// The body of `bw-gossip`.
    pub(super) fn run(mut self) {
        while !self.shared.work_ends() {
            let again = self.step();
            if again {
                std::thread::yield_now();
                continue;
            }
            let now_ns = self.shared.driver.now_ns();
            let machine = self.machine.deadline().map(|(at, _)| at);
            let due = [machine, self.room.deadline()].into_iter().flatten().min();
            let due = due.map(|at| Duration::from_nanos(at.0.saturating_sub(now_ns)));
            self.calls.wait(due.map_or(SLEEP_MAX, |due| due.min(SLEEP_MAX)));
        }
        // What was withdrawn a moment ago is said still.
        for _ in 0..LAST_STEPS {
            if !self.step() {
                break;
            }
        }
        self.users.end();
        self.calls.end();
        self.calls.store.end();
    }

    /// One look at everything; whether to look again at once.
    fn step(&mut self) -> bool {
        let now = Time(self.shared.driver.now_ns());
        for call in self.calls.take() {
            self.call(now, call);
        }
        let peers = lock(&self.shared.peers).clone();
        let nodes = peers.into_iter().filter_map(|(id, peer)| match id {
            PeerId::Node { index } => Some((index, peer)),
            PeerId::Client { .. } => None,
        });
        let nodes: BTreeMap<u8, Arc<Mutex<Peer>>> = nodes.collect();
        let known = self.lines.keys().copied().chain(self.intake.iter().flat_map(Intake::peers));
        let gone: BTreeSet<u8> = known.filter(|index| !nodes.contains_key(index)).collect();
        for index in gone {
            if self.intake.as_mut().is_some_and(|intake| !intake.is_over(index)) {
                // Its end is told when all else of it is.
                continue;
            }
            self.stand(now, index, None);
            self.lines.remove(&index);
            // It was struck from the list of nodes, or is one that dialed us and is forgotten.
            let node = NodeIndex(index);
            self.members.remove(node);
            self.machine.set_members(self.members);
            self.machine.handle(now, Input::Forget { node }, &mut self.out);
        }
        for (index, peer) in &nodes {
            self.listen(now, *index, peer);
        }
        if self.machine.deadline().is_some_and(|(at, _)| at <= now) {
            self.machine.handle(now, Input::Tick, &mut self.out);
        }
        self.look_at_store(now);
        // Before they hear what follows from what was counted.
        let denied = self.lines.values().map(|line| line.denied).sum();
        self.calls.note(self.machine.counts(), self.machine.usage(), (denied, self.full));
        let mut again = self.tell_users(now);
        for (index, peer) in in_turn(&mut self.turn, &nodes) {
            again |= self.say(now, *index, peer);
        }
        again
    }

    /// What was damaged in the store comes again; and what has no room is given some.
    fn look_at_store(&mut self, now: Time) {
        let (lost, freed) = self.calls.store.take_news();
        for name in lost {
            self.machine.handle(now, Input::Lost { name }, &mut self.out);
        }
        if self.machine.usage().starved > 0 && now.0 >= self.let_go_ns {
            self.let_go_ns = now.0.saturating_add(LET_GO_NS);
            self.let_go(now, false, LET_GO);
        }
        if freed {
            self.room.open();
        }
        // What has taken room and does not come makes way: nobody can keep it from others by an advert.
        for of in self.room.makes_way(now, self.machine.arriving()) {
            let interest = Interest::Stash;
            self.machine.handle(now, Input::Judged { of, interest }, &mut self.out);
            self.users.had_no_room(of);
        }
    }

    /// What nobody here waits for any more is let go, also for others.
    fn let_go(&mut self, now: Time, stored: bool, most: usize) {
        // What others gave takes nothing from who waits for its own share.
        let (starving, machine) = (self.machine.starving(), &self.machine);
        let helps = |of| stored || machine.teller(of).is_some_and(|teller| starving.has(teller));
        for of in self.users.let_go(stored, most, helps) {
            self.machine.handle(now, Input::Release { of }, &mut self.out);
        }
    }

    /// Takes what a peer has said.
    fn listen(&mut self, now: Time, index: u8, peer: &Mutex<Peer>) {
        let mut come = std::mem::take(&mut self.come);
        let (lanes, known) = match &self.intake {
            Some(intake) => (intake.room(index), intake.stands(index)),
            None => (ALL_LANES, self.lines.get(&index).and_then(|line| line.link)),
        };
        let (link, permits) = {
            let mut peer = lock(peer);
            let link = peer.take_artifact_words(&self.shared.driver, lanes, &mut come);
            (link, (link != known).then(|| peer.permits().clone()))
        };
        if let (Some(permits), Some(_)) = (permits, link) {
            let line = self.lines.entry(index).or_default();
            let rules = std::mem::replace(&mut line.rules, self.shared.acl());
            let former = line.permits.replace(permits);
            // It stays so until a link begins, and what follows from it until all is told.
            line.changed |= former.is_some() && (former != line.permits || rules != line.rules);
        }
        match &mut self.intake {
            Some(intake) => drop(intake.stand(index, link)),
            None => self.stand(now, index, link),
        }
        if let Some(intake) = &mut self.intake {
            intake.take(index, come.drain(..));
            intake.hand_on(index);
            let not_found = &mut self.lines.entry(index).or_default().not_found;
            while not_found.len() < GOSSIP_SERVED_MAX
                && let Some(request) = intake.dropped(index)
            {
                not_found.push_back(request);
            }
        }
        for (_, body) in come.drain(..) {
            self.hear(now, index, body.as_deref());
        }
        self.come = come;
    }

    /// A worker tells what a peer did.
    fn told(&mut self, now: Time, from: u8, event: PeerEvent) {
        match event {
            PeerEvent::PeerUp => {
                let link = self.intake.as_ref().and_then(|intake| intake.link(from));
                self.stand(now, from, link);
            }
            PeerEvent::PeerDown => self.stand(now, from, None),
            PeerEvent::Advert(heard)
            | PeerEvent::Request(heard)
            | PeerEvent::Piece(heard)
            | PeerEvent::Retransmission(heard) => {
                self.hear_word(now, from, heard.word, &heard.following);
            }
        }
    }

    /// A link stands, or none does.
    fn stand(&mut self, now: Time, index: u8, link: Option<u64>) {
        let line = self.lines.entry(index).or_default();
        let former = std::mem::replace(&mut line.link, link);
        if former == link {
            return;
        }
        line.not_found.clear();
        let anew = link.is_some() && std::mem::take(&mut line.changed);
        if anew {
            line.anew.begin();
        }
        line.anew.link();
        let node = NodeIndex(index);
        if former.is_some() {
            self.machine.handle(now, Input::PeerDown { node }, &mut self.out);
        }
        if anew {
            self.machine.handle(now, Input::AskAnew { node }, &mut self.out);
        }
        if link.is_some() {
            if self.members.insert(node) {
                self.machine.set_members(self.members);
            }
            self.machine.handle(now, Input::PeerUp { node }, &mut self.out);
        }
    }

    fn hear(&mut self, now: Time, index: u8, body: Option<&[u8]>) {
        let heard = body.map(decode);
        let Some(Ok((word, following))) = heard else {
            // It bears a good checksum: the peer is of another version, or lies. Once is enough to be told.
            let line = self.lines.entry(index).or_default();
            line.nonsense += 1;
            if line.nonsense == 1 {
                let error = heard.and_then(Result::err);
                tracing::warn!(target: "busway::gossip", peer = index, "not understood: {error:?}");
            }
            return;
        };
        self.hear_word(now, index, word, following);
    }

    fn hear_word(&mut self, now: Time, index: u8, word: Word, following: &[u8]) {
        let Some(line) = self.lines.get_mut(&index) else { return };
        let Some(permits) = &line.permits else { return };
        let (mut word, mut denied) = (word, 0);
        line.anew.hear(&mut word);
        let acl = || self.shared.acl();
        let origin =
            |node: NodeIndex| Permits::new(Principal::Node { index: node.0 }, acl().as_ref().map(Acl::rules));
        let passed = rights::heard(permits, word, |of| self.users.topic(of), origin, &mut denied);
        let before = line.denied;
        line.denied += denied;
        if before == 0 && denied > 0 {
            tracing::warn!(target: "busway::gossip", peer = index, "offers what it may not publish");
        }
        match passed {
            Passed::Word(word) => {
                let input = Input::Word { from: NodeIndex(index), word, following };
                self.machine.handle(now, input, &mut self.out);
            }
            // Who asks for more than anybody may is not answered.
            Passed::NotFound { request } if line.not_found.len() < GOSSIP_SERVED_MAX => {
                line.not_found.push_back(request);
            }
            Passed::NotFound { .. } | Passed::Nothing => {}
        }
    }

    /// Does what programs want.
    fn call(&mut self, now: Time, call: Call) {
        match call {
            Call::Offer { offering, answer } => {
                let offered = self.offer(now, offering);
                if let Err(std::sync::mpsc::SendError(Ok((of, _)))) = answer.send(offered) {
                    self.withdraw(now, of);
                }
            }
            Call::Withdraw { of } => self.withdraw(now, of),
            Call::Subscribe { wants, mailbox, answer } => {
                let reader = self.users.subscribe(wants, mailbox);
                if answer.send(Ok(reader)).is_err() {
                    self.users.unsubscribe(reader);
                }
            }
            Call::Unsubscribe { reader } => self.users.unsubscribe(reader),
            Call::Judge { reader, of, interest } => self.users.judged(reader, of, interest),
            Call::Reconsider { reader } => self.users.reconsider(reader),
            Call::Hear { from, event, answer } => {
                self.told(now, from, event);
                // Who does not wait for it any more has ended.
                let _ = answer.send(());
            }
            Call::FollowRules => self.follow_rules(now),
            // Who does not wait for it any more does without.
            Call::List { pattern, after, most, answer } => {
                drop(answer.send(Ok(self.users.list(&pattern, after, most))));
            }
        }
    }

    /// What a node may not offer any more is over, whoever told of it; and of who is linked all is asked again, since it may say more of others now. What is said over links that ended for it follows when they
    /// begin.
    fn follow_rules(&mut self, now: Time) {
        let acl = self.shared.acl();
        let permits = |node: u8| Permits::new(Principal::Node { index: node }, acl.as_ref().map(Acl::rules));
        let mut known: BTreeMap<u8, Permits> = BTreeMap::new();
        let over = self.users.of_others().filter(|(of, topic)| {
            let permits = known.entry(of.node.0).or_insert_with(|| permits(of.node.0));
            !permits.allow(Deed::Publish, topic)
        });
        let over: Vec<Reference> = over.map(|(of, _)| of).collect();
        for of in over {
            self.machine.handle(now, Input::Revoke { of }, &mut self.out);
        }
        for index in self.lines.keys() {
            let node = NodeIndex(*index);
            self.machine.handle(now, Input::AskAnew { node }, &mut self.out);
        }
    }

    fn offer(&mut self, now: Time, offering: Offering) -> Result<(Reference, Arc<Standing>), Error> {
        let (topic, attribute) = (offering.topic.clone(), offering.attribute.clone());
        let (id, size) = (offering.id(), offering.size());
        let confirm = offering.reach_all_ms.is_some();
        let slot = self.machine.offer(now, offering).map_err(|error| not_offered(&error))?;
        let of = self.machine.own(slot).ok_or_else(ended)?;
        let standing = self.users.offered(slot, Advert { of, topic, id, size, attribute, confirm });
        Ok((of, standing))
    }

    fn withdraw(&mut self, now: Time, of: Reference) {
        let Some(slot) = self.users.slot_of(of) else { return };
        self.machine.handle(now, Input::Withdraw { slot }, &mut self.out);
        self.users.ended(slot, Stands::Withdrawn);
    }

    /// Asks and tells the users of this host; whether to look again at once.
    fn tell_users(&mut self, now: Time) -> bool {
        loop {
            self.carry_out(now);
            while let Some(advert) = self.machine.next_advert() {
                if advert.size > ARTIFACT_WHOLE_BYTES_MAX && !self.calls.store.could_hold(advert.size) {
                    // It could never lie here.
                    tracing::warn!(target: "busway::gossip", id = %advert.id, size = advert.size, "the store is too small for it");
                    let (of, interest) = (advert.of, Interest::Drop);
                    self.machine.handle(now, Input::Judged { of, interest }, &mut self.out);
                    continue;
                }
                self.users.advertised(advert);
            }
            let tried = self.room.next(now);
            tried.into_iter().for_each(|of| self.users.try_again(of));
            let verdicts = self.users.verdicts();
            if tried.is_none() && verdicts.is_empty() && self.out.is_empty() {
                break;
            }
            for (of, interest) in verdicts {
                self.judged(now, of, interest);
            }
        }
        if self.users.watch_progress() {
            for arriving in self.machine.arriving() {
                self.users.progress(arriving.of, arriving.have);
            }
        }
        let (machine, store) = (&self.machine, &self.calls.store);
        let given = self.users.deliver(|of| machine.body(of), |name| store.lease(name));
        if given && !self.room.is_empty() {
            // What was given can be let go for what waits.
            self.room.open();
            return true;
        }
        self.users.has_verdicts()
    }

    /// The machine is told what users think of something.
    fn judged(&mut self, now: Time, of: Reference, interest: Interest) {
        let teller = self.machine.teller(of).filter(|_| self.users.is_stored(of));
        if let Some(teller) =
            teller.filter(|teller| interest >= Interest::Later && self.room.is_closed(*teller))
        {
            // Others of its teller wait before it, and find no room.
            self.users.had_no_room(of);
            return self.room.found_none(now, of, teller);
        }
        self.machine.handle(now, Input::Judged { of, interest }, &mut self.out);
    }

    fn carry_out(&mut self, now: Time) {
        let mut full = false;
        for output in self.out.drain(..) {
            match output {
                Output::Received { advert, .. } | Output::Stored { advert } => {
                    self.users.received(advert.of);
                    let teller = self.machine.teller(advert.of).filter(|_| self.users.is_stored(advert.of));
                    teller.into_iter().for_each(|teller| self.room.came(advert.of, teller));
                }
                Output::Begun { advert } => self.users.begun(advert.of),
                Output::Full { of } => {
                    self.users.had_no_room(of);
                    let teller = self.machine.teller(of).unwrap_or(of.node);
                    self.room.found_none(now, of, teller);
                    self.full += 1;
                    full = true;
                }
                Output::Damaged { of } => {
                    // What we offer ourselves nobody gives us.
                    if let Some(name) = self.users.name(of) {
                        self.calls.store.give_up(name);
                    }
                }
                Output::Gone { of } => {
                    if self.users.is_stored(of) {
                        self.room.gone(of);
                    }
                    self.users.gone(of);
                }
                Output::Reached { slot } => drop(self.users.ended(slot, Stands::Reached)),
                Output::Expired { slot, missing } => {
                    // Where there is nobody else, all have it.
                    let how = if missing.is_empty() { Stands::Reached } else { Stands::Expired(missing) };
                    self.users.ended(slot, how);
                }
                Output::Blame { node, fault } => {
                    let line = self.lines.entry(node.0).or_default();
                    if !line.blamed.contains(&fault) {
                        line.blamed.push(fault);
                        tracing::warn!(target: "busway::gossip", peer = node.0, ?fault, "a peer did what no sound one does");
                    }
                }
            }
        }
        if full {
            self.let_go(now, true, 1);
        }
    }

    /// Says what a peer is to be told, as far as there is room; whether there is more.
    fn say(&mut self, now: Time, index: u8, peer: &Mutex<Peer>) -> bool {
        let node = NodeIndex(index);
        let Some(line) = self.lines.get_mut(&index) else { return false };
        let (Some(link), Some(permits)) = (line.link, &line.permits) else { return false };
        if !self.machine.has_output(node) && line.not_found.is_empty() {
            return false;
        }
        self.calls.store.warm(self.machine.serving(node).take(WARM_PIECES));
        let mut peer = lock(peer);
        if peer.artifact_link() != Some(link) {
            // It ended meanwhile; whoever noticed has woken us.
            return false;
        }
        let (mut said, mut more) = (0, false);
        for lane in Lane::ALL {
            while peer.may_say(lane) {
                if said >= GOSSIP_TURN_WORDS {
                    more = true;
                    break;
                }
                let mut body = Vec::new();
                if let Some(request) = line.not_found.pop_front_if(|_| lane == Lane::Request) {
                    encode(&Word::NotFound { request }, &[], &mut body);
                } else {
                    let Some(mut words) = self.machine.transmit(now, node, lane) else { break };
                    let word = std::mem::replace(&mut words.word, Word::Handled { tells: 0, marks: 0 });
                    let passed = rights::said(permits, node, word, |of| self.users.topic(of));
                    let Some(word) = passed else { continue };
                    line.anew.say(&word);
                    words.word = word;
                    if let (Word::Chunk { offset, .. }, Some((of, part))) = (&words.word, words.of) {
                        gives(index, self.users.name(of), part, (*offset, words.following().len()));
                    }
                    encode(&words.word, words.following(), &mut body);
                }
                peer.say_of_artifacts(now, lane, body);
                said += 1;
            }
        }
        if said > 0 {
            peer.write(&self.shared.driver);
            self.shared.tell_held(&peer);
        }
        more
    }
}

/// All of them. Not always the same one first: who is spoken to first finds an interface that nobody fills. So each is as often as any other, whatever its number.
fn in_turn<'a, T>(
    turn: &mut u8,
    of: &'a BTreeMap<u8, T>,
) -> impl Iterator<Item = (&'a u8, &'a T)> + use<'a, T> {
    let all = of.range(*turn..).chain(of.range(..*turn));
    *turn = all.clone().next().map_or(0, |(first, _)| first.wrapping_add(1));
    all
}

/// Who is given what, for who counts it: bytes of a piece of an artifact, or, where none is named, of a small one or of the values of the pieces of a large one.
fn gives(peer: u8, of: Option<Name>, part: Part, (offset, bytes): (u64, usize)) {
    let Some(Name { id, size, .. }) = of else { return };
    let piece = match part {
        Part::Piece { index } => Some(index),
        Part::Whole | Part::Tree => None,
    };
    tracing::trace!(target: "busway::gossip", peer, %id, size, piece, offset, bytes, "given");
}

/// Why something is not offered, and what to do.
pub(crate) fn not_offered(error: &OfferError) -> Error {
    let (code, remedy) = match error {
        OfferError::TooLarge { .. } => (Code::TooLarge, "send it in parts, each an artifact"),
        OfferError::Attribute { .. } => (Code::TooLarge, "say less in the attribute"),
        OfferError::Slots { .. } | OfferError::Bytes { .. } | OfferError::Store { .. } => {
            (Code::Full, "withdraw what is not needed any more")
        }
        OfferError::Gone { .. } => (Code::BadSetting, "offer it anew"),
    };
    Error::new(code, error.to_string()).at("the artifacts of this node").remedy(remedy)
}

#[cfg(test)]
mod tests;
