//! What is to be said to a peer about work, before it has a place among its words.
//!
//! Most words are bytes at once. A request is not: how long it is still waited for is said when it goes, however long it lay here. And a
//! task that is over before it went is not said at all: a *Cancel* takes its place.
//!
//! It does not know channels, nor when something goes.
//!
//! Invariant: `bytes` is at least what all that is here takes as bodies.

use std::sync::Arc;

use busway_protocol::{Deed, Permits};
use busway_wire::limits::WORK_QUICK_BYTES;
use busway_wire::work::{Word, decode, encode, is_of_large};

/// A body, or a payload, that was made once: cloning copies nothing.
pub(crate) type Body = Arc<Vec<u8>>;

/// Bytes of a word without its payload and its topic, at most.
pub(super) const WORD_BYTES: usize = 64;

/// One thing to be said.
#[derive(Clone, Debug)]
pub(crate) enum Saying {
    /// These bytes.
    Body(Body),
    /// A reply to a task of the peer's, or what became of it, in these bytes.
    Answer { task: u64, body: Body },
    /// A task, which its number is known by.
    Task { task: u64, body: Body },
    /// A request, which is waited for until then: the word, and what follows it.
    Request { word: Box<Word>, following: Body, until_ns: u64 },
    /// A task of this pull is over for us.
    Cancel { pull: u32, task: u64 },
}

impl Saying {
    /// A task, or a request that is waited for until then, with what follows the word. `None`: there is no memory for it.
    pub(crate) fn task(word: Word, following: [&[u8]; 2], until_ns: Option<u64>) -> Option<Self> {
        let Word::Task { task, .. } = word else { return None };
        Some(match until_ns {
            None => Self::Task { task, body: body_of(Some(&word), following)? },
            Some(until_ns) => {
                let following = body_of(None, following)?;
                Self::Request { word: Box::new(word), following, until_ns }
            }
        })
    }

    /// A word and what follows it. `None`: there is no memory for it.
    pub(crate) fn with(word: &Word, following: [&[u8]; 2]) -> Option<Self> {
        body_of(Some(word), following).map(|body| saying(word, body))
    }

    /// The number of the task or request that it gives.
    pub(crate) fn gives(&self) -> Option<u64> {
        match self {
            Self::Task { task, .. } => Some(*task),
            Self::Request { word, .. } => match **word {
                Word::Task { task, .. } => Some(task),
                _ => None,
            },
            Self::Body(_) | Self::Answer { .. } | Self::Cancel { .. } => None,
        }
    }

    /// Of which task of the peer's it speaks.
    pub(crate) fn answers(&self) -> Option<u64> {
        match self {
            Self::Answer { task, .. } => Some(*task),
            Self::Body(_) | Self::Task { .. } | Self::Request { .. } | Self::Cancel { .. } => None,
        }
    }

    /// Whether it is no word that goes by the source of the small ones, if there is another.
    pub(crate) fn is_large(&self) -> bool {
        match self {
            Self::Task { task, .. } | Self::Cancel { task, .. } => is_of_large(*task),
            Self::Request { word, .. } => {
                matches!(**word, Word::Task { task, .. } if is_of_large(task))
            }
            Self::Answer { body, .. } => body.len() > WORK_QUICK_BYTES,
            // A name and some numbers.
            Self::Body(_) => false,
        }
    }

    /// What of it can be cut, behind what is made when it goes.
    pub(crate) fn rest(&self) -> Option<&Body> {
        match self {
            Self::Body(body) | Self::Answer { body, .. } | Self::Task { body, .. } => Some(body),
            Self::Request { following, .. } => Some(following),
            Self::Cancel { .. } => None,
        }
    }

    /// What goes before `rest`, made now.
    pub(crate) fn head(&self, now_ns: u64) -> Option<Body> {
        let Self::Request { word, until_ns, .. } = self else { return None };
        Some(small(&with_left(word, *until_ns, now_ns)))
    }

    /// Of a task or request that the peer may not have: its pull, and its number.
    pub(crate) fn denied_by(&self, permits: &Permits) -> Option<(u32, u64)> {
        let of_body;
        let (word, deed) = match self {
            Self::Task { body, .. } => {
                of_body = decode(body).ok()?.0;
                (&of_body, Deed::Pull)
            }
            Self::Request { word, .. } => (&**word, Deed::Answer),
            Self::Body(_) | Self::Answer { .. } | Self::Cancel { .. } => return None,
        };
        let Word::Task { pull, task, topic, .. } = word else { return None };
        (!permits.allow(deed, topic)).then_some((*pull, *task))
    }

    /// Bytes that it takes while it waits, or somewhat more.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Body(body) | Self::Answer { body, .. } | Self::Task { body, .. } => body.len(),
            Self::Request { following, .. } => following.len().saturating_add(WORD_BYTES),
            Self::Cancel { .. } => WORD_BYTES,
        }
    }

    /// What is said now.
    pub(crate) fn body(&self, now_ns: u64) -> Body {
        match self {
            Self::Body(body) | Self::Answer { body, .. } | Self::Task { body, .. } => body.clone(),
            Self::Request { word, following, until_ns } => {
                let word = with_left(word, *until_ns, now_ns);
                let Word::Task { pull, task, .. } = word else { return Body::default() };
                // Where there is no memory it is one that is over there, and has its deadline here.
                body_of(Some(&word), [following, &[]]).unwrap_or_else(|| small(&Word::Cancel { pull, task }))
            }
            Self::Cancel { pull, task } => small(&Word::Cancel { pull: *pull, task: *task }),
        }
    }
}

/// A request says for how long it is waited for. 0 would be a task.
fn with_left(word: &Word, until_ns: u64, now_ns: u64) -> Word {
    let mut word = word.clone();
    if let Word::Task { left_ns, .. } = &mut word {
        *left_ns = until_ns.saturating_sub(now_ns).max(1);
    }
    word
}

#[cfg(test)]
thread_local! {
    /// So often there is no memory.
    pub(crate) static SHORT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// A word, if there is one, and what follows: one copy. `None`: there is no memory for it.
fn body_of(word: Option<&Word>, following: [&[u8]; 2]) -> Option<Body> {
    #[cfg(test)]
    if SHORT.get() > 0 {
        SHORT.set(SHORT.get() - 1);
        return None;
    }
    let mut body = Vec::new();
    if let Some(word) = word {
        encode(word, &[], &mut body);
    }
    body.try_reserve_exact(following[0].len().checked_add(following[1].len())?).ok()?;
    following.iter().for_each(|part| body.extend_from_slice(part));
    Some(Arc::new(body))
}

fn small(word: &Word) -> Body {
    let mut body = Vec::new();
    encode(word, &[], &mut body);
    Arc::new(body)
}

/// What is to be said, in its order.
#[derive(Debug, Default)]
pub(crate) struct Says {
    all: Vec<Saying>,
    bytes: usize,
    /// Of these, those of large words.
    large_bytes: usize,
}

/// How a word is said.
fn saying(word: &Word, body: Body) -> Saying {
    match word {
        Word::Over { task, .. } | Word::Reply { task, .. } => Saying::Answer { task: *task, body },
        Word::Pull { .. }
        | Word::Unpull { .. }
        | Word::Grant { .. }
        | Word::Task { .. }
        | Word::Cancel { .. } => Saying::Body(body),
    }
}

impl Says {
    pub(crate) fn push(&mut self, saying: Saying) {
        let size = saying.size();
        self.bytes = self.bytes.saturating_add(size);
        if saying.is_large() {
            self.large_bytes = self.large_bytes.saturating_add(size);
        }
        self.all.push(saying);
    }

    /// A word without a payload.
    pub(crate) fn word(&mut self, word: &Word) {
        self.push(saying(word, small(word)));
    }

    /// A word and what follows it. `false`: there is no memory for it, and it is not said.
    #[must_use]
    pub(crate) fn with(&mut self, word: &Word, following: [&[u8]; 2]) -> bool {
        Saying::with(word, following).map(|saying| self.push(saying)).is_some()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn large_bytes(&self) -> usize {
        self.large_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn into_all(self) -> Vec<Saying> {
        self.all
    }
}
