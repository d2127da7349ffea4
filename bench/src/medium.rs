//! What every measured side has in common, so that one piece of measuring code serves them all.
//!
//! A `Medium` is a way from one process to others: a bare cache line, a bare ring, a bare futex, the
//! bus, a rival. The cells are generic over it and compiled for each, without indirection.

use crate::Failure;
use crate::plan::Plan;
use crate::stage::Stage;
use std::time::Duration;

/// A message of 64 bytes: it is written whole and read whole on every side.
pub type Letter = [u64; 8];

/// A letter whose words all follow from `number`.
#[inline]
pub fn letter(number: u64) -> Letter {
    [number, number + 1, number + 2, number + 3, number + 4, number + 5, number + 6, number + 7]
}

/// Number of the letter that ends a measurement.
pub const END: u64 = u64::MAX - 8;

/// One process of a measurement: what it is to do, the stage, and which partner it is.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'run> {
    /// The plan of the measurement.
    pub plan: &'run Plan,
    /// The memory its processes share.
    pub stage: &'run Stage,
    /// Process that owns the measurement: names of services and directories contain it.
    pub owner: u32,
}

/// The two ways between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// From the first side to the others.
    There,
    /// From the second side to the first.
    Back,
}

/// What happens when a receiver is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// It loses the oldest.
    Lossy,
    /// The sender waits.
    Reliable,
}

/// A way from one process to others.
pub trait Medium: Sized {
    /// The sending end.
    type Sender: Sender;
    /// The receiving end.
    type Receiver: Receiver;

    /// Joins, in the process of `scene`.
    ///
    /// # Errors
    /// The medium cannot be set up.
    fn open(scene: &Scene<'_>) -> Result<Self, Failure>;

    /// Makes the sending end of `channel`.
    ///
    /// # Errors
    /// The medium cannot be set up.
    fn sender(&self, channel: Channel, quality: Quality) -> Result<Self::Sender, Failure>;

    /// Makes a receiving end of `channel`.
    ///
    /// # Errors
    /// The medium cannot be set up.
    fn receiver(&self, channel: Channel, quality: Quality) -> Result<Self::Receiver, Failure>;
}

/// A sending end.
pub trait Sender {
    /// Waits until `receivers` are attached.
    ///
    /// # Errors
    /// They do not attach in time.
    fn settle(&mut self, receivers: usize) -> Result<(), Failure>;

    /// Sends one letter.
    ///
    /// # Errors
    /// The medium fails.
    fn send(&mut self, letter: &Letter) -> Result<(), Failure>;
}

/// A receiving end.
pub trait Receiver {
    /// Whether a pause instruction between two looks makes this medium faster. Each side polls as suits it best, which
    /// was tried both ways: a reader without pauses takes the line back from a writer that has more to store in it.
    const PAUSES: bool = false;

    /// Takes the next letter, if there is one.
    ///
    /// # Errors
    /// The medium fails.
    fn take(&mut self) -> Result<Option<Letter>, Failure>;

    /// Sleeps until there is a letter, at most for `timeout`.
    ///
    /// # Errors
    /// The medium fails, or cannot sleep.
    fn sleep(&mut self, timeout: Duration) -> Result<Option<Letter>, Failure> {
        Err(format!("this medium cannot sleep {timeout:?}").into())
    }
}

/// Takes the next letter, spinning.
///
/// # Errors
/// Nothing comes for 20 s, or the medium fails.
#[inline]
pub fn await_letter<R: Receiver>(receiver: &mut R) -> Result<Letter, Failure> {
    let mut patience = crate::clock::Patience::new();
    loop {
        if let Some(letter) = receiver.take()? {
            return Ok(letter);
        }
        if !patience.turn() {
            return Err("nothing came for 20 s".into());
        }
        if R::PAUSES {
            core::hint::spin_loop();
        }
    }
}
