//! Eventfds: how one thread of a process wakes another that waits on descriptors.
//!
//! They do not leave their process. Non-blocking, so that nobody can be held up by a full counter.
//!
//! Does not carry data: the value counts wake-ups, and whoever wakes looks what there is.
//!
//! Invariant: a signal is never lost: after it the descriptor is readable until drained.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::error::ShmError;

/// Makes an eventfd, closed on exec and non-blocking.
///
/// # Errors
/// [`ShmError::Descriptors`] where the process or the host has none left.
pub fn create() -> Result<OwnedFd, ShmError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| ShmError::from_errno("eventfd", errno))
}

/// Makes `event` readable. A full counter is readable already, so that is success.
///
/// # Errors
/// [`ShmError::System`] where the descriptor is no eventfd.
pub fn signal(event: impl AsFd) -> Result<(), ShmError> {
    loop {
        match rustix::io::write(event.as_fd(), &ONE) {
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ShmError::from_errno("write to eventfd", errno)),
        }
    }
}

/// Makes `event` unreadable until the next signal; says whether there had been one.
///
/// # Errors
/// [`ShmError::System`] where the descriptor is no eventfd.
pub fn drain(event: impl AsFd) -> Result<bool, ShmError> {
    let mut count = [0_u8; 8];
    loop {
        match rustix::io::read(event.as_fd(), &mut count) {
            Ok(_) => return Ok(true),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ShmError::from_errno("read of eventfd", errno)),
        }
    }
}

// An eventfd takes a u64 in the order of the host; both platforms that we support are little-endian.
const ONE: [u8; 8] = 1_u64.to_le_bytes();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_seen_once_and_survives_a_full_counter() {
        let event = create().unwrap();
        assert!(!drain(&event).unwrap(), "nobody has signalled");
        signal(&event).unwrap();
        signal(&event).unwrap();
        assert!(drain(&event).unwrap(), "two signals are one wake-up");
        assert!(!drain(&event).unwrap(), "drained");
        rustix::io::write(&event, &(u64::MAX - 1).to_le_bytes()).unwrap();
        signal(&event).unwrap();
        assert!(drain(&event).unwrap(), "a full counter is readable");
    }

    #[test]
    fn descriptor_that_is_no_eventfd_is_an_error_and_not_a_panic() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(signal(&file), Err(ShmError::System { .. })));
    }
}
