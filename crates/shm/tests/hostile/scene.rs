//! What honest sides have and do: arenas, rings, messages that can be told from any other, and calls that are timed.

use std::sync::Arc;
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena, PeerArena};
use busway_shm::clock::{Deadline, monotonic_ns};
use busway_shm::hold::HoldBudget;
use busway_shm::layout::ARENA_BYTES_MIN;
use busway_shm::ring::{Patience, Refusal, RingOptions, RingWriter, Sent};
use busway_shm::row::{Message, RowOptions, RowReader, RowShared};
use busway_shm::seat::{EntryKey, RingShared};
use busway_shm::slot::{INLINE_BYTES, InlineMeta};
use busway_wire::limits::{HOLD_BYTES_MAX, HOLDS_MAX};
use busway_wire::{Flags, HEADER_SIZE, Header, Kind, Policy, PortId, Topic};

pub(crate) const MIB: u64 = 1 << 20;
/// Longer than any single call here takes on a loaded machine, and far shorter than for ever.
pub(crate) const CALL_NS_MAX: u64 = 10_000_000_000;
pub(crate) const POLICIES: [Policy; 6] = [
    Policy::DropOldest { depth: Policy::DEPTH_RING },
    Policy::KeepLatest,
    Policy::DropNewest { depth: 4 },
    Policy::Block,
    Policy::Fail,
    Policy::Evict,
];

pub(crate) fn rounds() -> u64 {
    std::env::var("BUSWAY_HOSTILE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20_000)
}

pub(crate) fn arena(name: &str) -> (Arc<OwnArena>, Arc<PeerArena>) {
    let options = ArenaOptions { name: name.into(), bytes_max: 2 * ARENA_BYTES_MIN, monitored: true };
    let own = OwnArena::create(&options).expect("an arena can be made");
    let peer = PeerArena::of_own(&own).expect("a fresh arena can be mapped");
    (own, peer)
}

pub(crate) fn options() -> RingOptions {
    RingOptions { slots_max: 64, bytes_max: MIB, history: 0, max_wait_ns: 50_000, gating: true, relay: false }
}

pub(crate) fn ring(own: &Arc<OwnArena>, options: RingOptions) -> (RingWriter, Arc<RingShared>) {
    let topic = Topic::new("price.tick").expect("a name");
    RingWriter::create(own, &topic, PortId(7), options).expect("a ring")
}

pub(crate) fn send(writer: &mut RingWriter, payload: &[u8], patience: Patience) -> Result<Sent, Refusal> {
    if payload.len() <= INLINE_BYTES {
        let meta = InlineMeta { kind: Kind::Publish.number(), ..InlineMeta::default() };
        return writer.send_inline(&meta, payload, patience);
    }
    let size = HEADER_SIZE + payload.len();
    let mut loan = writer.loan(size as u64, Patience::None)?;
    let mut header = Header::new(Kind::Publish);
    header.flags = Flags::UNSEALED.bits();
    header.size.set(size as u32);
    header.sequence.set(writer.head() + 1);
    loan.bytes_mut()[..HEADER_SIZE].copy_from_slice(header.bytes());
    loan.bytes_mut()[HEADER_SIZE..size].copy_from_slice(payload);
    writer.send_loan(loan, patience).map_err(|(refusal, loan)| {
        writer.put_back(loan);
        refusal
    })
}

pub(crate) fn patient() -> Patience {
    Patience::Until(Deadline::after(Duration::from_secs(30)))
}

/// What message `sequence` carries: small ones, and some that take chunks of three sizes.
pub(crate) fn payload(sequence: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(sequence);
    let size = [8, 96, 97, 1500, 8000][rng.usize(0..5)];
    let mut bytes = vec![(sequence % 251) as u8; size];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

pub(crate) fn bytes(message: &Message) -> &[u8] {
    message.body.payload()
}

/// A subscriber that keeps to the rules.
pub(crate) struct Honest {
    pub(crate) own: Arc<OwnArena>,
    pub(crate) peer: Arc<PeerArena>,
    pub(crate) budget: Arc<HoldBudget>,
}

impl Honest {
    pub(crate) fn new() -> Self {
        let (own, peer) = arena("honest");
        Self { own, peer, budget: Arc::new(HoldBudget::new(u64::from(HOLDS_MAX), HOLD_BYTES_MAX)) }
    }

    pub(crate) fn row(
        &self,
        publisher: &Arc<PeerArena>,
        ring: EntryKey,
        policy: Policy,
        history: u64,
    ) -> Option<Arc<RowShared>> {
        let options =
            RowOptions { port: PortId(9), policy, history, holds: 15, created_ns: monotonic_ns(), place: 0 };
        RowShared::create(&self.own, publisher, ring, &options, &self.budget).ok()
    }

    pub(crate) fn subscribe(
        &self,
        publisher: &Arc<PeerArena>,
        ring: &RingShared,
        policy: Policy,
    ) -> RowReader {
        let row = self.row(publisher, ring.key(), policy, 0).expect("a row");
        row.attached(Ok(ring.attach(&self.peer, row.key(), policy).expect("a seat")));
        RowReader::new(row, policy, false)
    }
}

/// Runs `call`, and fails if it took so long that it must have hung for a while.
pub(crate) fn timed<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let start = monotonic_ns();
    let result = call();
    let took = monotonic_ns() - start;
    assert!(took < CALL_NS_MAX, "{what} took {took} ns");
    result
}
