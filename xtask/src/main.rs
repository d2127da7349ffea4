//! `cargo xtask`: the project's own tool. Each subcommand is a file of that name.
//!
//! It runs the tests and joins them with PROMISES.md, checks what no compiler checks, breaks the code on
//! purpose to see whether its tests notice, and is what continuous integration calls. It holds no knowledge
//! of the bus itself and links none of its crates, so that it still builds when they do not.

#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

mod args;
mod bench;
mod ci;
mod claims;
mod clock;
mod doctest;
mod failure;
mod figures;
mod fuzz;
mod json;
mod mutants;
mod process;
mod promises;
mod sim;
mod soak;
mod source;
mod suite;
mod swarm;
mod test;
mod tidy;
mod tools;
mod tree;
mod web;
mod wheel;
mod workspace;

use std::process::ExitCode;

use crate::failure::Failure;

const HELP: &str = "cargo xtask: the project's own tool

usage: cargo xtask COMMAND [ARGUMENT...]

  test      run every test, example and documentation test; join them with PROMISES.md
  tidy      check what no compiler checks: arrows, unsafe, lengths, licences, words, promises
  mutants   break the code on purpose: each breakage must turn its test red
  ci        what continuous integration runs, job by job
  bench     reproduce every figure of bench/RESULTS.md
  sim       run hosts and links in a simulated network, seed by seed
  soak      the tests that a long run makes stronger: kills, ports, hostile words, tasks under fire, all flights, HTTP under load
  swarm     artifacts among real nodes on shaped lines, each in a network namespace; as root

`cargo xtask COMMAND --help` says more.
";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() || ["-h", "--help", "help"].contains(&arguments[0].as_str()) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let command = arguments.remove(0);
    let end = match command.as_str() {
        "test" => test::command(arguments),
        "tidy" => tidy::command(arguments),
        "mutants" => mutants::command(arguments),
        "ci" => ci::command(arguments),
        "bench" => bench::command(arguments),
        "sim" => sim::command(arguments),
        "soak" => soak::command(arguments),
        "swarm" => swarm::command(arguments),
        _ => Err(Failure::usage(format!("there is no command `{command}`"), "cargo xtask --help")),
    };
    match end {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit)
        }
    }
}
