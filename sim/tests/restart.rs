//! Stories of nodes that die and come back while programs live on.

use busway_sim::{Cluster, Terms};

#[test]
fn a_publisher_goes_on_when_its_node_died_before_it_heard_that_all_had_come() {
    let mut c = Cluster::new(1, 2);
    let subscriber = c.subscribe(1, "a");
    c.publish(0, "a", 10);
    c.run_for_ms(100);
    // The other host has all 64 that the ring holds; this host does not hear of it.
    c.cut(1, 0);
    for _ in 0..64 {
        c.publish(0, "a", 10);
    }
    c.run_for_ms(500);
    c.kill(0);
    c.heal();
    c.restart(0);
    c.run_until_linked();
    c.publish(0, "a", 10);
    c.run_until_quiet();
    c.assert_told(subscriber, 66, 0);
}

#[test]
fn nothing_reliable_is_lost_while_the_far_node_dies_twice() {
    let mut c = Cluster::new(2, 3);
    let subscriber = c.subscribe(2, "a");
    for round in 0..3 {
        for _ in 0..40 {
            c.publish(0, "a", 5_000);
        }
        c.run_for_ms(1);
        if round < 2 {
            c.kill(2);
            c.run_for_ms(300);
            c.restart(2);
        }
    }
    c.run_until_quiet();
    c.assert_told(subscriber, 120, 0);
}

#[test]
fn nothing_reliable_is_lost_while_the_near_node_dies_twice() {
    let mut c = Cluster::new(3, 3);
    let subscriber = c.subscribe(2, "a");
    for round in 0..3 {
        for _ in 0..40 {
            c.publish(0, "a", 5_000);
        }
        c.run_for_ms(1);
        if round < 2 {
            c.kill(0);
            c.run_for_ms(300);
            c.restart(0);
        }
    }
    c.run_until_quiet();
    c.assert_told(subscriber, 120, 0);
}

#[test]
fn nothing_reliable_is_lost_when_both_nodes_die_at_once_with_messages_without_room() {
    let mut c = Cluster::with(Terms { relay_slots: 4, window_messages: 16, ..Terms::new(4, 2) });
    let subscriber = c.subscribe_slow(1, "a", 50_000_000);
    for _ in 0..40 {
        c.publish(0, "a", 100);
    }
    c.run_for_ms(20);
    c.kill(1);
    c.kill(0);
    c.run_for_ms(100);
    c.restart(0);
    c.restart(1);
    c.run_until_quiet();
    c.assert_told(subscriber, 40, 0);
}

#[test]
fn what_a_lossy_subscriber_missed_is_told_with_its_cause() {
    let mut c = Cluster::new(5, 2);
    let subscriber = c.subscribe(1, "lossy.a");
    for _ in 0..20 {
        c.publish(0, "lossy.a", 100);
    }
    c.run_until_quiet();
    c.partition(&[0], &[1]);
    // More than the ring holds.
    for _ in 0..100 {
        c.publish(0, "lossy.a", 100);
    }
    c.run_for_ms(6_000);
    c.heal();
    c.publish(0, "lossy.a", 100);
    c.run_until_quiet();
    let (messages, lost) = c.world.checks.told_to(subscriber);
    assert_eq!(messages + lost, 121, "each message is received or told as lost");
    assert!(lost >= 36, "the ring holds 64 of 100: {lost}");
}
