//! `cargo xtask bench`: reproduces every published figure. The workloads live in bench/, a workspace of its own.

use std::process::{ExitCode, Stdio};

use crate::args::Args;
use crate::failure::Failure;
use crate::workspace;

const HELP: &str = "cargo xtask bench [--peers] [ARGUMENT]...

Runs every workload of bench/ and writes bench/RESULTS.md with its plots; with --peers also the same workloads
through other middleware (bench/peers), side by side. It takes minutes and wants an idle machine.
Further arguments go to the benchmark.
";

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let peers = args.flag("--peers");
    let rest = args.rest()?;
    // The rivals first: the report of ours quotes their figures.
    if peers && !report("bench/peers/Cargo.toml", "busway-peers", &rest)? {
        return Ok(ExitCode::FAILURE);
    }
    let done = report("bench/Cargo.toml", "busway-bench", &rest)?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(manifest: &str, binary: &str, rest: &[String]) -> Result<bool, Failure> {
    if !workspace::root().join(manifest).is_file() {
        return Err(Failure::new(format!("{manifest} does not exist"), "run this in a full checkout"));
    }
    let mut command = workspace::cargo();
    command.args([
        "run",
        "--release",
        "--locked",
        "--manifest-path",
        manifest,
        "--bin",
        binary,
        "--",
        "report",
    ]);
    let status = command.args(rest).stdin(Stdio::null()).status();
    Ok(status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?.success())
}
