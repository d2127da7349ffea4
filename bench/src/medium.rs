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

    /// Sends one payload of the plan's size, which `fill` writes where this medium keeps it until it is sent.
    ///
    /// # Errors
    /// The medium fails, or knows only letters.
    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let _ = fill;
        Err("this medium knows only letters".into())
    }

    /// Sees that what was sent goes out, where a medium holds it back.
    ///
    /// # Errors
    /// The medium fails.
    fn flush(&mut self) -> Result<(), Failure> {
        Ok(())
    }
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

    /// Shows the next payload of the plan's size to `look`, sleeping until there is one; false when the time is up.
    ///
    /// # Errors
    /// The medium fails, or knows only letters.
    fn read_sized(&mut self, timeout: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        let _ = (timeout, look);
        Err("this medium knows only letters".into())
    }
}

/// The bytes of a letter; the compiler makes one copy of it.
#[inline]
pub fn to_bytes(letter: &Letter) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(letter) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The letter of some bytes.
///
/// # Errors
/// They are not 64.
#[inline]
pub fn from_bytes(payload: &[u8]) -> Result<Letter, Failure> {
    let bytes: &[u8; 64] = payload.try_into().map_err(|_| "a letter is not 64 bytes long")?;
    let mut letter = Letter::default();
    for (word, chunk) in letter.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Ok(letter)
}

/// Takes the next letter, sleeping.
///
/// # Errors
/// Nothing comes for 20 s, or the medium fails.
pub fn await_asleep<R: Receiver>(receiver: &mut R) -> Result<Letter, Failure> {
    let deadline_ns = crate::clock::now_ns() + ASLEEP_NS_MAX;
    loop {
        if let Some(letter) = receiver.sleep(Duration::from_secs(1))? {
            return Ok(letter);
        }
        if crate::clock::now_ns() > deadline_ns {
            return Err("nothing came for 20 s".into());
        }
    }
}

/// A measured side that hears nothing for so long has lost its partner.
const ASLEEP_NS_MAX: u64 = 20_000_000_000;

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
