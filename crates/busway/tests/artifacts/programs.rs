//! Programs that have no node of their own: they come to that of their host, by the bus.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use busway::artifacts::{Advert, ArtifactId, Event, Interest, Reach};
use busway::{Bus, Code, Node};
use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};

use crate::stage::{Directory, Host, PATIENCE, body, join, receive, until};

const DIRECTORY: &str = "BUSWAY_ARTIFACTS_PROGRAM";
const NODE: &str = "BUSWAY_ARTIFACTS_NODE";

/// A program in the domain of a host: to the bus it is another process.
fn program(host: &Host) -> Bus {
    join(host.directory())
}

fn two() -> [Host; 2] {
    let last = Host::new(1, &[]);
    let first = Host::new(0, &[(1, last.address())]);
    assert!(first.node.wait_for_peers(1, PATIENCE) && last.node.wait_for_peers(1, PATIENCE));
    [first, last]
}

#[test]
fn a_program_without_a_node_offers_is_given_and_asks_as_one_with_a_node_does() {
    let hosts = two();
    let [here, there] = [program(&hosts[0]), program(&hosts[1])];
    let mut subscribers = [&here, &there, &hosts[1].bus]
        .map(|bus| bus.artifacts("block.>").unwrap().subscriber().open().unwrap());
    let sizes = [0, 1, 700, 1_024, 1_025, 20_000, 256 << 10];
    let topic = here.artifacts("block.new").unwrap();
    let mut offers = Vec::new();
    for (seed, size) in sizes.iter().enumerate() {
        offers.push(topic.offer(&body(*size, seed as u64)).attribute(b"mine").open().unwrap());
    }
    for subscriber in &mut subscribers {
        let mut came: Vec<(usize, Vec<u8>)> = sizes
            .iter()
            .map(|_| {
                let artifact = receive(subscriber);
                assert_eq!((artifact.advert().attribute(), artifact.advert().node()), (&b"mine"[..], 0));
                (artifact.bytes().unwrap().len(), artifact.bytes().unwrap().to_vec())
            })
            .collect();
        came.sort();
        for (seed, (size, (len, bytes))) in sizes.iter().zip(&came).enumerate() {
            assert!(size == len && *bytes == body(*size, seed as u64), "{size}");
        }
    }
    let listed = there.artifacts("block.>").unwrap().list().unwrap();
    assert!(listed.len() == sizes.len() && listed.iter().all(|listed| listed.here && !listed.own));
    assert_eq!(there.artifacts("other").unwrap().list().unwrap().len(), 0);
    assert_eq!(there.artifacts("x").unwrap().counts(), hosts[1].bus.artifacts("x").unwrap().counts());
    for offer in offers {
        offer.withdraw();
    }
    for subscriber in &mut subscribers {
        for _ in sizes {
            let event = subscriber.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(event, Some(Event::Withdrawn(_))), "{event:?}");
        }
    }
    let reach = topic.offer(b"for all").reach_all(PATIENCE).open().unwrap();
    reach.wait_reached(PATIENCE).unwrap();
    assert_eq!(reach.reach(), Reach::Reached);
    let own = hosts[0].bus.artifacts("block.new").unwrap();
    let refused = [&own, &topic].map(|of| of.offer(b"x").attribute(&[0; 257]).open().unwrap_err());
    assert_eq!((refused[0].code(), refused[1].code()), (Code::TooLarge, Code::TooLarge), "{}", refused[1]);
    println!("evidence: programs=2 artifacts={} given=3x withdrawn=3x reached=1", sizes.len());
}

#[test]
fn large_artifacts_go_from_program_to_program_by_bytes_file_and_reader_and_are_read_while_they_come() {
    const SIZE: usize = 5_000_000;
    let hosts = two();
    let [here, there] = [program(&hosts[0]), program(&hosts[1])];
    let folder = Directory::new();
    let file = folder.path().join("file");
    std::fs::write(&file, body(SIZE, 2)).unwrap();
    let topic = here.artifacts("large").unwrap();
    let artifacts = there.artifacts("large").unwrap();
    let mut subscriber = artifacts.subscriber().progress().as_it_arrives().open().unwrap();
    let offers = [
        topic.offer(&body(SIZE, 1)).open().unwrap(),
        topic.offer_file(&file).open().unwrap(),
        topic.offer_reader(std::io::Cursor::new(body(SIZE, 3))).open().unwrap(),
    ];
    let (mut received, mut arrived, mut progress) = (Vec::new(), 0, 0);
    while received.len() < offers.len() {
        match subscriber.recv_timeout(PATIENCE).unwrap().expect("something comes") {
            Event::Received(artifact) => received.push(artifact),
            Event::Arriving(arriving) => {
                let mut bytes = Vec::new();
                arriving.reader(PATIENCE).read_to_end(&mut bytes).unwrap();
                assert_eq!(ArtifactId::of(&bytes), arriving.advert().id());
                arrived += 1;
            }
            Event::Progress { have, size, .. } => {
                assert!(have <= size && size == SIZE as u64);
                progress += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    for artifact in &received {
        let number = offers.iter().position(|offer| offer.id() == artifact.advert().id()).unwrap();
        let wanted = body(SIZE, number as u64 + 1);
        assert!(artifact.bytes().unwrap()[..] == wanted[..]);
        let saved = folder.path().join(number.to_string());
        artifact.save(&saved).unwrap();
        assert!(std::fs::read(saved).unwrap() == wanted);
        let mut part = [0; 1_000];
        assert_eq!(artifact.read_at(SIZE as u64 - 10, &mut part).unwrap(), 10);
        assert!(part[..10] == wanted[SIZE - 10..]);
    }
    let fetched = artifacts.fetch(offers[1].id(), PATIENCE).unwrap();
    assert!(fetched.bytes().unwrap()[..] == body(SIZE, 2)[..]);
    drop((received, fetched, subscriber, offers));
    until("nothing is held any more", || artifacts.counts().stored_bytes == 0);
    println!("evidence: bytes={} arrived={arrived} progress={progress} left=0", 3 * SIZE);
}

#[test]
fn a_program_says_what_it_wants_and_says_it_again() {
    let hosts = two();
    let [here, there] = [program(&hosts[0]), program(&hosts[1])];
    let (wants, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let judge = {
        let (wants, asked) = (wants.clone(), asked.clone());
        move |advert: &Advert| {
            asked.fetch_add(1, Ordering::Relaxed);
            match advert.attribute() {
                b"never" => Interest::Drop,
                _ if wants.load(Ordering::Relaxed) => Interest::FetchNow,
                _ => Interest::Stash,
            }
        }
    };
    let mut subscriber = there.artifacts("a").unwrap().subscriber().interest(judge).open().unwrap();
    let artifacts = here.artifacts("a").unwrap();
    let _never = artifacts.offer(b"no").attribute(b"never").open().unwrap();
    let later = artifacts.offer(&body(5_000, 1)).attribute(b"later").open().unwrap();
    until("both were judged there", || {
        // It judges while it receives.
        assert_eq!(subscriber.recv_timeout(Duration::ZERO).unwrap(), None);
        asked.load(Ordering::Relaxed) == 2
    });
    wants.store(true, Ordering::Relaxed);
    subscriber.reconsider();
    assert_eq!(receive(&mut subscriber).advert().id(), later.id());
    println!("evidence: stashed=1 then_given=1 dropped=1");
}

#[test]
fn who_does_not_receive_holds_up_no_other_subscriber_and_loses_nothing() {
    const OFFERS: u64 = 1_500;
    let host = Host::new(0, &[]);
    let here = program(&host);
    let mut slow = here.artifacts("a").unwrap().subscriber().open().unwrap();
    let mut quick = here.artifacts("a").unwrap().subscriber().open().unwrap();
    let artifacts = here.artifacts("a").unwrap();
    let offers: Vec<_> =
        (0..OFFERS).map(|seed| artifacts.offer(&body(2_000, seed)).open().unwrap()).collect();
    for offer in &offers {
        assert_eq!(receive(&mut quick).advert().id(), offer.id());
    }
    for offer in &offers {
        assert_eq!(receive(&mut slow).advert().id(), offer.id());
    }
    println!("evidence: waited={OFFERS} lost=0 in_order=yes");
}

#[test]
fn when_the_node_goes_all_ends_and_the_next_node_is_found() {
    let directory = Directory::new();
    let of_node = join(directory.path());
    let here = join(directory.path());
    assert_eq!(here.artifacts("a").unwrap_err().code(), Code::NoNode);
    let first = Node::builder().index(0).open(&of_node).unwrap();
    let artifacts = here.artifacts("a").unwrap();
    let mut subscriber = artifacts.subscriber().open().unwrap();
    let offer = artifacts.offer(b"mine").keep().open().unwrap();
    assert_eq!(&receive(&mut subscriber).bytes().unwrap()[..], b"mine");
    drop(first);
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap_err().code(), Code::Closed);
    until("the offer has ended", || offer.reach() == Reach::Withdrawn);
    assert_eq!(artifacts.list().unwrap_err().code(), Code::Closed);
    assert_eq!(artifacts.offer(b"more").open().unwrap_err().code(), Code::Closed);
    let _second = Node::builder().index(0).open(&of_node).unwrap();
    let artifacts = here.artifacts("a").unwrap();
    assert_eq!(artifacts.list().unwrap().len(), 0, "what was offered went with its node");
    let mut subscriber = artifacts.subscriber().open().unwrap();
    let _offer = artifacts.offer(b"again").open().unwrap();
    assert_eq!(&receive(&mut subscriber).bytes().unwrap()[..], b"again");
    println!("evidence: no_node=BUS-0213 ended=BUS-0602 again=1");
}

/// Starts a program that offers two artifacts, one of them kept, and says so.
fn start(directory: &Path) -> (Child, BufReader<ChildStdout>) {
    start_as(directory, "programs::is_a_program_if_it_was_started_as_one", DIRECTORY)
}

/// Starts this test, which finds the directory in this variable.
fn start_as(directory: &Path, test: &str, variable: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("@ready") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the program has ended");
    }
    (child, stdout)
}

#[test]
fn is_a_program_if_it_was_started_as_one() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let bus = join(Path::new(&directory));
    let artifacts = bus.artifacts("a").unwrap();
    let _kept = artifacts.offer(b"kept").keep().open().unwrap();
    let _mine = artifacts.offer(b"mine").open().unwrap();
    let _subscriber = artifacts.subscriber().open().unwrap();
    println!("@ready");
    // Until it is killed, or who started it goes.
    let _ = std::io::stdin().lines().next();
}

#[test]
fn what_a_program_that_is_killed_had_ends_but_for_what_it_kept() {
    const PROGRAMS: usize = 5;
    let host = Host::new(0, &[]);
    let artifacts = host.bus.artifacts("a").unwrap();
    for _ in 0..PROGRAMS {
        let (mut child, stdout) = start(host.directory());
        assert!(artifacts.list().unwrap().iter().any(|listed| listed.advert.size() == 4));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdout);
    }
    let kept = || artifacts.list().unwrap().len();
    until("what is left are those that were kept", || kept() == PROGRAMS);
    println!("evidence: killed={PROGRAMS} kept={} withdrawn={PROGRAMS}", kept());
}

#[test]
fn what_cannot_be_offered_is_said_by_its_code_each_time() {
    const TIMES: usize = 20;
    let host = Host::built(0, &[], |builder| builder.artifact_store_bytes(1 << 20));
    let here = program(&host);
    let topic = here.artifacts("a").unwrap();
    let folder = Directory::new();
    let (file, sparse) = (folder.path().join("file"), folder.path().join("sparse"));
    let all = body(5_000_000, 1);
    std::fs::write(&file, &all).unwrap();
    std::fs::File::create(&sparse).unwrap().set_len(5 << 30).unwrap();
    for _ in 0..TIMES {
        let reader = || topic.offer_reader(std::io::Cursor::new(all.clone()));
        for offer in [topic.offer(&all), topic.offer_file(&file), reader()] {
            let error = offer.open().unwrap_err();
            assert_eq!(error.code(), Code::Full, "{error}");
        }
        let error = topic.offer_file(&sparse).open().unwrap_err();
        assert_eq!(error.code(), Code::TooLarge, "{error}");
    }
    // The same node takes what it has room for.
    let offer = topic.offer(&all[..900_000]).open().unwrap();
    assert_eq!(offer.id(), ArtifactId::of(&all[..900_000]));
    println!("evidence: full={} too_large={TIMES} then_offered=1", 3 * TIMES);
}

#[test]
fn of_several_nodes_one_that_reaches_other_hosts_goes_before_one_that_does_not() {
    const TIMES: usize = 10;
    let directory = Directory::new();
    let of_alone = join(directory.path());
    let _alone = Node::builder().index(7).open(&of_alone).unwrap();
    let alone = join(directory.path()).artifacts("a").unwrap().offer(b"x").open().unwrap();
    let of_linked = join(directory.path());
    let listen = "127.0.0.1:0".parse().unwrap();
    let linked = Node::builder().cluster("swarm").index(3).listen(listen).open(&of_linked).unwrap();
    for seed in 0..TIMES as u64 {
        let bus = join(directory.path());
        let _kept = bus.artifacts("a").unwrap().offer(&body(100, seed)).keep().open().unwrap();
    }
    let found = of_linked.artifacts("a").unwrap().list().unwrap();
    assert!(found.len() == TIMES && found.iter().all(|listed| listed.own && listed.advert.node() == 3));
    drop(linked);
    let after = join(directory.path()).artifacts("a").unwrap().list().unwrap();
    assert_eq!(after.iter().map(|listed| listed.advert.node()).collect::<Vec<_>>(), [7]);
    drop(alone);
    println!("evidence: asked={TIMES} of_linked={} then_of_alone=1", found.len());
}

/// Starts a program that has a node, in this domain.
fn start_node(directory: &Path) -> (Child, BufReader<ChildStdout>) {
    start_as(directory, "programs::has_a_node_if_it_was_started_as_one", NODE)
}

#[test]
fn has_a_node_if_it_was_started_as_one() {
    let Some(directory) = std::env::var_os(NODE) else { return };
    let bus = join(Path::new(&directory));
    let _node = Node::builder().index(0).open(&bus).unwrap();
    println!("@ready");
    let _ = std::io::stdin().lines().next();
}

#[test]
fn a_node_that_stands_still_for_a_while_does_then_what_nobody_waited_for() {
    const OFFERS: usize = 150;
    const TOLD_AT_ONCE: usize = 64;
    let directory = Directory::new();
    // The domain is of who comes first, and that is not the one that stands still.
    let offerer = join(directory.path());
    let (mut child, stdout) = start_node(directory.path());
    let pid = rustix::process::Pid::from_child(&child);
    // So long this one waits for an answer; what it does without waiting is to last longer.
    let timeout = Duration::from_secs(1);
    let builder = Bus::builder().directory(directory.path()).domain("swarm").arena_bytes(1 << 30);
    let here = builder.timeout(timeout).open().unwrap();
    let artifacts = here.artifacts("a").unwrap();
    let other = here.artifacts("b").unwrap();
    let ends = other.offer(b"given up while it stands still").open().unwrap();
    let mut subscriber = artifacts.subscriber().open().unwrap();
    let offered = offerer.artifacts("a").unwrap();
    let mut offers = Vec::new();
    for seed in 0..OFFERS as u64 {
        offers.push(offered.offer(&body(100, seed)).open().unwrap());
    }
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED)
        .unwrap()
        .expect("it is waited for");
    assert!(status.stopped(), "{status:?}");
    let mut came = 0;
    while subscriber.recv_timeout(timeout).unwrap().is_some() {
        came += 1;
    }
    assert!(came <= TOLD_AT_ONCE, "{came}: no more than it was told");
    drop(ends);
    for _ in 0..3 {
        assert_eq!(artifacts.list().unwrap_err().code(), Code::TimedOut);
    }
    assert_eq!(artifacts.try_counts().unwrap_err().code(), Code::TimedOut);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    for _ in came..OFFERS {
        receive(&mut subscriber);
    }
    until("what was given up is not offered", || other.list().is_ok_and(|listed| listed.is_empty()));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdout);
    println!("evidence: stopped_for_more_than_ms=4000 told_before={came} came={OFFERS} withdrawn=1");
}

#[test]
fn nobody_but_a_node_answers_on_a_topic_of_the_bus() {
    let host = Host::new(0, &[]);
    let here = program(&host);
    for pattern in ["$artifacts", "$artifacts.>", "^$artifacts", "^$"] {
        assert_eq!(here.responder(pattern).open().unwrap_err().code(), Code::ReservedTopic, "{pattern}");
    }
    for topic in ["$artifacts", "$artifacts.0000000000000001"] {
        assert_eq!(here.requester(topic).open().unwrap_err().code(), Code::ReservedTopic, "{topic}");
    }
    assert_eq!(here.artifacts("$artifacts").unwrap_err().code(), Code::ReservedTopic);
    println!("evidence: patterns_refused=4 topics_refused=3");
}
