//! Reads what a domain looks like from the memory of its members.
//!
//! Nobody is asked and nobody is stopped: rings, rows and seats lie in their owners' arenas with their counters. What is
//! read while it changes may be a message apart between two counters; whether a row's own account closes is judged so that
//! this does not matter (`busway_shm::row::ledger`).
//!
//! Invariant: whatever stands in a member's memory, this ends: each table is gone through once, and numbers saturate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busway_shm::arena::PeerArena;
use busway_shm::clock;
use busway_shm::domain::Domain;
use busway_shm::layout::{
    CAUSES, RING_PUSHES, RING_RELAYS, RINGS_MAX, RingEntry, RowEntry, SEATS_MAX, STAGES_MAX, state, unkey,
};
use busway_shm::life::Life;
use busway_shm::row::{RowAccount, ledger, policy_from_word};
use busway_shm::seat::{EntryKey, RingShared};
use busway_shm::slot::SLOT_BYTES;
use busway_shm::sync::{AtomicU64, Ordering};
use busway_wire::limits::{BEAT_MS, HUNG_AFTER_MS};
use busway_wire::{Cause, PortId, ProcessId};

use crate::control::MemberList;
use crate::inspection::{
    Account, BudgetView, Dropped, Inspection, PortState, ProcessView, PublisherView, SegmentView,
    SubscriberView, TopicView,
};

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn add_dropped(dropped: &mut Dropped, counters: &[u64; CAUSES]) {
    for cause in Cause::ALL {
        let count = counters.get(cause.index()).copied().unwrap_or(0);
        if count > 0 {
            let sum = dropped.entry(cause.name().to_owned()).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

/// Adds the ledger of a row to an account.
pub(crate) fn add_row(account: &mut Account, row: &RowAccount) {
    account.subscribers += 1;
    account.sent = account.sent.saturating_add(row.expected);
    account.expected = account.expected.saturating_add(row.expected);
    account.delivered = account.delivered.saturating_add(row.delivered);
    account.in_flight = account.in_flight.saturating_add(row.in_flight);
    add_dropped(&mut account.dropped, &row.dropped);
}

/// The ledger of a ring of ours: the rows that are there and those that are gone.
pub(crate) fn account_of(ring: &RingShared) -> Account {
    let ledgers = ring.ledgers();
    let mut account = Account::default();
    for row in &ledgers.present {
        add_row(&mut account, row);
    }
    if let Some(early) = &ledgers.early {
        add_row(&mut account, early);
        account.subscribers -= 1;
    }
    account.subscribers += ledgers.past_rows;
    account.expected = account.expected.saturating_add(ledgers.past_expected);
    account.delivered = account.delivered.saturating_add(ledgers.past_delivered);
    add_dropped(&mut account.dropped, &ledgers.past_dropped);
    account.sent = ledgers.head;
    account
}

/// How a process does, by its life word and its heartbeat.
pub(crate) fn process_state(peer: &PeerArena, now_ns: u64) -> PortState {
    match peer.life() {
        Life::Dead | Life::Closed => PortState::Dead,
        Life::Starting | Life::Alive => {
            let silent = now_ns.saturating_sub(peer.last_beat_ns());
            if peer.monitored() && silent > HUNG_AFTER_MS * 1_000_000 {
                PortState::Hung
            } else {
                PortState::Live
            }
        }
    }
}

/// One ring with its owner.
struct FoundRing<'a> {
    peer: &'a Arc<PeerArena>,
    key: EntryKey,
    entry: &'a RingEntry,
    head: u64,
    topic: String,
}

/// One seat: which row it is for, and how it is treated.
struct FoundSeat {
    row: EntryKey,
    subscriber: ProcessId,
    state: u32,
    from: u64,
}

/// A topic, and where in it each subscription stands.
struct Found {
    view: TopicView,
    subscribers: BTreeMap<(ProcessId, PortId), usize>,
}

type Topics = BTreeMap<String, Found>;
pub(crate) type Peers<'a> = BTreeMap<ProcessId, &'a Arc<PeerArena>>;

/// What `Bus::inspect` returns.
pub(crate) fn inspect(list: &MemberList, domain: Option<&Domain>) -> Inspection {
    let members = &list.members[..];
    let now_ns = clock::monotonic_ns();
    let mut inspection = Inspection::default();
    let peers: Peers<'_> = members.iter().map(|peer| (peer.process(), peer)).collect();
    let mut topics = Topics::new();
    for (at, peer) in members.iter().enumerate() {
        let rings = rings_of(peer);
        let mut seats = seats_of(peer);
        for ring in &rings {
            let topic = topics.entry(ring.topic.clone()).or_insert_with(|| new_topic(&ring.topic));
            // One that has left is no publisher, though what it sent may not have been read yet.
            let mut view = publisher_view(ring, now_ns);
            for seat in seats.remove(&ring.key.word()).unwrap_or_default() {
                match early_row(ring, &seat) {
                    Some(row) => add_early(&mut view, topic, ring, &seat, row),
                    None => add_subscriber(topic, ring, &seat, &peers, now_ns),
                }
            }
            if unkey(ring.entry.key.load(Ordering::Acquire)).1 == state::ACTIVE {
                topic.view.publishers.push(view);
            }
        }
        inspection.processes.push(process_view(peer, at == 0, now_ns));
        segments_of(peer, &mut inspection.segments);
        inspection.segments.extend(rings.iter().map(ring_segment));
    }
    add_unmatched(list, &peers, now_ns, &mut topics);
    inspection.topics = topics.into_values().map(|found| found.view).collect();
    if let Some(domain) = domain {
        let ledger = domain.ledger();
        inspection.budget = BudgetView { limit_bytes: ledger.budget(), reserved_bytes: ledger.reserved() };
    }
    inspection
}

/// Adds the subscriptions that no publisher has met, under their patterns.
fn add_unmatched(list: &MemberList, peers: &Peers<'_>, now_ns: u64, topics: &mut Topics) {
    let seated: BTreeSet<(ProcessId, PortId)> =
        topics.values().flat_map(|topic| topic.subscribers.keys().copied()).collect();
    for subscription in &list.unmatched {
        let Some(peer) = peers.get(&subscription.process) else { continue };
        if seated.contains(&(subscription.process, subscription.port)) {
            continue;
        }
        let pattern = subscription.pattern.to_string();
        let topic = topics.entry(pattern.clone()).or_insert_with(|| new_topic(&pattern));
        topic.view.subscribers.push(SubscriberView {
            name: peer.name(),
            pid: peer.pid(),
            port: subscription.port.to_string(),
            policy: subscription.policy.to_string(),
            state: process_state(peer, now_ns),
            ..SubscriberView::default()
        });
    }
}

fn new_topic(topic: &str) -> Found {
    let view = TopicView { topic: topic.to_owned(), closed: true, ..TopicView::default() };
    Found { view, subscribers: BTreeMap::new() }
}

fn rings_of(peer: &Arc<PeerArena>) -> Vec<FoundRing<'_>> {
    let used = peer.tables().header().rings_used.load(Ordering::Acquire).min(RINGS_MAX);
    let found = |index: u32| {
        let entry = peer.tables().ring(index)?;
        let (generation, at) = unkey(entry.key.load(Ordering::Acquire)); // pairs with Release in `ring`
        if !matches!(at, state::ACTIVE | state::CLOSED) {
            return None;
        }
        let topic = peer.tables().ring_topic(index)?.as_str().to_owned();
        let head = peer.tables().head(index)?.load(Ordering::Acquire);
        Some(FoundRing { peer, key: EntryKey { index, generation }, entry, head, topic })
    };
    (0..used).filter_map(found).collect()
}

fn publisher_view(ring: &FoundRing<'_>, now_ns: u64) -> PublisherView {
    // What a process that does not beat has measured was true once.
    let beats = now_ns.saturating_sub(ring.peer.last_beat_ns()) < HUNG_AFTER_MS * 1_000_000;
    let rate_milli = if beats { load(&ring.entry.rate_milli) } else { 0 };
    PublisherView {
        name: ring.peer.name(),
        pid: ring.peer.pid(),
        port: PortId(load(&ring.entry.port)).to_string(),
        sent: ring.head,
        bytes: load(&ring.entry.sent_bytes),
        rate: rate_milli as f64 / 1000.0,
        waiting: 0,
        no_subscriber: load(&ring.entry.past_dropped[Cause::NoSubscriber.index()]),
    }
}

/// The publisher's own row that stands for the first subscriber, if this is its seat: it has nobody's port.
fn early_row<'a>(ring: &FoundRing<'a>, seat: &FoundSeat) -> Option<&'a RowEntry> {
    let own = seat.subscriber == ring.peer.process();
    let row = ring.peer.tables().row(seat.row.index).filter(|_| own)?;
    let (generation, at) = unkey(row.key.load(Ordering::Acquire)); // pairs with Release in `place`
    let pushed = ring.entry.flags.load(Ordering::Relaxed) & RING_PUSHES != 0;
    let of_ring = load(&row.publisher) == ring.peer.process().0 && load(&row.ring) == ring.key.word();
    let stands = generation == seat.row.generation && at == state::ACTIVE && load(&row.port) == 0;
    (stands && of_ring && !pushed).then_some(row)
}

fn add_early(
    view: &mut PublisherView,
    topic: &mut Found,
    ring: &FoundRing<'_>,
    seat: &FoundSeat,
    row: &RowEntry,
) {
    let account = ledger_of(ring, seat, row);
    topic.view.closed &= account.closed();
    view.waiting = account.in_flight;
    view.no_subscriber = view.no_subscriber.saturating_add(account.dropped[Cause::NoSubscriber.index()]);
}

/// The seats of a process by the key of their ring: the table is gone through once, however many rings there are.
fn seats_of(peer: &Arc<PeerArena>) -> BTreeMap<u64, Vec<FoundSeat>> {
    let used = peer.tables().header().seats_used.load(Ordering::Acquire).min(SEATS_MAX);
    let mut seats: BTreeMap<u64, Vec<FoundSeat>> = BTreeMap::new();
    for seat in (0..used).filter_map(|index| peer.tables().seat(index)) {
        let (_, at) = unkey(seat.key.load(Ordering::Acquire)); // pairs with Release in `seat`
        if at != state::FREE {
            seats.entry(load(&seat.ring)).or_default().push(FoundSeat {
                row: EntryKey::from_word(load(&seat.row)),
                subscriber: ProcessId(load(&seat.subscriber)),
                state: at,
                from: load(&seat.from),
            });
        }
    }
    seats
}

/// The row of a seat, where both sides say that it is: a seat may name whose row it likes.
fn row_of<'a>(
    ring: &FoundRing<'_>,
    seat: &FoundSeat,
    peers: &Peers<'a>,
) -> Option<(&'a Arc<PeerArena>, &'a RowEntry)> {
    let peer = *peers.get(&seat.subscriber)?;
    let row = peer.tables().row(seat.row.index)?;
    let (generation, at) = unkey(row.key.load(Ordering::Acquire)); // pairs with Release in `row`
    let reads = load(&row.publisher) == ring.peer.process().0 && load(&row.ring) == ring.key.word();
    (generation == seat.row.generation && at != state::FREE && reads).then_some((peer, row))
}

fn ledger_of(ring: &FoundRing<'_>, seat: &FoundSeat, row: &RowEntry) -> RowAccount {
    // What a puller passes is in the row of its group.
    if ring.entry.flags.load(Ordering::Relaxed) & RING_PUSHES != 0 && load(&row.group) != 0 {
        return RowAccount::of_puller(row);
    }
    let head = || ring.peer.tables().head(ring.key.index).map_or(0, |head| head.load(Ordering::Acquire));
    ledger::read(row, seat.from.min(ring.head), head)
}

/// What became of what a process has sent through the rings that it has now, but for relays: the account of each row that is there, and for
/// each ring what rows had counted that are gone.
pub(crate) fn accounts_of(peer: &Arc<PeerArena>, peers: &Peers<'_>) -> (Vec<RowAccount>, Vec<RowAccount>) {
    let (mut present, mut past) = (Vec::new(), Vec::new());
    let mut seats = seats_of(peer);
    for ring in rings_of(peer) {
        if ring.entry.flags.load(Ordering::Relaxed) & RING_RELAYS != 0 {
            continue;
        }
        for seat in seats.remove(&ring.key.word()).unwrap_or_default() {
            present.extend(row_of(&ring, &seat, peers).map(|(_, row)| ledger_of(&ring, &seat, row)));
        }
        let dropped = |cause: usize| ring.entry.past_dropped.get(cause).map_or(0, load);
        past.push(RowAccount {
            delivered: load(&ring.entry.past_delivered),
            dropped: std::array::from_fn(dropped),
            ..RowAccount::default()
        });
    }
    (present, past)
}

/// Adds a row to the topic's subscribers, one entry a port, and says whether its account closes.
fn add_subscriber(topic: &mut Found, ring: &FoundRing<'_>, seat: &FoundSeat, peers: &Peers<'_>, now_ns: u64) {
    let Some((peer, row)) = row_of(ring, seat, peers) else { return };
    let pushed = ring.entry.flags.load(Ordering::Relaxed) & RING_PUSHES != 0;
    let pulls = pushed && load(&row.group) != 0;
    let account = ledger_of(ring, seat, row);
    topic.view.closed &= account.closed();
    let view = view_of(topic, peer, row, process_state(peer, now_ns), seat.state);
    if pushed {
        // The row of a group has its name where others have their port.
        let (role, group) = if pulls { ("pull", &row.group) } else { ("group", &row.port) };
        view.policy = role.to_owned();
        view.group = Some(PortId(load(group)).to_string());
    }
    view.delivered = view.delivered.saturating_add(account.delivered);
    add_dropped(&mut view.dropped, &account.dropped);
    view.in_flight = view.in_flight.saturating_add(account.in_flight);
    view.lag = view.lag.max(account.in_flight);
    view.lag_max = view.lag_max.max(load(&row.lag_high)).max(account.in_flight);
    view.held = view.held.saturating_add(account.held);
    if account.in_flight > 0 {
        let since_ns = row.waits_since_ns(peer.last_beat_ns());
        view.behind_ms = view.behind_ms.max(now_ns.saturating_sub(since_ns) / 1_000_000);
    }
}

fn view_of<'a>(
    topic: &'a mut Found,
    peer: &PeerArena,
    row: &RowEntry,
    process: PortState,
    seat_state: u32,
) -> &'a mut SubscriberView {
    let port = PortId(load(&row.port));
    let views = &mut topic.view.subscribers;
    let known = *topic.subscribers.entry((peer.process(), port)).or_insert_with(|| {
        let policy =
            policy_from_word(load(&row.policy)).map_or_else(String::new, |policy| policy.to_string());
        views.push(SubscriberView {
            name: peer.name(),
            pid: peer.pid(),
            port: port.to_string(),
            policy,
            ..SubscriberView::default()
        });
        views.len() - 1
    });
    let view = &mut views[known];
    view.state = match (process, seat_state) {
        (PortState::Dead | PortState::Hung, _) => process,
        (_, state::STALLED) => PortState::Stalled,
        (_, state::EVICTED) => PortState::Evicted,
        _ => view.state,
    };
    view
}

fn process_view(peer: &PeerArena, holder: bool, now_ns: u64) -> ProcessView {
    let silent_ms = now_ns.saturating_sub(peer.last_beat_ns()) / 1_000_000;
    let state = process_state(peer, now_ns);
    let since_ns = match state {
        PortState::Hung => peer.last_beat_ns().saturating_add(HUNG_AFTER_MS * 1_000_000),
        PortState::Dead => peer.last_beat_ns(),
        _ => load(&peer.tables().header().started_ns),
    };
    ProcessView {
        process: peer.process().to_string(),
        name: peer.name(),
        pid: peer.pid(),
        holder,
        monitored: peer.monitored(),
        state,
        since_ns,
        last_beat_ms: silent_ms,
        missed_beats: (silent_ms / BEAT_MS).saturating_sub(1),
        committed_bytes: peer.committed_bytes(),
    }
}

fn segments_of(peer: &PeerArena, into: &mut Vec<SegmentView>) {
    let (arena, bulk) = peer.committed_by_file();
    for (kind, bytes) in [("arena", arena), ("bulk", bulk)] {
        into.push(SegmentView {
            owner_pid: peer.pid(),
            name: peer.name(),
            kind: kind.to_owned(),
            bytes,
            topic: None,
        });
    }
}

fn ring_segment(ring: &FoundRing<'_>) -> SegmentView {
    let stages = (ring.entry.stages_used.load(Ordering::Acquire) as usize).min(STAGES_MAX);
    let bytes = ring.entry.stage_at[..stages]
        .iter()
        .fold(0_u64, |sum, at| sum.saturating_add((SLOT_BYTES as u64) << (load(at) & 63).min(20)));
    SegmentView {
        owner_pid: ring.peer.pid(),
        name: ring.peer.name(),
        kind: "ring".to_owned(),
        bytes,
        topic: Some(ring.topic.clone()),
    }
}

#[cfg(test)]
mod tests;
