//! A program's own handler of artifacts, in the place of the node's machine: what peers say goes to its workers, and what it says to the peers' sessions.
//!
//! What the handler says waits at its voice, within bounds, until the session of the peer has room. What a full flow drops of requests is answered in its place, as not found.
//!
//! It knows no rights: a node with rules has no handler of its own, and where rules come later it is told that all peers have gone.
//!
//! Invariant: what is said is of the link that stood when it was said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_protocol::gossip::Lane;
use busway_protocol::{PeerId, Time};
use busway_wire::gossip::{Word, encode};
use busway_wire::limits::GOSSIP_TURN_WORDS;

use crate::artifacts::{Voice, Workers};
use crate::error::Error;
use crate::ports::lock;
use crate::runtime::gossip::calls::Calls;
use crate::runtime::gossip::intake::Intake;
use crate::runtime::hub::{Shared, Wires};
use crate::runtime::peer::Peer;

/// It looks at least so often: whatever was missed is found then.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the handler wanted to say, lane by lane, when others took the room.
type Unsaid = [Option<Vec<u8>>; Lane::ALL.len()];

/// See the head of this file.
pub(in crate::runtime) struct Plugged<D> {
    shared: Arc<Shared<D>>,
    calls: Arc<Calls>,
    workers: Arc<Workers>,
    voice: Voice,
    intake: Intake,
    unsaid: BTreeMap<u8, Unsaid>,
    come: Vec<(Lane, Option<Vec<u8>>)>,
    /// That the handler hears nobody was said in the log.
    deaf: bool,
}

impl<D: Wires> Plugged<D> {
    pub(in crate::runtime) fn new(
        shared: Arc<Shared<D>>,
        calls: Arc<Calls>,
        workers: Arc<Workers>,
        voice: Voice,
    ) -> Result<Self, Error> {
        let rouse = calls.clone();
        voice.bind(move || rouse.wake())?;
        let rouse = calls.clone();
        workers.rouse_with(move || rouse.wake());
        let intake = Intake::new(workers.clone());
        let (unsaid, come) = (BTreeMap::new(), Vec::new());
        Ok(Self { shared, calls, workers, voice, intake, unsaid, come, deaf: false })
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
    }

    /// One look at everything; whether to look again at once.
    fn step(&mut self) -> bool {
        // Nobody has calls for it but who changes rules, which it sees by itself.
        drop(self.calls.take());
        let peers = lock(&self.shared.peers).clone();
        let nodes = peers.into_iter().filter_map(|(id, peer)| match id {
            PeerId::Node { index } => Some((index, peer)),
            PeerId::Client { .. } => None,
        });
        let nodes: BTreeMap<u8, Arc<Mutex<Peer>>> = nodes.collect();
        for index in self.intake.peers() {
            if !nodes.contains_key(&index) {
                self.stand(index, None);
                self.intake.is_over(index);
            }
        }
        let mut again = false;
        for (index, peer) in &nodes {
            self.listen(*index, peer);
            again |= self.say(*index, peer);
        }
        again
    }

    /// Takes what a peer has said, in the lanes of which nothing waits.
    fn listen(&mut self, index: u8, peer: &Mutex<Peer>) {
        let mut come = std::mem::take(&mut self.come);
        let lanes = self.intake.room(index);
        let link = lock(peer).take_artifact_words(&self.shared.driver, lanes, &mut come);
        // Rules came when it ran already: the handler does not know them, so nobody is heard.
        let deaf = self.shared.acl().is_some();
        if deaf && !std::mem::replace(&mut self.deaf, true) {
            tracing::warn!(target: "busway::gossip", "there are rules now: the handler of artifacts hears and tells nobody any more");
        }
        let link = link.filter(|_| !deaf);
        if link.is_none() {
            come.clear();
        }
        self.stand(index, link);
        self.intake.take(index, come.drain(..));
        self.come = come;
        if self.intake.begins(index) {
            // From now on it may say something to this peer, also while it is told of it, and not before.
            self.voice.stand(index, true);
        }
        self.intake.hand_on(index);
        if self.intake.link(index).is_none() {
            self.voice.stand(index, false);
        }
    }

    /// A link stands, or none does. What is said from now on is not of the one before.
    fn stand(&mut self, index: u8, link: Option<u64>) {
        if self.intake.stand(index, link) {
            self.unsaid.remove(&index);
            self.voice.stand(index, false);
        }
    }

    /// Says what the handler has to say to a peer, as far as there is room; whether there is more.
    fn say(&mut self, index: u8, peer: &Mutex<Peer>) -> bool {
        let Some(link) = self.intake.link(index) else { return false };
        // Until the handler has heard of this link, what it would say next is of the one before.
        let asks = self.intake.may_speak(index) == Some(link);
        let now = Time(self.shared.driver.now_ns());
        let mut more = false;
        let mut written = false;
        for lane in Lane::ALL {
            let mut said = 0;
            // No lock is held while the handler is asked: it may look at its node, or close it.
            while may_say(&mut lock(peer), link, lane) {
                if said >= GOSSIP_TURN_WORDS {
                    more = true;
                    break;
                }
                let unsaid = &mut self.unsaid.entry(index).or_default()[lane as usize];
                let next = unsaid.take().or_else(|| not_found(&mut self.intake, index, lane));
                let next = next.or_else(|| self.voice.take(index, lane));
                let next = next.or_else(|| if asks { self.workers.next_word(index, lane) } else { None });
                let Some(body) = next else { break };
                let mut peer = lock(peer);
                if !may_say(&mut peer, link, lane) {
                    // Others took the room meanwhile.
                    *unsaid = Some(body);
                    break;
                }
                peer.say_of_artifacts(now, lane, body);
                (said, written) = (said + 1, true);
            }
        }
        if written {
            let mut peer = lock(peer);
            peer.write(&self.shared.driver);
            self.shared.tell_held(&peer);
        }
        more
    }
}

impl<D> Drop for Plugged<D> {
    fn drop(&mut self) {
        self.voice.end();
        self.calls.end();
        self.calls.store.end();
        self.workers.part(&self.intake.told());
    }
}

/// What a peer is told whose request was dropped.
fn not_found(intake: &mut Intake, index: u8, lane: Lane) -> Option<Vec<u8>> {
    let request = if lane == Lane::Request { intake.dropped(index)? } else { return None };
    let mut body = Vec::new();
    encode(&Word::NotFound { request }, &[], &mut body);
    Some(body)
}

/// Whether this link still stands, and has room. Where it ended, whoever noticed has woken us.
fn may_say(peer: &mut Peer, link: u64, lane: Lane) -> bool {
    peer.artifact_link() == Some(link) && peer.may_say(lane)
}
