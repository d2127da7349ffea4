//! A node of a run, in its namespace: it does what it is told line by line, and says when artifacts have come.
//!
//! It subscribes to all artifacts of the run. Each says how many belong together, so that the moment is known at which all of them are here.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::artifacts::{Event, Offer, Subscriber};
use busway::{Bus, LinkState, Node, NodeBuilder, PeerView};
use hdrhistogram::Histogram;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;

use crate::Failure;
use crate::clock::now_ns;

/// The topic of the small messages, whose times are taken.
const PING: &str = "ping";
const PING_BYTES: usize = 256;
/// A small message that takes longer counts as this.
const TIME_NS_MAX: u64 = 60_000_000_000;
/// An hour: nothing is awaited longer.
const LONG: Duration = Duration::from_secs(3_600);

/// From now on this process ends when its parent does, however that ends.
pub(crate) fn end_with_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// `INDEX ADDRESS [INDEX=ADDRESS]...`: which node it is, where it listens, and whom it links to.
pub(crate) fn builder(words: &[&str]) -> Result<NodeBuilder, Failure> {
    let [index, listen, peers @ ..] = words else {
        return Err("a node is INDEX ADDRESS PEERS".into());
    };
    let builder = Node::builder().cluster("swarm").index(index.parse()?).listen(listen.parse()?);
    peers.iter().try_fold(builder.allow_plain_beyond_loopback(), |builder, peer| {
        let (index, address) = peer.split_once('=').ok_or("a peer is INDEX=ADDRESS")?;
        Ok(builder.peer(index.parse()?, address))
    })
}

pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Who has the say has ended: so does this process, in a moment.
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.flush();
}

/// `DIRECTORY SETTINGS INDEX ADDRESS [INDEX=ADDRESS]...`, until the standard input ends. Of a node of ours nothing is set: `-`.
///
/// A program that is measured beside ours is told the same, and says the same.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    end_with_parent()?;
    let [directory, "-", at @ ..] = words else {
        return Err("node DIRECTORY - INDEX ADDRESS PEERS".into());
    };
    let bus = Bus::builder().directory(Path::new(directory)).domain("swarm").open()?;
    let node = builder(at)?.open(&bus)?;
    let subscriber = bus.artifacts(">")?.subscriber().open()?;
    std::thread::spawn(move || take(subscriber));
    let mut told = Told { bus, node, offers: BTreeMap::new(), pinging: None, times: None };
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        told.obey(&words)?;
    }
    Ok(())
}

/// Says `have TOPIC NANOSECONDS` when the last of those that belong together has come, and `gone TOPIC` when the last was withdrawn.
fn take(mut subscriber: Subscriber) {
    let mut here: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let Ok(event) = subscriber.recv_timeout(LONG) else { return };
        let (advert, came) = match &event {
            Some(Event::Received(artifact)) => (artifact.advert(), true),
            Some(Event::Withdrawn(advert)) => (advert, false),
            _ => continue,
        };
        let all = advert.attribute().first_chunk().map_or(1, |count| u64::from_le_bytes(*count));
        let count = here.entry(advert.topic().to_owned()).or_default();
        *count = if came { *count + 1 } else { count.saturating_sub(1) };
        if came && *count == all {
            say(&format!("have {} {}", advert.topic(), now_ns()));
        } else if !came && *count == 0 {
            say(&format!("gone {}", advert.topic()));
        }
    }
}

type Times = Arc<Mutex<Histogram<u64>>>;

struct Told {
    bus: Bus,
    node: Node,
    offers: BTreeMap<String, Vec<Offer>>,
    /// Small messages are sent as long as it is there.
    pinging: Option<Sender<()>>,
    times: Option<Times>,
}

impl Told {
    fn obey(&mut self, words: &[&str]) -> Result<(), Failure> {
        match words {
            ["offer", topic, count, size, seed] => {
                self.offer(topic, count.parse()?, size.parse()?, seed.parse()?)
            }
            ["withdraw", topic] => {
                self.offers.remove(*topic);
                say(&format!("gone {topic}"));
                Ok(())
            }
            ["listen"] => self.listen(),
            ["ping", rate] => self.ping(rate.parse()?),
            ["silence"] => {
                self.pinging = None;
                Ok(())
            }
            ["times"] => {
                self.say_times();
                Ok(())
            }
            ["counts"] => self.say_counts(),
            ["links"] => {
                say_links(&self.node);
                Ok(())
            }
            _ => Err(format!("no such word: {words:?}").into()),
        }
    }

    /// Offers so many of this size, and says when it began.
    fn offer(&mut self, topic: &str, count: u64, size: usize, seed: u64) -> Result<(), Failure> {
        let artifacts = self.bus.artifacts(topic)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut body = vec![0; size];
        let mut bodies = Vec::new();
        for _ in 0..count {
            random.fill(&mut body);
            bodies.push(artifacts.offer(&body).attribute(&count.to_le_bytes()));
        }
        let begun = now_ns();
        let offers: Result<Vec<Offer>, busway::Error> =
            bodies.into_iter().map(busway::artifacts::OfferBuilder::open).collect();
        self.offers.insert(topic.to_owned(), offers?);
        say(&format!("offered {topic} {begun}"));
        Ok(())
    }

    /// Takes the time of each small message that comes from now on.
    fn listen(&mut self) -> Result<(), Failure> {
        let mut subscriber = self.bus.subscriber(PING).open()?;
        let times: Times = Arc::new(Mutex::new(Histogram::new_with_bounds(1, TIME_NS_MAX, 3)?));
        self.times = Some(times.clone());
        std::thread::spawn(move || {
            while let Ok(Some(sample)) = subscriber.recv_timeout(LONG) {
                let now = now_ns();
                let Some(sent) = sample.payload().first_chunk().map(|sent| u64::from_le_bytes(*sent)) else {
                    continue;
                };
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                times.saturating_record(now.saturating_sub(sent).max(1));
            }
        });
        say("listening");
        Ok(())
    }

    /// Sends so many small messages a second, each with the time at which it was meant to be sent.
    fn ping(&mut self, rate: u64) -> Result<(), Failure> {
        let mut publisher = self.bus.publisher(PING).open()?;
        publisher.wait_for_subscribers(1, Duration::from_secs(60))?;
        let (pinging, silence) = channel();
        self.pinging = Some(pinging);
        let period_ns = 1_000_000_000 / rate.max(1);
        std::thread::spawn(move || {
            let mut due = now_ns();
            let wait = |due: u64| silence.recv_timeout(Duration::from_nanos(due.saturating_sub(now_ns())));
            while wait(due) == Err(RecvTimeoutError::Timeout) {
                let mut payload = [0; PING_BYTES];
                payload[..8].copy_from_slice(&due.to_le_bytes());
                if publisher.send(&payload).is_err() {
                    return;
                }
                due += period_ns;
            }
        });
        say("pinging");
        Ok(())
    }

    /// Says what the small messages took since it was asked last.
    fn say_times(&mut self) {
        let Some(times) = &self.times else { return say("times {}") };
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| times.value_at_quantile(quantile);
        let told =
            json!({ "count": times.len(), "p50_ns": at(0.5), "p99_ns": at(0.99), "max_ns": times.max() });
        times.reset();
        drop(times);
        say(&format!("times {told}"));
    }

    fn say_counts(&self) -> Result<(), Failure> {
        let counts = self.bus.artifacts(">")?.counts();
        let peers = self.node.peers();
        let sum = |of: fn(&PeerView) -> u64| peers.iter().map(of).sum::<u64>();
        let told = json!({
            "told": counts.told,
            "handled": counts.handled,
            "coalesced": counts.coalesced,
            "dropped": counts.dropped,
            "useful": counts.bytes_useful,
            "wasted": counts.bytes_wasted,
            "given": counts.bytes_given,
            "sockets_out": sum(|peer| peer.bytes_out),
            "sockets_in": sum(|peer| peer.bytes_in),
        });
        say(&format!("counts {told}"));
        Ok(())
    }
}

/// Says since when each link of a node stands.
pub(crate) fn say_links(node: &Node) {
    let now = now_ns();
    let stands = |peer: &&PeerView| peer.state == LinkState::Connected;
    let since = |peer: &PeerView| now.saturating_sub(u64::try_from(peer.age.as_nanos()).unwrap_or(u64::MAX));
    let peers = node.peers();
    let told: Vec<_> = peers
        .iter()
        .filter(stands)
        .map(|peer| {
            let round_trip = peer.round_trip.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            json!({ "peer": peer.peer, "since_ns": since(peer), "round_trip_ns": round_trip })
        })
        .collect();
    say(&format!("links {}", json!(told)));
}
