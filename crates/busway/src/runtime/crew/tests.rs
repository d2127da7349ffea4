//! Bulk that the gate of an interface holds up, and a publisher that is ahead of it: who looks again, when, and who does
//! not. The hosts are joined by a network in memory, whose interfaces have gates as real ones have.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use busway_io::{FakeDriver, HostId, Network};
use busway_protocol::Time;
use busway_shm::bell::{NODES, Slept};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::sync::Ordering;

use super::Crew;
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::ports::{Ahead, Carrier, lock};
use crate::publisher::Publisher;
use crate::runtime::hub::{HubConfig, Shared, Whom};
use crate::runtime::scene::{FAR, NEAR, RATE, config, network};
use crate::runtime::{Pieces, Simulated, Staging, Stepped, control_due_ns, step_control};
use crate::subscriber::Subscriber;
use busway_wire::Policy;

/// Far longer than any step here takes on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// A host of the simulation: nothing happens there but in `turn`.
struct Host {
    bus: Bus,
    node: Stepped,
    _scratch: Scratch,
}

impl Host {
    fn new(network: &Network, own: busway_io::HostId, config: HubConfig) -> Host {
        let scratch = Scratch::new();
        let builder = Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30);
        let bus = builder.unmonitored().in_steps().open().expect("a bus");
        let node = Stepped::open(&bus, config, network, own).expect("a node");
        Host { bus, node, _scratch: scratch }
    }

    /// Does what there is to do; whether there was anything.
    fn turn(&mut self, now_ns: u64) -> bool {
        let asked = control_due_ns(&self.bus) <= now_ns;
        if asked {
            step_control(&self.bus);
            self.node.nudge();
        }
        self.node.step() || asked
    }

    fn due_ns(&self) -> u64 {
        self.node.wake_ns().min(control_due_ns(&self.bus))
    }
}

/// Some of them, of which the first is linked to each other, and their clock.
struct World {
    network: Network,
    clocks: Simulated,
    hosts: Vec<Host>,
}

impl World {
    fn new(kernel_bytes: usize) -> World {
        World::with(kernel_bytes, &[(1, FAR)])
    }

    fn with(kernel_bytes: usize, far: &[(u8, HostId)]) -> World {
        let clocks = Simulated::begin(5);
        let network = network(kernel_bytes);
        let mut hosts = vec![Host::new(&network, NEAR, config(0, NEAR, far))];
        let one = |(index, own): &(u8, HostId)| Host::new(&network, *own, config(*index, *own, &[(0, NEAR)]));
        hosts.extend(far.iter().map(one));
        World { network, clocks, hosts }
    }

    /// Lets time pass until it is so; each host is woken when it says, and when something comes.
    fn run_until(&mut self, what: &str, mut so: impl FnMut(&mut World) -> bool) {
        let mut turns = 0;
        while !so(self) {
            let now_ns = self.network.now_ns();
            assert!(now_ns < 600_000_000_000, "{what} does not come");
            turns += 1;
            assert!(turns < 10_000, "{what}: somebody spins: {}", self.hosts[0].node.describe());
            let mut any = false;
            for host in &mut self.hosts {
                any |= host.turn(now_ns);
            }
            let next_ns = self.hosts.iter().map(Host::due_ns).chain(self.network.next_ns()).min();
            if let Some(next_ns) = next_ns.filter(|next_ns| !any && *next_ns > now_ns) {
                turns = 0;
                self.network.advance(Duration::from_nanos(next_ns - now_ns));
                self.clocks.pass(next_ns);
            }
        }
    }

    /// A subscriber at the far host for which publishers wait, and a publisher at the near one that it reads.
    fn pair(&mut self, topic: &str) -> (Publisher, Subscriber) {
        self.pair_with(1, topic)
    }

    /// The same of one of several.
    fn pair_with(&mut self, far: usize, topic: &str) -> (Publisher, Subscriber) {
        let subscriber =
            self.hosts[far].bus.subscriber(topic).policy(Policy::Block).open().expect("a subscriber");
        let publisher = self.hosts[0].bus.publisher(topic).open().expect("a publisher");
        self.run_until("a subscriber", |_| publisher.subscribers() > 0);
        (publisher, subscriber)
    }

    fn publish(&mut self, publisher: &mut Publisher, size: usize) {
        publisher.try_send(&vec![7; size]).expect("there is room");
        self.hosts[0].node.nudge();
    }

    /// Nanoseconds until all of these have come.
    fn receive(&mut self, subscriber: &mut Subscriber, count: usize) -> u64 {
        let (begun_ns, mut come) = (self.network.now_ns(), 0);
        self.run_until("a message", |_| {
            while subscriber.try_recv().expect("it is open").is_some() {
                come += 1;
            }
            come >= count
        });
        self.network.now_ns() - begun_ns
    }
}

#[test]
fn bulk_that_is_held_is_looked_at_as_soon_as_there_may_be_room() {
    let mut world = World::new(64 << 10);
    let (mut large, mut taken) = world.pair("large");
    world.publish(&mut large, 4 * MIB);
    let took_ns = world.receive(&mut taken, 1);
    let least_ns = 4 * MIB as u64 * 1_000_000_000 / RATE;
    assert!(took_ns >= least_ns, "the way is no faster than it is: {took_ns} of {least_ns}");
    assert!(took_ns < 2 * least_ns, "it is not left idle: {took_ns} of {least_ns}");
}

/// A host has bulk for two others, of which it has given the first much and the second nothing. What each was given before a look at both, and behind it.
fn given_to_two(second_bytes: usize) -> [[u64; 2]; 2] {
    let mut world = World::with(4 * MIB, &[(1, FAR), (2, HostId(3))]);
    let (mut first, mut taken) = world.pair_with(1, "first");
    let (mut second, _other) = world.pair_with(2, "second");
    world.publish(&mut first, 2 * MIB);
    world.receive(&mut taken, 1);
    let shared = world.hosts[0].node.shared().clone();
    first.try_send(&vec![7; MIB]).expect("there is room");
    shared.carry(Whom::All);
    // Until nothing of it is in the kernel. What is behind it is held, and nobody looks.
    world.network.advance(Duration::from_millis(100));
    world.clocks.pass(world.network.now_ns());
    second.try_send(&vec![7; second_bytes]).expect("there is room");
    let peers = shared.all();
    let given = || [0, 1].map(|at: usize| lock(&peers[at]).turn());
    let before = given();
    assert!(before[0] > 0 && before[1] == 0, "{before:?}");
    shared.carry(Whom::All);
    [before, given()]
}

#[test]
fn whose_bulk_was_given_least_of_its_interface_is_looked_at_first() {
    let [before, after] = given_to_two(MIB);
    assert_eq!(after[0], before[0], "who was given more waits");
    assert!(after[1] > 0, "and the other goes");
}

#[test]
fn who_has_sent_all_its_bulk_keeps_nobody_waiting() {
    // More than one fragment, and less than may lie in the kernel.
    let [before, after] = given_to_two(9 << 10);
    assert!(after[0] > before[0], "what is left of the interface is the other's at once");
}

#[test]
fn nobody_looks_at_bulk_that_is_held_while_a_write_is_under_way() {
    let mut world = World::new(64 << 10);
    let (mut large, mut taken) = world.pair("large");
    let (mut small, mut beside) = world.pair("small");
    world.publish(&mut large, 16 * MIB);
    for _ in 0..20 {
        // So many that the kernel cannot take them at once.
        for _ in 0..200 {
            world.publish(&mut small, 4_000);
        }
        world.receive(&mut beside, 200);
    }
    world.receive(&mut taken, 1);
}

/// A host with the threads that it has, but for those that carry: they are the test's.
struct Carried {
    network: Network,
    crew: Arc<Crew<FakeDriver<Staging, Pieces>>>,
    bus: Bus,
    far: Stepped,
    far_bus: Bus,
    passed_ns: u64,
    _scratches: [Scratch; 2],
}

impl Carried {
    fn new() -> Carried {
        let network = network(4 * MIB);
        let scratches = [Scratch::new(), Scratch::new()];
        let [bus, far_bus] = [0, 1].map(|at: usize| {
            let builder = Bus::builder().directory(scratches[at].path().join("run")).arena_bytes(1 << 30);
            builder.open().expect("a bus")
        });
        // Nodes speak about work over channels of their own, beside what their programs send.
        let theirs = HubConfig { shares_work: true, ..config(1, FAR, &[(0, NEAR)]) };
        let far = Stepped::open(&far_bus, theirs, &network, FAR).expect("a node");
        let ours = HubConfig { shares_work: true, ..config(0, NEAR, &[(1, FAR)]) };
        let (shared, _) = Shared::listen(bus.core.clone(), network.start(NEAR), ours).expect("it listens");
        bus.core.ports.add_carrier(shared.clone());
        let crew = Arc::new(Crew::new(shared));
        lock(&crew.door).start();
        bus.core.control.watch().expect("the bus is open");
        let passed_ns = monotonic_ns();
        Carried { network, crew, bus, far, far_bus, passed_ns, _scratches: scratches }
    }

    /// As much time passes in the network as has passed here.
    fn pass(&mut self) {
        let now_ns = monotonic_ns();
        self.network.advance(Duration::from_nanos(now_ns - self.passed_ns));
        self.passed_ns = now_ns;
        self.far.nudge();
        self.far.step();
    }

    /// Does what the threads would.
    fn carry(&mut self) {
        let mut events = Vec::new();
        self.crew.shared.poll_now(&mut events);
        lock(&self.crew.door).take(&mut events);
        self.crew.shared.pump();
        self.pass();
    }

    /// A subscriber at the other host for which publishers wait, and a publisher here that it reads.
    fn pair(&mut self) -> (Publisher, Subscriber) {
        let mut subscriber =
            self.far_bus.subscriber("large").policy(Policy::Block).open().expect("a subscriber");
        let mut publisher = self.bus.publisher("large").open().expect("a publisher");
        let deadline = Deadline::after(PATIENCE);
        let waits = |carried: &mut Carried| {
            assert!(!deadline.expired(), "{}", carried.far.describe());
            carried.carry();
        };
        while publisher.subscribers() == 0 {
            waits(self);
        }
        // Once one has crossed, others need nobody's answer, and it is known how fast the way is.
        publisher.try_send(&vec![7; 2 * MIB]).expect("there is room");
        while subscriber.try_recv().expect("it is open").is_none() {
            waits(self);
        }
        (publisher, subscriber)
    }
}

#[test]
fn the_thread_that_sends_looks_at_bulk_that_is_held_until_it_has_gone() {
    let mut carried = Carried::new();
    let (mut publisher, mut subscriber) = carried.pair();
    let crew = carried.crew.clone();
    let thread = std::thread::spawn(move || crew.send());
    // It fits the window that is left. Of three hundred fragments none goes before somebody has looked whether there is room.
    publisher.try_send(&vec![7; 5 * MIB]).expect("there is room");
    let deadline = Deadline::after(PATIENCE);
    while subscriber.try_recv().expect("it is open").is_none() {
        carried.pass();
        assert!(!deadline.expired(), "nobody looks at what is held");
    }
    carried.crew.shared.stop();
    carried.crew.stop_lingering();
    carried.bus.core.ports.ring_bell(NODES);
    thread.join().expect("it ends");
}

#[test]
fn what_is_held_is_looked_at_by_the_thread_that_sends_when_it_may_go_and_by_no_other() {
    let mut carried = Carried::new();
    let (mut publisher, _subscriber) = carried.pair();
    let shared = carried.crew.shared.clone();
    publisher.try_send(&vec![7; 5 * MIB]).expect("there is room");
    // Time stands still here unless it is let pass.
    let held = shared.carry(Whom::All).held_until.expect("it is more than may lie in the kernel");
    let again = shared.carry(Whom::Held);
    assert_eq!((again.found, again.held_until), (false, Some(held)), "it is too soon");
    let left = held.since(Time(shared.now_ns()));
    carried.network.advance(Duration::from_nanos(left + 1));
    let mut events = Vec::new();
    lock(&carried.crew.door).take(&mut events);
    let until = |shared: &Shared<_>| shared.all().iter().filter_map(|peer| lock(peer).held_until()).min();
    assert_eq!(until(&shared), Some(held), "who receives leaves it");
    let mut looks = 0;
    while !shared.carry(Whom::Held).found {
        looks += 1;
        assert!(looks < 100, "it never goes");
        let next = until(&shared).expect("it is held").since(Time(shared.now_ns()));
        carried.network.advance(Duration::from_nanos(next + 1));
    }
}

#[test]
fn what_was_sent_after_a_rest_is_found_by_the_first_look_whatever_else_has_turns() {
    let mut carried = Carried::new();
    let (mut publisher, mut subscriber) = carried.pair();
    for round in 0..50 {
        // Until nothing is under way.
        for _ in 0..20 {
            carried.carry();
        }
        publisher.try_send(b"small").expect("there is room");
        assert!(carried.crew.shared.pump(), "round {round}: who is woken finds nothing, and sleeps on");
        let deadline = Deadline::after(PATIENCE);
        while subscriber.try_recv().expect("it is open").is_none() {
            carried.carry();
            assert!(!deadline.expired(), "it does not come");
        }
    }
}

#[test]
fn a_publisher_whose_bulk_is_held_wakes_the_thread_that_sends_and_one_whose_message_has_gone_does_not() {
    let mut carried = Carried::new();
    let (mut publisher, _subscriber) = carried.pair();
    let domain = carried.bus.core.ports.domain().expect("the bus is open");
    domain.bell().node_begins();
    // One that looks again before it may go is not woken either.
    for (sleeps_until, size, slept) in
        [(u64::MAX, 10, Slept::TimedOut), (0, MIB, Slept::TimedOut), (u64::MAX, MIB, Slept::Rung)]
    {
        carried.pass();
        let sleeper = domain.bell().prepare(NODES);
        carried.crew.shared.sleeps_until.store(sleeps_until, Ordering::Release);
        publisher.try_send(&vec![7; size]).expect("there is room");
        carried.crew.published(publisher.id(), &domain.bell());
        let patience = if slept == Slept::Rung { PATIENCE } else { Duration::ZERO };
        assert_eq!(sleeper.wait(Some(patience)), slept, "{size} bytes, asleep until {sleeps_until}");
    }
    domain.bell().node_ends();
}

#[test]
fn whoever_gives_a_peer_bulk_that_is_held_wakes_the_thread_that_sends_where_it_sleeps() {
    let mut carried = Carried::new();
    let (mut publisher, _subscriber) = carried.pair();
    let domain = carried.bus.core.ports.domain().expect("the bus is open");
    domain.bell().node_begins();
    let shared = carried.crew.shared.clone();
    for (sleeps, size, slept) in
        [(true, 10, Slept::TimedOut), (false, MIB, Slept::TimedOut), (true, MIB, Slept::Rung)]
    {
        for _ in 0..20 {
            carried.carry();
        }
        let sleeper = domain.bell().prepare(NODES);
        shared.sleeps_until.store(if sleeps { u64::MAX } else { 0 }, Ordering::Release);
        // As a thread of the node that speaks about artifacts, without a publisher that rings.
        publisher.try_send(&vec![7; size]).expect("there is room");
        for peer in shared.all().iter() {
            let mut peer = lock(peer);
            peer.pump(&shared.driver);
            shared.tell_held(&peer);
        }
        let patience = if slept == Slept::Rung { PATIENCE } else { Duration::ZERO };
        assert_eq!(sleeper.wait(Some(patience)), slept, "{size} bytes, asleep: {sleeps}");
    }
    domain.bell().node_ends();
}

#[test]
fn a_publisher_is_not_slowed_for_longer_than_it_was_asked_by_a_link_that_takes_nothing() {
    let mut carried = Carried::new();
    let (mut publisher, _subscriber) = carried.pair();
    carried.network.cut(NEAR, FAR, true);
    for _ in 0..16 {
        publisher.try_send(&vec![7; MIB]).expect("there is room");
    }
    let (crew, source) = (carried.crew.clone(), publisher.id());
    let (ended, end) = channel();
    std::thread::spawn(move || {
        crew.pace(source, Ahead { sequence: 16, messages: 1, most: Duration::from_millis(1) });
        // Whoever waits for it may have given up.
        let _ = ended.send(());
    });
    assert!(end.recv_timeout(PATIENCE).is_ok(), "it is still slowed");
    let behind: Vec<u64> =
        carried.crew.shared.all().iter().map(|peer| lock(peer).behind(source, 16)).collect();
    assert!(behind.iter().all(|behind| *behind > 1), "there was something to be slowed for: {behind:?}");
}
