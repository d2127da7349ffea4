//! A descriptor that becomes readable when something comes: what an event loop watches for a subscriber.
//!
//! It is rung by the thread of the process that sleeps for all tasks, and only after it was armed; so a loop that is busy
//! with what came is not woken again for each message.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Wake;

use busway::{Code, Error};
use rustix::event::{EventfdFlags, eventfd};

/// An eventfd.
#[derive(Debug)]
pub(crate) struct Doorbell {
    fd: OwnedFd,
}

impl Doorbell {
    pub(crate) fn new() -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
            Error::new(Code::Descriptors, format!("eventfd: {errno}"))
                .at("a subscriber of an event loop")
                .remedy("raise the limit: ulimit -n 4096")
        })?;
        Ok(Self { fd })
    }

    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn ring(&self) {
        // Full or interrupted: it is readable already.
        let _ = rustix::io::write(&self.fd, &1u64.to_le_bytes());
    }

    /// No longer readable, until it rings again.
    pub(crate) fn clear(&self) {
        // Nothing to read: it was clear.
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
