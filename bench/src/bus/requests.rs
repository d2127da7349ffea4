//! Requests over the bus, and a service of 50 ms that is asked a hundred times at once.

use crate::Failure;
use crate::bus::{PATIENCE, join};
use crate::cell::requests::{Answers, Asker, answer};
use crate::cell::{self, outcome};
use crate::clock::{now_ns, pause};
use crate::medium::{END, Letter, Scene, from_bytes, to_bytes};
use crate::outcome::Outcome;
use busway::{Bus, Pending, Requester};
use std::collections::VecDeque;
use std::time::Duration;

const TOPIC: &str = "bench.service";

/// Requests of the cell `slow`, which are all under way at once.
const AT_ONCE: usize = 100;
/// What the service takes for each.
const WORK: Duration = Duration::from_millis(50);

/// The bus.
#[derive(Debug)]
pub struct Requests;

/// Who asks.
#[derive(Debug)]
pub struct BuswayAsker {
    requester: Requester,
    asked: VecDeque<Pending>,
    // Ends last.
    _bus: Bus,
}

impl Answers for Requests {
    type Asker = BuswayAsker;

    fn asker(scene: &Scene<'_>, at_once: usize) -> Result<BuswayAsker, Failure> {
        let bus = join(scene)?;
        let requester = bus.requester(TOPIC).open()?;
        Ok(BuswayAsker { requester, asked: VecDeque::with_capacity(at_once), _bus: bus })
    }

    fn serve(scene: &Scene<'_>, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let bus = join(scene)?;
        let mut responder = bus.responder(TOPIC).open()?;
        ready()?;
        loop {
            let request = responder.recv_timeout(PATIENCE)?.ok_or("nobody asks")?;
            let letter = from_bytes(&request)?;
            request.reply(&to_bytes(&answer(&letter)))?;
            if letter[0] == END {
                return Ok(());
            }
        }
    }
}

impl Asker for BuswayAsker {
    fn settle(&mut self) -> Result<(), Failure> {
        self.requester.wait_for_responders(1, PATIENCE)?;
        Ok(())
    }

    #[inline]
    fn ask(&mut self, letter: &Letter) -> Result<(), Failure> {
        self.asked.push_back(self.requester.send(&to_bytes(letter), PATIENCE)?);
        Ok(())
    }

    #[inline]
    fn reply(&mut self) -> Result<Letter, Failure> {
        let mut pending = self.asked.pop_front().ok_or("nothing was asked")?;
        from_bytes(&pending.recv()?.ok_or("there is no reply")?)
    }
}

/// A hundred callers at once ask a service that takes 50 ms for each: how long until the last has its reply.
///
/// # Errors
/// The bus fails.
pub fn slow(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let requester = bus.requester(TOPIC).open()?;
    let partners = cell::partners(scene)?;
    scene.stage.start();
    requester.wait_for_responders(1, PATIENCE)?;
    let mut slowest_ns = Vec::new();
    for _ in 0..scene.plan.messages.max(3) {
        let start_ns = now_ns();
        let asked: Result<Vec<Pending>, _> =
            (0..AT_ONCE).map(|_| requester.send(b"at once", PATIENCE)).collect();
        for mut pending in asked? {
            pending.recv()?.ok_or("there is no reply")?;
        }
        slowest_ns.push((now_ns() - start_ns) as f64);
    }
    let mut end = requester.send(b"end", PATIENCE)?;
    end.recv()?;
    let own = outcome().with("all_replied_ns", crate::outcome::median(&slowest_ns));
    Ok(cell::join(own, partners.finish()?))
}

/// The service of [`slow`]: a thread for each request, as its work is to wait.
///
/// # Errors
/// The bus fails.
pub fn slow_service(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut responder = bus.responder(TOPIC).holds(256).open()?;
    scene.stage.ready_and_wait()?;
    let mut workers = Vec::new();
    loop {
        let request = responder.recv_timeout(PATIENCE)?.ok_or("nobody asks")?;
        if &request[..] == b"end" {
            request.reply(b"end")?;
            return Ok(outcome());
        }
        workers.retain(|worker: &std::thread::JoinHandle<()>| !worker.is_finished());
        workers.push(std::thread::spawn(move || {
            pause(WORK);
            // Who asked has gone where it fails, and says so.
            let _ = request.reply(b"done");
        }));
    }
}
