//! What the kernel's error numbers mean to who uses a driver.
//!
//! It decides nothing: each number has one meaning, and those without keep their number.
//!
//! Invariant: `EAGAIN`, `EINTR` and `EINPROGRESS` are answers and no faults; they never come here.

use rustix::io::Errno;

use crate::driver::Fault;

/// The fault that `errno` is.
pub(crate) fn fault(errno: Errno) -> Fault {
    match errno {
        Errno::CONNREFUSED => Fault::Refused,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => Fault::Unreachable,
        // ENOTCONN: the peer was faster with its reset than we with our call.
        Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN => Fault::Reset,
        Errno::TIMEDOUT => Fault::TimedOut,
        Errno::ADDRINUSE => Fault::AddressInUse,
        // EAFNOSUPPORT: a kernel without IPv6 has no such address either.
        Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => Fault::AddressUnknown,
        Errno::ACCESS | Errno::PERM => Fault::Denied,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Fault::Shortage,
        other => Fault::System(other.raw_os_error()),
    }
}

/// The same for a connect, where "address not available" says that no local port is free.
pub(crate) fn of_dial(errno: Errno) -> Fault {
    if errno == Errno::ADDRNOTAVAIL { Fault::Shortage } else { fault(errno) }
}
