//! What users and the machine have of a store: an artifact in hand, and the shelf that the machine puts pieces on.
//!
//! Invariant: an artifact stays as long as somebody has it in hand. In a child made by `fork` nothing here touches what is its parent's.

use std::sync::Arc;

use busway_protocol::artifact::{Full, Name, pieces};
use busway_protocol::gossip::{ArtifactId, Part};
use busway_shm::clock::Deadline;

use crate::artifacts::store::{Piece, Store};
use crate::error::Error;
use crate::ports::lock;

impl Store {
    /// Has it in hand from now on, if it is here or comes.
    pub(crate) fn lease(self: &Arc<Self>, name: Name) -> Option<Lease> {
        let mut state = lock(&self.state);
        state.kept.get(&name).filter(|kept| !kept.have.is_empty())?;
        state.with(name, |kept| kept.leases += 1);
        drop(state);
        Some(Lease::of(self, name))
    }
}

/// An artifact that somebody has in hand: it stays while this is there.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<Store>,
    name: Name,
}

impl Lease {
    /// Of what was counted as in hand.
    pub(super) fn of(store: &Arc<Store>, name: Name) -> Lease {
        Lease { store: store.clone(), name }
    }

    pub(crate) fn id(&self) -> ArtifactId {
        self.name.id
    }

    pub(crate) fn size(&self) -> u64 {
        self.name.size
    }

    /// Reads from the piece that has this byte: as much as is asked for, or the rest of the piece; nothing at the end.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        if self.store.is_inherited() {
            return Err(crate::bus::forked());
        }
        if offset >= self.size() || buf.is_empty() {
            return Ok(0);
        }
        let index = u32::try_from(offset / pieces::piece_bytes(self.size())).unwrap_or(u32::MAX);
        let piece = self.store.read(self.name, index, deadline)?;
        let within = usize::try_from(offset % pieces::piece_bytes(self.size())).unwrap_or(usize::MAX);
        let rest = piece.get(within..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        if !self.store.is_inherited() {
            lock(&self.store.state).with(self.name, |kept| kept.leases += 1);
        }
        Self { store: self.store.clone(), name: self.name }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.store.is_inherited() {
            return;
        }
        self.store.change(|state| {
            state.with(self.name, |kept| kept.leases = kept.leases.saturating_sub(1));
            self.store.settle(state, self.name);
        });
    }
}

/// What the machine of the node sees of the store.
#[derive(Debug)]
pub(crate) struct Shelf(pub(crate) Arc<Store>);

impl busway_protocol::artifact::Store for Shelf {
    fn open(&mut self, name: Name) -> Result<(), Full> {
        self.0.look(name)?;
        self.0.change(|state| {
            self.0.begin(state, name)?;
            state.with(name, |kept| kept.needed = true);
            Ok(())
        })
    }

    fn put(&mut self, name: Name, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        self.0.put(name, part, bytes)
    }

    fn get(&self, name: Name, part: Part) -> Option<Arc<[u8]>> {
        let state = lock(&self.0.state);
        let kept = state.kept.get(&name)?;
        let Part::Piece { index } = part else { return kept.tree.clone().filter(|_| part == Part::Tree) };
        match Store::piece(&state, name, index) {
            Piece::Here(piece) => Some(piece),
            Piece::OnDisk(tree) => {
                drop(state);
                self.0.fetch(name, index, &tree)
            }
            Piece::Missing | Piece::GivenUp => None,
        }
    }

    fn has(&self, name: Name, part: Part) -> bool {
        lock(&self.0.state).kept.get(&name).is_some_and(|kept| kept.has(part))
    }

    fn forget(&mut self, name: Name) {
        self.0.change(|state| {
            if state.with(name, |kept| std::mem::replace(&mut kept.needed, false)) == Some(true) {
                self.0.settle(state, name);
            }
        });
        self.0.news.notify_all();
    }
}
