//! A program of one of the hosts, in a process of its own, so that it can be killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use busway::Node;

use crate::stage::{PATIENCE, join, until};

const DIRECTORY: &str = "BUSWAY_WORK_DIRECTORY";
const ROLE: &str = "BUSWAY_WORK_ROLE";
const PEER: &str = "BUSWAY_WORK_PEER";

/// Long enough that nobody is late by accident.
pub(crate) const ACK: Duration = Duration::from_secs(60);

/// A part that runs.
pub(crate) struct Part {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Part {
    /// Starts one in the domain of this directory: `hold` takes a task, which is to be acknowledged, and keeps it; `pull` takes
    /// and does what comes; `answer` takes a request and says nothing; `node` is the node with index 0, which links with the peer.
    pub(crate) fn start(directory: &Path, role: &str, peer: Option<SocketAddr>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "part::works_if_it_was_started_as_a_part", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .env(ROLE, role)
            .env(PEER, peer.map_or_else(String::new, |peer| peer.to_string()))
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
    pub(crate) fn hear(&mut self, wanted: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the part ended before `{wanted}`");
            if line.contains(&format!("@{wanted}")) {
                return;
            }
        }
    }

    /// Returns when each of its threads waits for something.
    pub(crate) fn waits(&self) {
        until("it waits", || self.is(" S"));
    }

    /// SIGSTOP: it stays, and does nothing. Returns when each of its threads has stopped.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
        until("it has stopped", || self.is(" T"));
    }

    /// Whether each of its threads is in this state, as the kernel writes it.
    fn is(&self, state: &str) -> bool {
        let threads = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(&threads).unwrap().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(state)))
        })
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("@{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

#[test]
fn works_if_it_was_started_as_a_part() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let bus = join(Path::new(&directory), "part");
    match std::env::var(ROLE).unwrap().as_str() {
        "hold" => {
            let mut puller = bus.puller("work").ack(ACK).open().unwrap();
            say("ready");
            let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
            say("has");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(task);
        }
        "pull" => {
            let mut puller = bus.puller("work").open().unwrap();
            say("ready");
            loop {
                drop(puller.recv().unwrap());
                say("has");
            }
        }
        "answer" => {
            let mut responder = bus.responder("work").open().unwrap();
            say("ready");
            let request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
            say("has");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(request);
        }
        "node" => {
            let peer = std::env::var(PEER).unwrap();
            let loopback = "127.0.0.1:0".parse().unwrap();
            let node = Node::builder().cluster("work").index(0).listen(loopback).peer(1, &peer);
            let node = node.open(&bus).unwrap();
            assert!(node.wait_for_peers(1, PATIENCE));
            say("ready");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
        }
        role => panic!("no such role: {role}"),
    }
}
