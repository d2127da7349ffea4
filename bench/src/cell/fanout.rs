//! What a publish costs the sending thread while many processes are attached.
//!
//! The receivers poll every 10 ms and never sleep on the medium's own wake-up; they share the second
//! processor. The sender sends without a pause, so a receiver that polls so rarely is lapped: that is
//! the case in question, and the loss is printed. The figure is processor time of the sending thread,
//! which the other processes of a busy machine cannot lengthen by taking the processor away.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::{now_ns, pause, thread_cpu_ns};
use crate::medium::{Channel, Medium, Quality, Receiver, Scene, Sender, letter};
use crate::outcome::{Outcome, median};
use crate::stage::Ordering;
use std::time::Duration;

/// Messages between two looks at the clocks.
const BLOCK: u64 = 1000;

/// How often a receiver looks.
const POLL: Duration = Duration::from_millis(10);

/// How many messages a receiver takes in one look: enough to read, too few to follow a sender at full speed.
const TAKE_MAX: u64 = 64;

/// The first side: sends without a pause for `messages` milliseconds' worth of blocks.
///
/// # Errors
/// The medium fails.
pub fn conduct<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.sender(Channel::There, Quality::Lossy)?;
    let partners = partners(scene)?;
    there.settle(scene.plan.receivers)?;
    scene.stage.start();
    let mut number = 0;
    let mut block = || -> Result<(), Failure> {
        for _ in 0..BLOCK {
            there.send(&letter(number))?;
            number += 1;
        }
        Ok(())
    };
    let warm_until_ns = now_ns() + 100_000_000;
    while now_ns() < warm_until_ns {
        block()?;
    }
    let (start_cpu_ns, start_ns) = (thread_cpu_ns(), now_ns());
    let until_ns = start_ns + scene.plan.messages * 1_000_000;
    let mut costs = Vec::new();
    let mut before_ns = start_cpu_ns;
    while now_ns() < until_ns {
        block()?;
        let now = thread_cpu_ns();
        costs.push((now - before_ns) as f64 / BLOCK as f64);
        before_ns = now;
    }
    let sent = (costs.len() as u64 * BLOCK) as f64;
    let (cpu_ns, wall_ns) = (before_ns - start_cpu_ns, now_ns() - start_ns);
    scene.stage.stop();
    let other = partners.finish()?;
    let taken = scene.stage.board.taken.words[0].load(Ordering::Acquire);
    let own = outcome()
        .with("publish_cpu_ns", cpu_ns as f64 / sent)
        .with("publish_cpu_block_median_ns", median(&costs))
        .with("publish_wall_ns", wall_ns as f64 / sent)
        .with("sent", number as f64)
        .with("taken_each", taken as f64 / scene.plan.receivers as f64);
    let mut joined = join(own, other);
    joined.lost = (number * scene.plan.receivers as u64).saturating_sub(taken);
    Ok(joined)
}

/// The second side: looks every 10 ms, and reads what it finds.
///
/// # Errors
/// The medium fails.
pub fn partner<M: Medium>(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Lossy)?;
    scene.stage.ready_and_wait()?;
    // Spread over the period: receivers that all look at the same moment would queue for the processor.
    pause(POLL.mul_f64((index % 64) as f64 / 64.0));
    let mut taken = 0;
    let mut sum = 0_u64;
    while !scene.stage.stopped() {
        for _ in 0..TAKE_MAX {
            let Some(letter) = there.take()? else { break };
            taken += 1;
            sum = letter.iter().fold(sum, |sum, word| sum.wrapping_add(*word));
        }
        pause(POLL);
    }
    core::hint::black_box(sum);
    scene.stage.board.taken.words[0].fetch_add(taken, Ordering::AcqRel);
    Ok(outcome())
}
