//! Runs: small messages of one source that follow each other, behind one header.
//!
//! A message of 64 bytes behind a header of 64 costs twice its bytes, and two checksums, a look at its source and a
//! decision over it that all its neighbours cost too. A run pays them once: its header says source, topic and the first
//! sequence, and each message has a record of 8 bytes, 16 with a correlation, before its payload. Records have no padding
//! and no index: who reads a run reads all of it. What has extensions, or is large, goes by itself.
//!
//! It does not know when a run ends: who fills it decides what may wait for what. Nothing waits to make a run longer.
//!
//! Invariant: a run that `Records::check` returned has as many records as its header says, from the first byte behind the
//! header to the last, each with defined flags, and sequences that do not overflow. There is one encoding of a run.

use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::{I32, U16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, EncodeError, FrameFault};
use crate::header::{Flags, HEADER_SIZE, Header, Kind, Seed, VERSION};
use crate::ids::{PortId, TopicId};
use crate::limits::{LINK_FRAME_BYTES_MAX, LINK_RUN_MESSAGES_MAX, LINK_RUN_PAYLOAD_BYTES_MAX};

/// Bytes of a record.
pub const RECORD_SIZE: usize = 8;
/// Bytes of a correlation behind a record that says so.
const CORRELATION_SIZE: usize = 8;
/// Of `parts`: eight bytes of correlation follow.
const HAS_CORRELATION: u8 = 1;

/// What stands before the payload of each message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Record {
    /// Bytes of payload.
    pub size: U16,
    /// The bits of [`Flags`].
    pub flags: u8,
    /// Bit 0: a correlation that is not 0 follows, 8 bytes. The others are zero.
    pub parts: u8,
    /// The publisher's clock, in nanoseconds from that of the run's header; it may go back.
    pub time: I32,
}

const _: () = {
    assert!(size_of::<Record>() == RECORD_SIZE && align_of::<Record>() == 1);
    assert!(LINK_RUN_PAYLOAD_BYTES_MAX <= u16::MAX as usize);
};

/// One message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// Its place among those of its source.
    pub sequence: u64,
    /// The publisher's clock.
    pub time_ns: u64,
    /// What it answers, or 0.
    pub correlation: u64,
    /// The bits of [`Flags`].
    pub flags: u8,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Packed<'_> {
    /// The header that the message has when it stands by itself; `run` is that of its run.
    #[must_use]
    #[inline]
    pub fn header(&self, run: &Header) -> Header {
        let mut header = Header::new(Kind::Publish);
        header.size.set((HEADER_SIZE + self.payload.len()) as u32); // at most 64 KiB
        header.hops_version = run.hops_version;
        header.flags = self.flags;
        (header.topic, header.source) = (run.topic, run.source);
        header.sequence.set(self.sequence);
        header.time_ns.set(self.time_ns);
        header.correlation.set(self.correlation);
        header
    }
}

/// A run that is being filled.
///
/// ```
/// use busway_wire::{HEADER_SIZE, Header, PortId, Records, Run, Seed, TopicId};
/// let mut run = Run::default();
/// run.begin(TopicId(1), PortId(2), 7, 1_000);
/// assert!(run.push(0, 1_000, 0, b"one") && run.push(0, 1_005, 9, b"two"));
/// let mut frame = Vec::new();
/// run.seal(1, Seed(5), &mut frame)?;
/// let header = Header::validate_seeded(&frame, Seed(5))?;
/// let records = Records::check(&header, &frame[HEADER_SIZE..])?;
/// let found: Vec<_> = records.map(|message| (message.sequence, message.payload)).collect();
/// assert_eq!(found, [(7, &b"one"[..]), (8, b"two")]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    topic: TopicId,
    source: PortId,
    first: u64,
    time_ns: u64,
    count: u64,
    payload_bytes: u64,
    largest: usize,
    bytes: Vec<u8>,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            topic: TopicId(0),
            source: PortId(0),
            first: 0,
            time_ns: 0,
            count: 0,
            payload_bytes: 0,
            largest: 0,
            bytes: Vec::new(),
        }
    }
}

impl Run {
    /// Bytes of records and payloads that a run has at most.
    pub const BYTES_MAX: usize = LINK_FRAME_BYTES_MAX - HEADER_SIZE;

    /// Forgets what was in it, and begins a run whose first message has this sequence and time. Its memory is kept.
    pub fn begin(&mut self, topic: TopicId, source: PortId, first: u64, time_ns: u64) {
        self.bytes.clear();
        (self.topic, self.source, self.first, self.time_ns) = (topic, source, first, time_ns);
        (self.count, self.payload_bytes, self.largest) = (0, 0, 0);
    }

    /// Appends the next message; false where it does not fit: the run is full, or no record can say this.
    #[inline]
    pub fn push(&mut self, flags: u8, time_ns: u64, correlation: u64, payload: &[u8]) -> bool {
        let size = payload.len();
        let needed = RECORD_SIZE + if correlation == 0 { 0 } else { CORRELATION_SIZE } + size;
        let later = time_ns.wrapping_sub(self.time_ns).cast_signed();
        let Ok(time) = i32::try_from(later) else { return false };
        if size > LINK_RUN_PAYLOAD_BYTES_MAX
            || self.count >= LINK_RUN_MESSAGES_MAX
            || self.bytes.len() + needed > Run::BYTES_MAX
            || self.first.checked_add(self.count + 1).is_none()
        {
            return false;
        }
        let parts = if correlation == 0 { 0 } else { HAS_CORRELATION };
        let record = Record { size: U16::new(size as u16), flags, parts, time: I32::new(time) }; // as compared
        self.bytes.extend_from_slice(record.as_bytes());
        if correlation != 0 {
            self.bytes.extend_from_slice(&correlation.to_le_bytes());
        }
        self.bytes.extend_from_slice(payload);
        self.count += 1;
        self.payload_bytes += size as u64;
        self.largest = self.largest.max(size);
        true
    }

    /// Takes the first `count` messages off.
    pub fn skip(&mut self, count: u64) {
        let mut records = self.records();
        let gone = records.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX)).count() as u64;
        let left = records.bytes.len();
        let payloads = records.clone().map(|message| message.payload.len());
        let (payload_bytes, largest) =
            payloads.fold((0, 0), |(sum, largest), size| (sum + size as u64, size.max(largest)));
        self.bytes.drain(..self.bytes.len() - left);
        self.first += gone;
        self.count -= gone;
        (self.payload_bytes, self.largest) = (payload_bytes, largest);
    }

    /// The messages in it.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        let Run { first, time_ns, count, payload_bytes, largest, .. } = *self;
        Records { sequence: first, time_ns, count, payload_bytes, largest, bytes: &self.bytes }
    }

    /// Its topic.
    #[must_use]
    pub const fn topic(&self) -> TopicId {
        self.topic
    }

    /// Its source.
    #[must_use]
    pub const fn source(&self) -> PortId {
        self.source
    }

    /// The sequence of its first message.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The sequence of its last message; that before the first where it has none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(self.count).saturating_sub(1)
    }

    /// How many messages it has.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of their payloads.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Bytes of the largest payload.
    #[must_use]
    pub const fn largest(&self) -> usize {
        self.largest
    }

    /// Appends it to `out` as a frame of a link: a single message as what it is. `hops` is how many hosts it has passed.
    ///
    /// # Errors
    /// It has no message.
    pub fn seal(&self, hops: u8, cluster: Seed, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (mut header, mut following) = (self.header(hops), self.bytes.as_slice());
        if self.count < 2 {
            let Some(only) = self.records().next() else {
                return Err(EncodeError::Frame { kind: Kind::Run, fault: FrameFault::Field("correlation") });
            };
            (header, following) = (only.header(&header), only.payload);
        }
        header.seal_seeded(following, cluster)?;
        out.reserve(HEADER_SIZE + following.len());
        out.extend_from_slice(header.bytes());
        out.extend_from_slice(following);
        Ok(())
    }

    /// As [`Run::seal`], without what follows the header: that is [`Run::bytes`], wherever it goes out from.
    ///
    /// # Errors
    /// It has fewer than two messages.
    pub fn seal_header(&self, hops: u8, cluster: Seed, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.count < 2 {
            return Err(EncodeError::Frame { kind: Kind::Run, fault: FrameFault::Field("correlation") });
        }
        let mut header = self.header(hops);
        header.seal_seeded(&self.bytes, cluster)?;
        out.extend_from_slice(header.bytes());
        Ok(())
    }

    /// Its records, each before its payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn header(&self, hops: u8) -> Header {
        let mut header = Header::new(Kind::Run);
        header.hops_version = (VERSION << 4) | hops.min(15);
        header.topic.set(self.topic.0);
        header.source.set(self.source.0);
        header.sequence.set(self.first);
        header.time_ns.set(self.time_ns);
        header.correlation.set(self.count);
        header
    }
}

/// The messages of a run, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records<'a> {
    sequence: u64,
    time_ns: u64,
    count: u64,
    payload_bytes: u64,
    largest: usize,
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads what follows the header of a run whose checksums have been checked. All of it is looked at here, so that
    /// nothing of a run is taken that is not a run to its end.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(header: &Header, body: &'a [u8]) -> Result<Records<'a>, DecodeError> {
        let kind = Kind::Run;
        let wrong = |fault| Err(DecodeError::Frame { kind, fault });
        if header.kind != kind.number() {
            return Err(DecodeError::Kind { kind: header.kind });
        }
        // Above all not "unsealed": it would switch off the checksum of the body.
        if header.flags != 0 {
            return Err(DecodeError::Flags { flags: header.flags });
        }
        if header.extensions != 0 {
            return Err(DecodeError::Reserved { offset: core::mem::offset_of!(Header, extensions) });
        }
        if body.len() > Run::BYTES_MAX {
            let size = (HEADER_SIZE + body.len()) as u64;
            return Err(DecodeError::TooLarge { size, size_max: LINK_FRAME_BYTES_MAX as u64 });
        }
        let (sequence, count) = (header.sequence.get(), header.correlation.get());
        if !(2..=LINK_RUN_MESSAGES_MAX).contains(&count) {
            return wrong(FrameFault::Field("correlation"));
        }
        if sequence == 0 || sequence.checked_add(count).is_none() {
            return wrong(FrameFault::Field("sequence"));
        }
        let (mut rest, mut payload_bytes, mut largest) = (body, 0, 0);
        for _ in 0..count {
            let Some((record, correlation, payload, behind)) = split(rest) else {
                return wrong(FrameFault::Body);
            };
            if Flags::from_bits(record.flags).is_none_or(|flags| flags.has_any(Flags::OF_A_HOST)) {
                return Err(DecodeError::Flags { flags: record.flags });
            }
            if record.parts & !HAS_CORRELATION != 0 {
                return wrong(FrameFault::Field("parts"));
            }
            if record.parts != 0 && correlation == 0 {
                return wrong(FrameFault::NotCanonical);
            }
            if payload.len() > LINK_RUN_PAYLOAD_BYTES_MAX {
                return wrong(FrameFault::Field("size"));
            }
            payload_bytes += payload.len() as u64;
            largest = largest.max(payload.len());
            rest = behind;
        }
        if !rest.is_empty() {
            return wrong(FrameFault::Trailing { size: rest.len() });
        }
        let time_ns = header.time_ns.get();
        Ok(Records { sequence, time_ns, count, payload_bytes, largest, bytes: body })
    }

    /// The sequence of the next message.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// The sequence of the last message; that before the next where there is none left.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.sequence.saturating_add(self.count).saturating_sub(1)
    }

    /// How many messages are left.
    #[must_use]
    pub fn count_left(&self) -> u64 {
        self.count
    }

    /// Bytes of the payloads that are left.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Bytes of the largest payload that there was.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.largest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Packed<'a>;

    #[inline]
    fn next(&mut self) -> Option<Packed<'a>> {
        let (record, correlation, payload, behind) = split(self.bytes)?;
        let packed = Packed {
            sequence: self.sequence,
            time_ns: self.time_ns.wrapping_add_signed(i64::from(record.time.get())),
            correlation,
            flags: record.flags,
            payload,
        };
        self.bytes = behind;
        self.sequence += 1;
        self.count -= 1;
        self.payload_bytes -= payload.len() as u64;
        Some(packed)
    }
}

/// One record off the front: itself, its correlation, its payload, and what is behind.
#[inline]
fn split(bytes: &[u8]) -> Option<(&Record, u64, &[u8], &[u8])> {
    let (record, rest) = Record::ref_from_prefix(bytes).ok()?;
    let (correlation, rest) = if record.parts & HAS_CORRELATION == 0 {
        (0, rest)
    } else {
        let (correlation, rest) = rest.split_first_chunk::<CORRELATION_SIZE>()?;
        (u64::from_le_bytes(*correlation), rest)
    };
    let (payload, behind) = rest.split_at_checked(usize::from(record.size.get()))?;
    Some((record, correlation, payload, behind))
}
