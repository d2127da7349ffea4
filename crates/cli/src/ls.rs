//! `busway ls`: every topic with its publishers and subscribers.
//!
//! With `--json` the objects are the library's own [`TopicView`]s; the lines for people are made here.

use busway::{PortState, TopicView};

use crate::command::LsArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::{self, Context};

pub(crate) fn run(args: &LsArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let pattern = args.pattern.as_deref().map(session::pattern).transpose()?;
    let bus = context.join("busway-ls")?;
    let inspection = bus.inspect()?;
    bus.close();
    let matches = |view: &&TopicView| match (&pattern, session::topic(&view.topic)) {
        // As `>` does: those of the bus itself are found by their name.
        (None, _) => !view.topic.starts_with('$'),
        (Some(pattern), Ok(topic)) => pattern.matches(&topic),
        // A pattern that nobody publishes to is found by its own text.
        (Some(pattern), Err(_)) => pattern.to_string() == view.topic,
    };
    let topics: Vec<&TopicView> = inspection.topics.iter().filter(matches).collect();
    if let (Some(pattern), true) = (&pattern, topics.is_empty()) {
        return Err(Failure::new(
            CommandCode::NothingMatched,
            format!("no topic matches {pattern}"),
            format!("domain {}", context.global.domain()),
            "busway ls, or another --domain",
        ));
    }
    if context.output.json() {
        for view in topics {
            context.output.object(view)?;
        }
        return Ok(Exit::Done);
    }
    if topics.is_empty() {
        context.output.note(format_args!("no topics in domain {}", context.global.domain()));
        return Ok(Exit::Done);
    }
    let width = topics.iter().map(|view| view.topic.chars().count()).max().unwrap_or(0).max("TOPIC".len());
    context.output.line(format_args!(
        "{:width$}  {:>4}  {:>4}  {:>12}  {:>12}  {}",
        "TOPIC", "PUBS", "SUBS", "SENT", "RATE/S", "STATE"
    ))?;
    for view in topics {
        let sent: u64 = view.publishers.iter().map(|publisher| publisher.sent).sum();
        // The sum of no floats is -0, which is shown as that.
        let rate = view.publishers.iter().fold(0.0, |all, publisher| all + publisher.rate);
        context.output.line(format_args!(
            "{:width$}  {:>4}  {:>4}  {sent:>12}  {rate:>12.0}  {}",
            view.topic,
            view.publishers.len(),
            view.subscribers.len(),
            state(view)
        ))?;
    }
    Ok(Exit::Done)
}

/// One phrase on a topic: the worst there is to say.
fn state(view: &TopicView) -> String {
    let lost: u64 = view.subscribers.iter().flat_map(|subscriber| subscriber.dropped.values()).sum();
    let ill = view.subscribers.iter().filter(|subscriber| subscriber.state != PortState::Live).count();
    let behind = view.subscribers.iter().map(|subscriber| subscriber.behind_ms).max().unwrap_or(0);
    if view.publishers.is_empty() && lost == 0 && ill == 0 {
        return "no publisher".to_string();
    }
    match (view.closed, ill, lost, behind) {
        (false, ..) => "account open".to_string(),
        (true, 0, 0, 0) => "ok".to_string(),
        (true, 0, 0, ms) => format!("behind {ms} ms"),
        (true, 0, lost, _) => format!("lost {lost}"),
        (true, ill, lost, _) => format!("{ill} not live, lost {lost}"),
    }
}
