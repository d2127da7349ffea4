//! Looks at the whole world: accounts, links, and whether anything is still under way.
//!
//! Invariant: it looks and changes nothing but the checkers' findings.

use busway_protocol::{PeerId, Time};
use busway_wire::PortId;
use busway_wire::limits::LINK_BACKOFF_CLIENT_MS_MAX;

use super::World;
use crate::crowd::Crowd;
use crate::fault::Pair;

/// A pair that can reach each other is linked within this long: the 2 s that are promised, and what a kernel waits
/// before it sends again.
const LINKED_MS: u64 = 2_000 + 500;
/// A client dials again after half a minute at most, and what a refusal asks for is no longer.
const LINKED_CLIENT_MS: u64 = LINK_BACKOFF_CLIENT_MS_MAX + LINKED_MS;

impl World {
    /// What is looked at every now and then.
    pub(super) fn check(&mut self) {
        self.check_links();
        self.check_accounts();
    }

    /// Lets every publisher finish and every message arrive: what is stuck otherwise.
    ///
    /// # Errors
    /// What was still under way after so long, or what a checker has found.
    pub fn run_until_quiet(&mut self, ms_max: u64) -> Result<(), String> {
        let end = self.now.after_ms(ms_max);
        loop {
            if !self.run_for_ms(50) {
                break;
            }
            let Some(stuck) = self.unfinished() else {
                self.checks.finish();
                self.check_quiet_accounts();
                break;
            };
            if self.now >= end {
                self.checks.violate(|| format!("not quiet after {ms_max} ms: {stuck}"));
                break;
            }
        }
        match self.checks.violation() {
            Some(violation) => Err(violation.to_owned()),
            None => Ok(()),
        }
    }

    /// What is under way, if anything.
    #[must_use]
    pub fn unfinished(&self) -> Option<String> {
        if let Some(publisher) = self.publishers.iter().find(|p| p.work.messages > 0) {
            let source = publisher.source;
            return Some(format!("{source} has {} messages to send", publisher.work.messages));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else { return Some(format!("node {index} is down")) };
            if !node.is_settled() {
                return Some(format!("node {index} has messages without room, or half of one"));
            }
            if !host.consuming.is_empty() || !host.memory.rung.is_empty() {
                return Some(format!("subscribers of host {index} have something to read"));
            }
            for (source, ring) in &host.memory.rings {
                for (peer, row) in ring.rows() {
                    if row.read != ring.next() || (row.reliable && row.passed + 1 != ring.next()) {
                        let sent = ring.next() - 1;
                        let accounts: Vec<_> = node.accounts().filter(|a| a.0 == *peer).collect();
                        return Some(format!("{peer} of {sent} of {source}: {row:?}; {accounts:?}"));
                    }
                }
            }
            for (peer, source, _, account) in node.accounts() {
                if account.is_some_and(|account| account.in_flight > 0) {
                    return Some(format!("messages of {source} are under way to {peer}"));
                }
            }
        }
        self.apart().map(|pair| format!("client {} has no link to node {}", pair.to, pair.from))
    }

    /// Whoever can reach each other has a link.
    fn check_links(&mut self) {
        for pair in self.network.broken() {
            self.touch(pair);
        }
        let crowd = self.crowd();
        for Pair { from: a, to: b } in crowd.pairs() {
            let Some(patience_ms) = self.patience_ms(b) else { continue };
            let (touched, held) = self.touched.get(&(a, b)).copied().unwrap_or((Time(0), 0));
            let up = self.hosts[a].node.is_some() && self.hosts[b].node.is_some();
            let late = self.now > touched.after_ms(patience_ms);
            if held == 0 && up && late && !self.is_linked(a, b) {
                self.checks.violate(|| {
                    format!("hosts {a} and {b} can reach each other since {patience_ms} ms and have no link")
                });
            }
        }
    }

    /// How long the link of a host may take; `None` where there is not room for all who want one.
    fn patience_ms(&self, host: usize) -> Option<u64> {
        if !self.crowd().is_client(host) {
            return Some(LINKED_MS);
        }
        let room = self.crowd().clients <= self.terms.clients_max as usize && !self.terms.homes;
        room.then_some(LINKED_CLIENT_MS)
    }

    /// A client that has not found back to a node that has room for it.
    fn apart(&self) -> Option<Pair> {
        let clients = |pair: &Pair| self.crowd().is_client(pair.to) && self.patience_ms(pair.to).is_some();
        self.crowd().pairs().filter(clients).find(|pair| !self.is_linked(pair.from, pair.to))
    }

    /// sent = acknowledged + lost by cause + in flight.
    fn check_accounts(&mut self) {
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            for (peer, source, _, account) in node.accounts() {
                let Some(account) = account else {
                    self.checks.violate(|| format!("host {index} has no account of {source} for {peer}"));
                    continue;
                };
                let dropped: u64 = account.dropped.iter().sum();
                if account.sent != account.acked + dropped + account.in_flight {
                    self.checks.violate(|| {
                        format!(
                            "the account of {source} for {peer} on host {index} is not closed: {account:?}"
                        )
                    });
                }
            }
        }
    }

    /// When all is quiet the accounts say what the rings say.
    fn check_quiet_accounts(&mut self) {
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            if host.starts > 1 {
                // What its predecessor has sent is known to the peer, and told from there on.
                continue;
            }
            for (peer, source, first, account) in node.accounts() {
                let Some(ring) = host.memory.rings.get(&source) else { continue };
                let Some(account) = account else { continue };
                if self.checks.are_estranged(index, Crowd::host_of(peer)) {
                    // What it had sent before it forgot the client is known to that one.
                    continue;
                }
                let sent = ring.next() - first;
                let reliable = ring.row(peer).is_some_and(|row| row.reliable);
                let dropped: u64 = account.dropped.iter().sum();
                if account.sent != sent || (reliable && dropped > 0) {
                    self.checks.violate(|| {
                        format!(
                            "host {index} sent {sent} of {source} to {peer}, its account says {account:?}"
                        )
                    });
                }
            }
        }
    }

    /// How much of a source is under way to a host.
    #[must_use]
    pub fn in_flight(&self, source: PortId, to: usize) -> u64 {
        let to: PeerId = self.peer(to);
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        let theirs = nodes.flat_map(|node| node.accounts()).filter(|(id, s, ..)| *id == to && *s == source);
        theirs.filter_map(|(.., account)| account).map(|account| account.in_flight).sum()
    }
}
