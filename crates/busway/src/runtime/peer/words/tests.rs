//! Words about work between two nodes that are linked over a network of a rate, in virtual time.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::sync::Arc;
use std::time::Duration;

use busway_io::{Event, FakeDriver, HostId, Network};
use busway_protocol::{Input, PeerId};
use busway_wire::limits::{LINK_FRAGMENT_BYTES, LINK_SHARE_BYTES};
use busway_wire::work::{Word, decode};

use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::ports::lock;
use crate::runtime::desk::{Heard, Says, Standing, WANT_LARGE};
use crate::runtime::door::Door;
use crate::runtime::hub::{HubConfig, Shared};
use crate::runtime::peer::Peer;
use crate::runtime::scene::{FAR, NEAR, RATE, config, network};
use crate::runtime::{Pieces, Simulated, Staging};

/// Bytes that the kernel of each host takes in each direction.
const KERNEL_BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 64 << 20;
const STEP: Duration = Duration::from_micros(100);
const STEPS_MAX: usize = 1_000_000;

struct Host {
    shared: Arc<Shared<FakeDriver<Staging, Pieces>>>,
    door: Door<FakeDriver<Staging, Pieces>>,
    events: Vec<Event<Staging, Pieces>>,
    peer: PeerId,
    come: Vec<Vec<u8>>,
    _bus: Bus,
    _scratch: Scratch,
}

impl Host {
    fn new(network: &Network, index: u8, own: HostId, other: HostId) -> Self {
        let scratch = Scratch::new();
        let builder = Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30);
        let bus = builder.unmonitored().in_steps().open().unwrap();
        let config = HubConfig { shares_work: true, ..config(index, own, &[(1 - index, other)]) };
        let (shared, _) = Shared::listen(bus.core.clone(), network.start(own), config).unwrap();
        let mut door = Door::new(shared.clone());
        door.start();
        let (events, peer, come) = (Vec::new(), PeerId::Node { index: 1 - index }, Vec::new());
        Self { shared, door, events, peer, come, _bus: bus, _scratch: scratch }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Peer, &FakeDriver<Staging, Pieces>) -> T) -> Option<T> {
        let peer = lock(&self.shared.peers).get(&self.peer).cloned()?;
        let mut peer = lock(&peer);
        Some(what(&mut peer, &self.shared.driver))
    }

    fn step(&mut self) -> Option<Standing> {
        self.shared.poll_now(&mut self.events);
        self.door.take(&mut self.events);
        self.shared.pump();
        let _ = self.door.wait(false);
        let mut heard = Heard::default();
        let standing = self.with(|peer, driver| peer.take_words(driver, &mut heard))??;
        self.come.append(&mut heard.come);
        Some(standing)
    }

    fn say(&self, word: Option<(&Word, &[u8])>) {
        let mut says = Says::default();
        if let Some((word, payload)) = word {
            assert!(says.with(word, [payload, &[]]));
        }
        self.with(|peer, driver| {
            let between = peer.take_words(driver, &mut Heard::default()).unwrap().between.unwrap();
            let permits = peer.permits().clone();
            peer.say_words(driver, between, says, &permits, true);
        });
    }
}

/// Two nodes that are linked and share work.
struct Scene {
    network: Network,
    clocks: Simulated,
    hosts: [Host; 2],
}

impl Scene {
    fn new() -> Self {
        let clocks = Simulated::begin(7);
        let network = network(KERNEL_BYTES);
        let hosts = [Host::new(&network, 0, NEAR, FAR), Host::new(&network, 1, FAR, NEAR)];
        let mut scene = Self { network, clocks, hosts };
        scene.until("they speak", |standings, _| {
            standings.iter().all(|standing| {
                standing.is_some_and(|standing| standing.between.is_some() && standing.has_two)
            })
        });
        // Who shares work takes large words.
        scene.hosts.iter().for_each(|host| host.say(None));
        scene
    }

    /// Returns how many bytes the way could have carried meanwhile.
    fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut([Option<Standing>; 2], &mut [Host; 2]) -> bool,
    ) -> u64 {
        let since_ns = self.network.now_ns();
        for _ in 0..STEPS_MAX {
            let standings = self.hosts.each_mut().map(Host::step);
            if done(standings, &mut self.hosts) {
                return (self.network.now_ns() - since_ns) * (RATE / 1_000_000) / 1_000;
            }
            self.network.advance(STEP);
            self.clocks.pass(self.network.now_ns());
        }
        panic!("in vain: {what}");
    }

    fn pass(&mut self, time: Duration) {
        let until_ns = self.network.now_ns() + time.as_nanos() as u64;
        let network = self.network.clone();
        self.until("time passes", |_, _| network.now_ns() >= until_ns);
    }
}

fn reply(task: u64) -> Word {
    Word::Reply { task, index: 0, state: 0, extensions: 0 }
}

#[test]
fn a_small_word_waits_for_a_share_of_a_large_one_and_what_the_kernels_have_however_large_that_is() {
    let mut scene = Scene::new();
    let large = vec![7; LARGE_BYTES];
    scene.hosts[0].say(Some((&reply(1), &large)));
    let mut most = 0;
    for tasks in 1..=20 {
        scene.pass(Duration::from_millis(20 + 7 * tasks));
        scene.hosts[0].say(Some((&Word::Grant { pull: 1, tasks }, b"")));
        let bytes = scene.until("a small word comes", |_, [_, far]| !far.come.is_empty());
        let come = std::mem::take(&mut scene.hosts[1].come);
        assert_eq!(
            come.iter().map(|body| decode(body).unwrap().0).collect::<Vec<_>>(),
            [Word::Grant { pull: 1, tasks }]
        );
        most = most.max(bytes);
    }
    let standing = scene.hosts[0].step().unwrap();
    assert!(standing.large_bytes > LARGE_BYTES / 2, "the large one is under way: {standing:?}");
    // What both kernels may hold, and a share of the link that is bulk's before the next has its turn.
    let bound = 2 * KERNEL_BYTES + LINK_SHARE_BYTES + LINK_FRAGMENT_BYTES;
    assert!(most <= bound as u64, "{most} bytes before a small word");
    scene.until("the large one comes", |_, [_, far]| !far.come.is_empty());
    let (word, payload) = decode(&scene.hosts[1].come[0]).unwrap();
    assert!(word == reply(1) && payload == large, "it is whole");
    println!("evidence: small_words=20 bytes_before_one_most={most} bound={bound} large_bytes={LARGE_BYTES}");
}

#[test]
fn an_older_peer_that_wants_one_source_has_all_words_by_it_in_the_order_in_which_they_were_said() {
    let mut scene = Scene::new();
    scene.hosts[1].with(|peer, driver| peer.tell(driver, Input::Unwant { id: WANT_LARGE }));
    scene.until("it is heard", |[near, _], _| near.is_some_and(|near| !near.has_two));
    let large = vec![7; 3 << 20];
    let grant = Word::Grant { pull: 1, tasks: 1 };
    let said: [(Word, &[u8]); 4] =
        [(reply(1), &large), (grant.clone(), b""), (reply(2), &large), (grant, b"")];
    for (word, payload) in &said {
        scene.hosts[0].say(Some((word, payload)));
    }
    scene.until("all comes", |_, [_, far]| far.come.len() == said.len());
    for (body, said) in scene.hosts[1].come.iter().zip(&said) {
        assert!(decode(body).unwrap() == (said.0.clone(), said.1));
    }
    scene.until("all is confirmed", |[near, _], _| near.is_some_and(|near| near.waiting_bytes == 0));
}
