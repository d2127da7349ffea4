//! What messages of the simulator hold: every byte follows from source and sequence, so that any can be checked.
//!
//! It knows neither rings nor links.
//!
//! Invariant: two messages of different source, sequence or size have different bytes.

use std::sync::Arc;

use busway_wire::{ExtensionKind, Extensions, Header, Kind, PortId, TopicId};

/// The bytes of a payload in the simulator.
pub type Payload = Arc<[u8]>;

/// A message as it lies in a ring: the header, and what follows it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// Extensions, then payload.
    pub body: Payload,
}

/// Low bits of a port's id that say which of a run's sources it is; those above are random, as all are elsewhere.
const PLACE_BITS: u32 = 20;

/// The id of a run's `place`-th source.
pub(crate) fn port(random: u64, place: usize) -> PortId {
    assert!(place < (1 << PLACE_BITS) - 1, "a run has less than a million sources");
    PortId(random << PLACE_BITS | (place as u64 + 1))
}

/// Which of a run's sources it is, if it is one: the others have no place.
pub(crate) fn place_of(source: PortId) -> usize {
    let low = source.0 & ((1 << PLACE_BITS) - 1);
    usize::try_from(low).ok().and_then(|low| low.checked_sub(1)).unwrap_or(usize::MAX)
}

/// Which message: its place and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// The source.
    pub source: PortId,
    /// The place among those of its source.
    pub sequence: u64,
    /// Bytes of payload.
    pub size: usize,
}

impl Which {
    /// Makes the message; every fifth has an extension.
    #[must_use]
    pub fn message(self, topic: TopicId) -> Message {
        let mut header = Header::new(Kind::Publish);
        header.source.set(self.source.0);
        header.sequence.set(self.sequence);
        header.topic.set(topic.0);
        header.time_ns.set(self.sequence);
        let mut body = Vec::with_capacity(self.size + 24);
        if self.sequence.is_multiple_of(5) {
            Extensions::push(&mut body, ExtensionKind::ContentType, b"text/plain").expect("10 bytes fit");
        }
        header.set_extensions(&body).expect("one small extension fits");
        self.fill(&mut body);
        header.seal(&body).expect("the simulator makes no message of a gigabyte");
        Message { header, body: body.into() }
    }

    /// The payload alone.
    #[must_use]
    pub fn payload(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size);
        self.fill(&mut bytes);
        bytes
    }

    /// Whether this is the payload of the message.
    #[must_use]
    pub fn is(self, payload: &[u8]) -> bool {
        let mut at = 0;
        payload.len() == self.size
            && self.words().all(|word| {
                let bytes = &payload[at..payload.len().min(at + word.len())];
                at += bytes.len();
                *bytes == word[..bytes.len()]
            })
    }

    /// Appends the payload.
    fn fill(self, out: &mut Vec<u8>) {
        let end = out.len() + self.size;
        for word in self.words() {
            out.extend_from_slice(&word[..word.len().min(end - out.len())]);
        }
    }

    /// The payload in pieces of eight bytes; of the last one as many as are wanted.
    fn words(self) -> impl Iterator<Item = [u8; 8]> {
        let mut state = self.source.0 ^ self.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.size as u64;
        (0..self.size.div_ceil(8)).map(move |_| {
            // Weyl steps and one multiplication: enough that a byte out of place is seen.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
        })
    }
}
