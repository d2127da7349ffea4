//! A writer or a reader is killed between any two instructions (row H39, case 39; row A25).
//!
//! Each kill has a process of its own: a fork of this one, which makes its arena, sets the scene, and is then walked
//! through one `send` (or one take and release) and killed after the k-th step. This process is the survivor: it has
//! the arena of the dead mapped, as peers do, and looks at what it finds.

use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use busway_shm::arena::{OwnArena, PeerArena};
use busway_shm::clock::monotonic_ns;
use busway_shm::hold::HoldBudget;
use busway_shm::life::{Life, LifeLock};
use busway_shm::ring::{Patience, RingOptions, RingWriter};
use busway_shm::row::{Body, Message, RowOptions, RowReader, RowShared, Taken};
use busway_shm::seat::{EntryKey, Reaped};
use busway_wire::{Cause, Policy, PortId, Topic};

use crate::child::{Child, Led, Stop, Trail, mark, trace_me};
use crate::{Files, MIB, RING_SLOTS, arena, hear, introduce, meet, patient, send, tell};

/// Takes after which a reader that has not come to the end never will.
const TAKES_MAX: u32 = 10_000;

/// What is walked through, and after what.
#[derive(Clone, Copy)]
struct Scene {
    name: &'static str,
    slots_max: u32,
    /// Messages before the walk.
    before: u64,
    /// How many of these the fast reader, which gates, has taken.
    fast: u64,
    /// How many of these a reader that does not gate has taken: the walk takes the slot that it reads next.
    edge: u64,
    /// Messages that are sent during the walk.
    walked: u64,
    size: fn(u64) -> usize,
}

impl Scene {
    /// What message `sequence` carries: every word of it names the message.
    fn payload(&self, sequence: u64) -> Vec<u8> {
        let word = |at: u64| (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at).to_le_bytes();
        (0..).flat_map(word).take((self.size)(sequence)).collect()
    }

    fn assert_whole(&self, message: &Message) {
        let found = match &message.body {
            Body::Inline(inline) => {
                assert_eq!(inline.meta.time_ns, message.sequence, "half a message");
                inline.payload()
            }
            Body::Chunk(chunk) => chunk.payload(),
            Body::Copied(..) => message.body.payload(),
        };
        assert_eq!(found, self.payload(message.sequence), "half a message, {}", message.sequence);
    }

    fn options(&self) -> RingOptions {
        let max_wait_ns = 20_000_000_000;
        RingOptions {
            slots_max: self.slots_max,
            bytes_max: MIB,
            history: 0,
            max_wait_ns,
            gating: true,
            relay: false,
        }
    }
}

/// Who survives a writer.
const READERS: [Policy; 3] =
    [Policy::Block, Policy::DropOldest { depth: Policy::DEPTH_RING }, Policy::KeepLatest];

/// The part of the writer that is killed.
fn writer_part(scene: Scene, parent: &UnixStream, readers: &Files) {
    let own = arena("killed");
    let _life = LifeLock::acquire(own.clone(), |own| own.life_word()).expect("a fresh word");
    let topic = Topic::new("price.tick").expect("a name");
    let (mut writer, shared) = RingWriter::create(&own, &topic, PortId(7), scene.options()).expect("a ring");
    introduce(parent, &own, shared.key());
    let peer = readers.map();
    for policy in READERS {
        let row = EntryKey::from_word(hear::<1>(parent)[0]);
        tell(parent, [u64::from(shared.attach(&peer, row, policy).expect("a seat"))]);
    }
    for _ in 0..scene.before {
        if writer.head() % 8 == 0 {
            // The readers are told, and say when they have taken.
            tell(parent, [writer.head()]);
            hear::<1>(parent);
        }
        let payload = scene.payload(writer.head() + 1);
        send(&mut writer, &payload, patient());
    }
    let walked: Vec<Vec<u8>> = (1..=scene.walked).map(|ahead| scene.payload(scene.before + ahead)).collect();
    let patience = patient();
    tell(parent, [writer.head(), u64::from(trace_me())]);
    mark();
    for payload in &walked {
        send(&mut writer, payload, patience);
    }
    mark();
}

/// A reader of the survivor, and what it has got.
struct Survivor {
    reader: RowReader,
    got: u64,
    lost: u64,
    last: u64,
    held: Option<Message>,
    may_lose: bool,
    over: bool,
}

impl Survivor {
    fn new(row: Arc<RowShared>, policy: Policy, first: u64) -> Self {
        let (reader, may_lose) = (RowReader::new(row, policy, false), policy != Policy::Block);
        Self { reader, got: 0, lost: 0, last: first, held: None, may_lose, over: false }
    }

    /// Takes until it has passed `until`, or, where that never comes, until the end.
    fn take(&mut self, scene: &Scene, until: u64) {
        for _ in 0..TAKES_MAX {
            if self.last >= until || self.over {
                return;
            }
            match self.reader.take() {
                Taken::Message(message) => {
                    assert_eq!(message.sequence, self.last + 1, "in order, and once");
                    scene.assert_whole(&message);
                    (self.last, self.got) = (message.sequence, self.got + 1);
                    if matches!(message.body, Body::Chunk(_)) && self.held.is_none() {
                        self.held = Some(message);
                    }
                }
                Taken::Gap(gap) => {
                    assert_eq!(gap.from, self.last + 1);
                    assert!(self.may_lose && gap.cause != Cause::Corrupt, "{gap:?}");
                    (self.last, self.lost) = (self.last + gap.count, self.lost + gap.count);
                }
                Taken::Empty => {}
                Taken::End => self.over = true,
                other => panic!("{other:?}"),
            }
        }
        panic!("it neither takes nor ends: {:?}", self.reader);
    }

    /// After the death: everything that there is, and then the end.
    fn settle(mut self, scene: &Scene) -> u64 {
        self.take(scene, u64::MAX);
        if let Some(held) = self.held.take() {
            scene.assert_whole(&held);
        }
        let account = self.reader.row().account();
        let lost: u64 = account.dropped.iter().sum();
        assert_eq!((account.delivered, lost), (self.got, self.lost), "the account says what came");
        assert_eq!((account.in_flight, account.held), (0, 0), "the account is closed");
        self.last
    }
}

/// The survivor's side of one scene.
struct Stage {
    scene: Scene,
    own: Arc<OwnArena>,
    budget: Arc<HoldBudget>,
}

impl Stage {
    fn new(scene: Scene) -> Self {
        Self { scene, own: arena("survivor"), budget: Arc::new(HoldBudget::new(256, 64 * MIB)) }
    }

    fn row(&self, peer: &Arc<PeerArena>, ring: EntryKey, policy: Policy, history: u64) -> Arc<RowShared> {
        let options =
            RowOptions { port: PortId(9), policy, history, holds: 15, created_ns: monotonic_ns(), place: 0 };
        RowShared::create(&self.own, peer, ring, &options, &self.budget).expect("a row")
    }

    /// Starts a writer, has it killed after `walk`, and says which message is then the last. `None`: it cannot be traced.
    fn kill_writer(&self, walk: &mut dyn FnMut(&Child)) -> Option<u64> {
        let scene = &self.scene;
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let files = Files::of(&self.own);
        let child = Child::fork(|| writer_part(*scene, &theirs, &files));
        let (peer, ring) = meet(&ours, &child);
        let mut readers: Vec<Survivor> = Vec::new();
        for policy in READERS {
            let row = self.row(&peer, ring, policy, 0);
            tell(&ours, [row.key().word()]);
            row.attached(Ok(hear::<1>(&ours)[0] as u32));
            readers.push(Survivor::new(row, policy, 0));
        }
        let mut head = 0;
        while head < scene.before {
            [head] = hear(&ours);
            readers[0].take(scene, head.min(scene.fast));
            readers[1].take(scene, head.min(scene.edge));
            if head < scene.before {
                tell(&ours, [0]);
            }
        }
        if hear(&ours) == [0] {
            return None;
        }
        assert_eq!(child.stopped(), Stop::Mark, "the walk begins");
        walk(&child);
        child.kill();
        Some(self.look(&peer, ring, readers))
    }

    /// Looks at what a killed writer has left; all readers agree which message is the last.
    fn look(&self, peer: &Arc<PeerArena>, ring: EntryKey, readers: Vec<Survivor>) -> u64 {
        assert_eq!(peer.life(), Life::Dead, "the kernel has marked its life word");
        let head = peer.tables().head(ring.index).expect("a head");
        let head = head.load(busway_shm::sync::Ordering::Relaxed);
        let late = self.row(peer, ring, Policy::Block, 5);
        late.start_without_seat();
        let first = late.entry().first.load(busway_shm::sync::Ordering::Relaxed);
        let late = Survivor::new(late, Policy::Block, first);
        let last: Vec<u64> =
            readers.into_iter().chain([late]).map(|reader| reader.settle(&self.scene)).collect();
        assert!(last.iter().all(|reader| *reader == last[0]), "they disagree: {last:?}");
        assert!(last[0] == head || last[0] == head + 1, "the head says {head}, {} are there", last[0]);
        assert_eq!(self.budget.held(), 0);
        self.own.reap_rows();
        last[0]
    }

    fn run(&self, chosen: impl FnOnce(&Trail) -> Vec<usize>) {
        let end = self.scene.before + self.scene.walked;
        kills(self.scene.name, self.scene.before..=end, chosen, |walk| self.kill_writer(walk));
    }
}

/// Has a child walk to the end once, and then has one killed before each of the steps that `chosen` picks of the walk.
/// `kill` does that, and says what the last message is that counts; it must go from the first of `lasts` to the last of them.
fn kills(
    name: &str,
    lasts: RangeInclusive<u64>,
    chosen: impl FnOnce(&Trail) -> Vec<usize>,
    kill: impl Fn(&mut dyn FnMut(&Child)) -> Option<u64>,
) {
    let mut trail = Trail::default();
    let Some(unharmed) = kill(&mut |child| trail = Trail::record(child)) else {
        println!("skipped: ptrace is not permitted here");
        return;
    };
    assert_eq!(unharmed, *lasts.end(), "unharmed, everything is there");
    let chosen = chosen(&trail);
    let (mut highest, mut old, mut new, mut strayed) = (*lasts.start(), 0_u64, 0_u64, 0_u64);
    for step in &chosen {
        let mut there = false;
        let last = kill(&mut |child| there = trail.lead(child, *step) == Led::There)
            .expect("it was permitted before");
        assert!(lasts.contains(&last), "{name}: {last} at step {step}: one is missing or was made up");
        if there {
            assert!(last >= highest, "{name}: there after fewer steps, and not after {step}");
            highest = last;
        }
        strayed += u64::from(!there);
        old += u64::from(last < *lasts.end());
        new += u64::from(last == *lasts.end());
    }
    assert!(old > 0 && new > 0, "the kills lie before and after what counts");
    let (steps, kills) = (trail.steps(), chosen.len());
    println!("evidence: scene={name} steps={steps} kills={kills} strayed={strayed} old={old} new={new}");
}

#[test]
fn a_writer_killed_after_any_step_of_a_small_message_leaves_the_old_message_or_the_new_one() {
    let scene = Scene {
        name: "inline",
        slots_max: RING_SLOTS as u32,
        before: 72,
        fast: 72,
        edge: 40,
        walked: 1,
        size: |_| 24,
    };
    Stage::new(scene).run(Trail::every);
}

#[test]
fn a_writer_killed_while_it_loans_fills_and_sends_a_chunk_leaves_the_old_message_or_the_new_one() {
    // The 65th loan is the first for which chunks are used again.
    let scene = Scene {
        name: "chunk",
        slots_max: RING_SLOTS as u32,
        before: 64,
        fast: 64,
        edge: 32,
        walked: 1,
        size: |_| 300,
    };
    Stage::new(scene).run(|trail| trail.some(700));
}

#[test]
fn a_writer_killed_while_its_ring_grows_leaves_every_message_readable() {
    let scene =
        Scene { name: "growth", slots_max: 1024, before: 32, fast: 0, edge: 0, walked: 1, size: |_| 24 };
    Stage::new(scene).run(|trail| trail.some(300));
}

/// Messages that the reader has taken before its walk, in which it takes one more and releases it.
const TAKEN: u64 = 20;

/// The part of the reader that is killed. It holds one message all the time.
fn reader_part(parent: &UnixStream, publisher: &Files, ring: EntryKey) {
    let own = arena("killed");
    let _life = LifeLock::acquire(own.clone(), |own| own.life_word()).expect("a fresh word");
    let peer = publisher.map();
    let options = RowOptions {
        port: PortId(9),
        policy: Policy::Block,
        history: 0,
        holds: 15,
        created_ns: monotonic_ns(),
        place: 0,
    };
    let budget = Arc::new(HoldBudget::new(256, 64 * MIB));
    let row = RowShared::create(&own, &peer, ring, &options, &budget).expect("a row");
    introduce(parent, &own, row.key());
    row.attached(Ok(hear::<1>(parent)[0] as u32));
    let mut reader = RowReader::new(row, Policy::Block, false);
    hear::<1>(parent);
    let mut held = None;
    for _ in 0..TAKEN {
        let Taken::Message(message) = reader.take() else { panic!("it is there") };
        held.get_or_insert(message);
    }
    tell(parent, [u64::from(trace_me())]);
    mark();
    drop(reader.take());
    mark();
}

/// Has a reader killed after `walk`; says how many messages the account says that it got. `None`: it cannot be traced.
fn kill_reader(own: &Arc<OwnArena>, scene: &Scene, walk: &mut dyn FnMut(&Child)) -> Option<u64> {
    let topic = Topic::new("price.tick").expect("a name");
    let (mut writer, shared) = RingWriter::create(own, &topic, PortId(7), scene.options()).expect("a ring");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let files = Files::of(own);
    let child = Child::fork(|| reader_part(&theirs, &files, shared.key()));
    let (peer, row) = meet(&ours, &child);
    tell(&ours, [u64::from(shared.attach(&peer, row, Policy::Block).expect("a seat"))]);
    for sequence in 1..=RING_SLOTS {
        send(&mut writer, &scene.payload(sequence), patient());
    }
    tell(&ours, [0]);
    if hear(&ours) == [0] {
        return None;
    }
    assert_eq!(child.stopped(), Stop::Mark, "the walk begins");
    walk(&child);
    child.kill();
    // Whatever it was doing: nobody waits for it, and what it held is used again.
    for sequence in 1..=4 * RING_SLOTS {
        send(&mut writer, &scene.payload(RING_SLOTS + sequence), Patience::None);
    }
    assert_eq!(shared.reap(), Reaped { died: 1, ..Reaped::default() });
    let ledgers = shared.ledgers();
    assert_eq!((ledgers.past_rows, ledgers.present.len()), (1, 0));
    let lost: u64 = ledgers.past_dropped.iter().sum();
    let died = ledgers.past_dropped[Cause::SubscriberDied as usize];
    assert_eq!((ledgers.past_delivered + lost, lost), (writer.head(), died), "the account is closed");
    let census = writer.census();
    let everywhere = census.free + census.left + census.in_ring + census.stored + census.retired;
    assert_eq!(census.pool, everywhere, "{census:?}");
    drop(writer);
    shared.reap();
    assert!(shared.is_free());
    let (all, free) = own.census();
    assert_eq!(all, free, "every chunk is back");
    assert!(all <= 6 * RING_SLOTS, "{all} chunks: what the dead held was not used again");
    Some(ledgers.past_delivered)
}

#[test]
fn a_reader_killed_after_any_step_of_a_take_and_a_release_blocks_nobody_and_keeps_nothing() {
    let scene = Scene {
        name: "take",
        slots_max: RING_SLOTS as u32,
        before: 0,
        fast: 0,
        edge: 0,
        walked: 0,
        size: |_| 300,
    };
    let own = arena("survivor");
    kills(scene.name, TAKEN..=TAKEN + 1, |trail| trail.some(800), |walk| kill_reader(&own, &scene, walk));
}
