//! The machine of artifacts as a handler: what a node runs on a thread of its own unless it is given another, behind the trait that such another has.
//!
//! So a program can stand between: look at what comes, leave some of it out, count it, and let the machine do the rest.
//!
//! It keeps artifacts of up to 256 KiB in memory, and drops larger ones. What the program was given makes room for what has none, the oldest first. It has no lock on a link and no queue: it is asked for its
//! next word when there is room. Where its functions are called nothing of it is locked. Its deadlines of a few milliseconds are looked at when its timer is called: with the default of 100 ms what it
//! has done with is told so much later than by a node without it.
//!
//! Invariant: the machine is touched under its lock alone. What the program is to be asked or given stays in its state until it is asked or given: one at a time.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use busway_protocol::Time;
use busway_protocol::gossip::{
    self, Config, Epoch, Fault, Gossip, Input, Interest, Lane, NodeIndex, Nodes, Offering, Output, Reference,
    SlotNumber,
};
use busway_shm::clock::monotonic_ns;
use busway_wire::Topic;
use busway_wire::limits::ARTIFACT_WHOLE_BYTES_MAX;

use crate::artifacts::handler::{ArtifactHandler, Flow, Heard};
use crate::artifacts::{Advert, Voice};
use crate::error::Error;
use crate::ids::Ids;
use crate::ports::lock;
use crate::runtime::not_offered;

type Judge = Box<dyn Fn(&Advert) -> Interest + Send + Sync>;
type Take = Box<dyn Fn(&Advert, Arc<[u8]>) + Send + Sync>;
type Gone = Box<dyn Fn(&Advert) + Send + Sync>;

/// So many are let go at a time where there is no room.
const LET_GO: usize = 16;

struct State {
    machine: Gossip,
    members: Nodes,
    out: Vec<Output>,
    /// What the program is to be told.
    tell: VecDeque<Output>,
    /// What it is being given, and whether that has ended meanwhile.
    taking: BTreeMap<Reference, bool>,
    /// What it was given and is offered still.
    taken: BTreeMap<Reference, gossip::Advert>,
    /// Of that, what has not been let go, in the order in which it was given; and some of what is not offered any more.
    held: VecDeque<Reference>,
    /// What peers did that no sound one does, as far as it was said in the log.
    blamed: BTreeSet<(NodeIndex, Fault)>,
}

/// What is next for the program.
enum Next {
    Judge(gossip::Advert),
    Take(gossip::Advert, Arc<[u8]>),
    Gone(gossip::Advert),
    Nothing,
}

impl State {
    fn input(&mut self, input: Input<'_>) {
        self.machine.handle(now(), input, &mut self.out);
        self.tell.extend(self.out.drain(..));
    }

    fn next(&mut self) -> Next {
        while let Some(output) = self.tell.pop_front() {
            match output {
                Output::Received { advert, body } => {
                    self.taking.insert(advert.of, false);
                    return Next::Take(advert, body);
                }
                Output::Gone { of } => {
                    if let Some(ended) = self.taking.get_mut(&of) {
                        *ended = true;
                    } else if let Some(advert) = self.taken.remove(&of) {
                        return Next::Gone(advert);
                    }
                }
                Output::Blame { node, fault } => {
                    if self.blamed.insert((node, fault)) {
                        tracing::warn!(target: "busway::gossip", peer = node.0, ?fault, "a peer did what no sound one does");
                    }
                }
                // Nothing comes in pieces here, and no offer is to reach all.
                Output::Begun { .. }
                | Output::Stored { .. }
                | Output::Full { .. }
                | Output::Damaged { .. }
                | Output::Reached { .. }
                | Output::Expired { .. } => {}
            }
        }
        self.machine.next_advert().map_or(Next::Nothing, Next::Judge)
    }

    /// The program has it: it makes room where others have none. Returns it if it has ended meanwhile.
    fn took(&mut self, advert: gossip::Advert) -> Option<gossip::Advert> {
        if self.taking.remove(&advert.of) == Some(true) {
            return Some(advert);
        }
        // What ended meanwhile, and was let go already.
        if self.held.len() > 2 * self.taken.len() + LET_GO {
            let taken = &self.taken;
            self.held.retain(|of| taken.contains_key(of));
        }
        self.held.push_back(advert.of);
        self.taken.insert(advert.of, advert);
        None
    }

    /// Lets the oldest of what the program has go, where others starve; whether something was.
    fn let_go(&mut self) -> bool {
        let mut gone = false;
        for _ in 0..LET_GO {
            if self.machine.usage().starved == 0 {
                break;
            }
            let Some(of) = self.held.pop_front() else { break };
            if self.taken.contains_key(&of) {
                self.input(Input::Release { of });
                gone = true;
            }
        }
        gone
    }
}

/// An offer of a [`SwarmHandler`]: what it is withdrawn by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwarmOffer(SlotNumber, Reference);

/// See the head of this file.
pub struct SwarmHandler {
    state: Mutex<State>,
    voice: Voice,
    judge: Judge,
    take: Take,
    gone: Gone,
}

impl fmt::Debug for SwarmHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmHandler").field("voice", &self.voice).finish_non_exhaustive()
    }
}

impl SwarmHandler {
    /// That of the node of this index. `judge` says what is wanted of each advert; `take` is given what was wanted, whole and checked. Both are called by
    /// the threads of the flows, several at a time. An advert at which `judge` panics is stashed.
    #[must_use]
    pub fn new(
        index: u8,
        voice: &Voice,
        judge: impl Fn(&Advert) -> Interest + Send + Sync + 'static,
        take: impl Fn(&Advert, Arc<[u8]>) + Send + Sync + 'static,
    ) -> Self {
        // Of two starts the later has the larger one, also behind a boot, and after a machine of the node's own: as ids of messages.
        let epoch = Ids::default().next().ok().and_then(|id| u64::try_from(id.0 >> 64).ok());
        // Where there are no random numbers there is little else either; who is linked believes it in any case.
        let epoch = epoch.unwrap_or_else(monotonic_ns);
        let config = Config::new(NodeIndex(index), Epoch(epoch), Nodes::default());
        Self::with(config, voice, judge, take)
    }

    fn with(
        config: Config,
        voice: &Voice,
        judge: impl Fn(&Advert) -> Interest + Send + Sync + 'static,
        take: impl Fn(&Advert, Arc<[u8]>) + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State {
            machine: Gossip::new(config),
            members: Nodes::default(),
            out: Vec::new(),
            tell: VecDeque::new(),
            taking: BTreeMap::new(),
            taken: BTreeMap::new(),
            held: VecDeque::new(),
            blamed: BTreeSet::new(),
        });
        let (judge, take, gone) = (Box::new(judge), Box::new(take), Box::new(|_: &Advert| {}));
        Self { state, voice: voice.clone(), judge, take, gone }
    }

    /// This is told of each artifact that `take` was given and that is not offered any more. It is called as that is.
    #[must_use]
    pub fn gone(mut self, gone: impl Fn(&Advert) + Send + Sync + 'static) -> Self {
        self.gone = Box::new(gone);
        self
    }

    /// Offers these bytes for as long as this is there, or until they are withdrawn.
    ///
    /// # Errors
    /// [`Code::BadTopic`](crate::Code::BadTopic); [`Code::TooLarge`](crate::Code::TooLarge) for more than 256 KiB, or a longer attribute than may be; [`Code::Full`](crate::Code::Full) where it
    /// offers as much as it may.
    pub fn offer(&self, topic: &str, body: &[u8], attribute: &[u8]) -> Result<SwarmOffer, Error> {
        let topic = Topic::new(topic).map_err(Error::from)?;
        if body.len() as u64 > ARTIFACT_WHOLE_BYTES_MAX {
            let cause =
                format!("{} bytes, a machine without a store has {ARTIFACT_WHOLE_BYTES_MAX}", body.len());
            return Err(Error::new(crate::Code::TooLarge, cause)
                .at(format!("topic {topic}"))
                .remedy("send it in parts, each an artifact"));
        }
        let mut state = lock(&self.state);
        let offering = Offering { attribute: attribute.to_vec(), ..Offering::new(topic, Arc::from(body)) };
        let slot = state.machine.offer(now(), offering).map_err(|error| not_offered(&error))?;
        let of = state.machine.own(slot).unwrap_or_default();
        drop(state);
        self.voice.wake();
        Ok(SwarmOffer(slot, of))
    }

    /// Takes an offer back: the others are told, and stop asking for it. One that was withdrawn before is nothing.
    pub fn withdraw(&self, offer: SwarmOffer) {
        let mut state = lock(&self.state);
        let SwarmOffer(slot, of) = offer;
        // Another may stand in its slot by now.
        if state.machine.own(slot) == Some(of) {
            state.input(Input::Withdraw { slot });
        }
        drop(state);
        self.go_on();
    }

    /// `judge` is asked again of what it stashed.
    pub fn reconsider(&self) {
        self.input(Input::Reconsider);
    }

    fn input(&self, input: Input<'_>) {
        lock(&self.state).input(input);
        self.go_on();
    }

    /// Asks and tells the program what there is to ask and tell, and has the links look for words. Where a function of it panics, that is for who called when all is asked and told.
    fn go_on(&self) {
        let mut panic = None;
        loop {
            let next = lock(&self.state).next();
            match next {
                Next::Judge(advert) => {
                    let (of, whole) = (advert.of, advert.size <= ARTIFACT_WHOLE_BYTES_MAX);
                    // What comes in pieces has no place to lie here.
                    let judged = if whole {
                        caught(&mut panic, || (self.judge)(&Advert::new(advert)))
                    } else {
                        Some(Interest::Drop)
                    };
                    let interest = judged.unwrap_or(Interest::Stash);
                    lock(&self.state).input(Input::Judged { of, interest });
                }
                Next::Take(advert, body) => {
                    let shown = Advert::new(advert.clone());
                    let _ = caught(&mut panic, || (self.take)(&shown, body));
                    let ended = lock(&self.state).took(advert);
                    if let Some(advert) = ended {
                        let _ = caught(&mut panic, || (self.gone)(&Advert::new(advert)));
                    }
                }
                Next::Gone(advert) => {
                    let _ = caught(&mut panic, || (self.gone)(&Advert::new(advert)));
                }
                Next::Nothing => {
                    if !lock(&self.state).let_go() {
                        break;
                    }
                }
            }
        }
        self.voice.wake();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn word(&self, from: u8, heard: &Heard) {
        let (from, word) = (NodeIndex(from), heard.word.clone());
        self.input(Input::Word { from, word, following: &heard.following });
    }
}

impl ArtifactHandler for SwarmHandler {
    fn on_advert(&self, from: u8, advert: &Heard) {
        self.word(from, advert);
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.word(from, request);
    }

    fn on_piece(&self, from: u8, piece: &Heard) {
        self.word(from, piece);
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.word(from, request);
    }

    fn on_timer(&self) {
        let due = lock(&self.state).machine.deadline().is_some_and(|(at, _)| at <= now());
        if due {
            self.input(Input::Tick);
        }
    }

    fn next_word(&self, to: u8, flow: Flow) -> Option<Heard> {
        let lane = Lane::ALL.into_iter().find(|lane| lane.flow() == flow)?;
        let said = lock(&self.state).machine.transmit(now(), NodeIndex(to), lane)?;
        let following = said.following().to_vec();
        Some(Heard { word: said.word, following })
    }

    fn on_peer_up(&self, peer: u8) {
        let mut state = lock(&self.state);
        if state.members.insert(NodeIndex(peer)) {
            let members = state.members;
            state.machine.set_members(members);
        }
        drop(state);
        self.input(Input::PeerUp { node: NodeIndex(peer) });
    }

    fn on_peer_down(&self, peer: u8) {
        self.input(Input::PeerDown { node: NodeIndex(peer) });
    }
}

fn now() -> Time {
    Time(monotonic_ns())
}

/// What a function of the program returns; nothing where it panics.
fn caught<T>(panic: &mut Option<Box<dyn Any + Send>>, body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) => {
            panic.get_or_insert(payload);
            None
        }
    }
}

#[cfg(test)]
mod tests;
