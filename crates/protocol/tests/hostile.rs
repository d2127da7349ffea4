//! A peer that says anything with valid checksums: what it may not is refused or dropped and counted, memory stays
//! in its bounds, and nobody panics.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/frames.rs"]
#[expect(dead_code, reason = "it serves another test as well, which uses the rest")]
mod frames;
#[path = "rig/hosts.rs"]
#[expect(dead_code, reason = "it serves another test as well, which uses the rest")]
mod hosts;

use std::sync::Arc;

use busway_protocol::{Closed, Input, Link, PeerError, Time};
use busway_wire::limits::{LINK_ENDED_SOURCES_MAX, LINK_SOURCES_MAX};
use busway_wire::link::{Accept, Announce, Credit, Frame, Gap, Interest, Retire, Wanted};
use busway_wire::{Cause, HEADER_SIZE, Header, Kind, Pattern, PortId, Run, Seed, Topic};
use frames::{frame, message, part};
use hosts::{Entry, Host, Net, flat, node};

/// A host with a small window whose peer is played by hand, once both have said hello.
fn victim() -> Host {
    let mut host = Host::new(0, 1, |config| {
        config.hello.window_messages = 4;
        config.hello.window_bytes = 2_000;
        config.hello.credit_messages = 10;
        config.hello.credit_bytes = 5_000;
        config.hello.message_bytes_max = 3_000;
    });
    host.want(1, "a.>", false);
    host.ring(77, "b.c", true, 8);
    host.handle(Time(0), Input::Tick);
    connect(&mut host, 5);
    host
}

/// The peer's start of this number says hello.
fn connect(host: &mut Host, instance: u64) {
    let link = Link::dial(&host.config, node(1), Time(0));
    let mut out = Vec::new();
    host.session.connected(Time(0), link, &mut out);
    let hello = busway_protocol::Config::new(hosts::CLUSTER, node(1), instance).hello;
    say(host, &frame(&Frame::Hello(hello)));
    assert!(host.closed.is_empty());
}

/// The peer says these bytes.
fn say(host: &mut Host, bytes: &[u8]) {
    let now = Time(1_000_000);
    host.receive(now, bytes);
    host.carry_out(now);
    host.session.transmit(now, &mut host.batch);
    host.batch.clear();
}

fn announce(source: u64, topic: &str) -> Frame {
    Frame::Announce(Announce {
        source: PortId(source),
        topic: Topic::new(topic).unwrap(),
        publisher: String::new(),
        process: String::new(),
        host: String::new(),
        created_ns: 0,
        reliable: false,
        resumes: false,
    })
}

fn publish(source: u64, sequence: u64, size: usize) -> Vec<u8> {
    let mut header = Header::new(Kind::Publish);
    header.topic.set(Topic::new("a.b").unwrap().id().0);
    header.source.set(source);
    header.sequence.set(sequence);
    message(&header, &vec![3; size])
}

/// A run of messages of these sizes, the first with this sequence.
fn run(source: u64, first: u64, sizes: &[usize]) -> Vec<u8> {
    let mut run = Run::default();
    run.begin(Topic::new("a.b").unwrap().id(), PortId(source), first, 0);
    for size in sizes {
        assert!(run.push(0, 0, 0, &vec![3; *size]));
    }
    let mut out = Vec::new();
    run.seal(1, Seed(hosts::CLUSTER), &mut out).unwrap();
    out
}

fn dropped(host: &Host, cause: Cause) -> u64 {
    host.session.dropped().0[cause.index()]
}

#[test]
fn a_source_that_was_not_announced_is_dropped_and_counted_and_costs_the_link_nothing() {
    let mut host = victim();
    // Far more than the credit: what is dropped gives it back, or the link would be closed.
    for sequence in 1..=50 {
        say(&mut host, &publish(6, sequence, 10));
    }
    assert_eq!((dropped(&host, Cause::SpoofedSource), host.relays.len()), (50, 0));
    assert!(host.closed.is_empty());
    say(&mut host, &frame(&announce(9, "a.b")));
    say(&mut host, &publish(9, 1, 10));
    assert_eq!(host.waiting(), 1, "an honest source is served");
}

#[test]
fn a_source_that_another_session_has_is_dropped_and_counted() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.b")));
    host.handle(Time(0), Input::RelayRefused { source: PortId(9), cause: Cause::SpoofedSource });
    say(&mut host, &publish(9, 1, 10));
    say(&mut host, &part(2, 0, 300, 100));
    assert_eq!((dropped(&host, Cause::SpoofedSource), host.waiting()), (1, 0));
    assert!(
        matches!(host.closed.as_slice(), [Closed::Peer(PeerError::Announcement { .. })]),
        "a part without the topic"
    );
}

#[test]
fn sources_for_which_there_is_no_room_are_counted_and_the_others_are_served() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.b")));
    host.handle(Time(0), Input::RelayRefused { source: PortId(9), cause: Cause::LinkBudget });
    assert_eq!(dropped(&host, Cause::LinkBudget), 1, "one that the caller has no room for");
    let most = (LINK_SOURCES_MAX + LINK_ENDED_SOURCES_MAX) as u64;
    for source in 0..most {
        say(&mut host, &frame(&announce(100 + source, "a.b")));
    }
    assert_eq!(dropped(&host, Cause::LinkBudget), 2, "one beyond all that are kept");
    say(&mut host, &publish(100 + most - 1, 1, 10));
    say(&mut host, &publish(100, 1, 10));
    assert_eq!((dropped(&host, Cause::SpoofedSource), host.waiting()), (1, 1));
    assert!(host.closed.is_empty());
}

#[test]
fn a_topic_that_nobody_asked_for_is_not_relayed() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "x.y")));
    assert!(host.relays.is_empty());
    say(&mut host, &publish(9, 1, 10));
    assert_eq!(dropped(&host, Cause::SpoofedSource), 1);
}

#[test]
fn a_message_of_another_topic_than_its_source_was_announced_with_ends_the_link() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.other")));
    say(&mut host, &publish(9, 1, 10));
    assert_eq!(host.closed, [Closed::Peer(PeerError::Announcement { source: PortId(9) })]);
}

#[test]
fn a_source_beyond_its_window_ends_the_link_and_another_within_its_own_does_not() {
    let mut host = victim();
    for source in [8, 9] {
        say(&mut host, &frame(&announce(source, "a.b")));
        for sequence in 1..=4 {
            say(&mut host, &publish(source, sequence, 10));
        }
    }
    assert_eq!((host.closed.len(), host.waiting()), (0, 8));
    say(&mut host, &publish(9, 5, 10));
    assert_eq!(host.closed, [Closed::Peer(PeerError::Credit { source: PortId(9) })]);
}

#[test]
fn a_source_that_is_announced_twice_loses_nothing_of_what_follows_the_second_word() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.b")));
    // It crossed with our answer, and what that allowed is right behind it, in one read.
    say(&mut host, &[frame(&announce(9, "a.b")), publish(9, 1, 10), publish(9, 2, 10)].concat());
    assert_eq!((host.waiting(), dropped(&host, Cause::SpoofedSource)), (2, 0));
}

#[test]
fn a_run_is_taken_whole_or_ends_the_link_as_its_messages_would() {
    let after = |bytes: &[u8]| {
        let mut host = victim();
        say(&mut host, &frame(&announce(9, "a.b")));
        say(&mut host, bytes);
        let mut closed = host.closed.clone();
        assert!(closed.is_empty() || host.waiting() == 0, "nothing of it is taken: {closed:?}");
        (closed.pop(), host.waiting())
    };
    let source = PortId(9);
    let credit = Some(Closed::Peer(PeerError::Credit { source }));
    assert_eq!(after(&run(9, 1, &[10; 4])), (None, 4));
    assert_eq!(after(&run(9, 1, &[1_000; 2])), (None, 2), "the window to its last byte");
    assert_eq!(after(&run(9, 1, &[10; 5])).0, credit, "more messages than the window has");
    assert_eq!(
        after(&run(9, 1, &[1_001, 1_000])).0,
        credit,
        "more bytes than the window has, though nothing is there"
    );
    assert_eq!(after(&publish(9, 1, 2_100)), (None, 1), "as one message may");
    assert_eq!(after(&run(9, 1, &[2_600, 2_600])).0, credit, "more bytes than the credit has");
    assert!(after(&run(9, 1, &[3_001, 1])).0.is_some(), "a message larger than we take");
    assert_eq!(after(&run(6, 1, &[10; 4])), (None, 0), "of nobody");
    let mut other = run(9, 1, &[1, 1]);
    let mut header = Header::validate_seeded(&other, Seed(hosts::CLUSTER)).unwrap();
    header.topic.set(5);
    header.seal_seeded(&other.split_off(HEADER_SIZE), Seed(hosts::CLUSTER)).unwrap();
    let following = &run(9, 1, &[1, 1])[HEADER_SIZE..];
    let error = after(&[header.bytes(), following].concat()).0;
    assert_eq!(error, Some(Closed::Peer(PeerError::Announcement { source })));
    header.correlation.set(3);
    header.seal_seeded(following, Seed(hosts::CLUSTER)).unwrap();
    let error = after(&[header.bytes(), following].concat()).0;
    assert!(matches!(error, Some(Closed::Peer(PeerError::Decode(_)))), "{error:?}");
}

#[test]
fn runs_that_overlap_what_has_come_are_cut_to_what_is_new_and_their_credit_comes_back() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.b")));
    // Far more than the credit in all, and each beyond a window if what came before counted.
    for (first, sizes) in
        [(5, [10; 2]), (5, [10; 2]), (4, [10; 2]), (6, [10; 2]), (2, [10; 2]), (10, [10; 2])]
    {
        say(&mut host, &run(9, first, &sizes));
        host.publish_relays(Time(0));
    }
    say(&mut host, &publish(9, 12, 10));
    host.publish_relays(Time(0));
    let (received, gaps) = host.relays[&PortId(9)].covered();
    assert_eq!((received, gaps), (vec![5, 6, 7, 10, 11, 12], vec![(8, 9, Cause::LinkLost)]));
    assert_eq!(host.session.dropped().1, 2 + 2 + 1 + 2);
    assert!(host.closed.is_empty());
    // Of nobody: all of it is given back, far beyond the credit.
    for first in 1..30 {
        say(&mut host, &run(6, first, &[10; 3]));
    }
    assert_eq!((dropped(&host, Cause::SpoofedSource), host.closed.len()), (87, 0));
}

#[test]
fn who_has_not_said_that_it_takes_runs_is_sent_none_and_refuses_one() {
    let old = |config: &mut busway_protocol::Config| config.hello.features = 0;
    for (mut net, packed) in [
        (Net::new(Host::new(0, 1, |_| {}), Host::new(1, 0, old)), 1),
        (Net::new(Host::new(0, 1, |_| {}), Host::new(1, 0, |_| {})), 20),
    ] {
        net.dialer.ring(1, "a.b", true, 64);
        net.listener.want(1, ">", true);
        for _ in 0..6 {
            net.step();
        }
        for _ in 0..20 {
            assert!(net.dialer.rings.get_mut(&PortId(1)).unwrap().publish(Arc::from([1_u8; 50])));
        }
        for _ in 0..6 {
            net.step();
        }
        assert_eq!(net.listener.relays[&PortId(1)].covered().0.len(), 20);
        assert_eq!(net.dialer.packed, packed);
    }
    let mut host = Host::new(0, 1, old);
    host.want(1, "a.>", false);
    let link = Link::dial(&host.config, node(1), Time(0));
    host.session.connected(Time(0), link, &mut Vec::new());
    say(&mut host, &frame(&Frame::Hello(busway_protocol::Config::new(hosts::CLUSTER, node(1), 5).hello)));
    say(&mut host, &frame(&announce(9, "a.b")));
    say(&mut host, &run(9, 1, &[10; 2]));
    assert_eq!(host.closed, [Closed::Peer(PeerError::Unexpected { kind: Kind::Run })]);
}

#[test]
fn a_window_that_gets_smaller_ends_the_link_and_an_acknowledgement_may_name_any_message_of_a_run() {
    let flowing = || {
        let mut host = victim();
        let add = vec![Wanted { id: 1, pattern: Pattern::parse("b.*").unwrap(), reliable: true }];
        say(&mut host, &frame(&Frame::Interest(Interest { add, remove: Vec::new(), complete: true })));
        for _ in 0..6 {
            assert!(host.rings.get_mut(&PortId(77)).unwrap().publish(Arc::from([1_u8; 9])));
        }
        host
    };
    let accept = |passed, window_messages, window_bytes| {
        frame(&Frame::Accept(Accept { source: PortId(77), passed, window_messages, window_bytes }))
    };
    let mut host = flowing();
    say(&mut host, &accept(None, 4, 1_000));
    host.read_rows(Time(0));
    say(&mut host, &[]);
    assert_eq!(host.packed, 4, "what the window has room for goes together");
    for (passed, in_flight) in [(1, 4), (3, 3), (4, 2), (6, 0)] {
        say(&mut host, &accept(Some(passed), 4, 1_000));
        host.read_rows(Time(0));
        say(&mut host, &[]);
        let account = host.session.account(PortId(77)).unwrap();
        assert_eq!((account.acked, account.in_flight), (passed, in_flight), "after {passed}");
    }
    assert!(host.closed.is_empty());
    for (window_messages, window_bytes) in [(3, 1_000), (4, 999)] {
        let mut host = flowing();
        say(&mut host, &accept(None, 4, 1_000));
        say(&mut host, &accept(None, 4, 1_000));
        assert!(host.closed.is_empty());
        say(&mut host, &accept(None, window_messages, window_bytes));
        let source = Some(PortId(77));
        assert_eq!(host.closed, [Closed::Peer(PeerError::Acknowledgement { source })]);
    }
}

#[test]
fn what_comes_twice_is_dropped_and_a_hole_without_a_word_becomes_a_gap() {
    let mut host = victim();
    say(&mut host, &frame(&announce(9, "a.b")));
    for sequence in [5, 5, 4, 8] {
        say(&mut host, &publish(9, sequence, 10));
    }
    host.publish_relays(Time(0));
    let entries = &host.relays[&PortId(9)].entries;
    let (first, last) = (vec![3; 10], vec![3; 10]);
    let gap = Entry::Gap(6, 7, Cause::LinkLost);
    assert_eq!(entries, &[Entry::Message(5, first), gap, Entry::Message(8, last)]);
    assert_eq!((host.session.dropped().1, dropped(&host, Cause::LinkLost)), (2, 2));
}

fn accept(passed: Option<u64>) -> Vec<u8> {
    let (window_messages, window_bytes) = (8, 1_000);
    frame(&Frame::Accept(Accept { source: PortId(77), passed, window_messages, window_bytes }))
}

/// A host that has sent three messages of its source to a peer that wants them.
fn flowing() -> Host {
    let mut host = victim();
    let interest = Interest {
        add: vec![Wanted { id: 1, pattern: Pattern::parse("b.*").unwrap(), reliable: true }],
        remove: Vec::new(),
        complete: true,
    };
    say(&mut host, &frame(&Frame::Interest(interest)));
    for _ in 0..3 {
        assert!(host.rings.get_mut(&PortId(77)).unwrap().publish(Arc::from([1_u8; 9])));
    }
    say(&mut host, &accept(None));
    host.read_rows(Time(0));
    say(&mut host, &[]);
    host
}

#[test]
fn a_peer_that_has_started_again_may_say_twice_that_nothing_has_come() {
    let mut host = flowing();
    say(&mut host, &accept(Some(2)));
    host.disconnected(Time(2_000_000));
    connect(&mut host, 6);
    for _ in 0..2 {
        say(&mut host, &accept(None));
    }
    assert!(host.closed.is_empty(), "{:?}", host.closed);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_or_that_goes_back_ends_the_link() {
    for (first, second, fine) in [(Some(2), Some(3), true), (Some(3), Some(2), false), (Some(4), None, false)]
    {
        let mut host = flowing();
        say(&mut host, &accept(first));
        if let Some(second) = second {
            say(&mut host, &accept(Some(second)));
        }
        let source = Some(PortId(77));
        let expected =
            if fine { Vec::new() } else { vec![Closed::Peer(PeerError::Acknowledgement { source })] };
        assert_eq!(host.closed, expected, "{first:?} {second:?}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn anything_that_a_peer_says_is_refused_or_kept_within_the_bounds_it_was_granted() {
    let (mut closed, mut delivered, mut said) = (0, 0, 0_u64);
    for seed in 0..3_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut host = victim();
        host.room = 1;
        host.direct = rng.bool();
        let mut next = 0;
        say(&mut host, &frame(&announce(9, "a.b")));
        for _ in 0..rng.usize(1..60) {
            let bytes = anything(&mut rng, &mut next);
            said += 1;
            for piece in bytes.chunks(rng.usize(1..bytes.len() + 1)) {
                say(&mut host, piece);
            }
            if rng.u8(0..4) == 0 {
                host.publish_relays(Time(0));
            }
            let waiting = host.waiting();
            // Each hole that a message or gap leaves is an entry of its own, which holds nothing.
            assert!(waiting <= 20, "seed {seed}: {waiting} wait");
            if !host.closed.is_empty() {
                break;
            }
        }
        delivered += host.relays.values().map(|relay| relay.entries.len()).sum::<usize>();
        closed += usize::from(!host.closed.is_empty());
        host.disconnected(Time(2_000_000));
        assert!(host.session.deadline().is_none() && !host.session.has_output());
    }
    assert!(closed > 300 && delivered > 300, "{closed} closed, {delivered} delivered");
    println!("evidence: peers=3000 frames={said} closed={closed} delivered={delivered} panics=0");
}

/// A frame that may or may not come here, with small numbers so that they meet.
fn anything(rng: &mut fastrand::Rng, next: &mut u64) -> Vec<u8> {
    let number = |rng: &mut fastrand::Rng| match rng.u8(0..12) {
        0 => u64::MAX - rng.u64(0..3),
        _ => rng.u64(0..8),
    };
    let source = [9, 9, 9, 8, 77][rng.usize(0..5)];
    let port = PortId(source);
    match rng.u8(0..18) {
        16 => run(
            source,
            number(rng).clamp(1, u64::MAX - 9),
            &vec![[0, 10, 900][rng.usize(0..3)]; rng.usize(2..7)],
        ),
        17 => {
            let first = *next + 1;
            *next += 2;
            run(9, first, &[10, 20])
        }
        0..2 => publish(source, number(rng), [0, 10, 900, 4_000][rng.usize(0..4)]),
        2..4 => {
            *next += 1;
            publish(9, *next, [0, 10, 900][rng.usize(0..3)])
        }
        4 => part(number(rng), rng.u64(0..3) * 100, 300, 100),
        5..7 => frame(&announce(source, ["a.b", "a.b", "a.c", "z"][rng.usize(0..4)])),
        7 => frame(&Frame::Retire(Retire { source: port, last: number(rng) })),
        8 => {
            let passed = rng.bool().then(|| number(rng));
            let (window_messages, window_bytes) = (rng.u32(1..5), number(rng));
            frame(&Frame::Accept(Accept { source: port, passed, window_messages, window_bytes }))
        }
        9 => {
            let (messages, bytes) = (16_384 + rng.u64(0..2), (32 << 20) + rng.u64(0..2));
            frame(&Frame::Credit(Credit { messages, bytes, received: rng.u64(0..2) }))
        }
        10..12 => {
            let from = rng.u64(1..6);
            let to = if rng.u8(0..9) == 0 { u64::MAX } else { from + rng.u64(0..4) };
            frame(&Frame::Gap(Gap { source: port, from, to, cause: Cause::Lapped, link: String::new() }))
        }
        12 => {
            let id = rng.u32(0..3);
            let add = vec![Wanted { id, pattern: Pattern::parse("b.c").unwrap(), reliable: true }];
            frame(&Frame::Interest(Interest { add, remove: vec![rng.u32(0..3)], complete: rng.bool() }))
        }
        13 => frame(&Frame::Ping { stamp: number(rng) }),
        14 => frame(&Frame::Pong { stamp: number(rng) }),
        _ => {
            let mut bytes = publish(source, number(rng), 10);
            if rng.bool() {
                let at = rng.usize(0..bytes.len());
                bytes[at] ^= 1 << rng.u8(0..8);
            }
            bytes
        }
    }
}

#[test]
fn a_batch_that_is_written_byte_by_byte_or_in_any_pieces_is_the_same_bytes() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut net = Net::new(Host::new(0, 1, |_| {}), Host::new(1, 0, |_| {}));
        net.dialer.ring(1, "a.b", true, 64);
        net.listener.want(1, ">", true);
        for _ in 0..6 {
            net.step();
        }
        let sizes = if seed == 0 { [10, 900, 1_500, 3_000] } else { [10, 2_000, 70_000, 20_000] };
        for size in sizes {
            assert!(net.dialer.rings.get_mut(&PortId(1)).unwrap().publish(Arc::from(vec![seed as u8; size])));
        }
        let host = &mut net.dialer;
        host.read_rows(net.now);
        host.session.transmit(net.now, &mut host.batch);
        let whole = flat(&host.batch);
        assert!(whole.len() > 5_400, "{}", whole.len());
        let mut at = 0;
        while !host.batch.is_empty() {
            let written = if seed == 0 { 1 } else { rng.usize(0..9_000) };
            host.batch.advance(written);
            at = (at + written).min(whole.len());
            assert_eq!(flat(&host.batch), whole[at..], "seed {seed} at {at}");
        }
        host.batch.advance(5);
        assert_eq!((at, host.batch.bytes()), (whole.len(), 0));
    }
}

#[test]
fn what_a_local_publisher_wrote_wrongly_is_lost_with_a_cause_and_does_not_end_the_link() {
    let mut net =
        Net::new(Host::new(0, 1, |_| {}), Host::new(1, 0, |config| config.hello.message_bytes_max = 500));
    net.dialer.ring(1, "a.b", false, 64);
    net.listener.want(1, ">", false);
    for _ in 0..6 {
        net.step();
    }
    let mut send = |sequence: u64, change: fn(&mut Header), size: usize| {
        let mut header = Header::new(Kind::Publish);
        header.sequence.set(sequence);
        change(&mut header);
        let payload: Arc<[u8]> = Arc::from(vec![0xee; size]);
        net.dialer.handle(net.now, Input::Publish { source: PortId(1), header, payload });
        net.step();
    };
    send(1, |_| {}, 9);
    send(2, |header| header.extensions = 9, 9);
    send(3, |header| header.extensions = 1, 9);
    send(4, |header| header.flags = 0x84, 9);
    send(5, |_| {}, 501);
    send(6, |header| header.kind = Kind::Goodbye.number(), 9);
    for _ in 0..20 {
        net.step();
    }
    let (received, gaps) = net.listener.relays[&PortId(1)].covered();
    assert_eq!(received, [1, 6], "{gaps:?}");
    let corrupt = |sequence| (sequence, sequence, Cause::Corrupt);
    assert_eq!(gaps, [corrupt(2), corrupt(3), corrupt(4), (5, 5, Cause::LinkBudget)]);
    assert_eq!(net.dialer.session.account(PortId(1)).unwrap().in_flight, 0);
    assert!(net.dialer.closed.is_empty() && net.listener.closed.is_empty());
}

#[test]
fn a_drain_settles_what_is_under_way_and_both_sides_know_why_the_link_ends() {
    let mut net = Net::new(Host::new(0, 1, |_| {}), Host::new(1, 0, |_| {}));
    net.dialer.ring(1, "a.b", true, 64);
    net.listener.want(1, ">", true);
    for _ in 0..6 {
        net.step();
    }
    for _ in 0..20 {
        net.dialer.rings.get_mut(&PortId(1)).unwrap().publish(Arc::from([1_u8; 50]));
    }
    net.dialer.read_rows(net.now);
    net.dialer.handle(net.now, Input::Drain { reason: "an update".to_owned() });
    for _ in 0..20 {
        if net.listener.closed.is_empty() {
            net.step();
        }
    }
    assert_eq!(net.dialer.closed, [Closed::Drained]);
    assert_eq!(net.listener.closed, [Closed::Goodbye { reason: "an update".to_owned() }]);
    let account = net.dialer.session.account(PortId(1)).unwrap();
    assert_eq!((account.acked, account.in_flight), (20, 0));
}
