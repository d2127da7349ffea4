//! The messages, gaps and ends of our sources that wait for the connection, a queue a source, taken in turn by rank.
//!
//! A message that is larger than a fragment is bulk, the lowest rank: one fragment of it goes at a time, so that whatever is
//! more urgent, and other bulk, passes between two. Fragments are small while others share the link, else as large as there
//! is room for; and they begin only while there is room at all, which is told from outside. What a source may have under
//! way is looked at here, where it leaves. What was sent on an earlier connection is not known. A program may write on in
//! what it has sent: what is copied is summed as it goes, and what goes from where it lies may not be what was summed; then
//! its receiver loses that one message.
//!
//! Invariant: a source's queue goes out in order, each message whole or part by part, with nothing of that source
//! in between.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

use busway_wire::limits::{
    EXTENSION_BYTES_MAX, LINK_ALONG_BYTES, LINK_BATCH_BYTES, LINK_COPY_BYTES, LINK_FRAGMENT_BYTES,
    LINK_PART_BYTES, LINK_PART_BYTES_MAX, LINK_QUEUE_BYTES_MAX, LINK_QUEUE_MESSAGES_MAX, LINK_SHARED_MS,
};
use busway_wire::link::{self, Frame, Gap, Retire};
use busway_wire::{Extensions, Flags, HEADER_SIZE, Header, Kind, Part, PortId, Run, Seed};

use crate::batch::Batch;
use crate::flow::Flow;
use crate::link::credit::{Amount, Grant};
use crate::link::lanes::{Held, Lanes, Rank, Turn};
use crate::time::Time;

/// What waits, and how far what goes has gone.
#[derive(Debug)]
pub(crate) struct Outgoing<P> {
    cluster: Seed,
    queues: BTreeMap<PortId, Queue<P>>,
    lanes: Lanes,
    /// Bytes of bulk that may begin to go; any number where nobody has said.
    room: Option<u64>,
    /// Bytes of bulk that have gone.
    bulk_out: u64,
    /// Bytes that may wait here, bulk and all else apart, and no more go into one batch.
    most: u64,
    /// Until then others than bulk and words about artifacts are taken to share the link.
    shared_until: Time,
    /// All that lies here.
    waiting: Both,
    /// Of that, what has not begun to go and is not paid for.
    unpaid: Both,
    /// Runs that have gone, to be filled again.
    spare: Vec<Run>,
}

/// What is counted for bulk and for all else apart: else bulk that waits would keep out what may pass it.
#[derive(Debug, Default)]
struct Both {
    bulk: Amount,
    rest: Amount,
}

impl Both {
    const fn of(&mut self, is_bulk: bool) -> &mut Amount {
        if is_bulk { &mut self.bulk } else { &mut self.rest }
    }
}

/// Runs that are kept to be filled again: as many as a batch has of full ones, one is filled, and one is found empty.
const SPARE_MAX: usize = 6;

#[derive(Debug)]
struct Queue<P> {
    items: VecDeque<Item<P>>,
    unpaid: Amount,
    in_turn: bool,
    /// Its latest message was bulk, and its next is taken to be so too.
    bulk: bool,
    window: Amount,
    under_way: Amount,
    /// The last sequence that went out whole.
    sent: u64,
}

/// How a large payload leaves memory that its writer may write still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From where it lies: cheap, and lost where it is changed between its sum and the socket.
    InPlace,
    /// Copied, each part when it goes, and the copy is summed: nothing of it is lost. So a sum that does not hold
    /// is the line's doing, which the receiver mends by a new connection.
    Copied,
}

#[derive(Debug)]
enum Item<P> {
    /// A message; `at` bytes of its payload have gone, and it is paid for if it has begun.
    Message {
        header: Header,
        payload: P,
        at: usize,
        begun: bool,
        way: Way,
    },
    /// Small messages, which go with one header. They were put together so that window and credit have room for all.
    Run(Run),
    Gap(Gap),
    Retire(Retire),
}

impl<P: AsRef<[u8]>> Item<P> {
    /// What it takes of credit, window and queue. A gap counts as a message, so that nobody is flooded with gaps.
    fn size(&self) -> Amount {
        match self {
            Item::Message { payload, .. } => Amount::message(payload.as_ref().len() as u64),
            Item::Run(run) => Amount { messages: run.count(), bytes: run.payload_bytes() },
            Item::Gap(_) => Amount::message(0),
            Item::Retire(_) => Amount::default(),
        }
    }

    /// Who goes before it, and before whom it goes.
    fn rank(&self) -> Rank {
        match self {
            Item::Message { payload, .. } if payload.as_ref().len() > LINK_FRAGMENT_BYTES => Rank::BULK,
            Item::Message { header, .. } => Rank::of(header.kind().map_or(Flow::Data, Flow::of).rank()),
            Item::Run(_) | Item::Gap(_) | Item::Retire(_) => Rank::of(Flow::Data.rank()),
        }
    }

    /// How many messages it is.
    fn messages(&self) -> u64 {
        match self {
            // Words about artifacts are no messages of anybody.
            Item::Message { header, .. } => u64::from(header.kind() == Some(Kind::Publish)),
            Item::Run(run) => run.count(),
            Item::Gap(_) | Item::Retire(_) => 0,
        }
    }

    /// Whether it shares the link with bulk, so that this goes in fragments: all but a word about artifacts does, for which the bytes it is about are bulk. Other large messages go in larger parts then, too.
    fn shares(&self) -> bool {
        let Item::Message { header, .. } = self else { return true };
        !matches!(header.kind(), Some(Kind::Advert | Kind::Fetch | Kind::Chunk))
    }

    /// The last sequence that it tells of.
    fn last(&self) -> Option<u64> {
        match self {
            Item::Message { header, .. } => Some(header.sequence.get()),
            Item::Run(run) => Some(run.last()),
            Item::Gap(gap) => Some(gap.to),
            Item::Retire(_) => None,
        }
    }

    /// What it has still to pay.
    fn cost(&self) -> Amount {
        match self {
            Item::Message { begun: true, .. } => Amount::default(),
            Item::Message { begun: false, .. } | Item::Run(_) | Item::Gap(_) | Item::Retire(_) => self.size(),
        }
    }
}

impl<P: AsRef<[u8]> + Clone> Outgoing<P> {
    pub(crate) fn new(cluster: Seed) -> Outgoing<P> {
        let (waiting, unpaid) = (Both::default(), Both::default());
        Outgoing {
            cluster,
            queues: BTreeMap::new(),
            lanes: Lanes::default(),
            room: None,
            bulk_out: 0,
            most: LINK_QUEUE_BYTES_MAX,
            shared_until: Time::default(),
            waiting,
            unpaid,
            spare: Vec::new(),
        }
    }

    /// The peer accepts a source, or more of it: `settled` is no longer under way.
    pub(crate) fn accept(&mut self, source: PortId, window: Amount, settled: Amount) {
        let queue = self.queues.entry(source).or_insert_with(|| Queue {
            items: VecDeque::new(),
            unpaid: Amount::default(),
            in_turn: false,
            bulk: false,
            window,
            under_way: Amount::default(),
            sent: 0,
        });
        queue.window = window;
        queue.under_way.take(settled);
        Outgoing::<P>::take_turn(&mut self.lanes, source, queue);
    }

    /// So many bytes of bulk may begin to go from now on.
    pub(crate) const fn set_room(&mut self, room: Option<u64>) {
        self.room = room;
    }

    /// So many bytes may wait from now on; what does is left.
    pub(crate) fn set_most(&mut self, most: u64) {
        self.most = most.min(LINK_QUEUE_BYTES_MAX);
    }

    /// Bytes of bulk that have gone, with their frames.
    pub(crate) const fn bulk_out(&self) -> u64 {
        self.bulk_out
    }

    /// As many bytes go into one batch.
    fn batch_bytes(&self) -> usize {
        usize::try_from(self.most).unwrap_or(usize::MAX).min(LINK_BATCH_BYTES)
    }

    /// Whether bulk would go if there were room for it.
    pub(crate) fn has_bulk(&self, grant: &Grant) -> bool {
        self.may_go(Rank::BULK, grant)
    }

    /// Forgets a source with all that waits of it: the word of its end, if that has not gone.
    pub(crate) fn forget(&mut self, source: PortId) -> Option<Retire> {
        let queue = self.queues.remove(&source)?;
        for item in &queue.items {
            let bulk = item.rank() == Rank::BULK;
            self.waiting.of(bulk).take(item.size());
            self.unpaid.of(bulk).take(item.cost());
        }
        self.lanes.remove(source);
        queue.items.iter().find_map(|item| match item {
            Item::Retire(retire) => Some(*retire),
            Item::Message { .. } | Item::Run(_) | Item::Gap(_) => None,
        })
    }

    /// Whether the latest message of a source was bulk.
    pub(crate) fn is_bulk(&self, source: PortId) -> bool {
        self.queues.get(&source).is_some_and(|queue| queue.bulk)
    }

    /// Whether a message of a source has gone in part.
    pub(crate) fn is_partly_out(&self, source: PortId) -> bool {
        let first = self.queues.get(&source).and_then(|queue| queue.items.front());
        matches!(first, Some(Item::Message { begun: true, .. }))
    }

    /// The last sequence of a source that went out whole on this connection.
    pub(crate) fn sent(&self, source: PortId) -> u64 {
        self.queues.get(&source).map_or(0, |queue| queue.sent)
    }

    /// Whether one more message may be put into the queue of a source that has been accepted. Where bulk has filled its
    /// part, a source whose latest message was small may put one more in: it cannot be known before what it is.
    pub(crate) fn has_room(&self, source: PortId, grant: &Grant) -> bool {
        let Some(queue) = self.queues.get(&source) else { return false };
        let (waiting, unpaid) = if queue.bulk {
            (self.waiting.bulk, self.unpaid.bulk)
        } else {
            (self.waiting.rest, self.unpaid.rest)
        };
        // The next message's size is not known yet: one byte stands for it.
        let next = Amount::message(1);
        let mut ahead = queue.under_way;
        ahead.add(queue.unpaid);
        ahead.has_room(next, queue.window) && self.takes(waiting, unpaid, grant)
    }

    /// Whether one more message of any source may be, as far as that does not depend on the source.
    pub(crate) fn has_room_for_any(&self, grant: &Grant) -> bool {
        self.takes(self.waiting.rest, self.unpaid.rest, grant)
            || self.takes(self.waiting.bulk, self.unpaid.bulk, grant)
    }

    /// Whether one more message may wait beside so much of its sort, and finds credit beside what of that has none yet.
    fn takes(&self, waiting: Amount, mut unpaid: Amount, grant: &Grant) -> bool {
        unpaid.add(Amount::message(1));
        let full = waiting.messages >= LINK_QUEUE_MESSAGES_MAX as u64 || waiting.bytes >= self.most;
        !full && grant.allows(unpaid)
    }

    /// What of a source that has been accepted may be put into its queue and will find window and credit there.
    pub(crate) fn room(&self, source: PortId, grant: &Grant) -> Amount {
        let Some(queue) = self.queues.get(&source) else { return Amount::default() };
        let most = Amount { messages: LINK_QUEUE_MESSAGES_MAX as u64, bytes: self.most };
        let window = queue.window.less(queue.under_way).less(queue.unpaid);
        let left = grant.left().less(self.unpaid.rest).less(self.unpaid.bulk);
        most.less(self.waiting.rest).least(window).least(left)
    }

    /// What the peer lets be under way of a source, if it has accepted it.
    pub(crate) fn window(&self, source: PortId) -> Option<Amount> {
        self.queues.get(&source).map(|queue| queue.window)
    }

    /// A run to be filled.
    pub(crate) fn spare(&mut self) -> Run {
        self.spare.pop().unwrap_or_default()
    }

    /// A run that need not go.
    pub(crate) fn put_back(&mut self, run: Run) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(run);
        }
    }

    pub(crate) fn together(&mut self, run: Run) {
        self.push(run.source(), Item::Run(run));
    }

    pub(crate) fn message(&mut self, source: PortId, header: Header, payload: P, way: Way) {
        self.push(source, Item::Message { header, payload, at: 0, begun: false, way });
    }

    pub(crate) fn gap(&mut self, gap: Gap) {
        self.push(gap.source, Item::Gap(gap));
    }

    pub(crate) fn retire(&mut self, retire: Retire) {
        self.push(retire.source, Item::Retire(retire));
    }

    /// Whether `transmit` would put anything out.
    pub(crate) fn is_ready(&self, grant: &Grant) -> bool {
        let open = |rank: &Rank| *rank != Rank::BULK || self.room != Some(0);
        Lanes::ranks().filter(open).any(|rank| self.may_go(rank, grant))
    }

    /// Whether anything of a rank may go, as far as windows and credit say.
    fn may_go(&self, rank: Rank, grant: &Grant) -> bool {
        let mut waiting = false;
        for queue in self.lanes.sources(rank).filter_map(|source| self.queues.get(&source)) {
            let Some(cost) = queue.items.front().map(Item::cost) else { continue };
            if cost.messages == 0 {
                return true;
            }
            if queue.under_way.has_room(cost, queue.window) {
                if !waiting && grant.allows(cost) {
                    return true;
                }
                waiting = true;
            }
        }
        false
    }

    /// Puts out what may go until the batch has its size, and says how many messages have begun.
    pub(crate) fn transmit(&mut self, now: Time, batch: &mut Batch<P>, grant: &mut Grant) -> u64 {
        let mut begun = 0;
        let mut held = Held::default();
        while self.spare.len() < SPARE_MAX
            && let Some(run) = batch.take_spare()
        {
            self.spare.push(run);
        }
        while batch.bytes() < self.batch_bytes() {
            let Some(turn) = self.lanes.next(&held) else { break };
            let before = batch.bytes();
            begun += self.run(now, turn, batch, grant, &mut held);
            let went = batch.bytes().saturating_sub(before);
            self.lanes.went(turn.rank, went);
        }
        begun
    }

    /// One turn of a rank, and how many messages have begun in it. It ends early where a source has come to another rank.
    fn run(
        &mut self,
        now: Time,
        turn: Turn,
        batch: &mut Batch<P>,
        grant: &mut Grant,
        held: &mut Held,
    ) -> u64 {
        let Turn { rank, bytes } = turn;
        let until = self.batch_bytes().min(batch.bytes().saturating_add(bytes));
        let most = if rank == Rank::BULK { self.fragment(now) } else { LINK_FRAGMENT_BYTES };
        let mut begun = 0;
        // Sources whose next message waits for credit. None of this rank that is not paid for passes them, so that a
        // large one gets its credit at last; the rest of what is paid for does, or that credit would never come.
        let mut aside = VecDeque::new();
        while batch.bytes() < until {
            if rank == Rank::BULK && self.room == Some(0) {
                held.hold(rank);
                break;
            }
            let Some(source) = self.lanes.pop_front(rank) else {
                held.hold(rank);
                break;
            };
            let Some(queue) = self.queues.get_mut(&source) else { continue };
            queue.in_turn = false;
            let Some(item) = queue.items.front_mut() else { continue };
            let cost = item.cost();
            if cost.messages > 0 {
                if !queue.under_way.has_room(cost, queue.window) {
                    // Its turn comes again when the peer accepts more.
                    continue;
                }
                if !aside.is_empty() || !grant.allows(cost) {
                    queue.in_turn = true;
                    aside.push_back(source);
                    continue;
                }
                grant.spend(cost);
                self.lanes.paid(rank);
                queue.under_way.add(cost);
                queue.unpaid.take(cost);
                self.unpaid.of(rank == Rank::BULK).take(cost);
                begun += item.messages();
            }
            let before = batch.bytes();
            if rank < Rank::BULK && item.shares() {
                self.shared_until = now.after_ms(LINK_SHARED_MS);
            }
            let (size, last) = (item.size(), item.last());
            if put(item, most, self.cluster, batch) {
                self.waiting.of(rank == Rank::BULK).take(size);
                queue.sent = last.unwrap_or(queue.sent);
                // One whose records go out from where they lie comes back with the batch.
                if let Some(Item::Run(run)) = queue.items.pop_front().filter(|_| self.spare.len() < SPARE_MAX)
                    && !run.bytes().is_empty()
                {
                    self.spare.push(run);
                }
            }
            if rank == Rank::BULK {
                let went = batch.bytes().saturating_sub(before) as u64;
                self.room = self.room.map(|room| room.saturating_sub(went));
                self.bulk_out = self.bulk_out.saturating_add(went);
            }
            if let Some(next) = queue.items.front().map(Item::rank) {
                queue.in_turn = true;
                self.lanes.push_back(next, source);
                if next != rank {
                    break;
                }
            }
        }
        self.lanes.put_back(rank, aside);
        begun
    }

    /// The most bytes of a message that go at once.
    fn fragment(&self, now: Time) -> usize {
        // A word about artifacts counts while it waits: it goes before bulk, and so waits for credit alone.
        let shared = now < self.shared_until
            || Lanes::ranks().any(|rank| rank < Rank::BULK && self.lanes.has_any(rank));
        if shared {
            return LINK_FRAGMENT_BYTES;
        }
        let room = self.room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
        // Beside other bulk, which is to have its turn in the same batch, no more than that has four of; nor where it would
        // be more than a quarter of what may lie in the kernel: then it would take some time.
        // Nor where many links share what batches may hold: a part may be copied into one.
        let small = self.lanes.has_many(Rank::BULK) || self.batch_bytes() < LINK_BATCH_BYTES;
        let most = if small { LINK_PART_BYTES } else { LINK_PART_BYTES_MAX };
        room.clamp(LINK_FRAGMENT_BYTES, (room / 4).clamp(LINK_PART_BYTES, most))
    }

    fn push(&mut self, source: PortId, item: Item<P>) {
        // Nothing comes of a source that the peer has not accepted on this connection.
        let Some(queue) = self.queues.get_mut(&source) else { return };
        queue.bulk = item.rank() == Rank::BULK;
        self.waiting.of(queue.bulk).add(item.size());
        self.unpaid.of(queue.bulk).add(item.size());
        queue.unpaid.add(item.size());
        queue.items.push_back(item);
        Outgoing::take_turn(&mut self.lanes, source, queue);
    }

    fn take_turn(lanes: &mut Lanes, source: PortId, queue: &mut Queue<P>) {
        if queue.in_turn {
            return;
        }
        if let Some(rank) = queue.items.front().map(Item::rank) {
            queue.in_turn = true;
            lanes.push_back(rank, source);
        }
    }
}

/// Puts one item, or the next part of at most `most` bytes, into the batch; whether that was the last of it.
fn put<P: AsRef<[u8]> + Clone>(item: &mut Item<P>, most: usize, cluster: Seed, batch: &mut Batch<P>) -> bool {
    match item {
        Item::Message { header, payload, at, begun, way } => {
            *begun = true;
            let len = payload.as_ref().len();
            // What is copied lies in the batch, which is not to grow beyond its size twice.
            let most = if *way == Way::Copied { most.min(LINK_BATCH_BYTES) } else { most };
            if *at == 0 && (len <= most || !can_be_cut(header)) {
                put_whole(*header, payload, *way, cluster, batch);
                return true;
            }
            // A little that would be left goes along: it is not worth a header.
            let left = len.saturating_sub(header.extension_bytes() + *at);
            let along = most.saturating_add(LINK_ALONG_BYTES).min(LINK_PART_BYTES_MAX).max(most);
            let most = if left <= along { along } else { most };
            put_part(*header, payload, at, most, *way, cluster, batch);
            header.extension_bytes() + *at >= len
        }
        Item::Run(run) => {
            let apart = run.count() > 1 && run.bytes().len() >= LINK_COPY_BYTES;
            batch.copy(|out| {
                let sealed = if apart { run.seal_header(1, cluster, out) } else { run.seal(1, cluster, out) };
                debug_assert!(sealed.is_ok(), "an empty run is not queued: {sealed:?}");
            });
            if apart {
                batch.run(core::mem::take(run));
            }
            true
        }
        Item::Gap(gap) => {
            put_frame(&Frame::Gap(gap.clone()), cluster, batch);
            true
        }
        Item::Retire(retire) => {
            put_frame(&Frame::Retire(*retire), cluster, batch);
            true
        }
    }
}

/// Copies a frame into the batch.
pub(crate) fn put_frame<P: AsRef<[u8]>>(frame: &Frame, cluster: Seed, batch: &mut Batch<P>) {
    batch.copy(|out| {
        let encoded = link::encode(frame, cluster, out);
        // All texts are made fit where they come in, and lists are cut; a frame of ours that nobody accepts must
        // not go unnoticed in a test.
        debug_assert!(encoded.is_ok(), "{frame:?}: {encoded:?}");
    });
}

/// What the header of a message says on a link: as in the ring, but whole, and sealed with its checksums.
fn link_header(header: &Header) -> Header {
    let mut link = *header;
    link.flags &= !Flags::UNSEALED.with(Flags::RELAYED).bits();
    link.hops_version = (link.version() << 4) | header.hops().saturating_add(1).min(15);
    link
}

/// The extensions of a message as they go: copied, and checked in the copy, as who wrote them may write them still. What a peer would refuse, and close the link for all, says nothing.
fn beside(following: &[u8], own: usize) -> Vec<u8> {
    if own == 0 {
        return Vec::new();
    }
    let mut copy = following.get(..own).unwrap_or_default().to_vec();
    let good = Extensions::check(&copy).is_ok() && matches!(Part::of(Extensions::new(&copy)), Ok(None));
    if !good {
        Extensions::blank(&mut copy);
    }
    copy
}

fn put_whole<P: AsRef<[u8]> + Clone>(
    header: Header,
    payload: &P,
    way: Way,
    cluster: Seed,
    batch: &mut Batch<P>,
) {
    let (following, own) = (payload.as_ref(), header.extension_bytes());
    let extensions = beside(following, own);
    // A small one is copied anyway.
    let way = if following.len() < LINK_COPY_BYTES { Way::Copied } else { way };
    put_bytes(link_header(&header), &extensions, payload, own..following.len(), way, cluster, batch);
}

fn put_part<P: AsRef<[u8]> + Clone>(
    header: Header,
    payload: &P,
    at: &mut usize,
    most: usize,
    way: Way,
    cluster: Seed,
    batch: &mut Batch<P>,
) {
    let own = header.extension_bytes();
    let following = payload.as_ref();
    let total = following.len().saturating_sub(own);
    let size = most.min(total.saturating_sub(*at));
    let part = Part { message: header.sequence.get(), offset: *at as u64, total: total as u64 };
    let mut extensions = Vec::with_capacity(Part::SIZE + if *at == 0 { own } else { 0 });
    let pushed = part.push(&mut extensions);
    if *at == 0 {
        extensions.extend_from_slice(&beside(following, own));
    }
    let range = own + *at..own + *at + size;
    let mut header = link_header(&header);
    let set = header.set_extensions(&extensions);
    debug_assert!(
        pushed.is_ok() && set.is_ok(),
        "a message with so many extensions is refused when it comes"
    );
    put_bytes(header, &extensions, payload, range, way, cluster, batch);
    *at += size;
}

/// A header, these extensions and that range of what follows, summed.
fn put_bytes<P: AsRef<[u8]> + Clone>(
    mut header: Header,
    extensions: &[u8],
    payload: &P,
    range: Range<usize>,
    way: Way,
    cluster: Seed,
    batch: &mut Batch<P>,
) {
    let bytes = payload.as_ref().get(range.clone()).unwrap_or_default();
    // Two pieces cost more to sum up than one.
    let seal = |header: &mut Header, bytes: &[u8]| {
        let pieces = if extensions.is_empty() { [bytes, &[]] } else { [extensions, bytes] };
        let sealed = header.seal_pieces(pieces, cluster);
        debug_assert!(
            sealed.is_ok(),
            "the extensions were compared with the payload when it came: {sealed:?}"
        );
    };
    match way {
        Way::Copied => batch.copy(|out| {
            let at = out.len();
            out.extend_from_slice(header.bytes());
            out.extend_from_slice(extensions);
            let from = out.len();
            out.extend_from_slice(bytes);
            seal(&mut header, out.get(from..).unwrap_or_default());
            if let Some(place) = out.get_mut(at..at + HEADER_SIZE) {
                place.copy_from_slice(header.bytes());
            }
        }),
        Way::InPlace => {
            seal(&mut header, bytes);
            batch.copy(|out| {
                out.extend_from_slice(header.bytes());
                out.extend_from_slice(extensions);
            });
            batch.payload(payload.clone(), range);
        }
    }
}

/// Whether a message can go on a link at all: its extensions are there, and leave room for that of a part.
pub(crate) fn can_go(header: &Header, following: &[u8]) -> bool {
    let own = header.extension_bytes();
    own <= following.len() && (following.len() <= LINK_PART_BYTES || can_be_cut(header))
}

/// Whether its extensions leave room for that of a part.
fn can_be_cut(header: &Header) -> bool {
    header.extension_bytes() + Part::SIZE <= EXTENSION_BYTES_MAX
}

#[cfg(test)]
mod tests;
