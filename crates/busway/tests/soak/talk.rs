//! How a process of the soak and its supervisor understand each other.
//!
//! The process says lines that begin with `@` on its standard output; the supervisor says one thing only, "come to an
//! end", by closing the standard input. Waiting always watches that input, so nothing here sleeps blindly.

use std::io::Write;
use std::time::Duration;

use busway_shm::clock::monotonic_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A line of progress at most this often.
const EVERY_NS: u64 = 30_000_000;
/// A call that came back later than it should have by more than this is told to the supervisor.
const LATE_NS: u64 = 1_000_000_000;

/// What a process is told to be.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) role: String,
    pub(crate) directory: String,
    pub(crate) name: String,
    pub(crate) seed: u64,
}

impl Orders {
    pub(crate) const VARIABLE: &str = "BUSWAY_SOAK_ORDERS";

    pub(crate) fn encode(&self) -> String {
        format!("{} {} {} {}", self.role, self.name, self.seed, self.directory)
    }

    pub(crate) fn received() -> Option<Self> {
        let orders = std::env::var(Self::VARIABLE).ok()?;
        let mut words = orders.splitn(4, ' ').map(str::to_owned);
        let mut next = || words.next().expect("four words");
        let (role, name, seed, directory) = (next(), next(), next(), next());
        Some(Self { role, name, seed: seed.parse().expect("a number"), directory })
    }
}

/// Says a line to the supervisor, past the capture of the test harness.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // A supervisor that is gone has closed our input too.
    let _ = stdout.write_all(format!("@{line}\n").as_bytes()).and_then(|()| stdout.flush());
}

/// Says what must never happen, and ends the process.
pub(crate) fn bad(what: &str) -> ! {
    say(&format!("bad {what}"));
    panic!("{what}");
}

/// Waits this long, or until the supervisor wants an end; says whether it does.
pub(crate) fn ended(wait: Duration) -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
    matches!(poll(&mut fds, Some(&wait)), Ok(ready) if ready > 0)
}

/// Says that the process goes on, not too often, and watches how long calls take.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    told_ns: u64,
}

impl Pulse {
    /// Whether it is time to say something.
    pub(crate) fn due(&mut self) -> bool {
        let now = monotonic_ns();
        let due = now >= self.told_ns + EVERY_NS;
        if due {
            self.told_ns = now;
        }
        due
    }

    /// Does `call`, which has to come back within `limit`. Being stopped counts in here; the supervisor takes it off.
    pub(crate) fn timed<T>(&mut self, what: &str, limit: Duration, call: impl FnOnce() -> T) -> T {
        let before = monotonic_ns();
        let result = call();
        let over = (monotonic_ns() - before).saturating_sub(limit.as_nanos() as u64);
        if over > LATE_NS {
            say(&format!("late {} {what}", over / 1_000_000));
        }
        result
    }
}
