//! What a domain looks like at one moment: topics, ports, processes, segments.
//!
//! Plain data with the field names that `busway ls --json` prints; scripts rely on them, so fields are only ever
//! added. It does not gather anything: [`Bus::inspect`](crate::Bus::inspect) reads every member's arena and fills it.
//!
//! Invariant: counters come from their owner's arena, so a survivor reads them after the owner's death.

use std::collections::BTreeMap;

use serde::Serialize;

/// Lost messages by cause (`lapped`, `subscriber_died`, ...); a cause that did not happen is absent.
pub type Dropped = BTreeMap<String, u64>;

/// Everything that is known of a domain, read at one moment without stopping anybody.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inspection {
    /// Every topic that has a publisher, and every pattern of a subscription that no publisher has met, ordered by name.
    pub topics: Vec<TopicView>,
    /// Every member of the domain, and those that died and still hold somebody's memory.
    pub processes: Vec<ProcessView>,
    /// Every shared segment, ordered by owner.
    pub segments: Vec<SegmentView>,
    /// Bytes the domain may take, and bytes it has taken.
    pub budget: BudgetView,
}

/// One topic with its ports.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TopicView {
    /// The topic's name; or a subscription's pattern, where no publisher has met it.
    pub topic: String,
    /// Its publishers, one entry a port; none for a pattern. One that has left is not among them, though its messages may still be read.
    pub publishers: Vec<PublisherView>,
    /// Its subscribers, one entry a port: sums over the topic's publishers.
    pub subscribers: Vec<SubscriberView>,
    /// Whether `sent = delivered + dropped + in flight` holds for each pair.
    pub closed: bool,
}

/// One publisher of a topic.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PublisherView {
    /// The name of its process.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its id, in hexadecimal.
    pub port: String,
    /// Messages sent since it was opened.
    pub sent: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Messages a second over the last second or so.
    pub rate: f64,
    /// Messages that wait for the first subscriber.
    pub waiting: u64,
    /// Messages that waited for it in vain, where they were to wait at all.
    pub no_subscriber: u64,
}

/// One subscriber of a topic.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SubscriberView {
    /// The name of its process.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its id, in hexadecimal.
    pub port: String,
    /// What it asked for, as `busway sub --policy` takes it; `pull` of a puller, and `group` of what stands for a group, whose process is
    /// its pusher's.
    pub policy: String,
    /// Of a group and its pullers: the id of the group's name, in hexadecimal, zero before its first puller came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How it does.
    pub state: PortState,
    /// Messages that it took.
    pub delivered: u64,
    /// Messages that it lost, by cause.
    pub dropped: Dropped,
    /// Messages sent to it that it has neither taken nor lost.
    pub in_flight: u64,
    /// How many messages its cursor is behind the head.
    pub lag: u64,
    /// The largest lag that its process has seen; it looks four times a second, at 1 024 of its rings at a time.
    pub lag_max: u64,
    /// Samples that it holds.
    pub held: u64,
    /// How long it has taken nothing although something waited for it, in milliseconds, as far as its process has seen; a quarter of a second
    /// of it, or what the process takes to say that it runs, may be too much. 0 when nothing waits.
    pub behind_ms: u64,
}

/// How a port does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// It moves, or has nothing to do.
    #[default]
    Live,
    /// It gates no more, having been waited for too long; it may catch up.
    Stalled,
    /// The publisher has given it up.
    Evicted,
    /// Its process beats no more.
    Hung,
    /// Its process is dead.
    Dead,
}

impl PortState {
    /// The word that `--json` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stalled => "stalled",
            Self::Evicted => "evicted",
            Self::Hung => "hung",
            Self::Dead => "dead",
        }
    }
}

/// One process of the domain.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProcessView {
    /// Its id, in hexadecimal.
    pub process: String,
    /// Its name.
    pub name: String,
    /// Its process id in this namespace.
    pub pid: u32,
    /// Whether it holds the rendezvous.
    pub holder: bool,
    /// Whether its heartbeat is looked at.
    pub monitored: bool,
    /// How it does: live, hung or dead.
    pub state: PortState,
    /// Since when it is in that state, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// How long ago it beat, in milliseconds.
    pub last_beat_ms: u64,
    /// Heartbeats that are overdue.
    pub missed_beats: u64,
    /// Memory that its arenas have taken.
    pub committed_bytes: u64,
}

/// One shared segment, or the part of it that one topic uses.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SegmentView {
    /// Who made it.
    pub owner_pid: u32,
    /// The name of its owner.
    pub name: String,
    /// `arena`, `bulk`, `bell` or `ring`.
    pub kind: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// The topic it serves, where it serves one.
    pub topic: Option<String>,
}

/// The domain's budget in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct BudgetView {
    /// What the domain may take.
    pub limit_bytes: u64,
    /// What it has taken.
    pub reserved_bytes: u64,
}

/// The account of one publisher or one subscriber.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Messages sent (of a subscriber: sent to it).
    pub sent: u64,
    /// Subscribers that were attached at any time.
    pub subscribers: u64,
    /// What should have arrived: the sum over the subscribers of the messages sent while each was attached. It is counted
    /// by the publisher alone, and everything below by the subscribers.
    pub expected: u64,
    /// Messages that were taken, summed over the subscribers.
    pub delivered: u64,
    /// Messages lost, by cause.
    pub dropped: Dropped,
    /// Messages neither taken nor lost.
    pub in_flight: u64,
}

impl Account {
    /// All losses in one number.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether every message is accounted for.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.expected == self.delivered.saturating_add(self.dropped_total()).saturating_add(self.in_flight)
    }
}
