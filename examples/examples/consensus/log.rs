//! What a replica must not forget: one file, to which records are appended.
//!
//! A record is its length, a hash, and its changes as JSON; it is there as a whole or not at all, because a torn one at the
//! end is cut off when the file is opened. What is appended is on disk after `sync`, which the replica calls before
//! anything leaves that rests on it: so many changes cost one `fdatasync`. A real program would also cut the file short.
//!
//! Invariant: what `open` reads back is what was there at some `sync`, or later.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{Entry, NoSnapshot, StopSign, Storage, StorageOp, StorageResult};
use serde::{Deserialize, Serialize};

/// What the replicas agree on: one increment, by whom it was asked for and under which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Increment {
    pub(crate) client: u64,
    pub(crate) request: u64,
}

impl Entry for Increment {
    type Snapshot = NoSnapshot;
}

/// One change of what is stored.
#[derive(Debug, Serialize, Deserialize)]
enum Change {
    /// Everything from this place on is replaced.
    Entries(usize, Vec<Increment>),
    Promise(Ballot),
    Accepted(Ballot),
    Decided(usize),
}

#[derive(Debug)]
struct Pending {
    file: File,
    bytes: Vec<u8>,
}

/// Brings to disk what was appended. A second hand at the file, because the first is the consensus's.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Rc<RefCell<Pending>>);

impl Disk {
    /// Returns when all is on disk.
    ///
    /// # Errors
    /// What the file says: then nothing may leave this replica any more.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut pending = self.0.borrow_mut();
        if pending.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut pending.bytes);
        pending.file.write_all(&bytes)?;
        pending.file.sync_data()
    }
}

/// The storage of one replica.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Disk,
    entries: Vec<Increment>,
    promise: Option<Ballot>,
    accepted: Option<Ballot>,
    decided: usize,
}

const HEAD: usize = 12;

impl Log {
    /// Reads what is there, or begins anew.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(path: &Path) -> io::Result<Log> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let disk = Disk(Rc::new(RefCell::new(Pending { file, bytes: Vec::new() })));
        let mut log = Log { disk, entries: Vec::new(), promise: None, accepted: None, decided: 0 };
        let mut whole = 0;
        while let Some((changes, size)) = record(bytes.get(whole..).unwrap_or_default()) {
            changes.into_iter().for_each(|change| log.change(change));
            whole += size;
        }
        let pending = log.disk.0.borrow();
        pending.file.set_len(whole as u64)?;
        pending.file.sync_all()?;
        drop(pending);
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(log)
    }

    /// What brings it to disk.
    pub(crate) fn disk(&self) -> Disk {
        self.disk.clone()
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Entries(from, entries) => {
                self.entries.truncate(from);
                self.entries.extend(entries);
            }
            Change::Promise(ballot) => self.promise = Some(ballot),
            Change::Accepted(ballot) => self.accepted = Some(ballot),
            Change::Decided(decided) => self.decided = decided,
        }
    }

    fn append(&mut self, changes: Vec<Change>) -> StorageResult<()> {
        let body = serde_json::to_vec(&changes)?;
        {
            let mut pending = self.disk.0.borrow_mut();
            pending.bytes.extend_from_slice(&u32::try_from(body.len())?.to_le_bytes());
            pending.bytes.extend_from_slice(&hash(&body).to_le_bytes());
            pending.bytes.extend_from_slice(&body);
        }
        changes.into_iter().for_each(|change| self.change(change));
        Ok(())
    }
}

/// The record at the beginning of `bytes` and its size; `None` where none is whole.
fn record(bytes: &[u8]) -> Option<(Vec<Change>, usize)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    (hash(body) == u64::from_le_bytes(*sum)).then_some(())?;
    Some((serde_json::from_slice(body).ok()?, HEAD + body.len()))
}

/// FNV-1a: a torn write is found, an enemy is not expected in one's own file.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// This log is never cut short, and its cluster never changes.
fn unused<T>() -> StorageResult<T> {
    Err("neither snapshots nor other clusters are used here".into())
}

impl Storage<Increment> for Log {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Increment>>) -> StorageResult<()> {
        // Places are counted as if those before had been done.
        let mut len = self.entries.len();
        let mut changes = Vec::new();
        for op in ops {
            let (from, entries) = match op {
                StorageOp::AppendEntry(entry) => (len, vec![entry]),
                StorageOp::AppendEntries(entries) => (len, entries),
                StorageOp::AppendOnPrefix(from, entries) => (from, entries),
                StorageOp::SetPromise(ballot) => {
                    changes.push(Change::Promise(ballot));
                    continue;
                }
                StorageOp::SetDecidedIndex(decided) => {
                    changes.push(Change::Decided(decided));
                    continue;
                }
                StorageOp::SetAcceptedRound(ballot) => {
                    changes.push(Change::Accepted(ballot));
                    continue;
                }
                StorageOp::SetStopsign(None) | StorageOp::SetSnapshot(None) => continue,
                StorageOp::SetCompactedIdx(_)
                | StorageOp::Trim(_)
                | StorageOp::SetStopsign(Some(_))
                | StorageOp::SetSnapshot(Some(_)) => return unused(),
            };
            len = from + entries.len();
            changes.push(Change::Entries(from, entries));
        }
        self.append(changes)
    }

    fn append_entry(&mut self, entry: Increment) -> StorageResult<()> {
        self.append(vec![Change::Entries(self.entries.len(), vec![entry])])
    }

    fn append_entries(&mut self, entries: Vec<Increment>) -> StorageResult<()> {
        self.append(vec![Change::Entries(self.entries.len(), entries)])
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Increment>) -> StorageResult<()> {
        self.append(vec![Change::Entries(from, entries)])
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.append(vec![Change::Promise(ballot)])
    }

    fn set_decided_idx(&mut self, decided: usize) -> StorageResult<()> {
        self.append(vec![Change::Decided(decided)])
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.append(vec![Change::Accepted(ballot)])
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.accepted)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Increment>> {
        Ok(self.entries.get(from..to).unwrap_or_default().to_vec())
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        Ok(self.entries.len())
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Increment>> {
        Ok(self.entries.get(from..).unwrap_or_default().to_vec())
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.promise)
    }

    fn set_stopsign(&mut self, stopsign: Option<StopSign>) -> StorageResult<()> {
        if stopsign.is_some() { unused() } else { Ok(()) }
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(None)
    }

    fn trim(&mut self, _: usize) -> StorageResult<()> {
        unused()
    }

    fn set_compacted_idx(&mut self, _: usize) -> StorageResult<()> {
        unused()
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(0)
    }

    fn set_snapshot(&mut self, snapshot: Option<NoSnapshot>) -> StorageResult<()> {
        if snapshot.is_some() { unused() } else { Ok(()) }
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}
