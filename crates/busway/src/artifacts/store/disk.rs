//! Artifacts in plain files: one for each, named by its id and its topic, as FORMAT.md says.
//!
//! A piece is written, and then its mark; both go to the kernel's memory and no further: nothing is synced. What a killed process wrote is there when it starts again; where the
//! machine lost power it may not be, so each piece that is marked is read and checked once before it counts as here. A sync for each piece would cost more than to fetch it. So
//! a write takes as long as copying does; only where the disk is behind by as much as the kernel allows it waits, and artifacts wait with it, but no message.
//!
//! What is in the directory and is not of this form is left alone. It knows no quota, and who needs what.
//!
//! Invariant: nothing of a file is believed that does not follow from its name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use busway_protocol::artifact::{Name, TopicHash, pieces};
use busway_shm::fork::{self, PrivateFd};

use crate::error::{Code, Error, memory};
use crate::ports::lock;

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
    /// The lock of the directory, until the node ends; a child made by `fork` does not have it. Who has this gives names and takes them.
    names: Mutex<Option<Locks>>,
    forks: u64,
}

/// The locks of its file, and of the directory itself where there can be one: who removes the file lets nobody else in.
type Locks = (PrivateFd, Option<PrivateFd>);

/// Files are given names and lose them by who has this.
#[derive(Debug)]
pub(super) struct Names<'a> {
    disk: &'a Disk,
    lock: MutexGuard<'a, Option<Locks>>,
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: Name,
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
    forks: u64,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // In a child it is its parent's.
        if !self.kept && !fork::forked_since(self.forks) {
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
        let metadata =
            std::fs::metadata(directory).map_err(|error| failed(error, "it cannot be looked at"))?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if metadata.is_dir() && !(own && metadata.mode() & 0o022 == 0) {
            return Err(Error::new(Code::StoreUnusable, "others may write there, or it is not ours")
                .at(format!("the store {}", directory.display()))
                .remedy("name a directory of this user, of mode 0700"));
        }
        let whole = File::open(directory).and_then(try_lock);
        let lock = options().create(true).truncate(false).open(directory.join("lock")).and_then(try_lock);
        let lock = lock.map_err(|error| failed(error, "it cannot be locked"))?;
        // Not every file system locks a directory.
        let free = !matches!(whole, Ok(None));
        let Some(lock) = lock.filter(|_| free) else {
            return Err(Error::new(Code::StoreUnusable, "another node has this store")
                .at(format!("the store {}", directory.display()))
                .remedy("give each node a directory of its own"));
        };
        let failing = |error| memory(&error, "the artifacts of this node");
        let forks = fork::generation().map_err(failing)?;
        let private = |file: File| PrivateFd::new(file.into()).map_err(failing);
        let locks = (private(lock)?, whole.ok().flatten().map(private).transpose()?);
        let disk = Disk { directory: directory.to_owned(), names: Mutex::new(Some(locks)), forks };
        let found = disk.found().map_err(|error| failed(error, "it cannot be read"))?;
        Ok((disk, found))
    }

    fn found(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if is_unfinished(name) {
                // Nobody else is here who could need it.
                if entry.file_type()?.is_file() {
                    let _ = std::fs::remove_file(entry.path());
                }
                continue;
            }
            let Some(name) = name_of(name) else { continue };
            match self.head_of(name) {
                Ok(used) => found.push(Found { name, used }),
                Err(error) => {
                    tracing::warn!(target: "busway::gossip", "{} is left alone: {error}", entry.path().display());
                }
            }
        }
        Ok(found)
    }

    fn head_of(&self, name: Name) -> io::Result<(i64, i64)> {
        let file = options().open(self.path(name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(damaged());
        }
        read_tree(&file, name)?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }

    fn path(&self, name: Name) -> PathBuf {
        self.directory.join(file_name(name))
    }

    /// Opens what is there of an artifact.
    pub(super) fn load(&self, name: Name) -> io::Result<Opened> {
        let file = options().open(self.path(name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(damaged());
        }
        let tree = read_tree(&file, name)?;
        let mut marks = vec![0; pieces::count(name.size) as usize];
        file.read_exact_at(&mut marks, HEAD_BYTES + tree.len() as u64)?;
        // It is used, and others are older: the same again is a change to the file's clock.
        file.write_all_at(&MAGIC, 0)?;
        // A mark may have come to the disk before its piece.
        let sound =
            |(index, mark): (u32, &u8)| *mark == MARK && read_piece(&file, name.size, index, &tree).is_ok();
        let have = (0..).zip(&marks).map(sound).collect();
        Ok(Opened { file: Arc::new(file), tree, have })
    }

    /// Opens again what was open before. What is read of it is checked in any case.
    pub(super) fn reopen(&self, name: Name) -> io::Result<File> {
        options().open(self.path(name))
    }

    /// Makes the file of an artifact of which nothing but the values of its pieces is here. It has no name yet.
    pub(super) fn create(&self, name: Name, tree: &[u8]) -> io::Result<Unfinished> {
        let unfinished = self.unfinished()?;
        let marks = vec![0; pieces::count(name.size) as usize];
        write_head(&unfinished.file, name, tree, &marks)?;
        Ok(unfinished)
    }

    /// Who has this gives names and takes them: the lock of the store is taken behind it, never before.
    pub(super) fn names(&self) -> Names<'_> {
        Names { disk: self, lock: lock(&self.names) }
    }

    /// The same, if nobody has it.
    pub(super) fn try_names(&self) -> Option<Names<'_>> {
        let lock = match self.names.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Names { disk: self, lock })
    }

    /// A file without a name that anybody looks for.
    pub(super) fn unfinished(&self) -> io::Result<Unfinished> {
        let random = crate::bus::Core::new_port().map_err(|error| io::Error::other(error.to_string()))?.0;
        let path = self.directory.join(format!("{UNFINISHED}{random:016x}"));
        let file = options().create_new(true).open(&path)?;
        Ok(Unfinished { path, file, kept: false, forks: self.forks })
    }
}

impl Names<'_> {
    /// Gives a file its name, unless the directory is another's by now.
    pub(super) fn keep(&self, mut unfinished: Unfinished, name: Name) -> io::Result<File> {
        if self.lock.is_none() {
            return Err(io::Error::other("the node has ended"));
        }
        std::fs::rename(&unfinished.path, self.disk.path(name))?;
        unfinished.kept = true;
        unfinished.file.try_clone()
    }

    pub(super) fn remove(&self, name: Name) {
        if self.lock.is_some()
            && let Err(error) = std::fs::remove_file(self.disk.path(name))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(target: "busway::gossip", "an artifact cannot be removed: {error}");
        }
    }

    /// The node has ended: another may have the directory.
    pub(super) fn end(mut self) {
        *self.lock = None;
    }
}

/// The file with its lock, if nobody else has that.
fn try_lock(file: File) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Says in a file of which all is there what it is.
pub(super) fn finish(unfinished: &Unfinished, name: Name, tree: &[u8]) -> io::Result<()> {
    let marks = vec![MARK; pieces::count(name.size) as usize];
    write_head(&unfinished.file, name, tree, &marks)
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

fn write_head(file: &File, name: Name, tree: &[u8], marks: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(64 + tree.len() + marks.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&name.size.to_le_bytes());
    head.extend_from_slice(&name.id.0);
    head.extend_from_slice(&[0; 8]);
    head.extend_from_slice(tree);
    head.extend_from_slice(marks);
    file.write_all_at(&head, 0)
}

/// The values of the pieces, if the file is of this artifact.
fn read_tree(file: &File, name: Name) -> io::Result<Arc<[u8]>> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    let sound = head[..8] == MAGIC && head[8..12] == VERSION.to_le_bytes() && head[12..16] == [0; 4];
    if !sound || head[16..24] != name.size.to_le_bytes() || head[24..56] != name.id.0 || head[56..] != [0; 8]
    {
        return Err(damaged());
    }
    let mut tree = vec![0; pieces::count(name.size) as usize * pieces::VALUE_BYTES];
    file.read_exact_at(&mut tree, HEAD_BYTES)?;
    if pieces::root(&tree, name.size) != Some(name.id) {
        return Err(damaged());
    }
    Ok(tree.into())
}

/// The name of the file of an artifact: digits alone, whatever its topic is.
pub(super) fn file_name(name: Name) -> String {
    format!("{}-{}-{}{ENDING}", name.id, name.size, name.topic)
}

/// What a file of this name has: its id, its size and its topic, written as they are, and in no other way.
fn name_of(file: &str) -> Option<Name> {
    let mut parts = file.strip_suffix(ENDING)?.splitn(3, '-');
    let (id, size, topic) = (parts.next()?, parts.next()?, parts.next()?);
    let name = Name { id: id.parse().ok()?, size: size.parse().ok()?, topic: TopicHash::of_digits(topic)? };
    (file_name(name) == file && pieces::count(name.size) > 0).then_some(name)
}

/// Whether a file of this name is one of ours that was not finished.
fn is_unfinished(file: &str) -> bool {
    let digits = file.strip_prefix(UNFINISHED).unwrap_or_default();
    digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a file is not there, or not what it should be; else it may be another time.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
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
