//! The memory of messages that do not come to their rings.

use std::time::Duration;

use busway_protocol::Delivery;
use busway_shm::clock::Deadline;
use busway_wire::link::Announce;
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Topic};

use super::{Imports, Inputs, Queued};
use crate::bus::Bus;
use crate::control::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);
const SOURCE: PortId = PortId(9);
const BYTES: usize = 128 << 10;

/// What ends a source.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The peer says that no more will come.
    Closed,
    /// It is another peer's.
    Cut,
    /// The peer is forgotten.
    Forgotten,
}

fn announce() -> Announce {
    let label = String::new;
    let topic = Topic::new("a.b").expect("a topic");
    let (source, created_ns, reliable, resumes) = (SOURCE, 0, true, false);
    Announce {
        source,
        topic,
        publisher: label(),
        process: label(),
        host: label(),
        created_ns,
        reliable,
        resumes,
    }
}

fn header(sequence: u64) -> Header {
    let mut header = Header::new(Kind::Publish);
    header.source.set(SOURCE.0);
    header.sequence.set(sequence);
    header.size.set(u32::try_from(HEADER_SIZE + BYTES).expect("it is small"));
    header
}

#[test]
fn whatever_ends_a_source_the_memory_of_what_has_not_come_to_its_ring_goes_back() {
    for end in [End::Closed, End::Cut, End::Forgotten] {
        let scratch = Scratch::new();
        let bus = Bus::builder().directory(scratch.path().join("run")).open().expect("a bus");
        let mut imports = Imports::new(&bus.core);
        let mut inputs = Inputs::new();
        imports.open(&announce(), 0, &mut inputs);
        // One that is complete and found no room, and one that has begun.
        let incoming = imports.sources.get_mut(&SOURCE).expect("a source");
        let loan = incoming.relay.loan(&[], BYTES).expect("memory");
        imports.wait(SOURCE, Queued::Loaned(header(1), loan), &mut inputs);
        imports.deliver(Delivery::Begin { header: header(2), extensions: &[] }, &mut inputs);
        let (all, free) = bus.core.own.census();
        assert!(all - free >= 2, "{all} chunks, {free} are free");
        match end {
            End::Closed => {
                // What waits is published first, and is then the ring's.
                imports.close(SOURCE);
                while imports.look_again(0, &mut inputs) {}
            }
            End::Cut => imports.cut(SOURCE, &mut inputs),
            End::Forgotten => drop(imports),
        }
        let deadline = Deadline::after(PATIENCE);
        loop {
            let (all, free) = bus.core.own.census();
            if all == free {
                break;
            }
            assert!(!deadline.expired(), "{end:?}: {all} chunks, {free} are free");
            std::thread::yield_now();
        }
    }
}
