//! Structured fuzzing of the control protocol: seeded, with counts per kind, part of the ordinary suite.
//!
//! Random bytes never pass a checksum, so most inputs here are sealed after they were spoilt. `fuzz/` holds the
//! coverage-guided sibling. `BUSWAY_FUZZ_INPUTS` sets the number of inputs, `BUSWAY_FUZZ_SEED` the seed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "sample/random.rs"]
mod random;

use busway_wire::{Control, ControlKind, HEADER_SIZE, Header, Kind, decode, encode};

/// Enough for each kind some thousand times in both ways; ten million is the same command with the variable set.
const INPUTS_DEFAULT: u64 = 200_000;

/// What came of the inputs of one kind.
#[derive(Clone, Copy, Default)]
struct Count {
    accepted: u64,
    refused: u64,
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn no_control_datagram_panics_and_what_is_accepted_encodes_to_the_same_bytes() {
    let inputs = variable("BUSWAY_FUZZ_INPUTS").unwrap_or(INPUTS_DEFAULT).max(1_000);
    let seed = variable("BUSWAY_FUZZ_SEED").unwrap_or(0x00b5_0a9c);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut counts = [Count::default(); Control::COUNT];
    let (mut sealed, mut accepted) = (0, 0);
    let (mut input, mut again) = (Vec::new(), Vec::new());
    for index in 0..inputs {
        make(&mut rng, &mut input);
        let kind = sealed_kind(&input);
        let result = decode(&input);
        if let Ok(control) = &result {
            encode(control, &mut again).unwrap();
            assert_eq!(again, input, "input {index} of seed {seed}: {control:?} has a second encoding");
            accepted += 1;
        } else if let Err(error) = &result {
            assert!(!error.to_string().is_empty(), "input {index} of seed {seed}: a refusal without a word");
        }
        let Some(kind) = kind else {
            assert!(result.is_err(), "input {index} of seed {seed}: accepted without a valid seal");
            continue;
        };
        sealed += 1;
        if let Some(count) = kind.and_then(|number| counts.get_mut(usize::from(number))) {
            *if result.is_ok() { &mut count.accepted } else { &mut count.refused } += 1;
        }
    }
    let list: Vec<String> = ControlKind::ALL
        .iter()
        .zip(&counts)
        .map(|(kind, count)| format!("{kind}={}+{}", count.accepted, count.refused))
        .collect();
    println!(
        "evidence: seed={seed} inputs={inputs} sealed={sealed} accepted={accepted} {} (accepted+refused)",
        list.join(" ")
    );
    assert!(sealed * 2 >= inputs, "only {sealed} of {inputs} inputs had a valid checksum and kind");
    for (kind, count) in ControlKind::ALL.iter().zip(&counts) {
        assert!(count.accepted > 0, "no {kind} was accepted");
        assert!(count.refused > 0, "no {kind} was refused");
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// The first byte of the body, if checksums and kind are valid.
fn sealed_kind(input: &[u8]) -> Option<Option<u8>> {
    let header = Header::validate(input).ok()?;
    (header.kind() == Some(Kind::Control)).then(|| header.payload(input).first().copied())
}

/// Makes one input in one of six ways.
fn make(rng: &mut fastrand::Rng, input: &mut Vec<u8>) {
    let kind = rng.choice(ControlKind::ALL).unwrap();
    encode(&random::control(kind, rng), input).unwrap();
    match rng.u8(0..16) {
        // As it is.
        0..=2 => {}
        // The body spoilt, then sealed: reaches the decoder of the body.
        3..=8 => {
            spoil(rng, input, HEADER_SIZE);
            seal(input, Header::new(Kind::Control));
        }
        // A number with random bytes behind it, sealed.
        9 | 10 => {
            input.truncate(HEADER_SIZE + 1);
            input.extend((0..rng.usize(0..120)).map(|_| 0).collect::<Vec<u8>>());
            if let Some(body) = input.get_mut(HEADER_SIZE + 1..) {
                rng.fill(body);
            }
            seal(input, Header::new(Kind::Control));
        }
        // A field of the header spoilt, with a valid checksum: reaches the checks of the header.
        11 | 12 => {
            let mut header = Header::new(Kind::Control);
            match rng.u8(0..8) {
                0 => header.kind = rng.u8(..),
                1 => header.hops_version = rng.u8(..),
                2 => header.flags = rng.u8(..),
                3 => header.extensions = rng.u8(..) >> rng.u32(0..8),
                4 => header.topic.set(rng.u64(..)),
                5 => header.source.set(rng.u64(..)),
                6 => header.sequence.set(rng.u64(..)),
                _ => header.correlation.set(rng.u64(..)),
            }
            seal(input, header);
        }
        // Anything spoilt, not sealed.
        13 | 14 => spoil(rng, input, 0),
        // Random bytes.
        _ => {
            input.clear();
            input.resize(rng.usize(0..200), 0);
            rng.fill(input);
        }
    }
}

fn seal(input: &mut [u8], mut header: Header) {
    let (head, body) = input.split_at_mut(HEADER_SIZE);
    // A header that claims more extensions than there are cannot be sealed; it then stays as it was.
    if header.seal(body).is_ok() {
        head.copy_from_slice(header.bytes());
    }
}

/// Changes some bytes from `start` on: flips, sets to telling values, cuts, adds, repeats.
fn spoil(rng: &mut fastrand::Rng, input: &mut Vec<u8>, start: usize) {
    for _ in 0..rng.usize(1..4) {
        if input.len() <= start {
            input.push(rng.u8(..));
            continue;
        }
        let at = rng.usize(start..input.len());
        match rng.u8(0..7) {
            0 | 1 => input[at] ^= 1 << rng.u8(0..8),
            2 => input[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap(),
            3 => input[at] = rng.u8(..),
            4 => input.truncate(at),
            5 => input.insert(at, rng.u8(..)),
            // A varint with one byte more than it needs, if it is one here.
            _ => {
                input[at] |= 0x80;
                input.insert(at + 1, 0);
            }
        }
    }
}
