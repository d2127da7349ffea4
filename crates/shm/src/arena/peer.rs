//! A peer's arena: checked, mapped read-only, and read with care.
//!
//! It is mapped once, as far as it is used (`window`). What stands in it may be anything at any time; who reads it checks (`tables`).
//!
//! Invariant: a [`PeerArena`] exists only for files with all of their seals, of our layout, that say whose they are.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use busway_wire::ProcessId;

use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::layout::{
    ARENA_BYTES_MAX, ARENA_BYTES_MIN, ArenaHeader, EXTENTS_AT, EXTENTS_MAX, LAYOUT_VERSION, MAGIC, PAGE,
    layout_hash,
};
use crate::life::Life;
use crate::sync::{AtomicU32, Ordering};
use crate::sys;
use crate::sys::memfd::{self, Mapping, SealKind};
use crate::view::Mapped;
use crate::window::{Whose, Windows};

use super::tables::Files;
use super::{FLAG_MEMBER, FLAG_MONITORED, OwnArena, Tables};

/// The first window of a bulk file, made with the first large message.
const BULK_WINDOW_BYTES: u64 = 256 << 20;

/// Another process's arena, mapped read-only.
#[derive(Debug)]
pub struct PeerArena {
    tables: Tables,
    process: ProcessId,
    pid: u32,
    uid: u32,
}

impl PeerArena {
    /// Maps what a peer handed over, after checking that it is what it should be: the first pages, which say who it is
    /// and whether it lives. The rest follows as it is named, see [`Windows`].
    ///
    /// # Errors
    /// Which of seals, kind of file, size, magic, layout and incarnation was wrong; or what the kernel refused.
    /// Nothing stays mapped then.
    pub fn map(arena: impl AsFd, bulk: impl AsFd, expected: ProcessId) -> Result<Arc<Self>, ShmError> {
        let arena_file = arena;
        let arena_bytes = memfd::check_seals(arena_file.as_fd(), SealKind::Arena)?;
        let bulk_bytes = memfd::check_seals(bulk.as_fd(), SealKind::Bulk)?;
        for (found, least) in [(arena_bytes, ARENA_BYTES_MIN), (bulk_bytes, PAGE)] {
            if found < least || found > ARENA_BYTES_MAX {
                return Err(ShmError::WrongSize { found, least, most: ARENA_BYTES_MAX });
            }
        }
        // The kernel's word, not the header's: the file belongs to the user who made it.
        let uid = sys::identity::owner(arena_file.as_fd())?;
        let whose = if uid == sys::identity::uid() { Whose::OurUsers } else { Whose::Foreign };
        let first_pages = Mapping::map_ro(arena_file.as_fd(), EXTENTS_AT)?;
        let arena = Windows::new(first_pages, arena_bytes, ARENA_BYTES_MIN, whose);
        let header: Mapped<ArenaHeader> = arena.seed().get(0)?;
        // pairs with Release in `fill_header`
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(ShmError::Magic { found: header.magic.load(Ordering::Relaxed) });
        }
        let (theirs, ours) = (header.layout_hash.load(Ordering::Relaxed), layout_hash());
        if theirs != ours || header.version.load(Ordering::Relaxed) != LAYOUT_VERSION {
            return Err(ShmError::Layout { theirs, ours });
        }
        let process = ProcessId(header.process.load(Ordering::Relaxed));
        if process != expected {
            return Err(ShmError::Incarnation { expected: expected.0, found: process.0 });
        }
        let pid = header.pid.load(Ordering::Relaxed);
        let first_page = Mapping::map_ro(bulk.as_fd(), PAGE)?;
        let keep = |fd: BorrowedFd<'_>| PrivateFd::new(sys::identity::duplicate(fd)?);
        let files = match whose {
            Whose::OurUsers => None,
            Whose::Foreign => Some(Files { arena: keep(arena_file.as_fd())?, bulk: keep(bulk.as_fd())? }),
        };
        let bulk = Windows::new(first_page, bulk_bytes, BULK_WINDOW_BYTES, whose);
        let tables = Tables::new(arena, bulk, files)?;
        Ok(Arc::new(Self { tables, process, pid, uid }))
    }

    /// Maps one's own arena as a peer would, so that pairs within a process take the same path.
    ///
    /// # Errors
    /// As [`PeerArena::map`].
    pub fn of_own(own: &OwnArena) -> Result<Arc<Self>, ShmError> {
        Self::map(own.arena_fd(), own.bulk_fd(), own.process())
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The incarnation.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The process id, as its owner sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The user id that the owner says it has.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The process's name.
    pub fn name(&self) -> String {
        self.tables.name()
    }

    /// What its life word says, by a plain load.
    pub fn life(&self) -> Life {
        self.tables.life()
    }

    /// The life word, for waiting on.
    pub fn life_word(&self) -> &AtomicU32 {
        &self.tables.header().life.word
    }

    /// Its last heartbeat, monotonic nanoseconds.
    pub fn last_beat_ns(&self) -> u64 {
        self.tables.header().beat_ns.load(Ordering::Relaxed)
    }

    /// Whether it wants to be watched for hangs.
    pub fn monitored(&self) -> bool {
        self.tables.header().flags.load(Ordering::Relaxed) & FLAG_MONITORED != 0
    }

    /// Whether it has been a member of its domain before; it says so itself.
    pub fn was_member(&self) -> bool {
        self.tables.header().flags.load(Ordering::Relaxed) & FLAG_MEMBER != 0
    }

    /// Bytes it has taken from the kernel.
    pub fn committed_bytes(&self) -> u64 {
        self.tables.header().committed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that its arena file and its bulk file take now, as the kernel counts them.
    pub fn committed_by_file(&self) -> (u64, u64) {
        let all = self.committed_bytes();
        let bulk = (0..self.tables.header().extents_used.load(Ordering::Acquire).min(EXTENTS_MAX))
            .filter_map(|extent| self.tables.extents().get(extent as usize))
            .filter(|entry| entry.bulk.load(Ordering::Relaxed) == 1)
            .fold(0_u64, |sum, entry| {
                let bytes = entry.chunk_bytes.load(Ordering::Relaxed);
                sum.saturating_add(bytes.saturating_mul(u64::from(entry.count.load(Ordering::Relaxed))))
            })
            .min(all);
        (all - bulk, bulk)
    }
}
