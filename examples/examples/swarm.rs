//! A program that decides about artifacts itself: it stands before the machine of its node, counts what peers say and wants no drafts.
//!
//! Two nodes, each of a domain of its own; the second has the handler. `cargo run -p busway-examples --example swarm`

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::artifacts::{ArtifactHandler, Flow, Heard, Interest, SwarmHandler, Voice, Workers};
use busway::{Bus, Error, Node};

const PATIENCE: Duration = Duration::from_secs(10);

/// Passes on what comes. One that decides otherwise does otherwise here, and speaks by a `Voice`.
struct Door {
    machine: SwarmHandler,
}

impl ArtifactHandler for Door {
    fn on_advert(&self, from: u8, advert: &Heard) {
        self.machine.on_advert(from, advert);
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.machine.on_request(from, request);
    }

    fn on_piece(&self, from: u8, piece: &Heard) {
        eprintln!("node {from} gives {} bytes", piece.following.len());
        self.machine.on_piece(from, piece);
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.machine.on_retransmission(from, request);
    }

    fn on_timer(&self) {
        self.machine.on_timer();
    }

    fn next_word(&self, to: u8, flow: Flow) -> Option<Heard> {
        self.machine.next_word(to, flow)
    }

    fn on_peer_up(&self, peer: u8) {
        eprintln!("node {peer} is linked");
        self.machine.on_peer_up(peer);
    }

    fn on_peer_down(&self, peer: u8) {
        self.machine.on_peer_down(peer);
    }
}

fn main() -> Result<(), Error> {
    let giving = Bus::open("example-swarm-giving")?;
    let giver = Node::builder().index(1).listen("127.0.0.1:0".parse().expect("an address")).open(&giving)?;
    let _draft = giving.artifacts("draft.one")?.offer(b"not finished").open()?;
    let _page = giving.artifacts("page.one")?.offer(&[7; 100_000]).open()?;

    let taking = Bus::open("example-swarm-taking")?;
    let (voice, (came, comes)) = (Voice::new(), channel());
    let came = Mutex::new(came);
    let wanted = |advert: &busway::artifacts::Advert| {
        if advert.topic().starts_with("draft.") { Interest::Drop } else { Interest::Fetch }
    };
    let machine = SwarmHandler::new(0, &voice, wanted, move |advert, body| {
        let came = came.lock().expect("nothing panics with it");
        // Who waits for it has ended with the program.
        let _ = came.send((advert.topic().to_owned(), body.len()));
    });
    // The lower index dials the higher.
    let builder = Node::builder().index(0).peer(1, &giver.listening()[0].to_string());
    // A flow of its own size: two threads, and as many pieces at a time as the handler can have.
    let workers = Workers::builder().workers(Flow::Chunk, 2);
    let taker = builder.artifact_handler(Arc::new(Door { machine }), &voice, workers).open(&taking)?;

    let (topic, bytes) = comes.recv_timeout(PATIENCE).expect("it comes");
    let pieces = taker.artifact_flow(Flow::Chunk);
    eprintln!(
        "{topic}: {bytes} bytes in {} pieces, {} us in the handler",
        pieces.handled,
        pieces.handler_ns / 1_000
    );
    assert_eq!((topic.as_str(), bytes), ("page.one", 100_000));
    assert!(comes.try_recv().is_err(), "no draft is wanted");
    Ok(())
}
