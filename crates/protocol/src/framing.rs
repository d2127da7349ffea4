//! Bytes to frames, without meaning: where a frame begins and ends, and that its checksums hold.
//!
//! The framer keeps no bytes. It looks at what the caller has, says how much of it is done with, or how much is
//! needed; a header is checked before anything behind it is believed. The rest of a large payload need not pass
//! the caller's buffer: it is read straight to where it stays, and shown to the checksum. A message whose payload is not
//! what its sender summed is told as that and costs nothing else: its header says where the next frame begins.
//!
//! Invariant: each byte is summed once, and none of a frame is believed before its header's checksum.

use busway_wire::limits::{LINK_DIRECT_BYTES, LINK_FRAME_BYTES_MAX, LINK_PIECE_BYTES_MAX};
use busway_wire::link::seed_of;
use busway_wire::{Checksum, DecodeError, Extensions, Flags, HEADER_SIZE, Header, Kind, Part, Seed};

/// Turns the bytes of one connection into frames.
#[derive(Debug)]
pub struct Framer {
    cluster: Seed,
    at: At,
    /// Of the payload that is coming.
    checksum: Checksum,
}

/// Where in the stream the next byte is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// At the first byte of a header.
    Header,
    /// As well, but the header has been checked, and more than it is needed.
    Seen(Header),
    /// In a payload of which the header has been handed out.
    Payload { header: Header, remaining: u64 },
}

/// Whether a payload is what its sender summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// It is.
    Holds,
    /// It is not: no byte of it is to be used.
    Fails,
}

/// What comes next.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing, before the slice has at least so many bytes.
    Need(usize),
    /// A whole frame.
    Frame {
        /// How many bytes of the slice it is.
        consumed: usize,
        /// Its header.
        header: Header,
        /// What follows the header: extensions, then payload.
        body: &'a [u8],
    },
    /// A whole message whose payload is not what its sender summed. Its header is.
    Spoiled {
        /// How many bytes of the slice it is.
        consumed: usize,
        /// Its header.
        header: Header,
    },
    /// The beginning of a large message, of which the payload follows in pieces.
    Begin {
        /// How many bytes of the slice are done with.
        consumed: usize,
        /// Its header. Its checksum holds; that of the payload is known at the end.
        header: Header,
        /// Which part of a larger message it is. Not yet covered by a checksum.
        part: Option<Part>,
        /// Its extensions, not yet covered by a checksum.
        extensions: &'a [u8],
    },
    /// More of that payload.
    Body {
        /// How many bytes of the slice it is.
        consumed: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// That payload is complete.
    End {
        /// Its header.
        header: Header,
        /// Whether its checksum holds.
        sum: Sum,
    },
}

/// What the framer wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Bytes, through [`Framer::next`].
    Bytes,
    /// The rest of a payload, which may be read to where it stays and shown to [`Framer::read_direct`].
    Payload {
        /// How many bytes.
        remaining: u64,
    },
}

impl Framer {
    /// The most bytes that [`Step::Need`] asks for, so that a buffer of this size is enough.
    pub const NEED_MAX: usize = LINK_FRAME_BYTES_MAX;

    /// A framer at the beginning of a connection.
    #[must_use]
    pub fn new(cluster: Seed) -> Framer {
        Framer { cluster, at: At::Header, checksum: Checksum::new() }
    }

    /// What the next bytes are. The caller hands in all it has from the first byte that is not done with; bytes
    /// that were not done with come again, the same, with more behind them.
    ///
    /// # Errors
    /// The first thing that is wrong. The connection is then of no use any more.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let header = match &mut self.at {
            At::Header => {
                if bytes.len() < HEADER_SIZE {
                    return Ok(Step::Need(HEADER_SIZE));
                }
                self.check_head(bytes)?
            }
            At::Seen(header) => *header,
            At::Payload { remaining: remaining @ 1.., .. } => {
                let size = bytes.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                let bytes = bytes.get(..size).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok(Step::Need(1));
                }
                self.checksum.update(bytes);
                *remaining -= bytes.len() as u64;
                return Ok(Step::Body { consumed: size, bytes });
            }
            At::Payload { .. } => return self.end().map(|(header, sum)| Step::End { header, sum }),
        };
        self.at = At::Seen(header);
        self.body(header, bytes)
    }

    /// What is wanted next.
    #[must_use]
    pub fn want(&self) -> Want {
        match &self.at {
            At::Payload { remaining, .. } if *remaining > 0 => Want::Payload { remaining: *remaining },
            At::Payload { .. } | At::Header | At::Seen(_) => Want::Bytes,
        }
    }

    /// Takes bytes of the payload that were read elsewhere, at most as many as remain. The header comes when they
    /// were the last, and whether the checksum holds.
    ///
    /// # Errors
    /// More bytes than remain.
    pub fn read_direct(&mut self, bytes: &[u8]) -> Result<Option<(Header, Sum)>, DecodeError> {
        let At::Payload { header, remaining } = &mut self.at else {
            return Err(DecodeError::Short { size: bytes.len() });
        };
        let Some(left) = remaining.checked_sub(bytes.len() as u64) else {
            return Err(DecodeError::Size { claimed: header.size.get(), size: bytes.len() });
        };
        self.checksum.update(bytes);
        *remaining = left;
        if left > 0 { Ok(None) } else { self.end().map(Some) }
    }

    /// A header, and what of it is allowed on a link.
    fn check_head(&self, bytes: &[u8]) -> Result<Header, DecodeError> {
        // The kind says which seed the checksum has, and the checksum that the kind was not damaged.
        let place = core::mem::offset_of!(Header, kind);
        let kind = bytes.get(place).and_then(|number| Kind::from_number(*number));
        let seed = kind.map_or(self.cluster, |kind| seed_of(kind, self.cluster));
        let header = Header::validate_head_of_any_version(bytes, seed)?;
        let size = u64::from(header.size.get());
        let size_max = match header.kind() {
            Some(Kind::Publish) => (HEADER_SIZE + header.extension_bytes()) as u64 + LINK_PIECE_BYTES_MAX,
            // Of one host: what of requests and work crosses a link are words in messages of kind publish.
            Some(Kind::Control | Kind::Request | Kind::Reply | Kind::Push) | None => {
                return Err(DecodeError::Kind { kind: header.kind });
            }
            Some(
                Kind::Hello
                | Kind::Refusal
                | Kind::Interest
                | Kind::Announce
                | Kind::Retire
                | Kind::Accept
                | Kind::Credit
                | Kind::Gap
                | Kind::Ping
                | Kind::Pong
                | Kind::Goodbye
                | Kind::Deny
                | Kind::Run
                | Kind::Advert
                | Kind::Fetch
                | Kind::Chunk,
            ) => LINK_FRAME_BYTES_MAX as u64,
        };
        if size > size_max {
            return Err(DecodeError::TooLarge { size, size_max });
        }
        // Nothing else protects the payload of a link in the clear.
        if header.flags & Flags::UNSEALED.bits() != 0 {
            return Err(DecodeError::Flags { flags: header.flags });
        }
        Ok(header)
    }

    /// A frame whose header has been checked: whole, begun, or not enough of it.
    fn body<'a>(&mut self, header: Header, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        // At most 1 MiB and a header, as checked.
        let size = header.size.get() as usize;
        let before = HEADER_SIZE + header.extension_bytes();
        let payload = size.saturating_sub(before);
        let message = header.kind().is_some_and(Kind::crosses_links);
        if message && bytes.len() >= before {
            let extensions = bytes.get(HEADER_SIZE..before).unwrap_or_default();
            header.validate_extensions(extensions)?;
            let part = Part::of(Extensions::new(extensions))?;
            // A part comes piece by piece even if it is all there, so that its receiver has one way to take it.
            if part.is_some() || (bytes.len() < size && payload >= LINK_DIRECT_BYTES) {
                self.checksum = Checksum::new();
                self.checksum.update(extensions);
                self.at = At::Payload { header, remaining: payload as u64 };
                return Ok(Step::Begin { consumed: before, header, part, extensions });
            }
        }
        if bytes.len() < size {
            let large = message && payload >= LINK_DIRECT_BYTES;
            return Ok(Step::Need(if large { before } else { size }));
        }
        let body = bytes.get(HEADER_SIZE..size).unwrap_or_default();
        let checked = header.validate_following(body);
        self.at = At::Header;
        match checked {
            Ok(()) => Ok(Step::Frame { consumed: size, header, body }),
            // What the link says itself nobody may change on its way.
            Err(DecodeError::ChecksumPayload) if message => Ok(Step::Spoiled { consumed: size, header }),
            Err(error) => Err(error),
        }
    }

    fn end(&mut self) -> Result<(Header, Sum), DecodeError> {
        match core::mem::replace(&mut self.at, At::Header) {
            At::Payload { header, .. } => {
                let holds = self.checksum.value() == header.checksum_payload.get();
                Ok((header, if holds { Sum::Holds } else { Sum::Fails }))
            }
            At::Header | At::Seen(_) => Err(DecodeError::ChecksumPayload),
        }
    }
}
