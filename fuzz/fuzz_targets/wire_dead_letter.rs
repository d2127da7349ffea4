//! Dead letters: any payload is refused, or is one with one encoding, beside what a later version may say.
#![no_main]

use busway_wire::DeadLetter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(letter) = DeadLetter::decode(input) else { return };
    let mut again = vec![0xaa; letter.size()];
    letter.write(&mut again).expect("what was read can be written");
    assert!(again == input || again.len() < input.len());
    assert_eq!(DeadLetter::decode(&again), Ok(letter));
});
