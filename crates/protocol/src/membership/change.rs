//! What a person changes while the machine runs: whom we dial, how many clients there may be, and who is to go.
//!
//! Whoever is taken away is told why. What is not changed goes on as it was.
//!
//! Invariant: as that of `membership.rs`; connections that a smaller number of clients leaves over keep their slots until
//! they are closed.

use alloc::string::String;
use alloc::vec::Vec;

use busway_wire::limits::LINK_NODES_MAX;

use crate::membership::{Dial, Membership, Node, Output, Why, backoff_of};
use crate::time::{PeerId, Time};

impl Membership {
    /// The addresses that we have, and how many clients may be linked, are these from now on.
    pub(super) fn configured(&mut self, now: Time, given: u64, clients_max: u32, out: &mut Vec<Output>) {
        let before = self.config.given;
        self.config.given |= given;
        let last =
            LINK_NODES_MAX.min(u8::try_from(u64::BITS - given.leading_zeros()).unwrap_or(LINK_NODES_MAX));
        for index in (0..last).filter(|index| self.config.identity != PeerId::Node { index: *index }) {
            let ours = self.config.identity;
            self.nodes.entry(index).or_insert_with(|| Node::new(backoff_of(ours)));
        }
        // While we still dial them, so that their slots are kept until they are closed.
        for index in (0..LINK_NODES_MAX).filter(|index| (before & !given) >> index & 1 == 1) {
            if self.we_dial(index) {
                self.take_away(now, index, out);
            }
        }
        self.config.given = given;
        self.fewer_clients(now, clients_max, out);
        if self.started {
            self.dial_idle(now, out);
        }
    }

    /// A node whose address nobody gives us any more is not dialed, and the link that we made to it ends.
    fn take_away(&mut self, now: Time, index: u8, out: &mut Vec<Output>) {
        self.end_all(now, index, Why::NotGiven, out);
        if let Some(node) = self.nodes.get_mut(&index) {
            node.dial = Dial::Idle;
        }
    }

    /// A node has another address: what leads to the old one ends, and the new one is dialed.
    pub(super) fn moved(&mut self, now: Time, index: u8, out: &mut Vec<Output>) {
        if !self.we_dial(index) {
            return;
        }
        self.end_all(now, index, Why::Moved, out);
        if let Some(node) = self.nodes.get_mut(&index)
            && let Dial::Waiting { at } = &mut node.dial
        {
            node.backoff.reset();
            *at = (*at).min(now);
        }
    }

    /// Ends the dial and the link of a node.
    fn end_all(&mut self, now: Time, index: u8, why: Why, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get(&index) else { return };
        let (dial, link) = (node.dial, node.link);
        match dial {
            Dial::Connecting { attempt, .. } => {
                out.push(Output::Abandon { attempt });
                self.failed(now, index, String::from(why.text()));
            }
            Dial::Handshaking { connection } => self.end(now, connection, why, out),
            Dial::Idle | Dial::Waiting { .. } => {}
        }
        if let Some(link) = link {
            self.end(now, link, why, out);
        }
    }

    /// Somebody wants the link to this peer to end. It may come back.
    pub(super) fn kick(&mut self, now: Time, peer: PeerId, out: &mut Vec<Output>) {
        if let Some(link) = self.link(peer) {
            self.end(now, link, Why::Kicked, out);
            // A node that dialed us has given its slot to the next connection from there.
            self.count_surplus();
        }
    }

    fn count_surplus(&mut self) {
        self.surplus = self.surplus.max(self.guests().saturating_sub(self.guests_usual() + 1));
    }

    fn fewer_clients(&mut self, now: Time, clients_max: u32, out: &mut Vec<Output>) {
        self.config.clients_max = clients_max;
        self.count_surplus();
        while self.clients.len() > clients_max as usize {
            let Some(idlest) = self.idlest_client() else { return };
            self.counters.evicted += 1;
            self.end(now, idlest, Why::Idlest, out);
        }
    }
}
