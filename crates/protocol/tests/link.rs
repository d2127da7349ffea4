//! Links against a peer that a test plays by hand: handshakes, refusals, deadlines, credit, and what nobody may say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/frames.rs"]
mod frames;

use std::sync::Arc;

use busway_protocol::{Batch, Closed, Config, Event, Framer, Link, PeerError, PeerId, State, Step, Time};
use busway_wire::limits::{LINK_HANDSHAKE_MS, LINK_IDLE_MS, LINK_PARTIAL_MS, LINK_PING_MS};
use busway_wire::link::{Frame, Gap, Hello, Refusal, RefusalCode, Retire, decode, encode};
use busway_wire::{Cause, DecodeError, HEADER_SIZE, Header, Kind, PortId, Seed, VERSION};
use frames::{every_frame, frame, message};

const CLUSTER: u64 = 0xc1;
const SEED: Seed = Seed(CLUSTER);

type Payload = Arc<[u8]>;
type Make = fn() -> Link<Payload>;

fn config(index: u8) -> Config {
    Config::new(CLUSTER, PeerId::Node { index }, u64::from(index))
}

fn at(ms: u64) -> Time {
    Time(0).after_ms(ms)
}

/// What a link has to write, as frames of the peer's reading.
fn written(link: &mut Link<Payload>, now: Time) -> Vec<Frame> {
    let mut batch = Batch::new();
    link.transmit(now, &mut batch);
    let bytes: Vec<u8> = batch.pieces().flatten().copied().collect();
    read(&bytes)
}

fn read(bytes: &[u8]) -> Vec<Frame> {
    let (mut framer, mut frames, mut at) = (Framer::new(SEED), Vec::new(), 0);
    while let Step::Frame { consumed, header, body } = framer.next(&bytes[at..]).unwrap() {
        frames.push(decode(&header, body).unwrap());
        at += consumed;
    }
    assert_eq!(at, bytes.len());
    frames
}

fn hello(index: u8) -> Frame {
    Frame::Hello(config(index).hello)
}

/// A link in each state in which bytes of the peer are looked at.
fn dialed() -> Link<Payload> {
    let mut link = Link::dial(&config(0), PeerId::Node { index: 1 }, at(0));
    assert_eq!(written(&mut link, at(0)), [hello(0)]);
    link
}

fn established() -> Link<Payload> {
    let mut link = dialed();
    let bytes = frame(&hello(1));
    assert!(matches!(link.receive(at(1), &bytes), Ok((_, Some(Event::Hello(_))))));
    assert_eq!(*link.state(), State::Established);
    link
}

fn draining() -> Link<Payload> {
    let mut link = established();
    link.drain(at(1));
    assert_eq!(*link.state(), State::Draining);
    link
}

/// The refusal that a link has for the peer, and nothing else.
fn refusal(link: &mut Link<Payload>) -> Refusal {
    match written(link, at(2)).as_slice() {
        [Frame::Refusal(refusal)] => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_say_hello_and_the_listener_only_when_it_knows_to_whom() {
    let mut dialer = dialed();
    let mut listener: Link<Payload> = Link::accept(&config(1), at(0));
    assert!(!listener.has_output() && written(&mut listener, at(0)).is_empty());
    let mut bytes = frame(&hello(0));
    let hello_bytes = bytes.len();
    bytes.extend(frame(&Frame::Ping { stamp: 1 }));
    let (consumed, event) = listener.receive(at(1), &bytes).unwrap();
    assert!(matches!(event, Some(Event::Hello(hello)) if hello.identity == PeerId::Node { index: 0 }));
    assert_eq!((consumed, listener.state()), (hello_bytes, &State::Greeted));
    assert_eq!(listener.receive(at(1), &bytes[consumed..]).unwrap().0, 0, "not before it is answered");
    listener.welcome(at(1));
    assert_eq!(listener.state(), &State::Established);
    assert_eq!(written(&mut listener, at(1)), [hello(1)]);
    dialer.receive(at(1), &frame(&hello(1))).unwrap();
    assert_eq!(dialer.state(), &State::Established);
    listener.receive(at(1), &bytes[consumed..]).unwrap();
    assert_eq!(written(&mut listener, at(1)), [Frame::Pong { stamp: 1 }]);
}

#[test]
fn a_handshake_has_one_deadline_however_slowly_its_bytes_come() {
    let hello = frame(&hello(0));
    for bytes_a_tick in [0, 1] {
        for mut link in [
            Link::<Payload>::accept(&config(1), at(0)),
            Link::dial(&config(1), PeerId::Node { index: 0 }, at(0)),
        ] {
            let _ = written(&mut link, at(0));
            let (mut have, mut closed) = (0, None);
            for ms in (0..LINK_HANDSHAKE_MS + 20).step_by(20) {
                have = (have + bytes_a_tick).min(hello.len() - 1);
                if closed.is_none() {
                    assert_eq!(link.receive(at(ms), &hello[..have]).unwrap().0, 0);
                    assert_eq!(link.deadline().unwrap().0, at(LINK_HANDSHAKE_MS));
                    closed = link.tick(at(ms)).err().map(|closed| (ms, closed));
                }
            }
            assert_eq!(closed, Some((LINK_HANDSHAKE_MS, Closed::Handshake)));
            assert_eq!(refusal(&mut link).code, RefusalCode::Timeout);
        }
    }
}

#[test]
fn another_version_is_refused_with_a_reason_that_either_can_read() {
    let mut header = Header::new(Kind::Hello);
    header.hops_version = (VERSION + 1) << 4;
    let body = &frame(&hello(0))[HEADER_SIZE..];
    header.seal_seeded(body, Seed::LOCAL).unwrap();
    let mut link: Link<Payload> = Link::accept(&config(1), at(0));
    let closed = link.receive(at(1), &[header.bytes(), body].concat()).unwrap_err();
    let error = PeerError::Decode(DecodeError::Version { version: VERSION + 1 });
    assert_eq!(closed, Closed::Peer(error));
    let told = refusal(&mut link);
    assert_eq!(told.code, RefusalCode::Version);
    assert!(told.reason.contains("version 2") && told.reason.contains("version 1"), "{}", told.reason);
    // The other way: the peer of another version refuses us, in its version.
    let bytes = frame(&Frame::Refusal(told.clone()));
    let mut header = Header::new(Kind::Refusal);
    header.hops_version = (VERSION + 1) << 4;
    header.seal_seeded(&bytes[HEADER_SIZE..], Seed::LOCAL).unwrap();
    let bytes = [header.bytes(), &bytes[HEADER_SIZE..]].concat();
    assert_eq!(dialed().receive(at(1), &bytes).unwrap_err(), Closed::Refused(told));
}

#[test]
fn another_cluster_and_another_identity_are_refused_with_a_reason_that_the_peer_reads() {
    let mut other = config(0);
    other.hello.cluster = 0xdead;
    let mut listener: Link<Payload> = Link::accept(&config(1), at(0));
    let closed = listener.receive(at(1), &frame(&Frame::Hello(other.hello.clone()))).unwrap_err();
    assert_eq!(closed, Closed::Peer(PeerError::Cluster { theirs: 0xdead, ours: CLUSTER }));
    let told = refusal(&mut listener);
    assert_eq!(told.code, RefusalCode::Cluster);
    assert!(told.reason.contains("dead") && told.reason.contains("c1"), "{}", told.reason);
    let mut dialer: Link<Payload> = Link::dial(&other, PeerId::Node { index: 1 }, at(0));
    let closed = dialer.receive(at(1), &frame(&Frame::Refusal(told.clone()))).unwrap_err();
    assert_eq!(closed, Closed::Refused(told));
    // Who answers is not who was called.
    let mut dialer = dialed();
    let closed = dialer.receive(at(1), &frame(&hello(7))).unwrap_err();
    let (theirs, expected) = (PeerId::Node { index: 7 }, PeerId::Node { index: 1 });
    assert_eq!(closed, Closed::Peer(PeerError::Identity { theirs, expected }));
    assert_eq!(refusal(&mut dialer).code, RefusalCode::Identity);
}

#[test]
fn a_frame_of_another_cluster_behind_the_handshake_is_refused() {
    let mut bytes = Vec::new();
    encode(&Frame::Ping { stamp: 1 }, Seed(0xdead), &mut bytes).unwrap();
    let mut link = established();
    let closed = link.receive(at(2), &bytes).unwrap_err();
    assert_eq!(closed, Closed::Peer(PeerError::Decode(DecodeError::Checksum)));
    assert_eq!(refusal(&mut link).code, RefusalCode::Protocol);
}

#[test]
fn every_kind_in_every_state_is_taken_or_refused_with_a_reason() {
    let mut tried = 0;
    let states: [(&str, Make); 4] = [
        ("greeting, dialed", dialed),
        ("greeting, accepted", || Link::accept(&config(1), at(0))),
        ("established", established),
        ("draining", draining),
    ];
    for (name, make) in states {
        let greeting = name.starts_with("greeting");
        for (kind, bytes) in every_frame() {
            let mut link = make();
            let result = link.receive(at(2), &bytes).map(|(_, event)| event.is_some());
            let what = format!("{kind} in {name}: {result:?}");
            match kind {
                Kind::Refusal => assert!(matches!(result, Err(Closed::Refused(_))), "{what}"),
                Kind::Hello if greeting => assert_eq!(result, Ok(true), "{what}"),
                Kind::Goodbye if !greeting => {
                    assert!(matches!(result, Err(Closed::Goodbye { .. })), "{what}")
                }
                Kind::Ping | Kind::Pong | Kind::Credit if !greeting => {
                    assert_eq!(result, Ok(false), "{what}")
                }
                Kind::Hello => {
                    assert_eq!(result, Err(Closed::Peer(PeerError::Unexpected { kind })), "{what}");
                    assert_eq!(refusal(&mut link).code, RefusalCode::Protocol, "{what}");
                }
                _ if !greeting => assert_eq!(result, Ok(true), "{what}"),
                _ => {
                    assert_eq!(result, Err(Closed::Peer(PeerError::Unexpected { kind })), "{what}");
                    assert_eq!(refusal(&mut link).code, RefusalCode::Protocol, "{what}");
                }
            }
            // At its end a link takes nothing more and says nothing more.
            if let State::Closed(closed) = link.state().clone() {
                assert_eq!(link.receive(at(3), &bytes).unwrap_err(), closed, "{what}");
                assert!(written(&mut link, at(3)).is_empty() && !link.has_output(), "{what}");
                assert_eq!(link.tick(at(99_000)).unwrap_err(), closed);
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 4 * 13);
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up_with_a_reason() {
    let mut link = established();
    let mut pings = 0;
    for ms in 1..LINK_IDLE_MS {
        assert_eq!(link.tick(at(ms)), Ok(()), "{ms}");
        pings += written(&mut link, at(ms)).len() as u64;
    }
    assert_eq!(pings, LINK_IDLE_MS / LINK_PING_MS - 1);
    assert_eq!(link.tick(at(LINK_IDLE_MS + 1)), Err(Closed::Silent));
    assert_eq!(refusal(&mut link).code, RefusalCode::Timeout);
    // One that answers is not.
    let mut link = established();
    for ms in (100..60_000).step_by(100) {
        assert_eq!(link.tick(at(ms)), Ok(()));
        for ping in written(&mut link, at(ms)) {
            let Frame::Ping { stamp } = ping else { panic!("{ping:?}") };
            link.receive(at(ms + 30), &frame(&Frame::Pong { stamp })).unwrap();
        }
    }
    assert_eq!(link.stats().round_trip_ns, 30_000_000);
}

#[test]
fn a_frame_that_begins_and_does_not_end_is_cut_off_though_bytes_keep_coming() {
    let bytes = message(&message_header(1), &[7; 9_000]);
    let large = message(&message_header(1), &[7; 40_000]);
    for bytes in [bytes, large] {
        let mut link = established();
        let (mut have, mut at_ms, mut done) = (0, 2, 0);
        let closed = loop {
            have += 1;
            at_ms += 100;
            done += link.receive(at(at_ms), &bytes[done..have]).unwrap().0;
            if let Err(closed) = link.tick(at(at_ms)) {
                break closed;
            }
        };
        assert_eq!((closed, at_ms), (Closed::Partial, 102 + LINK_PARTIAL_MS));
    }
}

fn message_header(sequence: u64) -> Header {
    let mut header = Header::new(Kind::Publish);
    header.source.set(9);
    header.sequence.set(sequence);
    header
}

/// An established link to a peer that was granted this.
fn granting(messages: u64, bytes: u64) -> Link<Payload> {
    let mut config = config(0);
    (config.hello.credit_messages, config.hello.credit_bytes) = (messages, bytes);
    let mut link = Link::dial(&config, PeerId::Node { index: 1 }, at(0));
    let _ = written(&mut link, at(0));
    link.receive(at(1), &frame(&hello(1))).unwrap();
    link
}

#[test]
fn more_than_was_granted_is_refused_and_one_message_larger_than_all_goes_alone() {
    let send = |link: &mut Link<Payload>, sequence: u64, size: usize| {
        let bytes = message(&message_header(sequence), &vec![1; size]);
        link.receive(at(2), &bytes).map(|_| ())
    };
    let refused = Err(Closed::Peer(PeerError::Credit { source: PortId(9) }));
    let mut link = granting(3, 1_000);
    for sequence in 1..=3 {
        assert_eq!(send(&mut link, sequence, 10), Ok(()));
    }
    assert_eq!(send(&mut link, 4, 10), refused);
    let mut link = granting(3, 1_000);
    assert_eq!(send(&mut link, 1, 600), Ok(()));
    assert_eq!(send(&mut link, 2, 600), refused);
    let mut link = granting(3, 1_000);
    assert_eq!(send(&mut link, 1, 5_000), Ok(()), "alone");
    assert_eq!(send(&mut link, 2, 0), refused, "nothing is left before it is consumed");
    let mut link = granting(3, 1_000);
    assert_eq!(send(&mut link, 0, 1), Err(Closed::Peer(PeerError::Order { source: PortId(9) })));
}

#[test]
fn a_credit_that_takes_back_or_grants_what_was_never_used_is_refused() {
    let Hello { credit_messages: messages, credit_bytes: bytes, .. } = config(1).hello;
    let mut refused = 0;
    for (more_messages, more_bytes, received) in [(-1, 0, 0), (0, -1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] {
        let mut link = established();
        let messages = messages.checked_add_signed(more_messages).unwrap();
        let bytes = bytes.checked_add_signed(more_bytes).unwrap();
        let credit = Frame::Credit(busway_wire::link::Credit { messages, bytes, received });
        let closed = link.receive(at(2), &frame(&credit)).unwrap_err();
        assert_eq!(closed, Closed::Peer(PeerError::Acknowledgement { source: None }));
        refused += 1;
    }
    assert_eq!(refused, 5);
}

#[test]
fn parts_that_do_not_follow_each_other_are_refused() {
    use frames::part;
    let good = [part(1, 0, 300, 100), part(1, 100, 300, 100), part(1, 200, 300, 100)];
    let mut link = established();
    let (mut events, bytes) = (Vec::new(), good.concat());
    let mut done = 0;
    while let (consumed, Some(event)) = link.receive(at(2), &bytes[done..]).unwrap() {
        done += consumed;
        events.push(match event {
            Event::Begin { header, .. } => format!("begin {}", header.size.get()),
            Event::Bytes { bytes, .. } => format!("{}", bytes.len()),
            Event::End { .. } => "end".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(events, ["begin 364", "100", "100", "100", "end"]);
    let refused = Closed::Peer(PeerError::Part { source: PortId(9) });
    let whole = message(&message_header(2), b"x");
    let gap = Gap { source: PortId(9), from: 2, to: 3, cause: Cause::Lapped, link: String::new() };
    let end = Retire { source: PortId(9), last: 1 };
    let bad: [Vec<Vec<u8>>; 10] = [
        vec![part(1, 100, 300, 100)],
        vec![part(1, 0, 300, 100), part(1, 200, 300, 100)],
        vec![part(1, 0, 300, 100), part(1, 100, 301, 100)],
        vec![part(1, 0, 300, 100), part(2, 100, 300, 100)],
        vec![part(1, 0, 300, 100), part(2, 0, 300, 100)],
        vec![part(1, 0, 300, 301)],
        vec![part(1, 0, 300, 0)],
        vec![part(1, 0, 300, 100), whole],
        vec![part(1, 0, 300, 100), frame(&Frame::Gap(gap))],
        vec![part(1, 0, 300, 100), frame(&Frame::Retire(end))],
    ];
    for frames in bad {
        let mut link = established();
        let bytes = frames.concat();
        let mut done = 0;
        let closed = loop {
            match link.receive(at(2), &bytes[done..]) {
                Ok((consumed, event)) => {
                    assert!(event.is_some(), "all was taken");
                    done += consumed;
                }
                Err(closed) => break closed,
            }
        };
        assert_eq!(closed, refused);
    }
}
