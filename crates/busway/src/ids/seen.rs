//! Which messages a reader has had: their topics and ids, as many as it was told to remember.
//!
//! A message that is sent again, by the same program or by one that took its place, has the same id and another sequence, so that only the
//! id tells. On another topic it is another message. The oldest is forgotten when there is no place for another. Messages without an id are not looked at.
//!
//! It does not know messages, and counts nothing.
//!
//! Invariant: `order` and `known` have the same ids, each once, and no more than `most`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use busway_shm::arena::OwnArena;
use busway_shm::row::Sieve;
use busway_wire::limits::{ID_SEEN_BYTES, IDS_SEEN_BYTES_MAX, IDS_SEEN_MAX};
use busway_wire::{Context, Extensions, MessageId};

use crate::ports::lock;
use crate::puller::topic_number;

const _: () = assert!(IDS_SEEN_MAX as usize * ID_SEEN_BYTES <= IDS_SEEN_BYTES_MAX);

/// The number of a topic, and an id there.
type Had = (u64, MessageId);

/// The ids that one subscriber or puller has had; its clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ids: Mutex<Ids>,
    own: Arc<OwnArena>,
}

#[derive(Debug)]
struct Ids {
    order: VecDeque<Had>,
    known: BTreeSet<Had>,
    most: usize,
}

impl Seen {
    /// Remembers so many, at least one, at most [`IDS_SEEN_MAX`].
    pub(crate) fn new(most: u32, own: &Arc<OwnArena>) -> Seen {
        let ids = Mutex::new(Ids::new(most));
        Seen { shared: Arc::new(Shared { ids, own: own.clone() }) }
    }

    /// `None` in a child made by `fork`, where a lock of the parent's may be taken for ever.
    fn with<T>(&self, look: impl FnOnce(&mut Ids) -> T) -> Option<T> {
        (!self.shared.own.forked()).then(|| look(&mut lock(&self.shared.ids)))
    }

    /// Whether a message of this id has come on the topic of this number.
    pub(crate) fn has(&self, topic: u64, id: MessageId) -> bool {
        self.with(|ids| ids.known.contains(&(topic, id))).unwrap_or(false)
    }

    /// A message of this id has come. Whether it is the first.
    pub(crate) fn add(&self, topic: u64, id: MessageId) -> bool {
        self.with(|ids| ids.add((topic, id))).unwrap_or(true)
    }

    /// Adds what comes on a topic, and keeps back what had come. What has no id passes.
    pub(crate) fn sieve(&self, topic: &str) -> Sieve {
        let (seen, topic) = (self.clone(), topic_number(topic));
        Sieve::new(move |extensions| {
            Context::read(Extensions::new(extensions)).id().is_none_or(|id| seen.add(topic, id))
        })
    }
}

impl Ids {
    fn new(most: u32) -> Ids {
        let most = most.clamp(1, IDS_SEEN_MAX) as usize;
        Ids { order: VecDeque::new(), known: BTreeSet::new(), most }
    }

    fn add(&mut self, id: Had) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;
    use busway_wire::MessageId;
    use std::collections::VecDeque;

    #[test]
    fn as_many_ids_are_remembered_as_were_asked_for_the_oldest_is_forgotten_first() {
        let mut rng = fastrand::Rng::with_seed(17);
        for most in [1_u32, 2, 7, 100] {
            let mut ids = Ids::new(most);
            let mut model: VecDeque<u128> = VecDeque::new();
            for _ in 0..20_000 {
                let id = rng.u128(0..u128::from(most) * 2);
                let first = !model.contains(&id);
                assert_eq!(ids.add((3, MessageId(id))), first);
                if first {
                    if model.len() == most as usize {
                        model.pop_front();
                    }
                    model.push_back(id);
                }
                assert_eq!((ids.order.len(), ids.known.len()), (model.len(), model.len()));
            }
        }
    }
}
