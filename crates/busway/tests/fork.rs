//! A fork under load, as Python's multiprocessing does it: the child is told, the parent goes on, and the child's own
//! bus works.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/place.rs"]
mod place;

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busway::artifacts::{
    ArtifactHandler, Broadcaster, Draft, Event, Flow, PeerEvent, Reach, Voice, Word, Workers,
};
use busway::{Bus, Code, Node, Policy, Publisher, RecvError, ReplyError, Sample, SendError, Subscriber};
use busway_shm::sync::{AtomicBool, Ordering};
use place::{PATIENCE, Scene, join};
use rustix::process::{Pid, WaitOptions, waitpid};

const FORKS: usize = 20;

/// A child has whatever another test is just making.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `child` in a fork of this process, which has threads and locks in every state, and ends it there.
fn fork(child: impl FnOnce()) -> Pid {
    // SAFETY: what the child runs keeps to what this file tries: busway's calls, which must cope with it, and a bus of its
    // own. It never returns into the harness.
    #[expect(unsafe_code, reason = "a fork without exec is what is tried here")]
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
        // SAFETY: ends the child at once; the harness's threads do not exist here.
        #[expect(unsafe_code, reason = "the child must not run the harness's end")]
        unsafe {
            libc::_exit(if done { 0 } else { 1 })
        }
    }
    Pid::from_raw(pid).expect("fork gives a process")
}

#[test]
fn a_forked_child_is_told_of_artifacts_and_its_parents_stand() {
    let (_alone, scene) = (alone(), Scene::new());
    let bus = join(scene.directory(), "parent").open().unwrap();
    let node = Node::builder().index(0).open(&bus).unwrap();
    let artifacts = bus.artifacts("a").unwrap();
    let mut subscriber = artifacts.subscriber().open().unwrap();
    for n in 0..FORKS {
        let offer = artifacts.offer(&[n as u8; 50]).open().unwrap();
        let inherited = (artifacts.clone(), &offer, &mut subscriber);
        let child = fork(|| {
            let (artifacts, offer, subscriber) = inherited;
            let forked = |error: busway::Error| assert_eq!(error.code(), Code::Forked, "{error}");
            forked(artifacts.offer(b"x").open().unwrap_err());
            forked(artifacts.list().unwrap_err());
            forked(artifacts.subscriber().open().unwrap_err());
            forked(subscriber.recv_timeout(PATIENCE).unwrap_err());
            forked(offer.wait_reached(PATIENCE).unwrap_err());
            assert_eq!((offer.reach(), artifacts.counts().told), (Reach::Withdrawn, 0));
            subscriber.reconsider();
        });
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let Some(Event::Received(artifact)) = subscriber.recv_timeout(PATIENCE).unwrap() else {
            panic!("it comes to the parent")
        };
        assert_eq!((&artifact.bytes().unwrap()[..], offer.reach()), (&[n as u8; 50][..], Reach::Offered));
        offer.withdraw();
        assert!(matches!(subscriber.recv_timeout(PATIENCE).unwrap(), Some(Event::Withdrawn(_))));
    }
    drop(node);
    println!("evidence: forks={FORKS} told=all lost=0");
}

/// Does nothing with what it is told.
struct Deaf;

impl ArtifactHandler for Deaf {}

#[test]
fn a_forked_child_is_told_of_the_gate_the_workers_and_the_voice_of_its_parent() {
    let _alone = alone();
    let gate = Broadcaster::new();
    let early = Broadcaster::new();
    gate.start_with(|_| Ok(())).unwrap();
    let workers = Workers::builder().start(Arc::new(Deaf)).unwrap();
    let (voice, word) = (Voice::new(), Word::Ask { of: Vec::new() });
    let event = || PeerEvent::of(word.clone(), &[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // So that their locks are held at some of the forks.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = gate.offer(Draft::new("a", b"x"));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                workers.deliver(1, event()).unwrap();
                let _ = voice.say(1, &word, &[], Duration::ZERO);
            }
        });
        for _ in 0..FORKS {
            let child = fork(|| {
                let forked = |error: busway::Error| assert_eq!(error.code(), Code::Forked, "{error}");
                for gate in [&gate, &early] {
                    forked(gate.offer(Draft::new("a", b"x")).unwrap_err());
                    forked(gate.start_with(|_| Ok(())).unwrap_err());
                    assert_eq!(gate.counts().accepted, 0);
                    gate.close();
                }
                forked(workers.deliver(1, event()).unwrap_err());
                forked(workers.try_deliver(1, event()).unwrap_err());
                forked(workers.close(PATIENCE).unwrap_err());
                assert_eq!(workers.counts(Flow::Advert).handled, 0);
                forked(voice.say(1, &word, &[], PATIENCE).unwrap_err());
                assert!(voice.peers().is_empty());
                voice.wake();
            });
            let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
        stop.store(true, Ordering::Relaxed);
    });
    // And what a child drops it does not wait for.
    let dropped = Mutex::new(Some((gate, early, workers, voice)));
    let child = fork(|| drop(dropped.lock().unwrap_or_else(PoisonError::into_inner).take()));
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
    let (gate, _, workers, _) = dropped.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap();
    workers.close(PATIENCE).unwrap();
    gate.close();
    let counts = workers.counts(Flow::Advert);
    assert_eq!((counts.taken, counts.in_flight), (counts.handled, 0));
    println!("evidence: forks={FORKS} told=all handled={}", counts.handled);
}

#[test]
fn a_child_keeps_the_directory_of_a_store_from_nobody() {
    let (_alone, scene) = (alone(), Scene::new());
    let bus = join(scene.directory(), "parent").open().unwrap();
    let store = scene.directory().join("store");
    let open = || Node::builder().index(0).artifact_store(&store).open(&bus);
    let node = open().unwrap();
    let artifacts = bus.artifacts("a").unwrap();
    let mut subscriber = artifacts.subscriber().open().unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let offer = artifacts.offer(&sent).open().unwrap();
    let Some(Event::Received(artifact)) = subscriber.recv_timeout(PATIENCE).unwrap() else {
        panic!("it comes")
    };
    let (mut said, says) = std::io::pipe().unwrap();
    let child = fork(|| {
        assert_eq!(artifact.read_at(0, &mut [0; 8]).unwrap_err().code(), Code::Forked);
        drop(artifact.clone());
        (&says).write_all(b"x").unwrap();
        // Until it is killed.
        std::thread::park_timeout(PATIENCE);
    });
    said.read_exact(&mut [0]).unwrap();
    assert!(artifact.bytes().unwrap()[..] == sent[..]);
    drop(node);
    let next = open().expect("the child has no lock of it, and neither has what is in hand");
    assert!(artifact.bytes().unwrap()[..] == sent[..]);
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    waitpid(Some(child), WaitOptions::empty()).unwrap();
    drop((next, offer));
    println!("evidence: a directory was taken over while a child of its node lived");
}

/// Every call on what the child has inherited says that it is the parent's.
fn told(bus: &Bus, publisher: &mut Publisher, subscriber: &mut Subscriber) {
    let forked = |error: busway::Error| assert_eq!(error.code(), Code::Forked, "{error}");
    assert_eq!(publisher.try_send(b"x").unwrap_err(), SendError::Forked);
    assert_eq!(publisher.send(&[0; 500]).unwrap_err(), SendError::Forked);
    assert_eq!(publisher.send_timeout(b"x", Duration::ZERO).unwrap_err(), SendError::Forked);
    assert_eq!(publisher.loan(500).unwrap_err(), SendError::Forked);
    assert_eq!(publisher.flush(PATIENCE).unwrap_err(), SendError::Forked);
    forked(publisher.wait_for_subscribers(9, PATIENCE).unwrap_err());
    assert_eq!(subscriber.try_recv().unwrap_err(), RecvError::Forked);
    assert_eq!(subscriber.recv().unwrap_err(), RecvError::Forked);
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap_err(), RecvError::Forked);
    assert_eq!(subscriber.handle(9, |_| ()).unwrap_err(), RecvError::Forked);
    forked(bus.publisher("of.a.child").open().unwrap_err());
    forked(bus.subscriber("of.a.child").open().unwrap_err());
    forked(bus.inspect().unwrap_err());
    assert!(!bus.is_rendezvous(), "it is not the holder, even if its parent is");
    bus.close();
}

/// The child's own bus reaches the parent's subscriber and itself.
fn starts_afresh(scene: &Scene) {
    let bus = join(scene.directory(), "child").open().unwrap();
    let mut own = bus.subscriber("from.child").open().unwrap();
    let mut publisher = bus.publisher("from.child").open().unwrap();
    assert_eq!(publisher.wait_for_subscribers(2, PATIENCE).unwrap(), 2);
    publisher.send(&[9; 300]).unwrap();
    assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap()[..], [9; 300]);
    publisher.flush(PATIENCE).unwrap();
    drop((own, publisher));
    bus.close();
}

/// A child that opens its own bus first and drops what it has inherited afterwards, as a garbage collector may: its own
/// memory lies where its parent's did.
fn starts_before_it_forgets(scene: &Scene, inherited: (Publisher, Subscriber, Sample, Bus)) {
    let bus = join(scene.directory(), "child").open().unwrap();
    let mut own = bus.subscriber("of.child").open().unwrap();
    let mut publisher = bus.publisher("of.child").open().unwrap();
    publisher.send(&[8; 5_000]).unwrap();
    let kept = own.recv_timeout(PATIENCE).unwrap().unwrap();
    // Their threads have the stacks that the parent's threads had.
    let more: Vec<Bus> = (0..6).map(|_| join(scene.directory(), "child").open().unwrap()).collect();
    let (mut publisher_of_parent, subscriber_of_parent, sample_of_parent, bus_of_parent) = inherited;
    // None of these may look at memory that is not here, or is somebody else's by now.
    assert_eq!(sample_of_parent.payload(), b"", "a held sample is empty here");
    assert_eq!(subscriber_of_parent.account().expected, 0);
    assert_eq!((subscriber_of_parent.publishers(), publisher_of_parent.subscribers()), (0, 0));
    assert_eq!(publisher_of_parent.account(), Default::default());
    assert_eq!(publisher_of_parent.census(), Default::default());
    publisher_of_parent.flush(PATIENCE).unwrap_err();
    bus_of_parent.close();
    drop((publisher_of_parent, subscriber_of_parent, sample_of_parent, bus_of_parent));
    more.iter().for_each(Bus::close);
    assert_eq!(kept[..], [8; 5_000]);
    publisher.send(&[9; 300]).unwrap();
    publisher.send(&[9; 3_000_000]).unwrap();
    assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap()[..], [9; 300]);
    assert_eq!(own.recv_timeout(PATIENCE).unwrap().unwrap()[..], [9; 3_000_000][..]);
    assert_eq!(kept[..], [8; 5_000]);
}

/// Reads until it is told to stop; fails on a gap.
fn read_on(mut subscriber: Subscriber, stop: &AtomicBool) -> u64 {
    let mut next = 1;
    loop {
        match subscriber.recv_timeout(Duration::from_millis(50)).unwrap() {
            Some(sample) => {
                assert_eq!(sample.sequence(), next, "the parent misses nothing");
                next += 1;
            }
            None if stop.load(Ordering::Relaxed) => return next - 1,
            None => {}
        }
    }
}

#[test]
fn a_forked_child_is_told_and_starts_afresh_while_its_parent_goes_on() {
    let _alone = alone();
    let scene = Scene::new();
    let bus = scene.bus("parent");
    let reliable = |pattern: &str| bus.subscriber(pattern).policy(Policy::Block).open().unwrap();
    let (mut from_children, busy) = (reliable("from.child"), reliable("busy"));
    let (mut publisher, mut subscriber) =
        (bus.publisher("idle").open().unwrap(), bus.subscriber("idle").open().unwrap());
    publisher.send(&[1; 5_000]).unwrap();
    let held: Sample = subscriber.recv().unwrap();
    assert!(held.is_held());
    let mut inherited = Some((publisher, subscriber, held, bus.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = bus.publisher("busy").max_wait(PATIENCE).open().unwrap();
    let (writer, reader) = (stop.clone(), stop.clone());
    let (counts, counted) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            while !writer.load(Ordering::Relaxed) {
                // Small ones and chunks in turn, so that forks meet the heap's lock as well.
                load.send(&vec![3; if sent % 2 == 0 { 64 } else { 700 }]).unwrap();
                sent += 1;
            }
            sent
        });
        scope.spawn(move || counts.send(read_on(busy, &reader)).unwrap());
        for _ in 0..FORKS {
            let child = fork(|| {
                let (mut publisher, mut subscriber, held, bus) = inherited.take().unwrap();
                told(&bus, &mut publisher, &mut subscriber);
                // A garbage collector drops what it has inherited.
                drop((publisher, subscriber, held, bus));
                starts_afresh(&scene);
            });
            let sample = from_children.recv_timeout(PATIENCE).unwrap().expect("the child's bus works");
            assert_eq!(sample[..], [9; 300]);
            drop(sample);
            let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0), "the child has seen what it should");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let read = counted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(load.account().sent, read, "nothing is lost");
    let (mut publisher, mut subscriber, held, _) = inherited.unwrap();
    assert_eq!(&held[..], &[1; 5_000], "what the parent holds is as it was");
    publisher.send(b"after").unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], *b"after");
    println!("evidence: forks={FORKS} messages_of_the_parent_meanwhile={read}");
}

#[test]
fn a_forked_child_neither_finishes_nor_gives_back_the_work_of_its_parent() {
    let _alone = alone();
    let scene = Scene::new();
    let bus = scene.bus("parent");
    for (topic, acknowledged) in [("work.once", false), ("work.acknowledged", true)] {
        let mut pusher = bus.pusher(topic).open().unwrap();
        let builder = bus.puller(topic);
        let builder = if acknowledged { builder.ack(PATIENCE) } else { builder };
        let mut puller = builder.open().unwrap();
        pusher.send(&[5; 5_000]).unwrap();
        let task = puller.recv_timeout(PATIENCE).unwrap().expect("there is work");
        let mut inherited = Some((task, puller, pusher, bus.clone()));
        let child = fork(|| {
            let (task, mut puller, mut pusher, bus) = inherited.take().unwrap();
            assert!(task.is_empty(), "the memory is its parent's");
            assert!(task.ack().is_err(), "it is its parent's to finish");
            assert_eq!(puller.try_recv().unwrap_err(), RecvError::Forked);
            assert_eq!(puller.recv_timeout(PATIENCE).unwrap_err(), RecvError::Forked);
            assert_eq!((puller.pushers(), puller.unread().len(), pusher.pullers()), (0, 0, 0));
            assert_eq!(pusher.try_send(b"x").unwrap_err(), SendError::Forked);
            assert_eq!(bus.puller("work").open().unwrap_err().code(), Code::Forked);
            assert_eq!(bus.pusher("work").open().unwrap_err().code(), Code::Forked);
            drop((puller, pusher, bus));
        });
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "the child has seen what it should");
        let (task, mut puller, mut pusher, _) = inherited.unwrap();
        assert_eq!(task[..], [5; 5_000], "what the parent has is as it was");
        assert!(puller.try_recv().unwrap().is_none(), "nobody gave it back");
        assert!(pusher.flush(Duration::ZERO).is_err(), "nobody finished it");
        task.ack().unwrap();
        pusher.flush(PATIENCE).unwrap();
    }
}

#[test]
fn a_forked_child_whose_bus_is_open_before_it_drops_what_it_inherited_keeps_its_own_memory() {
    let _alone = alone();
    let scene = Scene::new();
    let bus = scene.bus("parent");
    let mut publisher = bus.publisher("idle").open().unwrap();
    let mut subscriber = bus.subscriber("idle").open().unwrap();
    publisher.send(&[1; 5_000]).unwrap();
    let held: Sample = subscriber.recv().unwrap();
    assert!(held.is_held());
    // A bus that is closed, and kept: its memory is in nobody's way, and its handles are dropped in the child as well.
    let closed = scene.bus("closed");
    let (mut other, mut sink) =
        (closed.publisher("past").open().unwrap(), closed.subscriber("past").open().unwrap());
    other.send(&[2; 5_000]).unwrap();
    let past = sink.recv().unwrap();
    closed.close();
    let mut inherited = Some(((publisher, subscriber, held, bus), (other, sink, past, closed)));
    for _ in 0..4 {
        let child = fork(|| {
            let (first, second) = inherited.take().unwrap();
            starts_before_it_forgets(&scene, first);
            starts_before_it_forgets(&scene, second);
        });
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "the child has lost memory of its own: {status:?}");
    }
    let ((mut publisher, mut subscriber, held, _), (_, _, past, _)) = inherited.unwrap();
    assert_eq!(
        (&held[..], &past[..]),
        (&[1; 5_000][..], &[2; 5_000][..]),
        "what the parent holds is as it was"
    );
    publisher.send(b"after").unwrap();
    assert_eq!(subscriber.recv_timeout(PATIENCE).unwrap().unwrap()[..], *b"after");
}

#[test]
fn a_forked_child_is_told_of_requests_on_both_sides_and_its_parents_go_on() {
    let _alone = alone();
    let scene = Scene::new();
    let bus = scene.bus("parent");
    let mut responder = bus.responder("asked").open().unwrap();
    let requester = bus.requester("asked").open().unwrap();
    let pending = requester.send(&[1; 5_000], PATIENCE).unwrap();
    let mut request = responder.recv().unwrap();
    request.reply_part(b"first").unwrap();
    // A thread that waits has what a child would wait for.
    let waits = requester.clone();
    let waits = std::thread::spawn(move || waits.request(b"waits", PATIENCE).unwrap().to_vec());
    let waiting = responder.recv().unwrap();
    let mut inherited = Some((bus, responder, requester, pending, request));
    for _ in 0..4 {
        let child = fork(|| {
            let (bus, mut responder, requester, mut pending, mut request) = inherited.take().unwrap();
            let forked = |error: busway::Error| assert_eq!(error.code(), Code::Forked, "{error}");
            forked(requester.request(b"x", PATIENCE).unwrap_err().into());
            forked(requester.wait_for_responders(9, PATIENCE).unwrap_err());
            forked(pending.recv().unwrap_err().into());
            forked(pending.try_recv().unwrap_err().into());
            forked(pending.recv_timeout(PATIENCE).unwrap_err().into());
            forked(responder.try_recv().unwrap_err().into());
            forked(responder.recv().unwrap_err().into());
            forked(bus.requester("x").open().unwrap_err());
            forked(bus.responder("x").open().unwrap_err());
            assert!(pending.is_over() && request.is_cancelled() && request.is_empty());
            assert_eq!((requester.under_way(), requester.responders(), requester.lanes()), (0, 0, 0));
            assert_eq!(request.reply_part(b"x").unwrap_err(), ReplyError::Cancelled);
            drop((request, pending, requester, responder, bus));
        });
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "the child was not told, or hangs: {status:?}");
    }
    let (_bus, _responder, requester, mut pending, request) = inherited.unwrap();
    assert_eq!(request[..], [1; 5_000]);
    request.reply(b"second").unwrap();
    waiting.reply(b"waited").unwrap();
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"first");
    assert_eq!(&pending.recv().unwrap().unwrap()[..], b"second");
    assert_eq!(waits.join().unwrap(), b"waited");
    assert_eq!(requester.account().delivered, 2);
}

/// Descriptors of this process that refer to memory of a bus.
fn segments() -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| link.display().to_string()).filter(|link| link.contains("memfd:busway")).collect()
}

#[test]
fn a_forked_child_keeps_none_of_its_parents_memory_alive() {
    let _alone = alone();
    let scene = Scene::new();
    // The first holds the rendezvous, and with it what the others have sent it.
    let busses: Vec<Bus> = ["holder", "one", "two"].map(|name| scene.bus(name)).into();
    let mut publisher = busses[1].publisher("memory").open().unwrap();
    let mut subscriber = busses[2].subscriber("memory").open().unwrap();
    publisher.send(&[1; 2_000_000]).unwrap();
    let held = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(segments().len() >= 3 * 4, "{:?}", segments());
    let child = fork(|| assert_eq!(segments(), Vec::<String>::new()));
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "a child that outlives its parent pins its memory");
    assert_eq!(held[..], [1; 2_000_000][..]);
}
