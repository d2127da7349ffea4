//! Another process writes anything into every word that it owns (rows A26; cases 36, 37, 40, 43, 44, and 41 as the
//! domain's budget).
//!
//! An arena can only be written by its owner, so this process plays both sides: it owns the hostile arena as well, and
//! each side maps the other's read-only, as processes do. What is shown: whoever reads such words never panics (this
//! is compiled with checks for overflow), never reads outside, never loops or waits for ever, takes no more memory
//! than its budgets say, and everybody else gets what was sent.
#![cfg(not(loom))]
#![expect(clippy::print_stdout, reason = "evidence lines are read by the test runner")]

#[path = "hostile/publisher.rs"]
mod publisher;
#[path = "hostile/scene.rs"]
mod scene;
#[path = "hostile/subscriber.rs"]
mod subscriber;
#[path = "hostile/words.rs"]
mod words;

use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::heap::CHUNK_BYTES_MAX;
use busway_shm::hold::HoldBudget;
use busway_shm::layout::{EXTENTS_AT, ExtentEntry, ROWS_AT, ROWS_MAX, SEATS_AT, SeatEntry, key, state};
use busway_shm::ring::{Patience, Refusal, RingOptions, Sent};
use busway_shm::row::{Body, RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::{EntryKey, Progress};
use busway_shm::slot::ChunkRef;
use busway_shm::sync::{AtomicBool, AtomicU64, Ordering, spin_hint};
use busway_shm::sys::memfd;
use busway_shm::view::Mapped;
use busway_wire::{Policy, PortId};
use publisher::{HostilePublisher, Met};
use scene::{
    CALL_NS_MAX, Honest, MIB, POLICIES, arena, bytes, options, patient, payload, ring, rounds, send, timed,
};
use subscriber::{HostileSubscriber, Seen};
use words::{Coverage, Words};

#[test]
fn a_hostile_subscriber_writes_anything_and_the_publisher_and_its_other_subscribers_do_not_notice() {
    let (own, peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, options());
    let honest = Honest::new();
    let mut reader = honest.subscribe(&peer, &shared, POLICIES[0]);
    let mut hostile = HostileSubscriber::new();
    let mut rng = fastrand::Rng::with_seed(26);
    let (mut coverage, mut seen) = (Coverage::default(), Seen::default());
    let (mut sent, mut refused, mut waited, mut seats) = (0_u64, 0_u64, 0_u64, 0_u64);
    for round in 0..rounds() {
        if round % 32 == 0 {
            hostile.close(&shared);
            seats += u64::from(hostile.attach(&mut rng, own.process(), &shared, &mut coverage));
        }
        let words = &hostile.rows[rng.usize(0..hostile.rows.len())].words;
        let words = if rng.u32(0..3) == 0 { &hostile.header } else { words };
        coverage.write(&mut rng, words, shared.head());
        for _ in 0..rng.u32(1..6) {
            let patience = if rng.u32(0..4) == 0 { patient() } else { Patience::None };
            match timed("send", || send(&mut writer, &payload(sent + 1), patience)) {
                Ok(outcome) => {
                    sent += 1;
                    waited += u64::from(outcome.waited_ns > 0);
                    assert_eq!(outcome.sequence, sent);
                }
                Err(Refusal::Full(_)) => refused += 1,
                Err(other) => panic!("round {round}: {other:?}"),
            }
        }
        if rng.u32(0..4) == 0 {
            seen.drain(&mut reader, &mut rng);
        }
        if rng.u32(0..64) == 0 {
            inspect(&hostile.peer);
            timed("behind", || writer.behind());
            timed("ledgers", || shared.ledgers());
            timed("reap", || shared.reap());
        }
    }
    seen.drain(&mut reader, &mut rng);
    assert_eq!(seen.got + seen.lost, sent, "the honest row accounts for every message");
    let committed = peer.committed_bytes();
    // The tables, a ring of 1 MiB, holds of seven rows, two batches on their way, and rounding up to extents.
    assert!(committed < 24 * MIB, "{committed} bytes for a ring of 1 MiB");
    assert!(refused > 0 && waited > 0 && seats > 0, "{refused} refused, {waited} waited, {seats} seats");
    let words = Words::new(vec![words::of_row(&hostile.own, 0), words::of_header(&hostile.own)]);
    let cover = coverage.assert_whole(&words);
    println!("evidence: rounds={} sent={sent} refused={refused} waited={waited} {cover}", rounds());
}

/// What `ls` and the control thread read of a process.
fn inspect(peer: &PeerArena) {
    let tables = peer.tables();
    for index in [0, 1, 5, u32::MAX] {
        tables.ring_topic(index);
        assert!(tables.resolve(ChunkRef::INLINE).is_none());
    }
    assert!(!peer.name().chars().any(char::is_control), "{:?}", peer.name());
    let _ = (peer.life(), peer.monitored(), peer.last_beat_ns(), peer.committed_by_file());
}

#[test]
fn words_that_change_while_they_are_looked_at_neither_stop_nor_confuse_a_publisher() {
    let (own, peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, options());
    let honest = Honest::new();
    let mut reader = honest.subscribe(&peer, &shared, POLICIES[0]);
    let mut hostile = HostileSubscriber::new();
    let (mut rng, mut seen) = (fastrand::Rng::with_seed(40), Seen::default());
    hostile.attach(&mut rng, own.process(), &shared, &mut Coverage::default());
    let stop = AtomicBool::new(false);
    let parts = hostile.rows.iter().map(|row| words::of_row(&hostile.own, row.index)).collect();
    let words = Words::new(parts);
    let mut sent = 0;
    let writes = std::thread::scope(|scope| {
        let head = shared.clone();
        let (words, stop_ref) = (&words, &stop);
        let scribbler = scope.spawn(move || words.scribble(7, &|| head.head(), stop_ref));
        for round in 0..rounds() {
            if round % 256 == 0 {
                hostile.attach(&mut rng, own.process(), &shared, &mut Coverage::default());
            }
            match timed("send", || send(&mut writer, &payload(sent + 1), patient())) {
                Ok(_) => sent += 1,
                Err(Refusal::Full(_)) => {}
                Err(other) => panic!("round {round}: {other:?}"),
            }
            if round % 4 == 0 {
                seen.drain(&mut reader, &mut rng);
            }
            if round % 64 == 0 {
                timed("reap", || shared.reap());
            }
        }
        stop.store(true, Ordering::Relaxed);
        scribbler.join().expect("it only writes")
    });
    seen.drain(&mut reader, &mut rng);
    assert_eq!(seen.got + seen.lost, sent, "the honest row accounts for every message");
    println!("evidence: sent={sent} writes={writes}");
}

#[test]
fn a_hostile_publisher_writes_anything_and_its_subscribers_count_what_is_corrupt() {
    let mut hostile = HostilePublisher::new();
    let honest = Honest::new();
    let mut rng = fastrand::Rng::with_seed(36);
    let (mut coverage, mut met) = (Coverage::default(), Met::default());
    let mut readers: Vec<RowReader> = Vec::new();
    let mut refused = 0_u64;
    for round in 0..rounds() {
        for _ in 0..rng.u32(0..3) {
            let sequence = hostile.writer.head() + 1;
            let _ = send(&mut hostile.writer, &payload(sequence), Patience::None);
        }
        if round % 16 == 0 {
            readers.clear();
            met.held.clear();
            hostile.shared.reap();
            honest.own.reap_rows();
        }
        let policy = POLICIES[rng.usize(0..POLICIES.len())];
        let history = [0, 1, 10, u64::MAX][rng.usize(0..4)];
        let waiting =
            (readers.len() < 2).then(|| honest.row(&hostile.peer, hostile.shared.key(), policy, history));
        let waiting =
            waiting.flatten().map(|row| (hostile.shared.attach(&honest.peer, row.key(), policy), row));
        let head = hostile.shared.head();
        let spoil: Vec<_> =
            (0..rng.u32(1..4)).map(|_| coverage.write(&mut rng, &hostile.words, head)).collect();
        if let Some((seat, row)) = waiting {
            row.attached(seat.map_err(|_| ()));
            readers.push(RowReader::new(row, policy, rng.u32(0..4) == 0));
        } else if readers.len() < 4 {
            let row = timed("create", || honest.row(&hostile.peer, hostile.shared.key(), policy, history));
            refused += u64::from(row.is_none());
            if let Some(row) = row {
                row.start_without_seat();
                row.attached(Ok(rng.u32(..) >> rng.u32(0..32)));
                readers.push(RowReader::new(row, policy, rng.u32(0..4) == 0));
            }
        }
        for reader in &mut readers {
            met.take(reader);
        }
        inspect(&hostile.peer);
        for (word, old) in spoil.into_iter().rev() {
            word.store(old);
        }
    }
    drop((readers, met.held));
    assert_eq!(honest.budget.held(), 0, "what was held is released");
    let committed = honest.peer.committed_bytes();
    assert!(committed < 2 * MIB, "{committed} bytes for four rows at a time");
    assert!(met.messages > 0 && met.corrupt > 0 && met.ends > 0 && refused > 0);
    let cover = coverage.assert_whole(&hostile.words);
    let (messages, corrupt) = (met.messages, met.corrupt);
    println!(
        "evidence: rounds={} messages={messages} corrupt={corrupt} refused_rows={refused} {cover}",
        rounds()
    );
}

#[test]
fn a_publishers_words_that_change_while_they_are_looked_at_do_not_stop_its_subscribers() {
    let hostile = HostilePublisher::new();
    let honest = Honest::new();
    let mut rng = fastrand::Rng::with_seed(44);
    let mut met = Met::default();
    let stop = AtomicBool::new(false);
    let ring = hostile.shared.key();
    let writes = std::thread::scope(|scope| {
        let (words, stop_ref) = (&hostile.words, &stop);
        let scribbler = scope.spawn(move || words.scribble(8, &|| 60, stop_ref));
        for _ in 0..rounds() {
            let policy = POLICIES[rng.usize(0..POLICIES.len())];
            // The ring's key is scribbled over as well: most rows are refused, some come to be.
            let ring = EntryKey { generation: ring.generation ^ rng.u32(0..3), ..ring };
            let Some(row) = honest.row(&hostile.peer, ring, policy, rng.u64(0..100)) else { continue };
            row.attached(Ok(rng.u32(0..5)));
            let mut reader = RowReader::new(row, policy, rng.bool());
            for _ in 0..8 {
                met.take(&mut reader);
            }
            met.held.clear();
            inspect(&hostile.peer);
            drop(reader);
            honest.own.reap_rows();
        }
        stop.store(true, Ordering::Relaxed);
        scribbler.join().expect("it only writes")
    });
    assert_eq!(honest.budget.held(), 0);
    println!("evidence: messages={} corrupt={} writes={writes}", met.messages, met.corrupt);
}

#[test]
fn a_process_that_claims_every_chunk_is_believed_up_to_its_budget() {
    const WORDS: u64 = 4096;
    let (own, peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, options());
    let honest = Honest::new();
    let mut reader = honest.subscribe(&peer, &shared, POLICIES[0]);
    let hostile = HostileSubscriber::new();
    let holds_at = hostile.own.take_pages(WORDS * 8 * 8).expect("pages");
    for (row, at) in hostile.rows.iter().zip((holds_at..).step_by(WORDS as usize * 8)) {
        row.entry.publisher.store(own.process().0, Ordering::Relaxed);
        row.entry.ring.store(shared.key().word(), Ordering::Relaxed);
        row.entry.holds_at.store(at, Ordering::Relaxed);
        row.entry.holds.store(WORDS as u32, Ordering::Relaxed);
        row.entry.key.store(key(1, state::ACTIVE), Ordering::Release);
        shared
            .attach(&hostile.peer, EntryKey { index: row.index, generation: 1 }, row.policy)
            .expect("a seat");
        row.entry.cursor.store(u64::MAX, Ordering::Release);
    }
    let words: Mapped<[AtomicU64]> = hostile.own.tables().arena().slice(holds_at, WORDS * 6).expect("inside");
    let extents: Mapped<[ExtentEntry]> = own.tables().arena().slice(EXTENTS_AT, 4095).expect("inside");
    // Every chunk that there is, as far as the words reach.
    let claim = |used: u32| {
        let all = extents.iter().zip(0..used).flat_map(|(extent, number)| {
            (0..extent.count.load(Ordering::Relaxed)).filter_map(move |index| ChunkRef::new(number, index))
        });
        for (word, chunk) in words.iter().zip(all) {
            word.store(chunk.hold_word(), Ordering::Release);
        }
    };
    let mut claimed = 0;
    let (mut rng, mut seen) = (fastrand::Rng::with_seed(3), Seen::default());
    for sequence in 1..=20_000 {
        send(&mut writer, &payload(sequence), Patience::None).expect("nobody gates, and memory is bounded");
        let used = own.tables().header().extents_used.load(Ordering::Relaxed);
        if used != claimed {
            claim(used);
            claimed = used;
        }
        if sequence % 16 == 0 {
            seen.drain(&mut reader, &mut rng);
        }
    }
    // 519 chunks of at most 10 KiB are believed to be held; without the budget, 20 MiB and more.
    let committed = peer.committed_bytes();
    let census = writer.census();
    assert!(census.retired < 519 + 2 * 256, "{census:?}");
    assert!(committed < 12 * MIB, "{committed} bytes");
    println!("evidence: committed={committed} retired={}", census.retired);
}

#[test]
fn rows_and_hold_words_of_one_process_are_bounded_at_the_seat() {
    let (own, _peer) = arena("publisher");
    let (_writer, shared) = ring(&own, options());
    let hostile = HostileSubscriber::new();
    let mut refusals = Vec::new();
    let mut attach = |generation: u32, holds: u32, at: u64| {
        let entry = &hostile.rows[0].entry;
        entry.publisher.store(own.process().0, Ordering::Relaxed);
        entry.ring.store(shared.key().word(), Ordering::Relaxed);
        entry.holds_at.store(at, Ordering::Relaxed);
        entry.holds.store(holds, Ordering::Relaxed);
        entry.key.store(key(generation, state::ACTIVE), Ordering::Release);
        let attached = shared.attach(&hostile.peer, EntryKey { index: 0, generation }, Policy::Block);
        refusals.extend(attached.as_ref().err().map(ToString::to_string));
        attached.is_ok()
    };
    for (holds, at) in [(4097, 4096), (u32::MAX, 0), (1 << 29, 0), (16, u64::MAX), (16, 4097), (16, 1 << 40)]
    {
        assert!(!attach(1, holds, at), "{holds} words at {at}");
    }
    let seats = (2..100).take_while(|generation| attach(*generation, 4096, 4096)).count();
    assert_eq!(seats, 16, "2^16 words, and no more");
    assert!(refusals.iter().all(|refusal| !refusal.is_empty()));
    println!("evidence: refused={} seats={seats}", refusals.len());
}

#[test]
fn a_row_that_never_moves_is_stalled_after_the_cap_also_when_bytes_run_out_and_not_slots() {
    let (own, peer) = arena("publisher");
    let bounded = RingOptions { bytes_max: 100_000, max_wait_ns: 20_000_000, ..options() };
    // Many small messages, or one that needs the room of all before it.
    for sizes in [vec![9_000; 20], vec![40_000, 90_000]] {
        let (mut writer, shared) = ring(&own, bounded.clone());
        let honest = Honest::new();
        let _reader = honest.subscribe(&peer, &shared, Policy::Block);
        let outcome = sizes.into_iter().find_map(|size| {
            let sent = send(&mut writer, &vec![7; size], patient()).expect("nobody waits beyond the cap");
            (sent.waited_ns > 0).then_some(sent)
        });
        let sent = outcome.expect("the bytes run out");
        assert_eq!(sent.stalled, 1);
        assert!((20_000_000..CALL_NS_MAX).contains(&sent.waited_ns), "{sent:?}");
        for _ in 0..40 {
            let sent = send(&mut writer, &[7; 9_000], patient()).expect("it gates no more");
            assert_eq!(sent.waited_ns, 0, "it has not caught up");
        }
    }
}

#[test]
fn rows_that_take_turns_in_blocking_do_not_make_a_publisher_wait_beyond_twice_its_cap() {
    const CAP_NS: u64 = 30_000_000;
    let (own, _peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, RingOptions { max_wait_ns: CAP_NS, ..options() });
    let hostile = HostileSubscriber::new();
    for row in &hostile.rows[..3] {
        row.entry.publisher.store(own.process().0, Ordering::Relaxed);
        row.entry.ring.store(shared.key().word(), Ordering::Relaxed);
        row.entry.holds_at.store(ROWS_AT, Ordering::Relaxed);
        row.entry.key.store(key(1, state::ACTIVE), Ordering::Release);
        shared
            .attach(&hostile.peer, EntryKey { index: row.index, generation: 1 }, Policy::Block)
            .expect("a seat");
    }
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let (rows, stop_ref) = (&hostile.rows, &stop);
        let turns = scope.spawn(move || {
            let moment = || (0..2_000).for_each(|_| spin_hint());
            let mut turn = 0_usize;
            while !stop_ref.load(Ordering::Relaxed) {
                // At any moment at least one row blocks, each for a moment; the others say that they have closed.
                let (now, before) = (&rows[(turn + 1) % 3].entry, &rows[turn % 3].entry);
                now.key.store(key(1, state::ACTIVE), Ordering::Release);
                moment();
                before.key.store(key(1, state::CLOSED), Ordering::Release);
                moment();
                turn += 1;
            }
            turn
        });
        let mut sent = Ok(Sent::default());
        for _ in 0..65 {
            let patience = Patience::Until(Deadline::after(Duration::from_nanos(100 * CAP_NS)));
            sent = send(&mut writer, b"x", patience);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(turns.join().expect("it only writes") > 3);
        sent
    });
    // The scheduler may add something; without the bound it is the caller's patience.
    let sent = sent.expect("the cap ends the wait");
    assert!(sent.waited_ns < 100 * CAP_NS, "{sent:?}");
    println!("evidence: waited_ns={} cap_ns={CAP_NS}", sent.waited_ns);
}

#[test]
fn a_row_that_lets_one_message_after_the_other_go_holds_a_large_one_up_no_longer_than_twice_the_cap() {
    // Long beside what the scheduler may add to a step, and short beside all steps together.
    const CAP_NS: u64 = 200_000_000;
    let (own, _peer) = arena("publisher");
    let bounded = RingOptions { bytes_max: 100_000, max_wait_ns: CAP_NS, ..options() };
    let (mut writer, shared) = ring(&own, bounded);
    let hostile = HostileSubscriber::new();
    let row = &hostile.rows[0];
    row.entry.publisher.store(own.process().0, Ordering::Relaxed);
    row.entry.ring.store(shared.key().word(), Ordering::Relaxed);
    row.entry.holds_at.store(ROWS_AT, Ordering::Relaxed);
    row.entry.key.store(key(1, state::ACTIVE), Ordering::Release);
    let seat = EntryKey { index: row.index, generation: 1 };
    shared.attach(&hostile.peer, seat, Policy::Block).expect("a seat");
    for _ in 0..36 {
        send(&mut writer, &[7; 2_000], Patience::None).expect("there is room");
    }
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let (entry, stop_ref) = (&row.entry, &stop);
        scope.spawn(move || {
            // It is never late: each wait ends well before its cap.
            let mut next_ns = monotonic_ns();
            while !stop_ref.load(Ordering::Relaxed) {
                if monotonic_ns() >= next_ns {
                    entry.cursor.fetch_add(1, Ordering::Release);
                    next_ns = monotonic_ns() + CAP_NS / 8;
                }
                std::thread::yield_now();
            }
        });
        // It needs the room of nearly all of them.
        let sent = send(&mut writer, &[8; 90_000], patient());
        stop.store(true, Ordering::Relaxed);
        sent.expect("the cap ends the wait")
    });
    assert_eq!(sent.stalled, 1, "what is late is the message, not any one step: {sent:?}");
    assert!(sent.waited_ns < CALL_NS_MAX, "{sent:?}");
    println!("evidence: waited_ns={} cap_ns={CAP_NS}", sent.waited_ns);
}

#[test]
fn a_cursor_that_goes_back_or_beyond_the_head_is_not_believed() {
    let (own, _peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, options());
    let mut hostile = HostileSubscriber::new();
    hostile.attach(&mut fastrand::Rng::with_seed(1), own.process(), &shared, &mut Coverage::default());
    for _ in 0..10 {
        send(&mut writer, b"x", Patience::None).expect("room");
    }
    let cursor = &hostile.rows[0].entry.cursor;
    for (says, believed) in [(4, 4), (9, 9), (2, 9), (0, 9), (u64::MAX, 10), (3, 10)] {
        cursor.store(says, Ordering::Release);
        let seats = shared.seats();
        let seat =
            seats.iter().find(|seat| seat.row_key.index == hostile.rows[0].index).expect("it has a seat");
        let entry = own.tables().seat(seat.index).expect("in the table");
        assert_eq!(entry.from.load(Ordering::Relaxed), 0);
        assert_eq!(seat.progress(10), Progress::Passed(believed), "it says {says}");
    }
}

#[test]
fn a_seat_that_begins_beyond_the_head_and_chunks_that_cannot_be_are_not_believed() {
    let options = ArenaOptions { name: "hostile".into(), bytes_max: 2 << 30, monitored: true };
    let own = OwnArena::create(&options).expect("an arena");
    let peer = PeerArena::of_own(&own).expect("mapped");
    let (mut writer, shared) = ring(&own, self::options());
    send(&mut writer, &[1; 300], Patience::None).expect("nobody gates");
    let honest = Honest::new();
    let row = honest.row(&peer, shared.key(), POLICIES[0], 0).expect("a row");
    let seat = shared.attach(&honest.peer, row.key(), POLICIES[0]).expect("a seat");
    own.tables().seat(seat).expect("in the table").from.store(u64::MAX, Ordering::Relaxed);
    row.attached(Ok(seat));
    assert_eq!(row.entry().cursor.load(Ordering::Relaxed), 1);
    let extent: Mapped<ExtentEntry> = own.tables().at(EXTENTS_AT).expect("inside");
    let first = ChunkRef::new(0, 0).expect("fits");
    let resolve = |offset: u64, bytes: u64, count: u32| {
        extent.offset.store(offset, Ordering::Relaxed);
        extent.chunk_bytes.store(bytes, Ordering::Relaxed);
        extent.count.store(count, Ordering::Relaxed);
        peer.tables().resolve(first).is_some()
    };
    assert!(resolve(0, 320, 1), "this could be");
    let hostile = [
        (0, 320, 0),
        (8, 320, 1),
        (0, 321, 1),
        (0, 0, 1),
        (0, CHUNK_BYTES_MAX + 64, 1),
        (2 << 30, 64, 1),
        (u64::MAX - 63, 64, 1),
        (0, u64::MAX - 63, 1),
    ];
    for (offset, bytes, count) in hostile {
        assert!(!resolve(offset, bytes, count), "{count} chunks of {bytes} at {offset}");
    }
}

#[test]
fn a_late_joiner_of_a_ring_that_is_always_lapped_is_told_so_in_bounded_time_and_stack() {
    let (own, peer) = arena("hostile");
    let (mut writer, shared) =
        ring(&own, RingOptions { slots_max: 1 << 16, history: (1 << 16) - 1, ..options() });
    for _ in 0..100 {
        send(&mut writer, b"x", Patience::None).expect("nobody gates");
    }
    let honest = Honest::new();
    let row = honest.row(&peer, shared.key(), POLICIES[0], 10).expect("a row");
    row.attached(Ok(shared.attach(&honest.peer, row.key(), POLICIES[0]).expect("a seat")));
    let stage = shared.entry().stage_at[0].load(Ordering::Relaxed);
    let slots: Mapped<[AtomicU64]> =
        own.tables().arena().slice(stage & !63, 16 << (stage & 63)).expect("inside");
    for word in slots.iter().step_by(16) {
        word.store((1 << 38) << 24 | 0xff_f001, Ordering::Release);
    }
    let head = own.tables().head(shared.key().index).expect("a head");
    head.store(1 << 38, Ordering::Release);
    let mut reader = RowReader::new(row, POLICIES[0], false);
    // 256 KiB of stack: a take that called itself once a slot would need megabytes.
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let taken = small.spawn(move || timed("take", || format!("{:?}", reader.take()))).expect("a thread");
    assert!(taken.join().expect("no overflow").starts_with("Gap"));
}

#[test]
fn publishers_that_never_note_closed_rows_do_not_use_up_the_table() {
    let (own, peer) = arena("hostile");
    let (_writer, shared) = ring(&own, options());
    let honest = Honest::new();
    let seats: Mapped<[SeatEntry]> =
        own.tables().arena().slice(SEATS_AT, u64::from(ROWS_MAX)).expect("inside");
    for round in 0..ROWS_MAX + 1000 {
        let row =
            honest.row(&peer, shared.key(), Policy::Block, 0).expect("there is always room for one more row");
        let index = round % ROWS_MAX;
        let seat = &seats[index as usize];
        seat.subscriber.store(honest.own.process().0, Ordering::Relaxed);
        seat.row.store(row.key().word(), Ordering::Relaxed);
        seat.key.store(key(1, state::ACTIVE), Ordering::Relaxed);
        row.attached(Ok(index));
        drop(row);
        if round % 4096 == 0 {
            honest.own.reap_rows();
        }
    }
    assert!(honest.own.rows_closing() > 1000, "the publisher was hostile");
}

#[test]
fn a_reader_that_never_releases_costs_its_budget_and_nobody_a_message() {
    let (own, peer) = arena("publisher");
    let (mut writer, shared) = ring(&own, options());
    let mut honest = Honest::new();
    honest.budget = Arc::new(HoldBudget::new(10, 4 * MIB));
    let mut reader = honest.subscribe(&peer, &shared, POLICIES[0]);
    let (mut held, mut copied, mut after_warm_up) = (Vec::new(), 0_u64, 0);
    for sequence in 1..=20_000_u64 {
        send(&mut writer, &[sequence as u8; 8_000], Patience::None).expect("nobody gates");
        let Taken::Message(message) = reader.take() else { panic!("it is there: {sequence}") };
        assert_eq!(bytes(&message), [sequence as u8; 8_000]);
        match message.body {
            Body::Chunk(_) => held.push(message),
            _ => copied += 1,
        }
        if sequence == 2_000 {
            after_warm_up = peer.committed_bytes();
        }
    }
    assert_eq!((held.len() as u64, honest.budget.held(), copied), (10, 10, 19_990));
    assert_eq!(peer.committed_bytes(), after_warm_up, "160 MB of messages took no more memory than 16");
    assert!(held.iter().all(|message| bytes(message) == [message.sequence as u8; 8_000]));
}

#[test]
fn the_domains_budget_refuses_before_the_kernel_is_asked_and_sending_goes_on_when_memory_is_released() {
    let (own, peer) = arena("publisher");
    let domain = Arc::new(Domain::create(8 * MIB).expect("a domain"));
    own.join(&domain).expect("an empty arena fits");
    let (mut writer, shared) = ring(&own, RingOptions { slots_max: 32, bytes_max: 64 * MIB, ..options() });
    let honest = Honest::new();
    let policy = Policy::DropNewest { depth: 200 };
    let row_options =
        RowOptions { port: PortId(9), policy, history: 0, holds: 200, created_ns: monotonic_ns(), place: 0 };
    let row =
        RowShared::create(&honest.own, &peer, shared.key(), &row_options, &honest.budget).expect("a row");
    row.attached(Ok(shared.attach(&honest.peer, row.key(), policy).expect("a seat")));
    let mut reader = RowReader::new(row, POLICIES[0], false);
    let (mut held, mut sent) = (Vec::new(), 0_u64);
    let refusal = loop {
        match send(&mut writer, &[5; 64_000], Patience::None) {
            Ok(_) => sent += 1,
            Err(refusal) => break refusal,
        }
        let Taken::Message(message) = reader.take() else { panic!("it is there") };
        held.push(message);
        assert!(sent < 1000, "a budget of 8 MiB was not noticed");
    };
    let Refusal::Memory(ShmError::Budget { reserved, budget, .. }) = refusal else { panic!("{refusal:?}") };
    assert!(budget == 8 * MIB && reserved <= budget);
    let backed =
        || memfd::committed(own.arena_fd()).expect("fstat") + memfd::committed(own.bulk_fd()).expect("fstat");
    let before = backed();
    for _ in 0..100 {
        assert!(send(&mut writer, &[5; 64_000], Patience::None).is_err());
        assert!(matches!(send(&mut writer, &[5; 3_000_000], Patience::None), Err(Refusal::Memory(_))));
    }
    assert_eq!(backed(), before, "the kernel was not asked");
    assert_eq!(domain.ledger().reserved(), peer.committed_bytes(), "a refusal reserves nothing");
    send(&mut writer, b"small", Patience::None).expect("small messages need no memory");
    held.clear();
    for _ in 0..1000 {
        send(&mut writer, &[5; 64_000], Patience::None).expect("memory was released");
    }
    println!("evidence: sent_before={sent} reserved={reserved} budget={budget}");
    drop(writer);
    drop(reader);
    shared.reap();
    assert!(shared.is_free());
    let (all, free) = own.census();
    assert_eq!(all, free, "every chunk is back");
}
