//! Membership against its model: any strangers, in any order, at any time.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/protocol/tests/membership_model/model.rs"]
mod model;

fuzz_target!(|input: &[u8]| {
    model::run(input);
});
