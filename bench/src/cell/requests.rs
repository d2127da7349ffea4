//! Requests of 64 bytes that are answered with 64 bytes: one caller, one service, so many under way at once.
//!
//! Both sides are written as a user of the medium would write them first, and sleep where there is nothing to do. The clock runs from before the
//! first request that counts until its last reply was read; each reply is compared with its request, in whatever order they come.

use crate::Failure;
use crate::cell::{join, outcome, partners};
use crate::clock::now_ns;
use crate::medium::{END, Letter, Scene, letter};
use crate::outcome::{Outcome, Recorder};
use std::collections::BTreeMap;

/// A way to ask and to answer.
pub trait Answers: Sized {
    /// Who asks.
    type Asker: Asker;

    /// Makes who asks, in the process of `scene`, with at most `at_once` requests under way.
    ///
    /// # Errors
    /// The medium cannot be set up.
    fn asker(scene: &Scene<'_>, at_once: usize) -> Result<Self::Asker, Failure>;

    /// Answers each letter with `answer` of it until [`END`] has been answered. `ready` is called when it can.
    ///
    /// # Errors
    /// The medium fails, or nobody asks for long.
    fn serve(scene: &Scene<'_>, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure>;
}

/// Who asks.
pub trait Asker {
    /// Waits until there is a service.
    ///
    /// # Errors
    /// There is none in time.
    fn settle(&mut self) -> Result<(), Failure>;

    /// Asks.
    ///
    /// # Errors
    /// The medium fails.
    fn ask(&mut self, letter: &Letter) -> Result<(), Failure>;

    /// The next reply, of whatever request.
    ///
    /// # Errors
    /// None comes, or the medium fails.
    fn reply(&mut self) -> Result<Letter, Failure>;
}

/// What a letter is answered with.
pub fn answer(letter: &Letter) -> Letter {
    letter.map(|word| word.wrapping_add(1))
}

/// The first side: asks, and keeps time.
///
/// # Errors
/// The medium fails, a reply is not to what was asked, or the service falls silent.
pub fn conduct<A: Answers>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let at_once = usize::try_from(scene.plan.size)?.max(1);
    let mut asker = A::asker(scene, at_once)?;
    let partners = partners(scene)?;
    scene.stage.start();
    asker.settle()?;
    let mut recorder = Recorder::new();
    ask_all(&mut asker, at_once, 0..scene.plan.messages / 10, &mut recorder)?;
    recorder = Recorder::new();
    let start_ns = now_ns();
    ask_all(&mut asker, at_once, scene.plan.messages / 10..scene.plan.messages, &mut recorder)?;
    let seconds = (now_ns() - start_ns) as f64 / 1e9;
    asker.ask(&letter(END))?;
    asker.reply()?;
    let count = (scene.plan.messages - scene.plan.messages / 10) as f64;
    let mut own = outcome().with("requests_per_s", count / seconds);
    own.latency = Some(recorder.latency());
    Ok(join(own, partners.finish()?))
}

/// Asks for each number, and reads all replies.
fn ask_all(
    asker: &mut impl Asker,
    at_once: usize,
    numbers: std::ops::Range<u64>,
    recorder: &mut Recorder,
) -> Result<(), Failure> {
    let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
    let mut numbers = numbers.map(|number| number * 16);
    loop {
        while asked.len() < at_once
            && let Some(number) = numbers.next()
        {
            asked.insert(number, now_ns());
            asker.ask(&letter(number))?;
        }
        if asked.is_empty() {
            return Ok(());
        }
        let reply = asker.reply()?;
        let number = reply[0].wrapping_sub(1);
        let since_ns = asked.remove(&number).filter(|_| reply == answer(&letter(number)));
        let since_ns = since_ns.ok_or_else(|| format!("{reply:?} answers nothing that was asked"))?;
        recorder.record(now_ns().saturating_sub(since_ns));
    }
}

/// The second side: the service.
///
/// # Errors
/// The medium fails, or nobody asks for long.
pub fn partner<A: Answers>(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    A::serve(scene, || scene.stage.ready_and_wait())?;
    Ok(outcome())
}
