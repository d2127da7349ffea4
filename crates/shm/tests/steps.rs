//! What happens between any two instructions: processes are killed there, and words change there.
//!
//! A child process is walked through one send or one take by single steps (`child`). So that many walks together take
//! seconds, a child runs up to the last instruction of its walk that it meets for the first time, and takes single steps
//! from there. That needs a breakpoint, hence x86-64.
#![cfg(all(not(loom), target_arch = "x86_64"))]
#![expect(clippy::print_stdout, reason = "evidence lines are read by the test runner")]

#[path = "steps/change.rs"]
mod change;
#[path = "steps/child.rs"]
#[expect(unsafe_code, reason = "fork, ptrace and waitpid")]
mod child;
#[path = "steps/kill.rs"]
mod kill;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::Deadline;
use busway_shm::layout::ARENA_BYTES_MIN;
use busway_shm::ring::{Patience, RingWriter};
use busway_shm::seat::EntryKey;
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_wire::{Flags, HEADER_SIZE, Header, Kind, ProcessId};
use child::Child;

const MIB: u64 = 1 << 20;
const RING_SLOTS: u64 = 32;

fn arena(name: &str) -> Arc<OwnArena> {
    let options = ArenaOptions { name: name.into(), bytes_max: ARENA_BYTES_MIN, monitored: true };
    OwnArena::create(&options).expect("an arena can be made")
}

fn patient() -> Patience {
    Patience::Until(Deadline::after(Duration::from_secs(20)))
}

fn send(writer: &mut RingWriter, payload: &[u8], patience: Patience) {
    let sequence = writer.head() + 1;
    if payload.len() <= INLINE_BYTES {
        let meta = InlineMeta { time_ns: sequence, kind: Kind::Publish.number(), ..InlineMeta::default() };
        writer.send_inline(&meta, payload, patience).expect("room comes");
        return;
    }
    let size = HEADER_SIZE + payload.len();
    let mut loan = writer.loan(size as u64, patience).expect("memory is there");
    let mut header = Header::new(Kind::Publish);
    header.flags = Flags::UNSEALED.bits();
    header.size.set(size as u32);
    header.sequence.set(sequence);
    loan.bytes_mut()[..HEADER_SIZE].copy_from_slice(header.bytes());
    loan.bytes_mut()[HEADER_SIZE..size].copy_from_slice(payload);
    assert!(writer.send_loan(loan, patience).is_ok(), "room comes");
}

/// Numbers from one process to the other.
fn tell<const N: usize>(mut to: &UnixStream, words: [u64; N]) {
    for word in words {
        to.write_all(&word.to_le_bytes()).expect("the other side listens");
    }
}

fn hear<const N: usize>(mut from: &UnixStream) -> [u64; N] {
    std::array::from_fn(|_| {
        let mut word = [0; 8];
        from.read_exact(&mut word).expect("the other side speaks");
        u64::from_le_bytes(word)
    })
}

/// Tells what the other side needs to map our arena, and one entry of it.
fn introduce(to: &UnixStream, own: &OwnArena, entry: EntryKey) {
    let number = |fd: std::os::fd::BorrowedFd<'_>| u64::from(fd.as_raw_fd().unsigned_abs());
    let fds = [number(own.arena_fd()), number(own.bulk_fd())];
    tell(to, fds);
    tell(to, [own.process().0, entry.word()]);
}

/// The files of an arena of ours for a child made by fork, in which the arena's own descriptors are closed.
struct Files {
    arena: OwnedFd,
    bulk: OwnedFd,
    process: ProcessId,
}

impl Files {
    fn of(own: &OwnArena) -> Self {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().expect("a descriptor");
        Self { arena: copy(own.arena_fd()), bulk: copy(own.bulk_fd()), process: own.process() }
    }

    fn map(&self) -> Arc<PeerArena> {
        PeerArena::map(&self.arena, &self.bulk, self.process).expect("the parent's arena can be mapped")
    }
}

fn meet(from: &UnixStream, child: &Child) -> (Arc<PeerArena>, EntryKey) {
    let [arena, bulk] = hear(from).map(|number| child.descriptor(number as i32));
    let [process, entry] = hear(from);
    let peer = PeerArena::map(arena, bulk, ProcessId(process)).expect("an honest arena");
    (peer, EntryKey::from_word(entry))
}
