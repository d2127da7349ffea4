//! The first message after a process starts, in both directions.
//!
//! The clock starts just before the process is started. Once the new process publishes and the old one
//! receives; once the old one publishes and the new one receives. The old one runs already and, being
//! first, holds the rendezvous.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::cell::outcome;
use crate::clock::{now_ns, pause};
use crate::medium::Scene;
use crate::outcome::{Outcome, Recorder};
use crate::partners::Partners;
use crate::stage::{Ordering, Stage};
use busway::{Publisher, Subscriber};
use std::time::Duration;

/// The first side: starts process after process.
///
/// # Errors
/// The bus fails, or a new process says nothing.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut subscriber = bus.subscriber("bench.first.up").open()?;
    let mut publisher = bus.publisher("bench.first.down").open()?;
    let (mut up, mut down) = (Recorder::new(), Recorder::new());
    for number in 1..=scene.plan.messages {
        let start_ns = now_ns();
        let partners = Partners::start(scene, 1)?;
        up.record(receive(&mut subscriber)?.saturating_sub(start_ns));
        partners.finish()?;

        // The second word tells the new process which part it plays.
        scene.stage.board.go.words[1].store(1, Ordering::Release);
        let start_ns = now_ns();
        let partners = Partners::start(scene, 1)?;
        down.record(publish(&mut publisher, scene.stage, number)?.saturating_sub(start_ns));
        partners.finish()?;
        scene.stage.board.go.words[1].store(0, Ordering::Release);
    }
    let (up, down) = (up.latency(), down.latency());
    Ok(outcome()
        .with("publisher_started_p50_ns", up.p50 as f64)
        .with("publisher_started_max_ns", up.max as f64)
        .with("subscriber_started_p50_ns", down.p50 as f64)
        .with("subscriber_started_max_ns", down.max as f64))
}

/// Sleeps for the first message, and says when it was in hand.
fn receive(subscriber: &mut Subscriber) -> Result<u64, Failure> {
    let sample = subscriber.recv_timeout(PATIENCE)?.ok_or("the new process sent nothing")?;
    core::hint::black_box(sample[0]);
    Ok(now_ns())
}

/// Sends as soon as the new subscriber is attached, and returns when it had the message in hand.
fn publish(publisher: &mut Publisher, stage: &Stage, number: u64) -> Result<u64, Failure> {
    publisher.wait_for_subscribers(1, PATIENCE)?;
    publisher.try_send(b"first")?;
    stage.wait_for("first messages", number, &stage.board.taken.words[0])?;
    Ok(stage.board.taken.words[2].load(Ordering::Acquire))
}

/// The second side: joins, sends or receives one message, and ends.
///
/// # Errors
/// The bus fails.
pub fn partner(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    if scene.stage.board.go.words[1].load(Ordering::Acquire) == 1 {
        let mut subscriber = bus.subscriber("bench.first.down").open()?;
        let at_ns = receive(&mut subscriber)?;
        scene.stage.board.taken.words[2].store(at_ns, Ordering::Release);
        scene.stage.board.taken.words[0].fetch_add(1, Ordering::AcqRel);
        return Ok(outcome());
    }
    let mut publisher = bus.publisher("bench.first.up").open()?;
    publisher.wait_for_subscribers(1, PATIENCE)?;
    publisher.try_send(b"first")?;
    // The message stays readable after this process: nothing to wait for but a moment for the reader.
    pause(Duration::from_millis(1));
    Ok(outcome())
}
