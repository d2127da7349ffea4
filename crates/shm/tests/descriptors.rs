//! What a peer hands over is checked before it is mapped, and what it may do with ours is decided by the kernel (rows
//! A4, A28; cases 36-39 and 42).
//!
//! The files here are made by hand, as a hostile or broken peer would make them; nothing of ours helps them.
#![cfg(not(loom))]
#![expect(clippy::print_stdout, reason = "evidence lines are read by the test runner")]
#![expect(unsafe_code, reason = "what the kernel must refuse has no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use busway_shm::arena::{ArenaOptions, ChunkPlace, OwnArena, PeerArena};
use busway_shm::domain::{self, Domain};
use busway_shm::error::ShmError;
use busway_shm::heap::class_bytes;
use busway_shm::layout::{
    ARENA_BYTES_MAX, ARENA_BYTES_MIN, ArenaHeader, EXTENTS_AT, ExtentEntry, HEAP_AT, LAYOUT_VERSION, MAGIC,
    layout_hash,
};
use busway_shm::slot::ChunkRef;
use busway_shm::sync::Ordering;
use busway_shm::sys::memfd::{self, Mapping, SealKind};
use busway_shm::sys::{event, identity};
use busway_wire::ProcessId;
use busway_wire::limits::{ARENA_BYTES_DEFAULT, MEMBERS_MAX};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};

const PROCESS: ProcessId = ProcessId(0x1234);

/// Mappings are counted for the whole process: the tests that count take turns.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mappings of memfds in this process: those are what an arena would leave behind.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    maps.lines().filter(|line| line.contains("/memfd:")).count()
}

fn memory(bytes: u64) -> OwnedFd {
    let fd =
        rustix::fs::memfd_create("forged", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    rustix::fs::ftruncate(&fd, bytes).expect("a sparse file");
    fd
}

const FIXED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn sealed(fd: OwnedFd, seals: SealFlags) -> OwnedFd {
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals can be added");
    fd
}

/// An arena file made by hand, whose header `alter` may spoil.
fn forged(bytes: u64, alter: impl FnOnce(&ArenaHeader)) -> OwnedFd {
    let fd = memory(bytes);
    let mapping = Mapping::map_rw(&fd, 4096).expect("the first page");
    let header: &ArenaHeader = mapping.get(0).expect("it begins there");
    header.magic.store(MAGIC, Ordering::Relaxed);
    header.layout_hash.store(layout_hash(), Ordering::Relaxed);
    header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
    header.process.store(PROCESS.0, Ordering::Relaxed);
    header.pid.store(77, Ordering::Relaxed);
    alter(header);
    sealed(fd, FIXED | SealFlags::FUTURE_WRITE)
}

fn arena_file() -> OwnedFd {
    forged(ARENA_BYTES_MIN, |_| {})
}

fn bulk_file() -> OwnedFd {
    let fd = sealed(memory(ARENA_BYTES_MIN), FIXED);
    memfd::reopen_read_only(&fd).expect("read-only")
}

fn event_file() -> OwnedFd {
    event::create().expect("an eventfd")
}

fn disk_file(bytes: u64) -> OwnedFd {
    let path =
        std::env::current_exe().expect("we run").with_file_name(format!("forged-{}", std::process::id()));
    let file =
        File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("a file");
    std::fs::remove_file(&path).expect("it was just made");
    file.set_len(bytes).expect("a sparse file");
    file.into()
}

fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty())
}

struct Forged {
    what: &'static str,
    arena: OwnedFd,
    bulk: OwnedFd,
    expected: ProcessId,
}

impl Forged {
    fn new(what: &'static str) -> Self {
        Self { what, arena: arena_file(), bulk: bulk_file(), expected: PROCESS }
    }

    fn arena(what: &'static str, arena: OwnedFd) -> Self {
        Self { arena, ..Self::new(what) }
    }

    fn bulk(what: &'static str, bulk: OwnedFd) -> Self {
        Self { bulk, ..Self::new(what) }
    }

    /// Fails unless it is refused for `reason`, with nothing left mapped.
    fn check(self, reason: &str) {
        let before = mappings();
        let error = PeerArena::map(self.arena, self.bulk, self.expected).expect_err(self.what);
        assert!(error.to_string().contains(reason), "{}: {error}", self.what);
        assert_eq!(mappings(), before, "{}: something stayed mapped", self.what);
    }
}

#[test]
fn a_file_made_by_hand_is_an_arena_if_it_is_like_one_in_every_respect() {
    let _alone = alone();
    let Forged { arena, bulk, expected, .. } = Forged::new("all in order");
    let peer = PeerArena::map(arena, bulk, expected).expect("the forger made no mistake");
    assert_eq!((peer.process(), peer.pid(), peer.name()), (PROCESS, 77, String::new()));
}

#[test]
fn arenas_that_are_unsealed_short_huge_or_no_shared_memory_are_refused_with_their_reason() {
    let _alone = alone();
    let all = FIXED | SealFlags::FUTURE_WRITE;
    let seals = [
        (SealFlags::SHRINK, "missing: shrink"),
        (SealFlags::GROW, "missing: grow"),
        (SealFlags::SEAL, "missing: seal"),
        (SealFlags::FUTURE_WRITE, "missing: future-write"),
    ];
    let mut tried = 0;
    for (seal, reason) in seals {
        let fd = memory(ARENA_BYTES_MIN);
        Forged::arena("arena without a seal", sealed(fd, all - seal)).check(reason);
        tried += 1;
        if seal != SealFlags::FUTURE_WRITE {
            let fd = sealed(memory(ARENA_BYTES_MIN), FIXED - seal);
            let read_only = memfd::reopen_read_only(&fd).expect("read-only");
            Forged::bulk("bulk without a seal", read_only).check(reason);
            tried += 1;
        }
    }
    let (pipe, _other) = rustix::pipe::pipe().expect("a pipe");
    let cases = [
        Forged::arena("empty arena", forged_size(0)),
        Forged::arena("one page", forged_size(4096)),
        Forged::arena("a byte short", forged_size(ARENA_BYTES_MIN - 1)),
        Forged::arena("more than all others may have", forged_size(ARENA_BYTES_MAX + 4096)),
        Forged::bulk("empty bulk", memfd::reopen_read_only(sealed(memory(0), FIXED)).expect("read-only")),
    ];
    for case in cases {
        case.check("at least");
        tried += 1;
    }
    Forged::arena("a file on disk", disk_file(ARENA_BYTES_MIN)).check("not anonymous shared memory");
    Forged::bulk("a file on disk", disk_file(ARENA_BYTES_MIN)).check("not anonymous shared memory");
    Forged::arena("a pipe", pipe).check("not anonymous shared memory");
    Forged::arena("an eventfd", event_file()).check("not anonymous shared memory");
    println!("evidence: refused={}", tried + 4);
}

fn forged_size(bytes: u64) -> OwnedFd {
    sealed(memory(bytes), FIXED | SealFlags::FUTURE_WRITE)
}

#[test]
fn arenas_of_another_layout_version_magic_or_incarnation_are_refused_with_their_reason() {
    let _alone = alone();
    type Alter = fn(&ArenaHeader);
    let headers: [(&str, Alter, &str); 5] = [
        ("no magic", |header| header.magic.store(0, Ordering::Relaxed), "magic"),
        ("another magic", |header| header.magic.store(domain::MAGIC, Ordering::Relaxed), "magic"),
        (
            "one bit",
            |header| header.layout_hash.store(layout_hash() ^ 1, Ordering::Relaxed),
            "layout differs",
        ),
        ("a version", |header| header.version.store(LAYOUT_VERSION + 1, Ordering::Relaxed), "layout differs"),
        ("a process", |header| header.process.store(PROCESS.0 + 1, Ordering::Relaxed), "belongs to process"),
    ];
    for (what, alter, reason) in headers {
        Forged::arena(what, forged(ARENA_BYTES_MIN, alter)).check(reason);
    }
    let error = ShmError::Layout { theirs: layout_hash() ^ 1, ours: layout_hash() };
    assert!(error.to_string().contains("run the same version"), "{error}");
    println!("evidence: headers={}", headers.len());
}

#[test]
fn swapped_and_writable_files_are_refused_with_their_reason() {
    let _alone = alone();
    let Forged { arena, bulk, expected, .. } = Forged::new("");
    Forged { what: "swapped", arena: bulk, bulk: arena, expected }.check("missing: future-write");
    Forged::bulk("bulk that can be written", sealed(memory(ARENA_BYTES_MIN), FIXED))
        .check("must be read-only");
    Forged::bulk("the arena as bulk", arena_file()).check("must be read-only");
}

#[test]
fn domain_segments_are_refused_in_the_same_way() {
    let _alone = alone();
    let before = mappings();
    let refuse = |fd: OwnedFd, reason: &str| {
        let error = Domain::map(fd).expect_err(reason);
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(mappings(), before, "{reason}: something stayed mapped");
    };
    refuse(memory(domain::SIZE), "missing: seal, shrink, grow");
    refuse(sealed(memory(domain::SIZE), FIXED), "magic");
    refuse(sealed(memory(4095), FIXED), "at least");
    refuse(sealed(memory(domain::SIZE), FIXED | SealFlags::FUTURE_WRITE), "writable by the realm");
    refuse(bulk_file(), "writable by the realm");
    refuse(disk_file(domain::SIZE), "not anonymous shared memory");
}

/// What a peer has of us.
fn handed_over() -> (Arc<OwnArena>, OwnedFd, OwnedFd) {
    let options = ArenaOptions { name: "owner".into(), bytes_max: ARENA_BYTES_MIN, monitored: true };
    let own = OwnArena::create(&options).expect("an arena");
    let arena = identity::duplicate(own.arena_fd()).expect("a descriptor");
    let bulk = identity::duplicate(own.bulk_fd()).expect("a descriptor");
    (own, arena, bulk)
}

fn map(fd: BorrowedFd<'_>, protection: rustix::mm::ProtFlags) -> Result<*mut u8, rustix::io::Errno> {
    // SAFETY: the kernel chooses the place; nothing refers to what is there.
    let start = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), 4096, protection, rustix::mm::MapFlags::SHARED, fd, 0)
    };
    start.map(<*mut _>::cast)
}

#[test]
fn no_process_can_write_an_arena_that_another_owns() {
    use rustix::mm::{MprotectFlags, ProtFlags};
    let _alone = alone();
    let (own, arena, bulk) = handed_over();
    let mut refused = 0_u32;
    let mut refuse = |what: &str, happened: bool| {
        assert!(!happened, "the kernel allowed {what}");
        refused += 1;
    };
    for (kind, fd) in [("the arena", &arena), ("the bulk file", &bulk)] {
        let named = |what: &str| format!("{what} of {kind}");
        refuse(&named("a writable mapping"), map(fd.as_fd(), ProtFlags::READ | ProtFlags::WRITE).is_ok());
        let start = map(fd.as_fd(), ProtFlags::READ).expect("reading is allowed");
        // SAFETY: the page is ours and nothing refers to it.
        let protected =
            unsafe { rustix::mm::mprotect(start.cast(), 4096, MprotectFlags::READ | MprotectFlags::WRITE) };
        refuse(&named("mprotect to writable"), protected.is_ok());
        // SAFETY: the page was mapped above.
        unsafe { rustix::mm::munmap(start.cast(), 4096) }.expect("it was ours");
        refuse(&named("write"), rustix::io::pwrite(fd, b"x", 0).is_ok());
        refuse(&named("truncation"), rustix::fs::ftruncate(fd, 4096).is_ok());
        refuse(&named("truncation to nothing"), rustix::fs::ftruncate(fd, 0).is_ok());
        refuse(&named("growth"), rustix::fs::ftruncate(fd, 2 * ARENA_BYTES_MIN).is_ok());
        refuse(&named("a hole"), memfd::punch(fd, 0, 4096).is_ok());
        refuse(&named("a seal"), rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE).is_ok());
    }
    // A new description of the arena can be had from /proc, and is worth no more than the old one.
    let writable = reopen(&arena, OFlags::RDWR).expect("the mode of the arena allows its user to open it");
    refuse(
        "a writable mapping of a reopened arena",
        map(writable.as_fd(), ProtFlags::READ | ProtFlags::WRITE).is_ok(),
    );
    refuse("write to a reopened arena", rustix::io::pwrite(&writable, b"x", 0).is_ok());
    refuse(
        "truncation on open",
        reopen(&arena, OFlags::RDWR | OFlags::TRUNC).is_ok() && memfd::size(&arena) == Ok(0),
    );
    assert_eq!(memfd::size(&arena), Ok(ARENA_BYTES_MIN));
    assert_eq!(
        own.tables().header().magic.load(Ordering::Relaxed),
        MAGIC,
        "the owner's words are as they were"
    );
    own.beat(1);
    println!("evidence: refused={refused}");
}

#[test]
fn a_segment_cannot_be_truncated_under_its_readers() {
    let _alone = alone();
    let (own, arena, bulk) = handed_over();
    let peer = PeerArena::of_own(&own).expect("mapped");
    for fd in [own.arena_fd(), own.bulk_fd(), arena.as_fd(), bulk.as_fd()] {
        assert!(rustix::fs::ftruncate(fd, 0).is_err(), "its owner cannot either");
    }
    // The last word of the file: a shorter file would end this test with SIGBUS.
    let last =
        peer.tables().arena().slice::<busway_shm::sync::AtomicU64>(ARENA_BYTES_MIN - 8, 1).expect("inside");
    assert_eq!(last[0].load(Ordering::Relaxed), 0);
    assert!(memfd::check_seals(&arena, SealKind::Arena).is_ok());
}

/// Bytes of addresses that this process takes now.
fn addresses() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

/// A peer with two sparse files of `bytes` bytes, with a chunk of a page each: where the first one lies, or the last.
fn sparse_peer(bytes: u64, chunks_at: [u64; 2]) -> Arc<PeerArena> {
    let arena = memory(bytes);
    let mapping = Mapping::map_rw(&arena, EXTENTS_AT + 4096).expect("the first pages");
    let header: &ArenaHeader = mapping.get(0).expect("it begins there");
    let extents: &[ExtentEntry] = mapping.slice(EXTENTS_AT, 2).expect("inside");
    for ((entry, at), bulk) in extents.iter().zip(chunks_at).zip([0, 1]) {
        entry.offset.store(at, Ordering::Relaxed);
        entry.chunk_bytes.store(4096, Ordering::Relaxed);
        entry.count.store(1, Ordering::Relaxed);
        entry.bulk.store(bulk, Ordering::Relaxed);
    }
    header.layout_hash.store(layout_hash(), Ordering::Relaxed);
    header.version.store(LAYOUT_VERSION, Ordering::Relaxed);
    header.process.store(PROCESS.0, Ordering::Relaxed);
    header.magic.store(MAGIC, Ordering::Release);
    drop(mapping);
    let bulk = memfd::reopen_read_only(sealed(memory(bytes), FIXED)).expect("read-only");
    PeerArena::map(sealed(arena, FIXED | SealFlags::FUTURE_WRITE), bulk, PROCESS).expect("all in order")
}

/// Looks at a table and at both chunks; false where one of them cannot be mapped.
fn looked_at(peer: &PeerArena) -> bool {
    let tables = peer.tables();
    assert!(tables.ring(0).is_some() && tables.seat(0).is_some(), "the tables are always to be had");
    [0, 1].into_iter().all(|extent| {
        let place = tables.resolve(ChunkRef::new(extent, 0).expect("fits")).expect("inside its file");
        tables.chunk_bytes(place, 64).is_ok_and(|bytes| bytes.as_slice() == [0; 64])
    })
}

#[test]
fn two_thousand_peers_of_the_default_size_fit_into_a_process_and_members_of_a_whole_domain_would() {
    let _alone = alone();
    const PEERS: u64 = 2_000;
    let before = addresses();
    let peers: Vec<_> = (0..PEERS).map(|_| sparse_peer(ARENA_BYTES_DEFAULT, [HEAP_AT, 0])).collect();
    let known = (addresses() - before) / PEERS;
    // A holder knows everybody: the life word, the name and the beats of each.
    assert!(known <= 64 << 10, "a peer that is only known takes {known} bytes of addresses");
    assert!(peers.iter().all(|peer| looked_at(peer)));
    let used = (addresses() - before) / PEERS;
    assert!(used * MEMBERS_MAX as u64 <= 16 << 40, "a peer takes {used} bytes of addresses");
    println!("evidence: peers={PEERS} addresses_known={known} addresses_used={used}");
}

#[test]
fn peers_with_the_largest_files_leave_a_process_the_addresses_that_it_needs() {
    let _alone = alone();
    let before = addresses();
    // Each names the last bytes of its files, as a hostile publisher would.
    let hostile: Vec<_> =
        (0..300).map(|_| sparse_peer(ARENA_BYTES_MAX, [ARENA_BYTES_MAX - 4096; 2])).collect();
    assert!(addresses().saturating_sub(before) <= 300 * (64 << 10), "to know them costs next to nothing");
    let mapped = hostile.iter().filter(|peer| looked_at(peer)).count();
    let taken = addresses().saturating_sub(before);
    assert!(mapped > 64 && mapped < 300 && taken < 80 << 40, "{mapped} were mapped, {taken} bytes");
    // Everybody else can still be met, and read; so can a new arena be made.
    let honest: Vec<_> = (0..500).map(|_| sparse_peer(ARENA_BYTES_DEFAULT, [HEAP_AT, 0])).collect();
    assert!(honest.iter().all(|peer| looked_at(peer)));
    let options = ArenaOptions { name: "new".into(), bytes_max: ARENA_BYTES_DEFAULT, monitored: true };
    drop(OwnArena::create(&options).expect("an arena"));
    drop(hostile);
    drop(honest);
    assert!(addresses().saturating_sub(before) < 1 << 30, "what they took is given back");
    println!("evidence: hostile_mapped={mapped} addresses_taken={taken}");
}

#[test]
fn chunks_that_another_user_has_not_backed_take_no_memory_of_who_reads_them() {
    let _alone = alone();
    const CHUNK: u64 = 8 << 20;
    let made = || {
        let arena = forged(ARENA_BYTES_MIN, |_| {});
        (arena, sealed(memory(ARENA_BYTES_MIN), FIXED))
    };
    let (arena, bulk) = made();
    let user = rustix::process::Uid::from_raw(54_321);
    if rustix::fs::fchown(&arena, Some(user), None)
        .and_then(|()| rustix::fs::fchown(&bulk, Some(user), None))
        .is_err()
    {
        println!("skipped: only root can give a file to another user");
        return;
    }
    let read_only = memfd::reopen_read_only(&bulk).expect("read-only");
    rustix::io::pwrite(&bulk, b"backed", CHUNK).expect("the owner can write");
    let peer = PeerArena::map(&arena, &read_only, PROCESS).expect("all in order");
    assert_eq!(peer.uid(), 54_321);
    let before = (memfd::committed(&arena).expect("a file"), memfd::committed(&bulk).expect("a file"));
    // What a hostile publisher would have written into its table of extents, and named in a slot.
    for (bulk, offset) in [(false, HEAP_AT), (true, 0), (true, CHUNK), (true, ARENA_BYTES_MIN - CHUNK)] {
        let place = ChunkPlace { bulk, offset, bytes: CHUNK };
        let copy = peer.tables().chunk_bytes(place, CHUNK).expect("inside its file");
        assert_eq!(copy.as_slice().len() as u64, CHUNK);
        assert_eq!(copy.as_slice().starts_with(b"backed"), (bulk, offset) == (true, CHUNK));
        assert!(copy.as_slice()[6..].iter().all(|byte| *byte == 0));
    }
    let outside = ChunkPlace { bulk: true, offset: ARENA_BYTES_MIN - 64, bytes: CHUNK };
    assert!(peer.tables().chunk_bytes(outside, CHUNK).is_err());
    let after = (memfd::committed(&arena).expect("a file"), memfd::committed(&bulk).expect("a file"));
    assert_eq!(after, before, "reading took memory");
    assert_eq!(peer.tables().mapped_bytes(), 0, "and no addresses");
    println!("evidence: read={} committed={}", 4 * CHUNK, after.0 + after.1 - before.0 - before.1);
}

#[test]
fn a_thousand_refused_peers_leave_no_mapping_and_no_descriptor() {
    let _alone = alone();
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count();
    let refuse = |round: u64| {
        let arena = forged(ARENA_BYTES_MIN, |header| header.process.store(round, Ordering::Relaxed));
        let expected = ProcessId(round + 1);
        PeerArena::map(arena, bulk_file(), expected).expect_err("another incarnation");
    };
    // What is made once for the whole process is there afterwards.
    refuse(0);
    let before = (mappings(), descriptors());
    (0..1000).for_each(refuse);
    assert_eq!((mappings(), descriptors()), before);
}

/// Kibibytes of the mapping that has `address` which huge pages map.
fn huge_kib(address: *const u8) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc is mounted");
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let range = range.and_then(|(from, to)| {
            Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
        });
        if let Some(range) = range {
            inside = range.contains(&address.addr());
        } else if let Some(kib) = line.strip_prefix("ShmemPmdMapped:").filter(|_| inside) {
            return kib.trim().trim_end_matches(" kB").parse().expect("a number");
        }
    }
    0
}

/// Whether the kernel makes huge pages of memory that is there, when it is asked to.
fn huge_pages_are_made() -> bool {
    const HUGE: usize = 2 << 20;
    let file = memory(HUGE as u64);
    memfd::commit(&file, 0, HUGE as u64).expect("2 MiB");
    let null = std::ptr::null_mut();
    // SAFETY: no address is asked for, so the kernel chooses a range that nobody uses.
    let reserved = unsafe { libc::mmap(null, 2 * HUGE, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    let start = reserved.map_addr(|address| address.next_multiple_of(HUGE));
    let (flags, fd) = (libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd());
    // SAFETY: the range lies inside what was reserved, which nothing refers into.
    let mapped = unsafe { libc::mmap(start, HUGE, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    // SAFETY: the range was mapped just now, and the advice leaves its contents as they are.
    let refused = unsafe { libc::madvise(mapped, HUGE, libc::MADV_COLLAPSE) };
    // SAFETY: all of it was reserved here, and nothing refers into it.
    unsafe { libc::munmap(reserved, 2 * HUGE) };
    refused == 0
}

#[test]
fn bulk_lies_in_huge_pages_for_its_owner_and_for_its_readers() {
    let _alone = alone();
    if !huge_pages_are_made() {
        println!("skipped: this kernel makes no huge pages of memory files");
        return;
    }
    let options = ArenaOptions { name: "huge".to_owned(), bytes_max: ARENA_BYTES_MIN, monitored: false };
    let own = OwnArena::create(&options).expect("an arena");
    let peer = PeerArena::map(own.arena_fd(), own.bulk_fd(), own.process()).expect("all in order");
    // The first leaves the next free byte where no huge page begins.
    for class in [class_bytes(1 << 20), class_bytes(5 << 20)] {
        let mut chunks = Vec::new();
        own.take_chunks(class, 1, &mut chunks).expect("there is room");
        let place = own.tables().resolve(chunks[0]).expect("it is ours");
        let written = own.tables().chunk_bytes(place, class).expect("it is ours");
        let read = peer.tables().chunk_bytes(place, class).expect("named by its owner");
        let sum: u64 = read.as_slice().iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(sum, 0, "fresh memory");
        let huge = [huge_kib(written.as_slice().as_ptr()), huge_kib(read.as_slice().as_ptr())];
        let wanted = if class < 2 << 20 { 0 } else { 4 << 10 };
        assert_eq!(huge, [wanted; 2], "kibibytes in huge pages, of the owner and of the reader");
    }
    println!("evidence: bytes_in_huge_pages={}", 4 << 20);
}
