//! A handler of a program's own, and the threads that tell it what peers did.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use busway::Code;
use busway::artifacts::{ArtifactHandler, EVENT_FLOWS, Flow, Heard, PeerEvent, WhenFull, Word, Workers};

use busway_wire::gossip::{Epoch, NodeIndex, Part, Reference, Slot, SlotNumber, Tell, decode, encode};

use crate::stage::{PATIENCE, until};

/// Nothing that is tested here may hang on the timer.
const NEVER: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

fn event(flow: Flow, number: u64) -> PeerEvent {
    let word = match flow {
        Flow::Request => {
            let of = Reference { node: NodeIndex(9), epoch: Epoch(1), slot: SlotNumber(7), version: 1 };
            Word::Request { request: number, of, part: Part::Whole, offset: 0 }
        }
        Flow::Chunk => Word::NotFound { request: number },
        Flow::Transport => return PeerEvent::PeerUp,
        Flow::Retransmission => {
            return PeerEvent::Retransmission(Heard {
                word: Word::Cancel { request: number },
                following: Vec::new(),
            });
        }
        _ => Word::Handled { tells: number, marks: 0 },
    };
    PeerEvent::of(word, &[])
}

fn number(heard: &Heard) -> u64 {
    match heard.word {
        Word::Handled { tells, .. } => tells,
        Word::Request { request, .. } | Word::Cancel { request } | Word::NotFound { request } => request,
        _ => panic!("{heard:?}"),
    }
}

/// Writes down what it is told, and stands still in one flow until it is let on.
#[derive(Default)]
struct Book {
    told: Mutex<Vec<(Flow, u8, u64)>>,
    stands: Mutex<Option<Flow>>,
    on: Condvar,
    threads: Mutex<BTreeMap<String, u64>>,
    ticks: Mutex<u64>,
}

impl Book {
    fn standing(flow: Flow) -> Arc<Self> {
        Arc::new(Self { stands: Mutex::new(Some(flow)), ..Self::default() })
    }

    fn go_on(&self) {
        *self.stands.lock().unwrap() = None;
        self.on.notify_all();
    }

    fn write(&self, flow: Flow, from: u8, number: u64) {
        self.told.lock().unwrap().push((flow, from, number));
        let name = std::thread::current().name().unwrap().to_owned();
        *self.threads.lock().unwrap().entry(name).or_default() += 1;
        let stands = self.stands.lock().unwrap();
        drop(self.on.wait_while(stands, |stands| *stands == Some(flow)).unwrap());
    }

    fn of(&self, flow: Flow) -> Vec<(u8, u64)> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(of, ..)| *of == flow).map(|(_, from, number)| (*from, *number)).collect()
    }
}

impl ArtifactHandler for Book {
    fn on_advert(&self, from: u8, advert: &Heard) {
        self.write(Flow::Advert, from, number(advert));
    }

    fn on_request(&self, from: u8, request: &Heard) {
        self.write(Flow::Request, from, number(request));
    }

    fn on_piece(&self, from: u8, piece: &Heard) {
        self.write(Flow::Chunk, from, number(piece));
    }

    fn on_retransmission(&self, from: u8, request: &Heard) {
        self.write(Flow::Retransmission, from, number(request));
    }

    fn on_timer(&self) {
        *self.ticks.lock().unwrap() += 1;
    }

    fn on_peer_up(&self, peer: u8) {
        self.write(Flow::Transport, peer, 1);
    }

    fn on_peer_down(&self, peer: u8) {
        self.write(Flow::Transport, peer, 0);
    }
}

#[test]
fn a_hundred_thousand_adverts_of_many_peers_are_handled_each_in_the_order_of_its_peer() {
    const PEERS: u8 = 8;
    const OF_EACH: u64 = 12_500;
    let book = Arc::new(Book::default());
    let workers = Workers::builder().workers(Flow::Advert, 2).timer(NEVER).start(book.clone()).unwrap();
    std::thread::scope(|scope| {
        for peer in 0..PEERS {
            let workers = &workers;
            scope.spawn(move || {
                (0..OF_EACH).for_each(|number| workers.deliver(peer, event(Flow::Advert, number)).unwrap());
            });
        }
    });
    workers.close(PATIENCE).unwrap();
    let counts = workers.counts(Flow::Advert);
    assert_eq!(
        (counts.handled, counts.dropped_full, counts.dropped_ended, counts.in_flight),
        (100_000, 0, 0, 0)
    );
    for peer in 0..PEERS {
        let of_peer =
            book.of(Flow::Advert).into_iter().filter(|(from, _)| *from == peer).map(|(_, number)| number);
        assert!(of_peer.eq(0..OF_EACH), "peer {peer}");
    }
    let threads = book.threads.lock().unwrap().clone();
    assert!(threads.keys().all(|name| name.starts_with("bw-advert-")), "{threads:?}");
    println!("evidence: peers={PEERS} adverts=100000 handled={} threads={threads:?}", counts.handled);
}

#[test]
fn a_handler_that_is_slow_in_one_flow_stops_no_other() {
    for slow in EVENT_FLOWS {
        let book = Book::standing(slow);
        let workers = Workers::builder().timer(NEVER).start(book.clone()).unwrap();
        workers.deliver(1, event(slow, 0)).unwrap();
        until("it stands still", || book.of(slow).len() == 1);
        for flow in EVENT_FLOWS.into_iter().filter(|flow| *flow != slow) {
            (0..50).for_each(|number| workers.deliver(1, event(flow, number)).unwrap());
            until("another flow goes on", || workers.counts(flow).handled == 50);
        }
        assert_eq!(workers.counts(slow).handled, 0);
        book.go_on();
        workers.close(PATIENCE).unwrap();
        assert_eq!(workers.counts(slow).handled, 1);
    }
    println!("evidence: flows=5 events beside each=200");
}

#[test]
fn of_a_peer_that_says_much_one_event_is_handled_for_each_of_another() {
    let book = Book::standing(Flow::Request);
    let workers = Workers::builder().timer(NEVER).start(book.clone()).unwrap();
    (0..60).for_each(|number| workers.deliver(1, event(Flow::Request, number)).unwrap());
    until("the first is being handled", || book.of(Flow::Request).len() == 1);
    (0..3).for_each(|number| workers.deliver(2, event(Flow::Request, number)).unwrap());
    book.go_on();
    workers.close(PATIENCE).unwrap();
    let told = book.of(Flow::Request);
    let last_of_other = told.iter().rposition(|(from, _)| *from == 2).unwrap();
    assert!(last_of_other <= 7, "{told:?}");
    println!("evidence: the third of one peer came after {last_of_other} events, of 63");
}

#[test]
fn a_flow_at_its_capacity_waits_and_is_counted_and_nothing_is_lost() {
    for flow in [Flow::Request, Flow::Chunk, Flow::Transport] {
        let book = Book::standing(flow);
        let builder = Workers::builder().limit(flow, 8, MIB, WhenFull::Wait).floor(2, 1 << 16);
        let workers = builder.timer(NEVER).start(book.clone()).unwrap();
        // Eight of all, and two that are this peer's own.
        (0..10).for_each(|number| assert_eq!(workers.try_deliver(1, event(flow, number)).unwrap(), None));
        assert!(workers.try_deliver(1, event(flow, 10)).unwrap().is_some());
        assert_eq!(workers.counts(flow).waited, 1);
        // Another peer has its floor though the flow is full, and no more.
        assert_eq!(workers.try_deliver(2, event(flow, 0)).unwrap(), None);
        assert_eq!(workers.try_deliver(2, event(flow, 1)).unwrap(), None);
        assert!(workers.try_deliver(2, event(flow, 2)).unwrap().is_some());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| workers.deliver(1, event(flow, 10)));
            until("it waits", || workers.counts(flow).waited == 3);
            assert!(!waits.is_finished());
            book.go_on();
            waits.join().unwrap().unwrap();
        });
        workers.close(PATIENCE).unwrap();
        let counts = workers.counts(flow);
        assert_eq!((counts.handled, counts.dropped_full, counts.in_flight_max), (13, 0, 12), "{flow}");
    }
    println!("evidence: 3 flows of 8 + 2 a peer: 13 of 13 handled, 3 waits counted each");
}

#[test]
fn each_flow_does_when_it_is_full_what_it_allows_and_what_it_does_not_allow_is_refused() {
    let all = [WhenFull::Wait, WhenFull::Coalesce, WhenFull::Drop, WhenFull::Fail, WhenFull::Policy];
    let mut tried = 0;
    for flow in EVENT_FLOWS {
        for when_full in all {
            let book = Book::standing(flow);
            let builder = Workers::builder().limit(flow, 1, MIB, when_full).floor(1, 1 << 16).timer(NEVER);
            let started = builder.start(book.clone());
            if !flow.when_full().contains(&when_full) {
                assert_eq!(started.unwrap_err().code(), Code::BadSetting, "{flow} {when_full:?}");
                continue;
            }
            let workers = started.unwrap();
            workers.deliver(1, event(flow, 0)).unwrap();
            until("it stands still", || book.of(flow).len() == 1);
            assert_eq!(workers.try_replace(1, event(flow, 1), Some(7)).unwrap(), None);
            let third = workers.try_replace(1, event(flow, 2), Some(7));
            let counts = workers.counts(flow);
            let left = match when_full {
                WhenFull::Wait => {
                    assert!(third.unwrap().is_some() && counts.waited == 1, "{flow}");
                    1
                }
                WhenFull::Coalesce => {
                    assert!(third.unwrap().is_none() && counts.coalesced == 1, "{flow}");
                    // What has another key is no later word on the same: it waits.
                    assert!(workers.try_replace(1, event(flow, 3), Some(8)).unwrap().is_some());
                    2
                }
                _ => {
                    assert_eq!(third.unwrap_err().code(), Code::Full, "{flow}");
                    assert_eq!(counts.dropped_full, 1, "{flow}");
                    1
                }
            };
            book.go_on();
            workers.close(PATIENCE).unwrap();
            let expected = if flow == Flow::Transport { 1 } else { left };
            assert_eq!(
                book.of(flow),
                [(1, if flow == Flow::Transport { 1 } else { 0 }), (1, expected)],
                "{flow}"
            );
            tried += 1;
        }
        let none =
            Workers::builder().limit(flow, 0, MIB, flow.when_full()[0]).start(Arc::new(Book::default()));
        assert_eq!(none.unwrap_err().code(), Code::BadSetting);
        let none = Workers::builder().limit(flow, 1, 0, flow.when_full()[0]).start(Arc::new(Book::default()));
        assert_eq!(none.unwrap_err().code(), Code::BadSetting);
    }
    for flow in [Flow::Control, Flow::Rpc, Flow::Data, Flow::Ingress] {
        let none = Workers::builder().workers(flow, 1).start(Arc::new(Book::default()));
        assert_eq!(none.unwrap_err().code(), Code::BadSetting);
    }
    for (events, bytes) in [(0, MIB), (1, 0)] {
        let none = Workers::builder().floor(events, bytes).start(Arc::new(Book::default()));
        assert_eq!(none.unwrap_err().code(), Code::BadSetting);
    }
    for count in [0, 17] {
        let none = Workers::builder().workers(Flow::Advert, count).start(Arc::new(Book::default()));
        assert_eq!(none.unwrap_err().code(), Code::BadSetting);
    }
    assert_eq!(
        Workers::builder().timer(Duration::ZERO).start(Arc::new(Book::default())).unwrap_err().code(),
        Code::BadSetting
    );
    println!("evidence: {tried} allowed pairs of flow and rule tried, all others refused");
}

#[test]
fn what_makes_older_events_worthless_comes_last_and_the_others_keep_their_order() {
    for flow in [Flow::Advert, Flow::Retransmission] {
        let book = Book::standing(flow);
        let builder = Workers::builder().limit(flow, 4, MIB, WhenFull::Coalesce).floor(1, 1 << 16);
        let workers = builder.timer(NEVER).start(book.clone()).unwrap();
        workers.deliver(1, event(flow, 0)).unwrap();
        until("it stands still", || book.of(flow).len() == 1);
        let put = |number, key| workers.try_replace(1, event(flow, number), Some(key)).unwrap();
        for (number, key) in [(1, 7), (2, 8), (3, 7), (4, 9)] {
            assert_eq!(put(number, key), None);
        }
        assert_eq!(put(5, 7), None, "two are worthless");
        assert_eq!(put(6, 8), None, "there is room for one");
        assert_eq!(put(7, 8), None, "two are worthless");
        assert_eq!(put(8, 9), None, "there is room for one");
        assert!(put(9, 10).is_some(), "it makes nothing worthless");
        let counts = workers.counts(flow);
        assert_eq!((counts.coalesced, counts.waited, counts.in_flight), (4, 1, 5));
        book.go_on();
        workers.close(PATIENCE).unwrap();
        let told: Vec<u64> = book.of(flow).into_iter().map(|(_, number)| number).collect();
        assert_eq!(told, [0, 4, 5, 7, 8], "{flow}");
        let counts = workers.counts(flow);
        assert_eq!(counts.taken, counts.handled + counts.coalesced, "{counts:?}");
    }
    println!("evidence: 2 flows: 4 of 9 made worthless, the last of each key told last");
}

/// Changes of many slots in a few bytes.
fn long_tell() -> PeerEvent {
    let slots = (0..2_000).map(|slot| Slot { slot: SlotNumber(slot), version: 1, offer: None }).collect();
    let mut body = Vec::new();
    encode(&Word::Tell(Tell { exchanges: 1, through: 1, slots }), &[], &mut body);
    assert!(body.len() < 8 << 10);
    let (word, following) = decode(&body).unwrap();
    PeerEvent::of(word, following)
}

#[test]
fn what_waits_takes_the_memory_that_its_flow_has_and_no_more() {
    let (limit, stands) = (8 * MIB, Arc::new(Stands::default()));
    let standing = Workers::builder().limit(Flow::Advert, 100_000, limit, WhenFull::Coalesce).floor(1, 1);
    let standing = standing.timer(NEVER).start(stands.clone()).unwrap();
    let (mut taken, slots) = (0_u64, 2_000 * size_of::<Slot>() as u64);
    while standing.try_deliver(1, long_tell()).unwrap().is_none() {
        taken += 1;
        assert!(taken * slots <= limit + slots, "{taken} words of {slots} bytes in {limit}");
    }
    assert!(taken * slots > limit / 2, "{taken} words of {slots} bytes in {limit}");
    *stands.0.lock().unwrap() = true;
    stands.1.notify_all();
    standing.close(PATIENCE).unwrap();
    println!("evidence: {taken} words of {slots} bytes each wait in {limit} bytes");
}

/// Stands still at each advert until it is let on.
#[derive(Default)]
struct Stands(Mutex<bool>, Condvar);

impl ArtifactHandler for Stands {
    fn on_advert(&self, _: u8, _: &Heard) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |on| !*on).unwrap());
    }
}

#[test]
fn who_closes_while_much_comes_waits_for_what_was_taken_and_nothing_else_is() {
    let book = Book::standing(Flow::Request);
    let workers = Workers::builder().timer(NEVER).start(book.clone()).unwrap();
    (0..10).for_each(|number| workers.deliver(1, event(Flow::Request, number)).unwrap());
    std::thread::scope(|scope| {
        let closes = scope.spawn(|| workers.close(PATIENCE));
        until("nothing more is taken", || workers.try_deliver(2, event(Flow::Advert, 0)).is_err());
        assert!(!closes.is_finished(), "ten wait");
        book.go_on();
        closes.join().unwrap().unwrap();
    });
    let counts = workers.counts(Flow::Request);
    assert_eq!((counts.handled, counts.dropped_ended), (10, 0));
    println!("evidence: 10 handled, what came behind the close refused");
}

#[test]
fn peers_that_come_and_go_during_a_transfer_cost_no_piece_of_others() {
    let book = Arc::new(Book::default());
    let workers = Workers::builder().workers(Flow::Chunk, 2).timer(NEVER).start(book.clone()).unwrap();
    std::thread::scope(|scope| {
        for peer in 0..4 {
            let workers = &workers;
            scope.spawn(move || {
                for number in 0..500 {
                    workers.deliver(peer, event(Flow::Chunk, number)).unwrap();
                }
            });
        }
        let workers = &workers;
        scope.spawn(move || {
            for turn in 0..200 {
                let peer = 10 + turn % 5;
                workers.deliver(peer, PeerEvent::PeerUp).unwrap();
                workers.deliver(peer, event(Flow::Chunk, u64::from(turn))).unwrap();
                workers.deliver(peer, PeerEvent::PeerDown).unwrap();
            }
        });
    });
    workers.close(PATIENCE).unwrap();
    for peer in 0..4 {
        let of_peer =
            book.of(Flow::Chunk).into_iter().filter(|(from, _)| *from == peer).map(|(_, number)| number);
        assert!(of_peer.eq(0..500), "peer {peer}");
    }
    for peer in 10..15 {
        let changes =
            book.of(Flow::Transport).into_iter().filter(|(from, _)| *from == peer).map(|(_, up)| up);
        assert!(changes.eq([1, 0].into_iter().cycle().take(80)), "peer {peer}");
    }
    println!("evidence: 2200 pieces and 400 changes of peers, in order");
}

#[test]
fn the_timer_is_called_again_and_again_and_ends_at_once() {
    let book = Arc::new(Book::default());
    let workers = Workers::builder().timer(Duration::from_millis(1)).start(book.clone()).unwrap();
    until("it is called three times", || *book.ticks.lock().unwrap() >= 3);
    workers.close(PATIENCE).unwrap();
    let ticks = *book.ticks.lock().unwrap();
    // A timer of a day ends as soon as any: who closes joins it.
    let other = Workers::builder().timer(NEVER).start(book.clone()).unwrap();
    other.close(PATIENCE).unwrap();
    assert_eq!(*book.ticks.lock().unwrap(), ticks, "nothing is called behind the end");
    assert_eq!(
        Arc::strong_count(&book),
        3,
        "what is closed has no threads, and only its handle has the handler"
    );
    println!("evidence: {ticks} calls of the timer, none behind the end");
}

#[test]
fn what_is_dropped_has_no_threads_any_more_and_what_waited_is_counted() {
    let book = Arc::new(Book::default());
    drop(Workers::builder().timer(NEVER).start(book.clone()).unwrap());
    assert_eq!(Arc::strong_count(&book), 1, "all threads have ended");

    let book = Book::standing(Flow::Advert);
    let workers = Workers::builder().timer(NEVER).start(book.clone()).unwrap();
    (0..5).for_each(|number| workers.deliver(1, event(Flow::Advert, number)).unwrap());
    until("the first is being handled", || book.of(Flow::Advert).len() == 1);
    std::thread::scope(|scope| {
        let closes = scope.spawn(|| workers.close(Duration::from_millis(1)));
        until("it has given up", || workers.counts(Flow::Advert).dropped_ended == 4);
        assert_eq!(workers.deliver(1, event(Flow::Advert, 9)).unwrap_err().code(), Code::Closed);
        book.go_on();
        assert_eq!(closes.join().unwrap().unwrap_err().code(), Code::TimedOut);
    });
    assert_eq!(workers.counts(Flow::Advert).handled, 1);
    println!("evidence: 1 handled, 4 dropped because it ended");
}

/// Drops, or closes, its own workers when it is told of an advert.
struct Quitter {
    workers: Mutex<Option<Arc<Workers>>>,
    closes: bool,
    returned: Sender<()>,
}

impl ArtifactHandler for Quitter {
    fn on_advert(&self, _: u8, _: &Heard) {
        let workers = self.workers.lock().unwrap().take();
        if self.closes {
            workers.as_ref().unwrap().close(PATIENCE).unwrap();
        }
        drop(workers);
        self.returned.send(()).unwrap();
    }
}

fn quitter(closes: bool) -> (Arc<Quitter>, Arc<Workers>, Receiver<()>) {
    let (returned, told) = channel();
    let quitter = Arc::new(Quitter { workers: Mutex::default(), closes, returned });
    let workers = Arc::new(Workers::builder().timer(NEVER).start(quitter.clone()).unwrap());
    *quitter.workers.lock().unwrap() = Some(workers.clone());
    (quitter, workers, told)
}

#[test]
fn a_handler_that_drops_or_closes_its_own_workers_returns_and_they_end() {
    let (handler, workers, told) = quitter(false);
    let late = Arc::downgrade(&workers);
    workers.deliver(1, event(Flow::Advert, 0)).unwrap();
    drop(workers);
    told.recv_timeout(PATIENCE).unwrap();
    until("its threads end", || Arc::strong_count(&handler) == 1);
    assert!(late.upgrade().is_none());

    let (handler, workers, told) = quitter(true);
    workers.deliver(1, event(Flow::Advert, 0)).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(workers.deliver(1, event(Flow::Advert, 1)).unwrap_err().code(), Code::Closed);
    // The next that closes, or drops, joins the threads that could not be joined then.
    workers.close(PATIENCE).unwrap();
    drop(workers);
    assert_eq!(Arc::strong_count(&handler), 1);
    println!("evidence: dropped and closed from inside, all threads ended");
}

#[test]
fn a_handler_that_never_returns_keeps_its_thread_and_nobody_else() {
    let book = Book::standing(Flow::Chunk);
    let workers = Arc::new(Workers::builder().timer(NEVER).start(book.clone()).unwrap());
    (0..3).for_each(|number| workers.deliver(1, event(Flow::Chunk, number)).unwrap());
    until("it stands still", || book.of(Flow::Chunk).len() == 1);
    // Neither a close without time nor a drop waits for it.
    assert_eq!(workers.close(Duration::ZERO).unwrap_err().code(), Code::TimedOut);
    let counts = workers.counts(Flow::Chunk);
    assert_eq!((counts.handled, counts.dropped_ended, counts.in_flight), (0, 2, 1));
    assert_eq!(workers.deliver(2, event(Flow::Advert, 0)).unwrap_err().code(), Code::Closed);
    drop(workers);
    assert_eq!(Arc::strong_count(&book), 2, "its thread has it still, and no other thread");
    book.go_on();
    until("it ends when it returns", || Arc::strong_count(&book) == 1);
    println!("evidence: 1 handled for ever, 2 dropped, closed and dropped meanwhile");
}

struct Panics;

impl ArtifactHandler for Panics {
    fn on_request(&self, _: u8, request: &Heard) {
        assert!(number(request).is_multiple_of(2), "this one is odd");
    }
}

#[test]
fn a_handler_that_panics_is_called_again_with_what_comes_next() {
    let workers = Workers::builder().timer(NEVER).start(Arc::new(Panics)).unwrap();
    (0..10).for_each(|number| workers.deliver(1, event(Flow::Request, number)).unwrap());
    workers.close(PATIENCE).unwrap();
    let counts = workers.counts(Flow::Request);
    assert_eq!((counts.handled, counts.panicked), (10, 5));
    assert!(counts.handler_ns > 0);
    println!("evidence: 10 handled, 5 of them panicked");
}
