//! What hosts say to each other about work: bytes, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_wire::work::{End, Word, decode, encode};
use busway_wire::{Acknowledge, Cause, Group, Pattern, PortId, Topic};

fn all() -> Vec<(Word, &'static [u8], &'static str)> {
    let acknowledge = Acknowledge { within_ms: 30_000, attempts: 5 };
    let group = Group::new(Topic::new("resizers").unwrap(), Some(acknowledge)).unwrap();
    let task = Word::Task {
        pull: 3,
        task: 300,
        topic: Topic::new("price.tick").unwrap(),
        source: PortId(0x1112_1314_1516_1718),
        sequence: 42,
        attempt: 1,
        flags: 8,
        left_ns: 0,
        extensions: 0,
    };
    vec![
        (
            Word::Pull { pull: 3, pattern: Pattern::parse("price.>").unwrap(), group },
            b"",
            "00030770726963652e3e08726573697a65727301b0ea0105",
        ),
        (Word::Unpull { pull: 3 }, b"", "0103"),
        (Word::Grant { pull: 3, tasks: 300 }, b"", "0203ac02"),
        (task, b"body", "0303ac020a70726963652e7469636b98aed8a8c1e28489112a01080000626f6479"),
        (Word::Cancel { pull: 3, task: 300 }, b"", "0403ac02"),
        (Word::Over { task: 300, end: End::Done }, b"", "05ac0200"),
        (Word::Over { task: 300, end: End::Lost(Cause::PullerDied) }, b"", "05ac020110"),
        (Word::Over { task: 300, end: End::Back { attempt: 2 } }, b"", "05ac020202"),
        (Word::Over { task: 300, end: End::Denied }, b"", "05ac0203"),
        (Word::Reply { task: 300, index: 7, state: 1, extensions: 2 }, b"body", "06ac02070102626f6479"),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_word_about_work_has_the_bytes_it_always_had_and_comes_back() {
    let mut body = Vec::new();
    for (word, payload, golden) in all() {
        encode(&word, payload, &mut body);
        assert_eq!(hex(&body), golden, "{word:?}");
        assert_eq!(decode(&body), Ok((word, payload)));
    }
}

#[test]
fn a_word_that_is_cut_unknown_or_encoded_otherwise_is_refused_and_noise_never_panics() {
    let mut body = Vec::new();
    for (word, payload, _) in all() {
        encode(&word, &[], &mut body);
        for size in 0..body.len() {
            assert!(decode(&body[..size]).is_err(), "{word:?} cut to {size}");
        }
        body.push(0);
        assert_eq!(decode(&body).is_ok(), !payload.is_empty(), "{word:?} with a payload");
    }
    assert!(decode(&[7, 0]).is_err(), "no such word");
    assert!(decode(&[1, 0x83, 0]).is_err(), "a number in two spellings");
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut known, mut again) = (0, Vec::new());
    for _ in 0..200_000 {
        let size = rng.usize(..40);
        let mut noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(size).collect();
        if let Some(first) = noise.first_mut() {
            *first %= 8;
        }
        if let Ok((word, payload)) = decode(&noise) {
            encode(&word, payload, &mut again);
            assert_eq!(again, noise);
            known += 1;
        }
    }
    assert!(known > 1_000, "{known}");
}
