//! One transfer: the first node gives all others what they want, and what that took.
//!
//! It knows nodes by what they say, so that those of another program are measured as ours are.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::Failure;
use crate::clock::{Processors, Until, pause, processor_seconds, seconds_between};
use crate::part::Parts;

/// Small messages a second: some hundred in the shortest transfer, a two-hundredth of the line.
const PINGS: u64 = 250;
const HEARD: Duration = Duration::from_secs(30);
/// A node that writes no more than this in this time has nothing more to send: what keeps links alive is less.
const SETTLED: Duration = Duration::from_millis(250);
const QUIET_BYTES: f64 = 4_096.0;
/// It is waited for no longer: what the kernels of 32 hosts keep of a program that fills all buffers of its sockets takes most of a minute on their lines.
const SETTLED_MAX: Duration = Duration::from_secs(120);
/// So many times as much crosses the lines of a node that has nothing to say but that it is there, with headers and receipts.
const HEADED: f64 = 4.0;

/// How a transfer went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfer {
    /// Bytes that one node was to be given.
    pub(crate) bytes: u64,
    /// Until each node had all of it, in seconds, in their order, but for who was stopped.
    pub(crate) seconds: Vec<f64>,
    /// Written to sockets, by all.
    pub(crate) written: f64,
    /// Sent on the lines by all hosts, with the headers of packets, receipts and what was sent again, by whomever.
    pub(crate) crossed: f64,
    pub(crate) wasted: f64,
    /// Messages that had no room or waited too long, where a node counts such.
    pub(crate) lost: f64,
    /// Of one of a hundred small messages, in milliseconds, while it went; and how many there were.
    pub(crate) beside: Option<(f64, u64)>,
    /// Processor time of all nodes together.
    pub(crate) processors: f64,
    /// How much of all processors was in use, by whomever.
    pub(crate) busy: f64,
}

impl Transfer {
    pub(crate) fn last(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

/// The nodes of one program, on lines of which it is known what they give.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) parts: Parts,
    /// Bytes a second of the plain stream.
    pub(crate) line: f64,
    pub(crate) topics: u32,
}

impl Swarm {
    pub(crate) fn new(parts: Parts, line: f64) -> Self {
        Self { parts, line, topics: 0 }
    }

    pub(crate) fn count(&self) -> usize {
        self.parts.count()
    }

    /// The last node takes the time of the small messages that the first sends from now on, until [`Swarm::silence`].
    pub(crate) fn ping(&mut self) -> Result<(), Failure> {
        self.parts.tell(0, &format!("ping {PINGS}"))?;
        self.parts.hear(0, "pinging", HEARD)?;
        Ok(())
    }

    pub(crate) fn listen(&mut self) -> Result<(), Failure> {
        let last = self.count() - 1;
        self.parts.tell(last, "listen")?;
        self.parts.hear(last, "listening", HEARD)?;
        Ok(())
    }

    pub(crate) fn silence(&mut self) -> Result<(), Failure> {
        self.parts.tell(0, "silence")
    }

    /// What one of a hundred small messages took since this was asked last, in milliseconds, and how many came.
    pub(crate) fn times(&mut self) -> Result<(f64, u64), Failure> {
        let told = self.parts.ask(self.count() - 1, "times")?;
        Ok((number(&told, "p99_ns") / 1e6, told["count"].as_u64().unwrap_or_default()))
    }

    /// The least time that so many bytes can take to be with all.
    pub(crate) fn bound(&self, bytes: u64) -> f64 {
        let (rate, nodes) = (self.line, real(self.count()));
        let (one, all) = (real64(bytes) / rate, (nodes - 1.0) * real64(bytes) / (nodes * rate));
        one.max(all)
    }

    pub(crate) fn counts(&mut self) -> Result<Vec<Value>, Failure> {
        (0..self.count()).map(|node| self.parts.ask(node, "counts")).collect()
    }

    /// Bytes that all others are given together.
    pub(crate) fn given(&self, transfer: &Transfer) -> f64 {
        real64(transfer.bytes) * (real(self.count()) - 1.0)
    }

    fn used(&self) -> f64 {
        (0..self.count()).map(|node| processor_seconds(self.parts.pid(node))).sum()
    }

    fn crossed(&self) -> f64 {
        (0..self.count()).map(|node| real64(sent_by_host(self.parts.pid(node)))).sum()
    }

    /// What nodes count when nothing is on its way any more: what comes twice goes on when all have it, and what kernels have taken long after the nodes wrote it.
    fn settled(&mut self) -> Result<Vec<Value>, Failure> {
        let (until, most) = (Until::after(SETTLED_MAX), QUIET_BYTES * real(self.count()));
        let written = |counts: &[Value]| counts.iter().map(|one| number(one, "sockets_out")).sum::<f64>();
        let (mut before, mut crossed) = (self.counts()?, self.crossed());
        loop {
            pause(SETTLED);
            let (now, crosses) = (self.counts()?, self.crossed());
            let settled = written(&now) - written(&before) < most && crosses - crossed < HEADED * most;
            if settled {
                return Ok(now);
            }
            if until.left().is_zero() {
                return Err(format!("all have it, and {SETTLED_MAX:?} later the lines are not quiet").into());
            }
            (before, crossed) = (now, crosses);
        }
    }

    /// The first node gives all others so many artifacts of this size; `stopped` stands still from a third of the way on until the others have them.
    pub(crate) fn transfer(
        &mut self,
        count: u64,
        body: u64,
        stopped: Option<usize>,
    ) -> Result<Transfer, Failure> {
        self.topics += 1;
        let (topic, bytes) = (format!("swarm.{}", self.topics), count * body);
        let most = Duration::from_secs_f64(60.0 + 30.0 * self.bound(bytes));
        let before = self.counts()?;
        let (used, crossed, processors) = (self.used(), self.crossed(), Processors::now());
        self.times()?;
        self.parts.tell(0, &format!("offer {topic} {count} {body} {}", self.topics))?;
        let told = self.parts.hear(0, &format!("offered {topic}"), most)?;
        let begun: u64 = told.parse()?;
        if let Some(node) = stopped {
            pause(Duration::from_secs_f64(self.bound(bytes) / 3.0));
            self.parts.signal(node, Signal::STOP)?;
        }
        let mut transfer = Transfer { bytes, ..Transfer::default() };
        for node in (1..self.count()).filter(|node| Some(*node) != stopped) {
            let at: u64 = self.parts.hear(node, &format!("have {topic}"), most)?.parse()?;
            transfer.seconds.push(seconds_between(begun, at));
        }
        transfer.busy = processors.busy_since();
        if let Some(node) = stopped {
            self.parts.signal(node, Signal::CONT)?;
            self.parts.hear(node, &format!("have {topic}"), most)?;
        }
        self.silence()?;
        let after = self.settled()?;
        // Those too that had been sent, and came when all had it.
        transfer.beside = Some(self.times()?).filter(|(_, count)| *count > 0);
        let more = |name: &str| {
            after.iter().zip(&before).map(|(after, before)| number(after, name) - number(before, name)).sum()
        };
        (transfer.written, transfer.wasted, transfer.lost) =
            (more("sockets_out"), more("wasted"), more("lost"));
        (transfer.crossed, transfer.processors) = (self.crossed() - crossed, self.used() - used);
        self.parts.tell(0, &format!("withdraw {topic}"))?;
        for node in 0..self.count() {
            self.parts.hear(node, &format!("gone {topic}"), most)?;
        }
        Ok(transfer)
    }
}

/// Bytes that the host on which a process runs has sent on its line.
fn sent_by_host(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    sent_on(&text, "eth0")
}

/// Of the table of interfaces that the kernel prints; 0 where there is no such interface.
fn sent_on(table: &str, interface: &str) -> u64 {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    // Eight columns of what came stand before it.
    line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).unwrap_or_default()
}

pub(crate) fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a run, far below 2^52")]
pub(crate) fn real64(count: u64) -> f64 {
    count as f64
}

pub(crate) fn real(count: usize) -> f64 {
    real64(count as u64)
}

#[cfg(test)]
mod tests {
    use super::sent_on;

    #[test]
    fn what_a_host_sent_is_the_ninth_column_of_its_line() {
        let table = "Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 5000      10    0    0    0     0          0         0     7000      12    0    0    0     0       0          0
";
        assert_eq!((sent_on(table, "eth0"), sent_on(table, "lo"), sent_on(table, "eth1")), (7_000, 100, 0));
    }
}
