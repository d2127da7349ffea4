//! The memory of one process: all that it writes and others read.
//!
//! [`OwnArena`] is the owner's side: one sparse memory file, mapped writable once and then sealed, and a second
//! file for bulk. [`PeerArena`] is everybody else's: the same files, mapped read-only after their seals, size and
//! layout were checked. What the tables mean is in `layout`; who may hold or gate what is decided in `seat`.
//!
//! Invariant: only the owner can write an arena. The kernel holds it: the seals forbid a second writable mapping,
//! writing through the descriptor, shrinking and growing.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use busway_wire::ProcessId;

use crate::claims::file::ClaimsFile;
use crate::domain::Domain;
use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::heap::{Heap, Table};
use crate::layout::{
    ARENA_BYTES_MAX, ARENA_BYTES_MIN, CounterPage, EXTENTS_AT, LAYOUT_VERSION, MAGIC, NAME_BYTES, PAGE,
    ROWS_MAX, key, layout_hash, state, unkey,
};
use crate::life::Life;
use crate::seat::EntryKey;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::memfd::{self, Mapping, SealKind};
use crate::window::Windows;
use crate::{clock, counters, fork, sys};

mod peer;
mod tables;

pub use peer::PeerArena;
pub(crate) use tables::store_text;
pub use tables::{ChunkPlace, Tables};

/// How an arena is made.
#[derive(Clone, Debug)]
pub struct ArenaOptions {
    /// The process's name, for people; cut at 64 bytes.
    pub name: String,
    /// Bytes of each of the two sparse files; a bound, not a cost. Clamped to what the process's limits allow.
    pub bytes_max: u64,
    /// Whether others should report when the process hangs.
    pub monitored: bool,
}

/// The flag of a process that wants to be watched for hangs.
pub const FLAG_MONITORED: u32 = 1;
/// The flag of a process that is registered for `membarrier`.
pub const FLAG_BARRIER: u32 = 2;
/// The process has been a member of its domain: under a new holder it is no stranger.
pub const FLAG_MEMBER: u32 = 4;
/// The process has left its domain. Its life word stays alive while it still reads what others own.
pub const FLAG_LEFT: u32 = 8;

/// Our own arena: the only one we can write.
#[derive(Debug)]
pub struct OwnArena {
    tables: Tables,
    // A child made by fork must not keep our memory alive when we are gone.
    arena_fd: PrivateFd,
    bulk_fd: PrivateFd,
    bulk_read_only: PrivateFd,
    heap: Mutex<Heap>,
    domain: Mutex<Option<Arc<Domain>>>,
    closing: Mutex<Vec<ClosingRow>>,
    /// Rows that read or of which samples are held.
    open_rows: Mutex<u64>,
    all_rows_closed: Condvar,
    share: OnceLock<u64>,
    /// This arena as a peer sees it, once somebody of ours stands for a peer.
    mirror: OnceLock<Arc<PeerArena>>,
    /// The claims of the groups of our rings, once there is one.
    claims: Mutex<Option<Arc<ClaimsFile>>>,
    /// One fold at a time.
    pub(crate) folds: Mutex<()>,
    process: ProcessId,
    forks: u64,
}

/// A process that has committed no more than this is not asked what its cgroup allows: reading that takes longer than
/// all else a short-lived publisher does, and every machine has so much.
const SHARE_ASKED_AFTER: u64 = 4 << 20;

/// Closed rows that wait for their publishers at most: half the table, so that publishers which never take note
/// cannot use up the rows that others need.
const CLOSING_MAX: usize = ROWS_MAX as usize / 2;

/// A row that is closed, whose publisher has not yet taken note.
#[derive(Debug)]
struct ClosingRow {
    row: EntryKey,
    seat: u32,
    peer: Arc<PeerArena>,
}

impl OwnArena {
    /// Makes the two files, maps and seals them.
    ///
    /// # Errors
    /// What the kernel or the process's limits refuse: descriptors, address space, file size, memory.
    pub fn create(options: &ArenaOptions) -> Result<Arc<Self>, ShmError> {
        let barrier = sys::barrier::register();
        let bytes = sys::identity::clamp_size(options.bytes_max.min(ARENA_BYTES_MAX), ARENA_BYTES_MIN)?;
        let arena_fd = PrivateFd::new(memfd::create_arena("busway-arena", bytes)?)?;
        let bulk_fd = PrivateFd::new(memfd::create_arena("busway-bulk", bytes)?)?;
        let arena = Mapping::map_rw(arena_fd.as_fd(), bytes)?;
        let bulk = Mapping::map_rw(bulk_fd.as_fd(), bytes)?;
        memfd::commit(arena_fd.as_fd(), 0, EXTENTS_AT)?;
        memfd::seal(arena_fd.as_fd(), SealKind::Arena)?;
        memfd::seal(bulk_fd.as_fd(), SealKind::Bulk)?;
        let bulk_read_only = PrivateFd::new(memfd::reopen_read_only(bulk_fd.as_fd())?)?;
        let tables = Tables::new(Windows::whole(arena), Windows::whole(bulk), None)?;
        let process = ProcessId(sys::identity::random_u64()?.max(1));
        let own = Self {
            heap: Mutex::new(Heap::new(bytes)),
            domain: Mutex::new(None),
            closing: Mutex::new(Vec::new()),
            open_rows: Mutex::new(0),
            all_rows_closed: Condvar::new(),
            share: OnceLock::new(),
            mirror: OnceLock::new(),
            claims: Mutex::new(None),
            folds: Mutex::new(()),
            forks: fork::generation()?,
            tables,
            arena_fd,
            bulk_fd,
            bulk_read_only,
            process,
        };
        own.fill_header(options, bytes, barrier);
        Ok(Arc::new(own))
    }

    fn fill_header(&self, options: &ArenaOptions, bytes: u64, barrier: bool) {
        let header = self.tables.header();
        let name = options.name.as_bytes();
        let name = &name[..name.len().min(NAME_BYTES)];
        let flags =
            if options.monitored { FLAG_MONITORED } else { 0 } | if barrier { FLAG_BARRIER } else { 0 };
        let now = clock::monotonic_ns();
        header.layout_hash.store(layout_hash(), Ordering::Relaxed);
        header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
        header.pid.store(std::process::id(), Ordering::Relaxed);
        header.process.store(self.process.0, Ordering::Relaxed);
        header.arena_bytes.store(bytes, Ordering::Relaxed);
        header.bulk_bytes.store(bytes, Ordering::Relaxed);
        header.started_ns.store(now, Ordering::Relaxed);
        header.beat_ns.store(now, Ordering::Relaxed);
        header.uid.store(sys::identity::uid(), Ordering::Relaxed);
        header.flags.store(flags, Ordering::Relaxed);
        header.committed_bytes.store(EXTENTS_AT, Ordering::Relaxed);
        header.name_bytes.store(name.len() as u32, Ordering::Relaxed);
        store_text(&header.name, name);
        // pairs with Acquire in `PeerArena::map`
        header.magic.store(MAGIC, Ordering::Release);
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What this process has counted.
    pub fn counters(&self) -> &CounterPage {
        self.tables.counters()
    }

    /// Our incarnation.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The arena file, to be handed to peers, who can only map it read-only.
    pub fn arena_fd(&self) -> BorrowedFd<'_> {
        self.arena_fd.as_fd()
    }

    /// The bulk file, read-only, to be handed to peers.
    pub fn bulk_fd(&self) -> BorrowedFd<'_> {
        self.bulk_read_only.as_fd()
    }

    /// The life word, which the control thread locks.
    pub fn life_word(&self) -> &AtomicU32 {
        &self.tables.header().life.word
    }

    /// Marks that a domain has taken us in.
    pub fn note_membership(&self) {
        self.tables.header().flags.fetch_or(FLAG_MEMBER, Ordering::Relaxed);
    }

    /// Whether the control thread has left the bus: nobody is waited for any more.
    pub fn closed(&self) -> bool {
        self.tables.life() == Life::Closed
    }

    /// Marks that we have left. The life word stays as it is until the last row is closed, see
    /// [`OwnArena::wait_for_rows`], so that a death before that is seen.
    pub fn leave(&self) {
        // pairs with Acquire in `Tables::life`
        self.tables.header().flags.fetch_or(FLAG_LEFT, Ordering::Release);
        sys::futex::wake_all(self.life_word());
    }

    /// Whether rows of ours read or have samples that are held.
    pub fn has_open_rows(&self) -> bool {
        *self.open_rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner) > 0
    }

    /// Waits until no row is open.
    pub fn wait_for_rows(&self) {
        let mut open = self.open_rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while *open > 0 {
            open = self.all_rows_closed.wait(open).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// A row was made: [`OwnArena::row_closed`] follows.
    pub(crate) fn row_opened(&self) {
        *self.open_rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
    }

    /// Marks that the control thread was here.
    pub fn beat(&self, now_ns: u64) {
        self.tables.header().beat_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Joins the domain: from now on its byte budget is asked before the kernel is. A second call changes the domain.
    ///
    /// # Errors
    /// [`ShmError::Budget`] where the domain cannot even back what the arena has already.
    pub fn join(&self, domain: &Arc<Domain>) -> Result<(), ShmError> {
        let _heap = self.heap();
        let mut current = self.domain.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, domain)) {
            return Ok(());
        }
        let committed = self.tables.header().committed_bytes.load(Ordering::Relaxed);
        domain.ledger().reserve(committed)?;
        if let Some(old) = current.replace(domain.clone()) {
            old.ledger().release(committed);
        }
        Ok(())
    }

    /// The domain that was joined.
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether this process is a fork of the one that made the arena: nothing may be touched then.
    #[inline]
    pub fn forked(&self) -> bool {
        fork::forked_since(self.forks)
    }

    /// This arena as a peer sees it; mapped once.
    pub(crate) fn mirror(&self) -> Result<Arc<PeerArena>, ShmError> {
        if let Some(mirror) = self.mirror.get() {
            return Ok(mirror.clone());
        }
        let made = PeerArena::of_own(self)?;
        Ok(self.mirror.get_or_init(|| made).clone())
    }

    pub(crate) fn heap(&self) -> std::sync::MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A row has closed. Its entry is used again when its publisher has added it to its account.
    pub(crate) fn row_closed(&self, row: EntryKey, seat: u32, peer: &Arc<PeerArena>) {
        match seat.checked_sub(1) {
            Some(seat) => {
                let mut closing = self.closing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                closing.push(ClosingRow { row, seat, peer: peer.clone() });
            }
            None => self.give_row(row),
        }
        let mut open = self.open_rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *open -= 1;
        if *open == 0 {
            self.all_rows_closed.notify_all();
        }
    }

    /// Frees the entries of closed rows whose publishers have taken note or died. Called by the control thread.
    pub fn reap_rows(&self) {
        let mut closing = self.closing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        closing.retain(|closed| {
            let dead = matches!(closed.peer.life(), Life::Dead | Life::Closed);
            let noted = closed.peer.tables().seat(closed.seat).is_none_or(|seat| {
                let (_, at) = unkey(seat.key.load(Ordering::Acquire)); // pairs with Release in `seat`
                let ours = seat.subscriber.load(Ordering::Relaxed) == self.process.0
                    && seat.row.load(Ordering::Relaxed) == closed.row.word();
                at == state::FREE || !ours
            });
            if dead || noted {
                self.give_row(closed.row);
            }
            !(dead || noted)
        });
        // Only the exactness of their publishers' accounts is lost: the generation tells the next use apart.
        let surplus = closing.len().saturating_sub(CLOSING_MAX);
        for closed in closing.drain(..surplus) {
            self.give_row(closed.row);
        }
    }

    /// The entry of a row is free, and what it had counted is the process's.
    fn give_row(&self, row: EntryKey) {
        if let Some(entry) = self.tables.row(row.index) {
            self.folding(|page| {
                counters::add(&page.past_received, entry.delivered.load(Ordering::Relaxed));
                counters::add_causes(&page.past_missed, entry.all_lost());
                entry.key.store(key(row.generation, state::FREE), Ordering::Release); // pairs with Acquire in `seat`
            });
        }
        self.give_entry(Table::Row, row.index);
    }

    /// Rows that are closed and not yet free.
    pub fn rows_closing(&self) -> usize {
        self.closing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    /// The file of the claims of groups; made with the first.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn claims(&self) -> Result<Arc<ClaimsFile>, ShmError> {
        let mut claims = self.claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(claims) = &*claims {
            return Ok(claims.clone());
        }
        let made = Arc::new(ClaimsFile::create(self.process)?);
        *claims = Some(made.clone());
        Ok(made)
    }

    /// Takes pages from the kernel, after the domain's budget agreed.
    pub(crate) fn commit(&self, bulk: bool, offset: u64, bytes: u64) -> Result<(), ShmError> {
        let file = if bulk { &self.bulk_fd } else { &self.arena_fd };
        self.commit_of(file.as_fd(), offset, bytes)
    }

    /// As [`OwnArena::commit`], of any file of ours.
    pub(crate) fn commit_of(&self, file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<(), ShmError> {
        let first = offset / PAGE * PAGE;
        let len = (offset + bytes).div_ceil(PAGE) * PAGE - first;
        let committed = self.tables.header().committed_bytes.load(Ordering::Relaxed);
        if committed.saturating_add(len) > SHARE_ASKED_AFTER {
            let most = *self.share.get_or_init(crate::domain::process_limit);
            if committed.saturating_add(len) > most {
                return Err(ShmError::Share { wanted: len, committed, most });
            }
        }
        let domain = self.domain();
        if let Some(domain) = &domain {
            domain.ledger().reserve(len)?;
        }
        if let Err(error) = memfd::commit(file, first, len) {
            if let Some(domain) = &domain {
                domain.ledger().release(len);
            }
            return Err(error);
        }
        self.tables.header().committed_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Gives bulk pages back.
    pub(crate) fn punch(&self, offset: u64, bytes: u64) -> Result<(), ShmError> {
        let first = offset.div_ceil(PAGE) * PAGE;
        let end = (offset + bytes) / PAGE * PAGE;
        self.punch_of(self.bulk_fd.as_fd(), first, end.saturating_sub(first))
    }

    /// Gives whole pages of a file of ours back that is not sealed against it.
    pub(crate) fn punch_of(&self, file: BorrowedFd<'_>, first: u64, len: u64) -> Result<(), ShmError> {
        memfd::punch(file, first, len)?;
        self.tables.header().committed_bytes.fetch_sub(len, Ordering::Relaxed);
        if let Some(domain) = self.domain() {
            domain.ledger().release(len);
        }
        Ok(())
    }
}

impl Drop for OwnArena {
    fn drop(&mut self) {
        if self.forked() {
            return;
        }
        if let Some(domain) = self.domain() {
            domain.ledger().release(self.tables.header().committed_bytes.load(Ordering::Relaxed));
        }
    }
}
