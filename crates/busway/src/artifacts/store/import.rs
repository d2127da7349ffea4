//! What this host offers comes into the store: read once, by the thread that offers it.
//!
//! Its name is known when all was read, so it lies without one until then. It takes its room before.
//!
//! Invariant: what has a name here was read to its end.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use busway_protocol::artifact::{Full, Name, TopicHash, pieces};
use busway_wire::limits::{ARTIFACT_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX};

use crate::artifacts::store::disk::{self, Unfinished, first_piece};
use crate::artifacts::store::{Lease, State, Store, cost};
use crate::error::{Code, Error};
use crate::ports::lock;

/// So much of what comes takes its room at once, where its size is not known.
const STEP_BYTES: u64 = 1 << 20;

/// What was read.
#[derive(Debug)]
pub(crate) enum Imported {
    /// It is small, and needs no store.
    Small(Arc<[u8]>),
    /// It lies in the store.
    Stored(Lease),
}

/// Room that is taken and not used yet.
#[derive(Debug)]
pub(crate) struct Room {
    store: Arc<Store>,
    bytes: u64,
}

impl Room {
    /// There is to be room for so much in all.
    fn grow(&mut self, size: u64) -> Result<(), Error> {
        if size > ARTIFACT_BYTES_MAX {
            let cause = format!("an artifact of {size} bytes, at most {ARTIFACT_BYTES_MAX} are allowed");
            let error = Error::new(Code::TooLarge, cause).at("the artifacts of this node");
            return Err(error.remedy("send it in parts, each an artifact"));
        }
        let more = cost(size).saturating_sub(self.bytes);
        if size <= ARTIFACT_WHOLE_BYTES_MAX || more == 0 {
            return Ok(());
        }
        self.store.change(|state| {
            if state.ended {
                return Err(crate::runtime::ended());
            }
            if !self.store.make_room(state, more) && !self.store.revoke(state, more) {
                return Err(self.store.full(size));
            }
            state.bytes += more;
            Ok(())
        })?;
        self.bytes += more;
        Ok(())
    }

    /// It is taken by something else now.
    fn give_back(&mut self, state: &mut State) {
        state.bytes -= std::mem::take(&mut self.bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.store.is_inherited() {
            self.give_back(&mut lock(&self.store.clone().state));
        }
    }
}

impl Store {
    /// Reads all that there is, of which the size is not known before.
    pub(crate) fn import(self: &Arc<Self>, topic: TopicHash, mut from: impl Read) -> Result<Imported, Error> {
        let mut first = Vec::new();
        let most = ARTIFACT_WHOLE_BYTES_MAX + 1;
        (&mut from).take(most).read_to_end(&mut first).map_err(|error| unreadable(&error))?;
        if (first.len() as u64) < most {
            return Ok(Imported::Small(first.into()));
        }
        // What comes takes its room as it comes: several that say nothing of their size have no more than there is.
        let mut room = self.room(0)?;
        let mut spool = self.disk.as_ref().map(|disk| disk.unfinished()).transpose();
        let spool = spool.as_mut().map_err(|error| unusable(error))?;
        let (mut body, mut part, mut size) = (Vec::new(), first, 0);
        while !part.is_empty() {
            size += part.len() as u64;
            room.grow(size)?;
            match spool {
                Some(spool) => self.write_all_at(&spool.file, &part, size - part.len() as u64)?,
                None => body.extend_from_slice(&part),
            }
            part.clear();
            (&mut from).take(STEP_BYTES).read_to_end(&mut part).map_err(|error| unreadable(&error))?;
        }
        match spool {
            Some(spool) => self.import_into(topic, &mut At { file: &spool.file, offset: 0 }, size, room),
            None => self.import_into(topic, &mut &body[..], size, room),
        }
    }

    /// Room for an artifact of this size, which may grow.
    pub(crate) fn room(self: &Arc<Self>, size: u64) -> Result<Room, Error> {
        let mut room = Room { store: self.clone(), bytes: 0 };
        room.grow(size)?;
        Ok(room)
    }

    /// Reads so many bytes.
    pub(crate) fn import_sized(
        self: &Arc<Self>,
        topic: TopicHash,
        from: &mut dyn Read,
        size: u64,
    ) -> Result<Imported, Error> {
        self.import_into(topic, from, size, self.room(size)?)
    }

    /// Reads so many bytes, for which there is room.
    pub(crate) fn import_into(
        self: &Arc<Self>,
        topic: TopicHash,
        from: &mut dyn Read,
        size: u64,
        room: Room,
    ) -> Result<Imported, Error> {
        if size <= ARTIFACT_WHOLE_BYTES_MAX {
            let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
            from.read_exact(&mut body).map_err(|error| unreadable(&error))?;
            return Ok(Imported::Small(body.into()));
        }
        let unfinished = self.disk.as_ref().map(|disk| disk.unfinished()).transpose();
        let unfinished = unfinished.map_err(|error| unusable(&error))?;
        let (mut tree, mut kept) = (Vec::new(), Vec::new());
        for index in 0..pieces::count(size) {
            let Some((offset, bytes)) = pieces::place(size, index) else { break };
            let mut piece = vec![0; usize::try_from(bytes).unwrap_or_default()];
            from.read_exact(&mut piece).map_err(|error| unreadable(&error))?;
            tree.extend_from_slice(&pieces::value(offset, &piece));
            match &unfinished {
                Some(Unfinished { file, .. }) => {
                    self.write_all_at(file, &piece, first_piece(size) + offset)?;
                }
                None => kept.push(Arc::<[u8]>::from(piece)),
            }
        }
        let id = pieces::root(&tree, size).ok_or_else(|| unreadable(&ErrorKind::UnexpectedEof.into()))?;
        self.adopt(room, Name { id, size, topic }, tree.into(), kept, unfinished)
    }

    /// Writes into a file that has no name yet. On a disk that is full what nobody needs makes room.
    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let written = file.write_all_at(bytes, offset);
        let full = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull);
        if full {
            self.make_disk_room();
        }
        let written = if full { file.write_all_at(bytes, offset) } else { written };
        written.map_err(|error| unusable(&error))
    }

    /// Nobody else uses the store while `run` does what it does.
    #[cfg(test)]
    pub(crate) fn while_held_up<T>(&self, run: impl FnOnce() -> T) -> T {
        let _state = lock(&self.state);
        run()
    }

    pub(super) fn full(&self, size: u64) -> Error {
        let cause = format!("the store of {} bytes has no room for {size}", self.bytes_max);
        Error::new(Code::Full, cause)
            .at("the artifacts of this node")
            .remedy("withdraw what is not needed any more, or set artifacts.store_bytes")
    }

    /// All of it was read, and there is room for it.
    fn adopt(
        self: &Arc<Self>,
        mut room: Room,
        name: Name,
        tree: Arc<[u8]>,
        all: Vec<Arc<[u8]>>,
        unfinished: Option<Unfinished>,
    ) -> Result<Imported, Error> {
        if let Some(unfinished) = &unfinished {
            disk::finish(unfinished, name, &tree).map_err(|error| unusable(&error))?;
        }
        // From here on it is in hand.
        let begun = self.change(|state| {
            room.give_back(state);
            self.begin(state, name)?;
            state.with(name, |kept| kept.leases += 1);
            Ok(())
        });
        begun.map_err(|Full| self.full(name.size))?;
        let lease = Lease::of(self, name);
        let names = self.disk.as_ref().map(|disk| disk.names());
        let file = match names.as_ref().zip(unfinished) {
            Some((names, unfinished)) => {
                Some(names.keep(unfinished, name).map_err(|error| unusable(&error))?)
            }
            None => None,
        };
        let mut state = lock(&self.state);
        state.doomed.remove(&name);
        state.with(name, |kept| {
            kept.pieces = (0..).zip(all).collect();
            kept.have = vec![true; pieces::count(name.size) as usize];
            kept.tree = Some(tree);
        });
        if let Some(file) = file {
            self.keep_open(&mut state, name, &Arc::new(file));
        }
        drop(state);
        drop(names);
        self.clear();
        self.news.notify_all();
        Ok(Imported::Stored(lease))
    }
}

/// A file, read from its begin.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::new(Code::StoreUnusable, format!("what is to be offered cannot be read: {error}"))
        .at("the artifacts of this node")
        .remedy("see that it can be read, and is not changed meanwhile")
}

fn unusable(error: &io::Error) -> Error {
    Error::new(Code::StoreUnusable, format!("it cannot be written: {error}"))
        .at("the store of this node")
        .remedy("see that its disk has room and is sound")
}
