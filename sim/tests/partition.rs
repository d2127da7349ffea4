//! Stories of networks that do not carry, or not both ways.

use busway_sim::{Cluster, Fault, Pair};

#[test]
fn partition_heals_and_nothing_is_lost() {
    let mut c = Cluster::new(1, 3);
    let subscriber = c.subscribe(2, "a");
    c.publish(0, "a", 1);
    c.partition(&[0, 1], &[2]);
    c.publish(0, "a", 1);
    c.run_for_ms(10_000);
    c.publish(0, "a", 1);
    c.heal();
    c.run_until_quiet();
    c.assert_told(subscriber, 3, 0);
}

#[test]
fn a_network_that_carries_one_way_only_is_noticed_and_healed() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut c = Cluster::new(2, 2);
        let subscriber = c.subscribe(1, "a");
        c.cut(from, to);
        for _ in 0..20 {
            c.publish(0, "a", 2_000);
        }
        c.run_for_ms(8_000);
        assert!(!c.world.is_linked(0, 1), "who hears nothing for 4 s gives the link up");
        c.heal();
        c.run_until_quiet();
        c.assert_told(subscriber, 20, 0);
    }
}

#[test]
fn a_connection_that_swallows_everything_is_replaced() {
    let mut c = Cluster::new(3, 2);
    let subscriber = c.subscribe(1, "a");
    c.strike(Fault::Swallow(Pair { from: 0, to: 1 }), 0);
    for _ in 0..20 {
        c.publish(0, "a", 2_000);
    }
    c.run_for_ms(7_000);
    c.run_until_quiet();
    c.assert_told(subscriber, 20, 0);
}

#[test]
fn a_stream_that_is_cut_flipped_or_reset_in_a_large_message_loses_nothing() {
    let pair = Pair { from: 0, to: 1 };
    for fault in [Fault::Truncate(pair), Fault::Corrupt(pair), Fault::Reset(pair), Fault::HalfClose(pair)] {
        let mut c = Cluster::new(4, 2);
        let subscriber = c.subscribe(1, "a");
        for _ in 0..4 {
            c.publish(0, "a", 300_000);
        }
        c.run_for_ms(3);
        c.strike(fault, 0);
        c.publish(0, "a", 300_000);
        c.run_until_quiet();
        c.assert_told(subscriber, 5, 0);
    }
}

#[test]
fn a_node_that_stands_still_is_given_up_and_comes_back() {
    let mut c = Cluster::new(5, 3);
    let subscriber = c.subscribe(2, "a");
    c.strike(Fault::Stop(2), 9_000);
    c.publish(0, "a", 10);
    c.run_for_ms(6_000);
    assert!(!c.world.is_linked(0, 2));
    assert!(c.world.is_linked(0, 1), "the others do not notice");
    c.run_until_quiet();
    c.assert_told(subscriber, 1, 0);
}

#[test]
fn a_clock_that_leaps_costs_a_link_at_most() {
    let mut c = Cluster::new(6, 3);
    let subscriber = c.subscribe(2, "a");
    for _ in 0..10 {
        c.strike(Fault::ClockJump(0), 60_000);
        c.strike(Fault::ClockJump(2), 60_000);
        c.publish(0, "a", 10);
        c.run_for_ms(100);
    }
    c.run_until_quiet();
    c.assert_told(subscriber, 10, 0);
}

#[test]
fn a_topic_that_nobody_wants_abroad_does_not_cross() {
    let mut c = Cluster::new(7, 3);
    let subscriber = c.subscribe(1, "a");
    let others = c.subscribe(1, "a");
    c.publish(0, "b", 10);
    c.publish(0, "a", 10);
    c.run_until_quiet();
    c.assert_told(subscriber, 1, 0);
    c.assert_told(others, 1, 0);
    assert_eq!(c.world.relays_opened(2), 0, "host 2 wants nothing");
    assert_eq!(c.world.relays_opened(1), 1, "what two want crosses once");
}
