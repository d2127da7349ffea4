//! Places, at moments between two steps of the publisher's thread and of the control thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use busway_wire::{Flags, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

use super::between::{Step, ask};
use super::{Reaped, RingShared};
use crate::arena::{ArenaOptions, OwnArena, PeerArena};
use crate::clock::monotonic_ns;
use crate::hold::HoldBudget;
use crate::life::OWNER_DIED;
use crate::ring::{Patience, Refusal, RingOptions, RingWriter};
use crate::row::{RowOptions, RowReader, RowShared, Taken};
use crate::slot::InlineMeta;
use crate::sync::Ordering;

const MIB: u64 = 1 << 20;
const SLOTS: u32 = 32;

fn arena(name: &str) -> Arc<OwnArena> {
    OwnArena::create(&ArenaOptions { name: name.into(), bytes_max: 300 * MIB, monitored: true })
        .expect("an arena can be made")
}

fn ring() -> (RingWriter, Arc<RingShared>) {
    let options = RingOptions {
        slots_max: SLOTS,
        bytes_max: 64 * MIB,
        history: 0,
        max_wait_ns: u64::MAX,
        gating: true,
        relay: false,
    };
    let topic = Topic::new("kept").expect("a name");
    RingWriter::create(&arena("publisher"), &topic, PortId(7), options).expect("a ring")
}

/// A process that reads for somebody elsewhere.
struct Node {
    own: Arc<OwnArena>,
    _row: Arc<RowShared>,
}

/// A row that gates, with its seat, and whose it is.
fn seated(ring: &RingShared, name: &str, place: u64) -> (Arc<OwnArena>, Arc<RowShared>) {
    let own = arena(name);
    let us = PeerArena::of_own(&own).expect("our own arena can be mapped");
    let publisher = PeerArena::of_own(ring.own()).expect("our own arena can be mapped");
    let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
    let (policy, created_ns) = (Policy::Block, monotonic_ns());
    let options = RowOptions { port: PortId(9), policy, history: 0, holds: 15, created_ns, place };
    let row = RowShared::create(&own, &publisher, ring.key(), &options, &budget).expect("a row");
    row.attached(Ok(ring.attach(&us, row.key(), policy).expect("a seat")));
    (own, row)
}

fn node(ring: &RingShared) -> Node {
    let (own, row) = seated(ring, "node", 5);
    Node { own, _row: row }
}

/// As the kernel says it; what it has in its arena stays as it was.
fn die(node: Node) {
    node.own.life_word().fetch_or(OWNER_DIED, Ordering::Relaxed);
    std::mem::forget(node);
}

fn send(writer: &mut RingWriter) -> Result<u64, Refusal> {
    let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
    writer.send_inline(&meta, b"message", Patience::None).map(|sent| sent.sequence)
}

fn fill(writer: &mut RingWriter) {
    while send(writer).is_ok() {}
    assert_eq!(writer.head(), u64::from(SLOTS), "nothing was confirmed");
}

fn come_back(ring: &RingShared) {
    std::mem::forget(node(ring));
}

#[test]
fn a_publisher_that_has_its_list_overwrites_nothing_of_a_place_that_changes_hands_meanwhile() {
    let (mut writer, shared) = ring();
    let first = node(&shared);
    fill(&mut writer);
    die(first);
    // The dead one's place is kept, then taken from a stand-in; the second time, from the dead one itself.
    ask(Step::Listed, |ring| assert_eq!(ring.reap().kept, 1));
    assert!(matches!(send(&mut writer), Err(Refusal::Full(_))));
    ask(Step::Listed, come_back);
    assert!(matches!(send(&mut writer), Err(Refusal::Full(_))));
    let (mut writer, shared) = ring();
    let first = node(&shared);
    fill(&mut writer);
    die(first);
    ask(Step::Listed, come_back);
    assert!(matches!(send(&mut writer), Err(Refusal::Full(_))));
    assert_eq!(shared.seated(), 1);
}

#[test]
fn who_has_a_place_now_can_be_seen_before_what_kept_it_is_free() {
    let changes: [fn(&RingShared); 2] = [|ring| assert_eq!(ring.reap().kept, 1), come_back];
    for kept_before in [false, true] {
        for change in changes.into_iter().skip(usize::from(kept_before)) {
            let (_writer, shared) = ring();
            die(node(&shared));
            if kept_before {
                shared.reap();
            }
            let before = shared.version();
            let at = Rc::new(Cell::new(before));
            let told = at.clone();
            ask(Step::Folded, move |ring| told.set(ring.version()));
            change(&shared);
            assert_ne!(at.get(), before, "kept before: {kept_before}");
            // The list is as it will be: a raise that came before it would have sufficed for the line above.
            assert_eq!(at.get(), shared.version(), "kept before: {kept_before}");
        }
    }
}

#[test]
fn the_place_of_who_dies_while_the_control_thread_looks_is_kept_at_the_next_look() {
    let (mut writer, shared) = ring();
    let first = node(&shared);
    fill(&mut writer);
    ask(Step::DeathsSeen, |_| die(first));
    assert_eq!(shared.reap(), Reaped::default(), "it lived when the look began");
    assert_eq!(shared.reap().kept, 1);
    assert!(matches!(send(&mut writer), Err(Refusal::Full(_))));
}

/// A row that reads for this process itself.
fn reader(ring: &RingShared) -> Arc<RowShared> {
    seated(ring, "reader", 0).1
}

#[test]
fn a_row_that_comes_while_what_all_have_read_is_given_up_misses_nothing_of_what_it_is_due() {
    let (mut writer, ring) = ring();
    let quick = reader(&ring);
    // From here on it has its list.
    send(&mut writer).expect("a slot");
    quick.entry().cursor.store(1, Ordering::Release);
    let (go, come) = mpsc::channel();
    let (done, ended) = mpsc::channel();
    let publishing = thread::spawn(move || {
        come.recv().expect("the test goes on");
        // Several times what is sent between two looks for memory that all have read.
        for _ in 0..24 {
            let mut loan = writer.loan(64 << 10, Patience::None).expect("memory");
            let mut header = Header::new(Kind::Publish);
            header.size.set(HEADER_SIZE as u32);
            header.flags = Flags::UNSEALED.bits();
            header.sequence.set(writer.head() + 1);
            loan.bytes_mut()[..HEADER_SIZE].copy_from_slice(header.bytes());
            writer.send_loan(loan, Patience::None).expect("the rows that gate leave room");
            quick.entry().cursor.store(writer.head(), Ordering::Release);
        }
        let _ = done.send(());
        writer
    });
    ask(Step::Placed, move |_| {
        go.send(()).expect("the publisher waits");
        // It waits for the list; one that does not is through by then, and has seen no newcomer.
        let _ = ended.recv_timeout(Duration::from_millis(300));
    });
    let newcomer = reader(&ring);
    let writer = publishing.join().expect("it publishes");
    let mut reader = RowReader::new(newcomer.clone(), Policy::Block, false);
    let mut taken = 0;
    loop {
        match reader.take() {
            Taken::Message(_) => taken += 1,
            Taken::Empty => break,
            other => panic!("after {taken} messages: {other:?}"),
        }
    }
    assert_eq!(newcomer.entry().first.load(Ordering::Relaxed) + taken, writer.head());
}
