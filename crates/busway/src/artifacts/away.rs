//! The artifacts of a node in another process of the host: what its hatch is, seen from the program.
//!
//! What a program wants is the same `Call` that the thread of a node in its own process takes; here it becomes a request, made by the thread that wants it. One request stays
//! open; a thread, `bw-artifacts`, takes what it is told there and puts it where a node of this process would: into mailboxes of subscribers, and how offers stand.
//!
//! When the node goes all has ended that it had, as if a node of this process were closed. Who asks for artifacts after that finds the next node, if there is one.
//!
//! Invariants: the open request is dropped with the last who uses it, so that what they had ends at the node. What nobody waits for is under way at most
//! `LOOSE_MAX` times, and is done or ends the session: none of it is lost without a word.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_protocol::gossip::{ArtifactId, Reference};
use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::hatch::{self, Ask, Tell, decode_tell, encode, topic, topic_alone, topic_of};
use busway_wire::limits::{
    ARTIFACT_ATTRIBUTE_BYTES_MAX, ARTIFACT_BYTES_MAX, ARTIFACT_WHOLE_BYTES_MAX, HATCH_AHEAD_MAX,
    HATCH_BYTES_MAX, HATCH_ENDS_MAX, HATCH_LOOK_MS, HATCH_NOTES_BYTES_MAX, HATCH_NOTES_MAX,
};
use busway_wire::{Pattern, Topic};

use crate::artifacts::{Counts, words};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::outcome::RecvError;
use crate::ports::lock;
use crate::requester::{Pending, RequestError, Requester, RequesterBuilder};
use crate::runtime::{
    Body, Call, Calls, Listed, Mailbox, Note, ReaderId, Standing, Stands, Tells, Wants, ended,
};

/// For so long a program waits for the node of its host: those that are started together meet within it.
const NODE_WAIT: Duration = Duration::from_secs(1);
/// Requests under way that nobody waits for. One more waits for the first of them.
const LOOSE_MAX: usize = 64;
/// So often the thread that is told looks whether it is to end.
const LOOK: Duration = Duration::from_millis(HATCH_LOOK_MS);
/// Bytes of a part of a large artifact: with its word it fills a chunk, and no more.
const PART_BYTES: usize = HATCH_BYTES_MAX - 4_096;
/// For so long one is waited for: the node writes it to a disk.
const PART_WAIT: Duration = Duration::from_secs(60);
/// So often bytes are asked for that have not come.
const COME: Duration = Duration::from_millis(10);
/// What was taken is said when it is such a part of what may be under way.
const PARTS: u32 = 4;

/// A subscriber of this process.
#[derive(Debug)]
struct Reader {
    mailbox: Arc<Mailbox>,
    /// What it has taken and the node was not told of.
    notes: u32,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    readers: BTreeMap<u64, Reader>,
    /// Where each stands, once that is known.
    offers: BTreeMap<u64, (Option<Reference>, Arc<Standing>)>,
    numbers: BTreeMap<Reference, u64>,
    /// Ends that were heard and the node was not told of.
    heard: u32,
    loose: VecDeque<Pending>,
}

/// What who calls and who is told share.
#[derive(Debug)]
struct Shared {
    requester: Requester,
    session: u64,
    timeout: Duration,
    state: Mutex<State>,
    ended: AtomicBool,
    leaves: AtomicBool,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Away {
    shared: Arc<Shared>,
    bus: Bus,
    thread: Option<JoinHandle<()>>,
}

/// The door of a node of this host: of one that reaches other hosts, if there is one.
fn door(bus: &Bus) -> Result<Requester, Error> {
    // Who answers already is known when a requester is open.
    let open = |topic| RequesterBuilder::of_bus(bus, topic).late_join(NODE_WAIT).open();
    let (door, alone) = (open(topic())?, open(topic_alone())?);
    let deadline = Deadline::after(NODE_WAIT);
    while door.responders() == 0 && !deadline.expired() && !bus.is_closed() {
        if alone.responders() > 0 {
            return Ok(alone);
        }
        std::thread::park_timeout(COME);
    }
    Ok(door)
}

/// What is wanted of the node of this host, which is asked for a session if this process has none.
pub(super) fn calls(bus: &Bus, pattern: &Pattern) -> Result<Arc<Calls>, Error> {
    let mut known = lock(&bus.core.artifacts_away);
    if let Some(calls) = known.upgrade().filter(|calls| !calls.has_ended()) {
        return Ok(calls);
    }
    let calls = Arc::new(Calls::away(Away::open(bus, pattern)?)?);
    *known = Arc::downgrade(&calls);
    Ok(calls)
}

impl Away {
    fn open(bus: &Bus, pattern: &Pattern) -> Result<Away, Error> {
        let timeout = bus.core.timeout;
        let door = door(bus)?;
        let failed = |error| match error {
            RequestError::NoResponders => no_node(pattern),
            error => Error::from(error),
        };
        let mut pending = door.send(&encode(&Ask::Open, &[]), Duration::MAX).map_err(failed)?;
        let reply = pending.recv_timeout(timeout).map_err(failed)?;
        let Some(reply) = reply else {
            return Err(Error::new(
                Code::TimedOut,
                format!("the node of this host does not answer in {timeout:?}"),
            )
            .at(format!("artifacts {}", pattern.as_str()))
            .remedy("see what it does: busway node info"));
        };
        let (session, hatch) = match tell(&reply)? {
            (Tell::Opened { session, hatch }, _) => (session, hatch),
            (other, _) => return Err(unexpected(&other)),
        };
        drop(reply);
        let requester = RequesterBuilder::of_bus(bus, topic_of(hatch)).late_join(NODE_WAIT).open()?;
        let shared = Arc::new(Shared {
            requester,
            session,
            timeout,
            state: Mutex::default(),
            ended: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
        });
        let told = shared.clone();
        let name = "bw-artifacts".to_owned();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || told.listen(pending));
        let thread = thread.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at(name)
                .remedy("raise the limit on processes: ulimit -u")
        })?;
        Ok(Away { shared, bus: bus.clone(), thread: Some(thread) })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shared.has_ended()
    }

    pub(crate) fn counts(&self) -> Result<Counts, Error> {
        match self.shared.ask(&Ask::Counts, &[])? {
            Tell::Counted(counts) => Ok(words::counts_of(counts)),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes back what the node offers, and waits until it says so.
    pub(crate) fn remove(&self, of: Reference) -> Result<(), Error> {
        self.shared.ask(&Ask::Remove { session: self.shared.session, of }, &[]).map(drop)
    }

    /// A subscriber has taken a note with so many bytes.
    pub(crate) fn took(&self, reader: ReaderId, bytes: usize) {
        self.shared.took(reader.0, bytes);
    }

    /// Offers what `from` gives to the calling thread: so many bytes, where that is known.
    pub(crate) fn offer(
        &self,
        topic: Topic,
        attribute: Vec<u8>,
        how: (bool, Option<u64>),
        from: Box<dyn Read + Send>,
        size: Option<u64>,
    ) -> Result<(Reference, ArtifactId, Arc<Standing>), Error> {
        self.shared.offer(topic, attribute, how, (from, size))
    }

    /// Does what a program wants, by asking the node.
    pub(crate) fn call(&self, call: Call) {
        let shared = &self.shared;
        let session = shared.session;
        match call {
            // Those are made by `offer`, which knows more of them. Whoever waits for this one has no answer.
            Call::Offer { answer, .. } => drop(answer),
            // A node's own workers say that, and to their own node.
            Call::Hear { answer, .. } => drop(answer),
            Call::Withdraw { of } => {
                let number = lock(&shared.state).numbers.get(&of).copied();
                match number {
                    Some(offer) => {
                        shared.over(offer, Stands::Withdrawn);
                        shared.leave(&Ask::Withdraw { session, offer });
                    }
                    None => shared.leave(&Ask::Remove { session, of }),
                }
            }
            Call::Subscribe { wants, mailbox, answer } => {
                drop(answer.send(shared.subscribe(wants, mailbox)));
            }
            Call::Unsubscribe { reader } => {
                let removed = lock(&shared.state).readers.remove(&reader.0);
                // Without the lock: what waits there may be held at the node, and is let go with it.
                drop(removed);
                shared.leave(&Ask::Unsubscribe { session, reader: reader.0 });
            }
            Call::Judge { reader, of, interest } => {
                let interest = words::interest(interest);
                shared.leave(&Ask::Judge { session, reader: reader.0, of, interest });
            }
            Call::Reconsider { reader } => shared.leave(&Ask::Reconsider { session, reader: reader.0 }),
            // They are followed where the node is.
            Call::FollowRules => {}
            Call::List { pattern, after, most, answer } => {
                drop(answer.send(shared.list(&pattern, after, most)));
            }
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if self.bus.is_inherited() {
            return;
        }
        self.shared.leaves.store(true, Ordering::Release); // pairs with Acquire in `Shared::listen`
        if !self.has_ended() && !self.bus.is_closed() {
            // The node ends the open request, and the thread with it. A node that is not there notices nothing, and keeps nothing.
            let close = encode(&Ask::Close { session: self.shared.session }, &[]);
            let _ = self.shared.requester.request(&close, LOOK);
        }
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) // pairs with Release in `end`
    }

    /// Asks, and waits for the answer.
    fn ask(&self, ask: &Ask, following: &[u8]) -> Result<Tell, Error> {
        self.ask_for(ask, following, |tell, _| Ok(tell))
    }

    /// As `ask`, for what follows the answer as well.
    fn ask_for<T>(
        &self,
        ask: &Ask,
        following: &[u8],
        read: impl FnOnce(Tell, &[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.has_ended() {
            return Err(ended());
        }
        let reply = self.requester.request(&encode(ask, following), self.timeout).map_err(gone)?;
        let (tell, bytes) = tell(&reply)?;
        read(tell, bytes)
    }

    /// Asks, and waits for nothing but room.
    fn leave(&self, ask: &Ask) {
        if self.has_ended() {
            return;
        }
        // It has no deadline: a node that stands still for a while does it when it goes on.
        let sent = self.requester.send_within(&encode(ask, &[]), Duration::MAX, self.timeout);
        let pending = match sent {
            Ok(Some(pending)) => pending,
            // The lock may be taken for ever.
            Err(RequestError::Receive(RecvError::Forked)) => return,
            Ok(None) | Err(_) => return self.give_up(),
        };
        let mut state = lock(&self.state);
        state.loose.push_back(pending);
        while let Some(first) = state.loose.front_mut() {
            let answered = first.try_recv();
            let waits = matches!(answered, Ok(None)) && !first.is_over();
            if waits && state.loose.len() <= LOOSE_MAX {
                return;
            }
            let Some(mut first) = state.loose.pop_front() else { return };
            drop(state);
            // What it answers changes nothing here; that it does not does: what was to be done at the node ends with the session.
            let answered = if waits { first.recv_timeout(self.timeout) } else { answered };
            if !matches!(answered, Ok(Some(_))) {
                return self.give_up();
            }
            state = lock(&self.state);
        }
    }

    /// Offers what this thread reads.
    fn offer(
        &self,
        topic: Topic,
        attribute: Vec<u8>,
        (keep, reach_all_ms): (bool, Option<u64>),
        (mut from, size): (Box<dyn Read + Send>, Option<u64>),
    ) -> Result<(Reference, ArtifactId, Arc<Standing>), Error> {
        check(attribute.len())?;
        check_size(size.unwrap_or(0))?;
        let (session, mut first) = (self.session, Vec::new());
        let read = (&mut from).take(ARTIFACT_WHOLE_BYTES_MAX + 1).read_to_end(&mut first);
        read.map_err(|error| unreadable(&error))?;
        let standing = Arc::<Standing>::default();
        let offer = {
            let mut state = lock(&self.state);
            state.next += 1;
            let number = state.next;
            // Before it is asked: it may end before its answer is read.
            state.offers.insert(number, (None, standing.clone()));
            number
        };
        let asked = if first.len() as u64 <= ARTIFACT_WHOLE_BYTES_MAX {
            let ask = Ask::Offer { session, offer, topic, attribute, keep, reach_all_ms };
            self.ask(&ask, &first)
        } else {
            let begin = Ask::Begin { session, offer, topic, attribute, size, keep, reach_all_ms };
            let mut all = first.chain(from);
            self.ask(&begin, &[]).and_then(|_| match size {
                // What a file has grown by since it was opened is not of it.
                Some(size) => self.send_parts(offer, &mut all.take(size)),
                None => self.send_parts(offer, &mut all),
            })
        };
        let asked = asked.and_then(|tell| match tell {
            Tell::Offered { of, id } => Ok((of, id)),
            other => Err(unexpected(&other)),
        });
        match asked {
            Ok((of, id)) => {
                let mut state = lock(&self.state);
                if let Some((known, _)) = state.offers.get_mut(&offer) {
                    *known = Some(of);
                    state.numbers.insert(of, offer);
                }
                Ok((of, id, standing))
            }
            Err(error) => {
                lock(&self.state).offers.remove(&offer);
                // It may have been done all the same, or in part.
                self.leave(&Ask::Withdraw { session, offer });
                Err(error)
            }
        }
    }

    /// Sends what is read, some parts ahead of what the node has taken in.
    fn send_parts(&self, offer: u64, from: &mut dyn Read) -> Result<Tell, Error> {
        let (session, mut ahead) = (self.session, VecDeque::new());
        let mut part = Vec::with_capacity(PART_BYTES);
        loop {
            part.clear();
            let most = PART_BYTES as u64;
            from.take(most).read_to_end(&mut part).map_err(|error| unreadable(&error))?;
            if part.is_empty() {
                break;
            }
            if ahead.len() >= HATCH_AHEAD_MAX
                && let Some(first) = ahead.pop_front()
            {
                self.done(first)?;
            }
            let body = encode(&Ask::Body { session, offer }, &part);
            ahead.push_back(self.requester.send(&body, PART_WAIT).map_err(gone)?);
        }
        ahead.into_iter().try_for_each(|pending| self.done(pending).map(drop))?;
        let commit = encode(&Ask::Commit { session, offer }, &[]);
        // The node may read and write all of it once more: it is waited for as long as the node is there.
        let mut pending = self.requester.send(&commit, Duration::MAX).map_err(gone)?;
        while !self.has_ended() {
            if let Some(reply) = pending.recv_timeout(LOOK).map_err(gone)? {
                return tell(&reply).map(|(tell, _)| tell);
            }
        }
        Err(ended())
    }

    fn done(&self, mut pending: Pending) -> Result<Tell, Error> {
        let reply = pending.recv().map_err(gone)?.ok_or_else(ended)?;
        tell(&reply).map(|(tell, _)| tell)
    }

    fn subscribe(&self, wants: Wants, mailbox: Arc<Mailbox>) -> Result<ReaderId, Error> {
        let reader = {
            let mut state = lock(&self.state);
            state.next += 1;
            let number = state.next;
            state.readers.insert(number, Reader { mailbox, notes: 0, bytes: 0 });
            number
        };
        let Wants { pattern, judges, tells: Tells { progress, arriving }, only } = wants;
        let session = self.session;
        let subscribe = Ask::Subscribe { session, reader, pattern, judges, progress, arriving, only };
        if let Err(error) = self.ask(&subscribe, &[]) {
            lock(&self.state).readers.remove(&reader);
            self.leave(&Ask::Unsubscribe { session: self.session, reader });
            return Err(error);
        }
        if self.has_ended() {
            return Err(ended());
        }
        Ok(ReaderId(reader))
    }

    fn list(&self, pattern: &Pattern, after: Option<Reference>, most: usize) -> Result<Vec<Listed>, Error> {
        let (mut after, mut listed) = (after, Vec::new());
        loop {
            let (entries, more) = match self.ask(&Ask::List { pattern: pattern.clone(), after }, &[])? {
                Tell::Listed { entries, more } => (entries, more),
                other => return Err(unexpected(&other)),
            };
            let last = entries.last().map(|entry| entry.advert.of);
            listed.extend(entries.into_iter().map(words::listed));
            // A page that does not go on would go on for ever.
            if !more || last <= after || listed.len() >= most {
                listed.truncate(most);
                return Ok(listed);
            }
            after = last;
        }
    }

    /// The body of `bw-artifacts`.
    fn listen(self: &Arc<Self>, mut pending: Pending) {
        loop {
            // pairs with Release in `Away::drop` and `Shared::give_up`
            let leaves = self.leaves.load(Ordering::Acquire);
            match pending.recv_timeout(LOOK) {
                Ok(Some(reply)) => self.hear(&reply),
                Ok(None) if pending.is_over() || leaves => break,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(target: "busway::gossip", "the node of this host is gone: {error}");
                    break;
                }
            }
        }
        self.end();
    }

    fn hear(self: &Arc<Self>, reply: &[u8]) {
        let held = |held, advert: &hatch::Advert| {
            let grip = Grip { shared: self.clone(), held, size: advert.size };
            Body::Away(Held { grip: Arc::new(grip) })
        };
        match decode_tell(reply) {
            Ok((Tell::Asked { reader, advert }, _)) => {
                self.note(reader, Note::Asked(words::advert_of(advert)));
            }
            Ok((Tell::Received { reader, advert, held: 0 }, bytes)) => {
                if advert.size != bytes.len() as u64 || advert.id != ArtifactId::of(bytes) {
                    // Who answers need not be a node.
                    tracing::warn!(target: "busway::gossip", "bytes of another artifact than {} came", advert.id);
                    return;
                }
                let body = Body::Here(bytes.into());
                self.note(reader, Note::Received(words::advert_of(advert), body));
            }
            Ok((Tell::Received { reader, advert, held: number }, _)) => {
                let body = held(number, &advert);
                self.note(reader, Note::Received(words::advert_of(advert), body));
            }
            Ok((Tell::Arriving { reader, advert, held: number }, _)) => {
                let body = held(number, &advert);
                self.note(reader, Note::Arriving(words::advert_of(advert), body));
            }
            Ok((Tell::Progress { reader, advert, have }, _)) => {
                if let Some(mailbox) = self.mailbox(reader) {
                    mailbox.progress(&words::advert_of(advert), have);
                }
                // The latest replaces what was not taken: there is room again at once.
                self.took(reader, 0);
            }
            Ok((Tell::Withdrawn { reader, advert }, _)) => {
                self.note(reader, Note::Withdrawn(words::advert_of(advert)));
            }
            Ok((Tell::Ended { offer, stands }, _)) => {
                self.over(offer, words::stands_of(stands));
                self.heard();
            }
            Ok((Tell::Done, _)) => {}
            Ok((other, _)) => {
                tracing::warn!(target: "busway::gossip", "{}", unexpected(&other).cause());
            }
            Err(error) => tracing::warn!(target: "busway::gossip", "the node of this host: {error}"),
        }
    }

    fn mailbox(&self, reader: u64) -> Option<Arc<Mailbox>> {
        lock(&self.state).readers.get(&reader).map(|reader| reader.mailbox.clone())
    }

    fn note(&self, reader: u64, note: Note) {
        if let Some(mailbox) = self.mailbox(reader) {
            mailbox.put(note);
        }
    }

    /// A subscriber has taken a note with so many bytes.
    fn took(&self, reader: u64, bytes: usize) {
        let mut state = lock(&self.state);
        let Some(known) = state.readers.get_mut(&reader) else { return };
        known.notes += 1;
        known.bytes = known.bytes.saturating_add(bytes as u64);
        let (notes_most, bytes_most) = (HATCH_NOTES_MAX / PARTS, HATCH_NOTES_BYTES_MAX / u64::from(PARTS));
        if known.notes < notes_most && known.bytes < bytes_most {
            return;
        }
        let (notes, bytes) = (std::mem::take(&mut known.notes), std::mem::take(&mut known.bytes));
        drop(state);
        self.leave(&Ask::Took { session: self.session, reader, notes, bytes });
    }

    /// An offer has ended.
    fn over(&self, offer: u64, how: Stands) {
        let mut state = lock(&self.state);
        let Some((of, standing)) = state.offers.remove(&offer) else { return };
        of.map(|of| state.numbers.remove(&of));
        drop(state);
        standing.end(how);
    }

    /// The end of an offer was heard.
    fn heard(&self) {
        let mut state = lock(&self.state);
        state.heard += 1;
        if state.heard < HATCH_ENDS_MAX / PARTS {
            return;
        }
        let notes = std::mem::take(&mut state.heard);
        drop(state);
        self.leave(&Ask::Took { session: self.session, reader: 0, notes, bytes: 0 });
    }

    /// The node is there and does not answer: it is taken for gone.
    fn give_up(&self) {
        self.leaves.store(true, Ordering::Release); // pairs with Acquire in `listen`
        self.end();
    }

    /// Nothing will be told any more.
    fn end(&self) {
        self.ended.store(true, Ordering::Release); // pairs with Acquire in `has_ended`
        let State { readers, offers, loose, .. } = std::mem::take(&mut *lock(&self.state));
        drop(loose);
        for (_, standing) in offers.into_values() {
            standing.end(Stands::Withdrawn);
        }
        for reader in readers.into_values() {
            reader.mailbox.end();
        }
    }
}

/// What a reply says, if it is no refusal.
fn tell(reply: &[u8]) -> Result<(Tell, &[u8]), Error> {
    let told = decode_tell(reply).map_err(|error| {
        Error::new(Code::ProtocolBroken, format!("the node of this host is not understood: {error}"))
            .at("artifacts")
            .remedy("use the same version of busway everywhere")
    })?;
    if let (refused @ Tell::Refused { .. }, _) = &told { Err(unexpected(refused)) } else { Ok(told) }
}

/// Why there is no reply.
fn gone(error: RequestError) -> Error {
    match error {
        RequestError::NoResponders | RequestError::ResponderDied | RequestError::Unanswered => ended(),
        error => Error::from(error),
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::new(Code::StoreUnusable, format!("it cannot be read: {error}"))
        .at("what is to be offered")
        .remedy("offer what can be read to its end")
}

fn unexpected(tell: &Tell) -> Error {
    let Tell::Refused { code, cause, place, remedy } = tell else {
        return Error::new(Code::ProtocolBroken, "the node of this host answers something else")
            .at("artifacts")
            .remedy("use the same version of busway everywhere");
    };
    words::error_of(*code, cause.clone(), place.clone(), remedy.clone())
}

fn no_node(pattern: &Pattern) -> Error {
    Error::new(Code::NoNode, "no node of this host shares artifacts")
        .at(format!("topic {}", pattern.as_str()))
        .remedy("start one: busway up; or open one in a program, with Node::builder().index(..)")
}

/// What no word can say.
fn check(attribute: usize) -> Result<(), Error> {
    if attribute <= ARTIFACT_ATTRIBUTE_BYTES_MAX {
        return Ok(());
    }
    let cause =
        format!("an attribute of {attribute} bytes, at most {ARTIFACT_ATTRIBUTE_BYTES_MAX} are allowed");
    Err(Error::new(Code::TooLarge, cause)
        .at("the artifacts of this node")
        .remedy("say less in the attribute"))
}

/// What no node takes, said before any of it is sent: the node ends what is so large with its first part.
fn check_size(size: u64) -> Result<(), Error> {
    if size <= ARTIFACT_BYTES_MAX {
        return Ok(());
    }
    let cause = format!("an artifact of {size} bytes, at most {ARTIFACT_BYTES_MAX} are allowed");
    Err(Error::new(Code::TooLarge, cause).at("the artifacts of this node").remedy("offer it in parts"))
}

/// What the node holds for this program, as long as somebody here has this.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    grip: Arc<Grip>,
}

#[derive(Debug)]
struct Grip {
    shared: Arc<Shared>,
    held: u64,
    size: u64,
}

impl Held {
    pub(crate) fn size(&self) -> u64 {
        self.grip.size
    }

    /// Reads some bytes from there; none at the end. Waits until then for what has not come.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        let Grip { shared, held, size } = &*self.grip;
        if offset >= *size || buf.is_empty() {
            return Ok(0);
        }
        let most = u32::try_from(buf.len().min(HATCH_BYTES_MAX)).unwrap_or_default();
        let read = Ask::Read { session: shared.session, held: *held, offset, size: most };
        loop {
            let got = shared.ask_for(&read, &[], |tell, bytes| match tell {
                Tell::Bytes => {
                    let count = bytes.len().min(buf.len());
                    buf[..count].copy_from_slice(&bytes[..count]);
                    Ok(count)
                }
                other => Err(unexpected(&other)),
            });
            match got {
                Err(error) if error.code() == Code::TimedOut && !deadline.expired() => {
                    let pause = deadline.remaining().map_or(COME, |left| left.min(COME));
                    std::thread::park_timeout(pause);
                }
                got => return got,
            }
        }
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        self.shared.leave(&Ask::Release { session: self.shared.session, held: self.held });
    }
}
