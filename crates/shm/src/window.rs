//! A file of a peer, mapped as far as something in it has been named.
//!
//! A process has 128 TiB of addresses, and a sparse file may have a large part of them: whoever mapped a thousand peers
//! whole would have none left, and 64 hostile ones would do. So a peer's file is mapped in windows. All begin where the
//! file begins; each is four times as large as the one before, and is made when a byte that only it has is first named.
//! All stay for as long as the file is known, so that nothing moves under a reader; together they take at most a third
//! more than the largest. A window is made out of the first pages, by the kernel's own duplicate of a shared mapping: no
//! descriptor is kept for a peer.
//!
//! It does not know what lies in the file. Our own files are mapped whole: only we can make one that is too large for us.
//!
//! Invariant: what is handed out lies inside the file, and so inside a window that covers it; the file is sealed against
//! shrinking. First windows are always to be had, since the number of peers is bounded; the larger ones of other users'
//! files take at most [`FOREIGN_BYTES_MAX`] together, those of our user's at most [`BYTES_MAX`].

use std::sync::OnceLock;

use crate::error::ShmError;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memfd::{Mapping, Shared};
use crate::view::{Mapped, Payload, Region};

/// Windows of a file: the last is as large as the largest file where the first is 256 MiB.
const WINDOWS: usize = 7;
/// Each window is so many powers of two larger than the one before: few mappings, of which a process may have 65 530.
const GROWTH_LOG2: usize = 2;
/// Addresses that the larger windows of our user's files may take: half of those that there are.
pub const BYTES_MAX: u64 = 1 << 46;
/// Addresses that the larger windows of all other users' files may take: they cannot use up what our user's need.
pub const FOREIGN_BYTES_MAX: u64 = 1 << 44;

/// Addresses that larger windows take now: of our user's files, of those of others.
static TAKEN: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Whose a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Of a process of our user, or our own.
    OurUsers,
    /// Of a process of another user.
    Foreign,
}

impl Whose {
    fn taken(self) -> (&'static AtomicU64, u64) {
        match self {
            Self::OurUsers => (&TAKEN[0], BYTES_MAX),
            Self::Foreign => (&TAKEN[1], FOREIGN_BYTES_MAX),
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Windows {
    /// What the others are made of; it is no window itself.
    seed: Region,
    file_bytes: u64,
    first_bytes: u64,
    whose: Whose,
    windows: [OnceLock<Window>; WINDOWS],
}

#[derive(Debug)]
struct Window {
    region: Region,
    /// What it takes of the account: a first window takes nothing.
    _charge: Charge,
}

/// A share of the account, given back when dropped.
#[derive(Debug)]
struct Charge {
    whose: Whose,
    bytes: u64,
}

impl Charge {
    fn take(whose: Whose, bytes: u64) -> Result<Self, ShmError> {
        let (taken, most) = whose.taken();
        // Relaxed: the account orders nothing.
        let before = taken.fetch_add(bytes, Ordering::Relaxed);
        let charge = Self { whose, bytes };
        if before.saturating_add(bytes) > most { Err(ShmError::AddressSpace { bytes }) } else { Ok(charge) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.whose.taken().0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Windows {
    /// A file that is mapped whole.
    pub fn whole(mapping: Mapping) -> Self {
        let seed = Region::new(mapping);
        let bytes = seed.len();
        let charge = Charge { whose: Whose::OurUsers, bytes: 0 };
        let windows = [const { OnceLock::new() }; WINDOWS];
        // The only one, and it has just been made: it cannot be taken.
        let _ = windows[0].set(Window { region: seed.clone(), _charge: charge });
        Self { seed, file_bytes: bytes, first_bytes: bytes, whose: Whose::OurUsers, windows }
    }

    /// A file of `file_bytes` bytes of which `seed` are the first pages. The first window will have `first_bytes` bytes.
    pub fn new(seed: Mapping, file_bytes: u64, first_bytes: u64, whose: Whose) -> Self {
        let windows = [const { OnceLock::new() }; WINDOWS];
        let first_bytes = first_bytes.min(file_bytes).max(1);
        Self { seed: Region::new(seed), file_bytes, first_bytes, whose, windows }
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.file_bytes
    }

    /// Whether the file is empty; never true of an arena.
    pub fn is_empty(&self) -> bool {
        self.file_bytes == 0
    }

    /// Bytes of addresses that the windows take now.
    pub fn mapped_bytes(&self) -> u64 {
        self.windows.iter().filter_map(OnceLock::get).map(|window| window.region.len()).sum()
    }

    /// Whether `bytes` bytes at `offset` lie inside the file. Nothing is mapped for it.
    pub fn contains(&self, offset: u64, bytes: u64) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.file_bytes)
    }

    /// The first pages, which are mapped from the beginning.
    pub fn seed(&self) -> &Region {
        &self.seed
    }

    /// The `T` at `offset`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it is not wholly inside, or not aligned; [`ShmError::AddressSpace`].
    pub fn get<T: Shared>(&self, offset: u64) -> Result<Mapped<T>, ShmError> {
        self.window(offset, size_of::<T>() as u64)?.get(offset)
    }

    /// The `count` values of `T` that begin at `offset`.
    ///
    /// # Errors
    /// As [`Windows::get`].
    pub fn slice<T: Shared>(&self, offset: u64, count: u64) -> Result<Mapped<[T]>, ShmError> {
        let bytes = count.checked_mul(size_of::<T>() as u64);
        let bytes = bytes.ok_or(ShmError::OutOfBounds { offset, len: count, size: self.file_bytes })?;
        self.window(offset, bytes)?.slice(offset, count)
    }

    /// Bytes that a message occupies, to be read.
    ///
    /// # Errors
    /// As [`Windows::get`].
    pub fn bytes(&self, offset: u64, bytes: u64) -> Result<Payload, ShmError> {
        self.window(offset, bytes)?.bytes(offset, bytes)
    }

    /// A window that has `bytes` bytes at `offset`, mapped now if it is not yet.
    ///
    /// # Errors
    /// As [`Windows::get`].
    #[inline]
    pub fn window(&self, offset: u64, bytes: u64) -> Result<&Region, ShmError> {
        let outside = ShmError::OutOfBounds { offset, len: bytes, size: self.file_bytes };
        let Some(end) = offset.checked_add(bytes).filter(|end| *end <= self.file_bytes) else {
            return Err(outside);
        };
        let mut index = 0;
        while self.window_bytes(index) < end {
            index += 1;
        }
        let slot = self.windows.get(index).ok_or(outside)?;
        match slot.get() {
            Some(window) => Ok(&window.region),
            None => self.open(index, slot),
        }
    }

    fn window_bytes(&self, index: usize) -> u64 {
        // The last has the whole file, however large it is.
        if index + 1 >= WINDOWS {
            return self.file_bytes;
        }
        self.first_bytes.saturating_mul(1 << (GROWTH_LOG2 * index)).min(self.file_bytes)
    }

    #[cold]
    fn open<'a>(&self, index: usize, slot: &'a OnceLock<Window>) -> Result<&'a Region, ShmError> {
        let bytes = self.window_bytes(index);
        let charge = Charge::take(self.whose, if index == 0 { 0 } else { bytes })?;
        let region = Region::new(self.seed.mapping().again(bytes)?);
        // Two threads may map the same at once: the second is dropped.
        Ok(&slot.get_or_init(|| Window { region, _charge: charge }).region)
    }
}

#[cfg(test)]
mod tests;
