//! Whether to look again and again before sleeping, by whether that was worth it of late.
//!
//! Who sleeps has to be woken, which costs who wakes it more than the message; who looks takes the processor from others.
//! So a spin is made as long as what it waits for comes in time, and left out more and more often where it does not.
//!
//! Invariant: where nothing comes in time, one look in [`SKIPS_MAX`] and one spins.

use busway_shm::sync::{AtomicU32, Ordering};

/// After a spin in vain the next time goes without, then three, at most so many.
const SKIPS_MAX: u32 = 63;

/// See the head of this file. One thread at a time asks it.
#[derive(Debug)]
pub(super) struct Spin {
    /// Times without since the last spin, and how many there are to be.
    without: AtomicU32,
    skips: AtomicU32,
}

impl Spin {
    pub(super) fn new() -> Self {
        Self { without: AtomicU32::new(0), skips: AtomicU32::new(0) }
    }

    /// Whether to spin this time.
    pub(super) fn begins(&self) -> bool {
        // Relaxed, here and below: they order nothing.
        let without = self.without.load(Ordering::Relaxed);
        let spins = without >= self.skips.load(Ordering::Relaxed);
        self.without.store(if spins { 0 } else { without + 1 }, Ordering::Relaxed);
        spins
    }

    /// A spin has ended: something came in time, or nothing did.
    pub(super) fn ended(&self, in_time: bool) {
        let skips = self.skips.load(Ordering::Relaxed);
        self.skips.store(if in_time { 0 } else { (2 * skips + 1).min(SKIPS_MAX) }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{SKIPS_MAX, Spin};

    #[test]
    fn a_spin_is_left_out_more_and_more_often_until_one_is_worth_it() {
        let spin = Spin::new();
        let mut last = 0;
        for _ in 0..10 {
            assert!(spin.begins());
            spin.ended(false);
            let mut left_out = 0;
            while !spin.begins() {
                left_out += 1;
            }
            assert!(left_out == (2 * last + 1).min(SKIPS_MAX), "{left_out} after {last}");
            last = left_out;
            spin.without.store(u32::MAX, super::Ordering::Relaxed);
        }
        assert_eq!(last, SKIPS_MAX);
        spin.ended(true);
        assert!(spin.begins() && spin.begins());
    }
}
