//! `busway up`: holds the rendezvous, and the links to other hosts, until a signal comes.

use std::net::SocketAddr;

use busway_node::{Links, Node, NodeConfig};
use serde::Serialize;

use crate::clock;
use crate::command::UpArgs;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::session::{self, Context};

#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    pid: u32,
    domain: &'a str,
    socket: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<SocketAddr>,
}

pub(crate) fn run(args: &UpArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let started = clock::now_ns();
    let links = (!args.listen.is_empty() || !args.peer.is_empty()).then(|| Links {
        cluster: args.cluster.clone(),
        index: args.index,
        client: args.client,
        listen: args.listen.clone(),
        peers: args.peer.iter().cloned().collect(),
        allow_plain_beyond_loopback: args.allow_plain_beyond_loopback,
    });
    let config = NodeConfig {
        domain: context.global.domain.clone(),
        timeout: context.join_timeout(),
        realm: session::realm(context.global)?,
        budget_bytes: args.budget.budget.map(|size| size.0),
        links,
    };
    let node = Node::start(&config)?;
    context.tell_budget(node.bus(), args.budget)?;
    let socket = node.socket_path().display().to_string();
    let listen = node.listening().to_vec();
    let (pid, domain) = (std::process::id(), config.domain.as_str());
    if context.output.json() {
        context.output.object(&Ready { ready: true, pid, domain, socket, listen })?;
    } else {
        let listen: String = listen.iter().map(|address| format!(" listen={address}")).collect();
        context.output.line(format_args!("ready pid={pid} domain={domain} socket={socket}{listen}"))?;
    }
    context.output.flush()?;
    context.signals.wait_for_one();
    node.stop();
    // Whole seconds: what a person wants to know, and what a log line is searched for.
    let seconds = std::time::Duration::from_nanos(clock::now_ns() - started).as_secs();
    context.output.note(format_args!("served {}", duration::show(std::time::Duration::from_secs(seconds))));
    Ok(Exit::Done)
}
