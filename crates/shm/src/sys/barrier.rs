//! The asymmetric fence: free for who publishes, some microseconds for who goes to sleep.
//!
//! Two sides that each store and then load (Dekker) need a full fence on both sides. With
//! `membarrier(GLOBAL_EXPEDITED)` the side that sleeps pays for both: the kernel interrupts every
//! processor that runs a thread of a *registered* process and has it pass a full fence.
//!
//! Does not know who must fence: [`bell`](crate::bell) decides, per domain.
//!
//! Invariant: a process that is not registered passes a full fence itself, on both sides.

use crate::sync::{Ordering, fence};

#[cfg(not(loom))]
mod registration {
    use rustix::thread::{MembarrierCommand, membarrier};

    use crate::sync::{AtomicBool, Ordering};

    static REGISTERED: AtomicBool = AtomicBool::new(false);

    /// Registers this process; says whether the kernel has the call.
    ///
    /// To be called whenever a bell is joined: the kernel forgets a registration at `exec`, a second
    /// one costs a system call, and the first of a process with threads some milliseconds.
    pub fn register() -> bool {
        let registered = !cfg!(miri)
            && !crate::sys::fallbacks_forced()
            && membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
        REGISTERED.store(registered, Ordering::Relaxed);
        registered
    }

    /// Whether this process is registered: its light fences are then made full by [`heavy`](super::heavy).
    #[inline]
    #[must_use]
    pub fn registered() -> bool {
        REGISTERED.load(Ordering::Relaxed)
    }

    pub(super) fn interrupt_all() {
        // Cannot fail once the registration has succeeded: the kernel refuses only commands that it
        // does not know, and it learned both at the same time (Linux 4.16).
        let result = membarrier(MembarrierCommand::GlobalExpedited);
        debug_assert!(result.is_ok(), "membarrier refused what it accepted at registration: {result:?}");
    }
}

#[cfg(not(loom))]
pub use registration::{register, registered};

/// A model has no registered processes.
#[cfg(loom)]
pub fn register() -> bool {
    false
}

/// A model has no registered processes.
#[cfg(loom)]
#[must_use]
pub fn registered() -> bool {
    false
}

/// The heavy half: a full fence here, and in every running thread of every registered process.
pub fn heavy() {
    // Pairs with `light_fence` in registered processes and with `fence(SeqCst)` in the others.
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    if registered() {
        registration::interrupt_all();
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registration_is_remembered_and_the_heavy_fence_returns() {
        let first = register();
        assert_eq!(registered(), first, "registered() must say what register() said");
        assert_eq!(register(), first, "a second registration changes nothing");
        heavy();
    }
}
