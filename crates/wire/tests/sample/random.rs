//! Random control messages from a seed: within all bounds, small numbers and large ones alike.

use busway_wire::{
    Acknowledge, Control, ControlKind, Generation, Group, Pattern, Policy, PortId, ProcessId, RingIndex,
    RowIndex, SeatIndex, Topic,
};

/// A random message of this kind.
pub(crate) fn control(kind: ControlKind, rng: &mut fastrand::Rng) -> Control {
    let process = ProcessId(number(rng));
    let port = PortId(number(rng));
    let ring = RingIndex(small(rng));
    let generation = Generation(small(rng));
    let (publisher, subscriber) = (ProcessId(number(rng)), ProcessId(number(rng)));
    let (row, row_generation) = (RowIndex(small(rng)), Generation(small(rng)));
    let (pid, created_ns) = (small(rng), number(rng));
    match kind {
        ControlKind::Hello => Control::Hello {
            layout_hash: number(rng),
            process,
            pid,
            name: text(rng, 64),
            monitored: rng.bool(),
        },
        ControlKind::Welcome => {
            Control::Welcome { process, pid, name: text(rng, 64), budget_bytes: number(rng) }
        }
        ControlKind::Refused => Control::Refused { code: rng.u16(..), reason: text(rng, 1_024) },
        ControlKind::Publish => {
            let relay = rng.bool();
            Control::Publish { port, topic: topic(rng), ring, generation, created_ns, relay }
        }
        ControlKind::Unpublish => Control::Unpublish { port },
        ControlKind::Published => {
            let matched = (0..rng.usize(0..40)).map(|_| ProcessId(number(rng))).collect();
            Control::Published { port, matched }
        }
        ControlKind::Unsubscribe => Control::Unsubscribe { port },
        ControlKind::Subscribed => Control::Subscribed { port, publishers: small(rng) },
        ControlKind::RingAdded => Control::RingAdded {
            subscription: PortId(number(rng)),
            process,
            port,
            topic: topic(rng),
            ring,
            generation,
            created_ns,
            ring_is_older: rng.bool(),
        },
        ControlKind::Attach => {
            let (subscription, policy) = (port, policy(rng));
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
            let seat = SeatIndex(small(rng));
            Control::Attached { publisher, ring, generation, subscriber, row, row_generation, seat }
        }
        ControlKind::AttachRefused => {
            let reason = text(rng, 200);
            Control::AttachRefused { publisher, ring, generation, subscriber, row, row_generation, reason }
        }
        ControlKind::Gone => Control::Gone { process },
        ControlKind::Inspect => Control::Inspect {},
        ControlKind::Member => Control::Member { process, pid, name: text(rng, 64) },
        ControlKind::InspectEnd => Control::InspectEnd {},
        ControlKind::HandOver => Control::HandOver {},
        ControlKind::Moving => Control::Moving { to: process },
        ControlKind::Goodbye => Control::Goodbye {},
        other => of_groups(other, rng).unwrap_or_else(|| of_subscriptions(other, process, port, rng)),
    }
}

/// What groups say.
fn of_groups(kind: ControlKind, rng: &mut fastrand::Rng) -> Option<Control> {
    let (port, ring, generation) = (PortId(number(rng)), RingIndex(small(rng)), Generation(small(rng)));
    let (publisher, subscriber) = (ProcessId(number(rng)), ProcessId(number(rng)));
    let (row, row_generation) = (RowIndex(small(rng)), Generation(small(rng)));
    let created_ns = number(rng);
    Some(match kind {
        ControlKind::Push => {
            let only = rng.bool().then(|| topic(rng));
            Control::Push { port, topic: topic(rng), ring, generation, created_ns, only }
        }
        ControlKind::Join => {
            let (subscription, group) = (port, group(rng));
            Control::Join {
                publisher,
                ring,
                generation,
                subscriber,
                subscription,
                row,
                row_generation,
                group,
            }
        }
        ControlKind::Joined => Control::Joined {
            publisher,
            ring,
            generation,
            subscriber,
            row,
            row_generation,
            seat: SeatIndex(small(rng)),
            offset: number(rng),
            slots: small(rng),
            owner: rng.u16(..) >> rng.u32(0..16),
        },
        ControlKind::Pull => {
            let (pattern, group) = (pattern(rng), group(rng));
            Control::Pull { port, pattern, group, created_ns, export: rng.bool() }
        }
        ControlKind::Pulled => {
            Control::Pulled { process: subscriber, port, pattern: pattern(rng), group: group(rng) }
        }
        _ => return None,
    })
}

/// What tells of subscriptions.
fn of_subscriptions(kind: ControlKind, process: ProcessId, port: PortId, rng: &mut fastrand::Rng) -> Control {
    match kind {
        ControlKind::Subscribe => Control::Subscribe {
            port,
            pattern: pattern(rng),
            policy: policy(rng),
            created_ns: number(rng),
            export: rng.bool(),
        },
        ControlKind::Unmatched => {
            Control::Unmatched { process, port, pattern: pattern(rng), policy: policy(rng) }
        }
        ControlKind::Watch => Control::Watch {},
        ControlKind::Wanted => Control::Wanted { process, port, pattern: pattern(rng), policy: policy(rng) },
        ControlKind::Unwanted => Control::Unwanted { process, port },
        _ => Control::WatchEnd {},
    }
}

fn number(rng: &mut fastrand::Rng) -> u64 {
    rng.u64(..) >> rng.u32(0..64)
}

fn small(rng: &mut fastrand::Rng) -> u32 {
    rng.u32(..) >> rng.u32(0..32)
}

fn text(rng: &mut fastrand::Rng, size_max: usize) -> String {
    let mut text = String::from("p");
    let size = rng.usize(1..=size_max);
    while text.len() < size {
        let character = *rng.choice(&['a', 'Z', ' ', '-', 'é', '行', '🚌', '%']).unwrap();
        if text.len() + character.len_utf8() > size_max {
            break;
        }
        text.push(character);
    }
    text
}

fn token(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(1..8)).map(|_| *rng.choice(&['a', 'b', 'é', '行', '$', '%', '*', '^']).unwrap()).collect()
}

fn topic(rng: &mut fastrand::Rng) -> Topic {
    let tokens: Vec<String> = (0..rng.usize(1..6)).map(|_| format!("t{}", token(rng))).collect();
    if rng.u8(..) < 16 {
        return Topic::reserved(&format!("${}", tokens.join("."))).unwrap();
    }
    Topic::new(&tokens.join(".")).unwrap()
}

fn pattern(rng: &mut fastrand::Rng) -> Pattern {
    let topic = topic(rng);
    let text = match rng.u8(0..4) {
        0 => topic.as_str().to_owned(),
        1 => format!("*.{topic}"),
        2 => format!("{topic}.>"),
        _ => format!("^{topic}"),
    };
    Pattern::parse(&text).unwrap()
}

fn group(rng: &mut fastrand::Rng) -> Group {
    let how = Acknowledge { within_ms: rng.u32(1..=86_400_000), attempts: rng.u8(1..=62) };
    Group::new(topic(rng), rng.bool().then_some(how)).unwrap()
}

fn policy(rng: &mut fastrand::Rng) -> Policy {
    match rng.u8(0..7) {
        0 => Policy::DropOldest { depth: rng.u32(1..=1 << 20) },
        1 => Policy::default(),
        2 => Policy::KeepLatest,
        3 => Policy::DropNewest { depth: rng.u32(1..=256) },
        4 => Policy::Block,
        5 => Policy::Fail,
        _ => Policy::Evict,
    }
}
