//! A puller, or a pusher, in a process of its own.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use busway::{Bus, Puller, Pusher};
use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, Ordering};

const DIRECTORY: &str = "BUSWAY_GROUPS_DIRECTORY";
const EFFECTS: &str = "BUSWAY_GROUPS_EFFECTS";
const ROLE: &str = "BUSWAY_GROUPS_ROLE";
pub(crate) const TOPIC: &str = "work";
/// How late a part may be before the test is over.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Long enough that nobody is late by accident.
pub(crate) const ACK: Duration = Duration::from_secs(60);

/// What a part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Pulls, and says what it has done at the end.
    Pull,
    /// Pulls, and writes each effect at once.
    PullAtOnce,
    /// The same in a group that acknowledges.
    PullAcknowledged,
    /// Pushes five hundred messages, and waits.
    Push,
}

const ROLES: [(Role, &str); 4] = [
    (Role::Pull, "pull"),
    (Role::PullAtOnce, "pull-at-once"),
    (Role::PullAcknowledged, "pull-acknowledged"),
    (Role::Push, "push"),
];

/// A directory for the domain and the files of effects.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let path = std::env::temp_dir().join(format!("busway-groups-{random:016x}"));
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(path.join("effects")).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> Bus {
        join(&self.0.join("bus"), name)
    }

    /// All effects of all parts that there ever were, in order.
    pub(crate) fn effects(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for file in std::fs::read_dir(self.0.join("effects")).unwrap() {
            let mut bytes = Vec::new();
            File::open(file.unwrap().path()).unwrap().read_to_end(&mut bytes).unwrap();
            all.extend(bytes.chunks_exact(8).map(|effect| u64::from_le_bytes(effect.try_into().unwrap())));
        }
        all.sort_unstable();
        all
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn join(directory: &Path, name: &str) -> Bus {
    Bus::builder().directory(directory).name(name).timeout(PATIENCE).open().unwrap()
}

/// A part that runs.
pub(crate) struct Part {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Part {
    pub(crate) fn start(directory: &Directory, role: Role, number: usize) -> Self {
        let (_, name) = ROLES.iter().find(|(known, _)| *known == role).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part::works_if_it_was_started_as_a_part", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.0.join("bus"))
            .env(EFFECTS, directory.0.join(format!("effects/{number}")))
            .env(ROLE, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut part = Self { child, stdout };
        part.hear("ready");
        part
    }

    /// Waits for what the part says.
    fn hear(&mut self, wanted: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the part ended before `{wanted}`");
            // The harness has begun the line.
            let said = line.trim_end().split_once('@').and_then(|(_, said)| said.strip_prefix(wanted));
            if let Some(rest) = said {
                return rest.trim().to_owned();
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells the part that no more will come; returns how many tasks it did.
    pub(crate) fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let done = self.hear("done").parse().unwrap();
        assert!(self.child.wait().unwrap().success());
        done
    }
}

#[test]
fn works_if_it_was_started_as_a_part() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let role = std::env::var(ROLE).unwrap();
    let (role, _) = *ROLES.iter().find(|(_, name)| *name == role).unwrap();
    let bus = join(Path::new(&directory), "part");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    if role == Role::Push {
        let mut pusher = bus.pusher(TOPIC).open().unwrap();
        push(&mut pusher, 1, 500);
        say("ready");
        std::thread::park();
    }
    let builder = bus.puller(TOPIC).group("g").holds(1);
    let builder = if role == Role::PullAcknowledged { builder.ack(ACK).attempts(60) } else { builder };
    let mut puller = builder.open().unwrap();
    say("ready");
    let path = std::env::var_os(EFFECTS).unwrap();
    let mut effects = OpenOptions::new().append(true).create(true).open(path).unwrap();
    let done = pull(&mut puller, &mut effects, role, &over);
    drop(puller);
    say(&format!("done {done}"));
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("@{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

pub(crate) fn push(pusher: &mut Pusher, from: u64, to: u64) {
    let deadline = Deadline::after(PATIENCE);
    for number in from..=to {
        while let Err(error) = pusher.send(&number.to_le_bytes()) {
            assert!(!deadline.expired(), "message {number}: {error}");
        }
    }
}

/// Some work, so that a puller is killed now and then while it does it. In a long run so much that it lasts for many kills.
fn work(rounds: u64) {
    let state = (0..rounds).fold(1_u64, |state, round| state.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round);
    std::hint::black_box(state);
}

fn pull(puller: &mut Puller, effects: &mut File, role: Role, over: &AtomicBool) -> u64 {
    let rounds = if std::env::var_os("BUSWAY_FIRE_TASKS").is_some() { 100_000 } else { 5_000 };
    let mut kept = Vec::new();
    let mut done = 0;
    loop {
        let Some(task) = puller.recv_timeout(Duration::from_millis(100)).unwrap() else {
            if over.load(Ordering::Relaxed) {
                effects.write_all(&kept).unwrap();
                return done;
            }
            continue;
        };
        let effect: [u8; 8] = (*task).try_into().unwrap();
        work(rounds);
        if role == Role::Pull {
            kept.extend(effect)
        } else {
            effects.write_all(&effect).unwrap()
        }
        task.ack().unwrap();
        done += 1;
    }
}
