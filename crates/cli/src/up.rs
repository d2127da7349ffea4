//! `busway up`: holds the rendezvous, and the links to other hosts, until a signal comes.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use busway_node::config::{Applies, Loaded, start_only};
use busway_node::{Moment, Node, Size, notify};
use serde::Serialize;

use crate::clock;
use crate::command::{BudgetArgs, UpArgs};
use crate::configuration::{self, FlagValue};
use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::Context;
use crate::signals::{Hangup, Signals};

#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    pid: u32,
    domain: &'a str,
    socket: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listen: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

pub(crate) fn run(args: &UpArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let started = clock::now_ns();
    // Before anything is started: it would end the process.
    let hangup = Hangup::install().map_err(|error| {
        let remedy = "ulimit -n 1024 or more; busway doctor";
        Failure::new(CommandCode::Stream, error.to_string(), "installing signal handlers", remedy)
            .ending(Exit::Unreachable)
    })?;
    let flags = flags(args, context);
    let mut loaded = configuration::load(args.file.config.as_deref(), &flags, context)?;
    loaded.node.timeout = context.join_timeout();
    let node = Node::start(&loaded.node)?;
    context.tell_budget(node.bus(), BudgetArgs { budget: loaded.node.budget_bytes.map(Size) })?;
    let socket = node.socket_path().display().to_string();
    let (listen, http) = (node.listening().to_vec(), node.serving().to_vec());
    let (pid, domain) = (std::process::id(), loaded.node.domain.clone());
    let domain = domain.as_str();
    let config = loaded.file.as_ref().map(|path| path.display().to_string());
    if context.output.json() {
        context.output.object(&Ready { ready: true, pid, domain, socket, listen, http, config })?;
    } else {
        let listen: String = listen.iter().map(|address| format!(" listen={address}")).collect();
        let http: String = http.iter().map(|address| format!(" http={address}")).collect();
        let config = config.map(|path| format!(" config={path}")).unwrap_or_default();
        context
            .output
            .line(format_args!("ready pid={pid} domain={domain} socket={socket}{listen}{http}{config}"))?;
    }
    context.output.flush()?;
    tell_unlinked(&loaded, context);
    notify(Moment::Ready);
    while let Some(event) = next(&node, context.signals, &hangup) {
        match event {
            Event::Drain => break,
            Event::Reload => reload(args, &mut loaded, &node, context),
        }
    }
    notify(Moment::Stopping);
    node.stop();
    // Whole seconds: what a person wants to know, and what a log line is searched for.
    let seconds = std::time::Duration::from_nanos(clock::now_ns() - started).as_secs();
    context.output.note(format_args!("served {}", duration::show(std::time::Duration::from_secs(seconds))));
    Ok(Exit::Done)
}

/// Notes that nobody will be linked to a node that listens nowhere and names none that it dials.
fn tell_unlinked(loaded: &Loaded, context: &Context<'_>) {
    let Some(links) = &loaded.node.links else { return };
    let Some(lower) = links.peers.keys().next_back().filter(|peer| **peer < links.index) else { return };
    if links.client.is_none() && links.listen.is_empty() {
        context.output.note(format_args!(
            "note: node {lower} has the lower index and dials this node, which listens nowhere: give it --listen, and node {lower} --peer {}=HOST:PORT",
            links.index
        ));
    }
}

/// What a node that runs is waited for.
enum Event {
    /// `busway node drain`.
    Drain,
    /// SIGHUP.
    Reload,
}

/// Waits for something to do; `None` once a signal ends it.
fn next(node: &Node, signals: &Signals, hangup: &Hangup) -> Option<Event> {
    while signals.raised().is_none() {
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(hangup.fd()).chain(node.asked_to_end()).collect();
        match signals.wait_any(&fds) {
            Some(0) => {
                hangup.heard();
                return Some(Event::Reload);
            }
            Some(_) => return Some(Event::Drain),
            None => {}
        }
    }
    None
}

/// Reads the configuration anew. One that is wrong changes nothing, and is told as at the start.
fn reload(args: &UpArgs, loaded: &mut Loaded, node: &Node, context: &Context<'_>) {
    notify(Moment::Reloading);
    let read = configuration::load(args.file.config.as_deref(), &flags(args, context), context);
    let changed = read.and_then(|read| {
        node.reload(&read.node)?;
        Ok(read)
    });
    match changed {
        Ok(read) => {
            for key in start_only(loaded, &read) {
                let note = match key.applies {
                    Applies::Start => "has changed, and takes hold at the next start",
                    Applies::Reload => "is gone, and holds as it was until the next start",
                };
                context.output.note(format_args!("{} {note}", key.name));
            }
            context.output.note("reloaded");
            tracing::info!("reloaded");
            *loaded = read;
        }
        Err(failure) => {
            if let Failure::Told(report) = &failure {
                context.output.report(report);
            }
            context.output.warn("not reloaded: everything is as it was");
        }
    }
    notify(Moment::Ready);
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
    add("http.listen", (!args.http.is_empty()).then(|| args.http.join(",")).as_ref());
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
