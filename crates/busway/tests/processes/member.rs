//! What a child of these tests can be told to do, a line each.
//!
//! Ports are numbered in the order in which they were opened. An answer comes when the thing is done. Counting and
//! sending happen on the thread that reads the lines, so that who traces it sees nothing else.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use busway::{Bus, Clock, Policy, Publisher, Sample, SendError, Subscriber};
use busway_shm::clock::{monotonic_ns, realtime_ns};

use crate::child::{DIRECTORY, NAME, PATIENCE};
use crate::logs;

/// Ends the stream of a publisher, for who counts until then.
const END: &[u8] = b"the end of the stream";
/// A stream goes on at least so long between two looks at the orders, and between two signs of progress.
const LOOK_EVERY: u64 = 1_000;

#[test]
fn obeys_if_it_was_started_as_a_part() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let (sender, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let name = std::env::var(NAME).unwrap();
    let mut part = Part {
        directory: directory.into(),
        name,
        orders,
        bus: None,
        publishers: Vec::new(),
        subscribers: Vec::new(),
        held: Vec::new(),
    };
    while let Ok(line) = part.orders.recv() {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = part.obey(&words);
        say(&answer);
    }
}

/// Past the capture of the test harness, in one system call: what it begins and ends is traced.
pub(crate) fn say(answer: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("@{answer}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

struct Part {
    directory: PathBuf,
    name: String,
    orders: Receiver<String>,
    bus: Option<Bus>,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    held: Vec<Sample>,
}

fn parse<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("a bad word in an order: `{word}`"))
}

impl Part {
    fn obey(&mut self, words: &[&str]) -> String {
        match *words {
            ["join"] => self.open(false),
            ["hold"] => self.open(true),
            ["tid"] => rustix::thread::gettid().as_raw_nonzero().to_string(),
            ["holds"] => self.bus().is_rendezvous().to_string(),
            ["pub", topic, slots, wait_ms] => self.publish(topic, parse(slots), parse(wait_ms)),
            ["sub", pattern, policy] => self.subscribe(pattern, parse(policy)),
            ["wait", count] => self.wait_for_subscribers(parse(count)),
            ["send", count] => self.send(parse(count)),
            ["push", count] => self.push(parse(count)),
            ["try-send", count] => self.try_send(parse(count)),
            ["spin-send", count] => self.spin_send(parse(count)),
            ["spin-take", count] => self.spin_take(parse(count)),
            ["take", count] => self.take(parse(count)),
            ["try-take"] => self.try_take(),
            ["leave-holding"] => self.leave_holding(),
            ["let-go"] => self.let_go(),
            ["stamp"] => self.stamp(),
            ["wake", count] => self.wake(parse(count)),
            ["stream", least] => self.stream(parse(least)),
            ["count-streams", streams] => self.count_streams(parse(streams)),
            ["batch", pubs, subs] => self.batch(parse(pubs), parse(subs)),
            ["end-batch"] => self.end_batch(),
            ["usage"] => usage(),
            ["log"] => logs::listen(),
            ["logged"] => logs::logged(),
            _ => panic!("the child does not know {words:?}"),
        }
    }

    fn bus(&self) -> &Bus {
        self.bus.as_ref().expect("it has joined")
    }

    fn open(&mut self, take_role: bool) -> String {
        let builder = Bus::builder().directory(&self.directory).name(&self.name).timeout(PATIENCE);
        let bus = if take_role { builder.take_role() } else { builder }.open().unwrap();
        let said = if take_role {
            assert!(bus.is_rendezvous(), "who takes the role has it");
            "holds"
        } else {
            "joined"
        };
        self.bus = Some(bus);
        said.to_owned()
    }

    fn publish(&mut self, topic: &str, slots: u32, wait_ms: u64) -> String {
        let builder = self.bus().publisher(topic).slots_max(slots).clock(Clock::Exact);
        let publisher = builder.max_wait(Duration::from_millis(wait_ms)).open().unwrap();
        self.publishers.push(publisher);
        format!("{}", self.publishers.last().expect("it was pushed").id())
    }

    fn subscribe(&mut self, pattern: &str, policy: Policy) -> String {
        let subscriber = self.bus().subscriber(pattern).policy(policy).open().unwrap();
        self.subscribers.push(subscriber);
        format!("{}", self.subscribers.last().expect("it was pushed").id())
    }

    fn wait_for_subscribers(&mut self, count: usize) -> String {
        self.publishers[0].wait_for_subscribers(count, PATIENCE).unwrap().to_string()
    }

    /// Sends whatever happens to slow subscribers.
    fn push(&mut self, count: u64) -> String {
        for number in 0..count {
            self.publishers[0].send(&number.to_le_bytes()).unwrap();
        }
        "pushed".to_owned()
    }

    /// Sends with the first publisher; says the longest wait of one message in microseconds.
    fn send(&mut self, count: u64) -> String {
        let publisher = &mut self.publishers[0];
        let mut longest_ns = 0;
        say("begin");
        for number in 0..count {
            let sent = publisher.send(&number.to_le_bytes()).unwrap();
            assert_eq!((sent.stalled, sent.evicted), (0, 0), "nobody is given up");
            longest_ns = longest_ns.max(sent.waited_ns);
        }
        (longest_ns / 1000).to_string()
    }

    /// Tries so often; says how often it went through and how often somebody was full.
    fn try_send(&mut self, count: u64) -> String {
        let (mut sent, mut full) = (0, 0);
        for number in 0..count {
            match self.publishers[0].try_send(&number.to_le_bytes()) {
                Ok(_) => sent += 1,
                Err(SendError::Full(_)) => full += 1,
                Err(error) => panic!("{error}"),
            }
        }
        format!("{sent} {full}")
    }

    /// Sends without ever sleeping: who is full is tried again.
    fn spin_send(&mut self, count: u64) -> String {
        let publisher = &mut self.publishers[0];
        let mut full = 0_u64;
        say("begin");
        for number in 0..count {
            while let Err(error) = publisher.try_send(&number.to_le_bytes()) {
                assert!(matches!(error, SendError::Full(_)), "{error}");
                full += 1;
                std::hint::spin_loop();
            }
        }
        say("end");
        full.to_string()
    }

    /// Takes without ever sleeping; every message comes, in order.
    fn spin_take(&mut self, count: u64) -> String {
        let subscriber = &mut self.subscribers[0];
        say("begin");
        for number in 0..count {
            let sample = loop {
                match subscriber.try_recv().unwrap() {
                    Some(sample) => break sample,
                    None => std::hint::spin_loop(),
                }
            };
            assert_eq!(sample[..], number.to_le_bytes(), "in order and without a gap");
        }
        say("end");
        count.to_string()
    }

    /// Takes, waiting as users do.
    fn take(&mut self, count: u64) -> String {
        let subscriber = &mut self.subscribers[0];
        for _ in 0..count {
            subscriber.recv_timeout(PATIENCE).unwrap().expect("a message comes");
        }
        format!("{}", subscriber.account().delivered)
    }

    /// How many messages are there now; says so with what was lost.
    fn try_take(&mut self) -> String {
        let subscriber = &mut self.subscribers[0];
        let mut taken = 0;
        while subscriber.try_recv().unwrap().is_some() {
            taken += 1;
        }
        let lost: u64 = subscriber.losses().iter().map(|loss| loss.count).sum();
        format!("{taken} {lost}")
    }

    /// Closes everything but a sample, which is still what it was.
    fn leave_holding(&mut self) -> String {
        self.held.extend(self.subscribers[0].recv_timeout(PATIENCE).unwrap());
        self.subscribers.clear();
        self.bus().close();
        self.bus = None;
        format!("{}", self.held[0].len())
    }

    fn let_go(&mut self) -> String {
        self.held.clear();
        "let go".to_owned()
    }

    /// Sends one message; the time when it was sent is in it.
    fn stamp(&mut self) -> String {
        self.publishers[0].send(&realtime_ns().to_le_bytes()).unwrap().sequence.to_string()
    }

    /// Sleeps for each message; says how many nanoseconds ago it was sent.
    fn wake(&mut self, count: u64) -> String {
        say("begin");
        for _ in 0..count {
            let sample = self.subscribers[0].recv().unwrap();
            let now = realtime_ns();
            let sent = u64::from_le_bytes(sample[..].try_into().unwrap());
            say(&now.saturating_sub(sent).to_string());
        }
        "woken".to_owned()
    }

    /// Sends at least so many messages, and goes on until `stop`; says the progress now and then.
    fn stream(&mut self, least: u64) -> String {
        let publisher = &mut self.publishers[0];
        let (mut sent, mut longest_ns) = (0_u64, 0_u64);
        let mut last = monotonic_ns();
        loop {
            for _ in 0..LOOK_EVERY {
                sent += 1;
                let done = publisher.send(&sent.to_le_bytes()).unwrap();
                assert_eq!((done.sequence, done.stalled), (sent, 0), "nobody is given up");
            }
            let now = monotonic_ns();
            longest_ns = longest_ns.max(now - last);
            last = now;
            say(&format!("progress {sent}"));
            if sent >= least && self.orders.try_recv().is_ok() {
                break;
            }
        }
        publisher.send(END).unwrap();
        publisher.flush(PATIENCE).expect("everybody reads to the end");
        let account = publisher.account();
        assert!(account.closed() && account.dropped_total() == 0, "{account:?}");
        format!("{sent} {} {}", longest_ns / 1000, account.delivered)
    }

    /// Reads so many streams to their ends; each must be without a gap from its first message.
    fn count_streams(&mut self, streams: usize) -> String {
        let subscriber = &mut self.subscribers[0];
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut ended, mut read) = (0, 0_u64);
        while ended < streams {
            let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("the streams go on");
            let before = last.entry(sample.publisher().pid).or_default();
            assert_eq!(sample.sequence(), *before + 1, "the sequences of {} have no gap", sample.topic());
            *before = sample.sequence();
            if sample[..] == *END {
                ended += 1;
            } else {
                assert_eq!(sample[..], sample.sequence().to_le_bytes(), "the payload is its own");
                read += 1;
            }
        }
        assert!(subscriber.losses().is_empty(), "nothing was lost");
        let account = subscriber.account();
        assert!(account.closed() && account.dropped_total() == 0, "{account:?}");
        read.to_string()
    }

    /// Opens so many ports on one topic.
    fn batch(&mut self, pubs: usize, subs: usize) -> String {
        for _ in 0..pubs {
            self.publish("batch", 64, 1000);
        }
        for _ in 0..subs {
            self.subscribe("batch", Policy::Block);
        }
        "opened".to_owned()
    }

    fn end_batch(&mut self) -> String {
        self.publishers.clear();
        self.subscribers.clear();
        "closed".to_owned()
    }
}

/// Resident bytes, shared resident bytes, descriptors, maps and threads of this process, in this order.
fn usage() -> String {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let mut pages = statm.split(' ').skip(1).map(parse::<u64>);
    let (resident, shared) = (pages.next().unwrap(), pages.next().unwrap());
    let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let (fds, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    format!("{} {} {fds} {maps} {threads}", resident * 4096, shared * 4096)
}
