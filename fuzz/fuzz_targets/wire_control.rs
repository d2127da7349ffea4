//! Control messages: any bytes as a datagram, and any bytes as the body of one with valid checksums.
#![no_main]

use busway_wire::{Header, Kind, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut header = Header::new(Kind::Control);
    if header.seal(input).is_ok() {
        check(&[header.bytes(), input].concat());
    }
});

fn check(datagram: &[u8]) {
    match decode(datagram) {
        Ok(control) => {
            let mut again = Vec::new();
            encode(&control, &mut again).expect("what was accepted can be said again");
            assert_eq!(again, datagram, "{control:?} has a second encoding");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
