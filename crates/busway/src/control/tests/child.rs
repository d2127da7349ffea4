//! A member in a process of its own, which can be stopped and killed.
//!
//! The test binary starts itself again with one filter, for the test `is_a_member_if_it_was_started_as_one`, and an
//! environment variable; the child obeys lines on its stdin and answers on its stdout with lines that begin with `@`.

use super::{Deadline, Process, patience, settings, start};
use crate::control::Role;
use busway_wire::ProcessId;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid,
};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

const DIRECTORY: &str = "BUSWAY_TEST_MEMBER_DIRECTORY";
const NAME: &str = "BUSWAY_TEST_MEMBER_NAME";

/// A running child, killed when dropped.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) process: ProcessId,
    child: std::process::Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Child {
    /// Starts a process; `join` waits until it has joined.
    pub(super) fn spawn(directory: &Path, name: &str) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["control::tests::child::is_a_member_if_it_was_started_as_one", "--exact", "--nocapture"])
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
        Child { pid, process: ProcessId(0), child, stdin, answers }
    }

    pub(super) fn join(directory: &Path, name: &str) -> Child {
        let mut child = Child::spawn(directory, name);
        child.joined();
        child
    }

    pub(super) fn joined(&mut self) {
        self.process = ProcessId(self.answer().parse().expect("it says its id"));
    }

    pub(super) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub(super) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    pub(super) fn answer(&self) -> String {
        self.answers.recv_timeout(super::PATIENCE).expect("the child answers")
    }

    pub(super) fn kill(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
    }

    /// Returns when it is stopped.
    pub(super) fn stop(&self) {
        kill_process(self.pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid), WaitOptions::UNTRACED).unwrap().expect("it stops");
        assert!(status.stopped(), "{status:?}");
    }

    pub(super) fn go_on(&self) {
        kill_process(self.pid, Signal::CONT).unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn is_a_member_if_it_was_started_as_one() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let name = std::env::var(NAME).unwrap();
    let member = start(settings(Path::new(&directory), &name)).unwrap();
    say(&member.process.0.to_string());
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(line)) = lines.next() {
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        if command == "exit" {
            break;
        }
        say(&obey(&member, command, argument));
    }
    // Also when the test has ended: nobody is left behind.
    drop(member);
    say("left");
}

fn obey(member: &Process, command: &str, argument: &str) -> String {
    match command {
        "pub" => member.publish(argument).1.len().to_string(),
        "sub" => member.subscribe(argument).1.to_string(),
        "hold" => {
            member.until_holder();
            "holds".to_owned()
        }
        "domain-changed" => {
            member.ports.until("the domain changes", |told| told.domains == 1);
            "changed".to_owned()
        }
        // Leaves room for so many descriptors more than are open now, or for more where a number between them is free.
        "descriptors" => limit(argument.parse().unwrap()),
        // Leaves room for exactly one.
        "one-descriptor" => {
            let open = limit(0);
            let mut held = Vec::new();
            while let Ok(fd) = rustix::io::dup(std::io::stdin()) {
                held.push(fd);
            }
            // The one with which the open ones were counted is among them.
            drop(held.pop().expect("one is left"));
            held.leak();
            open
        }
        // Nothing more can be mapped, or anything again.
        "address-space" => {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
            let maximum = getrlimit(Resource::As).maximum;
            let most = if argument == "full" { Some(pages * 4_096) } else { maximum };
            setrlimit(Resource::As, Rlimit { current: most, maximum }).unwrap();
            "limited".to_owned()
        }
        other => panic!("the child does not know {other}"),
    }
}

/// Lets so many descriptors more be opened than are open now, and says how many are.
fn limit(more: u64) -> String {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), maximum }).unwrap();
    open.to_string()
}

/// Past the capture of the test harness, which would keep it until the end.
fn say(answer: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "@{answer}").unwrap();
    stdout.flush().unwrap();
}

/// Joins with little patience, wanting the role or not.
pub(super) fn hasty(directory: &Path, role: Role, millis: u64) -> Result<Process, crate::error::Error> {
    let mut hasty = settings(directory, "hasty");
    hasty.timeout = std::time::Duration::from_millis(millis);
    hasty.role = role;
    start(hasty)
}

/// Asks again until the answer is right; each question is answered by a process that has done something meanwhile.
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline: Deadline = patience();
    while !condition() {
        assert!(!deadline.expired(), "{what}");
        std::thread::yield_now();
    }
}
