//! What a process has counted since it began, in the second page of its arena: whoever may map it may read it.
//!
//! Most counters of a process are those of its rings and rows, which are counted where they happen, by one writer each, and cost
//! nothing more. What a ring or a row had counted is added here when its entry is free for another. What happens rarely, and
//! belongs to neither, is an [`Event`] and counted here.
//!
//! It knows no names for people, and makes no sums: `busway::metrics` does.
//!
//! Invariant: `folds` is odd while something is moved from an entry to the page; who reads both, and sees the same even number before
//! and after, has counted nothing twice and nothing not at all.

use std::sync::PoisonError;
use std::time::Duration;

use crate::arena::OwnArena;
use crate::layout::{CAUSES, CounterPage};
use crate::sync::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use crate::{sync::AtomicU32, sys::futex};

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $index:literal, $text:literal;)+) => {
        /// What is counted for the process itself. The number is a word's place in its page, and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name = $index,)+
        }

        impl Event {
            /// Every event, in order of its index.
            pub const ALL: &[Event] = &[$(Event::$name),+];

            /// The name in FORMAT.md.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Event::$name => $text),+ }
            }
        }
    };
}

events! {
    /// A send was refused: a ring was full, and nobody was to be waited for, or no longer.
    SendFull = 0, "send_full";
    /// A send was refused: the time of its caller was up.
    SendTimeout = 1, "send_timeout";
    /// A send was refused for want of memory.
    SendMemory = 2, "send_memory";
    /// A send was refused: the message is larger than any may be.
    SendTooLarge = 3, "send_too_large";
    /// A value could not be encoded.
    SendEncode = 4, "send_encode";
    /// A request had its last reply.
    RequestAnswered = 5, "request_answered";
    /// There was no reply in time.
    RequestTimedOut = 6, "request_timed_out";
    /// Nobody answers.
    RequestNoResponders = 7, "request_no_responders";
    /// The responder died.
    RequestResponderDied = 8, "request_responder_died";
    /// The responder let it go.
    RequestUnanswered = 9, "request_unanswered";
    /// The responder failed.
    RequestFailed = 10, "request_failed";
    /// A reply was lost.
    RequestReplyLost = 11, "request_reply_lost";
    /// It could not be sent, or its reply not be received.
    RequestRefused = 12, "request_refused";
    /// Who asked did not want the answer any more.
    RequestCancelled = 13, "request_cancelled";
    /// A handler was done with a message.
    Handled = 14, "handled";
    /// The last attempt at a message failed.
    HandlerFailed = 15, "handler_failed";
    /// A hook rejected a message.
    HandlerRejected = 16, "handler_rejected";
    /// An attempt failed and another follows.
    HandlerRetried = 17, "handler_retried";
    /// A handler panicked.
    HandlerPanicked = 18, "handler_panicked";
    /// A breaker refused an attempt.
    HandlerRefused = 19, "handler_refused";
    /// A message is among the dead letters of a service.
    HandlerBuried = 20, "handler_buried";
    /// A message should be among the dead letters of a service, and is not.
    HandlerUnburied = 21, "handler_unburied";
    /// An acknowledgement came too late.
    HandlerLate = 22, "handler_late";
    /// A hook of an outlet rejected a message.
    OutletRejected = 23, "outlet_rejected";
    /// The breaker of an outlet refused a message.
    OutletRefused = 24, "outlet_refused";
    /// An attempt of an outlet failed and another follows.
    OutletRetried = 25, "outlet_retried";
    /// The node could not listen at an address.
    BindFailed = 26, "bind_failed";
    /// Links that stand now: a level, not a sum.
    Links = 27, "links";
    /// A call of a handler took longer than it should.
    HandlerSlow = 28, "handler_slow";
    /// A handler gave shared work back, because its breaker had opened.
    HandlerReturned = 29, "handler_returned";
    /// Handlers that run now: a level, not a sum.
    HandlersRunning = 30, "handlers_running";
    /// Nobody waited any more for the reply to a request that a handler had.
    HandlerExpired = 31, "handler_expired";
    /// A message was given up without being handled: the breaker was open at each attempt.
    HandlerUnhandled = 32, "handler_unhandled";
    /// Peers that came and went: told to who decides about artifacts.
    TransportHandled = 33, "transport_handled";
    /// Peers that came and went: found their flow full and waited.
    TransportWaited = 34, "transport_waited";
    /// Peers that came and went: dropped, because their flow was full or ended.
    TransportDropped = 35, "transport_dropped";
    /// Peers that came and went: nanoseconds of who decides about artifacts.
    TransportNanoseconds = 36, "transport_nanoseconds";
    /// Words about who has what: told to who decides about artifacts.
    AdvertHandled = 37, "advert_handled";
    /// Words about who has what: found their flow full and waited.
    AdvertWaited = 38, "advert_waited";
    /// Words about who has what: made worthless by a newer one.
    AdvertCoalesced = 39, "advert_coalesced";
    /// Words about who has what: dropped, because their flow was full or ended.
    AdvertDropped = 40, "advert_dropped";
    /// Words about who has what: nanoseconds of who decides about artifacts.
    AdvertNanoseconds = 41, "advert_nanoseconds";
    /// Requests for pieces, and their ends: told to who decides about artifacts.
    RequestFlowHandled = 42, "request_flow_handled";
    /// Requests for pieces, and their ends: found their flow full and waited.
    RequestFlowWaited = 43, "request_flow_waited";
    /// Requests for pieces, and their ends: dropped, because their flow was full or ended.
    RequestFlowDropped = 44, "request_flow_dropped";
    /// Requests for pieces, and their ends: nanoseconds of who decides about artifacts.
    RequestFlowNanoseconds = 45, "request_flow_nanoseconds";
    /// Pieces: told to who decides about artifacts.
    ChunkHandled = 46, "chunk_handled";
    /// Pieces: found their flow full and waited.
    ChunkWaited = 47, "chunk_waited";
    /// Pieces: dropped, because their flow was full or ended.
    ChunkDropped = 48, "chunk_dropped";
    /// Pieces: nanoseconds of who decides about artifacts.
    ChunkNanoseconds = 49, "chunk_nanoseconds";
    /// Words about how far tables are known: told to who decides about artifacts.
    RetransmissionHandled = 50, "retransmission_handled";
    /// Words about how far tables are known: found their flow full and waited.
    RetransmissionWaited = 51, "retransmission_waited";
    /// Words about how far tables are known: made worthless by a newer one.
    RetransmissionCoalesced = 52, "retransmission_coalesced";
    /// Words about how far tables are known: dropped, because their flow was full or ended.
    RetransmissionDropped = 53, "retransmission_dropped";
    /// Words about how far tables are known: nanoseconds of who decides about artifacts.
    RetransmissionNanoseconds = 54, "retransmission_nanoseconds";
}

impl CounterPage {
    /// How often this happened.
    #[must_use]
    pub fn event(&self, event: Event) -> u64 {
        self.events.get(event as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// What `read` makes of the page and of the entries that are folded into it, where nothing is folded meanwhile; else how
    /// many folds have begun and ended.
    fn still<T>(&self, read: impl FnOnce() -> T) -> Result<T, u64> {
        let before = self.folds.load(Ordering::Acquire); // pairs with Release in `folding`
        if !before.is_multiple_of(2) {
            return Err(before);
        }
        let value = read();
        fence(Ordering::SeqCst); // pairs with the fence in `folding`
        let after = self.folds.load(Ordering::Relaxed);
        if after == before { Ok(value) } else { Err(after) }
    }
}

/// Looks in a row at pages of which none has gone on: who moves may have lost its processor to others.
const LOOKS: u32 = 516;
/// All looks: who moves much, and lives, is waited for longer than who was stopped.
const LOOKS_MAX: u32 = 20 * LOOKS;

/// What `read` makes of each of these pages, by its place, and of the entries that are folded into it, at a moment when nothing is; what it makes of them last
/// where there is no such moment, as of a process that died or was stopped in the midst of it. `wait` is called between two looks, with how many there were.
///
/// All pages wait together: however many processes are stopped, who reads them waits a tenth of a second. A page that goes on
/// between two looks is of somebody who lives: it is waited for up to two seconds.
pub fn at_one_moment<T>(
    pages: &[&CounterPage],
    mut read: impl FnMut(usize) -> T,
    mut wait: impl FnMut(u32),
) -> Vec<T> {
    let mut values: Vec<Result<T, u64>> = pages.iter().map(|_| Err(0)).collect();
    let mut went_on = 0;
    for look in 0..LOOKS_MAX {
        let mut open = 0;
        for (at, (page, value)) in pages.iter().zip(&mut values).enumerate() {
            let Err(before) = *value else { continue };
            *value = page.still(|| read(at));
            if let Err(folds) = *value {
                open += 1;
                went_on = if folds == before { went_on } else { look };
            }
        }
        if open == 0 || look - went_on >= LOOKS {
            break;
        }
        wait(look);
    }
    values.into_iter().enumerate().map(|(at, value)| value.unwrap_or_else(|_| read(at))).collect()
}

/// How who reads counters waits for who moves them: it lets others run, and then sleeps a little.
pub fn wait(look: u32) {
    const YIELDS: u32 = 16;
    const PAUSE: Duration = Duration::from_micros(200);
    if look < YIELDS {
        std::thread::yield_now();
    } else {
        pause(PAUSE);
    }
}

impl OwnArena {
    /// Counts that this happened so often.
    pub fn count(&self, event: Event, times: u64) {
        if !self.forked()
            && let Some(word) = self.counters().events.get(event as usize)
        {
            word.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// So it is now, of an event that is a level.
    pub fn set_level(&self, event: Event, level: u64) {
        if let Some(word) = self.counters().events.get(event as usize) {
            word.store(level, Ordering::Relaxed);
        }
    }

    /// One more, of an event that is a level.
    pub fn raise(&self, event: Event) {
        self.count(event, 1);
    }

    /// One less, of an event that is a level and was raised before.
    pub fn lower(&self, event: Event) {
        if !self.forked()
            && let Some(word) = self.counters().events.get(event as usize)
        {
            word.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Moves what an entry has counted to the page, or from one entry to another.
    pub fn folding<T>(&self, fold: impl FnOnce(&CounterPage) -> T) -> T {
        let _one_at_a_time = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let page = self.counters();
        page.folds.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // pairs with the fence in `at_one_moment`
        let value = fold(page);
        page.folds.fetch_add(1, Ordering::Release); // pairs with Acquire in `at_one_moment`
        value
    }
}

/// Not a park of the thread: that would swallow a call of its own for another reason.
fn pause(time: Duration) {
    #[cfg(not(loom))]
    let _ = futex::wait(&AtomicU32::new(0), 0, Some(time));
    #[cfg(loom)]
    let _ = time;
}

/// Adds to a word that we alone write.
pub(crate) fn add(word: &AtomicU64, count: u64) {
    word.store(word.load(Ordering::Relaxed).saturating_add(count), Ordering::Relaxed);
}

/// Adds counters by cause, in their order.
pub(crate) fn add_causes<'a>(to: &[AtomicU64; CAUSES], from: impl Iterator<Item = &'a AtomicU64>) {
    for (word, count) in to.iter().zip(from) {
        add(word, count.load(Ordering::Relaxed));
    }
}

#[cfg(all(test, not(loom)))]
#[expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]
mod tests {
    use super::*;
    use crate::arena::ArenaOptions;
    use std::sync::mpsc;

    /// A thread that has lost its processor in the midst of a fold is waited for: longer than a few looks take.
    #[test]
    fn who_reads_while_something_is_moved_for_long_sees_it_once() {
        let options = ArenaOptions { name: "folds".into(), bytes_max: 64 << 20, monitored: false };
        let own = OwnArena::create(&options).expect("an arena");
        let entry = AtomicU64::new(7);
        let (looked, looks) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let (sum, count) = std::thread::scope(|scope| {
            let (own, entry) = (&own, &entry);
            scope.spawn(move || {
                own.folding(|page| {
                    add(&page.past_sent, entry.load(Ordering::Relaxed));
                    begun.send(()).expect("the reader waits");
                    // Looks that find it in two places.
                    for _ in 0..40 {
                        if looks.recv().is_err() {
                            break;
                        }
                    }
                    entry.store(0, Ordering::Relaxed);
                });
            });
            begins.recv().expect("the fold begins");
            let mut count = 0;
            let page = own.counters();
            let read = |_| page.past_sent.load(Ordering::Relaxed) + entry.load(Ordering::Relaxed);
            let sums = at_one_moment(&[page], read, |look| {
                count += 1;
                // Nobody hears it once the fold is over.
                let _ = looked.send(());
                wait(look);
            });
            // In a build where it gives up early the other thread must not wait for ever.
            drop(looked);
            (sums[0], count)
        });
        assert_eq!(sum, 7, "after {count} looks");
        println!("evidence: looks={count}");
    }

    /// As those of processes that were stopped in the midst of a fold.
    #[test]
    fn pages_in_which_something_is_moved_for_ever_are_waited_for_together_and_others_not_at_all() {
        const STOPPED: usize = 5;
        let options = ArenaOptions { name: "folds".into(), bytes_max: 64 << 20, monitored: false };
        let arenas: Vec<_> = (0..=STOPPED).map(|_| OwnArena::create(&options).expect("an arena")).collect();
        let pages: Vec<_> = arenas.iter().map(|own| own.counters()).collect();
        for page in &pages[..STOPPED] {
            page.folds.store(1, Ordering::Relaxed);
        }
        let (mut reads, mut waits) = ([0; STOPPED + 1], 0);
        let read = |at: usize| {
            reads[at] += 1;
            at
        };
        let values = at_one_moment(&pages, read, |_| waits += 1);
        assert_eq!(values, [0, 1, 2, 3, 4, 5]);
        assert_eq!((reads, waits), ([1; STOPPED + 1], LOOKS), "each is read once, and all have one time");
        assert_eq!(
            at_one_moment(&pages[STOPPED..], |at| at, |_| panic!("there is nothing to wait for")),
            [0]
        );
        println!("evidence: stopped={STOPPED} waits={waits}");
    }

    /// As that of a process that opens and closes ports without a pause, on a machine that is busy.
    #[test]
    fn a_page_in_which_much_is_moved_is_waited_for_as_long_as_it_goes_on() {
        let options = ArenaOptions { name: "folds".into(), bytes_max: 64 << 20, monitored: false };
        let own = OwnArena::create(&options).expect("an arena");
        let (page, most) = (own.counters(), 3 * LOOKS);
        page.folds.store(1, Ordering::Relaxed);
        let values = at_one_moment(
            &[page],
            |_| page.folds.load(Ordering::Relaxed),
            |look| {
                let next = if look < most { 2 } else { 1 };
                page.folds.fetch_add(next, Ordering::Relaxed);
            },
        );
        assert!(values[0].is_multiple_of(2), "read in the midst of a fold: {}", values[0]);
        // One that goes on for ever is not waited for so long.
        page.folds.store(1, Ordering::Relaxed);
        let mut waits = 0;
        at_one_moment(
            &[page],
            |_| (),
            |_| {
                waits += 1;
                page.folds.fetch_add(2, Ordering::Relaxed);
            },
        );
        assert_eq!(waits, LOOKS_MAX);
    }
}
