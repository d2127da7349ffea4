//! What the service manager is told: that the node is ready, reads its configuration anew, or ends.
//!
//! The plain protocol of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names. Where there is none, nobody
//! waits for it, and nothing is said.
//!
//! Invariant: it never waits; a manager that does not listen costs nothing.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A moment in the life of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It can be used; also again, after it has read its configuration anew.
    Ready,
    /// It reads its configuration anew.
    Reloading,
    /// It ends.
    Stopping,
}

/// Tells the service manager that `NOTIFY_SOCKET` names.
///
/// ```
/// // Nothing is said where nobody asks for it.
/// busway_node::notify(busway_node::Moment::Ready);
/// ```
pub fn notify(moment: Moment) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = tell(&name, moment) {
        tracing::warn!(target: "busway::node", "the service manager cannot be told: {error}");
    }
}

fn tell(name: &OsStr, moment: Moment) -> std::io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let text = match moment {
        Moment::Ready => "READY=1".to_owned(),
        Moment::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", crate::now_ns() / 1_000),
        Moment::Stopping => "STOPPING=1".to_owned(),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(|_| ())
}
