//! Hosts of a run: a network namespace for each, and one with the bridge between them.
//!
//! Each line has a token bucket at both ends: at the host for what it sends, at the bridge for what it is sent. The kernel's own delays and losses need
//! a module that is often missing, so delay is made by [`relay`](crate::relay).
//!
//! Invariant: this machine's own network is not touched.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Failure, sweep};

/// What a token bucket keeps before it drops: as home routers do, some frames of a TCP window.
const QUEUE: &str = "50ms";
/// Some fifteen frames at a time.
const BURST: &str = "32kb";

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    hosts: usize,
    janitor: Option<Child>,
}

impl Network {
    /// So many hosts, whose lines carry so much each way; 0: as much as the machine can.
    pub(crate) fn new(hosts: usize, mbit: u64) -> Result<Self, Failure> {
        sweep::dead()?;
        let name = sweep::own_name();
        let mut janitor = Command::new(std::env::current_exe()?);
        janitor.args(["janitor", &name]).stdin(Stdio::piped()).stdout(Stdio::null());
        // An interrupt is for all that stand in the foreground, and who clears up has to outlast it.
        let janitor = std::os::unix::process::CommandExt::process_group(&mut janitor, 0).spawn()?;
        let network = Self { name, hosts, janitor: Some(janitor) };
        std::fs::create_dir_all(network.directory())?;
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for index in 0..hosts {
            network.add(index, mbit)?;
        }
        Ok(network)
    }

    fn add(&self, index: usize, mbit: u64) -> Result<(), Failure> {
        let (hub, host, port) = (self.hub(), self.host(index), port(index));
        ip(&["netns", "add", &host])?;
        ip(&["link", "add", &port, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
        ip(&["-n", &host, "address", "add", &format!("{}/24", self.address(index)), "dev", "eth0"])?;
        ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        ip(&["-n", &host, "link", "set", "lo", "up"])?;
        if mbit > 0 {
            let rate = format!("{mbit}mbit");
            for (place, line) in [(&host, "eth0"), (&hub, port.as_str())] {
                let mut words = vec!["-n", place, "qdisc", "add", "dev", line, "root", "tbf", "rate", &rate];
                words.extend(["burst", BURST, "latency", QUEUE]);
                call("tc", &words)?;
            }
        }
        Ok(())
    }

    /// Where what is shared lies, for each host to compare with.
    pub(crate) fn source(&self) -> std::path::PathBuf {
        self.directory().join("source")
    }

    /// Where the node of a host keeps its files.
    pub(crate) fn files_of(&self, index: usize) -> std::path::PathBuf {
        self.directory().join(index.to_string())
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts
    }

    pub(crate) fn address(&self, index: usize) -> String {
        format!("10.78.0.{}", index + 1)
    }

    /// Where the nodes of this run keep their files.
    pub(crate) fn directory(&self) -> std::path::PathBuf {
        sweep::directory(&self.name)
    }

    /// This program, in another role, on a host. It ends with us.
    pub(crate) fn on(&self, index: usize, words: &[&str]) -> Result<Command, Failure> {
        Ok(self.on_with(&std::env::current_exe()?, index, words))
    }

    /// A program on a host.
    pub(crate) fn on_with(&self, program: &Path, index: usize, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(index)]).arg(program).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Pulls the cable of a host out, or puts it in again.
    pub(crate) fn cable(&self, index: usize, state: &str) -> Result<(), Failure> {
        ip(&["-n", &self.hub(), "link", "set", &port(index), state])
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn host(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

fn ip(words: &[&str]) -> Result<(), Failure> {
    call("ip", words)
}

fn call(program: &str, words: &[&str]) -> Result<(), Failure> {
    let ended = Command::new(program).args(words).output();
    let ended = ended.map_err(|error| format!("cannot start {program}: {error}; install iproute2"))?;
    if ended.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&ended.stderr);
    Err(format!(
        "{program} {}: {}; namespaces and token buckets need root, and a kernel that has them",
        words.join(" "),
        told.trim()
    )
    .into())
}
