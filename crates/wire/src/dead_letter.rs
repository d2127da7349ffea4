//! Dead letters: messages that a service gave up, with where they came from and why.
//!
//! A dead letter is the payload of an ordinary message: a fixed head, then topic, error and service as text, then what the message that was given up said
//! beside its payload, and its payload, to the end. It knows no queue: where such a message lies, and for how long, is the
//! business of its topic.
//!
//! Invariant: what [`DeadLetter::decode`] returned was checked whole, and [`DeadLetter::write`] writes the same bytes again.

use alloc::string::String;
use core::fmt;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::context::Context;
use crate::extension::{Extension, Extensions, PREFIX_SIZE, UNIT};
use crate::header::Codec;
use crate::ids::PortId;
use crate::limits::{NAME_BYTES_MAX, PROCESS_NAME_BYTES_MAX, REASON_BYTES_MAX};
use crate::name::{check_printable, check_process_name, printable};
use crate::topic::check_topic;

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DeadReason {
    /// The handler returned an error.
    Error = 1,
    /// The handler panicked.
    Panic = 2,
    /// The handler's breaker was open.
    Breaker = 3,
}

impl DeadReason {
    /// Every reason, in order of its number.
    pub const ALL: [DeadReason; 3] = [DeadReason::Error, DeadReason::Panic, DeadReason::Breaker];

    /// The name in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DeadReason::Error => "error",
            DeadReason::Panic => "panic",
            DeadReason::Breaker => "breaker",
        }
    }
}

/// What a dead letter begins with. Fields lie as FORMAT.md says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeadLetterHead {
    /// [`DeadLetterHead::MAGIC`].
    pub magic: [u8; 8],
    /// The source of the message.
    pub source: U64,
    /// Its sequence.
    pub sequence: U64,
    /// The time that its publisher gave it.
    pub time_ns: U64,
    /// What it answered, or 0.
    pub correlation: U64,
    /// Attempts at it, from 1.
    pub attempts: U32,
    /// A [`DeadReason`].
    pub reason: u8,
    /// Its [`Codec`].
    pub codec: u8,
    /// Bytes of its topic.
    pub topic_bytes: U16,
    /// Bytes of what the last attempt said.
    pub error_bytes: U16,
    /// Bytes of the service's name.
    pub service_bytes: U16,
    /// Bytes of its context.
    pub context_bytes: U16,
    /// 0.
    pub reserved: U16,
}

impl DeadLetterHead {
    /// The first bytes.
    pub const MAGIC: [u8; 8] = *b"BUSWAYDL";
}

const HEAD_SIZE: usize = size_of::<DeadLetterHead>();

const _: () = {
    assert!(HEAD_SIZE == 56 && align_of::<DeadLetterHead>() == 1);
    // The lengths of texts are words of 16 bits.
    assert!(NAME_BYTES_MAX <= u16::MAX as usize);
    assert!(REASON_BYTES_MAX <= u16::MAX as usize);
    assert!(PROCESS_NAME_BYTES_MAX <= u16::MAX as usize);
    assert!(Context::SIZE_MAX <= u16::MAX as usize);
};

/// Why bytes are no dead letter, or cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterError {
    /// The field that is wrong, as FORMAT.md calls it.
    pub field: &'static str,
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no dead letter: {} is wrong or cut short", self.field)
    }
}

impl core::error::Error for DeadLetterError {}

/// A message that a service gave up.
///
/// ```
/// use busway_wire::{Codec, Context, DeadLetter, DeadReason, PortId};
/// let letter = DeadLetter {
///     source: PortId(7), sequence: 3, time_ns: 0, correlation: 0, attempts: 4, reason: DeadReason::Error,
///     codec: Codec::Bytes, topic: "orders.new", error: "no such customer", service: "billing",
///     context: Context::default().with_id("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse()?), payload: b"17 apples",
/// };
/// let mut bytes = vec![0; letter.size()];
/// letter.write(&mut bytes)?;
/// assert_eq!(DeadLetter::decode(&bytes)?, letter);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The publisher of the message: with its sequence, which message it was.
    pub source: PortId,
    /// Its place among those of its source.
    pub sequence: u64,
    /// The time that its publisher gave it.
    pub time_ns: u64,
    /// What it answered, or 0.
    pub correlation: u64,
    /// Attempts at it, from 1.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: DeadReason,
    /// How its payload was encoded.
    pub codec: Codec,
    /// Its topic.
    pub topic: &'a str,
    /// What the last attempt said, without control characters; at most 1 024 bytes. See [`DeadLetter::text`].
    pub error: &'a str,
    /// The service that gave it up.
    pub service: &'a str,
    /// Its id and its trace: who sends it again says the same.
    pub context: Context<'a>,
    /// Its payload.
    pub payload: &'a [u8],
}

const fn wrong(field: &'static str) -> DeadLetterError {
    DeadLetterError { field }
}

impl<'a> DeadLetter<'a> {
    /// As much of what an attempt said as a dead letter has room for, with spaces for its control characters.
    #[must_use]
    pub fn text(said: &str) -> String {
        printable(said, REASON_BYTES_MAX)
    }

    /// Reads a dead letter: the payload of a message.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<DeadLetter<'a>, DeadLetterError> {
        let (head, rest) = DeadLetterHead::ref_from_prefix(bytes).map_err(|_| wrong("magic"))?;
        if head.magic != DeadLetterHead::MAGIC {
            return Err(wrong("magic"));
        }
        let reason = DeadReason::ALL.into_iter().find(|reason| *reason as u8 == head.reason);
        let codec = Codec::ALL.into_iter().find(|codec| *codec as u8 == head.codec);
        if head.reserved.get() != 0 {
            return Err(wrong("reserved"));
        }
        let (topic, rest) = text(rest, head.topic_bytes, "topic")?;
        let (error, rest) = text(rest, head.error_bytes, "error")?;
        let (service, rest) = text(rest, head.service_bytes, "service")?;
        let (context, payload) = context(rest, head.context_bytes)?;
        let letter = DeadLetter {
            source: PortId(head.source.get()),
            sequence: head.sequence.get(),
            time_ns: head.time_ns.get(),
            correlation: head.correlation.get(),
            attempts: head.attempts.get(),
            reason: reason.ok_or(wrong("reason"))?,
            codec: codec.ok_or(wrong("codec"))?,
            topic,
            error,
            service,
            context,
            payload,
        };
        letter.check()?;
        Ok(letter)
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = self.topic.len().saturating_add(self.error.len()).saturating_add(self.service.len());
        (HEAD_SIZE + self.context.size()).saturating_add(texts).saturating_add(self.payload.len())
    }

    /// Writes it where it is to lie: `out` has [`DeadLetter::size`] bytes.
    ///
    /// # Errors
    /// The first field that is wrong; `out` is left as it was.
    pub fn write(&self, out: &mut [u8]) -> Result<(), DeadLetterError> {
        self.check()?;
        if out.len() != self.size() {
            return Err(wrong("size"));
        }
        let short = |text: &str| U16::new(text.len() as u16); // as checked
        let head = DeadLetterHead {
            magic: DeadLetterHead::MAGIC,
            source: U64::new(self.source.0),
            sequence: U64::new(self.sequence),
            time_ns: U64::new(self.time_ns),
            correlation: U64::new(self.correlation),
            attempts: U32::new(self.attempts),
            reason: self.reason as u8,
            codec: self.codec as u8,
            topic_bytes: short(self.topic),
            error_bytes: short(self.error),
            service_bytes: short(self.service),
            context_bytes: U16::new(self.context.size() as u16), // at most as many as the largest has
            reserved: U16::new(0),
        };
        let mut beside = [0; Context::SIZE_MAX];
        let beside = &mut beside[..self.context.size()];
        self.context.write(beside);
        let mut rest = out;
        let (topic, error, service) = (self.topic.as_bytes(), self.error.as_bytes(), self.service.as_bytes());
        for piece in [head.as_bytes(), topic, error, service, beside, self.payload] {
            // Its size was compared with the sum of these.
            let Some((place, behind)) = rest.split_at_mut_checked(piece.len()) else {
                return Err(wrong("size"));
            };
            place.copy_from_slice(piece);
            rest = behind;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), DeadLetterError> {
        if self.attempts == 0 {
            return Err(wrong("attempts"));
        }
        check_topic(self.topic).map_err(|_| wrong("topic"))?;
        if self.error.len() > REASON_BYTES_MAX || check_printable(self.error).is_err() {
            return Err(wrong("error"));
        }
        check_process_name(self.service).map_err(|_| wrong("service"))
    }
}

/// A text of so many bytes, and what follows it.
fn text<'a>(bytes: &'a [u8], size: U16, field: &'static str) -> Result<(&'a str, &'a [u8]), DeadLetterError> {
    let (text, rest) = bytes.split_at_checked(usize::from(size.get())).ok_or(wrong(field))?;
    Ok((core::str::from_utf8(text).map_err(|_| wrong(field))?, rest))
}

/// A context of so many bytes, and what follows it: what it is written as, and what a later version may say beside that.
fn context(bytes: &[u8], size: U16) -> Result<(Context<'_>, &[u8]), DeadLetterError> {
    let (bytes, rest) = bytes.split_at_checked(usize::from(size.get())).ok_or(wrong("context"))?;
    let context = Context::read(Extensions::new(bytes));
    let mut again = [0; Context::SIZE_MAX];
    let mut again = again.get_mut(..context.size()).ok_or(wrong("context"))?;
    context.write(again);
    let mut left = bytes;
    for extension in Extensions::new(bytes) {
        let extension: Extension<'_> = extension.map_err(|_| wrong("context"))?;
        let size = (PREFIX_SIZE + extension.value.len()).next_multiple_of(UNIT);
        let (this, behind) = left.split_at_checked(size).ok_or(wrong("context"))?;
        left = behind;
        if extension.kind().is_some() {
            let (same, behind) = again.split_at_mut_checked(size).ok_or(wrong("context"))?;
            if same != this {
                return Err(wrong("context"));
            }
            again = behind;
        }
    }
    if again.is_empty() { Ok((context, rest)) } else { Err(wrong("context")) }
}
