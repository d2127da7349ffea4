//! Words about artifacts: any bytes are refused, or are a word with one encoding.
#![no_main]

use busway_wire::gossip::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok((word, following)) = decode(input) else { return };
    let mut again = Vec::new();
    encode(&word, following, &mut again);
    assert_eq!(again, input);
});
