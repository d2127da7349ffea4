//! The topics on which endpoints of a cluster speak to each other, and who may speak and hear what.
//!
//! `$cluster.to.node.1.INSTANCE.from.client.ID`: who it is for, the start of that one that it is for, who it is from. A node
//! takes such a topic only from the link of the peer that it names as its sender, and gives it only to the link of the
//! peer that it is for; so the name of a sender is as good as the identity of its link, and nobody overhears anybody. All
//! other reserved topics stay on their host.
//!
//! Invariant: an address and its topic name each other: `parse` takes exactly what `topic` gives.

use busway_protocol::PeerId;
use busway_wire::limits::{
    CLUSTER_CLIENT_QUEUE_BYTES_MAX, CLUSTER_CLIENT_QUEUE_MESSAGES_MAX, CLUSTER_REPLICA_QUEUE_BYTES_MAX,
    CLUSTER_REPLICA_QUEUE_MESSAGES_MAX,
};
use busway_wire::{NameError, Pattern, Topic};

/// What all of these topics begin with.
pub(crate) const CLUSTER_PREFIX: &str = "$cluster.";

/// One pair of endpoints, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) to: PeerId,
    /// Of the one that it is for: what was sent to an earlier start is not for a later one.
    pub(crate) instance: u64,
    pub(crate) from: PeerId,
}

impl Address {
    pub(crate) fn topic(&self) -> Result<Topic, NameError> {
        let Self { to, instance, from } = self;
        Topic::reserved(&format!("{CLUSTER_PREFIX}to.{}.{instance:016x}.from.{}", token(*to), token(*from)))
    }

    /// `None` for every other topic.
    pub(crate) fn parse(topic: &str) -> Option<Self> {
        let rest = topic.strip_prefix(CLUSTER_PREFIX)?.strip_prefix("to.")?;
        let mut tokens = rest.split('.');
        let to = peer(&mut tokens)?;
        let instance = hexadecimal(tokens.next()?)?;
        if tokens.next()? != "from" {
            return None;
        }
        let from = peer(&mut tokens)?;
        tokens.next().is_none().then_some(Self { to, instance, from })
    }
}

/// All that is for `to`, whichever start of it.
pub(crate) fn inbox(to: PeerId) -> Result<Pattern, NameError> {
    Pattern::parse(&format!("{CLUSTER_PREFIX}to.{}.>", token(to)))
}

/// Whether a peer may publish here under this name.
pub(crate) fn may_speak(topic: &Topic, peer: PeerId) -> bool {
    !topic.is_reserved() || Address::parse(topic.as_str()).is_some_and(|address| address.from == peer)
}

/// Whether a peer may hear what is published here under this name.
pub(crate) fn may_hear(topic: &Topic, peer: PeerId) -> bool {
    !topic.is_reserved() || Address::parse(topic.as_str()).is_some_and(|address| address.to == peer)
}

/// Messages and bytes that wait between two endpoints at most, at each of them: less where one is a client, because of
/// those there are many.
pub(crate) fn queue_between(one: PeerId, other: PeerId) -> (u32, u64) {
    match (one, other) {
        (PeerId::Node { .. }, PeerId::Node { .. }) => {
            (CLUSTER_REPLICA_QUEUE_MESSAGES_MAX, CLUSTER_REPLICA_QUEUE_BYTES_MAX)
        }
        (PeerId::Client { .. }, _) | (_, PeerId::Client { .. }) => {
            (CLUSTER_CLIENT_QUEUE_MESSAGES_MAX, CLUSTER_CLIENT_QUEUE_BYTES_MAX)
        }
    }
}

/// What of a topic between endpoints may wait where it is relayed; `None` for every other topic.
pub(crate) fn queue_of(topic: &Topic) -> Option<(u32, u64)> {
    Address::parse(topic.as_str()).map(|address| queue_between(address.from, address.to))
}

fn token(peer: PeerId) -> String {
    match peer {
        PeerId::Node { index } => format!("node.{index}"),
        PeerId::Client { id } => format!("client.{id:016x}"),
    }
}

fn peer<'a>(tokens: &mut impl Iterator<Item = &'a str>) -> Option<PeerId> {
    let kind = tokens.next()?;
    let name = tokens.next()?;
    match kind {
        "node" => {
            let index = name.parse().ok()?;
            // One spelling for each.
            (format!("{index}") == name).then_some(PeerId::Node { index })
        }
        "client" => Some(PeerId::Client { id: hexadecimal(name)? }),
        _ => None,
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() == 16 && digits { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::{Address, inbox, may_hear, may_speak};
    use busway_protocol::PeerId;
    use busway_wire::Topic;

    const ALL: [PeerId; 4] = [
        PeerId::Node { index: 0 },
        PeerId::Node { index: 63 },
        PeerId::Client { id: 0 },
        PeerId::Client { id: u64::MAX },
    ];

    #[test]
    fn a_topic_between_two_endpoints_is_for_one_and_from_one_and_for_nobody_else() {
        for to in ALL {
            for from in ALL {
                let address = Address { to, instance: 0x2a, from };
                let topic = address.topic().unwrap();
                assert_eq!(Address::parse(topic.as_str()), Some(address));
                for peer in ALL {
                    assert_eq!(inbox(peer).unwrap().matches(&topic), peer == to, "{topic:?} at {peer}");
                    assert_eq!(may_hear(&topic, peer), peer == to, "{peer} hears {topic:?}");
                    assert_eq!(may_speak(&topic, peer), peer == from, "{peer} says {topic:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_address_is_none_and_other_reserved_topics_stay_on_their_host() {
        let good = "$cluster.to.node.1.000000000000002a.from.client.0000000000000007";
        assert!(Address::parse(good).is_some());
        for bad in [
            "$cluster.to.node.1.2a.from.client.0000000000000007",
            "$cluster.to.node.01.000000000000002a.from.client.0000000000000007",
            "$cluster.to.node.256.000000000000002a.from.client.0000000000000007",
            "$cluster.to.node.1.000000000000002A.from.client.0000000000000007",
            "$cluster.to.node.1.000000000000002a.from.client.0000000000000007.x",
            "$cluster.to.node.1.000000000000002a.for.client.0000000000000007",
            "$cluster.to.host.1.000000000000002a.from.client.0000000000000007",
            "cluster.to.node.1.000000000000002a.from.client.0000000000000007",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
        let peers = Topic::reserved("$bus.peers").unwrap();
        assert!(ALL.iter().all(|peer| !may_hear(&peers, *peer) && !may_speak(&peers, *peer)));
        let price = Topic::new("price.tick").unwrap();
        assert!(ALL.iter().all(|peer| may_hear(&price, *peer) && may_speak(&price, *peer)));
    }
}
