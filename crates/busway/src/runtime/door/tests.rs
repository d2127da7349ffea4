//! Who comes from where, before it has said who it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use busway_io::{Driver, FakeDriver, HostId, Read};

use super::{Door, Shared, address_of};
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::node::Strangers;
use crate::ports::lock;
use crate::runtime::scene::{NEAR, address, config, network};
use crate::runtime::{Pieces, Simulated, Staging};

const CROWD: HostId = HostId(3);
const OTHER: HostId = HostId(4);

#[test]
fn an_address_counts_beyond_this_host_and_of_version_6_as_far_as_one_subscriber_has_it() {
    let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().expect("an address"));
    let from = |text: &str| SocketAddr::new(text.parse().expect("an address"), 5);
    assert_eq!(address_of(from("10.0.0.2"), Some(here)), Some(there));
    assert_eq!(address_of(from("::ffff:10.0.0.2"), Some(here)), Some(there));
    assert_eq!(address_of(from("2001:db8:1:2:3:4:5:6"), Some(here)), Some(from("2001:db8:1:2::").ip()));
    // Ours, by whichever of our addresses it comes.
    assert_eq!(
        address_of(from("fe80::2"), Some(here)),
        Some(from("fe80::2").ip()),
        "all of a network have its bits"
    );
    assert_eq!(address_of(from("127.0.0.1"), Some(here)), None);
    assert_eq!(address_of(from("10.0.0.1"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST))), None);
    assert_eq!(address_of(from("10.0.0.1"), Some(here)), None);
}

/// A node, and strangers that only connect.
struct Scene {
    shared: Arc<Shared<FakeDriver<Staging, Pieces>>>,
    door: Door<FakeDriver<Staging, Pieces>>,
    network: busway_io::Network,
    _bus: Bus,
    _scratch: Scratch,
    _clocks: Simulated,
}

impl Scene {
    fn new(strangers: Strangers) -> Scene {
        let clocks = Simulated::begin(5);
        let scratch = Scratch::new();
        let builder = Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30);
        let bus = builder.unmonitored().in_steps().open().expect("a bus");
        let network = network(64 << 10);
        let config = crate::runtime::hub::HubConfig { strangers, ..config(0, NEAR, &[]) };
        let (shared, _) = Shared::listen(bus.core.clone(), network.start(NEAR), config).expect("it listens");
        let door = Door::new(shared.clone());
        Scene { shared, door, network, _bus: bus, _scratch: scratch, _clocks: clocks }
    }

    /// So many connect from a host at once; what each of them reads.
    fn connect(&mut self, from: HostId, count: usize) -> (FakeDriver<Staging, Pieces>, Vec<String>) {
        let driver: FakeDriver<Staging, Pieces> = self.network.start(from);
        let all: Vec<_> = (0..count).map(|_| driver.dial(address(NEAR))).collect();
        for _ in 0..50 {
            let mut events = Vec::new();
            self.shared.poll_now(&mut events);
            self.door.take(&mut events);
            driver.poll(Some(Duration::ZERO), &mut Vec::new());
            self.network.advance(Duration::from_millis(1));
        }
        let read = |connection| {
            let (mut space, result) = driver.read_now(connection, Staging::new());
            let Some(Ok(Read::Bytes(count))) = result else { return String::new() };
            space.filled(count);
            String::from_utf8_lossy(space.bytes()).into_owned()
        };
        let told = all.into_iter().map(read).collect();
        (driver, told)
    }
}

#[test]
fn who_is_one_too_many_from_an_address_reads_why_and_is_counted_and_others_get_in() {
    let mut scene = Scene::new(Strangers { max: 8, of_address_max: 4 });
    let (_crowd, told) = scene.connect(CROWD, 6);
    let refused = |told: &[String]| {
        told.iter().filter(|told| told.contains("too many connections from this address")).count()
    };
    assert_eq!(refused(&told), 2, "{told:?}");
    assert_eq!(
        told.iter().filter(|told| told.is_empty()).count(),
        4,
        "the others may say who they are: {told:?}"
    );
    let (_other, told) = scene.connect(OTHER, 4);
    assert!(told.iter().all(String::is_empty), "{told:?}");
    let strangers = lock(&scene.shared.strangers);
    assert_eq!(strangers.len(), 1, "of one address somebody was refused");
    let known = strangers.front().expect("it is there");
    assert!(known.address.starts_with(&CROWD.ipv4().to_string()), "{known:?}");
    assert_eq!(known.denied, 2);
}
