//! The arenas, as the control plane sees them.

pub(crate) use busway_shm::arena::{OwnArena, PeerArena};
pub(crate) use busway_shm::layout::layout_hash;
