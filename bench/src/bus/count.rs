//! A counting allocator: how often this thread, and this process, asked for memory.
//!
//! It is the allocator of `busway-bench` in every cell, so that the cell which counts measures the same
//! program as the others. It costs two additions an allocation, and an allocation is what must not happen.

use crate::stage::{Ordering, Word};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts, and lets the system allocate.
#[derive(Debug)]
pub struct Counting;

static PROCESS: Word = Word::new(0);

thread_local! {
    // Without a destructor and constant at start, so that counting itself never allocates.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// Allocations of the calling thread so far.
pub fn thread_allocations() -> u64 {
    THREAD.with(Cell::get)
}

/// Allocations of all threads of this process so far.
pub fn process_allocations() -> u64 {
    PROCESS.load(Ordering::Relaxed)
}

fn count() {
    PROCESS.fetch_add(1, Ordering::Relaxed);
    // A thread that is being taken down has no counter any more, and is not measured.
    let _ = THREAD.try_with(|counter| counter.set(counter.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: every call goes to the system's allocator with the arguments it came with; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from the system's allocator through `alloc` with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from the system's allocator through `alloc` with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
