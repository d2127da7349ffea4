//! Look-up by topic while the rendezvous holds few or many registrations.
//!
//! Four processes register `size` subscriptions to topics that nobody publishes; another makes publishers
//! for one topic that has one subscriber. The time of making one holds the whole registration.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::cell::outcome;
use crate::clock::{now_ns, pause};
use crate::medium::Scene;
use crate::outcome::{Outcome, median};
use crate::partners::Partners;
use std::time::Duration;

/// Processes that share the registrations, because one process may hold 65 536.
const HOLDERS: u64 = 4;

/// The first side: times publishers of the one topic.
///
/// # Errors
/// The bus fails.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    // A partner comes first and so holds the rendezvous, with its index of all registrations: the
    // question and its answer then cross processes.
    let partners = Partners::start(scene, HOLDERS as usize)?;
    scene.stage.wait_ready(HOLDERS as usize)?;
    let bus = join(scene)?;
    let mut open = Vec::new();
    for _ in 0..scene.plan.messages {
        let start_ns = now_ns();
        let publisher = bus.publisher("bench.lookup.wanted").open()?;
        publisher.wait_for_subscribers(1, PATIENCE)?;
        open.push((now_ns() - start_ns) as f64);
    }
    scene.stage.start();
    scene.stage.stop();
    let own =
        outcome().with("publisher_open_ns", median(&open)).with("registrations", scene.plan.size as f64);
    partners.finish()?;
    Ok(own)
}

/// The second side: registers, says so, and stays.
///
/// # Errors
/// The bus fails.
pub fn partner(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut held = Vec::new();
    for number in (index as u64..scene.plan.size).step_by(HOLDERS as usize) {
        held.push(bus.subscriber(&format!("bench.lookup.other.{number}")).open()?);
    }
    if index == 0 {
        held.push(bus.subscriber("bench.lookup.wanted").open()?);
    }
    scene.stage.board.ready.words[0].fetch_add(1, crate::stage::Ordering::AcqRel);
    while !scene.stage.stopped() {
        pause(Duration::from_millis(10));
    }
    Ok(outcome())
}
