//! A bare ring: slots of 128 bytes with a word, a header and the payload inline; one store publishes.
//!
//! The layout of the bus's inline slot, with nothing of what makes it a bus: no second look at the word,
//! no bounds, no policies, no row, no bell, no death. One reader. Where it must lose nothing it has the
//! one thing it cannot do without, the reader's cursor, told every quarter of the ring.

use crate::Failure;
use crate::clock::Patience;
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender};
use crate::stage::{Line, Ordering, Word};

/// Two rings, one each way.
#[derive(Debug)]
pub struct BareRing {
    lines: &'static [Line],
}

/// Where one ring lies: its slots of two lines each, and the reader's cursor.
#[derive(Debug, Clone, Copy)]
struct Ring {
    slots: &'static [Line],
    cursor: &'static Word,
    mask: u64,
}

/// The writer's end.
#[derive(Debug)]
pub struct RingSender {
    ring: Ring,
    sequence: u64,
    /// The reader's cursor as last seen; `u64::MAX / 2` when nobody waits for the reader.
    limit: u64,
}

/// The reader's end.
#[derive(Debug)]
pub struct RingReceiver {
    ring: Ring,
    sequence: u64,
    tell: bool,
}

/// Lines that one ring may take: 2 048 slots and its cursor.
const RING_LINES: usize = 4096 + 8;

/// Slots of a lossy ring: 8 KiB, well inside the first cache.
const SLOTS_LOSSY: u64 = 64;

/// Slots of a reliable ring: deep enough that neither side waits for the other's line at each message.
const SLOTS_RELIABLE: u64 = 2048;

impl BareRing {
    fn ring(&self, channel: Channel, quality: Quality) -> Ring {
        let first = match channel {
            Channel::There => 16,
            Channel::Back => 16 + RING_LINES,
        };
        let slots = match quality {
            Quality::Lossy => SLOTS_LOSSY,
            Quality::Reliable => SLOTS_RELIABLE,
        };
        let lines = &self.lines[first..first + RING_LINES];
        Ring { slots: &lines[8..], cursor: &lines[0].words[0], mask: slots - 1 }
    }
}

impl Medium for BareRing {
    type Sender = RingSender;
    type Receiver = RingReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        Ok(Self { lines: &scene.stage.board.free })
    }

    fn sender(&self, channel: Channel, quality: Quality) -> Result<RingSender, Failure> {
        let limit = if quality == Quality::Lossy { u64::MAX / 2 } else { 0 };
        Ok(RingSender { ring: self.ring(channel, quality), sequence: 0, limit })
    }

    fn receiver(&self, channel: Channel, quality: Quality) -> Result<RingReceiver, Failure> {
        Ok(RingReceiver {
            ring: self.ring(channel, quality),
            sequence: 0,
            tell: quality == Quality::Reliable,
        })
    }
}

impl Ring {
    #[inline]
    fn slot(&self, sequence: u64) -> &'static [Line] {
        let index = 2 * (sequence & self.mask) as usize;
        &self.slots[index..index + 2]
    }
}

impl Sender for RingSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    #[inline]
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        let mut patience = Patience::new();
        while self.sequence > self.limit + self.ring.mask {
            self.limit = self.ring.cursor.load(Ordering::Acquire); // pairs with Release in `take`
            if !patience.turn() {
                return Err("the reader of a bare ring is silent".into());
            }
        }
        self.sequence += 1;
        let slot = self.ring.slot(self.sequence);
        // Word 0 publishes; words 1 to 3 are the header (time, correlation, size and kind); then the payload.
        // The second line goes first: the reader polls the first, and would take it back between two stores.
        let (head, tail) = letter.split_at(4);
        for (word, value) in slot[1].words.iter().zip(tail) {
            word.store(*value, Ordering::Relaxed);
        }
        for (word, value) in slot[0].words[4..].iter().zip(head) {
            word.store(*value, Ordering::Relaxed);
        }
        slot[0].words[1].store(self.sequence, Ordering::Relaxed);
        slot[0].words[2].store(0, Ordering::Relaxed);
        slot[0].words[3].store(64, Ordering::Relaxed);
        slot[0].words[0].store(self.sequence, Ordering::Release); // pairs with Acquire in `take`
        Ok(())
    }
}

impl Receiver for RingReceiver {
    const PAUSES: bool = true;

    #[inline]
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        let slot = self.ring.slot(self.sequence + 1);
        let found = slot[0].words[0].load(Ordering::Acquire); // pairs with Release in `send`
        if found <= self.sequence {
            return Ok(None);
        }
        self.sequence = found;
        let mut letter = Letter::default();
        for index in 0..4 {
            letter[index] = slot[0].words[4 + index].load(Ordering::Relaxed);
            letter[4 + index] = slot[1].words[index].load(Ordering::Relaxed);
        }
        if self.tell && found.is_multiple_of((self.ring.mask + 1) / 4) {
            self.ring.cursor.store(found, Ordering::Release); // pairs with Acquire in `send`
        }
        Ok(Some(letter))
    }
}
