//! What a decoder and an encoder answer when they refuse.
//!
//! A `DecodeError` is the peer's fault and a reason to close its connection; it names the first thing that is
//! wrong and holds what was found, so that one log line is enough. An `EncodeError` is ours or our caller's.

use core::fmt;

use crate::control::ControlKind;
use crate::header::{HEADER_SIZE, Kind, VERSION};
use crate::limits::{EXTENSION_BYTES_MAX, MATCHED_MAX, MESSAGE_BYTES_MAX};
use crate::name::NameError;

/// Why bytes from a peer are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a header.
    Short {
        /// Bytes there are.
        size: usize,
    },
    /// More bytes than a message of this sort may have.
    TooLarge {
        /// Bytes there are, or that the header claims.
        size: u64,
        /// The largest size.
        size_max: u64,
    },
    /// The header's checksum is not that of its bytes: damaged, or of another cluster.
    Checksum,
    /// The checksum of what follows the header is not that of its bytes.
    ChecksumPayload,
    /// Another version of the format.
    Version {
        /// The peer's version; ours is [`VERSION`].
        version: u8,
    },
    /// Another layout of shared memory: the peer was built from another version of Busway.
    Layout {
        /// The peer's hash.
        theirs: u64,
        /// Our hash.
        ours: u64,
    },
    /// No kind of message has this number, or not at this place.
    Kind {
        /// The number.
        kind: u8,
    },
    /// A flag that is not defined, not allowed for this kind, or contradicts another field.
    Flags {
        /// All flags.
        flags: u8,
    },
    /// The header's size is not the number of bytes there are.
    Size {
        /// What the header claims.
        claimed: u32,
        /// Bytes there are.
        size: usize,
    },
    /// The extensions do not fit the message, or one does not fit the extensions.
    Extension {
        /// Where it begins, in bytes from the end of the header.
        at: usize,
    },
    /// An extension that must be understood and is not known.
    ExtensionUnknown {
        /// Its type, without the mark.
        kind: u16,
    },
    /// A field that must be zero in this kind of message is not.
    Reserved {
        /// Its offset in the header.
        offset: usize,
    },
    /// A control message with a number that is not defined.
    ControlUnknown {
        /// The number.
        number: u8,
    },
    /// The body is not one of this control message: cut short, or a name or a number is out of bounds.
    Body {
        /// The control message.
        kind: ControlKind,
    },
    /// The body is followed by bytes that do not belong to it.
    Trailing {
        /// The control message.
        kind: ControlKind,
        /// How many bytes.
        size: usize,
    },
    /// The body says in more bytes what can be said in fewer.
    NotCanonical {
        /// The control message.
        kind: ControlKind,
    },
    /// A text for people that is empty, too long or has control characters.
    Text {
        /// The control message.
        kind: ControlKind,
        /// What is wrong.
        error: NameError,
    },
    /// The body of a link's frame is wrong.
    Frame {
        /// The frame.
        kind: Kind,
        /// What is wrong.
        fault: FrameFault,
    },
}

/// What is wrong with the body of a link's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// It is cut short, or a name, a number or a list is out of bounds.
    Body,
    /// Bytes follow that do not belong to it.
    Trailing {
        /// How many bytes.
        size: usize,
    },
    /// It says in more bytes what can be said in fewer.
    NotCanonical,
    /// A text for people is too long or has control characters.
    Text(NameError),
    /// A number contradicts another or is not allowed.
    Field(&'static str),
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameFault::Body => f.write_str("the body is malformed"),
            FrameFault::Trailing { size } => write!(f, "{size} bytes too many behind the body"),
            FrameFault::NotCanonical => f.write_str("the body is not in its shortest form"),
            FrameFault::Text(error) => write!(f, "text: {error}"),
            FrameFault::Field(field) => write!(f, "field {field} is out of bounds"),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short { size } => {
                write!(f, "{size} bytes are no message: a header has {HEADER_SIZE}")
            }
            DecodeError::TooLarge { size, size_max } => {
                write!(f, "message of {size} bytes, at most {size_max} are allowed")
            }
            DecodeError::Checksum => f.write_str("the header's checksum is wrong"),
            DecodeError::ChecksumPayload => f.write_str("the checksum of the message's body is wrong"),
            DecodeError::Version { version } => {
                write!(f, "format version {version} is not understood; this is version {VERSION}")
            }
            DecodeError::Layout { theirs, ours } => write!(
                f,
                "shared-memory layout {theirs:016x} is not ours ({ours:016x}); use the same version of Busway"
            ),
            DecodeError::Kind { kind } => write!(f, "message kind {kind} is unknown here"),
            DecodeError::Flags { flags } => write!(f, "flags {flags:#010b} are unknown or not allowed here"),
            DecodeError::Size { claimed, size } => {
                write!(f, "the header claims {claimed} bytes, the message has {size}")
            }
            DecodeError::Extension { at } => write!(f, "the extension at byte {at} is malformed"),
            DecodeError::ExtensionUnknown { kind } => {
                write!(f, "extension {kind} must be understood and is unknown")
            }
            DecodeError::Reserved { offset } => write!(f, "the header's byte {offset} must be zero"),
            DecodeError::ControlUnknown { number } => write!(f, "control message {number} is unknown"),
            DecodeError::Body { kind } => write!(f, "malformed body of control message {kind}"),
            DecodeError::Trailing { kind, size } => {
                write!(f, "{size} bytes too many behind control message {kind}")
            }
            DecodeError::NotCanonical { kind } => {
                write!(f, "control message {kind} is not in its shortest form")
            }
            DecodeError::Text { kind, error } => write!(f, "text in control message {kind}: {error}"),
            DecodeError::Frame { kind, fault } => write!(f, "frame {kind}: {fault}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Why something cannot be put into a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// More bytes than a message of this sort may have.
    TooLarge {
        /// Bytes there would be.
        size: u64,
        /// The largest size.
        size_max: u64,
    },
    /// The extensions are longer than allowed, than what follows the header, or not a multiple of 8 bytes.
    Extensions {
        /// Their length in bytes.
        size: usize,
    },
    /// More processes matched than one message names.
    Matched {
        /// How many.
        count: usize,
    },
    /// A text for people that is empty, too long or has control characters.
    Text {
        /// What is wrong.
        error: NameError,
    },
    /// A policy's depth is out of bounds.
    Policy {
        /// What is wrong.
        error: crate::policy::PolicyError,
    },
    /// The body of a link's frame is out of its bounds.
    Frame {
        /// The frame.
        kind: Kind,
        /// What is wrong.
        fault: FrameFault,
    },
}

impl EncodeError {
    pub(crate) const fn message_too_large(size: u64) -> EncodeError {
        EncodeError::TooLarge { size, size_max: MESSAGE_BYTES_MAX }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::TooLarge { size, size_max } => {
                write!(f, "message of {size} bytes, at most {size_max} are allowed")
            }
            EncodeError::Extensions { size } => {
                write!(
                    f,
                    "extensions of {size} bytes: at most {EXTENSION_BYTES_MAX} are allowed, in units of 8"
                )
            }
            EncodeError::Matched { count } => {
                write!(f, "{count} matched processes, one message names at most {MATCHED_MAX}")
            }
            EncodeError::Text { error } => write!(f, "text: {error}"),
            EncodeError::Policy { error } => write!(f, "policy: {error}"),
            EncodeError::Frame { kind, fault } => write!(f, "frame {kind}: {fault}"),
        }
    }
}

impl core::error::Error for EncodeError {}
