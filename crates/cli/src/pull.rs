//! `busway pull`: takes work and prints it, and says that it is done once it has left for whoever reads it.
//!
//! A few messages are in hand at a time: they are printed, handed to the reader of stdout in one piece, and only then acknowledged. So
//! what is not printed when this ends, by a signal or by SIGKILL, is given to another puller where the group acknowledges.
//!
//! Invariant: nothing is acknowledged before its last byte was written.

use std::collections::BTreeSet;
use std::time::Duration;

use busway::{Bus, Puller, Task};

use crate::clock::Deadline;
use crate::command::PullArgs;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::near;
use crate::printer::{Form, Printer};
use crate::session::{self, Context, Ends};

/// Messages in hand at a time: enough that a system call for each is not what it costs, and few that are done twice or lost
/// when it is killed.
const HAND_MAX: usize = 8;

/// After this long without a pusher a person is told.
const LONELY: Duration = Duration::from_secs(2);

/// Takes, prints and acknowledges.
#[derive(Debug)]
struct Work<'a> {
    /// Printed, and not over yet. Before the puller, so that it is given back while that is there.
    hand: Vec<Task>,
    puller: Puller,
    printer: Printer<'a>,
    ends: Ends<'a>,
    late: u64,
    /// Pushers of which it was told that they refuse this puller.
    refused: BTreeSet<String>,
}

pub(crate) fn run(args: &PullArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let pattern = session::pattern(&args.pattern)?;
    let group = args.group.as_deref().map(session::topic).transpose()?;
    let form = Form::of(args.form, context.output, "busway pull")?;
    let bus = context.join_within("busway-pull", args.budget)?;
    let mut puller = bus.puller(&pattern.to_string());
    if let Some(group) = &group {
        puller = puller.group(group.as_str());
    }
    if let Some(within) = args.ack {
        puller = puller.ack(within.0);
    }
    if let Some(ids) = args.drop_duplicates {
        puller = puller.drop_duplicates(ids);
    }
    if let Some(attempts) = args.attempts {
        puller = puller.attempts(attempts);
    }
    let puller = puller.open()?;
    context.output.note(format_args!("ready {}", args.pattern));
    let ends = context.ends();
    let printer = Printer::new(form, args.count, false, context.output);
    let mut work = Work { hand: Vec::new(), puller, printer, ends, late: 0, refused: BTreeSet::new() };
    let result = work.pull(&bus, &args.pattern).and_then(|()| work.printer.finish());
    let (pulled, late) = (work.printer.received(), work.late);
    // What is in hand still was not written: it is given back where it is acknowledged.
    drop(work);
    bus.close();
    let result = match result {
        // A signal is a good end also for one who waits for its reader.
        Err(Failure::Signalled(_)) => {
            context.output.note("nobody read stdout: not everything that was pulled is printed");
            Ok(())
        }
        other => other,
    };
    if !matches!(result, Err(Failure::ClosedPipe)) {
        context.output.note(format_args!("pulled {pulled} late {late}"));
    }
    result?;
    verdict(args, pulled, context)
}

impl Work<'_> {
    /// Works until something ends it.
    fn pull(&mut self, bus: &Bus, pattern: &str) -> Result<(), Failure> {
        let mut lonely = near::stderr_is_terminal().then(|| Deadline::after(LONELY));
        self.tell_refused();
        loop {
            // What is taken beyond the count would be nobody's.
            let task = if self.printer.ended() { None } else { self.puller.try_recv()? };
            let idle = task.is_none();
            if let Some(task) = task {
                self.take(task)?;
                if self.hand.len() < HAND_MAX && !self.printer.ended() {
                    continue;
                }
            }
            self.hand_over()?;
            if self.ends.reached() || self.printer.ended() {
                return Ok(());
            }
            if !idle {
                continue;
            }
            if lonely.is_some_and(Deadline::over) {
                lonely = None;
                if self.puller.pushers() == 0 {
                    near::tell(bus, &[pattern.to_string()]);
                }
            }
            match self.puller.recv_timeout(self.ends.left())? {
                Some(task) => self.take(task)?,
                None => {
                    self.printer.check_reader()?;
                    self.tell_refused();
                }
            }
        }
    }

    fn take(&mut self, task: Task) -> Result<(), Failure> {
        let printed = self.printer.print_task(&task);
        self.hand.push(task);
        printed
    }

    /// Writes what is printed, and says that it is done.
    fn hand_over(&mut self) -> Result<(), Failure> {
        self.printer.flush()?;
        let late = self.hand.drain(..).filter_map(|task| task.ack().err()).count();
        if late > 0 {
            self.late += late as u64;
            self.printer.warn(format_args!(
                "late {late}: printed after --ack was over; another puller gets them as well"
            ));
        }
        Ok(())
    }

    /// Says once of each pusher that it refuses this puller, which would else wait in silence.
    fn tell_refused(&mut self) {
        for unread in self.puller.unread() {
            let who = format!("{} of {} (pid {})", unread.topic, unread.publisher.name, unread.publisher.pid);
            if !self.refused.contains(&who) {
                self.printer.warn(format_args!("cannot pull {who}: {}", unread.error.cause()));
                self.refused.insert(who);
            }
        }
    }
}

/// How it ends when nothing failed: a signal and a reached count are well, too few messages in time are not.
fn verdict(args: &PullArgs, pulled: u64, context: &Context<'_>) -> Result<Exit, Failure> {
    let enough = args.count.map_or(pulled > 0, |count| pulled >= count);
    if enough || context.signals.raised().is_some() {
        return Ok(Exit::Done);
    }
    let time = duration::show(context.join_timeout());
    let cause = match args.count {
        Some(count) => format!("{pulled} of {count} messages came in {time}"),
        None => format!("no message came in {time}"),
    };
    Err(Failure::new(
        CommandCode::TooFew,
        cause,
        format!("pulling {}", args.pattern),
        format!("busway ls '{}' shows who pushes, or a longer --timeout", args.pattern),
    ))
}
