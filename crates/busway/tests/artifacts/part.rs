//! A node in a process of its own, so that it can be killed, and what it is told to do line by line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use busway::artifacts::{Event, Offer};
use busway::{Bus, LinkState, Node, PeerView};
use busway_shm::clock::monotonic_ns;

use crate::stage::{body, join, until};

const DIRECTORY: &str = "BUSWAY_ARTIFACTS_DIRECTORY";
const INDEX: &str = "BUSWAY_ARTIFACTS_INDEX";
const LISTEN: &str = "BUSWAY_ARTIFACTS_LISTEN";
const PEERS: &str = "BUSWAY_ARTIFACTS_PEERS";
const STORE: &str = "BUSWAY_ARTIFACTS_STORE";
const TOPIC: &str = "block.new";

/// A node that runs.
pub(crate) struct Part {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
    pub(crate) address: String,
}

impl Part {
    /// Starts the node of this index in a domain in this directory, which subscribes to all artifacts.
    pub(crate) fn start(directory: &Path, index: u8, listen: &str, peers: &[(u8, &str)]) -> Self {
        Self::with_store(directory, index, listen, peers, "")
    }

    /// The same, which has its large artifacts in that directory, and says how much of them is here.
    pub(crate) fn with_store(
        directory: &Path,
        index: u8,
        listen: &str,
        peers: &[(u8, &str)],
        store: &str,
    ) -> Self {
        let peers: Vec<String> = peers.iter().map(|(index, address)| format!("{index}={address}")).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part::is_a_node_if_it_was_started_as_one", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .env(INDEX, index.to_string())
            .env(LISTEN, listen)
            .env(PEERS, peers.join(","))
            .env(STORE, store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut part = Self { child, stdin, stdout, address: String::new() };
        part.address = part.hear("ready");
        part
    }

    /// Tells it to do this.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits for the next line that it says, which begins with this word; the rest of it.
    pub(crate) fn hear(&mut self, word: &str) -> String {
        let line = self.hear_any();
        let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
        assert_eq!(first, word, "{line}");
        rest.to_owned()
    }

    /// Waits for the next line that it says.
    pub(crate) fn hear_any(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the part has ended");
            // The harness says something in the same line.
            if let Some((_, said)) = line.split_once('@') {
                return said.trim_end().to_owned();
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.address.clone()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("@{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// Ends the link to this peer, and waits for the next.
fn kick(node: &Node, name: &str) {
    let begun_ns = monotonic_ns();
    assert!(node.kick(name));
    until("there is another link", || {
        let since = Duration::from_nanos(monotonic_ns() - begun_ns);
        let is_new = |peer: &PeerView| peer.state == LinkState::Connected && peer.age < since;
        node.peers().iter().any(|peer| peer.peer == name && is_new(peer))
    });
}

/// Offers, withdraws, and says what it has counted.
fn obey(bus: &Bus, node: &Node) {
    let mut offers: BTreeMap<u64, Offer> = BTreeMap::new();
    let artifacts = bus.artifacts(TOPIC).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (word, seed) = (words.next().unwrap(), words.next().map(|seed| seed.parse().unwrap()));
        match (word, seed) {
            ("offer", Some(seed)) => {
                let offer = artifacts.offer(&body(20_000, seed)).attribute(&seed.to_le_bytes());
                offers.insert(seed, offer.open().unwrap());
            }
            ("withdraw", Some(seed)) => offers.remove(&seed).unwrap().withdraw(),
            ("kick", Some(index)) => {
                kick(node, &format!("node {index}"));
                say("kicked");
            }
            ("count", None) => {
                let counts = artifacts.counts();
                let dropped: u64 = counts.dropped.iter().sum();
                let sum = counts.handled + counts.coalesced + dropped;
                say(&format!("counted {} {sum} {}", counts.told, counts.bytes_useful));
            }
            _ => panic!("no such word: {line}"),
        }
    }
}

#[test]
fn is_a_node_if_it_was_started_as_one() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let bus = join(Path::new(&directory));
    let index = std::env::var(INDEX).unwrap().parse().unwrap();
    let listen = std::env::var(LISTEN).unwrap().parse().unwrap();
    let peers = std::env::var(PEERS).unwrap();
    let peers = peers.split_terminator(',').map(|peer| peer.split_once('=').unwrap());
    let builder = Node::builder().cluster("swarm").index(index).listen(listen);
    let builder =
        peers.fold(builder, |builder, (index, address)| builder.peer(index.parse().unwrap(), address));
    let store = std::env::var(STORE).unwrap();
    let builder = if store.is_empty() { builder } else { builder.artifact_store(&store) };
    let node = builder.open(&bus).unwrap();
    let subscriber = bus.artifacts(">").unwrap().subscriber();
    let subscriber = if store.is_empty() { subscriber } else { subscriber.progress() };
    let mut subscriber = subscriber.open().unwrap();
    say(&format!("ready {}", node.listening()[0]));
    std::thread::spawn(move || {
        loop {
            // Until the process ends.
            let Some(event) = subscriber.recv_timeout(Duration::from_secs(3_600)).unwrap() else { continue };
            let seed_of = |attribute: &[u8]| u64::from_le_bytes(attribute.try_into().unwrap());
            match event {
                Event::Received(artifact) => {
                    let seed = seed_of(artifact.advert().attribute());
                    let size = usize::try_from(artifact.size()).unwrap();
                    assert!(artifact.bytes().unwrap()[..] == body(size, seed)[..]);
                    say(&format!("received {seed}"));
                }
                Event::Progress { have, .. } => say(&format!("progress {have}")),
                Event::Withdrawn(advert) => say(&format!("withdrawn {}", seed_of(advert.attribute()))),
                other => panic!("{other:?}"),
            }
        }
    });
    obey(&bus, &node);
}
