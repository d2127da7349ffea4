//! Taking a large message: held where it lies, or copied where no more may be held.
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
use crate::row::{Body, HeldChunk, Message, Taken};
use crate::slot::{ChunkRef, SlotWord};
use crate::sync::{Ordering, fence};

impl RowReader {
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
            (Ok((header, payload)), true) => {
                let sequence = self.next;
                self.took(sequence);
                Some(Taken::Message(Message { sequence, body: Body::Copied(header, payload) }))
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
        let sequence = self.next;
        self.took(sequence);
        let held = HeldChunk { row: self.row.clone(), at, bytes: place.bytes, payload, header, skip };
        Taken::Message(Message { sequence, body: Body::Chunk(held) })
    }

    fn copy(&self, place: ChunkPlace) -> Result<(Header, Vec<u8>), Cause> {
        let (header, size, skip) = self.header(place).ok_or(Cause::Corrupt)?;
        let bytes = self.row.peer.tables().chunk_bytes(place, size).map_err(|_| Cause::Corrupt)?;
        let payload = bytes.as_slice().get(skip..).ok_or(Cause::Corrupt)?;
        let mut copy = Vec::new();
        // Refused rather than aborted: a publisher of another user decides how large this is, up to a gigabyte.
        copy.try_reserve_exact(payload.len()).map_err(|_| Cause::HoldBudget)?;
        copy.extend_from_slice(payload);
        Ok((header, copy))
    }

    /// The header of the chunk, its message's size and where the payload begins; `None` where they cannot be true.
    fn header(&self, place: ChunkPlace) -> Option<(Header, u64, usize)> {
        let start = self.row.peer.tables().chunk_bytes(place, HEADER_SIZE as u64).ok()?;
        // A copy: what is checked is what is used, whatever the publisher does meanwhile.
        let header = Header::read_from_bytes(start.as_slice()).ok()?;
        let size = u64::from(header.size.get());
        let skip = HEADER_SIZE + header.extension_bytes();
        let fits = size <= place.bytes && size >= skip as u64;
        let known = header.kind().is_some() && header.sequence.get() == self.next;
        (fits && known).then_some((header, size, skip))
    }
}
