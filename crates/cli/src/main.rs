//! The `busway` command.
//!
//! `main` parses the command line, runs one command and turns its result into an exit code and a report. It decides
//! nothing else: each command is a file, and all of them use the public API of the `busway` crate, as any user would.
//!
//! Invariant: every way out goes through [`finish`], so codes and reports are the same everywhere.

mod artifacts;
mod bench;
mod beside;
mod cert;
mod children;
mod clock;
mod command;
mod completions;
mod configuration;
mod doctor;
mod duration;
mod exit;
mod flows;
mod get;
mod info;
mod input;
mod lines;
mod ls;
mod man;
mod near;
mod node;
mod output;
mod peers;
mod printer;
mod publish;
mod pull;
mod push;
mod put;
mod rate;
mod reply;
mod req;
mod session;
mod shm;
mod signals;
mod stat;
mod subscribe;
mod tour;
mod up;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use crate::command::{CertCommand, Cli, ColorChoice, Command, Global};
use crate::exit::{CommandCode, Exit, Failure};
use crate::output::Output;
use crate::session::Context;
use crate::signals::Signals;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Roles are processes that `bench` and `tour` start; they are no commands and stand in no table.
    if arguments.get(1).is_some_and(|word| word == children::ROLE_WORD) {
        return children::run_role(arguments.get(2), arguments.get(3));
    }
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(cli),
        Err(error) => refuse(&error, &arguments),
    }
}

fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let mut output = match Output::new(&global) {
        Ok(output) => output,
        Err(failure) => return finish(Err(failure), &global),
    };
    let result = start_log(&global).and_then(|()| match command {
        None => examples(&mut output),
        Some(command) => dispatch(command, &global, &mut output),
    });
    let result = result.and_then(|exit| output.flush().map(|()| exit));
    drop(output);
    finish(result, &global)
}

fn dispatch(command: Command, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    // These three need neither the bus nor signals.
    match &command {
        Command::Completions(args) => return completions::run(args, output),
        Command::Man(args) => return man::run(args, output),
        Command::Cert(CertCommand::New(args)) => return cert::new(args, output),
        _ => {}
    }
    let signals = Signals::install().map_err(|error| {
        let remedy = "ulimit -n 1024 or more; busway doctor";
        Failure::new(CommandCode::Stream, error.to_string(), "installing signal handlers", remedy)
            .ending(Exit::Unreachable)
    })?;
    output.heed(&signals);
    let mut context = Context { global, output, signals: &signals };
    match command {
        Command::Up(args) => up::run(&args, &mut context),
        Command::Peers => peers::run(&mut context),
        Command::Flows => flows::run(&mut context),
        Command::Node(which) => node::run(&which, &mut context),
        Command::Config(which) => configuration::run(&which, &mut context),
        Command::Pub(args) => publish::run(&args, &mut context),
        Command::Sub(args) => subscribe::run(&args, &mut context),
        Command::Push(args) => push::run(&args, &mut context),
        Command::Pull(args) => pull::run(&args, &mut context),
        Command::Req(args) => req::run(&args, &mut context),
        Command::Reply(args) => reply::run(&args, &mut context),
        Command::Put(args) => put::run(&args, &mut context),
        Command::Get(args) => get::run(&args, &mut context),
        Command::Artifacts(which) => artifacts::run(&which, &mut context),
        Command::Ls(args) => ls::run(&args, &mut context),
        Command::Info(args) => info::run(&args, &mut context),
        Command::Stat(args) => stat::run(&args, &mut context),
        Command::Shm(command::ShmCommand::Ls) => shm::run(&mut context),
        Command::Bench(which) => bench::run(&which, &mut context),
        Command::Doctor => doctor::run(&mut context),
        Command::Tour(args) => tour::run(&args, &mut context),
        Command::Completions(_) | Command::Man(_) | Command::Cert(_) => Ok(Exit::Done),
    }
}

/// `busway` alone: five examples, and where the rest stands.
fn examples(output: &mut Output) -> Result<Exit, Failure> {
    output.line(command::FIVE_EXAMPLES)?;
    output.line("\nbusway --help lists everything; busway COMMAND --help shows each with examples")?;
    Ok(Exit::Done)
}

/// Log lines go to stderr; which, is `--log`, else `-v` and `-q`, else warnings.
fn start_log(global: &Global) -> Result<(), Failure> {
    let default = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_new(global.log.as_deref().unwrap_or(default)).map_err(|error| {
        Failure::usage(
            format!("'{}' is no log filter: {error}", global.log.as_deref().unwrap_or(default)),
            "--log, BUSWAY_LOG",
            "error, warn, info, debug, trace, or busway=debug",
        )
    })?;
    let colour = output::coloured(global.color, io::stderr().is_terminal());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
    Ok(())
}

/// The one way out.
fn finish(result: Result<Exit, Failure>, global: &Global) -> ExitCode {
    match result {
        Ok(exit) => exit.code(),
        Err(failure) => {
            if let Failure::Told(report) = &failure {
                let colour = output::coloured(global.color, io::stderr().is_terminal());
                output::report_to(report, global.json, colour);
            }
            failure.exit().code()
        }
    }
}

/// A command line that does not parse: help and version go to stdout, the rest becomes a report.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let colour = output::coloured(ColorChoice::Auto, io::stdout().is_terminal());
            let text = error.render();
            let text = if colour { text.ansi().to_string() } else { text.to_string() };
            // Whether the reader has gone is not our business: help was asked for and given.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            Exit::Done.code()
        }
        _ => {
            let failure = usage_failure(error, arguments);
            if let Failure::Told(report) = &failure {
                // The flags did not parse, so whether JSON was wanted is read from the words.
                let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
                output::report_to(
                    report,
                    json,
                    output::coloured(ColorChoice::Auto, io::stderr().is_terminal()),
                );
            }
            failure.exit().code()
        }
    }
}

/// Clap's own words, in the shape that every error of the command has.
fn usage_failure(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let mut cause = first.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(rest) = cause.strip_prefix("error: ") {
        cause = rest.to_string();
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        cause = "a command is missing".to_string();
    }
    let tip = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("tip: ")).map(str::to_string);
    let commands: Vec<String> = table_words(arguments);
    let place = std::iter::once("busway".to_string()).chain(commands).collect::<Vec<_>>().join(" ");
    let remedy = match tip {
        Some(tip) => format!("{}; {place} --help", tip.lines().next().unwrap_or_default()),
        None => format!("{place} --help"),
    };
    Failure::new(CommandCode::Usage, cause, place, remedy)
}

/// The words that name a command of the table, in their order.
fn table_words(arguments: &[OsString]) -> Vec<String> {
    let mut table = command::table();
    let mut words = Vec::new();
    for word in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(found) = table.find_subcommand(word).cloned() else { continue };
        words.push(word.to_string());
        table = found;
    }
    words
}
