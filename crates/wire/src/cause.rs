//! Why a message was not delivered: the closed list.
//!
//! There is no cause "other": whoever loses a message finds its cause here or adds one, to FORMAT.md as well.
//! The index is a word's place in a row's account in shared memory, so it never changes its meaning.
//!
//! Invariant: `ALL[i].index() == i`, and there are at most `COUNT` causes.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Why a message was not delivered to one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Cause {
    /// The publisher went once round the ring before the subscriber took the message, and does not wait for it.
    Lapped = 0,
    /// A newer message of the same source took its place (keep latest).
    Conflated = 1,
    /// The subscriber's queue was full and the message was the newest (drop newest).
    DropNewest = 2,
    /// The ring's bound in bytes was reached before its bound in slots, and its publisher does not wait for the subscriber.
    RingBytes = 3,
    /// The subscriber may make its publisher wait, and the publisher no longer waited for it: it was past its deadline, or
    /// had no seat in time.
    Stalled = 4,
    /// The publisher evicted the subscriber.
    Evicted = 5,
    /// The subscriber's process died before it took the message.
    SubscriberDied = 6,
    /// The subscriber was closed before it took the message.
    SubscriberLeft = 7,
    /// The subscriber's process held as much as it may, and the message was too large to copy out.
    HoldBudget = 8,
    /// What lay in shared memory was not a message, or what came over a link was not what its sender had summed: a program
    /// had gone on writing in what it had sent.
    Corrupt = 9,
    /// Nobody subscribed to the topic.
    NoSubscriber = 10,
    /// The publisher died between claiming the slot and filling it.
    PublisherDied = 11,
    /// It was on its way to another host when the link was lost.
    LinkLost = 12,
    /// Its source was not announced by the host that it came from.
    SpoofedSource = 13,
    /// The receiving host could not keep it: no place for another source, or no memory.
    LinkBudget = 14,
    /// Whoever sent it may not publish its topic, or whoever wanted it may not read it.
    Denied = 15,
    /// The puller that had it died before it was done, and its group does not ask for acknowledgements.
    PullerDied = 16,
    /// It was given to pullers as often as its group allows, and none acknowledged it: it was published on the group's
    /// topic for such messages.
    DeadLetter = 17,
    /// The deadline of the request had passed: nobody handled it, or nobody waited for its answer any more.
    Expired = 18,
    /// Whoever asked did not want the answer any more.
    Cancelled = 19,
    /// A message of the same id came before it, and its reader wants each once.
    Duplicate = 20,
}

impl Cause {
    /// Words reserved for causes in an account. More than there are, so that a new cause moves no other word.
    pub const COUNT: usize = 21;

    /// Every cause, in order of its index.
    pub const ALL: [Cause; 21] = [
        Cause::Lapped,
        Cause::Conflated,
        Cause::DropNewest,
        Cause::RingBytes,
        Cause::Stalled,
        Cause::Evicted,
        Cause::SubscriberDied,
        Cause::SubscriberLeft,
        Cause::HoldBudget,
        Cause::Corrupt,
        Cause::NoSubscriber,
        Cause::PublisherDied,
        Cause::LinkLost,
        Cause::SpoofedSource,
        Cause::LinkBudget,
        Cause::Denied,
        Cause::PullerDied,
        Cause::DeadLetter,
        Cause::Expired,
        Cause::Cancelled,
        Cause::Duplicate,
    ];

    /// The word of this cause in an account.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The cause whose word is `index`; `None` for a reserved word.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Cause> {
        Cause::ALL.get(index).copied()
    }

    /// The name in counters, in `--json` and in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Lapped => "lapped",
            Cause::Conflated => "conflated",
            Cause::DropNewest => "drop_newest",
            Cause::RingBytes => "ring_bytes",
            Cause::Stalled => "stalled",
            Cause::Evicted => "evicted",
            Cause::SubscriberDied => "subscriber_died",
            Cause::SubscriberLeft => "subscriber_left",
            Cause::HoldBudget => "hold_budget",
            Cause::Corrupt => "corrupt",
            Cause::NoSubscriber => "no_subscriber",
            Cause::PublisherDied => "publisher_died",
            Cause::LinkLost => "link_lost",
            Cause::SpoofedSource => "spoofed_source",
            Cause::LinkBudget => "link_budget",
            Cause::Denied => "denied",
            Cause::PullerDied => "puller_died",
            Cause::DeadLetter => "dead_letter",
            Cause::Expired => "expired",
            Cause::Cancelled => "cancelled",
            Cause::Duplicate => "duplicate",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const _: () = {
    assert!(Cause::ALL.len() <= Cause::COUNT);
    let mut index = 0;
    while index < Cause::ALL.len() {
        assert!(Cause::ALL[index].index() == index);
        index += 1;
    }
};
