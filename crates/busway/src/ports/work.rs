//! Whether there is work for a puller that waits for no thread.
//!
//! Who looked in vain leaves a number for all that there was, and when it looks again whatever comes. Whoever is woken by a bell compares.
//!
//! It takes nothing.
//!
//! Invariant: what comes after a puller has read the number changes it, whoever comes or goes meanwhile.

use std::sync::Arc;

use busway_shm::row::RowShared;
use busway_shm::sync::Ordering;

use super::Subscription;

impl Subscription {
    /// A number that changes when there is more work for a puller: with each message, and with each that was given back. What each row has is
    /// mixed before it is summed: a message of one must not make up for another row that goes, with which its one message goes.
    pub(crate) fn work(&self) -> u64 {
        let of = |row: Arc<RowShared>| {
            let (run, _) = row.place_in_group()?;
            let returned = run.head().returned.load(Ordering::Acquire); // pairs with Release in `group::Task`
            let count = row.head().wrapping_add(returned.rotate_left(32));
            Some(mixed(row.key().word() ^ mixed(count)))
        };
        self.rows().into_iter().filter_map(of).fold(0, u64::wrapping_add)
    }

    /// A puller found nothing among this [`Subscription::work`], and looks again at this time whatever comes.
    pub(crate) fn found_nothing(&self, work: u64, due_ns: Option<u64>) {
        self.seen.store(work, Ordering::Relaxed);
        self.look_by(due_ns);
    }

    /// A puller looks again at this time whatever comes.
    pub(crate) fn look_by(&self, due_ns: Option<u64>) {
        self.due_ns.store(due_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When its puller looks again whatever comes, if it said so.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        Some(self.due_ns.load(Ordering::Relaxed)).filter(|due_ns| *due_ns < u64::MAX)
    }
}

/// A number whose bits depend on all bits of another, and that no other has: the end of `SplitMix64` (Steele, Lea, Flood 2014).
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
