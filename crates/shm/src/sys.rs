//! The system calls of the memory plane: segments, futexes, barriers, events.
//!
//! One place for them, so that what the kernel may answer is handled once. Where a newer kernel has
//! a better call, the fallback for Linux 5.10 stands beside it, and [`force_fallbacks`] makes the
//! tests take it on any kernel.
//!
//! Does not decide anything: who waits, how long and for whom is known to the callers.
//!
//! Invariant: in this crate only `clock`, `life`, `fork` and `domain::budget` ask the kernel past here.

pub mod barrier;
#[cfg(not(loom))]
pub mod credentials;
#[cfg(not(loom))]
pub mod event;
#[cfg(not(loom))]
pub mod futex;
#[cfg(not(loom))]
pub mod identity;
#[cfg(not(loom))]
#[cfg_attr(miri, path = "sys/heap.rs")]
#[expect(unsafe_code, reason = "mmap, and references into what it returned")]
pub mod memfd;

#[cfg(not(any(loom, miri)))]
#[expect(unsafe_code, reason = "reserves addresses, and gives back what is left over")]
pub(crate) mod place;

#[cfg(not(loom))]
mod fallbacks {
    use crate::sync::{AtomicBool, Ordering};

    static FORCED: AtomicBool = AtomicBool::new(false);

    /// From now on this process behaves as on Linux 5.10 without `futex_waitv` and `membarrier`.
    ///
    /// It is for tests: it cannot be taken back, and must be called before the first use of a call
    /// that has a fallback.
    pub fn force_fallbacks() {
        FORCED.store(true, Ordering::Relaxed);
    }

    /// Whether [`force_fallbacks`] has been called.
    #[must_use]
    pub fn fallbacks_forced() -> bool {
        FORCED.load(Ordering::Relaxed)
    }
}

#[cfg(not(loom))]
pub use fallbacks::{fallbacks_forced, force_fallbacks};
