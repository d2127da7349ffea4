//! A node that several programs of a host have in common: one carries the links, and the next goes on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busway::{Bus, LinkState, Node, NodeBuilder, Policy, SharedNode};
use busway_shm::clock::Deadline;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let random = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("busway-shared-{}-{random:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    fn join(&self) -> Bus {
        Bus::builder().directory(&self.0).domain("shop").arena_bytes(1 << 30).open().unwrap()
    }

    /// Files of locks of shared nodes.
    fn locks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "share")).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !so() {
        assert!(!deadline.expired(), "waited too long until {what}");
        std::thread::yield_now();
    }
}

fn is_linked(node: &SharedNode) -> bool {
    node.peers().iter().any(|peer| peer.state == LinkState::Connected)
}

#[test]
fn of_those_who_share_a_node_one_carries_the_links_and_another_when_it_ends() {
    let (far, near) = (Directory::new(), Directory::new());
    let server = far.join();
    let node = Node::builder().listen("127.0.0.1:0".parse().unwrap()).open(&server).unwrap();
    let client: NodeBuilder = Node::builder().client(7).peer(0, &node.listening()[0].to_string());
    let buses: Vec<Bus> = (0..3).map(|_| near.join()).collect();
    let mut shares: Vec<SharedNode> =
        buses.iter().map(|bus| client.clone().open_shared(bus).unwrap()).collect();
    let mut subscriber = buses[2].subscriber("price").policy(Policy::Block).open().unwrap();
    let mut publisher = server.publisher("price").max_wait(PATIENCE).late_join(PATIENCE).open().unwrap();
    let mut ends = 0;
    while !shares.is_empty() {
        until("one of them carries", || shares.iter().any(is_linked));
        assert_eq!(
            shares.iter().filter(|share| share.carries()).count(),
            1,
            "an identity is of one at a time"
        );
        assert_eq!(near.locks().len(), 1);
        until("the far node has one client", || {
            let peers = node.peers();
            peers.iter().filter(|peer| peer.state == LinkState::Connected).count() == 1
        });
        publisher.send(&[ends]).unwrap();
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("it crosses");
        assert_eq!(sample[..], [ends]);
        let carries = shares.iter().position(SharedNode::carries).unwrap();
        shares.remove(carries).close();
        ends += 1;
    }
    assert_eq!(near.locks(), Vec::<PathBuf>::new(), "the file is there only as long as somebody has it");
    println!("evidence: carriers={ends}");
}

#[test]
fn the_lock_that_a_killed_carrier_left_is_taken_and_settings_that_cannot_be_meant_are_refused_by_all() {
    let near = Directory::new();
    let bus = near.join();
    let client = Node::builder().client(7).peer(0, "127.0.0.1:1");
    drop(client.clone().open_shared(&bus).unwrap());
    let file = {
        let share = client.clone().open_shared(&bus).unwrap();
        let file = near.locks().remove(0);
        drop(share);
        file
    };
    // Who was killed has unlocked it and not removed it.
    std::fs::write(&file, b"").unwrap();
    let share = client.clone().open_shared(&bus).unwrap();
    assert!(share.carries());
    for wrong in [Node::builder().client(7), client.clone().token("two words")] {
        wrong.open_shared(&bus).unwrap_err();
    }
    // Another identity is another node.
    assert!(client.client(8).open_shared(&bus).unwrap().carries());
    assert!(Path::new(&file).exists());
}

/// A host whose node a client may join, and where it listens.
fn far() -> (Directory, Bus, Node) {
    let directory = Directory::new();
    let bus = directory.join();
    let node = Node::builder().listen("127.0.0.1:0".parse().unwrap()).open(&bus).unwrap();
    (directory, bus, node)
}

#[test]
fn two_nodes_of_one_bus_both_carry_and_closing_one_leaves_the_other() {
    let hosts = [far(), far()];
    let near = Directory::new();
    let bus = near.join();
    let join = |at: usize| {
        let address = hosts[at].2.listening()[0].to_string();
        Node::builder().client(7 + at as u64).peer(0, &address).open_shared(&bus).unwrap()
    };
    let mut shares = vec![join(0), join(1)];
    until("both are linked", || shares.iter().all(is_linked));
    // What is wanted here is said to both, though both were there before.
    let mut subscriber = bus.subscriber("price").policy(Policy::Block).open().unwrap();
    let publisher_of =
        |bus: &Bus| bus.publisher("price").max_wait(PATIENCE).late_join(PATIENCE).open().unwrap();
    let mut publishers: Vec<_> = hosts.iter().map(|(_, bus, _)| publisher_of(bus)).collect();
    for (at, publisher) in publishers.iter_mut().enumerate() {
        publisher.send(&[at as u8]).unwrap();
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("each of them carries");
        assert_eq!(sample[..], [at as u8]);
    }
    // And what is published here goes to both.
    let heard = |at: usize| hosts[at].1.subscriber("order").policy(Policy::Block).open().unwrap();
    let mut far_ends = [heard(0), heard(1)];
    let mut orders = bus.publisher("order").max_wait(PATIENCE).late_join(PATIENCE).open().unwrap();
    until("both want it", || {
        orders.send(&[9]).unwrap();
        far_ends.iter_mut().all(|end| end.try_recv().unwrap().is_some())
    });
    for closed in [1, 0] {
        let other = 1 - closed;
        if closed == 1 {
            shares.remove(closed).close();
        } else {
            // The one that came second, alone.
            shares.push(join(1));
            until("it is linked again", || shares.iter().all(is_linked));
            shares.remove(closed).close();
        }
        let topic = format!("late.{other}");
        let mut late = bus.subscriber(&topic).policy(Policy::Block).open().unwrap();
        let far_bus = &hosts[other].1;
        let mut publisher = far_bus.publisher(&topic).max_wait(PATIENCE).late_join(PATIENCE).open().unwrap();
        publisher.send(&[5]).unwrap();
        assert_eq!(late.recv_timeout(PATIENCE).unwrap().expect("the other still carries")[..], [5]);
    }
    println!("evidence: nodes=2 closed=2");
}

#[test]
fn who_makes_no_link_lets_another_that_waits_try() {
    let (far, near) = (Directory::new(), Directory::new());
    let server = far.join();
    let listen = "127.0.0.1:0".parse().unwrap();
    let node = Node::builder().listen(listen).accept_token("lamp", "right").open(&server).unwrap();
    let id = busway::Principal::client("lamp").unwrap().id().unwrap();
    let lamp = Node::builder().client(id).peer(0, &node.listening()[0].to_string());
    let (bus, other) = (near.join(), near.join());
    let wrong = lamp.clone().token("wrong").open_shared(&bus).unwrap();
    assert!(wrong.carries());
    let right = lamp.token("right").open_shared(&other).unwrap();
    assert!(!right.carries());
    until("the right one is linked", || is_linked(&right));
    assert!(!wrong.carries() && !right.peers().is_empty());
    println!("evidence: linked=1");
}

#[test]
fn a_bus_that_is_closed_gives_its_share_up_and_takes_no_other() {
    let near = Directory::new();
    let (bus, other) = (near.join(), near.join());
    let client = Node::builder().client(7).peer(0, "127.0.0.1:1");
    let share = client.clone().open_shared(&bus).unwrap();
    let waits = client.clone().open_shared(&other).unwrap();
    bus.close();
    until("another carries", || waits.carries());
    assert!(!share.carries());
    assert_eq!(client.open_shared(&bus).unwrap_err().code(), busway::Code::Closed);
}
