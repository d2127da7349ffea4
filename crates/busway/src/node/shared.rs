//! A node that the programs of a host have in common: one of them carries it, and when that one ends another does.
//!
//! Programs that are configured alike show one identity, and an identity is of one process at a time: two that had it would
//! take each other's links for ever. So who carries has the lock of a file beside the socket of the domain, named after the
//! cluster and the identity; the kernel frees it with the holder's death. The others look at it a few times a second. They
//! need no link of their own: what crosses the one is in the domain. It knows no second directory, and so no second host.
//!
//! The file says who carries and with which settings, by a hash without the token; who waits leaves a mark there. Who has no
//! link for a while and sees the mark lets another try: its own token or addresses may be what is wrong.
//!
//! Invariant: a node is open here only while we have its lock.

use std::os::fd::{AsFd, OwnedFd};
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
use crate::node::{LinkState, Node, NodeBuilder, PeerView};
use crate::ports::lock;

/// Between two looks of who waits: an idle process may wake four times a second, and late joiners wait a second.
const PAUSE: Duration = Duration::from_millis(250);
/// A file that was removed between opening and locking it is opened again: by then who removed it has ended.
const TRIES: usize = 16;
/// So many looks without any link, and who carries lets another try: 5 s, which a connection over a slow link takes at most.
const ALONE: u32 = 20;
/// So many looks it leaves the lock to others then: each of them looks several times.
const REST: u32 = 4;
/// What is read of a file that anybody of the domain may have written.
const NOTE_BYTES: usize = 64;
/// Where who waits leaves its mark, behind the note.
const MARK_AT: u64 = NOTE_BYTES as u64;

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
    /// Takes the lock when it is free, and lets it go.
    keeps: Option<JoinHandle<()>>,
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
    lock: Lock,
}

impl NodeBuilder {
    /// As [`NodeBuilder::open`], by one process at a time of those that open it with the same cluster and identity in one
    /// domain: the first carries it, and when that one ends or dies another does, within half a second. What all of them
    /// publish and subscribe crosses its links. The other settings are those of who carries; where they differ, the log says
    /// so, with the process. Who carries and has had no link for 5 s lets another try, if one waits. [`Bus::close`] ends
    /// the share too, within half a second.
    ///
    /// # Errors
    /// As [`NodeBuilder::open`], of what can be known before it carries; [`Code::LockUnusable`] where no file can be locked
    /// in the directory of the domain; [`Code::Closed`]; [`Code::Forked`].
    pub fn open_shared(self, bus: &Bus) -> Result<SharedNode, Error> {
        bus.core.check()?;
        self.clone().config()?;
        let settings = self.settings();
        let path = self.lock_path(bus);
        let carried = match Lock::try_take(&path, &settings)? {
            Ok(lock) => Some(Carried { node: self.clone().open(bus)?, lock }),
            Err(note) => {
                note.tell(&settings);
                None
            }
        };
        let shared = Arc::new(Shared::default());
        lock(&shared.state).carried = carried;
        let keeper = Keeper { shared: shared.clone(), builder: self, bus: bus.clone(), path, settings };
        let keeps = std::thread::Builder::new()
            .name("bw-share".to_owned())
            .spawn(move || keeper.run())
            .map_err(|error| {
                Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                    .at("bw-share")
                    .remedy("raise the limit on processes: ulimit -u")
            })?;
        Ok(SharedNode { shared, keeps: Some(keeps), bus: bus.clone() })
    }

    /// By what two that have one identity can be told apart. The token is not in it: others of a group read the file.
    fn settings(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("busway shared node settings");
        for (index, address) in &self.nodes {
            hasher.update(format!("{index}={address}\n").as_bytes());
        }
        let told = (self.plain_beyond_loopback, self.tls.is_some(), self.token.is_some(), &self.listen);
        hasher.update(format!("{told:?}").as_bytes());
        hasher.finalize().to_hex()[..16].to_owned()
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

/// What the thread of a share has.
struct Keeper {
    shared: Arc<Shared>,
    builder: NodeBuilder,
    bus: Bus,
    path: PathBuf,
    settings: String,
}

impl Keeper {
    /// Carries when nobody else does, until the share ends or the bus is closed.
    fn run(&self) {
        let (mut told, mut alone, mut rests) = (false, 0, 0);
        while !self.pauses() {
            if self.bus.is_closed() {
                self.lets_go();
                return;
            }
            match self.lacks_links() {
                Some(false) => alone = 0,
                Some(true) if self.is_over(&mut alone) => rests = REST,
                Some(true) => {}
                None if rests > 0 => rests -= 1,
                None => self.tries(&mut told),
            }
        }
    }

    /// Waits for a moment; true once the share has ended.
    fn pauses(&self) -> bool {
        let going = lock(&self.shared.state);
        let going = self.shared.changed.wait_timeout_while(going, PAUSE, |state| !state.ended);
        going.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Whether we carry, and no link stands.
    fn lacks_links(&self) -> Option<bool> {
        let state = lock(&self.shared.state);
        let peers = state.carried.as_ref()?.node.peers();
        Some(!peers.iter().any(|peer| peer.state == LinkState::Connected))
    }

    /// Not under the lock: links are settled first.
    fn lets_go(&self) {
        let carried = lock(&self.shared.state).carried.take();
        drop(carried);
    }

    /// One more look without a link; true where another is to try.
    fn is_over(&self, alone: &mut u32) -> bool {
        *alone = alone.saturating_add(1);
        let is_waited_for = match &lock(&self.shared.state).carried {
            Some(carried) => carried.lock.takes_mark(),
            None => false,
        };
        if *alone < ALONE || !is_waited_for {
            return false;
        }
        *alone = 0;
        let state = lock(&self.shared.state);
        let peers = state.carried.as_ref().map(|carried| carried.node.peers()).unwrap_or_default();
        drop(state);
        let why = peers.into_iter().find_map(|peer| peer.last_error);
        let why = why.unwrap_or_else(|| "nobody answers".to_owned());
        tracing::warn!(target: "busway::link", "this process makes no link and lets another try: {why}");
        self.lets_go();
        true
    }

    fn tries(&self, told: &mut bool) {
        let taken = Lock::try_take(&self.path, &self.settings).and_then(|taken| {
            taken
                .ok()
                .map(|lock| Ok(Carried { node: self.builder.clone().open(&self.bus)?, lock }))
                .transpose()
        });
        match taken {
            Ok(None) => {}
            Ok(Some(carried)) => {
                tracing::info!(target: "busway::link", "nobody carries the links: this process does from now on");
                let mut state = lock(&self.shared.state);
                if !state.ended {
                    state.carried = Some(carried);
                }
            }
            Err(error) => {
                if !*told {
                    tracing::warn!(target: "busway::link", "the links cannot be taken over: {error}");
                }
                *told = true;
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
            std::mem::forget(self.keeps.take());
            return;
        }
        let carried = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            state.carried.take()
        };
        self.shared.changed.notify_all();
        drop(carried);
        if let Some(thread) = self.keeps.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The lock of a file, which is there only as long as somebody has it.
#[derive(Debug)]
struct Lock {
    // A child made by fork must not keep it.
    fd: PrivateFd,
    path: PathBuf,
    generation: u64,
}

impl Lock {
    /// The lock, if nobody has it; else what who has it says.
    fn try_take(path: &Path, settings: &str) -> Result<Result<Lock, Note>, Error> {
        let refuse = |errno: Errno| {
            system(errno, "cannot lock the file of a node that is shared", Code::LockUnusable)
                .at(path.display().to_string())
        };
        for _ in 0..TRIES {
            let fd = open(path).map_err(refuse)?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Err(Note::left_by(&fd))),
                Err(errno) => return Err(refuse(errno)),
            }
            let ours = rustix::fs::fstat(&fd).map_err(refuse)?;
            // Who had it before may have removed it after we opened it.
            let Ok(there) = rustix::fs::lstat(path) else { continue };
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) {
                let failed = |error| memory(&error, &path.display().to_string());
                let generation = fork::generation().map_err(failed)?;
                Note::write(&fd, settings);
                let fd = PrivateFd::new(fd).map_err(failed)?;
                return Ok(Ok(Lock { fd, path: path.to_owned(), generation }));
            }
        }
        Ok(Err(Note::default()))
    }

    /// Whether somebody has waited since the last call.
    fn takes_mark(&self) -> bool {
        let mut mark = [0];
        let there = matches!(rustix::io::pread(self.fd.as_fd(), &mut mark, MARK_AT), Ok(1)) && mark != [0];
        // Where it cannot be written, whoever waits is there for ever: then nobody is told to go.
        there && rustix::io::pwrite(self.fd.as_fd(), &[0], MARK_AT).is_ok()
    }
}

/// Who carries, and with what, as the file has it. Anybody of the domain may have written it.
#[derive(Debug, Default)]
struct Note(Option<(u32, String)>);

impl Note {
    fn write(fd: &OwnedFd, settings: &str) {
        let note = format!("{} {settings}\n", std::process::id());
        // It is for others' warnings; the lock holds without it.
        let _ = rustix::fs::ftruncate(fd, 0).and_then(|()| rustix::io::pwrite(fd, note.as_bytes(), 0));
    }

    /// Leaves the mark of who waits as well.
    fn left_by(fd: &OwnedFd) -> Note {
        // Without it who carries goes on, which is no worse than before.
        let _ = rustix::io::pwrite(fd, &[1], MARK_AT);
        let mut bytes = [0; NOTE_BYTES];
        let read = rustix::io::pread(fd, &mut bytes, 0).unwrap_or(0);
        let text = std::str::from_utf8(&bytes[..read]).unwrap_or_default();
        let line = text.split_once('\n').and_then(|(line, _)| line.split_once(' '));
        Note(line.and_then(|(pid, settings)| Some((pid.parse().ok()?, settings.to_owned()))))
    }

    /// Says in the log where the settings are not `ours`.
    fn tell(&self, ours: &str) {
        if let Some((pid, theirs)) = &self.0
            && theirs != ours
        {
            tracing::warn!(target: "busway::link", "pid {pid} carries the links of this identity with other settings: nodes, certificates or a token differ, and its are used");
        }
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
