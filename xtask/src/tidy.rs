//! `cargo xtask tidy`: the walls that no compiler holds. Each finding names a place, the cause and the remedy.
//!
//! A rule is a function from the tree to findings; so each is tested by breaking it once in a tree of a few
//! lines that exists only in memory.

mod arrows;
mod documents;
mod files;
mod imports;
mod licences;
mod rows;
mod words;

use std::fmt;
use std::process::ExitCode;

use crate::args::Args;
use crate::failure::Failure;
use crate::tree::Tree;
use crate::workspace;

const HELP: &str = "cargo xtask tidy

Checks what no compiler checks, over every file of the repository:
  arrows between crates · files with `unsafe` · heads of files · lengths of files and functions · modules that
  nothing imports · locks on the data path · words that must not stay · who reads the wall clock · a reason beside
  each dependency · licences and sources of dependencies · paths named in documents · the MSRV in the README ·
  promises, their tests and their mutants
A line of output is `file:line: cause` and below it what to do. `note:` lines do not fail.

Exit: 0 nothing found, 1 findings.
";

/// What a rule has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    cause: String,
    remedy: String,
    weight: Weight,
}

/// Whether a finding fails the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Fails,
    Note,
}

impl Finding {
    fn new(file: &str, line: usize, cause: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            file: file.to_owned(),
            line,
            cause: cause.into(),
            remedy: remedy.into(),
            weight: Weight::Fails,
        }
    }

    /// Worth saying, but no failure.
    fn note(file: &str, line: usize, cause: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { weight: Weight::Note, ..Finding::new(file, line, cause, remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.weight == Weight::Note { "note: " } else { "" };
        write!(f, "{note}{}:{}: {}\n  try: {}", self.file, self.line, self.cause, self.remedy)
    }
}

/// Every rule that needs nothing but the tree.
const RULES: &[fn(&Tree, &mut Vec<Finding>)] = &[
    arrows::between_crates,
    arrows::reasons_for_dependencies,
    files::unsafe_only_where_listed,
    files::heads,
    files::lengths,
    files::no_lock_on_the_data_path,
    imports::no_orphans,
    words::check,
    words::wall_clock,
    documents::paths_exist,
    documents::msrv,
    rows::promises_and_mutants,
];

pub(crate) fn command(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    let Some(args) = Args::new(arguments, HELP) else { return Ok(ExitCode::SUCCESS) };
    args.rest()?;
    let tree = Tree::read(&workspace::root())?;
    let mut findings = Vec::new();
    for rule in RULES {
        rule(&tree, &mut findings);
    }
    licences::check(&tree, &mut findings);
    findings.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let failures = findings.iter().filter(|finding| finding.weight == Weight::Fails).count();
    println!("tidy: {} files, {failures} findings, {} notes", tree.names.len(), findings.len() - failures);
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests;
