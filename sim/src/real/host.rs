//! One host of the second floor: a domain, its bus, its node, its publishers and subscribers.
//!
//! Invariant: what users see of it is what the library shows them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use busway::{Bus, NodeBuilder, Policy, Publisher, SendError, Stepped, Subscriber, UnderWay};
use busway_io::{HostId, Network};
use busway_protocol::State;
use busway_wire::PortId;
use fastrand::Rng;

use super::{Known, Line, Plan, Reader, Source, WALL_NS};
use crate::message::Which;

/// A directory that is removed at the end.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Sender {
    publisher: Publisher,
    rng: Rng,
    left: u64,
    sent: u64,
    waiting: Option<usize>,
}

#[derive(Debug)]
struct Taker {
    subscriber: Subscriber,
    reliable: bool,
    lines: BTreeMap<usize, Line>,
}

/// What came of an attempt to publish.
#[derive(Debug)]
pub(super) enum Sent {
    Done,
    Message { gap_ns: u64, sequence: u64 },
    Full,
}

/// A message that a subscriber received.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) reader: usize,
    pub(super) source: usize,
    pub(super) sequence: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) stopped: u32,
    pub(super) idle: u32,
    /// By how much its wall clock is off.
    pub(super) wall_ns: i64,
    node: Option<Stepped>,
    senders: BTreeMap<usize, Sender>,
    takers: BTreeMap<usize, Taker>,
    bus: Bus,
    /// Something was done here: all of it is looked at, whatever its time.
    dirty: bool,
    /// Something has come for the node.
    stirred: bool,
    /// When the control plane has something to do though nothing comes.
    control_ns: u64,
    /// It does what it is asked so much later at most, by chance.
    late_ns: u64,
    rng: Rng,
    /// It was asked, and does it then.
    asked_ns: Option<u64>,
    _directory: Directory,
}

/// Address space of a host; what is used of it is little.
const ARENA_BYTES: u64 = 1 << 30;
/// The same on each machine, so that a world is.
const BUDGET_BYTES: u64 = 4 << 30;
/// More turns at one moment are a loop.
const TURNS_MAX: u32 = 10_000;
/// Nobody is waited for, and nobody is given up, in the machine's own time.
const FOR_EVER: Duration = Duration::from_secs(86_400);

impl Host {
    pub(super) fn new(index: usize, plan: &Plan) -> Result<Host, String> {
        let name = format!("busway-sim-{}-{:x}-{index}", std::process::id(), Rng::new().u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&path, private).map_err(|error| format!("{}: {error}", path.display()))?;
        let directory = Directory(path);
        let builder = Bus::builder().directory(&directory.0).domain("sim").arena_bytes(ARENA_BYTES);
        let bus = builder.budget(BUDGET_BYTES).unmonitored().in_steps().open().map_err(|e| e.to_string())?;
        Ok(Host {
            stopped: 0,
            idle: 0,
            wall_ns: WALL_NS,
            node: None,
            senders: BTreeMap::new(),
            takers: BTreeMap::new(),
            bus,
            dirty: true,
            stirred: false,
            control_ns: 0,
            late_ns: plan.late_ns,
            rng: Rng::with_seed(plan.seed ^ index as u64),
            asked_ns: None,
            _directory: directory,
        })
    }

    pub(super) fn start(
        &mut self,
        builder: NodeBuilder,
        network: &Network,
        id: HostId,
    ) -> Result<(), String> {
        self.node = Some(builder.open_stepped(&self.bus, network, id).map_err(|e| e.to_string())?);
        self.dirty = true;
        Ok(())
    }

    /// The node's process is gone; whether there was one.
    pub(super) fn kill(&mut self) -> bool {
        self.dirty = true;
        self.node.take().is_some()
    }

    pub(super) fn is_down(&self) -> bool {
        self.node.is_none()
    }

    pub(super) fn drain(&mut self) {
        self.dirty = true;
        if let Some(node) = &mut self.node {
            node.drain();
        }
    }

    pub(super) fn state(&self, other: usize) -> Option<State> {
        self.node.as_ref()?.state(u8::try_from(other).ok()?)
    }

    pub(super) fn under_way(&self, other: usize) -> UnderWay {
        let found = self.node.as_ref().zip(u8::try_from(other).ok());
        found.and_then(|(node, other)| node.under_way(other)).unwrap_or(UnderWay::Nothing)
    }

    /// Opens a publisher; returns its name.
    pub(super) fn publisher(&mut self, number: usize, source: &Source) -> Result<PortId, String> {
        let builder = self.bus.publisher_of(source.topic.clone()).slots_max(source.slots).max_wait(FOR_EVER);
        let publisher = builder.open().map_err(|e| e.to_string())?;
        let (rng, left, port) = (Rng::with_seed(source.seed), source.messages, publisher.id());
        self.senders.insert(number, Sender { publisher, rng, left, sent: 0, waiting: None });
        self.dirty = true;
        Ok(port)
    }

    pub(super) fn subscriber(&mut self, number: usize, reader: &Reader) -> Result<(), String> {
        let policy = if reader.reliable { Policy::Block } else { Policy::default() };
        let builder = self.bus.subscriber(&reader.pattern).policy(policy);
        let subscriber = builder.open().map_err(|e| e.to_string())?;
        let reliable = reader.reliable;
        self.takers.insert(number, Taker { subscriber, reliable, lines: BTreeMap::new() });
        self.dirty = true;
        Ok(())
    }

    /// Publishes the next message of a source, if there is room.
    pub(super) fn publish(&mut self, number: usize, source: &Source) -> Result<Sent, String> {
        let Some(sender) = self.senders.get_mut(&number).filter(|s| s.left > 0) else {
            return Ok(Sent::Done);
        };
        let rng = &mut sender.rng;
        let size = sender.waiting.take().unwrap_or_else(|| match rng.u32(0..20) {
            0 => rng.usize(0..=source.size_max),
            1..=4 => rng.usize(0..=source.size_max.min(3_000)),
            _ => rng.usize(0..=source.size_max.min(200)),
        });
        let which = Which { source: PortId(number as u64), sequence: sender.sent + 1, size };
        match sender.publisher.try_send(&which.payload()) {
            Ok(_) => {
                self.dirty = true;
                sender.sent += 1;
                sender.left -= 1;
                let rng = &mut sender.rng;
                let gap_ns = source.gap_ns;
                let gap_ns =
                    if rng.u8(0..8) > 0 { rng.u64(0..=gap_ns / 16) } else { rng.u64(0..=gap_ns * 15) };
                Ok(Sent::Message { gap_ns, sequence: sender.sent })
            }
            Err(SendError::Full(_)) => {
                sender.waiting = Some(size);
                Ok(Sent::Full)
            }
            Err(error) => Err(format!("source {number} cannot send: {error}")),
        }
    }

    /// Something has come for the node.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// It goes on, or reads again.
    pub(super) fn go_on(&mut self) {
        self.dirty = true;
    }

    /// When it has something to do though nothing comes.
    pub(super) fn due_ns(&self) -> u64 {
        if self.dirty || self.stirred {
            return 0;
        }
        let node = self.node.as_ref().filter(|_| self.stopped == 0);
        node.map_or(u64::MAX, Stepped::wake_ns).min(self.control_ns)
    }

    /// Lets it do all that it can at this moment. Whoever reads is told of by `told`.
    pub(super) fn run(
        &mut self,
        index: usize,
        now_ns: u64,
        known: &Known<'_>,
        told: &mut dyn FnMut(Told),
    ) -> Result<(), String> {
        for _ in 0..TURNS_MAX {
            let dirty = std::mem::take(&mut self.dirty);
            self.stirred = false;
            if dirty {
                self.look_at_control(now_ns);
            }
            let asked = now_ns >= self.control_ns;
            if asked {
                self.asked_ns = None;
                busway::step_control(&self.bus);
            }
            let mut any = dirty || asked;
            if let Some(node) = self.node.as_mut().filter(|_| self.stopped == 0) {
                if any {
                    node.nudge();
                }
                any |= node.step();
            }
            if !any {
                return Ok(());
            }
            while let Some(received) = self.receive(index, known)? {
                told(received);
            }
            self.look_at_control(now_ns);
        }
        Err(format!("host {index} does not come to rest"))
    }

    /// Looks when the control plane is to be stepped. What it was asked it does a little later, where that is planned.
    fn look_at_control(&mut self, now_ns: u64) {
        let due_ns = busway::control_due_ns(&self.bus);
        if due_ns > now_ns || self.late_ns == 0 {
            self.control_ns = due_ns;
            return;
        }
        let (rng, late_ns) = (&mut self.rng, self.late_ns);
        self.control_ns = *self.asked_ns.get_or_insert_with(|| now_ns + rng.u64(1..=late_ns));
    }

    /// What the node waits for, in words.
    pub(super) fn describe(&self) -> String {
        let node = self.node.as_ref().map_or_else(|| "down".to_owned(), Stepped::describe);
        format!("stopped {}, idle {}, dirty: {}; {node}", self.stopped, self.idle, self.dirty)
    }

    /// The next message of any subscriber.
    pub(super) fn receive(&mut self, index: usize, known: &Known<'_>) -> Result<Option<Told>, String> {
        if self.idle > 0 {
            return Ok(None);
        }
        for (&reader, taker) in &mut self.takers {
            let sample = taker.subscriber.try_recv().map_err(|e| e.to_string())?;
            for loss in taker.subscriber.losses() {
                let source = known.number(loss.source)?;
                taker.lines.entry(source).or_default().lose(loss.from, loss.to);
            }
            let Some(sample) = sample else { continue };
            let (source, sequence) = (known.number(sample.source())?, sample.sequence());
            let who = || format!("reader {reader} on host {index}, source {source}");
            let which = Which { source: PortId(source as u64), sequence, size: sample.payload().len() };
            if !which.is(sample.payload()) {
                return Err(format!("{}: message {sequence} is not what was sent", who()));
            }
            let line = taker.lines.entry(source).or_default();
            let forgotten = known.forgotten(source, line.last, index);
            line.take(sequence, taker.reliable, forgotten).map_err(|what| format!("{}: {what}", who()))?;
            return Ok(Some(Told { reader, source, sequence }));
        }
        Ok(None)
    }

    /// What a subscriber for which publishers wait has not received of what was sent, if anything.
    pub(super) fn missing(
        &self,
        index: usize,
        known: &Known<'_>,
        counts: &BTreeMap<usize, u64>,
    ) -> Option<String> {
        for (reader, taker) in self.takers.iter().filter(|(_, taker)| taker.reliable) {
            for (source, line) in &taker.lines {
                let count = counts.get(source).copied().unwrap_or(0);
                let near = known.forgotten(*source, line.last, index).near;
                if line.last != count && !near {
                    return Some(format!("reader {reader} has {} of {count} of source {source}", line.last));
                }
            }
            let matching = |source: &Source| taker.subscriber.pattern().matches(&source.topic);
            let early = known.plan.readers[*reader].since_ns == 0;
            let deaf = |number: &usize| early && matching(&known.plan.sources[*number]);
            let never = counts.keys().find(|number| deaf(number) && !taker.lines.contains_key(number));
            if let Some(source) = never {
                return Some(format!("reader {reader} has nothing of source {source}"));
            }
        }
        None
    }

    /// What was sent was received, is lost by a cause, or is still to be taken.
    pub(super) fn close_accounts(&self) -> Result<(), String> {
        for (number, sender) in &self.senders {
            let account = sender.publisher.account();
            if account.sent != sender.sent || !account.closed() {
                return Err(format!("the account of source {number} is not closed: {account:?}"));
            }
        }
        Ok(())
    }

    pub(super) fn sent(&self) -> u64 {
        self.senders.values().map(|sender| sender.sent).sum()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.takers.values().flat_map(|taker| taker.lines.values())
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.senders.iter().map(|(&number, sender)| (number, sender.sent))
    }

    /// A source that has messages to send.
    pub(super) fn unsent(&self) -> Option<usize> {
        self.senders.iter().find(|(_, sender)| sender.left > 0).map(|(&number, _)| number)
    }
}
