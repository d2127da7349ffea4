//! How the links are, published at each change and once a second for whoever asks.
//!
//! Any program may subscribe to [`PEERS_TOPIC`]; `busway peers` does. The topic is reserved and stays on its host.
//!
//! Invariant: what is published is at most a second old while the node runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_protocol::flow::Flow;
use busway_protocol::{Passing, PeerId, Traffic};
use busway_shm::arena::OwnArena;
use busway_shm::clock::Deadline;
use busway_shm::counters::Event;
use busway_wire::{Cause, Topic};
use serde::{Deserialize, Serialize};

use crate::artifacts::{EVENT_FLOWS, Workers};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::node::{LinkState, PeerView};
use crate::publisher::Publisher;
use crate::runtime::Hub;

/// Where a node says how its links are: a JSON array of [`PeerStatus`].
pub const PEERS_TOPIC: &str = "$bus.peers";

/// Where a node says what is under way on its links: a JSON array of [`FlowStatus`], once a second.
pub const FLOWS_TOPIC: &str = "$bus.flows";

const PERIOD: Duration = Duration::from_secs(1);
/// Changes within this time are told together.
const SETTLE: Duration = Duration::from_millis(10);

/// One peer of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who it is: `node 1`, `client 000000000000002a`.
    pub peer: String,
    /// Its name, if it has said it.
    pub name: String,
    /// Where it is dialed, or from where it came.
    pub address: String,
    /// `waiting`, `connecting`, `handshaking`, `connected`, `draining` or `closed`.
    pub state: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
    /// Why the last link ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// How often a source was denied by one end to the other; of a stranger, how often one from there was not let in.
    #[serde(default)]
    pub denied: u64,
    /// Messages received over this link.
    pub messages_in: u64,
    /// Messages sent over this link.
    pub messages_out: u64,
    /// Bytes received over this link.
    pub bytes_in: u64,
    /// Bytes sent over this link.
    pub bytes_out: u64,
    /// The last round trip that was measured, in nanoseconds.
    pub round_trip_ns: Option<u64>,
}

impl From<PeerView> for PeerStatus {
    fn from(view: PeerView) -> Self {
        let whole = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            peer: view.peer,
            name: view.name,
            address: view.address,
            state: state(view.state).to_owned(),
            age_ms: whole(view.age) / 1_000_000,
            last_error: view.last_error,
            denied: view.denied,
            messages_in: view.messages_in,
            messages_out: view.messages_out,
            bytes_in: view.bytes_in,
            bytes_out: view.bytes_out,
            round_trip_ns: view.round_trip.map(whole),
        }
    }
}

fn state(state: LinkState) -> &'static str {
    match state {
        LinkState::Waiting => "waiting",
        LinkState::Connecting => "connecting",
        LinkState::Handshaking => "handshaking",
        LinkState::Connected => "connected",
        LinkState::Draining => "draining",
        LinkState::Closed => "closed",
    }
}

/// One flow of one peer in one direction; or, where what peers say about artifacts has workers, one of their flows, of all peers together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Who it is, as [`PeerStatus`] has it; `all peers` for a flow that has workers.
    pub peer: String,
    /// The class of traffic: `data` is what is published, `control` are frames of the link itself, `transport` those of
    /// peers that come and go.
    pub flow: String,
    /// What goes first on a link: 0 before 1.
    #[serde(default)]
    pub rank: u8,
    /// `in`: from the peer to us; `out`: from us to the peer.
    pub direction: String,
    /// Messages that may be under way; 0 for what is outside of all credit.
    pub limit_messages: u64,
    /// Bytes that may be.
    pub limit_bytes: u64,
    /// Messages that are.
    pub in_use_messages: u64,
    /// Bytes that are.
    pub in_use_bytes: u64,
    /// Messages that came or went over the present link.
    pub handled: u64,
    /// `in`: messages that waited for a subscriber, or for workers; `out`: times that the peer or the connection made all sources wait.
    pub waited: u64,
    /// Messages that were dropped, or lost and told so, by cause; those of which there are none are left out. Of a flow that has workers: `flow_full`, and `coalesced` where a newer one made them worthless.
    pub dropped: BTreeMap<String, u64>,
    /// `in`, of `data`: nanoseconds in which what came was put into its place; of a flow that has workers, in its handler.
    #[serde(default)]
    pub handler_ns: u64,
}

impl FlowStatus {
    fn new(peer: PeerId, flow: Flow, direction: &str, traffic: &Traffic) -> Self {
        let dropped = Cause::ALL.iter().filter_map(|cause| {
            let count = traffic.dropped.get(cause.index()).copied().filter(|count| *count > 0)?;
            Some((cause.name().to_owned(), count))
        });
        Self {
            peer: peer.to_string(),
            flow: flow.name().to_owned(),
            rank: flow.rank(),
            direction: direction.to_owned(),
            limit_messages: traffic.limit.messages,
            limit_bytes: traffic.limit.bytes,
            in_use_messages: traffic.in_use.messages,
            in_use_bytes: traffic.in_use.bytes,
            handled: traffic.handled,
            waited: traffic.waited,
            dropped: dropped.collect(),
            handler_ns: traffic.handler_ns,
        }
    }
}

/// One that workers have, whoever it came from.
fn of_workers(workers: &Workers, flow: Flow) -> Option<FlowStatus> {
    let (rule, in_use, counts) = workers.usage(flow)?;
    let dropped = [("flow_full", counts.dropped_full), ("coalesced", counts.coalesced)];
    let dropped = dropped.into_iter().filter(|(_, count)| *count > 0);
    Some(FlowStatus {
        peer: "all peers".to_owned(),
        flow: flow.name().to_owned(),
        rank: flow.rank(),
        direction: "in".to_owned(),
        limit_messages: rule.limit.messages,
        limit_bytes: rule.limit.bytes,
        in_use_messages: in_use.messages,
        in_use_bytes: in_use.bytes,
        handled: counts.handled,
        waited: counts.waited,
        dropped: dropped.map(|(cause, count)| (cause.to_owned(), count)).collect(),
        handler_ns: counts.handler_ns,
    })
}

/// Publishes until it is dropped.
#[derive(Debug)]
pub(crate) struct Reporter {
    hub: Arc<Hub>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    pub(crate) fn start(hub: Arc<Hub>, bus: &Bus) -> Result<Self, Error> {
        let topic = Topic::reserved(PEERS_TOPIC).map_err(Error::from)?;
        let publisher = bus.publisher_of(topic).slots_max(32).history(1).open_reserved()?;
        let flows = Topic::reserved(FLOWS_TOPIC).map_err(Error::from)?;
        let flows = bus.publisher_of(flows).slots_max(32).history(1).open_reserved()?;
        let (stop, stopped) = mpsc::channel();
        let (kept, own) = (hub.clone(), bus.core.own.clone());
        let thread = std::thread::Builder::new().name("bw-status".to_owned()).spawn(move || {
            let (mut publisher, mut flows) = (publisher, flows);
            let mut seen = 0;
            let mut told = None::<Deadline>;
            loop {
                report(&hub, &mut publisher, &own);
                // They change with every message, so that only the clock says when.
                if told.is_none_or(|told| told.remaining().is_some_and(|left| left.is_zero())) {
                    report_flows(&hub, &mut flows);
                    told = Some(Deadline::after(PERIOD));
                }
                seen = hub.wait_for_change(seen, PERIOD);
                // A thousand clients that come at once are told of together.
                match stopped.recv_timeout(SETTLE) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                        own.set_level(Event::Links, 0);
                        return;
                    }
                }
            }
        });
        let thread = thread.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-status")
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        Ok(Self { hub: kept, stop: Some(stop), thread: Some(thread) })
    }
}

fn report(hub: &Hub, publisher: &mut Publisher, own: &OwnArena) {
    let peers: Vec<PeerView> = hub.peers();
    let stand = peers.iter().filter(|peer| matches!(peer.state, LinkState::Connected | LinkState::Draining));
    own.set_level(Event::Links, stand.count() as u64);
    let peers: Vec<PeerStatus> = peers.into_iter().map(PeerStatus::from).collect();
    if let Err(error) = publisher.send_json(&peers) {
        tracing::debug!(target: "busway::link", "cannot say how the links are: {error}");
    }
}

fn report_flows(hub: &Hub, publisher: &mut Publisher) {
    let of = |peer: PeerId, Passing { flow, from, to }: Passing| {
        [FlowStatus::new(peer, flow, "in", &from), FlowStatus::new(peer, flow, "out", &to)]
    };
    let all = hub.traffic().into_iter();
    let all = all.flat_map(|(peer, passing)| passing.into_iter().flat_map(move |one| of(peer, one)));
    let workers = hub.workers().into_iter();
    let told =
        workers.flat_map(|workers| EVENT_FLOWS.into_iter().filter_map(|flow| of_workers(workers, flow)));
    let flows: Vec<FlowStatus> = all.chain(told).collect();
    if let Err(error) = publisher.send_json(&flows) {
        tracing::debug!(target: "busway::link", "cannot say what is under way: {error}");
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.hub.nudge();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}
