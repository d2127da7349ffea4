//! What is to be said to a peer about work, before it has a place among its words.
//!
//! Most words are bytes at once. A request is not: how long it is still waited for is said when it goes, however long it lay here. And a
//! task that is over before it went is not said at all: a *Cancel* takes its place.
//!
//! It does not know channels, nor when something goes.
//!
//! Invariant: `bytes` is at least what all that is here takes as bodies.

use std::sync::Arc;

use busway_wire::work::{Word, encode};

/// Bytes of a word without its payload and its topic, at most.
const WORD_BYTES: usize = 64;

/// One thing to be said.
#[derive(Clone, Debug)]
pub(crate) enum Saying {
    /// These bytes.
    Body(Arc<[u8]>),
    /// A task, which its number is known by.
    Task { task: u64, body: Arc<[u8]> },
    /// A request, which is waited for until then: the word, and the payload behind it.
    Request { word: Box<Word>, payload: Arc<[u8]>, until_ns: u64 },
    /// A task of this pull is over for us.
    Cancel { pull: u32, task: u64 },
}

impl Saying {
    /// The number of the task or request that it gives.
    pub(crate) fn gives(&self) -> Option<u64> {
        match self {
            Self::Task { task, .. } => Some(*task),
            Self::Request { word, .. } => match **word {
                Word::Task { task, .. } => Some(task),
                _ => None,
            },
            Self::Body(_) | Self::Cancel { .. } => None,
        }
    }

    /// Bytes that it takes while it waits, or somewhat more.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Body(body) | Self::Task { body, .. } => body.len(),
            Self::Request { payload, .. } => payload.len().saturating_add(WORD_BYTES),
            Self::Cancel { .. } => WORD_BYTES,
        }
    }

    /// What is said now.
    pub(crate) fn body(&self, now_ns: u64) -> Arc<[u8]> {
        match self {
            Self::Body(body) | Self::Task { body, .. } => body.clone(),
            Self::Request { word, payload, until_ns } => {
                let mut word = (**word).clone();
                if let Word::Task { left_ns, .. } = &mut word {
                    // 0 would be a task.
                    *left_ns = until_ns.saturating_sub(now_ns).max(1);
                }
                body_of(&word, payload)
            }
            Self::Cancel { pull, task } => body_of(&Word::Cancel { pull: *pull, task: *task }, &[]),
        }
    }
}

fn body_of(word: &Word, payload: &[u8]) -> Arc<[u8]> {
    let mut body = Vec::new();
    encode(word, payload, &mut body);
    body.into()
}

/// What is to be said, in its order.
#[derive(Debug, Default)]
pub(crate) struct Says {
    all: Vec<Saying>,
    bytes: usize,
}

impl Says {
    pub(crate) fn push(&mut self, saying: Saying) {
        self.bytes = self.bytes.saturating_add(saying.size());
        self.all.push(saying);
    }

    /// A word without a payload.
    pub(crate) fn word(&mut self, word: &Word) {
        self.push(Saying::Body(body_of(word, &[])));
    }

    /// A word and its payload.
    pub(crate) fn with(&mut self, word: &Word, payload: &[u8]) {
        self.push(Saying::Body(body_of(word, payload)));
    }

    /// A task, or a request that is waited for until then.
    pub(crate) fn task(&mut self, word: Word, payload: &[u8], until_ns: Option<u64>) {
        let Word::Task { task, .. } = word else { return };
        self.push(match until_ns {
            None => Saying::Task { task, body: body_of(&word, payload) },
            Some(until_ns) => Saying::Request { word: Box::new(word), payload: payload.into(), until_ns },
        });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn into_all(self) -> Vec<Saying> {
        self.all
    }
}
