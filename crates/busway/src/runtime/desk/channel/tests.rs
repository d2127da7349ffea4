//! What waits for a peer, and what comes of it, without a link.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use busway_protocol::{Delivery, Input, Permits, Principal};
use busway_wire::limits::{WORK_STRANGER_BYTES_MAX, WORK_WORDS_MAX};
use busway_wire::work::{Piece, Word, decode, large_of, number_of_large};
use busway_wire::{HEADER_SIZE, Header, Kind, PortId, Topic};

use super::{Between, Channel, Course};
use crate::bus::Bus;
use crate::runtime::desk::says::Saying;
use crate::runtime::import::Inputs;

const THEIRS: PortId = PortId(7);

struct Scene {
    channel: Channel,
    inputs: Inputs,
    _bus: Bus,
    directory: std::path::PathBuf,
}

impl Scene {
    fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-words-{random:016x}"));
        let bus = Bus::builder().directory(&directory).open().unwrap();
        let mut channel = Channel::new(&bus.core, "here").unwrap();
        let mut inputs = Inputs::new();
        channel.established(1, &mut inputs);
        channel.wanted(Course::Quick, 1, &mut inputs);
        channel.open(Course::Quick, THEIRS, &mut inputs);
        Self { channel, inputs, _bus: bus, directory }
    }

    fn between(&self) -> Between {
        self.channel.standing().between.unwrap()
    }

    fn say(&mut self, saying: Saying) {
        self.channel.say(self.between(), saying, &mut self.inputs);
    }

    fn deliver(&mut self, delivery: Delivery<'_>) {
        self.channel.deliver(Course::Quick, delivery, &mut self.inputs);
    }

    /// What goes next.
    fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        let (header, outbound) = self.channel.next(Course::Quick)?;
        Some((header.sequence.get(), outbound.as_ref().to_vec()))
    }

    fn header(&self, to: PortId, sequence: u64, bytes: usize) -> Header {
        let mut header = Header::new(Kind::Publish);
        header.source.set(THEIRS.0);
        header.sequence.set(sequence);
        header.correlation.set(to.0);
        header.size.set((HEADER_SIZE + bytes) as u32);
        header
    }

    fn begins_anew(&self) -> usize {
        self.inputs.iter().filter(|input| matches!(input, Input::Revoked { .. })).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn task(task: u64, left: Option<u64>) -> Saying {
    let (topic, source) = (Topic::new("t").unwrap(), PortId(3));
    let word = Word::Task {
        pull: 1,
        task,
        topic,
        source,
        sequence: 1,
        attempt: 0,
        flags: 0,
        left_ns: 0,
        extensions: 0,
    };
    Saying::task(word, [b"pay", b"load"], left).unwrap()
}

fn all() -> Permits {
    Permits::new(Principal::Node { index: 1 }, None)
}

fn word(body: &[u8]) -> Word {
    decode(body).unwrap().0
}

#[test]
fn words_that_a_peer_never_confirms_are_bounded_and_then_both_begin_anew() {
    let mut scene = Scene::new();
    let first = scene.between();
    for pull in 0..2 * WORK_WORDS_MAX as u32 {
        let mut says = crate::runtime::desk::Says::default();
        says.word(&Word::Unpull { pull });
        for saying in says.into_all() {
            scene.say(saying);
        }
        while scene.channel.next(Course::Quick).is_some() {}
        assert!(scene.channel.out.quick.len() <= WORK_WORDS_MAX);
    }
    assert_eq!(scene.begins_anew(), 1);
    let second = scene.between();
    assert_ne!(first.ours, second.ours, "who hears it knows that it begins anew");
    // What is said to the former is said to nobody.
    let waiting = scene.channel.out.quick.len();
    scene.channel.say(first, task(1, None), &mut scene.inputs);
    assert_eq!(scene.channel.out.quick.len(), waiting);
    println!("evidence: said={} kept={WORK_WORDS_MAX}", 2 * WORK_WORDS_MAX);
}

#[test]
fn a_task_that_is_over_before_it_went_is_not_said_and_one_that_may_be_there_is_cancelled_too() {
    let mut scene = Scene::new();
    scene.say(task(1, None));
    scene.say(task(2, None));
    assert!(matches!(word(&scene.next().unwrap().1), Word::Task { task: 1, .. }));
    for task in [1, 2] {
        scene.say(Saying::Cancel { pull: 1, task });
    }
    assert_eq!(word(&scene.next().unwrap().1), Word::Cancel { pull: 1, task: 2 }, "in its place");
    assert_eq!(word(&scene.next().unwrap().1), Word::Cancel { pull: 1, task: 1 }, "behind it");
    assert!(scene.next().is_none());
    // The connection ends before anything was confirmed.
    scene.channel.rewind(Course::Quick, 0, &all());
    let again: Vec<_> = std::iter::from_fn(|| scene.next()).collect();
    let words: Vec<Word> = again.iter().map(|(_, body)| word(body)).collect();
    let cancel = |task| Word::Cancel { pull: 1, task };
    assert_eq!(words, [cancel(1), cancel(2), cancel(1)]);
    assert_eq!(again.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3]);
    scene.channel.confirm(Course::Quick, 3);
    assert_eq!(scene.channel.standing().waiting_bytes, 0);
}

#[test]
fn what_is_left_of_the_time_of_a_request_is_what_is_left_when_it_goes() {
    let now = busway_shm::clock::monotonic_ns();
    let request = task(1, Some(now + 1_000));
    let left = |now_ns: u64| match word(&request.body(now_ns)) {
        Word::Task { left_ns, .. } => left_ns,
        other => panic!("{other:?}"),
    };
    assert_eq!((left(now), left(now + 600), left(now + 5_000)), (1_000, 400, 1));
}

#[test]
fn what_was_said_for_an_earlier_source_of_a_peer_keeps_its_place_and_says_nothing() {
    let mut scene = Scene::new();
    scene.say(task(1, None));
    scene.channel.open(Course::Quick, PortId(8), &mut scene.inputs);
    scene.say(task(1, None));
    let said: Vec<_> = std::iter::from_fn(|| scene.next()).collect();
    assert!(said[0].1.is_empty(), "nobody is there for whom it was");
    assert!(matches!(word(&said[1].1), Word::Task { task: 1, .. }));
}

#[test]
fn a_peer_without_work_sends_no_large_word_and_what_is_for_another_takes_no_memory() {
    let mut scene = Scene::new();
    let large = WORK_STRANGER_BYTES_MAX + 1;
    let ours = scene.between().ours;
    let send = |scene: &mut Scene, to: PortId, sequence: u64| {
        let header = scene.header(to, sequence, large);
        scene.deliver(Delivery::Begin { header, extensions: &[] });
        let kept = scene.channel.theirs.quick.kept().is_some();
        scene.deliver(Delivery::Bytes { source: THEIRS, offset: 0, bytes: &vec![0; large] });
        scene.deliver(Delivery::End { source: THEIRS });
        let mut come = Vec::new();
        scene.channel.take(&mut come, &mut scene.inputs);
        (kept, come.len())
    };
    assert_eq!(send(&mut scene, PortId(99), 1), (false, 0), "for an earlier source of ours");
    assert_eq!(scene.begins_anew(), 0);
    scene.channel.shares_work();
    assert_eq!(send(&mut scene, ours, 2), (true, 1));
    scene.channel.shares = false;
    assert_eq!(send(&mut scene, ours, 3), (false, 0));
    assert_eq!(scene.begins_anew(), 1, "what it said is not whole any more");
}

/// A piece of a large word of the peer: so many bytes, and so many that follow.
fn piece(scene: &mut Scene, sequence: u64, begins: bool, bytes: usize, missing: u64) {
    let source = large_of(THEIRS);
    let mut header = scene.header(scene.between().ours, sequence, bytes);
    header.source.set(source.0);
    header.time_ns.set(Piece { begins, missing }.to_bits());
    let deliveries = [
        Delivery::Begin { header, extensions: &[] },
        Delivery::Bytes { source, offset: 0, bytes: &vec![7; bytes] },
        Delivery::End { source },
    ];
    for delivery in deliveries {
        scene.channel.deliver(Course::Large, delivery, &mut scene.inputs);
    }
}

fn take(scene: &mut Scene) -> usize {
    let mut come = Vec::new();
    scene.channel.take(&mut come, &mut scene.inputs);
    come.len()
}

#[test]
fn a_peer_without_work_puts_no_large_word_together_of_small_pieces() {
    let mut scene = Scene::new();
    scene.channel.open(Course::Large, large_of(THEIRS), &mut scene.inputs);
    piece(&mut scene, 1, true, 40 << 10, 40 << 10);
    assert!(scene.channel.theirs.large.kept().is_none(), "80 KiB in all");
    assert_eq!((take(&mut scene), scene.begins_anew()), (0, 1));
    let mut scene = Scene::new();
    scene.channel.open(Course::Large, large_of(THEIRS), &mut scene.inputs);
    piece(&mut scene, 1, true, 30 << 10, 30 << 10);
    piece(&mut scene, 2, false, 30 << 10, 0);
    assert_eq!((take(&mut scene), scene.begins_anew()), (1, 0), "60 KiB are none too many");
}

#[test]
fn what_a_word_says_that_it_has_takes_no_memory_and_what_has_come_of_it_none_when_its_host_is_gone() {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut scene = Scene::new();
    scene.channel.open(Course::Large, large_of(THEIRS), &mut scene.inputs);
    scene.channel.shares_work();
    let all = 1 << 30;
    let mut missing = all;
    for sequence in 1..=16 {
        missing -= 256 << 10;
        piece(&mut scene, sequence, sequence == 1, 256 << 10, missing);
        let (kept, came) = (scene.channel.theirs.large.kept().expect("a word"), (all - missing) as usize);
        assert!(kept <= 2 * came, "{kept} bytes for {came}");
    }
    // A link that comes back in time goes on in its midst.
    scene.channel.lost();
    for now_ns in [SECOND_NS, 5 * SECOND_NS] {
        scene.channel.passes(now_ns);
        assert_eq!((take(&mut scene), scene.begins_anew()), (0, 0));
    }
    scene.channel.established(1, &mut scene.inputs);
    scene.channel.passes(6 * SECOND_NS);
    scene.channel.lost();
    scene.channel.passes(7 * SECOND_NS);
    assert!(scene.channel.theirs.large.kept().is_some());
    scene.channel.passes(12 * SECOND_NS);
    assert_eq!((take(&mut scene), scene.begins_anew()), (0, 1), "both begin anew");
    assert!(scene.channel.theirs.large.kept().is_none());
    println!("evidence: said={all} came={} kept_when_gone=0", all - missing);
}

#[test]
fn a_word_counts_as_memory_until_its_last_piece_is_confirmed_and_has_places_for_all_of_its_pieces() {
    let mut scene = Scene::new();
    scene.channel.wanted(Course::Large, 2, &mut scene.inputs);
    let large = |task: u64, bytes: usize| {
        let (topic, source) = (Topic::new("t").unwrap(), PortId(3));
        let (attempt, flags, left_ns, extensions) = (0, 0, 0, 0);
        let task = number_of_large(task);
        let word =
            Word::Task { pull: 1, task, topic, source, sequence: 1, attempt, flags, left_ns, extensions };
        Saying::task(word, [&vec![7; bytes], &[]], None).unwrap()
    };
    const BYTES: usize = 20 << 20;
    scene.say(large(1, BYTES));
    let pieces = scene.channel.out.large.len() as u64;
    while scene.channel.next(Course::Large).is_some() {}
    scene.channel.confirm(Course::Large, pieces - 1);
    let standing = scene.channel.standing();
    assert!(standing.large_bytes < 1 << 20 && standing.kept_bytes >= BYTES, "{standing:?}");
    // What is over takes no memory though it keeps its place.
    scene.say(Saying::Cancel { pull: 1, task: number_of_large(1) });
    assert!(scene.channel.standing().kept_bytes < 1_000);
    while scene.channel.next(Course::Large).is_some() {}
    scene.channel.confirm(Course::Large, pieces + 1);
    assert_eq!(scene.channel.standing().kept_bytes, 0);
    // One place is too few for a word of some pieces.
    scene.channel.set_piece_bytes(10);
    scene.say(large(2, 10 * (WORK_WORDS_MAX - 20)));
    let waits = scene.channel.out.large.len();
    assert!(waits <= WORK_WORDS_MAX && waits > WORK_WORDS_MAX - 20, "{waits}");
    scene.say(large(3, 10 * 30));
    assert_eq!((scene.channel.out.large.len(), scene.begins_anew()), (0, 2), "of both sources");
    println!("evidence: bytes={BYTES} confirmed_but_one_piece kept={}", standing.kept_bytes);
}

#[test]
fn a_large_source_that_is_not_of_who_speaks_now_may_have_gaps() {
    let mut scene = Scene::new();
    let first = scene.between();
    scene.channel.open(Course::Large, large_of(PortId(99)), &mut scene.inputs);
    scene.channel.gap(Course::Large, 3);
    assert_eq!((take(&mut scene), scene.between()), (0, first));
    scene.channel.open(Course::Large, large_of(THEIRS), &mut scene.inputs);
    scene.channel.gap(Course::Large, 3);
    take(&mut scene);
    assert_ne!(scene.between().ours, first.ours, "words of who speaks now are lost");
}

#[test]
fn words_that_are_lost_on_the_way_begin_both_anew() {
    let mut scene = Scene::new();
    scene.channel.gap(Course::Quick, 3);
    let mut come = Vec::new();
    scene.channel.take(&mut come, &mut scene.inputs);
    assert_eq!((scene.begins_anew(), come.len()), (1, 0));
}

#[test]
fn a_peer_that_speaks_words_of_an_older_version_is_told_of_once_and_what_was_for_an_earlier_start_is_not() {
    let mut scene = Scene::new();
    for (to, older) in [(PortId(99), false), (scene.between().ours, false), (PortId(0), true)] {
        let header = scene.header(to, 1, 1);
        scene.deliver(Delivery::Message { header, body: b"x" });
        assert_eq!(scene.channel.is_older, older);
    }
}
