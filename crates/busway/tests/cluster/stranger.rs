//! A client of our own making, that says what it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use busway_wire::link::{Announce, Frame, Hello, Identity, decode, encode};
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Seed, Topic, cluster_id};

use zerocopy::FromBytes;

use crate::stage::PATIENCE;

pub(crate) struct Stranger {
    stream: TcpStream,
    cluster: u64,
    /// The start of the replica that it talks to.
    instance: u64,
}

impl Stranger {
    /// A client of this id that is let in.
    pub(crate) fn client(id: u64, cluster: &str, replica: SocketAddr) -> Self {
        let stream = TcpStream::connect(replica).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stranger = Self { stream, cluster: cluster_id(cluster), instance: 0 };
        stranger.say(&Frame::Hello(Hello {
            cluster: stranger.cluster,
            identity: Identity::Client { id },
            instance: 7,
            name: "stranger".to_owned(),
            message_bytes_max: u32::MAX,
            credit_messages: 1 << 20,
            credit_bytes: 1 << 40,
            window_messages: 1 << 20,
            window_bytes: 1 << 40,
            token: Vec::new(),
            features: 0,
        }));
        match stranger.hear() {
            Frame::Hello(hello) => stranger.instance = hello.instance,
            other => panic!("{other:?}"),
        }
        stranger
    }

    fn topic(&self, client: u64) -> Topic {
        let instance = self.instance;
        Topic::reserved(&format!("$cluster.to.node.0.{instance:016x}.from.client.{client:016x}")).unwrap()
    }

    /// Announces a source as that of `client`.
    pub(crate) fn announce(&mut self, source: u64, client: u64) -> PortId {
        let source = PortId(source);
        self.say(&Frame::Announce(Announce {
            source,
            topic: self.topic(client),
            publisher: String::new(),
            process: String::new(),
            host: String::new(),
            created_ns: 0,
            reliable: true,
            resumes: false,
        }));
        source
    }

    pub(crate) fn wait_for_accept(&mut self, source: PortId) {
        loop {
            if let Frame::Accept(accept) = self.hear() {
                assert_eq!(accept.source, source, "only this one is accepted");
                return;
            }
        }
    }

    pub(crate) fn publish(&mut self, source: PortId, sequence: u64, client: u64, payload: &[u8]) {
        let mut header = Header::new(Kind::Publish);
        header.size.set(u32::try_from(HEADER_SIZE + payload.len()).unwrap());
        header.topic.set(self.topic(client).id().0);
        header.source.set(source.0);
        header.sequence.set(sequence);
        header.seal_seeded(payload, Seed(self.cluster)).unwrap();
        self.stream.write_all(&[header.bytes(), payload].concat()).unwrap();
    }

    fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        encode(frame, Seed(self.cluster), &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> Frame {
        let mut head = [0; HEADER_SIZE];
        self.stream.read_exact(&mut head).unwrap();
        let header = Header::read_from_bytes(&head[..]).unwrap();
        let mut body = vec![0; usize::try_from(header.size.get()).unwrap() - HEADER_SIZE];
        self.stream.read_exact(&mut body).unwrap();
        decode(&header, &body).unwrap()
    }
}
