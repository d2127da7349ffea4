//! A member of a domain in a process of its own, which can be stopped, killed and looked at.
//!
//! It obeys lines on its stdin and answers with lines that begin with `@`; what else it prints is passed on. Nothing
//! here waits without a deadline, and nobody is left behind: a child ends with its stdin and is killed when dropped.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use busway::{Bus, Inspection};
use busway_shm::clock::Deadline;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where the child joins; unset in a test run by hand.
pub(crate) const DIRECTORY: &str = "BUSWAY_TEST_PART_DIRECTORY";
/// The name it joins with.
pub(crate) const NAME: &str = "BUSWAY_TEST_PART_NAME";

/// A directory for one domain, removed at the end.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        Self(std::env::temp_dir().join(format!("busway-processes-{random:016x}")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A bus of this process.
    pub(crate) fn join(&self, name: &str) -> Bus {
        Bus::builder().directory(&self.0).name(name).timeout(PATIENCE).open().unwrap()
    }

    pub(crate) fn spawn(&self, name: &str) -> Child {
        Child::spawn(&self.0, name)
    }

    /// A member that has joined.
    pub(crate) fn member(&self, name: &str) -> Child {
        let mut child = self.spawn(name);
        assert_eq!(child.ask("join"), "joined");
        child
    }

    /// A member that has taken the role, as `busway up` does.
    pub(crate) fn holder(&self, name: &str) -> Child {
        let mut child = self.spawn(name);
        assert_eq!(child.ask("hold"), "holds");
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running child.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    child: std::process::Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Child {
    fn spawn(directory: &Path, name: &str) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["member::obeys_if_it_was_started_as_a_part", "--exact", "--nocapture", "--test-threads=2"])
            .env(DIRECTORY, directory)
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once('@')
                    && sender.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let stdin = child.stdin.take().unwrap();
        Child { pid, child, stdin, answers }
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    pub(crate) fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the child answers in time")
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// What it has said meanwhile, oldest first.
    pub(crate) fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            match self.answers.try_recv() {
                Ok(line) => heard.push(line),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return heard,
            }
        }
    }

    pub(crate) fn kill(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
    }

    /// Returns when it is stopped.
    pub(crate) fn stop(&self) {
        kill_process(self.pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid), WaitOptions::UNTRACED).unwrap().expect("it stops");
        assert!(status.stopped(), "{status:?}");
    }

    pub(crate) fn go_on(&self) {
        kill_process(self.pid, Signal::CONT).unwrap();
    }

    pub(crate) fn pid_number(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).unwrap()
    }

    /// A file of its directory in /proc, or of one of its threads.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid_number())).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number in a child's answer.
pub(crate) fn number(answer: &str) -> u64 {
    answer.trim().parse().unwrap_or_else(|_| panic!("a number is expected, not `{answer}`"))
}

/// Looks until it is so. Each look asks another process or the kernel, which is all the waiting there is.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !so() {
        assert!(!deadline.expired(), "{what}");
        std::thread::yield_now();
    }
}

/// Pids of the publishers and of the subscribers of `topic`, each in order.
pub(crate) fn pids_on(inspection: &Inspection, topic: &str) -> (Vec<u32>, Vec<u32>) {
    let Some(view) = inspection.topics.iter().find(|view| view.topic == topic) else {
        return (Vec::new(), Vec::new());
    };
    let mut publishers: Vec<u32> = view.publishers.iter().map(|publisher| publisher.pid).collect();
    let mut subscribers: Vec<u32> = view.subscribers.iter().map(|subscriber| subscriber.pid).collect();
    publishers.sort_unstable();
    subscribers.sort_unstable();
    (publishers, subscribers)
}
