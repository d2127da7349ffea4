//! Names: every byte string is a topic by escapes, from which it comes back, or is refused for its length.
#![no_main]

use busway_wire::limits::NAME_BYTES_MAX;
use busway_wire::{NameFault, Pattern, Topic, check_domain_name, check_process_name, process_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match Topic::from_bytes(input) {
        Ok(topic) => {
            assert_eq!(unescape(topic.as_str().as_bytes()), input);
            assert_eq!(Topic::new(topic.as_str()), Ok(topic));
        }
        Err(error) => assert!(matches!(error.fault, NameFault::Empty | NameFault::TooLong { .. })),
    }
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match Topic::new(text).or_else(|_| Topic::reserved(text)) {
        Ok(topic) => {
            assert!(text.len() <= NAME_BYTES_MAX && topic.tokens().all(|token| !token.is_empty()));
            assert!(Pattern::parse(text).is_ok_and(|pattern| pattern.matches(&topic)));
            assert!(!topic.as_str().contains(char::is_whitespace));
        }
        Err(error) => assert!(error.at <= text.len() && !error.to_string().is_empty()),
    }
    if check_domain_name(text).is_ok() {
        assert!(!text.contains('/') && text != "." && text != "..");
    }
    assert_eq!(check_process_name(&process_name(text)), Ok(()));
});

fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        let byte = if *first == b'%' {
            let (digits, rest) = text.split_at(2);
            text = rest;
            u8::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("hexadecimal")
        } else {
            *first
        };
        bytes.push(byte);
    }
    bytes
}
