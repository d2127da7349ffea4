//! The stage: plain shared memory between the processes of one measurement.
//!
//! A memfd of cache lines, mapped read-write by all. It carries the start signal and the counters of a
//! measurement, and it is the memory of the floors. Nothing here checks anything: all processes on it
//! are started by one run of this program.
//!
//! Invariant: a mapping is never unmapped, so a `&'static` line stays valid as long as the process lives.

use crate::Failure;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use crate::clock::{now_ns, pause};

/// A shared word. Loom never sees this program, so it needs no door to atomics but this alias.
#[expect(clippy::disallowed_types, reason = "the harness links no part of the bus, and loom never runs it")]
pub type Word = core::sync::atomic::AtomicU64;

/// A word that the kernel's futex calls accept.
#[expect(clippy::disallowed_types, reason = "the harness links no part of the bus, and loom never runs it")]
pub type FutexWord = core::sync::atomic::AtomicU32;

pub use core::sync::atomic::Ordering;

/// One cache line of shared words.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Line {
    /// The words of the line.
    pub words: [Word; 8],
}

/// A futex word alone in its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Bell {
    /// What sleepers wait on.
    pub word: FutexWord,
}

/// Receivers a stage has room for: four times the largest figure that is published.
pub const RECEIVERS_MAX: usize = 1024;

/// Lines of the free part, where the floors live: 1 MiB.
const FREE_LINES: usize = 16 * 1024;

/// The whole of the shared memory.
#[repr(C)]
#[derive(Debug)]
pub struct Board {
    /// How many partners are ready; the second word is raised by one that failed.
    pub ready: Line,
    /// Raised when the measurement begins.
    pub go: Line,
    /// Raised when it ends.
    pub stop: Line,
    /// Messages taken by all partners, and those they know they missed in the second word.
    pub taken: Line,
    /// One line a partner: time of its last wake-up, its voluntary switches, its threads.
    pub partners: [Line; RECEIVERS_MAX],
    /// Futexes of the floors.
    pub bells: [Bell; 16],
    /// Memory of the floors.
    pub free: [Line; FREE_LINES],
}

/// The mapping, and the descriptor that partners open by its path.
#[derive(Debug)]
pub struct Stage {
    file: File,
    /// The words.
    pub board: &'static Board,
}

impl Stage {
    /// Makes an empty stage.
    ///
    /// # Errors
    /// The kernel refuses the memory.
    pub fn create() -> Result<Self, Failure> {
        let file = File::from(rustix::fs::memfd_create("busway-bench-stage", MemfdFlags::CLOEXEC)?);
        file.set_len(size_of::<Board>() as u64)?;
        Self::map(file)
    }

    /// Maps the stage of the process that started this one.
    ///
    /// # Errors
    /// The path names nothing, or something that is not a stage.
    pub fn open(path: &str) -> Result<Self, Failure> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != size_of::<Board>() as u64 {
            return Err(format!("{path} is not a stage").into());
        }
        Self::map(file)
    }

    /// A path under which a child of this process can open the stage while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    #[expect(unsafe_code, reason = "a shared mapping has no safe constructor")]
    fn map(file: File) -> Result<Self, Failure> {
        let size = size_of::<Board>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let address = unsafe { mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        // SAFETY: `address` is page-aligned, `size` bytes long and never unmapped; a `Board` is made of
        // atomic words only, for which every bit pattern is valid and which other processes may change.
        let board = unsafe { &*address.cast::<Board>() };
        Ok(Self { file, board })
    }

    /// Waits until `count` partners have said that they are ready.
    ///
    /// # Errors
    /// They have not after 240 s, or one has failed.
    pub fn wait_ready(&self, count: usize) -> Result<(), Failure> {
        self.wait_for("partners ready", count as u64, &self.board.ready.words[0])
    }

    /// Waits until `word` has reached `count`.
    ///
    /// # Errors
    /// It has not after 240 s, or a partner has failed.
    pub fn wait_for(&self, what: &str, count: u64, word: &Word) -> Result<(), Failure> {
        let deadline_ns = now_ns() + WAIT_NS_MAX;
        while word.load(Ordering::Acquire) < count {
            if self.board.ready.words[1].load(Ordering::Acquire) != 0 {
                return Err(format!("{what}: a partner failed").into());
            }
            if now_ns() > deadline_ns {
                let seen = word.load(Ordering::Acquire);
                return Err(format!("{what}: {seen} of {count} after 240 s").into());
            }
            pause(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Says that this partner is ready and waits for the start.
    ///
    /// # Errors
    /// The start does not come within 240 s.
    pub fn ready_and_wait(&self) -> Result<(), Failure> {
        self.board.ready.words[0].fetch_add(1, Ordering::AcqRel);
        self.wait_for("the start", 1, &self.board.go.words[0])
    }

    /// Says that this partner has failed, so that nobody waits for it. True for the first that says so.
    pub fn fail(&self) -> bool {
        self.board.ready.words[1].swap(1, Ordering::AcqRel) == 0 // pairs with Acquire in `wait_for`
    }

    /// Lets all partners begin.
    pub fn start(&self) {
        self.board.go.words[0].store(1, Ordering::Release); // pairs with Acquire in `wait_for`
    }

    /// Asks all partners to end.
    pub fn stop(&self) {
        self.board.stop.words[0].store(1, Ordering::Release); // pairs with Acquire in `stopped`
    }

    /// Whether partners are to end.
    #[inline]
    pub fn stopped(&self) -> bool {
        self.board.stop.words[0].load(Ordering::Acquire) != 0
    }
}

/// Starting 256 processes takes seconds; until 256 subscribers of the slowest rival have met on a busy machine, more than a minute.
const WAIT_NS_MAX: u64 = 240_000_000_000;
