//! The one door to atomics.
//!
//! Every atomic of the workspace is named here, so that a build with `--cfg loom` swaps them all
//! for loom's and a model explores the very code that ships. The door is made of type aliases and
//! not of re-exports: `clippy.toml` forbids the names of the standard library everywhere else.
//!
//! Does not wrap or weaken anything: outside loom these are the standard types.
//!
//! Invariant: no other file of the workspace names an atomic of `core` or `std`.

#[cfg(not(loom))]
use core::{hint, sync::atomic};
#[cfg(loom)]
use loom::{hint, sync::atomic};

/// The orderings of atomic accesses.
pub type Ordering = core::sync::atomic::Ordering;

/// A 64-bit atomic.
#[cfg_attr(not(loom), expect(clippy::disallowed_types, reason = "this is the one door to atomics"))]
pub type AtomicU64 = atomic::AtomicU64;

/// A 32-bit atomic: the width of a futex.
#[cfg_attr(not(loom), expect(clippy::disallowed_types, reason = "this is the one door to atomics"))]
pub type AtomicU32 = atomic::AtomicU32;

/// A pointer-wide atomic.
#[cfg_attr(not(loom), expect(clippy::disallowed_types, reason = "this is the one door to atomics"))]
pub type AtomicUsize = atomic::AtomicUsize;

/// An atomic flag.
#[cfg_attr(not(loom), expect(clippy::disallowed_types, reason = "this is the one door to atomics"))]
pub type AtomicBool = atomic::AtomicBool;

/// A fence between threads, and between processes that share memory.
#[inline]
pub fn fence(ordering: Ordering) {
    atomic::fence(ordering);
}

/// Keeps the compiler, but not the processor, from moving accesses across this point.
///
/// It is the light half of an asymmetric fence whose heavy half is
/// [`heavy`](crate::sys::barrier::heavy). A model has no such halves: under loom it is a full fence.
#[inline]
pub fn light_fence() {
    #[cfg(not(loom))]
    atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    atomic::fence(Ordering::SeqCst);
}

/// Says to the processor that this thread spins.
#[inline]
pub fn spin_hint() {
    hint::spin_loop();
}
