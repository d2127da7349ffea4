//! Runs: what goes in comes out, and nothing else is taken for one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use busway_wire::limits::{LINK_RUN_MESSAGES_MAX, LINK_RUN_PAYLOAD_BYTES_MAX};
use busway_wire::{
    DecodeError, Flags, FrameFault, HEADER_SIZE, Header, Kind, PortId, RECORD_SIZE, Records, Run, Seed,
    TopicId,
};

const CLUSTER: Seed = Seed(0xfeed_f00d_dead_beef);
const TIME_NS: u64 = 1_700_000_000_000_000_000;

/// Flags, time, correlation, payload.
type Said = (u8, u64, u64, Vec<u8>);

/// What it takes of a run.
fn bytes_of((_, _, correlation, payload): &Said) -> usize {
    RECORD_SIZE + if *correlation == 0 { 0 } else { 8 } + payload.len()
}

fn begun(first: u64) -> Run {
    let mut run = Run::default();
    run.begin(TopicId(3), PortId(4), first, TIME_NS);
    run
}

fn sealed(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    run.seal(1, CLUSTER, &mut out).unwrap();
    out
}

/// What a frame says: sequence and message.
fn read(frame: &[u8]) -> Result<Vec<(u64, Said)>, DecodeError> {
    let header = Header::validate_seeded(frame, CLUSTER)?;
    let records = Records::check(&header, &frame[HEADER_SIZE..])?;
    let said = |message: busway_wire::Packed<'_>| {
        let payload = message.payload.to_vec();
        (message.sequence, (message.flags, message.time_ns, message.correlation, payload))
    };
    assert_eq!(records.count_left(), records.clone().count() as u64);
    assert_eq!(records.payload_bytes(), records.clone().map(|message| message.payload.len() as u64).sum());
    Ok(records.map(said).collect())
}

/// A frame whose checksums hold, with this count and body.
fn frame(first: u64, count: u64, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new(Kind::Run);
    header.sequence.set(first);
    header.correlation.set(count);
    header.seal_seeded(body, CLUSTER).unwrap();
    [header.bytes(), body].concat()
}

fn record(size: u16, flags: u8, parts: u8) -> [u8; RECORD_SIZE] {
    let [low, high] = size.to_le_bytes();
    [low, high, flags, parts, 0, 0, 0, 0]
}

#[test]
fn any_messages_come_out_of_a_run_as_they_went_in_as_far_as_they_fit() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let first = [1, 7, 1 << 40, u64::MAX - 20][rng.usize(0..4)];
        let (mut run, mut said) = (begun(first), Vec::new());
        for _ in 0..rng.usize(1..80) {
            let flags = [0, 1, 3, 0b1000, 0b1_0000][rng.usize(0..5)];
            let time_ns = TIME_NS.wrapping_add_signed(rng.i64(-2_000_000_000..2_000_000_000));
            let correlation = [0, 0, 1, u64::MAX][rng.usize(0..4)];
            let size = [0, 1, 8, 64, 1_000, LINK_RUN_PAYLOAD_BYTES_MAX][rng.usize(0..6)];
            let payload: Vec<u8> = (0..size).map(|_| rng.u8(..)).collect();
            if !run.push(flags, time_ns, correlation, &payload) {
                let used: usize = said.iter().map(|(_, said)| bytes_of(said)).sum();
                let full = used + bytes_of(&(flags, time_ns, correlation, payload)) > Run::BYTES_MAX;
                let last = first.saturating_add(said.len() as u64) == u64::MAX;
                assert!(full || last, "seed {seed}: {size} bytes are refused behind {used}");
                break;
            }
            said.push((first + said.len() as u64, (flags, time_ns, correlation, payload)));
        }
        let bytes = sealed(&run);
        if said.len() > 1 {
            assert_eq!(read(&bytes), Ok(said.clone()), "seed {seed}");
        } else {
            let header = Header::validate_seeded(&bytes, CLUSTER).unwrap();
            assert_eq!((header.kind(), header.sequence.get()), (Some(Kind::Publish), first));
            assert_eq!((header.time_ns.get(), header.correlation.get()), (said[0].1.1, said[0].1.2));
            assert_eq!(header.payload(&bytes), said[0].1.3);
        }
        let gone = rng.usize(0..said.len());
        run.skip(gone as u64);
        assert_eq!((run.first(), run.count()), (first + gone as u64, (said.len() - gone) as u64));
        let left: Vec<(u64, Vec<u8>)> =
            run.records().map(|message| (message.sequence, message.payload.to_vec())).collect();
        let expected = said[gone..].iter().map(|(sequence, said)| (*sequence, said.3.clone()));
        assert_eq!(left, expected.collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_run_is_full_at_its_bounds_and_what_no_record_can_say_goes_by_itself() {
    let mut run = begun(1);
    for _ in 0..LINK_RUN_MESSAGES_MAX {
        assert!(run.push(0, TIME_NS, 0, &[]));
    }
    assert!(!run.push(0, TIME_NS, 0, &[]), "one message more than the bound");
    assert_eq!(read(&sealed(&run)).unwrap().len() as u64, LINK_RUN_MESSAGES_MAX);
    let mut run = begun(1);
    assert!(!run.push(0, TIME_NS, 0, &[0; LINK_RUN_PAYLOAD_BYTES_MAX + 1]));
    assert!(!run.push(0, TIME_NS + (1 << 31), 0, &[]), "a time that is too far away");
    assert!(run.push(0, TIME_NS + (1 << 31) - 1, 0, &[]) && run.push(0, TIME_NS - (1 << 31), 0, &[]));
    while run.push(0, TIME_NS, 0, &[7; 4_000]) {}
    let bytes = sealed(&run);
    assert!(
        bytes.len() <= HEADER_SIZE + Run::BYTES_MAX && bytes.len() > HEADER_SIZE + Run::BYTES_MAX - 4_016
    );
    assert!(read(&bytes).is_ok());
}

#[test]
fn every_single_bit_flip_of_a_run_is_refused() {
    let mut run = begun(9);
    assert!(
        run.push(1, TIME_NS, 0, b"one")
            && run.push(0, TIME_NS + 1, 5, b"two")
            && run.push(0, TIME_NS, 0, b"")
    );
    let good = sealed(&run);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn counts_and_sizes_that_lie_are_refused_though_the_checksums_hold() {
    let kind = Kind::Run;
    let fault = |fault| Err(DecodeError::Frame { kind, fault });
    let two = [record(1, 0, 0).as_slice(), b"a", &record(2, 0, 0), b"bc"].concat();
    assert!(read(&frame(1, 2, &two)).is_ok());
    for count in [0, 1, LINK_RUN_MESSAGES_MAX + 1, u64::MAX] {
        assert_eq!(read(&frame(1, count, &two)), fault(FrameFault::Field("correlation")), "{count}");
    }
    assert_eq!(read(&frame(1, 3, &two)), fault(FrameFault::Body), "more than there are");
    let three = [two.as_slice(), &record(0, 0, 0)].concat();
    assert_eq!(read(&frame(1, 2, &three)), fault(FrameFault::Trailing { size: RECORD_SIZE }), "fewer");
    for size in 0..two.len() {
        assert_eq!(read(&frame(1, 2, &two[..size])), fault(FrameFault::Body), "cut at {size}");
    }
    for first in [0, u64::MAX - 1, u64::MAX] {
        assert_eq!(read(&frame(first, 2, &two)), fault(FrameFault::Field("sequence")), "{first}");
    }
    let flags = [0b100, 0b1000_0000, Flags::UNSEALED.bits(), Flags::RELAYED.bits()];
    for flags in flags {
        let body = [record(0, 0, 0), record(0, flags, 0)].concat();
        assert_eq!(read(&frame(1, 2, &body)), Err(DecodeError::Flags { flags }));
    }
    let body = [record(0, 0, 0), record(0, 0, 2)].concat();
    assert_eq!(read(&frame(1, 2, &body)), fault(FrameFault::Field("parts")));
    let body = [record(0, 0, 1).as_slice(), &[0; 8], &record(0, 0, 0)].concat();
    assert_eq!(read(&frame(1, 2, &body)), fault(FrameFault::NotCanonical), "a correlation that is 0");
    let large = LINK_RUN_PAYLOAD_BYTES_MAX + 1;
    let payload = vec![0; large];
    let body = [record(large as u16, 0, 0).as_slice(), &payload, &record(0, 0, 0)].concat();
    assert_eq!(read(&frame(1, 2, &body)), fault(FrameFault::Field("size")));
}

#[test]
fn arbitrary_bodies_with_valid_checksums_are_refused_or_come_out_as_they_went_in() {
    let mut rng = fastrand::Rng::with_seed(17);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..50_000 {
        let mut body = Vec::new();
        let count = rng.u64(0..6);
        for _ in 0..count {
            let size = rng.u16(0..12);
            body.extend_from_slice(&record(size, [0, 1, 64][rng.usize(0..3)], [0, 0, 1][rng.usize(0..3)]));
            body.extend((0..size + [0, 8][rng.usize(0..2)]).map(|_| rng.u8(..)));
        }
        if rng.bool() && !body.is_empty() {
            let at = rng.usize(0..body.len());
            body[at] = rng.u8(..);
        }
        let bytes = frame(5, count, &body);
        match read(&bytes) {
            Ok(said) => {
                let mut run = Run::default();
                run.begin(TopicId(0), PortId(0), 5, 0);
                for (_, (flags, time_ns, correlation, payload)) in &said {
                    assert!(run.push(*flags, *time_ns, *correlation, payload));
                }
                assert_eq!(sealed(&run)[HEADER_SIZE..], body, "a run has one encoding");
                taken += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} taken, {refused} refused");
}

#[test]
fn a_run_that_goes_out_from_where_it_lies_is_the_same_frame() {
    let mut run = begun(7);
    assert!(run.seal_header(1, CLUSTER, &mut Vec::new()).is_err(), "there is nothing in it");
    assert!(run.push(0, TIME_NS, 0, &[1; 900]));
    assert!(run.seal_header(1, CLUSTER, &mut Vec::new()).is_err(), "a single message is no run");
    assert!(run.push(0, TIME_NS + 5, 9, &[2; 3_000]));
    let mut apart = Vec::new();
    run.seal_header(1, CLUSTER, &mut apart).unwrap();
    apart.extend_from_slice(run.bytes());
    assert_eq!(apart, sealed(&run));
}
