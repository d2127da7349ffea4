//! One ring and its rows, inside one process: order, contents, policies, holds, the account.
//!
//! The publisher and its subscribers are threads here; what differs between processes (mapping, death, bells) is
//! tested where processes are.
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::Deadline;
use busway_shm::hold::HoldBudget;
use busway_shm::ring::{Patience, Refusal, RingOptions, RingWriter, Sent};
use busway_shm::row::{Body, Message, RowOptions, RowReader, RowShared, Taken, TakenSmall};
use busway_shm::seat::RingShared;
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_wire::{Cause, Flags, HEADER_SIZE, Header, Kind, Policy, PortId, ProcessId, Topic};

const MIB: u64 = 1 << 20;
/// Miri takes the memory of an arena at once, and looks at each test for a minute.
const ARENA_BYTES: u64 = if cfg!(miri) { 320 << 20 } else { 4 << 30 };

struct Pair {
    own: Arc<OwnArena>,
    peer: Arc<PeerArena>,
    writer: RingWriter,
    shared: Arc<RingShared>,
    budget: Arc<HoldBudget>,
}

fn options() -> RingOptions {
    RingOptions {
        slots_max: 64,
        bytes_max: 64 * MIB,
        history: 0,
        max_wait_ns: 50_000_000,
        gating: true,
        relay: false,
    }
}

impl Pair {
    fn new(options: RingOptions) -> Self {
        let own =
            OwnArena::create(&ArenaOptions { name: "pair".into(), bytes_max: ARENA_BYTES, monitored: true })
                .expect("an arena can be made");
        let peer = PeerArena::of_own(&own).expect("our own arena can be mapped");
        let topic = Topic::new("price.tick").expect("a name");
        let (writer, shared) = RingWriter::create(&own, &topic, PortId(7), options).expect("a ring");
        Self { own, peer, writer, shared, budget: Arc::new(HoldBudget::new(256, 64 * MIB)) }
    }

    fn subscribe(&self, policy: Policy) -> RowReader {
        self.subscribe_with(policy, 0, 15)
    }

    fn subscribe_with(&self, policy: Policy, history: u64, holds: u32) -> RowReader {
        self.subscribe_at(policy, history, holds, busway_shm::clock::monotonic_ns())
    }

    fn subscribe_at(&self, policy: Policy, history: u64, holds: u32, created_ns: u64) -> RowReader {
        let row_options = RowOptions { port: PortId(9), policy, history, holds, created_ns, place: 0 };
        let row = RowShared::create(&self.own, &self.peer, self.shared.key(), &row_options, &self.budget)
            .expect("a row");
        let seat = self.shared.attach(&self.peer, row.key(), policy).expect("a seat");
        row.attached(Ok(seat));
        RowReader::new(row, policy, false)
    }

    fn send(&mut self, payload: &[u8], patience: Patience) -> Result<Sent, Refusal> {
        send(&mut self.writer, payload, patience)
    }
}

fn send(writer: &mut RingWriter, payload: &[u8], patience: Patience) -> Result<Sent, Refusal> {
    if payload.len() <= INLINE_BYTES {
        let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
        return writer.send_inline(&meta, payload, patience);
    }
    let size = HEADER_SIZE + payload.len();
    let mut loan = writer.loan(size as u64, Patience::None)?;
    let mut header = Header::new(Kind::Publish);
    header.flags = Flags::UNSEALED.bits();
    header.size.set(size as u32);
    header.sequence.set(writer.head() + 1);
    loan.bytes_mut()[..HEADER_SIZE].copy_from_slice(header.bytes());
    loan.bytes_mut()[HEADER_SIZE..size].copy_from_slice(payload);
    writer.send_loan(loan, patience).map_err(|(refusal, loan)| {
        writer.put_back(loan);
        refusal
    })
}

fn patient() -> Patience {
    Patience::Until(Deadline::after(Duration::from_secs(20)))
}

fn payload(sequence: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(sequence);
    let size = match rng.u32(0..10) {
        0..=4 => rng.usize(0..=96),
        5..=8 => rng.usize(97..4096),
        _ => rng.usize(4096..70_000),
    };
    let mut bytes = vec![(sequence % 251) as u8; size];
    if size >= 8 {
        bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    }
    bytes
}

fn bytes(message: &Message) -> &[u8] {
    message.body.payload()
}

fn drain(reader: &mut RowReader) -> (Vec<u64>, Vec<(Cause, u64)>) {
    let (mut got, mut lost) = (Vec::new(), Vec::new());
    loop {
        match reader.take() {
            Taken::Message(message) => got.push(message.sequence),
            Taken::Gap(gap) => lost.push((gap.cause, gap.count)),
            Taken::Empty | Taken::End | Taken::Evicted(_) => return (got, lost),
            Taken::HoldsExhausted => panic!("nothing is held"),
        }
    }
}

/// Slots of the newest stage.
fn slots(pair: &Pair) -> u64 {
    let entry = pair.shared.entry();
    let used = entry.stages_used.load(std::sync::atomic::Ordering::Relaxed) as usize;
    1 << (entry.stage_at[used - 1].load(std::sync::atomic::Ordering::Relaxed) & 63)
}

/// Messages that are each read at once, until the ring has as many slots or so many were sent.
fn send_and_read(pair: &mut Pair, most: u64, until: u64) -> u64 {
    let mut reader = pair.subscribe(Policy::default());
    for sequence in 1..=most {
        pair.send(b"small", Patience::None).expect("nobody gates");
        let Taken::Message(message) = reader.take() else { panic!("message {sequence} is there") };
        assert_eq!(message.sequence, sequence);
        if slots(pair) >= until {
            return sequence;
        }
    }
    most
}

#[test]
fn who_is_looked_at_rarely_and_keeps_up_is_not_said_to_be_behind() {
    const S: u64 = 1_000_000_000;
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    let row = reader.row().clone();
    let begun = busway_shm::clock::monotonic_ns();
    let at = |seconds: u64| begun + seconds * S;
    let since = |beat_ns: u64| (row.entry().waits_since_ns(beat_ns) - begun) / S;
    row.look(at(1));
    pair.send(&[1], Patience::None).expect("room");
    // It was empty at the look: the message may have come this moment, unless its process has not run since.
    assert_eq!((since(at(9)), since(begun)), (9, 1));
    row.look(at(10));
    assert_eq!(since(at(19)), 10, "it has waited since");
    row.look(at(20));
    assert_eq!(since(at(29)), 10);
    assert!(matches!(reader.take(), Taken::Message(_)));
    pair.send(&[2], Patience::None).expect("room");
    assert_eq!((since(at(29)), since(at(5))), (29, 10), "another one waits now");
    row.look(at(30));
    assert_eq!(since(at(39)), 30);
    assert!(matches!(reader.take(), Taken::Message(_)));
    row.look(at(40));
    pair.send(&[3], Patience::None).expect("room");
    assert_eq!(since(at(49)), 49, "it was empty");
    println!("evidence: looks=5 behind_while_it_kept_up=0");
}

#[test]
fn a_ring_of_messages_that_follow_each_other_closely_has_room_for_fewer_looks_and_others_stay_small() {
    let large = RingOptions { slots_max: 1024, ..options() };
    let mut busy = Pair::new(large.clone());
    let sent = send_and_read(&mut busy, if cfg!(miri) { 512 } else { 1 << 20 }, 256);
    // Miri's clock goes on faster than its messages.
    assert!(slots(&busy) == 256 || cfg!(miri), "{} slots after {sent} messages", slots(&busy));
    let mut bounded = Pair::new(options());
    send_and_read(&mut bounded, 4096, 65);
    assert!(slots(&bounded) <= 64, "no more than it may have: {}", slots(&bounded));
    // The clocks of this thread go on by a nanosecond a look: no two looks are in one tick.
    busway_shm::clock::simulate(Some(1));
    let mut slow = Pair::new(large);
    send_and_read(&mut slow, 512, 33);
    busway_shm::clock::simulate(None);
    assert_eq!(slots(&slow), 32, "a ring of few messages stays one page");
    println!("evidence: grown after {sent} messages");
}

#[test]
fn a_reliable_row_gets_every_message_in_order_and_whole_while_the_ring_grows_under_it() {
    const COUNT: u64 = if cfg!(miri) { 300 } else { 60_000 };
    let mut pair = Pair::new(RingOptions { slots_max: 1024, max_wait_ns: 20_000_000_000, ..options() });
    let mut readers = [pair.subscribe(Policy::Block), pair.subscribe(Policy::Block)];
    std::thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(move || {
                let mut next = 1;
                let mut held = Vec::new();
                while next <= COUNT {
                    match reader.take() {
                        Taken::Message(message) => {
                            assert_eq!(message.sequence, next);
                            assert_eq!(bytes(&message), payload(next), "message {next}");
                            next += 1;
                            if next % 97 == 0 {
                                held.push((next - 1, message));
                            }
                            if held.len() > 8 {
                                let (sequence, message) = held.remove(0);
                                assert_eq!(bytes(&message), payload(sequence), "held message {sequence}");
                            }
                        }
                        Taken::Empty => std::thread::yield_now(),
                        other => panic!("at {next}: {other:?}"),
                    }
                }
            });
        }
        for sequence in 1..=COUNT {
            let sent = pair.send(&payload(sequence), patient()).expect("room comes");
            assert_eq!(sent.sequence, sequence);
        }
    });
    for reader in &readers {
        let account = reader.row().account();
        assert_eq!((account.delivered, account.in_flight, account.held), (COUNT, 0, 0));
    }
    let (all, heap_free) = pair.own.census();
    let census = pair.writer.census();
    assert_eq!(all, heap_free + census.in_ring + census.stored + census.retired, "{census:?}");
    println!("evidence: messages={COUNT} readers=2 chunks={all}");
}

#[test]
fn a_slow_drop_oldest_row_loses_the_oldest_and_counts_them_exactly() {
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    for sequence in 1..=1000 {
        pair.send(&payload(sequence), Patience::None).expect("nobody gates");
    }
    let (got, lost) = drain(&mut reader);
    let missing: u64 = lost.iter().map(|(_, count)| count).sum();
    assert_eq!(got.len() as u64 + missing, 1000);
    assert_eq!(*got.last().expect("the newest are there"), 1000);
    assert!(lost.iter().all(|(cause, _)| *cause == Cause::Lapped), "{lost:?}");
    assert!(got.len() >= 48, "most of the ring is still there: {}", got.len());
}

#[test]
fn depth_keep_latest_and_drop_newest_keep_what_their_names_say() {
    let mut pair = Pair::new(options());
    let mut five = pair.subscribe(Policy::DropOldest { depth: 5 });
    let mut latest = pair.subscribe(Policy::KeepLatest);
    let mut newest = pair.subscribe(Policy::DropNewest { depth: 3 });
    for sequence in 1..=20 {
        pair.send(&payload(sequence), Patience::None).expect("nobody gates");
    }
    assert_eq!(drain(&mut five), (vec![16, 17, 18, 19, 20], vec![(Cause::Lapped, 15)]));
    assert_eq!(drain(&mut latest), (vec![20], vec![(Cause::Conflated, 19)]));
    assert_eq!(drain(&mut newest), (vec![1, 2, 3], vec![(Cause::DropNewest, 17)]));
}

#[test]
fn a_blocking_row_stops_try_send_and_is_stalled_after_its_cap() {
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe(Policy::Block);
    let mut sent = 0;
    let who = loop {
        match pair.send(b"x", Patience::None) {
            Ok(_) => sent += 1,
            Err(Refusal::Full(who)) => break who,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(sent, 64, "the whole ring is filled first");
    assert_eq!((who.len(), who[0].behind, who[0].pid), (1, 64, std::process::id()));
    let outcome = pair.send(b"x", patient()).expect("the cap ends the wait");
    assert_eq!(outcome.stalled, 1);
    // The refused attempt has begun the wait a moment before.
    assert!(outcome.waited_ns >= 25_000_000);
    for _ in 0..100 {
        assert_eq!(pair.send(b"x", patient()).expect("a stalled row gates no more").waited_ns, 0);
    }
    let (got, lost) = drain(&mut reader);
    assert!(lost.iter().all(|(cause, _)| *cause == Cause::Stalled) && !lost.is_empty(), "{lost:?}");
    assert_eq!(got.len() as u64 + lost.iter().map(|(_, count)| count).sum::<u64>(), 165);
    // It has caught up, so it gates again.
    for _ in 0..64 {
        pair.send(b"x", Patience::None).expect("room for a ring");
    }
    assert!(matches!(pair.send(b"x", Patience::None), Err(Refusal::Full(_))));
}

#[test]
fn a_blocking_row_that_the_publisher_could_not_wait_for_counts_what_it_lost_as_stalled() {
    // The subscription is older than the ring, and gets its seat when the ring has turned already.
    let created_ns = busway_shm::clock::monotonic_ns();
    for gating in [true, false] {
        let mut pair = Pair::new(RingOptions { gating, ..options() });
        for _ in 0..1000 {
            pair.send(b"x", patient()).expect("nobody is there to be waited for");
        }
        let mut reader = pair.subscribe_at(Policy::Block, 0, 15, created_ns);
        let (got, lost) = drain(&mut reader);
        let missing: u64 = lost.iter().map(|(_, count)| count).sum();
        assert_eq!(got.len() as u64 + missing, 1000);
        let expected = if gating { Cause::Stalled } else { Cause::Lapped };
        assert!(lost.iter().all(|(cause, _)| *cause == expected), "gating {gating}: {lost:?}");
    }
}

#[test]
fn a_stalled_row_that_loses_messages_for_their_bytes_counts_them_as_stalled() {
    let bounded = RingOptions { slots_max: 1024, bytes_max: 100_000, max_wait_ns: 1_000_000, ..options() };
    let mut pair = Pair::new(bounded);
    let mut readers = [pair.subscribe(Policy::Block), pair.subscribe(Policy::Evict)];
    for _ in 0..30 {
        pair.send(&[7; 9_000], patient()).expect("the cap ends each wait");
    }
    // Half of the bytes are free again, so that the first gates again before it has looked.
    for _ in 0..10 {
        pair.send(b"x", patient()).expect("there is room");
    }
    let (got, lost) = drain(&mut readers[0]);
    assert!(lost.iter().all(|(cause, _)| *cause == Cause::Stalled) && !lost.is_empty(), "{lost:?}");
    assert_eq!(got.len() as u64 + lost.iter().map(|(_, count)| count).sum::<u64>(), 40);
    assert_eq!(drain(&mut readers[1]), (vec![], vec![]));
    let account = readers[1].row().account();
    assert_eq!((account.dropped[Cause::Evicted as usize], account.in_flight), (40, 0));
}

#[test]
fn a_late_joiner_has_not_lost_the_history_that_was_gone_and_has_lost_what_came_after_it() {
    let mut pair = Pair::new(RingOptions { max_wait_ns: 1_000_000, ..options() });
    for _ in 0..10 {
        pair.send(b"x", Patience::None).expect("nobody gates");
    }
    let mut reader = pair.subscribe_with(Policy::Block, 10, 15);
    for _ in 0..200 {
        pair.send(b"x", patient()).expect("the cap ends the wait");
    }
    let (got, lost) = drain(&mut reader);
    let [(Cause::Stalled, missing)] = lost[..] else { panic!("{lost:?}") };
    assert_eq!(got.len() as u64 + missing, 200, "what it was there for is read or counted");
}

#[test]
fn a_failing_row_makes_send_fail_at_once_and_an_evicting_row_is_evicted() {
    let mut pair = Pair::new(options());
    let mut failing = pair.subscribe(Policy::Fail);
    let mut evicted = pair.subscribe(Policy::Evict);
    for _ in 0..64 {
        pair.send(b"x", patient()).expect("room for a ring");
    }
    assert!(matches!(pair.send(b"x", patient()), Err(Refusal::Full(who)) if who.len() == 1));
    drain(&mut failing);
    pair.send(b"x", patient()).expect("the failing row has caught up");
    assert_eq!(pair.shared.entry().evicted.load(busway_shm::sync::Ordering::Relaxed), 1);
    assert!(matches!(evicted.take(), Taken::Evicted(gap) if (gap.from, gap.count) == (1, 65)));
    let account = evicted.row().account();
    assert_eq!((account.dropped[Cause::Evicted as usize], account.in_flight), (65, 0));
}

#[test]
fn a_publisher_that_does_not_allow_gating_never_waits() {
    let mut pair = Pair::new(RingOptions { gating: false, ..options() });
    let mut reader = pair.subscribe(Policy::Block);
    for _ in 0..1000 {
        assert_eq!(pair.send(b"x", Patience::None).expect("nobody gates").waited_ns, 0);
    }
    assert!(drain(&mut reader).1.iter().map(|(_, count)| count).sum::<u64>() > 0);
}

#[test]
fn a_held_sample_keeps_its_bytes_while_the_ring_turns_a_thousand_times() {
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    pair.send(&[1; 5000], Patience::None).expect("nobody gates");
    let Taken::Message(sample) = reader.take() else { panic!("it is there") };
    let address = bytes(&sample).as_ptr();
    for turn in 0..64_000_u32 {
        pair.send(&[(turn % 199) as u8 + 2; 5000], Patience::None).expect("nobody gates");
    }
    assert_eq!(bytes(&sample), [1; 5000]);
    assert_eq!(bytes(&sample).as_ptr(), address);
    let (all, _) = pair.own.census();
    assert!(all < 1000, "chunks are used again: {all}");
}

#[test]
fn a_message_that_is_only_copied_is_whole_though_its_slot_is_lost_meanwhile() {
    let mut pair = Pair::new(RingOptions { slots_max: 32, ..options() });
    let mut reader = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    for number in 1..=3 {
        pair.send(&[number; 1000], Patience::None).expect("nobody gates");
    }
    assert!(matches!(reader.take(), Taken::Message(message) if bytes(&message) == [1; 1000]));
    assert_eq!(reader.copy_next(1000, |_, _| false), TakenSmall::Other, "refused, it stays");
    let too_large = |_: &Header, _: &[u8]| panic!("it has more bytes");
    assert_eq!(reader.copy_next(999, too_large), TakenSmall::Other);
    let mut copy = Vec::new();
    let copied = reader.copy_next(1000, |header, payload| {
        for _ in 0..if cfg!(miri) { 200 } else { 2_000 } {
            pair.send(&[9; 1000], Patience::None).expect("nobody gates");
        }
        copy.extend_from_slice(payload);
        header.sequence.get() == 2
    });
    assert_eq!(copied, TakenSmall::Message(2));
    assert_eq!(copy, [2; 1000], "its chunk was not used again");
    assert_eq!(
        reader.copy_next(1000, |_, _| true),
        TakenSmall::Other,
        "the next is lost, which is told by `take`"
    );
    let (read, lost) = drain(&mut reader);
    assert_eq!(read.len() as u64 + lost.iter().map(|(_, count)| count).sum::<u64>() + 2, pair.writer.head());
}

#[test]
fn over_the_hold_budget_small_samples_are_copied_and_large_ones_wait() {
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe_with(Policy::DropOldest { depth: Policy::DEPTH_RING }, 0, 2);
    for size in [1000, 1000, 1000, 200_000] {
        pair.send(&vec![7; size], Patience::None).expect("nobody gates");
    }
    let mut held = Vec::new();
    for expected in ["chunk", "chunk", "copied"] {
        let Taken::Message(message) = reader.take() else { panic!("it is there") };
        let kind = if matches!(message.body, Body::Chunk(_)) { "chunk" } else { "copied" };
        assert_eq!((kind, bytes(&message)), (expected, &[7; 1000][..]));
        held.push(message);
    }
    assert!(matches!(reader.take(), Taken::HoldsExhausted));
    held.clear();
    assert!(matches!(reader.take(), Taken::Message(message) if bytes(&message).len() == 200_000));
}

#[test]
fn a_ring_is_bounded_in_bytes_and_what_it_gives_up_is_counted_exactly() {
    let mut pair = Pair::new(RingOptions { bytes_max: 100_000, ..options() });
    let mut reader = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    for _ in 0..30 {
        pair.send(&[7; 9_000], Patience::None).expect("nobody gates");
    }
    let (got, lost) = drain(&mut reader);
    assert!(got.len() >= 8 && got.len() <= 11, "{}", got.len());
    assert_eq!(got.len() as u64 + lost.iter().map(|(_, count)| count).sum::<u64>(), 30);
    let [(Cause::RingBytes, _)] = lost[..] else {
        panic!("what was given up in a row is one loss: {lost:?}")
    };
}

#[test]
fn late_joiners_get_history_and_subscriptions_older_than_the_ring_get_everything() {
    let mut pair = Pair::new(options());
    for sequence in 1..=10 {
        pair.send(&payload(sequence), Patience::None).expect("nobody gates");
    }
    let mut none = pair.subscribe(Policy::Block);
    let mut four = pair.subscribe_with(Policy::Block, 4, 15);
    let mut many = pair.subscribe_with(Policy::Block, 1000, 15);
    assert_eq!(drain(&mut none).0, Vec::<u64>::new());
    assert_eq!(drain(&mut four).0, vec![7, 8, 9, 10]);
    assert_eq!(drain(&mut many).0, (1..=10).collect::<Vec<_>>());
}

#[test]
fn what_was_published_stays_readable_after_the_publisher_is_gone_and_then_the_ring_is_free() {
    let mut pair = Pair::new(options());
    let mut reader = pair.subscribe(Policy::Block);
    for sequence in 1..=20 {
        pair.send(&payload(sequence), Patience::None).expect("room");
    }
    let Pair { own, writer, shared, .. } = pair;
    drop(writer);
    shared.reap();
    assert!(!shared.is_free());
    for sequence in 1..=20 {
        let Taken::Message(message) = reader.take() else { panic!("{sequence} is there") };
        assert_eq!(bytes(&message), payload(sequence));
    }
    assert!(reader.is_over());
    drop(reader);
    assert_eq!(shared.reap().left, 1);
    assert!(shared.is_free());
    let (all, free) = own.census();
    assert_eq!(all, free, "every chunk is back");
    own.reap_rows();
    assert_eq!(own.rows_closing(), 0);
}

#[test]
fn ten_thousand_publishers_after_each_other_use_the_memory_of_one() {
    let mut pair = Pair::new(options());
    let topic = Topic::new("again").expect("a name");
    let mut after_ten = 0;
    for round in 0..10_000 {
        let (mut writer, shared) =
            RingWriter::create(&pair.own, &topic, PortId(8), options()).expect("a ring");
        send(&mut writer, &[1; 300], Patience::None).expect("nobody gates");
        drop(writer);
        shared.reap();
        assert!(shared.is_free());
        if round == 10 {
            after_ten = pair.peer.committed_bytes();
        }
    }
    assert_eq!(pair.peer.committed_bytes(), after_ten);
    pair.send(b"x", Patience::None).expect("the first ring still works");
}

#[test]
fn large_chunks_that_all_rows_have_read_are_used_again_and_the_history_stays() {
    const COUNT: u64 = if cfg!(miri) { 12 } else { 48 };
    let mut pair = Pair::new(RingOptions { history: 4, ..options() });
    let mut reader = pair.subscribe(Policy::Block);
    let mut slow = pair.subscribe(Policy::DropOldest { depth: Policy::DEPTH_RING });
    let large = |number: u64| vec![number as u8; MIB as usize / 2];
    let mut send_and_read = |pair: &mut Pair, numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers {
            pair.send(&large(number), Patience::None).expect("there is room");
            let Taken::Message(message) = reader.take() else { panic!("message {number}") };
            assert_eq!(bytes(&message), large(number));
        }
    };
    send_and_read(&mut pair, 1..=COUNT / 2);
    assert_eq!(pair.writer.census().in_ring, COUNT / 2, "one row has read nothing");
    assert_eq!(drain(&mut slow), ((1..=COUNT / 2).collect(), Vec::new()));
    drop(slow);
    let before = pair.own.census().0;
    send_and_read(&mut pair, COUNT / 2 + 1..=COUNT);
    let in_ring = pair.writer.census().in_ring;
    assert!((4..=8).contains(&in_ring), "what is promised, and little more: {in_ring}");
    assert_eq!(pair.own.census().0, before, "no other memory was needed");
    let mut late = pair.subscribe_with(Policy::Block, 4, 15);
    assert_eq!(drain(&mut late).0, (COUNT - 3..=COUNT).collect::<Vec<_>>(), "the history");
}

#[test]
fn a_process_that_is_only_said_to_be_gone_keeps_what_it_holds_and_is_waited_for_no_more() {
    let mut pair = Pair::new(RingOptions { slots_max: 32, ..options() });
    let mut reader = pair.subscribe(Policy::Block);
    pair.send(&[7; 300], Patience::None).expect("there is room");
    let Taken::Message(held) = reader.take() else { panic!("it was sent") };
    let mut sent = 1;
    while pair.send(&[8; 300], Patience::None).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 33, "it gates");
    // The word of whoever holds the rendezvous. The life word says that the process lives.
    let process = pair.own.process();
    pair.shared.stop_gating(ProcessId(process.0 ^ 1));
    assert!(pair.send(&[8; 300], Patience::None).is_err(), "that was somebody else");
    pair.shared.stop_gating(process);
    for _ in 0..2_000 {
        pair.send(&[9; 300], Patience::None).expect("it gates no more");
        pair.shared.reap();
    }
    assert_eq!(pair.shared.seated(), 1, "nothing of it is freed");
    assert_eq!(bytes(&held), [7; 300], "what it reads is not written again");
    let (got, lost) = drain(&mut reader);
    assert_eq!(got.len() as u64 + lost.iter().map(|(_, count)| count).sum::<u64>(), 2_032);
    assert!(lost.iter().all(|(cause, _)| *cause == Cause::Stalled), "{lost:?}");
    // It has caught up: one that lives is waited for again.
    let sent = (0..100).take_while(|_| pair.send(&[1; 300], Patience::None).is_ok()).count();
    assert!(sent < 100, "it gates again");
    drop(held);
}

#[test]
fn a_flush_names_nobody_who_has_passed_the_last_message_while_it_looked() {
    let rounds: u64 = if cfg!(miri) { 50 } else { 20_000 };
    let mut pair = Pair::new(RingOptions { max_wait_ns: u64::MAX, ..options() });
    let mut reader = pair.subscribe(Policy::Block);
    std::thread::scope(|scope| {
        let reads = scope.spawn(move || {
            let mut read = 0;
            while read < rounds {
                match reader.take() {
                    Taken::Message(_) => read += 1,
                    Taken::Empty => std::thread::yield_now(),
                    other => panic!("{other:?} after {read} messages"),
                }
            }
        });
        for round in 0..rounds {
            pair.send(b"last", patient()).expect("the reader reads");
            let behind = pair.writer.flush(Deadline::after(Duration::from_secs(20)));
            assert!(behind.is_empty(), "round {round}: {behind:?}");
        }
        reads.join().expect("it reads all");
    });
    println!("evidence: flushes={rounds}");
}
