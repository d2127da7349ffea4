//! Two hosts on one: two domains that share nothing, each with a node, linked over the loopback.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use busway::{Acl, Bus, Node};
use busway_shm::clock::Deadline;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let random = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("busway-work-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A host: a domain of its own, and a node.
pub(crate) struct Host {
    pub(crate) node: Option<Node>,
    pub(crate) bus: Bus,
    pub(crate) directory: Directory,
}

impl Host {
    pub(crate) fn new(index: u8, peers: &[(u8, SocketAddr)]) -> Self {
        let directory = Directory::new();
        let bus = join(&directory.0, "host");
        let mut host = Self { node: None, bus, directory };
        host.start(index, "127.0.0.1:0".parse().unwrap(), peers);
        host
    }

    /// Starts its node, which before that it must not have.
    pub(crate) fn start(&mut self, index: u8, listen: SocketAddr, peers: &[(u8, SocketAddr)]) {
        let builder = Node::builder().cluster("work").index(index).listen(listen);
        let builder =
            peers.iter().fold(builder, |builder, (peer, address)| builder.peer(*peer, &address.to_string()));
        self.node = Some(builder.open(&self.bus).unwrap());
    }

    /// As [`Host::new`], of a node with these rules.
    pub(crate) fn with_rules(index: u8, acl: Acl) -> Self {
        let directory = Directory::new();
        let bus = join(&directory.0, "host");
        let node = Node::builder().cluster("work").index(index).listen("127.0.0.1:0".parse().unwrap());
        let node = Some(node.acl(acl).open(&bus).unwrap());
        Self { node, bus, directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.as_ref().unwrap().listening()[0]
    }

    pub(crate) fn wait_for_peers(&self, count: usize) {
        let node = self.node.as_ref().unwrap();
        assert!(node.wait_for_peers(count, PATIENCE), "{:?}", node.peers());
    }
}

pub(crate) fn join(directory: &std::path::Path, name: &str) -> Bus {
    let builder = Bus::builder().directory(directory).domain("work").name(name);
    builder.arena_bytes(1 << 30).timeout(PATIENCE).open().unwrap()
}

/// Two hosts that are linked: the lower index dials.
pub(crate) fn two_hosts() -> (Host, Host) {
    let far = Host::new(1, &[]);
    let near = Host::new(0, &[(1, far.address())]);
    near.wait_for_peers(1);
    far.wait_for_peers(1);
    (near, far)
}

/// Waits for what must come.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "in vain: {what}");
        std::thread::yield_now();
    }
}

/// How many messages were laid out on a topic of a domain, by who publishes there.
pub(crate) fn laid_out(bus: &Bus, topic: &str) -> u64 {
    let topics = bus.inspect().unwrap().topics;
    let publishers = topics.iter().filter(|view| view.topic == topic).flat_map(|view| &view.publishers);
    publishers.map(|publisher| publisher.sent).sum()
}
