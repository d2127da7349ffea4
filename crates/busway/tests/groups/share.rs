//! Each message is done by exactly one process, and equal ones do equal parts.

use crate::part::{Directory, PATIENCE, Part, Role, TOPIC, push};

#[test]
fn of_a_million_messages_each_is_done_by_exactly_one_of_eight_processes() {
    const MESSAGES: u64 = 1_000_000;
    let directory = Directory::new();
    let bus = directory.join("pusher");
    let parts: Vec<Part> = (0..8).map(|number| Part::start(&directory, Role::Pull, number)).collect();
    let mut pusher = bus.pusher(TOPIC).open().unwrap();
    assert_eq!(pusher.wait_for_pullers(8, PATIENCE).unwrap(), 8);
    push(&mut pusher, 1, MESSAGES);
    pusher.flush(PATIENCE).unwrap();
    let shares: Vec<u64> = parts.into_iter().map(Part::end).collect();
    let effects = directory.effects();
    assert_eq!(effects.len() as u64, MESSAGES);
    assert!(effects.iter().zip(1..).all(|(effect, number)| *effect == number), "each once");
    let account = pusher.account();
    assert_eq!((account.sent, account.delivered, account.in_flight), (MESSAGES, MESSAGES, 0), "{account:?}");
    println!("evidence: messages={MESSAGES} processes=8 shares={shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}
