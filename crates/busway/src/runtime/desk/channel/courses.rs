//! Two channels and the two sources between them, without a link: what comes in which order, and what of it.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::collections::{BTreeMap, VecDeque};

use busway_protocol::{Acl, Delivery, Input, Permits, Principal, Rule, Whom};
use busway_wire::work::{End, Word, decode, is_of_large, large_of, number_of_large};
use busway_wire::{Header, PortId, Topic};

use super::{Between, Channel, Course};
use crate::bus::Bus;
use crate::runtime::desk::says::{Saying, Says};
use crate::runtime::import::Inputs;

/// Bytes of a piece of what is large.
const PIECE: usize = 4_000;
const LARGE: usize = 17_000;

/// One that says, one that hears, and what is on its way by each source.
struct Pair {
    says: Channel,
    hears: Channel,
    inputs: Inputs,
    ways: [VecDeque<(Header, Vec<u8>)>; 2],
    heard: [u64; 2],
    /// Bytes that went.
    went: usize,
    come: Vec<Vec<u8>>,
    _bus: Bus,
    directory: std::path::PathBuf,
}

fn all() -> Permits {
    Permits::new(Principal::Node { index: 1 }, None)
}

fn nothing() -> Permits {
    let none = Vec::new;
    let (publish, subscribe, deny_publish, deny_subscribe) = (none(), none(), none(), none());
    let (push, request, pull, answer) = (None, None, None, None);
    let whom = Whom::Anybody;
    let rule = Rule { whom, publish, subscribe, deny_publish, deny_subscribe, push, request, pull, answer };
    Permits::new(Principal::Node { index: 1 }, Some(&Acl::new(vec![rule])))
}

impl Pair {
    fn new(courses: &[Course]) -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-courses-{random:016x}"));
        let bus = Bus::builder().directory(&directory).open().unwrap();
        let mut both = [(); 2].map(|()| Channel::new(&bus.core, "here").unwrap());
        let mut inputs = Inputs::new();
        let sources = both.each_ref().map(|channel| channel.source(Course::Quick));
        for (channel, other) in both.iter_mut().zip([sources[1], sources[0]]) {
            channel.piece_bytes = PIECE;
            channel.established(1, &mut inputs);
            channel.shares_work();
            for course in courses {
                channel.wanted(*course, *course as u32, &mut inputs);
                let source = if *course == Course::Quick { other } else { large_of(other) };
                channel.open(*course, source, &mut inputs);
            }
        }
        let [says, mut hears] = both;
        hears.shares_work();
        inputs.clear();
        let (ways, heard) = (Default::default(), [0; 2]);
        Self { says, hears, inputs, ways, heard, went: 0, come: Vec::new(), _bus: bus, directory }
    }

    fn between(&self) -> Between {
        self.says.standing().between.unwrap()
    }

    fn say(&mut self, saying: Saying) {
        self.says.say(self.between(), saying, &mut self.inputs);
    }

    fn word(&mut self, word: &Word, payload: &[u8]) {
        let mut says = Says::default();
        assert!(says.with(word, [payload, &[]]));
        says.into_all().into_iter().for_each(|saying| self.say(saying));
    }

    /// The next message of a source goes. What it says, if anything does.
    fn go(&mut self, course: Course) -> bool {
        let Some((header, payload)) = self.says.next(course) else { return false };
        self.went += payload.as_ref().len();
        self.ways[course as usize].push_back((header, payload.as_ref().to_vec()));
        true
    }

    /// The first of a source that is on its way arrives, in two parts.
    fn arrive(&mut self, course: Course) -> bool {
        let Some((header, body)) = self.ways[course as usize].pop_front() else { return false };
        let source = header.source();
        self.heard[course as usize] = header.sequence.get();
        let half = body.len() / 2;
        let begins = Delivery::Begin { header, extensions: &[] };
        let first = Delivery::Bytes { source, offset: 0, bytes: &body[..half] };
        let second = Delivery::Bytes { source, offset: half as u64, bytes: &body[half..] };
        for delivery in [begins, first, second, Delivery::End { source }] {
            self.hears.deliver(course, delivery, &mut self.inputs);
        }
        true
    }

    /// What has come is taken, and all that has its place is confirmed.
    fn take(&mut self) {
        let mut come = Vec::new();
        self.hears.take(&mut come, &mut self.inputs);
        self.come.append(&mut come);
        self.confirm();
    }

    fn confirm(&mut self) {
        for input in self.inputs.drain(..) {
            if let Input::Published { source, sequence } = input
                && let Some(course) = self.says.ours(source)
            {
                self.says.confirm(course, sequence);
            }
        }
    }

    /// The link ends, in the midst of a message if one is on its way, and there is another.
    fn cut(&mut self, permits: &Permits) {
        for course in Course::ALL {
            if let Some((header, body)) = self.ways[course as usize].pop_front() {
                let source = header.source();
                let begins = Delivery::Begin { header, extensions: &[] };
                let some = Delivery::Bytes { source, offset: 0, bytes: &body[..body.len() / 2] };
                self.hears.deliver(course, begins, &mut self.inputs);
                self.hears.deliver(course, some, &mut self.inputs);
                self.hears.abort(course);
            }
            self.ways[course as usize].clear();
        }
        self.says.lost();
        self.says.established(1, &mut self.inputs);
        for course in Course::ALL {
            self.says.rewind(course, self.heard[course as usize], permits);
        }
    }

    /// All goes and is taken.
    fn all(&mut self) {
        loop {
            let went = Course::ALL.map(|course| self.go(course));
            let came = Course::ALL.map(|course| self.arrive(course));
            self.take();
            if ![went, came].concat().contains(&true) {
                return;
            }
        }
    }

    fn words(&self) -> Vec<(Word, usize)> {
        let words = self.come.iter().map(|body| decode(body).unwrap());
        words
            .map(|(word, payload)| {
                assert!(payload.iter().all(|byte| *byte == 7), "it is whole");
                (word, payload.len())
            })
            .collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn task(task: u64, bytes: usize, until_ns: Option<u64>) -> Saying {
    let (topic, source) = (Topic::new("t").unwrap(), PortId(3));
    let (attempt, flags, left_ns, extensions) = (0, 0, 0, 0);
    let word = Word::Task { pull: 1, task, topic, source, sequence: 1, attempt, flags, left_ns, extensions };
    Saying::task(word, [&vec![7; bytes], &[]], until_ns).unwrap()
}

fn reply(task: u64, index: u32) -> Word {
    Word::Reply { task, index, state: 0, extensions: 0 }
}

#[test]
fn a_small_word_goes_before_a_large_one_that_was_said_before_it() {
    let mut pair = Pair::new(&Course::ALL);
    pair.says.piece_bytes = busway_wire::limits::WORK_PIECE_BYTES;
    pair.say(task(number_of_large(1), 64 << 20, None));
    pair.word(&reply(9, 0), &vec![7; 64 << 20]);
    let waiting = pair.says.out.large.len();
    assert!(waiting >= 512, "two words of 64 MiB in pieces of 256 KiB: {waiting}");
    pair.say(task(2, 100, Some(1 << 60)));
    pair.word(&Word::Grant { pull: 1, tasks: 5 }, b"");
    let next = |pair: &mut Pair| {
        let (_, payload) = pair.says.next(Course::Quick)?;
        Some(decode(payload.as_ref()).unwrap().0)
    };
    assert!(matches!(next(&mut pair), Some(Word::Task { task: 2, .. })));
    assert!(matches!(next(&mut pair), Some(Word::Grant { .. })));
    assert!(next(&mut pair).is_none() && pair.says.out.large.len() == waiting);
    assert_eq!(pair.says.out.large.read(), 0, "nothing of what is large has gone");
    let (_, piece) = pair.says.next(Course::Large).unwrap();
    assert_eq!(piece.as_ref().len(), busway_wire::limits::WORK_PIECE_BYTES);
    println!("evidence: pieces={waiting} before_the_small_word=0");
}

#[test]
fn what_is_said_of_one_task_is_taken_in_its_order_by_whichever_source_it_goes() {
    let (mut words, mut by_large) = (0, 0);
    for seed in 0..400 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut pair = Pair::new(&Course::ALL);
        let mut said: BTreeMap<u64, u32> = BTreeMap::new();
        for _ in 0..300 {
            let of = dice.u64(1..4);
            let course = Course::ALL[dice.usize(..2)];
            match dice.u8(..10) {
                0..2 => {
                    let index = said.entry(of).or_default();
                    let bytes = if dice.bool() { LARGE } else { 10 };
                    let word = reply(of, *index);
                    *index += 1;
                    pair.word(&word, &vec![7; bytes]);
                }
                2..6 => drop(pair.go(course)),
                6..9 => drop(pair.arrive(course)),
                _ if dice.u8(..8) == 0 => pair.cut(&all()),
                _ if dice.bool() => pair.confirm(),
                _ => pair.take(),
            }
        }
        for of in said.keys() {
            pair.word(&Word::Over { task: *of, end: End::Done }, b"");
        }
        by_large += pair.heard[1];
        pair.all();
        let mut came: BTreeMap<u64, u32> = BTreeMap::new();
        for (word, _) in pair.words() {
            words += 1;
            match word {
                Word::Reply { task, index, .. } => {
                    assert_eq!(came.insert(task, index + 1).unwrap_or(0), index, "seed={seed} task {task}");
                }
                Word::Over { task, .. } => {
                    assert_eq!(came.remove(&task), said.get(&task).copied(), "seed={seed}")
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(came.is_empty(), "seed={seed}: {came:?}");
        assert_eq!((pair.says.standing().waiting_bytes, pair.says.answered.len()), (0, 0), "seed={seed}");
    }
    println!("evidence: seeds=400 words={words} pieces={by_large}");
}

/// What who had been given the task knows of it: how often it came, as the numbers of its source tell, and whether it has it.
fn had(words: &[(Word, usize)], of: u64) -> (u64, bool) {
    let (mut last, mut came, mut has) = (0, 0, false);
    for (word, bytes) in words {
        match word {
            Word::Task { task, .. } if *task == of => {
                assert_eq!(*bytes, LARGE);
                (last, came, has) = (*task, came + 1, true);
            }
            Word::Cancel { task, .. } if *task == of => {
                came += u64::from(*task > last);
                (last, has) = (*task, false);
            }
            _ => {}
        }
    }
    (came, has)
}

#[test]
fn a_large_task_that_is_over_in_its_midst_is_one_that_came_and_nobody_has_it() {
    let of = number_of_large(1);
    let mut tried = 0;
    for (request, goes, arrives, cuts, denied) in (0..2 * 7 * 7 * 2 * 2)
        .map(|n| (n % 2 == 0, n / 2 % 7, n / 14 % 7, n / 98 % 2 == 0, n / 196 == 0))
        .filter(|(_, goes, arrives, ..)| arrives <= goes)
    {
        let mut pair = Pair::new(&Course::ALL);
        let until = request.then_some(1 << 60);
        pair.say(task(of, LARGE, until));
        pair.say(task(2, 10, until));
        for _ in 0..goes {
            pair.go(Course::Large);
        }
        for _ in 0..arrives {
            pair.arrive(Course::Large);
        }
        pair.confirm();
        let ends = |pair: &mut Pair| match denied {
            true => pair.says.withhold(&nothing()),
            false => pair.say(Saying::Cancel { pull: 1, task: of }),
        };
        if cuts && denied {
            pair.cut(&nothing());
        } else {
            ends(&mut pair);
            if cuts {
                pair.cut(&all());
            }
        }
        pair.say(task(number_of_large(3), LARGE, until));
        let before = pair.went;
        pair.all();
        let (words, why) = (pair.words(), (request, goes, arrives, cuts, denied));
        let (came, has) = had(&words, of);
        let withheld = pair.says.withheld().contains(&of);
        assert!(pair.went - before < LARGE + 500, "{why:?}: nothing more of it goes");
        assert_eq!((came, has), (1, denied && !withheld), "{why:?}: {words:?}");
        assert!(
            !withheld
                || !words.iter().any(|(word, _)| matches!(word, Word::Task { task, .. } if *task == of))
        );
        assert_eq!(had(&words, number_of_large(3)), (1, true), "{why:?}");
        assert_eq!(pair.says.standing().waiting_bytes, 0);
        tried += 1;
    }
    println!("evidence: moments={tried}");
}

#[test]
fn a_link_that_ends_in_the_midst_of_a_large_word_goes_on_there() {
    let mut pair = Pair::new(&Course::ALL);
    pair.say(task(number_of_large(1), 100 * PIECE, None));
    let mut cuts = 0;
    while pair.come.is_empty() {
        for _ in 0..10 {
            pair.go(Course::Large);
        }
        for _ in 0..7 {
            pair.arrive(Course::Large);
        }
        pair.take();
        let kept = pair.hears.theirs.large.kept().unwrap_or(0);
        assert!(kept <= 101 * PIECE, "no more than the word has: {kept}");
        pair.cut(&all());
        cuts += 1;
    }
    assert_eq!(pair.words()[0].1, 100 * PIECE);
    assert!(pair.went <= (100 + 1 + 3 * cuts) * PIECE, "{} bytes in {cuts} links", pair.went);
    println!("evidence: bytes={} went={} links={cuts}", 100 * PIECE, pair.went);
}

#[test]
fn what_a_large_source_says_that_is_not_of_who_speaks_now_is_not_heard_nor_kept() {
    let mut pair = Pair::new(&Course::ALL);
    pair.say(task(number_of_large(1), LARGE, None));
    pair.say(task(2, 10, None));
    while pair.go(Course::Large) || pair.go(Course::Quick) {}
    pair.arrive(Course::Large);
    // It begins anew; that, who hears it learns in the midst of what the former said.
    pair.hears.open(Course::Quick, PortId(99), &mut pair.inputs);
    assert_eq!(pair.hears.theirs.large.kept(), None);
    while pair.arrive(Course::Large) {
        assert_eq!(pair.hears.theirs.large.kept(), None);
    }
    assert!(!pair.hears.has_lost, "it is of no concern");
    pair.take();
    assert!(pair.come.is_empty());
    // A piece without the one before it is a word of which some is lost.
    let mut pair = Pair::new(&Course::ALL);
    let first = pair.between();
    pair.say(task(number_of_large(1), LARGE, None));
    pair.go(Course::Large);
    pair.go(Course::Large);
    pair.ways[1].pop_front();
    pair.arrive(Course::Large);
    pair.take();
    assert_ne!(pair.hears.source(Course::Quick), first.theirs, "both begin anew");
}

#[test]
fn a_peer_that_wants_one_source_has_all_words_by_it_and_one_that_wants_no_second_any_more_is_begun_anew_with()
{
    let mut pair = Pair::new(&Course::ALL[..1]);
    assert!(!pair.says.standing().has_two);
    for index in 0..3 {
        pair.word(&reply(1, index), &vec![7; if index == 1 { 10 } else { LARGE }]);
    }
    pair.say(task(1, LARGE, None));
    while pair.go(Course::Quick) {
        let (header, _) = &pair.ways[0][0];
        assert_eq!(header.time_ns.get(), 0, "as it was before there were two");
        pair.arrive(Course::Quick);
    }
    pair.take();
    assert_eq!(pair.words().len(), 4);
    assert!(!pair.says.unwanted(Course::Large as u32, &mut pair.inputs));
    // It was of a newer version before its link ended, and took some of what is large.
    let mut pair = Pair::new(&Course::ALL);
    let first = pair.between();
    pair.say(task(number_of_large(1), LARGE, None));
    pair.go(Course::Large);
    assert!(is_of_large(number_of_large(1)) && pair.says.standing().has_two);
    assert!(pair.says.unwanted(Course::Large as u32, &mut pair.inputs));
    assert!(pair.between().ours != first.ours && !pair.says.standing().has_two);
    pair.say(task(1, LARGE, None));
    assert!(pair.go(Course::Quick) && !pair.go(Course::Large));
}
