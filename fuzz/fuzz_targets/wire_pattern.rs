//! Patterns: any two texts, the first as a pattern, the second as a topic, against a slow definition.
#![no_main]

use busway_wire::{Pattern, Topic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, topic) = input;
    let parsed = match Pattern::parse(pattern) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(error.at <= pattern.len() && !error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(parsed.as_str(), pattern);
    let Ok(topic) = Topic::new(topic).or_else(|_| Topic::reserved(topic)) else {
        return;
    };
    assert_eq!(parsed.matches(&topic), defined(pattern, &topic));
});

fn defined(pattern: &str, topic: &Topic) -> bool {
    let bare = pattern.strip_prefix('^');
    if topic.is_reserved() && !bare.unwrap_or(pattern).starts_with('$') {
        return false;
    }
    if let Some(prefix) = bare {
        return topic.as_str().as_bytes().starts_with(prefix.as_bytes());
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let topic: Vec<&str> = topic.tokens().collect();
    tokens(&pattern, &topic)
}

fn tokens(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) | ([">"], [_, ..]) => true,
        ([wanted, pattern @ ..], [token, topic @ ..]) => {
            (*wanted == "*" || wanted == token) && tokens(pattern, topic)
        }
        _ => false,
    }
}
