//! Looks at the whole world: accounts, links, and whether anything is still under way.
//!
//! Invariant: it looks and changes nothing but the checkers' findings.

use busway_protocol::{PeerId, Time};
use busway_wire::PortId;

use super::{World, peer};
use crate::fault::Pair;

/// A pair that can reach each other is linked within this long: the 2 s that are promised, and what a kernel waits
/// before it sends again.
const LINKED_MS: u64 = 2_000 + 500;

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
        if let Some((source, publisher)) = self.publishers.iter().find(|(_, p)| p.work.messages > 0) {
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
        None
    }

    /// Whoever can reach each other has a link.
    fn check_links(&mut self) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                if self.network.between(a, b).any(|connection| self.network.is_broken(connection)) {
                    self.touch(Pair { from: a, to: b });
                }
                let (touched, held) = self.touched.get(&(a, b)).copied().unwrap_or((Time(0), 0));
                let up = self.hosts[a].node.is_some() && self.hosts[b].node.is_some();
                let late = self.now > touched.after_ms(LINKED_MS);
                if held == 0 && up && late && !self.is_linked(a, b) {
                    self.checks.violate(|| {
                        format!(
                            "hosts {a} and {b} can reach each other since {LINKED_MS} ms and have no link"
                        )
                    });
                }
            }
        }
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
        let to: PeerId = peer(to);
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        let theirs = nodes.flat_map(|node| node.accounts()).filter(|(id, s, ..)| *id == to && *s == source);
        theirs.filter_map(|(.., account)| account).map(|account| account.in_flight).sum()
    }
}
