//! The buffers between a connection and a session.
//!
//! A staging buffer takes what the kernel has and shows it to the session; what is left of a frame that has not come
//! whole stays with the connection, so that one buffer serves all connections of a thread. The rest of a large payload
//! goes past it, straight to where it stays. A batch is what goes out.
//!
//! Invariant: the bytes shown are those of one connection, in order, each once; what is lent for a read is given back
//! with it.

use busway_io::Space;
use busway_protocol::Batch;

use crate::runtime::Outbound;
use crate::runtime::import::Lent;

/// Bytes of a staging buffer: what a socket gives at once on a fast link.
pub(crate) const STAGING_BYTES: usize = 256 << 10;

/// Bytes of it behind a payload that goes to where it stays: the header that follows and a little. What comes here of the
/// next payload is copied, and what does not, is not.
const BESIDE_BYTES: usize = 4 << 10;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Staging {
    bytes: Vec<u8>,
    len: usize,
    /// The next read fills it up to here.
    end: usize,
    lent: Option<Lent>,
}

/// What one read is for.
#[derive(Debug)]
pub(crate) enum Goal {
    /// Whatever has come.
    All,
    /// The beginning of the next message, which is probably large as well.
    Beginning,
    /// The rest of a payload.
    Payload(Lent),
}

impl Staging {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; STAGING_BYTES], len: 0, end: STAGING_BYTES, lent: None }
    }

    /// Begins with what was left of a frame. There is always room behind it.
    pub(crate) fn begin(&mut self, rest: &[u8]) {
        if self.bytes.len() < rest.len() + STAGING_BYTES / 2 {
            self.bytes.resize(rest.len() + STAGING_BYTES, 0);
        }
        self.bytes[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
        self.end = self.bytes.len();
    }

    /// Says what the read is for that comes next.
    pub(crate) fn aim(&mut self, goal: Goal) {
        let beside = self.bytes.len().min(self.len + BESIDE_BYTES);
        (self.end, self.lent) = match goal {
            Goal::All => (self.bytes.len(), None),
            Goal::Beginning => (beside, None),
            Goal::Payload(lent) => (beside, Some(lent)),
        };
    }

    /// What was lent for the read that is done.
    pub(crate) fn take_lent(&mut self) -> Option<Lent> {
        self.lent.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the next read can bring.
    pub(crate) fn room(&mut self) -> usize {
        self.spans().iter().map(|span| span.len()).sum()
    }

    /// So many bytes are there now.
    pub(crate) fn filled(&mut self, len: usize) {
        self.len = len.min(self.bytes.len());
    }

    /// What there is. What is encrypted is opened in its place.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Space for Staging {
    fn spans(&mut self) -> [&mut [u8]; 2] {
        let room = self.bytes.get_mut(self.len..self.end).unwrap_or_default();
        match &mut self.lent {
            Some(lent) => [lent.bytes_mut(), room],
            None => [room, &mut []],
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub(crate) struct Pieces(pub(crate) Batch<Outbound>);

impl busway_io::Pieces for Pieces {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.pieces()
    }
}
