//! Pieces of a large artifact, and the tree of hashes above them.
//!
//! BLAKE3 hashes a tree of chunks of 1 KiB. A piece is a subtree of a power of two of them, so the values of all pieces lead to the name of the
//! artifact, and each piece is checked against its own. The values are what is sent of the tree, 32 bytes each, in the order of their pieces.
//!
//! Invariant: pieces of one artifact have one size, but for the last.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use busway_wire::gossip::ArtifactId;
use busway_wire::limits::{
    ARTIFACT_BYTES_MAX, ARTIFACT_PIECE_BYTES, ARTIFACT_PIECE_BYTES_MAX, ARTIFACT_PIECE_BYTES_MIN,
    ARTIFACT_PIECES_AIM, ARTIFACT_SMALL_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX,
};

/// Bytes of a value.
pub const VALUE_BYTES: usize = 32;

/// Bytes of a leaf of the tree.
const LEAF_BYTES: u64 = 1 << 10;

const _: () = {
    let (small, usual, large) = (ARTIFACT_PIECE_BYTES_MIN, ARTIFACT_PIECE_BYTES, ARTIFACT_PIECE_BYTES_MAX);
    assert!(small <= usual && usual <= large, "a larger artifact has no smaller pieces");
    assert!(
        small.is_power_of_two() && usual.is_power_of_two() && large.is_power_of_two() && small >= LEAF_BYTES,
        "a piece is a full subtree"
    );
    assert!(ARTIFACT_WHOLE_BYTES_MAX >= small, "an artifact in pieces has two, for the root of its tree");
    assert!(ARTIFACT_WHOLE_BYTES_MAX < ARTIFACT_SMALL_BYTES_MAX, "some have small pieces");
    assert!(ARTIFACT_SMALL_BYTES_MAX >= usual, "and the others two at least");
    assert!(
        ARTIFACT_SMALL_BYTES_MAX <= small * ARTIFACT_PIECES_AIM,
        "small pieces are for as many as are aimed at"
    );
    assert!(
        ARTIFACT_SMALL_BYTES_MAX < ARTIFACT_BYTES_MAX && large * ARTIFACT_PIECES_AIM <= ARTIFACT_BYTES_MAX,
        "each size of a piece is that of some artifact"
    );
    assert!(ARTIFACT_BYTES_MAX / large <= u32::MAX as u64, "each piece has a number");
};

/// Bytes of each piece but the last of an artifact of so many bytes.
///
/// ```
/// use busway_protocol::artifact::pieces;
/// assert_eq!(pieces::piece_bytes(8 << 20), 32 << 10);
/// assert_eq!(pieces::piece_bytes((8 << 20) + 1), 64 << 10);
/// assert_eq!(pieces::piece_bytes(64 << 20), 64 << 10);
/// assert_eq!(pieces::piece_bytes(256 << 20), 256 << 10);
/// assert_eq!(pieces::count((64 << 20) + 1), 513);
/// ```
#[must_use]
pub const fn piece_bytes(size: u64) -> u64 {
    if size <= ARTIFACT_SMALL_BYTES_MAX {
        return ARTIFACT_PIECE_BYTES_MIN;
    }
    let mut bytes = ARTIFACT_PIECE_BYTES;
    while bytes < ARTIFACT_PIECE_BYTES_MAX && bytes * ARTIFACT_PIECES_AIM < size {
        bytes *= 2;
    }
    bytes
}

/// How many pieces it has; none if it is too large.
#[must_use]
pub fn count(size: u64) -> u32 {
    if size > ARTIFACT_BYTES_MAX {
        return 0;
    }
    u32::try_from(size.div_ceil(piece_bytes(size))).unwrap_or(0)
}

/// Where a piece begins, and how many bytes it has; none if there is no such piece.
#[must_use]
pub fn place(size: u64, index: u32) -> Option<(u64, u64)> {
    let bytes = piece_bytes(size);
    let offset = u64::from(index) * bytes;
    (index < count(size)).then(|| (offset, bytes.min(size - offset)))
}

/// The value of a piece that begins there.
#[must_use]
pub fn value(offset: u64, bytes: &[u8]) -> [u8; 32] {
    Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// The values of all pieces of a body, as they are sent.
#[must_use]
pub fn tree(body: &[u8]) -> alloc::vec::Vec<u8> {
    let bytes = piece_bytes(body.len() as u64);
    let step = usize::try_from(bytes).unwrap_or(usize::MAX);
    let values = body.chunks(step).zip(0..).map(|(piece, index): (&[u8], u64)| value(index * bytes, piece));
    values.flatten().collect()
}

/// The name of an artifact of so many bytes whose pieces have these values; none if there are more or fewer of them.
#[must_use]
pub fn root(tree: &[u8], size: u64) -> Option<ArtifactId> {
    let count = usize::try_from(count(size)).ok()?;
    if count == 0 || size <= ARTIFACT_WHOLE_BYTES_MAX {
        return None;
    }
    let (values, rest) = tree.as_chunks::<VALUE_BYTES>();
    if values.len() != count || !rest.is_empty() {
        return None;
    }
    let (left, right) = values.split_at(left_of(values.len()));
    let hash = merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
    Some(ArtifactId(*hash.as_bytes()))
}

/// The left half of a tree is full: the largest power of two that leaves something.
fn left_of(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn merged(values: &[[u8; 32]]) -> [u8; 32] {
    match values {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(left_of(values.len()));
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{ArtifactId, count, place, root, tree, value};

    #[test]
    fn the_values_of_pieces_lead_to_the_name_whatever_the_size() {
        for size in [256 * 1024 + 1, 320 * 1024, 327_681, 1 << 20, (1 << 20) + 7, 5_000_000] {
            let body: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
            let mut values = tree(&body);
            let size = body.len() as u64;
            assert_eq!(root(&values, size), Some(ArtifactId::of(&body)), "{size}");
            for index in 0..count(size) {
                let (offset, bytes) = place(size, index).expect("it is one");
                let at = usize::try_from(offset).expect("small");
                let piece = &body[at..at + usize::try_from(bytes).expect("small")];
                let from = usize::try_from(index).expect("small") * 32;
                assert_eq!(value(offset, piece)[..], values[from..from + 32]);
            }
            assert_eq!(root(&values[32..], size), None, "one less");
            values[40] ^= 1;
            assert_ne!(root(&values, size), Some(ArtifactId::of(&body)));
        }
        assert_eq!((root(&[], u64::MAX), root(&[0; 32], 1), count(u64::MAX)), (None, None, 0));
    }
}
