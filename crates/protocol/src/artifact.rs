//! The bytes of one artifact: how they travel, and putting them together again.
//!
//! Small ones stand in their offer, larger ones are asked for whole, of one node at a time. The largest come in pieces
//! of the tree of their hash, each checked by itself, of several nodes at once; first come the values of all pieces, which are checked against the name.
//! Whom to ask and when is decided elsewhere, and pieces are kept in a [`Store`].
//!
//! Invariant: what is handed out as an artifact, or as a part of one, has its size and its hash.

pub mod pieces;
mod store;

use alloc::sync::Arc;
use alloc::vec::Vec;

use busway_wire::gossip::{ArtifactId, NodeIndex};
use busway_wire::limits::{ARTIFACT_CHUNK_BYTES, ARTIFACT_INSIDE_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX};

use crate::gossip::Nodes;
pub use store::{Full, Memory, Name, Store, TopicHash};

/// How an artifact travels, which follows from its size.
///
/// ```
/// use busway_protocol::artifact::Travel;
/// assert_eq!(Travel::of(1_024), Travel::Inside);
/// assert_eq!(Travel::of(1_025), Travel::Whole);
/// assert_eq!(Travel::of(256 * 1_024 + 1), Travel::Pieces);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Travel {
    /// In its offer.
    Inside,
    /// Whole, of one node at a time, in chunks.
    Whole,
    /// In pieces, of several nodes at once.
    Pieces,
}

impl Travel {
    /// That of an artifact of so many bytes.
    #[must_use]
    pub const fn of(size: u64) -> Travel {
        if size <= ARTIFACT_INSIDE_BYTES_MAX as u64 {
            Travel::Inside
        } else if size <= ARTIFACT_WHOLE_BYTES_MAX {
            Travel::Whole
        } else {
            Travel::Pieces
        }
    }
}

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// More is to come.
    More,
    /// All is there, and is what it should be.
    Whole(Arc<[u8]>),
    /// All is there, and is something else. What came is forgotten.
    Corrupt {
        /// From whom parts of it came.
        of: Nodes,
    },
    /// It does not belong here; nothing has changed.
    Misplaced,
}

/// What bytes are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// Those of this name.
    Whole(ArtifactId),
    /// The values of the pieces of this name, of so many bytes.
    Tree(ArtifactId, u64),
    /// Those of this value, which begin there.
    Piece([u8; 32], u64),
}

impl Proof {
    fn holds(&self, bytes: &[u8]) -> bool {
        match self {
            Proof::Whole(id) => ArtifactId::of(bytes) == *id,
            Proof::Tree(id, size) => pieces::root(bytes, *size) == Some(*id),
            Proof::Piece(value, offset) => pieces::value(*offset, bytes) == *value,
        }
    }
}

/// A part of an artifact that comes whole.
#[derive(Clone, Debug)]
pub(crate) struct Assembly {
    proof: Proof,
    size: usize,
    bytes: Vec<u8>,
    of: Nodes,
}

impl Assembly {
    /// One of which nothing has come. Memory is taken as it comes.
    pub(crate) fn new(proof: Proof, size: u64) -> Assembly {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Assembly { proof, size, bytes: Vec::new(), of: Nodes::default() }
    }

    /// How many bytes are there: the offset of the next chunk.
    pub(crate) fn offset(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Forgets what has come.
    pub(crate) fn restart(&mut self) {
        (self.bytes, self.of) = (Vec::new(), Nodes::default());
    }

    /// Takes the next chunk.
    pub(crate) fn put(&mut self, from: NodeIndex, offset: u64, chunk: &[u8]) -> Put {
        let expected = (self.size - self.bytes.len()).min(ARTIFACT_CHUNK_BYTES);
        if offset != self.offset() || chunk.len() != expected || chunk.is_empty() {
            return Put::Misplaced;
        }
        self.of.insert(from);
        self.bytes.extend_from_slice(chunk);
        if self.bytes.len() < self.size {
            return Put::More;
        }
        let bytes = core::mem::take(&mut self.bytes);
        if self.proof.holds(&bytes) {
            return Put::Whole(bytes.into());
        }
        Put::Corrupt { of: core::mem::take(&mut self.of) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{ARTIFACT_CHUNK_BYTES, ArtifactId, Assembly, NodeIndex, Proof, Put, pieces};

    #[test]
    fn a_piece_is_kept_where_it_has_its_value_at_its_place_and_nowhere_else() {
        let from = NodeIndex(1);
        let piece: Vec<u8> = (0..2 * ARTIFACT_CHUNK_BYTES).map(|at| (at % 251) as u8).collect();
        let (first, last) = piece.split_at(ARTIFACT_CHUNK_BYTES);
        let mut wrong = last.to_vec();
        wrong[ARTIFACT_CHUNK_BYTES - 1] ^= 1;
        let size = piece.len() as u64;
        for (place, last, is_kept) in [(size, &wrong[..], false), (0, last, false), (size, last, true)] {
            let mut assembly = Assembly::new(Proof::Piece(pieces::value(size, &piece), place), size);
            assert_eq!(assembly.put(from, 0, first), Put::More);
            let put = assembly.put(from, assembly.offset(), last);
            assert_eq!(put == Put::Whole(piece.clone().into()), is_kept, "at {place}");
            assert_eq!(put == Put::Corrupt { of: [from].into_iter().collect() }, !is_kept, "at {place}");
        }
    }

    #[test]
    fn an_artifact_is_handed_out_whole_and_checked_or_not_at_all() {
        let (one, other) = (NodeIndex(1), NodeIndex(2));
        let body = vec![7; ARTIFACT_CHUNK_BYTES + 1];
        let mut assembly = Assembly::new(Proof::Whole(ArtifactId::of(&body)), body.len() as u64);
        let (first, last) = body.split_at(ARTIFACT_CHUNK_BYTES);
        assert_eq!(assembly.put(one, 1, first), Put::Misplaced, "another offset");
        assert_eq!(assembly.put(one, 0, last), Put::Misplaced, "a short one");
        assert_eq!(assembly.put(one, 0, &body), Put::Misplaced, "more than there is");
        assert_eq!(assembly.put(one, 0, first), Put::More);
        assert_eq!(assembly.offset(), ARTIFACT_CHUNK_BYTES as u64);
        let of = [one, other].into_iter().collect();
        assert_eq!(assembly.put(other, assembly.offset(), &[8]), Put::Corrupt { of });
        assert_eq!(assembly.offset(), 0, "it begins anew");
        assert_eq!(assembly.put(one, 0, first), Put::More);
        assert_eq!(assembly.put(one, assembly.offset(), last), Put::Whole(body.clone().into()));
    }
}
