//! Link frames: any bytes as a stream, and any bodies with valid checksums, so that the checks behind are reached.
#![no_main]

use busway_protocol::{Framer, Step};
use busway_wire::link::{decode, encode, seed_of};
use busway_wire::{HEADER_SIZE, Header, Kind, Seed};
use libfuzzer_sys::fuzz_target;

const CLUSTER: Seed = Seed(7);

fuzz_target!(|input: &[u8]| {
    stream(input);
    // Four bytes become a header that is sealed; the rest is what follows it.
    let Some(([kind, hops_version, flags, extensions], following)) = input.split_first_chunk() else {
        return;
    };
    let mut header = Header::new(Kind::Publish);
    (header.kind, header.hops_version) = (*kind, *hops_version);
    (header.flags, header.extensions) = (*flags, *extensions);
    let seed = header.kind().map_or(CLUSTER, |kind| seed_of(kind, CLUSTER));
    if header.seal_seeded(following, seed).is_err() {
        return;
    }
    stream(&[header.bytes(), following].concat());
    if let Ok(frame) = decode(&header, following) {
        let mut again = Vec::new();
        encode(&frame, CLUSTER, &mut again).expect("what was decoded can be encoded");
        assert_eq!(&again[HEADER_SIZE..], following, "a frame has one encoding");
    }
});

/// All steps of a stream, which ends or is refused.
fn stream(bytes: &[u8]) {
    let (mut framer, mut at) = (Framer::new(CLUSTER), 0);
    loop {
        let rest = &bytes[at..];
        match framer.next(rest) {
            Ok(Step::Need(need)) => {
                assert!(need > rest.len() && need <= Framer::NEED_MAX);
                return;
            }
            Ok(Step::Frame { consumed, header, body }) => {
                assert_eq!(consumed, HEADER_SIZE + body.len());
                let _ = decode(&header, body);
                at += consumed;
            }
            Ok(Step::Spoiled { consumed, header }) => {
                assert_eq!(consumed, header.size.get() as usize);
                assert!(consumed <= rest.len(), "what was passed over had come");
                at += consumed;
            }
            Ok(Step::Begin { consumed, .. } | Step::Body { consumed, .. }) => {
                assert!(consumed > 0);
                at += consumed;
            }
            Ok(Step::End { .. }) => {}
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        }
    }
}
