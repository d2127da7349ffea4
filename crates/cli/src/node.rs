//! `busway node`: asks the node of this domain about itself, or to end.
//!
//! The node answers through its own door, to its own user. What a link does is shown by `busway peers`.
//!
//! Invariant: `drain` ends with 0 only when the node has ended.

use std::time::Duration;

use busway_node::{Answer, Ask, Asked, Info};
use serde::Serialize;

use crate::command::NodeCommand;
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::Context;

/// What `--json` says of a link that was ended.
#[derive(Debug, Serialize)]
struct Kicked {
    peer: String,
    kicked: bool,
}

/// What `--json` says of a node that was told to end.
#[derive(Debug, Serialize)]
struct Drained {
    pid: u32,
    links: usize,
    drained: bool,
}

pub(crate) fn run(which: &NodeCommand, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match which {
        NodeCommand::Info => info(context),
        NodeCommand::Drain => drain(context),
        NodeCommand::Kick(args) => kick(&args.peer, context),
    }
}

/// Asks, and leaves the bus again: a node that ends would hand its role to us.
fn asked(ask: &Ask, context: &Context<'_>) -> Result<Asked, Failure> {
    let bus = context.join("busway-node")?;
    let asked = busway_node::ask(&bus, ask, context.join_timeout());
    bus.close();
    asked?.ok_or_else(|| {
        Failure::new(
            CommandCode::NothingMatched,
            "no node runs in this domain",
            format!("domain {}", context.global.domain()),
            "busway up, or another --domain",
        )
    })
}

fn refused(answer: Answer, what: &str) -> Failure {
    match answer {
        Answer::Refused { cause, remedy } => Failure::new(CommandCode::NodeRefused, cause, what, remedy),
        Answer::Info(_) | Answer::Draining { .. } | Answer::Kicked { .. } => Failure::new(
            CommandCode::NodeRefused,
            "the node has answered another question",
            what,
            "use the busway command of the same version",
        ),
    }
}

fn info(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let info = match asked(&Ask::Info, context)?.answer {
        Answer::Info(info) => *info,
        other => return Err(refused(other, "busway node info")),
    };
    if context.output.json() {
        context.output.object(&info)?;
        return Ok(Exit::Done);
    }
    let Info { pid, version, domain, socket, identity, cluster, name, listening, http, config, .. } = &info;
    let or = |text: &Option<String>| text.as_deref().unwrap_or("-").escape_debug().to_string();
    let up = duration::show(Duration::from_secs(info.uptime_ms / 1000));
    let all = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(" ") };
    let (listening, http) = (all(listening), all(http));
    for (what, text) in [
        ("node", or(identity)),
        ("cluster", or(cluster)),
        ("name", or(name)),
        ("listens at", listening),
        ("http at", http),
        ("domain", format!("{domain} at {socket}")),
        ("process", format!("{pid}, version {version}, up {up}")),
        ("config", or(config)),
        ("peers", format!("{} of {} linked", info.connected, info.peers)),
        ("in", format!("{} messages, {} bytes", info.messages_in, info.bytes_in)),
        ("out", format!("{} messages, {} bytes", info.messages_out, info.bytes_out)),
    ] {
        context.output.line(format_args!("{what:<12}{text}"))?;
    }
    Ok(Exit::Done)
}

fn drain(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut asked = asked(&Ask::Drain, context)?;
    let (pid, links) = match asked.answer.clone() {
        Answer::Draining { pid, connected } => (pid, connected),
        other => return Err(refused(other, "busway node drain")),
    };
    let limit = context.join_timeout();
    if !asked.wait_for_end(limit) {
        return Err(Failure::new(
            CommandCode::NodeRefused,
            format!("pid {pid} has not ended in {}", duration::show(limit)),
            "busway node drain",
            format!("wait longer with --timeout, or kill {pid}"),
        ));
    }
    if context.output.json() {
        context.output.object(&Drained { pid, links, drained: true })?;
    } else {
        context.output.line(format_args!("drained pid={pid} links={links}"))?;
    }
    Ok(Exit::Done)
}

fn kick(peer: &str, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let peer = if peer.parse::<u8>().is_ok() { format!("node {peer}") } else { peer.to_owned() };
    // A longer name is nobody's, and does not fit a question.
    let peer: String = peer.chars().take(80).collect();
    match asked(&Ask::Kick { peer }, context)?.answer {
        Answer::Kicked { peer } if context.output.json() => {
            context.output.object(&Kicked { peer, kicked: true })?;
        }
        Answer::Kicked { peer } => context.output.line(format_args!("kicked {peer}"))?,
        other => return Err(refused(other, "busway node kick")),
    }
    Ok(Exit::Done)
}
