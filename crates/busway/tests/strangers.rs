//! Strangers at the door of a node: whatever bytes they bring, in whatever order and at whatever pace, the node answers
//! with a reason or hangs up, keeps little for them, and its other links go on.
//!
//! The node is a process of its own, so that what it takes can be measured. Numbers are those of the rows in PROMISES.md.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/part.rs"]
#[expect(dead_code, reason = "it serves other tests as well, which use the rest")]
mod part;
#[path = "scene/place.rs"]
mod place;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use busway::{Bus, Node, Policy, Publisher, Subscriber};
use busway_wire::limits::{LINK_FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use busway_wire::link::{Accept, Announce, Frame, Hello, Identity, Interest, Wanted, encode};
use busway_wire::{HEADER_SIZE, Header, Kind, Pattern, PortId, Seed, Topic, cluster_id};
use part::{Child, Part, hear, say};
use place::{PATIENCE, Scene};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MIB: u64 = 1 << 20;
/// Connections that come at once, and clients that a node of ours has room for.
const BURST: usize = 1_000;

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    let Some(part) = Part::given() else { return };
    assert_eq!(part.name, "node");
    let bus = part.bus();
    let bystander = hear().unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let node =
        Node::builder().cluster("test").index(0).listen(loopback).clients_max(BURST).peer(1, &bystander);
    let node = node.open(&bus).unwrap();
    let mut ping = bus.subscriber("ping").policy(Policy::Block).open().unwrap();
    let mut pong = bus.publisher("pong").open().unwrap();
    let mut flood = bus.publisher("flood").open().unwrap();
    let mut odd = bus.subscriber("odd").policy(Policy::Block).open().unwrap();
    std::thread::spawn(move || {
        // What is wanted abroad is known a moment after what comes from there.
        pong.wait_for_subscribers(1, PATIENCE).unwrap();
        while let Ok(sample) = ping.recv() {
            pong.send(&sample).unwrap();
        }
    });
    say(&node.listening()[0].to_string());
    while let Some(line) = hear() {
        match line.split_once(' ') {
            Some(("flood", count)) => {
                for _ in 0..count.parse::<u32>().unwrap() {
                    flood.send(&[7; 64 << 10]).unwrap();
                }
                say(&flood.id().0.to_string());
            }
            _ => say(&odd.recv_timeout(PATIENCE).unwrap().unwrap().time_ns().to_string()),
        }
    }
}

/// A node in a process of its own, and another that is linked with it and must not notice anything.
struct Stage {
    node: Child,
    address: SocketAddr,
    ping: Publisher,
    pong: Subscriber,
    asked: u64,
    peak: u64,
    _bystander: (Node, Bus),
    _scenes: [Scene; 2],
}

impl Stage {
    fn new() -> Self {
        let scenes = [Scene::new(), Scene::new()];
        let bus = scenes[1].bus("bystander");
        let loopback = "127.0.0.1:0".parse().unwrap();
        let bystander = Node::builder().cluster("test").index(1).listen(loopback).open(&bus).unwrap();
        let mut node = scenes[0].start("node");
        let address = node.ask(&bystander.listening()[0].to_string()).parse().unwrap();
        assert!(bystander.wait_for_peers(1, PATIENCE));
        let pong = bus.subscriber("pong").policy(Policy::Block).open().unwrap();
        let ping = bus.publisher("ping").open().unwrap();
        ping.wait_for_subscribers(1, PATIENCE).unwrap();
        let _bystander = (bystander, bus);
        let mut stage = Self { node, address, ping, pong, asked: 0, peak: 0, _bystander, _scenes: scenes };
        stage.echo();
        stage.peak = stage.high_water();
        stage
    }

    /// A message goes to the node over the other link and comes back.
    fn echo(&mut self) {
        self.asked += 1;
        self.ping.send(&self.asked.to_le_bytes()).unwrap();
        let Some(back) = self.pong.recv_timeout(PATIENCE).unwrap() else {
            panic!("the other link does not work: {:?}", self._bystander.0.peers());
        };
        assert_eq!(back[..], self.asked.to_le_bytes());
    }

    /// Most memory that the node has had, in bytes.
    fn high_water(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.node.pid.as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Nothing was disturbed; returns how much more memory the node has had than before the strangers came.
    fn is_well(&mut self, most: u64) -> u64 {
        self.echo();
        let more = self.high_water() - self.peak;
        assert!(more <= most, "the node has taken {more} bytes more");
        more
    }

    fn stranger(&self) -> Stranger {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Stranger(stream)
    }

    /// One that was let in.
    fn client(&self, id: u64) -> Stranger {
        let mut stranger = self.stranger();
        stranger.say(&hello(Identity::Client { id }));
        let mut answer = [0; 4096];
        assert!(stranger.0.read(&mut answer).unwrap() > HEADER_SIZE);
        assert_eq!(answer[20], Kind::Hello.number(), "{}", text(&answer));
        stranger
    }
}

struct Stranger(TcpStream);

impl Stranger {
    fn say(&mut self, frame: &Frame) {
        // The node may have hung up already: what it said before counts.
        let _ = self.0.write_all(&bytes(frame));
    }

    /// All that the node says until it hangs up.
    fn told(&mut self) -> String {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the node does not hang up: {error}; it said {}", text(&said)),
            }
        }
        text(&said)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(|character: char| character.is_control(), "")
}

fn seed_of(kind: u8) -> u64 {
    if kind == Kind::Hello.number() || kind == Kind::Refusal.number() { 0 } else { cluster_id("test") }
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, Seed(cluster_id("test")), &mut bytes).unwrap();
    bytes
}

fn hello(identity: Identity) -> Frame {
    Frame::Hello(Hello {
        cluster: cluster_id("test"),
        identity,
        instance: 7,
        name: "stranger".to_owned(),
        message_bytes_max: u32::MAX,
        credit_messages: 1 << 20,
        credit_bytes: 1 << 40,
        window_messages: 1 << 20,
        window_bytes: 1 << 40,
        token: Vec::new(),
        features: 0,
    })
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
            stranger.0.write_all(&sealed(header, &[])).unwrap();
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
            let _ = stranger.0.write_all(&sealed(header, &body));
            let _ = stranger.0.shutdown(Shutdown::Write);
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
    stranger.0.write_all(&sealed(header, &[])).unwrap();
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
        stranger.0.write_all(first).unwrap();
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
        cut.0.write_all(&whole[..at]).unwrap();
        cut.0.shutdown(Shutdown::Write).unwrap();
        cut.told();
        let mut split = stage.stranger();
        split.0.write_all(&whole[..at]).unwrap();
        split.0.write_all(&whole[at..]).unwrap();
        let mut answer = [0; 4096];
        assert!(split.0.read(&mut answer).unwrap() > HEADER_SIZE, "split at {at}");
        assert_eq!(answer[20], Kind::Hello.number(), "split at {at}: {}", text(&answer));
    }
    let more = stage.is_well(32 * MIB);
    println!("evidence: {} offsets, {more} bytes more", whole.len());
}

/// Says byte after byte, ten a second, until the node hangs up; returns how many, and what it said.
fn trickle(stage: &mut Stage, stranger: &mut Stranger, bytes: &[u8]) -> (usize, String) {
    stranger.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut said = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        let mut buffer = [0; 4096];
        let over = match stranger.0.write_all(&[*byte]).and_then(|()| stranger.0.read(&mut buffer)) {
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
    client.0.write_all(&frame[..HEADER_SIZE]).unwrap();
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
        match stranger.0.read(&mut answer) {
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

#[test]
fn a_flood_of_pings_and_readers_that_do_not_read_cost_the_node_little() {
    const READERS: u64 = 100;
    let mut stage = Stage::new();
    let source = PortId(stage.node.ask("flood 0").parse().unwrap());
    let mut readers: Vec<Stranger> = (0..READERS).map(|id| stage.client(id)).collect();
    let wanted = Wanted { id: 1, pattern: Pattern::parse("flood").unwrap(), reliable: false };
    let (window_messages, window_bytes) = (1 << 20, 1 << 40);
    for reader in &mut readers {
        reader.say(&Frame::Interest(Interest {
            add: vec![wanted.clone()],
            remove: Vec::new(),
            complete: true,
        }));
    }
    for reader in &mut readers {
        // Its announcement; nothing is read after this.
        assert!(reader.0.read(&mut [0; 4096]).unwrap() > 0);
        reader.say(&Frame::Accept(Accept { source, passed: None, window_messages, window_bytes }));
    }
    let mut flooder = stage.client(READERS);
    let pings: Vec<u8> = bytes(&Frame::Ping { stamp: 1 }).repeat(1_000);
    flooder.0.set_write_timeout(Some(PATIENCE)).unwrap();
    let (on, over) = channel::<()>();
    let flood = std::thread::spawn(move || {
        let mut flooded = 0;
        // It does not read either: the node may stop reading it, or give it up.
        while over.try_recv() == Err(TryRecvError::Empty) && flooder.0.write_all(&pings).is_ok() {
            flooded += 1_000;
        }
        flooded
    });
    for _ in 0..100 {
        stage.echo();
    }
    assert_eq!(stage.node.ask("flood 1000"), source.0.to_string());
    // 62 MiB were published, for a hundred that did not take them.
    stage.echo();
    drop(on);
    let flooded = flood.join().unwrap();
    let more = stage.is_well(384 * MIB);
    println!("evidence: {READERS} readers of 62 MiB that did not read, {flooded} pings, {more} bytes more");
}

#[test]
fn whatever_time_a_message_claims_it_is_delivered_and_nothing_else_happens() {
    let mut stage = Stage::new();
    let mut client = stage.client(4);
    let topic = Topic::new("odd").unwrap();
    let announce = Announce {
        source: PortId(99),
        topic: topic.clone(),
        publisher: String::new(),
        process: String::new(),
        host: String::new(),
        created_ns: u64::MAX,
        reliable: false,
        resumes: false,
    };
    // The interest in it comes first.
    client.say(&Frame::Announce(announce));
    let mut heard = Vec::new();
    while !heard.windows(HEADER_SIZE).any(|head| head[20] == Kind::Accept.number()) {
        let mut buffer = [0; 4096];
        let count = client.0.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", text(&heard));
        heard.extend_from_slice(&buffer[..count]);
    }
    let ten_years = 315_360_000_000_000_000;
    let now = 1_700_000_000_000_000_000;
    for (at, time_ns) in [0, 1, now - ten_years, now, now + ten_years, u64::MAX].into_iter().enumerate() {
        let mut header = Header::new(Kind::Publish);
        header.topic.set(topic.id().0);
        header.source.set(99);
        header.sequence.set(at as u64 + 1);
        header.time_ns.set(time_ns);
        header.size.set(HEADER_SIZE as u32 + 3);
        client.0.write_all(&sealed(header, b"odd")).unwrap();
        assert_eq!(stage.node.ask("odd"), time_ns.to_string());
    }
    stage.is_well(16 * MIB);
}
