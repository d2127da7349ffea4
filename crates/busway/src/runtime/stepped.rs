//! A node without threads: the same door and peers as a [`crate::Node`], moved by whoever calls, over a network in memory.
//!
//! It is for the simulator, which steps several of them in one thread and in virtual time, so that what joins memory,
//! decisions and the kernel is tried with every fault. The control thread of the bus is real; `settle` waits until it
//! has done what it was asked.
//!
//! Invariant: nothing is done but in `step`, and no step waits.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use busway_io::Event;
use busway_io::FakeDriver;
use busway_protocol::{PeerId, State};
use busway_shm::clock::Deadline;

use crate::bus::{Bus, Core};
use crate::error::Error;
use crate::ports::lock;
use crate::runtime::door::Door;
use crate::runtime::hub::{HubConfig, Shared};
use crate::runtime::{Pieces, Staging};

/// The control thread answers within this, or the machine is at its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was asked of the control thread has been done after so many of its answers: a question is answered behind what
/// came before it, and what follows from that behind the next.
const ANSWERS: usize = 3;

/// See the head of this file.
#[derive(Debug)]
pub struct Stepped {
    shared: Arc<Shared<FakeDriver<Staging, Pieces>>>,
    door: Door<FakeDriver<Staging, Pieces>>,
    events: Vec<Event<Staging, Pieces>>,
    /// When it wants to be stepped though nothing comes, in nanoseconds of the network.
    wake_ns: u64,
    core: Arc<Core>,
    /// Rows and relays that were asked for when it was settled last.
    asked: u64,
}

impl Stepped {
    pub(crate) fn open(
        bus: &Bus,
        config: HubConfig,
        network: &busway_io::Network,
        host: busway_io::HostId,
    ) -> Result<Stepped, Error> {
        let core = bus.core.clone();
        let (shared, _) = Shared::listen(core.clone(), network.start(host), config)?;
        core.ports.set_carrier(Some(shared.clone()));
        let mut door = Door::new(shared.clone());
        door.start();
        core.control.watch()?;
        Ok(Stepped { shared, door, events: Vec::new(), wake_ns: 0, core, asked: u64::MAX })
    }

    /// Takes what has come and sends what is there; whether there was anything.
    pub fn step(&mut self) -> bool {
        self.shared.poll_now(&mut self.events);
        let now_ns = self.shared.now_ns();
        if self.events.is_empty() && now_ns < self.wake_ns && !self.shared.has_news() {
            return false;
        }
        let mut any = !self.events.is_empty();
        let soon = self.door.take(&mut self.events);
        any |= self.shared.pump();
        any |= self.shared.has_news();
        let wait_ns = u64::try_from(self.door.wait(soon).as_nanos()).unwrap_or(u64::MAX);
        self.wake_ns = now_ns.saturating_add(wait_ns);
        any
    }

    /// Something on its host has changed: the next step looks.
    pub fn nudge(&mut self) {
        self.wake_ns = 0;
    }

    /// After how many nanoseconds it wants to be stepped again, though nothing comes.
    #[must_use]
    pub fn wait_ns(&self) -> u64 {
        self.wake_ns.saturating_sub(self.shared.now_ns())
    }

    /// Whether the control thread was asked for something since `settle`.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let mut coming = false;
        let asked = self.shared.all().iter().fold(0, |sum, peer| {
            let peer = lock(peer);
            coming |= peer.is_coming();
            sum + 1 + peer.asked()
        });
        coming || asked != self.asked
    }

    /// Waits until the control thread has done what it was asked. Its time is not that of the network.
    ///
    /// # Errors
    /// It does not answer.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.asked = self.shared.all().iter().fold(0, |sum, peer| sum + 1 + lock(peer).asked());
        settle(&self.core)
    }

    /// How far it is with another node.
    #[must_use]
    pub fn state(&self, index: u8) -> Option<State> {
        let peer = lock(&self.shared.peers).get(&PeerId::Node { index }).cloned()?;
        lock(&peer).state()
    }

    /// What it waits for, in words: for whoever finds that it does not come to rest.
    #[must_use]
    pub fn describe(&self) -> String {
        let now_ns = self.shared.now_ns();
        let peers: Vec<String> = self.shared.all().iter().map(|peer| lock(peer).describe()).collect();
        let (wake_ns, news) = (self.wake_ns, self.shared.has_news());
        format!("at {now_ns} ns, wakes at {wake_ns} ns, news: {news}; {}", peers.join("; "))
    }

    /// Begins to end its links in order.
    pub fn drain(&mut self) {
        self.shared.drain();
        self.door.drain();
        self.nudge();
    }
}

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Ports that this thread opens have names that follow from a number, so that two runs can be the same.
pub fn seed_ports(seed: u64) {
    SEED.set(Some(seed));
}

/// The next name, where they follow from a number.
pub(crate) fn drawn() -> Option<u64> {
    let seed = SEED.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(seed));
    // SplitMix64: a name is no secret.
    let word = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some((word ^ (word >> 31)).max(1))
}

/// Waits until the control thread of a bus has done what it was asked.
///
/// # Errors
/// It does not answer.
pub fn settle_bus(bus: &Bus) -> Result<(), Error> {
    settle(&bus.core)
}

fn settle(core: &Core) -> Result<(), Error> {
    for _ in 0..ANSWERS {
        core.control.poke();
        core.control.members(Deadline::after(PATIENCE))?;
    }
    Ok(())
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.core.ports.set_carrier(None);
    }
}
