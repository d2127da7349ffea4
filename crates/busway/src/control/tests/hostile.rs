//! What somebody on the socket sends who is no member, or a bad one: it loses its own connection and nothing else.

use super::{PATIENCE, Process, join, run_directory};
use crate::control::channel::{Channel, ChannelError, Enclosed, Received};
use crate::control::scratch::Scratch;
use crate::error::Code;
use busway_shm::arena::{ArenaOptions, OwnArena};
use busway_shm::clock::Deadline;
use busway_shm::layout::layout_hash;
use busway_shm::sync::Ordering;
use busway_wire::{
    Control, ControlKind, Generation, Group, Pattern, Policy, PortId, ProcessId, RingIndex, RowIndex,
    SeatIndex, Topic,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;

/// A connection that says what it likes.
struct Stranger {
    channel: Channel,
    arena: Arc<OwnArena>,
}

impl Stranger {
    fn connect(directory: &Path) -> Stranger {
        let channel = Channel::connect(&directory.join("test.sock")).unwrap();
        let options = ArenaOptions { name: "stranger".to_owned(), bytes_max: 1 << 30, monitored: false };
        let arena = OwnArena::create(&options).unwrap();
        // A lie that nobody can see through: the word is its owner's.
        arena.life_word().store(0x1234, Ordering::Release);
        Stranger { channel, arena }
    }

    /// A connection that has been welcomed.
    fn member(directory: &Path) -> Stranger {
        let mut stranger = Stranger::connect(directory);
        let hello = stranger.hello(layout_hash());
        stranger.channel.send(&hello, Enclosed::Own(Arc::clone(&stranger.arena))).unwrap();
        assert!(matches!(stranger.hear(), Some(Control::Welcome { .. })));
        stranger
    }

    fn hello(&self, layout_hash: u64) -> Control {
        let (process, name) = (self.arena.process(), "stranger".to_owned());
        Control::Hello { layout_hash, process, pid: 1, name, monitored: false }
    }

    fn say(&mut self, message: &Control) {
        // Refused and hung up on already is as good as refused now.
        let _ = self.channel.send(message, Enclosed::Nothing);
    }

    /// Bytes and descriptors as they are; false if the holder has hung up.
    fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        rustix::net::sendmsg(&self.channel, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .is_ok()
    }

    /// The next message, or `None` after the hang-up.
    fn hear(&self) -> Option<Control> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            match self.channel.receive(&mut Vec::new()) {
                Ok(Received::Message(message, _)) => return Some(message),
                Err(ChannelError::HungUp) => return None,
                Ok(Received::Nothing) => {}
                Err(error) => panic!("the holder says nonsense: {error}"),
            }
            assert!(!deadline.expired(), "the holder neither answers nor hangs up");
            let timeout = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&timeout));
        }
    }

    /// The code of the refusal with which the connection ends.
    fn refused(&self) -> Option<Code> {
        let mut code = None;
        while let Some(message) = self.hear() {
            if let Control::Refused { code: number, .. } = message {
                code = Code::from_number(number);
            }
        }
        code
    }
}

/// A holder and a member that must not notice anything.
struct Bystanders {
    directory: std::path::PathBuf,
    holder: Process,
    member: Process,
    _scratch: Scratch,
}

impl Bystanders {
    fn new() -> Bystanders {
        let scratch = Scratch::new();
        let directory = run_directory(&scratch);
        let (holder, member) = (join(&directory, "holder"), join(&directory, "member"));
        Bystanders { directory, holder, member, _scratch: scratch }
    }

    fn check(&self) {
        assert!(self.holder.control.is_holder() && !self.member.control.is_holder());
        let (port, publishers) = self.member.subscribe("unharmed");
        assert_eq!(publishers, 0);
        let (publisher, matched) = self.holder.publish("unharmed");
        assert_eq!(matched, [self.member.process]);
        self.member.until_seated(port, 1);
        self.member.control.unsubscribe(port);
        self.holder.control.unpublish(publisher);
        let told = self.member.ports.told.lock().unwrap();
        assert!(told.gone.is_empty() && told.refused.is_empty(), "{told:?}");
    }
}

#[test]
fn random_datagrams_end_their_own_connection_only() {
    let bystanders = Bystanders::new();
    let mut random = fastrand::Rng::with_seed(26);
    for round in 0..200 {
        let stranger = Stranger::connect(&bystanders.directory);
        let size = random.usize(1..2_000);
        let bytes: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        assert!(stranger.send_raw(&bytes, &[]));
        assert_eq!(stranger.refused(), Some(Code::ProtocolBroken), "round {round}");
    }
    bystanders.check();
}

/// Any message of this kind with random content: its checksum is right, its sense is not.
fn nonsense(kind: ControlKind, random: &mut fastrand::Rng, process: ProcessId) -> Control {
    let id = |random: &mut fastrand::Rng| PortId(random.u64(0..4));
    let who = |random: &mut fastrand::Rng| if random.bool() { process } else { ProcessId(random.u64(..)) };
    let (port, subscription) = (id(random), id(random));
    let (publisher, subscriber) = (who(random), who(random));
    let (ring, row) = (RingIndex(random.u32(0..3)), RowIndex(random.u32(..)));
    let (generation, row_generation) = (Generation(random.u32(0..3)), Generation(random.u32(..)));
    let topic = Topic::new(["a", "b.c", "unharmed.not"][random.usize(0..3)]).unwrap();
    let (created_ns, policy) = (random.u64(..), Policy::Block);
    let (name, reason) = ("nonsense".to_owned(), "none".to_owned());
    match kind {
        ControlKind::Hello => {
            Control::Hello { layout_hash: layout_hash(), process: publisher, pid: 1, name, monitored: true }
        }
        ControlKind::Welcome => {
            Control::Welcome { process: publisher, pid: 1, name, budget_bytes: created_ns }
        }
        ControlKind::Refused => Control::Refused { code: 1, reason },
        ControlKind::Publish => {
            Control::Publish { port, topic, ring, generation, created_ns, relay: random.bool() }
        }
        ControlKind::Unpublish => Control::Unpublish { port },
        ControlKind::Published => Control::Published { port, matched: vec![publisher; 9] },
        ControlKind::Subscribe => {
            let pattern = Pattern::parse(["a", "b.>", "^b"][random.usize(0..3)]).unwrap();
            Control::Subscribe { port, pattern, policy, created_ns, export: random.bool() }
        }
        ControlKind::Unsubscribe => Control::Unsubscribe { port },
        ControlKind::Subscribed => Control::Subscribed { port, publishers: 1 },
        ControlKind::RingAdded => Control::RingAdded {
            subscription,
            process: publisher,
            port,
            topic,
            ring,
            generation,
            created_ns,
            ring_is_older: true,
        },
        ControlKind::Attach => Control::Attach {
            publisher,
            ring,
            generation,
            subscriber,
            subscription,
            row,
            row_generation,
            policy,
        },
        ControlKind::Attached => Control::Attached {
            publisher,
            ring,
            generation,
            subscriber,
            row,
            row_generation,
            seat: SeatIndex(7),
        },
        ControlKind::AttachRefused => {
            Control::AttachRefused { publisher, ring, generation, subscriber, row, row_generation, reason }
        }
        ControlKind::Gone => Control::Gone { process: publisher },
        ControlKind::Inspect => Control::Inspect {},
        ControlKind::Member => Control::Member { process: publisher, pid: 1, name },
        ControlKind::InspectEnd => Control::InspectEnd {},
        // A member may ask for the role; that is no nonsense, and `stories` has it.
        ControlKind::HandOver | ControlKind::Goodbye => Control::Goodbye {},
        ControlKind::Moving => Control::Moving { to: publisher },
        other => of_subscriptions(other, publisher, port, topic),
    }
}

/// What tells of subscriptions.
fn of_subscriptions(kind: ControlKind, process: ProcessId, port: PortId, topic: Topic) -> Control {
    let (pattern, policy) = (Pattern::Exact(topic), Policy::Block);
    match kind {
        ControlKind::Unmatched => Control::Unmatched { process, port, pattern, policy },
        ControlKind::Watch => Control::Watch {},
        ControlKind::Wanted => Control::Wanted { process, port, pattern, policy },
        ControlKind::Unwanted => Control::Unwanted { process, port },
        _ => Control::WatchEnd {},
    }
}

#[test]
fn valid_messages_without_sense_harm_nobody() {
    let bystanders = Bystanders::new();
    let mut random = fastrand::Rng::with_seed(52);
    let mut said = BTreeSet::new();
    for round in 0..300 {
        let greeted = random.u32(0..4) > 0;
        let connect = if greeted { Stranger::member } else { Stranger::connect };
        let mut stranger = connect(&bystanders.directory);
        for _ in 0..random.usize(1..30) {
            let kind = ControlKind::ALL[random.usize(0..ControlKind::ALL.len())];
            said.insert(kind);
            let message = nonsense(kind, &mut random, stranger.arena.process());
            stranger.say(&message);
        }
        if round % 100 == 0 {
            bystanders.check();
        }
    }
    assert_eq!(said.len(), ControlKind::ALL.len(), "every kind was said");
    bystanders.check();
}

#[test]
fn a_hello_with_wrong_descriptors_is_refused_with_a_reason() {
    let bystanders = Bystanders::new();
    let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    let unsealed = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&unsealed, 1 << 16).unwrap();
    let other =
        OwnArena::create(&ArenaOptions { name: "other".to_owned(), bytes_max: 1 << 30, monitored: false })
            .unwrap();
    let (file, unsealed) = (file.as_fd(), unsealed.as_fd());
    let cases = 10;
    for case in 0..cases {
        let stranger = Stranger::connect(&bystanders.directory);
        let own = Arc::clone(&stranger.arena);
        let (arena, bulk) = (own.arena_fd(), own.bulk_fd());
        let fds: Vec<BorrowedFd<'_>> = match case {
            0 => vec![],
            1 => vec![arena],
            2 => vec![bulk],
            3 => vec![file, bulk],
            4 => vec![unsealed, bulk],
            5 => vec![arena, unsealed],
            6 => vec![bulk, arena],
            7 => vec![arena, bulk, bulk],
            8 => vec![bulk; 9],
            _ => vec![other.arena_fd(), bulk],
        };
        let mut bytes = Vec::new();
        busway_wire::encode(&stranger.hello(layout_hash()), &mut bytes).unwrap();
        assert!(stranger.send_raw(&bytes, &fds));
        let expected = if case == 8 { Code::Descriptors } else { Code::SegmentRefused };
        assert_eq!(stranger.refused(), Some(expected), "case {case}");
    }
    bystanders.check();
}

#[test]
fn a_hello_of_another_layout_is_refused_as_such() {
    let bystanders = Bystanders::new();
    let mut stranger = Stranger::connect(&bystanders.directory);
    let hello = stranger.hello(layout_hash() ^ 1);
    stranger.channel.send(&hello, Enclosed::Own(Arc::clone(&stranger.arena))).unwrap();
    assert_eq!(stranger.refused(), Some(Code::LayoutDiffers));
    bystanders.check();
}

#[test]
fn a_member_cannot_take_the_id_of_another_process() {
    let bystanders = Bystanders::new();
    for process in [bystanders.holder.process, bystanders.member.process] {
        let mut stranger = Stranger::connect(&bystanders.directory);
        let name = "stranger".to_owned();
        let hello = Control::Hello { layout_hash: layout_hash(), process, pid: 1, name, monitored: false };
        stranger.channel.send(&hello, Enclosed::Own(Arc::clone(&stranger.arena))).unwrap();
        assert_eq!(stranger.refused(), Some(Code::SegmentRefused), "its arena says who it is");
    }
    bystanders.check();
}

#[test]
fn processes_that_pretend_to_live_do_not_pile_up() {
    let bystanders = Bystanders::new();
    for n in 0..600 {
        let mut stranger = Stranger::member(&bystanders.directory);
        stranger.say(&a_publish(n));
        assert!(matches!(stranger.hear(), Some(Control::Published { .. })));
    }
    let gone = |told: &super::Told| told.gone.len() >= 300;
    bystanders.holder.ports.until("the oldest count as gone", gone);
}

#[test]
fn only_its_life_word_says_that_a_process_is_gone() {
    let bystanders = Bystanders::new();
    for refers in [&bystanders.holder, &bystanders.member] {
        refers.ports.change(|told| told.refers = true);
        refers.publish("doubt");
    }
    let mut stranger = Stranger::member(&bystanders.directory);
    let process = stranger.arena.process();
    let (port, policy) = (PortId(1), Policy::Block);
    stranger.say(&Control::Subscribe {
        port,
        pattern: Pattern::parse("doubt").unwrap(),
        policy,
        created_ns: 1,
        export: false,
    });
    let mut met = 0;
    while met < 2 {
        let Some(Control::RingAdded { process: publisher, ring, generation, .. }) = stranger.hear() else {
            continue;
        };
        stranger.say(&Control::Attach {
            publisher,
            ring,
            generation,
            subscriber: process,
            subscription: port,
            row: RowIndex(met),
            row_generation: Generation(1),
            policy,
        });
        met += 1;
    }
    for publisher in [&bystanders.holder, &bystanders.member] {
        publisher.ports.until("it has no seat", |told| told.seats.iter().any(|(of, _)| *of == process));
    }
    // It leaves by its word, as a holder that is wrong or hostile would say of it, and lives on.
    stranger.say(&Control::Goodbye {});
    for publisher in [&bystanders.holder, &bystanders.member] {
        publisher.ports.until("the word is not told", |told| told.doubted == [process]);
        let ticks = publisher.ports.told.lock().unwrap().ticks;
        publisher.ports.until("no tick comes", |told| told.ticks > ticks + 1);
        assert_eq!(publisher.ports.told.lock().unwrap().gone, [], "it may read what it holds");
    }
    stranger.arena.life_word().store(busway_shm::life::OWNER_DIED, Ordering::Release);
    for publisher in [&bystanders.holder, &bystanders.member] {
        publisher.ports.until("its death is not told", |told| told.gone == [process]);
    }
}

/// What a stranger says of the claims of a ring, in the name of this publisher.
fn joined(publisher: ProcessId, subscriber: ProcessId, row: u32) -> Control {
    Control::Joined {
        publisher,
        ring: RingIndex(0),
        generation: Generation(1),
        subscriber,
        row: RowIndex(row),
        row_generation: Generation(1),
        seat: SeatIndex(0),
        offset: 4096,
        slots: 64,
        owner: 1,
    }
}

#[test]
fn a_place_in_a_group_comes_with_one_descriptor_and_from_who_has_the_ring() {
    let bystanders = Bystanders::new();
    let member = bystanders.member.process;
    let other = bystanders.holder.process;
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    for (count, in_whose_name) in [(0, None), (2, None), (3, None), (1, Some(other)), (1, Some(member))] {
        let stranger = Stranger::member(&bystanders.directory);
        let publisher = in_whose_name.unwrap_or(stranger.arena.process());
        let mut bytes = Vec::new();
        busway_wire::encode(&joined(publisher, member, 0), &mut bytes).unwrap();
        assert!(stranger.send_raw(&bytes, &vec![file.as_fd(); count]));
        assert_eq!(stranger.refused(), Some(Code::ProtocolBroken), "{count} descriptors, {in_whose_name:?}");
    }
    bystanders.check();
}

#[test]
fn nobody_pulls_for_a_group_of_the_bus_but_responders_do_for_theirs() {
    let bystanders = Bystanders::new();
    let pull = |name: Topic, acknowledge| Control::Pull {
        port: PortId(1),
        pattern: Pattern::parse("work").unwrap(),
        group: Group::new(name, acknowledge).unwrap(),
        export: false,
        created_ns: 1,
    };
    let acknowledged = Some(busway_wire::Acknowledge { within_ms: 1, attempts: 1 });
    for (name, acknowledge) in [("$mine", None), ("$responders.of", None), ("$responders", acknowledged)] {
        let mut stranger = Stranger::member(&bystanders.directory);
        stranger.say(&pull(Topic::reserved(name).unwrap(), acknowledge));
        assert_eq!(stranger.refused(), Some(Code::ReservedTopic), "{name} {acknowledge:?}");
    }
    let mut stranger = Stranger::member(&bystanders.directory);
    stranger.say(&pull(Topic::reserved("$responders").unwrap(), None));
    let answers = |heard: &Control| matches!(heard, Control::Subscribed { .. });
    assert!(std::iter::from_fn(|| stranger.hear()).any(|heard| answers(&heard)), "it may");
    bystanders.check();
}

#[test]
fn who_joins_a_group_does_so_for_itself_and_as_it_said_that_it_pulls() {
    let bystanders = Bystanders::new();
    let group = |name: &str| Group::new(Topic::new(name).unwrap(), None).unwrap();
    let mut stranger = Stranger::member(&bystanders.directory);
    let process = stranger.arena.process();
    let (port, created_ns) = (PortId(1), 1);
    let pattern = Pattern::parse("work").unwrap();
    stranger.say(&Control::Pull { port, pattern, group: group("g"), created_ns, export: false });
    let (publisher, ring, generation, row) = (process, RingIndex(0), Generation(1), RowIndex(0));
    let join = |subscriber: ProcessId, subscription: PortId, group: Group| Control::Join {
        publisher,
        ring,
        generation,
        subscriber,
        subscription,
        row,
        row_generation: Generation(1),
        group,
    };
    stranger.say(&Control::Push {
        port: PortId(2),
        topic: Topic::new("work").unwrap(),
        ring,
        generation,
        created_ns,
        only: None,
    });
    // It is the pusher as well: what is right comes back to it, another group than was said and a subscription that there is
    // not are refused.
    for (subscription, name, right) in [(port, "g", true), (port, "other", false), (PortId(9), "g", false)] {
        stranger.say(&join(process, subscription, group(name)));
        let answers = |heard: &Control| matches!(heard, Control::AttachRefused { .. } | Control::Join { .. });
        let answer = std::iter::from_fn(|| stranger.hear()).find(answers);
        assert_eq!(matches!(answer, Some(Control::Join { .. })), right, "{answer:?}");
    }
    stranger.say(&join(bystanders.member.process, port, group("g")));
    assert_eq!(stranger.refused(), Some(Code::ProtocolBroken));
    bystanders.check();
}

fn a_publish(n: u64) -> Control {
    let topic = Topic::new("pretend").unwrap();
    let (ring, generation) = (RingIndex(0), Generation(0));
    Control::Publish { port: PortId(n), topic, ring, generation, created_ns: 0, relay: false }
}

#[test]
fn silent_connections_are_bounded_and_do_not_keep_members_out() {
    let bystanders = Bystanders::new();
    let strangers: Vec<Stranger> = (0..300).map(|_| Stranger::connect(&bystanders.directory)).collect();
    let newcomer = join(&bystanders.directory, "newcomer");
    assert!(!newcomer.control.is_holder());
    bystanders.check();
    for stranger in &strangers {
        assert_eq!(
            stranger.refused(),
            Some(Code::ProtocolBroken),
            "each is closed, at the latest by its deadline"
        );
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
fn a_member_that_two_hundred_and_fifty_processes_ask_for_all_its_rings_at_once_is_asked_for_each_and_stays() {
    const ASKS: u32 = 250 * 8;
    let bystanders = Bystanders::new();
    let mut asked = Stranger::member(&bystanders.directory);
    let topic = Topic::new("busy").unwrap();
    let (ring, generation) = (RingIndex(0), Generation(0));
    let port = PortId(77);
    asked.say(&Control::Publish { port, topic, ring, generation, created_ns: 0, relay: false });
    assert!(matches!(asked.hear(), Some(Control::Published { .. })));
    // For the holder it is the same whether many ask for a few or one for many.
    let mut asker = Stranger::member(&bystanders.directory);
    let (subscription, policy) = (PortId(78), Policy::default());
    let pattern = Pattern::parse("busy").unwrap();
    asker.say(&Control::Subscribe { port: subscription, pattern, policy, created_ns: 1, export: false });
    let (publisher, subscriber) = (asked.arena.process(), asker.arena.process());
    let deadline = Deadline::after(PATIENCE);
    for row in 0..ASKS {
        let row_generation = Generation(0);
        let row = RowIndex(row);
        let ask = Control::Attach {
            publisher,
            ring,
            generation,
            subscriber,
            subscription,
            row,
            row_generation,
            policy,
        };
        asker.channel.send(&ask, Enclosed::Nothing).unwrap();
        while !asker.channel.is_empty() {
            asker.channel.flush().unwrap();
            assert!(!deadline.expired(), "the holder takes no more from who asks");
            std::thread::yield_now();
        }
    }
    // All of them wait now, for one that has not read any.
    bystanders.check();
    let mut rows = Vec::new();
    while rows.len() < ASKS as usize {
        match asked.hear() {
            Some(Control::Attach { row, .. }) => rows.push(row.0),
            Some(Control::Refused { reason, .. }) => panic!("it is disconnected: {reason}"),
            Some(_) => {}
            None => panic!("it is disconnected"),
        }
    }
    assert_eq!(rows, (0..ASKS).collect::<Vec<u32>>(), "each is asked for once, in order");
    println!("evidence: asked={ASKS} disconnected=0");
}

#[test]
fn a_member_that_reads_nothing_is_disconnected_and_others_go_on() {
    let bystanders = Bystanders::new();
    let mut stranger = Stranger::member(&bystanders.directory);
    let topic = Topic::new("flood").unwrap();
    let deadline = Deadline::after(PATIENCE);
    let publish = |n: u64| Control::Publish {
        port: PortId(n % 8),
        topic: topic.clone(),
        ring: RingIndex(u32::try_from(n % 8).unwrap()),
        generation: Generation(0),
        created_ns: 0,
        relay: false,
    };
    // Each is answered; the answers are never read.
    for n in 0.. {
        let sent =
            stranger.channel.flush().and_then(|()| stranger.channel.send(&publish(n), Enclosed::Nothing));
        match sent {
            Err(ChannelError::HungUp) => break,
            // Our own queue is full, because the holder is behind with other members.
            Ok(()) | Err(ChannelError::Overflow) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        assert!(!deadline.expired(), "the holder keeps answering after {n} messages");
    }
    bystanders.check();
}
