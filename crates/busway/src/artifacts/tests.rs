//! What a program that does not keep to the page can do at the hatch of a node.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Epoch, NodeIndex, Reference, SlotNumber};
use busway_shm::clock::Deadline;
use busway_wire::hatch::{self, Ask, Tell, decode_ask, decode_tell, encode, topic_alone, topic_of};
use busway_wire::limits::{
    HATCH_AHEAD_MAX, HATCH_NOTES_BYTES_MAX, HATCH_NOTES_MAX, HATCH_READERS_MAX, HATCH_SESSIONS_MAX,
    HATCH_TAKEN_MAX,
};
use busway_wire::{Context, Pattern, Topic};

use crate::artifacts::Event;
use crate::bus::Bus;
use crate::error::Code;
use crate::node::Node;
use crate::publisher::Beside;
use crate::requester::{Pending, Requester, RequesterBuilder};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node alone, and a program in its domain.
struct Stage {
    node: Option<Node>,
    of_node: Bus,
    program: Bus,
    path: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.node.take());
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn stage() -> Stage {
    stage_with(None)
}

/// The same with so many bytes of large artifacts.
fn stage_with(store_bytes: Option<u64>) -> Stage {
    let name = format!("busway-hatch-{}-{:x}", std::process::id(), fastrand::u64(..));
    let path = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    let join = || Bus::builder().directory(&path).domain("hatch").arena_bytes(1 << 30).open().unwrap();
    let (of_node, program) = (join(), join());
    let builder = Node::builder().index(0);
    let builder = match store_bytes {
        Some(bytes) => builder.artifact_store_bytes(bytes),
        None => builder,
    };
    let node = Some(builder.open(&of_node).unwrap());
    Stage { node, of_node, program, path }
}

/// What stands behind an open request.
struct Session {
    pending: Pending,
    number: u64,
    requester: Requester,
}

fn door(bus: &Bus) -> Requester {
    RequesterBuilder::of_bus(bus, topic_alone()).in_flight(1_024).open().unwrap()
}

fn open(bus: &Bus, door: &Requester) -> Session {
    let mut pending = door.send(&encode(&Ask::Open, &[]), Duration::MAX).unwrap();
    let reply = pending.recv_timeout(PATIENCE).unwrap().unwrap();
    let Ok((Tell::Opened { session, hatch }, _)) = decode_tell(&reply) else { panic!("{reply:?}") };
    let requester = RequesterBuilder::of_bus(bus, topic_of(hatch)).open().unwrap();
    Session { pending, number: session, requester }
}

fn ask(requester: &Requester, payload: &[u8]) -> Result<Tell, Code> {
    let reply = requester.request(payload, PATIENCE).unwrap();
    match decode_tell(&reply).unwrap().0 {
        Tell::Refused { code, .. } => Err(Code::from_number(code).unwrap()),
        tell => Ok(tell),
    }
}

/// What a request under way comes to.
fn answer(mut pending: Pending) -> Result<Tell, Code> {
    let reply = pending.recv_timeout(PATIENCE).unwrap().unwrap();
    match decode_tell(&reply).unwrap().0 {
        Tell::Refused { code, .. } => Err(Code::from_number(code).unwrap()),
        tell => Ok(tell),
    }
}

fn subscribe(session: u64, reader: u64, pattern: &str) -> Vec<u8> {
    let pattern = Pattern::parse(pattern).unwrap();
    let (judges, progress, arriving, only) = (false, false, false, None);
    encode(&Ask::Subscribe { session, reader, pattern, judges, progress, arriving, only }, &[])
}

fn offer(session: u64, offer: u64, topic: Topic, body: &[u8]) -> Vec<u8> {
    let (attribute, keep, reach_all_ms) = (vec![], false, None);
    encode(&Ask::Offer { session, offer, topic, attribute, keep, reach_all_ms }, body)
}

fn begin(session: u64, offer: u64, size: Option<u64>) -> Vec<u8> {
    let (topic, attribute, keep, reach_all_ms) = (Topic::new("a").unwrap(), vec![], false, None);
    encode(&Ask::Begin { session, offer, topic, attribute, size, keep, reach_all_ms }, &[])
}

#[test]
fn what_is_not_understood_or_not_allowed_is_refused_and_counted() {
    let stage = stage();
    let door = door(&stage.program);
    let session = open(&stage.program, &door);
    let own = stage.of_node.artifacts("a").unwrap();
    let before = own.counts().refused;
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = 0;
    for len in (0..500).map(|n| n % 100) {
        let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        for requester in [&door, &session.requester] {
            // Some bytes are a word, of a session that is not.
            refused += u64::from(ask(requester, &garbage).is_err());
        }
    }
    let number = session.number;
    let name = |name: &str| Topic::new(name).unwrap();
    assert_eq!(ask(&session.requester, &offer(number, 1, name("a"), b"x")).map(|_| ()), Ok(()));
    for (payload, code) in [
        (offer(number, 1, name("a"), b"y"), Code::ProtocolBroken),
        (begin(number, 1, None), Code::ProtocolBroken),
        (offer(number, 2, name("a"), &vec![0; 300 << 10]), Code::TooLarge),
        (offer(number, 2, hatch::topic(), b"y"), Code::ReservedTopic),
        (offer(number ^ 1, 2, name("a"), b"y"), Code::Closed),
        (begin(number ^ 1, 2, None), Code::Closed),
        (encode(&Ask::Read { session: number, held: 1, offset: 0, size: u32::MAX }, &[]), Code::BytesLost),
        (subscribe(number, 0, "a"), Code::ProtocolBroken),
        (subscribe(number, 1, "$artifacts"), Code::ReservedTopic),
        (subscribe(number, 1, "^$"), Code::ReservedTopic),
        (encode(&Ask::Open, &[]), Code::ProtocolBroken),
    ] {
        assert_eq!(ask(&session.requester, &payload).map(|_| ()), Err(code));
        refused += 1;
    }
    assert_eq!(ask(&door, &encode(&Ask::Counts, &[])).map(|_| ()), Err(Code::ProtocolBroken));
    assert_eq!(own.counts().refused - before, refused + 1);
    assert_eq!(own.list().unwrap().len(), 1);
    drop(session);
    println!("evidence: refused={} counted={}", refused + 1, own.counts().refused);
}

#[test]
fn sessions_and_subscribers_are_bounded_and_come_free_when_their_program_goes() {
    let stage = stage();
    let door_of = door(&stage.program);
    let mut held: Vec<Session> = Vec::new();
    let first = open(&stage.program, &door_of);
    for reader in 1..=HATCH_READERS_MAX as u64 {
        assert_eq!(ask(&first.requester, &subscribe(first.number, reader, "a")), Ok(Tell::Done));
    }
    let one_more = subscribe(first.number, HATCH_READERS_MAX as u64 + 1, "a");
    assert_eq!(ask(&first.requester, &one_more), Err(Code::Full));
    held.push(first);
    let mut pendings = Vec::new();
    for _ in 1..HATCH_SESSIONS_MAX {
        let mut pending = door_of.send(&encode(&Ask::Open, &[]), Duration::MAX).unwrap();
        let reply = pending.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(matches!(decode_tell(&reply), Ok((Tell::Opened { .. }, _))));
        pendings.push(pending);
    }
    assert_eq!(ask(&door_of, &encode(&Ask::Open, &[])), Err(Code::Full));
    assert_eq!(stage.program.artifacts("a").unwrap_err().code(), Code::Full);
    drop((held, pendings));
    let deadline = Deadline::after(PATIENCE);
    let artifacts = loop {
        match stage.program.artifacts("a") {
            Ok(artifacts) => break artifacts,
            Err(error) => assert!(error.code() == Code::Full && !deadline.expired(), "{error}"),
        }
    };
    assert!(artifacts.list().unwrap().is_empty());
    println!(
        "evidence: sessions={HATCH_SESSIONS_MAX} subscribers={HATCH_READERS_MAX} then_refused=3 then_free=yes"
    );
}

#[test]
fn who_never_takes_what_it_is_told_is_told_no_more_than_it_has_room_for_and_holds_up_nobody() {
    const OFFERS: u64 = 400;
    let stage = stage();
    let door = door(&stage.program);
    let mut session = open(&stage.program, &door);
    for reader in 1..=2 {
        assert_eq!(ask(&session.requester, &subscribe(session.number, reader, "a")), Ok(Tell::Done));
    }
    let own = stage.of_node.artifacts("a").unwrap();
    let mut other = stage.program.artifacts("a").unwrap().subscriber().open().unwrap();
    let mut offers = Vec::new();
    for number in 0..OFFERS {
        let body = [&number.to_le_bytes()[..], &[0; 40_000]].concat();
        offers.push(own.offer(&body).open().unwrap());
        let event = other.recv_timeout(PATIENCE).unwrap();
        let Some(Event::Received(artifact)) = event else { panic!("{event:?}") };
        assert_eq!(artifact.advert().id(), offers[number as usize].id());
    }
    // What lies in its lane is all that it was told.
    let (mut told, mut bytes) = ([0_u32; 3], [0_u64; 3]);
    while let Some(reply) = session.pending.recv_timeout(Duration::from_millis(300)).unwrap() {
        let Ok((Tell::Received { reader, .. }, body)) = decode_tell(&reply) else { panic!("{reply:?}") };
        told[reader as usize] += 1;
        bytes[reader as usize] += body.len() as u64;
    }
    for reader in 1..=2 {
        let bound = HATCH_NOTES_BYTES_MAX + 40_008;
        assert!(
            told[reader] > 0 && told[reader] <= HATCH_NOTES_MAX && bytes[reader] <= bound,
            "{told:?} {bytes:?}"
        );
    }
    // Who takes it is told the next.
    let took = Ask::Took { session: session.number, reader: 1, notes: told[1], bytes: bytes[1] };
    assert_eq!(ask(&session.requester, &encode(&took, &[])), Ok(Tell::Done));
    assert!(session.pending.recv_timeout(PATIENCE).unwrap().is_some());
    println!("evidence: offered={OFFERS} given_to_others={OFFERS} told={} bytes={}", told[1], bytes[1]);
}

#[test]
fn what_is_begun_and_not_ended_is_bounded_and_offers_nothing() {
    let stage = stage();
    let door = door(&stage.program);
    let session = open(&stage.program, &door);
    let part = |offer, bytes: &[u8]| encode(&Ask::Body { session: session.number, offer }, bytes);
    for offer in 1..=HATCH_TAKEN_MAX as u64 {
        assert_eq!(ask(&session.requester, &begin(session.number, offer, None)), Ok(Tell::Done));
    }
    let mut refused = 0;
    for offer in 100..10_100 {
        refused += u64::from(ask(&session.requester, &begin(session.number, offer, None)) == Err(Code::Full));
    }
    assert_eq!(refused, 10_000);
    // Of a size that nobody has room for, and of one that is not so.
    let withdraw = |offer| encode(&Ask::Withdraw { session: session.number, offer }, &[]);
    assert_eq!(ask(&session.requester, &withdraw(1)), Ok(Tell::Done));
    // Before the first part.
    let deadline = Deadline::after(PATIENCE);
    while ask(&session.requester, &begin(session.number, 1_001, Some(1 << 40))) != Err(Code::TooLarge) {
        assert!(!deadline.expired(), "its thread has ended");
    }
    let begun = || ask(&session.requester, &begin(session.number, 1_002, Some(300 << 10)));
    while begun() != Ok(Tell::Done) {
        assert!(!deadline.expired(), "its thread has ended");
    }
    let asked: Vec<Pending> = (0..2)
        .map(|_| session.requester.send(&part(1_002, &vec![7; 300 << 10]), PATIENCE).unwrap())
        .collect();
    // Each is answered, and what comes behind it too.
    let mut codes: Vec<_> = asked.into_iter().map(answer).collect();
    codes.push(ask(&session.requester, &part(1_002, b"more")));
    codes.push(ask(&session.requester, &encode(&Ask::Commit { session: session.number, offer: 1_002 }, &[])));
    let broken = Err(Code::ProtocolBroken);
    assert_eq!(codes, [Ok(Tell::Done), broken.clone(), broken.clone(), broken]);
    assert_eq!(ask(&session.requester, &withdraw(1_002)), Ok(Tell::Done));
    assert!(stage.of_node.artifacts(">").unwrap().list().unwrap().is_empty());
    drop(session);
    // All of its threads end with it.
    let deadline = Deadline::after(PATIENCE);
    let again = open(&stage.program, &door);
    while ask(&again.requester, &begin(again.number, 1, None)) != Ok(Tell::Done) {
        assert!(!deadline.expired(), "what was begun ends with its session");
    }
    println!("evidence: begun={HATCH_TAKEN_MAX} refused={refused} offered=0");
}

#[test]
fn who_is_there_keeps_nothing_of_its_memory_held_at_the_node() {
    const SESSIONS: usize = 200;
    let stage = stage();
    let door = door(&stage.program);
    let state = "a=".to_owned() + &"b".repeat(200);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let context = Context::default().with_trace(trace).with_state(&state).unwrap();
    let mut open = Vec::new();
    for _ in 0..SESSIONS {
        let beside = Beside::Context(context);
        let asked = door.send_beside(&beside, &encode(&Ask::Open, &[]), Duration::MAX);
        let mut pending = asked.unwrap();
        let reply = pending.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(matches!(decode_tell(&reply), Ok((Tell::Opened { .. }, _))));
        open.push(pending);
    }
    let (held, high) = stage.of_node.held();
    assert!(held <= 1 && high >= 1, "held={held} high={high}");
    println!("evidence: sessions={SESSIONS} held={held}");
}

#[test]
fn parts_that_wait_hold_nothing_of_who_sent_them_and_hold_up_no_other() {
    let stage = stage();
    let door = door(&stage.program);
    let (first, second) = (open(&stage.program, &door), open(&stage.program, &door));
    let store = stage.of_node.artifacts("a").unwrap().calls.store.clone();
    let mut asked = Vec::new();
    store.while_held_up(|| {
        for offer in 1..=HATCH_TAKEN_MAX as u64 {
            assert_eq!(ask(&first.requester, &begin(first.number, offer, None)), Ok(Tell::Done));
            for _ in 0..=HATCH_AHEAD_MAX {
                let body = encode(&Ask::Body { session: first.number, offer }, &vec![7; 1 << 20]);
                asked.push(first.requester.send(&body, PATIENCE).unwrap());
            }
        }
        for _ in 0..100 {
            let took = Ask::Took { session: second.number, reader: 0, notes: 0, bytes: 0 };
            assert_eq!(ask(&second.requester, &encode(&took, &[])), Ok(Tell::Done));
        }
        assert!(stage.of_node.held().0 <= 1, "{:?}", stage.of_node.held());
    });
    let waited = asked.len();
    let answers: Vec<_> = asked.into_iter().map(answer).collect();
    // One more than may wait is in hand, or was refused.
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Tell::Done) | Err(Code::Full))), "{answers:?}");
    println!("evidence: waited={waited} held=0 answered_meanwhile=100");
}

#[test]
fn what_comes_and_says_nothing_of_its_size_has_no_more_than_the_store() {
    const PART: usize = 1 << 19;
    let stage = stage_with(Some(8 << 20));
    let door = door(&stage.program);
    let session = open(&stage.program, &door);
    let (mut taken, mut full) = (0, 0);
    for offer in 1..=HATCH_TAKEN_MAX as u64 {
        assert_eq!(ask(&session.requester, &begin(session.number, offer, None)), Ok(Tell::Done));
        let mut of_it = 0;
        for _ in 0..10 {
            let body = encode(&Ask::Body { session: session.number, offer }, &vec![7; PART]);
            match ask(&session.requester, &body) {
                Ok(Tell::Done) => of_it += PART,
                // What came of it is let go, and what comes behind is told the same.
                Err(Code::Full) => (of_it, full) = (0, full + 1),
                other => panic!("{other:?}"),
            }
        }
        taken += of_it;
    }
    // Each may have parts that were read, and for which no room was asked yet.
    assert!(taken <= (8 << 20) + 2 * PART && full > 0, "taken={taken} full={full}");
    println!("evidence: bytes_max={} taken={taken} refused={full}", 8 << 20);
}

#[test]
fn what_was_given_up_before_it_stood_never_stands() {
    let stage = stage();
    let door = door(&stage.program);
    let session = open(&stage.program, &door);
    let own = stage.of_node.artifacts(">").unwrap();
    let store = own.calls.store.clone();
    let number = session.number;
    for offer in 1..=10 {
        assert_eq!(ask(&session.requester, &begin(number, offer, Some(600 << 10))), Ok(Tell::Done));
        let commit = store.while_held_up(|| {
            for _ in 0..2 {
                let body = encode(&Ask::Body { session: number, offer }, &vec![offer as u8; 300 << 10]);
                assert_eq!(ask(&session.requester, &body), Ok(Tell::Done));
            }
            let commit = encode(&Ask::Commit { session: number, offer }, &[]);
            let commit = session.requester.send(&commit, PATIENCE).unwrap();
            let withdraw = encode(&Ask::Withdraw { session: number, offer }, &[]);
            assert_eq!(ask(&session.requester, &withdraw), Ok(Tell::Done));
            commit
        });
        assert_eq!(answer(commit), Err(Code::ProtocolBroken));
    }
    assert!(own.list().unwrap().is_empty());
    println!("evidence: given_up=10 offered=0");
}

#[test]
fn who_answers_in_the_place_of_a_node_changes_no_artifact() {
    const LARGE: usize = 400_000;
    let path = std::env::temp_dir().join(format!("busway-hatch-{:x}", fastrand::u64(..)));
    std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    let join = || Bus::builder().directory(&path).domain("hatch").open().unwrap();
    let (of_liar, program) = (join(), join());
    let (right, large) = (b"right".to_vec(), vec![1; LARGE]);
    let mut door = of_liar.responder(hatch::topic().as_str()).open_reserved().unwrap();
    let mut clerk = of_liar.responder(topic_of(1).as_str()).open_reserved().unwrap();
    let ids = [ArtifactId::of(&right), ArtifactId::of(&large)];
    let liar = std::thread::spawn(move || {
        let mut open = door.recv().unwrap();
        open.reply_part(&encode(&Tell::Opened { session: 1, hatch: 1 }, &[])).unwrap();
        while let Ok(request) = clerk.recv() {
            let asked = decode_ask(&request).unwrap().0;
            let (word, bytes) = match asked {
                Ask::Read { size, .. } => (Tell::Bytes, vec![2; size as usize]),
                _ => (Tell::Done, vec![]),
            };
            request.reply(&encode(&word, &bytes)).unwrap();
            if let Ask::Subscribe { reader, only: Some(id), .. } = asked {
                let (held, size, bytes) =
                    if id == ids[0] { (0, 5, &b"wrong"[..]) } else { (7, LARGE as u64, &[][..]) };
                let of = Reference { node: NodeIndex(0), epoch: Epoch(1), slot: SlotNumber(0), version: 1 };
                let (topic, attribute, confirm) = (Topic::new("a").unwrap(), vec![], false);
                let advert = hatch::Advert { of, topic, id, size, attribute, confirm };
                open.reply_part(&encode(&Tell::Received { reader, advert, held }, bytes)).unwrap();
            }
            if matches!(asked, Ask::Close { .. }) {
                return;
            }
        }
    });
    let artifacts = program.artifacts("a").unwrap();
    let small = artifacts.fetch(ids[0], Duration::from_millis(300)).unwrap_err();
    assert_eq!(small.code(), Code::TimedOut);
    let held = artifacts.fetch(ids[1], PATIENCE).unwrap();
    assert_eq!(held.bytes().unwrap_err().code(), Code::BytesLost);
    let saved = path.join("saved");
    assert_eq!(held.save(&saved).unwrap_err().code(), Code::BytesLost);
    assert!(!saved.exists());
    let read = std::io::copy(&mut held.reader(), &mut std::io::sink()).unwrap_err();
    assert!(read.to_string().contains("another artifact"), "{read}");
    drop((held, artifacts));
    liar.join().unwrap();
    let _ = std::fs::remove_dir_all(&path);
    println!("evidence: small=dropped bytes=BUS-0416 save=BUS-0416 reader=BUS-0416");
}
