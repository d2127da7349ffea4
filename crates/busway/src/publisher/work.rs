//! What stands before the payload of a task that came from another host: who pushed it there, and which of its messages it is.
//!
//! One ring here carries the tasks of many pushers there, so that its port and its sequence say nothing of them.
//!
//! Invariant: any sixteen bytes are an origin.

use busway_wire::PortId;

/// Bytes of an origin.
pub(crate) const WORK_ORIGIN_BYTES: usize = 16;

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkOrigin {
    pub(crate) source: PortId,
    pub(crate) sequence: u64,
}

impl WorkOrigin {
    pub(crate) fn to_bytes(self) -> [u8; WORK_ORIGIN_BYTES] {
        let mut bytes = [0; WORK_ORIGIN_BYTES];
        let (source, sequence) = bytes.split_at_mut(8);
        source.copy_from_slice(&self.source.0.to_le_bytes());
        sequence.copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// `None` where there are too few bytes.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let (source, rest) = bytes.split_first_chunk::<8>()?;
        let sequence = rest.first_chunk::<8>()?;
        Some(Self { source: PortId(u64::from_le_bytes(*source)), sequence: u64::from_le_bytes(*sequence) })
    }
}
