//! Taking a large message: held where it lies, or copied where no more may be held, or by who wants a copy anyway.
//!
//! It does not know which message is next: `take` asks for the chunk that the next slot names.
//!
//! Invariant: W2 of `row`: a chunk is read only while a hold word names it that was stored before a fence after which the
//! slot was unchanged.

use busway_wire::Cause;
use busway_wire::limits::HOLD_COPY_BYTES_MAX;
use busway_wire::{HEADER_SIZE, Header};
use zerocopy::FromBytes;

use super::RowReader;
use crate::arena::ChunkPlace;
use crate::error::ShmError;
use crate::row::{Body, HeldChunk, Message, Taken, TakenSmall};
use crate::slot::{ChunkRef, Look, SlotWord};
use crate::sync::{Ordering, fence};

impl RowReader {
    /// Shows the next message to `copy` where it lies, if it lies in a chunk, has at most `most` bytes of payload, and
    /// nothing but to copy it is to be done; it is passed if `copy` says that it has it. It is held for no longer than that,
    /// which costs a fence where a sample that is kept costs many counts.
    #[inline]
    pub fn copy_next(&mut self, most: usize, copy: impl FnOnce(&Header, &[u8]) -> bool) -> TakenSmall {
        let sequence = self.next;
        let Some(stage) = self.stage.as_ref().filter(|_| self.follows && !self.foreign) else {
            return TakenSmall::Other;
        };
        let Look::Chunk(chunk, word) = stage.slots[(sequence & stage.mask) as usize].look(sequence) else {
            return TakenSmall::Other;
        };
        let Some(place) = self.row.peer.tables().resolve(chunk) else { return TakenSmall::Other };
        self.row.holds.borrow(chunk);
        fence(Ordering::SeqCst); // W2: pairs with the fence in `recycle::begin`
        let copied = self.still(word) && self.show(place, most, copy);
        self.row.holds.unborrow();
        if !copied {
            return TakenSmall::Other;
        }
        self.took(sequence);
        TakenSmall::Message(sequence)
    }

    /// Shows a message that is held; whether it was taken.
    fn show(&self, place: ChunkPlace, most: usize, copy: impl FnOnce(&Header, &[u8]) -> bool) -> bool {
        let Some(bytes) = self.row.peer.tables().chunk_shown(place) else { return false };
        let Some((header, size, skip)) = self.header_in(bytes, place.bytes) else { return false };
        let payload = usize::try_from(size).ok().and_then(|size| bytes.get(skip..size));
        payload.is_some_and(|payload| payload.len() <= most && copy(&header, payload))
    }

    /// `None`: look again.
    pub(super) fn take_chunk(&mut self, chunk: ChunkRef, word: SlotWord) -> Option<Taken> {
        let Some(place) = self.row.peer.tables().resolve(chunk) else {
            return Some(self.lose(1, Cause::Corrupt));
        };
        let small = place.bytes <= (HOLD_COPY_BYTES_MAX + HEADER_SIZE) as u64;
        if !self.foreign
            && let Some(at) = self.row.hold(chunk, place.bytes)
        {
            fence(Ordering::SeqCst); // W2: pairs with the fence in `recycle::begin`
            if !self.still(word) {
                self.row.release(at, place.bytes);
                return self.lapped();
            }
            return Some(self.take_held(at, place));
        }
        if !self.foreign && !small {
            return Some(Taken::HoldsExhausted);
        }
        self.row.holds.borrow(chunk);
        fence(Ordering::SeqCst); // W2: as above
        let copied = if self.still(word) { self.copy(place) } else { Err(Cause::Corrupt) };
        let still = self.still(word);
        self.row.holds.unborrow();
        match (copied, still) {
            (Ok((header, following)), true) => {
                if header.extensions != 0
                    && !self.is_first(following.get(..header.extension_bytes()).unwrap_or_default())
                {
                    return Some(self.lose(1, Cause::Duplicate));
                }
                let sequence = self.next;
                self.took(sequence);
                Some(Taken::Message(Message { sequence, body: Body::Copied(header, following) }))
            }
            (Err(cause), true) => Some(self.lose(1, cause)),
            (_, false) => self.lapped(),
        }
    }

    fn still(&self, word: SlotWord) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.slots[(self.next & stage.mask) as usize].still(word))
    }

    fn take_held(&mut self, at: u32, place: ChunkPlace) -> Taken {
        let checked = self.header(place);
        let payload = checked.and_then(|(header, size, _)| {
            Some((header, self.row.peer.tables().chunk_bytes(place, size).ok()?))
        });
        let (Some((header, payload)), Some((_, _, skip))) = (payload, checked) else {
            self.row.release(at, place.bytes);
            return self.lose(1, Cause::Corrupt);
        };
        // Nearly all say nothing beside their payload.
        if skip > HEADER_SIZE && !self.is_first(payload.as_slice().get(HEADER_SIZE..skip).unwrap_or_default())
        {
            self.row.release(at, place.bytes);
            return self.lose(1, Cause::Duplicate);
        }
        let sequence = self.next;
        self.took(sequence);
        let held = HeldChunk { row: self.row.clone(), at, bytes: place.bytes, payload, header, skip };
        Taken::Message(Message { sequence, body: Body::Chunk(held) })
    }

    /// Whether this reader wants a message with these extensions: it has had none of the same id.
    fn is_first(&self, extensions: &[u8]) -> bool {
        self.sieve.as_ref().is_none_or(|sieve| sieve.wants(extensions))
    }

    fn copy(&self, place: ChunkPlace) -> Result<(Header, Vec<u8>), Cause> {
        let (header, size, _) = self.header(place).ok_or(Cause::Corrupt)?;
        let bytes = self.row.peer.tables().chunk_bytes(place, size).map_err(|error| match error {
            ShmError::Memory { .. } => Cause::HoldBudget,
            _ => Cause::Corrupt,
        })?;
        let following = bytes.as_slice().get(HEADER_SIZE..).ok_or(Cause::Corrupt)?;
        let mut copy = Vec::new();
        // Refused rather than aborted: a publisher of another user decides how large this is, up to a gigabyte.
        copy.try_reserve_exact(following.len()).map_err(|_| Cause::HoldBudget)?;
        copy.extend_from_slice(following);
        Ok((header, copy))
    }

    /// The header of the chunk, its message's size and where the payload begins; `None` where they cannot be true.
    fn header(&self, place: ChunkPlace) -> Option<(Header, u64, usize)> {
        let tables = self.row.peer.tables();
        if let Some(bytes) = tables.chunk_shown(place) {
            return self.header_in(bytes, place.bytes);
        }
        let start = tables.chunk_bytes(place, HEADER_SIZE as u64).ok()?;
        self.header_in(start.as_slice(), place.bytes)
    }

    /// As `header`, where the first bytes of the chunk are at hand.
    #[inline]
    fn header_in(&self, start: &[u8], most: u64) -> Option<(Header, u64, usize)> {
        // A copy: what is checked is what is used, whatever the publisher does meanwhile.
        let (header, _) = Header::read_from_prefix(start).ok()?;
        let size = u64::from(header.size.get());
        let skip = HEADER_SIZE + header.extension_bytes();
        let fits = size <= most && size >= skip as u64;
        let known = header.kind().is_some() && header.sequence.get() == self.next;
        (fits && known).then_some((header, size, skip))
    }
}
