//! Joining the bus: the one place that turns global flags into a `Bus`.
//!
//! It also holds what every command works with, [`Context`], and reads names, so that all commands refuse a wrong name
//! before they touch the bus.

use std::time::Duration;

use busway::{Bus, BusBuilder, Error, Pattern, Realm, Topic};

use crate::clock::Deadline;
use crate::command::{BudgetArgs, Global};
use crate::exit::Failure;
use crate::output::Output;
use crate::signals::Signals;
use busway_node::Size;

/// How long joining may take where `--timeout` does not say: a holder that hangs is found out well before.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle reader sleeps before it looks for signals: 4 wake-ups a second is the budget of an idle process.
const SLICE: Duration = Duration::from_millis(250);

/// Characters of a wrong name that an error shows.
const NAME_SHOWN: usize = 80;

/// What ends a reader, beside an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<'a> {
    signals: &'a Signals,
    deadline: Option<Deadline>,
}

impl Ends<'_> {
    /// How long to wait before asking again.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.map_or(SLICE, Deadline::left).min(SLICE)
    }

    /// Whether a signal came or the time is up.
    pub(crate) fn reached(&self) -> bool {
        self.signals.raised().is_some() || self.deadline.is_some_and(Deadline::over)
    }
}

/// Who `--wait` waits for: who runs the command is told once that they have not come, when that takes longer than this.
const AWAITED: Duration = Duration::from_secs(1);

/// See [`AWAITED`].
#[derive(Debug)]
pub(crate) struct Awaited {
    whom: &'static str,
    told_after: Option<Deadline>,
}

impl Awaited {
    /// The wait begins now.
    pub(crate) fn new(whom: &'static str) -> Self {
        Self { whom, told_after: Some(Deadline::after(AWAITED)) }
    }

    /// So many have come.
    pub(crate) fn tell(&mut self, found: usize, wanted: u64, context: &Context<'_>) {
        if self.told_after.take_if(|deadline| deadline.over()).is_some() {
            context.output.note(format_args!(
                "note: {found} of {wanted} {} have come; it waits for the others, or as long as --timeout says",
                self.whom
            ));
        }
    }
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
    pub(crate) output: &'a mut Output,
    pub(crate) signals: &'a Signals,
}

impl<'a> Context<'a> {
    /// What ends a reader that begins now.
    pub(crate) fn ends(&self) -> Ends<'a> {
        Ends { signals: self.signals, deadline: self.timeout().map(Deadline::after) }
    }

    /// What `--timeout` says, if it was given.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.global.timeout.map(|span| span.0)
    }

    /// How long to wait for the bus.
    pub(crate) fn join_timeout(&self) -> Duration {
        self.timeout().unwrap_or(JOIN_TIMEOUT)
    }

    /// Joins the domain under the name of the command.
    pub(crate) fn join(&self, name: &str) -> Result<Bus, Failure> {
        join(self.global, name, self.join_timeout())
    }

    /// The same for a command that may be the first of its domain, with the budget that was asked for.
    pub(crate) fn join_within(&self, name: &str, budget: BudgetArgs) -> Result<Bus, Failure> {
        let builder = builder(self.global, name, self.join_timeout())?;
        let bus = match budget.budget {
            Some(Size(bytes)) => builder.budget(bytes).open()?,
            None => builder.open()?,
        };
        self.tell_budget(&bus, budget)?;
        Ok(bus)
    }

    /// Notes that the domain was there before, with another budget than was asked for.
    pub(crate) fn tell_budget(&self, bus: &Bus, budget: BudgetArgs) -> Result<(), Failure> {
        let Some(wanted) = budget.budget else { return Ok(()) };
        let found = Size(bus.inspect()?.budget.limit_bytes);
        if found != wanted {
            self.output.note(format_args!(
                "domain {} was there before and keeps its budget of {found}",
                self.global.domain()
            ));
        }
        Ok(())
    }
}

/// Joins the domain as `name`.
pub(crate) fn join(global: &Global, name: &str, timeout: Duration) -> Result<Bus, Failure> {
    Ok(builder(global, name, timeout)?.open()?)
}

fn builder(global: &Global, name: &str, timeout: Duration) -> Result<BusBuilder, Failure> {
    Ok(Bus::builder().domain(global.domain()).name(name).timeout(timeout).realm(realm(global)?))
}

/// Joins the domain of a sandbox, which is nobody's but ours.
pub(crate) fn join_sandbox(domain: &str, name: &str, timeout: Duration) -> Result<Bus, Failure> {
    Ok(Bus::builder().domain(domain).name(name).timeout(timeout).open()?)
}

/// Who may join: the group that `--realm` names, else our user alone.
pub(crate) fn realm(global: &Global) -> Result<Realm, Failure> {
    // A directory is never taken for a group's because of its mode: who opens it says so.
    let Some(group) = global.realm.as_deref().filter(|group| !group.is_empty()) else {
        return Ok(Realm::User);
    };
    if std::env::var_os("BUSWAY_DIR").is_none_or(|directory| directory.is_empty()) {
        return Err(Failure::usage(
            format!("a realm of group {group} needs a directory that all of the group use"),
            "--realm, BUSWAY_REALM",
            "set BUSWAY_DIR to one path for all of them, /run/busway for one",
        ));
    }
    Ok(Realm::group(group)?)
}

/// A topic to publish to, or the reason why it is none.
pub(crate) fn topic(text: &str) -> Result<Topic, Failure> {
    Topic::new(text).map_err(|error| named(Error::from(error), text))
}

/// A pattern to subscribe to, or the reason why it is none.
pub(crate) fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::parse(text).map_err(|error| named(Error::bad_pattern(error), text))
}

/// Says in which of several names it is, as far as that fits a line.
fn named(error: Error, text: &str) -> Failure {
    let begin: String = text.chars().take(NAME_SHOWN).collect();
    let more = if begin.len() < text.len() { "..." } else { "" };
    let at = format!("{} of {:?}{more}", error.place(), begin);
    error.at(at).into()
}
