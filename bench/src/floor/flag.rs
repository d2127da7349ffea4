//! A bare flag: a payload in shared memory, and one word that says that it is there.
//!
//! The floor of a large message: no header, no slot, no account, nothing that could fail. What it costs more to be told
//! of 64 MiB than of 4 KiB is what the machine takes: lines on their way, and translations of addresses that no
//! processor has at hand. Filled, touched and stamped as the cell `loan` of the bus does it.
//!
//! Invariant: the sender writes a payload only while the receiver has answered the last flag.

use crate::Failure;
use crate::cell::{join, outcome};
use crate::clock::{Patience, now_ns};
use crate::medium::Scene;
use crate::outcome::{Outcome, median};
use crate::partners::Partners;
use crate::place;
use crate::plan::Plan;
use crate::stage::{Ordering, Stage};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::fence;

const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024 * 1024;
const HUGE_PAGE: usize = 2 * 1024 * 1024;
/// Of the kernel; `libc` has it for some of its targets only.
const MADV_COLLAPSE: libc::c_int = 25;
/// Places that large payloads lie in by turns, and as many of other memory: none is found in a cache when its turn comes.
const TURNS: usize = 4;
/// The small payloads lie behind the large ones, each in a page of its own.
const BYTES: usize = 2 * TURNS * LARGE + HUGE_PAGE;
/// Messages of each kind before any is recorded: all pages are mapped and touched by then.
const WARM: u64 = 2 * TURNS as u64;

/// What is written of a payload before the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// All of it.
    Whole,
    /// All of it, and then 64 MiB of other memory.
    WholeThenOther,
    /// 2 KiB at its start, 2 KiB at its end, and then 64 MiB of other memory.
    EndsThenOther,
    /// The first and the last byte.
    Edges,
}

/// Memory that both processes map, at addresses that huge pages can stand at.
#[derive(Debug)]
struct Field {
    start: *mut u8,
}

impl Field {
    #[expect(unsafe_code, reason = "a shared mapping has no safe constructor")]
    fn map(file: &File) -> Result<Self, Failure> {
        let all = BYTES + HUGE_PAGE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let free = unsafe { mmap_anonymous(ptr::null_mut(), all, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let start = free.wrapping_byte_add(free.addr().next_multiple_of(HUGE_PAGE) - free.addr());
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: the range lies in the one that was just reserved, which nothing else uses.
        let start = unsafe { mmap(start, BYTES, protection, flags, file.as_fd(), 0) }?;
        Ok(Self { start: start.cast() })
    }

    /// Asks for huge pages, as the bus does for bulk. Where there are none, small ones stay.
    #[expect(unsafe_code, reason = "advice takes an address")]
    fn gather(&self) {
        // SAFETY: the range is ours and mapped for good, and the advice leaves its contents as they are.
        unsafe { libc::madvise(self.start.cast(), BYTES, MADV_COLLAPSE) };
    }

    #[expect(unsafe_code, reason = "memory that another process maps is no slice")]
    fn fill(&self, at: usize, len: usize, byte: u8) {
        debug_assert!(at + len <= BYTES);
        // SAFETY: inside the mapping; by the flag nobody reads here meanwhile.
        unsafe { ptr::write_bytes(self.start.wrapping_add(at), byte, len) };
    }

    #[expect(unsafe_code, reason = "memory that another process maps is no slice")]
    fn write(&self, at: usize, byte: u8) {
        debug_assert!(at < BYTES);
        // SAFETY: as in `fill`.
        unsafe { self.start.wrapping_add(at).write_volatile(byte) };
    }

    #[expect(unsafe_code, reason = "memory that another process maps is no slice")]
    fn read(&self, at: usize) -> u8 {
        debug_assert!(at < BYTES);
        // SAFETY: inside the mapping; by the flag nobody writes here meanwhile.
        unsafe { self.start.wrapping_add(at).read_volatile() }
    }
}

/// Where the payload of a turn lies.
fn place_of(size: usize, turn: u64) -> usize {
    let turn = turn as usize % TURNS;
    if size == LARGE { turn * LARGE } else { 2 * TURNS * LARGE + turn * 2 * SMALL }
}

/// The first side: fills, stamps, raises the flag, waits until the other has seen it.
///
/// # Errors
/// The kernel refuses the memory, or the other side fails.
pub fn conduct(plan: &Plan) -> Result<Outcome, Failure> {
    let stage = Stage::create()?;
    let scene = Scene { plan, stage: &stage, owner: std::process::id() };
    place::pin(plan.cpus[0])?;
    let file = File::from(rustix::fs::memfd_create("busway-bench-flag", MemfdFlags::CLOEXEC)?);
    file.set_len(BYTES as u64)?;
    let field = Field::map(&file)?;
    field.fill(0, BYTES, 1);
    field.gather();
    stage.board.free[0].words[0].store(file.as_raw_fd() as u64 + 1, Ordering::Release); // pairs with `wait_for`
    let partners = Partners::start(&scene, 1)?;
    stage.wait_ready(1)?;
    stage.start();
    let mut number = 0;
    for turn in 0..WARM {
        for size in [SMALL, LARGE] {
            once(&field, &stage, size, Fill::WholeThenOther, turn, &mut number)?;
        }
    }
    let cells = [
        ("whole_64mib_ns", LARGE, Fill::Whole),
        ("whole_4kib_then_other_ns", SMALL, Fill::WholeThenOther),
        ("whole_4kib_ns", SMALL, Fill::Whole),
        ("ends_64mib_then_other_ns", LARGE, Fill::EndsThenOther),
        ("edges_64mib_ns", LARGE, Fill::Edges),
        ("edges_4kib_ns", SMALL, Fill::Edges),
    ];
    let mut own = outcome();
    let (whole, edges) = cells.split_at(4);
    for cells in [whole, edges] {
        let mut taken = vec![Vec::new(); cells.len()];
        for turn in 0..plan.messages {
            for ((_, size, fill), taken) in cells.iter().zip(&mut taken) {
                taken.push(once(&field, &stage, *size, *fill, turn, &mut number)?);
            }
        }
        for ((name, ..), taken) in cells.iter().zip(&taken) {
            own = own.with(name, median(taken));
        }
    }
    stage.stop();
    Ok(join(own, partners.finish()?))
}

fn once(
    field: &Field,
    stage: &Stage,
    size: usize,
    fill: Fill,
    turn: u64,
    number: &mut u64,
) -> Result<f64, Failure> {
    *number += 1;
    let (at, byte) = (place_of(size, turn), number.to_le_bytes()[0]);
    match fill {
        Fill::Whole | Fill::WholeThenOther => field.fill(at, size, byte),
        Fill::EndsThenOther => {
            field.fill(at, SMALL / 2, byte);
            field.fill(at + size - SMALL / 2, SMALL / 2, byte);
        }
        Fill::Edges => {}
    }
    if matches!(fill, Fill::WholeThenOther | Fill::EndsThenOther) {
        field.fill(TURNS * LARGE + place_of(LARGE, turn), LARGE, byte);
    }
    field.write(at, byte);
    field.write(at + size - 1, byte);
    // Filled is what has left the processor's buffer of stores: else the first part of the time is the fill's.
    fence(Ordering::SeqCst);
    let flag = &stage.board.free[4].words;
    flag[1].store(at as u64, Ordering::Relaxed);
    flag[2].store(size as u64, Ordering::Relaxed);
    let start_ns = now_ns();
    flag[0].store(*number, Ordering::Release); // pairs with Acquire in `partner`
    let mut patience = Patience::new();
    while stage.board.taken.words[0].load(Ordering::Acquire) < *number {
        if !patience.turn() {
            return Err("the receiver is silent".into());
        }
    }
    Ok(stage.board.taken.words[2].load(Ordering::Acquire).saturating_sub(start_ns) as f64)
}

/// The second side: waits for the flag, reads first and last byte, and stamps.
///
/// # Errors
/// A byte is not what was written, or the first side falls silent.
pub fn partner(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    place::pin(scene.plan.cpus[1])?;
    let described = &scene.stage.board.free[0].words[0];
    scene.stage.wait_for("the field", 1, described)?;
    let path = format!("/proc/{}/fd/{}", scene.owner, described.load(Ordering::Acquire) - 1);
    let field = Field::map(&File::options().read(true).write(true).open(path)?)?;
    for at in (0..BYTES).step_by(SMALL) {
        field.read(at);
    }
    scene.stage.ready_and_wait()?;
    let flag = &scene.stage.board.free[4].words;
    let mut taken = 0;
    while !scene.stage.stopped() {
        // Pairs with Release in `once`.
        if flag[0].load(Ordering::Acquire) == taken {
            continue;
        }
        let (at, size) = (flag[1].load(Ordering::Relaxed), flag[2].load(Ordering::Relaxed));
        let (at, size) = (usize::try_from(at)?, usize::try_from(size)?);
        let (first, last) = (field.read(at), field.read(at + size - 1));
        let now = now_ns();
        taken += 1;
        let expected = taken.to_le_bytes()[0];
        if (first, last) != (expected, expected) {
            return Err(format!("payload {taken} begins with {first} and ends with {last}").into());
        }
        scene.stage.board.taken.words[2].store(now, Ordering::Release);
        scene.stage.board.taken.words[0].store(taken, Ordering::Release); // pairs with Acquire in `once`
    }
    Ok(outcome())
}
