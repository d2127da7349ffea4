//! `busway-swarm`: real nodes on links of a rate, and what artifacts cost there beside the least that they can cost.
//!
//! One process has the say and starts the others: a node in each network namespace, a plain TCP stream that says what the shaped line gives, and one that
//! clears up when the first has ended, in whatever way. All are this program, in other roles. It measures; what is allowed it does not decide.
//!
//! Invariant: when the program has ended, or has been killed and is started again, no namespace, process or directory of it is left.

#![expect(clippy::print_stdout, reason = "a measurement is printed")]

mod clock;
mod compared;
mod course;
mod drawing;
mod given;
mod input;
mod keeper;
mod network;
mod node;
mod options;
mod part;
mod rawstream;
mod real;
mod relay;
mod report;
mod shapes;
mod sweep;
mod transfer;

use std::process::ExitCode;

use crate::options::Options;

/// What went wrong, for who started it.
pub(crate) type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["node", rest @ ..] => node::run(rest),
        ["keeper", rest @ ..] => keeper::run(rest),
        ["send", address, seconds] => rawstream::send(address, seconds),
        ["receive", address] => rawstream::receive(address),
        ["relay", rest @ ..] => relay::run(rest),
        ["sweep"] => sweep::dead().map(|swept| println!("swept {swept}")),
        ["janitor", name] => sweep::janitor(name),
        // As other programs do that it is measured beside.
        ["name", "-"] => {
            println!("busway {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        ["-h" | "--help" | "help"] => {
            print!("{}", options::HELP);
            Ok(())
        }
        _ => Options::read(&words).and_then(|options| match options {
            Options { real: true, .. } => real::run(&options),
            Options { report: true, .. } => shapes::run(&options),
            _ => course::run(&options),
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("busway-swarm: {error}");
            ExitCode::FAILURE
        }
    }
}
