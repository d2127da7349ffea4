//! Who runs the links: the two threads of the hub, or whoever of this process is at hand.
//!
//! **Receiving** has a leader and followers. One thread at a time holds the door: it sleeps in the driver and does all
//! that comes. That is `bw-link-rx` as long as nobody else is there. A subscriber of this process that is fed by our
//! relays only, and that would otherwise sleep on the bell, takes its place: then a message needs no second thread to be
//! in its hands. `bw-link-rx` stands aside meanwhile and looks some thousand times a second whether the door was left.
//!
//! **Sending** has a publisher of this process carry its message itself while the link is idle. Under load it leaves
//! its messages for a while, so that many go with one write; `bw-link-tx` finds what is left over. A publisher of large
//! messages that is ahead of a link leads until it is not: what the kernel has room for, it writes.
//!
//! Invariant: when a thread that led leaves the door, `bw-link-rx` is there within three times [`ASIDE_MAX`]: it may have
//! looked just before, and it goes in only when two looks in a row found that nobody led, and nobody asked for the door. A
//! thread that says that it is at what it has led in keeps it away for [`BUSY_NS`] more, all together.
//! What was left to `bw-link-tx` is looked at within [`LINGER_MAX`] of its last look; and no thread waits for a lock that
//! somebody holds asleep.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use busway_protocol::Time;
use busway_shm::bell::{Bell, NODES, Sleeper, Slept};
use busway_shm::clock::Deadline;
use busway_shm::domain::Domain;
use busway_shm::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use busway_wire::PortId;

use crate::control::Watched;
use crate::ports::{Ahead, Carrier, Looked, lock};
use crate::runtime::door::{Door, Turned};
use crate::runtime::hub::{Shared, Whom, Wires};
use crate::runtime::spin::Spin;

/// While somebody else leads, `bw-link-rx` looks so often whether that is still so: it is how long nobody receives when
/// that one is gone.
const ASIDE: Duration = Duration::from_micros(200);
/// While who leads is busy at it `bw-link-rx` looks less and less often, but so often: each look takes the processor.
const ASIDE_MAX: Duration = Duration::from_micros(800);
/// So many turns between two looks are of one who is busy.
const TURNS_BUSY: u64 = 16;
/// Who leads and hears nothing for so long gives the door back, so that an idle link wakes nobody.
const LEAD: Duration = Duration::from_millis(4);
/// Who leads looks again and again for so long before it sleeps: who sleeps has to be woken by who sends, for whom that is
/// the longest part of a send.
const SPIN_NS: u64 = 40_000;
/// For so long after its last turn who leads may be busy with what that brought, and nobody receives: `bw-link-rx` would
/// take the processor from it to bring more, which had to wait.
const BUSY_NS: u64 = 1_000_000;
/// Tries for the door after its holder was asked to leave it.
const ASKS: usize = 16;
/// Who spins looks at the connection that was heard last so many times for one look at all.
const GLANCES: u64 = 32;
/// And at all at least so often: who looks now and then keeps nobody else waiting.
const GLANCE_NS: u64 = 200_000;
/// `bw-link-tx` looks so often while there is something to send: what is published meanwhile goes together.
const LINGER: Duration = Duration::from_micros(50);
/// While publishers carry under load it looks so often: each look takes the processor from them.
const LINGER_CARRIED: Duration = Duration::from_micros(200);
/// Before it sleeps it looks so often whether somebody else is still at a peer.
const LINGER_MISSED: Duration = Duration::from_micros(200);
/// However long a look has taken: who looked may have been stopped, and what others publish waits for the next.
const LINGER_MAX: Duration = Duration::from_millis(1);
/// After so many looks that found nothing it sleeps until it is rung for.
const LINGERS: usize = 20;
/// It sleeps no longer than this: what a ring of the bell did not tell, it finds then.
const TX_SLEEP: Duration = Duration::from_millis(250);
/// A publisher carries its message itself if the last time was at least so long ago.
const GAP_NS_MIN: u64 = 2_000;
/// And at least so often, however much it publishes.
const GAP_NS_MAX: u64 = 64_000;
/// So long after it was carried last somebody may be about to publish more.
const OF_LATE_NS: u64 = 2_000_000;
/// A publisher that is ahead of a link looks so often how far.
const AHEAD: Duration = Duration::from_micros(50);
/// So many messages of one time are a load: the next time is later.
const LOAD: usize = 8;
/// Under load a publisher looks at the clock once in so many messages at most, an eighth of what it carried last: when
/// the load ends, as many at most wait for `bw-link-tx`.
const UNTOLD_MAX: u32 = 32;

/// See the head of this file.
pub(crate) struct Crew<D> {
    shared: Arc<Shared<D>>,
    door: Mutex<Door<D>>,
    /// Raised with each turn of a leader that is not `bw-link-rx`, and while it is busy with what that brought.
    turns: AtomicU64,
    /// Somebody asks `bw-link-rx` for the door.
    asked: AtomicBool,
    /// Somebody else than `bw-link-rx` has the door.
    led: AtomicBool,
    aside: Mutex<()>,
    left: Condvar,
    /// When somebody else than `bw-link-rx` has looked at all connections.
    looked_ns: AtomicU64,
    /// Whether who leads looks again before it sleeps; only who has the door asks.
    spin: Spin,
    /// Messages of which a publisher need not tell until then.
    untold: AtomicU32,
    /// Where publishers wait that are ahead of a link.
    ahead: Mutex<()>,
    nearer: Condvar,
}

impl<D> std::fmt::Debug for Crew<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<D: Wires> Crew<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        let door = Mutex::new(Door::new(shared.clone()));
        Self {
            shared,
            door,
            turns: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            led: AtomicBool::new(false),
            aside: Mutex::new(()),
            left: Condvar::new(),
            looked_ns: AtomicU64::new(0),
            spin: Spin::new(),
            untold: AtomicU32::new(0),
            ahead: Mutex::new(()),
            nearer: Condvar::new(),
        }
    }

    fn try_door(&self) -> Option<MutexGuard<'_, Door<D>>> {
        match self.door.try_lock() {
            Ok(door) => Some(door),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The body of `bw-link-rx`.
    pub(super) fn receive(&self) {
        let (mut seen, mut most) = (0, ASIDE);
        loop {
            if let Some(mut door) = self.try_door() {
                let turns = self.turns.load(Ordering::Acquire); // pairs with AcqRel in `led`
                let asked = self.asked.swap(false, Ordering::AcqRel); // pairs with AcqRel in `ask`
                if self.shared.stopping() || (turns == seen && !asked) {
                    if door.turn(None) == Turned::Ended {
                        return;
                    }
                    continue;
                }
                let busy = turns.wrapping_sub(seen) >= TURNS_BUSY;
                most = if busy { (2 * most).min(ASIDE_MAX) } else { ASIDE };
                seen = turns;
            }
            let aside = lock(&self.aside);
            let (aside, waited) = self.left.wait_timeout(aside, most).unwrap_or_else(PoisonError::into_inner);
            drop(aside);
            if !waited.timed_out() {
                // Who led has said that it is gone.
                most = ASIDE;
            }
        }
    }

    /// Wakes `bw-link-rx` where it stands aside.
    pub(super) fn leave(&self) {
        let _aside = lock(&self.aside);
        self.left.notify_all();
    }

    /// Wakes `bw-link-tx` where it lingers, after it was told to end.
    pub(super) fn stop_lingering(&self) {
        let _linger = lock(&self.shared.linger);
        self.shared.lingered.notify_all();
    }

    /// Asks `bw-link-rx` for the door, once until it has heard it.
    fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            // pairs with AcqRel in `receive`
            self.shared.driver.wake();
        }
    }

    /// One turn of a thread that is not `bw-link-rx`.
    fn lead_once(&self, door: &mut Door<D>, most: Duration) {
        // Also where a turn panics: who believed that somebody leads would not ask for the door.
        let led = Led::new(&self.led);
        self.turns.fetch_add(1, Ordering::AcqRel); // pairs with Acquire in `receive`
        door.turn(Some(most));
        // Relaxed: it orders nothing.
        self.looked_ns.store(self.shared.driver.now_ns(), Ordering::Relaxed);
        drop(led);
    }

    /// The body of `bw-link-tx`.
    pub(super) fn send(&self) {
        let shared = &self.shared;
        let mut idle = 0;
        let mut counted: Option<Counted> = None;
        while !shared.stopping() {
            let Some(domain) = shared.core.ports.domain() else { return };
            if counted.as_ref().is_none_or(|counted| !Arc::ptr_eq(&counted.0, &domain)) {
                counted = Some(Counted::new(domain.clone()));
            }
            if idle < LINGERS {
                let begun_ns = shared.driver.now_ns();
                let looked_at = shared.carry(Whom::All);
                // Who only reads is at a peer most of the time, and leaves nothing.
                let left = looked_at.missed && shared.carried.is_of_late(begun_ns);
                idle = if looked_at.found || left { 0 } else { idle + 1 };
                // Where there are so many sources that a look takes long, it is not the looks that take the processor.
                let looked = Duration::from_nanos(shared.driver.now_ns().saturating_sub(begun_ns));
                let linger = match looked_at.found || looked_at.missed {
                    _ if shared.carried.is_under_way(begun_ns) => LINGER_CARRIED,
                    true => LINGER,
                    false => LINGER.max(4 * looked).min(LINGER_MAX),
                };
                let linger = self.until_held(looked_at.held_until).map_or(linger, |held| linger.min(held));
                let aside = lock(&shared.linger);
                if shared.stopping() {
                    return;
                }
                drop(shared.lingered.wait_timeout(aside, linger).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            let sleeper = domain.bell().prepare(NODES);
            // Announced: what is published from here on rings.
            idle = if self.sleep(&sleeper) { 0 } else { LINGERS };
            shared.sleeps_until.store(0, Ordering::Relaxed);
        }
    }

    /// Sleeps until it is rung for, and looks meanwhile at what is held when that may go. Whether there is more to look for.
    fn sleep(&self, sleeper: &Sleeper<'_>) -> bool {
        let shared = &self.shared;
        let look = |everything: bool| {
            // Pairs with Acquire in `is_held_unseen`, as the locks of the peers do: what comes to be held from here on rings.
            shared.sleeps_until.store(u64::MAX, Ordering::Release);
            shared.carry(if everything { Whom::All } else { Whom::Held })
        };
        // What was published before is found by this look, or, where somebody else was at a peer, by the next.
        let (mut looked_at, mut everything) = (look(true), true);
        let begun_ns = shared.driver.now_ns();
        while !shared.stopping() {
            if everything && looked_at.found {
                return true;
            }
            everything = everything && looked_at.missed;
            let held = self.until_held(looked_at.held_until);
            let missed = looked_at.missed.then_some(LINGER_MISSED);
            let wait = [held, missed].into_iter().flatten().min();
            if let Some(wait) = wait {
                let until_ns =
                    shared.driver.now_ns().saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
                shared.sleeps_until.store(until_ns, Ordering::Release);
            }
            let slept = sleeper.wait(Some(wait.unwrap_or(TX_SLEEP)));
            // However often somebody is looked at who is held: what nobody rang for is found then.
            let slept_ns = shared.driver.now_ns().saturating_sub(begun_ns);
            if slept == Slept::Rung || wait.is_none() || Duration::from_nanos(slept_ns) >= TX_SLEEP {
                // One look more before it lingers: who rang may have come alone.
                return shared.pump();
            }
            looked_at = look(everything);
        }
        false
    }

    /// How long it is until what is held may go.
    fn until_held(&self, held_until: Option<Time>) -> Option<Duration> {
        let left_ns = held_until?.since(Time(self.shared.driver.now_ns()));
        Some(Duration::from_nanos(left_ns).clamp(LINGER, TX_SLEEP))
    }
}

/// When publishers of this process carried their messages last, and how long they wait until they do so again.
#[derive(Debug)]
pub(super) struct Carried {
    at_ns: AtomicU64,
    gap_ns: AtomicU64,
}

impl Carried {
    pub(super) fn new() -> Self {
        Self { at_ns: AtomicU64::new(0), gap_ns: AtomicU64::new(GAP_NS_MIN) }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.at_ns.load(Ordering::Relaxed)) >= self.gap_ns.load(Ordering::Relaxed)
    }

    /// They did so now, many at a time or few.
    fn note(&self, now_ns: u64, many: bool) {
        let gap_ns = self.gap_ns.load(Ordering::Relaxed);
        let next_ns = if many { (2 * gap_ns).min(GAP_NS_MAX) } else { GAP_NS_MIN };
        self.gap_ns.store(next_ns, Ordering::Relaxed);
        self.at_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Whether they have done so in the last milliseconds.
    fn is_of_late(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.at_ns.load(Ordering::Relaxed)) < OF_LATE_NS
    }

    /// Whether they have done so for a while, as many as go together, and still do.
    pub(super) fn is_under_way(&self, now_ns: u64) -> bool {
        let ago_ns = now_ns.saturating_sub(self.at_ns.load(Ordering::Relaxed));
        self.gap_ns.load(Ordering::Relaxed) >= GAP_NS_MAX && ago_ns < 2 * GAP_NS_MAX
    }
}

/// That somebody else than `bw-link-rx` leads, for as long as it is there.
struct Led<'a>(&'a AtomicBool);

impl<'a> Led<'a> {
    fn new(led: &'a AtomicBool) -> Self {
        led.store(true, Ordering::Relaxed);
        Self(led)
    }
}

impl Drop for Led<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A node, counted in the bell of its domain.
struct Counted(Arc<Domain>);

impl Counted {
    fn new(domain: Arc<Domain>) -> Self {
        domain.bell().node_begins();
        Self(domain)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.bell().node_ends();
    }
}

impl<D: Wires> Carrier for Crew<D> {
    fn watched(&self, watched: Watched) {
        self.shared.watched(watched);
    }

    fn changed(&self) {
        self.shared.driver.wake();
    }

    fn lead(&self, deadline: Deadline, found: &mut dyn FnMut() -> Looked) -> Looked {
        for attempt in 0..ASKS {
            if let Some(mut door) = self.try_door() {
                let end = Deadline::after(LEAD);
                let mut spins = self.spin.begins();
                let until_ns = self.shared.driver.now_ns().saturating_add(SPIN_NS);
                let mut turned = false;
                loop {
                    let looked = found();
                    if looked == Looked::Done || self.shared.stopping() || deadline.expired() || end.expired()
                    {
                        if turned && spins {
                            self.spin.ended(looked == Looked::Done);
                        }
                        drop(door);
                        if looked == Looked::Nothing {
                            self.leave();
                        }
                        return looked;
                    }
                    let left = |deadline: Deadline| deadline.remaining().unwrap_or(LEAD);
                    if spins && turned {
                        spins = self.shared.driver.now_ns() < until_ns;
                        if spins {
                            // Who sends may need this processor for it.
                            std::thread::yield_now();
                        } else {
                            self.spin.ended(false);
                        }
                    }
                    turned = true;
                    let most = if spins { Duration::ZERO } else { left(deadline).min(left(end)) };
                    self.lead_once(&mut door, most);
                }
            }
            if self.led.load(Ordering::Relaxed) {
                break;
            }
            if attempt == 0 {
                self.ask();
            }
            std::thread::yield_now();
        }
        Looked::Nothing
    }

    fn is_here(&self) {
        let looked_ns = self.looked_ns.load(Ordering::Relaxed);
        if self.shared.driver.now_ns().saturating_sub(looked_ns) < BUSY_NS {
            self.turns.fetch_add(1, Ordering::AcqRel); // pairs with Acquire in `receive`
        }
    }

    fn glance(&self) -> bool {
        match self.try_door() {
            Some(mut door) => {
                let turns = self.turns.fetch_add(1, Ordering::AcqRel); // pairs with Acquire in `receive`
                let heard = if turns.is_multiple_of(GLANCES) { None } else { door.glance() };
                // Now and then the other connections are looked at, and what has its time.
                let now_ns = heard.unwrap_or_else(|| self.shared.driver.now_ns());
                let late = now_ns.saturating_sub(self.looked_ns.load(Ordering::Relaxed)) >= GLANCE_NS;
                if late || turns.is_multiple_of(GLANCES) || !door.is_hearing() {
                    self.lead_once(&mut door, Duration::ZERO);
                    return true;
                }
                heard.is_some()
            }
            None => {
                if !self.led.load(Ordering::Relaxed) {
                    self.ask();
                }
                false
            }
        }
    }

    fn published(&self, publisher: PortId, bell: &Bell<'_>) -> u32 {
        let driver = &self.shared.driver;
        let now_ns = driver.now_ns();
        let carried = &self.shared.carried;
        if bell.is_only_node() && carried.is_due(now_ns) {
            let mut most = 0;
            let mut busy = false;
            for peer in self.shared.all().iter() {
                match peer.try_lock() {
                    Ok(mut peer) => {
                        most = most.max(peer.pump_source(driver, Time(now_ns), publisher).unwrap_or(0));
                        // Nothing wakes anybody when the kernel has less: `bw-link-tx` looks again.
                        busy |= self.shared.is_held_unseen(&peer);
                    }
                    // Who has it may have looked before our message was there.
                    Err(_) => busy = true,
                }
            }
            // From here on, and not from before: what is published while we write is not yet late.
            carried.note(driver.now_ns(), most >= LOAD);
            let untold = u32::try_from(most / LOAD).unwrap_or(UNTOLD_MAX).min(UNTOLD_MAX);
            self.untold.store(untold, Ordering::Relaxed);
            if !busy {
                return untold;
            }
        }
        bell.ring_nodes();
        self.untold.load(Ordering::Relaxed)
    }

    fn pace(&self, publisher: PortId, ahead: Ahead) {
        let driver = &self.shared.driver;
        let deadline = Deadline::after(ahead.most);
        let mut look = || {
            let mut behind = 0;
            for peer in self.shared.all().iter() {
                // Waits for who writes: it is what there is to wait for.
                let mut peer = lock(peer);
                peer.pump_source(driver, Time(driver.now_ns()), publisher);
                // Who waits may give up.
                self.shared.tell_held(&peer);
                behind = behind.max(peer.behind(publisher, ahead.sequence));
            }
            let over = behind <= ahead.messages || self.shared.stopping();
            if over { Looked::Done } else { Looked::Nothing }
        };
        loop {
            if look() == Looked::Done || deadline.expired() {
                return;
            }
            // Who waits for the link moves it: what the kernel and the peer have to say needs no other thread. A driver
            // sleeps for whole milliseconds.
            let whole_ms = deadline.remaining().unwrap_or(LEAD).min(LEAD).as_millis();
            if whole_ms > 0 {
                let most = Duration::from_millis(u64::try_from(whole_ms).unwrap_or(1));
                if self.lead(Deadline::after(most), &mut look) == Looked::Done {
                    // It does not come back for what others wait for.
                    self.leave();
                    return;
                }
                if deadline.expired() {
                    continue;
                }
            }
            let wait = lock(&self.ahead);
            drop(self.nearer.wait_timeout(wait, AHEAD).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests;
