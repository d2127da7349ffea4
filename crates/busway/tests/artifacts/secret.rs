//! Who knows the id of what is on a topic that it may not see, and offers that id on another.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use busway::artifacts::{ArtifactHandler, ArtifactId, Heard, Voice, Word, Workers};
use busway::{Acl, AclRule, Bus, Code, Node, Topic};
use busway_wire::gossip::{
    Content, Epoch, Exchange, NodeIndex, Offer, Part, Reference, Slot, SlotNumber, Standing, Tell,
};

use crate::stage::{Directory, Host, PATIENCE, body, join, receive, subscribe};

const SIZE: usize = 300_000;
const EPOCH: Epoch = Epoch(1);

/// Says what it likes, and hands on what it is told.
struct Thief {
    voice: Voice,
    heard: Mutex<Sender<Heard>>,
}

impl Thief {
    fn told(&self, heard: &Heard) {
        // After the test nobody listens.
        let _ = self.heard.lock().unwrap().send(heard.clone());
    }
}

impl ArtifactHandler for Thief {
    fn on_advert(&self, _: u8, heard: &Heard) {
        self.told(heard);
    }

    fn on_request(&self, _: u8, heard: &Heard) {
        self.told(heard);
    }

    fn on_piece(&self, _: u8, heard: &Heard) {
        self.told(heard);
    }

    fn on_retransmission(&self, _: u8, heard: &Heard) {
        self.told(heard);
    }

    fn on_peer_up(&self, peer: u8) {
        let exchange = Exchange { epoch: EPOCH, version: 2, since: None, filter: None };
        self.voice.say(peer, &Word::Exchange(exchange), &[], PATIENCE).unwrap();
    }
}

/// The first may do all with all topics, and the thief with `public.>` alone.
fn rules() -> Acl {
    let rule = |identity: &str, pattern: &str| {
        let (publish, subscribe) = (vec![pattern.to_owned()], vec![pattern.to_owned()]);
        AclRule { identity: identity.into(), publish, subscribe, ..AclRule::default() }
    };
    Acl::new([rule("node/0", ">"), rule("node/*", "public.>")]).unwrap()
}

fn slot_of(slot: u32) -> Reference {
    Reference { node: NodeIndex(1), epoch: EPOCH, slot: SlotNumber(slot), version: u64::from(slot) + 1 }
}

/// A node that has two artifacts on topics that the thief may not see, one of its own and one of another node; and the thief, which offers both of them on topics that it may.
struct Stage {
    host: Host,
    _first: Host,
    _directory: Directory,
    _bus: Bus,
    _thief: Node,
    voice: Voice,
    heard: Receiver<Heard>,
    ids: [ArtifactId; 2],
    sent: Vec<u8>,
}

fn stage() -> Stage {
    let store = Directory::new();
    let host = Host::built(9, &[], |node| node.acl(rules()).artifact_store(store.path().join("store")));
    let first = Host::new(0, &[(9, host.address())]);
    let mut here = subscribe(&host, ">");
    let offer = |host: &Host, topic: &str, sent: &[u8]| {
        host.bus.artifacts(topic).unwrap().offer(sent).keep().open().unwrap().id()
    };
    let sent = body(SIZE, 1);
    let ids = [offer(&first, "secret.told", &sent), offer(&host, "secret.own", &body(SIZE, 2))];
    let mut got = [receive(&mut here).advert().id(), receive(&mut here).advert().id()];
    got.sort();
    assert!(got.contains(&ids[0]) && got.contains(&ids[1]));

    let (directory, voice, (come, heard)) = (Directory::new(), Voice::new(), channel());
    let bus = join(directory.path());
    let thief = Arc::new(Thief { voice: voice.clone(), heard: Mutex::new(come) });
    let builder = Node::builder().cluster("swarm").index(1).peer(9, &host.address().to_string());
    let thief = builder.artifact_handler(thief, &voice, Workers::builder()).open(&bus).unwrap();
    let stage = Stage {
        host,
        _first: first,
        _directory: directory,
        _bus: bus,
        _thief: thief,
        voice,
        heard,
        ids,
        sent,
    };
    stage.next(|word| matches!(word, Word::Exchange(_)).then_some(()));
    let slots = ids.iter().zip(0..).map(|(id, slot)| {
        let (topic, content) =
            (Topic::new("public.a").unwrap(), Content::Apart { id: *id, size: SIZE as u64 });
        let offer = Some(Offer { topic, attribute: Vec::new(), confirm: true, content });
        Slot { slot: SlotNumber(slot), version: u64::from(slot) + 1, offer }
    });
    let tell = Tell { exchanges: 1, through: 2, slots: slots.collect() };
    stage.voice.say(9, &Word::Tell(tell), &[], PATIENCE).unwrap();
    stage
}

impl Stage {
    /// The next word of which something is wanted. Nothing that comes may give bytes, or say that they are here.
    fn next<T>(&self, wanted: impl Fn(&Word) -> Option<T>) -> T {
        loop {
            let heard = self.heard.recv_timeout(PATIENCE).expect("it says something");
            let word = heard.word;
            assert!(!matches!(word, Word::Chunk { .. }), "it gives what was never given to it: {word:?}");
            if let Word::Marks(marks) = &word {
                let has = |standing| standing == Standing::Has;
                let told = marks.of.iter().any(|of| of.marks.iter().any(|mark| has(mark.standing)));
                assert!(!told, "it says that it has it: {word:?}");
            }
            if let Some(wanted) = wanted(&word) {
                return wanted;
            }
        }
    }

    fn say(&self, word: &Word, following: &[u8]) {
        self.voice.say(9, word, following, PATIENCE).unwrap();
    }
}

#[test]
fn an_id_that_is_known_opens_no_bytes_of_other_topics_on_any_way_that_shows_them() {
    let stage = stage();
    // It wants them, and asks for all of them, though it has them on other topics.
    let mut asked = [false; 2];
    while asked != [true; 2] {
        let of = stage.next(|word| match word {
            Word::Request { of, part: Part::Tree, .. } => Some(*of),
            _ => None,
        });
        assert_eq!(of, slot_of(of.slot.0));
        asked[of.slot.0 as usize] = true;
    }
    // By asking for what it has offered itself the thief is given nothing.
    let mut refused = 0;
    for (request, part) in [(1, Part::Tree), (2, Part::Piece { index: 0 }), (3, Part::Piece { index: 4 })] {
        for slot in 0..2 {
            let request = 10 * request + u64::from(slot);
            stage.say(&Word::Request { request, of: slot_of(slot), part, offset: 0 }, &[]);
            let not_found = |word: &Word| match word {
                Word::NotFound { request } => Some(*request),
                _ => None,
            };
            assert_eq!(stage.next(not_found), request);
            refused += 1;
        }
    }
    // Nor are those who come to that topic, in this process or in another.
    let program = join(stage.host.directory());
    for bus in [&stage.host.bus, &program] {
        let public = bus.artifacts("public.>").unwrap();
        assert!(public.list().unwrap().iter().all(|listed| !listed.here));
        for id in stage.ids {
            let got = public.fetch(id, Duration::from_millis(100));
            assert_eq!(got.unwrap_err().code(), Code::TimedOut);
        }
        let all = bus.artifacts(">").unwrap();
        let got = all.fetch(stage.ids[0], PATIENCE).unwrap();
        assert!(got.advert().topic() == "secret.told" && got.bytes().unwrap()[..] == stage.sent[..]);
    }
    println!("evidence: offered=2 asked_for=2 requests_refused={refused} shown_on_the_other_topic=0");
}
