//! Nodes of one cluster, each on a host of its own as far as it knows: another domain, another arena.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busway::artifacts::{Artifact, Event, Subscriber};
use busway::{Acl, Bus, Node, NodeBuilder};
use busway_shm::clock::Deadline;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let random = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("busway-artifacts-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node and its domain.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) bus: Bus,
    directory: Directory,
}

impl Host {
    /// The node of this index, which connects to those.
    pub(crate) fn new(index: u8, peers: &[(u8, SocketAddr)]) -> Self {
        Self::with_rules(index, peers, None)
    }

    /// The same with these rules.
    pub(crate) fn with_rules(index: u8, peers: &[(u8, SocketAddr)], acl: Option<Acl>) -> Self {
        Self::built(index, peers, |builder| match acl {
            Some(acl) => builder.acl(acl),
            None => builder,
        })
    }

    /// The same with these settings.
    pub(crate) fn built(
        index: u8,
        peers: &[(u8, SocketAddr)],
        settings: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Self {
        let directory = Directory::new();
        let bus = join(directory.path());
        let node = settings(builder(index, peers)).open(&bus).unwrap();
        Self { node, bus, directory }
    }

    /// Where its domain is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.listening()[0]
    }
}

pub(crate) fn join(directory: &Path) -> Bus {
    Bus::builder().directory(directory).domain("swarm").arena_bytes(1 << 30).open().unwrap()
}

fn builder(index: u8, peers: &[(u8, SocketAddr)]) -> NodeBuilder {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let builder = Node::builder().cluster("swarm").index(index).listen(loopback);
    peers.iter().fold(builder, |builder, (peer, address)| builder.peer(*peer, &address.to_string()))
}

/// Three nodes, each linked to each other.
pub(crate) fn three() -> [Host; 3] {
    let last = Host::new(2, &[]);
    let middle = Host::new(1, &[(2, last.address())]);
    let first = Host::new(0, &[(1, middle.address()), (2, last.address())]);
    for host in [&first, &middle, &last] {
        assert!(host.node.wait_for_peers(2, PATIENCE));
    }
    [first, middle, last]
}

/// Three nodes, of which the first and the last are linked to the one between alone.
pub(crate) fn chain() -> [Host; 3] {
    let last = Host::new(2, &[]);
    let middle = Host::new(1, &[(2, last.address())]);
    let first = Host::new(0, &[(1, middle.address())]);
    assert!(first.node.wait_for_peers(1, PATIENCE) && last.node.wait_for_peers(1, PATIENCE));
    assert!(middle.node.wait_for_peers(2, PATIENCE));
    [first, middle, last]
}

pub(crate) fn subscribe(host: &Host, pattern: &str) -> Subscriber {
    host.bus.artifacts(pattern).unwrap().subscriber().open().unwrap()
}

pub(crate) fn receive(subscriber: &mut Subscriber) -> Artifact {
    match subscriber.recv_timeout(PATIENCE).unwrap().expect("something comes") {
        Event::Received(artifact) => artifact,
        other => panic!("{other:?}"),
    }
}

/// Bytes of this size that nothing else has.
pub(crate) fn body(size: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut body = vec![0; size];
    random.fill(&mut body);
    body
}

/// Waits for what must come.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "in vain: {what}");
        std::thread::yield_now();
    }
}
