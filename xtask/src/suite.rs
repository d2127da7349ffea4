//! The tests of the workspace: builds them, lists them, and runs each in a process of its own.
//!
//! A process a test costs a few milliseconds and gives what one process for all cannot: what a test and its
//! children print belongs to that test, a hanging test is killed by name, and a crash takes only itself.
//! One more test runs at a time than there are cores, as tests wait more than they reckon; a target whose file
//! head says `One test at a time` runs its tests alone, after the others.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde::Serialize;

use crate::ci;
use crate::failure::Failure;
use crate::json;
use crate::process::{self, Ended, Output};
use crate::workspace;

const ALONE: &str = "One test at a time";
// More than this at once would measure the machine's scheduler, not our code.
const WORKERS_MAX: usize = 8;

/// One test, or one example that is run to its end.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// `package::target::name`
    pub(crate) id: String,
    program: PathBuf,
    /// None: an example, which takes no arguments.
    name: Option<String>,
    folder: PathBuf,
    alone: bool,
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "result", content = "reason")]
pub(crate) enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A test that has run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    pub(crate) evidence: Vec<String>,
    #[serde(skip)]
    pub(crate) output: String,
    pub(crate) seconds: f64,
}

/// A target that cargo has built.
struct Target {
    package: String,
    label: String,
    program: PathBuf,
    folder: PathBuf,
    example: bool,
    alone: bool,
}

/// Builds all tests and examples of the workspace, and the loom models, and lists what can be run.
pub(crate) fn build(locked: bool) -> Result<Vec<Case>, Failure> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--all-targets", "--no-run"]);
    if locked {
        command.arg("--locked");
    }
    let mut cases = list(compile(command)?)?;
    build_examples(locked)?;
    if let Some(command) = loom_build(locked) {
        cases.extend(list(compile(command)?)?);
    }
    Ok(cases)
}

/// The examples as programs, which their tests start: those would build them otherwise, one for all and all in wait for it.
fn build_examples(locked: bool) -> Result<(), Failure> {
    let mut command = workspace::cargo();
    command.args(["build", "--quiet", "--examples"]).current_dir(workspace::root().join("examples"));
    if locked {
        command.arg("--locked");
    }
    compile(command).map(|_| ())
}

/// The models of the memory protocols: another `cfg`, hence another target folder.
fn loom_build(locked: bool) -> Option<Command> {
    if !workspace::root().join("crates/shm/tests/loom.rs").is_file() {
        return None;
    }
    let mut command = workspace::cargo();
    command.args(["test", "-p", "busway-shm", "--test", "loom", "--release", "--no-run"]);
    loom_environment(&mut command);
    if locked {
        command.arg("--locked");
    }
    Some(command)
}

/// What makes a build a build for loom.
pub(crate) fn loom_environment(command: &mut Command) {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} --cfg loom").trim());
    command.env("CARGO_TARGET_DIR", workspace::target().join("loom"));
}

fn compile(mut command: Command) -> Result<Vec<Target>, Failure> {
    command.arg("--message-format=json-render-diagnostics");
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|e| {
        Failure::new(format!("cannot start cargo: {e}"), "install Rust from https://rustup.rs")
    })?;
    if !output.status.success() {
        return Err(Failure::new("the tests do not compile", "mend what the compiler says above"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| target(&serde_json::from_str(line).ok()?)).collect())
}

fn target(message: &serde_json::Value) -> Option<Target> {
    let program = PathBuf::from(message.get("executable")?.as_str()?);
    let target = message.get("target")?;
    let kind = json::list(target, "kind").first()?.as_str()?;
    let for_test = message.get("profile")?.get("test")?.as_bool()?;
    let name = json::text(target, "name");
    let (label, example) = match kind {
        "example" => ("example".to_owned(), true),
        "test" => (name.to_owned(), false),
        "bin" if for_test => ("bin".to_owned(), false),
        "lib" | "rlib" | "proc-macro" if for_test => ("lib".to_owned(), false),
        _ => return None,
    };
    let manifest = Path::new(json::text(message, "manifest_path"));
    let head = std::fs::read_to_string(json::text(target, "src_path")).unwrap_or_default();
    let alone = head.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains(ALONE));
    Some(Target {
        package: package_name(manifest)?,
        label,
        program,
        folder: manifest.parent()?.to_owned(),
        example,
        alone,
    })
}

fn package_name(manifest: &Path) -> Option<String> {
    let table: toml::Table = std::fs::read_to_string(manifest).ok()?.parse().ok()?;
    Some(table.get("package")?.get("name")?.as_str()?.to_owned())
}

fn list(targets: Vec<Target>) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for target in targets {
        let Target { package, label, program, folder, example, alone } = target;
        let case = |name: &str, run_as: Option<&str>| Case {
            id: format!("{package}::{label}::{name}"),
            program: program.clone(),
            name: run_as.map(str::to_owned),
            folder: folder.clone(),
            alone,
        };
        if example {
            let stem = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(case(&stem, None));
            continue;
        }
        let mut command = Command::new(&program);
        command.args(["--list", "--format", "terse"]).current_dir(&folder);
        let end = process::run(command, "list", Duration::from_secs(60), Output::Kept)?;
        if !end.success() {
            let cause = format!("{package}::{label} does not list its tests: {}", end.why());
            return Err(Failure::new(cause, "keep the standard test harness"));
        }
        let names = end.output.lines().filter_map(|line| line.strip_suffix(": test"));
        cases.extend(names.map(|name| case(name, Some(name))));
    }
    Ok(cases)
}

/// Runs `cases`, `done` is told of each as it ends.
pub(crate) fn run(
    cases: Vec<Case>,
    limit: Duration,
    mut done: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (alone, together): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.alone);
    let mut outcomes = Vec::new();
    for (cases, workers) in [(together, (cores + 1).min(WORKERS_MAX)), (alone, 1)] {
        let queue = Mutex::new(cases.into_iter().enumerate().collect::<VecDeque<_>>());
        std::thread::scope(|scope| {
            let (results, inbox) = mpsc::channel();
            for _ in 0..workers {
                let (results, queue) = (results.clone(), &queue);
                scope.spawn(move || {
                    let next = || queue.lock().ok().and_then(|mut q| q.pop_front());
                    while let Some((index, case)) = next() {
                        if results.send(run_one(&case, &format!("t{workers}-{index}"), limit)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(results);
            for outcome in inbox {
                let outcome = outcome?;
                done(&outcome);
                outcomes.push(outcome);
            }
            Ok(())
        })?;
    }
    outcomes.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(outcomes)
}

fn run_one(case: &Case, tag: &str, limit: Duration) -> Result<Outcome, Failure> {
    let mut command = Command::new(&case.program);
    command.current_dir(&case.folder).env("CARGO_MANIFEST_DIR", &case.folder).env("RUST_BACKTRACE", "1");
    for name in ["BUSWAY_DIR", "BUSWAY_DOMAIN", "BUSWAY_LOG"] {
        command.env_remove(name);
    }
    // With the programs of the whole workspace: a test need not build it again, with the features of one crate.
    command.env("BUSWAY_COMMAND_IS_BUILT", "1");
    if let Some(name) = &case.name {
        // Two threads though there is one test: with one thread the harness prints the name without an end
        // of line, and the first line of the test follows on it.
        command.args(["--exact", name, "--nocapture", "--test-threads=2", "--include-ignored"]);
    }
    let end = process::run(command, tag, limit, Output::Kept)?;
    Ok(outcome(&case.id, end, workspace::is_root()))
}

/// What the end of a process says about its test. As root nothing may be skipped, for a promise would go untried, but what a job of `cargo xtask ci` tries, which the reason then names first.
fn outcome(id: &str, end: Ended, root: bool) -> Outcome {
    let of = |prefix: &str| -> Vec<String> {
        end.notes.iter().filter_map(|n| n.strip_prefix(prefix)).map(|n| n.trim().to_owned()).collect()
    };
    let skipped = of("skipped:");
    let verdict = match skipped.first() {
        _ if !end.success() => Verdict::Failed(end.why()),
        None => Verdict::Passed,
        Some(reason) if root && !is_tried_by_a_job(reason) => {
            Verdict::Failed(format!("skipped as root: {reason}"))
        }
        Some(reason) => Verdict::Skipped(reason.clone()),
    };
    let evidence = of("evidence:");
    Outcome { id: id.to_owned(), verdict, evidence, seconds: end.seconds, output: end.output }
}

/// Whether the reason of a skip begins with `the job NAME tries it`.
fn is_tried_by_a_job(reason: &str) -> bool {
    let name = reason.strip_prefix("the job ").and_then(|rest| rest.split_once(" tries it"));
    name.is_some_and(|(name, _)| ci::is_job(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(script: &str) -> Ended {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        process::run(command, &format!("suite-{script}"), Duration::from_secs(60), Output::Kept).unwrap()
    }

    #[test]
    fn a_skip_needs_its_reason_and_is_a_failure_as_root() {
        let say = "echo skipped: no second user";
        assert_eq!(outcome("x", ended(say), false).verdict, Verdict::Skipped("no second user".into()));
        assert_eq!(
            outcome("x", ended(say), true).verdict,
            Verdict::Failed("skipped as root: no second user".into())
        );
        for (job, skipped) in [("openapi", true), ("nobody", false)] {
            let end = ended(&format!("echo skipped: the job {job} tries it: no program"));
            let verdict = outcome("x", end, true).verdict;
            assert_eq!(matches!(verdict, Verdict::Skipped(_)), skipped, "{verdict:?}");
        }
    }

    #[test]
    fn a_failing_test_is_failed_even_if_it_printed_a_skip() {
        let outcome = outcome("x", ended("echo skipped: no; echo evidence: 4 kills; exit 101"), false);
        assert!(matches!(outcome.verdict, Verdict::Failed(_)));
        assert_eq!(outcome.evidence, ["4 kills"]);
    }

    #[test]
    fn a_built_target_is_named_by_package_and_kind() {
        let manifest = workspace::root().join("xtask/Cargo.toml");
        let message = serde_json::json!({
            "executable": "/x/y", "manifest_path": manifest,
            "target": { "kind": ["lib"], "name": "busway_wire", "src_path": "/none" },
            "profile": { "test": true },
        });
        let built = target(&message).expect("a library's tests are a target");
        assert_eq!((built.package.as_str(), built.label.as_str(), built.example), ("xtask", "lib", false));
    }
}
