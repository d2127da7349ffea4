//! A node that the programs of a host have in common: one of them carries it, and when that one ends another does.
//!
//! Programs that are configured alike show one identity, and an identity is of one process at a time: two that had it would
//! take each other's links for ever. So who carries has the lock of a file beside the socket of the domain, named after the
//! cluster and the identity; the kernel frees it with the holder's death. The others look at it a few times a second. They
//! need no link of their own: what crosses the one is in the domain. It knows no second directory, and so no second host.
//!
//! Invariant: a node is open here only while we have its lock.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_protocol::PeerId;
use busway_shm::fork::{self, PrivateFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::bus::Bus;
use crate::error::{Code, Error, memory, system};
use crate::node::{Node, NodeBuilder, PeerView};
use crate::ports::lock;

/// Between two looks of who waits: an idle process may wake four times a second, and late joiners wait a second.
const PAUSE: Duration = Duration::from_millis(250);
/// A file that was removed between opening and locking it is opened again: by then who removed it has ended.
const TRIES: usize = 16;

/// A share in a node that one process of a domain carries at a time. Made by [`NodeBuilder::open_shared`]; dropping it closes
/// the links, if it is this process that carries them.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// use busway::{Bus, Node};
/// let bus = Bus::open("example-of-a-shared-node")?;
/// let builder = Node::builder().client(7).peer(0, "127.0.0.1:4420");
/// let first = builder.clone().open_shared(&bus)?;
/// let second = builder.open_shared(&bus)?;
/// assert_eq!((first.carries(), second.carries()), (true, false));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SharedNode {
    shared: Arc<Shared>,
    /// Waits for the lock; ends once it has it.
    waits: Option<JoinHandle<()>>,
    bus: Bus,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    carried: Option<Carried>,
    ended: bool,
}

/// The node ends before another may have its identity.
#[derive(Debug)]
struct Carried {
    node: Node,
    _lock: Lock,
}

impl NodeBuilder {
    /// As [`NodeBuilder::open`], by one process at a time of those that open it with the same cluster and identity in one
    /// domain: the first carries it, and when that one ends or dies another does, within half a second. What all of them
    /// publish and subscribe crosses its links. The other settings are those of who carries.
    ///
    /// # Errors
    /// As [`NodeBuilder::open`], of what can be known before it carries; [`Code::LockUnusable`] where no file can be locked
    /// in the directory of the domain.
    pub fn open_shared(self, bus: &Bus) -> Result<SharedNode, Error> {
        self.clone().config()?;
        let path = self.lock_path(bus);
        let shared = Arc::new(Shared::default());
        if let Some(held) = Lock::try_take(&path)? {
            let node = self.open(bus)?;
            lock(&shared.state).carried = Some(Carried { node, _lock: held });
            return Ok(SharedNode { shared, waits: None, bus: bus.clone() });
        }
        let (theirs, of) = (shared.clone(), bus.clone());
        let waits = std::thread::Builder::new()
            .name("bw-share".to_owned())
            .spawn(move || wait(&theirs, &self, &of, &path))
            .map_err(|error| {
                Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                    .at("bw-share")
                    .remedy("raise the limit on processes: ulimit -u")
            })?;
        Ok(SharedNode { shared, waits: Some(waits), bus: bus.clone() })
    }

    fn lock_path(&self, bus: &Bus) -> PathBuf {
        let who = match self.identity {
            PeerId::Node { index } => format!("node-{index}"),
            PeerId::Client { id } => format!("client-{id:016x}"),
        };
        // No domain's socket or lock ends so.
        let name = format!("{}.{:016x}-{who}.share", bus.domain(), busway_wire::cluster_id(&self.cluster));
        bus.socket_path().with_file_name(name)
    }
}

/// Waits until nobody else carries, and carries then.
fn wait(shared: &Shared, builder: &NodeBuilder, bus: &Bus, path: &Path) {
    let mut told = false;
    loop {
        let going = lock(&shared.state);
        let going = shared.changed.wait_timeout_while(going, PAUSE, |state| !state.ended);
        if going.unwrap_or_else(PoisonError::into_inner).0.ended || bus.is_closed() {
            return;
        }
        let opened = Lock::try_take(path).and_then(|held| {
            held.map(|held| Ok(Carried { node: builder.clone().open(bus)?, _lock: held })).transpose()
        });
        match opened {
            Ok(None) => {}
            Ok(Some(carried)) => {
                tracing::info!(target: "busway::link", "who carried the links has ended: this process does");
                let mut state = lock(&shared.state);
                if !state.ended {
                    state.carried = Some(carried);
                }
                return;
            }
            Err(error) => {
                if !told {
                    tracing::warn!(target: "busway::link", "the links cannot be taken over: {error}");
                }
                told = true;
            }
        }
    }
}

impl SharedNode {
    /// Whether it is this process that carries the links.
    #[must_use]
    pub fn carries(&self) -> bool {
        lock(&self.shared.state).carried.is_some()
    }

    /// Every peer that is configured or connected, where this process carries the links; else none.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        lock(&self.shared.state).carried.as_ref().map(|carried| carried.node.peers()).unwrap_or_default()
    }

    /// Gives the share up. Links that this process carries end in order, as by [`Node::close`].
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for SharedNode {
    fn drop(&mut self) {
        if self.bus.is_inherited() {
            // The threads are the parent's, and so are its locks, whatever state they were copied in.
            std::mem::forget(self.shared.clone());
            std::mem::forget(self.waits.take());
            return;
        }
        let carried = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            state.carried.take()
        };
        self.shared.changed.notify_all();
        drop(carried);
        if let Some(thread) = self.waits.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The lock of a file, which is there only as long as somebody has it.
#[derive(Debug)]
struct Lock {
    // A child made by fork must not keep it.
    _fd: PrivateFd,
    path: PathBuf,
    generation: u64,
}

impl Lock {
    /// The lock, if nobody has it.
    fn try_take(path: &Path) -> Result<Option<Lock>, Error> {
        let refuse = |errno: Errno| {
            system(errno, "cannot lock the file of a node that is shared", Code::LockUnusable)
                .at(path.display().to_string())
        };
        for _ in 0..TRIES {
            let fd = open(path).map_err(refuse)?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(refuse(errno)),
            }
            let ours = rustix::fs::fstat(&fd).map_err(refuse)?;
            // Who had it before may have removed it after we opened it.
            let Ok(there) = rustix::fs::lstat(path) else { continue };
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) {
                let failed = |error| memory(&error, &path.display().to_string());
                let generation = fork::generation().map_err(failed)?;
                let fd = PrivateFd::new(fd).map_err(failed)?;
                return Ok(Some(Lock { _fd: fd, path: path.to_owned(), generation }));
            }
        }
        Ok(None)
    }
}

/// With the rights of its directory: others of a group may have it too.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let directory = rustix::fs::stat(path.parent().unwrap_or(Path::new("/")))?;
    let mode = Mode::from_raw_mode(directory.st_mode & 0o660);
    // NONBLOCK: a named pipe in its place must not stop us.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, mode)?;
    let found = rustix::fs::fstat(&fd)?;
    if found.st_uid == rustix::process::geteuid().as_raw() && found.st_mode & 0o777 != mode.as_raw_mode() {
        // The umask took the group's rights from the file that we have just made.
        rustix::fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !fork::forked_since(self.generation) {
            // While we have it, so that nobody has the lock of a file that is gone without seeing that.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}
