//! Checked references into mapped memory.
//!
//! A [`Region`] is a mapping that lives as long as anything that points into it. [`Mapped`] is such a pointer,
//! checked once, when it is made: inside the mapping, aligned, of a type in which any bytes are valid.
//! This module does not decide what lies where (see `layout`), and never takes a length from another process
//! without the check.
//!
//! Invariant: a `Mapped<T>` points at `len` values of `T: Shared` inside the mapping that it keeps alive. A
//! mapping is never moved or shortened: its file is sealed against shrinking.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::ShmError;
use crate::slot::prefetch;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::memfd::{Mapping, Shared};

/// A mapping that is shared by everything that points into it.
#[derive(Clone, Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
}

/// A checked pointer to one value, or to a run of them, inside a [`Region`].
pub struct Mapped<T: ?Sized> {
    pointer: NonNull<T>,
    _keep: Arc<Mapping>,
}

// SAFETY: `T: Shared` is made of atomics, and the mapping is only unmapped with the last `Arc`.
unsafe impl<T: ?Sized + Sync> Send for Mapped<T> {}
// SAFETY: as above: all access through `&Mapped<T>` is access through `&T`.
unsafe impl<T: ?Sized + Sync> Sync for Mapped<T> {}

impl<T: ?Sized> Clone for Mapped<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, _keep: self._keep.clone() }
    }
}

impl<T: ?Sized> std::fmt::Debug for Mapped<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Mapped({:p})", self.pointer)
    }
}

impl<T: ?Sized> Deref for Mapped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the file head's invariant: checked when made, and the mapping is alive as long as `_keep`.
        unsafe { self.pointer.as_ref() }
    }
}

impl Region {
    /// A region over the whole of `mapping`.
    pub fn new(mapping: Mapping) -> Self {
        Self { mapping: Arc::new(mapping) }
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Bytes of the mapping.
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Whether nothing is mapped; never true of an arena.
    pub fn is_empty(&self) -> bool {
        self.mapping.len() == 0
    }

    fn outside(&self, offset: u64, len: u64) -> ShmError {
        ShmError::OutOfBounds { offset, len, size: self.len() }
    }

    fn check(&self, offset: u64, bytes: u64, align: u64) -> Result<usize, ShmError> {
        let outside = self.outside(offset, bytes);
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len() && offset.is_multiple_of(align) => {
                usize::try_from(offset).map_err(|_| outside)
            }
            _ => Err(outside),
        }
    }

    /// The `T` at `offset`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it is not wholly inside, or not aligned.
    pub fn get<T: Shared>(&self, offset: u64) -> Result<Mapped<T>, ShmError> {
        let at = self.check(offset, size_of::<T>() as u64, align_of::<T>() as u64)?;
        // SAFETY: `check` found `at` inside the mapping.
        let start = unsafe { self.mapping.as_ptr().add(at) };
        let pointer = NonNull::new(start.cast::<T>()).ok_or(self.outside(offset, 0))?;
        Ok(Mapped { pointer, _keep: self.mapping.clone() })
    }

    /// The `count` values of `T` that begin at `offset`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where they are not wholly inside, or not aligned.
    pub fn slice<T: Shared>(&self, offset: u64, count: u64) -> Result<Mapped<[T]>, ShmError> {
        let bytes = count.checked_mul(size_of::<T>() as u64).ok_or(self.outside(offset, count))?;
        let at = self.check(offset, bytes, align_of::<T>() as u64)?;
        // SAFETY: `check` found `at` inside the mapping.
        let start = unsafe { self.mapping.as_ptr().add(at) };
        let start = NonNull::new(start.cast::<T>()).ok_or(self.outside(offset, bytes))?;
        let count = usize::try_from(count).map_err(|_| self.outside(offset, bytes))?;
        Ok(Mapped { pointer: NonNull::slice_from_raw_parts(start, count), _keep: self.mapping.clone() })
    }

    /// Whether `bytes` bytes at `offset` lie inside.
    pub fn contains(&self, offset: u64, bytes: u64) -> bool {
        self.check(offset, bytes, 1).is_ok()
    }

    /// Bytes that a message occupies, to be read.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where they are not wholly inside.
    pub fn bytes(&self, offset: u64, bytes: u64) -> Result<Payload, ShmError> {
        let at = self.check(offset, bytes, 1)?;
        // SAFETY: `check` found `at` inside the mapping.
        let start = unsafe { self.mapping.as_ptr().add(at) };
        let start = NonNull::new(start).ok_or(self.outside(offset, bytes))?;
        Ok(Payload { start, len: bytes as usize, _keep: Keep::Mapping { _mapping: self.mapping.clone() } })
    }
}

impl Region {
    /// As [`Region::bytes`], for as long as the region is borrowed: of a chunk that is held, so that its owner does not
    /// write it. `None` where they are not wholly inside, and in a child made by `fork`, which does not have them.
    #[inline]
    pub(crate) fn shown(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let at = self.check(offset, bytes, 1).ok().filter(|_| !self.mapping.forked())?;
        // SAFETY: `check` found `at` inside the mapping.
        let start = unsafe { self.mapping.as_ptr().add(at) };
        // SAFETY: the bytes lie inside the mapping, as found, which lives as long as the region; the caller holds the chunk.
        Some(unsafe { std::slice::from_raw_parts(start, bytes as usize) })
    }
}

/// Payload bytes in a mapping, which somebody else may own.
///
/// A publisher of the same user can change its own bytes after `send` (SECURITY.md); an honest one does not,
/// because its chunk is not loaned again while it is held. Samples from another user are copied before use.
pub struct Payload {
    start: NonNull<u8>,
    len: usize,
    _keep: Keep,
}

/// What keeps the bytes of a payload where they are.
enum Keep {
    Mapping { _mapping: Arc<Mapping> },
    Copy { _bytes: Box<[u8]> },
}

// SAFETY: the bytes are only read, and the mapping, or the copy, which never moves its bytes, lives as long as `_keep`.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Payload {
    /// Bytes that were copied.
    pub fn of_copy(bytes: Box<[u8]>) -> Self {
        let start = NonNull::from(&*bytes).cast::<u8>();
        Self { start, len: bytes.len(), _keep: Keep::Copy { _bytes: bytes } }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: checked when made; the caller holds the chunk, so that its owner does not write it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Payload({} bytes at {:p})", self.len, self.start)
    }
}

/// What a loan that is over kept its mapping by: given to the next loan it saves counting, and waiting until all that was
/// written to the former has left the processor.
#[derive(Debug)]
pub struct SpareKeep(Arc<Mapping>);

/// A chunk that its owner is filling: no slot names it, so nobody else looks at it.
pub struct Loaned {
    start: NonNull<u8>,
    len: usize,
    _keep: Arc<Mapping>,
}

// SAFETY: a loaned chunk has one owner, as a `Box<[u8]>` has.
unsafe impl Send for Loaned {}

impl Loaned {
    /// Takes `bytes` bytes at `offset` of our own writable mapping.
    ///
    /// # Safety
    /// The mapping is writable and no other `Loaned` covers these bytes: the pool gives a chunk out once, and
    /// takes it back only when no slot names it and nobody holds it.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where they are not wholly inside.
    pub unsafe fn take(
        region: &Region,
        offset: u64,
        bytes: u64,
        spare: &mut Option<SpareKeep>,
    ) -> Result<Self, ShmError> {
        let at = region.check(offset, bytes, 1)?;
        // SAFETY: `check` found `at` inside the mapping.
        let start = unsafe { region.mapping.as_ptr().add(at) };
        let start = NonNull::new(start).ok_or(region.outside(offset, bytes))?;
        let spare = spare.take().map(|spare| spare.0).filter(|keep| Arc::ptr_eq(keep, &region.mapping));
        let keep = spare.unwrap_or_else(|| region.mapping.clone());
        Ok(Self { start, len: bytes as usize, _keep: keep })
    }

    /// Asks the processor for the first lines, which are written last.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.start.as_ptr().cast_const().cast());
    }

    /// Ends the loan: what kept its mapping can keep it for the next.
    #[inline]
    pub(crate) fn end(self) -> SpareKeep {
        SpareKeep(self._keep)
    }

    /// The bytes; none in a child made by `fork`, which does not have them.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        if self._keep.forked() {
            return &[];
        }
        // SAFETY: exclusively ours, by the contract of `take`; the mapping is alive.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written; none in a child made by `fork`.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if self._keep.forked() {
            return &mut [];
        }
        // SAFETY: exclusively ours, by the contract of `take`; the mapping is alive and writable.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Loaned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Loaned({} bytes at {:p})", self.len, self.start)
    }
}

/// The low half of a 64-bit word, which is what the kernel's futex calls look at.
pub fn futex_half(word: &AtomicU64) -> &AtomicU32 {
    let pointer = std::ptr::from_ref(word).cast::<AtomicU32>();
    // SAFETY: an AtomicU64 has the size and alignment for an AtomicU32 at its start, which on the little-endian
    // machines that we run on is the low half; only the kernel and one relaxed load look at it.
    unsafe { &*pointer }
}
