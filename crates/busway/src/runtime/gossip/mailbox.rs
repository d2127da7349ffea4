//! What waits for one subscriber to artifacts.
//!
//! Invariant: no more waits here than `ARTIFACT_EVENTS_MAX` and `ARTIFACT_EVENTS_BYTES_MAX` allow, but for one that is larger than that.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use busway_protocol::gossip::Advert;
use busway_shm::clock::Deadline;
use busway_wire::limits::{ARTIFACT_EVENTS_BYTES_MAX, ARTIFACT_EVENTS_MAX};

use crate::ports::lock;

/// What a subscriber is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// It is to judge this.
    Asked(Advert),
    /// All of it is here.
    Received(Advert, Arc<[u8]>),
    /// What it has received is not offered any more.
    Withdrawn(Advert),
}

impl Note {
    fn size(&self) -> usize {
        match self {
            Note::Received(_, body) => body.len(),
            Note::Asked(_) | Note::Withdrawn(_) => 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    notes: VecDeque<Note>,
    bytes: usize,
    /// There was more than there was room for.
    full: bool,
    ended: bool,
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
}

impl Mailbox {
    /// Whether there is room for something of so many bytes. If not, who takes something says so.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let fits = state.bytes == 0 || state.bytes.saturating_add(bytes) <= ARTIFACT_EVENTS_BYTES_MAX;
        let has_room = state.notes.len() < ARTIFACT_EVENTS_MAX && fits;
        state.full |= !has_room;
        has_room
    }

    pub(super) fn put(&self, note: Note) {
        let mut state = lock(&self.state);
        state.bytes += note.size();
        state.notes.push_back(note);
        self.news.notify_one();
    }

    /// Takes what is there, or waits for it until then.
    pub(crate) fn take(&self, deadline: Deadline) -> Taken {
        let mut state = lock(&self.state);
        loop {
            if let Some(note) = state.notes.pop_front() {
                state.bytes -= note.size();
                return Taken::Note(note, std::mem::take(&mut state.full));
            }
            if state.ended {
                return Taken::Ended;
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

    /// Nothing will come any more.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.news.notify_all();
    }
}
