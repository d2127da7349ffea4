//! Short runs of the fuzz targets in fuzz/, a workspace of its own.
//!
//! The compiler flags are those that cargo-fuzz sets, less the address sanitizer, which needs a nightly compiler
//! and finds nothing in decoders without `unsafe`. So no tool is needed but a C++ compiler for the engine. With
//! `cargo fuzz run NAME` the same targets run for hours.

use std::process::Command;
use std::time::Duration;

use crate::failure::Failure;
use crate::json;
use crate::process::{self, Output};
use crate::workspace;

const MANIFEST: &str = "fuzz/Cargo.toml";
// A build of libFuzzer and of the targets on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

// Counters at each edge and comparisons, which guide the engine.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Clink-dead-code";

/// What became of the fuzz targets.
pub(crate) enum Fuzzed {
    /// They cannot run here, and why.
    Nothing(String),
    /// All ran, and how many.
    Quiet(String),
    /// One found something, or did not build.
    Found(String),
}

/// Runs each target for `seconds`.
pub(crate) fn run(seconds: u64) -> Result<Fuzzed, Failure> {
    let targets = targets();
    if targets.is_empty() {
        return Ok(Fuzzed::Nothing("fuzz/ has no targets yet".to_owned()));
    }
    if workspace::answer("c++", &["--version"]).is_none() {
        return Ok(Fuzzed::Nothing("no C++ compiler for the engine: package g++".to_owned()));
    }
    for target in &targets {
        let limit = BUILD_LIMIT + Duration::from_secs(seconds);
        let end = process::run(command(target, seconds), &format!("fuzz-{target}"), limit, Output::Kept)?;
        if !end.success() {
            return Ok(Fuzzed::Found(format!("{target}: {}\n{}", end.why(), end.output)));
        }
        let done = end.output.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or("done");
        println!("  {target}: nothing found; {done}");
    }
    Ok(Fuzzed::Quiet(format!("{} targets", targets.len())))
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

fn command(target: &str, seconds: u64) -> Command {
    let folder = workspace::target().join("fuzz");
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--manifest-path", MANIFEST, "--bin", target]);
    // A target that is named keeps the flags away from build scripts and macros, which do not link the engine.
    command.args(["--target", &host()]);
    command.arg("--").arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
    command.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", folder);
    command
}

fn host() -> String {
    let told = workspace::answer("rustc", &["-vV"]).unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("host: "));
    line.unwrap_or("x86_64-unknown-linux-gnu").to_owned()
}
