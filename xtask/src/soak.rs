//! `cargo xtask soak`: the kill test of the suite for minutes instead of seconds, and its stress test with a hundred
//! times the messages.

use std::process::{Command, ExitCode, Stdio};

use crate::args::Args;
use crate::failure::Failure;
use crate::workspace;

const HELP: &str = "cargo xtask soak [--minutes N] [--seed S] [--messages N]

Kills publishers, subscribers and holders of the rendezvous at random and checks the invariants after each kill.
It prints its seed; the same seed kills in the same order.

  --minutes N  how long (default 10)
  --seed S     the seed (default: the test draws one and prints it)

Then one ring carries messages to rows that check each of them, while others come and go.

  --messages N  how many (default 1000000000, some ten minutes; 0: none)
";

const MESSAGES: u64 = 1_000_000_000;

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let minutes = args.number("--minutes")?.unwrap_or(10);
    let seed = args.number("--seed")?;
    let messages = args.number("--messages")?.unwrap_or(MESSAGES);
    args.rest()?;
    let mut kills = test("busway", "soak");
    kills.env("BUSWAY_SOAK_MINUTES", minutes.to_string());
    if let Some(seed) = seed {
        kills.env("BUSWAY_SOAK_SEED", seed.to_string());
    }
    let mut passed = run(kills)?;
    if messages > 0 {
        let mut stress = test("busway-shm", "stress");
        stress.env("BUSWAY_STRESS_MESSAGES", messages.to_string());
        passed &= run(stress)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(package: &str, target: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["test", "-p", package, "--release", "--test", target]);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    command
}

fn run(mut command: Command) -> Result<bool, Failure> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
    Ok(status.success())
}
