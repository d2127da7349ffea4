//! The 64-byte header: one cache line, the same in a chunk, on the wire and in a recording.
//!
//! A header is read in place: its fields are little-endian and need no alignment. Inside one host a publisher
//! fills in what a subscriber needs and no checksum is computed; `seal` is for messages that leave a process by
//! a socket, `validate` for those that arrive. This file never looks into a payload.
//!
//! Invariant: a header that `validate` returned has a known kind, only defined flags, this version, and a size
//! that is the number of bytes it was found in front of.

use core::fmt;
use core::hash::Hasher;

use twox_hash::XxHash3_64;
use twox_hash::xxhash3_64::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, EncodeError};
use crate::extension::{Extensions, UNIT};
use crate::ids::{PortId, TopicId};
use crate::limits::{EXTENSION_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Bytes of a header: one cache line, so that two cores never fight for two headers in one line.
pub const HEADER_SIZE: usize = 64;

/// The version of everything that FORMAT.md describes on the wire. A peer with another is refused.
pub const VERSION: u8 = 1;

/// Bytes of the header's own checksum, which it does not cover.
const CHECKSUM_SIZE: usize = 8;

/// What the header's checksum is seeded with: messages of one cluster are noise to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(pub u64);

impl Seed {
    /// Inside one host, and for messages that come before the cluster is agreed.
    pub const LOCAL: Seed = Seed(0);
}

/// The checksum of what follows a header, for bytes that come piece by piece.
///
/// ```
/// use busway_wire::{Checksum, Header, Kind};
/// let mut header = Header::new(Kind::Publish);
/// header.seal(b"hello")?;
/// let mut checksum = Checksum::new();
/// checksum.update(b"he");
/// checksum.update(b"llo");
/// assert_eq!(header.checksum_payload.get(), checksum.value());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Checksum(RawHasher<&'static [u8; DEFAULT_SECRET_LENGTH]>);

impl Checksum {
    /// The checksum of nothing.
    #[must_use]
    pub fn new() -> Checksum {
        Checksum(RawHasher::new(SecretBuffer::default()))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum of all bytes so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum::new()
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.value())
    }
}

/// The checksum of all that follows a header. Headers themselves go by the other implementation: it takes a seed at the
/// price of none, and 56 bytes need no vectors.
fn checksum_of_payload(following: &[u8]) -> u64 {
    XxHash3_64::oneshot(following)
}

/// What a message is for. Everything that follows from it follows from this, never from the sender's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A message of a publisher to the subscribers of its topic.
    Publish = 1,
    /// A message that asks for replies.
    Request = 2,
    /// An answer to a request, or a part of one.
    Reply = 3,
    /// A message of a pusher to one puller of each group.
    Push = 4,
    /// A control message between a member of a domain and its rendezvous.
    Control = 16,
    /// The first frame of each side of a link: who it is and what it takes.
    Hello = 32,
    /// The last frame of a link that is refused; the same in every version.
    Refusal = 33,
    /// What a side of a link wants of the other's topics.
    Interest = 34,
    /// A source that the other side wants, before its first message.
    Announce = 35,
    /// The end of a source.
    Retire = 36,
    /// How far a source has arrived, and how much more of it may come.
    Accept = 37,
    /// How much more of all sources may come.
    Credit = 38,
    /// Messages of a source that will never come, and why.
    Gap = 39,
    /// A question whether the other side is there.
    Ping = 40,
    /// The answer to a ping.
    Pong = 41,
    /// The last frame of a link that ends in order.
    Goodbye = 42,
    /// A source that is not taken, and why.
    Deny = 43,
    /// Small messages of one source that follow each other.
    Run = 44,
    /// Who offers and has which artifact, between two nodes.
    Advert = 45,
    /// Who wants bytes of an artifact, between two nodes.
    Fetch = 46,
    /// Bytes of an artifact, between two nodes.
    Chunk = 47,
}

impl Kind {
    /// Every kind, in order of its number.
    pub const ALL: [Kind; 21] = [
        Kind::Publish,
        Kind::Request,
        Kind::Reply,
        Kind::Push,
        Kind::Control,
        Kind::Hello,
        Kind::Refusal,
        Kind::Interest,
        Kind::Announce,
        Kind::Retire,
        Kind::Accept,
        Kind::Credit,
        Kind::Gap,
        Kind::Ping,
        Kind::Pong,
        Kind::Goodbye,
        Kind::Deny,
        Kind::Run,
        Kind::Advert,
        Kind::Fetch,
        Kind::Chunk,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The number in the header.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Publish => "publish",
            Kind::Request => "request",
            Kind::Reply => "reply",
            Kind::Push => "push",
            Kind::Control => "control",
            Kind::Hello => "hello",
            Kind::Refusal => "refusal",
            Kind::Interest => "interest",
            Kind::Announce => "announce",
            Kind::Retire => "retire",
            Kind::Accept => "accept",
            Kind::Credit => "credit",
            Kind::Gap => "gap",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Goodbye => "goodbye",
            Kind::Deny => "deny",
            Kind::Run => "run",
            Kind::Advert => "advert",
            Kind::Fetch => "fetch",
            Kind::Chunk => "chunk",
        }
    }

    /// Whether it is that of a message that crosses a link, by itself or in parts.
    ///
    /// ```
    /// use busway_wire::Kind;
    /// assert!(Kind::Publish.crosses_links() && Kind::Chunk.crosses_links() && !Kind::Run.crosses_links());
    /// ```
    #[must_use]
    pub const fn crosses_links(self) -> bool {
        matches!(self, Kind::Publish | Kind::Advert | Kind::Fetch | Kind::Chunk)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the payload was encoded by the publisher's library. Only a hint: a subscriber may read bytes as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Bytes as the user gave them.
    #[default]
    Bytes = 0,
    /// JSON.
    Json = 1,
    /// MessagePack.
    MessagePack = 2,
    /// A structure as it lies in memory.
    Typed = 3,
}

impl Codec {
    /// Every codec, in order of its number.
    pub const ALL: [Codec; 4] = [Codec::Bytes, Codec::Json, Codec::MessagePack, Codec::Typed];

    /// The name in FORMAT.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Bytes => "bytes",
            Codec::Json => "json",
            Codec::MessagePack => "message_pack",
            Codec::Typed => "typed",
        }
    }
}

/// The header's flags: three bits of codec, four single flags, one reserved bit that is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(u8);

impl Flags {
    /// The bits that hold the codec.
    pub const CODEC: Flags = Flags(0b0000_0111);
    /// `time_ns` is of the exact clock, not of the coarse one.
    pub const EXACT_TIME: Flags = Flags(0b0000_1000);
    /// The message may have been delivered before.
    pub const AGAIN: Flags = Flags(0b0001_0000);
    /// `checksum_payload` is left out, as zero: the transport has authenticated the bytes.
    pub const UNSEALED: Flags = Flags(0b0010_0000);
    /// The message came from another host. In an inline slot its first 8 bytes are the sequence at its origin.
    pub const RELAYED: Flags = Flags(0b0100_0000);

    /// The flags with their names in FORMAT.md, the codec first.
    pub const ALL: [(&'static str, Flags); 5] = [
        ("codec", Flags::CODEC),
        ("exact_time", Flags::EXACT_TIME),
        ("again", Flags::AGAIN),
        ("unsealed", Flags::UNSEALED),
        ("relayed", Flags::RELAYED),
    ];

    /// Those that mean something only inside of a host: no message of a run has them.
    pub const OF_A_HOST: Flags = Flags(Flags::UNSEALED.0 | Flags::RELAYED.0);

    /// All bits that are defined.
    const DEFINED: u8 =
        Flags::CODEC.0 | Flags::EXACT_TIME.0 | Flags::AGAIN.0 | Flags::UNSEALED.0 | Flags::RELAYED.0;

    /// Flags with nothing but a codec.
    #[must_use]
    pub const fn from_codec(codec: Codec) -> Flags {
        Flags(codec as u8)
    }

    /// Reads the header's byte; `None` when a reserved bit is set or the codec is not defined.
    #[inline]
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Flags> {
        let codec = usize::from(bits & Flags::CODEC.0);
        (bits & !Flags::DEFINED == 0 && codec < Codec::ALL.len()).then_some(Flags(bits))
    }

    /// The header's byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// These flags and those.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any of these flags is set.
    #[must_use]
    pub const fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// These flags but for those.
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether all of these flags are set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The codec.
    #[must_use]
    pub fn codec(self) -> Codec {
        Codec::ALL.get(usize::from(self.0 & Flags::CODEC.0)).copied().unwrap_or_default()
    }
}

/// The 64 bytes in front of every message.
///
/// The fields are public because they are the format: whoever writes one into shared memory writes these.
/// A header that came from outside is worth nothing until [`Header::validate`] returned it.
///
/// ```
/// use busway_wire::{HEADER_SIZE, Header, Kind};
/// let mut header = Header::new(Kind::Publish);
/// header.sequence.set(1);
/// header.seal(b"hello")?;
/// let mut message = header.bytes().to_vec();
/// message.extend_from_slice(b"hello");
/// assert_eq!(Header::validate(&message)?.payload(&message), b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// XXH3-64 of bytes 8 to 64, seeded.
    pub checksum: U64,
    /// XXH3-64 of all that follows the header, seed 0; or 0 with [`Flags::UNSEALED`].
    pub checksum_payload: U64,
    /// Bytes of header, extensions and payload.
    pub size: U32,
    /// The number of a [`Kind`].
    pub kind: u8,
    /// Hosts passed, in the low four bits; the version in the high four.
    pub hops_version: u8,
    /// The bits of [`Flags`].
    pub flags: u8,
    /// Bytes of extensions, in units of 8.
    pub extensions: u8,
    /// The [`TopicId`], or 0.
    pub topic: U64,
    /// The [`PortId`] that the message came from, or 0.
    pub source: U64,
    /// The place of the message among those of its source, from 1.
    pub sequence: U64,
    /// The publisher's clock, in nanoseconds since 1970: for people.
    pub time_ns: U64,
    /// What the message answers, or 0.
    pub correlation: U64,
}

impl Header {
    /// [`Header::hops_version`] of what has passed no host.
    pub const FIRST_HOP: u8 = VERSION << 4;

    /// A header of this kind and version without a payload; every other field is zero.
    #[must_use]
    pub fn new(kind: Kind) -> Header {
        let mut header = Header::new_zeroed();
        header.size.set(HEADER_SIZE as u32);
        header.kind = kind.number();
        header.hops_version = Self::FIRST_HOP;
        header
    }

    /// Fills in size and checksums for what follows: extensions (as the field `extensions` says), then payload.
    ///
    /// # Errors
    /// When the message would be larger than [`MESSAGE_BYTES_MAX`], or shorter than its extensions.
    pub fn seal(&mut self, following: &[u8]) -> Result<(), EncodeError> {
        self.seal_seeded(following, Seed::LOCAL)
    }

    /// As [`Header::seal`], for a link whose messages are seeded.
    ///
    /// # Errors
    /// As [`Header::seal`].
    pub fn seal_seeded(&mut self, following: &[u8], seed: Seed) -> Result<(), EncodeError> {
        self.seal_pieces([following, &[]], seed)
    }

    /// As [`Header::seal_seeded`], for a message whose following bytes lie in two places.
    ///
    /// # Errors
    /// As [`Header::seal`].
    pub fn seal_pieces(&mut self, following: [&[u8]; 2], seed: Seed) -> Result<(), EncodeError> {
        let [first, second] = following;
        let bytes = first.len().saturating_add(second.len());
        let size = (bytes as u64).saturating_add(HEADER_SIZE as u64);
        let size_field = u32::try_from(size).map_err(|_| EncodeError::message_too_large(size))?;
        if size > MESSAGE_BYTES_MAX {
            return Err(EncodeError::message_too_large(size));
        }
        if self.extension_bytes() > bytes {
            return Err(EncodeError::Extensions { size: self.extension_bytes() });
        }
        self.size.set(size_field);
        // The payload's checksum is not seeded, so that a message keeps it from link to link; the header's is,
        // and covers it.
        let unsealed = self.flags & Flags::UNSEALED.bits() != 0;
        self.checksum_payload.set(match (unsealed, second.is_empty()) {
            (true, _) => 0,
            (false, true) => checksum_of_payload(first),
            (false, false) => {
                let mut checksum = Checksum::new();
                checksum.update(first);
                checksum.update(second);
                checksum.value()
            }
        });
        self.checksum.set(self.checksum_of(seed));
        Ok(())
    }

    /// Sets the field `extensions` to the length of `bytes`, which [`Extensions::push`] made.
    ///
    /// # Errors
    /// When they are too long or not a multiple of 8 bytes.
    pub fn set_extensions(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let refused = EncodeError::Extensions { size: bytes.len() };
        if bytes.len() > EXTENSION_BYTES_MAX || !bytes.len().is_multiple_of(UNIT) {
            return Err(refused);
        }
        self.extensions = u8::try_from(bytes.len() / UNIT).map_err(|_| refused)?;
        Ok(())
    }

    /// Checks one whole message, header first: sizes, version, kind, flags, extensions and both checksums.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(message: &[u8]) -> Result<Header, DecodeError> {
        Header::validate_seeded(message, Seed::LOCAL)
    }

    /// As [`Header::validate`], for a link whose messages are seeded.
    ///
    /// # Errors
    /// As [`Header::validate`].
    pub fn validate_seeded(message: &[u8], seed: Seed) -> Result<Header, DecodeError> {
        let header = Header::validate_head(message, seed)?;
        let following = message.get(HEADER_SIZE..).unwrap_or_default();
        if u64::from(header.size.get()) != message.len() as u64 {
            return Err(DecodeError::Size { claimed: header.size.get(), size: message.len() });
        }
        header.validate_following(following)?;
        Ok(header)
    }

    /// Checks what follows a header that [`Header::validate_head`] returned: its size, extensions and checksum.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate_following(&self, following: &[u8]) -> Result<(), DecodeError> {
        if self.size.get() as usize != HEADER_SIZE.saturating_add(following.len()) {
            let size = HEADER_SIZE.saturating_add(following.len());
            return Err(DecodeError::Size { claimed: self.size.get(), size });
        }
        // `validate_head` has compared the extensions with the size, and that is the number of bytes here.
        self.validate_extensions(following)?;
        let unsealed = self.flags & Flags::UNSEALED.bits() != 0;
        if !unsealed && self.checksum_payload.get() != checksum_of_payload(following) {
            return Err(DecodeError::ChecksumPayload);
        }
        Ok(())
    }

    /// Checks the extensions at the beginning of what follows the header, of which the rest may not be there yet.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate_extensions(&self, following: &[u8]) -> Result<(), DecodeError> {
        let Some(extensions) = following.get(..self.extension_bytes()) else {
            return Err(DecodeError::Extension { at: following.len() });
        };
        Extensions::check(extensions)
    }

    /// Checks a header of which the message has not arrived yet: all but what follows it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate_head(bytes: &[u8], seed: Seed) -> Result<Header, DecodeError> {
        let header = Header::validate_head_of_any_version(bytes, seed)?;
        if header.version() != VERSION {
            return Err(DecodeError::Version { version: header.version() });
        }
        Ok(header)
    }

    /// As [`Header::validate_head`], but a refusal may be of any version: it is how versions are told apart.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate_head_of_any_version(bytes: &[u8], seed: Seed) -> Result<Header, DecodeError> {
        let Ok((header, _)) = Header::read_from_prefix(bytes) else {
            return Err(DecodeError::Short { size: bytes.len() });
        };
        // First of all, and in every version: the rest could be anything.
        if header.checksum.get() != header.checksum_of(seed) {
            return Err(DecodeError::Checksum);
        }
        if header.version() != VERSION && header.kind != Kind::Refusal.number() {
            return Err(DecodeError::Version { version: header.version() });
        }
        if Kind::from_number(header.kind).is_none() {
            return Err(DecodeError::Kind { kind: header.kind });
        }
        let Some(flags) = Flags::from_bits(header.flags) else {
            return Err(DecodeError::Flags { flags: header.flags });
        };
        if flags.has(Flags::UNSEALED) && header.checksum_payload.get() != 0 {
            return Err(DecodeError::Flags { flags: header.flags });
        }
        let size = u64::from(header.size.get());
        if size > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLarge { size, size_max: MESSAGE_BYTES_MAX });
        }
        if size < HEADER_SIZE as u64 {
            return Err(DecodeError::Size { claimed: header.size.get(), size: bytes.len() });
        }
        if HEADER_SIZE as u64 + header.extension_bytes() as u64 > size {
            return Err(DecodeError::Extension { at: 0 });
        }
        Ok(header)
    }

    /// The extensions in the message that this header was validated with.
    #[must_use]
    pub fn extensions<'a>(&self, message: &'a [u8]) -> Extensions<'a> {
        let end = HEADER_SIZE + self.extension_bytes();
        Extensions::new(message.get(HEADER_SIZE..end).unwrap_or_default())
    }

    /// The payload in the message that this header was validated with.
    #[must_use]
    pub fn payload<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(HEADER_SIZE + self.extension_bytes()..).unwrap_or_default()
    }

    /// The 64 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The version, of which only [`VERSION`] is accepted.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.hops_version >> 4
    }

    /// How many hosts the message has passed.
    #[must_use]
    pub const fn hops(&self) -> u8 {
        self.hops_version & 15
    }

    /// The kind, if it is a known one.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }

    /// The flags, if they are defined.
    #[must_use]
    pub fn flags(&self) -> Option<Flags> {
        Flags::from_bits(self.flags)
    }

    /// The topic's id.
    #[must_use]
    pub fn topic(&self) -> TopicId {
        TopicId(self.topic.get())
    }

    /// The port that the message came from.
    #[must_use]
    pub fn source(&self) -> PortId {
        PortId(self.source.get())
    }

    /// Bytes of extensions between header and payload.
    #[must_use]
    pub const fn extension_bytes(&self) -> usize {
        self.extensions as usize * UNIT
    }

    /// The offset of the first field that is not zero, of those that only a user's message has.
    pub(crate) fn first_field_in_use(&self) -> Option<usize> {
        let fields = [
            (core::mem::offset_of!(Header, hops_version), u64::from(self.hops())),
            (core::mem::offset_of!(Header, extensions), u64::from(self.extensions)),
            (core::mem::offset_of!(Header, topic), self.topic.get()),
            (core::mem::offset_of!(Header, source), self.source.get()),
            (core::mem::offset_of!(Header, sequence), self.sequence.get()),
            (core::mem::offset_of!(Header, time_ns), self.time_ns.get()),
            (core::mem::offset_of!(Header, correlation), self.correlation.get()),
        ];
        fields.into_iter().find(|(_, value)| *value != 0).map(|(offset, _)| offset)
    }

    fn checksum_of(&self, seed: Seed) -> u64 {
        xxh3_64_with_seed(self.as_bytes().get(CHECKSUM_SIZE..).unwrap_or_default(), seed.0)
    }
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_SIZE);
    assert!(align_of::<Header>() == 1);
    assert!(core::mem::offset_of!(Header, checksum_payload) == CHECKSUM_SIZE);
    assert!(core::mem::offset_of!(Header, size) == 16);
    assert!(core::mem::offset_of!(Header, hops_version) == 21);
    assert!(core::mem::offset_of!(Header, topic) == 24);
    assert!(core::mem::offset_of!(Header, correlation) == 56);
    assert!(EXTENSION_BYTES_MAX == u8::MAX as usize * UNIT);
    assert!(VERSION > 0 && VERSION < 16, "four bits; 0 would make a header of zeros look like one");
};
