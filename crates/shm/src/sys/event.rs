//! Eventfds: wake-ups for executors that wait on descriptors.
//!
//! A process has one. Others write it when the owner says that it sleeps; the owner hands it to an
//! executor. Non-blocking on both ends, so that nobody can be held up by a full counter.
//!
//! Does not carry data: the value counts wake-ups, and whoever wakes looks at the rings.
//!
//! Invariant: a signal is never lost: after it the descriptor is readable until drained.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
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

/// Checks that `event`, which a peer sent, can be an eventfd that never makes its writer wait.
///
/// # Errors
/// [`ShmError::Refused`] for pipes, sockets and files, and for a descriptor that blocks.
pub fn check(event: impl AsFd) -> Result<(), ShmError> {
    let event = event.as_fd();
    let file_system = rustix::fs::fstatfs(event).map_err(|errno| ShmError::from_errno("fstatfs", errno))?;
    // The width of the magic differs between architectures; the value fits in 32 bits on all.
    if file_system.f_type as u64 != ANON_INODE_FS_MAGIC {
        return Err(ShmError::Refused { what: "the third descriptor is no eventfd" });
    }
    let flags = rustix::fs::fcntl_getfl(event).map_err(|errno| ShmError::from_errno("F_GETFL", errno))?;
    if !flags.contains(OFlags::NONBLOCK) {
        return Err(ShmError::Refused { what: "the eventfd would make its writer wait" });
    }
    Ok(())
}

// linux/magic.h. Other anonymous inodes (epoll, timerfd, ...) have it too: to those a write of 8 bytes is an error.
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// Makes `event` readable. A full counter is readable already, so that is success.
///
/// The peer shares the descriptor's flags and may make it block after [`check`]; so it is only written while there is
/// room. A peer that fills it between the two calls is left: the wake-ups are its own.
///
/// # Errors
/// [`ShmError::System`] where the descriptor is no eventfd: a peer may have sent anything.
pub fn signal(event: impl AsFd) -> Result<(), ShmError> {
    let mut room = [PollFd::new(&event, PollFlags::OUT)];
    if let Ok(0) = poll(&mut room, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        return Ok(());
    }
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
        let (_reader, pipe) = rustix::pipe::pipe().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(signal(&file), Err(ShmError::System { .. })));
        for fd in [OwnedFd::from(file), pipe] {
            assert!(matches!(check(&fd), Err(ShmError::Refused { .. })));
        }
    }

    #[test]
    fn event_that_blocks_is_refused_and_holds_nobody_up_when_it_is_made_to_block_later() {
        let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(matches!(check(&blocking), Err(ShmError::Refused { .. })));
        let event = create().unwrap();
        check(&event).unwrap();
        rustix::fs::fcntl_setfl(&event, OFlags::empty()).unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_le_bytes()).unwrap();
        signal(&event).unwrap();
        assert!(drain(&event).unwrap());
    }
}
