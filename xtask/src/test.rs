//! `cargo xtask test`: runs everything that can be run, and says which promises that holds.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use crate::args::Args;
use crate::claims::{self, Claim};
use crate::clock::Watch;
use crate::doctest;
use crate::failure::Failure;
use crate::promises::{self, Promise};
use crate::suite::{self, Case, Outcome, Verdict};
use crate::{tools, workspace};

const HELP: &str = "cargo xtask test [FILTER] [--list] [--json] [--limit SECONDS]

Runs every test, every example and every documentation test of the workspace, and the loom models; then joins
the results with PROMISES.md and writes target/claims.json, an array of {row, claim, test, result, evidence,
reason}. The last line is `N passed, N failed, N skipped`.

  FILTER           only tests whose id contains it, or a row of PROMISES.md: those that hold this promise
  --list           only list: the id of each test and the rows that it holds
  --json           one JSON object a line on stdout; what is for people goes to stderr
  --limit SECONDS  a test that takes longer is killed and has failed (default 240)

A test's id is package::target::name, where target is `lib`, `bin`, `example` or the name of the file in tests/.
A test prints `evidence: ...` for what it has shown, and `skipped: REASON` when it cannot run here; as root, as
in continuous integration, a skip is a failure.

Exit: 0 all passed, 1 something failed, 2 a tool is missing or the command line is wrong.
";

// The whole suite has five minutes; one test that needs four is broken.
const LIMIT_SECONDS: u64 = 240;

/// The counts of the last line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Counts {
    fn of(outcomes: &[Outcome], claims: &[Claim]) -> Counts {
        let mut counts = Counts::default();
        for outcome in outcomes {
            match outcome.verdict {
                Verdict::Passed => counts.passed += 1,
                Verdict::Failed(_) => counts.failed += 1,
                Verdict::Skipped(_) => counts.skipped += 1,
            }
        }
        counts.failed += claims.iter().filter(|claim| claim.is_missing()).count() as u64;
        counts
    }
}

/// Where the lines for people go: with --json stdout belongs to the program that reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    People,
    Json,
}

impl Format {
    fn say(self, line: &str) {
        match self {
            Format::People => println!("{line}"),
            Format::Json => eprintln!("{line}"),
        }
    }
}

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let format = if args.flag("--json") { Format::Json } else { Format::People };
    let list = args.flag("--list");
    let locked = args.flag("--locked");
    let limit = Duration::from_secs(args.number("--limit")?.unwrap_or(LIMIT_SECONDS));
    let mut rest = args.rest()?;
    if rest.len() > 1 {
        return Err(Failure::usage("only one filter can be given", "a part of an id, or a row"));
    }
    let filter = rest.pop();

    tools::check()?;
    let promises = read_promises()?;
    // An earlier run must not be taken for this one.
    workspace::write_target("test.json", "{}")?;
    let cases = match suite::build(locked) {
        Ok(cases) => cases,
        Err(failure) => {
            eprintln!("{failure}");
            let counts = Counts { failed: 1, ..Counts::default() };
            finish(format, counts)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let cases = filtered(cases, filter.as_deref(), &promises);
    if list {
        print_list(&cases, &promises, format);
        return Ok(ExitCode::SUCCESS);
    }
    if cases.is_empty() && filter.is_some() {
        return Err(Failure::new("no test has this in its id", "cargo xtask test --list"));
    }
    execute(cases, &promises, filter.as_deref(), limit, locked, format)
}

fn execute(
    cases: Vec<Case>,
    promises: &[Promise],
    filter: Option<&str>,
    limit: Duration,
    locked: bool,
    format: Format,
) -> Result<ExitCode, Failure> {
    let watch = Watch::start();
    let mut outcomes = suite::run(cases, limit, |outcome| show(outcome, format))?;
    if filter.is_none() {
        for outcome in doctest::run(locked)? {
            show(&outcome, format);
            outcomes.push(outcome);
        }
    }
    for outcome in &outcomes {
        if let Verdict::Failed(why) = &outcome.verdict {
            format.say(&format!("\n==== {}: {why}\n{}", outcome.id, outcome.output.trim_end()));
        }
    }
    let results = std::fs::read_to_string(workspace::root().join("bench/RESULTS.md")).ok();
    let mut claims = claims::join(promises, &outcomes, results.as_deref());
    if filter.is_some() {
        // A filtered run says nothing about what it left out.
        claims.retain(|claim| !claim.is_missing());
    } else {
        workspace::write_target("claims.json", &pretty(&claims))?;
        show_claims(&claims, &outcomes, promises, format);
    }
    format.say(&format!("\n{:.0} s", watch.seconds()));
    let counts = Counts::of(&outcomes, &claims);
    if format == Format::Json {
        let claims = serde_json::to_value(&claims).unwrap_or_default();
        println!("{}", serde_json::json!({ "claims": claims }));
    }
    finish(format, counts)?;
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_promises() -> Result<Vec<Promise>, Failure> {
    let path = workspace::root().join("PROMISES.md");
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", path.display()), "run this in a full checkout")
    })?;
    promises::parse(&text)
}

/// Those whose id contains `filter`, or, where it is a row, those that the row names.
fn filtered(cases: Vec<Case>, filter: Option<&str>, promises: &[Promise]) -> Vec<Case> {
    let Some(filter) = filter else { return cases };
    let row = promises.iter().find(|promise| promise.row.eq_ignore_ascii_case(filter));
    let wanted = |id: &str| match row {
        Some(row) => row.tests.iter().any(|proof| proof.covers(id)),
        None => id.contains(filter),
    };
    cases.into_iter().filter(|case| wanted(&case.id)).collect()
}

fn print_list(cases: &[Case], promises: &[Promise], format: Format) {
    for case in cases {
        let rows: Vec<&str> = promises
            .iter()
            .filter(|promise| promise.tests.iter().any(|proof| proof.covers(&case.id)))
            .map(|promise| promise.row.as_str())
            .collect();
        match format {
            Format::Json => println!("{}", serde_json::json!({ "test": case.id, "rows": rows })),
            Format::People if rows.is_empty() => println!("{}", case.id),
            Format::People => println!("{}  [{}]", case.id, rows.join(" ")),
        }
    }
}

fn show(outcome: &Outcome, format: Format) {
    if format == Format::Json {
        println!("{}", serde_json::to_string(outcome).unwrap_or_default());
        return;
    }
    let (word, colour, reason) = match &outcome.verdict {
        Verdict::Passed => ("ok", "32", ""),
        Verdict::Failed(why) => ("FAILED", "31", why.as_str()),
        Verdict::Skipped(why) => ("skipped", "33", why.as_str()),
    };
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let word = if colours { format!("\x1b[{colour}m{word:7}\x1b[0m") } else { format!("{word:7}") };
    let seconds = if outcome.seconds >= 1.0 { format!(" ({:.1} s)", outcome.seconds) } else { String::new() };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    println!("{word} {}{seconds}{reason}", outcome.id);
    for line in &outcome.evidence {
        println!("          {line}");
    }
}

/// The rows that are not plainly held, and how many of each kind there are.
fn show_claims(claims: &[Claim], outcomes: &[Outcome], promises: &[Promise], format: Format) {
    format.say("");
    for claim in claims {
        match claim.result {
            "passed" | "measured" | "open" => {}
            "not met" => {
                format.say(&format!(
                    "{}: not met: {} ({})",
                    claim.row,
                    claim.evidence.join(", "),
                    claim.claim
                ));
            }
            result => format.say(&format!("{}: {result}: {} ({})", claim.row, claim.reason, claim.test)),
        }
    }
    let rows_with = |wanted: &[&str]| -> Vec<&str> {
        let has = |row: &str, c: &Claim| c.row == row && wanted.contains(&c.result);
        promises.iter().map(|p| p.row.as_str()).filter(|row| claims.iter().any(|c| has(row, c))).collect()
    };
    let open = rows_with(&["open"]);
    let not_met = rows_with(&["not met"]);
    let broken = rows_with(&["failed", "missing"]);
    let skipped = rows_with(&["skipped"]);
    for promise in promises.iter().filter(|promise| open.contains(&promise.row.as_str())) {
        let shown = |proof: &promises::Proof| outcomes.iter().any(|outcome| proof.covers(&outcome.id));
        if promise.tests.iter().all(shown) {
            format.say(&format!("{}: open, but its test runs: PROMISES.md may say `held`", promise.row));
        }
    }
    if !open.is_empty() {
        format.say(&format!("open (not built yet): {}", open.join(" ")));
    }
    let held = promises.len() - open.len() - not_met.len() - broken.len();
    format.say(&format!(
        "promises: {held} held ({} of them with a skip), {} broken, {} not met, {} open",
        skipped.len(),
        broken.len(),
        not_met.len(),
        open.len()
    ));
}

fn pretty(claims: &[Claim]) -> String {
    serde_json::to_string_pretty(claims).unwrap_or_default() + "\n"
}

/// The last line, and the same for `cargo xtask ci`, which adds its own jobs to it.
fn finish(format: Format, counts: Counts) -> Result<(), Failure> {
    let object = serde_json::json!({
        "passed": counts.passed, "failed": counts.failed, "skipped": counts.skipped,
    });
    workspace::write_target("test.json", &object.to_string())?;
    if format == Format::Json {
        println!("{object}");
    }
    format.say(&counts.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::parse;

    #[test]
    fn a_promise_without_a_run_counts_as_a_failure() {
        let promises = parse("| A1 | c | `p::t::a` | held |").unwrap();
        let claims = claims::join(&promises, &[], None);
        let counts = Counts::of(&[], &claims);
        assert_eq!(counts.to_string(), "0 passed, 1 failed, 0 skipped");
    }
}
