//! The buffers between a connection and a session.
//!
//! A staging buffer takes what the kernel has and shows it to the session; what is left of a frame that has not come
//! whole stays with the connection, so that one buffer serves all connections of a thread. A batch is what goes out.
//!
//! Invariant: the bytes shown are those of one connection, in order, each once.

use busway_io::Space;
use busway_protocol::Batch;

use crate::runtime::Outbound;

/// Bytes of a staging buffer: what a socket gives at once on a fast link.
pub(crate) const STAGING_BYTES: usize = 256 << 10;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Staging {
    bytes: Vec<u8>,
    len: usize,
}

impl Staging {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; STAGING_BYTES], len: 0 }
    }

    /// Begins with what was left of a frame. There is always room behind it.
    pub(crate) fn begin(&mut self, rest: &[u8]) {
        if self.bytes.len() < rest.len() + STAGING_BYTES / 2 {
            self.bytes.resize(rest.len() + STAGING_BYTES, 0);
        }
        self.bytes[..rest.len()].copy_from_slice(rest);
        self.len = rest.len();
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that can be read into it.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() - self.len
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
        let (_, room) = self.bytes.split_at_mut(self.len);
        [room, &mut []]
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
