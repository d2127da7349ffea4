//! `cargo xtask mutants`: breaks the code on purpose, one breakage at a time, in a copy of the tree. The test that
//! is named for it must turn red: a promise whose test stays green when the code is broken is no promise.
//!
//! An entry of mutants.toml:
//! ```toml
//! [[mutant]]
//! row = "A7"                      # of PROMISES.md
//! name = "death_removes_nothing"  # unique
//! file = "crates/busway/src/control/rendezvous.rs"
//! before = "text that stands exactly once in the file"
//! after = "what stands there instead; it must compile"
//! test = { package = "busway", target = "lib", name = "control::rendezvous::tests::death_removes" }
//! why = "a sentence: what goes wrong for a user"
//! ```
//! Above all entries `seen_red_at = "COMMIT"` says at which commit each of them had been seen red: continuous integration
//! tries what has changed since then.
//!
//! A target is `lib`, `bin` or the name of a file in tests/; `loom` is built with `--cfg loom`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde::Deserialize;

use crate::args::Args;
use crate::clock::Watch;
use crate::failure::Failure;
use crate::process::{self, Output};
use crate::tree::{self, Tree};
use crate::{source, suite, workspace};

const HELP: &str = "cargo xtask mutants [--list] [--changed BASE] [--limit SECONDS] [--within SECONDS] [ROW | NAME]...

Applies each breakage of mutants.toml in a copy of the tree (target/mutants, built incrementally) and runs the one
test that must notice it. First that test must pass without the breakage.

  ROW, NAME        only mutants of this row of PROMISES.md, or of this name
  --changed BASE   only mutants whose entry, file or test's file has changed since the commit BASE
  --list           only list them
  --limit SECONDS  a test that takes longer is red, because a hang is noticed too (default 120)
  --within SECONDS after so long no other one is begun; what is left is named and counted, and each commit begins
                   elsewhere

Exit: 0 every mutant was caught, 1 one survived, does not apply or does not compile.
";

const LIMIT_SECONDS: u64 = 120;
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// One breakage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) row: String,
    pub(crate) name: String,
    pub(crate) file: String,
    before: String,
    after: String,
    pub(crate) test: Test,
    why: String,
    /// The line of its name in mutants.toml, from 1.
    #[serde(skip)]
    pub(crate) line: usize,
}

/// The test that must turn red.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    package: String,
    target: String,
    name: String,
}

impl Test {
    /// As PROMISES.md and `cargo xtask test --list` write it.
    pub(crate) fn id(&self) -> String {
        format!("{}::{}::{}", self.package, self.target, self.name)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// At this commit each had been seen red.
    seen_red_at: Option<String>,
    #[serde(default)]
    mutant: Vec<Mutant>,
}

fn read(text: &str) -> Result<File, Failure> {
    let remedy = "the head of xtask/src/mutants.rs shows an entry";
    toml::from_str(text).map_err(|e| Failure::new(format!("mutants.toml: {e}"), remedy))
}

/// The commit at which each breakage had been seen red, where this clone knows it.
pub(crate) fn seen_red_at() -> Option<String> {
    let text = std::fs::read_to_string(workspace::root().join("mutants.toml")).ok()?;
    let commit = read(&text).ok()?.seen_red_at?;
    workspace::answer("git", &["merge-base", "--is-ancestor", &commit, "HEAD"]).map(|_| commit)
}

/// Reads mutants.toml.
pub(crate) fn parse(text: &str) -> Result<Vec<Mutant>, Failure> {
    let mut mutants = read(text)?.mutant;
    for mutant in &mut mutants {
        let name = format!("name = \"{}\"", mutant.name);
        mutant.line = text.lines().position(|line| line.starts_with(&name)).map_or(1, |index| index + 1);
    }
    let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    if names.len() != mutants.len() {
        return Err(Failure::new("mutants.toml: a name stands twice", "names are unique"));
    }
    Ok(mutants)
}

/// The text of the file with the breakage in it.
pub(crate) fn apply(mutant: &Mutant, text: Option<&str>) -> Result<String, String> {
    let text = text.ok_or_else(|| format!("{} does not exist", mutant.file))?;
    if mutant.before == mutant.after {
        return Err("it changes nothing".to_owned());
    }
    match text.matches(&mutant.before).count() {
        1 => Ok(text.replacen(&mutant.before, &mutant.after, 1)),
        count => Err(format!("its text before stands {count} times in {}", mutant.file)),
    }
}

/// The folder of a package, with a slash at its end.
pub(crate) fn folder_of(tree: &Tree, package: &str) -> Option<String> {
    let line = format!("name = \"{package}\"");
    tree.files
        .iter()
        .filter(|(path, _)| path.ends_with("Cargo.toml"))
        .find(|(_, text)| text.lines().any(|l| l.trim() == line))
        .map(|(path, _)| path.trim_end_matches("Cargo.toml").to_owned())
}

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(mut args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    let list = args.flag("--list");
    let changed = args.value("--changed")?;
    let limit = Duration::from_secs(args.number("--limit")?.unwrap_or(LIMIT_SECONDS));
    let within = args.number("--within")?.map(Duration::from_secs);
    let wanted = args.rest()?;
    let root = workspace::root();
    let tree = Tree::read(&root)?;
    let all = parse(tree.text("mutants.toml").unwrap_or(""))?;
    if let Some(unknown) = wanted.iter().find(|w| !all.iter().any(|m| m.row == **w || m.name == **w)) {
        return Err(Failure::usage(format!("no mutant has the row or name `{unknown}`"), "mutants --list"));
    }
    let mut chosen: Vec<Mutant> = all
        .iter()
        .filter(|m| wanted.is_empty() || wanted.iter().any(|w| *w == m.row || *w == m.name))
        .cloned()
        .collect();
    if let Some(base) = changed {
        let change = Change::since(&base)?;
        chosen.retain(|mutant| change.touches(mutant, &tree));
    }
    if list {
        for mutant in &chosen {
            println!("{:5} {}  {}  ({})", mutant.row, mutant.name, mutant.test.id(), mutant.why);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // One target after the other, so that cargo builds as little as possible.
    chosen.sort_by(|a, b| (&a.test, &a.name).cmp(&(&b.test, &b.name)));
    if within.is_some() {
        begin_elsewhere(&mut chosen, &tree);
    }
    let survived = run(&root, &tree, &chosen, limit, within)?;
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What differs from a commit: files, and the mutants as they were there.
struct Change {
    files: BTreeSet<String>,
    mutants: Vec<Mutant>,
}

impl Change {
    fn since(base: &str) -> Result<Change, Failure> {
        let differ = workspace::answer("git", &["diff", "--name-only", base, "--"]).ok_or_else(|| {
            Failure::usage(format!("git knows no commit `{base}`"), "a branch or a commit of this repository")
        })?;
        let new = workspace::answer("git", &["ls-files", "--others", "--exclude-standard"]);
        let old = workspace::answer("git", &["show", &format!("{base}:mutants.toml")]);
        // A file that could not be read then counts as empty: every entry is new.
        let mutants = old.and_then(|text| parse(&text).ok()).unwrap_or_default();
        let files = differ.lines().chain(new.as_deref().unwrap_or("").lines()).map(str::to_owned).collect();
        Ok(Change { files, mutants })
    }

    fn touches(&self, mutant: &Mutant, tree: &Tree) -> bool {
        let same = |old: &Mutant| Mutant { line: mutant.line, ..old.clone() } == *mutant;
        let folder = folder_of(tree, &mutant.test.package).unwrap_or_default();
        let name = mutant.test.name.rsplit("::").next().unwrap_or("");
        let test_file = |path: &str| {
            path.starts_with(&folder) && tree.text(path).is_some_and(|text| source::has_function(text, name))
        };
        !self.mutants.iter().any(same)
            || self.files.contains(&mutant.file)
            || self.files.iter().any(|path| test_file(path))
    }
}

/// Turns the list, by the commit: where not all are tried it is not always the same ones. Those that the last commit has
/// touched come first.
fn begin_elsewhere(mutants: &mut [Mutant], tree: &Tree) {
    let head = workspace::answer("git", &["rev-parse", "HEAD"]).unwrap_or_default();
    let number = head.get(..8).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let count = mutants.len().max(1);
    mutants.rotate_left(number % count);
    if let Ok(last) = Change::since("HEAD~1") {
        mutants.sort_by_key(|mutant| !last.touches(mutant, tree));
    }
}

/// Runs each that can be begun in time; returns how many were not caught.
fn run(
    root: &Path,
    tree: &Tree,
    mutants: &[Mutant],
    limit: Duration,
    within: Option<Duration>,
) -> Result<usize, Failure> {
    let copy = workspace::target().join("mutants/tree");
    tree::mirror(root, &copy)?;
    let scratch = Scratch { copy, limit };
    let began = Watch::start();
    let (mut lost, mut green): (usize, BTreeSet<Test>) = (0, BTreeSet::new());
    for (tried, mutant) in mutants.iter().enumerate() {
        if within.is_some_and(|within| began.elapsed() >= within) {
            let left = &mutants[tried..];
            left.iter().for_each(|mutant| println!("{:5} not tried  {}", mutant.row, mutant.name));
            println!("mutants: {} caught, {lost} not caught, {} not tried", tried - lost, left.len());
            return Ok(lost);
        }
        let watch = Watch::start();
        if !green.contains(&mutant.test) {
            match scratch.verdict(&mutant.test)? {
                Verdict::Green => drop(green.insert(mutant.test.clone())),
                other => {
                    println!(
                        "{:5} {}: its test does not pass unbroken: {}",
                        mutant.row,
                        mutant.name,
                        other.words()
                    );
                    lost += 1;
                    continue;
                }
            }
        }
        let verdict = scratch.broken(mutant, tree.text(&mutant.file))?;
        let caught = matches!(verdict, Verdict::Red(_));
        let word = if caught { "caught" } else { "NOT CAUGHT" };
        let (words, seconds) = (verdict.words(), watch.seconds());
        println!("{:5} {word:10} {} ({words}; {seconds:.0} s)", mutant.row, mutant.name);
        if !caught {
            println!("      {}\n      {} should have noticed it", mutant.why, mutant.test.id());
            lost += 1;
        }
    }
    println!("mutants: {} caught, {lost} not caught", mutants.len() - lost);
    Ok(lost)
}

/// What a test says about the tree in the scratch copy.
enum Verdict {
    Green,
    Red(String),
    NoBuild(String),
    NotApplied(String),
    NoSuchTest,
}

impl Verdict {
    fn words(&self) -> String {
        match self {
            Verdict::Green => "its test stays green".to_owned(),
            Verdict::Red(why) => format!("red: {why}"),
            Verdict::NoBuild(output) => format!("it does not compile\n{output}\n"),
            Verdict::NotApplied(cause) => cause.clone(),
            Verdict::NoSuchTest => "there is no such test".to_owned(),
        }
    }
}

/// The copy of the tree in which the code is broken.
struct Scratch {
    copy: PathBuf,
    limit: Duration,
}

impl Scratch {
    /// Breaks the code, runs the test and mends the code again.
    fn broken(&self, mutant: &Mutant, text: Option<&str>) -> Result<Verdict, Failure> {
        let changed = match apply(mutant, text) {
            Ok(changed) => changed,
            Err(cause) => return Ok(Verdict::NotApplied(cause)),
        };
        let path = self.copy.join(&mutant.file);
        let write = |text: &str| {
            std::fs::write(&path, text)
                .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display()), "free space"))
        };
        write(&changed)?;
        let verdict = self.verdict(&mutant.test);
        write(text.unwrap_or_default())?;
        verdict
    }

    fn verdict(&self, test: &Test) -> Result<Verdict, Failure> {
        let mut build = self.cargo(test);
        build.arg("--no-run");
        let end = process::run(build, "mutant-build", BUILD_LIMIT, Output::Kept)?;
        if !end.success() {
            return Ok(Verdict::NoBuild(end.output));
        }
        let mut command = self.cargo(test);
        command.args(["--", "--exact", &test.name, "--nocapture", "--test-threads=2"]);
        let end = process::run(command, "mutant", self.limit, Output::Kept)?;
        Ok(match (end.success(), end.output.contains("running 1 test")) {
            (true, true) => Verdict::Green,
            (_, false) => Verdict::NoSuchTest,
            (false, true) => Verdict::Red(end.why()),
        })
    }

    fn cargo(&self, test: &Test) -> Command {
        let mut command = workspace::cargo();
        command.current_dir(&self.copy).args(["test", "-p", &test.package]);
        command.env("CARGO_TARGET_DIR", workspace::target().join("mutants/target"));
        match test.target.as_str() {
            "lib" => command.arg("--lib"),
            "bin" => command.arg("--bins"),
            name => command.args(["--test", name]),
        };
        if test.target == "loom" {
            suite::loom_environment(&mut command);
            command.env("CARGO_TARGET_DIR", workspace::target().join("mutants/loom")).arg("--release");
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "[[mutant]]\nrow = \"A7\"\nname = \"m\"\nfile = \"a.rs\"\nbefore = \"x + 1\"\nafter = \"x\"\n\
        test = { package = \"p\", target = \"lib\", name = \"t\" }\nwhy = \"w\"\n";

    #[test]
    fn an_entry_applies_only_where_its_text_stands_once() {
        let mutant = &parse(ENTRY).unwrap()[0];
        assert_eq!((mutant.line, mutant.test.id().as_str()), (3, "p::lib::t"));
        assert_eq!(apply(mutant, Some("y = x + 1;")).unwrap(), "y = x;");
        assert!(apply(mutant, Some("x + 1, x + 1")).is_err());
        assert!(apply(mutant, Some("x + 2")).is_err());
        assert!(apply(mutant, None).is_err());
    }

    #[test]
    fn a_name_that_stands_twice_and_an_unknown_key_are_refused() {
        assert!(parse(&format!("{ENTRY}{ENTRY}")).is_err());
        assert!(parse(&ENTRY.replace("why", "because")).is_err());
    }

    #[test]
    fn the_commit_at_which_all_were_seen_red_stands_above_them() {
        assert_eq!(read(ENTRY).unwrap().seen_red_at, None);
        assert_eq!(
            read(&format!("seen_red_at = \"1234\"\n{ENTRY}")).unwrap().seen_red_at.as_deref(),
            Some("1234")
        );
    }

    #[test]
    fn a_mutant_is_touched_by_its_file_its_test_and_its_entry() {
        let mutant = &parse(ENTRY).unwrap()[0];
        let tree = Tree::of(&[("c/Cargo.toml", "name = \"p\"\n"), ("c/t.rs", "fn t() {}"), ("c/u.rs", "")]);
        let change = |files: &[&str], mutants: Vec<Mutant>| {
            Change { files: files.iter().map(|f| (*f).to_owned()).collect(), mutants }.touches(mutant, &tree)
        };
        let known = || vec![mutant.clone()];
        assert!(!change(&["c/u.rs", "mutants.toml"], known()));
        assert!(change(&["a.rs"], known()));
        assert!(change(&["c/t.rs"], known()));
        assert!(change(&[], vec![]));
        assert!(change(&[], vec![Mutant { after: "other".into(), ..mutant.clone() }]));
    }
}
