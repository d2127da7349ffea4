//! From merged values to what a node is started with, and what no single key can tell is wrong.
//!
//! It opens nothing. A group is looked up, because a realm that does not exist is a mistake of the configuration.
//!
//! Invariant: what is built would be taken by `busway::NodeBuilder`; what it would refuse is a problem here, with its place.

use std::collections::BTreeMap;

use busway::Realm;

use crate::config::{Merged, Origin, Problem, Value};
use crate::{Links, NodeConfig};

/// What the node is started with; `None` where values do not fit together.
pub(super) fn node(merged: &Merged, problems: &mut Vec<Problem>) -> Option<NodeConfig> {
    let before = problems.len();
    let links = links(merged, problems);
    let realm = realm(merged, problems);
    if problems.len() > before {
        return None;
    }
    Some(NodeConfig {
        domain: merged.text("domain").unwrap_or_default(),
        directory: merged.path("directory"),
        realm: realm?,
        budget_bytes: merged.number("budget"),
        links,
        ..NodeConfig::default()
    })
}

fn realm(merged: &Merged, problems: &mut Vec<Problem>) -> Option<Realm> {
    let Some(group) = merged.text("realm") else { return Some(Realm::User) };
    let origin = merged.origin("realm");
    if merged.path("directory").is_none() {
        let cause = format!("a realm of group {group} needs a directory that all of the group use");
        let remedy = "set BUSWAY_DIR, or directory, to one path for all of them, /run/busway for one";
        problems.push(Problem::new(cause, origin, remedy));
        return None;
    }
    match Realm::group(&group) {
        Ok(realm) => Some(realm),
        Err(error) => {
            problems.push(Problem::new(error.cause(), origin, error.try_()));
            None
        }
    }
}

/// How the node is linked: not at all where it neither listens nor dials.
fn links(merged: &Merged, problems: &mut Vec<Problem>) -> Option<Links> {
    let listen = merged.addresses("node.listen");
    let mut peers = BTreeMap::new();
    for setting in merged.all("peers.INDEX") {
        let (Ok(index), Some(Value::Text(address))) = (setting.instance.parse::<u8>(), &setting.value) else {
            continue;
        };
        peers.insert(index, address.clone());
    }
    if listen.is_empty() && peers.is_empty() {
        return None;
    }
    let index = merged.number("node.index").and_then(|index| u8::try_from(index).ok()).unwrap_or_default();
    let client = client(merged, problems);
    let beyond = merged.is_set("node.allow_plain_beyond_loopback");
    check(merged, client.is_some(), index, problems);
    let number = |name| merged.number(name).unwrap_or_default();
    Some(Links {
        cluster: merged.text("node.cluster").unwrap_or_default(),
        index,
        client,
        name: merged.text("node.name"),
        listen,
        peers,
        allow_plain_beyond_loopback: beyond,
        clients_max: usize::try_from(number("limits.clients_max")).unwrap_or(usize::MAX),
        data_in_flight: number("flows.data.in_flight"),
        data_bytes: number("flows.data.bytes"),
    })
}

/// A client has no index: of the two, who is set in the later layer holds.
fn client(merged: &Merged, problems: &mut Vec<Problem>) -> Option<u64> {
    let client = merged.number("node.client")?;
    let (of_client, of_index) = (merged.origin("node.client"), merged.origin("node.index"));
    match rank(&of_client).cmp(&rank(&of_index)) {
        std::cmp::Ordering::Greater => Some(client),
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => {
            let cause = "node.client and node.index exclude each other: a client has no index";
            problems.push(Problem::new(cause, of_client, "leave one of them out"));
            None
        }
    }
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Environment(_) => 2,
        Origin::Flag(_) => 3,
    }
}

fn check(merged: &Merged, is_client: bool, index: u8, problems: &mut Vec<Problem>) {
    for setting in merged.all("peers.INDEX") {
        if !is_client && setting.instance == index.to_string() {
            let cause = format!("node {index} is this node");
            problems.push(Problem::new(
                cause,
                &setting.origin,
                "name the other nodes only, or set node.index",
            ));
        }
    }
    let listen = merged.addresses("node.listen");
    let at = || merged.origin("node.listen");
    if is_client && !listen.is_empty() {
        problems.push(Problem::new("a client is dialed by nobody", at(), "leave out node.listen"));
    }
    if is_client && merged.all("peers.INDEX").next().is_none() {
        let origin = merged.origin("node.client");
        problems.push(Problem::new("a client without a node", origin, "name the nodes in [peers]"));
    }
    let beyond = listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = beyond.filter(|_| !merged.is_set("node.allow_plain_beyond_loopback")) {
        let cause = format!("{address} can be reached from other hosts, and links are not encrypted");
        let remedy = "listen at 127.0.0.1, or allow it in words: node.allow_plain_beyond_loopback = true";
        problems.push(Problem::new(cause, at(), remedy));
    }
}
