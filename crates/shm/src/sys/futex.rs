//! Futexes that processes share.
//!
//! A waiter names the value that it saw; the kernel puts it to sleep only while the word still
//! holds that value. Waiting and waking both work on read-only mappings of a memfd, so a word needs
//! no second writer to be waited on.
//!
//! Does not loop: after any answer the caller looks at its own condition again.
//!
//! Invariant: no wait here ends in an error. What the kernel cannot do becomes a short wait.

use core::time::Duration;

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::ClockId;

use crate::clock;
use crate::sync::{AtomicU32, Ordering};

/// How a wait ended. In each case the caller looks at its condition again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody woke us, or the kernel pretends so.
    Woken,
    /// The word did not hold the expected value: there was no sleep.
    Changed,
    /// The time was up.
    TimedOut,
    /// A signal arrived.
    Interrupted,
}

/// Words that one [`wait_any`] can watch: the kernel's `FUTEX_WAITV_MAX`. Further words are left out.
pub const WORDS_MAX: usize = 128;

// 10 ms: without futex_waitv the other words are looked at this often. A wake-up is then late by at
// most this, which is within what a gated publisher's caller notices.
const SLICE: Duration = Duration::from_millis(10);

/// Sleeps while `word` holds `expected`, for at most `timeout`.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Wake {
    let timeout = timeout.map(timespec);
    // Shared, not private: the waker is another process, which knows the word by another address.
    match futex::wait(word, Flags::empty(), expected, timeout.as_ref()) {
        Ok(()) => Wake::Woken,
        Err(Errno::AGAIN) => Wake::Changed,
        Err(Errno::TIMEDOUT) => Wake::TimedOut,
        Err(Errno::INTR) => Wake::Interrupted,
        // The word is a live reference, so the kernel has no other answer (EFAULT would be our bug).
        Err(errno) => {
            debug_assert!(false, "futex wait failed: {errno}");
            Wake::Changed
        }
    }
}

/// Wakes at most `count` threads that sleep on `word`; says how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    // The kernel takes an int; above it "all" is meant.
    let count = count.min(i32::MAX.unsigned_abs());
    futex::wake(word, Flags::empty(), count).unwrap_or(0)
}

/// Wakes every thread that sleeps on `word`; says how many there were.
pub fn wake_all(word: &AtomicU32) -> usize {
    wake(word, u32::MAX)
}

/// Sleeps while every word holds its expected value, for at most `timeout`.
///
/// From Linux 5.16 this is one `futex_waitv`. Before, it waits on the first word and looks at the
/// others every 10 ms. Words past [`WORDS_MAX`] are not watched.
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> Wake {
    let words = &words[..words.len().min(WORDS_MAX)];
    if words.len() == 1 || crate::sys::fallbacks_forced() {
        return wait_in_slices(words, timeout);
    }
    let mut waits = [Wait::new(); WORDS_MAX];
    for (wait, (word, expected)) in waits.iter_mut().zip(words) {
        wait.val = u64::from(*expected);
        wait.uaddr = WaitPtr::new(word.as_ptr().cast());
        wait.flags = WaitFlags::SIZE_U32;
    }
    // futex_waitv takes a point in time and not a duration.
    let deadline =
        timeout.map(|timeout| timespec(Duration::from_nanos(clock::monotonic_ns()).saturating_add(timeout)));
    let waits = &waits[..words.len()];
    match futex::waitv(waits, WaitvFlags::empty(), deadline.as_ref(), ClockId::Monotonic) {
        Ok(_) => Wake::Woken,
        Err(Errno::AGAIN) => Wake::Changed,
        Err(Errno::TIMEDOUT) => Wake::TimedOut,
        Err(Errno::INTR) => Wake::Interrupted,
        // ENOSYS: before Linux 5.16. EPERM: a container's filter that does not know the call.
        Err(_) => wait_in_slices(words, timeout),
    }
}

/// What [`wait_any`] does without `futex_waitv`.
fn wait_in_slices(words: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> Wake {
    let Some((first, expected)) = words.first() else {
        return Wake::Changed;
    };
    if words.len() == 1 {
        return wait(first, *expected, timeout);
    }
    let deadline = clock::Deadline::after_or_never(timeout);
    loop {
        // Acquire: pairs with the release store of whoever moved the word.
        if words.iter().any(|(word, expected)| word.load(Ordering::Acquire) != *expected) {
            return Wake::Changed;
        }
        let slice = deadline.remaining().map_or(SLICE, |left| left.min(SLICE));
        if slice.is_zero() {
            return Wake::TimedOut;
        }
        match wait(first, *expected, Some(slice)) {
            Wake::TimedOut => {}
            other => return other,
        }
    }
}

/// A duration for the kernel; one beyond its clock is cut to about 136 years, which is for ever.
fn timespec(duration: Duration) -> Timespec {
    let seconds = i64::from(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX));
    Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests;
