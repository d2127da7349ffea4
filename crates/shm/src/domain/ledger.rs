//! The ledger: how many bytes the members of a domain have reserved, in one shared word.
//!
//! A member reserves before it asks the kernel for memory, because a memfd is refused late or not at
//! all: a cgroup kills rather than refuses. The word is one counter that every member adds to.
//!
//! It heals. A member that is killed between reserving and committing, or without releasing, leaves
//! the counter too high; a hostile member can write anything. The holder of the rendezvous sums up
//! what the arenas that it can see really use, and takes off by how much the counter is too high, if it
//! was so for longer than a commit takes: the domain need not come to rest for that. So a wrong ledger costs a refusal, or a refusal that comes late, for one round;
//! it never costs a message, because nothing that is sent depends on it.
//!
//! Does not commit memory, and does not know whose bytes they are.
//!
//! Invariant: both calls are one atomic addition (and its undoing): no member can make another spin.

use crate::error::ShmError;
use crate::sync::{AtomicU64, Ordering};

/// A view of the domain's ledger.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    word: &'a AtomicU64,
    budget: u64,
}

impl<'a> Ledger<'a> {
    /// A ledger over `word`. The budget is at most [`BUDGET_MAX`](super::BUDGET_MAX).
    #[must_use]
    pub fn new(word: &'a AtomicU64, budget: u64) -> Self {
        Self { word, budget: budget.min(super::BUDGET_MAX) }
    }

    /// Reserves `bytes`, or says who must act.
    ///
    /// # Errors
    /// [`ShmError::Budget`]; nothing is then reserved.
    pub fn reserve(&self, bytes: u64) -> Result<(), ShmError> {
        let refusal = |reserved| ShmError::Budget { wanted: bytes, reserved, budget: self.budget };
        // Never added: a number that large would carry the counter around.
        if bytes > self.budget {
            return Err(refusal(self.reserved()));
        }
        // Relaxed: the counter orders nothing but itself.
        let before = used(self.word.fetch_add(bytes, Ordering::Relaxed));
        if bytes <= self.budget.saturating_sub(before) {
            return Ok(());
        }
        self.word.fetch_sub(bytes, Ordering::Relaxed);
        Err(refusal(before))
    }

    /// Gives `bytes` back that were reserved.
    pub fn release(&self, bytes: u64) {
        self.word.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes reserved now.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        used(self.raw())
    }

    /// The word as it is, for [`Ledger::correct`].
    #[must_use]
    pub fn raw(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    /// The domain's byte budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Takes `excess` off the counter, or adds to it where `excess` is below zero. Others go on meanwhile.
    pub fn correct(&self, excess: i64) {
        self.word.fetch_sub(excess.cast_unsigned(), Ordering::Relaxed);
    }
}

/// More released than reserved, which a correction that raced can cause, is a counter below zero. It reads
/// as zero: refusals then come late rather than for ever.
const fn used(raw: u64) -> u64 {
    if raw.cast_signed() < 0 { 0 } else { raw }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<(), ShmError>) -> u64 {
        match result {
            Err(ShmError::Budget { reserved, .. }) => reserved,
            other => panic!("a refusal was expected, not {other:?}"),
        }
    }

    #[test]
    fn reservation_past_the_budget_is_refused_and_takes_nothing() {
        let word = AtomicU64::new(0);
        let ledger = Ledger::new(&word, 100);
        ledger.reserve(60).unwrap();
        assert_eq!(refused(ledger.reserve(41)), 60, "the error says what is reserved");
        ledger.reserve(40).unwrap();
        assert_eq!(ledger.reserved(), 100, "the refused 41 bytes must not have stayed");
        ledger.release(100);
        assert_eq!(ledger.reserved(), 0);
        refused(ledger.reserve(u64::MAX));
        assert_eq!(ledger.raw(), 0, "an absurd wish must not carry the counter around");
    }

    #[test]
    fn more_released_than_reserved_does_not_refuse_for_ever() {
        let word = AtomicU64::new(0);
        let ledger = Ledger::new(&word, 100);
        ledger.release(5);
        assert_eq!(ledger.reserved(), 0, "below zero reads as zero");
        ledger.reserve(100).expect("nothing is reserved, so the whole budget is free");
    }

    #[test]
    fn any_value_of_the_word_is_survived_and_repaired() {
        let mut random = fastrand::Rng::with_seed(2);
        let values = [0, 1, 99, 100, 101, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX - 50, u64::MAX];
        for value in values.into_iter().chain((0..1000).map(|_| random.u64(..))) {
            let word = AtomicU64::new(value);
            let ledger = Ledger::new(&word, 100);
            if ledger.reserve(10).is_ok() {
                ledger.release(10);
            }
            ledger.release(1);
            ledger.correct(ledger.raw().wrapping_sub(5).cast_signed());
            assert_eq!(ledger.reserved(), 5);
            ledger.reserve(95).expect("a repaired ledger refuses nothing that fits");
            refused(ledger.reserve(1));
        }
    }

    #[test]
    fn members_that_reserve_at_once_never_have_more_than_the_budget() {
        let word = AtomicU64::new(0);
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (word, held) = (&word, &held);
                scope.spawn(move || {
                    let ledger = Ledger::new(word, 1000);
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..20_000 {
                        let bytes = random.u64(1..500);
                        if ledger.reserve(bytes).is_ok() {
                            let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                            assert!(now <= 1000, "{now} bytes are held of a budget of 1000");
                            held.fetch_sub(bytes, Ordering::SeqCst);
                            ledger.release(bytes);
                        }
                    }
                });
            }
        });
        assert_eq!(word.load(Ordering::SeqCst), 0, "all was released");
    }
}
