//! `busway flows`: what is under way on the links of this host, as its node publishes it.

use busway::{FLOWS_TOPIC, FlowStatus};
use busway_node::Size;

use crate::exit::{Exit, Failure};
use crate::peers;
use crate::session::Context;

pub(crate) fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let flows: Vec<FlowStatus> = peers::said(FLOWS_TOPIC, "busway-flows", context)?;
    if context.output.json() {
        for flow in &flows {
            context.output.object(flow)?;
        }
        return Ok(Exit::Done);
    }
    if flows.is_empty() {
        context.output.note("no peer is linked");
        return Ok(Exit::Done);
    }
    let width = flows.iter().map(|flow| flow.peer.chars().count()).max().unwrap_or(0).max(4);
    context.output.line(format_args!(
        "{:width$}  {:<14} {:>4} {:<3}  {:>10} {:>10}  {:>10} {:>10}  {:>12} {:>9}  {:>9}  {}",
        "PEER",
        "FLOW",
        "RANK",
        "WAY",
        "IN USE",
        "OF",
        "BYTES",
        "OF",
        "HANDLED",
        "WAITED",
        "HANDLER",
        "DROPPED"
    ))?;
    for flow in &flows {
        let dropped: Vec<String> =
            flow.dropped.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
        let dropped =
            if dropped.is_empty() { "-".to_owned() } else { dropped.join(", ").escape_debug().to_string() };
        context.output.line(format_args!(
            "{:width$}  {:<14} {:>4} {:<3}  {:>10} {:>10}  {:>10} {:>10}  {:>12} {:>9}  {:>6} ms  {dropped}",
            flow.peer,
            flow.flow,
            flow.rank,
            flow.direction,
            flow.in_use_messages,
            limit(flow.limit_messages, flow.limit_messages),
            Size(flow.in_use_bytes).to_string(),
            limit(flow.limit_messages, Size(flow.limit_bytes)),
            flow.handled,
            flow.waited,
            flow.handler_ns / 1_000_000,
        ))?;
    }
    Ok(Exit::Done)
}

/// A limit, where there is one.
fn limit(messages: u64, shown: impl std::fmt::Display) -> String {
    if messages == 0 { "-".to_owned() } else { shown.to_string() }
}
