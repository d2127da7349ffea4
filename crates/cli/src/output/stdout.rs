//! Standard output that a signal interrupts.
//!
//! Whoever reads us may stop reading for ever, and a command must still end when it is told to. So no write blocks where
//! it can be helped: a pipe or a terminal is opened once more for ourselves, without blocking, because the flag of the
//! descriptor that we were given belongs to our parent as well. Where that is refused, and for sockets, room is waited for
//! before each write of what surely fits. Files and devices do not keep anybody waiting.
//!
//! Invariant: after a signal nothing waits.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::fs::OFlags;

use crate::signals::Signals;

/// What a pipe takes without blocking once it says that it takes anything: a page. (`PIPE_BUF` of pipe(7))
const PIECE_SIZE: usize = 4096;

/// Whether a write can block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It fails instead of blocking, or never takes long.
    Told,
    /// Room is asked for first.
    Asked,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Stdout {
    file: File,
    room: Room,
    signals: Option<Signals>,
}

/// A signal came while we waited for whoever reads us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted(pub(crate) u8);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signal {} came while nobody read", self.0)
    }
}

impl std::error::Error for Interrupted {}

impl Stdout {
    pub(super) fn open() -> io::Result<Self> {
        let given: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
        let given = File::from(given);
        let kind = given.metadata()?.file_type();
        let waits = kind.is_fifo() || kind.is_socket() || given.is_terminal();
        let own = if waits && !kind.is_socket() { reopen(&given).ok() } else { None };
        let room = if waits && own.is_none() { Room::Asked } else { Room::Told };
        Ok(Self { file: own.unwrap_or(given), room, signals: None })
    }

    pub(super) fn heed(&mut self, signals: &Signals) {
        self.signals = Some(signals.clone());
    }

    /// Waits until `fd` can be written; false if a signal comes first.
    pub(super) fn may_write(&self, fd: BorrowedFd<'_>) -> bool {
        loop {
            // Without signals the write itself waits.
            let Some(signals) = &self.signals else { return true };
            if signals.wait_writable(fd) {
                return true;
            }
            if signals.raised().is_some() {
                return false;
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let Some(signals) = &self.signals else {
            let mut fds = [rustix::event::PollFd::new(&self.file, rustix::event::PollFlags::OUT)];
            rustix::event::poll(&mut fds, None)?;
            return Ok(());
        };
        if self.may_write(self.file.as_fd()) {
            return Ok(());
        }
        // Not of kind `Interrupted`: `write_all` would try again for ever.
        Err(io::Error::other(Interrupted(signals.raised().unwrap_or_default())))
    }
}

/// The same pipe or terminal, as a description of our own that does not block.
fn reopen(given: &File) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", given.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = match self.room {
            Room::Told => bytes,
            Room::Asked => {
                self.wait()?;
                &bytes[..bytes.len().min(PIECE_SIZE)]
            }
        };
        loop {
            match self.file.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stdout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
