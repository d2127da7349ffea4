//! `busway sub`: prints messages as they come, and says what was lost.
//!
//! Each pattern has a subscriber; the first is read by the main thread, further ones by a thread each. They share one
//! [`Printer`], and take messages while they hold it, so that `--count N` takes N and not more. Output is flushed
//! whenever nothing is waiting.
//!
//! Invariant: what was received is printed or counted as lost; nothing is skipped in silence, also when a signal ends a
//! subscriber that waits for its reader.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busway::{Bus, Policy, Subscriber};

use crate::clock::Deadline;
use crate::command::SubArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::near;
use crate::printer::{Form, Printer};
use crate::session::{self, Context, Ends};

/// Messages that are printed before another reader gets its turn, and losses and signals are looked at.
const BATCH: u32 = 256;

/// After this long without a publisher a person is told.
const LONELY: Duration = Duration::from_secs(2);

/// What is needed to say what else there is.
#[derive(Debug, Clone, Copy)]
struct Host<'a> {
    bus: &'a Bus,
    patterns: &'a [String],
}

pub(crate) fn run(args: &SubArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let patterns =
        args.patterns.iter().map(|pattern| session::pattern(pattern)).collect::<Result<Vec<_>, _>>()?;
    let form = Form::of(args.form, context.output, "busway sub")?;
    let bus = context.join_within("busway-sub", args.budget)?;
    let mut subscribers = Vec::new();
    for pattern in &patterns {
        let mut builder = bus.subscriber(&pattern.to_string());
        builder = builder.policy(policy(args));
        if let Some(ids) = args.drop_duplicates {
            builder = builder.drop_duplicates(ids);
        }
        if let Some(count) = args.history {
            builder = builder.history(u64::from(count));
        }
        subscribers.push(builder.open()?);
    }
    context.output.note(format_args!("ready {}", args.patterns.join(" ")));
    let ends = context.ends();
    let printer = Mutex::new(Printer::new(form, args.count, args.fail_on_loss, context.output));
    let result = read_all(subscribers, &printer, ends, Host { bus: &bus, patterns: &args.patterns });
    let mut printer = printer.into_inner().unwrap_or_else(PoisonError::into_inner);
    let result = result.and_then(|()| printer.finish());
    let (received, lost) = (printer.received(), printer.lost());
    drop(printer);
    bus.close();
    let result = match result {
        // A signal is a good end also for one who waits for its reader.
        Err(Failure::Signalled(_)) => {
            context.output.note("nobody read stdout: not everything that was received is printed");
            Ok(())
        }
        other => other,
    };
    if !matches!(result, Err(Failure::ClosedPipe)) {
        context.output.note(format_args!("received {received} lost {lost}"));
    }
    result?;
    verdict(args, received, context)
}

/// How it ends when nothing failed: a signal and a reached count are well, too few messages in time are not.
fn verdict(args: &SubArgs, received: u64, context: &Context<'_>) -> Result<Exit, Failure> {
    let enough = args.count.map_or(received > 0, |count| received >= count);
    if enough || context.signals.raised().is_some() {
        return Ok(Exit::Done);
    }
    let time = duration::show(context.join_timeout());
    let cause = match args.count {
        Some(count) => format!("{received} of {count} messages came in {time}"),
        None => format!("no message came in {time}"),
    };
    let pattern = args.patterns.first().map_or("", String::as_str);
    let at = format!("subscribing to {}", args.patterns.join(" "));
    Err(Failure::new(
        CommandCode::TooFew,
        cause,
        at,
        format!("busway ls '{pattern}' shows who publishes, or a longer --timeout"),
    ))
}

fn policy(args: &SubArgs) -> Policy {
    if args.reliable { Policy::Block } else { args.policy.unwrap_or_default() }
}

fn read_all(
    subscribers: Vec<Subscriber>,
    printer: &Mutex<Printer<'_>>,
    ends: Ends<'_>,
    host: Host<'_>,
) -> Result<(), Failure> {
    let mut subscribers = subscribers.into_iter();
    let Some(first) = subscribers.next() else { return Ok(()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = subscribers
            .map(|subscriber| scope.spawn(move || read(subscriber, printer, ends, None)))
            .collect();
        let mut result = read(first, printer, ends, Some(host));
        for other in others {
            // A panic is our defect; it has been printed, and passing it on gives the exit code of a panic.
            let one = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(one);
        }
        result
    })
}

/// Reads one subscriber until something ends it. `host` is given to the reader that tells a lonely user what is near.
fn read(
    mut subscriber: Subscriber,
    printer: &Mutex<Printer<'_>>,
    ends: Ends<'_>,
    host: Option<Host<'_>>,
) -> Result<(), Failure> {
    let mut lonely = host.filter(|_| near::stderr_is_terminal()).map(|host| (host, Deadline::after(LONELY)));
    loop {
        let idle = match drain(&mut subscriber, printer) {
            Ok(idle) => idle,
            Err(failure) => {
                lock(printer).stop();
                return Err(failure);
            }
        };
        if ends.reached() || lock(printer).ended() {
            return Ok(());
        }
        if !idle {
            continue;
        }
        if let Some((host, deadline)) = lonely
            && deadline.over()
        {
            lonely = None;
            if subscriber.publishers() == 0 {
                near::tell(host.bus, host.patterns);
            }
        }
        let waited = subscriber.recv_timeout(ends.left()).map_err(Failure::from);
        let mut printer = lock(printer);
        let printed = waited.and_then(|sample| match sample {
            Some(sample) => printer.print(&sample),
            None => printer.check_reader(),
        });
        if let Err(failure) = printed {
            printer.stop();
            return Err(failure);
        }
    }
}

/// Prints what waits, at most a batch; says whether nothing is left.
fn drain(subscriber: &mut Subscriber, printer: &Mutex<Printer<'_>>) -> Result<bool, Failure> {
    let mut printer = lock(printer);
    let mut idle = false;
    for _ in 0..BATCH {
        if printer.ended() {
            break;
        }
        let Some(sample) = subscriber.try_recv()? else {
            idle = true;
            break;
        };
        printer.print(&sample)?;
    }
    printer.count_losses(subscriber.losses(), idle)?;
    if idle {
        printer.flush()?;
    }
    Ok(idle)
}

fn lock<'a, 'b>(printer: &'a Mutex<Printer<'b>>) -> MutexGuard<'a, Printer<'b>> {
    // A reader that panicked left at worst a half-written line; the others may still end in order.
    printer.lock().unwrap_or_else(PoisonError::into_inner)
}
