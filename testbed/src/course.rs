//! The course of a run: what is measured, in which order.
//!
//! First the plain stream, on lines that carry nothing else; then nodes that have nothing to do; then one node gives all others what they want, while small messages
//! cross the same lines; then the same with one of them stopped; then a cable is pulled. Every transfer is compared with what the plain stream gave in the same run.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::Failure;
use crate::clock::{Processors, now_ns, pause, processor_seconds, seconds_between};
use crate::network::Network;
use crate::options::Options;
use crate::part::Parts;
use crate::report::Report;

/// Small messages a second: some hundred in the shortest transfer, a two-hundredth of the line.
const PINGS: u64 = 250;
const IDLE: Duration = Duration::from_secs(3);
const CUT: Duration = Duration::from_secs(2);
/// More than the idle time that one of a hundred small messages may take beside bulk, in milliseconds.
const BESIDE_BULK_MS: f64 = 2.0;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Runs all of it and prints what was found.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let network = Network::new(options.nodes, options.mbit)?;
    let line = line(&network, if options.brief { 1.0 } else { 2.0 })?;
    let parts = Parts::start(&network, options.delay_ms, &["node"])?;
    let report = report(options, line);
    let mut course = Course { options, network: &network, parts, report, line, topics: 0 };
    course.run()?;
    course.report.print(options.json);
    Ok(())
}

fn report(options: &Options, line: f64) -> Report {
    let Options { nodes, mbit, size, body, delay_ms, rounds, .. } = options;
    let head = format!(
        "{nodes} nodes, {mbit} Mbit/s each way ({:.2} MB/s as one TCP stream), {size} bytes in artifacts of {body}, {delay_ms} ms later each way",
        line / 1e6
    );
    let facts = json!({
        "nodes": nodes, "mbit": mbit, "size": size, "body": body, "delay_ms": delay_ms, "rounds": rounds,
        "line_bytes_per_s": line,
    });
    Report::new(head, facts)
}

/// Bytes a second of one plain stream from the first host to the second.
fn line(network: &Network, seconds: f64) -> Result<f64, Failure> {
    use std::io::{BufRead, BufReader};
    let address = format!("{}:4400", network.address(1));
    let mut receiver = network.on(1, &["receive", &address])?.spawn()?;
    let mut output = BufReader::new(receiver.stdout.take().ok_or("no output")?);
    let mut told = String::new();
    output.read_line(&mut told)?;
    let mut sender = network.on(0, &["send", &address, &seconds.to_string()])?.spawn()?;
    told.clear();
    output.read_line(&mut told)?;
    sender.wait()?;
    receiver.wait()?;
    Ok(told.trim().parse().map_err(|_| format!("the plain stream said {told:?}"))?)
}

/// How a transfer went.
#[derive(Debug, Default)]
struct Transfer {
    /// Bytes that one node was to be given.
    bytes: u64,
    /// Until each node had all of it, in seconds, but for who was stopped.
    seconds: Vec<f64>,
    /// Written to sockets, by all.
    written: f64,
    wasted: f64,
    /// Of one of a hundred small messages, in milliseconds, while it went; and how many there were.
    beside: Option<(f64, u64)>,
    /// Processor time of all nodes together.
    processors: f64,
}

impl Transfer {
    fn last(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }
}

struct Course<'a> {
    options: &'a Options,
    network: &'a Network,
    parts: Parts,
    report: Report,
    /// Bytes a second of the plain stream.
    line: f64,
    topics: u32,
}

impl Course<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let last = self.parts.count() - 1;
        if !self.options.brief {
            self.idle();
        }
        self.parts.tell(last, "listen")?;
        self.parts.hear(last, "listening", Duration::from_secs(30))?;
        self.parts.tell(0, &format!("ping {PINGS}"))?;
        self.parts.hear(0, "pinging", Duration::from_secs(30))?;
        pause(if self.options.brief { Duration::from_secs(1) } else { IDLE });
        let (idle_ms, _) = self.times()?;
        let (count, body) = (self.options.size / self.options.body, self.options.body);
        let (mut clean, mut stalled) = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            clean.push(self.transfer(count, body, None)?);
            if !self.options.brief {
                stalled.push(self.transfer(count, body, Some(last - 1))?);
            }
        }
        self.bulk(&clean, idle_ms);
        if !self.options.brief {
            self.stall(&clean, &stalled);
        }
        self.parts.tell(0, "silence")?;
        if !self.options.brief {
            self.small()?;
            self.cut(last - 1)?;
        }
        self.accounts()
    }

    /// What nodes that have nothing to do cost.
    fn idle(&mut self) {
        let used = |course: &Self| {
            (0..course.parts.count()).map(|node| processor_seconds(course.parts.pid(node))).sum::<f64>()
        };
        let (before, begun) = (used(self), now_ns());
        pause(IDLE);
        let share =
            (used(self) - before) / seconds_between(begun, now_ns()) / real(self.parts.count()) * 100.0;
        let words = format!("of a processor, over {IDLE:?}, linked to {} others", self.parts.count() - 1);
        self.report.note("idle", "a node that has nothing to do", (share, "%"), None, words);
    }

    /// What one of a hundred small messages took since this was asked last, and how many came.
    fn times(&mut self) -> Result<(f64, u64), Failure> {
        let told = self.parts.ask(self.parts.count() - 1, "times")?;
        Ok((number(&told, "p99_ns") / 1e6, told["count"].as_u64().unwrap_or_default()))
    }

    /// The least time that so many bytes can take to be with all.
    fn bound(&self, bytes: u64) -> f64 {
        let (rate, nodes) = (self.line, real(self.parts.count()));
        let (one, all) = (real64(bytes) / rate, (nodes - 1.0) * real64(bytes) / (nodes * rate));
        one.max(all)
    }

    fn counts(&mut self) -> Result<Vec<Value>, Failure> {
        (0..self.parts.count()).map(|node| self.parts.ask(node, "counts")).collect()
    }

    /// The first node gives all others so many artifacts of this size; `stopped` stands still from a third of the way on until the others have them.
    fn transfer(&mut self, count: u64, body: u64, stopped: Option<usize>) -> Result<Transfer, Failure> {
        self.topics += 1;
        let (topic, bytes) = (format!("swarm.{}", self.topics), count * body);
        let most = Duration::from_secs_f64(60.0 + 30.0 * self.bound(bytes));
        let before = self.counts()?;
        let used: Vec<f64> =
            (0..self.parts.count()).map(|node| processor_seconds(self.parts.pid(node))).collect();
        let processors = Processors::now();
        self.times()?;
        self.parts.tell(0, &format!("offer {topic} {count} {body} {}", self.topics))?;
        let told = self.parts.hear(0, &format!("offered {topic}"), most)?;
        let begun: u64 = told.parse()?;
        if let Some(node) = stopped {
            pause(Duration::from_secs_f64(self.bound(bytes) / 3.0));
            self.parts.signal(node, Signal::STOP)?;
        }
        let mut transfer = Transfer { bytes, ..Transfer::default() };
        for node in (1..self.parts.count()).filter(|node| Some(*node) != stopped) {
            let at: u64 = self.parts.hear(node, &format!("have {topic}"), most)?.parse()?;
            transfer.seconds.push(seconds_between(begun, at));
        }
        transfer.beside = Some(self.times()?).filter(|(_, count)| *count > 0);
        if stopped.is_none() {
            self.report.busy = self.report.busy.max(processors.busy_since());
        }
        if let Some(node) = stopped {
            self.parts.signal(node, Signal::CONT)?;
            self.parts.hear(node, &format!("have {topic}"), most)?;
        }
        let after = self.counts()?;
        let more = |name: &str| {
            after.iter().zip(&before).map(|(after, before)| number(after, name) - number(before, name)).sum()
        };
        (transfer.written, transfer.wasted) = (more("sockets_out"), more("wasted"));
        transfer.processors =
            used.iter().enumerate().map(|(node, used)| processor_seconds(self.parts.pid(node)) - used).sum();
        self.parts.tell(0, &format!("withdraw {topic}"))?;
        for node in 0..self.parts.count() {
            self.parts.hear(node, &format!("gone {topic}"), most)?;
        }
        Ok(transfer)
    }

    fn given(&self, transfer: &Transfer) -> f64 {
        real64(transfer.bytes) * (real(self.parts.count()) - 1.0)
    }

    /// G1, G2, G3 and G4 of the undisturbed transfers.
    fn bulk(&mut self, clean: &[Transfer], idle_ms: f64) {
        let Some(first) = clean.first() else { return };
        let most = if self.options.body >= MIB { 1.02 } else { 1.05 };
        let ratio = median(clean.iter().map(|transfer| transfer.written / self.given(transfer)));
        let words = format!("{:.0} bytes written to sockets for {:.0}", first.written, self.given(first));
        self.report.note(
            "G1",
            &format!("written / useful, {} bytes", self.options.body),
            (ratio, ""),
            Some(most),
            words,
        );
        let twice = median(clean.iter().map(|transfer| transfer.wasted / self.given(transfer) * 100.0));
        self.report.note(
            "G2",
            "bodies that came twice",
            (twice, "%"),
            Some(1.0),
            format!("{:.0} bytes", first.wasted),
        );
        let (bound, seconds) = (self.bound(first.bytes), median(clean.iter().map(Transfer::last)));
        let words = format!(
            "{seconds:.3} s, at least {bound:.3} s; nodes used {:.2} s of processors",
            first.processors
        );
        self.report.note(
            "G3",
            "time until all have it / the least",
            (seconds / bound, ""),
            Some(1.10),
            words,
        );
        let beside: Vec<(f64, u64)> = clean.iter().filter_map(|transfer| transfer.beside).collect();
        if !beside.is_empty() {
            let (worst, count) = (
                median(beside.iter().map(|(ms, _)| *ms)),
                beside.iter().map(|(_, count)| count).sum::<u64>(),
            );
            let words =
                format!("{count} messages of 256 bytes from the one that gives; idle {idle_ms:.3} ms");
            self.report.note(
                "G4",
                "p99 of a small message beside bulk",
                (worst, "ms"),
                Some(idle_ms + BESIDE_BULK_MS),
                words,
            );
        }
    }

    /// G6.
    fn stall(&mut self, clean: &[Transfer], stalled: &[Transfer]) {
        // Who is stopped is the last but one, and the only one that the stalled transfers do not have.
        let without = |transfer: &Transfer| {
            let last_but_one = transfer.seconds.len() - 2;
            let others = transfer.seconds.iter().enumerate().filter(|(at, _)| *at != last_but_one);
            others.map(|(_, seconds)| *seconds).fold(0.0, f64::max)
        };
        let (alone, beside) = (median(clean.iter().map(without)), median(stalled.iter().map(Transfer::last)));
        let words = format!("{beside:.3} s for all others, {alone:.3} s where none is stopped");
        self.report.note(
            "G6",
            "what others lose when one is stopped",
            ((beside / alone - 1.0) * 100.0, "%"),
            Some(2.0),
            words,
        );
    }

    /// G1 of small artifacts.
    fn small(&mut self) -> Result<(), Failure> {
        let sizes = [(64 * KIB, (self.options.size / 4 / (64 * KIB)).max(8), 1.05), (KIB, 512, 2.0)];
        for (body, count, most) in sizes {
            let transfer = self.transfer(count, body, None)?;
            let ratio = transfer.written / self.given(&transfer);
            let words = format!("{count} of them, {:.0} bytes written to sockets", transfer.written);
            self.report.note(
                "G1",
                &format!("written / useful, {body} bytes"),
                (ratio, ""),
                Some(most),
                words,
            );
        }
        Ok(())
    }

    /// G7: the cable of a node is out while something is offered.
    fn cut(&mut self, node: usize) -> Result<(), Failure> {
        self.topics += 1;
        let topic = format!("swarm.{}", self.topics);
        let body = self.options.body.min(self.options.size / 4).max(1);
        let (count, most) = ((self.options.size / 4 / body).max(1), Duration::from_secs(120));
        self.network.cable(node, "down")?;
        self.parts.tell(0, &format!("offer {topic} {count} {body} {}", self.topics))?;
        for other in (1..self.parts.count()).filter(|other| *other != node) {
            self.parts.hear(other, &format!("have {topic}"), most)?;
        }
        pause(CUT);
        let up = now_ns();
        self.network.cable(node, "up")?;
        let have: u64 = self.parts.hear(node, &format!("have {topic}"), most)?.parse()?;
        let links = self.parts.links(node)?;
        let round_trip = links.iter().map(|link| number(link, "round_trip_ns")).fold(0.0, f64::max) / 1e9;
        let since = links.iter().filter_map(|link| link["since_ns"].as_u64());
        // A link that outlasted the cut carries again when TCP tries again.
        let linked = since.map(|since| since.max(up)).min().unwrap_or(up);
        let (least, took) = (self.bound(count * body) + round_trip, seconds_between(linked, have));
        let words = format!(
            "{took:.3} s from the first link on, at least {least:.3} s; that link {:.3} s after the cable",
            seconds_between(up, linked)
        );
        self.report.note(
            "G7",
            "after a cut, time / round trip + difference",
            (took / least, ""),
            None,
            words,
        );
        Ok(())
    }

    /// G9: what each node was told is what it handled, coalesced and dropped.
    fn accounts(&mut self) -> Result<(), Failure> {
        let counts = self.counts()?;
        let dropped = |one: &Value| {
            one["dropped"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum::<f64>()
        };
        let told: f64 = counts.iter().map(|one| number(one, "told")).sum();
        let open = |one: &Value| {
            (number(one, "told") - number(one, "handled") - number(one, "coalesced") - dropped(one)).abs()
        };
        let open: f64 = counts.iter().map(open).sum();
        self.report.note(
            "G9",
            "changes told that are not accounted for",
            (open, ""),
            Some(0.0),
            format!("of {told:.0} at {} nodes", counts.len()),
        );
        Ok(())
    }
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a run, far below 2^52")]
fn real64(count: u64) -> f64 {
    count as f64
}

fn real(count: usize) -> f64 {
    real64(count as u64)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
