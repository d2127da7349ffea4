//! Messages that come in parts: what must come next of each.
//!
//! One message of a source is open at a time; those of several sources are open at once, each paid for by credit.
//! Nothing of the bytes is kept here.
//!
//! Invariant: the parts of a message that is open follow each other, and make progress.

use alloc::collections::BTreeMap;

use busway_wire::{Header, Part, PortId};

/// The messages that have begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    open: BTreeMap<PortId, Open>,
    /// A large message that comes in pieces but not in parts, or the last part of one, ends with its frame.
    ends: bool,
}

#[derive(Debug)]
struct Open {
    sequence: u64,
    next: u64,
    total: u64,
}

/// A part that does not follow.
#[derive(Debug)]
pub(crate) struct OutOfOrder;

impl Parts {
    /// A piece begins: whether it is the first of its message. `own` is the size of the message's extensions.
    pub(crate) fn begin(
        &mut self,
        header: &Header,
        part: Option<Part>,
        piece: u64,
        own: usize,
    ) -> Result<bool, OutOfOrder> {
        let (source, sequence) = (header.source(), header.sequence.get());
        let Some(part) = part else {
            self.ends = true;
            return if self.open.contains_key(&source) { Err(OutOfOrder) } else { Ok(true) };
        };
        let end = part.offset.checked_add(piece).filter(|end| piece > 0 && *end <= part.total);
        let Some(end) = end.filter(|_| part.message == sequence) else { return Err(OutOfOrder) };
        let first = match self.open.get_mut(&source) {
            None if part.offset == 0 => {
                self.open.insert(source, Open { sequence, next: end, total: part.total });
                true
            }
            Some(open)
                if open.sequence == sequence
                    && open.next == part.offset
                    && open.total == part.total
                    && own == 0 =>
            {
                open.next = end;
                false
            }
            Some(_) | None => return Err(OutOfOrder),
        };
        self.ends = end == part.total;
        if self.ends {
            self.open.remove(&source);
        }
        Ok(first)
    }

    /// The frame of the latest piece has ended: whether its message has.
    pub(crate) fn finish(&mut self) -> bool {
        core::mem::take(&mut self.ends)
    }

    /// Whether a message of this source is open.
    pub(crate) fn is_open(&self, source: PortId) -> bool {
        self.open.contains_key(&source)
    }
}
