//! The memory of one process: all that it writes and others read.
//!
//! [`OwnArena`] is the owner's side: one sparse memory file, mapped writable once and then sealed, and a second
//! file for bulk. [`PeerArena`] is everybody else's: the same files, mapped read-only after their seals, size and
//! layout were checked, and no further than they are used (`window`). What the tables mean is in `layout`; who may hold or gate what is decided in `seat`.
//!
//! Invariant: only the owner can write an arena. The kernel holds it: the seals forbid a second writable mapping,
//! writing through the descriptor, shrinking and growing. Every number read from a [`PeerArena`] is checked
//! before it is used as an offset, an index or a length.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use busway_wire::ProcessId;

use crate::domain::Domain;
use crate::error::ShmError;
use crate::fork::PrivateFd;
use crate::heap::{CHUNK_BYTES_MAX, Heap, Table};
use crate::layout::{
    ARENA_BYTES_MAX, ARENA_BYTES_MIN, ArenaHeader, EXTENTS_AT, EXTENTS_MAX, ExtentEntry, HEADS_AT,
    LAYOUT_VERSION, MAGIC, NAME_BYTES, PAGE, RINGS_AT, RINGS_MAX, ROWS_AT, ROWS_MAX, RingEntry, RowEntry,
    SEATS_AT, SEATS_MAX, SeatEntry, layout_hash, state, unkey,
};
use crate::life::{self, Life};
use crate::seat::EntryKey;
use crate::slot::ChunkRef;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::memfd::{self, Mapping, SealKind, Shared};
use crate::view::{Mapped, Payload, Region};
use crate::window::{Whose, Windows};
use crate::{clock, fork, sys};

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

/// Tables that can be read in any arena, one's own or a peer's.
///
/// Of a peer's only the header is mapped until something else is asked for: what cannot be mapped then is not there.
#[derive(Debug)]
pub struct Tables {
    header: Mapped<ArenaHeader>,
    parts: OnceLock<Parts>,
    arena: Windows,
    bulk: Windows,
    /// The files of a process of another user, whose chunks are copied and never looked at in a mapping: the memory that
    /// a look takes where there is none yet is charged to who looks.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    arena: PrivateFd,
    bulk: PrivateFd,
}

/// The tables behind the header, all in the first window of the arena.
#[derive(Debug)]
struct Parts {
    extents: Mapped<[ExtentEntry]>,
    heads: Mapped<[AtomicU64]>,
    rings: Mapped<[RingEntry]>,
    rows: Mapped<[RowEntry]>,
    seats: Mapped<[SeatEntry]>,
}

impl Parts {
    fn map(arena: &Windows) -> Result<Self, ShmError> {
        Ok(Self {
            extents: arena.slice(EXTENTS_AT, u64::from(EXTENTS_MAX))?,
            heads: arena.slice(HEADS_AT, u64::from(RINGS_MAX))?,
            rings: arena.slice(RINGS_AT, u64::from(RINGS_MAX))?,
            rows: arena.slice(ROWS_AT, u64::from(ROWS_MAX))?,
            seats: arena.slice(SEATS_AT, u64::from(SEATS_MAX))?,
        })
    }
}

impl Tables {
    fn new(arena: Windows, bulk: Windows, files: Option<Files>) -> Result<Self, ShmError> {
        Ok(Self { header: arena.seed().get(0)?, parts: OnceLock::new(), arena, bulk, files })
    }

    #[inline]
    fn parts(&self) -> Option<&Parts> {
        self.parts.get().or_else(|| self.map_parts())
    }

    #[cold]
    fn map_parts(&self) -> Option<&Parts> {
        let parts = Parts::map(&self.arena).ok()?;
        Some(self.parts.get_or_init(|| parts))
    }

    /// The first page.
    pub fn header(&self) -> &ArenaHeader {
        &self.header
    }

    /// What the owner's life word and flags say: one that has left and holds samples is closed, until it dies.
    pub fn life(&self) -> Life {
        let life = life::read(&self.header.life.word);
        // pairs with Release in `OwnArena::leave`
        let left = life == Life::Alive && self.header.flags.load(Ordering::Acquire) & FLAG_LEFT != 0;
        if left { Life::Closed } else { life }
    }

    /// Entry `index` of the ring table.
    pub fn ring(&self, index: u32) -> Option<&RingEntry> {
        self.parts()?.rings.get(index as usize)
    }

    /// Entry `index` of the row table.
    pub fn row(&self, index: u32) -> Option<&RowEntry> {
        self.parts()?.rows.get(index as usize)
    }

    /// Entry `index` of the seat table.
    pub fn seat(&self, index: u32) -> Option<&SeatEntry> {
        self.parts()?.seats.get(index as usize)
    }

    /// The head of ring `index`: the sequence of the last message published.
    pub fn head(&self, index: u32) -> Option<&AtomicU64> {
        self.parts()?.heads.get(index as usize)
    }

    /// The arena file's memory.
    pub fn arena(&self) -> &Windows {
        &self.arena
    }

    /// Bytes of addresses that are taken for the two files, beyond their first pages.
    pub fn mapped_bytes(&self) -> u64 {
        self.arena.mapped_bytes() + self.bulk.mapped_bytes()
    }

    /// A checked pointer to a `T` in the arena file.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`].
    pub fn at<T: Shared>(&self, offset: u64) -> Result<Mapped<T>, ShmError> {
        self.arena.get(offset)
    }

    /// Where a chunk lies: bulk or not, offset and size, checked against the file's size.
    pub fn resolve(&self, chunk: ChunkRef) -> Option<ChunkPlace> {
        let entry = self.parts()?.extents.get(chunk.extent() as usize)?;
        // Relaxed: the entry was written before the slot that names it was stored with release.
        let count = entry.count.load(Ordering::Relaxed);
        let bytes = entry.chunk_bytes.load(Ordering::Relaxed);
        let first = entry.offset.load(Ordering::Relaxed);
        // Every honest chunk begins and ends on a cache line, and typed samples rely on it.
        let aligned = bytes.is_multiple_of(64) && first.is_multiple_of(64);
        if chunk.index() >= count || !aligned || bytes == 0 || bytes > CHUNK_BYTES_MAX {
            return None;
        }
        let bulk = entry.bulk.load(Ordering::Relaxed) == 1;
        let offset = first.checked_add(bytes.checked_mul(u64::from(chunk.index()))?)?;
        self.file(bulk).contains(offset, bytes).then_some(ChunkPlace { bulk, offset, bytes })
    }

    /// The first `bytes` bytes of a chunk: where they are, or a copy where their owner is another user.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`]; [`ShmError::AddressSpace`]; [`ShmError::Memory`] where there is none for a copy.
    pub fn chunk_bytes(&self, place: ChunkPlace, bytes: u64) -> Result<Payload, ShmError> {
        if bytes > place.bytes {
            return Err(ShmError::OutOfBounds { offset: place.offset, len: bytes, size: place.bytes });
        }
        if let Some(files) = &self.files {
            let file = if place.bulk { &files.bulk } else { &files.arena };
            return memfd::read(file, place.offset, bytes).map(Payload::of_copy);
        }
        self.file(place.bulk).bytes(place.offset, bytes)
    }

    fn file(&self, bulk: bool) -> &Windows {
        if bulk { &self.bulk } else { &self.arena }
    }

    /// All of one of our own files, which are mapped whole; the first pages of a peer's.
    pub(crate) fn region(&self, bulk: bool) -> &Region {
        self.file(bulk).seed()
    }

    pub(crate) fn extents(&self) -> &[ExtentEntry] {
        self.parts().map_or(&[], |parts| &parts.extents)
    }

    /// The owner's name. What would move a terminal's cursor or colour a log is replaced.
    pub fn name(&self) -> String {
        let header = self.header();
        let len = (header.name_bytes.load(Ordering::Relaxed) as usize).min(NAME_BYTES);
        let shown =
            |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        text(&header.name, len).chars().map(shown).collect()
    }

    /// The topic's name that ring `index` carries; `None` where what stands there is not a name.
    pub fn ring_topic(&self, index: u32) -> Option<busway_wire::Topic> {
        let entry = self.ring(index)?;
        let len = entry.topic_bytes.load(Ordering::Relaxed) as usize;
        if len > 255 {
            return None;
        }
        busway_wire::Topic::new(&text(&entry.name, len)).ok()
    }
}

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkPlace {
    /// In the bulk file.
    pub bulk: bool,
    /// Byte offset in its file.
    pub offset: u64,
    /// Bytes of the chunk, header and payload.
    pub bytes: u64,
}

fn text(words: &[AtomicU64], len: usize) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).take(len).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn store_text(words: &[AtomicU64], bytes: &[u8]) {
    let mut parts = bytes.chunks(8);
    for word in words {
        let mut padded = [0; 8];
        if let Some(part) = parts.next() {
            padded[..part.len()].copy_from_slice(part);
        }
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
}

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
    process: ProcessId,
    forks: u64,
}

/// The first window of a bulk file, made with the first large message.
const BULK_WINDOW_BYTES: u64 = 256 << 20;

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

    pub(crate) fn heap(&self) -> std::sync::MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A row has closed. Its entry is used again when its publisher has added it to its account.
    pub(crate) fn row_closed(&self, row: EntryKey, seat: u64, peer: &Arc<PeerArena>) {
        match seat.checked_sub(1).and_then(|seat| u32::try_from(seat).ok()) {
            Some(seat) => {
                let mut closing = self.closing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                closing.push(ClosingRow { row, seat, peer: peer.clone() });
            }
            None => self.give_entry(Table::Row, row.index),
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
                self.give_entry(Table::Row, closed.row.index);
            }
            !(dead || noted)
        });
        // Only the exactness of their publishers' accounts is lost: the generation tells the next use apart.
        let surplus = closing.len().saturating_sub(CLOSING_MAX);
        for closed in closing.drain(..surplus) {
            self.give_entry(Table::Row, closed.row.index);
        }
    }

    /// Rows that are closed and not yet free.
    pub fn rows_closing(&self) -> usize {
        self.closing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    /// Takes pages from the kernel, after the domain's budget agreed.
    pub(crate) fn commit(&self, bulk: bool, offset: u64, bytes: u64) -> Result<(), ShmError> {
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
        let file = if bulk { &self.bulk_fd } else { &self.arena_fd };
        if let Err(error) = memfd::commit(file.as_fd(), first, len) {
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
        let len = end.saturating_sub(first);
        memfd::punch(self.bulk_fd.as_fd(), first, len)?;
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
