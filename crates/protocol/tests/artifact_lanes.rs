//! Words about artifacts on a link: their ranks, and that a message is of the kind of its topic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::sync::Arc;

use busway_protocol::{Batch, Closed, Config, Input, Link, Output, PeerError, PeerId, Session, Time};
use busway_wire::gossip::{kind_of, pattern, topics};
use busway_wire::limits::{LINK_ACKNOWLEDGE_MS, LINK_FRAGMENT_BYTES, LINK_LAZY_MS, LINK_SHARE_BYTES};
use busway_wire::link::{Accept, Announce, Frame, encode};
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Seed, Topic};

const CLUSTER: u64 = 0xc1;
const SEED: Seed = Seed(CLUSTER);
const NOW: Time = Time(1_000_000);

fn announce(source: u64, topic: &Topic) -> Announce {
    Announce {
        source: PortId(source),
        topic: topic.clone(),
        publisher: String::new(),
        process: String::new(),
        host: String::new(),
        created_ns: 0,
        reliable: false,
        resumes: false,
    }
}

/// The topic of each source: three lanes, and one that is published.
fn lanes() -> [Topic; 4] {
    let [advert, fetch, chunk] = topics();
    [advert, fetch, chunk, Topic::new("a.b").unwrap()]
}

fn say(session: &mut Session<Arc<[u8]>>, said: &Frame) -> Vec<Output> {
    let (mut bytes, mut outputs) = (Vec::new(), Vec::new());
    encode(said, SEED, &mut bytes).unwrap();
    session.receive(NOW, &bytes, &mut outputs);
    outputs
}

/// A session that is linked with a peer which is played by hand.
fn linked() -> Session<Arc<[u8]>> {
    let config = Config::new(CLUSTER, PeerId::Node { index: 0 }, 1);
    let peer = PeerId::Node { index: 1 };
    let mut session = Session::new(config.clone(), peer);
    session.connected(NOW, Link::dial(&config, peer, NOW), &mut Vec::new());
    say(&mut session, &Frame::Hello(Config::new(CLUSTER, peer, 1).hello));
    session
}

/// The same, whose sources the peer has accepted: the number of each is its place among the lanes, from 1.
fn flowing() -> Session<Arc<[u8]>> {
    let mut session = linked();
    for (source, topic) in (1..).zip(lanes()) {
        let announce = announce(source, &topic);
        session.handle(NOW, Input::Source { announce, next: 1 }, &mut Vec::new());
    }
    transmit(&mut session);
    for source in (1..=4).map(PortId) {
        let (passed, window_messages, window_bytes) = (None, 60_000, 1 << 30);
        say(&mut session, &Frame::Accept(Accept { source, passed, window_messages, window_bytes }));
    }
    session
}

fn publish(session: &mut Session<Arc<[u8]>>, source: u64, sequence: u64, size: usize) {
    let mut header = Header::new(Kind::Publish);
    header.topic.set(lanes()[source as usize - 1].id().0);
    header.source.set(source);
    header.sequence.set(sequence);
    header.size.set((HEADER_SIZE + size) as u32);
    let payload: Arc<[u8]> = vec![7; size].into();
    session.handle(NOW, Input::Publish { source: PortId(source), header, payload }, &mut Vec::new());
}

/// The messages of one batch, with what is before them in it.
fn transmit(session: &mut Session<Arc<[u8]>>) -> Vec<(Kind, usize)> {
    let mut left = frames(session);
    left.retain(|(kind, _)| kind.crosses_links());
    left
}

/// All frames of one batch.
fn frames(session: &mut Session<Arc<[u8]>>) -> Vec<(Kind, usize)> {
    let mut batch = Batch::new();
    session.transmit(NOW, &mut batch);
    let bytes: Vec<u8> = batch.pieces().flatten().copied().collect();
    let (mut left, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let head = |seed| Header::validate_head(&bytes[at..], seed);
        let header = head(SEED).or_else(|_| head(Seed(0))).unwrap();
        left.push((header.kind().unwrap(), at));
        at += header.size.get() as usize;
    }
    left
}

#[test]
fn who_has_what_goes_first_and_bytes_wait_for_all_else() {
    let mut session = flowing();
    for sequence in 1..=20 {
        publish(&mut session, 3, sequence, 16 << 10);
    }
    for sequence in 1..=4 {
        publish(&mut session, 4, sequence, 4 << 10);
        publish(&mut session, 2, sequence, 40);
    }
    publish(&mut session, 1, 1, 8 << 10);
    let left = transmit(&mut session);
    assert_eq!(left[0], (Kind::Advert, 0), "{left:?}");
    let first = |kind| left.iter().find(|(of, _)| *of == kind).unwrap().1;
    let last = |kind| left.iter().rfind(|(of, _)| *of == kind).unwrap().1;
    assert!(last(Kind::Publish).max(last(Kind::Fetch)) < first(Kind::Chunk), "{left:?}");
    // Chunks have begun, and most of them wait.
    publish(&mut session, 1, 2, 100);
    let left = transmit(&mut session);
    assert_eq!(left[0], (Kind::Advert, 0), "{left:?}");
    assert!(left.iter().any(|(kind, _)| *kind == Kind::Chunk), "what is first stops nobody: {left:?}");
    println!(
        "evidence: before an advert 0 bytes of 20 chunks, before a chunk {} bytes of {LINK_SHARE_BYTES}",
        first_of(&left)
    );
}

/// Into how many parts a chunk goes that is bulk and that a part has room for, behind a message of a source.
fn parts_of_a_chunk_behind(source: u64) -> usize {
    let mut session = flowing();
    publish(&mut session, source, 1, 40);
    publish(&mut session, 3, 1, 2 * LINK_FRAGMENT_BYTES);
    transmit(&mut session).iter().filter(|(kind, _)| *kind == Kind::Chunk).count()
}

#[test]
fn a_word_about_artifacts_cuts_no_chunk_and_a_message_of_others_does() {
    let [advert, fetch, message] = [1, 2, 4].map(parts_of_a_chunk_behind);
    assert_eq!([advert, fetch, message], [1, 1, 2]);
    println!("evidence: parts of a chunk behind a word {advert} and {fetch}, behind a message {message}");
}

fn first_of(left: &[(Kind, usize)]) -> usize {
    left.iter().find(|(kind, _)| *kind == Kind::Chunk).map_or(usize::MAX, |(_, at)| *at)
}

#[test]
fn a_message_of_another_kind_than_that_of_its_topic_ends_the_link() {
    for topic in lanes() {
        for kind in [Kind::Publish, Kind::Advert, Kind::Fetch, Kind::Chunk] {
            let mut session = linked();
            for pattern in [pattern(), "a.b".parse().unwrap()] {
                let id = u32::from(pattern.exact().is_some());
                session.handle(NOW, Input::Want { id, pattern, reliable: false }, &mut Vec::new());
            }
            let (source, mut outputs) = (PortId(9), say(&mut session, &Frame::Announce(announce(9, &topic))));
            assert!(matches!(outputs[..], [Output::OpenRelay { .. }]), "{outputs:?}");
            session.handle(NOW, Input::RelayOpened { source }, &mut outputs);
            transmit(&mut session);
            let mut header = Header::new(kind);
            header.topic.set(topic.id().0);
            header.source.set(source.0);
            header.sequence.set(1);
            header.seal_seeded(b"word", SEED).unwrap();
            let bytes = [header.bytes(), &b"word"[..]].concat();
            outputs.clear();
            let (_, delivery) = session.receive(NOW, &bytes, &mut outputs);
            assert_eq!(delivery.is_some(), kind == kind_of(&topic), "{kind} on {topic}");
            let refused = Closed::Peer(PeerError::Announcement { source });
            let closed = outputs
                .iter()
                .any(|output| matches!(output, Output::Close { reason, .. } if *reason == refused));
            assert_eq!(closed, kind != kind_of(&topic), "{kind} on {topic}: {outputs:?}");
        }
    }
}

/// A session that a word of each of these lanes has come to, of which nothing was acknowledged yet.
fn heard(lanes: &[Topic]) -> Session<Arc<[u8]>> {
    let mut session = linked();
    for (id, pattern) in [pattern(), "a.b".parse().unwrap()].into_iter().enumerate() {
        let id = u32::try_from(id).unwrap();
        session.handle(NOW, Input::Want { id, pattern, reliable: false }, &mut Vec::new());
    }
    for (source, topic) in (9..).map(PortId).zip(lanes) {
        let mut outputs = say(&mut session, &Frame::Announce(announce(source.0, topic)));
        session.handle(NOW, Input::RelayOpened { source }, &mut outputs);
        transmit(&mut session);
        let mut header = Header::new(kind_of(topic));
        header.topic.set(topic.id().0);
        header.source.set(source.0);
        header.sequence.set(1);
        header.seal_seeded(b"word", SEED).unwrap();
        let bytes = [header.bytes(), &b"word"[..]].concat();
        assert!(session.receive(NOW, &bytes, &mut outputs).1.is_some());
        session.handle(NOW, Input::Published { source, sequence: 1 }, &mut outputs);
        session.receive(NOW, &[], &mut outputs);
    }
    session
}

/// Kinds of the frames that go at this time.
fn at(session: &mut Session<Arc<[u8]>>, ms: u64) -> Vec<Kind> {
    session.handle(NOW.after_ms(ms), Input::Tick, &mut Vec::new());
    frames(session).into_iter().map(|(kind, _)| kind).collect()
}

#[test]
fn words_about_artifacts_are_acknowledged_all_together_and_late_for_nobody_waits() {
    let [advert, fetch, chunk, published] = lanes();
    let mut session = heard(&[advert.clone(), fetch, chunk]);
    assert_eq!(at(&mut session, LINK_LAZY_MS - 1), []);
    let told = at(&mut session, LINK_LAZY_MS);
    assert_eq!(told, [Kind::Credit, Kind::Accept, Kind::Accept, Kind::Accept], "in one write");
    // For what is published somebody may wait; what else there is goes with it.
    let mut session = heard(&[advert, published]);
    assert_eq!(at(&mut session, LINK_ACKNOWLEDGE_MS - 1), []);
    assert_eq!(at(&mut session, LINK_ACKNOWLEDGE_MS), [Kind::Accept, Kind::Accept]);
    println!("evidence: told in {LINK_LAZY_MS} ms, published in {LINK_ACKNOWLEDGE_MS} ms");
}

#[test]
fn who_asks_how_far_away_we_are_hears_what_has_come_with_the_answer() {
    let [advert, ..] = lanes();
    let mut session = heard(&[advert]);
    say(&mut session, &Frame::Ping { stamp: 5 });
    assert_eq!(at(&mut session, 0), [Kind::Pong, Kind::Credit, Kind::Accept]);
    assert_eq!(at(&mut session, 2 * LINK_LAZY_MS), [], "and not twice");
    println!("evidence: told=1 after=0 ms");
}

#[test]
fn a_link_that_drains_asks_until_it_knows_what_became_of_what_it_sent() {
    let mut session = flowing();
    publish(&mut session, 1, 1, 100);
    assert_eq!(transmit(&mut session).len(), 1);
    let mut outputs = Vec::new();
    session.handle(NOW, Input::Drain { reason: String::new() }, &mut outputs);
    for round in 0..3 {
        assert_eq!(at(&mut session, round * LINK_ACKNOWLEDGE_MS), [Kind::Ping], "{round}");
        let (due, _) = session.deadline().unwrap();
        assert_eq!(due, NOW.after_ms((round + 1) * LINK_ACKNOWLEDGE_MS));
    }
    let accept =
        Accept { source: PortId(1), passed: Some(1), window_messages: 60_000, window_bytes: 1 << 30 };
    let outputs = say(&mut session, &Frame::Accept(accept));
    let ended = |output: &Output| matches!(output, Output::Close { reason: Closed::Drained, .. });
    assert!(outputs.iter().any(ended), "{outputs:?}");
    println!("evidence: asked=3 waits=0");
}
