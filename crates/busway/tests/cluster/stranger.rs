//! A client of a replica that is of our own making, and says for whom it likes to speak.

use std::io::Write;
use std::net::SocketAddr;

use busway_wire::link::{Frame, Retire};
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Seed, Topic, cluster_id};

use crate::peer::{Stranger as Peer, announce};

pub(crate) struct Stranger {
    peer: Peer,
    cluster: u64,
    /// The start of the replica that it talks to.
    instance: u64,
}

impl Stranger {
    /// A client of this id that is let in.
    pub(crate) fn client(id: u64, cluster: &str, replica: SocketAddr) -> Self {
        let (peer, said) = Peer::client(cluster, id, replica);
        Self { peer, cluster: cluster_id(cluster), instance: said.instance }
    }

    fn topic(&self, client: u64) -> Topic {
        let instance = self.instance;
        Topic::reserved(&format!("$cluster.to.node.0.{instance:016x}.from.client.{client:016x}")).unwrap()
    }

    /// Announces a source as that of `client`.
    pub(crate) fn announce(&mut self, source: u64, client: u64) -> PortId {
        let source = PortId(source);
        let topic = self.topic(client);
        self.peer.say(&announce(source, topic, true));
        source
    }

    /// Ends a source that has sent nothing.
    pub(crate) fn retire(&mut self, source: PortId) {
        self.peer.say(&Frame::Retire(Retire { source, last: 0 }));
    }

    /// The next source that is accepted.
    pub(crate) fn accepted(&mut self) -> PortId {
        match self.peer.hear_until(|frame| matches!(frame, Frame::Accept(_))) {
            Frame::Accept(accept) => accept.source,
            other => panic!("{other:?}"),
        }
    }

    /// The source that is accepted before the next answer to a ping, if there is one.
    pub(crate) fn accepted_meanwhile(&mut self) -> Option<PortId> {
        self.peer.say(&Frame::Ping { stamp: 1 });
        match self.peer.hear_until(|frame| matches!(frame, Frame::Accept(_) | Frame::Pong { .. })) {
            Frame::Accept(accept) => Some(accept.source),
            _ => None,
        }
    }

    pub(crate) fn publish(&mut self, source: PortId, sequence: u64, client: u64, payload: &[u8]) {
        let mut header = Header::new(Kind::Publish);
        header.size.set(u32::try_from(HEADER_SIZE + payload.len()).unwrap());
        header.topic.set(self.topic(client).id().0);
        header.source.set(source.0);
        header.sequence.set(sequence);
        header.seal_seeded(payload, Seed(self.cluster)).unwrap();
        self.peer.stream.write_all(&[header.bytes(), payload].concat()).unwrap();
    }
}
