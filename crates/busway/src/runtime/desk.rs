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
//! Invariant: what a peer said is taken in the order in which it was said, and what is said to it goes out in one order.

mod channel;
mod far;
mod near;
mod opener;
mod pulls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::{PeerId, Permits, Principal};
use busway_shm::bell::ANY;
use busway_shm::clock;
use busway_wire::work::{Word, decode};

use crate::bus::Bus;
use crate::error::Error;
use crate::ports::{PortTable, lock, work_line};
use crate::responder::Lanes;
use crate::runtime::hub::{Shared, Wires};

pub(crate) use channel::{Channel, Standing, WANT};
use far::Far;
use near::{Look, Near};
use opener::{For, Opened, Opener};
use pulls::Pulls;

/// A link that is away for so long does not end a request: that is how a newer one takes its place.
const BLINK_NS: u64 = 200_000_000;
/// A peer that is away for so long counts as gone: others do what it had.
const GONE_NS: u64 = 5_000_000_000;
/// Bytes that wait for a peer, beyond which nothing more is given to it.
const WAITING_BYTES_MAX: usize = 16 << 20;
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
    whom: For,
}

/// One peer.
#[derive(Default)]
struct Partner {
    /// The number of its latest start; 0 before its first hello.
    instance: u64,
    /// Since when its link is gone.
    down_ns: Option<u64>,
    requests_ended: bool,
    gone: bool,
    permits: Option<Permits>,
    near: Near,
    far: Far,
}

/// See the head of this file.
pub(super) struct Desk<D> {
    shared: Arc<Shared<D>>,
    bus: Bus,
    lanes: Arc<Lanes>,
    opener: Opener,
    pulls: Pulls,
    partners: BTreeMap<PeerId, Partner>,
}

impl<D: Wires> Desk<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Result<Self, Error> {
        let bus = Bus { core: shared.core.clone() };
        let (lanes, opener) = (Lanes::of(&bus), Opener::start(&shared.core)?);
        Ok(Self { shared, bus, lanes, opener, pulls: Pulls::default(), partners: BTreeMap::new() })
    }

    /// The body of `bw-work`.
    pub(super) fn run(mut self) {
        let mut idle = 0;
        while !self.shared.stopping() {
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
            if last.again || last.any != look.any || self.shared.stopping() {
                idle = 0;
                continue;
            }
            let now_ns = clock::monotonic_ns();
            let left = last.due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
            sleeper.wait(Some(left.map_or(SLEEP_MAX, |left| left.min(SLEEP_MAX))));
        }
        self.end();
    }

    /// The node ends: what peers have of this host is not done again by others where that is not allowed.
    fn end(&mut self) {
        let peers: Vec<PeerId> = self.partners.keys().copied().collect();
        for peer in peers {
            self.forget(peer);
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
            self.forget(peer);
        }
        let mut opened = self.opener.take();
        for (id, peer) in peers {
            let (mut say, mut come) = (Vec::new(), Vec::new());
            let (standing, permits) = {
                let mut peer = lock(&peer);
                let standing = peer.take_words(&self.shared.driver, &mut come);
                (standing, peer.permits().clone())
            };
            let Some(standing) = standing else { continue };
            let theirs = opened.extract_if(.., |(whom, _)| whom.peer == id).collect();
            look.again |= !come.is_empty();
            look.add(self.serve(id, &permits, standing, come, theirs, &mut say));
            if !say.is_empty() {
                look.again = true;
                lock(&peer).say_words(&self.shared.driver, standing.instance, say);
            }
        }
        look
    }

    fn forget(&mut self, id: PeerId) {
        let Some(mut partner) = self.partners.remove(&id) else { return };
        // Nothing is opened for it any more.
        let nobody = || Permits::new(Principal::Node { index: 0 }, None);
        let permits = partner.permits.clone().unwrap_or_else(nobody);
        let whom = For { peer: id, instance: partner.instance, pull: 0 };
        let context = self.context(&permits, whom);
        partner.near.end_all(&context);
        partner.far.forget();
    }

    fn context<'a>(&'a self, permits: &'a Permits, whom: For) -> Context<'a> {
        let Self { bus, lanes, opener, .. } = self;
        Context { bus, ports: &bus.core.ports, opener, lanes, permits, whom }
    }

    /// Takes what a peer has said, and puts what is to be said to it.
    fn serve(
        &mut self,
        id: PeerId,
        permits: &Permits,
        standing: Standing,
        come: Vec<Vec<u8>>,
        opened: Vec<(For, Opened)>,
        say: &mut Vec<Vec<u8>>,
    ) -> Look {
        let mut look = Look::default();
        if standing.instance == 0 {
            return look;
        }
        let mut partner = self.partners.remove(&id).unwrap_or_default();
        let context = self.context(permits, For { peer: id, instance: standing.instance, pull: 0 });
        if partner.instance != standing.instance {
            partner.near.end_all(&context);
            partner.far.forget();
            partner = Partner { instance: standing.instance, ..Partner::default() };
        }
        if partner.permits.as_ref() != Some(permits) && partner.permits.replace(permits.clone()).is_some() {
            partner.near.permit(&context);
        }
        partner.stand(&context, standing, &mut look);
        for body in come {
            partner.heard(&context, &self.pulls, &body, say);
        }
        for (whom, opened) in opened {
            if whom.instance == partner.instance {
                partner.opened(whom.pull, opened, say);
            }
        }
        let room = standing.up && standing.waiting_bytes < WAITING_BYTES_MAX;
        look.add(partner.near.step(&context, say, room));
        look.add(partner.far.step(&self.pulls, say, room));
        self.partners.insert(id, partner);
        look
    }
}

impl Partner {
    /// Follows from the link's coming and going.
    fn stand(&mut self, context: &Context<'_>, standing: Standing, look: &mut Look) {
        if standing.up {
            (self.down_ns, self.requests_ended, self.gone) = (None, false, false);
            return;
        }
        let now_ns = clock::monotonic_ns();
        let down_ns = *self.down_ns.get_or_insert(now_ns);
        if now_ns < down_ns + BLINK_NS {
            look.by(down_ns + BLINK_NS);
            return;
        }
        if !std::mem::replace(&mut self.requests_ended, true) {
            self.near.end_requests(context);
            self.far.end_requests();
        }
        if now_ns < down_ns + GONE_NS {
            look.by(down_ns + GONE_NS);
        } else if !std::mem::replace(&mut self.gone, true) {
            self.near.end_all(context);
        }
    }

    fn heard(&mut self, context: &Context<'_>, pulls: &Pulls, body: &[u8], say: &mut Vec<Vec<u8>>) {
        let (word, payload) = match decode(body) {
            Ok(heard) => heard,
            Err(error) => {
                // It bears a good checksum: the peer is of another version, or lies.
                tracing::warn!(target: "busway::work", peer = %context.whom.peer, "not understood: {error}");
                return;
            }
        };
        match word {
            Word::Pull { pull, pattern, group } => self.near.pull(context, pull, pattern, group),
            Word::Unpull { pull } => self.near.unpull(pull),
            Word::Grant { pull, tasks } => self.near.grant(pull, tasks),
            Word::Over { task, end } => self.near.over(context, task, end),
            Word::Reply { task, index, state } => self.near.reply(context, task, index, state, payload),
            Word::Task { .. } => self.far.task(context, pulls, word, payload, say),
            Word::Cancel { task } => self.far.cancel(task),
        }
    }

    fn opened(&mut self, pull: u32, opened: Opened, say: &mut Vec<Vec<u8>>) {
        match opened {
            Opened::Puller(puller) => self.near.opened(pull, puller),
            Opened::Pusher(topic, publisher) => self.far.laid_out(pull, &topic, publisher, say),
            Opened::Requester(topic, requester) => self.far.asks(pull, &topic, requester, say),
            Opened::Refused(topic, error) => {
                tracing::warn!(target: "busway::work", "no port for work of another host: {error}");
                match topic {
                    Some(topic) => self.far.refused(pull, &topic, say),
                    None => self.near.refused(pull),
                }
            }
        }
    }
}

/// Something to be said that has no payload.
fn put(say: &mut Vec<Vec<u8>>, word: &Word) {
    let mut body = Vec::new();
    busway_wire::work::encode(word, &[], &mut body);
    say.push(body);
}
