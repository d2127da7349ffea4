//! `busway pub`: sends messages, waits for those who must have them, and prints the account.
//!
//! The body comes from the command line, from stdin whole or by lines, or is made from a seed. What a subscriber could
//! not take is the bus's business and stands in the account; this file only drives.
//!
//! Invariant: the last line on stderr is the account, or with `--json` the only line on stdout.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use busway::{Account, Code, Publisher, SendError};
use serde::Serialize;

use crate::clock::{self, Deadline};
use crate::command::PubArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::lines::{self, Lines, Stdin};
use crate::rate::Pace;
use crate::session::{self, Context};
use crate::signals::Signals;

/// How long one wait inside the bus lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

/// Begins the sequence of `--size`; a constant, so that two runs send the same bytes.
const SEED: u64 = 0x6275_7377_6179_2121;

/// Where messages come from.
#[derive(Debug)]
enum Source {
    /// The same bytes each time.
    Body(Vec<u8>),
    /// The lines of stdin.
    Lines,
    /// Seeded bytes, other ones in each message.
    Seeded(usize),
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    topic: &'a str,
    sent: u64,
    subscribers: u64,
    delivered: u64,
    dropped: &'a busway::Dropped,
    in_flight: u64,
    seconds: f64,
}

pub(crate) fn run(args: &PubArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let topic = session::topic(&args.topic)?;
    let source = source(args, context.signals)?;
    let bus = context.join_within("busway-pub", args.budget)?;
    let mut publisher = bus.publisher(topic.as_str());
    if let Some(wait) = args.max_wait {
        publisher = publisher.max_wait(wait.0);
    }
    let mut publisher = publisher.open()?;
    let started = clock::now_ns();
    let result = wait_for_subscribers(&publisher, args, context)
        .and_then(|()| send_all(&mut publisher, &source, args, context.signals))
        .and_then(|()| flush(&mut publisher, args, context.signals));
    let account = publisher.account();
    // The account is the last line on stderr, whatever happened: a failure is told before it.
    let result = match result {
        Err(Failure::Told(report)) => {
            context.output.report(&report);
            Err(Failure::AlreadyTold(report.exit))
        }
        Ok(()) if !account.closed() => {
            let failure = account_open(&account, topic.as_str());
            if let Failure::Told(report) = &failure {
                context.output.report(report);
            }
            Err(Failure::AlreadyTold(failure.exit()))
        }
        other => other,
    };
    if result.is_ok() && account.subscribers == 0 {
        context
            .output
            .note(format_args!("note: nobody subscribes to {topic}; --wait waits for a subscriber"));
    }
    summarise(&account, topic.as_str(), clock::now_ns() - started, context)?;
    result.map(|()| Exit::Done)
}

fn source(args: &PubArgs, signals: &Signals) -> Result<Source, Failure> {
    let dash = args.body.as_deref().is_some_and(|body| body == "-");
    if let Some(size) = args.size {
        let too_large = || {
            let cause =
                format!("{} bytes are more than the {} a message may have", size.0, lines::BODY_SIZE_MAX);
            Failure::usage(cause, "--size", "send it in parts")
        };
        let size = usize::try_from(size.0).map_err(|_| too_large())?;
        return if size > lines::BODY_SIZE_MAX { Err(too_large()) } else { Ok(Source::Seeded(size)) };
    }
    match &args.body {
        Some(body) if args.lines && !dash => Err(Failure::usage(
            format!("--lines reads stdin, but a BODY is given: '{}'", body.to_string_lossy()),
            "busway pub",
            "leave the BODY away, or write - for it",
        )),
        None | Some(_) if args.lines => Ok(Source::Lines),
        Some(_) if dash => match lines::read_all(Stdin::new(signals)) {
            Ok(body) => Ok(Source::Body(body)),
            Err(error) => Err(on_stdin(&error, signals)),
        },
        Some(body) => Ok(Source::Body(body.clone().into_vec())),
        None => Err(Failure::usage(
            "there is nothing to send",
            "busway pub",
            "give a BODY, - for stdin, --lines for its lines, or --size",
        )),
    }
}

fn on_stdin(error: &io::Error, signals: &Signals) -> Failure {
    if let Some(number) = signals.raised() {
        return Failure::Signalled(number);
    }
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Failure::usage(error.to_string(), "reading stdin", "send it in parts");
    }
    Failure::stream(error, "reading stdin")
}

fn wait_for_subscribers(publisher: &Publisher, args: &PubArgs, context: &Context<'_>) -> Result<(), Failure> {
    let Some(wanted) = args.wait else { return Ok(()) };
    let wanted_count = usize::try_from(wanted).unwrap_or(usize::MAX);
    // Without --timeout one waits as long as it takes: that is what --wait is for.
    let deadline = context.timeout().map(Deadline::after);
    loop {
        context.signals.check()?;
        let left = deadline.map_or(SLICE, Deadline::left).min(SLICE);
        match publisher.wait_for_subscribers(wanted_count, left) {
            Ok(_) => return Ok(()),
            // The end of a slice is no failure: only our own deadline is.
            Err(error) if error.code() == Code::TimedOut => {}
            Err(error) => return Err(error.into()),
        }
        let found = publisher.subscribers();
        if deadline.is_some_and(Deadline::over) {
            return Err(Failure::new(
                CommandCode::NoSubscribers,
                format!("{found} of {wanted} subscribers came in {}", duration::show(context.join_timeout())),
                format!("waiting for subscribers of {}", args.topic),
                format!("busway sub '{}' in another terminal, or a longer --timeout", args.topic),
            ));
        }
    }
}

fn send_all(
    publisher: &mut Publisher,
    source: &Source,
    args: &PubArgs,
    signals: &Signals,
) -> Result<(), Failure> {
    let mut pace = args.rate.map(Pace::new);
    let mut step = || {
        if let Some(pace) = &mut pace {
            pace.wait(signals);
        }
        signals.check()
    };
    match source {
        Source::Body(body) => {
            for _ in 0..args.count.unwrap_or(1) {
                step()?;
                publisher.send(body)?;
            }
        }
        Source::Seeded(size) => {
            for number in 0..args.count.unwrap_or(1) {
                step()?;
                let mut loan = publisher.loan(*size)?;
                fill(&mut loan, number);
                loan.send()?;
            }
        }
        Source::Lines => {
            let mut lines = Lines::new(Stdin::new(signals));
            for _ in 0..args.count.unwrap_or(u64::MAX) {
                let Some(line) = lines.next_line().map_err(|error| on_stdin(&error, signals))? else { break };
                step()?;
                publisher.send(line)?;
            }
        }
    }
    Ok(())
}

/// Fills `body` with bytes that depend on the message's number only (splitmix64).
fn fill(body: &mut [u8], number: u64) {
    let mut state = SEED ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for part in body.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bytes = (word ^ (word >> 31)).to_le_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
}

/// Waits until every reliable subscriber has passed the last message.
fn flush(publisher: &mut Publisher, args: &PubArgs, signals: &Signals) -> Result<(), Failure> {
    let deadline = Deadline::after(args.linger.0);
    loop {
        match publisher.flush(deadline.left().min(SLICE)) {
            Ok(()) => return Ok(()),
            Err(SendError::Timeout(_)) if !deadline.over() => signals.check()?,
            Err(SendError::Timeout(behind)) => {
                return Err(Failure::new(
                    CommandCode::Behind,
                    format!("not every reliable subscriber has passed the last message: {behind}"),
                    format!("publishing {}", args.topic),
                    format!("busway info {}, or a longer --linger", args.topic),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn summarise(account: &Account, topic: &str, ns: u64, context: &mut Context<'_>) -> Result<(), Failure> {
    let Account { sent, subscribers, delivered, in_flight, dropped, .. } = account;
    if context.output.json() {
        let seconds = Duration::from_nanos(ns).as_secs_f64();
        let (sent, subscribers, delivered, in_flight) = (*sent, *subscribers, *delivered, *in_flight);
        context.output.object(&Summary {
            topic,
            sent,
            subscribers,
            delivered,
            dropped,
            in_flight,
            seconds,
        })?;
        return context.output.flush();
    }
    context.output.note(format_args!(
        "sent {sent} subscribers {subscribers} delivered {delivered} dropped {} in-flight {in_flight}",
        account.dropped_total()
    ));
    Ok(())
}

fn account_open(account: &Account, topic: &str) -> Failure {
    Failure::new(
        CommandCode::AccountOpen,
        format!(
            "{} messages were due, but {} were delivered, {} dropped and {} are in flight",
            account.expected,
            account.delivered,
            account.dropped_total(),
            account.in_flight
        ),
        format!("publishing {topic}"),
        format!("busway info {topic}; an open account is a defect of the bus: please report it"),
    )
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn seeded_bytes_are_the_same_in_each_run_and_differ_between_messages() {
        let (mut first, mut again, mut second) = ([0; 13], [0; 13], [0; 13]);
        fill(&mut first, 0);
        fill(&mut again, 0);
        fill(&mut second, 1);
        assert_eq!(first, again);
        assert_ne!(first, second);
        assert_ne!(first[8..], [0; 5], "the tail is filled too");
    }
}
