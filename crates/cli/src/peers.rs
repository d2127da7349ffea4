//! `busway peers`: the links of this host, as its node publishes them.

use std::time::Duration;

use busway::{PEERS_TOPIC, Pattern, PeerStatus, Topic};
use serde::de::DeserializeOwned;

use crate::duration;
use crate::exit::{CommandCode, Exit, Failure};
use crate::session::Context;

/// A node says how its links are every second.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the node of this domain has said last on one of its topics.
pub(crate) fn said<T: DeserializeOwned>(
    topic: &str,
    name: &str,
    context: &Context<'_>,
) -> Result<Vec<T>, Failure> {
    let bus = context.join(name)?;
    let topic = Topic::reserved(topic).map_err(busway::Error::from)?;
    let mut subscriber = bus.subscriber_of(Pattern::Exact(topic)).history(1).open()?;
    let found = subscriber.recv_timeout(PATIENCE).map_err(busway::Error::from)?;
    let said = found.map(|sample| sample.json::<Vec<T>>()).transpose()?;
    drop(subscriber);
    bus.close();
    said.ok_or_else(|| {
        Failure::new(
            CommandCode::NothingMatched,
            "no node runs in this domain".to_owned(),
            format!("domain {}", context.global.domain()),
            "busway up --listen 127.0.0.1:4420, or another --domain",
        )
    })
}

pub(crate) fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let peers: Vec<PeerStatus> = said(PEERS_TOPIC, "busway-peers", context)?;
    if context.output.json() {
        for peer in &peers {
            context.output.object(peer)?;
        }
        return Ok(Exit::Done);
    }
    if peers.is_empty() {
        context.output.note(format_args!("no peers yet"));
        return Ok(Exit::Done);
    }
    let width = |text: fn(&PeerStatus) -> usize| peers.iter().map(text).max().unwrap_or(0).max(7);
    let (peer_width, address_width) =
        (width(|peer| peer.peer.chars().count()), width(|peer| peer.address.chars().count()));
    context.output.line(format_args!(
        "{:peer_width$}  {:address_width$}  {:<11}  {:>8}  {:>12}  {:>12}  {:>6}  {}",
        "PEER", "ADDRESS", "STATE", "SINCE", "IN", "OUT", "DENIED", "LAST ERROR"
    ))?;
    for peer in &peers {
        context.output.line(format_args!(
            "{:peer_width$}  {:address_width$}  {:<11}  {:>8}  {:>12}  {:>12}  {:>6}  {}",
            peer.peer,
            peer.address,
            peer.state,
            duration::show(Duration::from_secs(peer.age_ms / 1000)),
            peer.messages_in,
            peer.messages_out,
            peer.denied,
            peer.last_error.as_deref().unwrap_or("-").escape_debug()
        ))?;
    }
    Ok(Exit::Done)
}
