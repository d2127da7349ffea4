//! The slots of a ring between two growths: their memory, and how readers find it.
//!
//! It does not decide when a ring grows (`room`).
//!
//! Invariant: a stage is listed when all of its slots look older than what they will carry.

use crate::arena::OwnArena;
use crate::error::ShmError;
use crate::layout::{PAGE, RingEntry};
use crate::slot::{ChunkRef, Slot};
use crate::sync::Ordering;
use crate::view::Mapped;

/// The slots of a ring between two growths.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) slots: Mapped<[Slot]>,
    pub(super) mask: u64,
    /// First sequence that lies here.
    pub(super) first: u64,
}

/// Makes the stage `index` of the ring, whose first message is `first`, and lists it in the ring's entry.
pub(super) fn new_stage(
    own: &OwnArena,
    entry: &RingEntry,
    index: usize,
    slots: u32,
    first: u64,
) -> Result<Stage, ShmError> {
    let bytes = (u64::from(slots) * size_of::<Slot>() as u64).max(PAGE);
    let offset = own.take_pages(bytes)?;
    let memory: Mapped<[Slot]> = own.tables().arena().slice(offset, u64::from(slots))?;
    for sequence in first..first + u64::from(slots) {
        // Recycled pages hold old words: every slot must look older than what it will carry.
        let at = (sequence & u64::from(slots - 1)) as usize;
        memory[at].publish(sequence.wrapping_sub(u64::from(slots)), ChunkRef::BUSY);
    }
    if let (Some(at), Some(start)) = (entry.stage_at.get(index), entry.stage_first.get(index)) {
        at.store(offset | u64::from(slots.trailing_zeros()), Ordering::Relaxed);
        start.store(first, Ordering::Relaxed);
    }
    // pairs with Acquire in `row`
    entry.stages_used.store(index as u32 + 1, Ordering::Release);
    Ok(Stage { slots: memory, mask: u64::from(slots - 1), first })
}
