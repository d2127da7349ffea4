//! Where claims lie: one file of each process that pushes, which its realm may write.
//!
//! The process makes it with its first group and hands it to each puller. It holds no message and no address: what stands in it
//! decides only who of a group gets what, so a member that writes nonsense there spoils the work of the groups of that process, all of which
//! it can reach, and nothing else.
//! A run of it belongs to one group on one ring: a head, a line for each puller, and the claim words.
//!
//! It does not know what a claim means.
//!
//! Invariant: a run lies inside the file, is committed before anybody is told of it, and is given to the next group only after the
//! last puller's row is gone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use busway_wire::ProcessId;
use busway_wire::limits::GROUP_PULLERS_MAX;

use crate::arena::OwnArena;
use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::layout::{PAGE, layout_hash};
use crate::ring::SLOTS_MAX;
use crate::sync::{AtomicU64, Ordering};
use crate::sys::memfd::{self, Mapping, SealKind, Shared};
use crate::view::{Mapped, Region};

/// "BUSWAYCL", the first eight bytes of a claims file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BUSWAYCL");
/// Bytes of a claims file: sparse, and room for some ten thousand groups of a thousand slots.
pub const CLAIMS_BYTES: u64 = 256 << 20;

/// The first page of a claims file.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct ClaimsHeader {
    /// [`MAGIC`], stored last.
    pub magic: AtomicU64,
    /// The layout hash of arenas, of who made it.
    pub layout: AtomicU64,
    /// Whose it is.
    pub process: AtomicU64,
    /// Zero.
    pub spare: [AtomicU64; 5],
}

/// The head of the run of one group on one ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct GroupHead {
    /// Messages given back so far: a puller that sees it change looks for them.
    pub returned: AtomicU64,
    /// Acknowledgements that came too late.
    pub late: AtomicU64,
    /// Times a puller woke the pusher. The low half is a futex word.
    pub woken: AtomicU64,
    /// Lines in use, from the first.
    pub lines: AtomicU64,
    /// One bit for each puller that takes nothing more and has not done with what it has.
    pub left: [AtomicU64; 4],
}

impl GroupHead {
    fn left_bit(&self, place: usize) -> Option<(&AtomicU64, u64)> {
        Some((self.left.get(place / 64)?, 1 << (place % 64)))
    }

    /// Whether the puller in this place takes nothing more.
    pub fn has_left(&self, place: usize) -> bool {
        self.left_bit(place).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// The puller in this place takes nothing more.
    pub fn leave(&self, place: usize) {
        if let Some((word, bit)) = self.left_bit(place) {
            word.fetch_or(bit, Ordering::Relaxed); // a hint: what becomes of its claims they say
        }
    }

    /// Another puller has this place.
    pub fn join(&self, place: usize) {
        if let Some((word, bit)) = self.left_bit(place) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// What one puller of a group says to the others.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct PullerLine {
    /// Messages taken, so that those who have had fewer come first; who comes late begins with as many as the others.
    pub turn: AtomicU64,
    /// Odd while it looks for a message; raised when it begins to and when it has one.
    pub looking: AtomicU64,
    /// Zero.
    pub spare: [AtomicU64; 6],
}

// SAFETY: `repr(C)`, atomics only, 64 bytes without padding, any bits are values.
#[expect(unsafe_code, reason = "the promise that `view` relies on")]
unsafe impl Shared for ClaimsHeader {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "the promise that `view` relies on")]
unsafe impl Shared for GroupHead {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "the promise that `view` relies on")]
unsafe impl Shared for PullerLine {}

const _: () = {
    assert!(size_of::<ClaimsHeader>() == 64 && size_of::<GroupHead>() == 64 && size_of::<PullerLine>() == 64);
    assert!(run_bytes(SLOTS_MAX) < CLAIMS_BYTES - PAGE);
    assert!(GROUP_PULLERS_MAX as usize <= 4 * 64, "each puller has its bit");
};

/// Byte offset of the claim words in a run.
pub const WORDS_AT: u64 = 64 + GROUP_PULLERS_MAX as u64 * 64;

/// Bytes of the run of a group on a ring of at most so many slots: whole pages, a power of two.
#[must_use]
pub const fn run_bytes(slots: u32) -> u64 {
    let bytes = (WORDS_AT + slots as u64 * 8).next_power_of_two();
    if bytes < PAGE { PAGE } else { bytes }
}

/// Where the run of a group lies, as its pullers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAt {
    /// Byte offset.
    pub offset: u64,
    /// Claim words; a power of two.
    pub slots: u32,
}

/// The run of a group.
#[derive(Clone, Debug)]
pub struct Run {
    at: RunAt,
    head: Mapped<GroupHead>,
    lines: Mapped<[PullerLine]>,
    words: Mapped<[AtomicU64]>,
}

impl Run {
    /// A run of a claims file, wherever somebody says that it is.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it is not inside; [`ShmError::Refused`] for a number of words that no group has.
    pub fn of(file: &Region, at: RunAt) -> Result<Self, ShmError> {
        if !at.slots.is_power_of_two() || at.slots > SLOTS_MAX {
            return Err(ShmError::Refused { what: "a number of claim words that no group has" });
        }
        let end = at.offset.checked_add(WORDS_AT).filter(|_| at.offset >= PAGE);
        let words =
            end.ok_or(ShmError::OutOfBounds { offset: at.offset, len: WORDS_AT, size: file.len() })?;
        Ok(Self {
            at,
            head: file.get(at.offset)?,
            lines: file.slice(at.offset + 64, u64::from(GROUP_PULLERS_MAX))?,
            words: file.slice(words, u64::from(at.slots))?,
        })
    }

    /// Where it lies.
    pub fn at(&self) -> RunAt {
        self.at
    }

    /// Its head.
    #[inline]
    pub fn head(&self) -> &GroupHead {
        &self.head
    }

    /// The lines of its pullers.
    pub fn lines(&self) -> &[PullerLine] {
        let used = usize::try_from(self.head.lines.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        &self.lines[..used.min(self.lines.len())]
    }

    /// Its claim words.
    #[inline]
    pub fn claims(&self) -> super::Claims<'_> {
        super::Claims::new(&self.words)
    }
}

/// Our own claims file.
#[derive(Debug)]
pub struct ClaimsFile {
    fd: PrivateFd,
    file: Region,
    free: Mutex<Free>,
}

/// Runs that were given back, by their size, and where nothing was given yet.
#[derive(Debug)]
struct Free {
    runs: BTreeMap<u64, Vec<u64>>,
    next: u64,
}

impl ClaimsFile {
    /// Makes the file, and maps and seals it.
    ///
    /// # Errors
    /// What the kernel or the process's limits refuse.
    pub(crate) fn create(process: ProcessId) -> Result<Self, ShmError> {
        let fd = memfd::create_arena("busway-claims", CLAIMS_BYTES)?;
        memfd::commit(&fd, 0, PAGE)?;
        memfd::seal(&fd, SealKind::Shared)?;
        let file = Region::new(Mapping::map_rw(&fd, CLAIMS_BYTES)?);
        let header: Mapped<ClaimsHeader> = file.get(0)?;
        header.layout.store(layout_hash(), Ordering::Relaxed);
        header.process.store(process.0, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release); // pairs with Acquire in `map`
        let free = Mutex::new(Free { runs: BTreeMap::new(), next: PAGE });
        Ok(Self { fd: PrivateFd::new(fd)?, file, free })
    }

    /// Its descriptor, to be handed to pullers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes a run of `slots` words, a power of two, all zero.
    pub(crate) fn take(&self, own: &OwnArena, slots: u32) -> Result<Run, ShmError> {
        let bytes = run_bytes(slots);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let again = free.runs.get_mut(&bytes).and_then(Vec::pop);
        let offset = match again {
            Some(offset) => offset,
            None if free.next + bytes > CLAIMS_BYTES => {
                return Err(ShmError::TableFull { table: "claims", entries: (CLAIMS_BYTES / bytes) as u32 });
            }
            None => {
                free.next += bytes;
                free.next - bytes
            }
        };
        let run = own
            .commit_of(self.fd.as_fd(), offset, bytes)
            .and_then(|()| Run::of(&self.file, RunAt { offset, slots }));
        if run.is_err() {
            free.runs.entry(bytes).or_default().push(offset);
        }
        run
    }

    /// Takes a run back of which no puller's row is left, and gives its memory to the kernel.
    pub(crate) fn give(&self, own: &OwnArena, run: &Run) {
        let bytes = run_bytes(run.at.slots);
        // Where it is refused the run would not be all zero for the next: it is not used again.
        if own.punch_of(self.fd.as_fd(), run.at.offset, bytes).is_ok() {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.runs.entry(bytes).or_default().push(run.at.offset);
        }
    }
}

/// Checks and maps the claims file of another process, or of our own as a puller sees it.
///
/// # Errors
/// Which of seals, access, size, magic, layout and incarnation was wrong; or what the kernel refused.
pub fn map(fd: impl AsFd, process: ProcessId) -> Result<Region, ShmError> {
    let found = memfd::check_seals(fd.as_fd(), SealKind::Shared)?;
    if found != CLAIMS_BYTES {
        return Err(ShmError::WrongSize { found, least: CLAIMS_BYTES, most: CLAIMS_BYTES });
    }
    let file = Region::new(Mapping::map_rw(fd.as_fd(), CLAIMS_BYTES)?);
    let header: Mapped<ClaimsHeader> = file.get(0)?;
    let magic = header.magic.load(Ordering::Acquire); // pairs with Release in `create`
    if magic != MAGIC {
        return Err(ShmError::Magic { found: magic });
    }
    let (theirs, ours) = (header.layout.load(Ordering::Relaxed), layout_hash());
    if theirs != ours {
        return Err(ShmError::Layout { theirs, ours });
    }
    let owner = header.process.load(Ordering::Relaxed);
    if owner != process.0 {
        return Err(ShmError::Incarnation { expected: process.0, found: owner });
    }
    Ok(file)
}
