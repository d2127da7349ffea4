//! A publisher of what came from another host.
//!
//! It stands for one publisher elsewhere: its port is that publisher's, and its messages keep the sequence they have at
//! their origin, in the eight bytes before their payload. It never waits: who calls has other sources to carry. It is
//! ready when the subscribers that were there before it read it, so that nothing is sent past them.
//!
//! Invariant: sequences of the origin go up in the ring, and what is missing between two of them was told by a gap,
//! here or to the subscriber by the hole itself.

use std::sync::Arc;

use busway_shm::ring::{Patience, RingOptions, RingWriter, Sent};
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_shm::sync::Ordering;
use busway_wire::limits::{RING_BYTES_DEFAULT, RING_SLOTS_MAX_DEFAULT};
use busway_wire::{Cause, Flags, HEADER_SIZE, Header, Kind, PortId, Records, Topic};
use zerocopy::{FromBytes, IntoBytes};

use super::{Publisher, Stamp, past};
use crate::bus::Core;
use crate::control::PublisherRecord;
use crate::error::{Error, memory};
use crate::outcome::SendError;
use crate::ports::{line_of, ring_key};
use crate::publisher::Clock;

/// Bytes before the payload of a relayed message: its sequence at its origin.
pub(crate) const ORIGIN_BYTES: usize = 8;
/// Bytes of the name of a link in a gap; a longer one is cut. With the rest it fits a slot.
const LINK_NAME_BYTES: usize = 64;

/// Messages that will not come, as the link told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) cause: Cause,
    pub(crate) link: String,
}

impl Missing {
    /// What lies in the ring: first, last, cause, name of the link.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + LINK_NAME_BYTES);
        bytes.extend_from_slice(&self.from.to_le_bytes());
        bytes.extend_from_slice(&self.to.to_le_bytes());
        bytes.push(u8::try_from(self.cause.index()).expect("there are at most 16 causes"));
        let mut end = self.link.len().min(LINK_NAME_BYTES);
        while !self.link.is_char_boundary(end) {
            end -= 1;
        }
        bytes.extend_from_slice(&self.link.as_bytes()[..end]);
        bytes
    }

    /// `None` where the bytes cannot be what [`Missing::encode`] made.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (from, rest) = bytes.split_first_chunk::<8>()?;
        let (to, rest) = rest.split_first_chunk::<8>()?;
        let (cause, link) = rest.split_first()?;
        let (from, to) = (u64::from_le_bytes(*from), u64::from_le_bytes(*to));
        let cause = Cause::from_index(usize::from(*cause))?;
        let link = std::str::from_utf8(link).ok()?.to_owned();
        (from >= 1 && from <= to && link.len() <= LINK_NAME_BYTES).then_some(Self { from, to, cause, link })
    }
}

/// Room for one large message of a relay.
#[derive(Debug)]
pub(crate) struct RelayLoan {
    chunk: busway_shm::ring::Loan,
    /// Bytes of extensions, which are there.
    skip: usize,
    len: usize,
}

impl RelayLoan {
    /// The payload: what was there before until it is written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let from = HEADER_SIZE + self.skip + ORIGIN_BYTES;
        &mut self.chunk.bytes_mut()[from..from + self.len]
    }
}

/// A loan that was not sent, and why.
pub(crate) type Unsent = Box<(SendError, RelayLoan)>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Relay {
    publisher: Publisher,
    /// How many subscriptions must read before it is ready; `None` while the holder has not said.
    matched: Option<usize>,
    ready: bool,
}

impl Relay {
    /// Registers a relay of `source`; returns at once.
    pub(crate) fn open(core: &Arc<Core>, topic: &Topic, source: PortId) -> Result<Self, Error> {
        let (slots_max, bytes_max) =
            crate::cluster::queue_of(topic).unwrap_or((RING_SLOTS_MAX_DEFAULT, RING_BYTES_DEFAULT));
        let options = RingOptions {
            slots_max,
            bytes_max,
            history: 0,
            max_wait_ns: u64::MAX,
            gating: true,
            relay: true,
        };
        let place = format!("relay of {topic}");
        let (writer, ring) =
            RingWriter::create(&core.own, topic, source, options).map_err(|error| memory(&error, &place))?;
        core.ports.add_ring(&ring);
        let created_ns = ring.entry().created_ns.load(Ordering::Relaxed);
        let ring = ring_key(ring.key());
        let record =
            PublisherRecord { port: source, topic: topic.clone(), ring, created_ns, relay: true, only: None };
        let domain = core.ports.domain().ok_or_else(crate::bus::closed)?;
        let publisher = Publisher {
            core: core.clone(),
            writer,
            topic: topic.clone(),
            topic_id: topic.id(),
            port: source,
            line: line_of(Some(topic)),
            domain_version: core.ports.domain_version(),
            domain,
            clock: Clock::Coarse,
            bytes_sent: 0,
            unpaced: 0,
            carrier: None,
            untold: 0,
            stamp: Stamp::of(Kind::Publish),
            relays: true,
        };
        // From here on the drop of `publisher` takes everything back.
        core.control.publish_later(record)?;
        Ok(Self { publisher, matched: None, ready: false })
    }

    /// Whether the subscribers that were here before read it now.
    pub(crate) fn is_ready(&mut self) -> bool {
        if self.ready {
            return true;
        }
        if self.matched.is_none() {
            self.matched = self.publisher.core.control.matched(self.publisher.port);
        }
        let shared = self.publisher.writer.shared();
        self.ready = self.matched.is_some_and(|matched| shared.seated() + past(shared) >= matched);
        self.ready
    }

    /// How much of what [`Relay::is_ready`] waits for has come; it only matters that it changes.
    pub(crate) fn come(&self) -> usize {
        let shared = self.publisher.writer.shared();
        usize::from(self.matched.is_some()) + shared.seated() + past(shared)
    }

    /// Stops waiting for subscribers that do not come.
    pub(crate) fn give_up_waiting(&mut self) {
        self.ready = true;
    }

    /// Publishes a message of the origin, with the sequence it has there.
    ///
    /// # Errors
    /// [`SendError::Full`] where a subscriber would have to be waited for: try again when it has moved.
    pub(crate) fn send(
        &mut self,
        header: &Header,
        extensions: &[u8],
        payload: &[u8],
    ) -> Result<(), SendError> {
        if !extensions.is_empty() || ORIGIN_BYTES + payload.len() > INLINE_BYTES {
            let sent = self.send_large(*header, extensions, payload)?;
            return self.publisher.after(Ok(sent), payload.len()).map(drop);
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..ORIGIN_BYTES].copy_from_slice(&header.sequence.get().to_le_bytes());
        bytes[ORIGIN_BYTES..ORIGIN_BYTES + payload.len()].copy_from_slice(payload);
        let meta = InlineMeta {
            time_ns: header.time_ns.get(),
            correlation: header.correlation.get(),
            size: 0,
            kind: header.kind,
            flags: relayed(header.flags),
        };
        self.send_inline(&meta, &bytes[..ORIGIN_BYTES + payload.len()])
    }

    /// Publishes the messages of a run one after the other until one is not sent, and rings once for all of them. What was
    /// not sent is left in `records`. Returns the sequence of the last that was, at its origin.
    pub(crate) fn send_run(&mut self, run: &Header, records: &mut Records<'_>) -> Option<u64> {
        let mut last = None;
        let (mut all, mut all_bytes) = (Sent::default(), 0);
        let mut bytes = [0; INLINE_BYTES];
        loop {
            let rest = records.clone();
            let Some(message) = records.next() else { break };
            let end = ORIGIN_BYTES + message.payload.len();
            let sent = match bytes.get_mut(ORIGIN_BYTES..end) {
                Some(place) => {
                    place.copy_from_slice(message.payload);
                    bytes[..ORIGIN_BYTES].copy_from_slice(&message.sequence.to_le_bytes());
                    let meta = InlineMeta {
                        time_ns: message.time_ns,
                        correlation: message.correlation,
                        size: 0,
                        kind: Kind::Publish.number(),
                        flags: relayed(message.flags),
                    };
                    let writer = &mut self.publisher.writer;
                    match writer.put_inline(&meta, &bytes[..end]) {
                        Some(sequence) => Some(Sent { sequence, ..Sent::default() }),
                        None => writer.send_inline(&meta, &bytes[..end], Patience::None).ok(),
                    }
                }
                None => self.send_large(message.header(run), &[], message.payload).ok(),
            };
            let Some(sent) = sent else {
                *records = rest;
                break;
            };
            last = Some(message.sequence);
            all_bytes += message.payload.len();
            all.sequence = sent.sequence;
            (all.stalled, all.evicted) = (all.stalled + sent.stalled, all.evicted + sent.evicted);
        }
        if last.is_some() {
            // They are sent; nothing but the bell follows.
            let _ = self.publisher.after(Ok(all), all_bytes);
        }
        last
    }

    /// Publishes a message that does not lie in its slot, and leaves the bell to the caller.
    fn send_large(&mut self, header: Header, extensions: &[u8], payload: &[u8]) -> Result<Sent, SendError> {
        let mut loan = self.loan(extensions, payload.len())?;
        loan.bytes_mut().copy_from_slice(payload);
        self.put_in(header, loan).map_err(|unsent| {
            let (error, loan) = *unsent;
            self.put_back(loan);
            error
        })
    }

    /// Tells subscribers of messages that will not come.
    ///
    /// # Errors
    /// As [`Relay::send`].
    pub(crate) fn missing(&mut self, missing: &Missing) -> Result<(), SendError> {
        let meta = InlineMeta { kind: Kind::Gap.number(), ..InlineMeta::default() };
        self.send_inline(&meta, &missing.encode())
    }

    fn send_inline(&mut self, meta: &InlineMeta, bytes: &[u8]) -> Result<(), SendError> {
        // A full ring is nothing to be said in the log: the peer waits, as it was granted no more.
        let sent = self.publisher.writer.send_inline(meta, bytes, Patience::None);
        let sent = sent.map_err(|refusal| SendError::of(refusal, &self.publisher.topic))?;
        self.publisher.after(Ok(sent), bytes.len()).map(drop)
    }

    /// Room for a large payload, to be read into before its end has arrived, behind these extensions, which the session has checked.
    ///
    /// # Errors
    /// Memory, and as [`Relay::send`].
    pub(crate) fn loan(&mut self, extensions: &[u8], len: usize) -> Result<RelayLoan, SendError> {
        let skip = extensions.len();
        let bytes = ((HEADER_SIZE + skip + ORIGIN_BYTES) as u64).saturating_add(len as u64);
        let chunk = self.publisher.writer.loan(bytes, Patience::None);
        let mut chunk = chunk.map_err(|refusal| SendError::of(refusal, &self.publisher.topic))?;
        // Nothing in a child made by `fork`.
        if let Some(place) = chunk.bytes_mut().get_mut(HEADER_SIZE..HEADER_SIZE + skip) {
            place.copy_from_slice(extensions);
        }
        Ok(RelayLoan { chunk, skip, len })
    }

    /// Publishes a loan that was written.
    ///
    /// # Errors
    /// As [`Relay::send`], with the loan.
    pub(crate) fn finish(&mut self, header: &Header, loan: RelayLoan) -> Result<(), Unsent> {
        let len = loan.len;
        let sent = self.put_in(*header, loan)?;
        // The message is sent; nothing but the bell follows.
        let _ = self.publisher.after(Ok(sent), len);
        Ok(())
    }

    // By value, and inline, and written where it stays: a header that is laid out elsewhere is read again in other pieces
    // than it was written in, and waits for all that was written before it, which is the payload.
    #[inline(always)]
    fn put_in(&mut self, header: Header, mut loan: RelayLoan) -> Result<Sent, Unsent> {
        let (skip, len) = (loan.skip, loan.len);
        let sequence = self.publisher.writer.head() + 1;
        // None in a child made by `fork`.
        let Ok((local, rest)) = Header::mut_from_prefix(loan.chunk.bytes_mut()) else {
            return Err(Box::new((SendError::Forked, loan)));
        };
        local.checksum.set(0);
        local.checksum_payload.set(0);
        local.size.set((HEADER_SIZE + skip + ORIGIN_BYTES + len) as u32);
        local.kind = header.kind;
        local.hops_version = header.hops_version;
        local.flags = relayed(header.flags);
        // Of what came in parts the header counts the message's own, of a run none: what is here is what counts.
        local.extensions = (skip / 8) as u8;
        local.topic = header.topic;
        local.source = header.source;
        local.sequence.set(sequence);
        local.time_ns = header.time_ns;
        local.correlation = header.correlation;
        rest[skip..skip + ORIGIN_BYTES].copy_from_slice(header.sequence.as_bytes());
        match self.publisher.writer.send_loan(loan.chunk, Patience::None) {
            Ok(sent) => Ok(sent),
            Err((refusal, chunk)) => {
                let error = SendError::of(refusal, &self.publisher.topic);
                Err(Box::new((error, RelayLoan { chunk, skip, len })))
            }
        }
    }

    /// Gives a loan back that will not be sent.
    pub(crate) fn put_back(&mut self, loan: RelayLoan) {
        self.publisher.writer.put_back(loan.chunk);
    }
}

fn relayed(flags: u8) -> u8 {
    let known = Flags::from_bits(flags).unwrap_or_default();
    known.with(Flags::UNSEALED).with(Flags::RELAYED).bits()
}

#[cfg(test)]
mod tests {
    use super::Missing;
    use busway_wire::Cause;

    #[test]
    fn what_is_missing_comes_out_as_it_went_in_and_garbage_does_not() {
        let missing = Missing { from: 3, to: 9, cause: Cause::Lapped, link: "node-2".to_owned() };
        assert_eq!(Missing::decode(&missing.encode()), Some(missing.clone()));
        let long = Missing { link: "\u{e9}".repeat(60), ..missing };
        let read = Missing::decode(&long.encode()).unwrap();
        assert!(read.link.len() <= 64 && long.link.starts_with(&read.link));
        for bytes in [&[][..], &[0; 16], &[0; 17], &[255; 17]] {
            assert_eq!(Missing::decode(bytes), None);
        }
    }
}
