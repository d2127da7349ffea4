//! zenoh: two peers over TCP of loopback, without a router and without scouting.
//!
//! Every setting and the page that recommends it stand in `settings/zenoh.md`.

use busway_bench::Failure;
use busway_bench::cell::requests::{Answers, Asker, answer};
use busway_bench::clock::pause;
use busway_bench::floor::tcp::{port_of, tell_port};
use busway_bench::medium::{
    Channel, END, Letter, Medium, Quality, Receiver, Scene, Sender, from_bytes, to_bytes,
};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;
use zenoh::handlers::{FifoChannel, FifoChannelHandler};
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::CongestionControl;
use zenoh::query::Reply;
use zenoh::sample::Sample;
use zenoh::{Config, Session, Wait};

/// Samples that may wait for the receiving thread.
const SAMPLES: usize = 4_096;

/// A session.
pub(crate) struct Zenoh {
    session: Session,
    size: usize,
}

/// A publisher.
pub(crate) struct ZenohSender {
    publisher: Publisher<'static>,
    size: usize,
}

/// A subscriber.
pub(crate) struct ZenohReceiver {
    subscriber: Subscriber<FifoChannelHandler<Sample>>,
    buffer: Vec<u8>,
}

fn failure(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}

fn key(channel: Channel) -> &'static str {
    match channel {
        Channel::There => "bench/there",
        Channel::Back => "bench/back",
    }
}

impl Medium for Zenoh {
    type Sender = ZenohSender;
    type Receiver = ZenohReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        let first = scene.owner == std::process::id();
        let (how, port) = if first {
            // A port that was free a moment ago: zenoh does not say which it took.
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            ("listen", port)
        } else {
            ("connect", port_of(scene.stage)?)
        };
        let other = if first { "" } else { r#"listen: { endpoints: [] },"# };
        let config = format!(
            r#"{{ mode: "peer", {other} {how}: {{ endpoints: ["tcp/127.0.0.1:{port}"] }},
                scouting: {{ multicast: {{ enabled: false }}, gossip: {{ enabled: false }} }} }}"#
        );
        let session = zenoh::open(Config::from_json5(&config).map_err(failure)?).wait().map_err(failure)?;
        if first {
            tell_port(scene.stage, port);
        }
        Ok(Self { session, size: usize::try_from(scene.plan.size)? })
    }

    fn sender(&self, channel: Channel, _: Quality) -> Result<ZenohSender, Failure> {
        let publisher = self
            .session
            .declare_publisher(key(channel))
            .congestion_control(CongestionControl::Block)
            .wait()
            .map_err(failure)?;
        Ok(ZenohSender { publisher, size: self.size })
    }

    fn receiver(&self, channel: Channel, _: Quality) -> Result<ZenohReceiver, Failure> {
        let subscriber = self
            .session
            .declare_subscriber(key(channel))
            .with(FifoChannel::new(SAMPLES))
            .wait()
            .map_err(failure)?;
        Ok(ZenohReceiver { subscriber, buffer: Vec::new() })
    }
}

impl Sender for ZenohSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        // That the subscriber is known here cannot be asked without what its crate calls unstable.
        pause(Duration::from_secs(1));
        Ok(())
    }

    fn send(&mut self, _: &Letter) -> Result<(), Failure> {
        Err("zenoh is measured by payloads".into())
    }

    #[inline]
    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut payload = vec![0; self.size];
        fill(&mut payload);
        self.publisher.put(payload).wait().map_err(failure)
    }
}

impl Receiver for ZenohReceiver {
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        Err("zenoh is measured by payloads".into())
    }

    #[inline]
    fn read_sized(&mut self, timeout: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        let sample = match self.subscriber.try_recv().map_err(failure)? {
            Some(sample) => sample,
            None => match self.subscriber.recv_timeout(timeout).map_err(failure)? {
                Some(sample) => sample,
                None => return Ok(false),
            },
        };
        let mut slices = sample.payload().slices();
        match (slices.next(), slices.next()) {
            (Some(whole), None) => look(whole),
            _ => {
                self.buffer.clear();
                sample.payload().slices().for_each(|slice| self.buffer.extend_from_slice(slice));
                look(&self.buffer);
            }
        }
        Ok(true)
    }
}

/// What a queryable answers.
const SERVICE: &str = "bench/service";

/// A session that asks.
pub(crate) struct ZenohAsker {
    asked: VecDeque<FifoChannelHandler<Reply>>,
    session: Session,
}

impl Answers for Zenoh {
    type Asker = ZenohAsker;

    fn asker(scene: &Scene<'_>, at_once: usize) -> Result<ZenohAsker, Failure> {
        Ok(ZenohAsker { asked: VecDeque::with_capacity(at_once), session: Self::open(scene)?.session })
    }

    fn serve(scene: &Scene<'_>, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let Self { session, .. } = Self::open(scene)?;
        let queryable = session.declare_queryable(SERVICE).wait().map_err(failure)?;
        ready()?;
        loop {
            let query = queryable.recv().map_err(failure)?;
            let payload = query.payload().ok_or("a query without a payload")?.to_bytes();
            let letter = from_bytes(&payload)?;
            query.reply(SERVICE, to_bytes(&answer(&letter)).to_vec()).wait().map_err(failure)?;
            if letter[0] == END {
                drop(query);
                // It goes out on a thread of its own.
                pause(Duration::from_secs(1));
                return Ok(());
            }
        }
    }
}

impl Asker for ZenohAsker {
    fn settle(&mut self) -> Result<(), Failure> {
        // As with its publishers.
        pause(Duration::from_secs(1));
        Ok(())
    }

    fn ask(&mut self, letter: &Letter) -> Result<(), Failure> {
        let replies = self.session.get(SERVICE).payload(to_bytes(letter).to_vec()).wait();
        self.asked.push_back(replies.map_err(failure)?);
        Ok(())
    }

    fn reply(&mut self) -> Result<Letter, Failure> {
        let replies = self.asked.pop_front().ok_or("nothing was asked")?;
        let reply = replies.recv().map_err(failure)?;
        let sample = reply.result().map_err(|_| "a query that failed")?;
        from_bytes(&sample.payload().to_bytes())
    }
}
