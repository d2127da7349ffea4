//! Those who connect and are nobody: they say nothing, or noise, or that they are who they are not.
//!
//! Invariant: a stranger costs a node what the membership allows it, and nobody else anything.

use busway_protocol::{Config, PeerId};
use busway_wire::Seed;
use busway_wire::link::{Frame, encode};

use super::{CLUSTER, World};
use crate::network::{End, Notice, Read, Side};

/// Strangers of one fault, at most.
const STRANGERS_MAX: u64 = 100;

impl World {
    /// Strangers connect to a host.
    pub(super) fn strangers_come(&mut self, host: usize, amount: u64) -> Vec<u64> {
        let outside = self.crowd().outside();
        let count = 1 + amount % STRANGERS_MAX;
        let mut connections = Vec::new();
        for number in 0..count {
            let end = self.network.dial(self.now, outside, host);
            let words = self.stranger_says(host, amount.wrapping_add(number));
            self.strangers.insert(end.connection, words);
            connections.push(end.connection);
        }
        connections
    }

    fn stranger_says(&self, host: usize, kind: u64) -> Vec<u8> {
        let hello = |cluster: u64, identity: PeerId| {
            let mut bytes = Vec::new();
            let hello = Config::new(cluster, identity, kind + 1).hello;
            encode(&Frame::Hello(hello), Seed(cluster), &mut bytes).expect("a hello without a name fits");
            bytes
        };
        match kind % 6 {
            0 => hello(CLUSTER + 1, PeerId::Client { id: 1 << 40 }),
            1 => hello(CLUSTER, self.peer(host)),
            2 => hello(CLUSTER, PeerId::Node { index: 63 }),
            3 => hello(CLUSTER, PeerId::Client { id: 1 << 40 })[..40].to_vec(),
            4 => vec![0x5a; 300],
            _ => Vec::new(),
        }
    }

    pub(super) fn stranger_hears(&mut self, end: End, notice: Notice) {
        match notice {
            Notice::Connected => {
                let words = self.strangers.get(&end.connection).cloned().unwrap_or_default();
                self.network.write(self.now, end, &words);
            }
            Notice::Readable => while let Read::Bytes(_) = self.network.read(self.now, end, usize::MAX) {},
            Notice::Refused | Notice::Reset => {
                self.strangers.remove(&end.connection);
                self.network.close(self.now, end);
            }
            Notice::Accepted | Notice::Writable => {}
        }
    }

    /// The strangers have had enough.
    pub(super) fn strangers_leave(&mut self, connections: &[u64]) {
        for &connection in connections {
            if self.strangers.remove(&connection).is_some() {
                self.network.close(self.now, End { connection, side: Side::Dialer });
            }
        }
    }
}
