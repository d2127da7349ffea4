//! How much of what was written the peer's kernel has not acknowledged.
//!
//! Linux tells it of a TCP socket by `SIOCOUTQ`, which has the number of `TIOCOUTQ` and which no safe function
//! offers. This file asks for nothing else.
//!
//! Invariant: `SIOCOUTQ` writes one `int` and reads nothing (tcp(7)).

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};

// asm-generic/ioctls.h: the same on x86-64 and aarch64.
const SIOCOUTQ: Opcode = 0x5411;

/// The bytes that were written to `socket` and not acknowledged.
#[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
pub(crate) fn of(socket: impl AsFd) -> Result<u64, Errno> {
    // SAFETY: SIOCOUTQ is a valid opcode and fills one int, by the invariant of this file.
    let question = unsafe { Getter::<SIOCOUTQ, c_int>::new() };
    // SAFETY: the question says truly what the kernel writes, by the invariant of this file; to any descriptor that
    // is not a TCP socket the same number is TIOCOUTQ, which fills one int too, or an error.
    let bytes = unsafe { ioctl(socket, question) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
