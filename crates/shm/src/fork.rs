//! What a child made by `fork` is told: none of this is yours.
//!
//! A child inherits handles whose mappings it does not have (`MADV_DONTFORK`) and descriptors whose
//! other end talks to its parent. The handler below runs in the child before `fork` returns there. It
//! raises the generation, so that every inherited handle can see with one load that it is foreign,
//! and puts a dead descriptor in the place of each registered one.
//!
//! The number of a descriptor stays taken (it is replaced, not closed), because the child still has
//! the `OwnedFd` values that will close it: closing here would make them close a stranger's.
//!
//! Does not see children made by a bare `clone`, `vfork` or `posix_spawn`: these call no handlers, and
//! are followed by `exec`, which closes our descriptors.
//!
//! Invariant: the handler touches atomics and calls `dup3` only, which is safe after a fork of a
//! process with threads.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::error::ShmError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How many forks lie between this process and the first that asked.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// One bit for each descriptor number that the handler replaces.
static REGISTERED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// One more than the highest word of `REGISTERED` that was ever used: what the handler looks through.
static WORDS_USED: AtomicU64 = AtomicU64::new(0);

/// The descriptor that takes the place of the registered ones; 0 while there is none.
static DEAD: AtomicU32 = AtomicU32::new(0);

/// Numbers that can be registered: the kernel's default ceiling (`fs.nr_open`). Higher ones stay open
/// in a child, which keeps a peer from seeing a hang-up but harms nobody's memory.
const DESCRIPTORS_MAX: usize = 1 << 20;
const WORDS: usize = DESCRIPTORS_MAX / 64;

/// The generation of this process; keep it in a handle and ask [`forked_since`].
///
/// The first call installs the handler.
///
/// # Errors
/// [`ShmError::Descriptors`] where none is left, [`ShmError::System`] where the handler is refused.
pub fn generation() -> Result<u64, ShmError> {
    install()?;
    Ok(GENERATION.load(Ordering::Relaxed))
}

/// Whether this process was forked off since `generation` was asked. One load.
#[inline]
#[must_use]
pub fn forked_since(generation: u64) -> bool {
    // Relaxed: the child's only thread has run the handler itself before it can ask.
    GENERATION.load(Ordering::Relaxed) != generation
}

/// [`ShmError::Forked`] where [`forked_since`].
///
/// # Errors
/// [`ShmError::Forked`].
#[inline]
pub fn check(generation: u64) -> Result<(), ShmError> {
    if forked_since(generation) { Err(ShmError::Forked) } else { Ok(()) }
}

/// A descriptor that a child made by `fork` does not get: there its number is a dead end.
#[derive(Debug)]
pub struct PrivateFd {
    // Declared before `fd`: the number must leave the register before somebody else can get it.
    registration: Registration,
    fd: OwnedFd,
}

impl PrivateFd {
    /// Registers `fd`.
    ///
    /// # Errors
    /// As [`generation`].
    pub fn new(fd: OwnedFd) -> Result<Self, ShmError> {
        install()?;
        Ok(Self { registration: register(fd.as_raw_fd()), fd })
    }

    /// Lets the descriptor go, no longer registered.
    #[must_use]
    pub fn into_inner(self) -> OwnedFd {
        drop(self.registration);
        self.fd
    }
}

impl AsFd for PrivateFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Keeps a descriptor's number in the register until dropped.
#[derive(Debug)]
struct Registration {
    number: RawFd,
}

fn register(number: RawFd) -> Registration {
    if let Some((word, bit)) = place(number) {
        // Release: pairs with Acquire in the handler, which may run in another thread's fork.
        REGISTERED[word].fetch_or(bit, Ordering::Release);
        WORDS_USED.fetch_max(word as u64 + 1, Ordering::Release);
    }
    Registration { number }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some((word, bit)) = place(self.number) {
            REGISTERED[word].fetch_and(!bit, Ordering::Release);
        }
    }
}

fn place(number: RawFd) -> Option<(usize, u64)> {
    let number = usize::try_from(number).ok().filter(|number| *number < DESCRIPTORS_MAX)?;
    Some((number / 64, 1 << (number % 64)))
}

/// Installs the handler, once a process (and so once for all its descendants).
fn install() -> Result<(), ShmError> {
    static INSTALLED: OnceLock<Result<(), ShmError>> = OnceLock::new();
    INSTALLED.get_or_init(try_install).clone()
}

fn try_install() -> Result<(), ShmError> {
    if cfg!(miri) {
        // It does not fork.
        return Ok(());
    }
    let dead = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| ShmError::from_errno("eventfd", errno))?;
    // SAFETY: the handler is a plain function that lives as long as the program, and keeps to what
    // is allowed after fork (head of this file).
    let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if result != 0 {
        return Err(ShmError::System { call: "pthread_atfork", errno: Errno::from_raw_os_error(result) });
    }
    let dead = u32::try_from(dead.into_raw_fd()).expect("an open descriptor's number is not negative");
    DEAD.store(dead, Ordering::Release);
    Ok(())
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let dead = DEAD.load(Ordering::Acquire);
    if dead == 0 {
        return;
    }
    let used = usize::try_from(WORDS_USED.load(Ordering::Acquire)).unwrap_or(WORDS).min(WORDS);
    for (index, word) in REGISTERED[..used].iter().enumerate() {
        // Taken out at once: the child's own descriptors are registered anew, and its children's
        // handler must not touch numbers that have changed hands.
        let mut bits = word.swap(0, Ordering::AcqRel);
        while bits != 0 {
            let number = index * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // SAFETY: both numbers are open descriptors; dup3 is async-signal-safe. Should it fail, the
            // descriptor stays open in the child, which costs a peer its second witness and no more.
            unsafe { libc::dup3(dead.cast_signed(), number as RawFd, libc::O_CLOEXEC) };
        }
    }
}

#[cfg(test)]
mod tests;
