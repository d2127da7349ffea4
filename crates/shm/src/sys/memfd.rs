//! Segments: memfds, their seals, and mappings of them.
//!
//! A segment is made sparse, mapped once, sealed, and committed piece by piece. The seals are what
//! makes references into it sound: a segment that cannot shrink never faults with `SIGBUS` on
//! committed pages, and an arena with `FUTURE_WRITE` has one writable mapping in the world, its owner's.
//!
//! Does not know what lies in a segment, and keeps no account of bytes: `domain::Ledger` does.
//!
//! Invariant: a [`Mapping`] stays mapped, at one address and length, until it is dropped by the process that
//! made it; references into it borrow it, lie inside it, are aligned, and refer to atomics only. In a child made
//! by `fork` it is an address range that may be anybody's: there it is neither looked at nor given back.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use crate::error::{SealNames, ShmError};
use crate::fork;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::place::Place;

/// "Make huge pages of what is there, now": of Linux 6.1, and not in every C library that `libc` knows.
const MADV_COLLAPSE: libc::c_int = 25;

/// A structure that may lie in memory which other processes write at any time.
///
/// # Safety
/// The type is `repr(C)`, consists of atomics (or arrays and structures of them) and nothing else,
/// every bit pattern is a value of it, and it has no padding and needs no drop.
pub unsafe trait Shared: Sized {}

// SAFETY: an atomic integer: any bits are a value, and there is nothing else in it.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer: any bits are a value, and there is nothing else in it.
unsafe impl Shared for AtomicU64 {}

/// What a segment is for, and so how it is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealKind {
    /// Written by its owner's one mapping only; others cannot even make a writable one.
    Arena,
    /// Written by its owner only because others get a read-only descriptor; its pages can be given back.
    Bulk,
    /// Written by all members of a realm.
    Shared,
}

impl SealKind {
    fn seals(self) -> SealFlags {
        let fixed_size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        match self {
            Self::Arena => fixed_size | SealFlags::FUTURE_WRITE,
            Self::Bulk | Self::Shared => fixed_size,
        }
    }
}

/// Makes a sparse segment of `size` bytes; no memory is committed.
///
/// The name shows in `/proc/PID/maps`; it is cut to what the kernel takes.
///
/// # Errors
/// [`ShmError::FileSize`] below `ulimit -f`, [`ShmError::Descriptors`] where none is left.
pub fn create_arena(name: &str, size: u64) -> Result<OwnedFd, ShmError> {
    // Asked before the kernel is: exceeding the limit would raise SIGXFSZ, which kills by default.
    if let Some(limit) = getrlimit(Resource::Fsize).current
        && size > limit
    {
        return Err(ShmError::FileSize { wanted: size, limit });
    }
    let name = kernel_name(name);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL (Linux 6.3): a host with vm.memfd_noexec=2 refuses memfds without it.
    let fd = match rustix::fs::memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(&name, flags),
        other => other,
    }
    .map_err(|errno| ShmError::from_errno("memfd_create", errno))?;
    rustix::fs::ftruncate(&fd, size).map_err(|errno| match errno {
        Errno::FBIG | Errno::INVAL => ShmError::FileSize { wanted: size, limit: i64::MAX.unsigned_abs() },
        errno => ShmError::from_errno("ftruncate", errno),
    })?;
    Ok(fd)
}

/// The kernel takes 249 bytes without NUL.
fn kernel_name(name: &str) -> String {
    name.chars().filter(|c| *c != '\0').take(60).collect()
}

/// Adds the seals of `kind`.
///
/// An arena must be mapped writable before: afterwards nobody can.
///
/// # Errors
/// [`ShmError::System`] where the kernel refuses.
pub fn seal(fd: impl AsFd, kind: SealKind) -> Result<(), ShmError> {
    rustix::fs::fcntl_add_seals(fd, kind.seals()).map_err(|errno| ShmError::from_errno("F_ADD_SEALS", errno))
}

/// Checks that `fd`, which a peer sent, is a sealed segment of `kind`, and says its size in bytes.
///
/// # Errors
/// [`ShmError::NotShared`] for anything but a memfd, [`ShmError::NotSealed`] where a seal of `kind` is
/// missing, [`ShmError::WrongAccess`] where the descriptor or the seals allow too much or too little.
pub fn check_seals(fd: impl AsFd, kind: SealKind) -> Result<u64, ShmError> {
    let fd = fd.as_fd();
    let file_system = rustix::fs::fstatfs(fd).map_err(|errno| ShmError::from_errno("fstatfs", errno))?;
    // The width of the magic differs between architectures; the value fits in 32 bits on all.
    let found = file_system.f_type as u64;
    if found != TMPFS_MAGIC {
        return Err(ShmError::NotShared { found });
    }
    // A file on a mounted tmpfs has no seals to get (EINVAL) or only `seal`: then all are missing.
    let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
    let missing = kind.seals() - seals;
    if !missing.is_empty() {
        return Err(ShmError::NotSealed { missing: SealNames(missing.bits()) });
    }
    let flags = rustix::fs::fcntl_getfl(fd).map_err(|errno| ShmError::from_errno("F_GETFL", errno))?;
    let read_only = flags & OFlags::ACCMODE == OFlags::RDONLY;
    let written_by_nobody = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    match kind {
        SealKind::Bulk if !read_only => return Err(ShmError::WrongAccess { expected: "read-only" }),
        SealKind::Shared if read_only || written_by_nobody => {
            return Err(ShmError::WrongAccess { expected: "writable by the realm" });
        }
        SealKind::Arena | SealKind::Bulk | SealKind::Shared => {}
    }
    size(fd)
}

// linux/magic.h; memfds and files under /dev/shm both have it, the seals tell them apart.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The size of a segment in bytes.
///
/// # Errors
/// [`ShmError::System`] where the kernel refuses.
pub fn size(fd: impl AsFd) -> Result<u64, ShmError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| ShmError::from_errno("fstat", errno))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// The bytes of a segment that are backed by memory.
///
/// # Errors
/// [`ShmError::System`] where the kernel refuses.
pub fn committed(fd: impl AsFd) -> Result<u64, ShmError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| ShmError::from_errno("fstat", errno))?;
    // st_blocks counts 512 bytes whatever the page size is.
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
}

/// Copies `len` bytes at `offset` out of a segment. Unlike a look through a mapping it takes no memory for what the
/// segment's owner has not backed: a hole reads as zeros.
///
/// # Errors
/// [`ShmError::Memory`] where there is none for the copy; [`ShmError::OutOfBounds`] past the segment's end.
pub fn read(fd: impl AsFd, offset: u64, len: u64) -> Result<Box<[u8]>, ShmError> {
    let no_memory = ShmError::Memory { wanted: len };
    let Ok(bytes) = usize::try_from(len) else { return Err(no_memory) };
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes).map_err(|_| no_memory)?;
    copy.resize(bytes, 0);
    let mut done = 0;
    while done < bytes {
        match rustix::io::pread(fd.as_fd(), &mut copy[done..], offset.saturating_add(done as u64)) {
            Ok(0) => return Err(ShmError::OutOfBounds { offset, len, size: size(fd)? }),
            Ok(more) => done += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ShmError::from_errno("pread", errno)),
        }
    }
    Ok(copy.into_boxed_slice())
}

/// Backs `len` bytes at `offset` with memory, so that touching them cannot fault.
///
/// Works on sealed segments. The bytes must lie inside the segment.
///
/// # Errors
/// [`ShmError::Memory`] where the machine or the cgroup has none left. What was backed stays backed.
pub fn commit(fd: impl AsFd, offset: u64, len: u64) -> Result<(), ShmError> {
    let fd = fd.as_fd();
    let size = size(fd)?;
    let end = offset.checked_add(len).filter(|end| *end <= size);
    let end = end.ok_or(ShmError::OutOfBounds { offset, len, size })?;
    let mut at = offset;
    let mut step = COMMIT_STEP_MAX;
    while at < end {
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), at, step.min(end - at)) {
            Ok(()) => at += step.min(end - at),
            // A signal undoes the whole call: smaller steps get done between two ticks of a profiler.
            Err(Errno::INTR) => step = (step / 2).max(COMMIT_STEP_MIN),
            Err(Errno::NOSPC | Errno::NOMEM | Errno::FBIG | Errno::DQUOT) => {
                return Err(ShmError::Memory { wanted: len });
            }
            Err(errno) => return Err(ShmError::from_errno("fallocate", errno)),
        }
    }
    Ok(())
}

// 64 MiB: some 15 ms of clearing pages, below the 100 Hz of a usual profiling signal.
const COMMIT_STEP_MAX: u64 = 64 << 20;
// One page: the kernel makes progress by at least this between two signals.
const COMMIT_STEP_MIN: u64 = 4096;

/// Gives the memory behind `len` bytes at `offset` back; they read as zero afterwards.
///
/// The kernel refuses it for arenas, because `FUTURE_WRITE` counts a hole as a write.
///
/// # Errors
/// [`ShmError::System`] where the kernel refuses.
pub fn punch(fd: impl AsFd, offset: u64, len: u64) -> Result<(), ShmError> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(fd.as_fd(), flags, offset, len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ShmError::from_errno("fallocate(PUNCH_HOLE)", errno)),
        }
    }
}

/// A second, read-only descriptor of the same segment, which is made mode 0400 first.
///
/// The mode keeps other users from opening it writable again; the same user and root still can.
///
/// # Errors
/// [`ShmError::System`] where `/proc` is not mounted; [`ShmError::Descriptors`] where none is left.
pub fn reopen_read_only(fd: impl AsFd) -> Result<OwnedFd, ShmError> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    rustix::fs::fchmod(fd, Mode::RUSR).map_err(|errno| ShmError::from_errno("fchmod", errno))?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ShmError::from_errno("open of /proc/self/fd", errno))
}

/// A segment in this process's address space.
///
/// It is left out of core dumps, and a child made by `fork` does not have it.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    forks: u64,
}

// SAFETY: a `Mapping` is an address range that the process owns until drop; no thread owns it. The
// safe accessors hand out atomics only, which any thread may use at the same time, and whoever uses
// the raw pointer does so in an unsafe block that argues for itself.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`: `&Mapping` gives atomics and a raw pointer, and nothing in it is changed
// before drop, which needs the only owner.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes for reading and writing.
    ///
    /// # Errors
    /// [`ShmError::AddressSpace`] where there is no room; [`ShmError::OutOfBounds`] past the segment's end.
    pub fn map_rw(fd: impl AsFd, len: u64) -> Result<Self, ShmError> {
        Self::map(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps `len` bytes for reading.
    ///
    /// # Errors
    /// [`ShmError::AddressSpace`] where there is no room; [`ShmError::OutOfBounds`] past the segment's end.
    pub fn map_ro(fd: impl AsFd, len: u64) -> Result<Self, ShmError> {
        Self::map(fd.as_fd(), len, ProtFlags::READ)
    }

    fn map(fd: BorrowedFd<'_>, len: u64, protection: ProtFlags) -> Result<Self, ShmError> {
        let forks = fork::generation()?;
        let size = size(fd)?;
        if len == 0 || len > size {
            return Err(ShmError::OutOfBounds { offset: 0, len, size });
        }
        let no_room = ShmError::AddressSpace { bytes: len };
        let Ok(bytes) = usize::try_from(len) else { return Err(no_room) };
        let place = Place::find(bytes);
        let flags = if place.is_reserved() { MapFlags::SHARED | MapFlags::FIXED } else { MapFlags::SHARED };
        // SAFETY: a range that `place` has reserved for us, or a null hint and no MAP_FIXED: nobody uses it.
        let start =
            unsafe { rustix::mm::mmap(place.start(), bytes, protection, flags, fd, 0) }.map_err(|errno| {
                match errno {
                    Errno::NOMEM => no_room,
                    errno => ShmError::from_errno("mmap", errno),
                }
            })?;
        place.taken(bytes);
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(ShmError::System { call: "mmap", errno: Errno::FAULT });
        };
        Self { start, len: bytes, forks }.private()
    }

    /// Maps `len` bytes from the same place of the same file once more, with the same access, elsewhere. This mapping
    /// stays as it is. The caller knows that the file is that long: past its end a touch raises `SIGBUS`.
    ///
    /// # Errors
    /// [`ShmError::AddressSpace`] where there is no room; [`ShmError::Forked`] in a child.
    pub fn again(&self, len: u64) -> Result<Self, ShmError> {
        fork::check(self.forks)?;
        let no_room = ShmError::AddressSpace { bytes: len };
        let Some(bytes) = usize::try_from(len).ok().filter(|bytes| *bytes > 0) else { return Err(no_room) };
        let (old, place) = (self.start.as_ptr().cast::<c_void>(), Place::find(bytes));
        let start = if place.is_reserved() {
            // SAFETY: an old size of 0 leaves the old range, which is ours, as it is: the kernel makes a second mapping
            // of a shared file (mremap(2)), in the range that `place` has reserved for us.
            unsafe { rustix::mm::mremap_fixed(old, 0, bytes, MremapFlags::MAYMOVE, place.start()) }
        } else {
            // SAFETY: as above, in a range that the kernel chooses and nobody uses.
            unsafe { rustix::mm::mremap(old, 0, bytes, MremapFlags::MAYMOVE) }
        };
        let start = start.map_err(|errno| match errno {
            Errno::NOMEM => no_room,
            errno => ShmError::from_errno("mremap", errno),
        })?;
        place.taken(bytes);
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(ShmError::System { call: "mremap", errno: Errno::FAULT });
        };
        Self { start, len: bytes, forks: self.forks }.private()
    }

    /// A child of fork that wrote here would be a second writer; a dump of it would be gigabytes.
    fn private(self) -> Result<Self, ShmError> {
        self.advise(Advice::LinuxDontFork, "madvise(DONTFORK)")?;
        self.advise(Advice::LinuxDontDump, "madvise(DONTDUMP)")?;
        Ok(self)
    }

    fn advise(&self, advice: Advice, call: &'static str) -> Result<(), ShmError> {
        // SAFETY: the range is ours, and both kinds of advice leave its contents as they are.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast::<c_void>(), self.len, advice) }
            .map_err(|errno| ShmError::from_errno(call, errno))
    }

    /// Asks the kernel for huge pages behind those of `len` bytes at `offset` that are backed. What it has none for, or
    /// cannot do (Linux before 6.1), stays in small pages: nobody notices but the processor.
    pub(crate) fn gather(&self, offset: u64, len: u64) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len as u64);
        let (Ok(at), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else { return };
        if inside && len > 0 && !self.forked() {
            // SAFETY: the range is ours and mapped, and the advice leaves its contents as they are.
            unsafe { libc::madvise(self.start.as_ptr().wrapping_add(at).cast(), len, MADV_COLLAPSE) };
        }
    }

    /// Whether this process was forked off since: then nothing of the mapping is here.
    #[inline]
    #[must_use]
    pub fn forked(&self) -> bool {
        fork::forked_since(self.forks)
    }

    /// Where the mapping begins. Writing through it needs [`Mapping::map_rw`].
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes mapped; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// `count` structures at `offset`.
    ///
    /// Other processes may change them at any moment: check every value read. Storing through a
    /// read-only mapping ends the process with `SIGSEGV`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where they do not lie inside, or not aligned.
    pub fn slice<T: Shared>(&self, offset: u64, count: usize) -> Result<&[T], ShmError> {
        let len = size_of::<T>().checked_mul(count);
        let outside = ShmError::OutOfBounds {
            offset,
            len: len.and_then(|len| u64::try_from(len).ok()).unwrap_or(u64::MAX),
            size: self.len as u64,
        };
        let Some((start, len)) = usize::try_from(offset).ok().zip(len) else { return Err(outside) };
        let inside = start.checked_add(len).is_some_and(|end| end <= self.len);
        // The mapping begins on a page, so the offset alone decides for alignments up to a page.
        if !inside || !start.is_multiple_of(align_of::<T>()) || align_of::<T>() > 4096 {
            return Err(outside);
        }
        // SAFETY: `start <= self.len`, checked above, so the result is inside the mapping or at its end.
        let first = unsafe { self.start.as_ptr().add(start) }.cast::<T>();
        // SAFETY: the range is mapped as long as `self` is borrowed, is inside and aligned (checked
        // above), and `T: Shared` promises that any bytes, changing at any time, are values of `T`.
        Ok(unsafe { core::slice::from_raw_parts(first, count) })
    }

    /// One structure at `offset`, as [`Mapping::slice`].
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it does not lie inside, or not aligned.
    pub fn get<T: Shared>(&self, offset: u64) -> Result<&T, ShmError> {
        self.slice(offset, 1).map(|all| &all[0])
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it does not lie inside, or not aligned.
    pub fn word_u32(&self, offset: u64) -> Result<&AtomicU32, ShmError> {
        self.get(offset)
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Errors
    /// [`ShmError::OutOfBounds`] where it does not lie inside, or not aligned.
    pub fn word_u64(&self, offset: u64) -> Result<&AtomicU64, ShmError> {
        self.get(offset)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // A child does not have it (`MADV_DONTFORK`), and may have mapped its own memory at this very address.
        if self.forked() {
            return;
        }
        // SAFETY: the range is ours since `map`, and no reference into it outlives `self`.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(result.is_ok(), "munmap refused our own mapping: {result:?}");
    }
}

#[cfg(test)]
mod tests;
