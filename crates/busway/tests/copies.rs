//! Zero-copy: a payload above 96 bytes is read in the memory where its publisher wrote it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]

#[path = "scene/part.rs"]
mod part;
#[path = "scene/place.rs"]
mod place;

use std::ops::Range;

use busway::Policy;
use part::{Part, hear, say};
use place::{PATIENCE, Scene};
use rustix::process::Signal;

const LARGE: usize = 2 << 20;

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    let Some(part) = Part::given() else { return };
    let bus = part.bus();
    let mut publisher = bus.publisher("sizes").open().unwrap();
    say("publishes");
    while let Some(line) = hear() {
        let len: usize = line.parse().unwrap();
        let mut loan = publisher.loan(len).unwrap();
        for (at, byte) in loan.iter_mut().enumerate() {
            *byte = pattern(at);
        }
        loan.send().unwrap();
        say("sent");
    }
}

fn pattern(at: usize) -> u8 {
    (at * 31 % 251) as u8
}

/// A mapping of this process: where it lies, whether it may be written, its file's inode and name.
#[derive(Debug)]
struct Map {
    range: Range<usize>,
    mode: String,
    offset: u64,
    inode: u64,
    name: String,
}

/// The mapping in which the bytes lie, all of them.
fn map_of(bytes: &[u8]) -> Map {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let span = bytes.as_ptr_range();
    let (from, to) = (span.start.addr(), span.end.addr());
    let parsed = maps.lines().map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next().unwrap().split_once('-').unwrap();
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let range = address(start)..address(end);
        let mode = fields.next().unwrap().to_owned();
        let offset = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
        let inode = fields.nth(1).unwrap().parse().unwrap();
        Map { range, mode, offset, inode, name: fields.collect::<Vec<_>>().join(" ") }
    });
    let mut found = parsed.filter(|map| map.range.start <= from && to <= map.range.end);
    found.next().expect("the payload lies in one mapping")
}

/// The inodes that the process `pid` has mapped writable under `name`: its own arena or bulk file.
fn own_inodes(pid: &str, name: &str) -> Vec<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let own = maps.lines().filter(|line| line.contains(name) && line.contains(" rw"));
    own.map(|line| line.split_whitespace().nth(4).unwrap().parse().unwrap()).collect()
}

#[test]
fn a_payload_above_96_bytes_lies_in_the_arena_of_its_publisher() {
    let scene = Scene::new();
    let bus = scene.bus("reads");
    let mut subscriber = bus.subscriber("sizes").policy(Policy::Block).open().unwrap();
    let mut child = scene.start("publishes");
    assert_eq!(child.line(), "publishes");
    let pid = child.pid.as_raw_nonzero().to_string();
    let mut kept = Vec::new();
    for (len, file) in
        [(97, "memfd:busway-arena"), (4_096, "memfd:busway-arena"), (LARGE, "memfd:busway-bulk")]
    {
        assert_eq!(child.ask(&len.to_string()), "sent");
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(sample.len(), len);
        assert!(sample.is_held(), "a sample of {len} bytes is no copy");
        let map = map_of(&sample);
        assert!(map.name.contains(file), "{len} bytes lie in {map:?}");
        assert!(own_inodes(&pid, file).contains(&map.inode), "{map:?} is not the publisher's");
        assert!(map.mode.starts_with("r--"), "a subscriber cannot write what others read: {map:?}");
        assert!(sample.as_ptr().addr().is_multiple_of(64), "typed values rely on 64 bytes");
        let offset = sample.as_ptr().addr() - map.range.start;
        println!("evidence: bytes={len} file={file} offset={}", map.offset + offset as u64);
        kept.push(sample);
    }
    // They are the publisher's memory, and outlive it.
    child.signal(Signal::KILL);
    for sample in &kept {
        assert!(sample.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    }
}

#[test]
fn a_payload_of_96_bytes_is_a_copy_that_holds_nothing() {
    let scene = Scene::new();
    let bus = scene.bus("reads");
    let mut subscriber = bus.subscriber("sizes").policy(Policy::Block).open().unwrap();
    let mut child = scene.start("publishes");
    assert_eq!(child.line(), "publishes");
    assert_eq!(child.ask("96"), "sent");
    let sample = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(!sample.is_held());
    assert!(!map_of(&sample).name.contains("busway"), "it is our own memory");
    assert_eq!(bus.held(), (0, 0), "nothing was held for it");
    child.signal(Signal::KILL);
    assert!(sample.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

#[test]
fn subscribers_of_one_process_read_one_copy_in_one_place() {
    let scene = Scene::new();
    let bus = scene.bus("both");
    let mut subscribers =
        [bus.subscriber("shared").open().unwrap(), bus.subscriber("shared").open().unwrap()];
    let mut publisher = bus.publisher("shared").open().unwrap();
    publisher.send(&[5; 1_000]).unwrap();
    let [one, two] = subscribers.each_mut().map(|subscriber| subscriber.recv().unwrap());
    assert_eq!(one.as_ptr(), two.as_ptr(), "both look at the same bytes");
    assert_eq!(bus.held(), (2, 2));
    drop((one, two));
    assert_eq!(bus.held(), (0, 2), "what is dropped is held no more");
}

#[test]
fn a_sample_is_as_small_as_a_pointer_and_keeps_its_bytes_while_others_come_and_go() {
    const KEPT: u32 = 1_000;
    assert_eq!(size_of::<Option<busway::Sample>>(), size_of::<usize>());
    let scene = Scene::new();
    let bus = scene.bus("keeper");
    let mut subscriber = bus.subscriber("kept").policy(Policy::Block).open().unwrap();
    let mut publisher = bus.publisher("kept").open().unwrap();
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let mut kept = Vec::new();
    for number in 0..3 * KEPT {
        publisher.send(&number.to_le_bytes()).unwrap();
        let sample = subscriber.recv_timeout(PATIENCE).unwrap().expect("it was sent");
        // Every third is kept, the others are dropped, here or on another thread.
        match number % 3 {
            0 => kept.push((number, sample)),
            1 => drop(sample),
            _ => std::thread::scope(|scope| drop(scope.spawn(move || drop(sample)))),
        }
    }
    drop((subscriber, publisher, bus));
    for (number, sample) in &kept {
        assert_eq!(sample[..], number.to_le_bytes(), "a kept sample has changed");
        assert_eq!((sample.topic(), sample.sequence()), ("kept", u64::from(*number) + 1));
    }
    println!("evidence: kept={} of={}", kept.len(), 3 * KEPT);
}
