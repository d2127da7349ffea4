//! The nodes of a run, as who has the say knows them.
//!
//! Invariant: what a node says is heard in order; nothing is awaited longer than it may take.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Failure;
use crate::clock::{Until, pause};
use crate::network::Network;

/// One node, and its relay if there is one.
#[derive(Debug)]
struct Part {
    /// How often it was started; what an earlier one said last is not heard.
    life: u32,
    lives: bool,
    child: Child,
    input: ChildStdin,
    heard: VecDeque<String>,
    relay: Option<Child>,
}

/// What the nodes of a run are.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// Its role, and what it is told beside.
    pub(crate) role: Vec<String>,
    /// Below the files of its host, where there is a node of another program too.
    pub(crate) folder: &'static str,
    pub(crate) port: u16,
    /// Later than the line, each way.
    pub(crate) delay_ms: u64,
}

impl Program {
    /// This program, in a role.
    pub(crate) fn ours(delay_ms: u64, role: &[&str]) -> Result<Self, Failure> {
        let role = role.iter().map(|word| (*word).to_owned()).collect();
        Ok(Self { path: std::env::current_exe()?, role, folder: "", port: PORT, delay_ms })
    }

    /// Another one, that obeys as a node of ours does, set as this text says.
    pub(crate) fn other(path: PathBuf, settings: &str) -> Self {
        let role = vec!["node".to_owned(), settings.to_owned()];
        Self { path, role, folder: "other", port: PORT_OF_OTHERS, delay_ms: 0 }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Parts {
    parts: Vec<Part>,
    program: Program,
    lines: Receiver<Line>,
    sender: Sender<Line>,
}

/// Who said it, in which of its lives; none where that has ended.
type Line = (usize, u32, Option<String>);

const PORT: u16 = 4_420;
const PORT_OF_OTHERS: u16 = 4_430;
const RELAY_PORT: usize = 5_000;

impl Parts {
    /// A node on each host, each linked to each other.
    pub(crate) fn start(network: &Network, program: Program) -> Result<Self, Failure> {
        let (sender, lines) = channel();
        let delay_ms = program.delay_ms;
        let mut parts = Self { parts: Vec::new(), program, lines, sender };
        // Who is dialed has the larger index, and is there first.
        for index in 0..network.hosts() {
            let relay = relay(network, index, delay_ms)?;
            let part = parts.part(network, index, relay, 0)?;
            parts.parts.push(part);
        }
        for index in 0..network.hosts() {
            parts.hear(index, "ready", Duration::from_secs(60))?;
        }
        parts.wait_for_links(Duration::from_secs(60))?;
        Ok(parts)
    }

    fn wait_for_links(&mut self, most: Duration) -> Result<(), Failure> {
        let until = Until::after(most);
        for index in 0..self.parts.len() {
            while self.links(index)?.len() + 1 < self.parts.len() {
                if until.left().is_zero() {
                    return Err(format!("node {index} is not linked to all others after {most:?}").into());
                }
                pause(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.parts.len()
    }

    pub(crate) fn pid(&self, index: usize) -> u32 {
        self.parts[index].child.id()
    }

    pub(crate) fn tell(&mut self, index: usize, line: &str) -> Result<(), Failure> {
        writeln!(self.parts[index].input, "{line}").map_err(|error| format!("node {index}: {error}"))?;
        Ok(())
    }

    /// Waits for a line of this node that begins so; what follows in it. Others are kept.
    pub(crate) fn hear(&mut self, index: usize, first: &str, most: Duration) -> Result<String, Failure> {
        let until = Until::after(most);
        loop {
            let heard = &mut self.parts[index].heard;
            if let Some(at) = heard.iter().position(|line| line.starts_with(first)) {
                let line = heard.remove(at).unwrap_or_default();
                return Ok(line[first.len()..].trim().to_owned());
            }
            match self.lines.recv_timeout(until.left()) {
                Ok((from, life, _)) if life != self.parts[from].life || !self.parts[from].lives => {}
                Ok((from, _, Some(line))) => self.parts[from].heard.push_back(line),
                Ok((from, _, None)) => return Err(format!("node {from} has ended").into()),
                Err(_) => return Err(format!("node {index} has not said `{first}` within {most:?}").into()),
            }
        }
    }

    /// Asks a node something that it answers at once.
    pub(crate) fn ask(&mut self, index: usize, word: &str) -> Result<Value, Failure> {
        self.tell(index, word)?;
        let told = self.hear(index, word, Duration::from_secs(60))?;
        Ok(serde_json::from_str(&told)?)
    }

    /// The links of a node that stand: to whom, since when, and what a round trip takes.
    pub(crate) fn links(&mut self, index: usize) -> Result<Vec<Value>, Failure> {
        Ok(self.ask(index, "links")?.as_array().cloned().unwrap_or_default())
    }

    /// Whether a node has said a line that begins so. It stays to be heard.
    pub(crate) fn has_said(&self, index: usize, first: &str) -> bool {
        self.parts[index].heard.iter().any(|line| line.starts_with(first))
    }

    /// Ends a node as the kernel does that wants its memory.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), Failure> {
        let part = &mut self.parts[index];
        part.lives = false;
        part.heard.clear();
        part.child.kill()?;
        part.child.wait()?;
        Ok(())
    }

    /// Starts a node again that was killed, with the files that it had.
    pub(crate) fn start_again(&mut self, network: &Network, index: usize) -> Result<(), Failure> {
        let (relay, life) = (self.parts[index].relay.take(), self.parts[index].life + 1);
        self.parts[index] = self.part(network, index, relay, life)?;
        self.hear(index, "ready", Duration::from_secs(60))?;
        Ok(())
    }

    fn part(
        &self,
        network: &Network,
        index: usize,
        relay: Option<Child>,
        life: u32,
    ) -> Result<Part, Failure> {
        let Program { path, role, folder, port, .. } = &self.program;
        let directory = network.files_of(index).join(folder);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let directory = directory.display().to_string();
        let (role, rest) = role.split_first().ok_or("no role")?;
        let mut words = vec![role.clone(), directory];
        words.extend_from_slice(rest);
        words.extend([index.to_string(), format!("{}:{port}", network.address(index))]);
        let others = (0..network.hosts()).filter(|other| *other != index);
        words.extend(others.map(|other| match &relay {
            Some(_) if other > index => format!("{other}=127.0.0.1:{}", RELAY_PORT + other),
            _ => format!("{other}={}:{port}", network.address(other)),
        }));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = network.on_with(path, index, &words).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = (input.ok_or("no input")?, output.ok_or("no output")?);
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((index, life, Some(line))).is_err() {
                    return;
                }
            }
            let _ = sender.send((index, life, None));
        });
        Ok(Part { life, lives: true, child, input, heard: VecDeque::new(), relay })
    }

    /// Stops a node as a debugger does, or lets it go on.
    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid(index)).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        kill_process(pid, signal)?;
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for part in &mut self.parts {
            for child in [Some(&mut part.child), part.relay.as_mut()].into_iter().flatten() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// What stands between a host and those that it dials, where lines are to be late.
fn relay(network: &Network, index: usize, delay_ms: u64) -> Result<Option<Child>, Failure> {
    if delay_ms == 0 || index + 1 == network.hosts() {
        return Ok(None);
    }
    let mut words = vec!["relay".to_owned(), delay_ms.to_string()];
    for other in index + 1..network.hosts() {
        words.push(format!("127.0.0.1:{}", RELAY_PORT + other));
        words.push(format!("{}:{PORT}", network.address(other)));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = network.on(index, &words)?.spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err(format!("the relay of host {index} has ended").into());
    }
    Ok(Some(child))
}
