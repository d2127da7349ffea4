//! A bare cache line: one word travels, nothing else.
//!
//! Of a letter only its number is carried; the other words follow from it on the other side.

use crate::Failure;
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender, letter};
use crate::stage::{Line, Ordering, Word};

/// Two cache lines, one each way.
#[derive(Debug)]
pub struct BareLine {
    lines: &'static [Line],
}

/// Writes the word.
#[derive(Debug)]
pub struct LineSender {
    word: &'static Word,
}

/// Waits for the word to change.
#[derive(Debug)]
pub struct LineReceiver {
    word: &'static Word,
    seen: u64,
}

impl BareLine {
    /// Two lines apart, because processors fetch pairs of lines.
    fn word(&self, channel: Channel) -> &'static Word {
        match channel {
            Channel::There => &self.lines[0].words[0],
            Channel::Back => &self.lines[4].words[0],
        }
    }
}

impl Medium for BareLine {
    type Sender = LineSender;
    type Receiver = LineReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        Ok(Self { lines: &scene.stage.board.free })
    }

    fn sender(&self, channel: Channel, _: Quality) -> Result<LineSender, Failure> {
        Ok(LineSender { word: self.word(channel) })
    }

    fn receiver(&self, channel: Channel, _: Quality) -> Result<LineReceiver, Failure> {
        Ok(LineReceiver { word: self.word(channel), seen: 0 })
    }
}

impl Sender for LineSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    #[inline]
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        self.word.store(letter[0], Ordering::Release); // pairs with Acquire in `LineReceiver::take`
        Ok(())
    }
}

impl Receiver for LineReceiver {
    const PAUSES: bool = true;

    #[inline]
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        let number = self.word.load(Ordering::Acquire);
        if number == self.seen {
            return Ok(None);
        }
        self.seen = number;
        Ok(Some(letter(number)))
    }
}
