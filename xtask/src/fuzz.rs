//! Short runs of the fuzz targets in fuzz/, a workspace of its own.
//!
//! With cargo-fuzz and a nightly compiler the runs are guided by coverage; without them the same targets are
//! built plainly and fed by the fuzzer blindly, which still finds a panic on the first thousands of inputs.

use std::process::Command;
use std::time::Duration;

use crate::failure::Failure;
use crate::json;
use crate::process::{self, Output};
use crate::workspace;

const MANIFEST: &str = "fuzz/Cargo.toml";
// A build of libFuzzer and of the targets on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// What became of the fuzz targets.
pub(crate) enum Fuzzed {
    /// There are none yet.
    Nothing,
    /// All ran; how many, and how.
    Quiet(String),
    /// One found something, or did not build.
    Found(String),
}

/// Runs each target for `seconds`.
pub(crate) fn run(seconds: u64) -> Result<Fuzzed, Failure> {
    if !workspace::root().join(MANIFEST).is_file() {
        return Ok(Fuzzed::Nothing);
    }
    let targets = targets();
    if targets.is_empty() {
        return Ok(Fuzzed::Nothing);
    }
    let guided = workspace::answer("rustup", &["run", "nightly", "cargo", "fuzz", "--version"]).is_some();
    for target in &targets {
        let mut command = if guided { guided_run(target) } else { plain_run(target) };
        command.arg(format!("-max_total_time={seconds}"));
        let limit = BUILD_LIMIT + Duration::from_secs(seconds);
        let end = process::run(command, &format!("fuzz-{target}"), limit, Output::Kept)?;
        if !end.success() {
            return Ok(Fuzzed::Found(format!("{target}: {}\n{}", end.why(), end.output)));
        }
        println!("  {target}: nothing found in {seconds} s");
    }
    let how = if guided { "guided by coverage" } else { "plain: cargo-fuzz or nightly is missing" };
    Ok(Fuzzed::Quiet(format!("{} targets, {how}", targets.len())))
}

fn targets() -> Vec<String> {
    let mut command = workspace::cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path", MANIFEST]);
    let Ok(output) = command.output() else { return Vec::new() };
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    json::list(&metadata, "packages")
        .iter()
        .flat_map(|package| json::list(package, "targets"))
        .filter(|target| json::list(target, "kind").first().is_some_and(|kind| kind == "bin"))
        .map(|target| json::text(target, "name").to_owned())
        .collect()
}

fn guided_run(target: &str) -> Command {
    let mut command = workspace::cargo_of("nightly");
    command.args(["fuzz", "run", "--fuzz-dir", "fuzz", target, "--"]);
    command
}

fn plain_run(target: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--manifest-path", MANIFEST, "--bin", target, "--"]);
    command
}
