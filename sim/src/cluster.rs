//! The language of stories: a few verbs over a world, each of which fails with a sentence.
//!
//! Topics are reliable, but those that begin with `lossy.`. Hosts are named by their index.
//!
//! Invariant: a story that goes on has broken no rule so far.

use std::collections::BTreeMap;

use busway_wire::{Pattern, PortId, Topic};

use crate::fault::{Fault, Pair};
use crate::world::{Terms, Work, World};

/// A cluster in a story.
#[derive(Debug)]
pub struct Cluster {
    /// All of it, for what has no verb here.
    pub world: World,
    publishers: BTreeMap<(usize, String), PortId>,
    blocked: Vec<Pair>,
}

/// Slots of a publisher's ring in a story.
const SLOTS: usize = 64;
/// Whatever is to come has come after this long.
const SETTLE_MS: u64 = 30_000;

impl Cluster {
    /// A cluster of so many hosts, linked.
    #[must_use]
    pub fn new(seed: u64, hosts: usize) -> Cluster {
        Cluster::with(Terms::new(seed, hosts))
    }

    /// A cluster on these terms, linked.
    #[must_use]
    pub fn with(terms: Terms) -> Cluster {
        let world = World::new(Terms { lines: true, ..terms });
        let mut cluster = Cluster { world, publishers: BTreeMap::new(), blocked: Vec::new() };
        cluster.run_until_linked();
        cluster
    }

    /// Goes on until every two hosts that can reach each other are linked.
    pub fn run_until_linked(&mut self) {
        let hosts = self.world.hosts();
        for _ in 0..SETTLE_MS / 10 {
            let all = (0..hosts).all(|a| (a + 1..hosts).all(|b| self.world.is_linked(a, b)));
            if all {
                return;
            }
            self.run_for_ms(10);
        }
        self.fail("not all hosts are linked");
    }

    /// A subscriber, known to all other hosts when this returns.
    pub fn subscribe(&mut self, host: usize, topic: &str) -> u64 {
        self.subscribe_slow(host, topic, 1_000)
    }

    /// A subscriber that takes so many nanoseconds over each message.
    pub fn subscribe_slow(&mut self, host: usize, topic: &str, work_ns: u64) -> u64 {
        let pattern = Pattern::parse(topic).expect("the story names a topic");
        let reliable = !topic.starts_with("lossy.");
        let number = self.world.subscribe(host, &pattern, reliable, work_ns);
        for _ in 0..SETTLE_MS / 10 {
            let others = (0..self.world.hosts()).filter(|&other| other != host);
            if others.clone().all(|other| self.world.knows_wish(other, host, &pattern)) {
                return number;
            }
            self.run_for_ms(10);
        }
        self.fail("a wish did not reach all hosts");
    }

    /// Publishes a message of so many bytes; the publisher is opened with the first.
    pub fn publish(&mut self, host: usize, topic: &str, size: usize) {
        let source = self.publisher(host, topic);
        for _ in 0..SETTLE_MS {
            if self.world.publish(source, size) {
                return self.expect_sound();
            }
            self.run_for_ms(1);
        }
        self.fail("the publisher waits for ever");
    }

    /// The publisher of a topic on a host.
    pub fn publisher(&mut self, host: usize, topic: &str) -> PortId {
        let key = (host, topic.to_owned());
        if let Some(&source) = self.publishers.get(&key) {
            return source;
        }
        let name = Topic::new(topic).expect("the story names a topic");
        let idle = Work { messages: 0, gap_ns: 0, size_max: 0, large: 0 };
        let source = self.world.publisher(host, &name, SLOTS, idle);
        self.publishers.insert(key, source);
        source
    }

    /// Nothing passes between the hosts of the one side and of the other, until `heal`.
    pub fn partition(&mut self, left: &[usize], right: &[usize]) {
        for &from in left {
            for &to in right {
                self.cut(from, to);
                self.cut(to, from);
            }
        }
    }

    /// Nothing passes from one host to another, until `heal`.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.world.network.block(from, to);
        self.world.disturb(Pair { from, to });
        self.blocked.push(Pair { from, to });
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        for pair in std::mem::take(&mut self.blocked) {
            let now = self.world.now();
            self.world.network.unblock(now, pair.from, pair.to);
            self.world.calm(pair);
        }
    }

    /// Lets a fault happen.
    pub fn strike(&mut self, fault: Fault, duration_ms: u64) {
        self.world.strike_now(fault, duration_ms);
        self.expect_sound();
    }

    /// The host's node dies; programs on the host live on.
    pub fn kill(&mut self, host: usize) {
        self.world.kill(host);
        self.expect_sound();
    }

    /// The host's node is started again.
    pub fn restart(&mut self, host: usize) {
        self.world.start(host);
        for other in (0..self.world.hosts()).filter(|&other| other != host) {
            self.world.touch(Pair { from: host, to: other });
        }
        self.expect_sound();
    }

    /// Goes on for so long.
    pub fn run_for_ms(&mut self, ms: u64) {
        self.world.run_for_ms(ms);
        self.expect_sound();
    }

    /// Goes on until nothing is under way, and judges.
    pub fn run_until_quiet(&mut self) {
        if let Err(what) = self.world.run_until_quiet(SETTLE_MS) {
            self.fail(&what);
        }
    }

    /// The subscriber was told of so many messages and so many lost ones, of all sources.
    pub fn assert_told(&self, subscriber: u64, messages: u64, lost: u64) {
        let told = self.world.checks.told_to(subscriber);
        if told != (messages, lost) {
            self.fail(&format!(
                "subscriber {subscriber} was told of {} messages and {} lost, not of {messages} and {lost}",
                told.0, told.1
            ));
        }
    }

    fn expect_sound(&self) {
        if let Some(violation) = self.world.checks.violation() {
            self.fail(violation);
        }
    }

    fn fail(&self, what: &str) -> ! {
        let lines: Vec<&str> = self.world.trace.lines().collect();
        let last = &lines[lines.len().saturating_sub(60)..];
        panic!("{}\n\n{what}", last.join("\n"));
    }
}
