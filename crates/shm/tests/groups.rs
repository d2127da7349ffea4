//! Groups in memory: each message goes to exactly one puller, what dies with a puller is counted or goes to another, and
//! whatever stands in the claims, nobody waits for ever.
//!
//! Processes are arenas here, and die by their life word; `busway`'s tests kill real ones.
#![cfg(not(loom))]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

use std::sync::{Arc, Barrier};
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::claims::file::{self, Run, RunAt};
use busway_shm::claims::{Claims, Owner};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::hold::HoldBudget;
use busway_shm::life::{CLOSED, OWNER_DIED};
use busway_shm::ring::{Patience, Refusal, RingOptions, RingWriter};
use busway_shm::row::group::{GroupReader, Pauses, Pulled, Task};
use busway_shm::row::{Body, RowOptions, RowShared};
use busway_shm::seat::RingShared;
use busway_shm::slot::InlineMeta;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{GROUP_PULLERS_MAX, GROUPS_MAX};
use busway_wire::{Acknowledge, Cause, Group, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

const MIB: u64 = 1 << 20;
const SLOTS: u64 = 64;
const ACK_MS: u32 = 50;
/// How late a test may be before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn arena(name: &str) -> Arc<OwnArena> {
    OwnArena::create(&ArenaOptions { name: name.into(), bytes_max: 1 << 30, monitored: true })
        .expect("an arena can be made")
}

fn group(name: &str) -> Group {
    Group::new(Topic::new(name).expect("a name"), None).expect("within its bounds")
}

fn acknowledged(name: &str, attempts: u8) -> Group {
    let how = Acknowledge { within_ms: ACK_MS, attempts };
    Group::new(Topic::new(name).expect("a name"), Some(how)).expect("within its bounds")
}

struct Pusher {
    own: Arc<OwnArena>,
    writer: RingWriter,
    shared: Arc<RingShared>,
    peer: Arc<PeerArena>,
}

impl Pusher {
    fn new(max_wait: Duration, late_join: Duration) -> Self {
        Self::of(arena("pusher"), SLOTS as u32, max_wait, late_join)
    }

    fn of(own: Arc<OwnArena>, slots_max: u32, max_wait: Duration, late_join: Duration) -> Self {
        let options = RingOptions {
            slots_max,
            bytes_max: 64 * MIB,
            history: 0,
            max_wait_ns: max_wait.as_nanos() as u64,
            gating: true,
            relay: false,
        };
        let topic = Topic::new("work").expect("a name");
        let late_join = late_join.as_nanos() as u64;
        let (writer, shared) =
            RingWriter::create_for_groups(&own, &topic, PortId(7), options, late_join).expect("a ring");
        let peer = PeerArena::of_own(&own).expect("our own arena can be mapped");
        Self { own, writer, shared, peer }
    }

    /// Waits for nobody, and for the first puller for ever.
    fn patient() -> Self {
        Self::new(Duration::ZERO, Duration::from_secs(3600))
    }

    fn push(&mut self, patience: Patience) -> Result<u64, Refusal> {
        let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
        let payload = (self.writer.head() + 1).to_le_bytes();
        self.writer.send_inline(&meta, &payload, patience).map(|sent| sent.sequence)
    }

    fn push_all(&mut self, count: u64) {
        for _ in 0..count {
            self.push(Patience::None).expect("there is room");
        }
    }

    fn push_large(&mut self, bytes: usize) {
        let size = HEADER_SIZE + bytes;
        let mut loan = self.writer.loan(size as u64, Patience::None).expect("there is memory");
        let mut header = Header::new(Kind::Publish);
        header.size.set(size as u32);
        header.sequence.set(self.writer.head() + 1);
        let (head, body) = loan.bytes_mut().split_at_mut(HEADER_SIZE);
        head.copy_from_slice(header.bytes());
        body[..bytes].fill((self.writer.head() as u8).wrapping_add(1));
        self.writer.send_loan(loan, Patience::None).expect("there is room");
    }

    /// Delivered, and lost by these causes; asserts that each account closes.
    fn account(&self, causes: [Cause; 3]) -> (u64, [u64; 3]) {
        let ledgers = self.shared.ledgers();
        assert!(ledgers.present.iter().all(|row| row.closed()), "{ledgers:?}");
        let delivered = ledgers.present.iter().map(|row| row.delivered).sum::<u64>() + ledgers.past_delivered;
        let lost = causes.map(|cause| {
            let of = |dropped: &[u64]| dropped[cause.index()];
            ledgers.present.iter().map(|row| of(&row.dropped)).sum::<u64>() + of(&ledgers.past_dropped)
        });
        (delivered, lost)
    }

    fn dies(&self) {
        self.own.life_word().fetch_or(OWNER_DIED, Ordering::Relaxed);
    }
}

struct Puller {
    own: Arc<OwnArena>,
    reader: GroupReader,
}

impl Puller {
    fn try_new(pusher: &Pusher, group: &Group) -> Result<Self, ShmError> {
        let own = arena("puller");
        let reader = Self::join(&own, pusher, group, 15)?;
        Ok(Self { own, reader })
    }

    fn join(
        own: &Arc<OwnArena>,
        pusher: &Pusher,
        group: &Group,
        holds: u32,
    ) -> Result<GroupReader, ShmError> {
        let us = PeerArena::of_own(own).expect("our own arena can be mapped");
        let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
        let (policy, created_ns) = (Policy::default(), monotonic_ns());
        let options = RowOptions { port: PortId(9), policy, history: 0, holds, created_ns, place: 0 };
        let (ring, id) = (pusher.shared.key(), group.name().id().0);
        let row = RowShared::create_for(own, &pusher.peer, ring, &options, id, &budget).expect("a row");
        let joined = pusher.shared.attach_puller(&us, row.key(), group)?;
        assert_eq!(pusher.shared.attach_puller(&us, row.key(), group), Ok(joined), "asked again");
        row.attached(Ok(joined.seat));
        let file = file::map(pusher.own.claims()?.fd(), pusher.own.process())?;
        Ok(GroupReader::new(row, Run::of(&file, joined.run)?, joined.owner, group, false))
    }

    fn new(pusher: &Pusher, group: &Group) -> Self {
        Self::try_new(pusher, group).expect("there is room in the group")
    }

    fn pull(&mut self) -> Option<(u64, Task)> {
        for _ in 0..1_000_000 {
            match self.reader.pull(monotonic_ns) {
                Pulled::Message(message, task) => return Some((message.sequence, task)),
                Pulled::Nothing | Pulled::End => return None,
                Pulled::Unfinished => std::thread::yield_now(),
                Pulled::HoldsExhausted => panic!("small messages are copied"),
            }
        }
        panic!("a look that does not end");
    }

    fn pull_all(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| {
            let (sequence, task) = self.pull()?;
            assert!(task.done(), "nobody else had it");
            Some(sequence)
        })
        .collect()
    }

    /// As the kernel says it: what it has in its arena stays as it was.
    fn dies(self) {
        self.own.life_word().fetch_or(OWNER_DIED, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

fn numbers(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

const LOST: [Cause; 3] = [Cause::PullerDied, Cause::NoSubscriber, Cause::Corrupt];

#[test]
fn how_often_a_message_was_given_before_is_not_said_of_the_next_where_it_was_not_published() {
    let mut pusher = Pusher::patient();
    let mut puller = Puller::new(&pusher, &acknowledged("g", 5));
    pusher.shared.begins_at(1, 3);
    pusher.push_all(1);
    let (_, task) = puller.pull().expect("work");
    assert_eq!(task.attempt(), 3);
    assert!(task.done());
    // There was no room for it: another message has its place.
    pusher.shared.begins_at(2, 4);
    pusher.shared.begins_not(2);
    pusher.push_all(1);
    let (_, task) = puller.pull().expect("work");
    assert_eq!(task.attempt(), 0);
    assert!(task.done());
}

#[test]
fn what_one_puller_gave_back_rests_for_all_and_what_came_from_elsewhere_has_rested_there() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut pusher = Pusher::patient();
    let group = acknowledged("g", 9);
    let mut pullers = [Puller::new(&pusher, &group), Puller::new(&pusher, &group)];
    for puller in &mut pullers {
        puller.reader.rests(Pauses { first_ns: HOUR_NS, most_ns: HOUR_NS });
    }
    let [one, two] = &mut pullers;
    for attempt in 0..4 {
        let sequence = pusher.writer.head() + 1;
        pusher.shared.begins_at(sequence, attempt);
        pusher.push_all(1);
        let (_, task) = one.pull().expect("it was given to others elsewhere, and comes at once");
        assert_eq!(task.attempt(), attempt);
        assert!(task.put_back());
        let (_, task) = two.pull().expect("nobody has looked at it");
        assert!(task.give_back());
        // The first has not looked since; a third has never looked.
        assert!(one.pull().is_none() && two.pull().is_none(), "it fails again at once");
        let mut third = Puller::new(&pusher, &group);
        third.reader.rests(Pauses { first_ns: HOUR_NS, most_ns: HOUR_NS });
        assert!(third.pull().is_none(), "who comes later burns an attempt");
        let mut hasty = Puller::new(&pusher, &group);
        let (last, task) = hasty.pull().expect("who waits for no rest has it");
        assert_eq!((last, task.attempt()), (sequence, attempt + 1));
        assert!(task.done());
    }
    println!("evidence: pullers=4 given_back=4");
}

#[test]
fn what_was_given_back_once_and_then_put_back_unseen_rests_for_nobody() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut pusher = Pusher::patient();
    let group = acknowledged("g", 9);
    let patient = |pusher: &Pusher| {
        let mut puller = Puller::new(pusher, &group);
        puller.reader.rests(Pauses { first_ns: HOUR_NS, most_ns: HOUR_NS });
        puller
    };
    let [mut one, mut two] = [patient(&pusher), patient(&pusher)];
    pusher.push_all(1);
    let (_, task) = one.pull().expect("work");
    assert!(task.give_back());
    assert!(one.pull().is_none() && two.pull().is_none(), "both know that it failed");
    // Who lets nothing rest decides for nobody else, whether they saw it taken meanwhile or come later.
    let mut hasty = Puller::new(&pusher, &group);
    for looks in [true, false] {
        let (_, task) = hasty.pull().expect("who waits for no rest has it");
        assert!(!looks || one.pull().is_none() && two.pull().is_none(), "somebody has it");
        assert!(task.put_back());
        assert!(one.pull().is_none() && two.pull().is_none(), "its rest was ended by who waits for none");
        assert!(patient(&pusher).pull().is_none(), "nor was it for who comes later");
    }
    let mut rested = Puller::new(&pusher, &group);
    rested.reader.rests(Pauses { first_ns: 1, most_ns: 1 });
    let (_, task) = (0..1_000).find_map(|_| rested.pull()).expect("here it has rested");
    assert!(task.put_back());
    let (_, task) = two.pull().expect("nobody has begun with it since it rested");
    assert_eq!(task.attempt(), 1);
    assert!(task.put_back());
    let (_, task) = patient(&pusher).pull().expect("nor for who comes later");
    assert!(task.put_back());
    let (_, task) = one.pull().expect("nor for who gave it back");
    assert!(task.give_back());
    assert!(one.pull().is_none() && two.pull().is_none(), "it failed again");
    println!("evidence: pullers=7 put_back=5");
}

#[test]
fn a_group_is_behind_since_its_first_message_waits_and_not_since_it_is_there_nor_for_a_beat() {
    const S: u64 = 1_000_000_000;
    let mut pusher = Pusher::patient();
    let begun = monotonic_ns();
    let at = |seconds: u64| begun + seconds * S;
    let since = |pusher: &Pusher, beat_ns: u64| {
        let seats = pusher.shared.seats();
        let seat = seats.iter().find(|seat| seat.gates && seat.row.group.load(Ordering::Relaxed) == 0);
        (seat.expect("of the group").row.waits_since_ns(beat_ns).saturating_sub(begun)) / S
    };
    let mut puller = Puller::new(&pusher, &group("g"));
    pusher.push_all(1);
    assert_eq!(since(&pusher, at(9)), 9, "nothing waited when the group was made");
    let (_, task) = puller.pull().expect("work");
    assert!(task.done());
    pusher.shared.reap();
    pusher.shared.look(at(3_600));
    pusher.push_all(1);
    assert_eq!(since(&pusher, at(3_600)), 3_600, "it came this moment, an hour after the group");
    let (_, task) = puller.pull().expect("work");
    assert!(task.done());
    pusher.push_all(500.min(SLOTS - 2));
    pusher.shared.reap();
    pusher.shared.look(at(3_610));
    pusher.shared.look(at(3_620));
    assert_eq!(since(&pusher, at(7_200)), 3_610, "nobody has taken anything since");
    println!("evidence: looks=3 behind_too_long=0 behind_too_short=0");
}

#[test]
fn what_somebody_has_and_gives_back_unseen_goes_on_resting_where_it_was() {
    let mut pusher = Pusher::patient();
    let group = acknowledged("g", 9);
    let mut one = Puller::new(&pusher, &group);
    one.reader.rests(Pauses { first_ns: 50, most_ns: 50 });
    let mut hasty = Puller::new(&pusher, &group);
    pusher.push_all(1);
    let (_, task) = hasty.pull().expect("work");
    assert!(task.give_back());
    let comes = |one: &mut Puller, now_ns: u64| match one.reader.pull(|| now_ns) {
        Pulled::Message(_, task) => task.put_back(),
        _ => false,
    };
    assert!(!comes(&mut one, 1), "it rests");
    let (_, task) = hasty.pull().expect("who waits for no rest has it");
    assert!(!comes(&mut one, 40), "somebody has it");
    assert!(task.put_back());
    assert!(
        (0..10).any(|_| comes(&mut one, 51)),
        "it has rested since it was given back, and not since it was put back"
    );
    println!("evidence: rests=1");
}

#[test]
fn who_leaves_messages_to_others_looks_at_none_of_them_again_before_its_time_and_others_have_each() {
    const COUNT: u64 = 4_000;
    let mut pusher = Pusher::of(arena("pusher"), 4096, Duration::ZERO, Duration::from_secs(3600));
    let group = group("workers");
    let [mut one, mut other] = [0, 1].map(|_| Puller::new(&pusher, &group));
    pusher.push_all(COUNT);
    let looks = std::cell::Cell::new(0_u64);
    let mut left = 0;
    // A clock is asked for each message that is left and is looked at.
    let clock = |now_ns: u64| {
        looks.set(looks.get() + 1);
        now_ns
    };
    while left < COUNT {
        match one.reader.pull(|| clock(1)) {
            Pulled::Message(_, task) => {
                assert!(one.reader.has(&task) && !other.reader.has(&task));
                assert!(one.reader.leave(task, 100));
                left += 1;
            }
            Pulled::Unfinished => {}
            found => panic!("{found:?}"),
        }
    }
    assert!(looks.get() < 16 * COUNT, "{} looks at {COUNT} messages", looks.get());
    assert!(matches!(one.reader.pull(|| clock(99)), Pulled::Nothing));
    one.reader.rest();
    for number in 1..=COUNT / 2 {
        let (sequence, task) = other.pull().expect("it is free");
        assert_eq!((sequence, task.attempt()), (number, 0));
        assert!(task.done());
    }
    other.reader.rest();
    let Pulled::Message(message, task) = one.reader.pull(|| clock(100)) else { panic!("the time is up") };
    assert_eq!((message.sequence, task.attempt()), (COUNT / 2 + 1, 0));
    println!("evidence: left={COUNT} clock_asked={} done_by_others={}", looks.get(), COUNT / 2);
}

#[test]
fn what_is_pushed_before_the_first_puller_waits_for_it_and_the_full_ring_refuses_the_new_message() {
    let mut pusher = Pusher::patient();
    let full = (0..10 * SLOTS).find_map(|_| pusher.push(Patience::None).err());
    assert!(matches!(full, Some(Refusal::Full(_))), "{full:?}");
    assert_eq!(pusher.writer.head(), SLOTS, "all slots are used first");
    let mut first = Puller::new(&pusher, &group("g"));
    let mut second = Puller::new(&pusher, &group("g"));
    let (sequence, task) = second.pull().expect("work");
    assert_eq!(sequence, 1);
    assert_eq!(first.pull_all(), numbers(2, SLOTS), "what another has is not given twice");
    assert!(
        matches!(pusher.push(Patience::None), Err(Refusal::Full(_))),
        "the slot of message 1 is not free"
    );
    assert!(task.done());
    pusher.push_all(1);
    let seen: Vec<u64> = [first.pull_all(), second.pull_all()].concat();
    assert_eq!(seen, [SLOTS + 1]);
    assert_eq!(pusher.account(LOST), (SLOTS + 1, [0; 3]));
    assert_eq!(pusher.shared.pullers(), 2);
}

#[test]
fn each_group_gets_each_message_once_and_a_later_one_begins_with_the_present() {
    let mut pusher = Pusher::patient();
    pusher.push_all(3);
    let mut early = Puller::new(&pusher, &group("early"));
    let mut late = Puller::new(&pusher, &group("late"));
    pusher.push_all(4);
    assert_eq!(early.pull_all(), numbers(1, 7));
    assert_eq!(late.pull_all(), numbers(4, 7));
    for _ in 0..10 * SLOTS {
        pusher.push_all(1);
        assert_eq!((early.pull_all().len(), late.pull_all().len()), (1, 1));
    }
    let mut groups: Vec<Puller> =
        (2..GROUPS_MAX).map(|n| Puller::new(&pusher, &group(&format!("g{n}")))).collect();
    assert!(matches!(Puller::try_new(&pusher, &group("too.many")), Err(ShmError::Refused { .. })));
    assert!(matches!(Puller::try_new(&pusher, &acknowledged("late", 3)), Err(ShmError::Refused { .. })));
    pusher.push_all(1);
    assert!(groups.iter_mut().all(|puller| puller.pull_all().len() == 1));
}

#[test]
fn a_ring_for_groups_takes_no_subscriber_and_one_for_subscribers_no_puller() {
    let pusher = Pusher::patient();
    let own = arena("subscriber");
    let us = PeerArena::of_own(&own).expect("our own arena can be mapped");
    let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
    let policy = Policy::Block;
    let options =
        RowOptions { port: PortId(9), policy, history: 0, holds: 1, created_ns: monotonic_ns(), place: 0 };
    let row = RowShared::create(&own, &pusher.peer, pusher.shared.key(), &options, &budget).expect("a row");
    assert!(matches!(pusher.shared.attach(&us, row.key(), policy), Err(ShmError::Refused { .. })));
    let options =
        RingOptions { slots_max: 64, bytes_max: MIB, history: 0, max_wait_ns: 0, gating: true, relay: false };
    let topic = Topic::new("news").expect("a name");
    let (_writer, shared) =
        RingWriter::create(&pusher.own, &topic, PortId(8), options.clone()).expect("a ring");
    let row_options =
        RowOptions { port: PortId(9), policy, history: 0, holds: 1, created_ns: monotonic_ns(), place: 0 };
    let row =
        RowShared::create_for(&own, &pusher.peer, shared.key(), &row_options, 5, &budget).expect("a row");
    let refused = shared.attach_puller(&us, row.key(), &group("g"));
    assert!(matches!(refused, Err(ShmError::Refused { .. })), "{refused:?}");
    let deaf = RingOptions { gating: false, ..options };
    let made = RingWriter::create_for_groups(&pusher.own, &topic, PortId(8), deaf, 0);
    assert!(matches!(made, Err(ShmError::Refused { .. })));
}

#[test]
fn what_a_dead_puller_had_is_counted_where_nothing_is_acknowledged() {
    let mut pusher = Pusher::patient();
    let mut dying = Puller::new(&pusher, &group("g"));
    let mut other = Puller::new(&pusher, &group("g"));
    pusher.push_all(10);
    let (sequence, task) = dying.pull().expect("work");
    std::mem::forget(task);
    assert_eq!(sequence, 1);
    dying.dies();
    assert_eq!(other.pull_all(), numbers(2, 10));
    assert_eq!(pusher.shared.reap().died, 1);
    assert_eq!(pusher.account(LOST), (9, [1, 0, 0]));
    for _ in 0..10 * SLOTS {
        pusher.push_all(1);
        assert_eq!(other.pull_all().len(), 1, "the slot of the lost message is free");
    }
    assert_eq!(pusher.account(LOST), (9 + 10 * SLOTS, [1, 0, 0]));
}

#[test]
fn what_a_dead_puller_had_goes_to_another_where_it_is_acknowledged() {
    let mut pusher = Pusher::patient();
    let how = acknowledged("g", 3);
    let mut dying = Puller::new(&pusher, &how);
    let mut other = Puller::new(&pusher, &how);
    pusher.push_all(4);
    for expected in [1, 2] {
        let (sequence, task) = dying.pull().expect("work");
        assert_eq!((sequence, task.attempt()), (expected, 0));
        std::mem::forget(task);
    }
    dying.dies();
    assert_eq!(other.pull_all(), [3, 4]);
    let reaped = pusher.shared.reap();
    assert_eq!((reaped.died, reaped.returned), (1, 2));
    let (sequence, task) = other.pull().expect("it was given back");
    assert_eq!((sequence, task.attempt()), (1, 1));
    assert!(task.done());
    assert_eq!(other.pull_all(), [2]);
    assert_eq!(pusher.account(LOST), (4, [0; 3]));
}

#[test]
fn an_acknowledgement_that_is_late_is_refused_and_the_message_is_anothers() {
    let mut pusher = Pusher::patient();
    let how = acknowledged("g", 60);
    let mut slow = Puller::new(&pusher, &how);
    let mut other = Puller::new(&pusher, &how);
    pusher.push_large(5_000);
    pusher.push_all(1);
    let Pulled::Message(message, late) = slow.reader.pull(monotonic_ns) else { panic!("there is work") };
    assert_eq!(other.pull_all(), [2]);
    let begun = monotonic_ns();
    let within_ns = u64::from(ACK_MS) * 1_000_000;
    assert_eq!(other.reader.watch(begun), (0, Some(begun + within_ns)));
    assert_eq!(other.reader.watch(begun + within_ns - 1).0, 0, "it is in time");
    assert!(other.pull().is_none());
    assert_eq!(other.reader.watch(begun + within_ns), (1, None));
    let (sequence, task) = other.pull().expect("it was given back");
    assert_eq!((sequence, task.attempt()), (1, 1));
    assert_eq!(other.reader.watch(begun + within_ns).0, 0, "another claim has a time of its own");
    assert!(!late.done(), "it was given to another");
    assert_eq!(other.reader.late(), 1);
    assert!(task.done());
    // The pusher goes round its ring; what the late one still reads is not used again.
    for _ in 0..4 * SLOTS {
        pusher.push_large(5_000);
        assert_eq!(other.pull_all().len(), 1);
    }
    let Body::Chunk(held) = &message.body else { panic!("a large message lies in a chunk") };
    assert!(held.payload().iter().take(5_000).all(|byte| *byte == 1), "held memory was used again");
    assert_eq!(pusher.account(LOST).0, 2 + 4 * SLOTS);
}

#[test]
fn a_message_that_is_given_back_comes_again_with_its_attempts_counted() {
    let mut pusher = Pusher::patient();
    let mut puller = Puller::new(&pusher, &acknowledged("g", 3));
    pusher.push_all(2);
    for attempt in 0..5 {
        let (sequence, task) = puller.pull().expect("work");
        assert_eq!((sequence, task.attempt()), (1, attempt));
        assert!(task.give_back());
    }
    let (_, task) = puller.pull().expect("work");
    assert!(task.lose(Cause::DeadLetter));
    assert_eq!(puller.pull_all(), [2]);
    let (delivered, lost) = pusher.account([Cause::DeadLetter, Cause::PullerDied, Cause::NoSubscriber]);
    assert_eq!((delivered, lost), (1, [1, 0, 0]));
}

#[test]
fn without_a_puller_a_pusher_waits_for_so_long_and_then_counts_what_nobody_got() {
    let mut pusher = Pusher::new(Duration::ZERO, Duration::ZERO);
    for _ in 0..10 * SLOTS {
        pusher.push_all(1);
    }
    let (delivered, [_, nobody, _]) = pusher.account(LOST);
    assert_eq!(delivered, 0);
    assert!((9 * SLOTS..10 * SLOTS).contains(&nobody), "{nobody} were given up");
    let mut puller = Puller::new(&pusher, &group("g"));
    let came = puller.pull_all();
    assert_eq!(came, numbers(nobody + 1, 10 * SLOTS), "what was not given up was there for the first");
    drop(puller);
    assert_eq!(pusher.shared.reap().left, 1);
    for _ in 0..10 * SLOTS {
        pusher.push_all(1);
    }
    let (_, [_, again, _]) = pusher.account(LOST);
    assert!(again > nobody + 8 * SLOTS, "{again} of {nobody}");
}

#[test]
fn a_group_that_nobody_comes_back_to_is_over_while_others_pull() {
    let mut pusher = Pusher::new(Duration::ZERO, Duration::ZERO);
    let old = Puller::new(&pusher, &group("v1"));
    let mut new = Puller::new(&pusher, &group("v2"));
    drop(old);
    assert_eq!(pusher.shared.reap().left, 1);
    for _ in 0..2 * SLOTS {
        pusher.push_all(1);
        assert_eq!(new.pull_all().len(), 1);
    }
    pusher.shared.reap();
    let behind = pusher.writer.flush(Deadline::after(Duration::ZERO));
    assert!(behind.is_empty(), "all that somebody wants is done: {behind:?}");
    assert_eq!(pusher.shared.seated(), 2, "the group that is there, and its puller");
    assert_eq!(pusher.account(LOST), (2 * SLOTS, [0, 2 * SLOTS, 0]));
    let mut again = Puller::new(&pusher, &group("v1"));
    pusher.push_all(SLOTS / 2);
    assert_eq!(new.pull_all().len() as u64, SLOTS / 2);
    assert!(!again.pull_all().is_empty());
}

#[test]
fn names_of_groups_that_are_gone_are_no_hindrance_nor_is_how_they_acknowledged() {
    let pusher = Pusher::new(Duration::ZERO, Duration::ZERO);
    for name in 0..3 * GROUPS_MAX {
        drop(Puller::new(&pusher, &group(&format!("release{name}"))));
        pusher.shared.reap();
    }
    assert!(pusher.shared.seated() <= GROUPS_MAX);
    let mut pusher = Pusher::patient();
    for how in [group("g"), acknowledged("g", 3), acknowledged("g", 4), group("g")] {
        pusher.push_all(3);
        let mut puller = Puller::new(&pusher, &how);
        let other = Puller::try_new(&pusher, &acknowledged("g", 5));
        assert!(matches!(other, Err(ShmError::Refused { .. })), "somebody is there");
        assert_eq!(puller.pull_all().len(), 3, "what waited is not forgotten");
        drop(puller);
        pusher.shared.reap();
    }
    for name in 1..GROUPS_MAX {
        drop(Puller::new(&pusher, &group(&format!("release{name}"))));
        pusher.shared.reap();
    }
    let refused = Puller::try_new(&pusher, &group("one.more"));
    assert!(matches!(refused, Err(ShmError::Refused { .. })), "all of them are waited for still");
}

#[test]
fn a_puller_that_there_is_no_memory_for_leaves_no_group_behind() {
    let own = arena("pusher");
    own.join(&Arc::new(Domain::create(24 * MIB).expect("a domain"))).expect("there is room for it");
    // Claims for a million messages: 16 MiB.
    let mut pusher = Pusher::of(own, 1 << 20, Duration::ZERO, Duration::from_secs(3600));
    let mut puller = Puller::new(&pusher, &group("g"));
    for _ in 0..3 {
        let refused = Puller::try_new(&pusher, &group("other")).err();
        assert!(matches!(refused, Some(ShmError::Budget { .. })), "no memory for its claims: {refused:?}");
    }
    assert_eq!(pusher.shared.seated(), 2, "a group and its puller");
    pusher.push_all(3);
    assert_eq!(puller.pull_all(), numbers(1, 3));
    assert!(pusher.writer.flush(Deadline::after(Duration::ZERO)).is_empty(), "nobody else is waited for");
    assert_eq!(pusher.account(LOST), (3, [0; 3]));
}

#[test]
fn a_pusher_that_says_more_is_there_than_there_is_is_not_looked_at_for_ever() {
    let mut pusher = Pusher::patient();
    let mut puller = Puller::new(&pusher, &group("g"));
    pusher.push_all(3);
    let at = busway_shm::layout::HEADS_AT + 8 * u64::from(pusher.shared.key().index);
    let head = pusher.own.tables().at::<AtomicU64>(at).expect("it is there");
    head.store(5, Ordering::Release);
    assert_eq!(puller.pull_all(), numbers(1, 3), "and it ends");
    assert_eq!(pusher.account(LOST), (3, [0, 0, 2]));
}

#[test]
fn a_pusher_waits_for_a_busy_group_no_longer_than_its_cap_and_loses_nothing_that_it_accepted() {
    let mut pusher = Pusher::new(Duration::from_millis(20), Duration::from_secs(3600));
    let mut puller = Puller::new(&pusher, &group("g"));
    pusher.push_all(SLOTS);
    for _ in 0..3 {
        let before = monotonic_ns();
        let refused = pusher.push(Patience::Until(Deadline::never()));
        assert!(matches!(refused, Err(Refusal::Full(ref who)) if who[0].name == "group g"), "{refused:?}");
        assert!(monotonic_ns() - before >= 20_000_000, "it waits each time");
    }
    assert!(pusher.writer.flush(Deadline::after(Duration::ZERO)).len() == 1);
    let pulled = std::thread::scope(|scope| {
        let pulled = scope.spawn(move || {
            let mut all = Vec::new();
            while all.len() < 3 * SLOTS as usize {
                all.extend(puller.pull_all());
                std::thread::yield_now();
            }
            all
        });
        let begun = std::time::Duration::from_nanos(monotonic_ns());
        while pusher.writer.head() < 3 * SLOTS {
            // A machine with much else to do may let the puller wait for longer than the cap.
            _ = pusher.push(Patience::Until(Deadline::never()));
            assert!(Duration::from_nanos(monotonic_ns()) - begun < PATIENCE);
        }
        pulled.join().expect("it pulled all")
    });
    assert_eq!(pulled, numbers(1, 3 * SLOTS));
}

#[test]
fn what_waits_when_its_pusher_goes_is_pulled_to_the_end() {
    for clean in [true, false] {
        let mut pusher = Pusher::patient();
        let how = acknowledged("g", 5);
        let mut one = Puller::new(&pusher, &how);
        let mut two = Puller::new(&pusher, &how);
        pusher.push_all(20);
        let (_, task) = one.pull().expect("work");
        if clean {
            let Pusher { writer, shared, .. } = pusher;
            drop(writer);
            assert_eq!(shared.reap().left, 0, "its pullers are there");
            assert_eq!(two.pull_all(), numbers(2, 20));
            assert!(matches!(two.reader.pull(monotonic_ns), Pulled::Nothing), "one message may come back");
            assert!(task.give_back());
            assert_eq!(two.pull_all(), [1]);
            assert!(matches!(one.reader.pull(monotonic_ns), Pulled::End));
            drop((one, two));
            shared.reap();
            shared.reap();
            assert!(shared.is_free(), "the ring's memory is given back");
        } else {
            pusher.dies();
            assert_eq!(two.pull_all(), numbers(2, 20));
            std::mem::forget(task);
            one.dies();
            let now = monotonic_ns();
            assert_eq!(two.reader.watch(now).0, 0);
            assert_eq!(
                two.reader.watch(now + u64::from(ACK_MS) * 1_000_000).0,
                1,
                "no pusher is needed for it"
            );
            assert_eq!(two.pull_all(), [1]);
            assert!(matches!(two.reader.pull(monotonic_ns), Pulled::End));
        }
    }
}

#[test]
fn a_pusher_that_closes_before_anybody_pulls_counts_what_nobody_got_and_leaves_nothing() {
    let mut pusher = Pusher::patient();
    pusher.push_all(5);
    let Pusher { writer, shared, own, .. } = pusher;
    drop(writer);
    shared.reap();
    assert!(shared.is_free());
    assert_eq!(shared.ledgers().past_dropped[Cause::NoSubscriber.index()], 5);
    assert_eq!(own.life_word().load(Ordering::Relaxed) & CLOSED, 0);
}

/// Pullers in threads; returns what each got.
fn share(pusher: &mut Pusher, group: &Group, pullers: usize, messages: u64) -> Vec<Vec<u64>> {
    let all: Vec<Puller> = (0..pullers).map(|_| Puller::new(pusher, group)).collect();
    let begun = monotonic_ns();
    let late = move || monotonic_ns() - begun > PATIENCE.as_nanos() as u64;
    let left = Arc::new(AtomicU64::new(messages));
    // A puller that has never looked for work is owed none: all have, before the first is pushed.
    let ready = Barrier::new(all.len() + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .into_iter()
            .map(|mut puller| {
                let (left, ready) = (Arc::clone(&left), &ready);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    assert!(matches!(puller.reader.pull(|| 0), Pulled::Nothing));
                    ready.wait();
                    while left.load(Ordering::Relaxed) > 0 {
                        assert!(!late(), "{} are left", left.load(Ordering::Relaxed));
                        // By a clock that stands still: how long one waits for a processor decides nothing.
                        match puller.reader.pull(|| 0) {
                            Pulled::Message(message, task) => {
                                assert!(task.done());
                                left.fetch_sub(1, Ordering::Relaxed);
                                mine.push(message.sequence);
                            }
                            _ => std::thread::yield_now(),
                        }
                    }
                    mine
                })
            })
            .collect();
        ready.wait();
        while pusher.writer.head() < messages {
            if pusher.push(Patience::None).is_err() {
                assert!(!late(), "no room");
                std::thread::yield_now();
            }
        }
        threads.into_iter().map(|thread| thread.join().expect("it pulled")).collect()
    })
}

#[test]
fn of_a_hundred_thousand_messages_each_goes_to_one_of_eight_pullers_in_equal_shares() {
    const MESSAGES: u64 = 100_000;
    let mut pusher = Pusher::patient();
    let shares = share(&mut pusher, &group("g"), 8, MESSAGES);
    let counts: Vec<usize> = shares.iter().map(Vec::len).collect();
    let mut all = shares.concat();
    all.sort_unstable();
    assert_eq!(all, numbers(1, MESSAGES), "each exactly once");
    let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
    println!("evidence: messages={MESSAGES} least={least:?} most={most:?}");
    let equal = MESSAGES as usize / 8;
    assert!(counts.iter().all(|count| count.abs_diff(equal) <= equal / 10), "{counts:?}");
    assert_eq!(pusher.account(LOST), (MESSAGES, [0; 3]));
}

#[test]
fn a_puller_that_stops_while_it_looks_for_work_is_waited_for_once() {
    let mut pusher = Pusher::patient();
    let mut stopped = Puller::new(&pusher, &group("g"));
    let mut other = Puller::new(&pusher, &group("g"));
    assert!(matches!(stopped.reader.pull(|| 0), Pulled::Nothing), "it looks, and never again");
    let (mut now_ns, mut waited, mut done) = (0_u64, 0_u64, 0);
    while done < 10_000 {
        pusher.push_all(1);
        loop {
            match other.reader.pull(|| now_ns) {
                Pulled::Message(_, task) => break assert!(task.done()),
                Pulled::Unfinished => (now_ns, waited) = (now_ns + 1_000_000, waited + 1),
                found => panic!("there is work: {found:?}"),
            }
        }
        done += 1;
    }
    println!("evidence: messages={done} waited_ms={waited}");
    assert!((1..=25).contains(&waited), "{waited} ms");
    // It comes back: the next is its own again.
    stopped.reader.rest();
    assert!(matches!(stopped.reader.pull(|| now_ns), Pulled::Nothing));
    let before = waited;
    for _ in 0..64 {
        pusher.push_all(1);
        while let Pulled::Unfinished = other.reader.pull(|| now_ns) {
            waited += 1;
            if let Pulled::Message(_, task) = stopped.reader.pull(|| now_ns) {
                assert!(task.done());
            }
        }
    }
    assert!(waited > before, "it is left a message");
}

#[test]
fn a_line_that_says_that_its_puller_has_had_everything_starves_nobody() {
    let mut pusher = Pusher::patient();
    let mut pullers = [Puller::new(&pusher, &group("g")), Puller::new(&pusher, &group("g"))];
    let _liar = Puller::new(&pusher, &group("g"));
    let file = file::map(pusher.own.claims().expect("it is there").fd(), pusher.own.process());
    let run = Run::of(&file.expect("it is ours"), RunAt { offset: 4096, slots: SLOTS as u32 });
    let run = run.expect("the first");
    let (mut now_ns, mut waited, mut shares) = (0_u64, 0_u64, [0, 0]);
    for round in 0..2_000 {
        run.lines()[2].turn.store(u64::MAX, Ordering::Relaxed);
        pusher.push_all(1);
        let at = round % 2;
        while let Pulled::Unfinished = match pullers[at].reader.pull(|| now_ns) {
            Pulled::Message(_, task) => {
                assert!(task.done());
                shares[at] += 1;
                Pulled::Nothing
            }
            found => found,
        } {
            (now_ns, waited) = (now_ns + 1_000_000, waited + 1);
            assert!(waited < 10_000, "nobody is waited for again and again");
        }
    }
    println!("evidence: shares={shares:?} waited_ms={waited}");
    assert_eq!(shares, [1_000, 1_000]);
}

#[test]
fn whatever_a_member_writes_into_the_claims_nobody_panics_or_waits_for_ever() {
    for how in [acknowledged("g", 5), group("g")] {
        write_anything(&how);
    }
}

fn write_anything(how: &Group) {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut pusher = Pusher::new(Duration::from_millis(1), Duration::from_secs(3600));
    let mut pullers = [Puller::new(&pusher, how), Puller::new(&pusher, how)];
    let file =
        file::map(pusher.own.claims().expect("it is there").fd(), pusher.own.process()).expect("it is ours");
    let words = file
        .slice::<AtomicU64>(4096, (file::run_bytes(SLOTS as u32) / 8).min(2048 + 80))
        .expect("the first run");
    let (mut pushed, mut pulled, mut refused) = (0, 0, 0);
    for round in 0..30_000_u64 {
        for _ in 0..rng.u32(0..3) {
            let at = if rng.bool() { rng.usize(..words.len()) } else { words.len() - 1 - rng.usize(..80) };
            // In the name of nobody: who writes in that of a puller who lives stops a queue that nobody acknowledges.
            let near = (pusher.writer.head() + rng.u64(0..4)) << 24 | 1 << 20 | rng.u64(..1 << 24);
            words[at].store(if rng.bool() { near } else { rng.u64(..) }, Ordering::Relaxed);
        }
        match pusher.push(Patience::None) {
            Ok(_) => pushed += 1,
            Err(Refusal::Full(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
        let puller = &mut pullers[round as usize % 2];
        if let Pulled::Message(_, task) = puller.reader.pull(monotonic_ns) {
            pulled += 1;
            _ = if rng.bool() { task.done() } else { task.give_back() };
        }
        // What nobody has any more is given back by time.
        puller.reader.watch(monotonic_ns() + round * u64::from(ACK_MS) * 1_000_000);
        pusher.shared.reap();
        assert!(pusher.shared.ledgers().present.iter().all(|row| row.closed()));
    }
    println!("evidence: pushed={pushed} pulled={pulled} refused={refused}");
    assert!(pushed > 1_000 && pulled > 1_000, "it goes on: {pushed} {pulled} {refused}");
    let file_bytes = file::CLAIMS_BYTES;
    for (offset, slots) in
        [(0, 64), (4096, 0), (4096, 3), (4096, u32::MAX), (file_bytes, 64), (u64::MAX, 64), (4097, 64)]
    {
        assert!(Run::of(&file, RunAt { offset, slots }).is_err(), "{offset} {slots}");
    }
}

#[test]
fn a_claim_in_the_name_of_nobody_stops_no_pusher() {
    for (how, lost) in [(group("g"), 1), (acknowledged("g", 5), 0)] {
        let mut pusher = Pusher::patient();
        let mut puller = Puller::new(&pusher, &how);
        let file = file::map(pusher.own.claims().expect("it is there").fd(), pusher.own.process());
        let run = Run::of(&file.expect("it is ours"), RunAt { offset: 4096, slots: SLOTS as u32 });
        pusher.push_all(2);
        assert!(run.expect("the first").claims().claim(1, Owner(999)).is_some());
        assert_eq!(puller.pull_all(), [2]);
        // As many as fit, beside the one that nobody has.
        for _ in 0..10 * SLOTS {
            pusher.push_all(1);
            puller.pull_all();
        }
        assert_eq!(pusher.account(LOST), (2 + 10 * SLOTS - lost, [lost, 0, 0]), "{how:?}");
    }
}

#[test]
fn a_claims_file_that_is_not_what_it_should_be_is_refused() {
    let pusher = Pusher::patient();
    let claims = pusher.own.claims().expect("it can be made");
    assert!(file::map(claims.fd(), pusher.own.process()).is_ok());
    let other = arena("other").process();
    assert!(matches!(file::map(claims.fd(), other), Err(ShmError::Incarnation { .. })));
    assert!(matches!(
        file::map(pusher.own.arena_fd(), pusher.own.process()),
        Err(ShmError::WrongAccess { .. })
    ));
    let program = std::fs::File::open("/proc/self/exe").expect("it runs");
    assert!(matches!(file::map(&program, pusher.own.process()), Err(ShmError::NotShared { .. })));
    assert!(Claims::new(&[AtomicU64::new(u64::MAX)]).claim(1, Owner(1)).is_none());
}

#[test]
fn ten_thousand_pullers_after_each_other_leave_nothing_and_more_than_fit_are_refused() {
    let mut pusher = Pusher::patient();
    let own = arena("puller");
    let mut kept = Vec::new();
    let before = pusher.own.tables().header().committed_bytes.load(Ordering::Relaxed);
    for round in 0..10_000_u64 {
        let mut puller = Puller::join(&own, &pusher, &group("g"), 1).expect("there is room");
        pusher.push_all(1);
        let Pulled::Message(message, task) = puller.pull(monotonic_ns) else { panic!("there is work") };
        assert_eq!(message.sequence, round + 1);
        assert!(task.done());
        drop((message, puller));
        pusher.shared.reap();
        own.reap_rows();
    }
    let after = pusher.own.tables().header().committed_bytes.load(Ordering::Relaxed);
    assert!(after - before < 256 << 10, "{before} {after}");
    for _ in 0..GROUP_PULLERS_MAX {
        kept.push(Puller::join(&own, &pusher, &group("g"), 1).expect("there is room"));
    }
    assert!(matches!(Puller::join(&own, &pusher, &group("g"), 1), Err(ShmError::Refused { .. })));
    assert_eq!(pusher.shared.pullers(), usize::from(GROUP_PULLERS_MAX));
}
