//! Nodes whose programs decide about artifacts themselves, among nodes that do not.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use busway::artifacts::{
    ArtifactHandler, Flow, Heard, Interest, SwarmHandler, Voice, WhenFull, Word, Workers, WorkersBuilder,
};
use busway::{Acl, Bus, Code, Node};
use busway_shm::clock::Deadline;
use busway_wire::gossip::{Epoch, NodeIndex, Part, Reference, SlotNumber};

use crate::stage::{Directory, Host, PATIENCE, body, join, receive, subscribe, until};

/// What the machine does, and what it was told, flow by flow.
struct Watched {
    machine: SwarmHandler,
    told: Mutex<BTreeSet<&'static str>>,
}

impl Watched {
    fn note(&self, what: &'static str) {
        self.told.lock().unwrap().insert(what);
    }
}

impl ArtifactHandler for Watched {
    fn on_advert(&self, from: u8, advert: &Heard) {
        self.note("advert");
        self.machine.on_advert(from, advert);
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.note("request");
        self.machine.on_request(from, request);
    }

    fn on_piece(&self, from: u8, piece: &Heard) {
        self.note("piece");
        self.machine.on_piece(from, piece);
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.note("retransmission");
        self.machine.on_retransmission(from, request);
    }

    fn on_timer(&self) {
        self.note("timer");
        self.machine.on_timer();
    }

    fn next_word(&self, to: u8, flow: Flow) -> Option<Heard> {
        self.machine.next_word(to, flow)
    }

    fn on_peer_up(&self, peer: u8) {
        self.note("up");
        self.machine.on_peer_up(peer);
    }

    fn on_peer_down(&self, peer: u8) {
        self.note("down");
        self.machine.on_peer_down(peer);
    }
}

fn own_node(bus: &Bus, index: u8, peer: &Host, handler: Arc<dyn ArtifactHandler>, voice: &Voice) -> Node {
    let builder = Node::builder().cluster("swarm").index(index);
    let builder = builder.peer(9, &peer.address().to_string());
    builder.artifact_handler(handler, voice, Workers::builder()).open(bus).unwrap()
}

#[test]
fn a_program_that_stands_before_the_machine_is_told_all_and_gives_and_is_given_what_others_have() {
    let host = Host::new(9, &[]);
    let mut there = subscribe(&host, "block.>");
    let directory = Directory::new();
    let bus = join(directory.path());
    let (came, comes): (Sender<Vec<u8>>, Receiver<Vec<u8>>) = channel();
    let voice = Voice::new();
    let judge = |advert: &busway::artifacts::Advert| {
        if advert.topic() == "block.unwanted" { Interest::Drop } else { Interest::Fetch }
    };
    let came = Mutex::new(came);
    let machine = SwarmHandler::new(1, &voice, judge, move |_, body| {
        came.lock().unwrap().send(body.to_vec()).unwrap();
    });
    let watched = Arc::new(Watched { machine, told: Mutex::default() });
    let node = own_node(&bus, 1, &host, watched.clone(), &voice);
    assert!(node.wait_for_peers(1, PATIENCE));
    assert_eq!(bus.artifacts(">").unwrap_err().code(), Code::NoNode);

    let offers = |topic: &str, sizes: &[usize]| -> Vec<_> {
        let of = host.bus.artifacts(topic).unwrap();
        sizes.iter().map(|size| of.offer(&body(*size, *size as u64)).open().unwrap()).collect()
    };
    let _unwanted = offers("block.unwanted", &[600, 90_000]);
    let _offers = offers("block.new", &[10, 1_000, 5_000, 256 << 10]);
    let mut sizes = BTreeSet::new();
    while sizes.len() < 4 {
        let bytes = comes.recv_timeout(PATIENCE).unwrap();
        assert!(bytes == body(bytes.len(), bytes.len() as u64));
        sizes.insert(bytes.len());
    }
    assert!(sizes.into_iter().eq([10, 1_000, 5_000, 256 << 10]));
    // The subscriber there is given what it offers itself as well.
    (0..6).for_each(|_| drop(receive(&mut there)));
    watched.machine.offer("block.mine", &body(70_000, 7), b"seven").unwrap();
    let artifact = receive(&mut there);
    assert!(artifact.bytes().unwrap()[..] == body(70_000, 7)[..]);
    assert_eq!(artifact.advert().node(), 1);
    drop(host);
    let told = |what| watched.told.lock().unwrap().contains(what);
    until("it hears that the peer has gone, and of the time", || told("down") && told("timer"));
    let told: Vec<&str> = watched.told.lock().unwrap().iter().copied().collect();
    assert_eq!(told, ["advert", "down", "piece", "request", "retransmission", "timer", "up"]);
    let handled: u64 = [Flow::Advert, Flow::Request, Flow::Chunk, Flow::Retransmission, Flow::Transport]
        .map(|flow| node.artifact_flow(flow).handled)
        .iter()
        .sum();
    drop(node);
    assert_eq!(Arc::strong_count(&watched), 1, "the node has let go of it");
    println!("evidence: 4 artifacts in, 1 out, 2 dropped by the program, {handled} events in 5 flows");
}

/// Says its first words, and writes down who answers with what.
struct Speaker {
    voice: Voice,
    heard: Mutex<Vec<(u8, Word)>>,
    ups: Sender<Result<(), busway::Error>>,
}

impl ArtifactHandler for Speaker {
    fn on_peer_up(&self, peer: u8) {
        let said = self.voice.say(peer, &Word::Ask { of: Vec::new() }, &[], PATIENCE);
        let nowhere = self.voice.say(peer + 1, &Word::Ask { of: Vec::new() }, &[], PATIENCE);
        assert_eq!(nowhere.unwrap_err().code(), Code::NoNode);
        self.ups.send(said).unwrap();
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.heard.lock().unwrap().push((from, request.word.clone()));
    }
}

#[test]
fn a_handler_hears_of_a_link_before_any_word_and_speaks_by_its_voice() {
    let host = Host::new(9, &[]);
    let directory = Directory::new();
    let bus = join(directory.path());
    let (ups, told) = channel();
    let voice = Voice::new();
    assert!(voice.say(9, &Word::Ask { of: Vec::new() }, &[], PATIENCE).is_err(), "there is no link yet");
    let speaker = Arc::new(Speaker { voice: voice.clone(), heard: Mutex::default(), ups });
    let node = own_node(&bus, 3, &host, speaker.clone(), &voice);
    told.recv_timeout(PATIENCE).unwrap().unwrap();
    until("the machine there says its first word", || {
        matches!(speaker.heard.lock().unwrap().first(), Some((9, Word::Exchange(_))))
    });
    let wrong = voice.say(9, &Word::Chunk { request: 1, offset: 0 }, &[], PATIENCE);
    assert_eq!(wrong.unwrap_err().code(), Code::BadSetting, "a piece without bytes is no word");
    assert_eq!(voice.peers(), [9]);
    drop(node);
    let late = voice.say(9, &Word::Ask { of: Vec::new() }, &[], PATIENCE);
    assert_eq!(late.unwrap_err().code(), Code::Closed);
    println!("evidence: 1 link, its first word heard, 1 word said, 3 refused");
}

/// Closes its node when it hears of a peer.
struct Quitter {
    node: Mutex<Option<Node>>,
    there: Mutex<Receiver<Node>>,
    closed: Sender<()>,
}

impl ArtifactHandler for Quitter {
    fn on_peer_up(&self, _: u8) {
        *self.node.lock().unwrap() = Some(self.there.lock().unwrap().recv_timeout(PATIENCE).unwrap());
        drop(self.node.lock().unwrap().take());
        self.closed.send(()).unwrap();
    }
}

#[test]
fn a_handler_may_close_its_own_node() {
    let host = Host::new(9, &[]);
    let directory = Directory::new();
    let bus = join(directory.path());
    let ((give, there), (closed, told)) = (channel(), channel());
    let voice = Voice::new();
    let quitter = Arc::new(Quitter { node: Mutex::default(), there: Mutex::new(there), closed });
    let node = own_node(&bus, 3, &host, quitter.clone(), &voice);
    give.send(node).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    until("all threads that had it have ended", || Arc::strong_count(&quitter) == 1);
    drop(bus);
    println!("evidence: closed from inside, nothing has the handler any more");
}

/// Looks at its node each time that it is asked for a word, and closes it when it is asked the third time.
struct Curious {
    node: Mutex<Option<Node>>,
    asked: Mutex<u64>,
    closed: Sender<usize>,
}

impl ArtifactHandler for Curious {
    fn next_word(&self, _: u8, _: Flow) -> Option<Heard> {
        let node = self.node.lock().unwrap().take()?;
        let links = node.peers().len();
        *self.asked.lock().unwrap() += 1;
        if *self.asked.lock().unwrap() == 3 {
            drop(node);
            self.closed.send(links).unwrap();
        } else {
            *self.node.lock().unwrap() = Some(node);
        }
        None
    }
}

#[test]
fn a_handler_that_is_asked_for_a_word_may_look_at_its_node_and_close_it() {
    let host = Host::new(9, &[]);
    let directory = Directory::new();
    let bus = join(directory.path());
    let (closed, told) = channel();
    let voice = Voice::new();
    let curious = Arc::new(Curious { node: Mutex::default(), asked: Mutex::default(), closed });
    let node = own_node(&bus, 3, &host, curious.clone(), &voice);
    assert!(node.wait_for_peers(1, PATIENCE));
    *curious.node.lock().unwrap() = Some(node);
    voice.wake();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 1);
    until("all threads that had it have ended", || Arc::strong_count(&curious) == 1);
    println!("evidence: asked 3 times, 1 link seen each time, closed from inside");
}

#[test]
fn a_node_with_rules_has_no_handler_of_its_own() {
    let directory = Directory::new();
    let bus = join(directory.path());
    let voice = Voice::new();
    let machine = SwarmHandler::new(1, &voice, |_| Interest::Fetch, |_, _| {});
    let builder = Node::builder().index(1).acl(Acl::new([]).unwrap());
    let refused = builder.artifact_handler(Arc::new(machine), &voice, Workers::builder()).open(&bus);
    assert_eq!(refused.unwrap_err().code(), Code::BadSetting);
    println!("evidence: refused");
}

/// Handles a request when it is told to, one at a time.
struct Busy {
    begun: Sender<Word>,
    ends: Mutex<Receiver<()>>,
}

impl ArtifactHandler for Busy {
    fn on_request(&self, _: u8, request: &Heard) {
        self.begun.send(request.word.clone()).unwrap();
        self.ends.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    }
}

/// Writes down which requests it is told that nothing is found for.
struct Asker(Sender<u64>);

impl ArtifactHandler for Asker {
    fn on_piece(&self, _: u8, piece: &Heard) {
        if let Word::NotFound { request } = piece.word {
            self.0.send(request).unwrap();
        }
    }
}

fn ask(voice: &Voice, requests: std::ops::Range<u64>) {
    for request in requests {
        let of = Reference { node: NodeIndex(9), epoch: Epoch(1), slot: SlotNumber(7), version: 1 };
        let word = Word::Request { request, of, part: Part::Whole, offset: 0 };
        voice.say(9, &word, &[], PATIENCE).unwrap();
    }
}

/// Requests have room for one at a time, and of each peer for one.
fn narrow() -> WorkersBuilder {
    Workers::builder().limit(Flow::Request, 1, 1 << 20, WhenFull::Drop).floor(1, 1)
}

#[test]
fn who_asks_a_program_whose_flow_is_full_and_drops_is_told_at_once_and_not_left_waiting() {
    let (begun, begins) = channel();
    let (end, ends) = channel();
    let busy = Arc::new(Busy { begun, ends: Mutex::new(ends) });
    let host = Host::built(9, &[], |node| node.artifact_handler(busy, &Voice::new(), narrow()));
    let (directory, voice) = (Directory::new(), Voice::new());
    let bus = join(directory.path());
    let (told, tells) = channel();
    let _node = own_node(&bus, 1, &host, Arc::new(Asker(told)), &voice);
    until("it may speak", || voice.peers() == [9]);
    ask(&voice, 1..2);
    begins.recv_timeout(PATIENCE).unwrap();
    ask(&voice, 2..10);
    // Its first is not handled yet, and one may wait: nothing else wakes anybody.
    let told: BTreeSet<u64> = (0..7).map(|_| tells.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(told.len() == 7 && told.into_iter().all(|request| (2..10).contains(&request)));
    // That it does not want one any more is not dropped: nobody would tell it so.
    voice.say(9, &Word::Cancel { request: 1 }, &[], PATIENCE).unwrap();
    let counts = || host.node.artifact_flow(Flow::Request);
    until("it waits", || counts().waited == 1);
    until("each is handled or dropped", || {
        let _ = end.send(());
        counts().handled + counts().dropped_full == 10
    });
    assert!(begins.try_iter().any(|word| word == Word::Cancel { request: 1 }));
    println!("evidence: {} of 9 requests dropped, each of them answered", counts().dropped_full);
}

#[test]
fn who_asks_a_node_whose_flow_is_full_and_drops_is_answered_each_time() {
    let host = Host::built(9, &[], |node| node.artifact_workers(narrow()));
    let (directory, voice) = (Directory::new(), Voice::new());
    let bus = join(directory.path());
    let (told, tells) = channel();
    let _node = own_node(&bus, 1, &host, Arc::new(Asker(told)), &voice);
    until("it may speak", || voice.peers() == [9]);
    let deadline = Deadline::after(PATIENCE);
    let dropped = || host.node.artifact_flow(Flow::Request).dropped_full;
    let mut asked = 1;
    while dropped() == 0 {
        assert!(!deadline.expired(), "it was never full");
        ask(&voice, asked..asked + 50);
        let told: BTreeSet<u64> = (0..50).map(|_| tells.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(told.into_iter().eq(asked..asked + 50), "it has none of them");
        asked += 50;
    }
    println!("evidence: {} of {} requests dropped, each of them answered", dropped(), asked - 1);
}
