//! Stories of those who come and go: publishers, subscribers, nodes that are put down in order.

use busway_sim::{Cluster, Fault, Pair};

#[test]
fn all_that_a_publisher_sent_before_it_left_arrives() {
    let mut c = Cluster::new(1, 2);
    let subscriber = c.subscribe(1, "a");
    let source = c.publisher(0, "a");
    for _ in 0..30 {
        c.publish(0, "a", 2_000);
    }
    c.world.leave(source);
    c.strike(Fault::Reset(Pair { from: 0, to: 1 }), 0);
    c.run_until_quiet();
    c.assert_told(subscriber, 30, 0);
}

#[test]
fn who_wants_nothing_any_more_gets_nothing_and_nobody_waits_for_him() {
    let mut c = Cluster::new(2, 2);
    let first = c.subscribe(1, "a");
    c.publish(0, "a", 10);
    c.run_until_quiet();
    c.world.unsubscribe(1, first);
    c.run_for_ms(500);
    // More than the ring holds: nobody gates it.
    for _ in 0..200 {
        c.publish(0, "a", 10);
    }
    c.assert_told(first, 1, 0);
    let second = c.subscribe(1, "a");
    c.publish(0, "a", 10);
    c.run_until_quiet();
    c.assert_told(second, 1, 0);
}

#[test]
fn a_subscriber_that_leaves_and_comes_back_at_once_is_served_from_then_on() {
    for pause_ms in [0, 1, 3, 20] {
        let mut c = Cluster::new(3, 2);
        let first = c.subscribe(1, "a");
        for _ in 0..20 {
            c.publish(0, "a", 3_000);
        }
        c.world.unsubscribe(1, first);
        if pause_ms > 0 {
            c.run_for_ms(pause_ms);
        }
        let second = c.subscribe(1, "a");
        c.run_for_ms(1_000);
        let before = c.world.checks.told_to(second).0;
        for _ in 0..20 {
            c.publish(0, "a", 3_000);
        }
        c.run_until_quiet();
        c.assert_told(second, before + 20, 0);
    }
}

#[test]
fn a_node_that_is_put_down_in_order_costs_nobody_a_message() {
    let mut c = Cluster::new(4, 3);
    let subscriber = c.subscribe(2, "a");
    let lossy = c.subscribe(2, "lossy.a");
    for _ in 0..40 {
        c.publish(0, "a", 1_000);
        c.publish(1, "lossy.a", 1_000);
    }
    c.strike(Fault::Drain(2), 200);
    c.run_until_quiet();
    c.assert_told(subscriber, 40, 0);
    c.assert_told(lossy, 40, 0);
}
