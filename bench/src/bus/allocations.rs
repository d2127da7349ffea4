//! Allocations in the steady state: none on either side, for messages in the slot and in a chunk.
//!
//! Both processes count with the allocator of `count`. A ring grows when its subscriber falls behind, at whatever
//! moment the machine lets it fall behind: so the warm-up begins with as many chunks as the largest ring takes, before
//! the subscriber reads any. Then it goes round with both kinds.

use crate::Failure;
use crate::bus::count::{process_allocations, thread_allocations};
use crate::bus::{PATIENCE, join};
use crate::cell::{join as merge, outcome};
use crate::clock::Patience;
use crate::medium::Scene;
use crate::outcome::Outcome;
use crate::partners::Partners;
use busway::{Policy, Publisher, SendError, Subscriber};

/// Payloads: one that lies in its slot, one that takes a chunk.
const PAYLOADS: [(&str, usize); 2] = [("inline", 64), ("chunk", 1024)];

/// Messages before counting begins.
const WARM: u64 = 50_000;

/// The first side: sends both kinds.
///
/// # Errors
/// The bus fails.
pub fn conduct(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut publisher = bus.publisher("bench.allocations").max_wait(PATIENCE).open()?;
    let partners = Partners::start(scene, 1)?;
    scene.stage.wait_ready(1)?;
    publisher.wait_for_subscribers(1, PATIENCE)?;
    fill(&mut publisher)?;
    scene.stage.start();
    let mut own = outcome();
    for (name, size) in PAYLOADS {
        send(&mut publisher, size, WARM)?;
        let (thread, process) = (thread_allocations(), process_allocations());
        send(&mut publisher, size, scene.plan.messages)?;
        let (thread, process) = (thread_allocations() - thread, process_allocations() - process);
        own = own.with(&format!("sender_allocations_{name}"), thread as f64 / scene.plan.messages as f64);
        let before = own.values.get("sender_process_allocations").copied().unwrap_or(0.0);
        own = own.with("sender_process_allocations", before + process as f64);
    }
    Ok(merge(own, partners.finish()?))
}

/// Chunks until the ring, as large as it gets, has room for no other.
fn fill(publisher: &mut Publisher) -> Result<(), Failure> {
    loop {
        match publisher.try_send(&[7; 1024]) {
            Ok(_) => {}
            Err(SendError::Full(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn send(publisher: &mut Publisher, size: usize, count: u64) -> Result<(), Failure> {
    let payload = [7; 1024];
    for _ in 0..count {
        publisher.send(&payload[..size])?;
    }
    Ok(())
}

/// The second side: takes and releases both kinds.
///
/// # Errors
/// The bus fails.
pub fn partner(scene: &Scene<'_>) -> Result<Outcome, Failure> {
    let bus = join(scene)?;
    let mut subscriber = bus.subscriber("bench.allocations").policy(Policy::Block).open()?;
    scene.stage.ready_and_wait()?;
    // What filled the ring, up to the first of the warm-up.
    while subscriber.recv_timeout(PATIENCE)?.is_some_and(|sample| sample.len() != PAYLOADS[0].1) {}
    let mut taken = 1;
    let mut own = outcome();
    for (name, size) in PAYLOADS {
        take(&mut subscriber, size, WARM - std::mem::take(&mut taken))?;
        let (thread, process) = (thread_allocations(), process_allocations());
        take(&mut subscriber, size, scene.plan.messages)?;
        let (thread, process) = (thread_allocations() - thread, process_allocations() - process);
        own = own.with(&format!("receiver_allocations_{name}"), thread as f64 / scene.plan.messages as f64);
        let before = own.values.get("receiver_process_allocations").copied().unwrap_or(0.0);
        own = own.with("receiver_process_allocations", before + process as f64);
    }
    Ok(own)
}

fn take(subscriber: &mut Subscriber, size: usize, count: u64) -> Result<(), Failure> {
    let mut patience = Patience::new();
    let mut taken = 0;
    while taken < count {
        match subscriber.try_recv()? {
            Some(sample) if sample.len() == size => taken += 1,
            Some(sample) => return Err(format!("{} bytes where {size} were sent", sample.len()).into()),
            None if patience.turn() => {}
            None => return Err("nothing came for 20 s".into()),
        }
    }
    Ok(())
}
