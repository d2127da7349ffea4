//! `busway-bench`: measures, and writes what it measured.
//!
//! `report` runs every figure in interleaved rounds and writes RESULTS.md and the plots; `one` runs one
//! figure and prints it; `cell` and `partner` are what both start.

use busway_bench::command::{Ours, complain, print_line, run_cell, run_partner};
use busway_bench::figure::catalogue;
use busway_bench::figure::page;
use busway_bench::figure::rounds::{self, Record, Settings};
use busway_bench::{Failure, place};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "bus")]
#[global_allocator]
static ALLOCATOR: busway_bench::bus::count::Counting = busway_bench::bus::count::Counting;

#[derive(Parser)]
#[command(version, about = "Measures Busway against floors and rivals")]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run all figures and write RESULTS.md, results.jsonl and the plots.
    Report {
        #[command(flatten)]
        settings: Options,
        /// Only these figures (ids, comma separated); the others keep their former results.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Measure nothing: write the page and the plots again from results.jsonl.
        #[arg(long)]
        redraw: bool,
    },
    /// Run one figure and print it; nothing is written.
    One {
        /// The figure: P1, P2, ...
        figure: String,
        #[command(flatten)]
        settings: Options,
        /// Print the results as JSON lines in place of tables.
        #[arg(long)]
        json: bool,
    },
    /// List the figures.
    List,
    /// One measurement of one side (started by report).
    #[command(hide = true)]
    Cell {
        /// A plan as JSON.
        plan: String,
    },
    /// One more process of a measurement (started by cell).
    #[command(hide = true)]
    Partner {
        /// PLAN STAGE OWNER INDEX
        arguments: Vec<String>,
    },
}

#[derive(Args)]
struct Options {
    /// One short round: shows that everything runs. Its figures mean nothing, and report writes nothing.
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7)]
    rounds: u64,
    /// Processors of the two sides (default: the first two allowed).
    #[arg(long, value_delimiter = ',', num_args = 2)]
    cpus: Option<Vec<usize>>,
    /// The rivals' program (default: bench/peers/target/release/busway-peers, where it is built).
    #[arg(long)]
    peers: Option<PathBuf>,
    /// The command `busway` (default: target/release/busway).
    #[arg(long)]
    busway: Option<PathBuf>,
}

impl Options {
    fn settings(&self) -> Result<Settings, Failure> {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = bench.parent().unwrap_or(bench);
        let cpus = match self.cpus.as_deref() {
            Some([first, second]) => [*first, *second],
            _ => place::first_two()?,
        };
        let peers = self.peers.clone().unwrap_or_else(|| bench.join("peers/target/release/busway-peers"));
        Ok(Settings {
            quick: self.quick,
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            cpus,
            peers: peers.exists().then_some(peers),
            busway: self.busway.clone().unwrap_or_else(|| root.join("target/release/busway")),
            machine: place::machine(),
            commit: place::commit(bench),
        })
    }
}

fn main() -> ExitCode {
    let done = match Command::parse().what {
        What::Report { settings, only, redraw } => report(&settings, &only, redraw),
        What::One { figure, settings, json } => one(&figure, &settings, json),
        What::List => list(),
        What::Cell { plan } => run_cell(&Ours, &plan),
        What::Partner { arguments } => run_partner(&Ours, &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            complain("busway-bench", &cause);
            ExitCode::from(3)
        }
    }
}

fn report(options: &Options, only: &[String], redraw: bool) -> Result<(), Failure> {
    let settings = options.settings()?;
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let log = bench.join("results.jsonl");
    let figures = catalogue::figures(&settings);
    if let Some(unknown) = only.iter().find(|id| figures.iter().all(|figure| figure.id != id.as_str())) {
        return Err(format!("no figure is called {unknown}; see list").into());
    }
    let mut records = rounds::load(&log)?;
    if !redraw {
        let chosen = figures.iter().filter(|figure| match only {
            [] => !figure.by_hand,
            ids => ids.iter().any(|id| id == figure.id),
        });
        for figure in chosen {
            let fresh = rounds::run(figure, &settings);
            records.retain(|record| record.figure != figure.id);
            records.extend(fresh);
            // Written after each figure: an hour's work is not lost to the last one.
            if !settings.quick {
                rounds::store(&log, &records)?;
            }
        }
    }
    if settings.quick {
        return print_line(&page::sections(&figures, &records));
    }
    page::write(bench, &figures, &records)
}

fn one(id: &str, options: &Options, json: bool) -> Result<(), Failure> {
    let settings = options.settings()?;
    let figures = catalogue::figures(&settings);
    let figure = figures.into_iter().find(|figure| figure.id == id);
    let figure = figure.ok_or_else(|| format!("no figure is called {id}; see list"))?;
    let records: Vec<Record> = rounds::run(&figure, &settings);
    if json {
        return records.iter().try_for_each(|record| print_line(&serde_json::to_string(record)?));
    }
    print_line(&page::sections(&[figure], &records))
}

fn list() -> Result<(), Failure> {
    let settings =
        Options { quick: true, rounds: 1, cpus: Some(vec![0, 1]), peers: None, busway: None }.settings()?;
    catalogue::figures(&settings)
        .iter()
        .try_for_each(|figure| print_line(&format!("{:4} {}", figure.id, figure.title)))
}
