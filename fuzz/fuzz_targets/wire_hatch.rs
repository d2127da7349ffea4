//! Words between a program and the node of its host: any bytes are refused, or are a word with one encoding.
#![no_main]

use busway_wire::hatch::{decode_ask, decode_tell, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok((ask, following)) = decode_ask(input) {
        assert_eq!(encode(&ask, following), input);
    }
    if let Ok((tell, following)) = decode_tell(input) {
        assert_eq!(encode(&tell, following), input);
    }
});
