//! `cargo xtask soak`: the kill test of the suite, for minutes instead of seconds.

use std::process::{ExitCode, Stdio};

use crate::args::Args;
use crate::failure::Failure;
use crate::workspace;

const HELP: &str = "cargo xtask soak [--minutes N] [--seed S]

Kills publishers, subscribers and holders of the rendezvous at random and checks the invariants after each kill.
It prints its seed; the same seed kills in the same order.

  --minutes N  how long (default 10)
  --seed S     the seed (default: the test draws one and prints it)
";

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let minutes = args.number("--minutes")?.unwrap_or(10);
    let seed = args.number("--seed")?;
    args.rest()?;
    let mut command = workspace::cargo();
    command.args([
        "test",
        "-p",
        "busway",
        "--release",
        "--test",
        "soak",
        "--",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env("BUSWAY_SOAK_MINUTES", minutes.to_string());
    if let Some(seed) = seed {
        command.env("BUSWAY_SOAK_SEED", seed.to_string());
    }
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
