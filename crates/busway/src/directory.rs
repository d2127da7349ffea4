//! The runtime directory, where the processes of a domain find each other, and the realm that may enter it.
//!
//! The directory is opened once, without following a link, and every later step goes through that descriptor:
//! what was checked is what is used, whatever happens to the path meanwhile, and a path longer than a socket
//! address (108 bytes) works as well, because the address is `/proc/self/fd/N/NAME.sock`.
//!
//! It knows the names of the files and not what is in them: the lock is `control::lock`'s, the socket
//! `control::holder`'s. It makes the last component of the path only, never its parents.
//!
//! Invariant: a `Directory` exists only if its owner, mode and kind are what the realm asks for.

use crate::error::{Code, Error, system};
use busway_shm::sys::credentials;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest socket address that the kernel takes, with its closing NUL.
const ADDRESS_BYTES_MAX: usize = 108;

/// Who may join a bus and read its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Realm {
    /// Processes of our own user: the directory is 0700 and ours.
    #[default]
    User,
    /// Processes of every user in this group, by its number: the directory is 2770 of that group.
    Group(u32),
}

impl Realm {
    /// The realm of a group by its name in `/etc/group`, or by its number.
    ///
    /// # Errors
    ///
    /// `BUS-0210` if there is no such group.
    pub fn group(name: &str) -> Result<Realm, Error> {
        if let Ok(gid) = name.parse::<u32>() {
            return Ok(Realm::Group(gid));
        }
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        groups
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| *found == name)
            .find_map(|(_, rest)| rest.split(':').nth(1)?.parse().ok())
            .map(Realm::Group)
            .ok_or_else(|| {
                Error::new(Code::RealmUnknown, format!("no group is called `{}`", name.escape_debug()))
                    .at("/etc/group")
                    .remedy("name a group that exists, or give its number")
            })
    }
}

/// The name of a domain: 1-64 bytes of `A-Z a-z 0-9 . _ -`, not beginning with a dot, so that it is always one
/// visible file name and never a way out of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DomainName(String);

impl DomainName {
    pub(crate) fn new(name: &str) -> Result<DomainName, Error> {
        match busway_wire::check_domain_name(name) {
            Ok(()) => Ok(DomainName(name.to_owned())),
            Err(refusal) => {
                // At most 80 characters of a name that may be a megabyte.
                let shown: String = name.chars().take(80).collect();
                Err(Error::new(Code::BadDomain, format!("the name of a domain is refused: {refusal}"))
                    .at(format!("domain `{}`", shown.escape_debug()))
                    .remedy("use 1 to 64 letters, digits, `.`, `_` or `-`, and no dot first"))
            }
        }
    }

    /// The socket where the holder of the rendezvous listens.
    pub(crate) fn socket(&self) -> String {
        format!("{}.sock", self.0)
    }

    /// The lock that says who holds the rendezvous.
    pub(crate) fn lock(&self) -> String {
        format!("{}.lock", self.0)
    }

    /// Where a holder binds before it renames: no domain's socket or lock ends so, and only the owner of the lock uses it.
    pub(crate) fn socket_new(&self) -> String {
        format!("{}.sock.new", self.0)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An open runtime directory that has passed every check.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    realm: Realm,
}

impl Directory {
    /// `$BUSWAY_DIR`, else `$XDG_RUNTIME_DIR/busway`, else `/tmp/busway-UID`. An empty variable counts as unset.
    pub(crate) fn default_path() -> PathBuf {
        choose(env::var_os("BUSWAY_DIR"), env::var_os("XDG_RUNTIME_DIR"), rustix::process::geteuid().as_raw())
    }

    /// Opens the directory, making it first if it is not there, and checks it.
    pub(crate) fn open(path: &Path, realm: Realm) -> Result<Directory, Error> {
        // A closing slash would make the kernel follow a link in the last component.
        let path: PathBuf = path.components().collect();
        let fd = match open_directory(&path) {
            Err(Errno::NOENT) => {
                create(&path, realm)?;
                open_directory(&path)
            }
            opened => opened,
        }
        .map_err(|errno| refuse_open(errno, &path))?;
        let directory = Directory { path, fd, realm };
        directory.check()?;
        Ok(directory)
    }

    pub(crate) fn realm(&self) -> Realm {
        self.realm
    }

    /// What a person calls a file of this directory.
    pub(crate) fn path_of(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// What the kernel is told: the same file through our descriptor, short whatever the path's length.
    pub(crate) fn address_of(&self, file: &str) -> Result<PathBuf, Error> {
        let through = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        if rustix::fs::access(&through, rustix::fs::Access::EXISTS).is_ok() {
            return Ok(through.join(file));
        }
        // Without /proc only the path itself is left, and it has to fit.
        let plain = self.path_of(file);
        if plain.as_os_str().len() < ADDRESS_BYTES_MAX {
            return Ok(plain);
        }
        Err(Error::new(Code::SocketUnusable, "the path of the socket is too long and /proc is not mounted")
            .at(plain.display().to_string())
            .remedy("mount /proc, or set BUSWAY_DIR to a shorter path"))
    }

    /// The mode of the files in the directory: the group's realm lets the group in, ours nobody.
    pub(crate) fn file_mode(&self) -> Mode {
        match self.realm {
            Realm::User => Mode::from_raw_mode(0o600),
            Realm::Group(_) => Mode::from_raw_mode(0o660),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| system(errno, "fstat", Code::DirectoryUnusable).at(self.shown()))?;
        let mode = stat.st_mode & 0o7777;
        match self.realm {
            Realm::User => {
                let uid = rustix::process::geteuid().as_raw();
                if stat.st_uid != uid {
                    return Err(Error::new(
                        Code::DirectoryOwner,
                        format!("the runtime directory belongs to uid {}, not to us ({uid})", stat.st_uid),
                    )
                    .at(self.shown())
                    .remedy(match mode {
                        0o2770 => for_group(stat.st_gid),
                        _ => "remove it, or set BUSWAY_DIR to a directory of your own".to_owned(),
                    }));
                }
                if mode == 0o2770 {
                    return Err(self.refuse_mode(mode, "0700", "chmod 0700").remedy(for_group(stat.st_gid)));
                }
                // The set-group bit, inherited from a parent, gives nobody anything where the group has no rights.
                if mode & !0o2000 != 0o700 {
                    return Err(self.refuse_mode(mode, "0700", "chmod 0700"));
                }
            }
            Realm::Group(gid) => {
                if stat.st_gid != gid {
                    return Err(Error::new(
                        Code::DirectoryOwner,
                        format!(
                            "the runtime directory belongs to group {}, the realm is group {gid}",
                            stat.st_gid
                        ),
                    )
                    .at(self.shown())
                    .remedy(format!("chgrp {gid} {}", self.path.display())));
                }
                if mode != 0o2770 {
                    return Err(self.refuse_mode(mode, "2770", "chmod 2770"));
                }
            }
        }
        Ok(())
    }

    fn refuse_mode(&self, mode: u32, wanted: &str, command: &str) -> Error {
        Error::new(
            Code::DirectoryMode,
            format!("the runtime directory has mode {mode:04o}, it must be {wanted}"),
        )
        .at(self.shown())
        .remedy(format!("{command} {}", self.path.display()))
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The user at the other end of a local socket, if the kernel says so: for the door of a node.
pub fn peer_uid(socket: impl AsFd) -> Option<u32> {
    credentials::of(socket).ok().map(|peer| peer.uid)
}

/// What to do about a directory that was made for a group.
fn for_group(gid: u32) -> String {
    format!(
        "join the realm of its group (--realm {gid}, Realm::Group({gid})), or set BUSWAY_DIR to a directory of your own"
    )
}

fn choose(own: Option<OsString>, runtime: Option<OsString>, uid: u32) -> PathBuf {
    if let Some(path) = own.filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    // The XDG specification tells readers to ignore a relative path.
    match runtime.map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => path.join("busway"),
        None => PathBuf::from(format!("/tmp/busway-{uid}")),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn refuse_open(errno: Errno, path: &Path) -> Error {
    let at = path.display().to_string();
    match errno {
        // With O_DIRECTORY a link is reported as ENOTDIR; without, as ELOOP. Which of the two it is, lstat knows.
        Errno::NOTDIR | Errno::LOOP => {
            let link = rustix::fs::lstat(path).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o120_000);
            let cause = if link { "is a symbolic link" } else { "is not a directory" };
            Error::new(Code::DirectoryKind, format!("the runtime directory {cause}"))
                .at(at)
                .remedy("remove it, or set BUSWAY_DIR to a directory of your own")
        }
        Errno::ACCESS => Error::new(Code::DirectoryMode, "the runtime directory is closed to us")
            .at(at)
            .remedy("ask its owner, or set BUSWAY_DIR to a directory of your own"),
        other => system(other, "cannot open the runtime directory", Code::DirectoryUnusable)
            .at(at)
            .remedy("set BUSWAY_DIR to a directory that can be made"),
    }
}

/// Makes the directory; somebody else making it first is no error, the checks that follow judge theirs.
fn create(path: &Path, realm: Realm) -> Result<(), Error> {
    let refuse = |errno: Errno| match errno {
        Errno::NOENT => {
            Error::new(Code::DirectoryUnusable, "the parent of the runtime directory does not exist")
                .at(path.display().to_string())
                .remedy("make it with mkdir, or set BUSWAY_DIR to another directory")
        }
        other => system(other, "cannot make the runtime directory", Code::DirectoryUnusable)
            .at(path.display().to_string())
            .remedy("set BUSWAY_DIR to a directory that can be made"),
    };
    match realm {
        Realm::User => match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(refuse(errno)),
        },
        Realm::Group(gid) => create_for_group(path, gid).map_err(refuse),
    }
}

/// mkdir obeys the umask and cannot name a group, so the directory is finished under another name and then renamed:
/// nobody ever opens a half-made one. The other name may be somebody's in another pid namespace, too: then one of the two
/// finds it renamed.
fn create_for_group(path: &Path, gid: u32) -> Result<(), Errno> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", rustix::process::getpid().as_raw_nonzero()));
    match rustix::fs::mkdir(&new, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let finish = || {
        let fd = open_directory(Path::new(&new))?;
        rustix::fs::fchown(&fd, None, Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o2770))?;
        let here = rustix::fs::CWD;
        rustix::fs::renameat_with(here, &new, here, path, RenameFlags::NOREPLACE)
    };
    let finished = finish();
    if finished.is_err() {
        let _ = rustix::fs::unlinkat(rustix::fs::CWD, &new, AtFlags::REMOVEDIR);
    }
    match finished {
        Err(Errno::EXIST | Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
