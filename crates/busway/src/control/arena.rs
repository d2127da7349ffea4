//! A stand-in for the arenas of `busway_shm`, until they are there: one page with who owns it, its life and its beat.
//!
//! It has the signatures that the control plane relies on, and nothing else; no ring and no chunk lies in it.
//!
//! Invariant: the owner alone writes the page; a peer maps it read-only after checking its seals.

use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::life::{self, Life};
use busway_shm::sync::{AtomicU32, AtomicU64, Ordering};
use busway_shm::sys::event;
use busway_shm::sys::memfd::{self, Mapping, SealKind};
use busway_wire::ProcessId;
use busway_wire::limits::PROCESS_NAME_BYTES_MAX;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

const SIZE: u64 = 4096;
const LAYOUT: u64 = 0x0062_7573_7761_7931;
const AT_LAYOUT: u64 = 0;
const AT_PROCESS: u64 = 8;
const AT_PID: u64 = 16;
const AT_LIFE: u64 = 24;
const AT_BEAT: u64 = 32;
const AT_MONITORED: u64 = 40;
const AT_NAME_LEN: u64 = 48;
const AT_NAME: u64 = 56;

/// The hash of the layout of everything in shared memory.
pub(crate) fn layout_hash() -> u64 {
    LAYOUT
}

/// What an arena is made of.
#[derive(Debug)]
pub(crate) struct ArenaOptions {
    pub(crate) name: String,
    pub(crate) monitored: bool,
}

/// All that this process writes.
#[derive(Debug)]
pub(crate) struct OwnArena {
    process: ProcessId,
    arena: OwnedFd,
    bulk: OwnedFd,
    event: OwnedFd,
    page: Mapping,
    domain: Mutex<Option<Arc<Domain>>>,
}

impl OwnArena {
    pub(crate) fn create(options: &ArenaOptions) -> Result<Arc<OwnArena>, ShmError> {
        let arena = memfd::create_arena("busway-arena", SIZE)?;
        let page = Mapping::map_rw(&arena, SIZE)?;
        memfd::seal(&arena, SealKind::Arena)?;
        let bulk = memfd::create_arena("busway-bulk", SIZE)?;
        memfd::seal(&bulk, SealKind::Bulk)?;
        let bulk = memfd::reopen_read_only(&bulk)?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| ShmError::from_errno("getrandom", errno))?;
        let process = ProcessId(u64::from_le_bytes(random));
        let name = &options.name.as_bytes()[..options.name.len().min(PROCESS_NAME_BYTES_MAX)];
        set(&page, AT_LAYOUT, LAYOUT)?;
        set(&page, AT_PROCESS, process.0)?;
        set(&page, AT_PID, u64::from(std::process::id()))?;
        set(&page, AT_MONITORED, u64::from(options.monitored))?;
        set(&page, AT_NAME_LEN, name.len() as u64)?;
        for (at, chunk) in (AT_NAME..).step_by(8).zip(name.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            set(&page, at, u64::from_le_bytes(word))?;
        }
        let event = event::create()?;
        Ok(Arc::new(OwnArena { process, arena, bulk, event, page, domain: Mutex::new(None) }))
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.process
    }

    pub(crate) fn arena_fd(&self) -> BorrowedFd<'_> {
        self.arena.as_fd()
    }

    pub(crate) fn bulk_fd(&self) -> BorrowedFd<'_> {
        self.bulk.as_fd()
    }

    pub(crate) fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    pub(crate) fn join(&self, domain: Arc<Domain>) {
        *self.domain.lock().unwrap_or_else(PoisonError::into_inner) = Some(domain);
    }

    pub(crate) fn life_word(&self) -> &AtomicU32 {
        self.page.word_u32(AT_LIFE).expect("the page is mapped whole")
    }

    pub(crate) fn beat(&self, now_ns: u64) {
        set(&self.page, AT_BEAT, now_ns).expect("the page is mapped whole");
    }
}

/// What another process writes, or our own as others see it.
#[derive(Debug)]
pub(crate) struct PeerArena {
    process: ProcessId,
    page: Mapping,
}

impl PeerArena {
    pub(crate) fn map(
        arena: OwnedFd,
        bulk: OwnedFd,
        event: OwnedFd,
        expected: ProcessId,
    ) -> Result<Arc<PeerArena>, ShmError> {
        drop(event);
        memfd::check_seals(&bulk, SealKind::Bulk)?;
        let size = memfd::check_seals(&arena, SealKind::Arena)?;
        if size != SIZE {
            return Err(ShmError::WrongSize { found: size, least: SIZE, most: SIZE });
        }
        let page = Mapping::map_ro(&arena, SIZE)?;
        let theirs = get(&page, AT_LAYOUT);
        if theirs != LAYOUT {
            return Err(ShmError::Layout { theirs, ours: LAYOUT });
        }
        let found = get(&page, AT_PROCESS);
        if found != expected.0 {
            return Err(ShmError::Magic { found });
        }
        Ok(Arc::new(PeerArena { process: expected, page }))
    }

    pub(crate) fn process(&self) -> ProcessId {
        self.process
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(get(&self.page, AT_PID)).unwrap_or(0)
    }

    pub(crate) fn name(&self) -> String {
        let len = usize::try_from(get(&self.page, AT_NAME_LEN)).unwrap_or(0).min(PROCESS_NAME_BYTES_MAX);
        let mut bytes = Vec::new();
        for at in (AT_NAME..).step_by(8).take(len.div_ceil(8)) {
            bytes.extend_from_slice(&get(&self.page, at).to_le_bytes());
        }
        bytes.truncate(len);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn life(&self) -> Life {
        life::read(self.page.word_u32(AT_LIFE).expect("the page is mapped whole"))
    }

    pub(crate) fn monitored(&self) -> bool {
        get(&self.page, AT_MONITORED) != 0
    }

    pub(crate) fn last_beat_ns(&self) -> u64 {
        get(&self.page, AT_BEAT)
    }

    pub(crate) fn committed_bytes(&self) -> u64 {
        SIZE
    }
}

fn word(page: &Mapping, at: u64) -> Result<&AtomicU64, ShmError> {
    page.word_u64(at)
}

fn set(page: &Mapping, at: u64, value: u64) -> Result<(), ShmError> {
    // Pairs with the acquire in `get`.
    word(page, at).map(|word| word.store(value, Ordering::Release))
}

fn get(page: &Mapping, at: u64) -> u64 {
    // Pairs with the release in `set`.
    word(page, at).map_or(0, |word| word.load(Ordering::Acquire))
}
