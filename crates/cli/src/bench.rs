//! `busway bench`: latency, throughput and fan-out between processes of this machine.
//!
//! This file starts the processes of a bench, adds up what they measured and prints it. What is measured, and how, is
//! in `bench/roles.rs`. Loss stands beside every figure; a figure without it would be worth nothing.

use serde::Serialize;

use crate::children::{Job, Role, Sandbox, Word, Worker};
use crate::command::{BenchArgs, BenchCommand};
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::Context;
use busway_node::Size;

use roles::{EchoJob, Measured, PingJob, SinkJob, SourceJob};

pub(crate) mod roles;

/// The fields of the contract.
#[derive(Debug, Serialize)]
struct Figures {
    what: &'static str,
    size: u64,
    subscribers: u32,
    rate: Option<f64>,
    count: u64,
    lost: u64,
    /// Of each process.
    threads: u64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
    /// With a rate: what to begin with for a topic that has it.
    suggested: Option<Suggested>,
    machine: String,
    commit: &'static str,
}

/// What `slots_max` of a publisher takes; fewer than the least save nothing.
const SLOTS: (u64, u64) = (64, 1 << 20);

/// Settings for messages at the rate that was measured, where the machine is as busy as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Suggested {
    /// Slots of a ring: twice what comes while the longest pause of the run lasts.
    slots: u64,
    /// A time-out: ten times what 999 of 1 000 messages took, and at least as long as a pause.
    timeout_ms: u64,
}

impl Suggested {
    fn new(rate: f64, latency: &Measured) -> Self {
        let waiting = (2.0 * rate * latency.max_ns as f64 / 1e9).ceil();
        let slots = (waiting as u64).clamp(SLOTS.0, SLOTS.1);
        let timeout_ns = latency.p999_ns.saturating_mul(10).max(latency.max_ns);
        Self { slots: slots.next_power_of_two(), timeout_ms: timeout_ns.div_ceil(1_000_000) }
    }
}

/// What is to be measured, with defaults filled in.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    what: &'static str,
    size: u64,
    subscribers: u32,
    count: u64,
    args: &'a BenchArgs,
}

impl<'a> Plan<'a> {
    fn new(which: &'a BenchCommand) -> Result<Self, Failure> {
        let (what, args, subscribers, count) = match which {
            BenchCommand::Lat(args) => ("lat", args, 1, 100_000),
            BenchCommand::Thr(args) => ("thr", args, 1, 2_000_000),
            BenchCommand::Fanout(args) => ("fanout", args, 8, 200_000),
        };
        let size = args.size.0;
        let wrong =
            |cause: &str, remedy: &str| Err(Failure::usage(cause, format!("busway bench {what}"), remedy));
        if size < roles::STAMP_SIZE {
            return wrong("a message of a bench carries a time of 8 bytes", "--size 8 or more");
        }
        if size > crate::lines::BODY_SIZE_MAX as u64 {
            return wrong("a message has at most 1 GiB", "a smaller --size");
        }
        let subscribers = args.subscribers.unwrap_or(subscribers);
        if subscribers == 0 || (what == "lat" && subscribers > 1) {
            return wrong(
                "this bench takes another number of subscribers",
                "lat takes 1, the others 1 or more",
            );
        }
        let count = args.count.unwrap_or(count);
        if count == 0 {
            return wrong("nothing can be said about no messages", "--count 1 or more");
        }
        Ok(Self { what, size, subscribers, count, args })
    }

    /// The core of the `index`-th process, where cores were named.
    fn core(&self, index: usize) -> Option<u32> {
        let cores = &self.args.pin;
        if cores.is_empty() { None } else { cores.get(index % cores.len()).copied() }
    }
}

pub(crate) fn run(which: &BenchCommand, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let plan = Plan::new(which)?;
    let round_trip = plan.what == "lat" && plan.args.rate.is_none();
    let figures =
        if round_trip { measure_round_trip(&plan, context)? } else { measure_stream(&plan, context)? };
    if context.output.json() {
        context.output.object(&figures)?;
    } else {
        print(&figures, round_trip, context)?;
    }
    Ok(Exit::Done)
}

fn measure_round_trip(plan: &Plan<'_>, context: &Context<'_>) -> Result<Figures, Failure> {
    let sandbox = Sandbox::new("bench")?;
    let wake = plan.args.wake;
    let echo = Role::BenchEcho(EchoJob { wake });
    let mut echo =
        Worker::start(&Job { name: "bench-echo".to_string(), core: plan.core(1), role: echo }, &sandbox)?;
    expect_ready(&mut echo, context)?;
    let ping = Role::BenchPing(PingJob { size: plan.size, count: plan.count, wake });
    let mut ping =
        Worker::start(&Job { name: "bench-ping".to_string(), core: plan.core(0), role: ping }, &sandbox)?;
    expect_ready(&mut ping, context)?;
    ping.tell("go")?;
    let measured = measurement(&mut ping, context)?;
    // It echoes until it is ended.
    echo.kill()?;
    Ok(figures(plan, &measured, &measured, measured.lost))
}

fn measure_stream(plan: &Plan<'_>, context: &Context<'_>) -> Result<Figures, Failure> {
    let sandbox = Sandbox::new("bench")?;
    let mut sinks = Vec::new();
    for number in 1..=plan.subscribers {
        let role = Role::BenchSink(SinkJob { count: plan.count, wake: plan.args.wake });
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        sinks.push(Worker::start(
            &Job { name: format!("bench-sink-{number}"), core: plan.core(index), role },
            &sandbox,
        )?);
    }
    for sink in &mut sinks {
        expect_ready(sink, context)?;
    }
    let rate = plan.args.rate.map(|rate| rate.0);
    let job = SourceJob { size: plan.size, count: plan.count, rate, subscribers: plan.subscribers };
    let role = Role::BenchSource(job);
    let mut source =
        Worker::start(&Job { name: "bench-source".to_string(), core: plan.core(0), role }, &sandbox)?;
    expect_ready(&mut source, context)?;
    source.tell("go")?;
    let sent = measurement(&mut source, context)?;
    let received = sinks.iter_mut().map(|sink| measurement(sink, context)).collect::<Result<Vec<_>, _>>()?;
    let lost = received.iter().map(|one| one.lost).sum();
    let worst = Measured::worst(&received);
    let latency = if plan.what == "fanout" { &sent } else { &worst };
    Ok(figures(plan, &worst, latency, lost))
}

fn expect_ready(worker: &mut Worker, context: &Context<'_>) -> Result<(), Failure> {
    match worker.word(context.signals)? {
        Word::Ready => Ok(()),
        other => Err(out_of_turn(worker, &other)),
    }
}

/// What a process measured. A long run is silent for as long as it takes, so the wait has no end but a signal or the
/// process's own.
fn measurement(worker: &mut Worker, context: &Context<'_>) -> Result<Measured, Failure> {
    loop {
        match worker.word_within(context.signals, std::time::Duration::from_secs(3600))? {
            Some(Word::BenchMeasured(measured)) => return Ok(measured),
            Some(other) => return Err(out_of_turn(worker, &other)),
            None => {}
        }
    }
}

fn out_of_turn(worker: &Worker, word: &Word) -> Failure {
    let cause = format!("{} spoke out of turn: {word:?}", worker.name());
    Failure::new(CommandCode::ChildFailed, cause, format!("process {}", worker.pid()), "please report it")
}

fn figures(plan: &Plan<'_>, whole: &Measured, latency: &Measured, lost: u64) -> Figures {
    let messages_per_s = whole.count as f64 / (whole.elapsed_ns.max(1) as f64 / 1e9);
    Figures {
        what: plan.what,
        size: plan.size,
        subscribers: plan.subscribers,
        rate: plan.args.rate.map(|rate| rate.0),
        count: whole.count,
        lost,
        threads: whole.threads,
        p50_ns: latency.p50_ns,
        p99_ns: latency.p99_ns,
        p999_ns: latency.p999_ns,
        max_ns: latency.max_ns,
        messages_per_s,
        bytes_per_s: messages_per_s * plan.size as f64,
        suggested: plan.args.rate.map(|rate| Suggested::new(rate.0, latency)),
        machine: machine(),
        commit: env!("BUSWAY_COMMIT"),
    }
}

/// Processor, cores and kernel: without them a figure cannot be compared.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpuinfo.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1))
    };
    let model = field("model name").unwrap_or("unknown processor").trim();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let name = rustix::system::uname();
    format!("{model}, {cores} cores, Linux {}", name.release().to_string_lossy())
}

fn print(figures: &Figures, round_trip: bool, context: &mut Context<'_>) -> Result<(), Failure> {
    let Figures { what, size, subscribers, count, lost, threads, messages_per_s, .. } = figures;
    let meaning = match (*what, round_trip) {
        ("lat", true) => "one way, half a round trip",
        ("lat", false) => "one way, from the intended time of the send",
        ("fanout", _) => "one send call in the publisher",
        _ => "one way through a full queue",
    };
    let size = Size(*size);
    context.output.line(format_args!(
        "{what}: {count} messages of {size} to {subscribers} subscriber(s), lost {lost}"
    ))?;
    context.output.line(format_args!(
        "  p50 {} ns   p99 {} ns   p99.9 {} ns   max {} ns   ({meaning})",
        figures.p50_ns, figures.p99_ns, figures.p999_ns, figures.max_ns
    ))?;
    context.output.line(format_args!(
        "  {messages_per_s:.0} messages a second, {:.1} MB/s to each; {threads} threads a process",
        figures.bytes_per_s / 1e6
    ))?;
    if let Some(Suggested { slots, timeout_ms }) = figures.suggested {
        context.output.line(format_args!(
            "  to begin with at this rate: rings of {slots} slots, time-outs of {timeout_ms} ms or more"
        ))?;
    }
    context.output.line(format_args!("  {}, commit {}", figures.machine, figures.commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suggested_holds_what_comes_in_the_longest_pause() {
        let measured = |p999_ns, max_ns| Measured { p999_ns, max_ns, ..Measured::default() };
        let of = |rate, p999_ns, max_ns| Suggested::new(rate, &measured(p999_ns, max_ns));
        // 10 000 a second for 8 ms are 80: twice that, as a power of two.
        assert_eq!(of(10_000.0, 200_000, 8_000_000), Suggested { slots: 256, timeout_ms: 8 });
        assert_eq!(of(10_000.0, 2_000_000, 8_000_000), Suggested { slots: 256, timeout_ms: 20 });
        assert_eq!(of(1.0, 1, 1).slots, SLOTS.0);
        assert_eq!(of(1e12, 1, u64::MAX).slots, SLOTS.1);
        assert_eq!(of(f64::NAN, u64::MAX, 0).slots, SLOTS.0);
    }
}
