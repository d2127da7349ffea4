//! `cargo xtask sim`: random worlds for the machines of links, by seed.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde::Deserialize;

use crate::args::Args;
use crate::failure::Failure;
use crate::tree::{self, Tree};
use crate::workspace;

const HELP: &str = "cargo xtask sim [--seeds N | --seeds A..B | --minutes N | --seed S] [FLAG...]

Runs hosts, links and a network in virtual time, with random faults, and checks that nothing is lost in silence,
nothing comes twice, nobody waits for ever. A failure prints its seed and the fewest faults that show it.

  --seeds N     the first so many seeds (default 100)
  --seeds A..B  these seeds
  --minutes N   seeds from a random one on, for so long
  --seed S      only this one, or the first of --minutes
  --twice       run each seed twice: both must be the same, event for event
  --canary      break the node on purpose: it must be found
  --trace       print what happened before a failure
  --keep-going  do not stop at the first failure
  --floor 2     the runtime that ships, with real rings, over a network in memory, in place of the machines
  --hours H     instead, so many hours of five nodes and their clients: prints the peak of each budget
  --clients N   with --hours: how many clients (default 1000)
  --brief       do not look for the fewest faults that show a failure
  --mutants [NAME]...
                instead, break the machines as sim/mutants.toml says, in all ways or these: 2 000 seeds must find each
";

/// Breakages of the machines.
pub(crate) const MUTANTS: &str = "sim/mutants.toml";
/// Seeds that each must be found in.
const MUTANT_SEEDS: &str = "0..2000";

const FLAGS: [&str; 5] = ["--twice", "--canary", "--trace", "--keep-going", "--brief"];

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    if args.flag("--mutants") {
        return mutants(&args.rest()?);
    }
    let mut command = simulator();
    if let Some(seeds) = args.value("--seeds")? {
        command.args(["--seeds", &seeds]);
    }
    if let Some(minutes) = args.number("--minutes")? {
        command.args(["--minutes", &minutes.to_string()]);
    }
    if let Some(seed) = args.number("--seed")? {
        command.args(["--seed", &seed.to_string()]);
    }
    for name in ["--floor", "--hours", "--clients"] {
        if let Some(number) = args.number(name)? {
            command.args([name, &number.to_string()]);
        }
    }
    for flag in FLAGS {
        if args.flag(flag) {
            command.arg(flag);
        }
    }
    args.rest()?;
    println!("commit {}", workspace::answer("git", &["rev-parse", "HEAD"]).unwrap_or_default().trim());
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulator() -> Command {
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--release", "-p", "busway-sim", "--"]);
    command
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    mutant: Vec<Mutant>,
}

/// One breakage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: String,
    before: String,
    after: String,
}

/// Entries of sim/mutants.toml that cannot be applied, in words.
pub(crate) fn misplaced(tree: &Tree) -> Vec<String> {
    let list: List = match toml::from_str(tree.text(MUTANTS).unwrap_or("")) {
        Ok(list) => list,
        Err(error) => return vec![error.to_string()],
    };
    let cause = |mutant: &Mutant| {
        let count = tree.text(&mutant.file).map_or(0, |text| text.matches(&mutant.before).count());
        (count != 1).then(|| format!("{}: `before` stands {count} times in {}", mutant.name, mutant.file))
    };
    list.mutant.iter().filter_map(cause).collect()
}

/// Breaks the machines in a copy of the tree, one way after the other.
fn mutants(names: &[String]) -> Result<ExitCode, Failure> {
    let root = workspace::root();
    let list: List = toml::from_str(&read(&root.join(MUTANTS))?)
        .map_err(|e| Failure::new(format!("{MUTANTS}: {e}"), "mend the entry"))?;
    if let Some(unknown) = names.iter().find(|name| !list.mutant.iter().any(|mutant| mutant.name == **name)) {
        return Err(Failure::usage(format!("{MUTANTS} has no `{unknown}`"), "cargo xtask sim --mutants"));
    }
    let wanted = |mutant: &&Mutant| names.is_empty() || names.contains(&mutant.name);
    let copy = workspace::target().join("sim-mutants/tree");
    tree::mirror(&root, &copy)?;
    let (mut lost, mut tried) = (0, 0);
    for mutant in list.mutant.iter().filter(wanted) {
        tried += 1;
        let sound = read(&root.join(&mutant.file))?;
        if sound.matches(&mutant.before).count() != 1 {
            let cause = format!("{}: `before` does not stand once in {}", mutant.name, mutant.file);
            return Err(Failure::new(cause, "follow the code"));
        }
        write(&copy.join(&mutant.file), &sound.replace(&mutant.before, &mutant.after))?;
        let mut command = workspace::cargo();
        // The machines alone, and not linked with all care: what is built anew for each breakage is built in seconds.
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        command.args(["run", "--quiet", "--release", "-p", "busway-sim", "--no-default-features", "--"]);
        command.current_dir(&copy).env("CARGO_TARGET_DIR", workspace::target().join("sim-mutants/target"));
        let output = command.args(["--brief", "--seeds", MUTANT_SEEDS]).stdin(Stdio::null()).output();
        let output = output.map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "install Rust"))?;
        write(&copy.join(&mutant.file), &sound)?;
        let told = String::from_utf8_lossy(&output.stdout);
        match told.lines().find(|line| line.starts_with("seed ")) {
            Some(line) => println!("found   {}: {line}", mutant.name),
            None => {
                println!("LOST    {}: {}", mutant.name, String::from_utf8_lossy(&output.stderr));
                lost += 1;
            }
        }
    }
    println!("{tried} breakages, {lost} not found");
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display()), "check its mode"))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display()), "free space, or rights"))
}
