//! Where the large artifacts of a node lie: in memory, or in a directory.
//!
//! The machine puts checked pieces here and gives them to others; who has been given an artifact reads it here, by its own thread, piece by piece. Of what is in a directory each
//! piece is checked when it is read: what is damaged is forgotten, the machine is told, and who reads waits until it has come again.
//!
//! An artifact takes its room when it is begun. What the machine needs, because it is offered here or wanted, and what somebody has in hand, stays; in a directory the rest stays as long as
//! there is room, and goes oldest first.
//!
//! Invariant: what is got from here has the value that its piece has in the tree of its artifact.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use busway_protocol::artifact::{Full, pieces};
use busway_protocol::flow::{Flow, Limits};
use busway_protocol::gossip::{ArtifactId, Part};
use busway_shm::clock::Deadline;
use busway_shm::fork;
use busway_wire::limits::ARTIFACT_STORE_BYTES_DEFAULT;

use crate::error::{Code, Error, memory};
use crate::ports::lock;
use crate::runtime::Calls;

mod disk;
mod import;

use disk::{Disk, Opened};
pub(crate) use import::Imported;

/// Pieces of a directory that were read lately: others ask for the same chunk by chunk. 16 MiB where they are largest.
const RECENT_MAX: usize = 64;
/// What is kept in memory of an artifact for each of its pieces, generously.
const PIECE_COST: u64 = 64;

/// Where it is, and how much it may have.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    /// Without, it is in memory.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) bytes_max: u64,
    /// What comes whole, and always lies in memory.
    pub(crate) bodies_bytes_max: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        let bodies_bytes_max = Limits::default().rule(Flow::Chunk).limit.bytes;
        StoreConfig { directory: None, bytes_max: ARTIFACT_STORE_BYTES_DEFAULT, bodies_bytes_max }
    }
}

/// What is here of one artifact.
#[derive(Debug, Default)]
struct Kept {
    size: u64,
    tree: Option<Arc<[u8]>>,
    have: Vec<bool>,
    /// The machine needs it; and so many of this host have it in hand.
    needed: bool,
    leases: usize,
    /// When it was last begun: its place among others.
    used: u64,
    /// All pieces where there is no directory.
    pieces: BTreeMap<u32, Arc<[u8]>>,
    /// While it is needed or in hand.
    file: Option<Arc<File>>,
    /// What is not here comes no more.
    given_up: bool,
}

impl Kept {
    fn new(size: u64) -> Kept {
        let have = vec![false; pieces::count(size) as usize];
        Kept { size, have, ..Kept::default() }
    }

    fn cost(&self) -> u64 {
        cost(self.size)
    }

    fn is_free(&self) -> bool {
        !self.needed && self.leases == 0
    }

    fn has(&self, part: Part) -> bool {
        match part {
            Part::Whole => false,
            Part::Tree => self.tree.is_some(),
            Part::Piece { index } => self.have.get(index as usize).copied().unwrap_or(false),
        }
    }
}

/// A piece that was read lately.
type Recent = ((ArtifactId, u32), Arc<[u8]>);

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<ArtifactId, Kept>,
    /// What they have taken of the room.
    bytes: u64,
    turn: u64,
    recent: VecDeque<Recent>,
    /// Of these something was damaged, and the machine has not been told.
    lost: BTreeSet<ArtifactId>,
    damaged: u64,
    /// Something was given back since the machine looked.
    freed: bool,
    ended: bool,
    calls: Weak<Calls>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    news: Condvar,
    disk: Option<Disk>,
    bytes_max: u64,
    forks: u64,
}

/// What `piece` has found.
enum Piece {
    Here(Arc<[u8]>),
    OnDisk(Arc<File>, Arc<[u8]>),
    /// It may come.
    Missing,
    GivenUp,
}

fn cost(size: u64) -> u64 {
    size.saturating_add(u64::from(pieces::count(size)) * PIECE_COST)
}

impl Store {
    pub(crate) fn open(config: &StoreConfig) -> Result<Arc<Store>, Error> {
        let forks = fork::generation().map_err(|error| memory(&error, "the artifacts of this node"))?;
        let mut state = State::default();
        let disk = match &config.directory {
            None => None,
            Some(directory) => {
                let (disk, mut found) = Disk::open(directory)?;
                found.sort_by_key(|found| found.used);
                for found in found {
                    state.turn += 1;
                    state.bytes += cost(found.size);
                    let (size, used) = (found.size, state.turn);
                    state.kept.insert(found.id, Kept { size, used, ..Kept::default() });
                }
                Some(disk)
            }
        };
        let (state, news, bytes_max) = (Mutex::new(state), Condvar::new(), config.bytes_max);
        let store = Store { state, news, disk, bytes_max, forks };
        store.make_room(&mut lock(&store.state), 0);
        Ok(Arc::new(store))
    }

    /// Whom to wake when something was lost, or there is room.
    pub(crate) fn serve(&self, calls: &Arc<Calls>) {
        lock(&self.state).calls = Arc::downgrade(calls);
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Removes what nobody needs, the oldest first, until there is room for so much. If there cannot be, nothing is removed.
    fn make_room(&self, state: &mut State, bytes: u64) -> bool {
        let free: u64 = state.kept.values().filter(|kept| kept.is_free()).map(Kept::cost).sum();
        if state.bytes.saturating_sub(free).saturating_add(bytes) > self.bytes_max && bytes > 0 {
            return false;
        }
        while state.bytes.saturating_add(bytes) > self.bytes_max {
            let oldest =
                state.kept.iter().filter(|(_, kept)| kept.is_free()).min_by_key(|(_, kept)| kept.used);
            let Some(id) = oldest.map(|(id, _)| *id) else { return false };
            self.remove(state, id);
        }
        true
    }

    fn remove(&self, state: &mut State, id: ArtifactId) {
        if let Some(kept) = state.kept.remove(&id) {
            state.bytes -= kept.cost();
            state.recent.retain(|((of, _), _)| *of != id);
            if let Some(disk) = &self.disk {
                disk.remove(id);
            }
        }
    }

    /// What is there of an artifact, with its file open, if it has one; or a new one, if there is room.
    fn begin<'a>(&self, state: &'a mut State, id: ArtifactId, size: u64) -> Result<&'a mut Kept, Full> {
        state.turn += 1;
        let used = state.turn;
        match state.kept.get(&id) {
            // One of them is not so, since a name has one size; who is in use stays.
            Some(kept) if kept.size != size && !kept.is_free() => return Err(Full),
            Some(kept) if kept.size != size => self.remove(state, id),
            Some(_) | None => {}
        }
        if !state.kept.contains_key(&id) {
            if !self.make_room(state, cost(size)) {
                return Err(Full);
            }
            state.bytes += cost(size);
            state.kept.insert(id, Kept::new(size));
        }
        let kept = state.kept.get_mut(&id).expect("it was just put there");
        kept.used = used;
        kept.given_up = false;
        if let (Some(disk), None) = (&self.disk, &kept.file) {
            kept.have = vec![false; pieces::count(size) as usize];
            match disk.load(id, size) {
                Ok(Opened { file, tree, have }) => {
                    (kept.file, kept.tree, kept.have) = (Some(file), Some(tree), have);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => kept.tree = None,
                Err(error) => {
                    tracing::warn!(target: "busway::gossip", %id, "what is in the store of it is fetched again: {error}");
                    kept.tree = None;
                }
            }
        }
        Ok(kept)
    }

    /// Nobody needs what nobody needs: it leaves memory.
    fn settle(&self, state: &mut State, id: ArtifactId) {
        let Some(kept) = state.kept.get_mut(&id).filter(|kept| kept.is_free()) else { return };
        if self.disk.is_some() && kept.file.is_some() {
            (kept.file, kept.tree, kept.have) = (None, None, Vec::new());
        } else {
            self.remove(state, id);
        }
        state.freed = true;
        if let Some(calls) = state.calls.upgrade() {
            calls.wake();
        }
    }

    fn put(&self, id: ArtifactId, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        let mut state = lock(&self.state);
        let Some(kept) = state.kept.get_mut(&id) else { return Err(Full) };
        if kept.has(part) {
            return Ok(());
        }
        let written = match (part, &self.disk, &kept.file) {
            (Part::Tree, Some(disk), _) => disk.create(id, kept.size, &bytes).map(|file| {
                kept.file = Some(Arc::new(file));
            }),
            (Part::Piece { index }, Some(_), Some(file)) => disk::write_piece(file, kept.size, index, &bytes),
            (Part::Piece { index }, None, _) => {
                kept.pieces.insert(index, bytes.clone());
                Ok(())
            }
            (Part::Tree, None, _) => Ok(()),
            (Part::Whole, ..) | (Part::Piece { .. }, Some(_), None) => return Err(Full),
        };
        if let Err(error) = written {
            tracing::error!(target: "busway::gossip", %id, "the store cannot be written: {error}");
            return Err(Full);
        }
        match part {
            Part::Whole => {}
            Part::Tree => kept.tree = Some(bytes),
            Part::Piece { index } => kept.have[index as usize] = true,
        }
        drop(state);
        self.news.notify_all();
        Ok(())
    }

    /// A piece, as it is here.
    fn piece(state: &State, id: ArtifactId, index: u32) -> Piece {
        let Some(kept) = state.kept.get(&id) else { return Piece::GivenUp };
        if !kept.has(Part::Piece { index }) {
            return if kept.given_up || !kept.needed { Piece::GivenUp } else { Piece::Missing };
        }
        if let Some(piece) = kept.pieces.get(&index) {
            return Piece::Here(piece.clone());
        }
        if let Some((_, piece)) = state.recent.iter().find(|(key, _)| *key == (id, index)) {
            return Piece::Here(piece.clone());
        }
        match (&kept.file, &kept.tree) {
            (Some(file), Some(tree)) => Piece::OnDisk(file.clone(), tree.clone()),
            _ => Piece::GivenUp,
        }
    }

    /// Reads a piece of which it is said that it is on the disk; nothing if it is damaged.
    fn fetch(
        &self,
        id: ArtifactId,
        (size, index): (u64, u32),
        file: &File,
        tree: &[u8],
    ) -> Option<Arc<[u8]>> {
        let read = disk::read_piece(file, size, index, tree);
        let mut state = lock(&self.state);
        match read {
            Ok(piece) => {
                if state.recent.len() >= RECENT_MAX {
                    state.recent.pop_front();
                }
                state.recent.push_back(((id, index), piece.clone()));
                Some(piece)
            }
            Err(error) => {
                self.damage(&mut state, id, index, &error);
                None
            }
        }
    }

    fn damage(&self, state: &mut State, id: ArtifactId, index: u32, error: &io::Error) {
        let Some(kept) = state.kept.get_mut(&id) else { return };
        let Some(have) = kept.have.get_mut(index as usize).filter(|have| **have) else { return };
        *have = false;
        let unmarked = kept.file.as_ref().map(|file| disk::unmark(file, kept.size, index));
        tracing::warn!(target: "busway::gossip", %id, index, ?unmarked, "a piece in the store is damaged: {error}");
        state.damaged += 1;
        state.lost.insert(id);
        if let Some(calls) = state.calls.upgrade() {
            calls.wake();
        }
    }

    /// A piece for who has it in hand. Waits until it has come, or comes again, where it is to.
    fn read(
        &self,
        id: ArtifactId,
        (size, index): (u64, u32),
        deadline: Deadline,
    ) -> Result<Arc<[u8]>, Error> {
        let mut state = lock(&self.state);
        loop {
            match Store::piece(&state, id, index) {
                Piece::Here(piece) => return Ok(piece),
                Piece::OnDisk(file, tree) => {
                    drop(state);
                    if let Some(piece) = self.fetch(id, (size, index), &file, &tree) {
                        return Ok(piece);
                    }
                    state = lock(&self.state);
                }
                Piece::GivenUp => {
                    return Err(Error::new(Code::BytesLost, format!("piece {index} is not here"))
                        .at(format!("artifact {id}"))
                        .remedy("fetch it again while somebody offers it"));
                }
                Piece::Missing if state.ended => return Err(crate::runtime::ended()),
                Piece::Missing => {
                    let left = deadline.remaining();
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(Error::new(Code::TimedOut, format!("piece {index} has not come"))
                            .at(format!("artifact {id}"))
                            .remedy("see which nodes are linked: busway peers"));
                    }
                    state = self.sleep(state, left);
                }
            }
        }
    }

    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        left: Option<std::time::Duration>,
    ) -> MutexGuard<'a, State> {
        match left {
            Some(left) => self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Of which artifacts something was damaged since this was last asked; whether something was given back.
    pub(crate) fn take_news(&self) -> (BTreeSet<ArtifactId>, bool) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.lost), std::mem::take(&mut state.freed))
    }

    /// Pieces that were found damaged, and bytes that are taken.
    pub(crate) fn counts(&self) -> (u64, u64) {
        if self.is_inherited() {
            return (0, 0);
        }
        let state = lock(&self.state);
        (state.damaged, state.bytes)
    }

    /// What is missing of it comes no more.
    pub(crate) fn give_up(&self, id: ArtifactId) {
        if let Some(kept) = lock(&self.state).kept.get_mut(&id) {
            kept.given_up = true;
        }
        self.news.notify_all();
    }

    /// The node ends: nothing comes any more, and what is here can be read.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.news.notify_all();
    }

    fn is_inherited(&self) -> bool {
        fork::forked_since(self.forks)
    }

    /// Has it in hand from now on, if it is here or comes.
    pub(crate) fn lease(self: &Arc<Self>, id: ArtifactId) -> Option<Lease> {
        let mut state = lock(&self.state);
        let kept = state.kept.get_mut(&id).filter(|kept| !kept.have.is_empty())?;
        kept.leases += 1;
        let size = kept.size;
        drop(state);
        Some(Lease { store: self.clone(), id, size })
    }
}

/// An artifact that somebody has in hand: it stays while this is there.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Arc<Store>,
    id: ArtifactId,
    size: u64,
}

impl Lease {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads from the piece that has this byte: as much as is asked for, or the rest of the piece; nothing at the end.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        if self.store.is_inherited() {
            return Err(crate::bus::forked());
        }
        if offset >= self.size || buf.is_empty() {
            return Ok(0);
        }
        let index = u32::try_from(offset / pieces::piece_bytes(self.size)).unwrap_or(u32::MAX);
        let piece = self.store.read(self.id, (self.size, index), deadline)?;
        let within = usize::try_from(offset % pieces::piece_bytes(self.size)).unwrap_or(usize::MAX);
        let rest = piece.get(within..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        if !self.store.is_inherited()
            && let Some(kept) = lock(&self.store.state).kept.get_mut(&self.id)
        {
            kept.leases += 1;
        }
        Self { store: self.store.clone(), id: self.id, size: self.size }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.store.is_inherited() {
            return;
        }
        let mut state = lock(&self.store.state);
        if let Some(kept) = state.kept.get_mut(&self.id) {
            kept.leases = kept.leases.saturating_sub(1);
        }
        self.store.settle(&mut state, self.id);
    }
}

/// What the machine of the node sees of the store.
#[derive(Debug)]
pub(crate) struct Shelf(pub(crate) Arc<Store>);

impl busway_protocol::artifact::Store for Shelf {
    fn open(&mut self, id: ArtifactId, size: u64) -> Result<(), Full> {
        self.0.begin(&mut lock(&self.0.state), id, size)?.needed = true;
        Ok(())
    }

    fn put(&mut self, id: ArtifactId, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        self.0.put(id, part, bytes)
    }

    fn get(&self, id: ArtifactId, part: Part) -> Option<Arc<[u8]>> {
        let state = lock(&self.0.state);
        let kept = state.kept.get(&id)?;
        let Part::Piece { index } = part else { return kept.tree.clone().filter(|_| part == Part::Tree) };
        let size = kept.size;
        match Store::piece(&state, id, index) {
            Piece::Here(piece) => Some(piece),
            Piece::OnDisk(file, tree) => {
                drop(state);
                self.0.fetch(id, (size, index), &file, &tree)
            }
            Piece::Missing | Piece::GivenUp => None,
        }
    }

    fn has(&self, id: ArtifactId, part: Part) -> bool {
        lock(&self.0.state).kept.get(&id).is_some_and(|kept| kept.has(part))
    }

    fn forget(&mut self, id: ArtifactId) {
        let mut state = lock(&self.0.state);
        if let Some(kept) = state.kept.get_mut(&id).filter(|kept| kept.needed) {
            kept.needed = false;
            self.0.settle(&mut state, id);
        }
        drop(state);
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests;
