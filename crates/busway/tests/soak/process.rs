//! One process of the soak, as its supervisor sees it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use busway_shm::clock::monotonic_ns;
use rustix::process::{Pid, Signal, kill_process};

use crate::talk::Orders;

/// A test process that says nothing for this long hangs. Everything that it calls returns within three seconds; the
/// rest is for a machine that has other things to do.
pub(crate) const SILENT_NS: u64 = 45_000_000_000;
const SAID_MAX: usize = 12;

/// A running process.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: Pid,
    child: Child,
    stdout: ChildStdout,
    text: Vec<u8>,
    /// What it said last, with the time.
    said: VecDeque<(u64, String)>,
    heard_ns: u64,
    pub(crate) started_ns: u64,
    pub(crate) ready: bool,
    pub(crate) holder: bool,
    pub(crate) finished: bool,
    pub(crate) killed: bool,
    pub(crate) killed_ns: u64,
    /// When it was stopped, and when it goes on.
    pub(crate) stopped: Option<(u64, u64)>,
    /// For how long it was stopped, ever.
    pub(crate) rested_ns: u64,
    /// Topics that only it has: how far it is in them as a publisher, or as a subscriber.
    pub(crate) topics: BTreeMap<String, u64>,
}

impl Process {
    pub(crate) fn start(role: &str, name: &str, directory: &str, seed: u64) -> Self {
        let (role, name, directory) = (role.to_owned(), name.to_owned(), directory.to_owned());
        let orders = Orders { role, name: name.clone(), directory, seed };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["obeys_if_it_was_started_to", "--exact", "--nocapture", "--test-threads=1"])
            .env(Orders::VARIABLE, orders.encode())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        rustix::io::ioctl_fionbio(&stdout, true).unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let now = monotonic_ns();
        Self {
            name,
            pid,
            child,
            stdout,
            text: Vec::new(),
            said: VecDeque::new(),
            heard_ns: now,
            started_ns: now,
            ready: false,
            holder: false,
            finished: false,
            killed: false,
            killed_ns: 0,
            stopped: None,
            rested_ns: 0,
            topics: BTreeMap::new(),
        }
    }

    pub(crate) fn stdout(&self) -> &ChildStdout {
        &self.stdout
    }

    /// The lines that it has said since.
    pub(crate) fn listen(&mut self) -> Vec<String> {
        let mut block = [0; 16_384];
        loop {
            match self.stdout.read(&mut block) {
                Ok(0) => break,
                Ok(bytes) => self.text.extend_from_slice(&block[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the pipe of {}: {error}", self.name),
            }
        }
        let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.text.split_off(end + 1);
        let text = String::from_utf8_lossy(&std::mem::replace(&mut self.text, rest)).into_owned();
        let now = monotonic_ns();
        self.heard_ns = now;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for line in &lines {
            if self.said.len() == SAID_MAX {
                self.said.pop_front();
            }
            self.said.push_back((now, line.chars().take(400).collect()));
        }
        lines.into_iter().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.killed = true;
        self.killed_ns = monotonic_ns();
        kill_process(self.pid, Signal::KILL).unwrap();
    }

    pub(crate) fn stop(&mut self, until_ns: u64) {
        self.stopped = Some((monotonic_ns(), until_ns));
        kill_process(self.pid, Signal::STOP).unwrap();
    }

    pub(crate) fn go_on(&mut self) {
        if let Some((since, _)) = self.stopped.take() {
            kill_process(self.pid, Signal::CONT).unwrap();
            let now = monotonic_ns();
            self.rested_ns += now - since;
            self.heard_ns = now;
        }
    }

    /// Its input ends: it is asked to come to an end.
    pub(crate) fn finish(&mut self) {
        self.go_on();
        drop(self.child.stdin.take());
    }

    /// Whether it should have said something by now.
    pub(crate) fn silent(&self, now_ns: u64) -> bool {
        self.stopped.is_none() && !self.killed && now_ns > self.heard_ns + SILENT_NS
    }

    /// Descriptors and mappings.
    pub(crate) fn resources(&self) -> (usize, usize) {
        let pid = self.pid.as_raw_nonzero();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let maps =
            std::fs::read_to_string(format!("/proc/{pid}/maps")).map_or(0, |maps| maps.lines().count());
        (descriptors, maps)
    }

    /// Everything that may tell why it failed.
    pub(crate) fn describe(&self) -> String {
        let pid = self.pid.as_raw_nonzero();
        let now = monotonic_ns();
        let ago = |at: u64| now.saturating_sub(at) / 1_000_000;
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let mut text = format!(
            "--- {} pid {pid}, started {} ms ago, ready {}, holder {}, killed {}, stopped {:?}, waits in {}\n",
            self.name,
            ago(self.started_ns),
            self.ready,
            self.holder,
            self.killed,
            self.stopped.map(|(since, _)| ago(since)),
            read("wchan"),
        );
        for (at, line) in &self.said {
            text.push_str(&format!("    {} ms ago: {line}\n", ago(*at)));
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
