//! How soon a death is seen: a publisher waits for a reliable subscriber, and the subscriber is killed.
//!
//! The ring is full and the main thread waits in `send`; a second thread kills the subscriber and stamps
//! just before. The cap on waiting is far longer than the measurement, so only the death can free it.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::cell::outcome;
use crate::clock::{now_ns, pause};
use crate::medium::Scene;
use crate::outcome::{Outcome, Recorder};
use crate::partners::Partners;
use crate::stage::{Ordering, Word};
use busway::{Policy, Publisher, SendError};
use std::time::Duration;

/// How long the publisher has been waiting when the kill comes: long enough to sleep.
const BEFORE: Duration = Duration::from_millis(20);

/// The first side: fills the ring, waits in `send`, kills.
///
/// # Errors
/// The bus fails, or a death is not seen.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut recorder = Recorder::new();
    for kill in 1..=scene.plan.messages {
        // A publisher of its own each time: the death of the last subscriber leaves no trace in it.
        let mut publisher = bus.publisher("bench.death").slots_max(64).max_wait(PATIENCE).open()?;
        let mut partners = Partners::none();
        partners.add(scene, 0)?;
        scene.stage.wait_for("subscribers ready", kill, &scene.stage.board.ready.words[0])?;
        publisher.wait_for_subscribers(1, PATIENCE)?;
        fill(&mut publisher)?;
        let killed_ns = Word::new(0);
        let freed_ns = std::thread::scope(|scope| -> Result<u64, Failure> {
            let killer = scope.spawn(|| {
                pause(BEFORE);
                killed_ns.store(now_ns(), Ordering::Release);
                partners.kill_last().map_err(|cause| cause.to_string())
            });
            let sent = publisher.send_timeout(&[7; 64], PATIENCE);
            let freed_ns = now_ns();
            killer.join().map_err(|_| "the killing thread panicked")??;
            sent?;
            Ok(freed_ns)
        })?;
        recorder.record(freed_ns.saturating_sub(killed_ns.load(Ordering::Acquire)));
    }
    let mut own = outcome();
    own.latency = Some(recorder.latency());
    Ok(own)
}

/// Sends until the ring is full.
fn fill(publisher: &mut Publisher) -> Result<(), Failure> {
    loop {
        match publisher.try_send(&[7; 64]) {
            Ok(_) => {}
            Err(SendError::Full { .. }) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
    }
}

/// The second side: subscribes, takes nothing, and waits to be killed.
///
/// # Errors
/// The bus fails.
pub fn partner(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let _subscriber = bus.subscriber("bench.death").policy(Policy::Block).open()?;
    scene.stage.board.ready.words[0].fetch_add(1, Ordering::AcqRel);
    loop {
        pause(Duration::from_secs(1));
    }
}
