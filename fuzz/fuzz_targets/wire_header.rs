//! Headers: any bytes, as they are and sealed, so that the checks behind the checksum are reached as well.
#![no_main]

use busway_wire::{DecodeError, HEADER_SIZE, Header, Kind, Seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check(input);
    // Four bytes of the input become fields that `seal` leaves alone; the rest follows the header.
    let Some(([kind, hops_version, flags, extensions], following)) = input.split_first_chunk() else {
        return;
    };
    let mut header = Header::new(Kind::Publish);
    (header.kind, header.hops_version) = (*kind, *hops_version);
    (header.flags, header.extensions) = (*flags, *extensions);
    let seed = Seed(u64::from(*kind));
    if header.seal_seeded(following, seed).is_ok() {
        let message = [header.bytes(), following].concat();
        let error = Header::validate_seeded(&message, seed).err();
        assert!(!matches!(error, Some(DecodeError::Checksum | DecodeError::ChecksumPayload)));
        assert!(!matches!(error, Some(DecodeError::Size { .. } | DecodeError::Short { .. })));
    }
    if header.seal(following).is_ok() {
        check(&[header.bytes(), following].concat());
    }
});

fn check(message: &[u8]) {
    match Header::validate(message) {
        Ok(header) => {
            let size = HEADER_SIZE + header.extension_bytes() + header.payload(message).len();
            assert_eq!(size, message.len());
            assert!(header.extensions(message).all(|extension| extension.is_ok()));
            assert!(header.kind().is_some() && header.flags().is_some());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
