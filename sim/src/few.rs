//! A set of few: what happened in one step, who has something to read.
//!
//! Such sets hold one or two most of the time and are filled and emptied at every message. A tree would take memory
//! and give it back each time; this keeps what it has. It is not for sets of thousands.
//!
//! Invariant: its elements rise, and each is there once.

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Few<T> {
    all: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few { all: Vec::new() }
    }
}

impl<T: Ord + Copy> Few<T> {
    /// Puts it in; false if it was there.
    pub(crate) fn insert(&mut self, one: T) -> bool {
        let place = self.all.binary_search(&one);
        if let Err(place) = place {
            self.all.insert(place, one);
        }
        place.is_err()
    }

    /// Takes it out, if it was there.
    pub(crate) fn remove(&mut self, one: T) {
        if let Ok(place) = self.all.binary_search(&one) {
            self.all.remove(place);
        }
    }

    /// The least.
    pub(crate) fn first(&self) -> Option<T> {
        self.all.first().copied()
    }

    /// Takes out the least.
    pub(crate) fn pop_first(&mut self) -> Option<T> {
        (!self.all.is_empty()).then(|| self.all.remove(0))
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes all out; what is put in meanwhile stays.
    pub(crate) fn take(&mut self) -> Few<T> {
        std::mem::take(self)
    }

    /// Gives back what was taken, to be used again.
    pub(crate) fn give_back(&mut self, mut taken: Few<T>) {
        if self.all.is_empty() {
            taken.all.clear();
            *self = taken;
        }
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        self.all.iter().copied()
    }
}
