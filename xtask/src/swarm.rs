//! `cargo xtask swarm`: artifacts among real nodes on shaped lines. The measurements are in testbed/, which this builds and runs.

use std::process::{Command, ExitCode, Stdio};

use crate::failure::Failure;
use crate::workspace;

/// Runs the testbed, which reads its own arguments and says what there is to say of them.
pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let mut command: Command = workspace::cargo();
    command.args(["run", "--quiet", "--release", "-p", "busway-testbed", "--"]).args(arguments);
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
