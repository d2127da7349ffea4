//! How much of what was written the peer's kernel has not acknowledged, and how much of that waits in this host.
//!
//! Linux tells the first of a TCP socket by `SIOCOUTQ`, which has the number of `TIOCOUTQ`, and the second by `SO_MEMINFO`: what
//! the socket has with queues of interfaces and their drivers, which is given back to it when it has left. No safe function
//! offers them. This file asks for nothing else.
//!
//! Invariant: `SIOCOUTQ` writes one `int` and reads nothing (tcp(7)); `SO_MEMINFO` writes at most as many `u32` as it is given
//! room for (sock_getsockopt in the kernel's net/core/sock.c).

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};

use crate::driver::Backlog;

// asm-generic/ioctls.h: the same on x86-64 and aarch64.
const SIOCOUTQ: Opcode = 0x5411;
// linux/sock_diag.h: how many there are, and which is what the interface has.
const PLACES: usize = 9;
const ALLOCATED: usize = 2;

/// What `socket` has.
pub(crate) fn of(socket: impl AsFd) -> Result<Backlog, Errno> {
    let unacknowledged = unacknowledged(&socket)?;
    // Where all is acknowledged nothing of it waits; where the kernel does not tell, all of it may.
    let here = if unacknowledged == 0 { 0 } else { here(&socket).unwrap_or(unacknowledged) };
    Ok(Backlog { unacknowledged, here: here.min(unacknowledged) })
}

#[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
fn unacknowledged(socket: impl AsFd) -> Result<u64, Errno> {
    // SAFETY: SIOCOUTQ is a valid opcode and fills one int, by the invariant of this file.
    let question = unsafe { Getter::<SIOCOUTQ, c_int>::new() };
    // SAFETY: the question says truly what the kernel writes, by the invariant of this file; to any descriptor that
    // is not a TCP socket the same number is TIOCOUTQ, which fills one int too, or an error.
    let bytes = unsafe { ioctl(socket, question) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Bytes of it, with what the kernel keeps about them; none before Linux 4.12.
#[expect(unsafe_code, reason = "rustix has no function for SO_MEMINFO")]
fn here(socket: impl AsFd) -> Option<u64> {
    let mut places = [0_u32; PLACES];
    let mut size = libc::socklen_t::try_from(size_of_val(&places)).ok()?;
    // SAFETY: the kernel writes at most `size` bytes, by the invariant of this file, to a place that has as many and outlives the
    // call; the descriptor is open while it is borrowed.
    let told = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut places).cast(),
            &raw mut size,
        )
    };
    let known = told == 0 && usize::try_from(size).is_ok_and(|size| size > ALLOCATED * size_of::<u32>());
    known.then(|| u64::from(places[ALLOCATED]))
}
