//! The gate before the offers of a program.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::Code;
use busway::artifacts::{Broadcaster, Destination, Draft};

use crate::stage::{PATIENCE, receive, subscribe, three, until};

const THREADS: u64 = 8;

fn draft(number: u64) -> Draft {
    Draft::new("block.new", &number.to_le_bytes())
}

#[test]
fn eight_threads_that_offer_before_the_start_all_wait_and_are_all_released_by_it() {
    let hosts = three();
    let mut subscriber = subscribe(&hosts[2], "block.>");
    let gate = Broadcaster::new();
    std::thread::scope(|scope| {
        let gate = &gate;
        let (begun, begins) = channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let begun = begun.clone();
                scope.spawn(move || {
                    begun.send(()).unwrap();
                    gate.offer(draft(number))
                })
            })
            .collect();
        (0..THREADS).for_each(|_| begins.recv_timeout(PATIENCE).unwrap());
        // None can come through: who offers with a deadline meanwhile fails by it.
        let late = gate.offer_timeout(draft(99), Duration::from_millis(20)).unwrap_err();
        assert_eq!(late.code(), Code::TimedOut);
        assert!(threads.iter().all(|thread| !thread.is_finished()));
        assert_eq!(gate.counts().accepted, 0);
        gate.start(&hosts[0].bus).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
    let mut numbers: Vec<u64> = (0..THREADS)
        .map(|_| u64::from_le_bytes(receive(&mut subscriber).bytes().unwrap()[..].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..THREADS));
    assert_eq!(gate.start(&hosts[0].bus).unwrap_err().code(), Code::BadSetting, "it starts once");
    println!("evidence: 8 threads waited, 8 released, 8 artifacts at another node");
}

#[test]
fn eight_threads_with_a_deadline_fail_by_it_where_nobody_starts() {
    let gate = Broadcaster::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                scope.spawn({
                    let gate = &gate;
                    move || gate.offer_timeout(draft(number), Duration::from_millis(20))
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap_err().code(), Code::TimedOut);
        }
    });
    assert_eq!(gate.counts().accepted, 0);
    assert_eq!(gate.offer_timeout(draft(0), Duration::ZERO).unwrap_err().code(), Code::TimedOut);
    println!("evidence: 8 of 8 failed by their deadline");
}

#[test]
fn the_offer_after_a_hundred_thousand_that_wait_is_dropped_and_counted() {
    let gate = Broadcaster::new();
    let (on, stands) = channel::<()>();
    let given = Arc::new(Mutex::new(0_u64));
    let count = given.clone();
    gate.start_with(move |_| {
        // Stands still until the other end is dropped.
        let _ = stands.recv();
        *count.lock().unwrap() += 1;
        Ok(())
    })
    .unwrap();
    let one = draft(0);
    for _ in 0..100_000 {
        gate.offer(one.clone()).unwrap();
    }
    assert_eq!(gate.offer(one.clone()).unwrap_err().code(), Code::Full);
    let counts = gate.counts();
    assert_eq!((counts.accepted, counts.dropped_full, counts.given), (100_000, 1, 0));
    drop(on);
    until("all are given out", || gate.counts().given == 100_000);
    gate.offer(one).unwrap();
    until("there is room again", || *given.lock().unwrap() == 100_001);
    println!("evidence: 100000 outstanding, 1 dropped and counted, 100001 given out");
}

/// How many lines were logged by this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<u64>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "busway::gossip"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        *self.0.lock().unwrap() += 1;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn after_the_close_an_offer_is_an_error_and_the_log_says_it_once() {
    let gate = Broadcaster::new();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| gate.offer(draft(0)));
        gate.close();
        assert_eq!(waits.join().unwrap().unwrap_err().code(), Code::Closed, "who waits at the gate is told");
    });
    let gate = Broadcaster::new();
    let (on, stands) = channel::<()>();
    gate.start_with(move |_| {
        let _ = stands.recv();
        Ok(())
    })
    .unwrap();
    (0..5).for_each(|number| gate.offer(draft(number)).unwrap());
    std::thread::scope(|scope| {
        let closes = scope.spawn(|| gate.close());
        until("what waited is dropped", || gate.counts().dropped_closed >= 4);
        drop(on);
        closes.join().unwrap();
    });
    let counts = gate.counts();
    assert_eq!(counts.given + counts.dropped_closed, counts.accepted, "{counts:?}");
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        for number in 0..100 {
            assert_eq!(gate.offer(draft(number)).unwrap_err().code(), Code::Closed);
        }
    });
    assert_eq!((*lines.0.lock().unwrap(), gate.counts().refused), (1, 100));
    assert_eq!(gate.start_with(|_| Ok(())).unwrap_err().code(), Code::Closed);
    println!("evidence: 100 errors behind the close, 1 line in the log, {counts:?}");
}

#[test]
fn a_broadcaster_that_is_closed_by_what_it_gives_to_ends() {
    let gate = Arc::new(Broadcaster::new());
    let (told, tells) = channel();
    let own = Mutex::new(Some(gate.clone()));
    gate.start_with(move |_| {
        if let Some(gate) = own.lock().unwrap().take() {
            gate.close();
        }
        told.send(()).unwrap();
        Ok(())
    })
    .unwrap();
    gate.offer(draft(0)).unwrap();
    tells.recv_timeout(PATIENCE).unwrap();
    gate.close();
    // Its thread is joined, and so what it had is gone.
    assert!(tells.recv().is_err());
    assert_eq!(gate.offer(draft(1)).unwrap_err().code(), Code::Closed);
    println!("evidence: closed from inside, joined from outside");
}

#[test]
fn where_what_it_gives_to_panics_the_next_is_given_and_all_are_counted() {
    let gate = Broadcaster::new();
    let given = Arc::new(Mutex::new(Vec::new()));
    let list = given.clone();
    gate.start_with(move |draft| {
        assert_ne!(draft.body[0], 1, "this one panics");
        list.lock().unwrap().push(draft.body[0]);
        Ok(())
    })
    .unwrap();
    (0..3).for_each(|number| gate.offer(draft(number)).unwrap());
    until("the third is given", || *given.lock().unwrap() == [0, 2]);
    until("it is counted", || gate.counts().given == 2);
    gate.close();
    let counts = gate.counts();
    assert_eq!((counts.accepted, counts.given, counts.failed, counts.panicked), (3, 2, 1, 1));
    println!("evidence: {counts:?}");
}

#[test]
fn as_many_bytes_wait_as_may_and_one_that_is_larger_waits_alone() {
    const MIB: u64 = 1 << 20;
    let gate = Broadcaster::with_room(100_000, 8 * MIB);
    let (on, stands) = channel::<()>();
    gate.start_with(move |_| {
        let _ = stands.recv();
        Ok(())
    })
    .unwrap();
    let of = |mib: u64| Draft::new("block.new", &vec![7; usize::try_from(mib * MIB).unwrap()]);
    gate.offer(of(20)).unwrap();
    assert_eq!(gate.offer(of(1)).unwrap_err().code(), Code::Full, "it waits alone");
    on.send(()).unwrap();
    until("it is given", || gate.counts().given == 1);
    // What is said of them beside counts too.
    let taken = (0..20).filter(|_| gate.offer(of(1)).is_ok()).count();
    assert_eq!((taken, gate.counts().dropped_full), (7, 14));
    drop(on);
    until("there is room again", || gate.counts().given == 8);
    gate.offer(of(1)).unwrap();
    println!("evidence: 1 of 20 MiB alone, then {taken} of 1 MiB in 8 MiB");
}

#[test]
fn what_cannot_be_offered_is_told_to_who_offers_it_before_it_waits() {
    let gate = Broadcaster::new();
    let bad = [
        (Draft::new("block..new", b"x"), Code::BadTopic),
        (Draft { attribute: vec![7; 257], ..draft(0) }, Code::TooLarge),
        (Draft { to: Destination::Group("some".to_owned()), ..draft(0) }, Code::NotYet),
        (Draft { to: Destination::Peers(vec![1]), ..draft(0) }, Code::NotYet),
    ];
    let (tried, refused) = (bad.len(), u64::try_from(bad.len()).unwrap());
    for (draft, code) in bad {
        assert_eq!(gate.offer(draft).unwrap_err().code(), code, "also where it has not started");
    }
    assert_eq!((gate.counts().refused, gate.counts().accepted), (refused, 0));
    assert_eq!(gate.offer_timeout(draft(0), Duration::ZERO).unwrap_err().code(), Code::TimedOut);
    assert_eq!(gate.counts().late, 1);
    println!("evidence: {tried} refused at once");
}

#[test]
fn what_it_gives_to_and_never_returns_keeps_its_thread_and_nobody_else() {
    let gate = Broadcaster::new();
    let (on, stands) = channel::<()>();
    let (told, tells) = channel();
    gate.start_with(move |_| {
        told.send(()).unwrap();
        let _ = stands.recv();
        Ok(())
    })
    .unwrap();
    (0..3).for_each(|number| gate.offer(draft(number)).unwrap());
    tells.recv_timeout(PATIENCE).unwrap();
    gate.close();
    assert_eq!(gate.counts().dropped_closed, 2);
    drop(gate);
    drop(on);
    assert!(tells.recv_timeout(PATIENCE).is_err(), "it ends when it returns");
    println!("evidence: closed and dropped while one was given");
}
