//! The bus as Python sees it: where a program joins a domain.
//!
//! Invariant: joining, opening ports and leaving let the interpreter go; they may take seconds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use busway::{Clock, Error, Gating, Policy, Realm, SharedNode};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::to_string;

use crate::artifacts::Artifacts;
use crate::failure::{OrRaise, inherited};
use crate::log::Told;
use crate::node::{self, Node, Wanted, peers_of};
use crate::number::Number;
use crate::publisher::Publisher;
use crate::puller::Puller;
use crate::pusher::Pusher;
use crate::requester::Requester;
use crate::responder::Responder;
use crate::sender::or_endless;
use crate::subscriber::Subscriber;

/// A process's name on the bus is no longer.
const NAME_BYTES_MAX: usize = 64;

/// A membership in a domain: the way to publishers and subscribers.
///
/// `with busway.Bus("shop") as bus:` leaves the domain at the end of the block.
#[pyclass(frozen, weakref, subclass, module = "busway")]
pub(crate) struct Bus {
    bus: busway::Bus,
    /// They end before it does, whether the program remembers them or not.
    nodes: Mutex<Vec<Weak<Mutex<Option<SharedNode>>>>>,
    /// What the Rust side says is told as long as it is open.
    told: Mutex<Option<Told>>,
}

/// What serde writes, as Python's dicts, lists and numbers.
pub(crate) fn as_dict<'py>(py: Python<'py>, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text =
        to_string(value).map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// The name of the program as Python knows it: its script, not the interpreter. An interpreter inside of another program
/// need not have one, and not every name is text.
fn program(py: Python<'_>) -> String {
    let script = || py.import("sys")?.getattr("argv")?.get_item(0)?.extract::<String>();
    let script = script().unwrap_or_default();
    let stem = std::path::Path::new(&script).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut name: String = stem.unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    if name.is_empty() || name.starts_with('-') { "python".to_owned() } else { name }
}

#[pymethods]
impl Bus {
    /// Joins `domain`. Where nobody is, this process holds the rendezvous until it leaves.
    #[new]
    #[pyo3(signature = (domain = "default", *, directory = None, name = None, timeout = 5.0, group = None, budget = None,
        arena_bytes = None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords where they are given")]
    fn new(
        py: Python<'_>,
        domain: &str,
        directory: Option<std::path::PathBuf>,
        name: Option<&str>,
        timeout: f64,
        group: Option<&str>,
        budget: Option<Number<u64>>,
        arena_bytes: Option<Number<u64>>,
    ) -> PyResult<Self> {
        let name = name.map_or_else(|| program(py), str::to_owned);
        let mut builder = busway::Bus::builder()
            .domain(domain)
            .name(&name)
            .timeout(or_endless(Some(timeout)).or_raise(py)?);
        if let Some(directory) = directory {
            builder = builder.directory(directory);
        }
        if let Some(group) = group {
            builder = builder.realm(Realm::group(group).or_raise(py)?);
        }
        if let Some(Number(bytes)) = budget {
            builder = builder.budget(bytes);
        }
        if let Some(Number(bytes)) = arena_bytes {
            builder = builder.arena_bytes(bytes);
        }
        // Before it: what goes wrong while it joins is told too.
        let told = Told::new(py);
        let bus = py.detach(|| builder.open()).or_raise(py)?;
        Ok(Self { bus, nodes: Mutex::default(), told: Mutex::new(Some(told)) })
    }

    /// A publisher of `topic`.
    ///
    /// `slots_max` and `bytes_max` bound its ring; `history` messages are kept for late joiners that ask for some;
    /// `history_for` seconds of them as well. What is sent before anybody subscribes waits for the first subscriber for
    /// `late_join` seconds, and then is counted as `no_subscriber`. `max_wait` is how many seconds one subscriber may make it wait in one
    /// piece; with `gating=False` nobody may. One that is waited for may be `behind_max` messages behind, exactly.
    // The text, here and below, for a default of ours that Python does not show.
    #[pyo3(signature = (topic, *, slots_max = None, bytes_max = None, history = Number(0), max_wait = 1.0, gating = true,
        exact_time = false, late_join = 0.0, history_for = None, behind_max = None), text_signature = "($self, topic, *, \
        slots_max=None, bytes_max=None, history=0, max_wait=1.0, gating=True, exact_time=False, late_join=0.0, \
        history_for=None, behind_max=None)")]
    #[expect(clippy::too_many_arguments, reason = "they are keywords where they are given")]
    fn publisher(
        &self,
        py: Python<'_>,
        topic: &str,
        slots_max: Option<Number<u32>>,
        bytes_max: Option<Number<u64>>,
        history: Number<u32>,
        max_wait: f64,
        gating: bool,
        exact_time: bool,
        late_join: f64,
        history_for: Option<f64>,
        behind_max: Option<Number<u32>>,
    ) -> PyResult<Py<Publisher>> {
        let mut builder = self
            .bus
            .publisher(topic)
            .history(history.0)
            .late_join(or_endless(Some(late_join)).or_raise(py)?)
            .max_wait(or_endless(Some(max_wait)).or_raise(py)?)
            .gating(if gating { Gating::Allowed } else { Gating::Refused })
            .clock(if exact_time { Clock::Exact } else { Clock::Coarse });
        if let Some(Number(slots)) = slots_max {
            builder = builder.slots_max(slots);
        }
        if let Some(seconds) = history_for {
            builder = builder.history_for(or_endless(Some(seconds)).or_raise(py)?);
        }
        if let Some(Number(bytes)) = bytes_max {
            builder = builder.bytes_max(bytes);
        }
        if let Some(Number(messages)) = behind_max {
            builder = builder.behind_max(messages);
        }
        let publisher = py.detach(|| builder.open()).or_raise(py)?;
        Publisher::of(py, publisher, self.bus.clone())
    }

    /// A subscriber of all topics that `pattern` matches: `price.tick`, `price.*`, `price.>`, `^pri`.
    ///
    /// `policy` says what happens when it is slow: `drop-oldest[:N]`, `keep-latest`, `drop-newest:N`, `block`, `fail`,
    /// `evict`. `history` messages from before are read where they still are; `holds` samples of one publisher may be held.
    /// With `drop_duplicates` a message whose id is among the last so many that came is counted as `duplicate` and not received.
    #[pyo3(signature = (pattern, *, policy = "drop-oldest", history = Number(0), holds = Number(15), drop_duplicates = None),
        text_signature = "($self, pattern, *, policy='drop-oldest', history=0, holds=15, drop_duplicates=None)")]
    fn subscriber(
        &self,
        py: Python<'_>,
        pattern: &str,
        policy: &str,
        history: Number<u64>,
        holds: Number<u32>,
        drop_duplicates: Option<Number<u32>>,
    ) -> PyResult<Subscriber> {
        let policy: Policy = policy.parse::<Policy>().map_err(Error::from).or_raise(py)?;
        let mut builder = self.bus.subscriber(pattern).policy(policy).history(history.0).holds(holds.0);
        if let Some(Number(ids)) = drop_duplicates {
            builder = builder.drop_duplicates(ids);
        }
        let subscriber = py.detach(|| builder.open()).or_raise(py)?;
        Ok(Subscriber::new(subscriber, self.bus.clone()))
    }

    /// A pusher of `topic`: each message goes to one puller of each group.
    ///
    /// `slots_max` and `bytes_max` bound its ring; a full one makes it wait `max_wait` seconds before a message is refused, and
    /// waits `late_join` seconds for the first puller of a group before the oldest messages give way.
    #[pyo3(signature = (topic, *, slots_max = None, bytes_max = None, max_wait = 1.0, late_join = 1.0))]
    fn pusher(
        &self,
        py: Python<'_>,
        topic: &str,
        slots_max: Option<Number<u32>>,
        bytes_max: Option<Number<u64>>,
        max_wait: f64,
        late_join: f64,
    ) -> PyResult<Py<Pusher>> {
        let mut builder = self
            .bus
            .pusher(topic)
            .max_wait(or_endless(Some(max_wait)).or_raise(py)?)
            .late_join(or_endless(Some(late_join)).or_raise(py)?);
        if let Some(Number(slots)) = slots_max {
            builder = builder.slots_max(slots);
        }
        if let Some(Number(bytes)) = bytes_max {
            builder = builder.bytes_max(bytes);
        }
        let pusher = py.detach(|| builder.open()).or_raise(py)?;
        Pusher::of(py, pusher, self.bus.clone())
    }

    /// A puller of all topics that `pattern` matches: each message goes to one puller of its group.
    ///
    /// With `ack`, a task is to be acknowledged within so many seconds; one that is not, or whose puller dies, is given to
    /// another, `attempts` times in all, and lies with the dead letters then. All pullers of a group say the same. What was given
    /// back rests `redelivery` seconds before it comes again, twice as long each time, up to 10 s. `holds` tasks of one pusher
    /// may be had at a time where they lie. With `drop_duplicates` a task whose id is among the last so many that this puller did is
    /// over at once, and counted as `duplicate`.
    #[pyo3(signature = (pattern, *, group = "pullers", ack = None, attempts = Number(5), holds = Number(15),
        redelivery = 0.1, drop_duplicates = None), text_signature = "($self, pattern, *, group='pullers', ack=None, attempts=5, \
        holds=15, redelivery=0.1, drop_duplicates=None)")]
    #[expect(clippy::too_many_arguments, reason = "they are keywords where they are given")]
    fn puller(
        &self,
        py: Python<'_>,
        pattern: &str,
        group: &str,
        ack: Option<f64>,
        attempts: Number<u8>,
        holds: Number<u32>,
        redelivery: f64,
        drop_duplicates: Option<Number<u32>>,
    ) -> PyResult<Puller> {
        let rest = or_endless(Some(redelivery)).or_raise(py)?;
        let mut builder =
            self.bus.puller(pattern).group(group).attempts(attempts.0).holds(holds.0).redelivery(rest);
        if let Some(Number(ids)) = drop_duplicates {
            builder = builder.drop_duplicates(ids);
        }
        if let Some(within) = ack {
            builder = builder.ack(or_endless(Some(within)).or_raise(py)?);
        }
        let puller = py.detach(|| builder.open()).or_raise(py)?;
        Ok(Puller::new(puller, self.bus.clone(), ack))
    }

    /// A requester of `topic`: what it asks is answered by one of the responders there.
    ///
    /// `in_flight` requests may be under way, `slots_max` sent after one that has not ended, `bytes_max` is for larger ones; a
    /// request waits `late_join` seconds for the first responder.
    #[pyo3(signature = (topic, *, in_flight = None, slots_max = None, bytes_max = None, late_join = 1.0))]
    fn requester(
        &self,
        py: Python<'_>,
        topic: &str,
        in_flight: Option<Number<u32>>,
        slots_max: Option<Number<u32>>,
        bytes_max: Option<Number<u64>>,
        late_join: f64,
    ) -> PyResult<Requester> {
        let mut builder = self.bus.requester(topic).late_join(or_endless(Some(late_join)).or_raise(py)?);
        if let Some(Number(requests)) = in_flight {
            builder = builder.in_flight(requests);
        }
        if let Some(Number(slots)) = slots_max {
            builder = builder.slots_max(slots);
        }
        if let Some(Number(bytes)) = bytes_max {
            builder = builder.bytes_max(bytes);
        }
        let requester = py.detach(|| builder.open()).or_raise(py)?;
        Ok(Requester::new(requester, self.bus.clone()))
    }

    /// A responder to what is asked on the topics that `pattern` matches: each request goes to one responder, which may have
    /// `holds` of one requester at a time where they lie.
    #[pyo3(signature = (pattern, *, holds = Number(64)), text_signature = "($self, pattern, *, holds=64)")]
    fn responder(&self, py: Python<'_>, pattern: &str, holds: Number<u32>) -> PyResult<Responder> {
        let builder = self.bus.responder(pattern).holds(holds.0);
        let responder = py.detach(|| builder.open()).or_raise(py)?;
        Ok(Responder::new(responder, self.bus.clone()))
    }

    /// Joins nodes of other hosts, or one of this host that serves another domain, as a client of their cluster.
    ///
    /// `peers` has the address of each by its index. Of the programs of this domain that ask for the same, one carries the links,
    /// and what all of them publish, push and ask crosses them. `ca`, `cert` and `key` are files, as `busway cert new` makes
    /// them; in place of a certificate a `token` shows who the client is. `client` is its name or number: needed with a token,
    /// and else that of the certificate, or one that this domain has for itself. Without TLS only addresses of this host are
    /// dialed, unless `allow_plain_beyond_loopback` says otherwise.
    #[pyo3(signature = (peers, *, cluster = "default", client = None, ca = None, cert = None, key = None, token = None,
        allow_plain_beyond_loopback = false))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords where they are given")]
    fn node(
        &self,
        py: Python<'_>,
        peers: &Bound<'_, PyDict>,
        cluster: &str,
        client: Option<&Bound<'_, PyAny>>,
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        token: Option<&str>,
        allow_plain_beyond_loopback: bool,
    ) -> PyResult<Node> {
        let client = client.map(|client| client.str().map(|name| name.to_string())).transpose()?;
        let (peers, cluster) = (peers_of(peers)?, cluster.to_owned());
        let plain_beyond_loopback = allow_plain_beyond_loopback;
        let wanted = Wanted { peers, cluster, client, ca, cert, key, plain_beyond_loopback };
        let node = Node::new(py.detach(|| wanted.open(&self.bus, token)).or_raise(py)?);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|known| known.strong_count() > 0);
        nodes.push(Arc::downgrade(node.shared()));
        Ok(node)
    }

    /// The artifacts of a topic, or of the topics of a pattern: bodies that are to be at many nodes, as `busway.artifacts` says. They are had by a
    /// node of this process, or by that of this host; raises JoinError (BUS-0213) where there is none.
    fn artifacts(&self, py: Python<'_>, topic: &str) -> PyResult<Artifacts> {
        Artifacts::open(py, &self.bus, topic)
    }

    /// What the domain looks like now, as `busway ls --json` prints it.
    fn inspect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bus = &self.bus;
        let inspection = py.detach(|| bus.inspect()).or_raise(py)?;
        as_dict(py, &inspection)
    }

    /// An id for a message: a ULID, greater than all that were drawn from this bus before.
    fn next_id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.bus.next_id().or_raise(py)?.to_string())
    }

    /// What this process has counted, by name: numbers, or dicts by label. docs/metrics.md lists the names.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bus = &self.bus;
        let metrics = py.detach(|| bus.metrics()).or_raise(py)?;
        as_dict(py, &metrics)?.get_item("metrics")
    }

    /// What each living process of the domain has counted, as `busway stat --json` prints it.
    fn metrics_of_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bus = &self.bus;
        let metrics = py.detach(|| bus.metrics_of_all()).or_raise(py)?;
        as_dict(py, &metrics)
    }

    /// This process's metrics as the text that Prometheus reads.
    fn prometheus(&self, py: Python<'_>) -> PyResult<String> {
        let bus = &self.bus;
        let metrics = py.detach(|| bus.metrics()).or_raise(py)?;
        Ok(busway::metrics::prometheus(&[metrics]))
    }

    /// The name of this process on the bus.
    #[getter]
    fn name(&self) -> &str {
        self.bus.name()
    }

    /// The name of the domain.
    #[getter]
    fn domain(&self) -> &str {
        self.bus.domain()
    }

    /// Whether this process holds the domain's rendezvous now.
    #[getter]
    fn is_rendezvous(&self, py: Python<'_>) -> PyResult<bool> {
        if self.bus.is_inherited() { Err(inherited()).or_raise(py) } else { Ok(self.bus.is_rendezvous()) }
    }

    /// Samples that this process holds now.
    #[getter]
    fn held(&self) -> u64 {
        self.bus.held().0
    }

    /// Leaves the domain: links end, what waits returns, and ports that still exist raise Closed.
    fn close(&self, py: Python<'_>) {
        let (bus, nodes, told) = (&self.bus, &self.nodes, &self.told);
        py.detach(|| {
            // A child of fork might find the lock in any state, and closes nothing.
            if bus.is_inherited() {
                return;
            }
            let nodes = std::mem::take(&mut *nodes.lock().unwrap_or_else(PoisonError::into_inner));
            for node in nodes.iter().filter_map(Weak::upgrade) {
                node::close(&node);
            }
            bus.close();
            let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(told) = told {
                told.end();
            }
        });
    }

    /// Whether it was left.
    #[getter]
    fn closed(&self) -> bool {
        self.bus.is_closed()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("<busway.Bus {} as {}>", self.bus.domain(), self.bus.name())
    }
}
