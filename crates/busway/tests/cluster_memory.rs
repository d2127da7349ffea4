//! What endpoints of a cluster take: nothing more after a million messages, and nothing once they are closed.
//! One test at a time: the memory, threads and descriptors of the process are counted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "cluster/stage.rs"]
#[expect(dead_code, reason = "it serves another test as well, which uses the rest")]
mod stage;

use std::sync::{Mutex, PoisonError};

use busway::cluster::{Ending, Endpoint, Next, Peer};

use stage::{Stage, number, receive, send, until};

/// Also where tests are not run one at a time by themselves.
static ALONE: Mutex<()> = Mutex::new(());

const WARM: u64 = 100_000;
const MESSAGES: u64 = 1_000_000;
/// Four bytes a message would be more.
const GROWTH_MAX: u64 = 3 << 20;

#[test]
fn after_a_million_messages_no_more_memory_is_used_than_after_the_first() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::new();
    let replica = stage.replicas(1).pop().unwrap();
    let client = stage.client(1, std::slice::from_ref(&replica));
    // Every thousandth is answered, so that the sender is never far ahead.
    replica
        .on_message(|sender, message| {
            if number(message).is_multiple_of(1_000) {
                assert_eq!(sender.send(message.from(), message), busway::cluster::Outcome::Queued);
            }
            Next::Taken
        })
        .unwrap();
    until("it is there", || client.connected().len() == 1 && replica.connected().len() == 1);
    let reserved = |endpoint: &Endpoint| endpoint.bus().inspect().unwrap().budget.reserved_bytes;
    let mut warm = (0, 0);
    let mut most = 0;
    for n in 1..=MESSAGES {
        send(&client, Peer::Replica(0), n);
        if n % 1_000 == 0 {
            assert_eq!(number(&receive(&client)), n);
        }
        if n % WARM == 0 {
            let used = (resident_bytes(), reserved(&client) + reserved(&replica));
            if n == WARM {
                warm = used;
            }
            most = most.max(used.0.saturating_sub(warm.0));
            assert!(used.0 <= warm.0 + GROWTH_MAX, "{} bytes after {n} messages, {} before", used.0, warm.0);
            assert_eq!(used.1, warm.1, "shared memory after {n} messages");
        }
    }
    assert_eq!(client.close(), Ending::default());
    println!("evidence: messages={MESSAGES} resident_growth_bytes={most} shared_growth_bytes=0");
}

#[test]
fn closing_frees_threads_descriptors_links_and_files() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // What the process itself needs once is there afterwards.
    round(&Stage::new());
    // What of the first round had not ended when it was counted has after the next: it is the least that counts.
    let mut before = counted();
    let stage = Stage::new();
    for _ in 0..3 {
        round(&stage);
        until("threads and descriptors are as before", || {
            let now = counted();
            let ended = now.0 <= before.0 && now.1 <= before.1;
            before = (before.0.min(now.0), before.1.min(now.1));
            ended
        });
    }
    let left: Vec<String> = std::fs::read_dir(stage.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.iter().all(|name| name.ends_with(".lock")), "{left:?}");
    println!("evidence: rounds=4 threads={} descriptors={}", before.0, before.1);
}

/// A cluster that is used and closed: some close, some are dropped, one has messages that nobody reads.
fn round(stage: &Stage) {
    let replicas = stage.replicas(3);
    let clients = [1, 2, 3].map(|id| stage.client(id, &replicas));
    for client in &clients {
        until("every client has every replica", || client.connected().len() == 3);
        for index in 0..3 {
            send(client, Peer::Replica(index), 1);
        }
    }
    assert_eq!(number(&receive(&replicas[0])), 1);
    replicas[1].on_message(|_, _| Next::Suspend).unwrap();
    for client in clients {
        drop(client);
    }
    for replica in replicas {
        replica.close();
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Threads and descriptors of this process.
fn counted() -> (usize, usize) {
    let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}
