//! A node without threads: the same door and peers as a [`crate::Node`], moved by whoever calls, over a network in memory.
//!
//! It is for the simulator, which steps several of them in one thread and in virtual time, so that what joins memory,
//! decisions and the kernel is tried with every fault. The control plane of their buses is stepped as well; clocks and
//! random numbers of the thread are those of the simulation.
//!
//! Invariant: nothing is done but in `step` and in `step_control`, and no step waits.

use std::marker::PhantomData;
use std::sync::Arc;

use busway_io::Event;
use busway_io::FakeDriver;
use busway_protocol::flow::Flow;
use busway_protocol::{PeerId, State};
use busway_shm::clock;
use busway_shm::sys::identity;

use crate::bus::{Bus, Core};
use crate::error::Error;
use crate::ports::lock;
use crate::runtime::door::Door;
use crate::runtime::hub::{HubConfig, Shared};
use crate::runtime::{Pieces, Staging};

/// See the head of this file.
#[derive(Debug)]
pub struct Stepped {
    shared: Arc<Shared<FakeDriver<Staging, Pieces>>>,
    door: Door<FakeDriver<Staging, Pieces>>,
    events: Vec<Event<Staging, Pieces>>,
    /// When it wants to be stepped though nothing comes, in nanoseconds of the network.
    wake_ns: u64,
    core: Arc<Core>,
}

/// What is under way on a link that stands; the later in this list is told where there is more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnderWay {
    /// No message.
    Nothing,
    /// Messages that their receiver has not taken yet.
    Messages,
    /// A large one has begun to come.
    Part,
    /// Messages wait for room here.
    Waits,
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
        core.ports.add_carrier(shared.clone());
        let mut door = Door::new(shared.clone()).alone();
        door.start();
        core.control.watch()?;
        Ok(Stepped { shared, door, events: Vec::new(), wake_ns: 0, core })
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared<FakeDriver<Staging, Pieces>>> {
        &self.shared
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

    /// When it wants to be stepped again though nothing comes, in nanoseconds of the network.
    #[must_use]
    pub fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// How far it is with another node.
    #[must_use]
    pub fn state(&self, index: u8) -> Option<State> {
        let peer = lock(&self.shared.peers).get(&PeerId::Node { index }).cloned()?;
        lock(&peer).state()
    }

    /// What is under way between it and another node.
    #[must_use]
    pub fn under_way(&self, index: u8) -> Option<UnderWay> {
        let peer = lock(&self.shared.peers).get(&PeerId::Node { index }).cloned()?;
        let (traffic, coming) = {
            let peer = lock(&peer);
            (peer.traffic(), peer.coming())
        };
        let data = traffic.iter().filter(|passing| passing.flow == Flow::Data);
        let any = data.into_iter().any(|data| data.from.in_use.messages + data.to.in_use.messages > 0);
        Some(if any { coming.max(UnderWay::Messages) } else { coming })
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

/// What the clocks of a simulation say when its network begins.
const BEGIN_NS: u64 = 1_000_000_000_000;

/// The clocks and the random numbers of the calling thread are those of a simulation while this exists.
#[derive(Debug)]
pub struct Simulated {
    /// It is of its thread.
    thread: PhantomData<*const ()>,
}

impl Simulated {
    /// What is drawn follows from `seed`.
    #[must_use]
    pub fn begin(seed: u64) -> Self {
        clock::simulate(Some(BEGIN_NS));
        identity::seed_random(Some(seed));
        Self { thread: PhantomData }
    }

    /// It is so late in the network.
    pub fn pass(&self, now_ns: u64) {
        clock::simulate(Some(BEGIN_NS.saturating_add(now_ns)));
    }

    /// The wall clock is off by so much from now on, as if somebody had set it.
    pub fn set_wall(&self, by_ns: i64) {
        clock::set_wall(by_ns);
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        clock::simulate(None);
        identity::seed_random(None);
    }
}

/// Lets the control plane of a bus that was opened by `in_steps` do what there is to do.
pub fn step_control(bus: &Bus) {
    bus.core.control.step();
}

/// When the control plane of a bus has something to do, in nanoseconds of the network.
#[must_use]
pub fn control_due_ns(bus: &Bus) -> u64 {
    bus.core.control.due_ns().map_or(u64::MAX, |due_ns| due_ns.saturating_sub(BEGIN_NS))
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.core.ports.remove_carrier(&self.shared);
    }
}

#[cfg(test)]
mod tests;
