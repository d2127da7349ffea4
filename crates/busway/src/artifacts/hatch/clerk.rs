//! What is asked in a session, and what comes of it.
//!
//! Invariant: each request is answered at once: nobody here waits but for the thread that has the machine.

use std::sync::Arc;
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Offering, Reference};
use busway_shm::clock::Deadline;
use busway_wire::hatch::{Ask, Tell, decode_ask};
use busway_wire::limits::{ARTIFACT_WHOLE_BYTES_MAX, HATCH_BYTES_MAX, HATCH_LISTED_MAX};
use busway_wire::{Pattern, Topic};

use crate::artifacts::hatch::session::Coming;
use crate::artifacts::hatch::taken::{Part, Wanted};
use crate::artifacts::hatch::{Shared, say, say_with};
use crate::artifacts::words;
use crate::error::{Code, Error};
use crate::ports::lock;
use crate::responder::Request;
use crate::runtime::{Call, Mailbox, Tells, Wants, Whose, ended};

impl Shared {
    /// Answers one request.
    pub(super) fn serve(self: &Arc<Self>, request: Request) {
        let done = match decode_ask(&request) {
            Ok((Ask::Body { session, offer }, bytes)) => {
                // A copy: what waits to be taken in holds nothing of the memory of who offers it.
                let bytes = Some(bytes.to_vec());
                return self.hand_on(session, offer, Part::new(request, bytes));
            }
            Ok((Ask::Commit { session, offer }, _)) => {
                return self.hand_on(session, offer, Part::new(request, None));
            }
            Ok((Ask::Read { session, held, offset, size }, _)) => {
                return match self.read(session, held, offset, size) {
                    Ok(bytes) => say_with(request, &Tell::Bytes, &bytes),
                    // It may come: that is no refusal.
                    Err(error) if error.code() == Code::TimedOut => say(request, &words::refusal(&error)),
                    Err(error) => self.refuse(request, &error),
                };
            }
            Ok((ask, body)) => self.do_it(ask, body),
            Err(error) => Err(Error::new(Code::ProtocolBroken, format!("it is not understood: {error}"))
                .at("the artifacts of this node")
                .remedy("use the same version of busway everywhere")),
        };
        match done {
            Ok(word) => say(request, &word),
            Err(error) => self.refuse(request, &error),
        }
    }

    fn do_it(self: &Arc<Self>, ask: Ask, body: &[u8]) -> Result<Tell, Error> {
        match ask {
            Ask::Open | Ask::Body { .. } | Ask::Commit { .. } | Ask::Read { .. } => {
                Err(Error::new(Code::ProtocolBroken, "this is asked for elsewhere"))
            }
            Ask::Close { session } => {
                lock(&self.sessions).end(&self.calls, session);
                Ok(Tell::Done)
            }
            Ask::Offer { session, offer, topic, attribute, keep, reach_all_ms } => {
                check_topic(&topic)?;
                check_whole(body)?;
                let (stored, instead_of) = (None, None);
                let body = body.into();
                let offering = Offering { topic, attribute, body, stored, instead_of, reach_all_ms };
                self.offer_whole(session, offer, keep, offering)
            }
            Ask::Begin { session, offer, topic, attribute, size, keep, reach_all_ms } => {
                check_topic(&topic)?;
                let wanted = Wanted { session, offer, topic, attribute, size, keep, reach_all_ms };
                self.begin(wanted)?;
                Ok(Tell::Done)
            }
            Ask::Release { session, held } => {
                let released = lock(&self.sessions).release(&self.calls, session, held)?;
                // Without the lock: the store may wake the thread that has the machine.
                drop(released);
                Ok(Tell::Done)
            }
            Ask::Withdraw { session, offer } => {
                let of = lock(&self.sessions).get(session)?.withdraw(offer);
                if let Some(of) = of {
                    self.calls.leave(Call::Withdraw { of });
                }
                Ok(Tell::Done)
            }
            Ask::Subscribe { session, reader, pattern, judges, progress, arriving, only } => {
                check_pattern(&pattern)?;
                let tells = Tells { progress, arriving };
                self.subscribe(session, reader, Wants { pattern, judges, tells, only })
            }
            Ask::Unsubscribe { session, reader } => {
                lock(&self.sessions).get(session)?.unsubscribe(&self.calls, reader);
                Ok(Tell::Done)
            }
            Ask::Judge { session, reader, of, interest } => {
                if let Some(reader) = lock(&self.sessions).get(session)?.reader(reader) {
                    self.calls.leave(Call::Judge { reader, of, interest: words::interest_of(interest) });
                }
                Ok(Tell::Done)
            }
            Ask::Reconsider { session, reader } => {
                if let Some(reader) = lock(&self.sessions).get(session)?.reader(reader) {
                    self.calls.leave(Call::Reconsider { reader });
                }
                Ok(Tell::Done)
            }
            Ask::Took { session, reader, notes, bytes } => {
                lock(&self.sessions).took(&self.calls, session, reader, notes, bytes)?;
                Ok(Tell::Done)
            }
            Ask::List { pattern, after } => self.list(pattern, after),
            Ask::Remove { session, of } => {
                lock(&self.sessions).get(session)?;
                self.calls.leave(Call::Withdraw { of });
                Ok(Tell::Done)
            }
            Ask::Counts => Ok(Tell::Counted(words::counts(self.calls.counts()))),
        }
    }

    fn list(&self, pattern: Pattern, after: Option<Reference>) -> Result<Tell, Error> {
        // One more, to know whether there are more.
        let most = HATCH_LISTED_MAX + 1;
        let mut listed = self.calls.ask(|answer| Call::List { pattern, after, most, answer })??;
        let more = listed.len() > HATCH_LISTED_MAX;
        listed.truncate(HATCH_LISTED_MAX);
        Ok(Tell::Listed { entries: listed.into_iter().map(words::entry).collect(), more })
    }

    /// Offers what came at once.
    fn offer_whole(&self, session: u64, offer: u64, keep: bool, offering: Offering) -> Result<Tell, Error> {
        let id = ArtifactId::of(&offering.body);
        lock(&self.sessions).get(session)?.comes(offer, Coming::Asked)?;
        let offered = self.offer(session, offer, keep, offering);
        if offered.is_err()
            && let Ok(session) = lock(&self.sessions).get(session)
        {
            session.withdraw(offer);
        }
        offered.map(|of| Tell::Offered { of, id })
    }

    /// Offers what comes under that number, unless it is given up meanwhile.
    pub(super) fn offer(
        &self,
        session: u64,
        offer: u64,
        keep: bool,
        offering: Offering,
    ) -> Result<Reference, Error> {
        lock(&self.sessions).get(session)?.is_coming(offer)?;
        // Without the lock: the thread that has the machine may be about to ring for it.
        let (of, standing) = self.calls.ask(|answer| Call::Offer { offering, answer })??;
        let kept = lock(&self.sessions)
            .get(session)
            .and_then(|session| session.offered(offer, of, keep, standing.clone()));
        match kept {
            Ok(()) => {
                standing.tell(self.news.clone(), Whose::Offer { session, offer });
                Ok(of)
            }
            Err(error) => {
                self.calls.leave(Call::Withdraw { of });
                Err(error)
            }
        }
    }

    /// Bytes of what is held for a program; an error of time where they have not come yet.
    fn read(&self, session: u64, held: u64, offset: u64, size: u32) -> Result<Vec<u8>, Error> {
        let lease = lock(&self.sessions).get(session)?.held(held)?;
        let mut bytes = vec![0; (size as usize).min(HATCH_BYTES_MAX)];
        let mut read = 0;
        while read < bytes.len() {
            let from = offset.saturating_add(read as u64);
            match lease.read_at(from, &mut bytes[read..], Deadline::after(Duration::ZERO)) {
                Ok(0) => break,
                Ok(count) => read += count,
                // What was read is said; the rest is asked for again.
                Err(_) if read > 0 => break,
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn subscribe(&self, session: u64, reader: u64, wants: Wants) -> Result<Tell, Error> {
        lock(&self.sessions).get(session)?.may_subscribe(reader)?;
        let whose = Whose::Reader { session, reader };
        let mailbox = Arc::new(Mailbox::told(self.news.clone(), whose));
        let id = self.calls.ask(|answer| {
            let mailbox = mailbox.clone();
            Call::Subscribe { wants, mailbox, answer }
        })??;
        let mut sessions = lock(&self.sessions);
        if let Err(error) = sessions.get(session).map(|session| session.subscribed(reader, id, mailbox)) {
            self.calls.leave(Call::Unsubscribe { reader: id });
            return Err(error);
        }
        drop(sessions);
        // What came before it was known here.
        self.news.tell(whose);
        Ok(Tell::Done)
    }
}

/// No session of that number.
pub(super) fn no_session() -> Error {
    ended()
}

fn reserved(name: &str) -> Error {
    Error::new(Code::ReservedTopic, "artifacts cannot be on a topic of the bus")
        .at(format!("topic {name}"))
        .remedy("choose a name that does not begin with `$`")
}

fn check_whole(body: &[u8]) -> Result<(), Error> {
    if body.len() as u64 <= ARTIFACT_WHOLE_BYTES_MAX {
        return Ok(());
    }
    let cause = format!("{} bytes of an artifact came at once", body.len());
    Err(Error::new(Code::TooLarge, cause).at("the artifacts of this node").remedy("offer it in parts"))
}

fn check_topic(topic: &Topic) -> Result<(), Error> {
    if topic.is_reserved() { Err(reserved(topic.as_str())) } else { Ok(()) }
}

/// Whether programs may ask for artifacts of this pattern.
pub(in crate::artifacts) fn check_pattern(pattern: &Pattern) -> Result<(), Error> {
    let name = pattern.as_str();
    if name.trim_start_matches('^').starts_with('$') { Err(reserved(name)) } else { Ok(()) }
}
