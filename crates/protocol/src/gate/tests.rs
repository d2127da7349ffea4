//! Claims about the gate, over interfaces that are played: so many bytes a second, so far away.

extern crate std;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::*;

const SEGMENT: u64 = 1_448;

/// An interface with one queue, as a kernel has it: what is written goes out in order, and is acknowledged a round trip
/// after it has left.
struct Interface {
    bytes_per_second: u64,
    round_trip_ns: u64,
    idle_at: u64,
    /// When a segment is acknowledged, of which link, and how large it is.
    under_way: VecDeque<(u64, u64, u64)>,
    backlogs: BTreeMap<u64, u64>,
}

impl Interface {
    fn write(&mut self, now: u64, link: u64, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let size = left.min(SEGMENT);
            self.idle_at = self.idle_at.max(now) + size * 1_000_000_000 / self.bytes_per_second;
            self.under_way.push_back((self.idle_at + self.round_trip_ns, link, size));
            left -= size;
        }
        *self.backlogs.entry(link).or_default() += bytes;
    }

    fn backlog(&mut self, now: u64, link: u64) -> u64 {
        while let Some((_, of, size)) = self.under_way.pop_front_if(|(at, ..)| *at <= now) {
            self.backlogs.entry(of).and_modify(|backlog| *backlog -= size);
        }
        self.backlogs.get(&link).copied().unwrap_or(0)
    }

    /// How long a message that comes now waits for what is in front of it.
    fn queue_ns(&self, now: u64) -> u64 {
        self.idle_at.saturating_sub(now)
    }
}

struct Outcome {
    /// Of what the interface could have carried, in hundredths.
    carried: u64,
    /// The wait that 99 of 100 messages do not exceed.
    wait_ns: u64,
}

/// So many links that always have bulk to send, for so long; what is measured is the second half.
fn run(bytes_per_second: u64, round_trip_ns: u64, links: u64, ms: u64) -> Outcome {
    let mut dice = fastrand::Rng::with_seed(links ^ round_trip_ns);
    let (under_way, backlogs) = (VecDeque::new(), BTreeMap::new());
    let mut interface = Interface { bytes_per_second, round_trip_ns, idle_at: 0, under_way, backlogs };
    let mut gate = Gate::new();
    let (mut now, mut written, mut waits) = (1_000_000, 0, Vec::new());
    let (begin, end) = (now + ms * 500_000, now + ms * 1_000_000);
    while now < end {
        for number in 0..links {
            let (link, time) = (ConnectionId(number), Time(now));
            if gate.asks(time, link) {
                gate.round_trip(time, link, round_trip_ns + interface.queue_ns(now));
            }
            gate.look(time, link, interface.backlog(now, number));
            if gate.room() == 0 {
                gate.stale(time)
                    .into_iter()
                    .for_each(|other| gate.look(time, other, interface.backlog(now, other.0)));
            }
            let room = gate.room().min(256 << 10);
            if room > 0 {
                let fragment = room.max(8 << 10);
                interface.write(now, number, fragment);
                gate.wrote(link, fragment);
                written += if now >= begin { fragment } else { 0 };
            }
        }
        if now >= begin {
            waits.push(interface.queue_ns(now));
        }
        // Who looks is late by as much as a thread is.
        now += gate.wait_ns() + dice.u64(5_000..100_000);
    }
    waits.sort_unstable();
    let could = u128::from(bytes_per_second) * u128::from(end - begin) / NS;
    let carried = u64::try_from(u128::from(written) * 100 / could).unwrap();
    Outcome { carried, wait_ns: waits[waits.len() * 99 / 100] }
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
fn a_gate_that_measured_nothing_lets_a_batch_through() {
    let mut gate = Gate::new();
    assert_eq!(gate.room(), GATE_BYTES_FIRST);
    let link = ConnectionId(1);
    gate.look(Time(1), link, 0);
    gate.wrote(link, GATE_BYTES_FIRST);
    assert_eq!(gate.room(), 0);
    assert!((GATE_WAIT_NS_MIN..=GATE_WAIT_NS_MAX).contains(&gate.wait_ns()));
    gate.look(Time(2), link, 1_000);
    assert_eq!(gate.room(), GATE_BYTES_FIRST - 1_000);
}

#[test]
fn the_backlog_is_that_of_all_links() {
    let mut gate = Gate::new();
    for link in 0..31 {
        gate.look(Time(1), ConnectionId(link), 9_000);
    }
    assert_eq!(gate.room(), 0, "31 links of 9 000 bytes are more than a batch");
    assert_eq!(gate.stale(Time(2)).len(), 31);
    assert_eq!(gate.stale(Time(3)).len(), 0, "they were just asked for");
    gate.look(Time(1_000_000), ConnectionId(3), 0);
    assert_eq!(gate.stale(Time(1_000_000)).len(), 30);
    (0..31).for_each(|link| gate.forget(ConnectionId(link)));
    assert_eq!((gate.room(), gate.backlog, gate.links.len()), (GATE_BYTES_FIRST, 0, 0), "nothing is left");
}

#[test]
fn whatever_is_told_nothing_overflows_and_the_backlog_is_its_sum() {
    let mut dice = fastrand::Rng::with_seed(11);
    let mut gate = Gate::new();
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    for _ in 0..20_000 {
        let link = dice.u64(..5);
        let number = |dice: &mut fastrand::Rng| *dice.choice(&[0, 1, 9_000, 1 << 40]).unwrap();
        let now = Time(*dice.choice(&[0, 1, 20_000_000, 1 << 50, u64::MAX]).unwrap());
        match dice.u8(..6) {
            0..3 => {
                let backlog = number(&mut dice);
                gate.look(now, ConnectionId(link), backlog);
                known.insert(link, backlog);
            }
            3 => {
                let bytes = number(&mut dice);
                gate.wrote(ConnectionId(link), bytes);
                known.entry(link).and_modify(|backlog| *backlog += bytes);
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
        assert_eq!(gate.backlog, known.values().sum::<u64>());
        assert!(gate.bound() >= GATE_BYTES_MIN);
        assert!((GATE_WAIT_NS_MIN..=GATE_WAIT_NS_MAX).contains(&gate.wait_ns()));
    }
}
