//! The ids: each a newtype, so that one kind can never be passed for another.
//!
//! Owners draw their own ids (64 random bits a process and a port); nobody allocates them for somebody else, so
//! a registration can be repeated to a new holder of the rendezvous without renaming anything. Indices count
//! from 0 inside one arena and mean nothing outside it. This file draws nothing: it has no source of chance.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// One start of one process: 64 random bits, drawn by the process itself.
    ProcessId(u64),
    "{:016x}"
);
id!(
    /// One publisher or subscriber: 64 random bits, drawn when it is opened. It is the header's `source`.
    PortId(u64),
    "{:016x}"
);
id!(
    /// The first 8 bytes of BLAKE3 of a topic's name, read little-endian: the same on every host.
    TopicId(u64),
    "{:016x}"
);
id!(
    /// A ring's place in its owner's arena.
    RingIndex(u32),
    "{:08x}"
);
id!(
    /// A row's place in its owner's arena (the row is what a subscriber writes about one ring).
    RowIndex(u32),
    "{:08x}"
);
id!(
    /// A row's place among the rows that a ring's owner looks at.
    SeatIndex(u32),
    "{:08x}"
);
id!(
    /// How often a place has been used again: index and generation together are never reused.
    Generation(u32),
    "{:08x}"
);
