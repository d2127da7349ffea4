//! The machine of artifacts as a handler: what a node runs on a thread of its own unless it is given another, behind the trait that such another has.
//!
//! So a program can stand between: look at what comes, leave some of it out, count it, and let the machine do the rest.
//!
//! It keeps artifacts of up to 256 KiB in memory, and drops larger ones. It has no lock on a link and no queue: it is asked for its next word when there is room. Where its functions are called nothing of it is locked.
//!
//! Invariant: the machine is touched under its lock alone.

use std::fmt;
use std::sync::{Arc, Mutex};

use busway_protocol::Time;
use busway_protocol::gossip::{
    Config, Epoch, Gossip, Input, Interest, Lane, NodeIndex, Nodes, Offering, Output, Reference,
};
use busway_shm::clock::monotonic_ns;
use busway_wire::Topic;
use busway_wire::limits::ARTIFACT_WHOLE_BYTES_MAX;

use crate::artifacts::handler::{ArtifactHandler, Flow, Heard};
use crate::artifacts::{Advert, Voice};
use crate::error::{Code, Error};
use crate::ports::lock;

type Judge = Box<dyn Fn(&Advert) -> Interest + Send + Sync>;
type Take = Box<dyn Fn(&Advert, Arc<[u8]>) + Send + Sync>;

struct State {
    machine: Gossip,
    members: Nodes,
    out: Vec<Output>,
}

/// See the head of this file.
pub struct SwarmHandler {
    state: Mutex<State>,
    voice: Voice,
    judge: Judge,
    take: Take,
}

impl fmt::Debug for SwarmHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmHandler").field("voice", &self.voice).finish_non_exhaustive()
    }
}

impl SwarmHandler {
    /// That of the node of this index. `judge` says what is wanted of each advert; `take` is given what was wanted, whole and checked. Both are called by
    /// the threads of the flows, several at a time.
    #[must_use]
    pub fn new(
        index: u8,
        voice: &Voice,
        judge: impl Fn(&Advert) -> Interest + Send + Sync + 'static,
        take: impl Fn(&Advert, Arc<[u8]>) + Send + Sync + 'static,
    ) -> Self {
        let members = Nodes::default();
        let machine = Gossip::new(Config::new(NodeIndex(index), Epoch(monotonic_ns()), members));
        let state = Mutex::new(State { machine, members, out: Vec::new() });
        Self { state, voice: voice.clone(), judge: Box::new(judge), take: Box::new(take) }
    }

    /// Offers these bytes for as long as this is there.
    ///
    /// # Errors
    /// [`Code::BadTopic`]; [`Code::Full`] where it offers as much as it may, or the bytes are too many.
    pub fn offer(&self, topic: &str, body: &[u8], attribute: &[u8]) -> Result<(), Error> {
        let topic = Topic::new(topic).map_err(Error::from)?;
        let mut state = lock(&self.state);
        let offering = Offering {
            topic: topic.clone(),
            attribute: attribute.to_vec(),
            body: Arc::from(body),
            stored: None,
            instead_of: None,
            reach_all_ms: None,
        };
        state.machine.offer(now(), offering).map_err(|error| {
            Error::new(Code::Full, error.to_string())
                .at(format!("topic {topic}"))
                .remedy("offer less at a time")
        })?;
        drop(state);
        self.voice.wake();
        Ok(())
    }

    fn input(&self, input: Input<'_>) {
        let mut state = lock(&self.state);
        let State { machine, out, .. } = &mut *state;
        machine.handle(now(), input, out);
        drop(state);
        self.go_on();
    }

    /// Asks and tells the program what there is to ask and tell, and has the links look for words.
    fn go_on(&self) {
        loop {
            let mut state = lock(&self.state);
            let adverts: Vec<_> = std::iter::from_fn(|| state.machine.next_advert()).collect();
            let out = std::mem::take(&mut state.out);
            drop(state);
            if adverts.is_empty() && out.is_empty() {
                break;
            }
            for output in out {
                if let Output::Received { advert, body } = output {
                    (self.take)(&Advert::new(advert), body);
                }
            }
            for advert in adverts {
                let (of, whole) = (advert.of, advert.size <= ARTIFACT_WHOLE_BYTES_MAX);
                // What comes in pieces has no place to lie here.
                let interest = if whole { (self.judge)(&Advert::new(advert)) } else { Interest::Drop };
                self.judged(of, interest);
            }
        }
        self.voice.wake();
    }

    fn judged(&self, of: Reference, interest: Interest) {
        let mut state = lock(&self.state);
        let State { machine, out, .. } = &mut *state;
        machine.handle(now(), Input::Judged { of, interest }, out);
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
