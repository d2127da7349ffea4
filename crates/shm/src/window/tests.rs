//! Windows cover what is named, stay where they are, and cost what their size says.

use super::*;
use crate::sys::memfd;

const PAGE: u64 = 4096;

fn windows(file_bytes: u64, first_bytes: u64, whose: Whose) -> Result<Windows, ShmError> {
    let fd = memfd::create_arena("test", file_bytes)?;
    Ok(Windows::new(Mapping::map_rw(&fd, PAGE)?, file_bytes, first_bytes, whose))
}

#[test]
fn every_byte_of_a_file_is_found_at_its_offset_through_whichever_window() {
    let bytes = 1 << 32;
    let file = windows(bytes, PAGE, Whose::OurUsers).unwrap();
    let mut held: Vec<(u64, Mapped<AtomicU64>)> = Vec::new();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let offset = (rng.u64(..bytes) >> rng.u32(0..32)) / 8 * 8;
        let word: Mapped<AtomicU64> = file.get(offset).unwrap();
        word.store(offset, Ordering::Relaxed);
        held.push((offset, word));
    }
    for (offset, word) in &held {
        assert_eq!(word.load(Ordering::Relaxed), *offset, "what is held lies where it lay");
        let again: Mapped<[AtomicU64]> = file.slice(*offset, 1).unwrap();
        assert_eq!(again[0].load(Ordering::Relaxed), *offset, "every window shows the same file");
    }
    assert!(file.mapped_bytes() <= bytes + bytes / 3 + PAGE, "{}", file.mapped_bytes());
    assert_eq!(file.seed().len(), PAGE);
}

#[test]
fn what_is_not_inside_the_file_is_refused_and_maps_nothing() {
    let file = windows(16 * PAGE, PAGE, Whose::OurUsers).unwrap();
    for (offset, bytes) in
        [(0, 16 * PAGE + 1), (16 * PAGE, 1), (u64::MAX, 1), (1, u64::MAX), (PAGE, 16 * PAGE)]
    {
        assert!(!file.contains(offset, bytes));
        assert!(matches!(file.bytes(offset, bytes), Err(ShmError::OutOfBounds { .. })), "{offset}+{bytes}");
    }
    assert!(matches!(file.slice::<AtomicU64>(8, u64::MAX / 4), Err(ShmError::OutOfBounds { .. })));
    assert!(matches!(file.get::<AtomicU64>(4), Err(ShmError::OutOfBounds { .. })), "misaligned");
    assert!(file.contains(16 * PAGE - 1, 1) && file.mapped_bytes() <= PAGE, "{}", file.mapped_bytes());
}

#[test]
fn other_users_files_take_no_more_addresses_than_their_share_whatever_they_name() {
    let tib = 1 << 40;
    // Each names its last byte, as a hostile publisher would in a thousand processes.
    let mut files: Vec<Windows> = Vec::new();
    let refused = loop {
        let file = windows(tib, PAGE, Whose::Foreign).unwrap();
        let named = file.bytes(tib - 1, 1).map(|_| ());
        files.push(file);
        match named {
            Ok(()) => assert!(files.len() < 1000, "nothing stops them"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, ShmError::AddressSpace { bytes: tib });
    let taken: u64 = files.iter().map(Windows::mapped_bytes).sum();
    assert!(taken <= FOREIGN_BYTES_MAX && taken > FOREIGN_BYTES_MAX - 2 * tib, "{taken}");
    // Those of one's own user go on, and what was given back can be had again.
    windows(tib, PAGE, Whose::OurUsers).unwrap().bytes(tib - 1, 1).unwrap();
    // First windows are always to be had.
    windows(tib, tib, Whose::Foreign).unwrap().bytes(tib - 1, 1).unwrap();
    files.truncate(1);
    windows(tib, PAGE, Whose::Foreign).unwrap().bytes(tib - 1, 1).unwrap();
}
