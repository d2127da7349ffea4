//! A node: it does what it is told line by line, and says when artifacts have come.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, AllowAllSubscriptionFilter, IdentTopic, MessageAuthenticity, PublishError};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Failure;
use crate::counted::{Counted, Counts, Seen};
use crate::settings::Settings;
use crate::work::{Cut, Joined};

type Behaviour = gossipsub::Behaviour<Seen, AllowAllSubscriptionFilter>;
type Event = SwarmEvent<gossipsub::Event>;

/// The size of the small messages, whose times are taken.
const PING_BYTES: usize = 256;
/// Until who is not there yet is dialed again, and who publishes tries again where its queues are full.
const AGAIN: Duration = Duration::from_millis(100);
/// An hour: no link is closed because nothing crosses it.
const LONG: Duration = Duration::from_secs(3_600);

/// Nanoseconds since the machine started: the same in each namespace.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let time = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Who has the say has ended: so does this process, in a moment.
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.flush();
}

fn address(text: &str) -> Result<Multiaddr, Failure> {
    let at: SocketAddr = text.parse()?;
    Ok(format!("/ip4/{}/tcp/{}", at.ip(), at.port()).parse()?)
}

/// See the head of this file. Until the standard input ends.
pub(crate) fn run(set: &str, index: &str, listen: &str, peers: &[&str]) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (settings, index) = (Settings::read(set)?, index.parse::<usize>()?);
    let mut dial = Vec::new();
    for peer in peers {
        let (other, at) = peer.split_once('=').ok_or("a peer is INDEX=ADDRESS")?;
        // One link for each two.
        if other.parse::<usize>()? > index {
            dial.push(address(at)?);
        }
    }
    let (sender, lines) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut node = Node::new(settings, peers.len())?;
        node.swarm.listen_on(address(listen)?)?;
        dial.into_iter().for_each(|at| node.dial(at));
        say("ready");
        node.obey_all(lines).await
    })
}

struct Node {
    settings: Settings,
    swarm: Swarm<Behaviour>,
    counts: Arc<Counts>,
    /// All others.
    others: usize,
    /// Where those are that have not answered yet.
    dialing: BTreeMap<ConnectionId, Multiaddr>,
    unreached: Vec<Multiaddr>,
    bulk: IdentTopic,
    ping: IdentTopic,
    publishing: Option<Cut>,
    joined: Joined,
    useful: u64,
    /// Messages that a queue had no room for, or that waited too long, each by one peer.
    lost: u64,
    /// What the small messages took since it was asked last.
    times: Vec<u64>,
    /// When the next small message is due, and how far they are apart.
    pinging: Option<(u64, u64)>,
}

impl Node {
    fn new(settings: Settings, others: usize) -> Result<Self, Failure> {
        let counts = Arc::new(Counts::default());
        let (bulk, ping) = (IdentTopic::new("swarm"), IdentTopic::new("ping"));
        let seen = Seen { counts: counts.clone(), topic: bulk.hash() };
        let counted = counts.clone();
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|key| {
                let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
                let counted = tcp.map(move |stream, _| Counted::new(stream, counted));
                let noise = noise::Config::new(key)?;
                // As `SwarmBuilder::with_tcp` does it.
                Ok(counted.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux::Config::default()))
            })?
            .with_behaviour(|key| {
                let signed = MessageAuthenticity::Signed(key.clone());
                Ok(Behaviour::new_with_transform(signed, settings.config()?, seen)?)
            })?
            .with_swarm_config(|config| config.with_idle_connection_timeout(LONG))
            .build();
        swarm.behaviour_mut().subscribe(&bulk)?;
        Ok(Self {
            settings,
            swarm,
            counts,
            others,
            dialing: BTreeMap::new(),
            unreached: Vec::new(),
            bulk,
            ping,
            publishing: None,
            joined: Joined::default(),
            useful: 0,
            lost: 0,
            times: Vec::new(),
            pinging: None,
        })
    }

    fn dial(&mut self, at: Multiaddr) {
        let options = DialOpts::unknown_peer_id().address(at.clone()).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dialing.insert(connection, at)),
            Err(_) => self.unreached.push(at),
        }
    }

    async fn obey_all(&mut self, mut lines: UnboundedReceiver<String>) -> Result<(), Failure> {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut full = false;
        loop {
            let due = self.pinging.map(|(due, _)| Duration::from_nanos(due.saturating_sub(now_ns())));
            tokio::select! {
                biased;
                line = lines.recv() => match line {
                    Some(line) => self.obey(&line.split(' ').collect::<Vec<_>>())?,
                    None => return Ok(()),
                },
                () = sleep(due.unwrap_or(LONG)), if due.is_some() => self.send_small(),
                event = self.swarm.select_next_some() => self.handle(event)?,
                _ = again.tick() => {
                    full = false;
                    for at in std::mem::take(&mut self.unreached) {
                        self.dial(at);
                    }
                }
                // Where there is nothing else to do, the next message; where queues are full, later.
                () = std::future::ready(()), if self.publishing.is_some() && !full => {
                    full = !self.publish()?;
                    // Connections have a turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Publishes the next message of what was told. Whether there was room for it.
    fn publish(&mut self) -> Result<bool, Failure> {
        let Some(message) = self.publishing.as_mut().and_then(Cut::next) else {
            self.publishing = None;
            return Ok(true);
        };
        match self.swarm.behaviour_mut().publish(self.bulk.clone(), message) {
            Ok(_) => Ok(true),
            Err(PublishError::AllQueuesFull(_)) => {
                self.publishing.as_mut().into_iter().for_each(Cut::back);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send_small(&mut self) {
        let Some((due, period)) = self.pinging else { return };
        let mut payload = vec![0; PING_BYTES];
        payload[..8].copy_from_slice(&due.to_le_bytes());
        // Nobody is there yet who takes them, or there is no room: it is not counted where they come.
        let _ = self.swarm.behaviour_mut().publish(self.ping.clone(), payload);
        self.pinging = Some((due + period, period));
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                self.dialing.remove(&connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, .. } => {
                self.unreached.extend(self.dialing.remove(&connection_id));
            }
            SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) => self.came(&message)?,
            SwarmEvent::Behaviour(gossipsub::Event::SlowPeer { failed_messages, .. }) => {
                self.lost += (failed_messages.priority + failed_messages.non_priority) as u64;
            }
            _ => {}
        }
        Ok(())
    }

    fn came(&mut self, message: &gossipsub::Message) -> Result<(), Failure> {
        if message.topic == self.ping.hash() {
            let sent = message.data.first_chunk().map(|sent| u64::from_le_bytes(*sent));
            self.times.extend(sent.map(|sent| now_ns().saturating_sub(sent).max(1)));
            return Ok(());
        }
        self.useful += message.data.len().saturating_sub(crate::work::HEAD_BYTES) as u64;
        if let Some(run) = self.joined.take(&message.data)? {
            say(&format!("have swarm.{run} {}", now_ns()));
            // Nothing is kept that could be withdrawn.
            say(&format!("gone swarm.{run}"));
        }
        Ok(())
    }

    fn obey(&mut self, words: &[&str]) -> Result<(), Failure> {
        match words {
            ["offer", topic, count, size, seed] => {
                let (count, size, seed) = (count.parse()?, size.parse()?, seed.parse()?);
                self.publishing = Some(Cut::new(count, size, seed, self.settings.message));
                say(&format!("offered {topic} {}", now_ns()));
            }
            ["withdraw", topic] => say(&format!("gone {topic}")),
            ["listen"] => {
                self.swarm.behaviour_mut().subscribe(&self.ping)?;
                say("listening");
            }
            ["ping", rate] => {
                self.pinging = Some((now_ns(), 1_000_000_000 / rate.parse::<u64>()?.max(1)));
                say("pinging");
            }
            ["silence"] => self.pinging = None,
            ["times"] => self.say_times(),
            ["counts"] => self.say_counts(),
            ["links"] => say(&format!("links {}", json!(self.links()))),
            _ => return Err(format!("no such word: {words:?}").into()),
        }
        Ok(())
    }

    /// Who subscribes to artifacts here; nobody before the mesh stands.
    fn links(&self) -> Vec<Value> {
        let (behaviour, bulk) = (self.swarm.behaviour(), self.bulk.hash());
        let stands = behaviour.mesh_peers(&bulk).count() >= self.settings.mesh_least().min(self.others);
        let subscribed = behaviour.all_peers().filter(|(_, topics)| topics.contains(&&bulk));
        subscribed.filter(|_| stands).map(|(peer, _)| json!({ "peer": peer.to_string() })).collect()
    }

    fn say_times(&mut self) {
        let mut times = std::mem::take(&mut self.times);
        times.sort_unstable();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index"
            )]
            let index = (times.len() as f64 * part) as usize;
            times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let told = json!({ "count": times.len(), "p50_ns": at(0.5), "p99_ns": at(0.99), "max_ns": at(1.0) });
        say(&format!("times {told}"));
    }

    fn say_counts(&self) {
        let bodies = self.counts.bodies_in.load(Relaxed);
        let mesh = self.swarm.behaviour().mesh_peers(&self.bulk.hash()).count();
        let told = json!({
            "useful": self.useful,
            "wasted": bodies.saturating_sub(self.useful),
            "sockets_out": self.counts.sockets_out.load(Relaxed),
            "sockets_in": self.counts.sockets_in.load(Relaxed),
            "lost": self.lost,
            "mesh": mesh,
        });
        say(&format!("counts {told}"));
    }
}
