//! A bare futex: a stamp in a cache line, a word to sleep on, one call that wakes all.
//!
//! The floor of waking: the kernel's own cost, for one sleeper or for as many as there are.

use crate::Failure;
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender};
use crate::stage::{Bell, FutexWord, Line, Ordering};
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec};
use std::time::Duration;

/// One letter and the futex word beside it.
#[derive(Debug)]
pub struct BareFutex {
    lines: &'static [Line],
    bells: &'static [Bell],
}

/// Stores the letter and wakes all.
#[derive(Debug)]
pub struct FutexSender {
    line: &'static Line,
    word: &'static FutexWord,
}

/// Sleeps on the word.
#[derive(Debug)]
pub struct FutexReceiver {
    line: &'static Line,
    word: &'static FutexWord,
    seen: u32,
}

impl Medium for BareFutex {
    type Sender = FutexSender;
    type Receiver = FutexReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        Ok(Self { lines: &scene.stage.board.free, bells: &scene.stage.board.bells })
    }

    fn sender(&self, _: Channel, _: Quality) -> Result<FutexSender, Failure> {
        Ok(FutexSender { line: &self.lines[0], word: &self.bells[0].word })
    }

    fn receiver(&self, _: Channel, _: Quality) -> Result<FutexReceiver, Failure> {
        Ok(FutexReceiver { line: &self.lines[0], word: &self.bells[0].word, seen: 0 })
    }
}

impl Sender for FutexSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        for (word, value) in self.line.words.iter().zip(letter) {
            word.store(*value, Ordering::Relaxed);
        }
        self.word.fetch_add(1, Ordering::Release); // pairs with Acquire in `take`
        futex::wake(self.word, Flags::empty(), i32::MAX as u32)?;
        Ok(())
    }
}

impl Receiver for FutexReceiver {
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        let found = self.word.load(Ordering::Acquire); // pairs with Release in `send`
        if found == self.seen {
            return Ok(None);
        }
        self.seen = found;
        let mut letter = Letter::default();
        for (value, word) in letter.iter_mut().zip(&self.line.words) {
            *value = word.load(Ordering::Relaxed);
        }
        Ok(Some(letter))
    }

    fn sleep(&mut self, timeout: Duration) -> Result<Option<Letter>, Failure> {
        let timeout = Timespec { tv_sec: i64::try_from(timeout.as_secs())?, tv_nsec: 0 };
        loop {
            match futex::wait(self.word, Flags::empty(), self.seen, Some(&timeout)) {
                Err(Errno::TIMEDOUT) => return self.take(),
                // AGAIN: the word has moved already. INTR: look again.
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(other) => return Err(other.into()),
            }
            if let Some(letter) = self.take()? {
                return Ok(Some(letter));
            }
        }
    }
}
