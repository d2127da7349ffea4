//! Pullers and pushers that are killed.
//!
//! What is done is what stands in the files of the pullers. `cargo xtask soak fire` pushes `BUSWAY_FIRE_TASKS`, with a hundred times the work
//! in each, so that it is under fire for minutes.

use busway_shm::clock::monotonic_ns;

use crate::part::{Directory, PATIENCE, Part, Role, TOPIC, push};

const TASKS: u64 = 100_000;
const PULLERS: usize = 8;
/// Kills beside those of each second: one after each part of the tasks, so that a short run has some.
const PARTS: u64 = 20;

/// What was done under fire.
struct Fire {
    tasks: u64,
    kills: u64,
    /// All effects, in order.
    effects: Vec<u64>,
    account: busway::Account,
}

/// Pushes all, and kills a puller each second and after each part of the tasks, and starts another in its place.
fn under_fire(role: Role) -> Fire {
    let tasks = std::env::var("BUSWAY_FIRE_TASKS").map_or(TASKS, |tasks| tasks.parse().unwrap());
    let directory = Directory::new();
    let bus = directory.join("pusher");
    let mut pusher = bus.pusher(TOPIC).open().unwrap();
    let mut parts: Vec<Part> = (0..PULLERS).map(|number| Part::start(&directory, role, number)).collect();
    assert_eq!(pusher.wait_for_pullers(PULLERS, PATIENCE).unwrap(), PULLERS);
    let (mut kills, mut begun_ns) = (0, monotonic_ns());
    for task in 1..=tasks {
        push(&mut pusher, task, task);
        let second = monotonic_ns() - begun_ns >= 1_000_000_000;
        if second || task % (tasks / PARTS) == 0 && task < tasks {
            parts.remove(0).kill();
            parts.push(Part::start(&directory, role, PULLERS + kills as usize));
            (kills, begun_ns) = (kills + 1, monotonic_ns());
        }
    }
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    let done: u64 = parts.into_iter().map(Part::end).sum();
    assert!(done > 0 && kills >= PARTS - 1);
    Fire { tasks, kills, effects: directory.effects(), account }
}

#[test]
fn what_killed_pullers_had_is_done_by_another_where_it_is_acknowledged() {
    let Fire { tasks, kills, mut effects, account } = under_fire(Role::PullAcknowledged);
    let all = effects.len() as u64;
    effects.dedup();
    assert!(effects.iter().zip(1..).all(|(effect, number)| *effect == number), "a task was not done");
    assert_eq!(effects.len() as u64, tasks);
    // Each had one task at a time: killed between its effect and its word, that one is done again.
    assert!(all <= tasks + kills, "{all} effects of {tasks} tasks");
    assert_eq!((account.sent, account.delivered, account.in_flight), (tasks, tasks, 0), "{account:?}");
    println!("evidence: tasks={tasks} kills={kills} done_twice={}", all - tasks);
}

#[test]
fn what_killed_pullers_had_is_done_once_or_counted_where_nothing_is_acknowledged() {
    let Fire { tasks, kills, mut effects, account } = under_fire(Role::PullAtOnce);
    let all = effects.len() as u64;
    effects.dedup();
    assert_eq!(effects.len() as u64, all, "a task was done twice");
    let died = account.dropped.get("puller_died").copied().unwrap_or(0);
    assert_eq!(account.delivered + died, tasks, "{account:?}");
    assert!(died <= kills, "each had one task at a time: {account:?}");
    // One that was killed between its effect and its word has done it, and is counted as dead.
    assert!((account.delivered..=account.delivered + died).contains(&all), "{all} effects, {account:?}");
    println!("evidence: tasks={tasks} kills={kills} puller_died={died} not_done={}", tasks - all);
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
