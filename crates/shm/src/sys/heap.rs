//! Segments on the heap: what `memfd` is under Miri, which knows neither memory files nor mappings of them.
//!
//! A segment is an allocation, and a mapping of it is a share in it, so that Miri sees every access through every
//! mapping. Its descriptor is a file that holds the segment's number. Seals, sizes and budgets are not tried here.
//!
//! Does not exist outside Miri.
//!
//! Invariant: the memory of a segment lives as long as one of its mappings.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, Weak};

use crate::error::ShmError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// As in `memfd`.
///
/// # Safety
/// As in `memfd`.
pub unsafe trait Shared: Sized {}

// SAFETY: an atomic integer: any bits are a value, and there is nothing else in it.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer: any bits are a value, and there is nothing else in it.
unsafe impl Shared for AtomicU64 {}

/// As in `memfd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealKind {
    /// As in `memfd`.
    Arena,
    /// As in `memfd`.
    Bulk,
    /// As in `memfd`.
    Shared,
}

#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an allocation that no thread owns; what is reached through it are atomics, or bytes whose user argues for them.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `map` with this layout, and the last share in it is gone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);
static SEGMENTS: Mutex<BTreeMap<u64, Weak<Memory>>> = Mutex::new(BTreeMap::new());

/// As in `memfd`.
///
/// # Errors
/// As in `memfd`.
pub fn create_arena(name: &str, size: u64) -> Result<OwnedFd, ShmError> {
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("{name}-{}-{number}", std::process::id()));
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(true).truncate(true).open(&path).expect("a folder to write in");
    for (at, word) in [(0, number), (8, size)] {
        file.write_all_at(&word.to_le_bytes(), at).expect("room for a word");
    }
    std::fs::remove_file(path).expect("it was made just now");
    Ok(file.into())
}

/// The number and the size that stand in a descriptor's file.
fn words(fd: impl AsFd) -> (u64, u64) {
    let file = File::from(fd.as_fd().try_clone_to_owned().expect("descriptors are left"));
    let words = [0, 8].map(|at| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).expect("written when it was made");
        u64::from_le_bytes(word)
    });
    (words[0], words[1])
}

/// Does nothing.
///
/// # Errors
/// None.
pub fn seal(_: impl AsFd, _: SealKind) -> Result<(), ShmError> {
    Ok(())
}

/// The size of the segment.
///
/// # Errors
/// None.
pub fn check_seals(fd: impl AsFd, _: SealKind) -> Result<u64, ShmError> {
    Ok(words(fd).1)
}

/// The size of the segment.
///
/// # Errors
/// None.
pub fn size(fd: impl AsFd) -> Result<u64, ShmError> {
    Ok(words(fd).1)
}

/// The size of the segment: an allocation has its memory.
///
/// # Errors
/// None.
pub fn committed(fd: impl AsFd) -> Result<u64, ShmError> {
    Ok(words(fd).1)
}

/// Does nothing: an allocation has its memory.
///
/// # Errors
/// None.
pub fn commit(_: impl AsFd, _: u64, _: u64) -> Result<(), ShmError> {
    Ok(())
}

/// Does nothing.
///
/// # Errors
/// None.
pub fn punch(_: impl AsFd, _: u64, _: u64) -> Result<(), ShmError> {
    Ok(())
}

/// A copy of `len` bytes at `offset`. No segment belongs to another user, so nobody asks for one.
///
/// # Errors
/// [`ShmError::OutOfBounds`], always.
pub fn read(fd: impl AsFd, offset: u64, len: u64) -> Result<Box<[u8]>, ShmError> {
    Err(ShmError::OutOfBounds { offset, len, size: size(fd)? })
}

/// A second descriptor.
///
/// # Errors
/// As in `memfd`.
pub fn reopen_read_only(fd: impl AsFd) -> Result<OwnedFd, ShmError> {
    crate::sys::identity::duplicate(fd)
}

/// A share in a segment.
#[derive(Debug)]
pub struct Mapping {
    memory: Arc<Memory>,
    len: usize,
}

impl Mapping {
    /// As in `memfd`.
    ///
    /// # Errors
    /// None.
    pub fn map_rw(fd: impl AsFd, len: u64) -> Result<Self, ShmError> {
        let (number, size) = words(fd);
        let mut segments = SEGMENTS.lock().expect("nobody panics with it");
        if let Some(memory) = segments.get(&number).and_then(Weak::upgrade) {
            return Ok(Self { memory, len: len as usize });
        }
        let layout = Layout::from_size_align(size as usize, 4096).expect("a size that was asked for");
        // SAFETY: no segment is empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for a test");
        let memory = Arc::new(Memory { start, layout });
        segments.insert(number, Arc::downgrade(&memory));
        Ok(Self { memory, len: len as usize })
    }

    /// As in `memfd`, but that writing is possible.
    ///
    /// # Errors
    /// None.
    pub fn map_ro(fd: impl AsFd, len: u64) -> Result<Self, ShmError> {
        Self::map_rw(fd, len)
    }

    /// A share of another length.
    ///
    /// # Errors
    /// As in `memfd`.
    pub fn again(&self, len: u64) -> Result<Self, ShmError> {
        let inside = usize::try_from(len).ok().filter(|len| *len <= self.memory.layout.size());
        let len = inside.ok_or(ShmError::AddressSpace { bytes: len })?;
        Ok(Self { memory: self.memory.clone(), len })
    }

    /// Does nothing: pages are the kernel's.
    pub(crate) fn gather(&self, _: u64, _: u64) {}

    /// Never: Miri does not fork.
    #[must_use]
    pub fn forked(&self) -> bool {
        false
    }

    /// Where the segment begins.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.start.as_ptr()
    }

    /// Its bytes.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// As in `memfd`.
    ///
    /// # Errors
    /// As in `memfd`.
    pub fn slice<T: Shared>(&self, offset: u64, count: usize) -> Result<&[T], ShmError> {
        let bytes = (count * size_of::<T>()) as u64;
        let outside = ShmError::OutOfBounds { offset, len: bytes, size: self.len as u64 };
        if offset.checked_add(bytes).is_none_or(|end| end > self.len as u64) {
            return Err(outside);
        }
        // SAFETY: `offset` is inside, checked above.
        let first = unsafe { self.as_ptr().add(offset as usize) }.cast::<T>();
        // SAFETY: inside, and `T: Shared` promises that any bytes are values of it; Miri looks at the alignment.
        Ok(unsafe { core::slice::from_raw_parts(first, count) })
    }

    /// As in `memfd`.
    ///
    /// # Errors
    /// As in `memfd`.
    pub fn get<T: Shared>(&self, offset: u64) -> Result<&T, ShmError> {
        self.slice(offset, 1).map(|all| &all[0])
    }

    /// As in `memfd`.
    ///
    /// # Errors
    /// As in `memfd`.
    pub fn word_u32(&self, offset: u64) -> Result<&AtomicU32, ShmError> {
        self.get(offset)
    }

    /// As in `memfd`.
    ///
    /// # Errors
    /// As in `memfd`.
    pub fn word_u64(&self, offset: u64) -> Result<&AtomicU64, ShmError> {
        self.get(offset)
    }
}
