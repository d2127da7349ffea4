//! Segments keep what their seals promise, and nothing else passes for one.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;
use crate::sync::Ordering;

const PAGE: u64 = 4096;

fn segment(size: u64) -> OwnedFd {
    create_arena("test", size).unwrap()
}

fn reopen_writable(fd: &OwnedFd) -> OwnedFd {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().into()
}

#[test]
fn nobody_but_the_owner_can_write_a_sealed_arena() {
    let fd = segment(4 * PAGE);
    let owner = Mapping::map_rw(&fd, 4 * PAGE).unwrap();
    seal(&fd, SealKind::Arena).unwrap();
    assert!(Mapping::map_rw(&fd, PAGE).is_err(), "a second writable mapping");
    assert!(Mapping::map_rw(reopen_writable(&fd), PAGE).is_err(), "a writable mapping through /proc");
    assert!(rustix::io::pwrite(&fd, b"x", 0).is_err(), "write(2)");
    assert!(rustix::fs::ftruncate(&fd, 0).is_err(), "shrinking");
    assert!(rustix::fs::ftruncate(&fd, 8 * PAGE).is_err(), "growing");
    assert!(punch(&fd, 0, PAGE).is_err(), "punching a hole");
    assert!(seal(&fd, SealKind::Bulk).is_err(), "adding seals");
    let peer = Mapping::map_ro(&fd, 4 * PAGE).unwrap();
    // SAFETY: the range is `peer`'s; the call is expected to be refused.
    let raised =
        unsafe { rustix::mm::mprotect(peer.as_ptr().cast(), peer.len(), rustix::mm::MprotectFlags::WRITE) };
    assert!(raised.is_err(), "mprotect must not make a peer's mapping writable");
    owner.word_u64(PAGE).unwrap().store(7, Ordering::Release);
    assert_eq!(peer.word_u64(PAGE).unwrap().load(Ordering::Acquire), 7, "the owner still writes");
    assert_eq!(check_seals(&fd, SealKind::Arena).unwrap(), 4 * PAGE);
}

#[test]
fn sealed_arena_grows_its_committed_memory_inside_its_size() {
    let fd = segment(64 * PAGE);
    let owner = Mapping::map_rw(&fd, 64 * PAGE).unwrap();
    seal(&fd, SealKind::Arena).unwrap();
    assert_eq!(committed(&fd).unwrap(), 0, "a new arena is sparse");
    commit(&fd, 8 * PAGE, 16 * PAGE).unwrap();
    assert_eq!(committed(&fd).unwrap(), 16 * PAGE);
    assert!(matches!(commit(&fd, 60 * PAGE, 5 * PAGE), Err(ShmError::OutOfBounds { .. })));
    assert!(matches!(commit(&fd, u64::MAX, 2), Err(ShmError::OutOfBounds { .. })));
    drop(owner);
}

#[test]
fn bulk_gives_pages_back_and_is_read_only_to_peers() {
    let fd = segment(64 * PAGE);
    let owner = Mapping::map_rw(&fd, 64 * PAGE).unwrap();
    seal(&fd, SealKind::Bulk).unwrap();
    commit(&fd, 0, 64 * PAGE).unwrap();
    owner.word_u64(0).unwrap().store(9, Ordering::Release);
    punch(&fd, 0, 32 * PAGE).unwrap();
    assert_eq!(committed(&fd).unwrap(), 32 * PAGE, "the hole's pages went back");
    assert_eq!(owner.word_u64(0).unwrap().load(Ordering::Acquire), 0, "a hole reads as zero");
    let peers = reopen_read_only(&fd).unwrap();
    assert_eq!(check_seals(&peers, SealKind::Bulk).unwrap(), 64 * PAGE);
    assert!(Mapping::map_rw(&peers, PAGE).is_err(), "the peers' descriptor is read-only");
    assert!(punch(&peers, 0, PAGE).is_err());
    Mapping::map_ro(&peers, 64 * PAGE).unwrap();
    assert_eq!(check_seals(&fd, SealKind::Bulk), Err(ShmError::WrongAccess { expected: "read-only" }));
}

#[test]
fn segment_that_lacks_any_seal_is_refused_by_name() {
    let full = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let names = [
        (SealFlags::SHRINK, "shrink"),
        (SealFlags::GROW, "grow"),
        (SealFlags::FUTURE_WRITE, "future-write"),
        (SealFlags::SEAL, "seal"),
    ];
    for (seal, name) in names {
        let fd = segment(PAGE);
        rustix::fs::fcntl_add_seals(&fd, full - seal).unwrap();
        let error = check_seals(&fd, SealKind::Arena).unwrap_err();
        assert!(error.to_string().contains(&format!("missing: {name};")), "{error}");
    }
    let error = check_seals(segment(PAGE), SealKind::Bulk).unwrap_err();
    assert!(error.to_string().contains("missing: seal, shrink, grow;"), "{error}");
}

#[test]
fn descriptors_that_are_no_memory_are_refused() {
    let disk = File::open("/proc/self/exe").unwrap();
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let event = crate::sys::event::create().unwrap();
    for fd in [OwnedFd::from(disk), pipe, event] {
        let error = check_seals(&fd, SealKind::Arena).unwrap_err();
        assert!(matches!(error, ShmError::NotShared { .. }), "{error}");
    }
    // A file under /dev/shm is on a tmpfs too, but can be shrunk by whoever may write it.
    let path = format!("/dev/shm/busway-test-{}", std::process::id());
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = check_seals(&file, SealKind::Arena).unwrap_err();
    assert!(matches!(error, ShmError::NotSealed { .. }), "{error}");
}

#[test]
fn shared_segment_must_be_writable_by_the_realm() {
    let fd = segment(PAGE);
    seal(&fd, SealKind::Shared).unwrap();
    assert_eq!(check_seals(&fd, SealKind::Shared).unwrap(), PAGE);
    let read_only = reopen_read_only(&fd).unwrap();
    assert!(matches!(check_seals(&read_only, SealKind::Shared), Err(ShmError::WrongAccess { .. })));
    let arena = segment(PAGE);
    seal(&arena, SealKind::Arena).unwrap();
    assert!(matches!(check_seals(&arena, SealKind::Shared), Err(ShmError::WrongAccess { .. })));
}

#[test]
fn references_outside_or_across_a_mapping_are_refused() {
    let fd = segment(2 * PAGE);
    let mapping = Mapping::map_rw(&fd, PAGE).unwrap();
    assert_eq!(mapping.len(), 4096);
    for (offset, count) in [
        (PAGE, 1),
        (PAGE - 4, 1),
        (PAGE - 8, 2),
        (4, 1),
        (1, 0),
        (u64::MAX, 1),
        (u64::MAX - 7, 1),
        (0, usize::MAX),
        (0, usize::MAX / 8),
        (8, 512),
    ] {
        let result = mapping.slice::<AtomicU64>(offset, count);
        assert!(matches!(result, Err(ShmError::OutOfBounds { .. })), "{count} words at {offset}");
    }
    assert_eq!(mapping.slice::<AtomicU64>(0, 512).unwrap().len(), 512);
    assert_eq!(mapping.slice::<AtomicU64>(PAGE, 0).unwrap().len(), 0, "nothing at the end");
    assert!(matches!(Mapping::map_ro(&fd, 2 * PAGE + 1), Err(ShmError::OutOfBounds { .. })));
    assert!(matches!(Mapping::map_ro(&fd, 0), Err(ShmError::OutOfBounds { .. })));
}

#[test]
fn address_space_that_is_not_there_is_said_so() {
    let fd = segment(1 << 60);
    assert_eq!(Mapping::map_ro(&fd, 1 << 60).unwrap_err(), ShmError::AddressSpace { bytes: 1 << 60 });
    assert_eq!(
        create_arena("test", u64::MAX).unwrap_err(),
        ShmError::FileSize { wanted: u64::MAX, limit: i64::MAX.unsigned_abs() }
    );
}

#[test]
fn names_that_the_kernel_would_refuse_are_cut() {
    for name in ["", "a\0b", &"é".repeat(300), &"x".repeat(5000)] {
        create_arena(name, PAGE).expect("any name makes a segment");
    }
}

#[test]
fn forked_child_does_not_have_the_mapping() {
    let fd = segment(PAGE);
    let mapping = Mapping::map_rw(&fd, PAGE).unwrap();
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child makes two async-signal-safe calls and nothing else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the kernel checks the address: it answers EFAULT where nothing is mapped.
        let written = unsafe { libc::write(writer.as_raw_fd(), mapping.as_ptr().cast(), 1) };
        // SAFETY: ends the child without running anything of the test harness.
        unsafe { libc::_exit(i32::from(written != -1)) };
    }
    assert_eq!(exit_code(child), Some(0), "the child could read the parent's arena");
    assert_eq!(mapping.word_u32(0).unwrap().load(Ordering::Acquire), 0, "the parent still can");
}

fn exit_code(child: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `child` is ours, and `status` is a place for one int.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    std::process::ExitStatus::from_raw(status).code()
}

/// The tests below start this binary again with `--exact` and a variable that says what to do: limits
/// are a process's own, and would hit the other tests of this one.
#[test]
fn child_with_limits() {
    let Ok(role) = std::env::var("BUSWAY_TEST_LIMITS") else { return };
    let limited = |most: u64| rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    match role.as_str() {
        "file-size" => {
            rustix::process::setrlimit(Resource::Fsize, limited(1 << 20)).unwrap();
            let error = create_arena("test", (1 << 20) + 1).unwrap_err();
            assert_eq!(error, ShmError::FileSize { wanted: (1 << 20) + 1, limit: 1 << 20 });
            let fd = create_arena("test", 1 << 20).expect("up to the limit it is allowed");
            seal(&fd, SealKind::Bulk).unwrap();
            commit(&fd, 0, 1 << 20).expect("and can be committed");
        }
        "address-space" => {
            rustix::process::setrlimit(Resource::As, limited(1 << 30)).unwrap();
            let fd = segment(1 << 31);
            assert_eq!(Mapping::map_rw(&fd, 1 << 31).unwrap_err(), ShmError::AddressSpace { bytes: 1 << 31 });
        }
        "descriptors" => {
            rustix::process::setrlimit(Resource::Nofile, limited(32)).unwrap();
            let taken: Vec<_> = (0..).map_while(|_| crate::sys::event::create().ok()).collect();
            assert_eq!(
                create_arena("test", PAGE).unwrap_err(),
                ShmError::Descriptors { call: "memfd_create" }
            );
            // SAFETY: taken from a `Vec` that is forgotten: nobody else closes it.
            drop(unsafe { OwnedFd::from_raw_fd(taken[0].as_raw_fd()) });
            core::mem::forget(taken);
            let fd = segment(PAGE);
            assert_eq!(
                reopen_read_only(&fd).unwrap_err(),
                ShmError::Descriptors { call: "open of /proc/self/fd" }
            );
        }
        other => panic!("unknown role {other}"),
    }
}

#[test]
fn limits_of_the_user_are_errors_by_name_and_not_signals() {
    for role in ["file-size", "address-space", "descriptors"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::memfd::tests::child_with_limits", "--nocapture", "--test-threads=1"])
            .env("BUSWAY_TEST_LIMITS", role)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{role}: {:?}\n{text}", output.status);
        assert!(text.contains("1 passed"), "{role} did not run:\n{text}");
    }
}

#[test]
fn a_mapping_that_a_child_inherits_is_not_taken_from_what_the_child_has_mapped_since() {
    let fd = segment(64 * PAGE);
    let mut inherited: Vec<Option<Mapping>> =
        (0..8).map(|_| Some(Mapping::map_rw(&fd, 64 * PAGE).unwrap())).collect();
    // SAFETY: the child maps, drops what it inherited, and loads and stores; it never returns into the harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // The kernel fills the holes that the parent's mappings have left, with those of other tests' first.
        let mut own = Vec::with_capacity(4096);
        let overlaps = |new: &Mapping| inherited.iter().flatten().any(|old| old.as_ptr() == new.as_ptr());
        while own.len() < 4096 && !own.last().is_some_and(overlaps) {
            let Ok(new) = Mapping::map_rw(&fd, 64 * PAGE) else { break };
            own.push(new);
        }
        let overlap = own.last().is_some_and(overlaps);
        let told = inherited.iter().flatten().all(Mapping::forked) && !own.iter().any(Mapping::forked);
        inherited.iter_mut().for_each(|old| drop(old.take()));
        // Faults where dropping has unmapped it.
        let works =
            own.iter().all(|new| new.word_u64(8).is_ok_and(|word| word.swap(7, Ordering::Relaxed) != 8));
        // SAFETY: ends the child without running anything of the test harness.
        unsafe { libc::_exit(if told && works { i32::from(!overlap) } else { 2 }) };
    }
    let mut status = 0;
    // SAFETY: `pid` is ours, and `status` is a place for one int.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    let status = std::process::ExitStatus::from_raw(status);
    assert!(status.signal().is_none(), "the child lost memory of its own: {status:?}");
    assert_eq!(
        status.code(),
        Some(0),
        "1: nothing came to lie at the same place, so nothing is shown; 2: refused"
    );
}
