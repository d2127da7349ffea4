//! Numbers that many threads count in: the one door to atomics of this crate.
//!
//! Each is read by itself and orders nothing, so there is no protocol in them that a model would have to try.
//!
//! Invariant: what is taken within a limit never passes it.

#![expect(
    clippy::disallowed_types,
    reason = "counts alone, which order nothing; this crate knows no memory that is shared"
)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A number.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds, and says what it was before.
    pub(crate) fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed)
    }

    pub(crate) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds where it stays within the limit; false: it has not.
    pub(crate) fn add_within(&self, more: u64, limit: u64) -> bool {
        let fits = |now: u64| now.checked_add(more).filter(|sum| *sum <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}
