//! 64-byte messages as fast as they go, one sender to one receiver, nothing may be lost.
//!
//! The clock starts before the first `send` and stops when the receiver has read the last one. Every
//! number is compared, so a loss is counted and not hidden in the rate.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::{now_ns, process_cpu_ns};
use crate::medium::{Channel, Medium, Quality, Scene, Sender, await_letter, letter};
use crate::outcome::Outcome;
use crate::stage::Ordering;

/// The first side: sends all.
///
/// # Errors
/// The medium fails.
pub fn conduct<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.sender(Channel::There, Quality::Reliable)?;
    let partners = partners(scene)?;
    there.settle(1)?;
    scene.stage.start();
    let warm = scene.plan.messages / 10;
    for number in 0..warm {
        there.send(&letter(number))?;
    }
    let cpu_ns = process_cpu_ns();
    let start_ns = now_ns();
    for number in warm..scene.plan.messages {
        there.send(&letter(number))?;
    }
    let cpu_ns = process_cpu_ns() - cpu_ns;
    let count = (scene.plan.messages - warm) as f64;
    let other = partners.finish()?;
    let end_ns = scene.stage.board.taken.words[2].load(Ordering::Acquire);
    let seconds = end_ns.saturating_sub(start_ns) as f64 / 1e9;
    let own = outcome()
        .with("messages_per_s", count / seconds)
        .with("bytes_per_s", 64.0 * count / seconds)
        .with("sender_cpu_ns", cpu_ns as f64 / count);
    Ok(join(own, other))
}

/// The second side: takes all, reads each word, and counts the gaps.
///
/// # Errors
/// The medium fails, a letter is torn, or the first side falls silent.
pub fn partner<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Reliable)?;
    scene.stage.ready_and_wait()?;
    let mut own = outcome();
    let mut expected = 0;
    while expected < scene.plan.messages {
        let found = await_letter(&mut there)?;
        if found != letter(found[0]) {
            return Err(format!("letter {} is torn: {found:?}", found[0]).into());
        }
        own.lost += found[0] - expected;
        expected = found[0] + 1;
    }
    scene.stage.board.taken.words[2].store(now_ns(), Ordering::Release);
    own.threads = outcome().threads;
    Ok(own)
}
