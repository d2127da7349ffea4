//! Artifacts in plain files: one for each, named by its id, as FORMAT.md says.
//!
//! A piece is written, and then its mark; both go to the kernel's memory and no further: nothing is synced. What a killed process wrote is there when it starts again, and that
//! the machine lost power is found when a piece is read, since each is checked against its value then, and fetched again. A sync for each piece would cost more than to fetch
//! it. So a write takes as long as copying does; only where the disk is behind by as much as the kernel allows it waits, and who gives the bytes waits with it.
//!
//! What is in the directory and is not of this form is left alone. It knows no quota, and who needs what.
//!
//! Invariant: nothing of a file is believed that does not follow from its name.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busway_protocol::artifact::pieces;
use busway_wire::gossip::ArtifactId;

use crate::error::{Code, Error};

const MAGIC: [u8; 8] = *b"BUSWAYAF";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 64;
const ENDING: &str = ".artifact";
const UNFINISHED: &str = "unfinished-";
const MARK: u8 = 1;

/// A directory of them, which this process has alone.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    _lock: File,
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: ArtifactId,
    pub(super) size: u64,
    /// When it was last written, or begun to be used: seconds and nanoseconds of the file's clock.
    pub(super) used: (i64, i64),
}

/// One that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) tree: Arc<[u8]>,
    pub(super) have: Vec<bool>,
}

/// One that is not named yet.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    pub(super) file: File,
    kept: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is when the store is opened again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Disk {
    /// Opens a directory, which is made where it is not there, and says what is in it.
    pub(super) fn open(directory: &Path) -> Result<(Disk, Vec<Found>), Error> {
        let failed = |error: io::Error, tried: &str| {
            Error::new(Code::StoreUnusable, format!("{tried}: {error}"))
                .at(format!("the store {}", directory.display()))
                .remedy("name a directory that this user may read and write")
        };
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed(error, "it cannot be made"));
            }
            Ok(()) | Err(_) => {}
        }
        let lock = options().create(true).truncate(false).open(directory.join("lock"));
        let lock = lock.map_err(|error| failed(error, "its lock cannot be opened"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error, "it cannot be locked")),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Code::StoreUnusable, "another node has this store")
                    .at(format!("the store {}", directory.display()))
                    .remedy("give each node a directory of its own"));
            }
        }
        let disk = Disk { directory: directory.to_owned(), _lock: lock };
        let found = disk.found().map_err(|error| failed(error, "it cannot be read"))?;
        Ok((disk, found))
    }

    fn found(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(UNFINISHED) {
                // Nobody else is here who could need it.
                let _ = std::fs::remove_file(entry.path());
                continue;
            }
            let Some(id) = name.strip_suffix(ENDING).and_then(|name| name.parse().ok()) else { continue };
            match self.head_of(id) {
                Ok((size, used)) => found.push(Found { id, size, used }),
                Err(error) => {
                    tracing::warn!(target: "busway::gossip", "{} is left alone: {error}", entry.path().display());
                }
            }
        }
        Ok(found)
    }

    fn head_of(&self, id: ArtifactId) -> io::Result<(u64, (i64, i64))> {
        let file = options().open(self.path(id))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(damaged());
        }
        Ok((read_head(&file, id)?, (metadata.mtime(), metadata.mtime_nsec())))
    }

    fn path(&self, id: ArtifactId) -> PathBuf {
        self.directory.join(format!("{id}{ENDING}"))
    }

    /// Opens what is there of an artifact of so many bytes.
    pub(super) fn load(&self, id: ArtifactId, size: u64) -> io::Result<Opened> {
        let file = options().open(self.path(id))?;
        if !file.metadata()?.is_file() || read_head(&file, id)? != size {
            return Err(damaged());
        }
        let count = pieces::count(size) as usize;
        let mut tree = vec![0; count * pieces::VALUE_BYTES];
        file.read_exact_at(&mut tree, HEAD_BYTES)?;
        if pieces::root(&tree, size) != Some(id) {
            return Err(damaged());
        }
        let mut marks = vec![0; count];
        file.read_exact_at(&mut marks, HEAD_BYTES + tree.len() as u64)?;
        // It is used, and others are older: the same again is a change to the file's clock.
        file.write_all_at(&MAGIC, 0)?;
        let have = marks.into_iter().map(|mark| mark == MARK).collect();
        Ok(Opened { file: Arc::new(file), tree: tree.into(), have })
    }

    /// Makes the file of an artifact of which nothing but the values of its pieces is here.
    pub(super) fn create(&self, id: ArtifactId, size: u64, tree: &[u8]) -> io::Result<File> {
        let unfinished = self.unfinished()?;
        let marks = vec![0; pieces::count(size) as usize];
        write_head(&unfinished.file, (id, size), tree, &marks)?;
        self.keep(unfinished, id)
    }

    /// Names a file of which all is there.
    pub(super) fn finish(
        &self,
        unfinished: Unfinished,
        (id, size): (ArtifactId, u64),
        tree: &[u8],
    ) -> io::Result<File> {
        let marks = vec![MARK; pieces::count(size) as usize];
        write_head(&unfinished.file, (id, size), tree, &marks)?;
        self.keep(unfinished, id)
    }

    fn keep(&self, mut unfinished: Unfinished, id: ArtifactId) -> io::Result<File> {
        std::fs::rename(&unfinished.path, self.path(id))?;
        unfinished.kept = true;
        unfinished.file.try_clone()
    }

    /// A file without a name that anybody looks for.
    pub(super) fn unfinished(&self) -> io::Result<Unfinished> {
        let random = crate::bus::Core::new_port().map_err(|error| io::Error::other(error.to_string()))?.0;
        let path = self.directory.join(format!("{UNFINISHED}{random:016x}"));
        let file = options().create_new(true).open(&path)?;
        Ok(Unfinished { path, file, kept: false })
    }

    pub(super) fn remove(&self, id: ArtifactId) {
        if let Err(error) = std::fs::remove_file(self.path(id))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(target: "busway::gossip", "an artifact cannot be removed: {error}");
        }
    }
}

/// Where the first piece lies.
pub(super) fn first_piece(size: u64) -> u64 {
    let count = u64::from(pieces::count(size));
    (HEAD_BYTES + count * (pieces::VALUE_BYTES as u64 + 1)).next_multiple_of(4_096)
}

/// Writes a piece, and then that it is there.
pub(super) fn write_piece(file: &File, size: u64, index: u32, bytes: &[u8]) -> io::Result<()> {
    let (offset, _) = pieces::place(size, index).ok_or_else(damaged)?;
    file.write_all_at(bytes, first_piece(size) + offset)?;
    mark(file, size, index, MARK)
}

/// Says that a piece is not there.
pub(super) fn unmark(file: &File, size: u64, index: u32) -> io::Result<()> {
    mark(file, size, index, 0)
}

fn mark(file: &File, size: u64, index: u32, mark: u8) -> io::Result<()> {
    let marks = HEAD_BYTES + u64::from(pieces::count(size)) * pieces::VALUE_BYTES as u64;
    file.write_all_at(&[mark], marks + u64::from(index))
}

/// Reads a piece and checks it.
pub(super) fn read_piece(file: &File, size: u64, index: u32, tree: &[u8]) -> io::Result<Arc<[u8]>> {
    let (offset, bytes) = pieces::place(size, index).ok_or_else(damaged)?;
    let mut piece = vec![0; usize::try_from(bytes).map_err(|_| damaged())?];
    file.read_exact_at(&mut piece, first_piece(size) + offset)?;
    let value = tree.as_chunks::<{ pieces::VALUE_BYTES }>().0.get(index as usize);
    if value != Some(&pieces::value(offset, &piece)) {
        return Err(damaged());
    }
    Ok(piece.into())
}

fn write_head(file: &File, (id, size): (ArtifactId, u64), tree: &[u8], marks: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(64 + tree.len() + marks.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&size.to_le_bytes());
    head.extend_from_slice(&id.0);
    head.extend_from_slice(&[0; 8]);
    head.extend_from_slice(tree);
    head.extend_from_slice(marks);
    file.write_all_at(&head, 0)
}

/// The size of the artifact, if the file is of this one.
fn read_head(file: &File, id: ArtifactId) -> io::Result<u64> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    let version: [u8; 4] = head[8..12].try_into().expect("four bytes");
    let size = u64::from_le_bytes(head[16..24].try_into().expect("eight bytes"));
    let sound = head[..8] == MAGIC && head[12..16] == [0; 4] && head[24..56] == id.0 && head[56..] == [0; 8];
    let parted = pieces::count(size) > 1;
    if sound && parted && u32::from_le_bytes(version) == VERSION { Ok(size) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is not what it should be")
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Neither a link nor a pipe that somebody put there.
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}
