//! Three hosts, each a network namespace of its own: what the year 2013 had in flights crosses from one to another, while
//! the node there is killed and started again and the cable is pulled.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::ops::RangeInclusive;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::flights::{File, LINES, Reader};
use crate::harness::{Place, Running};
use crate::load::now;

const HOSTS: usize = 3;
/// Of the last host, where the subscriber is.
pub(crate) const FAR: usize = 2;
/// So long the cable is out.
const CUT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(60);

/// Namespaces at one bridge, which lies in another: this machine's own network is not touched.
pub(crate) struct Network {
    name: String,
}

impl Network {
    /// `None`, with the reason said, where it cannot be made.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can make network namespaces");
            return None;
        }
        if !Command::new("ip").arg("-V").output().is_ok_and(|ended| ended.status.success()) {
            println!("skipped: there is no `ip`: install iproute2");
            return None;
        }
        let network = Self { name: format!("busway-{:08x}", fastrand::u32(..)) };
        let hub = network.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "bridge", "up"]);
        for index in 0..HOSTS {
            let (host, port) = (network.host(index), port(index));
            ip(&["netns", "add", &host]);
            ip(&[
                "link", "add", &port, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &host,
            ]);
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"]);
            ip(&["-n", &host, "address", "add", &format!("10.77.0.{}/24", index + 1), "dev", "eth0"]);
            ip(&["-n", &host, "link", "set", "eth0", "up"]);
            ip(&["-n", &host, "link", "set", "lo", "up"]);
        }
        Some(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn host(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    /// `command` on a host.
    pub(crate) fn on(&self, index: usize, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.host(index)]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        there.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        there
    }

    /// From now on so much goes out of a host in a second, in the words of `tc`.
    pub(crate) fn slow_down(&self, index: usize, rate: &str) {
        let host = self.host(index);
        let mut words = vec!["-n", &host, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate];
        words.extend(["burst", "32kb", "latency", "400ms"]);
        run("tc", &words);
    }

    /// Pulls the cable of a host out, or puts it in again.
    fn cable(&self, index: usize, state: &str) {
        ip(&["-n", &self.hub(), "link", "set", &port(index), state]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for index in 0..HOSTS {
            let _ = Command::new("ip").args(["netns", "delete", &self.host(index)]).output();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.hub()]).output();
    }
}

fn port(index: usize) -> String {
    format!("port{index}")
}

fn address(index: usize) -> String {
    format!("10.77.0.{}:4420", index + 1)
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

/// A program of iproute2.
fn run(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output().expect("it comes with `ip`, which was there");
    assert!(ended.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A node on each host, linked with all others.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    places: [Place; HOSTS],
    nodes: Vec<(Running, BufReader<PipeReader>)>,
}

impl Cluster {
    pub(crate) fn new() -> Option<Self> {
        let network = Network::new()?;
        let mut cluster = Self { network, places: std::array::from_fn(|_| Place::new()), nodes: Vec::new() };
        cluster.nodes = (0..HOSTS).map(|index| cluster.node(index)).collect();
        Some(cluster)
    }

    fn node(&self, index: usize) -> (Running, BufReader<PipeReader>) {
        let number = index.to_string();
        let mut words =
            vec!["up".to_owned(), "--index".to_owned(), number, "--allow-plain-beyond-loopback".to_owned()];
        words.extend(["--listen".to_owned(), address(index)]);
        for other in (0..HOSTS).filter(|other| *other != index) {
            words.extend(["--peer".to_owned(), format!("{other}={}", address(other))]);
        }
        let (node, stream, line) =
            Running::spoken(self.network.on(index, &self.places[index].command(&words)));
        assert!(line.starts_with("ready "), "{line}");
        (node, stream)
    }

    pub(crate) fn command(&self, index: usize, words: &[&str]) -> Command {
        self.network.on(index, &self.places[index].command(words))
    }

    /// Kills the node of the subscriber's host and starts it again.
    fn kill_far_node(&mut self) {
        let (node, _stream) = self.nodes.pop().expect("there are three");
        node.signal(Signal::KILL);
        node.finish();
        let again = self.node(FAR);
        self.nodes.push(again);
    }

    fn publisher(&self, words: &[&str]) -> (Running, ChildStdin) {
        let all: Vec<&str> = ["pub", "flights", "--lines", "--wait"].iter().chain(words).copied().collect();
        let mut command = self.command(0, &all);
        command.stdin(Stdio::piped());
        let mut publisher = Running::start(command);
        let input = publisher.stdin().expect("stdin is a pipe");
        (publisher, input)
    }

    /// Ends all in order, once every node has both others as peers again.
    pub(crate) fn end(self) {
        for index in 0..HOSTS {
            let linked = || {
                let peers =
                    Running::start(self.command(index, &["peers", "--json"])).finish().expect(0).text();
                let states = peers.lines().map(|line| serde_json::from_str(line).expect("an object"));
                states.filter(|peer: &Value| peer["state"] == "connected").count() == HOSTS - 1
            };
            let deadline = now() + DEADLINE;
            while !linked() {
                assert!(now() < deadline, "host {index} is not linked with all others again");
            }
        }
        for (node, _stream) in self.nodes {
            node.signal(Signal::TERM);
            node.finish().expect(0);
        }
    }
}

#[test]
fn flights_cross_to_a_reliable_subscriber_unchanged_though_its_node_is_killed_and_its_cable_pulled() {
    let Some(mut cluster) = Cluster::new() else { return };
    let file = File::new();
    let marks: Vec<usize> = (1..5).map(|part| file.end_of(part, 5)).chain([file.bytes.len()]).collect();
    let count = LINES.to_string();
    let subscriber = cluster.command(FAR, &["sub", "flights", "--reliable", "--raw", "--count", &count]);
    let reader = Reader::of(subscriber, &file, &marks);
    let (publisher, mut input) = cluster.publisher(&["--max-wait", "60s", "--linger", "60s"]);
    let bytes = Arc::clone(&file.bytes);
    // What is done at a mark is done in the midst of records, however long it takes: no more than half of those up to the next
    // mark are sent before.
    let (more, told) = channel();
    let writer = std::thread::spawn(move || {
        let mut at = 0;
        for to in told {
            input.write_all(&bytes[at..to])?;
            at = to;
        }
        std::io::Result::Ok(())
    });
    let middle = |at: usize| if at < marks.len() { file.end_of(2 * at + 1, 10) } else { file.bytes.len() };
    more.send(middle(1)).expect("it writes");
    for (at, mark) in marks.iter().enumerate() {
        reader.wait_for(*mark);
        let goes_on = || more.send(middle(at + 2)).expect("it writes");
        match at {
            0 | 2 => {
                cluster.kill_far_node();
                goes_on();
            }
            1 | 3 => {
                cluster.network.cable(FAR, "down");
                goes_on();
                reader.stays_for(CUT);
                cluster.network.cable(FAR, "up");
            }
            _ => {}
        }
    }
    drop(more);
    writer.join().expect("it does not panic").expect("all lines were taken");
    reader.process.finish().expect(0);
    let ended = publisher.finish().expect(0);
    let account = format!("sent {LINES} subscribers 1 delivered {LINES} dropped 0 in-flight 0");
    assert_eq!(ended.last_error_line(), account);
    cluster.end();
    println!("evidence: {LINES} records unchanged over 3 namespaces, 2 kills, 2 cuts of {CUT:?}");
}

/// What a subscriber that may lose has told.
enum Told {
    /// The sequence of a message that came and was right.
    Came(u64),
    /// A range that did not, with its cause and link.
    Lost(RangeInclusive<u64>, String),
    End,
}

/// The losses in one line of `busway sub`; `None` where it is not about losses.
fn losses_in(line: &str) -> Option<Vec<Told>> {
    let (head, ranges) = line.strip_prefix("lost ")?.split_once("): ")?;
    let (count, cause) = head.split_once(" on flights (")?;
    let numbers = |range: &str| -> RangeInclusive<u64> {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        from.parse().expect("a sequence")..=to.parse().expect("a sequence")
    };
    let ranges: Vec<RangeInclusive<u64>> = ranges.split(' ').map(numbers).collect();
    let total: u64 = ranges.iter().map(|range| range.end() - range.start() + 1).sum();
    assert_eq!(count.parse(), Ok(total), "{line}");
    Some(ranges.into_iter().map(|range| Told::Lost(range, cause.to_owned())).collect())
}

/// The far subscriber, and what it has told so far: each sequence once, as come or as lost.
struct Tally {
    told: Receiver<Told>,
    came: u64,
    lost: BTreeMap<String, (u64, u64)>,
    seen: Vec<bool>,
}

impl Tally {
    fn start(mut command: Command, file: &File) -> (Self, u32, std::thread::JoinHandle<String>) {
        let (sender, told) = channel();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let mut subscriber = Running::start(command);
        subscriber.stderr_until(|line| line == "ready flights");
        let (pid, lines) = (subscriber.pid(), sender.clone());
        let bytes = Arc::clone(&file.bytes);
        std::thread::spawn(move || Self::read(reader, &bytes, &sender));
        let words = std::thread::spawn(move || {
            let last = subscriber.stderr_until(|line| {
                for told in losses_in(line).into_iter().flatten() {
                    let _ = lines.send(told);
                }
                line.starts_with("received ")
            });
            subscriber.finish().expect(0);
            let _ = lines.send(Told::End);
            last
        });
        (Self { told, came: 0, lost: BTreeMap::new(), seen: vec![false; LINES + 1] }, pid, words)
    }

    fn read(reader: PipeReader, file: &[u8], told: &Sender<Told>) {
        let records: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
        for line in BufReader::new(reader).lines() {
            let message: Value = serde_json::from_str(&line.expect("a line is read")).expect("an object");
            let sequence = message["sequence"].as_u64().expect("a number");
            let record = records[usize::try_from(sequence).expect("it fits") - 1];
            assert_eq!(message["body"].as_str().map(str::as_bytes), Some(record), "record {sequence}");
            let _ = told.send(Told::Came(sequence));
        }
    }

    fn note(&mut self, told: Told) {
        let sequences = match told {
            Told::Came(sequence) => {
                self.came += 1;
                sequence..=sequence
            }
            Told::Lost(range, cause) => {
                let sum = self.lost.entry(cause).or_default();
                *sum = (sum.0 + 1, sum.1 + range.end() - range.start() + 1);
                range
            }
            Told::End => return,
        };
        for sequence in sequences {
            let at = usize::try_from(sequence).expect("it fits");
            assert!(!std::mem::replace(&mut self.seen[at], true), "{sequence} was told twice");
        }
    }

    fn lost(&self) -> u64 {
        self.lost.values().map(|(_, count)| count).sum()
    }

    /// Waits until everything up to `count` was told.
    fn wait_for(&mut self, count: usize) {
        while self.came + self.lost() < count as u64 {
            match self.told.recv_timeout(DEADLINE) {
                Ok(told) => self.note(told),
                Err(error) => panic!("{error}: {} came, {:?} lost, of {count}", self.came, self.lost),
            }
        }
        assert!(self.seen[1..=count].iter().all(|seen| *seen), "each up to {count}, and no other");
    }

    /// Passes `time`, whatever is told.
    fn pass(&mut self, time: Duration) {
        let (_kept, over) = channel::<()>();
        assert_eq!(over.recv_timeout(time), Err(RecvTimeoutError::Timeout));
        while let Ok(told) = self.told.try_recv() {
            self.note(told);
        }
    }
}

#[test]
fn of_flights_that_may_be_lost_each_comes_or_is_told_with_its_range_its_cause_and_its_link() {
    let Some(mut cluster) = Cluster::new() else { return };
    let file = File::new();
    let (mut tally, pid, words) = Tally::start(cluster.command(FAR, &["sub", "flights", "--json"]), &file);
    let (publisher, mut input) = cluster.publisher(&[]);
    let bounds: Vec<usize> =
        [0].into_iter().chain((1..5).map(|part| file.end_of(part, 5))).chain([file.bytes.len()]).collect();
    for (at, part) in bounds.windows(2).enumerate() {
        match at {
            0 => input.write_all(&file.bytes[part[0]..part[1]]).expect("nobody waits"),
            1 | 3 => {
                cluster.network.cable(FAR, "down");
                input.write_all(&file.bytes[part[0]..part[1]]).expect("nobody waits");
                tally.pass(CUT);
                cluster.network.cable(FAR, "up");
            }
            _ => {
                let middle = part[0] + file.bytes[part[0]..part[1]].len() / 2;
                input.write_all(&file.bytes[part[0]..middle]).expect("nobody waits");
                cluster.kill_far_node();
                input.write_all(&file.bytes[middle..part[1]]).expect("nobody waits");
            }
        }
        // The last line of a part may be the last that its publisher sends for long: it is told of all the same.
        tally.wait_for(file.bytes[..part[1]].iter().filter(|byte| **byte == b'\n').count());
    }
    drop(input);
    publisher.finish().expect(0);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("it runs");
    let last = words.join().expect("each range has its cause");
    while let Ok(told) = tally.told.recv_timeout(DEADLINE) {
        tally.note(told);
    }
    let (came, lost) = (tally.came, tally.lost());
    assert_eq!(last, format!("received {came} lost {lost}"));
    assert_eq!(came + lost, LINES as u64);
    // What nobody on the subscriber's own host lost was lost between the hosts, and says so.
    for cause in tally.lost.keys() {
        assert!(
            cause.ends_with(", node 0 > node 2") || ["lapped", "ring_bytes"].contains(&cause.as_str()),
            "{cause}"
        );
    }
    assert!(tally.lost.keys().any(|cause| cause.ends_with(", node 0 > node 2")), "{:?}", tally.lost);
    cluster.end();
    println!(
        "evidence: {came} came, lost in (ranges, records): {:?}; 2 kills, 2 cuts of {CUT:?}",
        tally.lost
    );
}
