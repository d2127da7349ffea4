//! The lock of a domain: who holds its rendezvous, and what the others are told about it.
//!
//! `flock` on `NAME.lock` decides; the kernel frees it with the holder's death. The file's text (pid, name, and how
//! many others have joined) is for error messages, and tells the next holder for how many it may wait a moment; it
//! never decides who holds. The file is never removed, so that two processes never lock two files of one name.
//!
//! Invariant: the text is written under the lock only.

use crate::directory::{Directory, DomainName};
use crate::error::{Code, Error, memory, system};
use busway_shm::fork::PrivateFd;
use busway_wire::limits::PROCESS_NAME_BYTES_MAX;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use std::path::PathBuf;

/// The text is one line and a name; what is longer was not written by us.
const NOTE_BYTES_MAX: usize = 64 + 4 * PROCESS_NAME_BYTES_MAX;

/// What a holder says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) pid: u32,
    pub(super) name: String,
    /// Members beside the holder: they know its domain segment, and one of them would take over.
    pub(super) members: usize,
}

impl Note {
    /// How errors and logs name a holder.
    pub(super) fn shown(&self) -> String {
        format!("`{}` (pid {})", self.name.escape_debug(), self.pid)
    }

    fn write(&self) -> String {
        format!("{} {} {}\n", self.pid, self.members, self.name)
    }

    /// Anything else than what `write` makes is no note: half-written, or somebody else's.
    fn read(text: &str) -> Option<Note> {
        let mut words = text.strip_suffix('\n')?.splitn(3, ' ');
        let (pid, members) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Note { pid, members, name: words.next()?.to_owned() })
    }
}

/// The open lock file of one member.
#[derive(Debug)]
pub(super) struct LockFile {
    // A child made by fork must not keep the lock.
    fd: PrivateFd,
    path: PathBuf,
}

impl LockFile {
    pub(super) fn open(directory: &Directory, domain: &DomainName) -> Result<LockFile, Error> {
        let (file, mode) = (domain.lock(), directory.file_mode());
        let path = directory.path_of(&file);
        let refuse = |errno: Errno| {
            let error = system(errno, "cannot open the lock of the domain", Code::LockUnusable)
                .at(path.display().to_string());
            // Where a limit refused, the remedy for the limit stands there already.
            match error.code() {
                Code::LockUnusable => {
                    error.remedy("remove the file if it is not ours, or use another domain")
                }
                _ => error,
            }
        };
        // NONBLOCK: a named pipe in its place must not stop us.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(directory, &file, flags, mode).map_err(refuse)?;
        let stat = rustix::fs::fstat(&fd).map_err(refuse)?;
        if stat.st_mode & 0o170_000 != 0o100_000 {
            return Err(Error::new(Code::LockUnusable, "the lock of the domain is not a regular file")
                .at(path.display().to_string())
                .remedy("remove it"));
        }
        if stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o777 != mode.as_raw_mode() {
            // The umask took the group's rights from the file that we have just made.
            rustix::fs::fchmod(&fd, mode).map_err(refuse)?;
        }
        let fd = PrivateFd::new(fd).map_err(|error| memory(&error, &path.display().to_string()))?;
        Ok(LockFile { fd, path })
    }

    /// Takes the lock if nobody has it.
    pub(super) fn try_take(&self) -> Result<bool, Error> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(system(errno, "cannot lock the domain", Code::LockUnusable)
                .at(self.path.display().to_string())
                .remedy("use a directory on a local file system")),
        }
    }

    /// Says who holds. It is only told, so a full disk is no error.
    pub(super) fn describe(&self, note: &Note) {
        let text = note.write();
        // Writing past `ulimit -f` is a deadly signal.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < text.len() as u64) {
            return;
        }
        if rustix::io::pwrite(&self.fd, text.as_bytes(), 0).is_ok() {
            let _ = rustix::fs::ftruncate(&self.fd, text.len() as u64);
        }
    }

    /// What the holder, or the last one, said.
    pub(super) fn note(&self) -> Option<Note> {
        let mut text = [0; NOTE_BYTES_MAX];
        let size = rustix::io::pread(&self.fd, &mut text, 0).ok()?;
        Note::read(std::str::from_utf8(text.get(..size)?).ok()?)
    }

    /// Empties the text: the last one leaves nothing but the empty lock.
    pub(super) fn clear(&self) {
        let _ = rustix::fs::ftruncate(&self.fd, 0);
    }

    /// Lets go; no error is possible for a lock that we have, and none matters for one that we do not have.
    pub(super) fn release(&self) {
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::{LockFile, Note};
    use crate::control::scratch::Scratch;
    use crate::directory::{Directory, DomainName, Realm};
    use crate::error::Code;

    fn note(name: &str) -> Note {
        Note { pid: 7, name: name.to_owned(), members: 3 }
    }

    #[test]
    fn one_lock_has_one_owner_and_its_note_is_read_by_others() {
        let scratch = Scratch::new();
        let directory = Directory::open(&scratch.path().join("run"), Realm::User).unwrap();
        let domain = DomainName::new("d").unwrap();
        let (ours, theirs) =
            (LockFile::open(&directory, &domain).unwrap(), LockFile::open(&directory, &domain).unwrap());
        assert_eq!(theirs.note(), None, "a new lock says nothing");
        assert!(ours.try_take().unwrap());
        assert!(!theirs.try_take().unwrap(), "there is one owner");
        ours.describe(&note("a long name with spaces"));
        ours.describe(&note("short"));
        assert_eq!(theirs.note(), Some(note("short")));
        ours.clear();
        ours.release();
        assert_eq!(theirs.note(), None);
        assert!(theirs.try_take().unwrap(), "what is let go can be taken");
    }

    #[test]
    fn what_is_no_note_is_not_believed() {
        for text in ["", "\n", "7 3 x", "x 3 y\n", "7 many y\n", "-1 3 y\n", "7 -3 y\n", "7 3\n"] {
            assert_eq!(Note::read(text), None, "{text:?}");
        }
        assert_eq!(Note::read(&note("a b").write()), Some(note("a b")));
    }

    #[test]
    fn a_link_or_a_pipe_in_place_of_the_lock_is_refused() {
        let scratch = Scratch::new();
        let directory = Directory::open(&scratch.path().join("run"), Realm::User).unwrap();
        let (link, pipe) = (DomainName::new("link").unwrap(), DomainName::new("pipe").unwrap());
        std::os::unix::fs::symlink("/etc/passwd", directory.path_of(&link.lock())).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&directory, pipe.lock(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for domain in [link, pipe] {
            let error = LockFile::open(&directory, &domain).expect_err("it must be refused");
            assert_eq!(error.code(), Code::LockUnusable, "{error}");
        }
    }
}
