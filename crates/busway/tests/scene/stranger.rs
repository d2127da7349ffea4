//! A peer of our own making at a node: it says what it is told to, as the link's frames or as any bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use busway_wire::link::{Announce, Frame, Hello, Identity, decode, encode};
use busway_wire::{HEADER_SIZE, Header, PortId, Seed, Topic, cluster_id};
use zerocopy::FromBytes;

/// Far longer than a node takes to answer, also on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stranger {
    pub(crate) stream: TcpStream,
    cluster: u64,
}

impl Stranger {
    /// One that has said nothing yet.
    pub(crate) fn new(cluster: &str, address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap(), cluster)
    }

    /// The same, on a connection that somebody else made.
    pub(crate) fn on(stream: TcpStream, cluster: &str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, cluster: cluster_id(cluster) }
    }

    /// A client of this id that is let in, and what was said to it.
    pub(crate) fn client(cluster: &str, id: u64, address: SocketAddr) -> (Self, Hello) {
        let mut stranger = Self::new(cluster, address);
        stranger.say(&Frame::Hello(hello(cluster, Identity::Client { id })));
        match stranger.hear() {
            Frame::Hello(hello) => (stranger, hello),
            other => panic!("not let in: {other:?}"),
        }
    }

    pub(crate) fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        encode(frame, Seed(self.cluster), &mut bytes).unwrap();
        // The node may have hung up already: what it said before counts.
        let _ = self.stream.write_all(&bytes);
    }

    /// The next frame.
    pub(crate) fn hear(&mut self) -> Frame {
        let mut head = [0; HEADER_SIZE];
        self.stream.read_exact(&mut head).unwrap();
        let header = Header::read_from_bytes(&head[..]).unwrap();
        let mut body = vec![0; usize::try_from(header.size.get()).unwrap() - HEADER_SIZE];
        self.stream.read_exact(&mut body).unwrap();
        decode(&header, &body).unwrap()
    }

    /// Hears until a frame is `wanted`.
    pub(crate) fn hear_until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.hear();
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// All that the node says until it hangs up.
    pub(crate) fn told(&mut self) -> String {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the node does not hang up: {error}; it said {}", text(&said)),
            }
        }
        text(&said)
    }
}

/// What somebody says first who may be sent as much as there is.
pub(crate) fn hello(cluster: &str, identity: Identity) -> Hello {
    Hello {
        cluster: cluster_id(cluster),
        identity,
        instance: 7,
        name: "stranger".to_owned(),
        message_bytes_max: u32::MAX,
        credit_messages: 1 << 20,
        credit_bytes: 1 << 40,
        window_messages: 1 << 20,
        window_bytes: 1 << 40,
        token: Vec::new(),
        features: 0,
    }
}

/// The announcement of a source that nobody named.
pub(crate) fn announce(source: PortId, topic: Topic, reliable: bool) -> Frame {
    Frame::Announce(Announce {
        source,
        topic,
        publisher: String::new(),
        process: String::new(),
        host: String::new(),
        created_ns: 0,
        reliable,
        resumes: false,
    })
}

/// What of some bytes a person can read.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(|character: char| character.is_control(), "")
}
