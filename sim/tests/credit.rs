//! Stories of credit and windows: large messages, slow subscribers, and who waits for whom.

use busway_sim::{Cluster, Terms};

#[test]
fn two_messages_larger_than_the_credit_do_not_stop_each_other() {
    let terms = Terms { credit_bytes: 20_000, window_bytes: 10_000, ..Terms::new(1, 2) };
    let mut c = Cluster::with(terms);
    let subscriber = c.subscribe(1, "a.>");
    for topic in ["a.x", "a.y"] {
        c.publish(0, topic, 10);
    }
    for topic in ["a.x", "a.y", "a.x", "a.y"] {
        c.publish(0, topic, 200_000);
    }
    c.run_until_quiet();
    c.assert_told(subscriber, 6, 0);
}

#[test]
fn one_slow_subscriber_does_not_stop_another_topic_of_the_link() {
    let terms = Terms { window_messages: 4, relay_slots: 2, ..Terms::new(2, 2) };
    let mut c = Cluster::with(terms);
    let slow = c.subscribe_slow(1, "a.slow", 500_000_000);
    let fast = c.subscribe(1, "a.fast");
    for _ in 0..30 {
        c.publish(0, "a.slow", 100);
    }
    for _ in 0..30 {
        c.publish(0, "a.fast", 100);
    }
    c.run_for_ms(200);
    c.assert_told(fast, 30, 0);
    c.run_until_quiet();
    c.assert_told(slow, 30, 0);
}

#[test]
fn a_message_of_many_parts_crosses_a_narrow_window_whole() {
    let terms = Terms { credit_bytes: 20_000, window_bytes: 10_000, read_max: 37, ..Terms::new(3, 2) };
    for direct in [false, true] {
        let mut c = Cluster::with(Terms { direct, ..terms.clone() });
        let subscriber = c.subscribe(1, "a");
        for size in [0, 1, 16_383, 16_384, 65_535, 65_536, 65_537, 400_000] {
            c.publish(0, "a", size);
        }
        c.run_until_quiet();
        c.assert_told(subscriber, 8, 0);
    }
}
