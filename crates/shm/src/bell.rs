//! The bell: where sleepers wait, and how publishers find out that somebody sleeps.
//!
//! A realm has one bell of 65 536 lines in memory that all members write. A topic has the line
//! 1 + id mod 65 534; line 0 is for who waits for several topics, and the last for nodes, which carry
//! messages to other hosts: a publisher in the process of the only node carries its messages itself and
//! does not ring that. Each line has three counters that
//! are only ever raised: `armed` by who goes to sleep, `rung` by who rings before it wakes, `done` by
//! who rang after the last wake. While `armed` is not ahead of `done`, publishing costs plain loads.
//!
//! ```text
//! sleeper:   e = rung; armed.max(e + 1); heavy fence; look at the rings; FUTEX_WAIT(rung, e)
//! publisher: store the slot; light fence; if armed > done { r = ++rung; wake; done.max(r) }
//! ```
//!
//! Why no wake-up is lost: the fences make either the sleeper see the slot or the publisher see
//! `armed = e + 1`. It then skips the ring only if it reads `done >= e + 1`, which somebody wrote who
//! had raised `rung` above `e` and woken everybody: the sleeper does not sleep, or was woken, and looks
//! again after arming anew. Whoever dies between the three steps leaves `armed` ahead of `done`, and
//! the next ringer rings again. (If the futex word were the sleeper's own flag, a ringer that clears
//! it before a second sleeper arms would lose the second one's wake-up.)
//!
//! The counters wrap, and are compared by how far one is past the other. That is right while those that
//! meet are less than 2^24 rings apart. A ring takes a system call, so further is some ten seconds of
//! nothing but ringing between two instructions of a sleeper, and costs it one wait of [`WAIT_MAX`].
//!
//! Does not carry data: a bell is hints only. What a hostile member writes into it costs latency (at
//! most [`WAIT_MAX`]) and superfluous system calls, never a message.
//!
//! Invariant: in a line that nobody corrupted `done <= rung` and `armed <= rung + 1`. In a corrupted one
//! the next sleeper and the next ringer put each counter in its place.

use core::time::Duration;

use crate::sync::{AtomicU32, Ordering, fence, light_fence};
use crate::sys::barrier;
#[cfg(not(loom))]
use crate::sys::futex;

/// Lines of a bell. 65 536, which is 4 MiB: of 10 000 topics one in seven shares its line with another.
pub const LINES: usize = 65_536;

/// The line for who waits for several topics.
pub const ANY: usize = 0;

/// The line for nodes, on which no topic falls.
pub const NODES: usize = LINES - 1;

/// A sleeper looks again after this long, whatever happens: the worst that a corrupted line, a killed
/// ringer or a lost fence can cost.
pub const WAIT_MAX: Duration = Duration::from_secs(1);

/// Threads that a publisher wakes itself: 8 cost it some 44 us, 64 would cost 207.
#[cfg(not(loom))]
pub const WAKES_MAX: u32 = 8;
/// One in a model, so that two sleepers already need the control thread.
#[cfg(loom)]
pub const WAKES_MAX: u32 = 1;

/// Attempts to raise a counter: more are only needed where a hostile member keeps writing it.
const RAISES_MAX: usize = 64;

/// How far a counter may be past where it should at least be: rings under way at once, or left undone
/// by killed ringers. Further is corruption, and counts as not being there yet.
const APART_MAX: u32 = 1 << 24;

/// One line. 64 bytes: two topics' publishers do not fight for one cache line.
#[cfg_attr(not(loom), repr(C, align(64)))]
#[derive(Debug)]
pub struct Line {
    /// One more than the `rung` that the latest sleeper saw.
    armed: AtomicU32,
    /// Rings begun; the futex word.
    rung: AtomicU32,
    /// Rings whose sleepers have all been woken.
    done: AtomicU32,
    /// Line 0: not zero if some member cannot make `membarrier` calls. The nodes' line: how many nodes there are; one
    /// that was killed leaves it too high, which costs rings and no message.
    full_fences: AtomicU32,
    #[cfg(not(loom))]
    reserved: [AtomicU32; 12],
    #[cfg(loom)]
    kernel: model::Kernel,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

/// How a sleep ended; in both cases look at the rings again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// The line was rung, or something else ended the sleep before its time.
    Rung,
    /// The time was up.
    TimedOut,
}

/// What a ring did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rang {
    /// Threads woken by the caller.
    pub woken: usize,
    /// More may sleep: the control thread must call [`Bell::finish`] with the same line.
    pub more: bool,
}

/// Which fences this process needs between its slot and its look at the bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fences {
    /// A full one: somebody cannot have the kernel interrupt the others.
    Full,
    /// The light one: whoever sleeps makes it full.
    Asymmetric,
    /// None on either side: the bug that the model must find.
    #[cfg(loom)]
    Missing,
}

/// A view of a bell's lines.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'a> {
    lines: &'a [Line],
    fences: Fences,
}

impl<'a> Bell<'a> {
    /// A bell of these lines, of which there must be at least one.
    ///
    /// [`Fences::Asymmetric`] is right only in a process that is registered with
    /// [`barrier::register`].
    #[must_use]
    pub fn new(lines: &'a [Line], fences: Fences) -> Self {
        assert!(!lines.is_empty(), "a bell has at least the line for any topic");
        Self { lines, fences }
    }

    /// The line of the topic with this id.
    #[inline]
    #[must_use]
    pub const fn line_of(topic: u64) -> usize {
        // The remainder is below 65 534, so the line is below that of the nodes.
        1 + (topic % (LINES as u64 - 2)) as usize
    }

    /// Says, for all members, that this process cannot make others' light fences full.
    pub fn demand_full_fences(&self) {
        self.lines[ANY].full_fences.store(1, Ordering::SeqCst);
    }

    /// Whether somebody may sleep on `line` or on [`ANY`]. To be asked after the slot is stored.
    ///
    /// Loads of two cache lines, and no fence while all members can do `membarrier`.
    #[inline]
    #[must_use]
    pub fn needs_ring(&self, line: usize) -> bool {
        self.fence_after_store();
        self.lines[line].has_sleeper() || self.lines[ANY].has_sleeper() || self.nodes().has_sleeper()
    }

    /// The nodes' line; of a bell in a model, which is shorter, the last.
    #[inline]
    fn nodes(&self) -> &'a Line {
        &self.lines[self.lines.len() - 1]
    }

    /// A node carries messages from now on.
    pub fn node_begins(&self) {
        self.nodes().full_fences.fetch_add(1, Ordering::SeqCst);
    }

    /// A node is gone that had begun.
    pub fn node_ends(&self) {
        self.nodes().full_fences.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether there is no other node than the one that asks.
    #[inline]
    #[must_use]
    pub fn is_only_node(&self) -> bool {
        self.nodes().full_fences.load(Ordering::Relaxed) == 1
    }

    /// As [`Bell::ring`], without the nodes: who rings is one, and the only one.
    #[inline]
    pub fn ring_but_nodes(&self, line: usize) -> Rang {
        self.fence_after_store();
        if self.lines[line].has_sleeper() || self.lines[ANY].has_sleeper() {
            self.ring_two(line, WAKES_MAX)
        } else {
            Rang::default()
        }
    }

    /// Wakes nodes that sleep.
    #[inline]
    pub fn ring_nodes(&self) {
        self.fence_after_store();
        if self.nodes().has_sleeper() {
            self.nodes().ring(WAKES_MAX);
        }
    }

    #[inline]
    fn fence_after_store(&self) {
        // Pairs with the heavy fence in `prepare`: of two that store and then look, one sees the other.
        match self.fences {
            Fences::Asymmetric if self.lines[ANY].full_fences.load(Ordering::Relaxed) == 0 => light_fence(),
            Fences::Asymmetric | Fences::Full => fence(Ordering::SeqCst),
            #[cfg(loom)]
            Fences::Missing => {}
        }
    }

    /// Wakes who sleeps on `line` and on [`ANY`], at most [`WAKES_MAX`] threads of each. To be called
    /// after the slot is stored; does nothing, and costs plain loads, where nobody sleeps.
    #[inline]
    pub fn ring(&self, line: usize) -> Rang {
        if self.needs_ring(line) { self.ring_now(line, WAKES_MAX) } else { Rang::default() }
    }

    /// Wakes everybody on `line` and on [`ANY`]: what the control thread does where a ring said
    /// `more`, and what whoever sees a process die does for each of its topics.
    pub fn finish(&self, line: usize) -> Rang {
        self.fence_after_store();
        self.ring_now(line, u32::MAX)
    }

    #[cold]
    fn ring_now(&self, line: usize, wakes_max: u32) -> Rang {
        let rang = self.ring_two(line, wakes_max);
        let nodes = if line + 1 == self.lines.len() { Rang::default() } else { self.nodes().ring(wakes_max) };
        Rang { woken: rang.woken + nodes.woken, more: rang.more || nodes.more }
    }

    #[cold]
    fn ring_two(&self, line: usize, wakes_max: u32) -> Rang {
        let topic = self.lines[line].ring(wakes_max);
        if line == ANY {
            return topic;
        }
        let any = self.lines[ANY].ring(wakes_max);
        Rang { woken: topic.woken + any.woken, more: topic.more || any.more }
    }

    /// Announces that the caller goes to sleep on `line`. It must look at its rings once more before
    /// [`Sleeper::wait`]; if it finds something, it just drops the result.
    pub fn prepare(&self, line: usize) -> Sleeper<'a> {
        let line = &self.lines[line];
        let seen = line.arm();
        match self.fences {
            // Pairs with the fence in `needs_ring`. Also where this process is not registered itself:
            // then it is a full fence here, and `demand_full_fences` has told the others.
            Fences::Full | Fences::Asymmetric => barrier::heavy(),
            #[cfg(loom)]
            Fences::Missing => {}
        }
        Sleeper { line, seen }
    }
}

/// Somebody who has announced that it goes to sleep, and must look at its rings once more.
#[derive(Debug)]
#[must_use = "look at the rings, then wait"]
pub struct Sleeper<'a> {
    line: &'a Line,
    seen: u32,
}

impl Sleeper<'_> {
    /// Sleeps until the line is rung, at most `timeout` and at most [`WAIT_MAX`]. Spurious returns
    /// happen: look at the rings, and prepare anew. After [`Slept::TimedOut`] the sleep goes on with
    /// another call: what is announced stays so until somebody rings, and then this returns at once.
    pub fn wait(&self, timeout: Option<Duration>) -> Slept {
        self.line.sleep(self.seen, timeout.map_or(WAIT_MAX, |timeout| timeout.min(WAIT_MAX)))
    }
}

impl Line {
    /// A quiet line whose counters all have this value, outside any segment: for tests and models.
    #[must_use]
    pub fn with_counters(value: u32) -> Self {
        Self {
            armed: AtomicU32::new(value),
            rung: AtomicU32::new(value),
            done: AtomicU32::new(value),
            full_fences: AtomicU32::new(0),
            #[cfg(not(loom))]
            reserved: [const { AtomicU32::new(0) }; 12],
            #[cfg(loom)]
            kernel: model::Kernel::new(),
        }
    }

    /// Offsets of `armed`, `rung`, `done` and `full_fences`, for the layout hash and FORMAT.md.
    #[cfg(not(loom))]
    pub const OFFSETS: [u64; 4] = [
        core::mem::offset_of!(Line, armed) as u64,
        core::mem::offset_of!(Line, rung) as u64,
        core::mem::offset_of!(Line, done) as u64,
        core::mem::offset_of!(Line, full_fences) as u64,
    ];

    /// Whether somebody has armed the line since it was last done.
    #[inline]
    fn has_sleeper(&self) -> bool {
        // Relaxed: the fences before this look and before the sleeper's are what orders it.
        let armed = self.armed.load(Ordering::Relaxed);
        !is_done(self.done.load(Ordering::Relaxed), armed)
    }

    /// Arms the line; says which `rung` to sleep on.
    fn arm(&self) -> u32 {
        // Acquire: pairs with the release in `raise`. `done` follows `rung`, so a `rung` that is read
        // after it is not behind it, unless the line was corrupted.
        raise(&self.rung, self.done.load(Ordering::Acquire));
        let seen = self.rung.load(Ordering::Acquire);
        raise(&self.armed, seen.wrapping_add(1));
        seen
    }

    fn ring(&self, wakes_max: u32) -> Rang {
        let Some(ring) = self.begin() else { return Rang::default() };
        let woken = self.wake(wakes_max);
        // As many woken as asked for: there may be more, and the line must not be called done.
        if u32::try_from(woken).is_ok_and(|woken| woken >= wakes_max) {
            return Rang { woken, more: true };
        }
        // Release: pairs with Acquire in `arm`. After the last wake: killed before it, we rang for
        // nobody as far as the next ringer can see.
        raise(&self.done, ring);
        Rang { woken, more: false }
    }

    /// Raises `rung`, if somebody is armed; says to what.
    fn begin(&self) -> Option<u32> {
        // Acquire: whoever armed had read `rung`, so what we add to is not older.
        let armed = self.armed.load(Ordering::Acquire);
        if is_done(self.done.load(Ordering::Acquire), armed) {
            return None;
        }
        let ring = self.rung.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        // Nobody arms further ahead than by one, unless the line was corrupted. Then `done` goes there at
        // once: without this each publish might ring until `rung` had come there by ones.
        Some(if is_past(ring, armed, APART_MAX) { ring } else { armed })
    }

    #[cfg(not(loom))]
    fn sleep(&self, seen: u32, timeout: Duration) -> Slept {
        match futex::wait(&self.rung, seen, Some(timeout)) {
            futex::Wake::TimedOut => Slept::TimedOut,
            futex::Wake::Woken | futex::Wake::Changed | futex::Wake::Interrupted => Slept::Rung,
        }
    }

    #[cfg(not(loom))]
    fn wake(&self, count: u32) -> usize {
        futex::wake(&self.rung, count)
    }
}

/// Whether nobody has armed since the last ring that was done.
///
/// The slack is wider than that of one counter behind another: in a line that was corrupted, but where
/// no two neighbours are too far apart to be seen, one ring makes `done` past `armed` by twice that.
#[inline]
const fn is_done(done: u32, armed: u32) -> bool {
    is_past(done, armed, 4 * APART_MAX)
}

/// Whether `counter` is at `target` or past it by at most `apart_max`, as counters that wrap.
#[inline]
const fn is_past(counter: u32, target: u32, apart_max: u32) -> bool {
    counter.wrapping_sub(target) <= apart_max
}

/// Raises `counter` to `target`, unless it is there or past it. A corrupted one is put there too.
fn raise(counter: &AtomicU32, target: u32) {
    let mut now = counter.load(Ordering::Relaxed);
    for _ in 0..RAISES_MAX {
        if is_past(now, target, APART_MAX) {
            return;
        }
        // Release: what was done before the raise (wakes, above all) is seen by who reads it.
        match counter.compare_exchange_weak(now, target, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return,
            Err(found) => now = found,
        }
    }
}

#[cfg(loom)]
mod model;

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
