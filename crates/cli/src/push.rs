//! `busway push`: sends work, waits until the pullers have done it, and prints the account.
//!
//! What is sent comes from `input`. Work that was accepted is never given up for newer work: where the pullers have as much
//! as there is room for, this waits, also for the first of them.
//!
//! Invariant: the last line on stderr is the account, or with `--json` the only line on stdout.

use std::time::Duration;

use busway::{Account, Code, Pusher, SendError};
use serde::Serialize;

use crate::beside::Beside;
use crate::clock::{self, Deadline};
use crate::command::PushArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::input::{self, Port, Source};
use crate::session::{self, Awaited, Context};
use crate::signals::Signals;

/// How long one wait inside the bus lasts before signals are looked at.
const SLICE: Duration = Duration::from_millis(100);

/// Nobody waits so long: the first puller is waited for as long as this command runs.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Serialize)]
struct Summary<'a> {
    topic: &'a str,
    sent: u64,
    delivered: u64,
    dropped: &'a busway::Dropped,
    in_flight: u64,
    seconds: f64,
}

/// A pusher that waits for room as long as it was told to.
#[derive(Debug)]
struct Patient<'a> {
    pusher: Pusher,
    beside: Beside<'a>,
    topic: &'a str,
    max_wait: Option<Duration>,
    seeded: Vec<u8>,
}

pub(crate) fn run(args: &PushArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let topic = session::topic(&args.topic)?;
    let source = Source::of(&args.input, "busway push", context.signals)?;
    let bus = context.join_within("busway-push", args.budget)?;
    let pusher = bus.pusher(topic.as_str()).max_wait(SLICE).late_join(FOR_EVER).open()?;
    let max_wait = args.max_wait.map(|span| span.0);
    let beside = Beside::of(&args.beside, &bus)?;
    let mut port = Patient { pusher, beside, topic: topic.as_str(), max_wait, seeded: Vec::new() };
    if args.wait.is_none() && port.pusher.pullers() == 0 {
        context.output.note(format_args!("note: nobody pulls {topic} yet; --wait waits for a puller"));
    }
    let started = clock::now_ns();
    let result = wait_for_pullers(&port.pusher, args, context)
        .and_then(|()| input::send_all(&mut port, &source, &args.input, context.signals))
        .and_then(|()| finish(&mut port.pusher, args, context.signals));
    // The account is the last line on stderr, whatever happened: a failure is told before it.
    let result = result.map_err(|failure| match failure {
        Failure::Told(report) => {
            context.output.report(&report);
            Failure::AlreadyTold(report.exit)
        }
        other => other,
    });
    summarise(&port.pusher.account(), port.topic, clock::now_ns() - started, context)?;
    result.map(|()| Exit::Done)
}

impl Port for Patient<'_> {
    fn send(&mut self, body: &[u8], signals: &Signals) -> Result<(), Failure> {
        let deadline = self.max_wait.map(Deadline::after);
        // The same, however often it is tried.
        let context = self.beside.next()?;
        loop {
            match self.pusher.in_context(context).send(body) {
                Ok(_) => return Ok(()),
                Err(SendError::Full(behind)) if deadline.is_some_and(Deadline::over) => {
                    return Err(Failure::new(
                        CommandCode::Behind,
                        format!("there was no room for another message in time: {behind}"),
                        format!("pushing {}", self.topic),
                        "start more pullers, or allow a longer --max-wait",
                    ));
                }
                Err(SendError::Full(_)) => signals.check()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send_seeded(&mut self, size: usize, number: u64, signals: &Signals) -> Result<(), Failure> {
        let mut body = std::mem::take(&mut self.seeded);
        body.resize(size, 0);
        input::fill(&mut body, number);
        let sent = self.send(&body, signals);
        self.seeded = body;
        sent
    }
}

fn wait_for_pullers(pusher: &Pusher, args: &PushArgs, context: &Context<'_>) -> Result<(), Failure> {
    let Some(wanted) = args.wait else { return Ok(()) };
    let wanted_count = usize::try_from(wanted).unwrap_or(usize::MAX);
    // Without --timeout one waits as long as it takes: that is what --wait is for.
    let deadline = context.timeout().map(Deadline::after);
    let mut awaited = Awaited::new("pullers");
    loop {
        context.signals.check()?;
        let left = deadline.map_or(SLICE, Deadline::left).min(SLICE);
        match pusher.wait_for_pullers(wanted_count, left) {
            Ok(_) => return Ok(()),
            // The end of a slice is no failure: only our own deadline is.
            Err(error) if error.code() == Code::TimedOut => {}
            Err(error) => return Err(error.into()),
        }
        let found = pusher.pullers();
        awaited.tell(found, wanted, context);
        if deadline.is_some_and(Deadline::over) {
            return Err(Failure::new(
                CommandCode::NoSubscribers,
                format!("{found} of {wanted} pullers came in {}", duration::show(context.join_timeout())),
                format!("waiting for pullers of {}", args.topic),
                format!("busway pull '{}' in another terminal, or a longer --timeout", args.topic),
            ));
        }
    }
}

/// Waits until all work is done.
fn finish(pusher: &mut Pusher, args: &PushArgs, signals: &Signals) -> Result<(), Failure> {
    let deadline = Deadline::after(args.linger.0);
    loop {
        match pusher.flush(deadline.left().min(SLICE)) {
            Ok(()) => return Ok(()),
            Err(SendError::Timeout(_)) if !deadline.over() => signals.check()?,
            Err(SendError::Timeout(behind)) => {
                return Err(Failure::new(
                    CommandCode::Behind,
                    format!("not all work was done in {}: {behind}", duration::show(args.linger.0)),
                    format!("pushing {}", args.topic),
                    format!("busway info {}, more pullers, or a longer --linger", args.topic),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn summarise(account: &Account, topic: &str, ns: u64, context: &mut Context<'_>) -> Result<(), Failure> {
    let Account { sent, delivered, in_flight, dropped, .. } = account;
    if context.output.json() {
        let seconds = Duration::from_nanos(ns).as_secs_f64();
        let (sent, delivered, in_flight) = (*sent, *delivered, *in_flight);
        context.output.object(&Summary { topic, sent, delivered, dropped, in_flight, seconds })?;
        return context.output.flush();
    }
    context.output.note(format_args!(
        "sent {sent} delivered {delivered} dropped {} in-flight {in_flight}",
        account.dropped_total()
    ));
    Ok(())
}
