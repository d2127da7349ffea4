//! What programs want of the node's artifacts, and how they wake whoever has them.
//!
//! A call is put here and done by the one thread that has the machine; who wants an answer waits for it without a lock. Calls are as many as threads wait
//! in them, but for those that say that something is not wanted any more.
//!
//! Invariant: when the thread has ended no call waits, and none is taken.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Counts, Interest, Offering, Reference, Usage};
use busway_shm::fork;
use busway_wire::Pattern;

use crate::artifacts::store::{Store, StoreConfig};
use crate::artifacts::{self, Away, PeerEvent};
use crate::bus::forked;
use crate::error::{Code, Error, memory};
use crate::ports::lock;
use crate::runtime::gossip::mailbox::Mailbox;
use crate::runtime::gossip::standing::Standing;

/// Which subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReaderId(pub(crate) u64);

/// An artifact of which this node knows, for people.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) advert: busway_protocol::gossip::Advert,
    /// All of its bytes are here.
    pub(crate) here: bool,
    /// This node offers it.
    pub(crate) own: bool,
}

/// One thing that is wanted.
#[derive(Debug)]
pub(crate) enum Call {
    Offer {
        offering: Offering,
        answer: SyncSender<Result<(Reference, Arc<Standing>), Error>>,
    },
    Withdraw {
        of: Reference,
    },
    Subscribe {
        wants: Wants,
        mailbox: Arc<Mailbox>,
        answer: SyncSender<Result<ReaderId, Error>>,
    },
    Unsubscribe {
        reader: ReaderId,
    },
    Judge {
        reader: ReaderId,
        of: Reference,
        interest: Interest,
    },
    Reconsider {
        reader: ReaderId,
    },
    /// A worker tells what a peer did.
    Hear {
        from: u8,
        event: PeerEvent,
        answer: SyncSender<()>,
    },
    /// The rules of the node are others now.
    FollowRules,
    /// Of these topics, behind that one, at most so many.
    List {
        pattern: Pattern,
        after: Option<Reference>,
        most: usize,
        answer: SyncSender<Result<Vec<Listed>, Error>>,
    },
}

/// What a subscriber wants.
#[derive(Clone, Debug)]
pub(crate) struct Wants {
    pub(crate) pattern: Pattern,
    /// It says of each advert whether it wants it.
    pub(crate) judges: bool,
    pub(crate) tells: Tells,
    /// It wants this one alone.
    pub(crate) only: Option<ArtifactId>,
}

/// What it is told of what comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tells {
    /// How much of it is here.
    pub(crate) progress: bool,
    /// That it begins to come.
    pub(crate) arriving: bool,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    woken: bool,
    ended: bool,
    counts: Counts,
    usage: Usage,
    denied: u64,
    full: u64,
    /// What programs of this host asked for and were refused.
    refused: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Where the large artifacts of the node lie.
    pub(crate) store: Arc<Store>,
    state: Mutex<State>,
    news: Condvar,
    /// How many forks there were when it was made.
    forks: u64,
    /// The node is in another process: what is wanted is asked of it there.
    away: Option<Away>,
}

impl Calls {
    pub(crate) fn new(store: &StoreConfig) -> Result<Arc<Self>, Error> {
        let forks = fork::generation().map_err(|error| memory(&error, "the artifacts of this node"))?;
        let store = Store::open(store)?;
        let (state, news, away) = (Mutex::default(), Condvar::new(), None);
        let calls = Arc::new(Self { store, state, news, forks, away });
        calls.store.serve(&calls);
        Ok(calls)
    }

    /// Those of a node in another process, where its store is.
    pub(crate) fn away(away: Away) -> Result<Self, Error> {
        let forks = fork::generation().map_err(|error| memory(&error, "the artifacts of this host"))?;
        let store = Store::open(&StoreConfig { directory: None, bytes_max: 0, bodies_bytes_max: 0 })?;
        Ok(Self { store, state: Mutex::default(), news: Condvar::new(), forks, away: Some(away) })
    }

    /// The way to the node, if it is in another process.
    pub(crate) fn way(&self) -> Option<&Away> {
        self.away.as_ref()
    }

    /// Whether the node, as far as it is known, has ended.
    pub(crate) fn has_ended(&self) -> bool {
        !self.is_inherited() && self.away.as_ref().map_or_else(|| lock(&self.state).ended, Away::has_ended)
    }

    /// A subscriber has taken a note with so many bytes.
    pub(crate) fn took(&self, reader: ReaderId, bytes: usize) {
        if let Some(away) = self.away.as_ref().filter(|_| !self.is_inherited()) {
            away.took(reader, bytes);
        }
    }

    /// Something that a program of this host asked for was refused.
    pub(crate) fn count_refused(&self) {
        lock(&self.state).refused += 1;
    }

    /// Whether this is a child to which its parent's thread is nothing, and which must not touch its locks.
    pub(crate) fn is_inherited(&self) -> bool {
        fork::forked_since(self.forks)
    }

    /// The thread looks again soon.
    pub(crate) fn wake(&self) {
        if self.is_inherited() {
            return;
        }
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.woken, true) {
            self.news.notify_one();
        }
    }

    /// Leaves a call that nobody waits for.
    pub(crate) fn leave(&self, call: Call) {
        if self.is_inherited() {
            return;
        }
        if let Some(away) = &self.away {
            return away.call(call);
        }
        let mut state = lock(&self.state);
        if !state.ended {
            state.calls.push(call);
            state.woken = true;
            self.news.notify_one();
        }
    }

    /// Leaves a call and waits for its answer.
    pub(crate) fn ask<A>(&self, call: impl FnOnce(SyncSender<A>) -> Call) -> Result<A, Error> {
        if self.is_inherited() {
            return Err(forked());
        }
        let (answer, answered): (_, Receiver<A>) = sync_channel(1);
        self.leave(call(answer));
        answered.recv().map_err(|_| ended())
    }

    /// What was counted.
    pub(crate) fn counts(&self) -> artifacts::Counts {
        if self.is_inherited() {
            return artifacts::Counts::default();
        }
        if let Some(away) = &self.away {
            return away.counts().unwrap_or_default();
        }
        let (damaged, stored_bytes) = self.store.counts();
        let state = lock(&self.state);
        artifacts::Counts {
            damaged,
            full: state.full,
            stored_bytes,
            waiting: state.usage.starved as u64,
            told: state.counts.told_of,
            handled: state.counts.handled,
            coalesced: state.counts.coalesced,
            dropped: state.counts.dropped,
            denied: state.denied,
            said: state.counts.said,
            bytes_useful: state.counts.bytes_useful,
            bytes_wasted: state.counts.bytes_wasted,
            bytes_given: state.counts.bytes_given,
            refused: state.refused,
        }
    }

    pub(super) fn note(&self, counts: Counts, usage: Usage, (denied, full): (u64, u64)) {
        let mut state = lock(&self.state);
        (state.counts, state.usage, state.denied, state.full) = (counts, usage, denied, full);
    }

    /// What there is to be done.
    pub(super) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.state).calls)
    }

    /// Waits until it is woken, at most for so long.
    pub(super) fn wait(&self, most: Duration) {
        let state = lock(&self.state);
        let waited = self.news.wait_timeout_while(state, most, |state| !state.woken);
        waited.unwrap_or_else(PoisonError::into_inner).0.woken = false;
    }

    /// Whoever waits for an answer has none, and nobody will.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        drop(calls);
    }
}

/// The node has ended.
pub(crate) fn ended() -> Error {
    Error::new(Code::Closed, "the node that has the artifacts is closed")
        .remedy("see that a node runs (busway up), then do this again")
}
