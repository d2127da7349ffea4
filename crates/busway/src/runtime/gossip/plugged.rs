//! A program's own handler of artifacts, in the place of the node's machine: what peers say goes to its workers, and what it says to the peers' sessions.
//!
//! What has come of a peer and finds its flow full waits here, and no more of that peer is taken meanwhile, so that the window of its link bounds it; what it says in other flows
//! goes on. What the handler says waits at its voice, within bounds, until the session of the peer has room.
//!
//! Flows have threads of their own, and so no order between them. Where the meaning of words hangs on an order it is kept here: all of a peer is handled before a link of it begins or ends and before
//! it says how far tables are known, and nothing else of it until that is handled.
//!
//! It knows no rights: a node with rules has no handler of its own.
//!
//! Invariant: the handler is told that a link stands before any word of it; what is said is of the link that stood when it was said.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::gossip::Lane;
use busway_protocol::{PeerId, Time};
use busway_wire::gossip::decode;
use busway_wire::limits::GOSSIP_TURN_WORDS;

use crate::artifacts::{PeerEvent, Voice, Workers};
use crate::ports::lock;
use crate::runtime::gossip::calls::Calls;
use crate::runtime::hub::{Shared, Wires};
use crate::runtime::peer::Peer;

/// It looks at least so often: whatever was missed is found then.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What is known of a peer here.
#[derive(Debug, Default)]
struct Line {
    link: Option<u64>,
    /// What its flows had no room for.
    held: VecDeque<PeerEvent>,
    /// What was handed on last is to be handled before anything else is.
    alone: bool,
    nonsense: u64,
    /// What the handler wanted to say, lane by lane, when others took the room.
    next: [Option<Vec<u8>>; Lane::ALL.len()],
}

/// See the head of this file.
pub(in crate::runtime) struct Plugged<D> {
    shared: Arc<Shared<D>>,
    calls: Arc<Calls>,
    workers: Arc<Workers>,
    voice: Voice,
    lines: BTreeMap<u8, Line>,
    come: Vec<Option<Vec<u8>>>,
}

impl<D: Wires> Plugged<D> {
    pub(in crate::runtime) fn new(
        shared: Arc<Shared<D>>,
        calls: Arc<Calls>,
        workers: Arc<Workers>,
        voice: Voice,
    ) -> Self {
        let rouse = calls.clone();
        workers.rouse_with(move || rouse.wake());
        let rouse = calls.clone();
        voice.rouse_with(move || rouse.wake());
        Self { shared, calls, workers, voice, lines: BTreeMap::new(), come: Vec::new() }
    }

    /// The body of `bw-gossip`, where the program has a handler of its own.
    pub(in crate::runtime) fn run(mut self) {
        while !self.shared.work_ends() {
            if self.step() {
                std::thread::yield_now();
                continue;
            }
            self.calls.wait(SLEEP_MAX);
        }
        self.voice.end();
        self.calls.end();
    }

    /// One look at everything; whether to look again at once.
    fn step(&mut self) -> bool {
        let peers = lock(&self.shared.peers).clone();
        let nodes = peers.into_iter().filter_map(|(id, peer)| match id {
            PeerId::Node { index } => Some((index, peer)),
            PeerId::Client { .. } => None,
        });
        let nodes: BTreeMap<u8, Arc<Mutex<Peer>>> = nodes.collect();
        let gone: Vec<u8> = self.lines.keys().filter(|index| !nodes.contains_key(index)).copied().collect();
        for index in gone {
            self.stand(index, None);
            if self.hand_on(index) {
                self.lines.remove(&index);
            }
        }
        let mut again = false;
        for (index, peer) in &nodes {
            self.listen(*index, peer);
            again |= self.say(*index, peer);
        }
        again
    }

    /// Takes what a peer has said, if what it said before has gone on.
    fn listen(&mut self, index: u8, peer: &Mutex<Peer>) {
        if !self.hand_on(index) {
            return;
        }
        let mut come = std::mem::take(&mut self.come);
        let link = lock(peer).take_artifact_words(&self.shared.driver, &mut come);
        // Rules came when it ran already: the handler does not know them, so nobody is heard.
        let link = link.filter(|_| self.shared.acl().is_none());
        if link.is_none() {
            come.clear();
        }
        self.stand(index, link);
        let line = self.lines.entry(index).or_default();
        for body in come.drain(..) {
            match body.as_deref().map(decode) {
                Some(Ok((word, following))) => line.held.push_back(PeerEvent::of(word, following)),
                heard => {
                    // It bears a good checksum: the peer is of another version, or lies. Once is enough to be told.
                    line.nonsense += 1;
                    if line.nonsense == 1 {
                        let error = heard.and_then(Result::err);
                        tracing::warn!(target: "busway::gossip", peer = index, "not understood: {error:?}");
                    }
                }
            }
        }
        self.come = come;
        self.hand_on(index);
    }

    /// A link stands, or none does.
    fn stand(&mut self, index: u8, link: Option<u64>) {
        let line = self.lines.entry(index).or_default();
        let former = std::mem::replace(&mut line.link, link);
        if former == link {
            return;
        }
        line.next = Default::default();
        self.voice.stand(index, link.is_some());
        if former.is_some() {
            line.held.push_back(PeerEvent::PeerDown);
        }
        if link.is_some() {
            line.held.push_back(PeerEvent::PeerUp);
        }
    }

    /// Gives the workers what waits of a peer, in order in each flow; whether nothing is left. Before and behind what begins or ends a link, or says how far tables are known, all else of
    /// the peer is handled: its meaning hangs on that.
    fn hand_on(&mut self, index: u8) -> bool {
        let Some(line) = self.lines.get_mut(&index) else { return true };
        let (mut left, mut full) = (VecDeque::new(), Vec::new());
        while let Some(event) = line.held.pop_front() {
            let alone = stands_alone(&event);
            if (alone || line.alone) && (!left.is_empty() || self.workers.is_under_way(index)) {
                line.held.push_front(event);
                break;
            }
            line.alone = false;
            let flow = event.flow();
            if full.contains(&flow) {
                left.push_back(event);
                continue;
            }
            // What is dropped, or comes when the workers have ended, they have counted.
            match self.workers.try_deliver(index, event) {
                Ok(Some(event)) => {
                    full.push(flow);
                    left.push_back(event);
                    if alone {
                        break;
                    }
                }
                Ok(None) | Err(_) => line.alone = alone,
            }
        }
        left.append(&mut line.held);
        line.held = left;
        line.held.is_empty()
    }

    /// Says what the handler has to say to a peer, as far as there is room; whether there is more.
    fn say(&mut self, index: u8, peer: &Mutex<Peer>) -> bool {
        let Some(line) = self.lines.get_mut(&index) else { return false };
        let Some(link) = line.link else { return false };
        // Until the handler knows of this link, what it would say next is of the one before.
        let begins = line.held.iter().any(|event| matches!(event, PeerEvent::PeerUp | PeerEvent::PeerDown));
        let between = begins || (line.alone && self.workers.is_under_way(index));
        let asked = |lane| if between { None } else { self.workers.next_word(index, lane) };
        let now = Time(self.shared.driver.now_ns());
        let (mut said, mut more) = (0, false);
        for lane in Lane::ALL {
            // No lock is held while the handler is asked: it may look at its node, or close it.
            while may_say(&mut lock(peer), link, lane) {
                if said >= GOSSIP_TURN_WORDS {
                    more = true;
                    break;
                }
                let next = line.next[lane as usize].take();
                let next = next.or_else(|| self.voice.take(index, lane)).or_else(|| asked(lane));
                let Some(body) = next else { break };
                let mut peer = lock(peer);
                if !may_say(&mut peer, link, lane) {
                    // Others took the room meanwhile.
                    line.next[lane as usize] = Some(body);
                    break;
                }
                peer.say_of_artifacts(now, lane, body);
                said += 1;
            }
        }
        if said > 0 {
            lock(peer).write(&self.shared.driver);
        }
        more
    }
}

/// Whether this link still stands, and has room. Where it ended, whoever noticed has woken us.
fn may_say(peer: &mut Peer, link: u64, lane: Lane) -> bool {
    peer.artifact_link() == Some(link) && peer.may_say(lane)
}

/// What the meaning of all else of a peer hangs on.
fn stands_alone(event: &PeerEvent) -> bool {
    match event {
        PeerEvent::PeerUp | PeerEvent::PeerDown | PeerEvent::Retransmission(_) => true,
        PeerEvent::Advert(_) | PeerEvent::Request(_) | PeerEvent::Piece(_) => false,
    }
}
