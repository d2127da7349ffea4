//! Groups and requests across links: the desk at which work is given to peers, and taken from them.
//!
//! ```text
//! pusher -> ring -> puller of the desk | task > | ring for one group -> puller
//!                   its claim, ended   | < over | what its claim word says
//! ```
//!
//! A host says for which groups its programs pull, and how much they are ready for. The other host's desk pulls so much in the name of
//! the group and says what it took; the first lays it out for its pullers and says what became of it. So there is one claim for a task, on the host
//! of its pusher, and it stands until the task is over wherever that was. A request is such a task: it is asked anew where it is handled, and its
//! replies come back as words.
//!
//! One thread serves all peers, and waits for none: what the rendezvous has to be asked another thread does (`opener`).
//! What came over a link is never given on to a third host: rings that the desk makes are not pulled on behalf of others.
//!
//! Invariant: what a peer said about one task is taken in the order in which it was said, and so goes out what is said to it.

mod channel;
mod far;
mod near;
mod opener;
mod partner;
mod pulls;
mod says;
#[cfg(test)]
mod scene;
mod too_large;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::{PeerId, Permits, Principal};
use busway_shm::bell::ANY;
use busway_shm::clock;
use busway_wire::limits::{
    WORK_HELD_BYTES_MAX, WORK_HELD_BYTES_PEER, WORK_QUICK_BYTES, WORK_WAITING_BYTES_ALL,
    WORK_WAITING_BYTES_FLOOR, WORK_WAITING_BYTES_MAX, WORK_WORD_BYTES,
};
use busway_wire::{Group, Topic};

use crate::bus::Bus;
use crate::error::Error;
use crate::ports::{PortTable, lock, work_line};
use crate::responder::Lanes;
use crate::runtime::hub::{Shared, Wires};

pub(crate) use channel::{Between, Channel, Course, Standing, WANT, WANT_LARGE};
use near::Look;
use opener::{For, Opener};
pub(crate) use partner::Heard;
use partner::Partner;
use pulls::Pulls;
use says::Saying;
pub(crate) use says::Says;

/// A link that is away for so long does not end a request: that is how a newer one takes its place.
const BLINK_NS: u64 = 200_000_000;
/// A peer that is away for so long counts as gone: others do what it had.
const GONE_NS: u64 = 5_000_000_000;
/// Looks without sleeping after one that found something: a word is answered in far less time than a sleeper is woken.
const SPINS: usize = 4;
/// It looks at least so often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What serving a peer needs of the desk.
pub(super) struct Context<'a> {
    bus: &'a Bus,
    ports: &'a PortTable,
    opener: &'a Opener,
    lanes: &'a Arc<Lanes>,
    permits: &'a Permits,
    /// The other peers.
    others: &'a BTreeMap<PeerId, (Between, Partner)>,
    whom: For,
    /// When this look began.
    now_ns: u64,
}

impl Context<'_> {
    /// Whether a program of this host, or another peer, pulls this topic in this group and could have a task of so many bytes with what is beside
    /// its payload, now or when it is done with what it has.
    fn others_could_have(&self, pulls: &Pulls, group: &Group, topic: &str, bytes: usize) -> bool {
        let Ok(topic) = Topic::new(topic) else { return true };
        let here = |known: &pulls::Known| known.group == *group && known.pattern.matches(&topic);
        pulls.all().any(|(_, known)| here(known))
            || self.others.values().any(|(_, partner)| partner.could_have(group, &topic, bytes))
    }
}

/// See the head of this file.
pub(super) struct Desk<D> {
    shared: Arc<Shared<D>>,
    bus: Bus,
    lanes: Arc<Lanes>,
    opener: Opener,
    pulls: Pulls,
    /// Those whose source is known, and between which sources their words go.
    partners: BTreeMap<PeerId, (Between, Partner)>,
    /// Bytes of memory of what waited for all peers at the last look, with the replies for which there was no room.
    waiting_bytes: usize,
}

impl<D: Wires> Desk<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Result<Self, Error> {
        let bus = Bus { core: shared.core.clone() };
        let (lanes, opener) = (Lanes::of(&bus), Opener::start(&shared.core)?);
        Ok(Self {
            shared,
            bus,
            lanes,
            opener,
            pulls: Pulls::default(),
            partners: BTreeMap::new(),
            waiting_bytes: 0,
        })
    }

    /// The body of `bw-work`.
    pub(super) fn run(mut self) {
        let mut idle = 0;
        while !self.shared.work_ends() {
            let Some(domain) = self.bus.core.ports.domain() else { return };
            let look = self.step();
            idle = if look.again { 0 } else { idle + 1 };
            if idle < SPINS {
                std::thread::yield_now();
                continue;
            }
            let sleeper = domain.bell().prepare(if look.any { ANY } else { work_line() });
            // Announced: what comes now rings. What came before is found by this look.
            let last = self.step();
            if last.again || last.any != look.any || self.shared.work_ends() {
                idle = 0;
                continue;
            }
            let now_ns = clock::monotonic_ns();
            let left = last.due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
            sleeper.wait(Some(left.map_or(SLEEP_MAX, |left| left.min(SLEEP_MAX))));
        }
        self.end();
    }

    /// The node ends: what nobody here has begun goes back to whose it is, and what peers have of this host is not done again by others where
    /// that is not allowed.
    fn end(&mut self) {
        let peers = lock(&self.shared.peers).clone();
        for (id, peer) in peers {
            let mut say = Says::default();
            let Some(between) = self.forget(id, &mut say) else { continue };
            let mut peer = lock(&peer);
            let permits = peer.permits().clone();
            peer.say_words(&self.shared.driver, between, say, &permits, false);
            self.shared.tell_held(&peer);
        }
    }

    /// One look at everything.
    fn step(&mut self) -> Look {
        let mut look = Look::default();
        for watched in std::mem::take(&mut *lock(&self.shared.watched_of_work)) {
            self.pulls.watched(watched);
        }
        self.lanes.sweep();
        let peers = lock(&self.shared.peers).clone();
        let gone: Vec<PeerId> =
            self.partners.keys().filter(|peer| !peers.contains_key(peer)).copied().collect();
        for peer in gone {
            // Nobody hears what is said of it.
            self.forget(peer, &mut Says::default());
        }
        let mut opened = self.opener.take();
        let of_all = std::mem::take(&mut self.waiting_bytes);
        for (id, peer) in peers {
            let (mut say, mut heard) = (Says::default(), Heard::default());
            let (standing, permits) = {
                let mut peer = lock(&peer);
                let standing = peer.take_words(&self.shared.driver, &mut heard);
                (standing, peer.permits().clone())
            };
            let Some(standing) = standing else { continue };
            self.waiting_bytes = self.waiting_bytes.saturating_add(standing.kept_bytes);
            let standing = Standing { of_all, ..standing };
            let former = self.partners.get(&id).map(|(between, _)| *between);
            if former.is_some_and(|former| Some(former) != standing.between) {
                // It is another start of it, or knows nothing of us: nobody hears what is said of the former.
                self.forget(id, &mut Says::default());
            }
            let Some(between) = standing.between else { continue };
            let theirs = opened.extract_if(.., |(whom, _)| whom.peer == id && whom.between == between);
            heard.opened = theirs.collect();
            look.again |= !heard.come.is_empty() || !heard.withheld.is_empty();
            let mut partner = self.partners.remove(&id).map(|(_, partner)| partner).unwrap_or_default();
            let context = self.context(&permits, id, between);
            let (of_it, shares) = partner.serve(&context, &self.pulls, standing, heard, &mut say);
            self.waiting_bytes = self.waiting_bytes.saturating_add(partner.held_bytes());
            self.partners.insert(id, (between, partner));
            look.add(of_it);
            if !say.is_empty() {
                look.again = true;
                let mut peer = lock(&peer);
                peer.say_words(&self.shared.driver, between, say, &permits, shares);
                self.shared.tell_held(&peer);
            }
        }
        look
    }

    /// Returns between which sources it was spoken with.
    fn forget(&mut self, id: PeerId, say: &mut Says) -> Option<Between> {
        let (between, mut partner) = self.partners.remove(&id)?;
        // Nothing is opened for it any more.
        let nobody = || Permits::new(Principal::Node { index: 0 }, None);
        let permits = partner.permits().cloned().unwrap_or_else(nobody);
        partner.forget(&self.context(&permits, id, between), say);
        Some(between)
    }

    fn context<'a>(&'a self, permits: &'a Permits, peer: PeerId, between: Between) -> Context<'a> {
        let Self { bus, lanes, opener, partners: others, .. } = self;
        let (whom, now_ns) = (For { peer, between, pull: 0, number: 0 }, clock::monotonic_ns());
        Context { bus, ports: &bus.core.ports, opener, lanes, permits, others, whom, now_ns }
    }
}

impl Standing {
    /// Of a peer that takes messages of at most so many bytes. With who takes no words no work is shared.
    pub(crate) fn takes(mut self, largest: u64) -> Self {
        self.largest = largest;
        self.between = self.between.filter(|_| largest >= WORK_WORD_BYTES as u64);
        self
    }

    /// Whether more may be said by that source beside this: what waits of large words stops no small one.
    fn has_room(&self, course: Course, say: &Says) -> bool {
        let [waits, says] = match course {
            _ if !self.has_two => [self.waiting_bytes, say.bytes()],
            Course::Quick => [self.waiting_bytes - self.large_bytes, say.bytes() - say.large_bytes()],
            Course::Large => [self.large_bytes, say.large_bytes()],
        };
        let own = waits < WORK_WAITING_BYTES_MAX && says < WORK_WAITING_BYTES_MAX;
        let all = self.of_all < WORK_WAITING_BYTES_ALL || waits < WORK_WAITING_BYTES_FLOOR;
        self.up && own && all
    }

    /// Whether a reply may be taken for which there is no room, beside so many bytes of such of the same topic, and of the same peer.
    fn may_hold(&self, of_topic: usize, of_peer: usize) -> bool {
        let all = self.of_all < WORK_WAITING_BYTES_ALL || of_peer < WORK_WAITING_BYTES_FLOOR;
        of_topic < WORK_HELD_BYTES_MAX && of_peer < WORK_HELD_BYTES_PEER && all
    }

    /// By which source a task goes, with so many bytes beside its fields: its number says that from then on.
    fn course_of_task(&self, bytes: usize) -> Course {
        let is_large = bytes.saturating_add(says::WORD_BYTES) > WORK_QUICK_BYTES;
        if self.has_two && is_large { Course::Large } else { Course::Quick }
    }

    /// By which source this goes, but that what is said of one task keeps its order.
    fn course(&self, saying: &Saying) -> Course {
        if self.has_two && saying.is_large() { Course::Large } else { Course::Quick }
    }

    /// Whether a task of so many bytes, with what is beside its payload, is larger than what the peer takes.
    fn is_too_large(&self, bytes: usize) -> bool {
        is_too_large(bytes, self.largest)
    }
}

fn is_too_large(bytes: usize, largest: u64) -> bool {
    bytes.saturating_add(WORK_WORD_BYTES) as u64 > largest
}
