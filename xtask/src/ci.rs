//! `cargo xtask ci`: what continuous integration runs, job by job. The server calls .ci/run and knows no more.

use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::args::Args;
use crate::clock::Watch;
use crate::failure::Failure;
use crate::fuzz::{self, Fuzzed};
use crate::mutants::seen_red_at;
use crate::process::{self, Output};
use crate::test::Counts;
use crate::web::{self, Web};
use crate::wheel::{self, Wheel};
use crate::{json, suite, workspace};

const HELP: &str = "cargo xtask ci [--after-test] [--base BASE] [JOB]...

Runs the jobs in order, all of them even when one fails:
  test     cargo xtask test
  tidy     cargo xtask tidy
  fmt      cargo fmt --check
  clippy   every warning is an error
  none     busway-wire and busway-protocol build for x86_64-unknown-none, where there is no operating system
  static   the command builds without a C library beside it, for dist/Containerfile, and runs
  docs     the documentation builds without a warning
  wheel    the Python package is built by pip, and tested and type-checked where it is installed
  browser  a page in headless Chromium reads a stream of a node that is killed meanwhile
  openapi  what schemathesis draws from the description of a node's HTTP is answered as that says
  loom     every interleaving of the memory protocols
  miri     the parts that an interpreter of Rust's memory model can run
  mutants  breakages of what changed since BASE are noticed
  sim      random worlds for the machines of links, and for the runtime, each twice
  fuzz     ten million control messages, seeded, then ten seconds for each decoder with an engine that seeks

  --after-test  leave out test and loom, which `cargo xtask test` has just run, and add its counts to ours
  --base BASE   the commit that mutants compare with (default: `seen_red_at` of mutants.toml; where that is not
                known, all may be tried). None is begun after five minutes: the others are named and counted

A job that cannot run here is skipped with its reason. The last line is `N passed, N failed, N skipped`.
";

const JOB_LIMIT: Duration = Duration::from_secs(1800);
const FUZZ_SECONDS: u64 = 10;
// As row A3 of PROMISES.md says; the test alone, without the variable, makes 200 000.
const FUZZ_INPUTS: &str = "10000000";
// Half a minute on one core; each push tries the same ones, `cargo xtask sim --minutes` others.
const SIM_SEEDS: &str = "0..400";
// Half a minute too: a world of the runtime takes about a tenth of a second.
const SIM_SEEDS_REAL: &str = "0..120";
// All jobs together are to stay well below 35 minutes on two cores, of which the others need 25; the one that is under way
// then takes two more at most.
const MUTANTS_SECONDS: &str = "300";
const NIGHTLY: &str = "nightly";
const NO_OS: &str = "x86_64-unknown-none";
const STATIC: &str = "x86_64-unknown-linux-musl";

/// How a job ended.
#[derive(Debug)]
enum Done {
    Passed(String),
    Failed(String),
    Skipped(String),
}

/// A job: its name and how to run it. `base` is for mutants.
type Job = (&'static str, fn(base: Option<&str>) -> Result<Done, Failure>);

const JOBS: &[Job] = &[
    ("test", |_| own(&["test", "--locked"])),
    ("tidy", |_| own(&["tidy"])),
    ("fmt", |_| cargo(&["fmt", "--all", "--check"])),
    ("clippy", |_| cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    ("none", |_| none()),
    ("static", |_| statically()),
    ("docs", |_| docs()),
    ("wheel", |_| wheeled()),
    ("browser", |_| Ok(seen(web::browser()?))),
    ("openapi", |_| Ok(seen(web::openapi()?))),
    ("loom", |_| loom()),
    ("miri", |_| miri()),
    ("mutants", mutants),
    ("sim", |_| simulated()),
    ("fuzz", |_| fuzzed()),
];

/// Whether this is the name of a job.
pub(crate) fn is_job(name: &str) -> bool {
    JOBS.iter().any(|(known, _)| *known == name)
}

// What `cargo xtask test` runs as well.
const IN_TEST: &[&str] = &["test", "loom"];

/// Both floors of the simulator.
fn simulated() -> Result<Done, Failure> {
    match own(&["sim", "--seeds", SIM_SEEDS, "--twice"])? {
        Done::Passed(_) => own(&["sim", "--floor", "2", "--seeds", SIM_SEEDS_REAL, "--twice"]),
        failed => Ok(failed),
    }
}

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let after_test = args.flag("--after-test");
    let base = args.value("--base")?;
    let wanted = args.rest()?;
    if let Some(unknown) = wanted.iter().find(|w| !is_job(w)) {
        return Err(Failure::usage(format!("there is no job `{unknown}`"), "cargo xtask ci --help"));
    }
    let mut counts = if after_test { counts_of_test() } else { Counts::default() };
    for (name, job) in JOBS {
        let left_out = after_test && IN_TEST.contains(name);
        if left_out || !(wanted.is_empty() || wanted.iter().any(|w| w == name)) {
            continue;
        }
        println!("== {name}");
        let watch = Watch::start();
        let done = job(base.as_deref()).unwrap_or_else(|failure| Done::Failed(failure.to_string()));
        let seconds = watch.seconds();
        match done {
            Done::Passed(words) => {
                counts.passed += 1;
                println!("== {name}: passed in {seconds:.0} s{}", after_colon(&words));
            }
            Done::Failed(words) => {
                counts.failed += 1;
                println!("== {name}: FAILED in {seconds:.0} s{}", after_colon(&words));
            }
            Done::Skipped(words) => {
                counts.skipped += 1;
                println!("== {name}: skipped{}", after_colon(&words));
            }
        }
    }
    println!("{counts}");
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn after_colon(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// What the test run before us counted; a run that did not come to its end counts as one failure.
fn counts_of_test() -> Counts {
    let text = std::fs::read_to_string(workspace::target().join("test.json")).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    if value.get("passed").is_none() {
        println!("== test: it did not come to its end");
        return Counts { failed: 1, ..Counts::default() };
    }
    Counts {
        passed: json::number(&value, "passed"),
        failed: json::number(&value, "failed"),
        skipped: json::number(&value, "skipped"),
    }
}

fn shown(command: Command, tag: &str) -> Result<Done, Failure> {
    let end = process::run(command, tag, JOB_LIMIT, Output::Shown)?;
    Ok(if end.success() { Done::Passed(String::new()) } else { Done::Failed(end.why()) })
}

fn cargo(arguments: &[&str]) -> Result<Done, Failure> {
    let mut command = workspace::cargo();
    command.args(arguments);
    shown(command, arguments[0])
}

/// Another command of this tool, in a process of its own.
fn own(arguments: &[&str]) -> Result<Done, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(format!("cannot find the path of xtask: {e}"), "is /proc mounted?"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    shown(command, arguments[0])
}

/// Whether there is, or can be had, what builds for this target.
fn has_target(target: &str) -> bool {
    let installed = workspace::answer("rustup", &["target", "list", "--installed"]).unwrap_or_default();
    installed.lines().any(|line| line == target)
        || workspace::answer("rustup", &["target", "add", target]).is_some()
}

/// What the container consists of: one program that needs no other file. It is built and asked who it is.
fn statically() -> Result<Done, Failure> {
    if !has_target(STATIC) {
        return Ok(Done::Skipped(format!("rustup cannot add the target {STATIC}")));
    }
    let folder = workspace::target().join("static");
    let mut command = workspace::cargo();
    command.args(["build", "-p", "busway-cli", "--target", STATIC, "--locked"]);
    // The little C of `ring` needs no C library: any compiler of this machine will do.
    command.env("CC_x86_64_unknown_linux_musl", "cc").env("CARGO_TARGET_DIR", &folder);
    // It is not debugged, and a second set of everything is large enough.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    match shown(command, "static")? {
        Done::Passed(_) => {}
        failed => return Ok(failed),
    }
    let program = folder.join(STATIC).join("debug/busway");
    let bytes = std::fs::read(&program).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", program.display()), "read what cargo said")
    })?;
    // The name of the loader that a program with shared libraries asks for.
    if bytes.windows(8).any(|window| window == b"/ld-musl" || window == b"ld-linux") {
        return Ok(Done::Failed("the program asks for shared libraries".to_owned()));
    }
    let mut command = Command::new(program);
    command.arg("--version").env_clear();
    shown(command, "static-run")
}

fn none() -> Result<Done, Failure> {
    if !has_target(NO_OS) {
        return Ok(Done::Skipped(format!("rustup cannot add the target {NO_OS}")));
    }
    let packages = ["-p", "busway-wire", "-p", "busway-protocol"];
    cargo(&["build", packages[0], packages[1], packages[2], packages[3], "--target", NO_OS, "--locked"])
}

fn docs() -> Result<Done, Failure> {
    let mut command = workspace::cargo();
    command.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
    shown(command, "docs")
}

fn wheeled() -> Result<Done, Failure> {
    Ok(match wheel::run()? {
        Wheel::Good => Done::Passed(String::new()),
        Wheel::Bad(words) => Done::Failed(words),
        Wheel::Nothing(why) => Done::Skipped(why),
    })
}

fn seen(web: Web) -> Done {
    match web {
        Web::Good => Done::Passed(String::new()),
        Web::Bad(words) => Done::Failed(words),
        Web::Nothing(why) => Done::Skipped(why),
    }
}

fn loom() -> Result<Done, Failure> {
    if !workspace::root().join("crates/shm/tests/loom.rs").is_file() {
        return Ok(Done::Skipped("crates/shm/tests/loom.rs does not exist yet".to_owned()));
    }
    let mut command = workspace::cargo();
    command.args(["test", "-p", "busway-shm", "--test", "loom", "--release", "--locked"]);
    suite::loom_environment(&mut command);
    shown(command, "loom")
}

/// Tests that need no kernel.
struct UnderMiri {
    package: &'static str,
    target: &'static str,
    /// Their names begin so; none: all of them.
    names: &'static [&'static str],
    flags: &'static str,
}

const UNDER_MIRI: &[UnderMiri] = &[
    UnderMiri { package: "busway-wire", target: "--lib", names: &[], flags: "" },
    UnderMiri { package: "busway-shm", target: "--lib", names: &["slot::", "heap::", "clock::"], flags: "" },
    // Rings and rows on the heap (crates/shm/src/sys/heap.rs): races, bounds, bytes that nobody wrote. Who may alias
    // whom is left out: each look at a table of a million entries would be one at every entry.
    UnderMiri {
        package: "busway-shm",
        target: "--test=pair",
        names: &[
            "a_reliable_row",
            "depth_keep_latest",
            "late_joiners",
            "over_the_hold_budget",
            "what_was_published",
        ],
        flags: "-Zmiri-disable-stacked-borrows",
    },
];

fn miri() -> Result<Done, Failure> {
    if workspace::answer("rustup", &["run", NIGHTLY, "cargo", "miri", "--version"]).is_none() {
        let components = ["component", "add", "--toolchain", NIGHTLY, "miri", "rust-src"];
        if workspace::answer("rustup", &components).is_none() {
            return Ok(Done::Skipped("rustup cannot add miri to a nightly toolchain".to_owned()));
        }
    }
    for UnderMiri { package, target, names, flags } in UNDER_MIRI {
        let mut command = workspace::cargo_of(NIGHTLY);
        command.args(["miri", "test", "-p", package, target, "--"]).args(*names);
        // Tests may read the clock of the machine.
        command.env("MIRIFLAGS", format!("-Zmiri-disable-isolation {flags}").trim());
        // Its own folder: another compiler would throw away what ours has built.
        command.env("CARGO_TARGET_DIR", workspace::target().join("miri"));
        let end = process::run(command, &format!("miri-{package}"), JOB_LIMIT, Output::Shown)?;
        if !end.success() {
            return Ok(Done::Failed(format!("{package}: {}", end.why())));
        }
        // A filter that fits nothing any more must not pass for a check.
        if end.output.contains("running 0 tests") {
            return Ok(Done::Failed(format!(
                "{package}: no test has run; see UNDER_MIRI in xtask/src/ci.rs"
            )));
        }
    }
    Ok(Done::Passed(String::new()))
}

/// What changed since the commit that mutants.toml names is tried, or all where it is not known here.
fn mutants(base: Option<&str>) -> Result<Done, Failure> {
    match base.map(str::to_owned).or_else(seen_red_at) {
        Some(base) => {
            println!("changed since {base}");
            own(&["mutants", "--within", MUTANTS_SECONDS, "--changed", &base])
        }
        None => own(&["mutants", "--within", MUTANTS_SECONDS]),
    }
}

fn fuzzed() -> Result<Done, Failure> {
    let mut command = workspace::cargo();
    command.args(["test", "--release", "-p", "busway-wire", "--test", "control_fuzz", "--locked"]);
    command.args(["--", "--nocapture"]);
    command.env("BUSWAY_FUZZ_INPUTS", FUZZ_INPUTS);
    // Its own folder: other jobs build for other profiles, and this one must not wait for their lock.
    command.env("CARGO_TARGET_DIR", workspace::target().join("fuzz-seeded"));
    if let failed @ Done::Failed(_) = shown(command, "control_fuzz")? {
        return Ok(failed);
    }
    Ok(match fuzz::run(FUZZ_SECONDS)? {
        Fuzzed::Nothing(why) => Done::Skipped(why),
        Fuzzed::Quiet(words) => Done::Passed(words),
        Fuzzed::Found(words) => Done::Failed(words),
    })
}
