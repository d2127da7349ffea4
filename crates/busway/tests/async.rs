//! Messages without a waiting thread: streams and futures on an executor of thirty lines, woken and never polled.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/asleep.rs"]
mod asleep;
#[path = "scene/place.rs"]
mod place;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use asleep::until_asleep;
use busway::{Bus, Policy, RecvError, Sample, SampleStream};
use busway_shm::clock::{self, Deadline};
use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};
use futures_core::Stream;
use place::{PATIENCE, Scene};
use rustix::thread::{Pid, gettid};

/// One test counts the threads of the process: the others wait.
static COUNTED: Mutex<()> = Mutex::new(());

/// Wakes the thread of one task.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs one task to its end; how often it was polled. It polls when it was woken and at no other time.
fn block_on<T>(task: impl Future<Output = T>) -> (T, u64) {
    let unpark = Arc::new(Unpark { thread: std::thread::current(), woken: AtomicBool::new(true) });
    let waker = Waker::from(unpark.clone());
    let (mut task, mut polls) = (pin!(task), 0);
    loop {
        if unpark.woken.swap(false, Ordering::Acquire) {
            polls += 1;
            if let Poll::Ready(value) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                return (value, polls);
            }
        } else {
            std::thread::park();
        }
    }
}

async fn next(stream: &mut SampleStream<'_>) -> Option<Result<Sample, RecvError>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

#[test]
fn a_task_that_waits_is_woken_by_the_message_and_not_polled() {
    const MESSAGES: u64 = 100;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("publishes"), scene.bus("waits"));
    let mut subscriber = ours.subscriber("async.*").policy(Policy::Block).open().unwrap();
    let mut publisher = theirs.publisher("async.a").open().unwrap();
    let (sender, results) = channel();
    let task = std::thread::spawn(move || {
        sender.send((0, gettid())).unwrap();
        let mut all = 0;
        for message in 0..MESSAGES {
            let (sample, polls) = block_on(subscriber.recv_async());
            assert_eq!(sample.unwrap()[..], message.to_le_bytes());
            sender.send((polls, gettid())).unwrap();
            all += polls;
        }
        all
    });
    for message in 0..=MESSAGES {
        let (_, thread) = results.recv_timeout(PATIENCE).expect("a task that waits is woken");
        if message < MESSAGES {
            until_asleep(thread);
            publisher.send(&message.to_le_bytes()).unwrap();
        }
    }
    let polls = task.join().unwrap();
    // Once to find nothing, once when woken, and a few looks where a task and the thread that sleeps for it cross.
    assert!(polls <= 6 * MESSAGES, "{polls} polls for {MESSAGES} messages");
    assert!(polls >= 2 * MESSAGES, "the messages were there before they were waited for: {polls} polls");
    println!("evidence: messages={MESSAGES} polls={polls}");
}

#[test]
fn a_task_that_waits_for_work_is_woken_by_it_and_by_what_is_given_back() {
    const MESSAGES: u64 = 50;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("pushes"), scene.bus("waits"));
    let open = |bus: &Bus| bus.puller("async.*").group("g").ack(PATIENCE).open().unwrap();
    let mut pusher = theirs.pusher("async.a").open().unwrap();
    let mut other = open(&theirs);
    pusher.send(&MESSAGES.to_le_bytes()).unwrap();
    let held = other.recv_timeout(PATIENCE).unwrap().expect("it is the only one");
    let mut puller = open(&ours);
    let (sender, results) = channel();
    let task = std::thread::spawn(move || {
        sender.send((0, gettid())).unwrap();
        let mut all = 0;
        for message in 0..=MESSAGES {
            let (task, polls) = block_on(puller.recv_async());
            let task = task.unwrap();
            assert_eq!(task[..], message.to_le_bytes());
            task.ack().unwrap();
            sender.send((polls, gettid())).unwrap();
            all += polls;
        }
        all
    });
    let asleep = || until_asleep(results.recv_timeout(PATIENCE).expect("a task that waits is woken").1);
    for message in 0..MESSAGES {
        asleep();
        pusher.send(&message.to_le_bytes()).unwrap();
    }
    asleep();
    held.nack();
    let polls = task.join().unwrap();
    assert!(polls <= 10 * MESSAGES, "it is not polled: {polls}");
    println!("evidence: messages={MESSAGES} polls={polls}");
}

#[test]
fn a_task_that_waits_for_work_is_woken_when_the_time_of_another_is_up_and_at_the_end() {
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("pushes"), scene.bus("waits"));
    let within = Duration::from_millis(200);
    let open = |bus: &Bus| bus.puller("async.*").group("g").ack(within).attempts(60).open().unwrap();
    let mut pusher = theirs.pusher("async.a").open().unwrap();
    let mut other = open(&theirs);
    pusher.send(b"work").unwrap();
    let _kept = other.recv_timeout(PATIENCE).unwrap().expect("it is the only one");
    let mut puller = open(&ours);
    let closer = ours.clone();
    let (sender, results) = channel();
    let task = std::thread::spawn(move || {
        block_on(async {
            let mut stream = puller.stream();
            let mut next = async || poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await;
            let task = next().await.expect("the bus is open").unwrap();
            sender.send((task[..].to_vec(), task.deliveries())).unwrap();
            let _ = task.ack();
            while let Some(again) = next().await {
                let _ = again.unwrap().ack();
            }
        })
    });
    let (body, deliveries) = results.recv_timeout(PATIENCE).expect("a task that waits is woken");
    assert_eq!(body, b"work");
    assert!(deliveries > 1, "{deliveries}");
    closer.close();
    task.join().unwrap();
}

#[test]
fn a_stream_gives_every_message_in_order_and_ends_when_the_bus_is_closed() {
    const MESSAGES: u64 = 20_000;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("publishes"), scene.bus("streams"));
    let mut subscriber = ours.subscriber("stream").policy(Policy::Block).open().unwrap();
    let mut publisher = theirs.publisher("stream").max_wait(PATIENCE).open().unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let (count, closer) = (received.clone(), ours.clone());
    let task = std::thread::spawn(move || {
        block_on(async {
            let mut stream = subscriber.stream();
            let mut last = 0;
            while let Some(sample) = next(&mut stream).await {
                let sample = sample.unwrap();
                assert_eq!(sample.sequence(), last + 1, "in order and without a gap");
                last = sample.sequence();
                count.store(last, Ordering::Release);
            }
            last
        })
    });
    for message in 0..MESSAGES {
        publisher.send(&message.to_le_bytes()).unwrap();
    }
    publisher.flush(PATIENCE).unwrap();
    while received.load(Ordering::Acquire) < MESSAGES {
        std::thread::yield_now();
    }
    closer.close();
    let (last, polls) = task.join().unwrap();
    assert_eq!(last, MESSAGES, "the stream ends behind the last message");
    println!("evidence: messages={MESSAGES} polls={polls}");
}

#[test]
fn one_thread_sleeps_for_a_hundred_tasks_and_wakes_the_one_that_a_message_is_for() {
    const TASKS: usize = 100;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let bus = scene.bus("tasks");
    let mut publishers: Vec<_> =
        (0..TASKS).map(|at| bus.publisher(&format!("task.{at}")).open().unwrap()).collect();
    let (sender, results) = channel();
    let tasks: Vec<_> = (0..TASKS)
        .map(|at| {
            let mut subscriber = bus.subscriber(&format!("task.{at}")).open().unwrap();
            let sender = sender.clone();
            std::thread::spawn(move || {
                sender.send(gettid()).unwrap();
                let (sample, polls) = block_on(subscriber.recv_async());
                assert_eq!(sample.unwrap().topic(), format!("task.{at}"));
                polls
            })
        })
        .collect();
    for _ in 0..TASKS {
        until_asleep(results.recv_timeout(PATIENCE).unwrap());
    }
    // One that has just begun has no name yet, and those of another test may be ending.
    let deadline = Deadline::after(PATIENCE);
    while sleepers().count() != 1 {
        assert!(!deadline.expired(), "one thread sleeps for all: {:?}", sleepers().collect::<Vec<_>>());
        std::thread::yield_now();
    }
    for publisher in &mut publishers {
        publisher.send(b"wake").unwrap();
    }
    let polls: u64 = tasks.into_iter().map(|task| task.join().unwrap()).sum();
    // Each looks when it starts, when it is woken, and where it and the thread that sleeps for it cross; who waits for
    // other topics sleeps on.
    assert!(polls <= 8 * TASKS as u64, "{polls} looks of {TASKS} tasks");
    println!("evidence: tasks={TASKS} polls={polls}");
}

/// The threads of this process that sleep for tasks and have their name.
fn sleepers() -> impl Iterator<Item = Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "bw-wake")
    });
    named.map(|task| Pid::from_raw(task.file_name().into_string().unwrap().parse().unwrap()).unwrap())
}

/// The thread of this process that sleeps for tasks, once it has its name.
fn sleeper() -> Pid {
    let deadline = Deadline::after(PATIENCE);
    loop {
        if let Some(sleeper) = sleepers().next() {
            return sleeper;
        }
        assert!(!deadline.expired(), "a thread sleeps for tasks");
    }
}

/// How often a thread of this process has gone to sleep.
fn sleeps(thread: Pid) -> u64 {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[test]
fn while_no_task_waits_messages_wake_no_thread_and_the_next_that_waits_is_woken_again() {
    const MESSAGES: u64 = 50;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let bus = scene.bus("busy");
    let mut publisher = bus.publisher("async.busy").open().unwrap();
    let mut subscriber = bus.subscriber("async.busy").open().unwrap();
    let mut slept = 0;
    for _ in 0..2 {
        let woken = Arc::new(Unpark { thread: std::thread::current(), woken: AtomicBool::new(false) });
        {
            let (waker, mut waits) = (Waker::from(woken.clone()), pin!(subscriber.recv_async()));
            let looked = waits.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(looked.is_pending(), "there is nothing yet");
            until_asleep(sleeper());
            publisher.send(b"wakes").unwrap();
            let deadline = Deadline::after(PATIENCE);
            while !woken.woken.load(Ordering::Acquire) {
                assert!(!deadline.expired(), "who waits is woken");
                std::thread::yield_now();
            }
        }
        let thread = sleeper();
        // The first that finds nobody waiting may wake it, and it then waits for who waits.
        until_asleep(thread);
        publisher.send(b"nobody's").unwrap();
        until_asleep(thread);
        let before = sleeps(thread);
        for message in 0..MESSAGES {
            publisher.send(&message.to_le_bytes()).unwrap();
            until_asleep(thread);
        }
        slept += sleeps(thread) - before;
        while subscriber.try_recv().unwrap().is_some() {}
    }
    assert!(slept <= MESSAGES / 10, "woken {slept} times by messages that nobody waited for");
    println!("evidence: messages={} woken={slept}", 2 * MESSAGES);
}

/// Batches of which one half is measured: by the timer each would take half a second on the average.
const BATCHES: usize = 21;

/// The middle of these times.
fn woken_within(mut micros: Vec<u64>) -> u64 {
    micros.sort_unstable();
    let middle = micros[micros.len() / 2];
    assert!(middle < 100_000, "half of the batches took {middle} us and more");
    middle
}

#[test]
fn a_task_is_woken_when_a_batch_ends() {
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("publishes"), scene.bus("waits"));
    let mut subscriber = ours.subscriber("batch").policy(Policy::Block).open().unwrap();
    let mut publisher = theirs.publisher("batch").max_wait(PATIENCE).open().unwrap();
    let (sender, results) = channel();
    let reads = std::thread::spawn(move || {
        for _ in 0..BATCHES {
            sender.send(gettid()).unwrap();
            for message in 0..3 {
                assert_eq!(block_on(subscriber.recv_async()).0.unwrap().payload(), [message]);
            }
        }
        sender.send(gettid()).unwrap();
    });
    let mut micros = Vec::new();
    let mut thread = results.recv_timeout(PATIENCE).unwrap();
    for _ in 0..BATCHES {
        until_asleep(thread);
        let begin = clock::monotonic_ns();
        let mut batch = publisher.batch();
        for message in 0..3 {
            batch.send(&[message]).unwrap();
        }
        drop(batch);
        thread = results.recv_timeout(PATIENCE).unwrap();
        micros.push((clock::monotonic_ns() - begin) / 1000);
    }
    reads.join().unwrap();
    println!("evidence: batches={BATCHES} p50_us={}", woken_within(micros));
}

#[test]
fn a_task_is_woken_before_a_batch_waits_for_somebody_else() {
    const RING: u8 = 32;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    let (theirs, ours) = (scene.bus("publishes"), scene.bus("waits"));
    let mut micros = Vec::new();
    for _ in 0..BATCHES {
        let mut waits = ours.subscriber("batch").open().unwrap();
        let mut slow = ours.subscriber("batch").policy(Policy::Block).open().unwrap();
        let builder = theirs.publisher("batch").slots_max(RING.into()).max_wait(PATIENCE);
        let mut publisher = builder.open().unwrap();
        let (sender, results) = channel();
        let reads = std::thread::spawn(move || {
            for message in 0..RING {
                if message == RING - 8 {
                    sender.send(gettid()).unwrap();
                }
                assert_eq!(block_on(waits.recv_async()).0.unwrap().payload(), [message]);
            }
            // Only now the publisher has room.
            assert_eq!(slow.recv().unwrap().payload(), [0]);
            slow
        });
        let mut batch = publisher.batch();
        (0..RING - 8).for_each(|message| assert!(batch.send(&[message]).is_ok()));
        batch.tell();
        until_asleep(results.recv_timeout(PATIENCE).unwrap());
        (RING - 8..RING).for_each(|message| assert!(batch.send(&[message]).is_ok()));
        let begin = clock::monotonic_ns();
        batch.send(&[RING]).unwrap();
        micros.push((clock::monotonic_ns() - begin) / 1000);
        drop(batch);
        drop(reads.join().unwrap());
    }
    println!("evidence: batches={BATCHES} p50_us={}", woken_within(micros));
}
