//! Promises that cannot rot: each held row names a test that exists and a mutant that the test must catch.

use crate::mutants::{self, Mutant};
use crate::promises::{self, Promise, Proof, State};
use crate::sim;
use crate::source;
use crate::tidy::Finding;
use crate::tree::Tree;

/// PROMISES.md and mutants.toml agree with each other and with the source.
pub(crate) fn promises_and_mutants(tree: &Tree, out: &mut Vec<Finding>) {
    let promises = match promises::parse(tree.text("PROMISES.md").unwrap_or("")) {
        Ok(promises) => promises,
        Err(error) => {
            out.push(Finding::new("PROMISES.md", 1, error.to_string(), "mend the row"));
            return;
        }
    };
    let mutants = match mutants::parse(tree.text("mutants.toml").unwrap_or("")) {
        Ok(mutants) => mutants,
        Err(error) => {
            out.push(Finding::new("mutants.toml", 1, error.to_string(), "mend the entry"));
            return;
        }
    };
    for promise in promises.iter().filter(|promise| promise.state == State::Held) {
        held(tree, promise, &mutants, out);
    }
    for mutant in &mutants {
        of_mutant(tree, mutant, &promises, out);
    }
    for cause in sim::misplaced(tree) {
        out.push(Finding::new(sim::MUTANTS, 1, cause, "the code has moved on: choose the text before anew"));
    }
}

fn held(tree: &Tree, promise: &Promise, mutants: &[Mutant], out: &mut Vec<Finding>) {
    let mut tested = false;
    for proof in &promise.tests {
        let Proof::Test(id) = proof else {
            tested |= matches!(proof, Proof::Prefix(_));
            continue;
        };
        tested = true;
        if !exists(tree, id) {
            out.push(Finding::new(
                "PROMISES.md",
                promise.line,
                format!("{}: there is no test `{id}`", promise.row),
                "cargo xtask test --list",
            ));
        }
    }
    // A figure has no test that could turn red.
    if tested && !mutants.iter().any(|mutant| mutant.row == promise.row) {
        out.push(Finding::new(
            "PROMISES.md",
            promise.line,
            format!("{}: no mutant breaks it", promise.row),
            "add to mutants.toml the smallest breakage that its test must notice",
        ));
    }
}

/// Whether the last part of `id` is a function of its package, or an example's file.
fn exists(tree: &Tree, id: &str) -> bool {
    let Some((package, rest)) = id.split_once("::") else { return false };
    let name = rest.rsplit("::").next().unwrap_or(rest);
    let Some(folder) = mutants::folder_of(tree, package) else { return false };
    if rest.starts_with("example::") {
        return tree
            .names
            .iter()
            .any(|path| path.starts_with(&folder) && path.ends_with(&format!("/{name}.rs")));
    }
    tree.rust().any(|(path, text)| path.starts_with(&folder) && source::has_function(text, name))
}

fn of_mutant(tree: &Tree, mutant: &Mutant, promises: &[Promise], out: &mut Vec<Finding>) {
    let mut found = |cause: String, remedy: &str| {
        out.push(Finding::new("mutants.toml", mutant.line, format!("{}: {cause}", mutant.name), remedy));
    };
    if !promises.iter().any(|promise| promise.row == mutant.row) {
        found(format!("there is no row {}", mutant.row), "name a row of PROMISES.md");
    }
    if let Err(cause) = mutants::apply(mutant, tree.text(&mutant.file)) {
        found(cause, "the code has moved on: choose the text before anew");
    }
    let id = mutant.test.id();
    if !exists(tree, &id) {
        found(format!("there is no test `{id}`"), "cargo xtask test --list");
    }
}
