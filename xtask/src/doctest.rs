//! The tests in the documentation: rustdoc runs them all in one go, and we read its report.

use std::time::Duration;

use crate::failure::Failure;
use crate::process::{self, Output};
use crate::suite::{Outcome, Verdict};
use crate::workspace;

// Each test is a program that is linked; two slow cores need minutes for some hundred.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the documentation tests of every library of the workspace.
pub(crate) fn run(locked: bool) -> Result<Vec<Outcome>, Failure> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    if locked {
        command.arg("--locked");
    }
    let end = process::run(command, "doc", LIMIT, Output::Kept)?;
    let mut outcomes = parse(&end.output);
    let told = outcomes.iter().any(|o| matches!(o.verdict, Verdict::Failed(_)));
    if !end.success() && !told {
        outcomes.push(Outcome {
            id: "doc::all".to_owned(),
            verdict: Verdict::Failed(end.why()),
            evidence: Vec::new(),
            output: end.output,
            seconds: end.seconds,
        });
    }
    Ok(outcomes)
}

/// One outcome for each `test NAME ... RESULT`; a failed one carries the part of the report about it.
fn parse(report: &str) -> Vec<Outcome> {
    report
        .lines()
        .filter_map(|line| {
            let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
            let name = name.split(" - compile").next().unwrap_or(name);
            let verdict = match result {
                "ok" => Verdict::Passed,
                "FAILED" => Verdict::Failed("the example in the documentation fails".to_owned()),
                _ if result.starts_with("ignored") => Verdict::Skipped("marked as ignored".to_owned()),
                _ => return None,
            };
            let start = format!("---- {name} stdout ----");
            let output = report.split_once(&start).map_or("", |(_, after)| after);
            let output = output.split("\n---- ").next().unwrap_or("").to_owned();
            Some(Outcome { id: format!("doc::{name}"), verdict, evidence: Vec::new(), output, seconds: 0.0 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_read_and_a_failure_carries_its_report() {
        let report = "running 3 tests\n\
            test crates/a/src/lib.rs - x::Y (line 3) ... ok\n\
            test crates/a/src/lib.rs - z (line 9) - compile ... ok\n\
            test crates/a/src/lib.rs - w (line 20) ... FAILED\n\
            test crates/a/src/lib.rs - i (line 30) ... ignored\n\n\
            failures:\n\n---- crates/a/src/lib.rs - w (line 20) stdout ----\nleft: 1\n\n";
        let outcomes = parse(report);
        assert_eq!(outcomes.len(), 4);
        assert_eq!(outcomes[1].id, "doc::crates/a/src/lib.rs - z (line 9)");
        assert!(matches!(outcomes[2].verdict, Verdict::Failed(_)) && outcomes[2].output.contains("left: 1"));
        assert!(matches!(outcomes[3].verdict, Verdict::Skipped(_)));
    }
}
