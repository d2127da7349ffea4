//! An artifact in the hands of a program: a small one with its bytes, a large one where it lies in the store, which keeps it as long as somebody has it in hand.
//!
//! Invariant: what is read is checked.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip;
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
    at: u64,
    patience: Duration,
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
        self.read_at(0, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads it from its begin, or from where it is told to. What [`Artifact::read_at`] says is inside the errors of it.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { body: self.body.clone(), calls: self.calls.clone(), at: 0, patience: AGAIN }
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
        let (mut at, mut part) = (0, vec![0; 256 << 10]);
        while at < self.size() {
            let count = self.read_at(at, &mut part)?;
            file.write_all(part.get(..count).unwrap_or_default()).map_err(failed)?;
            at += count as u64;
        }
        file.sync_all().map_err(failed)
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
        Reader { body: self.body.clone(), calls: self.calls.clone(), at: 0, patience }
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
        let deadline = Deadline::after(self.patience);
        let read = match &self.body {
            Body::Here(_) => read_at(&self.body, &self.calls, self.at, buf, deadline),
            // What is here is given before the next is waited for.
            Body::Stored(lease) => lease.read_at(self.at, buf, deadline),
            Body::Away(held) => held.read_at(self.at, buf, deadline),
        };
        let count = read.map_err(|error| match error.code() {
            Code::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error),
            _ => io::Error::other(error),
        })?;
        self.at += count as u64;
        Ok(count)
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
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the begin"))?;
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
