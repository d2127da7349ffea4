//! From merged values to what a node is started with, and what no single key can tell is wrong.
//!
//! It opens nothing. A group is looked up, because a realm that does not exist is a mistake of the configuration.
//!
//! Invariant: what is built would be taken by `busway::NodeBuilder`; what it would refuse is a problem here, with its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use busway::artifacts::{EVENT_FLOWS, Workers, WorkersBuilder};
use busway::{Acl, AclRule, Realm, Tls, Tokens};
use busway_http::HttpConfig;
use busway_http::limits::NAMES_MAX;

use crate::config::{Merged, Origin, Problem, Secret, Value};
use crate::{Links, NodeConfig};

/// What the node is started with; `None` where values do not fit together.
pub(super) fn node(merged: &Merged, problems: &mut Vec<Problem>) -> Option<NodeConfig> {
    let before = problems.len();
    let http = http(merged, problems);
    let links = links(merged, http.is_some(), problems);
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
        http,
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
fn links(merged: &Merged, http: bool, problems: &mut Vec<Problem>) -> Option<Links> {
    let listen = merged.addresses("node.listen");
    let mut peers = BTreeMap::new();
    for setting in merged.all("peers.INDEX") {
        let (Ok(index), Some(Value::Text(address))) = (setting.instance.parse::<u8>(), &setting.value) else {
            continue;
        };
        peers.insert(index, address.clone());
    }
    if listen.is_empty() && peers.is_empty() {
        alone(merged, http, problems);
        return None;
    }
    let index = merged.number("node.index").and_then(|index| u8::try_from(index).ok()).unwrap_or_default();
    let client = client(merged, problems);
    let beyond = merged.is_set("node.allow_plain_beyond_loopback");
    let tls = tls(merged, problems);
    // What is wrong with them was told where they are read for HTTP.
    let told = &mut Vec::new();
    let problems_of_rights = if http { told } else { &mut *problems };
    let (token, tokens) = tokens(merged, problems_of_rights);
    let acl = acl(merged, problems_of_rights);
    check(merged, client.is_some(), index, problems);
    let number = |name| merged.number(name).unwrap_or_default();
    let count = |name| u32::try_from(number(name)).unwrap_or(u32::MAX);
    Some(Links {
        cluster: merged.text("node.cluster").unwrap_or_default(),
        index,
        client,
        name: merged.text("node.name"),
        listen,
        peers,
        allow_plain_beyond_loopback: beyond,
        tls,
        token,
        tokens,
        acl,
        clients_max: usize::try_from(number("limits.clients_max")).unwrap_or(usize::MAX),
        keep_alive: Duration::from_millis(number("limits.keep_alive_ms")),
        data_in_flight: number("flows.data.in_flight"),
        data_bytes: number("flows.data.bytes"),
        flows_bytes: number("flows.bytes"),
        floor_in_flight: number("flows.floor.in_flight"),
        floor_bytes: number("flows.floor.bytes"),
        strangers_max: count("limits.strangers_max"),
        strangers_of_address_max: count("limits.strangers_of_address_max"),
        artifact_store: merged.path("artifacts.store").filter(|path| path.as_os_str() != "memory"),
        artifact_store_bytes: number("artifacts.store_bytes"),
        artifact_workers: artifact_workers(merged, client.is_some(), problems),
    })
}

/// The flows that workers have, where any of their keys is set.
fn artifact_workers(merged: &Merged, is_client: bool, problems: &mut Vec<Problem>) -> Option<WorkersBuilder> {
    let mut first = None;
    let floor = ["flows.floor.in_flight", "flows.floor.bytes"];
    let [events, bytes] = floor.map(|name| merged.number(name).unwrap_or_default());
    let mut workers = Workers::builder().floor(events, bytes);
    for flow in EVENT_FLOWS {
        let key = |what: &str| format!("flows.{flow}.{what}");
        let all = ["in_flight", "bytes", "workers", "when_full"].map(key);
        first = first.or_else(|| all.iter().find_map(|name| merged.get(name)));
        let [in_flight, bytes, count, when_full] = all;
        let number = |name: &str| merged.number(name).unwrap_or_default();
        let said = merged.text(&when_full);
        let rule = flow.when_full().iter().find(|rule| Some(rule.name()) == said.as_deref());
        let rule = rule.copied().unwrap_or(flow.when_full()[0]);
        workers = workers.limit(flow, number(&in_flight), number(&bytes), rule);
        workers = workers.workers(flow, usize::try_from(number(&count)).unwrap_or(usize::MAX));
    }
    let first = first?;
    if is_client {
        let cause = format!("a client shares no artifacts, so {} would be without effect", first.name());
        problems.push(Problem::new(cause, &first.origin, "leave it out, or set node.index"));
    }
    Some(workers)
}

/// What would be without effect where there are no links. Tokens and rules are for HTTP too.
fn alone(merged: &Merged, http: bool, problems: &mut Vec<Problem>) {
    if merged.get("node.client").is_some() {
        let origin = merged.origin("node.client");
        problems.push(Problem::new("a client without a node", origin, "name the nodes in [peers]"));
    }
    if let Some(setting) = ["tls.ca", "tls.cert", "tls.key", "node.token", "artifacts.store"]
        .iter()
        .find_map(|name| merged.get(name))
        .or(merged.all("tokens.MEMBER").next().filter(|_| !http))
        .or(merged.all("acl.RULE.identity").next().filter(|_| !http))
    {
        let remedy = "listen somewhere, or name a peer";
        problems.push(Problem::new("there are no links that it could be for", &setting.origin, remedy));
    }
}

/// The token that we show, and those that we take. A file that holds some is read by its owner and group alone.
fn tokens(merged: &Merged, problems: &mut Vec<Problem>) -> (Option<Secret>, BTreeMap<String, Secret>) {
    let mut tokens = BTreeMap::new();
    let mut token = None;
    for setting in merged.get("node.token").into_iter().chain(merged.all("tokens.MEMBER")) {
        let Some(Value::Secret(secret)) = &setting.value else { continue };
        if let Origin::File { path, .. } = &setting.origin
            && merged.can_be_read_by_all(&setting.origin)
        {
            let remedy = format!("chmod o= {}", path.display());
            let cause = format!("{} is a secret, and everybody can read the file", setting.name());
            problems.push(Problem::new(cause, &setting.origin, remedy));
        }
        let same = |(_, other): (&String, &Secret)| other == secret;
        if setting.instance.is_empty() {
            token = Some(secret.clone());
        } else if tokens.iter().any(same) {
            let cause =
                format!("the token of {} is that of somebody else too", setting.instance.escape_debug());
            problems.push(Problem::new(cause, &setting.origin, "give each member a token of its own"));
        } else {
            tokens.insert(setting.instance.clone(), secret.clone());
        }
    }
    (token, tokens)
}

/// The HTTP door: none where it listens nowhere.
fn http(merged: &Merged, problems: &mut Vec<Problem>) -> Option<HttpConfig> {
    let listen = merged.addresses("http.listen");
    if listen.is_empty() {
        let keys = ["http.hosts", "http.origins"];
        if let Some(setting) = keys.iter().find_map(|name| merged.get(name)) {
            let remedy = "set http.listen, to 127.0.0.1:7443 for one";
            problems.push(Problem::new("there is no HTTP that it could be for", &setting.origin, remedy));
        }
        return None;
    }
    let (_, shown) = tokens(merged, problems);
    let mut tokens = Tokens::default();
    for (name, token) in &shown {
        if let Err(error) = tokens.add(name, token.expose()) {
            let at = merged.all("tokens.MEMBER").find(|setting| setting.instance == *name);
            let origin = at.map_or(Origin::Default, |setting| setting.origin.clone());
            problems.push(Problem::new(error.cause(), origin, error.try_()));
        }
    }
    let acl = acl(merged, problems);
    let (hosts, origins) = (merged.texts("http.hosts"), merged.texts("http.origins"));
    for (name, list) in [("http.hosts", &hosts), ("http.origins", &origins)] {
        if list.len() > NAMES_MAX {
            let cause = format!("{name} has more than {NAMES_MAX} entries");
            problems.push(Problem::new(cause, merged.origin(name), "list those that are used"));
        }
    }
    if let Some(address) = listen.iter().find(|address| !address.ip().is_loopback()) {
        beyond(merged, *address, tokens.is_empty(), problems);
    }
    let number = |name| merged.number(name).unwrap_or_default();
    let count = |name| u32::try_from(number(name)).unwrap_or(u32::MAX);
    Some(HttpConfig {
        listen,
        hosts,
        origins,
        tokens,
        acl,
        body_bytes_max: number("http.body_bytes_max"),
        in_flight: count("flows.ingress.in_flight"),
        bytes: number("flows.ingress.bytes"),
        streams_max: count("http.streams_max"),
        connections_max: count("http.connections_max"),
        artifact_bytes_max: number("http.artifact_bytes_max"),
        artifacts_bytes: number("http.artifacts_bytes"),
        transfers_max: count("http.transfers_max"),
    })
}

/// What has to be said in words where others can reach HTTP.
fn beyond(merged: &Merged, address: SocketAddr, unknown: bool, problems: &mut Vec<Problem>) {
    let origin = merged.origin("http.listen");
    if !merged.is_set("http.allow_plain_beyond_loopback") {
        let cause = format!("{address} can be reached from other hosts, and HTTP is not encrypted");
        let remedy = "listen at 127.0.0.1 behind a proxy that encrypts, or allow it in words: \
                      http.allow_plain_beyond_loopback = true";
        problems.push(Problem::new(cause, &origin, remedy));
    }
    if unknown && !merged.is_set("http.allow_anybody_beyond_loopback") {
        let cause = format!("{address} can be reached from other hosts, and nobody has to show a token");
        let remedy = "give them tokens in [tokens], or allow it in words: \
                      http.allow_anybody_beyond_loopback = true";
        problems.push(Problem::new(cause, origin, remedy));
    }
}

/// The lists of a rule.
const RULE_LISTS: [&str; 8] = [
    "acl.RULE.publish",
    "acl.RULE.subscribe",
    "acl.RULE.deny_publish",
    "acl.RULE.deny_subscribe",
    "acl.RULE.push",
    "acl.RULE.request",
    "acl.RULE.pull",
    "acl.RULE.answer",
];

/// The rules; `None` where there are none, and everything is allowed.
fn acl(merged: &Merged, problems: &mut Vec<Problem>) -> Option<Acl> {
    let first = merged.all("acl.RULE.identity").next()?;
    let mut rules: BTreeMap<u64, AclRule> = BTreeMap::new();
    let of = |instance: &str| instance.parse::<u64>().unwrap_or_default();
    for setting in merged.all("acl.RULE.identity") {
        if let Some(Value::Text(identity)) = &setting.value {
            rules.entry(of(&setting.instance)).or_default().identity.clone_from(identity);
        }
    }
    for name in RULE_LISTS {
        for setting in merged.all(name) {
            // A rule without an identity has been told already.
            let Some(rule) = rules.get_mut(&of(&setting.instance)) else { continue };
            let Some(Value::Texts(patterns)) = &setting.value else { continue };
            let list = match name {
                "acl.RULE.publish" => &mut rule.publish,
                "acl.RULE.subscribe" => &mut rule.subscribe,
                "acl.RULE.deny_publish" => &mut rule.deny_publish,
                // Also an empty list is one.
                "acl.RULE.push" => rule.push.get_or_insert_default(),
                "acl.RULE.request" => rule.request.get_or_insert_default(),
                "acl.RULE.pull" => rule.pull.get_or_insert_default(),
                "acl.RULE.answer" => rule.answer.get_or_insert_default(),
                _ => &mut rule.deny_subscribe,
            };
            list.clone_from(patterns);
        }
    }
    match Acl::new(rules.into_values()) {
        Ok(acl) => Some(acl),
        Err(error) => {
            problems.push(Problem::new(error.cause(), &first.origin, error.try_()));
            None
        }
    }
}

/// Certificates and key, read: what is wrong with them is found before anything is started.
fn tls(merged: &Merged, problems: &mut Vec<Problem>) -> Option<Tls> {
    let path = |name: &str| {
        let setting = merged.get(name)?;
        let path = merged.path(name)?;
        // What a file names lies beside it, wherever the node is started.
        match &setting.origin {
            Origin::File { path: file, .. } => {
                Some(file.parent().map_or(path.clone(), |beside| beside.join(&path)))
            }
            Origin::Default | Origin::Environment(_) | Origin::Flag(_) => Some(path),
        }
    };
    let read = match (path("tls.ca"), path("tls.cert"), path("tls.key")) {
        (None, None, None) => return None,
        (Some(ca), None, None) => Tls::from_ca_file(ca).map_err(|error| ("tls.ca", error)),
        (Some(ca), Some(cert), Some(key)) => {
            Tls::from_files(ca, cert, key).map_err(|error| ("tls.cert", error))
        }
        (_, cert, key) => {
            let given = ["tls.cert", "tls.key"].into_iter().find_map(|name| merged.get(name));
            let missing = [("tls.ca", path("tls.ca")), ("tls.cert", cert), ("tls.key", key)];
            let missing =
                missing.into_iter().find(|(_, path)| path.is_none()).map_or("tls.ca", |(name, _)| name);
            if let Some(setting) = given {
                let cause = format!("{} is of no use without {missing}", setting.name());
                problems.push(Problem::new(cause, &setting.origin, format!("set {missing} too")));
            }
            return None;
        }
    };
    match read {
        Ok(tls) => Some(tls),
        Err((name, error)) => {
            let cause = format!("{}: {}", error.place(), error.cause());
            problems.push(Problem::new(cause, merged.origin(name), error.try_()));
            None
        }
    }
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
    let encrypted = merged.get("tls.ca").is_some();
    let beyond = listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = beyond.filter(|_| !encrypted && !merged.is_set("node.allow_plain_beyond_loopback"))
    {
        let cause = format!("{address} can be reached from other hosts, and links are not encrypted");
        let remedy = "listen at 127.0.0.1, give it a certificate in [tls], or allow it in words: \
                      --allow-plain-beyond-loopback, node.allow_plain_beyond_loopback = true";
        problems.push(Problem::new(cause, at(), remedy));
    }
}
