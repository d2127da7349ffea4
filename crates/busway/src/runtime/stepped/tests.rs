//! Two nodes in one thread, looked at between two steps.

use std::net::SocketAddr;
use std::time::Duration;

use busway_io::{HostId, Manners, Network};
use busway_protocol::PeerId;
use busway_wire::Policy;

use super::{Simulated, Stepped, control_due_ns, step_control};
use crate::bus::Bus;
use crate::control::scratch::Scratch;
use crate::node::Node;
use crate::ports::lock;

/// Moments of the network: many times what a test takes.
const MOMENTS_MAX: usize = 100_000;
const LARGE_BYTES: usize = 2 << 20;

struct Host {
    node: Stepped,
    bus: Bus,
    _scratch: Scratch,
}

fn address(index: u8) -> SocketAddr {
    SocketAddr::from((HostId(u16::from(index)).ipv4(), 4420))
}

fn host(network: &Network, index: u8) -> Host {
    let scratch = Scratch::new();
    let builder = Bus::builder().directory(scratch.path().join("run")).arena_bytes(1 << 30);
    let bus = builder.budget(4 << 30).unmonitored().in_steps().open().expect("a bus");
    let other = 1 - index;
    let node = Node::builder().cluster("test").index(index).listen(address(index));
    let node = node.peer(other, &address(other).to_string()).allow_plain_beyond_loopback();
    let node = node.open_stepped(&bus, network, HostId(u16::from(index))).expect("a node");
    Host { node, bus, _scratch: scratch }
}

/// Steps both until `done` says so, which looks at them at each moment.
fn step_until(
    network: &Network,
    clocks: &Simulated,
    hosts: &mut [Host; 2],
    mut done: impl FnMut(&mut [Host; 2]) -> bool,
) {
    for _ in 0..MOMENTS_MAX {
        for host in hosts.iter_mut() {
            for _ in 0..100 {
                if control_due_ns(&host.bus) <= network.now_ns() {
                    step_control(&host.bus);
                    host.node.nudge();
                }
                if !host.node.step() {
                    break;
                }
            }
        }
        if done(hosts) {
            return;
        }
        network.advance(Duration::from_micros(20));
        clocks.pass(network.now_ns());
    }
    panic!("it does not come to its end: {}; {}", hosts[0].node.describe(), hosts[1].node.describe());
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence that the claim's row shows")]
fn the_rest_of_a_large_payload_is_read_to_where_its_readers_find_it() {
    let clocks = Simulated::begin(1);
    let network = Network::new(1, Manners::smooth());
    let mut hosts = [host(&network, 0), host(&network, 1)];
    let mut publisher = hosts[0].bus.publisher("large").open().expect("a publisher");
    let mut subscriber = hosts[1].bus.subscriber("large").policy(Policy::Block).open().expect("a subscriber");
    step_until(&network, &clocks, &mut hosts, |_| publisher.subscribers() == 1);
    let payload: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    publisher.try_send(&payload).expect("there is room");
    hosts[0].node.nudge();
    let (mut to_its_place, mut past_it, mut awaited) = (0, 0, 0);
    let mut received = None;
    step_until(&network, &clocks, &mut hosts, |hosts| {
        let peers = lock(&hosts[1].node.shared.peers);
        let peer = peers.get(&PeerId::Node { index: 0 }).expect("a peer").clone();
        drop(peers);
        if let Some((to_it, awaits)) = lock(&peer).aims_at_its_place() {
            to_its_place += u32::from(to_it);
            past_it += u32::from(!to_it);
            awaited += u32::from(awaits);
        }
        received = subscriber.try_recv().expect("the bus is open");
        received.is_some()
    });
    println!(
        "evidence: {to_its_place} looks within a payload, {past_it} past it, {awaited} waited for its end"
    );
    assert_eq!(received.expect("it came").payload(), payload);
    assert!(to_its_place > 10 && past_it == 0, "{to_its_place} and {past_it}");
    assert!(awaited > 10, "{awaited}");
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence that the claim's row shows")]
fn what_goes_of_bulk_is_charged_to_its_link() {
    let clocks = Simulated::begin(2);
    let network = Network::new(2, Manners::smooth());
    let mut hosts = [host(&network, 0), host(&network, 1)];
    let mut publisher = hosts[0].bus.publisher("large").open().expect("a publisher");
    let mut subscriber = hosts[1].bus.subscriber("large").policy(Policy::Block).open().expect("a subscriber");
    step_until(&network, &clocks, &mut hosts, |_| publisher.subscribers() == 1);
    publisher.try_send(&vec![7; LARGE_BYTES]).expect("there is room");
    hosts[0].node.nudge();
    let mut charged = [0; 2];
    step_until(&network, &clocks, &mut hosts, |hosts| {
        for (at, host) in hosts.iter().enumerate() {
            let peer = host.node.shared.all()[0].clone();
            charged[at] = lock(&peer).turn();
        }
        subscriber.try_recv().expect("the bus is open").is_some()
    });
    println!("evidence: {} of {LARGE_BYTES} bytes were charged when all had come", charged[0]);
    // The last of them when the gate is asked again.
    let most = LARGE_BYTES as u64 + 65_536;
    assert!((LARGE_BYTES as u64 - 65_536..most).contains(&charged[0]), "{}", charged[0]);
    assert_eq!(charged[1], 0, "who has no bulk");
}
