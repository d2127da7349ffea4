//! `busway pub`: sends messages, waits for those who must have them, and prints the account.
//!
//! What is sent comes from `input`. What a subscriber could not take is the bus's business and stands in the account; this
//! file only drives.
//!
//! Invariant: the last line on stderr is the account, or with `--json` the only line on stdout.

use std::time::Duration;

use busway::{Account, Code, Publisher, SendError};
use serde::Serialize;

use crate::beside::Beside;
use crate::clock::{self, Deadline};
use crate::command::PubArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::input::{self, Port, Source};
use crate::session::{self, Awaited, Context};
use crate::signals::Signals;

/// How long one wait inside the bus lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

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
    let source = Source::of(&args.input, "busway pub", context.signals)?;
    let bus = context.join_within("busway-pub", args.budget)?;
    let mut publisher = bus.publisher(topic.as_str());
    if let Some(wait) = args.max_wait {
        publisher = publisher.max_wait(wait.0);
    }
    if let Some(time) = args.late_join {
        publisher = publisher.late_join(time.0);
    }
    let mut publisher = publisher.open()?;
    let beside = Beside::of(&args.beside, &bus)?;
    let started = clock::now_ns();
    let result = wait_for_subscribers(&publisher, args, context)
        .and_then(|()| {
            let mut port = Speaking { publisher: &mut publisher, beside };
            input::send_all(&mut port, &source, &args.input, context.signals)
        })
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

fn wait_for_subscribers(publisher: &Publisher, args: &PubArgs, context: &Context<'_>) -> Result<(), Failure> {
    let Some(wanted) = args.wait else { return Ok(()) };
    let wanted_count = usize::try_from(wanted).unwrap_or(usize::MAX);
    // Without --timeout one waits as long as it takes: that is what --wait is for.
    let deadline = context.timeout().map(Deadline::after);
    let mut awaited = Awaited::new("subscribers");
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
        awaited.tell(found, wanted, context);
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

/// A publisher, with what its messages say beside their body.
#[derive(Debug)]
struct Speaking<'a> {
    publisher: &'a mut Publisher,
    beside: Beside<'a>,
}

impl Port for Speaking<'_> {
    fn send(&mut self, body: &[u8], _: &Signals) -> Result<(), Failure> {
        self.publisher.in_context(self.beside.next()?).send(body)?;
        Ok(())
    }

    fn send_seeded(&mut self, size: usize, number: u64, signals: &Signals) -> Result<(), Failure> {
        if !self.beside.is_empty() {
            let mut body = vec![0; size];
            input::fill(&mut body, number);
            return self.send(&body, signals);
        }
        let mut loan = self.publisher.loan(size)?;
        input::fill(&mut loan, number);
        loan.send()?;
        Ok(())
    }
}

/// Waits until every reliable subscriber has passed the last message, and until nothing waits for the first subscriber any more.
fn flush(publisher: &mut Publisher, args: &PubArgs, signals: &Signals) -> Result<(), Failure> {
    while args.late_join.is_some() && publisher.subscribers() == 0 {
        match publisher.flush(SLICE) {
            Ok(()) => return Ok(()),
            Err(SendError::Timeout(_)) => signals.check()?,
            Err(error) => return Err(error.into()),
        }
    }
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
