//! Runs: any body behind a header with valid checksums is refused, or has one encoding and is all there.
#![no_main]

use busway_wire::{HEADER_SIZE, Header, Kind, Records, Run, Seed, TopicId};
use libfuzzer_sys::fuzz_target;

const CLUSTER: Seed = Seed(7);

fuzz_target!(|input: &[u8]| {
    let Some(([count, first, time, flags], body)) = input.split_first_chunk() else { return };
    let mut header = Header::new(Kind::Run);
    header.flags = *flags;
    header.correlation.set(u64::from(*count));
    header.sequence.set(u64::MAX / 255 * u64::from(*first));
    header.time_ns.set(u64::MAX / 255 * u64::from(*time));
    if header.seal_seeded(body, CLUSTER).is_err() {
        return;
    }
    let Ok(records) = Records::check(&header, body) else { return };
    assert_eq!(records.count_left(), u64::from(*count));
    let mut run = Run::default();
    run.begin(TopicId(0), header.source(), header.sequence.get(), header.time_ns.get());
    let mut payload_bytes = 0;
    for message in records.clone() {
        payload_bytes += message.payload.len() as u64;
        assert!(message.payload.len() <= records.largest());
        assert!(run.push(message.flags, message.time_ns, message.correlation, message.payload));
    }
    assert_eq!((run.count(), run.last()), (records.count_left(), records.last_sequence()));
    assert_eq!(payload_bytes, records.payload_bytes());
    let mut again = Vec::new();
    run.seal(0, CLUSTER, &mut again).expect("what was read can be written");
    assert_eq!(&again[HEADER_SIZE..], body, "a run has one encoding");
});
