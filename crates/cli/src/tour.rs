//! `busway tour`: real records between real processes, and proof that all of them arrived.
//!
//! One publisher and several reliable subscribers, each a process. The publisher sends the bundled records over and
//! over for some seconds; each subscriber hashes each pass. At the end every hash must be that of the bundled file and
//! the publisher's account must close. With `--kill` one subscriber is SIGKILLed half-way: the others must not notice,
//! and the account says what the dead one did not get.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::children::{Job, Role, Sandbox, Word, Worker};
use crate::clock::Deadline;
use crate::command::TourArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::output::Output;
use crate::session::Context;

use records::Records;
use roles::{Published, PublisherJob, Received, SubscriberJob};

mod records;
pub(crate) mod roles;

/// Within this the publisher sends something, however busy the machine is.
const STOPPED_FOR: Duration = Duration::from_millis(50);

/// A process of the tour, for `--json`.
#[derive(Debug, Clone, Serialize)]
struct Process {
    role: &'static str,
    name: String,
    pid: u32,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    processes: Vec<Process>,
    seconds: f64,
    sent: u64,
    subscribers: u64,
    delivered: u64,
    dropped: &'a busway::Dropped,
    in_flight: u64,
    closed: bool,
    passes: u64,
    messages_per_s: f64,
    bytes_per_s: f64,
    killed_pid: Option<u32>,
    file_hash: &'a str,
    hashes: Vec<&'a str>,
    hashes_equal: bool,
}

/// All processes of a tour.
#[derive(Debug)]
struct Crew {
    publisher: Worker,
    subscribers: Vec<Worker>,
    processes: Vec<Process>,
    killed_pid: Option<u32>,
    // Last, so that it goes when nobody uses it any more.
    _sandbox: Sandbox,
}

pub(crate) fn run(args: &TourArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let records = Records::unpack()?;
    let mut crew = Crew::gather(args, context)?;
    introduce(&crew, &records, context)?;
    crew.publisher.tell("go")?;
    let published = watch(&mut crew, args, context).inspect_err(|_| {
        if context.output.is_terminal() && !context.output.json() {
            // What comes next begins a line, not behind how far it had come; why it ended is told, and not that this could not be shown.
            let _ = context.output.line("").and_then(|()| context.output.flush());
        }
    })?;
    let received = crew.collect(&published, context)?;
    let hashes_equal = received.iter().all(|one| one.passes_wrong == 0 && one.hash == records.hash());
    let account = &published.account;
    if context.output.json() {
        context.output.object(&outcome(&crew, &published, &received, records.hash(), hashes_equal))?;
    } else {
        tell(&published, &received, &records, context)?;
    }
    context.output.flush()?;
    if !hashes_equal {
        return Err(Failure::new(
            CommandCode::HashDiffers,
            "what a subscriber received is not what was sent",
            "comparing hashes",
            "please report it, with the lines above",
        ));
    }
    if !account.closed || account.in_flight > 0 {
        return Err(Failure::new(
            CommandCode::AccountOpen,
            format!("{} messages were due, {} are accounted for", account.expected, account.accounted()),
            "closing the account",
            "please report it, with the lines above",
        ));
    }
    if !context.output.json() {
        context.output.line(account_line(&published))?;
    }
    Ok(Exit::Done)
}

impl Crew {
    /// Starts everybody; returns when all are attached to each other, alive at one moment.
    fn gather(args: &TourArgs, context: &Context<'_>) -> Result<Self, Failure> {
        let sandbox = Sandbox::new("tour")?;
        let mut subscribers = Vec::new();
        for number in 1..=args.subscribers {
            let name = format!("tour-subscriber-{number}");
            let role = Role::TourSubscriber(SubscriberJob { name: name.clone() });
            let job = Job { name, core: None, role };
            subscribers.push(Worker::start(&job, &sandbox)?);
        }
        for subscriber in &mut subscribers {
            expect_ready(subscriber, context)?;
        }
        let role = Role::TourPublisher(PublisherJob { seconds: args.seconds, subscribers: args.subscribers });
        let job = Job { name: "tour-publisher".to_string(), core: None, role };
        let mut publisher = Worker::start(&job, &sandbox)?;
        expect_ready(&mut publisher, context)?;
        let mut processes =
            vec![Process { role: "publisher", name: publisher.name().to_string(), pid: publisher.pid() }];
        for subscriber in &subscribers {
            let name = subscriber.name().to_string();
            processes.push(Process { role: "subscriber", name, pid: subscriber.pid() });
        }
        // Nobody has been told to go, so whoever is alive now was alive while all the others were.
        for worker in std::iter::once(&mut publisher).chain(&mut subscribers) {
            if !worker.is_alive() {
                worker.word(context.signals)?;
            }
        }
        Ok(Self { publisher, subscribers, processes, killed_pid: None, _sandbox: sandbox })
    }

    /// What the subscribers that live received.
    fn collect(&mut self, published: &Published, context: &Context<'_>) -> Result<Vec<Received>, Failure> {
        let mut received = Vec::new();
        for subscriber in &mut self.subscribers {
            subscriber.tell(&published.account.sent.to_string())?;
        }
        for subscriber in &mut self.subscribers {
            match subscriber.word(context.signals)? {
                Word::TourReceived(one) => received.push(one),
                other => return Err(out_of_turn(subscriber, &other)),
            }
        }
        Ok(received)
    }
}

fn expect_ready(worker: &mut Worker, context: &Context<'_>) -> Result<(), Failure> {
    match worker.word(context.signals)? {
        Word::Ready => Ok(()),
        other => Err(out_of_turn(worker, &other)),
    }
}

fn out_of_turn(worker: &Worker, word: &Word) -> Failure {
    let cause = format!("{} spoke out of turn: {word:?}", worker.name());
    Failure::new(CommandCode::ChildFailed, cause, format!("process {}", worker.pid()), "please report it")
}

fn introduce(crew: &Crew, records: &Records, context: &mut Context<'_>) -> Result<(), Failure> {
    if context.output.json() {
        return Ok(());
    }
    context.output.line(format_args!(
        "{} flight records, New York City 2013, from one process to {} others through shared memory",
        records.count(),
        crew.subscribers.len()
    ))?;
    for process in &crew.processes {
        context
            .output
            .line(format_args!("  {:10}  pid {:<8}  {}", process.role, process.pid, process.name))?;
    }
    context.output.flush()
}

/// Watches until the publisher is done; shows progress to a person, kills where that was asked for.
fn watch(crew: &mut Crew, args: &TourArgs, context: &mut Context<'_>) -> Result<Published, Failure> {
    let half = Deadline::after(Duration::from_millis(args.seconds * 500));
    let progress = context.output.is_terminal() && !context.output.json();
    let mut last = 0;
    loop {
        if args.kill && crew.killed_pid.is_none() && half.over() {
            let mut victim = crew.subscribers.pop().expect("the table demands at least one subscriber");
            crew.killed_pid = Some(victim.pid());
            // Stopped for a moment first, so that it dies with messages on their way to it.
            victim.stop()?;
            context.signals.wait(STOPPED_FOR);
            victim.kill()?;
            if !context.output.json() {
                let clear = if progress { "\r\x1b[K" } else { "" };
                context.output.line(format_args!(
                    "{clear}SIGKILL     pid {}  {}",
                    victim.pid(),
                    victim.name()
                ))?;
                context.output.flush()?;
            }
        }
        let limit =
            if args.kill && crew.killed_pid.is_none() { half.left() } else { Duration::from_secs(60) };
        match crew.publisher.word_within(context.signals, limit)? {
            Some(Word::Progress(sent)) if progress => {
                show_progress(context.output, sent, sent.saturating_sub(last))?;
                last = sent;
            }
            Some(Word::Progress(_)) => {}
            Some(Word::TourPublished(published)) => {
                if progress {
                    context
                        .output
                        .data()
                        .write_all(b"\r\x1b[K")
                        .map_err(|error| Failure::stream(&error, "stdout"))?;
                }
                return Ok(published);
            }
            Some(other) => return Err(out_of_turn(&crew.publisher, &other)),
            None if args.kill && crew.killed_pid.is_none() => {}
            None => {
                let pid = crew.publisher.pid();
                let at = format!("process {pid}");
                return Err(Failure::new(
                    CommandCode::ChildFailed,
                    "the publisher went silent",
                    at,
                    "busway doctor",
                ));
            }
        }
    }
}

fn show_progress(output: &mut Output, sent: u64, step: u64) -> Result<(), Failure> {
    let rate = step as f64 / roles::PROGRESS_INTERVAL.as_secs_f64() / 1e6;
    write!(output.data(), "\r\x1b[K{sent:>12} sent to each, {rate:.2} million a second")
        .map_err(|error| Failure::stream(&error, "writing to stdout"))?;
    output.flush()
}

fn tell(
    published: &Published,
    received: &[Received],
    records: &Records,
    context: &mut Context<'_>,
) -> Result<(), Failure> {
    let Published { account, seconds, bytes, passes } = published;
    let sent = account.sent as f64;
    context.output.line(format_args!(
        "sent {} messages in {seconds:.2} s: {:.2} million a second, {:.0} MB/s to each, {passes} times the file",
        account.sent,
        sent / seconds / 1e6,
        *bytes as f64 / seconds / 1e6
    ))?;
    for one in received {
        let equal = if one.passes_wrong == 0 && one.hash == records.hash() { "equal" } else { "DIFFERENT" };
        context.output.line(format_args!(
            "{}: received {}, lost {}, hash {} {equal}",
            one.name, one.received, one.lost, one.hash
        ))?;
    }
    context.output.line(format_args!("file: {} bytes, hash {}", records.bytes().len(), records.hash()))?;
    let busway = typed();
    context.output.line(format_args!(
        "Type next, in two terminals:\n  {busway} sub 'price.>'\n  {busway} pub price.tick 101.5\n  {busway} ls"
    ))
}

/// What a shell runs this command by: its name where that is found, else its file, below the current directory where it lies there.
fn typed() -> String {
    const NAME: &str = "busway";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(file) = std::env::current_exe().ok() else { return NAME.to_string() };
    if std::env::split_paths(&path).any(|directory| directory.join(NAME).is_file()) {
        return NAME.to_string();
    }
    let here = std::env::current_dir().ok();
    // Without a slash a shell would look for it elsewhere.
    let near = here.and_then(|here| Some(Path::new(".").join(file.strip_prefix(here).ok()?)));
    let shown = near.unwrap_or(file).display().to_string();
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if shown.chars().all(plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

/// The last line: the account in words.
fn account_line(published: &Published) -> String {
    let account = &published.account;
    let causes: Vec<String> =
        account.dropped.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    format!(
        "account closed: sent {}, delivered {}, dropped {}{causes}, in flight {}",
        account.sent, account.delivered, account.dropped_total, account.in_flight
    )
}

fn outcome<'a>(
    crew: &Crew,
    published: &'a Published,
    received: &'a [Received],
    file_hash: &'a str,
    hashes_equal: bool,
) -> Outcome<'a> {
    let account = &published.account;
    Outcome {
        processes: crew.processes.clone(),
        seconds: published.seconds,
        sent: account.sent,
        subscribers: account.subscribers,
        delivered: account.delivered,
        dropped: &account.dropped,
        in_flight: account.in_flight,
        closed: account.closed,
        passes: published.passes,
        messages_per_s: account.sent as f64 / published.seconds,
        bytes_per_s: published.bytes as f64 / published.seconds,
        killed_pid: crew.killed_pid,
        file_hash,
        hashes: received.iter().map(|one| one.hash.as_str()).collect(),
        hashes_equal,
    }
}
