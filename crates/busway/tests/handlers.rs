//! Ten thousand handlers come and go in one process. One test at a time: it looks at what the whole process has.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

use std::time::Duration;

use busway::Bus;
use busway_shm::clock::Deadline;

const PATIENCE: Duration = Duration::from_secs(30);
/// Of so many handlers each service.
const HANDLERS: u64 = 100;
/// What an allocator keeps back for reasons of its own.
const SLACK: u64 = 4 << 20;

fn entries(directory: &str) -> u64 {
    std::fs::read_dir(directory).unwrap().count() as u64
}

/// Bytes of memory that the process has, that in shared files included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Services whose handlers each get a message and are gone.
fn rounds(bus: &Bus, rounds: u64) -> u64 {
    let mut publisher = bus.publisher("all").open().unwrap();
    let mut handled = 0;
    for _ in 0..rounds {
        let mut service = bus.service("many").workers(1).on("all", |_| {});
        for _ in 1..HANDLERS {
            service = service.on("all", |_| {});
        }
        let service = service.start().unwrap();
        publisher.send(b"x").unwrap();
        let closed = service.close(PATIENCE);
        assert_eq!(closed.running, 0);
        handled += closed.handlers.iter().map(|account| account.handled).sum::<u64>();
    }
    handled
}

#[test]
fn ten_thousand_handlers_that_come_and_go_leave_the_process_as_it_was() {
    let random = busway_shm::sys::identity::random_u64().unwrap();
    let directory = std::env::temp_dir().join(format!("busway-handlers-{random:016x}"));
    let bus = Bus::builder().directory(&directory).open().unwrap();
    // What is made once is made now.
    assert_eq!(rounds(&bus, 10), 10 * HANDLERS);
    let before = (entries("/proc/self/task"), entries("/proc/self/fd"), resident());
    assert_eq!(rounds(&bus, 100), 100 * HANDLERS, "each handler had its message");
    let deadline = Deadline::after(PATIENCE);
    let after = loop {
        let after = (entries("/proc/self/task"), entries("/proc/self/fd"), resident());
        if (after.0, after.1) == (before.0, before.1) && after.2 <= before.2 + SLACK {
            break after;
        }
        assert!(!deadline.expired(), "threads, descriptors and bytes grew from {before:?} to {after:?}");
        std::thread::yield_now();
    };
    let grown = after.2.saturating_sub(before.2);
    println!("evidence: handlers=10000 threads=+0 descriptors=+0 kib=+{}", grown >> 10);
    bus.close();
    let _ = std::fs::remove_dir_all(&directory);
}
