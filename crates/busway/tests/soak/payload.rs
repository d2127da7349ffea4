//! What the messages of the soak look like: every byte follows from who sent it and from its sequence.
//!
//! So a receiver knows the length and the content of a message before it looks, and a checksum in the message says
//! the same a second time. Invariant: `fill` and `check` agree for every length.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Checksum and sequence stand before the rest.
const HEAD: usize = 16;

/// What makes the messages of one publisher differ from those of another.
pub(crate) fn key(process: &str, topic: &str, port: u64) -> u64 {
    xxh3_64_with_seed(format!("{process} {topic}").as_bytes(), port)
}

/// The length of a message: from nothing to 2 MiB, the short ones often and the long ones seldom.
pub(crate) fn length(key: u64, sequence: u64) -> usize {
    let mut draw = fastrand::Rng::with_seed(key ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    match draw.u32(0..1000) {
        0..100 => 0,
        100..450 => draw.usize(1..=96),
        450..850 => draw.usize(97..=4096),
        850..985 => draw.usize(4097..=65_536),
        985..998 => draw.usize(65_537..=300_000),
        _ => draw.usize(300_001..=2 << 20),
    }
}

fn word(key: u64, sequence: u64) -> [u8; 8] {
    xxh3_64_with_seed(&sequence.to_le_bytes(), key).to_le_bytes()
}

/// Writes the message into `bytes`, which are as many as `length` says.
pub(crate) fn fill(bytes: &mut [u8], key: u64, sequence: u64) {
    let word = word(key, sequence);
    let Some((head, rest)) = bytes.split_at_mut_checked(HEAD) else {
        let short = bytes.len().min(8);
        bytes[..short].copy_from_slice(&word[..short]);
        bytes[short..].fill(word[0]);
        return;
    };
    for (at, block) in rest.chunks_mut(256).enumerate() {
        block.fill(word[at % 8]);
    }
    head[8..].copy_from_slice(&sequence.to_le_bytes());
    let checksum = xxh3_64_with_seed(rest, key ^ sequence);
    head[..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Whether `bytes` are that message; what is wrong otherwise.
pub(crate) fn check(bytes: &[u8], key: u64, sequence: u64) -> Result<(), String> {
    let expected = length(key, sequence);
    if bytes.len() != expected {
        return Err(format!("{} bytes instead of {expected}", bytes.len()));
    }
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        let mut same = [0; HEAD];
        fill(&mut same[..expected], key, sequence);
        return if same[..expected] == *bytes { Ok(()) } else { Err(format!("short content {bytes:?}")) };
    };
    if head[8..] != sequence.to_le_bytes() {
        return Err(format!("the sequence inside is {:?}", &head[8..]));
    }
    if head[..8] != xxh3_64_with_seed(rest, key ^ sequence).to_le_bytes() {
        return Err(format!(
            "checksum of {expected} bytes, first {:?}, all {:x}",
            &rest[..8.min(rest.len())],
            xxh3_64(rest)
        ));
    }
    if rest.first().is_some_and(|first| *first != word(key, sequence)[0]) {
        return Err("the content of another message".to_owned());
    }
    Ok(())
}
