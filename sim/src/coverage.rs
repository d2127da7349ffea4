//! How often each fault met each state of a link.
//!
//! Invariant: it only counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fault::Fault;
use crate::phase::Phase;

/// Counts of pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<(usize, Phase), u64>,
}

/// Swallowed connections and strangers are for the machines only.
fn is_real(fault: usize, phase: Phase) -> bool {
    // Its links do not show when they are dialed, and its relay rings have room for all that a world sends.
    let shown = !matches!(phase, Phase::Dialing | Phase::Suspended);
    let known = !matches!(Fault::NAMES[fault], "swallow" | "strangers");
    shown && known
}

impl Coverage {
    /// A fault has met a link that was so far.
    pub fn met(&mut self, fault: &Fault, phase: Phase) {
        *self.counts.entry((fault.number(), phase)).or_default() += 1;
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Coverage) {
        for (&key, count) in &other.counts {
            *self.counts.entry(key).or_default() += count;
        }
    }

    /// The pairs that have never met; with the runtime, of those that its network can bring about and that its links
    /// show.
    pub fn missing(&self, real: bool) -> impl Iterator<Item = (&'static str, Phase)> {
        let all = (0..Fault::NAMES.len()).flat_map(|fault| Phase::ALL.map(|phase| (fault, phase)));
        let all = all.filter(move |&(fault, phase)| !real || is_real(fault, phase));
        all.filter(|key| !self.counts.contains_key(key)).map(|(fault, phase)| (Fault::NAMES[fault], phase))
    }

    /// The counts as a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!("{:<18}", "fault met by link");
        // Writing to a string cannot fail.
        for phase in Phase::ALL {
            let _ = write!(table, "{:>10}", phase.name());
        }
        for (fault, name) in Fault::NAMES.iter().enumerate() {
            let _ = write!(table, "\n{name:<18}");
            for phase in Phase::ALL {
                let count = self.counts.get(&(fault, phase)).copied().unwrap_or(0);
                let _ = write!(table, "{count:>10}");
            }
        }
        table
    }
}
