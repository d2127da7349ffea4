//! For which groups the programs of this host pull, as other hosts are told: each pattern and group once, however many pull.
//!
//! Invariant: after a listing has ended, what is known is what was named.

use std::collections::BTreeMap;

use busway_protocol::Deed;
use busway_wire::{Group, Pattern, PortId, ProcessId};

use crate::control::Watched;

/// One pattern of one group.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) pattern: Pattern,
    pub(super) group: Group,
    /// Ports that pull.
    pub(super) pullers: u64,
}

impl Known {
    /// What a peer does that gives us something of it.
    pub(super) fn gives(&self) -> Deed {
        if self.group.name().is_reserved() { Deed::Request } else { Deed::Push }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    ports: BTreeMap<(ProcessId, PortId), (String, u64)>,
    numbers: BTreeMap<String, u32>,
    all: BTreeMap<u32, Known>,
    next: u32,
    listing: u64,
}

impl Pulls {
    pub(super) fn get(&self, pull: u32) -> Option<&Known> {
        self.all.get(&pull)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Known)> {
        self.all.iter().map(|(pull, known)| (*pull, known))
    }

    /// Takes a change.
    pub(super) fn watched(&mut self, watched: Watched) {
        match watched {
            Watched::Pulled { process, port, pattern, group } => self.pulled((process, port), pattern, group),
            Watched::Unwanted { process, port } => self.gone((process, port)),
            Watched::Wanted { .. } => {}
            Watched::Begin => self.listing += 1,
            Watched::End => {
                let gone = self.ports.iter().filter(|(_, (_, listing))| *listing < self.listing);
                let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
                gone.into_iter().for_each(|key| self.gone(key));
            }
        }
    }

    fn pulled(&mut self, key: (ProcessId, PortId), pattern: Pattern, group: Group) {
        let name = format!("{pattern} {group}");
        // What the bus says about itself stays on its host.
        if name.starts_with('$') || name.starts_with("^$") {
            return;
        }
        if let Some((known, listing)) = self.ports.get_mut(&key)
            && *known == name
        {
            *listing = self.listing;
            return;
        }
        self.gone(key);
        let next = &mut self.next;
        let pull = *self.numbers.entry(name.clone()).or_insert_with(|| {
            *next = next.wrapping_add(1);
            *next
        });
        self.all.entry(pull).or_insert(Known { pattern, group, pullers: 0 }).pullers += 1;
        self.ports.insert(key, (name, self.listing));
    }

    fn gone(&mut self, key: (ProcessId, PortId)) {
        let Some((name, _)) = self.ports.remove(&key) else { return };
        let Some(pull) = self.numbers.get(&name).copied() else { return };
        let left = self.all.get_mut(&pull).map_or(0, |known| {
            known.pullers -= 1;
            known.pullers
        });
        if left == 0 {
            self.numbers.remove(&name);
            self.all.remove(&pull);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pulls;
    use crate::control::Watched;
    use busway_wire::{Group, Pattern, PortId, ProcessId, Topic};

    fn pulled(port: u64, pattern: &str, group: &str) -> Watched {
        let (pattern, group) = (Pattern::parse(pattern).unwrap(), Topic::new(group).unwrap());
        let group = Group::new(group, None).unwrap();
        Watched::Pulled { process: ProcessId(1), port: PortId(port), pattern, group }
    }

    fn known(pulls: &Pulls) -> Vec<String> {
        pulls.all().map(|(pull, known)| format!("{pull} {} {}", known.pattern, known.pullers)).collect()
    }

    #[test]
    fn a_group_is_told_once_until_its_last_puller_goes_and_what_a_listing_leaves_out_is_gone() {
        let mut pulls = Pulls::default();
        for port in 1..=3 {
            pulls.watched(pulled(port, "a.>", "g"));
        }
        pulls.watched(pulled(4, "a.>", "other"));
        pulls.watched(pulled(5, "$bus.>", "g"));
        pulls.watched(pulled(1, "a.>", "g"));
        assert_eq!(known(&pulls), ["1 a.> 3", "2 a.> 1"]);
        pulls.watched(Watched::Unwanted { process: ProcessId(1), port: PortId(2) });
        pulls.watched(Watched::Begin);
        pulls.watched(pulled(3, "a.>", "g"));
        assert_eq!(known(&pulls), ["1 a.> 2", "2 a.> 1"], "a listing has not ended");
        pulls.watched(Watched::End);
        assert_eq!(known(&pulls), ["1 a.> 1"]);
        pulls.watched(Watched::Unwanted { process: ProcessId(1), port: PortId(3) });
        assert!(known(&pulls).is_empty());
        pulls.watched(pulled(1, "a.>", "g"));
        assert_eq!(known(&pulls), ["3 a.> 1"], "what it is called now was never its name");
    }
}
