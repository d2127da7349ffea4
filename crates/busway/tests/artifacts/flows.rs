//! Nodes whose flows are configured: workers before the machine.

use std::collections::BTreeSet;

use busway::artifacts::{
    ArtifactId, EVENT_FLOWS, Event, Flow, FlowCounts, Offer, Subscriber, WhenFull, Workers, WorkersBuilder,
};
use busway::{Code, Node};
use busway_shm::clock::Deadline;

use crate::stage::{Directory, Host, PATIENCE, body, join, receive, subscribe, until};

const MIB: u64 = 1 << 20;
const SIZES: [usize; 4] = [10, 5_000, 256 << 10, 1 << 20];

/// What a node allows, flow by flow.
const ALLOWED: [(Flow, &[WhenFull]); 5] = [
    (Flow::Transport, &[WhenFull::Wait]),
    (Flow::Advert, &[WhenFull::Coalesce]),
    (Flow::Request, &[WhenFull::Wait, WhenFull::Drop]),
    (Flow::Chunk, &[WhenFull::Wait]),
    (Flow::Retransmission, &[WhenFull::Coalesce]),
];

/// Two nodes, of which the second dials the first.
fn two(workers: &WorkersBuilder) -> [Host; 2] {
    let first = Host::built(9, &[], |node| node.artifact_workers(workers.clone()));
    let second = Host::built(1, &[(9, first.address())], |node| node.artifact_workers(workers.clone()));
    assert!(second.node.wait_for_peers(1, PATIENCE) && first.node.wait_for_peers(1, PATIENCE));
    [first, second]
}

fn offers(host: &Host, sizes: &[usize], seed: u64) -> Vec<Offer> {
    let of = host.bus.artifacts("block.new").unwrap();
    let seeds = seed..;
    sizes.iter().zip(seeds).map(|(size, seed)| of.offer(&body(*size, seed)).open().unwrap()).collect()
}

/// What comes of these offers is each of them, once to each.
fn receive_all(subscribers: &mut [Subscriber; 2], offered: &[Vec<Offer>; 2], what: &str) {
    let wanted: BTreeSet<ArtifactId> = offered.iter().flatten().map(Offer::id).collect();
    for (own, subscriber) in subscribers.iter_mut().enumerate() {
        let came: BTreeSet<ArtifactId> =
            wanted.iter().map(|_| receive(subscriber)).map(|artifact| artifact.advert().id()).collect();
        assert_eq!(came, wanted, "{what}: {own}");
    }
}

/// How often a flow had no room.
fn full(host: &Host, flow: Flow) -> u64 {
    let counts = host.node.artifact_flow(flow);
    counts.waited + counts.coalesced + counts.dropped_full
}

fn add_up(node: &Node, flow: Flow) -> FlowCounts {
    let counts = node.artifact_flow(flow);
    let dropped = counts.dropped_full + counts.dropped_ended;
    assert_eq!(
        counts.taken,
        counts.handled + counts.coalesced + dropped + counts.in_flight,
        "{flow} {counts:?}"
    );
    counts
}

#[test]
fn whatever_a_flow_is_told_to_do_when_it_is_full_all_artifacts_come_and_all_events_are_counted() {
    let (mut tried, mut filled, mut events) = (0, 0, 0);
    for (flow, allowed) in ALLOWED {
        for when_full in allowed {
            // Room for one event, and one that is each peer's own.
            let workers = Workers::builder().limit(flow, 1, MIB, *when_full).floor(1, 1 << 10);
            let hosts = two(&workers);
            let mut subscribers = [subscribe(&hosts[0], "block.>"), subscribe(&hosts[1], "block.>")];
            let what = format!("{flow} {when_full:?}");
            let mut sizes = SIZES.to_vec();
            let mut count = 0;
            // Of a peer one event at a time is told of its link, and of how far it knows us: those flows are never full of one.
            let fills = [Flow::Advert, Flow::Request, Flow::Chunk].contains(&flow);
            let deadline = Deadline::after(PATIENCE);
            while count == 0 || (fills && hosts.iter().all(|host| full(host, flow) == 0)) {
                assert!(!deadline.expired(), "{what}: it was never full");
                let offered = [0, 1].map(|at| offers(&hosts[at], &sizes, count + (1 << 32) * at as u64));
                receive_all(&mut subscribers, &offered, &what);
                // Their ends come too.
                drop(offered);
                for subscriber in &mut subscribers {
                    for _ in 0..2 * sizes.len() {
                        let event = subscriber.recv_timeout(PATIENCE).unwrap();
                        assert!(matches!(event, Some(Event::Withdrawn(_))), "{what}: {event:?}");
                    }
                }
                count += sizes.len() as u64;
                sizes = [5_000; 50].to_vec();
            }
            filled += u64::from(fills);
            for host in &hosts {
                let counts = EVENT_FLOWS.map(|flow| add_up(&host.node, flow));
                assert!(counts.iter().all(|counts| counts.handled > 0), "{flow}: {counts:?}");
                assert!(counts.iter().all(|counts| counts.panicked == 0), "{flow}: {counts:?}");
                events += counts.iter().map(|counts| counts.taken).sum::<u64>();
            }
            tried += 1;
        }
    }
    println!(
        "evidence: {tried} pairs of flow and rule, {filled} of them full, {events} events, each accounted for"
    );
}

#[test]
fn a_node_whose_flows_are_configured_has_threads_of_their_names_and_counts_what_the_machine_takes_in() {
    let threads = || -> BTreeSet<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    };
    let hosts = two(&Workers::builder().workers(Flow::Advert, 3));
    // The kernel keeps 15 bytes of a name.
    for name in ["bw-transport-0", "bw-advert-2", "bw-request-0", "bw-chunk-0", "bw-retransmissi"] {
        // One that has just begun has no name yet.
        until(name, || threads().contains(name));
    }
    let mut subscriber = subscribe(&hosts[0], "block.>");
    let offered = hosts[1].bus.artifacts("block.one").unwrap().offer(&body(100_000, 1)).open().unwrap();
    drop(receive(&mut subscriber));
    let metrics = || hosts[0].bus.metrics().unwrap();
    let counted = |flow: &str| metrics().with("flow_handled", flow).unwrap();
    for flow in EVENT_FLOWS {
        until("each flow has carried something", || {
            flow == Flow::Request || counted(flow.name()) == hosts[0].node.artifact_flow(flow).handled
        });
    }
    let told = || (counted("transport"), counted("retransmission"));
    until("the link and how far its tables are known are told", || told().0 > 0 && told().1 > 0);
    assert_eq!(told(), (1, 1));
    assert!(counted("chunk") >= 100_000 / (16 << 10));
    // A node without them counts none.
    let plain = Host::new(0, &[]);
    assert_eq!(plain.node.artifact_flow(Flow::Advert), FlowCounts::default());
    drop(offered);
    println!("evidence: 5 flows, 7 threads, counters equal");
}

#[test]
fn peers_that_come_and_go_are_told_to_the_machine_in_order_through_its_flows() {
    let workers = Workers::builder().limit(Flow::Transport, 1, MIB, WhenFull::Wait).floor(1, 1 << 10);
    let first = Host::built(9, &[], |node| node.artifact_workers(workers.clone()));
    let mut subscriber = subscribe(&first, "block.>");
    let of = |round: u64| body(3_000, round);
    for round in 0..5 {
        let second = Host::built(1, &[(9, first.address())], |node| node.artifact_workers(workers.clone()));
        let offer = second.bus.artifacts("block.new").unwrap().offer(&of(round)).open().unwrap();
        assert!(receive(&mut subscriber).bytes().unwrap()[..] == of(round)[..]);
        offer.withdraw();
        assert!(matches!(subscriber.recv_timeout(PATIENCE).unwrap(), Some(Event::Withdrawn(_))));
        drop(second);
    }
    until("the last has gone", || add_up(&first.node, Flow::Transport).handled == 10);
    println!("evidence: 5 peers came and went");
}

#[test]
fn what_makes_no_sense_for_a_flow_of_a_node_is_refused_with_what_to_do() {
    let directory = Directory::new();
    let bus = join(directory.path());
    let mut refused = 0;
    for (flow, allowed) in ALLOWED {
        for when_full in
            [WhenFull::Wait, WhenFull::Coalesce, WhenFull::Drop, WhenFull::Fail, WhenFull::Policy]
        {
            let workers = Workers::builder().limit(flow, 10, MIB, when_full);
            let opened = Node::builder().index(1).artifact_workers(workers).open(&bus);
            match opened {
                Ok(_) => assert!(allowed.contains(&when_full), "{flow} {when_full:?}"),
                Err(error) => {
                    assert!(!allowed.contains(&when_full), "{flow} {when_full:?}: {error}");
                    assert_eq!(error.code(), Code::BadSetting);
                    assert!(!error.place().is_empty() && !error.try_().is_empty(), "{error}");
                    refused += 1;
                }
            }
        }
    }
    let client = Node::builder().client(7).peer(1, "127.0.0.1:9").artifact_workers(Workers::builder());
    assert_eq!(client.open(&bus).unwrap_err().code(), Code::BadSetting);
    println!("evidence: {refused} of 25 pairs of flow and rule refused");
}
