//! How much of the machine's time a run has had: a world that does not end is told by it from a machine that is busy.
//!
//! The kernel is asked by its files, so that the floor of the machines needs nothing that makes system calls.
//!
//! Invariant: nothing in a run is decided by it, but that it is given up.

use std::time::Duration;

/// What the calling thread has had; nothing where the kernel does not say.
#[must_use]
pub fn of_this_thread() -> Duration {
    read("/proc/thread-self/schedstat")
}

/// What the thread has had that the program began with.
#[must_use]
pub fn of_the_first_thread() -> Duration {
    read("/proc/self/schedstat")
}

fn read(path: &str) -> Duration {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::of_this_thread;

    #[test]
    fn a_thread_that_works_has_had_more_and_more() {
        let before = of_this_thread();
        let mut sum = 0_u64;
        while of_this_thread() == before && sum < 1 << 40 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(of_this_thread() > before, "the kernel tells what a thread has had");
    }
}
