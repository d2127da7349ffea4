//! What the programs of a host have at the hatch: subscribers, offers, and what they were told and have not taken.
//!
//! A note goes from its mailbox into the lane of the program only while the subscriber there has room; until then it stays, as for a subscriber of this process.
//!
//! Invariants: a subscriber has at most `HATCH_NOTES_MAX` notes under way, and one beyond `HATCH_NOTES_BYTES_MAX` bytes; a program at most `HATCH_ENDS_MAX` ends of
//! offers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use busway_protocol::gossip::Reference;
use busway_shm::clock::{self, Deadline};
use busway_wire::hatch::{Tell, encode};
use busway_wire::limits::{
    HATCH_ENDS_MAX, HATCH_HELD_MAX, HATCH_LOOK_MS, HATCH_NOTES_BYTES_MAX, HATCH_NOTES_MAX, HATCH_READERS_MAX,
    HATCH_SESSIONS_MAX, HATCH_TAKEN_MAX,
};

use crate::artifacts::hatch::clerk::no_session;
use crate::artifacts::hatch::taken::Part;
use crate::artifacts::store::Lease;
use crate::artifacts::words;
use crate::error::{Code, Error};
use crate::responder::Request;
use crate::runtime::{Body, Call, Calls, Mailbox, Note, ReaderId, Standing, Taken, Whose};

/// A subscriber of a program.
#[derive(Debug)]
struct Reader {
    id: ReaderId,
    mailbox: Arc<Mailbox>,
    /// What it was told and has not taken.
    notes: u32,
    bytes: u64,
}

/// An offer of a program.
#[derive(Debug)]
struct Offered {
    of: Reference,
    standing: Arc<Standing>,
    keep: bool,
}

/// What an offer is before it stands.
#[derive(Debug)]
pub(super) enum Coming {
    /// It was asked for with all its bytes.
    Asked,
    /// Its bytes come, and go there.
    Parts(SyncSender<Part>),
    /// It comes to nothing, and why: whoever asks more of it is told.
    Failed(Error),
}

/// All that one program has here.
#[derive(Debug)]
pub(super) struct Session {
    request: Request,
    readers: BTreeMap<u64, Reader>,
    offers: BTreeMap<u64, Offered>,
    /// Offers that do not stand yet.
    coming: BTreeMap<u64, Coming>,
    /// Large artifacts that it has in hand.
    held: BTreeMap<u64, Lease>,
    next_held: u64,
    /// Ends that it was told and has not taken.
    ends: u32,
    /// Offers whose end it is to be told.
    ended: BTreeSet<u64>,
    /// It cannot be told any more.
    gone: bool,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<u64, Session>,
    looked_ns: u64,
}

impl Sessions {
    pub(super) fn has_room(&self) -> Result<(), Error> {
        if self.all.len() < HATCH_SESSIONS_MAX {
            return Ok(());
        }
        let cause = format!("{HATCH_SESSIONS_MAX} programs of this host use artifacts already");
        Err(Error::new(Code::Full, cause).at("the artifacts of this node").remedy("end some of them"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn admit(&mut self, number: u64, request: Request) {
        let session = Session {
            request,
            readers: BTreeMap::new(),
            offers: BTreeMap::new(),
            coming: BTreeMap::new(),
            held: BTreeMap::new(),
            next_held: 0,
            ends: 0,
            ended: BTreeSet::new(),
            gone: false,
        };
        self.all.insert(number, session);
    }

    pub(super) fn get(&mut self, number: u64) -> Result<&mut Session, Error> {
        self.all.get_mut(&number).filter(|session| !session.gone).ok_or_else(no_session)
    }

    /// Somebody has news.
    pub(super) fn tell(&mut self, calls: &Calls, whose: Whose) {
        let (Whose::Reader { session, .. } | Whose::Offer { session, .. }) = whose;
        let Ok(session) = self.get(session) else { return };
        match whose {
            Whose::Reader { reader, .. } => session.deliver(calls, reader),
            Whose::Offer { offer, .. } => {
                session.ended.insert(offer);
                session.tell_ends();
            }
        }
    }

    /// A subscriber has taken what it was told.
    pub(super) fn took(
        &mut self,
        calls: &Calls,
        session: u64,
        reader: u64,
        notes: u32,
        bytes: u64,
    ) -> Result<(), Error> {
        let session = self.get(session)?;
        if reader == 0 {
            session.ends = session.ends.saturating_sub(notes);
            session.tell_ends();
        } else if let Some(known) = session.readers.get_mut(&reader) {
            known.notes = known.notes.saturating_sub(notes);
            known.bytes = known.bytes.saturating_sub(bytes);
            session.deliver(calls, reader);
        }
        Ok(())
    }

    /// A program has something in hand no more.
    pub(super) fn release(&mut self, calls: &Calls, session: u64, held: u64) -> Result<Option<Lease>, Error> {
        let session = self.get(session)?;
        let was_full = session.held.len() >= HATCH_HELD_MAX;
        let released = session.held.remove(&held);
        if was_full {
            let readers: Vec<u64> = session.readers.keys().copied().collect();
            readers.into_iter().for_each(|reader| session.deliver(calls, reader));
        }
        Ok(released)
    }

    /// Ends the sessions of programs that are gone, now and then.
    pub(super) fn look(&mut self, calls: &Calls) {
        let now_ns = clock::monotonic_coarse_ns();
        if now_ns.saturating_sub(self.looked_ns) < HATCH_LOOK_MS * 1_000_000 {
            return;
        }
        self.looked_ns = now_ns;
        let gone = |(number, session): (&u64, &Session)| {
            (session.gone || session.request.is_cancelled()).then_some(*number)
        };
        let gone: Vec<u64> = self.all.iter().filter_map(gone).collect();
        for number in gone {
            self.end(calls, number);
        }
    }

    pub(super) fn end(&mut self, calls: &Calls, number: u64) {
        if let Some(session) = self.all.remove(&number) {
            session.end(calls);
        }
    }

    pub(super) fn end_all(&mut self, calls: &Calls) {
        for session in std::mem::take(&mut self.all).into_values() {
            session.end(calls);
        }
    }
}

impl Session {
    pub(super) fn may_offer(&self, offer: u64) -> Result<(), Error> {
        if self.offers.contains_key(&offer) || self.coming.contains_key(&offer) {
            Err(used())
        } else {
            Ok(())
        }
    }

    /// What came stands, unless it was given up meanwhile.
    pub(super) fn offered(
        &mut self,
        offer: u64,
        of: Reference,
        keep: bool,
        standing: Arc<Standing>,
    ) -> Result<(), Error> {
        self.is_coming(offer)?;
        self.coming.remove(&offer);
        self.offers.insert(offer, Offered { of, standing, keep });
        Ok(())
    }

    /// An offer is not given up.
    pub(super) fn is_coming(&self, offer: u64) -> Result<(), Error> {
        match self.coming.get(&offer) {
            Some(Coming::Asked | Coming::Parts(_)) => Ok(()),
            Some(Coming::Failed(error)) => Err(error.clone()),
            None => Err(not_begun()),
        }
    }

    /// An offer comes, under a number that was not used.
    pub(super) fn comes(&mut self, offer: u64, coming: Coming) -> Result<(), Error> {
        self.may_offer(offer)?;
        self.coming.insert(offer, coming);
        Ok(())
    }

    /// Where the bytes of an offer go.
    pub(super) fn parts(&self, offer: u64) -> Result<&SyncSender<Part>, Error> {
        match self.coming.get(&offer) {
            Some(Coming::Parts(to)) => Ok(to),
            Some(Coming::Failed(error)) => Err(error.clone()),
            Some(Coming::Asked) | None => Err(not_begun()),
        }
    }

    /// An offer that came comes to nothing. Its parts are told so until it is withdrawn; of very many, the last.
    pub(super) fn failed(&mut self, offer: u64, error: &Error) {
        let Some(coming) = self.coming.get_mut(&offer) else { return };
        *coming = Coming::Failed(error.clone());
        let failed =
            |(number, coming): (&u64, &Coming)| matches!(coming, Coming::Failed(_)).then_some(*number);
        let all: Vec<u64> = self.coming.iter().filter_map(failed).collect();
        if all.len() > HATCH_TAKEN_MAX
            && let Some(first) = all.first()
        {
            self.coming.remove(first);
        }
    }

    /// What is held for the program under this number.
    pub(super) fn held(&self, held: u64) -> Result<Lease, Error> {
        self.held.get(&held).cloned().ok_or_else(|| {
            Error::new(Code::BytesLost, "it is not held for this program")
                .at("the artifacts of this node")
                .remedy("fetch it again while somebody offers it")
        })
    }

    pub(super) fn withdraw(&mut self, offer: u64) -> Option<Reference> {
        self.ended.remove(&offer);
        // Who takes it in notices at the next part, or when it would stand.
        self.coming.remove(&offer);
        self.offers.remove(&offer).map(|offered| offered.of)
    }

    pub(super) fn may_subscribe(&self, reader: u64) -> Result<(), Error> {
        if reader == 0 || self.readers.contains_key(&reader) {
            return Err(used());
        }
        if self.readers.len() < HATCH_READERS_MAX {
            return Ok(());
        }
        let cause = format!("this program has {HATCH_READERS_MAX} subscribers to artifacts already");
        Err(Error::new(Code::Full, cause)
            .at("the artifacts of this node")
            .remedy("use one of them for several topics: a pattern, and its function of interest"))
    }

    pub(super) fn subscribed(&mut self, reader: u64, id: ReaderId, mailbox: Arc<Mailbox>) {
        self.readers.insert(reader, Reader { id, mailbox, notes: 0, bytes: 0 });
    }

    pub(super) fn unsubscribe(&mut self, calls: &Calls, reader: u64) {
        if let Some(reader) = self.readers.remove(&reader) {
            calls.leave(Call::Unsubscribe { reader: reader.id });
        }
    }

    pub(super) fn reader(&self, reader: u64) -> Option<ReaderId> {
        self.readers.get(&reader).map(|reader| reader.id)
    }

    /// Tells a subscriber what it has room for.
    fn deliver(&mut self, calls: &Calls, number: u64) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        while reader.notes < HATCH_NOTES_MAX && reader.bytes < HATCH_NOTES_BYTES_MAX && !self.gone {
            if self.held.len() >= HATCH_HELD_MAX {
                return;
            }
            let Taken::Note(note, was_full) = reader.mailbox.take(Deadline::after(Duration::ZERO)) else {
                return;
            };
            if was_full {
                calls.wake();
            }
            reader.notes += 1;
            reader.bytes += note.size() as u64;
            let said = match note {
                Note::Asked(advert) => {
                    encode(&Tell::Asked { reader: number, advert: words::advert(advert) }, &[])
                }
                Note::Received(advert, Body::Here(bytes)) => {
                    let advert = words::advert(advert);
                    encode(&Tell::Received { reader: number, advert, held: 0 }, &bytes)
                }
                Note::Received(advert, Body::Stored(lease)) => {
                    let held = hold(&mut self.held, &mut self.next_held, lease);
                    encode(&Tell::Received { reader: number, advert: words::advert(advert), held }, &[])
                }
                Note::Arriving(advert, Body::Stored(lease)) => {
                    let held = hold(&mut self.held, &mut self.next_held, lease);
                    encode(&Tell::Arriving { reader: number, advert: words::advert(advert), held }, &[])
                }
                // What is in this process is never in another.
                Note::Received(_, Body::Away(_)) | Note::Arriving(_, Body::Here(_) | Body::Away(_)) => {
                    continue;
                }
                Note::Progress(advert, have) => {
                    encode(&Tell::Progress { reader: number, advert: words::advert(advert), have }, &[])
                }
                Note::Withdrawn(advert) => {
                    encode(&Tell::Withdrawn { reader: number, advert: words::advert(advert) }, &[])
                }
            };
            self.gone |= self.request.reply_part(&said).is_err();
        }
    }

    /// Tells the program which of its offers have ended, as far as it has room.
    fn tell_ends(&mut self) {
        while self.ends < HATCH_ENDS_MAX && !self.gone {
            let Some(offer) = self.ended.pop_first() else { return };
            let Some(offered) = self.offers.remove(&offer) else { continue };
            let Some(stands) = words::stands(offered.standing.now()) else { continue };
            self.ends += 1;
            self.gone |= self.request.reply_part(&encode(&Tell::Ended { offer, stands }, &[])).is_err();
        }
    }

    fn end(self, calls: &Calls) {
        for reader in self.readers.into_values() {
            calls.leave(Call::Unsubscribe { reader: reader.id });
        }
        for offered in self.offers.into_values().filter(|offered| !offered.keep) {
            calls.leave(Call::Withdraw { of: offered.of });
        }
        // Who is there still hears that there is no more; nobody waits for it where nobody is.
        let _ = self.request.reply(&encode(&Tell::Done, &[]));
    }
}

/// Holds something for a program; under which number.
fn hold(held: &mut BTreeMap<u64, Lease>, next: &mut u64, lease: Lease) -> u64 {
    *next += 1;
    held.insert(*next, lease);
    *next
}

/// An offer that was not begun, or was given up.
fn not_begun() -> Error {
    Error::new(Code::ProtocolBroken, "this offer was not begun, or was given up")
        .at("the artifacts of this node")
        .remedy("begin it first")
}

/// A number that a session has used.
fn used() -> Error {
    Error::new(Code::ProtocolBroken, "a number is used twice in a session")
        .at("the artifacts of this node")
        .remedy("use the same version of busway everywhere")
}
