//! Dead letters: there and back, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_wire::{Codec, Context, DeadLetter, DeadReason, MessageId, PortId};

fn letter() -> DeadLetter<'static> {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let context = Context::default().with_id(MessageId(77)).with_trace(trace).with_state("a=b").unwrap();
    DeadLetter { context, ..plain() }
}

fn plain() -> DeadLetter<'static> {
    DeadLetter {
        source: PortId(7),
        sequence: 3,
        time_ns: 5,
        correlation: 9,
        attempts: 4,
        reason: DeadReason::Panic,
        codec: Codec::Json,
        topic: "orders.new",
        error: "no such customer: \u{fc}",
        service: "billing",
        context: Context::default(),
        payload: b"17 apples",
    }
}

fn bytes(letter: &DeadLetter<'_>) -> Vec<u8> {
    let mut bytes = vec![0xaa; letter.size()];
    letter.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn every_damage_to_a_dead_letter_is_refused_or_gives_one_that_is_written_the_same() {
    assert_eq!(DeadLetter::decode(&bytes(&plain())), Ok(plain()));
    let letter = letter();
    let whole = bytes(&letter);
    assert_eq!(DeadLetter::decode(&whole), Ok(letter));
    let text = letter.topic.len() + letter.error.len() + letter.service.len() + letter.context.size();
    for size in 0..whole.len() {
        let cut = DeadLetter::decode(&whole[..size]);
        assert_eq!(cut.is_ok(), size >= 56 + text, "cut to {size} bytes");
    }
    let (mut refused, mut read) = (0, 0);
    let seed = 0x5eed;
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..100_000 {
        let mut damaged = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..damaged.len());
            damaged[at] = random.u8(..);
        }
        damaged.truncate(random.usize(..damaged.len() * 2));
        match DeadLetter::decode(&damaged) {
            Ok(letter) => {
                assert_eq!(bytes(&letter), damaged, "seed {seed}");
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000 && read > 1_000, "{refused} {read}");
    println!("evidence: damaged=100000 refused={refused}");
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let long = "x".repeat(2_000);
    let refused = |letter: DeadLetter<'_>| {
        let mut bytes = vec![0xaa; letter.size()];
        let field = letter.write(&mut bytes).unwrap_err().field;
        assert!(bytes.iter().all(|byte| *byte == 0xaa), "it was written all the same");
        field
    };
    assert_eq!(refused(DeadLetter { attempts: 0, ..plain() }), "attempts");
    assert_eq!(refused(DeadLetter { topic: "a..b", ..plain() }), "topic");
    assert_eq!(refused(DeadLetter { error: &long, ..plain() }), "error");
    assert_eq!(refused(DeadLetter { error: "two\nlines", ..plain() }), "error");
    assert_eq!(refused(DeadLetter { service: "", ..plain() }), "service");
    assert_eq!(plain().write(&mut [0; 20]).unwrap_err().field, "size");
    let said = DeadLetter::text(&format!("two\nlines {long}"));
    assert_eq!((said.len(), &said[..10]), (1_024, "two lines "));
    let fine = DeadLetter { error: &said, topic: "$busway.peers", ..plain() };
    assert_eq!(DeadLetter::decode(&bytes(&fine)), Ok(fine));
}
