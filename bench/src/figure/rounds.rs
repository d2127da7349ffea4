//! Rounds: runs the cells of a figure in turn, A B A B, and keeps what they found.
//!
//! Every cell of every round is a fresh process. A cell that fails is kept with its reason, and the
//! figure goes on: the page then says that it failed.

use crate::Failure;
use crate::clock::{now_ns, pause};
use crate::figure::{Figure, Reading};
use crate::outcome::Outcome;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How this run measures.
#[derive(Debug, Clone)]
pub struct Settings {
    /// One short round.
    pub quick: bool,
    /// Interleaved rounds.
    pub rounds: u64,
    /// Processors of the two sides.
    pub cpus: [usize; 2],
    /// The rivals' program, where it is built.
    pub peers: Option<PathBuf>,
    /// The command `busway`.
    pub busway: PathBuf,
    /// The machine, in one line.
    pub machine: String,
    /// The commit that is measured.
    pub commit: String,
}

/// One outcome, and everything needed to read it alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The figure it belongs to.
    pub figure: String,
    /// Its round, from 1.
    pub round: u64,
    /// What was run.
    pub plan: Plan,
    /// What was found, or why not.
    pub result: Result<Outcome, String>,
    /// The machine.
    pub machine: String,
    /// The commit.
    pub commit: String,
}

/// No cell takes longer; the longest builds the command from nothing.
const CELL_NS_MAX: u64 = 900_000_000_000;

/// Runs all rounds of `figure`.
pub fn run(figure: &Figure, settings: &Settings) -> Vec<Record> {
    let mut records = Vec::new();
    for round in 1..=settings.rounds.min(figure.rounds_max) {
        for plan in &figure.cells {
            eprintln!("{} round {round}: {}", figure.id, plan.label());
            let result = run_cell(plan, settings).map_err(|cause| cause.to_string());
            if let Err(cause) = &result {
                eprintln!("{} round {round}: {} failed: {cause}", figure.id, plan.label());
            }
            records.push(Record {
                figure: figure.id.to_owned(),
                round,
                plan: recorded(plan),
                result,
                machine: settings.machine.clone(),
                commit: settings.commit.clone(),
            });
        }
    }
    records
}

/// Sides that the rivals' program measures.
const RIVALS: [&str; 4] = ["iceoryx2", "libzmq", "zenoh", "nats"];

/// A plan as it is kept: of a command its name, as where it lay on this machine is nobody's business.
fn recorded(plan: &Plan) -> Plan {
    let name = Path::new(&plan.command).file_name().unwrap_or_default();
    Plan { command: name.to_string_lossy().into_owned(), ..plan.clone() }
}

fn run_cell(plan: &Plan, settings: &Settings) -> Result<Outcome, Failure> {
    let program = match (plan.side.as_str(), &settings.peers) {
        (side, Some(peers)) if RIVALS.contains(&side) => peers.clone(),
        (side, None) if RIVALS.contains(&side) => {
            return Err("the rivals' program is not built (cargo build --release in bench/peers)".into());
        }
        _ => std::env::current_exe()?,
    };
    let mut child = Command::new(program)
        .args(["cell", &plan.argument()?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Read beside the wait: a rival may write more than a pipe holds, and then nobody would go on.
    let stderr = child.stderr.take();
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    });
    let deadline_ns = now_ns() + CELL_NS_MAX;
    // An outcome is some kilobytes, less than a pipe holds, so nobody blocks before the end.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if now_ns() > deadline_ns {
            child.kill()?;
            child.wait()?;
            return Err("it took longer than 15 minutes".into());
        }
        pause(Duration::from_millis(20));
    };
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    let complaints = complaints.join().unwrap_or_default();
    eprint!("{complaints}");
    if !status.success() {
        // The first line is the cause; later ones are partners that lost their conductor.
        let cause = complaints.lines().next().unwrap_or_default();
        return Err(format!("it ended with {status}: {cause}").into());
    }
    Ok(serde_json::from_str(&text)?)
}

/// Reads a log of records; an absent one is empty.
///
/// # Errors
/// The file holds something else.
pub fn load(path: &Path) -> Result<Vec<Record>, Failure> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Writes the log of records.
///
/// # Errors
/// The file cannot be written.
pub fn store(path: &Path, records: &[Record]) -> Result<(), Failure> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for record in records {
        writeln!(file, "{}", serde_json::to_string(record)?)?;
    }
    file.flush()?;
    Ok(())
}

/// The reading of each round, in the order of the rounds: (round, number).
pub fn series(records: &[Record], figure: &str, reading: &Reading) -> Vec<(u64, f64)> {
    let ours = records.iter().filter(|record| record.figure == figure && record.plan.label() == reading.cell);
    ours.filter_map(|record| Some((record.round, number(record.result.as_ref().ok()?, reading.name)?)))
        .collect()
}

fn number(outcome: &Outcome, name: &str) -> Option<f64> {
    let latency = outcome.latency.as_ref();
    match name {
        "p50" => latency.map(|latency| latency.p50 as f64),
        "p99" => latency.map(|latency| latency.p99 as f64),
        "p999" => latency.map(|latency| latency.p999 as f64),
        "max" => latency.map(|latency| latency.max as f64),
        "lost" => Some(outcome.lost as f64),
        other => outcome.values.get(other).copied(),
    }
}

/// Pairs of two series that belong to the same round.
pub fn pairs(first: &[(u64, f64)], second: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let partner = |round| second.iter().find(|(other, _)| *other == round);
    first.iter().filter_map(|(round, value)| Some((*value, partner(*round)?.1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_names_a_command_and_not_its_place() {
        let text = r#"{"side":"busway","cell":"footprint","cpus":[0,1],"messages":1,"command":"/some/where/busway"}"#;
        let plan = Plan::parse(text).expect("a plan");
        assert_eq!(recorded(&plan).command, "busway");
        assert_eq!(recorded(&Plan { command: String::new(), ..plan }).command, "");
    }

    #[test]
    fn a_ratio_never_mixes_rounds() {
        let first = [(1, 10.0), (2, 20.0), (3, 30.0)];
        let second = [(1, 1.0), (3, 3.0)];
        assert_eq!(
            pairs(&first, &second),
            vec![(10.0, 1.0), (30.0, 3.0)],
            "round 2 has no partner and must go"
        );
    }
}
