//! The course of a run with real input: one node shares files, all others are to have them, whatever happens to two of them.
//!
//! When the one that shares has sent 1.1 times the bytes, and each of them to somebody, or all have all, it is killed. When all others have all, one more comes, is killed when it has half of the bytes, and is
//! started again. What was sent is counted by who sent it, piece by piece, and compared with what the store of the killed node had.
//!
//! Invariant: nothing is measured of a node that is not compared with what was shared.

use std::collections::BTreeSet;
use std::time::Duration;

use busway::artifacts::ArtifactId;
use serde_json::json;

use crate::clock::{Processors, Until, now_ns, pause, seconds_between};
use crate::given::{Given, Piece};
use crate::input::{Input, WHOLE_BYTES_MAX, files};
use crate::network::Network;
use crate::options::Options;
use crate::part::{Parts, Program};
use crate::report::Report;
use crate::{Failure, given, keeper};

/// Who shares is killed when it has sent so many times the bytes of what it shares, and has sent all of it.
const SENT_MOST: f64 = 1.1;
/// It is looked so often how far they are.
const LOOK: Duration = Duration::from_millis(10);

/// Runs all of it and prints what was found.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let network = Network::new(options.nodes, options.mbit)?;
    let source = network.source();
    let input = Input::make(&source, options.brief)?;
    let (source, count) = (source.display().to_string(), input.files.len().to_string());
    let parts = Parts::start(&network, Program::ours(options.delay_ms, &["keeper", &source, &count])?)?;
    let report = report(options, &input);
    let mut real = Real { network: &network, input: &input, parts, report, late: options.nodes / 2 };
    real.run()?;
    real.report.print(options.json);
    Ok(())
}

fn report(options: &Options, input: &Input) -> Report {
    let Options { nodes, mbit, delay_ms, .. } = options;
    let (whole, files, bytes) = (input.whole(), input.files.len(), input.bytes());
    let head = format!(
        "{nodes} nodes, {mbit} Mbit/s each way, {files} files of {bytes} bytes: a tar of {}, and a tree; {} of them, of {} bytes, come whole, the others in pieces",
        input.tar_bytes, whole.0, whole.1
    );
    let facts = json!({
        "nodes": nodes, "mbit": mbit, "delay_ms": delay_ms, "files": files, "bytes": bytes,
        "tar_bytes": input.tar_bytes, "whole_files": whole.0, "whole_bytes": whole.1,
    });
    Report::new(head, facts)
}

struct Real<'a> {
    network: &'a Network,
    input: &'a Input,
    parts: Parts,
    report: Report,
    /// Who comes later, and is killed half-way.
    late: usize,
}

/// What a node had on its disk when it was killed, and when it asked for more.
struct Had {
    at_ns: u64,
    /// Bytes that it had checked, on its disk or not.
    bytes: u64,
    pieces: BTreeSet<Piece>,
    /// The small files that it had written, by the names of their bytes.
    saved: BTreeSet<String>,
}

impl Real<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let most = Duration::from_secs_f64(120.0 + real(self.input.bytes()) / 1e6);
        // It comes when the others have all, and who shared is no more.
        self.parts.kill(self.late)?;
        // All of it stands before anybody wants it: who offers as fast as it gives is asked by all for each.
        self.parts.tell(0, "share")?;
        self.parts.hear(0, "shared", most)?;
        let takers: Vec<usize> = (1..self.parts.count()).filter(|node| *node != self.late).collect();
        let (begun, processors, until) = (now_ns(), Processors::now(), Until::after(most));
        for node in &takers {
            self.parts.tell(*node, "take")?;
        }
        while !self.is_enough(&takers)? {
            self.in_time(until)?;
        }
        self.parts.kill(0)?;
        let seconds = self.all_complete(&takers, begun, until)?;
        self.report.busy = processors.busy_since();
        let words = format!("until {} have all of it; {:.1} MB/s at each", takers.len(), self.rate(seconds));
        self.report.note("R2", "time", &[seconds], "s", None, words);
        let (begun, until) = (now_ns(), Until::after(most));
        self.parts.start_again(self.network, self.late)?;
        self.parts.tell(self.late, "take")?;
        while self.number(self.late, "checked_bytes")? < self.input.bytes() / 2 {
            self.in_time(until)?;
        }
        let had = self.kill()?;
        let seconds = self.all_complete(&[self.late], begun, until)?;
        let words = format!(
            "until the one that is killed half-way has it, of the others; {:.1} MB/s",
            self.rate(seconds)
        );
        self.report.note("R3", "time", &[seconds], "s", None, words);
        self.all_have_it()?;
        self.sent(&had)
    }

    fn rate(&self, seconds: f64) -> f64 {
        real(self.input.bytes()) / seconds / 1e6
    }

    /// Until all of these have compared all, in seconds.
    fn all_complete(&mut self, nodes: &[usize], begun: u64, until: Until) -> Result<f64, Failure> {
        let mut seconds: f64 = 0.0;
        for node in nodes {
            let told = self.parts.hear(*node, "complete", until.left());
            let at: u64 = told.map_err(|error| format!("{error}: {}", self.states()))?.parse()?;
            seconds = seconds.max(seconds_between(begun, at));
        }
        Ok(seconds)
    }

    fn in_time(&mut self, until: Until) -> Result<(), Failure> {
        if until.left().is_zero() {
            return Err(format!("too little has come, or was given, in time: {}", self.states()).into());
        }
        pause(LOOK);
        Ok(())
    }

    fn number(&mut self, node: usize, name: &str) -> Result<u64, Failure> {
        Ok(self.parts.ask(node, "state")?[name].as_u64().unwrap_or_default())
    }

    /// What the nodes that live have, for who looks for the reason.
    fn states(&mut self) -> String {
        let states = (1..self.parts.count()).map(|node| match self.parts.ask(node, "state") {
            Ok(state) => format!("node {node} has {state}"),
            Err(error) => error.to_string(),
        });
        states.collect::<Vec<_>>().join("; ")
    }

    /// Who shares has sent enough, and each part of it is with somebody; or nobody wants more of it.
    fn is_enough(&mut self, takers: &[usize]) -> Result<bool, Failure> {
        if takers.iter().all(|node| self.parts.has_said(*node, "complete")) {
            return Ok(true);
        }
        if real(self.number(0, "given")?) < SENT_MOST * real(self.input.bytes()) {
            return Ok(false);
        }
        let whole = self.input.files.iter().filter(|(_, size)| *size <= WHOLE_BYTES_MAX);
        let mut small: BTreeSet<&String> = whole.map(|(path, _)| path).collect();
        let mut pieces = given::stored(&self.network.files_of(0).join(keeper::STORE))?;
        for node in takers {
            let files_of = self.network.files_of(*node);
            for (path, _) in files(&files_of.join(keeper::OUT))? {
                small.remove(&path);
            }
            let stored = given::stored(&files_of.join(keeper::STORE))?;
            pieces.retain(|piece| !stored.contains(piece));
        }
        Ok(small.is_empty() && pieces.is_empty())
    }

    fn kill(&mut self) -> Result<Had, Failure> {
        let bytes = self.number(self.late, "checked_bytes")?;
        self.parts.kill(self.late)?;
        let files_of = self.network.files_of(self.late);
        let pieces = given::stored(&files_of.join(keeper::STORE))?;
        let (out, mut saved) = (files_of.join(keeper::OUT), BTreeSet::new());
        for (path, _) in files(&out)? {
            saved.insert(ArtifactId::of(&std::fs::read(out.join(path))?).to_string());
        }
        self.parts.start_again(self.network, self.late)?;
        let at_ns = now_ns();
        self.parts.tell(self.late, "take")?;
        Ok(Had { at_ns, bytes, pieces, saved })
    }

    /// Each node but the one that shared has compared all of it.
    fn all_have_it(&mut self) -> Result<(), Failure> {
        let (nodes, count, bytes) =
            (self.parts.count() - 1, self.input.files.len() as u64, self.input.bytes());
        let mut open = 0;
        for node in 1..=nodes {
            let state = self.parts.ask(node, "state")?;
            let number = |name: &str| state[name].as_u64().unwrap_or_default();
            open +=
                number("wrong") + count.abs_diff(number("files")) + bytes.abs_diff(number("bytes")).min(1);
        }
        let words =
            format!("of {} at {nodes} nodes, each compared with what was shared", count * nodes as u64);
        self.report.note("R1", "files that are missing or another", &[real(open)], "", Some(0.0), words);
        Ok(())
    }

    /// What was sent, by those who sent it.
    fn sent(&mut self, had: &Had) -> Result<(), Failure> {
        let (bytes, nodes) = (real(self.input.bytes()), self.parts.count());
        let (mut by_all, mut by_first, mut to_killed) = (0, 0, Vec::new());
        for node in 0..nodes {
            let given = given::read(&self.network.files_of(node).join(keeper::GIVEN))?;
            let sum = given.iter().map(|given| given.bytes).sum::<u64>();
            by_all += sum;
            by_first += if node == 0 { sum } else { 0 };
            to_killed.extend(given.into_iter().filter(|given| given.peer == self.late as u64));
        }
        let ratio = real(by_first) / bytes;
        let words = format!("{by_first} bytes until it was killed, and nobody else shares");
        self.report.note("R4", "sent by who shared / what it shared", &[ratio], "", None, words);
        to_killed.retain(|given: &Given| given.at_ns >= had.at_ns);
        let after: u64 = to_killed.iter().map(|given| given.bytes).sum();
        let piece = |given: &Given| given.piece.map(|piece| (given.id.clone(), piece));
        let pieces: BTreeSet<Piece> = to_killed.iter().filter_map(piece).collect();
        let again = pieces.intersection(&had.pieces).count();
        let words = format!(
            "of {} bytes that it had checked; {} others, {after} bytes in all, were sent behind that",
            had.bytes,
            pieces.len() - again
        );
        let figure = "pieces in the store of who was killed";
        self.report.note("R5", figure, &[real(had.pieces.len() as u64)], "", None, words);
        let figure = "pieces of these that it was sent again";
        self.report.note("R6", figure, &[real(again as u64)], "", Some(0.0), "by all others".to_owned());
        let small: BTreeSet<&String> = to_killed.iter().map(|given| &given.id).collect();
        let again = had.saved.iter().filter(|id| small.contains(id)).count();
        let words = format!("of {} that it had written", had.saved.len());
        let figure = "small files sent again to who was killed";
        self.report.note("R7", figure, &[real(again as u64)], "", Some(0.0), words);
        let ratio = real(by_all) / bytes / real(nodes as u64 - 1);
        let words = format!("{by_all} bytes of artifacts, by all to all");
        self.report.note("R8", "sent / what all have", &[ratio], "", None, words);
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a run, far below 2^52")]
fn real(count: u64) -> f64 {
    count as f64
}
