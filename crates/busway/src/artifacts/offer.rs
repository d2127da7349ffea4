//! An artifact that this program offers.
//!
//! Invariant: an offer stands while its handle is there, unless it is kept, has reached all, or its time is up.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::artifact::TopicHash;
use busway_protocol::gossip::{ArtifactId, Offering, Reference};
use busway_wire::Topic;
use busway_wire::limits::ARTIFACT_WHOLE_BYTES_MAX;

use crate::artifacts::milliseconds;
use crate::artifacts::store::Imported;
use crate::error::{Code, Error};
use crate::runtime::{Call, Calls, Standing, Stands, names};

/// Whom an offer is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// All nodes of the cluster.
    #[default]
    All,
    /// These nodes, by their indices.
    Peers(Vec<u8>),
    /// The nodes of a group of this name.
    Group(String),
}

/// How far an offer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// It is offered.
    Offered,
    /// Each other node that is configured or was ever linked has it, or has declined it. It is not offered any more.
    Reached,
    /// Its time is up, and it is not offered any more. These nodes have not said that they have it.
    Expired(Vec<u8>),
    /// It was withdrawn, or the node has ended.
    Withdrawn,
}

/// How an artifact is offered. See [`Artifacts::offer`](crate::artifacts::Artifacts::offer).
#[derive(Debug)]
#[must_use = "an offer is made by `open`"]
pub struct OfferBuilder {
    calls: Arc<Calls>,
    topic: Result<Topic, Error>,
    source: Source,
    attribute: Vec<u8>,
    to: Destination,
    reach_all: Option<Duration>,
    kept: bool,
}

/// Where its bytes come from.
pub(super) enum Source {
    Bytes(Arc<[u8]>),
    File(PathBuf),
    Reader(Box<dyn Read + Send>),
    Sized(Exact, u64),
}

/// The next bytes of a reader, so many and no fewer.
pub(super) struct Exact {
    from: Box<dyn Read + Send>,
    left: u64,
}

impl Exact {
    pub(super) fn new(from: impl Read + Send + 'static, left: u64) -> Exact {
        Exact { from: Box::new(from), left }
    }
}

impl Read for Exact {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let read = self.from.read(buf.get_mut(..most).unwrap_or_default())?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Reader(_) => f.write_str("a reader"),
            Source::Sized(_, size) => write!(f, "a reader of {size} bytes"),
        }
    }
}

impl OfferBuilder {
    pub(super) fn new(calls: &Arc<Calls>, topic: Result<Topic, Error>, source: Source) -> Self {
        let (attribute, to) = (Vec::new(), Destination::All);
        Self { calls: calls.clone(), topic, source, attribute, to, reach_all: None, kept: false }
    }

    /// What receivers are told beside, at most 256 bytes, so that they can decide whether they want it.
    pub fn attribute(mut self, attribute: &[u8]) -> Self {
        self.attribute = attribute.to_vec();
        self
    }

    /// Whom it is for. Default: all nodes.
    pub fn to(mut self, to: Destination) -> Self {
        self.to = to;
        self
    }

    /// It is to be at all nodes, also at those where nobody subscribes to it, within this time. When each has it or declines it, or the time is up, it is
    /// withdrawn: who has received it keeps it.
    pub fn reach_all(mut self, within: Duration) -> Self {
        self.reach_all = Some(within);
        self
    }

    /// It stays offered when its handle is dropped, until its node ends.
    pub fn keep(mut self) -> Self {
        self.kept = true;
        self
    }

    /// Offers it. What is larger than 256 KiB is read into the store of the node first, by this thread.
    ///
    /// # Errors
    /// [`Code::TooLarge`] above 4 GiB, or for a longer attribute; [`Code::Full`] where the node offers as much as it may, or its store has no room; [`Code::StoreUnusable`] where
    /// it cannot be read, or the store cannot be written; [`Code::BadTopic`] where the artifacts were named by a pattern; [`Code::NotYet`] for another destination than
    /// [`Destination::All`]; [`Code::Closed`] where the node has ended; [`Code::Forked`].
    pub fn open(self) -> Result<Offer, Error> {
        let topic = self.topic?;
        refuse_destination(&topic, &self.to)?;
        if self.calls.is_inherited() {
            return Err(crate::bus::forked());
        }
        let (attribute, reach_all_ms) = (self.attribute, self.reach_all.map(milliseconds));
        let kept = self.kept;
        if let Some(away) = self.calls.way() {
            let (from, size) = self.source.open()?;
            let (of, id, standing) = away.offer(topic, attribute, (kept, reach_all_ms), from, size)?;
            return Ok(Offer { calls: self.calls, of, id, standing, kept });
        }
        let imported = self.source.import(&self.calls, TopicHash::of(&topic))?;
        let (id, body, stored) = match &imported {
            Imported::Small(body) => (ArtifactId::of(body), body.clone(), None),
            // It is in hand until the machine needs it.
            Imported::Stored(lease) => (lease.id(), Arc::from([]), Some((lease.id(), lease.size()))),
        };
        let offering = Offering { topic, attribute, body, stored, instead_of: None, reach_all_ms };
        let (of, standing) = self.calls.ask(|answer| Call::Offer { offering, answer })??;
        drop(imported);
        Ok(Offer { calls: self.calls, of, id, standing, kept })
    }
}

/// What an artifact cannot be offered to.
pub(super) fn refuse_destination(topic: &Topic, to: &Destination) -> Result<(), Error> {
    if *to == Destination::All {
        return Ok(());
    }
    Err(Error::new(Code::NotYet, "an artifact can be offered to all nodes only")
        .at(format!("topic {topic}"))
        .remedy("offer it to all, and let those who do not want it drop it"))
}

/// An artifact that is offered. It is withdrawn when this is dropped, unless it is [kept](OfferBuilder::keep).
#[derive(Debug)]
pub struct Offer {
    calls: Arc<Calls>,
    of: Reference,
    id: ArtifactId,
    standing: Arc<Standing>,
    kept: bool,
}

impl Offer {
    /// The name of its bytes.
    #[must_use]
    pub fn id(&self) -> ArtifactId {
        self.id
    }

    /// How far it has come; for a child made by `fork` it is withdrawn, as it is its parent's.
    #[must_use]
    pub fn reach(&self) -> Reach {
        if self.calls.is_inherited() { Reach::Withdrawn } else { reach(self.standing.now()) }
    }

    /// Waits until it is at all nodes, as [`OfferBuilder::reach_all`] says.
    ///
    /// # Errors
    /// [`Code::TimedOut`] where that takes longer than `timeout`, or longer than the offer had: the error names the nodes that have not said that they have it;
    /// [`Code::Closed`] where it was withdrawn or the node has ended; [`Code::Forked`].
    pub fn wait_reached(&self, timeout: Duration) -> Result<(), Error> {
        if self.calls.is_inherited() {
            return Err(crate::bus::forked());
        }
        let late = |what: String| {
            Err(Error::new(Code::TimedOut, what)
                .at(format!("artifact {}", self.id))
                .remedy("see which nodes are linked: busway peers"))
        };
        match self.standing.wait(timeout) {
            Stands::Reached => Ok(()),
            Stands::Offered => late(format!("it is not at all nodes after {timeout:?}")),
            Stands::Expired(missing) => late(format!("{} have not said that they have it", names(&missing))),
            Stands::Withdrawn => Err(crate::runtime::ended()),
        }
    }

    /// Takes it back: the others are told, and stop asking for it.
    pub fn withdraw(mut self) {
        self.kept = false;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.kept {
            self.calls.leave(Call::Withdraw { of: self.of });
        }
    }
}

impl Source {
    /// To be read by this thread; how much it is, where that is known.
    fn open(self) -> Result<(Box<dyn Read + Send>, Option<u64>), Error> {
        match self {
            Source::Bytes(bytes) => {
                let size = bytes.len() as u64;
                Ok((Box::new(std::io::Cursor::new(bytes)), Some(size)))
            }
            Source::Reader(reader) => Ok((reader, None)),
            Source::Sized(reader, size) => Ok((Box::new(reader), Some(size))),
            Source::File(path) => {
                let (file, size) = open(&path)?;
                Ok((Box::new(file), size))
            }
        }
    }

    fn import(self, calls: &Calls, topic: TopicHash) -> Result<Imported, Error> {
        match self {
            Source::Bytes(bytes) if bytes.len() as u64 <= ARTIFACT_WHOLE_BYTES_MAX => {
                Ok(Imported::Small(bytes))
            }
            Source::Bytes(bytes) => calls.store.import_sized(topic, &mut &bytes[..], bytes.len() as u64),
            Source::Reader(reader) => calls.store.import(topic, reader),
            Source::Sized(mut reader, size) => calls.store.import_sized(topic, &mut reader, size),
            Source::File(path) => match open(&path)? {
                (mut file, Some(size)) => calls.store.import_sized(topic, &mut file, size),
                (file, None) => calls.store.import(topic, file),
            },
        }
    }
}

/// A file, and how much is in it, if it is one whose end is known.
fn open(path: &Path) -> Result<(File, Option<u64>), Error> {
    let unreadable = |error: std::io::Error| {
        Error::new(Code::StoreUnusable, format!("it cannot be read: {error}"))
            .at(path.display().to_string())
            .remedy("name a file that this user may read")
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    Ok((file, metadata.is_file().then_some(metadata.len())))
}

fn reach(stands: Stands) -> Reach {
    match stands {
        Stands::Offered => Reach::Offered,
        Stands::Reached => Reach::Reached,
        Stands::Expired(missing) => Reach::Expired(missing.iter().map(|node| node.0).collect()),
        Stands::Withdrawn => Reach::Withdrawn,
    }
}
