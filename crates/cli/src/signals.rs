//! SIGINT and SIGTERM as something to ask for and to wait for; SIGHUP for who reads its configuration anew.
//!
//! The handler sets a number and wakes a pipe; commands look between messages and wait with [`Signals::wait`], so a
//! command ends with its summary and leaves the bus cleanly. It does not end anything itself, with one exception: a
//! second SIGINT ends the process at once, for a user who has lost patience with a clean end.
//!
//! Invariant: a signal that does not end the process is found by who asks and by who waits, also one that comes while the
//! handlers are being installed; but for the microsecond in which the kernel knows of the first and its table does not.

#![expect(clippy::disallowed_types, reason = "signal-hook's interface takes the standard atomics")]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

use crate::exit::Failure;

/// The signals that this process was sent. A clone sees the same.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    last: Arc<AtomicUsize>,
    wake: Arc<UnixStream>,
}

/// SIGHUP as something to ask for: whoever takes it over reads its configuration anew.
#[derive(Debug)]
pub(crate) struct Hangup {
    wake: UnixStream,
}

impl Hangup {
    /// Takes over SIGHUP, which would end the process.
    pub(crate) fn install() -> io::Result<Self> {
        let (wake, ring) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        low_level::pipe::register(SIGHUP, ring)?;
        Ok(Self { wake })
    }

    /// Can be read once one has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Forgets those that have come: one answer is enough for all.
    pub(crate) fn heard(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.wake).read(&mut bytes), Ok(1..)) {}
    }
}

impl Signals {
    /// Takes over SIGINT and SIGTERM.
    pub(crate) fn install() -> io::Result<Self> {
        Self::install_with(|| ())
    }

    /// `began` is called when the first of it is done, for a test whose signal comes just then.
    fn install_with(began: impl FnOnce()) -> io::Result<Self> {
        let (wake, ring) = UnixStream::pair()?;
        let last = Arc::new(AtomicUsize::new(0));
        // First the number: from here on a signal ends nothing by itself, so it must not be forgotten either.
        flag::register_usize(SIGINT, Arc::clone(&last), 2)?;
        began();
        flag::register_usize(SIGTERM, Arc::clone(&last), 15)?;
        for signal in [SIGINT, SIGTERM] {
            // After the number, so that whoever is woken finds it.
            low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        // The order matters: the first SIGINT finds the flag down and raises it afterwards, the second finds it up.
        flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&interrupted))?;
        flag::register(SIGINT, Arc::clone(&interrupted))?;
        // Past `ulimit -f` the kernel kills unless somebody listens; then the write fails, and says so.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        match last.load(Ordering::Acquire) {
            0 => {}
            number => {
                // It came before the pipe was there to be woken, or before the flag that ends at the second.
                (&ring).write_all(&[0])?;
                interrupted.store(number == 2, Ordering::Release);
            }
        }
        Ok(Self { last, wake: Arc::new(wake) })
    }

    /// The signal that came, if one did.
    pub(crate) fn raised(&self) -> Option<u8> {
        match self.last.load(Ordering::Acquire) {
            0 => None,
            number => Some(u8::try_from(number).unwrap_or(u8::MAX)),
        }
    }

    /// Fails once a signal has come.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.raised().map_or(Ok(()), |number| Err(Failure::Signalled(number)))
    }

    /// Waits for a signal, at most `limit`; a spurious return is possible.
    pub(crate) fn wait(&self, limit: Duration) {
        self.wait_with(None, PollFlags::IN, Some(limit));
    }

    /// Waits until `other` can be read, a signal comes or `limit` has passed; says whether `other` can be read.
    pub(crate) fn wait_readable(&self, other: BorrowedFd<'_>, limit: Option<Duration>) -> bool {
        self.wait_with(Some(other), PollFlags::IN, limit)
    }

    /// Waits until `other` can be written or a signal has come; says whether `other` can be written. After a signal it
    /// does not wait.
    pub(crate) fn wait_writable(&self, other: BorrowedFd<'_>) -> bool {
        self.wait_with(Some(other), PollFlags::OUT, None)
    }

    /// Waits until one of `others` can be read, and says which; `None` once a signal has come, or for no reason.
    pub(crate) fn wait_any(&self, others: &[BorrowedFd<'_>]) -> Option<usize> {
        let mut fds: Vec<PollFd<'_>> =
            others.iter().map(|other| PollFd::from_borrowed_fd(*other, PollFlags::IN)).collect();
        fds.push(PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN));
        poll(&mut fds, None).ok()?;
        fds[..others.len()].iter().position(|fd| !fd.revents().is_empty())
    }

    fn wait_with(&self, other: Option<BorrowedFd<'_>>, what: PollFlags, limit: Option<Duration>) -> bool {
        let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let wake = self.wake.as_fd();
        // Nobody empties the wake pipe: once a signal has come, each later wait ends at once.
        let mut fds = [
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(other.unwrap_or(wake), what),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            // Everything but "nothing happened" counts: an end or an error is found by the read that follows.
            Ok(_) => other.is_some() && !fds[1].revents().is_empty(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;

    #[test]
    fn a_signal_that_comes_while_they_are_taken_over_is_heard() {
        let interrupt = || low_level::raise(SIGINT).expect("a thread may send itself a signal");
        let signals = Signals::install_with(interrupt).expect("signals are taken over");
        assert_eq!(signals.raised(), Some(2));
        let hour = Duration::from_secs(3600);
        let deadline = Deadline::after(hour);
        signals.wait(hour);
        assert!(!deadline.over(), "who waits is woken");
    }
}
