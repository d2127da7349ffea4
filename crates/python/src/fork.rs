//! What a child made by `fork` finds where its parent's messages are shown: pages of zeroes.
//!
//! The memory of messages does not come along to a child. A memoryview or an array that was made before may be read there
//! all the same, by a destructor or by chance, and must not end the process. New views are refused (`sample`, `loan`).
//!
//! Invariant: the register is only touched with the interpreter held, as is `fork` in Python; so the child finds it whole.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Addresses that are shown: how long, and by how many buffers.
static SHOWN: Mutex<BTreeMap<usize, (usize, usize)>> = Mutex::new(BTreeMap::new());

/// Remembers that these bytes are shown by one more buffer.
pub(crate) fn show(bytes: &[u8]) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.entry(bytes.as_ptr().addr()).or_insert((bytes.len(), 0)).1 += 1;
}

/// In which process something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth(u32);

impl Birth {
    pub(crate) fn now() -> Self {
        Self(std::process::id())
    }

    /// Whether that was a parent of this process.
    pub(crate) fn is_inherited(self) -> bool {
        self.0 != std::process::id()
    }
}

/// A buffer at this address is gone.
pub(crate) fn hide(start: usize) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, count)) = shown.get_mut(&start) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            shown.remove(&start);
        }
    }
}

/// Puts pages of zeroes where nothing is now. Python calls it in each child, before anything else runs there.
#[pyfunction]
pub(crate) fn _after_fork() {
    let page = rustix::param::page_size();
    let shown = std::mem::take(&mut *SHOWN.lock().unwrap_or_else(PoisonError::into_inner));
    for (start, (len, _)) in shown {
        let from = start / page * page;
        let bytes = start.saturating_add(len).next_multiple_of(page).saturating_sub(from);
        if !put_zeroes(from, bytes) {
            // Small chunks share pages: the first may be there for the view before.
            for at in (from..from.saturating_add(bytes)).step_by(page) {
                put_zeroes(at, page);
            }
        }
    }
}

/// Maps zeroes where nothing is; `false` where anything is in these bytes, all of which stay as they are.
fn put_zeroes(from: usize, bytes: usize) -> bool {
    let (pages, access) = (from as *mut std::ffi::c_void, ProtFlags::READ | ProtFlags::WRITE);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: `FIXED_NOREPLACE`: where something is, as for a small message on the heap, nothing is done.
    #[expect(unsafe_code, reason = "no safe function maps at an address")]
    let mapped = unsafe { mmap_anonymous(pages, bytes, access, flags) };
    mapped.is_ok()
}
