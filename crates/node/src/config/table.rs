//! The one table of keys: the reader, `busway config explain`, the flags of `busway up` and docs/config.md are made of it.
//!
//! It holds words and ranges only. What a key does is done where the configuration is used.
//!
//! Invariant: a default is a value of its kind; a name stands once.

use crate::config::value::{Kind, Value};

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name with its section: `node.index`. A part in capitals stands for a name that the user chooses.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What stands in its place where nobody sets it.
    pub unset: Unset,
    /// What its part in capitals is.
    pub instance: Instance,
    /// The variable that sets it.
    pub environment: Option<&'static str>,
    /// The flag of `busway up` that sets it.
    pub flag: Option<&'static str>,
    /// When a change has an effect.
    pub applies: Applies,
    /// What it does, for people.
    pub sentence: &'static str,
}

/// What holds where nobody has set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// A value, as the text of a variable has it.
    Value(&'static str),
    /// Nothing; in words, what is done then.
    Words(&'static str),
}

/// When a change has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At the next start.
    Start,
    /// At SIGHUP too.
    Reload,
}

/// What the part in capitals of a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// There is none.
    None,
    /// The index of a node.
    Node,
    /// The name of a client, or `node/INDEX`.
    Member,
    /// The place of a rule in a list of `[[...]]`, from 1.
    Rule,
}

impl Instance {
    pub(super) fn check(self, instance: &str) -> Result<(), String> {
        let sound = match self {
            Instance::Member => {
                let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '.';
                (1..=64).contains(&instance.len()) && instance.chars().all(plain)
            }
            Instance::None => instance.is_empty(),
            Instance::Rule => instance.parse::<u64>().is_ok_and(|place| place > 0),
            Instance::Node => {
                instance.parse::<u8>().is_ok_and(|index| index < 64 && index.to_string() == instance)
            }
        };
        let what = match self {
            Instance::Member => {
                "a member is named by 1 to 64 bytes without a space: a client's name, or node/INDEX"
            }
            Instance::None => "this key has no name below it",
            Instance::Rule => "a rule has no name",
            Instance::Node => "a node is named by its index, 0 to 63",
        };
        if sound { Ok(()) } else { Err(what.to_owned()) }
    }
}

const MIB: u64 = 1 << 20;

const FLOW_BYTES: Kind = Kind::Size { min: 64 << 10, max: 1_024 * MIB };
const FLOW_WORKERS: Kind = Kind::Count { min: 1, max: 16 };

/// A key of a flow that workers have.
const fn flow(name: &'static str, kind: Kind, unset: &'static str, sentence: &'static str) -> Key {
    Key {
        name,
        kind,
        unset: Unset::Value(unset),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence,
    }
}

/// Every key, in the order in which it is shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "domain",
        kind: Kind::Domain,
        unset: Unset::Value("default"),
        instance: Instance::None,
        environment: Some("BUSWAY_DOMAIN"),
        flag: Some("--domain"),
        applies: Applies::Start,
        sentence: "The domain whose programs the node serves; other commands are told it with --domain or BUSWAY_DOMAIN",
    },
    Key {
        name: "directory",
        kind: Kind::Path,
        unset: Unset::Words("$XDG_RUNTIME_DIR/busway, else /tmp/busway-UID"),
        instance: Instance::None,
        environment: Some("BUSWAY_DIR"),
        flag: None,
        applies: Applies::Start,
        sentence: "Where the socket and the lock of the domain lie; every program of the domain has the same in BUSWAY_DIR",
    },
    Key {
        name: "realm",
        kind: Kind::Text { bytes_max: 64 },
        unset: Unset::Words("our user alone"),
        instance: Instance::None,
        environment: Some("BUSWAY_REALM"),
        flag: Some("--realm"),
        applies: Applies::Start,
        sentence: "The group whose users may join, by name or number; it needs a directory that all of them use",
    },
    Key {
        name: "budget",
        kind: Kind::Size { min: 1, max: u64::MAX },
        unset: Unset::Words("a quarter of the machine's memory or of the cgroup's limit"),
        instance: Instance::None,
        environment: Some("BUSWAY_BUDGET"),
        flag: Some("--budget"),
        applies: Applies::Start,
        sentence: "Memory that all programs of the domain may take together, if the node is the first of them",
    },
    Key {
        name: "node.cluster",
        kind: Kind::Text { bytes_max: 255 },
        unset: Unset::Value("default"),
        instance: Instance::None,
        environment: Some("BUSWAY_CLUSTER"),
        flag: Some("--cluster"),
        applies: Applies::Start,
        sentence: "The name of the cluster, the same at all of its nodes",
    },
    Key {
        name: "node.index",
        kind: Kind::Count { min: 0, max: 63 },
        unset: Unset::Value("0"),
        instance: Instance::None,
        environment: Some("BUSWAY_INDEX"),
        flag: Some("--index"),
        applies: Applies::Start,
        sentence: "The index of this node in its cluster; the lower dials the higher",
    },
    Key {
        name: "node.client",
        kind: Kind::Count { min: 0, max: u64::MAX },
        unset: Unset::Words("this is a node"),
        instance: Instance::None,
        environment: Some("BUSWAY_CLIENT"),
        flag: Some("--client"),
        applies: Applies::Start,
        sentence: "Be a client of the cluster, not one of its nodes: by an id of your own choice below 2^63, or, with a certificate or a token, by that of its name, which busway cert new tells",
    },
    Key {
        name: "node.name",
        kind: Kind::Text { bytes_max: 64 },
        unset: Unset::Words("the kernel's name of this host"),
        instance: Instance::None,
        environment: Some("BUSWAY_NAME"),
        flag: Some("--name"),
        applies: Applies::Start,
        sentence: "What this node is called, for people",
    },
    Key {
        name: "node.listen",
        kind: Kind::Addresses,
        unset: Unset::Words("nobody can connect"),
        instance: Instance::None,
        environment: Some("BUSWAY_LISTEN"),
        flag: Some("--listen"),
        applies: Applies::Start,
        sentence: "Addresses where other hosts may connect; port 0 lets the kernel choose",
    },
    Key {
        name: "node.allow_plain_beyond_loopback",
        kind: Kind::Flag,
        unset: Unset::Value("false"),
        instance: Instance::None,
        environment: Some("BUSWAY_ALLOW_PLAIN_BEYOND_LOOPBACK"),
        flag: Some("--allow-plain-beyond-loopback"),
        applies: Applies::Start,
        sentence: "Links beyond this host may be neither encrypted nor authenticated: say that this is wanted",
    },
    Key {
        name: "node.token",
        kind: Kind::Secret { bytes_max: 1_024 },
        unset: Unset::Words("none is shown"),
        instance: Instance::None,
        environment: Some("BUSWAY_TOKEN"),
        flag: None,
        applies: Applies::Start,
        sentence: "The token that this member shows to whom it dials, in place of a certificate. Others must not be able to read the file",
    },
    Key {
        name: "peers.INDEX",
        kind: Kind::Endpoint,
        unset: Unset::Words("no other node is dialed"),
        instance: Instance::Node,
        environment: Some("BUSWAY_PEERS"),
        flag: Some("--peer"),
        applies: Applies::Reload,
        sentence: "Another node of the cluster, by its index: where it listens; the name is looked up at each attempt",
    },
    Key {
        name: "tls.ca",
        kind: Kind::Path,
        unset: Unset::Words("links are in clear"),
        instance: Instance::None,
        environment: Some("BUSWAY_TLS_CA"),
        flag: None,
        applies: Applies::Reload,
        sentence: "The certificate of the cluster's CA: links are encrypted, and a peer is who a certificate of this CA says. A path of the file is relative to the file",
    },
    Key {
        name: "tls.cert",
        kind: Kind::Path,
        unset: Unset::Words("none of our own"),
        instance: Instance::None,
        environment: Some("BUSWAY_TLS_CERT"),
        flag: None,
        applies: Applies::Reload,
        sentence: "The certificate of this node or client, with those between it and the CA",
    },
    Key {
        name: "tls.key",
        kind: Kind::Path,
        unset: Unset::Words("none of our own"),
        instance: Instance::None,
        environment: Some("BUSWAY_TLS_KEY"),
        flag: None,
        applies: Applies::Reload,
        sentence: "The key of that certificate; only its owner may read the file",
    },
    Key {
        name: "tokens.MEMBER",
        kind: Kind::Secret { bytes_max: 1_024 },
        unset: Unset::Words("members show certificates, or nothing"),
        instance: Instance::Member,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Who shows this token is the client of this name, or node/INDEX; then nobody is let in who shows neither a certificate nor a token, and over HTTP, where a change holds at SIGHUP too, nobody who shows no token. Others must not be able to read the file",
    },
    Key {
        name: "http.listen",
        kind: Kind::Addresses,
        unset: Unset::Words("no HTTP is served"),
        instance: Instance::None,
        environment: Some("BUSWAY_HTTP"),
        flag: Some("--http"),
        applies: Applies::Start,
        sentence: "Addresses where HTTP is served: publish, push, ask, subscribe, artifacts, health and metrics (docs/http.md); port 0 lets the kernel choose",
    },
    Key {
        name: "http.hosts",
        kind: Kind::Hosts,
        unset: Unset::Words("localhost, and the addresses where it listens"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Further names by which this node may be called in Host; a page of another name is refused, wherever that name leads",
    },
    Key {
        name: "http.origins",
        kind: Kind::Origins,
        unset: Unset::Words("pages of its own alone"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Origins of pages whose requests are served; those of others are refused",
    },
    Key {
        name: "http.allow_plain_beyond_loopback",
        kind: Kind::Flag,
        unset: Unset::Value("false"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "HTTP beyond this host may be read and changed on its way, tokens with it: say that this is wanted, behind a tunnel for one",
    },
    Key {
        name: "http.allow_anybody_beyond_loopback",
        kind: Kind::Flag,
        unset: Unset::Value("false"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "HTTP beyond this host may be used by everybody who can connect, where there are no tokens: say that this is wanted",
    },
    Key {
        name: "http.body_bytes_max",
        kind: Kind::Size { min: 1, max: 32 * MIB },
        unset: Unset::Value("1MiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of one body of a message or a request; more is refused with 413, and what has more is not given to readers, who are told",
    },
    Key {
        name: "http.streams_max",
        kind: Kind::Count { min: 1, max: 10_000 },
        unset: Unset::Value("128"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Streams of messages, by server-sent events or WebSocket, that may be open; one more is refused with 429",
    },
    Key {
        name: "http.connections_max",
        kind: Kind::Count { min: 1, max: 100_000 },
        unset: Unset::Value("512"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Connections that may be open, half of them from one address; one more is told 503, or 429 where its address has its share, and closed",
    },
    Key {
        name: "http.artifact_bytes_max",
        kind: Kind::Size { min: 1, max: 4_096 * MIB },
        unset: Unset::Value("256MiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of one artifact that is put; more is refused with 413",
    },
    Key {
        name: "http.artifacts_bytes",
        kind: Kind::Size { min: 1, max: 1_048_576 * MIB },
        unset: Unset::Value("512MiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of all artifacts that were put over HTTP and stand; more is refused with 507, as is what artifacts.store_bytes has no room for",
    },
    Key {
        name: "http.transfers_max",
        kind: Kind::Count { min: 1, max: 1_000 },
        unset: Unset::Value("16"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Artifacts that may be put or given at once; one more is refused with 429",
    },
    Key {
        name: "limits.clients_max",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        unset: Unset::Value("1000"),
        instance: Instance::None,
        environment: Some("BUSWAY_CLIENTS_MAX"),
        flag: None,
        applies: Applies::Reload,
        sentence: "Clients that may be linked at once; one more takes the place of the idlest",
    },
    Key {
        name: "limits.strangers_max",
        kind: Kind::Count { min: 1, max: 4_096 },
        unset: Unset::Value("64"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Connections that may not have said who they are; one more takes the place of the oldest, which is told so, or waits while all of them have only just come",
    },
    Key {
        name: "limits.strangers_of_address_max",
        kind: Kind::Count { min: 1, max: 4_096 },
        unset: Unset::Value("32"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Of those, the ones from one address beyond this host; one more takes the place of the oldest of them, or is refused and counted in busway peers while all of them have only just come. Of an IPv6 address the first 64 bits count",
    },
    Key {
        name: "limits.keep_alive_ms",
        kind: Kind::Count { min: 1_000, max: 600_000 },
        unset: Unset::Value("1000"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Milliseconds of silence after which a peer is asked whether it is there; after four times that without an answer its link is given up. More where links are many and mostly silent",
    },
    Key {
        name: "flows.bytes",
        kind: Kind::Size { min: 1 << 20, max: 1_024 * 1_024 * MIB },
        unset: Unset::Value("1GiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Reload,
        sentence: "Bytes that all peers together may have under way to this node, beyond what flows.floor gives each of them. A link is granted one eighth of what is left at most; busway flows shows it. A change holds for links made after it",
    },
    Key {
        name: "flows.floor.in_flight",
        kind: Kind::Count { min: 1, max: 65_536 },
        unset: Unset::Value("64"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Messages that each peer may have under way to this node, whatever the others have",
    },
    Key {
        name: "flows.floor.bytes",
        kind: Kind::Size { min: 16 << 10, max: 64 * MIB },
        unset: Unset::Value("256KiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of them",
    },
    Key {
        name: "flows.data.in_flight",
        kind: Kind::Count { min: 1, max: 65_536 },
        unset: Unset::Value("16384"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Reload,
        sentence: "Messages that each peer may have under way to this node, as far as flows.bytes goes round; past it the peer waits. What is published has rank 2, behind control and transport, which have rank 0 and are outside of all limits; what is larger than 8 KiB has rank 3. A change holds for links made after it",
    },
    Key {
        name: "flows.data.bytes",
        kind: Kind::Size { min: 64 << 10, max: 1_024 * MIB },
        unset: Unset::Value("32MiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Reload,
        sentence: "Bytes of them; a message that is larger goes alone. A change holds for links made after it",
    },
    Key {
        name: "flows.ingress.in_flight",
        kind: Kind::Count { min: 1, max: 65_536 },
        unset: Unset::Value("100"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Requests over HTTP that may be under way; one more is refused with 429 and Retry-After",
    },
    Key {
        name: "flows.ingress.bytes",
        kind: Kind::Size { min: 64 << 10, max: 1_024 * MIB },
        unset: Unset::Value("64MiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of their bodies; more is refused with 429",
    },
    flow(
        "flows.transport.in_flight",
        Kind::Count { min: 1, max: 10_000_000 },
        "1000",
        "Links of peers that begin and end and have not been told to the artifacts of this node, or are being taken in, of all peers beyond flows.floor. Where any key of flows.transport, flows.advert, flows.request, flows.chunk or flows.retransmission is set, what peers say about artifacts goes through flows with workers, and busway flows and the metrics show them; where none is, one thread takes it in as it comes, which is faster, and the window of each link bounds it",
    ),
    flow(
        "flows.transport.bytes",
        FLOW_BYTES,
        "16MiB",
        "Bytes of memory that they take; one that takes more goes alone",
    ),
    flow(
        "flows.transport.workers",
        FLOW_WORKERS,
        "1",
        "Threads that take them in, bw-transport-0 and so on: of each peer one at a time",
    ),
    flow(
        "flows.transport.when_full",
        Kind::Choice { of: &["wait"] },
        "wait",
        "What becomes of one that finds no room: it waits",
    ),
    flow(
        "flows.advert.in_flight",
        Kind::Count { min: 1, max: 10_000_000 },
        "100000",
        "Words of peers about who has what that wait for the artifacts of this node, or are being taken in, of all peers beyond flows.floor",
    ),
    flow(
        "flows.advert.bytes",
        FLOW_BYTES,
        "64MiB",
        "Bytes of memory that they take; one that takes more goes alone",
    ),
    flow(
        "flows.advert.workers",
        FLOW_WORKERS,
        "1",
        "Threads that take them in, bw-advert-0 and so on: of each peer one at a time",
    ),
    flow(
        "flows.advert.when_full",
        Kind::Choice { of: &["coalesce"] },
        "coalesce",
        "What becomes of one that finds no room: it takes the place of those that it makes worthless, which are counted, and waits where there are none. It cannot be dropped: later ones build on it",
    ),
    flow(
        "flows.request.in_flight",
        Kind::Count { min: 1, max: 10_000_000 },
        "100",
        "Requests of peers for pieces, and their ends, that wait for the artifacts of this node, or are being taken in, of all peers beyond flows.floor",
    ),
    flow(
        "flows.request.bytes",
        FLOW_BYTES,
        "1MiB",
        "Bytes of memory that they take; one that takes more goes alone",
    ),
    flow(
        "flows.request.workers",
        FLOW_WORKERS,
        "1",
        "Threads that take them in, bw-request-0 and so on: of each peer one at a time",
    ),
    flow(
        "flows.request.when_full",
        Kind::Choice { of: &["wait", "drop"] },
        "wait",
        "What becomes of one that finds no room: it waits, and its link bounds what waits, or, where it asks for something, is dropped, counted, and answered as not found, of up to 64 at a time: who asked asks elsewhere, or for less at a time after half a second",
    ),
    flow(
        "flows.chunk.in_flight",
        Kind::Count { min: 1, max: 10_000_000 },
        "100",
        "Pieces that wait for the artifacts of this node, or are being taken in, of all peers beyond flows.floor",
    ),
    flow(
        "flows.chunk.bytes",
        FLOW_BYTES,
        "256MiB",
        "Bytes of memory that they take; one that takes more goes alone",
    ),
    flow(
        "flows.chunk.workers",
        FLOW_WORKERS,
        "1",
        "Threads that take them in, bw-chunk-0 and so on: of each peer one at a time",
    ),
    flow(
        "flows.chunk.when_full",
        Kind::Choice { of: &["wait"] },
        "wait",
        "What becomes of one that finds no room: it waits, and its link bounds what waits. It cannot be dropped: who gave it would be taken for a liar",
    ),
    flow(
        "flows.retransmission.in_flight",
        Kind::Count { min: 1, max: 10_000_000 },
        "1000",
        "Words of peers about how far they know this node that wait for the artifacts of this node, or are being taken in, of all peers beyond flows.floor",
    ),
    flow(
        "flows.retransmission.bytes",
        FLOW_BYTES,
        "64MiB",
        "Bytes of memory that they take; one that takes more goes alone",
    ),
    flow(
        "flows.retransmission.workers",
        FLOW_WORKERS,
        "1",
        "Threads that take them in, bw-retransmission-0 and so on: of each peer one at a time",
    ),
    flow(
        "flows.retransmission.when_full",
        Kind::Choice { of: &["coalesce"] },
        "coalesce",
        "What becomes of one that finds no room: it takes the place of those that it makes worthless, which are counted, and waits where there are none. It cannot be dropped: later ones build on it",
    ),
    Key {
        name: "artifacts.store",
        kind: Kind::Path,
        unset: Unset::Words("in memory, as \"memory\" says"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "The directory of artifacts that come in pieces, which no other node has: what is there when the node is killed is not fetched again. It is made where it is not there, its parent is not",
    },
    Key {
        name: "artifacts.store_bytes",
        kind: Kind::Size { min: MIB, max: 1_024 * 1_024 * MIB },
        unset: Unset::Value("1GiB"),
        instance: Instance::None,
        environment: None,
        flag: None,
        applies: Applies::Start,
        sentence: "Bytes of them. What this node offers or wants stays; of what else is there the oldest goes first, when there is no room",
    },
    Key {
        kind: Kind::Identity,
        sentence: "To whom this rule of [[acl]] applies: who a certificate or a token names, or, without them, a client by its id. Where there is any rule, what none allows is denied",
        ..rule("acl.RULE.identity", "each rule names somebody")
    },
    Key { sentence: "What they may publish to this host", ..rule("acl.RULE.publish", "nothing") },
    Key { sentence: "What they may get from this host", ..rule("acl.RULE.subscribe", "nothing") },
    Key {
        sentence: "What they may neither publish nor push nor ask, whatever else allows it",
        ..rule("acl.RULE.deny_publish", "nothing more")
    },
    Key {
        sentence: "What they may neither get nor pull nor answer, whatever else allows it",
        ..rule("acl.RULE.deny_subscribe", "nothing more")
    },
    Key {
        sentence: "Of what they may give tasks to pullers of this host; [] is nothing",
        ..rule("acl.RULE.push", "what publish of the rule says")
    },
    Key {
        sentence: "About what they may ask responders of this host; [] is nothing",
        ..rule("acl.RULE.request", "what publish of the rule says")
    },
    Key {
        sentence: "Of what they may take tasks of this host, which nobody else then does; [] is nothing",
        ..rule("acl.RULE.pull", "what subscribe of the rule says")
    },
    Key {
        sentence: "About what they may answer requests of this host; [] is nothing",
        ..rule("acl.RULE.answer", "what subscribe of the rule says")
    },
];

/// A key of one rule of a list.
const fn rule(name: &'static str, unset: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Patterns,
        unset: Unset::Words(unset),
        instance: Instance::Rule,
        environment: None,
        flag: None,
        applies: Applies::Reload,
        sentence: "",
    }
}

impl Key {
    /// The value that it has where nobody sets it.
    #[must_use]
    pub fn default_value(&self) -> Option<Value> {
        match self.unset {
            Unset::Value(text) => Some(self.kind.read(text).expect("a default is a value of its kind")),
            Unset::Words(_) => None,
        }
    }

    /// The name, with `instance` in the place of its part in capitals.
    #[must_use]
    pub fn name_of(&self, instance: &str) -> String {
        let parts = self.name.split('.').map(|part| if is_variable(part) { instance } else { part });
        parts.collect::<Vec<&str>>().join(".")
    }

    /// Its place in the table.
    pub(super) fn place(&'static self) -> usize {
        KEYS.iter().position(|key| key.name == self.name).expect("it is of the table")
    }

    /// Whether `path` names it, and with which instance.
    pub(super) fn matches(&self, path: &[String]) -> Option<String> {
        let parts: Vec<&str> = self.name.split('.').collect();
        let same = |(part, given): (&&str, &String)| is_variable(part) || part == given;
        if parts.len() != path.len() || !parts.iter().zip(path).all(same) {
            return None;
        }
        let instance = parts.iter().zip(path).find(|(part, _)| is_variable(part));
        Some(instance.map(|(_, given)| given.clone()).unwrap_or_default())
    }
}

fn is_variable(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_uppercase())
}

/// The key of this name, as the table has it.
#[must_use]
pub(super) fn exact(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that a user means by `name`: `peers.1` is `peers.INDEX`, `acl.publish` is `acl.RULE.publish`.
pub(super) fn meant(name: &str) -> Option<&'static Key> {
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    let plain = |key: &Key| key.instance == Instance::Rule && key.name.replace("RULE.", "") == name;
    KEYS.iter().find(|key| key.name == name || key.matches(&path).is_some() || plain(key))
}

/// Whether this path is a list of rules.
pub(super) fn is_list(path: &[String]) -> bool {
    let below = |key: &&Key| key.instance == Instance::Rule && key.name.split('.').next() == Some(&path[0]);
    path.len() == 1 && KEYS.iter().any(|key| below(&key))
}

/// Whether keys stand below this path.
pub(super) fn is_section(path: &[String]) -> bool {
    KEYS.iter().any(|key| {
        let parts: Vec<&str> = key.name.split('.').collect();
        parts.len() > path.len()
            && parts.iter().zip(path).all(|(part, given)| is_variable(part) || part == given)
    })
}

/// The names that may stand in the section `path`, to suggest one.
pub(super) fn names_in(path: &[String]) -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| {
            let mut parts = key.name.split('.');
            let same =
                path.iter().all(|given| parts.next().is_some_and(|part| is_variable(part) || part == given));
            if same { parts.next() } else { None }
        })
        .collect();
    names.dedup();
    names
}
