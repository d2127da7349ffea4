//! Nodes whose handlers stand still, speak out of place, panic, or outlive their node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::artifacts::{
    ArtifactHandler, EVENT_FLOWS, Flow, Heard, Interest, SwarmHandler, Voice, WhenFull, Word, Workers,
    WorkersBuilder,
};
use busway::{Bus, Code, Node, NodeBuilder};
use busway_wire::gossip::{Epoch, Exchange};

use crate::stage::{Directory, Host, PATIENCE, body, join, receive, subscribe, until};

const MIB: u64 = 1 << 20;

fn builder(index: u8) -> NodeBuilder {
    Node::builder().cluster("swarm").index(index)
}

fn listening(index: u8) -> NodeBuilder {
    builder(index).listen("127.0.0.1:0".parse().unwrap())
}

fn open(
    bus: &Bus,
    builder: NodeBuilder,
    (handler, voice): (Arc<dyn ArtifactHandler>, &Voice),
    workers: WorkersBuilder,
) -> Node {
    builder.artifact_handler(handler, voice, workers).open(bus).unwrap()
}

fn ask() -> Word {
    Word::Ask { of: Vec::new() }
}

/// Says what it is told to by its voice, and counts what it hears.
#[derive(Default)]
struct Talks {
    heard: Mutex<BTreeMap<&'static str, u64>>,
    words: Mutex<Vec<Word>>,
    /// It stands still in this flow until it is let on.
    stands: Mutex<Option<Flow>>,
    on: Condvar,
    /// What it says to whom it hears of.
    greets: Mutex<Option<Voice>>,
}

impl Talks {
    fn note(&self, what: &'static str, heard: Option<&Heard>) {
        *self.heard.lock().unwrap().entry(what).or_default() += 1;
        self.words.lock().unwrap().extend(heard.map(|heard| heard.word.clone()));
    }

    fn count(&self, what: &str) -> u64 {
        self.heard.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    fn standing(flow: Flow) -> Arc<Self> {
        Arc::new(Self { stands: Mutex::new(Some(flow)), ..Self::default() })
    }

    fn stand(&self, flow: Flow) {
        let stands = self.stands.lock().unwrap();
        drop(self.on.wait_while(stands, |stands| *stands == Some(flow)).unwrap());
    }

    fn go_on(&self) {
        *self.stands.lock().unwrap() = None;
        self.on.notify_all();
    }
}

impl ArtifactHandler for Talks {
    fn on_advert(&self, _: u8, advert: &Heard) {
        self.note("advert", Some(advert));
        self.stand(Flow::Advert);
    }

    fn on_retransmission(&self, _: u8, exchange: &Heard) {
        self.note("retransmission", Some(exchange));
        self.stand(Flow::Retransmission);
    }

    fn on_request(&self, _: u8, request: &Heard) {
        self.note("request", Some(request));
        self.stand(Flow::Request);
    }

    fn on_piece(&self, _: u8, piece: &Heard) {
        self.note("piece", Some(piece));
        self.stand(Flow::Chunk);
    }

    fn on_peer_up(&self, peer: u8) {
        self.note("up", None);
        if let Some(voice) = &*self.greets.lock().unwrap() {
            voice.say(peer, &ask(), &[], PATIENCE).unwrap();
        }
    }

    fn on_peer_down(&self, _: u8) {
        self.note("down", None);
    }
}

/// Two nodes that have such handlers and are linked: the second dials the first.
struct Pair {
    handlers: [Arc<Talks>; 2],
    voices: [Voice; 2],
    nodes: [Option<Node>; 2],
    buses: [Bus; 2],
    _directories: [Directory; 2],
}

impl Pair {
    fn new(first: Arc<Talks>, workers: WorkersBuilder) -> Self {
        let directories = [Directory::new(), Directory::new()];
        let buses = [join(directories[0].path()), join(directories[1].path())];
        let (voices, second) = ([Voice::new(), Voice::new()], Arc::new(Talks::default()));
        let node = open(&buses[0], listening(9), (first.clone(), &voices[0]), workers);
        let nodes = [Some(node), None];
        let handlers = [first, second];
        let mut pair = Self { handlers, voices, nodes, buses, _directories: directories };
        pair.dial();
        pair
    }

    fn first(&self) -> &Node {
        self.nodes[0].as_ref().unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.first().listening()[0]
    }

    /// The second one opens anew.
    fn dial(&mut self) {
        let builder = builder(1).peer(9, &self.address().to_string());
        let workers = Workers::builder();
        let node = open(&self.buses[1], builder, (self.handlers[1].clone(), &self.voices[1]), workers);
        assert!(node.wait_for_peers(1, PATIENCE) && self.first().wait_for_peers(1, PATIENCE));
        until("it may say something", || self.voices[1].peers() == [9]);
        self.nodes[1] = Some(node);
    }

    fn say(&self, word: &Word) {
        self.voices[1].say(9, word, &[], PATIENCE).unwrap();
    }
}

fn small(flow: Flow) -> WorkersBuilder {
    Workers::builder().limit(flow, 1, MIB, WhenFull::Wait).floor(1, 1 << 16)
}

#[test]
fn a_flow_that_is_full_stops_no_other_of_its_peer_and_hides_no_end_of_its_link() {
    let mut pair = Pair::new(Talks::standing(Flow::Request), small(Flow::Request));
    let first = pair.handlers[0].clone();
    (0..10).for_each(|request| pair.say(&Word::Cancel { request }));
    until("it stands still", || first.count("request") == 1);
    until("its flow is full", || pair.first().artifact_flow(Flow::Request).waited > 0);
    pair.say(&ask());
    until("the flow of adverts goes on", || first.count("advert") == 1);
    // What the other says does not find it, in a lane in which requests wait.
    (0..10).for_each(|request| pair.say(&Word::NotFound { request }));
    assert_eq!(pair.voices[0].peers(), [1]);
    pair.nodes[1] = None;
    until("nothing is said to who is gone", || pair.voices[0].peers().is_empty());
    assert_eq!(first.count("request"), 1, "it stands still");
    first.go_on();
    until("it hears of the end", || first.count("down") == 1);
    let waited = pair.first().artifact_flow(Flow::Request).waited;
    assert!(waited <= 10, "each event that waited is counted once: {waited}");
    println!("evidence: 10 requests for room of 2, 1 advert beside them, 1 end of a link");
}

#[test]
fn what_is_not_found_keeps_no_request_waiting() {
    let pair = Pair::new(Talks::standing(Flow::Chunk), small(Flow::Chunk));
    let first = &pair.handlers[0];
    // It comes in the lane of requests, and is told with the pieces.
    (0..10).for_each(|request| pair.say(&Word::NotFound { request }));
    until("it stands still", || first.count("piece") == 1);
    until("its flow is full", || pair.first().artifact_flow(Flow::Chunk).waited > 0);
    (0..10).for_each(|request| pair.say(&Word::Cancel { request }));
    until("requests behind them are told", || first.count("request") == 10);
    assert_eq!(first.count("piece"), 1);
    first.go_on();
    until("all are told", || first.count("piece") == 10);
    println!("evidence: 10 requests told behind 10 pieces that stand still");
}

/// How far the other is known, in the midst of a link.
fn exchange() -> Word {
    Word::Exchange(Exchange { epoch: Epoch(1), version: 1, since: None, filter: None })
}

#[test]
fn how_far_tables_are_known_waits_for_what_was_said_of_them_alone() {
    for stands in [Flow::Request, Flow::Chunk, Flow::Advert, Flow::Retransmission] {
        let fills = [Flow::Request, Flow::Chunk].contains(&stands);
        let workers = if fills { small(stands) } else { Workers::builder() };
        let pair = Pair::new(Talks::standing(stands), workers);
        let first = &pair.handlers[0];
        let piece = || pair.voices[1].say(9, &Word::Chunk { request: 1, offset: 0 }, &[7; 10], PATIENCE);
        let said = [ask(), exchange(), Word::Handled { tells: 1, marks: 0 }];
        // A flow that is full, but for that which the first word of a link would begin.
        match stands {
            Flow::Request => (0..10).for_each(|request| pair.say(&Word::Cancel { request })),
            Flow::Chunk => (0..10).for_each(|_| piece().unwrap()),
            _ => {}
        }
        if fills {
            until("its flow is full", || pair.first().artifact_flow(stands).waited > 0);
        }
        said.iter().for_each(|word| pair.say(word));
        let other = if stands == Flow::Request { "piece" } else { "request" };
        if stands == Flow::Request {
            piece().unwrap();
        } else {
            pair.say(&Word::Cancel { request: 1 });
        }
        until(&format!("{stands} stops no {other}"), || first.count(other) == 1);
        let taken =
            || [Flow::Advert, Flow::Retransmission].map(|flow| pair.first().artifact_flow(flow).taken);
        match stands {
            // It came before that, and waits.
            Flow::Advert => {
                until("what was said first is told", || taken()[0] > 0);
                pair.say(&Word::Cancel { request: 2 });
                until("another request is told", || first.count(other) == 2);
                assert_eq!(taken(), [1, 0]);
            }
            Flow::Retransmission => until("what was said before it is told", || taken() == [1, 1]),
            _ => until(&format!("{stands} stops nothing about tables"), || taken() == [2, 1]),
        }
        first.go_on();
        let told = || {
            let words = first.words.lock().unwrap();
            words.iter().filter(|word| said.contains(word)).cloned().collect::<Vec<_>>()
        };
        until("all of it is told", || told().len() == said.len());
        assert_eq!(told(), said, "{stands}");
    }
    println!("evidence: flows that stand still=4, each stops none but what follows on it");
}

#[test]
fn what_is_said_about_a_former_link_does_not_go_out_on_the_next() {
    let mut pair = Pair::new(Talks::standing(Flow::Request), Workers::builder());
    pair.say(&Word::Cancel { request: 1 });
    let first = pair.handlers[0].clone();
    until("it stands still", || first.count("request") == 1);
    *first.greets.lock().unwrap() = Some(pair.voices[0].clone());
    pair.nodes[1] = None;
    until("the link is gone", || pair.voices[0].peers().is_empty());
    pair.handlers[1].words.lock().unwrap().clear();
    pair.dial();
    assert!(pair.first().wait_for_peers(1, PATIENCE), "another link stands");
    let late = pair.voices[0].say(1, &Word::Handled { tells: 57, marks: 0 }, &[], Duration::ZERO);
    assert_eq!(late.unwrap_err().code(), Code::NoNode, "its handler has not heard of that link");
    first.go_on();
    let second = pair.handlers[1].clone();
    until("the first word on it comes", || !second.words.lock().unwrap().is_empty());
    assert_eq!(*second.words.lock().unwrap(), [ask()]);
    println!("evidence: 1 word of the former link refused, 1 of the next said");
}

/// Never says whether it has something to say.
#[derive(Default)]
struct Mute {
    asked: Mutex<bool>,
    on: Condvar,
}

impl ArtifactHandler for Mute {
    fn next_word(&self, _: u8, _: Flow) -> Option<Heard> {
        let mut asked = self.asked.lock().unwrap();
        *asked = true;
        self.on.notify_all();
        drop(self.on.wait_while(asked, |asked| *asked).unwrap());
        None
    }
}

#[test]
fn a_handler_that_never_says_whether_it_has_a_word_keeps_its_thread_and_not_the_end_of_its_node() {
    let host = Host::new(9, &[]);
    let directory = Directory::new();
    let bus = join(directory.path());
    let (mute, voice) = (Arc::new(Mute::default()), Voice::new());
    let dials = builder(3).peer(9, &host.address().to_string());
    let node = open(&bus, dials, (mute.clone(), &voice), Workers::builder());
    let asked = mute.asked.lock().unwrap();
    drop(mute.on.wait_timeout_while(asked, PATIENCE, |asked| !*asked).unwrap());
    let ends = std::thread::spawn(move || drop(node));
    until("its node ends", || ends.is_finished());
    bus.close();
    // It ends when it returns.
    *mute.asked.lock().unwrap() = false;
    mute.on.notify_all();
    until("nothing has it any more", || Arc::strong_count(&mute) == 1);
    println!("evidence: closed while it stood still");
}

#[test]
fn a_voice_has_one_node_at_a_time_and_its_handler_goes_on_with_the_next() {
    let host = Host::new(9, &[]);
    let mut there = subscribe(&host, "block.>");
    let (came, comes): (Sender<Vec<u8>>, Receiver<Vec<u8>>) = channel();
    let came = Mutex::new(came);
    let voice = Voice::new();
    let machine = SwarmHandler::new(
        3,
        &voice,
        |_| Interest::Fetch,
        move |_, body| {
            came.lock().unwrap().send(body.to_vec()).unwrap();
        },
    );
    let machine = Arc::new(machine);
    let directory = Directory::new();
    let bus = join(directory.path());
    let dials = || builder(3).peer(9, &host.address().to_string());
    let stands = machine.offer("block.first", &body(5_000, 1), b"").unwrap();
    for round in 0..2_u64 {
        let node = open(&bus, dials(), (machine.clone(), &voice), Workers::builder());
        let other = builder(4).artifact_handler(machine.clone(), &voice, Workers::builder()).open(&bus);
        assert_eq!(other.unwrap_err().code(), Code::BadSetting, "it speaks for another node");
        let offer = host.bus.artifacts("block.there").unwrap().offer(&body(600, round)).keep();
        offer.open().unwrap();
        assert_eq!(comes.recv_timeout(PATIENCE).unwrap(), body(600, round));
        // What stands of the handler is told once, whichever node tells it.
        let mut topics: Vec<String> =
            (round..2).map(|_| receive(&mut there).advert().topic().to_owned()).collect();
        topics.sort();
        assert_eq!(topics, if round == 0 { vec!["block.first", "block.there"] } else { vec!["block.there"] });
        assert_eq!(voice.peers(), [9]);
        drop(node);
        assert!(voice.peers().is_empty());
    }
    machine.withdraw(stands);
    println!("evidence: 2 nodes, one after the other; a third beside them refused");
}

#[test]
fn a_handler_hears_that_its_peers_have_gone_when_its_node_ends() {
    let mut pair = Pair::new(Talks::standing(Flow::Request), Workers::builder());
    pair.say(&Word::Cancel { request: 1 });
    let first = pair.handlers[0].clone();
    until("it stands still", || first.count("request") == 1);
    (2..20).for_each(|request| pair.say(&Word::Cancel { request }));
    let node = pair.nodes[0].take().unwrap();
    std::thread::scope(|scope| {
        let ends = scope.spawn(move || drop(node));
        until("its node ends", || pair.voices[0].peers().is_empty());
        assert_eq!(first.count("down"), 0, "it stands still in something else of that peer");
        first.go_on();
        ends.join().unwrap();
    });
    assert_eq!(first.count("down"), 1);
    println!("evidence: 1 end of a link told, behind all else");
}

/// Wants to say a piece in each flow.
struct Misplaces;

impl ArtifactHandler for Misplaces {
    fn next_word(&self, _: u8, flow: Flow) -> Option<Heard> {
        assert_ne!(flow, Flow::Request, "this one panics");
        Some(Heard { word: Word::Chunk { request: 1, offset: 0 }, following: vec![7; 10] })
    }
}

#[test]
fn what_does_not_belong_into_a_flow_is_left_out_and_counted() {
    let directories = [Directory::new(), Directory::new()];
    let buses = [join(directories[0].path()), join(directories[1].path())];
    let (hears, voices) = (Arc::new(Talks::default()), [Voice::new(), Voice::new()]);
    let there = open(&buses[0], listening(9), (hears.clone(), &voices[0]), Workers::builder());
    let dials = builder(1).peer(9, &there.listening()[0].to_string());
    let node = open(&buses[1], dials, (Arc::new(Misplaces), &voices[1]), Workers::builder());
    until("pieces come in their flow", || hears.count("piece") > 10);
    until("what is none is left out", || node.artifact_flow(Flow::Advert).left_out > 0);
    until("who panics is counted", || node.artifact_flow(Flow::Request).panicked > 0);
    assert_eq!(node.artifact_flow(Flow::Chunk).left_out, 0);
    assert_eq!((hears.count("advert"), hears.count("request")), (0, 0));
    println!("evidence: left_out={}", node.artifact_flow(Flow::Advert).left_out);
}

#[test]
fn a_node_is_told_by_no_workers_that_drop_what_a_later_word_builds_on() {
    let directory = Directory::new();
    let bus = join(directory.path());
    for flow in EVENT_FLOWS {
        for when_full in flow.when_full() {
            let workers = Workers::builder().limit(flow, 10, MIB, *when_full);
            let (handler, voice) = (Arc::new(Talks::default()), Voice::new());
            let opened = listening(0).artifact_handler(handler, &voice, workers).open(&bus);
            let builds = [Flow::Advert, Flow::Retransmission].contains(&flow);
            if builds && *when_full == WhenFull::Drop {
                assert_eq!(opened.unwrap_err().code(), Code::BadSetting, "{flow}");
            } else {
                drop(opened.unwrap());
            }
        }
    }
    println!("evidence: 2 of 8 pairs of flow and rule refused");
}

#[test]
fn where_a_function_of_the_program_panics_nothing_else_is_lost() {
    let host = Host::new(9, &[]);
    let directory = Directory::new();
    let bus = join(directory.path());
    let (came, comes): (Sender<u64>, Receiver<u64>) = channel();
    let (came, once, voice) = (Mutex::new(came), Mutex::new(2), Voice::new());
    let judge = move |_: &busway::artifacts::Advert| {
        let panics = {
            let mut left = once.lock().unwrap();
            *left -= i32::from(*left > 0);
            *left == 1
        };
        assert!(!panics, "the first panics");
        Interest::Fetch
    };
    let machine = SwarmHandler::new(3, &voice, judge, move |_, body| {
        came.lock().unwrap().send(u64::from_le_bytes(body[..8].try_into().unwrap())).unwrap();
        assert_ne!(body[0], 50, "this one panics");
    });
    let machine = Arc::new(machine);
    let of = host.bus.artifacts("block.new").unwrap();
    // They are told in one word.
    let _offers: Vec<_> =
        (0..100_u64).map(|number| of.offer(&number.to_le_bytes()).open().unwrap()).collect();
    let dials = builder(3).peer(9, &host.address().to_string());
    let node = open(&bus, dials, (machine.clone(), &voice), Workers::builder());
    let mut numbers: Vec<u64> = (0..99).map(|_| comes.recv_timeout(PATIENCE).unwrap()).collect();
    machine.reconsider();
    numbers.push(comes.recv_timeout(PATIENCE).unwrap());
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100));
    let panicked = || EVENT_FLOWS.map(|flow| node.artifact_flow(flow).panicked).iter().sum::<u64>();
    until("it is counted", || panicked() > 0);
    println!("evidence: 100 of 100 in spite of 2 panics, in {} calls", panicked());
}
