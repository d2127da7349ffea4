//! Endpoints of a cluster, several in this process, each with its own links over the loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/stranger.rs"]
#[expect(dead_code, reason = "it serves other tests as well, which use the rest")]
mod peer;
#[path = "cluster/proxy.rs"]
#[expect(dead_code, reason = "the tests of work between hosts use more of it")]
mod proxy;
#[path = "cluster/stage.rs"]
#[expect(dead_code, reason = "it serves another test as well, which uses the rest")]
mod stage;
#[path = "cluster/stranger.rs"]
mod stranger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::cluster::{Client, Endpoint, Event, Message, Next, Outcome, Peer};

use busway_wire::PortId;
use busway_wire::limits::LINK_RESERVED_SOURCES_MAX;

use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};

use proxy::Proxy;
use stage::{PATIENCE, Stage, number, receive, send, until};
use stranger::Stranger;

const CLIENTS: u64 = 64;
const EACH: u64 = 20;

#[test]
fn three_replicas_and_64_clients_exchange_messages_both_ways_by_index_and_by_id() {
    let stage = Stage::new();
    let replicas = stage.replicas(3);
    for replica in &replicas {
        replica
            .on_message(|sender, message| {
                // Every message of a client comes back to it, by its id.
                let Peer::Client(id) = message.from() else { return Next::Taken };
                match sender.send_to_client(id, message) {
                    Outcome::Full => Next::Suspend,
                    outcome => {
                        assert_eq!(outcome, Outcome::Queued);
                        Next::Taken
                    }
                }
            })
            .unwrap();
    }
    let clients: Vec<Client> = (0..CLIENTS).map(|id| stage.client(id, &replicas)).collect();
    for client in &clients {
        until("every client has every replica", || client.connected().len() == 3);
    }
    for n in 1..=EACH {
        for client in &clients {
            for index in 0..3 {
                send(client, Peer::Replica(index), n);
            }
        }
    }
    let mut answers = 0;
    for client in &clients {
        let mut last: BTreeMap<Peer, u64> = BTreeMap::new();
        for _ in 0..3 * EACH {
            let message = receive(client);
            let last = last.entry(message.from()).or_default();
            *last += 1;
            assert_eq!(number(&message), *last, "in order, each once");
            answers += 1;
        }
    }
    // And by id without having been asked, and between replicas.
    for (index, replica) in (0_u8..).zip(&replicas) {
        for client in 0..CLIENTS {
            send(replica, Peer::Client(client), 1_000 + u64::from(index));
        }
        for other in (0..3).filter(|other| *other != index) {
            send(replica, Peer::Replica(other), 1);
        }
    }
    for client in &clients {
        let mut from: Vec<(Peer, u64)> = (0..3)
            .map(|_| {
                let message = receive(client);
                (message.from(), number(&message))
            })
            .collect();
        from.sort_unstable();
        assert_eq!(from, [0, 1, 2].map(|index| (Peer::Replica(index), 1_000 + u64::from(index))));
    }
    for replica in &replicas {
        until("both other replicas are heard", || replica.counters().received == CLIENTS * EACH + 2);
        let counters = replica.counters();
        assert_eq!((counters.lost, counters.missed, counters.stale), (0, 0, 0), "{counters:?}");
    }
    println!("evidence: replicas=3 clients={CLIENTS} answers={answers} lost=0");
}

#[test]
fn a_message_crosses_the_link_to_the_one_it_is_for_and_no_other() {
    let stage = Stage::new();
    let replicas = stage.replicas(3);
    for n in 1..=50 {
        send(&replicas[0], Peer::Replica(2), n);
    }
    for n in 1..=50 {
        assert_eq!(number(&receive(&replicas[2])), n);
    }
    let crossed =
        |replica: &Endpoint| -> Vec<u64> { replica.peers().iter().map(|peer| peer.messages_in).collect() };
    assert_eq!(crossed(&replicas[2]), [50, 0]);
    assert_eq!(crossed(&replicas[1]), [0, 0]);
}

#[test]
fn nothing_is_sent_before_a_peer_is_there_nor_after_it_has_gone_and_who_asks_is_told() {
    let stage = Stage::new();
    let mut replicas = stage.replicas(2);
    let (one, zero) = (replicas.pop().unwrap(), replicas.pop().unwrap());
    assert_eq!(zero.send_to_replica(7, b"x"), Outcome::NotConnected);
    assert_eq!(zero.send_to_client(5, b"x"), Outcome::NotConnected);
    assert_eq!(zero.event(PATIENCE), Some(Event::Up { peer: Peer::Replica(1) }));
    let client = stage.client(5, std::slice::from_ref(&zero));
    assert_eq!(zero.event(PATIENCE), Some(Event::Up { peer: Peer::Client(5) }));
    assert_eq!(zero.send_to_client(5, b"there"), Outcome::Queued);
    assert_eq!(&receive(&client)[..], b"there");
    assert_eq!(client.send_to_replica(0, &vec![0; (4 << 20) + 1]), Outcome::TooLarge);
    client.shutdown();
    assert_eq!(client.send_to_replica(0, b"x"), Outcome::Closing);
    assert!(client.recv(PATIENCE).is_err(), "who waits returns");
    assert_eq!(client.close(), busway::cluster::Ending::default());
    let Some(Event::Down { peer, reason }) = zero.event(PATIENCE) else { panic!("the client has gone") };
    assert!(peer == Peer::Client(5) && reason.contains("going down"), "{peer}: {reason}");
    assert_eq!(zero.send_to_client(5, b"x"), Outcome::NotConnected);
    one.close();
    assert!(matches!(zero.event(PATIENCE), Some(Event::Down { peer: Peer::Replica(1), .. })));
    assert_eq!(zero.send_to_replica(1, b"x"), Outcome::NotConnected);
    assert_eq!(zero.counters().not_connected, 4);
}

#[test]
fn who_does_not_read_fills_its_own_queue_loses_nothing_and_costs_nobody_else_anything() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let slow = stage.client(1, std::slice::from_ref(&replica));
    let other = stage.client(2, std::slice::from_ref(&replica));
    until("both are there", || replica.connected().len() == 2);
    let payload = |n: u64| [&n.to_le_bytes()[..], &[7; 2_000]].concat();
    let mut queued = 0;
    let mut full = 0;
    // Full once is not full for good: some of it is still on its way.
    while full < 50 {
        match replica.send_to_client(1, &payload(queued + 1)) {
            Outcome::Queued => queued += 1,
            Outcome::Full => full += 1,
            outcome => panic!("{outcome:?}"),
        }
        // Its queue, what may be on its way, and what may wait with it.
        assert!(queued < 10_000, "there is an end to what waits for who does not read");
        send(&replica, Peer::Client(2), queued);
        assert_eq!(number(&receive(&other)), queued, "the other has its messages at once");
    }
    assert!(queued >= 256, "{queued} messages wait for who does not read");
    for n in 1..=queued {
        assert_eq!(number(&receive(&slow)), n);
    }
    send(&replica, Peer::Client(1), queued + 1);
    assert_eq!(number(&receive(&slow)), queued + 1, "it goes on");
    println!("evidence: queued={queued} full={} lost={}", replica.counters().full, replica.counters().lost);
}

#[test]
fn a_suspended_message_comes_again_first_its_sender_is_held_back_and_others_are_not() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let clients = [1, 2].map(|id| stage.client(id, std::slice::from_ref(&replica)));
    for client in &clients {
        until("it is there", || client.connected().len() == 1);
        for n in 1..=100 {
            send(client, Peer::Replica(0), n);
        }
    }
    // The first message of client 1 that is seen is given back, whichever it is.
    let mut last = BTreeMap::from([(Peer::Client(1), 0), (Peer::Client(2), 0)]);
    let mut expect = |message: &Message| {
        let last = last.get_mut(&message.from()).unwrap();
        *last += 1;
        assert_eq!(number(message), *last, "of {}", message.from());
    };
    let mut given_back = false;
    for _ in 0..100 {
        let message = receive(&replica);
        if message.from() == Peer::Client(1) {
            assert!(!given_back, "nothing comes of who is held back");
            given_back = true;
            replica.suspend_message(message);
            continue;
        }
        expect(&message);
    }
    // The last of client 2, or the first of client 1.
    let message = receive(&replica);
    if given_back {
        expect(&message);
    } else {
        assert_eq!(message.from(), Peer::Client(1));
        replica.suspend_message(message);
    }
    assert!(replica.recv(Duration::from_millis(50)).unwrap().is_none(), "client 1 is held back");
    replica.resume();
    for _ in 0..100 {
        expect(&receive(&replica));
    }
    assert_eq!(replica.counters().suspended, 1);
    // The whole endpoint.
    replica.suspend();
    send(&clients[0], Peer::Replica(0), 101);
    assert!(replica.recv(Duration::from_millis(50)).unwrap().is_none());
    replica.resume();
    expect(&receive(&replica));
}

#[test]
fn a_handler_that_suspends_gets_the_message_again_when_it_is_resumed_and_not_before() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let (ready, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let got = Arc::new(Mutex::new(Vec::new()));
    replica
        .on_message({
            let (ready, tries, got) = (ready.clone(), tries.clone(), got.clone());
            move |_, message| {
                tries.fetch_add(1, Ordering::SeqCst);
                if number(message) >= 3 && !ready.load(Ordering::SeqCst) {
                    return Next::Suspend;
                }
                got.lock().unwrap().push(number(message));
                Next::Taken
            }
        })
        .unwrap();
    assert!(replica.on_message(|_, _| Next::Taken).is_err(), "there is one handler");
    let client = stage.client(1, std::slice::from_ref(&replica));
    until("it is there", || client.connected().len() == 1);
    for n in 1..=5 {
        send(&client, Peer::Replica(0), n);
    }
    until("the third was tried", || tries.load(Ordering::SeqCst) == 3);
    replica.resume();
    until("it was tried again", || tries.load(Ordering::SeqCst) == 4);
    assert_eq!(*got.lock().unwrap(), [1, 2]);
    ready.store(true, Ordering::SeqCst);
    replica.resume();
    until("all came", || got.lock().unwrap().len() == 5);
    assert_eq!(*got.lock().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(tries.load(Ordering::SeqCst), 7, "nothing behind the third came before it");
}

#[test]
fn across_cut_links_each_message_comes_once_and_in_order_both_ways() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let proxy = Proxy::to(replica.listening()[0]);
    let client = stage.client_at(1, &[(0, proxy.address())]);
    until("it is there", || client.connected().len() == 1 && replica.connected().len() == 1);
    let sent = 20_000;
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (from, to) in [(&*client as &Endpoint, Peer::Replica(0)), (&*replica, Peer::Client(1))] {
            scope.spawn(move || (1..=sent).for_each(|n| send(from, to, n)));
        }
        for to in [&*client as &Endpoint, &*replica] {
            let done = &done;
            scope.spawn(move || {
                for n in 1..=sent {
                    assert_eq!(number(&receive(to)), n);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for cut in 1..=5 {
            until("a sixth more has come", || done.load(Ordering::SeqCst) > cut * 2 * sent / 6);
            proxy.cut();
        }
    });
    let (near, far) = (client.counters(), replica.counters());
    assert_eq!((near.lost, near.missed, far.lost, far.missed), (0, 0, 0, 0), "{near:?} {far:?}");
    println!("evidence: messages={} cuts={} lost=0 twice=0", 2 * sent, proxy.cuts());
}

#[test]
fn what_was_for_an_earlier_start_of_a_peer_is_told_as_lost_and_never_comes() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let client = stage.client(1, std::slice::from_ref(&replica));
    assert_eq!(replica.event(PATIENCE), Some(Event::Up { peer: Peer::Client(1) }));
    // More than the client has room for, and less than both have.
    let queued = 300_u64;
    for _ in 0..queued {
        until("there is room for it", || replica.send_to_client(1, &[9; 20_000]) == Outcome::Queued);
    }
    let ending = client.close();
    // At once: whether anybody has noticed that it was gone or not.
    let again = stage.client(1, std::slice::from_ref(&replica));
    assert!(matches!(replica.event(PATIENCE), Some(Event::Down { peer: Peer::Client(1), .. })));
    let Some(Event::Lost { peer: Peer::Client(1), count }) = replica.event(PATIENCE) else {
        panic!("what was queued is told as lost")
    };
    // What was not acknowledged in time may have come all the same; what has not come is told.
    assert!(count <= queued && count + ending.unread >= queued, "{count} of {queued}: {ending:?}");
    assert_eq!(replica.event(PATIENCE), Some(Event::Up { peer: Peer::Client(1) }));
    send(&replica, Peer::Client(1), 77);
    assert_eq!(number(&receive(&again)), 77);
    assert!(replica.counters().lost == count && count > 0);
    // They may cross all the same, and end here.
    for _ in 0..200 {
        assert!(again.recv(Duration::from_millis(1)).unwrap().is_none(), "none is handed out");
    }
    let stale = again.counters().stale;
    println!("evidence: queued={queued} unread={} told_as_lost={count} stale={stale}", ending.unread);
}

#[test]
fn of_a_sender_that_has_started_again_the_earlier_messages_come_first() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    for start in 0..3 {
        let client = stage.client(1, std::slice::from_ref(&replica));
        until("it is there", || client.connected().len() == 1);
        for n in 1..=30 {
            send(&client, Peer::Replica(0), start * 100 + n);
        }
        until("they have come", || replica.peers().iter().any(|peer| peer.messages_in >= 30));
        assert_eq!(client.close().unacknowledged, 0);
    }
    for start in 0..3 {
        for n in 1..=30 {
            assert_eq!(number(&receive(&replica)), start * 100 + n);
        }
    }
    assert_eq!(replica.counters().stale, 0);
}

#[test]
fn who_speaks_for_somebody_else_is_not_heard() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let mut stranger = Stranger::client(9, stage.cluster(), replica.listening()[0]);
    let forged = stranger.announce(1, 7);
    let honest = stranger.announce(2, 9);
    // Announced behind the forged one, and accepted: so that one was looked at, too.
    assert_eq!(stranger.accepted(), honest, "only this one is accepted");
    stranger.publish(forged, 1, 7, b"forged");
    stranger.publish(honest, 1, 9, b"honest");
    let message = receive(&replica);
    assert_eq!((message.from(), &message[..]), (Peer::Client(9), &b"honest"[..]));
    assert!(replica.recv(Duration::from_millis(100)).unwrap().is_none());
}

#[test]
fn who_opens_many_sources_for_one_way_is_heard_on_a_few() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let mut stranger = Stranger::client(9, stage.cluster(), replica.listening()[0]);
    let sources: Vec<PortId> = (1..=40).map(|source| stranger.announce(source, 9)).collect();
    let accepted: BTreeSet<PortId> = (0..LINK_RESERVED_SOURCES_MAX).map(|_| stranger.accepted()).collect();
    assert!(sources[..LINK_RESERVED_SOURCES_MAX].iter().all(|source| accepted.contains(source)));
    // One behind the other on one connection: were it heard, it would come first.
    for source in [sources[LINK_RESERVED_SOURCES_MAX], sources[39], sources[0]] {
        stranger.publish(source, 1, 9, &source.0.to_le_bytes());
    }
    assert_eq!(receive(&replica)[..], sources[0].0.to_le_bytes());
    assert!(replica.recv(Duration::from_millis(100)).unwrap().is_none());
    // One that ends makes room, a moment later. Links have a bound for sources, so that it is asked for only now and then.
    stranger.retire(sources[1]);
    let mut late = 40;
    until("there is room", || {
        late += 1;
        stranger.announce(late, 9);
        (0..50).any(|_| stranger.accepted_meanwhile().is_some_and(|source| source.0 > 40))
    });
}

#[test]
fn a_second_endpoint_of_the_same_name_on_one_host_is_refused_with_a_reason() {
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let again = stage.builder(0).open().unwrap_err();
    assert_eq!(again.code(), busway::Code::EndpointTaken, "{again}");
    replica.close();
    stage.builder(0).open().unwrap();
}
