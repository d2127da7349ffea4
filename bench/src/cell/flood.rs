//! Payloads of one size as fast as they go, one sender to one receiver that sleeps when there is nothing.
//!
//! The clock starts before the first `send` and stops when the receiver has read the last one. Every payload is written
//! whole and read whole; the number in each is compared, so a loss is counted and not hidden in the rate.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::{now_ns, process_cpu_ns};
use crate::medium::{Channel, Medium, Quality, Receiver, Scene, Sender};
use crate::outcome::Outcome;
use crate::stage::Ordering;
use std::time::Duration;

/// Nothing for so long: the rest is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Writes all of a payload: its number, again and again.
#[inline]
fn fill(payload: &mut [u8], number: u64) {
    for word in payload.as_chunks_mut::<8>().0 {
        *word = number.to_le_bytes();
    }
}

/// Reads all of a payload: its number, if all of its words are the same.
#[inline]
fn number_of(payload: &[u8]) -> Option<u64> {
    let words = payload.as_chunks::<8>().0;
    let first = u64::from_le_bytes(*words.first()?);
    let differing = words.iter().fold(0, |sum, word| sum | (u64::from_le_bytes(*word) ^ first));
    (differing == 0).then_some(first)
}

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
        there.send_filled(|payload| fill(payload, number))?;
    }
    let cpu_ns = process_cpu_ns();
    let start_ns = now_ns();
    for number in warm..scene.plan.messages {
        there.send_filled(|payload| fill(payload, number))?;
    }
    there.flush()?;
    let cpu_ns = process_cpu_ns() - cpu_ns;
    let threads = outcome().threads;
    let count = (scene.plan.messages - warm) as f64;
    let mut other = partners.finish()?;
    let end_ns = scene.stage.board.taken.words[2].load(Ordering::Acquire);
    let seconds = end_ns.saturating_sub(start_ns) as f64 / 1e9;
    let taken = count - other.lost as f64;
    other.threads.splice(0..0, threads);
    let own = Outcome::default()
        .with("messages_per_s", taken / seconds)
        .with("bytes_per_s", scene.plan.size as f64 * taken / seconds)
        .with("sender_cpu_ns", cpu_ns as f64 / count);
    Ok(join(own, other))
}

/// The second side: takes all, reads each word, and counts the gaps.
///
/// # Errors
/// The medium fails, or a payload is torn.
pub fn partner<M: Medium>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let medium = M::open(scene)?;
    let mut there = medium.receiver(Channel::There, Quality::Reliable)?;
    scene.stage.ready_and_wait()?;
    let mut own = Outcome::default();
    let (mut expected, mut last_ns) = (0, now_ns());
    while expected < scene.plan.messages {
        let mut found = None;
        if !there.read_sized(SILENCE, |payload| found = number_of(payload))? {
            own.lost += scene.plan.messages - expected;
            break;
        }
        let found = found.ok_or_else(|| format!("the payload after {expected} is torn"))?;
        own.lost += found.checked_sub(expected).ok_or_else(|| format!("{found} came again"))?;
        expected = found + 1;
        if expected == scene.plan.messages {
            last_ns = now_ns();
        }
    }
    scene.stage.board.taken.words[2].store(last_ns, Ordering::Release);
    own.threads = outcome().threads;
    Ok(own)
}
