//! The kernel's futexes as loom can explore them, and the steps of a ringer that is killed.
//!
//! A futex is a queue under a lock: a waiter compares the word under that lock before it queues, and a
//! waker takes the lock before it looks at the queue. Time does not pass in a model, so a lost wake-up
//! is a deadlock, which loom reports.
//!
//! Does not exist outside `--cfg loom`.
//!
//! Invariant: `sleepers` is the number of threads in `queue`.

use core::time::Duration;

use loom::sync::{Condvar, Mutex};

use super::{Bell, Line, Slept};
use crate::sync::Ordering;

#[derive(Debug)]
pub(super) struct Kernel {
    sleepers: Mutex<usize>,
    queue: Condvar,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self { sleepers: Mutex::new(0), queue: Condvar::new() }
    }
}

impl Line {
    pub(super) fn sleep(&self, seen: u32, _timeout: Duration) -> Slept {
        let mut sleepers = self.kernel.sleepers.lock().expect("no thread of the model panics");
        if self.rung.load(Ordering::SeqCst) != seen {
            return Slept::Rung;
        }
        *sleepers += 1;
        // Loom's queue has no spurious wake-ups, so one wait is one sleep.
        drop(self.kernel.queue.wait(sleepers).expect("no thread of the model panics"));
        Slept::Rung
    }

    pub(super) fn wake(&self, count: u32) -> usize {
        let mut sleepers = self.kernel.sleepers.lock().expect("no thread of the model panics");
        let woken = (*sleepers).min(count as usize);
        *sleepers -= woken;
        for _ in 0..woken {
            self.kernel.queue.notify_one();
        }
        woken
    }
}

impl Bell<'_> {
    /// A ringer that is killed after it has raised `rung` and before it has woken anybody.
    pub fn ring_and_die(&self, line: usize) {
        if self.needs_ring(line) {
            self.lines[line].begin();
        }
    }
}
