//! `busway artifacts`: what the node of this host knows of, and taking back what it offers.

use busway::artifacts::{Advert, Artifacts, Listed};
use serde::Serialize;

use crate::command::{ArtifactsCommand, ArtifactsInfoArgs, ArtifactsLsArgs, ArtifactsRmArgs};
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::{self, Context};

/// Digits of an id, at least, by which one is named: fewer are a topic.
const DIGITS_MIN: usize = 8;

/// What an argument names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An id, or the beginning of one.
    Id(String),
    /// A topic or a pattern.
    Topic(String),
}

impl Wanted {
    pub(crate) fn parse(text: &str) -> Self {
        let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hex && (DIGITS_MIN..=64).contains(&text.len()) {
            Self::Id(text.to_owned())
        } else {
            Self::Topic(text.to_owned())
        }
    }

    pub(crate) fn is(&self, advert: &Advert) -> bool {
        match self {
            Self::Id(prefix) => advert.id().to_string().starts_with(prefix),
            Self::Topic(topic) => advert.topic() == topic,
        }
    }
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    topic: &'a str,
    id: String,
    size: u64,
    node: u8,
    attribute: String,
    here: bool,
    own: bool,
}

/// What its origin says of it beside, as text.
pub(crate) fn attribute(advert: &Advert) -> String {
    String::from_utf8_lossy(advert.attribute()).escape_debug().to_string()
}

fn row(listed: &Listed) -> Row<'_> {
    let advert = &listed.advert;
    Row {
        topic: advert.topic(),
        id: advert.id().to_string(),
        size: advert.size(),
        node: advert.node(),
        attribute: attribute(advert),
        here: listed.here,
        own: listed.own,
    }
}

pub(crate) fn run(which: &ArtifactsCommand, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let pattern = match which {
        ArtifactsCommand::Ls(ArtifactsLsArgs { pattern: Some(pattern) }) => {
            session::pattern(pattern).map(|_| pattern.as_str())?
        }
        ArtifactsCommand::Ls(_) | ArtifactsCommand::Info(_) | ArtifactsCommand::Rm(_) => ">",
    };
    let bus = context.join("busway-artifacts")?;
    let artifacts = bus.artifacts(pattern)?;
    match which {
        ArtifactsCommand::Ls(_) => ls(&artifacts, context)?,
        ArtifactsCommand::Info(args) => info(&artifacts, args, context)?,
        ArtifactsCommand::Rm(args) => rm(&artifacts, args, context)?,
    }
    bus.close();
    Ok(Exit::Done)
}

fn ls(artifacts: &Artifacts, context: &mut Context<'_>) -> Result<(), Failure> {
    let listed = artifacts.list()?;
    if context.output.json() {
        return listed.iter().try_for_each(|listed| context.output.object(&row(listed)));
    }
    if listed.is_empty() {
        context.output.note(format_args!("no artifacts"));
        return Ok(());
    }
    let width = listed.iter().map(|listed| listed.advert.topic().chars().count()).max().unwrap_or(0).max(5);
    context.output.line(format_args!(
        "{:64}  {:width$}  {:>10}  {:>4}  {:5}  {}",
        "ID", "TOPIC", "SIZE", "NODE", "BYTES", "ATTRIBUTE"
    ))?;
    for listed in &listed {
        let row = row(listed);
        context.output.line(format_args!(
            "{:64}  {:width$}  {:>10}  {:>4}  {:5}  {}",
            row.id,
            row.topic,
            row.size,
            row.node,
            place(listed),
            row.attribute
        ))?;
    }
    Ok(())
}

/// Where its bytes are, in a word.
fn place(listed: &Listed) -> &'static str {
    match (listed.own, listed.here) {
        (true, _) => "own",
        (false, true) => "here",
        (false, false) => "away",
    }
}

#[derive(Debug, Serialize)]
struct Counted {
    told: u64,
    handled: u64,
    coalesced: u64,
    dropped: u64,
    denied: u64,
    said: u64,
    bytes_useful: u64,
    bytes_wasted: u64,
    bytes_given: u64,
    damaged: u64,
    full: u64,
    stored_bytes: u64,
    waiting: u64,
    refused: u64,
}

fn info(artifacts: &Artifacts, args: &ArtifactsInfoArgs, context: &mut Context<'_>) -> Result<(), Failure> {
    let Some(what) = &args.what else { return counted(artifacts, context) };
    for listed in found(artifacts, what)? {
        let row = row(&listed);
        if context.output.json() {
            context.output.object(&row)?;
            continue;
        }
        for (name, value) in [
            ("id", row.id),
            ("topic", row.topic.to_owned()),
            ("size", row.size.to_string()),
            ("node", row.node.to_string()),
            ("bytes", place(&listed).to_owned()),
            ("attribute", row.attribute),
        ] {
            context.output.line(format_args!("{name:10}  {value}"))?;
        }
    }
    Ok(())
}

fn counted(artifacts: &Artifacts, context: &mut Context<'_>) -> Result<(), Failure> {
    let counts = artifacts.try_counts()?;
    let counted = Counted {
        told: counts.told,
        handled: counts.handled,
        coalesced: counts.coalesced,
        dropped: counts.dropped.iter().sum(),
        denied: counts.denied,
        said: counts.said,
        bytes_useful: counts.bytes_useful,
        bytes_wasted: counts.bytes_wasted,
        bytes_given: counts.bytes_given,
        damaged: counts.damaged,
        full: counts.full,
        stored_bytes: counts.stored_bytes,
        waiting: counts.waiting,
        refused: counts.refused,
    };
    if context.output.json() {
        return context.output.object(&counted);
    }
    for (name, count) in [
        ("changes told", counted.told),
        ("handled", counted.handled),
        ("coalesced", counted.coalesced),
        ("dropped", counted.dropped),
        ("denied", counted.denied),
        ("changes said", counted.said),
        ("bytes useful", counted.bytes_useful),
        ("bytes wasted", counted.bytes_wasted),
        ("bytes given", counted.bytes_given),
        ("damaged", counted.damaged),
        ("full", counted.full),
        ("stored bytes", counted.stored_bytes),
        ("waiting", counted.waiting),
        ("refused", counted.refused),
    ] {
        context.output.line(format_args!("{name:12}  {count:>14}"))?;
    }
    Ok(())
}

fn rm(artifacts: &Artifacts, args: &ArtifactsRmArgs, context: &mut Context<'_>) -> Result<(), Failure> {
    let own: Vec<Listed> = found(artifacts, &args.what)?.into_iter().filter(|listed| listed.own).collect();
    if own.is_empty() {
        return Err(Failure::new(
            CommandCode::NothingMatched,
            "others offer it, and this node does not",
            &*args.what,
            "the same at the host of its NODE: busway artifacts ls",
        ));
    }
    let (mut removed, mut ids) = (0, std::collections::BTreeSet::new());
    for listed in own {
        if ids.insert(listed.advert.id()) {
            removed += artifacts.remove(listed.advert.id())?;
        }
    }
    context.output.note(format_args!("removed {removed}"));
    Ok(())
}

fn found(artifacts: &Artifacts, what: &str) -> Result<Vec<Listed>, Failure> {
    let wanted = Wanted::parse(what);
    let listed: Vec<Listed> =
        artifacts.list()?.into_iter().filter(|listed| wanted.is(&listed.advert)).collect();
    if listed.is_empty() { Err(nothing(what)) } else { Ok(listed) }
}

fn nothing(what: &str) -> Failure {
    Failure::new(CommandCode::NothingMatched, "no artifact has this id or topic", what, "busway artifacts ls")
}
