//! `busway info TOPIC`: one topic in full, with the processes behind its ports.

use std::collections::BTreeSet;

use busway::{Inspection, PortState, ProcessView, PublisherView, SubscriberView, TopicView};
use serde::Serialize;

use crate::command::InfoArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::output::Paint;
use crate::session::{self, Context};
use busway_node::Size;

/// The fields of `ls`, and the processes of the topic.
#[derive(Debug, Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    view: &'a TopicView,
    processes: Vec<&'a ProcessView>,
}

pub(crate) fn run(args: &InfoArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    // A pattern that nobody publishes to is listed under its own text.
    let topic = session::pattern(&args.topic)?.to_string();
    let bus = context.join("busway-info")?;
    let inspection = bus.inspect()?;
    bus.close();
    let Some(view) = inspection.topics.iter().find(|view| view.topic == topic) else {
        return Err(Failure::new(
            CommandCode::NothingMatched,
            format!("nobody publishes or subscribes {topic}"),
            format!("domain {}", context.global.domain()),
            "busway ls, or another --domain",
        ));
    };
    let processes = processes(view, &inspection);
    if context.output.json() {
        context.output.object(&Info { view, processes })?;
        return Ok(Exit::Done);
    }
    context.output.line(format_args!("topic {}", view.topic))?;
    if view.publishers.is_empty() {
        context.output.line("publisher   none")?;
    }
    for publisher in &view.publishers {
        print_publisher(publisher, context)?;
    }
    for subscriber in &view.subscribers {
        print_subscriber(subscriber, context)?;
    }
    for process in processes {
        print_process(process, context)?;
    }
    let account = if view.closed { "account closed" } else { "account open" };
    context.output.line(account)?;
    Ok(Exit::Done)
}

/// The processes that have a port of the topic.
fn processes<'a>(view: &TopicView, inspection: &'a Inspection) -> Vec<&'a ProcessView> {
    let mut pids: BTreeSet<u32> = view.publishers.iter().map(|publisher| publisher.pid).collect();
    pids.extend(view.subscribers.iter().map(|subscriber| subscriber.pid));
    inspection.processes.iter().filter(|process| pids.contains(&process.pid)).collect()
}

fn print_publisher(publisher: &PublisherView, context: &mut Context<'_>) -> Result<(), Failure> {
    let PublisherView { name, pid, port, sent, bytes, rate, waiting, no_subscriber } = publisher;
    let bytes = Size(*bytes);
    context.output.line(format_args!(
        "publisher   {name} pid {pid} port {port}: sent {sent}, {bytes}, {rate:.0} a second"
    ))?;
    if *waiting == 0 && *no_subscriber == 0 {
        return Ok(());
    }
    context.output.line(format_args!(
        "            waiting for the first subscriber {waiting}, waited in vain {no_subscriber}"
    ))
}

fn print_subscriber(subscriber: &SubscriberView, context: &mut Context<'_>) -> Result<(), Failure> {
    let SubscriberView { name, pid, policy, delivered, in_flight, lag, lag_max, held, behind_ms, .. } =
        subscriber;
    let state = painted(subscriber.state, context);
    let dropped = subscriber
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect::<Vec<_>>();
    let dropped = if dropped.is_empty() { "nothing".to_string() } else { dropped.join(", ") };
    if let Some(group) = &subscriber.group {
        return context.output.line(match policy.as_str() {
            "pull" => format!("puller      {name} pid {pid} of group {group} {state}: holds {held}"),
            _ => format!(
                "group       {group}: delivered {delivered}, dropped {dropped}, waiting or in hand {in_flight}"
            ),
        });
    }
    context.output.line(format_args!(
        "subscriber  {name} pid {pid} {policy} {state}: delivered {delivered}, dropped {dropped}, in flight {in_flight}"
    ))?;
    context.output.line(format_args!(
        "            behind by {lag} messages, {behind_ms} ms (at most {lag_max} messages); holds {held}"
    ))
}

fn print_process(process: &ProcessView, context: &mut Context<'_>) -> Result<(), Failure> {
    let ProcessView { name, pid, last_beat_ms, missed_beats, committed_bytes, .. } = process;
    let state = painted(process.state, context);
    let holder = if process.holder { ", holds the rendezvous" } else { "" };
    let beats = if process.monitored {
        format!("beat {last_beat_ms} ms ago, {missed_beats} missed")
    } else {
        "not monitored".to_string()
    };
    let memory = Size(*committed_bytes);
    context.output.line(format_args!("process     {name} pid {pid} {state}: {beats}, {memory}{holder}"))
}

fn painted(state: PortState, context: &Context<'_>) -> String {
    let paint = match state {
        PortState::Live => Paint::Good,
        PortState::Stalled | PortState::Hung => Paint::Middling,
        PortState::Evicted | PortState::Dead => Paint::Bad,
    };
    context.output.paint(paint, state.name())
}
