//! What a person changes while the links stand: peers, limits, and who is to go.
//!
//! Changes come from any thread and are made by the one that receives, which owns the membership. What they mean for links
//! the membership decides.
//!
//! Invariant: a peer that was taken from the list is forgotten once its connection is closed, and not before.

use std::collections::BTreeMap;

use busway_protocol::PeerId;
use busway_protocol::membership::Input;

use crate::ports::lock;
use crate::runtime::door::{Door, limits_of};
use crate::runtime::hub::Wires;

/// A change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// These are the nodes that we dial, and where they listen.
    Peers(BTreeMap<u8, String>),
    /// So many clients may be linked.
    ClientsMax(usize),
    /// So many messages each peer may have under way to us, on links that are made from now on.
    DataInFlight(u64),
    /// So many bytes of them.
    DataBytes(u64),
    /// So many bytes all peers together.
    FlowsBytes(u64),
    /// The link to this peer ends.
    Kick(PeerId),
}

/// A bit for each node whose address we have.
pub(super) fn given(nodes: &BTreeMap<u8, String>) -> u64 {
    nodes.keys().filter(|index| **index < 64).fold(0, |all, index| all | 1 << index)
}

/// As a limit of the membership.
pub(super) fn clients(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl<D: Wires> Door<D> {
    /// Makes the changes that were asked for.
    pub(super) fn change(&mut self) {
        let changes = std::mem::take(&mut *lock(&self.shared.changes_wanted));
        for change in changes {
            tracing::info!(target: "busway::link", "changed: {change:?}");
            match change {
                Change::Peers(nodes) => self.change_peers(nodes),
                Change::ClientsMax(count) => {
                    self.clients_max = count;
                    self.configure();
                    self.forget_clients();
                }
                Change::DataInFlight(count) => self.link.hello.credit_messages = count,
                Change::DataBytes(bytes) => self.link.hello.credit_bytes = bytes,
                Change::FlowsBytes(bytes) => {
                    self.flows.configure(limits_of(*self.flows.limits(), bytes));
                }
                Change::Kick(peer) => self.decide(Input::Kick { peer }),
            }
        }
    }

    fn change_peers(&mut self, nodes: BTreeMap<u8, String>) {
        let before = std::mem::replace(&mut self.nodes, nodes);
        self.configure();
        let moved: Vec<u8> = before
            .iter()
            .filter(|(index, address)| self.nodes.get(index).is_some_and(|now| now != *address))
            .map(|(index, _)| *index)
            .collect();
        for index in moved {
            let address = self.nodes.get(&index).cloned().unwrap_or_default();
            if let Some(known) = lock(&self.shared.known).get_mut(&PeerId::Node { index }) {
                known.address = address;
            }
            self.decide(Input::Moved { index });
        }
        for index in before.into_keys().filter(|index| !self.nodes.contains_key(index)).collect::<Vec<u8>>() {
            self.forget_node(PeerId::Node { index });
        }
    }

    fn configure(&mut self) {
        let (given, clients_max) = (given(&self.nodes), clients(self.clients_max));
        self.decide(Input::Configured { given, clients_max });
    }
}
