//! Pullers and pushers that are killed.

use crate::part::{Directory, PATIENCE, Part, Role, TOPIC, push};

const MESSAGES: u64 = 20_000;
const KILLS: u64 = 4;

/// Pushes all, and kills a puller and starts another after each part of it.
fn under_fire(role: Role) -> (Directory, busway::Account) {
    let directory = Directory::new();
    let bus = directory.join("pusher");
    let mut pusher = bus.pusher(TOPIC).open().unwrap();
    let mut parts: Vec<Part> = (0..4).map(|number| Part::start(&directory, role, number)).collect();
    assert_eq!(pusher.wait_for_pullers(4, PATIENCE).unwrap(), 4);
    for kill in 0..KILLS {
        let part = MESSAGES / (KILLS + 1);
        push(&mut pusher, kill * part + 1, (kill + 1) * part);
        parts.remove(0).kill();
        parts.push(Part::start(&directory, role, 4 + kill as usize));
    }
    push(&mut pusher, KILLS * (MESSAGES / (KILLS + 1)) + 1, MESSAGES);
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    let done: u64 = parts.into_iter().map(Part::end).sum();
    assert!(done > 0);
    (directory, account)
}

#[test]
fn what_killed_pullers_had_is_done_by_another_where_it_is_acknowledged() {
    let (directory, account) = under_fire(Role::PullAcknowledged);
    let mut effects = directory.effects();
    let all = effects.len() as u64;
    effects.dedup();
    assert!(effects.iter().zip(1..).all(|(effect, number)| *effect == number), "a message was not done");
    assert_eq!(effects.len() as u64, MESSAGES);
    // Each had one task at a time: killed between its effect and its word, that one is done again.
    assert!(all <= MESSAGES + KILLS, "{all} effects of {MESSAGES} messages");
    assert_eq!((account.sent, account.delivered, account.in_flight), (MESSAGES, MESSAGES, 0), "{account:?}");
    println!("evidence: messages={MESSAGES} kills={KILLS} done_twice={}", all - MESSAGES);
}

#[test]
fn what_killed_pullers_had_is_done_once_or_counted_where_nothing_is_acknowledged() {
    let (directory, account) = under_fire(Role::PullAtOnce);
    let mut effects = directory.effects();
    let all = effects.len() as u64;
    effects.dedup();
    assert_eq!(effects.len() as u64, all, "a message was done twice");
    let died = account.dropped.get("puller_died").copied().unwrap_or(0);
    assert_eq!(account.delivered + died, MESSAGES, "{account:?}");
    assert!(died <= KILLS, "each had one task at a time: {account:?}");
    // One that was killed between its effect and its word has done it, and is counted as dead.
    assert!((account.delivered..=account.delivered + died).contains(&all), "{all} effects, {account:?}");
    println!("evidence: messages={MESSAGES} kills={KILLS} puller_died={died}");
}

#[test]
fn what_a_killed_pusher_left_is_done_to_the_end() {
    let directory = Directory::new();
    let _bus = directory.join("holder");
    let pullers = [0, 1].map(|number| Part::start(&directory, Role::PullAcknowledged, number));
    let pusher = Part::start(&directory, Role::Push, 9);
    pusher.kill();
    let done: u64 = pullers.into_iter().map(Part::end).sum();
    assert_eq!(done, 500);
    assert_eq!(directory.effects(), (1..=500).collect::<Vec<u64>>());
    println!("evidence: messages=500 done={done}");
}
