//! What may wait for the peers of this host, all together: the more links there are, the less for each.
//!
//! A link knows only its own queue; a thousand of them, each within its bound, would be a gigabyte. It counts links, and knows
//! nothing else of them.
//!
//! Invariant: a link that is gone is not counted.

use std::sync::Arc;

use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{LINK_QUEUE_BYTES_ALL, LINK_QUEUE_BYTES_MAX, LINK_QUEUE_BYTES_MIN};

/// How many links there are.
#[derive(Debug, Default)]
pub(crate) struct Backlogs(AtomicU64);

/// The part of one link, which is counted for as long as this is there.
#[derive(Debug)]
pub(crate) struct Backlog(Arc<Backlogs>);

impl Backlog {
    pub(crate) fn new(all: &Arc<Backlogs>) -> Self {
        // Relaxed, here and below: it orders nothing, and who reads it a moment late reads it again soon.
        all.0.fetch_add(1, Ordering::Relaxed);
        Self(all.clone())
    }

    /// How many bytes may wait for this link now.
    pub(crate) fn bytes(&self) -> u64 {
        let count = self.0.0.load(Ordering::Relaxed).max(1);
        (LINK_QUEUE_BYTES_ALL / count).clamp(LINK_QUEUE_BYTES_MIN, LINK_QUEUE_BYTES_MAX)
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Backlog, Backlogs, LINK_QUEUE_BYTES_ALL, LINK_QUEUE_BYTES_MAX, LINK_QUEUE_BYTES_MIN};

    #[test]
    fn links_share_what_may_wait_for_all_of_them_and_each_has_some() {
        let all = Arc::new(Backlogs::default());
        let few: Vec<Backlog> = (0..64).map(|_| Backlog::new(&all)).collect();
        assert_eq!(few[0].bytes(), LINK_QUEUE_BYTES_MAX, "so many do not notice each other");
        let many: Vec<Backlog> = (0..936).map(|_| Backlog::new(&all)).collect();
        let sum = |backlogs: &[Backlog]| backlogs.iter().map(Backlog::bytes).sum::<u64>();
        assert!(sum(&few) + sum(&many) <= LINK_QUEUE_BYTES_ALL);
        let crowd: Vec<Backlog> = (0..9_000).map(|_| Backlog::new(&all)).collect();
        assert_eq!(crowd[0].bytes(), LINK_QUEUE_BYTES_MIN);
        drop((many, crowd));
        assert_eq!(few[0].bytes(), LINK_QUEUE_BYTES_MAX, "who is gone needs nothing");
    }
}
