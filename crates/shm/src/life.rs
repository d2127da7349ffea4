//! Life words: how a process's death is seen at once, by everybody, without a daemon.
//!
//! Each process's control thread puts its thread id into one word of its own arena and registers that
//! word with the kernel as a robust futex. When the thread ends, for whatever reason, the kernel
//! marks the word `OWNER_DIED` and wakes one waiter, who wakes the rest. Peers read the word with a
//! plain load, also through a read-only mapping and across pid namespaces.
//!
//! The list head is ours and takes the place of the C library's on this one thread, so the thread must
//! not use `PTHREAD_MUTEX_ROBUST` mutexes, nor call `exec`; the control thread runs no user code.
//!
//! Does not say that a process hangs: a stopped process is alive. Heartbeats report that.
//!
//! Invariant: the word goes 0 -> thread id -> dead or closed, and never back.

use core::ffi::{c_long, c_void};
use core::fmt;
use core::ptr;
use std::sync::Arc;

use rustix::io::Errno;

use crate::clock::Deadline;
use crate::error::ShmError;
use crate::fork;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::futex;

/// What a life word says about its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The control thread has not started yet.
    Starting,
    /// The control thread runs, or is stopped.
    Alive,
    /// The kernel says that the control thread ended without a word.
    Dead,
    /// The owner left cleanly.
    Closed,
}

impl Life {
    /// Whether the owner is gone, dead or closed: nothing of it will change any more.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Dead | Self::Closed)
    }
}

/// The word of an owner that left cleanly: within the bits of a thread id, above any that Linux gives
/// (`pid_max` is at most 2^22).
pub const CLOSED: u32 = 0x3fff_fffe;
/// The kernel's mark on the word of a thread that ended (`FUTEX_OWNER_DIED`).
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Tells the kernel that somebody may wait (`FUTEX_WAITERS`); without it, it wakes nobody.
pub const WAITERS: u32 = 0x8000_0000;

/// What `word` says. One load; any value is an answer, because the word is its owner's to break.
#[inline]
#[must_use]
pub fn read(word: &AtomicU32) -> Life {
    // Acquire: pairs with the release store of `CLOSED`; who sees the end sees all that was done before.
    of(word.load(Ordering::Acquire))
}

/// What a life word with this value says.
#[inline]
#[must_use]
pub const fn of(value: u32) -> Life {
    match value {
        0 => Life::Starting,
        CLOSED => Life::Closed,
        dead if dead & OWNER_DIED != 0 => Life::Dead,
        _ => Life::Alive,
    }
}

/// Sleeps until the owner of `word` is gone or `deadline` has come; says which.
///
/// The kernel wakes one sleeper; whoever finds the owner gone wakes all others.
pub fn wait_dead(word: &AtomicU32, deadline: Deadline) -> Life {
    loop {
        let value = word.load(Ordering::Acquire);
        let life = of(value);
        if life.is_gone() {
            futex::wake_all(word);
            return life;
        }
        let remaining = deadline.remaining();
        if remaining.is_some_and(|left| left.is_zero()) {
            return life;
        }
        futex::wait(word, value, remaining);
    }
}

/// Holds a life word for the thread that acquired it; dropping it marks the word [`CLOSED`].
///
/// The word's owner `T` is kept alive with it, also if the lock is forgotten, so the kernel never
/// marks memory that has become something else.
pub struct LifeLock<T> {
    keep: Arc<T>,
    word: fn(&T) -> &AtomicU32,
    // Raw: the kernel reads it when the thread ends. It also makes the lock `!Send`: the list belongs
    // to this thread.
    robust: *mut Robust,
    before: *mut c_void,
    generation: u64,
}

impl<T> LifeLock<T> {
    /// Marks `word(&keep)` as held by the calling thread until it drops the lock or ends.
    ///
    /// # Errors
    /// [`ShmError::LifeTaken`] where the word has had an owner; [`ShmError::System`] where the kernel
    /// refuses robust lists (a seccomp filter).
    pub fn acquire(keep: Arc<T>, word: fn(&T) -> &AtomicU32) -> Result<Self, ShmError> {
        let generation = fork::generation()?;
        let life = word(&keep);
        let found = life.load(Ordering::Relaxed);
        if found != 0 {
            return Err(ShmError::LifeTaken { found });
        }
        let before = current_list();
        let robust = Robust::linked_to(life);
        if let Err(errno) = set_list(robust.cast()) {
            // SAFETY: from `Box::into_raw` in `linked_to`, and the kernel has not taken it.
            drop(unsafe { Box::from_raw(robust) });
            return Err(ShmError::System { call: "set_robust_list", errno });
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert!(thread < CLOSED, "the kernel gave a thread id above its own maximum");
        // After the list is set: a death in between leaves 0, and nobody has been told of the word.
        // Release: pairs with Acquire in `read`.
        life.store(thread | WAITERS, Ordering::Release);
        Ok(Self { keep, word, robust, before, generation })
    }
}

impl<T> Drop for LifeLock<T> {
    fn drop(&mut self) {
        // A child made by fork has neither the list nor the mapping that the word lies in.
        if !fork::forked_since(self.generation) {
            let life = (self.word)(&self.keep);
            // Before the list is given back: a death in between finds another id and marks nothing.
            life.store(CLOSED, Ordering::Release);
            futex::wake_all(life);
            if set_list(self.before).is_err() {
                // The kernel still knows our list, so it must stay; the word no longer names us.
                return;
            }
        }
        // SAFETY: from `Box::into_raw` in `linked_to`; the kernel has another list now, or never had
        // this one (a child starts with none).
        drop(unsafe { Box::from_raw(self.robust) });
    }
}

impl<T> fmt::Debug for LifeLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LifeLock");
        if !fork::forked_since(self.generation) {
            debug.field("life", &read((self.word)(&self.keep)));
        }
        debug.finish_non_exhaustive()
    }
}

/// The kernel's `struct robust_list_head`, with our one entry behind it.
#[repr(C)]
struct Robust {
    /// `list.next`: the entry.
    first: *const Entry,
    /// From an entry to its futex word, in bytes.
    futex_offset: c_long,
    /// An entry that is being added: never used, because the word is written after the list.
    pending: *const Entry,
    entry: Entry,
}

/// The kernel's `struct robust_list`.
#[repr(C)]
struct Entry {
    /// The last entry points back at the head.
    next: *const Robust,
}

/// What the kernel calls the head: `Robust` without the entry behind it.
const HEAD_SIZE: usize = core::mem::offset_of!(Robust, entry);
const _: () = assert!(HEAD_SIZE == 3 * size_of::<usize>(), "the kernel checks the size of its structure");

impl Robust {
    fn linked_to(word: &AtomicU32) -> *mut Self {
        let robust = Box::into_raw(Box::new(Self {
            first: ptr::null(),
            futex_offset: 0,
            pending: ptr::null(),
            entry: Entry { next: ptr::null() },
        }));
        // SAFETY: just made by the box, so it is valid and ours alone until the kernel is told.
        let list = unsafe { &mut *robust };
        list.first = &raw const list.entry;
        list.entry.next = robust;
        // Both are addresses of this process, below 2^47: the difference fits.
        list.futex_offset = (word.as_ptr().addr() as c_long).wrapping_sub(list.first.addr() as c_long);
        robust
    }
}

/// The thread's present list (the C library's), or none where the kernel will not say.
fn current_list() -> *mut c_void {
    let mut head: *mut c_void = ptr::null_mut();
    let mut len: usize = 0;
    // SAFETY: 0 is the calling thread; the kernel writes one pointer and one size where we point.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    if result == 0 { head } else { ptr::null_mut() }
}

/// Tells the kernel which list to walk when this thread ends; null is none.
fn set_list(head: *mut c_void) -> Result<(), Errno> {
    // SAFETY: the kernel only remembers the address; it reads it when the thread ends, and faults there
    // are ignored by it. `Robust` outlives its registration (see `Drop`).
    let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head, HEAD_SIZE) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOSYS)
}

#[cfg(test)]
mod tests;
