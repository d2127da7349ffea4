//! One fixed control message of each kind, for golden bytes and for the names of the fields.

use busway_wire::{
    Acknowledge, Control, ControlKind, Generation, Group, Pattern, Policy, PortId, ProcessId, RingIndex,
    RowIndex, SeatIndex, Topic,
};

/// The fixed message of a kind. A random one of a fixed seed would move with the generator.
pub(crate) fn control(kind: ControlKind) -> Control {
    let process = ProcessId(0x0102_0304_0506_0708);
    let port = PortId(0x1112_1314_1516_1718);
    let topic = Topic::new("price.tick").unwrap();
    let (ring, generation) = (RingIndex(3), Generation(300));
    let (publisher, subscriber) = (ProcessId(5), ProcessId(600));
    let (row, row_generation) = (RowIndex(7), Generation(8));
    let (pid, created_ns, name) = (4_242, 1_000_000_007, "probe".to_owned());
    match kind {
        ControlKind::Hello => {
            Control::Hello { layout_hash: 0xfeed_f00d_dead_beef, process, pid, name, monitored: true }
        }
        ControlKind::Welcome => Control::Welcome { process, pid, name, budget_bytes: 4 << 30 },
        ControlKind::Refused => Control::Refused { code: 205, reason: "another uid".to_owned() },
        ControlKind::Publish => Control::Publish { port, topic, ring, generation, created_ns, relay: true },
        ControlKind::Unpublish => Control::Unpublish { port },
        ControlKind::Published => Control::Published { port, matched: vec![process, subscriber, subscriber] },
        ControlKind::Subscribe => Control::Subscribe {
            port,
            pattern: Pattern::parse("price.>").unwrap(),
            policy: Policy::DropNewest { depth: 200 },
            created_ns,
            export: true,
        },
        ControlKind::Unsubscribe => Control::Unsubscribe { port },
        ControlKind::Subscribed => Control::Subscribed { port, publishers: 12 },
        ControlKind::RingAdded => Control::RingAdded {
            subscription: PortId(9),
            process,
            port,
            topic,
            ring,
            generation,
            created_ns,
            ring_is_older: true,
        },
        ControlKind::Attach => {
            let (subscription, policy) = (port, Policy::Block);
            Control::Attach {
                publisher,
                ring,
                generation,
                subscriber,
                subscription,
                row,
                row_generation,
                policy,
            }
        }
        ControlKind::Attached => {
            let seat = SeatIndex(10);
            Control::Attached { publisher, ring, generation, subscriber, row, row_generation, seat }
        }
        ControlKind::AttachRefused => {
            let reason = "no gating".to_owned();
            Control::AttachRefused { publisher, ring, generation, subscriber, row, row_generation, reason }
        }
        ControlKind::Gone => Control::Gone { process },
        ControlKind::Inspect => Control::Inspect {},
        ControlKind::Member => Control::Member { process, pid, name },
        ControlKind::InspectEnd => Control::InspectEnd {},
        ControlKind::HandOver => Control::HandOver {},
        ControlKind::Moving => Control::Moving { to: process },
        ControlKind::Goodbye => Control::Goodbye {},
        other => of_groups(other).unwrap_or_else(|| of_subscriptions(other, process, port)),
    }
}

/// What groups say.
fn of_groups(kind: ControlKind) -> Option<Control> {
    let port = PortId(0x1112_1314_1516_1718);
    let (ring, generation) = (RingIndex(3), Generation(300));
    let (publisher, subscriber) = (ProcessId(5), ProcessId(600));
    let (row, row_generation) = (RowIndex(7), Generation(8));
    let (topic, created_ns) = (Topic::new("price.tick").unwrap(), 1_000_000_007);
    let acknowledge = Acknowledge { within_ms: 30_000, attempts: 5 };
    let group = Group::new(Topic::new("resizers").unwrap(), Some(acknowledge)).unwrap();
    Some(match kind {
        ControlKind::Push => {
            let only = Some(Topic::new("resizers").unwrap());
            Control::Push { port, topic, ring, generation, created_ns, only }
        }
        ControlKind::Pull => {
            let pattern = Pattern::parse("price.>").unwrap();
            Control::Pull { port, pattern, group, created_ns, export: true }
        }
        ControlKind::Join => Control::Join {
            publisher,
            ring,
            generation,
            subscriber,
            subscription: port,
            row,
            row_generation,
            group,
        },
        ControlKind::Pulled => {
            let pattern = Pattern::parse("price.>").unwrap();
            Control::Pulled { process: subscriber, port, pattern, group }
        }
        ControlKind::Joined => {
            let (seat, offset, slots, owner) = (SeatIndex(10), 4096, 1024, 3);
            Control::Joined {
                publisher,
                ring,
                generation,
                subscriber,
                row,
                row_generation,
                seat,
                offset,
                slots,
                owner,
            }
        }
        _ => return None,
    })
}

/// What tells of subscriptions.
fn of_subscriptions(kind: ControlKind, process: ProcessId, port: PortId) -> Control {
    let (pattern, policy) = (Pattern::parse("price.>").unwrap(), Policy::Block);
    match kind {
        ControlKind::Unmatched => Control::Unmatched { process, port, pattern, policy },
        ControlKind::Watch => Control::Watch {},
        ControlKind::Wanted => Control::Wanted { process, port, pattern, policy },
        ControlKind::Unwanted => Control::Unwanted { process, port },
        _ => Control::WatchEnd {},
    }
}
