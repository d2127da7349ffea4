//! Passive wake-up (A10): who sleeps is woken by the message and not by a timer.

use crate::child::{Child, Place, number, until};

const ROUNDS: usize = 200;

fn asleep(child: &Child, tid: &str) -> bool {
    child.proc(&format!("task/{tid}/stat")).contains(") S ")
        && child.proc(&format!("task/{tid}/wchan")).contains("futex")
}

/// How often the thread has given its core up because it waited.
fn gave_up(child: &Child, tid: &str) -> u64 {
    let status = child.proc(&format!("task/{tid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    number(line.expect("the kernel counts them"))
}

#[test]
fn a_sleeper_is_woken_by_the_message() {
    let place = Place::new();
    let mut subscriber = place.member("sleeper");
    let mut publisher = place.member("publisher");
    subscriber.ask("sub topic block");
    publisher.ask("pub topic 64 1000");
    assert_eq!(publisher.ask("wait 1"), "1");
    let tid = subscriber.ask("tid");
    assert_eq!(subscriber.ask(&format!("wake {ROUNDS}")), "begin");
    let mut micros = Vec::new();
    let mut before = 0;
    for round in 0..ROUNDS {
        until("the subscriber sleeps in the kernel", || asleep(&subscriber, &tid));
        if round == 0 {
            before = gave_up(&subscriber, &tid);
        }
        publisher.ask("stamp");
        micros.push(number(&subscriber.answer()) / 1000);
    }
    assert_eq!(subscriber.answer(), "woken");
    let switches = gave_up(&subscriber, &tid) - before;
    micros.sort_unstable();
    let at = |share: usize| micros[(ROUNDS * share / 100).min(ROUNDS - 1)];
    // By the timer it would be half a second on the average, and a second at worst. The machine may be away for some
    // hundred milliseconds, but not every second time.
    assert!(at(50) < 20_000, "half of the wake-ups took {} us and more", at(50));
    assert!(at(95) < 500_000, "one in twenty took {} us and more", at(95));
    // One sleep a message, and the odd one on a lock or a pipe.
    assert!(switches <= 4 * ROUNDS as u64, "{switches} times asleep for {ROUNDS} messages");
    println!(
        "evidence: wakes={ROUNDS} p50_us={} p90_us={} p99_us={} max_us={} voluntary_switches={switches}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}
