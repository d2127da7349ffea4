//! A large artifact that a program offers: its bytes come part by part, and a thread of its own takes them into the store.
//!
//! Each part is copied, so that what waits holds nothing of the memory of others, and its request waits in a short queue until it was taken in, and is answered then: so who offers
//! goes no faster than the store, and no other request waits. What cannot be taken in is told by its code, to each part that comes behind it too.
//!
//! Invariant: where the parts end before the last, or the offer is given up before it stands, nothing is offered.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};
use std::time::Duration;

use busway_protocol::artifact::TopicHash;
use busway_protocol::gossip::{ArtifactId, Offering};
use busway_shm::sync::Ordering;
use busway_wire::Topic;
use busway_wire::hatch::Tell;
use busway_wire::limits::{HATCH_AHEAD_MAX, HATCH_PAUSE_MS_MAX, HATCH_TAKEN_MAX};

use crate::artifacts::hatch::clerk::no_session;
use crate::artifacts::hatch::session::Coming;
use crate::artifacts::hatch::{Shared, say};
use crate::artifacts::store::{Imported, Room};
use crate::error::{Code, Error};
use crate::ports::lock;
use crate::responder::Request;

/// What a program begins to offer.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) session: u64,
    pub(super) offer: u64,
    pub(super) topic: Topic,
    pub(super) attribute: Vec<u8>,
    pub(super) size: Option<u64>,
    pub(super) keep: bool,
    pub(super) reach_all_ms: Option<u64>,
}

/// What a program says of an offer that it has begun.
#[derive(Debug)]
pub(super) struct Part {
    request: Request,
    /// Bytes of it; `None` says that these were all.
    bytes: Option<Vec<u8>>,
}

impl Part {
    pub(super) fn new(mut request: Request, bytes: Option<Vec<u8>>) -> Self {
        request.let_go();
        Self { request, bytes }
    }
}

/// What comes, to be read.
struct Parts {
    come: Receiver<Part>,
    /// The part that is read, and how much of it was.
    part: Option<(Part, usize)>,
    /// What says that these were all.
    last: Option<Request>,
}

impl Read for Parts {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.last.is_none() {
            let Some((part, read)) = &mut self.part else {
                let pause = Duration::from_millis(HATCH_PAUSE_MS_MAX);
                let part = self.come.recv_timeout(pause).map_err(|error| match error {
                    RecvTimeoutError::Timeout => {
                        io::Error::new(ErrorKind::TimedOut, format!("nothing came of it for {pause:?}"))
                    }
                    RecvTimeoutError::Disconnected => io::Error::other("it was given up"),
                })?;
                match part.bytes {
                    Some(_) => self.part = Some((part, 0)),
                    None => self.last = Some(part.request),
                }
                continue;
            };
            let rest = part.bytes.as_deref().and_then(|bytes| bytes.get(*read..)).unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            *read += count;
            if count == rest.len()
                && let Some((part, _)) = self.part.take()
            {
                say(part.request, &Tell::Done);
            }
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }
}

impl Parts {
    /// Whoever waits is told why nothing comes of it.
    fn refuse(self, shared: &Shared, error: &Error) {
        let waits = self.part.map(|(part, _)| part).into_iter().chain(self.come.try_iter());
        let waits = waits.map(|part| part.request).chain(self.last);
        waits.for_each(|request| shared.refuse(request, error));
    }
}

/// A place among those that come at a time.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Takes in what a program begins to offer.
    pub(super) fn begin(self: &Arc<Self>, wanted: Wanted) -> Result<(), Error> {
        let (number, offer) = (wanted.session, wanted.offer);
        let mut sessions = lock(&self.sessions);
        let session = sessions.get(number)?;
        session.may_offer(offer)?;
        // Raised and lowered by who has the lock, and by a thread at its end: never too low.
        if self.taken.load(Ordering::Relaxed) >= HATCH_TAKEN_MAX {
            let cause = format!("{HATCH_TAKEN_MAX} large artifacts come from programs of this host already");
            let error = Error::new(Code::Full, cause).at("the artifacts of this node");
            return Err(error.remedy("offer them one after the other"));
        }
        // Before the first part: what has no room is not sent at all.
        let room = wanted.size.map(|size| self.calls.store.room(size)).transpose()?;
        let (to, come) = sync_channel(HATCH_AHEAD_MAX);
        self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        let body = move || place.0.take_in(wanted, room, Parts { come, part: None, last: None });
        let started = std::thread::Builder::new().name("bw-hatch-take".to_owned()).spawn(body);
        started.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-hatch-take")
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        session.comes(offer, Coming::Parts(to))
    }

    /// A part, or the word that these were all.
    pub(super) fn hand_on(&self, session: u64, offer: u64, part: Part) {
        let mut sessions = lock(&self.sessions);
        let (request, error) = match sessions.get(session).and_then(|session| session.parts(offer)) {
            Ok(to) => match to.try_send(part) {
                Ok(()) => return,
                Err(TrySendError::Full(part)) => {
                    let cause = format!("{HATCH_AHEAD_MAX} parts of it wait already");
                    (part.request, Error::new(Code::Full, cause).at("the artifacts of this node"))
                }
                Err(TrySendError::Disconnected(part)) => (part.request, no_session()),
            },
            Err(error) => (part.request, error),
        };
        drop(sessions);
        self.refuse(request, &error);
    }

    /// The body of `bw-hatch-take`.
    fn take_in(&self, wanted: Wanted, room: Option<Room>, mut parts: Parts) {
        let Wanted { session, offer, topic, attribute, size, keep, reach_all_ms } = wanted;
        let on = TopicHash::of(&topic);
        let imported = match size.zip(room) {
            Some((size, room)) => {
                self.calls.store.import_into(on, &mut parts, size, room).and_then(|imported| {
                    // To the word that these were all, and no further.
                    match parts.read(&mut [0]) {
                        Ok(0) => Ok(imported),
                        Ok(_) | Err(_) => Err(broken("it has another size than was said")),
                    }
                })
            }
            None => self.calls.store.import(on, &mut parts),
        };
        let offered = imported.and_then(|imported| {
            let (id, body, stored) = match &imported {
                Imported::Small(body) => (ArtifactId::of(body), body.clone(), None),
                Imported::Stored(lease) => (lease.id(), Arc::from([]), Some((lease.id(), lease.size()))),
            };
            let offering = Offering { topic, attribute, body, stored, instead_of: None, reach_all_ms };
            let of = self.offer(session, offer, keep, offering)?;
            drop(imported);
            Ok(Tell::Offered { of, id })
        });
        match (offered, parts.last.take()) {
            (Ok(word), Some(last)) => say(last, &word),
            // It ended without a word: nobody waits.
            (Ok(_), None) => {}
            (Err(error), last) => {
                parts.last = last;
                // What comes behind this is answered by it, so that nobody is left without an answer.
                if let Ok(session) = lock(&self.sessions).get(session) {
                    session.failed(offer, &error);
                }
                tracing::debug!(target: "busway::gossip", "an offer of a program comes to nothing: {error}");
                parts.refuse(self, &error);
            }
        }
    }
}

fn broken(cause: &str) -> Error {
    Error::new(Code::ProtocolBroken, cause)
        .at("the artifacts of this node")
        .remedy("use the same version of busway everywhere")
}
