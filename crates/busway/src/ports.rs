//! The ports of this process: what the control thread finds when a publisher meets a subscriber.
//!
//! The table knows every ring we publish and every subscription we have. It makes rows, gives seats, frees what died,
//! and wakes who waits for any of that. It is not on the path of a message: publishers and subscribers keep their own
//! copies and look at a version.
//!
//! Invariant: every call may come twice (a take-over registers all anew) and changes nothing the second time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use busway_shm::arena::{OwnArena, PeerArena};
use busway_shm::bell::{ANY, Bell};
use busway_shm::claims::file::{self, ClaimsFile, Run};
use busway_shm::clock::{self, Deadline};
use busway_shm::counters::Event;
use busway_shm::domain::Domain;
use busway_shm::error::ShmError;
use busway_shm::hold::HoldBudget;
use busway_shm::layout::{key, state};
use busway_shm::row::{RowOptions, RowShared};
use busway_shm::seat::{EntryKey, Reaped, RingShared};
use busway_shm::sync::{AtomicU64, Ordering};
use busway_shm::view::Region;
use busway_wire::limits::{HOLD_BYTES_MAX, HOLDS_MAX};
use busway_wire::{Generation, Group, PortId, ProcessId, RingIndex, RowIndex, SeatIndex, Topic};

use crate::control::{Attach, GroupPlace, Join, Ports, RingAdded, RingKey, RowKey, Wanted, Watched};
use crate::error::memory;
use crate::log::{Line, Log};
use carriers::Carriers;
use rustix::fd::BorrowedFd;
use unmet::{Short, Unmet, UnmetList};

mod carriers;
pub(crate) mod unmet;
mod work;

/// Publishers that could not be read and are tried again in one tick.
const RETRIES: usize = 64;

/// A rate is measured over at least so long.
const RATE_NS: u64 = 1_000_000_000;

/// Of so many publishers each look is at all of them: it costs little.
pub(crate) const FULL_MAX: usize = 64;

/// Who waits for replies.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// The bell line on which it sleeps.
    pub(crate) line: usize,
    /// Raised when a responder has gone.
    pub(crate) news: Arc<AtomicU64>,
}

/// How far a ring was at a time.
#[derive(Debug)]
struct Sample {
    ring: EntryKey,
    at_ns: u64,
    head: u64,
}

/// Of the rows of others at our rings a tick looks at so many: one that has closed is found at the next tick by a process
/// that publishes to no more, and within some eight seconds where ten thousand topics have a hundred subscribers each. One
/// whose process dies is found at once.
const SWEEP_SEATS: usize = 1 << 15;
/// A ring without any is as much work as so many.
const SWEEP_RING: usize = 4;
/// Of our own rows a tick looks at so many, for what `info` tells of them.
const SWEEP_ROWS: usize = 1 << 10;

/// How far the ticks have come.
#[derive(Debug, Default)]
struct Sweep {
    ring: Option<u32>,
    row: Option<(PortId, (ProcessId, EntryKey))>,
}

/// A publisher that a subscription has met.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) row: Arc<RowShared>,
    pub(crate) topic: Topic,
    pub(crate) publisher: PortId,
}

/// Of which topics a subscription gets rows.
#[derive(Clone)]
pub(crate) struct Filter(pub(crate) Arc<dyn Fn(&Topic) -> bool + Send + Sync>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Filter")
    }
}

/// A subscription, as the subscriber and the control thread share it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) options: RowOptions,
    /// The group for which it pulls.
    group: Option<Group>,
    /// The bell line on which the subscriber sleeps.
    pub(crate) line: usize,
    /// Who reads on behalf of others gets no row at the rings of topics that they may not read.
    filter: Mutex<Option<Filter>>,
    arrivals: Mutex<Vec<Arrival>>,
    version: AtomicU64,
    /// Rows that began to read.
    begun: AtomicU64,
    /// Rows that read now.
    reading: Arc<AtomicU64>,
    known: Mutex<Known>,
    unmet: Mutex<UnmetList>,
    /// Of a puller that waits for no thread: what there was when it looked, and when it looks again anyway.
    seen: AtomicU64,
    due_ns: AtomicU64,
}

/// A subscription that was registered, under one of its ports.
#[derive(Clone, Debug)]
struct Asked {
    subscription: Arc<Subscription>,
    since_ns: u64,
}

/// The rows of a subscription, by publisher and ring; some of them are gone.
#[derive(Debug, Default)]
struct Known {
    rows: BTreeMap<(ProcessId, EntryKey), Weak<RowShared>>,
    begun: BTreeMap<ProcessId, Begun>,
    /// At so many rows those that are gone are looked for: at twice those that were there the last time, so that a
    /// subscription of ten thousand publishers does not look at all of them for each.
    clean_at: usize,
}

/// The rings of a process that the subscription has begun to read. A take-over tells of all of them again, also of those
/// that were read to their end or that evicted us: they must not be read twice.
#[derive(Debug, Default)]
struct Begun {
    /// By its index the generation of the ring; an index is only used again when everybody has left the former ring.
    rings: BTreeMap<u32, u32>,
    gone_ns: Option<u64>,
}

/// So long after a process has gone a message about it may still be under way.
const BEGUN_KEPT_NS: u64 = 60_000_000_000;

impl Known {
    fn begin(&mut self, row: &RowShared, now_ns: u64) {
        let ring = row.ring_key();
        let begun = self.begun.entry(row.peer().process()).or_default();
        begun.rings.insert(ring.index, ring.generation);
        if row.peer().life().is_gone() {
            begun.gone_ns.get_or_insert(now_ns);
        }
    }

    fn has_begun(&self, process: ProcessId, ring: EntryKey) -> bool {
        self.begun.get(&process).is_some_and(|begun| begun.rings.get(&ring.index) == Some(&ring.generation))
    }

    fn gone(&mut self, process: ProcessId, now_ns: u64) {
        if let Some(begun) = self.begun.get_mut(&process) {
            begun.gone_ns.get_or_insert(now_ns);
        }
        self.begun.retain(|_, begun| begun.gone_ns.is_none_or(|gone| now_ns < gone + BEGUN_KEPT_NS));
    }

    fn insert(&mut self, key: (ProcessId, EntryKey), row: &Arc<RowShared>) {
        if self.rows.len() >= self.clean_at {
            self.rows.retain(|_, row| row.strong_count() > 0);
            self.clean_at = (2 * self.rows.len()).max(16);
        }
        self.rows.insert(key, Arc::downgrade(row));
    }
}

impl Subscription {
    pub(crate) fn new(options: RowOptions, line: usize) -> Self {
        let (arrivals, known) = (Mutex::new(Vec::new()), Mutex::new(Known::default()));
        let unmet = Mutex::new(UnmetList::default());
        let (version, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let (group, filter, reading) = (None, Mutex::new(None), Arc::new(AtomicU64::new(0)));
        let (seen, due_ns) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { options, group, line, filter, arrivals, version, begun, reading, known, unmet, seen, due_ns }
    }

    /// One that pulls for a group.
    pub(crate) fn for_group(options: RowOptions, line: usize, group: Group) -> Self {
        Self { group: Some(group), ..Self::new(options, line) }
    }

    /// Rings that are met from now on get a row only if the filter says so.
    pub(crate) fn set_filter(&self, filter: Filter) {
        *lock(&self.filter) = Some(filter);
    }

    fn takes(&self, topic: &Topic) -> bool {
        lock(&self.filter).as_ref().is_none_or(|filter| (filter.0)(topic))
    }

    /// Changes whenever a publisher has arrived, or can be read.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire) // pairs with Release in `arrive`
    }

    /// Forgets a ring that was left though it was not at its end: it may be read again.
    pub(crate) fn forget(&self, process: ProcessId, ring: EntryKey) {
        let mut known = lock(&self.known);
        known.rows.remove(&(process, ring));
        if let Some(begun) = known.begun.get_mut(&process) {
            begun.rings.remove(&ring.index);
        }
    }

    /// Whether a subscriber that looked at `version` may find something now. One of many publishers looks itself: it knows
    /// which of them to look at.
    pub(crate) fn has_news(&self, version: u64) -> bool {
        if self.group.is_some() {
            let due = self.due_ns.load(Ordering::Relaxed) <= clock::monotonic_ns();
            return due || self.version() != version || self.work() != self.seen.load(Ordering::Relaxed);
        }
        let many = lock(&self.known).rows.len() > FULL_MAX;
        many || self.version() != version || self.rows().iter().any(|row| row.has_news())
    }

    /// Takes what has arrived.
    pub(crate) fn arrived(&self) -> Vec<Arrival> {
        std::mem::take(&mut *lock(&self.arrivals))
    }

    fn arrive(&self, arrival: Arrival) {
        lock(&self.arrivals).push(arrival);
        self.version.fetch_add(1, Ordering::Release); // pairs with Acquire in `version`
    }

    /// Takes back an arrival that the subscriber has not looked at: one that sleeps for long must not find them all.
    fn withdraw(&self, row: &Arc<RowShared>) {
        lock(&self.arrivals).retain(|arrival| !Arc::ptr_eq(&arrival.row, row));
    }

    /// Lets a row whose publisher is gone begin without a seat.
    fn start_without_seat(&self, row: &RowShared) {
        // Without a seat a puller has no claims, and takes nothing.
        let pulls = self.group.is_some();
        if !pulls && !row.is_attached() && !row.is_refused() && row.peer().life().is_gone() {
            self.begin(row);
            row.start_without_seat();
            self.settle(row);
        }
    }

    /// Gives up a puller's row whose pusher is gone without having given it a place: what the pusher said before it went was
    /// heard before.
    fn give_up_place(&self, row: &RowShared) {
        if self.group.is_some() && !row.is_attached() {
            row.attached(Err(()));
            self.version.fetch_add(1, Ordering::Release); // pairs with Acquire in `version`
        }
    }

    /// Notes that `row` has begun to read. Only the control thread lets rows begin.
    fn begin(&self, row: &RowShared) {
        lock(&self.known).begin(row, clock::monotonic_ns());
    }

    fn rows(&self) -> Vec<Arc<RowShared>> {
        lock(&self.known).rows.values().filter_map(Weak::upgrade).collect()
    }

    /// The rows at the rings of a process.
    fn rows_of(&self, process: ProcessId) -> Vec<Arc<RowShared>> {
        let known = lock(&self.known);
        let from = (process, EntryKey { index: 0, generation: 0 });
        let rows = known.rows.range(from..).take_while(|((of, _), _)| *of == process);
        rows.filter_map(|(_, row)| row.upgrade()).collect()
    }

    /// The rows among the next so many places behind one of them, and the last of these places with their number.
    fn rows_after(
        &self,
        after: Option<(ProcessId, EntryKey)>,
        most: usize,
    ) -> (Vec<Arc<RowShared>>, Option<(ProcessId, EntryKey)>, usize) {
        let known = lock(&self.known);
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut rows, mut last, mut count) = (Vec::new(), None, 0);
        for (key, row) in known.rows.range((after, Bound::Unbounded)).take(most) {
            rows.extend(row.upgrade());
            (last, count) = (Some(*key), count + 1);
        }
        (rows, last, count)
    }

    /// Publishers that cannot be read yet.
    pub(crate) fn unmet(&self) -> Vec<Unmet> {
        lock(&self.unmet).all().cloned().collect()
    }

    /// How many publishers cannot be read yet.
    pub(crate) fn unmet_count(&self) -> usize {
        lock(&self.unmet).all().count()
    }

    /// How many rows have begun to read, ever.
    pub(crate) fn begun(&self) -> usize {
        usize::try_from(self.begun.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// How many publishers are read now: what they send from here on is seen. One whose ring has no seat for us yet is not
    /// among them.
    pub(crate) fn reading(&self) -> usize {
        usize::try_from(self.reading.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// A row reads now: the subscriber is to look at it.
    fn settle(&self, row: &RowShared) {
        row.count_in(&self.reading);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release); // pairs with Acquire in `version`
    }
}

/// A row without a seat, and whose it is.
type Waiting = (Weak<RowShared>, Weak<Subscription>);

/// What a look for a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// There is one, or something else that ends the wait.
    Done,
    /// Nothing yet.
    Nothing,
}

/// Who carries messages to other hosts and from them, and has to know what happens here.
pub(crate) trait Carrier: Send + Sync + std::fmt::Debug {
    /// What this host subscribes to has changed. Called on the control thread.
    fn watched(&self, watched: Watched);
    /// A row has got its seat, or another change of the table was made.
    fn changed(&self);
    /// This publisher of this process has put a message into its ring. Returns of how many that follow it need not be
    /// told: of those the nodes' line is rung, and nothing else is to be done.
    fn published(&self, publisher: PortId, bell: &Bell<'_>) -> u32 {
        let _ = (publisher, bell);
        0
    }
    /// This publisher of this process has published many bytes and may wait a little for what carries them.
    fn pace(&self, publisher: PortId, ahead: Ahead) {
        let _ = (publisher, ahead);
    }
    /// The caller waits for a message that only a link can bring: it carries meanwhile, and looks by `found` after all
    /// that has come. Returns what the last look came to; after `Nothing` the caller sleeps where others ring.
    fn lead(&self, deadline: Deadline, found: &mut dyn FnMut() -> Looked) -> Looked {
        let _ = (deadline, found);
        Looked::Nothing
    }
    /// The caller takes what it has led in, and will come back for more.
    fn is_here(&self) {}
    /// The caller has found nothing and does not wait: what has come is carried. False if others do that.
    fn glance(&self) -> bool {
        false
    }
}

/// How far a publisher of large messages is ahead of who carries them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// The last that it published.
    pub(crate) sequence: u64,
    /// So many messages a link may be behind.
    pub(crate) messages: u64,
    /// No wait is longer than this.
    pub(crate) most: Duration,
}

/// Everything that this process publishes and subscribes.
#[derive(Debug)]
pub(crate) struct PortTable {
    own: Arc<OwnArena>,
    rings: Mutex<BTreeMap<u32, Arc<RingShared>>>,
    subscriptions: Mutex<BTreeMap<PortId, Asked>>,
    /// Rows that wait for the answer of their publisher, by their index, with their subscription.
    waiting: Mutex<BTreeMap<u32, Waiting>>,
    domain: Mutex<Option<Arc<Domain>>>,
    domain_version: AtomicU64,
    unfinished: Mutex<Vec<usize>>,
    samples: Mutex<BTreeMap<u32, Sample>>,
    sweep: Mutex<Sweep>,
    log: Mutex<Log>,
    changes: Mutex<u64>,
    changed: Condvar,
    /// The nodes of this process.
    carriers: Mutex<Carriers>,
    /// The claims files of the processes from which we pull.
    claims: Mutex<BTreeMap<ProcessId, Region>>,
    /// Of our rings for requests, by index: who is to know when a responder goes.
    askers: Mutex<BTreeMap<u32, Asker>>,
    pub(crate) budget: Arc<HoldBudget>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PortTable {
    pub(crate) fn new(own: Arc<OwnArena>) -> Self {
        Self {
            own,
            rings: Mutex::new(BTreeMap::new()),
            subscriptions: Mutex::new(BTreeMap::new()),
            waiting: Mutex::new(BTreeMap::new()),
            domain: Mutex::new(None),
            domain_version: AtomicU64::new(0),
            unfinished: Mutex::new(Vec::new()),
            samples: Mutex::new(BTreeMap::new()),
            sweep: Mutex::new(Sweep::default()),
            log: Mutex::new(Log::default()),
            changes: Mutex::new(0),
            changed: Condvar::new(),
            carriers: Mutex::default(),
            claims: Mutex::new(BTreeMap::new()),
            askers: Mutex::new(BTreeMap::new()),
            budget: Arc::new(HoldBudget::new(u64::from(HOLDS_MAX), HOLD_BYTES_MAX)),
        }
    }

    /// Changes with the domain segment, and with the carriers.
    #[inline]
    pub(crate) fn domain_version(&self) -> u64 {
        self.domain_version.load(Ordering::Acquire) // pairs with Release in `domain_changed`
    }

    pub(crate) fn domain(&self) -> Option<Arc<Domain>> {
        lock(&self.domain).clone()
    }

    pub(crate) fn add_ring(&self, ring: &Arc<RingShared>) {
        lock(&self.rings).insert(ring.key().index, ring.clone());
    }

    /// From now on the asker knows when a puller of this ring goes.
    pub(crate) fn add_asker(&self, ring: EntryKey, asker: Asker) {
        lock(&self.askers).insert(ring.index, asker);
    }

    pub(crate) fn remove_asker(&self, ring: EntryKey) {
        lock(&self.askers).remove(&ring.index);
    }

    /// `since_ns` says since when: of rings that are younger nothing is missed. What is read for a peer grows with each
    /// of its wishes, so that is not when the subscription was made.
    pub(crate) fn add_subscription(&self, port: PortId, subscription: &Arc<Subscription>, since_ns: u64) {
        lock(&self.subscriptions).insert(port, Asked { subscription: subscription.clone(), since_ns });
    }

    pub(crate) fn remove_subscription(&self, port: PortId) {
        lock(&self.subscriptions).remove(&port);
    }

    /// From now on `carrier` is told too, until it is removed.
    pub(crate) fn add_carrier(&self, carrier: Arc<dyn Carrier>) {
        lock(&self.carriers).add(carrier);
        // Publishers look anew.
        self.domain_version.fetch_add(1, Ordering::Release); // pairs with Acquire in `domain_version`
    }

    /// It is told nothing any more; the others are.
    pub(crate) fn remove_carrier<C: Carrier>(&self, carrier: &Arc<C>) {
        lock(&self.carriers).remove(carrier);
        // Publishers look anew.
        self.domain_version.fetch_add(1, Ordering::Release); // pairs with Acquire in `domain_version`
    }

    pub(crate) fn carrier(&self) -> Option<Arc<dyn Carrier>> {
        lock(&self.carriers).shown()
    }

    /// Somebody sleeps whom a publisher had no time to wake: the control thread does it at its next tick.
    pub(crate) fn finish_later(&self, line: usize) {
        lock(&self.unfinished).push(line);
    }

    /// Logs `line` as a warning, unless one of its kind was logged within the last second.
    pub(crate) fn warn(&self, kind: Line, line: impl FnOnce() -> String) {
        lock(&self.log).warn(kind, clock::monotonic_ns(), line);
    }

    /// Measures how many messages a second a ring carries.
    fn measure(ring: &RingShared, samples: &mut BTreeMap<u32, Sample>, now_ns: u64) {
        let key = ring.key();
        let created_ns = || ring.entry().created_ns.load(Ordering::Relaxed);
        let new = || Sample { ring: key, at_ns: created_ns(), head: 0 };
        let sample = samples.entry(key.index).or_insert_with(new);
        if sample.ring != key {
            *sample = new();
        }
        let passed_ns = now_ns.saturating_sub(sample.at_ns);
        if passed_ns < RATE_NS {
            return;
        }
        let head = ring.head();
        let milli = u128::from(head - sample.head.min(head)) * 1_000_000_000_000 / u128::from(passed_ns);
        ring.entry().rate_milli.store(u64::try_from(milli).unwrap_or(u64::MAX), Ordering::Relaxed);
        (sample.at_ns, sample.head) = (now_ns, head);
    }

    /// Our rings.
    pub(crate) fn rings(&self) -> Vec<Arc<RingShared>> {
        lock(&self.rings).values().cloned().collect()
    }

    /// Counts that this happened so often.
    pub(crate) fn count(&self, event: Event, times: u64) {
        self.own.count(event, times);
    }

    /// One more, of an event that is a level.
    pub(crate) fn raise(&self, event: Event) {
        self.own.raise(event);
    }

    /// One less, of an event that is a level.
    pub(crate) fn lower(&self, event: Event) {
        self.own.lower(event);
    }

    /// Frees what rows have left at our rings, of the next so many.
    fn sweep_rings(&self, sweep: &mut Sweep, now_ns: u64) {
        let mut rings = lock(&self.rings);
        let mut samples = lock(&self.samples);
        let mut work = 0;
        let mut free = Vec::new();
        let after = sweep.ring.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (index, ring) in rings.range((after, Bound::Unbounded)) {
            if work >= SWEEP_SEATS {
                break;
            }
            work += SWEEP_RING + ring.seated();
            let reaped = ring.reap();
            self.tell_returned(ring, reaped);
            ring.look(now_ns);
            Self::measure(ring, &mut samples, now_ns);
            if ring.is_free() {
                free.push(*index);
            }
            last = Some(*index);
        }
        sweep.ring = last.filter(|_| work >= SWEEP_SEATS);
        for index in free {
            rings.remove(&index);
            samples.remove(&index);
        }
    }

    /// Wakes those who may take what a puller has left, and who waits for its replies.
    pub(crate) fn tell_returned(&self, ring: &RingShared, reaped: Reaped) {
        if reaped.died + reaped.left > 0 {
            let asker = lock(&self.askers).get(&ring.key().index).cloned();
            if let Some(Asker { line, news }) = asker {
                news.fetch_add(1, Ordering::Release); // pairs with Acquire in `requester`
                self.ring_bell(line);
            }
        }
        if reaped.returned > 0 {
            self.ring_bell(Bell::line_of(ring.entry().topic.load(Ordering::Relaxed)));
        }
    }

    /// Looks at the next so many of our rows.
    fn sweep_rows(&self, sweep: &mut Sweep, now_ns: u64) {
        let mut left = SWEEP_ROWS;
        let mut from = sweep.row.take();
        let start = from.map_or(PortId(0), |(port, _)| port);
        let subscriptions: Vec<(PortId, Asked)> =
            lock(&self.subscriptions).range(start..).map(|(port, asked)| (*port, asked.clone())).collect();
        for (port, Asked { subscription, .. }) in subscriptions {
            let after = from.take().filter(|(of, _)| *of == port).map(|(_, row)| row);
            let (rows, last, count) = subscription.rows_after(after, left);
            left -= count.min(left);
            for row in rows {
                row.look(now_ns);
                subscription.start_without_seat(&row);
            }
            if left == 0 {
                sweep.row = last.map(|last| (port, last));
                return;
            }
        }
    }

    /// Wakes who waits for a change of the table.
    fn change(&self) {
        *lock(&self.changes) += 1;
        self.changed.notify_all();
        if let Some(carrier) = self.carrier() {
            carrier.changed();
        }
    }

    /// Waits until `done`, or until `deadline`, or until nothing has changed for `quiet`.
    pub(crate) fn wait_for(
        &self,
        deadline: Deadline,
        quiet: Duration,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        let mut changes = lock(&self.changes);
        loop {
            if done() {
                return true;
            }
            let left = deadline.remaining().unwrap_or(quiet).min(quiet);
            let before = *changes;
            let (now, waited) =
                self.changed.wait_timeout(changes, left).unwrap_or_else(PoisonError::into_inner);
            changes = now;
            if waited.timed_out() && *changes == before {
                return done();
            }
            if deadline.expired() {
                return done();
            }
        }
    }

    /// The first domain segment.
    pub(crate) fn adopt(&self, domain: &Arc<Domain>) -> Result<(), ShmError> {
        self.own.join(domain)?;
        let mut current = lock(&self.domain);
        if current.is_none() {
            *current = Some(domain.clone());
            self.domain_version.fetch_add(1, Ordering::Release); // pairs with Acquire in `domain_version`
        }
        Ok(())
    }

    /// Wakes everybody of this process who sleeps in a subscriber or waits for a change.
    pub(crate) fn wake_all(&self) {
        self.change();
        let lines: Vec<usize> =
            lock(&self.subscriptions).values().map(|asked| asked.subscription.line).collect();
        for line in lines {
            self.ring_bell(line);
        }
    }

    /// Wakes a node that waits for what becomes of the work that it has laid out here.
    pub(crate) fn ring_work(&self) {
        // A child made by `fork` has no bell, and may not take the parent's locks.
        if self.own.forked() {
            return;
        }
        if let Some(domain) = self.domain() {
            domain.bell().ring(work_line());
        }
    }

    pub(crate) fn ring_bell(&self, line: usize) {
        if let Some(domain) = self.domain() {
            domain.bell().finish(line);
        }
    }
}

impl PortTable {
    /// The claims file of a process, mapped once while it is there.
    fn claims_of(&self, process: ProcessId, fd: BorrowedFd<'_>) -> Result<Region, ShmError> {
        if let Some(known) = lock(&self.claims).get(&process) {
            return Ok(known.clone());
        }
        let mapped = file::map(fd, process)?;
        lock(&self.claims).insert(process, mapped.clone());
        Ok(mapped)
    }
}

/// A publisher that a subscription has been told of.
struct Found<'a> {
    peer: &'a Arc<PeerArena>,
    ring: EntryKey,
    topic: &'a Topic,
    port: PortId,
    /// Since when it is asked for.
    since_ns: u64,
}

impl PortTable {
    /// Makes a row that waits for its seat. `None`: the ring is over, or memory is short and it will be tried again.
    fn make_row(
        &self,
        subscription: &Arc<Subscription>,
        known: &mut Known,
        found: &Found<'_>,
    ) -> Option<Arc<RowShared>> {
        let (process, topic) = (found.peer.process(), found.topic);
        let options = RowOptions { created_ns: found.since_ns, ..subscription.options };
        let group = subscription.group.as_ref().map_or(0, |group| group.name().id().0);
        let made = RowShared::create_for(&self.own, found.peer, found.ring, &options, group, &self.budget);
        let row = match made {
            Ok(row) => row,
            Err(ShmError::Refused { what }) => {
                tracing::debug!(target: "busway::ports", %topic, "not subscribed: {what}");
                lock(&subscription.unmet).forget(process, found.ring);
                return None;
            }
            Err(error) => {
                self.warn(Line::Budget, || {
                    format!("cannot subscribe to {topic}: {error}; it is tried again")
                });
                let unmet = Unmet {
                    peer: found.peer.clone(),
                    ring: found.ring,
                    topic: topic.clone(),
                    publisher: found.port,
                    short: Short::Own,
                    error: memory(&error, &format!("topic {topic}")),
                };
                lock(&subscription.unmet).note(unmet, clock::monotonic_ns());
                return None;
            }
        };
        known.insert((process, found.ring), &row);
        lock(&self.waiting).insert(row.key().index, (Arc::downgrade(&row), Arc::downgrade(subscription)));
        let arrival = Arrival { row: row.clone(), topic: topic.clone(), publisher: found.port };
        subscription.arrive(arrival);
        Some(row)
    }
}

/// Keeps a publisher in mind that had no room for a seat, if it is still there.
fn refused_seat(subscription: &Subscription, row: &RowShared, reason: &str) {
    let (peer, ring) = (row.peer(), row.ring_key());
    let there = row.ring().key.load(Ordering::Acquire) == key(ring.generation, state::ACTIVE);
    let Some(topic) = peer.tables().ring_topic(ring.index).filter(|_| there && !peer.life().is_gone()) else {
        return lock(&subscription.unmet).forget(peer.process(), ring);
    };
    let port = PortId(row.ring().port.load(Ordering::Relaxed));
    let unmet = Unmet::refused(peer.clone(), ring, topic, port, reason);
    lock(&subscription.unmet).note(unmet, clock::monotonic_ns());
}

fn row_key(key: EntryKey) -> RowKey {
    RowKey { index: RowIndex(key.index), generation: Generation(key.generation) }
}

fn entry_of(key: RingKey) -> EntryKey {
    EntryKey { index: key.index.0, generation: key.generation.0 }
}

fn row_entry(key: RowKey) -> EntryKey {
    EntryKey { index: key.index.0, generation: key.generation.0 }
}

/// The line on which a node sleeps that lays out work of other hosts and has nothing else to wait for.
pub(crate) fn work_line() -> usize {
    static LINE: LazyLock<usize> = LazyLock::new(|| line_of(Some(&busway_wire::work::topic())));
    *LINE
}

/// The line on which those sleep who want exactly this topic, or any.
pub(crate) fn line_of(exact: Option<&Topic>) -> usize {
    exact.map_or(ANY, |topic| Bell::line_of(topic.id().0))
}

impl Ports for PortTable {
    fn ring_added(&self, added: &RingAdded<'_>) -> Option<RowKey> {
        let Asked { subscription, since_ns } = lock(&self.subscriptions).get(&added.subscription).cloned()?;
        if !subscription.takes(added.topic) {
            return None;
        }
        tracing::debug!(target: "busway::ports", topic = %added.topic, older = added.ring_is_older, "met a publisher");
        let ring = entry_of(added.ring);
        let key = (added.peer.process(), ring);
        let mut known = lock(&subscription.known);
        let row = match known.rows.get(&key).and_then(Weak::upgrade) {
            Some(row) if row.is_attached() || row.is_refused() => return None,
            Some(row) => row,
            None if known.has_begun(added.peer.process(), ring) => return None,
            None => {
                let (topic, port) = (added.topic, added.port);
                let publisher = Found { peer: added.peer, ring, topic, port, since_ns };
                let made = self.make_row(&subscription, &mut known, &publisher);
                let Some(row) = made else {
                    // Who waits for a change looks at what is known.
                    drop(known);
                    self.change();
                    return None;
                };
                row
            }
        };
        Some(row_key(row.key()))
    }

    fn attach(&self, attach: &Attach<'_>) -> Result<SeatIndex, String> {
        let ring = lock(&self.rings).get(&attach.ring.index.0).cloned();
        let ring = ring.filter(|ring| ring.key() == entry_of(attach.ring)).ok_or("the publisher is gone")?;
        tracing::debug!(target: "busway::ports", subscription = %attach.subscription, "a subscriber takes a seat");
        let seat = ring.attach(attach.subscriber, row_entry(attach.row), attach.policy);
        self.change();
        seat.map(SeatIndex).map_err(|error| error.to_string())
    }

    fn join(&self, join: &Join<'_>) -> Result<(GroupPlace, Arc<ClaimsFile>), String> {
        let ring = lock(&self.rings).get(&join.ring.index.0).cloned();
        let ring = ring.filter(|ring| ring.key() == entry_of(join.ring)).ok_or("the pusher is gone")?;
        let place = ring.attach_puller(join.subscriber, row_entry(join.row), join.group);
        self.change();
        let place = place.map_err(|error| error.to_string())?;
        Ok((place, self.own.claims().map_err(|error| error.to_string())?))
    }

    fn joined(
        &self,
        publisher: ProcessId,
        ring: RingKey,
        row: RowKey,
        place: GroupPlace,
        claims: BorrowedFd<'_>,
    ) {
        let run = self.claims_of(publisher, claims).and_then(|file| Run::of(&file, place.run));
        match run {
            Ok(run) => {
                let found = lock(&self.waiting).get(&row.index.0).and_then(|(found, _)| found.upgrade());
                // Only who has the ring gives places in its group.
                let asked = |found: &Arc<RowShared>| {
                    (found.key(), found.peer().process(), found.ring_key())
                        == (row_entry(row), publisher, entry_of(ring))
                };
                if let Some(found) = found.filter(asked) {
                    found.take_place(run, place.owner);
                }
                self.attached(publisher, ring, row, Ok(SeatIndex(place.seat)));
            }
            Err(error) => {
                let reason = format!("the claims of the pusher are refused: {error}");
                self.warn(Line::Refusal, || reason.clone());
                self.attached(publisher, ring, row, Err(reason));
            }
        }
    }

    fn attached(&self, publisher: ProcessId, ring: RingKey, row: RowKey, seat: Result<SeatIndex, String>) {
        let (ring, row) = (entry_of(ring), row_entry(row));
        let mut waiting = lock(&self.waiting);
        let Some((found, subscription)) = waiting.get(&row.index).cloned() else { return };
        let Some(found) = found.upgrade().filter(|found| found.key() == row) else { return };
        if found.peer().process() != publisher || found.ring_key() != ring {
            return;
        }
        waiting.remove(&row.index);
        drop(waiting);
        let subscription = subscription.upgrade();
        if let (Err(reason), Some(subscription)) = (&seat, &subscription) {
            tracing::debug!(target: "busway::ports", "a publisher refused a seat: {reason}");
            subscription.withdraw(&found);
            refused_seat(subscription, &found, reason);
        }
        if let (Some(subscription), Ok(_)) = (&subscription, &seat) {
            subscription.begin(&found);
            lock(&subscription.unmet).forget(publisher, ring);
        }
        found.attached(seat.map(|seat| seat.0).map_err(|_| ()));
        if let Some(subscription) = subscription.as_ref().filter(|_| found.is_attached()) {
            subscription.settle(&found);
        }
        self.change();
        if let Some(subscription) = subscription {
            self.ring_bell(subscription.line);
        }
    }

    fn gone(&self, process: ProcessId) {
        let rings: Vec<Arc<RingShared>> = lock(&self.rings).values().cloned().collect();
        lock(&self.claims).remove(&process);
        for ring in rings {
            let reaped = ring.reap();
            self.tell_returned(&ring, reaped);
            if reaped.died > 0 {
                // Who died is said once, by the control thread.
                tracing::debug!(target: "busway::ports", process = %process, "a subscriber's process is gone");
            }
        }
        let subscriptions: Vec<Asked> = lock(&self.subscriptions).values().cloned().collect();
        for Asked { subscription, .. } in subscriptions {
            let mut concerned = false;
            for row in subscription.rows_of(process) {
                subscription.start_without_seat(&row);
                subscription.give_up_place(&row);
                concerned = true;
            }
            lock(&subscription.known).gone(process, clock::monotonic_ns());
            lock(&subscription.unmet).gone(process);
            if concerned {
                self.ring_bell(subscription.line);
            }
        }
        self.change();
    }

    fn doubted(&self, process: ProcessId) {
        let rings: Vec<Arc<RingShared>> = lock(&self.rings).values().cloned().collect();
        for ring in rings {
            ring.stop_gating(process);
        }
    }

    fn domain_changed(&self, domain: &Arc<Domain>) {
        if let Err(error) = self.own.join(domain) {
            self.warn(Line::Budget, || format!("the domain's budget cannot back this process: {error}"));
        }
        *lock(&self.domain) = Some(domain.clone());
        self.domain_version.fetch_add(1, Ordering::Release); // pairs with Acquire in `domain_version`
    }

    fn watched(&self, watched: Watched) {
        if let Some(carrier) = self.carrier() {
            carrier.watched(watched);
        }
    }

    fn retry(&self, now_ns: u64) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let subscriptions: Vec<(PortId, Asked)> =
            lock(&self.subscriptions).iter().map(|(port, asked)| (*port, asked.clone())).collect();
        // Under the port by which it is registered: what is read for a peer has one for each of the peer's wishes.
        for (port, Asked { subscription, since_ns }) in subscriptions {
            let due = lock(&subscription.unmet).due(now_ns, RETRIES - wanted.len().min(RETRIES));
            for unmet in due {
                let Unmet { peer, ring, topic, publisher, .. } = &unmet;
                let publisher = Found { peer, ring: *ring, topic, port: *publisher, since_ns };
                let mut known = lock(&subscription.known);
                // One that waits for its answer is asked for again: a second one would be read by nobody, and be waited for.
                let there = known.rows.get(&(peer.process(), *ring)).and_then(Weak::upgrade);
                let made = match there.filter(|row| !row.is_refused()) {
                    Some(row) if row.is_attached() => None,
                    Some(row) => Some(row),
                    None => self.make_row(&subscription, &mut known, &publisher),
                };
                drop(known);
                wanted.extend(made.map(|row| Wanted {
                    publisher: unmet.peer.process(),
                    ring: ring_key(unmet.ring),
                    subscription: port,
                    row: row_key(row.key()),
                    policy: subscription.options.policy,
                }));
            }
        }
        wanted
    }

    fn tick(&self, now_ns: u64) {
        let unfinished = std::mem::take(&mut *lock(&self.unfinished));
        for line in unfinished {
            self.ring_bell(line);
        }
        let mut sweep = lock(&self.sweep);
        self.sweep_rings(&mut sweep, now_ns);
        self.own.reap_rows();
        self.sweep_rows(&mut sweep, now_ns);
    }
}

/// A ring's key as the control plane carries it.
pub(crate) fn ring_key(key: EntryKey) -> RingKey {
    RingKey { index: RingIndex(key.index), generation: Generation(key.generation) }
}

#[cfg(test)]
mod tests;
