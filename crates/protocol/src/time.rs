//! The time and the names of connections and peers, as the machines take them.
//!
//! Nobody here asks a clock: `now` is an argument everywhere, monotonic, of the caller's choice.

use core::fmt;

pub use busway_wire::link::Identity as PeerId;

/// Nanoseconds of the caller's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This long later; the end of time at most.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since an earlier time; 0 if it is a later one.
    #[must_use]
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One connection, by a number that its caller never uses again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.0)
    }
}
