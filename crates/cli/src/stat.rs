//! `busway stat`: what each process of the domain has counted, once or again and again.
//!
//! The values are the library's own table (`busway::metrics`); this file only lays them out. It asks nobody: they are read where they
//! are counted.
//!
//! Invariant: it does not show itself.

use std::collections::BTreeMap;
use std::time::Duration;

use busway::Bus;
use busway::metrics::{ProcessMetrics, prometheus};

use crate::clock;
use crate::command::StatArgs;
use crate::exit::{Exit, Failure};
use crate::session::Context;

/// How often a table renews itself, unless it is said.
const INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor of a terminal home, and clears what is behind it.
const HOME: &str = "\x1b[H\x1b[J";

/// What had been sent and received when it was looked at last, by process.
type Before = BTreeMap<String, (u64, u64)>;

/// A signal is how one that shows again and again ends: with what it has shown.
pub(crate) fn run(args: &StatArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match show(args, context) {
        Err(Failure::Signalled(_)) => Ok(Exit::Done),
        ended => ended,
    }
}

fn show(args: &StatArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let table = !context.output.json() && !args.prometheus;
    let live = table && context.output.is_terminal();
    let endless = live || args.interval.is_some();
    let rounds = args.count.unwrap_or(if endless { u64::MAX } else { 1 });
    let interval = args.interval.map_or(INTERVAL, |interval| interval.0);
    let bus = context.join("busway-stat")?;
    let itself = bus.metrics()?.process;
    let mut before: Option<(u64, Before)> = None;
    for round in 0..rounds {
        if round > 0 {
            context.signals.wait(interval);
        }
        context.signals.check()?;
        let all = look(&bus, &itself)?;
        let now_ns = clock::now_ns();
        if live && rounds > 1 {
            context.output.line(format_args!("{HOME}busway stat, domain {}", bus.domain()))?;
        }
        if args.prometheus {
            context.output.line(prometheus(&all).trim_end())?;
        } else if table {
            let since = before.as_ref().map(|(at_ns, known)| (now_ns.saturating_sub(*at_ns), known));
            print(&all, since, context)?;
        } else {
            all.iter().try_for_each(|process| context.output.object(process))?;
        }
        context.output.flush()?;
        if context.output.reader_gone() {
            break;
        }
        let sent = |process: &ProcessMetrics| {
            (number(process, "messages_sent"), number(process, "messages_received"))
        };
        before = Some((now_ns, all.iter().map(|process| (process.process.clone(), sent(process))).collect()));
    }
    bus.close();
    Ok(Exit::Done)
}

fn look(bus: &Bus, itself: &str) -> Result<Vec<ProcessMetrics>, Failure> {
    let mut all = bus.metrics_of_all()?;
    all.retain(|process| process.process != itself);
    Ok(all)
}

fn number(process: &ProcessMetrics, name: &str) -> u64 {
    process.get(name).unwrap_or(0)
}

/// So many in a second, where that is known.
fn rate(now: u64, before: Option<u64>, passed_ns: u64) -> String {
    match before {
        Some(before) if passed_ns > 0 => {
            format!("{:.0}", now.saturating_sub(before) as f64 * 1e9 / passed_ns as f64)
        }
        _ => "-".to_owned(),
    }
}

fn print(
    all: &[ProcessMetrics],
    since: Option<(u64, &Before)>,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    if all.is_empty() {
        context.output.note(format_args!("nobody is in domain {}", context.global.domain()));
        return Ok(());
    }
    let width = all.iter().map(|process| process.name.chars().count()).max().unwrap_or(0).max("NAME".len());
    context.output.line(format_args!(
        "{:width$}  {:>8}  {:>12}  {:>10}  {:>12}  {:>10}  {:>9}  {:>9}  {:>7}  {:>7}  {:>5}",
        "NAME",
        "PID",
        "SENT",
        "RATE/S",
        "RECEIVED",
        "RATE/S",
        "DROPPED",
        "IN FLIGHT",
        "WAITS",
        "ERRORS",
        "LINKS"
    ))?;
    for process in all {
        let (sent, received) = (number(process, "messages_sent"), number(process, "messages_received"));
        let (passed_ns, known) =
            since.map_or((0, None), |(passed_ns, known)| (passed_ns, known.get(&process.process)));
        let dropped = number(process, "dropped").saturating_add(number(process, "outbound_dropped"));
        // What nobody was there for is in both.
        let dropped = dropped.saturating_sub(process.with("dropped", "no_subscriber").unwrap_or(0));
        context.output.line(format_args!(
            "{:width$}  {:>8}  {sent:>12}  {:>10}  {received:>12}  {:>10}  {dropped:>9}  {:>9}  {:>7}  {:>7}  {:>5}",
            process.name,
            process.pid,
            rate(sent, known.map(|known| known.0), passed_ns),
            rate(received, known.map(|known| known.1), passed_ns),
            number(process, "in_flight"),
            number(process, "backpressure_events"),
            number(process, "errors"),
            number(process, "active_connections"),
        ))?;
    }
    Ok(())
}
