//! A node of a run with real input: it takes all files that the first one shares, compares each with what was shared, and keeps them over its own end.
//!
//! Large ones lie in the store of the node, which goes on where it was. Small ones lie in its memory; so this program writes each to a file, and when it is started again it
//! declines what it has a file of, as a program does that keeps what it is given.
//!
//! Invariant: what counts as here has been compared with what was shared, byte by byte.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busway::artifacts::{Advert, Artifact, Event, Interest, Subscriber};
use busway::{Bus, Node};
use serde_json::json;

use crate::clock::now_ns;
use crate::input::{WHOLE_BYTES_MAX, below, files};
use crate::node::{builder, end_with_parent, say, say_links};
use crate::{Failure, given};

/// Where each node keeps what it has: its store, the small files, and what it has given.
pub(crate) const STORE: &str = "store";
pub(crate) const OUT: &str = "out";
pub(crate) const GIVEN: &str = "given";
const TOPIC: &str = "real.input";
/// More than all that is shared, on disk and in memory.
const STORE_BYTES: u64 = 8 << 30;
const BODIES_BYTES: u64 = 2 << 30;
const LONG: Duration = Duration::from_secs(3_600);

/// What it has.
#[derive(Debug, Default)]
struct Kept {
    here: BTreeSet<PathBuf>,
    bytes: u64,
    wrong: u64,
}

/// See the head of this file.
#[derive(Debug)]
struct Keeper {
    source: PathBuf,
    out: PathBuf,
    count: usize,
    kept: Mutex<Kept>,
}

/// `DIRECTORY SOURCE COUNT INDEX ADDRESS [INDEX=ADDRESS]...`, until the standard input ends.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    end_with_parent()?;
    let [directory, source, count, at @ ..] = words else {
        return Err("keeper DIRECTORY SOURCE COUNT INDEX ADDRESS PEERS".into());
    };
    let (directory, source, count) = (Path::new(directory), PathBuf::from(source), count.parse()?);
    given::record(&directory.join(GIVEN))?;
    let out = directory.join(OUT);
    std::fs::create_dir_all(&out)?;
    let keeper = Arc::new(Keeper { source, out, count, kept: Mutex::default() });
    keeper.find()?;
    let bus = Bus::builder().directory(directory).domain("swarm").open()?;
    let node = builder(at)?.artifact_store(directory.join(STORE)).artifact_store_bytes(STORE_BYTES);
    let node = node.artifact_bodies_bytes(BODIES_BYTES).open(&bus)?;
    say("ready");
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "share" => {
                keeper.share(&bus)?;
                say("shared");
            }
            "take" => {
                let (judge, taker) = (keeper.clone(), keeper.clone());
                let subscriber = bus.artifacts(">")?.subscriber();
                let subscriber = subscriber.interest(move |advert| judge.judge(advert)).open()?;
                std::thread::spawn(move || taker.take(subscriber));
            }
            "state" => keeper.say_state(&bus, &node)?,
            "links" => say_links(&node),
            word => return Err(format!("no such word: {word}").into()),
        }
    }
    Ok(())
}

impl Keeper {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier life of this node has written.
    fn find(&self) -> Result<(), Failure> {
        for (path, _) in files(&self.out)? {
            let from = File::open(self.out.join(&path))?;
            self.came(&PathBuf::from(&path), from)?;
        }
        Ok(())
    }

    /// Offers each file of what is shared.
    fn share(&self, bus: &Bus) -> Result<(), Failure> {
        let artifacts = bus.artifacts(TOPIC)?;
        for (path, _) in files(&self.source)? {
            artifacts.offer_file(self.source.join(&path)).attribute(path.as_bytes()).keep().open()?;
        }
        Ok(())
    }

    fn judge(&self, advert: &Advert) -> Interest {
        let named = below(Path::new(""), advert.attribute());
        match named {
            Some(path) if self.kept().here.contains(&path) => Interest::Drop,
            Some(_) => Interest::Fetch,
            None => Interest::Drop,
        }
    }

    fn take(&self, mut subscriber: Subscriber) {
        loop {
            match subscriber.recv_timeout(LONG) {
                Ok(Some(Event::Received(artifact))) => {
                    if let Err(error) = self.keep(&artifact) {
                        eprintln!("busway-swarm: {error}");
                        self.kept().wrong += 1;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, artifact: &Artifact) -> Result<(), Failure> {
        let attribute = artifact.advert().attribute();
        let path = below(Path::new(""), attribute).ok_or("a path that leads elsewhere")?;
        if artifact.size() > WHOLE_BYTES_MAX {
            return self.came(&path, artifact.reader());
        }
        let (body, to) = (artifact.bytes()?, self.out.join(&path));
        std::fs::create_dir_all(to.parent().unwrap_or(&self.out))?;
        // Beside `out`, so that what is there is whole.
        let beside = self.out.with_extension("new");
        std::fs::write(&beside, &body)?;
        std::fs::rename(&beside, &to)?;
        self.came(&path, &body[..])
    }

    /// A file has come: it is what was shared, or that is counted.
    fn came(&self, path: &Path, from: impl Read) -> Result<(), Failure> {
        let size = same(from, File::open(self.source.join(path))?)?;
        let mut kept = self.kept();
        let Some(size) = size else {
            kept.wrong += 1;
            return Ok(());
        };
        if kept.here.insert(path.to_owned()) {
            kept.bytes += size;
            if kept.here.len() == self.count {
                say(&format!("complete {}", now_ns()));
            }
        }
        Ok(())
    }

    fn say_state(&self, bus: &Bus, node: &Node) -> Result<(), Failure> {
        let counts = bus.artifacts(">")?.counts();
        let out: u64 = node.peers().iter().map(|peer| peer.bytes_out).sum();
        let kept = self.kept();
        let told = json!({
            "files": kept.here.len(),
            "bytes": kept.bytes,
            "wrong": kept.wrong,
            "checked_bytes": counts.bytes_useful,
            "given": counts.bytes_given,
            "wasted": counts.bytes_wasted,
            "damaged": counts.damaged,
            "full": counts.full,
            "sockets_out": out,
        });
        drop(kept);
        say(&format!("state {told}"));
        Ok(())
    }
}

/// How many bytes both give, if they give the same.
fn same(mut one: impl Read, mut other: impl Read) -> Result<Option<u64>, Failure> {
    let (mut first, mut second) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut size = 0;
    loop {
        let (count, of) = (fill(&mut one, &mut first)?, fill(&mut other, &mut second)?);
        if first[..count] != second[..of] {
            return Ok(None);
        }
        size += count as u64;
        if count < first.len() {
            return Ok(Some(size));
        }
    }
}

fn fill(from: &mut impl Read, buf: &mut [u8]) -> Result<usize, Failure> {
    let mut count = 0;
    while count < buf.len() {
        match from.read(&mut buf[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
