//! Strangers at the door of a node: whatever bytes they bring, in whatever order and at whatever pace, the node answers
//! with a reason or hangs up, keeps little for them, and its other links go on.
//!
//! The node is `busway up` as it is shipped, a process of its own, so that what it takes can be measured. Numbers are
//! those of the rows in PROMISES.md.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[expect(dead_code, reason = "the harness serves other targets as well, which use the rest")]
#[path = "../cli/harness.rs"]
mod harness;
#[expect(dead_code, reason = "it serves another target as well, which uses the rest")]
#[path = "../real/node.rs"]
mod node;
mod stage;
#[path = "../../../busway/tests/scene/stranger.rs"]
mod stranger;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use busway::Policy;
use busway_wire::limits::{LINK_FRAME_BYTES_MAX, LINK_UNIDENTIFIED_DEFAULT, MESSAGE_BYTES_MAX};
use busway_wire::link::{Accept, Announce, Credit, Frame, Hello, Identity, Interest, Wanted, encode};
use busway_wire::{HEADER_SIZE, Header, Kind, Pattern, PortId, Seed, Topic, cluster_id};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use stage::{CLIENTS, CLUSTER, PATIENCE, Stage};
use stranger::{Stranger, announce, text};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::FromBytes;

const MIB: u64 = 1 << 20;
/// Connections that come at once.
const BURST: usize = CLIENTS;

fn seed_of(kind: u8) -> u64 {
    if kind == Kind::Hello.number() || kind == Kind::Refusal.number() { 0 } else { cluster_id(CLUSTER) }
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, Seed(cluster_id(CLUSTER)), &mut bytes).unwrap();
    bytes
}

fn hello(identity: Identity) -> Frame {
    Frame::Hello(stranger::hello(CLUSTER, identity))
}

/// A header with both checksums right, whatever else it says, and what follows it.
fn sealed(mut header: Header, body: &[u8]) -> Vec<u8> {
    header.checksum_payload.set(xxh3_64_with_seed(body, 0));
    header.checksum.set(xxh3_64_with_seed(&header.bytes()[8..], seed_of(header.kind)));
    [header.bytes(), body].concat()
}

#[test]
fn lengths_that_no_frame_has_are_refused_with_a_reason_and_nothing_is_kept_for_them() {
    let mut stage = Stage::new();
    let sizes =
        [0, 1, 63, LINK_FRAME_BYTES_MAX as u32 + 1, MESSAGE_BYTES_MAX as u32 + 1, i32::MAX as u32, u32::MAX];
    for (at, size) in sizes.into_iter().enumerate() {
        for kind in [Kind::Hello, Kind::Interest, Kind::Publish] {
            let mut header = Header::new(kind);
            header.size.set(size);
            let mut stranger = if kind == Kind::Hello { stage.stranger() } else { stage.client(at as u64) };
            stranger.stream.write_all(&sealed(header, &[])).unwrap();
            let told = stranger.told();
            let reason = ["bytes", "size"].iter().any(|word| told.contains(word));
            assert!(reason || size == LINK_FRAME_BYTES_MAX as u32 + 1, "{size} {kind:?}: {told:?}");
            drop(stranger);
        }
    }
    let more = stage.is_well(16 * MIB);
    println!("evidence: {} lengths in 3 kinds refused, {more} bytes more", sizes.len());
}

#[test]
fn every_kind_with_valid_checksums_in_every_state_is_taken_or_ends_its_own_link_only() {
    let mut stage = Stage::new();
    let mut rng = fastrand::Rng::with_seed(11);
    let mut refused = 0;
    for kind in 0..=u8::MAX {
        for greeted in [false, true] {
            let mut header = Header::new(Kind::Publish);
            let body: Vec<u8> = (0..rng.usize(0..300)).map(|_| rng.u8(..)).collect();
            header.size.set((HEADER_SIZE + body.len()) as u32);
            (header.kind, header.flags, header.extensions) = (kind, rng.u8(..4), rng.u8(..2));
            for word in [&mut header.topic, &mut header.source, &mut header.sequence, &mut header.correlation]
            {
                word.set(rng.u64(..));
            }
            let mut stranger = if greeted { stage.client(kind.into()) } else { stage.stranger() };
            // What was refused at once may be reset before all of it is written.
            let _ = stranger.stream.write_all(&sealed(header, &body));
            let _ = stranger.stream.shutdown(Shutdown::Write);
            refused += usize::from(!stranger.told().is_empty());
        }
        if kind % 64 == 63 {
            stage.echo();
        }
    }
    assert!(refused >= 256, "at least all that came in the place of a hello: {refused}");
    let more = stage.is_well(32 * MIB);
    println!("evidence: 256 kinds in 2 states, {refused} answered, {more} bytes more");
}

#[test]
fn another_version_another_cluster_and_an_identity_that_is_taken_are_told_so() {
    let mut stage = Stage::new();
    let Frame::Hello(known) = hello(Identity::Client { id: 1 }) else { panic!("it is one") };
    let hellos = [
        (Hello { cluster: 3, ..known.clone() }, "cluster"),
        (Hello { identity: Identity::Node { index: 0 }, ..known.clone() }, "identity"),
        (Hello { identity: Identity::Node { index: 63 }, ..known.clone() }, "no node of this index"),
    ];
    for (hello, word) in hellos {
        let mut stranger = stage.stranger();
        stranger.say(&Frame::Hello(hello));
        let told = stranger.told();
        assert!(told.contains(word), "{word}: {told:?}");
    }
    let mut header = Header::new(Kind::Hello);
    header.hops_version = 15 << 4;
    let mut stranger = stage.stranger();
    stranger.stream.write_all(&sealed(header, &[])).unwrap();
    let told = stranger.told();
    assert!(told.contains("version"), "{told:?}");
    stage.is_well(16 * MIB);
}

#[test]
fn what_other_protocols_say_first_is_answered_and_hung_up_on() {
    let mut stage = Stage::new();
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x5a; 500]].concat();
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
    let ssh = b"SSH-2.0-OpenSSH_9.6p1 Debian-3 and a client that goes on without an answer\r\n\r\n";
    for first in [&tls[..], http, ssh, &[0; 64], &[0xff; 4096]] {
        let mut stranger = stage.stranger();
        stranger.stream.write_all(first).unwrap();
        let told = stranger.told();
        assert!(!told.is_empty(), "{:?}", text(first));
    }
    stage.is_well(16 * MIB);
}

#[test]
fn a_hello_that_is_cut_anywhere_costs_nothing_and_one_in_two_pieces_is_a_hello() {
    let mut stage = Stage::new();
    let whole = bytes(&hello(Identity::Client { id: 5 }));
    for at in 0..whole.len() {
        let mut cut = stage.stranger();
        cut.stream.write_all(&whole[..at]).unwrap();
        cut.stream.shutdown(Shutdown::Write).unwrap();
        cut.told();
        let mut split = stage.stranger();
        split.stream.write_all(&whole[..at]).unwrap();
        split.stream.write_all(&whole[at..]).unwrap();
        let mut answer = [0; 4096];
        assert!(split.stream.read(&mut answer).unwrap() > HEADER_SIZE, "split at {at}");
        assert_eq!(answer[20], Kind::Hello.number(), "split at {at}: {}", text(&answer));
    }
    let more = stage.is_well(32 * MIB);
    println!("evidence: {} offsets, {more} bytes more", whole.len());
}

/// Says byte after byte, ten a second, until the node hangs up; returns how many, and what it said.
fn trickle(stage: &mut Stage, stranger: &mut Stranger, bytes: &[u8]) -> (usize, String) {
    stranger.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut said = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        let mut buffer = [0; 4096];
        let over = match stranger.stream.write_all(&[*byte]).and_then(|()| stranger.stream.read(&mut buffer))
        {
            Ok(0) => true,
            Ok(count) => {
                said.extend_from_slice(&buffer[..count]);
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        if over {
            return (at, text(&said));
        }
        stage.echo();
    }
    panic!("{} bytes were waited for", bytes.len());
}

#[test]
fn who_trickles_is_cut_off_with_a_reason_and_holds_nobody_up() {
    let mut stage = Stage::new();
    let mut newcomer = stage.stranger();
    let (bytes, told) = trickle(&mut stage, &mut newcomer, &bytes(&hello(Identity::Client { id: 5 })));
    assert!(told.contains("handshake"), "{told:?}");
    // A frame of 60 KiB of which the head is there at once: for the rest there is a deadline too, before half a minute.
    let mut client = stage.client(6);
    let mut header = Header::new(Kind::Interest);
    header.size.set(60 << 10);
    let frame = sealed(header, &vec![0; 60 << 10]);
    client.stream.write_all(&frame[..HEADER_SIZE]).unwrap();
    let (more_bytes, told) = trickle(&mut stage, &mut client, &frame[HEADER_SIZE..][..300]);
    assert!(told.contains("frame") || told.contains("partial") || told.contains("message"), "{told:?}");
    let more = stage.is_well(16 * MIB);
    println!(
        "evidence: cut off after {bytes} and {more_bytes} bytes, one ten times a second; {more} bytes more"
    );
}

#[test]
fn of_a_thousand_connections_at_once_each_is_served_or_told() {
    let mut stage = Stage::new();
    let mut all: Vec<Stranger> = (0..BURST).map(|_| stage.stranger()).collect();
    for (id, stranger) in all.iter_mut().enumerate() {
        stranger.say(&hello(Identity::Client { id: id as u64 }));
    }
    let (mut served, mut told) = (0, 0);
    for stranger in &mut all {
        let mut answer = [0; 4096];
        match stranger.stream.read(&mut answer) {
            Ok(count) if count > HEADER_SIZE && answer[20] == Kind::Hello.number() => served += 1,
            Ok(count) if count > HEADER_SIZE && answer[20] == Kind::Refusal.number() => told += 1,
            other => panic!("neither served nor told: {other:?}; {served} served, {told} told"),
        }
    }
    assert_eq!(served + told, BURST);
    let more = stage.is_well(256 * MIB);
    println!("evidence: {BURST} connections, {served} served, {told} told why not, {more} bytes more");
}

#[test]
fn who_connects_and_says_nothing_gives_way_and_is_told() {
    let mut stage = Stage::new();
    let mut silent: Vec<Stranger> = (0..BURST).map(|_| stage.stranger()).collect();
    // An honest one gets in beside them.
    let client = stage.client(9);
    stage.echo();
    for stranger in &mut silent {
        assert!(!stranger.told().is_empty(), "each is told why");
    }
    let more = stage.is_well(64 * MIB);
    drop(client);
    println!("evidence: {BURST} silent connections, each told, {more} bytes more");
}

/// Clients that have accepted what the node sends of a topic, and take nothing of it.
fn readers_that_do_not_read(stage: &Stage, count: u64, source: PortId) -> Vec<Stranger> {
    let wanted = Wanted { id: 1, pattern: Pattern::parse("flood").unwrap(), reliable: false };
    let interest = Interest { add: vec![wanted], remove: Vec::new(), complete: true };
    let comes = |id: &u64| {
        let mut reader = stage.stranger();
        // What the kernel keeps for it is little, so that the rest is the node's affair.
        set_socket_recv_buffer_size(&reader.stream, 4 << 10).unwrap();
        reader.say(&hello(Identity::Client { id: *id }));
        reader.say(&Frame::Interest(interest.clone()));
        reader
    };
    let (window_messages, window_bytes) = (1 << 20, 1 << 40);
    let (ids, mut readers): (Vec<u64>, _) = ((0..count).collect(), Vec::new());
    // As many at once as the node has room for, or each would wait for the one before.
    for ids in ids.chunks(LINK_UNIDENTIFIED_DEFAULT as usize / 2) {
        let mut some: Vec<Stranger> = ids.iter().map(comes).collect();
        for reader in &mut some {
            let is_it =
                |frame: &Frame| matches!(frame, Frame::Announce(announced) if announced.source == source);
            reader.hear_until(is_it);
            reader.say(&Frame::Accept(Accept { source, passed: None, window_messages, window_bytes }));
        }
        readers.append(&mut some);
    }
    readers
}

#[test]
fn a_thousand_readers_that_do_not_read_cost_the_node_no_more_than_its_queues() {
    const READERS: usize = CLIENTS;
    let mut stage = Stage::new();
    let mut flood = stage.local.publisher("flood").open().unwrap();
    let readers = readers_that_do_not_read(&stage, READERS as u64, flood.id());
    let (mut sent, mut starved) = (0, 0);
    // Until all that may wait for each of them does.
    while starved < READERS {
        for _ in 0..16 {
            // Where many are slow a message of this size is copied for each of them.
            flood.send(&[7; 32 << 10]).unwrap();
        }
        sent += 16;
        stage.echo();
        starved = stage.starved();
        assert!(sent < 10_000, "{starved} of {READERS} are full: {:?}", stage.states());
    }
    // A part of 64 MiB each in its queue and in its batch, and what a link takes without.
    let more = stage.is_well(256 * MIB);
    drop(readers);
    println!(
        "evidence: {READERS} readers that did not read {sent} messages of 32 KiB, all full, {more} bytes more"
    );
}

#[test]
fn a_flood_of_pings_and_readers_that_do_not_read_cost_the_node_little() {
    const READERS: u64 = 100;
    let mut stage = Stage::new();
    let mut flood = stage.local.publisher("flood").open().unwrap();
    let readers = readers_that_do_not_read(&stage, READERS, flood.id());
    let mut flooder = stage.client(READERS);
    let pings: Vec<u8> = bytes(&Frame::Ping { stamp: 1 }).repeat(1_000);
    flooder.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let (on, over) = channel::<()>();
    let flooding = std::thread::spawn(move || {
        let mut flooded = 0;
        // It does not read either: the node may stop reading it, or give it up.
        while over.try_recv() == Err(TryRecvError::Empty) && flooder.stream.write_all(&pings).is_ok() {
            flooded += 1_000;
        }
        flooded
    });
    for _ in 0..100 {
        stage.echo();
    }
    for _ in 0..1_000 {
        flood.send(&[7; 64 << 10]).unwrap();
    }
    // 62 MiB were published, for a hundred that did not take them.
    stage.echo();
    drop(on);
    let flooded = flooding.join().unwrap();
    let more = stage.is_well(384 * MIB);
    drop(readers);
    println!("evidence: {READERS} readers of 62 MiB that did not read, {flooded} pings, {more} bytes more");
}

/// Rules by which the other node may do everything, and clients this.
fn rules(publish: &str, subscribe: &str) -> String {
    format!(
        "[[acl]]\nidentity = \"node/*\"\npublish = [\">\"]\nsubscribe = [\">\"]\n\
         [[acl]]\nidentity = \"client/*\"\npublish = [\"{publish}\"]\nsubscribe = [\"{subscribe}\"]\n"
    )
}

/// The kinds of all frames that come until the node hangs up.
fn kinds(stranger: &mut Stranger) -> Vec<u8> {
    let (mut kinds, mut said) = (Vec::new(), Vec::new());
    stranger.stream.read_to_end(&mut said).expect("the node hangs up");
    let mut rest = &said[..];
    while let Some(head) = rest.get(..HEADER_SIZE) {
        let header = Header::read_from_bytes(head).unwrap();
        kinds.push(header.kind);
        rest = rest.get(header.size.get() as usize..).unwrap_or_default();
    }
    kinds
}

#[test]
fn a_right_that_is_withdrawn_by_a_hangup_ends_what_is_under_way_both_ways() {
    let mut stage = Stage::with(&rules("odd", "news"));
    let mut odd = stage.local.subscriber("odd").policy(Policy::Block).open().unwrap();
    let mut news = stage.local.publisher("news").open().unwrap();
    // One that may have a message under way at a time, so that the others wait for it here.
    let mut reader = stage.stranger();
    reader.say(&Frame::Hello(Hello {
        credit_messages: 1,
        ..stranger::hello(CLUSTER, Identity::Client { id: 5 })
    }));
    let wanted = Wanted { id: 1, pattern: Pattern::parse("news").unwrap(), reliable: true };
    reader.say(&Frame::Interest(Interest { add: vec![wanted], remove: Vec::new(), complete: true }));
    let source = news.id();
    reader.hear_until(|frame| matches!(frame, Frame::Announce(announced) if announced.source == source));
    let (window_messages, window_bytes) = (1 << 20, 1 << 40);
    reader.say(&Frame::Accept(Accept { source, passed: None, window_messages, window_bytes }));
    news.wait_for_subscribers(1, PATIENCE).unwrap();
    for n in 0..10 {
        news.send(&[n]).unwrap();
    }
    // And one that has begun to say something.
    let topic = Topic::new("odd").unwrap();
    let mut writer = stage.client(6);
    let is_odd = |wanted: &Wanted| wanted.pattern.matches(&topic);
    writer.hear_until(|frame| matches!(frame, Frame::Interest(i) if i.add.iter().any(is_odd)));
    writer.say(&announce(PortId(99), topic.clone(), false));
    writer.hear_until(|frame| matches!(frame, Frame::Accept(_)));
    let message = |sequence: u64| {
        let mut header = Header::new(Kind::Publish);
        header.topic.set(topic.id().0);
        header.source.set(99);
        header.sequence.set(sequence);
        header.size.set(HEADER_SIZE as u32 + 3);
        sealed(header, b"odd")
    };
    writer.stream.write_all(&message(1)).unwrap();
    assert_eq!(&odd.recv_timeout(PATIENCE).unwrap().expect("it may say that")[..], b"odd");
    writer.stream.write_all(&message(2)[..HEADER_SIZE]).unwrap();
    stage.reload(&rules("even", "weather"));
    // The rest comes too late, and so does what was waited for. The node may have hung up already.
    let _ = writer.stream.write_all(&message(2)[HEADER_SIZE..]);
    writer.told();
    reader.say(&Frame::Credit(Credit { messages: 20, bytes: 1 << 41, received: 1 }));
    let kinds = kinds(&mut reader);
    let messages = kinds.iter().filter(|kind| **kind == Kind::Publish.number()).count();
    assert_eq!(messages, 1, "what had gone before: {kinds:?}");
    let mut local = stage.local.publisher("odd").open().unwrap();
    local.send(b"end").unwrap();
    assert_eq!(
        &odd.recv_timeout(PATIENCE).unwrap().expect("a message")[..],
        b"end",
        "nothing of the other came"
    );
    // Who comes back does not even hear of it.
    let mut again = stage.stranger();
    again.say(&hello(Identity::Client { id: 5 }));
    let wanted = Wanted { id: 1, pattern: Pattern::parse("news").unwrap(), reliable: true };
    again.say(&Frame::Interest(Interest { add: vec![wanted], remove: Vec::new(), complete: true }));
    // An answer goes before an announcement: the second one lies behind it.
    for stamp in [77, 78] {
        again.say(&Frame::Ping { stamp });
        let answer = again.hear_until(|frame| matches!(frame, Frame::Announce(_) | Frame::Pong { .. }));
        assert!(matches!(answer, Frame::Pong { .. }), "{answer:?}");
    }
    stage.is_well(64 * MIB);
}

#[test]
fn whatever_time_a_message_claims_it_is_delivered_and_nothing_else_happens() {
    let mut stage = Stage::new();
    let mut odd = stage.local.subscriber("odd").policy(Policy::Block).open().unwrap();
    let mut client = stage.client(4);
    let topic = Topic::new("odd").unwrap();
    let Frame::Announce(announced) = announce(PortId(99), topic.clone(), false) else { panic!("it is one") };
    // Only what somebody wants is announced.
    let odd_is_wanted = |wanted: &Wanted| wanted.pattern.matches(&topic);
    client.hear_until(|frame| matches!(frame, Frame::Interest(i) if i.add.iter().any(odd_is_wanted)));
    client.say(&Frame::Announce(Announce { created_ns: u64::MAX, ..announced }));
    client.hear_until(|frame| matches!(frame, Frame::Accept(_)));
    let ten_years = 315_360_000_000_000_000;
    let now = 1_700_000_000_000_000_000;
    for (at, time_ns) in [0, 1, now - ten_years, now, now + ten_years, u64::MAX].into_iter().enumerate() {
        let mut header = Header::new(Kind::Publish);
        header.topic.set(topic.id().0);
        header.source.set(99);
        header.sequence.set(at as u64 + 1);
        header.time_ns.set(time_ns);
        header.size.set(HEADER_SIZE as u32 + 3);
        client.stream.write_all(&sealed(header, b"odd")).unwrap();
        assert_eq!(odd.recv_timeout(PATIENCE).unwrap().unwrap().time_ns(), time_ns);
    }
    stage.is_well(16 * MIB);
}
