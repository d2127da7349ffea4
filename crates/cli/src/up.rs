//! `busway up`: holds the rendezvous until a signal comes.

use busway_node::{Node, NodeConfig};
use serde::Serialize;

use crate::clock;
use crate::command::UpArgs;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::session::Context;

#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    pid: u32,
    domain: &'a str,
    socket: String,
}

pub(crate) fn run(args: &UpArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let started = clock::now_ns();
    let config = NodeConfig {
        domain: context.global.domain.clone(),
        timeout: context.join_timeout(),
        budget_bytes: args.budget.budget.map(|size| size.0),
    };
    let node = Node::start(&config)?;
    context.tell_budget(node.bus(), args.budget)?;
    let socket = node.socket_path().display().to_string();
    let (pid, domain) = (std::process::id(), config.domain.as_str());
    if context.output.json() {
        context.output.object(&Ready { ready: true, pid, domain, socket })?;
    } else {
        context.output.line(format_args!("ready pid={pid} domain={domain} socket={socket}"))?;
    }
    context.output.flush()?;
    context.signals.wait_for_one();
    node.stop();
    // Whole seconds: what a person wants to know, and what a log line is searched for.
    let seconds = std::time::Duration::from_nanos(clock::now_ns() - started).as_secs();
    context.output.note(format_args!("served {}", duration::show(std::time::Duration::from_secs(seconds))));
    Ok(Exit::Done)
}
