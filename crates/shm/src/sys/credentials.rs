//! Who is at the other end of a local socket, as the kernel says.
//!
//! rustix has a safe function for this, whose process number cannot be 0; but the kernel says 0 of a process that has no
//! number in our pid namespace, as one outside of our container, and then that function fails with no error there is.
//!
//! Does not judge: who may come in is decided by whoever asks.
//!
//! Invariant: the kernel fills a `ucred` whole, or the call has failed.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::error::ShmError;

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its effective user.
    pub uid: u32,
    /// Its process number; 0 where it has none here.
    pub pid: u32,
}

/// Who has connected, or made the socket that we connected to.
///
/// # Errors
/// [`ShmError::System`] where the descriptor is no local socket.
#[expect(unsafe_code, reason = "rustix has no function for this that may say 0")]
pub fn of(socket: impl AsFd) -> Result<Credentials, ShmError> {
    const SIZE: libc::socklen_t = size_of::<libc::ucred>() as libc::socklen_t;
    let mut found = MaybeUninit::<libc::ucred>::uninit();
    let mut size = SIZE;
    // SAFETY: both pointers are to locals that outlive the call, and the kernel writes at most `size` bytes, which is how
    // many there are.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            found.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if failed != 0 || size != SIZE {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(ShmError::from_errno("getsockopt", errno));
    }
    // SAFETY: filled whole, by the invariant of this file; any bytes are three integers.
    let found = unsafe { found.assume_init() };
    Ok(Credentials { uid: found.uid, pid: found.pid.unsigned_abs() })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{Credentials, of};

    #[test]
    fn the_two_ends_of_a_pair_are_both_ours_and_a_file_is_nobodys() {
        let (one, other) = UnixStream::pair().unwrap();
        let ours = Credentials { uid: rustix::process::geteuid().as_raw(), pid: std::process::id() };
        assert_eq!((of(&one).unwrap(), of(&other).unwrap()), (ours, ours));
        of(std::fs::File::open("/proc/self/exe").unwrap()).unwrap_err();
    }
}
