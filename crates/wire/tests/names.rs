//! Names at their door: hostile topics, patterns, domains, and what their errors say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use std::collections::BTreeMap;

use busway_wire::limits::NAME_BYTES_MAX;
use busway_wire::{
    NameError, NameFault, Pattern, Policy, PolicyError, Topic, check_domain_name, check_process_name,
};

fn refused(text: &str) -> NameError {
    Topic::new(text).expect_err(text)
}

fn fault(at: usize, fault: NameFault) -> NameError {
    NameError { at, fault }
}

// Case 25.

#[test]
fn a_topic_that_is_empty_or_has_nul_newline_or_space_is_refused_at_the_byte() {
    assert_eq!(refused(""), fault(0, NameFault::Empty));
    assert_eq!(refused("a\0b"), fault(1, NameFault::Forbidden('\0')));
    assert_eq!(refused("price.\ntick"), fault(6, NameFault::Forbidden('\n')));
    assert_eq!(refused("é tick"), fault(2, NameFault::Forbidden(' ')));
    for character in ['\t', '\r', '\u{7f}', '\u{85}', '\u{a0}', '\u{2028}', '\u{3000}', '\u{1b}'] {
        assert_eq!(refused(&format!("a{character}")), fault(1, NameFault::Forbidden(character)));
    }
    for (text, at) in [(".", 0), ("a.", 2), (".a", 0), ("a..b", 2), ("a.b...", 4)] {
        assert_eq!(refused(text), fault(at, NameFault::EmptyToken), "{text}");
    }
}

#[test]
fn a_topic_of_64_kib_is_refused_and_one_of_255_bytes_is_not() {
    let too_long = |size| fault(255, NameFault::TooLong { size, size_max: 255 });
    assert_eq!(refused(&"a".repeat(65_536)), too_long(65_536));
    assert_eq!(refused(&"a".repeat(256)), too_long(256));
    assert_eq!(Topic::from_bytes(&[b'a'; 65_536]), Err(too_long(65_536)));
    assert!(Topic::new(&"a".repeat(255)).is_ok());
    assert!(Topic::from_bytes(&[b'a'; 255]).is_ok());
    assert_eq!(Topic::from_bytes(&[0xff; 86]), Err(too_long(258)), "the escapes count");
    assert!(Topic::from_bytes(&[0xff; 85]).is_ok());
    assert_eq!(Topic::from_bytes(b""), Err(fault(0, NameFault::Empty)));
}

#[test]
fn invalid_utf8_becomes_a_topic_only_by_escapes() {
    for (bytes, name) in [
        (&b"\xff"[..], "%FF"),
        (b"a\xc3", "a%C3"),
        (b"\xed\xa0\x80", "%ED%A0%80"),
        (b"a.\xf0\x9f\x9a", "a.%F0%9F%9A"),
        (b"caf\xc3\xa9", "café"),
    ] {
        assert_eq!(Topic::from_bytes(bytes).unwrap().as_str(), name);
    }
}

// Case 26.

#[test]
fn a_name_that_means_something_to_a_path_never_names_a_domain() {
    for name in [
        "..",
        ".",
        "a/b",
        "/etc/passwd",
        "../x",
        "a%2fb",
        "a\\b",
        "-rf",
        ".hidden",
        "é",
        "a b",
        "a\0",
        "a\n",
        "",
    ] {
        assert!(check_domain_name(name).is_err(), "{name:?} was accepted");
    }
    assert!(check_domain_name(&"d".repeat(65)).is_err());
    for name in ["default", "a.b-c_D9", "_x", &"d".repeat(64)] {
        assert_eq!(check_domain_name(name), Ok(()), "{name}");
    }
    assert_eq!(check_domain_name("a/b"), Err(fault(1, NameFault::NotPortable('/'))));
    assert_eq!(check_domain_name("../b"), Err(fault(0, NameFault::Leading('.'))));
}

#[test]
fn dots_and_slashes_in_topics_are_refused_or_are_plain_characters() {
    assert_eq!(refused(".."), fault(0, NameFault::EmptyToken));
    assert_eq!(refused("../../etc"), fault(0, NameFault::EmptyToken));
    // A topic never becomes part of a path, so these are characters like any other, and are not decoded.
    for text in ["/etc/passwd", "a/b", "%2f", "a%2fb"] {
        assert_eq!(Topic::new(text).unwrap().as_str(), text);
    }
    assert_ne!(Topic::new("%2f").unwrap(), Topic::new("/").unwrap());
    assert_eq!(Topic::from_bytes(b"%2f").unwrap().as_str(), "%252f");
}

// Case 27.

#[test]
fn a_wildcard_is_refused_in_a_topic_and_in_the_middle_of_a_pattern() {
    assert_eq!(refused("*"), fault(0, NameFault::Wildcard('*')));
    assert_eq!(refused("price.*.eu"), fault(6, NameFault::Wildcard('*')));
    assert_eq!(refused("price.>"), fault(6, NameFault::Wildcard('>')));
    assert_eq!(refused("^pri"), fault(0, NameFault::Caret));
    assert!(Topic::new("a*b.c>d").is_ok(), "inside a token they are characters");
    for (text, at) in [("price.>.eu", 6), (">.>", 0), ("*.>.*", 2)] {
        assert_eq!(Pattern::parse(text), Err(fault(at, NameFault::RestNotLast)), "{text}");
    }
    for text in ["", "a..*", "*.", ".*", "a b.*", "^a b", "a\0.>"] {
        assert!(Pattern::parse(text).is_err(), "{text:?}");
    }
}

// Case 28; that matching itself is linear is shown beside the matcher.

#[test]
fn a_pattern_of_ten_thousand_wildcards_is_refused_for_its_length() {
    let text = vec!["*"; 10_000].join(".");
    let error = Pattern::parse(&text).unwrap_err();
    assert_eq!(error.fault, NameFault::TooLong { size: 19_999, size_max: NAME_BYTES_MAX });
    let text = vec!["*"; 128].join(".");
    assert!(Pattern::parse(&text).unwrap().matches(&Topic::new(&vec!["a"; 128].join(".")).unwrap()));
}

// Case 30.

#[test]
fn a_reserved_topic_cannot_be_published_by_a_user_and_is_not_matched_by_wildcards() {
    for text in ["$SYS", "$SYS.broker.load", "$"] {
        assert_eq!(refused(text), fault(0, NameFault::Reserved));
        assert_eq!(text.parse::<Topic>(), Err(fault(0, NameFault::Reserved)));
        let topic = Topic::reserved(text).unwrap();
        assert!(topic.is_reserved());
        for pattern in [">", "*", "*.>", "*.broker.load", "^", "^S"] {
            assert!(!Pattern::parse(pattern).unwrap().matches(&topic), "{pattern} matched {text}");
        }
        assert!(Pattern::parse("^$").unwrap().matches(&topic));
        assert!(Pattern::parse(text).unwrap().matches(&topic));
    }
    assert!(Topic::new("a.$SYS").is_ok(), "only the first character reserves");
    assert_eq!(Topic::reserved("a"), Err(fault(0, NameFault::NotReserved)));
    assert_eq!(Topic::reserved("$a..b"), Err(fault(3, NameFault::EmptyToken)));
    assert_eq!(Topic::from_bytes(b"$SYS").unwrap().as_str(), "%24SYS");
}

#[test]
fn an_error_says_where_what_and_what_to_do() {
    for (text, words) in [
        ("", "byte 0: empty name; write at least one character"),
        ("a b", "byte 1: a space is not allowed; remove it, or write a dash or a dot in its place"),
        (
            "a\n",
            "byte 1: the character \\u{a} is not allowed; remove it, or write a dash or a dot in its place",
        ),
        (
            "a.*",
            "byte 2: a topic to publish cannot have the wildcard *; only subscriptions take wildcards; write a name, or add a character to the token",
        ),
        (
            "$x",
            "byte 0: a topic cannot begin with $; the bus keeps these names for itself; begin with another character",
        ),
    ] {
        assert_eq!(refused(text).to_string(), words);
    }
}

#[test]
fn the_triple_service_instance_event_is_one_topic_and_no_two_triples_share_one() {
    assert_eq!(Topic::service("radar", "front", "track").unwrap().as_str(), "radar.front.track");
    assert_eq!(Topic::service("a.b", "c", "d"), Err(fault(1, NameFault::Dot)));
    assert_eq!(Topic::service("a", "b.c", "d"), Err(fault(3, NameFault::Dot)));
    assert_eq!(Topic::service("a", "", "d"), Err(fault(2, NameFault::EmptyToken)));
    assert_eq!(Topic::service("", "b", "d"), Err(fault(0, NameFault::EmptyToken)));
    assert_eq!(Topic::service("a", "b", ""), Err(fault(4, NameFault::EmptyToken)));
    assert_eq!(Topic::service("a", "*", "d"), Err(fault(2, NameFault::Wildcard('*'))));
    assert_eq!(Topic::service("$a", "b", "d"), Err(fault(0, NameFault::Reserved)));
}

#[test]
fn the_name_of_a_process_may_have_spaces_and_no_control_characters() {
    assert_eq!(check_process_name("flight recorder"), Ok(()));
    assert_eq!(check_process_name("a\u{1b}"), Err(fault(1, NameFault::Forbidden('\u{1b}'))));
    assert_eq!(check_process_name(""), Err(fault(0, NameFault::Empty)));
    assert!(check_process_name(&"é".repeat(33)).is_err(), "66 bytes");
}

#[test]
fn different_bytes_never_become_the_same_topic() {
    let mut rng = fastrand::Rng::with_seed(25);
    let mut seen = BTreeMap::new();
    let alphabet = b"ab.*>^$% \0\n\xff\xc3\xa90F25AE";
    for _ in 0..60_000 {
        let bytes: Vec<u8> = match rng.bool() {
            true => (0..rng.usize(1..7)).map(|_| *rng.choice(alphabet).unwrap()).collect(),
            false => (0..rng.usize(1..90)).map(|_| rng.u8(..)).collect(),
        };
        let Ok(topic) = Topic::from_bytes(&bytes) else {
            assert!(bytes.len() > 85, "{bytes:x?} fits when all is escaped, so it must become a topic");
            continue;
        };
        assert_eq!(
            Topic::new(topic.as_str()).as_ref(),
            Ok(&topic),
            "what comes out is a topic for everybody"
        );
        assert_eq!(unescape(topic.as_str()), bytes, "{topic}");
        if let Some(other) = seen.insert(topic, bytes.clone()) {
            assert_eq!(other, bytes);
        }
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(&behind[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    bytes
}

#[test]
fn bytes_that_are_a_topic_without_percent_stay_as_they_are() {
    let mut rng = fastrand::Rng::with_seed(26);
    for _ in 0..5_000 {
        let text: String =
            (0..rng.usize(1..20)).map(|_| *rng.choice(&['a', '.', 'é', '*', '$', '^']).unwrap()).collect();
        if let Ok(topic) = Topic::new(&text) {
            assert_eq!(Topic::from_bytes(text.as_bytes()), Ok(topic));
        }
    }
}

#[test]
fn matching_agrees_with_the_definition_token_by_token() {
    // The definition, written as slowly as it can be.
    fn defined(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            ([first, pattern @ ..], [token, topic @ ..]) => {
                (*first == "*" || first == token) && defined(pattern, topic)
            }
            _ => false,
        }
    }
    let mut rng = fastrand::Rng::with_seed(27);
    let mut matched = 0;
    for _ in 0..50_000 {
        let topic: Vec<&str> =
            (0..rng.usize(1..5)).map(|_| *rng.choice(&["a", "b", "ab"]).unwrap()).collect();
        let pattern: Vec<&str> =
            (0..rng.usize(1..5)).map(|_| *rng.choice(&["a", "b", "ab", "*", "*", ">"]).unwrap()).collect();
        let Ok(parsed) = Pattern::parse(&pattern.join(".")) else {
            assert!(pattern.iter().rev().skip(1).any(|token| *token == ">"), "{pattern:?}");
            continue;
        };
        let name = Topic::new(&topic.join(".")).unwrap();
        let result = parsed.matches(&name);
        assert_eq!(result, defined(&pattern, &topic), "{parsed} against {name}");
        assert_eq!(parsed.to_string().parse(), Ok(parsed.clone()));
        assert_eq!(parsed.exact().is_some(), !pattern.iter().any(|token| matches!(*token, "*" | ">")));
        matched += usize::from(result);
    }
    assert!(matched > 1_000, "only {matched} pairs matched");
}

#[test]
fn a_prefix_is_compared_byte_by_byte_and_not_by_token() {
    let prefix = |text: &str, topic: &str| Pattern::parse(text).unwrap().matches(&Topic::new(topic).unwrap());
    assert!(prefix("^price.t", "price.tick") && prefix("^price", "pricey") && prefix("^", "a"));
    assert!(prefix("^*", "*a") && !prefix("^*", "a"), "no wildcard behind the caret");
    assert!(!prefix("^price.tick", "price.tic") && !prefix("^p", "q"));
    assert!(prefix("^a.", "a.b") && !prefix("^a.", "a"));
}

#[test]
fn every_policy_reads_what_it_writes_and_refuses_the_rest_with_a_remedy() {
    for text in
        ["drop-oldest", "drop-oldest:1", "drop-oldest:1048576", "keep-latest", "drop-newest:256", "block"]
    {
        assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
    }
    for (text, error) in [
        ("", PolicyError::Unknown),
        ("dropoldest", PolicyError::Unknown),
        ("Block", PolicyError::Unknown),
        ("drop-newest", PolicyError::DepthMissing),
        ("block:3", PolicyError::DepthUnwanted),
        ("drop-oldest:", PolicyError::NotANumber { depth_max: 1 << 20 }),
        ("drop-newest:+3", PolicyError::NotANumber { depth_max: 256 }),
        ("drop-newest:0", PolicyError::Depth { depth: 0, depth_max: 256 }),
        ("drop-newest:257", PolicyError::Depth { depth: 257, depth_max: 256 }),
        ("drop-oldest:4294967295", PolicyError::Depth { depth: 4_294_967_295, depth_max: 1 << 20 }),
        ("drop-oldest:99999999999999999999", PolicyError::Depth { depth: u64::MAX, depth_max: 1 << 20 }),
    ] {
        assert_eq!(text.parse::<Policy>(), Err(error), "{text}");
    }
}
