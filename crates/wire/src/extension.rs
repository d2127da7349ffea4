//! Extensions: what some messages say beside their header.
//!
//! They lie between header and payload, each padded with zeros to 8 bytes, so that the payload is found without
//! looking at them. A type with bit 15 must be understood, others may be skipped. What an extension's value
//! means is not known here.
//!
//! Invariant: the iterator ends. Each step consumes at least 8 bytes or is the last.

use alloc::vec::Vec;

use crate::error::{DecodeError, EncodeError};
use crate::limits::{EXTENSION_BYTES_MAX, MESSAGE_BYTES_MAX};

/// The mark of a type that must be understood.
const MUST_UNDERSTAND: u16 = 1 << 15;

/// Bytes of `{type, length}` before the value.
pub(crate) const PREFIX_SIZE: usize = 4;

/// The unit in which the header counts extensions.
pub(crate) const UNIT: usize = 8;

/// The types that are defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum ExtensionKind {
    /// When the message is of no use any more.
    Deadline = 1,
    /// The media type of the payload.
    ContentType = 2,
    /// The schema of the payload.
    Schema = 3,
    /// The trace to which the message belongs: W3C Trace Context.
    Traceparent = 4,
    /// Headers that the user set.
    Headers = 5,
    /// The message is one part of a larger one; must be understood.
    Part = 6,
    /// What vendors keep beside the trace.
    Tracestate = 7,
    /// The id of the message, which it keeps however often it is sent.
    MessageId = 8,
    /// Nothing: what stood there was none.
    Blank = 0x7fff,
}

impl ExtensionKind {
    /// Every type, in order of its number.
    pub const ALL: [ExtensionKind; 9] = [
        ExtensionKind::Deadline,
        ExtensionKind::ContentType,
        ExtensionKind::Schema,
        ExtensionKind::Traceparent,
        ExtensionKind::Headers,
        ExtensionKind::Part,
        ExtensionKind::Tracestate,
        ExtensionKind::MessageId,
        ExtensionKind::Blank,
    ];

    /// The name in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ExtensionKind::Deadline => "deadline",
            ExtensionKind::ContentType => "content_type",
            ExtensionKind::Schema => "schema",
            ExtensionKind::Traceparent => "traceparent",
            ExtensionKind::Headers => "headers",
            ExtensionKind::Part => "part",
            ExtensionKind::Tracestate => "tracestate",
            ExtensionKind::MessageId => "message_id",
            ExtensionKind::Blank => "blank",
        }
    }

    /// The number, without the mark.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The number as a sender writes it: a reader that took a part for a whole message would be wrong.
    const fn word(self) -> u16 {
        match self {
            ExtensionKind::Part => ExtensionKind::Part as u16 | MUST_UNDERSTAND,
            other => other.number(),
        }
    }
}

/// One extension of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// The type's number, without the mark.
    pub number: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl Extension<'_> {
    /// The type, if it is a known one.
    #[must_use]
    pub fn kind(&self) -> Option<ExtensionKind> {
        ExtensionKind::ALL.into_iter().find(|kind| kind.number() == self.number)
    }
}

/// Which part of a larger message a message is: the value of [`ExtensionKind::Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The sequence of the larger message.
    pub message: u64,
    /// Where in its payload this part begins.
    pub offset: u64,
    /// Bytes of its payload.
    pub total: u64,
}

impl Part {
    /// Bytes of the extension: prefix, three numbers, padding.
    pub const SIZE: usize = 32;

    /// Appends the extension.
    ///
    /// # Errors
    /// As [`Extensions::push`].
    pub fn push(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut value = [0; 24];
        for (place, number) in value.chunks_exact_mut(8).zip([self.message, self.offset, self.total]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        Extensions::push(out, ExtensionKind::Part, &value)
    }

    /// The part among the extensions of a message; `None` if it is a whole one.
    ///
    /// # Errors
    /// When an extension is malformed, the part has another size, or there are two.
    pub fn of(extensions: Extensions<'_>) -> Result<Option<Part>, DecodeError> {
        let mut part = None;
        for extension in extensions {
            let extension = extension?;
            match extension.kind() {
                Some(ExtensionKind::Part) if part.is_none() => part = Some(Part::read(extension.value)?),
                Some(ExtensionKind::Part) => return Err(DecodeError::Extension { at: 0 }),
                Some(_) | None => {}
            }
        }
        Ok(part)
    }

    fn read(value: &[u8]) -> Result<Part, DecodeError> {
        let malformed = DecodeError::Extension { at: 0 };
        let ([message, offset, total], []) = value.as_chunks::<8>() else {
            return Err(malformed);
        };
        let part = Part {
            message: u64::from_le_bytes(*message),
            offset: u64::from_le_bytes(*offset),
            total: u64::from_le_bytes(*total),
        };
        if part.offset >= part.total || part.total > MESSAGE_BYTES_MAX {
            return Err(malformed);
        }
        Ok(part)
    }
}

/// The extensions of one message, in order; the last item may be the error at which reading stopped.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Extensions<'a> {
    /// Reads the bytes between header and payload. Nothing is checked before it is reached.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Extensions<'a> {
        Extensions { bytes, at: 0 }
    }

    /// Appends one extension to the bytes that will stand between header and payload.
    ///
    /// # Errors
    /// When all together would be longer than [`EXTENSION_BYTES_MAX`]; `out` is then as it was.
    pub fn push(out: &mut Vec<u8>, kind: ExtensionKind, value: &[u8]) -> Result<(), EncodeError> {
        // A slice has at most `isize::MAX` bytes, so neither sum can overflow.
        let size = out.len() + (PREFIX_SIZE + value.len()).next_multiple_of(UNIT);
        let length = u16::try_from(value.len()).map_err(|_| EncodeError::Extensions { size })?;
        if size > EXTENSION_BYTES_MAX {
            return Err(EncodeError::Extensions { size });
        }
        out.extend_from_slice(&kind.word().to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value);
        out.resize(size, 0);
        Ok(())
    }

    /// Writes one extension to a place that is as long as it is with its padding.
    pub(crate) fn write(place: &mut [u8], kind: ExtensionKind, value: &[u8]) {
        let length = u16::try_from(value.len()).unwrap_or_default();
        let parts = [&kind.word().to_le_bytes()[..], &length.to_le_bytes(), value];
        let bytes = parts.into_iter().flatten().copied().chain(core::iter::repeat(0));
        place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    /// Makes of so many units of extensions one that says nothing: the message keeps its size.
    pub fn blank(place: &mut [u8]) {
        let length = place.len().saturating_sub(PREFIX_SIZE) as u16; // at most 2 040 bytes
        let parts = [ExtensionKind::Blank.word().to_le_bytes(), length.to_le_bytes()];
        place.fill(0);
        place.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = from);
    }

    /// Checks that all are well-formed and that those that must be understood are known.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(bytes: &'a [u8]) -> Result<(), DecodeError> {
        Extensions::new(bytes).try_for_each(|extension| extension.map(|_| ()))
    }

    /// Reads the extension at `self.at` and moves behind it.
    fn read(&mut self) -> Result<Extension<'a>, DecodeError> {
        let malformed = DecodeError::Extension { at: self.at };
        let rest = self.bytes.get(self.at..).ok_or(malformed)?;
        let Some(([t0, t1, l0, l1], value)) = rest.split_first_chunk::<PREFIX_SIZE>() else {
            return Err(malformed);
        };
        let word = u16::from_le_bytes([*t0, *t1]);
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        // At most 65 535 + 4 + 7, which cannot overflow.
        let padded = (PREFIX_SIZE + length).next_multiple_of(UNIT);
        let padding = rest.get(PREFIX_SIZE + length..padded).ok_or(malformed)?;
        // Anything but zeros would be a second encoding of the same message, and a hiding place.
        if padding.iter().any(|byte| *byte != 0) {
            return Err(malformed);
        }
        let value = value.get(..length).ok_or(malformed)?;
        let extension = Extension { number: word & !MUST_UNDERSTAND, value };
        if extension.number == 0 {
            return Err(malformed);
        }
        if word & MUST_UNDERSTAND != 0 && extension.kind().is_none() {
            return Err(DecodeError::ExtensionUnknown { kind: extension.number });
        }
        self.at += padded;
        Ok(extension)
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.at = self.bytes.len();
        }
        Some(item)
    }
}
