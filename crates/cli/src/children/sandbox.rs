//! A directory for the processes of one bench or tour.
//!
//! Its maker keeps it locked, so whoever gets the lock knows that the maker is gone, in whichever namespace of process
//! ids it lived: what was killed is swept by the next that makes a directory. It does not know what lies inside.
//!
//! Invariant: nothing is removed but directories of our own user, of our own names, that nobody has locked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::clock;
use crate::exit::{CommandCode, Exit, Failure};

/// What a sandbox can be for: the middle of its name.
const KINDS: [&str; 2] = ["bench", "tour"];

/// Names looked at when sweeping: a directory for temporary files may be anybody's attic.
const NAMES_MAX: usize = 100_000;

/// A new directory may be swept before it is locked; three in a row are not.
const TRIES: u32 = 3;

/// A directory of our own, removed when dropped.
#[derive(Debug)]
pub(crate) struct Sandbox {
    path: PathBuf,
    /// Locked as long as we live.
    _lock: File,
}

impl Sandbox {
    pub(crate) fn new(what: &str) -> Result<Self, Failure> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        // The clock beside the pid: a directory left by a killed process of the same pid is in nobody's way.
        let name = || format!("busway-{what}-{}-{:x}", std::process::id(), clock::now_ns());
        let mut made = Err(io::Error::from(io::ErrorKind::NotFound));
        for _ in 0..TRIES {
            let path = parent.join(name());
            made = make(&path).map(|lock| Self { path, _lock: lock });
            match &made {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        made.map_err(|error| {
            Failure::new(
                CommandCode::Stream,
                format!("cannot make a directory: {error}"),
                parent.display().to_string(),
                "set TMPDIR to a directory that you may write",
            )
            .ending(Exit::Unreachable)
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // It lies in the directory for temporary files; what cannot be removed now is swept by the next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes the directory and locks it; `NotFound` where somebody swept it between the two.
fn make(path: &Path) -> io::Result<File> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    let lock = open(path)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    fs::symlink_metadata(path).map(|_| lock)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Removes what makers that are gone have left. Nothing of it is worth a failure.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.take(NAMES_MAX).flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            sweep_one(&entry.path());
        }
    }
}

fn sweep_one(path: &Path) {
    let Ok(lock) = open(path) else { return };
    let uid = rustix::process::geteuid().as_raw();
    let own = lock.metadata().is_ok_and(|found| found.uid() == uid);
    if own && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        // Still locked while it is removed: nobody begins to use it meanwhile.
        let _ = fs::remove_dir_all(path);
    }
}

/// `busway-KIND-PID-TIME`.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("busway-") else { return false };
    let mut parts = rest.split('-');
    let (kind, pid, time) = (parts.next(), parts.next(), parts.next());
    let decimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    kind.is_some_and(|kind| KINDS.contains(&kind))
        && pid.is_some_and(decimal)
        && time.is_some_and(hexadecimal)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_names_that_we_give_are_swept() {
        assert!(is_ours("busway-tour-17-1af") && is_ours("busway-bench-1-0"));
        for other in
            ["busway-1000", "busway-tour-17", "busway-test-17-1af", "busway-tour-17-1af-x", "busway-tour--1"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }
}
