//! Dead letters: there and back, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_wire::{Codec, Context, DeadLetter, DeadLetterHead, DeadReason, MessageId, PortId};

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
fn a_dead_letter_that_says_more_than_we_know_is_read_without_that_unless_it_must_be_understood() {
    let letter = letter();
    let whole = bytes(&letter);
    let at = core::mem::offset_of!(DeadLetterHead, context_bytes);
    let context = letter.context.size();
    let first = whole.len() - letter.payload.len() - context;
    let (mut read, mut refused) = (0, 0);
    // The numbers that we know are below 100; the highest bit says that it must be understood.
    for (word, reads) in [(100_u16, true), (0x7ffe, true), (0x8000 | 100, false), (0, false)] {
        let more = [&word.to_le_bytes()[..], &5_u16.to_le_bytes(), b"later\0\0\0\0\0\0\0"].concat();
        for place in [0, 32, context] {
            let mut later = whole.clone();
            later.splice(first + place..first + place, more.iter().copied());
            let size = u16::try_from(context + more.len()).unwrap();
            later[at..at + 2].copy_from_slice(&size.to_le_bytes());
            match DeadLetter::decode(&later) {
                Ok(found) => {
                    assert_eq!(found, letter, "{word:#x} at {place}");
                    read += 1;
                }
                Err(error) => {
                    assert_eq!(error.field, "context", "{word:#x} at {place}");
                    refused += 1;
                }
            }
            assert_eq!(DeadLetter::decode(&later).is_ok(), reads, "{word:#x} at {place}");
        }
    }
    println!("evidence: later={read} refused={refused}");
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
    let (mut refused, mut read, mut same) = (0, 0, 0);
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
                // An extension may have become one that we do not know, and is passed over.
                let again = bytes(&letter);
                assert!(again == damaged || again.len() < damaged.len(), "seed {seed}");
                same += u32::from(again == damaged);
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000 && same > 1_000 && read - same < same / 10, "{refused} {read} {same}");
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
