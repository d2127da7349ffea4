//! Artifacts from Python: bodies that are to be at many nodes, by name of their bytes.
//!
//! It stands on the node of this process, or on that of the host, as `busway::artifacts` finds it; who waits has let the interpreter go, and sees signals.
//!
//! Invariant: what one wait here had begun ends with it.

use std::path::PathBuf;

use busway::artifacts::{self, ArtifactId, Event};
use busway::{Code, Error};
use pyo3::prelude::*;

use crate::apart::Apart;
use crate::artifact::{Advert, Artifact};
use crate::artifact_subscriber::ArtifactSubscriber;
use crate::deadline::Deadline;
use crate::failure::{OrRaise, inherited};
use crate::offer::{How, Offer, Source, copied, open_apart, open_here};

/// What is larger is offered by a thread of its own, so that signals are seen.
const HERE_BYTES_MAX: usize = 256 << 10;

/// An artifact that the node knows of: `here` says that all of its bytes are at the node, `own` that the node offers it.
#[pyclass(frozen, get_all, module = "busway.artifacts")]
#[derive(Debug)]
pub(crate) struct Listed {
    /// Which.
    advert: Advert,
    /// All of its bytes are at this node.
    here: bool,
    /// This node offers it.
    own: bool,
}

/// The artifacts of a topic, or of the topics of a pattern. Made by `Bus.artifacts`.
#[pyclass(frozen, weakref, module = "busway.artifacts")]
pub(crate) struct Artifacts {
    artifacts: Apart<artifacts::Artifacts>,
    bus: busway::Bus,
    pattern: String,
}

/// What a name says.
fn id(py: Python<'_>, id: &str) -> PyResult<ArtifactId> {
    id.parse::<ArtifactId>()
        .map_err(|error| {
            let shown: String = id.chars().take(80).collect();
            Error::new(Code::BadSetting, error.to_string())
                .at(format!("id {shown:?}"))
                .remedy("give the 64 hexadecimal digits of Advert.id")
        })
        .or_raise(py)
}

impl Artifacts {
    pub(crate) fn open(py: Python<'_>, bus: &busway::Bus, pattern: &str) -> PyResult<Self> {
        let artifacts = py.detach(|| bus.artifacts(pattern)).or_raise(py)?;
        Ok(Self { artifacts: Apart::new(artifacts), bus: bus.clone(), pattern: pattern.to_owned() })
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.bus.is_inherited() { Err(inherited()).or_raise(py) } else { Ok(()) }
    }
}

#[pymethods]
impl Artifacts {
    /// Its topic or pattern.
    #[getter]
    fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Offers these bytes, at most 4 GiB and what the store of the node has room for: `bytes`, or what shows its memory in one piece, as it is now.
    ///
    /// `attribute` is what receivers are told beside, at most 256 bytes. With `reach_all` it is to be at all nodes within so many seconds, and is withdrawn then.
    /// With `keep` it stays offered when its handle is gone, until its node ends. `to` names a group of nodes, or their indices: refused for now (BUS-0112).
    #[pyo3(signature = (data, *, attribute = None, to = None, reach_all = None, keep = false))]
    fn offer(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        attribute: Option<&Bound<'_, PyAny>>,
        to: Option<&Bound<'_, PyAny>>,
        reach_all: Option<f64>,
        keep: bool,
    ) -> PyResult<Offer> {
        self.check(py)?;
        let bytes = copied(py, data)?;
        let builder = py.detach(|| self.artifacts.offer(&bytes));
        let builder = How { attribute, to, reach_all, keep }.set(py, builder)?;
        let open = if bytes.len() > HERE_BYTES_MAX { open_apart } else { open_here };
        drop(bytes);
        open(py, &self.bus, builder)
    }

    /// Offers what is in a file now, as `offer`: it may go after that.
    #[pyo3(signature = (path, *, attribute = None, to = None, reach_all = None, keep = false))]
    fn offer_file(
        &self,
        py: Python<'_>,
        path: PathBuf,
        attribute: Option<&Bound<'_, PyAny>>,
        to: Option<&Bound<'_, PyAny>>,
        reach_all: Option<f64>,
        keep: bool,
    ) -> PyResult<Offer> {
        self.check(py)?;
        let builder = How { attribute, to, reach_all, keep }.set(py, self.artifacts.offer_file(path))?;
        open_apart(py, &self.bus, builder)
    }

    /// Offers what `file.read(n)` gives until its end, as `offer`: this thread reads it now. What it raises is raised, and nothing is offered.
    #[pyo3(signature = (file, *, attribute = None, to = None, reach_all = None, keep = false))]
    fn offer_reader(
        &self,
        py: Python<'_>,
        file: &Bound<'_, PyAny>,
        attribute: Option<&Bound<'_, PyAny>>,
        to: Option<&Bound<'_, PyAny>>,
        reach_all: Option<f64>,
        keep: bool,
    ) -> PyResult<Offer> {
        self.check(py)?;
        // What cannot be read is refused before anything is.
        file.getattr("read")?;
        let (source, raised) = Source::new(file.clone().unbind());
        let builder = How { attribute, to, reach_all, keep }.set(py, self.artifacts.offer_reader(source))?;
        let offer = open_here(py, &self.bus, builder);
        let raised = raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match (offer, raised) {
            (Err(_), Some(raised)) => Err(raised),
            (offer, _) => offer,
        }
    }

    /// Who is given the artifacts, each once; what stands already comes first.
    ///
    /// `interest(advert)` says what is wanted, an `Interest`; it is called by the thread that receives. Without it all is wanted; with `only`, the artifact of that id. `progress`: it is told how much of a large one is here.
    /// `arriving`: it is given a large one when it begins to come too, to read what is here of it.
    #[pyo3(signature = (*, interest = None, progress = false, arriving = false, only = None))]
    fn subscriber(
        &self,
        py: Python<'_>,
        interest: Option<Py<PyAny>>,
        progress: bool,
        arriving: bool,
        only: Option<&str>,
    ) -> PyResult<ArtifactSubscriber> {
        self.check(py)?;
        let mut builder = self.artifacts.subscriber();
        if progress {
            builder = builder.progress();
        }
        if arriving {
            builder = builder.as_it_arrives();
        }
        if let Some(only) = only {
            builder = builder.only(id(py, only)?);
        }
        ArtifactSubscriber::open(py, &self.bus, &self.pattern, builder, interest)
    }

    /// The artifact of this id, if this node or another offers it on a topic of these: waits for it at most `timeout` seconds, and raises TimedOut then.
    #[pyo3(signature = (id, timeout = None))]
    fn fetch(&self, py: Python<'_>, id: &str, timeout: Option<f64>) -> PyResult<Artifact> {
        let deadline = Deadline::after(py, timeout)?;
        let subscriber = self.subscriber(py, None, false, false, Some(id))?;
        while let Some(event) = subscriber.wait(py, deadline)? {
            if let Event::Received(artifact) = event {
                return Ok(Artifact::new(artifact));
            }
        }
        Err(Error::new(Code::TimedOut, "it has not come in time")
            .at(format!("artifact {id}"))
            .remedy("see who offers it: Artifacts.list, and who is linked: busway peers"))
        .or_raise(py)
    }

    /// Those that the node knows of, by node and in the order of its slots.
    fn list(&self, py: Python<'_>) -> PyResult<Vec<Listed>> {
        self.check(py)?;
        let listed = py.detach(|| self.artifacts.list()).or_raise(py)?;
        let show =
            |of: artifacts::Listed| Listed { advert: Advert { of: of.advert }, here: of.here, own: of.own };
        Ok(listed.into_iter().map(show).collect())
    }

    /// Takes back what this node offers on these topics under this id, whoever offered it; returns how many such offers there were.
    fn remove(&self, py: Python<'_>, id: &str) -> PyResult<usize> {
        self.check(py)?;
        let id = self::id(py, id)?;
        py.detach(|| self.artifacts.remove(id)).or_raise(py)
    }

    /// What the node has counted since its start, of all topics. Of what it was told, `told` = `handled` + `coalesced` + the sum of `dropped`.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check(py)?;
        let of = py.detach(|| self.artifacts.counts());
        let [room, size, right] = of.dropped;
        let counts = serde_json::json!({
            "told": of.told, "handled": of.handled, "coalesced": of.coalesced,
            "dropped": {"room": room, "size": size, "right": right},
            "denied": of.denied, "said": of.said, "bytes_useful": of.bytes_useful, "bytes_wasted": of.bytes_wasted,
            "bytes_given": of.bytes_given, "damaged": of.damaged, "full": of.full, "stored_bytes": of.stored_bytes,
            "waiting": of.waiting, "refused": of.refused,
        });
        crate::bus::as_dict(py, &counts)
    }

    fn __repr__(&self) -> String {
        format!("<busway.artifacts.Artifacts of {}>", self.pattern)
    }
}
