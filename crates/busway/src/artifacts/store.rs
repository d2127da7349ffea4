//! Where the large artifacts of a node lie: in memory, or in a directory.
//!
//! The machine puts checked pieces here and gives them to others; who has been given an artifact reads it here, by its own thread, piece by piece. Of what is in a directory each
//! piece is checked when it is read: what is damaged is forgotten, the machine is told, and who reads waits until it has come again.
//!
//! An artifact takes its room when it is begun. What the machine needs, because it is offered here or wanted, and what somebody has in hand, stays; in a directory the rest stays as long as
//! there is room, and goes oldest first.
//!
//! The lock of what is known here is held for moments: no file is written, read or removed under it. Files are given names and lose them under a lock of their own, which is taken before it.
//!
//! Invariants: what is got from here has the value that its piece has in the tree of its artifact; `free` has what nobody needs, and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use busway_protocol::artifact::{Full, Name, pieces};
use busway_protocol::flow::{Flow, Limits};
use busway_protocol::gossip::Part;
use busway_shm::clock::Deadline;
use busway_shm::fork;
use busway_wire::limits::ARTIFACT_STORE_BYTES_DEFAULT;

use crate::error::{Code, Error, memory};
use crate::ports::lock;
use crate::runtime::Calls;

mod disk;
mod import;
mod lease;

use disk::{Disk, Names, Opened};
pub(crate) use import::{Imported, Room};
pub(crate) use lease::{Lease, Shelf};

/// Pieces of a directory that were read lately: others ask for the same chunk by chunk. 16 MiB where they are largest.
const RECENT_MAX: usize = 64;
/// Files that are open at a time: few of what a process may have, and as many as are read and written at once. Others are opened again when they are needed.
const FILES_MAX: usize = 64;
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

    /// Its place among what nobody needs, if it is of those.
    fn free_since(&self) -> Option<u64> {
        self.is_free().then_some(self.used)
    }

    /// A part is here now.
    fn take(&mut self, part: Part, bytes: Arc<[u8]>) {
        match part {
            Part::Whole => {}
            Part::Tree => self.tree = Some(bytes),
            Part::Piece { index } => {
                if let Some(have) = self.have.get_mut(index as usize) {
                    *have = true;
                }
            }
        }
    }

    /// It has room, and no piece of it is here.
    fn is_promised(&self) -> bool {
        self.needed && self.leases == 0 && !self.have.iter().any(|have| *have)
    }

    fn is_whole(&self) -> bool {
        !self.have.is_empty() && self.have.iter().all(|have| *have)
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
type Recent = ((Name, u32), Arc<[u8]>);

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<Name, Kept>,
    /// What they have taken of the room.
    bytes: u64,
    /// What nobody needs, the oldest first, and how much room it has.
    free: BTreeSet<(u64, Name)>,
    free_bytes: u64,
    /// What is here no more: its files are to be removed, and its memory, without the lock.
    doomed: BTreeSet<Name>,
    trash: Vec<Kept>,
    turn: u64,
    recent: VecDeque<Recent>,
    /// Whose files are open, the longest first.
    open: VecDeque<Name>,
    /// Of these something was damaged, and the machine has not been told.
    lost: BTreeSet<Name>,
    damaged: u64,
    /// Something was given back since the machine looked.
    freed: bool,
    ended: bool,
    calls: Weak<Calls>,
}

impl State {
    /// Changes what is here of an artifact.
    fn with<T>(&mut self, name: Name, change: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        let kept = self.kept.get_mut(&name)?;
        let before = kept.free_since();
        let done = change(kept);
        let after = kept.free_since();
        if before != after {
            let cost = kept.cost();
            self.is_no_more_free(name, before, cost);
            self.is_free(name, after, cost);
        }
        Some(done)
    }

    fn insert(&mut self, name: Name, kept: Kept) {
        self.bytes += kept.cost();
        self.is_free(name, kept.free_since(), kept.cost());
        self.kept.insert(name, kept);
    }

    fn take(&mut self, name: Name) -> Option<Kept> {
        let kept = self.kept.remove(&name)?;
        self.is_no_more_free(name, kept.free_since(), kept.cost());
        self.bytes -= kept.cost();
        Some(kept)
    }

    fn is_free(&mut self, name: Name, since: Option<u64>, cost: u64) {
        if let Some(since) = since {
            self.free.insert((since, name));
            self.free_bytes += cost;
        }
    }

    fn is_no_more_free(&mut self, name: Name, since: Option<u64>, cost: u64) {
        if let Some(since) = since {
            self.free.remove(&(since, name));
            self.free_bytes -= cost;
        }
    }
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
    OnDisk(Arc<[u8]>),
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
                    let (size, used) = (found.name.size, state.turn);
                    state.insert(found.name, Kept { size, used, ..Kept::default() });
                }
                Some(disk)
            }
        };
        let (state, news, bytes_max) = (Mutex::new(state), Condvar::new(), config.bytes_max);
        let store = Store { state, news, disk, bytes_max, forks };
        store.change(|state| store.make_room(state, 0));
        Ok(Arc::new(store))
    }

    /// Whom to wake when something was lost, or there is room.
    pub(crate) fn serve(&self, calls: &Arc<Calls>) {
        lock(&self.state).calls = Arc::downgrade(calls);
    }

    /// Whether something of so many bytes would fit if there were nothing else.
    pub(crate) fn could_hold(&self, size: u64) -> bool {
        cost(size) <= self.bytes_max
    }

    /// Changes what is here, and removes behind that what is here no more.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut lock(&self.state));
        self.clear();
        done
    }

    /// Removes files and memory of what is here no more. Where another thread gives names just now, whoever comes next does it.
    fn clear(&self) {
        let (trash, doomed) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.trash), !state.doomed.is_empty())
        };
        drop(trash);
        if let Some(names) = self.disk.as_ref().filter(|_| doomed).and_then(Disk::try_names) {
            self.remove_files(&names);
        }
    }

    fn remove_files(&self, names: &Names<'_>) {
        loop {
            let doomed = lock(&self.state).doomed.pop_first();
            let Some(name) = doomed else { return };
            names.remove(name);
        }
    }

    /// The disk is full, whatever room there is by our own count: what nobody needs has no right to it.
    fn make_disk_room(&self) {
        let names = self.disk.as_ref().map(Disk::names);
        let mut state = lock(&self.state);
        while let Some((_, name)) = state.free.first().copied() {
            self.remove(&mut state, name);
        }
        drop(state);
        if let Some(names) = names {
            self.remove_files(&names);
        }
        self.clear();
    }

    /// Removes what nobody needs, the oldest first, until there is room for so much. If there cannot be, nothing is removed.
    fn make_room(&self, state: &mut State, bytes: u64) -> bool {
        if state.bytes.saturating_sub(state.free_bytes).saturating_add(bytes) > self.bytes_max && bytes > 0 {
            return false;
        }
        while state.bytes.saturating_add(bytes) > self.bytes_max {
            let Some((_, name)) = state.free.first().copied() else { return false };
            self.remove(state, name);
        }
        true
    }

    /// Makes room for what is offered here, of what was promised some and of which no piece has come: the machine finds none when one does.
    fn revoke(&self, state: &mut State, bytes: u64) -> bool {
        let promised = |kept: &&Kept| kept.is_promised() || kept.is_free();
        let most: u64 = state.kept.values().filter(promised).map(Kept::cost).sum();
        if state.bytes.saturating_sub(most).saturating_add(bytes) > self.bytes_max {
            return false;
        }
        let promised = state.kept.iter().filter(|(_, kept)| kept.is_promised());
        let promised: Vec<Name> = promised.map(|(name, _)| *name).collect();
        for name in promised {
            self.remove(state, name);
            if self.make_room(state, bytes) {
                break;
            }
        }
        true
    }

    fn remove(&self, state: &mut State, name: Name) {
        if let Some(kept) = state.take(name) {
            state.trash.push(kept);
            state.recent.retain(|((of, _), _)| *of != name);
            if self.disk.is_some() {
                state.doomed.insert(name);
            }
        }
    }

    /// Reads what a file has that was found when the store was opened, before it is believed to be here: its marks say what was written, and a machine that lost power may not have written that.
    fn look(&self, name: Name) -> Result<(), Full> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let found = |kept: &Kept| kept.have.is_empty() && kept.is_free();
        if !lock(&self.state).kept.get(&name).is_some_and(found) {
            return Ok(());
        }
        let loaded = disk.load(name);
        let mut state = lock(&self.state);
        let Some(kept) = state.kept.get_mut(&name).filter(|kept| found(kept)) else { return Ok(()) };
        match loaded {
            Ok(Opened { file, tree, have }) => {
                (kept.tree, kept.have) = (Some(tree), have);
                self.keep_open(&mut state, name, &file);
            }
            Err(error) if !disk::is_damage(&error) => {
                tracing::error!(target: "busway::gossip", id = %name.id, "the store cannot be read: {error}");
                return Err(Full);
            }
            Err(error) => {
                tracing::warn!(target: "busway::gossip", id = %name.id, "what is in the store of it is fetched again: {error}");
                self.remove(&mut state, name);
                drop(state);
                self.clear();
            }
        }
        Ok(())
    }

    /// What is there of an artifact; or a new one, if there is room.
    fn begin(&self, state: &mut State, name: Name) -> Result<(), Full> {
        state.turn += 1;
        let (used, size) = (state.turn, name.size);
        if !state.kept.contains_key(&name) {
            if !self.make_room(state, cost(size)) {
                return Err(Full);
            }
            state.insert(name, Kept::new(size));
        }
        state.with(name, |kept| {
            kept.used = used;
            kept.given_up = false;
            if kept.have.is_empty() {
                // Its file was not looked at: all of it comes again.
                kept.have = vec![false; pieces::count(size) as usize];
            }
        });
        Ok(())
    }

    /// Nobody needs what nobody needs: it leaves memory.
    fn settle(&self, state: &mut State, name: Name) {
        let Some(kept) = state.kept.get_mut(&name).filter(|kept| kept.is_free()) else { return };
        // What never came to anything has taken room from nobody who would not find it soon; and if it failed, it would again.
        let whole = kept.is_whole();
        if self.disk.is_some() && kept.tree.is_some() {
            (kept.file, kept.tree, kept.have) = (None, None, Vec::new());
        } else {
            self.remove(state, name);
        }
        if !whole {
            return;
        }
        state.freed = true;
        if let Some(calls) = state.calls.upgrade() {
            calls.wake();
        }
    }

    /// Only the machine puts, so that nobody else writes what is written here without the lock.
    fn put(&self, name: Name, part: Part, bytes: Arc<[u8]>) -> Result<(), Full> {
        let mut state = lock(&self.state);
        let Some(kept) = state.kept.get_mut(&name) else { return Err(Full) };
        if kept.has(part) {
            return Ok(());
        }
        let Some(disk) = &self.disk else {
            if let Part::Piece { index } = part {
                kept.pieces.insert(index, bytes.clone());
            }
            kept.take(part, bytes);
            drop(state);
            self.news.notify_all();
            return Ok(());
        };
        drop(state);
        let mut written = self.write(disk, name, part, &bytes);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            self.make_disk_room();
            written = self.write(disk, name, part, &bytes);
        }
        if let Err(error) = written {
            tracing::error!(target: "busway::gossip", id = %name.id, "the store cannot be written: {error}");
            return Err(Full);
        }
        if let Some(kept) = lock(&self.state).kept.get_mut(&name) {
            kept.take(part, bytes);
        }
        self.news.notify_all();
        Ok(())
    }

    fn write(&self, disk: &Disk, name: Name, part: Part, bytes: &Arc<[u8]>) -> io::Result<()> {
        match part {
            Part::Whole => Err(io::ErrorKind::InvalidInput.into()),
            Part::Tree => {
                let unfinished = disk.create(name, bytes)?;
                let names = disk.names();
                // It may have been offered here meanwhile: then all of it is there.
                if lock(&self.state).kept.get(&name).is_some_and(|kept| kept.tree.is_some()) {
                    return Ok(());
                }
                let file = Arc::new(names.keep(unfinished, name)?);
                let mut state = lock(&self.state);
                state.doomed.remove(&name);
                self.keep_open(&mut state, name, &file);
                if let Some(kept) = state.kept.get_mut(&name) {
                    kept.take(part, bytes.clone());
                }
                Ok(())
            }
            Part::Piece { index } => disk::write_piece(&*self.file(disk, name)?, name.size, index, bytes),
        }
    }

    /// The file of an artifact, opened again if it is not open. No more than `FILES_MAX` stay open.
    fn file(&self, disk: &Disk, name: Name) -> io::Result<Arc<File>> {
        if let Some(file) = lock(&self.state).kept.get(&name).and_then(|kept| kept.file.clone()) {
            return Ok(file);
        }
        let file = Arc::new(disk.reopen(name)?);
        self.keep_open(&mut lock(&self.state), name, &file);
        Ok(file)
    }

    fn keep_open(&self, state: &mut State, name: Name, file: &Arc<File>) {
        let Some(kept) = state.kept.get_mut(&name) else { return };
        kept.file = Some(file.clone());
        state.open.push_back(name);
        while state.open.len() > FILES_MAX {
            let first = state.open.pop_front();
            if let Some(kept) = first.and_then(|first| state.kept.get_mut(&first)) {
                kept.file = None;
            }
        }
    }

    /// A piece, as it is here.
    fn piece(state: &State, name: Name, index: u32) -> Piece {
        let Some(kept) = state.kept.get(&name) else { return Piece::GivenUp };
        if !kept.has(Part::Piece { index }) {
            return if kept.given_up || !kept.needed { Piece::GivenUp } else { Piece::Missing };
        }
        if let Some(piece) = kept.pieces.get(&index) {
            return Piece::Here(piece.clone());
        }
        if let Some((_, piece)) = state.recent.iter().find(|(key, _)| *key == (name, index)) {
            return Piece::Here(piece.clone());
        }
        match &kept.tree {
            Some(tree) => Piece::OnDisk(tree.clone()),
            None => Piece::GivenUp,
        }
    }

    /// Reads a piece of which it is said that it is on the disk; nothing if it is damaged.
    fn fetch(&self, name: Name, index: u32, tree: &[u8]) -> Option<Arc<[u8]>> {
        let disk = self.disk.as_ref()?;
        let read = self.file(disk, name).and_then(|file| disk::read_piece(&file, name.size, index, tree));
        let mut state = lock(&self.state);
        match read {
            Ok(piece) => {
                if state.recent.iter().any(|(key, _)| *key == (name, index)) {
                    return Some(piece);
                }
                if state.recent.len() >= RECENT_MAX {
                    state.recent.pop_front();
                }
                state.recent.push_back(((name, index), piece.clone()));
                Some(piece)
            }
            Err(error) => {
                let file = self.damage(&mut state, name, index, &error);
                drop(state);
                if let Some(file) = file
                    && let Err(error) = disk::unmark(&file, name.size, index)
                {
                    // Each is looked at again when the node starts.
                    tracing::warn!(target: "busway::gossip", id = %name.id, index, "its mark cannot be written: {error}");
                }
                None
            }
        }
    }

    /// A piece is not what it should be; the file that is to say so.
    fn damage(&self, state: &mut State, name: Name, index: u32, error: &io::Error) -> Option<Arc<File>> {
        let ended = state.ended;
        let kept = state.kept.get_mut(&name)?;
        let have = kept.have.get_mut(index as usize).filter(|have| **have)?;
        *have = false;
        let file = kept.file.clone().filter(|_| !ended);
        tracing::warn!(target: "busway::gossip", id = %name.id, index, "a piece in the store is damaged: {error}");
        state.damaged += 1;
        state.lost.insert(name);
        if let Some(calls) = state.calls.upgrade() {
            calls.wake();
        }
        file
    }

    /// A piece for who has it in hand. Waits until it has come, or comes again, where it is to.
    fn read(&self, name: Name, index: u32, deadline: Deadline) -> Result<Arc<[u8]>, Error> {
        let mut state = lock(&self.state);
        loop {
            match Store::piece(&state, name, index) {
                Piece::Here(piece) => return Ok(piece),
                Piece::OnDisk(tree) => {
                    drop(state);
                    if let Some(piece) = self.fetch(name, index, &tree) {
                        return Ok(piece);
                    }
                    state = lock(&self.state);
                }
                Piece::GivenUp => {
                    return Err(Error::new(Code::BytesLost, format!("piece {index} is not here"))
                        .at(format!("artifact {}", name.id))
                        .remedy("fetch it again while somebody offers it"));
                }
                Piece::Missing if state.ended => return Err(crate::runtime::ended()),
                Piece::Missing => {
                    let left = deadline.remaining();
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(Error::new(Code::TimedOut, format!("piece {index} has not come"))
                            .at(format!("artifact {}", name.id))
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

    /// Pieces that are given soon: they are read before anybody's lock is held.
    pub(crate) fn warm(&self, parts: impl Iterator<Item = (Name, Part)>) {
        for (name, part) in parts {
            let Part::Piece { index } = part else { continue };
            let found = Store::piece(&lock(&self.state), name, index);
            if let Piece::OnDisk(tree) = found {
                self.fetch(name, index, &tree);
            }
        }
    }

    /// Of which artifacts something was damaged since this was last asked; whether something was given back.
    pub(crate) fn take_news(&self) -> (BTreeSet<Name>, bool) {
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
    pub(crate) fn give_up(&self, name: Name) {
        if let Some(kept) = lock(&self.state).kept.get_mut(&name) {
            kept.given_up = true;
        }
        self.news.notify_all();
    }

    /// The node ends: nothing comes any more, and what is here can be read.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.news.notify_all();
        if let Some(disk) = &self.disk {
            let names = disk.names();
            self.remove_files(&names);
            names.end();
        }
    }

    fn is_inherited(&self) -> bool {
        fork::forked_since(self.forks)
    }
}

#[cfg(test)]
mod tests;
