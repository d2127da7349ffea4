//! An artifact in the hands of a program: a small one with its bytes, a large one where it lies in the store, which keeps it as long as somebody has it in hand.
//!
//! Invariant: what is read is checked: by the store, or here where another process gives it, all of it when it was read to its end.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::artifact::pieces;
use busway_protocol::gossip::{self, ArtifactId};
use busway_shm::clock::Deadline;
use busway_wire::limits::ARTIFACT_IN_MEMORY_BYTES_MAX;

use crate::artifacts::Advert;
use crate::bus::forked;
use crate::error::{Code, Error};
use crate::runtime::{Body, Calls};

/// How long a read waits for what was damaged in the store, while it is fetched again.
const AGAIN: Duration = Duration::from_secs(30);

/// An artifact, all of it here.
#[derive(Clone, Debug)]
pub struct Artifact {
    advert: Advert,
    body: Body,
    calls: Arc<Calls>,
}

/// An artifact that comes. Its bytes can be read as they are here, in order.
#[derive(Clone, Debug)]
pub struct Arriving {
    advert: Advert,
    body: Body,
    calls: Arc<Calls>,
}

/// Reads an artifact. See [`Artifact::reader`] and [`Arriving::reader`].
#[derive(Clone, Debug)]
pub struct Reader {
    body: Body,
    calls: Arc<Calls>,
    id: ArtifactId,
    at: u64,
    patience: Duration,
    /// What was read, as long as that was all from the begin on, and another process said it.
    proof: Option<Proof>,
}

/// Follows what is read in order, to know at the end whether it is what its name says.
#[derive(Clone, Debug, Default)]
struct Proof {
    piece: Vec<u8>,
    tree: Vec<u8>,
    index: u32,
}

impl Proof {
    /// These are the next bytes of an artifact of this size.
    fn read(&mut self, size: u64, mut bytes: &[u8]) {
        while let Some((offset, len)) = pieces::place(size, self.index).filter(|_| !bytes.is_empty()) {
            let more = usize::try_from(len).unwrap_or(usize::MAX).saturating_sub(self.piece.len());
            let (of_it, rest) = bytes.split_at(more.min(bytes.len()));
            self.piece.extend_from_slice(of_it);
            bytes = rest;
            if self.piece.len() as u64 == len {
                self.tree.extend_from_slice(&pieces::value(offset, &self.piece));
                self.piece.clear();
                self.index += 1;
            }
        }
    }
}

impl Reader {
    fn new(body: &Body, calls: &Arc<Calls>, advert: &Advert, patience: Duration) -> Self {
        // Small ones were checked when they came.
        let proof = matches!(body, Body::Away(_)).then(Proof::default);
        Self { body: body.clone(), calls: calls.clone(), id: advert.id(), at: 0, patience, proof }
    }

    /// Reads on; none at the end.
    fn take_up(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let deadline = Deadline::after(self.patience);
        let count = match &self.body {
            Body::Here(_) => read_at(&self.body, &self.calls, self.at, buf, deadline)?,
            // What is here is given before the next is waited for.
            Body::Stored(lease) => lease.read_at(self.at, buf, deadline)?,
            Body::Away(held) => held.read_at(self.at, buf, deadline)?,
        };
        let size = self.body.size();
        if count == 0 && self.at < size && !buf.is_empty() {
            return Err(another(self.id));
        }
        let at = self.at + count as u64;
        if let Some(proof) = &mut self.proof {
            proof.read(size, buf.get(..count).unwrap_or_default());
            if at >= size && count > 0 && pieces::root(&proof.tree, size) != Some(self.id) {
                return Err(another(self.id));
            }
        }
        self.at = at;
        Ok(count)
    }
}

/// What was given is not what its name says.
fn another(id: ArtifactId) -> Error {
    Error::new(Code::BytesLost, "what was given is another artifact than its name says, or a part of it")
        .at(format!("artifact {id}"))
        .remedy("see which processes of this host answer on $artifacts: busway ls")
}

impl Artifact {
    pub(crate) fn new(advert: gossip::Advert, body: Body, calls: &Arc<Calls>) -> Self {
        Self { advert: Advert::new(advert), body, calls: calls.clone() }
    }

    /// What it is.
    #[must_use]
    pub fn advert(&self) -> &Advert {
        &self.advert
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.advert.size()
    }

    /// Reads from there into `buf`, and says how much: all of `buf`, or less at the end of the artifact. What is found damaged in the store is fetched again.
    ///
    /// # Errors
    /// [`Code::BytesLost`] where it was damaged, and nobody offers it any more; [`Code::TimedOut`] where it does not come again within 30 s; [`Code::Closed`] where the node has
    /// ended meanwhile; [`Code::Forked`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        read_at(&self.body, &self.calls, offset, buf, Deadline::after(AGAIN))
    }

    /// All of its bytes, at most 256 MiB of them. Those of one of at most 256 KiB are shared, and not copied.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for a larger one: read it with [`Artifact::reader`]; else as [`Artifact::read_at`].
    pub fn bytes(&self) -> Result<Arc<[u8]>, Error> {
        if let Body::Here(bytes) = &self.body {
            return Ok(bytes.clone());
        }
        if self.size() > ARTIFACT_IN_MEMORY_BYTES_MAX {
            return Err(Error::new(Code::TooLarge, format!("it has {} bytes", self.size()))
                .at(format!("artifact {}", self.advert.id()))
                .remedy("read it in parts: Artifact::read_at, Artifact::reader, Artifact::save"));
        }
        let mut bytes = vec![0; usize::try_from(self.size()).unwrap_or_default()];
        let count = self.read_at(0, &mut bytes)?;
        // The store has checked its own; what another process says is checked here.
        let told = matches!(self.body, Body::Away(_));
        if count < bytes.len() || told && ArtifactId::of(&bytes) != self.advert.id() {
            return Err(another(self.advert.id()));
        }
        Ok(bytes.into())
    }

    /// Reads it from its begin, or from where it is told to. What [`Artifact::read_at`] says is inside the errors of it.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(&self.body, &self.calls, &self.advert, AGAIN)
    }

    /// Writes it into a file, which is there when all of it is: it is written beside it and renamed.
    ///
    /// # Errors
    /// [`Code::StoreUnusable`] where that cannot be written; else as [`Artifact::read_at`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |error: io::Error| {
            Error::new(Code::StoreUnusable, format!("it cannot be written: {error}"))
                .at(path.display().to_string())
                .remedy("name a file in a directory that this user may write, with room for it")
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let random = crate::bus::Core::new_port()?.0;
        let beside = directory.unwrap_or_else(|| Path::new("."));
        let beside = beside.join(format!(".{}.{random:016x}", name.to_string_lossy()));
        let written = self.write_to(&beside, &failed);
        let renamed = written.and_then(|()| std::fs::rename(&beside, path).map_err(failed));
        if renamed.is_err() {
            // What cannot be removed is told by the error already.
            let _ = std::fs::remove_file(&beside);
        }
        renamed
    }

    fn write_to(&self, path: &Path, failed: &impl Fn(io::Error) -> Error) -> Result<(), Error> {
        let mut file = std::fs::File::create_new(path).map_err(failed)?;
        let (mut reader, mut part) = (self.reader(), vec![0; 256 << 10]);
        loop {
            let count = reader.take_up(&mut part)?;
            if count == 0 {
                return file.sync_all().map_err(failed);
            }
            file.write_all(part.get(..count).unwrap_or_default()).map_err(failed)?;
        }
    }
}

impl PartialEq for Artifact {
    fn eq(&self, other: &Self) -> bool {
        self.advert == other.advert
    }
}

impl Eq for Artifact {}

impl Arriving {
    pub(crate) fn new(advert: gossip::Advert, body: Body, calls: &Arc<Calls>) -> Self {
        Self { advert: Advert::new(advert), body, calls: calls.clone() }
    }

    /// What it is.
    #[must_use]
    pub fn advert(&self) -> &Advert {
        &self.advert
    }

    /// Reads it from its begin while it comes. A read waits for the next byte, at most for `patience`, and is [`io::ErrorKind::TimedOut`] then; it may be tried again. It fails
    /// with [`Code::BytesLost`] inside where the artifact is not offered any more, and that byte is not here.
    #[must_use]
    pub fn reader(&self, patience: Duration) -> Reader {
        Reader::new(&self.body, &self.calls, &self.advert, patience)
    }
}

impl PartialEq for Arriving {
    fn eq(&self, other: &Self) -> bool {
        self.advert == other.advert
    }
}

impl Eq for Arriving {}

impl Reader {
    /// A read waits so long for what is not here: the next byte of what comes, or what was damaged in the store.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Reader {
        Reader { patience, ..self }
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.take_up(buf).map_err(|error| match error.code() {
            Code::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error),
            _ => io::Error::other(error),
        })
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.body.size(), by),
            SeekFrom::Current(by) => (self.at, by),
        };
        let at = from.checked_add_signed(by);
        let at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the begin"))?;
        if at != self.at {
            // It is not read in order; from the begin it can be again.
            self.proof = (at == 0 && matches!(self.body, Body::Away(_))).then(Proof::default);
        }
        self.at = at;
        Ok(self.at)
    }
}

fn read_at(
    body: &Body,
    calls: &Calls,
    offset: u64,
    buf: &mut [u8],
    deadline: Deadline,
) -> Result<usize, Error> {
    if calls.is_inherited() {
        return Err(forked());
    }
    match body {
        Body::Here(bytes) => {
            let from = usize::try_from(offset).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
            let count = from.len().min(buf.len());
            buf[..count].copy_from_slice(&from[..count]);
            Ok(count)
        }
        Body::Stored(lease) => {
            fill(buf, |read, buf| lease.read_at(offset.saturating_add(read), buf, deadline))
        }
        Body::Away(held) => fill(buf, |read, buf| held.read_at(offset.saturating_add(read), buf, deadline)),
    }
}

/// Reads, after so many bytes at a time, until all of `buf` is read or there is no more.
fn fill(
    buf: &mut [u8],
    mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, Error>,
) -> Result<usize, Error> {
    let mut read = 0;
    while read < buf.len() {
        match read_at(read as u64, &mut buf[read..])? {
            0 => break,
            count => read += count,
        }
    }
    Ok(read)
}
