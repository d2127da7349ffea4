//! `busway-sim`: runs seeds, and says what they found.
//!
//! `cargo xtask sim` calls it. A failure prints its seed and the fewest faults that show it; the same seed shows it
//! again.

#![expect(clippy::print_stdout, reason = "a command line tool answers on stdout")]

use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use busway_sim::day::{Day, Progress};
use busway_sim::machine;
#[cfg(feature = "runtime")]
use busway_sim::real::{self, Plan};
use busway_sim::swarm::{Configuration, Outcome};
use busway_sim::{Budget, Canary, Coverage};
use busway_wire::Cause;

const HELP: &str = "busway-sim [--seeds N | --seeds A..B | --minutes N] [--seed S] [--canary] [--trace]

  --seeds N     the first so many seeds
  --seeds A..B  these seeds
  --minutes N   seeds from a random one on, for so long
  --seed S      the first seed of --minutes; alone: only this one
  --canary      break the node on purpose: it must be found
  --trace       print what happened before a failure
  --twice       run each seed twice: both must be the same
  --floor 2     the runtime that ships, over a network in memory, in place of the machines
  --hours H     instead, so many hours of five nodes and their clients: prints the peak of each budget
  --clients N   with --hours: how many clients (default 1000)
  --keep-going  do not stop at the first failure
  --brief       do not look for the fewest faults that show a failure
";

/// Runs that a minimisation may cost.
const MINIMISE_RUNS_MAX: usize = 60;

/// With fewer runs it says nothing that some pair never met.
const MISSING_RUNS: u64 = 200;

/// From so many runs on it is a failure.
const BLIND_RUNS: u64 = 5_000;

/// A seed that has so much of the machine's time does not end: each needs less than a second, and a failure is looked at
/// in some more of them.
const SEED_MOST: Duration = Duration::from_secs(120);
/// How often that is looked at, if nothing is heard.
const LOOK: Duration = Duration::from_secs(5);

/// Between two words of how far it is.
const TELL: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Orders {
    first: u64,
    end: u64,
    until: Option<Duration>,
    canary: Canary,
    trace: bool,
    twice: bool,
    keep_going: bool,
    /// A failure is told as it is.
    brief: bool,
    /// The runtime in place of the machines.
    real: bool,
    /// Hours in place of seeds.
    hours: Option<u64>,
    clients: u64,
}

/// What all runs were together.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    failures: Vec<u64>,
    virtual_ns: u64,
    events: u64,
    messages: u64,
    delivered: u64,
    evicted: u64,
    faults: u64,
    fewest_messages: Option<u64>,
    fewest_faults: Option<u64>,
    fewest_ns: Option<u64>,
    holes: Vec<u64>,
    coverage: Coverage,
    peaks: Vec<(Budget, u64, u64)>,
}

#[expect(clippy::disallowed_methods, reason = "how long a run takes is told to people; no run depends on it")]
fn main() -> ExitCode {
    let orders = match orders(std::env::args().skip(1).collect()) {
        Ok(orders) => orders,
        Err(what) => {
            print!("{HELP}");
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    if let Some(hours) = orders.hours {
        return pass(hours, &orders, start);
    }
    let mut sum = Sum::default();
    let begun = watch();
    for seed in orders.first..orders.end {
        if orders.until.is_some_and(|until| start.elapsed() >= until) {
            break;
        }
        // It hears of it as long as it lives, which is as long as we do.
        let _ = begun.send(seed);
        if orders.real {
            run_real(seed, &orders, &mut sum);
        } else {
            run(seed, &orders, &mut sum);
        }
        if !sum.failures.is_empty() && !orders.keep_going {
            break;
        }
    }
    sum.print(start.elapsed(), orders.real);
    // What thousands of worlds never came to is not shown by them.
    let blind = sum.runs >= BLIND_RUNS && sum.coverage.missing(orders.real).next().is_some();
    if sum.failures.is_empty() && !blind { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends the program when no other seed is told of for too long: a machine that turns in a circle is found, too.
fn watch() -> Sender<u64> {
    let (begun, told) = channel();
    std::thread::spawn(move || {
        let mut last = None;
        loop {
            let had = machine::of_the_first_thread();
            match (told.recv_timeout(LOOK), last) {
                (Ok(seed), _) => last = Some((seed, had)),
                (Err(RecvTimeoutError::Timeout), Some((seed, before))) if had >= before + SEED_MOST => {
                    println!(
                        "seed {seed}: not at its end after {} s of the machine's time",
                        SEED_MOST.as_secs()
                    );
                    std::process::exit(1);
                }
                (Err(RecvTimeoutError::Timeout), _) => {}
                (Err(RecvTimeoutError::Disconnected), _) => return,
            }
        }
    });
    begun
}

/// Lets hours pass.
fn pass(hours: u64, orders: &Orders, start: Instant) -> ExitCode {
    let clients = usize::try_from(orders.clients).unwrap_or(usize::MAX);
    let day = Day { seed: orders.first, minutes: hours * 60, clients };
    let mut told = Duration::ZERO;
    let outcome = day.pass(|Progress { minutes, messages }| {
        let now = start.elapsed();
        if now - told >= TELL {
            told = now;
            let (hours, rest) = (minutes / 60, minutes % 60);
            println!("{hours:>3} h {rest:02} min, {messages} messages after {:.0} s", now.as_secs_f64());
        }
    });
    for budget in Budget::ALL {
        match outcome.peaks.iter().find(|peak| peak.0 == budget) {
            Some((_, held, bound)) => println!("peak of {}: {held} of {bound}", budget.name()),
            None => println!("peak of {}: none was ever held", budget.name()),
        }
    }
    let (seconds, took) = (outcome.virtual_ns as f64 / 1e9, start.elapsed().as_secs_f64());
    println!(
        "{hours} hours, {clients} clients, {} faults: {} messages, {} told, hash {:016x}",
        outcome.faults, outcome.messages, outcome.delivered, outcome.hash
    );
    println!("{seconds:.0} simulated seconds in {took:.1} s: {:.0} a second", seconds / took);
    match outcome.violation {
        Some(violation) => {
            println!("seed {}: {violation}", orders.first);
            ExitCode::FAILURE
        }
        None => {
            println!("every budget within its bound, nothing lost, nothing stuck");
            ExitCode::SUCCESS
        }
    }
}

fn run(seed: u64, orders: &Orders, sum: &mut Sum) {
    let configuration = Configuration::of(seed);
    let mut outcome = configuration.run(orders.canary, false);
    if orders.twice && outcome.violation.is_none() {
        let again = configuration.run(orders.canary, false);
        if again.hash != outcome.hash {
            outcome.violation = Some(format!("two runs differ: {:016x}, {:016x}", outcome.hash, again.hash));
        }
    }
    sum.add(&outcome);
    let Some(violation) = &outcome.violation else { return };
    sum.failures.push(seed);
    println!("seed {seed}: {violation}");
    if orders.keep_going || orders.brief {
        return;
    }
    let (least, runs) = configuration.minimise(orders.canary, MINIMISE_RUNS_MAX);
    println!("with {} of {} faults ({runs} runs):", least.faults.len(), configuration.faults.len());
    println!("  {:?}", least.terms);
    for planned in &least.faults {
        println!("  {planned:?}");
    }
    let shown = least.run(orders.canary, orders.trace);
    for line in &shown.lines {
        println!("{line}");
    }
    println!("  {}", shown.violation.as_deref().unwrap_or("which is no failure any more"));
}

/// The second floor is not in this program.
#[cfg(not(feature = "runtime"))]
fn run_real(_: u64, _: &Orders, _: &mut Sum) {
    unreachable!("`--floor 2` is refused");
}

/// One seed of the second floor.
#[cfg(feature = "runtime")]
fn run_real(seed: u64, orders: &Orders, sum: &mut Sum) {
    let plan = Plan::of(seed);
    let mut outcome = real::run(&plan, orders.trace);
    if orders.twice && outcome.violation.is_none() {
        let again = real::run(&plan, false);
        if again.hash != outcome.hash {
            outcome.violation = Some(format!("two runs differ: {:016x}, {:016x}", outcome.hash, again.hash));
        }
    }
    sum.runs += 1;
    sum.virtual_ns += outcome.virtual_ns;
    sum.messages += outcome.messages;
    sum.delivered += outcome.delivered;
    sum.faults += outcome.faults;
    sum.coverage.add(&outcome.coverage);
    sum.least(outcome.messages, outcome.faults, outcome.virtual_ns);
    if let Some(violation) = &outcome.violation {
        sum.failures.push(seed);
        println!("seed {seed}: {violation}");
        for line in &outcome.lines {
            println!("{line}");
        }
    }
}

impl Sum {
    fn least(&mut self, messages: u64, faults: u64, virtual_ns: u64) {
        self.fewest_messages = Some(self.fewest_messages.unwrap_or(u64::MAX).min(messages));
        self.fewest_faults = Some(self.fewest_faults.unwrap_or(u64::MAX).min(faults));
        self.fewest_ns = Some(self.fewest_ns.unwrap_or(u64::MAX).min(virtual_ns));
    }

    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.virtual_ns += outcome.virtual_ns;
        self.events += outcome.events;
        self.messages += outcome.messages;
        self.delivered += outcome.delivered;
        self.evicted += outcome.evicted;
        self.faults += outcome.faults as u64;
        self.least(outcome.messages, outcome.faults as u64, outcome.virtual_ns);
        self.holes.resize(outcome.holes.len().max(self.holes.len()), 0);
        for (sum, count) in self.holes.iter_mut().zip(&outcome.holes) {
            *sum += count;
        }
        self.coverage.add(&outcome.coverage);
        for &(budget, held, bound) in &outcome.peaks {
            match self.peaks.iter_mut().find(|peak| peak.0 == budget) {
                Some(peak)
                    if u128::from(held) * u128::from(peak.2) > u128::from(peak.1) * u128::from(bound) =>
                {
                    *peak = (budget, held, bound);
                }
                Some(_) => {}
                None => self.peaks.push((budget, held, bound)),
            }
        }
    }

    fn print(&self, took: Duration, real: bool) {
        println!("\n{}\n", self.coverage.table());
        let missing: Vec<String> =
            self.coverage.missing(real).map(|(fault, phase)| format!("{fault} x {}", phase.name())).collect();
        if !missing.is_empty() && self.runs >= MISSING_RUNS {
            println!("never met: {}", missing.join(", "));
        }
        for (index, count) in self.holes.iter().enumerate().filter(|(_, count)| **count > 0) {
            let name = Cause::from_index(index).map_or("nobody knows (a node died)", Cause::name);
            println!("holes told, {name}: {count}");
        }
        for (budget, held, bound) in &self.peaks {
            println!("nearest to its bound, {}: {held} of {bound}", budget.name());
        }
        let seconds = self.virtual_ns as f64 / 1e9;
        println!(
            "{} seeds, {} failed {:?}: {} messages (at least {} a seed), {} told, {} faults (at least {} a seed), \
             {} clients gave way, {} events",
            self.runs,
            self.failures.len(),
            self.failures,
            self.messages,
            self.fewest_messages.unwrap_or(0),
            self.delivered,
            self.faults,
            self.fewest_faults.unwrap_or(0),
            self.evicted,
            self.events
        );
        println!(
            "{seconds:.0} simulated seconds (at least {:.0} a seed) in {:.1} s: {:.0} a second",
            self.fewest_ns.unwrap_or(0) as f64 / 1e9,
            took.as_secs_f64(),
            seconds / took.as_secs_f64()
        );
    }
}

fn orders(arguments: Vec<String>) -> Result<Orders, String> {
    let mut orders = Orders {
        first: 0,
        end: 100,
        until: None,
        canary: Canary::Sound,
        trace: false,
        twice: false,
        keep_going: false,
        brief: false,
        real: false,
        hours: None,
        clients: 1_000,
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no whole number"));
        match argument.as_str() {
            "--seeds" => {
                let range = value()?;
                let (from, to) = range.split_once("..").unwrap_or(("0", &range));
                (orders.first, orders.end) = (number(from)?, number(to)?);
            }
            "--seed" => {
                orders.first = number(&value()?)?;
                orders.end = if orders.until.is_some() { u64::MAX } else { orders.first + 1 };
            }
            "--minutes" => {
                orders.until = Some(Duration::from_secs(60 * number(&value()?)?));
                if orders.first == 0 {
                    orders.first = fastrand::u64(..1 << 40);
                }
                orders.end = u64::MAX;
            }
            "--canary" => orders.canary = Canary::AcknowledgesEarly,
            "--trace" => orders.trace = true,
            "--twice" => orders.twice = true,
            "--hours" => orders.hours = Some(number(&value()?)?),
            "--clients" => orders.clients = number(&value()?)?,
            "--floor" => match value()?.as_str() {
                "1" => orders.real = false,
                "2" if cfg!(feature = "runtime") => orders.real = true,
                other => return Err(format!("there is no floor `{other}`")),
            },
            "--keep-going" => orders.keep_going = true,
            "--brief" => orders.brief = true,
            other => return Err(format!("there is no flag `{other}`")),
        }
    }
    Ok(orders)
}
