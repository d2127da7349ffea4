//! The node's own door: a unix socket beside that of the domain, where this user asks the node about itself.
//!
//! One question a connection, a line of JSON each way (FORMAT.md, "The door of a node"). It is not the rendezvous: that
//! role moves between programs, and a node that has given it away is still asked here. Who asks is known from the kernel;
//! anybody but our own user is turned away without a word. Of several nodes of a domain the one that came last is asked; when it is gone, however it went, one that is there takes the name.
//!
//! Invariant: a connection costs at most [`READS_MAX`] waits of [`READ_WAIT`], and [`QUESTION_BYTES_MAX`] bytes.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use busway::{Bus, Code, Error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};

/// Bytes of a question: the longest names a peer. More is refused.
const QUESTION_BYTES_MAX: usize = 1_024;

/// Bytes of an answer: a page of text. A node gives no more, and no more is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// How long one read may wait for the rest of a question.
const READ_WAIT: Duration = Duration::from_millis(250);

/// Reads of one question: one that comes byte by byte is not one.
const READS_MAX: usize = 8;

/// How often a door looks whether its name is still there.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Those who wait for the end of a node at once. One more is told, and does not wait.
const WAITING_MAX: usize = 16;

/// What a node can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// What it is.
    Info,
    /// To end: its links in order, then itself. The connection ends with it.
    Drain,
    /// To end the link to a peer, by the name that `busway peers` shows.
    Kick {
        /// Whose.
        peer: String,
    },
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Info`].
    Info(Box<Info>),
    /// To [`Ask::Drain`]: it ends now.
    Draining {
        /// Its process.
        pid: u32,
        /// Links that it ends.
        connected: usize,
    },
    /// To [`Ask::Kick`]: the link ends now.
    Kicked {
        /// Whose.
        peer: String,
    },
    /// It does not.
    Refused {
        /// Why.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
}

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Its domain.
    pub domain: String,
    /// The socket of the domain.
    pub socket: String,
    /// Who it is in its cluster: `node 1`, `client 000000000000002a`; nobody without links.
    pub identity: Option<String>,
    /// The name of the cluster.
    pub cluster: Option<String>,
    /// What it is called.
    pub name: Option<String>,
    /// Where other hosts connect.
    pub listening: Vec<String>,
    /// Where HTTP is served.
    pub http: Vec<String>,
    /// Its configuration file.
    pub config: Option<String>,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Peers that it knows.
    pub peers: usize,
    /// Those that are linked.
    pub connected: usize,
    /// Messages received over the links that stand.
    pub messages_in: u64,
    /// Messages sent over them.
    pub messages_out: u64,
    /// Bytes received over them.
    pub bytes_in: u64,
    /// Bytes sent over them.
    pub bytes_out: u64,
}

/// Who answers.
pub(crate) trait Host: Send + Sync {
    /// What a question but [`Ask::Drain`] is answered with, and what that one is answered with before the end begins.
    fn answer(&self, ask: &Ask) -> Answer;
}

/// An open door. Dropping it closes it and removes its name.
#[derive(Debug)]
pub(crate) struct Door {
    stop: UnixStream,
    asked: UnixStream,
    /// They hear of the end by the end of their connections.
    waiting: Arc<Mutex<Vec<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens the door of the node that is of this bus. An older one of the name is replaced: its node has ended, or is
    /// asked no more.
    pub(crate) fn open(bus: &Bus, host: Arc<dyn Host>) -> Result<Door, Error> {
        let (directory, name) = place(bus)?;
        let shown = bus.socket_path().with_file_name(&name);
        let wrong = |error: std::io::Error| {
            Error::new(Code::SocketUnusable, format!("the door of the node cannot be opened: {error}"))
                .at(shown.display().to_string())
                .remedy("remove what stands there, or free space and descriptors")
        };
        let sign = Sign { directory, name };
        let (listener, inode) = sign.put_up().map_err(wrong)?;
        let (stop, stopped) = UnixStream::pair().map_err(wrong)?;
        let (asked, ask) = UnixStream::pair().map_err(wrong)?;
        let waiting = Arc::new(Mutex::new(Vec::new()));
        let keeper =
            Keeper { sign, listener, inode, knock: None, stopped, ask, host, waiting: waiting.clone() };
        let thread = std::thread::Builder::new().name("bw-node".to_owned()).spawn(move || keeper.run());
        let thread = thread.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-node")
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        Ok(Door { stop, asked, waiting, thread: Some(thread) })
    }

    /// Can be read once somebody has asked for the end.
    pub(crate) fn asked(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // The thread sees the end of the other half.
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The name at which a door is found.
struct Sign {
    directory: OwnedFd,
    name: String,
}

impl Sign {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name)
    }

    /// Listens there, in the place of whoever did. What stands there then is known by its inode.
    fn put_up(&self) -> std::io::Result<(UnixListener, u64)> {
        // Bound under another name first: whoever comes meanwhile finds the old one or the new one.
        let fresh = self.path(&format!("{}.{}", self.name, std::process::id()));
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&fresh)?.ino();
        listener.set_nonblocking(true)?;
        fs::rename(&fresh, self.path(&self.name))?;
        Ok((listener, inode))
    }

    /// Whether this stands there.
    fn shows(&self, inode: u64) -> bool {
        fs::symlink_metadata(self.path(&self.name)).is_ok_and(|found| found.ino() == inode)
    }

    /// Knocks with an empty question and waits for nothing; `None` where nothing stands there, or nobody is behind it.
    fn knock(&self) -> Option<Knock> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (Ok(socket), Ok(address)) = (socket, SocketAddrUnix::new(self.path(&self.name))) else {
            return Some(Knock(None));
        };
        match connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                Some(Knock(Some(stream)))
            }
            Err(Errno::NOENT | Errno::CONNREFUSED) => None,
            // As many wait there as may: somebody is behind it.
            Err(_) => Some(Knock(None)),
        }
    }
}

/// One that waits for the keeper of another door: so that one that stands still is not knocked at again.
struct Knock(Option<UnixStream>);

impl Knock {
    /// Whether it was answered, or who should have has ended.
    fn is_over(&mut self) -> bool {
        let Some(stream) = &mut self.0 else { return true };
        stream.read(&mut [0]).map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true)
    }
}

/// The thread of a door.
struct Keeper {
    sign: Sign,
    listener: UnixListener,
    inode: u64,
    /// At the door of a later node.
    knock: Option<Knock>,
    stopped: UnixStream,
    ask: UnixStream,
    host: Arc<dyn Host>,
    waiting: Arc<Mutex<Vec<UnixStream>>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A node that came after us has its own door there.
        if self.sign.shows(self.inode) {
            let _ = fs::remove_file(self.sign.path(&self.sign.name));
        }
    }
}

impl Keeper {
    fn run(mut self) {
        loop {
            let mut fds =
                [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.stopped, PollFlags::IN)];
            let Ok(ready) = poll(&mut fds, Some(&LOOK)) else { continue };
            if !fds[1].revents().is_empty() {
                return;
            }
            if ready == 0 {
                self.look();
                continue;
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.serve(stream),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::warn!(target: "busway::node", "nobody can ask the node now: {error}");
                    // Out of descriptors, most likely; who waits is not lost.
                    let mut fds = [PollFd::new(&self.stopped, PollFlags::IN)];
                    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                    let _ = poll(&mut fds, Some(&pause));
                }
            }
        }
    }

    /// A later node has taken the name, or somebody has removed it: where nobody is there any more it is ours again.
    fn look(&mut self) {
        if self.sign.shows(self.inode) {
            return;
        }
        if self.knock.as_mut().is_none_or(Knock::is_over) {
            self.knock = self.sign.knock();
        }
        if self.knock.is_none()
            && let Ok((listener, inode)) = self.sign.put_up()
        {
            // Nothing led to the old one any more, and who had come before was served.
            (self.listener, self.inode) = (listener, inode);
        }
    }

    fn serve(&mut self, mut stream: UnixStream) {
        if !is_ours(&stream) {
            return;
        }
        let answer = match question(&mut stream) {
            Ok(ask) => {
                let answer = self.host.answer(&ask);
                if let Answer::Draining { .. } = answer {
                    return self.drain(stream, &answer);
                }
                answer
            }
            Err(cause) => {
                Answer::Refused { cause, remedy: "use the busway command of the same version".to_owned() }
            }
        };
        say(&mut stream, &answer);
    }

    fn drain(&mut self, mut stream: UnixStream, answer: &Answer) {
        say(&mut stream, answer);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX {
            waiting.push(stream);
        }
        // Where it cannot be written it has been asked often enough.
        let _ = self.ask.set_nonblocking(true).and_then(|()| self.ask.write(&[1]));
    }
}

fn say(stream: &mut UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    // Who does not read is not waited for; a fresh socket takes it at once.
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&line));
}

/// Reads a line, as far as it may go.
fn question(stream: &mut UnixStream) -> Result<Ask, String> {
    let failed = |error: std::io::Error| format!("the question cannot be read: {error}");
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(READ_WAIT))).map_err(failed)?;
    let (mut line, mut buffer) = (Vec::new(), [0; QUESTION_BYTES_MAX]);
    for _ in 0..READS_MAX {
        let count = stream.read(&mut buffer).map_err(failed)?;
        line.extend_from_slice(&buffer[..count]);
        if count == 0 || buffer[..count].contains(&b'\n') {
            let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
            return serde_json::from_slice(&line[..end])
                .map_err(|error| format!("this is no question: {error}"));
        }
        if line.len() > QUESTION_BYTES_MAX {
            return Err(format!("a question has at most {QUESTION_BYTES_MAX} bytes"));
        }
    }
    Err("the question does not end".to_owned())
}

fn is_ours(stream: &UnixStream) -> bool {
    busway::peer_uid(stream) == Some(rustix::process::geteuid().as_raw())
}

/// The directory of the bus, which it has checked, and the name of the door in it. Sockets end in `.sock`, locks in
/// `.lock`, whatever the name of the domain: no domain's door is another's socket.
fn place(bus: &Bus) -> Result<(OwnedFd, String), Error> {
    let path = bus.socket_path().parent().map(Path::to_path_buf).unwrap_or_default();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    let flags = flags | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
    let directory = opened.map_err(|errno| {
        Error::new(Code::DirectoryUnusable, format!("the directory cannot be opened: {errno}"))
            .at(path.display().to_string())
            .remedy("busway doctor")
    })?;
    Ok((directory, format!("{}.ctl", bus.domain())))
}

/// A node that was asked, and what it said.
#[derive(Debug)]
pub struct Asked {
    stream: UnixStream,
    /// What it said.
    pub answer: Answer,
}

impl Asked {
    /// Waits until the node has ended, for one that said [`Answer::Draining`]; false if that takes longer.
    #[must_use]
    pub fn wait_for_end(&mut self, limit: Duration) -> bool {
        let waits =
            self.stream.set_nonblocking(false).and_then(|()| self.stream.set_read_timeout(Some(limit)));
        // It says nothing more.
        waits.is_ok() && matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// Asks the node of this domain; `None` where no node runs.
///
/// # Errors
/// [`Code::SocketUnusable`] where there is a door that cannot be used; [`Code::HolderSilent`] where nobody answers in
/// time; [`Code::ProtocolBroken`] for what is no answer.
pub fn ask(bus: &Bus, ask: &Ask, limit: Duration) -> Result<Option<Asked>, Error> {
    let (directory, name) = place(bus)?;
    let shown = bus.socket_path().with_file_name(&name).display().to_string();
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(&name);
    let wrong = |code: Code, cause: String, remedy: &str| {
        Error::new(code, cause).at(shown.clone()).remedy(remedy.to_owned())
    };
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        // A node that was killed leaves its name, and nobody behind it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => {
            let cause = format!("the node cannot be asked: {error}");
            return Err(wrong(Code::SocketUnusable, cause, "ask as the user that runs it"));
        }
    };
    if !is_ours(&stream) {
        let cause = "another user answers there".to_owned();
        return Err(wrong(Code::SocketUnusable, cause, "remove what stands there"));
    }
    let silent = |error: std::io::Error| {
        wrong(
            Code::HolderSilent,
            format!("the node does not answer: {error}"),
            "see whether it runs, or a longer --timeout",
        )
    };
    let mut line = serde_json::to_vec(ask).unwrap_or_default();
    line.push(b'\n');
    let limits = stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)));
    limits.and_then(|()| stream.write_all(&line)).map_err(silent)?;
    let mut said = Vec::new();
    let mut byte = [0; 4_096];
    while !said.contains(&b'\n') && (said.len() as u64) < ANSWER_BYTES_MAX {
        match stream.read(&mut byte).map_err(silent)? {
            0 => break,
            count => said.extend_from_slice(&byte[..count]),
        }
    }
    let end = said.iter().position(|byte| *byte == b'\n').unwrap_or(said.len());
    let answer = serde_json::from_slice(&said[..end]).map_err(|error| {
        let remedy = "use the busway command of the same version";
        wrong(Code::ProtocolBroken, format!("the node has said what is no answer: {error}"), remedy)
    })?;
    Ok(Some(Asked { stream, answer }))
}

#[cfg(test)]
mod tests;
