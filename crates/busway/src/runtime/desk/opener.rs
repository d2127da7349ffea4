//! Opens ports for who shares work: it asks the rendezvous, which may take a while, and whoever serves all peers must not wait for it.
//!
//! Peers have their turn one after the other, so that none waits for all that another wants.
//!
//! Invariant: each port that was asked for is answered once, in the order of asking of its peer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use busway_protocol::PeerId;
use busway_shm::row::group;
use busway_wire::{Group, PortId, Topic};

use crate::bus::{Bus, Core};
use crate::error::{Code, Error};
use crate::ports::{lock, work_line};
use crate::publisher::Publisher;
use crate::puller::{Puller, PullerBuilder};
use crate::requester::Requester;
use crate::responder::{Lane, Lanes};
use crate::runtime::desk::Between;

/// For whom a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct For {
    pub(super) peer: PeerId,
    /// Between which sources words go with the peer for which it is.
    pub(super) between: Between,
    pub(super) pull: u32,
    /// Of a puller, which of those that were asked for it is; of a lane, the request whose replies wait for it.
    pub(super) number: u64,
}

/// A port that is wanted.
pub(super) enum Wanted {
    /// Of the topics and the group of a pull of the peer.
    Puller(Box<PullerBuilder>),
    /// For tasks of the peer on this topic, for this group of ours.
    Pusher(Topic, Group),
    /// For requests of the peer on this topic.
    Requester(Topic),
    /// For replies to this requester of ours, which somebody waits for until then.
    Lane { requester: PortId, pusher: group::Pusher, deadline_ns: u64 },
}

/// A port that was wanted.
pub(super) enum Opened {
    Puller(Puller),
    Pusher(Topic, Publisher),
    Requester(Topic, Requester),
    /// `None`: it cannot be had.
    Lane(Option<Arc<Lane>>),
    /// It cannot be had. Of a pusher or requester its topic is named.
    Refused(Option<Topic>, Error),
}

#[derive(Default)]
struct State {
    /// Nothing of a peer is not there.
    wanted: BTreeMap<PeerId, VecDeque<(For, Wanted)>>,
    /// Whose turn it was last.
    turn: Option<PeerId>,
    opened: Vec<(For, Opened)>,
    stopping: bool,
}

impl State {
    /// The next, of the peer whose turn it is.
    fn next(&mut self) -> Option<(For, Wanted)> {
        let behind = self.turn.and_then(|turn| self.wanted.range((Excluded(turn), Unbounded)).next());
        let peer = *behind.or_else(|| self.wanted.first_key_value())?.0;
        self.turn = Some(peer);
        let queue = self.wanted.get_mut(&peer)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.wanted.remove(&peer);
        }
        next
    }
}

/// See the head of this file.
pub(super) struct Opener {
    state: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Opener {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (shared, bus) = (state.clone(), Bus { core: core.clone() });
        let thread = std::thread::Builder::new().name("bw-work-open".to_owned());
        let thread = thread.spawn(move || run(&shared, &bus)).map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-work-open")
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// One that opens nothing by itself.
    #[cfg(test)]
    pub(super) fn without_thread() -> Self {
        Self { state: Arc::default(), thread: None }
    }

    /// How many ports are asked for.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state.0).wanted.values().map(VecDeque::len).sum()
    }

    /// For whom they are, in their order; none is asked for any more.
    #[cfg(test)]
    pub(super) fn taken(&self) -> Vec<For> {
        let mut state = lock(&self.state.0);
        std::iter::from_fn(|| state.next()).map(|(whom, _)| whom).collect()
    }

    /// What is asked for next; it is not opened by this.
    #[cfg(test)]
    pub(super) fn next(&self) -> Option<(For, Wanted)> {
        lock(&self.state.0).next()
    }

    pub(super) fn want(&self, whom: For, wanted: Wanted) {
        let (state, news) = &*self.state;
        lock(state).wanted.entry(whom.peer).or_default().push_back((whom, wanted));
        news.notify_one();
    }

    pub(super) fn take(&self) -> Vec<(For, Opened)> {
        std::mem::take(&mut lock(&self.state.0).opened)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let (state, news) = &*self.state;
        let mut stopped = lock(state);
        stopped.stopping = true;
        stopped.wanted.clear();
        drop(stopped);
        news.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn run(shared: &(Mutex<State>, Condvar), bus: &Bus) {
    let (state, news) = shared;
    loop {
        let waiting = lock(state);
        let idle = |state: &mut State| state.wanted.is_empty() && !state.stopping;
        let mut waiting = news.wait_while(waiting, idle).unwrap_or_else(std::sync::PoisonError::into_inner);
        if waiting.stopping {
            return;
        }
        let Some((whom, wanted)) = waiting.next() else { continue };
        drop(waiting);
        let opened = open(bus, wanted);
        lock(state).opened.push((whom, opened));
        bus.core.ports.ring_bell(work_line());
    }
}

fn open(bus: &Bus, wanted: Wanted) -> Opened {
    match wanted {
        Wanted::Puller(builder) => match builder.open() {
            Ok(puller) => Opened::Puller(puller),
            Err(error) => Opened::Refused(None, error),
        },
        Wanted::Pusher(topic, group) => match bus.pusher(topic.as_str()).open_for_work(group) {
            Ok(pusher) => Opened::Pusher(topic, pusher),
            Err(error) => Opened::Refused(Some(topic), error),
        },
        Wanted::Requester(topic) => match bus.requester(topic.as_str()).for_another_host().open() {
            Ok(requester) => Opened::Requester(topic, requester),
            Err(error) => Opened::Refused(Some(topic), error),
        },
        Wanted::Lane { requester, pusher, deadline_ns } => {
            let lane = Lanes::of(bus).open_for(requester, pusher, deadline_ns);
            let refused = |error| tracing::debug!(target: "busway::work", "no lane for replies: {error}");
            Opened::Lane(lane.map_err(refused).ok())
        }
    }
}
