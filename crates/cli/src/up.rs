//! `busway up`: holds the rendezvous, and the links to other hosts, until a signal comes.

use std::net::SocketAddr;

use busway_node::{Node, Size};
use serde::Serialize;

use crate::clock;
use crate::command::{BudgetArgs, UpArgs};
use crate::configuration::{self, FlagValue};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::session::Context;
use crate::signals::Signals;

#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    pid: u32,
    domain: &'a str,
    socket: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

pub(crate) fn run(args: &UpArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let started = clock::now_ns();
    let flags = flags(args, context);
    let mut loaded = configuration::load(args.file.config.as_deref(), &flags, context)?;
    loaded.node.timeout = context.join_timeout();
    let node = Node::start(&loaded.node)?;
    context.tell_budget(node.bus(), BudgetArgs { budget: loaded.node.budget_bytes.map(Size) })?;
    let socket = node.socket_path().display().to_string();
    let listen = node.listening().to_vec();
    let (pid, domain) = (std::process::id(), loaded.node.domain.as_str());
    let config = loaded.file.as_ref().map(|path| path.display().to_string());
    if context.output.json() {
        context.output.object(&Ready { ready: true, pid, domain, socket, listen, config })?;
    } else {
        let listen: String = listen.iter().map(|address| format!(" listen={address}")).collect();
        let config = config.map(|path| format!(" config={path}")).unwrap_or_default();
        context
            .output
            .line(format_args!("ready pid={pid} domain={domain} socket={socket}{listen}{config}"))?;
    }
    context.output.flush()?;
    wait(&node, context.signals);
    node.stop();
    // Whole seconds: what a person wants to know, and what a log line is searched for.
    let seconds = std::time::Duration::from_nanos(clock::now_ns() - started).as_secs();
    context.output.note(format_args!("served {}", duration::show(std::time::Duration::from_secs(seconds))));
    Ok(Exit::Done)
}

/// Waits for a signal, or for `busway node drain`.
fn wait(node: &Node, signals: &Signals) {
    while signals.raised().is_none() {
        let asked = node.asked_to_end().is_some_and(|door| signals.wait_readable(door, None));
        if asked {
            return;
        }
    }
}

/// The flags as a layer of the configuration.
fn flags(args: &UpArgs, context: &Context<'_>) -> Vec<FlagValue> {
    let mut flags = configuration::globals(context);
    // What came from the variable is a layer of its own.
    let of_variable = std::env::var("BUSWAY_BUDGET").ok().and_then(|text| text.parse::<Size>().ok());
    let budget = args.budget.budget.filter(|size| Some(*size) != of_variable);
    flags.extend(budget.map(|size| ("budget", size.exact())));
    let mut add = |name, text: Option<&String>| flags.extend(text.map(|text| (name, text.clone())));
    add("node.listen", (!args.listen.is_empty()).then(|| args.listen.join(",")).as_ref());
    add("peers.INDEX", (!args.peer.is_empty()).then(|| args.peer.join(",")).as_ref());
    add("node.index", args.index.as_ref());
    add("node.cluster", args.cluster.as_ref());
    add("node.client", args.client.as_ref());
    add("node.name", args.name.as_ref());
    add(
        "node.allow_plain_beyond_loopback",
        args.allow_plain_beyond_loopback.then(|| "true".to_owned()).as_ref(),
    );
    flags
}
