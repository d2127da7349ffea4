//! The domain segment: the one piece of memory that all members of a realm write.
//!
//! It holds the bell and the ledger, and nothing whose corruption could cost a message: a bell is
//! hints, a ledger is an estimate that refuses too early or too late. Its first holder makes it;
//! the rendezvous hands it to every member, who checks it and maps it.
//!
//! Does not name members or topics: what a member registers lies with the rendezvous.
//!
//! Invariant: nothing read here is used as an offset, a length or a count of anything else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::bell::{Bell, Fences, LINES, Line};
use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::layout::fields;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::barrier;
use crate::sys::memfd::{self, Mapping, SealKind, Shared};

mod budget;
mod ledger;

pub use budget::{default_budget, process_limit};
pub use ledger::Ledger;

/// The first bytes of a domain segment: "BUSWAYDM" in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BUSWAYDM");

/// The header of the domain segment. FORMAT.md has its table.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct DomainHeader {
    /// [`MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`layout_hash`] of whoever made it.
    pub layout: AtomicU64,
    /// Bytes of the segment.
    pub size: AtomicU64,
    /// The domain's byte budget, as its maker set it.
    pub budget: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 4],
    /// Bytes reserved by all members: the ledger's word, on a cache line of its own.
    pub bytes_reserved: AtomicU64,
    /// Zero.
    pub ledger_reserved: [AtomicU64; 7],
}

// SAFETY: `repr(C)`, atomics only, 128 bytes without padding, any bits are values.
unsafe impl Shared for DomainHeader {}
// SAFETY: `repr(C)`, atomics only, 64 bytes without padding, any bits are values.
unsafe impl Shared for Line {}

const _: () = assert!(size_of::<DomainHeader>() == 128);

/// Where the bell's lines begin: the second page, so that the ledger's writers share no line with them.
pub const LINES_OFFSET: u64 = 4096;

/// Bytes of a domain segment.
pub const SIZE: u64 = LINES_OFFSET + (LINES * size_of::<Line>()) as u64;

/// The largest budget: 2^62 bytes, so that sums of two cannot wrap.
pub const BUDGET_MAX: u64 = 1 << 62;

/// A number that differs between builds whose domain segments differ.
#[must_use]
pub const fn layout_hash() -> u64 {
    // The version: raised when the meaning of a word changes and its place does not.
    const VERSION: u64 = 1;
    const HASH: u64 = fields::hash(&fields::DOMAIN, &[VERSION, SIZE, LINES_OFFSET, LINES as u64]);
    HASH
}

/// The domain segment, mapped.
#[derive(Debug)]
pub struct Domain {
    mapping: Mapping,
    fd: PrivateFd,
    budget: u64,
    fences: Fences,
}

impl Domain {
    /// Makes the segment of a new domain with this byte budget.
    ///
    /// Its 4 MiB are committed here: later no touch of a bell can meet an exhausted machine.
    ///
    /// # Errors
    /// As [`memfd::create_arena`], [`memfd::commit`] and [`Mapping::map_rw`].
    pub fn create(budget: u64) -> Result<Self, ShmError> {
        let fd = memfd::create_arena("busway-domain", SIZE)?;
        memfd::commit(&fd, 0, SIZE)?;
        memfd::seal(&fd, SealKind::Shared)?;
        let mapping = Mapping::map_rw(&fd, SIZE)?;
        let header: &DomainHeader = mapping.get(0)?;
        header.layout.store(layout_hash(), Ordering::Relaxed);
        header.size.store(SIZE, Ordering::Relaxed);
        header.budget.store(budget.min(BUDGET_MAX), Ordering::Relaxed);
        // Release: pairs with Acquire in `map`.
        header.magic.store(MAGIC, Ordering::Release);
        Self::join(mapping, fd, budget.min(BUDGET_MAX))
    }

    /// Checks and maps the segment that a rendezvous has sent.
    ///
    /// # Errors
    /// What is wrong with it: [`ShmError::NotShared`], [`ShmError::NotSealed`],
    /// [`ShmError::WrongAccess`], [`ShmError::WrongSize`], [`ShmError::Magic`], [`ShmError::Layout`].
    pub fn map(fd: OwnedFd) -> Result<Self, ShmError> {
        let size = memfd::check_seals(&fd, SealKind::Shared)?;
        if size < LINES_OFFSET {
            return Err(ShmError::WrongSize { found: size, least: LINES_OFFSET, most: SIZE });
        }
        let mapping = Mapping::map_rw(&fd, size.min(SIZE))?;
        let header: &DomainHeader = mapping.get(0)?;
        let magic = header.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(ShmError::Magic { found: magic });
        }
        let theirs = header.layout.load(Ordering::Relaxed);
        if theirs != layout_hash() {
            return Err(ShmError::Layout { theirs, ours: layout_hash() });
        }
        if size != SIZE {
            return Err(ShmError::WrongSize { found: size, least: SIZE, most: SIZE });
        }
        // Kept in our own memory from here on: no member can change it under us.
        let budget = header.budget.load(Ordering::Relaxed).min(BUDGET_MAX);
        Self::join(mapping, fd, budget)
    }

    fn join(mapping: Mapping, fd: OwnedFd, budget: u64) -> Result<Self, ShmError> {
        let fd = PrivateFd::new(fd)?;
        let fences = if barrier::register() { Fences::Asymmetric } else { Fences::Full };
        let domain = Self { mapping, fd, budget, fences };
        if fences == Fences::Full {
            domain.bell().demand_full_fences();
        }
        Ok(domain)
    }

    /// The segment's descriptor, to hand to a member.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The bell. Cheap to ask for.
    #[inline]
    #[must_use]
    pub fn bell(&self) -> Bell<'_> {
        let lines = self.mapping.slice(LINES_OFFSET, LINES).expect("the segment has been mapped whole");
        Bell::new(lines, self.fences)
    }

    /// The ledger of bytes.
    #[must_use]
    pub fn ledger(&self) -> Ledger<'_> {
        let header: &DomainHeader = self.mapping.get(0).expect("the segment has been mapped whole");
        Ledger::new(&header.bytes_reserved, self.budget)
    }
}

#[cfg(test)]
mod tests;
