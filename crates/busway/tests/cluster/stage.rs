//! What the tests of clusters share: a directory and a name of their own, replicas, clients, numbered messages.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use busway::cluster::{Client, Endpoint, Message, Outcome, Peer, Replica, ReplicaBuilder};
use busway_shm::clock::Deadline;

/// Far longer than anything takes, also on a machine that does ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One test's cluster. Its directory is removed at the end.
pub(crate) struct Stage {
    directory: PathBuf,
    cluster: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let random = fastrand::u64(..);
        let directory =
            std::env::temp_dir().join(format!("busway-cluster-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        Self { directory, cluster: format!("test-{random:x}") }
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn builder(&self, index: u8) -> ReplicaBuilder {
        let loopback = "127.0.0.1:0".parse().unwrap();
        Replica::builder(&self.cluster, index).listen(loopback).directory(&self.directory)
    }

    /// So many replicas that are linked; the one with the highest index first, as the lower ones connect to it.
    pub(crate) fn replicas(&self, count: u8) -> Vec<Replica> {
        let mut replicas: Vec<Replica> = Vec::new();
        for index in (0..count).rev() {
            let above = (index + 1..count).zip(replicas.iter().rev().map(|replica| replica.listening()[0]));
            let builder = above.fold(self.builder(index), |builder, (peer, address)| {
                builder.peer(peer, &address.to_string())
            });
            replicas.push(builder.open().unwrap());
        }
        replicas.reverse();
        for replica in &replicas {
            until("all replicas are linked", || replica.connected().len() + 1 == usize::from(count));
        }
        replicas
    }

    pub(crate) fn client(&self, id: u64, replicas: &[Replica]) -> Client {
        let addresses: Vec<(u8, SocketAddr)> =
            (0..).zip(replicas.iter().map(|replica| replica.listening()[0])).collect();
        self.client_at(id, &addresses)
    }

    pub(crate) fn client_at(&self, id: u64, addresses: &[(u8, SocketAddr)]) -> Client {
        let builder = Client::builder(&self.cluster, id).directory(&self.directory);
        let builder = addresses
            .iter()
            .fold(builder, |builder, (index, address)| builder.replica(*index, &address.to_string()));
        builder.open().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends a number, again while there is no room or no link.
pub(crate) fn send(from: &Endpoint, to: Peer, number: u64) {
    until("it can be sent", || match from.send(to, &number.to_le_bytes()) {
        Outcome::Queued => true,
        Outcome::Full | Outcome::NotConnected => false,
        outcome => panic!("{outcome:?}"),
    });
}

pub(crate) fn receive(endpoint: &Endpoint) -> Message {
    endpoint.recv(PATIENCE).unwrap().expect("a message")
}

/// The number that a message begins with.
pub(crate) fn number(message: &Message) -> u64 {
    u64::from_le_bytes(*message.first_chunk().unwrap())
}

/// Waits for what must come.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "in vain: {what}");
        std::thread::yield_now();
    }
}
