//! What is changed while links stand: peers that come, move and go, clients, and who is told to go.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use busway::{
    Bus, Code, LinkState, Node, NodeBuilder, PEERS_TOPIC, Pattern, PeerStatus, PeerView, Policy, Topic,
};
use busway_shm::clock::Deadline;

/// Only a defect takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A host: a domain of its own, and a node.
struct Host {
    node: Node,
    bus: Bus,
    _directory: Directory,
}

impl Host {
    fn new(how: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Host {
        let path = std::env::temp_dir().join(format!("busway-changes-{:016x}", fastrand::u64(..)));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        let directory = Directory(path);
        let bus =
            Bus::builder().directory(&directory.0).domain("changes").arena_bytes(1 << 30).open().unwrap();
        let node = how(Node::builder().cluster("test")).open(&bus).unwrap();
        Host { node, bus, _directory: directory }
    }

    fn listening(index: u8) -> Host {
        Host::new(|builder| builder.index(index).listen("127.0.0.1:0".parse().unwrap()))
    }

    fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }

    /// Waits until the links are as `wanted`: the node says so at each change.
    fn until(&self, what: &str, wanted: impl Fn(&[PeerView]) -> bool) {
        let pattern = Pattern::Exact(Topic::reserved(PEERS_TOPIC).unwrap());
        let mut changes = self.bus.subscriber_of(pattern).history(1).open().unwrap();
        let deadline = Deadline::after(PATIENCE);
        loop {
            let peers = self.node.peers();
            if wanted(&peers) {
                return;
            }
            let left = deadline.remaining().unwrap_or(PATIENCE);
            assert!(!left.is_zero(), "{what}: {peers:?}");
            let said = changes.recv_timeout(left).unwrap();
            said.map(|said| said.json::<Vec<PeerStatus>>().unwrap());
        }
    }
}

fn connected(peers: &[PeerView]) -> Vec<&str> {
    peers.iter().filter(|peer| peer.state == LinkState::Connected).map(|peer| peer.peer.as_str()).collect()
}

fn error_of(peers: &[PeerView], name: &str, part: &str) -> bool {
    peers.iter().any(|peer| peer.peer == name && peer.last_error.as_deref().is_some_and(|e| e.contains(part)))
}

fn list(peers: &[(u8, SocketAddr)]) -> BTreeMap<u8, String> {
    peers.iter().map(|(index, address)| (*index, address.to_string())).collect()
}

#[test]
fn peers_come_and_go_while_the_others_stay_linked() {
    let (first, second) = (Host::listening(1), Host::listening(2));
    let near = Host::new(|builder| builder.index(0).peer(1, &first.address().to_string()));
    near.until("the first", |peers| connected(peers) == ["node 1"]);
    near.node.set_peers(list(&[(1, first.address()), (2, second.address())])).unwrap();
    near.until("the second", |peers| connected(peers) == ["node 1", "node 2"]);
    second.until("the second sees it too", |peers| connected(peers) == ["node 0"]);
    near.node.set_peers(list(&[(2, second.address())])).unwrap();
    near.until("without the first", |peers| peers.len() == 1 && connected(peers) == ["node 2"]);
    first.until("it is told why", |peers| error_of(peers, "node 0", "taken from the list"));
    let untouched = second.node.peers();
    assert_eq!(connected(&untouched), ["node 0"], "who was not changed is not disturbed");
    assert_eq!(untouched[0].last_error, None);
    // And back.
    near.node.set_peers(list(&[(1, first.address()), (2, second.address())])).unwrap();
    near.until("the first again", |peers| connected(peers) == ["node 1", "node 2"]);
}

#[test]
fn what_a_peer_wanted_is_forgotten_with_it() {
    let (first, second) = (Host::listening(1), Host::listening(2));
    let addresses = [&first, &second].map(|host| host.address().to_string());
    let near = Host::new(|builder| builder.index(0).peer(1, &addresses[0]).peer(2, &addresses[1]));
    near.until("both", |peers| connected(peers) == ["node 1", "node 2"]);
    let _wants = first.bus.subscriber("gated").policy(Policy::Block).open().unwrap();
    let publisher = near.bus.publisher("gated").open().unwrap();
    assert_eq!(publisher.wait_for_subscribers(1, PATIENCE).unwrap(), 1);
    near.node.set_peers(list(&[(2, second.address())])).unwrap();
    near.until("without the first", |peers| peers.len() == 1 && connected(peers) == ["node 2"]);
    let deadline = Deadline::after(PATIENCE);
    while publisher.subscribers() > 0 {
        assert!(!deadline.expired(), "who was taken from the list still holds the publisher up");
        std::thread::yield_now();
    }
}

#[test]
fn a_peer_that_has_moved_is_dialed_at_its_new_address() {
    let (old, new) = (Host::listening(1), Host::listening(1));
    let near = Host::new(|builder| builder.index(0).peer(1, &old.address().to_string()));
    near.until("the old address", |peers| connected(peers) == ["node 1"]);
    near.node.set_peers(list(&[(1, new.address())])).unwrap();
    new.until("the new address", |peers| connected(peers) == ["node 0"]);
    near.until("it is shown", |peers| {
        connected(peers) == ["node 1"] && peers[0].address == new.address().to_string()
    });
    old.until("the old one is told", |peers| error_of(peers, "node 0", "another address"));
}

#[test]
fn who_is_kicked_reads_why_and_comes_back() {
    let far = Host::listening(1);
    let near = Host::new(|builder| builder.index(0).peer(1, &far.address().to_string()));
    for (kicker, victim, peer, other) in
        [(&far, &near, "node 0", "node 1"), (&near, &far, "node 1", "node 0")]
    {
        kicker.until("linked", |peers| connected(peers) == [peer]);
        victim.until("linked", |peers| connected(peers) == [other]);
        // The link that is seen may be the one of before, which is just ending.
        kicker.until("kicked", |_| kicker.node.kick(peer));
        victim.until("told why", |peers| {
            error_of(peers, other, "a person has ended the link") || connected(peers) == [other]
        });
        victim.until("back", |peers| connected(peers) == [other]);
    }
    assert!(!near.node.kick("node 7") && !near.node.kick(""), "there is nobody of this name");
}

#[test]
fn with_room_for_fewer_clients_some_go_and_what_cannot_be_is_refused() {
    let home = Host::listening(0);
    let address = home.address().to_string();
    let clients: Vec<Host> =
        (1..=3).map(|id| Host::new(|builder| builder.client(id).peer(0, &address))).collect();
    home.until("all", |peers| connected(peers).len() == 3);
    home.node.set_clients_max(1);
    home.until("one", |peers| connected(peers).len() == 1);
    home.node.set_clients_max(3);
    // Those who went were asked to stay away for some seconds.
    home.until("all again", |peers| connected(peers).len() == 3);
    let refused = |peers: BTreeMap<u8, String>, host: &Host| host.node.set_peers(peers).unwrap_err().code();
    assert_eq!(refused(list(&[(0, home.address())]), &home), Code::BadSetting);
    assert_eq!(refused(list(&[(64, home.address())]), &home), Code::BadSetting);
    assert_eq!(refused(BTreeMap::new(), &clients[0]), Code::BadSetting);
    // Who has come back may see its link a moment later than the other end.
    clients[0].until("nothing has changed", |peers| connected(peers) == ["node 0"]);
}
