//! The ledger of a row: what became of the messages since its account began.
//!
//! A row counts what it took and what it lost, each for itself, and moves its cursor afterwards. So that the sum says
//! something, none of the three is worked out from the others; and since nobody stops a row to look at it, a reader looks at
//! the cursor twice: what was counted must lie between, or one step ahead. A step is one message, or the one loss that
//! `losing` announces; a row whose process died in the middle of a step is as far as it had counted.
//!
//! Invariant: an honest row's account closes whenever it is looked at: `expected = delivered + dropped + in_flight`.

use busway_wire::Cause;

use crate::layout::{CAUSES, RowEntry, state, unkey};
use crate::sync::Ordering;

/// The ledger of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowAccount {
    /// Published since the account began.
    pub expected: u64,
    /// Taken.
    pub delivered: u64,
    /// Lost, by cause.
    pub dropped: [u64; CAUSES],
    /// Published and neither taken nor lost.
    pub in_flight: u64,
    /// Samples held now.
    pub held: u64,
}

impl RowAccount {
    /// That of a puller's row: what it passes is in its group's.
    pub fn of_puller(row: &RowEntry) -> Self {
        Self { held: u64::from(row.held.load(Ordering::Relaxed)), ..Self::default() }
    }

    /// All losses in one number.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().fold(0, |sum: u64, lost| sum.saturating_add(*lost))
    }

    /// Whoever reads the row is gone: nothing is on its way to it any more.
    pub(crate) fn lose_the_rest(&mut self, cause: Cause) {
        let lost = &mut self.dropped[cause as usize];
        *lost = lost.saturating_add(std::mem::take(&mut self.in_flight));
    }

    /// Whether every message is accounted for.
    pub fn closed(&self) -> bool {
        self.expected == self.delivered.saturating_add(self.lost()).saturating_add(self.in_flight)
    }
}

/// The ledger of a row whose account begins behind `from`. `head` is asked after the row was read, so that of an honest row
/// nothing lies beyond it but the one message whose publisher has written the slot and not the head.
pub fn read(row: &RowEntry, from: u64, head: impl FnOnce() -> u64) -> RowAccount {
    if unkey(row.key.load(Ordering::Acquire)).1 == state::STARTING {
        let waiting = head().saturating_sub(from);
        return RowAccount { expected: waiting, in_flight: waiting, ..RowAccount::default() };
    }
    let before = row.cursor.load(Ordering::Acquire); // pairs with Release in `take::passed`
    // Of the history that a late row wanted it has lost nothing: it begins where the ring still was.
    let late = row.history.load(Ordering::Relaxed) > 0;
    let first = if late { row.first.load(Ordering::Relaxed) } else { from };
    let delivered = row.delivered.load(Ordering::Acquire); // pairs with Release in `take::took`
    // pairs with Release in `RowShared::count`
    let dropped: [u64; CAUSES] =
        std::array::from_fn(|cause| row.lost(cause).map_or(0, |lost| lost.load(Ordering::Acquire)));
    let losing = row.losing.load(Ordering::Acquire); // pairs with Release in `take::lose`
    let after = row.cursor.load(Ordering::Acquire);
    let head = head().max(from);
    // A publisher that was killed between a slot and its head has published what was taken from that slot, and nothing behind it.
    let head = if head.checked_add(1) == Some(after) { after } else { head };
    let first = first.clamp(from, head);
    let (before, after) = (before.clamp(first, head), after.clamp(first, head));
    let held = u64::from(row.held.load(Ordering::Relaxed));
    let mut account = RowAccount { expected: head - first, delivered, dropped, in_flight: 0, held };
    let counted = first.saturating_add(delivered).saturating_add(account.lost());
    let step = if losing == u32::MAX { u64::MAX } else { u64::from(losing.max(1)) };
    let plausible = (before..=after.saturating_add(step).min(head)).contains(&counted);
    account.in_flight = head - if plausible { counted } else { after };
    account
}

#[cfg(test)]
mod tests;
