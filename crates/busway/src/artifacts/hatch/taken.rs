//! A large artifact that a program offers: its bytes come part by part, and a thread of its own takes them into the store.
//!
//! Each part is a request that waits in a short queue until it was taken in, and is answered then: so who offers goes no faster than the store, and no other request waits.
//!
//! Invariant: where the parts end before the last, nothing is offered.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Offering};
use busway_shm::sync::Ordering;
use busway_wire::Topic;
use busway_wire::hatch::{Ask, Tell, decode_ask};
use busway_wire::limits::{HATCH_AHEAD_MAX, HATCH_PAUSE_MS_MAX, HATCH_TAKEN_MAX};

use crate::artifacts::hatch::clerk::no_session;
use crate::artifacts::hatch::{Shared, say};
use crate::artifacts::store::Imported;
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

/// What comes, to be read.
struct Parts {
    come: Receiver<Request>,
    /// The part that is read, and how much of it was.
    part: Option<(Request, usize)>,
    /// What says that these were all.
    last: Option<Request>,
}

impl Read for Parts {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.last.is_none() {
            let Some((request, read)) = &mut self.part else {
                let pause = Duration::from_millis(HATCH_PAUSE_MS_MAX);
                let request = self.come.recv_timeout(pause).map_err(|_| ErrorKind::UnexpectedEof)?;
                match decode_ask(&request) {
                    Ok((Ask::Body { .. }, _)) => self.part = Some((request, 0)),
                    _ => self.last = Some(request),
                }
                continue;
            };
            let rest = match decode_ask(request) {
                Ok((_, body)) => body.get(*read..).unwrap_or_default(),
                Err(_) => &[],
            };
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            *read += count;
            if count == rest.len()
                && let Some((request, _)) = self.part.take()
            {
                say(request, &Tell::Done);
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
        let waits =
            self.part.map(|(request, _)| request).into_iter().chain(self.last).chain(self.come.try_iter());
        waits.for_each(|request| shared.refuse(request, error));
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
        let (to, come) = sync_channel(HATCH_AHEAD_MAX);
        self.taken.fetch_add(1, Ordering::Relaxed);
        let shared = self.clone();
        let body = move || {
            shared.take_in(wanted, Parts { come, part: None, last: None });
            shared.taken.fetch_sub(1, Ordering::Relaxed);
        };
        let started = std::thread::Builder::new().name("bw-hatch-take".to_owned()).spawn(body);
        if let Err(error) = started {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at("bw-hatch-take")
                .remedy("raise the limit on processes: ulimit -u"));
        }
        session.comes(offer, to);
        Ok(())
    }

    /// A part, or the word that these were all.
    pub(super) fn hand_on(&self, session: u64, offer: u64, request: Request) {
        let mut sessions = lock(&self.sessions);
        let to = sessions.get(session).ok().and_then(|session| session.coming(offer));
        let Some(to) = to else {
            drop(sessions);
            // It is dropped, and so unanswered: there is no such offer, or none any more.
            return self.calls.count_refused();
        };
        let (request, error) = match to.try_send(request) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => {
                let cause = format!("{HATCH_AHEAD_MAX} parts of it wait already");
                (request, Error::new(Code::Full, cause).at("the artifacts of this node"))
            }
            Err(TrySendError::Disconnected(request)) => (request, no_session()),
        };
        drop(sessions);
        self.refuse(request, &error);
    }

    /// The body of `bw-hatch-take`.
    fn take_in(&self, wanted: Wanted, mut parts: Parts) {
        let Wanted { session, offer, topic, attribute, size, keep, reach_all_ms } = wanted;
        let imported = match size {
            Some(size) => self.calls.store.import_sized(&mut parts, size).and_then(|imported| {
                // To the word that these were all, and no further.
                match parts.read(&mut [0]) {
                    Ok(0) => Ok(imported),
                    Ok(_) | Err(_) => Err(broken("it has another size than was said")),
                }
            }),
            None => self.calls.store.import(&mut parts),
        };
        let offered = imported.and_then(|imported| {
            let (id, body, stored) = match &imported {
                Imported::Small(body) => (ArtifactId::of(body), body.clone(), None),
                Imported::Stored(lease) => (lease.id(), Arc::from([]), Some((lease.id(), lease.size()))),
            };
            let offering = Offering { topic, attribute, body, stored, instead_of: None, reach_all_ms };
            let come = lock(&self.sessions).get(session).map(|session| session.came(offer));
            let of = come.and_then(|()| self.offer(session, offer, keep, offering))?;
            drop(imported);
            Ok(Tell::Offered { of, id })
        });
        match (offered, parts.last.take()) {
            (Ok(word), Some(last)) => say(last, &word),
            // It ended without a word: nobody waits.
            (Ok(_), None) => {}
            (Err(error), last) => {
                parts.last = last;
                if let Ok(session) = lock(&self.sessions).get(session) {
                    session.came(offer);
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
