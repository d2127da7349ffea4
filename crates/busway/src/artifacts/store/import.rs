//! What this host offers comes into the store: read once, by the thread that offers it.
//!
//! Its name is known when all was read, so it lies without one until then. It takes its room before.
//!
//! Invariant: what has a name here was read to its end.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use busway_protocol::artifact::{Name, pieces};
use busway_protocol::gossip::ArtifactId;
use busway_wire::limits::{ARTIFACT_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX};

use crate::artifacts::store::disk::{Unfinished, first_piece};
use crate::artifacts::store::{Lease, Store, cost};
use crate::error::{Code, Error};
use crate::ports::lock;

/// What was read.
#[derive(Debug)]
pub(crate) enum Imported {
    /// It is small, and needs no store.
    Small(Arc<[u8]>),
    /// It lies in the store.
    Stored(Lease),
}

/// Room that is taken and not used yet.
struct Reserved<'a> {
    store: &'a Store,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        lock(&self.store.state).bytes -= self.bytes;
    }
}

impl Store {
    /// Reads all that there is, of which the size is not known before.
    pub(crate) fn import(self: &Arc<Self>, mut from: impl Read) -> Result<Imported, Error> {
        let mut first = Vec::new();
        let most = ARTIFACT_WHOLE_BYTES_MAX + 1;
        (&mut from).take(most).read_to_end(&mut first).map_err(|error| unreadable(&error))?;
        if (first.len() as u64) < most {
            return Ok(Imported::Small(first.into()));
        }
        let most = ARTIFACT_BYTES_MAX.min(self.bytes_max).saturating_add(1);
        let rest = from.take(most - first.len() as u64);
        let mut all = io::Cursor::new(first).chain(rest);
        match &self.disk {
            None => {
                let mut body = Vec::new();
                all.read_to_end(&mut body).map_err(|error| unreadable(&error))?;
                let size = body.len() as u64;
                self.import_sized(&mut &body[..], size)
            }
            Some(disk) => {
                let mut spool = disk.unfinished().map_err(|error| unusable(&error))?;
                let size = io::copy(&mut all, &mut spool.file).map_err(|error| unreadable(&error))?;
                self.import_sized(&mut At { file: &spool.file, offset: 0 }, size)
            }
        }
    }

    /// Reads so many bytes.
    pub(crate) fn import_sized(self: &Arc<Self>, from: &mut dyn Read, size: u64) -> Result<Imported, Error> {
        if size > ARTIFACT_BYTES_MAX {
            let cause = format!("an artifact of {size} bytes, at most {ARTIFACT_BYTES_MAX} are allowed");
            let error = Error::new(Code::TooLarge, cause).at("the artifacts of this node");
            return Err(error.remedy("send it in parts, each an artifact"));
        }
        if size <= ARTIFACT_WHOLE_BYTES_MAX {
            let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
            from.read_exact(&mut body).map_err(|error| unreadable(&error))?;
            return Ok(Imported::Small(body.into()));
        }
        let reserved = self.reserve(size)?;
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
                    let written = file.write_all_at(&piece, first_piece(size) + offset);
                    written.map_err(|error| unusable(&error))?;
                }
                None => kept.push(Arc::<[u8]>::from(piece)),
            }
        }
        let id = pieces::root(&tree, size).ok_or_else(|| unreadable(&ErrorKind::UnexpectedEof.into()))?;
        drop(reserved);
        self.adopt(Name { id, size }, tree.into(), kept, unfinished)
    }

    fn reserve(&self, size: u64) -> Result<Reserved<'_>, Error> {
        let mut state = lock(&self.state);
        if !self.make_room(&mut state, cost(size)) {
            return Err(self.full(size));
        }
        state.bytes += cost(size);
        Ok(Reserved { store: self, bytes: cost(size) })
    }

    pub(super) fn full(&self, size: u64) -> Error {
        let cause = format!("the store of {} bytes has no room for {size}", self.bytes_max);
        Error::new(Code::Full, cause)
            .at("the artifacts of this node")
            .remedy("withdraw what is not needed any more, or set artifacts.store_bytes")
    }

    /// All of it was read.
    fn adopt(
        self: &Arc<Self>,
        name: Name,
        tree: Arc<[u8]>,
        all: Vec<Arc<[u8]>>,
        unfinished: Option<Unfinished>,
    ) -> Result<Imported, Error> {
        let mut state = lock(&self.state);
        self.begin(&mut state, name).map_err(|_| self.full(name.size))?;
        if let (Some(disk), Some(unfinished)) = (&self.disk, unfinished) {
            match disk.finish(unfinished, name, &tree) {
                Ok(file) => self.keep_open(&mut state, name, &Arc::new(file)),
                Err(error) => {
                    self.settle(&mut state, name);
                    drop(state);
                    return Err(unusable(&error));
                }
            }
        }
        let kept = state.kept.get_mut(&name).expect("it was begun");
        kept.pieces = (0..).zip(all).collect();
        kept.have = vec![true; pieces::count(name.size) as usize];
        kept.tree = Some(tree);
        kept.leases += 1;
        drop(state);
        self.news.notify_all();
        Ok(Imported::Stored(Lease { store: self.clone(), name }))
    }
}

impl Lease {
    pub(crate) fn id(&self) -> ArtifactId {
        self.name.id
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
