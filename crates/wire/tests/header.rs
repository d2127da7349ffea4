//! The header at its door: order of checks, sizes, seeds, flags and extensions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_wire::limits::{EXTENSION_BYTES_MAX, MESSAGE_BYTES_MAX};
use busway_wire::{
    Codec, DecodeError, EncodeError, ExtensionKind, Extensions, Flags, HEADER_SIZE, Header, Kind, Seed,
};

fn message(mut header: Header, following: &[u8], seed: Seed) -> Vec<u8> {
    header.seal_seeded(following, seed).unwrap();
    [header.bytes(), following].concat()
}

fn publish(following: &[u8]) -> Vec<u8> {
    message(Header::new(Kind::Publish), following, Seed::LOCAL)
}

#[test]
fn every_single_bit_flip_of_a_message_is_refused() {
    for following in
        [&b""[..], b"x", b"a payload that is longer than the header of the message, which has 64 bytes"]
    {
        let mut bytes = publish(following);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Header::validate(&bytes).expect_err("flipped");
            let expected = match bit / 8 {
                0..HEADER_SIZE => DecodeError::Checksum,
                _ => DecodeError::ChecksumPayload,
            };
            assert_eq!(error, expected, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Header::validate(&bytes).is_ok());
    }
}

#[test]
fn a_message_of_another_cluster_is_a_checksum_error() {
    let bytes = message(Header::new(Kind::Publish), b"hello", Seed(7));
    assert!(Header::validate_seeded(&bytes, Seed(7)).is_ok());
    assert_eq!(Header::validate_seeded(&bytes, Seed(8)), Err(DecodeError::Checksum));
    assert_eq!(Header::validate(&bytes), Err(DecodeError::Checksum));
}

#[test]
fn a_message_cut_or_extended_anywhere_is_refused() {
    let bytes = publish(b"0123456789");
    for size in 0..HEADER_SIZE {
        assert_eq!(Header::validate(&bytes[..size]), Err(DecodeError::Short { size }));
    }
    for size in HEADER_SIZE..bytes.len() {
        assert_eq!(Header::validate(&bytes[..size]), Err(DecodeError::Size { claimed: 74, size }));
    }
    let longer = [bytes.as_slice(), b"0"].concat();
    assert_eq!(Header::validate(&longer), Err(DecodeError::Size { claimed: 74, size: 75 }));
    let head = Header::validate_head(&bytes[..HEADER_SIZE], Seed::LOCAL);
    assert_eq!(
        head.map(|header| header.size.get()),
        Ok(74),
        "a header is readable before its message arrived"
    );
}

#[test]
fn a_claimed_size_out_of_bounds_is_refused_from_the_header_alone() {
    // The only way to a valid checksum with another size is to compute it here, as a hostile peer would.
    let claim = |size: u32| {
        let mut bytes = publish(b"");
        bytes[16..20].copy_from_slice(&size.to_le_bytes());
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[8..64]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        Header::validate_head(&bytes, Seed::LOCAL).map(|header| header.size.get())
    };
    assert_eq!(claim(64), Ok(64));
    assert_eq!(claim(63), Err(DecodeError::Size { claimed: 63, size: 64 }));
    assert_eq!(claim(0), Err(DecodeError::Size { claimed: 0, size: 64 }));
    let bound = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
    assert_eq!(claim(bound), Ok(bound));
    for size in [bound + 1, u32::MAX >> 1, u32::MAX] {
        let error = DecodeError::TooLarge { size: u64::from(size), size_max: MESSAGE_BYTES_MAX };
        assert_eq!(claim(size), Err(error));
    }
}

#[test]
fn undefined_flags_and_kinds_are_refused() {
    for bits in 0..=u8::MAX {
        let mut header = Header::new(Kind::Publish);
        header.flags = bits;
        let result = Header::validate(&message(header, b"x", Seed::LOCAL));
        assert_eq!(result.is_ok(), bits & 0b1000_0100 == 0, "flags {bits:#010b}: {result:?}");
        assert_eq!(Flags::from_bits(bits).is_some(), result.is_ok());
        let mut header = Header::new(Kind::Publish);
        header.kind = bits;
        let result = Header::validate(&message(header, b"x", Seed::LOCAL));
        assert_eq!(result.is_ok(), matches!(bits, 1..=4 | 16 | 32..=47), "kind {bits}: {result:?}");
    }
    let flags = Flags::from_codec(Codec::MessagePack).with(Flags::AGAIN);
    assert!(flags.has(Flags::AGAIN) && !flags.has(Flags::EXACT_TIME));
    assert_eq!(Flags::from_bits(flags.bits()).map(Flags::codec), Some(Codec::MessagePack));
}

#[test]
fn an_unsealed_message_has_no_payload_checksum_at_all() {
    let mut header = Header::new(Kind::Publish);
    header.flags = Flags::UNSEALED.bits();
    let mut bytes = message(header, b"payload", Seed(3));
    assert_eq!(bytes[8..16], [0; 8]);
    assert!(Header::validate_seeded(&bytes, Seed(3)).is_ok());
    bytes[8] = 1;
    let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[8..64], 3);
    bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    let error = DecodeError::Flags { flags: Flags::UNSEALED.bits() };
    assert_eq!(Header::validate_seeded(&bytes, Seed(3)), Err(error), "a checksum that nobody checks");
}

#[test]
fn extensions_and_payload_are_found_where_they_were_put() {
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..2_000 {
        let (mut bytes, mut pushed) = (Vec::new(), Vec::new());
        for _ in 0..rng.usize(0..6) {
            let kind = rng.choice(ExtensionKind::ALL).unwrap();
            let value: Vec<u8> = (0..rng.usize(0..60)).map(|_| rng.u8(..)).collect();
            Extensions::push(&mut bytes, kind, &value).unwrap();
            pushed.push((kind, value));
        }
        let payload: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect();
        let mut header = Header::new(Kind::Publish);
        header.set_extensions(&bytes).unwrap();
        let whole = message(header, &[bytes, payload.clone()].concat(), Seed::LOCAL);
        let header = Header::validate(&whole).unwrap();
        assert_eq!(header.payload(&whole), payload);
        let found: Vec<_> = header
            .extensions(&whole)
            .map(|extension| extension.map(|it| (it.kind().unwrap(), it.value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(found, pushed);
    }
}

#[test]
fn malformed_extensions_are_refused_where_they_are() {
    let check = |bytes: &[u8]| {
        let mut header = Header::new(Kind::Publish);
        header.set_extensions(bytes).unwrap();
        Header::validate(&message(header, bytes, Seed::LOCAL)).map(|_| ())
    };
    assert_eq!(check(&[1, 0, 4, 0, 9, 9, 9, 9]), Ok(()));
    assert_eq!(check(&[99, 0, 0, 0, 0, 0, 0, 0]), Ok(()), "unknown ones are skipped");
    assert_eq!(check(&[99, 0x80, 0, 0, 0, 0, 0, 0]), Err(DecodeError::ExtensionUnknown { kind: 99 }));
    assert_eq!(check(&[6, 0x80, 0, 0, 0, 0, 0, 0]), Ok(()));
    assert_eq!(check(&[0; 8]), Err(DecodeError::Extension { at: 0 }), "type 0");
    assert_eq!(check(&[1, 0, 5, 0, 9, 9, 9, 9]), Err(DecodeError::Extension { at: 0 }), "too long");
    assert_eq!(check(&[1, 0, 0xff, 0xff, 9, 9, 9, 9]), Err(DecodeError::Extension { at: 0 }));
    assert_eq!(check(&[1, 0, 3, 0, 9, 9, 9, 9]), Err(DecodeError::Extension { at: 0 }), "padding");
    let second = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(check(&second), Err(DecodeError::Extension { at: 8 }));
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_sent() {
    let mut bytes = vec![0; EXTENSION_BYTES_MAX - 8];
    assert_eq!(Extensions::push(&mut bytes, ExtensionKind::Headers, &[0; 4]), Ok(()));
    let size = EXTENSION_BYTES_MAX + 8;
    assert_eq!(
        Extensions::push(&mut bytes, ExtensionKind::Headers, b""),
        Err(EncodeError::Extensions { size })
    );
    assert_eq!(bytes.len(), EXTENSION_BYTES_MAX, "a refusal leaves no trace");
    assert!(Extensions::push(&mut Vec::new(), ExtensionKind::Headers, &[0; 70_000]).is_err());
    let mut header = Header::new(Kind::Publish);
    assert!(header.set_extensions(&[0; 7]).is_err() && header.set_extensions(&[0; 2_048]).is_err());
    header.set_extensions(&[0; 16]).unwrap();
    assert_eq!(header.seal(&[0; 8]), Err(EncodeError::Extensions { size: 16 }));
    assert_eq!(Header::validate_head(Header::new(Kind::Publish).bytes(), Seed::LOCAL), {
        Err(DecodeError::Checksum)
    });
}

#[test]
fn no_bytes_make_the_header_panic() {
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..50_000 {
        let mut header = Header::new(Kind::Publish);
        header.extensions = rng.u8(0..6);
        header.flags = if rng.bool() { 0 } else { rng.u8(..) };
        let following: Vec<u8> = (0..rng.usize(0..60)).map(|_| rng.u8(..) >> rng.u32(0..8)).collect();
        let mut bytes = match header.seal(&following) {
            Ok(()) => [header.bytes(), &following].concat(),
            Err(_) => following,
        };
        if rng.bool() && !bytes.is_empty() {
            let at = rng.usize(0..bytes.len());
            bytes[at] = rng.u8(..);
        }
        if let Ok(header) = Header::validate(&bytes) {
            let extensions = header.extensions(&bytes).map(|extension| extension.map(|it| it.value.len()));
            assert!(extensions.collect::<Result<Vec<_>, _>>().is_ok(), "validated, then refused");
            assert_eq!(HEADER_SIZE + header.extension_bytes() + header.payload(&bytes).len(), bytes.len());
        }
    }
}
