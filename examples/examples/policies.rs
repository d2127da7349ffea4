//! What happens when a subscriber is slow: each subscriber asks for a policy, and nothing is lost unnoticed.
//!
//! Ten messages are sent to each before it reads the first. `cargo run -p busway-examples --example policies`

use std::time::Duration;

use busway::{Bus, Cause, Error, Policy, Publisher, RecvError, SendError, Subscriber};

const MESSAGES: u32 = 10;

fn main() -> Result<(), Error> {
    let bus = Bus::open("example-policies")?;

    // The newest three; the seven before them are counted.
    let (mut publisher, mut slow) = pair(&bus, "drop.oldest", Policy::DropOldest { depth: 3 })?;
    send_all(&mut publisher)?;
    assert_eq!((numbers(&mut slow)?, lost(&mut slow)), (vec![8, 9, 10], vec![(Cause::Lapped, 7)]));

    // The newest alone: a state, of which only the present counts.
    let (mut publisher, mut slow) = pair(&bus, "keep.latest", Policy::KeepLatest)?;
    send_all(&mut publisher)?;
    assert_eq!((numbers(&mut slow)?, lost(&mut slow)), (vec![10], vec![(Cause::Conflated, 9)]));

    // The oldest three: a queue that is full takes no more.
    let (mut publisher, mut slow) = pair(&bus, "drop.newest", Policy::DropNewest { depth: 3 })?;
    send_all(&mut publisher)?;
    assert_eq!((numbers(&mut slow)?, lost(&mut slow)), (vec![1, 2, 3], vec![(Cause::DropNewest, 7)]));

    // None is lost. The ring takes 32; then the publisher waits, as long as it is ready to.
    let (mut publisher, mut slow) = pair(&bus, "block", Policy::Block)?;
    for number in 1..=32_u32 {
        publisher.send_json(&number)?;
    }
    match publisher.send_timeout(b"33", Duration::from_millis(10)) {
        Err(SendError::Timeout(behind)) => eprintln!("block: the time was up while waiting for {behind}"),
        other => panic!("the ring is full: {other:?}"),
    }
    assert_eq!(numbers(&mut slow)?, (1..=32).collect::<Vec<u32>>());
    publisher.send(b"33")?;
    assert_eq!((numbers(&mut slow)?, lost(&mut slow)), (vec![33], vec![]));

    // None is lost, and nobody waits: the publisher is told at once.
    let (mut publisher, mut slow) = pair(&bus, "fail", Policy::Fail)?;
    let refused = (1..=33_u32).map(|number| publisher.send_json(&number)).find_map(Result::err);
    assert!(matches!(refused, Some(SendError::Full(_))), "the thirty-third is refused: {refused:?}");
    assert_eq!(numbers(&mut slow)?.len(), 32);

    // Whoever cannot keep up is shut out, and told.
    let (mut publisher, mut slow) = pair(&bus, "evict", Policy::Evict)?;
    let evicted: u32 =
        (1..=40_u32).map(|number| publisher.send_json(&number).map_or(0, |sent| sent.evicted)).sum();
    let told = loop {
        if let Err(error) = slow.recv() {
            break error;
        }
    };
    assert!(evicted == 1 && matches!(told, RecvError::Evicted(_)), "{evicted} evicted, told {told:?}");
    eprintln!("evict: {told}");
    Ok(())
}

/// A publisher with a ring of 32 messages, and a subscriber that asks for a policy.
fn pair(bus: &Bus, topic: &str, policy: Policy) -> Result<(Publisher, Subscriber), Error> {
    let subscriber = bus.subscriber(topic).policy(policy).open()?;
    let publisher = bus.publisher(topic).slots_max(32).open()?;
    publisher.wait_for_subscribers(1, Duration::from_secs(5))?;
    Ok((publisher, subscriber))
}

fn send_all(publisher: &mut Publisher) -> Result<(), Error> {
    for number in 1..=MESSAGES {
        publisher.send_json(&number)?;
    }
    Ok(())
}

/// What is there to be read now: at least one message.
fn numbers(subscriber: &mut Subscriber) -> Result<Vec<u32>, Error> {
    let mut numbers = vec![subscriber.recv()?.json()?];
    while let Some(sample) = subscriber.try_recv()? {
        numbers.push(sample.json()?);
    }
    Ok(numbers)
}

/// What was missed, by cause.
fn lost(subscriber: &mut Subscriber) -> Vec<(Cause, u64)> {
    subscriber.losses().into_iter().map(|loss| (loss.cause, loss.count)).collect()
}
