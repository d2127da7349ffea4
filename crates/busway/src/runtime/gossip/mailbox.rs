//! What waits for one subscriber to artifacts.
//!
//! Invariant: no more waits here than `ARTIFACT_EVENTS_MAX` and `ARTIFACT_EVENTS_BYTES_MAX` allow, but for one that is larger than that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use busway_protocol::gossip::{Advert, Reference};
use busway_shm::clock::Deadline;
use busway_wire::limits::{ARTIFACT_EVENTS_BYTES_MAX, ARTIFACT_EVENTS_MAX};

use crate::artifacts::Held;
use crate::artifacts::store::Lease;
use crate::ports::lock;
use crate::runtime::gossip::news::{News, Whose};

/// What a subscriber is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// It is to judge this.
    Asked(Advert),
    /// All of it is here.
    Received(Advert, Body),
    /// It begins to come.
    Arriving(Advert, Body),
    /// So many bytes of it are here.
    Progress(Advert, u64),
    /// What it has received is not offered any more.
    Withdrawn(Advert),
}

impl Note {
    /// Bytes of artifacts in it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Note::Received(_, body) => body.in_memory(),
            Note::Asked(_) | Note::Withdrawn(_) | Note::Arriving(..) | Note::Progress(..) => 0,
        }
    }
}

/// The bytes of an artifact, all of which are here, or come.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// These.
    Here(Arc<[u8]>),
    /// They lie in the store.
    Stored(Lease),
    /// They are with the node of this host, in another process.
    Away(Held),
}

impl Body {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Body::Here(bytes) => bytes.len() as u64,
            Body::Stored(lease) => lease.size(),
            Body::Away(held) => held.size(),
        }
    }

    /// How many of them waiting for it takes.
    pub(super) fn in_memory(&self) -> usize {
        match self {
            Body::Here(bytes) => bytes.len(),
            Body::Stored(_) | Body::Away(_) => 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    notes: VecDeque<Note>,
    /// Of each artifact the latest, which is told before all that came behind it; but not twice while something else waits.
    progress: BTreeMap<Reference, (Advert, u64)>,
    progressed: bool,
    bytes: usize,
    /// There was more than there was room for.
    full: bool,
    ended: bool,
    /// The task that found nothing: it is woken by what comes next, once.
    task: Option<Waker>,
}

impl State {
    fn next(&mut self) -> Option<Taken> {
        let progress = !self.progressed || self.notes.is_empty();
        if let Some((_, (advert, have))) =
            self.progress.first_entry().filter(|_| progress).map(|first| first.remove_entry())
        {
            self.progressed = true;
            return Some(Taken::Note(Note::Progress(advert, have), false));
        }
        if let Some(note) = self.notes.pop_front() {
            self.progressed = false;
            self.bytes -= note.size();
            return Some(Taken::Note(note, std::mem::take(&mut self.full)));
        }
        self.ended.then_some(Taken::Ended)
    }
}

/// What `take` has found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// This; whether there is room now for what had none.
    Note(Note, bool),
    /// Nothing in time.
    Nothing,
    /// Nothing, and nothing will come: the node has ended.
    Ended,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    news: Condvar,
    /// Who is told that something waits here, beside who waits for it.
    told: Option<(Arc<News>, Whose)>,
}

impl Mailbox {
    /// One whose news somebody waits for who has others too.
    pub(crate) fn told(news: Arc<News>, whose: Whose) -> Self {
        Self { told: Some((news, whose)), ..Self::default() }
    }

    /// Whether there is room for something of so many bytes. If not, who takes something says so.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let fits = state.bytes == 0 || state.bytes.saturating_add(bytes) <= ARTIFACT_EVENTS_BYTES_MAX;
        let has_room = state.notes.len() < ARTIFACT_EVENTS_MAX && fits;
        state.full |= !has_room;
        has_room
    }

    pub(crate) fn put(&self, note: Note) {
        let mut state = lock(&self.state);
        if let Note::Received(advert, _) | Note::Withdrawn(advert) = &note {
            state.progress.remove(&advert.of);
        }
        state.bytes += note.size();
        state.notes.push_back(note);
        self.tell(state);
    }

    /// Who waits is told, without the lock.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let task = state.task.take();
        drop(state);
        self.news.notify_all();
        if let Some(task) = task {
            task.wake();
        }
        if let Some((news, whose)) = &self.told {
            news.tell(*whose);
        }
    }

    /// So many bytes of it are here. What was said of it before, and was not taken, is not said any more.
    pub(crate) fn progress(&self, advert: &Advert, have: u64) {
        let mut state = lock(&self.state);
        if state.progress.len() < ARTIFACT_EVENTS_MAX || state.progress.contains_key(&advert.of) {
            state.progress.insert(advert.of, (advert.clone(), have));
            self.tell(state);
        }
    }

    /// Takes what is there, or waits for it until then.
    pub(crate) fn take(&self, deadline: Deadline) -> Taken {
        let mut state = lock(&self.state);
        loop {
            if let Some(taken) = state.next() {
                return taken;
            }
            let left = deadline.remaining();
            if left.is_some_and(|left| left.is_zero()) {
                return Taken::Nothing;
            }
            state = match left {
                Some(left) => self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Takes what is there, or has the task woken by what comes next.
    pub(crate) fn poll(&self, task: &Waker) -> Taken {
        let mut state = lock(&self.state);
        let taken = state.next();
        if taken.is_none() {
            state.task = Some(task.clone());
        }
        taken.unwrap_or(Taken::Nothing)
    }

    /// Nothing will come any more.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        self.tell(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_often_there_is_progress_something_else_is_taken_at_every_second_turn() {
        let mailbox = Mailbox::default();
        let advert = Advert {
            of: Reference::default(),
            topic: busway_wire::Topic::new("block.new").unwrap(),
            id: busway_protocol::gossip::ArtifactId([0; 32]),
            size: 1 << 20,
            attribute: Vec::new(),
            confirm: false,
        };
        (0..10).for_each(|_| mailbox.put(Note::Asked(advert.clone())));
        let mut asked = 0;
        for have in 0..20 {
            mailbox.progress(&advert, have);
            match mailbox.take(Deadline::after(std::time::Duration::ZERO)) {
                Taken::Note(Note::Asked(_), _) => asked += 1,
                Taken::Note(Note::Progress(..), _) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(asked, 10);
    }
}
