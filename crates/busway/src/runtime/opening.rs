//! How long a new relay waits for the subscribers that were here before it.
//!
//! What is published before a subscriber has its seat, it does not see. So a source is not opened before those that were
//! here first have theirs. One of them may hang, and must not stop the source: it is opened when for [`ATTACH_NS`] no seat
//! was given at it, nor at one that has waited for longer. Subscribers take their seats in turn; ten thousand sources for a
//! hundred of them take a minute, and miss nothing. It knows no ring and no clock.
//!
//! Invariant: a source is opened when all have come, or else no sooner than [`ATTACH_NS`] and no later than
//! [`ATTACH_MAX_NS`] after it was asked for.

/// So long nobody comes, and it is waited no more.
pub(super) const ATTACH_NS: u64 = 1_000_000_000;

/// So long it is waited in all: seats that are asked for without end do not stop a source either.
pub(super) const ATTACH_MAX_NS: u64 = 120_000_000_000;

/// One source that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    since_ns: u64,
    /// What had come when it was looked at last, and when that was new.
    come: usize,
    come_ns: u64,
}

impl Opening {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { since_ns: now_ns, come: 0, come_ns: now_ns }
    }

    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }
}

/// What is remembered of those for which all have come.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Since when the last of them had waited, and when it was opened.
    last: (u64, u64),
}

/// One look at all sources that wait, which are to be shown from the oldest to the youngest.
#[derive(Debug)]
pub(super) struct Look<'a> {
    opened: &'a mut Opened,
    now_ns: u64,
    /// When something came for one of those that were shown.
    latest_ns: u64,
}

impl<'a> Look<'a> {
    pub(super) fn new(opened: &'a mut Opened, now_ns: u64) -> Self {
        Self { opened, now_ns, latest_ns: 0 }
    }

    /// Whether a source is to be opened now: `ready` if all have come, of whom `come` tells by changing.
    pub(super) fn opens(&mut self, opening: &mut Opening, ready: bool, come: usize) -> bool {
        if std::mem::replace(&mut opening.come, come) != come {
            opening.come_ns = self.now_ns;
        }
        let (since_ns, at_ns) = self.opened.last;
        if since_ns <= opening.since_ns {
            self.latest_ns = self.latest_ns.max(at_ns);
        }
        self.latest_ns = self.latest_ns.max(opening.come_ns);
        if ready {
            self.opened.last = (opening.since_ns, self.now_ns);
        }
        let over = |since_ns: u64, most: u64| self.now_ns.saturating_sub(since_ns) > most;
        ready || over(self.latest_ns, ATTACH_NS) || over(opening.since_ns, ATTACH_MAX_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::{ATTACH_MAX_NS, ATTACH_NS, Look, Opened, Opening};

    const MS: u64 = 1_000_000;

    /// Sources that wait, each for so many seats, of which so many are given.
    struct World {
        opened: Opened,
        waiting: Vec<(usize, Opening)>,
        given: Vec<usize>,
        wanted: usize,
    }

    impl World {
        fn new(sources: usize, wanted: usize) -> Self {
            let waiting = (0..sources).map(|at| (at, Opening::new(at as u64))).collect();
            Self { opened: Opened::default(), waiting, given: vec![0; sources], wanted }
        }

        /// Those that open now.
        fn look(&mut self, now_ns: u64) -> Vec<usize> {
            let Self { opened, waiting, given, wanted } = self;
            let mut look = Look::new(opened, now_ns);
            let mut open = Vec::new();
            waiting.retain_mut(|(at, opening)| {
                let opens = look.opens(opening, given[*at] == *wanted, given[*at]);
                open.extend(opens.then_some(*at));
                !opens
            });
            open
        }
    }

    #[test]
    fn a_crowd_that_takes_its_seats_in_turn_is_waited_for_until_all_have_theirs() {
        const SOURCES: usize = 1_000;
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut world, mut now_ns, mut opened) = (World::new(SOURCES, 4), 0, 0);
        // Four subscribers, of which each goes through the sources at its own pace: a minute in all.
        let mut reached = [0; 4];
        while opened < SOURCES {
            now_ns += 15 * MS;
            let who = rng.usize(..4);
            if reached[who] < SOURCES {
                world.given[reached[who]] += 1;
                reached[who] += 1;
            }
            for source in world.look(now_ns) {
                assert_eq!(world.given[source], 4, "source {source} at {} ms", now_ns / MS);
                opened += 1;
            }
        }
    }

    #[test]
    fn one_that_hangs_stops_a_source_for_a_second_whoever_comes_to_others() {
        let (mut world, mut now_ns) = (World::new(500, 1), 0);
        let mut opened = Vec::new();
        // Nobody takes a seat at the first; at the others one after the other.
        for next in 1..500 {
            now_ns += 15 * MS;
            world.given[next] = 1;
            opened.extend(world.look(now_ns));
            assert_eq!(opened.contains(&0), now_ns > ATTACH_NS, "at {} ms", now_ns / MS);
        }
    }

    #[test]
    fn seats_that_are_asked_for_without_end_stop_a_source_for_two_minutes_at_most() {
        let (mut world, mut now_ns) = (World::new(1, usize::MAX), 0);
        while world.look(now_ns).is_empty() {
            assert!(now_ns <= ATTACH_MAX_NS, "it waits on");
            (now_ns, world.given[0]) = (now_ns + 500 * MS, world.given[0] + 1);
        }
        assert!(now_ns > ATTACH_MAX_NS, "{} ms", now_ns / MS);
    }
}
