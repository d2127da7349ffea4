//! What a program's own handler of artifacts says to its peers.
//!
//! A word waits here until the link of its peer has room, no more of them than [`ARTIFACT_VOICE_WORDS_MAX`] for a peer and lane, and only while a link stands of which the handler was told: what was said on one is not said on the next.
//!
//! Invariant: words of a lane are said in the order in which they were given.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use busway_protocol::gossip::Lane;
use busway_shm::clock::Deadline;
use busway_shm::fork;
use busway_wire::gossip::{decode, encode};
use busway_wire::limits::ARTIFACT_VOICE_WORDS_MAX;

use crate::artifacts::Word;
use crate::artifacts::handler::lane_of;
use crate::bus::forked;
use crate::error::{Code, Error};
use crate::ports::lock;

type Rouse = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    /// Of peers to which a link stands of which the handler was told: what waits in each lane.
    peers: BTreeMap<u8, [VecDeque<Vec<u8>>; Lane::ALL.len()]>,
    /// A node speaks by it.
    rouse: Option<Rouse>,
    /// The node that spoke by it has ended, and no other has begun.
    ended: bool,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    room: Condvar,
    /// How many forks there were when it was made; nothing where that cannot be known.
    forks: Option<u64>,
}

/// How a handler speaks. It is made before the handler, which keeps a copy, and given to the node with it; see
/// [`NodeBuilder::artifact_handler`](crate::NodeBuilder::artifact_handler). One node has it at a time; when that has ended another may.
#[derive(Clone)]
pub struct Voice {
    inner: Arc<Inner>,
}

impl Default for Voice {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { forks: fork::generation().ok(), ..Inner::default() }) }
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Voice").field("peers", &self.peers()).finish()
    }
}

impl Voice {
    /// One that speaks to nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether this is a child made by `fork`, which must not touch its lock.
    fn is_inherited(&self) -> bool {
        self.inner.forks.is_some_and(fork::forked_since)
    }

    /// The nodes to which a link stands, of those of which the handler was told. A child made by `fork` sees none.
    #[must_use]
    pub fn peers(&self) -> Vec<u8> {
        if self.is_inherited() { Vec::new() } else { lock(&self.inner.state).peers.keys().copied().collect() }
    }

    /// Says this to a node. `following` are the bytes of a [`Word::Chunk`], and empty for all else. Where as many words wait as may it waits at most for `timeout`.
    ///
    /// # Errors
    /// [`Code::NoNode`] where no link to it stands; [`Code::BadSetting`] for what no peer would take as a word; [`Code::TimedOut`]; [`Code::Closed`] where the node has ended; [`Code::Forked`].
    pub fn say(&self, to: u8, word: &Word, following: &[u8], timeout: Duration) -> Result<(), Error> {
        if self.is_inherited() {
            return Err(forked());
        }
        let place = || format!("to node {to}");
        let mut body = Vec::new();
        encode(word, following, &mut body);
        if let Err(error) = decode(&body) {
            return Err(Error::new(Code::BadSetting, error.to_string())
                .at(place())
                .remedy("say less in one word"));
        }
        let (lane, deadline) = (lane_of(word) as usize, Deadline::after(timeout));
        let Inner { state, room, .. } = &*self.inner;
        let mut state = lock(state);
        loop {
            if state.ended {
                return Err(crate::runtime::ended());
            }
            let Some(lanes) = state.peers.get_mut(&to) else {
                let error = Error::new(Code::NoNode, "no link to it stands").at(place());
                return Err(error.remedy("say it when on_peer_up was called"));
            };
            if lanes[lane].len() < ARTIFACT_VOICE_WORDS_MAX {
                lanes[lane].push_back(body);
                if let Some(rouse) = &state.rouse {
                    rouse();
                }
                return Ok(());
            }
            let left = deadline.remaining().unwrap_or(timeout);
            if left.is_zero() {
                let error =
                    Error::new(Code::TimedOut, format!("{ARTIFACT_VOICE_WORDS_MAX} words wait already"));
                return Err(error.at(place()).remedy("say it later: its link is slow"));
            }
            state = room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// [`ArtifactHandler::next_word`](crate::artifacts::ArtifactHandler::next_word) has something now: each peer that has room is asked for.
    pub fn wake(&self) {
        if self.is_inherited() {
            return;
        }
        if let Some(rouse) = &lock(&self.inner.state).rouse {
            rouse();
        }
    }

    /// A node speaks by it from now on, to nobody yet: `rouse` is called when there is something to say.
    pub(crate) fn bind(&self, rouse: impl Fn() + Send + Sync + 'static) -> Result<(), Error> {
        let mut state = lock(&self.inner.state);
        if state.rouse.is_some() {
            return Err(Error::new(Code::BadSetting, "another node speaks by this voice")
                .at("the handler of artifacts")
                .remedy("make a handler and a voice for each node"));
        }
        state.rouse = Some(Box::new(rouse));
        state.ended = false;
        Ok(())
    }

    /// A link to this peer stands anew, or none does.
    pub(crate) fn stand(&self, peer: u8, stands: bool) {
        let mut state = lock(&self.inner.state);
        state.peers.remove(&peer);
        if stands {
            state.peers.insert(peer, Default::default());
        }
        self.inner.room.notify_all();
    }

    /// The next word for this peer in this lane.
    pub(crate) fn take(&self, peer: u8, lane: Lane) -> Option<Vec<u8>> {
        let mut state = lock(&self.inner.state);
        let body = state.peers.get_mut(&peer)?[lane as usize].pop_front()?;
        self.inner.room.notify_all();
        Some(body)
    }

    /// The node has ended.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.inner.state);
        (state.ended, state.rouse) = (true, None);
        state.peers.clear();
        self.inner.room.notify_all();
    }
}
