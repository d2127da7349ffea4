//! The course of a run: what is measured, in which order.
//!
//! First the plain stream, on lines that carry nothing else; then nodes that have nothing to do; then one node gives all others what they want, while small messages
//! cross the same lines; then the same with one of them stopped; then a cable is pulled. Every transfer is compared with what the plain stream gave in the same run.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Failure;
use crate::clock::{now_ns, pause, processor_seconds, seconds_between};
use crate::compared;
use crate::network::Network;
use crate::options::Options;
use crate::part::{Parts, Program};
use crate::report::{Curve, Report, Spread};
use crate::transfer::{Swarm, Transfer, number, real};

const IDLE: Duration = Duration::from_secs(3);
const CUT: Duration = Duration::from_secs(2);
/// More than the idle time that one of a hundred small messages may take beside bulk, in milliseconds.
const BESIDE_BULK_MS: f64 = 2.0;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Runs all of it and prints what was found.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    measure(options, "")?.print(options.json);
    Ok(())
}

/// Runs all of it. `label`: what is said of it on the standard error while it runs; nothing is said where that is empty.
pub(crate) fn measure(options: &Options, label: &str) -> Result<Report, Failure> {
    let network = Network::new(options.nodes, options.mbit)?;
    let line = line(&network, if options.brief { 1.0 } else { 2.0 })?;
    let ours = Swarm::new(Parts::start(&network, Program::ours(options.delay_ms, &["node", "-"])?)?, line);
    let report = report(options, line);
    let mut course = Course { options, network: &network, ours, theirs: None, report, label };
    course.run()?;
    Ok(course.report)
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

struct Course<'a> {
    options: &'a Options,
    network: &'a Network,
    ours: Swarm,
    /// The nodes of another program, on the same hosts.
    theirs: Option<Swarm>,
    report: Report,
    label: &'a str,
}

impl Course<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let last = self.ours.count() - 1;
        if !self.options.brief {
            self.idle();
        }
        if let Some(path) = &self.options.against {
            let program = Program::other(path.clone(), &self.options.set);
            self.report.peer = Some(compared::name(path, &self.options.set)?);
            let mut theirs = Swarm::new(Parts::start(self.network, program)?, self.ours.line);
            theirs.listen()?;
            self.theirs = Some(theirs);
        }
        self.ours.listen()?;
        let idle_ms = self.idle_times()?;
        let (count, body) = (self.options.size / self.options.body, self.options.body);
        let (mut clean, mut theirs, mut stalled) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.options.rounds {
            clean.push(beside(&mut self.ours, |ours| ours.transfer(count, body, None))?);
            self.say(round, "ours", clean.last());
            if let Some(swarm) = &mut self.theirs {
                theirs.push(beside(swarm, |theirs| theirs.transfer(count, body, None))?);
                self.say(round, "theirs", theirs.last());
            }
            if !self.options.brief {
                stalled.push(beside(&mut self.ours, |ours| ours.transfer(count, body, Some(last - 1)))?);
                self.say(round, "ours, one stopped", stalled.last());
            }
        }
        self.report.busy = clean.iter().map(|transfer| transfer.busy).fold(0.0, f64::max);
        self.bulk(&clean, idle_ms.0);
        self.curve("busway", &clean, idle_ms.0);
        if !self.options.brief {
            self.stall(&clean, &stalled);
            self.small()?;
            self.cut(last - 1)?;
        }
        self.accounts()?;
        if let Some(swarm) = &self.theirs {
            self.report.compared = compared::rows(swarm, &clean, &theirs, idle_ms);
            self.curve("theirs", &theirs, idle_ms.1);
        }
        Ok(())
    }

    /// Says how far it is, to who waits.
    fn say(&self, round: u64, who: &str, transfer: Option<&Transfer>) {
        if let Some(transfer) = transfer.filter(|_| !self.label.is_empty()) {
            let least = self.ours.bound(transfer.bytes);
            eprintln!(
                "{}: round {round} of {}: {who}: {:.2} s, at least {least:.2} s",
                self.label,
                self.options.rounds,
                transfer.last()
            );
        }
    }

    /// What nodes that have nothing to do cost.
    fn idle(&mut self) {
        let used = |course: &Self| {
            (0..course.ours.count()).map(|node| processor_seconds(course.ours.parts.pid(node))).sum::<f64>()
        };
        let (before, begun) = (used(self), now_ns());
        pause(IDLE);
        let share =
            (used(self) - before) / seconds_between(begun, now_ns()) / real(self.ours.count()) * 100.0;
        let words = format!("of a processor, over {IDLE:?}, linked to {} others", self.ours.count() - 1);
        self.report.note("idle", "a node that has nothing to do", &[share], "%", None, words);
    }

    /// What one of a hundred small messages takes while nothing else is sent, in milliseconds: ours, and theirs.
    fn idle_times(&mut self) -> Result<(f64, f64), Failure> {
        let time = if self.options.brief { Duration::from_secs(1) } else { IDLE };
        let idle = |swarm: &mut Swarm| {
            beside(swarm, |swarm| {
                swarm.times()?;
                pause(time);
                Ok(swarm.times()?.0)
            })
        };
        let ours = idle(&mut self.ours)?;
        let theirs = self.theirs.as_mut().map(idle).transpose()?.unwrap_or_default();
        Ok((ours, theirs))
    }

    /// When each node had all of it, in the round that took a middle time.
    fn curve(&mut self, who: &'static str, rounds: &[Transfer], idle_ms: f64) {
        let mut rounds: Vec<&Transfer> = rounds.iter().collect();
        rounds.sort_by(|a, b| a.last().total_cmp(&b.last()));
        let Some(middle) = rounds.get(rounds.len() / 2) else { return };
        let mut seconds = middle.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let beside_ms = middle.beside.map(|(ms, _)| ms);
        let least = self.ours.bound(middle.bytes);
        self.report.curves.push(Curve { who, seconds, least, idle_ms, beside_ms });
    }

    /// G1, G2, G3 and G4 of the undisturbed transfers.
    fn bulk(&mut self, clean: &[Transfer], idle_ms: f64) {
        let Some(first) = clean.first() else { return };
        let (given, bound) = (self.ours.given(first), self.ours.bound(first.bytes));
        let each = |what: &dyn Fn(&Transfer) -> f64| clean.iter().map(what).collect::<Vec<f64>>();
        let most = if self.options.body >= MIB { 1.02 } else { 1.05 };
        let figure = format!("written / useful, {} bytes", self.options.body);
        let words = format!("{:.0} bytes written to sockets for {given:.0}", first.written);
        self.report.note("G1", &figure, &each(&|one| one.written / given), "", Some(most), words);
        let twice = each(&|one| one.wasted / given * 100.0);
        let words = format!("{:.0} bytes", first.wasted);
        self.report.note("G2", "bodies that came twice", &twice, "%", Some(1.0), words);
        let seconds = Spread::of(&each(&Transfer::last)).median;
        let words = format!(
            "{seconds:.3} s, at least {bound:.3} s; nodes used {:.2} s of processors",
            first.processors
        );
        let times = each(&|one| one.last() / bound);
        self.report.note("G3", "time until all have it / the least", &times, "", Some(1.10), words);
        let beside: Vec<(f64, u64)> = clean.iter().filter_map(|transfer| transfer.beside).collect();
        if !beside.is_empty() {
            let times: Vec<f64> = beside.iter().map(|(ms, _)| *ms).collect();
            let count: u64 = beside.iter().map(|(_, count)| count).sum();
            let words =
                format!("{count} messages of 256 bytes from the one that gives; idle {idle_ms:.3} ms");
            let most = Some(idle_ms + BESIDE_BULK_MS);
            self.report.note("G4", "p99 of a small message beside bulk", &times, "ms", most, words);
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
        let alone: Vec<f64> = clean.iter().map(without).collect();
        let beside: Vec<f64> = stalled.iter().map(Transfer::last).collect();
        let lost: Vec<f64> =
            alone.iter().zip(&beside).map(|(alone, beside)| (beside / alone - 1.0) * 100.0).collect();
        let words = format!(
            "{:.3} s for all others, {:.3} s where none is stopped",
            Spread::of(&beside).median,
            Spread::of(&alone).median
        );
        self.report.note("G6", "what others lose when one is stopped", &lost, "%", Some(2.0), words);
    }

    /// G1 of small artifacts.
    fn small(&mut self) -> Result<(), Failure> {
        let sizes = [(64 * KIB, (self.options.size / 4 / (64 * KIB)).max(8), 1.05), (KIB, 512, 2.0)];
        for (body, count, most) in sizes {
            let transfer = self.ours.transfer(count, body, None)?;
            let ratio = transfer.written / self.ours.given(&transfer);
            let words = format!("{count} of them, {:.0} bytes written to sockets", transfer.written);
            let figure = format!("written / useful, {body} bytes");
            self.report.note("G1", &figure, &[ratio], "", Some(most), words);
        }
        Ok(())
    }

    /// G7: the cable of a node is out while something is offered.
    fn cut(&mut self, node: usize) -> Result<(), Failure> {
        self.ours.topics += 1;
        let topic = format!("swarm.{}", self.ours.topics);
        let body = self.options.body.min(self.options.size / 4).max(1);
        let (count, most) = ((self.options.size / 4 / body).max(1), Duration::from_secs(120));
        self.network.cable(node, "down")?;
        self.ours.parts.tell(0, &format!("offer {topic} {count} {body} {}", self.ours.topics))?;
        for other in (1..self.ours.parts.count()).filter(|other| *other != node) {
            self.ours.parts.hear(other, &format!("have {topic}"), most)?;
        }
        pause(CUT);
        let up = now_ns();
        self.network.cable(node, "up")?;
        let have: u64 = self.ours.parts.hear(node, &format!("have {topic}"), most)?.parse()?;
        let links = self.ours.parts.links(node)?;
        let round_trip = links.iter().map(|link| number(link, "round_trip_ns")).fold(0.0, f64::max) / 1e9;
        let since = links.iter().filter_map(|link| link["since_ns"].as_u64());
        // A link that outlasted the cut carries again when TCP tries again.
        let linked = since.map(|since| since.max(up)).min().unwrap_or(up);
        let (least, took) = (self.ours.bound(count * body) + round_trip, seconds_between(linked, have));
        let words = format!(
            "{took:.3} s from the first link on, at least {least:.3} s; that link {:.3} s after the cable",
            seconds_between(up, linked)
        );
        let figure = "after a cut, time / round trip + difference";
        self.report.note("G7", figure, &[took / least], "", None, words);
        Ok(())
    }

    /// G9: what each node was told is what it handled, coalesced and dropped.
    fn accounts(&mut self) -> Result<(), Failure> {
        let counts = self.ours.counts()?;
        let dropped = |one: &Value| {
            one["dropped"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum::<f64>()
        };
        let told: f64 = counts.iter().map(|one| number(one, "told")).sum();
        let open = |one: &Value| {
            (number(one, "told") - number(one, "handled") - number(one, "coalesced") - dropped(one)).abs()
        };
        let open: f64 = counts.iter().map(open).sum();
        let words = format!("of {told:.0} at {} nodes", counts.len());
        self.report.note("G9", "changes told that are not accounted for", &[open], "", Some(0.0), words);
        Ok(())
    }
}

/// Does something while small messages cross the same lines.
fn beside<T>(swarm: &mut Swarm, what: impl FnOnce(&mut Swarm) -> Result<T, Failure>) -> Result<T, Failure> {
    swarm.ping()?;
    let done = what(swarm)?;
    swarm.silence()?;
    Ok(done)
}
