//! Stories of those who come: clients by id, strangers, who is refused, who gives way, who comes back.

use busway_sim::day::Day;
use busway_sim::{Budget, Cluster, Fault, Pair, Planned, Terms};

#[test]
fn nodes_and_clients_exchange_messages_both_ways() {
    let mut c = Cluster::with(Terms { clients: 3, ..Terms::new(1, 3) });
    let readers: Vec<u64> = (0..6).map(|host| c.subscribe(host, "a")).collect();
    for host in 0..6 {
        c.publish(host, "a", 100);
    }
    c.run_until_quiet();
    // A node hears nodes and clients, a client nodes; what somebody sends itself does not cross.
    for (host, reader) in readers.into_iter().enumerate() {
        c.assert_told(reader, if host < 3 { 5 } else { 3 }, 0);
    }
}

#[test]
fn a_client_that_is_started_again_under_its_id_loses_nothing_reliable() {
    let mut c = Cluster::with(Terms { clients: 1, ..Terms::new(2, 3) });
    let (here, there) = (c.subscribe(3, "a"), c.subscribe(1, "b"));
    for _ in 0..3 {
        for _ in 0..20 {
            c.publish(1, "a", 3_000);
            c.publish(3, "b", 3_000);
        }
        c.run_for_ms(1);
        c.kill(3);
        c.run_for_ms(300);
        c.restart(3);
    }
    c.run_until_quiet();
    c.assert_told(here, 60, 0);
    c.assert_told(there, 60, 0);
}

#[test]
fn where_there_is_no_room_for_all_clients_the_idlest_gives_way_and_comes_back_later() {
    let terms = Terms { clients: 3, clients_max: 2, ..Terms::new(3, 1) };
    let mut c = Cluster::with(terms);
    c.run_for_ms(60_000);
    let counters = c.world.counters(0);
    // Who is told to wait one to five seconds, and as long again at most, does not storm: 60 s, three clients.
    assert!((6..=120).contains(&counters.evicted), "{counters:?}");
    assert_eq!(c.world.checks.evicted, counters.evicted, "each of them had a link");
}

#[test]
fn a_busy_client_keeps_its_place_while_idle_ones_come_and_go() {
    let terms = Terms { clients: 3, clients_max: 2, ..Terms::new(4, 1) };
    let mut c = Cluster::with(terms);
    c.run_for_ms(100);
    let subscriber = c.subscribe(0, "lossy.a");
    c.run_for_ms(100);
    let linked = (1..4).find(|&client| c.world.is_linked(0, client)).expect("two of three have a place");
    // The row comes with the first publisher.
    let _ = c.publisher(linked, "lossy.a");
    c.run_for_ms(100);
    for _ in 0..600 {
        c.publish(linked, "lossy.a", 10);
        c.run_for_ms(50);
        assert!(c.world.is_linked(0, linked), "at {:?}", c.world.now());
    }
    c.run_for_ms(100);
    c.assert_told(subscriber, 600, 0);
}

#[test]
fn strangers_keep_no_node_out() {
    let mut c = Cluster::with(Terms { unidentified_max: 4, ..Terms::new(5, 3) });
    let subscriber = c.subscribe(2, "a");
    for _ in 0..10 {
        let (fault, at) = (Fault::Strangers(2), c.world.now());
        c.world.plan(Planned { fault, at, phase: None, duration_ms: 3_000, amount: 59 });
        c.strike(Fault::Reset(Pair { from: 0, to: 2 }), 0);
        c.publish(0, "a", 10);
        c.run_for_ms(4_000);
    }
    c.run_until_quiet();
    c.assert_told(subscriber, 10, 0);
    assert!(c.world.counters(2).refused + c.world.counters(2).timeouts > 0, "the strangers were let in");
}

#[test]
fn a_node_that_goes_down_and_comes_back_at_once_is_linked_within_two_seconds() {
    for seed in 0..20 {
        let mut c = Cluster::new(seed, 3);
        // Who dials while it goes down is refused, and asked to wait for seconds.
        c.strike(Fault::Drain(2), 10);
        c.run_for_ms(3_010 + 2_000);
        assert!(c.world.is_linked(0, 2) && c.world.is_linked(1, 2), "seed {seed}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn nodes_with_many_clients_that_come_and_go_lose_nothing_and_each_budget_holds() {
    let (minutes, clients) = (40, 10);
    let mut passed = 0;
    let outcome = Day { seed: 1, minutes, clients }.pass(|progress| passed = progress.minutes);
    assert_eq!(outcome.violation, None);
    assert_eq!(passed, minutes);
    assert_eq!(outcome.messages, clients as u64 * minutes * 60);
    // What a client sends before it has found its home is for nobody yet.
    assert!(outcome.delivered + 2 * clients as u64 >= outcome.messages, "{outcome:?}");
    for budget in Budget::ALL {
        let peak = outcome.peaks.iter().find(|peak| peak.0 == budget);
        let (_, held, bound) = peak.expect("each budget was needed");
        assert!(0 < *held && held <= bound, "{} of {bound} {}", held, budget.name());
    }
    println!(
        "evidence: minutes={minutes} clients={clients} faults={} messages={}",
        outcome.faults, outcome.messages
    );
}
