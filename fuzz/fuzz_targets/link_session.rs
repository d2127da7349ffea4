//! Sessions: a peer that says what the input says, each frame with valid checksums, while the caller publishes,
//! ticks and reconnects. A model counts what was delivered: in order, never twice, within what was granted.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_protocol::{Batch, Config, Delivery, Input, Link, Outbox, Output, PeerId, Session, Time};
use busway_wire::link::{
    Accept, Announce, Credit, Frame, Gap, Hello, Interest, Retire, Wanted, encode, seed_of,
};
use busway_wire::{Cause, Header, Kind, Part, Pattern, PortId, Run, Seed, Topic};
use libfuzzer_sys::fuzz_target;

const CLUSTER: Seed = Seed(7);
const WINDOW: usize = 4;
const CREDIT: usize = 10;

fuzz_target!(|input: &[u8]| {
    let mut host = Host::new();
    host.connect();
    for step in input.chunks_exact(4) {
        host.step([step[0], step[1], step[2], step[3]]);
    }
});

struct Host {
    now: Time,
    session: Session<Arc<[u8]>>,
    config: Config,
    out: Outbox,
    /// Of each source what was delivered and not yet published, and the last that was delivered.
    waiting: BTreeMap<PortId, Vec<(u64, bool)>>,
    last: BTreeMap<PortId, u64>,
    open: BTreeMap<PortId, u64>,
    published: u64,
}

fn node(index: u8) -> PeerId {
    PeerId::Node { index }
}

fn announce(source: u64, reliable: bool, resumes: bool) -> Announce {
    let (publisher, process, host) = (String::new(), String::new(), String::new());
    let topic = Topic::new("a.b").expect("a topic");
    Announce { source: PortId(source), topic, publisher, process, host, created_ns: 0, reliable, resumes }
}

impl Host {
    fn new() -> Host {
        let mut config = Config::new(CLUSTER.0, node(0), 1);
        config.hello.window_messages = WINDOW as u32;
        config.hello.credit_messages = CREDIT as u64;
        config.hello.message_bytes_max = 1_000;
        let mut session = Session::new(config.clone(), node(1));
        let mut out = Vec::new();
        let pattern = Pattern::parse("a.>").expect("a pattern");
        session.handle(Time(0), Input::Want { id: 1, pattern, reliable: true }, &mut out);
        for (source, reliable) in [(100, true), (101, false)] {
            let announce = announce(source, reliable, false);
            session.handle(Time(0), Input::Source { announce, next: 1 }, &mut out);
        }
        let (waiting, last, open) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Host { now: Time(1), session, config, out, waiting, last, open, published: 0 }
    }

    fn connect(&mut self) {
        let link = Link::dial(&self.config, node(1), self.now);
        self.session.connected(self.now, link, &mut self.out);
        let hello = Hello { identity: node(1), ..Config::new(CLUSTER.0, node(1), 9).hello };
        self.say(&sealed(&Frame::Hello(hello)));
    }

    fn say(&mut self, mut bytes: &[u8]) {
        loop {
            let (consumed, delivery) = self.session.receive(self.now, bytes, &mut self.out);
            bytes = &bytes[consumed..];
            let delivered = match delivery {
                Some(Delivery::Message { header, .. }) => {
                    let sequence = header.sequence.get();
                    Some((header.source(), sequence..=sequence))
                }
                Some(Delivery::Run { header, records }) => {
                    Some((header.source(), records.next_sequence()..=records.last_sequence()))
                }
                Some(Delivery::Begin { header, .. }) => {
                    assert!(self.open.insert(header.source(), header.sequence.get()).is_none());
                    None
                }
                Some(Delivery::Bytes { source, .. }) => {
                    assert!(self.open.contains_key(&source));
                    None
                }
                Some(Delivery::End { source }) => {
                    self.open.remove(&source).map(|sequence| (source, sequence..=sequence))
                }
                None => break,
            };
            // First what is told before it: messages that are missing.
            self.carry_out();
            if let Some((source, sequences)) = delivered {
                for sequence in sequences {
                    self.keep(source, sequence, sequence, true);
                }
            }
        }
        self.carry_out();
        let mut batch = Batch::new();
        self.session.transmit(self.now, &mut batch);
        batch.advance(batch.bytes() / 2);
        assert!(self.session.account(PortId(101)).is_none_or(balanced));
        assert!(self.session.account(PortId(100)).is_none_or(balanced));
    }

    fn keep(&mut self, source: PortId, from: u64, to: u64, message: bool) {
        assert!(self.last.get(&source).is_none_or(|last| *last < from), "twice or out of order");
        self.last.insert(source, to);
        let waiting = self.waiting.entry(source).or_default();
        waiting.push((to, message));
        assert!(waiting.iter().filter(|(_, message)| *message).count() <= WINDOW);
        let all = self.waiting.values().flatten().filter(|(_, message)| *message).count();
        assert!(all <= CREDIT);
    }

    fn carry_out(&mut self) {
        while !self.out.is_empty() {
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::OpenRelay { announce } => {
                        let source = announce.source;
                        self.session.handle(self.now, Input::RelayOpened { source }, &mut self.out);
                    }
                    Output::RelayGap { source, from, to, .. } => self.keep(source, from, to, false),
                    Output::CloseRelay { source } => {
                        // What comes behind its end begins anew.
                        self.last.remove(&source);
                    }
                    Output::Abort { source } => assert!(self.open.remove(&source).is_some()),
                    Output::Close { .. } => {
                        let mut batch = Batch::new();
                        self.session.transmit(self.now, &mut batch);
                        self.session.disconnected(self.now, &mut self.out);
                    }
                    Output::Established { .. }
                    | Output::PeerWants { .. }
                    | Output::PeerUnwants { .. }
                    | Output::Pass { .. }
                    | Output::Rewind { .. }
                    | Output::SourceDone { .. }
                    | Output::SourceDenied { .. } => {}
                }
            }
        }
    }

    /// One message of a source that may send, with a header that may be nonsense.
    fn publish(&mut self, size: u8, flags: u8, extensions: u8) {
        if let Some(source) = self.session.next_source() {
            self.published += 1;
            let mut header = Header::new(Kind::Publish);
            (header.extensions, header.flags) = (extensions % 3, flags);
            header.sequence.set(self.published);
            let payload: Arc<[u8]> = Arc::from(vec![0; usize::from(size)]);
            self.session.handle(self.now, Input::Publish { source, header, payload }, &mut self.out);
            self.carry_out();
        }
        self.say(&[]);
    }

    /// A few messages of a source that may send, put together.
    fn publish_run(&mut self, size: u8, correlation: u8) {
        if let Some(source) = self.session.next_source() {
            let (room, mut run) = (self.session.room(source), self.session.spare_run());
            run.begin(Topic::new("a.b").expect("a topic").id(), source, self.published + 1, 0);
            let payload = vec![0; usize::from(size)];
            while room.has(&run, payload.len())
                && run.count() < 5
                && run.push(0, 0, u64::from(correlation), &payload)
            {
                self.published += 1;
            }
            self.session.handle(self.now, Input::Run(run), &mut self.out);
            self.carry_out();
        }
        self.say(&[]);
    }

    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        let number =
            |byte: u8| if byte > 250 { u64::MAX - u64::from(255 - byte) } else { u64::from(byte % 9) };
        let source = PortId([9, 8, 100, 101][usize::from(a % 4)]);
        match what % 18 {
            16 => self.say(&run(source, number(b).clamp(1, u64::MAX - 300), usize::from(c % 6) + 2, usize::from(a))),
            17 => self.publish_run(a, b),
            0 | 1 => self.say(&message(source, number(b), None, usize::from(c) * 5)),
            2 => {
                let part = Part { message: number(b), offset: u64::from(c % 4) * 50, total: 150 };
                self.say(&message(source, number(b), Some(part), 50));
            }
            3 => self.say(&sealed(&Frame::Announce(announce(source.0, b > 9, c > 9)))),
            4 => self.say(&sealed(&Frame::Retire(Retire { source, last: number(b) }))),
            5 => {
                // A window that gets smaller ends the link.
                let (passed, window_bytes) = ((c & 1 == 0).then(|| number(b)), 100);
                self.say(&sealed(&Frame::Accept(Accept {
                    source,
                    passed,
                    window_messages: 3,
                    window_bytes,
                })));
            }
            6 => {
                let (messages, bytes) = (number(a), number(b));
                self.say(&sealed(&Frame::Credit(Credit { messages, bytes, received: number(c) })));
            }
            7 => {
                let (from, to) = (number(b).max(1), number(c).max(number(b)).max(1));
                let gap = Gap { source, from, to, cause: Cause::Lapped, link: String::new() };
                self.say(&sealed(&Frame::Gap(gap)));
            }
            8 => {
                let pattern = Pattern::parse("a.b").expect("a pattern");
                let add = vec![Wanted { id: u32::from(a), pattern, reliable: b > 9 }];
                self.say(&sealed(&Frame::Interest(Interest {
                    add,
                    remove: vec![u32::from(b)],
                    complete: c > 9,
                })));
            }
            9 => self.say(&sealed(&Frame::Ping { stamp: number(a) })),
            10 => {
                for (source, waiting) in std::mem::take(&mut self.waiting) {
                    if let Some((sequence, _)) = waiting.last().copied() {
                        self.session.handle(self.now, Input::Published { source, sequence }, &mut self.out);
                    }
                }
                self.carry_out();
            }
            11 => {
                self.now = self.now.after_ms(u64::from(a) * 20);
                self.session.handle(self.now, Input::Tick, &mut self.out);
                self.carry_out();
            }
            12 | 13 => self.publish(a, b, c),
            14 => {
                let last = self.published;
                self.session.handle(self.now, Input::SourceGone { source, last }, &mut self.out);
                self.carry_out();
            }
            _ => {
                self.session.disconnected(self.now, &mut self.out);
                self.carry_out();
                self.connect();
            }
        }
    }
}

fn balanced(account: busway_protocol::Account) -> bool {
    account.sent == account.acked + account.in_flight + account.dropped.iter().sum::<u64>()
}

fn sealed(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    encode(frame, CLUSTER, &mut out).expect("within its bounds");
    out
}

fn run(source: PortId, first: u64, count: usize, size: usize) -> Vec<u8> {
    let mut run = Run::default();
    run.begin(Topic::new("a.b").expect("a topic").id(), source, first, 0);
    for _ in 0..count {
        assert!(run.push(0, 0, 0, &vec![1; size]));
    }
    let mut out = Vec::new();
    run.seal(1, CLUSTER, &mut out).expect("it has messages");
    out
}

fn message(source: PortId, sequence: u64, part: Option<Part>, size: usize) -> Vec<u8> {
    let mut following = Vec::new();
    if let Some(part) = part {
        part.push(&mut following).expect("one extension");
    }
    let mut header = Header::new(Kind::Publish);
    header.set_extensions(&following).expect("one extension");
    following.resize(following.len() + size, 1);
    header.topic.set(Topic::new("a.b").expect("a topic").id().0);
    header.source.set(source.0);
    header.sequence.set(sequence);
    header.seal_seeded(&following, seed_of(Kind::Publish, CLUSTER)).expect("small");
    [header.bytes(), &following].concat()
}
