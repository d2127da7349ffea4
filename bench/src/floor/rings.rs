//! Bare rings: ten thousand of them, a hundred readers of all, and nothing for each pair but a cursor word.
//!
//! The floor of many topics: what a message costs where all that is done is to store it and to copy it out. The slots are
//! those of the bare ring, 64 to a ring. The heads lie beside each other and so do the cursors of a reader; a mark tells of
//! 64 rings that one of them has something, and slots are asked for ahead. Published, taken in turns and counted as the
//! cell `topics` of the bus does it, by as many processes. There is no account, no policy, no wait for a reader that a
//! cursor tells of but for the one that keeps a slot from being written too early, no end and no death.
//!
//! Invariant: a slot is written when all cursors have passed what was in it.

use crate::Failure;
use crate::cell::outcome;
use crate::clock::{now_ns, pause, process_cpu_ns, thread_cpu_ns};
use crate::medium::{Letter, Scene};
use crate::outcome::Outcome;
use crate::partners::Partners;
use crate::place;
use crate::plan::Plan;
use crate::stage::{Line, Ordering, Stage, Word};
use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

/// Rows that a partner takes at most, below the 65 536 that a process of the bus can have.
const ROWS_MAX: u64 = 48_000;
/// Messages that a subscriber takes before the next one has its turn.
pub const TURN: u64 = 256;
/// Slots of each ring: as many as those of the bus have at most.
const SLOTS: usize = 64;
/// Rings that share a mark.
const GROUP: usize = 64;
/// A slot is asked for so many rings before its turn.
const AHEAD: usize = 6;
/// Words of the stage's `taken`: messages, and processor time of the receiving side.
const TAKEN: usize = 0;
const CPU: usize = 3;

/// How many processes the receivers of a plan are: as many as the rows of a process of the bus allow.
pub fn processes(plan: &Plan) -> usize {
    let rows = plan.size * plan.receivers as u64;
    usize::try_from(rows.div_ceil(ROWS_MAX)).unwrap_or(1).clamp(1, plan.receivers.max(1))
}

/// The memory of all rings, and where what lies in it.
#[derive(Debug, Clone, Copy)]
struct Rings {
    lines: &'static [Line],
    rings: usize,
    receivers: usize,
}

impl Rings {
    /// Words of all heads, or of all cursors of one reader.
    fn column(self) -> usize {
        self.rings.next_multiple_of(GROUP)
    }

    fn groups(self) -> usize {
        self.column() / GROUP
    }

    /// Lines before the slots: marks, heads, cursors.
    fn words(self) -> usize {
        (self.groups().next_multiple_of(8) + self.column() * (1 + self.receivers)) / 8
    }

    fn bytes(self) -> usize {
        (self.words() + self.rings * SLOTS * 2) * size_of::<Line>()
    }

    #[expect(unsafe_code, reason = "a shared mapping has no safe constructor")]
    fn map(file: &File, plan: &Plan) -> Result<Self, Failure> {
        let rings = usize::try_from(plan.size)?;
        let empty = Self { lines: &[], rings, receivers: plan.receivers };
        let (size, protection) = (empty.bytes(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let start = unsafe { mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        // SAFETY: the range is ours and mapped for good, and the advice leaves its contents as they are. Where there are
        // no huge pages, small ones do.
        let _ = unsafe { madvise(start, size, Advice::LinuxHugepage) };
        let count = size / size_of::<Line>();
        // SAFETY: page-aligned, `size` bytes long and never unmapped; lines are made of atomic words only, for which every
        // bit pattern is valid and which other processes may change.
        let lines = unsafe { std::slice::from_raw_parts(start.cast::<Line>(), count) };
        Ok(Self { lines, ..empty })
    }

    #[inline]
    fn word(self, index: usize) -> &'static Word {
        &self.lines[index / 8].words[index % 8]
    }

    #[inline]
    fn mark(self, group: usize) -> &'static Word {
        self.word(group)
    }

    #[inline]
    fn head(self, ring: usize) -> &'static Word {
        self.word(self.groups().next_multiple_of(8) + ring)
    }

    #[inline]
    fn cursor(self, receiver: usize, ring: usize) -> &'static Word {
        self.word(self.groups().next_multiple_of(8) + self.column() * (1 + receiver) + ring)
    }

    #[inline]
    fn slot(self, ring: usize, sequence: u64) -> &'static [Line] {
        let at = self.words() + 2 * (ring * SLOTS + sequence as usize % SLOTS);
        &self.lines[at..at + 2]
    }
}

/// The first side: publishes round-robin.
///
/// # Errors
/// The kernel refuses the memory, or the other side fails.
pub fn conduct(plan: &Plan) -> Result<Outcome, Failure> {
    let stage = Stage::create()?;
    let scene = Scene { plan, stage: &stage, owner: std::process::id() };
    place::pin(plan.cpus[0])?;
    let file = File::from(rustix::fs::memfd_create("busway-bench-rings", MemfdFlags::CLOEXEC)?);
    let size = Rings { lines: &[], rings: usize::try_from(plan.size)?, receivers: plan.receivers }.bytes();
    file.set_len(size as u64)?;
    let rings = Rings::map(&file, plan)?;
    stage.board.free[0].words[0].store(file.as_raw_fd() as u64 + 1, Ordering::Release); // pairs with `wait_for`
    let count = processes(plan);
    let partners = Partners::start(&scene, count)?;
    stage.wait_ready(count)?;
    stage.start();
    let mut writer =
        Writer { rings, published: vec![0; rings.rings], limits: vec![0; rings.rings], due: None };
    let (topics, ports) = (plan.size, plan.receivers as u64);
    let taken = &stage.board.taken.words;
    // Each ring once, so that its memory is there.
    writer.publish(topics)?;
    stage.wait_for("first messages", topics * ports, &taken[TAKEN])?;
    stage.board.go.words[1].store(1, Ordering::Release); // pairs with Acquire in `partner`
    pause(Duration::from_millis(20));
    let (start_ns, start_cpu_ns) = (now_ns(), thread_cpu_ns());
    writer.due = (plan.rate > 0).then_some(Due { from_ns: start_ns, rate: plan.rate, sent: 0 });
    writer.publish(plan.messages)?;
    let cpu_ns = thread_cpu_ns() - start_cpu_ns;
    stage.wait_for("messages", (topics + plan.messages) * ports, &taken[TAKEN])?;
    let wall_ns = now_ns() - start_ns;
    stage.stop();
    partners.finish()?;
    let messages = plan.messages as f64;
    let publish = cpu_ns as f64 / messages;
    let receive = taken[CPU].load(Ordering::Acquire) as f64 / (messages * ports as f64);
    Ok(outcome()
        .with("publish_cpu_ns", publish)
        .with("receive_cpu_ns", receive)
        .with("message_cpu_ns", publish / ports as f64 + receive)
        .with("message_wall_ns", wall_ns as f64 / messages))
}

struct Writer {
    rings: Rings,
    published: Vec<u64>,
    /// How far all readers of a ring were when that was looked at last.
    limits: Vec<u64>,
    /// When the next message may go, where the plan has a rate.
    due: Option<Due>,
}

/// Messages that go at a rate, those of a millisecond together.
struct Due {
    from_ns: u64,
    rate: u64,
    sent: u64,
}

impl Due {
    fn wait(&mut self) {
        while (now_ns() - self.from_ns) as u128 * u128::from(self.rate)
            < u128::from(self.sent) * 1_000_000_000
        {
            pause(Duration::from_millis(1));
        }
        self.sent += 1;
    }
}

impl Writer {
    fn publish(&mut self, messages: u64) -> Result<(), Failure> {
        let mut left = messages;
        while left > 0 {
            for ring in 0..self.rings.rings.min(usize::try_from(left)?) {
                if let Some(due) = &mut self.due {
                    due.wait();
                }
                self.send(ring)?;
                left -= 1;
            }
        }
        Ok(())
    }

    #[inline]
    fn send(&mut self, ring: usize) -> Result<(), Failure> {
        let sequence = self.published[ring] + 1;
        if sequence > self.limits[ring] + SLOTS as u64 {
            self.wait(ring, sequence)?;
        }
        self.published[ring] = sequence;
        let slot = self.rings.slot(ring, sequence);
        // As the bare ring writes them: word 0 publishes, words 1 to 3 are the header, then the payload.
        let letter: Letter = [sequence; 8];
        let (head, tail) = letter.split_at(4);
        for (word, value) in slot[1].words.iter().zip(tail) {
            word.store(*value, Ordering::Relaxed);
        }
        for (word, value) in slot[0].words[4..].iter().zip(head) {
            word.store(*value, Ordering::Relaxed);
        }
        slot[0].words[1].store(sequence, Ordering::Relaxed);
        slot[0].words[2].store(0, Ordering::Relaxed);
        slot[0].words[3].store(64, Ordering::Relaxed);
        slot[0].words[0].store(sequence, Ordering::Release); // pairs with Acquire in `take`
        self.rings.head(ring).store(sequence, Ordering::Release); // pairs with Acquire in `turn`
        let value = ((ring % GROUP) as u64) << 48 | sequence;
        self.rings.mark(ring / GROUP).store(value, Ordering::Release); // pairs with Acquire in `turn`
        Ok(())
    }

    #[cold]
    fn wait(&mut self, ring: usize, sequence: u64) -> Result<(), Failure> {
        let deadline_ns = now_ns() + 60_000_000_000;
        loop {
            // Pairs with Release in `turn`.
            let all = (0..self.rings.receivers).map(|by| self.rings.cursor(by, ring).load(Ordering::Acquire));
            self.limits[ring] = all.min().unwrap_or(sequence);
            if sequence <= self.limits[ring] + SLOTS as u64 {
                return Ok(());
            }
            if now_ns() > deadline_ns {
                return Err("a reader of bare rings is silent".into());
            }
            pause(Duration::from_micros(50));
        }
    }
}

/// One reader of all rings.
struct Reader {
    rings: Rings,
    receiver: usize,
    /// The marks of groups that had nothing more when they were looked at.
    seen: Vec<u64>,
    group: usize,
    last: Letter,
}

impl Reader {
    /// One message of each ring that has one, until it is the next reader's turn or nothing is left.
    fn turn(&mut self) -> Result<u64, Failure> {
        let (rings, groups) = (self.rings, self.seen.len());
        let (mut taken, mut quiet) = (0, 0);
        while taken < TURN && quiet < groups {
            let group = self.group;
            self.group = if group + 1 < groups { group + 1 } else { 0 };
            let mark = rings.mark(group).load(Ordering::Acquire); // pairs with Release in `send`
            quiet += 1;
            if mark == self.seen[group] {
                continue;
            }
            let (first, end) = (group * GROUP, rings.rings.min((group + 1) * GROUP));
            let mut more = false;
            for ring in first..end {
                let later = (ring + AHEAD).min(rings.rings - 1);
                let next = rings.cursor(self.receiver, later).load(Ordering::Relaxed) + 1;
                prefetch(rings.slot(later, next));
                let cursor = rings.cursor(self.receiver, ring);
                let (read, head) = (cursor.load(Ordering::Relaxed), rings.head(ring).load(Ordering::Acquire));
                if head > read {
                    self.take(ring, read + 1)?;
                    cursor.store(read + 1, Ordering::Release); // pairs with Acquire in `wait`
                    more |= head > read + 1;
                    taken += 1;
                    quiet = 0;
                }
            }
            if !more {
                self.seen[group] = mark;
            }
        }
        Ok(taken)
    }

    #[inline]
    fn take(&mut self, ring: usize, sequence: u64) -> Result<(), Failure> {
        let slot = self.rings.slot(ring, sequence);
        // Pairs with Release in `send`.
        if slot[0].words[0].load(Ordering::Acquire) != sequence {
            return Err("a bare slot is not what its head says".into());
        }
        let words = slot[0].words[4..].iter().chain(&slot[1].words[..4]);
        for (copy, word) in self.last.iter_mut().zip(words) {
            *copy = word.load(Ordering::Relaxed);
        }
        std::hint::black_box(&self.last);
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction has no safe wrapper")]
#[inline]
fn prefetch(lines: &[Line]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in lines {
        // SAFETY: a prefetch reads nothing and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(line).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &[Line]) {}

/// The second side: its part of the readers.
///
/// # Errors
/// A slot is not what its head says.
pub fn partner(scene: &Scene<'_>, index: usize) -> Result<Outcome, Failure> {
    place::pin(scene.plan.cpus[1])?;
    let described = &scene.stage.board.free[0].words[0];
    scene.stage.wait_for("the rings", 1, described)?;
    let path = format!("/proc/{}/fd/{}", scene.owner, described.load(Ordering::Acquire) - 1);
    let rings = Rings::map(&File::options().read(true).write(true).open(path)?, scene.plan)?;
    let mine = (index..scene.plan.receivers).step_by(processes(scene.plan));
    let reader = |receiver| Reader {
        rings,
        receiver,
        seen: vec![0; rings.groups()],
        group: 0,
        last: Letter::default(),
    };
    let mut readers: Vec<Reader> = mine.map(reader).collect();
    scene.stage.ready_and_wait()?;
    let mut began = None;
    while !scene.stage.stopped() {
        // Pairs with Release in `conduct`.
        if began.is_none() && scene.stage.board.go.words[1].load(Ordering::Acquire) != 0 {
            began = Some(process_cpu_ns());
        }
        let mut all = 0;
        for reader in &mut readers {
            all += reader.turn()?;
        }
        if all == 0 {
            pause(Duration::from_millis(1));
        } else {
            scene.stage.board.taken.words[TAKEN].fetch_add(all, Ordering::AcqRel);
        }
    }
    let cpu_ns = process_cpu_ns().saturating_sub(began.ok_or("it ended before it began")?);
    scene.stage.board.taken.words[CPU].fetch_add(cpu_ns, Ordering::AcqRel);
    Ok(outcome())
}
