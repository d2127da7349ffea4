//! From how many bytes on the kernel tells that something can be read.
//!
//! It is told by `SO_RCVLOWAT`, which rustix leaves out. Who waits for a hundred kilobytes is then woken once for them and
//! not for every segment; the end of the peer, and a buffer that is full, are told whatever was asked for.
//! This file asks for nothing else.
//!
//! Invariant: `SO_RCVLOWAT` reads one `int` and writes nothing (socket(7)).

use std::os::fd::{AsFd, AsRawFd};

/// Asks for it. Where the kernel does not listen it tells of every byte, as before.
#[expect(unsafe_code, reason = "rustix has no function for SO_RCVLOWAT")]
pub(crate) fn ask(socket: impl AsFd, least: usize) {
    let least = libc::c_int::try_from(least).unwrap_or(libc::c_int::MAX);
    let size = libc::socklen_t::try_from(size_of_val(&least)).expect("an int is small");
    // SAFETY: the kernel reads one int, by the invariant of this file, from a place that has one and outlives the call; the
    // descriptor is open while it is borrowed.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const least).cast(),
            size,
        )
    };
}
