//! Addresses for a mapping, kept free by a mapping of nothing until the real one takes its place.
//!
//! The kernel puts a mapping where there is room; one in which huge pages are to lie has to begin where one can. So a
//! range that is larger by one of them is taken first, and what is left over is given back. It maps no file.
//!
//! Invariant: what is given back are addresses that were reserved here and that no mapping has taken.

use core::ffi::c_void;
use core::ptr;

use rustix::mm::{MapFlags, ProtFlags};

use crate::layout::HUGE;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Place {
    reserved: *mut c_void,
    bytes: usize,
    /// Where the mapping is to begin; null where the kernel is to choose.
    start: *mut c_void,
}

impl Place {
    /// A place for `bytes` bytes. Of a large mapping it begins where huge pages can, if addresses are to be had.
    pub(super) fn find(bytes: usize) -> Self {
        let none = Self { reserved: ptr::null_mut(), bytes: 0, start: ptr::null_mut() };
        let huge = HUGE as usize;
        let Some(with_slack) = bytes.checked_add(huge).filter(|_| bytes >= huge) else { return none };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint and no MAP_FIXED: the kernel chooses a range that nobody uses.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), with_slack, ProtFlags::empty(), flags) };
        let Ok(reserved) = reserved else { return none };
        let start = reserved.map_addr(|address| address.next_multiple_of(huge));
        Self { reserved, bytes: with_slack, start }
    }

    pub(super) fn is_reserved(&self) -> bool {
        !self.start.is_null()
    }

    pub(super) fn start(&self) -> *mut c_void {
        self.start
    }

    /// `bytes` bytes from the start are mapped now and no longer ours: the rest is given back.
    pub(super) fn taken(mut self, bytes: usize) {
        if self.is_reserved() {
            let before = self.start.addr() - self.reserved.addr();
            let end = self.start.wrapping_byte_add(bytes.next_multiple_of(PAGE_BYTES));
            let behind = (self.reserved.addr() + self.bytes).saturating_sub(end.addr());
            give_back(self.reserved, before);
            give_back(end, behind);
            self.bytes = 0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        give_back(self.reserved, self.bytes);
    }
}

/// Gives addresses of a [`Place`] back in which nothing is mapped.
fn give_back(start: *mut c_void, bytes: usize) {
    if bytes > 0 {
        // SAFETY: a part of what `Place::find` has reserved that no mapping has taken, so nothing refers into it.
        let result = unsafe { rustix::mm::munmap(start, bytes) };
        debug_assert!(result.is_ok(), "munmap refused our own addresses: {result:?}");
    }
}

const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::Place;
    use crate::layout::HUGE;

    #[test]
    fn large_mappings_begin_where_huge_pages_can_and_small_ones_where_the_kernel_likes() {
        for bytes in [HUGE as usize, 3 * HUGE as usize + 4096] {
            let place = Place::find(bytes);
            assert!(place.is_reserved() && place.start().addr().is_multiple_of(HUGE as usize));
        }
        assert!(!Place::find(4096).is_reserved());
        assert!(!Place::find(usize::MAX).is_reserved(), "where there are no addresses the kernel decides");
    }
}
