//! A node as Python sees it: the links of a domain to other hosts, carried by one of the programs that ask for them.
//!
//! A program of Python is a client of a cluster, never one of its nodes: those are `busway up`. It reads no configuration.
//!
//! Invariant: a node of a bus ends before the bus, and when it is forgotten; closing lets the interpreter go.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use busway::{Code, Error, LinkState, NodeBuilder, Principal, SharedNode, Tls};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::fork::Birth;
use crate::number::Number;

/// What a program of Python says of a node.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) peers: BTreeMap<u8, String>,
    pub(crate) cluster: String,
    pub(crate) client: Option<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) plain_beyond_loopback: bool,
}

impl Wanted {
    /// Opens it, without the interpreter; files are read.
    pub(crate) fn open(&self, bus: &busway::Bus, token: Option<&str>) -> Result<SharedNode, Error> {
        let tls = self.tls()?;
        let certified = tls.as_ref().map(|tls| tls.identity(&self.cluster)).transpose()?.flatten();
        let mut builder = self.named(certified, bus, token.is_some())?.cluster(&self.cluster);
        for (index, address) in &self.peers {
            builder = builder.peer(*index, address);
        }
        if let Some(tls) = tls {
            builder = builder.tls(tls);
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        if self.plain_beyond_loopback {
            builder = builder.allow_plain_beyond_loopback();
        }
        builder.open_shared(bus)
    }

    fn tls(&self) -> Result<Option<Tls>, Error> {
        match (&self.ca, &self.cert, &self.key) {
            (None, None, None) => Ok(None),
            (Some(ca), None, None) => Tls::from_ca_file(ca).map(Some),
            (Some(ca), Some(cert), Some(key)) => Tls::from_files(ca, cert, key).map(Some),
            _ => Err(refused("a certificate needs its key, and both the certificate of their CA")
                .remedy("give ca, or ca, cert and key")),
        }
    }

    /// With the id of who it is.
    fn named(
        &self,
        certified: Option<Principal>,
        bus: &busway::Bus,
        token: bool,
    ) -> Result<NodeBuilder, Error> {
        let builder = busway::Node::builder();
        let principal = match &self.client {
            Some(name) => Some(
                Principal::client(name)
                    .map_err(|error| refused(error.to_string()).remedy("give a client's name"))?,
            ),
            None => certified,
        };
        match principal {
            Some(principal) => principal.id().map(|id| builder.client(id)).ok_or_else(|| {
                refused(format!("the certificate is of {principal}, and a program is a client"))
                    .remedy("busway cert new --client NAME")
            }),
            None if token => Err(refused("a token is of somebody").remedy("say of whom: client")),
            None => Ok(builder.client(self.id_here(bus))),
        }
    }

    /// The id of a client that has to show nothing: the same for all programs of this domain that name the same nodes, and at
    /// each start, and not that of another domain or host.
    fn id_here(&self, bus: &busway::Bus) -> u64 {
        let mut hasher = DefaultHasher::new();
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let host = rustix::system::uname();
        (machine, host.nodename().to_bytes(), bus.socket_path(), rustix::process::geteuid().as_raw())
            .hash(&mut hasher);
        self.peers.hash(&mut hasher);
        // The upper half is of clients with names.
        hasher.finish() % Principal::NAMED_ID_MIN
    }
}

fn refused(cause: impl Into<String>) -> Error {
    Error::new(Code::BadCredentials, cause).at("the node")
}

/// Links to other hosts. Made by `Bus.node`.
#[pyclass(frozen, weakref, module = "busway")]
pub(crate) struct Node {
    shared: Arc<Mutex<Option<SharedNode>>>,
    birth: Birth,
}

/// Closes a node, whoever else has it.
pub(crate) fn close(shared: &Mutex<Option<SharedNode>>) {
    let share = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Not under the lock: links are settled first, and others look at them meanwhile.
    drop(share);
}

impl Drop for Node {
    fn drop(&mut self) {
        // A child of fork might find its parent's lock in any state; the share knows by itself what is not its own.
        if !self.birth.is_inherited() {
            let shared = &self.shared;
            Python::try_attach(|py| py.detach(|| close(shared)));
        }
    }
}

impl Node {
    pub(crate) fn new(node: SharedNode) -> Self {
        Self { shared: Arc::new(Mutex::new(Some(node))), birth: Birth::now() }
    }

    pub(crate) fn shared(&self) -> &Arc<Mutex<Option<SharedNode>>> {
        &self.shared
    }

    fn look<T: Default + Send>(&self, py: Python<'_>, tell: impl FnOnce(&SharedNode) -> T + Send) -> T {
        // A child of fork might find its parent's lock in any state.
        if self.birth.is_inherited() {
            return T::default();
        }
        let shared = &self.shared;
        py.detach(|| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(tell).unwrap_or_default()
        })
    }
}

#[pymethods]
impl Node {
    /// Whether it is this program that carries the links, of those of its domain that ask for the same.
    #[getter]
    fn carries(&self, py: Python<'_>) -> bool {
        self.look(py, SharedNode::carries)
    }

    /// How each link is, where this program carries them: dicts of `peer`, `name`, `address`, `state` and `last_error`.
    fn peers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let peers = self.look(py, SharedNode::peers);
        let shown = PyList::empty(py);
        for peer in peers {
            let one = PyDict::new(py);
            one.set_item("peer", peer.peer)?;
            one.set_item("name", peer.name)?;
            one.set_item("address", peer.address)?;
            one.set_item("state", state(peer.state))?;
            one.set_item("last_error", peer.last_error)?;
            shown.append(one)?;
        }
        Ok(shown)
    }

    /// Ends the links in order, where this program carries them: what is under way is settled first, for most of a second.
    fn close(&self, py: Python<'_>) {
        if !self.birth.is_inherited() {
            let shared = &self.shared;
            py.detach(|| close(shared));
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.close(py);
    }
}

/// As `busway peers` says it.
fn state(state: LinkState) -> &'static str {
    match state {
        LinkState::Waiting => "waiting",
        LinkState::Connecting => "connecting",
        LinkState::Handshaking => "handshaking",
        LinkState::Connected => "connected",
        LinkState::Draining => "draining",
        _ => "closed",
    }
}

/// The nodes of a cluster as Python names them.
pub(crate) fn peers_of(given: &Bound<'_, PyDict>) -> PyResult<BTreeMap<u8, String>> {
    let mut peers = BTreeMap::new();
    for (index, address) in given.iter() {
        peers.insert(index.extract::<Number<u8>>()?.0, address.extract()?);
    }
    Ok(peers)
}
