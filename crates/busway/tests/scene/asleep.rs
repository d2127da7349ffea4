//! Whether a thread of this process waits, asked of the kernel.

use busway_shm::clock::Deadline;
use rustix::process::Pid;

use crate::place::PATIENCE;

/// Waits until the thread of this process sleeps in the kernel.
pub(crate) fn until_asleep(thread: Pid) {
    let deadline = Deadline::after(PATIENCE);
    let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let mut asleep = 0;
    // Thrice: whatever it locked on its way was not what it waits for.
    while asleep < 3 {
        assert!(!deadline.expired(), "the thread does not wait");
        let stat = std::fs::read_to_string(&stat).unwrap();
        let state = stat.rsplit_once(") ").unwrap().1;
        asleep = if state.starts_with('S') { asleep + 1 } else { 0 };
        std::thread::yield_now();
    }
}
