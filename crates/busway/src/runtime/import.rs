//! What a peer on another host sends to this one: a relay ring for each source, and what waits for room in it.
//!
//! A message goes into its ring as it comes. Where a subscriber has to be waited for, it waits here, in order, as do
//! those behind it: the session granted the peer no more than a window of each source, so that is all that can wait.
//! What order messages have, which of them came before, and how much may come, the session knows.
//!
//! Invariant: messages and gaps of a source enter its ring in the order in which they came, and each is answered to the
//! session once: as published, or as dropped with a cause. A chunk is in the ring, in what waits, in the message that is
//! coming or lent for a read of it, and goes back with its source.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busway_protocol::{Delivery, Input};
use busway_wire::limits::LINK_RESERVED_SOURCES_MAX;
use busway_wire::link::Announce;
use busway_wire::{Cause, HEADER_SIZE, Header, PortId, Records};

use crate::bus::Core;
use crate::outcome::SendError;
use crate::publisher::{Missing, Relay, RelayLoan};
use crate::runtime::opening::{Look, Opened, Opening};
use crate::runtime::{Outbound, UnderWay};

/// What waits for room.
#[derive(Debug)]
enum Queued {
    /// Extensions, as many bytes as the header says, and payload.
    Copied(Header, Vec<u8>),
    Loaned(Header, RelayLoan),
    Missing(Missing),
}

impl Queued {
    /// The last sequence that is passed with it.
    fn sequence(&self) -> u64 {
        match self {
            Queued::Copied(header, _) | Queued::Loaned(header, _) => header.sequence.get(),
            Queued::Missing(missing) => missing.to,
        }
    }
}

/// A large message of which not all has come.
#[derive(Debug)]
pub(crate) struct Partial {
    header: Header,
    place: Place,
    /// Bytes of extensions, which have come with the header.
    skip: u64,
}

#[derive(Debug)]
enum Place {
    Loaned(RelayLoan),
    /// No chunk was to be had at once: a subscriber holds too many. So many bytes before the payload are extensions.
    Copied(Vec<u8>, usize),
    /// No memory at all.
    Dropped,
}

impl Place {
    /// What lies from `at` on.
    fn from(&mut self, at: u64) -> &mut [u8] {
        let all = match self {
            Place::Loaned(loan) => loan.bytes_mut(),
            Place::Copied(copy, skip) => copy.get_mut(*skip..).unwrap_or_default(),
            Place::Dropped => &mut [],
        };
        all.get_mut(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let room = self.from(at);
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
    }
}

/// The rest of a piece of a large message, lent for one read: its bytes come to where they stay. Nothing else is done
/// with the message meanwhile, and no slot names it.
#[derive(Debug)]
pub(crate) struct Lent {
    source: PortId,
    partial: Partial,
    at: u64,
    len: usize,
}

impl Lent {
    /// Where the next bytes belong.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let room = self.partial.place.from(self.at);
        let len = self.len.min(room.len());
        &mut room[..len]
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the subscribers that were here before it.
    Opening(Opening),
    Open,
    /// Ends when nothing waits any more.
    Closing,
}

/// One source of the peer.
#[derive(Debug)]
struct Incoming {
    relay: Relay,
    reserved: bool,
    stage: Stage,
    queue: VecDeque<Queued>,
    partial: Option<Partial>,
}

impl Drop for Incoming {
    /// Whatever ends it, the memory of what has not come to its ring goes back.
    fn drop(&mut self) {
        let waiting = self.queue.drain(..).filter_map(|queued| match queued {
            Queued::Loaned(_, loan) => Some(loan),
            Queued::Copied(..) | Queued::Missing(_) => None,
        });
        let partial = self.partial.take().and_then(|partial| match partial.place {
            Place::Loaned(loan) => Some(loan),
            Place::Copied(..) | Place::Dropped => None,
        });
        for loan in waiting.chain(partial) {
            self.relay.put_back(loan);
        }
    }
}

/// Everything that comes from one peer.
#[derive(Debug)]
pub(crate) struct Imports {
    core: Arc<Core>,
    sources: BTreeMap<PortId, Incoming>,
    /// Sources that are not simply open: to be looked at again.
    waiting: Vec<PortId>,
    /// Those for which all subscribers have come.
    opened: Opened,
    /// How many of them have a reserved topic.
    reserved: usize,
}

/// What the session is told.
pub(crate) type Inputs = Vec<Input<Outbound>>;

impl Imports {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: core.clone(),
            sources: BTreeMap::new(),
            waiting: Vec::new(),
            opened: Opened::default(),
            reserved: 0,
        }
    }

    /// The peer has announced a source that we want.
    pub(crate) fn open(&mut self, announce: &Announce, now_ns: u64, inputs: &mut Inputs) {
        let source = announce.source;
        if let Some(known) = self.sources.get_mut(&source) {
            if known.stage == Stage::Closing {
                known.stage = Stage::Open;
            }
            if known.stage == Stage::Open {
                inputs.push(Input::RelayOpened { source });
            }
            return;
        }
        let reserved = announce.topic.is_reserved();
        if reserved && self.reserved >= LINK_RESERVED_SOURCES_MAX {
            tracing::warn!(target: "busway::link", topic = %announce.topic, "too many sources on reserved topics");
            inputs.push(Input::RelayRefused { source, cause: Cause::LinkBudget });
            return;
        }
        match Relay::open(&self.core, &announce.topic, source) {
            Ok(relay) => {
                self.reserved += usize::from(reserved);
                let stage = Stage::Opening(Opening::new(now_ns));
                self.sources.insert(
                    source,
                    Incoming { relay, reserved, stage, queue: VecDeque::new(), partial: None },
                );
                self.waiting.push(source);
            }
            Err(error) => {
                tracing::warn!(target: "busway::link", topic = %announce.topic, "no ring for a source: {error}");
                inputs.push(Input::RelayRefused { source, cause: Cause::LinkBudget });
            }
        }
    }

    /// How far what has come is.
    pub(crate) fn under_way(&self) -> UnderWay {
        let of = |incoming: &Incoming| match (incoming.queue.is_empty(), &incoming.partial) {
            (false, _) => UnderWay::Waits,
            (true, Some(_)) => UnderWay::Part,
            (true, None) => UnderWay::Nothing,
        };
        self.sources.values().map(of).max().unwrap_or(UnderWay::Nothing)
    }

    /// No message of this source will come any more.
    pub(crate) fn close(&mut self, source: PortId) {
        if let Some(incoming) = self.sources.get_mut(&source) {
            incoming.stage = Stage::Closing;
            self.waiting.push(source);
        }
    }

    /// As [`Imports::close`], at once: the source is another peer's, and what waits of it is dropped.
    pub(crate) fn cut(&mut self, source: PortId, inputs: &mut Inputs) {
        let Some(incoming) = self.sources.remove(&source) else { return };
        self.reserved -= usize::from(incoming.reserved);
        let cause = Cause::SpoofedSource;
        let waiting = incoming.queue.iter().map(Queued::sequence);
        inputs.extend(waiting.map(|sequence| Input::Dropped { source, sequence, cause }));
    }

    /// What is read of the peer's bytes.
    pub(crate) fn deliver(&mut self, delivery: Delivery<'_>, inputs: &mut Inputs) {
        match delivery {
            Delivery::Message { header, body } => self.message(&header, body, inputs),
            Delivery::Run { header, records } => self.run(&header, records, inputs),
            Delivery::Begin { header, extensions } => self.begin(header, extensions, inputs),
            Delivery::Bytes { source, offset, bytes } => {
                let Some(partial) = self.partial(source) else { return };
                // Extensions come first, and may end in the middle of these bytes.
                let early = usize::try_from(partial.skip.saturating_sub(offset)).unwrap_or(usize::MAX);
                let rest = bytes.get(early..).unwrap_or_default();
                partial.place.write(offset.saturating_sub(partial.skip), rest);
            }
            Delivery::End { source } => self.end(source, inputs),
        }
    }

    /// Lends the memory of the open message of a source, at most `remaining` bytes from `offset` on. It comes back by
    /// [`Imports::take_back`] before anything else is done. `None` where there is none.
    pub(crate) fn lend(&mut self, source: PortId, offset: u64, remaining: u64) -> Option<Lent> {
        let slot = &mut self.sources.get_mut(&source)?.partial;
        let mut partial = slot.take()?;
        // The extensions have come with the header.
        let at = offset.checked_sub(partial.skip).filter(|at| !partial.place.from(*at).is_empty());
        let Some(at) = at else {
            *slot = Some(partial);
            return None;
        };
        let len = usize::try_from(remaining).unwrap_or(usize::MAX);
        Some(Lent { source, partial, at, len })
    }

    /// See [`Imports::lend`].
    pub(crate) fn take_back(&mut self, lent: Lent) {
        if let Some(incoming) = self.sources.get_mut(&lent.source) {
            incoming.partial = Some(lent.partial);
        }
    }

    /// Messages of the origin that will not come.
    pub(crate) fn missing(&mut self, source: PortId, missing: Missing, inputs: &mut Inputs) {
        let Some(incoming) = self.sources.get_mut(&source) else { return };
        if incoming.queue.is_empty() && incoming.relay.missing(&missing).is_ok() {
            inputs.push(Input::Published { source, sequence: missing.to });
            return;
        }
        self.wait(source, Queued::Missing(missing), inputs);
    }

    /// A part of a message is no use without the rest.
    pub(crate) fn abort(&mut self, source: PortId) {
        let Some(incoming) = self.sources.get_mut(&source) else { return };
        if let Some(Partial { place: Place::Loaned(loan), .. }) = incoming.partial.take() {
            incoming.relay.put_back(loan);
        }
    }

    fn partial(&mut self, source: PortId) -> Option<&mut Partial> {
        self.sources.get_mut(&source)?.partial.as_mut()
    }

    fn message(&mut self, header: &Header, body: &[u8], inputs: &mut Inputs) {
        let (source, sequence) = (header.source(), header.sequence.get());
        let Some(incoming) = self.sources.get_mut(&source) else {
            inputs.push(Input::Dropped { source, sequence, cause: Cause::SpoofedSource });
            return;
        };
        if incoming.queue.is_empty() {
            let (extensions, payload) = parted(header, body);
            match incoming.relay.send(header, extensions, payload) {
                Ok(()) => return published(source, sequence, inputs),
                Err(error) if waits(&error) => {}
                Err(_) => {
                    return inputs.push(Input::Dropped { source, sequence, cause: Cause::LinkBudget });
                }
            }
        }
        match copy_of(body) {
            Some(copy) => self.wait(source, Queued::Copied(*header, copy), inputs),
            None => inputs.push(Input::Dropped { source, sequence, cause: Cause::LinkBudget }),
        }
    }

    /// Messages of one source: what is the same for all of them is found once.
    fn run(&mut self, header: &Header, mut records: Records<'_>, inputs: &mut Inputs) {
        let source = header.source();
        if let Some(incoming) = self.sources.get_mut(&source).filter(|incoming| incoming.queue.is_empty()) {
            let sent = incoming.relay.send_run(header, &mut records);
            if let Some(last) = sent {
                published(source, last, inputs);
            }
        }
        // What has no room waits, and what cannot be had is dropped, each for itself.
        for message in records {
            self.message(&message.header(header), message.payload, inputs);
        }
    }

    fn begin(&mut self, header: Header, extensions: &[u8], inputs: &mut Inputs) {
        let source = header.source();
        let Some(incoming) = self.sources.get_mut(&source) else {
            let sequence = header.sequence.get();
            return inputs.push(Input::Dropped { source, sequence, cause: Cause::SpoofedSource });
        };
        let skip = header.extension_bytes() as u64;
        let size = u64::from(header.size.get()).saturating_sub(HEADER_SIZE as u64);
        let len = usize::try_from(size.saturating_sub(skip)).unwrap_or(usize::MAX);
        let place = match incoming.relay.loan(extensions, len) {
            Ok(loan) => Place::Loaned(loan),
            Err(_) => {
                // Refused rather than aborted: the peer says how large it is, within what it was granted.
                let mut copy = Vec::new();
                match copy.try_reserve_exact(extensions.len().saturating_add(len)) {
                    Ok(()) => {
                        copy.extend_from_slice(extensions);
                        copy.extend(std::iter::repeat_n(0, len));
                        Place::Copied(copy, extensions.len())
                    }
                    Err(_) => Place::Dropped,
                }
            }
        };
        incoming.partial = Some(Partial { header, place, skip });
    }

    fn end(&mut self, source: PortId, inputs: &mut Inputs) {
        let Some(incoming) = self.sources.get_mut(&source) else { return };
        let Some(Partial { header, place, .. }) = incoming.partial.take() else { return };
        let sequence = header.sequence.get();
        match place {
            Place::Dropped => inputs.push(Input::Dropped { source, sequence, cause: Cause::LinkBudget }),
            Place::Copied(copy, _) => self.wait(source, Queued::Copied(header, copy), inputs),
            Place::Loaned(loan) => self.wait(source, Queued::Loaned(header, loan), inputs),
        }
        self.drain(source, inputs);
    }

    fn wait(&mut self, source: PortId, queued: Queued, inputs: &mut Inputs) {
        let Some(incoming) = self.sources.get_mut(&source) else { return };
        incoming.queue.push_back(queued);
        self.waiting.push(source);
        inputs.push(Input::Suspended { source });
    }

    /// Puts into the ring what has room now.
    fn drain(&mut self, source: PortId, inputs: &mut Inputs) {
        let Some(Incoming { relay, queue, .. }) = self.sources.get_mut(&source) else { return };
        while let Some(first) = queue.pop_front() {
            let sequence = first.sequence();
            let kept = match first {
                Queued::Copied(header, copy) => {
                    let (extensions, payload) = parted(&header, &copy);
                    relay
                        .send(&header, extensions, payload)
                        .map_err(|error| (error, Queued::Copied(header, copy)))
                }
                Queued::Loaned(header, loan) => relay.finish(&header, loan).map_err(|unsent| {
                    let (error, loan) = *unsent;
                    (error, Queued::Loaned(header, loan))
                }),
                Queued::Missing(missing) => {
                    relay.missing(&missing).map_err(|error| (error, Queued::Missing(missing)))
                }
            };
            match kept {
                Ok(()) => published(source, sequence, inputs),
                Err((error, kept)) if waits(&error) => return queue.push_front(kept),
                Err((_, kept)) => {
                    if let Queued::Loaned(_, loan) = kept {
                        relay.put_back(loan);
                    }
                    inputs.push(Input::Dropped { source, sequence, cause: Cause::LinkBudget });
                }
            }
        }
    }

    /// Whether relay rings wait for their subscribers.
    pub(crate) fn is_opening(&self) -> bool {
        self.sources.values().any(|incoming| matches!(incoming.stage, Stage::Opening(_)))
    }

    /// Whether `look_again` would look at anything.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Looks again at what was not simply open; true while anything is not.
    pub(crate) fn look_again(&mut self, now_ns: u64, inputs: &mut Inputs) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_unstable();
        waiting.dedup();
        self.look_at_relays(&waiting, now_ns, inputs);
        for source in waiting {
            self.drain(source, inputs);
            let Some(incoming) = self.sources.get(&source) else { continue };
            match (&incoming.stage, incoming.queue.is_empty()) {
                // Its readers read on to the end of its ring.
                (Stage::Closing, true) => {
                    self.reserved -= usize::from(incoming.reserved);
                    self.sources.remove(&source);
                }
                (Stage::Open, true) => {}
                (Stage::Opening(_) | Stage::Open | Stage::Closing, _) => self.waiting.push(source),
            }
        }
        !self.waiting.is_empty()
    }

    /// Opens those of these sources whose subscribers have come, or for which it was waited long enough.
    fn look_at_relays(&mut self, waiting: &[PortId], now_ns: u64, inputs: &mut Inputs) {
        let mut opening: Vec<(u64, PortId)> = Vec::new();
        for source in waiting {
            if let Some(Incoming { stage: Stage::Opening(opens), .. }) = self.sources.get(source) {
                opening.push((opens.since_ns(), *source));
            }
        }
        opening.sort_unstable();
        let mut look = Look::new(&mut self.opened, now_ns);
        for (_, source) in opening {
            let Some(Incoming { stage, relay, .. }) = self.sources.get_mut(&source) else { continue };
            let Stage::Opening(opening) = stage else { continue };
            if look.opens(opening, relay.is_ready(), relay.come()) {
                relay.give_up_waiting();
                *stage = Stage::Open;
                inputs.push(Input::RelayOpened { source });
            }
        }
    }
}

/// What follows the header of a message: extensions, and payload.
fn parted<'a>(header: &Header, body: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    body.split_at_checked(header.extension_bytes()).unwrap_or_default()
}

/// All up to `sequence` stands in the ring: one word for as many messages as followed each other.
fn published(source: PortId, sequence: u64, inputs: &mut Inputs) {
    if let Some(Input::Published { source: same, sequence: last }) = inputs.last_mut()
        && *same == source
    {
        *last = sequence;
        return;
    }
    inputs.push(Input::Published { source, sequence });
}

/// Whether a send may succeed later.
fn waits(error: &SendError) -> bool {
    match error {
        SendError::Full(_) | SendError::Timeout(_) | SendError::OutOfMemory(_) => true,
        SendError::TooLarge { .. } | SendError::Encode(_) | SendError::Closed | SendError::Forked => false,
    }
}

fn copy_of(payload: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(payload.len()).ok()?;
    copy.extend_from_slice(payload);
    Some(copy)
}

#[cfg(test)]
mod tests;
