//! What can go wrong with memory, and who must act.
//!
//! Each variant names its culprit: the user's limits (`Budget`, `Descriptors`, `AddressSpace`,
//! `FileSize`), the machine (`Memory`, `System`), the peer that sent a segment (`NotSealed`,
//! `NotShared`, `WrongSize`, ...), or the caller (`Forked`, `LifeTaken`). The stable codes and the
//! remedies for users are in the crate `busway`, which maps each variant to one.
//!
//! Invariant: an error of the kernel keeps its number and the call that was tried.

use rustix::io::Errno;

/// Why memory could not be had, or a peer's memory was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShmError {
    /// The user must act: the domain's byte budget would be exceeded.
    #[error(
        "the domain's byte budget is used up: {wanted} bytes wanted, {reserved} of {budget} reserved; \
         raise the budget or close publishers"
    )]
    Budget {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes reserved by all members of the domain at that moment.
        reserved: u64,
        /// The domain's budget in bytes.
        budget: u64,
    },
    /// The user must act: no file descriptor is left in the process or on the host.
    #[error("no file descriptor is left for {call}; raise `ulimit -n`")]
    Descriptors {
        /// The system call that was refused.
        call: &'static str,
    },
    /// The user must act: the address space or the number of mappings is used up.
    #[error(
        "no address space is left to map {bytes} bytes; raise `ulimit -v` or vm.max_map_count, or make arenas smaller"
    )]
    AddressSpace {
        /// Bytes that should have been mapped.
        bytes: u64,
    },
    /// The user must act: `RLIMIT_FSIZE` is below the size of a segment.
    #[error(
        "a segment of {wanted} bytes is above the file size limit of {limit} bytes; raise `ulimit -f` or make arenas smaller"
    )]
    FileSize {
        /// Bytes that the segment needs.
        wanted: u64,
        /// `RLIMIT_FSIZE` in bytes.
        limit: u64,
    },
    /// The user must act: this process would take more than half of the memory that it may use.
    #[error(
        "{wanted} bytes wanted, {committed} of {most} committed, which is half of what the machine or the cgroup \
         allows this process"
    )]
    Share {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that this process has committed.
        committed: u64,
        /// Bytes that it may commit.
        most: u64,
    },
    /// The machine must act: it has no memory left to commit.
    #[error("the machine refused to commit {wanted} bytes of memory; free memory or lower the budget")]
    Memory {
        /// Bytes that should have been committed.
        wanted: u64,
    },
    /// The peer must act: its segment lacks seals, so its size or bytes could change under us.
    #[error("the segment is not sealed as it must be, missing: {missing}; the peer that sent it is faulty")]
    NotSealed {
        /// The seals that are missing.
        missing: SealNames,
    },
    /// The peer must act: its segment forbids writing where members must write, or allows it where they must not.
    #[error("the segment has the wrong access: it must be {expected}; the peer that sent it is faulty")]
    WrongAccess {
        /// The access that it must have, in words.
        expected: &'static str,
    },
    /// The peer must act: the descriptor is not anonymous shared memory.
    #[error(
        "the descriptor is not anonymous shared memory (file system type {found:#x}); the peer that sent it is faulty"
    )]
    NotShared {
        /// The magic number of the file system that it is on.
        found: u64,
    },
    /// The peer must act: the segment has a size that it cannot have.
    #[error(
        "the segment has {found} bytes, at least {least} and at most {most} are possible; the peer that sent it is faulty"
    )]
    WrongSize {
        /// Bytes that it has.
        found: u64,
        /// The fewest bytes possible.
        least: u64,
        /// The most bytes possible.
        most: u64,
    },
    /// The peer must act: the segment does not begin as one of ours.
    #[error(
        "the segment does not begin with the magic of Busway (found {found:#018x}); the peer that sent it is faulty"
    )]
    Magic {
        /// The first eight bytes.
        found: u64,
    },
    /// The user must act: the peer was built with another memory layout.
    #[error(
        "the memory layout differs: theirs is {theirs:#018x}, ours is {ours:#018x}; run the same version in all processes"
    )]
    Layout {
        /// The peer's layout hash.
        theirs: u64,
        /// Our layout hash.
        ours: u64,
    },
    /// We must act: an offset or length lies outside its mapping.
    #[error("{len} bytes at {offset} lie outside a mapping of {size} bytes, or are misaligned")]
    OutOfBounds {
        /// Offset asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes of the mapping.
        size: u64,
    },
    /// The caller must act: a table of this process is full.
    #[error(
        "the table {table} of this process is full with {entries} entries; close some, or use more processes"
    )]
    TableFull {
        /// Which table.
        table: &'static str,
        /// How many entries it has.
        entries: u32,
    },
    /// The user must act: the arena's address range is used up.
    #[error("the arena of {bytes} bytes is used up; open the bus with a larger arena")]
    ArenaFull {
        /// Bytes of the arena.
        bytes: u64,
    },
    /// The caller must act: a message is larger than any chunk.
    #[error("a message of {bytes} bytes is larger than the largest chunk of {most} bytes; split it")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of the largest chunk.
        most: u64,
    },
    /// The peer must act: the segment belongs to another incarnation than was announced.
    #[error(
        "the segment belongs to process {found:#018x}, announced was {expected:#018x}; the peer that sent it is faulty"
    )]
    Incarnation {
        /// The incarnation that was announced.
        expected: u64,
        /// The one that the segment names.
        found: u64,
    },
    /// The peer must act: what it asks for does not fit what its memory says.
    #[error("refused: {what}")]
    Refused {
        /// What does not fit.
        what: &'static str,
    },
    /// The caller must act: the handle was inherited through `fork` and belongs to the parent.
    #[error(
        "the handle was inherited through fork and belongs to the parent process; open a new one in the child"
    )]
    Forked,
    /// We must act: the life word has had an owner already.
    #[error("the life word has an owner already (it reads {found:#x})")]
    LifeTaken {
        /// What the word held.
        found: u32,
    },
    /// The machine must act: a system call failed in a way that has no better name.
    #[error("{call} failed: {errno}")]
    System {
        /// The system call that was tried.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl ShmError {
    /// Names the refusal of `call`: what the user can act on gets its own variant.
    #[must_use]
    pub fn from_errno(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::MFILE | Errno::NFILE => Self::Descriptors { call },
            _ => Self::System { call, errno },
        }
    }
}

/// Names of seals, for the text of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealNames(pub(crate) u32);

impl SealNames {
    /// Bits of `F_SEAL_*`, in the order of the kernel's header.
    const NAMES: [(u32, &'static str); 5] =
        [(0x01, "seal"), (0x02, "shrink"), (0x04, "grow"), (0x08, "write"), (0x10, "future-write")];
}

impl core::fmt::Display for SealNames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut separator = "";
        for (_, name) in Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}
