//! What a program's own handler of artifacts says to its peers.
//!
//! A word waits here until the link of its peer has room, no more of them than [`ARTIFACT_VOICE_WORDS_MAX`] for a peer and lane, and only while a link stands: what was said on one is not said on the next.
//!
//! Invariant: words of a lane are said in the order in which they were given.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use busway_protocol::gossip::Lane;
use busway_shm::clock::Deadline;
use busway_wire::gossip::{decode, encode};
use busway_wire::limits::ARTIFACT_VOICE_WORDS_MAX;

use crate::artifacts::Word;
use crate::error::{Code, Error};
use crate::ports::lock;

type Rouse = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    /// Of peers to which a link stands: what waits in each lane.
    peers: BTreeMap<u8, [VecDeque<Vec<u8>>; Lane::ALL.len()]>,
    rouse: Option<Rouse>,
    ended: bool,
}

/// How a handler speaks. It is made before the handler, which keeps a copy, and given to the node with it; see
/// [`NodeBuilder::artifact_handler`](crate::NodeBuilder::artifact_handler).
#[derive(Clone, Default)]
pub struct Voice {
    inner: Arc<(Mutex<State>, Condvar)>,
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

    /// The nodes to which a link stands.
    #[must_use]
    pub fn peers(&self) -> Vec<u8> {
        lock(&self.inner.0).peers.keys().copied().collect()
    }

    /// Says this to a node. `following` are the bytes of a [`Word::Chunk`], and empty for all else. Where as many words wait as may it waits at most for `timeout`.
    ///
    /// # Errors
    /// [`Code::NoNode`] where no link to it stands; [`Code::BadSetting`] for what no peer would take as a word; [`Code::TimedOut`]; [`Code::Closed`] where the node has ended.
    pub fn say(&self, to: u8, word: &Word, following: &[u8], timeout: Duration) -> Result<(), Error> {
        let place = || format!("to node {to}");
        let mut body = Vec::new();
        encode(word, following, &mut body);
        if let Err(error) = decode(&body) {
            return Err(Error::new(Code::BadSetting, error.to_string())
                .at(place())
                .remedy("say less in one word"));
        }
        let (lane, deadline) = (lane_of(word) as usize, Deadline::after(timeout));
        let (mutex, room) = &*self.inner;
        let mut state = lock(mutex);
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
        if let Some(rouse) = &lock(&self.inner.0).rouse {
            rouse();
        }
    }

    /// This is called when there is something to say.
    pub(crate) fn rouse_with(&self, rouse: impl Fn() + Send + Sync + 'static) {
        lock(&self.inner.0).rouse = Some(Box::new(rouse));
    }

    /// A link to this peer stands anew, or none does.
    pub(crate) fn stand(&self, peer: u8, stands: bool) {
        let mut state = lock(&self.inner.0);
        state.peers.remove(&peer);
        if stands {
            state.peers.insert(peer, Default::default());
        }
        self.inner.1.notify_all();
    }

    /// The next word for this peer in this lane.
    pub(crate) fn take(&self, peer: u8, lane: Lane) -> Option<Vec<u8>> {
        let mut state = lock(&self.inner.0);
        let body = state.peers.get_mut(&peer)?[lane as usize].pop_front()?;
        self.inner.1.notify_all();
        Some(body)
    }

    /// The node has ended.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.inner.0);
        (state.ended, state.rouse) = (true, None);
        state.peers.clear();
        self.inner.1.notify_all();
    }
}

/// In which lane a word goes, as the machine of a node says it.
fn lane_of(word: &Word) -> Lane {
    match word {
        Word::Request { .. } | Word::Cancel { .. } | Word::NotFound { .. } => Lane::Request,
        Word::Chunk { .. } => Lane::Chunk,
        Word::Exchange(_)
        | Word::Tell(_)
        | Word::Handled { .. }
        | Word::Marks(_)
        | Word::Ask { .. }
        | Word::Describe(_)
        | Word::Have { .. } => Lane::Advert,
    }
}
