//! Claims about the gate, over interfaces that are played: so many bytes a second, so far away.

extern crate std;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use busway_wire::limits::{GATE_BYTES_FIRST, GATE_BYTES_MIN};

use super::*;

const SEGMENT: u64 = 1_448;
const NS: u128 = 1_000_000_000;

/// An interface with one queue, as a kernel has it: what is written goes out in order. Behind it each link has a way of its own,
/// which may be slower; what has come through is acknowledged a round trip later.
struct Interface {
    bytes_per_second: u64,
    round_trip_ns: u64,
    idle_at: u64,
    /// How fast the way of a link is where it is slower, and when it is idle.
    ways: BTreeMap<u64, (u64, u64)>,
    links: BTreeMap<u64, UnderWay>,
    /// Nothing is acknowledged between two multiples of it.
    lump_ns: u64,
}

/// Of each segment of a link when it has left, when it is acknowledged, and how large it is.
#[derive(Default)]
struct UnderWay {
    segments: VecDeque<(u64, u64, u64)>,
    bytes: u64,
}

impl Interface {
    fn write(&mut self, now: u64, link: u64, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let size = left.min(SEGMENT);
            self.idle_at = self.idle_at.max(now) + size * 1_000_000_000 / self.bytes_per_second;
            let mut through = self.idle_at;
            if let Some((rate, idle_at)) = self.ways.get_mut(&link) {
                *idle_at = through.max(*idle_at) + size * 1_000_000_000 / *rate;
                through = *idle_at;
            }
            let under_way = self.links.entry(link).or_default();
            let acknowledged = (through + self.round_trip_ns).next_multiple_of(self.lump_ns);
            under_way.segments.push_back((self.idle_at, acknowledged, size));
            under_way.bytes += size;
            left -= size;
        }
    }

    fn backlog(&mut self, now: u64, link: u64) -> Backlog {
        let under_way = self.links.entry(link).or_default();
        while let Some((.., size)) = under_way.segments.pop_front_if(|(_, at, _)| *at <= now) {
            under_way.bytes -= size;
        }
        let here = under_way.segments.iter().rev().take_while(|(left, ..)| *left > now);
        Backlog { unacknowledged: under_way.bytes, here: here.map(|(.., size)| size).sum() }
    }

    /// How long a message that comes now waits in this host for what is in front of it.
    fn queue_ns(&self, now: u64) -> u64 {
        self.idle_at.saturating_sub(now)
    }

    /// And on the way of a link.
    fn way_ns(&self, now: u64, link: u64) -> u64 {
        self.ways.get(&link).map_or(0, |(_, idle_at)| idle_at.saturating_sub(now))
    }
}

struct Outcome {
    /// Of what the interface could have carried, in hundredths.
    carried: u64,
    /// The wait in this host that 99 of 100 messages do not exceed, and that on the way of the first link.
    wait_ns: u64,
    way_ns: u64,
    /// How often a round trip was asked for.
    asked: u64,
    /// How often the kernel was asked what it has of a link.
    looks: u64,
    /// Bytes of each link.
    shares: Vec<u64>,
}

/// So many links that always have bulk to send, for so long; what is measured is the second half.
fn run(bytes_per_second: u64, round_trip_ns: u64, links: u64, ms: u64) -> Outcome {
    run_with(bytes_per_second, round_trip_ns, links, &Course::default(), ms)
}

/// What is not as usual.
#[derive(Default)]
struct Course<'a> {
    /// The ways of some are slower.
    slow: &'a [(u64, u64)],
    /// Bytes a second of small messages, which no gate stops, over each link.
    small: u64,
    /// So long nothing is acknowledged, and then all that has come.
    lump_ns: u64,
    /// After so many milliseconds a round trip takes so many nanoseconds.
    becomes: Option<(u64, u64)>,
}

fn run_with(bytes_per_second: u64, round_trip_ns: u64, links: u64, course: &Course<'_>, ms: u64) -> Outcome {
    let mut dice = fastrand::Rng::with_seed(links ^ round_trip_ns);
    let ways = course.slow.iter().map(|(link, rate)| (*link, (*rate, 0))).collect();
    let lump_ns = course.lump_ns.max(1);
    let mut interface =
        Interface { bytes_per_second, round_trip_ns, idle_at: 0, ways, links: BTreeMap::new(), lump_ns };
    let mut said_at = 1_000_000;
    let mut gate = Gate::new();
    let (mut now, mut written, mut waits, mut ways) = (1_000_000, 0, Vec::new(), Vec::new());
    let (mut asked, mut shares, mut looks) = (0, Vec::new(), 0_u64);
    shares.resize(usize::try_from(links).unwrap(), 0);
    let (begin, end) = (now + ms * 500_000, now + ms * 1_000_000);
    let mut due: BTreeMap<u64, u64> = (0..links).map(|link| (link, now)).collect();
    let becomes = course.becomes.map(|(ms, ns)| (now + ms * 1_000_000, ns));
    while now < end {
        if let Some((_, ns)) = becomes.filter(|(at, _)| now >= *at) {
            interface.round_trip_ns = ns;
        }
        let small = course.small * (now - said_at) / 1_000_000_000;
        if small > 0 {
            said_at = now;
            (0..links).for_each(|link| {
                interface.write(now, link, small);
                gate.wrote(ConnectionId(link), small);
            });
        }
        for number in 0..links {
            if due[&number] > now {
                continue;
            }
            let (link, time) = (ConnectionId(number), Time(now));
            if gate.asks(time, link) {
                asked += u64::from(now >= begin);
                let queues = interface.queue_ns(now) + interface.way_ns(now, number);
                // What answers is gathered as what acknowledges is.
                let answered = (now + interface.round_trip_ns + queues).next_multiple_of(lump_ns);
                gate.round_trip(time, link, answered - now);
            }
            let look = |of: ConnectionId| {
                looks += 1;
                Some(interface.backlog(now, of.0))
            };
            let room = gate.room(time, link, look).min(256 << 10);
            if room > 0 {
                let fragment = room.max(8 << 10);
                interface.write(now, number, fragment);
                gate.wrote(link, fragment);
                gate.charge(link, fragment);
                let counted = if now >= begin { fragment } else { 0 };
                written += counted;
                shares[usize::try_from(number).unwrap()] += counted;
            } else {
                due.insert(number, gate.wait_until(time, link).0);
            }
        }
        if now >= begin {
            waits.push(interface.queue_ns(now));
            ways.push(interface.way_ns(now, 0));
        }
        // Who looks is late by as much as a thread is.
        now =
            (now + GATE_WAIT_NS_MIN).max(due.values().copied().min().unwrap_or(0)) + dice.u64(5_000..100_000);
    }
    waits.sort_unstable();
    ways.sort_unstable();
    let could = u128::from(bytes_per_second) * u128::from(end - begin) / NS;
    let carried = u64::try_from(u128::from(written) * 100 / could).unwrap();
    let at = waits.len() * 99 / 100;
    Outcome { carried, wait_ns: waits[at], way_ns: ways[at], asked, looks, shares }
}

#[test]
fn an_interface_is_kept_busy_and_what_is_urgent_waits_for_little_more_than_a_millisecond() {
    for mbit in [10, 100, 1_000] {
        for round_trip_us in [50, 1_000, 20_000] {
            for links in [1, 31] {
                let rate = mbit * 125_000;
                let outcome = run(rate, round_trip_us * 1_000, links, 1_500);
                let wait_us = outcome.wait_ns / 1_000;
                // Twice the queue while it is tried whether more can be, and no less than the least bytes and a fragment.
                let least_us = 2 * GATE_BYTES_MIN * 1_000_000 / rate;
                assert!(
                    outcome.carried >= 80,
                    "{mbit} Mbit/s, {round_trip_us} us, {links} links: {} %",
                    outcome.carried
                );
                assert!(
                    wait_us <= least_us + 2_500 + round_trip_us,
                    "{mbit} Mbit/s, {links} links: {wait_us} us"
                );
            }
        }
    }
}

#[test]
fn who_is_slow_to_be_reached_keeps_the_interface_from_nobody_else_and_has_a_short_queue_of_its_own() {
    let rate = 100 * 125_000;
    // Others crowd the ways of six hosts out of seven; one could have the rest.
    for slow in [rate / 20, rate / 100] {
        let crowded: Vec<(u64, u64)> = (0..6).map(|link| (link, slow)).collect();
        let outcome = run_with(rate, 50_000, 7, &Course { slow: &crowded, ..Course::default() }, 4_000);
        assert!(outcome.carried >= 80, "{slow} bytes a second: {} %", outcome.carried);
        let way_us = outcome.way_ns / 1_000;
        let least_us = 2 * GATE_BYTES_MIN * 1_000_000 / slow;
        assert!(way_us <= least_us + 2_500, "{slow} bytes a second: {way_us} us of {least_us}");
    }
}

#[test]
fn all_who_wait_for_an_interface_have_as_much_of_it_as_each_other() {
    for mbit in [10, 50, 1_000] {
        for links in [2, 7, 31] {
            let outcome = run(mbit * 125_000, 400_000, links, 4_000);
            let (least, most) = (outcome.shares.iter().min().unwrap(), outcome.shares.iter().max().unwrap());
            // A link writes what the interface carries in a millisecond or a fragment in its turn.
            let turn = (mbit * 125).max(GATE_BYTES_FIRST);
            // What a way of its own keeps from one for a moment others have.
            assert!(
                most - least <= 2 * turn + most / 20,
                "{mbit} Mbit/s, {links} links: {:?}",
                outcome.shares
            );
            assert!(outcome.carried >= 80, "{mbit} Mbit/s, {links} links: {} %", outcome.carried);
        }
    }
}

#[test]
fn who_has_no_bulk_has_no_turn_and_saves_none_up() {
    let mut gate = Gate::new();
    let (idle, busy) = (ConnectionId(1), ConnectionId(2));
    // Something always waits there, and there is room.
    let write = |gate: &mut Gate, now: u64, link: ConnectionId| {
        let looked = here(GATE_BYTES_FIRST / 3);
        gate.look(Time(now), link, looked);
        let room = gate.room(Time(now), link, |_| Some(looked));
        gate.wrote(link, room);
        gate.charge(link, room);
        room
    };
    gate.look(Time(1), idle, here(0));
    for now in 2..100 {
        assert!(write(&mut gate, now, busy) > 0, "nobody else has any");
    }
    // Now both have: the other goes first, for it was given least; but once, not for all that it did not ask for.
    let mut given = [0; 2];
    for now in 100..200 {
        given[0] += write(&mut gate, now, idle);
        given[1] += write(&mut gate, now, busy);
    }
    assert!(given[0].abs_diff(given[1]) <= 2 * GATE_BYTES_FIRST, "{given:?}");
    // Who says that it has no more is waited for by nobody, and who says nothing not for long.
    while write(&mut gate, 200, busy) > 0 {}
    gate.rests(idle);
    assert!((0..100).all(|_| write(&mut gate, 201, busy) > 0));
    assert!(
        (0..3).any(|_| write(&mut gate, 202, busy) == 0 || write(&mut gate, 202, idle) == 0),
        "both have some again"
    );
    while write(&mut gate, 202, idle) > 0 {}
    while write(&mut gate, 202, busy) > 0 {}
    assert_eq!(write(&mut gate, 202 + GATE_TURN_NS - 1, busy), 0, "it is the turn of the other");
    assert!(write(&mut gate, 202 + GATE_TURN_NS, busy) > 0);
    // Nor is anybody where the interface would run dry meanwhile.
    write(&mut gate, 300_000_000, idle);
    while write(&mut gate, 300_000_000, busy) > 0 {}
    [idle, busy].into_iter().for_each(|link| gate.look(Time(300_000_001), link, here(GATE_BYTES_FIRST / 16)));
    assert!(gate.room(Time(300_000_001), busy, |_| Some(here(GATE_BYTES_FIRST / 16))) > 0);
}

#[test]
fn a_way_that_has_become_longer_is_full_again_when_the_shorter_one_is_forgotten() {
    const CHANGES_MS: u64 = 2_000;
    let forgotten_ms = CHANGES_MS + GATE_EPOCHS as u64 * GATE_EPOCH_MS;
    let far_ns = 50_000_000;
    for (mbit, near_ns) in [(10, 1_000_000), (100, 50_000), (100, 1_000_000), (100, 20_000_000)] {
        let (rate, course) =
            (mbit * 125_000, Course { becomes: Some((CHANGES_MS, far_ns)), ..Course::default() });
        let what = std::format!("{mbit} Mbit/s, {near_ns} ns");
        // Until then it cannot be told from a crowd, and carries the least in a round trip, the time that it takes to leave, and a look.
        let until = run_with(rate, near_ns, 1, &course, forgotten_ms - GATE_EPOCH_MS);
        let each_ns = far_ns + GATE_BYTES_MIN * 1_000_000_000 / rate + GATE_WAIT_FAR_NS_MAX;
        let least = GATE_BYTES_MIN * 100 * 1_000_000_000 / each_ns / rate;
        assert!(until.carried >= least, "{what}: {} % of {least} %", until.carried);
        let after = run_with(rate, near_ns, 1, &course, 2 * (forgotten_ms + 1_000));
        assert!(after.carried >= 80, "{what}: {} %", after.carried);
        let wait_us = after.wait_ns / 1_000;
        assert!(wait_us <= 2 * GATE_BYTES_MIN * 1_000_000 / rate + 2_500, "{what}: {wait_us} us");
    }
}

#[test]
fn who_acknowledges_in_lumps_is_sent_as_much_as_comes_through() {
    for mbit in [10, 100, 1_000] {
        // On a shorter way a pause is taken for the turn of others.
        for round_trip_us in [20_000, 60_000] {
            // What radios gather, and what hosts put off.
            for lump_ms in [5, 10, 20, 40] {
                let rate = mbit * 125_000;
                let course = Course { lump_ns: lump_ms * 1_000_000, ..Course::default() };
                let outcome = run_with(rate, round_trip_us * 1_000, 1, &course, 3_000);
                let what = std::format!("{mbit} Mbit/s, {round_trip_us} us, lumps of {lump_ms} ms");
                assert!(outcome.carried >= 80, "{what}: {} %", outcome.carried);
                // Beside it what is urgent waits here for no longer than without.
                let (least_us, wait_us) = (2 * GATE_BYTES_MIN * 1_000_000 / rate, outcome.wait_ns / 1_000);
                assert!(wait_us <= least_us + 2_500, "{what}: {wait_us} us");
            }
        }
    }
}

#[test]
fn what_stood_still_once_makes_no_long_queue_when_it_goes_on() {
    let mut gate = Gate::new();
    let (link, away) = (ConnectionId(1), |bytes| Backlog { unacknowledged: bytes, here: 0 });
    let mut now = 1_000_000;
    gate.round_trip(Time(now), link, 400_000_000);
    // 12 500 bytes a millisecond come through; nothing for three seconds in the midst of it.
    let enough = 12_500 * 401;
    let mut look = |gate: &mut Gate, ms: u64, gone: u64| {
        now += ms * 1_000_000;
        let lies = gate.links.get(&link).map_or(0, |link| link.way.bytes);
        gate.look(Time(now), link, away(lies - gone));
        gate.wrote(link, gone);
    };
    gate.look(Time(1_000_000), link, away(0));
    gate.wrote(link, 50_000);
    (0..6_000).for_each(|_| look(&mut gate, 1, 12_500));
    let bound = |gate: &Gate| gate.links.get(&link).map_or(0, |link| link.way.bound());
    let before = bound(&gate);
    (0..600).for_each(|_| look(&mut gate, 5, 0));
    for _ in 0..1_200 {
        look(&mut gate, 1, 12_500);
        let bound = bound(&gate);
        assert!(bound <= enough * 3 / 2, "no more is made up for than a host puts off: {bound} bytes");
    }
    (0..6_000).for_each(|_| look(&mut gate, 1, 12_500));
    let after = bound(&gate);
    let most = enough * 13 / 10;
    assert!(before <= most && after <= most, "{before} bytes before, {after} after, {enough} are enough");
}

/// All of it waits here.
const fn here(bytes: u64) -> Backlog {
    Backlog { unacknowledged: bytes, here: bytes }
}

/// Hosts that all send to one, each through a gate of its own, over a line of that one; each was linked to it before. The longest queue
/// before that line in the second half, in nanoseconds, and what the line carried, in hundredths.
fn crowd(bytes_per_second: u64, round_trip_ns: u64, senders: u64, ms: u64) -> (u64, u64) {
    let mut dice = fastrand::Rng::with_seed(senders);
    let link = ConnectionId(0);
    // Of each sender its gate, when what it sent is acknowledged and how much that is, and when it looks next.
    let mut gates: Vec<_> = (0..senders)
        .map(|_| {
            let mut gate = Gate::new();
            gate.round_trip(Time(1_000_000), link, round_trip_ns);
            (gate, VecDeque::<(u64, u64)>::new(), dice.u64(1_000_000..20_000_000))
        })
        .collect();
    let (mut now, mut idle_at, mut longest, mut written) = (1_000_000, 0_u64, 0, 0);
    let (begin, end) = (now + ms * 500_000, now + ms * 1_000_000);
    while now < end {
        for (gate, under_way, due) in gates.iter_mut().filter(|(.., due)| *due <= now) {
            while under_way.pop_front_if(|(at, _)| *at <= now).is_some() {}
            let unacknowledged = under_way.iter().map(|(_, size)| size).sum();
            if gate.asks(Time(now), link) {
                gate.round_trip(Time(now), link, round_trip_ns + idle_at.saturating_sub(now));
            }
            let look = |_| Some(Backlog { unacknowledged, here: 0 });
            let mut left = gate.room(Time(now), link, look).min(256 << 10);
            if left == 0 {
                *due = gate.wait_until(Time(now), link).0;
                continue;
            }
            left = left.max(8 << 10);
            gate.wrote(link, left);
            written += if now >= begin { left } else { 0 };
            while left > 0 {
                let size = left.min(SEGMENT);
                idle_at = idle_at.max(now) + size * 1_000_000_000 / bytes_per_second;
                under_way.push_back((idle_at + round_trip_ns, size));
                left -= size;
            }
        }
        longest = longest.max(if now >= begin { idle_at.saturating_sub(now) } else { 0 });
        now += GATE_WAIT_NS_MIN + dice.u64(5_000..100_000);
    }
    let could = u128::from(bytes_per_second) * u128::from(end - begin) / NS;
    (longest, u64::try_from(u128::from(written) * 100 / could).unwrap())
}

#[test]
fn many_who_send_to_one_fill_its_line_and_wait_there_for_no_more_than_the_least_that_each_may_have() {
    for senders in [2, 7, 20] {
        let rate = 6_250_000;
        let (longest_ns, carried) = crowd(rate, 400_000, senders, 30_000);
        // Each has the least, and a quarter more while it is tried; and a millisecond or two pass between two looks.
        let least_ns = senders * GATE_BYTES_MIN * 1_250_000_000 / rate;
        assert!(carried >= 95, "{senders}: {carried} %");
        assert!(
            longest_ns <= least_ns + 3_000_000,
            "{senders}: {} us of {} us",
            longest_ns / 1_000,
            least_ns / 1_000
        );
    }
}

#[test]
fn the_kernel_is_asked_for_little_more_than_what_goes_however_many_wait() {
    for links in [1, 7, 31] {
        let (mbit, ms) = (50, 2_000);
        let outcome = run(mbit * 125_000, 400_000, links, ms);
        // In each half of a millisecond whoever has something here is looked at once, and who goes; beside it a link five times in a window.
        let halves = ms * 1_000_000 / GATE_WAIT_NS_MAX;
        let most = halves * 4 + links * ms * 1_000_000 / GATE_LOOKED_NS_MAX;
        assert!(outcome.looks <= most, "{links} links: {} looks of {most}", outcome.looks);
    }
}

#[test]
fn while_no_way_runs_dry_a_round_trip_is_asked_for_five_times_a_second() {
    let (links, ms) = (4, 4_000);
    let outcome = run(12_500_000, 1_000_000, links, ms);
    let most = links * (ms / 2 / GATE_ASK_MS_MAX + 1);
    assert!(outcome.asked >= most / 2 && outcome.asked <= most, "{} of {most}", outcome.asked);
}

#[test]
fn small_messages_to_a_far_host_leave_bulk_its_part() {
    // 700 000 bytes a second at 50 ms are more under way than bulk has room for while the queues run dry.
    let course = Course { small: 700_000, ..Course::default() };
    let outcome = run_with(100 * 125_000, 50_000_000, 1, &course, 12_000);
    assert!(outcome.carried >= 60, "{} %", outcome.carried);
}

#[test]
fn a_gate_that_measured_nothing_lets_twice_the_least_through() {
    let mut gate = Gate::new();
    let link = ConnectionId(1);
    let room = gate.room(Time(1), link, |_| Some(here(0)));
    assert_eq!((room, GATE_BYTES_FIRST), (GATE_BYTES_FIRST, 2 * GATE_BYTES_MIN));
    gate.wrote(link, GATE_BYTES_FIRST);
    assert_eq!(gate.room(Time(2), link, |_| Some(here(GATE_BYTES_FIRST))), 0);
    let wait_ns = gate.wait_until(Time(2), link).0 - 2;
    assert!((GATE_WAIT_NS_MIN..=GATE_WAIT_NS_MAX).contains(&wait_ns));
    let later = Time(2 + wait_ns);
    assert_eq!(gate.room(later, link, |_| Some(here(1_000))), GATE_BYTES_FIRST - 1_000);
}

#[test]
fn what_waits_here_is_that_of_all_links_and_what_is_elsewhere_that_of_one() {
    let mut gate = Gate::new();
    for link in 0..31 {
        gate.look(Time(1), ConnectionId(link), here(9_000));
    }
    // What each has here is asked for, and then not again at once.
    let room = |gate: &mut Gate, now: u64, link: u64, has: Backlog| {
        let mut looked = 0;
        let room = gate.room(Time(now), ConnectionId(link), |_| {
            looked += 1;
            Some(has)
        });
        (room, looked)
    };
    assert_eq!(
        room(&mut gate, 2, 99, here(9_000)),
        (0, 31),
        "31 links of 9 000 bytes, also for who has nothing here"
    );
    assert_eq!(room(&mut gate, 3, 99, here(9_000)), (0, 0), "they were just asked for");
    gate.look(Time(1_000_000), ConnectionId(3), here(9_000));
    assert_eq!(room(&mut gate, 1_000_000, 3, here(9_000)), (0, 30));
    assert_eq!(room(&mut gate, 2_000_000, 3, here(0)), (GATE_BYTES_FIRST, 31));
    (0..100).for_each(|link| gate.forget(ConnectionId(link)));
    assert_eq!((gate.here.bytes, gate.links.len()), (0, 0));
    let away = Backlog { unacknowledged: 2 * GATE_BYTES_FIRST, here: 0 };
    assert_eq!(room(&mut gate, 3_000_000, 1, away), (0, 1), "its own way is full");
    assert_eq!(room(&mut gate, 3_000_000, 2, here(0)), (GATE_BYTES_FIRST, 1));
}

#[test]
fn whatever_is_told_nothing_overflows_and_what_waits_here_is_its_sum() {
    let mut dice = fastrand::Rng::with_seed(11);
    let mut gate = Gate::new();
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    for _ in 0..20_000 {
        let link = dice.u64(..5);
        let number = |dice: &mut fastrand::Rng| *dice.choice(&[0, 1, 9_000, 1 << 40]).unwrap();
        let now = Time(*dice.choice(&[0, 1, 20_000_000, 1 << 50, u64::MAX]).unwrap());
        match dice.u8(..6) {
            0..3 => {
                let backlog = Backlog { unacknowledged: number(&mut dice), here: number(&mut dice) };
                gate.look(now, ConnectionId(link), backlog);
                known.insert(link, backlog.here.min(backlog.unacknowledged));
            }
            3 => {
                let bytes = number(&mut dice);
                gate.wrote(ConnectionId(link), bytes);
                known.entry(link).and_modify(|here| *here += bytes);
            }
            4 => {
                gate.round_trip(now, ConnectionId(link), number(&mut dice));
                known.entry(link).or_insert(0);
            }
            _ => {
                gate.forget(ConnectionId(link));
                known.remove(&link);
            }
        }
        assert_eq!(gate.here.bytes, known.values().sum::<u64>());
        assert!(gate.bound() >= GATE_BYTES_MIN);
        let now = Time(now.0.min(1 << 60));
        let wait_ns = gate.wait_until(now, ConnectionId(link)).0 - now.0;
        assert!((GATE_WAIT_NS_MIN..=GATE_WAIT_FAR_NS_MAX).contains(&wait_ns));
    }
}
